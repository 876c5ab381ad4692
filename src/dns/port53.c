/* A question that is being answered is an `ask`, by UDP or on a connection. Connections (RFC 7766) are length-framed and
 * pipelined: answers go out as they come. A connection whose client doesn't read, or that has PIPELINE_MAX questions
 * under way, is not read from until that changes.
 *
 * A connection is freed when its last ask is gone and it is not inside one of its own callbacks. */
#include "dns/port53.h"
#include "util/buf.h"
#include "util/cursor.h"
#include "util/err.h"
#include "util/heap.h"
#include "util/list.h"
#include "wire/dns.h"

#include <stdlib.h>

enum {
    UDP_PER_PEER = 512,       /* questions by UDP under way */
    UDP_MAX = 4096,
    CONNS_PER_PEER = 64,      /* a browser's worth of parallel lookups */
    CONNS_MAX = 1024,
    PIPELINE_MAX = 64,        /* questions under way of one connection */
    QUESTION_MAX = 4096,      /* honest ones are below 512 bytes; more is never read into memory */
    OUT_MAX = 256 * 1024,     /* unsent answers of one connection */
    OUT_PAUSE = 64 * 1024,    /* from here on no more questions are read; what is under way still fits */
    IDLE_US = 10 * 1000000,   /* without a question, RFC 7766 section 6.2.3: "a few seconds" */
    FORMERR = 1,
};

struct conn;

struct ask {
    struct tn_list link; /* in port53.udp, or its connection's asks */
    struct tn_port53 *p;
    struct conn *conn;   /* NULL: by UDP */
    struct tn_dns_query *query;
    uint64_t peer;
    struct tn_addrport src, dst; /* UDP */
};

struct conn {
    struct tn_list link;
    struct tn_port53 *p;
    struct tn_tcp *tcp;  /* NULL: gone */
    uint64_t peer;
    struct tn_timer timer;
    struct tn_list asks;
    unsigned nasks;
    struct tn_buf in, out;
    bool open, busy, dead;
};

struct tn_port53 {
    struct tn_port53_config config;
    struct tn_list udp, conns;
    struct tn_heap timers;
    unsigned nudp;
    struct tn_port53_stats stats;
};

/* ---- questions ---- */

static void free_ask(struct ask *a)
{
    tn_list_remove(&a->link);
    a->p->stats.in_flight--;
    if (a->conn) a->conn->nasks--;
    else a->p->nudp--;
    free(a);
}

static struct ask *new_ask(struct tn_port53 *p, struct conn *conn, uint64_t peer)
{
    struct ask *a = calloc(1, sizeof *a);
    if (!a) return NULL;
    a->p = p;
    a->conn = conn;
    a->peer = peer;
    p->stats.in_flight++;
    tn_list_push_back(conn ? &conn->asks : &p->udp, &a->link);
    if (conn) conn->nasks++;
    else p->nudp++;
    return a;
}

/* The answer to what can't be asked: 0 bytes for what is no question at all, and so deserves none. */
static size_t refusal(const uint8_t *query, size_t len, int rcode, uint8_t *out, size_t cap)
{
    long n = rcode == FORMERR ? -1 : tn_dns_make_error(query, len, rcode, out, cap);
    if (n > 0) return (size_t)n;
    if (len < TN_DNSMSG_HEADER || query[2] & 0x80) return 0;
    memcpy(out, query, 4);
    out[2] = (uint8_t)((query[2] & 0x79) | 0x80); /* QR, the opcode, RD */
    out[3] = 0x80 | FORMERR;                      /* RA */
    memset(out + 4, 0, 8);
    return TN_DNSMSG_HEADER;
}

static bool is_filtered(struct tn_port53 *p, const uint8_t *query, size_t len)
{
    size_t n = 0;
    const char *const *set = p->config.filtered ? p->config.filtered(p->config.ctx, &n) : NULL;
    return n > 0 && tn_dns_name_filtered(query, len, set, n);
}

static void on_answer(void *arg, int err, const uint8_t *bytes, size_t len);

