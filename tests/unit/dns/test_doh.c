/* The DoH client against a real TLS and HTTP/2 server in memory. The egress is played here: connections open and move
 * bytes when the test says so. */
#include "../failalloc.h"

#include "dns/doh.c"
#include "dns/doh_conn.c"
#include "dns/doh_h2.c"
#include "dns/doh_line.c"
#include "dns/dialerr.c"
#include "dns/doh_url.c"
#include "dns/message.c"

#undef malloc /* the test's own allocations don't fail */
#undef calloc
#undef realloc
#undef strdup
#include "doh_server.h"
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>
#include <cmocka.h>

/* ---- the egress ---- */

struct tn_egress_conn {
    struct tn_egress_events ev;
    void *arg;
    struct doh_server *server;
    struct tn_buf up, down;
    int want;
    bool opened, closed, eof;
};

static struct {
    struct tn_egress_conn *conn; /* the latest */
    struct doh_server *old[8];   /* of connections gone, for the looks at the end */
    struct doh_behaviour b;
    enum tn_egress_mode mode;
    enum tn_egress_fail refuse, fail; /* at once, later */
    unsigned dials, closes;
    bool stuck, no_h2, wrong_address;
    size_t up_cap, down_cap;     /* bytes per write and read */
} net;

enum tn_egress_mode tn_egress_mode(const struct tn_egress *e) { return net.mode; }
const char *tn_egress_fail_text(enum tn_egress_fail f) { return "refused by the test"; }

int tn_egress_dial(struct tn_egress *e, const struct tn_egress_target *to, const struct tn_egress_events *ev, void *arg,
                   struct tn_egress_conn **out)
{
    assert_int_equal(to->purpose, TN_EGRESS_RESOLVER);
    net.dials++;
    if (net.mode == TN_EGRESS_OFF) return TN_EGRESS_FAIL_OFF;
    if (net.refuse) return net.refuse;
    struct tn_egress_conn *c = calloc(1, sizeof *c);
    assert_non_null(c);
    c->ev = *ev;
    c->arg = arg;
    tn_buf_init(&c->up, 1 << 20);
    tn_buf_init(&c->down, 1 << 20);
    c->server = doh_server_new(&net.b, !net.no_h2);
    net.conn = c;
    *out = c;
    return 0;
}

void tn_egress_want(struct tn_egress_conn *c, int events) { c->want = events; }

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

long tn_egress_readv(struct tn_egress_conn *c, const struct iovec *iov, int n)
{
    assert_true(c->opened && n == 1);
    size_t len = least(least(tn_buf_len(&c->down), iov->iov_len), net.down_cap);
    if (len == 0) return c->eof && tn_buf_len(&c->down) == 0 ? 0 : TN_E_AGAIN;
    memcpy(iov->iov_base, tn_buf_data(&c->down), len);
    tn_buf_consume(&c->down, len);
    return (long)len;
}

long tn_egress_writev(struct tn_egress_conn *c, const struct iovec *iov, int n)
{
    assert_true(c->opened && n == 1);
    size_t room = net.up_cap > tn_buf_len(&c->up) ? net.up_cap - tn_buf_len(&c->up) : 0;
    size_t len = least(iov->iov_len, room);
    if (len == 0) return TN_E_AGAIN;
    assert_int_equal(tn_buf_append(&c->up, iov->iov_base, len), 0);
    return (long)len;
}

static void drop_conn(struct tn_egress_conn *c)
{
    static const size_t slots = sizeof net.old / sizeof *net.old;
    doh_server_free(net.old[net.closes % slots]);
    net.old[net.closes++ % slots] = c->server;
    doh_server_input(c->server, tn_buf_data(&c->up), tn_buf_len(&c->up));
    tn_buf_fini(&c->up);
    tn_buf_fini(&c->down);
    if (net.conn == c) net.conn = NULL;
    free(c);
}

void tn_egress_close(struct tn_egress_conn *c, bool reset) { drop_conn(c); }

