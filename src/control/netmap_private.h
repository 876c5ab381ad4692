/* The inside of the netmap, for its two halves: netmap.c (nodes, and the order of a merge) and netmap_rest.c
 * (everything else that a response brings). */
#ifndef TN_CONTROL_NETMAP_PRIVATE_H
#define TN_CONTROL_NETMAP_PRIVATE_H

#include "control/netmap_merge.h"
#include "control/netnode.h"

struct tn_netmap_user {
    struct tn_user_profile profile;
    struct tn_hnode by_id;
};

struct tn_netmap {
    struct tn_hashkey hash;
    struct tn_netnode_entry *self;
    struct tn_netnode_entry **peers;
    size_t npeers, cap_peers;
    struct tn_htable peers_by_id, users;
    struct tn_list changed;  /* peers to be told (tn_netnode_entry.changed) */
    bool judged;             /* all peers' expiries, as of judged_at; the earliest to come is at next_expiry */
    int64_t judged_at, next_expiry;
    uint64_t full_lists; /* counts full peer lists, to find those a new one leaves out */
    json_t *derp_map, *filters, *rules, *dns_config, *health, *messages, *shown_health;
    char *domain;
    bool fresh; /* the next response begins a session */
    bool tka_enabled;
};

uint64_t tn_netmap_hash_id(const struct tn_netmap *m, int64_t id);
struct tn_netmap_user *tn_netmap_find_user(const struct tn_netmap *m, int64_t id);
void tn_netmap_free_users(struct tn_netmap *m);
void tn_netmap_replace_json(json_t **slot, json_t *value_owned);

/* What a session's first response leaves out does not exist. */
void tn_netmap_begin_session(struct tn_netmap *m, const json_t *response, unsigned *changes);
/* Users, DERP map, filters, DNS, domain, tailnet lock, health. 0 or why the session is to be ended. */
int tn_netmap_merge_rest(struct tn_netmap *m, const json_t *response, unsigned *changes);

#endif
