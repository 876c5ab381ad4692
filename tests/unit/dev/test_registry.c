#include "support.h"
#include "../../../dev/registry.c"

static struct tn_dev_registry r;

static int setup(void **state)
{
    uint64_t seed = 1;
    struct tn_rng rng = tn_rng_seeded(&seed);
    tn_dev_registry_init(&r, &rng);
    return 0;
}

static int teardown(void **state)
{
    tn_dev_registry_fini(&r);
    return 0;
}

static struct tn_dev_node *add(unsigned i, const char *hostname)
{
    struct tn_machine_public m = mkey(i);
    struct tn_node_public k = nkey(i);
    struct tn_dev_node *n;
    assert_int_equal(tn_dev_registry_add(&r, &m, &k, hostname, 1000 + i, &n), 0);
    return n;
}

static void labels(void **state)
{
    static const struct {
        const char *in, *out;
    } cases[] = {{"Laptop", "laptop"},   {"a.b.c", "a"},           {"my_host!x", "my-host-x"}, {"--x--", "x"},
                 {"", "node"},           {"...", "node"},          {"\xc3\xa9t\xc3\xa9", "t"}, {"a  b", "a-b"},
                 {"UPPER-Case", "upper-case"}};
    char label[TN_DEV_LABEL_MAX + 1], longer[200];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tn_dev_label(cases[i].in, label);
        assert_string_equal(label, cases[i].out);
    }
    memset(longer, 'a', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    tn_dev_label(longer, label);
    assert_int_equal(strlen(label), 63);
    memset(longer, 'a', 62);
    longer[62] = '-';
    tn_dev_label(longer, label); /* the cut must not leave a hyphen at the end */
    assert_int_equal(strlen(label), 62);
}

static void names_are_unique(void **state)
{
    assert_string_equal(add(1, "web")->name, "web");
    assert_string_equal(add(2, "Web")->name, "web-1");
    assert_string_equal(add(3, "web.example.org")->name, "web-2");
    tn_dev_registry_remove(&r, tn_dev_registry_by_name(&r, "web-1"));
    assert_string_equal(add(4, "web")->name, "web-1");
    char longest[64];
    memset(longest, 'x', 63);
    longest[63] = '\0';
    add(5, longest);
    struct tn_dev_node *n = add(6, longest);
    assert_true(strlen(n->name) <= 63);
    assert_string_not_equal(n->name, longest);
}

static void one_key_one_machine_one_node(void **state)
{
    struct tn_dev_node *n, *a = add(1, "a");
    struct tn_machine_public m1 = mkey(1), m2 = mkey(2);
    struct tn_node_public k1 = nkey(1), k2 = nkey(2);
    assert_int_equal(tn_dev_registry_add(&r, &m2, &k1, "b", 0, &n), TN_E_EXIST);
    assert_int_equal(tn_dev_registry_add(&r, &m1, &k2, "b", 0, &n), TN_E_EXIST);
    struct tn_dev_node *b = add(2, "b");
    assert_int_equal(tn_dev_node_set_key(&r, b, &k1), TN_E_EXIST);
    struct tn_node_public k3 = nkey(3);
    assert_int_equal(tn_dev_node_set_key(&r, b, &k3), 0);
    assert_ptr_equal(tn_dev_registry_by_key(&r, &k3), b);
    assert_null(tn_dev_registry_by_key(&r, &k2));
    assert_ptr_equal(tn_dev_registry_by_machine(&r, &m1), a);
    assert_ptr_equal(tn_dev_registry_by_id(&r, b->id), b);
}

static void addresses(void **state)
{
    char text[TN_IP_STRLEN];
    struct tn_dev_node *n = add(1, "a");
    struct tn_ip v4 = tn_dev_node_ip4(n), v6 = tn_dev_node_ip6(n);
    assert_string_equal(tn_ip_format(&v4, text), "100.64.0.1");
    assert_string_equal(tn_ip_format(&v6, text), "fd7a:115c:a1e0::1");
    assert_true(tn_ip_is_tailnet(&v4) && tn_ip_is_tailnet(&v6));
    /* A freed address is the last to be given out again. */
    tn_dev_registry_remove(&r, n);
    assert_int_equal(add(2, "b")->host, 2);
    /* fd7a:115c:a1e0::53 belongs to MagicDNS. */
    r.last_host = 0x52;
    assert_int_equal(add(3, "c")->host, 0x54);
    /* The search wraps and skips what is taken. */
    r.last_host = HOST_LAST;
    assert_int_equal(add(4, "d")->host, 1);
    r.last_host = HOST_LAST;
    assert_int_equal(add(5, "e")->host, 3);
}

