/* What a map stream says: tailcfg JSON of nodes, the first full MapResponse, and deltas computed from generations.
 *
 * A stream remembers the registry's generation as of its last message. What carries a later stamp is owed: a new node
 * or one whose identity, name, Hostinfo or routes changed goes into PeersChanged; changed endpoints, home region,
 * online state, disco key, version or expiry alone go into PeersChangedPatch; removals into PeersRemoved. A patch
 * cannot say "empty" (zero means unchanged), so what became empty is told with the whole node. */
#ifndef TN_DEV_MAPS_H
#define TN_DEV_MAPS_H

#include "dev/registry.h"

enum { TN_DEV_REGION = 900, TN_DEV_USER = 1 }; /* 900..999 are free for one's own regions */

struct tn_dev_derp_facts {
    const char *host;      /* IP text */
    uint16_t derp_port, stun_port;
    const char *cert_name; /* "sha256-raw:<hex>" */
    bool insecure;         /* InsecureForTests instead of the pin */
};

struct tn_dev_tailnet {
    const char *domain; /* no leading or trailing dot */
    struct tn_dev_derp_facts derp;
    bool refuse_exit_nodes, refuse_routes;
};

/* All return new references, NULL when memory is short. */
json_t *tn_dev_maps_node(const struct tn_dev_tailnet *t, const struct tn_dev_node *n, bool self, int64_t unix_s);
json_t *tn_dev_maps_full(const struct tn_dev_registry *r, const struct tn_dev_tailnet *t,
                         const struct tn_dev_node *viewer, int64_t unix_s);
/* 0 with *out set, or *out NULL when nothing is owed. TN_E_LIMIT when the removals since then are forgotten: the
 * stream has to end, so that its client asks for a full map. TN_E_NOMEM. */
int tn_dev_maps_delta(const struct tn_dev_registry *r, const struct tn_dev_tailnet *t,
                      const struct tn_dev_node *viewer, uint64_t since, int64_t unix_s, json_t **out);
/* The User and Login of register responses: {"User": .., "Login": ..} members are added to obj. 0 or TN_E_NOMEM. */
int tn_dev_maps_user(const struct tn_dev_tailnet *t, json_t *obj);

/* RFC 3339 in UTC; buf has 32 bytes. */
const char *tn_dev_rfc3339(int64_t unix_s, char buf[32]);
/* Seconds, or TN_E_MALFORMED. Go writes any offset and fractions; the year 1 is its zero time and gives 0. */
int tn_dev_rfc3339_parse(const char *text, int64_t *out);

#endif
