/* The proxy URL: what is taken, what is refused, and that no refusal repeats any of it. */
#include "egress/proxyurl.c"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

struct good {
    const char *url;
    enum tn_proxy_scheme scheme;
    const char *host;
    unsigned port;
    const char *user, *pass; /* user NULL: no credentials */
    const char *shown;
};

static const struct good goods[] = {
    {"socks5://127.0.0.1:1080", TN_PROXY_SOCKS5, "127.0.0.1", 1080, NULL, NULL, "socks5://127.0.0.1:1080"},
    {"SOCKS5://proxy.example:1", TN_PROXY_SOCKS5, "proxy.example", 1, NULL, NULL, "socks5://proxy.example:1"},
    {"socks5h://proxy.example:65535", TN_PROXY_SOCKS5, "proxy.example", 65535, NULL, NULL, "socks5://proxy.example:65535"},
    {"http://proxy.example:3128/", TN_PROXY_HTTP, "proxy.example", 3128, NULL, NULL, "http://proxy.example:3128"},
    {"http://[2a00:45::1]:8080", TN_PROXY_HTTP, "2a00:45::1", 8080, NULL, NULL, "http://[2a00:45::1]:8080"},
    {"socks5://user:pass@h:1", TN_PROXY_SOCKS5, "h", 1, "user", "pass", "socks5://h:1"},
    {"socks5://user@h:1", TN_PROXY_SOCKS5, "h", 1, "user", "", "socks5://h:1"},
    {"socks5://user:@h:1", TN_PROXY_SOCKS5, "h", 1, "user", "", "socks5://h:1"},
    {"socks5://u%3Ase%40r:p%2Fa%25s%3a@h:1", TN_PROXY_SOCKS5, "h", 1, "u:se@r", "p/a%s:", "socks5://h:1"},
    {"socks5://u:a:b@h:1", TN_PROXY_SOCKS5, "h", 1, "u", "a:b", "socks5://h:1"},
    {"http://u:a@b@h:1", TN_PROXY_HTTP, "h", 1, "u", "a@b", "http://h:1"},
    {"http://:secret@h:1", TN_PROXY_HTTP, "h", 1, "", "secret", "http://h:1"},
    {"http://u%C3%BC:p@[::1]:1", TN_PROXY_HTTP, "::1", 1, "u\xc3\xbc", "p", "http://[::1]:1"},
    {"socks5://my_proxy-1.local.:1080", TN_PROXY_SOCKS5, "my_proxy-1.local.", 1080, NULL, NULL,
     "socks5://my_proxy-1.local.:1080"},
    {"https://u:p@gate.example:443", TN_PROXY_HTTP, "gate.example", 443, "u", "p", "https://gate.example:443"},
    {"socks5://c-{peer}-{epoch}:p{user}@h:1", TN_PROXY_SOCKS5, "h", 1, "c-\1-\3", "p\2", "socks5://h:1"},
    {"socks5://u%7Bpeer%7D:a{b}{@h:1", TN_PROXY_SOCKS5, "h", 1, "u{peer}", "a{b}{", "socks5://h:1"},
};

static void check_good(const struct good *g)
{
    struct tn_proxy *p = NULL;
    char why[128], shown[300];
    assert_int_equal(tn_proxy_parse(g->url, strlen(g->url), &p, why), 0);
    assert_string_equal(why, "");
    assert_int_equal(p->scheme, g->scheme);
    assert_string_equal(p->host, g->host);
    assert_int_equal(p->port, g->port);
    assert_int_equal(p->has_auth, g->user != NULL);
    assert_string_equal(tn_secret_bytes(p->user), g->user ? g->user : "");
    assert_string_equal(tn_secret_bytes(p->pass), g->pass ? g->pass : "");
    assert_string_equal(tn_proxy_describe(p, shown), g->shown);
    assert_int_equal(p->tls, strncmp(g->url, "https", 5) == 0);
    assert_int_equal(p->templated, strstr(g->url, "{peer}") != NULL);
    struct tn_proxy *copy = tn_proxy_copy(p);
    assert_true(copy && tn_proxy_eq(copy, p));
    copy->port++;
    assert_false(tn_proxy_eq(copy, p));
    tn_proxy_free(copy);
    tn_proxy_free(p);
}

static void test_good(void **state)
{
    for (size_t i = 0; i < sizeof goods / sizeof goods[0]; i++) check_good(&goods[i]);
}

