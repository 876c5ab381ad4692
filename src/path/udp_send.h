/* Sending to the kernel, private to udp.c and udp_post.c: what a run of datagrams becomes, and what is done when that fails.
 * May be called by several threads at once; the caller sees to the order. */
#ifndef TN_PATH_UDP_SEND_H
#define TN_PATH_UDP_SEND_H

#include "util/ip.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TN_UDP_SEGMENTS_MAX = 64, /* of one message; what kernels before 6.9 take */
    TN_UDP_RUNS_MAX = 64,     /* messages of one sendmmsg */
    TN_UDP_FAILURES_MAX = 8,  /* addresses told of at a time: the others will fail again */
};

/* Datagrams of segment bytes for one address, the last maybe shorter, at this place of somebody's bytes. */
struct tn_udp_run {
    struct tn_addrport to;
    uint32_t at, len;
    uint16_t segment, count;
    bool closed; /* its last datagram is a short one */
};

/* Where nothing can be sent, until the loop asks. */
struct tn_udp_failures {
    pthread_mutex_t mu;
    atomic_bool any;
    unsigned n;
    struct {
        struct tn_addrport to;
        int err; /* negative */
    } list[TN_UDP_FAILURES_MAX];
};

struct tn_udp_sender {
    int fd4, fd6; /* -1: none */
    atomic_bool gso;
    struct tn_udp_failures failures;
};

void tn_udp_sender_init(struct tn_udp_sender *s);
void tn_udp_sender_fini(struct tn_udp_sender *s);
/* Runs that each fit one message, all of one family; at most TN_UDP_RUNS_MAX. */
void tn_udp_send_runs(struct tn_udp_sender *s, const uint8_t *bytes, const struct tn_udp_run *runs, unsigned n);
/* One run of any length. */
void tn_udp_send_long(struct tn_udp_sender *s, const struct tn_addrport *to, const uint8_t *run, size_t len, size_t segment);
/* Takes the failures noted so far; returns their number. */
unsigned tn_udp_failures_take(struct tn_udp_failures *f, struct tn_addrport to[TN_UDP_FAILURES_MAX], int err[TN_UDP_FAILURES_MAX]);

#endif
