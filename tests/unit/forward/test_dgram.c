/* Flows of datagrams between a scripted stack and a scripted egress: which flow a datagram belongs to, how long flows
 * last, who loses one when there are too many, and what the peer is told. */
#include "forward/dgram.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

struct tn_dgram {
    const struct tn_dgram_events *ev;
    void *arg;
    struct tn_dgram_key key;
    size_t sent;
};

static struct fake {
    unsigned open, opens, closes, limit; /* limit: more are refused with LIMIT */
    int result;
    struct tn_dgram *last;
    size_t to_peer;
    struct tn_addrport from, to;
    unsigned unreach[4], echoes;
    uint8_t quoted[64];
    size_t quoted_len;
    uint16_t echo_id, echo_seq;
    uint64_t now_us;
} fake;

int tn_dgram_open(struct tn_egress *e, const struct tn_dgram_key *key, const struct tn_dgram_events *ev, void *arg,
                  struct tn_dgram **out)
{
    fake.opens++;
    if (fake.result) return fake.result;
    if (fake.limit && fake.open >= fake.limit) return TN_EGRESS_FAIL_LIMIT;
    *out = fake.last = calloc(1, sizeof **out);
    *fake.last = (struct tn_dgram){.ev = ev, .arg = arg, .key = *key};
    fake.open++;
    return 0;
}

void tn_dgram_send(struct tn_dgram *d, const void *bytes, size_t len) { d->sent += len; }

void tn_dgram_close(struct tn_dgram *d)
{
    fake.open--;
    fake.closes++;
    if (fake.last == d) fake.last = NULL;
    free(d);
}

int tn_stack_udp_send_from(struct tn_stack *st, const struct tn_addrport *from, const struct tn_addrport *to,
                           const void *bytes, size_t len, uint64_t now_us)
{
    fake.to_peer += len;
    fake.from = *from;
    fake.to = *to;
    return 0;
}

int tn_stack_echo_reply_from(struct tn_stack *st, const struct tn_ip *from, const struct tn_ip *to, uint16_t id, uint16_t seq,
                             const void *body, size_t len, uint64_t now_us)
{
    fake.echoes++;
    fake.echo_id = id;
    fake.echo_seq = seq;
    return 0;
}

bool tn_stack_unreach(struct tn_stack *st, enum tn_unreach what, const uint8_t *packet, size_t len, uint64_t now_us)
{
    fake.unreach[what]++;
    fake.quoted_len = len < sizeof fake.quoted ? len : sizeof fake.quoted;
    memcpy(fake.quoted, packet, fake.quoted_len);
    return true;
}

uint64_t tn_forward_now(const struct tn_forward *f) { return fake.now_us; }

/* The peer is the third byte of its address, so that one peer may have many addresses and ports. */
static uint64_t peer_of(void *ctx, const struct tn_ip *src) { return src->b[0] == 100 || src->b[0] == 0xfd ? src->b[2] : 0; }

static struct tn_forward *setup(void)
{
    static struct tn_forward f;
    fake = (struct fake){.now_us = 1000000};
    f = (struct tn_forward){.config = {.peer_of = peer_of}, .stack = (struct tn_stack *)&fake, .enabled = true,
                            .key = {{1, 2}}};
    tn_dflows_init(&f);
    return &f;
}

static void finish(struct tn_forward *f)
{
    tn_dflows_drop_all(f);
    assert_int_equal(fake.open, 0);
    assert_int_equal(f->stats.udp_flows, 0);
    assert_true(tn_dflows_next_deadline(f) == TN_NEVER);
    tn_dflows_fini(f);
}

static struct tn_addrport peer(uint8_t n, uint16_t port) { return (struct tn_addrport){tn_ip4(100, 64, n, 1), port}; }
static struct tn_addrport dst(uint8_t n, uint16_t port) { return (struct tn_addrport){tn_ip4(45, 45, 45, n), port}; }

static bool say(struct tn_forward *f, struct tn_addrport from, struct tn_addrport to)
{
    return tn_dflow_udp(f, &from, &to, (const uint8_t *)"hello", 5, fake.now_us);
}

