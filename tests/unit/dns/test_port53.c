/* Port 53 on the real stack: the client's stack and the node's, back to back, and a resolver that the test plays. */
#include "dns/message.c"
#include "dns/port53.c"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static const struct tn_ip client_ip = {4, {100, 64, 0, 9}};
static const struct tn_addrport google = {{4, {8, 8, 8, 8}}, 53};

enum { WAITING = 2048 };
static struct bed {
    struct tn_stack *node, *client;
    struct tn_port53 *p;
    struct tn_udp_sock *udp;
    uint64_t now_us;
    /* The resolver. */
    int refuse;
    bool at_once;
    struct waiting {
        void (*answer)(void *arg, int err, const uint8_t *bytes, size_t len);
        void *arg;
        uint8_t query[QUESTION_MAX];
        size_t len, limit;
        bool live;
    } *w[WAITING];
    unsigned nw, canceled;
    /* What came back by UDP. */
    unsigned datagrams;
    struct tn_addrport from;
    uint8_t last[4096];
    size_t last_len;
    /* Packets on their way. */
    struct packet {
        struct packet *next;
        bool to_node;
        size_t len;
        uint8_t bytes[1500];
    } *head, **tail;
} b;

int tn_dns_ask(struct tn_dns *d, uint64_t peer, const uint8_t *query, size_t len, size_t limit, uint64_t now_us,
               void (*answer)(void *arg, int err, const uint8_t *answer, size_t len), void *arg, struct tn_dns_query **out)
{
    if (b.refuse) return b.refuse;
    if (tn_dns_check_query(query, len) != 0) return TN_E_MALFORMED;
    assert_true(b.nw < WAITING);
    struct waiting *w = calloc(1, sizeof *w);
    *w = (struct waiting){.answer = answer, .arg = arg, .len = len, .limit = limit, .live = true};
    memcpy(w->query, query, len);
    b.w[b.nw++] = w;
    *out = (struct tn_dns_query *)w;
    return 0;
}
void tn_dns_cancel(struct tn_dns_query *q)
{
    struct waiting *w = (struct waiting *)q;
    assert_true(w->live);
    w->live = false;
    b.canceled++;
}
size_t tn_dns_udp_limit(const uint8_t *query, size_t len) { return 512; }

static void put(bool to_node, const uint8_t *bytes, size_t len)
{
    struct packet *p = calloc(1, sizeof *p);
    assert_true(len <= sizeof p->bytes);
    p->to_node = to_node;
    p->len = len;
    memcpy(p->bytes, bytes, len);
    *b.tail = p;
    b.tail = &p->next;
}
static void from_node(void *ctx, uint8_t *packet, size_t len) { put(false, packet, len); }
static void from_client(void *ctx, uint8_t *packet, size_t len) { put(true, packet, len); }
static enum tn_syn_verdict foreign_syn(void *ctx, const struct tn_syn *syn, uint64_t now_us)
{
    return tn_port53_syn(b.p, 1, syn, now_us);
}
static void foreign_udp(void *ctx, const struct tn_addrport *src, const struct tn_addrport *dst, const uint8_t *packet, size_t len,
                        const uint8_t *payload, size_t payload_len, uint64_t now_us)
{
    tn_port53_udp(b.p, 1, src, dst, payload, payload_len, now_us);
}
static void on_datagram(void *arg, const struct tn_addrport *local, const struct tn_addrport *from, const uint8_t *bytes, size_t len,
                        uint64_t now_us)
{
    b.datagrams++;
    b.from = *from;
    b.last_len = len;
    memcpy(b.last, bytes, len);
}

static void settle(void)
{
    for (int i = 0; i < 100000; i++) {
        if (tn_stack_next_deadline(b.node) <= b.now_us) tn_stack_timeout(b.node, b.now_us);
        if (tn_stack_next_deadline(b.client) <= b.now_us) tn_stack_timeout(b.client, b.now_us);
        if (tn_port53_next_deadline(b.p) <= b.now_us) tn_port53_timeout(b.p, b.now_us);
        struct packet *p = b.head;
        if (!p) return;
        b.head = p->next;
        if (!b.head) b.tail = &b.head;
        tn_stack_input(p->to_node ? b.node : b.client, p->bytes, p->len, b.now_us);
        free(p);
    }
    fail_msg("packets without end");
}

static void pass(uint64_t us)
{
    for (uint64_t end = b.now_us + us; b.now_us < end;) {
        b.now_us += us < 250000 ? us : 250000;
        settle();
    }
}

