/* TLS to an exit proxy: src/crypto's engine in the shape that src/egress asks for, which itself knows no cryptography. */
#include "node/exit.h"

#include "util/err.h"

#include <string.h>

static void *open_tls(void *ctx, const struct tn_proxy *proxy)
{
    struct tn_tls *t;
    struct tn_dial_spec spec = {.host = proxy->host, .port = proxy->port, .tls = true,
                                .verify = proxy->pinned ? TN_VERIFY_SHA256 : TN_VERIFY_SYSTEM};
    memcpy(spec.sha256, proxy->pin, sizeof spec.sha256);
    return tn_tls_new(ctx, &spec, &t) == 0 ? t : NULL;
}

static void free_tls(void *t) { tn_tls_free(t); }
static int input(void *t, const void *bytes, size_t len) { return tn_tls_input(t, bytes, len); }
static int handshake(void *t) { return tn_tls_handshake(t); }
static long read_tls(void *t, void *buf, size_t cap) { return tn_tls_read(t, buf, cap); }
static int write_tls(void *t, const void *bytes, size_t len) { return tn_tls_write(t, bytes, len); }
static void shutdown_tls(void *t) { tn_tls_shutdown(t); }
static size_t output(void *t, const uint8_t **bytes) { return tn_tls_output(t, bytes); }
static void consume(void *t, size_t len) { tn_tls_output_consume(t, len); }
static const char *error(void *t) { return tn_tls_error(t); }

const struct tn_egress_tls tn_proxytls_ops = {.open = open_tls,   .free = free_tls,         .input = input,   .handshake = handshake,
                                              .read = read_tls,   .write = write_tls,       .shutdown = shutdown_tls,
                                              .output = output,   .consume = consume,       .error = error};
