/* Connections of the PeerAPI: the stack's flows on one side, peerapi.c's engine on the other.
 *
 * A connection is freed only from tn_peerapi_server_timeout (the reaper): its end may be noticed deep inside its own
 * callbacks, or inside an answer of the resolver. `ended` ones wait in the reap list, which makes the deadline "now". */
#include "node/peerapi_server.h"

#include "node/peerapi.h"
#include "util/buf.h"
#include "util/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CONNS_MAX = 2048,          /* an HTTP connection costs a few KiB */
    /* Go's HTTP client opens one per lookup under way and keeps two: a second's worth of a busy peer's names, when the
     * upstream is slow. */
    CONNS_PER_PEER = 512,
    HALF_OPEN_MAX = 512,
    BACKLOG_MAX = 512 * 1024,  /* unsent responses of one connection; a client that reads nothing is dropped */
    FILTERED_MAX = 1024,       /* names in ExitNodeFilteredSet */
};

struct conn {
    struct tn_list link; /* conns or reap */
    struct tn_node *node;
    struct tn_tcp *tcp; /* NULL once the flow is over */
    struct tn_peerapi_conn *api;
    struct tn_buf out;
    struct tn_timer timer;
    int64_t peer;
    bool paused, eof, close_when_sent, ended, in_pump;
};

struct listener {
    struct tn_tcp_listener *tcp;
    struct tn_ip ip;
    uint16_t port;
};

struct tn_peerapi_server {
    struct tn_peerapi *api;
    struct tn_list conns, reap;
    unsigned count;
    struct tn_heap timers;
    struct listener listeners[4];
    size_t nlisteners;
    char **filtered;
    size_t nfiltered;
};

/* ---- a connection ---- */

static void rearm(struct conn *c)
{
    struct tn_peerapi_server *s = c->node->peerapi;
    uint64_t at = c->ended ? TN_NEVER : tn_httpd_next_deadline(tn_peerapi_conn_http(c->api));
    if (at == TN_NEVER) tn_timer_stop(&s->timers, &c->timer);
    else (void)tn_timer_arm(&s->timers, &c->timer, at);
}

static void end_conn(struct conn *c)
{
    if (c->ended) return;
    c->ended = true;
    tn_list_remove(&c->link);
    tn_list_push_back(&c->node->peerapi->reap, &c->link);
}

static void free_conn(struct conn *c, bool graceful)
{
    struct tn_peerapi_server *s = c->node->peerapi;
    tn_list_remove(&c->link);
    tn_timer_stop(&s->timers, &c->timer);
    s->count--;
    if (c->tcp && graceful) tn_tcp_release(c->tcp, tn_node_now());
    else if (c->tcp) tn_tcp_abort(c->tcp, tn_node_now());
    tn_peerapi_conn_free(c->api);
    tn_buf_fini(&c->out);
    free(c);
}

/* Sends what waits. Returns whether nothing waits any more. */
static bool flush(struct conn *c, uint64_t now_us)
{
    while (c->tcp && tn_buf_len(&c->out) > 0) {
        long n = tn_tcp_write(c->tcp, tn_buf_data(&c->out), tn_buf_len(&c->out), now_us);
        if (n < 0) end_conn(c);
        if (n <= 0) return false;
        tn_buf_consume(&c->out, (size_t)n);
    }
    if (c->close_when_sent) end_conn(c);
    return true;
}

static int http_write(void *ctx, const void *bytes, size_t len)
{
    struct conn *c = ctx;
    if (c->ended || !c->tcp) return TN_E_CLOSED;
    (void)tn_timer_arm(&c->node->peerapi->timers, &c->timer, 0); /* an answer may let a pipelined request go on */
    if (tn_buf_append(&c->out, bytes, len) != 0) {
        end_conn(c);
        return TN_E_TOOBIG;
    }
    return flush(c, tn_node_now()) ? 0 : 1;
}

static void http_close(void *ctx)
{
    struct conn *c = ctx;
    c->close_when_sent = true;
    if (tn_buf_len(&c->out) == 0) end_conn(c);
}

static void read_some(struct conn *c, uint64_t now_us);

static void http_resume(void *ctx)
{
    struct conn *c = ctx;
    c->paused = false;
    if (!c->in_pump) read_some(c, tn_node_now());
}

static void read_some(struct conn *c, uint64_t now_us)
{
    struct tn_httpd *http = tn_peerapi_conn_http(c->api);
    c->in_pump = true;
    while (c->tcp && !c->ended && !c->paused) {
        struct iovec iov;
        if (tn_tcp_peek(c->tcp, &iov, 1) <= 0) break;
        int r = tn_httpd_input(http, iov.iov_base, iov.iov_len, now_us);
        if (r < 0) end_conn(c);
        if (r == 1) c->paused = true;
        if (c->tcp) tn_tcp_consume(c->tcp, iov.iov_len, now_us);
    }
    if (c->tcp && !c->ended && !c->eof && tn_tcp_eof(c->tcp)) {
        c->eof = true;
        tn_httpd_eof(http, now_us);
    }
    c->in_pump = false;
    rearm(c);
}

