/* Connections of the node itself, over libuv.
 *
 * One struct conn is one stream: resolving -> connecting -> handshake (TLS) -> open -> dead. Addresses are tried in order, a
 * new attempt every 250 ms while earlier ones hang (RFC 8305 in small); the first that connects wins.
 *
 * Ownership: the owner's handle is embedded in the conn. Once the owner has closed it, or on_close was called, the conn is
 * dead: no callback any more, and it frees itself when libuv has let go of its last handle (`handles` counts them,
 * attempts included, so an attempt's conn pointer is always good). `busy` keeps it alive while its own code runs. */
#include "node/dialer.h"

#include "util/buf.h"
#include "util/err.h"
#include "util/list.h"
#include "util/resolve.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
    LAST_GOOD_MAX = 8,                   /* names: the control server and relays that are known by name alone */
    LAST_GOOD_AFTER_MS = 3000,           /* a resolver that has not answered by then may be gone */
    ATTEMPT_DELAY_MS = 250,              /* RFC 8305 section 5 */
    TLS_RECORD = 16 * 1024,              /* the largest; one read never brings more */
    READ_BUFFER = 64 * 1024,             /* one for all streams of a node: reads are consumed before the next one */
    WRITE_BACKLOG_MAX = 8 * 1024 * 1024, /* a peer that stops reading while we must write: give up on it */
    GATHER = 16 * 1024,                  /* a full TLS record: gathered plaintext is sealed at this size at the latest */
};

/* What a name meant when it was last looked up with success: taken when the resolver fails or is silent. With an exit
 * node in use the host's resolver may be asked through the very tunnel that this connection is needed to repair. */
struct last_good {
    char host[256];
    struct tn_addrport addrs[TN_RESOLVE_MAX];
    size_t n;
};

struct tn_uvdialer {
    struct last_good *last_good; /* LAST_GOOD_MAX of them; NULL before the first lookup */
    unsigned next_good;
    uv_loop_t *loop;
    struct tn_tls_ctx *tls;
    const struct tn_log *log;
    struct tn_dialer iface;
    uint8_t *read_buffer; /* there while any stream is */
    unsigned conns;
    uint32_t mark;
    struct tn_list dirty; /* streams with gathered plaintext */
    uv_prepare_t flusher; /* seals and sends it before the loop sleeps */
    uv_idle_t awake;      /* active while something is gathered, so that it does not sleep before that */
};

enum state { RESOLVING, CONNECTING, HANDSHAKE, OPEN, DEAD };

struct attempt {
    uv_tcp_t tcp; /* data: the attempt */
    uv_connect_t req;
    struct conn *conn;
};

struct conn {
    struct tn_stream stream;
    struct tn_uvdialer *dialer;
    const struct tn_stream_events *events;
    void *arg;
    enum state state;
    int handles, busy;
    bool backlog, paused, reading, failing;
    int fail_err;

    struct tn_addrport addrs[TN_RESOLVE_MAX];
    size_t naddrs, next_addr;
    struct attempt *attempts[TN_RESOLVE_MAX]; /* under way; [0] is the winner once connected */
    int nattempts, last_err;

    struct tn_resolve *resolve;
    uv_poll_t *resolve_poll;
    char *host; /* while it is looked up */
    uint16_t port;
    uv_timer_t deadline; /* the whole dial; later the deferred failure */
    uv_timer_t stagger;
    struct tn_tls *tls;  /* NULL: plain */
    struct tn_list dirty; /* in the dialer's list while gathered is not empty */
    struct tn_buf gathered;
};

struct write_req {
    uv_write_t req;
    struct conn *conn;
    uint8_t bytes[];
};

static uint64_t clock_us(void) { return uv_hrtime() / 1000; }
static struct conn *conn_of(struct tn_stream *s) { return TN_CONTAINER(s, struct conn, stream); }

/* ---- the end of a conn ---- */

static void maybe_free(struct conn *c)
{
    if (c->state != DEAD || c->handles > 0 || c->busy > 0) return;
    struct tn_uvdialer *d = c->dialer;
    if (--d->conns == 0) {
        free(d->read_buffer);
        d->read_buffer = NULL;
    }
    free(c);
}

static void timer_closed(uv_handle_t *h)
{
    struct conn *c = h->data;
    c->handles--;
    maybe_free(c);
}

