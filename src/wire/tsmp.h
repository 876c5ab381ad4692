/* TSMP, IP protocol 99 between tailnet nodes: why a flow was refused, pings of the node itself, disco keys. Only the
 * payload behind the IP header; never fragmented, never from or to the host's stack. After Go's
 * net/packet/tsmp.go. */
#ifndef TN_WIRE_TSMP_H
#define TN_WIRE_TSMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum tn_tsmp_type { TN_TSMP_REJECT = '!', TN_TSMP_PING = 'p', TN_TSMP_PONG = 'o', TN_TSMP_ADVERT = 'a' };

/* Reasons of a reject; others may come and are passed on as they are. */
enum tn_tsmp_reason {
    TN_TSMP_ACL = 'A', TN_TSMP_SHIELDS = 'S', TN_TSMP_FORWARDING = 'F', TN_TSMP_FIREWALL = 'W', TN_TSMP_TRANSIT = 'T',
};

enum { TN_TSMP_MAX = 33 }; /* the longest message we write */

struct tn_tsmp {
    enum tn_tsmp_type type;
    union {
        struct {             /* of the rejected flow, as its sender sent it: the IP header has both ends swapped */
            uint8_t proto;   /* TCP or UDP */
            uint8_t reason;
            uint16_t sport, dport;
            bool maybe_broken; /* advice only: the sender is not sure */
        } reject;
        struct {
            uint8_t data[8];
            uint16_t peerapi_port; /* pong only; 0 when unknown or none */
        } ping;
        uint8_t disco_key[32];
    };
};

/* Reads a payload (not NUL-terminated, len its length in the IP packet). Trailing bytes are ignored, as future
 * versions may add fields. 0, TN_E_MALFORMED when too short for its type, TN_E_UNSUPPORTED for an unknown type (to be
 * ignored). */
int tn_tsmp_parse(const uint8_t *payload, size_t len, struct tn_tsmp *out);
/* Writes the payload; returns its length (at most TN_TSMP_MAX). */
size_t tn_tsmp_put(uint8_t out[TN_TSMP_MAX], const struct tn_tsmp *m);

#endif
