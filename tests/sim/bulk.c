#include "bulk.h"

#include <stdlib.h>
#include <string.h>

enum { PORT = 5001, FLOWS = 16 };

struct bulk;

struct flow {
    struct bulk *w;
    unsigned sender;
    struct tn_tcp *c;
    uint64_t written, paused_to_us;
    bool paused;
};

struct side {
    struct bulk *w;
    struct tn_stack *st;
    uint64_t rng;
    struct flow flow[FLOWS];
    bool started;
};

struct bulk {
    const struct bulk_config *c;
    struct side side[BULK_SENDERS + 1]; /* the last receives */
    struct link there, back[BULK_SENDERS];
    uint64_t now, start, received[BULK_SENDERS];
    struct bulk_result result;
};

static bool is_counted(const struct bulk *w) { return (double)(w->now - w->start) / 1e6 >= w->c->from_s; }

static struct tn_ip addr_of(unsigned i) { return tn_ip4(10, 9, 0, (uint8_t)(i + 1)); }

static void output(void *ctx, uint8_t *packet, size_t len)
{
    struct side *s = ctx;
    unsigned to = packet[19] - 1u; /* the last byte of the destination */
    if (to == BULK_SENDERS) link_send(&s->w->there, packet, len, s->w->now);
    else if (to < BULK_SENDERS) link_send(&s->w->back[to], packet, len, s->w->now);
}

static void keep_writing(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    struct flow *f = arg;
    const struct bulk_sender *s = &f->w->c->sender[f->sender];
    struct iovec iov[16];
    for (int n; !f->paused && (n = tn_tcp_reserve(c, iov, 16, 65536)) > 0;) {
        size_t len = 0;
        for (int i = 0; i < n; len += iov[i++].iov_len) memset(iov[i].iov_base, 'x', iov[i].iov_len);
        uint64_t before = f->written;
        f->written += len;
        tn_tcp_commit(c, len, now_us);
        if (!s->pause_every_bytes || before / s->pause_every_bytes == f->written / s->pause_every_bytes) continue;
        f->paused = true;
        f->paused_to_us = now_us + s->pause_us;
    }
}

static void keep_reading(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    struct bulk *w = arg;
    size_t n = tn_tcp_readable(c);
    if (is_counted(w)) w->received[tn_tcp_remote(c).ip.b[3] - 1u] += n;
    if (n) tn_tcp_consume(c, n, now_us);
}

static const struct tn_tcp_events sender = {.on_open = keep_writing, .on_writable = keep_writing};
static const struct tn_tcp_events receiver = {.on_readable = keep_reading};

static int on_accept(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    tn_tcp_set_events(c, &receiver, arg);
    return 0;
}

static void make_side(struct bulk *w, unsigned i)
{
    struct side *s = &w->side[i];
    *s = (struct side){.w = w, .rng = w->c->link.seed + i};
    struct tn_stack_config config = {
        .mtu = (uint16_t)w->c->mtu, .budget = w->c->budget, .rng = tn_rng_seeded(&s->rng), .cb.output = output,
        .ctx = s, .congestion = i < BULK_SENDERS ? w->c->sender[i].cc : TN_CONGESTION_BBR};
    struct tn_ip addr = addr_of(i);
    s->st = tn_stack_new(&config);
    if (!s->st || tn_stack_set_addrs(s->st, &addr, 1, w->now) != 0) abort();
}

static void start_sender(struct bulk *w, unsigned i)
{
    struct side *s = &w->side[i];
    struct tn_addrport remote = {addr_of(BULK_SENDERS), PORT};
    s->started = true;
    for (unsigned k = 0; k < w->c->sender[i].flows; k++) {
        s->flow[k] = (struct flow){.w = w, .sender = i};
        if (tn_tcp_connect(s->st, NULL, &remote, &sender, &s->flow[k], w->now, &s->flow[k].c) != 0) abort();
    }
}

static uint64_t start_us(const struct bulk *w, unsigned i)
{
    return w->start + (uint64_t)(w->c->sender[i].start_s * 1e6);
}

static uint64_t min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }

static uint64_t deadline(const struct bulk *w, const struct side *s)
{
    uint64_t at = tn_stack_next_deadline(s->st), tick = w->c->tick_us;
    if (tick && at > w->now && at != UINT64_MAX) at = (at + tick - 1) / tick * tick;
    return at;
}

