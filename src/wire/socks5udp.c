#include "wire/socks5udp.h"
#include "util/cursor.h"
#include "util/err.h"

enum { ATYP_V4 = 1, ATYP_NAME = 3, ATYP_V6 = 4 };

static void read_name(struct tn_rd *r, struct tn_ip *out)
{
    char text[TN_IP_STRLEN];
    size_t len = tn_rd_u8(r);
    const uint8_t *name = tn_rd_take(r, len);
    if (len == 0) r->failed = true;
    if (!name || len >= sizeof text || memchr(name, 0, len)) return;
    memcpy(text, name, len);
    text[len] = '\0';
    if (tn_ip_parse(text, out) != 0) *out = (struct tn_ip){0};
}

int tn_socks5udp_parse(const uint8_t *bytes, size_t len, struct tn_socks5udp *out)
{
    struct tn_rd r = tn_rd_init(bytes, len);
    struct tn_socks5udp d = {0};
    (void)tn_rd_be16(&r);
    uint8_t frag = tn_rd_u8(&r), atyp = tn_rd_u8(&r);
    if (tn_rd_ok(&r) && frag != 0) return TN_E_UNSUPPORTED;
    switch (atyp) {
    case ATYP_V4:
        d.from.ip.family = 4;
        tn_rd_bytes(&r, d.from.ip.b, 4);
        break;
    case ATYP_V6:
        d.from.ip.family = 6;
        tn_rd_bytes(&r, d.from.ip.b, 16);
        break;
    case ATYP_NAME: read_name(&r, &d.from.ip); break;
    default: return TN_E_MALFORMED;
    }
    d.from.port = tn_rd_be16(&r);
    if (!tn_rd_ok(&r)) return TN_E_MALFORMED;
    d.len = tn_rd_left(&r);
    d.payload = tn_rd_take(&r, d.len);
    *out = d;
    return 0;
}

size_t tn_socks5udp_put(uint8_t out[TN_SOCKS5UDP_HDR_MAX], const struct tn_addrport *to)
{
    struct tn_wr w = tn_wr_init(out, TN_SOCKS5UDP_HDR_MAX);
    tn_wr_be16(&w, 0);
    tn_wr_u8(&w, 0);
    tn_wr_u8(&w, to->ip.family == 4 ? ATYP_V4 : ATYP_V6);
    tn_wr_bytes(&w, to->ip.b, tn_ip_len(&to->ip));
    tn_wr_be16(&w, to->port);
    return tn_wr_len(&w);
}
