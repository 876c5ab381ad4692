/* Accepted TCP connections on libuv, plain or TLS, with bounded output.
 *
 * data and drain come until the connection is closed by either side; then closed, once, from the loop: the place to
 * free what belongs to it. Closing inside a callback is fine: nothing but closed comes after. */
#ifndef TN_DEV_SOCK_H
#define TN_DEV_SOCK_H

#include "dev/timer.h"
#include "util/ip.h"
#include "util/list.h"
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

enum {
    TN_DEV_SOCK_QUEUE_MAX = 8 << 20,   /* written and not yet taken by the kernel; more closes the connection */
    TN_DEV_SOCK_LOW = 256 * 1024,      /* producers pause above this and go on at drain */
    TN_DEV_SOCK_STALL = 10,            /* seconds without the peer taking a byte of what waits for it */
    TN_DEV_SOCKS_MAX = 8192,
};

struct tn_dev_sock;

struct tn_dev_sock_events {
    void (*data)(void *arg, const uint8_t *bytes, size_t len, struct tn_dev_now now);
    void (*drain)(void *arg, struct tn_dev_now now); /* everything written has left */
    void (*closed)(void *arg, struct tn_dev_now now);
};

/* All connections of a server. */
struct tn_dev_socks {
    struct tn_list all;
    size_t count;
    void (*none_left)(void *arg); /* the count fell to zero */
    void *arg;
};

struct tn_dev_listener {
    uv_tcp_t tcp;
    SSL_CTX *tls; /* borrowed; NULL: plain */
    bool open;
    struct tn_dev_socks *socks; /* shared */
    /* A new connection: give it events and an argument with tn_dev_sock_own, or close it. */
    void (*accept)(void *arg, struct tn_dev_sock *s, struct tn_dev_now now);
    void (*closed)(void *arg); /* the listener's handle is gone */
    void *arg;
};

struct tn_dev_now tn_dev_clock(void);

/* tls, socks, accept, closed and arg of l are set by the caller. bound gets the address with its real port. 0 or a
 * code; also then the listener has to be closed if it is open. */
int tn_dev_listen(uv_loop_t *loop, const struct tn_addrport *at, struct tn_dev_listener *l,
                  struct tn_addrport *bound);
void tn_dev_listener_close(struct tn_dev_listener *l); /* once, when open */

/* Closes what has been stuck for TN_DEV_SOCK_STALL. To be called every few seconds while there are connections. */
void tn_dev_socks_sweep(struct tn_dev_socks *socks, struct tn_dev_now now);

void tn_dev_sock_own(struct tn_dev_sock *s, const struct tn_dev_sock_events *events, void *arg);
/* Queues all of it. 0, or the connection is closing. */
int tn_dev_sock_write(struct tn_dev_sock *s, const void *bytes, size_t len);
size_t tn_dev_sock_backlog(const struct tn_dev_sock *s);
void tn_dev_sock_close(struct tn_dev_sock *s);
void tn_dev_sock_finish(struct tn_dev_sock *s); /* reads no more; closes when everything written has left */
bool tn_dev_sock_closing(const struct tn_dev_sock *s); /* closed or finishing: it takes no more writes */

#endif
