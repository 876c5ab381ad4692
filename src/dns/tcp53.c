/* DNS over TCP as an upstream (RFC 7766): one kept connection through the egress, questions pipelined on it, answers taken in
 * any order.
 *
 * A query (queries.h) waits (not sent) or is under way, until it has its verdict. Servers close idle connections, and some
 * close after each answer: what a connection that had worked leaves unanswered is asked again over the next, ATTEMPTS_MAX
 * times in all. */
#include "dns/queries.h"
#include "util/buf.h"
#include "util/cursor.h"
#include "util/err.h"
#include "util/heap.h"

#include <stdlib.h>
#include <string.h>

enum {
    IDLE_US = 20 * 1000000,   /* servers wait for ten seconds to some minutes */
    ATTEMPTS_MAX = 3,
    READ_CHUNK = 16 * 1024,
    READS_PER_EVENT = 16,
    IN_MAX = 2 + TN_DNSMSG_MAX + READ_CHUNK,
    OUT_MAX = 1280 * 1024,    /* TN_DNS_INFLIGHT_MAX canonical questions fit */
    ROUNDS = 3,               /* a connection that breaks as it is used is replaced in the same turn, but not for ever */
};

enum state { CLOSED, DIALING, OPEN };

struct query {
    struct tn_dns_asked q;
    bool sent;
    unsigned attempts;
};

struct upstream {
    struct tn_dns_upstream u;
    struct tn_dns_queries qs;
    struct tn_egress *egress;
    struct tn_rng rng;
    uint64_t peer;
    bool busy;
    enum state state;
    enum tn_egress_mode mode;
    struct tn_egress_conn *conn;
    struct tn_buf in, out;
    bool worked;             /* this connection has brought an answer */
    bool heard;              /* something came since the oldest query was sent */
    int conn_err;
};

static struct upstream *up_of(const struct tn_dns_upstream *u) { return TN_CONTAINER(u, struct upstream, u); }
static struct query *query_at(struct tn_list *l) { return TN_CONTAINER(tn_dns_asked_at(l), struct query, q); }

/* ---- the connection ---- */

static void close_conn(struct upstream *up)
{
    if (up->conn) tn_egress_close(up->conn, false);
    up->conn = NULL;
    up->state = CLOSED;
    up->conn_err = 0;
    tn_buf_fini(&up->in);
    tn_buf_fini(&up->out);
}

static void on_open(void *arg, struct tn_egress_conn *c);
static void on_fail(void *arg, enum tn_egress_fail why);
static void on_readable(void *arg, struct tn_egress_conn *c);
static void on_writable(void *arg, struct tn_egress_conn *c);
static const struct tn_egress_events events = {on_open, on_fail, on_readable, on_writable};

static int open_conn(struct upstream *up)
{
    up->mode = tn_egress_mode(up->egress);
    struct tn_egress_target to = {.dst = up->qs.addr, .peer = up->peer, .purpose = TN_EGRESS_RESOLVER};
    int why = tn_egress_dial(up->egress, &to, &events, up, &up->conn);
    if (why) {
        up->conn = NULL;
        tn_dns_queries_set_health(&up->qs, tn_dns_dial_error(why), tn_egress_fail_text(why));
        return tn_dns_dial_error(why);
    }
    up->state = DIALING;
    up->worked = up->heard = false;
    return 0;
}

static void flush(struct upstream *up)
{
    while (tn_buf_len(&up->out) > 0) {
        struct iovec iov = {tn_buf_data(&up->out), tn_buf_len(&up->out)};
        long n = tn_egress_writev(up->conn, &iov, 1);
        if (n == TN_E_AGAIN) break;
        if (n <= 0) {
            up->conn_err = n < 0 ? (int)n : TN_E_PIPE;
            return;
        }
        tn_buf_consume(&up->out, (size_t)n);
    }
    tn_egress_want(up->conn, TN_EGRESS_WANT_READ | (tn_buf_len(&up->out) ? TN_EGRESS_WANT_WRITE : 0));
}

static struct tn_dns_asked *find_id(struct upstream *up, uint16_t id)
{
    TN_LIST_EACH(l, &up->qs.asked)
        if (query_at(l)->sent && tn_dns_asked_at(l)->id == id) return tn_dns_asked_at(l);
    return NULL;
}

