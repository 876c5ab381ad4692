#include "wire/derp.h"
#include "util/err.h"

static const uint8_t magic[8] = {0x44, 0x45, 0x52, 0x50, 0xf0, 0x9f, 0x94, 0x91}; /* "DERP" and a key emoji */

long tn_derp_frame_split(const uint8_t *bytes, size_t len, size_t max, struct tn_derp_frame *out)
{
    if (len < TN_DERP_HEADER_LEN) return 0;
    size_t body = tn_get_be32(bytes + 1);
    if (body > max) return TN_E_TOOBIG;
    if (len - TN_DERP_HEADER_LEN < body) return 0;
    *out = (struct tn_derp_frame){.type = bytes[0], .body = bytes + TN_DERP_HEADER_LEN, .len = body};
    return (long)(TN_DERP_HEADER_LEN + body);
}

static void take_rest(struct tn_rd *r, struct tn_derp_frame *f)
{
    f->data_len = tn_rd_left(r);
    f->data = tn_rd_take(r, f->data_len);
}

static void parse_server_key(struct tn_rd *r, struct tn_derp_frame *f)
{
    const uint8_t *m = tn_rd_take(r, sizeof magic);
    f->key = tn_rd_take(r, TN_DERP_KEY_LEN);
    if (m && memcmp(m, magic, sizeof magic) != 0) r->failed = true;
}

int tn_derp_frame_parse(struct tn_derp_frame *f)
{
    struct tn_rd r = tn_rd_init(f->body, f->len);
    switch (f->type) {
    case TN_DERP_SERVER_KEY: parse_server_key(&r, f); break;
    case TN_DERP_CLIENT_INFO:
    case TN_DERP_SEND_PACKET:
    case TN_DERP_RECV_PACKET:
    case TN_DERP_PEER_PRESENT:
        f->key = tn_rd_take(&r, TN_DERP_KEY_LEN);
        take_rest(&r, f);
        break;
    case TN_DERP_FORWARD_PACKET:
        f->key = tn_rd_take(&r, TN_DERP_KEY_LEN);
        f->key2 = tn_rd_take(&r, TN_DERP_KEY_LEN);
        take_rest(&r, f);
        break;
    case TN_DERP_SERVER_INFO:
    case TN_DERP_HEALTH: take_rest(&r, f); break;
    case TN_DERP_KEEP_ALIVE:
    case TN_DERP_WATCH_CONNS: break;
    case TN_DERP_NOTE_PREFERRED: f->preferred = tn_rd_u8(&r) != 0; break;
    case TN_DERP_PEER_GONE:
        f->key = tn_rd_take(&r, TN_DERP_KEY_LEN);
        f->reason = tn_rd_left(&r) ? tn_rd_u8(&r) : TN_DERP_GONE_DISCONNECTED;
        break;
    case TN_DERP_CLOSE_PEER: f->key = tn_rd_take(&r, TN_DERP_KEY_LEN); break;
    case TN_DERP_PING:
    case TN_DERP_PONG:
        f->data = tn_rd_take(&r, TN_DERP_PING_LEN);
        f->data_len = TN_DERP_PING_LEN;
        break;
    case TN_DERP_RESTARTING:
        f->reconnect_in_ms = tn_rd_be32(&r);
        f->try_for_ms = tn_rd_be32(&r);
        break;
    default: return TN_E_UNSUPPORTED;
    }
    return tn_rd_ok(&r) ? 0 : TN_E_MALFORMED;
}

void tn_derp_header_put(struct tn_wr *w, uint8_t type, size_t body_len)
{
    tn_wr_u8(w, type);
    tn_wr_be32(w, (uint32_t)body_len);
}

void tn_derp_server_key_put(struct tn_wr *w, const uint8_t key[32])
{
    tn_derp_header_put(w, TN_DERP_SERVER_KEY, sizeof magic + TN_DERP_KEY_LEN);
    tn_wr_bytes(w, magic, sizeof magic);
    tn_wr_bytes(w, key, TN_DERP_KEY_LEN);
}

void tn_derp_client_info_put(struct tn_wr *w, const uint8_t key[32], const uint8_t *box, size_t len)
{
    tn_derp_header_put(w, TN_DERP_CLIENT_INFO, TN_DERP_KEY_LEN + len);
    tn_wr_bytes(w, key, TN_DERP_KEY_LEN);
    tn_wr_bytes(w, box, len);
}

void tn_derp_server_info_put(struct tn_wr *w, const uint8_t *box, size_t len)
{
    tn_derp_header_put(w, TN_DERP_SERVER_INFO, len);
    tn_wr_bytes(w, box, len);
}

void tn_derp_packet_put(struct tn_wr *w, enum tn_derp_type type, const uint8_t key[32], const uint8_t *packet,
                        size_t len)
{
    tn_derp_header_put(w, (uint8_t)type, TN_DERP_KEY_LEN + len);
    tn_wr_bytes(w, key, TN_DERP_KEY_LEN);
    if (packet) tn_wr_bytes(w, packet, len);
}

void tn_derp_keep_alive_put(struct tn_wr *w) { tn_derp_header_put(w, TN_DERP_KEEP_ALIVE, 0); }

void tn_derp_note_preferred_put(struct tn_wr *w, bool preferred)
{
    tn_derp_header_put(w, TN_DERP_NOTE_PREFERRED, 1);
    tn_wr_u8(w, preferred);
}

void tn_derp_peer_gone_put(struct tn_wr *w, const uint8_t key[32], enum tn_derp_gone reason)
{
    tn_derp_header_put(w, TN_DERP_PEER_GONE, TN_DERP_KEY_LEN + 1);
    tn_wr_bytes(w, key, TN_DERP_KEY_LEN);
    tn_wr_u8(w, (uint8_t)reason);
}

void tn_derp_ping_put(struct tn_wr *w, enum tn_derp_type type, const uint8_t payload[8])
{
    tn_derp_header_put(w, (uint8_t)type, TN_DERP_PING_LEN);
    tn_wr_bytes(w, payload, TN_DERP_PING_LEN);
}

void tn_derp_health_put(struct tn_wr *w, const char *text)
{
    tn_derp_header_put(w, TN_DERP_HEALTH, strlen(text));
    tn_wr_bytes(w, text, strlen(text));
}

void tn_derp_restarting_put(struct tn_wr *w, uint32_t reconnect_in_ms, uint32_t try_for_ms)
{
    tn_derp_header_put(w, TN_DERP_RESTARTING, 8);
    tn_wr_be32(w, reconnect_in_ms);
    tn_wr_be32(w, try_for_ms);
}
