/* A SOCKS5 server (RFC 1928, CONNECT, no authentication) into the tailnet, for programs on this host.
 *
 * Destinations are tailnet addresses and peers' names; with an exit node in use, everything else goes through it, names
 * resolved by the exit node's DNS. Without one, other destinations are refused: this server never dials from the host. */
#ifndef TN_NODE_SOCKS5D_H
#define TN_NODE_SOCKS5D_H

#include "node/node.h"

int tn_socks5d_new(struct tn_node *n); /* listens on config.socks5_server */
void tn_socks5d_free(struct tn_node *n);

#endif
