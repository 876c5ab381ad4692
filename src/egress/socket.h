/* Sockets for forwarded traffic. src/egress/socket.c is the only unit of the forwarder that calls socket(2) and
 * connect(2). */
#ifndef TN_EGRESS_SOCKET_H
#define TN_EGRESS_SOCKET_H

#include "egress/egress.h"
#include "util/ip.h"
#include <stdbool.h>
#include <sys/uio.h>

/* Begins a TCP connection: a non-blocking, close-on-exec descriptor that becomes writable when it is decided, or a
 * negative errno. TN_E_MFILE also when only the descriptors kept for the node itself are left. mark: see
 * tn_egress_config. from: NULL: from anywhere. What can't be had is an error, never another way: TN_E_UNSUPPORTED for the
 * mark and for from. -EADDRNOTAVAIL: all local ports are taken, as far as that address goes. */
int tn_socket_connect(const struct tn_addrport *to, uint32_t mark, const struct tn_proxy_bind *from);
int tn_socket_bind(int fd, uint8_t family, const struct tn_proxy_bind *from); /* 0 for NULL */
int tn_socket_mark(int fd, uint32_t mark); /* before it is connected. 0 for mark 0 */
/* Would the host know a way there? Nothing is sent. */
bool tn_socket_has_route(const struct tn_addrport *to, uint32_t mark, const struct tn_proxy_bind *from);
/* Does the connection stand? TN_E_AGAIN: not decided yet; else why it never will. */
int tn_socket_connected(int fd);
/* The outcome of the connect, or what broke the connection since: 0 or a negative errno. Reading it clears it. */
int tn_socket_error(int fd);
/* Bytes, 0 at the end of the stream, TN_E_AGAIN, TN_E_RESET (EPIPE too: see the source) or another negative errno. */
long tn_socket_readv(int fd, const struct iovec *iov, int n);
long tn_socket_writev(int fd, const struct iovec *iov, int n);
int tn_socket_peer(int fd, struct tn_addrport *out); /* whom it is connected to */
int tn_socket_shutdown(int fd);
void tn_socket_close(int fd, bool reset); /* reset: RST instead of FIN */
/* How many descriptors forwarded flows may use: the soft limit less those kept for the node itself. */
unsigned tn_socket_room(void);

#endif
