/* Two tables and up to four rules per family, all with a protocol number of our own, by which they are found again:
 *
 *     5280  from all iif TUN blackhole                 while we are an exit node
 *     5282  not from all fwmark OURS lookup PEERS      addresses and subnets of peers
 *     5284  not from all fwmark OURS lookup main suppress_prefixlength 0      if the LAN stays reachable
 *     5286  not from all fwmark OURS lookup DEFAULT    while an exit node carries our traffic
 *
 * Sockets of the node itself carry the mark and fall through to whatever the host has, so that neither WireGuard's own
 * packets nor an exit client's proxy connection can end up in the tunnel.
 *
 * The first rule is a second lock: packets to addresses that are not the host's are never written to the TUN, they go
 * to the in-process stack. It makes sure that the kernel forwards nothing even if one were, whatever ip_forward and a
 * leftover MASQUERADE say. (The host's own addresses are found in the local table, before any rule of ours.)
 *
 * Table DEFAULT ends with an unreachable route. It outlives a crash, while the routes through the device go with it: then
 * the host's traffic stops instead of leaving directly, until a node starts again or the rule is deleted. */
#include "tun/host.h"

#include "tun/rtnl.h"
#include "tun/vnet.h"
#include "util/err.h"
#include "util/file.h"
#include "util/htable.h"
#include "util/list.h"

#include <dirent.h>
#include <linux/fib_rules.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    TABLE_PEERS = 5380, TABLE_DEFAULT = 5381,
    PREF_SEAL = 5280, PREF_PEERS = 5282, PREF_LAN = 5284, PREF_DEFAULT = 5286,
    PROTOCOL = 84, /* of routes and rules; not in the kernel's or iproute2's lists */
    LAST_METRIC = 0x7fffffff,
    ADDRS_MAX = 4,
    SYSCTL_MAX = 64, /* bytes of a value */
    SUPER_PACKET_MAX = 49 * (TN_TUN_MTU - 52) + 52, /* 52: IPv4 and TCP with timestamps; with less in front a bit less fits */
    ATTR_GSO_IPV4_MAX_SIZE = 63,                    /* IFLA_GSO_IPV4_MAX_SIZE, not in older headers */
    SWEEPS = 32, /* rules of one kind that several crashes may have left */
};

struct route {
    struct tn_hnode node;
    struct tn_prefix prefix;
    unsigned wanted;
};

struct tn_tunhost {
    struct tn_tunhost_config config;
    struct tn_rtnl nl;
    struct tn_htable routes; /* struct route by prefix */
    struct tn_ip addrs[ADDRS_MAX];
    size_t naddrs;
    bool default_on, has6;
};

static const uint8_t families[2] = {AF_INET, AF_INET6};

static int af(const struct tn_ip *ip) { return ip->family == 4 ? AF_INET : AF_INET6; }

static void complain(const struct tn_tunhost *h, const char *what, int err)
{
    if (err) tn_logf(h->config.log, TN_LOG_WARN, "tun", "%s: %s", what, tn_err_text(err));
}

/* ---- rules ---- */

static void begin_rule(struct tn_tunhost *h, uint16_t type, uint16_t flags, uint8_t family, uint32_t pref, uint8_t action,
                       bool unmarked)
{
    struct fib_rule_hdr hdr = {.family = family, .action = action, .flags = unmarked ? FIB_RULE_INVERT : 0};
    uint8_t protocol = PROTOCOL;
    tn_rtnl_begin(&h->nl, type, flags, &hdr, sizeof hdr);
    tn_rtnl_put_u32(&h->nl, FRA_PRIORITY, pref);
    tn_rtnl_put(&h->nl, FRA_PROTOCOL, &protocol, sizeof protocol);
    if (!unmarked) return;
    tn_rtnl_put_u32(&h->nl, FRA_FWMARK, TN_TUN_MARK);
    tn_rtnl_put_u32(&h->nl, FRA_FWMASK, TN_TUN_MARK);
}

static int add_lookup(struct tn_tunhost *h, uint8_t family, uint32_t pref, uint32_t table)
{
    begin_rule(h, RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, family, pref, FR_ACT_TO_TBL, true);
    tn_rtnl_put_u32(&h->nl, FRA_TABLE, table);
    if (table == RT_TABLE_MAIN) tn_rtnl_put_u32(&h->nl, FRA_SUPPRESS_PREFIXLEN, 0);
    return tn_rtnl_end(&h->nl, -EEXIST);
}

