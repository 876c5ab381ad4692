/* The forwarder between a scripted stack and a scripted egress: who is dialed, who is refused, how bytes and ends
 * cross. */
#include "forward/answers.c"
#include "forward/flow.c"
#include "forward/forward.c"
#include "forward/gate.c"

#include "util/cursor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

/* ---- a stack that remembers what it was told ---- */

enum { TCP_BUF = 1 << 16 };

struct tn_tcp {
    const struct tn_tcp_events *ev;
    void *arg;
    uint8_t in[TCP_BUF], out[TCP_BUF]; /* in: from the peer, to be peeked; out: what the forwarder committed */
    size_t in_len, out_len, space, reserved;
    bool eof, fin_sent, aborted, released;
    uint64_t keepalive_us;
};

static struct fake {
    unsigned resets, unreach[4], accepts, closes, dials, dgrams, peer_closed;
    bool take_dgrams;
    struct tn_addrport closed_src, closed_dst;
    struct tn_syn last_reset, last_accept;
    bool refuse_accept;
    struct tn_tcp *tcp;
    struct tn_egress_conn *conn;
    int dial_result;
    struct tn_addrport last_dst;
    uint64_t last_peer, now_us;
    const char *last_name;
} fake;

void tn_stack_reset_syn(struct tn_stack *st, const struct tn_syn *syn, uint64_t now_us)
{
    fake.resets++;
    fake.last_reset = *syn;
}

bool tn_stack_unreach(struct tn_stack *st, enum tn_unreach what, const uint8_t *packet, size_t len, uint64_t now_us)
{
    fake.unreach[what]++;
    return true;
}

int tn_tcp_accept_syn(struct tn_stack *st, const struct tn_syn *syn, const struct tn_tcp_events *ev, void *arg,
                      uint64_t now_us, struct tn_tcp **out)
{
    if (fake.refuse_accept) return TN_E_LIMIT;
    fake.accepts++;
    fake.last_accept = *syn;
    *out = fake.tcp = calloc(1, sizeof **out);
    fake.tcp->ev = ev;
    fake.tcp->arg = arg;
    fake.tcp->space = TCP_BUF;
    return 0;
}

int tn_tcp_peek(struct tn_tcp *c, struct iovec *iov, int n)
{
    assert_false(c->aborted || c->released);
    if (c->in_len == 0) return 0;
    size_t half = c->in_len / 2;
    iov[0] = (struct iovec){c->in, half ? half : c->in_len};
    if (half == 0) return 1;
    iov[1] = (struct iovec){c->in + half, c->in_len - half};
    return 2;
}

void tn_tcp_consume(struct tn_tcp *c, size_t len, uint64_t now_us)
{
    assert_true(len <= c->in_len);
    memmove(c->in, c->in + len, c->in_len - len);
    c->in_len -= len;
}

bool tn_tcp_eof(const struct tn_tcp *c) { return c->eof && c->in_len == 0; }

int tn_tcp_reserve(struct tn_tcp *c, struct iovec *iov, int n, size_t want)
{
    assert_false(c->aborted || c->released || c->fin_sent);
    if (c->space == 0) return 0;
    c->reserved = want < c->space ? want : c->space;
    if (c->reserved > TCP_BUF - c->out_len) c->reserved = TCP_BUF - c->out_len;
    iov[0] = (struct iovec){c->out + c->out_len, c->reserved};
    return 1;
}

void tn_stack_batch_begin(struct tn_stack *st) {}
void tn_stack_batch_end(struct tn_stack *st, uint64_t now_us) {}
void tn_tcp_commit(struct tn_tcp *c, size_t len, uint64_t now_us)
{
    assert_true(len <= c->reserved);
    c->reserved = 0;
    c->out_len += len;
    c->space -= len;
}

void tn_tcp_shutdown(struct tn_tcp *c, uint64_t now_us) { c->fin_sent = true; }
void tn_tcp_abort(struct tn_tcp *c, uint64_t now_us) { c->aborted = true; }
void tn_tcp_release(struct tn_tcp *c, uint64_t now_us) { c->released = true; }
void tn_tcp_set_keepalive(struct tn_tcp *c, uint64_t idle_us, uint64_t interval_us, int probes, uint64_t now_us)
{
    c->keepalive_us = idle_us + (uint64_t)probes * interval_us;
}

/* ---- an egress that does what the test says ---- */

struct tn_egress_conn {
    const struct tn_egress_events *ev;
    void *arg;
    int want;
    uint8_t in[TCP_BUF], out[TCP_BUF]; /* in: from upstream, to be read; out: what was written to it */
    size_t in_len, out_len, room;
    bool in_eof, shut, closed, reset;
    int err;
};

void tn_egress_set_batch(struct tn_egress *e, void (*fn)(void *ctx, bool begins), void *ctx) {}

int tn_egress_dial(struct tn_egress *e, const struct tn_egress_target *to, const struct tn_egress_events *ev, void *arg,
                   struct tn_egress_conn **out)
{
    assert_int_equal(to->purpose, TN_EGRESS_FORWARD);
    fake.dials++;
    fake.last_dst = to->dst;
    fake.last_peer = to->peer;
    fake.last_name = to->name;
    if (fake.dial_result) return fake.dial_result;
    *out = fake.conn = calloc(1, sizeof **out);
    fake.conn->room = TCP_BUF;
    tn_egress_set_events(fake.conn, ev, arg);
    return 0;
}

void tn_egress_set_events(struct tn_egress_conn *c, const struct tn_egress_events *ev, void *arg)
{
    c->ev = ev;
    c->arg = arg;
}

