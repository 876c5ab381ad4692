/* Joins consecutive packets that arrived from peers into super-packets for one write to the TUN, so that the kernel's
 * stack walks its receive path once for 64 KiB. Order within a flow is kept; a few flows are collected at a time. */
#ifndef TN_TUN_MERGE_H
#define TN_TUN_MERGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct tn_tun_merge;

struct tn_tun_merge_config {
    /* One write to the device: the virtio-net header first, in one or two pieces. */
    void (*write)(void *ctx, const struct iovec *iov, int n);
    void *ctx;
    bool udp; /* the device takes UDP super-packets (USO) */
};

struct tn_tun_merge *tn_tun_merge_new(const struct tn_tun_merge_config *config); /* NULL: no memory */
void tn_tun_merge_free(struct tn_tun_merge *m);
/* A packet of exactly its IP length. Copied, or written at once when it can't be joined to anything. */
void tn_tun_merge_add(struct tn_tun_merge *m, const uint8_t *packet, size_t len);
/* Writes what was collected: at the end of a batch. */
void tn_tun_merge_flush(struct tn_tun_merge *m);
bool tn_tun_merge_pending(const struct tn_tun_merge *m);

#endif
