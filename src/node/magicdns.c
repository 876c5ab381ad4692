/* A question that others are asked for is an `ask`: one by UDP, or the one that a connection waits for (the next on it is read
 * when that is answered). */
#include "node/magicdns.h"

#include "dns/dns.h"
#include "node/magicask.h"
#include "node/magicnames.h"
#include "tun/resolv.h"
#include "util/buf.h"
#include "util/cursor.h"
#include "util/err.h"
#include "wire/dns.h"

#include <stdlib.h>
#include <string.h>

enum {
    ASKS_MAX = 512,
    CONNS_MAX = 64,
    QUESTION_MAX = TN_MAGICASK_QUERY_MAX,
    IDLE_US = 30 * 1000 * 1000, /* a connection without a question */
    SERVICE_PORT = 53,
    BACKLOG = 16,
};

static const struct tn_ip service[TN_MAGICDNS_ADDRS] = {
    {4, {100, 100, 100, 100}}, {6, {0xfd, 0x7a, 0x11, 0x5c, 0xa1, 0xe0, [15] = 0x53}}};

struct conn;

struct ask {
    struct tn_list link;
    struct tn_node *node;
    struct conn *conn;                 /* NULL: by UDP, */
    struct tn_addrport server, client; /* between these */
    struct tn_magicask *way;
};

struct conn {
    struct tn_list link;
    struct tn_node *node;
    struct tn_tcp *tcp;
    struct tn_buf in, out;
    struct ask *ask; /* under way */
    bool busy;       /* inside pump, which looks again itself */
    uint64_t deadline_us;
};

struct tn_magicdns {
    struct tn_tcp_listener *listener[TN_MAGICDNS_ADDRS];
    struct tn_udp_sock *udps[TN_MAGICDNS_ADDRS];
    struct tn_list asks, conns;
    unsigned nasks, nconns;
    struct tn_resolv_facts host;
    char search[TN_RESOLV_SEARCH_MAX * 2];
    bool set;
};

size_t tn_magicdns_addrs(const struct tn_node *n, struct tn_ip out[TN_MAGICDNS_ADDRS])
{
    if (!n->magicdns) return 0;
    memcpy(out, service, sizeof service);
    return TN_MAGICDNS_ADDRS;
}

bool tn_magicdns_is_service(const struct tn_node *n, const struct tn_ip *ip)
{
    return n->magicdns && (tn_ip_eq(ip, &service[0]) || tn_ip_eq(ip, &service[1]));
}

/* ---- questions ---- */

static void free_ask(struct ask *a)
{
    if (a->way) tn_magicask_cancel(a->way);
    if (a->conn) a->conn->ask = NULL;
    tn_list_remove(&a->link);
    a->node->magicdns->nasks--;
    free(a);
}

static void pump(struct conn *c, uint64_t now_us);

static void answer_conn(struct conn *c, const uint8_t *bytes, size_t len)
{
    uint8_t head[2];
    tn_put_be16(head, (uint16_t)len);
    if (len > TN_DNS_MAX || tn_buf_append(&c->out, head, 2) != 0) return;
    (void)tn_buf_append(&c->out, bytes, len);
}

static void answered(void *arg, const uint8_t *bytes, size_t len)
{
    struct ask *a = arg;
    struct conn *c = a->conn;
    uint64_t now_us = tn_node_now();
    a->way = NULL;
    if (c && len) answer_conn(c, bytes, len);
    else if (len) (void)tn_stack_udp_send_from(a->node->stack, &a->server, &a->client, bytes, len, now_us);
    free_ask(a);
    if (c) pump(c, now_us);
}

static void question(struct tn_node *n, struct conn *c, const struct tn_addrport *server, const struct tn_addrport *client,
                     const uint8_t *bytes, size_t len, uint64_t now_us)
{
    struct tn_magicdns *m = n->magicdns;
    struct tn_magic_verdict v;
    if (len > QUESTION_MAX || m->nasks >= ASKS_MAX) return;
    tn_magicnames_ask(tn_control_netmap(n->control), bytes, len, &v);
    if (v.way == TN_MAGIC_ANSWERED) {
        if (c) answer_conn(c, v.out, v.len);
        else (void)tn_stack_udp_send_from(n->stack, server, client, v.out, v.len, now_us);
    }
    if (v.way == TN_MAGIC_ANSWERED || v.way == TN_MAGIC_NONE) return;
    struct ask *a = calloc(1, sizeof *a);
    if (!a) return;
    *a = (struct ask){.node = n, .conn = c};
    if (!c) a->server = *server, a->client = *client;
    struct tn_magicask_config config = {.node = n, .query = bytes, .len = len, .tcp = c != NULL, .done = answered, .arg = a};
    bool ours = v.way == TN_MAGIC_SERVERS;
    config.exit = !ours && n->config.exit_node; /* by the host's own servers a question would leave beside it */
    config.servers = ours ? v.servers : m->host.servers;
    config.nservers = ours ? v.nservers : m->host.nservers;
    a->way = tn_magicask_start(&config);
    if (!a->way) {
        free(a);
        return;
    }
    tn_list_push_back(&m->asks, &a->link);
    m->nasks++;
    if (c) c->ask = a;
}

