#include "filter/filter.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

/* ---- packets ---- */

struct pkt {
    uint8_t b[256];
    size_t len;
};

static struct tn_ip ip(const char *text)
{
    struct tn_ip a;
    if (tn_ip_parse(text, &a) != 0) fail_msg("%s", text);
    return a;
}

static struct pkt packet(const struct tn_ip *src, const struct tn_ip *dst, uint8_t proto, const void *l4, size_t len)
{
    struct pkt p = {0};
    size_t hdr = tn_ip_header_put(p.b, src, dst, proto, len, 64, 1);
    memcpy(p.b + hdr, l4, len);
    p.len = hdr + len;
    return p;
}

/* Ports as TCP, UDP and SCTP have them; flags as TCP has them; enough bytes for any header. */
static struct pkt flow(const char *src, uint16_t sport, const char *dst, uint16_t dport, uint8_t proto, uint8_t flags)
{
    uint8_t l4[24] = {0};
    struct tn_ip s = ip(src), d = ip(dst);
    tn_put_be16(l4, sport);
    tn_put_be16(l4 + 2, dport);
    l4[12] = 0x50;
    l4[13] = flags;
    return packet(&s, &d, proto, l4, sizeof l4);
}

static struct pkt icmp(const char *src, const char *dst, uint8_t type, uint8_t code, size_t len)
{
    uint8_t l4[8] = {type, code};
    struct tn_ip s = ip(src), d = ip(dst);
    return packet(&s, &d, s.family == 4 ? 1 : 58, l4, len);
}

/* Makes an IPv4 packet a fragment. */
static struct pkt fragment(struct pkt p, uint16_t offset, bool more)
{
    tn_put_be16(p.b + 6, (uint16_t)(offset / 8 | (more ? 0x2000 : 0)));
    tn_put_be16(p.b + 10, 0);
    tn_put_be16(p.b + 10, tn_cksum_fold(tn_cksum_add(0, p.b, 20)));
    return p;
}

static enum tn_filter_reason run_as(struct tn_filter *f, struct pkt p, const struct tn_filter_peer *peer)
{
    enum tn_filter_reason why;
    uint8_t *exact = malloc(p.len ? p.len : 1);
    assert_non_null(exact);
    memcpy(exact, p.b, p.len);
    enum tn_verdict v = tn_filter_in(f, exact, p.len, peer, &why);
    free(exact);
    assert_int_equal(v == TN_ACCEPT, why == TN_FILTER_OK);
    return why;
}
static enum tn_filter_reason run(struct tn_filter *f, struct pkt p) { return run_as(f, p, NULL); }

static void send_out(struct tn_filter *f, struct pkt p) { tn_filter_out(f, p.b, p.len); }

static void set_rules(struct tn_filter *f, const char *text)
{
    json_t *json = json_loads(text, 0, NULL);
    if (!json) fail_msg("%s", text);
    assert_int_equal(tn_filter_set_rules(f, json), 0);
    json_decref(json);
}

static const char allow_all[] =
    "[{\"SrcIPs\":[\"*\"],\"DstPorts\":[{\"IP\":\"*\",\"Ports\":{\"First\":0,\"Last\":65535}}]}]";
static const char allow_web[] = "[{\"SrcIPs\":[\"100.64.0.2\",\"fd7a:115c:a1e0::2\"],\"DstPorts\":["
                                "{\"IP\":\"100.64.0.1\",\"Ports\":{\"First\":80,\"Last\":81}},"
                                "{\"IP\":\"fd7a:115c:a1e0::1\",\"Ports\":{\"First\":80,\"Last\":81}}]}]";

#define OWN4 "100.64.0.1"
#define OWN6 "fd7a:115c:a1e0::1"
#define PEER4 "100.64.0.2"
#define PEER6 "fd7a:115c:a1e0::2"
enum { SYN = FLAG_SYN, ACK = FLAG_ACK };

static struct tn_filter *node(const char *rules)
{
    struct tn_filter *f = tn_filter_new();
    assert_non_null(f);
    struct tn_ip own[] = {ip(OWN4), ip(OWN6)};
    assert_int_equal(tn_filter_set_local(f, own, 2, NULL, 0, NULL, 0), 0);
    if (rules) set_rules(f, rules);
    return f;
}

