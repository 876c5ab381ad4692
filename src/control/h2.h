/* The node's end of HTTP/2 inside the Noise connection: requests out, responses streamed in (nghttp2 does the
 * protocol).
 *
 * One connection carries the map poll, lite updates and everything else at once. Both windows stay open: the
 * stream's is large and the connection's is refilled as bytes arrive, because a netmap of many MB on one stream
 * would otherwise stall and starve the others. An engine: bytes in through tn_h2_input, bytes out through the
 * output function. */
#ifndef TN_CONTROL_H2_H
#define TN_CONTROL_H2_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tn_h2;
struct tn_h2_req;

enum {
    TN_H2_STREAM_WINDOW = 1 << 20,     /* a netmap in few round trips; no memory is set aside for it */
    TN_H2_CONNECTION_WINDOW = 4 << 20,
    TN_H2_REQUESTS_MAX = 64,           /* more at once is a bug or a server that asks for pings without end */
};

struct tn_h2_events {
    /* The final response's status (1xx are swallowed). retry_after: that header's value or NULL. May be NULL. */
    void (*head)(void *arg, int status, const char *retry_after);
    /* Body bytes, borrowed. Non-zero resets the stream; done comes with that value. NULL drains the body. */
    int (*data)(void *arg, const uint8_t *bytes, size_t len);
    /* Once, last, unless cancelled: 0 after a complete response, TN_E_RESET (RST_STREAM or refused), TN_E_PROTO,
     * or why the connection ended. The request is gone when it is called. */
    void (*done)(void *arg, int err);
};

struct tn_h2_spec {
    const char *method, *path, *authority;
    const char *content_type;         /* NULL: none */
    const char *lb[2];                /* Ts-Lb values, NULL where unused */
    const void *body;                 /* copied; may be NULL */
    size_t body_len;
};

/* Takes plaintext for the transport; non-zero fails the connection. */
typedef int tn_h2_output(void *arg, const uint8_t *bytes, size_t len);

/* Queues the preface; tn_h2_flush sends it. TN_E_NOMEM. */
int tn_h2_new(tn_h2_output *output, void *arg, struct tn_h2 **out);
/* No callbacks: end the requests first with tn_h2_fail if somebody waits for them. NULL is fine. */
void tn_h2_free(struct tn_h2 *h);
/* The connection is over: done(err) for every request. */
void tn_h2_fail(struct tn_h2 *h, int err);

/* Queues a request. TN_E_LIMIT, TN_E_CLOSED (after GOAWAY), TN_E_NOMEM; then no callback comes. May be called from
 * callbacks. */
int tn_h2_request(struct tn_h2 *h, const struct tn_h2_spec *spec, const struct tn_h2_events *events, void *arg,
                  struct tn_h2_req **out);
/* Resets the stream; no callback comes any more. NULL is fine. */
void tn_h2_cancel(struct tn_h2 *h, struct tn_h2_req *req);

/* 0, or the connection is unusable: TN_E_PROTO, TN_E_LIMIT (flooded), TN_E_NOMEM. Not from callbacks. */
int tn_h2_input(struct tn_h2 *h, const uint8_t *bytes, size_t len);
/* Sends what is queued. 0, what output returned, or TN_E_PROTO. A no-op while inside tn_h2_input, whose caller
 * flushes. */
int tn_h2_flush(struct tn_h2 *h);
/* Queues a PING; its answer is input like any other. */
void tn_h2_ping(struct tn_h2 *h);
bool tn_h2_goaway(const struct tn_h2 *h); /* the server asked us to leave: no new request is taken */

#endif
