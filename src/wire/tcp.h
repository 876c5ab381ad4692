/* TCP segments (RFC 9293 section 3.1) with the options that matter: MSS, window scale and timestamps (RFC 7323), SACK
 * (RFC 2018). One gate: after tn_tcp_seg_parse succeeded, payload and len lie inside the bytes given. */
#ifndef TN_WIRE_TCP_H
#define TN_WIRE_TCP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum tn_tcp_flag {
    TN_TCP_FIN = 0x01, TN_TCP_SYN = 0x02, TN_TCP_RST = 0x04, TN_TCP_PSH = 0x08, TN_TCP_ACK = 0x10, TN_TCP_URG = 0x20,
    TN_TCP_ECE = 0x40, TN_TCP_CWR = 0x80,
};

enum {
    TN_TCP_HDR_MIN = 20,
    TN_TCP_HDR_MAX = 60,
    TN_TCP_SACK_MAX = 4,   /* what 40 bytes of options can hold */
    TN_TCP_WSCALE_MAX = 14, /* RFC 7323 section 2.3 */
    TN_TCP_TS_LEN = 12,    /* the timestamp option with its two NOPs */
};

struct tn_tcp_sack {
    uint32_t start, end; /* end is exclusive */
};

struct tn_tcp_seg {
    uint16_t sport, dport;
    uint32_t seq, ack;
    uint8_t flags;
    uint16_t window; /* as on the wire, unscaled */
    uint16_t mss;    /* 0: no such option; only in SYNs */
    uint8_t wscale;  /* valid if has_wscale; at most 14 */
    bool has_wscale, sack_ok, has_ts;
    uint32_t tsval, tsecr;
    uint8_t nsack;
    struct tn_tcp_sack sack[TN_TCP_SACK_MAX];
    const uint8_t *payload;
    size_t len, first_len; /* the same but in a run */
    /* A run (tcprun.h): payload has first_len bytes, and the rest of len is in these packets behind more_hdr bytes of
     * headers each. Never set by the parser. */
    const struct iovec *more;
    size_t nmore, more_hdr;
};

/* l4: the transport header and payload of one unfragmented packet whose checksum was verified. 0 or TN_E_MALFORMED:
 * too short, data offset out of range, an option that runs over the header or whose length contradicts its kind.
 * Unknown options are skipped; MSS, window scale and SACK-permitted count only in a SYN; SACK blocks that are empty
 * are dropped. */
int tn_tcp_seg_parse(const uint8_t *l4, size_t len, struct tn_tcp_seg *out);

/* Writes header and options (checksum and urgent pointer zero) for seg at out, which has TN_TCP_HDR_MAX bytes;
 * returns the header's length. As many SACK blocks are written as fit. */
size_t tn_tcp_seg_put(uint8_t *out, const struct tn_tcp_seg *seg);

#endif
