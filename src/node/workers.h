/* The node's worker threads: how many, and what they work with. What they do: those of the pool (util/workpool.h) seal and send
 * (path/udp_post.c), as many of their own kind read and open (openers.c, path/udp_ahead.c). */
#ifndef TN_NODE_WORKERS_H
#define TN_NODE_WORKERS_H

#include <stdint.h>

struct tn_node;

enum { TN_WORKERS_AUTO = -1 };

/* After the UDP sockets were opened: with workers to have, the sockets get them. */
int tn_workers_new(struct tn_node *n);
/* What each of them works with: an engine of the cipher. */
void *tn_workers_make(void *ctx);
void tn_workers_rest(void *engine);
void tn_workers_unmake(void *engine);
/* Before the loop sleeps: shall what comes from now on be handed to them? n->hand_over is the answer. */
void tn_workers_watch(struct tn_node *n, uint64_t now_us);
void tn_workers_free(struct tn_node *n); /* after the UDP sockets were closed */

#endif
