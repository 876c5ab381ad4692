/* STUN binding requests and responses (RFC 5389), the subset of tailscale.com v1.102.5 net/stun, client and server
 * side.
 *
 * Tailscale's servers answer only requests with SOFTWARE "tailnode" and a right FINGERPRINT as the last attribute,
 * and so does a server built on this. */
#ifndef TN_WIRE_STUN_H
#define TN_WIRE_STUN_H

#include "util/ip.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TN_STUN_TXID_LEN = 12,
    TN_STUN_REQUEST_LEN = 40,
    TN_STUN_RESPONSE_MAX = 44, /* 20 header, 4 attribute header, 4 + 16 address */
    TN_STUN_PORT = 3478,
};

/* By the magic cookie: which of the datagrams on the WireGuard socket are STUN. */
bool tn_stun_looks_like(const uint8_t *bytes, size_t len);

void tn_stun_request_put(uint8_t out[TN_STUN_REQUEST_LEN], const uint8_t txid[TN_STUN_TXID_LEN]);
/* 0 with the transaction id; TN_E_MALFORMED when it is no well-formed binding request; TN_E_UNSUPPORTED when it comes
 * from other software or lacks the fingerprint: not to be answered. */
int tn_stun_request_parse(const uint8_t *bytes, size_t len, uint8_t txid[TN_STUN_TXID_LEN]);

/* Returns the length written: 32 or 44; 0 when addr has no family. */
size_t tn_stun_response_put(uint8_t out[TN_STUN_RESPONSE_MAX], const uint8_t txid[TN_STUN_TXID_LEN],
                            const struct tn_addrport *addr);
/* The mapped address of a success response: the XOR form wins over the plain one, an IPv4-mapped address comes out as
 * IPv4. 0, or TN_E_MALFORMED with the outputs untouched. */
int tn_stun_response_parse(const uint8_t *bytes, size_t len, uint8_t txid[TN_STUN_TXID_LEN],
                           struct tn_addrport *addr);

#endif
