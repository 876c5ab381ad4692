/* ChaCha20-Poly1305 (RFC 8439) behind one interface with two implementations, OpenSSL and ipsec-mb, held to the
 * same vectors and to each other.
 *
 * An engine holds what one thread needs to work with any number of keys; a key is then 48 bytes. TN_AEAD_AUTO
 * starts with OpenSSL and moves to ipsec-mb, where that is built in and the CPU has AVX-512, once
 * TN_AEAD_WARM_BYTES went through the engine: setting ipsec-mb up runs its self-tests, which takes 8 ms and
 * touches 3 MB of its code (let go again, tn_trim_code). Per 1,280-byte packet here: ipsec-mb 0.40 us (AVX-512)
 * and 1.0 us (AVX2), OpenSSL 0.72 us (AVX-512) and 0.95 us (AVX2); so AVX2 alone is no reason to change.
 *
 * An engine and its keys belong to one thread at a time. Sealing and opening may work in place (out == in). */
#ifndef TN_CRYPTO_AEAD_H
#define TN_CRYPTO_AEAD_H

#include <stddef.h>
#include <stdint.h>

enum { TN_AEAD_TAG = 16, TN_AEAD_NONCE = 12, TN_AEAD_WARM_BYTES = 1 << 20 };

enum tn_aead_impl { TN_AEAD_AUTO, TN_AEAD_OPENSSL, TN_AEAD_IPSECMB };

struct tn_aead_engine;
struct tn_aead; /* a key; wiped on free */

/* NULL when memory is short or the asked implementation is not available here. */
struct tn_aead_engine *tn_aead_engine_new(enum tn_aead_impl impl);
void tn_aead_engine_free(struct tn_aead_engine *e); /* after all its keys; NULL is fine */
/* Which implementation works now: never TN_AEAD_AUTO. */
enum tn_aead_impl tn_aead_engine_impl(const struct tn_aead_engine *e);
/* Overwrites the key that the engine worked with last; it goes on to work. For engines that get keys by the call (below):
 * nobody else tells them that a key has died. */
void tn_aead_engine_forget(struct tn_aead_engine *e);

/* A key of this engine; NULL when memory is short. */
struct tn_aead *tn_aead_new_in(struct tn_aead_engine *e, const uint8_t key[32]);
/* A key with an engine of its own, for users of one or two keys. NULL as for the engine. */
struct tn_aead *tn_aead_new(enum tn_aead_impl impl, const uint8_t key[32]);
void tn_aead_free(struct tn_aead *a); /* NULL is fine */
const uint8_t *tn_aead_key(const struct tn_aead *a); /* 32 bytes, borrowed: for another thread's engine */
/* out: len + 16 bytes, ciphertext then tag. */
void tn_aead_seal(struct tn_aead *a, const uint8_t nonce[12], const void *ad, size_t adlen, const void *msg,
                  size_t len, uint8_t *out);
/* out: len - 16 bytes; TN_E_CRYPTO (out undefined, never released by a caller) or TN_E_MALFORMED when len < 16. */
int tn_aead_open(struct tn_aead *a, const uint8_t nonce[12], const void *ad, size_t adlen, const void *msg,
                 size_t len, uint8_t *out);

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

/* The same with a key by the call, on whichever thread owns the engine. */
void tn_aead_open_batch_in(struct tn_aead_engine *e, const uint8_t key[32], struct tn_aead_job *jobs, size_t n);

/* Datagrams one after the other, each of segment bytes but the last, which may be shorter (never under header + tag): header
 * bytes that stay as they are, then what is sealed in place, then room for the tag. The first has this counter, each that
 * follows one more. */
struct tn_aead_run {
    uint8_t *bytes;
    size_t len, segment, header;
    uint64_t counter;
    const uint8_t *key; /* 32 bytes */
};
void tn_aead_seal_run(struct tn_aead_engine *e, const struct tn_aead_run *run);

/* XChaCha20-Poly1305 one-shots (WireGuard cookies). */
void tn_xaead_seal(const uint8_t key[32], const uint8_t nonce[24], const void *ad, size_t adlen, const void *msg,
                   size_t len, uint8_t *out);
int tn_xaead_open(const uint8_t key[32], const uint8_t nonce[24], const void *ad, size_t adlen, const void *msg,
                  size_t len, uint8_t *out);

#endif
