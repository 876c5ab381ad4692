/* Deltas against a naive model: a client that merges them must see what a fresh full map says. */
#include "support.h"
#include "../../../dev/maps.c"

static struct tn_dev_registry r;
static const struct tn_dev_tailnet tailnet = {
    .domain = "tailnet.test",
    .derp = {.host = "127.0.0.1", .derp_port = 8081, .stun_port = 8082, .cert_name = "sha256-raw:00"}};
static uint64_t seed;
static struct tn_rng rng;

static int setup(void **state)
{
    seed = 7;
    rng = tn_rng_seeded(&seed);
    tn_dev_registry_init(&r, &rng);
    return 0;
}

static int teardown(void **state)
{
    tn_dev_registry_fini(&r);
    return 0;
}

static struct tn_dev_node *add(unsigned i)
{
    struct tn_machine_public m = mkey(i);
    struct tn_node_public k = nkey(i);
    struct tn_dev_node *n;
    char name[16];
    snprintf(name, sizeof name, "host%u", i);
    assert_int_equal(tn_dev_registry_add(&r, &m, &k, name, 1000, &n), 0);
    return n;
}

static void set_hostinfo(struct tn_dev_node *n, const char *text)
{
    json_t *h = json_loads(text, 0, NULL);
    tn_dev_node_set_hostinfo(&r, n, h);
    json_decref(h);
}

static json_t *delta(const struct tn_dev_node *viewer, uint64_t since)
{
    json_t *d;
    assert_int_equal(tn_dev_maps_delta(&r, &tailnet, viewer, since, 2000, &d), 0);
    return d;
}

static void full_map(void **state)
{
    struct tn_dev_node *a = add(1), *b = add(2);
    set_hostinfo(b, "{\"Hostname\": \"host2\", \"BackendLogID\": \"x\", \"NetInfo\": {}, \"RoutableIPs\": "
                    "[\"0.0.0.0/0\", \"::/0\", \"10.0.0.0/8\", \"10.1.2.3/8\", \"junk\", 5], \"RequestTags\": "
                    "[\"tag:x\", \"y\", 3]}");
    json_t *m = tn_dev_maps_full(&r, &tailnet, a, 2000);
    assert_non_null(m);
    json_t *self = json_object_get(m, "Node"), *peers = json_object_get(m, "Peers");
    assert_string_equal(json_string_value(json_object_get(self, "Name")), "host1.tailnet.test.");
    assert_true(json_is_true(json_object_get(self, "MachineAuthorized")));
    assert_int_equal(json_array_size(json_object_get(self, "AllowedIPs")), 2);
    assert_int_equal(json_array_size(peers), 1);
    json_t *p = json_array_get(peers, 0), *allowed = json_object_get(p, "AllowedIPs");
    /* Two own addresses, both default routes, 10.0.0.0/8 twice: the second came with host bits and lost them. */
    assert_int_equal(json_array_size(allowed), 6);
    assert_string_equal(json_string_value(json_array_get(allowed, 2)), "0.0.0.0/0");
    assert_string_equal(json_string_value(json_array_get(json_object_get(p, "PrimaryRoutes"), 0)), "10.0.0.0/8");
    assert_int_equal(json_array_size(json_object_get(p, "Tags")), 1);
    assert_null(json_object_get(json_object_get(p, "Hostinfo"), "BackendLogID"));
    assert_null(json_object_get(json_object_get(p, "Hostinfo"), "NetInfo"));
    assert_null(json_object_get(p, "DiscoKey"));
    assert_null(json_object_get(p, "KeyExpiry"));
    assert_true(json_is_false(json_object_get(p, "Online")));
    json_t *region = json_object_get(json_object_get(json_object_get(m, "DERPMap"), "Regions"), "900");
    json_t *node = json_array_get(json_object_get(region, "Nodes"), 0);
    assert_string_equal(json_string_value(json_object_get(node, "CertName")), "sha256-raw:00");
    assert_null(json_object_get(node, "InsecureForTests"));
    assert_int_equal(json_integer_value(json_object_get(node, "STUNPort")), 8082);
    assert_true(json_array_size(json_object_get(m, "PacketFilter")) > 0);
    json_decref(m);

    struct tn_dev_tailnet closed = tailnet;
    closed.refuse_exit_nodes = true;
    json_t *n = tn_dev_maps_node(&closed, b, false, 2000);
    assert_int_equal(json_array_size(json_object_get(n, "AllowedIPs")), 4);
    json_decref(n);
    closed.refuse_routes = true;
    n = tn_dev_maps_node(&closed, b, false, 2000);
    assert_int_equal(json_array_size(json_object_get(n, "AllowedIPs")), 2);
    assert_null(json_object_get(n, "PrimaryRoutes"));
    json_decref(n);
}

