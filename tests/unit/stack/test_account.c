/* Fairness among peers, between stacks on a perfect wire: a server whose application does not read the flows of greedy peers,
 * and sends to peers that do not read. What they hold together stays within their share, and a newcomer's flow is as large as
 * it would be without them. */
#include "stack/stack.h"
#include "util/list.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

enum { PEERS = 4, FLOWS = 300, BUDGET = 32 << 20, MAX = 1 << 20 };

struct packet {
    struct tn_list link;
    size_t len;
    int to; /* 0: the server, else a peer */
    uint8_t bytes[];
};

static struct bench {
    struct tn_stack *server, *peer[PEERS + 1];
    struct tn_list wire;
    uint64_t now_us, seed;
    struct tn_tcp *accepted[PEERS + 1][FLOWS], *opened[PEERS + 1][FLOWS];
    size_t naccepted[PEERS + 1];
    bool reads[PEERS + 1]; /* does the server's application read this peer's flows? */
    size_t received[PEERS + 1];
} b;

static struct tn_ip address(int i) { return tn_ip4(100, 64, 0, (uint8_t)(i + 1)); }

static void put(int to, const uint8_t *bytes, size_t len)
{
    struct packet *p = malloc(sizeof *p + len);
    *p = (struct packet){.len = len, .to = to};
    memcpy(p->bytes, bytes, len);
    tn_list_push_back(&b.wire, &p->link);
}

static void server_output(void *ctx, uint8_t *packet, size_t len) { put(packet[19] - 1, packet, len); }
static void peer_output(void *ctx, uint8_t *packet, size_t len) { put(0, packet, len); }

static void settle(unsigned ms)
{
    for (unsigned i = 0; i < ms; i++) {
        b.now_us += 1000;
        for (struct tn_list *l; (l = tn_list_pop_front(&b.wire));) {
            struct packet *p = TN_CONTAINER(l, struct packet, link);
            tn_stack_input(p->to ? b.peer[p->to] : b.server, p->bytes, p->len, b.now_us);
            free(p);
        }
        if (tn_stack_next_deadline(b.server) <= b.now_us) tn_stack_timeout(b.server, b.now_us);
        for (int k = 1; k <= PEERS; k++)
            if (tn_stack_next_deadline(b.peer[k]) <= b.now_us) tn_stack_timeout(b.peer[k], b.now_us);
    }
}

static void on_readable(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    int who = (int)(intptr_t)arg;
    if (!b.reads[who]) return;
    size_t n = tn_tcp_readable(c);
    b.received[who] += n;
    tn_tcp_consume(c, n, now_us);
}

static const struct tn_tcp_events server_events = {.on_readable = on_readable}, quiet;

static int on_accept(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    int who = tn_tcp_remote(c).ip.b[3] - 1;
    tn_tcp_set_events(c, &server_events, (void *)(intptr_t)who);
    b.accepted[who][b.naccepted[who]++] = c;
    return 0;
}

static struct tn_stack *make(int i, size_t budget)
{
    struct tn_ip ip = address(i);
    struct tn_stack_config c = {.budget = budget, .tcp_buffer_max = MAX, .rng = tn_rng_seeded(&b.seed),
                                .cb.output = i ? peer_output : server_output};
    struct tn_stack *st = tn_stack_new(&c);
    assert_non_null(st);
    assert_int_equal(tn_stack_set_addrs(st, &ip, 1, b.now_us), 0);
    return st;
}

static void setup(void)
{
    struct tn_tcp_listener *l;
    struct tn_addrport at = {.port = 80};
    b = (struct bench){.now_us = 1000000, .seed = 7};
    tn_list_init(&b.wire);
    b.server = make(0, BUDGET);
    for (int i = 1; i <= PEERS; i++) b.peer[i] = make(i, 512 << 20);
    assert_int_equal(tn_tcp_listen(b.server, &at, 1024, on_accept, NULL, &l), 0);
}