static uint64_t next_event(const struct bulk *w)
{
    uint64_t at = link_next(&w->there);
    for (unsigned i = 0; i < BULK_SENDERS; i++) at = min_u64(at, link_next(&w->back[i]));
    for (unsigned i = 0; i <= BULK_SENDERS; i++) {
        const struct side *s = &w->side[i];
        if (!s->st) continue;
        if (i < BULK_SENDERS && !s->started) {
            at = min_u64(at, start_us(w, i));
            continue;
        }
        at = min_u64(at, deadline(w, s));
        for (unsigned k = 0; k < FLOWS; k++)
            if (s->flow[k].paused) at = min_u64(at, s->flow[k].paused_to_us);
    }
    return at;
}

static void deliver(struct bulk *w)
{
    struct link_packet *p = link_take(&w->there, w->now);
    if (p) tn_stack_input(w->side[BULK_SENDERS].st, p->bytes, p->len, w->now);
    free(p);
    for (unsigned i = 0; i < BULK_SENDERS; i++) {
        p = link_take(&w->back[i], w->now);
        if (p && w->side[i].st) tn_stack_input(w->side[i].st, p->bytes, p->len, w->now);
        free(p);
    }
}

static void turn(struct bulk *w)
{
    deliver(w);
    for (unsigned i = 0; i <= BULK_SENDERS; i++) {
        struct side *s = &w->side[i];
        if (!s->st) continue;
        if (i < BULK_SENDERS && !s->started && w->now >= start_us(w, i)) start_sender(w, i);
        if (deadline(w, s) <= w->now) tn_stack_timeout(s->st, w->now);
        for (unsigned k = 0; k < FLOWS; k++) {
            if (!s->flow[k].paused || s->flow[k].paused_to_us > w->now) continue;
            s->flow[k].paused = false;
            keep_writing(&s->flow[k], s->flow[k].c, w->now);
        }
        struct tn_stack_stats stats;
        tn_stack_stats(s->st, &stats);
        if (stats.chunk_bytes > w->result.memory[i]) w->result.memory[i] = stats.chunk_bytes;
    }
}

static void change_path(struct bulk *w)
{
    const struct bulk_change *c = &w->c->change;
    if (c->at_s <= 0 || (double)(w->now - w->start) / 1e6 < c->at_s) return;
    w->there.c.rate_bps = c->rate_bps;
    w->there.c.delay_us = c->delay_us;
    for (unsigned i = 0; i < BULK_SENDERS; i++) w->back[i].c.delay_us = c->delay_us + w->c->sender[i].extra_us;
}

static void finish(struct bulk *w)
{
    for (unsigned i = 0; i <= BULK_SENDERS; i++) {
        struct side *s = &w->side[i];
        for (unsigned k = 0; i < BULK_SENDERS && k < FLOWS; k++) {
            if (!s->flow[k].c) continue;
            struct tn_tcp_info info;
            tn_tcp_info(s->flow[k].c, &info);
            w->result.sent[i] += info.bytes_sent;
            w->result.resent[i] += info.bytes_retransmitted;
        }
        tn_stack_free(s->st);
    }
    for (unsigned i = 0; i < BULK_SENDERS; i++)
        w->result.mbit[i] = (double)w->received[i] * 8 / (w->c->seconds - w->c->from_s) / 1e6;
    link_fini(&w->there);
    for (unsigned i = 0; i < BULK_SENDERS; i++) link_fini(&w->back[i]);
}

struct bulk_result bulk_run(const struct bulk_config *c)
{
    struct bulk w = {.c = c, .now = 1000000, .start = 1000000};
    uint64_t end = w.start + (uint64_t)(c->seconds * 1e6);
    double waited = 0, counted = 0;
    link_init(&w.there, &c->link);
    for (unsigned i = 0; i < BULK_SENDERS; i++) {
        struct link_config back = {.delay_us = c->link.delay_us + c->sender[i].extra_us, .seed = c->link.seed + 100 + i};
        link_init(&w.back[i], &back);
    }
    for (unsigned i = 0; i <= BULK_SENDERS; i++)
        if (i == BULK_SENDERS || c->sender[i].flows) make_side(&w, i);
    struct tn_tcp_listener *l;
    struct tn_addrport at = {addr_of(BULK_SENDERS), PORT};
    if (tn_tcp_listen(w.side[BULK_SENDERS].st, &at, 64, on_accept, &w, &l) != 0) abort();
    while (w.now < end) {
        uint64_t next = next_event(&w);
        if (next > end) next = end;
        if (next > w.now) {
            if (is_counted(&w)) {
                double wait = w.there.free_at_us > w.now ? (double)(w.there.free_at_us - w.now) : 0;
                waited += wait * (double)(next - w.now);
                counted += (double)(next - w.now);
            }
            w.now = next;
        }
        change_path(&w);
        turn(&w);
    }
    w.result.queue_ms = counted > 0 ? waited / counted / 1e3 : 0;
    finish(&w);
    return w.result;
}
