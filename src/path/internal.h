/* What the files of this room share: the engine's state and the calls between its parts. Not for other rooms. */
#ifndef TN_PATH_INTERNAL_H
#define TN_PATH_INTERNAL_H

#include "crypto/box.h"
#include "path/derp_set.h"
#include "path/early.h"
#include "path/home.h"
#include "path/netcheck.h"
#include "path/path.h"
#include "util/heap.h"
#include "util/htable.h"
#include "util/list.h"
#include "util/siphash.h"
#include "wire/disco.h"

enum {
    /* UDP addresses a peer may be at. Each makes us send a packet there, so each source of them has its share. */
    TN_PATH_CANDIDATES_NETMAP = 32, TN_PATH_CANDIDATES_CALL_ME_MAYBE = 32, TN_PATH_CANDIDATES_LEARNED = 16,
    TN_PATH_CANDIDATES_MAX = 112,    /* all shares, and 32 more while one list replaces another */
    TN_PATH_LOCAL_MAX = 64,          /* local addresses reported */
    TN_PATH_ENDPOINTS_MAX = 96,      /* local, STUN and remembered ones together */
    TN_PATH_TRACKED_MAX = 24,        /* own addresses remembered from earlier checks */
    TN_PATH_BAD_MAX = 8,             /* unreachable regions remembered; the oldest is tried again first */
    TN_PATH_PINGS_MAX = 64,          /* pings under way that a caller of tn_path_ping waits for */
    TN_PATH_SENT_MAX = 65536,        /* packets of ours that await a pong: three for each of 20,000 active peers */
    TN_PATH_SENT_PER_PEER = 256,     /* all candidates three times within the 5 s of a timeout */
};

/* Where a candidate address came from; one address may have several sources. */
enum { TN_CANDIDATE_NETMAP = 1, TN_CANDIDATE_CALL_ME_MAYBE = 2, TN_CANDIDATE_PING = 4 };

struct tn_path_candidate {
    struct tn_addrport addr;
    uint8_t sources;
    bool asked_again;                     /* since asked_us, because the peer pinged us from there */
    uint64_t asked_us;                    /* when we last pinged it; 0: it may be pinged at once */
    uint64_t pinged_us;                   /* TN_CANDIDATE_PING: when the peer last pinged us from there */
    uint8_t last_txid[TN_DISCO_TXID_LEN]; /* of that ping: a copy that took another way is not answered twice */
};

/* A known disco key, shared by the peers that have it (one machine may be several nodes). */
struct tn_path_disco {
    struct tn_hnode node;
    struct tn_disco_public key;
    bool have_shared;
    struct tn_box_shared shared;
    struct tn_list peers; /* tn_path_peer.disco_link */
};

/* The direct path in use: the address whose pong was best. */
struct tn_path_best {
    struct tn_addrport addr; /* family 0: none */
    uint32_t latency_us;
    uint64_t trust_until_us; /* past it, datagrams go there and through DERP */
};

struct tn_path_peer {
    struct tn_hnode node;
    struct tn_list link; /* tn_path.peers */
    struct tn_node_public key;
    void *arg;
    struct tn_path_disco *disco; /* NULL: none known */
    struct tn_list disco_link;
    int home_derp;
    struct tn_derp_route route; /* the DERP connection it was last heard on */
    struct tn_path_candidate *candidates;
    size_t ncandidates;
    struct tn_path_best best;

    /* session.c. A session is active for 45 s after each datagram to the peer; `beat` is armed while it is. */
    struct tn_timer beat;
    uint64_t last_data_us, last_full_us; /* 0: never */
    uint64_t beat_us;                    /* the last regular heartbeat */
    unsigned unanswered;                 /* heartbeats to best.addr since its last pong */
    uint64_t ask_after_us;               /* no candidate is to be pinged before */
    struct tn_list call_link;            /* in tn_path.calls while a call-me-maybe waits for fresh endpoints */
    uint64_t last_call_us;               /* 0: never */
    unsigned ask_tokens;                 /* pings that the peer's call-me-maybes may cause now, */
    uint64_t ask_tokens_us;              /* as of this time; 0: never any */

    struct tn_list sent; /* tn_path_sent.of_peer */
    size_t nsent;
};

/* One ping packet of ours. */
struct tn_path_sent {
    struct tn_hnode node; /* tn_path.by_txid */
    struct tn_list all;   /* tn_path.sent, oldest first */
    struct tn_list of_peer;
    struct tn_path_peer *peer;
    struct tn_path_ping_op *op; /* who waits for it; NULL: the engine itself */
    struct tn_addrport to;      /* family 0: by DERP */
    uint64_t sent_us;
    uint8_t txid[TN_DISCO_TXID_LEN];
};