void tn_egress_want(struct tn_egress_conn *c, int events)
{
    assert_false(c->closed);
    c->want = events;
}

long tn_egress_readv(struct tn_egress_conn *c, const struct iovec *iov, int n)
{
    assert_false(c->closed);
    size_t take = c->in_len < iov[0].iov_len ? c->in_len : iov[0].iov_len;
    if (take == 0) return c->err ? c->err : c->in_eof ? 0 : TN_E_AGAIN;
    memcpy(iov[0].iov_base, c->in, take);
    memmove(c->in, c->in + take, c->in_len - take);
    c->in_len -= take;
    return (long)take;
}

long tn_egress_writev(struct tn_egress_conn *c, const struct iovec *iov, int n)
{
    assert_false(c->closed || c->shut);
    size_t total = 0;
    if (c->err) return c->err;
    for (int i = 0; i < n; i++) {
        size_t take = iov[i].iov_len < c->room ? iov[i].iov_len : c->room;
        memcpy(c->out + c->out_len, iov[i].iov_base, take);
        c->out_len += take;
        c->room -= take;
        total += take;
    }
    return total ? (long)total : TN_E_AGAIN;
}

int tn_egress_shutdown(struct tn_egress_conn *c)
{
    c->shut = true;
    return c->err;
}

void tn_egress_close(struct tn_egress_conn *c, bool reset)
{
    assert_false(c->closed);
    c->closed = true;
    c->reset = reset;
    fake.closes++;
}

bool tn_egress_is_subnet(const struct tn_egress *e, const struct tn_addrport *dst, struct tn_addrport *real)
{
    return dst->ip.b[0] == 192; /* what the tests say is one */
}

/* ---- datagrams are refused here; test_dgram.c is about their flows ---- */

bool tn_dflow_udp(struct tn_forward *f, const struct tn_addrport *src, const struct tn_addrport *dst, const uint8_t *payload,
                  size_t len, uint64_t now_us)
{
    fake.dgrams++;
    return fake.take_dgrams;
}
bool tn_dflow_echo(struct tn_forward *f, const struct tn_ip *src, const struct tn_ip *dst, const uint8_t *message,
                   size_t len, uint64_t now_us)
{
    fake.dgrams++;
    return fake.take_dgrams;
}
void tn_dflow_peer_closed(struct tn_forward *f, const struct tn_addrport *src, const struct tn_addrport *dst)
{
    fake.closed_src = *src;
    fake.closed_dst = *dst;
    fake.peer_closed++;
}
void tn_dflows_init(struct tn_forward *f) {}
void tn_dflows_fini(struct tn_forward *f) {}
void tn_dflows_drop_peer(struct tn_forward *f, uint64_t peer) {}
void tn_dflows_drop_all(struct tn_forward *f) {}
void tn_dflows_drop_gone(struct tn_forward *f, const struct tn_gone *gone) {}
bool tn_egress_conn_is_subnet(const struct tn_egress_conn *c) { return false; }
struct tn_addrport tn_tcp_local(const struct tn_tcp *c) { return fake.last_accept.dst; }
void tn_dflows_timeout(struct tn_forward *f, uint64_t now_us) {}
uint64_t tn_dflows_next_deadline(const struct tn_forward *f) { return TN_NEVER; }

/* ---- the bench ---- */

static uint64_t peer_of(void *ctx, const struct tn_ip *src) { return src->b[0] == 100 ? src->b[3] : 0; }
static uint64_t fake_now(void *ctx) { return fake.now_us; }

static struct names { /* the node's port 53 */
    bool on, takes;
    unsigned udp, syns;
    uint64_t peer;
    enum tn_syn_verdict verdict;
} names;

static bool names_udp(void *ctx, uint64_t peer, const struct tn_addrport *src, const struct tn_addrport *dst,
                      const uint8_t *payload, size_t len, uint64_t now_us)
{
    names.udp++;
    names.peer = peer;
    return names.takes;
}

static enum tn_syn_verdict names_syn(void *ctx, uint64_t peer, const struct tn_syn *syn, uint64_t now_us)
{
    names.syns++;
    names.peer = peer;
    return names.verdict;
}

static const char *names_name(void *ctx, uint64_t peer, const struct tn_ip *ip, uint64_t now_us)
{
    return peer == 7 && ip->b[0] == 45 ? "web.example" : NULL;
}

static struct tn_forward *setup(bool enabled)
{
    static uint64_t seed = 1;
    fake = (struct fake){.now_us = 1000000};
    struct tn_forward_config fc = {.egress = (struct tn_egress *)&fake, .peer_of = peer_of, .now = fake_now,
                                   .rng = tn_rng_seeded(&seed)};
    if (names.on) fc.dns_udp = names_udp, fc.dns_syn = names_syn, fc.name_of = names_name;
    struct tn_forward *f = tn_forward_new(&fc);
    tn_forward_set_stack(f, (struct tn_stack *)&fake);
    tn_forward_set_enabled(f, enabled, fake.now_us);
    return f;
}

static struct tn_syn syn_of(uint8_t peer, uint16_t sport, uint32_t seq)
{
    return (struct tn_syn){.src = {tn_ip4(100, 64, 0, peer), sport}, .dst = {tn_ip4(45, 45, 45, 45), 443}, .seq = seq};
}

static struct tn_forward_stats stats(struct tn_forward *f)
{
    struct tn_forward_stats s;
    tn_forward_stats(f, &s);
    return s;
}

static void free_fakes(void)
{
    free(fake.tcp);
    free(fake.conn);
}