/* Moves bytes both ways until nothing more happens. */
static void settle(void)
{
    for (int i = 0; i < 20000 && net.conn && !net.stuck; i++) {
        struct tn_egress_conn *c = net.conn;
        uint8_t bytes[16384];
        bool moved = false;
        if (!c->opened) {
            if (net.fail) {
                struct tn_egress_events ev = c->ev;
                void *arg = c->arg;
                drop_conn(c);
                ev.on_fail(arg, net.fail);
                continue;
            }
            c->opened = moved = true;
            c->ev.on_open(c->arg, c);
            if (net.conn != c) continue;
        }
        if (tn_buf_len(&c->up)) {
            doh_server_input(c->server, tn_buf_data(&c->up), tn_buf_len(&c->up));
            tn_buf_consume(&c->up, tn_buf_len(&c->up));
            moved = true;
        }
        for (size_t n; (n = doh_server_output(c->server, bytes, sizeof bytes)) > 0;)
            tn_buf_append(&c->down, bytes, n);
        if ((tn_buf_len(&c->down) || c->eof) && c->want & TN_EGRESS_WANT_READ) {
            c->ev.on_readable(c->arg, c);
            moved = true;
        }
        if (net.conn == c && c->want & TN_EGRESS_WANT_WRITE && tn_buf_len(&c->up) < net.up_cap) {
            c->ev.on_writable(c->arg, c);
            moved = true;
        }
        if (!moved) return;
    }
}

/* ---- the client ---- */

static struct tn_tls_ctx *tls;
static char cert_path[64];
enum { SECOND = 1000000 };

static struct tn_doh *client(void)
{
    struct tn_doh *d = NULL;
    const char *url = net.wrong_address ? "https://192.0.2.54/dns-query" : "https://192.0.2.53/dns-query";
    struct tn_doh_config config = {.url = url, .egress = (struct tn_egress *)&net, .tls = tls};
    assert_int_equal(tn_doh_new(&config, &d), 0);
    return d;
}

static int reset_world(void **state)
{
    memset(&net, 0, sizeof net);
    net.mode = TN_EGRESS_PROXY;
    net.b.status = 200;
    net.up_cap = net.down_cap = 1 << 20;
    return 0;
}
static int end_world(void **state)
{
    const char *complaint = NULL;
    for (size_t i = 0; i < sizeof net.old / sizeof *net.old; i++) {
        if (net.old[i] && doh_server_complaint(net.old[i])) complaint = doh_server_complaint(net.old[i]);
        doh_server_free(net.old[i]);
    }
    if (complaint) fail_msg("the server complains: %s", complaint);
    assert_null(net.conn);
    return 0;
}

struct ask {
    struct tn_doh_query *q;
    unsigned calls;
    int err;
    size_t len;
    uint8_t bytes[64];
    struct tn_doh *again; /* ask once more from the callback */
};

static size_t make(uint8_t out[64], uint16_t id, unsigned n)
{
    static const uint8_t head[] = {0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 5};
    memcpy(out, head, sizeof head);
    out[0] = (uint8_t)(id >> 8);
    out[1] = (uint8_t)id;
    char label[16];
    snprintf(label, sizeof label, "%05u", n % 100000);
    memcpy(out + 13, label, 5);
    memcpy(out + 18, "\4test\0\0\1\0\1", 10);
    return 28;
}

static void on_ask(void *arg, int err, const uint8_t *bytes, size_t len);

static int ask_for(struct tn_doh *d, uint64_t peer, struct ask *a, uint16_t id, unsigned n, uint64_t now)
{
    uint8_t query[64];
    a->calls = 0;
    return tn_doh_ask(d, peer, query, make(query, id, n), now, on_ask, a, &a->q);
}

static int ask(struct tn_doh *d, struct ask *a, uint16_t id, unsigned n, uint64_t now) { return ask_for(d, 1, a, id, n, now); }

static void on_ask(void *arg, int err, const uint8_t *bytes, size_t len)
{
    struct ask *a = arg;
    struct tn_doh *d = a->again;
    a->calls++;
    a->err = err;
    a->len = len;
    if (len) memcpy(a->bytes, bytes, least(len, sizeof a->bytes));
    a->again = NULL;
    if (d) assert_int_equal(ask(d, a, 7, 7, 0), 0);
}

static void answered(const struct ask *a, uint16_t id, unsigned n)
{
    uint8_t want[64];
    size_t len = make(want, id, n);
    want[2] |= 0x80;
    assert_int_equal(a->calls, 1);
    assert_int_equal(a->err, 0);
    assert_true(a->len >= len);
    assert_memory_equal(a->bytes, want, len);
}

