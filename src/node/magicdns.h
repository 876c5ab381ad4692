/* The resolver of a host in TUN mode that asked for it (--tun-dns): 100.100.100.100 and its IPv6 twin, UDP and TCP port 53.
 *
 * Both addresses belong to the in-process stack; what the host's kernel sends there by the TUN device enters the stack and
 * nothing else does. Who answers is magicnames.h's to say. Servers are asked from plain sockets of the host: its routing
 * decides the way, so that with an exit node in use questions travel through it, and servers inside the tailnet are
 * reached. An exit node in use is asked itself (exitdns.h) when control names no servers. The host's file is set when the
 * netmap is there, and put back at the end (tun/resolv.h). */
#ifndef TN_NODE_MAGICDNS_H
#define TN_NODE_MAGICDNS_H

#include "node/node.h"

struct tn_magicdns;

/* Undoes what a crash left in any case; the rest only with config.tun_dns. After tn_tunmode_new and the stack. */
int tn_magicdns_new(struct tn_node *n);
void tn_magicdns_free(struct tn_node *n); /* before the stack */
/* Addresses or DNS settings of the netmap changed. */
void tn_magicdns_update(struct tn_node *n);
/* The service's addresses, for the stack's list; returns how many, 0 when there is no such service. */
enum { TN_MAGICDNS_ADDRS = 2 };
size_t tn_magicdns_addrs(const struct tn_node *n, struct tn_ip out[TN_MAGICDNS_ADDRS]);
bool tn_magicdns_is_service(const struct tn_node *n, const struct tn_ip *ip);
void tn_magicdns_timeout(struct tn_node *n, uint64_t now_us);
uint64_t tn_magicdns_next_deadline(const struct tn_node *n);

#endif
