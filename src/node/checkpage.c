#include "node/checkpage.h"

#include "util/err.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* Brackets belong to IPv6 alone (RFC 3986 section 3.2.2). */
static int parse_host(const char *host, size_t len, bool tls, struct tn_addrport *out)
{
    char inner[TN_ADDRPORT_STRLEN];
    if (tn_addrport_parse(host, out) == 0) return out->port ? 0 : TN_E_INVAL;
    bool brackets = host[0] == '[' && host[len - 1] == ']';
    snprintf(inner, sizeof inner, "%.*s", (int)(brackets ? len - 2 : len), host + brackets);
    out->port = tls ? 443 : 80;
    return tn_ip_parse(inner, &out->ip) == 0 && out->ip.family == (brackets ? 6 : 4) ? 0 : TN_E_INVAL;
}

int tn_checkpage_parse(const char *url, struct tn_checkpage *out)
{
    out->tls = strncmp(url, "https://", 8) == 0;
    if (!out->tls && strncmp(url, "http://", 7) != 0) return TN_E_INVAL;
    url += out->tls ? 8 : 7;
    size_t len = strcspn(url, "/?#");
    if (len == 0 || len >= sizeof out->host || strlen(url) >= sizeof out->path - 2) return TN_E_INVAL;
    for (const char *c = url; *c; c++)
        if (*c <= ' ' || *c > '~') return TN_E_INVAL;
    snprintf(out->host, sizeof out->host, "%.*s", (int)len, url);
    snprintf(out->path, sizeof out->path, "%s%.*s", url[len] == '/' ? "" : "/", (int)strcspn(url + len, "#"), url + len);
    return parse_host(out->host, len, out->tls, &out->addr);
}

static bool address_at(const char *p, const char *end, struct tn_ip *out)
{
    char word[TN_IP_STRLEN];
    size_t n = 0;
    while (p + n < end && n < sizeof word && (isxdigit((unsigned char)p[n]) || p[n] == '.' || p[n] == ':')) n++;
    if (n < 2 || n == sizeof word) return false;
    memcpy(word, p, n);
    word[n] = '\0';
    return tn_ip_parse(word, out) == 0;
}

bool tn_checkpage_find(const char *page, size_t len, struct tn_ip *out)
{
    static const char *const marks[] = {"\nip=", "\"ip\":\"", "\"ip\": \""};
    const char *end = page + len;
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
        const char *p = memmem(page, len, marks[i], strlen(marks[i]));
        if (p && address_at(p + strlen(marks[i]), end, out)) return true;
    }
    if (len > 3 && memcmp(page, "ip=", 3) == 0 && address_at(page + 3, end, out)) return true;
    for (const char *p = page; p < end; p++) {
        if (p > page && (isalnum((unsigned char)p[-1]) || p[-1] == '.' || p[-1] == ':')) continue;
        if (address_at(p, end, out)) return true;
    }
    return false;
}
