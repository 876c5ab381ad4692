#include "stack/queue.h"
#include "util/err.h"
#include "stack/cksumcopy.h"
#include "wire/ip.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { RING_MIN = 4, RING_MAX = 32768 }; /* 128 MiB: beyond the largest window we offer */

static uint8_t **slot_at(const struct tn_queue *q, uint32_t index)
{
    return &q->ring[(q->first + index) & (q->cap - 1u)];
}

static int grow_ring(struct tn_queue *q, struct tn_pool *p, uint32_t need)
{
    uint32_t cap = q->cap ? q->cap : RING_MIN;
    while (cap < need) cap *= 2;
    if (cap == q->cap) return 0;
    if (cap > RING_MAX) return TN_E_NOMEM;
    uint8_t **ring = calloc(cap, sizeof *ring);
    if (!ring) return TN_E_NOMEM;
    for (uint32_t i = 0; i < q->slots; i++) ring[i] = *slot_at(q, i);
    free(q->ring);
    tn_pool_charge(p, (cap - q->cap) * sizeof *ring);
    q->ring = ring;
    q->cap = (uint16_t)cap;
    q->first = 0;
    return 0;
}

/* The chunk with this index exists afterwards. */
static uint8_t *chunk_make(struct tn_queue *q, struct tn_pool *p, uint32_t index)
{
    if (grow_ring(q, p, index + 1) != 0) return NULL;
    while (q->slots <= index) *slot_at(q, q->slots++) = NULL;
    uint8_t **slot = slot_at(q, index);
    if (!*slot) {
        *slot = tn_pool_get(p, q->held);
        if (*slot) q->held++;
    }
    return *slot;
}

static void release_if_empty(struct tn_queue *q, struct tn_pool *p)
{
    if (q->held) return;
    tn_pool_uncharge(p, q->cap * sizeof *q->ring);
    free(q->ring);
    *q = (struct tn_queue){0};
}

int tn_queue_write(struct tn_queue *q, struct tn_pool *p, uint32_t at, const void *bytes, size_t n)
{
    const uint8_t *from = bytes;
    uint64_t pos = (uint64_t)q->off + at;
    while (n > 0) {
        uint8_t *chunk = pos / TN_CHUNK < RING_MAX ? chunk_make(q, p, (uint32_t)(pos / TN_CHUNK)) : NULL;
        if (!chunk) {
            release_if_empty(q, p);
            return TN_E_NOMEM;
        }
        size_t in = pos % TN_CHUNK, piece = TN_CHUNK - in < n ? TN_CHUNK - in : n;
        memcpy(chunk + in, from, piece);
        from += piece;
        pos += piece;
        n -= piece;
    }
    return 0;
}

void tn_queue_read(const struct tn_queue *q, uint32_t at, void *out, size_t n)
{
    uint8_t *to = out;
    uint32_t pos = q->off + at;
    while (n > 0) {
        size_t in = pos % TN_CHUNK, piece = TN_CHUNK - in < n ? TN_CHUNK - in : n;
        memcpy(to, *slot_at(q, pos / TN_CHUNK) + in, piece);
        to += piece;
        pos += (uint32_t)piece;
        n -= piece;
    }
}

uint32_t tn_queue_read_sum(const struct tn_queue *q, uint32_t at, void *out, size_t n, uint32_t sum)
{
    uint8_t *to = out;
    uint32_t pos = q->off + at;
    bool odd = false; /* behind an odd number of bytes: the sum's bytes are swapped */
    while (n > 0) {
        size_t in = pos % TN_CHUNK, piece = TN_CHUNK - in < n ? TN_CHUNK - in : n;
        uint16_t part = (uint16_t)~tn_cksum_fold(tn_cksum_copy(0, to, *slot_at(q, pos / TN_CHUNK) + in, piece));
        sum += odd ? (uint16_t)(part << 8 | part >> 8) : part;
        odd ^= piece & 1;
        to += piece;
        pos += (uint32_t)piece;
        n -= piece;
    }
    return sum;
}

int tn_queue_views(const struct tn_queue *q, uint32_t at, uint32_t n, struct iovec *iov, int cap)
{
    uint32_t pos = q->off + at;
    int count = 0;
    while (n > 0 && count < cap) {
        uint32_t in = pos % TN_CHUNK, piece = TN_CHUNK - in < n ? TN_CHUNK - in : n;
        iov[count++] = (struct iovec){*slot_at(q, pos / TN_CHUNK) + in, piece};
        pos += piece;
        n -= piece;
    }
    return count;
}

uint32_t tn_queue_reserve(struct tn_queue *q, struct tn_pool *p, uint32_t n)
{
    uint32_t pos = q->off + q->len, end = pos + n;
    for (uint32_t at = pos; at < end; at = (at / TN_CHUNK + 1) * TN_CHUNK) {
        if (chunk_make(q, p, at / TN_CHUNK)) continue;
        release_if_empty(q, p);
        return at - pos;
    }
    return n;
}

static void drop_chunk(struct tn_queue *q, struct tn_pool *p, uint8_t **slot)
{
    if (!*slot) return;
    tn_pool_put(p, *slot);
    *slot = NULL;
    q->held--;
}

void tn_queue_consume(struct tn_queue *q, struct tn_pool *p, uint32_t n)
{
    assert(n <= q->len);
    q->len -= n;
    uint32_t pos = q->off + n;
    for (; pos >= TN_CHUNK; pos -= TN_CHUNK) {
        drop_chunk(q, p, slot_at(q, 0));
        q->first = (uint16_t)((q->first + 1u) & (q->cap - 1u));
        q->slots--;
    }
    q->off = (uint16_t)pos;
    if (q->held) return;
    /* Nothing here, and what comes may start a chunk afresh: offsets count from the first byte. */
    release_if_empty(q, p);
}

void tn_queue_trim(struct tn_queue *q, struct tn_pool *p, uint32_t keep)
{
    uint32_t need = keep ? (q->off + keep + TN_CHUNK - 1) / TN_CHUNK : 0;
    while (q->slots > need) drop_chunk(q, p, slot_at(q, --q->slots));
    release_if_empty(q, p);
}

void tn_queue_clear(struct tn_queue *q, struct tn_pool *p)
{
    q->len = 0;
    tn_queue_trim(q, p, 0);
}
