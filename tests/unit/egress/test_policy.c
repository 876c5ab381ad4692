/* The policy's whole truth table, rules, and the names of failures. */
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

static struct tn_egress_spec *spec(int mode, const char *names)
{
    struct tn_egress_spec *s = tn_egress_spec_new((enum tn_egress_mode)mode);
    char copy[64], *rest = copy;
    snprintf(copy, sizeof copy, "%s", names);
    for (char *name; *rest && (name = strsep(&rest, " "));) {
        struct tn_egress_proxy *p = tn_egress_spec_proxy(s);
        snprintf(p->name, sizeof p->name, "%s", strsep(&name, "/"));
        if (name) snprintf(p->group, sizeof p->group, "%s", name);
        p->proxy = proxy();
        if (!rest) break;
    }
    return s;
}

static void rule(struct tn_egress_spec *s, const char *use, const char *key, const char *value)
{
    char why[128];
    struct tn_egress_rule *r = tn_egress_spec_rule(s);
    assert_int_equal(tn_egress_rule_set(r, "use", use, why), 0);
    if (key) assert_int_equal(tn_egress_rule_set(r, key, value, why), 0);
}

static void test_truth_table(void **state)
{
    static const struct {
        int asked;
        const char *proxies;
        bool ok;
        enum tn_egress_mode becomes;
    } table[] = {
        {TN_EGRESS_OFF, "", true, TN_EGRESS_OFF},      {TN_EGRESS_OFF, "a", true, TN_EGRESS_OFF},
        {TN_EGRESS_HOST, "", true, TN_EGRESS_HOST},    {TN_EGRESS_HOST, "a", true, TN_EGRESS_HOST},
        {TN_EGRESS_PROXY, "a", true, TN_EGRESS_PROXY}, {TN_EGRESS_PROXY, "a b/g", true, TN_EGRESS_PROXY},
        {TN_EGRESS_PROXY, "", false, TN_EGRESS_OFF},   {TN_EGRESS_PROXY, "a a", false, TN_EGRESS_OFF},
        {TN_EGRESS_PROXY, "a b/a", false, TN_EGRESS_OFF}, {TN_EGRESS_PROXY, "block", false, TN_EGRESS_OFF},
        {TN_EGRESS_PROXY, "a/b$", false, TN_EGRESS_OFF},
        {3, "a", false, TN_EGRESS_OFF},                {-1, "a", false, TN_EGRESS_OFF},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct tn_policy *p = tn_policy_new(spec(table[i].asked, table[i].proxies));
        assert_non_null(p);
        assert_int_equal(p->mode, table[i].becomes);
        assert_int_equal(p->rejected, !table[i].ok);
        assert_int_equal(p->spec != NULL, p->mode != TN_EGRESS_OFF);
        tn_policy_free(p);
    }
    struct tn_policy *p = tn_policy_new(NULL);
    assert_true(p->mode == TN_EGRESS_OFF && p->rejected);
    tn_policy_free(p);
}

/* What is contradictory is refused as a whole: never the part of it that could be understood. */
static void test_contradictions(void **state)
{
    char why[200];
    struct tn_egress_spec *s = spec(TN_EGRESS_PROXY, "a b/g");
    rule(s, "nobody", NULL, NULL);
    assert_int_equal(tn_egress_spec_check(s, why), TN_E_POLICY);
    assert_non_null(strstr(why, "nobody"));
    tn_egress_spec_free(s);
    s = spec(TN_EGRESS_HOST, "");
    rule(s, "block", NULL, NULL);
    assert_int_equal(tn_egress_spec_check(s, why), TN_E_POLICY);
    tn_egress_spec_free(s);
    s = spec(TN_EGRESS_PROXY, "a");
    assert_non_null(tn_egress_spec_rule(s)); /* says nothing to use */
    assert_int_equal(tn_egress_spec_check(s, why), TN_E_POLICY);
    tn_egress_spec_free(s);
    s = spec(TN_EGRESS_PROXY, "a");
    s->proxies[0].weight = 65;
    assert_int_equal(tn_egress_spec_check(s, why), TN_E_POLICY);
    tn_egress_spec_free(s);
    s = spec(TN_EGRESS_PROXY, "a");
    while (s->nproxies < TN_EGRESS_PROXIES_MAX) assert_non_null(tn_egress_spec_proxy(s));
    assert_null(tn_egress_spec_proxy(s));
    tn_egress_spec_free(s);
}

