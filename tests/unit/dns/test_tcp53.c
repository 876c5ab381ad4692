/* DNS over TCP as an upstream, on an egress that the test plays: bytes go and come when it says so. */
#include "../failalloc.h"

#include "dns/dialerr.c"
#include "dns/queries.c"
#include "dns/tcp53.c"

#undef malloc
#undef calloc
#undef realloc
#undef strdup
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include "asker.h"

struct tn_egress_conn {
    const struct tn_egress_events *ev;
    void *arg;
    int want;
};

static struct net {
    struct tn_egress_conn *conn;
    enum tn_egress_mode mode;
    enum tn_egress_fail refuse;
    unsigned dials, closes;
    uint8_t up[512 * 1024], down[200000];
    size_t up_len, down_len, down_at, room;
    long end; /* what reading gives behind down: 0 for the end of the stream */
} net;

enum tn_egress_mode tn_egress_mode(const struct tn_egress *e) { return net.mode; }
const char *tn_egress_fail_text(enum tn_egress_fail f) { return "refused by the test"; }
int tn_egress_dial(struct tn_egress *e, const struct tn_egress_target *to, const struct tn_egress_events *ev, void *arg,
                   struct tn_egress_conn **out)
{
    assert_int_equal(to->purpose, TN_EGRESS_RESOLVER);
    assert_int_equal(to->dst.port, 53);
    if (net.mode == TN_EGRESS_OFF) return TN_EGRESS_FAIL_OFF;
    if (net.refuse) return net.refuse;
    net.dials++;
    net.conn = calloc(1, sizeof *net.conn);
    *net.conn = (struct tn_egress_conn){.ev = ev, .arg = arg};
    net.up_len = net.down_len = net.down_at = 0;
    net.end = TN_E_AGAIN;
    *out = net.conn;
    return 0;
}
void tn_egress_want(struct tn_egress_conn *c, int want) { c->want = want; }
void tn_egress_close(struct tn_egress_conn *c, bool reset)
{
    assert_ptr_equal(c, net.conn);
    net.closes++;
    net.conn = NULL;
    free(c);
}
long tn_egress_readv(struct tn_egress_conn *c, const struct iovec *iov, int n)
{
    size_t len = net.down_len - net.down_at;
    if (len == 0) return net.end;
    if (len > iov->iov_len) len = iov->iov_len;
    memcpy(iov->iov_base, net.down + net.down_at, len);
    net.down_at += len;
    return (long)len;
}
long tn_egress_writev(struct tn_egress_conn *c, const struct iovec *iov, int n)
{
    size_t len = iov->iov_len < net.room ? iov->iov_len : net.room;
    if (len == 0) return TN_E_AGAIN;
    assert_true(net.up_len + len <= sizeof net.up);
    memcpy(net.up + net.up_len, iov->iov_base, len);
    net.up_len += len;
    return (long)len;
}

/* ---- the bench ---- */

static int setup(void **state)
{
    net = (struct net){.mode = TN_EGRESS_PROXY, .room = SIZE_MAX, .end = TN_E_AGAIN};
    return new_upstream(tn_dns_tcp_new);
}

static int teardown(void **state)
{
    up->ops->free(up);
    assert_null(net.conn);
    return 0;
}

static void opened(void) { net.conn->ev->on_open(net.conn->arg, net.conn); }
static void readable(void) { net.conn->ev->on_readable(net.conn->arg, net.conn); }

static void say(const uint8_t *msg, size_t len)
{
    tn_put_be16(net.down + net.down_len, (uint16_t)len);
    memcpy(net.down + net.down_len + 2, msg, len);
    net.down_len += 2 + len;
}

/* Answers the i-th question that came up this connection. */
static void answer(unsigned i)
{
    uint8_t msg[512];
    const uint8_t *at = net.up;
    for (; i > 0; i--) at += 2 + tn_get_be16(at);
    size_t len = tn_get_be16(at);
    assert_true(at + 2 + len <= net.up + net.up_len);
    memcpy(msg, at + 2, len);
    msg[2] |= 0x80;
    say(msg, len);
}

