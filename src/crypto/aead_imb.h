/* ChaCha20-Poly1305 by intel-ipsec-mb. Private to aead.c. Without the library at build time the same calls exist
 * and report that it is not there.
 *
 * The library's manager is a job ring and 200 KB of state for algorithms not used here; a chacha20-poly1305 job is
 * done when it is submitted, so one manager serves any number of keys. */
#ifndef TN_CRYPTO_AEAD_IMB_H
#define TN_CRYPTO_AEAD_IMB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tn_imb;

struct tn_imb *tn_imb_new(void); /* NULL: not built in, CPU without AVX2, self-test failed, or memory is short */
void tn_imb_free(struct tn_imb *m);
bool tn_imb_worthwhile(void); /* is it faster than OpenSSL on this CPU? */
void tn_imb_seal(struct tn_imb *m, const uint8_t key[32], const uint8_t nonce[12], const void *ad, size_t adlen,
                 const void *msg, size_t len, uint8_t *out);
/* len is the plaintext's; the tag follows the ciphertext. False: the tag is wrong, out is undefined. */
bool tn_imb_open(struct tn_imb *m, const uint8_t key[32], const uint8_t nonce[12], const void *ad, size_t adlen,
                 const void *msg, size_t len, uint8_t *out);

#endif
