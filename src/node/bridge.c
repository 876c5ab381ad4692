/* A bridge moves bytes between a TCP flow of our stack and a descriptor: the application's end of a socket pair, or a
 * SOCKS client. Nothing is buffered here: reads land in the stack's chunks, writes come out of them, and whichever side is
 * full stops the other.
 *
 * Ends: the peer's FIN becomes shutdown(fd), the application's end of file becomes our FIN. An application that is gone
 * altogether (POLLHUP) releases the flow; after its end of file that is watched for by polling for nothing in particular,
 * since the kernel always reports a hangup. A reset of the flow resets the descriptor where that exists (TCP), else closes it. */
#include "node/handout.h"

#include "util/err.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { VIEWS = 16 };

/* Linux's defaults: a flow whose peer vanished ends some day, and a laptop may sleep over lunch. */
#define KEEPALIVE_IDLE_US (7200 * 1000000ull)
#define KEEPALIVE_INTERVAL_US (75 * 1000000ull)
enum { KEEPALIVE_PROBES = 9 };

struct tn_bridge {
    struct tn_list link;
    struct tn_node *node;
    struct tn_tcp *tcp; /* NULL once the flow is over */
    uv_poll_t poll;
    int fd, events;
    bool is_tcp, app_eof, peer_eof, dead, in_pump;
};

static void poll_gone(uv_handle_t *h)
{
    struct tn_bridge *b = h->data;
    close(b->fd);
    free(b);
}

/* The end of the bridge; the flow is dealt with by the caller. */
static void bury(struct tn_bridge *b)
{
    if (b->dead) return;
    b->dead = true;
    tn_list_remove(&b->link);
    uv_poll_stop(&b->poll);
    uv_close((uv_handle_t *)&b->poll, poll_gone);
}

static void on_poll(uv_poll_t *p, int status, int events);

static void want(struct tn_bridge *b, int events)
{
    if (b->dead || b->events == events) return;
    b->events = events;
    if (events) uv_poll_start(&b->poll, events, on_poll);
    else uv_poll_stop(&b->poll);
}

static void reset_fd(struct tn_bridge *b)
{
    struct linger now = {.l_onoff = 1};
    if (b->is_tcp) setsockopt(b->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

/* The application is gone or its descriptor broke: reset tells the peer so. */
static void drop_flow(struct tn_bridge *b, bool reset, uint64_t now_us)
{
    struct tn_tcp *tcp = b->tcp;
    b->tcp = NULL;
    bury(b);
    if (!tcp) return;
    if (reset) tn_tcp_abort(tcp, now_us);
    else tn_tcp_release(tcp, now_us);
}

/* Stack to descriptor. Returns whether the descriptor is full. */
static bool pump_out(struct tn_bridge *b, uint64_t now_us)
{
    while (!b->dead && b->tcp) {
        struct iovec iov[VIEWS];
        int n = tn_tcp_peek(b->tcp, iov, VIEWS);
        if (n <= 0) break;
        struct msghdr msg = {.msg_iov = iov, .msg_iovlen = (size_t)n};
        ssize_t sent = sendmsg(b->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0 && errno == EAGAIN) return true;
        if (sent < 0) {
            drop_flow(b, true, now_us);
            return false;
        }
        tn_tcp_consume(b->tcp, (size_t)sent, now_us);
    }
    if (!b->dead && b->tcp && !b->peer_eof && tn_tcp_eof(b->tcp)) {
        b->peer_eof = true;
        shutdown(b->fd, SHUT_WR);
    }
    return false;
}

static bool app_is_gone(struct tn_bridge *b)
{
    struct pollfd p = {.fd = b->fd, .events = POLLIN};
    return poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR));
}

static void app_ended(struct tn_bridge *b, uint64_t now_us)
{
    b->app_eof = true;
    if (!b->is_tcp && !b->peer_eof && app_is_gone(b)) {
        drop_flow(b, false, now_us);
        return;
    }
    tn_tcp_shutdown(b->tcp, now_us);
}

