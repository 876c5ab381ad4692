/* The HTTP/2 side (RFC 9113, RFC 8484 section 4.1): one POST per query. A stream is found by its number, never by a
 * pointer kept in the session, so a canceled query leaves nothing behind that could be followed.
 *
 * The verdict on a response falls when its stream closes: status 200, the right type, a body that is a DNS answer to
 * this very question. What the upstream may send is bounded per response and over all of them. */
#include "dns/doh_internal.h"
#include "util/err.h"
#include "wire/dns.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { BODIES_MAX = 8 << 20 };        /* of all responses at once; answers are some hundred bytes */
enum { OUTPUT_PENDING_MAX = 1 << 16 }; /* ciphertext: beyond this, frames wait in the session */
enum { STREAMS_UNSAID = 100 };        /* at once, until the upstream has said: what RFC 9113 recommends as the least */
static const char dns_type[] = "application/dns-message";

static uint64_t stream_hash(int32_t stream) { return (uint64_t)stream * 0x9e3779b97f4a7c15ull >> 20; }

static bool stream_is(const struct tn_hnode *node, const void *key)
{
    return TN_CONTAINER(node, struct tn_doh_query, node)->stream == *(const int32_t *)key;
}

static struct tn_doh_query *find_stream(struct tn_doh *d, int32_t stream)
{
    struct tn_hnode *node = tn_htable_find(&d->streams, stream_hash(stream), stream_is, &stream);
    return node ? TN_CONTAINER(node, struct tn_doh_query, node) : NULL;
}

static void leave_stream(struct tn_doh *d, struct tn_doh_query *q)
{
    if (q->stream == 0) return;
    tn_htable_remove(&d->streams, &q->node);
    q->stream = 0;
    tn_doh_line_gave(q);
}

void tn_doh_h2_lost(struct tn_doh *d, struct tn_doh_query *q) { leave_stream(d, q); }

/* Ends the query with a verdict and tells the upstream to stop. */
static void give_up(struct tn_doh *d, struct tn_doh_query *q, int err)
{
    tn_doh_h2_forget(d, q);
    tn_doh_verdict(q, err);
}

static int on_header(nghttp2_session *s, const nghttp2_frame *frame, const uint8_t *name, size_t name_len,
                     const uint8_t *value, size_t value_len, uint8_t flags, void *arg)
{
    struct tn_doh_query *q = find_stream(arg, frame->hd.stream_id);
    if (!q) return 0;
    if (name_len == 7 && memcmp(name, ":status", 7) == 0) { /* nghttp2 has checked that it is three digits */
        q->status = 0;
        for (size_t i = 0; i < value_len; i++) q->status = q->status * 10 + (value[i] - '0');
    } else if (name_len == 12 && memcmp(name, "content-type", 12) == 0) {
        size_t len = sizeof dns_type - 1;
        bool params = value_len > len && (value[len] == ';' || value[len] == ' ');
        q->type_ok = (value_len == len || params) && strncasecmp((const char *)value, dns_type, len) == 0;
    }
    return 0;
}

static int on_data(nghttp2_session *s, uint8_t flags, int32_t stream, const uint8_t *bytes, size_t len, void *arg)
{
    struct tn_doh *d = arg;
    struct tn_doh_query *q = find_stream(d, stream);
    if (!q) return 0;
    if (d->body_bytes + len > BODIES_MAX || tn_buf_append(&q->body, bytes, len) != 0) give_up(d, q, TN_E_TOOBIG);
    else d->body_bytes += len;
    return 0;
}

/* The verdict on a finished response. */
static int judge(const struct tn_doh_query *q)
{
    struct tn_dnsmsg query, answer;
    if (q->status != 200) return TN_E_HTTP;
    if (!q->type_ok) return TN_E_PROTO;
    if (tn_dnsmsg_parse(q->query, q->len, &query) != 0) return TN_E_MALFORMED;
    if (tn_dnsmsg_parse(tn_buf_data(&q->body), tn_buf_len(&q->body), &answer) != 0) return TN_E_MALFORMED;
    return tn_dnsmsg_answers(&answer, &query) ? 0 : TN_E_MALFORMED;
}

static int on_stream_close(nghttp2_session *s, int32_t stream, uint32_t code, void *arg)
{
    struct tn_doh *d = arg;
    struct tn_doh_query *q = find_stream(d, stream);
    if (!q) return 0;
    leave_stream(d, q);
    /* Not looked at by the upstream: asked again. */
    if (code == NGHTTP2_REFUSED_STREAM && q->attempts < TN_DOH_ATTEMPTS_MAX) tn_doh_line_again(q);
    else tn_doh_verdict(q, code == NGHTTP2_NO_ERROR ? judge(q) : TN_E_RESET);
    return 0;
}

