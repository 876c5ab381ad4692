/* One connection: reading, writing, and its end.
 *
 * Readiness is remembered (ready), wishes are separate (want), and a callback comes while both agree. An operation
 * that fails latches its code: the kernel tells an RST once and then pretends a clean end, which must never reach a
 * peer as FIN. A short read or write means the socket is drained or full without asking again, and while it is no
 * system call is made. After a hang-up or urgent data (at whose mark the kernel cuts reads) only EAGAIN is
 * believed. */
#include "egress/private.h"
#include "egress/socket.h"
#include "util/err.h"

#include <assert.h>
#include <stdlib.h>

static const char *const state_names[] = {
#define STATE_NAME(name) #name,
    TN_CONN_STATE_MAP(STATE_NAME)
#undef STATE_NAME
};
_Static_assert(sizeof state_names / sizeof state_names[0] == TN_CONN_CLOSED + 1, "a name for each state");

void tn_conn_set_state(struct tn_egress_conn *c, enum tn_conn_state state)
{
    tn_logf(c->e->log, TN_LOG_DEBUG, "egress", "connection %d: %s > %s", c->fd, state_names[c->state],
            state_names[state]);
    c->state = (uint8_t)state;
}

struct tn_egress_conn *tn_conn_new(struct tn_egress *e, const struct tn_egress_target *to)
{
    struct tn_egress_conn *c = calloc(1, sizeof *c);
    struct tn_dialing *d = calloc(1, sizeof *d);
    char *name = c && d && to->name ? strdup(to->name) : NULL;
    if (!c || !d || (to->name && !name)) {
        free(c);
        free(d);
        return NULL;
    }
    *d = (struct tn_dialing){.conn = c, .dst = to->dst, .name = name, .peer = to->peer, .policy = tn_policy_ref(e->policy)};
    tn_list_init(&d->waiting);
    c->purpose = (uint8_t)to->purpose;
    c->e = e;
    c->dialing = d;
    c->fd = -1;
    tn_list_init(&c->run);
    tn_list_push_back(&e->conns, &c->all);
    return c;
}

/* The proxy's part: from here on it carries a flow. */
static void count_opened(struct tn_egress_conn *c)
{
    struct tn_upstream *u = c->up;
    if (c->share) c->share->opened++;
    if (!u) return;
    u->dials--;
    u->flows++;
    if (tn_purpose_is_own(c->purpose)) return;
    uint64_t took_us = tn_egress_now() - c->dialing->began_us;
    size_t b = 0;
    while (b < TN_EGRESS_BUCKETS - 1 && took_us > tn_egress_bucket_ms[b] * 1000ull) b++;
    u->opened++;
    u->latency[b]++;
    u->latency_sum_us += took_us;
}

void tn_conn_opened(struct tn_egress_conn *c)
{
    count_opened(c);
    tn_dial_dispose(c);
    tn_limits_opened(c);
    if (!tn_purpose_is_own(c->purpose)) c->e->stats.opened++;
    c->ready |= TN_EGRESS_WANT_WRITE;
    if (c->early) c->ready |= TN_EGRESS_WANT_READ;
    tn_conn_set_state(c, TN_CONN_OPEN);
    c->ev->on_open(c->arg, c);
}

void tn_conn_close_fd(struct tn_egress_conn *c, bool reset)
{
    if (c->fd < 0) return;
    tn_run_unwatch(c->e, c->fd);
    tn_socket_close(c->fd, reset);
    c->fd = -1;
}

void tn_conn_fail(struct tn_egress_conn *c, enum tn_egress_fail why)
{
    tn_dial_drop_attempt(c);
    tn_proxied_detach(c);
    tn_dial_dispose(c);
    if (c->share) c->share->refused++;
    tn_limits_give(c);
    if (!tn_purpose_is_own(c->purpose)) tn_egress_count_fail(c->e, why);
    c->why = (uint8_t)why;
    tn_conn_set_state(c, TN_CONN_FAILED);
    tn_run_queue(c);
}

void tn_conn_bury(struct tn_egress_conn *c, bool reset)
{
    struct tn_egress *e = c->e;
    tn_conn_close_fd(c, reset);
    tn_secure_free(c);
    tn_proxied_detach(c);
    tn_dial_dispose(c);
    tn_limits_give(c);
    free(c->early);
    c->early = NULL;
    tn_conn_set_state(c, TN_CONN_CLOSED);
    tn_list_remove(&c->run);
    tn_list_remove(&c->all);
    if (e->depth > 0) tn_list_push_back(&e->graveyard, &c->all);
    else free(c);
}

/* An RST for which nobody would look: the far end's FIN was read and nothing is to be written. */
static void report_break(struct tn_egress_conn *c)
{
    int err = tn_socket_error(c->fd);
    c->broken = false;
    if (c->err || err == 0) return;
    c->err = err == TN_E_PIPE ? TN_E_RESET : err;
    if (c->ev->on_error) c->ev->on_error(c->arg, c, c->err);
}

/* A policy took this flow's way: the owner is told whichever way it listens. */
void tn_conn_cut(struct tn_egress_conn *c)
{
    if (c->err == 0) c->err = TN_E_RESET;
    free(c->early);
    c->early = NULL;
    c->ready |= TN_EGRESS_WANT_READ | TN_EGRESS_WANT_WRITE;
    c->cut = true;
    tn_run_queue(c);
}

