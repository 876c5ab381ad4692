/* The one connection to the upstream: an egress connection with TLS on it, both driven from the egress's events. TLS
 * is here and not in src/egress, which stays free of cryptography. */
#include "dns/doh_internal.h"
#include "dns/upstream.h"
#include "util/err.h"

#include <string.h>

enum { READ_CHUNK = 16 * 1024, READS_PER_EVENT = 16 }; /* the event comes again when more is there */

static void set_want(struct tn_doh *d, int want)
{
    if (d->want == want) return;
    d->want = want;
    tn_egress_want(d->conn, want);
}

/* Hands ciphertext to the egress. True when all of it went. */
static bool send_output(struct tn_doh *d)
{
    const uint8_t *bytes;
    size_t len;
    while ((len = tn_tls_output(d->tls, &bytes)) > 0) {
        struct iovec iov = {(void *)(uintptr_t)bytes, len};
        long n = tn_egress_writev(d->conn, &iov, 1);
        if (n > 0) {
            tn_tls_output_consume(d->tls, (size_t)n);
            continue;
        }
        if (n != TN_E_AGAIN && !d->conn_err) d->conn_err = n < 0 ? (int)n : TN_E_PIPE;
        break;
    }
    return len == 0;
}

void tn_doh_conn_flush(struct tn_doh *d)
{
    const uint8_t *bytes;
    if (d->state != TN_DOH_TLS && d->state != TN_DOH_OPEN) return;
    bool sent = send_output(d);
    while (sent && !d->conn_err && d->state == TN_DOH_OPEN) {
        int err = tn_doh_h2_output(d);
        if (err && !d->conn_err) d->conn_err = err;
        if (tn_tls_output(d->tls, &bytes) == 0) break;
        sent = send_output(d);
    }
    if (!d->conn_err) set_want(d, TN_EGRESS_WANT_READ | (sent ? 0 : TN_EGRESS_WANT_WRITE));
}

/* Goes on with the handshake; when it is done the HTTP/2 session begins. */
static int shake(struct tn_doh *d)
{
    int err = tn_tls_handshake(d->tls);
    if (err == TN_E_AGAIN) return 0;
    if (err) {
        tn_doh_set_health(d, err, tn_tls_error(d->tls));
        return err;
    }
    const char *alpn = tn_tls_alpn(d->tls);
    if (!alpn || strcmp(alpn, "h2") != 0) {
        tn_doh_set_health(d, TN_E_PROTO, "the upstream does not speak HTTP/2");
        return TN_E_PROTO;
    }
    err = tn_doh_h2_new(d);
    if (!err) d->state = TN_DOH_OPEN;
    return err;
}

/* Takes what TLS has decrypted. */
static int read_plain(struct tn_doh *d)
{
    uint8_t plain[READ_CHUNK];
    for (;;) {
        long n = tn_tls_read(d->tls, plain, sizeof plain);
        if (n == TN_E_AGAIN) return 0;
        if (n <= 0) return n < 0 ? (int)n : TN_E_EOF;
        int err = tn_doh_h2_input(d, plain, (size_t)n);
        if (err) return err;
    }
}

static int read_some(struct tn_doh *d)
{
    uint8_t bytes[READ_CHUNK];
    for (int i = 0; i < READS_PER_EVENT; i++) {
        struct iovec iov = {bytes, sizeof bytes};
        long n = tn_egress_readv(d->conn, &iov, 1);
        if (n == TN_E_AGAIN) return 0;
        if (n <= 0) return n < 0 ? (int)n : TN_E_EOF;
        d->progress++;
        int err = tn_tls_input(d->tls, bytes, (size_t)n);
        if (!err && d->state == TN_DOH_TLS) err = shake(d);
        if (!err && d->state == TN_DOH_OPEN) err = read_plain(d);
        if (err) return err;
    }
    return 0;
}

static void on_open(void *arg, struct tn_egress_conn *c)
{
    struct tn_doh *d = arg;
    struct tn_dial_spec spec = {.host = d->url.host, .port = d->url.addr.port, .tls = true, .alpn = "h2",
                                .verify = TN_VERIFY_SYSTEM};
    d->progress++;
    d->state = TN_DOH_TLS;
    int err = tn_tls_new(d->config.tls, &spec, &d->tls);
    if (!err) err = shake(d);
    if (err) d->conn_err = err;
    tn_doh_turn(d);
}

static void on_fail(void *arg, enum tn_egress_fail why)
{
    struct tn_doh *d = arg;
    d->conn = NULL; /* gone already */
    d->conn_err = tn_dns_dial_error(why);
    tn_doh_set_health(d, d->conn_err, tn_egress_fail_text(why));
    tn_doh_turn(d);
}

static void on_readable(void *arg, struct tn_egress_conn *c)
{
    struct tn_doh *d = arg;
    int err = read_some(d);
    if (err && !d->conn_err) d->conn_err = err;
    tn_doh_turn(d);
}

static void on_writable(void *arg, struct tn_egress_conn *c) { tn_doh_turn(arg); } /* a turn flushes */

int tn_doh_conn_open(struct tn_doh *d)
{
    static const struct tn_egress_events events = {on_open, on_fail, on_readable, on_writable};
    d->mode = tn_egress_mode(d->config.egress);
    struct tn_egress_target to = {.dst = d->url.addr, .peer = d->config.peer, .purpose = TN_EGRESS_RESOLVER};
    int why = tn_egress_dial(d->config.egress, &to, &events, d, &d->conn);
    if (why) {
        d->conn = NULL;
        tn_doh_set_health(d, tn_dns_dial_error(why), tn_egress_fail_text(why));
        return tn_dns_dial_error(why);
    }
    d->want = 0;
    d->state = TN_DOH_DIALING;
    return 0;
}

void tn_doh_conn_close(struct tn_doh *d)
{
    if (d->state == TN_DOH_OPEN && !d->conn_err) {
        nghttp2_session_terminate_session(d->h2, NGHTTP2_NO_ERROR);
        tn_doh_conn_flush(d);
        tn_tls_shutdown(d->tls);
        if (!d->conn_err) send_output(d);
    }
    if (d->conn) tn_egress_close(d->conn, false);
    nghttp2_session_del(d->h2);
    tn_tls_free(d->tls);
    d->conn = NULL;
    d->h2 = NULL;
    d->tls = NULL;
    d->state = TN_DOH_CLOSED;
    d->conn_err = 0;
}
