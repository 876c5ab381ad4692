/* The inside of host.h for its two halves: host.c (life, link, addresses) and hostroute.c (rules and routes). */
#ifndef TN_TUN_HOST_PRIVATE_H
#define TN_TUN_HOST_PRIVATE_H

#include "tun/host.h"
#include "tun/rtnl.h"
#include "util/err.h"
#include "util/htable.h"

#include <sys/socket.h>

enum {
    TABLE_PEERS = 5380, TABLE_DEFAULT = 5381,
    PREF_SEAL = 5280, PREF_PEERS = 5282, PREF_LAN = 5284, PREF_DEFAULT = 5286,
    PROTOCOL = 84, /* of routes and rules; not in the kernel's or iproute2's lists */
    ADDRS_MAX = 4,
};

struct tn_tunhost {
    struct tn_tunhost_config config;
    struct tn_rtnl nl;
    struct tn_htable routes; /* by prefix */
    struct tn_ip addrs[ADDRS_MAX];
    size_t naddrs;
    bool default_on, has6;
};

static inline int tn_tunhost_af(const struct tn_ip *ip) { return ip->family == 4 ? AF_INET : AF_INET6; }
void tn_tunhost_complain(const struct tn_tunhost *h, const char *what, int err); /* 0: says nothing */

/* hostroute.c */
bool tn_tunhost_knows_ipv6(struct tn_tunhost *h); /* does the kernel do IPv6 at all? */
/* The rule of this priority for both families; a host without IPv6 has the rules of IPv4 alone. */
int tn_tunhost_add_rules(struct tn_tunhost *h, uint32_t pref, uint32_t table);
void tn_tunhost_drop_all_rules(struct tn_tunhost *h);
void tn_tunhost_drop_unreachable(struct tn_tunhost *h);
void tn_tunhost_free_routes(struct tn_tunhost *h);

#endif
