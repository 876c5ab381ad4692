#include "node/dial.h"

#include "node/handout.h"
#include "node/wait.h"
#include "util/err.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int tn_hostport_split(const char *text, char host[256], uint16_t *port)
{
    const char *colon = strrchr(text, ':');
    if (!colon || !colon[1]) return TN_E_INVAL;
    const char *start = text;
    size_t len = (size_t)(colon - text);
    if (*text == '[') {
        if (len < 2 || text[len - 1] != ']') return TN_E_INVAL;
        start++;
        len -= 2;
    } else if (memchr(text, ':', len)) {
        return TN_E_INVAL; /* IPv6 needs brackets */
    }
    if (len > 255) return TN_E_INVAL;
    char *end;
    errno = 0;
    unsigned long n = strtoul(colon + 1, &end, 10);
    if (colon[1] < '0' || colon[1] > '9' || *end || errno || n == 0 || n > 65535) return TN_E_INVAL;
    memcpy(host, start, len);
    host[len] = '\0';
    *port = (uint16_t)n;
    return 0;
}

int tn_node_connect(struct tn_node *n, const struct tn_addrport *to, const struct tn_tcp_events *ev, void *arg,
                    struct tn_tcp **out)
{
    struct tn_addrport local = {0};
    bool own = false;
    for (size_t i = 0; i < n->nown; i++) {
        if (n->own[i].family == to->ip.family && !local.ip.family) local.ip = n->own[i];
        own |= tn_ip_eq(&n->own[i], &to->ip);
    }
    if (!local.ip.family) return TN_E_NOTCONN;
    if (!own && !tn_wg_route(n->wg, &to->ip)) return TN_E_HOSTUNREACH;
    return tn_tcp_connect(n->stack, &local, to, ev, arg, tn_node_now(), out);
}

/* ---- a waiting thread's dial ---- */

struct dial_op {
    struct tn_node *node;
    const char *host;
    uint16_t port;
    struct tn_tcp *tcp; /* while connecting; the loop's */
    /* under mu */
    bool finished;
    int err, fd;
};

static void finish(struct dial_op *op, int err, int fd)
{
    pthread_mutex_lock(&op->node->mu);
    op->finished = true;
    op->err = err;
    op->fd = fd;
    pthread_cond_broadcast(&op->node->cond);
    pthread_mutex_unlock(&op->node->mu);
}

static void dial_opened(void *arg, struct tn_tcp *tcp, uint64_t now_us)
{
    struct dial_op *op = arg;
    int fd = -1;
    op->tcp = NULL;
    int err = tn_hand_out(op->node, tcp, &fd);
    if (err) tn_tcp_abort(tcp, now_us);
    finish(op, err, fd);
}

static void dial_closed(void *arg, int err, uint64_t now_us)
{
    struct dial_op *op = arg;
    op->tcp = NULL;
    finish(op, err ? err : TN_E_RESET, -1);
}

static const struct tn_tcp_events dial_events = {.on_open = dial_opened, .on_close = dial_closed};

static void dial_begin(struct tn_node *n, void *arg)
{
    struct dial_op *op = arg;
    struct tn_addrport to = {.port = op->port};
    int err = tn_node_resolve(n, op->host, 0, &to.ip);
    if (!err) err = tn_node_connect(n, &to, &dial_events, op, &op->tcp);
    if (err) finish(op, err, -1);
}

static void dial_abandon(struct tn_node *n, void *arg)
{
    struct dial_op *op = arg;
    if (op->tcp) tn_tcp_abort(op->tcp, tn_node_now());
    if (op->fd >= 0) close(op->fd); /* it opened in the very last moment */
    op->tcp = NULL;
    op->fd = -1;
}

int tn_node_dial_wait(struct tn_node *n, const char *address, int timeout_ms, int *fd)
{
    char host[256];
    struct dial_op op = {.node = n, .host = host, .fd = -1};
    int err = tn_hostport_split(address, host, &op.port);
    if (err) return err;
    struct tn_wait w = tn_wait_begin(n, timeout_ms);
    err = tn_node_call(n, dial_begin, &op);
    if (err) return err;
    pthread_mutex_lock(&n->mu);
    while (!op.finished && !err) err = tn_wait_more(n, &w);
    if (op.finished) err = op.err;
    pthread_mutex_unlock(&n->mu);
    if (err) (void)tn_node_call(n, dial_abandon, &op);
    else *fd = op.fd;
    return err;
}
