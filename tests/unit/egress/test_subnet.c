/* What can be a route, and which destinations are subnets: the whole table of rows 10, 11, 12 and 28. */
#include "egress/subnet.h"
#include "util/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

static void test_parse(void **state)
{
    static const char *const good[] = {"192.168.1.0/24", "10.0.0.0/8", "172.16.5.5", "172.16.5.5/32", "0.0.0.0/1", "8.8.8.0/24",
                                       "8.8.8.0/24=direct", "fd00:1::/64", "2a00:45::/32=direct", "192.0.2.0/24",
                                       "fd7a:115c:a1e0:b1a:0:7::/96", "fd7a:115c:a1e0:b1a:0:7:c0a8:100/120"};
    static const char *const bad[] = {
        "", "=direct", "192.168.1.5/24", "0.0.0.0/0", "::/0", "127.0.0.0/8", "127.0.0.1", "100.64.0.0/10", "100.100.0.0/16",
        "fd7a:115c:a1e0::/48", "fd7a:115c:a1e0:ab12::/64", "fd7a:115c:a1e0:b1a::/64", "fd7a:115c:a1e0:b1a:0:7::/95",
        "224.0.0.0/4", "240.0.0.0/4", "0.0.0.0/8", "169.254.0.0/16", "169.254.169.254", "fe80::/10", "ff00::/8", "::1",
        "::ffff:10.0.0.0/104", "64:ff9b::/96", "2002::/16", "2001::/32", "nonsense", "10.0.0.0/33", "10.0.0.0/", "/8",
        "10.0.0.0/8=", "10.0.0.0/8=Direct", "10.0.0.0/8 ", "10.0.0.0/8=direct=direct",
        "1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb:cccc:dddd:eeee:ffff/128"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct tn_egress_route r;
        char why[128] = "";
        if (tn_egress_route_parse(good[i], &r, why) != 0) fail_msg("%s: %s", good[i], why);
        assert_int_equal(r.direct, strstr(good[i], "=direct") != NULL);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct tn_egress_route r;
        char why[128] = "";
        if (tn_egress_route_parse(bad[i], &r, why) != TN_E_INVAL || !*why) fail_msg("%s was taken", bad[i]);
    }
}

static struct bench {
    uv_loop_t loop;
    struct tn_egress *e;
} b;

static void open_bench(const char *const *routes, size_t n)
{
    struct tn_egress_route r[16];
    char why[128];
    struct tn_egress_config config = {.loop = &b.loop};
    uv_loop_init(&b.loop);
    assert_int_equal(tn_egress_new(&config, &b.e), 0);
    for (size_t i = 0; i < n; i++) assert_int_equal(tn_egress_route_parse(routes[i], &r[i], why), 0);
    assert_int_equal(tn_egress_set_routes(b.e, r, n), 0);
}

static void close_bench(void)
{
    tn_egress_free(b.e, NULL, NULL);
    uv_run(&b.loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&b.loop), 0);
}

static void classes(const char *const (*table)[3], size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct tn_addrport dst = {.port = 80}, real;
        char text[TN_IP_STRLEN];
        assert_int_equal(tn_ip_parse(table[i][0], &dst.ip), 0);
        bool subnet = tn_egress_is_subnet(b.e, &dst, &real);
        if (subnet != (table[i][1][0] == 's')) fail_msg("%s: subnet %d", table[i][0], subnet);
        tn_ip_format(&real.ip, text);
        if (strcmp(text, table[i][2] ? table[i][2] : table[i][0]) != 0) fail_msg("%s goes to %s", table[i][0], text);
        assert_int_equal(real.port, 80);
    }
}

