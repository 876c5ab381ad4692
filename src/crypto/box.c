#include "crypto/box.h"
#include "util/err.h"

#include <sodium.h>

enum { NONCE = 24 };
_Static_assert(TN_BOX_OVERHEAD == crypto_box_NONCEBYTES + crypto_box_MACBYTES, "the stored form of a box");

int tn_box_shared_init(struct tn_box_shared *out, const uint8_t private_key[32], const uint8_t public_key[32])
{
    (void)!sodium_init(); /* picks the fast code for this CPU; without it everything still works */
    return crypto_box_beforenm(out->b, public_key, private_key) == 0 ? 0 : TN_E_CRYPTO;
}

void tn_box_seal(const struct tn_box_shared *k, const struct tn_rng *rng, const void *msg, size_t len, uint8_t *out)
{
    tn_rng_fill(rng, out, NONCE);
    (void)crypto_box_easy_afternm(out + NONCE, msg, len, out, k->b);
}

int tn_box_open(const struct tn_box_shared *k, const uint8_t *boxed, size_t len, uint8_t *out)
{
    if (len < TN_BOX_OVERHEAD) return TN_E_MALFORMED;
    if (crypto_box_open_easy_afternm(out, boxed + NONCE, len - NONCE, boxed, k->b) != 0) return TN_E_CRYPTO;
    return 0;
}
