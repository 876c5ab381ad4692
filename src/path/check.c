/* When the network is looked at, and what follows: the home region, endpoints, NetInfo (magicsock.go
 * updateEndpoints, updateNetInfo, ReSTUN; derp.go maybeSetNearestDERP).
 *
 * Checks run at the start, on a new map or link, when the home connection is lost, and every 20 to 26 s while data
 * flows (so that NAT mappings stay open and are known); every fifth minute's is a full one. When a check finds no
 * UDP at all, the regions are timed over HTTPS instead; failing that, the home is a region picked by our key, the
 * same each time.
 *
 * Peers find us at the region we advertise, so that must be one we are connected to. `advertised` follows the home
 * only once the home's connection is up, and stays connected until then. A home that can't be connected is passed
 * over for five minutes when others answer. While control is unreachable the home does not move: nobody would
 * learn of it. */
#include "path/internal.h"
#include "path/latency_check.h"
#include "util/err.h"
#include "util/heap.h"

#include <stdlib.h>

enum {
    PERIOD_MIN_US = 20 * 1000000, PERIOD_SPREAD_US = 6 * 1000000, /* just under the 30 s of common NATs */
    ACTIVE_US = 45 * 1000000,       /* magicsock's sessionActiveTimeout */
    FULL_US = 300 * 1000000,
    BAD_US = 300 * 1000000,
    FAILURES_BAD = 3,               /* failed connects after which another home is sought */
};

static void begin(struct tn_path *p, uint64_t now_us);

static bool busy(const struct tn_path *p) { return tn_netcheck_running(p->netcheck) || p->latency_check; }

/* ---- the home region ---- */

static bool usable(void *ctx, int region)
{
    const struct tn_path *p = ctx;
    for (size_t i = 0; i < TN_PATH_BAD_MAX; i++)
        if (p->bad[i].region == region && p->now_us < p->bad[i].until_us) return false;
    return tn_derp_set_failures(p->derp, region) < FAILURES_BAD;
}

static void forget_bad(struct tn_path *p, int region)
{
    for (size_t i = 0; i < TN_PATH_BAD_MAX; i++)
        if (p->bad[i].region == region) p->bad[i].region = 0;
}

static void note_bad(struct tn_path *p, int region, uint64_t now_us)
{
    forget_bad(p, region);
    p->bad[p->next_bad++ % TN_PATH_BAD_MAX] = (struct tn_path_bad){region, now_us + BAD_US};
}

/* One of the eligible regions, always the same for our node key and map. */
static int fallback_region(const struct tn_path *p)
{
    uint64_t seed;
    size_t n = 0;
    for (size_t i = 0; i < p->map->nregions; i++) n += tn_derp_region_eligible(&p->map->regions[i]);
    if (n == 0) return 0;
    memcpy(&seed, p->node_public.b, sizeof seed);
    size_t pick = seed % n;
    for (size_t i = 0; i < p->map->nregions; i++)
        if (tn_derp_region_eligible(&p->map->regions[i]) && pick-- == 0) return p->map->regions[i].id;
    return 0;
}

static int only_region(const struct tn_path *p)
{
    int only = 0;
    for (size_t i = 0; i < p->map->nregions; i++) {
        if (!tn_derp_region_eligible(&p->map->regions[i])) continue;
        if (only) return 0;
        only = p->map->regions[i].id;
    }
    return only;
}

static void advertise(struct tn_path *p, int region)
{
    p->advertised = region;
    tn_derp_set_pin(p->derp, region);
}

static void choose_home(struct tn_path *p, int pick, uint64_t now_us)
{
    int old = tn_derp_set_home_region(p->derp);
    if (old && (pick == 0 || (!p->control_up && p->advertised))) return;
    if (pick == 0) pick = fallback_region(p);
    if (pick != old)
        tn_logf(p->config.log, TN_LOG_INFO, "path", "home region: %d (%s), was %d", pick,
                tn_path_region_code(p, pick), old);
    tn_derp_set_home(p->derp, pick, now_us);
    if (pick && tn_derp_set_up(p->derp, pick)) advertise(p, pick);
}

/* ---- a check ---- */

/* Tells NetInfo unless the home's first connect is under way, whose end will tell both at once. */
static void tell_netinfo(struct tn_path *p, uint64_t now_us)
{
    int home = tn_derp_set_home_region(p->derp);
    bool connecting = home && !p->advertised && !p->netinfo && tn_derp_set_failures(p->derp, home) == 0;
    if (!connecting) tn_path_netinfo_update(p, now_us);
}