static void open_flow(struct tn_forward *f)
{
    struct tn_syn syn = syn_of(7, 1000, 1);
    assert_int_equal(tn_forward_syn(f, &syn, fake.now_us), TN_SYN_HELD);
    fake.conn->ev->on_open(fake.conn->arg, fake.conn);
    assert_non_null(fake.tcp);
    assert_int_equal(fake.conn->want, 0); /* nothing is read before the peer's handshake is complete */
    fake.tcp->ev->on_open(fake.tcp->arg, fake.tcp, fake.now_us);
    assert_int_equal(fake.conn->want, TN_EGRESS_WANT_READ);
    assert_true(fake.tcp->keepalive_us >= 60000000);
}

static void from_peer(const void *bytes, size_t len, bool eof)
{
    memcpy(fake.tcp->in + fake.tcp->in_len, bytes, len);
    fake.tcp->in_len += len;
    fake.tcp->eof = eof;
    fake.tcp->ev->on_readable(fake.tcp->arg, fake.tcp, fake.now_us);
}

static void from_upstream(const void *bytes, size_t len, bool eof)
{
    memcpy(fake.conn->in + fake.conn->in_len, bytes, len);
    fake.conn->in_len += len;
    fake.conn->in_eof = eof;
    if (fake.conn->want & TN_EGRESS_WANT_READ) fake.conn->ev->on_readable(fake.conn->arg, fake.conn);
}

/* ---- the gate ---- */

static void test_off_dials_nothing(void **state)
{
    struct tn_forward *f = setup(false);
    struct tn_syn syn = syn_of(7, 1000, 1);
    assert_int_equal(tn_forward_syn(f, &syn, 1), TN_SYN_RESET);
    assert_int_equal(fake.dials, 0);
    assert_int_equal(stats(f).refused, 1);
    assert_false(tn_forward_tcp(f, &syn.src, &syn.dst, false, 1));
    tn_forward_free(f);
}

static void test_unknown_peer(void **state)
{
    struct tn_forward *f = setup(true);
    struct tn_syn syn = syn_of(7, 1000, 1);
    syn.src.ip = tn_ip4(10, 0, 0, 1);
    assert_int_equal(tn_forward_syn(f, &syn, 1), TN_SYN_RESET);
    assert_int_equal(fake.dials, 0);
    tn_forward_free(f);
}

static void test_multicast_is_silent(void **state)
{
    struct tn_forward *f = setup(true);
    struct tn_syn syn = syn_of(7, 1000, 1);
    syn.dst.ip = tn_ip4(224, 0, 0, 1);
    assert_int_equal(tn_forward_syn(f, &syn, 1), TN_SYN_DROP);
    assert_int_equal(fake.dials, 0);
    tn_forward_free(f);
}

static void test_refused_at_once(void **state)
{
    struct tn_forward *f = setup(true);
    struct tn_syn syn = syn_of(7, 1000, 1);
    fake.dial_result = TN_EGRESS_FAIL_GUARD;
    assert_int_equal(tn_forward_syn(f, &syn, 1), TN_SYN_RESET);
    assert_int_equal(stats(f).held, 0);
    assert_int_equal(stats(f).refused, 1);
    assert_true(tn_forward_next_deadline(f) == TN_NEVER);
    tn_forward_free(f);
}

static void test_dial_then_accept(void **state)
{
    struct tn_forward *f = setup(true);
    struct tn_syn first = syn_of(7, 1000, 1), again = first, other = syn_of(7, 1001, 1);
    again.tsval = 99;
    assert_int_equal(tn_forward_syn(f, &first, 0), TN_SYN_HELD);
    assert_int_equal(fake.last_peer, 7);
    assert_true(tn_addrport_eq(&fake.last_dst, &first.dst));
    assert_int_equal(tn_forward_syn(f, &again, 1000000), TN_SYN_HELD);
    assert_int_equal(fake.dials, 1); /* a retransmission is not a second dial */
    assert_int_equal(fake.accepts, 0);
    assert_true(tn_forward_tcp(f, &first.src, &first.dst, false, 1)); /* held: not to be answered */
    assert_false(tn_forward_tcp(f, &other.src, &other.dst, false, 1));
    struct tn_egress_conn *conn = fake.conn;
    conn->ev->on_open(conn->arg, conn);
    assert_int_equal(fake.accepts, 1);
    assert_int_equal(fake.last_accept.tsval, 99); /* the newest copy */
    assert_int_equal(stats(f).held, 0);
    assert_int_equal(stats(f).flows, 1);
    tn_forward_free(f);
    assert_true(conn->closed && conn->reset && fake.tcp->aborted);
    free_fakes();
}

static void test_dial_fails(void **state)
{
    struct tn_forward *f = setup(true);
    struct tn_syn syn = syn_of(7, 1000, 5);
    tn_forward_syn(f, &syn, 0);
    fake.conn->ev->on_fail(fake.conn->arg, TN_EGRESS_FAIL_REFUSED);
    assert_int_equal(fake.resets, 1);
    assert_int_equal(fake.last_reset.seq, 5);
    assert_int_equal(stats(f).held, 0);
    assert_int_equal(stats(f).refused, 1);
    tn_forward_free(f);
    assert_int_equal(fake.closes, 0);
    free_fakes();
}

static void test_stack_is_full(void **state)
{
    struct tn_forward *f = setup(true);
    struct tn_syn syn = syn_of(7, 1000, 5);
    tn_forward_syn(f, &syn, 0);
    fake.refuse_accept = true;
    fake.conn->ev->on_open(fake.conn->arg, fake.conn);
    assert_int_equal(fake.resets, 1);
    assert_true(fake.conn->closed && fake.conn->reset);
    assert_int_equal(stats(f).flows, 0);
    tn_forward_free(f);
    free_fakes();
}

