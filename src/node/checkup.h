/* The egress check (exitcheck.h) that an exit node does by itself: once it is up, after each change of its policy, proxies or own
 * addresses, and again after a minute, doubling up to an hour, as long as the answer is not good. Its last result is in the
 * status, the health and the metrics. PROXY mode only, and not with exit_check off. It decides about no flow; a proxy that can't be reached, or
 * refuses its credentials, is known to be so as after any dial. */
#ifndef TN_NODE_CHECKUP_H
#define TN_NODE_CHECKUP_H

#include "node/node.h"

#include <jansson.h>

int tn_checkup_new(struct tn_node *n);
void tn_checkup_free(struct tn_node *n);
/* What the last result was about is not so any more: one is due soon, or as soon as the node is up. */
void tn_checkup_due(struct tn_node *n);
void tn_checkup_up(struct tn_node *n); /* the node is up (again) */
/* An operator wants to check: ours waits. */
void tn_checkup_yield(struct tn_node *n);
/* A result, whoever asked for it (borrowed, NULL: none). */
void tn_checkup_took(struct tn_node *n, json_t *result);
/* The last one with its time ("At", RFC 3339) beside what exitcheck.h has. Borrowed; NULL: none, or none any more. */
json_t *tn_checkup_last(const struct tn_node *n);
/* Appends a line for each proxy that it went wrong by. */
void tn_checkup_health(const struct tn_node *n, json_t *lines);

#endif
