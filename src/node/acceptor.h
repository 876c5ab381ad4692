/* Connections that come to a listening socket of the host.
 *
 * What can't be taken now (no descriptor, no memory) stays in the kernel's queue and is looked at again after a pause: libuv's own
 * accept would drop it, and turns in a circle where even that fails. */
#ifndef TN_NODE_ACCEPTOR_H
#define TN_NODE_ACCEPTOR_H

#include <stdbool.h>
#include <uv.h>

struct tn_acceptor {
    uv_poll_t poll;
    uv_timer_t again;
    int fd, handles;
    /* Takes a connection (a non-blocking descriptor, its own from now on). False: not now; it is closed. */
    bool (*take)(void *arg, int fd);
    void (*closed)(void *arg); /* after stop, when libuv has let go of it */
    void *arg;
};

/* Takes fd, listening and non-blocking, also when it fails (a negative code; closed is not called then). */
int tn_acceptor_start(struct tn_acceptor *a, uv_loop_t *loop, int fd, bool (*take)(void *arg, int fd), void (*closed)(void *arg),
                      void *arg);
void tn_acceptor_stop(struct tn_acceptor *a);

#endif