static void schedule(struct tn_path *p, uint64_t now_us)
{
    bool active = now_us - p->last_active_us < ACTIVE_US && !tn_list_empty(&p->peers);
    p->next_check_us = active ? now_us + PERIOD_MIN_US + tn_rng_below(&p->config.rng, PERIOD_SPREAD_US) : TN_NEVER;
}

static void conclude(struct tn_path *p, const struct tn_home_latency *l, size_t n, uint64_t now_us)
{
    int old = tn_derp_set_home_region(p->derp);
    struct tn_home_question q = {.map = p->map, .now = l, .nnow = n, .old = old, .start_us = p->last_check_us,
                                 .old_heard_us = tn_derp_set_heard_us(p->derp, old), .usable = usable, .ctx = p};
    p->now_us = now_us;
    choose_home(p, tn_home_pick(&p->home_history, &q, now_us), now_us);
    schedule(p, now_us);
    tn_path_session_endpoints(p, tn_path_endpoints_update(p, p->report, now_us), now_us);
    tell_netinfo(p, now_us);
    tn_path_report_tell(p, now_us);
    if (p->check_again && !busy(p)) begin(p, now_us);
}

static void on_latencies(void *ctx, const struct tn_home_latency *l, size_t n, uint64_t now_us)
{
    conclude(ctx, l, n, now_us);
}

/* Takes over a report, whose regions become ours. */
static bool keep_report(struct tn_path *p, const struct tn_netcheck_report *r)
{
    struct tn_netcheck_report *mine = malloc(sizeof *mine);
    struct tn_netcheck_region *regions = malloc((r->nregions + 1) * sizeof *regions);
    if (!mine || !regions) {
        free(mine);
        free(regions);
        return false;
    }
    *mine = *r;
    if (r->nregions) memcpy(regions, r->regions, r->nregions * sizeof *regions);
    mine->regions = regions;
    if (p->report) free(p->report->regions);
    free(p->report);
    p->report = mine;
    return true;
}

static void conclude_report(struct tn_path *p, uint64_t now_us)
{
    const struct tn_netcheck_report *r = p->report;
    struct tn_home_latency *l = malloc((r->nregions + 1) * sizeof *l);
    size_t n = l ? r->nregions : 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t v4 = r->regions[i].v4_us, v6 = r->regions[i].v6_us;
        l[i] = (struct tn_home_latency){r->regions[i].region, v4 && (!v6 || v4 < v6) ? v4 : v6};
    }
    conclude(p, l, n, now_us);
    free(l);
}

static void on_report(void *ctx, const struct tn_netcheck_report *r, uint64_t now_us)
{
    struct tn_path *p = ctx;
    if (!keep_report(p, r)) {
        schedule(p, now_us);
        return;
    }
    tn_logf(p->config.log, TN_LOG_DEBUG, "path", "netcheck: udp=%d v4=%d v6=%d varies=%d regions=%u", r->udp,
            r->ipv4, r->ipv6, r->mapping_varies, (unsigned)r->nregions);
    if (r->udp) tn_derp_set_prefer6(p->derp, r->ipv6);
    /* Over TCP only where there is a choice, and while the home works only in full checks, not each 20 s. */
    bool measure = !r->udp && !only_region(p) && (r->full || !tn_path_home_connected(p));
    if (measure && tn_latency_check_new(p->map, p->config.dialer, false, on_latencies, p, now_us,
                                        &p->latency_check) == 0)
        return;
    conclude_report(p, now_us);
}

static void on_stun_send(void *ctx, const struct tn_addrport *to, const uint8_t *bytes, size_t len)
{
    tn_path_send_udp(ctx, to, bytes, len);
}

static const struct tn_netcheck_callbacks netcheck_callbacks = {.send = on_stun_send, .done = on_report};

static bool have_family(const struct tn_path *p, uint8_t family)
{
    bool have = !p->local_known;
    for (size_t i = 0; i < p->nlocal; i++)
        have |= p->local[i].family == family && !(family == 6 && tn_ip_is_link_local(&p->local[i]));
    return have && p->config.cb.udp_send;
}

