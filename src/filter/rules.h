/* tailcfg.FilterRule arrays, compiled for matching. See rules.c for what is accepted. */
#ifndef TN_FILTER_RULES_H
#define TN_FILTER_RULES_H

#include "filter/filter.h"

struct tn_rules;

/* The fresh packet that asks to come in. */
struct tn_rules_query {
    struct tn_ip src, dst;
    uint16_t port; /* of dst; protocols without ports: unused */
    uint8_t proto;
    const struct tn_filter_peer *peer; /* may be NULL */
};

/* NULL, JSON null and an empty array give rules that match nothing. 0, TN_E_MALFORMED, TN_E_TOOBIG, TN_E_NOMEM. */
int tn_rules_compile(const json_t *json, struct tn_rules **out);
void tn_rules_free(struct tn_rules *r);
/* Entries of SrcIPs and DstPorts that could not be read and so match nothing. */
size_t tn_rules_skipped(const struct tn_rules *r);
size_t tn_rules_count(const struct tn_rules *r);

/* Source, protocol, destination and port (TCP, UDP, SCTP). */
bool tn_rules_match(const struct tn_rules *r, const struct tn_rules_query *q);
/* Source and destination alone (ICMP): who may reach any port may ping. */
bool tn_rules_match_ips(const struct tn_rules *r, const struct tn_rules_query *q);
/* Protocols without ports: a rule that lists the protocol and all ports. */
bool tn_rules_match_portless(const struct tn_rules *r, const struct tn_rules_query *q);

#endif
