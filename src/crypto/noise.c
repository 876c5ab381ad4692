#include "crypto/noise.h"
#include "util/err.h"
#include "util/secret.h"

#include <sodium.h>
#include <string.h>

/* libsodium works without sodium_init, with its portable code; the call picks the fast one and is cheap when
 * repeated. */
static void fast_paths(void) { (void)!sodium_init(); }

int tn_x25519(uint8_t out[32], const uint8_t private_key[32], const uint8_t public_key[32])
{
    fast_paths();
    return crypto_scalarmult_curve25519(out, private_key, public_key) == 0 ? 0 : TN_E_CRYPTO;
}

void tn_x25519_base(uint8_t out[32], const uint8_t private_key[32])
{
    fast_paths();
    (void)crypto_scalarmult_curve25519_base(out, private_key);
}

void tn_noise_init(struct tn_noise_sym *s, const char *protocol_name)
{
    tn_blake2s(s->h, protocol_name, strlen(protocol_name), NULL, 0);
    memcpy(s->ck, s->h, sizeof s->ck);
}

void tn_noise_mix_hash(struct tn_noise_sym *s, const void *bytes, size_t len)
{
    tn_blake2s(s->h, s->h, sizeof s->h, bytes, len);
}

void tn_noise_mix_key(struct tn_noise_sym *s, const void *input, size_t len, uint8_t key[32])
{
    tn_noise_hkdf(s->ck, input, len, s->ck, key, NULL);
}

static const uint8_t zero_nonce[12];

void tn_noise_encrypt(struct tn_noise_sym *s, const uint8_t key[32], const void *msg, size_t len, uint8_t *out)
{
    unsigned long long outlen;
    crypto_aead_chacha20poly1305_ietf_encrypt(out, &outlen, msg, len, s->h, sizeof s->h, NULL, zero_nonce, key);
    tn_noise_mix_hash(s, out, len + TN_NOISE_TAG);
}

int tn_noise_decrypt(struct tn_noise_sym *s, const uint8_t key[32], const uint8_t *msg, size_t len, uint8_t *out)
{
    uint8_t h[32];
    if (len < TN_NOISE_TAG) return TN_E_MALFORMED;
    tn_blake2s(h, s->h, sizeof s->h, msg, len); /* before the ciphertext may be overwritten in place */
    if (crypto_aead_chacha20poly1305_ietf_decrypt(out, NULL, NULL, msg, len, s->h, sizeof s->h, zero_nonce, key) != 0)
        return TN_E_CRYPTO;
    memcpy(s->h, h, sizeof s->h);
    return 0;
}

void tn_noise_wipe(struct tn_noise_sym *s) { tn_wipe(s, sizeof *s); }