static void asks_and_keeps_the_connection(void **state)
{
    struct tn_doh *d = client();
    struct ask a = {0}, b = {0};
    const char *text;
    assert_true(tn_doh_next_deadline(d) == TN_NEVER);
    assert_int_equal(ask(d, &a, 0x1234, 1, 0), 0);
    assert_int_equal(a.calls, 0);
    settle();
    answered(&a, 0x1234, 1);
    assert_int_equal(ask(d, &b, 0xffff, 2, 10 * SECOND), 0);
    settle();
    answered(&b, 0xffff, 2);
    assert_int_equal(net.dials, 1);
    assert_int_equal(tn_doh_health(d, &text), 0);
    assert_true(tn_doh_next_deadline(d) == 10 * SECOND + IDLE_US);
    tn_doh_timeout(d, 10 * SECOND + IDLE_US - 1);
    assert_non_null(net.conn);
    tn_doh_timeout(d, 10 * SECOND + IDLE_US);
    assert_null(net.conn);
    assert_true(doh_server_said_goodbye(net.old[0]));
    assert_true(tn_doh_next_deadline(d) == TN_NEVER);
    assert_int_equal(ask(d, &a, 3, 3, 100 * SECOND), 0);
    settle();
    answered(&a, 3, 3);
    assert_int_equal(net.dials, 2);
    tn_doh_free(d);
    assert_null(net.conn);
}

static void many_at_once_in_any_order(void **state)
{
    enum { N = TN_DOH_INFLIGHT_MAX };
    static struct ask a[N + 1];
    struct tn_doh *d = client();
    net.b.status = 0;
    for (unsigned i = 0; i < N; i++) assert_int_equal(ask(d, &a[i], (uint16_t)i, i, 0), 0);
    assert_int_equal(ask(d, &a[N], 1, 1, 0), TN_E_LIMIT);
    settle();
    assert_int_equal(doh_server_requests(net.conn->server), 66); /* of the server's limit of 100 streams */
    net.b.status = 200;
    net.up_cap = 100;
    net.down_cap = 7;
    for (int i = 0; i < 80; i++) {
        doh_server_answer_held(net.conn->server);
        settle();
    }
    for (unsigned i = 0; i < N; i++) answered(&a[i], (uint16_t)i, i);
    assert_int_equal(d->count, 0);
    assert_int_equal(d->body_bytes, 0);
    assert_int_equal(net.dials, 1);
    tn_doh_free(d);
}

enum { MANY = 400, GREEDY = 8 };

static unsigned told(const struct ask *a, size_t n)
{
    unsigned calls = 0;
    for (size_t i = 0; i < n; i++) calls += a[i].calls;
    return calls;
}

/* One peer's, or several peers', names never answer: another's are answered at once, by one stream after the other. */
static void slow_names_delay_nobody_else(void **state)
{
    static struct ask slow[GREEDY][MANY];
    struct ask a[20] = {0};
    struct tn_doh *d = client();
    for (unsigned p = 0; p < GREEDY; p++) {
        memset(slow[p], 0, sizeof slow[p]);
        net.b.status = 0;
        for (unsigned i = 0; i < MANY; i++) assert_int_equal(ask_for(d, 1 + p, &slow[p][i], (uint16_t)i, i, 0), 0);
        settle();
        assert_int_equal(told(slow[p], MANY), 0);
        net.b.status = 200;
        for (unsigned i = 0; i < 20; i++) {
            assert_int_equal(ask_for(d, 99, &a[i], (uint16_t)i, 500 + i, 0), 0);
            settle();
            if (a[i].calls != 1) fail_msg("peer %u question %u: %zu streams of %zu", p, i, d->streams.count, tn_doh_h2_streams(d));
            answered(&a[i], (uint16_t)i, 500 + i);
        }
    }
    for (unsigned i = 0; i < 20; i++) assert_int_equal(ask_for(d, 99, &a[i], (uint16_t)i, 600 + i, 0), 0); /* all at once */
    settle();
    for (unsigned i = 0; i < 20; i++) answered(&a[i], (uint16_t)i, 600 + i);
    assert_int_equal(told(&slow[0][0], GREEDY * MANY), 0);
    /* One after the other those peers have their turns, in the order of their questions. */
    for (int i = 0; i < 200 && d->count; i++) {
        doh_server_answer_held(net.conn->server);
        settle();
        for (unsigned p = 0; p < GREEDY; p++)
            for (unsigned k = 1; k < MANY; k++) assert_true(slow[p][k - 1].calls >= slow[p][k].calls);
    }
    for (unsigned p = 0; p < GREEDY; p++)
        for (unsigned i = 0; i < MANY; i++) answered(&slow[p][i], (uint16_t)i, i);
    assert_int_equal(d->lines.count, 0);
    assert_int_equal(net.dials, 1);
    tn_doh_free(d);
}

