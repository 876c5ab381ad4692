#include "dev/h2.h"
#include "util/buf.h"
#include "util/err.h"
#include "util/list.h"

#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct stream {
    struct tn_dev_reply reply;
    struct tn_dev_h2 *h;
    struct tn_list link;
    int32_t id;
    char method[16], path[TN_DEV_H2_PATH_MAX];
    struct tn_buf body, out;
    bool bad;      /* pseudo-headers that do not fit */
    bool answered; /* begun, or refused by us */
    bool headless; /* HEAD: nothing follows the headers */
    bool ended;
};

struct tn_dev_h2 {
    nghttp2_session *session;
    struct tn_dev_h2_events events;
    void *arg;
    size_t body_max, bodies;
    struct tn_list streams;
    struct tn_dev_now now; /* of the call under way, for the session's callbacks */
};

static struct stream *stream_of(struct tn_dev_reply *r) { return TN_CONTAINER(r, struct stream, reply); }

static void release_body(struct stream *s)
{
    s->h->bodies -= tn_buf_len(&s->body);
    tn_buf_fini(&s->body);
}

static void stream_free(struct stream *s)
{
    if (s->reply.gone) s->reply.gone(s->reply.holder, s->h->now);
    release_body(s);
    tn_buf_fini(&s->out);
    tn_list_remove(&s->link);
    free(s);
}

static void wake(struct tn_dev_h2 *h) { h->events.wake(h->arg); }

static ssize_t on_read(nghttp2_session *session, int32_t id, uint8_t *buf, size_t length, uint32_t *flags,
                       nghttp2_data_source *source, void *user)
{
    struct stream *s = source->ptr;
    size_t n = tn_buf_len(&s->out) < length ? tn_buf_len(&s->out) : length;
    if (n) {
        memcpy(buf, tn_buf_data(&s->out), n);
        tn_buf_consume(&s->out, n);
    }
    if (tn_buf_len(&s->out) == 0) {
        if (s->ended) *flags |= NGHTTP2_DATA_FLAG_EOF;
        else if (n && s->reply.drain) s->reply.drain(s->reply.holder, s->h->now);
    }
    return n || s->ended ? (ssize_t)n : NGHTTP2_ERR_DEFERRED;
}

#define HEADER(n, v) {(uint8_t *)(n), (uint8_t *)(v), strlen(n), strlen(v), NGHTTP2_NV_FLAG_NONE}

static void reply_begin(struct tn_dev_reply *r, int status, const char *content_type)
{
    struct stream *s = stream_of(r);
    char code[8];
    snprintf(code, sizeof code, "%d", status);
    nghttp2_nv nv[] = {HEADER(":status", code), HEADER("content-type", content_type)};
    nghttp2_data_provider body = {.source.ptr = s, .read_callback = on_read};
    s->answered = true;
    nghttp2_submit_response(s->h->session, s->id, nv, 2, s->headless ? NULL : &body);
    wake(s->h);
}

static int reply_write(struct tn_dev_reply *r, const void *bytes, size_t len)
{
    struct stream *s = stream_of(r);
    if (s->headless) return 0;
    int err = tn_buf_append(&s->out, bytes, len);
    if (err) return err;
    nghttp2_session_resume_data(s->h->session, s->id); /* an error only says that nothing was waiting */
    wake(s->h);
    return 0;
}

static void forget_holder(struct stream *s)
{
    s->reply.holder = NULL;
    s->reply.gone = NULL;
    s->reply.drain = NULL;
}

static void reply_end(struct tn_dev_reply *r)
{
    struct stream *s = stream_of(r);
    forget_holder(s);
    s->ended = true;
    nghttp2_session_resume_data(s->h->session, s->id);
    wake(s->h);
}

static void reset(struct stream *s, uint32_t code)
{
    forget_holder(s);
    s->answered = s->ended = true;
    nghttp2_submit_rst_stream(s->h->session, NGHTTP2_FLAG_NONE, s->id, code);
    wake(s->h);
}

static void reply_abort(struct tn_dev_reply *r) { reset(stream_of(r), NGHTTP2_INTERNAL_ERROR); }

static size_t reply_backlog(const struct tn_dev_reply *r)
{
    return tn_buf_len(&TN_CONTAINER(r, struct stream, reply)->out);
}

static const struct tn_dev_reply_ops reply_ops = {reply_begin, reply_write, reply_end, reply_abort, reply_backlog};

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct tn_dev_h2 *h = user;
    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
    struct stream *s = calloc(1, sizeof *s);
    if (!s) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    s->h = h;
    s->id = frame->hd.stream_id;
    s->reply.ops = &reply_ops;
    tn_buf_init(&s->body, h->body_max);
    tn_buf_init(&s->out, TN_DEV_H2_OUT_MAX);
    tn_list_push_back(&h->streams, &s->link);
    nghttp2_session_set_stream_user_data(session, s->id, s);
    return 0;
}

