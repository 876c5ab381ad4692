/* The guard: destinations a tailnet peer may reach through us are the public Internet and nothing else.
 *
 * Sources: the IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890 and the documents in each line),
 * column "Globally Reachable". What is not "True" there is refused. Two kinds of entries that are "True" are
 * refused as well: anycast addresses that mean "the nearest gateway" (PCP, TURN, DNS-SD: the exit host's own router
 * would answer, and open ports for a stranger), and IPv6 forms that carry an IPv4 address, since whoever translates
 * them would reach what the IPv4 table forbids: ::ffff:0:0/96 (mapped), 64:ff9b::/96 and 64:ff9b:1::/48 (NAT64),
 * 2002::/16 (6to4), 2001::/32 (Teredo), fd7a:115c:a1e0:b1a::/64 (4via6). They are refused whole, whatever they
 * carry: on the public Internet nothing is reachable only by them. In IPv6 only 2000::/3 is allocated as global
 * unicast, so all else is refused by one rule; its lines are in the table nevertheless, as documentation and for
 * the day that rule changes.
 *
 * Beyond the registries: tailnet ranges, the node's own tailnet addresses, what is attached to this host. */
#include "egress/guard.h"
#include "util/err.h"

#include <stdlib.h>

struct range {
    uint8_t b[16];
    uint8_t bits;
};

static const struct range refused4[] = {
    {{0}, 8},             /* "this network", RFC 791; 0.0.0.0 reaches the host itself */
    {{10}, 8},            /* private, RFC 1918 */
    {{100, 64}, 10},      /* shared address space, RFC 6598; Tailscale's addresses and quad-100 */
    {{127}, 8},           /* loopback, RFC 1122 */
    {{169, 254}, 16},     /* link local, RFC 3927; cloud metadata services */
    {{172, 16}, 12},      /* private, RFC 1918 */
    {{192, 0, 0}, 24},    /* IETF protocol assignments, RFC 6890: DS-Lite, NAT64 discovery, PCP and TURN anycast */
    {{192, 0, 2}, 24},    /* TEST-NET-1, RFC 5737 */
    {{192, 88, 99}, 24},  /* 6to4 relay anycast, deprecated by RFC 7526 */
    {{192, 168}, 16},     /* private, RFC 1918 */
    {{198, 18}, 15},      /* benchmarking, RFC 2544 */
    {{198, 51, 100}, 24}, /* TEST-NET-2, RFC 5737 */
    {{203, 0, 113}, 24},  /* TEST-NET-3, RFC 5737 */
    {{224}, 4},           /* multicast, RFC 5771 */
    {{240}, 4},           /* reserved, RFC 1112; limited broadcast, RFC 8190 */
    /* "True" in the registry and so allowed: 192.31.196.0/24 and 192.175.48.0/24 (AS112), 192.52.193.0/24 (AMT). */
};

static const struct range refused6[] = {
    {{0}, 8},                                          /* ::/8: unspecified, loopback, ::/96, mapped */
    {{0, 0x64, 0xff, 0x9b}, 96},                       /* NAT64, RFC 6052 */
    {{0, 0x64, 0xff, 0x9b, 0, 1}, 48},                 /* local-use NAT64, RFC 8215 */
    {{1}, 64},                                         /* discard only, RFC 6666 */
    {{1, 0, 0, 0, 0, 0, 0, 1}, 64},                    /* dummy prefix, RFC 9780 */
    {{0x20, 0x01}, 32},                                /* Teredo, RFC 4380 */
    {{0x20, 0x01, 0, 1}, 32},                          /* PCP, TURN, DNS-SD anycast: RFC 7723, 8155, 9665 */
    {{0x20, 0x01, 0, 2}, 48},                          /* benchmarking, RFC 5180 */
    {{0x20, 0x01, 0, 0x10}, 28},                       /* ORCHID, RFC 4843 */
    {{0x20, 0x01, 0, 0x20}, 28},                       /* ORCHIDv2, RFC 7343: identifiers, not addresses */
    {{0x20, 0x01, 0, 0x30}, 28},                       /* drone remote ID, RFC 9374: identifiers too */
    {{0x20, 0x01}, 23},                                /* IETF protocol assignments, RFC 2928: the rest */
    {{0x20, 0x01, 0x0d, 0xb8}, 32},                    /* documentation, RFC 3849 */
    {{0x20, 0x02}, 16},                                /* 6to4, RFC 3056 */
    {{0x3f, 0xff}, 20},                                /* documentation, RFC 9637 */
    {{0x5f}, 16},                                      /* segment routing SIDs, RFC 9602 */
    {{0xfd, 0x7a, 0x11, 0x5c, 0xa1, 0xe0}, 48},        /* Tailscale's addresses, 4via6 among them */
    {{0xfc}, 7},                                       /* unique local, RFC 4193 */
    {{0xfe, 0x80}, 10},                                /* link local, RFC 4291 */
    {{0xfe, 0xc0}, 10},                                /* site local, deprecated by RFC 3879 */
    {{0xff}, 8},                                       /* multicast, RFC 4291 */
};

/* Pieces of 2001::/23 that are "True" and name servers: AMT relays (RFC 7450), AS112 (RFC 7535). Outside of /23 and
 * allowed without a line: 2620:4f:8000::/48 (AS112, RFC 7534). */
static const struct range allowed6[] = {
    {{0x20, 0x01, 0, 3}, 32},
    {{0x20, 0x01, 0, 4, 0x01, 0x12}, 48},
};

static const struct range global_unicast6 = {{0x20}, 3}; /* RFC 4291 section 2.4, IANA IPv6 address space */

static bool within(const struct range *r, const struct tn_ip *ip)
{
    struct tn_prefix p = {.ip = tn_ip_from_bytes(r->b, ip->family), .bits = r->bits};
    return tn_prefix_contains(&p, ip);
}

static bool in_table(const struct range *table, size_t n, const struct tn_ip *ip)
{
    for (size_t i = 0; i < n; i++)
        if (within(&table[i], ip)) return true;
    return false;
}

bool tn_guard_is_public(const struct tn_ip *ip)
{
    if (ip->family == 4) return !in_table(refused4, sizeof refused4 / sizeof refused4[0], ip);
    if (ip->family != 6 || !within(&global_unicast6, ip)) return false;
    if (in_table(allowed6, sizeof allowed6 / sizeof allowed6[0], ip)) return true;
    return !in_table(refused6, sizeof refused6 / sizeof refused6[0], ip);
}

void tn_guard_init(struct tn_guard *g)
{
    *g = (struct tn_guard){0};
    tn_attached_init(&g->attached);
}

void tn_guard_fini(struct tn_guard *g)
{
    free(g->own);
    tn_attached_fini(&g->attached);
    *g = (struct tn_guard){0};
}

int tn_guard_set_own(struct tn_guard *g, const struct tn_ip *addrs, size_t n)
{
    struct tn_ip *own = NULL;
    if (n > 0) {
        own = malloc(n * sizeof *own);
        if (!own) return TN_E_NOMEM;
        memcpy(own, addrs, n * sizeof *own);
    }
    free(g->own);
    g->own = own;
    g->nown = n;
    return 0;
}

bool tn_guard_allows(struct tn_guard *g, const struct tn_addrport *dst, uint64_t now_us)
{
    if (dst->port == 0 || !tn_guard_is_public(&dst->ip) || tn_ip_is_tailnet(&dst->ip)) return false;
    for (size_t i = 0; i < g->nown; i++)
        if (tn_ip_eq(&g->own[i], &dst->ip)) return false;
    return !tn_attached_has(&g->attached, &dst->ip, now_us);
}
