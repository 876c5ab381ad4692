#include "wire/tsmp.h"
#include "util/cursor.h"
#include "util/err.h"

enum { FLAG_MAYBE_BROKEN = 1 };
enum { PAYLOAD_MIN = 7 }; /* shorter payloads are not TSMP, whatever the type byte says */

static void parse_reject(struct tn_rd *r, struct tn_tsmp *m)
{
    m->reject.proto = tn_rd_u8(r);
    m->reject.reason = tn_rd_u8(r);
    m->reject.sport = tn_rd_be16(r);
    m->reject.dport = tn_rd_be16(r);
    if (tn_rd_left(r) > 0) m->reject.maybe_broken = tn_rd_u8(r) & FLAG_MAYBE_BROKEN;
}

int tn_tsmp_parse(const uint8_t *payload, size_t len, struct tn_tsmp *out)
{
    struct tn_rd r = tn_rd_init(payload, len);
    if (len < PAYLOAD_MIN) return TN_E_MALFORMED;
    struct tn_tsmp m = {.type = tn_rd_u8(&r)};
    switch (m.type) {
    case TN_TSMP_REJECT: parse_reject(&r, &m); break;
    case TN_TSMP_PING:
    case TN_TSMP_PONG:
        tn_rd_bytes(&r, m.ping.data, sizeof m.ping.data);
        if (m.type == TN_TSMP_PONG && tn_rd_left(&r) >= 2) m.ping.peerapi_port = tn_rd_be16(&r);
        break;
    case TN_TSMP_ADVERT: tn_rd_bytes(&r, m.disco_key, sizeof m.disco_key); break;
    default: return TN_E_UNSUPPORTED;
    }
    if (!tn_rd_ok(&r)) return TN_E_MALFORMED;
    *out = m;
    return 0;
}

size_t tn_tsmp_put(uint8_t out[TN_TSMP_MAX], const struct tn_tsmp *m)
{
    struct tn_wr w = tn_wr_init(out, TN_TSMP_MAX);
    tn_wr_u8(&w, (uint8_t)m->type);
    switch (m->type) {
    case TN_TSMP_REJECT:
        tn_wr_u8(&w, m->reject.proto);
        tn_wr_u8(&w, m->reject.reason);
        tn_wr_be16(&w, m->reject.sport);
        tn_wr_be16(&w, m->reject.dport);
        if (m->reject.maybe_broken) tn_wr_u8(&w, FLAG_MAYBE_BROKEN);
        break;
    case TN_TSMP_PING:
    case TN_TSMP_PONG:
        tn_wr_bytes(&w, m->ping.data, sizeof m->ping.data);
        if (m->type == TN_TSMP_PONG) tn_wr_be16(&w, m->ping.peerapi_port);
        break;
    case TN_TSMP_ADVERT: tn_wr_bytes(&w, m->disco_key, sizeof m->disco_key); break;
    }
    return tn_wr_len(&w);
}