static void flow_readable(void *arg, struct tn_tcp *tcp, uint64_t now_us) { read_some(arg, now_us); }

static void flow_writable(void *arg, struct tn_tcp *tcp, uint64_t now_us)
{
    struct conn *c = arg;
    if (!c->ended && flush(c, now_us) && !c->ended) tn_httpd_drained(tn_peerapi_conn_http(c->api), now_us);
    rearm(c);
}

static void flow_closed(void *arg, int err, uint64_t now_us)
{
    struct conn *c = arg;
    c->tcp = NULL;
    end_conn(c);
}

static const struct tn_tcp_events flow_events = {
    .on_readable = flow_readable, .on_writable = flow_writable, .on_close = flow_closed};

/* ---- accepting ---- */

static unsigned conns_of(const struct tn_peerapi_server *s, int64_t peer)
{
    unsigned n = 0;
    TN_LIST_EACH(link, &s->conns) n += TN_CONTAINER(link, struct conn, link)->peer == peer;
    return n;
}

static int start_conn(struct conn *c, const struct tn_netnode *node, uint64_t now_us)
{
    struct tn_node *n = c->node;
    const struct tn_netmap *m = tn_control_netmap(n->control);
    const struct tn_netnode *self = tn_netmap_self(m);
    const struct tn_user_profile *user = tn_netmap_user(m, node->user);
    struct tn_peerapi_peer who = {.same_user = self && self->user == node->user && !self->tags && !node->tags};
    snprintf(who.user, sizeof who.user, "%s", user && user->display_name ? user->display_name : "");
    snprintf(who.name, sizeof who.name, "%s", node->name ? node->name : "");
    struct tn_addrport remote = tn_tcp_remote(c->tcp);
    struct tn_httpd_config io = {.write = http_write, .on_close = http_close, .on_resume = http_resume, .ctx = c};
    return tn_peerapi_conn_new(n->peerapi->api, &remote.ip, &who, &io, now_us, &c->api);
}

static int accepted(void *arg, struct tn_tcp *tcp, uint64_t now_us)
{
    struct tn_node *n = arg;
    struct tn_peerapi_server *s = n->peerapi;
    struct tn_addrport remote = tn_tcp_remote(tcp);
    struct tn_npeer *peer = tn_node_peer_by_addr(n, &remote.ip);
    const struct tn_netnode *node = peer ? tn_node_netnode(n, peer) : NULL;
    if (!node) return TN_E_ACCES;
    if (s->count >= CONNS_MAX || conns_of(s, peer->id) >= CONNS_PER_PEER) return TN_E_LIMIT;
    struct conn *c = calloc(1, sizeof *c);
    if (!c) return TN_E_NOMEM;
    c->node = n;
    c->tcp = tcp;
    c->peer = peer->id;
    tn_buf_init(&c->out, BACKLOG_MAX);
    int err = start_conn(c, node, now_us);
    if (err) {
        free(c);
        return err;
    }
    s->count++;
    tn_list_push_back(&s->conns, &c->link);
    tn_tcp_set_events(tcp, &flow_events, c);
    read_some(c, now_us);
    return 0;
}

/* ---- listening ---- */

static void unlisten(struct tn_peerapi_server *s)
{
    for (size_t i = 0; i < s->nlisteners; i++) tn_tcp_unlisten(s->listeners[i].tcp);
    s->nlisteners = 0;
}

static void listen_on(struct tn_node *n, const struct tn_ip *ip)
{
    struct tn_peerapi_server *s = n->peerapi;
    struct listener *l = &s->listeners[s->nlisteners];
    for (unsigned attempt = 0; attempt < TN_PEERAPI_PORT_TRIES; attempt++) {
        struct tn_addrport local = {.ip = *ip, .port = tn_peerapi_port(ip, attempt)};
        if (tn_tcp_listen(n->stack, &local, HALF_OPEN_MAX, accepted, n, &l->tcp) != 0) continue;
        l->ip = *ip;
        l->port = local.port;
        s->nlisteners++;
        return;
    }
    tn_logf(&n->log, TN_LOG_WARN, "peerapi", "no port for the PeerAPI");
}

void tn_peerapi_server_ports(const struct tn_node *n, uint16_t *port4, uint16_t *port6)
{
    *port4 = *port6 = 0;
    for (size_t i = 0; n->peerapi && i < n->peerapi->nlisteners; i++) {
        const struct listener *l = &n->peerapi->listeners[i];
        uint16_t *slot = l->ip.family == 4 ? port4 : port6;
        if (!*slot) *slot = l->port;
    }
}

static bool same_addresses(const struct tn_node *n)
{
    const struct tn_peerapi_server *s = n->peerapi;
    bool same = s->nlisteners == n->nown;
    for (size_t i = 0; same && i < n->nown; i++) same = tn_ip_eq(&s->listeners[i].ip, &n->own[i]);
    return same;
}

