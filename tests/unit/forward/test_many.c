/* A hundred thousand flows through the forwarder and two real stacks, on a perfect wire and with an egress that says yes: what an
 * idle one costs, and that all of it comes back; and a sweep of all ports. Tests 48 and 49, where descriptors do not limit. */
#include "forward/answers.c"
#include "forward/dgram.c"
#include "forward/flow.c"
#include "forward/forward.c"
#include "forward/gate.c"

#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

enum { FLOWS = 100000, PER_PORT = 10000, BURST = 1000 };

/* What both ends, the forwarder and this program's upstreams may cost together per flow, overhead of the heap included. */
enum { BYTES_PER_FLOW = 2 * 640 + 256 };

enum { LEFT_MAX = 65536 };

struct tn_egress_conn {
    const struct tn_egress_events *ev;
    void *arg;
    struct tn_list link;
};

static struct bench {
    struct tn_stack *peer, *gate;
    struct tn_forward *f;
    struct tn_list wire, dialing, open;
    bool refuse; /* every dial fails */
    unsigned refused;
    uint64_t now_us, seed;
    unsigned established;
    struct tn_tcp *flows[FLOWS];
} b;

struct packet {
    struct tn_list link;
    size_t len;
    bool to_gate;
    uint8_t bytes[];
};

/* ---- an egress that says yes, a little later ---- */

void tn_egress_set_batch(struct tn_egress *e, void (*fn)(void *ctx, bool begins), void *ctx) {}

int tn_egress_dial(struct tn_egress *e, const struct tn_egress_target *to, const struct tn_egress_events *ev, void *arg,
                   struct tn_egress_conn **out)
{
    struct tn_egress_conn *c = calloc(1, sizeof *c);
    if (!c) return TN_EGRESS_FAIL_FDS;
    *c = (struct tn_egress_conn){.ev = ev, .arg = arg};
    tn_list_push_back(&b.dialing, &c->link);
    *out = c;
    return 0;
}
void tn_egress_set_events(struct tn_egress_conn *c, const struct tn_egress_events *ev, void *arg)
{
    c->ev = ev;
    c->arg = arg;
}
void tn_egress_want(struct tn_egress_conn *c, int events) {}
long tn_egress_readv(struct tn_egress_conn *c, const struct iovec *iov, int n) { return TN_E_AGAIN; }
long tn_egress_writev(struct tn_egress_conn *c, const struct iovec *iov, int n) { return (long)iov[0].iov_len; }
int tn_egress_shutdown(struct tn_egress_conn *c) { return 0; }
void tn_egress_close(struct tn_egress_conn *c, bool reset)
{
    tn_list_remove(&c->link);
    free(c);
}
bool tn_egress_conn_is_subnet(const struct tn_egress_conn *c) { return false; }
bool tn_dgram_is_subnet(const struct tn_dgram *d) { return false; }
bool tn_egress_is_subnet(const struct tn_egress *e, const struct tn_addrport *dst, struct tn_addrport *real) { return false; }
int tn_dgram_open(struct tn_egress *e, const struct tn_dgram_key *key, const struct tn_dgram_events *ev, void *arg,
                  struct tn_dgram **out)
{
    return TN_EGRESS_FAIL_OFF;
}
void tn_dgram_send(struct tn_dgram *d, const void *bytes, size_t len) {}
void tn_dgram_close(struct tn_dgram *d) {}

/* ---- the wire ---- */

static void put_packet(bool to_gate, const uint8_t *bytes, size_t len)
{
    struct packet *p = malloc(sizeof *p + len);
    assert_non_null(p);
    p->len = len;
    p->to_gate = to_gate;
    memcpy(p->bytes, bytes, len);
    tn_list_push_back(&b.wire, &p->link);
}
static void peer_output(void *ctx, uint8_t *packet, size_t len) { put_packet(true, packet, len); }
static void gate_output(void *ctx, uint8_t *packet, size_t len) { put_packet(false, packet, len); }

static void settle(void)
{
    for (bool busy = true; busy;) {
        busy = false;
        for (struct tn_list *l; (l = tn_list_pop_front(&b.wire));) {
            struct packet *p = TN_CONTAINER(l, struct packet, link);
            tn_stack_input(p->to_gate ? b.gate : b.peer, p->bytes, p->len, b.now_us);
            free(p);
            busy = true;
        }
        for (struct tn_list *l; (l = tn_list_pop_front(&b.dialing));) {
            struct tn_egress_conn *c = TN_CONTAINER(l, struct tn_egress_conn, link);
            busy = true;
            if (b.refuse) {
                c->ev->on_fail(c->arg, TN_EGRESS_FAIL_REFUSED);
                free(c);
                continue;
            }
            tn_list_push_back(&b.open, &c->link);
            c->ev->on_open(c->arg, c);
        }
        b.now_us += 50000; /* delayed acknowledgements */
        if (tn_stack_next_deadline(b.peer) <= b.now_us) tn_stack_timeout(b.peer, b.now_us);
        if (tn_stack_next_deadline(b.gate) <= b.now_us) tn_stack_timeout(b.gate, b.now_us);
        busy |= !tn_list_empty(&b.wire);
    }
}

