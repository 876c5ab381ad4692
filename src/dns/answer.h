/* Questions as clients put them, and answers as they get them.
 *
 * Upstream every question is asked in one form (canonical), whatever the client wrote: lower case, ID 0, one OPT record of
 * ours. So equal questions are one question and one cache entry, and nothing that is between a client and its
 * resolver goes on to the next: client subnet (RFC 7871), cookies, padding. The answer is kept without its OPT record and
 * adjusted to what the egress can carry; each client gets its own ID, spelling of the name, OPT and size. */
#ifndef TN_DNS_ANSWER_H
#define TN_DNS_ANSWER_H

#include "wire/dnsrr.h"

enum { TN_DNS_UDP_MIN = 512, TN_DNS_UDP_MAX = 1232 /* no fragments within a tunnel's MTU of 1280 */ };

/* What a client asked. name is a view of its message. */
struct tn_dns_question {
    struct tn_dnsmsg m;
    bool has_opt, dnssec_ok;
    uint8_t version;
    uint16_t udp_size; /* what the client takes by UDP: 512 without OPT */
};
/* 0; TN_E_MALFORMED: no query, or one whose records can't be read. */
int tn_dns_question_parse(const uint8_t *query, size_t len, struct tn_dns_question *out);
/* The rcode that answers it without asking anybody; -1: it is to be asked. */
int tn_dns_question_refusal(const struct tn_dns_question *q);

/* What makes answers differ, beside name, type and class. */
unsigned tn_dns_question_flags(const struct tn_dns_question *q);
enum { TN_DNS_CANONICAL_MAX = TN_DNSMSG_HEADER + TN_DNSMSG_NAME_MAX + 4 + 11 };
size_t tn_dns_canonical(const struct tn_dns_question *q, uint8_t out[TN_DNS_CANONICAL_MAX]);
/* The same without its OPT record, for servers that know none; its new length. */
size_t tn_dns_canonical_plain(uint8_t *query, size_t len);

struct tn_dns_adjust {
    bool no_udp;  /* HTTP/3 has no chance: HTTPS and SVCB answers don't offer it */
    bool no_ipv6; /* nor have IPv6 addresses: AAAA answers are empty */
};
struct tn_dns_answer {
    const uint8_t *bytes; /* without OPT, counts and pointers right */
    size_t len;
    unsigned rcode;       /* with the upper bits that OPT carries */
    bool no_edns;         /* it says that its sender does not know OPT (RFC 6891 section 7) */
    uint32_t ttl_s;       /* how long it may be kept; 0: not at all */
};
/* Makes an answer of the upstream's message to a canonical question. out has cap bytes. 0; TN_E_MALFORMED, TN_E_NOSPC. */
int tn_dns_answer_make(const uint8_t *msg, size_t len, const struct tn_dns_adjust *adjust, uint8_t *out, size_t cap,
                       struct tn_dns_answer *answer);

/* The answer for this client, age_s after it came; limit: bytes it takes, an answer that is longer gets TC and no
 * records. Returns its length (out has TN_DNSMSG_MAX + 11 bytes). */
size_t tn_dns_reply(const struct tn_dns_answer *a, const struct tn_dns_question *q, uint32_t age_s, size_t limit, uint8_t *out);
/* An answer without records (rcode up to 4095). */
size_t tn_dns_reply_empty(const struct tn_dns_question *q, unsigned rcode, uint8_t *out);

/* Addresses in the answer's own records, for the names table: calls each with its TTL. */
void tn_dns_answer_addresses(const struct tn_dns_answer *a,
                             void (*each)(void *arg, const uint8_t *addr, int family, uint32_t ttl_s), void *arg);

#endif
