/* tailscale.com v1.102.5 net/netcheck: makeProbePlan, runProbe, addNodeLatency, GetReport.
 *
 * A check is a plan of probe sets, one per region and family. A set sends its probes one after another, at the
 * region's nodes in turn, until one is answered or would tell nothing new. The check ends when every set has
 * ended, when enough regions have answered and the others had time to, or after 3 s.
 *
 * The first (full) plan has three probes per set, 100 ms apart. Later ones ask the three fastest regions and the
 * home: the home four times, the two fastest twice, the rest once, a retry coming after 1.2 times the last
 * latency.
 *
 * "Enough" is three regions as in Go, or all there are when the map has fewer: with one region there is nothing to
 * wait 3 s for. */
#include "path/netcheck.h"
#include "util/err.h"
#include "util/heap.h"
#include "wire/stun.h"

#include <stdlib.h>
#include <string.h>

enum {
    TRIES_MAX = 4,
    INITIAL_RETRY_US = 100 * 1000,
    UNKNOWN_RETRY_US = 200 * 1000,
    EXTRA_RETRY_US = 50 * 1000,
    STUN_WAIT_US = 3 * 1000000,
    /* On a loopback or LAN, twice the latency would be over before the next datagram is read. */
    SETTLE_MIN_US = 20 * 1000,
    ENOUGH_REGIONS = 3,
    INCREMENTAL_REGIONS = 3,
};

struct probe_set {
    const struct tn_derp_region *region;
    int family;
    unsigned tries, sent;
    uint64_t interval_us;
    bool ended;
    uint8_t txid[TRIES_MAX][TN_STUN_TXID_LEN];
    uint64_t sent_us[TRIES_MAX];
};

struct tn_netcheck {
    const struct tn_rng *rng;
    struct tn_netcheck_callbacks cb;
    void *ctx;
    bool running;
    const struct tn_derp_map *map;
    struct probe_set *sets;
    size_t nsets, nplanned; /* nplanned: regions in the plan */
    uint64_t end_us;        /* when the check ends at the latest */
    struct tn_netcheck_report report;
    struct tn_netcheck_region *last; /* the report before, which incremental plans follow */
    size_t nlast;
};

int tn_netcheck_new(const struct tn_rng *rng, const struct tn_netcheck_callbacks *cb, void *ctx,
                    struct tn_netcheck **out)
{
    struct tn_netcheck *n = calloc(1, sizeof *n);
    if (!n) return TN_E_NOMEM;
    n->rng = rng;
    n->cb = *cb;
    n->ctx = ctx;
    *out = n;
    return 0;
}

void tn_netcheck_stop(struct tn_netcheck *n)
{
    free(n->sets);
    free(n->report.regions);
    n->sets = NULL;
    n->report.regions = NULL;
    n->nsets = n->report.nregions = 0;
    n->running = false;
}

void tn_netcheck_free(struct tn_netcheck *n)
{
    if (!n) return;
    tn_netcheck_stop(n);
    free(n->last);
    free(n);
}

bool tn_netcheck_running(const struct tn_netcheck *n) { return n->running; }

/* ---- the plan ---- */

static uint32_t best_of(const struct tn_netcheck_region *r)
{
    return r->v4_us && (!r->v6_us || r->v4_us < r->v6_us) ? r->v4_us : r->v6_us;
}

static const struct tn_netcheck_region *find_region(const struct tn_netcheck_region *list, size_t n, int region)
{
    for (size_t i = 0; i < n; i++)
        if (list[i].region == region) return &list[i];
    return NULL;
}

static uint32_t last_latency(const struct tn_netcheck *n, int region)
{
    const struct tn_netcheck_region *r = find_region(n->last, n->nlast, region);
    return r ? best_of(r) : 0;
}

/* Whether some node of the region could answer over the family; test nodes also when the machine lacks it. */
static bool probeable(const struct tn_derp_region *r, int family, bool have)
{
    struct tn_addrport to;
    for (size_t i = 0; i < r->nnodes; i++)
        if ((have || r->nodes[i].test_node) && tn_derp_node_stun(&r->nodes[i], family, &to)) return true;
    return false;
}

