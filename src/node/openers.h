/* Opening of long runs on the worker threads (node/workers.h). */
#ifndef TN_NODE_OPENERS_H
#define TN_NODE_OPENERS_H

#include "node/node.h"

/* How many runs may be under way. */
size_t tn_openers_room(size_t workers);
/* After the workers; does nothing without them. */
int tn_openers_new(struct tn_node *n);
void tn_openers_free(struct tn_node *n); /* what is under way is lost */

/* Transport packets of one session (tn_wg_session_part) that came by UDP: true when a worker gets them; they come back by
 * tn_openers_collect. What the same peer sends meanwhile goes the same way, so all of it must be offered. May deliver earlier
 * ones. */
bool tn_openers_take(struct tn_node *n, uint8_t *run, size_t len, size_t segment, uint64_t now_us);
/* Any run that came by UDP: by a worker, or at once. */
void tn_openers_input(struct tn_node *n, uint8_t *run, size_t len, size_t segment, const struct tn_wg_from *from, uint64_t now_us);
/* Takes in what has been opened. On every wake-up of the loop. */
void tn_openers_collect(struct tn_node *n, uint64_t now_us);

#endif
