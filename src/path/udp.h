/* The node's UDP sockets on Linux: bind, receive and send in batches. Descriptors are non-blocking and close-on-exec;
 * the loop polls them and calls tn_udp_receive when readable, unless it lets threads read ahead of it, and tn_udp_flush before
 * it sleeps.
 *
 * A run is a buffer of datagrams of `segment` bytes each, one after the other, the last maybe shorter, all from or to
 * one address: what UDP_GRO gives and UDP_SEGMENT takes. Kernels and devices without them get and give the same runs
 * through recvmmsg and sendmmsg. */
#ifndef TN_PATH_UDP_H
#define TN_PATH_UDP_H

#include "crypto/aead.h"
#include "util/ip.h"
#include "util/workpool.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tn_udp;

/* port 0: any. Binds IPv4 and (where the system has it) IPv6 to the same port if it can. */
int tn_udp_open(uint16_t port, struct tn_udp **out);
void tn_udp_close(struct tn_udp *u);
/* failed: the system said that nothing can be sent there (a negative errno; not when it is only short of room). Called from
 * the sending functions, about what they or the workers found. */
void tn_udp_on_failed(struct tn_udp *u, void (*failed)(void *ctx, const struct tn_addrport *to, int err), void *ctx);
int tn_udp_fd4(const struct tn_udp *u);
int tn_udp_fd6(const struct tn_udp *u); /* -1: none */
uint16_t tn_udp_port4(const struct tn_udp *u);
uint16_t tn_udp_port6(const struct tn_udp *u);

/* Reads what is there, until at least budget datagrams have come; returns their number. A run is writable and dead on
 * return. */
typedef void tn_udp_each(void *ctx, const struct tn_addrport *from, uint8_t *run, size_t len, size_t segment);
int tn_udp_receive(struct tn_udp *u, int fd, int budget, tn_udp_each *each, void *ctx, uint64_t now_us);
/* How long the longest run was since this was called last. */
size_t tn_udp_longest(struct tn_udp *u);

/* Threads that read instead of the loop, and work on what they have read before the loop gets it. */
struct tn_udp_ahead_config {
    size_t threads;            /* at most; they start as they are needed */
    void *(*make)(void *ctx);  /* a thread's state: made and unmade on the loop. NULL: no memory */
    void (*unmake)(void *local);
    void (*rest)(void *local); /* on the thread: before it stops working for a while */
    /* On a thread: a run that came, of TN_UDP_AHEAD_LONG bytes or more; it is writable. slot: which of TN_UDP_AHEAD_SLOTS places
     * it has until tn_udp_receive has handed it over, which sees what was written here. */
    void (*work)(void *ctx, void *local, unsigned slot, uint8_t *run, size_t len, size_t segment);
    void (*wake)(void *ctx); /* on a thread: tn_udp_receive has something to hand over */
    void *ctx;
};
enum { TN_UDP_AHEAD_SLOTS = 32, TN_UDP_AHEAD_LONG = 8 * 1024 };
/* From now on they read, and tn_udp_receive, for whichever descriptor, hands over what they have read, in order. The config is
 * that of the first call. A negative code: nothing has changed. */
int tn_udp_ahead(struct tn_udp *u, const struct tn_udp_ahead_config *config);
/* They read no more. Until tn_udp_is_ahead is false tn_udp_receive hands over what they have read, of which wake tells only
 * what is not ready yet. */
void tn_udp_ahead_stop(struct tn_udp *u);
bool tn_udp_is_ahead(const struct tn_udp *u);
int tn_udp_ahead_slot(const struct tn_udp *u); /* within each: the run's; -1: it is a short one, or the loop read it */

/* Queues a datagram (copied): it leaves with the next tn_udp_flush, in the order queued. */
void tn_udp_send(struct tn_udp *u, const struct tn_addrport *to, const uint8_t *datagram, size_t len);
/* A run, at most TN_UDP_RUN_MAX bytes, behind what is queued, at once and without a copy. segment > 0. */
enum { TN_UDP_RUN_MAX = 65507 };
void tn_udp_send_run(struct tn_udp *u, const struct tn_addrport *to, const uint8_t *run, size_t len, size_t segment);
void tn_udp_flush(struct tn_udp *u);

/* From now on long trains are sealed and sent by the pool's workers, an address always by the same, so that nothing overtakes.
 * wake (any thread) is called when tn_udp_flush has something to tell failed. The pool is the caller's and outlives u; its
 * work's local is a struct tn_aead_engine. Once; before that, and on error, everything happens in the calls. */
int tn_udp_set_workers(struct tn_udp *u, struct tn_workpool *pool, void (*wake)(void *ctx), void *ctx);
/* Where to make the next train, so that tn_udp_seal_run need not copy it: TN_UDP_TRAIN_BYTES, 64-byte aligned, good until the
 * next call about u. NULL: no workers, or no memory. */
enum { TN_UDP_TRAIN_BYTES = 64 * 1312 };
uint8_t *tn_udp_train_buffer(struct tn_udp *u);
/* Seals and sends on a worker. False: do it yourself. Waits while that worker has too much to do. */
bool tn_udp_seal_run(struct tn_udp *u, const struct tn_addrport *to, const struct tn_aead_run *run, uint64_t now_us);

/* Buffers that traffic has made resident go back to the system some seconds after it ended. */
void tn_udp_timeout(struct tn_udp *u, uint64_t now_us);
uint64_t tn_udp_next_deadline(const struct tn_udp *u); /* TN_NEVER: nothing held */

#endif
