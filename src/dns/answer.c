#include "dns/answer.h"
#include "util/cursor.h"
#include "util/err.h"

#include <string.h>

enum { OPCODE = 0x7800, AD = 0x20, CD = 0x10, RCODE = 15 };
enum { FORMERR = 1, NOTIMP = 4, REFUSED = 5, BADVERS = 16 };
enum { OPT_DO = 0x8000, OPT_LEN = 11 };
enum { UPSTREAM_UDP_SIZE = 1232 };
/* How long answers are kept at most. Addresses behind names move within hours; a wrong "no such name" hurts sooner; a failure
 * is remembered just long enough to stop a client that asks in a loop (RFC 9520 section 3.2). */
enum { POSITIVE_MAX_S = 86400, NEGATIVE_MAX_S = 3600, FAILURE_S = 2 };

int tn_dns_question_parse(const uint8_t *query, size_t len, struct tn_dns_question *out)
{
    struct tn_dns_question q = {.udp_size = TN_DNS_UDP_MIN};
    struct tn_dnsrr rr;
    if (tn_dnsmsg_parse(query, len, &q.m) != 0 || q.m.flags & TN_DNSMSG_QR) return TN_E_MALFORMED;
    struct tn_dnsrr_iter it = tn_dnsrr_begin(&q.m, query, len);
    int more;
    while ((more = tn_dnsrr_next(&it, &rr)) == 1) {
        if (rr.type != TN_DNSTYPE_OPT) continue;
        if (rr.section != TN_DNS_ADDITIONAL || q.has_opt || query[rr.name_at] != 0) return TN_E_MALFORMED;
        q.has_opt = true;
        q.version = (uint8_t)(rr.ttl_s >> 16);
        q.dnssec_ok = rr.ttl_s & OPT_DO;
        if (rr.class > q.udp_size) q.udp_size = rr.class;
    }
    if (more < 0) return more;
    *out = q;
    return 0;
}

int tn_dns_question_refusal(const struct tn_dns_question *q)
{
    if (q->m.flags & OPCODE) return NOTIMP;
    if (q->has_opt && q->version > 0) return BADVERS;
    switch (q->m.type) {
    case TN_DNSTYPE_OPT: return FORMERR;
    case TN_DNSTYPE_AXFR:
    case TN_DNSTYPE_IXFR: return REFUSED;
    default: return -1;
    }
}

unsigned tn_dns_question_flags(const struct tn_dns_question *q)
{
    return (q->m.flags & TN_DNSMSG_RD ? 1u : 0) | (q->m.flags & CD ? 2u : 0) | (q->dnssec_ok ? 4u : 0);
}

static void put_opt(struct tn_wr *w, unsigned rcode, bool dnssec_ok)
{
    tn_wr_u8(w, 0);
    tn_wr_be16(w, TN_DNSTYPE_OPT);
    tn_wr_be16(w, UPSTREAM_UDP_SIZE);
    tn_wr_be16(w, (uint16_t)((rcode >> 4) << 8)); /* and version 0 */
    tn_wr_be16(w, dnssec_ok ? OPT_DO : 0);
    tn_wr_be16(w, 0);
}

size_t tn_dns_canonical(const struct tn_dns_question *q, uint8_t out[TN_DNS_CANONICAL_MAX])
{
    struct tn_wr w = tn_wr_init(out, TN_DNS_CANONICAL_MAX);
    tn_wr_be16(&w, 0);
    tn_wr_be16(&w, (uint16_t)((q->m.flags & (TN_DNSMSG_RD | CD)) | AD)); /* AD: tell us, clients that don't ask won't be told */
    tn_wr_be16(&w, 1);
    tn_wr_zero(&w, 4);
    tn_wr_be16(&w, 1);
    for (size_t i = 0; i < q->m.name_len; i++) {
        uint8_t c = q->m.name[i];
        tn_wr_u8(&w, c >= 'A' && c <= 'Z' ? (uint8_t)(c + 32) : c);
    }
    tn_wr_be16(&w, q->m.type);
    tn_wr_be16(&w, q->m.class);
    put_opt(&w, 0, q->dnssec_ok);
    return tn_wr_len(&w);
}

size_t tn_dns_canonical_plain(uint8_t *query, size_t len)
{
    tn_put_be16(query + 10, 0);
    return len - OPT_LEN;
}

/* ---- answers of the upstream ---- */

struct making {
    const uint8_t *msg;
    size_t len;
    struct tn_dnsmsg m;
    const struct tn_dns_adjust *adjust;
    struct tn_dnsput put;
    unsigned rcode;
    bool has_opt, found, dropped, changed; /* found: a record of the asked type; one was left out for good; the data are not the zone's */
    uint32_t ttl_s, soa_s;        /* least of the answer's records; UINT32_MAX: none */
};

