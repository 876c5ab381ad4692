#include "wire/tcp.h"
#include "util/cursor.h"
#include "util/err.h"

enum opt { OPT_END = 0, OPT_NOP = 1, OPT_MSS = 2, OPT_WSCALE = 3, OPT_SACK_OK = 4, OPT_SACK = 5, OPT_TS = 8 };
enum { LEN_MSS = 4, LEN_WSCALE = 3, LEN_SACK_OK = 2, LEN_TS = 10, SACK_BLOCK = 8 };

static int parse_sack(struct tn_rd *r, struct tn_tcp_seg *s)
{
    size_t left = tn_rd_left(r);
    if (left == 0 || left % SACK_BLOCK != 0) return TN_E_MALFORMED;
    while (tn_rd_left(r) > 0) {
        struct tn_tcp_sack b = {.start = tn_rd_be32(r)};
        b.end = tn_rd_be32(r);
        if (b.start != b.end && s->nsack < TN_TCP_SACK_MAX) s->sack[s->nsack++] = b;
    }
    return 0;
}

/* body: the option without kind and length. */
static int parse_option(uint8_t kind, struct tn_rd body, struct tn_tcp_seg *s)
{
    bool syn = s->flags & TN_TCP_SYN;
    size_t len = tn_rd_left(&body) + 2;
    switch (kind) {
    case OPT_MSS:
        if (len != LEN_MSS) return TN_E_MALFORMED;
        if (syn) s->mss = tn_rd_be16(&body);
        return 0;
    case OPT_WSCALE:
        if (len != LEN_WSCALE) return TN_E_MALFORMED;
        if (!syn) return 0;
        s->has_wscale = true;
        s->wscale = tn_rd_u8(&body);
        if (s->wscale > TN_TCP_WSCALE_MAX) s->wscale = TN_TCP_WSCALE_MAX;
        return 0;
    case OPT_SACK_OK:
        if (len != LEN_SACK_OK) return TN_E_MALFORMED;
        s->sack_ok = syn;
        return 0;
    case OPT_TS:
        if (len != LEN_TS) return TN_E_MALFORMED;
        s->has_ts = true;
        s->tsval = tn_rd_be32(&body);
        s->tsecr = tn_rd_be32(&body);
        return 0;
    case OPT_SACK: return parse_sack(&body, s);
    default: return 0;
    }
}

static int parse_options(struct tn_rd r, struct tn_tcp_seg *s)
{
    while (tn_rd_left(&r) > 0) {
        uint8_t kind = tn_rd_u8(&r);
        if (kind == OPT_END) return 0;
        if (kind == OPT_NOP) continue;
        uint8_t len = tn_rd_u8(&r);
        if (len < 2) return TN_E_MALFORMED;
        struct tn_rd body = tn_rd_sub(&r, len - 2u);
        if (!tn_rd_ok(&body)) return TN_E_MALFORMED;
        int err = parse_option(kind, body, s);
        if (err) return err;
    }
    return 0;
}

int tn_tcp_seg_parse(const uint8_t *l4, size_t len, struct tn_tcp_seg *out)
{
    struct tn_rd r = tn_rd_init(l4, len);
    struct tn_tcp_seg s = {.sport = tn_rd_be16(&r), .dport = tn_rd_be16(&r)};
    s.seq = tn_rd_be32(&r);
    s.ack = tn_rd_be32(&r);
    size_t hdr = (size_t)(tn_rd_u8(&r) >> 4) * 4;
    s.flags = tn_rd_u8(&r);
    s.window = tn_rd_be16(&r);
    tn_rd_take(&r, 4); /* checksum, urgent pointer */
    if (!tn_rd_ok(&r) || hdr < TN_TCP_HDR_MIN || hdr > len) return TN_E_MALFORMED;
    int err = parse_options(tn_rd_sub(&r, hdr - TN_TCP_HDR_MIN), &s);
    if (err) return err;
    /* Field by field, as in ip.c: a copy of the whole would wait for the small pieces it was written in. */
    *out = (struct tn_tcp_seg){
        .sport = s.sport, .dport = s.dport, .seq = s.seq, .ack = s.ack, .flags = s.flags, .window = s.window, .mss = s.mss,
        .wscale = s.wscale, .has_wscale = s.has_wscale, .sack_ok = s.sack_ok, .has_ts = s.has_ts, .tsval = s.tsval,
        .tsecr = s.tsecr, .nsack = s.nsack, .payload = l4 + hdr, .len = len - hdr, .first_len = len - hdr,
    };
    for (unsigned i = 0; i < s.nsack; i++) out->sack[i] = s.sack[i];
    return 0;
}

static void put_syn_options(struct tn_wr *w, const struct tn_tcp_seg *s)
{
    if (s->mss) {
        tn_wr_u8(w, OPT_MSS);
        tn_wr_u8(w, LEN_MSS);
        tn_wr_be16(w, s->mss);
    }
    if (s->sack_ok) {
        tn_wr_be32(w, (uint32_t)OPT_NOP << 24 | OPT_NOP << 16 | OPT_SACK_OK << 8 | LEN_SACK_OK);
    }
    if (s->has_wscale) {
        tn_wr_u8(w, OPT_NOP);
        tn_wr_u8(w, OPT_WSCALE);
        tn_wr_u8(w, LEN_WSCALE);
        tn_wr_u8(w, s->wscale);
    }
}

static void put_sack(struct tn_wr *w, const struct tn_tcp_seg *s)
{
    size_t room = (size_t)(w->end - w->p);
    size_t n = room < 4 ? 0 : (room - 4) / SACK_BLOCK;
    if (n > s->nsack) n = s->nsack;
    if (n == 0) return;
    tn_wr_be32(w, (uint32_t)OPT_NOP << 24 | OPT_NOP << 16 | OPT_SACK << 8 | (uint32_t)(2 + n * SACK_BLOCK));
    for (size_t i = 0; i < n; i++) {
        tn_wr_be32(w, s->sack[i].start);
        tn_wr_be32(w, s->sack[i].end);
    }
}

size_t tn_tcp_seg_put(uint8_t *out, const struct tn_tcp_seg *s)
{
    struct tn_wr w = tn_wr_init(out + TN_TCP_HDR_MIN, TN_TCP_HDR_MAX - TN_TCP_HDR_MIN);
    tn_put_be16(out, s->sport);
    tn_put_be16(out + 2, s->dport);
    tn_put_be32(out + 4, s->seq);
    tn_put_be32(out + 8, s->ack);
    out[13] = s->flags;
    tn_put_be16(out + 14, s->window);
    tn_put_be32(out + 16, 0); /* checksum, urgent pointer */
    if (s->flags & TN_TCP_SYN) put_syn_options(&w, s);
    if (s->has_ts) {
        tn_wr_be32(&w, (uint32_t)OPT_NOP << 24 | OPT_NOP << 16 | OPT_TS << 8 | LEN_TS);
        tn_wr_be32(&w, s->tsval);
        tn_wr_be32(&w, s->tsecr);
    }
    put_sack(&w, s);
    size_t len = TN_TCP_HDR_MIN + tn_wr_len(&w); /* every option above is padded to four bytes */
    out[12] = (uint8_t)(len / 4 << 4);
    return len;
}