static void poll_closed(uv_handle_t *h)
{
    struct conn *c = h->data;
    free(h);
    c->handles--;
    maybe_free(c);
}

static void attempt_closed(uv_handle_t *h)
{
    struct attempt *a = h->data;
    struct conn *c = a->conn;
    free(a);
    c->handles--;
    maybe_free(c);
}

static void stop_resolving(struct conn *c)
{
    if (!c->resolve) return;
    if (c->resolve_poll) {
        uv_poll_stop(c->resolve_poll);
        uv_close((uv_handle_t *)c->resolve_poll, poll_closed);
        c->resolve_poll = NULL;
    }
    tn_resolve_free(c->resolve);
    c->resolve = NULL;
    free(c->host);
    c->host = NULL;
}

static void close_attempt(struct conn *c, int i)
{
    struct attempt *a = c->attempts[i];
    c->attempts[i] = c->attempts[--c->nattempts];
    uv_close((uv_handle_t *)&a->tcp, attempt_closed);
}

/* From any state to dead; the owner gets nothing from here. */
static void bury(struct conn *c)
{
    if (c->state == DEAD) return;
    c->state = DEAD;
    stop_resolving(c);
    while (c->nattempts > 0) close_attempt(c, 0);
    uv_close((uv_handle_t *)&c->deadline, timer_closed);
    uv_close((uv_handle_t *)&c->stagger, timer_closed);
    tn_tls_free(c->tls);
    c->tls = NULL;
    tn_list_remove(&c->dirty);
    tn_buf_fini(&c->gathered);
    maybe_free(c);
}

/* Ends the stream with a reason and tells the owner. */
static void fail(struct conn *c, int err)
{
    if (c->state == DEAD) return;
    const struct tn_stream_events *ev = c->events;
    void *arg = c->arg;
    if (err == TN_E_CERT || err == TN_E_TLS)
        tn_logf(c->dialer->log, TN_LOG_WARN, "dial", "TLS: %s", c->tls ? tn_tls_error(c->tls) : tn_err_text(err));
    bury(c);
    ev->on_close(arg, err, clock_us());
}

static void deferred_failure(uv_timer_t *t)
{
    struct conn *c = t->data;
    fail(c, c->fail_err);
}

/* For failures inside a call of the owner: on_close follows from the loop. */
static void fail_later(struct conn *c, int err)
{
    if (c->state == DEAD || c->failing) return;
    c->failing = true;
    c->fail_err = err;
    uv_timer_start(&c->deadline, deferred_failure, 0, 0);
}

static void deadline_passed(uv_timer_t *t) { fail(t->data, TN_E_TIMEDOUT); }

/* ---- writing ---- */

static void write_done(uv_write_t *req, int status)
{
    struct write_req *w = TN_CONTAINER(req, struct write_req, req);
    struct conn *c = w->conn;
    free(w);
    if (c->state == DEAD || c->nattempts == 0) return;
    if (status < 0) {
        fail(c, status);
        return;
    }
    uv_stream_t *s = (uv_stream_t *)&c->attempts[0]->tcp;
    if (!c->backlog || uv_stream_get_write_queue_size(s) > 0) return;
    c->backlog = false;
    if (c->state == OPEN && c->events->on_drain) c->events->on_drain(c->arg, &c->stream, clock_us());
}

/* Hands bytes to the kernel, queueing a copy of what does not fit. */
static int write_raw(struct conn *c, const uint8_t *bytes, size_t len)
{
    uv_stream_t *s = (uv_stream_t *)&c->attempts[0]->tcp;
    if (uv_stream_get_write_queue_size(s) == 0) {
        uv_buf_t buf = uv_buf_init((char *)(uintptr_t)bytes, (unsigned)len);
        int n = uv_try_write(s, &buf, 1);
        if (n < 0 && n != UV_EAGAIN) return n;
        if (n > 0) {
            bytes += n;
            len -= (size_t)n;
        }
    }
    if (len == 0) return 0;
    if (uv_stream_get_write_queue_size(s) + len > WRITE_BACKLOG_MAX) return TN_E_TOOBIG;
    struct write_req *w = malloc(sizeof *w + len);
    if (!w) return TN_E_NOMEM;
    w->conn = c;
    memcpy(w->bytes, bytes, len);
    uv_buf_t buf = uv_buf_init((char *)w->bytes, (unsigned)len);
    int err = uv_write(&w->req, s, &buf, 1, write_done);
    if (err) {
        free(w);
        return err;
    }
    c->backlog = true;
    return 0;
}

