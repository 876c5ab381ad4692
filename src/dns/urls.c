/* The forms of exit_dns. */
#include "dns/doh.h"
#include "dns/upstream.h"
#include "util/err.h"

#include <string.h>

static int read_address(const char *text, struct tn_addrport *out)
{
    char host[TN_ADDRPORT_STRLEN];
    if (tn_addrport_parse(text, out) == 0) return out->port ? 0 : TN_E_INVAL;
    size_t len = strlen(text);
    bool v6 = len > 2 && text[0] == '[' && text[len - 1] == ']';
    if (len >= sizeof host) return TN_E_INVAL;
    memcpy(host, text, len + 1);
    if (v6) host[len - 1] = '\0';
    out->port = 53;
    return tn_ip_parse(host + v6, &out->ip) == 0 && (out->ip.family == 6) == v6 ? 0 : TN_E_INVAL;
}

int tn_dns_url_read(const char *url, size_t len, char copy[TN_DNS_URL_MAX], enum tn_dns_form *form, struct tn_addrport *addr)
{
    struct tn_doh_url doh;
    if (len >= TN_DNS_URL_MAX) return TN_E_INVAL;
    memcpy(copy, url, len);
    copy[len] = '\0';
    if (strlen(copy) != len) return TN_E_INVAL;
    *form = strncmp(copy, "tcp://", 6) == 0   ? TN_DNS_FORM_TCP
            : strncmp(copy, "udp://", 6) == 0 ? TN_DNS_FORM_UDP
                                              : TN_DNS_FORM_HTTPS;
    return *form == TN_DNS_FORM_HTTPS ? tn_doh_url_parse(copy, &doh) : read_address(copy + 6, addr);
}

size_t tn_dns_url_next(const char **at)
{
    if (**at == ',') ++*at;
    return strcspn(*at, ",");
}

int tn_dns_check_upstreams(const char *upstreams)
{
    char copy[TN_DNS_URL_MAX];
    enum tn_dns_form form;
    struct tn_addrport addr;
    unsigned n = 0;
    for (const char *at = upstreams; n == 0 || *at; n++) {
        size_t len = tn_dns_url_next(&at);
        if (n == TN_DNS_UPSTREAMS_MAX || tn_dns_url_read(at, len, copy, &form, &addr) != 0) return TN_E_INVAL;
        at += len;
    }
    return 0;
}
