/* The proxy URL: "socks5://[user[:pass]@]host:port", or "http://" or "https://" and the same.
 *
 * A reader of settings, stricter than curl's: what is doubtful is refused, because a setting that is present and not
 * valid turns exit egress off. The port is never guessed. Userinfo ends at the last '@', the user at its first ':';
 * both may be percent-encoded, nothing else may. "socks5h" means the same as "socks5", since names of destinations
 * are never resolved on this side. Every why-line is a constant: no part of the URL can get into one.
 * RFC 3986 (syntax), RFC 1929 (lengths), RFC 7617 (':' in the user). */
#include "egress/egress.h"
#include "egress/template.h"
#include "util/err.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

enum {
    URL_MAX = 8192,         /* both credentials at their limits, every byte percent-encoded, and the host */
    SOCKS_CRED_MAX = 255,   /* RFC 1929: one length byte */
    HTTP_CRED_MAX = 1024,   /* in base64 still far under the 8 KiB that proxies take for a head */
    HOST_MAX = 253,         /* RFC 1035 text form */
    LABEL_MAX = 63,
};

struct span {
    const char *p;
    size_t len;
};

static int refuse(char why[128], const char *text)
{
    snprintf(why, 128, "%s", text);
    return TN_E_INVAL;
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_alnum(char c) { return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
static bool is_control(char c) { return (unsigned char)c < 0x20 || c == 0x7f; }

static bool has_scheme(struct span url, const char *name, struct span *rest)
{
    size_t n = strlen(name);
    if (url.len < n + 3 || strncasecmp(url.p, name, n) != 0 || memcmp(url.p + n, "://", 3) != 0) return false;
    *rest = (struct span){url.p + n + 3, url.len - n - 3};
    return true;
}

static int parse_scheme(struct span url, struct tn_proxy *p, struct span *rest, char why[128])
{
    for (size_t i = 0; i < url.len; i++) {
        if (is_control(url.p[i])) return refuse(why, "the proxy URL has a control character in it");
        if (url.p[i] == ' ') return refuse(why, "the proxy URL has a space in it");
    }
    if (has_scheme(url, "socks5", rest) || has_scheme(url, "socks5h", rest)) {
        p->scheme = TN_PROXY_SOCKS5;
        return 0;
    }
    if (has_scheme(url, "http", rest)) {
        p->scheme = TN_PROXY_HTTP;
        return 0;
    }
    if (has_scheme(url, "https", rest)) {
        p->scheme = TN_PROXY_HTTP;
        p->tls = true;
        return 0;
    }
    return refuse(why, "the proxy URL must begin with socks5://, http:// or https://");
}

static int hex(char c)
{
    if (is_digit(c)) return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* Percent-decoding into out[cap]; the length, TN_E_MALFORMED, TN_E_TOOBIG (placeholders filled in), TN_E_INVAL for a control
 * character. Placeholders become their markers (template.h); *braces: a brace that begins none. */
static long decode(struct span in, char *out, size_t cap, bool *templated, bool *braces)
{
    size_t n = 0, room = cap;
    for (size_t i = 0; i < in.len; i++) {
        char c = in.p[i];
        size_t used = 1, takes = 1;
        int marker = c == '{' ? tn_template_match(in.p + i, in.len - i, &used) : 0;
        if (c == '%') {
            if (in.len - i < 3 || hex(in.p[i + 1]) < 0 || hex(in.p[i + 2]) < 0) return TN_E_MALFORMED;
            c = (char)(hex(in.p[i + 1]) << 4 | hex(in.p[i + 2]));
            used = 3;
        } else if (marker) {
            *templated = true;
            takes = marker == TN_TEMPLATE_EPOCH ? TN_TEMPLATE_EPOCH_MAX : TN_TEMPLATE_TOKEN;
        } else if (c == '{' || c == '}') {
            *braces = true;
        }
        if (!marker && is_control(c)) return TN_E_INVAL;
        if (room < takes) return TN_E_TOOBIG;
        room -= takes;
        out[n++] = marker ? (char)marker : c;
        i += used - 1;
    }
    return (long)n;
}

static int decode_secret(struct span in, struct tn_proxy *p, bool is_user, struct tn_secret **out, char why[128])
{
    char text[HTTP_CRED_MAX];
    int err = 0;
    bool braces = false;
    long len = decode(in, text, p->scheme == TN_PROXY_SOCKS5 ? SOCKS_CRED_MAX : HTTP_CRED_MAX, &p->templated, &braces);
    if (len == TN_E_INVAL) err = refuse(why, "the proxy credentials have a control character in them");
    else if (is_user && braces)
        err = refuse(why, "the proxy user has braces that are not {peer}, {user} or {epoch} (write %7B and %7D)");
    else if (len == TN_E_MALFORMED) err = refuse(why, "a percent sign in the credentials lacks its two hex digits");
    else if (len < 0) err = refuse(why, is_user ? "the proxy user is too long" : "the proxy password is too long");
    for (long i = 0; i < len && !err; i++) {
        if (is_user && p->scheme == TN_PROXY_HTTP && text[i] == ':')
            err = refuse(why, "an HTTP proxy user can't contain a colon");
    }
    if (!err && is_user && p->scheme == TN_PROXY_SOCKS5 && len == 0) err = refuse(why, "the proxy user is empty");
    if (!err && !(*out = tn_secret_new(text, (size_t)len))) {
        snprintf(why, 128, "out of memory");
        err = TN_E_NOMEM;
    }
    tn_wipe(text, sizeof text);
    return err;
}

static int parse_userinfo(struct span info, struct tn_proxy *p, char why[128])
{
    const char *colon = info.len ? memchr(info.p, ':', info.len) : NULL;
    struct span user = {info.p, colon ? (size_t)(colon - info.p) : info.len}, pass = {info.p, 0};
    if (colon) pass = (struct span){colon + 1, info.len - user.len - 1};
    p->has_auth = true;
    int err = decode_secret(user, p, true, &p->user, why);
    return err ? err : decode_secret(pass, p, false, &p->pass, why);
}

static int parse_port(struct span s, uint16_t *out, char why[128])
{
    unsigned long v = 0;
    if (s.len == 0) return refuse(why, "the proxy URL has no port");
    for (size_t i = 0; i < s.len; i++) {
        if (!is_digit(s.p[i]) || s.len > 5) return refuse(why, "the proxy port is not a number from 1 to 65535");
        v = v * 10 + (unsigned)(s.p[i] - '0');
    }
    if (v < 1 || v > 65535) return refuse(why, "the proxy port is not a number from 1 to 65535");
    *out = (uint16_t)v;
    return 0;
}

/* Letters, digits, '-' and '_' in labels of 1 to 63. A last label of digits only is what inet_aton would read as an
 * address in one of its odd forms ("127.1", "0x7f.1" aside): only a proper dotted quad may look like that. */
static bool valid_name(struct span s)
{
    size_t label = 0;
    bool numeric = true, last_numeric = false;
    if (s.len == 0 || s.len > HOST_MAX) return false;
    for (size_t i = 0; i < s.len; i++) {
        if (s.p[i] == '.') {
            if (label == 0) return false;
            last_numeric = numeric;
            label = 0;
            numeric = true;
            continue;
        }
        if ((!is_alnum(s.p[i]) && s.p[i] != '-' && s.p[i] != '_') || ++label > LABEL_MAX) return false;
        numeric = numeric && is_digit(s.p[i]);
    }
    const char *last = s.p + s.len - label;
    if (label > 0) last_numeric = numeric || (label > 1 && last[0] == '0' && (last[1] == 'x' || last[1] == 'X'));
    return !last_numeric;
}

static int parse_host(struct span s, bool bracketed, struct tn_proxy *p, char why[128])
{
    struct tn_ip ip;
    if (s.len == 0) return refuse(why, "the proxy URL has no host");
    if (s.len > HOST_MAX) return refuse(why, "the proxy host is too long");
    memcpy(p->host, s.p, s.len);
    p->host[s.len] = '\0';
    bool literal = tn_ip_parse(p->host, &ip) == 0;
    if (bracketed) return literal && ip.family == 6 ? 0 : refuse(why, "the brackets do not hold an IPv6 address");
    if (literal ? ip.family != 4 : !valid_name(s))
        return refuse(why, "the proxy host is neither a name nor an address (IPv6 in brackets)");
    return 0;
}

static int parse_hostport(struct span s, struct tn_proxy *p, char why[128])
{
    struct span host = s, port = {s.p, 0};
    bool bracketed = s.len && s.p[0] == '[';
    const char *end = bracketed ? memchr(s.p, ']', s.len) : NULL;
    if (bracketed) {
        if (!end) return refuse(why, "a bracket in the proxy URL is not closed");
        host = (struct span){s.p + 1, (size_t)(end - s.p) - 1};
        port = (struct span){end + 1, s.len - host.len - 2};
        if (port.len && port.p[0] != ':') return refuse(why, "something stands between the proxy's bracket and port");
    } else if ((end = s.len ? memrchr(s.p, ':', s.len) : NULL)) {
        host.len = (size_t)(end - s.p);
        port = (struct span){end, s.len - host.len};
    }
    if (port.len) port = (struct span){port.p + 1, port.len - 1};
    int err = parse_host(host, bracketed, p, why);
    return err ? err : parse_port(port, &p->port, why);
}

static int parse_authority(struct span rest, struct tn_proxy *p, char why[128])
{
    size_t len = 0;
    while (len < rest.len && !strchr("/?#", rest.p[len])) len++;
    /* "/" alone at the end is how browsers print it. */
    if (len < rest.len && !(rest.p[len] == '/' && len + 1 == rest.len))
        return refuse(why, "the proxy URL has a path or query (percent-encode '/', '?', '#' in credentials)");
    struct span auth = {rest.p, len};
    const char *at = len ? memrchr(auth.p, '@', len) : NULL;
    if (at) {
        int err = parse_userinfo((struct span){auth.p, (size_t)(at - auth.p)}, p, why);
        if (err) return err;
        auth = (struct span){at + 1, len - (size_t)(at - auth.p) - 1};
    }
    return parse_hostport(auth, p, why);
}

int tn_proxy_parse(const char *url, size_t len, struct tn_proxy **out, char why[128])
{
    struct span whole = {url, len}, rest;
    why[0] = '\0';
    if (len == 0) return refuse(why, "the proxy URL is empty");
    if (len > URL_MAX) return refuse(why, "the proxy URL is too long");
    struct tn_proxy *p = calloc(1, sizeof *p);
    if (!p) {
        snprintf(why, 128, "out of memory");
        return TN_E_NOMEM;
    }
    int err = parse_scheme(whole, p, &rest, why);
    if (!err) err = parse_authority(rest, p, why);
    if (err) {
        tn_proxy_free(p);
        return err;
    }
    *out = p;
    return 0;
}

static bool is_device(const char *word)
{
    for (const char *c = word; *c; c++) /* as the kernel's dev_valid_name */
        if (*c <= ' ' || *c > '~' || *c == '/' || *c == ':') return false;
    return *word && strlen(word) < sizeof((struct tn_proxy_bind *)0)->device && strcmp(word, ".") != 0 && strcmp(word, "..") != 0;
}

bool tn_proxy_bind_parse(const char *text, struct tn_proxy_bind *out)
{
    char words[128], *rest = words;
    struct tn_proxy_bind b = {.mark = out->mark};
    bool any = false;
    if (strlen(text) >= sizeof words) return false;
    strcpy(words, text);
    for (char *word; (word = strsep(&rest, " \t"));) {
        struct tn_ip ip;
        if (!*word) continue;
        any = true;
        if (tn_ip_parse(word, &ip) == 0) {
            struct tn_ip *slot = &b.from[ip.family == 6];
            if (slot->family) return false;
            *slot = ip;
        } else {
            if (b.device[0] || !is_device(word)) return false;
            strcpy(b.device, word);
        }
    }
    if (any) *out = b;
    return any;
}

bool tn_proxy_mark_parse(const char *text, uint32_t *out)
{
    bool hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
    const char *digits = text + (hex ? 2 : 0);
    char *end;
    if (!(hex ? isxdigit((unsigned char)*digits) : isdigit((unsigned char)*digits))) return false;
    errno = 0;
    unsigned long long n = strtoull(digits, &end, hex ? 16 : 10);
    if (*end || errno || n == 0 || n > UINT32_MAX) return false;
    *out = (uint32_t)n;
    return true;
}

static bool same_bind(const struct tn_proxy_bind *a, const struct tn_proxy_bind *b)
{
    for (int i = 0; i < 2; i++)
        if (a->from[i].family != b->from[i].family || (a->from[i].family && !tn_ip_eq(&a->from[i], &b->from[i]))) return false;
    return a->mark == b->mark && !strcmp(a->device, b->device);
}

static struct tn_secret *copy_secret(const struct tn_secret *s) { return tn_secret_new(tn_secret_bytes(s), tn_secret_len(s)); }

struct tn_proxy *tn_proxy_copy(const struct tn_proxy *p)
{
    struct tn_proxy *copy = calloc(1, sizeof *copy);
    if (!copy) return NULL;
    *copy = *p;
    copy->user = p->user ? copy_secret(p->user) : NULL;
    copy->pass = p->pass ? copy_secret(p->pass) : NULL;
    if (!copy->user == !p->user && !copy->pass == !p->pass) return copy;
    tn_proxy_free(copy);
    return NULL;
}

static bool same_secret(const struct tn_secret *a, const struct tn_secret *b)
{
    return !a == !b && (!a || tn_secret_eq(a, b));
}

bool tn_proxy_eq(const struct tn_proxy *a, const struct tn_proxy *b)
{
    return a->scheme == b->scheme && a->tls == b->tls && a->port == b->port && a->has_auth == b->has_auth &&
           a->pinned == b->pinned && memcmp(a->pin, b->pin, sizeof a->pin) == 0 && !strcmp(a->host, b->host) &&
           same_bind(&a->bind, &b->bind) && same_secret(a->user, b->user) && same_secret(a->pass, b->pass);
}

void tn_proxy_free(struct tn_proxy *p)
{
    if (!p) return;
    tn_secret_free(p->user);
    tn_secret_free(p->pass);
    tn_wipe(p, sizeof *p);
    free(p);
}

const char *tn_proxy_describe(const struct tn_proxy *p, char buf[300])
{
    const char *scheme = p->scheme == TN_PROXY_SOCKS5 ? "socks5" : p->tls ? "https" : "http";
    bool v6 = strchr(p->host, ':') != NULL;
    snprintf(buf, 300, v6 ? "%s://[%s]:%u" : "%s://%s:%u", scheme, p->host, (unsigned)p->port);
    return buf;
}
