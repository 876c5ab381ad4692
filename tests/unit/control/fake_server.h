/* A control server in memory, and the network to reach it: what the client's tests are scripted against.
 *
 * The network is a dialer whose streams live in a list; fake_run moves bytes between client and server until
 * nothing moves, in pieces of at most net.piece bytes. The server speaks HTTP/1 for /key and the upgrade, Noise as
 * responder, and HTTP/2 with nghttp2; each request it gets is recorded and waits for the test's answer. */
#ifndef TN_TEST_FAKE_SERVER_H
#define TN_TEST_FAKE_SERVER_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

#include "control/early.h"
#include "control/noise_conn.h"
#include "util/err.h"
#include "util/list.h"
#include "util/stream.h"
#include "util/text.h"
#include "wire/http1.h"
#include <jansson.h>
#include <nghttp2/nghttp2.h>
#include <zstd.h>

struct fake_net;

struct fake_conn { /* one dialed connection, both ends */
    struct tn_stream stream; /* first: the client's handle */
    struct tn_list link;
    struct fake_net *net;
    const struct tn_stream_events *events;
    void *arg;
    char host[256];
    uint16_t port;
    bool tls, opened, client_closed, server_closed, black_hole, refused;
    enum tn_verify verify;
    int close_err;
    uint64_t deadline_us;
    struct tn_buf up, down; /* client to server, server to client */
    /* the server's end */
    bool upgraded;
    struct tn_noise_conn *noise;
    nghttp2_session *h2;
    struct tn_buf plain; /* HTTP/1 so far */
};

struct fake_req { /* a request inside HTTP/2 */
    struct tn_list link;
    struct fake_conn *conn; /* NULL once the connection is gone */
    int32_t stream;
    char method[16], path[256], authority[128], lb[2][128], content_type[64];
    int nlb;
    struct tn_buf body;
    json_t *json;
    bool complete, taken, reset;
    struct tn_buf answer; /* bytes to stream */
    bool answered, end;
};

struct fake_net {
    struct tn_dialer dialer;
    struct tn_list conns, reqs;
    struct tn_machine_private key;
    struct tn_machine_public pub;
    uint64_t seed, now;
    struct tn_rng rng;
    size_t piece;            /* bytes per delivery */
    unsigned dials, keys, upgrades;
    uint16_t refuse_port, hole_port, broken_port; /* no connection | no answer | answers with nonsense */
    const char *key_answer;  /* raw HTTP instead of the real one */
    const char *upgrade_answer;
    const char *noise_refusal;
    bool early, wrong_key;
    const void *raw_after_handshake; /* sent instead of HTTP/2, sealed */
    size_t raw_len;
    struct tn_machine_public last_client;
    uint16_t last_version;
    int dial_error;
};

/* --- the client's end --- */

static int fake_write(struct tn_stream *s, const void *bytes, size_t len)
{
    struct fake_conn *c = (struct fake_conn *)s;
    assert_false(c->client_closed);
    return tn_buf_append(&c->up, bytes, len);
}
static void fake_pause(struct tn_stream *s, bool paused) {}
static void fake_close(struct tn_stream *s)
{
    struct fake_conn *c = (struct fake_conn *)s;
    assert_false(c->client_closed);
    c->client_closed = true;
}
static const struct tn_stream_ops fake_ops = {.write = fake_write, .pause = fake_pause, .close = fake_close};

static int fake_dial(void *ctx, const struct tn_dial_spec *spec, const struct tn_stream_events *events, void *arg,
                     struct tn_stream **out)
{
    struct fake_net *n = ctx;
    if (n->dial_error) return n->dial_error;
    struct fake_conn *c = calloc(1, sizeof *c);
    c->stream.ops = &fake_ops;
    c->net = n;
    c->events = events;
    c->arg = arg;
    snprintf(c->host, sizeof c->host, "%s", spec->host);
    c->port = spec->port;
    c->tls = spec->tls;
    c->verify = spec->verify;
    c->refused = spec->port == n->refuse_port;
    c->black_hole = spec->port == n->hole_port;
    tn_buf_init(&c->up, 64 << 20);
    tn_buf_init(&c->down, 64 << 20);
    tn_buf_init(&c->plain, 1 << 20);
    tn_list_push_back(&n->conns, &c->link);
    n->dials++;
    *out = &c->stream;
    return 0;
}

