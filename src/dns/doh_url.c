#include "dns/doh.h"
#include "util/err.h"

#include <stdio.h>
#include <string.h>

static const char default_path[] = "/dns-query";

/* Splits "[v6]" or "v4", with ":port" or without, into an address and a port. */
static int parse_authority(const char *text, size_t len, struct tn_addrport *out)
{
    char buf[TN_ADDRPORT_STRLEN];
    if (len == 0 || len >= sizeof buf) return TN_E_INVAL;
    memcpy(buf, text, len);
    buf[len] = '\0';
    bool v6 = buf[0] == '[';
    const char *colon = v6 ? strstr(buf, "]:") : strchr(buf, ':');
    if (colon) return tn_addrport_parse(buf, out) == 0 && out->port ? 0 : TN_E_INVAL;
    if (v6 && buf[len - 1] != ']') return TN_E_INVAL;
    if (v6) buf[len - 1] = '\0';
    out->port = 443;
    if (tn_ip_parse(buf + v6, &out->ip) != 0 || (out->ip.family == 6) != v6) return TN_E_INVAL;
    return 0;
}

static bool path_is_clean(const char *path, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (path[i] <= ' ' || path[i] > '~' || strchr("#{}<>\"\\^`|", path[i])) return false;
    return true;
}

int tn_doh_url_parse(const char *text, struct tn_doh_url *out)
{
    static const char scheme[] = "https://", template[] = "{?dns}";
    struct tn_doh_url u = {0};
    if (!text || strncmp(text, scheme, sizeof scheme - 1) != 0) return TN_E_INVAL;
    text += sizeof scheme - 1;
    size_t host = strcspn(text, "/?#{");
    const char *path = text + host;
    size_t len = strlen(path), tail = sizeof template - 1;
    /* RFC 8484 writes URLs so; POST needs none of it. */
    if (len >= tail && strcmp(path + len - tail, template) == 0) len -= tail;
    if (len == 0) {
        path = default_path;
        len = sizeof default_path - 1;
    }
    if (*path != '/' || len >= sizeof u.path || !path_is_clean(path, len)) return TN_E_INVAL;
    if (parse_authority(text, host, &u.addr) != 0) return TN_E_INVAL;
    memcpy(u.path, path, len);
    tn_ip_format(&u.addr.ip, u.host);
    if (u.addr.port != 443) tn_addrport_format(&u.addr, u.authority);
    else snprintf(u.authority, sizeof u.authority, u.addr.ip.family == 6 ? "[%s]" : "%s", u.host);
    *out = u;
    return 0;
}
