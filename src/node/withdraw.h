/* exit_withdraw: while no proxy works, control is told that we are no exit node, so that clients which may choose take another.
 *
 * For themselves nothing changes: flows under way go on, new ones are refused as ever, and nothing leaves otherwise. A proxy works
 * as long as its breaker says so; with exit_withdraw each is probed whether or not somebody uses the exit. */
#ifndef TN_NODE_WITHDRAW_H
#define TN_NODE_WITHDRAW_H

#include "node/node.h"

int tn_withdraw_new(struct tn_node *n);
void tn_withdraw_free(struct tn_node *n); /* before the egress goes */
void tn_withdraw_update(struct tn_node *n); /* the policy or the setting is another */

#endif