static void answer(struct tn_dgram *d, size_t len)
{
    static const uint8_t bytes[2000];
    d->ev->on_datagram(d->arg, bytes, len);
}

static void wait_s(struct tn_forward *f, unsigned seconds)
{
    for (unsigned i = 0; i < seconds; i++) {
        fake.now_us += 1000000;
        if (tn_dflows_next_deadline(f) <= fake.now_us) tn_dflows_timeout(f, fake.now_us);
    }
}

static void test_one_flow_per_source_and_destination(void **state)
{
    struct tn_forward *f = setup();
    assert_true(say(f, peer(7, 1000), dst(1, 443)));
    struct tn_dgram *first = fake.last;
    assert_true(say(f, peer(7, 1000), dst(1, 443)));
    assert_int_equal(fake.opens, 1);
    assert_int_equal(first->sent, 10);
    assert_int_equal(first->key.peer, 7);
    assert_true(say(f, peer(7, 1000), dst(1, 444)));
    assert_true(say(f, peer(7, 1001), dst(1, 443)));
    assert_true(say(f, peer(8, 1000), dst(1, 443)));
    assert_int_equal(fake.opens, 4);
    assert_int_equal(f->stats.udp_flows, 4);
    answer(first, 100);
    struct tn_addrport from = dst(1, 443), to = peer(7, 1000);
    assert_int_equal(fake.to_peer, 100);
    assert_true(tn_addrport_eq(&fake.from, &from) && tn_addrport_eq(&fake.to, &to));
    finish(f);
}

static void test_refused(void **state)
{
    struct tn_forward *f = setup();
    fake.result = TN_EGRESS_FAIL_GUARD;
    assert_false(say(f, peer(7, 1000), dst(1, 443)));
    fake.result = 0;
    f->enabled = false;
    assert_false(say(f, peer(7, 1000), dst(1, 443)));
    f->enabled = true;
    assert_false(say(f, (struct tn_addrport){tn_ip4(10, 0, 0, 1), 5}, dst(1, 443))); /* nobody's address */
    assert_int_equal(fake.opens, 1);
    finish(f);
}

static void test_idle(void **state)
{
    struct tn_forward *f = setup();
    say(f, peer(7, 1000), dst(1, 443));
    struct tn_dgram *web = fake.last;
    say(f, peer(7, 1000), dst(1, 53));
    wait_s(f, 29);
    assert_int_equal(fake.open, 2);
    wait_s(f, 1);
    assert_int_equal(fake.open, 1); /* the question is over */
    wait_s(f, 60);
    answer(web, 10); /* what comes down counts as well */
    wait_s(f, 119);
    assert_int_equal(fake.open, 1);
    say(f, peer(7, 1000), dst(1, 443));
    assert_int_equal(fake.opens, 2);
    wait_s(f, 119);
    assert_int_equal(fake.open, 1);
    wait_s(f, 1);
    assert_int_equal(fake.open, 0);
    finish(f);
}

/* Test 22's shape: a server that pushes after 31 s of silence, and one that goes on for ever to nobody. */
static void test_server_pushes(void **state)
{
    struct tn_forward *f = setup();
    say(f, peer(7, 1000), dst(1, 443));
    for (int i = 0; i < 40 && fake.last; i++) {
        wait_s(f, 31);
        answer(fake.last, 10);
    }
    assert_int_equal(fake.open, 1);
    assert_int_equal(fake.to_peer, 400);
    for (int i = 0; i < 40 && fake.last; i++) {
        wait_s(f, 31);
        if (fake.last) answer(fake.last, 10);
    }
    assert_int_equal(fake.open, 0); /* half an hour without a word of the peer */
    finish(f);
}

