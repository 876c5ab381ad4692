/* TUN mode: the host's own stack speaks in the tailnet through a TUN device, beside the in-process stack.
 *
 * Who gets a packet that came from a peer is decided here, after the filter. To an address that is not ours: always the
 * in-process stack, that is the forwarder and its egress, never the kernel. To ours: the in-process stack if it has a
 * flow, a listener or a socket there (PeerAPI, the C API's listeners and dials, the SOCKS server's), else the kernel.
 * Echo replies and ICMP errors go to both, since either may have asked. TSMP is answered before all that. What the kernel
 * sends to the tailnet's service address is the in-process stack's too, while it is this host's resolver (magicdns.h).
 *
 * Dials of the in-process stack use ports above the range from which Linux takes its own, so that the two don't meet. */
#ifndef TN_NODE_TUNMODE_H
#define TN_NODE_TUNMODE_H

#include "node/node.h"
#include "wire/ip.h"

enum { TN_TUNMODE_PORT_FIRST = 61000 }; /* net.ipv4.ip_local_port_range ends at 60999 unless changed */

/* Opens the device that config.tun names and sets it up; nothing without that option. The node's error says what failed. */
int tn_tunmode_new(struct tn_node *n);
void tn_tunmode_free(struct tn_node *n);
bool tn_tunmode_is_device(const struct tn_node *n, const char *ifname);

/* A socket of the node itself: it must not be routed into the tailnet. 0 when not in TUN mode. */
int tn_tunmode_mark_socket(const struct tn_node *n, int fd);
uint32_t tn_tunmode_mark(const struct tn_node *n); /* 0: none */

/* Our addresses, or the exit node, changed. */
/* Before we become an exit node while we run: the kernel forwards nothing that comes out of the device. 0 without TUN mode. */
int tn_tunmode_seal(struct tn_node *n);
void tn_tunmode_update(struct tn_node *n);
/* These prefixes lead to this peer now; count 0: none. */
void tn_tunmode_peer_routes(struct tn_node *n, struct tn_npeer *p, const struct tn_prefix *prefixes, size_t count);

/* A filtered packet from a peer. True: taken; false: the in-process stack's (too). */
bool tn_tunmode_deliver(struct tn_node *n, const uint8_t *packet, const struct tn_ippkt *k);
/* What followed a packet that was taken, in the same run (wire/tcprun.h): each of exactly its IP length. */
void tn_tunmode_deliver_rest(struct tn_node *n, const struct iovec *packets, size_t count);
/* A packet of the in-process stack. True: its source is the resolver that serves this host (magicdns.h), and the kernel gets
 * it. */
bool tn_tunmode_from_service(struct tn_node *n, const uint8_t *packet, size_t len);
/* At the end of a turn: writes what was collected, sets what changed. */
void tn_tunmode_turn_ends(struct tn_node *n);

#endif
