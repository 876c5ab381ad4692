/* Which region should be the home: the latency history and the preference rule of net/netcheck
 * (addReportHistoryAndSetPreferredDERP). */
#ifndef TN_PATH_HOME_H
#define TN_PATH_HOME_H

#include "path/derpmap.h"

struct tn_home_latency {
    int region;
    uint32_t us; /* > 0 */
};

struct tn_home_sample {
    uint64_t at_us;
    struct tn_home_latency l;
};

/* Latencies of the last 5 minutes and 5 seconds. Zeroed is empty. */
struct tn_home {
    struct tn_home_sample *samples; /* by time */
    size_t count, cap;
};

struct tn_home_question {
    const struct tn_derp_map *map;
    const struct tn_home_latency *now; /* what answered in this check */
    size_t nnow;
    int old;                 /* the home so far, 0: none */
    uint64_t old_heard_us;   /* the last DERP frame from it, 0: never */
    uint64_t start_us;       /* of this check */
    bool (*usable)(void *ctx, int region); /* whether DERP can be reached there, as far as known; NULL: all */
    void *ctx;
};

void tn_home_fini(struct tn_home *h);
/* Adds this check to the history and picks. 0 when nothing answered and the old home is silent too. When memory is
 * short the history misses this check and the pick is made all the same. */
int tn_home_pick(struct tn_home *h, const struct tn_home_question *q, uint64_t now_us);
/* The least latency of a region in the history, 0 when there is none. */
uint32_t tn_home_best(const struct tn_home *h, int region);

#endif
