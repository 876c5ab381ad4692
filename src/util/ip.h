/* IP addresses, address+port pairs and prefixes as values.
 *
 * The family is explicit: an IPv4-mapped IPv6 address (::ffff:1.2.3.4) is an IPv6 address here and never compares
 * equal to 1.2.3.4. Unused bytes are zero, so values may be compared and hashed as memory. */
#ifndef TN_UTIL_IP_H
#define TN_UTIL_IP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct sockaddr;
struct sockaddr_storage;

struct tn_ip {
    uint8_t family; /* 0 none, 4 or 6 */
    uint8_t b[16];  /* network order; IPv4 uses b[0..3], the rest is zero */
};

struct tn_addrport {
    struct tn_ip ip;
    uint16_t port; /* host order */
};

struct tn_prefix {
    struct tn_ip ip; /* bits beyond the prefix length are zero after tn_prefix_parse and tn_prefix_mask */
    uint8_t bits;    /* 0..32 or 0..128 */
};

enum { TN_IP_STRLEN = 46, TN_ADDRPORT_STRLEN = 56, TN_PREFIX_STRLEN = 50 }; /* including the NUL */

static inline struct tn_ip tn_ip4(uint8_t a, uint8_t b, uint8_t c, uint8_t d)
{
    return (struct tn_ip){.family = 4, .b = {a, b, c, d}};
}
static inline struct tn_ip tn_ip_from_bytes(const void *bytes, uint8_t family)
{
    struct tn_ip ip = {.family = family};
    memcpy(ip.b, bytes, family == 4 ? 4 : 16);
    return ip;
}
static inline bool tn_ip_eq(const struct tn_ip *a, const struct tn_ip *b) { return memcmp(a, b, sizeof *a) == 0; }
static inline bool tn_addrport_eq(const struct tn_addrport *a, const struct tn_addrport *b)
{
    return a->port == b->port && tn_ip_eq(&a->ip, &b->ip);
}
static inline int tn_ip_bits(const struct tn_ip *ip) { return ip->family == 4 ? 32 : ip->family == 6 ? 128 : 0; }
static inline size_t tn_ip_len(const struct tn_ip *ip) { return ip->family == 4 ? 4 : ip->family == 6 ? 16 : 0; }

int tn_ip_cmp(const struct tn_ip *a, const struct tn_ip *b);
/* Strict text forms: dotted quad without leading zeros, RFC 4291 for IPv6, no zone. 0 or TN_E_MALFORMED. */
int tn_ip_parse(const char *text, struct tn_ip *out);
int tn_addrport_parse(const char *text, struct tn_addrport *out); /* "1.2.3.4:5", "[::1]:5" */
int tn_prefix_parse(const char *text, struct tn_prefix *out);     /* "10.0.0.0/8"; a bare address is a host prefix */
/* Formats return their buffer argument. */
const char *tn_ip_format(const struct tn_ip *ip, char buf[TN_IP_STRLEN]);
const char *tn_addrport_format(const struct tn_addrport *ap, char buf[TN_ADDRPORT_STRLEN]);
const char *tn_prefix_format(const struct tn_prefix *p, char buf[TN_PREFIX_STRLEN]);

bool tn_prefix_contains(const struct tn_prefix *p, const struct tn_ip *ip);
void tn_prefix_mask(struct tn_prefix *p);
static inline bool tn_prefix_eq(const struct tn_prefix *a, const struct tn_prefix *b)
{
    return a->bits == b->bits && tn_ip_eq(&a->ip, &b->ip);
}

/* Whether the address is one of a tailnet's: 100.64.0.0/10 or fd7a:115c:a1e0::/48. */
bool tn_ip_is_tailnet(const struct tn_ip *ip);
bool tn_ip_is_multicast(const struct tn_ip *ip);
bool tn_ip_is_loopback(const struct tn_ip *ip);
bool tn_ip_is_link_local(const struct tn_ip *ip);
bool tn_ip_is_private(const struct tn_ip *ip); /* RFC 1918 or fc00::/7 */

/* Socket addresses. to: returns the length for bind/connect. from: TN_E_INVAL for another family. */
unsigned tn_addrport_to_sockaddr(const struct tn_addrport *ap, struct sockaddr_storage *out);
int tn_addrport_from_sockaddr(const struct sockaddr *sa, struct tn_addrport *out);

#endif
