/* The node's worker threads: how many, and what they work with (util/workpool.h). What they do: path/udp_post.c, openers.c. */
#ifndef TN_NODE_WORKERS_H
#define TN_NODE_WORKERS_H

#include <stdint.h>

struct tn_node;

enum { TN_WORKERS_AUTO = -1 };

/* After the UDP sockets were opened: with workers to have, the sockets get them. */
int tn_workers_new(struct tn_node *n);
/* Before the loop sleeps: shall what comes from now on be handed to them? n->hand_over is the answer. */
void tn_workers_watch(struct tn_node *n, uint64_t now_us);
void tn_workers_free(struct tn_node *n); /* after the UDP sockets were closed */

#endif
