/* Figures in Prometheus' text format: counters and gauges of the exit, per proxy and per peer. No destinations. */
#ifndef TN_NODE_METRICS_H
#define TN_NODE_METRICS_H

#include "node/node.h"
#include "util/buf.h"

int tn_metrics_write(struct tn_node *n, struct tn_buf *out); /* 0, or what tn_buf_append said */

#endif
