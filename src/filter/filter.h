/* The packet filter with Go's semantics (wgengine/filter/filter.go), stateful by flow for our own outbound
 * traffic. */
#ifndef TN_FILTER_FILTER_H
#define TN_FILTER_FILTER_H

#include "util/ip.h"
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tn_filter;

enum tn_verdict { TN_DROP, TN_ACCEPT };

/* Why a packet was dropped, for counters and for the TSMP reject ('A' acl, 'S' shields). */
enum tn_filter_reason {
    TN_FILTER_OK, TN_FILTER_MALFORMED, TN_FILTER_MULTICAST, TN_FILTER_NOT_OURS, TN_FILTER_ACL, TN_FILTER_SHIELDS,
    TN_FILTER_FRAGMENT, TN_FILTER_PROTO, TN_FILTER_LINK_LOCAL,
};

struct tn_filter *tn_filter_new(void); /* no rules: nothing new comes in */
void tn_filter_free(struct tn_filter *f);
/* rules: the effective array of tailcfg.FilterRule (NULL or empty: block). On TN_E_MALFORMED / TN_E_TOOBIG the new
 * rules count as empty (fail closed) and the error is returned for the log. Single entries of SrcIPs and DstPorts
 * that can't be read are left out, as in Go, and counted in tn_filter_skipped. Flow state is kept. */
int tn_filter_set_rules(struct tn_filter *f, const json_t *rules);
size_t tn_filter_skipped(const struct tn_filter *f);
size_t tn_filter_rule_count(const struct tn_filter *f);
/* Destinations we accept at all: own addresses, and the prefixes we advertise. For a default route the node passes it
 * here as it is; the filter shrinks it (Go's removeFromDefaultRoute: private, link-local, multicast, tailnet ranges
 * and the given locally attached prefixes are taken out, the host's own public addresses put back). attached: the
 * host's interface addresses with their subnet lengths, host bits kept (203.0.113.5/24): the subnet is taken out, the
 * address put back. On an error (TN_E_TOOBIG, TN_E_NOMEM) the old set stays. */
int tn_filter_set_local(struct tn_filter *f, const struct tn_ip *own, size_t nown, const struct tn_prefix *routes,
                        size_t nroutes, const struct tn_prefix *attached, size_t nattached);
/* Is it one of those destinations? */
bool tn_filter_takes(const struct tn_filter *f, const struct tn_ip *dst);
void tn_filter_set_shields(struct tn_filter *f, bool up);
/* TCP SYNs to this port of an own address bypass the rules (PeerAPI); 0: none. */
void tn_filter_set_peerapi_ports(struct tn_filter *f, uint16_t port4, uint16_t port6);

/* caps: node capabilities of the packet's source peer for "cap:" rules; may be NULL. jailed: the peer may only
 * answer. */
struct tn_filter_peer {
    bool (*has_cap)(void *ctx, const char *cap);
    void *ctx;
    bool jailed;
};
/* A packet that came from a peer. */
enum tn_verdict tn_filter_in(struct tn_filter *f, const uint8_t *packet, size_t len,
                             const struct tn_filter_peer *peer, enum tn_filter_reason *why);
/* A packet we are about to send: records UDP/SCTP flows so that their replies pass. */
void tn_filter_out(struct tn_filter *f, const uint8_t *packet, size_t len);
/* Would a fresh TCP/UDP packet from src to dst:port pass (PeerAPI's "may this peer reach the internet" check)? */
bool tn_filter_would_accept(const struct tn_filter *f, const struct tn_ip *src, const struct tn_ip *dst,
                            uint16_t port, uint8_t ipproto, const struct tn_filter_peer *peer);

#endif
