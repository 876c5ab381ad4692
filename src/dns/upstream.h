/* Where questions are asked: one of the forms of exit_dns, all through the egress.
 *
 *   https://ADDRESS[:port][/path]   DNS over HTTPS, one kept HTTP/2 connection (doh.h)
 *   tcp://ADDRESS[:port]            DNS over TCP, one kept connection, pipelined (tcp53.c)
 *   udp://ADDRESS[:port]            DNS over UDP where the egress has a way for it, else as tcp:// (udp53.c)
 *
 * The host is an address: a name would have to be resolved by somebody. */
#ifndef TN_DNS_UPSTREAM_H
#define TN_DNS_UPSTREAM_H

#include "dns/dns.h"

typedef void tn_dns_answer_fn(void *arg, int err, const uint8_t *answer, size_t len);

struct tn_dns_upstream {
    const struct tn_dns_upstream_ops *ops;
};
struct tn_dns_upstream_ops {
    /* For a peer, as tn_doh_ask: answer exactly once and never before this returns, unless canceled; negative: no callback. */
    int (*ask)(struct tn_dns_upstream *u, uint64_t peer, const uint8_t *query, size_t len, uint64_t now_us, tn_dns_answer_fn *answer,
               void *arg, void **handle);
    void (*cancel)(struct tn_dns_upstream *u, void *handle);
    void (*timeout)(struct tn_dns_upstream *u, uint64_t now_us);
    uint64_t (*next_deadline)(const struct tn_dns_upstream *u);
    void (*reset)(struct tn_dns_upstream *u); /* gives up the kept connection */
    int (*health)(const struct tn_dns_upstream *u, const char **text);
    void (*free)(struct tn_dns_upstream *u);
};

/* One upstream by its URL (len bytes of it). TN_E_INVAL: not one of the forms above. */
int tn_dns_upstream_new(const struct tn_dns_config *config, const char *url, size_t len, struct tn_dns_upstream **out);

/* urls.c: one URL taken apart; copy gets it as a string. And how long the next one of a list is, behind its comma. */
enum { TN_DNS_URL_MAX = 700 };
enum tn_dns_form { TN_DNS_FORM_HTTPS, TN_DNS_FORM_TCP, TN_DNS_FORM_UDP };
int tn_dns_url_read(const char *url, size_t len, char copy[TN_DNS_URL_MAX], enum tn_dns_form *form, struct tn_addrport *addr);
size_t tn_dns_url_next(const char **at);

/* What a failed dial means to the resolver. */
int tn_dns_dial_error(enum tn_egress_fail why);

/* tcp53.c, udp53.c */
int tn_dns_tcp_new(const struct tn_dns_config *config, const struct tn_addrport *addr, struct tn_dns_upstream **out);
int tn_dns_udp_new(const struct tn_dns_config *config, const struct tn_addrport *addr, struct tn_dns_upstream **out);

#endif
