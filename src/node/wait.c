#include "node/wait.h"

#include "util/err.h"

#include <time.h>

static uint64_t monotonic_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

struct tn_wait tn_wait_begin(struct tn_node *n, int timeout_ms)
{
    return (struct tn_wait){.until_us = timeout_ms < 0 ? TN_NEVER : monotonic_us() + (uint64_t)timeout_ms * 1000,
                            .cancels = atomic_load(&n->cancels)};
}

int tn_wait_more(struct tn_node *n, const struct tn_wait *w)
{
    if (atomic_load(&n->cancels) != w->cancels) return TN_E_CANCELED;
    if (w->until_us == TN_NEVER) {
        pthread_cond_wait(&n->cond, &n->mu);
        return atomic_load(&n->cancels) != w->cancels ? TN_E_CANCELED : 0;
    }
    if (monotonic_us() >= w->until_us) return TN_E_TIMEDOUT;
    struct timespec until = {.tv_sec = (time_t)(w->until_us / 1000000), .tv_nsec = (long)(w->until_us % 1000000) * 1000};
    pthread_cond_timedwait(&n->cond, &n->mu, &until); /* a time-out is seen on the next round, after a last look */
    return atomic_load(&n->cancels) != w->cancels ? TN_E_CANCELED : 0;
}