/* ---- single rules of the contract ---- */

static void nothing_new_comes_in_without_rules(void **state)
{
    (void)state;
    struct tn_filter *f = node(NULL);
    assert_int_equal(run(f, flow(PEER4, 1, OWN4, 80, 6, SYN)), TN_FILTER_ACL);
    assert_int_equal(run(f, flow(PEER4, 1, OWN4, 80, 17, 0)), TN_FILTER_ACL);
    assert_int_equal(run(f, icmp(PEER4, OWN4, 8, 0, 8)), TN_FILTER_ACL);
    assert_int_equal(run(f, (struct pkt){0}), TN_FILTER_OK);
    tn_filter_free(f);
    tn_filter_free(NULL);
}

static void tcp(void **state)
{
    (void)state;
    struct tn_filter *f = node(allow_web);
    assert_int_equal(run(f, flow(PEER4, 1, OWN4, 80, 6, SYN)), TN_FILTER_OK);
    assert_int_equal(run(f, flow(PEER6, 1, OWN6, 81, 6, SYN)), TN_FILTER_OK);
    assert_int_equal(run(f, flow(PEER4, 1, OWN4, 82, 6, SYN)), TN_FILTER_ACL);
    assert_int_equal(run(f, flow(PEER4, 80, OWN4, 82, 6, SYN | 0xc0)), TN_FILTER_ACL); /* ECN bits hide nothing */
    assert_int_equal(run(f, flow("100.64.0.3", 1, OWN4, 80, 6, SYN)), TN_FILTER_ACL);
    assert_int_equal(run(f, flow(PEER4, 1, OWN4, 82, 6, SYN | ACK)), TN_FILTER_OK);
    assert_int_equal(run(f, flow(PEER4, 1, OWN4, 82, 6, ACK)), TN_FILTER_OK);
    assert_int_equal(run(f, flow(PEER4, 1, OWN4, 82, 6, 0)), TN_FILTER_OK);
    assert_int_equal(run(f, flow(PEER4, 1, "100.64.0.9", 80, 6, ACK)), TN_FILTER_NOT_OURS);
    tn_filter_free(f);
}

static void icmp_needs_addresses_only(void **state)
{
    (void)state;
    struct tn_filter *f = node(allow_web);
    assert_int_equal(run(f, icmp(PEER4, OWN4, 8, 0, 8)), TN_FILTER_OK);
    assert_int_equal(run(f, icmp(PEER6, OWN6, 128, 0, 8)), TN_FILTER_OK);
    assert_int_equal(run(f, icmp("100.64.0.3", OWN4, 8, 0, 8)), TN_FILTER_ACL);
    static const uint8_t answers4[] = {0, 3, 11, 12}, answers6[] = {129, 1, 2, 3, 4};
    for (size_t i = 0; i < sizeof answers4; i++)
        assert_int_equal(run(f, icmp("100.64.0.3", OWN4, answers4[i], 0, 8)), TN_FILTER_OK);
    for (size_t i = 0; i < sizeof answers6; i++)
        assert_int_equal(run(f, icmp("fd7a:115c:a1e0::3", OWN6, answers6[i], 0, 8)), TN_FILTER_OK);
    assert_int_equal(run(f, icmp("100.64.0.3", OWN4, 0, 1, 8)), TN_FILTER_ACL);
    assert_int_equal(run(f, icmp("100.64.0.3", OWN4, 5, 0, 8)), TN_FILTER_ACL);          /* redirect */
    assert_int_equal(run(f, icmp("fd7a:115c:a1e0::3", OWN6, 134, 0, 8)), TN_FILTER_ACL); /* router advertisement */
    assert_int_equal(run(f, icmp("100.64.0.3", OWN4, 3, 0, 7)), TN_FILTER_ACL);
    assert_int_equal(run(f, icmp(PEER4, OWN4, 8, 0, 3)), TN_FILTER_MALFORMED);
    tn_filter_free(f);
}

