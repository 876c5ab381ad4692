/* Longest-prefix match over IPv4 and IPv6: crypto-key routing (prefix to peer) and the classifier's tables. A
 * value is a non-NULL pointer that the table does not own. Tested against a naive list. */
#ifndef TN_ROUTE_ROUTE_H
#define TN_ROUTE_ROUTE_H

#include "util/ip.h"

struct tn_route_table;

struct tn_route_table *tn_route_new(void);
void tn_route_free(struct tn_route_table *t);
/* Sets the value of exactly this prefix, replacing another. 0, TN_E_NOMEM, or TN_E_INVAL (family, bits, NULL value).
 * Bits beyond the prefix length are ignored, here and below. */
int tn_route_set(struct tn_route_table *t, const struct tn_prefix *p, void *value);
/* Removes this prefix; TN_E_NOENT when it is not there. */
int tn_route_unset(struct tn_route_table *t, const struct tn_prefix *p);
void *tn_route_exact(const struct tn_route_table *t, const struct tn_prefix *p);
/* The value of the longest prefix that holds ip, or NULL; matched (may be NULL) gets that prefix. */
void *tn_route_find(const struct tn_route_table *t, const struct tn_ip *ip, struct tn_prefix *matched);
size_t tn_route_count(const struct tn_route_table *t);

#endif
