/* Scripted segments, in packetdrill's manner: a stack with one peer, whose segments are written out by hand, and
 * whose answers are taken out one by one. Sequence numbers are relative: 0 is the first byte of data in each
 * direction, so a SYN is at -1. */
#ifndef TN_TESTS_SCRIPT_H
#define TN_TESTS_SCRIPT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "stack/internal.h"
#include "util/cursor.h"
#include "wire/tcp.h"

enum { S = TN_TCP_SYN, A = TN_TCP_ACK, F = TN_TCP_FIN, R = TN_TCP_RST, P = TN_TCP_PSH };
enum { OURS = 80, THEIRS = 5555, QUEUE = 512, PEER_ISS = 7000, WSCALE = 10 /* of an automatic buffer */ };

struct emitted {
    uint8_t bytes[1600];
    size_t len;
};

struct script {
    struct tn_stack *st;
    uint64_t now, rng;
    struct emitted q[QUEUE];
    unsigned head, tail;
    struct tn_tcp *c;
    struct tn_tcp_listener *l;
    struct tn_addrport local, remote;
    uint32_t iss;     /* ours, once seen */
    bool ts, sack, wscale; /* options of the peer */
    uint8_t peer_scale;
    uint32_t tsval;   /* the peer's clock */
    uint32_t tsecr;   /* our last timestamp */
    int opened, readable, writable, closed, close_err, accepted;
    bool refuse_accept;
    int foreign_syns, foreign_rsts, foreign_others;
    struct tn_syn syn;
    enum tn_syn_verdict verdict;
    bool held;
};

static inline void s_output(void *ctx, uint8_t *packet, size_t len)
{
    struct script *s = ctx;
    assert_true(s->head - s->tail < QUEUE && len <= sizeof s->q[0].bytes);
    struct emitted *e = &s->q[s->head++ % QUEUE];
    memcpy(e->bytes, packet, len);
    e->len = len;
}

static inline void s_on_open(void *arg, struct tn_tcp *c, uint64_t now_us) { ((struct script *)arg)->opened++; }
static inline void s_on_readable(void *arg, struct tn_tcp *c, uint64_t now_us) { ((struct script *)arg)->readable++; }
static inline void s_on_writable(void *arg, struct tn_tcp *c, uint64_t now_us) { ((struct script *)arg)->writable++; }
static inline void s_on_close(void *arg, int err, uint64_t now_us)
{
    struct script *s = arg;
    s->closed++;
    s->close_err = err;
    s->c = NULL;
}
static const struct tn_tcp_events s_events = {s_on_open, s_on_readable, s_on_writable, s_on_close};

static inline int s_on_accept(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    struct script *s = arg;
    s->accepted++;
    if (s->refuse_accept) return TN_E_LIMIT;
    s->c = c;
    tn_tcp_set_events(c, &s_events, s);
    return 0;
}

static inline enum tn_syn_verdict s_foreign_syn(void *ctx, const struct tn_syn *syn, uint64_t now_us)
{
    struct script *s = ctx;
    s->foreign_syns++;
    s->syn = *syn;
    return s->verdict;
}

static inline bool s_foreign_tcp(void *ctx, const struct tn_addrport *src, const struct tn_addrport *dst, bool rst,
                                 uint64_t now_us)
{
    struct script *s = ctx;
    s->foreign_rsts += rst;
    s->foreign_others += !rst;
    return s->held;
}

static inline struct script *s_new_with(struct tn_stack_config config)
{
    struct script *s = calloc(1, sizeof *s);
    assert_non_null(s);
    s->now = 10000000;
    s->rng = 99;
    s->ts = s->sack = s->wscale = true;
    s->peer_scale = 7;
    s->tsval = 1000;
    s->local = (struct tn_addrport){tn_ip4(100, 64, 0, 1), OURS};
    s->remote = (struct tn_addrport){tn_ip4(100, 64, 0, 2), THEIRS};
    config.congestion = TN_CONGESTION_CUBIC; /* unpaced: what goes out is all there at once */
    config.rng = tn_rng_seeded(&s->rng);
    config.cb =
        (struct tn_stack_callbacks){.output = s_output, .foreign_syn = s_foreign_syn, .foreign_tcp = s_foreign_tcp};
    config.ctx = s;
    s->st = tn_stack_new(&config);
    assert_non_null(s->st);
    assert_int_equal(tn_stack_set_addrs(s->st, &s->local.ip, 1, s->now), 0);
    return s;
}
static inline struct script *s_new(void) { return s_new_with((struct tn_stack_config){0}); }

