/* ICMP and ICMPv6 (RFC 792, 4443): echo, and errors with the packet they quote. Types and codes are numbered
 * differently in the two families; here they are one set of kinds. */
#ifndef TN_WIRE_ICMP_H
#define TN_WIRE_ICMP_H

#include "util/ip.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum tn_icmp_kind {
    TN_ICMP_OTHER,
    TN_ICMP_ECHO_REQUEST,
    TN_ICMP_ECHO_REPLY,
    TN_ICMP_UNREACH_NET,   /* no route */
    TN_ICMP_UNREACH_HOST,  /* v6: address unreachable */
    TN_ICMP_UNREACH_PROTO, /* v6: parameter problem, unrecognized next header */
    TN_ICMP_UNREACH_PORT,
    TN_ICMP_UNREACH_ADMIN,
    TN_ICMP_TOO_BIG,
    TN_ICMP_ERROR_OTHER,   /* any other error message: quotes a packet, must never be answered */
};

enum {
    TN_ICMP_HDR = 8,
    /* An IPv6 error must not make the packet exceed the minimum MTU (RFC 4443 section 2.4 c); for IPv4 RFC 1812
     * section 4.3.2.3 asks for as much as fits 576 bytes. */
    TN_ICMP_QUOTE_MAX4 = 576 - 20 - TN_ICMP_HDR,
    TN_ICMP_QUOTE_MAX6 = 1280 - 40 - TN_ICMP_HDR,
};

struct tn_icmp {
    enum tn_icmp_kind kind;
    uint16_t id, seq;      /* echo */
    const uint8_t *body;   /* echo: data; errors: the start of the quoted packet */
    size_t len;
};

/* family 4 or 6; l4 as received, checksum verified. 0 or TN_E_MALFORMED (shorter than 8 bytes). */
int tn_icmp_parse(uint8_t family, const uint8_t *l4, size_t len, struct tn_icmp *out);

/* The quoted packet of an error: its header fields and at least 8 bytes of its transport header. TN_E_MALFORMED when
 * there are fewer, for later fragments, and for IPv6 extension headers (we send none but fragments). */
struct tn_icmp_quote {
    struct tn_ip src, dst;
    uint8_t proto;
    const uint8_t *l4;
    size_t l4_len;
};
int tn_icmp_quote_parse(const uint8_t *bytes, size_t len, struct tn_icmp_quote *out);

/* The 8-byte header for a message of this kind; checksum zero. False when the family has no such message. For a host
 * that is unreachable behind a router or gateway IPv4 says host (3/1), IPv6 address (1/3); administratively
 * prohibited is 3/13 and 1/1. */
bool tn_icmp_put(uint8_t out[TN_ICMP_HDR], uint8_t family, enum tn_icmp_kind kind, uint16_t id, uint16_t seq);
static inline bool tn_icmp_is_error(enum tn_icmp_kind kind) { return kind >= TN_ICMP_UNREACH_NET; }

#endif