static void udp_replies_pass(void **state)
{
    (void)state;
    struct tn_filter *f = node(NULL);
    for (int i = 0; i < 2; i++) {
        uint8_t proto = i ? TN_IPPROTO_SCTP : TN_IPPROTO_UDP;
        send_out(f, flow(OWN4, 5000, PEER4, 53, proto, 0));
        assert_int_equal(run(f, flow(PEER4, 53, OWN4, 5000, proto, 0)), TN_FILTER_OK);
        assert_int_equal(run(f, flow(PEER4, 54, OWN4, 5000, proto, 0)), TN_FILTER_ACL);
        assert_int_equal(run(f, flow(PEER4, 53, OWN4, 5001, proto, 0)), TN_FILTER_ACL);
        assert_int_equal(run(f, flow("100.64.0.3", 53, OWN4, 5000, proto, 0)), TN_FILTER_ACL);
        send_out(f, flow(OWN6, 5000, PEER6, 53, proto, 0));
        assert_int_equal(run(f, flow(PEER6, 53, OWN6, 5000, proto, 0)), TN_FILTER_OK);
    }
    send_out(f, flow(OWN4, 6000, PEER4, 80, 6, SYN));
    assert_int_equal(f->flows.table.count, 4);
    send_out(f, (struct pkt){.len = 3});
    send_out(f, fragment(flow(OWN4, 7000, PEER4, 53, 17, 0), 160, false));
    assert_int_equal(f->flows.table.count, 4);
    tn_filter_free(f);
}

static void flows_are_the_512_last_used(void **state)
{
    (void)state;
    struct tn_filter *f = node(NULL);
    for (int i = 0; i < TN_FILTER_FLOWS_MAX; i++) send_out(f, flow(OWN4, (uint16_t)(1000 + i), PEER4, 53, 17, 0));
    send_out(f, flow(OWN4, 1000, PEER4, 53, 17, 0));                                       /* used by us */
    assert_int_equal(run(f, flow(PEER4, 53, OWN4, 1001, 17, 0)), TN_FILTER_OK);            /* used by a reply */
    for (int i = 0; i < TN_FILTER_FLOWS_MAX - 2; i++) send_out(f, flow(OWN4, (uint16_t)(2000 + i), PEER4, 53, 17, 0));
    assert_int_equal(f->flows.table.count, TN_FILTER_FLOWS_MAX);
    assert_int_equal(run(f, flow(PEER4, 53, OWN4, 1002, 17, 0)), TN_FILTER_ACL);
    assert_int_equal(run(f, flow(PEER4, 53, OWN4, 1511, 17, 0)), TN_FILTER_ACL);
    assert_int_equal(run(f, flow(PEER4, 53, OWN4, 1000, 17, 0)), TN_FILTER_OK);
    assert_int_equal(run(f, flow(PEER4, 53, OWN4, 1001, 17, 0)), TN_FILTER_OK);
    assert_int_equal(run(f, flow(PEER4, 53, OWN4, 2509, 17, 0)), TN_FILTER_OK);
    set_rules(f, allow_web); /* state outlives rules */
    assert_int_equal(run(f, flow(PEER4, 53, OWN4, 1000, 17, 0)), TN_FILTER_OK);
    tn_filter_free(f);
}

static void other_protocols(void **state)
{
    (void)state;
    struct tn_filter *f = node(allow_all);
    assert_int_equal(run(f, flow(PEER4, 1, OWN4, 1, 47, 0)), TN_FILTER_ACL); /* not in the default list */
    assert_int_equal(run(f, flow(PEER4, 1, OWN4, 1, 132, 0)), TN_FILTER_ACL);
    assert_int_equal(run(f, flow(PEER4, 1, OWN4, 1, 255, 0)), TN_FILTER_PROTO);
    assert_int_equal(run(f, flow(PEER4, 1, OWN4, 1, 0, 0)), TN_FILTER_PROTO);
    assert_int_equal(run(f, flow(PEER4, 1, OWN4, 1, TN_IPPROTO_TSMP, 0)), TN_FILTER_OK);
    assert_int_equal(run(f, flow(PEER4, 1, "100.64.0.7", 1, TN_IPPROTO_TSMP, 0)), TN_FILTER_NOT_OURS);
    set_rules(f, "[{\"SrcIPs\":[\"*\"],\"IPProto\":[47,132],\"DstPorts\":["
                 "{\"IP\":\"*\",\"Ports\":{\"First\":0,\"Last\":65535}}]}]");
    assert_int_equal(run(f, flow(PEER4, 1, OWN4, 1, 47, 0)), TN_FILTER_OK);
    assert_int_equal(run(f, flow(PEER4, 1, OWN4, 1, 132, 0)), TN_FILTER_OK);
    assert_int_equal(run(f, flow(PEER4, 1, OWN4, 1, 6, SYN)), TN_FILTER_ACL);
    tn_filter_free(f);
}