/* One tn_path_ping: several packets, one answer. */
struct tn_path_ping_op {
    struct tn_list link;
    struct tn_path_peer *peer;
    void (*done)(void *arg, const struct tn_path_ping_result *r);
    void *arg;
    uint64_t sent_us;
};

struct tn_path_tracked {
    struct tn_path_endpoint ep;
    uint64_t until_us;
};

struct tn_path {
    struct tn_path_config config;
    struct tn_node_public node_public;
    struct tn_disco_public disco_public;
    struct tn_hashkey hash_key;
    uint64_t now_us; /* the time of the call we are in, for callbacks that are given none */

    struct tn_derp_map *map; /* NULL: none yet */
    struct tn_derp_set *derp;
    bool started, control_up;
    struct tn_path_bad {       /* homes that could not be connected, passed over for a while */
        int region;
        uint64_t until_us;
    } bad[TN_PATH_BAD_MAX];
    size_t next_bad;
    int advertised; /* the region peers are told to find us at; connected when it was chosen */

    struct tn_list peers;
    struct tn_htable by_key, by_disco;
    struct tn_list pings; /* tn_path_ping_op.link, oldest first */
    size_t npings;
    struct tn_list sent;  /* tn_path_sent.all, oldest first */
    struct tn_htable by_txid;
    struct tn_heap beats; /* tn_path_peer.beat */
    struct tn_list calls; /* peers that get a call-me-maybe once our endpoints are fresh */
    uint64_t endpoints_us; /* when a check last told our endpoints; 0: never, or the link changed since */
    struct tn_early *early; /* packets from nodes that are no peers yet */

    struct tn_ip local[TN_PATH_LOCAL_MAX];
    size_t nlocal;
    bool local_known;
    uint16_t port4, port6;
    struct tn_path_portmap portmap;

    struct tn_netcheck *netcheck;
    struct tn_home home_history;
    struct tn_latency_check *latency_check; /* over TCP, while UDP is dead; NULL: none under way */
    struct tn_netcheck_report *report;      /* the last one; NULL: none yet */
    bool check_again, check_full;
    uint64_t checks;        /* begun */
    struct tn_list waiters; /* report.c: callers of tn_path_netcheck */
    size_t nwaiters;
    uint64_t next_check_us, last_full_us, last_check_us, last_active_us;

    struct tn_path_tracked tracked[TN_PATH_TRACKED_MAX];
    size_t ntracked;
    struct tn_path_endpoint *endpoints; /* as last reported */
    size_t nendpoints;
    struct tn_path_netinfo *netinfo;    /* as last reported, NULL: never */
};

/* peers.c */
struct tn_path_peer *tn_path_peer_by_key(struct tn_path *p, const struct tn_node_public *key);
struct tn_path_disco *tn_path_disco_by_key(struct tn_path *p, const uint8_t key[32]);
void tn_path_peers_free(struct tn_path *p);
/* The entry of a candidate address, made if there is room; NULL when full. */
struct tn_path_candidate *tn_path_candidate_obtain(struct tn_path_peer *peer, const struct tn_addrport *addr);
struct tn_path_candidate *tn_path_candidate_find(const struct tn_path_peer *peer, const struct tn_addrport *addr);
/* A new list of a source replaces the one before: begin, add each, end. Those without any source left go, and with
 * one the path that leads there. */
void tn_path_candidates_begin(struct tn_path_peer *peer, uint8_t source);
void tn_path_candidates_add(struct tn_path_peer *peer, const struct tn_addrport *addr, uint8_t source);
void tn_path_candidates_end(struct tn_path_peer *peer);
/* Drops those that the peer pinged us from long ago and that nothing else names. How many learned ones are left. */
size_t tn_path_candidates_expire(struct tn_path_peer *peer, uint64_t now_us);

/* best.c: which way a datagram takes. */
struct tn_path_choice {
    struct tn_addrport udp; /* family 0: not by UDP */
    int derp_region;        /* 0: not by DERP */
};
struct tn_path_choice tn_path_choose(const struct tn_path *p, const struct tn_path_peer *peer, uint64_t now_us);
void tn_path_send_udp(struct tn_path *p, const struct tn_addrport *to, const uint8_t *datagram, size_t len);
static inline bool tn_path_trusted(const struct tn_path_peer *peer, uint64_t now_us)
{
    return peer->best.addr.ip.family && now_us <= peer->best.trust_until_us;
}
/* A candidate answered in that time. */
void tn_path_best_pong(struct tn_path *p, struct tn_path_peer *peer, const struct tn_addrport *addr,
                       uint64_t latency_us, uint64_t now_us);
void tn_path_best_forget(struct tn_path_peer *peer);