static void add_set(struct tn_netcheck *n, const struct tn_derp_region *r, int family, bool have, unsigned tries,
                    uint64_t interval_us)
{
    if (tries == 0 || !probeable(r, family, have)) return;
    n->sets[n->nsets++] = (struct probe_set){.region = r, .family = family, .tries = tries,
                                             .interval_us = interval_us};
}

static void plan_full(struct tn_netcheck *n, const struct tn_netcheck_options *o)
{
    for (size_t i = 0; i < n->map->nregions; i++) {
        const struct tn_derp_region *r = &n->map->regions[i];
        if (r->no_home) continue;
        size_t before = n->nsets;
        add_set(n, r, 4, o->have4, 3, INITIAL_RETRY_US);
        add_set(n, r, 6, o->have6, 3, INITIAL_RETRY_US);
        n->nplanned += n->nsets > before;
    }
}

static bool had_family(const struct tn_netcheck *n, int family)
{
    for (size_t i = 0; i < n->nlast; i++)
        if (family == 4 ? n->last[i].v4_us : n->last[i].v6_us) return true;
    return false;
}

/* Orders regions by their last latency; those without one come last. The id decides between equals. */
static uint64_t rank_key(const struct tn_netcheck *n, const struct tn_derp_region *r)
{
    uint32_t us = last_latency(n, r->id);
    return (uint64_t)(us ? us : UINT32_MAX) << 32 | (uint32_t)r->id;
}

/* The rank-th region in that order, NULL when there are fewer. */
static const struct tn_derp_region *ranked(const struct tn_netcheck *n, size_t rank, int home)
{
    const struct tn_derp_region *prev = NULL;
    for (size_t k = 0; k <= rank; k++) {
        const struct tn_derp_region *next = NULL;
        for (size_t i = 0; i < n->map->nregions; i++) {
            const struct tn_derp_region *r = &n->map->regions[i];
            if (r->no_home || (r->avoid && r->id != home)) continue;
            if (prev && rank_key(n, r) <= rank_key(n, prev)) continue;
            if (!next || rank_key(n, r) < rank_key(n, next)) next = r;
        }
        if (!next) return NULL;
        prev = next;
    }
    return prev;
}

/* How often a region of some rank is asked in an incremental check: makeProbePlan's table. */
static void plan_region(struct tn_netcheck *n, const struct tn_netcheck_options *o, const struct tn_derp_region *r,
                        size_t rank)
{
    bool home = r->id == o->home, fastest_two = rank < 2, had6 = had_family(n, 6);
    bool both = o->have6 && had6 && had_family(n, 4);
    unsigned tries = home ? 4 : fastest_two ? 2 : 1;
    unsigned tries4 = tries, tries6 = tries;
    if (!home && !fastest_two && both) { /* dual stack: the third and later regions take turns between the families */
        tries4 = rank % 2 == 0 ? tries : 0;
        tries6 = rank % 2 == 0 ? 0 : tries;
    }
    if (!had6) tries6 = home || fastest_two ? 1 : 0; /* once, to notice IPv6 coming up */
    uint32_t last_us = last_latency(n, r->id);
    uint64_t interval_us = last_us ? (uint64_t)last_us * 6 / 5 : UNKNOWN_RETRY_US;
    add_set(n, r, 4, o->have4, tries4, interval_us);
    add_set(n, r, 6, o->have6, tries6, interval_us);
    n->nplanned++;
}

static void plan_incremental(struct tn_netcheck *n, const struct tn_netcheck_options *o)
{
    bool home_planned = o->home == 0;
    for (size_t rank = 0; rank < INCREMENTAL_REGIONS; rank++) {
        const struct tn_derp_region *r = ranked(n, rank, o->home);
        if (!r) break;
        home_planned |= r->id == o->home;
        plan_region(n, o, r, rank);
    }
    const struct tn_derp_region *home = home_planned ? NULL : tn_derp_map_find(n->map, o->home);
    if (home && !home->no_home) plan_region(n, o, home, INCREMENTAL_REGIONS);
}

