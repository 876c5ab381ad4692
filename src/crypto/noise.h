/* Primitives shared by the two Noise IK users: the control channel (ts2021, big-endian nonces) and WireGuard (IKpsk2,
 * little-endian nonces). BLAKE2s, HMAC-BLAKE2s HKDF, X25519 and the symmetric state; message order is the users'. */
#ifndef TN_CRYPTO_NOISE_H
#define TN_CRYPTO_NOISE_H

#include <stddef.h>
#include <stdint.h>

enum { TN_NOISE_TAG = 16 };

/* BLAKE2s-256 over two parts (either may be empty). */
void tn_blake2s(uint8_t out[32], const void *a, size_t alen, const void *b, size_t blen);
/* Keyed BLAKE2s with a 16-byte result (WireGuard MAC1/MAC2); key 1..32 bytes. */
void tn_blake2s_mac16(uint8_t out[16], const uint8_t *key, size_t keylen, const void *msg, size_t len);
void tn_hmac_blake2s(uint8_t out[32], const uint8_t *key, size_t keylen, const void *msg, size_t len);
/* Noise HKDF with n = 1..3 outputs; unused outputs may be NULL. Outputs may alias ck. */
void tn_noise_hkdf(const uint8_t ck[32], const void *input, size_t len, uint8_t out1[32], uint8_t out2[32],
                   uint8_t out3[32]);
/* 0, or TN_E_CRYPTO when the result is all zero (low-order point). */
int tn_x25519(uint8_t out[32], const uint8_t private_key[32], const uint8_t public_key[32]);
void tn_x25519_base(uint8_t out[32], const uint8_t private_key[32]);

struct tn_noise_sym {
    uint8_t ck[32], h[32];
};
void tn_noise_init(struct tn_noise_sym *s, const char *protocol_name); /* h = ck = BLAKE2s(name) */
void tn_noise_mix_hash(struct tn_noise_sym *s, const void *bytes, size_t len);
void tn_noise_mix_key(struct tn_noise_sym *s, const void *input, size_t len, uint8_t key[32]);
/* One handshake AEAD with a zero nonce and h as AD; mixes the ciphertext into h. out: len+16 / len-16 bytes. */
void tn_noise_encrypt(struct tn_noise_sym *s, const uint8_t key[32], const void *msg, size_t len, uint8_t *out);
int tn_noise_decrypt(struct tn_noise_sym *s, const uint8_t key[32], const uint8_t *msg, size_t len, uint8_t *out);
void tn_noise_wipe(struct tn_noise_sym *s);

#endif
