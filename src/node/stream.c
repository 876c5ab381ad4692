/* Streams (include/tailnet.h): a thin shell around a flow of the stack. The application sees the stack's own chunks, so a
 * byte is copied once on its way in or out, and no descriptor, system call or thread switch lies between.
 *
 * A stream ends in one of two ways: its closed handler is called, after which it is gone; or its owner closes or aborts
 * it, after which no handler is called. Either may happen inside a handler of its own: nothing here looks at a stream
 * after a handler has returned. */
#include "node/stream.h"

#include "node/dial.h"
#include "tailnet.h"
#include "util/err.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BACKLOG = 128 };

struct tailnet_stream {
    struct tn_list link; /* of the node's streams */
    struct tn_tcp *tcp;
    const tailnet_stream_handlers *h;
    void *ctx;
    struct tn_node *node;
};

struct tailnet_stream_listener {
    struct tn_node *node;
    struct tn_tcp_listener *tcp;
    struct tn_addrport local;
    void (*accept)(void *ctx, tailnet_stream *s);
    void *ctx;
};

static void bury(tailnet_stream *s)
{
    tn_list_remove(&s->link);
    free(s);
}

static void on_open(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    tailnet_stream *s = arg;
    if (s->h && s->h->open) s->h->open(s->ctx, s);
}

static void on_readable(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    tailnet_stream *s = arg;
    if (s->h && s->h->readable) s->h->readable(s->ctx, s);
}

static void on_writable(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    tailnet_stream *s = arg;
    if (s->h && s->h->writable) s->h->writable(s->ctx, s);
}

static void over(tailnet_stream *s, int err)
{
    const tailnet_stream_handlers *h = s->h;
    void *ctx = s->ctx;
    bury(s);
    if (h && h->closed) h->closed(ctx, err);
}

static void on_close(void *arg, int err, uint64_t now_us) { over(arg, err); }

static const struct tn_tcp_events events = {
    .on_open = on_open, .on_readable = on_readable, .on_writable = on_writable, .on_close = on_close};

static tailnet_stream *stream_new(struct tn_node *n, const tailnet_stream_handlers *h, void *ctx)
{
    tailnet_stream *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    *s = (tailnet_stream){.node = n, .h = h, .ctx = ctx};
    tn_list_push_back(&n->streams, &s->link);
    return s;
}

void tn_streams_end(struct tn_node *n)
{
    for (struct tn_list *link; (link = n->streams.next) != &n->streams;) {
        tailnet_stream *s = TN_CONTAINER(link, struct tailnet_stream, link);
        tn_tcp_abort(s->tcp, tn_node_now());
        over(s, TN_E_CLOSED);
    }
}

/* ---- on the node's thread ---- */

void tailnet_stream_handle(tailnet_stream *s, const tailnet_stream_handlers *h, void *ctx)
{
    s->h = h;
    s->ctx = ctx;
}

int tailnet_stream_peek(tailnet_stream *s, struct iovec *views, int n) { return tn_tcp_peek(s->tcp, views, n); }
void tailnet_stream_consume(tailnet_stream *s, size_t len) { tn_tcp_consume(s->tcp, len, tn_node_now()); }
int tailnet_stream_ended(tailnet_stream *s) { return tn_tcp_eof(s->tcp); }

int tailnet_stream_reserve(tailnet_stream *s, struct iovec *views, int n, size_t want)
{
    return tn_tcp_reserve(s->tcp, views, n, want);
}

void tailnet_stream_commit(tailnet_stream *s, size_t len) { tn_tcp_commit(s->tcp, len, tn_node_now()); }

long tailnet_stream_write(tailnet_stream *s, const void *bytes, size_t len)
{
    return tn_tcp_write(s->tcp, bytes, len, tn_node_now());
}

void tailnet_stream_shutdown(tailnet_stream *s) { tn_tcp_shutdown(s->tcp, tn_node_now()); }

void tailnet_stream_close(tailnet_stream *s)
{
    tn_tcp_release(s->tcp, tn_node_now());
    bury(s);
}

void tailnet_stream_abort(tailnet_stream *s)
{
    tn_tcp_abort(s->tcp, tn_node_now());
    bury(s);
}

void tailnet_stream_remote(tailnet_stream *s, char *text, size_t len)
{
    char full[TN_ADDRPORT_STRLEN];
    struct tn_addrport remote = tn_tcp_remote(s->tcp);
    if (len) snprintf(text, len, "%s", tn_addrport_format(&remote, full));
}

