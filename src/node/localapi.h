/* The LocalAPI on a Unix socket (HTTP/1.1, ipn/localapi): what `tailscale --socket=PATH` and `tailnet status` speak.
 *
 * Permissions by the peer's uid: root and the user that runs the node may do everything, others may read. */
#ifndef TN_NODE_LOCALAPI_H
#define TN_NODE_LOCALAPI_H

#include "node/node.h"

int tn_localapi_new(struct tn_node *n); /* listens on config.socket */
void tn_localapi_free(struct tn_node *n); /* removes the socket */
void tn_localapi_timeout(struct tn_node *n, uint64_t now_us);
uint64_t tn_localapi_next_deadline(const struct tn_node *n);

#endif
