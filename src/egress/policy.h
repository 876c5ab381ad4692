/* The policy in force: a snapshot that is never changed, only replaced. Dials hold the one they began under. */
#ifndef TN_EGRESS_POLICY_H
#define TN_EGRESS_POLICY_H

#include "egress/egress.h"
#include "egress/rule.h"

struct tn_upstream;

struct tn_policy {
    unsigned refs;
    enum tn_egress_mode mode;
    bool rejected; /* OFF because the last setting was not valid */
    struct tn_egress_spec *spec;                           /* owned; NULL while OFF */
    uint64_t *rule_sets;                                   /* per rule: the proxies it allows, a bit each; 0: block */
    struct tn_upstream *upstreams[TN_EGRESS_PROXIES_MAX];  /* parallel to spec->proxies; filled in by egress.c */
};

/* Takes the spec (NULL: not valid). Never fails but for memory (NULL then, and the spec is freed): what is not valid
 * becomes a policy that is OFF and rejected. */
struct tn_policy *tn_policy_new(struct tn_egress_spec *spec);
void tn_policy_free(struct tn_policy *p); /* whatever refs says; the upstreams are the caller's to let go */
/* The proxies this flow may use: 0 when a rule blocks it, or none matches. */
uint64_t tn_policy_candidates(const struct tn_policy *p, const struct tn_rule_subject *s, enum tn_egress_purpose purpose,
                              const struct tn_egress_peers *peers);
/* Is there a destination (ipv6: of IPv6) for which this peer has one of these candidates (a bit each)? PROXY mode. */
bool tn_policy_lets_out(const struct tn_policy *p, uint64_t peer, bool ipv6, uint64_t able, const struct tn_egress_peers *peers);
const char *tn_policy_describe(const struct tn_policy *p, char buf[400]);

#endif
