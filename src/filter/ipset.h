/* Sets of IP addresses as sorted, disjoint, inclusive spans per family: sources of a filter rule, and what counts as
 * ours. Unlike prefixes, spans hold any a-b range as it is and can be cut out of each other. */
#ifndef TN_FILTER_IPSET_H
#define TN_FILTER_IPSET_H

#include "util/ip.h"
#include <stdbool.h>
#include <stddef.h>

__extension__ typedef unsigned __int128 tn_u128;

struct tn_span { /* the family is known from where it stands; IPv4 in the low 32 bits */
    tn_u128 lo, hi;
};

struct tn_spans {
    struct tn_span *at;
    size_t n, cap;
    bool sorted; /* sorted, disjoint and not adjacent */
};

struct tn_ipset { /* zero is the empty set */
    struct tn_spans v4, v6;
};

tn_u128 tn_ip_number(const struct tn_ip *ip);
struct tn_span tn_prefix_span(const struct tn_prefix *p); /* bits beyond the length are ignored */
static inline bool tn_span_has(const struct tn_span *s, tn_u128 number) { return s->lo <= number && number <= s->hi; }

void tn_ipset_fini(struct tn_ipset *s);
/* 0 or TN_E_NOMEM. Spans may overlap; after the last add comes tn_ipset_finish, before the first lookup. */
int tn_ipset_add(struct tn_ipset *s, uint8_t family, struct tn_span span);
int tn_ipset_add_prefix(struct tn_ipset *s, const struct tn_prefix *p);
/* Cuts the prefix out of what is in the set now. 0 or TN_E_NOMEM. */
int tn_ipset_remove_prefix(struct tn_ipset *s, const struct tn_prefix *p);
void tn_ipset_finish(struct tn_ipset *s);
bool tn_ipset_has(const struct tn_ipset *s, const struct tn_ip *ip);

#endif