static const char *const filtered_set[] = {".bad.example"};
static const char *const *filtered(void *ctx, size_t *n)
{
    *n = 1;
    return filtered_set;
}
static uint64_t fake_now(void *ctx) { return b.now_us; }

static int setup(void **state)
{
    static uint64_t seed = 11;
    static const struct tn_udp_events ev = {.on_datagram = on_datagram};
    b = (struct bed){.now_us = 1000000};
    b.tail = &b.head;
    struct tn_stack_config nc = {.rng = tn_rng_seeded(&seed),
                                 .cb = {.output = from_node, .foreign_syn = foreign_syn, .foreign_udp = foreign_udp}};
    struct tn_stack_config cc = {.rng = tn_rng_seeded(&seed), .cb = {.output = from_client}};
    b.node = tn_stack_new(&nc);
    b.client = tn_stack_new(&cc);
    struct tn_ip own = tn_ip4(100, 64, 0, 1);
    struct tn_addrport any = {.port = 4000};
    struct tn_port53_config pc = {.stack = b.node, .filtered = filtered, .now = fake_now};
    if (tn_port53_new(&pc, &b.p) != 0 || tn_stack_set_addrs(b.node, &own, 1, b.now_us) != 0) return -1;
    if (tn_stack_set_addrs(b.client, &client_ip, 1, b.now_us) != 0) return -1;
    return tn_udp_bind(b.client, &any, &ev, NULL, &b.udp);
}

static int teardown(void **state)
{
    tn_port53_free(b.p);
    for (unsigned i = 0; i < b.nw; i++) {
        assert_false(b.w[i]->live);
        free(b.w[i]);
    }
    tn_stack_free(b.node);
    tn_stack_free(b.client);
    while (b.head) {
        struct packet *p = b.head;
        b.head = p->next;
        free(p);
    }
    return 0;
}

/* ---- messages ---- */

static size_t question(uint8_t *out, uint16_t id, const char *label)
{
    static const uint8_t head[] = {0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0};
    static const uint8_t rest[] = "\7example\0\0\1\0\1";
    size_t n = strlen(label);
    memcpy(out, head, 12);
    tn_put_be16(out, id);
    out[12] = (uint8_t)n;
    memcpy(out + 13, label, n);
    memcpy(out + 13 + n, rest, sizeof rest - 1);
    return 13 + n + sizeof rest - 1;
}

static void answer(unsigned i, size_t padding)
{
    static uint8_t msg[65535];
    struct waiting *w = b.w[i];
    assert_true(i < b.nw && w->live);
    memcpy(msg, w->query, w->len);
    memset(msg + w->len, 0, padding);
    msg[2] |= 0x80;
    w->live = false;
    w->answer(w->arg, 0, msg, w->len + padding);
}

/* ---- a client's connection ---- */

struct side {
    struct tn_tcp *tcp;
    bool open, closed;
    int err;
    bool deaf; /* does not read */
    size_t len;
    uint8_t bytes[400000];
};

static void side_open(void *arg, struct tn_tcp *c, uint64_t now_us) { ((struct side *)arg)->open = true; }
static void side_read(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    struct side *s = arg;
    struct iovec iov;
    while (!s->deaf && tn_tcp_peek(c, &iov, 1) > 0) {
        assert_true(s->len + iov.iov_len <= sizeof s->bytes);
        memcpy(s->bytes + s->len, iov.iov_base, iov.iov_len);
        s->len += iov.iov_len;
        tn_tcp_consume(c, iov.iov_len, now_us);
    }
    if (tn_tcp_eof(c)) s->closed = true;
}
static void side_close(void *arg, int err, uint64_t now_us)
{
    struct side *s = arg;
    s->tcp = NULL;
    s->closed = true;
    s->err = err;
}
static const struct tn_tcp_events side_events = {.on_open = side_open, .on_readable = side_read, .on_close = side_close};

static struct side *dial(void)
{
    struct side *s = calloc(1, sizeof *s);
    struct tn_addrport any = {.ip = client_ip};
    assert_int_equal(tn_tcp_connect(b.client, &any, &google, &side_events, s, b.now_us, &s->tcp), 0);
    settle();
    return s;
}

static void hang_up(struct side *s)
{
    if (s->tcp) tn_tcp_abort(s->tcp, b.now_us);
    free(s);
    settle();
}

