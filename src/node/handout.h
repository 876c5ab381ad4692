/* A flow handed to the application as a descriptor. */
#ifndef TN_NODE_HANDOUT_H
#define TN_NODE_HANDOUT_H

#include "node/node.h"

/* A socket pair whose first end goes into a bridge with the flow; *app_fd is the application's (blocking, close-on-exec).
 * On failure the flow is untouched. */
int tn_hand_out(struct tn_node *n, struct tn_tcp *tcp, int *app_fd);

#endif