/* Descriptor to stack. Returns whether to go on polling for input. */
static bool pump_in(struct tn_bridge *b, uint64_t now_us)
{
    for (int rounds = 0; !b->dead && b->tcp && !b->app_eof; rounds++) {
        struct iovec iov[VIEWS];
        int n = tn_tcp_reserve(b->tcp, iov, VIEWS, 64 * 1024);
        if (n <= 0) return false; /* on_writable comes */
        ssize_t got = rounds < 4 ? readv(b->fd, iov, n) : -1;
        int err = rounds < 4 ? errno : EAGAIN; /* enough for one turn: others wait */
        tn_tcp_commit(b->tcp, got > 0 ? (size_t)got : 0, now_us);
        if (b->dead || !b->tcp) return false;
        if (got > 0) continue;
        if (got == 0) app_ended(b, now_us);
        else if (err == EAGAIN) return true;
        else if (err != EINTR) drop_flow(b, true, now_us);
    }
    return false;
}

static void pump(struct tn_bridge *b, uint64_t now_us)
{
    if (b->in_pump) return; /* a callback from inside: the outer call goes on anyway */
    b->in_pump = true;
    bool full = pump_out(b, now_us);
    bool reading = pump_in(b, now_us);
    b->in_pump = false;
    bool half = b->app_eof && !b->peer_eof && !b->is_tcp;
    want(b, (full ? UV_WRITABLE : 0) | (reading ? UV_READABLE : 0) | (half ? UV_PRIORITIZED : 0));
}

static void on_poll(uv_poll_t *p, int status, int events)
{
    struct tn_bridge *b = p->data;
    uint64_t now_us = tn_node_now();
    if (status < 0) b->events = 0; /* an error on the descriptor: libuv has stopped polling */
    struct tn_stack *st = b->node->stack;
    tn_stack_batch_begin(st); /* what several reads bring leaves together */
    if (b->app_eof && !b->peer_eof && !b->is_tcp && app_is_gone(b)) drop_flow(b, false, now_us);
    else pump(b, now_us);
    tn_stack_batch_end(st, now_us);
}

static void tcp_event(void *arg, struct tn_tcp *c, uint64_t now_us) { pump(arg, now_us); }

static void tcp_closed(void *arg, int err, uint64_t now_us)
{
    struct tn_bridge *b = arg;
    b->tcp = NULL;
    if (b->dead) return;
    if (err) reset_fd(b);
    bury(b);
}

static const struct tn_tcp_events bridge_events = {
    .on_readable = tcp_event, .on_writable = tcp_event, .on_close = tcp_closed};

int tn_bridge_new(struct tn_node *n, struct tn_tcp *tcp, int fd, bool is_tcp)
{
    struct tn_bridge *b = calloc(1, sizeof *b);
    if (!b) return TN_E_NOMEM;
    int err = uv_poll_init(&n->loop, &b->poll, fd);
    if (err) {
        free(b);
        return err;
    }
    b->poll.data = b;
    b->node = n;
    b->tcp = tcp;
    b->fd = fd;
    b->is_tcp = is_tcp;
    tn_list_push_back(&n->bridges, &b->link);
    tn_tcp_set_events(tcp, &bridge_events, b);
    tn_tcp_set_keepalive(tcp, KEEPALIVE_IDLE_US, KEEPALIVE_INTERVAL_US, KEEPALIVE_PROBES, tn_node_now());
    want(b, UV_READABLE);
    pump(b, tn_node_now()); /* bytes may have arrived already */
    return 0;
}

void tn_bridges_end(struct tn_node *n)
{
    TN_LIST_EACH(link, &n->bridges) drop_flow(TN_CONTAINER(link, struct tn_bridge, link), true, tn_node_now());
}

/* tcp_buffer_size is a promise about memory: the kernel's share of a flow keeps to it too. */
static void bound_buffers(const struct tn_node *n, const int pair[2])
{
    int size = (int)n->config.tcp_buffer_size; /* 64 MiB at most */
    for (int i = 0; size && i < 2; i++) setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
}

int tn_hand_out(struct tn_node *n, struct tn_tcp *tcp, int *app_fd)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) return -errno;
    bound_buffers(n, pair);
    int err = fcntl(pair[0], F_SETFL, O_NONBLOCK) == 0 ? 0 : -errno;
    if (!err) err = tn_bridge_new(n, tcp, pair[0], false);
    if (err) {
        close(pair[0]);
        close(pair[1]);
        return err;
    }
    *app_fd = pair[1];
    return 0;
}