static void alone_or_expired_there_are_no_peers(void **state)
{
    struct tn_dev_node *a = add(1);
    json_t *m = tn_dev_maps_full(&r, &tailnet, a, 2000);
    assert_null(json_object_get(m, "Peers")); /* absent, never [] */
    json_decref(m);
    add(2);
    tn_dev_node_set_expiry(&r, a, 1500);
    m = tn_dev_maps_full(&r, &tailnet, a, 2000);
    assert_null(json_object_get(m, "Peers"));
    assert_true(json_is_true(json_object_get(json_object_get(m, "Node"), "Expired")));
    json_decref(m);
    uint64_t since = r.gen;
    add(3);
    assert_null(delta(a, since));
}

static void what_goes_where(void **state)
{
    struct tn_dev_node *a = add(1), *b = add(2);
    uint64_t since = r.gen;
    assert_null(delta(a, since));
    tn_dev_node_set_online(&r, b, true, 2000);
    json_t *d = delta(a, since);
    assert_int_equal(json_object_size(d), 1);
    json_t *patch_ = json_array_get(json_object_get(d, "PeersChangedPatch"), 0);
    assert_int_equal(json_integer_value(json_object_get(patch_, "NodeID")), b->id);
    assert_true(json_is_true(json_object_get(patch_, "Online")));
    assert_int_equal(json_object_size(patch_), 2);
    json_decref(d);
    assert_null(delta(b, since)); /* nobody hears of himself by patches */

    since = r.gen;
    struct tn_node_public k = nkey(99);
    tn_dev_node_set_key(&r, b, &k);
    d = delta(a, since);
    assert_int_equal(json_array_size(json_object_get(d, "PeersChanged")), 1);
    assert_null(json_object_get(d, "PeersChangedPatch"));
    json_decref(d);
    d = delta(b, since);
    assert_non_null(json_object_get(d, "Node"));
    json_decref(d);

    since = r.gen;
    int64_t id = b->id;
    tn_dev_registry_remove(&r, b);
    tn_dev_registry_remove(&r, add(3)); /* came and went in between: never mentioned */
    d = delta(a, since);
    assert_int_equal(json_object_size(d), 1);
    assert_int_equal(json_array_size(json_object_get(d, "PeersRemoved")), 1);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(d, "PeersRemoved"), 0)), id);
    json_decref(d);
}

static void what_became_empty_goes_whole(void **state)
{
    struct tn_dev_node *a = add(1), *b = add(2);
    json_t *eps = json_loads("[\"192.0.2.1:1\"]", 0, NULL);
    tn_dev_node_set_endpoints(&r, b, eps);
    json_decref(eps);
    uint64_t since = r.gen;
    tn_dev_node_set_endpoints(&r, b, NULL);
    json_t *d = delta(a, since);
    assert_int_equal(json_array_size(json_object_get(d, "PeersChanged")), 1);
    json_decref(d);
}

