/* Streams, a dialer and a small DERP server in memory, driven by the test: nothing happens but by a call here. */
#ifndef TN_TEST_PATH_FAKE_H
#define TN_TEST_PATH_FAKE_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "crypto/box.h"
#include "crypto/keys.h"
#include "util/buf.h"
#include "util/err.h"
#include "util/heap.h"
#include "util/stream.h"
#include "wire/derp.h"
#include "wire/http1.h"
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

enum { FAKE_STREAMS_MAX = 64 };
#define SEC UINT64_C(1000000)
#define MS UINT64_C(1000)

struct fake_net;
struct fake_stream {
    struct tn_stream base;
    struct fake_net *net;
    const struct tn_stream_events *events;
    void *arg;
    char host[256], verify_name[256];
    struct tn_addrport addrs[4];
    size_t naddrs;
    uint16_t port;
    bool tls;
    enum tn_verify verify;
    uint64_t timeout_us;
    bool open, gone;          /* gone: closed by either side */
    int write_result;         /* what write returns from now on */
    bool has_meta;
    uint8_t meta[32];
    struct tn_addrport local;
    struct tn_buf sent;       /* what the engine wrote and nobody took yet */
    /* the DERP server's view */
    int stage;                /* 0 http, 1 wants ClientInfo, 2 up */
    struct tn_node_public client;
    struct tn_box_shared shared;
    bool preferred;
    unsigned sent_packets;
};

struct fake_net {
    struct fake_stream *streams[FAKE_STREAMS_MAX];
    size_t count;
    int dial_err;             /* the next dials fail with it at once */
    struct tn_dialer dialer;
    struct tn_rng rng;
    struct tn_node_private server_key;
    struct tn_node_public server_pub;
    const char *server_info;  /* JSON for ServerInfo */
    bool fast;                /* new streams offer the metacertificate */
};

static inline int fake_write(struct tn_stream *s, const void *bytes, size_t len)
{
    struct fake_stream *f = (struct fake_stream *)s;
    assert_false(f->gone);
    assert_true(f->open);
    assert_int_equal(tn_buf_append(&f->sent, bytes, len), 0);
    return f->write_result;
}
static inline void fake_pause(struct tn_stream *s, bool paused) {}
static inline void fake_close_op(struct tn_stream *s)
{
    struct fake_stream *f = (struct fake_stream *)s;
    assert_false(f->gone);
    f->gone = true;
}
static inline bool fake_meta(struct tn_stream *s, uint8_t key[32])
{
    struct fake_stream *f = (struct fake_stream *)s;
    if (f->has_meta) memcpy(key, f->meta, 32);
    return f->has_meta;
}
static inline int fake_remote(struct tn_stream *s, struct tn_addrport *out)
{
    return tn_addrport_parse("192.0.2.80:443", out);
}
static inline int fake_local(struct tn_stream *s, struct tn_addrport *out)
{
    *out = ((struct fake_stream *)s)->local;
    return 0;
}

static const struct tn_stream_ops fake_ops = {.write = fake_write, .pause = fake_pause, .close = fake_close_op,
                                              .derp_meta = fake_meta, .remote = fake_remote, .local = fake_local};

static inline int fake_dial(void *ctx, const struct tn_dial_spec *spec, const struct tn_stream_events *events,
                            void *arg, struct tn_stream **out)
{
    struct fake_net *net = ctx;
    if (net->dial_err) return net->dial_err;
    assert_true(net->count < FAKE_STREAMS_MAX);
    struct fake_stream *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->base.ops = &fake_ops;
    f->net = net;
    f->events = events;
    f->arg = arg;
    snprintf(f->host, sizeof f->host, "%s", spec->host);
    snprintf(f->verify_name, sizeof f->verify_name, "%s", spec->verify_name ? spec->verify_name : "");
    assert_true(spec->naddrs <= 4);
    for (size_t i = 0; i < spec->naddrs; i++) f->addrs[i] = spec->addrs[i];
    f->naddrs = spec->naddrs;
    f->port = spec->port;
    f->tls = spec->tls;
    f->verify = spec->verify;
    f->timeout_us = spec->timeout_us;
    f->has_meta = net->fast;
    memcpy(f->meta, net->server_pub.b, 32);
    assert_int_equal(tn_addrport_parse("192.0.2.10:50000", &f->local), 0);
    tn_buf_init(&f->sent, 8 << 20);
    net->streams[net->count++] = f;
    *out = &f->base;
    return 0;
}