static void fragments(void **state)
{
    (void)state;
    struct tn_filter *f = node(allow_web);
    struct pkt syn = flow(PEER4, 1, OWN4, 80, 6, SYN), closed = flow(PEER4, 1, OWN4, 22, 6, SYN);
    assert_int_equal(run(f, fragment(syn, 0, true)), TN_FILTER_OK);
    assert_int_equal(run(f, fragment(closed, 0, true)), TN_FILTER_ACL);
    assert_int_equal(run(f, fragment(closed, 80, false)), TN_FILTER_OK);
    assert_int_equal(run(f, fragment(closed, 72, false)), TN_FILTER_FRAGMENT);
    assert_int_equal(run(f, fragment(closed, 8, true)), TN_FILTER_FRAGMENT);
    assert_int_equal(run(f, fragment(flow(PEER4, 1, "100.64.0.9", 1, 17, 0), 80, false)), TN_FILTER_NOT_OURS);
    assert_int_equal(run(f, fragment(flow(PEER4, 1, OWN4, 1, TN_IPPROTO_TSMP, 0), 0, true)), TN_FILTER_FRAGMENT);
    struct tn_ip src = ip(PEER4), dst = ip(OWN4);
    static const uint8_t ports[32] = {0, 1, 0, 80};
    static const struct { uint8_t proto, need; } first[] = {{6, 20}, {17, 8}, {132, 12}, {1, 4}, {2, 8}, {99, 7}};
    for (size_t i = 0; i < sizeof first / sizeof *first; i++) {
        struct pkt tiny = packet(&src, &dst, first[i].proto, ports, first[i].need - 1u);
        assert_int_equal(run(f, tiny), TN_FILTER_MALFORMED);
        assert_int_equal(run(f, fragment(tiny, 0, true)), TN_FILTER_FRAGMENT);
    }
    uint8_t v6[16 + 20] = {6, 0, 0, 1, 0, 0, 0, 7, 0, 1, 0, 80, [20] = 0x50, [21] = SYN};
    struct tn_ip s6 = ip(PEER6), d6 = ip(OWN6);
    assert_int_equal(run(f, packet(&s6, &d6, 44, v6, 28)), TN_FILTER_OK);
    assert_int_equal(run(f, packet(&s6, &d6, 44, v6, 27)), TN_FILTER_FRAGMENT);
    v6[11] = 22;
    assert_int_equal(run(f, packet(&s6, &d6, 44, v6, 28)), TN_FILTER_ACL);
    v6[3] = 72;
    assert_int_equal(run(f, packet(&s6, &d6, 44, v6, 28)), TN_FILTER_FRAGMENT);
    v6[3] = 80;
    assert_int_equal(run(f, packet(&s6, &d6, 44, v6, 28)), TN_FILTER_OK);
    tn_filter_free(f);
}