static void fake_init(struct fake_net *n)
{
    memset(n, 0, sizeof *n);
    tn_list_init(&n->conns);
    tn_list_init(&n->reqs);
    n->dialer = (struct tn_dialer){fake_dial, n};
    n->seed = 99;
    n->rng = tn_rng_seeded(&n->seed);
    n->piece = SIZE_MAX;
    n->now = 1000000;
    tn_machine_private_generate(&n->key, &n->rng);
    tn_machine_public_of(&n->key, &n->pub);
}

static void fake_conn_free(struct fake_conn *c)
{
    TN_LIST_EACH(l, &c->net->reqs) {
        struct fake_req *r = TN_CONTAINER(l, struct fake_req, link);
        if (r->conn == c) r->conn = NULL;
    }
    tn_list_remove(&c->link);
    nghttp2_session_del(c->h2);
    tn_noise_conn_free(c->noise);
    tn_buf_fini(&c->up);
    tn_buf_fini(&c->down);
    tn_buf_fini(&c->plain);
    free(c);
}

static void fake_req_free(struct fake_req *r)
{
    if (r->conn && r->conn->h2) nghttp2_session_set_stream_user_data(r->conn->h2, r->stream, NULL);
    tn_list_remove(&r->link);
    json_decref(r->json);
    tn_buf_fini(&r->body);
    tn_buf_fini(&r->answer);
    free(r);
}

static void fake_fini(struct fake_net *n)
{
    while (!tn_list_empty(&n->conns)) fake_conn_free(TN_CONTAINER(n->conns.next, struct fake_conn, link));
    while (!tn_list_empty(&n->reqs)) fake_req_free(TN_CONTAINER(n->reqs.next, struct fake_req, link));
}

/* --- the server's HTTP/2 --- */

static struct fake_req *fake_stream(nghttp2_session *s, int32_t id) { return nghttp2_session_get_stream_user_data(s,
    id); }

static int srv_begin(nghttp2_session *s, const nghttp2_frame *f, void *user)
{
    struct fake_conn *c = user;
    if (f->hd.type != NGHTTP2_HEADERS || f->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
    struct fake_req *r = calloc(1, sizeof *r);
    r->conn = c;
    r->stream = f->hd.stream_id;
    tn_buf_init(&r->body, 4 << 20);
    tn_buf_init(&r->answer, 256 << 20);
    tn_list_push_back(&c->net->reqs, &r->link);
    nghttp2_session_set_stream_user_data(s, r->stream, r);
    return 0;
}

static int srv_header(nghttp2_session *s, const nghttp2_frame *f, const uint8_t *name, size_t nlen,
    const uint8_t *value,
                      size_t vlen, uint8_t flags, void *user)
{
    struct fake_req *r = fake_stream(s, f->hd.stream_id);
    char *to = NULL;
    size_t cap = 0;
    if (!r) return 0;
#define FAKE_HEADER(text, field)                                                                                  \
    if (nlen == strlen(text) && memcmp(name, text, nlen) == 0) {                                                  \
        to = field;                                                                                               \
        cap = sizeof field;                                                                                       \
    }
    FAKE_HEADER(":method", r->method)
    FAKE_HEADER(":path", r->path)
    FAKE_HEADER(":authority", r->authority)
    FAKE_HEADER("content-type", r->content_type)
    if (nlen == 5 && memcmp(name, "ts-lb", 5) == 0 && r->nlb < 2) {
        to = r->lb[r->nlb++];
        cap = sizeof r->lb[0];
    }
    if (to) snprintf(to, cap, "%.*s", (int)vlen, value);
    return 0;
}

static int srv_chunk(nghttp2_session *s, uint8_t flags, int32_t id, const uint8_t *data, size_t len, void *user)
{
    struct fake_req *r = fake_stream(s, id);
    if (r) tn_buf_append(&r->body, data, len);
    return 0;
}

static int srv_frame(nghttp2_session *s, const nghttp2_frame *f, void *user)
{
    struct fake_req *r = fake_stream(s, f->hd.stream_id);
    if (!r || !(f->hd.flags & NGHTTP2_FLAG_END_STREAM)) return 0;
    if (f->hd.type != NGHTTP2_HEADERS && f->hd.type != NGHTTP2_DATA) return 0;
    r->complete = true;
    r->json = json_loadb((char *)tn_buf_data(&r->body), tn_buf_len(&r->body), 0, NULL);
    return 0;
}

static int srv_close(nghttp2_session *s, int32_t id, uint32_t code, void *user)
{
    struct fake_req *r = fake_stream(s, id);
    if (!r) return 0;
    r->reset = code != NGHTTP2_NO_ERROR;
    r->conn = NULL;
    return 0;
}

static void srv_start_h2(struct fake_conn *c)
{
    nghttp2_session_callbacks *cb;
    nghttp2_session_callbacks_new(&cb);
    nghttp2_session_callbacks_set_on_begin_headers_callback(cb, srv_begin);
    nghttp2_session_callbacks_set_on_header_callback(cb, srv_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, srv_chunk);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, srv_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, srv_close);
    nghttp2_session_server_new(&c->h2, cb, c);
    nghttp2_session_callbacks_del(cb);
    nghttp2_submit_settings(c->h2, 0, NULL, 0);
}