/* session.c: when paths are looked for. */
bool tn_path_session_active(const struct tn_path_peer *peer, uint64_t now_us);
void tn_path_session_data(struct tn_path *p, struct tn_path_peer *peer, uint64_t now_us); /* a datagram is sent to it */
/* Pings every candidate that was not pinged in the last 5 s; call: and asks the peer to do the same. */
void tn_path_session_look(struct tn_path *p, struct tn_path_peer *peer, bool call, uint64_t now_us);
void tn_path_session_call_me_maybe(struct tn_path *p, struct tn_path_peer *peer, uint64_t now_us); /* received */
void tn_path_session_learned(struct tn_path *p, struct tn_path_peer *peer, struct tn_path_candidate *c,
                             uint64_t now_us); /* it pinged us from there */
void tn_path_session_beat_answered(struct tn_path *p, struct tn_path_peer *peer);
void tn_path_session_call(struct tn_path *p, struct tn_path_peer *peer, uint64_t now_us); /* asks it to ping us */
void tn_path_session_endpoints(struct tn_path *p, bool changed, uint64_t now_us); /* a check has told ours */
void tn_path_session_moved(struct tn_path *p, uint64_t now_us); /* ours have changed */
/* The netmap said something of it. */
void tn_path_session_peer_changed(struct tn_path *p, struct tn_path_peer *peer, uint64_t now_us);
void tn_path_session_link_changed(struct tn_path *p, uint64_t now_us);
void tn_path_session_end(struct tn_path *p, struct tn_path_peer *peer); /* the peer goes, or became another process */
void tn_path_session_timeout(struct tn_path *p, uint64_t now_us);
uint64_t tn_path_session_deadline(const struct tn_path *p);

/* pings.c: pings we sent. op NULL: for the engine itself. False when it could not be sent. */
bool tn_path_ping_one(struct tn_path *p, struct tn_path_peer *peer, const struct tn_path_source *to,
                      struct tn_path_ping_op *op, uint64_t now_us);
bool tn_path_may_ping(const struct tn_path *p, const struct tn_addrport *to);
void tn_path_pong(struct tn_path *p, const struct tn_path_disco *d, const struct tn_path_source *from,
                  const struct tn_disco_msg *m, uint64_t now_us);
void tn_path_pings_timeout(struct tn_path *p, uint64_t now_us);
uint64_t tn_path_pings_deadline(const struct tn_path *p);
/* Ends the pings to a peer (NULL: to all) without an answer; err 0: done is not called. */
void tn_path_pings_cancel(struct tn_path *p, const struct tn_path_peer *peer, int err);
void tn_path_pings_forget(struct tn_path *p, struct tn_path_peer *peer); /* what was sent to it */

/* run.c: how many bytes at the start of a run (len > 0) go on together: several WireGuard transport packets, or one datagram
 * of any kind. */
size_t tn_path_run_part(const struct tn_path *p, const uint8_t *run, size_t len, size_t segment, bool *several);

/* disco.c */
void tn_path_disco_input(struct tn_path *p, const struct tn_path_source *from, const uint8_t *packet, size_t len,
                         uint64_t now_us);
/* Seals a message of at most TN_PATH_DISCO_MAX bytes and sends it to a place. False: the key is no key. */
enum { TN_PATH_DISCO_MAX = 2 + TN_PATH_CANDIDATES_CALL_ME_MAYBE * TN_DISCO_ENDPOINT_LEN };
bool tn_path_disco_send(struct tn_path *p, struct tn_path_disco *d, const struct tn_path_source *to,
                        const uint8_t *msg, size_t len, uint64_t now_us);
bool tn_path_disco_usable(struct tn_path *p, struct tn_path_disco *d);

/* check.c: netcheck, the home region, what is told to the owner. */
int tn_path_check_new(struct tn_path *p);
void tn_path_check_free(struct tn_path *p);
void tn_path_check_request(struct tn_path *p, bool full, uint64_t now_us); /* now, or after the one under way */
void tn_path_check_map_changed(struct tn_path *p, uint64_t now_us);
void tn_path_check_derp_state(struct tn_path *p, int region, int err, uint64_t now_us);
void tn_path_check_active(struct tn_path *p, uint64_t now_us); /* data flowed */
void tn_path_check_timeout(struct tn_path *p, uint64_t now_us);
uint64_t tn_path_check_deadline(const struct tn_path *p);

/* report.c: tells callers of tn_path_netcheck, once their check is over. */
void tn_path_report_tell(struct tn_path *p, uint64_t now_us);
void tn_path_report_free(struct tn_path *p);

/* endpoints.c. True when they changed. */
bool tn_path_endpoints_update(struct tn_path *p, const struct tn_netcheck_report *r, uint64_t now_us);
void tn_path_netinfo_update(struct tn_path *p, uint64_t now_us);

#endif
