/* DNS for exit clients: a resolver that asks upstream through the egress, with a cache, and the checks of messages that
 * the PeerAPI's /dns-query and port 53 (port53.h) share.
 *
 * The host's resolver is never asked. Upstream TLS lives here (src/crypto's engine over an egress connection), so
 * that src/egress stays free of it. */
#ifndef TN_DNS_DNS_H
#define TN_DNS_DNS_H

#include "crypto/tls.h"
#include "egress/egress.h"
#include "util/log.h"
#include "util/rng.h"

enum { TN_DNS_MAX = 65535, TN_DNS_UPSTREAMS_MAX = 4 };

struct tn_dns; /* the resolver */
struct tn_dns_query;

struct tn_dns_config {
    /* One to four upstreams, separated by commas, in the order in which they are preferred. Each is
     *   https://ADDRESS[:port][/path]   DNS over HTTPS; no path means /dns-query
     *   tcp://ADDRESS[:port]            DNS over TCP
     *   udp://ADDRESS[:port]            DNS over UDP where the egress has a way for it, else over TCP
     * always through the egress. */
    const char *upstreams;
    struct tn_egress *egress;
    struct tn_tls_ctx *tls;
    const struct tn_log *log;
    struct tn_rng rng;
    uint64_t (*now)(void *ctx); /* microseconds as everywhere; NULL: CLOCK_MONOTONIC */
    /* Is there a way for this peer's UDP, and for IPv6? Asked for each question; NULL: for both. Without, answers don't lead
     * there (HTTPS and SVCB without HTTP/3, no AAAA). Signed data that the client wants to verify itself (DO) are left alone. */
    void (*reach)(void *ctx, uint64_t peer, bool *udp, bool *ipv6);
    void *ctx;
    uint64_t peer; /* not set by the owner: whose questions an upstream is for (ways.h) */
};

int tn_dns_check_upstreams(const char *upstreams); /* 0 or TN_E_INVAL */
int tn_dns_new(const struct tn_dns_config *config, struct tn_dns **out); /* TN_E_INVAL: the upstreams */
void tn_dns_free(struct tn_dns *d); /* queries under way end without callback */

/* Asks on behalf of a peer. answer(arg, err, bytes, len) exactly once, never before this returns, unless canceled: bytes
 * is a whole DNS message for this client in every case; err 0: somebody's answer, negative: SERVFAIL, and why. limit: the
 * bytes that the client takes (tn_dns_udp_limit, or TN_DNS_MAX); a longer answer has TC set and no records. 5 s at most.
 * A negative return is a refusal at once, without callback: TN_E_MALFORMED (not a query), TN_E_LIMIT (of the peer, or of
 * all), TN_E_POLICY (egress is off), what the dial said, TN_E_NOMEM. answer may ask and cancel, but not free the
 * resolver. After each call the next deadline may be nearer than before. */
int tn_dns_ask(struct tn_dns *d, uint64_t peer, const uint8_t *query, size_t len, size_t limit, uint64_t now_us,
               void (*answer)(void *arg, int err, const uint8_t *answer, size_t len), void *arg, struct tn_dns_query **out);
void tn_dns_cancel(struct tn_dns_query *q);
void tn_dns_timeout(struct tn_dns *d, uint64_t now_us);
uint64_t tn_dns_next_deadline(const struct tn_dns *d);
/* How much of an answer by UDP this query's sender takes: 512, or what its EDNS says, without fragments in a tunnel. */
size_t tn_dns_udp_limit(const uint8_t *query, size_t len);

/* Other upstreams, as tn_dns_new takes them: questions under way end with those they were put to. What was learned is
 * forgotten. TN_E_INVAL, TN_E_NOMEM: nothing has changed. */
int tn_dns_set_upstreams(struct tn_dns *d, const char *upstreams);
/* The proxy has changed: connections and what was learned through it are given up. A change of the egress mode is noticed
 * without this. */
void tn_dns_reset(struct tn_dns *d);
/* The peer's sessions at the proxies are new ones: the same for what is the peer's. */
void tn_dns_reset_peer(struct tn_dns *d, uint64_t peer);
void tn_dns_peer_gone(struct tn_dns *d, uint64_t peer); /* nothing of it is kept */

/* The name by which this peer asked for the address a short while ago, in lower case, if it is the only one; NULL: none.
 * Valid until the next call of any function here. A hint for the proxy, never a permission (names.h). */
const char *tn_dns_name_of(struct tn_dns *d, uint64_t peer, const struct tn_ip *ip, uint64_t now_us);

/* Health for status: 0 when an upstream works or none was asked yet; else why the first one failed, and its text. */
int tn_dns_health(const struct tn_dns *d, const char **text);
struct tn_dns_stats {
    uint64_t queries, cache_hits, joined; /* joined: the same was being asked already */
    uint64_t upstream_queries, failed, timed_out, over_limit;
    uint64_t nxdomain, refused;           /* answers with these codes */
    unsigned in_flight;                   /* queries that wait for an answer now */
    size_t cache_entries, cache_bytes, names;
};
void tn_dns_stats(const struct tn_dns *d, struct tn_dns_stats *out);

/* What PeerAPI does with one /dns-query: checks the message is one plausible query (one question, QR 0, size). */
int tn_dns_check_query(const uint8_t *query, size_t len);
/* Builds an answer without records (SERVFAIL 2, REFUSED 5, ...) for this query; returns its length, or negative. */
long tn_dns_make_error(const uint8_t *query, size_t len, int rcode, uint8_t *out, size_t cap);
/* Is the question's name in DNSConfig.ExitNodeFilteredSet? As in Go, ".example.com" means every name below
 * example.com and "example.com" that name alone. What can't be read counts as filtered. */
bool tn_dns_name_filtered(const uint8_t *query, size_t len, const char *const *set, size_t n);

#endif
