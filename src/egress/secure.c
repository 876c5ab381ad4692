/* TLS between a connection and its socket, done by an engine that somebody else brought (struct tn_egress_tls): this room
 * knows no cryptography.
 *
 * At most one record's worth of ciphertext waits for the socket: nothing more is taken from the owner before that is gone. An
 * end of the TCP stream without TLS's own end is a break, never an end of file. A connection that is closed while its last
 * words wait stays for LINGER_US at most, without its owner. */
#include "egress/private.h"
#include "egress/socket.h"
#include "util/err.h"

#include <stdlib.h>

enum { CHUNK = 16 * 1024 }; /* a TLS record */
#define LINGER_US 10000000ull

struct tn_secure {
    struct tn_egress_conn *conn;
    const struct tn_egress_tls *ops;
    void *tls;
    bool ready;       /* the handshake is complete */
    bool shut_wanted; /* our TCP FIN follows the last ciphertext */
    struct tn_alarm linger;
};

int tn_secure_begin(struct tn_egress_conn *c)
{
    const struct tn_egress_tls *ops = c->e->tls;
    if (!ops) return TN_EGRESS_FAIL_PROXY_TLS;
    struct tn_secure *s = calloc(1, sizeof *s);
    if (!s) return TN_EGRESS_FAIL_FDS;
    s->conn = c;
    s->ops = ops;
    s->tls = ops->open(ops->ctx, c->up->proxy);
    if (!s->tls) {
        free(s);
        return TN_EGRESS_FAIL_FDS;
    }
    c->secure = s;
    return 0;
}

void tn_secure_free(struct tn_egress_conn *c)
{
    struct tn_secure *s = c->secure;
    if (!s) return;
    c->secure = NULL;
    tn_timer_stop(&c->e->timers, &s->linger.timer);
    s->ops->free(s->tls);
    free(s);
}

int tn_secure_flush(struct tn_egress_conn *c)
{
    struct tn_secure *s = c->secure;
    const uint8_t *bytes;
    for (size_t len; (len = s->ops->output(s->tls, &bytes)) > 0;) {
        struct iovec iov = {(void *)(uintptr_t)bytes, len};
        long n = tn_socket_writev(c->fd, &iov, 1);
        if (n < 0) return (int)n;
        s->ops->consume(s->tls, (size_t)n);
    }
    if (!s->shut_wanted) return 0;
    s->shut_wanted = false;
    return tn_socket_shutdown(c->fd);
}

/* Ciphertext from the socket into the engine. 0, or why not. */
static int fetch(struct tn_egress_conn *c)
{
    uint8_t chunk[CHUNK];
    struct iovec iov = {chunk, sizeof chunk};
    long n = tn_socket_readv(c->fd, &iov, 1);
    if (n == 0) return TN_E_RESET; /* cut short */
    return n < 0 ? (int)n : c->secure->ops->input(c->secure->tls, chunk, (size_t)n);
}

int tn_secure_handshake(struct tn_egress_conn *c)
{
    struct tn_secure *s = c->secure;
    while (!s->ready) {
        int r = s->ops->handshake(s->tls), sent = tn_secure_flush(c); /* what it has to say goes out also when it failed */
        s->ready = r == 0;
        if (r && r != TN_E_AGAIN) {
            tn_logf(c->e->log, TN_LOG_DEBUG, "egress", "proxy %s: TLS: %s", c->up->name, s->ops->error(s->tls));
            return TN_E_TLS;
        }
        if (sent && sent != TN_E_AGAIN) return sent;
        if (s->ready) return 0;
        r = fetch(c);
        if (r) return r;
    }
    return 0;
}

static long read_plain(struct tn_secure *s, const struct iovec *iov, int n)
{
    size_t total = 0;
    for (int i = 0; i < n; i++) {
        for (size_t at = 0; at < iov[i].iov_len;) {
            long r = s->ops->read(s->tls, (uint8_t *)iov[i].iov_base + at, iov[i].iov_len - at);
            if (r <= 0) return total ? (long)total : r;
            at += (size_t)r;
            total += (size_t)r;
        }
    }
    return (long)total;
}

long tn_secure_readv(struct tn_egress_conn *c, const struct iovec *iov, int n)
{
    for (;;) {
        long r = read_plain(c->secure, iov, n);
        if (r == TN_E_EOF) return 0;
        if (r != TN_E_AGAIN) return r > 0 ? r : TN_E_RESET;
        int err = fetch(c);
        if (err) return err;
        err = tn_secure_flush(c); /* a key update may want an answer */
        if (err && err != TN_E_AGAIN) return err;
    }
}

long tn_secure_writev(struct tn_egress_conn *c, const struct iovec *iov, int n)
{
    struct tn_secure *s = c->secure;
    size_t total = 0;
    int err = tn_secure_flush(c);
    if (err) return err;
    for (int i = 0; i < n && total < CHUNK; i++) {
        size_t len = iov[i].iov_len < CHUNK - total ? iov[i].iov_len : CHUNK - total;
        if (len == 0) continue;
        if (s->ops->write(s->tls, iov[i].iov_base, len) != 0) return TN_E_RESET;
        total += len;
    }
    err = tn_secure_flush(c);
    return err && err != TN_E_AGAIN ? err : (long)total;
}

int tn_secure_shutdown(struct tn_egress_conn *c)
{
    c->secure->ops->shutdown(c->secure->tls);
    c->secure->shut_wanted = true;
    int err = tn_secure_flush(c);
    return err == TN_E_AGAIN ? 0 : err;
}

static void lingered(struct tn_alarm *a) { tn_conn_bury(TN_CONTAINER(a, struct tn_secure, linger)->conn, true); }

bool tn_secure_linger(struct tn_egress_conn *c)
{
    struct tn_secure *s = c->secure;
    if (tn_secure_flush(c) != TN_E_AGAIN) return false;
    s->linger.fire = lingered;
    return tn_timer_arm(&c->e->timers, &s->linger.timer, tn_egress_now() + LINGER_US) == 0;
}
