/* Sealing and sending on workers.
 *
 * A letter is a buffer and what is to be done with it. The loop makes a train in the buffer of a letter that is free (the
 * spare), and posting it is handing over a pointer. A letter names its key by value, wiped when it is sealed, and no peer,
 * session or path: those may end while it is under way.
 *
 * Order: an address has one worker, and a worker one queue. As long as that queue is not empty, everything for its addresses
 * goes through it; when it is empty, the loop may send by itself. Only the loop posts, so "empty" stays true until it does. */
#include "path/udp_post.h"
#include "path/udp.h"
#include "util/err.h"
#include "util/secret.h"

#include <stdlib.h>
#include <string.h>

enum {
    WORTH = 8, /* packets: some 10 us of work, against 5 for waking a thread */
    ALIGN = 64,
};

struct letter {
    struct tn_udp_post *post;
    atomic_bool away; /* set by the loop, cleared by the worker */
    uint8_t *bytes;   /* TN_UDP_TRAIN_BYTES, or NULL until they are needed */
    bool unsealed;
    struct tn_aead_run seal; /* of the one run; its bytes and key are this letter's */
    uint8_t key[32];
    unsigned nruns;
    size_t used;
    struct tn_udp_run run[TN_UDP_RUNS_MAX]; /* the one of a train may be longer than a message */
};

struct tn_udp_post {
    struct tn_udp_sender *sender;
    struct tn_workpool *pool;
    void (*wake)(void *ctx);
    void *ctx;
    struct letter *spare;
    size_t nletters;
    struct letter letter[];
};

/* What the workers can have, one more each that is being filled for it, the spare, and one to copy into. */
static size_t letters_for(size_t workers) { return workers * (TN_WORKER_QUEUE + 1) + 2; }

int tn_udp_post_new(struct tn_udp_sender *s, struct tn_workpool *pool, void (*wake)(void *ctx), void *ctx, struct tn_udp_post **out)
{
    size_t n = letters_for(tn_workpool_workers(pool));
    struct tn_udp_post *p = calloc(1, sizeof *p + n * sizeof *p->letter);
    if (!p) return TN_E_NOMEM;
    *p = (struct tn_udp_post){.sender = s, .pool = pool, .wake = wake, .ctx = ctx, .nletters = n};
    *out = p;
    return 0;
}

void tn_udp_post_free(struct tn_udp_post *p)
{
    if (!p) return;
    tn_workpool_drain(p->pool);
    for (size_t i = 0; i < p->nletters; i++) free(p->letter[i].bytes);
    free(p);
}

/* A letter that is here. There is one: the workers can't have as many. */
static struct letter *obtain(struct tn_udp_post *p)
{
    struct letter *l = NULL;
    for (size_t i = 0; i < p->nletters && !(l && l->bytes); i++) { /* those never used stay untouched */
        struct letter *c = &p->letter[i];
        if (c == p->spare || atomic_load_explicit(&c->away, memory_order_acquire)) continue;
        if (!l || (!l->bytes && c->bytes)) l = c; /* rather one that has its memory already */
    }
    if (l && !l->bytes) l->bytes = aligned_alloc(ALIGN, TN_UDP_TRAIN_BYTES);
    if (!l || !l->bytes) return NULL;
    l->post = p;
    l->unsealed = false;
    l->nruns = 0;
    l->used = 0;
    return l;
}
_Static_assert(TN_UDP_TRAIN_BYTES % ALIGN == 0, "as aligned_alloc wants it");

uint8_t *tn_udp_post_buffer(struct tn_udp_post *p)
{
    if (!p->spare) p->spare = obtain(p);
    return p->spare ? p->spare->bytes : NULL;
}

void tn_udp_post_trim(struct tn_udp_post *p)
{
    if (!p) return;
    p->spare = NULL;
    for (size_t i = 0; i < p->nletters; i++) {
        struct letter *l = &p->letter[i];
        if (atomic_load_explicit(&l->away, memory_order_acquire)) continue;
        free(l->bytes);
        l->bytes = NULL;
    }
}

/* ---- on a worker ---- */

