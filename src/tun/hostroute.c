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
#include "tun/host_private.h"

#include "tun/vnet.h"
#include "util/file.h"
#include "util/list.h"

#include <dirent.h>
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    LAST_METRIC = 0x7fffffff,
    SYSCTL_MAX = 64, /* bytes of a value */
    SWEEPS = 32,     /* rules of one kind that several crashes may have left */
};

struct route {
    struct tn_hnode node;
    struct tn_prefix prefix;
    unsigned wanted;
};

static const uint8_t families[2] = {AF_INET, AF_INET6};

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
int tn_tunhost_add_rules(struct tn_tunhost *h, uint32_t pref, uint32_t table)
{
    int err = 0;
    for (int f = 0; f < (h->has6 ? 2 : 1) && !err; f++)
        err = pref == PREF_SEAL ? add_seal(h, families[f]) : add_lookup(h, families[f], pref, table);
    return err;
}

void tn_tunhost_drop_all_rules(struct tn_tunhost *h)
{
    static const uint32_t prefs[] = {PREF_DEFAULT, PREF_LAN, PREF_PEERS, PREF_SEAL};
    for (size_t i = 0; i < sizeof prefs / sizeof *prefs; i++) drop_rules(h, prefs[i]);
}

/* Does the kernel do IPv6 at all? */
bool tn_tunhost_knows_ipv6(struct tn_tunhost *h)
{
    begin_rule(h, RTM_DELRULE, 0, AF_INET6, PREF_PEERS, FR_ACT_UNSPEC, true);
    int err = tn_rtnl_end(&h->nl, 0);
    if (!err) err = tn_rtnl_flush(&h->nl);
    return !err || err == -ENOENT;
}

/* ---- routes ---- */

static int route_request(struct tn_tunhost *h, bool add, const struct tn_prefix *p, uint32_t table, uint8_t type)
{
    struct rtmsg m = {.rtm_family = (uint8_t)tn_tunhost_af(&p->ip),
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

void tn_tunhost_drop_unreachable(struct tn_tunhost *h)
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
        tn_tunhost_complain(h, "a route", TN_E_NOMEM);
        return;
    }
    r->prefix = p;
    r->wanted = 1;
    if (p.ip.family == 6 && !h->has6) return;
    tn_tunhost_complain(h, "routes", route_request(h, true, &p, TABLE_PEERS, RTN_UNICAST));
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
    tn_tunhost_complain(h, "routes", route_request(h, false, &p, TABLE_PEERS, RTN_UNICAST));
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
        tn_tunhost_drop_unreachable(h);
        return;
    }
    warn_of_strict_filter(h);
    for (int f = 0; f < (h->has6 ? 2 : 1); f++) { /* first what blocks, then what carries, then the rule that leads there */
        tn_tunhost_complain(h, "unreachable route", route_request(h, true, &defaults[f], TABLE_DEFAULT, RTN_UNREACHABLE));
        tn_tunhost_complain(h, "default route", route_request(h, true, &defaults[f], TABLE_DEFAULT, RTN_UNICAST));
    }
    tn_tunhost_complain(h, "default route", tn_rtnl_flush(&h->nl));
    if (h->config.allow_lan) tn_tunhost_complain(h, "rule for the LAN", tn_tunhost_add_rules(h, PREF_LAN, RT_TABLE_MAIN));
    tn_tunhost_complain(h, "rule for the default route", tn_tunhost_add_rules(h, PREF_DEFAULT, TABLE_DEFAULT));
    tn_tunhost_complain(h, "rule for the default route", tn_rtnl_flush(&h->nl));
}

static void free_route(struct tn_hnode *node, void *arg) { free(TN_CONTAINER(node, struct route, node)); }

void tn_tunhost_free_routes(struct tn_tunhost *h)
{
    tn_htable_each(&h->routes, free_route, NULL);
    tn_htable_fini(&h->routes);
}