/* ---- from any thread ---- */

static bool on_loop(const struct tn_node *n)
{
    pthread_mutex_t *mu = (pthread_mutex_t *)(uintptr_t)&n->mu;
    pthread_mutex_lock(mu);
    bool yes = n->running_thread && pthread_equal(n->thread, pthread_self());
    pthread_mutex_unlock(mu);
    return yes;
}

/* tn_node_call, which must not wait for the thread it is on. */
static int call(struct tn_node *n, void (*fn)(struct tn_node *n, void *arg), void *arg)
{
    if (!on_loop(n)) return tn_node_call(n, fn, arg);
    fn(n, arg);
    return 0;
}

struct run_call {
    void (*fn)(void *ctx);
    void *ctx;
};

static void run(struct tn_node *n, void *arg)
{
    struct run_call *r = arg;
    r->fn(r->ctx);
}

/* The node is the first member of what the application holds (api.c). */
static struct tn_node *node_of(tailnet *t) { return (struct tn_node *)(void *)t; }

int tailnet_run(tailnet *t, void (*fn)(void *ctx), void *ctx)
{
    struct run_call r = {fn, ctx};
    return call(node_of(t), run, &r);
}

struct dial_call {
    char host[256];
    uint16_t port;
    const tailnet_stream_handlers *h;
    void *ctx;
    tailnet_stream *s;
    int err;
};

static void dial(struct tn_node *n, void *arg)
{
    struct dial_call *d = arg;
    struct tn_addrport to = {.port = d->port};
    d->err = tn_node_resolve(n, d->host, 0, &to.ip);
    if (d->err) return;
    d->s = stream_new(n, d->h, d->ctx);
    if (!d->s) d->err = TN_E_NOMEM;
    else d->err = tn_node_connect(n, &to, &events, d->s, &d->s->tcp);
    if (d->err && d->s) bury(d->s);
}

int tailnet_stream_dial(tailnet *t, const char *address, const tailnet_stream_handlers *h, void *ctx, tailnet_stream **out)
{
    struct dial_call d = {.h = h, .ctx = ctx};
    int err = tn_hostport_split(address, d.host, &d.port);
    if (!err) err = call(node_of(t), dial, &d);
    if (!err) err = d.err;
    if (err) tn_node_set_error(node_of(t), "dial %.120s: %s", address, tn_err_text(err));
    else if (out) *out = d.s;
    return err;
}

static int accepted(void *arg, struct tn_tcp *tcp, uint64_t now_us)
{
    tailnet_stream_listener *l = arg;
    tailnet_stream *s = stream_new(l->node, NULL, NULL);
    if (!s) return TN_E_NOMEM;
    s->tcp = tcp;
    tn_tcp_set_events(tcp, &events, s);
    l->accept(l->ctx, s);
    return 0;
}

struct listen_call {
    tailnet_stream_listener *l;
    int err;
};

static void listen_begin(struct tn_node *n, void *arg)
{
    struct listen_call *c = arg;
    c->err = tn_tcp_listen(n->stack, &c->l->local, BACKLOG, accepted, c->l, &c->l->tcp);
}

int tailnet_stream_listen(tailnet *t, const char *address, void (*accept)(void *ctx, tailnet_stream *s), void *ctx,
                          tailnet_stream_listener **out)
{
    char host[256];
    struct listen_call c = {.l = calloc(1, sizeof *c.l)};
    if (!c.l) return TN_E_NOMEM;
    *c.l = (tailnet_stream_listener){.node = node_of(t), .accept = accept, .ctx = ctx};
    int err = tn_hostport_split(address, host, &c.l->local.port);
    if (!err && *host && tn_ip_parse(host, &c.l->local.ip) != 0) err = TN_E_INVAL;
    if (!err) err = call(node_of(t), listen_begin, &c);
    if (!err) err = c.err;
    if (err) {
        tn_node_set_error(node_of(t), "listen %.120s: %s", address, tn_err_text(err));
        free(c.l);
        return err;
    }
    *out = c.l;
    return 0;
}

static void listen_end(struct tn_node *n, void *arg) { tn_tcp_unlisten(((tailnet_stream_listener *)arg)->tcp); }

void tailnet_stream_listener_close(tailnet_stream_listener *l)
{
    if (!l) return;
    (void)call(l->node, listen_end, l); /* when the node is gone already, so is its listener */
    free(l);
}
