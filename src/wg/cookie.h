/* MAC1, MAC2 and cookies (whitepaper sections 5.4.4, 5.4.7; wireguard-go device/cookie.go).
 *
 * MAC1 proves that the sender knows whom it talks to; MAC2, asked for only under load, that it gets what is sent
 * to its address. A cookie is a MAC of the sender's address under a secret that changes every two minutes. */
#ifndef TN_WG_COOKIE_H
#define TN_WG_COOKIE_H

#include "crypto/keys.h"
#include "wg/wg.h"
#include "wire/wgmsg.h"

enum { TN_WG_COOKIE_LEN = 16 };
#define TN_WG_COOKIE_LIFE_US UINT64_C(120000000)

/* For messages to us. */
struct tn_wg_checker {
    uint8_t mac1_key[32], cookie_key[32]; /* from our public key */
    uint8_t secret[32];
    uint64_t secret_until_us; /* 0: none yet */
};

/* For messages to one peer. Zeroed is "no cookie". */
struct tn_wg_jar {
    uint8_t cookie[TN_WG_COOKIE_LEN];
    uint64_t cookie_until_us; /* 0: none */
    uint8_t last_mac1[TN_WGMSG_MAC];
    bool has_last_mac1;
};

void tn_wg_checker_init(struct tn_wg_checker *c, const struct tn_node_public *own);
/* msg: an initiation or a response of len bytes. */
bool tn_wg_check_mac1(const struct tn_wg_checker *c, const uint8_t *msg, size_t len);
bool tn_wg_check_mac2(const struct tn_wg_checker *c, const uint8_t *msg, size_t len, const struct tn_wg_from *from,
                      uint64_t now_us);
/* The cookie reply to a message that passed MAC1. */
void tn_wg_cookie_reply(struct tn_wg_checker *c, const struct tn_rng *rng, const uint8_t *msg, size_t len,
                        const struct tn_wg_from *from, uint64_t now_us, uint8_t out[TN_WGMSG_COOKIE_LEN]);

/* Fills both MACs of a message to peer and remembers MAC1, to which a cookie reply is bound. */
void tn_wg_jar_sign(struct tn_wg_jar *j, const struct tn_node_public *peer, uint8_t *msg, size_t len,
                    uint64_t now_us);
/* Takes a cookie reply: 0, or TN_E_CRYPTO when it is not an answer to our last message. */
int tn_wg_jar_take(struct tn_wg_jar *j, const struct tn_node_public *peer, const struct tn_wgmsg_cookie *m,
                   uint64_t now_us);

#endif