static void test_peer_cancels(void **state)
{
    struct tn_forward *f = setup(true);
    struct tn_syn syn = syn_of(7, 1000, 5);
    tn_forward_syn(f, &syn, 0);
    assert_true(tn_forward_tcp(f, &syn.src, &syn.dst, true, 10));
    assert_true(fake.conn->closed);
    assert_int_equal(fake.resets, 0);
    assert_int_equal(stats(f).canceled, 1);
    assert_int_equal(stats(f).held, 0);
    tn_forward_free(f);
    free_fakes();
}

static void test_silence(void **state)
{
    struct tn_forward *f = setup(true);
    struct tn_syn syn = syn_of(7, 1000, 5);
    const uint64_t s = 1000000;
    tn_forward_syn(f, &syn, 0);
    assert_true(tn_forward_next_deadline(f) == 8 * s);
    tn_forward_syn(f, &syn, 1 * s);
    tn_forward_syn(f, &syn, 3 * s);
    tn_forward_syn(f, &syn, 7 * s); /* the last interval was 4 s: the next would be 8 */
    assert_true(tn_forward_next_deadline(f) == 23 * s);
    tn_forward_timeout(f, 23 * s - 1);
    assert_false(fake.conn->closed);
    tn_forward_timeout(f, 23 * s);
    assert_true(fake.conn->closed);
    assert_int_equal(stats(f).canceled, 1);
    assert_int_equal(fake.resets, 0);
    tn_forward_free(f);
    free_fakes();
}

static void test_switch_off_resets_all(void **state)
{
    struct tn_forward *f = setup(true);
    open_flow(f);
    struct tn_egress_conn *flow = fake.conn;
    struct tn_syn held = syn_of(8, 1, 1);
    tn_forward_syn(f, &held, 0);
    tn_forward_set_enabled(f, false, 5);
    assert_true(flow->closed && flow->reset && fake.tcp->aborted && fake.conn->closed);
    assert_int_equal(fake.resets, 1);
    assert_int_equal(stats(f).flows + stats(f).held, 0);
    tn_forward_free(f);
    free(flow);
    free_fakes();
}

static void test_peer_gone(void **state)
{
    struct tn_forward *f = setup(true);
    open_flow(f);
    struct tn_egress_conn *flow = fake.conn;
    struct tn_syn held = syn_of(8, 1, 1);
    tn_forward_syn(f, &held, 0);
    tn_forward_peer_gone(f, 9, 5);
    assert_int_equal(stats(f).flows + stats(f).held, 2);
    tn_forward_peer_gone(f, 7, 5);
    assert_true(flow->closed && fake.tcp->aborted);
    assert_int_equal(stats(f).held, 1);
    tn_forward_peer_gone(f, 8, 5);
    assert_true(fake.conn->closed);
    tn_forward_free(f);
    free(flow);
    free_fakes();
}

static bool is_it(void *ctx, const struct tn_ip *dst, bool subnet) { return tn_ip_eq(ctx, dst); }

static void test_destinations_gone(void **state)
{
    struct tn_forward *f = setup(true);
    open_flow(f);
    struct tn_egress_conn *flow = fake.conn;
    struct tn_syn held = syn_of(8, 1, 1);
    struct tn_ip other = tn_ip4(203, 0, 113, 77), dst = held.dst.ip;
    tn_forward_syn(f, &held, 0);
    tn_forward_drop_gone(f, is_it, &other, 5);
    assert_int_equal(stats(f).flows + stats(f).held, 2);
    tn_forward_drop_gone(f, is_it, &dst, 5);
    assert_int_equal(stats(f).flows + stats(f).held, 0);
    assert_true(flow->closed && fake.tcp->aborted && fake.conn->closed);
    assert_int_equal(fake.resets, 1); /* and the peer that waited is told */
    tn_forward_free(f);
    free(flow);
    free_fakes();
}

static void test_many_held(void **state)
{
    enum { N = 1000 };
    static struct tn_egress_conn *conns[N];
    struct tn_forward *f = setup(true);
    for (int i = 0; i < N; i++) {
        struct tn_syn syn = syn_of(7, (uint16_t)(i + 1), 1);
        assert_int_equal(tn_forward_syn(f, &syn, 0), TN_SYN_HELD);
        conns[i] = fake.conn;
    }
    assert_int_equal(stats(f).held, N);
    for (int i = 0; i < N; i += 2) conns[i]->ev->on_fail(conns[i]->arg, TN_EGRESS_FAIL_TIMEOUT);
    assert_int_equal(stats(f).held, N / 2);
    tn_forward_timeout(f, 8000000);
    assert_int_equal(stats(f).held, 0);
    for (int i = 0; i < N; i++) {
        assert_int_equal(conns[i]->closed, i % 2);
        free(conns[i]);
    }
    fake.conn = NULL;
    tn_forward_free(f);
}

/* ---- flows ---- */

static void test_bytes_both_ways(void **state)
{
    struct tn_forward *f = setup(true);
    open_flow(f);
    from_peer("request", 7, false);
    assert_memory_equal(fake.conn->out, "request", 7);
    assert_int_equal(fake.tcp->in_len, 0);
    from_upstream("response", 8, false);
    assert_memory_equal(fake.tcp->out, "response", 8);
    tn_forward_free(f);
    free_fakes();
}

