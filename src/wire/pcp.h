/* PCP MAP for UDP and IPv4 (RFC 6887 sections 7, 11), and what a gateway that only knows NAT-PMP answers to it. */
#ifndef TN_WIRE_PCP_H
#define TN_WIRE_PCP_H

#include "util/ip.h"

enum {
    TN_PCP_PORT = 5351, TN_PCP_MAP_LEN = 60, TN_PCP_NONCE_LEN = 12,
    TN_PCP_MESSAGE_MAX = 1100, /* section 7 */
};

struct tn_pcp_map {
    uint8_t nonce[TN_PCP_NONCE_LEN]; /* the same for a renewal and the end of a mapping: it proves whose it is */
    uint32_t lifetime_s;             /* 0 ends the mapping */
    struct tn_ip client;             /* our address as the gateway sees it */
    uint16_t internal_port, external_port; /* external: a wish; 0: any */
    struct tn_ip external_ip;        /* a wish; family 0: any */
};

void tn_pcp_map_put(uint8_t out[TN_PCP_MAP_LEN], const struct tn_pcp_map *m);
/* 0 with the external address, port and lifetime in out; TN_E_AGAIN when it answers no such request (another nonce or
 * port); TN_E_UNSUPPORTED from a gateway that speaks only NAT-PMP; TN_E_REFUSED when it says no; TN_E_MALFORMED. */
int tn_pcp_map_parse(const uint8_t *bytes, size_t len, const struct tn_pcp_map *asked, struct tn_pcp_map *out);

#endif
