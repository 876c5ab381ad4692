/* Options, and above all what they amount to for exit traffic: no combination may mean host but the one that says so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "node/config.c"
#include <unistd.h>

static int set(struct tn_config *c, const char *option, const char *value)
{
    char why[200];
    int err = tn_config_set(c, option, value, why);
    assert_true(err == 0 || why[0]);
    assert_null(strstr(why, "sekret"));
    return err;
}

static void egress_table(void **state)
{
    static const struct {
        const char *egress, *forward, *proxy;
        enum tn_egress_mode mode;
    } rows[] = {
        {NULL, NULL, NULL, TN_EGRESS_OFF},
        {"off", NULL, NULL, TN_EGRESS_OFF},
        {"host", NULL, NULL, TN_EGRESS_HOST},
        {"proxy", NULL, NULL, TN_EGRESS_OFF},
        {NULL, "true", NULL, TN_EGRESS_OFF},
        {NULL, "false", NULL, TN_EGRESS_OFF},
        {"nonsense", NULL, NULL, TN_EGRESS_OFF},
        {NULL, NULL, "socks5://u:sekret@1.2.3.4:1080", TN_EGRESS_PROXY},
        {"proxy", NULL, "http://1.2.3.4:8080", TN_EGRESS_PROXY},
        {NULL, "true", "http://1.2.3.4:8080", TN_EGRESS_PROXY},
        {"off", NULL, "socks5://1.2.3.4:1080", TN_EGRESS_OFF},
        {NULL, "false", "socks5://1.2.3.4:1080", TN_EGRESS_OFF},
        {"host", NULL, "socks5://1.2.3.4:1080", TN_EGRESS_OFF}, /* contradiction */
        {NULL, NULL, "", TN_EGRESS_OFF},
        {NULL, NULL, "socks5://u:sekret@", TN_EGRESS_OFF},
        {NULL, NULL, "ftp://1.2.3.4:21", TN_EGRESS_OFF},
        {NULL, NULL, "file:/nonexistent/sekretfile", TN_EGRESS_OFF},
        {"host", NULL, "", TN_EGRESS_OFF}, /* present but invalid is never host */
        {"host", NULL, "garbage", TN_EGRESS_OFF},
        {"host", "true", "socks5://1.2.3.4", TN_EGRESS_OFF},
        {"proxy", "true", "garbage", TN_EGRESS_OFF},
        {"host", "false", NULL, TN_EGRESS_OFF}, /* contradictions again, and a switch that can't be read */
        {"proxy", "false", "socks5://1.2.3.4:1080", TN_EGRESS_OFF},
        {"host", "nonsense", NULL, TN_EGRESS_OFF},
        {"proxy", "nonsense", "socks5://1.2.3.4:1080", TN_EGRESS_OFF},
        {"host", "true", NULL, TN_EGRESS_HOST},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tn_config c;
        const char *missing;
        tn_config_init(&c);
        char why[200];
        if (rows[i].egress) (void)tn_config_set(&c, "exit_egress", rows[i].egress, why);
        if (rows[i].forward) (void)tn_config_set(&c, "forward_exit_egress", rows[i].forward, why);
        if (rows[i].proxy) (void)tn_config_set(&c, "exit_proxy", rows[i].proxy, why);
        assert_int_equal(tn_config_egress(&c, &missing), rows[i].mode);
        assert_int_equal(missing == NULL, rows[i].mode != TN_EGRESS_OFF);
        tn_config_fini(&c);
    }
}

/* A second, broken proxy must not leave the first in force, nor a good one the defect. */
static void last_proxy_counts(void **state)
{
    struct tn_config c;
    tn_config_init(&c);
    assert_int_equal(set(&c, "exit_proxy", "socks5://1.2.3.4:1"), 0);
    assert_int_not_equal(set(&c, "exit_proxy", "socks5://1.2.3.4:99999"), 0);
    assert_int_equal(tn_config_egress(&c, NULL), TN_EGRESS_OFF);
    assert_int_not_equal(c.proxy_defect[0], 0);
    assert_int_equal(set(&c, "exit_proxy", "socks5://1.2.3.4:2"), 0);
    assert_int_equal(tn_config_egress(&c, NULL), TN_EGRESS_PROXY);
    assert_int_equal(c.proxy_defect[0], 0);
    tn_config_fini(&c);
}

