#include "doh_server.h"

#include <nghttp2/nghttp2.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { STREAMS = 8192, BODY = 70000 };

struct stream {
    int32_t id;
    bool held, path, method, type, accept, authority;
    size_t length, got, sent, answer_len;
    uint8_t query[600];
    uint8_t *answer;
};

struct doh_server {
    const struct doh_behaviour *b;
    SSL *ssl;
    nghttp2_session *h2;
    struct stream stream[STREAMS];
    unsigned streams, requests, canceled, pings;
    bool goodbye;
    const char *complaint;
};

static EVP_PKEY *key;
static X509 *cert;

void doh_identity_make(const char *path)
{
    key = EVP_PKEY_Q_keygen(NULL, NULL, "EC", "P-256");
    cert = X509_new();
    assert_non_null(key);
    assert_non_null(cert);
    X509_set_version(cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
    X509_gmtime_adj(X509_getm_notBefore(cert), -3600);
    X509_gmtime_adj(X509_getm_notAfter(cert), 86400);
    X509_set_pubkey(cert, key);
    X509_NAME *name = X509_get_subject_name(cert);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"resolver", -1, -1, 0);
    X509_set_issuer_name(cert, name);
    X509_EXTENSION *san = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, "IP:192.0.2.53");
    assert_non_null(san);
    X509_add_ext(cert, san, -1);
    X509_EXTENSION_free(san);
    X509_EXTENSION *ca = X509V3_EXT_conf_nid(NULL, NULL, NID_basic_constraints, "critical,CA:TRUE");
    X509_add_ext(cert, ca, -1);
    X509_EXTENSION_free(ca);
    assert_true(X509_sign(cert, key, EVP_sha256()) > 0);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    PEM_write_X509(f, cert);
    fclose(f);
}

void doh_identity_free(void)
{
    EVP_PKEY_free(key);
    X509_free(cert);
}

static struct stream *find(struct doh_server *s, int32_t id)
{
    for (unsigned i = 0; i < s->streams; i++)
        if (s->stream[i].id == id) return &s->stream[i];
    return NULL;
}

static int on_begin(nghttp2_session *h2, const nghttp2_frame *frame, void *arg)
{
    struct doh_server *s = arg;
    assert_true(s->streams < STREAMS);
    s->stream[s->streams++] = (struct stream){.id = frame->hd.stream_id};
    return 0;
}

static bool is(const uint8_t *p, size_t len, const char *want)
{
    return len == strlen(want) && memcmp(p, want, len) == 0;
}

static int on_header(nghttp2_session *h2, const nghttp2_frame *frame, const uint8_t *name, size_t nlen,
                     const uint8_t *value, size_t vlen, uint8_t flags, void *arg)
{
    struct stream *st = find(arg, frame->hd.stream_id);
    if (is(name, nlen, ":path")) st->path = is(value, vlen, "/dns-query");
    if (is(name, nlen, ":method")) st->method = is(value, vlen, "POST");
    if (is(name, nlen, ":authority")) st->authority = is(value, vlen, "192.0.2.53");
    if (is(name, nlen, "content-type")) st->type = is(value, vlen, "application/dns-message");
    if (is(name, nlen, "accept")) st->accept = is(value, vlen, "application/dns-message");
    if (is(name, nlen, "content-length")) st->length = strtoul((const char *)value, NULL, 10);
    return 0;
}

static int on_data(nghttp2_session *h2, uint8_t flags, int32_t id, const uint8_t *bytes, size_t len, void *arg)
{
    struct stream *st = find(arg, id);
    size_t room = sizeof st->query - st->got, n = len < room ? len : room;
    memcpy(st->query + st->got, bytes, n);
    st->got += n;
    return 0;
}

static ssize_t read_answer(nghttp2_session *h2, int32_t id, uint8_t *buf, size_t cap, uint32_t *flags,
                           nghttp2_data_source *source, void *arg)
{
    struct stream *st = find(arg, id);
    size_t left = st->answer_len - st->sent, n = left < cap ? left : cap;
    memcpy(buf, st->answer + st->sent, n);
    st->sent += n;
    if (st->sent == st->answer_len) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)n;
}

static void answer(struct doh_server *s, struct stream *st)
{
    char status[8];
    const struct doh_behaviour *b = s->b;
    size_t len = b->body_len ? b->body_len : st->got;
    st->answer = calloc(1, BODY + st->got);
    assert_true(st->answer && len <= BODY + st->got);
    memcpy(st->answer, st->query, st->got);
    st->answer[2] |= 0x80;
    if (b->other_question) st->answer[13] ^= 1;
    if (b->not_dns) memcpy(st->answer, "sorry, no", 10);
    st->answer_len = b->not_dns ? 9 : len;
    snprintf(status, sizeof status, "%d", b->status);
    const char *type = b->type ? b->type : "application/dns-message";
    nghttp2_nv nv[] = {
        {(uint8_t *)(uintptr_t)":status", (uint8_t *)status, 7, strlen(status), 0},
        {(uint8_t *)(uintptr_t)"content-type", (uint8_t *)(uintptr_t)type, 12, strlen(type), 0},
    };
    nghttp2_data_provider body = {.read_callback = read_answer};
    if (b->reset) {
        nghttp2_submit_headers(s->h2, 0, st->id, NULL, nv, 2, NULL);
        nghttp2_submit_rst_stream(s->h2, 0, st->id, NGHTTP2_INTERNAL_ERROR);
        return;
    }
    assert_int_equal(nghttp2_submit_response(s->h2, st->id, nv, 2, &body), 0);
}