/* The line does not outlive its questions, whatever ends them, and keeps its order when the connection is another. */
static void lines_come_and_go(void **state)
{
    static struct ask a[200];
    struct tn_doh *d = client();
    net.b.status = 0;
    for (unsigned i = 0; i < 200; i++) assert_int_equal(ask_for(d, 1 + i / 100, &a[i], (uint16_t)i, i, 0), 0);
    settle();
    assert_int_equal(d->lines.count, 2);
    tn_doh_reset(d);
    settle();
    assert_int_equal(net.dials, 2);
    const struct tn_doh_query *q1 = a[99].q, *q2 = a[199].q;
    assert_true(a[0].q->stream && a[100].q->stream && !q1->stream && !q2->stream);
    for (unsigned i = 1; i < 200; i++)
        if (i != 100) assert_true(!a[i].q->stream || a[i - 1].q->stream);
    for (unsigned i = 0; i < 100; i++) tn_doh_cancel(a[i].q);
    assert_int_equal(d->lines.count, 1);
    tn_doh_timeout(d, QUERY_US - PROBE_US); /* a ping, which is answered */
    settle();
    tn_doh_timeout(d, QUERY_US);
    assert_int_equal(d->lines.count, 0);
    assert_int_equal(told(a, 200), 100);
    assert_int_equal(a[100].err, TN_E_TIMEDOUT);
    assert_int_equal(a[199].err, TN_E_LIMIT); /* it was never asked */
    assert_int_equal(net.dials, 2);
    tn_doh_free(d);
}

/* A connection of a peer's own is its own. */
static void alone_on_its_connection(void **state)
{
    static struct ask a[200];
    struct tn_doh *d = client();
    d->config.peer = 5;
    net.b.status = 0;
    for (unsigned i = 0; i < 200; i++) assert_int_equal(ask_for(d, 5, &a[i], (uint16_t)i, i, 0), 0);
    settle();
    assert_int_equal(doh_server_requests(net.conn->server), 100);
    tn_doh_free(d);
    assert_int_equal(told(a, 200), 0);
}

static void bad_answers_are_errors(void **state)
{
    static const struct { struct doh_behaviour b; int err; } cases[] = {
        {{.status = 503}, TN_E_HTTP},
        {{.status = 404}, TN_E_HTTP},
        {{.status = 204}, TN_E_RESET}, /* and a body: broken HTTP */
        {{.status = 200, .type = "text/html"}, TN_E_PROTO},
        {{.status = 200, .type = "application/dns-messages"}, TN_E_PROTO},
        {{.status = 200, .other_question = true}, TN_E_MALFORMED},
        {{.status = 200, .not_dns = true}, TN_E_MALFORMED},
        {{.status = 200, .body_len = 11}, TN_E_MALFORMED},
        {{.status = 200, .body_len = 65536}, TN_E_TOOBIG},
        {{.status = 200, .reset = true}, TN_E_RESET},
    };
    struct tn_doh *d = client();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct ask a = {0};
        net.b = cases[i].b;
        assert_int_equal(ask(d, &a, 1, 1, 0), 0);
        settle();
        if (a.calls != 1 || a.err != cases[i].err) fail_msg("case %zu: %u calls, %s", i, a.calls, tn_err_name(a.err));
    }
    struct ask a = {0};
    net.b = (struct doh_behaviour){.status = 200, .body_len = 65535, .type = "Application/DNS-Message; x=y"};
    assert_int_equal(ask(d, &a, 1, 1, 0), 0);
    settle();
    answered(&a, 1, 1);
    assert_int_equal(a.len, 65535);
    assert_int_equal(net.dials, 1);
    uint8_t bad[3] = {0};
    assert_int_equal(tn_doh_ask(d, 0, bad, sizeof bad, 0, on_ask, &a, &a.q), TN_E_MALFORMED);
    tn_doh_free(d);
}