static int on_frame(nghttp2_session *s, const nghttp2_frame *frame, void *arg)
{
    struct tn_doh *d = arg;
    /* Or the upstream wants to go. Queries it has not answered by the end of this input are asked again elsewhere. */
    if (frame->hd.type == NGHTTP2_SETTINGS && !(frame->hd.flags & NGHTTP2_FLAG_ACK)) d->settled = true;
    if (frame->hd.type == NGHTTP2_GOAWAY && !d->conn_err) d->conn_err = TN_E_CLOSED;
    return 0;
}

static ssize_t read_query(nghttp2_session *s, int32_t stream, uint8_t *buf, size_t cap, uint32_t *flags,
                          nghttp2_data_source *source, void *arg)
{
    struct tn_doh_query *q = find_stream(arg, stream);
    if (!q) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    size_t n = q->len - q->sent < cap ? q->len - q->sent : cap;
    memcpy(buf, q->query + q->sent, n);
    q->sent += n;
    if (q->sent == q->len) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)n;
}

int tn_doh_h2_new(struct tn_doh *d)
{
    static const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, 16 * 1024},
    };
    nghttp2_session_callbacks *cb;
    if (nghttp2_session_callbacks_new(&cb) != 0) return TN_E_NOMEM;
    nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
    d->settled = false;
    int err = nghttp2_session_client_new(&d->h2, cb, d);
    nghttp2_session_callbacks_del(cb);
    if (err) {
        d->h2 = NULL;
        return TN_E_NOMEM;
    }
    return nghttp2_submit_settings(d->h2, NGHTTP2_FLAG_NONE, settings, sizeof settings / sizeof *settings) == 0
               ? 0 : TN_E_NOMEM;
}

int tn_doh_h2_input(struct tn_doh *d, const uint8_t *bytes, size_t len)
{
    ssize_t n = nghttp2_session_mem_recv(d->h2, bytes, len);
    return n < 0 || (size_t)n != len ? TN_E_PROTO : 0;
}

int tn_doh_h2_output(struct tn_doh *d)
{
    const uint8_t *bytes;
    while (tn_tls_output(d->tls, &bytes) < OUTPUT_PENDING_MAX) {
        const uint8_t *frame;
        ssize_t n = nghttp2_session_mem_send(d->h2, &frame);
        if (n <= 0) return n < 0 ? TN_E_NOMEM : 0;
        int err = tn_tls_write(d->tls, frame, (size_t)n);
        if (err) return err;
    }
    return 0;
}

static nghttp2_nv header(const char *name, const char *value)
{
    return (nghttp2_nv){(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, strlen(name), strlen(value),
                        NGHTTP2_NV_FLAG_NONE};
}

/* More than it takes would wait inside the session, whoever's they are. */
size_t tn_doh_h2_streams(const struct tn_doh *d)
{
    size_t n = nghttp2_session_get_remote_settings(d->h2, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
    size_t most = d->settled ? TN_DOH_INFLIGHT_MAX : STREAMS_UNSAID;
    return n < most ? n : most;
}

int tn_doh_h2_submit(struct tn_doh *d, struct tn_doh_query *q)
{
    char length[16];
    snprintf(length, sizeof length, "%zu", q->len);
    nghttp2_nv headers[] = {
        header(":method", "POST"), header(":scheme", "https"), header(":authority", d->url.authority),
        header(":path", d->url.path), header("content-type", dns_type), header("accept", dns_type),
        header("content-length", length),
    };
    nghttp2_data_provider body = {.read_callback = read_query};
    int32_t stream = nghttp2_submit_request(d->h2, NULL, headers, sizeof headers / sizeof *headers, &body, NULL);
    if (stream <= 0) return TN_E_CLOSED; /* going away, or out of stream numbers */
    q->stream = stream;
    if (tn_htable_insert(&d->streams, &q->node, stream_hash(stream)) != 0) {
        q->stream = 0;
        nghttp2_submit_rst_stream(d->h2, NGHTTP2_FLAG_NONE, stream, NGHTTP2_CANCEL);
        return TN_E_NOMEM;
    }
    tn_doh_line_took(q);
    d->body_bytes -= tn_buf_len(&q->body);
    tn_buf_fini(&q->body);
    q->attempts++;
    q->sent = 0;
    q->status = 0;
    q->type_ok = false;
    return 0;
}

void tn_doh_h2_forget(struct tn_doh *d, struct tn_doh_query *q)
{
    int32_t stream = q->stream;
    if (stream == 0) return;
    leave_stream(d, q);
    if (d->h2) nghttp2_submit_rst_stream(d->h2, NGHTTP2_FLAG_NONE, stream, NGHTTP2_CANCEL);
}
