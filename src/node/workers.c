#include "node/workers.h"

#include "crypto/aead.h"
#include "node/node.h"
#include "path/udp.h"
#include "util/workpool.h"

#include <sched.h>

/* A loop and its worker want a core each, and so does what the node works for (the proxy, the application). On two cores a
 * worker costs more in switching than it saves (docs/PERFORMANCE.md). */
enum { CORES_MIN = 4, AUTO_MAX = 4 };

/* Handing over costs time of its own, on both threads (docs/PERFORMANCE.md), so with auto it is done by a loop that has too little
 * of it: busy so many per cent of the time, and until it is well below what that leaves it (receiving, less than half). */
enum { BUSY = 70, CALM = 15, WINDOW_US = 10 * 1000 };

/* Cores this process may use. */
static size_t cores(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? (size_t)CPU_COUNT(&set) : 1; /* too many for set: a large machine, odd */
}

static size_t wanted(const struct tn_node *n)
{
    if (n->config.workers != TN_WORKERS_AUTO) return (size_t)n->config.workers;
    size_t half = cores() / 2;
    return cores() < CORES_MIN ? 0 : half < AUTO_MAX ? half : AUTO_MAX;
}

void *tn_workers_make(void *ctx) { return tn_aead_engine_new(TN_AEAD_AUTO); }
void tn_workers_rest(void *engine) { tn_aead_engine_forget(engine); }
void tn_workers_unmake(void *engine) { tn_aead_engine_free(engine); }
static void wake_loop(void *ctx) { tn_node_wake(ctx); }

int tn_workers_new(struct tn_node *n)
{
    struct tn_workpool_config c = {.workers = wanted(n), .make = tn_workers_make, .rest = tn_workers_rest, .unmake = tn_workers_unmake};
    if (c.workers == 0 || !n->udp) return 0;
    n->hand_over = n->config.workers != TN_WORKERS_AUTO;
    int err = tn_workpool_new(&c, &n->workers);
    return err ? err : tn_udp_set_workers(n->udp, n->workers, wake_loop, n);
}

void tn_workers_watch(struct tn_node *n, uint64_t now_us)
{
    struct tn_workers_watch *w = &n->workers_watch;
    if (!n->workers || n->config.workers != TN_WORKERS_AUTO || now_us - w->since_us < WINDOW_US) return;
    uint64_t idle_us = uv_metrics_idle_time(&n->loop) / 1000, slept = (idle_us - w->idle_us) * 100 / (now_us - w->since_us);
    uint64_t busy = slept < 100 ? 100 - slept : 0;
    if (busy >= BUSY) n->hand_over = true;
    if (busy < CALM) n->hand_over = false;
    w->since_us = now_us;
    w->idle_us = idle_us;
}

void tn_workers_free(struct tn_node *n)
{
    tn_workpool_free(n->workers);
    n->workers = NULL;
    n->hand_over = false;
    n->workers_watch = (struct tn_workers_watch){0};
}