int tn_peerapi_server_update(struct tn_node *n, uint64_t now_us)
{
    struct tn_peerapi_server *s = n->peerapi;
    uint16_t port4, port6;
    if (same_addresses(n)) return 0;
    unlisten(s);
    for (size_t i = 0; i < n->nown && i < sizeof s->listeners / sizeof *s->listeners; i++) listen_on(n, &n->own[i]);
    tn_peerapi_server_ports(n, &port4, &port6);
    tn_filter_set_peerapi_ports(n->filter, port4, port6);
    return tn_node_push_host(n);
}

/* ---- what the PeerAPI asks of the node ---- */

static bool is_own(void *ctx, const struct tn_ip *ip)
{
    const struct tn_node *n = ctx;
    for (size_t i = 0; i < n->nown; i++)
        if (tn_ip_eq(&n->own[i], ip)) return true;
    return false;
}

static bool may_reach_internet(void *ctx, const struct tn_ip *src) { return tn_node_may_use_exit(ctx, src); }

const char *const *tn_peerapi_server_filtered(const struct tn_node *n, size_t *count)
{
    *count = n->peerapi ? n->peerapi->nfiltered : 0;
    return n->peerapi ? (const char *const *)n->peerapi->filtered : NULL;
}

static const char *const *filtered(void *ctx, size_t *count) { return tn_peerapi_server_filtered(ctx, count); }

static int resolve(void *ctx, const struct tn_ip *src, const uint8_t *query, size_t len, uint64_t now_us,
                   void (*answer)(void *arg, int err, const uint8_t *bytes, size_t len), void *arg, void **handle)
{
    struct tn_node *n = ctx;
    struct tn_dns_query *q;
    uint64_t peer = tn_node_peer_of(n, src);
    if (!n->dns || !peer) return TN_E_POLICY;
    int err = tn_dns_ask(n->dns, peer, query, len, TN_DNS_MAX, now_us, answer, arg, &q);
    if (!err) *handle = q;
    return err;
}

static void cancel(void *ctx, void *handle) { tn_dns_cancel(handle); }

static void drop_filtered(struct tn_peerapi_server *s)
{
    for (size_t i = 0; i < s->nfiltered; i++) free(s->filtered[i]);
    free(s->filtered);
    s->filtered = NULL;
    s->nfiltered = 0;
}

void tn_peerapi_server_set_dns(struct tn_node *n, const json_t *dns_config)
{
    struct tn_peerapi_server *s = n->peerapi;
    const json_t *set = json_object_get(dns_config, "ExitNodeFilteredSet");
    size_t count = json_array_size(set);
    drop_filtered(s);
    if (count > FILTERED_MAX) count = FILTERED_MAX;
    if (count) s->filtered = calloc(count, sizeof *s->filtered);
    for (size_t i = 0; s->filtered && i < count; i++) {
        const char *name = json_string_value(json_array_get(set, i));
        char *copy = name ? strdup(name) : NULL;
        if (copy) s->filtered[s->nfiltered++] = copy;
    }
}

/* ---- life ---- */

static void reap(struct tn_peerapi_server *s)
{
    while (!tn_list_empty(&s->reap)) free_conn(TN_CONTAINER(s->reap.next, struct conn, link), true);
}

void tn_peerapi_server_timeout(struct tn_node *n, uint64_t now_us)
{
    struct tn_peerapi_server *s = n->peerapi;
    for (struct tn_timer *t; (t = tn_heap_pop_due(&s->timers, now_us));) {
        struct conn *c = TN_CONTAINER(t, struct conn, timer);
        tn_httpd_timeout(tn_peerapi_conn_http(c->api), now_us);
        rearm(c);
    }
    reap(s);
}

uint64_t tn_peerapi_server_next_deadline(const struct tn_node *n)
{
    const struct tn_peerapi_server *s = n->peerapi;
    return tn_list_empty(&s->reap) ? tn_heap_next(&s->timers) : 0;
}

int tn_peerapi_server_new(struct tn_node *n)
{
    struct tn_peerapi_server *s = calloc(1, sizeof *s);
    if (!s) return TN_E_NOMEM;
    tn_list_init(&s->conns);
    tn_list_init(&s->reap);
    tn_heap_init(&s->timers);
    struct tn_peerapi_config pc = {.ctx = n,
                                   .log = &n->log,
                                   .is_own = is_own,
                                   .may_reach_internet = may_reach_internet,
                                   .filtered = filtered,
                                   .resolve = resolve,
                                   .cancel = cancel};
    int err = tn_peerapi_new(&pc, &s->api);
    if (err) {
        free(s);
        return err;
    }
    n->peerapi = s;
    return 0;
}

void tn_peerapi_server_free(struct tn_node *n)
{
    struct tn_peerapi_server *s = n->peerapi;
    if (!s) return;
    unlisten(s);
    while (!tn_list_empty(&s->conns)) free_conn(TN_CONTAINER(s->conns.next, struct conn, link), false);
    reap(s);
    tn_peerapi_free(s->api);
    tn_heap_fini(&s->timers);
    drop_filtered(s);
    free(s);
    n->peerapi = NULL;
}
