/* One HTTP/1.1 server connection as an engine (RFC 9110, 9112): bytes in, responses out through a callback, no
 * sockets and no clock. Used by PeerAPI over the in-process stack and by LocalAPI over a Unix socket.
 *
 * Requests are handed out one at a time, in the order they came; what a client pipelines behind waits. A handler gets
 * the whole body (up to its route's limit) and a handle, and answers at once or later, whole or as a stream. The
 * handle dies with the end of the response, or when the connection goes: then the cancel callback is the last word.
 *
 * Nothing is freed inside a callback of the connection's own: on_close asks the owner to close when the output is
 * sent, and tn_httpd_free must be called from outside of handle, write and on_close. */
#ifndef TN_NODE_HTTPD_H
#define TN_NODE_HTTPD_H

#include "wire/http1.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tn_httpd;     /* a connection */
struct tn_httpd_req; /* the request being answered */

enum {
    TN_HTTPD_HEAD_MAX = 16 * 1024,
    TN_HTTPD_BODY_MAX = 256 * 1024,   /* unless the route says otherwise */
    /* Bytes taken while a request is being answered; more is an error of the owner's. */
    TN_HTTPD_AHEAD_MAX = 128 * 1024,
};

/* Valid during the callback it is passed to; copy what is kept. */
struct tn_httpd_request {
    const struct tn_http1_head *head;
    const char *method, *path; /* NUL-terminated; the path is percent-decoded and without the query */
    const char *query;         /* behind '?', as it came; "" when there is none */
    const char *host;          /* the Host header, or the authority of an absolute target; "" when there is none */
    const uint8_t *body;
    size_t body_len;
};

struct tn_httpd_config {
    /* The request is complete. req stays valid until its response ends or its cancel callback was called. */
    void (*handle)(void *ctx, struct tn_httpd_req *req, const struct tn_httpd_request *r, uint64_t now_us);
    /* How much body this route takes, asked with the head (body NULL). NULL: TN_HTTPD_BODY_MAX. */
    size_t (*body_limit)(void *ctx, const struct tn_httpd_request *r);
    /* Takes all of it. 0; 1 when a backlog remains (call tn_httpd_drained when it is gone); negative: the connection
     * is dead. */
    int (*write)(void *ctx, const void *bytes, size_t len);
    /* No more output will come: close when everything is sent. At most once. */
    void (*on_close)(void *ctx);
    /* After tn_httpd_input returned 1: reading may go on. */
    void (*on_resume)(void *ctx);
    void *ctx;
    uint64_t head_timeout_us, body_timeout_us, idle_timeout_us; /* 0: 15 s, 60 s, 120 s */
};

int tn_httpd_new(const struct tn_httpd_config *config, uint64_t now_us, struct tn_httpd **out);
void tn_httpd_free(struct tn_httpd *h); /* cancels the request being answered */
/* Bytes from the client, all taken. 0, 1 (stop reading until on_resume), or negative: the connection is of no use any
 * more. */
int tn_httpd_input(struct tn_httpd *h, const void *bytes, size_t len, uint64_t now_us);
/* The client sends no more: pending answers go out, then on_close. */
void tn_httpd_eof(struct tn_httpd *h, uint64_t now_us);
void tn_httpd_drained(struct tn_httpd *h, uint64_t now_us);
void tn_httpd_timeout(struct tn_httpd *h, uint64_t now_us);
uint64_t tn_httpd_next_deadline(const struct tn_httpd *h);

/* Called (once) when the connection goes away before the response has ended; req is dead then. */
void tn_httpd_on_cancel(struct tn_httpd_req *req, void (*canceled)(void *arg), void *arg);
/* A whole response. type: Content-Type or NULL. extra: more header lines, each ended by CRLF, or NULL; the caller
 * vouches for them. To HEAD, the body's length is told and the body left out. The handle is dead afterwards. */
void tn_httpd_respond(struct tn_httpd_req *req, int status, const char *type, const char *extra, const void *body,
                      size_t len);
/* A response with a line of text. */
void tn_httpd_error(struct tn_httpd_req *req, int status, const char *text);
/* A response of unknown length: chunked, or up to the close for HTTP/1.0. start, any number of writes, end. write: 0,
 * 1 with a backlog (on_drain, if set, comes when it is gone), or negative when the connection is dead (cancel
 * follows). */
void tn_httpd_stream_start(struct tn_httpd_req *req, int status, const char *type, const char *extra,
                           void (*on_drain)(void *arg), void *arg);
int tn_httpd_stream_write(struct tn_httpd_req *req, const void *bytes, size_t len);
void tn_httpd_stream_end(struct tn_httpd_req *req);

/* The first value of a query parameter, decoded ('+' is a space). Its length, -1 when absent, TN_E_MALFORMED for
 * broken escapes or a NUL, TN_E_NOSPC. out is NUL-terminated. */
long tn_httpd_query_param(const char *query, const char *name, char *out, size_t cap);
const char *tn_httpd_status_text(int status); /* "" for unknown ones */

#endif
