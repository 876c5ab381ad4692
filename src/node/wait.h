/* Waiting of application threads: until a condition, a timeout, or tailnet_cancel. */
#ifndef TN_NODE_WAIT_H
#define TN_NODE_WAIT_H

#include "node/node.h"

struct tn_wait {
    uint64_t until_us; /* TN_NEVER: for ever */
    unsigned cancels;
};

/* timeout_ms < 0: for ever. Call before the operation that is to be waited for. */
struct tn_wait tn_wait_begin(struct tn_node *n, int timeout_ms);
/* With mu held: sleeps until something changed. 0 to look again, TN_E_TIMEDOUT, TN_E_CANCELED. */
int tn_wait_more(struct tn_node *n, const struct tn_wait *w);

#endif
