/* The sender's scoreboard: one record per segment in flight, what the receiver has said about it, and when it was
 * sent.
 *
 * Records cover [snd_una, snd_nxt) without gaps, in a ring addressed by a running number (id), so a sequence number
 * is found by binary search. Each record is in one of these states:
 *
 *   outstanding          sent, nothing known
 *   LOST                 deemed lost, to be sent again
 *   LOST | RESENT        sent again, nothing known about that one
 *   SACKED               arrived, not yet cumulatively acknowledged
 *
 * Two structures keep the work per ACK constant however large the window is. Outstanding and RESENT records form a
 * list in the order of their last transmission, which is what loss detection by time walks from its old end (RFC
 * 8985). SACKED records carry a skip count: how many of their successors are known to be SACKED too; walks compress
 * it, so a block that is reported again and again is not walked again.
 *
 * Byte counts (a FIN counts as one): pipe = span - sacked - lost + resent (RFC 6675 section 5's pipe). */
#ifndef TN_STACK_SACK_H
#define TN_STACK_SACK_H

#include "stack/pool.h"
#include "stack/rate.h"
#include "wire/tcp.h"

enum tn_rec_flag { TN_REC_SACKED = 1, TN_REC_LOST = 2, TN_REC_RESENT = 4, TN_REC_FIN = 8,
                   TN_REC_APP_LIMITED = 16 };

/* Segments in flight per flow: 48 MiB of full segments is 40,987; the rest is for small ones. More waits for ACKs, so
 * tiny writes into a large window can't make us keep a record per byte. */
enum { TN_RECS_MAX = 65536 };
#define TN_REC_NONE UINT32_MAX

struct tn_rec {
    uint64_t sent_us; /* of the last transmission */
    uint32_t seq;
    uint32_t skip;         /* if SACKED */
    uint32_t older, newer; /* neighbours by time of transmission; TN_REC_NONE at the ends */
    uint16_t len;          /* sequence numbers, FIN included */
    uint8_t flags, xmits;  /* xmits saturates */
    struct tn_rate_mark mark;
};

struct tn_recs {
    struct tn_rec *ring;
    uint32_t cap, first, count;  /* first: id of the oldest in sequence; ids run modulo 2^32 */
    uint32_t oldest, newest;     /* by transmission */
    uint32_t sacked, lost, resent; /* bytes */
    uint32_t sacked_segs;
    uint32_t unsent_lost; /* records that are LOST and not RESENT */
    uint32_t lost_hint;   /* no such record before this id */
};

void tn_recs_init(struct tn_recs *t);
void tn_recs_fini(struct tn_recs *t, struct tn_pool *p);
static inline struct tn_rec *tn_rec_at(const struct tn_recs *t, uint32_t id) { return &t->ring[id & (t->cap - 1)]; }
static inline uint32_t tn_recs_end(const struct tn_recs *t) { return t->first + t->count; }
static inline uint32_t tn_rec_end(const struct tn_rec *r) { return r->seq + r->len; }
/* Bytes in the network, as far as known; span = snd_nxt - snd_una. */
static inline uint32_t tn_recs_pipe(const struct tn_recs *t, uint32_t span)
{
    return span - t->sacked - t->lost + t->resent;
}

/* A new segment at the end. NULL: TN_RECS_MAX reached or no memory. */
struct tn_rec *tn_recs_push(struct tn_recs *t, struct tn_pool *p, uint32_t seq, uint32_t len, bool fin,
                            uint64_t now_us);
/* The segment with this id has been sent again. */
void tn_recs_resent(struct tn_recs *t, uint32_t id, uint64_t now_us);
void tn_recs_mark_lost(struct tn_recs *t, uint32_t id);
/* It was not lost after all (undo): LOST and not RESENT records become outstanding again. */
void tn_recs_unmark_lost(struct tn_recs *t);
/* The receiver went back on its word (RFC 2018 section 8): nothing counts as SACKED any more. */
void tn_recs_forget_sacked(struct tn_recs *t);
/* Marks the record SACKED; false when it was already. */
bool tn_recs_mark_sacked(struct tn_recs *t, uint32_t id);
/* The next id at or after this one that is not SACKED. */
uint32_t tn_recs_next_unsacked(struct tn_recs *t, uint32_t id);
/* First id whose record starts at or after seq. */
uint32_t tn_recs_find(const struct tn_recs *t, uint32_t seq);
/* The oldest record that is LOST and not RESENT, or TN_REC_NONE. */
uint32_t tn_recs_next_lost(struct tn_recs *t);
/* Removes the first record (copied to *out) if it ends at or before ack. Otherwise, if ack lies inside, cuts its
 * front and returns false. */
bool tn_recs_pop(struct tn_recs *t, uint32_t ack, struct tn_rec *out);

#endif