static void test_early_bytes_wait_for_the_handshake(void **state)
{
    struct tn_forward *f = setup(true);
    struct tn_syn syn = syn_of(7, 1000, 1);
    tn_forward_syn(f, &syn, 0);
    memcpy(fake.conn->in, "banner", 6);
    fake.conn->in_len = 6;
    fake.conn->ev->on_open(fake.conn->arg, fake.conn);
    assert_int_equal(fake.tcp->out_len, 0);
    fake.tcp->ev->on_open(fake.tcp->arg, fake.tcp, 1);
    fake.conn->ev->on_readable(fake.conn->arg, fake.conn);
    assert_memory_equal(fake.tcp->out, "banner", 6);
    tn_forward_free(f);
    free_fakes();
}

static void test_backpressure_up(void **state)
{
    struct tn_forward *f = setup(true);
    open_flow(f);
    fake.conn->room = 3;
    from_peer("request", 7, true);
    assert_int_equal(fake.conn->out_len, 3);
    assert_int_equal(fake.tcp->in_len, 4); /* not consumed: the peer's window stays shut */
    assert_true(fake.conn->want & TN_EGRESS_WANT_WRITE);
    assert_false(fake.conn->shut); /* the FIN waits for its bytes */
    fake.conn->room = 100;
    fake.conn->ev->on_writable(fake.conn->arg, fake.conn);
    assert_memory_equal(fake.conn->out, "request", 7);
    assert_true(fake.conn->shut);
    assert_false(fake.conn->want & TN_EGRESS_WANT_WRITE);
    tn_forward_free(f);
    free_fakes();
}

static void test_backpressure_down(void **state)
{
    struct tn_forward *f = setup(true);
    open_flow(f);
    fake.tcp->space = 3;
    from_upstream("response", 8, true);
    assert_int_equal(fake.tcp->out_len, 3);
    assert_int_equal(fake.conn->in_len, 5);
    assert_false(fake.conn->want & TN_EGRESS_WANT_READ);
    fake.tcp->space = 100;
    fake.tcp->ev->on_writable(fake.tcp->arg, fake.tcp, 1);
    assert_memory_equal(fake.tcp->out, "response", 8);
    assert_true(fake.tcp->fin_sent);
    tn_forward_free(f);
    free_fakes();
}

static void test_half_close_by_peer(void **state)
{
    struct tn_forward *f = setup(true);
    open_flow(f);
    from_peer("q", 1, true);
    assert_true(fake.conn->shut);
    assert_false(fake.conn->closed);
    from_upstream("answer", 6, false); /* still flows */
    assert_memory_equal(fake.tcp->out, "answer", 6);
    from_upstream("", 0, true);
    assert_true(fake.conn->closed && !fake.conn->reset && fake.tcp->released);
    assert_int_equal(stats(f).flows, 0);
    tn_forward_free(f);
    free_fakes();
}

static void test_half_close_by_upstream(void **state)
{
    struct tn_forward *f = setup(true);
    open_flow(f);
    from_upstream("banner", 6, true);
    assert_true(fake.tcp->fin_sent);
    assert_int_equal(fake.conn->want, 0);
    from_peer("more", 4, false);
    assert_memory_equal(fake.conn->out, "more", 4);
    from_peer("", 0, true);
    assert_true(fake.conn->closed && !fake.conn->reset && fake.tcp->released);
    tn_forward_free(f);
    free_fakes();
}

static void test_upstream_reset(void **state)
{
    struct tn_forward *f = setup(true);
    open_flow(f);
    fake.conn->err = TN_E_RESET;
    from_upstream("body", 4, false);
    assert_true(fake.tcp->aborted && fake.conn->closed);
    assert_int_equal(stats(f).flows, 0);
    tn_forward_free(f);
    free_fakes();
}

static void test_upstream_reset_on_write(void **state)
{
    struct tn_forward *f = setup(true);
    open_flow(f);
    fake.conn->err = TN_E_RESET;
    from_peer("x", 1, false);
    assert_true(fake.tcp->aborted && fake.conn->closed);
    tn_forward_free(f);
    free_fakes();
}

static void test_upstream_reset_after_its_fin(void **state)
{
    struct tn_forward *f = setup(true);
    open_flow(f);
    from_upstream("", 0, true);
    fake.conn->ev->on_error(fake.conn->arg, fake.conn, TN_E_RESET);
    assert_true(fake.tcp->aborted && fake.conn->closed);
    tn_forward_free(f);
    free_fakes();
}

static void test_peer_reset_or_timeout(void **state)
{
    static const int errs[] = {TN_E_RESET, TN_E_TIMEDOUT, TN_E_REFUSED};
    for (int i = 0; i < 3; i++) {
        struct tn_forward *f = setup(true);
        open_flow(f);
        fake.tcp->ev->on_close(fake.tcp->arg, errs[i], 1);
        assert_true(fake.conn->closed && fake.conn->reset);
        assert_int_equal(stats(f).flows, 0);
        tn_forward_free(f);
        free_fakes();
    }
}

static void test_large_transfer_in_turns(void **state)
{
    struct tn_forward *f = setup(true);
    static uint8_t bytes[TCP_BUF];
    size_t sent = 0, total = 0;
    uint8_t expect = 0;
    open_flow(f);
    for (int round = 0; round < 64; round++) {
        for (size_t i = 0; i < 30000; i++) bytes[i] = (uint8_t)(sent + i);
        sent += 30000;
        from_upstream(bytes, 30000, false);
        assert_true(fake.conn->in_len == 0);
        for (size_t i = 0; i < fake.tcp->out_len; i++) assert_int_equal(fake.tcp->out[i], expect++);
        total += fake.tcp->out_len;
        fake.tcp->out_len = 0;
        fake.tcp->space = TCP_BUF;
    }
    assert_int_equal(total, sent);
    tn_forward_free(f);
    free_fakes();
}

