/* WireGuard (whitepaper; wireguard-go device/) as an engine: datagrams and time in, datagrams and packets out.
 *
 * Both roles, all timers, replay windows, cookies, crypto-key routing with the inner-source check. No sockets and no
 * paths: outer datagrams go to the send callback together with the peer, and src/path decides how they travel.
 * Peers are created by the node from the netmap; an initiation from an unknown static key asks the resolve callback.
 * Callbacks run inside tn_wg_input, tn_wg_send, tn_wg_timeout; they must not remove the peer they are about. */
#ifndef TN_WG_WG_H
#define TN_WG_WG_H

#include "crypto/aead.h"
#include "crypto/keys.h"
#include "util/ip.h"
#include "util/log.h"
#include "util/rng.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct tn_wg;
struct tn_wg_peer;

enum {
    TN_WG_MTU = 1280,           /* largest inner packet */
    TN_WG_DATA_OVERHEAD = 32,   /* header 16, tag 16; plaintext is padded to 16 within the MTU */
    TN_WG_DATAGRAM_MAX = 1312,
    TN_WG_STAGED_MAX = 32,      /* packets kept per peer while a handshake is under way; the oldest go first */
};

/* Where a datagram came from: opaque to this room but for its bytes, which are what cookies are bound to. */
struct tn_wg_from {
    uint8_t bytes[40];
    uint8_t len;
    uint8_t host_len; /* how many of the bytes name the host (an address without its port): one rate limit. 0: all */
};

struct tn_wg_callbacks {
    /* An outer datagram for this peer. Borrowed. */
    void (*send)(void *ctx, struct tn_wg_peer *peer, void *peer_arg, const uint8_t *datagram, size_t len,
                 uint64_t now_us);
    /* A cookie reply to an unauthenticated source. Borrowed. */
    void (*reply)(void *ctx, const struct tn_wg_from *from, const uint8_t *datagram, size_t len, uint64_t now_us);
    /* An authenticated inner packet whose source address is in the peer's allowed prefixes; trimmed to its IP length.
     * Writable and dead on return. Keepalives do not get here. */
    void (*deliver)(void *ctx, struct tn_wg_peer *peer, void *peer_arg, uint8_t *packet, size_t len, uint64_t now_us);
    /* A handshake has completed: what tn_wg_send sends to this peer from within goes out first, ahead of what is
     * staged (the place for a TSMP disco advertisement). May be NULL. */
    void (*session)(void *ctx, struct tn_wg_peer *peer, void *peer_arg, uint64_t now_us);
    /* Which peer has this static key (an initiation came from it); NULL: not in the netmap, drop. May add the
     * peer. */
    struct tn_wg_peer *(*resolve)(void *ctx, const struct tn_node_public *key, uint64_t now_us);
    /* The wall clock for TAI64N: seconds and nanoseconds since the Unix epoch. */
    void (*wallclock)(void *ctx, int64_t *sec, uint32_t *nsec);
    /* send for many: datagrams of segment bytes each, one after the other, the last maybe shorter. NULL: send gets them
     * one by one. */
    void (*send_run)(void *ctx, struct tn_wg_peer *peer, void *peer_arg, const uint8_t *run, size_t len, size_t segment,
                     uint64_t now_us);
    /* Asked before a train is sealed: true takes it over, to seal it (tn_aead_seal_run, on any thread) and send it, in order
     * with what send and send_run get for this peer; the bytes are the taker's if it gave them to the train's maker, else
     * borrowed, as the key is. False, or NULL: it is sealed here, and send_run gets it. */
    bool (*send_unsealed)(void *ctx, struct tn_wg_peer *peer, void *peer_arg, const struct tn_aead_run *run, uint64_t now_us);
    /* deliver for many, in order. NULL: deliver gets them one by one. */
    void (*deliver_run)(void *ctx, struct tn_wg_peer *peer, void *peer_arg, const struct iovec *packets, size_t n,
                        uint64_t now_us);
};

struct tn_wg_config {
    struct tn_node_private key;
    struct tn_rng rng;
    const struct tn_log *log;
    struct tn_wg_callbacks cb;
    void *ctx;
};

struct tn_wg *tn_wg_new(const struct tn_wg_config *config);
void tn_wg_free(struct tn_wg *wg);
/* A new node key: every session ends, peers stay. TN_E_EXIST when a peer has this very key. */
int tn_wg_set_key(struct tn_wg *wg, const struct tn_node_private *key);

/* TN_E_EXIST, TN_E_NOMEM, or TN_E_INVAL for an all-zero key or our own. */
int tn_wg_peer_add(struct tn_wg *wg, const struct tn_node_public *key, void *peer_arg, struct tn_wg_peer **out);
void tn_wg_peer_remove(struct tn_wg *wg, struct tn_wg_peer *peer); /* wipes its sessions and its routes */
struct tn_wg_peer *tn_wg_peer_find(struct tn_wg *wg, const struct tn_node_public *key);
const struct tn_node_public *tn_wg_peer_key(const struct tn_wg_peer *peer);
/* Replaces the prefixes routed to the peer and accepted from it. A prefix another peer has moves to this one. */
int tn_wg_peer_set_allowed(struct tn_wg *wg, struct tn_wg_peer *peer, const struct tn_prefix *prefixes, size_t n);
/* The peer restarted (its disco key changed) or its key is to be distrusted: drop sessions, keep the peer. What is
 * staged is sent after a new handshake, which starts at the next tn_wg_timeout (the deadline is then at once). */
