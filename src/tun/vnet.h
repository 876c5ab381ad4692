/* The virtio-net header (virtio 1.2 section 5.1.6) as a TUN device with IFF_VNET_HDR puts it before each packet:
 * ten bytes in the machine's own byte order. It says which checksum is still to be made, and that a packet of up to
 * 64 KiB stands for many of gso_size bytes of payload each. */
#ifndef TN_TUN_VNET_H
#define TN_TUN_VNET_H

#include <stdint.h>

enum {
    TN_VNET_HDR = 10,
    /* flags */
    TN_VNET_NEEDS_CSUM = 1, TN_VNET_DATA_VALID = 2,
    /* gso_type; UDP is of either family, ECN may be set beside TCP's */
    TN_VNET_GSO_NONE = 0, TN_VNET_GSO_TCP4 = 1, TN_VNET_GSO_TCP6 = 4, TN_VNET_GSO_UDP = 5, TN_VNET_GSO_ECN = 0x80,
    TN_TUN_SUPER_MAX = 65535, /* bytes of a packet as the device gives it, without this header */
    TN_TUN_MTU = 1280,        /* of each packet in the tunnel */
};

/* Where things are: headers without options, fields of the transport header. */
enum { TN_TUN_IP4_HDR = 20, TN_TUN_IP6_HDR = 40, TN_TUN_TCP_FLAGS = 13, TN_TUN_TCP_CSUM = 16, TN_TUN_UDP_CSUM = 6 };

struct tn_vnet_hdr {
    uint8_t flags, gso_type;
    uint16_t hdr_len, gso_size, csum_start, csum_offset;
};
_Static_assert(sizeof(struct tn_vnet_hdr) == TN_VNET_HDR, "the header has no holes");

#endif
