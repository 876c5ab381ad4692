/* The engine's parts as its files see them. Reading order: wg.c (life, entry points), peer.c, session.c (keypairs and
 * their indices), shake.c (handshakes), data.c (packets), timers.c.
 *
 * Lifetimes: the engine owns peers; a peer owns its keypairs, its handshake state and its staged packets. An index is
 * in the table exactly while the keypair or handshake state that embeds it is live. */
#ifndef TN_WG_INTERNAL_H
#define TN_WG_INTERNAL_H

#include "crypto/aead.h"
#include "route/route.h"
#include "util/heap.h"
#include "util/htable.h"
#include "util/list.h"
#include "util/siphash.h"
#include "wg/cookie.h"
#include "wg/handshake.h"
#include "wg/limit.h"
#include "wg/replay.h"
#include "wg/tai.h"
#include "wg/wg.h"

/* The times of the protocol (whitepaper section 6.1, wireguard-go device/constants.go). */
#define TN_WG_S UINT64_C(1000000)
#define TN_WG_REKEY_AFTER_US (120 * TN_WG_S)
#define TN_WG_REJECT_AFTER_US (180 * TN_WG_S)
#define TN_WG_REKEY_TIMEOUT_US (5 * TN_WG_S)
#define TN_WG_KEEPALIVE_US (10 * TN_WG_S)
#define TN_WG_WIPE_AFTER_US (3 * TN_WG_REJECT_AFTER_US)
#define TN_WG_REKEY_LATE_US (TN_WG_REJECT_AFTER_US - TN_WG_KEEPALIVE_US - TN_WG_REKEY_TIMEOUT_US) /* 165 s */
#define TN_WG_JITTER_US UINT64_C(333000)
#define TN_WG_YIELD_US (15 * TN_WG_S)            /* the later renewal after crossing handshakes */
#define TN_WG_INITIATION_GAP_US UINT64_C(20000) /* between initiations taken from one peer */
#define TN_WG_REKEY_AFTER_MESSAGES (UINT64_C(1) << 60)
#define TN_WG_REJECT_AFTER_MESSAGES (UINT64_MAX - (UINT64_C(1) << 13))

enum {
    TN_WG_MAX_RETRIES = 18,               /* 20 initiations in all, 90 s */
    TN_WG_STAGED_BYTES_MAX = 8 << 20,     /* of all peers together; more is dropped, so that a scan of a large tailnet
                                             by an application can't take the memory of the node */
};

struct tn_wg_index {
    struct tn_hnode node;
    uint32_t index;
    bool live;
    struct tn_wg_peer *peer;
    struct tn_wg_keypair *keypair; /* NULL: a handshake under way */
};

struct tn_wg_keypair {
    struct tn_wg_index index;
    struct tn_aead *send, *recv;
    uint64_t send_counter; /* of the next packet */
    uint64_t created_us, rekey_us;
    uint64_t serial; /* no other keypair has had or will have it */
    uint32_t remote_index;
    bool initiator;
    struct tn_wg_replay replay;
};

/* Made when a peer is first talked to, gone with its keys. */
struct tn_wg_shake {
    struct tn_wg_index index;
    struct tn_wg_initiation initiation; /* while index.live */
    uint8_t shared[32];                 /* X25519 of both static keys */
    struct tn_wg_jar jar;
};

enum tn_wg_timer {
    TN_WG_T_RETRANSMIT,  /* send the initiation again, or at last */
    TN_WG_T_KEEPALIVE,   /* data was received and nothing sent since */
    TN_WG_T_DEAD_PEER,   /* data was sent and nothing received since */
    TN_WG_T_WIPE,        /* the keys are of no use any more */
    TN_WG_TIMERS
};

struct tn_wg_peer {
    struct tn_hnode by_key;
    struct tn_wg *wg;
    void *arg;
    struct tn_node_public key;
    struct tn_prefix *allowed;
    size_t nallowed;
    struct tn_wg_keypair *previous, *current, *next; /* next: we answered and have not yet heard it used */
    struct tn_wg_shake *shake;
    struct tn_timer timer;                /* armed no later than the earliest deadline */
    uint64_t deadline_us[TN_WG_TIMERS];   /* TN_NEVER: off */
    uint64_t gate_us;                     /* no initiation of ours before this */
    uint64_t next_initiation_us;          /* none of the peer's is taken before this */
    uint8_t stamp_sent[TN_WG_TAI_LEN], stamp_received[TN_WG_TAI_LEN];
    uint8_t retries;
    bool another_keepalive, late_rekey_sent;
    bool in_session_callback; /* what is sent now does not queue behind what is staged */
    unsigned nstaged;
    struct tn_list staged;
    struct tn_wg_peer_stats stats;
};

