/* DNS for exit clients: the DoH upstream behind the egress policy, and the PeerAPI's /dns-query on top of it.
 *
 * The host's resolver is never asked. Upstream TLS lives here (src/crypto's engine over an egress connection), so
 * that src/egress stays free of it. */
#ifndef TN_DNS_DNS_H
#define TN_DNS_DNS_H

#include "crypto/tls.h"
#include "egress/egress.h"
#include "util/log.h"
#include "util/rng.h"

struct tn_doh; /* one upstream, one kept HTTP/2 connection */

struct tn_doh_config {
    const char *url; /* https://ADDRESS[:port][/path]; the host must be an IP literal; no path means /dns-query */
    struct tn_egress *egress;
    struct tn_tls_ctx *tls;
    const struct tn_log *log;
    struct tn_rng rng;
};

enum { TN_DNS_MAX = 65535, TN_DOH_INFLIGHT_MAX = 1024 };

/* "https://1.1.1.1/dns-query" is the default. The host must be an IP literal: a name would have to be resolved by
 * somebody. TN_E_INVAL otherwise. */
int tn_doh_new(const struct tn_doh_config *config, struct tn_doh **out);
void tn_doh_free(struct tn_doh *d); /* queries under way end without callback */
/* Asks; answer(arg, 0, bytes, len) or answer(arg, err, NULL, 0) exactly once, never before this returns, unless
 * canceled. The query's ID is sent as 0 and restored in the answer. 5 s at most. A negative return is a refusal at
 * once, without callback: TN_E_MALFORMED (not a query), TN_E_LIMIT, TN_E_POLICY (egress is off), what the dial said,
 * TN_E_NOMEM. answer may ask and cancel, but not free the upstream. After each call the next deadline may be nearer
 * than before. */
struct tn_doh_query;
int tn_doh_ask(struct tn_doh *d, const uint8_t *query, size_t len, uint64_t now_us,
               void (*answer)(void *arg, int err, const uint8_t *answer, size_t len), void *arg,
               struct tn_doh_query **out);
void tn_doh_cancel(struct tn_doh_query *q);
void tn_doh_timeout(struct tn_doh *d, uint64_t now_us);
uint64_t tn_doh_next_deadline(const struct tn_doh *d);
/* Gives up the kept connection, as after a change of the proxy: queries under way are asked again over a new one. A
 * change of the egress mode is noticed without this. */
void tn_doh_reset(struct tn_doh *d);
/* Health for status: 0 after an answer, or never asked; else why the latest connection failed, and its text. */
int tn_doh_health(const struct tn_doh *d, const char **text);

/* What PeerAPI does with one /dns-query: checks the message is one plausible query (one question, QR 0, size). */
int tn_dns_check_query(const uint8_t *query, size_t len);
/* Builds an answer without records (SERVFAIL 2, REFUSED 5, ...) for this query; returns its length, or negative. */
long tn_dns_make_error(const uint8_t *query, size_t len, int rcode, uint8_t *out, size_t cap);
/* Is the question's name in DNSConfig.ExitNodeFilteredSet? As in Go, ".example.com" means every name below
 * example.com and "example.com" that name alone. What can't be read counts as filtered. */
bool tn_dns_name_filtered(const uint8_t *query, size_t len, const char *const *set, size_t n);

#endif
