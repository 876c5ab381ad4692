/* The LocalAPI's connections: a Unix socket, the HTTP engine, and the caller's rights by its uid.
 *
 * Routes live in localapi_routes.c. A connection is freed from its handle's close callback; the HTTP engine goes with it. */
#include "node/localapi.h"

#include "node/acceptor.h"
#include "node/httpd.h"
#include "node/localapi_routes.h"
#include "util/err.h"
#include "util/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    CONNS_MAX = 128,
    OTHERS_MAX = 64, /* for callers without the right to change anything: they can't lock out those who have it */
    READ_MAX = 16 * 1024,
    BACKLOG = 64,
    BACKLOG_MAX = 64 * 1024 * 1024, /* a status with 10,000 peers, twice */
};

struct conn {
    struct tn_list link;
    struct tn_node *node;
    uv_pipe_t pipe;
    struct tn_httpd *http;
    struct tn_timer timer;
    struct tn_localapi_caller caller;
    bool ended, close_when_sent, paused;
};

struct tn_localapi {
    struct tn_node *node;
    struct tn_acceptor acceptor;
    struct tn_list conns;
    struct tn_heap timers;
    unsigned count, others;
    int refs; /* the acceptor and every connection: the last one out frees */
};

struct write_req {
    uv_write_t req;
    struct conn *conn;
    uint8_t bytes[];
};

static void drop_ref(struct tn_localapi *l)
{
    if (--l->refs > 0) return;
    tn_heap_fini(&l->timers);
    free(l);
}

static void conn_closed(uv_handle_t *h)
{
    struct conn *c = h->data;
    struct tn_localapi *l = c->caller.localapi;
    tn_httpd_free(c->http);
    free(c);
    drop_ref(l);
}

static void end_conn(struct conn *c)
{
    if (c->ended) return;
    c->ended = true;
    tn_list_remove(&c->link);
    c->caller.localapi->count--;
    if (!c->caller.may_write) c->caller.localapi->others--;
    tn_timer_stop(&c->caller.localapi->timers, &c->timer);
    uv_close((uv_handle_t *)&c->pipe, conn_closed);
}

static void rearm(struct conn *c)
{
    if (c->ended) return;
    uint64_t at = tn_httpd_next_deadline(c->http);
    if (at == TN_NEVER) tn_timer_stop(&c->caller.localapi->timers, &c->timer);
    else (void)tn_timer_arm(&c->caller.localapi->timers, &c->timer, at);
}

static void written(uv_write_t *req, int status)
{
    struct write_req *w = TN_CONTAINER(req, struct write_req, req);
    struct conn *c = w->conn;
    free(w);
    if (c->ended) return;
    if (status < 0) {
        end_conn(c);
    } else if (uv_stream_get_write_queue_size((uv_stream_t *)&c->pipe) == 0) {
        if (c->close_when_sent) end_conn(c);
        else tn_httpd_drained(c->http, tn_node_now());
    }
    rearm(c);
}

static int http_write(void *ctx, const void *bytes, size_t len)
{
    struct conn *c = ctx;
    uv_stream_t *s = (uv_stream_t *)&c->pipe;
    if (c->ended) return TN_E_CLOSED;
    (void)tn_timer_arm(&c->caller.localapi->timers, &c->timer, 0); /* an answer may let a pipelined request go on */
    if (uv_stream_get_write_queue_size(s) + len > BACKLOG_MAX) return TN_E_TOOBIG;
    struct write_req *w = malloc(sizeof *w + len);
    if (!w) return TN_E_NOMEM;
    w->conn = c;
    memcpy(w->bytes, bytes, len);
    uv_buf_t buf = uv_buf_init((char *)w->bytes, (unsigned)len);
    if (uv_write(&w->req, s, &buf, 1, written) != 0) {
        free(w);
        return TN_E_IO;
    }
    return uv_stream_get_write_queue_size(s) > 0;
}

static void http_close(void *ctx)
{
    struct conn *c = ctx;
    c->close_when_sent = true;
    if (uv_stream_get_write_queue_size((uv_stream_t *)&c->pipe) == 0) end_conn(c);
}

static void alloc_read(uv_handle_t *h, size_t suggested, uv_buf_t *buf)
{
    char *mem = malloc(READ_MAX);
    *buf = uv_buf_init(mem, mem ? READ_MAX : 0);
}

static void read_done(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
    struct conn *c = s->data;
    if (n > 0) {
        int r = tn_httpd_input(c->http, buf->base, (size_t)n, tn_node_now());
        if (r < 0) end_conn(c);
        if (r == 1 && !c->ended) {
            c->paused = true;
            uv_read_stop(s);
        }
    } else if (n == UV_EOF) {
        uv_read_stop(s);
        tn_httpd_eof(c->http, tn_node_now());
    } else if (n < 0) {
        end_conn(c);
    }
    free(buf->base);
    rearm(c);
}

static void http_resume(void *ctx)
{
    struct conn *c = ctx;
    if (c->ended || !c->paused) return;
    c->paused = false;
    uv_read_start((uv_stream_t *)&c->pipe, alloc_read, read_done);
}

/* Who is on the other end: SO_PEERCRED, as the kernel saw it at connect. */
static void identify(struct conn *c)
{
    struct ucred cred;
    socklen_t len = sizeof cred;
    int fd;
    if (uv_fileno((uv_handle_t *)&c->pipe, &fd) != 0) return;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) != 0) return;
    c->caller.may_read = true;
    c->caller.may_write = cred.uid == 0 || cred.uid == geteuid();
}

