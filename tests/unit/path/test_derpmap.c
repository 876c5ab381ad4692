#include "../../../src/path/derpmap.c"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>

static int parse(const char *text, struct tn_derp_map *old, struct tn_derp_map **out)
{
    json_t *json = json_loads(text, JSON_DECODE_ANY, NULL);
    assert_non_null(json);
    *out = NULL;
    int err = tn_derp_map_parse(json, old, out);
    json_decref(json);
    return err;
}

static struct tn_derp_map *must_parse(const char *text)
{
    struct tn_derp_map *m;
    assert_int_equal(parse(text, NULL, &m), 0);
    assert_non_null(m);
    return m;
}

static void test_full_map(void **state)
{
    struct tn_derp_map *m = must_parse(
        "{\"HomeParams\":{\"RegionScore\":{\"2\":0.5,\"1\":-3}},\"Regions\":{"
        "\"10\":{\"RegionID\":10,\"RegionCode\":\"ten x\",\"Avoid\":true,\"Nodes\":[{\"Name\":\"10a\",\"HostName\":\"d.example\"}]},"
        "\"1\":{\"RegionID\":1,\"RegionCode\":\"one\",\"NoMeasureNoHome\":true,\"Nodes\":[{\"Name\":\"1a\",\"HostName\":\"h\","
        "\"IPv4\":\"192.0.2.1\",\"IPv6\":\"2001:db8::1\",\"STUNPort\":3479,\"DERPPort\":8443,\"CanPort80\":true},"
        "{\"Name\":\"1b\",\"HostName\":\"s\",\"STUNOnly\":true,\"IPv4\":\"192.0.2.9\",\"STUNPort\":-1}]},"
        "\"2\":{\"Nodes\":null},\"3\":null},\"omitDefaultRegions\":true,\"Future\":7}");
    assert_int_equal(m->nregions, 3);
    assert_int_equal(m->regions[0].id, 1);
    assert_int_equal(m->regions[2].id, 10);
    const struct tn_derp_region *r = tn_derp_map_find(m, 1);
    assert_true(r->no_home);
    assert_true(r->score == 1);
    assert_int_equal(r->nnodes, 2);
    assert_false(tn_derp_region_eligible(r));
    assert_true(tn_derp_map_find(m, 2)->score == 0.5);
    assert_false(tn_derp_region_eligible(tn_derp_map_find(m, 2)));
    assert_string_equal(tn_derp_map_find(m, 10)->code, "ten x");
    assert_true(tn_derp_map_find(m, 10)->avoid);
    assert_null(tn_derp_map_find(m, 3));
    assert_null(tn_derp_map_find(NULL, 3));
    tn_derp_map_free(m);
}

static const char *stun_of(const struct tn_derp_node *n, int family, char buf[TN_ADDRPORT_STRLEN])
{
    struct tn_addrport ap;
    return tn_derp_node_stun(n, family, &ap) ? tn_addrport_format(&ap, buf) : "no";
}

static struct tn_derp_map *node_map(const char *fields)
{
    char text[512];
    snprintf(text, sizeof text, "{\"Regions\":{\"7\":{\"RegionCode\":\"x\",\"Nodes\":[{\"Name\":\"n\",%s}]}}}",
             fields);
    return must_parse(text);
}