static int flush_tls(struct conn *c)
{
    const uint8_t *bytes;
    for (size_t len; (len = tn_tls_output(c->tls, &bytes)) > 0;) {
        int err = write_raw(c, bytes, len);
        if (err) return err;
        tn_tls_output_consume(c->tls, len);
    }
    return 0;
}

/* Seals what was gathered and sends it. */
static int flush_gathered(struct conn *c)
{
    tn_list_remove(&c->dirty);
    if (tn_buf_len(&c->gathered) == 0) return 0;
    int err = tn_tls_write(c->tls, tn_buf_data(&c->gathered), tn_buf_len(&c->gathered));
    tn_buf_consume(&c->gathered, tn_buf_len(&c->gathered));
    return err ? err : flush_tls(c);
}

static void flush_dirty(uv_prepare_t *p)
{
    struct tn_uvdialer *d = p->data;
    for (struct tn_list *link; (link = tn_list_pop_front(&d->dirty));) {
        struct conn *c = TN_CONTAINER(link, struct conn, dirty);
        int err = flush_gathered(c);
        if (err) fail_later(c, err);
    }
    uv_prepare_stop(&d->flusher);
    uv_idle_stop(&d->awake);
}

static void stay_awake(uv_idle_t *i) {}

/* Many small writes of one turn (a DERP frame is a packet) become few TLS records and few system calls. */
static int gather(struct conn *c, const void *bytes, size_t len)
{
    struct tn_uvdialer *d = c->dialer;
    if (tn_buf_len(&c->gathered) + len > GATHER) {
        int err = flush_gathered(c);
        if (err) return err;
    }
    if (len > GATHER) {
        int err = tn_tls_write(c->tls, bytes, len);
        return err ? err : flush_tls(c);
    }
    int err = tn_buf_append(&c->gathered, bytes, len);
    if (err) return err;
    if (tn_list_empty(&d->dirty)) {
        uv_prepare_start(&d->flusher, flush_dirty);
        uv_idle_start(&d->awake, stay_awake);
    }
    if (tn_list_empty(&c->dirty)) tn_list_push_back(&d->dirty, &c->dirty);
    return 0;
}

static int stream_write(struct tn_stream *s, const void *bytes, size_t len)
{
    struct conn *c = conn_of(s);
    if (c->state != OPEN || c->failing) return TN_E_NOTCONN;
    int err = c->tls ? gather(c, bytes, len) : write_raw(c, bytes, len);
    if (err) {
        fail_later(c, err);
        return err;
    }
    return c->backlog ? 1 : 0;
}

/* ---- reading ---- */

static void got_plain(struct conn *c, const uint8_t *bytes, size_t len)
{
    c->events->on_data(c->arg, &c->stream, bytes, len, clock_us());
}

/* Drives TLS over what has arrived: finishes the handshake, then hands out plaintext. */
static void drive_tls(struct conn *c)
{
    if (c->state == HANDSHAKE) {
        int err = tn_tls_handshake(c->tls);
        int flushed = flush_tls(c);
        if (err == TN_E_AGAIN && flushed == 0) return;
        if (err || flushed) {
            fail(c, err && err != TN_E_AGAIN ? err : flushed);
            return;
        }
        c->state = OPEN;
        uv_timer_stop(&c->deadline);
        c->events->on_open(c->arg, &c->stream, clock_us());
    }
    while (c->state == OPEN && !c->paused && !c->failing) {
        uint8_t plain[TLS_RECORD];
        long n = tn_tls_read(c->tls, plain, sizeof plain);
        if (n > 0) {
            got_plain(c, plain, (size_t)n);
            continue;
        }
        if (n == TN_E_AGAIN) n = flush_tls(c); /* key updates and alerts */
        if (n != 0) fail(c, (int)n);
        return;
    }
}

static void alloc_read(uv_handle_t *h, size_t suggested, uv_buf_t *buf)
{
    struct attempt *a = h->data;
    struct tn_uvdialer *d = a->conn->dialer;
    if (!d->read_buffer) d->read_buffer = malloc(READ_BUFFER);
    *buf = uv_buf_init((char *)d->read_buffer, d->read_buffer ? READ_BUFFER : 0);
}

