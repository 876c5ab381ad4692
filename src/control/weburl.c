#include "control/weburl.h"
#include "util/err.h"
#include "util/ip.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static bool clean(const char *text)
{
    for (const unsigned char *p = (const unsigned char *)text; *p; p++)
        if (*p <= ' ' || *p >= 0x7f) return false;
    return true;
}

static int parse_port(const char *text, size_t len, uint16_t *out)
{
    unsigned value = 0;
    if (len == 0 || len > 5) return TN_E_INVAL;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9') return TN_E_INVAL;
        value = value * 10 + (unsigned)(text[i] - '0');
    }
    if (value == 0 || value > 65535) return TN_E_INVAL;
    *out = (uint16_t)value;
    return 0;
}

static int copy_host(const char *text, size_t len, struct tn_weburl *u)
{
    if (len == 0) return TN_E_INVAL;
    if (len >= sizeof u->host) return TN_E_TOOBIG;
    for (size_t i = 0; i < len; i++) {
        if (!isalnum((unsigned char)text[i]) && !strchr("-._:%", text[i])) return TN_E_INVAL;
        u->host[i] = (char)tolower((unsigned char)text[i]);
    }
    u->host[len] = '\0';
    return 0;
}

/* host[:port] or [v6][:port] */
static int parse_authority(const char *text, size_t len, struct tn_weburl *u)
{
    const char *host = text, *after;
    size_t hostlen;
    bool literal = len > 0 && text[0] == '[';
    if (literal) {
        const char *close = memchr(text, ']', len);
        if (!close) return TN_E_INVAL;
        host = text + 1;
        hostlen = (size_t)(close - host);
        after = close + 1;
    } else {
        const char *colon = memchr(text, ':', len);
        after = colon ? colon : text + len;
        hostlen = (size_t)(after - text);
    }
    int err = copy_host(host, hostlen, u);
    if (err) return err;
    struct tn_ip ip;
    if (literal && (tn_ip_parse(u->host, &ip) != 0 || ip.family != 6)) return TN_E_INVAL;
    if (!literal && strchr(u->host, '%')) return TN_E_INVAL;

    size_t left = len - (size_t)(after - text);
    u->port = u->tls ? 443 : 80;
    u->port_given = left > 1;
    if (left > 0 && *after != ':') return TN_E_INVAL;
    if (u->port_given) err = parse_port(after + 1, left - 1, &u->port);
    if (err) return err;
    snprintf(u->authority, sizeof u->authority, literal ? "[%s]" : "%s", u->host);
    size_t used = strlen(u->authority);
    if (u->port_given) snprintf(u->authority + used, sizeof u->authority - used, ":%u", u->port);
    return 0;
}

static int copy_path(const char *text, struct tn_weburl *u)
{
    size_t len = strcspn(text, "#");
    bool slash = len == 0 || text[0] != '/';
    if (len + slash >= sizeof u->path) return TN_E_TOOBIG;
    if (slash) u->path[0] = '/';
    memcpy(u->path + slash, text, len);
    u->path[len + slash] = '\0';
    return 0;
}

int tn_weburl_parse(const char *text, struct tn_weburl *out)
{
    struct tn_weburl u = {0};
    if (!clean(text)) return TN_E_INVAL;
    if (strncasecmp(text, "http://", 7) == 0) text += 7;
    else if (strncasecmp(text, "https://", 8) == 0) {
        u.tls = true;
        text += 8;
    } else return TN_E_INVAL;
    size_t len = strcspn(text, "/?#");
    if (memchr(text, '@', len)) return TN_E_INVAL;
    int err = parse_authority(text, len, &u);
    if (!err) err = copy_path(text + len, &u);
    if (!err) *out = u;
    return err;
}

int tn_weburl_redirect(const struct tn_weburl *base, const char *location, struct tn_weburl *out)
{
    struct tn_weburl u = *base;
    if (!clean(location)) return TN_E_INVAL;
    int err;
    if (location[0] == '/' && location[1] != '/') err = copy_path(location, &u);
    else err = tn_weburl_parse(location, &u);
    if (err) return err;
    if (base->tls && !u.tls) return TN_E_POLICY;
    *out = u;
    return 0;
}

bool tn_weburl_private_host(const struct tn_weburl *u)
{
    struct tn_ip ip;
    if (strcmp(u->host, "localhost") == 0) return true;
    return tn_ip_parse(u->host, &ip) == 0 && (tn_ip_is_private(&ip) || tn_ip_is_loopback(&ip));
}