static void a_stream_too_far_behind(void **state)
{
    struct tn_dev_node *a = add(1);
    uint64_t since = r.gen;
    json_t *d;
    for (unsigned i = 0; i <= TN_DEV_REMOVED_MAX; i++) tn_dev_registry_remove(&r, add(2));
    assert_int_equal(tn_dev_maps_delta(&r, &tailnet, a, since, 2000, &d), TN_E_LIMIT);
    assert_null(d);
}

/* --- the model --- */

static int find(json_t *peers, json_int_t id)
{
    size_t i;
    json_t *p;
    json_array_foreach (peers, i, p)
        if (json_integer_value(json_object_get(p, "ID")) == id) return (int)i;
    return -1;
}

static void merge(json_t *peers, json_t *d)
{
    size_t i;
    json_t *v;
    json_array_foreach (json_object_get(d, "PeersRemoved"), i, v) {
        int at = find(peers, json_integer_value(v));
        assert_true(at >= 0);
        json_array_remove(peers, (size_t)at);
    }
    json_array_foreach (json_object_get(d, "PeersChanged"), i, v) {
        int at = find(peers, json_integer_value(json_object_get(v, "ID")));
        if (at >= 0) json_array_set(peers, (size_t)at, v);
        else json_array_append(peers, v);
    }
    json_array_foreach (json_object_get(d, "PeersChangedPatch"), i, v) {
        int at = find(peers, json_integer_value(json_object_get(v, "NodeID")));
        assert_true(at >= 0);
        json_t *p = json_array_get(peers, (size_t)at), *value;
        const char *key;
        json_object_foreach (v, key, value) {
            if (strcmp(key, "NodeID") == 0) continue;
            json_object_set(p, strcmp(key, "DERPRegion") == 0 ? "HomeDERP" : key, value);
        }
    }
}

/* What a patch cannot or need not carry: the client derives Expired from KeyExpiry, and LastSeen of an online peer
 * means nothing. */
static json_t *normal(json_t *peers)
{
    json_t *out = json_deep_copy(peers), *p;
    size_t i;
    json_array_foreach (out, i, p) {
        json_object_del(p, "Expired");
        json_object_del(p, "LastSeen");
    }
    return out;
}

static int by_id(const void *a, const void *b)
{
    json_int_t x = json_integer_value(json_object_get(*(json_t *const *)a, "ID"));
    json_int_t y = json_integer_value(json_object_get(*(json_t *const *)b, "ID"));
    return x < y ? -1 : x > y;
}

static json_t *sorted(json_t *peers)
{
    json_t *list[64], *out = json_array();
    size_t n = json_array_size(peers);
    assert_true(n <= 64);
    for (size_t i = 0; i < n; i++) list[i] = json_array_get(peers, i);
    qsort(list, n, sizeof *list, by_id);
    for (size_t i = 0; i < n; i++) json_array_append(out, list[i]);
    return out;
}

static void check_model(const struct tn_dev_node *viewer, json_t *model)
{
    json_t *full = tn_dev_maps_full(&r, &tailnet, viewer, 2000);
    json_t *peers = json_object_get(full, "Peers"), *none = json_array();
    json_t *x = normal(peers ? peers : none), *in_order = sorted(model), *y = normal(in_order);
    if (!json_equal(x, y)) {
        char *want = json_dumps(x, JSON_INDENT(1)), *have = json_dumps(y, JSON_INDENT(1));
        print_message("want %s\nhave %s\n", want, have);
        free(want);
        free(have);
        fail();
    }
    json_decref(x);
    json_decref(y);
    json_decref(in_order);
    json_decref(none);
    json_decref(full);
}

static struct tn_dev_node *any_but(const struct tn_dev_node *viewer)
{
    size_t want = tn_rng_below(&rng, r.count), i = 0;
    TN_LIST_EACH (l, &r.nodes) {
        struct tn_dev_node *n = TN_CONTAINER(l, struct tn_dev_node, link);
        if (i++ == want) return n == viewer ? NULL : n;
    }
    return NULL;
}

