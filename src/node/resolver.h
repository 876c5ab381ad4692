/* The resolver of exit clients in the node: what asks it (PeerAPI, port 53) and when it is driven. */
#ifndef TN_NODE_RESOLVER_H
#define TN_NODE_RESOLVER_H

#include "node/node.h"

int tn_resolver_new(struct tn_node *n);     /* after the egress; nothing when we are no exit node, or it is there */
int tn_resolver_changed_upstreams(struct tn_node *n); /* exit_dns is another; 0 or TN_E_NOMEM */
int tn_resolver_listen(struct tn_node *n);  /* after the stack: port 53 */
void tn_resolver_policy_changed(struct tn_node *n); /* the egress has other settings */
void tn_resolver_rotated(struct tn_node *n, uint64_t peer); /* new sessions at the proxies, for this peer or all (0) */
void tn_resolver_free(struct tn_node *n);   /* before the stack and the egress */
void tn_resolver_peer_gone(struct tn_node *n, uint64_t peer, uint64_t now_us);
void tn_resolver_timeout(struct tn_node *n, uint64_t now_us);
uint64_t tn_resolver_next_deadline(const struct tn_node *n);

/* The forwarder's hooks. */
bool tn_resolver_udp(void *node, uint64_t peer, const struct tn_addrport *src, const struct tn_addrport *dst,
                     const uint8_t *payload, size_t len, uint64_t now_us);
enum tn_syn_verdict tn_resolver_syn(void *node, uint64_t peer, const struct tn_syn *syn, uint64_t now_us);
const char *tn_resolver_name_of(void *node, uint64_t peer, const struct tn_ip *ip, uint64_t now_us);
/* Would a packet of an exit client to this address's port 53 be answered, though an exit never goes there? Resolvers of
 * private networks are: clients keep the one that they were given at home. */
bool tn_resolver_stands_for(const struct tn_node *n, const struct tn_ip *dst);

/* For status: the resolver's part of the Egress object; NULL when there is none. */
json_t *tn_resolver_status(const struct tn_node *n);
/* Why names of exit clients are not answered; NULL when they are, as far as anybody has asked. */
const char *tn_resolver_problem(const struct tn_node *n);

#endif