/* 0: the answer will come; else the rcode to answer with at once. */
static int ask(struct ask *a, const uint8_t *query, size_t len, size_t limit, uint64_t now_us)
{
    struct tn_port53 *p = a->p;
    if (tn_dns_check_query(query, len) == 0 && is_filtered(p, query, len)) {
        p->stats.filtered++;
        return TN_DNSMSG_REFUSED;
    }
    int err = tn_dns_ask(p->config.dns, a->peer, query, len, limit, now_us, on_answer, a, &a->query);
    if (err == TN_E_MALFORMED) p->stats.malformed++;
    if (err == TN_E_LIMIT) p->stats.over_limit++;
    return err == 0 ? 0 : err == TN_E_MALFORMED ? FORMERR : TN_DNSMSG_SERVFAIL;
}

/* ---- UDP ---- */

static void send_udp(struct tn_port53 *p, const struct tn_addrport *server, const struct tn_addrport *client,
                     const uint8_t *bytes, size_t len, uint64_t now_us)
{
    if (len >= 4 && bytes[2] & TN_DNSMSG_TC >> 8) p->stats.truncated++;
    if (len) (void)tn_stack_udp_send_from(p->config.stack, server, client, bytes, len, now_us); /* lost: asked again */
}

static unsigned udp_of(const struct tn_port53 *p, uint64_t peer)
{
    unsigned n = 0;
    if (p->nudp < UDP_PER_PEER) return 0; /* nobody can be over it */
    TN_LIST_EACH(l, &p->udp) n += TN_CONTAINER(l, struct ask, link)->peer == peer;
    return n;
}

void tn_port53_udp(struct tn_port53 *p, uint64_t peer, const struct tn_addrport *src, const struct tn_addrport *dst,
                   const uint8_t *bytes, size_t len, uint64_t now_us)
{
    uint8_t out[512];
    int rcode = TN_DNSMSG_SERVFAIL;
    p->stats.udp_queries++;
    bool full = p->nudp >= UDP_MAX || udp_of(p, peer) >= UDP_PER_PEER;
    struct ask *a = full ? NULL : new_ask(p, NULL, peer);
    if (full) p->stats.over_limit++;
    if (a) {
        a->src = *src;
        a->dst = *dst;
        rcode = ask(a, bytes, len, tn_dns_udp_limit(bytes, len), now_us);
        if (rcode == 0) return;
        free_ask(a);
    }
    send_udp(p, dst, src, out, refusal(bytes, len, rcode, out, sizeof out), now_us);
}

/* ---- TCP ---- */

static void arm_idle(struct conn *c, uint64_t now_us)
{
    (void)tn_timer_arm(&c->p->timers, &c->timer, now_us + IDLE_US); /* armed at birth: this only moves it */
}

static void drop_asks(struct conn *c)
{
    while (!tn_list_empty(&c->asks)) {
        struct ask *a = TN_CONTAINER(c->asks.next, struct ask, link);
        tn_dns_cancel(a->query);
        free_ask(a);
    }
}

static void free_conn(struct conn *c)
{
    tn_list_remove(&c->link);
    c->p->stats.conns--;
    tn_timer_stop(&c->p->timers, &c->timer);
    tn_buf_fini(&c->in);
    tn_buf_fini(&c->out);
    free(c);
}

/* The end of a connection; the memory lives on while one of its functions is on the stack. */
static void end_conn(struct conn *c, bool reset, uint64_t now_us)
{
    struct tn_tcp *tcp = c->tcp;
    if (c->dead) return;
    c->dead = true;
    c->tcp = NULL;
    drop_asks(c);
    if (tcp && reset) tn_tcp_abort(tcp, now_us);
    else if (tcp) tn_tcp_release(tcp, now_us);
    if (!c->busy) free_conn(c);
}

static void flush(struct conn *c, uint64_t now_us)
{
    while (c->tcp && tn_buf_len(&c->out) > 0) {
        long n = tn_tcp_write(c->tcp, tn_buf_data(&c->out), tn_buf_len(&c->out), now_us);
        if (n < 0) end_conn(c, true, now_us);
        if (n <= 0) return;
        tn_buf_consume(&c->out, (size_t)n);
    }
}

