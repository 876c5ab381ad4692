/* What the control server told us, merged from full responses and deltas (control/controlclient/map.go).
 *
 * Owned by the control client; everything here is borrowed by readers until the loop turns. Parts that other rooms
 * interpret (DERP map, packet filter, DNS) stay JSON values: this room only merges them. */
#ifndef TN_CONTROL_NETMAP_H
#define TN_CONTROL_NETMAP_H

#include "crypto/keys.h"
#include "util/htable.h"
#include "util/ip.h"
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tn_netnode { /* self or a peer: tailcfg.Node after normalisation (upgradeNode) */
    int64_t id, user;
    char *stable_id, *name; /* name: FQDN with its trailing dot */
    struct tn_node_public key;
    struct tn_disco_public disco; /* zero: none */
    struct tn_prefix *addresses, *allowed_ips;
    size_t naddresses, nallowed_ips;
    struct tn_addrport *endpoints;
    size_t nendpoints;
    int home_derp, cap;
    int64_t key_expiry; /* Unix seconds, 0: never */
    int64_t last_seen;  /* Unix seconds, 0: unknown */
    int64_t created;
    int8_t online; /* 1, 0, -1 unknown */
    bool expired; /* by the server or by its clock: endpoints and home_derp are empty, the key is not to be used */
    bool machine_authorized, unsigned_peerapi_only, wireguard_only, jailed;
    char *hostname, *os;            /* from Hostinfo; may be NULL */
    uint16_t peerapi4, peerapi6;    /* from Hostinfo.Services, 0: none */
    bool peerapi_dns_proxy;
    json_t *tags;     /* array or NULL */
    json_t *cap_map;  /* object or NULL: capability to values */
    json_t *primary_routes;
    struct tn_hnode by_id; /* the netmap's */
};

struct tn_user_profile {
    int64_t id;
    char *login_name, *display_name, *profile_pic_url;
};

enum tn_netmap_change { /* bits: what one response changed */
    TN_NETMAP_SELF = 1, TN_NETMAP_PEERS = 2, TN_NETMAP_DERP = 4, TN_NETMAP_FILTER = 8, TN_NETMAP_DNS = 16,
    TN_NETMAP_USERS = 32, TN_NETMAP_DOMAIN = 64, TN_NETMAP_HEALTH = 128, TN_NETMAP_OTHER = 256,
};

struct tn_netmap;

const struct tn_netnode *tn_netmap_self(const struct tn_netmap *m);         /* NULL before the first full response */
size_t tn_netmap_npeers(const struct tn_netmap *m);
/* any order, stable between changes */
const struct tn_netnode *tn_netmap_peer_at(const struct tn_netmap *m, size_t i);
const struct tn_netnode *tn_netmap_peer_by_id(const struct tn_netmap *m, int64_t id);
const json_t *tn_netmap_derp_map(const struct tn_netmap *m);  /* {"Regions": {...}} with patches applied, or NULL */
/* effective array of FilterRule; never NULL, may be empty */
const json_t *tn_netmap_filter_rules(const struct tn_netmap *m);
const json_t *tn_netmap_dns_config(const struct tn_netmap *m); /* object or NULL */
const char *tn_netmap_domain(const struct tn_netmap *m);       /* never NULL */
const struct tn_user_profile *tn_netmap_user(const struct tn_netmap *m, int64_t id);
const json_t *tn_netmap_health(const struct tn_netmap *m);     /* array of strings or NULL */
/* The server says that tailnet lock is on: peers' signatures would have to be checked, which is not done here. */
bool tn_netmap_tailnet_lock(const struct tn_netmap *m);
bool tn_netnode_has_cap(const struct tn_netnode *n, const char *cap);

#endif
