/* DNS messages (RFC 1035), as much of them as a relay needs: the header, the one question, comparing an answer with
 * its query, and answers without records. Records are passed on as they are. */
#ifndef TN_WIRE_DNS_H
#define TN_WIRE_DNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TN_DNSMSG_HEADER = 12,
    TN_DNSMSG_NAME_MAX = 255,      /* wire form, RFC 1035 section 2.3.4 */
    TN_DNSMSG_TEXT_MAX = 1 + 4 * 255, /* every byte escaped, and the NUL */
    TN_DNSMSG_MAX = 65535,
};
enum { TN_DNSMSG_QR = 0x8000, TN_DNSMSG_TC = 0x0200, TN_DNSMSG_RD = 0x0100, TN_DNSMSG_RA = 0x0080 };
enum { TN_DNSMSG_SERVFAIL = 2, TN_DNSMSG_NXDOMAIN = 3, TN_DNSMSG_REFUSED = 5 };

struct tn_dnsmsg {
    uint16_t id, flags, questions, answers, authority, additional; /* the counts are what the header says */
    const uint8_t *name; /* of the question: a view, wire form, ends with the zero byte */
    size_t name_len;
    uint16_t type, class;
    size_t question_end; /* bytes up to the end of the question */
};

/* Reads header and question. The question's name is not compressed and there is exactly one question; TN_E_MALFORMED
 * otherwise. What follows the question is not looked at. */
int tn_dnsmsg_parse(const uint8_t *bytes, size_t len, struct tn_dnsmsg *out);
/* Is this an answer to that query: QR set, same opcode, same question (ASCII case aside)? IDs are not compared. */
bool tn_dnsmsg_answers(const struct tn_dnsmsg *answer, const struct tn_dnsmsg *query);
/* The question's name as lower-case text without the trailing dot ("" for the root); dots and backslashes inside
 * labels and bytes beyond printable ASCII as \ddd. Returns its length. */
size_t tn_dnsmsg_name_text(const struct tn_dnsmsg *m, char out[TN_DNSMSG_TEXT_MAX]);
/* An answer without records: the query's ID, opcode, RD and question, RA, and rcode (0..15). Returns its length or
 * TN_E_NOSPC. */
long tn_dnsmsg_put_empty(const struct tn_dnsmsg *query, unsigned rcode, uint8_t *out, size_t cap);

#endif
