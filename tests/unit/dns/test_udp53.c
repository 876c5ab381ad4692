/* DNS over UDP as an upstream: datagrams, and the TCP beside it, are played by the test. */
#include "../failalloc.h"

#include "dns/dialerr.c"
#include "dns/queries.c"
#include "dns/udp53.c"

#undef malloc
#undef calloc
#undef realloc
#undef strdup
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

struct tn_dgram {
    void *arg;
    const struct tn_dgram_events *ev;
};

static struct net {
    enum tn_egress_mode mode;
    enum tn_egress_fail refuse;
    bool one_flow; /* as an association: no second one to the same destination */
    bool send_fails;
    unsigned opens, closes, sent;
    struct tn_dgram *last_to;
    uint16_t ports[64];
    uint8_t msg[512];
    size_t len;
    /* TCP */
    unsigned tcp_asks, tcp_canceled;
    tn_dns_answer_fn *tcp_answer;
    void *tcp_arg;
    int tcp_refuse;
} net;

enum tn_egress_mode tn_egress_mode(const struct tn_egress *e) { return net.mode; }
int tn_dgram_open(struct tn_egress *e, const struct tn_dgram_key *key, const struct tn_dgram_events *ev, void *arg,
                  struct tn_dgram **out)
{
    if (net.refuse) return net.refuse;
    if (net.one_flow && net.opens > net.closes) return TN_EGRESS_FAIL_LIMIT;
    assert_true(key->src.port >= 1024);
    net.ports[net.opens++ % 64] = key->src.port;
    *out = calloc(1, sizeof **out);
    **out = (struct tn_dgram){.arg = arg, .ev = ev};
    return 0;
}
void tn_dgram_send(struct tn_dgram *d, const void *bytes, size_t len)
{
    net.sent++;
    net.last_to = d;
    net.len = len;
    memcpy(net.msg, bytes, len);
    if (net.send_fails) d->ev->on_error(d->arg, TN_DGRAM_NO_HOST);
}
void tn_dgram_close(struct tn_dgram *d)
{
    net.closes++;
    free(d);
}

static int tcp_ask(struct tn_dns_upstream *u, uint64_t peer, const uint8_t *query, size_t len, uint64_t now_us, tn_dns_answer_fn *answer,
                   void *arg, void **handle)
{
    if (net.tcp_refuse) return net.tcp_refuse;
    net.tcp_asks++;
    net.tcp_answer = answer;
    net.tcp_arg = arg;
    *handle = &net;
    return 0;
}
static void tcp_cancel(struct tn_dns_upstream *u, void *handle) { net.tcp_canceled++; }
static void tcp_timeout(struct tn_dns_upstream *u, uint64_t now_us) {}
static uint64_t tcp_deadline(const struct tn_dns_upstream *u) { return TN_NEVER; }
static void tcp_reset(struct tn_dns_upstream *u) {}
static int tcp_health(const struct tn_dns_upstream *u, const char **text) { return TN_E_CLOSED; }
static void tcp_free(struct tn_dns_upstream *u) {}
static const struct tn_dns_upstream_ops tcp_ops = {tcp_ask, tcp_cancel, tcp_timeout, tcp_deadline, tcp_reset, tcp_health, tcp_free};
int tn_dns_tcp_new(const struct tn_dns_config *config, const struct tn_addrport *addr, struct tn_dns_upstream **out)
{
    static struct tn_dns_upstream tcp = {&tcp_ops};
    *out = &tcp;
    return 0;
}

#include "asker.h"

static int setup(void **state)
{
    net = (struct net){.mode = TN_EGRESS_HOST};
    return new_upstream(tn_dns_udp_new);
}

static int teardown(void **state)
{
    up->ops->free(up);
    assert_int_equal(net.opens, net.closes);
    return 0;
}

