#include "control/fetch.h"
#include "util/buf.h"
#include "util/err.h"
#include "util/heap.h"
#include "wire/http1.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    HEAD_MAX = 16 * 1024,
    REQUEST_HEAD_MAX = TN_WEBURL_PATH + TN_WEBURL_HOST + 256,
    REDIRECTS_MAX = 5,
    READ_MAX = 256 * 1024, /* body bytes that one read may bring behind a head */
};

enum body_kind { BODY_NONE, BODY_LENGTH, BODY_CHUNKED, BODY_TO_END };

struct tn_fetch {
    struct tn_fetch_spec spec;
    uint8_t *body; /* the request's */
    tn_fetch_done *done;
    void *arg;
    struct tn_stream *stream; /* NULL while none is open or being opened */
    uint64_t deadline_us;
    unsigned redirects;
    bool over, headed;
    int status;
    enum body_kind kind;
    uint64_t left; /* BODY_LENGTH */
    struct tn_http1_chunked chunked;
    struct tn_buf head, response;
};

static void drop_stream(struct tn_fetch *f)
{
    if (f->stream) tn_stream_close(f->stream);
    f->stream = NULL;
}

static void finish(struct tn_fetch *f, int err, uint64_t now_us)
{
    if (f->over) return;
    f->over = true;
    drop_stream(f);
    f->deadline_us = TN_NEVER;
    f->done(f->arg, err, err ? 0 : f->status, tn_buf_data(&f->response), err ? 0 : tn_buf_len(&f->response), now_us);
}

static int take_body(struct tn_fetch *f, const uint8_t *bytes, size_t len)
{
    return tn_buf_append(&f->response, bytes, len);
}

/* 1 when the body is complete, 0 when more is to come, or an error. */
static int body_input(struct tn_fetch *f, const uint8_t *bytes, size_t len)
{
    int err = 0;
    switch (f->kind) {
    case BODY_NONE: return 1;
    case BODY_LENGTH: {
        size_t n = len < f->left ? len : (size_t)f->left;
        err = take_body(f, bytes, n);
        f->left -= n;
        return err ? err : f->left == 0;
    }
    case BODY_TO_END: return take_body(f, bytes, len);
    case BODY_CHUNKED: break;
    }
    while (len > 0 && !f->chunked.done) {
        const uint8_t *data;
        size_t data_len;
        long used = tn_http1_dechunk(&f->chunked, bytes, len, &data, &data_len);
        if (used < 0) return (int)used;
        err = take_body(f, data, data_len);
        if (err) return err;
        if (used == 0 && data_len == 0) break;
        bytes += used;
        len -= (size_t)used;
    }
    return f->chunked.done;
}

static int start_body(struct tn_fetch *f, const struct tn_http1_head *h)
{
    int64_t length = tn_http1_content_length(h);
    if (length == TN_E_MALFORMED) return TN_E_MALFORMED;
    if (strcmp(f->spec.method, "HEAD") == 0 || h->status == 204 || h->status == 304) f->kind = BODY_NONE;
    else if (tn_http1_is_chunked(h)) f->kind = BODY_CHUNKED;
    else if (length >= 0) f->kind = length == 0 ? BODY_NONE : BODY_LENGTH;
    else f->kind = BODY_TO_END;
    if (f->kind == BODY_LENGTH && (uint64_t)length > f->spec.max_body) return TN_E_TOOBIG;
    f->left = length > 0 ? (uint64_t)length : 0;
    f->chunked = (struct tn_http1_chunked){0};
    return 0;
}

static int dial(struct tn_fetch *f, uint64_t now_us);