/* Each line holds "hunter2" somewhere where it can be held; no why-line may. part: of the why-line that must come. */
static const struct {
    const char *url, *part;
} bads[] = {
    {"", "empty"},
    {"hunter2", "begin with"},
    {"127.0.0.1:1080", "begin with"},
    {"socks4://u:hunter2@h:1", "begin with"},
    {"socks5:/u:hunter2@h:1", "begin with"},
    {"socks5//u:hunter2@h:1", "begin with"},
    {"https://u:hunter2@h", "no port"},
    {"socks5://u{pear}:hunter2@h:1", "braces"},
    {"socks5://u{:hunter2@h:1", "braces"},
    {" socks5://u:hunter2@h:1", "space"},
    {"socks5://u:hunter2@h:1 ", "space"},
    {"socks5://u:hunter2@h:1\n", "control"},
    {"socks5://u:hunter2\x7f@h:1", "control"},
    {"socks5://u:hunter2@h", "no port"},
    {"socks5://u:hunter2@h:", "no port"},
    {"socks5://u:hunter2@h:0", "port"},
    {"socks5://u:hunter2@h:65536", "port"},
    {"socks5://u:hunter2@h:123456", "port"},
    {"socks5://u:hunter2@h:+1", "port"},
    {"socks5://u:hunter2@h:0x1", "port"},
    {"socks5://u:hunter2@:1", "no host"},
    {"socks5://", "no host"},
    {"socks5://:1", "no host"},
    {"socks5://@h:1", "user is empty"},
    {"socks5://:hunter2@h:1", "user is empty"},
    {"http://u%3A:hunter2@h:1", "colon"},
    {"http://u:hunter2%0d%0aX@h:1", "control character"},
    {"socks5://u:hunter2%00@h:1", "control character"},
    {"socks5://u:hunter2%@h:1", "percent"},
    {"socks5://u:hunter2%4@h:1", "percent"},
    {"socks5://u:hunter2%4g@h:1", "percent"},
    {"socks5://u:hunter2/@h:1", "path"},
    {"socks5://u:hunter2?@h:1", "path"},
    {"http://u:hunter2@h:1/path", "path"},
    {"http://u:hunter2@h:1?q", "path"},
    {"http://u:hunter2@h:1#f", "path"},
    {"http://u:hunter2@h:1//", "path"},
    {"http://u:hunter2@::1:8080", "IPv6 in brackets"},
    {"http://u:hunter2@[::1:8080", "not closed"},
    {"http://u:hunter2@[::1]8080", "between"},
    {"http://u:hunter2@[::1]", "no port"},
    {"http://u:hunter2@[1.2.3.4]:1", "IPv6 address"},
    {"http://u:hunter2@[fe80::1%25eth0]:1", "IPv6 address"},
    {"http://u:hunter2@[]:1", "no host"},
    {"http://u:hunter2@1.2.3:1", "neither"},
    {"http://u:hunter2@256.1.1.1:1", "neither"},
    {"http://u:hunter2@127.1:1", "neither"},
    {"http://u:hunter2@0x7f000001:1", "neither"},
    {"http://u:hunter2@0X7f000001:1", "neither"},
    {"http://u:hunter2@127.0.0.0x1:1", "neither"},
    {"http://u:hunter2@2130706433:1", "neither"},
    {"http://u:hunter2@a..b:1", "neither"},
    {"http://u:hunter2@.:1", "neither"},
    {"http://u:hunter2@h%41:1", "neither"},
    {"http://u:hunter2@h\xc3\xbc:1", "neither"},
};

static void test_bad(void **state)
{
    for (size_t i = 0; i < sizeof bads / sizeof bads[0]; i++) {
        struct tn_proxy *p = NULL;
        char why[128];
        int err = tn_proxy_parse(bads[i].url, strlen(bads[i].url), &p, why);
        if (err != TN_E_INVAL || !strstr(why, bads[i].part)) fail_msg("%s: %d \"%s\"", bads[i].url, err, why);
        assert_null(p);
        assert_null(strstr(why, "hunter2"));
    }
}

static void test_nul_inside(void **state)
{
    static const char url[] = "socks5://u:p@h\0.evil:1";
    struct tn_proxy *p = NULL;
    char why[128];
    assert_int_equal(tn_proxy_parse(url, sizeof url - 1, &p, why), TN_E_INVAL);
}

static int parse_with(const char *scheme, size_t user_len, size_t pass_len)
{
    static char url[4096];
    struct tn_proxy *p = NULL;
    char why[128];
    size_t n = (size_t)sprintf(url, "%s://", scheme);
    memset(url + n, 'u', user_len);
    url[n += user_len] = ':';
    memset(url + ++n, 'p', pass_len);
    n += pass_len;
    n += (size_t)sprintf(url + n, "@h:1");
    int err = tn_proxy_parse(url, n, &p, why);
    tn_proxy_free(p);
    return err;
}

static void test_lengths(void **state)
{
    assert_int_equal(parse_with("socks5", 255, 255), 0);
    assert_int_equal(parse_with("socks5", 256, 1), TN_E_INVAL);
    assert_int_equal(parse_with("socks5", 1, 256), TN_E_INVAL);
    assert_int_equal(parse_with("http", 1024, 1024), 0);
    assert_int_equal(parse_with("http", 1025, 1), TN_E_INVAL);
    assert_int_equal(parse_with("http", 1, 1025), TN_E_INVAL);
}

