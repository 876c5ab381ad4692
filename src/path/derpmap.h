/* The DERP map (tailcfg.DERPMap): regions of relay servers, read from control's JSON with caps, and what follows
 * from a node's fields: where to dial it, which certificate to expect, where its STUN server is. */
#ifndef TN_PATH_DERPMAP_H
#define TN_PATH_DERPMAP_H

#include "util/ip.h"
#include "util/stream.h"
#include <jansson.h>

enum {
    TN_DERP_REGIONS_MAX = 512,    /* Tailscale runs about 30; a map beyond this is broken or hostile */
    TN_DERP_NODES_MAX = 32,       /* per region; usual are 1 to 4 */
    TN_DERP_REGION_ID_MAX = 65535 /* the id stands in for a port in 127.3.3.40:id */
};

struct tn_derp_node {
    char *name, *host;
    char *cert_name;       /* "" when the host name is what the certificate must hold */
    struct tn_ip ip4, ip6; /* family 0: by name, unless no4/no6 */
    bool no4, no6;         /* the field holds "none" or another non-address */
    struct tn_ip learned4, learned6; /* what the host's name led to, once a connection showed it */
    struct tn_ip stun_ip;  /* STUNTestIP; family 0: not set */
    bool no_stun;
    uint16_t stun_port, derp_port;
    bool stun_only, insecure, test_node;
    bool pinned, bad_pin;  /* sha256 is set | the pin is not 64 hex digits: never acceptable */
    uint8_t sha256[32];
};

struct tn_derp_region {
    int id;
    char *code;
    bool avoid, no_home;   /* no_home: NoMeasureNoHome */
    double score;          /* 1 unless HomeParams say otherwise; always > 0 */
    struct tn_derp_node *nodes;
    size_t nnodes;
};

struct tn_derp_map {
    struct tn_derp_region *regions; /* by ascending id */
    size_t nregions;
};

/* A map without Regions changes only the scores of old (may be NULL): then *out is NULL and old was changed in place.
 * 0, TN_E_MALFORMED, TN_E_TOOBIG (a cap above), TN_E_NOMEM; on failure old is as it was. */
int tn_derp_map_parse(const json_t *json, struct tn_derp_map *old, struct tn_derp_map **out);
void tn_derp_map_free(struct tn_derp_map *m);
const struct tn_derp_region *tn_derp_map_find(const struct tn_derp_map *m, int id);
/* Equal in what a connection depends on (scores aside). Either may be NULL. */
bool tn_derp_region_equal(const struct tn_derp_region *a, const struct tn_derp_region *b);
/* Equal in everything, scores too. */
bool tn_derp_map_equal(const struct tn_derp_map *a, const struct tn_derp_map *b);
/* May it be a home: not NoMeasureNoHome and at least one node serves DERP. */
bool tn_derp_region_eligible(const struct tn_derp_region *r);

/* How to reach a node over TLS. False when it can't be dialed (STUN only, both families off, unusable pin). addrs
 * backs spec->addrs and must outlive the dial call; an address comes first for the preferred family. */
bool tn_derp_node_dial(const struct tn_derp_node *n, bool prefer6, struct tn_addrport addrs[2],
                       struct tn_dial_spec *spec);
/* Remembers the address a node known by name was reached at, so that its STUN server can be asked. True when new. */
bool tn_derp_map_learn(struct tn_derp_map *m, int region, const char *node_name, const struct tn_ip *ip);
/* The node's STUN server for a family (4 or 6), if its address is known without a name lookup. */
bool tn_derp_node_stun(const struct tn_derp_node *n, int family, struct tn_addrport *out);

#endif