static void values(void **state)
{
    static const struct {
        const char *option, *good, *bad;
    } rows[] = {
        {"port", "0", "65536"},
        {"port", "41641", "x"},
        {"port", "", "-1"},
        {"tcp_buffer_size", "256K", "1"},
        {"tcp_buffer_size", "8M", "8G"},
        {"tcp_congestion", "cubic", "reno"},
        {"tcp_buffer_size", "auto", "99999999999999999999"},
        {"hostname", "a-b.c", "a b"},
        {"login_server", "http://1.2.3.4:5", "1.2.3.4"},
        {"exit_dns", "https://1.1.1.1/dns-query", "http://1.1.1.1/"},
        {"exit_dns", "https://[2606:4700::1111]:8443/q", "https://dns.google/dns-query"},
        {"exit_dns", "https://[2606:4700::1111]/q", "https://[1.1.1.1]/q"},
        {"exit_dns", "tcp://9.9.9.9", "tcp://dns.quad9.net"},
        {"exit_dns", "tcp://[2620:fe::fe]:853,https://1.1.1.1", "tcp://9.9.9.9,"},
        {"exit_dns", "tcp://1.1.1.1:53", "tcp://1.1.1.1:0"},
        {"exit_dns", "tcp://1.1.1.1,tcp://1.1.1.2,tcp://1.1.1.3,tcp://1.1.1.4",
         "tcp://1.1.1.1,tcp://1.1.1.2,tcp://1.1.1.3,tcp://1.1.1.4,tcp://1.1.1.5"},
        {"exit_dns_aaaa", "false", "perhaps"},
        {"hostname", "a", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
        {"socks5_server", "127.0.0.1:1055", "localhost"},
        {"tun", "tailnet0", "a/b"},
        {"tun", "t", "sixteen-letters-"},
        {"tun", "tun.5", "tun%d"},
        {"exit_node_allow_lan_access", "true", "perhaps"},
        {"ephemeral", "true", "maybe"},
        {"log_level", "debug", "loud"},
        {"exit_egress", "off", "direct"},
        {"forward_exit_egress", "true", "2"},
    };
    struct tn_config c;
    tn_config_init(&c);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(set(&c, rows[i].option, rows[i].good), 0);
        assert_int_equal(set(&c, rows[i].option, rows[i].bad), TN_E_INVAL);
    }
    assert_int_equal(set(&c, "exit_prox", "x"), TN_E_NOENT);
    tn_config_fini(&c);
}

/* What ends up in the state file and in status must be text. */
static void words(void **state)
{
    struct tn_config c;
    tn_config_init(&c);
    static const char *const bad[] = {"\xff\xfe", "two words", "line\nbreak", "caf\xc3\xa9"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char url[64];
        snprintf(url, sizeof url, "https://%s/", bad[i]);
        assert_int_equal(set(&c, "exit_node", bad[i]), TN_E_INVAL);
        assert_int_equal(set(&c, "login_server", url), TN_E_INVAL);
    }
    assert_false(c.said & (TN_SAID_EXIT_NODE | TN_SAID_LOGIN_SERVER));
    assert_int_equal(set(&c, "exit_node", "berlin.example.ts.net"), 0);
    assert_int_equal(set(&c, "exit_node", ""), 0); /* said: none */
    assert_true(c.said & TN_SAID_EXIT_NODE);
    assert_null(c.exit_node);
    tn_config_fini(&c);
}

/* The egress gets a proxy of its own, credentials included; the configuration keeps its one. */
static void proxy_copies(void **state)
{
    struct tn_config c;
    tn_config_init(&c);
    assert_null(tn_config_copy_proxy(&c));
    assert_int_equal(set(&c, "exit_proxy", "socks5://u:sekret@1.2.3.4:1080"), 0);
    struct tn_proxy *p = tn_config_copy_proxy(&c);
    assert_non_null(p);
    assert_ptr_not_equal(p->pass, c.proxy->pass);
    assert_true(tn_secret_eq(p->pass, c.proxy->pass) && tn_secret_eq(p->user, c.proxy->user));
    assert_string_equal(p->host, "1.2.3.4");
    tn_config_fini(&c);
    assert_string_equal(tn_secret_bytes(p->pass), "sekret");
    tn_proxy_free(p);
}

static void secrets_from_files(void **state)
{
    char path[] = "/tmp/tn-config-XXXXXX", value[64];
    int fd = mkstemp(path);
    assert_int_equal(write(fd, "  tskey-sekret\n", 15), 15);
    snprintf(value, sizeof value, "file:%s", path);
    struct tn_config c;
    tn_config_init(&c);
    assert_int_equal(set(&c, "auth_key", value), 0);
    assert_string_equal(tn_secret_bytes(c.auth_key), "tskey-sekret");
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(set(&c, "auth_key", value), TN_E_INVAL);
    assert_int_equal(ftruncate(fd, 1 << 20), 0);
    assert_int_equal(set(&c, "auth_key", value), TN_E_TOOBIG);
    unlink(path);
    close(fd);
    assert_int_equal(set(&c, "auth_key", value), TN_E_NOENT);
    tn_config_fini(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(egress_table),
        cmocka_unit_test(last_proxy_counts),
        cmocka_unit_test(values),
        cmocka_unit_test(words), cmocka_unit_test(proxy_copies),
        cmocka_unit_test(secrets_from_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
