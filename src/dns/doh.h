/* One upstream of DNS over HTTPS (RFC 8484) behind the egress. */
#ifndef TN_DNS_DOH_H
#define TN_DNS_DOH_H

#include "dns/dns.h"

struct tn_doh; /* one upstream, one kept HTTP/2 connection */

struct tn_doh_config {
    const char *url; /* https://ADDRESS[:port][/path]; the host must be an IP literal; no path means /dns-query */
    struct tn_egress *egress;
    struct tn_tls_ctx *tls;
    const struct tn_log *log;
    struct tn_rng rng;
    uint64_t peer; /* of dns.h; 0: all peers', who take turns (doh_line.c) */
};

enum { TN_DOH_INFLIGHT_MAX = 4096 }; /* as many as the resolver takes: those that wait have lines to wait in */

/* The host must be an IP literal: a name would have to be resolved by somebody. TN_E_INVAL otherwise. */
int tn_doh_new(const struct tn_doh_config *config, struct tn_doh **out);
void tn_doh_free(struct tn_doh *d); /* queries under way end without callback */
/* Asks for a peer; answer(arg, 0, bytes, len) or answer(arg, err, NULL, 0) exactly once, never before this returns, unless
 * canceled. The query's ID is sent as 0 and restored in the answer. 5 s at most. A negative return is a refusal at
 * once, without callback: TN_E_MALFORMED (not a query), TN_E_LIMIT, TN_E_POLICY (egress is off), what the dial said,
 * TN_E_NOMEM. An answer TN_E_LIMIT: its turn never came, which says nothing of the upstream. answer may ask and cancel, but not free the upstream. After each call the next deadline may be nearer
 * than before. */
struct tn_doh_query;
int tn_doh_ask(struct tn_doh *d, uint64_t peer, const uint8_t *query, size_t len, uint64_t now_us,
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

struct tn_doh_url {
    struct tn_addrport addr;
    char host[TN_IP_STRLEN];          /* for the certificate */
    char authority[TN_ADDRPORT_STRLEN]; /* :authority */
    char path[512];
};
/* "https://ADDRESS[:port][/path][?query]", also with the template ending "{?dns}". 0 or TN_E_INVAL. */
int tn_doh_url_parse(const char *text, struct tn_doh_url *out);

#endif