static inline void fake_net_init(struct fake_net *net, uint64_t *seed)
{
    *net = (struct fake_net){.dialer = {fake_dial, net}, .rng = tn_rng_seeded(seed),
                             .server_info = "{\"version\":2}"};
    tn_node_private_generate(&net->server_key, &net->rng);
    tn_node_public_of(&net->server_key, &net->server_pub);
}
static inline void fake_net_fini(struct fake_net *net)
{
    for (size_t i = 0; i < net->count; i++) {
        tn_buf_fini(&net->streams[i]->sent);
        free(net->streams[i]);
    }
}
static inline struct fake_stream *fake_last(struct fake_net *net)
{
    assert_true(net->count > 0);
    return net->streams[net->count - 1];
}
static inline void fake_open(struct fake_stream *f, uint64_t now_us)
{
    assert_false(f->open || f->gone);
    f->open = true;
    f->events->on_open(f->arg, &f->base, now_us);
}
static inline void fake_data(struct fake_stream *f, const void *bytes, size_t len, uint64_t now_us)
{
    uint8_t *exact = malloc(len ? len : 1); /* an exact block: a read past its end shows */
    assert_non_null(exact);
    memcpy(exact, bytes, len);
    if (!f->gone) f->events->on_data(f->arg, &f->base, exact, len, now_us);
    free(exact);
}
static inline void fake_lose(struct fake_stream *f, int err, uint64_t now_us)
{
    if (f->gone) return;
    f->gone = true;
    f->events->on_close(f->arg, err, now_us);
}
static inline void fake_drain(struct fake_stream *f, uint64_t now_us)
{
    f->write_result = 0;
    f->events->on_drain(f->arg, &f->base, now_us);
}

/* ---- the DERP server ---- */

