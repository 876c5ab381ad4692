#include "dns/names.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

static struct tn_dns_names *fresh(void)
{
    static uint64_t seed = 7;
    struct tn_rng rng = tn_rng_seeded(&seed);
    struct tn_dns_names *n = tn_dns_names_new(&rng);
    assert_non_null(n);
    return n;
}

static const struct tn_ip a = {4, {45, 45, 45, 45}}, b6 = {6, {0x2a, 0, 0, 0x45}};
#define SEC 1000000ull

static void one_name_for_its_time(void **state)
{
    struct tn_dns_names *n = fresh();
    tn_dns_names_learn(n, 1, &a, "web.example", 300, 0);
    tn_dns_names_learn(n, 1, &b6, "web.example", 5, 0);
    assert_string_equal(tn_dns_names_find(n, 1, &a, 299 * SEC), "web.example");
    assert_string_equal(tn_dns_names_find(n, 1, &b6, 59 * SEC), "web.example"); /* browsers keep it a minute */
    assert_null(tn_dns_names_find(n, 1, &b6, 60 * SEC));
    assert_null(tn_dns_names_find(n, 2, &a, 0)); /* another peer's business */
    assert_null(tn_dns_names_find(n, 1, &a, 300 * SEC));
    assert_int_equal(tn_dns_names_count(n), 0);
    tn_dns_names_learn(n, 1, &a, "web.example", UINT32_MAX, 0);
    assert_null(tn_dns_names_find(n, 1, &a, 3600 * SEC));
    tn_dns_names_free(n);
}

static void two_names_are_none(void **state)
{
    struct tn_dns_names *n = fresh();
    tn_dns_names_learn(n, 1, &a, "one.example", 100, 0);
    tn_dns_names_learn(n, 1, &a, "one.example", 100, 10 * SEC);
    assert_string_equal(tn_dns_names_find(n, 1, &a, 11 * SEC), "one.example");
    tn_dns_names_learn(n, 1, &a, "two.example", 200, 20 * SEC);
    assert_null(tn_dns_names_find(n, 1, &a, 21 * SEC));
    tn_dns_names_learn(n, 1, &a, "one.example", 100, 30 * SEC);
    assert_null(tn_dns_names_find(n, 1, &a, 31 * SEC)); /* until both are over */
    assert_null(tn_dns_names_find(n, 1, &a, 220 * SEC));
    tn_dns_names_learn(n, 1, &a, "two.example", 100, 221 * SEC);
    assert_string_equal(tn_dns_names_find(n, 1, &a, 222 * SEC), "two.example");
    tn_dns_names_free(n);
}

static void what_is_no_host_name(void **state)
{
    static const char *const bad[] = {"",        "localhost", "a..b",  ".a.b",        "a.b.",     "A.b",
                                      "a b.c",   "a\\046b.c", "a.b/c", "x.\xc3\xa4.y", "a.b:80.c", "*.example.com"};
    struct tn_dns_names *n = fresh();
    char big[300];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tn_dns_names_learn(n, 1, &a, bad[i], 100, 0);
        if (tn_dns_names_count(n)) fail_msg("%s", bad[i]);
    }
    memset(big, 'a', sizeof big);
    big[64] = '.';
    big[66] = '\0';
    tn_dns_names_learn(n, 1, &a, big, 100, 0);
    for (int i = 0; i < 300; i++) big[i] = i % 2 ? '.' : 'a';
    big[255] = '\0';
    tn_dns_names_learn(n, 1, &a, big, 100, 0);
    assert_int_equal(tn_dns_names_count(n), 0);
    big[253] = '\0';
    tn_dns_names_learn(n, 1, &a, big, 100, 0);
    assert_int_equal(tn_dns_names_count(n), 1);
    tn_dns_names_free(n);
}

static struct tn_ip nth(unsigned i) { return tn_ip4(45, (uint8_t)(i >> 16), (uint8_t)(i >> 8), (uint8_t)i); }

static void bounded_by_peer_and_in_all(void **state)
{
    struct tn_dns_names *n = fresh();
    tn_dns_names_learn(n, 9, &a, "quiet.example", 3600, 0);
    for (unsigned i = 0; i < 10000; i++) {
        struct tn_ip ip = nth(i);
        tn_dns_names_learn(n, 1, &ip, "busy.example", 3600, i);
    }
    struct tn_ip first = nth(0), last = nth(9999);
    assert_int_equal(tn_dns_names_count(n), NAMES_PER_PEER + 1);
    assert_null(tn_dns_names_find(n, 1, &first, 10000));
    assert_non_null(tn_dns_names_find(n, 1, &last, 10000));
    assert_non_null(tn_dns_names_find(n, 9, &a, 10000)); /* not displaced by another */
    for (unsigned peer = 2; peer < 8; peer++)
        for (unsigned i = 0; i < 2000; i++) {
            struct tn_ip ip = nth(i);
            tn_dns_names_learn(n, peer, &ip, "busy.example", 3600, 20000);
        }
    assert_int_equal(tn_dns_names_count(n), NAMES_MAX);
    tn_dns_names_forget_peer(n, 7);
    assert_int_equal(tn_dns_names_count(n), NAMES_MAX - 2000);
    assert_null(tn_dns_names_find(n, 7, &first, 20000));
    tn_dns_names_forget_peer(n, 77);
    tn_dns_names_free(n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(one_name_for_its_time), cmocka_unit_test(two_names_are_none),
                                       cmocka_unit_test(what_is_no_host_name), cmocka_unit_test(bounded_by_peer_and_in_all)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
