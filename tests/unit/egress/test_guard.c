/* The guard against a list written down a second time, as text and with the verdict of the IANA registries. */
#include "egress/attached.c"
#include "egress/guard.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/resource.h>
#include <cmocka.h>

/* Every entry of the IPv4 and IPv6 special-purpose registries, multicast, and what our own rule adds. */
static const struct {
    const char *prefix;
    bool allowed;
} registry[] = {
    {"0.0.0.0/8", false},        {"10.0.0.0/8", false},      {"100.64.0.0/10", false},   {"127.0.0.0/8", false},
    {"169.254.0.0/16", false},   {"172.16.0.0/12", false},   {"192.0.0.0/24", false},    {"192.0.0.0/29", false},
    {"192.0.0.8/32", false},     {"192.0.0.9/32", false},    {"192.0.0.10/32", false},   {"192.0.0.170/32", false},
    {"192.0.0.171/32", false},   {"192.0.2.0/24", false},    {"192.31.196.0/24", true},  {"192.52.193.0/24", true},
    {"192.88.99.0/24", false},   {"192.88.99.2/32", false},  {"192.168.0.0/16", false},  {"192.175.48.0/24", true},
    {"198.18.0.0/15", false},    {"198.51.100.0/24", false}, {"203.0.113.0/24", false},  {"224.0.0.0/4", false},
    {"240.0.0.0/4", false},      {"255.255.255.255/32", false},
    {"::1/128", false},          {"::/128", false},          {"::ffff:0:0/96", false},   {"64:ff9b::/96", false},
    {"64:ff9b:1::/48", false},   {"100::/64", false},        {"100:0:0:1::/64", false},  {"2001::/32", false},
    {"2001:1::1/128", false},    {"2001:1::2/128", false},   {"2001:1::3/128", false},   {"2001:2::/48", false},
    {"2001:3::/32", true},       {"2001:4:112::/48", true},  {"2001:10::/28", false},    {"2001:20::/28", false},
    {"2001:30::/28", false},     {"2001:5::/32", false},     {"2001:4:111::/48", false}, {"2001:1ff::/32", false},
    {"2001:200::/32", true},     {"2001:db8::/32", false},   {"2002::/16", false},       {"2620:4f:8000::/48", true},
    {"3fff::/20", false},        {"5f00::/16", false},       {"fc00::/7", false},        {"fe80::/10", false},
    {"fec0::/10", false},        {"ff00::/8", false},        {"fd7a:115c:a1e0::/48", false},
    {"fd7a:115c:a1e0:b1a::/64", false},
    {"::/96", false},            {"::ffff:0:0:0/96", false}, {"4000::/3", false},        {"8000::/1", false},
    {"1.1.1.1/32", true},        {"8.8.8.0/24", true},       {"45.45.45.0/24", true},    {"2a00:45::/64", true},
    {"2606:4700::/32", true},    {"223.255.255.0/24", true}, {"3fff:1000::/20", true},
};

static struct tn_ip offset(struct tn_prefix p, bool last)
{
    for (int bit = p.bits; last && bit < tn_ip_bits(&p.ip); bit++) p.ip.b[bit / 8] |= (uint8_t)(0x80 >> bit % 8);
    return p.ip;
}

static void check(struct tn_ip ip, bool want, const char *from)
{
    char text[TN_IP_STRLEN];
    if (tn_guard_is_public(&ip) != want) fail_msg("%s of %s: not %d", tn_ip_format(&ip, text), from, want);
}

static void test_registry(void **state)
{
    for (size_t i = 0; i < sizeof registry / sizeof registry[0]; i++) {
        struct tn_prefix p;
        assert_int_equal(tn_prefix_parse(registry[i].prefix, &p), 0);
        check(offset(p, false), registry[i].allowed, registry[i].prefix);
        check(offset(p, true), registry[i].allowed, registry[i].prefix);
    }
}

/* What the IPv4 half says, written as comparisons of numbers. */
static bool naive4(uint32_t a)
{
    static const struct {
        uint32_t first, last;
    } no[] = {
        {0x00000000, 0x00ffffff}, {0x0a000000, 0x0affffff}, {0x64400000, 0x647fffff}, {0x7f000000, 0x7fffffff},
        {0xa9fe0000, 0xa9feffff}, {0xac100000, 0xac1fffff}, {0xc0000000, 0xc00000ff}, {0xc0000200, 0xc00002ff},
        {0xc0586300, 0xc05863ff}, {0xc0a80000, 0xc0a8ffff}, {0xc6120000, 0xc613ffff}, {0xc6336400, 0xc63364ff},
        {0xcb007100, 0xcb0071ff}, {0xe0000000, 0xffffffff},
    };
    for (size_t i = 0; i < sizeof no / sizeof no[0]; i++)
        if (a >= no[i].first && a <= no[i].last) return false;
    return true;
}

static void test_sweep4(void **state)
{
    /* Every /24 at its first, second and last address: no entry is narrower but inside a refused one. */
    for (uint32_t net = 0; net < 1u << 24; net += 1) {
        uint32_t a = net << 8 | (net & 1 ? 0xff : 0);
        struct tn_ip ip = tn_ip4((uint8_t)(a >> 24), (uint8_t)(a >> 16), (uint8_t)(a >> 8), (uint8_t)a);
        if (tn_guard_is_public(&ip) != naive4(a)) check(ip, naive4(a), "the sweep");
    }
}

