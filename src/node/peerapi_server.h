/* The PeerAPI on our tailnet addresses: listeners of the stack, an HTTP engine per connection, and the DNS behind it. */
#ifndef TN_NODE_PEERAPI_SERVER_H
#define TN_NODE_PEERAPI_SERVER_H

#include "node/node.h"

int tn_peerapi_server_new(struct tn_node *n);
void tn_peerapi_server_free(struct tn_node *n);
/* Own addresses changed: listen on their ports and tell the filter and control. */
int tn_peerapi_server_update(struct tn_node *n, uint64_t now_us);
void tn_peerapi_server_ports(const struct tn_node *n, uint16_t *port4, uint16_t *port6); /* 0: not served */
const char *const *tn_peerapi_server_filtered(const struct tn_node *n, size_t *count); /* ExitNodeFilteredSet */
void tn_peerapi_server_set_dns(struct tn_node *n, const json_t *dns_config);
void tn_peerapi_server_timeout(struct tn_node *n, uint64_t now_us);
uint64_t tn_peerapi_server_next_deadline(const struct tn_node *n);

#endif