static void on_established(void *arg, struct tn_tcp *c, uint64_t now_us) { b.established++; }
static void on_closed(void *arg, int err, uint64_t now_us) { b.refused += err == TN_E_REFUSED; }
static const struct tn_tcp_events peer_events = {.on_open = on_established, .on_close = on_closed};

static uint64_t peer_of(void *ctx, const struct tn_ip *src) { return 7; }
static uint64_t bench_now(void *ctx) { return b.now_us; }

extern size_t __sanitizer_get_current_allocated_bytes(void) __attribute__((weak));

static size_t allocated(void)
{
    return __sanitizer_get_current_allocated_bytes ? __sanitizer_get_current_allocated_bytes() : mallinfo2().uordblks;
}

static struct tn_stack *make_stack(bool is_gate, struct tn_ip ip)
{
    struct tn_stack_config c = {.rng = tn_rng_seeded(&b.seed), .cb.output = is_gate ? gate_output : peer_output, .ctx = b.f};
    if (is_gate) {
        c.cb.foreign_syn = tn_forward_syn;
        c.cb.foreign_tcp = tn_forward_tcp;
        c.cb.foreign_udp = tn_forward_udp;
        c.cb.foreign_other = tn_forward_other;
    }
    struct tn_stack *st = tn_stack_new(&c);
    assert_non_null(st);
    assert_int_equal(tn_stack_set_addrs(st, &ip, 1, b.now_us), 0);
    return st;
}

static void setup(void)
{
    b = (struct bench){.now_us = 1000000};
    tn_list_init(&b.wire);
    tn_list_init(&b.dialing);
    tn_list_init(&b.open);
    struct tn_forward_config fc = {.egress = (struct tn_egress *)&b, .peer_of = peer_of, .now = bench_now,
                                   .rng = tn_rng_seeded(&b.seed)};
    b.f = tn_forward_new(&fc);
    b.gate = make_stack(true, tn_ip4(100, 64, 0, 1));
    b.peer = make_stack(false, tn_ip4(100, 64, 0, 7));
    tn_forward_set_stack(b.f, b.gate);
    tn_forward_set_enabled(b.f, true, b.now_us);
}

static void finish(void)
{
    tn_forward_free(b.f);
    tn_stack_free(b.gate);
    tn_stack_free(b.peer);
}

/* Test 48: all ports there are, each refused; nothing is kept for any of them. */
static void test_sweep(void **state)
{
    setup();
    b.refuse = true;
    size_t before = allocated();
    for (int port = 1; port <= 65535; port++) {
        struct tn_addrport to = {tn_ip4(45, 45, 45, 45), (uint16_t)port};
        struct tn_tcp *c;
        assert_int_equal(tn_tcp_connect(b.peer, NULL, &to, &peer_events, NULL, b.now_us, &c), 0);
        if (port % BURST == 0) settle();
    }
    settle();
    struct tn_forward_stats s;
    tn_forward_stats(b.f, &s);
    assert_int_equal(b.refused, 65535);
    assert_int_equal(s.refused, 65535);
    assert_int_equal(s.flows + s.held, 0);
    size_t left = allocated() - before;
    print_message("%zu bytes are left of 65,535 refusals\n", left);
    assert_true(left < 65536);
    finish();
}

static void test_many(void **state)
{
    setup();
    size_t before = allocated();
    for (int i = 0; i < FLOWS; i++) {
        struct tn_addrport to = {tn_ip4(45, 45, 45, 45), (uint16_t)(1000 + i / PER_PORT)};
        assert_int_equal(tn_tcp_connect(b.peer, NULL, &to, &peer_events, NULL, b.now_us, &b.flows[i]), 0);
        if (i % BURST == BURST - 1) settle();
    }
    settle();
    struct tn_forward_stats s;
    struct tn_stack_stats ss;
    tn_forward_stats(b.f, &s);
    tn_stack_stats(b.gate, &ss);
    assert_int_equal(b.established, FLOWS);
    assert_int_equal(s.flows, FLOWS);
    assert_int_equal(s.held, 0);
    assert_int_equal(ss.chunk_bytes, 0); /* nothing is in flight: no buffer is held */
    size_t per_flow = (allocated() - before) / FLOWS;
    print_message("%zu bytes per flow, both ends and the forwarder\n", per_flow);
    assert_true(per_flow <= BYTES_PER_FLOW);
    for (int i = 0; i < FLOWS; i++) {
        tn_tcp_abort(b.flows[i], b.now_us);
        if (i % BURST == BURST - 1) settle();
    }
    settle();
    tn_forward_stats(b.f, &s);
    assert_int_equal(s.flows, 0);
    size_t left = allocated() - before;
    print_message("%zu bytes are left\n", left);
    assert_true(left < LEFT_MAX);
    finish();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sweep), cmocka_unit_test(test_many)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
