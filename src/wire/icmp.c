#include "wire/icmp.h"
#include "util/cursor.h"
#include "util/err.h"
#include "wire/ip.h"

enum icmp4 {
    ICMP4_ECHO_REPLY = 0,
    ICMP4_UNREACH = 3,
    ICMP4_QUENCH = 4,
    ICMP4_REDIRECT = 5,
    ICMP4_ECHO = 8,
    ICMP4_TIME = 11,
    ICMP4_PARAM = 12
};
enum icmp6 {
    ICMP6_UNREACH = 1,
    ICMP6_TOO_BIG = 2,
    ICMP6_TIME = 3,
    ICMP6_PARAM = 4,
    ICMP6_ERROR_LAST = 127,
    ICMP6_ECHO = 128,
    ICMP6_ECHO_REPLY = 129
};
enum { PARAM_NEXT_HEADER = 1, QUOTE_L4_MIN = 8 };

static enum tn_icmp_kind unreach4(uint8_t code)
{
    switch (code) {
    case 0: case 6: case 11: return TN_ICMP_UNREACH_NET;
    case 1: case 7: case 8: case 12: return TN_ICMP_UNREACH_HOST;
    case 2: return TN_ICMP_UNREACH_PROTO;
    case 3: return TN_ICMP_UNREACH_PORT;
    case 4: return TN_ICMP_TOO_BIG;
    case 9: case 10: case 13: return TN_ICMP_UNREACH_ADMIN;
    default: return TN_ICMP_ERROR_OTHER;
    }
}

static enum tn_icmp_kind kind4(uint8_t type, uint8_t code)
{
    switch (type) {
    case ICMP4_ECHO_REPLY: return TN_ICMP_ECHO_REPLY;
    case ICMP4_ECHO: return TN_ICMP_ECHO_REQUEST;
    case ICMP4_UNREACH: return unreach4(code);
    case ICMP4_QUENCH: case ICMP4_REDIRECT: case ICMP4_TIME: case ICMP4_PARAM: return TN_ICMP_ERROR_OTHER;
    default: return TN_ICMP_OTHER;
    }
}

static enum tn_icmp_kind unreach6(uint8_t code)
{
    switch (code) {
    case 0: return TN_ICMP_UNREACH_NET;
    case 1: case 5: case 6: return TN_ICMP_UNREACH_ADMIN;
    case 2: case 3: return TN_ICMP_UNREACH_HOST;
    case 4: return TN_ICMP_UNREACH_PORT;
    default: return TN_ICMP_ERROR_OTHER;
    }
}

static enum tn_icmp_kind kind6(uint8_t type, uint8_t code)
{
    switch (type) {
    case ICMP6_ECHO: return TN_ICMP_ECHO_REQUEST;
    case ICMP6_ECHO_REPLY: return TN_ICMP_ECHO_REPLY;
    case ICMP6_UNREACH: return unreach6(code);
    case ICMP6_TOO_BIG: return TN_ICMP_TOO_BIG;
    case ICMP6_PARAM: return code == PARAM_NEXT_HEADER ? TN_ICMP_UNREACH_PROTO : TN_ICMP_ERROR_OTHER;
    default: return type <= ICMP6_ERROR_LAST ? TN_ICMP_ERROR_OTHER : TN_ICMP_OTHER;
    }
}

int tn_icmp_parse(uint8_t family, const uint8_t *l4, size_t len, struct tn_icmp *out)
{
    if (len < TN_ICMP_HDR) return TN_E_MALFORMED;
    struct tn_icmp m = {.kind = family == 4 ? kind4(l4[0], l4[1]) : kind6(l4[0], l4[1])};
    m.id = tn_get_be16(l4 + 4);
    m.seq = tn_get_be16(l4 + 6);
    m.body = l4 + TN_ICMP_HDR;
    m.len = len - TN_ICMP_HDR;
    *out = m;
    return 0;
}

int tn_icmp_quote_parse(const uint8_t *p, size_t len, struct tn_icmp_quote *out)
{
    if (len < 20) return TN_E_MALFORMED;
    struct tn_icmp_quote q = {0};
    size_t hdr;
    if (p[0] >> 4 == 4) {
        hdr = (size_t)(p[0] & 15) * 4;
        if (hdr < 20 || (tn_get_be16(p + 6) & 0x1fff) != 0) return TN_E_MALFORMED;
        q.proto = p[9];
        q.src = tn_ip_from_bytes(p + 12, 4);
        q.dst = tn_ip_from_bytes(p + 16, 4);
    } else if (p[0] >> 4 == 6 && len >= 40) {
        hdr = 40;
        q.proto = p[6];
        q.src = tn_ip_from_bytes(p + 8, 6);
        q.dst = tn_ip_from_bytes(p + 24, 6);
        if (q.proto == 44) { /* our own fragments: the first one holds the transport header */
            if (len < 48 || (tn_get_be16(p + 42) & 0xfff8) != 0) return TN_E_MALFORMED;
            q.proto = p[40];
            hdr = 48;
        }
    } else {
        return TN_E_MALFORMED;
    }
    if (len < hdr + QUOTE_L4_MIN) return TN_E_MALFORMED;
    q.l4 = p + hdr;
    q.l4_len = len - hdr;
    *out = q;
    return 0;
}

bool tn_icmp_put(uint8_t out[TN_ICMP_HDR], uint8_t family, enum tn_icmp_kind kind, uint16_t id, uint16_t seq)
{
    static const struct {
        uint8_t type4, code4, type6, code6;
    } numbers[] = {
        [TN_ICMP_ECHO_REQUEST] = {ICMP4_ECHO, 0, ICMP6_ECHO, 0},
        [TN_ICMP_ECHO_REPLY] = {ICMP4_ECHO_REPLY, 0, ICMP6_ECHO_REPLY, 0},
        [TN_ICMP_UNREACH_NET] = {ICMP4_UNREACH, 0, ICMP6_UNREACH, 0},
        [TN_ICMP_UNREACH_HOST] = {ICMP4_UNREACH, 1, ICMP6_UNREACH, 3},
        [TN_ICMP_UNREACH_PROTO] = {ICMP4_UNREACH, 2, ICMP6_PARAM, PARAM_NEXT_HEADER},
        [TN_ICMP_UNREACH_PORT] = {ICMP4_UNREACH, 3, ICMP6_UNREACH, 4},
        [TN_ICMP_UNREACH_ADMIN] = {ICMP4_UNREACH, 13, ICMP6_UNREACH, 1},
    };
    if (kind < TN_ICMP_ECHO_REQUEST || kind > TN_ICMP_UNREACH_ADMIN) return false;
    out[0] = family == 4 ? numbers[kind].type4 : numbers[kind].type6;
    out[1] = family == 4 ? numbers[kind].code4 : numbers[kind].code6;
    tn_put_be16(out + 2, 0);
    tn_put_be16(out + 4, id);
    tn_put_be16(out + 6, seq);
    if (out[0] == ICMP6_PARAM && family == 6)
        tn_put_be32(out + 4, 6); /* pointer: the base header's next-header byte */
    return true;
}
