/* The host's addresses: told to the path engine at the start and whenever they or the default route change. */
#ifndef TN_NODE_NETWATCH_H
#define TN_NODE_NETWATCH_H

#include "node/node.h"

/* Needs n->path and n->udp. Without netlink (some sandboxes forbid it) addresses are told once. */
int tn_netwatch_new(struct tn_node *n);
void tn_netwatch_free(struct tn_node *n);
void tn_netwatch_timeout(struct tn_node *n, uint64_t now_us);
uint64_t tn_netwatch_next_deadline(const struct tn_node *n);

#endif