static void test_errors_are_told(void **state)
{
    struct tn_forward *f = setup();
    struct tn_ippkt p;
    say(f, peer(7, 1000), dst(1, 443));
    fake.last->ev->on_error(fake.last->arg, TN_DGRAM_NO_PORT);
    assert_int_equal(fake.unreach[TN_UNREACH_PORT], 1);
    assert_int_equal(tn_ippkt_parse(fake.quoted, fake.quoted_len, &p), 0);
    struct tn_addrport src = peer(7, 1000), to = dst(1, 443);
    assert_true(tn_ip_eq(&p.src, &src.ip) && tn_ip_eq(&p.dst, &to.ip) && p.proto == TN_IPPROTO_UDP);
    assert_int_equal(tn_get_be16(p.l4), 1000);
    assert_int_equal(tn_get_be16(p.l4 + 2), 443);
    fake.last->ev->on_error(fake.last->arg, TN_DGRAM_NO_HOST);
    fake.last->ev->on_error(fake.last->arg, TN_DGRAM_PROHIBITED);
    assert_int_equal(fake.unreach[TN_UNREACH_HOST], 1);
    assert_int_equal(fake.unreach[TN_UNREACH_ADMIN], 1);
    assert_int_equal(fake.open, 1); /* a server may come back */
    finish(f);
}

static void end_upstream(enum tn_egress_fail why)
{
    struct tn_dgram *d = fake.last;
    fake.last = NULL;
    fake.open--;
    d->ev->on_end(d->arg, why);
    free(d);
}

static void test_upstream_ends(void **state)
{
    struct tn_forward *f = setup();
    say(f, peer(7, 1000), dst(1, 443));
    end_upstream(TN_EGRESS_FAIL_CANCELED); /* another policy: silence, and the next datagram asks anew */
    assert_int_equal(fake.unreach[TN_UNREACH_PORT], 0);
    say(f, peer(7, 1000), dst(1, 443));
    end_upstream(TN_EGRESS_FAIL_PROXY_CLOSED);
    assert_int_equal(fake.unreach[TN_UNREACH_PORT], 1);
    assert_int_equal(f->stats.udp_flows, 0);
    finish(f);
}

static void test_peer_closed_its_socket(void **state)
{
    struct tn_forward *f = setup();
    struct tn_addrport src = peer(7, 1000), to = dst(1, 443), other = dst(2, 443);
    say(f, src, to);
    tn_dflow_peer_closed(f, &src, &other);
    assert_int_equal(fake.open, 1);
    tn_dflow_peer_closed(f, &src, &to);
    assert_int_equal(fake.open, 0);
    finish(f);
}

/* A peer that opens more than its share loses its own oldest; another peer's stay. */
bool tn_dgram_is_subnet(const struct tn_dgram *d) { return false; }
static bool is_it(void *ctx, const struct tn_ip *dst, bool subnet) { return tn_ip_eq(ctx, dst); }

static void test_cap_per_peer(void **state)
{
    struct tn_forward *f = setup();
    say(f, peer(8, 1), dst(1, 1));
    for (unsigned i = 0; i < FLOWS_PER_PEER + 100; i++) assert_true(say(f, peer(7, (uint16_t)(i + 1)), dst(1, 1)));
    assert_int_equal(f->stats.udp_flows, FLOWS_PER_PEER + 1);
    assert_int_equal(f->stats.udp_evicted, 100);
    struct tn_addrport to = dst(1, 1), gone = peer(7, 1), kept = peer(7, 101), other = peer(8, 1);
    assert_null(find_dflow(f, TN_DGRAM_UDP, &gone, &to));
    assert_non_null(find_dflow(f, TN_DGRAM_UDP, &kept, &to));
    assert_non_null(find_dflow(f, TN_DGRAM_UDP, &other, &to));
    tn_dflows_drop_peer(f, 7);
    assert_int_equal(f->stats.udp_flows, 1);
    struct tn_gone it = {is_it, &(struct tn_ip){.family = 4}};
    tn_dflows_drop_gone(f, &it);
    assert_int_equal(f->stats.udp_flows, 1);
    it.ctx = &to.ip;
    tn_dflows_drop_gone(f, &it);
    assert_int_equal(f->stats.udp_flows, 0);
    finish(f);
}