static void queries_time_out(void **state)
{
    struct tn_doh *d = client();
    struct ask a = {0}, b = {0};
    net.b.status = 0;
    assert_int_equal(ask(d, &a, 1, 1, 0), 0);
    settle();
    assert_int_equal(ask(d, &b, 2, 2, 1 * SECOND), 0);
    settle();
    assert_true(tn_doh_next_deadline(d) == QUERY_US - PROBE_US);
    tn_doh_timeout(d, QUERY_US - PROBE_US);
    settle();
    assert_true(tn_doh_next_deadline(d) == QUERY_US);
    tn_doh_timeout(d, QUERY_US - 1);
    assert_int_equal(a.calls, 0);
    tn_doh_timeout(d, QUERY_US);
    assert_int_equal(a.calls, 1);
    assert_int_equal(a.err, TN_E_TIMEDOUT);
    assert_int_equal(b.calls, 0);
    settle();
    assert_non_null(net.conn); /* the ping was answered: the upstream lives */
    assert_int_equal(doh_server_canceled(net.conn->server), 1);
    net.b.status = 200;
    doh_server_answer_held(net.conn->server);
    settle();
    answered(&b, 2, 2);
    assert_int_equal(net.dials, 1);
    tn_doh_free(d);
}

static void a_dead_path_is_replaced(void **state)
{
    struct tn_doh *d = client();
    struct ask a = {0}, b = {0}, c = {0};
    assert_int_equal(ask(d, &a, 1, 1, 0), 0);
    settle();
    net.stuck = true; /* bytes vanish from now on */
    assert_int_equal(ask(d, &b, 2, 2, 10 * SECOND), 0);
    assert_int_equal(ask(d, &c, 3, 3, 12 * SECOND), 0);
    tn_doh_timeout(d, 15 * SECOND);
    assert_int_equal(b.err, TN_E_TIMEDOUT);
    assert_int_equal(c.calls, 0);
    assert_int_equal(net.dials, 2);
    net.stuck = false;
    settle();
    answered(&c, 3, 3);
    tn_doh_free(d);
}

static void a_lost_connection_is_retried_once(void **state)
{
    struct tn_doh *d = client();
    struct ask a = {0}, b = {0};
    assert_int_equal(ask(d, &a, 1, 1, 0), 0);
    settle();
    net.conn->eof = true; /* idle close by the upstream: nobody minds */
    settle();
    assert_null(net.conn);
    assert_int_equal(tn_doh_health(d, NULL), 0);
    assert_int_equal(ask(d, &a, 2, 2, 0), 0);
    settle();
    answered(&a, 2, 2);
    net.b.status = 0;
    assert_int_equal(ask(d, &a, 3, 3, 0), 0);
    settle();
    net.conn->eof = true; /* with a query on it: asked again */
    net.b.status = 200;
    settle();
    answered(&a, 3, 3);
    net.b.goaway = true;
    assert_int_equal(ask(d, &b, 4, 4, 0), 0);
    settle();
    assert_int_equal(b.calls, 1); /* twice is enough */
    assert_int_equal(b.err, TN_E_RESET);
    net.b.goaway = false;
    net.b.refuse = true;
    assert_int_equal(ask(d, &b, 5, 5, 0), 0);
    settle();
    assert_int_equal(b.calls, 1);
    assert_int_equal(b.err, TN_E_RESET);
    tn_doh_free(d);
}

static void failing_dials(void **state)
{
    struct tn_doh *d = client();
    struct ask a = {0}, b = {0};
    const char *text;
    net.refuse = TN_EGRESS_FAIL_LIMIT;
    assert_int_equal(ask(d, &a, 1, 1, 0), TN_E_LIMIT);
    assert_int_equal(a.calls, 0);
    assert_int_equal(tn_doh_health(d, &text), TN_E_LIMIT);
    assert_string_equal(text, "refused by the test");
    net.refuse = 0;
    net.fail = TN_EGRESS_FAIL_PROXY_AUTH;
    assert_int_equal(ask(d, &a, 1, 1, 0), 0);
    assert_int_equal(ask(d, &b, 2, 2, 0), 0);
    settle();
    assert_int_equal(a.calls + b.calls, 2);
    assert_int_equal(a.err, TN_E_AUTH);
    assert_int_equal(b.err, TN_E_AUTH);
    assert_true(tn_doh_next_deadline(d) == TN_NEVER);
    a.again = d; /* a caller that insists gets its refusals one turn at a time */
    assert_int_equal(ask(d, &a, 1, 1, 0), 0);
    net.refuse = TN_EGRESS_FAIL_LIMIT;
    settle();
    assert_int_equal(a.calls, 0);
    assert_true(tn_doh_next_deadline(d) == 0);
    tn_doh_timeout(d, 0);
    assert_int_equal(a.calls, 1);
    assert_int_equal(a.err, TN_E_LIMIT);
    net.refuse = net.fail = 0;
    assert_int_equal(ask(d, &a, 6, 6, 0), 0);
    settle();
    answered(&a, 6, 6);
    assert_int_equal(tn_doh_health(d, NULL), 0);
    tn_doh_free(d);
}