static inline void s_free(struct script *s)
{
    tn_stack_free(s->st);
    free(s);
}

/* ---- in ---- */

static inline void s_inject(struct script *s, const struct tn_tcp_seg *seg, const uint8_t *payload)
{
    uint8_t packet[1600], *l4 = packet + 20;
    size_t hdr = tn_tcp_seg_put(l4, seg), len = hdr + seg->len;
    for (size_t i = 0; i < seg->len; i++) l4[hdr + i] = payload ? payload[i] : (uint8_t)(seg->seq - PEER_ISS - 1 + i);
    uint32_t sum = tn_cksum_pseudo(&s->remote.ip, &s->local.ip, TN_IPPROTO_TCP, (uint32_t)len);
    tn_put_be16(l4 + 16, tn_cksum_fold(tn_cksum_add(sum, l4, len)));
    tn_ip_header_put(packet, &s->remote.ip, &s->local.ip, TN_IPPROTO_TCP, len, 64, 1);
    uint8_t *exact = malloc(20 + len); /* so that a read past the end is seen */
    assert_non_null(exact);
    memcpy(exact, packet, 20 + len);
    tn_stack_input(s->st, exact, 20 + len, s->now);
    free(exact);
}

static inline struct tn_tcp_seg s_seg(struct script *s, uint8_t flags, int32_t seq, int32_t ack, uint16_t window,
                                      size_t len)
{
    struct tn_tcp_seg seg = {
        .sport = s->remote.port, .dport = s->local.port, .seq = PEER_ISS + 1 + (uint32_t)seq, .flags = flags,
        .ack = flags & A ? s->iss + 1 + (uint32_t)ack : 0, .window = window, .len = len, .has_ts = s->ts,
        .tsval = s->tsval, .tsecr = s->tsecr,
    };
    if (flags & S) {
        seg.mss = 1240;
        seg.sack_ok = s->sack;
        seg.has_wscale = s->wscale;
        seg.wscale = s->peer_scale;
    }
    return seg;
}

static inline void s_in(struct script *s, uint8_t flags, int32_t seq, int32_t ack, uint16_t window, size_t len)
{
    struct tn_tcp_seg seg = s_seg(s, flags, seq, ack, window, len);
    s_inject(s, &seg, NULL);
}

/* A pure ACK with SACK blocks: pairs of relative numbers. */
static inline void s_sack(struct script *s, int32_t ack, uint16_t window, unsigned blocks, ...)
{
    struct tn_tcp_seg seg = s_seg(s, A, 0, ack, window, 0);
    seg.seq = s->c->rcv_nxt;
    va_list ap;
    va_start(ap, blocks);
    for (unsigned i = 0; i < blocks; i++) {
        uint32_t start = (uint32_t)va_arg(ap, int), end = (uint32_t)va_arg(ap, int);
        seg.sack[seg.nsack++] = (struct tn_tcp_sack){s->iss + 1 + start, s->iss + 1 + end};
    }
    va_end(ap);
    s_inject(s, &seg, NULL);
}

/* ---- out ---- */

static inline bool s_empty(const struct script *s) { return s->head == s->tail; }

