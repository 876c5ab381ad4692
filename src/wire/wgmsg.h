/* WireGuard's four messages (whitepaper section 5.4; wireguard-go device/noise-protocol.go). All integers are
 * little-endian; the type is one byte and three zero bytes. Handshake messages have one exact length each. */
#ifndef TN_WIRE_WGMSG_H
#define TN_WIRE_WGMSG_H

#include <stddef.h>
#include <stdint.h>

enum tn_wgmsg_type { TN_WGMSG_INITIATION = 1, TN_WGMSG_RESPONSE = 2, TN_WGMSG_COOKIE = 3, TN_WGMSG_DATA = 4 };

enum {
    TN_WGMSG_INITIATION_LEN = 148,
    TN_WGMSG_RESPONSE_LEN = 92,
    TN_WGMSG_COOKIE_LEN = 64,
    TN_WGMSG_DATA_HEADER = 16,
    TN_WGMSG_DATA_MIN = 32, /* header and tag: a keepalive */
    TN_WGMSG_MAC = 16,
};

struct tn_wgmsg_initiation {
    uint32_t sender;
    uint8_t ephemeral[32];
    uint8_t sealed_static[48];
    uint8_t sealed_timestamp[28];
};
struct tn_wgmsg_response {
    uint32_t sender, receiver;
    uint8_t ephemeral[32];
    uint8_t sealed_nothing[16];
};
struct tn_wgmsg_cookie {
    uint32_t receiver;
    uint8_t nonce[24];
    uint8_t sealed_cookie[32];
};
struct tn_wgmsg_data {
    uint32_t receiver;
    uint64_t counter;
};

/* The type of a datagram whose length fits it, or TN_E_MALFORMED. After this the getters below may be called. */
int tn_wgmsg_type(const uint8_t *bytes, size_t len);

/* bytes: a datagram that tn_wgmsg_type found to be of this type. MACs are not looked at. */
void tn_wgmsg_get_initiation(const uint8_t *bytes, struct tn_wgmsg_initiation *out);
void tn_wgmsg_get_response(const uint8_t *bytes, struct tn_wgmsg_response *out);
void tn_wgmsg_get_cookie(const uint8_t *bytes, struct tn_wgmsg_cookie *out);
void tn_wgmsg_get_data(const uint8_t *bytes, struct tn_wgmsg_data *out);
/* The sender index of an initiation or response. */
uint32_t tn_wgmsg_sender(const uint8_t *bytes);

/* The MACs of an initiation or response are its last 32 bytes; puts leave them zero. */
void tn_wgmsg_put_initiation(uint8_t out[TN_WGMSG_INITIATION_LEN], const struct tn_wgmsg_initiation *m);
void tn_wgmsg_put_response(uint8_t out[TN_WGMSG_RESPONSE_LEN], const struct tn_wgmsg_response *m);
void tn_wgmsg_put_cookie(uint8_t out[TN_WGMSG_COOKIE_LEN], const struct tn_wgmsg_cookie *m);
void tn_wgmsg_put_data(uint8_t out[TN_WGMSG_DATA_HEADER], const struct tn_wgmsg_data *m);

#endif
