/* The ts2021 transport: the first byte picks what the rest is: bytes for a handshake that waits, for an open
 * connection (cut in pieces of that size), an initiation for a responder, or plaintext for the early payload. */
#include "control/early.h"
#include "control/noise_conn.h"

static int take(void *arg, const uint8_t *bytes, size_t len)
{
    unsigned *sum = arg;
    for (size_t i = 0; i < len; i++) *sum += bytes[i];
    return *sum == 0xdead ? -1 : 0;
}

static void feed(struct tn_noise_conn *c, const uint8_t *data, size_t size, size_t piece)
{
    unsigned sum = 0;
    for (size_t at = 0; at < size; at += piece) {
        size_t n = size - at < piece ? size - at : piece;
        if (tn_noise_conn_input(c, data + at, n, take, &sum) != 0) return;
    }
}

/* What the server would say, so that a good part of the inputs gets past the tags: records of the fuzzer's
 * plaintext. */
static void feed_sealed(struct tn_noise_conn *c, struct tn_noise_conn *server, const uint8_t *data, size_t size,
    size_t piece)
{
    struct tn_buf out;
    tn_buf_init(&out, 1 << 20);
    for (size_t at = 0; at < size; at += piece) {
        size_t n = size - at < piece ? size - at : piece;
        if (tn_noise_conn_seal(server, data + at, n, &out) != 0) break;
    }
    if (tn_buf_len(&out) > 8 && data[0] & 1) tn_buf_data(&out)[data[0] % tn_buf_len(&out)] ^= data[size - 1];
    feed(c, tn_buf_data(&out), tn_buf_len(&out), piece * 3);
    tn_buf_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t seed = 1;
    struct tn_rng rng = tn_rng_seeded(&seed);
    struct tn_machine_private machine = {{1}}, server = {{2}};
    struct tn_machine_public server_pub;
    struct tn_noise_conn *c = NULL, *s = NULL, *other = NULL;
    struct tn_early early = {0};
    uint8_t init[TN_NOISE_INIT_LEN], resp[TN_NOISE_RESP_LEN];
    unsigned sum = 0;
    if (size < 2) return 0;
    unsigned mode = data[0] >> 6, piece = 1 + data[0] % 64;
    data++;
    size--;
    tn_machine_public_of(&server, &server_pub);
    if (tn_noise_conn_initiate(&machine, &server_pub, 119, &rng, init, &c) != 0) return 0;
    if (tn_noise_conn_respond(&server, &rng, init, sizeof init, resp, &s) != 0) __builtin_trap();
    if (mode != 0 && tn_noise_conn_input(c, resp, sizeof resp, take, &sum) != 0) __builtin_trap();
    switch (mode) {
    case 0: feed(c, data, size, piece); break;
    case 1: feed_sealed(c, s, data, size, piece); break;
    case 2:
        feed(c, data, size, piece);
        if (tn_noise_conn_respond(&server, &rng, data, size, resp, &other) == 0) feed(other, data, size, piece);
        break;
    case 3:
        for (size_t at = 0; at < size; at += piece)
            if (tn_early_input(&early, data + at, size - at < piece ? size - at : piece, take, &sum) != 0) break;
        break;
    }
    tn_noise_conn_free(c);
    tn_noise_conn_free(s);
    tn_noise_conn_free(other);
    return 0;
}