/* One peer that never completes a handshake fills its share and no more; a peer that does frees its places. */
static void test_opening_share(void **state)
{
    struct tn_forward *f = setup(true);
    struct tn_egress_conn *conns[OPENING_PER_PEER + 2];
    struct tn_tcp *tcps[OPENING_PER_PEER + 2] = {NULL};
    for (unsigned i = 0; i <= OPENING_PER_PEER; i++) {
        struct tn_syn syn = syn_of(7, (uint16_t)(1000 + i), 1);
        fake.tcp = NULL;
        assert_int_equal(tn_forward_syn(f, &syn, 1), TN_SYN_HELD);
        conns[i] = fake.conn;
        fake.conn->ev->on_open(fake.conn->arg, fake.conn);
        tcps[i] = fake.tcp;
    }
    assert_int_equal(stats(f).flows, OPENING_PER_PEER);
    assert_int_equal(fake.resets, 1);
    assert_true(conns[OPENING_PER_PEER]->closed);
    tcps[0]->ev->on_open(tcps[0]->arg, tcps[0], 1);
    struct tn_syn more = syn_of(7, 9, 1), other = syn_of(8, 9, 1);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(tn_forward_syn(f, i ? &other : &more, 1), TN_SYN_HELD);
        fake.conn->ev->on_open(fake.conn->arg, fake.conn);
        assert_int_equal(stats(f).flows, OPENING_PER_PEER + 1 + i);
        if (i) break;
        conns[OPENING_PER_PEER + 1] = fake.conn;
        tcps[OPENING_PER_PEER + 1] = fake.tcp;
    }
    tn_forward_peer_gone(f, 7, 1); /* open and opening ones alike */
    assert_int_equal(stats(f).flows, 1);
    assert_false(fake.conn->closed);
    tn_forward_free(f);
    assert_true(fake.conn->closed);
    free_fakes();
    for (unsigned i = 0; i < OPENING_PER_PEER + 2; i++) {
        assert_true(conns[i]->closed);
        free(conns[i]);
        free(tcps[i]);
    }
}

static void test_flow_is_small(void **state)
{
    assert_true(sizeof(struct tn_flow) <= 96);
    assert_true(sizeof(struct tn_held) <= 200);
}

/* ---- ICMP ---- */

static size_t packet4(uint8_t *out, uint8_t proto, struct tn_ip dst, uint8_t type)
{
    struct tn_ip src = tn_ip4(100, 64, 0, 7);
    size_t h = tn_ip_header_put(out, &src, &dst, proto, 8, 64, 0);
    memset(out + h, 0, 8);
    out[h] = type;
    return h + 8;
}

static void test_answers(void **state)
{
    uint8_t p[128];
    struct tn_forward *f = setup(true);
    struct tn_ip dst = tn_ip4(45, 45, 45, 45), group = tn_ip4(239, 1, 1, 1), all = tn_ip4(255, 255, 255, 255);
    struct tn_addrport from = {tn_ip4(100, 64, 0, 7), 9}, to = {dst, 443}, to_group = {group, 5353}, to_all = {all, 67};
    size_t n = packet4(p, TN_IPPROTO_UDP, dst, 0);
    tn_forward_udp(f, &from, &to, p, n, p + 28, 0, 1);
    assert_int_equal(fake.unreach[TN_UNREACH_PORT], 1);
    tn_forward_udp(f, &from, &to_group, p, n, p + 28, 0, 1);
    tn_forward_udp(f, &from, &to_all, p, n, p + 28, 0, 1);
    assert_int_equal(fake.unreach[TN_UNREACH_PORT], 1);
    assert_int_equal(stats(f).udp_refused, 3);
    n = packet4(p, TN_IPPROTO_ICMP, dst, 8);
    tn_forward_other(f, TN_IPPROTO_ICMP, p, n, 1);
    assert_int_equal(fake.unreach[TN_UNREACH_ADMIN], 1);
    assert_int_equal(stats(f).icmp_refused, 1);
    for (int type = 0; type < 256; type++) {
        if (type == 8) continue;
        n = packet4(p, TN_IPPROTO_ICMP, dst, (uint8_t)type);
        tn_forward_other(f, TN_IPPROTO_ICMP, p, n, 1);
    }
    n = packet4(p, TN_IPPROTO_ICMP, group, 8);
    tn_forward_other(f, TN_IPPROTO_ICMP, p, n, 1);
    assert_int_equal(fake.unreach[TN_UNREACH_ADMIN], 1);
    n = packet4(p, TN_IPPROTO_SCTP, dst, 0);
    tn_forward_other(f, TN_IPPROTO_SCTP, p, n, 1);
    n = packet4(p, 47, dst, 0);
    tn_forward_other(f, 47, p, n, 1);
    assert_int_equal(fake.unreach[TN_UNREACH_PROTO], 2);
    n = packet4(p, TN_IPPROTO_TCP, dst, 0);
    tn_forward_other(f, TN_IPPROTO_TCP, p, n, 1);
    tn_forward_other(f, 47, p, 5, 1); /* truncated */
    assert_int_equal(fake.unreach[TN_UNREACH_PROTO], 2);
    assert_int_equal(fake.unreach[TN_UNREACH_HOST], 0);
    assert_int_equal(fake.dials, 0);
    tn_forward_free(f);
}