static void on_request(struct doh_server *s, struct stream *st)
{
    s->requests++;
    if (!st->path || !st->method || !st->type || !st->accept || !st->authority) s->complaint = "headers";
    if (st->length != st->got) s->complaint = "length";
    if (st->got < 2 || st->query[0] || st->query[1]) s->complaint = "ID is not zero";
    if (s->b->goaway) nghttp2_submit_goaway(s->h2, 0, 0, NGHTTP2_NO_ERROR, NULL, 0);
    else if (s->b->refuse) nghttp2_submit_rst_stream(s->h2, 0, st->id, NGHTTP2_REFUSED_STREAM);
    else if (s->b->status == 0) st->held = true;
    else answer(s, st);
}

static int on_frame(nghttp2_session *h2, const nghttp2_frame *frame, void *arg)
{
    struct doh_server *s = arg;
    bool end = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
    if (frame->hd.type == NGHTTP2_PING) s->pings++;
    if (frame->hd.type == NGHTTP2_GOAWAY) s->goodbye = true;
    if (end && (frame->hd.type == NGHTTP2_DATA || frame->hd.type == NGHTTP2_HEADERS))
        on_request(s, find(s, frame->hd.stream_id));
    return 0;
}

static int on_close(nghttp2_session *h2, int32_t id, uint32_t code, void *arg)
{
    struct doh_server *s = arg;
    struct stream *st = find(s, id);
    if (code == NGHTTP2_CANCEL) s->canceled++;
    if (st) st->held = false;
    return 0;
}

void doh_server_answer_held(struct doh_server *s)
{
    for (unsigned i = s->streams; i-- > 0;) {
        if (!s->stream[i].held) continue;
        s->stream[i].held = false;
        answer(s, &s->stream[i]);
    }
}

static int choose_alpn(SSL *ssl, const unsigned char **out, unsigned char *len, const unsigned char *in, unsigned n,
                       void *arg)
{
    *out = (const unsigned char *)"h2";
    *len = 2;
    return arg ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
}

struct doh_server *doh_server_new(const struct doh_behaviour *b, bool h2)
{
    struct doh_server *s = calloc(1, sizeof *s);
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    assert_true(s && ctx);
    s->b = b;
    assert_int_equal(SSL_CTX_use_certificate(ctx, cert), 1);
    assert_int_equal(SSL_CTX_use_PrivateKey(ctx, key), 1);
    SSL_CTX_set_alpn_select_cb(ctx, choose_alpn, h2 ? s : NULL);
    s->ssl = SSL_new(ctx);
    SSL_CTX_free(ctx);
    SSL_set_bio(s->ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    SSL_set_accept_state(s->ssl);
    nghttp2_session_callbacks *cb;
    assert_int_equal(nghttp2_session_callbacks_new(&cb), 0);
    nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin);
    nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_close);
    assert_int_equal(nghttp2_session_server_new(&s->h2, cb, s), 0);
    nghttp2_session_callbacks_del(cb);
    nghttp2_settings_entry limit = {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 100};
    nghttp2_submit_settings(s->h2, 0, &limit, 1);
    return s;
}

void doh_server_free(struct doh_server *s)
{
    if (!s) return;
    for (unsigned i = 0; i < s->streams; i++) free(s->stream[i].answer);
    nghttp2_session_del(s->h2);
    SSL_free(s->ssl);
    free(s);
}

void doh_server_input(struct doh_server *s, const void *bytes, size_t len)
{
    uint8_t plain[16384];
    BIO_write(SSL_get_rbio(s->ssl), bytes, (int)len);
    if (SSL_do_handshake(s->ssl) != 1) return;
    for (int n; (n = SSL_read(s->ssl, plain, sizeof plain)) > 0;)
        if (nghttp2_session_mem_recv(s->h2, plain, (size_t)n) != n) s->complaint = "HTTP/2";
    if (SSL_get_shutdown(s->ssl) & SSL_RECEIVED_SHUTDOWN) s->goodbye = true;
}

size_t doh_server_output(struct doh_server *s, void *out, size_t cap)
{
    const uint8_t *frames;
    if (SSL_is_init_finished(s->ssl))
        for (ssize_t n; (n = nghttp2_session_mem_send(s->h2, &frames)) > 0;) SSL_write(s->ssl, frames, (int)n);
    int n = BIO_read(SSL_get_wbio(s->ssl), out, (int)cap);
    return n > 0 ? (size_t)n : 0;
}

unsigned doh_server_requests(const struct doh_server *s) { return s->requests; }
unsigned doh_server_canceled(const struct doh_server *s) { return s->canceled; }
unsigned doh_server_pings(const struct doh_server *s) { return s->pings; }
bool doh_server_said_goodbye(const struct doh_server *s) { return s->goodbye; }
const char *doh_server_complaint(const struct doh_server *s) { return s->complaint; }
