#include "wire/ip.h"
#include "util/cursor.h"
#include "util/err.h"

enum { EXT_HOPOPTS = 0, EXT_ROUTING = 43, EXT_FRAGMENT = 44, EXT_ESP = 50, EXT_AH = 51, EXT_NONE = 59, EXT_DSTOPTS = 60 };
enum { MAX_EXT_HEADERS = 8 }; /* RFC 8200 lists six kinds; more is an attempt to make us walk */
enum { OPT_LSRR = 131, OPT_SSRR = 137 };

long tn_ippkt_length(const uint8_t *p, size_t len)
{
    if (len < 20) return TN_E_MALFORMED;
    size_t total = 0;
    if (p[0] >> 4 == 4) total = tn_get_be16(p + 2);
    else if (p[0] >> 4 == 6 && len >= 40) total = 40u + tn_get_be16(p + 4);
    if (total < (p[0] >> 4 == 4 ? 20u : 40u) || total > len) return TN_E_MALFORMED;
    return (long)total;
}

static bool has_source_route(const uint8_t *opt, size_t len)
{
    while (len > 0 && opt[0] != 0) {
        if (opt[0] == 1) {
            opt++;
            len--;
            continue;
        }
        if (opt[0] == OPT_LSRR || opt[0] == OPT_SSRR || len < 2 || opt[1] < 2 || opt[1] > len) return true;
        len -= opt[1];
        opt += opt[1];
    }
    return false;
}

static int parse4(const uint8_t *p, struct tn_ippkt *k)
{
    size_t hdr = (size_t)(p[0] & 15) * 4;
    if (hdr < 20 || hdr > k->total_len) return TN_E_MALFORMED;
    if (tn_cksum_fold(tn_cksum_add(0, p, hdr)) != 0) return TN_E_MALFORMED;
    if (has_source_route(p + 20, hdr - 20)) return TN_E_MALFORMED;
    uint16_t frag = tn_get_be16(p + 6);
    k->tos = p[1];
    k->frag_id = tn_get_be16(p + 4);
    k->more_frags = frag & 0x2000;
    k->frag_off = (uint16_t)((frag & 0x1fff) * 8);
    k->has_frag = k->more_frags || k->frag_off;
    k->ttl = p[8];
    k->proto = p[9];
    k->hdr_len = hdr;
    return 0;
}

static int parse6(const uint8_t *p, struct tn_ippkt *k)
{
    k->tos = (uint8_t)(p[0] << 4 | p[1] >> 4);
    k->ttl = p[7];
    uint8_t next = p[6];
    size_t at = 40;
    for (int n = 0;; n++) {
        if (next == EXT_ROUTING || next == EXT_ESP || n > MAX_EXT_HEADERS) return TN_E_MALFORMED;
        if (next != EXT_HOPOPTS && next != EXT_FRAGMENT && next != EXT_AH && next != EXT_DSTOPTS) break;
        if (next == EXT_HOPOPTS && n > 0) return TN_E_MALFORMED;
        if (k->total_len - at < 8) return TN_E_MALFORMED;
        const uint8_t *h = p + at;
        size_t ext = next == EXT_FRAGMENT ? 8 : next == EXT_AH ? (h[1] + 2u) * 4 : (h[1] + 1u) * 8;
        if (ext > k->total_len - at) return TN_E_MALFORMED;
        if (next == EXT_FRAGMENT) {
            if (k->has_frag) return TN_E_MALFORMED;
            k->has_frag = true;
            k->frag_off = tn_get_be16(h + 2) & 0xfff8;
            k->more_frags = h[3] & 1;
            k->frag_id = tn_get_be32(h + 4);
        }
        next = h[0];
        at += ext;
        if (k->frag_off) break; /* what follows is payload, whatever its number says */
    }
    k->proto = next;
    k->hdr_len = at;
    return 0;
}

int tn_ippkt_parse(const uint8_t *packet, size_t len, struct tn_ippkt *out)
{
    long total = tn_ippkt_length(packet, len);
    if (total < 0) return (int)total;
    bool v4 = packet[0] >> 4 == 4;
    struct tn_ippkt k;
    k.total_len = (size_t)total;
    k.frag_id = 0;
    k.frag_off = 0;
    k.has_frag = k.more_frags = false;
    int err = v4 ? parse4(packet, &k) : parse6(packet, &k);
    if (err) return err;
    /* Field by field: to copy what was just written in small pieces in larger ones stalls for a dozen cycles each. */
    out->src = tn_ip_from_bytes(packet + (v4 ? 12 : 8), v4 ? 4 : 6);
    out->dst = tn_ip_from_bytes(packet + (v4 ? 16 : 24), v4 ? 4 : 6);
    out->proto = k.proto;
    out->ttl = k.ttl;
    out->tos = k.tos;
    out->more_frags = k.more_frags;
    out->frag_off = k.frag_off;
    out->frag_id = k.frag_id;
    out->has_frag = k.has_frag;
    out->l4 = packet + k.hdr_len;
    out->l4_len = k.total_len - k.hdr_len;
    out->total_len = k.total_len;
    out->hdr_len = k.hdr_len;
    return 0;
}