/* Forms that carry an IPv4 address: refused whatever they carry. */
static void test_embedded(void **state)
{
    static const char *const forms[] = {
        "::ffff:8.8.8.8", "::ffff:127.0.0.1", "::127.0.0.1", "::8.8.8.8", "::ffff:0:8.8.8.8", "64:ff9b::8.8.8.8",
        "64:ff9b::10.0.0.1", "64:ff9b:1::a00:1", "64:ff9b:1:ffff::7f00:1", "2002:808:808::1", "2002:7f00:1::1",
        "2002:c0a8:101::", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001::f5ff:fffe", "fd7a:115c:a1e0:b1a:0:1:a00:1",
        "fd7a:115c:a1e0:b1a:0:ff:808:808", "fd7a:115c:a1e0::53",
    };
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        struct tn_ip ip;
        assert_int_equal(tn_ip_parse(forms[i], &ip), 0);
        check(ip, false, "embedded forms");
    }
    check((struct tn_ip){0}, false, "no family");
}

static struct tn_guard with_attached(struct tn_prefix *prefixes, size_t n)
{
    struct tn_guard g;
    tn_guard_init(&g);
    g.attached.prefixes = prefixes;
    g.attached.count = n;
    g.attached.readable = true;
    g.attached.read_us = 1000;
    return g;
}

static void test_own_and_attached(void **state)
{
    struct tn_prefix lan[2];
    tn_prefix_parse("45.45.45.0/24", &lan[0]);
    tn_prefix_parse("2a00:45::7/128", &lan[1]);
    struct tn_guard g = with_attached(lan, 2);
    struct tn_addrport on_lan = {tn_ip4(45, 45, 45, 9), 80}, off = {tn_ip4(45, 45, 46, 9), 80}, v6 = {.port = 80};
    tn_ip_parse("2a00:45::7", &v6.ip);
    assert_false(tn_guard_allows(&g, &on_lan, 1000));
    assert_false(tn_guard_allows(&g, &v6, 1000));
    v6.ip.b[15] = 8;
    assert_true(tn_guard_allows(&g, &v6, 1000));
    assert_true(tn_guard_allows(&g, &off, 1000));
    off.port = 0;
    assert_false(tn_guard_allows(&g, &off, 1000));
    off.port = 80;
    assert_int_equal(tn_guard_set_own(&g, &off.ip, 1), 0);
    assert_false(tn_guard_allows(&g, &off, 1000));
    assert_int_equal(tn_guard_set_own(&g, NULL, 0), 0);
    assert_true(tn_guard_allows(&g, &off, 1000));
    g.attached.prefixes = NULL;
    tn_guard_fini(&g);
}

static void test_unreadable_refuses(void **state)
{
    struct tn_guard g;
    tn_guard_init(&g);
    g.attached.readable = true;
    g.attached.read_us = 5;
    struct tn_addrport dst = {tn_ip4(45, 45, 45, 45), 80};
    assert_true(tn_guard_allows(&g, &dst, 5)); /* an empty list, freshly read */
    struct rlimit old, none;
    getrlimit(RLIMIT_NOFILE, &old);
    none = (struct rlimit){0, old.rlim_max};
    setrlimit(RLIMIT_NOFILE, &none); /* getifaddrs needs a descriptor */
    assert_false(tn_guard_allows(&g, &dst, 5 + TN_ATTACHED_FRESH_US));
    assert_false(tn_guard_allows(&g, &dst, 6 + TN_ATTACHED_FRESH_US));
    setrlimit(RLIMIT_NOFILE, &old);
    (void)tn_guard_allows(&g, &dst, 7 + TN_ATTACHED_FRESH_US);
    assert_true(g.attached.readable); /* asked again at once */
    tn_guard_fini(&g);
}

/* The kernel's list holds loopback at least once it is up; whatever it holds, reading it must work. */
static void test_real_interfaces(void **state)
{
    struct tn_attached a;
    struct tn_ip ip = tn_ip4(127, 0, 0, 1);
    tn_attached_init(&a);
    (void)tn_attached_has(&a, &ip, 1);
    assert_true(a.readable);
    for (size_t i = 0; i < a.count; i++) assert_true(tn_attached_has(&a, &a.prefixes[i].ip, 1));
    tn_attached_fini(&a);
}

static void test_masks(void **state)
{
    struct sockaddr_in m = {.sin_family = AF_INET};
    struct sockaddr_in6 m6 = {.sin6_family = AF_INET6};
    struct tn_ip v4 = tn_ip4(1, 2, 3, 4), v6 = {.family = 6};
    m.sin_addr.s_addr = htonl(0xfffff000);
    assert_int_equal(mask_bits((struct sockaddr *)&m, &v4), 20);
    m.sin_addr.s_addr = 0;
    assert_int_equal(mask_bits((struct sockaddr *)&m, &v4), 0);
    m.sin_addr.s_addr = 0xffffffff;
    assert_int_equal(mask_bits((struct sockaddr *)&m, &v4), 32);
    m.sin_addr.s_addr = htonl(0xff00ff00);
    assert_int_equal(mask_bits((struct sockaddr *)&m, &v4), 8);
    assert_int_equal(mask_bits(NULL, &v4), 32);
    memset(&m6.sin6_addr, 0xff, 8);
    assert_int_equal(mask_bits((struct sockaddr *)&m6, &v6), 64);
    memset(&m6.sin6_addr, 0xff, 16);
    assert_int_equal(mask_bits((struct sockaddr *)&m6, &v6), 128);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_registry),          cmocka_unit_test(test_sweep4),
        cmocka_unit_test(test_embedded),          cmocka_unit_test(test_own_and_attached),
        cmocka_unit_test(test_unreadable_refuses), cmocka_unit_test(test_real_interfaces),
        cmocka_unit_test(test_masks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
