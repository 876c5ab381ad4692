/* Rules: which proxies a flow may use, by where it goes and who asks. */
#ifndef TN_EGRESS_RULE_H
#define TN_EGRESS_RULE_H

#include "egress/egress.h"

struct tn_rule_subject {
    const struct tn_addrport *dst;
    const char *name; /* NULL: unknown */
    uint64_t peer;    /* 0: nobody; matches no source */
};

/* Every kind of condition that a rule has must be met by one of its values. peer_is may be NULL: nobody is anything. */
bool tn_rule_matches(const struct tn_egress_rule *r, const struct tn_rule_subject *s,
                     bool (*peer_is)(void *ctx, uint64_t peer, enum tn_egress_source kind, const char *value), void *ctx);
/* Does it speak of this peer (0: nobody)? */
bool tn_rule_is_for(const struct tn_egress_rule *r, uint64_t peer,
                    bool (*peer_is)(void *ctx, uint64_t peer, enum tn_egress_source kind, const char *value), void *ctx);

#endif
