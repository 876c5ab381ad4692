#include "filter/ipset.c"

#include "util/rng.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

enum { WORLD = 256, ROUNDS = 400, STEPS = 30 };

static struct tn_prefix prefix(const char *text)
{
    struct tn_prefix p;
    assert_int_equal(tn_prefix_parse(text, &p), 0);
    return p;
}
static struct tn_ip ip(const char *text)
{
    struct tn_ip a;
    assert_int_equal(tn_ip_parse(text, &a), 0);
    return a;
}

/* Places 0..255 at the very start and the very end of either address space, where sums overflow. */
static struct tn_ip place(uint8_t family, bool end, unsigned n)
{
    struct tn_ip a = {.family = family};
    size_t len = tn_ip_len(&a);
    for (size_t i = 0; i < len && end; i++) a.b[i] = 0xff;
    a.b[len - 1] = (uint8_t)n;
    return a;
}

static void random_sets_agree_with_a_bitmap(void **state)
{
    (void)state;
    uint64_t seed = 1;
    struct tn_rng rng = tn_rng_seeded(&seed);
    for (int round = 0; round < ROUNDS; round++) {
        bool model[WORLD] = {0}, end = tn_rng_u32(&rng) & 1;
        uint8_t family = tn_rng_u32(&rng) & 1 ? 4 : 6;
        struct tn_ipset s = {0};
        for (int i = 0; i < STEPS; i++) {
            unsigned host = (unsigned)tn_rng_below(&rng, 9), at = (unsigned)tn_rng_below(&rng, WORLD);
            struct tn_prefix p = {.ip = place(family, end, at)};
            p.bits = (uint8_t)(tn_ip_bits(&p.ip) - host);
            unsigned lo = at & ~((1u << host) - 1), hi = lo + (1u << host) - 1;
            bool add = tn_rng_below(&rng, 3) > 0;
            assert_int_equal(add ? tn_ipset_add_prefix(&s, &p) : tn_ipset_remove_prefix(&s, &p), 0);
            for (unsigned n = lo; n <= hi; n++) model[n] = add;
        }
        tn_ipset_finish(&s);
        for (unsigned n = 0; n < WORLD; n++) {
            struct tn_ip a = place(family, end, n), other = place(family == 4 ? 6 : 4, end, n);
            if (tn_ipset_has(&s, &a) != model[n]) fail_msg("round %d place %u", round, n);
            assert_false(tn_ipset_has(&s, &other));
        }
        tn_ipset_fini(&s);
    }
}

static void whole_spaces(void **state)
{
    (void)state;
    struct tn_ipset s = {0};
    struct tn_prefix all4 = prefix("0.0.0.0/0"), all6 = prefix("::/0"), cut = prefix("ff00::/8"),
                     cut4 = prefix("10.0.0.0/8");
    struct tn_ip first = ip("::"), last = ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), mid = ip("2001:db8::1"),
                 before = ip("feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), a4 = ip("255.255.255.255"),
                 b4 = ip("10.255.255.255"), none = {0};
    assert_int_equal(tn_ipset_add_prefix(&s, &all4), 0);
    assert_int_equal(tn_ipset_add_prefix(&s, &all6), 0);
    assert_int_equal(tn_ipset_add_prefix(&s, &all6), 0);
    tn_ipset_finish(&s);
    assert_int_equal(s.v6.n, 1);
    assert_true(tn_ipset_has(&s, &first) && tn_ipset_has(&s, &last) && tn_ipset_has(&s, &a4));
    assert_int_equal(tn_ipset_remove_prefix(&s, &cut), 0);
    assert_int_equal(tn_ipset_remove_prefix(&s, &cut4), 0);
    assert_true(tn_ipset_has(&s, &first) && tn_ipset_has(&s, &mid) && tn_ipset_has(&s, &before));
    assert_false(tn_ipset_has(&s, &last) || tn_ipset_has(&s, &b4) || tn_ipset_has(&s, &none));
    assert_int_equal(tn_ipset_remove_prefix(&s, &all6), 0);
    assert_int_equal(s.v6.n, 0);
    assert_false(tn_ipset_has(&s, &mid));
    tn_ipset_fini(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_sets_agree_with_a_bitmap),
        cmocka_unit_test(whole_spaces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
