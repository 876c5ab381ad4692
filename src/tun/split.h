/* Cuts what the TUN gives (a packet, or a super-packet of TCP or UDP segments) into the packets that travel. */
#ifndef TN_TUN_SPLIT_H
#define TN_TUN_SPLIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tn_tun_split {
    const uint8_t *packet;
    size_t len, l4, hdr_len, gso_size; /* gso_size 0: one packet */
    size_t at;                         /* the next piece's payload, from the start of the payload */
    uint8_t proto;
    bool v4, csum, done;
    uint16_t csum_at;                  /* of a single packet's field, from the start */
    uint16_t index;
    uint32_t pseudo;                   /* the pseudo header's sum but for the length */
};

/* bytes: one read from the device, virtio-net header first; borrowed until the last piece is taken. 0, TN_E_MALFORMED
 * when header and packet contradict each other, TN_E_TOOBIG when a piece would exceed the tunnel's MTU. */
int tn_tun_split_begin(struct tn_tun_split *s, const uint8_t *bytes, size_t len);
/* The next packet, complete with all checksums, written at out (TN_TUN_MTU bytes); its length, 0 at the end. */
size_t tn_tun_split_next(struct tn_tun_split *s, uint8_t *out);

#endif
