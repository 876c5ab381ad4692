/* Bulk transfer on a virtual clock: some senders, each a stack of its own, share one link to one receiver. */
#ifndef TN_TESTS_BULK_H
#define TN_TESTS_BULK_H

#include "link.h"
#include "stack/stack.h"

enum { BULK_SENDERS = 4 };

struct bulk_sender {
    enum tn_congestion cc;
    unsigned flows; /* 0: there is no such sender */
    double start_s;
    uint64_t extra_us; /* its ACKs take so much longer: a longer round trip than the others' */
    uint64_t pause_every_bytes, pause_us; /* an application that stops now and then; 0: never */
};

struct bulk_change {
    double at_s; /* 0: none */
    uint64_t rate_bps, delay_us;
};

struct bulk_config {
    struct link_config link; /* of the data; ACKs come back over one without losses */
    struct bulk_change change;
    double seconds, from_s; /* what arrives before from_s is not counted */
    int mtu;
    size_t budget;
    uint64_t tick_us; /* timers come no finer than this; 0: exactly */
    struct bulk_sender sender[BULK_SENDERS];
};

struct bulk_result {
    double mbit[BULK_SENDERS];
    double queue_ms;      /* mean wait in the queue, over time from from_s on */
    uint64_t resent[BULK_SENDERS], sent[BULK_SENDERS]; /* bytes */
    size_t memory[BULK_SENDERS + 1]; /* most bytes of chunks held; the last is the receiver */
};

struct bulk_result bulk_run(const struct bulk_config *c);

#endif