static void read_some(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
    struct attempt *a = s->data;
    struct conn *c = a->conn;
    if (c->state == DEAD || c->failing || n == 0) return;
    c->busy++;
    if (n < 0 && c->tls && c->state == OPEN) drive_tls(c); /* a pause may have left plaintext */
    if (n < 0) fail(c, n == UV_EOF ? TN_E_EOF : (int)n);
    else if (!c->tls) got_plain(c, (uint8_t *)buf->base, (size_t)n);
    else if (tn_tls_input(c->tls, buf->base, (size_t)n) != 0) fail(c, TN_E_NOMEM);
    else drive_tls(c);
    c->busy--;
    maybe_free(c);
}

static void set_reading(struct conn *c, bool on)
{
    if (c->reading == on || c->nattempts == 0) return;
    c->reading = on;
    uv_stream_t *s = (uv_stream_t *)&c->attempts[0]->tcp;
    if (on) uv_read_start(s, alloc_read, read_some);
    else uv_read_stop(s);
}

static void resume_tls(uv_timer_t *t)
{
    struct conn *c = t->data;
    c->busy++;
    drive_tls(c);
    c->busy--;
    maybe_free(c);
}

static void stream_pause(struct tn_stream *s, bool paused)
{
    struct conn *c = conn_of(s);
    if (c->state != OPEN || c->paused == paused) return;
    c->paused = paused;
    set_reading(c, !paused);
    if (!paused && c->tls) uv_timer_start(&c->stagger, resume_tls, 0, 0); /* plaintext may be waiting inside TLS */
}

/* ---- connecting ---- */

static void won(struct conn *c, struct attempt *winner)
{
    uv_timer_stop(&c->stagger);
    for (int i = c->nattempts - 1; i >= 0; i--)
        if (c->attempts[i] != winner) close_attempt(c, i);
    uv_tcp_nodelay(&winner->tcp, 1);
    uv_tcp_keepalive(&winner->tcp, 1, 60);
    set_reading(c, true);
    if (c->tls) {
        c->state = HANDSHAKE;
        drive_tls(c);
        return;
    }
    c->state = OPEN;
    uv_timer_stop(&c->deadline);
    c->events->on_open(c->arg, &c->stream, clock_us());
}

static void start_attempt(struct conn *c);

static void attempt_done(uv_connect_t *req, int status)
{
    struct attempt *a = TN_CONTAINER(req, struct attempt, req);
    struct conn *c = a->conn;
    if (c->state != CONNECTING) return; /* lost the race, or dead: its close is under way */
    c->busy++;
    if (status == 0) {
        won(c, a);
    } else {
        c->last_err = status;
        for (int i = 0; i < c->nattempts; i++)
            if (c->attempts[i] == a) close_attempt(c, i);
        start_attempt(c);
    }
    c->busy--;
    maybe_free(c);
}

static int mark_socket(const struct tn_uvdialer *d, const uv_tcp_t *tcp)
{
    uv_os_fd_t fd;
    if (!d->mark) return 0;
    int err = uv_fileno((const uv_handle_t *)tcp, &fd);
    if (err) return err;
    return setsockopt(fd, SOL_SOCKET, SO_MARK, &d->mark, sizeof d->mark) == 0 ? 0 : -errno;
}

static int connect_next(struct conn *c)
{
    struct tn_addrport to = c->addrs[c->next_addr++];
    struct sockaddr_storage sa;
    tn_addrport_to_sockaddr(&to, &sa);
    struct attempt *a = calloc(1, sizeof *a);
    if (!a) return TN_E_NOMEM;
    a->conn = c;
    int err = uv_tcp_init_ex(c->dialer->loop, &a->tcp, sa.ss_family); /* with its socket */
    if (err) {
        free(a);
        return err;
    }
    a->tcp.data = a;
    c->handles++;
    err = mark_socket(c->dialer, &a->tcp);
    if (!err) err = uv_tcp_connect(&a->req, &a->tcp, (struct sockaddr *)&sa, attempt_done);
    if (err) {
        uv_close((uv_handle_t *)&a->tcp, attempt_closed);
        return err;
    }
    c->attempts[c->nattempts++] = a;
    return 0;
}

static void stagger_passed(uv_timer_t *t)
{
    struct conn *c = t->data;
    if (c->state == CONNECTING) start_attempt(c);
}

