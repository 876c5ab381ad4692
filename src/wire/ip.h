/* IPv4 and IPv6 packets: one gate that checks lengths and finds the transport header, and the Internet checksum.
 * After tn_ippkt_parse succeeded, src/dst/proto/l4/l4_len may be trusted to lie inside the packet. RFC 791, 8200. */
#ifndef TN_WIRE_IP_H
#define TN_WIRE_IP_H

#include "util/ip.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum tn_ipproto {
    TN_IPPROTO_ICMP = 1, TN_IPPROTO_TCP = 6, TN_IPPROTO_UDP = 17, TN_IPPROTO_ICMP6 = 58, TN_IPPROTO_TSMP = 99,
    TN_IPPROTO_SCTP = 132,
};

struct tn_ippkt {
    struct tn_ip src, dst;
    uint8_t proto;       /* after IPv6 extension headers; for a later fragment of the fragment header's next header */
    uint8_t ttl, tos;
    bool more_frags;
    uint16_t frag_off;   /* bytes; non-zero: a later fragment, l4 points at its piece */
    uint32_t frag_id;
    bool has_frag;       /* IPv4: more_frags or frag_off; IPv6: a fragment header is there */
    const uint8_t *l4;   /* transport header (or fragment piece) */
    size_t l4_len;       /* bytes from l4 to the end of the IP packet, without link padding */
    size_t total_len;    /* of the IP packet; bytes beyond are padding */
    size_t hdr_len;      /* l4 - start */
};

/* 0, or TN_E_MALFORMED: too short, wrong version, bad lengths, IPv4 header checksum wrong, jumbograms, more than 8 extension
 * headers, an ESP header. Source-routed IPv4 options and IPv6 routing headers are malformed here: nobody needs them. */
int tn_ippkt_parse(const uint8_t *packet, size_t len, struct tn_ippkt *out);
/* Only the length by the IP header, for trimming padded plaintext; TN_E_MALFORMED when it does not fit in len. */
long tn_ippkt_length(const uint8_t *packet, size_t len);

/* One's complement sum, unfolded, to be chained (every part but the last of even length); fold gives the value for the
 * checksum field. */
uint32_t tn_cksum_add(uint32_t sum, const void *bytes, size_t len);
static inline uint16_t tn_cksum_fold(uint32_t sum)
{
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}
uint32_t tn_cksum_pseudo(const struct tn_ip *src, const struct tn_ip *dst, uint8_t proto, uint32_t l4_len);
/* Is the TCP/UDP/ICMP checksum of an unfragmented packet right (UDP over IPv4 with 0: yes)? Other protocols: true. */
bool tn_ippkt_cksum_ok(const struct tn_ippkt *p);

/* Writes an IPv4 (20 bytes, checksum filled, DF) or IPv6 (40) header for a payload of l4_len at out; returns its length. */
size_t tn_ip_header_put(uint8_t *out, const struct tn_ip *src, const struct tn_ip *dst, uint8_t proto, size_t l4_len,
                        uint8_t ttl, uint16_t id);

#endif
