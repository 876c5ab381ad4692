/* What has arrived out of order: disjoint, sorted ranges of sequence numbers beyond rcv_nxt, and the order in which
 * SACK reports them (RFC 2018 section 4: the block with the newest segment first, then the ones reported most
 * recently).
 *
 * The bytes themselves already lie at their place in the receive queue. The number of ranges is capped; what would
 * need one more is refused, and the peer sends it again. */
#ifndef TN_STACK_REASS_H
#define TN_STACK_REASS_H

#include "wire/tcp.h"

enum {
    TN_REASS_MAX = 2048,  /* ranges: a full 8 MiB window with every third segment missing */
    TN_REASS_RECENT = 4,
};

struct tn_reass {
    struct tn_tcp_sack *range;
    uint16_t count, cap;
    uint8_t nrecent;
    uint32_t recent[TN_REASS_RECENT]; /* a sequence number inside each recently touched range, newest first */
};

/* A NULL reassembly is an empty one: nothing is allocated before the first hole. */
struct tn_reass *tn_reass_new(void);
void tn_reass_free(struct tn_reass *r);
/* Adds [start, end), merging. 0, TN_E_LIMIT or TN_E_NOMEM (unchanged). *dup is set to the first part that was already
 * there (empty if none): the D-SACK report. */
int tn_reass_add(struct tn_reass *r, uint32_t start, uint32_t end, struct tn_tcp_sack *dup);
/* Removes what now lies at or below nxt and returns the new rcv_nxt: nxt, or the end of the range that it reached. */
uint32_t tn_reass_advance(struct tn_reass *r, uint32_t nxt);
/* The highest sequence number held, or nxt when there is none. */
uint32_t tn_reass_end(const struct tn_reass *r, uint32_t nxt);
/* Up to n blocks in the order of RFC 2018; returns the count. */
unsigned tn_reass_blocks(const struct tn_reass *r, struct tn_tcp_sack *out, unsigned n);

#endif
