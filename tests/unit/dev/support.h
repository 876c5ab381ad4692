/* What the dev room's tests share: keys from numbers, replies in memory. */
#ifndef TN_TEST_DEV_SUPPORT_H
#define TN_TEST_DEV_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "dev/registry.h"
#include "dev/reply.h"
#include "util/buf.h"
#include "util/err.h"

static inline struct tn_machine_public mkey(unsigned n)
{
    struct tn_machine_public k = {{0x6d}};
    k.b[30] = (uint8_t)(n >> 8);
    k.b[31] = (uint8_t)n;
    return k;
}

static inline struct tn_node_public nkey(unsigned n)
{
    struct tn_node_public k = {{0x6e}};
    k.b[30] = (uint8_t)(n >> 8);
    k.b[31] = (uint8_t)n;
    return k;
}

static inline struct tn_disco_public dkey(unsigned n)
{
    struct tn_disco_public k = {{0x64}};
    k.b[30] = (uint8_t)(n >> 8);
    k.b[31] = (uint8_t)n;
    return k;
}

/* An answer as its client would see it. */
struct memory_reply {
    struct tn_dev_reply reply; /* first: the ops are given this */
    int status;
    char body[512 * 1024];
    size_t len;
    bool ended, aborted, full; /* full: writes fail */
    size_t backlog;
};

static inline void memory_begin(struct tn_dev_reply *r, int status, const char *content_type)
{
    struct memory_reply *m = (struct memory_reply *)(void *)r;
    assert_int_equal(m->status, 0);
    m->status = status;
}

static inline int memory_write(struct tn_dev_reply *r, const void *bytes, size_t len)
{
    struct memory_reply *m = (struct memory_reply *)(void *)r;
    assert_false(m->ended || m->aborted);
    assert_int_not_equal(m->status, 0);
    if (m->full || m->len + len >= sizeof m->body) return TN_E_TOOBIG;
    memcpy(m->body + m->len, bytes, len);
    m->len += len;
    m->body[m->len] = '\0';
    return 0;
}

static inline void memory_end(struct tn_dev_reply *r)
{
    struct memory_reply *m = (struct memory_reply *)(void *)r;
    assert_false(m->ended || m->aborted);
    m->ended = true;
    r->gone = NULL;
}

static inline void memory_abort(struct tn_dev_reply *r)
{
    struct memory_reply *m = (struct memory_reply *)(void *)r;
    assert_false(m->ended || m->aborted);
    m->aborted = true;
    r->gone = NULL;
}

static inline size_t memory_backlog(const struct tn_dev_reply *r)
{
    return ((const struct memory_reply *)(const void *)r)->backlog;
}

static const struct tn_dev_reply_ops memory_ops = {memory_begin, memory_write, memory_end, memory_abort,
                                                   memory_backlog};

static inline void memory_reset(struct memory_reply *m)
{
    memset(m, 0, offsetof(struct memory_reply, body) + 1);
    m->len = 0;
    m->ended = m->aborted = m->full = false;
    m->backlog = 0;
    m->reply.ops = &memory_ops;
}

/* The client goes away. */
static inline void memory_hang_up(struct memory_reply *m, struct tn_dev_now now)
{
    void (*gone)(void *, struct tn_dev_now) = m->reply.gone;
    m->reply.gone = NULL;
    if (gone) gone(m->reply.holder, now);
}

#endif
