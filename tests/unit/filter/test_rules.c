#include "filter/rules.c"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static int compile(const char *text, struct tn_rules **out)
{
    json_error_t why;
    json_t *json = json_loads(text, JSON_DECODE_ANY, &why);
    if (!json) fail_msg("%s: %s", text, why.text);
    int err = tn_rules_compile(json, out);
    json_decref(json);
    return err;
}

static struct tn_rules *rules(const char *text)
{
    struct tn_rules *r = NULL;
    int err = compile(text, &r);
    if (err) fail_msg("%s: %s", text, tn_err_name(err));
    return r;
}

static bool match(const struct tn_rules *r, const char *src, const char *dst, uint16_t port)
{
    struct tn_rules_query q = {.port = port, .proto = TN_IPPROTO_TCP};
    assert_int_equal(tn_ip_parse(src, &q.src), 0);
    assert_int_equal(tn_ip_parse(dst, &q.dst), 0);
    return tn_rules_match(r, &q);
}

/* One rule with this source and a wildcard destination: does it match src? */
static bool source_has(const char *source, const char *src)
{
    char text[512];
    snprintf(text, sizeof text,
             "[{\"SrcIPs\":[\"%s\"],\"DstPorts\":[{\"IP\":\"*\",\"Ports\":{\"First\":0,\"Last\":65535}}]}]", source);
    struct tn_rules *r = rules(text);
    bool ok = match(r, src, strchr(src, ':') ? "fd7a:115c:a1e0::1" : "100.64.0.1", 80);
    tn_rules_free(r);
    return ok;
}

static void sources(void **state)
{
    (void)state;
    assert_true(source_has("*", "1.2.3.4") && source_has("*", "::1"));
    assert_true(source_has("1.2.3.4", "1.2.3.4"));
    assert_false(source_has("1.2.3.4", "1.2.3.5") || source_has("1.2.3.4", "::ffff:1.2.3.4"));
    assert_true(source_has("10.0.0.0/8", "10.255.0.1"));
    assert_false(source_has("10.0.0.0/8", "11.0.0.0"));
    assert_true(source_has("1.1.1.9-1.1.2.3", "1.1.1.9") && source_has("1.1.1.9-1.1.2.3", "1.1.2.3"));
    assert_false(source_has("1.1.1.9-1.1.2.3", "1.1.1.8") || source_has("1.1.1.9-1.1.2.3", "1.1.2.4"));
    assert_true(source_has("fd7a::1-fd7a::ff", "fd7a::80") && source_has("fd7a::/16", "fd7a::80"));
    assert_false(source_has("fd7a::1-fd7a::ff", "fd7a::100"));
}

static void unreadable_entries_match_nothing(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "**",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "10.0.0.0/",
        "10.0.0.0/08",
        "/8",
        "1.1.1.2-1.1.1.1",
        "1.1.1.1-::1",
        "1.1.1.1-",
        "-1.1.1.1",
        "1-2-3",
        "1.1.1.1-1.1.1.2-1.1.1.3",
        "tag:web",
        "fe80::1%eth0",
        "1.2.3",
        "01.2.3.4",
        "fd7a:115c:a1e0:ab12:4843:cd96:6258:b240:fd7a:115c:a1e0:ab12:4843:cd96:6258:b240-fd7a:115c:a1e0:ab12::1/1",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[1024];
        snprintf(text, sizeof text,
                 "[{\"SrcIPs\":[\"%s\",\"5.5.5.5\"],\"DstPorts\":[{\"IP\":\"%s\"},{\"IP\":\"100.64.0.1\","
                 "\"Ports\":{\"First\":80,\"Last\":80}}]}]", bad[i], bad[i]);
        struct tn_rules *r = rules(text);
        if (tn_rules_skipped(r) != 2) fail_msg("%s", bad[i]);
        assert_true(match(r, "5.5.5.5", "100.64.0.1", 80));
        assert_false(match(r, "1.1.1.1", "100.64.0.1", 80));
        tn_rules_free(r);
    }
}

static void defects_refuse_all(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "{}",
        "1",
        "\"*\"",
        "[1]",
        "[null]",
        "[[]]",
        "[{\"SrcIPs\":\"*\"}]",
        "[{\"SrcIPs\":[1]}]",
        "[{\"SrcIPs\":[null]}]",
        "[{\"SrcIPs\":[\"a\"],\"SrcBits\":[8]}]",
        "[{\"DstPorts\":{}}]",
        "[{\"DstPorts\":[1]}]",
        "[{\"DstPorts\":[null]}]",
        "[{\"DstPorts\":[{}]}]",
        "[{\"DstPorts\":[{\"IP\":4}]}]",
        "[{\"DstPorts\":[{\"IP\":\"*\",\"Bits\":8}]}]",
        "[{\"DstPorts\":[{\"IP\":\"*\",\"Ports\":[]}]}]",
        "[{\"DstPorts\":[{\"IP\":\"*\",\"Ports\":{\"First\":-1}}]}]",
        "[{\"DstPorts\":[{\"IP\":\"*\",\"Ports\":{\"Last\":65536}}]}]",
        "[{\"DstPorts\":[{\"IP\":\"*\",\"Ports\":{\"Last\":\"1\"}}]}]",
        "[{\"DstPorts\":[{\"IP\":\"*\",\"Ports\":{\"Last\":1.5}}]}]",
        "[{\"IPProto\":6}]",
        "[{\"IPProto\":[\"tcp\"]}]",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct tn_rules *r = NULL;
        if (compile(bad[i], &r) != TN_E_MALFORMED || r) fail_msg("%s", bad[i]);
    }
}

