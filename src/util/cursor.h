/* The one way in which untrusted bytes are read and wire bytes are written.
 *
 * Reader: every take checks the length; after the first short read the cursor is failed, all later reads give zeros,
 * and one check at the end (tn_rd_ok) decides. A nested length narrows into a child cursor with tn_rd_sub.
 * Writer: writes into a caller's buffer; an overflow marks it failed and writes nothing more.
 * Neither allocates nor keeps the memory. */
#ifndef TN_UTIL_CURSOR_H
#define TN_UTIL_CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint16_t tn_get_be16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }
static inline uint32_t tn_get_be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}
static inline uint64_t tn_get_be64(const uint8_t *p) { return (uint64_t)tn_get_be32(p) << 32 | tn_get_be32(p + 4); }
static inline uint32_t tn_get_le32(const uint8_t *p)
{
    return (uint32_t)p[3] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[1] << 8 | p[0];
}
static inline uint64_t tn_get_le64(const uint8_t *p) { return (uint64_t)tn_get_le32(p + 4) << 32 | tn_get_le32(p); }
static inline void tn_put_be16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}
static inline void tn_put_be32(uint8_t *p, uint32_t v)
{
    tn_put_be16(p, (uint16_t)(v >> 16));
    tn_put_be16(p + 2, (uint16_t)v);
}
static inline void tn_put_be64(uint8_t *p, uint64_t v)
{
    tn_put_be32(p, (uint32_t)(v >> 32));
    tn_put_be32(p + 4, (uint32_t)v);
}
static inline void tn_put_le32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
    p[2] = (uint8_t)(v >> 16);
    p[3] = (uint8_t)(v >> 24);
}
static inline void tn_put_le64(uint8_t *p, uint64_t v)
{
    tn_put_le32(p, (uint32_t)v);
    tn_put_le32(p + 4, (uint32_t)(v >> 32));
}

struct tn_rd {
    const uint8_t *p, *end;
    bool failed;
};

static inline struct tn_rd tn_rd_init(const void *bytes, size_t len)
{
    return (struct tn_rd){.p = bytes, .end = (const uint8_t *)bytes + len};
}
static inline size_t tn_rd_left(const struct tn_rd *r) { return r->failed ? 0 : (size_t)(r->end - r->p); }
static inline bool tn_rd_ok(const struct tn_rd *r) { return !r->failed; }
/* No failure and nothing left: for formats where trailing bytes are an error. */
static inline bool tn_rd_done(const struct tn_rd *r) { return !r->failed && r->p == r->end; }
/* A view of the next n bytes, or NULL and failed. n = 0 gives a non-NULL pointer unless failed. */
static inline const uint8_t *tn_rd_take(struct tn_rd *r, size_t n)
{
    if (r->failed || (size_t)(r->end - r->p) < n) {
        r->failed = true;
        return NULL;
    }
    const uint8_t *at = r->p;
    r->p += n;
    return at;
}
static inline void tn_rd_bytes(struct tn_rd *r, void *out, size_t n)
{
    const uint8_t *at = tn_rd_take(r, n);
    if (at) memcpy(out, at, n);
    else memset(out, 0, n);
}
static inline uint8_t tn_rd_u8(struct tn_rd *r)
{
    const uint8_t *at = tn_rd_take(r, 1);
    return at ? at[0] : 0;
}
static inline uint16_t tn_rd_be16(struct tn_rd *r)
{
    const uint8_t *at = tn_rd_take(r, 2);
    return at ? tn_get_be16(at) : 0;
}
static inline uint32_t tn_rd_be32(struct tn_rd *r)
{
    const uint8_t *at = tn_rd_take(r, 4);
    return at ? tn_get_be32(at) : 0;
}
static inline uint64_t tn_rd_be64(struct tn_rd *r)
{
    const uint8_t *at = tn_rd_take(r, 8);
    return at ? tn_get_be64(at) : 0;
}
static inline uint32_t tn_rd_le32(struct tn_rd *r)
{
    const uint8_t *at = tn_rd_take(r, 4);
    return at ? tn_get_le32(at) : 0;
}
static inline uint64_t tn_rd_le64(struct tn_rd *r)
{
    const uint8_t *at = tn_rd_take(r, 8);
    return at ? tn_get_le64(at) : 0;
}
/* A child over the next n bytes; the parent moves past them. Both fail when there are fewer. */
static inline struct tn_rd tn_rd_sub(struct tn_rd *r, size_t n)
{
    const uint8_t *at = tn_rd_take(r, n);
    return at ? tn_rd_init(at, n) : (struct tn_rd){.failed = true};
}

struct tn_wr {
    uint8_t *start, *p, *end;
    bool failed;
};

static inline struct tn_wr tn_wr_init(void *buf, size_t cap)
{
    return (struct tn_wr){.start = buf, .p = buf, .end = (uint8_t *)buf + cap};
}
static inline size_t tn_wr_len(const struct tn_wr *w) { return (size_t)(w->p - w->start); }
static inline bool tn_wr_ok(const struct tn_wr *w) { return !w->failed; }
static inline uint8_t *tn_wr_make(struct tn_wr *w, size_t n)
{
    if (w->failed || (size_t)(w->end - w->p) < n) {
        w->failed = true;
        return NULL;
    }
    uint8_t *at = w->p;
    w->p += n;
    return at;
}
static inline void tn_wr_bytes(struct tn_wr *w, const void *bytes, size_t n)
{
    uint8_t *at = tn_wr_make(w, n);
    if (at && n) memcpy(at, bytes, n);
}
static inline void tn_wr_zero(struct tn_wr *w, size_t n)
{
    uint8_t *at = tn_wr_make(w, n);
    if (at) memset(at, 0, n);
}
static inline void tn_wr_u8(struct tn_wr *w, uint8_t v) { tn_wr_bytes(w, &v, 1); }
static inline void tn_wr_be16(struct tn_wr *w, uint16_t v)
{
    uint8_t *at = tn_wr_make(w, 2);
    if (at) tn_put_be16(at, v);
}
static inline void tn_wr_be32(struct tn_wr *w, uint32_t v)
{
    uint8_t *at = tn_wr_make(w, 4);
    if (at) tn_put_be32(at, v);
}
static inline void tn_wr_be64(struct tn_wr *w, uint64_t v)
{
    uint8_t *at = tn_wr_make(w, 8);
    if (at) tn_put_be64(at, v);
}
static inline void tn_wr_le32(struct tn_wr *w, uint32_t v)
{
    uint8_t *at = tn_wr_make(w, 4);
    if (at) tn_put_le32(at, v);
}
static inline void tn_wr_le64(struct tn_wr *w, uint64_t v)
{
    uint8_t *at = tn_wr_make(w, 8);
    if (at) tn_put_le64(at, v);
}

#endif
