#include "crypto/aead.h"
#include "crypto/aead_imb.h"
#include "util/cursor.h"
#include "util/err.h"
#include "util/secret.h"

#include <limits.h>
#include <openssl/evp.h>
#include <sodium.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* The OpenSSL contexts remember the key they last worked with, so that a run of packets of one session sets only the
 * nonce; loaded is that key, all zero at first, and a key that dies is overwritten there. */
struct tn_aead_engine {
    EVP_CIPHER_CTX *ctx[2];           /* indexed by enum direction */
    uint8_t loaded[2][32];
    struct tn_imb *imb;               /* NULL: OpenSSL works */
    uint64_t warm_left;               /* bytes until ipsec-mb is tried; 0: tried, or not wanted */
};

struct tn_aead {
    struct tn_aead_engine *engine;
    bool owns_engine;
    uint8_t key[32];
};

enum direction { OPEN = 0, SEAL = 1 };

static EVP_CIPHER_CTX *context_new(EVP_CIPHER *cipher, int direction)
{
    static const uint8_t zero[32];
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    if (ctx && EVP_CipherInit_ex2(ctx, cipher, zero, zero, direction, NULL) == 1) return ctx;
    EVP_CIPHER_CTX_free(ctx);
    return NULL;
}

struct tn_aead_engine *tn_aead_engine_new(enum tn_aead_impl impl)
{
    struct tn_aead_engine *e = calloc(1, sizeof *e);
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, "ChaCha20-Poly1305", NULL);
    if (!e || !cipher) goto fail;
    for (int d = OPEN; d <= SEAL; d++) {
        e->ctx[d] = context_new(cipher, d);
        if (!e->ctx[d]) goto fail;
    }
    if (impl == TN_AEAD_IPSECMB) {
        e->imb = tn_imb_new();
        if (!e->imb) goto fail;
    }
    if (impl == TN_AEAD_AUTO && tn_imb_worthwhile()) e->warm_left = TN_AEAD_WARM_BYTES;
    EVP_CIPHER_free(cipher);
    return e;
fail:
    EVP_CIPHER_free(cipher);
    tn_aead_engine_free(e);
    return NULL;
}

void tn_aead_engine_free(struct tn_aead_engine *e)
{
    if (!e) return;
    for (int d = OPEN; d <= SEAL; d++) EVP_CIPHER_CTX_free(e->ctx[d]);
    tn_imb_free(e->imb);
    tn_wipe(e->loaded, sizeof e->loaded);
    free(e);
}

enum tn_aead_impl tn_aead_engine_impl(const struct tn_aead_engine *e)
{
    return e->imb ? TN_AEAD_IPSECMB : TN_AEAD_OPENSSL;
}

struct tn_aead *tn_aead_new_in(struct tn_aead_engine *e, const uint8_t key[32])
{
    struct tn_aead *a = calloc(1, sizeof *a);
    if (!a) return NULL;
    a->engine = e;
    memcpy(a->key, key, sizeof a->key);
    return a;
}

struct tn_aead *tn_aead_new(enum tn_aead_impl impl, const uint8_t key[32])
{
    struct tn_aead_engine *e = tn_aead_engine_new(impl);
    struct tn_aead *a = e ? tn_aead_new_in(e, key) : NULL;
    if (!a) {
        tn_aead_engine_free(e);
        return NULL;
    }
    a->owns_engine = true;
    return a;
}

/* A failure of OpenSSL inside an operation that allocates nothing is a broken library. Going on would send plaintext
 * or accept a forgery, so the process ends. */
static void must(int result)
{
    if (result != 1) abort();
}

static bool keys_equal(const uint8_t a[32], const uint8_t b[32])
{
    uint64_t x[4], y[4];
    memcpy(x, a, sizeof x);
    memcpy(y, b, sizeof y);
    return ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3])) == 0;
}

static EVP_CIPHER_CTX *load(struct tn_aead_engine *e, const uint8_t key[32], enum direction d, const uint8_t nonce[12])
{
    bool known = keys_equal(e->loaded[d], key);
    must(EVP_CipherInit_ex2(e->ctx[d], NULL, known ? NULL : key, nonce, d, NULL));
    if (!known) memcpy(e->loaded[d], key, 32);
    return e->ctx[d];
}

static void forget(struct tn_aead_engine *e, enum direction d)
{
    static const uint8_t zero[32];
    must(EVP_CipherInit_ex2(e->ctx[d], NULL, zero, zero, d, NULL));
    tn_wipe(e->loaded[d], 32);
}

void tn_aead_engine_forget(struct tn_aead_engine *e)
{
    static const uint8_t zero[32];
    for (int d = OPEN; d <= SEAL; d++)
        if (!keys_equal(e->loaded[d], zero)) forget(e, d);
}

void tn_aead_free(struct tn_aead *a)
{
    if (!a) return;
    struct tn_aead_engine *e = a->engine;
    for (int d = OPEN; d <= SEAL; d++)
        if (keys_equal(e->loaded[d], a->key)) forget(e, d);
    if (a->owns_engine) tn_aead_engine_free(e);
    tn_wipe(a, sizeof *a);
    free(a);
}

const uint8_t *tn_aead_key(const struct tn_aead *a) { return a->key; }