void tn_wg_peer_reset(struct tn_wg *wg, struct tn_wg_peer *peer);
/* The peer for this destination by crypto-key routing, or NULL. */
struct tn_wg_peer *tn_wg_route(struct tn_wg *wg, const struct tn_ip *dst);
void *tn_wg_peer_arg(const struct tn_wg_peer *peer);

/* A datagram that arrived. 0 when it was good (of whatever type), else why it was dropped (counted by type). The
 * bytes may be overwritten (packets are opened in place). */
int tn_wg_input(struct tn_wg *wg, uint8_t *datagram, size_t len, const struct tn_wg_from *from, uint64_t now_us);
/* Sends an inner packet to a peer: now when a session exists, else staged while a handshake starts. The packet is
 * copied. TN_E_TOOBIG over the MTU, TN_E_INVAL when empty, TN_E_NOMEM when it can't be staged, TN_E_CRYPTO for a peer
 * whose key is no key. */
int tn_wg_send(struct tn_wg *wg, struct tn_wg_peer *peer, const uint8_t *packet, size_t len, uint64_t now_us);

/* The same for many. Datagrams of segment bytes each, the last maybe shorter, segment > 0. */
void tn_wg_input_run(struct tn_wg *wg, uint8_t *run, size_t len, size_t segment, const struct tn_wg_from *from,
                     uint64_t now_us);
/* Opening a run on another thread, in three steps: what is needed is asked for here, the work is done there, and what came of it
 * is brought back here, in the order the runs arrived. In between the session may end, then it is dropped. */
enum { TN_WG_PLAN_MAX = 64 }; /* datagrams of a run */
struct tn_wg_plan {
    uint64_t serial; /* not 0 */
    uint8_t key[32]; /* to be wiped */
};
/* How many bytes at the front of a run are transport packets of one session, of at most TN_WG_PLAN_MAX; or the one datagram there
 * that is none. */
size_t tn_wg_session_part(const uint8_t *run, size_t len, size_t segment);
uint32_t tn_wg_session_of(const uint8_t *run); /* of a run of transport packets: what tells the session */
/* True when all of the run are transport packets of one session of ours. Nothing is counted. */
bool tn_wg_plan_open(struct tn_wg *wg, const uint8_t *run, size_t len, size_t segment, struct tn_wg_plan *plan, uint64_t now_us);
/* Any thread. Opens in place; good[i]: the datagram at i was authentic. */
void tn_wg_open_planned(struct tn_aead_engine *e, const struct tn_wg_plan *plan, uint8_t *run, size_t len, size_t segment,
                        bool good[TN_WG_PLAN_MAX]);
void tn_wg_input_opened(struct tn_wg *wg, const struct tn_wg_plan *plan, uint8_t *run, size_t len, size_t segment,
                        const bool good[TN_WG_PLAN_MAX], uint64_t now_us);

/* Sends a train of packets to a peer, sealed in place: len bytes each but the last, which has last_len <= len, the first
 * at first, each tn_wg_stride(len) after the one before. The TN_WG_HEADROOM bytes before a packet and all bytes from its
 * end to the next one's headroom are overwritten; the last has as much behind it. Codes as for tn_wg_send. */
struct tn_wg_train {
    uint8_t *first;
    size_t count, len, last_len;
};
enum { TN_WG_HEADROOM = 16 };
static inline size_t tn_wg_stride(size_t len) { return (len + 15) / 16 * 16 + TN_WG_DATA_OVERHEAD; }
int tn_wg_send_train(struct tn_wg *wg, struct tn_wg_peer *peer, const struct tn_wg_train *t, uint64_t now_us);

void tn_wg_timeout(struct tn_wg *wg, uint64_t now_us);
uint64_t tn_wg_next_deadline(const struct tn_wg *wg); /* TN_NEVER when idle */

struct tn_wg_peer_stats {
    uint64_t rx_bytes, tx_bytes;       /* inner bytes and overhead, as they crossed the wire */
    uint64_t last_handshake_us;        /* 0: never */
    uint64_t last_rx_us, last_tx_us;   /* 0: never; data packets */
    bool session;                      /* a session that may send, as of the engine's latest call */
};
void tn_wg_peer_stats(const struct tn_wg_peer *peer, struct tn_wg_peer_stats *out);

struct tn_wg_counters {
    uint64_t malformed, bad_mac, unknown_peer, replayed, bad_tag, bad_source, bad_index, rate_limited, cookies_sent,
        handshakes, staged_dropped;
};
const struct tn_wg_counters *tn_wg_counters(const struct tn_wg *wg);

#endif