static void pipelined_and_out_of_order(void **state)
{
    for (unsigned i = 0; i < 100; i++) assert_int_equal(ask(i, NULL), 0);
    assert_int_equal(net.dials, 1);
    opened();
    assert_int_equal(net.up_len, 100 * 31);
    for (unsigned i = 100; i > 0; i--) answer(i - 1);
    readable();
    for (unsigned i = 0; i < 100; i++) {
        uint8_t q[64];
        assert_int_equal(got[i].calls, 1);
        assert_int_equal(got[i].err, 0);
        assert_memory_equal(got[i].bytes + 12, q + 12, 0 * question(i, q));
        assert_memory_equal(got[i].bytes + 12, q + 12, 17);
    }
    assert_int_equal(ask(100, NULL), 0); /* the same connection */
    assert_int_equal(net.dials, 1);
    answer(100);
    size_t whole = net.down_len;
    for (net.down_len = net.down_at + 1; net.down_len < whole; net.down_len++) readable(); /* byte by byte */
    assert_int_equal(got[100].calls, 0);
    readable();
    assert_int_equal(got[100].calls, 1);
    now_us += IDLE_US;
    assert_true(up->ops->next_deadline(up) <= now_us);
    up->ops->timeout(up, now_us);
    assert_null(net.conn);
    assert_int_equal(up->ops->next_deadline(up), TN_NEVER);
}

static void answers_to_nobody(void **state)
{
    uint8_t q[64] = {0};
    assert_int_equal(ask(1, NULL), 0);
    opened();
    memcpy(q, net.up + 2, 29);
    say(q, 29);          /* no answer */
    q[2] |= 0x80;
    q[0] ^= 0x55;
    say(q, 29);          /* another ID */
    q[0] ^= 0x55;
    q[13] = 'x';
    say(q, 29);          /* another question */
    say(q, 0);
    say(q, 11);
    readable();
    assert_int_equal(got[1].calls, 0);
    answer(0);
    readable();
    assert_int_equal(got[1].calls, 1);
    assert_int_equal(got[1].err, 0);
}

static void no_more_than_a_header(void **state)
{
    uint8_t head[12], q[64];
    assert_int_equal(ask(1, NULL), 0);
    opened();
    memcpy(head, net.up + 2, 2);
    memcpy(head + 2, "\x80\3\0\0\0\0\0\0\0\0", 10);
    say(head, 12); /* NXDOMAIN of nothing */
    head[3] = 1;
    head[11] = 1;
    say(head, 12); /* a record that is not there */
    readable();
    assert_int_equal(got[1].calls, 0);
    head[11] = 0;
    say(head, 12); /* FORMERR: it could not read the question */
    readable();
    assert_int_equal(got[1].calls, 1);
    assert_int_equal(got[1].err, 0);
    assert_int_equal(got[1].len, question(1, q));
    assert_int_equal(got[1].bytes[2] & 0x80, 0x80);
    assert_int_equal(got[1].bytes[3] & 15, 1);
    assert_memory_equal(got[1].bytes + 4, q + 4, got[1].len - 4);
}

static void closed_by_the_server(void **state)
{
    assert_int_equal(ask(1, NULL), 0);
    assert_int_equal(ask(2, NULL), 0);
    opened();
    answer(0);
    net.end = 0;         /* one answer, then the end: what is left is asked again */
    readable();
    assert_int_equal(got[1].calls, 1);
    assert_int_equal(net.dials, 2);
    opened();
    assert_int_equal(net.up_len, 31);
    net.end = TN_E_RESET;
    readable();
    assert_int_equal(net.dials, 3);
    opened();
    net.end = TN_E_RESET;
    readable();
    assert_int_equal(got[2].calls, 1); /* but not for ever */
    assert_int_equal(got[2].err, TN_E_RESET);
    assert_int_equal(net.dials, 3);
    assert_int_equal(up->ops->health(up, NULL), TN_E_RESET);
}

