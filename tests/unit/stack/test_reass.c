/* Ranges out of order, against a naive map of bytes; the order of SACK reports. */
#include "stack/reass.c"

#include "util/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

enum { SPACE = 600 };

static void check(const struct tn_reass *r, const bool *have, uint32_t base)
{
    unsigned i = 0;
    for (uint32_t at = 0; at < SPACE;) {
        if (!have[at]) {
            at++;
            continue;
        }
        uint32_t end = at;
        while (end < SPACE && have[end]) end++;
        assert_true(i < r->count);
        assert_int_equal(r->range[i].start, base + at);
        assert_int_equal(r->range[i].end, base + end);
        i++;
        at = end;
    }
    assert_int_equal(i, r->count);
}

static void check_blocks(const struct tn_reass *r, uint32_t newest)
{
    struct tn_tcp_sack b[4];
    unsigned n = tn_reass_blocks(r, b, 4);
    assert_int_equal(n, r->count < 4 ? r->count : 4);
    for (unsigned i = 0; i < n; i++) {
        bool found = false;
        for (unsigned k = 0; k < r->count; k++)
            found |= r->range[k].start == b[i].start && r->range[k].end == b[i].end;
        assert_true(found);
        for (unsigned k = 0; k < i; k++) assert_true(b[k].start != b[i].start);
    }
    if (n) assert_true(seq_le(b[0].start, newest) && seq_gt(b[0].end, newest));
}

static void like_a_map(void **state)
{
    uint64_t seed = 3;
    struct tn_rng rng = tn_rng_seeded(&seed);
    for (int round = 0; round < 300; round++) {
        uint32_t base = round % 2 ? 0xffffff00u : 5000; /* over the wrap as well */
        bool have[SPACE] = {false};
        struct tn_reass *r = tn_reass_new();
        for (int step = 0; step < 60; step++) {
            uint32_t at = 1 + (uint32_t)tn_rng_below(&rng, SPACE - 41), n = 1 + (uint32_t)tn_rng_below(&rng, 40);
            struct tn_tcp_sack dup;
            uint32_t first = at;
            while (first < at + n && !have[first]) first++;
            uint32_t last = first;
            while (last < at + n && have[last]) last++;
            assert_int_equal(tn_reass_add(r, base + at, base + at + n, &dup), 0);
            if (first == at + n) assert_int_equal(dup.start, dup.end);
            else assert_true(dup.start == base + first && dup.end == base + last);
            memset(have + at, 1, n);
            check(r, have, base);
            check_blocks(r, base + at);
        }
        uint32_t nxt = base + (uint32_t)tn_rng_below(&rng, SPACE), expected = nxt;
        for (uint32_t i = 0; i < nxt - base; i++) have[i] = false;
        while (expected - base < SPACE && have[expected - base]) have[expected++ - base] = false;
        /* a range that began before nxt and goes beyond is used up to its end */
        assert_int_equal(tn_reass_advance(r, nxt), expected);
        check(r, have, base);
        tn_reass_free(r);
    }
}

static void limit(void **state)
{
    struct tn_reass *r = tn_reass_new();
    struct tn_tcp_sack dup;
    for (uint32_t i = 0; i < TN_REASS_MAX; i++) assert_int_equal(tn_reass_add(r, 10 * i + 5, 10 * i + 6, &dup), 0);
    assert_int_equal(tn_reass_add(r, 1, 2, &dup), TN_E_LIMIT);
    assert_int_equal(tn_reass_add(r, 6, 7, &dup), 0); /* extends one */
    assert_int_equal(tn_reass_add(r, 0, 20000000, &dup), 0);
    assert_int_equal(r->count, 1);
    tn_reass_free(r);
}

static void nothing_held(void **state)
{
    assert_int_equal(tn_reass_advance(NULL, 7), 7);
    assert_int_equal(tn_reass_end(NULL, 7), 7);
    assert_int_equal(tn_reass_blocks(NULL, NULL, 3), 0);
    tn_reass_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(like_a_map), cmocka_unit_test(limit),
                                       cmocka_unit_test(nothing_held)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
