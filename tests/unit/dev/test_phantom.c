#include "support.h"
#include "../../../dev/phantom.c"
#include "dev/maps.h"

enum { COUNT = 50, NOW = 1700000000 };

static struct tn_dev_registry r;
static struct tn_dev_phantoms p;
static struct tn_dev_node *viewer;
static const struct tn_dev_tailnet tailnet = {.domain = "tailnet.test",
                                              .derp = {.host = "192.0.2.1", .derp_port = 1, .stun_port = 2, .cert_name = "x"}};

static int setup(void **state)
{
    static uint64_t seed = 7;
    struct tn_rng rng = tn_rng_seeded(&seed);
    struct tn_machine_public m = mkey(1);
    struct tn_node_public k = nkey(1);
    tn_dev_registry_init(&r, &rng);
    assert_int_equal(tn_dev_registry_add(&r, &m, &k, "real", NOW, &viewer), 0);
    assert_int_equal(tn_dev_phantoms_init(&p, &r, COUNT, &rng, NOW), 0);
    return 0;
}

static int teardown(void **state)
{
    tn_dev_phantoms_fini(&p);
    tn_dev_registry_fini(&r);
    return 0;
}

/* Whatever a client looks for in a peer is there. */
static void others_see_nodes(void **state)
{
    json_t *full = tn_dev_maps_full(&r, &tailnet, viewer, NOW), *peer;
    json_t *peers = json_object_get(full, "Peers");
    size_t i, online = 0;
    assert_int_equal(json_array_size(peers), COUNT);
    json_array_foreach (peers, i, peer) {
        assert_int_equal(json_array_size(json_object_get(peer, "Addresses")), 2);
        assert_int_equal(json_array_size(json_object_get(peer, "Endpoints")), 4);
        assert_int_equal(json_integer_value(json_object_get(peer, "HomeDERP")), TN_DEV_REGION);
        assert_non_null(json_object_get(peer, "DiscoKey"));
        assert_null(json_object_get(peer, "Expired"));
        assert_int_equal(json_array_size(json_object_get(json_object_get(peer, "Hostinfo"), "Services")), 3);
        online += json_is_true(json_object_get(peer, "Online"));
        assert_true(json_is_true(json_object_get(peer, "Online")) || json_object_get(peer, "LastSeen"));
    }
    assert_int_equal(online, COUNT / 10 * ONLINE_OF_TEN);
    json_decref(full);
}

static json_t *churn(void)
{
    json_t *delta;
    uint64_t since = r.gen;
    tn_dev_phantoms_churn(&p, NOW + 60);
    assert_int_equal(tn_dev_maps_delta(&r, &tailnet, viewer, since, NOW + 60, &delta), 0);
    assert_non_null(delta);
    return delta;
}

static void each_churn_is_one_delta_of_its_kind(void **state)
{
    static const char *const in_patch[] = {"Online", "Endpoints", "DiscoKey", "Online", NULL, "KeyExpiry", NULL};
    for (int i = 0; i < 70; i++) {
        json_t *d = churn(), *patches = json_object_get(d, "PeersChangedPatch");
        size_t whole = json_array_size(json_object_get(d, "PeersChanged"));
        size_t gone = json_array_size(json_object_get(d, "PeersRemoved"));
        const char *field = in_patch[i % 7];
        assert_int_equal(json_array_size(patches), field ? 1 : 0);
        if (field) assert_non_null(json_object_get(json_array_get(patches, 0), field));
        assert_int_equal(whole, i % 7 == 4 || i % 7 == 6);
        assert_int_equal(gone, i % 7 == 6);
        assert_int_equal(p.count, COUNT);
        json_decref(d);
    }
}

static void they_are_not_saved(void **state)
{
    json_t *dump = tn_dev_registry_dump(&r);
    assert_int_equal(json_array_size(json_object_get(dump, "nodes")), 1);
    struct tn_dev_registry again;
    uint64_t seed = 2;
    struct tn_rng rng = tn_rng_seeded(&seed);
    tn_dev_registry_init(&again, &rng);
    assert_int_equal(tn_dev_registry_load(&again, dump), 0);
    assert_true(again.next_id == r.next_id); /* an id that a client may remember is nobody else's later */
    tn_dev_registry_fini(&again);
    json_decref(dump);
}

static void too_many(void **state)
{
    struct tn_dev_phantoms q;
    uint64_t seed = 3;
    struct tn_rng rng = tn_rng_seeded(&seed);
    assert_int_equal(tn_dev_phantoms_init(&q, &r, TN_DEV_PHANTOMS_MAX + 1, &rng, NOW), TN_E_INVAL);
    assert_int_equal(tn_dev_phantoms_init(&q, &r, 0, &rng, NOW), 0);
    tn_dev_phantoms_churn(&q, NOW); /* none: nothing happens */
}

static void one_a_period(void **state)
{
    struct tn_heap timers;
    struct tn_dev_now now = {.us = 1000000, .unix_s = NOW};
    struct tn_dev_ctl_config cc = {.registry = &r, .tailnet = &tailnet, .base_url = "x"};
    struct tn_dev_ctl *ctl;
    assert_int_equal(tn_dev_ctl_new(&cc, now, &ctl), 0);
    tn_heap_init(&timers);
    tn_dev_phantoms_start(&p, ctl, &timers, 30000, now);
    for (int ms = 0; ms < 3000; ms++) {
        now.us += 1000;
        tn_dev_timers_run(&timers, NULL, now);
    }
    assert_int_equal(p.churned, 100);
    assert_true(tn_dev_ctl_next_deadline(ctl) != TN_NEVER); /* streams will hear of it */
    tn_timer_stop(&timers, &p.churn.t);
    tn_heap_fini(&timers);
    tn_dev_ctl_free(ctl);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(others_see_nodes), T(each_churn_is_one_delta_of_its_kind), T(they_are_not_saved),
                                       T(too_many), T(one_a_period)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