/* The sum does not depend on the byte order (RFC 1071 section 2B): words are added as the machine reads them, which the compiler
 * turns into vector instructions, and the result is swapped once. */
uint32_t tn_cksum_add(uint32_t sum, const void *bytes, size_t len)
{
    const uint8_t *p = bytes;
    uint64_t even = 0, odd = 0;
    for (; len >= 16; len -= 16, p += 16) {
        uint32_t w[4];
        memcpy(w, p, sizeof w);
        even += (uint64_t)w[0] + w[1];
        odd += (uint64_t)w[2] + w[3];
    }
    uint64_t acc = even + odd;
    for (; len >= 4; len -= 4, p += 4) {
        uint32_t w;
        memcpy(&w, p, sizeof w);
        acc += w;
    }
    uint8_t tail[4] = {0}; /* an odd byte is padded with a zero behind it */
    for (size_t i = 0; i < len; i++) tail[i] = p[i];
    uint32_t rest;
    memcpy(&rest, tail, sizeof rest);
    acc += rest;
    acc = (acc & 0xffffffff) + (acc >> 32);
    acc = (acc & 0xffff) + (acc >> 16 & 0xffff) + (acc >> 32);
    acc = (acc & 0xffff) + (acc >> 16);
    acc = (acc & 0xffff) + (acc >> 16);
    uint16_t native = (uint16_t)acc;
    return sum + tn_get_be16((uint8_t *)&native);
}

uint32_t tn_cksum_pseudo(const struct tn_ip *src, const struct tn_ip *dst, uint8_t proto, uint32_t l4_len)
{
    uint32_t sum = tn_cksum_add(0, src->b, tn_ip_len(src));
    sum = tn_cksum_add(sum, dst->b, tn_ip_len(dst));
    return sum + proto + (l4_len >> 16) + (l4_len & 0xffff);
}

bool tn_ippkt_cksum_ok(const struct tn_ippkt *p)
{
    uint32_t sum = 0;
    switch (p->proto) {
    case TN_IPPROTO_ICMP:
        if (p->src.family != 4) return false;
        break;
    case TN_IPPROTO_ICMP6:
        if (p->src.family != 6) return false;
        sum = tn_cksum_pseudo(&p->src, &p->dst, p->proto, (uint32_t)p->l4_len);
        break;
    case TN_IPPROTO_UDP:
        if (p->l4_len < 8) return false;
        if (p->src.family == 4 && tn_get_be16(p->l4 + 6) == 0) return true;
        if (p->src.family == 6 && tn_get_be16(p->l4 + 6) == 0) return false;
        sum = tn_cksum_pseudo(&p->src, &p->dst, p->proto, (uint32_t)p->l4_len);
        break;
    case TN_IPPROTO_TCP: sum = tn_cksum_pseudo(&p->src, &p->dst, p->proto, (uint32_t)p->l4_len); break;
    default: return true;
    }
    return tn_cksum_fold(tn_cksum_add(sum, p->l4, p->l4_len)) == 0;
}

size_t tn_ip_header_put(uint8_t *out, const struct tn_ip *src, const struct tn_ip *dst, uint8_t proto, size_t l4_len,
                        uint8_t ttl, uint16_t id)
{
    if (src->family == 4) {
        out[0] = 0x45;
        out[1] = 0;
        tn_put_be16(out + 2, (uint16_t)(20 + l4_len));
        tn_put_be16(out + 4, id);
        tn_put_be16(out + 6, 0x4000);
        out[8] = ttl;
        out[9] = proto;
        tn_put_be16(out + 10, 0);
        memcpy(out + 12, src->b, 4);
        memcpy(out + 16, dst->b, 4);
        tn_put_be16(out + 10, tn_cksum_fold(tn_cksum_add(0, out, 20)));
        return 20;
    }
    tn_put_be32(out, 0x60000000);
    tn_put_be16(out + 4, (uint16_t)l4_len);
    out[6] = proto;
    out[7] = ttl;
    memcpy(out + 8, src->b, 16);
    memcpy(out + 24, dst->b, 16);
    return 40;
}