int tn_netcheck_start(struct tn_netcheck *n, const struct tn_derp_map *map, const struct tn_netcheck_options *o,
                      uint64_t now_us)
{
    tn_netcheck_stop(n);
    bool full = o->full || n->nlast == 0;
    size_t regions = full ? map->nregions : INCREMENTAL_REGIONS + 1;
    n->sets = calloc(2 * regions + 1, sizeof *n->sets);
    n->report = (struct tn_netcheck_report){.start_us = now_us, .full = full, .mapping_varies = -1};
    n->report.regions = calloc(regions + 1, sizeof *n->report.regions);
    if (!n->sets || !n->report.regions) {
        tn_netcheck_stop(n);
        return TN_E_NOMEM;
    }
    n->map = map;
    n->nplanned = 0;
    n->running = true;
    if (full) plan_full(n, o);
    else plan_incremental(n, o);
    n->end_us = n->nsets ? now_us + STUN_WAIT_US : now_us;
    return 0;
}

/* ---- probing ---- */

static uint64_t probe_at(const struct tn_netcheck *n, const struct probe_set *s)
{
    if (s->ended || s->sent == s->tries) return TN_NEVER;
    uint64_t extra_us = s->sent > 1 ? (uint64_t)s->sent * EXTRA_RETRY_US : 0;
    if (n->report.full) extra_us = 0;
    return n->report.start_us + s->sent * s->interval_us + extra_us;
}

/* Would another answer for this set tell anything: the region's latency, IPv6 at all, or a second IPv4 mapping? */
static bool would_help(const struct tn_netcheck *n, const struct probe_set *s)
{
    const struct tn_netcheck_report *r = &n->report;
    if (!find_region(r->regions, r->nregions, s->region->id)) return true;
    return s->family == 6 ? !r->ipv6 : r->mapping_varies < 0;
}

static void send_probe(struct tn_netcheck *n, struct probe_set *s, uint64_t now_us)
{
    uint8_t request[TN_STUN_REQUEST_LEN];
    unsigned try = s->sent++;
    tn_rng_fill(n->rng, s->txid[try], TN_STUN_TXID_LEN);
    s->sent_us[try] = now_us;
    /* The try-th node, or the next one that has an address of the family. */
    for (size_t i = 0; i < s->region->nnodes; i++) {
        struct tn_addrport to;
        if (!tn_derp_node_stun(&s->region->nodes[(try + i) % s->region->nnodes], s->family, &to)) continue;
        tn_stun_request_put(request, s->txid[try]);
        n->cb.send(n->ctx, &to, request, sizeof request);
        return;
    }
}

static void finish(struct tn_netcheck *n, uint64_t now_us)
{
    struct tn_netcheck_report report = n->report;
    n->report.regions = NULL; /* ours now: done may start the next check */
    tn_netcheck_stop(n);
    if (report.udp) {
        free(n->last);
        n->last = report.regions;
        n->nlast = report.nregions;
        n->cb.done(n->ctx, &report, now_us);
        return;
    }
    n->nlast = 0; /* nothing to follow: the next plan is a full one */
    n->cb.done(n->ctx, &report, now_us);
    free(report.regions);
}

static bool all_ended(const struct tn_netcheck *n)
{
    for (size_t i = 0; i < n->nsets; i++)
        if (!n->sets[i].ended) return false;
    return true;
}

void tn_netcheck_timeout(struct tn_netcheck *n, uint64_t now_us)
{
    if (!n->running) return;
    for (size_t i = 0; i < n->nsets; i++) {
        struct probe_set *s = &n->sets[i];
        if (probe_at(n, s) > now_us) continue;
        if (would_help(n, s)) send_probe(n, s, now_us);
        else s->ended = true;
    }
    if (now_us >= n->end_us || all_ended(n)) finish(n, now_us);
}

