/* Of the regions that answered just now, the one with the least latency over the last five minutes (times its
 * score) wins. The old home is kept while it is reachable and either less than 10 ms slower or the winner is not
 * clearly faster (above two thirds of its latency): a move costs every peer a reconnect. A frame from the old home
 * within 8 s, or since the check began, counts as reachable even when its STUN answer was lost.
 *
 * NoMeasureNoHome regions are never picked. Avoid regions only when nothing else answered, and a home that turned
 * Avoid is left (the comment at tailcfg.DERPRegion.Avoid; Go's own code is lax there). */
#include "path/home.h"
#include "util/err.h"

#include <stdlib.h>
#include <string.h>

enum {
    /* Full check interval plus the length of a check: one full check is always inside. */
    HISTORY_US = 305 * 1000000,
    SAMPLES_MAX = 4096,              /* 30 regions in 16 checks are 480; link flapping makes more */
    ABSOLUTE_DIFF_US = 10 * 1000,
    FRAME_US = 8 * 1000000,
    KEEPALIVE_US = 120 * 1000000,
};

void tn_home_fini(struct tn_home *h)
{
    free(h->samples);
    *h = (struct tn_home){0};
}

static void prune(struct tn_home *h, uint64_t now_us)
{
    size_t old = 0;
    while (old < h->count && now_us - h->samples[old].at_us > HISTORY_US) old++;
    if (old) memmove(h->samples, h->samples + old, (h->count - old) * sizeof *h->samples);
    h->count -= old;
}

static void add(struct tn_home *h, const struct tn_home_latency *l, uint64_t now_us)
{
    if (h->count == SAMPLES_MAX) memmove(h->samples, h->samples + 1, --h->count * sizeof *h->samples);
    if (h->count == h->cap) {
        size_t cap = h->cap ? h->cap * 2 : 16;
        struct tn_home_sample *samples = realloc(h->samples, cap * sizeof *samples);
        if (!samples) return;
        h->samples = samples;
        h->cap = cap;
    }
    h->samples[h->count++] = (struct tn_home_sample){now_us, *l};
}

uint32_t tn_home_best(const struct tn_home *h, int region)
{
    uint32_t best = 0;
    for (size_t i = 0; i < h->count; i++) {
        const struct tn_home_latency *l = &h->samples[i].l;
        if (l->region == region && (best == 0 || l->us < best)) best = l->us;
    }
    return best;
}

static bool candidate(const struct tn_home_question *q, int region, bool avoided_too)
{
    const struct tn_derp_region *r = tn_derp_map_find(q->map, region);
    return r && tn_derp_region_eligible(r) && (avoided_too || !r->avoid) && (!q->usable || q->usable(q->ctx, region));
}

/* The answering region with the least scored recent latency, 0: none. */
static int fastest(const struct tn_home *h, const struct tn_home_question *q, bool avoided_too, double *best_us)
{
    int pick = 0;
    for (size_t i = 0; i < q->nnow; i++) {
        if (!candidate(q, q->now[i].region, avoided_too)) continue;
        uint32_t recent = tn_home_best(h, q->now[i].region);
        if (recent == 0 || q->now[i].us < recent) recent = q->now[i].us;
        double us = recent * tn_derp_map_find(q->map, q->now[i].region)->score;
        if (pick && us >= *best_us) continue;
        pick = q->now[i].region;
        *best_us = us;
    }
    return pick;
}

static double current_us(const struct tn_home_question *q, int region)
{
    for (size_t i = 0; i < q->nnow; i++)
        if (q->now[i].region == region) return q->now[i].us * tn_derp_map_find(q->map, region)->score;
    return 0;
}

static bool heard_within(const struct tn_home_question *q, uint64_t span_us, uint64_t now_us)
{
    return q->old && q->old_heard_us && now_us - q->old_heard_us < span_us;
}

static bool keep_old(const struct tn_home_question *q, int pick, double best_us, uint64_t now_us)
{
    const struct tn_derp_region *pick_region = tn_derp_map_find(q->map, pick);
    if (!q->old || pick == q->old || !candidate(q, q->old, pick_region->avoid)) return false;
    double old_us = current_us(q, q->old);
    bool heard = heard_within(q, FRAME_US, now_us) || (q->old_heard_us && q->old_heard_us > q->start_us);
    if (old_us == 0 && !heard) return false;
    return old_us - best_us < ABSOLUTE_DIFF_US || best_us > old_us / 3 * 2;
}

int tn_home_pick(struct tn_home *h, const struct tn_home_question *q, uint64_t now_us)
{
    double best_us = 0;
    prune(h, now_us);
    for (size_t i = 0; i < q->nnow; i++) add(h, &q->now[i], now_us);
    int pick = fastest(h, q, false, &best_us);
    if (!pick) pick = fastest(h, q, true, &best_us);
    if (pick) return keep_old(q, pick, best_us, now_us) ? q->old : pick;
    return heard_within(q, KEEPALIVE_US, now_us) && candidate(q, q->old, true) ? q->old : 0;
}
