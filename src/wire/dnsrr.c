#include "wire/dnsrr.h"
#include "util/cursor.h"
#include "util/err.h"

enum { LABEL_MAX = 63, POINTER = 0xc0, POINTER_REACH = 0x4000 };

static uint8_t lower(uint8_t c) { return c >= 'A' && c <= 'Z' ? (uint8_t)(c + 32) : c; }

bool tn_dnsname_eq(const uint8_t *a, size_t alen, const uint8_t *b, size_t blen)
{
    if (alen != blen) return false;
    for (size_t i = 0; i < alen; i++) /* label lengths are below 'A' and compare as themselves */
        if (lower(a[i]) != lower(b[i])) return false;
    return true;
}

long tn_dnsname_expand(const uint8_t *msg, size_t len, size_t at, uint8_t out[TN_DNSMSG_NAME_MAX], size_t *end)
{
    size_t n = 0, limit = at + 1; /* a pointer leads to before the place it was found in, or the walk would not end */
    bool jumped = false;
    for (;;) {
        if (at >= len) return TN_E_MALFORMED;
        uint8_t label = msg[at];
        if ((label & POINTER) == POINTER) {
            if (at + 1 >= len) return TN_E_MALFORMED;
            size_t to = (size_t)(label & ~POINTER & 0xff) << 8 | msg[at + 1];
            if (!jumped) *end = at + 2;
            if (to >= limit - 1) return TN_E_MALFORMED;
            jumped = true;
            at = to;
            limit = to + 1;
            continue;
        }
        if (label > LABEL_MAX || n + label + 1 > TN_DNSMSG_NAME_MAX || at + label + 1 > len) return TN_E_MALFORMED;
        memcpy(out + n, msg + at, label + 1u);
        n += label + 1u;
        at += label + 1u;
        if (label) continue;
        if (!jumped) *end = at;
        return (long)n;
    }
}

/* Behind the name at `at`, without following it; 0: malformed. */
static size_t skip_name(const uint8_t *msg, size_t len, size_t at)
{
    while (at < len) {
        uint8_t label = msg[at];
        if ((label & POINTER) == POINTER) return at + 2 <= len ? at + 2 : 0;
        if (label > LABEL_MAX) return 0;
        at += label + 1u;
        if (label == 0) return at;
    }
    return 0;
}

struct tn_dnsrr_iter tn_dnsrr_begin(const struct tn_dnsmsg *m, const uint8_t *msg, size_t len)
{
    return (struct tn_dnsrr_iter){
        .msg = msg, .len = len, .at = m->question_end, .left = {m->answers, m->authority, m->additional}};
}

int tn_dnsrr_next(struct tn_dnsrr_iter *it, struct tn_dnsrr *out)
{
    unsigned section = 0;
    while (section < TN_DNS_SECTIONS && it->left[section] == 0) section++;
    if (section == TN_DNS_SECTIONS) return 0;
    size_t fixed = skip_name(it->msg, it->len, it->at);
    if (fixed == 0) return TN_E_MALFORMED;
    struct tn_rd r = tn_rd_init(it->msg + fixed, it->len - fixed);
    struct tn_dnsrr rr = {.section = section, .name_at = it->at, .ttl_at = fixed + 4, .data_at = fixed + 10};
    rr.type = tn_rd_be16(&r);
    rr.class = tn_rd_be16(&r);
    rr.ttl_s = tn_rd_be32(&r);
    rr.data_len = tn_rd_be16(&r);
    if (!tn_rd_take(&r, rr.data_len)) return TN_E_MALFORMED;
    if (rr.ttl_s > 0x7fffffff) rr.ttl_s = rr.type == TN_DNSTYPE_OPT ? rr.ttl_s : 0; /* RFC 2181 section 8 */
    it->at = rr.data_at + rr.data_len;
    it->left[section]--;
    *out = rr;
    return 1;
}

/* ---- writing ---- */

