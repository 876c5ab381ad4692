/* DERP frames, both sides (tailscale.com v1.102.5 derp/derp.go, derp_client.go, derpserver/derpserver.go).
 *
 *   frame = type u8 | length u32 BE | body
 *
 * Keys here are 32 raw bytes and boxes are opaque: sealing is the caller's, since this room knows no crypto. */
#ifndef TN_WIRE_DERP_H
#define TN_WIRE_DERP_H

#include "util/cursor.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum tn_derp_type {
    TN_DERP_SERVER_KEY = 0x01, TN_DERP_CLIENT_INFO = 0x02, TN_DERP_SERVER_INFO = 0x03, TN_DERP_SEND_PACKET = 0x04,
    TN_DERP_RECV_PACKET = 0x05, TN_DERP_KEEP_ALIVE = 0x06, TN_DERP_NOTE_PREFERRED = 0x07, TN_DERP_PEER_GONE = 0x08,
    TN_DERP_PEER_PRESENT = 0x09, TN_DERP_FORWARD_PACKET = 0x0a, TN_DERP_WATCH_CONNS = 0x10, TN_DERP_CLOSE_PEER = 0x11,
    TN_DERP_PING = 0x12, TN_DERP_PONG = 0x13, TN_DERP_HEALTH = 0x14, TN_DERP_RESTARTING = 0x15,
};
enum tn_derp_gone { TN_DERP_GONE_DISCONNECTED = 0, TN_DERP_GONE_NOT_HERE = 1 };

enum {
    TN_DERP_VERSION = 2,
    TN_DERP_HEADER_LEN = 5,
    TN_DERP_KEY_LEN = 32,
    TN_DERP_PING_LEN = 8,
    TN_DERP_PACKET_MAX = 64 * 1024,       /* derp.MaxPacketSize: what a SendPacket may carry */
    TN_DERP_FRAME_MAX = 1024 * 1024,      /* a client drops the connection above this, as Go's does */
    TN_DERP_SERVER_KEY_MAX = 1024,        /* Go's limit on the greeting, room for its future fields */
    TN_DERP_CLIENT_INFO_MAX = 256 * 1024, /* Go's server limit on the box in ClientInfo */
    TN_DERP_PACKET_HEADER_LEN = TN_DERP_HEADER_LEN + TN_DERP_KEY_LEN,
};

/* What a client says of itself inside the ClientInfo box. The case of the names matters to Go's decoder of old
 * servers. */
#define TN_DERP_CLIENT_INFO_JSON "{\"version\":2,\"CanAckPings\":true}"

struct tn_derp_frame {
    uint8_t type;         /* enum tn_derp_type or unknown */
    const uint8_t *body;  /* the whole body */
    size_t len;
    /* Set by tn_derp_frame_parse as the type says. */
    const uint8_t *key;   /* server key, client key, destination, source or gone peer */
    const uint8_t *key2;  /* ForwardPacket: the destination */
    const uint8_t *data;  /* box, packet, ping payload (8), health text (no NUL) */
    size_t data_len;
    uint8_t reason;       /* PeerGone; an absent reason reads as disconnected, unknown ones are possible */
    bool preferred;
    uint32_t reconnect_in_ms, try_for_ms;
};

/* Finds one frame at the start of bytes. Returns header and body length together with type, body and len set, 0 when
 * more bytes are needed, TN_E_TOOBIG when the header announces a body over max. */
long tn_derp_frame_split(const uint8_t *bytes, size_t len, size_t max, struct tn_derp_frame *out);
/* Reads type, body and len of f and sets the rest. 0; TN_E_MALFORMED when the body is too short for its type (a bad
 * greeting too); TN_E_UNSUPPORTED for types without a meaning here. Receivers skip both but for ServerKey,
 * ClientInfo and ServerInfo. Bytes after the known fields are room for newer versions and ignored. */
int tn_derp_frame_parse(struct tn_derp_frame *f);

/* Writers; an overflow fails the cursor. */
void tn_derp_header_put(struct tn_wr *w, uint8_t type, size_t body_len);
void tn_derp_server_key_put(struct tn_wr *w, const uint8_t key[32]);
void tn_derp_client_info_put(struct tn_wr *w, const uint8_t key[32], const uint8_t *box, size_t len);
void tn_derp_server_info_put(struct tn_wr *w, const uint8_t *box, size_t len);
/* SendPacket (key is the destination) or RecvPacket (the source). With packet NULL only the 37 bytes before it. */
void tn_derp_packet_put(struct tn_wr *w, enum tn_derp_type type, const uint8_t key[32], const uint8_t *packet,
                        size_t len);
void tn_derp_keep_alive_put(struct tn_wr *w);
void tn_derp_note_preferred_put(struct tn_wr *w, bool preferred);
void tn_derp_peer_gone_put(struct tn_wr *w, const uint8_t key[32], enum tn_derp_gone reason);
void tn_derp_ping_put(struct tn_wr *w, enum tn_derp_type type, const uint8_t payload[8]); /* PING or PONG */
void tn_derp_health_put(struct tn_wr *w, const char *text); /* "" clears */
void tn_derp_restarting_put(struct tn_wr *w, uint32_t reconnect_in_ms, uint32_t try_for_ms);

#endif
