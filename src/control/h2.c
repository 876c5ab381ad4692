#include "control/h2.h"
#include "util/err.h"
#include "util/list.h"
#include "util/secret.h"

#include <nghttp2/nghttp2.h>
#include <stdlib.h>
#include <string.h>

enum {
    HEADERS_MAX = 64 * 1024, /* of one response, names and values: as nghttp2's own sending limit */
    RETRY_AFTER_MAX = 64,
};

struct tn_h2_req {
    struct tn_list link; /* in tn_h2.requests */
    const struct tn_h2_events *events;
    void *arg;
    int32_t stream;
    int status;
    size_t headers;
    int failed; /* why we reset it ourselves; 0: not */
    bool cancelled, headed;
    char retry_after[RETRY_AFTER_MAX];
    uint8_t *body;
    size_t body_len, body_sent;
};

struct tn_h2 {
    nghttp2_session *session;
    tn_h2_output *output;
    void *arg;
    struct tn_list requests;
    unsigned count;
    bool inside, goaway, over;
};

/* Register requests carry auth keys. */
static void drop_body(struct tn_h2_req *r)
{
    if (r->body) tn_wipe(r->body, r->body_len);
    free(r->body);
    r->body = NULL;
}

static void req_free(struct tn_h2 *h, struct tn_h2_req *r)
{
    tn_list_remove(&r->link);
    h->count--;
    drop_body(r);
    free(r);
}

/* The one way a request ends: gone first, so that the callback may start another. */
static void finish(struct tn_h2 *h, struct tn_h2_req *r, int err)
{
    const struct tn_h2_events *events = r->events;
    void *arg = r->arg;
    bool tell = !r->cancelled;
    req_free(h, r);
    if (tell && events->done) events->done(arg, err);
}

static int reset_stream(struct tn_h2 *h, struct tn_h2_req *r, int err)
{
    r->failed = err;
    return nghttp2_submit_rst_stream(h->session, NGHTTP2_FLAG_NONE, r->stream, NGHTTP2_CANCEL);
}

static bool name_is(const uint8_t *name, size_t len, const char *want)
{
    return len == strlen(want) && memcmp(name, want, len) == 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t namelen,
                     const uint8_t *value, size_t valuelen, uint8_t flags, void *user)
{
    struct tn_h2_req *r = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (!r || frame->hd.type != NGHTTP2_HEADERS || r->failed) return 0;
    r->headers += namelen + valuelen;
    if (r->headers > HEADERS_MAX) return reset_stream(user, r, TN_E_TOOBIG) ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
    if (name_is(name, namelen, ":status")) {
        r->status = 0;
        for (size_t i = 0; i < valuelen && i < 3; i++) r->status = r->status * 10 + (value[i] - '0');
    } else if (name_is(name, namelen, "retry-after") && valuelen < sizeof r->retry_after) {
        memcpy(r->retry_after, value, valuelen);
        r->retry_after[valuelen] = '\0';
    }
    return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct tn_h2 *h = user;
    if (frame->hd.type == NGHTTP2_GOAWAY) h->goaway = true;
    if (frame->hd.type != NGHTTP2_HEADERS) return 0;
    struct tn_h2_req *r = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (!r || r->cancelled || r->headed || r->failed || r->status < 200) return 0;
    r->headed = true;
    if (r->events->head) r->events->head(r->arg, r->status, r->retry_after[0] ? r->retry_after : NULL);
    return 0;
}

