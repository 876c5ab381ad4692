/* A port of our NAT that leads to us: asked of the gateway at the start, when the network changes, and again in good time;
 * told to the path engine as an endpoint. Off with port_mapping false, without UDP, and where our address is public. */
#ifndef TN_NODE_PORTMAP_H
#define TN_NODE_PORTMAP_H

#include "node/node.h"

int tn_portmap_new(struct tn_node *n);
void tn_portmap_free(struct tn_node *n); /* lets the mapping go */
void tn_portmap_network_changed(struct tn_node *n, uint64_t now_us);
void tn_portmap_timeout(struct tn_node *n, uint64_t now_us);
uint64_t tn_portmap_next_deadline(const struct tn_node *n);
const char *tn_portmap_kind_name(const struct tn_node *n); /* "PCP", "NAT-PMP", "UPnP"; "" while there is no mapping */

#endif
