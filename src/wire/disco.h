/* Disco messages (tailscale.com v1.102.5 disco/disco.go): how nodes find and prove paths to each other.
 *
 *   packet  = magic 6 | sender's disco key 32 | box (nonce 24, tag 16, ciphertext)
 *   message = type u8 | version u8 | payload       inside the box
 *
 * Boxes are sealed and opened by the caller. Addresses travel as 16 bytes (IPv4 mapped) and a big-endian port. */
#ifndef TN_WIRE_DISCO_H
#define TN_WIRE_DISCO_H

#include "util/cursor.h"
#include "util/ip.h"

enum tn_disco_type { TN_DISCO_PING = 1, TN_DISCO_PONG = 2, TN_DISCO_CALL_ME_MAYBE = 3 };

enum {
    TN_DISCO_MAGIC_LEN = 6,
    TN_DISCO_HEADER_LEN = 6 + 32,      /* what stands before the box */
    TN_DISCO_MIN_LEN = 6 + 32 + 24,    /* shorter ones are not taken for disco */
    TN_DISCO_TXID_LEN = 12,
    TN_DISCO_PING_LEN = 2 + 12 + 32,   /* without padding */
    TN_DISCO_PONG_LEN = 2 + 12 + 18,
    TN_DISCO_ENDPOINT_LEN = 18,
};

struct tn_disco_msg {
    uint8_t type, version;
    const uint8_t *txid;       /* ping, pong */
    const uint8_t *node_key;   /* ping: 32 bytes, or NULL when an old peer left it out. A claim, not a proof */
    size_t padding;            /* ping: bytes after the fields, for path MTU probes */
    struct tn_addrport src;    /* pong: where the ping was seen to come from */
    const uint8_t *endpoints;  /* call-me-maybe, by tn_disco_endpoint */
    size_t nendpoints;
};

/* Does a datagram look like disco (and not WireGuard)? */
bool tn_disco_looks_like(const uint8_t *bytes, size_t len);
/* The sender's disco key of a packet that looks like disco. */
static inline const uint8_t *tn_disco_sender(const uint8_t *bytes) { return bytes + TN_DISCO_MAGIC_LEN; }

/* Parses an opened message. 0, TN_E_MALFORMED (too short), TN_E_UNSUPPORTED (other types). As in Go, the version
 * of pings and pongs is not looked at and longer messages are fine; a call-me-maybe of another version or a length
 * that is no multiple of 18 has no endpoints. */
int tn_disco_parse(const uint8_t *bytes, size_t len, struct tn_disco_msg *out);
/* Endpoint i < nendpoints; mapped IPv4 comes out as IPv4. */
struct tn_addrport tn_disco_endpoint(const struct tn_disco_msg *m, size_t i);

/* Writers of the packet header and of messages to be sealed. */
void tn_disco_header_put(struct tn_wr *w, const uint8_t sender[32]);
void tn_disco_ping_put(struct tn_wr *w, const uint8_t txid[12], const uint8_t node_key[32], size_t padding);
void tn_disco_pong_put(struct tn_wr *w, const uint8_t txid[12], const struct tn_addrport *src);
void tn_disco_call_me_maybe_put(struct tn_wr *w, const struct tn_addrport *endpoints, size_t n);

#endif