/* Starts the next address; when none is left and none hangs, the dial has failed. */
static void start_attempt(struct conn *c)
{
    while (c->next_addr < c->naddrs) {
        int err = connect_next(c);
        if (err == 0) {
            if (c->next_addr < c->naddrs) uv_timer_start(&c->stagger, stagger_passed, ATTEMPT_DELAY_MS, 0);
            return;
        }
        c->last_err = err;
    }
    if (c->nattempts == 0) fail(c, c->last_err ? c->last_err : TN_E_HOSTUNREACH);
}

static struct last_good *find_good(const struct tn_uvdialer *d, const char *host)
{
    for (int i = 0; d->last_good && i < LAST_GOOD_MAX; i++)
        if (d->last_good[i].n && strcmp(d->last_good[i].host, host) == 0) return &d->last_good[i];
    return NULL;
}

static void keep_good(struct conn *c)
{
    struct tn_uvdialer *d = c->dialer;
    if (!d->last_good) d->last_good = calloc(LAST_GOOD_MAX, sizeof *d->last_good);
    if (!d->last_good || strlen(c->host) >= sizeof d->last_good->host) return;
    struct last_good *g = find_good(d, c->host);
    if (!g) g = &d->last_good[d->next_good++ % LAST_GOOD_MAX];
    snprintf(g->host, sizeof g->host, "%s", c->host);
    memcpy(g->addrs, c->addrs, c->naddrs * sizeof *c->addrs);
    g->n = c->naddrs;
}

static bool take_good(struct conn *c)
{
    const struct last_good *g = find_good(c->dialer, c->host);
    if (!g) return false;
    memcpy(c->addrs, g->addrs, g->n * sizeof *g->addrs);
    c->naddrs = g->n;
    for (size_t i = 0; i < g->n; i++) c->addrs[i].port = c->port;
    return true;
}

static void resolved(uv_poll_t *p, int status, int events)
{
    struct conn *c = p->data;
    int n = tn_resolve_result(c->resolve, c->addrs, TN_RESOLVE_MAX);
    if (n == TN_E_AGAIN) return;
    uv_timer_stop(&c->stagger);
    bool known = n >= 0 || take_good(c);
    if (n >= 0) {
        c->naddrs = (size_t)n;
        keep_good(c);
    }
    stop_resolving(c);
    if (!known) {
        fail(c, n);
        return;
    }
    c->state = CONNECTING;
    start_attempt(c);
}

static void resolver_silent(uv_timer_t *t)
{
    struct conn *c = t->data;
    if (c->state != RESOLVING || !take_good(c)) return;
    stop_resolving(c);
    c->state = CONNECTING;
    start_attempt(c);
}

static int start_resolving(struct conn *c, const struct tn_dial_spec *spec)
{
    int err = tn_resolve_start(spec->host, spec->port, &c->resolve);
    if (err) return err;
    c->resolve_poll = calloc(1, sizeof *c->resolve_poll);
    if (!c->resolve_poll) return TN_E_NOMEM;
    err = uv_poll_init(c->dialer->loop, c->resolve_poll, tn_resolve_fd(c->resolve));
    if (err) {
        free(c->resolve_poll);
        c->resolve_poll = NULL;
        return err;
    }
    c->handles++;
    c->resolve_poll->data = c;
    c->state = RESOLVING;
    c->port = spec->port;
    c->host = strdup(spec->host);
    if (!c->host) return TN_E_NOMEM;
    uv_timer_start(&c->stagger, resolver_silent, LAST_GOOD_AFTER_MS, 0);
    return uv_poll_start(c->resolve_poll, UV_READABLE, resolved);
}

static void first_attempt(uv_timer_t *t) { start_attempt(t->data); }

/* Fills the address list from the spec; 1 when a lookup is needed. */
static int known_addresses(struct conn *c, const struct tn_dial_spec *spec)
{
    if (spec->naddrs > 0) {
        c->naddrs = spec->naddrs < TN_RESOLVE_MAX ? spec->naddrs : TN_RESOLVE_MAX;
        memcpy(c->addrs, spec->addrs, c->naddrs * sizeof *c->addrs);
        return 0;
    }
    if (tn_ip_parse(spec->host, &c->addrs[0].ip) != 0) return 1;
    c->addrs[0].port = spec->port;
    c->naddrs = 1;
    return 0;
}