/* Answers what was sent last. */
static void answer(unsigned flags)
{
    uint8_t msg[512];
    memcpy(msg, net.msg, net.len);
    msg[2] = (uint8_t)(msg[2] | 0x80 | flags);
    net.last_to->ev->on_datagram(net.last_to->arg, msg, net.len);
}

static void pass(uint64_t us)
{
    now_us += us;
    if (up->ops->next_deadline(up) <= now_us) up->ops->timeout(up, now_us);
}

static void asked_and_answered(void **state)
{
    assert_int_equal(ask(1, NULL), 0);
    assert_int_equal(net.sent, 1);
    assert_int_equal(got[1].calls, 0);
    answer(0);
    assert_int_equal(got[1].calls, 1);
    assert_int_equal(got[1].err, 0);
    for (unsigned i = 2; i < 42; i++) { /* sockets change */
        assert_int_equal(ask(i, NULL), 0);
        answer(0);
        assert_int_equal(got[i].calls, 1);
    }
    assert_int_equal(net.opens, 3);
    assert_int_not_equal(net.ports[0], net.ports[1]);
    pass(FLOW_US);
    assert_int_equal(net.opens, net.closes); /* nothing is kept open for nothing */
    assert_int_equal(up->ops->next_deadline(up), TN_NEVER);
    assert_int_equal(up->ops->health(up, NULL), 0);
}

static void forged(void **state)
{
    uint8_t msg[512];
    assert_int_equal(ask(1, NULL), 0);
    memcpy(msg, net.msg, net.len);
    net.last_to->ev->on_datagram(net.last_to->arg, msg, net.len); /* no answer */
    msg[2] |= 0x80;
    msg[1] ^= 1;
    net.last_to->ev->on_datagram(net.last_to->arg, msg, net.len); /* another ID */
    msg[1] ^= 1;
    msg[13] ^= 1;
    net.last_to->ev->on_datagram(net.last_to->arg, msg, net.len); /* another question */
    net.last_to->ev->on_datagram(net.last_to->arg, msg, 11);
    assert_int_equal(got[1].calls, 0);
    answer(0);
    assert_int_equal(got[1].calls, 1);
    assert_int_equal(ask(2, NULL), 0);
    memcpy(msg, net.msg, 2);
    memcpy(msg + 2, "\x80\4\0\0\0\0\0\0\0\0", 10);
    net.last_to->ev->on_datagram(net.last_to->arg, msg, 12); /* NOTIMP, and no more than a header: not forged */
    assert_int_equal(got[2].calls, 1);
    assert_int_equal(got[2].bytes[3] & 15, 4);
}

static void lost_and_sent_again(void **state)
{
    void *handle;
    assert_int_equal(ask(1, NULL), 0);
    uint16_t id = tn_get_be16(net.msg);
    pass(RESEND_US);
    assert_int_equal(net.sent, 2);
    assert_int_not_equal(tn_get_be16(net.msg), id);
    for (int i = 0; i < 3; i++) pass(RESEND_US);
    assert_int_equal(got[1].calls, 0);
    pass(RESEND_US);
    assert_int_equal(got[1].err, TN_E_TIMEDOUT);
    assert_int_equal(net.sent, 5);
    assert_int_equal(up->ops->health(up, NULL), TN_E_TIMEDOUT);
    assert_int_equal(ask(2, &handle), 0);
    up->ops->cancel(up, handle);
    assert_int_equal(got[2].calls, 0);
}

static void too_long_for_a_datagram(void **state)
{
    void *handle;
    assert_int_equal(ask(1, NULL), 0);
    answer(2);
    assert_int_equal(got[1].calls, 0);
    assert_int_equal(net.tcp_asks, 1);
    net.tcp_answer(net.tcp_arg, 0, (const uint8_t *)"0123456789ab", 12);
    assert_int_equal(got[1].calls, 1);
    assert_int_equal(got[1].len, 12);
    net.tcp_refuse = TN_E_LIMIT; /* then the cut answer is better than none */
    assert_int_equal(ask(2, NULL), 0);
    answer(2);
    assert_int_equal(got[2].calls, 1);
    assert_int_equal(got[2].err, 0);
    net.tcp_refuse = 0;
    assert_int_equal(ask(3, &handle), 0);
    answer(2);
    up->ops->cancel(up, handle);
    assert_int_equal(net.tcp_canceled, 1);
    assert_int_equal(ask(4, NULL), 0);
    answer(2);
    pass(TN_DNS_QUERY_US);
    assert_int_equal(got[4].err, TN_E_TIMEDOUT);
    assert_int_equal(net.tcp_canceled, 2);
}

