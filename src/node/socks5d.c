/* The SOCKS5 server. A client is: greeting -> request -> (name asked at the exit node) -> connecting -> bridge. From the
 * moment the reply is sent the descriptor belongs to a bridge and this file is done with it.
 *
 * Requests are read byte-exactly into one small buffer (262 bytes hold any request), so early payload stays in the socket. */
#include "node/socks5d.h"

#include "node/acceptor.h"

#include "node/dial.h"
#include "node/exitdns.h"
#include "util/cursor.h"
#include "util/err.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    CLIENTS_MAX = 1024,       /* not yet connected; local programs that open more at once are broken */
    REQUEST_MAX = 262,        /* 4 + 1 + 255 + 2 */
    HANDSHAKE_MS = 10 * 1000, /* from accept to request */
    CONNECT_MS = 30 * 1000,   /* from request to an open flow */
};

enum reply { OK = 0, FAILURE = 1, NOT_ALLOWED = 2, NET_UNREACHABLE = 3, HOST_UNREACHABLE = 4, REFUSED = 5, TTL = 6,
             BAD_COMMAND = 7, BAD_ADDRESS = 8 };

enum state { GREETING, REQUEST, RESOLVING, CONNECTING, DONE };

struct client {
    struct tn_list link;
    struct tn_node *node;
    uv_poll_t poll;
    uv_timer_t timer;
    int fd, handles;
    enum state state;
    uint8_t in[REQUEST_MAX];
    size_t have;
    uint16_t port;
    struct tn_exitdns_lookup *lookup;
    struct tn_tcp *tcp;
};

struct tn_socks5d {
    struct tn_node *node;
    struct tn_acceptor acceptor;
    unsigned nclients;
    struct tn_list clients;
};

static void client_handle_gone(uv_handle_t *h)
{
    struct client *c = h->data;
    if (--c->handles > 0) return;
    close(c->fd);
    free(c);
}

static void end_client(struct client *c)
{
    if (c->state == DONE) return;
    c->state = DONE;
    tn_list_remove(&c->link);
    if (c->node->socks5d) c->node->socks5d->nclients--;
    if (c->lookup) tn_exitdns_cancel(c->lookup);
    if (c->tcp) tn_tcp_abort(c->tcp, tn_node_now());
    c->lookup = NULL;
    c->tcp = NULL;
    uv_poll_stop(&c->poll);
    uv_close((uv_handle_t *)&c->poll, client_handle_gone);
    uv_close((uv_handle_t *)&c->timer, client_handle_gone);
}

static bool send_bytes(struct client *c, const void *bytes, size_t len)
{
    return send(c->fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)len; /* a few bytes on a fresh socket */
}

static bool send_reply(struct client *c, enum reply code)
{
    const uint8_t reply[10] = {5, (uint8_t)code, 0, 1};
    return send_bytes(c, reply, sizeof reply);
}

static void refuse(struct client *c, enum reply code)
{
    (void)send_reply(c, code);
    end_client(c);
}

static enum reply reply_for(int err)
{
    switch (err) {
    case TN_E_REFUSED:
    case TN_E_RESET: return REFUSED;
    case TN_E_TIMEDOUT: return TTL;
    case TN_E_NOENT:
    case TN_E_DNS:
    case TN_E_HOSTUNREACH: return HOST_UNREACHABLE;
    case TN_E_NETUNREACH:
    case TN_E_NOTCONN: return NET_UNREACHABLE;
    }
    return FAILURE;
}

/* ---- connecting ---- */

static void flow_open(void *arg, struct tn_tcp *tcp, uint64_t now_us)
{
    struct client *c = arg;
    struct tn_node *n = c->node;
    c->tcp = NULL;
    int fd = fcntl(c->fd, F_DUPFD_CLOEXEC, 0); /* libuv forgets the old number only when its handle has closed */
    if (fd < 0 || !send_reply(c, OK)) {
        if (fd >= 0) close(fd);
        tn_tcp_abort(tcp, now_us);
    } else if (tn_bridge_new(n, tcp, fd, true) != 0) {
        close(fd);
        tn_tcp_abort(tcp, now_us);
    }
    end_client(c);
}

static void flow_closed(void *arg, int err, uint64_t now_us)
{
    struct client *c = arg;
    c->tcp = NULL;
    refuse(c, reply_for(err));
}

static const struct tn_tcp_events flow_events = {.on_open = flow_open, .on_close = flow_closed};

static void connect_to(struct client *c, const struct tn_ip *ip)
{
    struct tn_addrport to = {.ip = *ip, .port = c->port};
    c->state = CONNECTING;
    int err = tn_node_connect(c->node, &to, &flow_events, c, &c->tcp);
    if (err) refuse(c, reply_for(err));
}

static void name_answered(void *arg, int err, const struct tn_ip *ip)
{
    struct client *c = arg;
    c->lookup = NULL;
    if (err) refuse(c, reply_for(err));
    else connect_to(c, ip);
}

static void too_slow(uv_timer_t *t)
{
    struct client *c = t->data;
    if (c->state >= RESOLVING) refuse(c, TTL);
    else end_client(c);
}

