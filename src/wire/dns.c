#include "wire/dns.h"
#include "util/cursor.h"
#include "util/err.h"

enum { LABEL_MAX = 63, OPCODE_MASK = 0x7800 };

/* Moves over an uncompressed name; its length with the zero byte, or 0 when it is none. */
static size_t take_name(struct tn_rd *r)
{
    size_t total = 0;
    for (;;) {
        uint8_t label = tn_rd_u8(r);
        total += label + 1u;
        if (label > LABEL_MAX || total > TN_DNSMSG_NAME_MAX || !tn_rd_take(r, label)) return 0;
        if (label == 0) return total;
    }
}

int tn_dnsmsg_parse(const uint8_t *bytes, size_t len, struct tn_dnsmsg *out)
{
    struct tn_rd r = tn_rd_init(bytes, len);
    struct tn_dnsmsg m = {0};
    m.id = tn_rd_be16(&r);
    m.flags = tn_rd_be16(&r);
    m.questions = tn_rd_be16(&r);
    m.answers = tn_rd_be16(&r);
    m.authority = tn_rd_be16(&r);
    m.additional = tn_rd_be16(&r);
    if (!tn_rd_ok(&r) || len > TN_DNSMSG_MAX || m.questions != 1) return TN_E_MALFORMED;
    m.name = r.p;
    m.name_len = take_name(&r);
    m.type = tn_rd_be16(&r);
    m.class = tn_rd_be16(&r);
    if (!tn_rd_ok(&r) || m.name_len == 0) return TN_E_MALFORMED;
    m.question_end = (size_t)(r.p - bytes);
    *out = m;
    return 0;
}

static uint8_t lower(uint8_t c) { return c >= 'A' && c <= 'Z' ? (uint8_t)(c + 32) : c; }

bool tn_dnsmsg_answers(const struct tn_dnsmsg *answer, const struct tn_dnsmsg *query)
{
    if (!(answer->flags & TN_DNSMSG_QR) || ((answer->flags ^ query->flags) & OPCODE_MASK)) return false;
    if (answer->type != query->type || answer->class != query->class) return false;
    if (answer->name_len != query->name_len) return false;
    for (size_t i = 0; i < query->name_len; i++) /* label lengths are below 'A' and compare as themselves */
        if (lower(answer->name[i]) != lower(query->name[i])) return false;
    return true;
}

static size_t put_char(char *out, uint8_t c)
{
    if (c > ' ' && c < 0x7f && c != '.' && c != '\\') {
        out[0] = (char)lower(c);
        return 1;
    }
    out[0] = '\\';
    out[1] = (char)('0' + c / 100);
    out[2] = (char)('0' + c / 10 % 10);
    out[3] = (char)('0' + c % 10);
    return 4;
}

size_t tn_dnsmsg_name_text(const struct tn_dnsmsg *m, char out[TN_DNSMSG_TEXT_MAX])
{
    size_t n = 0;
    for (const uint8_t *p = m->name; *p; p += *p + 1) {
        if (n) out[n++] = '.';
        for (size_t i = 1; i <= *p; i++) n += put_char(out + n, p[i]);
    }
    out[n] = '\0';
    return n;
}

long tn_dnsmsg_put_empty(const struct tn_dnsmsg *query, unsigned rcode, uint8_t *out, size_t cap)
{
    struct tn_wr w = tn_wr_init(out, cap);
    unsigned copied = query->flags & (OPCODE_MASK | TN_DNSMSG_RD);
    tn_wr_be16(&w, query->id);
    tn_wr_be16(&w, (uint16_t)(TN_DNSMSG_QR | copied | TN_DNSMSG_RA | (rcode & 15)));
    tn_wr_be16(&w, 1);
    tn_wr_zero(&w, 6);
    tn_wr_bytes(&w, query->name, query->name_len);
    tn_wr_be16(&w, query->type);
    tn_wr_be16(&w, query->class);
    return tn_wr_ok(&w) ? (long)tn_wr_len(&w) : TN_E_NOSPC;
}
