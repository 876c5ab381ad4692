/* DNS messages as /dns-query gets them: checks, texts, errors made for them, and answers compared with them. */
#include "dns/message.c"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const set[] = {".example.com", "exact.test", "", "."};
    uint8_t out[512];
    struct tn_dnsmsg query, answer;
    (void)tn_dns_name_filtered(data, size, set, 4);
    long n = tn_dns_make_error(data, size, 2, out, sizeof out);
    if (tn_dns_check_query(data, size) != 0) return 0;
    if (n < TN_DNSMSG_HEADER || (size_t)n > sizeof out) abort(); /* every query has an error that fits */
    if (tn_dnsmsg_parse(data, size, &query) != 0 || tn_dnsmsg_parse(out, (size_t)n, &answer) != 0) abort();
    if (!tn_dnsmsg_answers(&answer, &query) || query.question_end > size) abort();
    char text[TN_DNSMSG_TEXT_MAX];
    if (tn_dnsmsg_name_text(&query, text) >= sizeof text) abort();
    return 0;
}