static void put_answer(struct conn *c, const uint8_t *bytes, size_t len, uint64_t now_us)
{
    uint8_t head[2];
    tn_put_be16(head, (uint16_t)len);
    int err = tn_buf_append(&c->out, head, 2);
    if (!err) err = tn_buf_append(&c->out, bytes, len);
    if (err) end_conn(c, true, now_us);
}

static void take_question(struct conn *c, const uint8_t *bytes, size_t len, uint64_t now_us)
{
    uint8_t out[512];
    struct ask *a = new_ask(c->p, c, c->peer);
    c->p->stats.tcp_queries++;
    int rcode = a ? ask(a, bytes, len, TN_DNS_MAX, now_us) : TN_DNSMSG_SERVFAIL;
    if (rcode == 0) return;
    if (a) free_ask(a);
    size_t n = refusal(bytes, len, rcode, out, sizeof out);
    if (n) put_answer(c, out, n, now_us);
    else end_conn(c, true, now_us);
}

static bool may_read(const struct conn *c)
{
    return !c->dead && c->nasks < PIPELINE_MAX && tn_buf_len(&c->out) < OUT_PAUSE;
}

/* Whole questions out of what has come. */
static void take_questions(struct conn *c, uint64_t now_us)
{
    while (may_read(c) && tn_buf_len(&c->in) >= 2) {
        const uint8_t *at = tn_buf_data(&c->in);
        size_t len = tn_get_be16(at);
        if (len > QUESTION_MAX) {
            c->p->stats.malformed++;
            end_conn(c, true, now_us);
            return;
        }
        if (tn_buf_len(&c->in) < 2 + len) return;
        take_question(c, at + 2, len, now_us);
        tn_buf_consume(&c->in, 2 + len);
        if (!c->dead) arm_idle(c, now_us);
    }
}

static void read_some(struct conn *c, uint64_t now_us)
{
    while (may_read(c)) {
        struct iovec iov;
        take_questions(c, now_us);
        if (!may_read(c) || tn_tcp_peek(c->tcp, &iov, 1) <= 0) break;
        size_t n = iov.iov_len < QUESTION_MAX ? iov.iov_len : QUESTION_MAX;
        if (tn_buf_append(&c->in, iov.iov_base, n) != 0) end_conn(c, true, now_us);
        else tn_tcp_consume(c->tcp, n, now_us);
    }
}

/* Moves what can be moved. */
static void pump(struct conn *c, uint64_t now_us)
{
    if (c->busy) return;
    c->busy = true;
    read_some(c, now_us);
    if (!c->dead) flush(c, now_us);
    if (may_read(c)) read_some(c, now_us); /* the flush may have made room */
    if (!c->dead) flush(c, now_us);
    /* The client has sent all it will: half a question is none. */
    if (!c->dead && tn_tcp_eof(c->tcp) && c->nasks == 0 && tn_buf_len(&c->out) == 0) end_conn(c, false, now_us);
    c->busy = false;
    if (c->dead) free_conn(c);
}

static void on_tcp_open(void *arg, struct tn_tcp *tcp, uint64_t now_us)
{
    struct conn *c = arg;
    c->open = true;
    arm_idle(c, now_us);
}

static void on_tcp_event(void *arg, struct tn_tcp *tcp, uint64_t now_us) { pump(arg, now_us); }
static void on_tcp_close(void *arg, int err, uint64_t now_us)
{
    struct conn *c = arg;
    c->tcp = NULL;
    end_conn(c, false, now_us);
}

static const struct tn_tcp_events tcp_events = {
    .on_open = on_tcp_open, .on_readable = on_tcp_event, .on_writable = on_tcp_event, .on_close = on_tcp_close};

static unsigned conns_of(const struct tn_port53 *p, uint64_t peer)
{
    unsigned n = 0;
    TN_LIST_EACH(l, &p->conns) n += TN_CONTAINER(l, struct conn, link)->peer == peer;
    return n;
}