static void shields_and_jail(void **state)
{
    (void)state;
    struct tn_filter *f = node(allow_all);
    struct tn_filter_peer jailed = {.jailed = true};
    struct pkt syn = flow(PEER4, 1, OWN4, 80, 6, SYN), api = flow(PEER4, 1, OWN4, 45678, 6, SYN),
               api6 = flow(PEER6, 1, OWN6, 45679, 6, SYN);
    tn_filter_set_peerapi_ports(f, 45678, 45679);
    send_out(f, flow(OWN4, 5000, PEER4, 53, 17, 0));
    for (int i = 0; i < 2; i++) {
        assert_int_equal(run_as(f, syn, &jailed), TN_FILTER_SHIELDS);
        assert_int_equal(run_as(f, icmp(PEER4, OWN4, 8, 0, 8), &jailed), TN_FILTER_SHIELDS);
        assert_int_equal(run_as(f, icmp(PEER4, OWN4, 0, 0, 8), &jailed), TN_FILTER_OK);
        assert_int_equal(run_as(f, flow(PEER4, 53, OWN4, 5000, 17, 0), &jailed), TN_FILTER_OK);
        assert_int_equal(run_as(f, flow(PEER4, 1, OWN4, 80, 6, ACK), &jailed), TN_FILTER_OK);
        assert_int_equal(run_as(f, api, &jailed), TN_FILTER_OK);
        assert_int_equal(run_as(f, api6, &jailed), TN_FILTER_OK);
        assert_int_equal(run_as(f, flow(PEER4, 1, OWN4, 45679, 6, SYN), &jailed), TN_FILTER_SHIELDS);
        assert_int_equal(run_as(f, flow(PEER4, 1, OWN4, 45678, 17, 0), &jailed), TN_FILTER_SHIELDS);
        tn_filter_set_shields(f, true);
        jailed.jailed = false;
    }
    tn_filter_set_shields(f, false);
    assert_int_equal(run_as(f, syn, &jailed), TN_FILTER_OK);
    tn_filter_set_peerapi_ports(f, 0, 0);
    set_rules(f, "[]");
    assert_int_equal(run(f, api), TN_FILTER_ACL);
    assert_int_equal(run(f, flow(PEER4, 1, OWN4, 0, 6, SYN)), TN_FILTER_ACL);
    tn_filter_free(f);
}

static void bad_rules_fail_closed(void **state)
{
    (void)state;
    struct tn_filter *f = node(allow_all);
    json_t *bad = json_loads("[{\"SrcIPs\":[\"*\"],\"SrcBits\":[8]}]", 0, NULL);
    assert_int_equal(run(f, flow(PEER4, 1, OWN4, 80, 6, SYN)), TN_FILTER_OK);
    assert_int_equal(tn_filter_rule_count(f), 1);
    assert_int_equal(tn_filter_set_rules(f, bad), TN_E_MALFORMED);
    assert_int_equal(run(f, flow(PEER4, 1, OWN4, 80, 6, SYN)), TN_FILTER_ACL);
    assert_int_equal(tn_filter_rule_count(f), 0);
    assert_int_equal(tn_filter_skipped(f), 0);
    struct tn_ip src = ip(PEER4), dst = ip(OWN4);
    assert_false(tn_filter_would_accept(f, &src, &dst, 80, 6, NULL));
    json_decref(bad);
    tn_filter_free(f);
}

/* ---- destinations ---- */

static struct tn_prefix with_host(const char *addr, uint8_t bits) { return (struct tn_prefix){ip(addr), bits}; }

static bool ours(struct tn_filter *f, const char *addr)
{
    struct tn_ip src = ip(strchr(addr, ':') ? PEER6 : PEER4), dst = ip(addr);
    bool would = tn_filter_would_accept(f, &src, &dst, 53, 6, NULL);
    enum tn_filter_reason why = run(f, flow(strchr(addr, ':') ? PEER6 : PEER4, 1, addr, 53, 6, SYN));
    assert_int_equal(would, why == TN_FILTER_OK);
    return would;
}

static void default_routes_are_shrunk(void **state)
{
    (void)state;
    struct tn_filter *f = node(allow_all);
    struct tn_ip own[] = {ip(OWN4), ip(OWN6)};
    struct tn_prefix routes[] = {with_host("0.0.0.0", 0), with_host("::", 0), with_host("192.168.7.0", 24)};
    struct tn_prefix attached[] = {
        with_host("203.0.113.5", 24), with_host("198.51.100.9", 32),  with_host("10.1.2.3", 8),
        with_host("127.0.0.1", 8),    with_host("2001:db8:1::5", 64), with_host("fe80::1", 64),
        with_host("::1", 128),        with_host("100.64.0.1", 10),
    };
    assert_int_equal(tn_filter_set_local(f, own, 2, routes, 3, attached, 8), 0);
    static const char *const yes[] = {
        OWN4, OWN6, "1.1.1.1", "0.0.0.0", "2000::", "2606:4700::1111", "192.168.7.9", "203.0.113.5", "198.51.100.9",
        "198.51.100.8", "2001:db8:1::5", "2001:db8:2::1", "172.32.0.1", "8.8.8.8", "255.255.255.254",
    };
    static const char *const no[] = {
        "203.0.113.6",       "203.0.113.0",     "10.1.2.3",      "10.9.9.9",        "127.0.0.1",   "192.168.8.1",
        "172.16.0.1",        "172.31.255.255",  "100.64.0.2",    "100.127.255.255", "169.254.1.1", "224.0.0.1",
        "239.1.1.1",         "255.255.255.255", "2001:db8:1::6", "fe80::1",         "ff02::1",     "::1",
        "fd7a:115c:a1e0::9", "fc00::1",         "fd00::1",       "169.254.169.254",
    };
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++)
        if (!ours(f, yes[i])) fail_msg("%s", yes[i]);
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        if (ours(f, no[i])) fail_msg("%s", no[i]);
    routes[0] = with_host("169.254.169.254", 32);
    assert_int_equal(tn_filter_set_local(f, own, 2, routes, 1, attached, 8), 0);
    assert_true(ours(f, "169.254.169.254"));
    assert_false(ours(f, "1.1.1.1") || ours(f, "2000::"));
    tn_filter_free(f);
}

