/* Checks of the network on a virtual clock: a world of regions with latencies and NATs answers the probes. */
#include "../../../src/path/netcheck.c"
#include "util/rng.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>

#define SEC UINT64_C(1000000)
#define MS UINT64_C(1000)
enum { PENDING_MAX = 256 };

struct world {
    uint64_t seed;
    struct tn_rng rng;
    struct tn_derp_map *map;
    struct tn_netcheck *n;
    uint64_t now_us, start_us;
    uint64_t latency_us[10][2];      /* by region (last byte of the address) and family; 0: silent */
    unsigned lose_first;             /* per region and family, probes lost before the first is answered */
    bool hard_nat;
    unsigned seen[10][2];            /* probes received */
    uint64_t seen_at_us[10][2][8];
    struct pending {
        uint64_t at_us;
        uint8_t bytes[TN_STUN_RESPONSE_MAX];
        size_t len;
    } pending[PENDING_MAX];
    size_t npending;
    unsigned reports;
    uint64_t done_us;
    struct tn_netcheck_report last;
    struct tn_netcheck_region regions[16];
};

static void on_probe(void *ctx, const struct tn_addrport *to, const uint8_t *bytes, size_t len)
{
    struct world *w = ctx;
    uint8_t txid[12];
    int family = to->ip.family == 6, region = to->ip.b[family ? 15 : 3] % 10;
    assert_int_equal(tn_stun_request_parse(bytes, len, txid), 0);
    assert_int_equal(to->port, 3478);
    unsigned count = w->seen[region][family]++;
    if (count < 8) w->seen_at_us[region][family][count] = w->now_us - w->start_us;
    if (w->latency_us[region][family] == 0 || count < w->lose_first) return;
    struct tn_addrport me = {.ip = family ? (struct tn_ip){.family = 6, .b = {0x20, 1, 0xd, 0xb8}} : tn_ip4(198, 51,
                                                                                                            100, 7),
                             .port = (uint16_t)(w->hard_nat ? 1000 + region : 41641)};
    assert_true(w->npending < PENDING_MAX);
    struct pending *p = &w->pending[w->npending++];
    p->at_us = w->now_us + w->latency_us[region][family];
    p->len = tn_stun_response_put(p->bytes, txid, &me);
}

static void on_done(void *ctx, const struct tn_netcheck_report *r, uint64_t now_us)
{
    struct world *w = ctx;
    w->reports++;
    w->done_us = now_us - w->start_us;
    w->last = *r;
    assert_true(r->nregions <= 16);
    memcpy(w->regions, r->regions, r->nregions * sizeof *r->regions);
}

static const struct tn_netcheck_callbacks callbacks = {on_probe, on_done};

/* A map of n regions, each with one node: 192.0.2.<id> and 2001:db8::<id>. extra goes into region 1's node. */
static struct world *world_new(int n)
{
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    w->seed = 3;
    w->rng = tn_rng_seeded(&w->seed);
    w->now_us = 500 * SEC;
    json_t *regions = json_object(), *map = json_pack("{s:o}", "Regions", regions);
    for (int i = 1; i <= n; i++) {
        char id[8], v4[32], v6[32];
        snprintf(id, sizeof id, "%d", i);
        snprintf(v4, sizeof v4, "192.0.2.%d", i);
        snprintf(v6, sizeof v6, "2001:db8::%d", i);
        json_object_set_new(regions, id, json_pack("{s:[{s:s,s:s,s:s}]}", "Nodes", "HostName", "h", "IPv4", v4,
                                                   "IPv6", v6));
        w->latency_us[i][0] = (uint64_t)i * 10 * MS;
    }
    assert_int_equal(tn_derp_map_parse(map, NULL, &w->map), 0);
    json_decref(map);
    assert_int_equal(tn_netcheck_new(&w->rng, &callbacks, w, &w->n), 0);
    return w;
}

static void world_free(struct world *w)
{
    tn_netcheck_free(w->n);
    tn_derp_map_free(w->map);
    free(w);
}

static uint64_t next_event(const struct world *w, size_t *which)
{
    uint64_t at_us = tn_netcheck_next_deadline(w->n);
    *which = PENDING_MAX;
    for (size_t i = 0; i < w->npending; i++) {
        if (w->pending[i].at_us > at_us) continue;
        at_us = w->pending[i].at_us;
        *which = i;
    }
    return at_us;
}

/* Runs one check to its end. */
static void check(struct world *w, struct tn_netcheck_options o)
{
    unsigned before = w->reports;
    w->start_us = w->now_us;
    w->npending = 0;
    memset(w->seen, 0, sizeof w->seen);
    assert_int_equal(tn_netcheck_start(w->n, w->map, &o, w->now_us), 0);
    for (int guard = 0; w->reports == before; guard++) {
        size_t which;
        uint64_t at_us = next_event(w, &which);
        assert_true(guard < 1000 && at_us != TN_NEVER);
        if (at_us > w->now_us) w->now_us = at_us;
        if (which < PENDING_MAX) {
            struct pending p = w->pending[which];
            w->pending[which] = w->pending[--w->npending];
            tn_netcheck_input(w->n, p.bytes, p.len, w->now_us);
        }
        tn_netcheck_timeout(w->n, w->now_us);
    }
    assert_int_equal(w->reports, before + 1);
    assert_false(tn_netcheck_running(w->n));
    assert_true(tn_netcheck_next_deadline(w->n) == TN_NEVER);
}

