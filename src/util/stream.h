/* Byte streams without sockets: how protocol rooms (control, DERP, DoH) ask for connections and get bytes.
 *
 * A room calls tn_dialer_dial with where to go and how to verify it; whoever owns sockets (src/node over libuv, a
 * test over memory, src/dns over the egress) implements the dialer. All calls and callbacks happen on one thread.
 *
 * Life of a stream: dial returns 0 and a handle, then exactly one of
 *   on_open, any number of on_data / on_drain, then on_close (once)      the normal life
 *   on_close alone                                                      the dial failed
 * unless the owner calls tn_stream_close first: after that no callback comes, and the handle is gone. Inside
 * on_close the handle is already dead: do not touch it again. A dial never calls back before it has returned. */
#ifndef TN_UTIL_STREAM_H
#define TN_UTIL_STREAM_H

#include "util/ip.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tn_stream;

struct tn_stream_events {
    void (*on_open)(void *arg, struct tn_stream *s, uint64_t now_us);
    /* Borrowed bytes, all to be taken now (copy what is kept). To stop them coming, tn_stream_pause. */
    void (*on_data)(void *arg, struct tn_stream *s, const uint8_t *bytes, size_t len, uint64_t now_us);
    /* After a write that reported a backlog: everything was handed to the kernel. May be NULL. */
    void (*on_drain)(void *arg, struct tn_stream *s, uint64_t now_us);
    /* err: TN_E_EOF for an orderly end by the peer, else what went wrong. The stream is already gone. */
    void (*on_close)(void *arg, int err, uint64_t now_us);
};

enum tn_verify {
    TN_VERIFY_SYSTEM,   /* chain to the system roots (or SSL_CERT_FILE / SSL_CERT_DIR) and match verify_name */
    TN_VERIFY_SHA256,   /* exactly one leaf (DERP metacerts aside) with this SHA-256 of its DER, valid now, name matches */
    TN_VERIFY_INSECURE, /* none: only where an outer protocol authenticates (ts2021), or a test server says so */
};

struct tn_dial_spec {
    const char *host;              /* name or IP literal; resolved by the dialer unless addrs is given */
    const struct tn_addrport *addrs; /* tried in order (staggered) instead of resolving; may be NULL */
    size_t naddrs;
    uint16_t port;
    bool tls;
    const char *sni;         /* NULL: host; never sent for an IP literal */
    const char *verify_name; /* NULL: host */
    const char *alpn;        /* one protocol such as "h2", or NULL */
    enum tn_verify verify;
    uint8_t sha256[32];
    uint64_t timeout_us; /* for everything up to on_open, from the call */
};

struct tn_stream_ops {
    /* Queues or sends all of it. Returns 0, 1 when a backlog remains (on_drain will come), or a negative code, after
     * which on_close follows from the loop. */
    int (*write)(struct tn_stream *s, const void *bytes, size_t len);
    void (*pause)(struct tn_stream *s, bool paused);
    void (*close)(struct tn_stream *s); /* flushes nothing more; no callback afterwards */
    /* TLS only: the DERP server key in the chain's "derpkey..." metacertificate, true if there was one. */
    bool (*derp_meta)(struct tn_stream *s, uint8_t key[32]);
    int (*remote)(struct tn_stream *s, struct tn_addrport *out);
    int (*local)(struct tn_stream *s, struct tn_addrport *out);
};

struct tn_stream {
    const struct tn_stream_ops *ops;
};

struct tn_dialer {
    /* Copies what it needs from spec. 0 and *out set, or a negative code and no callback. */
    int (*dial)(void *ctx, const struct tn_dial_spec *spec, const struct tn_stream_events *events, void *arg,
                struct tn_stream **out);
    void *ctx;
};

static inline int tn_dialer_dial(const struct tn_dialer *d, const struct tn_dial_spec *spec,
                                 const struct tn_stream_events *events, void *arg, struct tn_stream **out)
{
    return d->dial(d->ctx, spec, events, arg, out);
}
static inline int tn_stream_write(struct tn_stream *s, const void *bytes, size_t len)
{
    return s->ops->write(s, bytes, len);
}
static inline void tn_stream_pause(struct tn_stream *s, bool paused) { s->ops->pause(s, paused); }
static inline void tn_stream_close(struct tn_stream *s) { s->ops->close(s); }

#endif
