/* UDP read, and long runs of it opened, on threads beside the loop (node/workers.h says how many). */
#ifndef TN_NODE_OPENERS_H
#define TN_NODE_OPENERS_H

#include "node/node.h"

/* After the workers; does nothing without them. */
int tn_openers_new(struct tn_node *n);
void tn_openers_free(struct tn_node *n); /* after the UDP sockets were closed */

/* Before the loop sleeps, and at the deadline: who reads from now on? */
void tn_openers_watch(struct tn_node *n, uint64_t now_us);
uint64_t tn_openers_next_deadline(const struct tn_node *n);

/* Within a call from tn_udp_receive: a run of transport packets, by whichever thread it was read. */
void tn_openers_input(struct tn_node *n, uint8_t *run, size_t len, size_t segment, const struct tn_wg_from *from, uint64_t now_us);

#endif
