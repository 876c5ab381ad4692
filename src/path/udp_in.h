/* What a UDP socket brings, private to udp.c. */
#ifndef TN_PATH_UDP_IN_H
#define TN_PATH_UDP_IN_H

#include "path/udp.h"

struct tn_udp_in;

/* keep: how many buffers its user may have kept at a time. NULL: no memory. */
struct tn_udp_in *tn_udp_in_new(bool gro, size_t keep);
void tn_udp_in_free(struct tn_udp_in *b); /* nothing may be kept any more; NULL is fine */
/* As tn_udp_receive. *large: pages have become resident that are worth giving back. */
int tn_udp_in_receive(struct tn_udp_in *b, int fd, int budget, tn_udp_each *each, void *ctx, bool *large);
uint8_t *tn_udp_in_keep(struct tn_udp_in *b);
void tn_udp_in_give_back(struct tn_udp_in *b, uint8_t *buffer);
bool tn_udp_in_trim(struct tn_udp_in *b); /* false: not now, something is kept */

#endif
