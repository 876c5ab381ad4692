/* The page that the egress check reads: which URLs are taken, and which address is found in what it says. */
#include "node/checkpage.h"
#include "util/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void urls(void **state)
{
    static const struct {
        const char *url, *host, *path;
        uint16_t port;
        bool tls;
    } good[] = {
        {"https://1.1.1.1/cdn-cgi/trace", "1.1.1.1", "/cdn-cgi/trace", 443, true},
        {"http://1.1.1.1", "1.1.1.1", "/", 80, false},
        {"http://1.1.1.1:8080?a=b#c", "1.1.1.1:8080", "/?a=b", 8080, false},
        {"https://[2606:4700::1111]/ip", "[2606:4700::1111]", "/ip", 443, true},
        {"http://[2606:4700::1111]:81", "[2606:4700::1111]:81", "/", 81, false},
    };
    static const char *const bad[] = {"", "1.1.1.1", "ftp://1.1.1.1/", "http://", "http:///ip", "http://ip.example/", "http://1.1.1.1:0/",
                                      "http://1.1.1.1:/", "http://1.1.1.1:65536/", "http://[1.1.1.1]/", "http://2606:4700::1111/",
                                      "http://[2606:4700::1111/", "http://[]/", "http://[/", "http://u:p@1.1.1.1/", "http://1.1.1.1/a b",
                                      "http://1.1.1.1/\r\nX: y", "http://1.1.1.1/\xc3\xa4", "HTTP://1.1.1.1/"};
    struct tn_checkpage p;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(tn_checkpage_parse(good[i].url, &p), 0);
        assert_string_equal(p.host, good[i].host);
        assert_string_equal(p.path, good[i].path);
        assert_int_equal(p.addr.port, good[i].port);
        assert_int_equal(p.tls, good[i].tls);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (tn_checkpage_parse(bad[i], &p) != TN_E_INVAL) fail_msg("taken: '%s'", bad[i]);
    for (size_t len = 480; len < 540; len++) { /* around the limit: a cut request would ask for something else */
        char url[600] = "http://1.1.1.1/";
        memset(url + strlen(url), 'x', len - strlen(url));
        if (tn_checkpage_parse(url, &p) == 0) assert_int_equal(strlen(p.path), len - strlen("http://1.1.1.1"));
        else assert_true(len > 500);
    }
}

static void addresses(void **state)
{
    static const struct {
        const char *page, *ip; /* NULL: none */
    } rows[] = {
        {"203.0.113.7", "203.0.113.7"},
        {"203.0.113.7\n", "203.0.113.7"},
        {"fl=1\nh=1.1.1.1\nip=203.0.113.7\nts=1\n", "203.0.113.7"},
        {"ip=2001:db8::7\n", "2001:db8::7"},
        {"{\"a\":\"9.9.9.9\",\"ip\":\"203.0.113.7\"}", "203.0.113.7"},
        {"{\"ip\": \"2001:db8::7\"}", "2001:db8::7"},
        {"<p>Your address: 203.0.113.7</p>", "203.0.113.7"},
        {"version 1.2.3, 203.0.113.7", "203.0.113.7"},
        {"1.2.3.4.5", NULL},
        {"", NULL},
        {"ip=", NULL},
        {"ip=300.1.1.1", NULL},
        {"no address: here", NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t len = strlen(rows[i].page);
        char *page = malloc(len ? len : 1), text[TN_IP_STRLEN]; /* without an end: whoever reads on is seen */
        struct tn_ip ip;
        memcpy(page, rows[i].page, len);
        bool found = tn_checkpage_find(page, len, &ip);
        if (found != (rows[i].ip != NULL)) fail_msg("'%s': %d", rows[i].page, found);
        if (found) assert_string_equal(tn_ip_format(&ip, text), rows[i].ip);
        free(page);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(urls), cmocka_unit_test(addresses)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
