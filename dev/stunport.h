/* The STUN server: one UDP socket, one answer per well-formed request of a tailnet client (wire/stun.h). */
#ifndef TN_DEV_STUNPORT_H
#define TN_DEV_STUNPORT_H

#include "util/ip.h"
#include <stdbool.h>
#include <uv.h>

struct tn_dev_stunport {
    uv_udp_t udp;
    bool open;
    void (*closed)(void *arg);
    void *arg;
    uint64_t answered, ignored;
    char buf[2048]; /* requests have 40 bytes; longer datagrams are cut and refused */
};

/* closed and arg are set by the caller. 0 or a code; also then it has to be closed if it is open. */
int tn_dev_stunport_open(uv_loop_t *loop, const struct tn_addrport *at, struct tn_dev_stunport *p,
                         struct tn_addrport *bound);
void tn_dev_stunport_close(struct tn_dev_stunport *p);

#endif
