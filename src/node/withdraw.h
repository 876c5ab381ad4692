/* exit_withdraw: while no proxy works, or egress is off, control is told that we are no exit node, so that clients which may choose
 * take another.
 *
 * Flows under way end with it, at the clients, which route nothing to us any more; here nothing is another. A proxy works
 * as long as its breaker says so; with exit_withdraw each is probed whether or not somebody uses the exit. */
#ifndef TN_NODE_WITHDRAW_H
#define TN_NODE_WITHDRAW_H

#include "node/node.h"

int tn_withdraw_new(struct tn_node *n);
void tn_withdraw_free(struct tn_node *n); /* before the egress goes */
void tn_withdraw_update(struct tn_node *n); /* the policy or the setting is another */

#endif
