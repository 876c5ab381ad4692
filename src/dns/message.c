/* The checks that /dns-query makes on messages, on top of the codec. */
#include "dns/dns.h"
#include "util/err.h"
#include "wire/dns.h"

#include <string.h>
#include <strings.h>

int tn_dns_check_query(const uint8_t *query, size_t len)
{
    struct tn_dnsmsg m;
    int err = tn_dnsmsg_parse(query, len, &m);
    return err ? err : m.flags & TN_DNSMSG_QR ? TN_E_MALFORMED : 0;
}

long tn_dns_make_error(const uint8_t *query, size_t len, int rcode, uint8_t *out, size_t cap)
{
    struct tn_dnsmsg m;
    int err = tn_dnsmsg_parse(query, len, &m);
    return err ? err : tn_dnsmsg_put_empty(&m, (unsigned)rcode, out, cap);
}

static bool name_matches(const char *name, size_t len, const char *entry)
{
    size_t n = strlen(entry);
    bool suffix = *entry == '.';
    if (n > 1 && entry[n - 1] == '.') n--; /* a rooted name */
    if (n == 0 || n > len || (!suffix && n != len) || (suffix && n == len)) return false;
    return strncasecmp(name + len - n, entry, n) == 0;
}

bool tn_dns_name_filtered(const uint8_t *query, size_t len, const char *const *set, size_t n)
{
    struct tn_dnsmsg m;
    char name[TN_DNSMSG_TEXT_MAX];
    if (tn_dnsmsg_parse(query, len, &m) != 0) return true;
    size_t name_len = tn_dnsmsg_name_text(&m, name);
    for (size_t i = 0; i < n; i++)
        if (name_matches(name, name_len, set[i])) return true;
    return false;
}
