#include "wire/pcp.h"

#include "util/cursor.h"
#include "util/err.h"

enum { VERSION = 2, OP_MAP = 1, RESPONSE = 0x80, PROTO_UDP = 17, RESULT_BAD_VERSION = 1 };

/* IPv4 travels as ::ffff:a.b.c.d. */
static void put_ip(struct tn_wr *w, const struct tn_ip *ip)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    tn_wr_bytes(w, mapped, sizeof mapped);
    tn_wr_bytes(w, ip->b, 4);
}

void tn_pcp_map_put(uint8_t out[TN_PCP_MAP_LEN], const struct tn_pcp_map *m)
{
    static const uint8_t zeros[3] = {0};
    struct tn_wr w = tn_wr_init(out, TN_PCP_MAP_LEN);
    tn_wr_u8(&w, VERSION);
    tn_wr_u8(&w, OP_MAP);
    tn_wr_be16(&w, 0);
    tn_wr_be32(&w, m->lifetime_s);
    put_ip(&w, &m->client);
    tn_wr_bytes(&w, m->nonce, sizeof m->nonce);
    tn_wr_u8(&w, PROTO_UDP);
    tn_wr_bytes(&w, zeros, 3);
    tn_wr_be16(&w, m->internal_port);
    tn_wr_be16(&w, m->external_port);
    put_ip(&w, &m->external_ip); /* family 0: ::ffff:0.0.0.0, "any" */
}

int tn_pcp_map_parse(const uint8_t *bytes, size_t len, const struct tn_pcp_map *asked, struct tn_pcp_map *out)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    if (len < 4 || !(bytes[1] & RESPONSE)) return TN_E_MALFORMED;
    if (bytes[0] != VERSION) return bytes[0] == 0 ? TN_E_UNSUPPORTED : TN_E_MALFORMED;
    if (bytes[1] != (RESPONSE | OP_MAP)) return TN_E_MALFORMED;
    if (bytes[3] == RESULT_BAD_VERSION) return TN_E_UNSUPPORTED;
    if (len < TN_PCP_MAP_LEN || len > TN_PCP_MESSAGE_MAX) return TN_E_MALFORMED;
    const uint8_t *map = bytes + 24; /* nonce 12, protocol 1, reserved 3, ports 2 + 2, address 16 */
    bool ours = memcmp(map, asked->nonce, TN_PCP_NONCE_LEN) == 0 && map[12] == PROTO_UDP &&
                tn_get_be16(map + 16) == asked->internal_port;
    if (!ours) return TN_E_AGAIN;
    if (bytes[3] != 0) return TN_E_REFUSED;
    if (memcmp(map + 20, mapped, sizeof mapped) != 0) return TN_E_MALFORMED; /* an IPv6 address for an IPv4 mapping */
    *out = *asked;
    out->lifetime_s = tn_get_be32(bytes + 4);
    out->external_port = tn_get_be16(map + 18);
    out->external_ip = tn_ip_from_bytes(map + 32, 4);
    return 0;
}
