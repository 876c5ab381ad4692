#include "util/ip.h"
#include "util/err.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

int tn_ip_cmp(const struct tn_ip *a, const struct tn_ip *b)
{
    if (a->family != b->family) return a->family < b->family ? -1 : 1;
    return memcmp(a->b, b->b, sizeof a->b);
}

int tn_ip_parse(const char *text, struct tn_ip *out)
{
    struct tn_ip ip = {0};
    if (inet_pton(AF_INET, text, ip.b) == 1) ip.family = 4;
    else if (inet_pton(AF_INET6, text, ip.b) == 1) ip.family = 6;
    else return TN_E_MALFORMED;
    *out = ip;
    return 0;
}

/* A decimal number of 1..max without sign, spaces or leading zeros; -1 when it is none. */
static long parse_number(const char *text, long max)
{
    if (*text < '0' || *text > '9' || (text[0] == '0' && text[1] != '\0')) return -1;
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    return *end == '\0' && errno == 0 && value <= max ? value : -1;
}

int tn_addrport_parse(const char *text, struct tn_addrport *out)
{
    char host[TN_IP_STRLEN];
    const char *colon = strrchr(text, ':');
    if (!colon) return TN_E_MALFORMED;
    const char *start = text, *end = colon;
    bool bracketed = *text == '[';
    if (bracketed) {
        if (end == text || end[-1] != ']') return TN_E_MALFORMED;
        start++;
        end--;
    }
    if (end <= start || (size_t)(end - start) >= sizeof host) return TN_E_MALFORMED;
    memcpy(host, start, end - start);
    host[end - start] = '\0';
    struct tn_addrport ap = {0};
    if (tn_ip_parse(host, &ap.ip) != 0 || (ap.ip.family == 6) != bracketed) return TN_E_MALFORMED;
    long port = parse_number(colon + 1, 65535);
    if (port < 0) return TN_E_MALFORMED;
    ap.port = (uint16_t)port;
    *out = ap;
    return 0;
}

int tn_prefix_parse(const char *text, struct tn_prefix *out)
{
    char host[TN_IP_STRLEN];
    const char *slash = strchr(text, '/');
    size_t len = slash ? (size_t)(slash - text) : strlen(text);
    if (len == 0 || len >= sizeof host) return TN_E_MALFORMED;
    memcpy(host, text, len);
    host[len] = '\0';
    struct tn_prefix p = {0};
    if (tn_ip_parse(host, &p.ip) != 0) return TN_E_MALFORMED;
    long bits = slash ? parse_number(slash + 1, tn_ip_bits(&p.ip)) : tn_ip_bits(&p.ip);
    if (bits < 0) return TN_E_MALFORMED;
    p.bits = (uint8_t)bits;
    tn_prefix_mask(&p);
    *out = p;
    return 0;
}

const char *tn_ip_format(const struct tn_ip *ip, char buf[TN_IP_STRLEN])
{
    if (ip->family == 0 || !inet_ntop(ip->family == 4 ? AF_INET : AF_INET6, ip->b, buf, TN_IP_STRLEN))
        memcpy(buf, "none", sizeof "none");
    return buf;
}

const char *tn_addrport_format(const struct tn_addrport *ap, char buf[TN_ADDRPORT_STRLEN])
{
    char host[TN_IP_STRLEN];
    tn_ip_format(&ap->ip, host);
    snprintf(buf, TN_ADDRPORT_STRLEN, ap->ip.family == 6 ? "[%s]:%u" : "%s:%u", host, (unsigned)ap->port);
    return buf;
}

const char *tn_prefix_format(const struct tn_prefix *p, char buf[TN_PREFIX_STRLEN])
{
    char host[TN_IP_STRLEN];
    snprintf(buf, TN_PREFIX_STRLEN, "%s/%u", tn_ip_format(&p->ip, host), (unsigned)p->bits);
    return buf;
}

