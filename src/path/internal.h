/* What the files of this room share: the engine's state and the calls between its parts. Not for other rooms. */
#ifndef TN_PATH_INTERNAL_H
#define TN_PATH_INTERNAL_H

#include "crypto/box.h"
#include "path/derp_set.h"
#include "path/early.h"
#include "path/home.h"
#include "path/netcheck.h"
#include "path/path.h"
#include "util/htable.h"
#include "util/list.h"
#include "util/siphash.h"
#include "wire/disco.h"

enum {
    TN_PATH_CANDIDATES_MAX = 64,     /* UDP addresses a peer may be at; Go prunes above 100 */
    TN_PATH_LOCAL_MAX = 64,          /* local addresses reported */
    TN_PATH_ENDPOINTS_MAX = 96,      /* local, STUN and remembered ones together */
    TN_PATH_TRACKED_MAX = 24,        /* own addresses remembered from earlier checks */
    TN_PATH_BAD_MAX = 8,             /* unreachable regions remembered; the oldest is tried again first */
    TN_PATH_PINGS_MAX = 64,          /* pings under way; each came from a caller of tn_path_ping */
};

/* Where a candidate address came from; one address may have several sources. */
enum { TN_CANDIDATE_NETMAP = 1, TN_CANDIDATE_CALL_ME_MAYBE = 2, TN_CANDIDATE_PING = 4 };

struct tn_path_candidate {
    struct tn_addrport addr;
    uint8_t sources;
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
};

/* One tn_path_ping: several packets, one answer. */
struct tn_path_ping_op {
    struct tn_list link;
    struct tn_path_peer *peer;
    void (*done)(void *arg, const struct tn_path_ping_result *r);
    void *arg;
    uint64_t sent_us;
    struct tn_path_ping_sent {
        uint8_t txid[TN_DISCO_TXID_LEN];
        struct tn_addrport to; /* family 0: by DERP */
    } sent[TN_PATH_CANDIDATES_MAX + 1];
    size_t nsent;
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
    struct tn_list pings;
    size_t npings;
    struct tn_early *early; /* packets from nodes that are no peers yet */

    struct tn_ip local[TN_PATH_LOCAL_MAX];
    size_t nlocal;
    bool local_known;
    uint16_t port4, port6;

    struct tn_netcheck *netcheck;
    struct tn_home home_history;
    struct tn_latency_check *latency_check; /* over TCP, while UDP is dead; NULL: none under way */
    struct tn_netcheck_report *report;      /* the last one; NULL: none yet */
    bool check_again, check_full;
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
void tn_path_candidates_drop(struct tn_path_peer *peer, uint8_t source);

/* best.c: which way a datagram takes. */
struct tn_path_choice {
    struct tn_addrport udp; /* family 0: not by UDP */
    int derp_region;        /* 0: not by DERP */
};
struct tn_path_choice tn_path_choose(const struct tn_path *p, const struct tn_path_peer *peer, uint64_t now_us);
void tn_path_send_udp(struct tn_path *p, const struct tn_addrport *to, const uint8_t *datagram, size_t len);

/* disco.c */
void tn_path_disco_input(struct tn_path *p, const struct tn_path_source *from, const uint8_t *packet, size_t len,
                         uint64_t now_us);
void tn_path_pings_timeout(struct tn_path *p, uint64_t now_us);
uint64_t tn_path_pings_deadline(const struct tn_path *p);
/* Ends the pings to a peer (NULL: to all) without an answer; err 0: done is not called. */
void tn_path_pings_cancel(struct tn_path *p, const struct tn_path_peer *peer, int err);

/* check.c: netcheck, the home region, what is told to the owner. */
int tn_path_check_new(struct tn_path *p);
void tn_path_check_free(struct tn_path *p);
void tn_path_check_request(struct tn_path *p, bool full, uint64_t now_us); /* now, or after the one under way */
void tn_path_check_map_changed(struct tn_path *p, uint64_t now_us);
void tn_path_check_derp_state(struct tn_path *p, int region, int err, uint64_t now_us);
void tn_path_check_active(struct tn_path *p, uint64_t now_us); /* data flowed */
void tn_path_check_timeout(struct tn_path *p, uint64_t now_us);
uint64_t tn_path_check_deadline(const struct tn_path *p);

/* endpoints.c */
void tn_path_endpoints_update(struct tn_path *p, const struct tn_netcheck_report *r, uint64_t now_us);
void tn_path_netinfo_update(struct tn_path *p, uint64_t now_us);

#endif
