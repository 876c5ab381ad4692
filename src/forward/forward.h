/* The forwarder: SYN gate, flow table and ICMP answers between the stack and the egress (or subnet routes, later).
 *
 * A peer's SYN to a foreign address is classified, deduplicated on its 4-tuple and dialed upstream first; only when
 * the upstream stands does the stack answer SYN-ACK, otherwise the peer gets RST (or ICMP) at once. Then bytes are moved
 * between the stack's chunks and the egress socket with backpressure both ways; FIN and RST cross over as they are. */
#ifndef TN_FORWARD_FORWARD_H
#define TN_FORWARD_FORWARD_H

#include "egress/egress.h"
#include "stack/stack.h"
#include "util/log.h"
#include "util/rng.h"

struct tn_forward;

struct tn_forward_config {
    struct tn_egress *egress; /* borrowed */
    const struct tn_log *log;
    /* The node ID of the tailnet peer that owns this source address; 0: unknown, refuse. */
    uint64_t (*peer_of)(void *ctx, const struct tn_ip *src);
    /* Port 53 of exit clients, whatever the address (but not in a subnet): answered by the node itself and not dialed. The
     * datagram was taken (false: goes the way of any other); what becomes of the SYN (TN_SYN_DROP: not taken, as above).
     * NULL: a port like any other. */
    bool (*dns_udp)(void *ctx, uint64_t peer, const struct tn_addrport *src, const struct tn_addrport *dst,
                    const uint8_t *payload, size_t len, uint64_t now_us);
    enum tn_syn_verdict (*dns_syn)(void *ctx, uint64_t peer, const struct tn_syn *syn, uint64_t now_us);
    /* The name by which this peer asked for the address lately (tn_dns_name_of), or NULL; valid until the next call. May
     * be NULL. */
    const char *(*name_of)(void *ctx, uint64_t peer, const struct tn_ip *ip, uint64_t now_us);
    void *ctx;
    uint64_t (*now)(void *ctx); /* for what egress tells, microseconds as everywhere; NULL: uv_hrtime, CLOCK_MONOTONIC */
    struct tn_rng rng;          /* keys the table of held SYNs; fill NULL: the kernel's */
};

struct tn_forward *tn_forward_new(const struct tn_forward_config *config);
/* Resets all flows. Before the stack and the egress are freed, and not from a callback of either. */
void tn_forward_free(struct tn_forward *f);
/* The stack whose hooks below are wired to this forwarder (set once, right after tn_stack_new). */
void tn_forward_set_stack(struct tn_forward *f, struct tn_stack *st);
/* Off: everything foreign is refused, flows under way are reset. On (an exit node, or a subnet router, or both): the egress
 * decides. */
void tn_forward_set_enabled(struct tn_forward *f, bool on, uint64_t now_us);

/* The stack's foreign_* hooks. */
enum { TN_FORWARD_DNS_PORT = 53 };
enum tn_syn_verdict tn_forward_syn(void *forward, const struct tn_syn *syn, uint64_t now_us);
bool tn_forward_tcp(void *forward, const struct tn_addrport *src, const struct tn_addrport *dst, bool rst, uint64_t now_us);
void tn_forward_udp(void *forward, const struct tn_addrport *src, const struct tn_addrport *dst, const uint8_t *packet,
                    size_t len, const uint8_t *payload, size_t payload_len, uint64_t now_us);
void tn_forward_other(void *forward, uint8_t ipproto, const uint8_t *packet, size_t len, uint64_t now_us);

/* A packet that the filter kept out because its destination is none that an exit reaches, from a peer that may use the exit:
 * refused like any other, never dialed, whatever the guard would say. Nothing while we are no exit node. */
void tn_forward_refuse(struct tn_forward *f, const uint8_t *packet, size_t len, uint64_t now_us);

/* Resets the flows whose destination has no place here any more; subnet: it is on the way of a subnet. gone must not call back. */
void tn_forward_drop_gone(struct tn_forward *f, bool (*gone)(void *ctx, const struct tn_ip *dst, bool subnet), void *ctx,
                          uint64_t now_us);
void tn_forward_peer_gone(struct tn_forward *f, uint64_t peer, uint64_t now_us); /* reset its flows */
void tn_forward_timeout(struct tn_forward *f, uint64_t now_us);
uint64_t tn_forward_next_deadline(const struct tn_forward *f);

struct tn_forward_stats {
    unsigned flows, held; /* established; SYNs whose dial is under way */
    unsigned udp_flows;   /* pings too */
    uint64_t opened, refused, udp_refused, udp_evicted, icmp_refused, canceled;
};
void tn_forward_stats(const struct tn_forward *f, struct tn_forward_stats *out);

#endif
