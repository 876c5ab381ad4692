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
    assert_int_not_equal(c.exit.defect[0], 0);
    assert_int_equal(set(&c, "exit_proxy", "socks5://1.2.3.4:2"), 0);
    assert_int_equal(tn_config_egress(&c, NULL), TN_EGRESS_PROXY);
    assert_int_equal(c.exit.defect[0], 0);
    tn_config_fini(&c);
}

static void values(void **state)
{
    static const struct {
        const char *option, *good, *bad;
    } rows[] = {
        {"port", "0", "65536"},
        {"workers", "16", "17"},
        {"workers", "auto", "-1"},
        {"workers", "", "2x"},
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
        {"exit_dns", "udp://9.9.9.9,udp://[2620:fe::fe]:5353", "udp://9.9.9.9/"},
        {"exit_dns", "tcp://[2620:fe::fe]:853,https://1.1.1.1", "tcp://9.9.9.9,"},
        {"exit_dns", "tcp://1.1.1.1:53", "tcp://1.1.1.1:0"},
        {"exit_dns", "tcp://1.1.1.1,tcp://1.1.1.2,tcp://1.1.1.3,tcp://1.1.1.4",
         "tcp://1.1.1.1,tcp://1.1.1.2,tcp://1.1.1.3,tcp://1.1.1.4,tcp://1.1.1.5"},
        {"exit_dns_aaaa", "false", "perhaps"},
        {"exit_check", "true", "perhaps"},
        {"exit_check", "https://9.9.9.9/ip", "https://ip.example/"},
        {"exit_check", "http://[2606:4700::1111]:8080/", "ftp://9.9.9.9/"},
        {"exit_withdraw", "true", "perhaps"},
        {"hostname", "a", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
        {"socks5_server", "127.0.0.1:1055", "localhost"},
        {"tun", "tailnet0", "a/b"},
        {"tun", "t", "sixteen-letters-"},
        {"tun", "tun.5", "tun%d"},
        {"exit_node_allow_lan_access", "true", "perhaps"},
        {"ephemeral", "true", "maybe"},
        {"relay_only", "true", "maybe"},
        {"port_mapping", "false", "maybe"},
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

/* The egress gets a spec of its own, credentials included; the configuration keeps its one. */
static void proxy_copies(void **state)
{
    struct tn_config c;
    tn_config_init(&c);
    assert_int_equal(set(&c, "exit_proxy", "socks5://u:sekret@1.2.3.4:1080 http://5.6.7.8:8080"), 0);
    struct tn_egress_spec *s = tn_exitset_spec(&c.exit, tn_config_egress(&c, NULL));
    assert_non_null(s);
    assert_int_equal(s->mode, TN_EGRESS_PROXY);
    assert_int_equal(s->nproxies, 2);
    assert_string_equal(s->proxies[0].name, "proxy1");
    assert_string_equal(s->proxies[1].name, "proxy2");
    assert_true(tn_proxy_eq(s->proxies[0].proxy, c.exit.pool->proxies[0].proxy));
    tn_config_fini(&c);
    assert_string_equal(tn_secret_bytes(s->proxies[0].proxy->pass), "sekret");
    tn_egress_spec_free(s);
    tn_config_init(&c);
    assert_int_equal(set(&c, "exit_proxy", "socks5://u:sekret@1.2.3.4:1080 nonsense"), TN_E_INVAL); /* one bad: none */
    assert_int_equal(tn_config_egress(&c, NULL), TN_EGRESS_OFF);
    assert_int_equal(set(&c, "exit_proxy", "socks5://1.2.3.4:1080"), 0);
    assert_int_equal(tn_config_egress(&c, NULL), TN_EGRESS_PROXY);
    tn_config_fini(&c);
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

#define POOL "[proxy a]\nurl = socks5://u:sekret@1.2.3.4:1080\ngroup = g\nweight = 3\n[proxy b]\nurl=https://5.6.7.8:443\n"

static void configuration_files(void **state)
{
    static const struct {
        const char *text, *words; /* words: of the complaint; NULL: it is good */
        enum tn_egress_mode mode;
    } files[] = {
        {"", NULL, TN_EGRESS_OFF},
        {"# nothing\n\n", NULL, TN_EGRESS_OFF},
        {"hostname = x\nexit-egress = host\n", NULL, TN_EGRESS_HOST},
        {"exit_proxy = \"socks5://u:sekret@1.2.3.4:1080\"\r\n", NULL, TN_EGRESS_PROXY},
        {POOL, NULL, TN_EGRESS_PROXY},
        {POOL "[rule]\nport = 25\nuse = block\n[rule last]\nuse = g\n", NULL, TN_EGRESS_PROXY},
        {"exit_egress = host\n" POOL, NULL, TN_EGRESS_OFF}, /* contradictory */
        {"exit_egress = off\n" POOL, NULL, TN_EGRESS_OFF},
        {"[rule]\nuse = block\n", "a proxy is missing", TN_EGRESS_OFF}, /* rules and nobody to use */
        {"exit_egress = host\n[rule]\nuse = block\n", "a proxy is missing", TN_EGRESS_OFF},
        {"exit_egress = host", ":1: the last line", TN_EGRESS_OFF}, /* cut short */
        {"hostname = x\nexit_egres = host\n", ":2: exit_egres: no such option", TN_EGRESS_OFF},
        {"exit_egress = host\nexit_egress = host\n", ":2: exit_egress: said twice", TN_EGRESS_OFF},
        {"exit_egress = hosts\n", ":1: exit_egress: expected", TN_EGRESS_OFF},
        {"exit_egress = host\nport = x\n", ":2: port", TN_EGRESS_OFF},
        {"exit_egress = host\nport\n", ":2: neither", TN_EGRESS_OFF},
        {"exit_egress = host\n[proxy\n", ":2: the section's bracket", TN_EGRESS_OFF},
        {"[proxy]\nurl = socks5://1.2.3.4:1\n", ":1: a proxy needs a name", TN_EGRESS_OFF},
        {"[proxies x]\n", ":1: [proxies]: no such section", TN_EGRESS_OFF},
        {"[proxy a]\n", "its URL is missing", TN_EGRESS_OFF},
        {"[proxy a]\nurl = socks5://u:sekret@\n", ":2: url: the proxy URL has no host", TN_EGRESS_OFF},
        {"[proxy a]\nurl = socks5://1.2.3.4:1\nurl = socks5://1.2.3.4:1\n", ":3: url: said twice", TN_EGRESS_OFF},
        {"[proxy a]\nurl = file:/nonexistent\n", ":2: url: /nonexistent", TN_EGRESS_OFF},
        {"[proxy a]\nurl = socks5://1.2.3.4:1\nweight = 65\n", ":3: weight", TN_EGRESS_OFF},
        {"[proxy a]\nurl = socks5://1.2.3.4:1\npin = sha256:00\n", ":3: pin", TN_EGRESS_OFF},
        {"[proxy a]\nurl = https://1.2.3.4:1\npin = sha256:00\n", ":3: pin", TN_EGRESS_OFF},
        {"[proxy a]\nurl = socks5://1.2.3.4:1\nbind = 10.0.0.1 10.0.0.2\n", ":3: bind", TN_EGRESS_OFF},
        {"[proxy a]\nurl = socks5://1.2.3.4:1\nbind = eth0 eth1\n", ":3: bind", TN_EGRESS_OFF},
        {"[proxy a]\nurl = socks5://1.2.3.4:1\nbind =\n", ":3: bind", TN_EGRESS_OFF},
        {"[proxy a]\nurl = socks5://1.2.3.4:1\nmark = 0\n", ":3: mark", TN_EGRESS_OFF},
        {"[proxy a]\nmark = 7\nurl = socks5://1.2.3.4:1\n", ":2: mark", TN_EGRESS_OFF},
        {"[proxy a]\nbind = eth0\nurl = socks5://1.2.3.4:1\n", ":2: bind", TN_EGRESS_OFF},
        {"exit_proxy = socks5://1.2.3.4:1\n" POOL, ":2: exit_proxy and sections", TN_EGRESS_OFF},
        {POOL "[rule]\nuse = c\n", "neither a proxy nor a group", TN_EGRESS_OFF},
        {POOL "[rule]\nport = 25\n", "does not say what to use", TN_EGRESS_OFF},
        {POOL "[rule]\nport =\nuse = a\n", ":8: port: a value is missing", TN_EGRESS_OFF},
        {POOL POOL, "two proxies are called a", TN_EGRESS_OFF},
    };
    char path[] = "/tmp/tn-config-XXXXXX", why[200];
    close(mkstemp(path));
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct tn_config c;
        struct tn_config fresh;
        write_file(path, files[i].text);
        tn_config_init(&c);
        int err = tn_config_set(&c, "config", path, why);
        if ((err != 0) != (files[i].words != NULL) || (err && !strstr(why, files[i].words))) fail_msg("file %zu: %d %s", i, err, why);
        assert_null(strstr(why, "sekret"));
        assert_int_equal(tn_config_egress(&c, NULL), files[i].mode);
        tn_config_fini(&c);
        /* The same at a reload, after a good one. */
        write_file(path, POOL);
        tn_config_init(&c);
        assert_int_equal(set(&c, "config", path), 0);
        write_file(path, files[i].text);
        assert_int_equal(tn_config_reread(&c, &fresh, why) != 0, err != 0);
        assert_int_equal(tn_config_egress(&fresh, NULL), files[i].mode);
        assert_int_equal(fresh.exit.defect[0] != '\0', err != 0);
        tn_config_fini(&fresh);
        unlink(path);
        assert_int_equal(tn_config_reread(&c, &fresh, why), TN_E_NOENT);
        assert_int_equal(tn_config_egress(&fresh, NULL), TN_EGRESS_OFF);
        tn_config_fini(&fresh);
        tn_config_fini(&c);
    }
    unlink(path);
}

static unsigned reread(struct tn_config *c)
{
    struct tn_config fresh;
    char why[200];
    assert_int_equal(tn_config_reread(c, &fresh, why), 0);
    unsigned changed = tn_config_take_live(c, &fresh);
    tn_config_fini(&fresh);
    return changed;
}

static int change(struct tn_config *c, const char *option, const char *value, struct tn_config *fresh)
{
    char why[200];
    bool policy;
    int err = tn_config_change(c, &(struct tn_setting){option, value}, 1, fresh, &policy, why);
    assert_true(!policy || live_index(option) < 0);
    return err;
}

/* What a reload changes: as if the node had been started with the same flags and the file as it is now. */
static void live_settings(void **state)
{
    char path[] = "/tmp/tn-config-XXXXXX", why[200];
    struct tn_config c, fresh;
    close(mkstemp(path));
    write_file(path, "exit_proxy_udp = true\n");
    tn_config_init(&c);
    assert_int_equal(set(&c, "advertise_exit_node", "true"), 0);
    assert_int_equal(set(&c, "exit_dns", "tcp://9.9.9.9"), 0);
    assert_int_equal(set(&c, "config", path), 0);
    assert_int_equal(set(&c, "exit_dns_aaaa", "false"), 0); /* behind the file: it holds */
    assert_true(c.advertise_exit_node && c.exit_proxy_udp && c.exit_dns_aaaa == TN_AAAA_NO);
    assert_int_equal(reread(&c), 0);
    write_file(path, "advertise_exit_node = false\nexit_dns = udp://9.9.9.9\nexit_dns_aaaa = true\nadvertise_routes = 10.0.0.0/8\n");
    assert_int_equal(reread(&c), TN_LIVE_EXIT_NODE | TN_LIVE_DNS | TN_LIVE_ROUTES | TN_LIVE_PROXY_UDP);
    assert_false(c.advertise_exit_node || c.exit_proxy_udp);
    assert_string_equal(c.exit_dns, "udp://9.9.9.9");
    assert_int_equal(c.exit_dns_aaaa, TN_AAAA_NO);
    assert_int_equal(c.nroutes, 1);
    write_file(path, "advertise_routes = 10.0.0.0/8=direct\n"); /* it says no more: the flags do, or nobody */
    assert_int_equal(reread(&c), TN_LIVE_EXIT_NODE | TN_LIVE_DNS | TN_LIVE_ROUTES);
    assert_true(c.advertise_exit_node);
    assert_string_equal(c.exit_dns, "tcp://9.9.9.9");
    write_file(path, "exit_check = false\nexit_withdraw = true\n");
    assert_int_equal(reread(&c), TN_LIVE_CHECK | TN_LIVE_WITHDRAW | TN_LIVE_ROUTES);
    assert_true(c.exit_check_off && c.exit_withdraw && !c.exit_check);
    write_file(path, "exit_check = https://9.9.9.9/ip\n");
    assert_int_equal(reread(&c), TN_LIVE_CHECK | TN_LIVE_WITHDRAW);
    assert_true(!c.exit_check_off && !c.exit_withdraw);
    assert_string_equal(c.exit_check, "https://9.9.9.9/ip");
    write_file(path, "exit_check =\n");
    assert_int_equal(reread(&c), TN_LIVE_CHECK);
    assert_true(!c.exit_check_off && !c.exit_check);
    write_file(path, "advertise_routes = 10.0.0.0/33\n");
    assert_int_equal(tn_config_reread(&c, &fresh, why), TN_E_INVAL);
    tn_config_fini(&fresh);
    tn_config_fini(&c);
    unlink(path);
    /* Without a file: what was set last. */
    tn_config_init(&c);
    assert_int_equal(set(&c, "advertise_routes", "10.0.0.0/8,10.0.0.0/16"), 0);
    assert_int_equal(change(&c, "advertise_routes", "10.0.0.0/40", &fresh), TN_E_INVAL);
    tn_config_fini(&fresh);
    assert_int_equal(reread(&c), 0);
    assert_int_equal(change(&c, "advertise_routes", "", &fresh), 0);
    assert_int_equal(tn_config_take_live(&c, &fresh), TN_LIVE_ROUTES);
    tn_config_fini(&fresh);
    assert_int_equal(c.nroutes, 0);
    assert_int_equal(reread(&c), 0);
    assert_int_equal(change(&c, "hostname", "x", &fresh), TN_E_NOENT);
    tn_config_fini(&fresh);
    tn_config_fini(&c);
}

/* Several at once: all or none, whatever comes first, and of a policy that can't be used no more than that it is off. */
static void together(void **state)
{
    static const char good[] = "socks5://u:sekret@1.2.3.4:1";
    static const struct {
        const char *before[2], *now[6]; /* options and values */
        int err;
        enum tn_egress_mode mode;
        const char *then[2];            /* one more, alone */
        enum tn_egress_mode at_last;
    } rows[] = {
        {{"exit_proxy", good}, {"exit_egress", "host", "exit_proxy", "socks5://sekret"}, TN_E_INVAL, TN_EGRESS_OFF,
         {"exit_proxy", good}, TN_EGRESS_PROXY}, /* host was said of something else, and is not kept */
        {{"exit_proxy", good}, {"exit_proxy", "socks5://sekret", "exit_egress", "host"}, TN_E_INVAL, TN_EGRESS_OFF,
         {"exit_proxy", good}, TN_EGRESS_PROXY},
        {{"exit_egress", "host"}, {"exit_proxy", "file:/nonexistent/sekret"}, TN_E_NOENT, TN_EGRESS_OFF,
         {"exit_egress", "host"}, TN_EGRESS_OFF},
        {{"exit_egress", "off"}, {"exit_egress", "host", "exit_dns", "tcp://name"}, TN_E_INVAL, TN_EGRESS_OFF,
         {"exit_names", "true"}, TN_EGRESS_OFF},
        {{"exit_egress", "off"}, {"exit_egress", "host", "exit_names", "perhaps"}, TN_E_INVAL, TN_EGRESS_OFF,
         {"exit_names", "true"}, TN_EGRESS_OFF},
        {{"exit_proxy", good}, {"exit_proxy", "socks5://sekret", "exit_dns", "tcp://name"}, TN_E_INVAL, TN_EGRESS_PROXY,
         {"exit_names", "true"}, TN_EGRESS_PROXY}, /* not even that */
        {{"exit_proxy", good}, {"exit_egress", "off", "exit_dns", "tcp://9.9.9.9", "hostname", "x"}, TN_E_NOENT, TN_EGRESS_PROXY,
         {"exit_names", "true"}, TN_EGRESS_PROXY},
        {{"exit_egress", "host"}, {"exit_proxy", good, "exit_egress", "proxy", "exit_names", "true"}, 0, TN_EGRESS_PROXY,
         {"exit_egress", "host"}, TN_EGRESS_OFF},
        {{"exit_egress", "host"}, {"exit_egress", "nonsense", "exit_names", "true"}, TN_E_INVAL, TN_EGRESS_OFF,
         {"exit_egress", "host"}, TN_EGRESS_HOST},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tn_config c, fresh;
        struct tn_setting now[3];
        char why[200];
        size_t n = 0;
        bool policy;
        tn_config_init(&c);
        assert_int_equal(set(&c, rows[i].before[0], rows[i].before[1]), 0);
        bool names = c.exit.names;
        for (; n < 3 && rows[i].now[2 * n]; n++) now[n] = (struct tn_setting){rows[i].now[2 * n], rows[i].now[2 * n + 1]};
        int err = tn_config_change(&c, now, n, &fresh, &policy, why);
        if (err != rows[i].err || tn_config_egress(&c, NULL) != rows[i].mode) fail_msg("row %zu: %d %s", i, err, why);
        if (err) assert_true(c.exit.names == names && !c.beside[live_index("exit_dns")].value && !strstr(why, "sekret@"));
        else assert_true(policy && c.exit.pool->proxies[0].names);
        tn_config_fini(&fresh);
        assert_int_equal(change(&c, rows[i].then[0], rows[i].then[1], &fresh), 0);
        assert_int_equal(tn_config_egress(&c, NULL), rows[i].at_last);
        tn_config_fini(&fresh);
        tn_config_fini(&c);
    }
}

/* Cut at every byte: never host where the whole does not say so, and a line that is cut is always noticed. */
static void half_written_files(void **state)
{
    static const char whole[] = "advertise_exit_node = true\nexit_egress = proxy\n" POOL "[rule]\nport = 25\nuse = block\n[rule]\nuse = g\n";
    char path[] = "/tmp/tn-config-XXXXXX", text[sizeof whole], why[200];
    close(mkstemp(path));
    for (size_t n = 0; n < sizeof whole; n++) {
        struct tn_config c;
        snprintf(text, n + 1, "%s", whole);
        write_file(path, text);
        tn_config_init(&c);
        int err = tn_config_set(&c, "config", path, why);
        assert_true(err || n == 0 || whole[n - 1] == '\n');
        assert_int_not_equal(tn_config_egress(&c, NULL), TN_EGRESS_HOST);
        if (err) assert_int_equal(tn_config_egress(&c, NULL), TN_EGRESS_OFF);
        tn_config_fini(&c);
    }
    unlink(path);
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

static const char *example; /* examples/exit-pool.conf */

static void example_file(void **state)
{
    struct tn_config c;
    if (!example) skip();
    tn_config_init(&c);
    assert_int_equal(set(&c, "config", example), 0);
    assert_int_equal(tn_config_egress(&c, NULL), TN_EGRESS_PROXY);
    assert_int_equal(c.exit.pool->nproxies, 3);
    assert_int_equal(c.exit.pool->nrules, 4);
    assert_true(c.exit.pool->proxies[0].proxy->tls && c.exit.pool->proxies[0].proxy->templated && c.advertise_exit_node);
    tn_config_fini(&c);
}

int main(int argc, char **argv)
{
    example = argc > 1 ? argv[1] : NULL;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(egress_table),
        cmocka_unit_test(last_proxy_counts),
        cmocka_unit_test(values),
        cmocka_unit_test(words), cmocka_unit_test(proxy_copies),
        cmocka_unit_test(configuration_files),
        cmocka_unit_test(live_settings), cmocka_unit_test(together), cmocka_unit_test(half_written_files),
        cmocka_unit_test(example_file),
        cmocka_unit_test(secrets_from_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
