/* A growable byte queue with a hard cap: append at the end, consume from the front.
 *
 * Used for stream reassembly and pending output off the data path. Over the cap nothing is appended and
 * TN_E_TOOBIG comes back, so a peer that never finishes a message can't grow it. Memory is freed when it empties
 * beyond TN_BUF_KEEP bytes of capacity. Not for secrets, which have tn_secret. */
#ifndef TN_UTIL_BUF_H
#define TN_UTIL_BUF_H

#include <stddef.h>
#include <stdint.h>

enum { TN_BUF_KEEP = 4096 };

struct tn_buf {
    uint8_t *mem;
    size_t start, len, cap; /* live bytes are mem[start .. start+len) */
    size_t max;             /* hard cap on len */
};

void tn_buf_init(struct tn_buf *b, size_t max);
void tn_buf_fini(struct tn_buf *b); /* frees; the buffer may be used again (empty, same max) */
/* All or nothing. 0, TN_E_TOOBIG or TN_E_NOMEM. */
int tn_buf_append(struct tn_buf *b, const void *bytes, size_t len);
/* Room for n more bytes at the returned place, to be followed by tn_buf_commit; NULL when over the cap. */
uint8_t *tn_buf_reserve(struct tn_buf *b, size_t n);
void tn_buf_commit(struct tn_buf *b, size_t n);
static inline uint8_t *tn_buf_data(const struct tn_buf *b) { return b->mem ? b->mem + b->start : NULL; }
static inline size_t tn_buf_len(const struct tn_buf *b) { return b->len; }
void tn_buf_consume(struct tn_buf *b, size_t n); /* n <= len */
int tn_buf_printf(struct tn_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
