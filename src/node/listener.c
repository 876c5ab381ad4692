/* Listeners of the application: accepted flows wait as descriptors in a bounded queue until somebody takes them.
 *
 * The queue is shared between the loop (fills it) and application threads (drain it), under the node's mu. The eventfd
 * counts what waits, so that the listener can be polled like a socket. */
#include "node/dial.h"

#include "node/handout.h"
#include "node/wait.h"
#include "tailnet.h"
#include "util/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { QUEUE_MAX = 128 }; /* as SOMAXCONN of old: connections beyond are reset, as a kernel with a full queue may */

struct waiting {
    int fd;
    struct tn_addrport remote;
};

struct tailnet_listener {
    struct tn_node *node;
    struct tn_tcp_listener *tcp;
    struct tn_addrport local;
    int event_fd;
    struct waiting queue[QUEUE_MAX]; /* under mu, as all below: a ring */
    unsigned first, count;
    unsigned waiters; /* threads inside tailnet_accept */
    bool closing;
};

static int accepted(void *arg, struct tn_tcp *tcp, uint64_t now_us)
{
    struct tailnet_listener *l = arg;
    struct tn_addrport remote = tn_tcp_remote(tcp);
    pthread_mutex_lock(&l->node->mu);
    bool full = l->count == QUEUE_MAX;
    pthread_mutex_unlock(&l->node->mu);
    if (full) return TN_E_LIMIT;
    int fd;
    int err = tn_hand_out(l->node, tcp, &fd);
    if (err) return err;
    pthread_mutex_lock(&l->node->mu); /* only this thread adds: there is still room */
    l->queue[(l->first + l->count++) % QUEUE_MAX] = (struct waiting){.fd = fd, .remote = remote};
    uint64_t one = 1; /* under mu too, so that the counter is never behind the queue */
    ssize_t ignored = write(l->event_fd, &one, sizeof one);
    (void)ignored;
    pthread_cond_broadcast(&l->node->cond);
    pthread_mutex_unlock(&l->node->mu);
    return 0;
}

struct listen_call {
    struct tailnet_listener *l;
    int err;
};

static void begin(struct tn_node *n, void *arg)
{
    struct listen_call *c = arg;
    c->err = tn_tcp_listen(n->stack, &c->l->local, QUEUE_MAX, accepted, c->l, &c->l->tcp);
}

static int parse_local(const char *address, struct tn_addrport *out)
{
    char host[256];
    int err = tn_hostport_split(address, host, &out->port);
    if (err) return err;
    out->ip = (struct tn_ip){0};
    return *host && tn_ip_parse(host, &out->ip) != 0 ? TN_E_INVAL : 0;
}

int tn_listener_new(struct tn_node *n, const char *address, struct tailnet_listener **out)
{
    struct tailnet_listener *l = calloc(1, sizeof *l);
    if (!l) return TN_E_NOMEM;
    l->node = n;
    struct listen_call c = {.l = l, .err = parse_local(address, &l->local)};
    l->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
    if (!c.err && l->event_fd < 0) c.err = -errno;
    int err = c.err ? c.err : tn_node_call(n, begin, &c);
    if (!err) err = c.err;
    if (err) {
        if (l->event_fd >= 0) close(l->event_fd);
        free(l);
        return err;
    }
    *out = l;
    return 0;
}

int tailnet_listener_fd(tailnet_listener *l) { return l->event_fd; }

int tailnet_accept(tailnet_listener *l, int timeout_ms, int *fd, char *remote, size_t remote_len)
{
    struct tn_node *n = l->node;
    struct tn_wait w = tn_wait_begin(n, timeout_ms);
    int err = 0;
    pthread_mutex_lock(&n->mu);
    l->waiters++;
    while (l->count == 0 && !l->closing && !err) err = timeout_ms == 0 ? TN_E_AGAIN : tn_wait_more(n, &w);
    struct waiting taken = {.fd = -1};
    if (l->closing) err = TN_E_CLOSED;
    else if (l->count > 0) {
        uint64_t one;
        ssize_t ignored = read(l->event_fd, &one, sizeof one);
        (void)ignored;
        taken = l->queue[l->first];
        l->first = (l->first + 1) % QUEUE_MAX;
        l->count--;
    }
    if (--l->waiters == 0 && l->closing) pthread_cond_broadcast(&n->cond); /* tailnet_listener_close waits for it */
    pthread_mutex_unlock(&n->mu);
    if (taken.fd < 0) return err;
    char text[TN_ADDRPORT_STRLEN];
    if (remote && remote_len > 0) snprintf(remote, remote_len, "%s", tn_addrport_format(&taken.remote, text));
    *fd = taken.fd;
    return 0;
}

static void end(struct tn_node *n, void *arg) { tn_tcp_unlisten(((struct tailnet_listener *)arg)->tcp); }

void tailnet_listener_close(tailnet_listener *l)
{
    if (!l) return;
    (void)tn_node_call(l->node, end, l); /* when the node is gone already, so is its listener */
    pthread_mutex_lock(&l->node->mu);
    l->closing = true;
    pthread_cond_broadcast(&l->node->cond);
    while (l->waiters > 0) pthread_cond_wait(&l->node->cond, &l->node->mu);
    pthread_mutex_unlock(&l->node->mu);
    for (; l->count > 0; l->count--) {
        close(l->queue[l->first].fd);
        l->first = (l->first + 1) % QUEUE_MAX;
    }
    close(l->event_fd);
    free(l);
}
