/* The life of what is set on the host: what a crash left goes first, then link, addresses and rules (hostroute.c) come, and all of
 * it goes at the end. */
#include "tun/host_private.h"

#include "tun/vnet.h"

#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>

enum {
    SUPER_PACKET_MAX = 49 * (TN_TUN_MTU - 52) + 52, /* 52: IPv4 and TCP with timestamps; with less in front a bit less fits */
    ATTR_GSO_IPV4_MAX_SIZE = 63,                    /* IFLA_GSO_IPV4_MAX_SIZE, not in older headers */
};

void tn_tunhost_complain(const struct tn_tunhost *h, const char *what, int err)
{
    if (err) tn_logf(h->config.log, TN_LOG_WARN, "tun", "%s: %s", what, tn_err_text(err));
}

/* ---- addresses ---- */

static int addr_request(struct tn_tunhost *h, bool add, const struct tn_ip *ip)
{
    struct ifaddrmsg m = {.ifa_family = (uint8_t)tn_tunhost_af(ip),
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
        if (!has_addr(addrs, n, &h->addrs[i])) tn_tunhost_complain(h, "old address", addr_request(h, false, &h->addrs[i]));
    for (size_t i = 0; i < n; i++) {
        if (has_addr(h->addrs, h->naddrs, &addrs[i])) continue;
        int err = addr_request(h, true, &addrs[i]); /* one by one: each says what is wrong with it */
        if (!err) err = tn_rtnl_flush(&h->nl);
        tn_tunhost_complain(h, addrs[i].family == 4 ? "IPv4 address" : "IPv6 address", err);
    }
    memcpy(h->addrs, addrs, n * sizeof *addrs);
    h->naddrs = n;
}

void tn_tunhost_flush(struct tn_tunhost *h) { tn_tunhost_complain(h, "routes", tn_rtnl_flush(&h->nl)); }

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

static int begin(struct tn_tunhost *h)
{
    h->has6 = tn_tunhost_knows_ipv6(h);
    int err = look_around(h);
    if (err) return err;
    tn_tunhost_drop_all_rules(h);
    tn_tunhost_drop_unreachable(h);
    err = link_request(h, false); /* a device that was there already loses its routes */
    if (!err) err = tn_rtnl_flush(&h->nl);
    if (err) return err;
    no_link_local(h);
    limit_super_packets(h);
    if (h->config.exit_node) err = tn_tunhost_add_rules(h, PREF_SEAL, 0); /* before anything can come out of the device */
    if (!err) err = link_request(h, true);
    if (!err) err = tn_tunhost_add_rules(h, PREF_PEERS, TABLE_PEERS);
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
        if (err != TN_E_BUSY && h->nl.fd >= 0) tn_tunhost_drop_all_rules(h);
        tn_rtnl_close(&h->nl);
        free(h);
        return err;
    }
    want_service(h);
    *out = h;
    return 0;
}

int tn_tunhost_seal(struct tn_tunhost *h)
{
    if (h->config.exit_node) return 0;
    int err = tn_tunhost_add_rules(h, PREF_SEAL, 0);
    if (!err) err = tn_rtnl_flush(&h->nl);
    h->config.exit_node = !err;
    return err;
}

/* The device's routes and addresses go when its link goes down, also where the device itself stays. */
void tn_tunhost_free(struct tn_tunhost *h)
{
    if (!h) return;
    tn_tunhost_flush(h);
    tn_tunhost_drop_all_rules(h);
    tn_tunhost_drop_unreachable(h);
    for (size_t i = 0; i < h->naddrs; i++) (void)addr_request(h, false, &h->addrs[i]);
    (void)link_request(h, false);
    (void)tn_rtnl_flush(&h->nl);
    tn_rtnl_close(&h->nl);
    tn_tunhost_free_routes(h);
    free(h);
}