static bool is(void *ctx, uint64_t peer, enum tn_egress_source kind, const char *value)
{
    static const char *const mine[] = {"laptop", "ann@example.com", "tag:kids"};
    return peer == 7 && strcmp(mine[kind], value) == 0;
}

static uint64_t ask(struct tn_policy *p, const char *dst, const char *name, uint64_t peer, enum tn_egress_purpose purpose)
{
    static const struct tn_egress_peers peers = {.is = is};
    struct tn_addrport ap;
    assert_int_equal(tn_addrport_parse(dst, &ap), 0);
    struct tn_rule_subject s = {.dst = &ap, .name = name, .peer = peer};
    return tn_policy_candidates(p, &s, purpose, &peers);
}

static void test_rules(void **state)
{
    struct tn_egress_spec *s = spec(TN_EGRESS_PROXY, "a/g b/g c");
    rule(s, "block", "port", "25, 6881-6889");
    rule(s, "c", "from", "tag:kids");
    rule(s, "block", "domain", "*.ads.example, tracker.example.");
    rule(s, "g", "address", "45.0.0.0/8 2a00::/16");
    rule(s, "a", "from", "nobody, ann@example.com");
    struct tn_policy *p = tn_policy_new(s);
    assert_int_equal(p->mode, TN_EGRESS_PROXY);
    assert_int_equal(ask(p, "45.1.1.1:25", NULL, 7, 0), 0);
    assert_int_equal(ask(p, "45.1.1.1:6885", NULL, 7, 0), 0);
    assert_int_equal(ask(p, "45.1.1.1:6890", NULL, 7, 0), 4);
    assert_int_equal(ask(p, "45.1.1.1:80", NULL, 8, 0), 3);
    assert_int_equal(ask(p, "45.1.1.1:80", "x.ads.example", 8, 0), 0);
    assert_int_equal(ask(p, "45.1.1.1:80", "ADS.example", 8, 0), 0);
    assert_int_equal(ask(p, "45.1.1.1:80", "badads.example", 8, 0), 3);
    assert_int_equal(ask(p, "45.1.1.1:80", "tracker.example", 8, 0), 0);
    assert_int_equal(ask(p, "[2a00:1::1]:80", NULL, 8, 0), 3);
    assert_int_equal(ask(p, "9.9.9.9:80", NULL, 8, 0), 0);                   /* none matches: refused */
    assert_int_equal(ask(p, "9.9.9.9:443", NULL, 0, TN_EGRESS_RESOLVER), 7); /* but names are answered */
    assert_int_equal(ask(p, "9.9.9.9:25", NULL, 0, TN_EGRESS_RESOLVER), 0);  /* unless a rule says no */
    tn_policy_free(p);
    s = spec(TN_EGRESS_PROXY, "a");
    rule(s, "a", "from", "ann@example.com");
    p = tn_policy_new(s);
    assert_int_equal(ask(p, "9.9.9.9:80", NULL, 7, 0), 1);
    assert_int_equal(ask(p, "9.9.9.9:80", NULL, 0, 0), 0); /* nobody is not anybody */
    tn_policy_free(p);
    p = tn_policy_new(spec(TN_EGRESS_PROXY, "a b"));
    assert_int_equal(ask(p, "9.9.9.9:80", NULL, 8, 0), 3);
    tn_policy_free(p);
}