static void test_stun_addresses(void **state)
{
    static const struct { const char *fields, *v4, *v6; } rows[] = {
        {"\"HostName\":\"h\",\"IPv4\":\"192.0.2.1\",\"IPv6\":\"2001:db8::1\"", "192.0.2.1:3478",
         "[2001:db8::1]:3478"},
        {"\"HostName\":\"h\",\"IPv4\":\"none\",\"IPv6\":\"2001:db8::1\",\"STUNPort\":9", "no", "[2001:db8::1]:9"},
        {"\"HostName\":\"h\",\"IPv4\":\"192.0.2.1\",\"STUNPort\":-1", "no", "no"},
        {"\"HostName\":\"h\"", "no", "no"}, /* only a name lookup would tell */
        {"\"HostName\":\"192.0.2.7\"", "192.0.2.7:3478", "no"},
        {"\"HostName\":\"2001:db8::7\"", "no", "[2001:db8::7]:3478"},
        {"\"HostName\":\"h\",\"IPv4\":\"192.0.2.1\",\"STUNTestIP\":\"127.0.0.1\"", "127.0.0.1:3478", "no"},
        {"\"HostName\":\"h\",\"IPv4\":\"192.0.2.1\",\"STUNTestIP\":\"bogus\"", "no", "no"},
        {"\"HostName\":\"h\",\"IPv4\":\"2001:db8::1\"", "no", "no"}, /* of the other family: as good as none */
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char buf[TN_ADDRPORT_STRLEN];
        struct tn_derp_map *m = node_map(rows[i].fields);
        assert_string_equal(stun_of(m->regions[0].nodes, 4, buf), rows[i].v4);
        assert_string_equal(stun_of(m->regions[0].nodes, 6, buf), rows[i].v6);
        tn_derp_map_free(m);
    }
}