/* Counts work until the engine is warm, then changes over once. If ipsec-mb can't be set up, OpenSSL stays. */
static void warm(struct tn_aead_engine *e, size_t len)
{
    if (e->warm_left == 0) return;
    if (len < e->warm_left) {
        e->warm_left -= len;
        return;
    }
    e->warm_left = 0;
    e->imb = tn_imb_new();
    if (e->imb) tn_aead_engine_forget(e); /* OpenSSL's contexts have a key that nothing replaces any more */
}

static void seal(struct tn_aead_engine *e, const uint8_t key[32], const uint8_t nonce[12], const void *ad, size_t adlen,
                 const void *msg, size_t len, uint8_t *out)
{
    warm(e, len);
    if (e->imb) {
        tn_imb_seal(e->imb, key, nonce, ad, adlen, msg, len, out);
        return;
    }
    int n = 0;
    must(len <= INT_MAX && adlen <= INT_MAX);
    EVP_CIPHER_CTX *ctx = load(e, key, SEAL, nonce);
    if (adlen > 0) must(EVP_EncryptUpdate(ctx, NULL, &n, ad, (int)adlen));
    if (len > 0) must(EVP_EncryptUpdate(ctx, out, &n, msg, (int)len));
    must(EVP_EncryptFinal_ex(ctx, out + len, &n));
    must(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TN_AEAD_TAG, out + len));
}

static int open(struct tn_aead_engine *e, const uint8_t key[32], const uint8_t nonce[12], const void *ad, size_t adlen,
                const void *msg, size_t len, uint8_t *out)
{
    if (len < TN_AEAD_TAG) return TN_E_MALFORMED;
    warm(e, len);
    len -= TN_AEAD_TAG;
    if (e->imb)
        return tn_imb_open(e->imb, key, nonce, ad, adlen, msg, len, out) ? 0 : TN_E_CRYPTO;
    int n = 0;
    must(len <= INT_MAX && adlen <= INT_MAX);
    uint8_t tag[TN_AEAD_TAG], none[1];
    memcpy(tag, (const uint8_t *)msg + len, sizeof tag);
    EVP_CIPHER_CTX *ctx = load(e, key, OPEN, nonce);
    must(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, TN_AEAD_TAG, tag));
    if (adlen > 0) must(EVP_DecryptUpdate(ctx, NULL, &n, ad, (int)adlen));
    if (len > 0) must(EVP_DecryptUpdate(ctx, out, &n, msg, (int)len));
    return EVP_DecryptFinal_ex(ctx, none, &n) == 1 ? 0 : TN_E_CRYPTO;
}

void tn_aead_seal(struct tn_aead *a, const uint8_t nonce[12], const void *ad, size_t adlen, const void *msg,
                  size_t len, uint8_t *out)
{
    seal(a->engine, a->key, nonce, ad, adlen, msg, len, out);
}

int tn_aead_open(struct tn_aead *a, const uint8_t nonce[12], const void *ad, size_t adlen, const void *msg,
                 size_t len, uint8_t *out)
{
    return open(a->engine, a->key, nonce, ad, adlen, msg, len, out);
}

static void counter_nonce(uint8_t nonce[12], uint64_t counter)
{
    memset(nonce, 0, 4);
    tn_put_le64(nonce + 4, counter);
}

void tn_aead_seal_batch(struct tn_aead *a, struct tn_aead_job *jobs, size_t n)
{
    uint8_t nonce[TN_AEAD_NONCE];
    for (size_t i = 0; i < n; i++) {
        counter_nonce(nonce, jobs[i].counter);
        seal(a->engine, a->key, nonce, NULL, 0, jobs[i].in, jobs[i].len, jobs[i].out);
    }
}

void tn_aead_open_batch_in(struct tn_aead_engine *e, const uint8_t key[32], struct tn_aead_job *jobs, size_t n)
{
    uint8_t nonce[TN_AEAD_NONCE];
    for (size_t i = 0; i < n; i++) {
        counter_nonce(nonce, jobs[i].counter);
        jobs[i].result = open(e, key, nonce, NULL, 0, jobs[i].in, jobs[i].len, jobs[i].out);
    }
}

void tn_aead_open_batch(struct tn_aead *a, struct tn_aead_job *jobs, size_t n)
{
    tn_aead_open_batch_in(a->engine, a->key, jobs, n);
}

void tn_aead_seal_run(struct tn_aead_engine *e, const struct tn_aead_run *run)
{
    uint8_t nonce[TN_AEAD_NONCE];
    uint64_t counter = run->counter;
    for (size_t at = 0, n; at < run->len; at += n, counter++) {
        n = run->len - at < run->segment ? run->len - at : run->segment;
        uint8_t *text = run->bytes + at + run->header;
        counter_nonce(nonce, counter);
        seal(e, run->key, nonce, NULL, 0, text, n - run->header - TN_AEAD_TAG, text);
    }
}

void tn_xaead_seal(const uint8_t key[32], const uint8_t nonce[24], const void *ad, size_t adlen, const void *msg,
                   size_t len, uint8_t *out)
{
    unsigned long long outlen;
    crypto_aead_xchacha20poly1305_ietf_encrypt(out, &outlen, msg, len, ad, adlen, NULL, nonce, key);
}

int tn_xaead_open(const uint8_t key[32], const uint8_t nonce[24], const void *ad, size_t adlen, const void *msg,
                  size_t len, uint8_t *out)
{
    if (len < TN_AEAD_TAG) return TN_E_MALFORMED;
    if (crypto_aead_xchacha20poly1305_ietf_decrypt(out, NULL, NULL, msg, len, ad, adlen, nonce, key) != 0)
        return TN_E_CRYPTO;
    return 0;
}