/* The next segment sent; numbers relative. */
static inline struct tn_tcp_seg s_take(struct script *s)
{
    assert_false(s_empty(s));
    struct emitted *e = &s->q[s->tail++ % QUEUE];
    struct tn_ippkt ip;
    struct tn_tcp_seg seg;
    assert_int_equal(tn_ippkt_parse(e->bytes, e->len, &ip), 0);
    assert_true(tn_ippkt_cksum_ok(&ip));
    assert_int_equal(ip.proto, TN_IPPROTO_TCP);
    assert_int_equal(tn_tcp_seg_parse(ip.l4, ip.l4_len, &seg), 0);
    if (seg.flags & S) s->iss = seg.seq;
    if (seg.has_ts) s->tsecr = seg.tsval;
    seg.seq -= s->iss + 1;
    if (seg.flags & A) seg.ack -= PEER_ISS + 1;
    for (unsigned i = 0; i < seg.nsack; i++) {
        seg.sack[i].start -= PEER_ISS + 1;
        seg.sack[i].end -= PEER_ISS + 1;
    }
    return seg;
}

static inline struct tn_tcp_seg s_expect_(struct script *s, uint8_t flags, int32_t seq, int32_t ack, size_t len,
                                          const char *file, int line)
{
    if (s_empty(s)) {
        print_error("%s:%d: nothing was sent\n", file, line);
        fail();
    }
    struct tn_tcp_seg seg = s_take(s);
    if ((seg.flags & ~P) != flags || (int32_t)seg.seq != seq || (flags & A && (int32_t)seg.ack != ack) ||
        seg.len != len) {
        print_error("%s:%d: flags %02x seq %d ack %d len %zu was sent\n", file, line, seg.flags, (int32_t)seg.seq,
                    (int32_t)seg.ack, seg.len);
        fail();
    }
    return seg;
}
#define s_expect(s, flags, seq, ack, len) s_expect_(s, flags, seq, ack, len, __FILE__, __LINE__)
#define s_none(s) assert_true(s_empty(s))

static inline void s_discard(struct script *s)
{
    while (!s_empty(s)) s_take(s);
}

/* Time passes; timers fire at their time. */
static inline void s_pass(struct script *s, uint64_t us)
{
    uint64_t until = s->now + us;
    for (uint64_t at; (at = tn_stack_next_deadline(s->st)) <= until;) {
        if (at > s->now) {
            s->tsval += (uint32_t)(at / 1000 - s->now / 1000);
            s->now = at;
        }
        tn_stack_timeout(s->st, s->now);
    }
    s->tsval += (uint32_t)(until / 1000 - s->now / 1000);
    s->now = until;
}

/* Until the next segment goes out. */
static inline void s_until_sent(struct script *s)
{
    for (int i = 0; i < 100 && s_empty(s); i++) s_pass(s, tn_stack_next_deadline(s->st) - s->now);
}

/* ---- beginnings ---- */

static inline void s_listen(struct script *s)
{
    assert_int_equal(tn_tcp_listen(s->st, &s->local, 4, s_on_accept, s, &s->l), 0);
}

/* An established flow that the peer opened; 10 ms round trip. */
static inline void s_accept(struct script *s)
{
    s_listen(s);
    s_in(s, S, -1, 0, 65535, 0);
    s_expect(s, S | A, -1, 0, 0);
    s_pass(s, 10000);
    s_in(s, A, 0, 0, 65535 >> (s->wscale ? s->peer_scale : 0), 0);
    s_none(s);
    assert_int_equal(s->accepted, 1);
    assert_non_null(s->c);
}

/* The same, opened by us. */
static inline void s_connect(struct script *s)
{
    assert_int_equal(tn_tcp_connect(s->st, &s->local, &s->remote, &s_events, s, s->now, &s->c), 0);
    s_expect(s, S, -1, 0, 0);
    s_pass(s, 10000);
    s_in(s, S | A, -1, 0, 65535, 0);
    s_expect(s, A, 0, 0, 0);
    assert_int_equal(s->opened, 1);
}

static inline void s_write(struct script *s, size_t len)
{
    static const uint8_t bytes[65536];
    assert_int_equal(tn_tcp_write(s->c, bytes, len, s->now), (long)len);
}

static inline void s_consume(struct script *s, size_t len) { tn_tcp_consume(s->c, len, s->now); }

static inline struct tn_stack_stats s_stats(const struct script *s)
{
    struct tn_stack_stats st;
    tn_stack_stats(s->st, &st);
    return st;
}

#define TEST(name) cmocka_unit_test(name)

#endif
