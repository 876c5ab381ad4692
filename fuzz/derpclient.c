/* The DERP client engine behind a stream that says what the input says, cut as its first byte tells; the server's key is
 * fixed, so that a good greeting in the input gets past the handshake's first step. Frames and times alternate. With the
 * first byte's highest bit the connection is taken for up at once, since no input can seal a ServerInfo. */
#include "path/derp_internal.h"
#include "util/heap.h"
#include <assert.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct bed {
    const struct tn_stream_events *events;
    void *arg;
    struct tn_stream stream;
    bool live, meta;
};

static int do_write(struct tn_stream *s, const void *bytes, size_t len) { return 0; }
static void do_pause(struct tn_stream *s, bool paused) {}
static void do_close(struct tn_stream *s) { ((struct bed *)((char *)s - offsetof(struct bed, stream)))->live = false; }
static bool do_meta(struct tn_stream *s, uint8_t key[32])
{
    memset(key, 9, 32);
    return ((struct bed *)((char *)s - offsetof(struct bed, stream)))->meta;
}
static const struct tn_stream_ops ops = {.write = do_write, .pause = do_pause, .close = do_close, .derp_meta = do_meta};

static int do_dial(void *ctx, const struct tn_dial_spec *spec, const struct tn_stream_events *events, void *arg,
                   struct tn_stream **out)
{
    struct bed *b = ctx;
    assert(!b->live);
    b->events = events;
    b->arg = arg;
    b->stream.ops = &ops;
    b->live = true;
    *out = &b->stream;
    return 0;
}

static void on_packets(void *ctx, struct tn_derp_client *c, const struct tn_node_public *from, uint8_t *run, size_t len,
                       size_t segment, uint64_t now_us)
{
    assert(len && segment && segment <= len);
    memset(run, 0xee, len);
    for (size_t at = 0; at < len; at += segment)
        tn_derp_client_send(c, from, run + at, len - at < segment ? len - at : segment, now_us);
}
static void on_gone(void *ctx, struct tn_derp_client *c, const struct tn_node_public *peer, uint8_t reason) {}
static void on_state(void *ctx, struct tn_derp_client *c, int err, const char *text, uint64_t now_us) {}
static void on_health(void *ctx, struct tn_derp_client *c, const char *text) {}
static const struct tn_derp_client_callbacks callbacks = {on_packets, on_gone, on_state, on_health};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) return 0;
    uint64_t seed = 1, now_us = 1000000;
    struct bed b = {.meta = data[0] & 1};
    size_t cut = 1 + (data[0] >> 1) % 64 * 16;
    bool up = data[0] & 0x80;
    struct tn_rng rng = tn_rng_seeded(&seed);
    struct tn_dialer dialer = {do_dial, &b};
    struct tn_node_private key = {{8, [31] = 64}};
    struct tn_node_public pub = {{7}};
    char name[] = "n", none[] = "";
    struct tn_derp_node node = {.name = name, .host = name, .cert_name = none};
    struct tn_derp_region region = {.id = 1, .code = name, .nodes = &node, .nnodes = 1};
    struct tn_derp_client_config config = {.key = &key, .public_key = &pub, .dialer = &dialer, .rng = &rng,
                                           .cb = &callbacks};
    struct tn_derp_client *c;
    if (tn_derp_client_new(&config, &region, &c) != 0) return 0;
    data++;
    size--;
    for (int turn = 0; size && turn < 4096; turn++) {
        uint64_t at_us = tn_derp_client_next_deadline(c);
        if (!b.live) {
            assert(at_us != TN_NEVER);
            now_us = at_us > now_us ? at_us : now_us;
            tn_derp_client_timeout(c, now_us);
            if (b.live) b.events->on_open(b.arg, &b.stream, now_us);
            if (b.live && up) tn_derp_set_state(c, TN_DERP_UP);
            continue;
        }
        size_t n = size < cut ? size : cut;
        b.events->on_data(b.arg, &b.stream, data, n, now_us);
        data += n;
        size -= n;
    }
    tn_derp_client_free(c);
    assert(!b.live);
    return 0;
}