static uint8_t *make(struct tn_dnsput *p, size_t n)
{
    if (p->failed || p->cap - p->len < n) {
        p->failed = true;
        return NULL;
    }
    uint8_t *at = p->out + p->len;
    p->len += n;
    return at;
}

static void put_bytes(struct tn_dnsput *p, const uint8_t *bytes, size_t n)
{
    uint8_t *at = make(p, n);
    if (at && n) memcpy(at, bytes, n);
}

static void put_be16(struct tn_dnsput *p, uint16_t v)
{
    uint8_t *at = make(p, 2);
    if (at) tn_put_be16(at, v);
}

void tn_dnsput_begin(struct tn_dnsput *p, uint8_t *out, size_t cap, uint16_t id, uint16_t flags, const struct tn_dnsmsg *m)
{
    *p = (struct tn_dnsput){.out = out, .cap = cap};
    put_be16(p, id);
    put_be16(p, flags);
    put_be16(p, 1);
    uint8_t *counts = make(p, 6);
    if (counts) memset(counts, 0, 6);
    put_bytes(p, m->name, m->name_len);
    put_be16(p, m->type);
    put_be16(p, m->class);
    size_t at = TN_DNSMSG_HEADER;
    for (const uint8_t *label = m->name; *label && p->nnames < TN_DNSPUT_NAMES / 2; label += *label + 1u) {
        p->names[p->nnames++] = (uint16_t)at;
        at += *label + 1u;
    }
}

/* Is the name written at this place (which is ours, and so ends) the same as this uncompressed one? */
static bool written_is(const struct tn_dnsput *p, size_t at, const uint8_t *name)
{
    for (;;) {
        uint8_t label = p->out[at];
        if ((label & POINTER) == POINTER) {
            at = (size_t)(label & ~POINTER & 0xff) << 8 | p->out[at + 1];
            continue;
        }
        if (label != *name) return false;
        for (unsigned i = 1; i <= label; i++)
            if (lower(p->out[at + i]) != lower(name[i])) return false;
        if (label == 0) return true;
        at += label + 1u;
        name += label + 1u;
    }
}

static size_t find_written(const struct tn_dnsput *p, const uint8_t *name)
{
    for (unsigned i = 0; i < p->nnames; i++)
        if (written_is(p, p->names[i], name)) return p->names[i];
    return 0;
}

/* Later names may end in what was written in full here. Only now: nothing unfinished is ever looked at. */
static void remember(struct tn_dnsput *p, size_t at)
{
    while (!p->failed && at < POINTER_REACH && p->nnames < TN_DNSPUT_NAMES && p->out[at] && p->out[at] <= LABEL_MAX) {
        p->names[p->nnames++] = (uint16_t)at;
        at += p->out[at] + 1u;
    }
}

static void put_name(struct tn_dnsput *p, const uint8_t *name, bool compress)
{
    size_t start = p->len, before = 0;
    for (; *name; name += *name + 1u) {
        before = compress && !p->failed ? find_written(p, name) : 0;
        if (before) break;
        put_bytes(p, name, *name + 1u);
    }
    if (before) put_be16(p, (uint16_t)(POINTER << 8 | before));
    else put_bytes(p, name, 1);
    if (compress) remember(p, start);
}

/* What data consists of: n a name that may be compressed (RFC 1035's own types), N a name that may not (RFC 3597
 * section 4), a digit that many bytes, s a character string, r the rest. NULL: no names inside. */
static const char *layout_of(uint16_t type)
{
    switch (type) {
    case 2: case 3: case 4: case 5: case 7: case 8: case 9: case 12: return "n"; /* NS MD MF CNAME MB MG MR PTR */
    case 6: return "nn44444";         /* SOA */
    case 14: return "nn";             /* MINFO */
    case 15: return "2n";             /* MX */
    case 17: return "NN";             /* RP */
    case 18: case 21: case 36: return "2N"; /* AFSDB RT KX */
    case 24: return "448" "2Nr";      /* SIG */
    case 26: return "2NN";            /* PX */
    case 30: return "Nr";             /* NXT */
    case 33: return "222N";           /* SRV */
    case 35: return "22sssN";         /* NAPTR */
    case 39: return "N";              /* DNAME */
    default: return NULL;
    }
}

