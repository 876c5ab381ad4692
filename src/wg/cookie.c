#include "wg/cookie.h"
#include "crypto/aead.h"
#include "crypto/noise.h"
#include "util/err.h"
#include "util/secret.h"

#include <string.h>

static const char label_mac1[8] = "mac1----", label_cookie[8] = "cookie--";

static void derive(const char label[8], const struct tn_node_public *key, uint8_t out[32])
{
    tn_blake2s(out, label, 8, key->b, sizeof key->b);
}

/* Constant time. */
static bool equal16(const uint8_t *a, const uint8_t *b)
{
    uint8_t diff = 0;
    for (int i = 0; i < 16; i++) diff |= a[i] ^ b[i];
    return diff == 0;
}

void tn_wg_checker_init(struct tn_wg_checker *c, const struct tn_node_public *own)
{
    memset(c, 0, sizeof *c);
    derive(label_mac1, own, c->mac1_key);
    derive(label_cookie, own, c->cookie_key);
}

bool tn_wg_check_mac1(const struct tn_wg_checker *c, const uint8_t *msg, size_t len)
{
    uint8_t mac[16];
    size_t at = len - 2 * TN_WGMSG_MAC;
    tn_blake2s_mac16(mac, c->mac1_key, sizeof c->mac1_key, msg, at);
    return equal16(mac, msg + at);
}

static void cookie_for(const struct tn_wg_checker *c, const struct tn_wg_from *from, uint8_t cookie[16])
{
    tn_blake2s_mac16(cookie, c->secret, sizeof c->secret, from->bytes, from->len);
}

bool tn_wg_check_mac2(const struct tn_wg_checker *c, const uint8_t *msg, size_t len, const struct tn_wg_from *from,
                      uint64_t now_us)
{
    uint8_t cookie[16], mac[16];
    size_t at = len - TN_WGMSG_MAC;
    if (now_us >= c->secret_until_us) return false;
    cookie_for(c, from, cookie);
    tn_blake2s_mac16(mac, cookie, sizeof cookie, msg, at);
    return equal16(mac, msg + at);
}

void tn_wg_cookie_reply(struct tn_wg_checker *c, const struct tn_rng *rng, const uint8_t *msg, size_t len,
                        const struct tn_wg_from *from, uint64_t now_us, uint8_t out[TN_WGMSG_COOKIE_LEN])
{
    uint8_t cookie[16];
    if (now_us >= c->secret_until_us) {
        tn_rng_fill(rng, c->secret, sizeof c->secret);
        c->secret_until_us = now_us + TN_WG_COOKIE_LIFE_US;
    }
    struct tn_wgmsg_cookie m = {.receiver = tn_wgmsg_sender(msg)};
    tn_rng_fill(rng, m.nonce, sizeof m.nonce);
    cookie_for(c, from, cookie);
    tn_xaead_seal(c->cookie_key, m.nonce, msg + len - 2 * TN_WGMSG_MAC, TN_WGMSG_MAC, cookie, sizeof cookie,
                  m.sealed_cookie);
    tn_wgmsg_put_cookie(out, &m);
}

void tn_wg_jar_sign(struct tn_wg_jar *j, const struct tn_node_public *peer, uint8_t *msg, size_t len, uint64_t now_us)
{
    uint8_t key[32], *mac2 = msg + len - TN_WGMSG_MAC, *mac1 = mac2 - TN_WGMSG_MAC;
    derive(label_mac1, peer, key);
    tn_blake2s_mac16(mac1, key, sizeof key, msg, (size_t)(mac1 - msg));
    memcpy(j->last_mac1, mac1, sizeof j->last_mac1);
    j->has_last_mac1 = true;
    if (now_us < j->cookie_until_us)
        tn_blake2s_mac16(mac2, j->cookie, sizeof j->cookie, msg, (size_t)(mac2 - msg));
    else memset(mac2, 0, TN_WGMSG_MAC);
}

int tn_wg_jar_take(struct tn_wg_jar *j, const struct tn_node_public *peer, const struct tn_wgmsg_cookie *m,
                   uint64_t now_us)
{
    uint8_t key[32], cookie[16];
    if (!j->has_last_mac1) return TN_E_CRYPTO;
    derive(label_cookie, peer, key);
    int err = tn_xaead_open(key, m->nonce, j->last_mac1, sizeof j->last_mac1, m->sealed_cookie,
                            sizeof m->sealed_cookie, cookie);
    if (err != 0) return err;
    memcpy(j->cookie, cookie, sizeof cookie);
    j->cookie_until_us = now_us + TN_WG_COOKIE_LIFE_US;
    return 0;
}