static void on_datagram(void *arg, const struct tn_addrport *local, const struct tn_addrport *from, const uint8_t *bytes,
                        size_t len, uint64_t now_us)
{
    question(arg, NULL, local, from, bytes, len, now_us);
}

static const struct tn_udp_events udp_events = {.on_datagram = on_datagram};

/* ---- connections ---- */

static void free_conn(struct conn *c)
{
    if (c->ask) free_ask(c->ask);
    tn_list_remove(&c->link);
    c->node->magicdns->nconns--;
    tn_buf_fini(&c->in);
    tn_buf_fini(&c->out);
    free(c);
}

static void read_bytes(struct conn *c, uint64_t now_us)
{
    struct iovec iov[4];
    for (int n; tn_buf_len(&c->in) < 2 + QUESTION_MAX && (n = tn_tcp_peek(c->tcp, iov, 4)) > 0;) {
        size_t room = 2 + QUESTION_MAX - tn_buf_len(&c->in), take = iov[0].iov_len < room ? iov[0].iov_len : room;
        if (tn_buf_append(&c->in, iov[0].iov_base, take) != 0) return;
        tn_tcp_consume(c->tcp, take, now_us);
    }
}

/* The next whole question; false: there is none yet, or (*over) none will come. */
static bool next_question(struct conn *c, uint8_t query[QUESTION_MAX], size_t *len, bool *over, uint64_t now_us)
{
    read_bytes(c, now_us);
    size_t have = tn_buf_len(&c->in);
    *len = have >= 2 ? tn_get_be16(tn_buf_data(&c->in)) : 0;
    bool whole = have >= 2 && have >= 2 + *len;
    *over = *len > QUESTION_MAX || (!whole && tn_tcp_eof(c->tcp));
    if (!whole || *over) return false;
    memcpy(query, tn_buf_data(&c->in) + 2, *len);
    tn_buf_consume(&c->in, 2 + *len);
    return true;
}

/* Sends what waits and takes one question at a time, until one waits for its answer or the client for nothing. */
static void pump(struct conn *c, uint64_t now_us)
{
    uint8_t query[QUESTION_MAX];
    size_t len;
    bool over = false;
    if (c->busy) return;
    c->busy = true;
    c->deadline_us = now_us + IDLE_US;
    for (bool more = true; more;) {
        long n = tn_buf_len(&c->out) ? tn_tcp_write(c->tcp, tn_buf_data(&c->out), tn_buf_len(&c->out), now_us) : 0;
        if (n > 0) tn_buf_consume(&c->out, (size_t)n);
        more = !c->ask && tn_buf_len(&c->out) == 0 && next_question(c, query, &len, &over, now_us);
        if (more) question(c->node, c, NULL, NULL, query, len, now_us);
    }
    c->busy = false;
    if (!over) return;
    tn_tcp_release(c->tcp, now_us);
    free_conn(c);
}

static void on_readable(void *arg, struct tn_tcp *tcp, uint64_t now_us) { pump(arg, now_us); }
static void on_writable(void *arg, struct tn_tcp *tcp, uint64_t now_us) { pump(arg, now_us); }
static void on_close(void *arg, int err, uint64_t now_us) { free_conn(arg); }
static const struct tn_tcp_events conn_events = {.on_readable = on_readable, .on_writable = on_writable, .on_close = on_close};

static int on_accept(void *arg, struct tn_tcp *tcp, uint64_t now_us)
{
    struct tn_node *n = arg;
    struct tn_magicdns *m = n->magicdns;
    if (m->nconns >= CONNS_MAX) return TN_E_LIMIT;
    struct conn *c = calloc(1, sizeof *c);
    if (!c) return TN_E_NOMEM;
    *c = (struct conn){.node = n, .tcp = tcp, .deadline_us = now_us + IDLE_US};
    tn_buf_init(&c->in, 2 + QUESTION_MAX);
    tn_buf_init(&c->out, 2 + TN_DNS_MAX);
    tn_list_push_back(&m->conns, &c->link);
    m->nconns++;
    tn_tcp_set_events(tcp, &conn_events, c);
    return 0;
}

/* ---- time ---- */

