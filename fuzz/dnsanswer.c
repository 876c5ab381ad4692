/* What an upstream says, made into an answer, kept, and given to clients of all kinds. Whatever comes in, what goes out is a
 * message that can be read to its end, of the length promised, and making it once more changes nothing. */
#include "dns/answer.c"

#include <stdlib.h>

enum { CAP = 1 << 17 };

static void count(void *arg, const uint8_t *addr, int family, uint32_t ttl_s) { *(unsigned *)arg += addr[0] + (unsigned)family; }

/* Reads it all; aborts if it can't be. */
static void walk(const uint8_t *msg, size_t len)
{
    struct tn_dnsmsg m;
    struct tn_dnsrr rr;
    uint8_t name[TN_DNSMSG_NAME_MAX];
    size_t end, at;
    if (tn_dnsmsg_parse(msg, len, &m) != 0) abort();
    struct tn_dnsrr_iter it = tn_dnsrr_begin(&m, msg, len);
    int more;
    for (at = m.question_end; (more = tn_dnsrr_next(&it, &rr)) == 1; at = rr.data_at + rr.data_len)
        if (tn_dnsname_expand(msg, len, rr.name_at, name, &end) < 0) abort();
    if (more < 0 || at != len) abort();
}

static void give(const struct tn_dns_answer *a, uint16_t flags, bool opt, size_t limit, uint8_t *out)
{
    struct tn_dns_question q = {.has_opt = opt, .dnssec_ok = flags & 1, .udp_size = 512};
    if (tn_dnsmsg_parse(a->bytes, a->len, &q.m) != 0) abort();
    q.m.flags = flags & 0x7fff;
    size_t n = tn_dns_reply(a, &q, 77, limit, out);
    if (n > a->len + OPT_LEN || (n > limit && n > q.m.question_end + OPT_LEN)) abort();
    walk(out, n);
    walk(out, tn_dns_reply_empty(&q, 5, out));
}

static void client(const uint8_t *data, size_t size, uint8_t *out)
{
    struct tn_dns_question q;
    if (tn_dns_question_parse(data, size, &q) != 0) return;
    (void)tn_dns_question_refusal(&q);
    walk(out, tn_dns_canonical(&q, out));
    walk(out, tn_dns_reply_empty(&q, 16, out));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t first[CAP], second[CAP], out[CAP];
    if (size > TN_DNSMSG_MAX) return 0;
    client(data, size, out);
    for (int i = 0; i < 4; i++) {
        struct tn_dns_adjust adjust = {.no_udp = i & 1, .no_ipv6 = i & 2};
        struct tn_dns_answer a, b;
        unsigned sum = 0;
        if (tn_dns_answer_make(data, size, &adjust, first, CAP, &a) != 0) continue;
        walk(a.bytes, a.len);
        if (a.ttl_s > POSITIVE_MAX_S) abort();
        if (tn_dns_answer_make(a.bytes, a.len, &adjust, second, CAP, &b) != 0 || b.len != a.len) abort();
        if (memcmp(b.bytes, a.bytes, a.len) != 0) abort();
        tn_dns_answer_addresses(&a, count, &sum);
        give(&a, 0x0100, false, 512, out);
        give(&a, 0x0131, true, TN_DNSMSG_MAX, out);
    }
    return 0;
}
