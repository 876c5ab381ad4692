/* BLAKE2s (RFC 7693), plain and keyed, incremental. Private to this room; others use noise.h.
 *
 * Written out here rather than taken from OpenSSL: WireGuard checks a keyed hash on every handshake message a
 * stranger sends, and an EVP call allocates and can fail, where this can do neither. Held to OpenSSL's and the
 * RFC's results. */
#ifndef TN_CRYPTO_BLAKE2S_H
#define TN_CRYPTO_BLAKE2S_H

#include <stddef.h>
#include <stdint.h>

enum { TN_BLAKE2S_BLOCK = 64, TN_BLAKE2S_OUT = 32 };

struct tn_blake2s {
    uint32_t h[8];
    uint64_t total;  /* bytes compressed so far */
    size_t buffered; /* bytes waiting in block; the last block is kept back until final */
    size_t outlen;
    uint8_t block[TN_BLAKE2S_BLOCK];
};

/* outlen 1..32, keylen 0..32 (0: unkeyed; key may be NULL then). */
void tn_blake2s_init(struct tn_blake2s *s, size_t outlen, const uint8_t *key, size_t keylen);
void tn_blake2s_update(struct tn_blake2s *s, const void *bytes, size_t len);
void tn_blake2s_final(struct tn_blake2s *s, uint8_t *out); /* outlen bytes; wipes the state */

#endif