static struct conn *new_conn(struct tn_node *n)
{
    struct conn *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    struct tn_httpd_config hc = {.handle = tn_localapi_handle,
                                 .write = http_write,
                                 .on_close = http_close,
                                 .on_resume = http_resume,
                                 .ctx = c};
    c->node = n;
    c->caller = (struct tn_localapi_caller){.node = n, .localapi = n->localapi};
    if (tn_httpd_new(&hc, tn_node_now(), &c->http) == 0) return c;
    free(c);
    return NULL;
}

static bool incoming(void *localapi, int fd)
{
    struct tn_localapi *l = localapi;
    struct tn_node *n = l->node;
    struct conn *c = new_conn(n);
    if (!c) return false;
    uv_pipe_init(&n->loop, &c->pipe, 0);
    c->pipe.data = c;
    l->refs++;
    l->count++;
    tn_list_push_back(&l->conns, &c->link);
    bool taken = uv_pipe_open(&c->pipe, fd) == 0;
    if (taken) identify(c);
    if (!c->caller.may_write) l->others++;
    if (!taken || l->count > CONNS_MAX || l->others > OTHERS_MAX) end_conn(c);
    else uv_read_start((uv_stream_t *)&c->pipe, alloc_read, read_done);
    rearm(c);
    return taken;
}

const struct tn_localapi_caller *tn_localapi_caller_of(void *conn) { return &((struct conn *)conn)->caller; }

/* ---- the socket ---- */

static int make_parent(const char *path)
{
    char dir[sizeof((struct sockaddr_un *)0)->sun_path];
    const char *slash = strrchr(path, '/');
    if (strlen(path) >= sizeof dir) return TN_E_TOOBIG;
    if (!slash || slash == path) return 0;
    snprintf(dir, sizeof dir, "%.*s", (int)(slash - path), path);
    struct stat st;
    if (stat(dir, &st) == 0) return 0;
    int err = tn_dir_make(dir);
    if (!err && chmod(dir, 0755) != 0) err = -errno; /* others may read status; rights are checked per request */
    return err;
}

/* A socket nobody listens on is left over from a crash. */
static int remove_stale(const char *path)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    strcpy(sa.sun_path, path); /* make_parent has seen to its length */
    struct stat st;
    if (lstat(path, &st) != 0) return errno == ENOENT ? 0 : -errno;
    if (!S_ISSOCK(st.st_mode)) return TN_E_EXIST;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    int err = connect(fd, (struct sockaddr *)&sa, sizeof sa) == 0 ? TN_E_ADDRINUSE : errno == ECONNREFUSED ? 0 : -errno;
    close(fd);
    return err ? err : unlink(path) == 0 ? 0 : -errno;
}

static const char *why(int err)
{
    switch (err) {
    case TN_E_TOOBIG: return "a socket's path has at most 107 characters";
    case TN_E_EXIST: return "it exists and is no socket";
    case TN_E_ADDRINUSE: return "another node is using it";
    }
    return tn_err_text(err);
}

static void listener_closed(void *localapi) { drop_ref(localapi); }

/* Everybody may connect; rights are checked per request. */
static int listen_at(const char *path)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    strcpy(sa.sun_path, path); /* make_parent has seen to its length */
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    int err = bind(fd, (struct sockaddr *)&sa, sizeof sa) == 0 ? 0 : -errno;
    bool made = !err;
    if (!err && (chmod(path, 0666) != 0 || listen(fd, BACKLOG) != 0)) err = -errno;
    if (!err) return fd;
    if (made) unlink(path);
    close(fd);
    return err;
}

int tn_localapi_new(struct tn_node *n)
{
    const char *path = n->config.socket;
    int err = make_parent(path);
    if (!err) err = remove_stale(path);
    struct tn_localapi *l = err ? NULL : calloc(1, sizeof *l);
    if (!err && !l) err = TN_E_NOMEM;
    int fd = err ? err : listen_at(path);
    if (!err && fd < 0) err = fd;
    if (!err) err = tn_acceptor_start(&l->acceptor, &n->loop, fd, incoming, listener_closed, l);
    if (err) {
        if (fd >= 0) unlink(path);
        free(l);
        tn_node_set_error(n, "socket %.150s: %s", path, why(err));
        return err;
    }
    l->node = n;
    tn_list_init(&l->conns);
    tn_heap_init(&l->timers);
    l->refs = 1;
    n->localapi = l;
    return 0;
}

void tn_localapi_free(struct tn_node *n)
{
    struct tn_localapi *l = n->localapi;
    if (!l) return;
    TN_LIST_EACH(link, &l->conns) end_conn(TN_CONTAINER(link, struct conn, link));
    n->localapi = NULL;
    tn_acceptor_stop(&l->acceptor);
    (void)unlink(n->config.socket);
}

void tn_localapi_timeout(struct tn_node *n, uint64_t now_us)
{
    for (struct tn_timer *t; n->localapi && (t = tn_heap_pop_due(&n->localapi->timers, now_us));) {
        struct conn *c = TN_CONTAINER(t, struct conn, timer);
        tn_httpd_timeout(c->http, now_us);
        rearm(c);
    }
}

uint64_t tn_localapi_next_deadline(const struct tn_node *n)
{
    return n->localapi ? tn_heap_next(&n->localapi->timers) : TN_NEVER;
}