static bool is_redirect(int status)
{
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

/* Returns 1 when a new connection is under way. */
static int follow(struct tn_fetch *f, const struct tn_http1_head *h, uint64_t now_us)
{
    char location[TN_WEBURL_PATH + TN_WEBURL_HOST];
    size_t len;
    const char *value = tn_http1_find(h, "Location", &len);
    if (!value || len >= sizeof location) return TN_E_PROTO;
    memcpy(location, value, len);
    location[len] = '\0';
    if (++f->redirects > REDIRECTS_MAX) return TN_E_LIMIT;
    int err = tn_weburl_redirect(&f->spec.url, location, &f->spec.url);
    if (err) return err;
    drop_stream(f);
    tn_buf_fini(&f->head);
    err = dial(f, now_us);
    return err ? err : 1;
}

/* The head is (perhaps) whole. 1: all done or redirected; *moved says which. */
static int head_input(struct tn_fetch *f, bool *moved, uint64_t now_us)
{
    struct tn_http1_head h;
    for (;;) {
        long used = tn_http1_parse_response(tn_buf_data(&f->head), tn_buf_len(&f->head), HEAD_MAX, &h);
        if (used <= 0) return (int)used;
        if (h.status >= 200) {
            if (is_redirect(h.status) && strcmp(f->spec.method, "GET") == 0) {
                *moved = true;
                return follow(f, &h, now_us);
            }
            f->status = h.status;
            f->headed = true;
            int err = start_body(f, &h);
            if (err) return err;
            if (f->kind == BODY_NONE) return 1;
            return body_input(f, tn_buf_data(&f->head) + used, tn_buf_len(&f->head) - (size_t)used);
        }
        if (h.status == 101) return TN_E_PROTO;
        tn_buf_consume(&f->head, (size_t)used);
        if (tn_buf_len(&f->head) == 0) return 0;
    }
}

static void on_data(void *arg, struct tn_stream *s, const uint8_t *bytes, size_t len, uint64_t now_us)
{
    struct tn_fetch *f = arg;
    bool moved = false;
    int r;
    if (f->headed) {
        r = body_input(f, bytes, len);
    } else {
        r = tn_buf_append(&f->head, bytes, len);
        if (r == 0) r = head_input(f, &moved, now_us);
    }
    if (r < 0) finish(f, r, now_us);
    else if (r == 1 && !moved) finish(f, 0, now_us);
}

static int send_request(struct tn_fetch *f)
{
    char head[REQUEST_HEAD_MAX];
    int n = snprintf(head, sizeof head, "%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n", f->spec.method,
                     f->spec.url.path, f->spec.url.authority);
    size_t used = (size_t)n;
    if (f->spec.body_len)
        used += (size_t)snprintf(head + used, sizeof head - used,
                                 "Content-Type: application/json\r\nContent-Length: %zu\r\n", f->spec.body_len);
    used += (size_t)snprintf(head + used, sizeof head - used, "\r\n");
    int err = tn_stream_write(f->stream, head, used);
    if (err >= 0 && f->spec.body_len) err = tn_stream_write(f->stream, f->body, f->spec.body_len);
    return err < 0 ? err : 0;
}

static void on_open(void *arg, struct tn_stream *s, uint64_t now_us)
{
    struct tn_fetch *f = arg;
    int err = send_request(f);
    if (err) finish(f, err, now_us);
}

static void on_close(void *arg, int err, uint64_t now_us)
{
    struct tn_fetch *f = arg;
    f->stream = NULL;
    bool complete = err == TN_E_EOF && f->headed && f->kind == BODY_TO_END;
    finish(f, complete ? 0 : err, now_us);
}

static const struct tn_stream_events stream_events = {on_open, on_data, NULL, on_close};

static int dial(struct tn_fetch *f, uint64_t now_us)
{
    struct tn_dial_spec spec = {
        .host = f->spec.url.host,
        .port = f->spec.url.port,
        .tls = f->spec.url.tls,
        .verify = TN_VERIFY_SYSTEM,
        .timeout_us = f->deadline_us > now_us ? f->deadline_us - now_us : 1,
    };
    f->headed = false;
    return tn_dialer_dial(f->spec.dialer, &spec, &stream_events, f, &f->stream);
}

int tn_fetch_start(const struct tn_fetch_spec *spec, tn_fetch_done *done, void *arg, uint64_t now_us,
                   struct tn_fetch **out)
{
    struct tn_fetch *f = calloc(1, sizeof *f);
    if (!f) return TN_E_NOMEM;
    f->spec = *spec;
    f->done = done;
    f->arg = arg;
    f->deadline_us = now_us + spec->timeout_us;
    tn_buf_init(&f->head, HEAD_MAX + READ_MAX);
    tn_buf_init(&f->response, spec->max_body);
    int err = 0;
    if (spec->body_len) {
        f->body = malloc(spec->body_len);
        if (f->body) memcpy(f->body, spec->body, spec->body_len);
        else err = TN_E_NOMEM;
    }
    if (!err) err = dial(f, now_us);
    if (err) tn_fetch_free(f);
    else *out = f;
    return err;
}

void tn_fetch_free(struct tn_fetch *f)
{
    if (!f) return;
    drop_stream(f);
    tn_buf_fini(&f->head);
    tn_buf_fini(&f->response);
    free(f->body);
    free(f);
}

void tn_fetch_timeout(struct tn_fetch *f, uint64_t now_us)
{
    if (now_us >= f->deadline_us) finish(f, TN_E_TIMEDOUT, now_us);
}

uint64_t tn_fetch_next_deadline(const struct tn_fetch *f) { return f->deadline_us; }
