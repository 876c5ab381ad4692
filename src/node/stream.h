/* Flows that the application works on directly, on the node's thread. */
#ifndef TN_NODE_STREAM_H
#define TN_NODE_STREAM_H

#include "node/node.h"

void tn_streams_end(struct tn_node *n); /* every handler hears TN_E_CLOSED */

#endif
