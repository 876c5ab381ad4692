/* NaCl boxes (X25519, XSalsa20-Poly1305) as DERP and disco use them: nonce 24 || tag 16 || ciphertext.
 * The shared key is computed once per pair and kept by the caller (tn_box_shared), since the X25519 costs 30 us. */
#ifndef TN_CRYPTO_BOX_H
#define TN_CRYPTO_BOX_H

#include "util/rng.h"
#include <stddef.h>
#include <stdint.h>

enum { TN_BOX_OVERHEAD = 24 + 16 };

struct tn_box_shared {
    uint8_t b[32];
};

/* TN_E_CRYPTO for a low-order public key. */
int tn_box_shared_init(struct tn_box_shared *out, const uint8_t private_key[32], const uint8_t public_key[32]);
/* out has len + TN_BOX_OVERHEAD bytes; the nonce is random. */
void tn_box_seal(const struct tn_box_shared *k, const struct tn_rng *rng, const void *msg, size_t len, uint8_t *out);
/* out has len - TN_BOX_OVERHEAD bytes. TN_E_MALFORMED when too short, TN_E_CRYPTO when it does not open. */
int tn_box_open(const struct tn_box_shared *k, const uint8_t *boxed, size_t len, uint8_t *out);

#endif