static ssize_t srv_read(nghttp2_session *s, int32_t id, uint8_t *buf, size_t cap, uint32_t *flags,
                        nghttp2_data_source *source, void *user)
{
    struct fake_req *r = source->ptr;
    size_t n = tn_buf_len(&r->answer) < cap ? tn_buf_len(&r->answer) : cap;
    if (n == 0 && !r->end) return NGHTTP2_ERR_DEFERRED;
    if (n) memcpy(buf, tn_buf_data(&r->answer), n);
    tn_buf_consume(&r->answer, n);
    if (r->end && tn_buf_len(&r->answer) == 0) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)n;
}

/* Answers with a head; the body follows with fake_body. retry: a Retry-After value or NULL. */
static void fake_head(struct fake_req *r, int status, const char *retry)
{
    char text[8];
    snprintf(text, sizeof text, "%d", status);
    nghttp2_nv nv[2] = {{(uint8_t *)":status", (uint8_t *)text, 7, 3, 0},
                        {(uint8_t *)"retry-after", (uint8_t *)(retry ? retry : ""), 11, retry ? strlen(retry) : 0,
                            0}};
    nghttp2_data_provider body = {.source.ptr = r, .read_callback = srv_read};
    assert_non_null(r->conn);
    r->answered = true;
    assert_int_equal(nghttp2_submit_response(r->conn->h2, r->stream, nv, retry ? 2 : 1, &body), 0);
}

static void fake_body(struct fake_req *r, const void *bytes, size_t len, bool end)
{
    assert_int_equal(tn_buf_append(&r->answer, bytes, len), 0);
    r->end = end;
    if (r->conn) nghttp2_session_resume_data(r->conn->h2, r->stream);
}

static void fake_answer(struct fake_req *r, int status, const char *body)
{
    fake_head(r, status, NULL);
    fake_body(r, body, strlen(body), true);
}

/* One framed map message, compressed. */
static void fake_map(struct fake_req *r, const char *json)
{
    static uint8_t frame[8 << 20];
    if (!r->answered) fake_head(r, 200, NULL);
    size_t n = ZSTD_compress(frame + 4, sizeof frame - 4, json, strlen(json), 1);
    assert_false(ZSTD_isError(n));
    frame[0] = (uint8_t)n;
    frame[1] = (uint8_t)(n >> 8);
    frame[2] = (uint8_t)(n >> 16);
    frame[3] = (uint8_t)(n >> 24);
    fake_body(r, frame, n + 4, false);
}

/* --- the server's HTTP/1 and Noise --- */