static inline size_t fake_greeting(struct fake_net *net, bool head, uint8_t *out, size_t cap)
{
    static const char text[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n"
                               "Derp-Version: 2\r\nDerp-Public-Key: 00\r\n\r\n";
    struct tn_wr w = tn_wr_init(out, cap);
    if (head) tn_wr_bytes(&w, text, sizeof text - 1);
    tn_derp_server_key_put(&w, net->server_pub.b);
    assert_true(tn_wr_ok(&w));
    return tn_wr_len(&w);
}

static inline size_t fake_server_info(struct fake_stream *f, uint8_t *out, size_t cap)
{
    uint8_t box[2048];
    size_t len = strlen(f->net->server_info);
    assert_true(len + TN_BOX_OVERHEAD <= sizeof box);
    tn_box_seal(&f->shared, &f->net->rng, f->net->server_info, len, box);
    struct tn_wr w = tn_wr_init(out, cap);
    tn_derp_server_info_put(&w, box, len + TN_BOX_OVERHEAD);
    assert_true(tn_wr_ok(&w));
    return tn_wr_len(&w);
}

/* Takes the request off the stream's bytes; false when it is not complete. */
static inline bool fake_take_request(struct fake_stream *f, bool *fast, uint64_t now_us)
{
    struct tn_http1_head *head = malloc(sizeof *head);
    assert_non_null(head);
    long used = tn_http1_parse_request(tn_buf_data(&f->sent), tn_buf_len(&f->sent), 8192, head);
    assert_true(used >= 0);
    if (used > 0 && head->target_len > 5) { /* a latency check, which this server does not know */
        free(head);
        fake_data(f, "HTTP/1.1 404 Not Found\r\n\r\n", 26, now_us);
        assert_true(f->gone);
        return false;
    }
    if (used > 0) {
        assert_true(tn_http1_has_token(head, "Upgrade", "DERP"));
        assert_true(tn_http1_has_token(head, "Connection", "Upgrade"));
        assert_int_equal(head->target_len, 5);
        assert_memory_equal(head->target, "/derp", 5);
        size_t n;
        *fast = tn_http1_find(head, "Derp-Fast-Start", &n) != NULL;
        tn_buf_consume(&f->sent, (size_t)used);
    }
    free(head);
    return used > 0;
}

/* The next frame the engine sent, copied out; false when there is none. */
static inline bool fake_take_frame(struct fake_stream *f, struct tn_derp_frame *frame, uint8_t *mem, size_t cap)
{
    long used = tn_derp_frame_split(tn_buf_data(&f->sent), tn_buf_len(&f->sent), 1 << 20, frame);
    assert_true(used >= 0);
    if (used == 0) return false;
    assert_true((size_t)used <= cap);
    memcpy(mem, frame->body, frame->len);
    frame->body = mem;
    tn_buf_consume(&f->sent, (size_t)used);
    assert_int_equal(tn_derp_frame_parse(frame), 0);
    return true;
}

static inline void fake_check_client_info(struct fake_stream *f, const struct tn_derp_frame *frame)
{
    uint8_t text[256];
    assert_int_equal(frame->type, TN_DERP_CLIENT_INFO);
    memcpy(f->client.b, frame->key, 32);
    assert_int_equal(tn_box_shared_init(&f->shared, f->net->server_key.b, f->client.b), 0);
    assert_true(frame->data_len < sizeof text);
    assert_int_equal(tn_box_open(&f->shared, frame->data, frame->data_len, text), 0);
    assert_int_equal(frame->data_len - TN_BOX_OVERHEAD, sizeof TN_DERP_CLIENT_INFO_JSON - 1);
    assert_memory_equal(text, "{\"version\":2,\"CanAckPings\":true}", sizeof TN_DERP_CLIENT_INFO_JSON - 1);
}

static inline void fake_relay(struct fake_net *net, struct fake_stream *from, const struct tn_derp_frame *frame,
                              uint64_t now_us)
{
    uint8_t *out = malloc(frame->data_len + 64);
    assert_non_null(out);
    struct tn_wr w = tn_wr_init(out, frame->data_len + 64);
    struct fake_stream *to = NULL;
    for (size_t i = 0; i < net->count; i++) {
        struct fake_stream *s = net->streams[i];
        if (!s->gone && s->stage == 2 && memcmp(s->client.b, frame->key, 32) == 0 &&
            strcmp(s->host, from->host) == 0) to = s;
    }
    if (to) tn_derp_packet_put(&w, TN_DERP_RECV_PACKET, from->client.b, frame->data, frame->data_len);
    else tn_derp_peer_gone_put(&w, frame->key, TN_DERP_GONE_NOT_HERE);
    fake_data(to ? to : from, out, tn_wr_len(&w), now_us);
    free(out);
}

/* Works off what one stream's engine sent. True when anything was. */
static inline bool fake_serve_stream(struct fake_net *net, struct fake_stream *f, uint64_t now_us)
{
    if (f->gone || tn_buf_len(&f->sent) == 0) return false;
    uint8_t out[512], *mem = malloc(1 << 17);
    struct tn_derp_frame frame;
    bool fast = false, any = false;
    assert_non_null(mem);
    if (!f->gone && f->stage == 0 && fake_take_request(f, &fast, now_us)) {
        f->stage = 1;
        fake_data(f, out, fake_greeting(net, !fast, out, sizeof out), now_us);
        any = true;
    }
    while (!f->gone && f->stage > 0 && fake_take_frame(f, &frame, mem, 1 << 17)) {
        any = true;
        if (f->stage == 1) {
            fake_check_client_info(f, &frame);
            f->stage = 2;
            fake_data(f, out, fake_server_info(f, out, sizeof out), now_us);
        } else if (frame.type == TN_DERP_NOTE_PREFERRED) {
            f->preferred = frame.preferred;
        } else if (frame.type == TN_DERP_SEND_PACKET) {
            f->sent_packets++;
            fake_relay(net, f, &frame, now_us);
        } else if (frame.type == TN_DERP_PING) {
            struct tn_wr w = tn_wr_init(out, sizeof out);
            tn_derp_ping_put(&w, TN_DERP_PONG, frame.data);
            fake_data(f, out, tn_wr_len(&w), now_us);
        }
    }
    free(mem);
    return any;
}

/* Opens what is dialing and serves all streams until nothing moves. */
static inline void fake_serve(struct fake_net *net, uint64_t now_us)
{
    for (bool any = true; any;) {
        any = false;
        for (size_t i = 0; i < net->count; i++) {
            struct fake_stream *f = net->streams[i];
            if (!f->gone && !f->open) {
                fake_open(f, now_us);
                any = true;
            }
            any |= fake_serve_stream(net, f, now_us);
        }
    }
}

#endif
