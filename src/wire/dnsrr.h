/* Records of DNS messages (RFC 1035 section 4.1.3): walking them, names with compression pointers, and writing messages
 * anew with the names of records moved along. Whoever drops or shortens a record must write the message anew: pointers
 * behind it would lead elsewhere. */
#ifndef TN_WIRE_DNSRR_H
#define TN_WIRE_DNSRR_H

#include "wire/dns.h"

enum { TN_DNSTYPE_A = 1, TN_DNSTYPE_NS = 2, TN_DNSTYPE_CNAME = 5, TN_DNSTYPE_SOA = 6, TN_DNSTYPE_AAAA = 28,
       TN_DNSTYPE_OPT = 41, TN_DNSTYPE_RRSIG = 46, TN_DNSTYPE_SVCB = 64, TN_DNSTYPE_HTTPS = 65, TN_DNSTYPE_IXFR = 251,
       TN_DNSTYPE_AXFR = 252 };
enum { TN_DNSCLASS_IN = 1 };
enum tn_dns_section { TN_DNS_ANSWER, TN_DNS_AUTHORITY, TN_DNS_ADDITIONAL, TN_DNS_SECTIONS };

struct tn_dnsrr {
    unsigned section;         /* TN_DNS_ANSWER ... */
    size_t name_at;           /* offsets are into the message */
    uint16_t type, class;
    uint32_t ttl_s;
    size_t ttl_at, data_at, data_len;
};

struct tn_dnsrr_iter {
    const uint8_t *msg;
    size_t len, at;
    unsigned left[TN_DNS_SECTIONS];
};
/* m was read from the same bytes. */
struct tn_dnsrr_iter tn_dnsrr_begin(const struct tn_dnsmsg *m, const uint8_t *msg, size_t len);
/* 1 and the next record, 0 at the end of the last section, TN_E_MALFORMED. Bytes behind the last record are not looked at. */
int tn_dnsrr_next(struct tn_dnsrr_iter *it, struct tn_dnsrr *out);

/* The name at an offset in uncompressed wire form. Pointers must lead backwards, so that every name ends. Returns its
 * length and where the bytes behind it begin (*end), or TN_E_MALFORMED. */
long tn_dnsname_expand(const uint8_t *msg, size_t len, size_t at, uint8_t out[TN_DNSMSG_NAME_MAX], size_t *end);
/* Two uncompressed names; ASCII case aside. */
bool tn_dnsname_eq(const uint8_t *a, size_t alen, const uint8_t *b, size_t blen);

/* A message under construction. */
enum { TN_DNSPUT_NAMES = 48 }; /* places that later names may point to; more would cost more time than bytes are worth */
struct tn_dnsput {
    uint8_t *out;
    size_t cap, len;
    unsigned counts[TN_DNS_SECTIONS];
    uint16_t names[TN_DNSPUT_NAMES];
    unsigned nnames;
    bool failed; /* out of room; nothing more is written */
};
/* Begins with this header (counts are filled in at the end) and the question of m. */
void tn_dnsput_begin(struct tn_dnsput *p, uint8_t *out, size_t cap, uint16_t id, uint16_t flags, const struct tn_dnsmsg *m);
/* A record of another message, with its names. 0 or TN_E_MALFORMED (its data is not what its type says). */
int tn_dnsput_rr(struct tn_dnsput *p, const uint8_t *msg, size_t len, const struct tn_dnsrr *rr);
/* A record like rr, with other data. */
int tn_dnsput_rr_data(struct tn_dnsput *p, const uint8_t *msg, size_t len, const struct tn_dnsrr *rr, const uint8_t *data,
                      size_t data_len);
/* Fills in the counts; the message's length, or TN_E_NOSPC. */
long tn_dnsput_end(struct tn_dnsput *p);

/* A service binding's data (RFC 9460 section 2.2) without what does not work here: the protocols h3 and older
 * HTTP/3 drafts, and address hints of IPv6. Returns the new length (in out, which has room for len), 0 when nothing
 * usable is left, or TN_E_MALFORMED. */
long tn_dnssvcb_adjust(const uint8_t *data, size_t len, bool no_udp, bool no_ipv6, uint8_t *out);

#endif
