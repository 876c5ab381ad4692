/* ChaCha20-Poly1305 (RFC 8439) behind one interface; the implementation is chosen when a key is set up: ipsec-mb
 * where it is built in and the CPU has AVX2 or better, OpenSSL elsewhere. Both are held to the same vectors.
 *
 * One tn_aead belongs to one thread at a time. Sealing and opening may work in place. */
#ifndef TN_CRYPTO_AEAD_H
#define TN_CRYPTO_AEAD_H

#include <stddef.h>
#include <stdint.h>

enum { TN_AEAD_TAG = 16, TN_AEAD_NONCE = 12 };

enum tn_aead_impl { TN_AEAD_AUTO, TN_AEAD_OPENSSL, TN_AEAD_IPSECMB };

struct tn_aead; /* an expanded key; wiped on free */

/* NULL when memory is short or the asked implementation is not available here. */
struct tn_aead *tn_aead_new(enum tn_aead_impl impl, const uint8_t key[32]);
void tn_aead_free(struct tn_aead *a);
/* out: len + 16 bytes, ciphertext then tag. */
void tn_aead_seal(struct tn_aead *a, const uint8_t nonce[12], const void *ad, size_t adlen, const void *msg, size_t len,
                  uint8_t *out);
/* out: len - 16 bytes; TN_E_CRYPTO (out undefined, never released by a caller) or TN_E_MALFORMED when len < 16. */
int tn_aead_open(struct tn_aead *a, const uint8_t nonce[12], const void *ad, size_t adlen, const void *msg, size_t len,
                 uint8_t *out);

/* A datagram each, no AD, nonce = 4 zero bytes and the counter little-endian (WireGuard's transport). */
struct tn_aead_job {
    uint64_t counter;
    const uint8_t *in;
    uint8_t *out;
    size_t len; /* of in; out holds len+16 (seal) or len-16 (open) */
    int result; /* open: 0 or TN_E_CRYPTO / TN_E_MALFORMED */
};
void tn_aead_seal_batch(struct tn_aead *a, struct tn_aead_job *jobs, size_t n);
void tn_aead_open_batch(struct tn_aead *a, struct tn_aead_job *jobs, size_t n);

/* XChaCha20-Poly1305 one-shots (WireGuard cookies). */
void tn_xaead_seal(const uint8_t key[32], const uint8_t nonce[24], const void *ad, size_t adlen, const void *msg,
                   size_t len, uint8_t *out);
int tn_xaead_open(const uint8_t key[32], const uint8_t nonce[24], const void *ad, size_t adlen, const void *msg,
                  size_t len, uint8_t *out);

#endif