static void test_prefixes(void **state)
{
    static const char url[] = "socks5://us%41er:p%40ss@proxy.example:1080";
    for (size_t n = 0; n < sizeof url - 1; n++) {
        char *exact = malloc(n ? n : 1), why[128];
        struct tn_proxy *p = NULL;
        memcpy(exact, url, n);
        int err = tn_proxy_parse(exact, n, &p, why);
        /* Only a shorter port makes a shorter valid URL. */
        assert_int_equal(err, n > strlen("socks5://us%41er:p%40ss@proxy.example:") ? 0 : TN_E_INVAL);
        tn_proxy_free(p);
        free(exact);
    }
}

static void test_bind(void **state)
{
    static const struct { const char *text, *device, *v4, *v6; } good[] = {
        {"10.0.0.7", "", "10.0.0.7", NULL}, {"fd00::7", "", NULL, "fd00::7"}, {"wan0", "wan0", NULL, NULL},
        {"  fd00::7\t10.0.0.7 ", "", "10.0.0.7", "fd00::7"}, {"10.0.0.7 eth0.5", "eth0.5", "10.0.0.7", NULL},
    };
    static const char *const bad[] = {"", "  ", "10.0.0.1 10.0.0.2", "::1 ::2", "eth0 eth1", "a/b", "..", "a-name-of-16-char", "1.2.3.4:5"};
    struct tn_proxy_bind b;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        const char *want[] = {good[i].v4, good[i].v6};
        memset(&b, 0xaa, sizeof b);
        assert_true(tn_proxy_bind_parse(good[i].text, &b));
        assert_string_equal(b.device, good[i].device);
        for (int k = 0; k < 2; k++) {
            struct tn_ip ip;
            assert_int_equal(b.from[k].family, want[k] ? k ? 6 : 4 : 0);
            if (want[k]) assert_true(tn_ip_parse(want[k], &ip) == 0 && tn_ip_eq(&ip, &b.from[k]));
        }
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (tn_proxy_bind_parse(bad[i], &b)) fail_msg("taken: '%s'", bad[i]);
    }
    struct tn_proxy *p, *q;
    char why[128];
    assert_int_equal(tn_proxy_parse("socks5://h:1", 12, &p, why), 0);
    q = tn_proxy_copy(p);
    assert_true(tn_proxy_eq(p, q));
    assert_true(tn_proxy_bind_parse("10.0.0.7", &q->bind));
    assert_false(tn_proxy_eq(p, q)); /* a reload takes it for another proxy */
    tn_proxy_free(p);
    p = tn_proxy_copy(q);
    assert_true(tn_proxy_eq(p, q));
    assert_true(tn_proxy_bind_parse("wan0", &q->bind));
    assert_false(tn_proxy_eq(p, q));
    tn_proxy_free(p);
    tn_proxy_free(q);
}

static void test_mark(void **state)
{
    static const struct {
        const char *text;
        uint32_t mark;
    } good[] = {{"1", 1}, {"0x10", 16}, {"0XfF", 255}, {"4294967295", UINT32_MAX}, {"0xffffffff", UINT32_MAX}, {"010", 10}};
    static const char *const bad[] = {"", "0", "0x", "0x0", "-1", "+1", " 1", "1 ", "x1", "0x+1", "4294967296", "0x100000000",
                                      "99999999999999999999999", "1/2", "ff"};
    struct tn_proxy_bind bind = {.mark = 7};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        uint32_t mark = 0;
        assert_true(tn_proxy_mark_parse(good[i].text, &mark));
        assert_int_equal(mark, good[i].mark);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (tn_proxy_mark_parse(bad[i], &bind.mark)) fail_msg("taken: '%s'", bad[i]);
    assert_true(tn_proxy_bind_parse("10.0.0.7", &bind)); /* either may be said first */
    assert_int_equal(bind.mark, 7);
    struct tn_proxy *p, *q;
    char why[128];
    assert_int_equal(tn_proxy_parse("socks5://h:1", 12, &p, why), 0);
    q = tn_proxy_copy(p);
    assert_non_null(q);
    q->bind.mark = 7;
    assert_false(tn_proxy_eq(p, q));
    p->bind.mark = 7;
    assert_true(tn_proxy_eq(p, q));
    tn_proxy_free(p);
    tn_proxy_free(q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good), cmocka_unit_test(test_bad), cmocka_unit_test(test_nul_inside),
        cmocka_unit_test(test_lengths), cmocka_unit_test(test_prefixes), cmocka_unit_test(test_bind), cmocka_unit_test(test_mark),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
