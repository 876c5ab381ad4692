/* The dev DERP server: bytes of two clients. The first byte of each piece says whose it is and how long; a client that
 * is refused connects anew. A well-formed greeting can be asked for, so that the fuzzer gets past the box. */
#include "crypto/box.h"
#include "dev/derp.h"
#include "wire/derp.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct end {
    struct tn_dev_derp_client *c;
    struct tn_node_private private;
    struct tn_node_public key;
};

static void on_wake(void *conn) {}
static void on_expire(void *conn) {}

static void connect_end(struct tn_dev_derp *d, struct end *e, struct tn_dev_now now)
{
    if (e->c) tn_dev_derp_client_free(e->c);
    if (tn_dev_derp_client_new(d, e, now, &e->c) != 0) abort();
}

static size_t greeting(const struct end *e, const struct tn_node_public *server, const struct tn_rng *rng,
                       uint8_t *out, size_t cap)
{
    static const char info[] = TN_DERP_CLIENT_INFO_JSON;
    struct tn_box_shared shared;
    uint8_t box[sizeof info - 1 + TN_BOX_OVERHEAD];
    if (tn_box_shared_init(&shared, e->private.b, server->b) != 0) abort();
    tn_box_seal(&shared, rng, info, sizeof info - 1, box);
    struct tn_wr w = tn_wr_init(out, cap);
    tn_derp_client_info_put(&w, e->key.b, box, sizeof box);
    return tn_wr_len(&w);
}

static void drain(struct end *e)
{
    for (struct tn_dev_derp_frame *f; (f = tn_dev_derp_take(e->c));) {
        struct tn_derp_frame parsed;
        if (tn_derp_frame_split(f->bytes, f->len, TN_DERP_FRAME_MAX, &parsed) != (long)f->len) abort();
        free(f);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t seed = 1;
    struct tn_rng rng = tn_rng_seeded(&seed);
    struct tn_dev_now now = {.us = TN_DEV_SECOND, .unix_s = 1};
    struct tn_dev_derp_config cfg = {.rng = rng, .wake = on_wake, .expire = on_expire};
    struct tn_node_public server;
    struct tn_dev_derp *d;
    struct end ends[2] = {0};
    tn_node_private_generate(&cfg.key, &rng);
    tn_node_public_of(&cfg.key, &server);
    if (tn_dev_derp_new(&cfg, &d) != 0) abort();
    for (int i = 0; i < 2; i++) {
        tn_node_private_generate(&ends[i].private, &rng);
        tn_node_public_of(&ends[i].private, &ends[i].key);
        connect_end(d, &ends[i], now);
    }
    while (size) {
        struct end *e = &ends[data[0] & 1];
        bool greet = data[0] & 2;
        size_t n = data[0] >> 2;
        uint8_t hello[256];
        data++;
        size--;
        if (n > size) n = size;
        size_t len = greeting(e, &server, &rng, hello, sizeof hello);
        int err = greet ? tn_dev_derp_input(e->c, hello, len, now) : tn_dev_derp_input(e->c, data, n, now);
        if (err) connect_end(d, e, now);
        data += greet ? 0 : n;
        size -= greet ? 0 : n;
        if (n & 1) drain(e);
        now.us += TN_DEV_SECOND;
        tn_dev_derp_timeout(d, now);
    }
    for (int i = 0; i < 2; i++) {
        drain(&ends[i]);
        tn_dev_derp_client_free(ends[i].c);
    }
    tn_dev_derp_free(d);
    return 0;
}