static void srv_key(struct fake_conn *c)
{
    char body[256], answer[512], key[TN_KEY_STRLEN];
    struct tn_machine_public other = {{9}};
    c->net->keys++;
    if (c->net->key_answer) {
        tn_buf_append(&c->down, c->net->key_answer, strlen(c->net->key_answer));
        c->server_closed = true;
        return;
    }
    tn_machine_public_format(c->net->wrong_key ? &other : &c->net->pub, key);
    int n = snprintf(body, sizeof body, "{\"legacyPublicKey\":\"mkey:%064d\",\"publicKey\":\"%s\"}", 0, key);
    n = snprintf(answer, sizeof answer, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", n, body);
    tn_buf_append(&c->down, answer, (size_t)n);
}

static int srv_plain(void *arg, const uint8_t *bytes, size_t len)
{
    struct fake_conn *c = arg;
    if (c->h2 && nghttp2_session_mem_recv(c->h2, bytes, len) < 0) c->server_closed = true;
    return 0;
}

static void srv_upgrade(struct fake_conn *c, const struct tn_http1_head *h)
{
    static const char head[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tailscale-control-protocol\r\n"
                               "Connection: upgrade\r\n\r\n";
    struct fake_net *n = c->net;
    uint8_t init[TN_NOISE_INIT_LEN], resp[TN_NOISE_RESP_LEN];
    size_t len;
    const char *value = tn_http1_find(h, "X-Tailscale-Handshake", &len);
    n->upgrades++;
    if (n->upgrade_answer) {
        tn_buf_append(&c->down, n->upgrade_answer, strlen(n->upgrade_answer));
        c->upgraded = true;
        return;
    }
    assert_non_null(value);
    assert_true(tn_http1_has_token(h, "Connection", "upgrade"));
    assert_int_equal(tn_base64_decode(TN_BASE64_STD, value, len, init, sizeof init), sizeof init);
    tn_buf_append(&c->down, head, sizeof head - 1);
    c->upgraded = true;
    if (n->noise_refusal) {
        tn_noise_refuse(n->noise_refusal, &c->down);
        return;
    }
    if (tn_noise_conn_respond(&n->key, &n->rng, init, sizeof init, resp, &c->noise) != 0) {
        c->server_closed = true;
        return;
    }
    n->last_client = *tn_noise_conn_peer(c->noise);
    n->last_version = tn_noise_conn_version(c->noise);
    tn_buf_append(&c->down, resp, sizeof resp);
    if (n->early) {
        static const char json[] = "{\"nodeKeyChallenge\":\"chalpub:"
                                   "0000000000000000000000000000000000000000000000000000000000000000\"}";
        uint8_t magic[TN_EARLY_HEADER];
        tn_early_header(magic, sizeof json - 1);
        tn_noise_conn_seal(c->noise, magic, 5, &c->down); /* cut where it hurts */
        tn_noise_conn_seal(c->noise, magic + 5, sizeof magic - 5, &c->down);
        tn_noise_conn_seal(c->noise, json, sizeof json - 1, &c->down);
    }
    if (n->raw_after_handshake) {
        tn_noise_conn_seal(c->noise, n->raw_after_handshake, n->raw_len, &c->down);
        return;
    }
    srv_start_h2(c);
}

static void srv_http1(struct fake_conn *c, const uint8_t *bytes, size_t len)
{
    struct tn_http1_head h;
    tn_buf_append(&c->plain, bytes, len);
    long used = tn_http1_parse_request(tn_buf_data(&c->plain), tn_buf_len(&c->plain), 65536, &h);
    assert_true(used >= 0);
    if (used == 0) return;
    if (c->net->broken_port == c->port) tn_buf_append(&c->down, "SSH-2.0-nope\r\n\r\n", 16);
    else if (h.target_len >= 5 && memcmp(h.target, "/key?", 5) == 0) srv_key(c);
    else if (h.target_len == 7 && memcmp(h.target, "/ts2021", 7) == 0) srv_upgrade(c, &h);
    else {
        static const char ok[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        struct fake_req *r = calloc(1, sizeof *r); /* a ping outside of Noise: kept for the test to look at */
        snprintf(r->method, sizeof r->method, "%.*s", (int)h.method_len, h.method);
        snprintf(r->path, sizeof r->path, "%.*s", (int)h.target_len, h.target);
        tn_buf_init(&r->body, 1 << 20);
        tn_buf_init(&r->answer, 1);
        tn_buf_append(&r->body, tn_buf_data(&c->plain) + used, tn_buf_len(&c->plain) - (size_t)used);
        r->complete = r->answered = true;
        tn_list_push_back(&c->net->reqs, &r->link);
        tn_buf_append(&c->down, ok, sizeof ok - 1);
    }
    tn_buf_consume(&c->plain, tn_buf_len(&c->plain));
}

static bool srv_turn(struct fake_conn *c)
{
    bool moved = false;
    size_t len = tn_buf_len(&c->up);
    if (len > 0 && !c->black_hole && !c->server_closed) {
        uint8_t *bytes = malloc(len);
        memcpy(bytes, tn_buf_data(&c->up), len);
        tn_buf_consume(&c->up, len);
        if (c->noise) tn_noise_conn_input(c->noise, bytes, len, srv_plain, c);
        else if (!c->upgraded) srv_http1(c, bytes, len);
        free(bytes);
        moved = true;
    }
    while (c->h2 && !c->server_closed) {
        const uint8_t *out;
        ssize_t n = nghttp2_session_mem_send(c->h2, &out);
        if (n <= 0) break;
        assert_int_equal(tn_noise_conn_seal(c->noise, out, (size_t)n, &c->down), 0);
        moved = true;
    }
    return moved;
}

/* --- moving bytes --- */

static bool client_turn(struct fake_conn *c)
{
    uint64_t now = c->net->now;
    if (c->refused) {
        c->client_closed = true;
        c->events->on_close(c->arg, TN_E_REFUSED, now);
        return true;
    }
    if (c->black_hole) return false;
    if (!c->opened) {
        c->opened = true;
        c->events->on_open(c->arg, &c->stream, now);
        return true;
    }
    size_t len = tn_buf_len(&c->down);
    if (len > 0) {
        if (len > c->net->piece) len = c->net->piece;
        uint8_t *bytes = malloc(len);
        memcpy(bytes, tn_buf_data(&c->down), len);
        tn_buf_consume(&c->down, len);
        c->events->on_data(c->arg, &c->stream, bytes, len, now);
        free(bytes);
        return true;
    }
    if (!c->server_closed) return false;
    c->client_closed = true;
    c->events->on_close(c->arg, c->close_err ? c->close_err : TN_E_EOF, now);
    return true;
}

static void fake_run(struct fake_net *n)
{
    for (int rounds = 0; rounds < 1000000; rounds++) {
        bool moved = false;
        TN_LIST_EACH(l, &n->conns) {
            struct fake_conn *c = TN_CONTAINER(l, struct fake_conn, link);
            if (!c->client_closed && client_turn(c)) moved = true;
            if (!c->client_closed && srv_turn(c)) moved = true;
        }
        TN_LIST_EACH(l, &n->conns) {
            struct fake_conn *c = TN_CONTAINER(l, struct fake_conn, link);
            if (c->client_closed) fake_conn_free(c);
        }
        if (!moved) return;
    }
    fail_msg("the network never comes to rest");
}

/* Ends every connection from the server's side. */
static void fake_cut(struct fake_net *n, int err)
{
    TN_LIST_EACH(l, &n->conns) {
        struct fake_conn *c = TN_CONTAINER(l, struct fake_conn, link);
        c->server_closed = true;
        c->close_err = err;
    }
}

/* The oldest complete request not taken yet whose path begins so, or NULL. */
static struct fake_req *fake_take(struct fake_net *n, const char *path)
{
    TN_LIST_EACH(l, &n->reqs) {
        struct fake_req *r = TN_CONTAINER(l, struct fake_req, link);
        if (!r->complete || r->taken || strncmp(r->path, path, strlen(path)) != 0) continue;
        r->taken = true;
        return r;
    }
    return NULL;
}

static const char *fake_text(const struct fake_req *r, const char *key)
{
    return json_string_value(json_object_get(r->json, key));
}

#endif
