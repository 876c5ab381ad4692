/* DNS over UDP as an upstream, through the egress: the host's own UDP, or the proxy's UDP ASSOCIATE. What does not fit into
 * a datagram (TC), and everything where the egress has no way for UDP, is asked by TCP at the same address.
 *
 * An answer must come from the server (the egress sees to it), to the socket that the question left by, with its ID and
 * its question. Sockets are changed every few questions, so that a forger has to guess the port as well; an association
 * has one flow to a destination, and keeps it. A question is sent again after a second, by then with another ID. */
#include "dns/queries.h"
#include "egress/dgram.h"
#include "util/cursor.h"
#include "util/err.h"
#include "util/heap.h"

#include <stdlib.h>

enum {
    RESEND_US = 1000000,
    FLOW_QUESTIONS = 16,      /* per socket, or */
    FLOW_US = 2 * 1000000,    /* for this long; then another one is taken */
    PORT_FIRST = 20000,       /* of the source ports asked for; the egress takes another where that is in use */
    PORTS = 40000,
};

struct flow {
    struct tn_list link;
    struct upstream *up;
    struct tn_dgram *dgram; /* NULL: gone */
    unsigned asked, waiting;
    int err;                /* set: to be ended */
    uint64_t since_us;
};

struct query {
    struct tn_dns_asked q;
    struct flow *flow;      /* NULL: by TCP, or finished */
    void *by_tcp;           /* its handle there */
    struct tn_timer timer;
};

struct upstream {
    struct tn_dns_upstream u;
    struct tn_dns_queries qs;
    struct tn_egress *egress;
    struct tn_rng rng;
    uint64_t peer;
    struct tn_dns_upstream *tcp;
    struct tn_list flows;
    struct flow *newest;    /* NULL: none to ask by */
    struct tn_heap timers;
    bool trouble;           /* flows are to be ended */
    bool no_udp;            /* the latest question found no way by UDP */
};

static struct upstream *up_of(const struct tn_dns_upstream *u) { return TN_CONTAINER(u, struct upstream, u); }
static struct upstream *asker_of(const struct query *q) { return TN_CONTAINER(q->q.of, struct upstream, qs); }
static struct query *query_at(struct tn_list *l) { return TN_CONTAINER(tn_dns_asked_at(l), struct query, q); }

/* ---- flows ---- */

static void close_flow(struct flow *f)
{
    struct upstream *up = f->up;
    if (up->newest == f) up->newest = NULL;
    if (f->dgram) tn_dgram_close(f->dgram);
    tn_list_remove(&f->link);
    free(f);
}

/* A question has left it. Those that are no more asked by go when nothing is waited for. */
static void leave_flow(struct query *q)
{
    struct flow *f = q->flow;
    q->flow = NULL;
    if (f && --f->waiting == 0 && f != f->up->newest && !f->err) close_flow(f);
}

static void on_datagram(void *arg, const uint8_t *bytes, size_t len);
static void on_error(void *arg, enum tn_dgram_error what);
static void on_end(void *arg, enum tn_egress_fail why);
static const struct tn_dgram_events events = {on_datagram, on_error, on_end};

/* A new flow; 0 and up->newest, or why not. */
static int open_flow(struct upstream *up, uint64_t now_us)
{
    struct flow *f = calloc(1, sizeof *f);
    if (!f) return TN_EGRESS_FAIL_FDS;
    struct tn_dgram_key key = {.kind = TN_DGRAM_UDP, .dst = up->qs.addr, .peer = up->peer};
    key.src.ip.family = up->qs.addr.ip.family;
    key.src.port = (uint16_t)(PORT_FIRST + tn_rng_below(&up->rng, PORTS));
    int why = tn_dgram_open(up->egress, &key, &events, f, &f->dgram);
    if (why) {
        free(f);
        return why;
    }
    f->up = up;
    f->since_us = now_us;
    tn_list_push_back(&up->flows, &f->link);
    struct flow *old = up->newest;
    up->newest = f;
    if (old && old->waiting == 0) close_flow(old);
    return 0;
}

/* The flow to ask by now; NULL: UDP has no way. */
static struct flow *flow_to_ask(struct upstream *up, uint64_t now_us)
{
    struct flow *f = up->newest;
    bool worn = !f || f->asked >= FLOW_QUESTIONS || now_us - f->since_us >= FLOW_US;
    if (worn && open_flow(up, now_us) != 0 && f) { /* an association, which has no other */
        f->asked = 0;
        f->since_us = now_us;
    }
    return up->newest;
}

/* ---- queries ---- */

/* It waits for nothing any more. */
static void settle(struct query *q)
{
    leave_flow(q);
    tn_timer_stop(&asker_of(q)->timers, &q->timer);
    q->by_tcp = NULL;
}

static void free_query(struct query *q)
{
    settle(q);
    tn_dns_asked_free(&q->q);
}

