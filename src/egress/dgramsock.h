/* Datagram sockets of forwarded traffic. With src/egress/socket.c the only unit of the forwarder that makes sockets. */
#ifndef TN_EGRESS_DGRAMSOCK_H
#define TN_EGRESS_DGRAMSOCK_H

#include "egress/dgram.h"

enum {
    TN_DGRAM_MAX = 65507, /* UDP over IPv4: 65,535 less both headers; one limit for both families */
    TN_DGRAM_READS = 16,  /* messages per system call; each may be a run of datagrams (UDP_GRO) */
    TN_DGRAM_WRITES = 48, /* datagrams per system call; those of one size for one address are one message (UDP_SEGMENT) */
};

/* Where datagrams are read to. Room for the largest in every slot: pages that none ever filled cost nothing. */
struct tn_dgram_in {
    struct {
        struct tn_addrport from;
        size_t len, segment; /* datagrams of segment bytes, the last maybe shorter; segment >= len: one, which may be empty */
    } got[TN_DGRAM_READS];
    uint8_t bytes[TN_DGRAM_READS][65536];
};

struct tn_dgram_item {
    struct tn_addrport to;
    const uint8_t *head, *body; /* head: may be NULL */
    size_t head_len, len;
};

/* A socket that may talk to everybody of the family, on this port or, when it is not to be had, on any. A descriptor
 * or a negative errno; TN_E_MFILE also when only the descriptors kept for the node itself are left. mark: see
 * tn_egress_config. */
int tn_dgramsock_udp(uint8_t family, uint16_t port, uint32_t mark);
/* For ICMP echo, without privileges: TN_E_ACCES where net.ipv4.ping_group_range does not have our group. */
int tn_dgramsock_echo(uint8_t family, uint16_t id, uint32_t mark);
/* A UDP socket that hears one address only. from: as for tn_socket_connect. */
int tn_dgramsock_connected(const struct tn_addrport *to, uint32_t mark, const struct tn_proxy_bind *from);
/* Count of messages, TN_E_AGAIN, or what the network said of an earlier one (see tn_dgramsock_error). */
int tn_dgramsock_read(int fd, struct tn_dgram_in *in);
/* How many of the items (at most TN_DGRAM_WRITES) were sent before one failed; *err: why, 0 if all. to with family 0:
 * where the socket is connected to. udp: not of an echo socket, so that datagrams may be joined. */
int tn_dgramsock_write(int fd, const struct tn_dgram_item *items, int n, bool udp, int *err);
/* One entry of the error queue: true, where the datagram had gone, and what became of it. */
bool tn_dgramsock_error(int fd, struct tn_addrport *to, enum tn_dgram_error *what, bool *about);
void tn_dgramsock_close(int fd);

#endif