static void policy_is_obeyed_at_each_question(void **state)
{
    struct tn_doh *d = client();
    struct ask a = {0};
    net.mode = TN_EGRESS_OFF;
    assert_int_equal(ask(d, &a, 1, 1, 0), TN_E_POLICY);
    assert_int_equal(net.dials, 0);
    net.mode = TN_EGRESS_HOST;
    assert_int_equal(ask(d, &a, 1, 1, 0), 0);
    settle();
    answered(&a, 1, 1);
    net.mode = TN_EGRESS_PROXY; /* the direct connection must not serve another question */
    assert_int_equal(ask(d, &a, 2, 2, 0), 0);
    settle();
    answered(&a, 2, 2);
    assert_int_equal(net.dials, 2);
    assert_int_equal(doh_server_requests(net.old[0]), 1);
    net.b.status = 0;
    assert_int_equal(ask(d, &a, 3, 3, 0), 0);
    settle();
    net.mode = TN_EGRESS_OFF;
    struct ask b = {0};
    assert_int_equal(ask(d, &b, 4, 4, 0), TN_E_POLICY);
    assert_null(net.conn);
    tn_doh_timeout(d, 0);
    assert_int_equal(a.err, TN_E_POLICY);
    net.mode = TN_EGRESS_PROXY;
    assert_int_equal(ask(d, &a, 5, 5, 0), 0);
    settle();
    net.b.status = 200;
    tn_doh_reset(d);
    settle();
    answered(&a, 5, 5);
    tn_doh_free(d);
}

static void certificates_and_protocols_matter(void **state)
{
    struct ask a = {0};
    const char *text;
    net.wrong_address = true;
    struct tn_doh *d = client();
    assert_int_equal(ask(d, &a, 1, 1, 0), 0);
    settle();
    assert_int_equal(a.calls, 1);
    assert_int_equal(a.err, TN_E_CERT);
    assert_int_equal(tn_doh_health(d, &text), TN_E_CERT);
    assert_true(strlen(text) > 5);
    tn_doh_free(d);
    net.wrong_address = false;
    net.no_h2 = true;
    d = client();
    assert_int_equal(ask(d, &a, 1, 1, 0), 0);
    settle();
    assert_int_equal(a.calls, 1);
    assert_int_equal(a.err, TN_E_PROTO);
    tn_doh_free(d);
    net.no_h2 = false;
    d = client();
    assert_int_equal(ask(d, &a, 1, 1, 0), 0);
    net.conn->opened = true;
    net.conn->ev.on_open(net.conn->arg, net.conn);
    tn_buf_append(&net.conn->down, "HTTP/1.1 400 Bad Request\r\n\r\n", 28);
    settle();
    assert_int_equal(a.calls, 1);
    assert_int_equal(a.err, TN_E_TLS);
    tn_doh_free(d);
}

static void cancel_in_every_state(void **state)
{
    struct tn_doh *d = client();
    struct ask a = {0}, b = {0};
    net.b.status = 0;
    assert_int_equal(ask(d, &a, 1, 1, 0), 0); /* dialing */
    tn_doh_cancel(a.q);
    assert_int_equal(ask(d, &b, 2, 2, 0), 0);
    settle();
    assert_int_equal(ask(d, &a, 3, 3, 0), 0); /* submitted, not sent */
    tn_doh_cancel(a.q);
    settle();
    tn_doh_cancel(b.q);                       /* on the wire */
    settle();
    assert_int_equal(d->count, 0);
    net.refuse = TN_EGRESS_FAIL_LIMIT;
    net.conn->eof = true;
    settle();
    net.b.status = 200;
    net.refuse = 0;
    assert_int_equal(ask(d, &a, 4, 4, 0), 0);
    settle();
    answered(&a, 4, 4);
    assert_int_equal(ask(d, &a, 5, 5, 0), 0);
    tn_doh_free(d); /* under way: no callback */
    assert_int_equal(a.calls, 0);
    assert_int_equal(b.calls, 0);
}