static void send_framed(struct side *s, const uint8_t *bytes, size_t len)
{
    uint8_t head[2];
    tn_put_be16(head, (uint16_t)len);
    assert_int_equal(tn_tcp_write(s->tcp, head, 2, b.now_us), 2);
    assert_int_equal(tn_tcp_write(s->tcp, bytes, len, b.now_us), (long)len);
    settle();
}

static struct tn_port53_stats stats(void)
{
    struct tn_port53_stats s;
    tn_port53_stats(b.p, &s);
    return s;
}

/* ---- tests ---- */

static void by_udp(void **state)
{
    uint8_t q[512];
    size_t n = question(q, 0x4242, "www");
    assert_int_equal(tn_udp_sendto(b.udp, NULL, &google, q, n, b.now_us), 0);
    settle();
    assert_int_equal(b.nw, 1);
    assert_int_equal(b.w[0]->limit, 512);
    answer(0, 0);
    settle();
    assert_int_equal(b.datagrams, 1);
    assert_true(tn_addrport_eq(&b.from, &google)); /* as if by the one that was asked */
    assert_int_equal(tn_get_be16(b.last), 0x4242);
    /* A filtered name, one that can't be asked now, what is no question. */
    n = question(q, 1, "bad");
    q[12] = 1, q[13] = 'x', memcpy(q + 14, "\3bad\7example\0\0\1\0\1", 17), n = 31;
    tn_udp_sendto(b.udp, NULL, &google, q, n, b.now_us);
    settle();
    assert_int_equal(b.last[3] & 15, 5);
    b.refuse = TN_E_LIMIT;
    n = question(q, 2, "www");
    tn_udp_sendto(b.udp, NULL, &google, q, n, b.now_us);
    settle();
    assert_int_equal(b.last[3] & 15, 2);
    b.refuse = 0;
    tn_udp_sendto(b.udp, NULL, &google, q, 14, b.now_us);
    settle();
    assert_int_equal(b.datagrams, 4);
    assert_int_equal(b.last[3] & 15, 1);
    assert_int_equal(b.last_len, 12);
    q[2] |= 0x80; /* answers are not answered */
    tn_udp_sendto(b.udp, NULL, &google, q, n, b.now_us);
    tn_udp_sendto(b.udp, NULL, &google, q, 5, b.now_us);
    tn_udp_sendto(b.udp, NULL, &google, q, 0, b.now_us);
    settle();
    assert_int_equal(b.datagrams, 4);
    assert_int_equal(stats().udp_queries, 7);
    assert_int_equal(stats().in_flight, 0);
}

static void udp_is_bounded(void **state)
{
    uint8_t q[512];
    size_t n = question(q, 1, "www");
    for (unsigned i = 0; i < UDP_PER_PEER + 1; i++) tn_port53_udp(b.p, 1, &(struct tn_addrport){client_ip, 4000}, &google, q, n, 1);
    settle();
    assert_int_equal(b.nw, UDP_PER_PEER);
    assert_int_equal(b.datagrams, 1);
    assert_int_equal(b.last[3] & 15, 2);
    tn_port53_udp(b.p, 2, &(struct tn_addrport){client_ip, 4000}, &google, q, n, 1);
    assert_int_equal(b.nw, UDP_PER_PEER + 1);
    tn_port53_peer_gone(b.p, 1, b.now_us);
    assert_int_equal(b.canceled, UDP_PER_PEER);
    answer(UDP_PER_PEER, 0);
}

static void by_tcp_pipelined(void **state)
{
    uint8_t q[512];
    struct side *s = dial();
    assert_true(s->open);
    for (unsigned i = 0; i < 3; i++) send_framed(s, q, question(q, (uint16_t)(i + 1), "www"));
    assert_int_equal(b.nw, 3);
    assert_int_equal(b.w[0]->limit, TN_DNS_MAX);
    answer(2, 5000);
    answer(0, 0);
    settle();
    size_t n = 3 + 13 + 13;
    assert_int_equal(tn_get_be16(s->bytes), n + 5000);
    assert_int_equal(tn_get_be16(s->bytes + 2), 3);
    assert_int_equal(tn_get_be16(s->bytes + 2 + n + 5000 + 2), 1);
    /* FIN behind the last question: its answer comes still, then the end. */
    tn_tcp_shutdown(s->tcp, b.now_us);
    settle();
    assert_false(s->closed);
    answer(1, 0);
    settle();
    assert_true(s->closed);
    assert_int_equal(s->err, 0);
    assert_int_equal(stats().conns, 0);
    hang_up(s);
}

