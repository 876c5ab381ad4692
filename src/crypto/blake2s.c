#include "crypto/blake2s.h"
#include "crypto/noise.h"
#include "util/cursor.h"
#include "util/secret.h"

#include <assert.h>
#include <string.h>

static const uint32_t iv[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                               0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

/* Which message word goes where in each of the ten rounds (RFC 7693 section 2.7). */
static const uint8_t sigma[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
};

static inline uint32_t ror(uint32_t x, unsigned n) { return x >> n | x << (32 - n); }

static inline void mix(uint32_t v[16], unsigned a, unsigned b, unsigned c, unsigned d, uint32_t x, uint32_t y)
{
    v[a] += v[b] + x;
    v[d] = ror(v[d] ^ v[a], 16);
    v[c] += v[d];
    v[b] = ror(v[b] ^ v[c], 12);
    v[a] += v[b] + y;
    v[d] = ror(v[d] ^ v[a], 8);
    v[c] += v[d];
    v[b] = ror(v[b] ^ v[c], 7);
}

static void compress(struct tn_blake2s *s, const uint8_t *block, bool last)
{
    uint32_t m[16], v[16];
    for (unsigned i = 0; i < 16; i++) m[i] = tn_get_le32(block + 4 * i);
    memcpy(v, s->h, sizeof s->h);
    memcpy(v + 8, iv, sizeof iv);
    v[12] ^= (uint32_t)s->total;
    v[13] ^= (uint32_t)(s->total >> 32);
    if (last) v[14] = ~v[14];
    for (unsigned r = 0; r < 10; r++) {
        const uint8_t *g = sigma[r];
        mix(v, 0, 4, 8, 12, m[g[0]], m[g[1]]);
        mix(v, 1, 5, 9, 13, m[g[2]], m[g[3]]);
        mix(v, 2, 6, 10, 14, m[g[4]], m[g[5]]);
        mix(v, 3, 7, 11, 15, m[g[6]], m[g[7]]);
        mix(v, 0, 5, 10, 15, m[g[8]], m[g[9]]);
        mix(v, 1, 6, 11, 12, m[g[10]], m[g[11]]);
        mix(v, 2, 7, 8, 13, m[g[12]], m[g[13]]);
        mix(v, 3, 4, 9, 14, m[g[14]], m[g[15]]);
    }
    for (unsigned i = 0; i < 8; i++) s->h[i] ^= v[i] ^ v[i + 8];
}

void tn_blake2s_init(struct tn_blake2s *s, size_t outlen, const uint8_t *key, size_t keylen)
{
    assert(outlen >= 1 && outlen <= TN_BLAKE2S_OUT && keylen <= 32);
    memset(s, 0, sizeof *s);
    memcpy(s->h, iv, sizeof iv);
    s->h[0] ^= 0x01010000u ^ (uint32_t)keylen << 8 ^ (uint32_t)outlen;
    s->outlen = outlen;
    if (keylen == 0) return;
    memcpy(s->block, key, keylen);
    s->buffered = TN_BLAKE2S_BLOCK;
}

void tn_blake2s_update(struct tn_blake2s *s, const void *bytes, size_t len)
{
    const uint8_t *p = bytes;
    while (len > 0) {
        if (s->buffered == TN_BLAKE2S_BLOCK) { /* more follows, so this one is not the last */
            s->total += TN_BLAKE2S_BLOCK;
            compress(s, s->block, false);
            s->buffered = 0;
        }
        size_t n = TN_BLAKE2S_BLOCK - s->buffered;
        if (n > len) n = len;
        memcpy(s->block + s->buffered, p, n);
        s->buffered += n;
        p += n;
        len -= n;
    }
}

void tn_blake2s_final(struct tn_blake2s *s, uint8_t *out)
{
    uint8_t digest[TN_BLAKE2S_OUT];
    memset(s->block + s->buffered, 0, TN_BLAKE2S_BLOCK - s->buffered);
    s->total += s->buffered;
    compress(s, s->block, true);
    for (unsigned i = 0; i < 8; i++) tn_put_le32(digest + 4 * i, s->h[i]);
    memcpy(out, digest, s->outlen);
    tn_wipe(digest, sizeof digest);
    tn_wipe(s, sizeof *s);
}

void tn_blake2s(uint8_t out[32], const void *a, size_t alen, const void *b, size_t blen)
{
    struct tn_blake2s s;
    tn_blake2s_init(&s, 32, NULL, 0);
    tn_blake2s_update(&s, a, alen);
    tn_blake2s_update(&s, b, blen);
    tn_blake2s_final(&s, out);
}

void tn_blake2s_mac16(uint8_t out[16], const uint8_t *key, size_t keylen, const void *msg, size_t len)
{
    struct tn_blake2s s;
    tn_blake2s_init(&s, 16, key, keylen);
    tn_blake2s_update(&s, msg, len);
    tn_blake2s_final(&s, out);
}

/* HMAC (RFC 2104) over plain BLAKE2s, as Noise wants it, with the message in two parts. */
static void hmac2(uint8_t out[32], const uint8_t *key, size_t keylen, const void *a, size_t alen, const void *b,
                  size_t blen)
{
    struct tn_blake2s s;
    uint8_t pad[TN_BLAKE2S_BLOCK] = {0}, inner[32];
    if (keylen > sizeof pad) tn_blake2s(pad, key, keylen, NULL, 0);
    else if (keylen > 0) memcpy(pad, key, keylen);
    for (size_t i = 0; i < sizeof pad; i++) pad[i] ^= 0x36;
    tn_blake2s_init(&s, 32, NULL, 0);
    tn_blake2s_update(&s, pad, sizeof pad);
    tn_blake2s_update(&s, a, alen);
    tn_blake2s_update(&s, b, blen);
    tn_blake2s_final(&s, inner);
    for (size_t i = 0; i < sizeof pad; i++) pad[i] ^= 0x36 ^ 0x5c;
    tn_blake2s_init(&s, 32, NULL, 0);
    tn_blake2s_update(&s, pad, sizeof pad);
    tn_blake2s_update(&s, inner, sizeof inner);
    tn_blake2s_final(&s, out);
    tn_wipe(pad, sizeof pad);
    tn_wipe(inner, sizeof inner);
}

void tn_hmac_blake2s(uint8_t out[32], const uint8_t *key, size_t keylen, const void *msg, size_t len)
{
    hmac2(out, key, keylen, msg, len, NULL, 0);
}

void tn_noise_hkdf(const uint8_t ck[32], const void *input, size_t len, uint8_t out1[32], uint8_t out2[32],
                   uint8_t out3[32])
{
    uint8_t prk[32], t[3][32], n = 1;
    hmac2(prk, ck, 32, input, len, NULL, 0);
    hmac2(t[0], prk, 32, &n, 1, NULL, 0);
    for (n = 2; n <= 3; n++) hmac2(t[n - 1], prk, 32, t[n - 2], 32, &n, 1);
    if (out1) memcpy(out1, t[0], 32);
    if (out2) memcpy(out2, t[1], 32);
    if (out3) memcpy(out3, t[2], 32);
    tn_wipe(prk, sizeof prk);
    tn_wipe(t, sizeof t);
}
