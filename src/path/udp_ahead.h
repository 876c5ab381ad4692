/* Reading ahead of the loop, private to udp.c: threads take what the sockets bring, work on it, and the loop gets it in the
 * order it was read. */
#ifndef TN_PATH_UDP_AHEAD_H
#define TN_PATH_UDP_AHEAD_H

#include "path/udp.h"

struct tn_udp_ahead;

/* Reads nothing yet. config is copied. 0 or TN_E_NOMEM, or what the system said. */
int tn_udp_ahead_new(const struct tn_udp_ahead_config *config, int fd4, int fd6, struct tn_udp_ahead **out);
void tn_udp_ahead_free(struct tn_udp_ahead *a); /* what is not taken yet is lost; NULL is fine */

/* Between these two nobody else may read the sockets. 0, or a code: nothing has begun. */
int tn_udp_ahead_begin(struct tn_udp_ahead *a);
void tn_udp_ahead_end(struct tn_udp_ahead *a); /* when it returns, nobody reads; what has been read is still to be taken */
/* False: somebody may be reading, or something read is not taken: who reads the sockets now would overtake it. */
bool tn_udp_ahead_over(const struct tn_udp_ahead *a);
/* As tn_udp_receive. What is left for want of budget is told of by no further wake. */
int tn_udp_ahead_take(struct tn_udp_ahead *a, int budget, tn_udp_each *each, void *ctx, size_t *longest);
int tn_udp_ahead_at(const struct tn_udp_ahead *a); /* within each: which slot; otherwise -1 */
void tn_udp_ahead_trim(struct tn_udp_ahead *a);    /* when it is over: gives back the memory of the slots */

#endif