void tn_conn_step_open(struct tn_egress_conn *c)
{
    if (c->secure && c->ready & TN_EGRESS_WANT_WRITE && !c->err) {
        int err = tn_secure_flush(c);
        if (err == TN_E_AGAIN) c->ready &= (uint8_t)~TN_EGRESS_WANT_WRITE;
        else if (err) c->err = err;
    }
    if (c->cut && c->ev->on_error) {
        c->cut = false;
        c->ev->on_error(c->arg, c, c->err);
        return;
    }
    if (c->want & c->ready & TN_EGRESS_WANT_READ) c->ev->on_readable(c->arg, c);
    if (c->state != TN_CONN_OPEN) return;
    if (c->want & c->ready & TN_EGRESS_WANT_WRITE) c->ev->on_writable(c->arg, c);
    if (c->state != TN_CONN_OPEN) return;
    if (c->broken && c->eof && !(c->want & TN_EGRESS_WANT_WRITE)) report_break(c);
    if (c->state == TN_CONN_OPEN && c->want & c->ready) tn_run_queue(c);
}

void tn_egress_set_events(struct tn_egress_conn *c, const struct tn_egress_events *ev, void *arg)
{
    c->ev = ev;
    c->arg = arg;
}

void tn_egress_want(struct tn_egress_conn *c, int events)
{
    if (c->state != TN_CONN_OPEN) return;
    c->want = (uint8_t)events;
    if ((c->want & c->ready) == 0) return;
    tn_run_queue(c);
    tn_run_schedule(c->e);
}

static long read_early(struct tn_egress_conn *c, const struct iovec *iov, int n)
{
    size_t total = 0;
    for (int i = 0; i < n && c->early_off < c->early_len; i++) {
        size_t left = c->early_len - c->early_off, take = iov[i].iov_len < left ? iov[i].iov_len : left;
        if (take) memcpy(iov[i].iov_base, c->early + c->early_off, take);
        c->early_off += (uint32_t)take;
        total += take;
    }
    if (c->early_off == c->early_len) {
        free(c->early);
        c->early = NULL;
    }
    return (long)total;
}

static size_t iov_total(const struct iovec *iov, int n)
{
    size_t total = 0;
    for (int i = 0; i < n; i++) total += iov[i].iov_len;
    return total;
}

long tn_egress_readv(struct tn_egress_conn *c, const struct iovec *iov, int n)
{
    size_t total = iov_total(iov, n);
    if (c->state != TN_CONN_OPEN) return TN_E_NOTCONN;
    if (total == 0) return TN_E_INVAL; /* a 0 would read as the end of the stream */
    long r;
    if (c->early) {
        r = read_early(c, iov, n); /* the socket may have more behind it: it stays ready */
    } else {
        if (c->err) return c->err;
        if (c->eof) return 0;
        if (!(c->ready & TN_EGRESS_WANT_READ)) return TN_E_AGAIN;
        r = c->secure ? tn_secure_readv(c, iov, n) : tn_socket_readv(c->fd, iov, n);
        if (r == 0) c->eof = true;
        bool drained = r == 0 || r == TN_E_AGAIN || (r > 0 && (size_t)r < total && !c->careful && !c->secure);
        if (drained) c->ready &= ~TN_EGRESS_WANT_READ;
        else if (r < 0) c->err = (int)r;
    }
    if (r > 0) {
        c->e->stats.bytes_down += (uint64_t)r;
        if (c->up) c->up->bytes_down += (uint64_t)r;
        if (c->share) c->share->bytes_down += (uint64_t)r;
    }
    return r;
}

long tn_egress_writev(struct tn_egress_conn *c, const struct iovec *iov, int n)
{
    size_t total = iov_total(iov, n);
    if (c->state != TN_CONN_OPEN) return TN_E_NOTCONN;
    if (c->err) return c->err;
    if (c->shut) return TN_E_PIPE;
    if (total == 0) return 0;
    if (!(c->ready & TN_EGRESS_WANT_WRITE)) return TN_E_AGAIN;
    long r = c->secure ? tn_secure_writev(c, iov, n) : tn_socket_writev(c->fd, iov, n);
    if (r > 0 && c->secure) c->ready &= tn_secure_flush(c) == 0 ? 0xff : (uint8_t)~TN_EGRESS_WANT_WRITE;
    else if (r == TN_E_AGAIN || (r >= 0 && (size_t)r < total)) c->ready &= ~TN_EGRESS_WANT_WRITE;
    else if (r < 0) c->err = (int)r;
    if (r > 0) {
        c->e->stats.bytes_up += (uint64_t)r;
        if (c->up) c->up->bytes_up += (uint64_t)r;
        if (c->share) c->share->bytes_up += (uint64_t)r;
    }
    return r;
}

int tn_egress_shutdown(struct tn_egress_conn *c)
{
    if (c->state != TN_CONN_OPEN) return TN_E_NOTCONN;
    if (c->err) return c->err;
    c->shut = true;
    return c->secure ? tn_secure_shutdown(c) : tn_socket_shutdown(c->fd);
}

void tn_egress_close(struct tn_egress_conn *c, bool reset)
{
    struct tn_egress *e = c->e;
    if (c->state == TN_CONN_CLOSED) return;
    if (c->state < TN_CONN_OPEN && !tn_purpose_is_own(c->purpose)) tn_egress_count_fail(e, TN_EGRESS_FAIL_CANCELED);
    if (!reset && c->state == TN_CONN_OPEN && c->secure && !c->err && tn_secure_linger(c)) {
        tn_proxied_detach(c);
        tn_limits_give(c); /* the state still says that it is a flow's */
        tn_list_remove(&c->run);
        tn_conn_set_state(c, TN_CONN_DRAINING);
    } else {
        tn_conn_bury(c, reset);
    }
    tn_run_schedule(e);
}