static void connect_by_name(struct client *c, const char *host)
{
    struct tn_ip ip;
    if (tn_node_resolve(c->node, host, 0, &ip) == 0) {
        connect_to(c, &ip);
        return;
    }
    c->state = RESOLVING;
    int err = tn_exitdns_resolve(c->node, host, name_answered, c, &c->lookup);
    if (err) refuse(c, reply_for(err));
}

/* ---- the handshake ---- */

/* How many bytes the message being read has in all, as far as its first bytes tell; 0: broken. */
static size_t message_size(const struct client *c)
{
    if (c->have < 2) return 2;
    if (c->in[0] != 5) return 0;
    if (c->state == GREETING) return 2u + c->in[1];
    if (c->have < 5) return 5;
    switch (c->in[3]) {
    case 1: return 10;
    case 3: return 7u + c->in[4];
    case 4: return 22;
    }
    return 10; /* unknown address type: answered once a shortest request is there */
}

static void greeted(struct client *c)
{
    static const uint8_t none[2] = {5, 0}, no_method[2] = {5, 0xff};
    bool offered = memchr(c->in + 2, 0, c->in[1]) != NULL;
    c->have = 0;
    c->state = REQUEST;
    if (!send_bytes(c, offered ? none : no_method, 2) || !offered) end_client(c);
}

static void requested(struct client *c)
{
    const uint8_t *in = c->in;
    size_t len = message_size(c);
    uv_poll_stop(&c->poll); /* early payload waits in the socket for the bridge */
    uv_timer_start(&c->timer, too_slow, CONNECT_MS, 0);
    c->port = tn_get_be16(in + len - 2);
    if (in[1] != 1) {
        refuse(c, BAD_COMMAND);
    } else if (in[3] == 1 || in[3] == 4) {
        struct tn_ip ip = tn_ip_from_bytes(in + 4, in[3] == 1 ? 4 : 6);
        connect_to(c, &ip);
    } else if (in[3] == 3 && in[4] > 0 && !memchr(in + 5, 0, in[4])) {
        char host[256];
        memcpy(host, in + 5, in[4]);
        host[in[4]] = '\0';
        connect_by_name(c, host);
    } else {
        refuse(c, BAD_ADDRESS);
    }
}

static void client_readable(uv_poll_t *p, int status, int events)
{
    struct client *c = p->data;
    while (c->state == GREETING || c->state == REQUEST) {
        size_t size = message_size(c);
        if (size == 0) {
            end_client(c);
        } else if (c->have < size) {
            ssize_t n = recv(c->fd, c->in + c->have, size - c->have, MSG_DONTWAIT);
            if (n < 0 && errno == EINTR) continue;
            if (n < 0 && errno == EAGAIN) return;
            if (n <= 0) end_client(c);
            else c->have += (size_t)n;
        } else if (c->state == GREETING) {
            greeted(c);
        } else {
            requested(c);
        }
    }
}

static bool take_client(void *arg, int fd)
{
    struct tn_socks5d *s = arg;
    struct tn_node *n = s->node;
    if (s->nclients >= CLIENTS_MAX) {
        close(fd);
        return true;
    }
    struct client *c = calloc(1, sizeof *c);
    if (!c || uv_poll_init(&n->loop, &c->poll, fd) != 0) {
        free(c);
        return false;
    }
    c->node = n;
    c->fd = fd;
    uv_timer_init(&n->loop, &c->timer);
    c->handles = 2;
    c->poll.data = c->timer.data = c;
    tn_list_push_back(&s->clients, &c->link);
    s->nclients++;
    uv_timer_start(&c->timer, too_slow, HANDSHAKE_MS, 0);
    uv_poll_start(&c->poll, UV_READABLE, client_readable);
    return true;
}

/* ---- the listener ---- */

static int open_listener(const char *address)
{
    struct tn_addrport ap;
    struct sockaddr_storage sa;
    if (tn_addrport_parse(address, &ap) != 0) return TN_E_INVAL;
    socklen_t len = tn_addrport_to_sockaddr(&ap, &sa);
    int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&sa, len) != 0 || listen(fd, 128) != 0) {
        int err = -errno;
        close(fd);
        return err;
    }
    return fd;
}

int tn_socks5d_new(struct tn_node *n)
{
    int fd = open_listener(n->config.socks5_server);
    if (fd < 0) {
        tn_node_set_error(n, "socks5_server %s: %s", n->config.socks5_server, tn_err_text(fd));
        return fd;
    }
    struct tn_socks5d *s = calloc(1, sizeof *s);
    if (!s) {
        close(fd);
        return TN_E_NOMEM;
    }
    s->node = n;
    tn_list_init(&s->clients);
    int err = tn_acceptor_start(&s->acceptor, &n->loop, fd, take_client, free, s);
    if (err) free(s);
    else n->socks5d = s;
    return err;
}

void tn_socks5d_free(struct tn_node *n)
{
    struct tn_socks5d *s = n->socks5d;
    if (!s) return;
    TN_LIST_EACH(link, &s->clients) end_client(TN_CONTAINER(link, struct client, link));
    n->socks5d = NULL;
    tn_acceptor_stop(&s->acceptor);
}