static int on_chunk(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *data, size_t len,
                    void *user)
{
    struct tn_h2_req *r = nghttp2_session_get_stream_user_data(session, stream);
    if (!r || r->cancelled || r->failed || !r->events->data || len == 0) return 0;
    int err = r->events->data(r->arg, data, len);
    if (err == 0 || r->cancelled) return 0;
    return reset_stream(user, r, err) ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

static int on_close(nghttp2_session *session, int32_t stream, uint32_t code, void *user)
{
    struct tn_h2_req *r = nghttp2_session_get_stream_user_data(session, stream);
    if (!r) return 0;
    nghttp2_session_set_stream_user_data(session, stream, NULL);
    int err = r->failed;
    if (!err && code != NGHTTP2_NO_ERROR) err = code == NGHTTP2_PROTOCOL_ERROR ? TN_E_PROTO : TN_E_RESET;
    if (!err && !r->headed) err = TN_E_PROTO;
    finish(user, r, err);
    return 0;
}

/* A request that never left (the server went away first, or it was cancelled while queued). */
static int on_not_sent(nghttp2_session *session, const nghttp2_frame *frame, int code, void *user)
{
    struct tn_h2 *h = user;
    if (frame->hd.type != NGHTTP2_HEADERS) return 0;
    TN_LIST_EACH(l, &h->requests) {
        struct tn_h2_req *r = TN_CONTAINER(l, struct tn_h2_req, link);
        if (r->stream != frame->hd.stream_id) continue;
        nghttp2_session_set_stream_user_data(session, r->stream, NULL);
        finish(h, r, TN_E_RESET);
        break;
    }
    return 0;
}

static int make_callbacks(nghttp2_session_callbacks **out)
{
    if (nghttp2_session_callbacks_new(out) != 0) return TN_E_NOMEM;
    nghttp2_session_callbacks_set_on_header_callback(*out, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(*out, on_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(*out, on_chunk);
    nghttp2_session_callbacks_set_on_stream_close_callback(*out, on_close);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(*out, on_not_sent);
    return 0;
}

static int submit_settings(struct tn_h2 *h)
{
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, TN_H2_STREAM_WINDOW},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, HEADERS_MAX},
    };
    if (nghttp2_submit_settings(h->session, NGHTTP2_FLAG_NONE, settings, sizeof settings / sizeof *settings) != 0)
        return TN_E_NOMEM;
    int err = nghttp2_session_set_local_window_size(h->session, NGHTTP2_FLAG_NONE, 0, TN_H2_CONNECTION_WINDOW);
    return err ? TN_E_NOMEM : 0;
}

int tn_h2_new(tn_h2_output *output, void *arg, struct tn_h2 **out)
{
    nghttp2_session_callbacks *callbacks = NULL;
    struct tn_h2 *h = calloc(1, sizeof *h);
    if (!h) return TN_E_NOMEM;
    h->output = output;
    h->arg = arg;
    tn_list_init(&h->requests);
    int err = make_callbacks(&callbacks);
    if (!err && nghttp2_session_client_new(&h->session, callbacks, h) != 0) err = TN_E_NOMEM;
    nghttp2_session_callbacks_del(callbacks);
    if (!err) err = submit_settings(h);
    if (err) tn_h2_free(h);
    else *out = h;
    return err;
}

void tn_h2_free(struct tn_h2 *h)
{
    if (!h) return;
    TN_LIST_EACH(l, &h->requests) req_free(h, TN_CONTAINER(l, struct tn_h2_req, link));
    nghttp2_session_del(h->session);
    free(h);
}

void tn_h2_fail(struct tn_h2 *h, int err)
{
    h->over = true;
    for (struct tn_list *l; (l = tn_list_pop_front(&h->requests));) {
        struct tn_h2_req *r = TN_CONTAINER(l, struct tn_h2_req, link);
        nghttp2_session_set_stream_user_data(h->session, r->stream, NULL);
        finish(h, r, err);
    }
}

static ssize_t read_body(nghttp2_session *session, int32_t stream, uint8_t *buf, size_t cap, uint32_t *flags,
                         nghttp2_data_source *source, void *user)
{
    struct tn_h2_req *r = source->ptr;
    size_t left = r->body_len - r->body_sent, n = left < cap ? left : cap;
    if (n) memcpy(buf, r->body + r->body_sent, n);
    r->body_sent += n;
    if (r->body_sent == r->body_len) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        drop_body(r); /* nothing reads it again */
    }
    return (ssize_t)n;
}

