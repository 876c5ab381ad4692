/* Time as the dev server's engines see it, and timers that know what to do. */
#ifndef TN_DEV_TIMER_H
#define TN_DEV_TIMER_H

#include "util/heap.h"

#define TN_DEV_SECOND 1000000ull /* in microseconds */

struct tn_dev_now {
    uint64_t us;    /* monotonic */
    int64_t unix_s; /* the wall clock */
};

/* t must stay the first member: the heap hands back &t. */
struct tn_dev_timer {
    struct tn_timer t;
    void (*fire)(struct tn_dev_timer *timer, void *engine, struct tn_dev_now now);
};

/* Fires everything due. engine is passed on. */
static inline void tn_dev_timers_run(struct tn_heap *h, void *engine, struct tn_dev_now now)
{
    for (struct tn_timer *t; (t = tn_heap_pop_due(h, now.us));) {
        struct tn_dev_timer *d = (struct tn_dev_timer *)(void *)t;
        d->fire(d, engine, now);
    }
}

#endif