static void one_byte_at_a_time(void **state)
{
    uint8_t q[512], framed[600];
    struct side *s = dial();
    size_t n = question(q, 9, "slow");
    tn_put_be16(framed, (uint16_t)n);
    memcpy(framed + 2, q, n);
    for (size_t i = 0; i < n + 2; i++) {
        assert_int_equal(b.nw, 0);
        tn_tcp_write(s->tcp, framed + i, 1, b.now_us);
        settle();
    }
    assert_int_equal(b.nw, 1);
    answer(0, 0);
    settle();
    assert_int_equal(s->len, n + 2);
    /* Half a question and then silence: the end, after a while. */
    tn_tcp_write(s->tcp, framed, 7, b.now_us);
    pass(IDLE_US / 2);
    assert_false(s->closed);
    pass(IDLE_US);
    assert_true(s->closed);
    assert_int_equal(stats().conns, 0);
    hang_up(s);
}

static void refusals_by_tcp(void **state)
{
    uint8_t q[QUESTION_MAX + 10] = {0};
    struct side *s = dial();
    send_framed(s, q, question(q, 7, "www") - 1);
    assert_int_equal(s->bytes[5] & 15, 1);
    b.refuse = TN_E_TIMEDOUT;
    send_framed(s, q, question(q, 7, "www"));
    assert_int_equal(s->bytes[14 + 5] & 15, 2);
    b.refuse = 0;
    send_framed(s, q, 3); /* no header: whoever this is, it speaks no DNS */
    assert_true(s->closed);
    hang_up(s);
    s = dial();
    send_framed(s, q, QUESTION_MAX + 1);
    assert_true(s->closed);
    assert_int_equal(s->err, TN_E_RESET);
    hang_up(s);
    assert_int_equal(stats().conns, 0);
}

static void a_client_that_does_not_read(void **state)
{
    uint8_t q[512];
    struct side *s = dial();
    s->deaf = true;
    size_t n = question(q, 1, "www");
    for (unsigned i = 0; i < 200; i++) send_framed(s, q, n);
    assert_int_equal(b.nw, PIPELINE_MAX); /* the rest waits, in the stack */
    for (unsigned i = 0; i < PIPELINE_MAX; i++) answer(i, 4000);
    settle();
    assert_true(b.nw < 200);
    unsigned before = b.nw;
    for (unsigned i = PIPELINE_MAX; i < b.nw && i < before; i++)
        if (b.w[i]->live) answer(i, 0);
    for (int i = 0; i < 10; i++) pass(IDLE_US);
    for (unsigned i = 0; i < b.nw; i++)
        if (b.w[i]->live) answer(i, 0);
    pass(2 * IDLE_US);
    assert_int_equal(stats().conns, 0);
    hang_up(s);
}

static void connections_are_bounded(void **state)
{
    struct side *s[CONNS_PER_PEER + 1];
    for (unsigned i = 0; i <= CONNS_PER_PEER; i++) s[i] = dial();
    assert_true(s[CONNS_PER_PEER - 1]->open);
    assert_false(s[CONNS_PER_PEER]->open);
    assert_true(s[CONNS_PER_PEER]->closed);
    assert_int_equal(s[CONNS_PER_PEER]->err, TN_E_REFUSED);
    tn_port53_drop_all(b.p, b.now_us);
    settle();
    for (unsigned i = 0; i <= CONNS_PER_PEER; i++) {
        assert_true(s[i]->closed);
        hang_up(s[i]);
    }
    assert_int_equal(stats().conns, 0);
}

static void the_peer_resets_with_questions_under_way(void **state)
{
    uint8_t q[512];
    struct side *s = dial();
    send_framed(s, q, question(q, 1, "www"));
    send_framed(s, q, question(q, 2, "www"));
    hang_up(s);
    assert_int_equal(b.canceled, 2);
    assert_int_equal(stats().conns, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(by_udp, setup, teardown),
        cmocka_unit_test_setup_teardown(udp_is_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(by_tcp_pipelined, setup, teardown),
        cmocka_unit_test_setup_teardown(one_byte_at_a_time, setup, teardown),
        cmocka_unit_test_setup_teardown(refusals_by_tcp, setup, teardown),
        cmocka_unit_test_setup_teardown(a_client_that_does_not_read, setup, teardown),
        cmocka_unit_test_setup_teardown(connections_are_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(the_peer_resets_with_questions_under_way, setup, teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
