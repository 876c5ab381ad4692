/* Names asked at the exit node we use: DNS messages over its PeerAPI (POST /dns-query), as official clients do. */
#ifndef TN_NODE_EXITDNS_H
#define TN_NODE_EXITDNS_H

#include "node/node.h"

struct tn_exitdns_lookup;

int tn_exitdns_new(struct tn_node *n);
void tn_exitdns_free(struct tn_node *n);
/* Asks for host's addresses, IPv4 first, then IPv6 where there is none. done is called once, never before this returned,
 * unless canceled; within 10 s. TN_E_NOENT without an exit node that serves DNS. */
int tn_exitdns_resolve(struct tn_node *n, const char *host, void (*done)(void *arg, int err, const struct tn_ip *ip), void *arg,
                       struct tn_exitdns_lookup **out);
/* The same for a question as it stands: bytes are the exit node's answer to it, as it came but for the ID, which is the query's. */
int tn_exitdns_ask(struct tn_node *n, const uint8_t *query, size_t len,
                   void (*done)(void *arg, int err, const uint8_t *bytes, size_t len), void *arg, struct tn_exitdns_lookup **out);
void tn_exitdns_cancel(struct tn_exitdns_lookup *l);
void tn_exitdns_timeout(struct tn_node *n, uint64_t now_us);
uint64_t tn_exitdns_next_deadline(const struct tn_node *n);

#endif