/* Moves over one element of data at *at, which ends at end. */
static int copy_part(struct tn_dnsput *p, const uint8_t *msg, size_t len, size_t *at, size_t end, char part)
{
    uint8_t name[TN_DNSMSG_NAME_MAX];
    size_t n = part == 'r' ? end - *at : part == 's' ? (*at < end ? msg[*at] + 1u : 1) : (size_t)(part - '0');
    if (part == 'n' || part == 'N') {
        size_t behind;
        if (*at >= end || tn_dnsname_expand(msg, len, *at, name, &behind) < 0 || behind > end) return TN_E_MALFORMED;
        put_name(p, name, part == 'n');
        *at = behind;
        return 0;
    }
    if (n > end - *at) return TN_E_MALFORMED;
    put_bytes(p, msg + *at, n);
    *at += n;
    return 0;
}

static int copy_data(struct tn_dnsput *p, const uint8_t *msg, size_t len, const struct tn_dnsrr *rr)
{
    size_t at = rr->data_at, end = at + rr->data_len;
    const char *layout = layout_of(rr->type);
    if (!layout) {
        put_bytes(p, msg + at, rr->data_len);
        return 0;
    }
    for (; *layout; layout++)
        if (copy_part(p, msg, len, &at, end, *layout) != 0) return TN_E_MALFORMED;
    return at == end ? 0 : TN_E_MALFORMED;
}

/* The record up to its data; *length_at is where the length goes. */
static int put_head(struct tn_dnsput *p, const uint8_t *msg, size_t len, const struct tn_dnsrr *rr, size_t *length_at)
{
    uint8_t name[TN_DNSMSG_NAME_MAX];
    size_t behind;
    if (tn_dnsname_expand(msg, len, rr->name_at, name, &behind) < 0) return TN_E_MALFORMED;
    put_name(p, name, true);
    put_be16(p, rr->type);
    put_be16(p, rr->class);
    put_be16(p, (uint16_t)(rr->ttl_s >> 16));
    put_be16(p, (uint16_t)rr->ttl_s);
    *length_at = p->len;
    put_be16(p, 0);
    return 0;
}

static void finish_rr(struct tn_dnsput *p, size_t length_at, unsigned section)
{
    if (p->failed) return;
    size_t n = p->len - length_at - 2;
    if (n > 0xffff) p->failed = true;
    else tn_put_be16(p->out + length_at, (uint16_t)n);
    p->counts[section]++;
}

int tn_dnsput_rr(struct tn_dnsput *p, const uint8_t *msg, size_t len, const struct tn_dnsrr *rr)
{
    size_t length_at;
    int err = put_head(p, msg, len, rr, &length_at);
    if (!err) err = copy_data(p, msg, len, rr);
    if (!err) finish_rr(p, length_at, rr->section);
    return err;
}

int tn_dnsput_rr_data(struct tn_dnsput *p, const uint8_t *msg, size_t len, const struct tn_dnsrr *rr, const uint8_t *data,
                      size_t data_len)
{
    size_t length_at;
    int err = put_head(p, msg, len, rr, &length_at);
    if (err) return err;
    put_bytes(p, data, data_len);
    finish_rr(p, length_at, rr->section);
    return 0;
}

long tn_dnsput_end(struct tn_dnsput *p)
{
    if (p->failed || p->len > TN_DNSMSG_MAX) return TN_E_NOSPC;
    for (int i = 0; i < TN_DNS_SECTIONS; i++) tn_put_be16(p->out + 6 + 2 * i, (uint16_t)p->counts[i]);
    return (long)p->len;
}

