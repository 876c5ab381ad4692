/* A queue of stream bytes in chunks: random access by offset from the first byte, views without copying.
 *
 * The send queue appends at the end. The receive queue also writes beyond its end (segments out of order): the place
 * of a byte in the chunk ring depends only on its offset, so holes cost nothing but the chunks that have bytes,
 * overlaps overwrite themselves, and what a peer can make us hold is its window plus a chunk, however small its
 * segments are. len counts the bytes in order; which bytes beyond are there is the business of reass.h.
 *
 * An empty queue owns no memory at all. */
#ifndef TN_STACK_QUEUE_H
#define TN_STACK_QUEUE_H

#include "stack/pool.h"
#include <sys/uio.h>

struct tn_queue {
    uint8_t **ring;      /* chunk pointers, NULL for a hole; cap is a power of two */
    uint32_t len;        /* bytes in order */
    uint32_t held;       /* chunks owned */
    uint16_t cap, first; /* slots, slot of the first byte's chunk */
    uint16_t off;        /* of the first byte within its chunk */
    uint16_t slots;      /* in use from first on */
};

/* Copies n bytes to offset at (>= 0, may lie beyond len) and leaves len alone. 0 or TN_E_NOMEM, after which no byte
 * of [0, len) has changed. */
int tn_queue_write(struct tn_queue *q, struct tn_pool *p, uint32_t at, const void *bytes, size_t n);
/* Bytes [at, at+n) must have been written. */
void tn_queue_read(const struct tn_queue *q, uint32_t at, void *out, size_t n);
/* The same, and the Internet checksum of the bytes added to sum (stack/cksumcopy.h). */
uint32_t tn_queue_read_sum(const struct tn_queue *q, uint32_t at, void *out, size_t n, uint32_t sum);
/* Up to cap views of [at, at+n). */
int tn_queue_views(const struct tn_queue *q, uint32_t at, uint32_t n, struct iovec *iov, int cap);
/* Makes sure that chunks exist for [len, len+n); returns how many bytes have room (may be fewer). */
uint32_t tn_queue_reserve(struct tn_queue *q, struct tn_pool *p, uint32_t n);
/* Drops the first n bytes, n <= len. A chunk that bytes may yet be added to stays: when nothing is left or expected,
 * tn_queue_trim gives it back. */
void tn_queue_consume(struct tn_queue *q, struct tn_pool *p, uint32_t n);
/* Bytes that fit after the last one without another chunk; for a queue without holes. */
static inline uint32_t tn_queue_room(const struct tn_queue *q)
{
    return q->slots * (uint32_t)TN_CHUNK - q->off - q->len;
}
/* Gives back chunks that hold no byte of [0, keep). */
void tn_queue_trim(struct tn_queue *q, struct tn_pool *p, uint32_t keep);
void tn_queue_clear(struct tn_queue *q, struct tn_pool *p);

#endif