static void pre_checks(void **state)
{
    (void)state;
    struct tn_filter *f = node(allow_all);
    struct tn_prefix routes[] = {with_host("0.0.0.0", 0), with_host("::", 0)};
    struct tn_ip own[] = {ip(OWN4)};
    assert_int_equal(tn_filter_set_local(f, own, 1, routes, 2, NULL, 0), 0);
    assert_int_equal(run(f, flow(PEER4, 1, "224.0.0.251", 5353, 17, 0)), TN_FILTER_MULTICAST);
    assert_int_equal(run(f, flow(PEER6, 1, "ff02::fb", 5353, 17, 0)), TN_FILTER_MULTICAST);
    assert_int_equal(run(f, flow(PEER4, 1, "255.255.255.255", 67, 17, 0)), TN_FILTER_MULTICAST);
    assert_int_equal(run(f, flow(PEER4, 1, "169.254.0.1", 80, 6, ACK)), TN_FILTER_LINK_LOCAL);
    assert_int_equal(run(f, flow(PEER6, 1, "fe80::1", 80, 6, ACK)), TN_FILTER_LINK_LOCAL);
    struct pkt p = flow(PEER4, 1, OWN4, 80, 6, SYN);
    for (size_t n = 1; n < p.len; n++) {
        struct pkt cut = p;
        cut.len = n;
        assert_int_equal(run(f, cut), TN_FILTER_MALFORMED);
    }
    p.b[0] = 0x55;
    assert_int_equal(run(f, p), TN_FILTER_MALFORMED);
    struct tn_ip many[OWN_MAX + 1] = {0};
    for (int i = 0; i <= OWN_MAX; i++) many[i] = ip(OWN4);
    assert_int_equal(tn_filter_set_local(f, many, OWN_MAX + 1, NULL, 0, NULL, 0), TN_E_TOOBIG);
    assert_true(ours(f, OWN4));
    struct tn_ip four = ip(PEER4), six = ip("2000::");
    assert_false(tn_filter_would_accept(f, &four, &six, 53, 6, NULL));
    tn_filter_free(f);
}

/* ---- random rules and packets against a naive reading of them ---- */

enum { MODEL_RULES = 5, MODEL_ENTRIES = 3, MODEL_ROUNDS = 3000, MODEL_PACKETS = 40 };

/* An address of the small world: 10.0.0.n or fd00::n, n < 16; all of them are ours. */
struct span_m {
    int family; /* 0: both */
    unsigned lo, hi;
};
struct rule_m {
    struct span_m src[MODEL_ENTRIES], dst[MODEL_ENTRIES];
    unsigned first[MODEL_ENTRIES], last[MODEL_ENTRIES];
    int nsrc, ndst, nproto, proto[3];
    bool cap;
};

