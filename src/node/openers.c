/* Reading and opening beside the loop.
 *
 * While long runs come and the loop is to hand over, threads read the UDP sockets (path/udp_ahead.c) and open the long runs whose
 * session they know; the loop gets everything in the order it was read and takes in what is opened: replay window, source check,
 * delivery, all as if it had opened the run itself. What is short, or of a session they do not know, it opens itself, and makes
 * that session known.
 *
 * The threads know keys and no engine. A session may end while its key is known: what they open for it then, the loop drops. All
 * keys are forgotten every few seconds, and when the threads rest; those still in use are made known again by their next run.
 *
 * The loop's own polling stops while they read. It is resumed when nothing long has come for a while and all that they have
 * read is taken in, so that one thread at a time reads a socket, and nothing overtakes. */
#include "node/openers.h"

#include "node/workers.h"
#include "path/udp.h"
#include "util/err.h"
#include "util/secret.h"
#include "util/workpool.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum {
    WORTH = 8,        /* packets, as for sending (path/udp_post.c); of at least TN_UDP_AHEAD_LONG bytes together */
    LONG = 16 * 1024, /* bytes of a run that make it worth to have the threads read: acknowledgments are never as many */
    KEYS = 64,        /* sessions that are busy at the same time; of more, the loop opens some */
    QUIET_US = 200 * 1000,
    FORGET_US = 10 * 1000 * 1000,
    AGAIN_US = 10 * 1000 * 1000,
};

/* Of the run in a slot of path/udp.h, by the thread that works on it. */
struct opened {
    const uint8_t *run; /* NULL: not opened */
    size_t len;
    uint64_t serial;
    bool good[TN_WG_PLAN_MAX];
};

struct tn_openers {
    bool reading, polling; /* the threads; the loop */
    uint64_t needed_us, forgotten_us;
    uint64_t again_us;     /* not before this is it tried again: there was no memory, no thread, or there is no UDP_GRO */
    struct opened slot[TN_UDP_AHEAD_SLOTS];
    pthread_mutex_t mu; /* of what follows */
    unsigned next;
    uint32_t receiver[KEYS];
    struct tn_wg_plan plan[KEYS]; /* serial 0: none */
};

int tn_openers_new(struct tn_node *n)
{
    if (!n->workers) return 0;
    struct tn_openers *o = calloc(1, sizeof *o);
    if (!o) return TN_E_NOMEM;
    pthread_mutex_init(&o->mu, NULL);
    o->polling = true;
    n->openers = o;
    return 0;
}

static void forget(struct tn_openers *o)
{
    pthread_mutex_lock(&o->mu);
    tn_wipe(o->plan, sizeof o->plan);
    pthread_mutex_unlock(&o->mu);
}

void tn_openers_free(struct tn_node *n)
{
    struct tn_openers *o = n->openers;
    if (!o) return;
    n->openers = NULL;
    forget(o);
    pthread_mutex_destroy(&o->mu);
    free(o);
}

/* ---- on a thread ---- */

static bool find(struct tn_openers *o, uint32_t receiver, struct tn_wg_plan *plan)
{
    bool found = false;
    pthread_mutex_lock(&o->mu);
    for (size_t i = 0; i < KEYS && !found; i++) {
        found = o->receiver[i] == receiver && o->plan[i].serial;
        if (found) *plan = o->plan[i];
    }
    pthread_mutex_unlock(&o->mu);
    return found;
}

static void open_run(void *ctx, void *local, unsigned slot, uint8_t *run, size_t len, size_t segment)
{
    struct tn_node *n = ctx;
    struct opened *done = &n->openers->slot[slot];
    struct tn_wg_plan plan;
    done->run = NULL;
    if (len < WORTH * segment || tn_wg_session_part(run, len, segment) != len) return;
    if (!find(n->openers, tn_wg_session_of(run), &plan)) return;
    tn_wg_open_planned(local, &plan, run, len, segment, done->good);
    done->serial = plan.serial;
    done->run = run;
    done->len = len;
    tn_wipe(&plan, sizeof plan);
}

static void wake(void *ctx) { tn_node_wake(ctx); }

/* ---- on the loop ---- */

static void make_known(struct tn_node *n, const uint8_t *run, size_t len, size_t segment, uint64_t now_us)
{
    struct tn_openers *o = n->openers;
    struct tn_wg_plan plan, known;
    if (len < WORTH * segment || !tn_wg_plan_open(n->wg, run, len, segment, &plan, now_us)) return;
    if (!find(o, tn_wg_session_of(run), &known)) { /* else: learnt after it was looked for */
        pthread_mutex_lock(&o->mu);
        o->receiver[o->next] = tn_wg_session_of(run);
        o->plan[o->next] = plan;
        o->next = (o->next + 1) % KEYS;
        pthread_mutex_unlock(&o->mu);
    }
    tn_wipe(&plan, sizeof plan);
    tn_wipe(&known, sizeof known);
}

void tn_openers_input(struct tn_node *n, uint8_t *run, size_t len, size_t segment, const struct tn_wg_from *from, uint64_t now_us)
{
    int slot = tn_udp_ahead_slot(n->udp);
    struct opened *done = slot < 0 ? NULL : &n->openers->slot[slot];
    if (done && done->run == run && done->len == len) {
        struct tn_wg_plan plan = {.serial = done->serial};
        done->run = NULL; /* said once: these bytes will be another run's */
        tn_wg_input_opened(n->wg, &plan, run, len, segment, done->good, now_us);
        return;
    }
    if (done && n->openers->reading) make_known(n, run, len, segment, now_us);
    tn_wg_input_run(n->wg, run, len, segment, from, now_us);
}

static void begin(struct tn_node *n, uint64_t now_us)
{
    struct tn_openers *o = n->openers;
    struct tn_udp_ahead_config c = {.threads = tn_workpool_workers(n->workers), .make = tn_workers_make, .unmake = tn_workers_unmake,
                                    .rest = tn_workers_rest, .work = open_run, .wake = wake, .ctx = n};
    if (!o->polling || now_us < o->again_us) return;
    if (tn_udp_ahead(n->udp, &c) != 0) { /* the loop reads on */
        o->again_us = now_us + AGAIN_US;
        return;
    }
    tn_node_poll_udp(n, false);
    o->polling = false;
    o->reading = true;
    o->forgotten_us = now_us;
}

static void end(struct tn_node *n)
{
    tn_udp_ahead_stop(n->udp);
    n->openers->reading = false;
    forget(n->openers);
    tn_node_wake(n); /* to take the rest */
}

void tn_openers_watch(struct tn_node *n, uint64_t now_us)
{
    struct tn_openers *o = n->openers;
    if (!o || !n->udp) return;
    bool needed = tn_udp_longest(n->udp) >= LONG && n->hand_over;
    if (needed) o->needed_us = now_us;
    if (needed && !o->reading) begin(n, now_us);
    if (o->reading && now_us - o->needed_us >= QUIET_US) end(n);
    if (o->reading && now_us - o->forgotten_us >= FORGET_US) {
        forget(o);
        o->forgotten_us = now_us;
    }
    if (!o->reading && !o->polling && !tn_udp_is_ahead(n->udp)) {
        tn_node_poll_udp(n, true);
        o->polling = true;
    }
}

uint64_t tn_openers_next_deadline(const struct tn_node *n)
{
    return n->openers && n->openers->reading ? n->openers->needed_us + QUIET_US : TN_NEVER;
}
