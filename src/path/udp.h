/* The node's UDP sockets on Linux: bind, receive in batches (recvmmsg), send. Descriptors are non-blocking and
 * close-on-exec; the loop polls them and calls tn_udp_receive when readable. */
#ifndef TN_PATH_UDP_H
#define TN_PATH_UDP_H

#include "util/ip.h"
#include <stddef.h>
#include <stdint.h>

struct tn_udp;

/* port 0: any. Binds IPv4 and (where the system has it) IPv6 to the same port if it can. */
int tn_udp_open(uint16_t port, struct tn_udp **out);
void tn_udp_close(struct tn_udp *u);
int tn_udp_fd4(const struct tn_udp *u);
int tn_udp_fd6(const struct tn_udp *u); /* -1: none */
uint16_t tn_udp_port4(const struct tn_udp *u);
uint16_t tn_udp_port6(const struct tn_udp *u);
/* Reads what is there, at most budget datagrams; returns the number. Datagrams are writable and dead on return. */
int tn_udp_receive(struct tn_udp *u, int fd, int budget,
                   void (*each)(void *ctx, const struct tn_addrport *from, uint8_t *datagram, size_t len), void *ctx);
void tn_udp_send(struct tn_udp *u, const struct tn_addrport *to, const uint8_t *datagram, size_t len);

#endif