static int add_seal(struct tn_tunhost *h, uint8_t family)
{
    const char *name = h->config.tun->name;
    begin_rule(h, RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, family, PREF_SEAL, FR_ACT_BLACKHOLE, false);
    tn_rtnl_put(&h->nl, FRA_IIFNAME, name, strlen(name) + 1);
    return tn_rtnl_end(&h->nl, -EEXIST);
}

/* Every rule of ours with this priority. */
static void drop_rules(struct tn_tunhost *h, uint32_t pref)
{
    for (int f = 0; f < 2; f++) {
        for (int i = 0, err = 0; i < SWEEPS && !err; i++) { /* until none is found */
            begin_rule(h, RTM_DELRULE, 0, families[f], pref, FR_ACT_UNSPEC, false);
            err = tn_rtnl_end(&h->nl, 0);
            if (!err) err = tn_rtnl_flush(&h->nl);
        }
    }
}

/* For both families; a host without IPv6 has the rules of IPv4 alone. */
static int add_rules(struct tn_tunhost *h, uint32_t pref, uint32_t table)
{
    int err = 0;
    for (int f = 0; f < (h->has6 ? 2 : 1) && !err; f++)
        err = pref == PREF_SEAL ? add_seal(h, families[f]) : add_lookup(h, families[f], pref, table);
    return err;
}

/* ---- routes ---- */

static int route_request(struct tn_tunhost *h, bool add, const struct tn_prefix *p, uint32_t table, uint8_t type)
{
    struct rtmsg m = {.rtm_family = (uint8_t)af(&p->ip),
                      .rtm_dst_len = p->bits,
                      .rtm_protocol = PROTOCOL,
                      .rtm_scope = !add ? RT_SCOPE_NOWHERE : type == RTN_UNICAST ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE,
                      .rtm_type = type};
    tn_rtnl_begin(&h->nl, add ? RTM_NEWROUTE : RTM_DELROUTE, add ? NLM_F_CREATE | NLM_F_REPLACE : 0, &m, sizeof m);
    if (p->bits) tn_rtnl_put_ip(&h->nl, RTA_DST, &p->ip);
    tn_rtnl_put_u32(&h->nl, RTA_TABLE, table);
    if (type == RTN_UNICAST) tn_rtnl_put_u32(&h->nl, RTA_OIF, h->config.tun->ifindex);
    else tn_rtnl_put_u32(&h->nl, RTA_PRIORITY, LAST_METRIC);
    return tn_rtnl_end(&h->nl, add ? 0 : -ESRCH);
}

static const struct tn_prefix defaults[2] = {{.ip = {.family = 4}}, {.ip = {.family = 6}}};

static void drop_unreachable(struct tn_tunhost *h)
{
    for (int f = 0; f < (h->has6 ? 2 : 1); f++) (void)route_request(h, false, &defaults[f], TABLE_DEFAULT, RTN_UNREACHABLE);
    (void)tn_rtnl_flush(&h->nl);
}

static bool route_eq(const struct tn_hnode *node, const void *key)
{
    return tn_prefix_eq(&TN_CONTAINER(node, struct route, node)->prefix, key);
}

/* The control server chooses prefixes, no peer does: any hash will do. */
static uint64_t prefix_hash(const struct tn_prefix *p)
{
    uint64_t h = 0xcbf29ce484222325ULL ^ p->bits;
    for (size_t i = 0; i < sizeof p->ip.b; i++) h = (h ^ p->ip.b[i]) * 0x100000001b3ULL;
    return h ^ h >> 29;
}

/* What no peer can be the way to. */
static bool routable(const struct tn_prefix *p)
{
    return p->bits > 0 && !tn_ip_is_loopback(&p->ip) && !tn_ip_is_multicast(&p->ip) && !tn_ip_is_link_local(&p->ip);
}

void tn_tunhost_want(struct tn_tunhost *h, const struct tn_prefix *given)
{
    struct tn_prefix p = *given;
    tn_prefix_mask(&p);
    if (!routable(&p)) return;
    struct tn_hnode *found = tn_htable_find(&h->routes, prefix_hash(&p), route_eq, &p);
    if (found) {
        TN_CONTAINER(found, struct route, node)->wanted++;
        return;
    }
    struct route *r = calloc(1, sizeof *r);
    if (!r || tn_htable_insert(&h->routes, &r->node, prefix_hash(&p)) != 0) {
        free(r);
        complain(h, "a route", TN_E_NOMEM);
        return;
    }
    r->prefix = p;
    r->wanted = 1;
    if (p.ip.family == 6 && !h->has6) return;
    complain(h, "routes", route_request(h, true, &p, TABLE_PEERS, RTN_UNICAST));
}