/* The answer to one of ours? Its question must be the one asked under that ID. */
static void take_message(struct upstream *up, const uint8_t *msg, size_t len)
{
    struct tn_dns_asked *q = len < TN_DNSMSG_HEADER ? NULL : find_id(up, tn_get_be16(msg));
    if (!q || !tn_dns_asked_matches(q, msg, len)) return;
    up->worked = true;
    tn_dns_asked_give(q, msg, len);
    if (!q->err) tn_dns_queries_set_health(&up->qs, 0, "works");
}

static int read_some(struct upstream *up)
{
    uint8_t bytes[READ_CHUNK];
    for (int i = 0; i < READS_PER_EVENT; i++) {
        struct iovec iov = {bytes, sizeof bytes};
        long n = tn_egress_readv(up->conn, &iov, 1);
        if (n == TN_E_AGAIN) return 0;
        if (n <= 0) return n < 0 ? (int)n : TN_E_EOF;
        up->heard = true;
        int err = tn_buf_append(&up->in, bytes, (size_t)n);
        if (err) return err;
        while (tn_buf_len(&up->in) >= 2) {
            const uint8_t *at = tn_buf_data(&up->in);
            size_t len = tn_get_be16(at);
            if (tn_buf_len(&up->in) < 2 + len) break;
            take_message(up, at + 2, len);
            tn_buf_consume(&up->in, 2 + len);
        }
    }
    return 0;
}

/* ---- turns ---- */

/* Gives up the broken connection; what it leaves is asked again, unless nothing speaks for the server. */
static void lose_conn(struct upstream *up)
{
    int err = up->conn_err == TN_E_EOF ? TN_E_CLOSED : up->conn_err;
    bool was_open = up->state == OPEN;
    if (err != TN_E_CANCELED && !up->worked && up->qs.health == 0 && up->qs.nasked) tn_dns_queries_set_health(&up->qs, err, tn_err_text(err));
    TN_LIST_EACH(l, &up->qs.asked) {
        struct query *q = query_at(l);
        q->sent = false;
        bool again = err == TN_E_CANCELED || (was_open && q->attempts < ATTEMPTS_MAX);
        if (!again) tn_dns_asked_verdict(&q->q, err);
    }
    close_conn(up);
}

static void submit(struct upstream *up, struct query *q)
{
    uint8_t head[4];
    do q->q.id = (uint16_t)tn_rng_u32(&up->rng);
    while (find_id(up, q->q.id));
    tn_put_be16(head, (uint16_t)q->q.len);
    tn_put_be16(head + 2, q->q.id);
    int err = tn_buf_append(&up->out, head, sizeof head);
    if (!err) err = tn_buf_append(&up->out, q->q.bytes + 2, q->q.len - 2);
    if (err) {
        up->conn_err = err; /* half a message may be in it */
        return;
    }
    q->sent = true;
    q->attempts++;
}

static bool someone_waits(const struct upstream *up)
{
    TN_LIST_EACH(l, &up->qs.asked)
        if (!query_at(l)->sent) return true;
    return false;
}

static void advance(struct upstream *up)
{
    for (int i = 0; i < ROUNDS; i++) {
        if (up->conn_err) lose_conn(up);
        if (up->state == CLOSED && someone_waits(up)) {
            int err = open_conn(up);
            TN_LIST_EACH(l, &up->qs.asked)
                if (err) tn_dns_asked_verdict(tn_dns_asked_at(l), err);
        }
        if (up->state != OPEN) return;
        TN_LIST_EACH(l, &up->qs.asked)
            if (!query_at(l)->sent && !up->conn_err) submit(up, query_at(l));
        if (!up->conn_err) flush(up);
        if (!up->conn_err) return;
    }
}

static void turn(struct upstream *up)
{
    up->busy = true;
    advance(up);
    tn_dns_queries_answer(&up->qs);
    advance(up);
    up->busy = false;
}

static void on_open(void *arg, struct tn_egress_conn *c)
{
    struct upstream *up = arg;
    up->state = OPEN;
    turn(up);
}

static void on_fail(void *arg, enum tn_egress_fail why)
{
    struct upstream *up = arg;
    up->conn = NULL; /* gone already */
    up->conn_err = tn_dns_dial_error(why);
    tn_dns_queries_set_health(&up->qs, up->conn_err, tn_egress_fail_text(why));
    turn(up);
}