static struct span_m random_span(const struct tn_rng *rng, char *text, size_t cap)
{
    struct span_m s = {.family = tn_rng_u32(rng) & 1 ? 4 : 6};
    const char *net = s.family == 4 ? "10.0.0." : "fd00::";
    char a[8], b[8];
    const char *fmt = s.family == 4 ? "%u" : "%x";
    switch (tn_rng_below(rng, 4)) {
    case 0:
        snprintf(text, cap, "*");
        return (struct span_m){0, 0, 15};
    case 1:
        s.lo = s.hi = (unsigned)tn_rng_below(rng, 16);
        snprintf(a, sizeof a, fmt, s.lo);
        snprintf(text, cap, "%s%s", net, a);
        return s;
    case 2: {
        unsigned host = (unsigned)tn_rng_below(rng, 4);
        s.lo = (unsigned)tn_rng_below(rng, 16) >> host << host;
        s.hi = s.lo + (1u << host) - 1;
        snprintf(a, sizeof a, fmt, s.lo);
        snprintf(text, cap, "%s%s/%u", net, a, (s.family == 4 ? 32 : 128) - host);
        return s;
    }
    default:
        s.lo = (unsigned)tn_rng_below(rng, 16);
        s.hi = s.lo + (unsigned)tn_rng_below(rng, 16 - s.lo);
        snprintf(a, sizeof a, fmt, s.lo);
        snprintf(b, sizeof b, fmt, s.hi);
        snprintf(text, cap, "%s%s-%s%s", net, a, net, b);
        return s;
    }
}

static json_t *random_rule(const struct tn_rng *rng, struct rule_m *m)
{
    static const int protos[] = {6, 17, 1, 58, 132, 47, 300};
    json_t *srcs = json_array(), *dsts = json_array(), *list = json_array();
    char text[64];
    *m = (struct rule_m){.nsrc = (int)tn_rng_below(rng, MODEL_ENTRIES + 1),
                         .ndst = (int)tn_rng_below(rng, MODEL_ENTRIES + 1),
                         .nproto = (int)tn_rng_below(rng, 3),
                         .cap = tn_rng_below(rng, 6) == 0};
    for (int i = 0; i < m->nsrc; i++) {
        m->src[i] = random_span(rng, text, sizeof text);
        json_array_append_new(srcs, json_string(text));
    }
    if (m->cap) json_array_append_new(srcs, json_string("cap:x"));
    for (int i = 0; i < m->ndst; i++) {
        m->dst[i] = random_span(rng, text, sizeof text);
        m->first[i] = (unsigned)tn_rng_below(rng, 4);
        m->last[i] = tn_rng_below(rng, 3) ? (unsigned)tn_rng_below(rng, 4) : 65535;
        json_array_append_new(dsts, json_pack("{s:s,s:{s:i,s:i}}", "IP", text, "Ports", "First", (int)m->first[i],
                                              "Last", (int)m->last[i]));
    }
    for (int i = 0; i < m->nproto; i++) {
        m->proto[i] = protos[tn_rng_below(rng, sizeof protos / sizeof *protos)];
        json_array_append_new(list, json_integer(m->proto[i]));
    }
    return json_pack("{s:o,s:o,s:o}", "SrcIPs", srcs, "DstPorts", dsts, "IPProto", list);
}

struct packet_m {
    int family, proto;
    unsigned src, dst, port, type;
    bool syn, cap, jailed;
};

static bool span_has(const struct span_m *s, int family, unsigned n)
{
    return (s->family == 0 || s->family == family) && s->lo <= n && n <= s->hi;
}

static bool model_accepts(const struct rule_m *rules, int n, const struct packet_m *p)
{
    bool echo_reply = p->family == 4 ? p->proto == 1 && p->type == 0 : p->proto == 58 && p->type == 129;
    bool is_ping = p->proto == (p->family == 4 ? 1 : 58), ports = p->proto == 6 || p->proto == 17 || p->proto == 132;
    if (echo_reply || (p->proto == 6 && !p->syn)) return true;
    if (p->jailed) return false;
    for (int i = 0; i < n; i++) {
        const struct rule_m *r = &rules[i];
        bool src = r->cap && p->cap && (is_ping || ports),
             proto = r->nproto == 0 && (p->proto == 6 || p->proto == 17 || p->proto == 1 || p->proto == 58);
        for (int k = 0; k < r->nsrc; k++) src |= span_has(&r->src[k], p->family, p->src);
        for (int k = 0; k < r->nproto; k++) proto |= r->proto[k] == p->proto;
        for (int k = 0; k < r->ndst; k++) {
            bool dst = span_has(&r->dst[k], p->family, p->dst);
            bool port = r->first[k] <= p->port && p->port <= r->last[k];
            bool all = r->first[k] == 0 && r->last[k] == 65535;
            if (src && dst && (is_ping || (proto && (ports ? port : all)))) return true;
        }
    }
    return false;
}