static void test_ipv6_has_a_way(void **state)
{
    static const struct {
        const char *use, *key, *value;
    } table[][3] = {
        {{"a", "address", "0.0.0.0/0"}},                                     /* IPv4 alone */
        {{"block", "address", "::/0"}, {"a", NULL, NULL}},
        {{"block", "address", "9.9.9.9, 2000::/3"}, {"a", NULL, NULL}},
        {{"block", "address", "2a00::/16"}, {"a", NULL, NULL}},              /* some of it is let out */
        {{"block", "port", "443"}, {"a", NULL, NULL}},
        {{"block", "domain", "ads.example"}, {"a", NULL, NULL}},
        {{"a", "address", "45.0.0.0/8"}, {"a", "address", "2a00::/16"}, {"block", NULL, NULL}},
        {{"a", "from", "tag:kids"}},                                         /* 7 is one */
        {{"block", "from", "tag:kids"}, {"a", NULL, NULL}},
        {{"a", "from", "ann@example.com"}, {"block", "address", "::/0"}, {"a", NULL, NULL}},
    };
    static const bool has[][2] = {{0, 0}, {0, 0}, {0, 0}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 0}, {0, 1}, {1, 0}}; /* 7, 8 */
    static const struct tn_egress_peers peers = {.is = is};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct tn_egress_spec *s = spec(TN_EGRESS_PROXY, "a b");
        for (size_t k = 0; k < 3 && table[i][k].use; k++) rule(s, table[i][k].use, table[i][k].key, table[i][k].value);
        struct tn_policy *p = tn_policy_new(s);
        assert_int_equal(p->mode, TN_EGRESS_PROXY);
        assert_int_equal(tn_policy_lets_out(p, 7, true, UINT64_MAX, &peers), has[i][0]);
        assert_int_equal(tn_policy_lets_out(p, 8, true, UINT64_MAX, &peers), has[i][1]);
        tn_policy_free(p);
    }
    struct tn_policy *p = tn_policy_new(spec(TN_EGRESS_PROXY, "a"));
    assert_true(tn_policy_lets_out(p, 8, true, UINT64_MAX, &peers));
    assert_true(tn_policy_lets_out(p, 8, false, 1, &peers));
    assert_false(tn_policy_lets_out(p, 8, false, ~(uint64_t)1, &peers)); /* by none of its proxies */
    tn_policy_free(p);
    struct tn_egress_spec *s = spec(TN_EGRESS_PROXY, "a b");
    rule(s, "a", "address", "45.0.0.0/8, ::/0");
    rule(s, "b", NULL, NULL);
    p = tn_policy_new(s);
    assert_false(tn_policy_lets_out(p, 8, true, 2, &peers)); /* all of IPv6 goes by the one that can't */
    assert_true(tn_policy_lets_out(p, 8, false, 2, &peers));
    assert_true(tn_policy_lets_out(p, 8, false, 1, &peers));
    tn_policy_free(p);
}

static void test_bad_rules(void **state)
{
    static const char *const bad[][2] = {
        {"address", ""}, {"address", "1.2.3.4/33"}, {"address", "example.com"}, {"address", "1.2.3.4, ,x"}, {"port", "0"},
        {"port", "65536"}, {"port", "9-8"}, {"port", "80-"}, {"port", "http"}, {"domain", "*"}, {"domain", "a..b"},
        {"domain", "a b/c"}, {"from", ","}, {"use", ""}, {"adress", "1.2.3.4"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct tn_egress_rule r = {0};
        char why[128];
        assert_true(tn_egress_rule_set(&r, bad[i][0], bad[i][1], why) < 0);
        assert_true(why[0]);
        tn_egress_rule_fini(&r);
    }
}

static void test_describe(void **state)
{
    char line[400];
    struct tn_policy *p = tn_policy_new(spec(TN_EGRESS_OFF, ""));
    assert_string_equal(tn_policy_describe(p, line), "off: set exit-proxy (or exit-egress to host) to let exit traffic out");
    tn_policy_free(p);
    p = tn_policy_new(NULL);
    assert_string_equal(tn_policy_describe(p, line), "off: the exit proxy setting is missing or not valid");
    tn_policy_free(p);
    p = tn_policy_new(spec(TN_EGRESS_HOST, ""));
    assert_string_equal(tn_policy_describe(p, line), "host: directly from this host's addresses");
    tn_policy_free(p);
    p = tn_policy_new(spec(TN_EGRESS_PROXY, "a"));
    assert_string_equal(tn_policy_describe(p, line), "proxy: socks5://proxy.example:1080");
    tn_policy_free(p);
    p = tn_policy_new(spec(TN_EGRESS_PROXY, "a b"));
    assert_string_equal(tn_policy_describe(p, line), "proxy: 2 proxies, 0 rules");
    tn_policy_free(p);
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
        cmocka_unit_test(test_truth_table), cmocka_unit_test(test_contradictions), cmocka_unit_test(test_rules),
        cmocka_unit_test(test_ipv6_has_a_way),
        cmocka_unit_test(test_bad_rules),   cmocka_unit_test(test_describe),       cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