static void verdict(struct query *q, int err)
{
    settle(q);
    tn_dns_asked_verdict(&q->q, err);
}

static void give(struct query *q, const uint8_t *bytes, size_t len)
{
    settle(q);
    tn_dns_asked_give(&q->q, bytes, len);
}

static void on_tcp_answer(void *arg, int err, const uint8_t *bytes, size_t len)
{
    struct query *q = arg;
    struct upstream *up = asker_of(q);
    if (err) verdict(q, err);
    else give(q, bytes, len);
    tn_dns_queries_answer(&up->qs);
}

/* 0, or why TCP did not take it. */
static int ask_by_tcp(struct query *q, uint64_t now_us)
{
    struct upstream *up = asker_of(q);
    leave_flow(q);
    int err = up->tcp->ops->ask(up->tcp, up->peer, q->q.bytes, q->q.len, now_us, on_tcp_answer, q, &q->by_tcp);
    if (err) q->by_tcp = NULL;
    (void)tn_timer_arm(&up->timers, &q->timer, q->q.deadline_us); /* armed at birth: only moves */
    return err;
}

static bool id_is_taken(const struct upstream *up, const struct flow *f, uint16_t id)
{
    TN_LIST_EACH(l, &up->qs.asked)
        if (query_at(l)->flow == f && tn_dns_asked_at(l)->id == id) return true;
    return false;
}

/* Sends it, or goes on by TCP. */
static int send_query(struct query *q, uint64_t now_us)
{
    struct upstream *up = asker_of(q);
    struct flow *f = flow_to_ask(up, now_us);
    leave_flow(q);
    up->no_udp = !f;
    if (!f) return ask_by_tcp(q, now_us);
    do q->q.id = (uint16_t)tn_rng_u32(&up->rng);
    while (id_is_taken(up, f, q->q.id));
    tn_put_be16(q->q.bytes, q->q.id);
    q->flow = f;
    f->asked++;
    f->waiting++;
    tn_dgram_send(f->dgram, q->q.bytes, q->q.len);
    tn_put_be16(q->q.bytes, 0);
    uint64_t again_us = now_us + RESEND_US;
    (void)tn_timer_arm(&up->timers, &q->timer, again_us < q->q.deadline_us ? again_us : q->q.deadline_us);
    return 0;
}

static void on_datagram(void *arg, const uint8_t *bytes, size_t len)
{
    struct flow *f = arg;
    struct upstream *up = f->up;
    if (len < TN_DNSMSG_HEADER) return;
    TN_LIST_EACH(l, &up->qs.asked) {
        struct query *q = query_at(l);
        if (q->flow != f || q->q.id != tn_get_be16(bytes) || !tn_dns_asked_matches(&q->q, bytes, len)) continue;
        tn_dns_queries_set_health(&up->qs, 0, "works");
        if (!(tn_get_be16(bytes + 2) & TN_DNSMSG_TC) || ask_by_tcp(q, up->qs.last_ask_us) != 0) give(q, bytes, len);
        break;
    }
    tn_dns_queries_answer(&up->qs);
}

/* The server, or a router before it, says no, or the flow's way is gone: those that wait for it needn't. Another policy is
 * no failure: they are asked again, under that. */
static void end_flow(struct flow *f)
{
    struct upstream *up = f->up;
    int err = f->err;
    if (err != TN_E_CANCELED) tn_dns_queries_set_health(&up->qs, err, tn_err_text(err));
    f->waiting++; /* it stays until the end of this */
    TN_LIST_EACH(l, &up->qs.asked) {
        struct query *q = query_at(l);
        if (q->flow != f) continue;
        if (err != TN_E_CANCELED) {
            verdict(q, err);
            continue;
        }
        leave_flow(q);
        (void)tn_timer_arm(&up->timers, &q->timer, 0); /* armed all the time: only moves */
    }
    close_flow(f);
}

/* Said while something is sent or ended: acted on from the timeout. */
static void mark(struct flow *f, int err)
{
    struct upstream *up = f->up;
    if (up->newest == f) up->newest = NULL;
    f->err = err;
    up->trouble = true;
}

static void on_error(void *arg, enum tn_dgram_error what)
{
    mark(arg, what == TN_DGRAM_NO_PORT ? TN_E_REFUSED : TN_E_HOSTUNREACH);
}

static void on_end(void *arg, enum tn_egress_fail why)
{
    struct flow *f = arg;
    f->dgram = NULL;
    mark(f, tn_dns_dial_error(why));
}

static void end_marked(struct upstream *up)
{
    if (!up->trouble) return;
    up->trouble = false;
    TN_LIST_EACH(l, &up->flows) {
        struct flow *f = TN_CONTAINER(l, struct flow, link);
        if (f->err) end_flow(f);
    }
}

