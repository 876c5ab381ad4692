/* The Noise_IKpsk2 handshake of WireGuard (whitepaper section 5.4) as functions without time, peers or sockets.
 *
 * An initiator keeps a struct tn_wg_initiation until the response comes; a responder reads, answers and has its
 * keys in one go and keeps nothing. So an initiation of a peer never disturbs our own that is under way, and both
 * can end in a session: the peers settle on one by what they receive. Nothing is changed by a message that fails. */
#ifndef TN_WG_HANDSHAKE_H
#define TN_WG_HANDSHAKE_H

#include "crypto/keys.h"
#include "crypto/noise.h"
#include "wg/tai.h"
#include "wire/wgmsg.h"

struct tn_wg_identity {
    struct tn_node_private key;
    struct tn_node_public pub;
};

struct tn_wg_initiation {
    struct tn_noise_sym sym;
    uint8_t ephemeral[32]; /* private */
};

struct tn_wg_keys {
    uint8_t send[32], recv[32];
};

/* A peer's initiation while it is being read: sym runs along. */
struct tn_wg_reading {
    struct tn_noise_sym sym;
    uint8_t ephemeral[32];       /* the peer's, public */
    struct tn_node_public from;  /* claimed until the timestamp has opened */
    uint8_t timestamp[TN_WG_TAI_LEN];
};

/* Writes an initiation without MACs. shared: X25519 of both static keys. TN_E_CRYPTO: the peer's key is of low
 * order. */
int tn_wg_initiate(struct tn_wg_initiation *st, const struct tn_wg_identity *own, const struct tn_node_public *peer,
                   const uint8_t shared[32], const uint8_t timestamp[TN_WG_TAI_LEN], uint32_t sender,
                   const struct tn_rng *rng, uint8_t out[TN_WGMSG_INITIATION_LEN]);
/* First half of reading an initiation: who says so. */
int tn_wg_read_static(struct tn_wg_reading *r, const struct tn_wg_identity *own, const struct tn_wgmsg_initiation *m);
/* Second half: is it really them, and when. */
int tn_wg_read_timestamp(struct tn_wg_reading *r, const uint8_t shared[32], const struct tn_wgmsg_initiation *m);
/* Answers what was read (wiped). */
int tn_wg_respond(struct tn_wg_reading *r, uint32_t sender, uint32_t receiver, const struct tn_rng *rng,
                  uint8_t out[TN_WGMSG_RESPONSE_LEN], struct tn_wg_keys *keys);
/* The response to our initiation; st is untouched (and to be wiped by the caller on success). */
int tn_wg_finish(const struct tn_wg_initiation *st, const struct tn_wg_identity *own,
                 const struct tn_wgmsg_response *m, struct tn_wg_keys *keys);

#endif
