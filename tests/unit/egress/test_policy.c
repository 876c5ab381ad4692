/* The policy's whole truth table, and the names of failures. */
#include "egress/policy.c"

#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static struct tn_proxy *proxy(void)
{
    static const char url[] = "socks5://user:hunter2@proxy.example:1080";
    struct tn_proxy *p = NULL;
    char why[128];
    assert_int_equal(tn_proxy_parse(url, sizeof url - 1, &p, why), 0);
    return p;
}

static void test_truth_table(void **state)
{
    static const struct {
        int asked;
        bool with_proxy;
        int ret;
        enum tn_egress_mode becomes;
    } table[] = {
        {TN_EGRESS_OFF, false, 0, TN_EGRESS_OFF},        {TN_EGRESS_OFF, true, 0, TN_EGRESS_OFF},
        {TN_EGRESS_HOST, false, 0, TN_EGRESS_HOST},      {TN_EGRESS_HOST, true, 0, TN_EGRESS_HOST},
        {TN_EGRESS_PROXY, true, 0, TN_EGRESS_PROXY},     {TN_EGRESS_PROXY, false, TN_E_POLICY, TN_EGRESS_OFF},
        {3, true, TN_E_POLICY, TN_EGRESS_OFF},           {-1, true, TN_E_POLICY, TN_EGRESS_OFF},
        {77, false, TN_E_POLICY, TN_EGRESS_OFF},
    };
    enum { N = sizeof table / sizeof table[0] };
    /* From every state to every state: nothing of the one before is left. */
    for (size_t from = 0; from < N; from++) {
        for (size_t to = 0; to < N; to++) {
            struct tn_policy p;
            tn_policy_init(&p);
            assert_int_equal(p.mode, TN_EGRESS_OFF);
            (void)tn_policy_set(&p, (enum tn_egress_mode)table[from].asked, table[from].with_proxy ? proxy() : NULL);
            int r = tn_policy_set(&p, (enum tn_egress_mode)table[to].asked, table[to].with_proxy ? proxy() : NULL);
            assert_int_equal(r, table[to].ret);
            assert_int_equal(p.mode, table[to].becomes);
            assert_int_equal(p.proxy != NULL, p.mode == TN_EGRESS_PROXY);
            assert_int_equal(p.rejected, r != 0);
            tn_policy_fini(&p);
        }
    }
}

static void test_describe(void **state)
{
    struct tn_policy p;
    char line[400];
    tn_policy_init(&p);
    assert_string_equal(tn_policy_describe(&p, line), "off: set exit-proxy (or exit-egress to host) to let exit traffic out");
    tn_policy_set(&p, TN_EGRESS_PROXY, NULL);
    assert_string_equal(tn_policy_describe(&p, line), "off: the exit proxy setting is missing or not valid");
    tn_policy_set(&p, TN_EGRESS_HOST, NULL);
    assert_string_equal(tn_policy_describe(&p, line), "host: directly from this host's addresses");
    tn_policy_set(&p, TN_EGRESS_PROXY, proxy());
    assert_string_equal(tn_policy_describe(&p, line), "proxy: socks5://proxy.example:1080");
    tn_policy_fini(&p);
}

static void test_names(void **state)
{
    static const char *const upper[] = {
        "OK",
#define UPPER(name, text) #name,
        TN_EGRESS_FAIL_MAP(UPPER)
#undef UPPER
    };
    for (int f = 0; f < TN_EGRESS_FAIL_COUNT; f++) {
        char lower[32] = "";
        for (size_t i = 0; upper[f][i]; i++) lower[i] = (char)tolower((unsigned char)upper[f][i]);
        assert_string_equal(tn_egress_fail_name((enum tn_egress_fail)f), lower);
        assert_string_not_equal(tn_egress_fail_text((enum tn_egress_fail)f), "unknown");
    }
    assert_string_equal(tn_egress_fail_name(TN_EGRESS_FAIL_COUNT), "unknown");
    assert_string_equal(tn_egress_fail_text(TN_EGRESS_FAIL_COUNT), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_truth_table), cmocka_unit_test(test_describe), cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
