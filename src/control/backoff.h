/* The waits between attempts of the control loops: n squared times 10 ms, at most 30 s, times 0.5 to 1.5
 * (util/backoff of v1.102.5). Each loop has its own. */
#ifndef TN_CONTROL_BACKOFF_H
#define TN_CONTROL_BACKOFF_H

#include "util/rng.h"
#include <stdint.h>

struct tn_backoff {
    unsigned failures;
};

static inline void tn_backoff_reset(struct tn_backoff *b) { b->failures = 0; }

/* Counts one more failure and returns the wait in microseconds. */
static inline uint64_t tn_backoff_next(struct tn_backoff *b, const struct tn_rng *rng)
{
    const uint64_t unit_us = 10 * 1000, max_us = 30 * 1000 * 1000;
    if (b->failures < 1000) b->failures++;
    uint64_t wait = (uint64_t)b->failures * b->failures * unit_us;
    if (wait > max_us) wait = max_us;
    return wait / 2 + tn_rng_below(rng, wait);
}

#endif