/* ---- the upstream's face ---- */

static int udp_ask(struct tn_dns_upstream *u, uint64_t peer, const uint8_t *bytes, size_t len, uint64_t now_us, tn_dns_answer_fn *answer,
                   void *arg, void **handle)
{
    struct upstream *up = up_of(u);
    if (tn_egress_mode(up->egress) == TN_EGRESS_OFF) return TN_E_POLICY;
    struct tn_dns_asked *asked;
    int err = tn_dns_queries_add(&up->qs, sizeof(struct query), bytes, len, now_us, answer, arg, &asked);
    if (err) return err;
    struct query *q = TN_CONTAINER(asked, struct query, q);
    err = tn_timer_arm(&up->timers, &q->timer, asked->deadline_us);
    if (!err) err = send_query(q, now_us);
    if (err) free_query(q);
    else *handle = q;
    return err;
}

static void udp_cancel(struct tn_dns_upstream *u, void *handle)
{
    struct query *q = handle;
    if (q->by_tcp) asker_of(q)->tcp->ops->cancel(asker_of(q)->tcp, q->by_tcp);
    free_query(q);
}

static void udp_timeout(struct tn_dns_upstream *u, uint64_t now_us)
{
    struct upstream *up = up_of(u);
    if (up->tcp->ops->next_deadline(up->tcp) <= now_us) up->tcp->ops->timeout(up->tcp, now_us);
    end_marked(up);
    for (struct tn_timer *t; (t = tn_heap_pop_due(&up->timers, now_us));) {
        struct query *q = TN_CONTAINER(t, struct query, timer);
        bool over = now_us >= q->q.deadline_us || tn_timer_arm(&up->timers, &q->timer, q->q.deadline_us) != 0;
        int err = over ? TN_E_TIMEDOUT : send_query(q, now_us);
        if (!err) continue;
        if (q->by_tcp) up->tcp->ops->cancel(up->tcp, q->by_tcp);
        else tn_dns_queries_set_health(&up->qs, err, tn_err_text(err));
        verdict(q, err);
    }
    if (up->newest && up->newest->waiting == 0 && now_us >= up->newest->since_us + FLOW_US) close_flow(up->newest);
    tn_dns_queries_answer(&up->qs);
}

static uint64_t udp_next_deadline(const struct tn_dns_upstream *u)
{
    const struct upstream *up = up_of(u);
    if (up->trouble || !tn_list_empty(&up->qs.finished)) return 0;
    uint64_t next = tn_heap_next(&up->timers), tcp = up->tcp->ops->next_deadline(up->tcp);
    if (tcp < next) next = tcp;
    if (up->newest && up->newest->waiting == 0 && up->newest->since_us + FLOW_US < next) next = up->newest->since_us + FLOW_US;
    return next;
}

static void udp_reset(struct tn_dns_upstream *u)
{
    struct upstream *up = up_of(u);
    up->newest = NULL; /* what is waited for may still come; or is sent again, by another */
    TN_LIST_EACH(l, &up->flows) {
        struct flow *f = TN_CONTAINER(l, struct flow, link);
        if (f->waiting == 0 && !f->err) close_flow(f);
    }
    up->tcp->ops->reset(up->tcp);
}

static int udp_health(const struct tn_dns_upstream *u, const char **text)
{
    const struct upstream *up = up_of(u);
    if (up->no_udp) return up->tcp->ops->health(up->tcp, text);
    if (text) *text = up->qs.health_text;
    return up->qs.health;
}

static void udp_free(struct tn_dns_upstream *u)
{
    struct upstream *up = up_of(u);
    up->tcp->ops->free(up->tcp);
    while (!tn_list_empty(&up->qs.asked)) free_query(query_at(up->qs.asked.next));
    tn_dns_queries_fini(&up->qs);
    while (!tn_list_empty(&up->flows)) close_flow(TN_CONTAINER(up->flows.next, struct flow, link));
    tn_heap_fini(&up->timers);
    free(up);
}

static const struct tn_dns_upstream_ops udp_ops = {udp_ask,   udp_cancel, udp_timeout, udp_next_deadline,
                                                   udp_reset, udp_health, udp_free};

int tn_dns_udp_new(const struct tn_dns_config *config, const struct tn_addrport *addr, struct tn_dns_upstream **out)
{
    struct upstream *up = calloc(1, sizeof *up);
    if (!up) return TN_E_NOMEM;
    up->u.ops = &udp_ops;
    tn_dns_queries_init(&up->qs, config, "udp", addr);
    up->egress = config->egress;
    up->rng = config->rng;
    up->peer = config->peer;
    tn_list_init(&up->flows);
    tn_heap_init(&up->timers);
    int err = tn_dns_tcp_new(config, addr, &up->tcp);
    if (err) free(up);
    else *out = &up->u;
    return err;
}
