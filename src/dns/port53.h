/* Port 53 of exit clients: questions to any foreign address's port 53, by UDP and TCP, are answered here by the resolver, as
 * if by the server that was asked. None of them leaves, whatever the address: clients with a resolver set by hand, or one
 * of a network they came from (192.168.1.1), get answers from behind the proxy, and nobody gets to port 53 itself. */
#ifndef TN_DNS_PORT53_H
#define TN_DNS_PORT53_H

#include "dns/dns.h"
#include "stack/stack.h"

struct tn_port53;

struct tn_port53_config {
    struct tn_dns *dns;     /* borrowed, as the stack */
    struct tn_stack *stack;
    const struct tn_log *log;
    /* DNSConfig.ExitNodeFilteredSet; *n its length. NULL: empty. */
    const char *const *(*filtered)(void *ctx, size_t *n);
    uint64_t (*now)(void *ctx); /* microseconds as everywhere; NULL: CLOCK_MONOTONIC */
    void *ctx;
};

int tn_port53_new(const struct tn_port53_config *config, struct tn_port53 **out);
void tn_port53_free(struct tn_port53 *p); /* before the stack and the resolver; connections are reset */

/* A datagram, a SYN of this peer. The SYN is accepted at once, or refused. */
void tn_port53_udp(struct tn_port53 *p, uint64_t peer, const struct tn_addrport *src, const struct tn_addrport *dst,
                   const uint8_t *bytes, size_t len, uint64_t now_us);
enum tn_syn_verdict tn_port53_syn(struct tn_port53 *p, uint64_t peer, const struct tn_syn *syn, uint64_t now_us);

void tn_port53_peer_gone(struct tn_port53 *p, uint64_t peer, uint64_t now_us);
void tn_port53_drop_all(struct tn_port53 *p, uint64_t now_us); /* exit traffic was switched off */
void tn_port53_timeout(struct tn_port53 *p, uint64_t now_us);
uint64_t tn_port53_next_deadline(const struct tn_port53 *p);

struct tn_port53_stats {
    unsigned conns, in_flight;
    uint64_t udp_queries, tcp_queries, malformed, filtered, truncated, over_limit;
};
void tn_port53_stats(const struct tn_port53 *p, struct tn_port53_stats *out);

#endif
