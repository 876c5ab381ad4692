/* From the wish to the open connection: two phases with a total deadline each, however the far end spreads its bytes.
 *
 *   connect     name lookup of the proxy and all its addresses together (PROXY), or the destination (HOST)
 *   handshake   SOCKS5 or HTTP CONNECT with the proxy
 * A dial that fails is never tried again here, and never by another way. */
#include "egress/private.h"
#include "egress/socket.h"
#include "util/err.h"

#include <stdlib.h>

enum {
    READ_CHUNK = 4096,   /* also what may have come early from the destination at most */
    READS_PER_STEP = 16, /* then others have their turn */
};

int tn_dial_begin(struct tn_egress_conn *c)
{
    c->dialing->deadline_us = tn_egress_now() + c->e->limits.connect_timeout_us;
    switch (c->e->policy.mode) {
    case TN_EGRESS_HOST: return tn_direct_begin(c);
    case TN_EGRESS_PROXY: return tn_proxied_begin(c);
    case TN_EGRESS_OFF: break;
    }
    return TN_EGRESS_FAIL_OFF;
}

int tn_dial_attempt(struct tn_egress_conn *c, int fd, uint64_t deadline_us)
{
    c->fd = fd;
    c->ready = 0;
    c->careful = c->broken = false;
    if (tn_run_watch(c->e, fd, c) != 0 || tn_timer_arm(&c->e->timers, &c->dialing->timer, deadline_us) != 0) {
        tn_conn_close_fd(c, false);
        return TN_EGRESS_FAIL_FDS;
    }
    tn_conn_set_state(c, TN_CONN_CONNECTING);
    return 0;
}

void tn_dial_dispose(struct tn_egress_conn *c)
{
    struct tn_dialing *d = c->dialing;
    if (!d) return;
    tn_timer_stop(&c->e->timers, &d->timer);
    tn_list_remove(&d->waiting);
    if (d->in_handshake) tn_handshake_fini(&d->handshake);
    free(d->addrs);
    free(d);
    c->dialing = NULL;
}

/* The address under way is not to be had. err: negative errno. */
static void attempt_failed(struct tn_egress_conn *c, int err)
{
    tn_conn_close_fd(c, false);
    int why = c->dialing->addrs ? tn_proxied_next(c) : (int)tn_direct_fail_of(err);
    if (why) tn_conn_fail(c, (enum tn_egress_fail)why);
}

static void handshake_step(struct tn_egress_conn *c);

static void connected(struct tn_egress_conn *c)
{
    struct tn_dialing *d = c->dialing;
    if (!d->addrs) {
        tn_conn_opened(c);
        return;
    }
    tn_proxied_works(c);
    d->deadline_us = tn_egress_now() + c->e->limits.handshake_timeout_us;
    if (tn_handshake_init(&d->handshake, c->e->policy.proxy, &d->dst) != 0) {
        tn_conn_fail(c, TN_EGRESS_FAIL_FDS);
        return;
    }
    d->in_handshake = true;
    (void)tn_timer_arm(&c->e->timers, &d->timer, d->deadline_us); /* armed already: moving it can't fail */
    tn_conn_set_state(c, TN_CONN_HANDSHAKE);
    handshake_step(c);
}

/* False when the connection failed. */
static bool send_output(struct tn_egress_conn *c)
{
    size_t len;
    const uint8_t *bytes = tn_handshake_output(&c->dialing->handshake, &len);
    if (len == 0) return true;
    struct iovec iov = {(void *)bytes, len};
    long n = tn_socket_writev(c->fd, &iov, 1);
    if (n == TN_E_AGAIN) return true;
    if (n < 0) {
        tn_conn_fail(c, TN_EGRESS_FAIL_PROXY_CLOSED);
        return false;
    }
    tn_handshake_sent(&c->dialing->handshake, (size_t)n);
    return true;
}

static int keep_early(struct tn_egress_conn *c, const uint8_t *bytes, size_t len)
{
    if (len == 0) return 0;
    c->early = malloc(len);
    if (!c->early) return TN_E_NOMEM;
    memcpy(c->early, bytes, len);
    c->early_len = (uint32_t)len;
    return 0;
}

/* True when there is more to do right now. */
static bool take_input(struct tn_egress_conn *c, const uint8_t *bytes, size_t len)
{
    size_t used;
    int r = tn_handshake_input(&c->dialing->handshake, bytes, len, &used);
    if (r == TN_HANDSHAKE_MORE) return true;
    if (r == TN_HANDSHAKE_DONE && keep_early(c, bytes + used, len - used) == 0) {
        tn_egress_healthy(c->e);
        tn_conn_opened(c);
    } else {
        tn_conn_fail(c, r == TN_HANDSHAKE_DONE ? TN_EGRESS_FAIL_FDS : (enum tn_egress_fail)r);
    }
    return false;
}

static void handshake_step(struct tn_egress_conn *c)
{
    uint8_t chunk[READ_CHUNK];
    struct iovec iov = {chunk, sizeof chunk};
    for (int i = 0; i < READS_PER_STEP; i++) {
        if (!send_output(c)) return;
        long n = tn_socket_readv(c->fd, &iov, 1);
        if (n == TN_E_AGAIN) {
            c->ready &= ~TN_EGRESS_WANT_READ;
            return;
        }
        if (n <= 0) {
            tn_conn_fail(c, TN_EGRESS_FAIL_PROXY_CLOSED);
            return;
        }
        /* What is left in the socket makes no new edge: the connection opens as readable and finds out. */
        c->ready |= TN_EGRESS_WANT_READ;
        if (!take_input(c, chunk, (size_t)n)) return;
    }
    tn_run_queue(c);
}

void tn_dial_step(struct tn_egress_conn *c)
{
    if (c->state == TN_CONN_HANDSHAKE) {
        handshake_step(c);
        return;
    }
    if (!c->ready) return;
    int err = tn_socket_error(c->fd);
    if (err) attempt_failed(c, err);
    else if (c->ready & TN_EGRESS_WANT_WRITE) connected(c);
}

void tn_dial_timeout(struct tn_egress_conn *c)
{
    switch ((enum tn_conn_state)c->state) {
    case TN_CONN_RESOLVING: tn_conn_fail(c, TN_EGRESS_FAIL_PROXY_NAME); return;
    case TN_CONN_CONNECTING: attempt_failed(c, TN_E_TIMEDOUT); return;
    case TN_CONN_HANDSHAKE: tn_conn_fail(c, TN_EGRESS_FAIL_PROXY_TIMEOUT); return;
    case TN_CONN_NEW:
    case TN_CONN_OPEN:
    case TN_CONN_FAILED:
    case TN_CONN_CLOSED: return;
    }
}