static void test_answers6(void **state)
{
    uint8_t p[128];
    struct tn_forward *f = setup(false); /* off answers the same */
    struct tn_ip src, dst;
    tn_ip_parse("fd7a:115c:a1e0::7", &src);
    tn_ip_parse("2a00:45::45", &dst);
    size_t h = tn_ip_header_put(p, &src, &dst, TN_IPPROTO_ICMP6, 8, 64, 0);
    memset(p + h, 0, 8);
    p[h] = 128;
    tn_forward_other(f, TN_IPPROTO_ICMP6, p, h + 8, 1);
    p[h] = 135; /* neighbour solicitation */
    tn_forward_other(f, TN_IPPROTO_ICMP6, p, h + 8, 1);
    assert_int_equal(fake.unreach[TN_UNREACH_ADMIN], 1);
    tn_forward_free(f);
}

/* A TCP packet of a peer, as the filter would hand it on. */
static size_t tcp4(uint8_t *out, struct tn_ip dst, uint8_t flags)
{
    struct tn_ip src = tn_ip4(100, 64, 0, 7);
    size_t h = tn_ip_header_put(out, &src, &dst, TN_IPPROTO_TCP, 20, 64, 0);
    memset(out + h, 0, 20);
    tn_put_be16(out + h, 1000);
    tn_put_be16(out + h + 2, 22);
    tn_put_be32(out + h + 4, 77);
    out[h + 12] = 0x50;
    out[h + 13] = flags;
    uint32_t sum = tn_cksum_pseudo(&src, &dst, TN_IPPROTO_TCP, 20);
    tn_put_be16(out + h + 16, tn_cksum_fold(tn_cksum_add(sum, out + h, 20)));
    return h + 20;
}

/* What no exit reaches is refused as fast as what it does, and not dialed even if the guard would allow it. */
static void test_refuse(void **state)
{
    uint8_t p[128];
    struct tn_forward *f = setup(true);
    struct tn_ip dst = tn_ip4(192, 168, 1, 1), group = tn_ip4(224, 0, 0, 1);
    size_t n = tcp4(p, dst, 0x02);
    tn_forward_refuse(f, p, n, 1);
    assert_int_equal(fake.resets, 1);
    assert_int_equal(fake.last_reset.seq, 77);
    assert_int_equal(fake.last_reset.src.port, 1000);
    assert_int_equal(fake.last_reset.dst.port, 22);
    assert_true(tn_ip_eq(&fake.last_reset.dst.ip, &dst));
    for (size_t cut = 0; cut < n; cut++) tn_forward_refuse(f, p, cut, 1);
    p[n - 1] ^= 1; /* the checksum is wrong now */
    tn_forward_refuse(f, p, n, 1);
    static const uint8_t others[] = {0x12, 0x10, 0x04, 0x06, 0x11, 0}; /* SYN-ACK, ACK, RST, SYN-RST, FIN-ACK, none */
    for (size_t i = 0; i < sizeof others; i++) tn_forward_refuse(f, p, tcp4(p, dst, others[i]), 1);
    tn_forward_refuse(f, p, tcp4(p, group, 0x02), 1);
    assert_int_equal(fake.resets, 1);
    n = packet4(p, TN_IPPROTO_UDP, dst, 0);
    p[20 + 5] = 8; /* its length; checksum 0: none */
    tn_forward_refuse(f, p, n, 1);
    assert_int_equal(fake.unreach[TN_UNREACH_PORT], 1);
    n = packet4(p, TN_IPPROTO_ICMP, dst, 8);
    tn_put_be16(p + 22, 0xf7ff);
    tn_forward_refuse(f, p, n, 1);
    assert_int_equal(fake.unreach[TN_UNREACH_ADMIN], 1);
    tn_forward_set_enabled(f, false, 1);
    tn_forward_refuse(f, p, n, 1);
    tn_forward_refuse(f, p, tcp4(p, dst, 0x02), 1);
    assert_int_equal(fake.unreach[TN_UNREACH_ADMIN], 1);
    assert_int_equal(fake.resets, 1); /* no exit node: silence */
    assert_int_equal(fake.dials, 0);
    tn_forward_free(f);
}

/* What the egress takes is not answered by us; groups never get that far; and what a peer says of datagrams that it
 * got ends the flow, if it speaks of its own. */
static void test_datagrams_are_passed_on(void **state)
{
    uint8_t p[128], error[128];
    struct tn_forward *f = setup(true);
    struct tn_ip to = tn_ip4(45, 45, 45, 45), group = tn_ip4(224, 0, 0, 1), me = tn_ip4(100, 64, 0, 7);
    struct tn_addrport src = {me, 1000}, dst = {to, 443}, everybody = {group, 443};
    fake.take_dgrams = true;
    tn_forward_udp(f, &src, &dst, p, 28, p, 0, 1);
    tn_forward_udp(f, &src, &everybody, p, 28, p, 0, 1);
    size_t n = packet4(p, TN_IPPROTO_ICMP, to, 8);
    tn_forward_other(f, TN_IPPROTO_ICMP, p, n, 1);
    assert_int_equal(fake.dgrams, 2);
    assert_int_equal(fake.unreach[TN_UNREACH_PORT] + fake.unreach[TN_UNREACH_ADMIN], 0);
    for (int own = 0; own < 2; own++) {
        size_t h = tn_ip_header_put(error, &me, &to, TN_IPPROTO_ICMP, 8 + 28, 64, 0);
        tn_icmp_put(error + h, 4, TN_ICMP_UNREACH_PORT, 0, 0);
        size_t q = tn_ip_header_put(error + h + 8, &to, own ? &me : &group, TN_IPPROTO_UDP, 8, 64, 0);
        tn_put_be16(error + h + 8 + q, 443);
        tn_put_be16(error + h + 8 + q + 2, 1000);
        tn_put_be16(error + h + 8 + q + 4, 8);
        tn_forward_other(f, TN_IPPROTO_ICMP, error, h + 8 + 28, 1);
        assert_int_equal(fake.peer_closed, own);
    }
    assert_true(tn_addrport_eq(&fake.closed_src, &src) && tn_addrport_eq(&fake.closed_dst, &dst));
    tn_forward_free(f);
}

