#include "util/workpool.h"
#include "util/err.h"
#include "util/thread.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

/* A sleeping thread costs its waker a system call and an interrupt to another core, which is as much as sealing ten packets; while
 * much is going on the next work comes sooner than this. */
#define LINGER_NS 50000

enum { STACK = 1024 * 1024 }; /* room, not memory; the thread-local variables of the whole program come out of it, too */

struct piece {
    tn_work *work;
    void *arg;
};

struct worker {
    struct tn_workpool *pool;
    pthread_t thread;
    bool begun, has_thread;      /* the owner's */
    unsigned posted;             /* the owner's; wraps */
    void *local;
    atomic_uint done;            /* written under mu; wraps */
    pthread_mutex_t mu;
    pthread_cond_t more, less;   /* for the worker; for the owner */
    struct piece queue[TN_WORKER_QUEUE];
    unsigned taken;              /* wraps */
    atomic_uint put;             /* written under mu; wraps */
    bool asleep, waited_for, stop;
};

struct tn_workpool {
    struct tn_workpool_config config;
    struct worker worker[];
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static inline void breathe(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void linger(const struct worker *w)
{
    uint64_t end = now_ns() + LINGER_NS;
    do {
        for (int i = 0; i < 32; i++) {
            if (atomic_load_explicit(&w->put, memory_order_relaxed) != w->taken) return;
            breathe();
        }
    } while (now_ns() < end);
}

/* The lock is held on entry and on return. False: it is over. */
static bool wait_for_work(struct worker *w)
{
    for (bool lingered = false; w->taken == atomic_load(&w->put); lingered = true) {
        if (w->stop) return false;
        if (!lingered) {
            pthread_mutex_unlock(&w->mu);
            linger(w);
            if (w->pool->config.rest && w->taken == atomic_load(&w->put)) w->pool->config.rest(w->local);
            pthread_mutex_lock(&w->mu);
            continue;
        }
        w->asleep = true;
        pthread_cond_wait(&w->more, &w->mu);
        w->asleep = false;
    }
    return true;
}

static void *work_on(void *arg)
{
    struct worker *w = arg;
    pthread_mutex_lock(&w->mu);
    while (wait_for_work(w)) {
        struct piece p = w->queue[w->taken++ % TN_WORKER_QUEUE];
        pthread_mutex_unlock(&w->mu);
        p.work(p.arg, w->local);
        pthread_mutex_lock(&w->mu);
        atomic_fetch_add_explicit(&w->done, 1, memory_order_release);
        if (w->waited_for) pthread_cond_signal(&w->less);
    }
    pthread_mutex_unlock(&w->mu);
    return NULL;
}

static void end(struct worker *w)
{
    if (w->has_thread) {
        pthread_mutex_lock(&w->mu);
        w->stop = true;
        pthread_cond_signal(&w->more);
        pthread_mutex_unlock(&w->mu);
        pthread_join(w->thread, NULL);
    }
    if (w->local && w->pool->config.unmake) w->pool->config.unmake(w->local);
    pthread_cond_destroy(&w->more);
    pthread_cond_destroy(&w->less);
    pthread_mutex_destroy(&w->mu);
}

static unsigned undone(const struct worker *w)
{
    return w->posted - atomic_load_explicit(&w->done, memory_order_acquire);
}

/* Until at most this many pieces are left to do. */
static void await(struct worker *w, unsigned most)
{
    if (undone(w) <= most) return;
    pthread_mutex_lock(&w->mu);
    w->waited_for = true;
    while (undone(w) > most) pthread_cond_wait(&w->less, &w->mu);
    w->waited_for = false;
    pthread_mutex_unlock(&w->mu);
}

int tn_workpool_new(const struct tn_workpool_config *config, struct tn_workpool **out)
{
    if (config->workers == 0 || config->workers > TN_WORKERS_MAX) return TN_E_INVAL;
    struct tn_workpool *p = calloc(1, sizeof *p + config->workers * sizeof *p->worker);
    if (!p) return TN_E_NOMEM;
    p->config = *config;
    for (size_t i = 0; i < config->workers; i++) {
        struct worker *w = &p->worker[i];
        w->pool = p;
        pthread_mutex_init(&w->mu, NULL);
        pthread_cond_init(&w->more, NULL);
        pthread_cond_init(&w->less, NULL);
    }
    *out = p;
    return 0;
}

void tn_workpool_free(struct tn_workpool *p)
{
    if (!p) return;
    for (size_t i = 0; i < p->config.workers; i++) end(&p->worker[i]);
    free(p);
}

size_t tn_workpool_workers(const struct tn_workpool *p) { return p->config.workers; }

bool tn_workpool_ready(struct tn_workpool *p, size_t worker)
{
    struct worker *w = &p->worker[worker];
    if (w->begun) return true;
    if (p->config.make && !(w->local = p->config.make(p->config.ctx))) return false;
    w->has_thread = tn_thread_start(&w->thread, work_on, w, STACK) == 0;
    return w->begun = true;
}

void tn_workpool_post(struct tn_workpool *p, size_t worker, tn_work *work, void *arg)
{
    struct worker *w = &p->worker[worker];
    if (!w->has_thread) {
        work(arg, w->local);
        if (p->config.rest) p->config.rest(w->local);
        return;
    }
    await(w, TN_WORKER_QUEUE - 1);
    w->posted++;
    pthread_mutex_lock(&w->mu);
    unsigned put = atomic_load_explicit(&w->put, memory_order_relaxed);
    w->queue[put % TN_WORKER_QUEUE] = (struct piece){work, arg};
    atomic_store(&w->put, put + 1);
    bool wake = w->asleep;
    pthread_mutex_unlock(&w->mu);
    if (wake) pthread_cond_signal(&w->more);
}

bool tn_workpool_idle(const struct tn_workpool *p, size_t worker) { return undone(&p->worker[worker]) == 0; }

void tn_workpool_drain(struct tn_workpool *p)
{
    for (size_t i = 0; i < p->config.workers; i++) await(&p->worker[i], 0);
}