static void test_cap_in_all(void **state)
{
    struct tn_forward *f = setup();
    for (unsigned i = 0; i < FLOWS_MAX; i++) assert_true(say(f, peer((uint8_t)(1 + i % 8), (uint16_t)(i / 8)), dst(1, 1)));
    assert_int_equal(f->stats.udp_flows, FLOWS_MAX);
    assert_true(say(f, peer(9, 1), dst(1, 1)));
    assert_int_equal(f->stats.udp_flows, FLOWS_MAX);
    struct tn_addrport first = peer(1, 0), to = dst(1, 1);
    assert_null(find_dflow(f, TN_DGRAM_UDP, &first, &to)); /* the least recently used of all */
    finish(f);
}

/* No socket is left: the peer's own old flows give theirs up, and who has none is refused. */
static void test_sockets_run_out(void **state)
{
    struct tn_forward *f = setup();
    fake.limit = 10;
    for (unsigned i = 0; i < 30; i++) assert_true(say(f, peer(7, (uint16_t)(i + 1)), dst(1, 1)));
    assert_int_equal(fake.open, 10);
    assert_int_equal(f->stats.udp_flows, 10);
    assert_false(say(f, peer(8, 1), dst(1, 1)));
    assert_int_equal(f->stats.udp_flows, 10);
    fake.limit = 0;
    fake.result = TN_EGRESS_FAIL_FDS; /* whatever it gives up */
    assert_false(say(f, peer(7, 999), dst(1, 1)));
    assert_int_equal(f->stats.udp_flows, 10 - EVICT_TRIES);
    finish(f);
}

static void test_echo(void **state)
{
    struct tn_forward *f = setup();
    struct tn_ip src = tn_ip4(100, 64, 7, 1), to = tn_ip4(45, 45, 45, 1);
    uint8_t message[16] = {8, 0, 0, 0, 0x12, 0x34, 0, 5}, reply[16] = {0, 0, 0, 0, 0xab, 0xcd, 0, 5};
    for (size_t cut = 0; cut < TN_ICMP_HDR; cut++) assert_false(tn_dflow_echo(f, &src, &to, message, cut, fake.now_us));
    assert_true(tn_dflow_echo(f, &src, &to, message, sizeof message, fake.now_us));
    assert_int_equal(fake.last->key.kind, TN_DGRAM_ECHO);
    assert_int_equal(fake.last->key.src.port, 0x1234);
    assert_int_equal(fake.last->key.dst.port, 0);
    for (size_t cut = 0; cut < TN_ICMP_HDR; cut++) fake.last->ev->on_datagram(fake.last->arg, reply, cut);
    reply[0] = 8;
    fake.last->ev->on_datagram(fake.last->arg, reply, sizeof reply);
    assert_int_equal(fake.echoes, 0);
    reply[0] = 0;
    fake.last->ev->on_datagram(fake.last->arg, reply, sizeof reply);
    assert_int_equal(fake.echoes, 1);
    assert_int_equal(fake.echo_id, 0x1234); /* the peer's, not the socket's */
    assert_int_equal(fake.echo_seq, 5);
    for (unsigned id = 1; id < 100; id++) {
        tn_put_be16(message + 4, (uint16_t)id);
        assert_int_equal(tn_dflow_echo(f, &src, &to, message, sizeof message, fake.now_us), id < ECHO_PER_PEER);
    }
    fake.last->ev->on_error(fake.last->arg, TN_DGRAM_NO_HOST);
    assert_int_equal(fake.unreach[TN_UNREACH_HOST], 1);
    wait_s(f, 10);
    assert_int_equal(fake.open, 0);
    finish(f);
}

static void test_flow_is_small(void **state) { assert_true(sizeof(struct tn_dflow) <= 160); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_flow_per_source_and_destination),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_idle),
        cmocka_unit_test(test_server_pushes),
        cmocka_unit_test(test_errors_are_told),
        cmocka_unit_test(test_upstream_ends),
        cmocka_unit_test(test_peer_closed_its_socket),
        cmocka_unit_test(test_cap_per_peer),
        cmocka_unit_test(test_cap_in_all),
        cmocka_unit_test(test_sockets_run_out),
        cmocka_unit_test(test_echo),
        cmocka_unit_test(test_flow_is_small),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
