/* Packets from nodes our netmap does not know yet.
 *
 * A peer that has just joined learns of us in its first netmap and may dial at once; its handshake then overtakes the
 * delta that tells us of it. Dropped, it would come again only 5 s later (WireGuard's REKEY_TIMEOUT). So a few such
 * packets wait for a moment for their sender to become a peer. Strangers can fill the places and gain nothing: what waits
 * is bounded, is looked at only once its sender is in the netmap, and then takes the ordinary way. */
#ifndef TN_PATH_EARLY_H
#define TN_PATH_EARLY_H

#include "path/derp_set.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TN_EARLY_PLACES = 8,                /* new peers that dial in the same moment; the oldest gives way */
    TN_EARLY_PACKET_MAX = 256,          /* a WireGuard initiation has 148 bytes, a disco ping 124 */
    TN_EARLY_KEEP_US = 5 * 1000 * 1000, /* then the sender repeats it itself */
};

struct tn_early_packet {
    struct tn_node_public from;
    struct tn_derp_route route; /* the connection it came by */
    uint64_t until_us; /* 0: the place is free */
    uint16_t len;
    uint8_t bytes[TN_EARLY_PACKET_MAX];
};

struct tn_early; /* NULL until a packet had to wait */

/* Keeps a copy; longer packets and those without memory are dropped. *e is made when it is needed. */
void tn_early_keep(struct tn_early **e, const struct tn_node_public *from, struct tn_derp_route route,
                   const uint8_t *packet, size_t len, uint64_t now_us);
void tn_early_free(struct tn_early *e);
/* A node became a peer: its packets, if any, are ready from now on. */
void tn_early_known(struct tn_early *e, const struct tn_node_public *from);
bool tn_early_ready(const struct tn_early *e);
/* Takes a ready packet that is not stale; false when there is none. */
bool tn_early_take(struct tn_early *e, struct tn_early_packet *out, uint64_t now_us);

#endif
