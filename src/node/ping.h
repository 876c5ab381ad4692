/* Pings of every kind: TSMP answered and asked, disco and ICMP asked, for the LocalAPI and for control's PingRequest. */
#ifndef TN_NODE_PING_H
#define TN_NODE_PING_H

#include "node/node.h"
#include "wire/ip.h"

enum tn_ping_kind { TN_PING_DISCO, TN_PING_TSMP, TN_PING_ICMP };

struct tn_ping_answer {
    int err;
    uint64_t latency_us;
    char endpoint[TN_ADDRPORT_STRLEN]; /* direct path, "" otherwise */
    int derp_region;
    char derp_code[32];
    uint16_t peerapi_port; /* TSMP only */
};

int tn_pings_new(struct tn_node *n);
void tn_pings_free(struct tn_node *n); /* answers what is pending with TN_E_CANCELED */
/* Asks; done is called once, within 5 s, never before this returned. ip: the peer's tailnet address. */
int tn_pings_ask(struct tn_node *n, enum tn_ping_kind kind, const struct tn_ip *ip, size_t size,
                 void (*done)(void *arg, const struct tn_ping_answer *a), void *arg);
void tn_pings_for_control(struct tn_node *n, const char *types, const struct tn_ip *ip, uint64_t token);
/* A TSMP packet for us, from this peer. */
void tn_pings_tsmp(struct tn_node *n, struct tn_npeer *peer, const struct tn_ippkt *k, uint64_t now_us);
void tn_pings_peer_gone(struct tn_node *n, struct tn_npeer *peer);
void tn_pings_timeout(struct tn_node *n, uint64_t now_us);
uint64_t tn_pings_next_deadline(const struct tn_node *n);

#endif