void tn_tunhost_unwant(struct tn_tunhost *h, const struct tn_prefix *given)
{
    struct tn_prefix p = *given;
    tn_prefix_mask(&p);
    struct tn_hnode *found = tn_htable_find(&h->routes, prefix_hash(&p), route_eq, &p);
    struct route *r = found ? TN_CONTAINER(found, struct route, node) : NULL;
    if (!r || --r->wanted > 0) return;
    tn_htable_remove(&h->routes, &r->node);
    free(r);
    if (p.ip.family == 6 && !h->has6) return;
    complain(h, "routes", route_request(h, false, &p, TABLE_PEERS, RTN_UNICAST));
}

/* Strict reverse path filtering (1; 2 is the loose kind) asks where an answer would go, and knows nothing of our mark: with a
 * default route into the TUN it drops what comes to our own sockets. That is the administrator's to change. */
static void warn_of_strict_filter(const struct tn_tunhost *h)
{
    static const char dir[] = "/proc/sys/net/ipv4/conf";
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        char path[sizeof dir + sizeof e->d_name + 16], *text;
        size_t len;
        if (e->d_name[0] == '.' || !strcmp(e->d_name, "lo") || !strcmp(e->d_name, h->config.tun->name)) continue;
        snprintf(path, sizeof path, "%s/%s/rp_filter", dir, e->d_name);
        if (tn_file_read(path, SYSCTL_MAX, &text, &len) != 0) continue;
        if (text[0] == '1')
            tn_logf(h->config.log, TN_LOG_WARN, "tun", "net.ipv4.conf.%s.rp_filter is 1 (strict): with an exit node in use it must be 2 or 0", e->d_name);
        free(text);
    }
    if (d) closedir(d);
}

void tn_tunhost_set_default(struct tn_tunhost *h, bool on)
{
    if (h->default_on == on) return;
    h->default_on = on;
    if (!on) {
        drop_rules(h, PREF_DEFAULT);
        drop_rules(h, PREF_LAN);
        for (int f = 0; f < (h->has6 ? 2 : 1); f++) (void)route_request(h, false, &defaults[f], TABLE_DEFAULT, RTN_UNICAST);
        drop_unreachable(h);
        return;
    }
    warn_of_strict_filter(h);
    for (int f = 0; f < (h->has6 ? 2 : 1); f++) { /* first what blocks, then what carries, then the rule that leads there */
        complain(h, "unreachable route", route_request(h, true, &defaults[f], TABLE_DEFAULT, RTN_UNREACHABLE));
        complain(h, "default route", route_request(h, true, &defaults[f], TABLE_DEFAULT, RTN_UNICAST));
    }
    complain(h, "default route", tn_rtnl_flush(&h->nl));
    if (h->config.allow_lan) complain(h, "rule for the LAN", add_rules(h, PREF_LAN, RT_TABLE_MAIN));
    complain(h, "rule for the default route", add_rules(h, PREF_DEFAULT, TABLE_DEFAULT));
    complain(h, "rule for the default route", tn_rtnl_flush(&h->nl));
}

/* ---- addresses ---- */

static int addr_request(struct tn_tunhost *h, bool add, const struct tn_ip *ip)
{
    struct ifaddrmsg m = {.ifa_family = (uint8_t)af(ip),
                          .ifa_prefixlen = (uint8_t)tn_ip_bits(ip),
                          .ifa_index = h->config.tun->ifindex};
    tn_rtnl_begin(&h->nl, add ? RTM_NEWADDR : RTM_DELADDR, add ? NLM_F_CREATE | NLM_F_REPLACE : 0, &m, sizeof m);
    tn_rtnl_put_ip(&h->nl, IFA_LOCAL, ip);
    tn_rtnl_put_ip(&h->nl, IFA_ADDRESS, ip);
    if (add) tn_rtnl_put_u32(&h->nl, IFA_FLAGS, IFA_F_NOPREFIXROUTE | (ip->family == 6 ? IFA_F_NODAD : 0));
    return tn_rtnl_end(&h->nl, add ? -EEXIST : -EADDRNOTAVAIL);
}

static bool has_addr(const struct tn_ip *addrs, size_t n, const struct tn_ip *ip)
{
    for (size_t i = 0; i < n; i++)
        if (tn_ip_eq(&addrs[i], ip)) return true;
    return false;
}