static const struct tn_netcheck_options v4_only = {.have4 = true}, both = {.have4 = true, .have6 = true};

static void test_full_check(void **state)
{
    struct world *w = world_new(5);
    check(w, both);
    assert_true(w->last.full && w->last.udp && w->last.ipv4);
    assert_false(w->last.ipv6);
    assert_int_equal(w->last.mapping_varies, 0);
    assert_int_equal(w->regions[0].region, 1);
    assert_int_equal(w->regions[0].v4_us, 10 * MS);
    assert_int_equal(w->regions[0].v6_us, 0);
    /* the third answer came at 30 ms; twice the slowest of the three is 60 ms: over at 90 ms with all five */
    assert_int_equal(w->last.nregions, 5);
    assert_int_equal(w->done_us, 90 * MS);
    assert_int_equal(w->last.nglobals[0], 1);
    assert_int_equal(w->last.globals[0][0].count, 5);
    for (int i = 1; i <= 5; i++) assert_int_equal(w->seen[i][0], 1); /* an answered set asks no more */
    world_free(w);
}

static void test_three_tries_100ms_apart(void **state)
{
    struct world *w = world_new(1);
    w->lose_first = 2;
    check(w, v4_only);
    assert_int_equal(w->seen[1][0], 3);
    assert_int_equal(w->seen_at_us[1][0][1], 100 * MS);
    assert_int_equal(w->seen_at_us[1][0][2], 200 * MS);
    assert_int_equal(w->regions[0].v4_us, 10 * MS);
    w->lose_first = 3;
    check(w, (struct tn_netcheck_options){.have4 = true, .full = true});
    assert_false(w->last.udp);
    assert_int_equal(w->last.nregions, 0);
    assert_int_equal(w->last.mapping_varies, -1);
    assert_int_equal(w->done_us, 3 * SEC);
    world_free(w);
}

static void test_one_region_does_not_wait(void **state)
{
    struct world *w = world_new(1);
    check(w, both); /* IPv6 stays silent */
    assert_int_equal(w->done_us, 30 * MS); /* 10 ms and twice as much for stragglers */
    world_free(w);
}

static void test_mapping_varies(void **state)
{
    struct world *w = world_new(3);
    w->hard_nat = true;
    check(w, v4_only);
    assert_int_equal(w->last.mapping_varies, 1);
    assert_int_equal(w->last.nglobals[0], 3);
    assert_int_equal(w->last.globals[0][0].addr.port, 1001);
    world_free(w);
    w = world_new(1); /* one answer proves nothing */
    check(w, v4_only);
    assert_int_equal(w->last.mapping_varies, -1);
    world_free(w);
}

static void test_ipv6(void **state)
{
    struct world *w = world_new(3);
    for (int i = 1; i <= 3; i++) w->latency_us[i][1] = (uint64_t)i * 8 * MS;
    check(w, both);
    assert_true(w->last.ipv6);
    assert_int_equal(w->regions[0].v6_us, 8 * MS);
    assert_int_equal(w->last.nglobals[1], 1);
    world_free(w);
}

static void test_incremental_plan(void **state)
{
    struct world *w = world_new(6);
    check(w, v4_only);
    struct tn_netcheck_options o = {.have4 = true, .home = 6};
    w->now_us += 25 * SEC;
    w->latency_us[6][0] = 0; /* the home answers nothing: it is asked four times */
    check(w, o);
    assert_false(w->last.full);
    assert_int_equal(w->seen[1][0], 1);
    assert_int_equal(w->seen[2][0], 1);
    assert_int_equal(w->seen[3][0], 1);
    assert_int_equal(w->seen[4][0], 0);
    assert_int_equal(w->seen[5][0], 0);
    assert_int_equal(w->seen_at_us[6][0][0], 0);
    assert_true(w->seen[6][0] >= 1);
    world_free(w);
}

static void test_incremental_retries(void **state)
{
    struct world *w = world_new(2);
    check(w, v4_only);
    w->now_us += 25 * SEC;
    w->latency_us[1][0] = w->latency_us[2][0] = 0;
    check(w, (struct tn_netcheck_options){.have4 = true, .home = 2});
    assert_int_equal(w->seen[1][0], 2);                      /* among the two fastest */
    assert_int_equal(w->seen_at_us[1][0][1], 12 * MS);       /* 1.2 times its 10 ms */
    assert_int_equal(w->seen[2][0], 4);                      /* home */
    assert_int_equal(w->seen_at_us[2][0][1], 24 * MS);
    assert_int_equal(w->seen_at_us[2][0][2], 2 * 24 * MS + 100 * MS);
    assert_int_equal(w->seen_at_us[2][0][3], 3 * 24 * MS + 150 * MS);
    w->now_us += 25 * SEC; /* after a check without any answer everything is asked again */
    check(w, (struct tn_netcheck_options){.have4 = true, .home = 2});
    assert_true(w->last.full);
    world_free(w);
}

