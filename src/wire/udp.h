/* UDP headers (RFC 768). */
#ifndef TN_WIRE_UDP_H
#define TN_WIRE_UDP_H

#include "util/cursor.h"
#include "util/err.h"
#include <stddef.h>
#include <stdint.h>

enum { TN_UDP_HDR = 8 };

struct tn_udp_hdr {
    uint16_t sport, dport;
    const uint8_t *payload;
    size_t len; /* of the payload by the UDP length field; bytes beyond it are padding */
};

/* l4: transport header and payload of a whole datagram whose checksum was verified. 0 or TN_E_MALFORMED. */
static inline int tn_udp_hdr_parse(const uint8_t *l4, size_t len, struct tn_udp_hdr *out)
{
    if (len < TN_UDP_HDR) return TN_E_MALFORMED;
    size_t total = tn_get_be16(l4 + 4);
    if (total < TN_UDP_HDR || total > len) return TN_E_MALFORMED;
    *out = (struct tn_udp_hdr){tn_get_be16(l4), tn_get_be16(l4 + 2), l4 + TN_UDP_HDR, total - TN_UDP_HDR};
    return 0;
}
/* Checksum zero; the caller fills it over pseudo header, header and payload (0 becomes 0xffff). */
static inline void tn_udp_hdr_put(uint8_t out[TN_UDP_HDR], uint16_t sport, uint16_t dport, size_t payload_len)
{
    tn_put_be16(out, sport);
    tn_put_be16(out + 2, dport);
    tn_put_be16(out + 4, (uint16_t)(TN_UDP_HDR + payload_len));
    tn_put_be16(out + 6, 0);
}

#endif
