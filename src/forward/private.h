/* What the units of this room share. */
#ifndef TN_FORWARD_PRIVATE_H
#define TN_FORWARD_PRIVATE_H

#include "egress/dgram.h"
#include "forward/forward.h"
#include "util/heap.h"
#include "util/htable.h"
#include "util/list.h"
#include "util/siphash.h"

/* Flows of datagrams by how long they may idle. */
enum tn_dflow_age { TN_DFLOW_UDP, TN_DFLOW_DNS, TN_DFLOW_ECHO, TN_DFLOW_AGES };

struct tn_forward {
    struct tn_forward_config config;
    struct tn_stack *stack;
    bool enabled;
    struct tn_htable held;   /* of struct tn_held, by 4-tuple */
    struct tn_hashkey key;   /* peers choose 4-tuples */
    struct tn_heap timers;   /* of struct tn_held */
    struct tn_list flows;    /* of struct tn_flow, open */
    struct tn_list opening;  /* of struct tn_flow whose peer has not answered our SYN-ACK yet */
    struct tn_htable dflows; /* of struct tn_dflow, by kind, source and destination */
    struct tn_htable dpeers; /* who has any */
    struct tn_list ages[TN_DFLOW_AGES];
    struct tn_forward_stats stats;
};

/* Which destinations have no place any more. */
struct tn_gone {
    bool (*is)(void *ctx, const struct tn_ip *dst, bool subnet);
    void *ctx;
};

uint64_t tn_forward_now(const struct tn_forward *f);
bool tn_forward_is_subnet(const struct tn_forward *f, const struct tn_addrport *dst); /* none of the exit's business */

/* gate.c: a SYN whose dial is under way. */
struct tn_held {
    struct tn_hnode node;
    struct tn_forward *f;
    struct tn_syn syn; /* the newest copy */
    uint64_t peer, seen_us, gap_us; /* when it was last retransmitted, and how long after the time before */
    struct tn_timer timer;
    struct tn_egress_conn *up;
};
void tn_gate_init(struct tn_forward *f, struct tn_rng rng);
void tn_gate_fini(struct tn_forward *f); /* drops everything held; every peer gets RST */
void tn_gate_timeout(struct tn_forward *f, uint64_t now_us);
void tn_gate_drop_peer(struct tn_forward *f, uint64_t peer, uint64_t now_us);
void tn_gate_drop_gone(struct tn_forward *f, const struct tn_gone *gone, uint64_t now_us);
void tn_gate_drop_all(struct tn_forward *f, uint64_t now_us);

/* flow.c: an accepted SYN with its upstream. Takes up in every case. */
void tn_flow_start(struct tn_forward *f, const struct tn_syn *syn, uint64_t peer, struct tn_egress_conn *up, uint64_t now_us);
void tn_flow_drop_peer(struct tn_forward *f, uint64_t peer, uint64_t now_us);
void tn_flow_drop_gone(struct tn_forward *f, const struct tn_gone *gone, uint64_t now_us);
void tn_flow_drop_all(struct tn_forward *f, uint64_t now_us);

/* dgram.c: UDP and echo flows. False: refused, and the peer is to be told. */
bool tn_dflow_udp(struct tn_forward *f, const struct tn_addrport *src, const struct tn_addrport *dst, const uint8_t *payload,
                  size_t len, uint64_t now_us);
/* message: a whole ICMP or ICMPv6 echo request. */
bool tn_dflow_echo(struct tn_forward *f, const struct tn_ip *src, const struct tn_ip *dst, const uint8_t *message,
                   size_t len, uint64_t now_us);
/* The peer says that nobody listens at src any more. */
void tn_dflow_peer_closed(struct tn_forward *f, const struct tn_addrport *src, const struct tn_addrport *dst);
void tn_dflows_init(struct tn_forward *f);
void tn_dflows_fini(struct tn_forward *f);
void tn_dflows_drop_peer(struct tn_forward *f, uint64_t peer);
void tn_dflows_drop_gone(struct tn_forward *f, const struct tn_gone *gone);
void tn_dflows_drop_all(struct tn_forward *f);
void tn_dflows_timeout(struct tn_forward *f, uint64_t now_us);
uint64_t tn_dflows_next_deadline(const struct tn_forward *f);

#endif
