/* The writing side of the netmap, for the control client alone: merging map responses. */
#ifndef TN_CONTROL_NETMAP_MERGE_H
#define TN_CONTROL_NETMAP_MERGE_H

#include "control/netmap.h"
#include "util/siphash.h"

/* Bounds on what deltas may pile up, far above any tailnet known; beyond them a response fails with TN_E_LIMIT. */
enum {
    TN_NETMAP_PEERS_MAX = 250 * 1000,
    TN_NETMAP_USERS_MAX = 250 * 1000,
    TN_NETMAP_FILTERS_MAX = 1024,      /* named packet filters */
    TN_NETMAP_RULES_MAX = 100 * 1000,  /* in all of them */
    TN_NETMAP_MESSAGES_MAX = 256,
};

struct tn_netnode_entry;

struct tn_netmap_nodes { /* owned */
    struct tn_netnode_entry **list;
    size_t n, cap;
};

/* A map response: the peers that were parsed on its arrival, and the rest. The rest may hold peers as well (mapsplit.h says
 * when); they count behind the parsed ones. */
struct tn_netmap_message {
    struct tn_netmap_nodes peers, changed;
    json_t *rest; /* owned */
};

/* Takes e, also when it fails: TN_E_LIMIT, TN_E_NOMEM. */
int tn_netmap_nodes_add(struct tn_netmap_nodes *nodes, struct tn_netnode_entry *e);
void tn_netmap_message_fini(struct tn_netmap_message *message);

struct tn_netmap_sink {
    void (*peer)(void *ctx, const struct tn_netnode *peer);
    void (*gone)(void *ctx, const struct tn_netnode *peer); /* still readable during the call */
    void *ctx;
};

struct tn_netmap *tn_netmap_new(const struct tn_hashkey *hash);
void tn_netmap_free(struct tn_netmap *m);
/* A new stream begins: its first response is the whole truth, except for the DERP map and user profiles, which are
 * kept when it leaves them out. */
void tn_netmap_new_session(struct tn_netmap *m);
/* Forgets everything; gone for each peer. */
void tn_netmap_clear(struct tn_netmap *m, const struct tn_netmap_sink *sink);

/* Merges one MapResponse (keepalives excluded). wall_now and control_now in Unix seconds. 0 and the bits of what
 * changed; TN_E_PROTO when the first response of a session lacks Node, TN_E_MALFORMED, TN_E_LIMIT, TN_E_NOMEM: the
 * session is to be ended. Nodes are validated before anything is changed; the callbacks come last, when all is
 * merged. The message's parsed peers are taken. */
int tn_netmap_merge(struct tn_netmap *m, struct tn_netmap_message *message, int64_t wall_now, int64_t control_now,
                    const struct tn_netmap_sink *sink, unsigned *changes);

/* Expires peers whose time has come. Returns the bits that changed. */
unsigned tn_netmap_expire(struct tn_netmap *m, int64_t control_now, const struct tn_netmap_sink *sink);
/* The next moment (control time) at which tn_netmap_expire would change something, INT64_MAX if none. */
int64_t tn_netmap_next_expiry(const struct tn_netmap *m, int64_t control_now);

#endif
