/* What a UDP socket brings, private to udp.c and udp_ahead.c. */
#ifndef TN_PATH_UDP_IN_H
#define TN_PATH_UDP_IN_H

#include "path/udp.h"

#include <sys/socket.h>

struct tn_udp_in;

struct tn_udp_in *tn_udp_in_new(bool gro); /* NULL: no memory */
void tn_udp_in_free(struct tn_udp_in *b);  /* NULL is fine */
/* As tn_udp_receive. *longest: the length of the longest run, if that is more. */
int tn_udp_in_receive(struct tn_udp_in *b, int fd, int budget, tn_udp_each *each, void *ctx, size_t *longest);
void tn_udp_in_trim(struct tn_udp_in *b);

/* Any thread. Of a message received, with a name and a control buffer of TN_UDP_CONTROL bytes: where it came from, and by which
 * size the kernel cut it. False: it was cut short, or came from no address of ours. */
enum { TN_UDP_CONTROL = CMSG_SPACE(sizeof(int)) };
bool tn_udp_in_parse(struct msghdr *m, size_t len, struct tn_addrport *from, size_t *segment);

#endif