static void test_silent_region_is_asked_again(void **state)
{
    struct world *w = world_new(3);
    w->latency_us[3][0] = 0;
    check(w, v4_only);
    assert_int_equal(w->last.nregions, 2);
    w->now_us += 25 * SEC;
    w->latency_us[3][0] = 30 * MS; /* it came back; there is room for it among the three */
    check(w, (struct tn_netcheck_options){.have4 = true, .home = 1});
    assert_int_equal(w->seen[3][0], 1);
    assert_int_equal(w->last.nregions, 3);
    world_free(w);
}

static void test_dual_stack_takes_turns(void **state)
{
    struct world *w = world_new(4);
    for (int i = 1; i <= 4; i++) w->latency_us[i][1] = (uint64_t)i * 10 * MS;
    check(w, both);
    w->now_us += 25 * SEC;
    check(w, (struct tn_netcheck_options){.have4 = true, .have6 = true, .home = 1});
    assert_int_equal(w->seen[3][0], 1); /* third fastest: IPv4 this time */
    assert_int_equal(w->seen[3][1], 0);
    assert_int_equal(w->seen[4][0] + w->seen[4][1], 0);
    world_free(w);
}

static void test_no_family_nothing_to_ask(void **state)
{
    struct world *w = world_new(3);
    check(w, (struct tn_netcheck_options){0});
    assert_false(w->last.udp);
    assert_int_equal(w->done_us, 0);
    for (int i = 1; i <= 3; i++) assert_int_equal(w->seen[i][0], 0);
    world_free(w);
}

static void test_foreign_and_hostile_answers(void **state)
{
    struct world *w = world_new(1);
    uint8_t bytes[TN_STUN_RESPONSE_MAX], txid[12] = {9};
    struct tn_addrport me = {.ip = tn_ip4(1, 2, 3, 4), .port = 5};
    size_t len = tn_stun_response_put(bytes, txid, &me);
    tn_netcheck_input(w->n, bytes, len, w->now_us); /* nothing under way */
    assert_int_equal(tn_netcheck_start(w->n, w->map, &v4_only, w->now_us), 0);
    tn_netcheck_timeout(w->n, w->now_us);
    tn_netcheck_input(w->n, bytes, len, w->now_us); /* unknown transaction */
    assert_false(w->n->report.udp);
    memcpy(txid, w->n->sets[0].txid[0], sizeof txid);
    len = tn_stun_response_put(bytes, txid, &me);
    for (size_t n = 0; n < len; n++) tn_netcheck_input(w->n, bytes, n, w->now_us);
    assert_false(w->n->report.udp);
    memset(txid, 0, sizeof txid); /* the id of a probe that was never sent */
    size_t zero_len = tn_stun_response_put(bytes, txid, &me);
    tn_netcheck_input(w->n, bytes, zero_len, w->now_us);
    assert_false(w->n->report.udp);
    memcpy(txid, w->n->sets[0].txid[0], sizeof txid);
    len = tn_stun_response_put(bytes, txid, &me);
    tn_netcheck_input(w->n, bytes, len, w->now_us);
    tn_netcheck_input(w->n, bytes, len, w->now_us); /* twice counts once */
    assert_int_equal(w->n->report.globals[0][0].count, 1);
    world_free(w);
}

static void test_restart_drops_the_old_check(void **state)
{
    struct world *w = world_new(2);
    assert_int_equal(tn_netcheck_start(w->n, w->map, &v4_only, w->now_us), 0);
    tn_netcheck_timeout(w->n, w->now_us);
    check(w, v4_only);
    assert_int_equal(w->reports, 1);
    tn_netcheck_stop(w->n);
    tn_netcheck_timeout(w->n, w->now_us);
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_full_check),
        cmocka_unit_test(test_three_tries_100ms_apart),
        cmocka_unit_test(test_one_region_does_not_wait),
        cmocka_unit_test(test_mapping_varies),
        cmocka_unit_test(test_ipv6), cmocka_unit_test(test_incremental_plan),
        cmocka_unit_test(test_incremental_retries),
        cmocka_unit_test(test_silent_region_is_asked_again),
        cmocka_unit_test(test_dual_stack_takes_turns),
        cmocka_unit_test(test_no_family_nothing_to_ask),
        cmocka_unit_test(test_foreign_and_hostile_answers),
        cmocka_unit_test(test_restart_drops_the_old_check),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
