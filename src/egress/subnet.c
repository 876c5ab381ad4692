/* Which destinations are subnets, and how they are dialed. */
#include "egress/subnet.h"
#include "egress/private.h"
#include "egress/socket.h"
#include "util/err.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- addresses ---- */

static const struct tn_prefix via6 = {{6, {0xfd, 0x7a, 0x11, 0x5c, 0xa1, 0xe0, 0x0b, 0x1a}}, 64};
enum { VIA_SITE_BITS = 96 }; /* a route has one site */

static bool is_via(const struct tn_ip *ip) { return tn_prefix_contains(&via6, ip); }

static struct tn_ip carried(const struct tn_ip *ip) { return is_via(ip) ? tn_ip_from_bytes(ip->b + 12, 4) : *ip; }

/* No subnet ever: this host by a name for itself, the link, groups, tailnets, and IPv6 that somebody would translate to
 * IPv4. A subnet may be public, private, special, or the host's own network with the host's addresses in it. */
static const struct tn_prefix never[] = {
    {{4, {0}}, 8},       {{4, {127}}, 8},      {{4, {169, 254}}, 16}, /* this host, loopback, link-local and metadata */
    {{4, {100, 64}}, 10}, {{4, {224}}, 4},     {{4, {240}}, 4},       /* tailnets, multicast, reserved and broadcast */
    {{6, {0}}, 96},                                                   /* unspecified, loopback, IPv4-compatible */
    {{6, {[10] = 0xff, [11] = 0xff}}, 96},                            /* IPv4-mapped */
    {{6, {0, 0x64, 0xff, 0x9b}}, 96},    {{6, {0, 0x64, 0xff, 0x9b, 0, 1}}, 48}, /* NAT64 */
    {{6, {0x20, 0x02}}, 16},             {{6, {0x20, 0x01}}, 32},     /* 6to4, Teredo */
    {{6, {0xfe, 0x80}}, 10},             {{6, {0xff}}, 8},
    {{6, {0xfd, 0x7a, 0x11, 0x5c, 0xa1, 0xe0}}, 48},                  /* tailnets */
};

/* Does one of them hold the whole prefix? A wider route has other addresses, and theirs are refused one by one. */
static bool never_subnet(const struct tn_ip *ip, unsigned bits)
{
    for (size_t i = 0; i < sizeof never / sizeof *never; i++)
        if (never[i].bits <= bits && tn_prefix_contains(&never[i], ip)) return true;
    return false;
}

/* ---- settings ---- */

static int refuse(char why[128], const char *what)
{
    snprintf(why, 128, "%s", what);
    return TN_E_INVAL;
}

static bool has_host_bits(const struct tn_prefix *p)
{
    struct tn_prefix masked = *p;
    tn_prefix_mask(&masked);
    return !tn_ip_eq(&masked.ip, &p->ip);
}

/* Of the text: tn_prefix_parse may mask what it read. */
static bool text_has_host_bits(const char *text, const struct tn_prefix *p)
{
    char address[TN_IP_STRLEN];
    struct tn_prefix said = {.bits = p->bits};
    size_t len = strcspn(text, "/");
    if (len >= sizeof address) return true;
    memcpy(address, text, len);
    address[len] = '\0';
    return tn_ip_parse(address, &said.ip) != 0 || has_host_bits(&said);
}

int tn_egress_route_parse(const char *text, struct tn_egress_route *out, char why[128])
{
    static const char mark[] = "=direct";
    char prefix[TN_PREFIX_STRLEN];
    struct tn_egress_route r = {0};
    size_t len = strlen(text), skip = sizeof mark - 1;
    if (len > skip && strcmp(text + len - skip, mark) == 0) {
        r.direct = true;
        len -= skip;
    }
    if (len >= sizeof prefix) return refuse(why, "a route is longer than any prefix");
    memcpy(prefix, text, len);
    prefix[len] = '\0';
    if (tn_prefix_parse(prefix, &r.prefix) != 0) return refuse(why, "a route is no prefix such as 192.168.1.0/24");
    if (r.prefix.bits == 0) return refuse(why, "a default route is what advertise_exit_node offers");
    if (text_has_host_bits(prefix, &r.prefix)) return refuse(why, "a route has bits set beyond its length");
    if (is_via(&r.prefix.ip) ? r.prefix.bits < VIA_SITE_BITS : never_subnet(&r.prefix.ip, r.prefix.bits))
        return refuse(why, "a route lies in a range that is never a subnet");
    *out = r;
    return 0;
}

int tn_egress_set_routes(struct tn_egress *e, const struct tn_egress_route *routes, size_t n)
{
    if (n > TN_EGRESS_ROUTES_MAX) return TN_E_LIMIT;
    struct tn_egress_route *copy = n ? malloc(n * sizeof *copy) : NULL;
    if (n && !copy) return TN_E_NOMEM;
    if (n) memcpy(copy, routes, n * sizeof *copy);
    free(e->routes);
    e->routes = copy;
    e->nroutes = n;
    return 0;
}

/* ---- which way ---- */

static const struct tn_egress_route *longest(const struct tn_egress *e, const struct tn_ip *ip)
{
    const struct tn_egress_route *found = NULL;
    for (size_t i = 0; i < e->nroutes; i++)
        if (tn_prefix_contains(&e->routes[i].prefix, ip) && (!found || e->routes[i].prefix.bits > found->prefix.bits))
            found = &e->routes[i];
    return found;
}

bool tn_egress_is_subnet(const struct tn_egress *e, const struct tn_addrport *dst, struct tn_addrport *real)
{
    const struct tn_egress_route *r = longest(e, &dst->ip);
    *real = *dst;
    if (!r) return false;
    real->ip = carried(&dst->ip);
    return r->direct || !tn_guard_is_public(&real->ip);
}

bool tn_egress_conn_is_subnet(const struct tn_egress_conn *c) { return c->purpose == TN_EGRESS_SUBNET; }
bool tn_dgram_is_subnet(const struct tn_dgram *d) { return d->chan->subnet; }

struct tn_egress_target tn_subnet_resolve(const struct tn_egress *e, const struct tn_egress_target *to)
{
    struct tn_egress_target real = *to;
    bool subnet = to->purpose == TN_EGRESS_FORWARD && tn_egress_is_subnet(e, &to->dst, &real.dst);
    if (subnet) real.name = NULL; /* rules of the exit policy do not concern it */
    if (subnet) real.purpose = TN_EGRESS_SUBNET;
    else if (to->purpose == TN_EGRESS_SUBNET) real.purpose = TN_EGRESS_FORWARD;
    return real;
}

bool tn_subnet_allows(struct tn_egress *e, const struct tn_addrport *real)
{
    if (real->port == 0 || never_subnet(&real->ip, (unsigned)tn_ip_bits(&real->ip)) || tn_egress_is_proxy(e, real)) return false;
    for (size_t i = 0; i < e->guard.nown; i++)
        if (tn_ip_eq(&e->guard.own[i], &real->ip)) return false;
    return true;
}

/* The destination itself, from this host's own addresses, whatever the exit policy says. */
int tn_subnet_begin(struct tn_egress_conn *c)
{
    if (c->purpose != TN_EGRESS_SUBNET) return TN_EGRESS_FAIL_OFF;
    int fd = tn_socket_connect(&c->dialing->dst, c->e->mark, NULL);
    if (fd < 0) return fd == -EADDRNOTAVAIL ? TN_EGRESS_FAIL_PORTS : (int)tn_direct_fail_of(fd);
    return tn_dial_attempt(c, fd, c->dialing->deadline_us);
}