#define HEX64 "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static void test_dial_and_certificates(void **state)
{
    static const struct { const char *fields; bool ok; size_t naddrs; int port; enum tn_verify verify; const char *name; } rows[] = {
        {"\"HostName\":\"h\"", true, 0, 443, TN_VERIFY_SYSTEM, NULL},
        {"\"HostName\":\"h\",\"IPv4\":\"192.0.2.1\",\"IPv6\":\"2001:db8::1\",\"DERPPort\":8443", true, 2, 8443,
         TN_VERIFY_SYSTEM, NULL},
        {"\"HostName\":\"h\",\"IPv4\":\"192.0.2.1\",\"IPv6\":\"none\"", true, 1, 443, TN_VERIFY_SYSTEM, NULL},
        {"\"HostName\":\"h\",\"IPv4\":\"none\",\"IPv6\":\"none\"", false, 0, 0, 0, NULL},
        {"\"HostName\":\"h\",\"STUNOnly\":true", false, 0, 0, 0, NULL},
        {"\"IPv4\":\"192.0.2.1\"", false, 0, 0, 0, NULL},
        {"\"HostName\":\"h\",\"CertName\":\"front.example\"", true, 0, 443, TN_VERIFY_SYSTEM, "front.example"},
        {"\"HostName\":\"h\",\"CertName\":\"h\",\"InsecureForTests\":true", true, 0, 443, TN_VERIFY_INSECURE, NULL},
        {"\"HostName\":\"h\",\"CertName\":\"c\",\"InsecureForTests\":true", true, 0, 443, TN_VERIFY_SYSTEM, "c"},
        {"\"HostName\":\"h\",\"InsecureForTests\":true", true, 0, 443, TN_VERIFY_INSECURE, NULL},
        {"\"HostName\":\"192.0.2.1\",\"CertName\":\"sha256-raw:" HEX64 "\"", true, 1, 443, TN_VERIFY_SHA256, NULL},
        {"\"HostName\":\"h\",\"CertName\":\"sha256-raw:" HEX64 "\",\"InsecureForTests\":true", true, 0, 443,
         TN_VERIFY_SHA256, NULL},
        {"\"HostName\":\"h\",\"CertName\":\"sha256-raw:beef\",\"InsecureForTests\":true", false, 0, 0, 0, NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tn_addrport addrs[2];
        struct tn_dial_spec spec;
        struct tn_derp_map *m = node_map(rows[i].fields);
        assert_int_equal(tn_derp_node_dial(m->regions[0].nodes, false, addrs, &spec), rows[i].ok);
        if (rows[i].ok) {
            assert_true(spec.tls);
            assert_int_equal(spec.naddrs, rows[i].naddrs);
            assert_int_equal(spec.port, rows[i].port);
            assert_int_equal(spec.verify, rows[i].verify);
            if (rows[i].name) assert_string_equal(spec.verify_name, rows[i].name);
            else assert_null(spec.verify_name);
            if (rows[i].verify == TN_VERIFY_SHA256) assert_int_equal(spec.sha256[31], 0xff);
        }
        tn_derp_map_free(m);
    }
}

static void test_preferred_family_first(void **state)
{
    struct tn_addrport addrs[2];
    struct tn_dial_spec spec;
    struct tn_derp_map *m = node_map("\"HostName\":\"h\",\"IPv4\":\"192.0.2.1\",\"IPv6\":\"2001:db8::1\"");
    assert_true(tn_derp_node_dial(m->regions[0].nodes, true, addrs, &spec));
    assert_int_equal(spec.addrs[0].ip.family, 6);
    assert_true(tn_derp_node_dial(m->regions[0].nodes, false, addrs, &spec));
    assert_int_equal(spec.addrs[0].ip.family, 4);
    tn_derp_map_free(m);
}

static void test_malformed(void **state)
{
    static const char *const rows[] = {
        "[]", "7", "null", "{\"Regions\":[]}", "{\"Regions\":{\"x\":{}}}", "{\"Regions\":{\"0\":{}}}",
            "{\"Regions\":{\"-1\":{}}}",
        "{\"Regions\":{\"65536\":{}}}", "{\"Regions\":{\"99999999999999999999\":{}}}", "{\"Regions\":{\"1\":7}}",
        "{\"Regions\":{\"1\":{\"RegionCode\":7}}}", "{\"Regions\":{\"1\":{\"Nodes\":{}}}}",
            "{\"Regions\":{\"1\":{\"Nodes\":[7]}}}",
        "{\"Regions\":{\"1\":{\"Avoid\":1}}}", "{\"Regions\":{\"1\":{\"Nodes\":[{\"HostName\":[]}]}}}",
        "{\"Regions\":{\"1\":{\"Nodes\":[{\"HostName\":\"a b\"}]}}}",
            "{\"Regions\":{\"1\":{\"Nodes\":[{\"HostName\":\"a\\r\\nX: y\"}]}}}",
        "{\"Regions\":{\"1\":{\"Nodes\":[{\"Name\":\"a\\r\\nX: y\",\"HostName\":\"h\"}]}}}",
        "{\"Regions\":{\"1\":{\"Nodes\":[{\"HostName\":\"h\",\"DERPPort\":70000}]}}}",
        "{\"Regions\":{\"1\":{\"Nodes\":[{\"HostName\":\"h\",\"DERPPort\":-1}]}}}",
        "{\"Regions\":{\"1\":{\"Nodes\":[{\"HostName\":\"h\",\"STUNPort\":1.5}]}}}",
        "{\"HomeParams\":7,\"Regions\":{}}", "{\"HomeParams\":{\"RegionScore\":[]},\"Regions\":{}}",
        "{\"HomeParams\":{\"RegionScore\":{\"1\":\"x\"}},\"Regions\":{}}",
    };
    struct tn_derp_map *m;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(parse(rows[i], NULL, &m), TN_E_MALFORMED);
        assert_null(m);
    }
    char longname[400];
    memset(longname, 'a', sizeof longname);
    snprintf(longname, sizeof longname, "{\"Regions\":{\"1\":{\"Nodes\":[{\"HostName\":\"%0300d\"}]}}}", 0);
    assert_int_equal(parse(longname, NULL, &m), TN_E_MALFORMED);
}