static void begin(struct tn_path *p, uint64_t now_us)
{
    struct tn_netcheck_options o = {.have4 = have_family(p, 4), .have6 = have_family(p, 6),
                                    .home = tn_derp_set_home_region(p->derp)};
    o.full = p->check_full || !p->report || now_us - p->last_full_us > FULL_US;
    p->check_again = p->check_full = false;
    p->next_check_us = TN_NEVER;
    p->last_check_us = now_us;
    p->checks++;
    if (o.full) p->last_full_us = now_us;
    if (p->config.cb.udp_send) {
        if (tn_netcheck_start(p->netcheck, p->map, &o, now_us) != 0) schedule(p, now_us);
        return;
    }
    struct tn_netcheck_report none = {.start_us = now_us, .full = o.full, .mapping_varies = -1};
    on_report(p, &none, now_us);
}

/* ---- events ---- */

int tn_path_check_new(struct tn_path *p)
{
    p->next_check_us = TN_NEVER;
    return tn_netcheck_new(&p->config.rng, &netcheck_callbacks, p, &p->netcheck);
}

void tn_path_check_free(struct tn_path *p)
{
    tn_netcheck_free(p->netcheck);
    tn_latency_check_free(p->latency_check);
    tn_home_fini(&p->home_history);
    if (p->report) free(p->report->regions);
    free(p->report);
    free(p->endpoints);
    free(p->netinfo);
}

void tn_path_check_request(struct tn_path *p, bool full, uint64_t now_us)
{
    if (!p->started || !p->map) return;
    p->check_full |= full;
    if (busy(p)) p->check_again = true;
    else begin(p, now_us);
}

void tn_path_check_map_changed(struct tn_path *p, uint64_t now_us)
{
    tn_netcheck_stop(p->netcheck);
    tn_latency_check_free(p->latency_check);
    p->latency_check = NULL;
    memset(p->bad, 0, sizeof p->bad);
    if (!tn_derp_map_find(p->map, p->advertised)) advertise(p, 0);
    if (!p->started || !p->map) return;
    if (tn_derp_set_home_region(p->derp) == 0 && only_region(p)) choose_home(p, only_region(p), now_us);
    tn_path_check_request(p, true, now_us);
}

/* A connection shows the address behind a node's name: with it the node's STUN server can be asked. */
static void learn_address(struct tn_path *p, int region, uint64_t now_us)
{
    const struct tn_derp_node *node;
    struct tn_addrport remote;
    struct tn_derp_client *c = tn_derp_set_client(p->derp, region);
    if (c && tn_derp_client_remote(c, &node, &remote) && tn_derp_map_learn(p->map, region, node->name, &remote.ip))
        tn_path_check_request(p, true, now_us);
}

void tn_path_check_derp_state(struct tn_path *p, int region, int err, uint64_t now_us)
{
    bool home = region == tn_derp_set_home_region(p->derp);
    if (!err) {
        forget_bad(p, region);
        if (home) advertise(p, region);
        if (home) tn_path_netinfo_update(p, now_us);
        learn_address(p, region, now_us);
        return;
    }
    unsigned failures = tn_derp_set_failures(p->derp, region);
    if (!home || err == TN_E_CANCELED) return;
    if (failures >= FAILURES_BAD) note_bad(p, region, now_us);
    if (failures == 1 || failures % FAILURES_BAD == 0) tn_path_check_request(p, false, now_us);
    tell_netinfo(p, now_us);
}

void tn_path_check_active(struct tn_path *p, uint64_t now_us)
{
    p->last_active_us = now_us;
    if (p->next_check_us != TN_NEVER || !p->started || !p->map || busy(p)) return;
    uint64_t due_us = p->last_check_us + PERIOD_MIN_US;
    p->next_check_us = due_us > now_us ? due_us : now_us;
}

void tn_path_check_timeout(struct tn_path *p, uint64_t now_us)
{
    tn_netcheck_timeout(p->netcheck, now_us);
    if (p->latency_check) {
        struct tn_latency_check *c = p->latency_check;
        tn_latency_check_timeout(c, now_us);
        if (tn_latency_check_next_deadline(c) == TN_NEVER) { /* over */
            p->latency_check = NULL;
            tn_latency_check_free(c);
            if (p->check_again) begin(p, now_us);
        }
    }
    if (now_us >= p->next_check_us) tn_path_check_request(p, false, now_us);
}

uint64_t tn_path_check_deadline(const struct tn_path *p)
{
    uint64_t at_us = tn_netcheck_next_deadline(p->netcheck);
    uint64_t tcp_us = p->latency_check ? tn_latency_check_next_deadline(p->latency_check) : TN_NEVER;
    if (tcp_us < at_us) at_us = tcp_us;
    return p->next_check_us < at_us ? p->next_check_us : at_us;
}
