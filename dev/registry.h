/* The nodes of the dev tailnet: identity, addresses, what they said of themselves, and when each of it changed.
 *
 * No I/O and no clock. Every change takes the next generation number and stamps it on the field group that changed,
 * so that a map stream needs to remember one number only: what it owes its client is whatever carries a later stamp
 * (delta.h). Removed nodes leave a line in a bounded log for the same purpose.
 *
 * Identity: one machine key is one node (there is one user). A node key belongs to exactly one node and so to one
 * machine. Addresses and ids are never given to another node while the registry remembers the node. */
#ifndef TN_DEV_REGISTRY_H
#define TN_DEV_REGISTRY_H

#include "crypto/keys.h"
#include "dev/timer.h"
#include "util/htable.h"
#include "util/ip.h"
#include "util/list.h"
#include "util/siphash.h"
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    TN_DEV_NODES_MAX = 20 * 1000,      /* a box; more are for phantoms (phantom.h). Well below the 65,000 addresses */
    TN_DEV_ENDPOINTS_MAX = 64,         /* a host with more addresses than this has them cut */
    TN_DEV_ROUTES_MAX = 256,           /* advertised routes taken from one Hostinfo */
    TN_DEV_HOSTINFO_MAX = 16 * 1024,   /* bytes of JSON kept per node; official ones have some 2 KB */
    TN_DEV_REMOVED_MAX = 1024,         /* removals remembered for streams that lag */
    TN_DEV_LABEL_MAX = 63,             /* DNS */
};

struct tn_dev_node {
    int64_t id;
    struct tn_node_public key;
    struct tn_machine_public machine;
    struct tn_disco_public disco; /* zero until the first update */
    char name[TN_DEV_LABEL_MAX + 1];  /* unique label */
    uint16_t host;                /* number of the address: 100.64.x.y, fd7a:115c:a1e0::xy */
    json_t *hostinfo;             /* object, owned */
    json_t *endpoints;            /* array of "ip:port", owned */
    int home_derp, cap;
    int64_t created, last_seen, expiry; /* Unix seconds; 0: unknown, never */
    bool ephemeral, online;
    bool phantom; /* nobody is behind it, and it is not saved */

    /* Generations of the last change; 0: never since start. */
    uint64_t born;  /* became a node */
    uint64_t whole; /* anything that peers get only with the whole node: key, name, Hostinfo, routes */
    uint64_t self;  /* anything the node itself must hear of */
    uint64_t at_endpoints, at_derp, at_online, at_disco, at_cap, at_expiry;

    /* The control server's: since when it has no map stream, and what follows from that. */
    struct tn_dev_timer absence;
    uint64_t absent_us;

    struct tn_list link; /* in order of ids */
    struct tn_hnode by_key, by_machine, by_name;
};

struct tn_dev_removed {
    int64_t id;
    uint64_t born, gen;
};

struct tn_dev_registry {
    struct tn_hashkey hash;
    struct tn_list nodes;
    size_t count;
    struct tn_htable by_key, by_machine, by_name;
    uint8_t hosts[(UINT16_MAX + 1) / 8]; /* a bit for each number that is taken */
    int64_t next_id;
    uint16_t last_host; /* the search for a free address goes on behind it, so that fresh ones come first */
    uint64_t gen;
    struct tn_dev_removed removed[TN_DEV_REMOVED_MAX]; /* ring */
    size_t nremoved;       /* ever; the newest is at (nremoved - 1) % MAX */
    uint64_t forgotten;    /* generation of the newest removal that fell out of the ring */
};

void tn_dev_registry_init(struct tn_dev_registry *r, const struct tn_rng *rng);
void tn_dev_registry_fini(struct tn_dev_registry *r);

struct tn_dev_node *tn_dev_registry_by_key(const struct tn_dev_registry *r, const struct tn_node_public *key);
struct tn_dev_node *tn_dev_registry_by_machine(const struct tn_dev_registry *r,
                                               const struct tn_machine_public *machine);
struct tn_dev_node *tn_dev_registry_by_id(const struct tn_dev_registry *r, int64_t id);
struct tn_dev_node *tn_dev_registry_by_name(const struct tn_dev_registry *r, const char *name);

/* A new node with a name from hostname and a free address. TN_E_EXIST when key or machine are known, TN_E_LIMIT,
 * TN_E_NOMEM. */
int tn_dev_registry_add(struct tn_dev_registry *r, const struct tn_machine_public *machine,
                        const struct tn_node_public *key, const char *hostname, int64_t unix_s,
                        struct tn_dev_node **out);
void tn_dev_registry_remove(struct tn_dev_registry *r, struct tn_dev_node *n);
bool tn_dev_registry_host_taken(const struct tn_dev_registry *r, uint16_t host);
/* For loading: another number of the address, which is not taken. */
void tn_dev_node_set_host(struct tn_dev_registry *r, struct tn_dev_node *n, uint16_t host);

/* Setters: true when something changed. */
/* TN_E_EXIST when another node has the key. */
int tn_dev_node_set_key(struct tn_dev_registry *r, struct tn_dev_node *n, const struct tn_node_public *key);
/* Takes a new reference. A change of NetInfo alone is stored and told to nobody. Renames the node when the hostname
 * in it changed. */
bool tn_dev_node_set_hostinfo(struct tn_dev_registry *r, struct tn_dev_node *n, json_t *hostinfo);
/* Keeps what peers can use: well-formed, not link-local IPv6, no zone, at most TN_DEV_ENDPOINTS_MAX. */
bool tn_dev_node_set_endpoints(struct tn_dev_registry *r, struct tn_dev_node *n, const json_t *endpoints);
bool tn_dev_node_set_disco(struct tn_dev_registry *r, struct tn_dev_node *n, const struct tn_disco_public *disco);
bool tn_dev_node_set_home_derp(struct tn_dev_registry *r, struct tn_dev_node *n, int region);
bool tn_dev_node_set_cap(struct tn_dev_registry *r, struct tn_dev_node *n, int cap);
bool tn_dev_node_set_online(struct tn_dev_registry *r, struct tn_dev_node *n, bool online, int64_t unix_s);
bool tn_dev_node_set_expiry(struct tn_dev_registry *r, struct tn_dev_node *n, int64_t expiry);
static inline bool tn_dev_node_expired(const struct tn_dev_node *n, int64_t unix_s)
{
    return n->expiry != 0 && n->expiry <= unix_s;
}

struct tn_ip tn_dev_node_ip4(const struct tn_dev_node *n);
struct tn_ip tn_dev_node_ip6(const struct tn_dev_node *n);
/* A DNS label out of what a host calls itself: lowercase letters, digits, inner hyphens; first label only; "node"
 * when nothing is left. */
void tn_dev_label(const char *hostname, char out[TN_DEV_LABEL_MAX + 1]);

/* The persistent form: keys, names, addresses, Hostinfo. Online state and generations are of the running process. */
json_t *tn_dev_registry_dump(const struct tn_dev_registry *r); /* without phantoms. NULL: out of memory */
/* Into an empty registry, all or nothing. TN_E_STATE when any part is missing, ill-typed or contradicts another. */
int tn_dev_registry_load(struct tn_dev_registry *r, const json_t *dump);

#endif
