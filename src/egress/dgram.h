/* Datagrams of forwarded traffic: UDP and ICMP echo, from a tailnet peer to one destination and back.
 *
 * A flow is one destination of one source of one peer. Only that destination may answer; what anybody else sends to the
 * same socket is dropped and counted. Where a flow's datagrams leave is decided as for TCP:
 *
 *   OFF      nowhere
 *   HOST     a socket per source, on the source's own port where that is free and not below 1024
 *   PROXY    UDP by the proxy's UDP ASSOCIATE if that is switched on and the proxy does SOCKS5; echo never
 *
 * Idle times, and whom to drop when there are too many, are the owner's business; this room bounds sockets. */
#ifndef TN_EGRESS_DGRAM_H
#define TN_EGRESS_DGRAM_H

#include "egress/egress.h"

struct tn_dgram; /* a flow */

enum tn_dgram_kind { TN_DGRAM_UDP, TN_DGRAM_ECHO };

struct tn_dgram_key {
    enum tn_dgram_kind kind;
    struct tn_addrport src, dst; /* ECHO: src's port is the identifier, dst's is 0 */
    uint64_t peer;               /* its node ID */
};

/* What the network said of a datagram we sent. */
enum tn_dgram_error { TN_DGRAM_NO_PORT, TN_DGRAM_NO_HOST, TN_DGRAM_PROHIBITED };

/* Callbacks come from the loop, and may call anything here on any flow, but for on_error: that comes also from inside tn_dgram_send,
 * about any flow, and closes none (it is noted, and done when that is over). */
struct tn_dgram_events {
    /* From the flow's destination. ECHO: the whole ICMP message, identifier and checksum not the source's. For a 4via6
     * destination it is an ICMPv6 message all the same. */
    void (*on_datagram)(void *arg, const uint8_t *bytes, size_t len);
    void (*on_error)(void *arg, enum tn_dgram_error what);
    /* The flow is gone: another policy, the association broke, or never came about. Also out of tn_egress_set_policy. */
    void (*on_end)(void *arg, enum tn_egress_fail why);
};

/* 0 and *out, or a TN_EGRESS_FAIL as a positive number. LIMIT and FDS pass when other flows of the peer are closed. */
int tn_dgram_open(struct tn_egress *e, const struct tn_dgram_key *key, const struct tn_dgram_events *ev, void *arg,
                  struct tn_dgram **out);
/* Copies. What can't be sent is dropped and counted: datagrams have no other failure. ECHO: the whole ICMP message. */
void tn_dgram_send(struct tn_dgram *d, const void *bytes, size_t len);
void tn_dgram_close(struct tn_dgram *d);

/* UDP through the proxy: off at first. While on, and the proxy does SOCKS5, the proxy is asked for it at once, so that status
 * can tell. */
void tn_egress_set_proxy_udp(struct tn_egress *e, bool on, bool cut);
enum tn_relay { TN_RELAY_UNKNOWN, TN_RELAY_WORKS, TN_RELAY_REFUSED, TN_RELAY_FAILS };

struct tn_dgram_stats {
    enum tn_relay relay; /* PROXY mode: the best that is known of a proxy of the policy's */
    unsigned flows, sockets, associations; /* now */
    uint64_t sent, received, bytes_up, bytes_down;
    uint64_t unsent;    /* too large, no room in the socket, or nothing to send them by */
    uint64_t strangers; /* not from the destination, or from the relay about somebody else */
    uint64_t malformed; /* SOCKS5 datagrams: short, fragments, or no address of ours */
};
void tn_dgram_stats(const struct tn_egress *e, struct tn_dgram_stats *out);

#endif
