/* Opening on workers.
 *
 * A run that came in one buffer of the socket goes to a worker with a plan (wg.h: the key, and for which session it is); the
 * worker opens it in place, says which packets were authentic, and wakes the loop, which takes in what is done: replay window,
 * source check, delivery, all as if it had opened the run itself.
 *
 * Order: a peer has one worker, a worker opens in the order it was given, and what it has opened is taken in in that order. As
 * long as something of a worker's is not taken in, everything from its peers goes through it, however short (a short one is
 * copied, so that it holds no buffer). With nothing under way a short run is opened by the loop: it wakes nobody. */
#include "node/openers.h"

#include "path/udp.h"
#include "util/err.h"
#include "util/secret.h"
#include "util/workpool.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    WORTH = 8,    /* packets, as for sending (path/udp_post.c) */
    SHORT = 2048, /* bytes that are copied rather than kept in the socket's buffer */
};

struct opening {
    struct tn_node *node;
    struct tn_list link; /* in the worker's line, or with those that are free */
    atomic_bool opened;  /* the worker has done its part */
    struct tn_wg_plan plan;
    uint8_t *run;
    size_t len, segment;
    uint8_t *kept; /* the socket's buffer; NULL: the run is in copy */
    bool good[TN_WG_PLAN_MAX];
    uint8_t copy[SHORT];
};

struct tn_openers {
    struct tn_list line[TN_WORKERS_MAX]; /* in the order they came */
    struct tn_list free;
    size_t workers, under_way, made;     /* of all, the first made ones have been used: the rest cost no memory yet */
    struct opening all[];
};

/* Twice what a worker's queue holds: half may wait for the loop while the other half is worked on. */
size_t tn_openers_room(size_t workers) { return workers * TN_WORKER_QUEUE * 2; }

int tn_openers_new(struct tn_node *n)
{
    if (!n->workers) return 0;
    size_t workers = tn_workpool_workers(n->workers), room = tn_openers_room(workers);
    struct tn_openers *o = calloc(1, sizeof *o + room * sizeof *o->all);
    if (!o) return TN_E_NOMEM;
    o->workers = workers;
    tn_list_init(&o->free);
    for (size_t i = 0; i < workers; i++) tn_list_init(&o->line[i]);
    n->openers = o;
    return 0;
}

void tn_openers_free(struct tn_node *n)
{
    struct tn_openers *o = n->openers;
    if (!o) return;
    tn_workpool_drain(n->workers);
    n->openers = NULL;
    tn_wipe(o->all, o->made * sizeof *o->all);
    free(o);
}

/* ---- on a worker ---- */

static void open_run(void *arg, void *local)
{
    struct opening *g = arg;
    struct tn_node *n = g->node;
    tn_wg_open_planned(local, &g->plan, g->run, g->len, g->segment, g->good);
    tn_wipe(g->plan.key, sizeof g->plan.key);
    atomic_store_explicit(&g->opened, true, memory_order_release); /* the loop's again */
    tn_node_wake(n);
}

/* ---- on the loop ---- */

static void take_in(struct tn_node *n, struct opening *g, uint64_t now_us)
{
    struct tn_openers *o = n->openers;
    o->under_way--;
    tn_stack_batch_begin(n->stack);
    tn_wg_input_opened(n->wg, &g->plan, g->run, g->len, g->segment, g->good, now_us);
    tn_stack_batch_end(n->stack, now_us);
    if (g->kept) tn_udp_give_back(n->udp, g->kept);
    tn_list_push_back(&o->free, &g->link);
}

static bool collect(struct tn_node *n, struct tn_list *line, uint64_t now_us)
{
    bool any = false;
    while (!tn_list_empty(line)) {
        struct opening *g = TN_CONTAINER(line->next, struct opening, link);
        if (!atomic_load_explicit(&g->opened, memory_order_acquire)) break;
        tn_list_remove(&g->link);
        take_in(n, g, now_us);
        any = true;
    }
    return any;
}

void tn_openers_collect(struct tn_node *n, uint64_t now_us)
{
    struct tn_openers *o = n->openers;
    bool any = false;
    if (!o || o->under_way == 0) return;
    for (size_t i = 0; i < o->workers; i++) any |= collect(n, &o->line[i], now_us);
    if (any && n->udp) tn_udp_flush(n->udp);
}

/* Until nothing is under way. */
static void settle(struct tn_node *n, uint64_t now_us)
{
    tn_workpool_drain(n->workers);
    tn_openers_collect(n, now_us);
}

static size_t worker_of(const struct tn_openers *o, const struct tn_wg_peer *peer)
{
    uint64_t h = (uintptr_t)peer / 64 * UINT64_C(0x9e3779b97f4a7c15);
    return (size_t)(h >> 32) % o->workers;
}

/* The first of those that are free; there is one when nothing is under way. */
static struct opening *obtain(struct tn_node *n, uint64_t now_us)
{
    struct tn_openers *o = n->openers;
    if (tn_list_empty(&o->free) && o->made < tn_openers_room(o->workers)) {
        struct opening *g = &o->all[o->made++];
        g->node = n;
        tn_list_push_back(&o->free, &g->link);
    }
    if (tn_list_empty(&o->free)) settle(n, now_us);
    return TN_CONTAINER(o->free.next, struct opening, link);
}

/* Moves the run out of the way of what the socket reads next. */
static bool hold(struct tn_node *n, struct opening *g, uint8_t *run)
{
    g->run = run;
    g->kept = NULL;
    if (g->len > SHORT) return (g->kept = tn_udp_keep(n->udp)) != NULL;
    memcpy(g->copy, run, g->len);
    g->run = g->copy;
    return true;
}

bool tn_openers_take(struct tn_node *n, uint8_t *run, size_t len, size_t segment, uint64_t now_us)
{
    struct tn_openers *o = n->openers;
    struct tn_wg_plan plan;
    if (!o || (o->under_way == 0 && (!n->hand_over || len < WORTH * segment))) return false;
    if (!tn_wg_plan_open(n->wg, run, len, segment, &plan, now_us)) return false; /* no session's: nobody's order */
    size_t w = worker_of(o, plan.peer);
    bool wanted = ((n->hand_over && len >= WORTH * segment) || !tn_list_empty(&o->line[w])) && tn_workpool_ready(n->workers, w);
    struct opening *g = wanted ? obtain(n, now_us) : NULL;
    if (g) {
        g->plan = plan;
        g->len = len;
        g->segment = segment;
        atomic_store_explicit(&g->opened, false, memory_order_relaxed); /* posting publishes it */
    }
    tn_wipe(&plan, sizeof plan);
    if (!g) return false;
    if (!hold(n, g, run)) {
        tn_wipe(&g->plan, sizeof g->plan);
        settle(n, now_us); /* the loop opens it, and it must not overtake */
        return false;
    }
    tn_list_remove(&g->link);
    tn_list_push_back(&o->line[w], &g->link);
    o->under_way++;
    tn_workpool_post(n->workers, w, open_run, g);
    return true;
}

void tn_openers_input(struct tn_node *n, uint8_t *run, size_t len, size_t segment, const struct tn_wg_from *from, uint64_t now_us)
{
    for (size_t at = 0, part; at < len; at += part) {
        part = tn_wg_session_part(run + at, len - at, segment);
        if (!tn_openers_take(n, run + at, part, segment, now_us)) tn_wg_input_run(n->wg, run + at, part, segment, from, now_us);
    }
}