struct tn_wg {
    struct tn_wg_identity own;
    struct tn_rng rng;
    const struct tn_log *log;
    struct tn_wg_callbacks cb;
    void *ctx;
    struct tn_aead_engine *aead;
    struct tn_route_table *routes;
    struct tn_hashkey hash;
    struct tn_htable peers, indices;
    struct tn_heap timers;
    struct tn_timer limit_timer;
    struct tn_wg_checker checker;
    struct tn_wg_limit limit;
    struct tn_wg_clock clock;
    size_t staged_bytes;
    uint64_t keypairs; /* made so far */
    uint64_t now_us; /* of the latest call */
    struct tn_wg_counters counters;
};

/* session.c */
uint32_t tn_wg_index_draw(struct tn_wg *wg); /* one that is not in use */
int tn_wg_index_put(struct tn_wg_peer *peer, struct tn_wg_index *i, uint32_t index, struct tn_wg_keypair *keypair);
void tn_wg_index_drop(struct tn_wg *wg, struct tn_wg_index *index);
struct tn_wg_index *tn_wg_index_find(struct tn_wg *wg, uint32_t index);
struct tn_wg_keypair *tn_wg_keypair_new(struct tn_wg *wg, const struct tn_wg_keys *keys, uint64_t now_us);
void tn_wg_keypair_free(struct tn_wg *wg, struct tn_wg_keypair *k);
bool tn_wg_may_send(const struct tn_wg_keypair *k, uint64_t now_us);
void tn_wg_session_initiated(struct tn_wg_peer *p, struct tn_wg_keypair *k);
void tn_wg_session_answered(struct tn_wg_peer *p, struct tn_wg_keypair *k);
bool tn_wg_session_heard(struct tn_wg_peer *p, struct tn_wg_keypair *k);
void tn_wg_session_wipe(struct tn_wg_peer *p);

/* shake.c */
int tn_wg_shake_start(struct tn_wg_peer *p, bool retry, uint64_t now_us);
int tn_wg_on_initiation(struct tn_wg *wg, const uint8_t *msg, const struct tn_wg_from *from, uint64_t now_us);
int tn_wg_on_response(struct tn_wg *wg, const uint8_t *msg, const struct tn_wg_from *from, uint64_t now_us);
int tn_wg_on_cookie(struct tn_wg *wg, const uint8_t *msg, uint64_t now_us);

/* data.c */
int tn_wg_on_data(struct tn_wg *wg, uint8_t *msg, size_t len, uint64_t now_us);
int tn_wg_stage(struct tn_wg_peer *p, const uint8_t *packet, size_t len);
int tn_wg_flush_staged(struct tn_wg_peer *p, uint64_t now_us);
void tn_wg_drop_staged(struct tn_wg_peer *p);
int tn_wg_keepalive(struct tn_wg_peer *p, uint64_t now_us);
/* The index a transport packet names, if its keypair may still receive and the counter is none it has seen; else NULL,
 * *err says why, and it was counted. */
struct tn_wg_index *tn_wg_data_index(struct tn_wg *wg, uint32_t receiver, uint64_t counter, uint64_t now_us, int *err);
/* Packets of len bytes in all were authentic under k: what follows from that. */
void tn_wg_data_heard(struct tn_wg_peer *p, struct tn_wg_keypair *k, size_t len, uint64_t now_us);
/* After packets were sent: renews the keys when it is time. */
void tn_wg_keep_fresh_sending(struct tn_wg_peer *p, uint64_t now_us);
/* The length of a packet by its IP header if its source is the peer's, else a negative code, counted. *last: a source
 * that was found good before, family 0: none yet. */
long tn_wg_inner_length(struct tn_wg_peer *p, const uint8_t *packet, size_t len, struct tn_ip *last);

/* run.c: many of them at a time */

/* timers.c: named after what happened. */
void tn_wg_timers_init(struct tn_wg_peer *p);
void tn_wg_timer_set(struct tn_wg_peer *p, enum tn_wg_timer t, uint64_t at_us);
void tn_wg_timers_stop(struct tn_wg_peer *p);
void tn_wg_timer_due(struct tn_wg_peer *p, uint64_t now_us);
void tn_wg_sent_anything(struct tn_wg_peer *p);
void tn_wg_sent_data(struct tn_wg_peer *p, uint64_t now_us);
void tn_wg_received_anything(struct tn_wg_peer *p);
void tn_wg_received_data(struct tn_wg_peer *p, uint64_t now_us);
void tn_wg_initiation_sent(struct tn_wg_peer *p, uint64_t now_us);
void tn_wg_keys_derived(struct tn_wg_peer *p, uint64_t now_us);
void tn_wg_handshake_complete(struct tn_wg_peer *p, uint64_t now_us);

/* The one way out for a peer's datagrams. */
static inline void tn_wg_emit(struct tn_wg_peer *p, const uint8_t *datagram, size_t len, uint64_t now_us)
{
    p->stats.tx_bytes += len;
    p->wg->cb.send(p->wg->ctx, p, p->arg, datagram, len, now_us);
}

#endif