static void finish(void)
{
    tn_stack_free(b.server);
    for (int i = 1; i <= PEERS; i++) tn_stack_free(b.peer[i]);
    for (struct tn_list *l; (l = tn_list_pop_front(&b.wire));) free(TN_CONTAINER(l, struct packet, link));
}

static void open_flows(int who, int n)
{
    struct tn_addrport to = {address(0), 80};
    for (int i = 0; i < n; i++)
        assert_int_equal(tn_tcp_connect(b.peer[who], NULL, &to, &quiet, NULL, b.now_us, &b.opened[who][i]), 0);
    settle(20);
    assert_int_equal(b.naccepted[who], (size_t)n);
}

/* Every flow of the peer sends as much as it may. */
static void push(int who, int n, unsigned rounds)
{
    static const uint8_t zeros[65536];
    for (unsigned r = 0; r < rounds; r++) {
        for (int i = 0; i < n; i++) (void)tn_tcp_write(b.opened[who][i], zeros, sizeof zeros, b.now_us);
        settle(2);
    }
}

static size_t held(void)
{
    struct tn_stack_stats s;
    tn_stack_stats(b.server, &s);
    return s.chunk_bytes;
}

/* One stalled crowd holds half at most; a second newcomer still gets windows that are worth something. */
static void test_received(void **state)
{
    setup();
    open_flows(1, FLOWS);
    push(1, FLOWS, 100);
    size_t one = held();
    assert_in_range(one, BUDGET / 8, BUDGET / 2 + BUDGET / 8);
    b.reads[2] = true;
    open_flows(2, 1);
    push(2, 1, 200);
    struct tn_tcp_info info;
    tn_tcp_info(b.accepted[2][0], &info);
    if (info.rcv_wnd < 128 * 1024) fail_msg("the newcomer's window is %u", info.rcv_wnd);
    assert_true(b.received[2] > 4u << 20);
    finish();
}

static void test_several_greedy_peers(void **state)
{
    setup();
    for (int who = 1; who <= 3; who++) {
        open_flows(who, FLOWS);
        push(who, FLOWS, 60);
    }
    assert_true(held() <= BUDGET);
    b.reads[4] = true;
    open_flows(4, 1);
    push(4, 1, 200);
    struct tn_tcp_info info;
    tn_tcp_info(b.accepted[4][0], &info);
    if (info.rcv_wnd < 32 * 1024) fail_msg("the newcomer's window is %u after three crowds hold %zu", info.rcv_wnd, held());
    finish();
}

/* The same for what waits to be sent: peers that do not read. */
static void test_sent(void **state)
{
    static const uint8_t zeros[65536];
    setup();
    open_flows(1, FLOWS);
    for (unsigned r = 0; r < 100; r++) {
        for (int i = 0; i < FLOWS; i++) (void)tn_tcp_write(b.accepted[1][i], zeros, sizeof zeros, b.now_us);
        settle(2);
    }
    assert_in_range(held(), 1, BUDGET / 2 + BUDGET / 8);
    open_flows(2, 1);
    settle(50);
    size_t space = tn_tcp_space(b.accepted[2][0]);
    if (space < 30000) fail_msg("the newcomer may send %zu", space);
    finish();
}

/* Flows that end give their share back. */
static void test_given_back(void **state)
{
    setup();
    open_flows(1, FLOWS);
    push(1, FLOWS, 60);
    for (int i = 0; i < FLOWS; i++) tn_tcp_abort(b.opened[1][i], b.now_us);
    settle(20);
    assert_int_equal(held(), 0);
    memset(b.naccepted, 0, sizeof b.naccepted);
    b.reads[1] = true;
    open_flows(1, 1);
    push(1, 1, 200);
    struct tn_tcp_info info;
    tn_tcp_info(b.accepted[1][0], &info);
    assert_true(info.rcv_wnd >= 128 * 1024);
    finish();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_received),
        cmocka_unit_test(test_several_greedy_peers),
        cmocka_unit_test(test_sent),
        cmocka_unit_test(test_given_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