static void capacity(void **state)
{
    for (unsigned i = 0; i < TN_DEV_NODES_MAX; i++) {
        struct tn_machine_public m = mkey(i);
        struct tn_node_public k = nkey(i);
        struct tn_dev_node *n;
        char name[16];
        snprintf(name, sizeof name, "h%u", i);
        assert_int_equal(tn_dev_registry_add(&r, &m, &k, name, 0, &n), 0);
        assert_int_not_equal(n->host, HOST_QUAD100);
    }
    struct tn_machine_public m = mkey(60000);
    struct tn_node_public k = nkey(60000);
    struct tn_dev_node *n;
    assert_int_equal(tn_dev_registry_add(&r, &m, &k, "more", 0, &n), TN_E_LIMIT);
}

static void endpoints_that_peers_can_use(void **state)
{
    struct tn_dev_node *n = add(1, "a");
    json_t *eps = json_loads("[\"192.0.2.1:41641\", \"[fe80::1]:5\", \"[fe80::1%eth0]:5\", \"nonsense\", 7, null, "
                             "\"192.0.2.1:0\", \"224.0.0.1:9\", \"[2001:db8::1]:41641\"]",
                             0, NULL);
    uint64_t gen = r.gen;
    assert_true(tn_dev_node_set_endpoints(&r, n, eps));
    assert_int_equal(n->at_endpoints, gen + 1);
    assert_int_equal(json_array_size(n->endpoints), 2);
    assert_string_equal(json_string_value(json_array_get(n->endpoints, 1)), "[2001:db8::1]:41641");
    assert_false(tn_dev_node_set_endpoints(&r, n, eps));
    assert_int_equal(r.gen, gen + 1);
    assert_true(tn_dev_node_set_endpoints(&r, n, NULL)); /* absent is empty here */
    json_array_clear(eps);
    for (int i = 0; i < 200; i++) {
        char text[32];
        snprintf(text, sizeof text, "192.0.2.1:%d", i + 1);
        json_array_append_new(eps, json_string(text));
    }
    tn_dev_node_set_endpoints(&r, n, eps);
    assert_int_equal(json_array_size(n->endpoints), TN_DEV_ENDPOINTS_MAX);
    json_decref(eps);
}

static bool hostinfo(struct tn_dev_node *n, const char *text)
{
    json_t *h = json_loads(text, 0, NULL);
    assert_non_null(h);
    bool changed = tn_dev_node_set_hostinfo(&r, n, h);
    json_decref(h);
    return changed;
}

static void hostinfo_and_names(void **state)
{
    struct tn_dev_node *n = add(1, "a"), *other = add(2, "b");
    assert_true(hostinfo(n, "{\"Hostname\": \"a\", \"NetInfo\": {\"PreferredDERP\": 1}}"));
    uint64_t whole = n->whole;
    /* Latencies alone are nobody's business. */
    assert_true(hostinfo(n, "{\"Hostname\": \"a\", \"NetInfo\": {\"PreferredDERP\": 1, \"X\": 2}}"));
    assert_int_equal(n->whole, whole);
    assert_false(hostinfo(n, "{\"Hostname\": \"a\", \"NetInfo\": {\"PreferredDERP\": 1, \"X\": 2}}"));
    assert_true(hostinfo(n, "{\"Hostname\": \"B\"}"));
    assert_true(n->whole > whole);
    assert_string_equal(n->name, "b-1");
    /* The suffix belongs to the name: the same hostname does not rename again, even when the plain one gets free. */
    tn_dev_registry_remove(&r, other);
    hostinfo(n, "{\"Hostname\": \"b\", \"App\": \"x\"}");
    assert_string_equal(n->name, "b-1");
}

static void online_and_expiry(void **state)
{
    struct tn_dev_node *n = add(1, "a");
    assert_true(tn_dev_node_set_online(&r, n, true, 50));
    assert_false(tn_dev_node_set_online(&r, n, true, 60));
    assert_int_equal(n->last_seen, 60);
    assert_false(tn_dev_node_expired(n, 1000));
    assert_true(tn_dev_node_set_expiry(&r, n, 100));
    assert_false(tn_dev_node_expired(n, 99));
    assert_true(tn_dev_node_expired(n, 100));
    uint64_t whole = n->whole;
    assert_true(tn_dev_node_set_expiry(&r, n, 0)); /* needs the whole node: a patch can't say never */
    assert_true(n->whole > whole);
}

static void removals_are_remembered(void **state)
{
    struct tn_dev_node *n = add(1, "a");
    int64_t id = n->id;
    tn_dev_registry_remove(&r, n);
    assert_int_equal(r.nremoved, 1);
    assert_int_equal(r.removed[0].id, id);
    assert_int_equal(r.forgotten, 0);
    for (unsigned i = 0; i < TN_DEV_REMOVED_MAX; i++) tn_dev_registry_remove(&r, add(2, "b"));
    assert_int_not_equal(r.forgotten, 0);
    assert_int_not_equal(add(3, "c")->id, id); /* ids are never used twice */
}

/* --- the file's form --- */

