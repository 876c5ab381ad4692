/* Datagrams in and out of sockets, many per system call.
 *
 * Reading is level-triggered and bounded per turn, so that a flooded socket does not starve the others: what is left
 * shows again in the next. Writing is put off to the end of the turn: what a peer's burst of packets brought for one
 * socket goes out by one call. Either way neighbours of one size are one message of the kernel's (UDP_GRO, UDP_SEGMENT). */
#include "egress/private.h"
#include "util/err.h"

#include <assert.h>

enum {
    READS_PER_TURN = 4,   /* times TN_DGRAM_READS */
    ERRORS_PER_TURN = 32,
    ECHO_REPLY6 = 129,
};

static void enter(struct tn_chan *c) { c->busy++; }

static void leave(struct tn_chan *c)
{
    c->busy--;
    if (!c->busy && c->dead) tn_chan_free(c);
}

/* ---- in ---- */

static void deliver(struct tn_chan *c, struct tn_addrport from, const uint8_t *bytes, size_t len)
{
    struct tn_dgrams *g = &c->e->dgrams;
    if (c->assoc && !tn_assoc_unwrap(c, &from, &bytes, &len)) return;
    struct tn_dgram *d = tn_dgram_find(c->e, c, &from);
    if (!d) {
        g->stats.strangers++;
        return;
    }
    g->stats.received++;
    g->stats.bytes_down += len;
    if (d->via && c->kind == TN_DGRAM_ECHO && len > 0) ((uint8_t *)(uintptr_t)bytes)[0] = ECHO_REPLY6; /* our own buffer */
    d->ev->on_datagram(d->arg, bytes, len);
}

/* Each may end the channel. */
static void deliver_run(struct tn_chan *c, const struct tn_addrport *from, const uint8_t *bytes, size_t len, size_t segment)
{
    size_t at = 0;
    do {
        size_t n = len - at < segment ? len - at : segment;
        deliver(c, *from, bytes + at, n);
        at += n;
    } while (at < len && !c->dead);
}

static void read_errors(struct tn_chan *c)
{
    struct tn_addrport to;
    enum tn_dgram_error what;
    bool about;
    for (int i = 0; i < ERRORS_PER_TURN && !c->dead && tn_dgramsock_error(c->fd, &to, &what, &about); i++) {
        struct tn_dgram *d = about ? tn_dgram_find(c->e, c, &to) : NULL;
        if (d) d->ev->on_error(d->arg, what);
    }
}

void tn_chan_ready(struct tn_chan *c)
{
    struct tn_egress *e = c->e;
    struct tn_dgram_in *in = e->dgrams.in;
    if (c->fd < 0) return; /* closed in this turn */
    enter(c);
    read_errors(c);
    if (e->on_batch) e->on_batch(e->batch_ctx, true);
    for (int round = 0, n = TN_DGRAM_READS; round < READS_PER_TURN && n == TN_DGRAM_READS && !c->dead; round++) {
        n = tn_dgramsock_read(c->fd, in);
        for (int i = 0; i < n && !c->dead; i++)
            deliver_run(c, &in->got[i].from, in->bytes[i], in->got[i].len, in->got[i].segment);
    }
    if (e->on_batch) e->on_batch(e->batch_ctx, false);
    leave(c);
}

/* ---- out ---- */

bool tn_dgrams_pending(const struct tn_egress *e) { return e->dgrams.out && e->dgrams.out->count > 0; }

/* The first of the items can't be sent. */
static void not_sent(struct tn_chan *c, const struct tn_dgram_item *item, int err)
{
    c->e->dgrams.stats.unsent++;
    struct tn_dgram *d = err == TN_E_NETUNREACH || err == TN_E_HOSTUNREACH ? tn_dgram_find(c->e, c, &item->to) : NULL;
    if (d) d->ev->on_error(d->arg, TN_DGRAM_NO_HOST);
}

static void write_items(struct tn_chan *c, const struct tn_dgram_item *items, int count)
{
    struct tn_dgram_stats *s = &c->e->dgrams.stats;
    for (int at = 0, tried = -1; at < count && c->fd >= 0;) {
        int err, n = tn_dgramsock_write(c->fd, items + at, count - at, c->kind == TN_DGRAM_UDP, &err);
        for (int i = at; i < at + n; i++) s->bytes_up += items[i].len;
        s->sent += (unsigned)n;
        at += n;
        if (err == TN_E_AGAIN || err == -ENOBUFS) {
            s->unsent += (unsigned)(count - at);
            return;
        }
        if (!err) continue;
        /* The call may have told what became of an earlier datagram, and not tried this one: once more. */
        if (tried == at) not_sent(c, &items[at++], err);
        else tried = at;
    }
}

void tn_dgrams_flush(struct tn_egress *e)
{
    struct tn_dgram_out *out = e->dgrams.out;
    if (!tn_dgrams_pending(e) || out->flushing) return;
    struct tn_chan *c = out->chan;
    enter(c);
    out->flushing = true;
    write_items(c, out->items, out->count);
    out->flushing = false;
    out->count = 0;
    out->used = 0;
    out->chan = NULL;
    leave(c); /* may free out with the last channel */
}

void tn_chan_send(struct tn_chan *c, const struct tn_addrport *to, const void *head, size_t head_len, const void *bytes,
                  size_t len)
{
    struct tn_dgrams *g = &c->e->dgrams;
    struct tn_dgram_out *out = g->out;
    assert(head_len <= sizeof out->heads[0]);
    if (head_len + len > TN_DGRAM_MAX) {
        g->stats.unsent++;
        return;
    }
    bool fits = out->count < TN_DGRAM_WRITES && len <= sizeof out->bytes - out->used;
    if (out->count > 0 && (out->chan != c || !fits)) tn_dgrams_flush(c->e);
    struct tn_dgram_item item = {.to = *to, .head = head, .head_len = head_len, .body = bytes, .len = len};
    if (len > sizeof out->bytes || out->flushing) { /* flushing: called out of an error's callback */
        write_items(c, &item, 1);
        return;
    }
    if (head_len) memcpy(out->heads[out->count], head, head_len);
    if (len) memcpy(out->bytes + out->used, bytes, len);
    item.head = out->heads[out->count];
    item.body = out->bytes + out->used;
    out->items[out->count++] = item;
    out->used += len;
    out->chan = c;
}