void tn_tunhost_set_addrs(struct tn_tunhost *h, const struct tn_ip *addrs, size_t n)
{
    if (n > ADDRS_MAX) n = ADDRS_MAX;
    for (size_t i = 0; i < h->naddrs; i++)
        if (!has_addr(addrs, n, &h->addrs[i])) complain(h, "old address", addr_request(h, false, &h->addrs[i]));
    for (size_t i = 0; i < n; i++) {
        if (has_addr(h->addrs, h->naddrs, &addrs[i])) continue;
        int err = addr_request(h, true, &addrs[i]); /* one by one: each says what is wrong with it */
        if (!err) err = tn_rtnl_flush(&h->nl);
        complain(h, addrs[i].family == 4 ? "IPv4 address" : "IPv6 address", err);
    }
    memcpy(h->addrs, addrs, n * sizeof *addrs);
    h->naddrs = n;
}

void tn_tunhost_flush(struct tn_tunhost *h) { complain(h, "routes", tn_rtnl_flush(&h->nl)); }

/* ---- the link ---- */

static int link_request(struct tn_tunhost *h, bool up)
{
    struct ifinfomsg m = {.ifi_index = (int)h->config.tun->ifindex, .ifi_flags = up ? IFF_UP : 0, .ifi_change = IFF_UP};
    tn_rtnl_begin(&h->nl, RTM_NEWLINK, 0, &m, sizeof m);
    if (up) tn_rtnl_put_u32(&h->nl, IFLA_MTU, TN_TUN_MTU);
    return tn_rtnl_end(&h->nl, 0);
}

/* One UDP message takes 49 packets of full size, and a super-packet of 64 KiB has 53: a message of four would follow each. So
 * the kernel makes them no larger than 49, if it can be told to (the IPv4 limit has its own name since Linux 6.3). */
static void limit_super_packets(struct tn_tunhost *h)
{
    struct ifinfomsg m = {.ifi_index = (int)h->config.tun->ifindex};
    for (int i = 0; i < 2; i++) {
        tn_rtnl_begin(&h->nl, RTM_NEWLINK, 0, &m, sizeof m);
        tn_rtnl_put_u32(&h->nl, i == 0 ? IFLA_GSO_MAX_SIZE : ATTR_GSO_IPV4_MAX_SIZE, SUPER_PACKET_MAX);
        (void)tn_rtnl_end(&h->nl, 0);
    }
    (void)tn_rtnl_flush(&h->nl); /* only speed is lost */
}

/* No link-local address: nobody is on this link to talk to. */
static void no_link_local(struct tn_tunhost *h)
{
    struct ifinfomsg m = {.ifi_index = (int)h->config.tun->ifindex};
    uint8_t none = IN6_ADDR_GEN_MODE_NONE;
    tn_rtnl_begin(&h->nl, RTM_NEWLINK, 0, &m, sizeof m);
    void *spec = tn_rtnl_nest(&h->nl, IFLA_AF_SPEC), *inet6 = tn_rtnl_nest(&h->nl, AF_INET6);
    tn_rtnl_put(&h->nl, IFLA_INET6_ADDR_GEN_MODE, &none, sizeof none);
    tn_rtnl_nest_end(&h->nl, inet6);
    tn_rtnl_nest_end(&h->nl, spec);
    (void)tn_rtnl_end(&h->nl, 0);
    (void)tn_rtnl_flush(&h->nl); /* without IPv6 there is nothing to forbid */
}

/* ---- leftovers, and others ---- */

struct found {
    unsigned ours, other; /* interface indices */
    struct tn_ip addrs[16];
    size_t naddrs;
};

static void look_at_route(void *ctx, const struct nlmsghdr *msg)
{
    struct found *f = ctx;
    size_t len;
    uint32_t table, oif;
    const void *t = tn_rtnl_attr(msg, sizeof(struct rtmsg), RTA_TABLE, &len);
    if (!t || len != sizeof table) return;
    memcpy(&table, t, sizeof table);
    const void *o = tn_rtnl_attr(msg, sizeof(struct rtmsg), RTA_OIF, &len);
    if (table != TABLE_PEERS || !o || len != sizeof oif) return;
    memcpy(&oif, o, sizeof oif);
    if (oif != f->ours) f->other = oif;
}

static void look_at_addr(void *ctx, const struct nlmsghdr *msg)
{
    struct found *f = ctx;
    struct ifaddrmsg m;
    size_t len;
    if (msg->nlmsg_len < NLMSG_LENGTH(sizeof m)) return;
    memcpy(&m, NLMSG_DATA(msg), sizeof m);
    const void *a = tn_rtnl_attr(msg, sizeof m, m.ifa_family == AF_INET ? IFA_LOCAL : IFA_ADDRESS, &len);
    bool whole = a && len == (m.ifa_family == AF_INET ? 4u : 16u);
    if (m.ifa_index != f->ours || !whole || f->naddrs == sizeof f->addrs / sizeof *f->addrs) return;
    f->addrs[f->naddrs++] = tn_ip_from_bytes(a, m.ifa_family == AF_INET ? 4 : 6);
}