static void no_way_for_udp(void **state)
{
    net.refuse = TN_EGRESS_FAIL_OFF; /* a proxy, without UDP */
    assert_int_equal(ask(1, NULL), 0);
    assert_int_equal(net.tcp_asks, 1);
    net.tcp_answer(net.tcp_arg, TN_E_CLOSED, NULL, 0);
    assert_int_equal(got[1].err, TN_E_CLOSED);
    assert_int_equal(up->ops->health(up, NULL), TN_E_CLOSED);
    net.tcp_refuse = TN_E_POLICY;
    assert_int_equal(ask(2, NULL), TN_E_POLICY);
    net.mode = TN_EGRESS_OFF;
    assert_int_equal(ask(3, NULL), TN_E_POLICY);
    net.mode = TN_EGRESS_PROXY; /* with one association */
    net.refuse = 0;
    net.one_flow = true;
    for (unsigned i = 0; i < 50; i++) {
        assert_int_equal(ask(i, NULL), 0);
        answer(0);
        assert_int_equal(got[i].err, 0);
    }
    assert_int_equal(net.opens, 1);
}

static void flows_break(void **state)
{
    assert_int_equal(ask(1, NULL), 0);
    net.last_to->ev->on_error(net.last_to->arg, TN_DGRAM_NO_PORT);
    assert_int_equal(got[1].calls, 0); /* said from the timeout */
    assert_int_equal(up->ops->next_deadline(up), 0);
    pass(0);
    assert_int_equal(got[1].err, TN_E_REFUSED);
    net.send_fails = true;
    assert_int_equal(ask(2, NULL), 0);
    assert_int_equal(got[2].calls, 0);
    pass(0);
    assert_int_equal(got[2].err, TN_E_HOSTUNREACH);
    net.send_fails = false;
    /* Another policy: asked again, under that. */
    assert_int_equal(ask(3, NULL), 0);
    struct tn_dgram *gone = net.last_to;
    gone->ev->on_end(gone->arg, TN_EGRESS_FAIL_CANCELED);
    tn_dgram_close(gone);
    unsigned sent = net.sent;
    pass(0);
    assert_int_equal(net.sent, sent + 1);
    answer(0);
    assert_int_equal(got[3].err, 0);
    assert_int_equal(ask(4, NULL), 0);
    gone = net.last_to;
    up->ops->reset(up);
    assert_int_equal(ask(5, NULL), 0);
    assert_ptr_not_equal(gone, net.last_to);
}

static void whole_life(void *arg)
{
    if (setup(NULL) != 0) return;
    int err = ask(1, NULL);
    if (!err && net.sent) answer(0);
    pass(TN_DNS_QUERY_US);
    assert_int_equal(got[1].calls, err == 0);
    teardown(NULL);
}

static void out_of_memory(void **state)
{
    for (long n = 0; failalloc_run(n, whole_life, NULL); n++) {}
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(asked_and_answered, setup, teardown),
        cmocka_unit_test_setup_teardown(forged, setup, teardown),
        cmocka_unit_test_setup_teardown(lost_and_sent_again, setup, teardown),
        cmocka_unit_test_setup_teardown(too_long_for_a_datagram, setup, teardown),
        cmocka_unit_test_setup_teardown(no_way_for_udp, setup, teardown),
        cmocka_unit_test_setup_teardown(flows_break, setup, teardown),
        cmocka_unit_test(out_of_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
