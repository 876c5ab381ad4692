#include "util/buf.h"
#include "util/err.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void tn_buf_init(struct tn_buf *b, size_t max) { *b = (struct tn_buf){.max = max}; }

void tn_buf_fini(struct tn_buf *b)
{
    free(b->mem);
    tn_buf_init(b, b->max);
}

/* Makes room for n more bytes behind the live ones, moving or growing. */
static int make_room(struct tn_buf *b, size_t n)
{
    if (n > b->max || b->len > b->max - n) return TN_E_TOOBIG;
    if (b->mem && b->cap - b->start - b->len >= n) return 0;
    if (b->mem && b->cap - b->len >= n && b->start >= b->len) {
        memmove(b->mem, b->mem + b->start, b->len);
        b->start = 0;
        return 0;
    }
    size_t cap = b->cap ? b->cap : 512;
    while (cap < b->len + n) cap *= 2;
    if (cap > b->max) cap = b->max;
    uint8_t *mem = malloc(cap);
    if (!mem) return TN_E_NOMEM;
    if (b->len) memcpy(mem, b->mem + b->start, b->len);
    free(b->mem);
    b->mem = mem;
    b->start = 0;
    b->cap = cap;
    return 0;
}

int tn_buf_append(struct tn_buf *b, const void *bytes, size_t len)
{
    if (len == 0) return 0;
    int err = make_room(b, len);
    if (err) return err;
    memcpy(b->mem + b->start + b->len, bytes, len);
    b->len += len;
    return 0;
}

uint8_t *tn_buf_reserve(struct tn_buf *b, size_t n)
{
    return n == 0 || make_room(b, n) != 0 ? NULL : b->mem + b->start + b->len;
}

void tn_buf_commit(struct tn_buf *b, size_t n)
{
    assert(b->start + b->len + n <= b->cap);
    b->len += n;
}

void tn_buf_consume(struct tn_buf *b, size_t n)
{
    assert(n <= b->len);
    b->start += n;
    b->len -= n;
    if (b->len != 0) return;
    b->start = 0;
    if (b->cap > TN_BUF_KEEP) {
        free(b->mem);
        b->mem = NULL;
        b->cap = 0;
    }
}

int tn_buf_printf(struct tn_buf *b, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int need = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (need < 0) return TN_E_INVAL;
    uint8_t *at = tn_buf_reserve(b, (size_t)need + 1);
    if (!at) return TN_E_TOOBIG;
    va_start(args, fmt);
    vsnprintf((char *)at, (size_t)need + 1, fmt, args);
    va_end(args);
    tn_buf_commit(b, (size_t)need);
    return 0;
}