static void absent_null_and_empty(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "null",
        "[]",
        "[{}]",
        "[{\"SrcIPs\":null,\"DstPorts\":null,\"IPProto\":null,\"SrcBits\":null}]",
        "[{\"SrcIPs\":[\"*\"],\"SrcBits\":[]}]",
        "[{\"SrcIPs\":[\"*\"],\"CapGrant\":[{\"Dsts\":[\"0.0.0.0/0\"],\"Caps\":[\"x\"]}]}]",
        "[{\"DstPorts\":[{\"IP\":\"*\",\"Bits\":null,\"Ports\":{\"First\":0,\"Last\":65535}}]}]",
        "[{\"SrcIPs\":[\"*\"],\"DstPorts\":[{\"IP\":\"*\"}]}]",
        "[{\"SrcIPs\":[\"*\"],\"DstPorts\":[{\"IP\":\"*\",\"Ports\":{\"First\":90,\"Last\":70}}]}]",
        "[{\"SrcIPs\":[\"*\"],\"DstPorts\":[{\"IP\":\"*\",\"Ports\":{\"Last\":65535}}],\"IPProto\":[-1,256,17]}]",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct tn_rules *r = rules(texts[i]);
        if (match(r, "1.1.1.1", "100.64.0.1", 80)) fail_msg("%s", texts[i]);
        tn_rules_free(r);
    }
    struct tn_rules *r = NULL;
    assert_int_equal(tn_rules_compile(NULL, &r), 0);
    tn_rules_free(r);
}

static bool has_only_printer(void *ctx, const char *cap)
{
    (void)ctx;
    return strcmp(cap, "https://example.com/printer") == 0;
}

static void caps_are_sources(void **state)
{
    (void)state;
    struct tn_rules *r = rules("[{\"SrcIPs\":[\"cap:other\",\"cap:https://example.com/printer\",\"cap:\"],"
                               "\"DstPorts\":[{\"IP\":\"100.64.0.1\",\"Ports\":{\"First\":631,\"Last\":631}}]}]");
    struct tn_filter_peer peer = {.has_cap = has_only_printer};
    struct tn_rules_query q = {
        .proto = TN_IPPROTO_TCP, .port = 631, .src = tn_ip4(100, 64, 0, 9), .dst = tn_ip4(100, 64, 0, 1)};
    assert_int_equal(tn_rules_skipped(r), 0);
    assert_false(tn_rules_match(r, &q));
    q.peer = &peer;
    assert_true(tn_rules_match(r, &q));
    assert_true(tn_rules_match_ips(r, &q));
    q.dst = tn_ip4(100, 64, 0, 2);
    assert_false(tn_rules_match(r, &q) || tn_rules_match_ips(r, &q));
    tn_rules_free(r);
}

static void portless_needs_all_ports(void **state)
{
    (void)state;
    struct tn_rules_query q = {.proto = 47, .src = tn_ip4(1, 1, 1, 1), .dst = tn_ip4(2, 2, 2, 2)};
    struct tn_rules *some = rules(
        "[{\"SrcIPs\":[\"*\"],\"IPProto\":[47],\"DstPorts\":["
        "{\"IP\":\"*\",\"Ports\":{\"First\":1,\"Last\":65535}}]}]");
    struct tn_rules *all = rules(
        "[{\"SrcIPs\":[\"*\"],\"IPProto\":[47],\"DstPorts\":["
        "{\"IP\":\"*\",\"Ports\":{\"First\":0,\"Last\":65535}}]}]");
    assert_false(tn_rules_match_portless(some, &q));
    assert_true(tn_rules_match_portless(all, &q));
    q.proto = 50;
    assert_false(tn_rules_match_portless(all, &q));
    tn_rules_free(some);
    tn_rules_free(all);
}

static void limits(void **state)
{
    (void)state;
    struct tn_rules *r = NULL;
    static char text[TEXT_MAX + 200], cap[TEXT_MAX + 1];
    memset(cap, 'x', TEXT_MAX);
    snprintf(text, sizeof text, "[{\"SrcIPs\":[\"cap:%s\"]}]", cap);
    assert_int_equal(compile(text, &r), TN_E_TOOBIG);
    json_t *array = json_array(), *empty = json_object();
    for (int i = 0; i <= RULES_MAX; i++) json_array_append(array, empty);
    assert_int_equal(tn_rules_compile(array, &r), TN_E_TOOBIG);
    json_array_clear(array);
    json_t *srcs = json_array(), *star = json_string("*");
    for (int i = 0; i <= ENTRIES_MAX / 2; i++) json_array_append(srcs, star);
    json_array_append_new(array, json_pack("{s:o}", "SrcIPs", srcs));
    assert_int_equal(tn_rules_compile(array, &r), TN_E_TOOBIG);
    json_decref(star);
    json_decref(empty);
    json_decref(array);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sources),
        cmocka_unit_test(unreadable_entries_match_nothing),
        cmocka_unit_test(defects_refuse_all),
        cmocka_unit_test(absent_null_and_empty),
        cmocka_unit_test(caps_are_sources),
        cmocka_unit_test(portless_needs_all_ports),
        cmocka_unit_test(limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