uint64_t tn_netcheck_next_deadline(const struct tn_netcheck *n)
{
    if (!n->running) return TN_NEVER;
    uint64_t at_us = n->end_us;
    for (size_t i = 0; i < n->nsets; i++) {
        uint64_t probe_us = probe_at(n, &n->sets[i]);
        if (probe_us < at_us) at_us = probe_us;
    }
    return at_us;
}

/* ---- answers ---- */

static void note_global(struct tn_netcheck_report *r, const struct tn_addrport *mapped)
{
    int family = mapped->ip.family == 6;
    struct tn_netcheck_global *g = r->globals[family];
    size_t n = r->nglobals[family];
    for (size_t i = 0; i < n; i++) {
        if (!tn_addrport_eq(&g[i].addr, mapped)) continue;
        g[i].count++;
        return;
    }
    if (n < TN_NETCHECK_GLOBALS_MAX) {
        g[n] = (struct tn_netcheck_global){*mapped, 1};
        r->nglobals[family]++;
    }
}

static struct tn_netcheck_region *region_entry(struct tn_netcheck_report *r, int region)
{
    size_t i = 0;
    while (i < r->nregions && r->regions[i].region < region) i++;
    if (i < r->nregions && r->regions[i].region == region) return &r->regions[i];
    memmove(r->regions + i + 1, r->regions + i, (r->nregions - i) * sizeof *r->regions);
    r->regions[i] = (struct tn_netcheck_region){.region = region};
    r->nregions++;
    return &r->regions[i];
}

static uint32_t slowest_us(const struct tn_netcheck_report *r)
{
    uint32_t max = 0;
    for (size_t i = 0; i < r->nregions; i++)
        if (best_of(&r->regions[i]) > max) max = best_of(&r->regions[i]);
    return max;
}

static void note_answer(struct tn_netcheck *n, int region, const struct tn_addrport *mapped, uint32_t us,
                        uint64_t now_us)
{
    struct tn_netcheck_report *r = &n->report;
    size_t before = r->nregions;
    struct tn_netcheck_region *e = region_entry(r, region);
    uint32_t *slot = mapped->ip.family == 4 ? &e->v4_us : &e->v6_us;
    if (*slot == 0 || us < *slot) *slot = us;
    r->udp = true;
    if (mapped->ip.family == 4) {
        bool same = r->nglobals[0] && tn_addrport_eq(&r->globals[0][0].addr, mapped);
        if (r->nglobals[0]) r->mapping_varies = r->mapping_varies == 1 || !same;
        r->ipv4 = true;
    } else {
        r->ipv6 = true;
    }
    note_global(r, mapped);
    size_t enough = n->nplanned < ENOUGH_REGIONS ? n->nplanned : ENOUGH_REGIONS;
    if (before == r->nregions || r->nregions != enough) return;
    uint64_t wait_us = (uint64_t)slowest_us(r) * (r->full ? 2 : 1);
    if (wait_us < SETTLE_MIN_US) wait_us = SETTLE_MIN_US;
    if (now_us + wait_us < n->end_us) n->end_us = now_us + wait_us;
}

void tn_netcheck_input(struct tn_netcheck *n, const uint8_t *bytes, size_t len, uint64_t now_us)
{
    uint8_t txid[TN_STUN_TXID_LEN];
    struct tn_addrport mapped;
    if (!n->running || tn_stun_response_parse(bytes, len, txid, &mapped) != 0) return;
    for (size_t i = 0; i < n->nsets; i++) {
        struct probe_set *s = &n->sets[i];
        for (unsigned k = 0; k < s->sent; k++) {
            if (s->ended || memcmp(s->txid[k], txid, sizeof txid) != 0) continue;
            s->ended = true;
            uint64_t us = now_us - s->sent_us[k];
            note_answer(n, s->region->id, &mapped, us == 0 ? 1 : (uint32_t)us, now_us);
            if (all_ended(n)) n->end_us = now_us;
            return;
        }
    }
}