static void fill(void)
{
    struct tn_dev_node *n = add(1, "web");
    struct tn_disco_public d = dkey(1);
    tn_dev_node_set_disco(&r, n, &d);
    tn_dev_node_set_home_derp(&r, n, 900);
    hostinfo(n, "{\"Hostname\": \"web\", \"RoutableIPs\": [\"0.0.0.0/0\"]}");
    n = add(2, "web");
    n->ephemeral = true;
    tn_dev_node_set_expiry(&r, n, 4711);
    tn_dev_registry_remove(&r, add(3, "gone"));
}

static int load_text(const char *text, size_t len, struct tn_dev_registry *into)
{
    uint64_t seed = 2;
    struct tn_rng rng = tn_rng_seeded(&seed);
    tn_dev_registry_init(into, &rng);
    json_t *o = json_loadb(text, len, 0, NULL);
    int err = o ? tn_dev_registry_load(into, o) : TN_E_STATE;
    json_decref(o);
    return err;
}

static void round_trip(void **state)
{
    fill();
    json_t *dump = tn_dev_registry_dump(&r);
    char *text = json_dumps(dump, 0);
    struct tn_dev_registry two;
    assert_int_equal(load_text(text, strlen(text), &two), 0);
    assert_int_equal(two.count, 2);
    struct tn_machine_public m = mkey(2);
    struct tn_dev_node *n = tn_dev_registry_by_machine(&two, &m);
    assert_non_null(n);
    assert_string_equal(n->name, "web-1");
    assert_true(n->ephemeral && !n->online);
    assert_int_equal(n->expiry, 4711);
    assert_int_equal(n->id, 2);
    assert_int_equal(two.next_id, 4); /* the removed one's id stays used */
    assert_int_equal(two.last_host, 3);
    json_t *again = tn_dev_registry_dump(&two);
    assert_true(json_equal(dump, again));
    json_decref(again);
    json_decref(dump);
    tn_dev_registry_fini(&two);

    struct tn_dev_registry part;
    for (size_t len = 0; len < strlen(text); len++) { /* a file that was cut is no tailnet */
        assert_int_equal(load_text(text, len, &part), TN_E_STATE);
        tn_dev_registry_fini(&part);
    }
    free(text);
}

static void contradictions_are_refused(void **state)
{
    static const char *const members[] = {"id", "key", "machine", "disco", "name", "host", "created", "ephemeral",
                                          "hostinfo"};
    fill();
    struct tn_dev_registry two;
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        json_t *dump = tn_dev_registry_dump(&r);
        json_object_del(json_array_get(json_object_get(dump, "nodes"), 0), members[i]);
        char *text = json_dumps(dump, 0);
        assert_int_equal(load_text(text, strlen(text), &two), TN_E_STATE);
        assert_int_equal(two.count, 0);
        tn_dev_registry_fini(&two);
        free(text);
        json_decref(dump);
    }
    static const char *const unique[] = {"id", "key", "machine", "name", "host"};
    for (size_t i = 0; i < sizeof unique / sizeof *unique; i++) { /* the second node takes what the first has */
        json_t *dump = tn_dev_registry_dump(&r), *nodes = json_object_get(dump, "nodes");
        json_object_set(json_array_get(nodes, 1), unique[i], json_object_get(json_array_get(nodes, 0), unique[i]));
        char *text = json_dumps(dump, 0);
        assert_int_equal(load_text(text, strlen(text), &two), TN_E_STATE);
        tn_dev_registry_fini(&two);
        free(text);
        json_decref(dump);
    }
    static const char *const bad[] = {"[]", "{}", "{\"version\": 2, \"next_id\": 1, \"last_host\": 0, \"nodes\": []}",
                                      "{\"version\": 1, \"next_id\": 0, \"last_host\": 0, \"nodes\": []}",
                                      "{\"version\": 1, \"next_id\": 1, \"last_host\": 70000, \"nodes\": []}",
                                      "{\"version\": 1, \"next_id\": 1, \"last_host\": 0, \"nodes\": {}}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(load_text(bad[i], strlen(bad[i]), &two), TN_E_STATE);
        tn_dev_registry_fini(&two);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(labels, setup, teardown),
        cmocka_unit_test_setup_teardown(names_are_unique, setup, teardown),
        cmocka_unit_test_setup_teardown(one_key_one_machine_one_node, setup, teardown),
        cmocka_unit_test_setup_teardown(addresses, setup, teardown),
        cmocka_unit_test_setup_teardown(capacity, setup, teardown),
        cmocka_unit_test_setup_teardown(endpoints_that_peers_can_use, setup, teardown),
        cmocka_unit_test_setup_teardown(hostinfo_and_names, setup, teardown),
        cmocka_unit_test_setup_teardown(online_and_expiry, setup, teardown),
        cmocka_unit_test_setup_teardown(removals_are_remembered, setup, teardown),
        cmocka_unit_test_setup_teardown(round_trip, setup, teardown),
        cmocka_unit_test_setup_teardown(contradictions_are_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