static void random_change(const struct tn_dev_node *viewer, unsigned *next)
{
    unsigned what = (unsigned)tn_rng_below(&rng, 10), x = (unsigned)tn_rng_below(&rng, 3);
    struct tn_dev_node *n = any_but(viewer);
    if (what == 0 && r.count < 40) add((*next)++);
    if (what == 0 || !n) return;
    struct tn_disco_public d = x ? dkey(x) : (struct tn_disco_public){0};
    struct tn_node_public k = nkey(5000 + (*next)++);
    char text[96];
    snprintf(text, sizeof text, x ? "[\"192.0.2.%u:1\"]" : "[]", x);
    json_t *eps = json_loads(text, 0, NULL);
    snprintf(text, sizeof text, "{\"Hostname\": \"h%u\", \"RoutableIPs\": [\"10.%u.0.0/16\"]}", x, x);
    switch (what) {
    case 1: tn_dev_registry_remove(&r, n); break;
    case 2: tn_dev_node_set_endpoints(&r, n, eps); break;
    case 3: tn_dev_node_set_disco(&r, n, &d); break;
    case 4: tn_dev_node_set_home_derp(&r, n, (int)x * 900); break;
    case 5: tn_dev_node_set_cap(&r, n, (int)x * 113); break;
    case 6: tn_dev_node_set_online(&r, n, x != 0, 1900); break;
    case 7: tn_dev_node_set_expiry(&r, n, x * 1500); break;
    case 8: set_hostinfo(n, text); break;
    case 9: tn_dev_node_set_key(&r, n, &k); break;
    }
    json_decref(eps);
}

static void deltas_make_the_full_map(void **state)
{
    struct tn_dev_node *viewer = add(1);
    json_t *model = json_array();
    uint64_t since = r.gen;
    unsigned next = 2;
    for (int round = 0; round < 3000; round++) {
        for (uint64_t n = tn_rng_below(&rng, 6); n; n--) random_change(viewer, &next);
        json_t *d = delta(viewer, since);
        since = r.gen;
        if (d) merge(model, d);
        json_decref(d);
        if (round % 10 == 0) check_model(viewer, model);
    }
    check_model(viewer, model);
    json_decref(model);
}

static void times(void **state)
{
    char buf[32];
    int64_t t;
    assert_string_equal(tn_dev_rfc3339(0, buf), "1970-01-01T00:00:00Z");
    assert_int_equal(tn_dev_rfc3339_parse("1970-01-01T00:02:03Z", &t), 0);
    assert_int_equal(t, 123);
    assert_int_equal(tn_dev_rfc3339_parse("2026-11-22T18:54:55.158470935+01:00", &t), 0);
    assert_string_equal(tn_dev_rfc3339(t, buf), "2026-11-22T17:54:55Z");
    assert_int_equal(tn_dev_rfc3339_parse("0001-01-01T00:00:00Z", &t), 0);
    assert_int_equal(t, 0);
    static const char *const bad[] = {"", "2026", "2026-11-22", "2026-11-22T17:54:55", "2026-13-22T17:54:55Z",
                                      "2026-11-22T17:54:55Zx", "2026-11-22 17:54:55Z", "2026-11-22T17:54:55.Z",
                                      "2026-11-22T17:54:55+1:00", "2026-11-22T25:54:55Z"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(tn_dev_rfc3339_parse(bad[i], &t), TN_E_MALFORMED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(full_map, setup, teardown),
        cmocka_unit_test_setup_teardown(alone_or_expired_there_are_no_peers, setup, teardown),
        cmocka_unit_test_setup_teardown(what_goes_where, setup, teardown),
        cmocka_unit_test_setup_teardown(what_became_empty_goes_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(a_stream_too_far_behind, setup, teardown),
        cmocka_unit_test_setup_teardown(deltas_make_the_full_map, setup, teardown),
        cmocka_unit_test(times),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
