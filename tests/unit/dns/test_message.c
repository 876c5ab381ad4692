#include "dns/message.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

/* a.Example.com A, and the same as an answer. */
static const uint8_t query[] = {0x12, 0x34, 1,   0,   0,   1,   0, 0,   0,   0,   0, 0, 1, 'a', 7, 'E',
                                'x',  'a',  'm', 'p', 'l', 'e', 3, 'c', 'o', 'm', 0, 0, 1, 0,   1};

static void queries_are_checked(void **state)
{
    (void)state;
    uint8_t bytes[sizeof query];
    memcpy(bytes, query, sizeof bytes);
    assert_int_equal(tn_dns_check_query(query, sizeof query), 0);
    for (size_t n = 0; n < sizeof query; n++) assert_int_equal(tn_dns_check_query(query, n), TN_E_MALFORMED);
    bytes[2] = 0x81;
    assert_int_equal(tn_dns_check_query(bytes, sizeof bytes), TN_E_MALFORMED);
    uint8_t *big = calloc(1, TN_DNS_MAX + 1);
    assert_non_null(big);
    memcpy(big, query, sizeof query);
    assert_int_equal(tn_dns_check_query(big, TN_DNS_MAX), 0);
    assert_int_equal(tn_dns_check_query(big, TN_DNS_MAX + 1), TN_E_MALFORMED);
    free(big);
}

static void errors_answer_the_question(void **state)
{
    (void)state;
    uint8_t out[64];
    assert_int_equal(tn_dns_make_error(query, sizeof query, 5, out, sizeof out), sizeof query);
    assert_int_equal(out[0] << 8 | out[1], 0x1234);
    assert_int_equal(out[3] & 15, 5);
    assert_int_equal(tn_dns_make_error(query, sizeof query, 5, out, 30), TN_E_NOSPC);
    assert_int_equal(tn_dns_make_error(query, 11, 5, out, sizeof out), TN_E_MALFORMED);
}

static bool filtered(const char *entry)
{
    const char *set[] = {"", ".", "unrelated.test", entry};
    return tn_dns_name_filtered(query, sizeof query, set, 4);
}

static void filtered_names(void **state)
{
    (void)state;
    static const char *const yes[] = {"a.example.com", "A.EXAMPLE.COM", "a.example.com.",
                                      ".example.com",  ".example.com.", ".com"};
    static const char *const no[] = {"example.com", ".a.example.com", "xample.com",
                                     ".xample.com", "b.example.com",  "com",
                                     ".org",        "..example.com",  "x.a.example.com"};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++)
        if (!filtered(yes[i])) fail_msg("%s", yes[i]);
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        if (filtered(no[i])) fail_msg("%s", no[i]);
    assert_false(tn_dns_name_filtered(query, sizeof query, NULL, 0));
    assert_true(tn_dns_name_filtered(query, 5, NULL, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(queries_are_checked),
                                       cmocka_unit_test(errors_answer_the_question),
                                       cmocka_unit_test(filtered_names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