static void test_classes(void **state)
{
    static const char *const routes[] = {"192.168.0.0/16", "0.0.0.0/1", "128.0.0.0/1", "8.8.8.0/24", "9.9.9.0/24=direct",
                                         "9.9.9.128/25", "fd00:1::/64", "2a00:45::/32", "fd7a:115c:a1e0:b1a:0:7::/96"};
    static const char *const table[][3] = {
        {"192.168.1.1", "subnet"},
        {"10.1.1.1", "subnet"}, /* the halves of everything hold it */
        {"8.8.8.8", "exit"},    /* public, whatever matches */
        {"1.1.1.1", "exit"},
        {"9.9.9.9", "subnet"},  /* marked */
        {"9.9.9.200", "exit"},  /* a longer route that is not */
        {"fd00:1::5", "subnet"},
        {"fd00:2::5", "exit"},  /* no route: the exit policy, whose guard refuses it */
        {"2a00:45::1", "exit"},
        {"fd7a:115c:a1e0:b1a:0:7:c0a8:101", "subnet", "192.168.1.1"},
        {"fd7a:115c:a1e0:b1a:0:7:808:808", "exit", "8.8.8.8"},
        {"fd7a:115c:a1e0:b1a:0:7:7f00:1", "subnet", "127.0.0.1"}, /* and refused by the subnets' guard */
        {"fd7a:115c:a1e0:b1a:0:8:c0a8:101", "exit"},              /* another site */
    };
    open_bench(routes, sizeof routes / sizeof *routes);
    classes(table, sizeof table / sizeof *table);
    assert_int_equal(tn_egress_set_routes(b.e, NULL, 0), 0);
    struct tn_addrport dst = {tn_ip4(192, 168, 1, 1), 80}, real;
    assert_false(tn_egress_is_subnet(b.e, &dst, &real));
    close_bench();
}

static void on_fail(void *arg, enum tn_egress_fail why) { *(enum tn_egress_fail *)arg = why; }

/* Refused at once and without a socket, egress off as well as host. */
static void test_guard(void **state)
{
    static const char *const routes[] = {"0.0.0.0/1=direct", "128.0.0.0/1=direct", "fd7a:115c:a1e0:b1a:0:7::/96"};
    static const char *const refused[] = {"127.0.0.1", "127.8.8.8", "0.0.0.0", "0.1.2.3", "169.254.169.254", "224.0.0.1",
                                          "255.255.255.255", "240.0.0.1", "100.64.0.9", "100.100.100.100",
                                          "fd7a:115c:a1e0:b1a:0:7:7f00:1", "fd7a:115c:a1e0:b1a:0:7:a9fe:a9fe",
                                          "fd7a:115c:a1e0:b1a:0:7:6440:1", "fd7a:115c:a1e0:b1a:0:7:0:0",
                                          "fd7a:115c:a1e0:b1a:0:7:e000:1", "10.77.0.1"};
    static const struct tn_egress_events ev = {.on_fail = on_fail};
    open_bench(routes, 3);
    struct tn_ip own = tn_ip4(10, 77, 0, 1);
    assert_int_equal(tn_egress_set_own(b.e, &own, 1), 0);
    for (int mode = 0; mode < 2; mode++) {
        tn_egress_set_policy(b.e, mode ? TN_EGRESS_HOST : TN_EGRESS_OFF, NULL);
        for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
            struct tn_egress_target to = {.dst.port = 80, .peer = 1, .purpose = TN_EGRESS_FORWARD};
            struct tn_egress_conn *c;
            enum tn_egress_fail why;
            assert_int_equal(tn_ip_parse(refused[i], &to.dst.ip), 0);
            if (tn_egress_dial(b.e, &to, &ev, &why, &c) != TN_EGRESS_FAIL_GUARD) fail_msg("%s", refused[i]);
        }
    }
    /* Nobody but us says SUBNET. */
    tn_egress_set_routes(b.e, NULL, 0);
    tn_egress_set_policy(b.e, TN_EGRESS_OFF, NULL);
    struct tn_egress_target to = {.dst = {tn_ip4(10, 1, 1, 1), 80}, .peer = 1, .purpose = TN_EGRESS_SUBNET};
    struct tn_egress_conn *c;
    enum tn_egress_fail why;
    assert_int_equal(tn_egress_dial(b.e, &to, &ev, &why, &c), TN_EGRESS_FAIL_OFF);
    close_bench();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_guard),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
