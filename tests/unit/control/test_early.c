#include "control/early.c"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

struct sink {
    uint8_t bytes[256];
    size_t len;
    int fail;
};

static int take(void *arg, const uint8_t *bytes, size_t len)
{
    struct sink *s = arg;
    assert_true(len > 0 && s->len + len <= sizeof s->bytes);
    memcpy(s->bytes + s->len, bytes, len);
    s->len += len;
    return s->fail;
}

static size_t make(uint8_t *out, bool early, const char *json, const char *rest)
{
    size_t n = 0;
    if (early) {
        tn_early_header(out, (uint32_t)strlen(json));
        n = TN_EARLY_HEADER;
        memcpy(out + n, json, strlen(json));
        n += strlen(json);
    }
    memcpy(out + n, rest, strlen(rest));
    return n + strlen(rest);
}

/* Every pair of cuts: three pieces. */
static void check(bool early, const char *json, const char *rest)
{
    uint8_t all[256];
    size_t len = make(all, early, json, rest);
    for (size_t a = 0; a <= len; a++)
        for (size_t b = a; b <= len; b++) {
            struct tn_early e = {0};
            struct sink got = {0};
            assert_int_equal(tn_early_input(&e, all, a, take, &got), 0);
            assert_int_equal(tn_early_input(&e, all + a, b - a, take, &got), 0);
            assert_int_equal(tn_early_input(&e, all + b, len - b, take, &got), 0);
            assert_int_equal(got.len, strlen(rest));
            assert_memory_equal(got.bytes, rest, strlen(rest));
        }
}

static void test_skipped_wherever_it_is_cut(void **state)
{
    check(true, "{\"nodeKeyChallenge\":\"chalpub:00\"}", "http2 begins here");
    check(true, "", "http2 begins here");
}

static void test_absent(void **state) { check(false, NULL, "123456789 is no magic"); }

static void test_almost_the_magic(void **state) { check(false, NULL, "\xff\xff\xffTX then http2"); }

static void test_caps(void **state)
{
    struct tn_early e = {0};
    struct sink got = {0};
    uint8_t head[TN_EARLY_HEADER];
    tn_early_header(head, TN_EARLY_MAX + 1);
    assert_int_equal(tn_early_input(&e, head, sizeof head, take, &got), TN_E_TOOBIG);
    e = (struct tn_early){0};
    tn_early_header(head, TN_EARLY_MAX);
    assert_int_equal(tn_early_input(&e, head, sizeof head, take, &got), 0);
    assert_int_equal(e.skip, TN_EARLY_MAX);
}

static void test_reader_stops(void **state)
{
    struct tn_early e = {0};
    struct sink got = {.fail = -7};
    assert_int_equal(tn_early_input(&e, (const uint8_t *)"0123456789", 10, take, &got), -7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_skipped_wherever_it_is_cut),
        cmocka_unit_test(test_absent),
        cmocka_unit_test(test_almost_the_magic),
        cmocka_unit_test(test_caps),
        cmocka_unit_test(test_reader_stops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