static void shorten(uint32_t *ttl, uint32_t to)
{
    if (to < *ttl) *ttl = to;
}

/* SOA: the last of its five numbers is how long "no" may be believed (RFC 2308 section 4). */
static void read_soa(struct making *k, const struct tn_dnsrr *rr)
{
    if (rr->data_len < 20) return;
    shorten(&k->soa_s, rr->ttl_s);
    shorten(&k->soa_s, tn_get_be32(k->msg + rr->data_at + rr->data_len - 4));
}

static int take_svcb(struct making *k, const struct tn_dnsrr *rr)
{
    uint8_t data[1024]; /* bindings are some ten to some hundred bytes */
    if (rr->data_len > sizeof data) {
        k->dropped = true;
        return 0;
    }
    long n = tn_dnssvcb_adjust(k->msg + rr->data_at, rr->data_len, k->adjust->no_udp, k->adjust->no_ipv6, data);
    if (n < 0) return (int)n;
    k->changed |= (size_t)n != rr->data_len;
    if (n > 0) return tn_dnsput_rr_data(&k->put, k->msg, k->len, rr, data, (size_t)n);
    k->dropped = true;
    return 0;
}

static int take_record(struct making *k, const struct tn_dnsrr *rr)
{
    const struct tn_dns_adjust *a = k->adjust;
    if (rr->type == TN_DNSTYPE_OPT) {
        k->has_opt = true;
        k->rcode |= rr->ttl_s >> 24 << 4;
        return 0;
    }
    if (rr->section == TN_DNS_ANSWER) {
        shorten(&k->ttl_s, rr->ttl_s);
        k->found |= rr->type == k->m.type || k->m.type == 255;
    }
    if (rr->type == TN_DNSTYPE_SOA && rr->section == TN_DNS_AUTHORITY) read_soa(k, rr);
    if (rr->type == TN_DNSTYPE_AAAA && a->no_ipv6 && rr->class == TN_DNSCLASS_IN) {
        k->dropped = k->changed = true;
        return 0;
    }
    bool binding = rr->type == TN_DNSTYPE_HTTPS || rr->type == TN_DNSTYPE_SVCB;
    if (binding && (a->no_udp || a->no_ipv6)) return take_svcb(k, rr);
    return tn_dnsput_rr(&k->put, k->msg, k->len, rr);
}

static uint32_t lifetime(const struct making *k)
{
    uint32_t ttl = k->ttl_s;
    if (k->m.flags & TN_DNSMSG_TC) return 0;
    if (k->rcode == TN_DNSMSG_SERVFAIL || k->rcode == REFUSED) return FAILURE_S;
    if (k->rcode != 0 && k->rcode != TN_DNSMSG_NXDOMAIN) return 0;
    if (k->rcode == 0 && k->found) return ttl < POSITIVE_MAX_S ? ttl : POSITIVE_MAX_S;
    if (k->soa_s == UINT32_MAX) return 0; /* RFC 2308 section 5 */
    shorten(&ttl, k->soa_s);
    return ttl < NEGATIVE_MAX_S ? ttl : NEGATIVE_MAX_S;
}

int tn_dns_answer_make(const uint8_t *msg, size_t len, const struct tn_dns_adjust *adjust, uint8_t *out, size_t cap,
                       struct tn_dns_answer *answer)
{
    struct making k = {.msg = msg, .len = len, .adjust = adjust, .ttl_s = UINT32_MAX, .soa_s = UINT32_MAX};
    struct tn_dnsrr rr;
    int more, err = tn_dnsmsg_parse(msg, len, &k.m);
    if (err) return err;
    k.rcode = k.m.flags & RCODE;
    tn_dnsput_begin(&k.put, out, cap, 0, k.m.flags, &k.m);
    struct tn_dnsrr_iter it = tn_dnsrr_begin(&k.m, msg, len);
    while ((more = tn_dnsrr_next(&it, &rr)) == 1)
        if ((err = take_record(&k, &rr)) != 0) return err;
    if (more < 0) {
        if (!(k.m.flags & TN_DNSMSG_TC)) return more;
        tn_dnsput_begin(&k.put, out, cap, 0, k.m.flags, &k.m); /* cut in the middle of a record */
    }
    if (k.changed) tn_put_be16(out + 2, (uint16_t)(k.m.flags & ~AD));
    long n = tn_dnsput_end(&k.put);
    if (n < 0) return (int)n;
    *answer = (struct tn_dns_answer){.bytes = out, .len = (size_t)n, .rcode = k.rcode, .ttl_s = lifetime(&k)};
    answer->no_edns = !k.has_opt && (k.rcode == FORMERR || k.rcode == NOTIMP);
    return 0;
}

