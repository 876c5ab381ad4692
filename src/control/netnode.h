/* One tailcfg.Node: from JSON to struct tn_netnode, normalised (controlclient/map.go upgradeNode), and its
 * patches. */
#ifndef TN_CONTROL_NETNODE_H
#define TN_CONTROL_NETNODE_H

#include "control/netmap.h"
#include "util/list.h"

/* What the netmap keeps beside the public view. node comes first: a tn_netnode of the netmap is an entry. */
struct tn_netnode_entry {
    struct tn_netnode node;
    bool server_expired;     /* Node.Expired as sent; node.expired may also come from the clock */
    int home_derp;           /* as sent; node.home_derp is 0 while expired */
    size_t nendpoints;       /* as sent; node.nendpoints is 0 while expired */
    size_t index;            /* in the netmap's array */
    uint64_t seen;           /* the full list that last named it */
    struct tn_list changed;  /* in the netmap's list while it is to be told at the end of a merge */
};

/* tailcfg.PeerChange: a zero or NULL field is unchanged. */
struct tn_netnode_patch {
    int64_t id;
    int home_derp, cap;
    const json_t *cap_map, *endpoints; /* borrowed from the message */
    bool has_key, has_disco, has_last_seen, has_key_expiry;
    struct tn_node_public key;
    struct tn_disco_public disco;
    int online; /* 1, 0, -1 unchanged */
    int64_t last_seen, key_expiry;
};

/* TN_E_MALFORMED for a node without ID, node key or well-formed addresses, TN_E_NOMEM. Unusable endpoints are
 * skipped. */
int tn_netnode_parse(const json_t *json, struct tn_netnode_entry **out);
void tn_netnode_free(struct tn_netnode_entry *e);
/* Do both say the same of a node (bookkeeping aside)? */
bool tn_netnode_same(const struct tn_netnode_entry *a, const struct tn_netnode_entry *b);

int tn_netnode_patch_parse(const json_t *json, struct tn_netnode_patch *out);
/* True when something changed. TN_E_NOMEM leaves the old endpoints. */
bool tn_netnode_patch_apply(struct tn_netnode_entry *e, const struct tn_netnode_patch *p);

/* Sets or lifts the expiry by the server's clock (0: unknown). True when node.expired changed. */
bool tn_netnode_judge_expiry(struct tn_netnode_entry *e, int64_t control_now);

#endif