/* ---- the rest of the stream's operations ---- */

static void stream_close(struct tn_stream *s)
{
    struct conn *c = conn_of(s);
    if (c->state == OPEN && c->tls && !c->failing) { /* close_notify, if it fits; nobody waits for it */
        (void)flush_gathered(c);
        tn_tls_shutdown(c->tls);
        (void)flush_tls(c);
    }
    bury(c);
}

static bool stream_derp_meta(struct tn_stream *s, uint8_t key[32])
{
    struct conn *c = conn_of(s);
    return c->tls && tn_tls_derp_meta(c->tls, key);
}

static int stream_address(struct tn_stream *s, struct tn_addrport *out,
                          int (*get)(const uv_tcp_t *, struct sockaddr *, int *))
{
    struct conn *c = conn_of(s);
    struct sockaddr_storage sa;
    int len = sizeof sa;
    if (c->state != OPEN) return TN_E_NOTCONN;
    int err = get(&c->attempts[0]->tcp, (struct sockaddr *)&sa, &len);
    return err ? err : tn_addrport_from_sockaddr((struct sockaddr *)&sa, out);
}
static int stream_remote(struct tn_stream *s, struct tn_addrport *out)
{
    return stream_address(s, out, uv_tcp_getpeername);
}
static int stream_local(struct tn_stream *s, struct tn_addrport *out)
{
    return stream_address(s, out, uv_tcp_getsockname);
}

static const struct tn_stream_ops stream_ops = {
    .write = stream_write,
    .pause = stream_pause,
    .close = stream_close,
    .derp_meta = stream_derp_meta,
    .remote = stream_remote,
    .local = stream_local,
};

static int dial(void *ctx, const struct tn_dial_spec *spec, const struct tn_stream_events *events, void *arg,
                struct tn_stream **out)
{
    struct tn_uvdialer *d = ctx;
    struct conn *c = calloc(1, sizeof *c);
    if (!c) return TN_E_NOMEM;
    c->stream.ops = &stream_ops;
    c->dialer = d;
    c->events = events;
    c->arg = arg;
    tn_list_init(&c->dirty);
    tn_buf_init(&c->gathered, GATHER);
    if (spec->tls) {
        int err = tn_tls_new(d->tls, spec, &c->tls);
        if (err) {
            free(c);
            return err;
        }
    }
    d->conns++;
    uv_timer_init(d->loop, &c->deadline);
    uv_timer_init(d->loop, &c->stagger);
    c->deadline.data = c->stagger.data = c;
    c->handles = 2;
    uv_timer_start(&c->deadline, deadline_passed, (spec->timeout_us + 999) / 1000, 0);
    int err = known_addresses(c, spec);
    if (err == 1) {
        err = start_resolving(c, spec);
    } else { /* from the loop, since a refused connect may fail at once */
        c->state = CONNECTING;
        err = uv_timer_start(&c->stagger, first_attempt, 0, 0);
    }
    if (err) {
        bury(c);
        return err;
    }
    *out = &c->stream;
    return 0;
}

int tn_uvdialer_new(uv_loop_t *loop, struct tn_tls_ctx *tls, const struct tn_log *log, struct tn_uvdialer **out)
{
    struct tn_uvdialer *d = calloc(1, sizeof *d);
    if (!d) return TN_E_NOMEM;
    d->loop = loop;
    d->tls = tls;
    d->log = log;
    d->iface = (struct tn_dialer){.dial = dial, .ctx = d};
    tn_list_init(&d->dirty);
    uv_prepare_init(loop, &d->flusher);
    uv_idle_init(loop, &d->awake);
    d->flusher.data = d->awake.data = d;
    *out = d;
    return 0;
}

void tn_uvdialer_set_mark(struct tn_uvdialer *d, uint32_t mark) { d->mark = mark; }

void tn_uvdialer_stop(struct tn_uvdialer *d)
{
    uv_close((uv_handle_t *)&d->flusher, NULL);
    uv_close((uv_handle_t *)&d->awake, NULL);
}

void tn_uvdialer_free(struct tn_uvdialer *d)
{
    if (!d) return;
    assert(d->conns == 0);
    free(d->last_good);
    free(d);
}

const struct tn_dialer *tn_uvdialer_dialer(struct tn_uvdialer *d) { return &d->iface; }