static size_t add_header(nghttp2_nv *nv, size_t n, const char *name, const char *value)
{
    nv[n] = (nghttp2_nv){(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, strlen(name), strlen(value),
                         NGHTTP2_NV_FLAG_NONE};
    return n + 1;
}

static int32_t submit(struct tn_h2 *h, const struct tn_h2_spec *spec, struct tn_h2_req *r)
{
    nghttp2_nv nv[8];
    size_t n = 0;
    n = add_header(nv, n, ":method", spec->method);
    n = add_header(nv, n, ":scheme", "https");
    n = add_header(nv, n, ":authority", spec->authority);
    n = add_header(nv, n, ":path", spec->path);
    if (spec->content_type) n = add_header(nv, n, "content-type", spec->content_type);
    for (size_t i = 0; i < 2; i++)
        if (spec->lb[i]) n = add_header(nv, n, "ts-lb", spec->lb[i]);
    nghttp2_data_provider body = {.source.ptr = r, .read_callback = read_body};
    return nghttp2_submit_request(h->session, NULL, nv, n, r->body_len ? &body : NULL, r);
}

int tn_h2_request(struct tn_h2 *h, const struct tn_h2_spec *spec, const struct tn_h2_events *events, void *arg,
                  struct tn_h2_req **out)
{
    if (h->over || h->goaway) return TN_E_CLOSED;
    if (h->count >= TN_H2_REQUESTS_MAX) return TN_E_LIMIT;
    struct tn_h2_req *r = calloc(1, sizeof *r);
    if (!r) return TN_E_NOMEM;
    tn_list_init(&r->link);
    r->events = events;
    r->arg = arg;
    h->count++;
    if (spec->body_len) {
        r->body = malloc(spec->body_len);
        if (!r->body) goto fail;
        memcpy(r->body, spec->body, spec->body_len);
        r->body_len = spec->body_len;
    }
    r->stream = submit(h, spec, r);
    if (r->stream < 0) goto fail;
    tn_list_push_back(&h->requests, &r->link);
    *out = r;
    return 0;
fail:
    req_free(h, r);
    return TN_E_NOMEM;
}

void tn_h2_cancel(struct tn_h2 *h, struct tn_h2_req *r)
{
    if (!r) return;
    r->cancelled = true;
    if (!r->failed) reset_stream(h, r, TN_E_CANCELED);
}

static int error_of(long code)
{
    if (code == NGHTTP2_ERR_NOMEM) return TN_E_NOMEM;
    if (code == NGHTTP2_ERR_FLOODED) return TN_E_LIMIT;
    return TN_E_PROTO;
}

int tn_h2_input(struct tn_h2 *h, const uint8_t *bytes, size_t len)
{
    h->inside = true;
    ssize_t used = nghttp2_session_mem_recv(h->session, bytes, len);
    h->inside = false;
    return used < 0 ? error_of(used) : 0;
}

int tn_h2_flush(struct tn_h2 *h)
{
    if (h->inside) return 0;
    for (;;) {
        const uint8_t *bytes;
        ssize_t len = nghttp2_session_mem_send(h->session, &bytes);
        if (len < 0) return error_of(len);
        if (len == 0) break;
        int err = h->output(h->arg, bytes, (size_t)len);
        if (err) return err;
    }
    /* nghttp2 ends a session it found broken by sending GOAWAY and then wanting nothing more. */
    if (nghttp2_session_want_read(h->session) == 0 && nghttp2_session_want_write(h->session) == 0) return TN_E_PROTO;
    return 0;
}

bool tn_h2_goaway(const struct tn_h2 *h) { return h->goaway; }

void tn_h2_ping(struct tn_h2 *h) { nghttp2_submit_ping(h->session, NGHTTP2_FLAG_NONE, NULL); }