/* ---- service bindings ---- */

enum { KEY_MANDATORY = 0, KEY_ALPN = 1, KEY_NO_DEFAULT_ALPN = 2, KEY_IPV6HINT = 6 };

static bool is_h3(const uint8_t *id, size_t len)
{
    return len >= 2 && id[0] == 'h' && id[1] == '3' && (len == 2 || id[2] == '-');
}

/* The protocols that stay; *kept their count. */
static int filter_alpn(struct tn_rd *value, struct tn_wr *w, unsigned *kept)
{
    *kept = 0;
    while (tn_rd_left(value) > 0) {
        uint8_t n = tn_rd_u8(value);
        const uint8_t *id = tn_rd_take(value, n);
        if (!id || n == 0) return TN_E_MALFORMED;
        if (is_h3(id, n)) continue;
        tn_wr_u8(w, n);
        tn_wr_bytes(w, id, n);
        ++*kept;
    }
    return 0;
}

struct svcb {
    bool no_udp, no_ipv6;
    bool no_default, alpn_gone, mandatory_alpn, mandatory_ipv6;
};

static void read_mandatory(struct svcb *s, struct tn_rd value)
{
    while (tn_rd_left(&value) >= 2) {
        uint16_t key = tn_rd_be16(&value);
        s->mandatory_alpn |= key == KEY_ALPN;
        s->mandatory_ipv6 |= key == KEY_IPV6HINT;
    }
}

static int adjust_param(struct svcb *s, uint16_t key, struct tn_rd value, struct tn_wr *w)
{
    if (key == KEY_MANDATORY) read_mandatory(s, value);
    if (key == KEY_NO_DEFAULT_ALPN) s->no_default = true;
    if (key == KEY_IPV6HINT && s->no_ipv6) return s->mandatory_ipv6 ? TN_E_NOENT : 0;
    struct tn_wr start = *w;
    tn_wr_be16(w, key);
    tn_wr_be16(w, (uint16_t)tn_rd_left(&value));
    if (key != KEY_ALPN || !s->no_udp) {
        tn_wr_bytes(w, value.p, tn_rd_left(&value));
        return 0;
    }
    unsigned kept;
    if (filter_alpn(&value, w, &kept) != 0) return TN_E_MALFORMED;
    if (kept) {
        tn_put_be16(start.p + 2, (uint16_t)(w->p - start.p - 4));
        return 0;
    }
    s->alpn_gone = true;
    *w = start; /* what remains is the scheme's default protocol, which needs no saying */
    return s->mandatory_alpn ? TN_E_NOENT : 0;
}

long tn_dnssvcb_adjust(const uint8_t *data, size_t len, bool no_udp, bool no_ipv6, uint8_t *out)
{
    struct svcb s = {.no_udp = no_udp, .no_ipv6 = no_ipv6};
    uint8_t target[TN_DNSMSG_NAME_MAX];
    size_t at;
    long name = len < 3 ? TN_E_MALFORMED : tn_dnsname_expand(data, len, 2, target, &at);
    if (name < 0 || at != 2 + (size_t)name) return TN_E_MALFORMED; /* never compressed */
    struct tn_wr w = tn_wr_init(out, len);
    struct tn_rd r = tn_rd_init(data + at, len - at);
    tn_wr_bytes(&w, data, at);
    while (tn_rd_left(&r) > 0) {
        uint16_t key = tn_rd_be16(&r);
        struct tn_rd value = tn_rd_sub(&r, tn_rd_be16(&r));
        if (!tn_rd_ok(&r)) return TN_E_MALFORMED;
        int err = adjust_param(&s, key, value, &w);
        if (err) return err == TN_E_NOENT ? 0 : err;
    }
    if (!tn_rd_ok(&r) || !tn_wr_ok(&w)) return TN_E_MALFORMED;
    return s.no_default && s.alpn_gone ? 0 : (long)tn_wr_len(&w);
}
