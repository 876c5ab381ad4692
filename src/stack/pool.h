/* Chunks of TCP bytes: fixed pieces of memory from slabs that go back to the kernel when they are empty.
 *
 * One pool per stack. The budget is a hard limit on bytes handed out (chunks, and the bookkeeping that grows with
 * bytes in flight). Fairness needs no list of flows: what one queue may hold depends on what is still free (after the
 * dynamic thresholds of Choudhury and Hahne, 1998). The allowance falls with the square of it, because what a queue
 * holds already, and the window it has announced, can't be taken back: after n greedy queues in a row 1/(1 + n/4) of
 * the budget is still free, the largest stop growing first, and newcomers get less and less but something. The last
 * sixteenth is kept for queues that hold nothing yet, so that a stalled crowd can't silence the others. */
#ifndef TN_STACK_POOL_H
#define TN_STACK_POOL_H

#include "util/list.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TN_CHUNK = 4096,
    TN_POOL_RESERVE_SHIFT = 4, /* budget >> 4 is for first chunks only */
};

struct tn_pool {
    size_t budget, used;   /* bytes */
    struct tn_list partial; /* slabs with free and used chunks */
    struct tn_list full;
    struct tn_list empty;
    unsigned nslabs, nempty;
    unsigned idle; /* least value of nempty since the last tn_pool_trim */
};

void tn_pool_init(struct tn_pool *p, size_t budget);
void tn_pool_fini(struct tn_pool *p); /* unmaps everything, also what was not put back */
/* A chunk, not zeroed. held: chunks the asking queue has. NULL: over the budget, or no memory. */
uint8_t *tn_pool_get(struct tn_pool *p, size_t held);
void tn_pool_put(struct tn_pool *p, uint8_t *chunk);
/* Slabs that were empty all the time since the last call go back to the kernel, but for a few. A flow that is fast fills
 * and empties megabytes each round trip: mapping and clearing them anew each time took a tenth of its CPU time. */
enum { TN_POOL_SPARE_SLABS = 2 };
void tn_pool_trim(struct tn_pool *p);
static inline bool tn_pool_wants_trim(const struct tn_pool *p) { return p->nempty > TN_POOL_SPARE_SLABS; }
/* Does the budget allow another chunk for a queue with this many? */
static inline bool tn_pool_allows(const struct tn_pool *p, size_t held)
{
    return p->used + TN_CHUNK <= (held ? p->budget - (p->budget >> TN_POOL_RESERVE_SHIFT) : p->budget);
}
/* Bookkeeping memory allocated elsewhere that counts against the budget. Charging never fails: its size is bounded by
 * a small part of the bytes it describes. */
static inline void tn_pool_charge(struct tn_pool *p, size_t bytes) { p->used += bytes; }
static inline void tn_pool_uncharge(struct tn_pool *p, size_t bytes) { p->used -= bytes; }
static inline size_t tn_pool_free(const struct tn_pool *p) { return p->used < p->budget ? p->budget - p->used : 0; }
/* How many bytes one queue may hold at most, as things are; a chunk in any case. */
static inline size_t tn_pool_share(const struct tn_pool *p)
{
    double free = (double)tn_pool_free(p), share = free * free / (4.0 * (double)p->budget);
    return share > TN_CHUNK ? (size_t)share : TN_CHUNK;
}

#endif