void tn_magicdns_timeout(struct tn_node *n, uint64_t now_us)
{
    struct tn_magicdns *m = n->magicdns;
    if (!m) return;
    for (unsigned left = m->nasks; left > 0 && !tn_list_empty(&m->asks); left--) { /* an end may begin others: they go behind */
        struct ask *a = TN_CONTAINER(m->asks.next, struct ask, link);
        tn_list_remove(&a->link);
        tn_list_push_back(&m->asks, &a->link);
        tn_magicask_timeout(a->way, now_us);
    }
    TN_LIST_EACH(l, &m->conns) {
        struct conn *c = TN_CONTAINER(l, struct conn, link);
        if (c->ask || c->deadline_us > now_us) continue;
        tn_tcp_abort(c->tcp, now_us);
        free_conn(c);
    }
}

uint64_t tn_magicdns_next_deadline(const struct tn_node *n)
{
    const struct tn_magicdns *m = n->magicdns;
    uint64_t next = TN_NEVER;
    if (!m) return next;
    TN_LIST_EACH(l, &m->asks) {
        const struct ask *a = TN_CONTAINER(l, struct ask, link);
        uint64_t at = tn_magicask_deadline(a->way);
        if (at < next) next = at;
    }
    TN_LIST_EACH(l, &m->conns) {
        const struct conn *c = TN_CONTAINER(l, struct conn, link);
        if (!c->ask && c->deadline_us < next) next = c->deadline_us;
    }
    return next;
}

/* ---- the host's file ---- */

void tn_magicdns_update(struct tn_node *n)
{
    struct tn_magicdns *m = n->magicdns;
    char search[sizeof m->search];
    if (!m || n->nown == 0) return;
    tn_magicnames_search(tn_control_netmap(n->control), search, TN_RESOLV_SEARCH_MAX);
    size_t len = strlen(search);
    if (m->host.search[0]) snprintf(search + len, sizeof search - len, "%s%s", len ? " " : "", m->host.search);
    if (m->set && strcmp(search, m->search) == 0) return;
    int err = tn_resolv_set(TN_RESOLV_PATH, service, 1, search);
    if (err) {
        tn_logf(&n->log, TN_LOG_ERROR, "dns", "%s can't be set: %s", TN_RESOLV_PATH, tn_err_text(err));
        return;
    }
    if (!m->set) tn_logf(&n->log, TN_LOG_INFO, "dns", "this host's names are resolved by the tailnet");
    m->set = true;
    memcpy(m->search, search, sizeof search);
}

/* ---- life ---- */

static int listen_at(struct tn_node *n, int i)
{
    struct tn_addrport at = {service[i], SERVICE_PORT};
    int err = tn_udp_bind(n->stack, &at, &udp_events, n, &n->magicdns->udps[i]);
    return err ? err : tn_tcp_listen(n->stack, &at, BACKLOG, on_accept, n, &n->magicdns->listener[i]);
}

int tn_magicdns_new(struct tn_node *n)
{
    if (!n->config.tun) return 0;
    int err = tn_resolv_restore(TN_RESOLV_PATH);
    if (err) tn_logf(&n->log, TN_LOG_WARN, "dns", "%s can't be put back: %s", TN_RESOLV_PATH, tn_err_text(err));
    if (!n->config.tun_dns) return 0;
    struct tn_magicdns *m = n->magicdns = calloc(1, sizeof *m);
    if (!m) return TN_E_NOMEM;
    tn_list_init(&m->asks);
    tn_list_init(&m->conns);
    tn_resolv_read(TN_RESOLV_PATH, &m->host);
    tn_resolv_behind_stub(&m->host, TN_RESOLV_UPLINKS);
    err = tn_stack_set_addrs(n->stack, service, TN_MAGICDNS_ADDRS, tn_node_now());
    for (int i = 0; i < TN_MAGICDNS_ADDRS && !err; i++) err = listen_at(n, i);
    return err;
}

void tn_magicdns_free(struct tn_node *n)
{
    struct tn_magicdns *m = n->magicdns;
    if (!m) return;
    int err = m->set ? tn_resolv_restore(TN_RESOLV_PATH) : 0;
    if (err) tn_logf(&n->log, TN_LOG_ERROR, "dns", "%s can't be put back: %s", TN_RESOLV_PATH, tn_err_text(err));
    while (!tn_list_empty(&m->conns)) {
        struct conn *c = TN_CONTAINER(m->conns.next, struct conn, link);
        tn_tcp_abort(c->tcp, tn_node_now());
        free_conn(c);
    }
    while (!tn_list_empty(&m->asks)) free_ask(TN_CONTAINER(m->asks.next, struct ask, link));
    for (int i = 0; i < TN_MAGICDNS_ADDRS; i++) {
        if (m->udps[i]) tn_udp_unbind(m->udps[i]);
        if (m->listener[i]) tn_tcp_unlisten(m->listener[i]);
    }
    free(m);
    n->magicdns = NULL;
}