static bool model_cap(void *ctx, const char *cap) { return *(const bool *)ctx && strcmp(cap, "x") == 0; }

static struct pkt packet_of(const struct packet_m *m)
{
    uint8_t l4[24] = {0};
    struct tn_ip src = ip(m->family == 4 ? "10.0.0.0" : "fd00::"), dst = src;
    size_t last = m->family == 4 ? 3 : 15;
    src.b[last] = (uint8_t)m->src;
    dst.b[last] = (uint8_t)m->dst;
    if (m->proto == 1 || m->proto == 58) l4[0] = (uint8_t)m->type;
    else tn_put_be16(l4 + 2, (uint16_t)m->port);
    if (m->proto == 6) l4[13] = m->syn ? SYN : ACK;
    return packet(&src, &dst, (uint8_t)m->proto, l4, sizeof l4);
}

static struct packet_m random_packet(const struct tn_rng *rng)
{
    static const int protos[] = {6, 17, 1, 58, 132, 47};
    static const unsigned types[] = {0, 8, 128, 129};
    return (struct packet_m){
        .family = tn_rng_u32(rng) & 1 ? 4 : 6,
        .proto = protos[tn_rng_below(rng, 6)],
        .src = (unsigned)tn_rng_below(rng, 16),
        .dst = (unsigned)tn_rng_below(rng, 16),
        .port = (unsigned)tn_rng_below(rng, 6),
        .type = types[tn_rng_below(rng, 4)],
        .syn = tn_rng_below(rng, 4) > 0,
        .cap = tn_rng_u32(rng) & 1,
        .jailed = tn_rng_below(rng, 8) == 0,
    };
}

static void random_rules_agree_with_the_model(void **state)
{
    (void)state;
    uint64_t seed = 7;
    unsigned accepted = 0, total = 0;
    struct tn_rng rng = tn_rng_seeded(&seed);
    struct tn_filter *f = tn_filter_new();
    struct tn_prefix routes[] = {with_host("10.0.0.0", 28), with_host("fd00::", 124)};
    assert_int_equal(tn_filter_set_local(f, NULL, 0, routes, 2, NULL, 0), 0);
    for (int round = 0; round < MODEL_ROUNDS; round++) {
        struct rule_m model[MODEL_RULES];
        int n = (int)tn_rng_below(&rng, MODEL_RULES + 1);
        json_t *rules = json_array();
        for (int i = 0; i < n; i++) json_array_append_new(rules, random_rule(&rng, &model[i]));
        assert_int_equal(tn_filter_set_rules(f, rules), 0);
        assert_int_equal(tn_filter_skipped(f), 0);
        for (int i = 0; i < MODEL_PACKETS; i++) {
            struct packet_m m = random_packet(&rng);
            struct tn_filter_peer peer = {.has_cap = model_cap, .ctx = &m.cap, .jailed = m.jailed};
            bool got = run_as(f, packet_of(&m), &peer) == TN_FILTER_OK, want = model_accepts(model, n, &m);
            accepted += want;
            total++;
            if (got == want) continue;
            char *text = json_dumps(rules, 0);
            fail_msg("v%d proto %d %u > %u:%u type %u syn %d cap %d jailed %d: %d, model %d\n%s", m.family, m.proto,
                     m.src, m.dst, m.port, m.type, m.syn, m.cap, m.jailed, got, want, text);
        }
        json_decref(rules);
    }
    assert_true(accepted > total / 10 && accepted < total * 9 / 10); /* both answers were asked for */
    tn_filter_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_new_comes_in_without_rules),
        cmocka_unit_test(tcp),
        cmocka_unit_test(icmp_needs_addresses_only),
        cmocka_unit_test(udp_replies_pass),
        cmocka_unit_test(flows_are_the_512_last_used),
        cmocka_unit_test(other_protocols),
        cmocka_unit_test(fragments),
        cmocka_unit_test(shields_and_jail),
        cmocka_unit_test(bad_rules_fail_closed),
        cmocka_unit_test(default_routes_are_shrunk),
        cmocka_unit_test(pre_checks),
        cmocka_unit_test(random_rules_agree_with_the_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