/* ---- answers to clients ---- */

static uint16_t reply_flags(const struct tn_dns_question *q, uint16_t upstream, unsigned rcode)
{
    bool wants_ad = q->dnssec_ok || q->m.flags & AD; /* RFC 6840 section 5.8 */
    return (uint16_t)(TN_DNSMSG_QR | TN_DNSMSG_RA | (q->m.flags & (OPCODE | TN_DNSMSG_RD | CD)) | (upstream & TN_DNSMSG_TC) |
                      (wants_ad ? upstream & AD : 0) | (rcode & RCODE));
}

/* Header and question; the counts are those of `counts` (6 bytes). */
static size_t put_start(const struct tn_dns_question *q, uint16_t flags, const uint8_t *counts, uint8_t *out)
{
    struct tn_wr w = tn_wr_init(out, TN_DNSMSG_HEADER + TN_DNSMSG_NAME_MAX + 4);
    tn_wr_be16(&w, q->m.id);
    tn_wr_be16(&w, flags);
    tn_wr_be16(&w, 1);
    tn_wr_bytes(&w, counts, 6);
    tn_wr_bytes(&w, q->m.name, q->m.name_len);
    tn_wr_be16(&w, q->m.type);
    tn_wr_be16(&w, q->m.class);
    return tn_wr_len(&w);
}

static size_t finish(const struct tn_dns_question *q, unsigned rcode, uint8_t *out, size_t len)
{
    if (!q->has_opt) return len;
    struct tn_wr w = tn_wr_init(out + len, OPT_LEN);
    put_opt(&w, rcode, q->dnssec_ok);
    tn_put_be16(out + 10, (uint16_t)(tn_get_be16(out + 10) + 1));
    return len + OPT_LEN;
}

static const uint8_t no_records[6];

size_t tn_dns_reply_empty(const struct tn_dns_question *q, unsigned rcode, uint8_t *out)
{
    return finish(q, rcode, out, put_start(q, reply_flags(q, 0, rcode), no_records, out));
}

/* Time has passed since the answer came: what is said of each record is said of then. */
static void age(uint8_t *msg, size_t len, uint32_t age_s)
{
    struct tn_dnsmsg m;
    struct tn_dnsrr rr;
    if (age_s == 0 || tn_dnsmsg_parse(msg, len, &m) != 0) return;
    struct tn_dnsrr_iter it = tn_dnsrr_begin(&m, msg, len);
    while (tn_dnsrr_next(&it, &rr) == 1) {
        uint32_t left = rr.ttl_s > age_s ? rr.ttl_s - age_s : 0;
        tn_put_be16(msg + rr.ttl_at, (uint16_t)(left >> 16));
        tn_put_be16(msg + rr.ttl_at + 2, (uint16_t)left);
    }
}

size_t tn_dns_reply(const struct tn_dns_answer *a, const struct tn_dns_question *q, uint32_t age_s, size_t limit, uint8_t *out)
{
    uint16_t flags = reply_flags(q, tn_get_be16(a->bytes + 2), a->rcode);
    if (a->len + (q->has_opt ? OPT_LEN : 0) > limit) {
        size_t n = put_start(q, (uint16_t)(flags | TN_DNSMSG_TC), no_records, out);
        return finish(q, a->rcode, out, n);
    }
    size_t start = put_start(q, flags, a->bytes + 6, out);
    memcpy(out + start, a->bytes + start, a->len - start);
    age(out, a->len, age_s);
    return finish(q, a->rcode, out, a->len);
}

void tn_dns_answer_addresses(const struct tn_dns_answer *a,
                             void (*each)(void *arg, const uint8_t *addr, int family, uint32_t ttl_s), void *arg)
{
    struct tn_dnsmsg m;
    struct tn_dnsrr rr;
    if (a->rcode != 0 || tn_dnsmsg_parse(a->bytes, a->len, &m) != 0) return;
    struct tn_dnsrr_iter it = tn_dnsrr_begin(&m, a->bytes, a->len);
    while (tn_dnsrr_next(&it, &rr) == 1) {
        bool v4 = rr.type == TN_DNSTYPE_A, v6 = rr.type == TN_DNSTYPE_AAAA;
        if (rr.section != TN_DNS_ANSWER || rr.class != TN_DNSCLASS_IN || !(v4 || v6)) continue;
        if (rr.data_len == (v4 ? 4u : 16u)) each(arg, a->bytes + rr.data_at, v4 ? 4 : 6, rr.ttl_s);
    }
}
