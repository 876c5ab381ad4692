/* The node's worker threads: how many, and what they work with (util/workpool.h). What they do: path/udp_post.c. */
#ifndef TN_NODE_WORKERS_H
#define TN_NODE_WORKERS_H

struct tn_node;

enum { TN_WORKERS_AUTO = -1 };

/* After the UDP sockets were opened: with workers to have, the sockets get them. */
int tn_workers_new(struct tn_node *n);
void tn_workers_free(struct tn_node *n); /* after the UDP sockets were closed */

#endif