static void test_caps(void **state)
{
    json_t *regions = json_object(), *map = json_pack("{s:o}", "Regions", regions);
    char key[16];
    struct tn_derp_map *m = NULL;
    for (int i = 1; i <= TN_DERP_REGIONS_MAX + 1; i++) {
        snprintf(key, sizeof key, "%d", i);
        json_object_set_new(regions, key, json_object());
        if (i == TN_DERP_REGIONS_MAX) {
            assert_int_equal(tn_derp_map_parse(map, NULL, &m), 0);
            tn_derp_map_free(m);
        }
    }
    assert_int_equal(tn_derp_map_parse(map, NULL, &m), TN_E_TOOBIG);
    json_decref(map);
    json_t *nodes = json_array();
    for (int i = 0; i <= TN_DERP_NODES_MAX; i++) json_array_append_new(nodes, json_object());
    map = json_pack("{s:{s:{s:o}}}", "Regions", "1", "Nodes", nodes);
    assert_int_equal(tn_derp_map_parse(map, NULL, &m), TN_E_TOOBIG);
    json_decref(map);
}

static void test_scores_alone_and_kept(void **state)
{
    struct tn_derp_map *m = must_parse("{\"HomeParams\":{\"RegionScore\":{\"1\":2}},\"Regions\":{\"1\":{},\"2\":{}}}"), *next;
    assert_int_equal(parse("{\"HomeParams\":{\"RegionScore\":{\"2\":3}}}", m, &next), 0); /* no Regions: unchanged */
    assert_null(next);
    assert_true(m->regions[0].score == 1 && m->regions[1].score == 3);
    assert_int_equal(parse("{\"Regions\":{\"2\":{}}}", m, &next), 0); /* no HomeParams: unchanged */
    assert_true(next->regions[0].score == 3);
    tn_derp_map_free(next);
    assert_int_equal(parse("{\"HomeParams\":{\"RegionScore\":{}}}", m, &next), 0); /* empty resets */
    assert_true(m->regions[1].score == 1);
    assert_int_equal(parse("{\"HomeParams\":{\"RegionScore\":{\"2\":\"x\"}}}", m, &next), TN_E_MALFORMED);
    tn_derp_map_free(m);
}

static void test_equality(void **state)
{
    struct tn_derp_map *a = node_map("\"HostName\":\"h\",\"IPv4\":\"192.0.2.1\""),
        *b = node_map("\"HostName\":\"h\",\"IPv4\":\"192.0.2.1\"");
    struct tn_derp_map *c = node_map("\"HostName\":\"h\",\"IPv4\":\"192.0.2.2\"");
    assert_true(tn_derp_region_equal(a->regions, b->regions));
    assert_false(tn_derp_region_equal(a->regions, c->regions));
    assert_false(tn_derp_region_equal(a->regions, NULL));
    b->regions[0].score = 9; /* concerns the choice, not the connection */
    assert_true(tn_derp_region_equal(a->regions, b->regions));
    tn_derp_map_free(a);
    tn_derp_map_free(b);
    tn_derp_map_free(c);
}

static void test_learned_address(void **state)
{
    char buf[TN_ADDRPORT_STRLEN];
    struct tn_derp_map *m = node_map("\"HostName\":\"h\",\"IPv6\":\"none\"");
    struct tn_ip ip4 = tn_ip4(192, 0, 2, 5), ip6 = {.family = 6, .b = {0x20, 1}};
    assert_true(tn_derp_map_learn(m, 7, "n", &ip4));
    assert_false(tn_derp_map_learn(m, 7, "n", &ip4)); /* nothing new */
    assert_false(tn_derp_map_learn(m, 7, "n", &ip6)); /* family switched off */
    assert_false(tn_derp_map_learn(m, 7, "other", &ip4));
    assert_false(tn_derp_map_learn(m, 8, "n", &ip4));
    assert_string_equal(stun_of(m->regions[0].nodes, 4, buf), "192.0.2.5:3478");
    tn_derp_map_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_full_map),       cmocka_unit_test(test_stun_addresses),
        cmocka_unit_test(test_dial_and_certificates), cmocka_unit_test(test_preferred_family_first),
        cmocka_unit_test(test_malformed),      cmocka_unit_test(test_caps),
        cmocka_unit_test(test_scores_alone_and_kept), cmocka_unit_test(test_equality),
        cmocka_unit_test(test_learned_address),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