bool tn_prefix_contains(const struct tn_prefix *p, const struct tn_ip *ip)
{
    if (p->ip.family != ip->family || ip->family == 0) return false;
    unsigned whole = p->bits / 8, rest = p->bits % 8;
    if (memcmp(p->ip.b, ip->b, whole) != 0) return false;
    return rest == 0 || ((p->ip.b[whole] ^ ip->b[whole]) & (uint8_t)(0xff00 >> rest)) == 0;
}

void tn_prefix_mask(struct tn_prefix *p)
{
    for (unsigned i = 0; i < sizeof p->ip.b; i++) {
        if (i * 8 >= p->bits) p->ip.b[i] = 0;
        else if (p->bits - i * 8 < 8) p->ip.b[i] &= (uint8_t)(0xff00 >> (p->bits - i * 8));
    }
}

bool tn_ip_is_tailnet(const struct tn_ip *ip)
{
    static const uint8_t ula[6] = {0xfd, 0x7a, 0x11, 0x5c, 0xa1, 0xe0};
    if (ip->family == 4) return ip->b[0] == 100 && (ip->b[1] & 0xc0) == 64;
    return ip->family == 6 && memcmp(ip->b, ula, sizeof ula) == 0;
}

bool tn_ip_is_multicast(const struct tn_ip *ip)
{
    if (ip->family == 4) return (ip->b[0] & 0xf0) == 0xe0;
    return ip->family == 6 && ip->b[0] == 0xff;
}

bool tn_ip_is_loopback(const struct tn_ip *ip)
{
    static const uint8_t one[16] = {[15] = 1};
    if (ip->family == 4) return ip->b[0] == 127;
    return ip->family == 6 && memcmp(ip->b, one, sizeof one) == 0;
}

bool tn_ip_is_link_local(const struct tn_ip *ip)
{
    if (ip->family == 4) return ip->b[0] == 169 && ip->b[1] == 254;
    return ip->family == 6 && ip->b[0] == 0xfe && (ip->b[1] & 0xc0) == 0x80;
}

bool tn_ip_is_private(const struct tn_ip *ip)
{
    if (ip->family == 4)
        return ip->b[0] == 10 || (ip->b[0] == 172 && (ip->b[1] & 0xf0) == 16) ||
               (ip->b[0] == 192 && ip->b[1] == 168);
    return ip->family == 6 && (ip->b[0] & 0xfe) == 0xfc;
}

unsigned tn_addrport_to_sockaddr(const struct tn_addrport *ap, struct sockaddr_storage *out)
{
    memset(out, 0, sizeof *out);
    if (ap->ip.family == 4) {
        struct sockaddr_in *sin = (struct sockaddr_in *)out;
        sin->sin_family = AF_INET;
        sin->sin_port = htons(ap->port);
        memcpy(&sin->sin_addr, ap->ip.b, 4);
        return sizeof *sin;
    }
    struct sockaddr_in6 *sin6 = (struct sockaddr_in6 *)out;
    sin6->sin6_family = AF_INET6;
    sin6->sin6_port = htons(ap->port);
    memcpy(&sin6->sin6_addr, ap->ip.b, 16);
    return sizeof *sin6;
}

int tn_addrport_from_sockaddr(const struct sockaddr *sa, struct tn_addrport *out)
{
    struct tn_addrport ap = {0};
    if (sa->sa_family == AF_INET) {
        const struct sockaddr_in *sin = (const struct sockaddr_in *)sa;
        ap.ip = tn_ip_from_bytes(&sin->sin_addr, 4);
        ap.port = ntohs(sin->sin_port);
    } else if (sa->sa_family == AF_INET6) {
        const struct sockaddr_in6 *sin6 = (const struct sockaddr_in6 *)sa;
        ap.ip = tn_ip_from_bytes(&sin6->sin6_addr, 6);
        ap.port = ntohs(sin6->sin6_port);
    } else {
        return TN_E_INVAL;
    }
    *out = ap;
    return 0;
}