static void deliver(void *arg, void *local)
{
    struct letter *l = arg;
    struct tn_udp_post *p = l->post;
    if (l->unsealed) {
        tn_aead_seal_run(local, &l->seal);
        tn_wipe(l->key, sizeof l->key);
        tn_udp_send_long(p->sender, &l->run[0].to, l->bytes, l->run[0].len, l->run[0].segment);
    } else if (l->nruns == 1) {
        tn_udp_send_long(p->sender, &l->run[0].to, l->bytes, l->run[0].len, l->run[0].segment);
    } else {
        tn_udp_send_runs(p->sender, l->bytes, l->run, l->nruns);
    }
    bool failed = atomic_load(&p->sender->failures.any);
    atomic_store_explicit(&l->away, false, memory_order_release); /* the loop's again */
    if (failed) p->wake(p->ctx);
}

/* ---- on the loop ---- */

static size_t worker_of(const struct tn_udp_post *p, const struct tn_addrport *to)
{
    uint32_t h = to->port;
    for (size_t i = 0; i < sizeof to->ip.b; i++) h = h * 31 + to->ip.b[i];
    h ^= h >> 15;
    return h % tn_workpool_workers(p->pool);
}

bool tn_udp_post_busy(const struct tn_udp_post *p, const struct tn_addrport *to)
{
    return p && !tn_workpool_idle(p->pool, worker_of(p, to));
}

bool tn_udp_post_worth(struct tn_udp_post *p, const struct tn_addrport *to, const struct tn_aead_run *run)
{
    bool worth = run->len >= WORTH * run->segment || tn_udp_post_busy(p, to);
    return worth && run->len <= TN_UDP_TRAIN_BYTES && tn_workpool_ready(p->pool, worker_of(p, to));
}

static void post(struct letter *l)
{
    struct tn_udp_post *p = l->post;
    atomic_store_explicit(&l->away, true, memory_order_relaxed); /* posting publishes it */
    tn_workpool_post(p->pool, worker_of(p, &l->run[0].to), deliver, l);
}

static void put_run(struct letter *l, const struct tn_udp_run *r, const uint8_t *bytes)
{
    struct tn_udp_run *own = &l->run[l->nruns++];
    *own = *r;
    own->at = (uint32_t)l->used;
    if (bytes) memcpy(l->bytes + l->used, bytes, r->len);
    l->used += r->len;
}

bool tn_udp_post_seal(struct tn_udp_post *p, const struct tn_addrport *to, const struct tn_aead_run *run)
{
    bool given = p->spare && run->bytes == p->spare->bytes;
    struct letter *l = given ? p->spare : obtain(p);
    if (!l) return false;
    if (given) p->spare = NULL;
    put_run(l, &(struct tn_udp_run){.to = *to, .len = (uint32_t)run->len, .segment = (uint16_t)run->segment},
            given ? NULL : run->bytes);
    memcpy(l->key, run->key, sizeof l->key);
    l->seal = *run;
    l->seal.bytes = l->bytes;
    l->seal.key = l->key;
    l->unsealed = true;
    post(l);
    return true;
}

void tn_udp_post_copy(struct tn_udp_post *p, const struct tn_addrport *to, const uint8_t *run, size_t len, size_t segment)
{
    struct letter *l = len <= TN_UDP_TRAIN_BYTES ? obtain(p) : NULL;
    if (!l) return; /* no memory: a loss */
    put_run(l, &(struct tn_udp_run){.to = *to, .len = (uint32_t)len, .segment = (uint16_t)segment}, run);
    post(l);
}

unsigned tn_udp_post_runs(struct tn_udp_post *p, const uint8_t *bytes, struct tn_udp_run *runs, unsigned n)
{
    struct letter *gathered[TN_WORKERS_MAX] = {0};
    unsigned left = 0;
    if (!p) return n;
    for (unsigned i = 0; i < n; i++) {
        size_t w = worker_of(p, &runs[i].to);
        if (!gathered[w] && tn_workpool_idle(p->pool, w)) {
            runs[left++] = runs[i];
            continue;
        }
        if (!gathered[w]) gathered[w] = obtain(p);
        if (!gathered[w]) continue; /* no memory: a loss */
        atomic_store_explicit(&gathered[w]->away, true, memory_order_relaxed);
        put_run(gathered[w], &runs[i], bytes + runs[i].at);
    }
    for (size_t w = 0; w < TN_WORKERS_MAX; w++)
        if (gathered[w]) post(gathered[w]);
    return left;
}
