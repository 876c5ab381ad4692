/* TCP connections of the application into the tailnet: dial and listen, on the loop side and for waiting threads. */
#ifndef TN_NODE_DIAL_H
#define TN_NODE_DIAL_H

#include "node/node.h"

/* "host:port" or "[ip6]:port" split; host of at least 256 bytes. TN_E_INVAL. */
int tn_hostport_split(const char *text, char host[256], uint16_t *port);

/* On the loop: opens a flow to a tailnet address, or through the exit node in use. TN_E_HOSTUNREACH when no peer carries the
 * address, TN_E_NOTCONN before we have one of that family. */
int tn_node_connect(struct tn_node *n, const struct tn_addrport *to, const struct tn_tcp_events *ev, void *arg,
                    struct tn_tcp **out);

/* From any other thread. */
int tn_node_dial_wait(struct tn_node *n, const char *address, int timeout_ms, int *fd);

struct tailnet_listener;
int tn_listener_new(struct tn_node *n, const char *address, struct tailnet_listener **out);

#endif