enum tn_syn_verdict tn_port53_syn(struct tn_port53 *p, uint64_t peer, const struct tn_syn *syn, uint64_t now_us)
{
    bool full = p->stats.conns >= CONNS_MAX || conns_of(p, peer) >= CONNS_PER_PEER;
    struct conn *c = full ? NULL : calloc(1, sizeof *c);
    if (full) p->stats.over_limit++;
    if (!c) return TN_SYN_RESET;
    c->p = p;
    c->peer = peer;
    tn_list_init(&c->asks);
    tn_buf_init(&c->in, 2 + 2 * QUESTION_MAX);
    tn_buf_init(&c->out, OUT_MAX);
    tn_list_push_back(&p->conns, &c->link);
    p->stats.conns++;
    int err = tn_timer_arm(&p->timers, &c->timer, now_us + IDLE_US);
    if (!err) err = tn_tcp_accept_syn(p->config.stack, syn, &tcp_events, c, now_us, &c->tcp);
    if (!err) return TN_SYN_HELD;
    free_conn(c);
    return TN_SYN_RESET;
}

/* ---- answers ---- */

static uint64_t now_of(const struct tn_port53 *p)
{
    return p->config.now ? p->config.now(p->config.ctx) : uv_hrtime() / 1000;
}

static void on_answer(void *arg, int err, const uint8_t *bytes, size_t len)
{
    struct ask *a = arg;
    struct tn_port53 *p = a->p;
    struct conn *c = a->conn;
    struct tn_addrport src = a->src, dst = a->dst;
    free_ask(a);
    if (!c) {
        send_udp(p, &dst, &src, bytes, len, now_of(p));
        return;
    }
    bool outer = !c->busy;
    c->busy = true;
    put_answer(c, bytes, len, now_of(p));
    if (!outer) return;
    c->busy = false;
    if (c->dead) free_conn(c);
    else pump(c, now_of(p));
}

/* ---- life ---- */

int tn_port53_new(const struct tn_port53_config *config, struct tn_port53 **out)
{
    struct tn_port53 *p = calloc(1, sizeof *p);
    if (!p) return TN_E_NOMEM;
    p->config = *config;
    tn_list_init(&p->udp);
    tn_list_init(&p->conns);
    tn_heap_init(&p->timers);
    *out = p;
    return 0;
}

/* peer 0: all. */
static void drop(struct tn_port53 *p, uint64_t peer, uint64_t now_us)
{
    TN_LIST_EACH(l, &p->udp) {
        struct ask *a = TN_CONTAINER(l, struct ask, link);
        if (peer && a->peer != peer) continue;
        tn_dns_cancel(a->query);
        free_ask(a);
    }
    TN_LIST_EACH(l, &p->conns) {
        struct conn *c = TN_CONTAINER(l, struct conn, link);
        if (!peer || c->peer == peer) end_conn(c, true, now_us);
    }
}

void tn_port53_peer_gone(struct tn_port53 *p, uint64_t peer, uint64_t now_us) { drop(p, peer, now_us); }
void tn_port53_drop_all(struct tn_port53 *p, uint64_t now_us) { drop(p, 0, now_us); }

void tn_port53_free(struct tn_port53 *p)
{
    if (!p) return;
    drop(p, 0, now_of(p));
    tn_heap_fini(&p->timers);
    free(p);
}

void tn_port53_timeout(struct tn_port53 *p, uint64_t now_us)
{
    for (struct tn_timer *t; (t = tn_heap_pop_due(&p->timers, now_us));) {
        struct conn *c = TN_CONTAINER(t, struct conn, timer);
        /* With questions under way it waits for the answers; a client that reads none of them, or never finished its
         * handshake, is dropped. */
        bool stuck = !c->open || tn_buf_len(&c->out) > 0;
        if (c->nasks > 0 && tn_timer_arm(&p->timers, &c->timer, now_us + IDLE_US) == 0) continue;
        end_conn(c, stuck, now_us);
    }
}

uint64_t tn_port53_next_deadline(const struct tn_port53 *p) { return tn_heap_next(&p->timers); }

void tn_port53_stats(const struct tn_port53 *p, struct tn_port53_stats *out) { *out = p->stats; }