static void use_client(void *arg)
{
    struct tn_doh *d;
    struct ask a = {0}, b = {0};
    struct tn_doh_config config = {.url = "https://192.0.2.53", .egress = (struct tn_egress *)&net, .tls = tls};
    if (tn_doh_new(&config, &d) != 0) return;
    int first = ask(d, &a, 1, 1, 0), second = ask(d, &b, 2, 2, 0);
    settle();
    tn_doh_timeout(d, 0);
    assert_true(first == TN_E_NOMEM || (first == 0 && a.calls == 1));
    assert_true(second == TN_E_NOMEM || (second == 0 && b.calls == 1));
    tn_doh_free(d);
}

static void allocations_may_fail(void **state)
{
    long n = 0;
    while (failalloc_run(n, use_client, NULL)) n++;
    assert_true(n >= 5);
}

static void urls(void **state)
{
    static const struct { const char *url, *authority, *path; } good[] = {
        {"https://1.1.1.1/dns-query", "1.1.1.1", "/dns-query"},
        {"https://1.1.1.1", "1.1.1.1", "/dns-query"},
        {"https://1.1.1.1:8443/a?b=c", "1.1.1.1:8443", "/a?b=c"},
        {"https://[2606:4700::1111]/q", "[2606:4700::1111]", "/q"},
        {"https://[::1]:444/", "[::1]:444", "/"},
        {"https://9.9.9.9/dns-query{?dns}", "9.9.9.9", "/dns-query"},
        {"https://1.1.1.1:443/x", "1.1.1.1", "/x"},
    };
    static const char *const bad[] = {
        "",
        "http://1.1.1.1/",
        "https://dns.google/dns-query",
        "https://",
        "https:///x",
        "https://1.1.1.1:0/",
        "https://1.1.1.1:/",
        "https://1.1.1.1:65536/",
        "https://u@1.1.1.1/",
        "https://1.1.1.1/a b",
        "https://1.1.1.1/#f",
        "https://[1.1.1.1]/",
        "https://::1/",
        "https://[::1/",
        "https://[::1]x/",
        "https://1.1.1.1/\n",
        "https://1.1.1.1?x=y",
        "https://1.1.1/",
        "https://1.1.1.1/{id}/q",
        "HTTPS://1.1.1.1/",
    };
    struct tn_doh_url u;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        if (tn_doh_url_parse(good[i].url, &u) != 0) fail_msg("%s", good[i].url);
        assert_string_equal(u.authority, good[i].authority);
        assert_string_equal(u.path, good[i].path);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (tn_doh_url_parse(bad[i], &u) != TN_E_INVAL) fail_msg("%s", bad[i]);
    assert_int_equal(tn_doh_url_parse(NULL, &u), TN_E_INVAL);
    struct tn_doh_config config = {.url = "https://x/"};
    struct tn_doh *d;
    assert_int_equal(tn_doh_new(&config, &d), TN_E_INVAL);
    tn_doh_free(NULL);
}

static int make_identity(void **state)
{
    strcpy(cert_path, "/tmp/tn-doh-XXXXXX");
    int fd = mkstemp(cert_path);
    assert_true(fd >= 0);
    close(fd);
    doh_identity_make(cert_path);
    setenv("SSL_CERT_FILE", cert_path, 1);
    tls = tn_tls_ctx_new();
    return 0;
}
static int drop_identity(void **state)
{
    tn_tls_ctx_free(tls);
    doh_identity_free();
    unlink(cert_path);
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, reset_world, end_world)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(asks_and_keeps_the_connection), TEST(many_at_once_in_any_order), TEST(slow_names_delay_nobody_else), TEST(lines_come_and_go),
        TEST(alone_on_its_connection), TEST(bad_answers_are_errors),
        TEST(queries_time_out), TEST(a_dead_path_is_replaced), TEST(a_lost_connection_is_retried_once),
        TEST(failing_dials), TEST(policy_is_obeyed_at_each_question), TEST(certificates_and_protocols_matter),
        TEST(cancel_in_every_state), TEST(allocations_may_fail), TEST(urls),
    };
    return cmocka_run_group_tests(tests, make_identity, drop_identity);
}
