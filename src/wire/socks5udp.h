/* The header in front of every datagram between a SOCKS5 client and its UDP relay (RFC 1928 section 7).
 *
 *   RSV(2) FRAG(1) ATYP(1) ADDR PORT(2) payload      ADDR: 4 bytes (ATYP 1), 16 (4), or a length byte and a name (3)
 *
 * From the client ADDR is the destination, from the relay it is who answered. */
#ifndef TN_WIRE_SOCKS5UDP_H
#define TN_WIRE_SOCKS5UDP_H

#include "util/ip.h"
#include <stddef.h>
#include <stdint.h>

enum { TN_SOCKS5UDP_HDR_MAX = 4 + 16 + 2 }; /* that we send; names are never sent */

struct tn_socks5udp {
    struct tn_addrport from; /* family 0: a name that is no address */
    const uint8_t *payload;
    size_t len;
};

/* RSV is ignored, as in replies. 0, TN_E_MALFORMED (short, unknown address type, empty name), TN_E_UNSUPPORTED for a fragment,
 * which a client may drop and we do. A name that spells an address is that address. */
int tn_socks5udp_parse(const uint8_t *bytes, size_t len, struct tn_socks5udp *out);
size_t tn_socks5udp_put(uint8_t out[TN_SOCKS5UDP_HDR_MAX], const struct tn_addrport *to); /* returns the length */

#endif