/* A route of our table through another device is another node that lives: a dead one's went with its device. */
static int look_around(struct tn_tunhost *h)
{
    struct {
        struct rtmsg m;
        struct rtattr a;
        uint32_t table;
    } ask = {.m = {.rtm_family = AF_INET}, .a = {.rta_len = RTA_LENGTH(4), .rta_type = RTA_TABLE}, .table = TABLE_PEERS};
    struct ifaddrmsg addrs = {.ifa_family = AF_UNSPEC};
    struct found f = {.ours = h->config.tun->ifindex};
    int err = tn_rtnl_dump(&h->nl, RTM_GETROUTE, &ask, sizeof ask, look_at_route, &f);
    if (err && err != -ENOENT && err != -ESRCH) return err;
    if (f.other) return TN_E_BUSY;
    err = tn_rtnl_dump(&h->nl, RTM_GETADDR, &addrs, sizeof addrs, look_at_addr, &f);
    for (size_t i = 0; i < f.naddrs && !err; i++) err = addr_request(h, false, &f.addrs[i]);
    return err ? err : tn_rtnl_flush(&h->nl);
}

static void drop_all_rules(struct tn_tunhost *h)
{
    static const uint32_t prefs[] = {PREF_DEFAULT, PREF_LAN, PREF_PEERS, PREF_SEAL};
    for (size_t i = 0; i < sizeof prefs / sizeof *prefs; i++) drop_rules(h, prefs[i]);
}

/* Does the kernel do IPv6 at all? */
static bool knows_ipv6(struct tn_tunhost *h)
{
    begin_rule(h, RTM_DELRULE, 0, AF_INET6, PREF_PEERS, FR_ACT_UNSPEC, true);
    int err = tn_rtnl_end(&h->nl, 0);
    if (!err) err = tn_rtnl_flush(&h->nl);
    return !err || err == -ENOENT;
}

static int begin(struct tn_tunhost *h)
{
    h->has6 = knows_ipv6(h);
    int err = look_around(h);
    if (err) return err;
    drop_all_rules(h);
    drop_unreachable(h);
    err = link_request(h, false); /* a device that was there already loses its routes */
    if (!err) err = tn_rtnl_flush(&h->nl);
    if (err) return err;
    no_link_local(h);
    limit_super_packets(h);
    if (h->config.exit_node) err = add_rules(h, PREF_SEAL, 0); /* before anything can come out of the device */
    if (!err) err = link_request(h, true);
    if (!err) err = add_rules(h, PREF_PEERS, TABLE_PEERS);
    return err ? err : tn_rtnl_flush(&h->nl);
}

/* The addresses of the tailnet's own service: they mark the table as in use from the start, too. */
static void want_service(struct tn_tunhost *h)
{
    static const struct tn_prefix service[2] = {
        {{4, {100, 100, 100, 100}}, 32},
        {{6, {0xfd, 0x7a, 0x11, 0x5c, 0xa1, 0xe0, [15] = 0x53}}, 128},
    };
    for (int i = 0; i < 2; i++) tn_tunhost_want(h, &service[i]);
    tn_tunhost_flush(h);
}

int tn_tunhost_new(const struct tn_tunhost_config *config, struct tn_tunhost **out)
{
    struct tn_tunhost *h = calloc(1, sizeof *h);
    if (!h) return TN_E_NOMEM;
    h->config = *config;
    tn_htable_init(&h->routes);
    int err = tn_rtnl_open(&h->nl);
    if (!err) err = begin(h);
    if (err) {
        if (err != TN_E_BUSY && h->nl.fd >= 0) drop_all_rules(h);
        tn_rtnl_close(&h->nl);
        free(h);
        return err;
    }
    want_service(h);
    *out = h;
    return 0;
}

static void free_route(struct tn_hnode *node, void *arg) { free(TN_CONTAINER(node, struct route, node)); }

/* The device's routes and addresses go when its link goes down, also where the device itself stays. */
void tn_tunhost_free(struct tn_tunhost *h)
{
    if (!h) return;
    tn_tunhost_flush(h);
    drop_all_rules(h);
    drop_unreachable(h);
    for (size_t i = 0; i < h->naddrs; i++) (void)addr_request(h, false, &h->addrs[i]);
    (void)link_request(h, false);
    (void)tn_rtnl_flush(&h->nl);
    tn_rtnl_close(&h->nl);
    tn_htable_each(&h->routes, free_route, NULL);
    tn_htable_fini(&h->routes);
    free(h);
}