/* Questions go to the node, whatever the address; none is dialed. */
static void test_port_53(void **state)
{
    uint8_t p[28] = {0};
    struct tn_addrport src = {tn_ip4(100, 64, 0, 7), 1000}, dst = {tn_ip4(8, 8, 8, 8), 53}, web = {tn_ip4(8, 8, 8, 8), 54};
    struct tn_addrport stranger = {tn_ip4(45, 45, 45, 45), 1000}, all = {tn_ip4(255, 255, 255, 255), 53};
    names = (struct names){.on = true, .takes = true, .verdict = TN_SYN_HELD};
    struct tn_forward *f = setup(true);
    tn_forward_udp(f, &src, &dst, p, sizeof p, p, 0, 1);
    assert_int_equal(names.udp, 1);
    assert_int_equal(names.peer, 7);
    assert_int_equal(fake.unreach[TN_UNREACH_PORT], 0);
    tn_forward_udp(f, &src, &web, p, sizeof p, p, 0, 1);
    tn_forward_udp(f, &stranger, &dst, p, sizeof p, p, 0, 1);
    assert_int_equal(fake.unreach[TN_UNREACH_PORT], 2);
    tn_forward_udp(f, &src, &all, p, sizeof p, p, 0, 1);
    assert_int_equal(names.udp, 1);
    names.takes = false; /* the egress is off */
    tn_forward_udp(f, &src, &dst, p, sizeof p, p, 0, 1);
    assert_int_equal(fake.unreach[TN_UNREACH_PORT], 3);
    struct tn_syn syn = syn_of(7, 1000, 1);
    syn.dst.port = 53;
    assert_int_equal(tn_forward_syn(f, &syn, fake.now_us), TN_SYN_HELD);
    assert_int_equal(names.syns, 1);
    assert_int_equal(stats(f).held, 0);
    names.verdict = TN_SYN_RESET;
    assert_int_equal(tn_forward_syn(f, &syn, fake.now_us), TN_SYN_RESET);
    assert_int_equal(stats(f).refused, 1);
    syn.src.ip = stranger.ip;
    assert_int_equal(tn_forward_syn(f, &syn, fake.now_us), TN_SYN_RESET);
    assert_int_equal(names.syns, 2);
    tn_forward_set_enabled(f, false, fake.now_us);
    syn.src = src;
    assert_int_equal(tn_forward_syn(f, &syn, fake.now_us), TN_SYN_RESET);
    tn_forward_udp(f, &src, &dst, p, sizeof p, p, 0, 1);
    assert_int_equal(names.syns, 2);
    assert_int_equal(names.udp, 2);
    assert_int_equal(fake.dials, 0);
    tn_forward_set_enabled(f, true, fake.now_us);
    names.verdict = TN_SYN_DROP; /* not exit traffic: a server that we route to */
    fake.dial_result = TN_EGRESS_FAIL_GUARD;
    assert_int_equal(tn_forward_syn(f, &syn, fake.now_us), TN_SYN_RESET);
    assert_int_equal(fake.dials, 1);
    fake.dial_result = 0;
    /* What is dialed is dialed by the name that was asked for. */
    tn_forward_set_enabled(f, true, fake.now_us);
    struct tn_syn to_web = syn_of(7, 1000, 1), of_another = syn_of(8, 1000, 1);
    assert_int_equal(tn_forward_syn(f, &to_web, fake.now_us), TN_SYN_HELD);
    assert_string_equal(fake.last_name, "web.example");
    struct tn_egress_conn *first = fake.conn;
    assert_int_equal(tn_forward_syn(f, &of_another, fake.now_us), TN_SYN_HELD);
    assert_null(fake.last_name);
    tn_forward_free(f);
    free(first);
    free_fakes();
    names = (struct names){0};
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_port_53),
        cmocka_unit_test(test_off_dials_nothing),
        cmocka_unit_test(test_unknown_peer),
        cmocka_unit_test(test_multicast_is_silent),
        cmocka_unit_test(test_refused_at_once),
        cmocka_unit_test(test_dial_then_accept),
        cmocka_unit_test(test_dial_fails),
        cmocka_unit_test(test_stack_is_full),
        cmocka_unit_test(test_peer_cancels),
        cmocka_unit_test(test_silence),
        cmocka_unit_test(test_switch_off_resets_all),
        cmocka_unit_test(test_peer_gone),
        cmocka_unit_test(test_destinations_gone),
        cmocka_unit_test(test_many_held),
        cmocka_unit_test(test_bytes_both_ways),
        cmocka_unit_test(test_early_bytes_wait_for_the_handshake),
        cmocka_unit_test(test_backpressure_up),
        cmocka_unit_test(test_backpressure_down),
        cmocka_unit_test(test_half_close_by_peer),
        cmocka_unit_test(test_half_close_by_upstream),
        cmocka_unit_test(test_upstream_reset),
        cmocka_unit_test(test_upstream_reset_on_write),
        cmocka_unit_test(test_upstream_reset_after_its_fin),
        cmocka_unit_test(test_peer_reset_or_timeout),
        cmocka_unit_test(test_large_transfer_in_turns),
        cmocka_unit_test(test_opening_share),
        cmocka_unit_test(test_flow_is_small),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_answers6),
        cmocka_unit_test(test_refuse),
        cmocka_unit_test(test_datagrams_are_passed_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