static void on_readable(void *arg, struct tn_egress_conn *c)
{
    struct upstream *up = arg;
    int err = read_some(up);
    if (err && !up->conn_err) up->conn_err = err;
    turn(up);
}

static void on_writable(void *arg, struct tn_egress_conn *c) { turn(arg); }

/* ---- the upstream's face ---- */

static int tcp_ask(struct tn_dns_upstream *u, uint64_t peer, const uint8_t *bytes, size_t len, uint64_t now_us, tn_dns_answer_fn *answer,
                   void *arg, void **handle)
{
    struct upstream *up = up_of(u);
    enum tn_egress_mode mode = tn_egress_mode(up->egress);
    if (up->state != CLOSED && mode != up->mode && !up->conn_err) up->conn_err = TN_E_CANCELED;
    if (mode == TN_EGRESS_OFF) {
        if (!up->busy) advance(up);
        return TN_E_POLICY;
    }
    struct tn_dns_asked *q;
    bool alone = up->qs.nasked == 0;
    int err = tn_dns_queries_add(&up->qs, sizeof(struct query), bytes, len, now_us, answer, arg, &q);
    if (err) return err;
    if (alone) up->heard = false;
    if (!up->busy) advance(up);
    if (!up->busy && q->finished) { /* refused at once */
        err = q->err;
        tn_dns_asked_free(q);
        return err;
    }
    *handle = q;
    return 0;
}

static void tcp_cancel(struct tn_dns_upstream *u, void *handle) { tn_dns_asked_free(handle); }

static void tcp_timeout(struct tn_dns_upstream *u, uint64_t now_us)
{
    struct upstream *up = up_of(u);
    TN_LIST_EACH(l, &up->qs.asked) {
        struct query *q = query_at(l);
        if (q->q.deadline_us > now_us) break;
        /* Not a byte in all that time: a dead path must not swallow those that come after. */
        if (q->sent && !up->heard && !up->conn_err) up->conn_err = TN_E_TIMEDOUT;
        tn_dns_asked_verdict(&q->q, TN_E_TIMEDOUT);
    }
    up->heard = false;
    if (up->qs.nasked == 0 && up->state != CLOSED && now_us >= up->qs.last_ask_us + IDLE_US) close_conn(up);
    turn(up);
}

static uint64_t tcp_next_deadline(const struct tn_dns_upstream *u)
{
    const struct upstream *up = up_of(u);
    if (!tn_list_empty(&up->qs.finished) || up->conn_err) return 0;
    if (!tn_list_empty(&up->qs.asked)) return tn_dns_asked_at(up->qs.asked.next)->deadline_us;
    return up->state == CLOSED ? TN_NEVER : up->qs.last_ask_us + IDLE_US;
}

static void tcp_reset(struct tn_dns_upstream *u)
{
    struct upstream *up = up_of(u);
    if (up->state != CLOSED && !up->conn_err) up->conn_err = TN_E_CANCELED;
    if (!up->busy) advance(up);
}

static int tcp_health(const struct tn_dns_upstream *u, const char **text)
{
    if (text) *text = up_of(u)->qs.health_text;
    return up_of(u)->qs.health;
}

static void tcp_free(struct tn_dns_upstream *u)
{
    struct upstream *up = up_of(u);
    close_conn(up);
    tn_dns_queries_fini(&up->qs);
    free(up);
}

static const struct tn_dns_upstream_ops tcp_ops = {tcp_ask,   tcp_cancel, tcp_timeout, tcp_next_deadline,
                                                   tcp_reset, tcp_health, tcp_free};

int tn_dns_tcp_new(const struct tn_dns_config *config, const struct tn_addrport *addr, struct tn_dns_upstream **out)
{
    struct upstream *up = calloc(1, sizeof *up);
    if (!up) return TN_E_NOMEM;
    up->u.ops = &tcp_ops;
    tn_dns_queries_init(&up->qs, config, "tcp", addr);
    up->egress = config->egress;
    up->rng = config->rng;
    up->peer = config->peer;
    tn_buf_init(&up->in, IN_MAX);
    tn_buf_init(&up->out, OUT_MAX);
    *out = &up->u;
    return 0;
}