static void take_header(struct stream *s, char *out, size_t cap, const uint8_t *value, size_t len)
{
    if (len >= cap || memchr(value, 0, len)) {
        s->bad = true;
        return;
    }
    memcpy(out, value, len);
    out[len] = '\0';
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t namelen,
                     const uint8_t *value, size_t valuelen, uint8_t flags, void *user)
{
    struct stream *s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (!s) return 0;
    if (namelen == 7 && memcmp(name, ":method", 7) == 0) take_header(s, s->method, sizeof s->method, value, valuelen);
    if (namelen == 5 && memcmp(name, ":path", 5) == 0) take_header(s, s->path, sizeof s->path, value, valuelen);
    return 0;
}

static void refuse(struct stream *s, int status, const char *text)
{
    if (!s->answered) tn_dev_reply_all(&s->reply, status, "text/plain; charset=utf-8", text);
}

static int on_data_chunk(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t len,
                         void *user)
{
    struct tn_dev_h2 *h = user;
    struct stream *s = nghttp2_session_get_stream_user_data(session, id);
    if (!s || s->answered) return 0;
    if (h->bodies + len > TN_DEV_H2_BODIES_MAX) reset(s, NGHTTP2_ENHANCE_YOUR_CALM);
    else if (tn_buf_append(&s->body, data, len) != 0) refuse(s, 413, "the request is too large");
    else h->bodies += len;
    if (s->answered) release_body(s);
    return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct tn_dev_h2 *h = user;
    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) return 0;
    struct stream *s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (!s || s->answered || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM)) return 0;
    if (s->bad) {
        refuse(s, 400, "bad request");
        return 0;
    }
    s->headless = strcmp(s->method, "HEAD") == 0;
    const uint8_t *body = tn_buf_data(&s->body);
    h->events.request(h->arg, s->method, s->path, body ? body : (const uint8_t *)"", tn_buf_len(&s->body), &s->reply,
                      h->now);
    release_body(s);
    return 0;
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t code, void *user)
{
    struct stream *s = nghttp2_session_get_stream_user_data(session, id);
    if (s) stream_free(s);
    return 0;
}

static int session_new(struct tn_dev_h2 *h)
{
    nghttp2_session_callbacks *cb;
    if (nghttp2_session_callbacks_new(&cb) != 0) return TN_E_NOMEM;
    nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data_chunk);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_close);
    int rc = nghttp2_session_server_new(&h->session, cb, h);
    nghttp2_session_callbacks_del(cb);
    if (rc != 0) return TN_E_NOMEM;
    nghttp2_settings_entry iv[] = {{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, TN_DEV_H2_STREAMS},
                                   {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, 16 * 1024}};
    return nghttp2_submit_settings(h->session, NGHTTP2_FLAG_NONE, iv, 2) == 0 ? 0 : TN_E_NOMEM;
}

int tn_dev_h2_new(const struct tn_dev_h2_events *events, void *arg, size_t body_max, struct tn_dev_h2 **out)
{
    struct tn_dev_h2 *h = calloc(1, sizeof *h);
    if (!h) return TN_E_NOMEM;
    *h = (struct tn_dev_h2){.events = *events, .arg = arg, .body_max = body_max};
    tn_list_init(&h->streams);
    int err = session_new(h);
    if (err) {
        tn_dev_h2_free(h, (struct tn_dev_now){0});
        return err;
    }
    *out = h;
    return 0;
}

void tn_dev_h2_free(struct tn_dev_h2 *h, struct tn_dev_now now)
{
    if (!h) return;
    h->now = now;
    while (!tn_list_empty(&h->streams)) stream_free(TN_CONTAINER(h->streams.next, struct stream, link));
    nghttp2_session_del(h->session);
    free(h);
}

int tn_dev_h2_input(struct tn_dev_h2 *h, const void *bytes, size_t len, struct tn_dev_now now)
{
    h->now = now;
    ssize_t n = nghttp2_session_mem_recv(h->session, bytes, len);
    wake(h);
    return n == (ssize_t)len ? 0 : TN_E_PROTO;
}

long tn_dev_h2_output(struct tn_dev_h2 *h, const uint8_t **bytes, struct tn_dev_now now)
{
    h->now = now;
    ssize_t n = nghttp2_session_mem_send(h->session, bytes);
    return n < 0 ? TN_E_PROTO : (long)n;
}

bool tn_dev_h2_finished(const struct tn_dev_h2 *h)
{
    return !nghttp2_session_want_read(h->session) && !nghttp2_session_want_write(h->session);
}
