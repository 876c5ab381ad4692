/* The PeerAPI: HTTP between tailnet nodes, on every own tailnet address. Who calls is known from the tunnel (the
 * packet's source address belongs to an authenticated peer), so there are no credentials. Served here: "/" (a
 * greeting) and "/dns-query" (DNS over HTTP for clients that use this node as exit). After Go's
 * ipn/ipnlocal/peerapi.go at 1.102.5. */
#ifndef TN_NODE_PEERAPI_H
#define TN_NODE_PEERAPI_H

#include "node/httpd.h"
#include "util/ip.h"
#include "util/log.h"

enum { TN_PEERAPI_PORT_TRIES = 5 };
/* The port to listen on for this own address: 0x8000 | low bits of CRC-32 of its last three bytes, the first of them
 * plus attempt (0..4). */
uint16_t tn_peerapi_port(const struct tn_ip *own, unsigned attempt);

struct tn_peerapi_peer { /* who calls; copied */
    char user[128];      /* display name, may be empty */
    char name[256];      /* the peer's node name */
    bool same_user;      /* its owner is ours (neither node needs to be untagged), so it may ask for names */
};

struct tn_peerapi_config {
    void *ctx;
    const struct tn_log *log;
    bool (*is_own)(void *ctx, const struct tn_ip *ip); /* one of our tailnet addresses? */
    /* Are we an exit node, and may packets of this source go to the internet: Go asks the filter for TCP to
     * 0.0.0.0:53, or 2000:: for IPv6 (tn_filter_would_accept). */
    bool (*may_reach_internet)(void *ctx, const struct tn_ip *src);
    /* DNSConfig.ExitNodeFilteredSet; *n its length. NULL callback: empty. */
    const char *const *(*filtered)(void *ctx, size_t *n);
    /* As tn_dns_ask, for the peer that owns src: 0 and *handle, then exactly one answer, never before this returns, unless
     * canceled; negative: none. */
    int (*resolve)(void *ctx, const struct tn_ip *src, const uint8_t *query, size_t len, uint64_t now_us,
                   void (*answer)(void *arg, int err, const uint8_t *bytes, size_t len), void *arg, void **handle);
    void (*cancel)(void *ctx, void *handle);
};

struct tn_peerapi_stats {
    uint64_t requests, invalid, dns_queries, dns_denied, dns_filtered, dns_failed;
};

struct tn_peerapi;
int tn_peerapi_new(const struct tn_peerapi_config *config, struct tn_peerapi **out);
void tn_peerapi_free(struct tn_peerapi *api); /* after all its connections */
void tn_peerapi_stats(const struct tn_peerapi *api, struct tn_peerapi_stats *out);

/* One accepted TCP connection. peer NULL (nobody we know): TN_E_ACCES, close it. io gives write, on_close, on_resume
 * and ctx; its other fields are ignored. The connection is driven through tn_peerapi_conn_http with the tn_httpd_
 * calls. */
struct tn_peerapi_conn;
int tn_peerapi_conn_new(struct tn_peerapi *api, const struct tn_ip *remote, const struct tn_peerapi_peer *peer,
                        const struct tn_httpd_config *io, uint64_t now_us, struct tn_peerapi_conn **out);
struct tn_httpd *tn_peerapi_conn_http(struct tn_peerapi_conn *c);
void tn_peerapi_conn_free(struct tn_peerapi_conn *c); /* also cancels its DNS query */

#endif
