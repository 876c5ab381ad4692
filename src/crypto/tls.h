/* TLS client as an engine over memory: ciphertext in and out, plaintext in and out, no sockets (OpenSSL).
 *
 * Used by whoever implements a dialer. Feed what arrived with tn_tls_input, then call tn_tls_step until it has
 * nothing more, and send what tn_tls_output gives. */
#ifndef TN_CRYPTO_TLS_H
#define TN_CRYPTO_TLS_H

#include "util/stream.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The process-independent part: one per node. Roots are read when the first verifying connection needs them and
 * dropped again when none is left for a while (tn_tls_ctx_trim), since they cost more than an idle node does. */
struct tn_tls_ctx;
struct tn_tls;

struct tn_tls_ctx *tn_tls_ctx_new(void);
void tn_tls_ctx_free(struct tn_tls_ctx *ctx);  /* after all its tn_tls */
void tn_tls_ctx_trim(struct tn_tls_ctx *ctx);  /* drops the root store if no handshake is under way */

/* Takes host/sni/verify fields from spec (copied). 0 or a negative code. TLS 1.2 or newer. */
int tn_tls_new(struct tn_tls_ctx *ctx, const struct tn_dial_spec *spec, struct tn_tls **out);
void tn_tls_free(struct tn_tls *t);

/* Ciphertext from the network; all of it is taken. 0 or TN_E_NOMEM. */
int tn_tls_input(struct tn_tls *t, const void *bytes, size_t len);
/* Drives the handshake. 0: done (again and again), TN_E_AGAIN: needs more input, else failed for good
 * (TN_E_CERT with the reason in tn_tls_error, TN_E_TLS). */
int tn_tls_handshake(struct tn_tls *t);
/* Plaintext: bytes read (> 0), TN_E_AGAIN, TN_E_EOF after close_notify, else failed for good. */
long tn_tls_read(struct tn_tls *t, void *buf, size_t cap);
/* After the handshake; takes all of it (memory BIO). 0 or failed for good. */
int tn_tls_write(struct tn_tls *t, const void *bytes, size_t len);
void tn_tls_shutdown(struct tn_tls *t); /* queues close_notify */
/* Pending ciphertext: a borrowed view until the next call; consume what was sent. */
size_t tn_tls_output(struct tn_tls *t, const uint8_t **bytes);
void tn_tls_output_consume(struct tn_tls *t, size_t len);

const char *tn_tls_error(const struct tn_tls *t); /* one line for the log; never NULL */
const char *tn_tls_alpn(const struct tn_tls *t);  /* negotiated protocol or NULL */
/* The key in a "derpkey<64 hex>" metacertificate of the peer's chain. */
bool tn_tls_derp_meta(const struct tn_tls *t, uint8_t key[32]);

#endif
