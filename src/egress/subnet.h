/* Subnet routes: prefixes behind this node that its peers may reach through it, next to (or without) exit traffic.
 *
 * What a destination is decides, not which prefix matched: a private address in a route is dialed directly and never told
 * to a proxy; an address of the public Internet is exit traffic and goes by the exit policy, whatever route it lies in,
 * unless that route was marked direct. 4via6 addresses (fd7a:115c:a1e0:b1a:0:SITE::/96 and the IPv4 address behind it)
 * are judged by the address they carry. */
#ifndef TN_EGRESS_SUBNET_H
#define TN_EGRESS_SUBNET_H

#include "egress/egress.h"

struct tn_egress_route {
    struct tn_prefix prefix;
    bool direct; /* public addresses in it too are dialed from this host */
};

enum { TN_EGRESS_ROUTES_MAX = 256 };

/* "192.168.1.0/24", "fd7a:115c:a1e0:b1a:0:7:a01:0/112", "8.8.8.0/24=direct". TN_E_INVAL and why (a line without an end) for what
 * is no prefix or none that can be a route: host bits set, a default route, loopback, link-local, multicast, tailnet addresses
 * other than 4via6, IPv6 forms that carry IPv4. */
int tn_egress_route_parse(const char *text, struct tn_egress_route *out, char why[128]);
/* Copied; TN_E_LIMIT, TN_E_NOMEM: the old ones stay. Flows under way stay. */
int tn_egress_set_routes(struct tn_egress *e, const struct tn_egress_route *routes, size_t n);

/* Is a peer's flow to this destination one to a subnet? real: where it goes (the address that 4via6 carries). */
bool tn_egress_is_subnet(const struct tn_egress *e, const struct tn_addrport *dst, struct tn_addrport *real);

/* Was it opened as a subnet's? */
struct tn_dgram;
bool tn_egress_conn_is_subnet(const struct tn_egress_conn *c);
bool tn_dgram_is_subnet(const struct tn_dgram *d);

#endif
