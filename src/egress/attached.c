/* What is attached to this host: for every interface address the prefix it is in, and the far end of point-to-point
 * links. Those are the LAN, containers, and the host itself, public addresses included.
 *
 * Fail-closed: a list that can't be read, or an entry that can't be understood, refuses everything until it can. */
#include "egress/guard.h"
#include "util/err.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdlib.h>

void tn_attached_init(struct tn_attached *a) { *a = (struct tn_attached){0}; }

void tn_attached_fini(struct tn_attached *a)
{
    free(a->prefixes);
    tn_attached_init(a);
}

static bool ip_of(const struct sockaddr *sa, struct tn_ip *out)
{
    struct tn_addrport ap;
    if (!sa || tn_addrport_from_sockaddr(sa, &ap) != 0) return false;
    *out = ap.ip;
    return true;
}

/* Leading ones of the netmask; a missing mask, or one with holes, is taken at its leading ones: the wider reading. */
static uint8_t mask_bits(const struct sockaddr *mask, const struct tn_ip *addr)
{
    uint8_t bytes[16];
    size_t len = tn_ip_len(addr);
    if (!mask) return (uint8_t)tn_ip_bits(addr);
    /* The family of a mask is not always set: it is the address's. */
    if (addr->family == 4) memcpy(bytes, &((const struct sockaddr_in *)mask)->sin_addr, len);
    else memcpy(bytes, &((const struct sockaddr_in6 *)mask)->sin6_addr, len);
    uint8_t bits = 0;
    while (bits < len * 8 && bytes[bits / 8] & (0x80 >> bits % 8)) bits++;
    return bits;
}

static void add(struct tn_attached *a, const struct tn_ip *ip, uint8_t bits)
{
    struct tn_prefix p = {.ip = *ip, .bits = bits};
    tn_prefix_mask(&p);
    a->prefixes[a->count++] = p;
}

static int read_interfaces(struct tn_attached *a)
{
    struct ifaddrs *list;
    struct tn_ip ip;
    size_t n = 0;
    if (getifaddrs(&list) != 0) return -errno;
    for (struct ifaddrs *i = list; i; i = i->ifa_next) n += 2;
    struct tn_prefix *prefixes = calloc(n ? n : 1, sizeof *prefixes);
    if (!prefixes) {
        freeifaddrs(list);
        return TN_E_NOMEM;
    }
    free(a->prefixes);
    a->prefixes = prefixes;
    a->count = 0;
    for (struct ifaddrs *i = list; i; i = i->ifa_next) {
        if (!ip_of(i->ifa_addr, &ip)) continue;
        add(a, &ip, mask_bits(i->ifa_netmask, &ip));
        if (i->ifa_flags & IFF_POINTOPOINT && ip_of(i->ifa_dstaddr, &ip)) add(a, &ip, (uint8_t)tn_ip_bits(&ip));
    }
    freeifaddrs(list);
    return 0;
}

bool tn_attached_has(struct tn_attached *a, const struct tn_ip *ip, uint64_t now_us)
{
    if (!a->readable || now_us - a->read_us >= TN_ATTACHED_FRESH_US) {
        a->readable = read_interfaces(a) == 0;
        a->read_us = now_us;
    }
    if (!a->readable) return true;
    for (size_t i = 0; i < a->count; i++)
        if (tn_prefix_contains(&a->prefixes[i], ip)) return true;
    return false;
}