static void dials_fail(void **state)
{
    const char *text;
    net.refuse = TN_EGRESS_FAIL_GUARD;
    assert_int_equal(ask(1, NULL), TN_E_POLICY);
    assert_int_equal(up->ops->health(up, &text), TN_E_POLICY);
    net.refuse = 0;
    assert_int_equal(ask(1, NULL), 0);
    struct tn_egress_conn *c = net.conn;
    net.conn = NULL;
    c->ev->on_fail(c->arg, TN_EGRESS_FAIL_PROXY_AUTH);
    free(c);
    assert_int_equal(got[1].err, TN_E_AUTH);
    net.mode = TN_EGRESS_OFF;
    assert_int_equal(ask(2, NULL), TN_E_POLICY);
    net.mode = TN_EGRESS_PROXY;
    assert_int_equal(ask(3, NULL), 0);
    opened();
    net.mode = TN_EGRESS_OFF; /* what was dialed under another mode is given up */
    assert_int_equal(ask(4, NULL), TN_E_POLICY);
    assert_null(net.conn);
    up->ops->timeout(up, now_us);
    net.mode = TN_EGRESS_HOST;
    assert_int_equal(ask(5, NULL), 0);
    opened();
    answer(0);
    readable();
    assert_int_equal(up->ops->health(up, NULL), 0);
}

static void silence(void **state)
{
    void *handle;
    assert_int_equal(ask(1, NULL), 0);
    assert_int_equal(ask(2, &handle), 0);
    opened();
    up->ops->cancel(up, handle);
    now_us += TN_DNS_QUERY_US;
    assert_int_equal(up->ops->next_deadline(up), now_us);
    up->ops->timeout(up, now_us);
    assert_int_equal(got[1].err, TN_E_TIMEDOUT);
    assert_int_equal(got[2].calls, 0);
    assert_null(net.conn); /* the path is dead: the next question takes another */
    assert_int_equal(ask(3, NULL), 0);
    assert_int_equal(net.dials, 2);
    net.room = 0;
    opened();
    assert_int_equal(net.conn->want, TN_EGRESS_WANT_READ | TN_EGRESS_WANT_WRITE);
    net.room = SIZE_MAX;
    net.conn->ev->on_writable(net.conn->arg, net.conn);
    assert_int_equal(net.up_len, 31);
    up->ops->reset(up);
    assert_int_equal(net.dials, 3); /* and asked again at once */
}

static void limits(void **state)
{
    for (unsigned i = 0; i < TN_DNS_INFLIGHT_MAX; i++) assert_int_equal(ask(i % 300, NULL), 0);
    assert_int_equal(ask(7, NULL), TN_E_LIMIT);
    opened();
    net.end = TN_E_IO;
    readable(); /* over and over: answered in the end */
    for (int i = 0; i < 5 && net.conn; i++) {
        opened();
        net.end = TN_E_IO;
        readable();
    }
    assert_int_equal(got[7].err, TN_E_IO);
}

static void whole_life(void *arg)
{
    memset(got, 0, sizeof got);
    net.conn = NULL;
    if (setup(NULL) != 0) return;
    int err = ask(1, NULL);
    if (net.conn) opened();
    if (net.conn && net.up_len) answer(0);
    if (net.conn) readable();
    up->ops->timeout(up, now_us + TN_DNS_QUERY_US);
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
        cmocka_unit_test_setup_teardown(pipelined_and_out_of_order, setup, teardown),
        cmocka_unit_test_setup_teardown(answers_to_nobody, setup, teardown),
        cmocka_unit_test_setup_teardown(no_more_than_a_header, setup, teardown),
        cmocka_unit_test_setup_teardown(closed_by_the_server, setup, teardown),
        cmocka_unit_test_setup_teardown(dials_fail, setup, teardown),
        cmocka_unit_test_setup_teardown(silence, setup, teardown),
        cmocka_unit_test_setup_teardown(limits, setup, teardown),
        cmocka_unit_test(out_of_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
