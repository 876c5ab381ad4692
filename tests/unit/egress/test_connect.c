/* The HTTP CONNECT engine: its request, answers cut at every byte, limits and lies. */
#include "egress/connect.c"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static const struct tn_addrport dst4 = {{4, {45, 45, 45, 45}}, 443};
static const struct tn_addrport dst6 = {{6, {0x2a, 0, 0, 0x45, [15] = 1}}, 80};

static struct tn_proxy make_proxy(const char *user, const char *pass)
{
    struct tn_proxy p = {.scheme = TN_PROXY_HTTP, .host = "h", .port = 1, .has_auth = user != NULL};
    if (user) {
        p.user = tn_secret_new(user, strlen(user));
        p.pass = tn_secret_new(pass, strlen(pass));
    }
    return p;
}

static void check_request(const char *user, const char *pass, const struct tn_addrport *dst, const char *want)
{
    struct tn_proxy p = make_proxy(user, pass);
    struct tn_httpconnect *h = tn_httpconnect_new(&p, dst, NULL);
    size_t n;
    const uint8_t *out = tn_httpconnect_output(h, &n);
    assert_int_equal(n, strlen(want));
    assert_memory_equal(out, want, n);
    tn_httpconnect_sent(h, 7);
    assert_ptr_equal(tn_httpconnect_output(h, &n), out + 7);
    tn_httpconnect_sent(h, n);
    tn_httpconnect_output(h, &n);
    assert_int_equal(n, 0);
    assert_null(h->out); /* freed, and with it the credentials */
    tn_httpconnect_free(h);
    tn_secret_free(p.user);
    tn_secret_free(p.pass);
}

static void test_request(void **state)
{
    check_request(NULL, NULL, &dst4, "CONNECT 45.45.45.45:443 HTTP/1.1\r\nHost: 45.45.45.45:443\r\n\r\n");
    check_request(NULL, NULL, &dst6, "CONNECT [2a00:45::1]:80 HTTP/1.1\r\nHost: [2a00:45::1]:80\r\n\r\n");
    check_request("Aladdin", "open sesame", &dst4,
                  "CONNECT 45.45.45.45:443 HTTP/1.1\r\nHost: 45.45.45.45:443\r\n"
                  "Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n");
    check_request("", "", &dst4,
                  "CONNECT 45.45.45.45:443 HTTP/1.1\r\nHost: 45.45.45.45:443\r\nProxy-Authorization: Basic Og==\r\n\r\n");
}

/* What a probe asks, and what it makes of the answers. */
static void test_probe(void **state)
{
    static const struct {
        const char *answer;
        int r;
    } rows[] = {{"HTTP/1.1 200 OK\r\n\r\n", TN_HANDSHAKE_DONE},
                {"HTTP/1.1 501 Not Implemented\r\n\r\n<html>", TN_HANDSHAKE_DONE},
                {"HTTP/1.0 400 Bad Request\r\n\r\n", TN_HANDSHAKE_DONE},
                {"HTTP/1.1 503\r\n\r\n", TN_HANDSHAKE_DONE},
                {"HTTP/1.1 302 Found\r\nLocation: http://x/\r\n\r\n", TN_HANDSHAKE_DONE},
                {"HTTP/1.1 100 Continue\r\n\r\n", TN_HANDSHAKE_MORE},
                {"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", TN_EGRESS_FAIL_PROXY_AUTH},
                {"HTTP/1.0 401 Unauthorized\r\n\r\n", TN_EGRESS_FAIL_PROXY_AUTH},
                {"HTTP/1.1 101 Switching\r\n\r\n", TN_EGRESS_FAIL_PROXY_PROTOCOL},
                {"SSH-2.0-x\r\n", TN_EGRESS_FAIL_PROXY_PROTOCOL}};
    static const char *const hosts[][2] = {{"proxy.example", "proxy.example:3128"}, {"2001:db8::1", "[2001:db8::1]:3128"}};
    struct tn_proxy p = make_proxy("ann", "b");
    char want[300];
    size_t n, used;
    p.port = 3128;
    for (size_t i = 0; i < 2; i++) {
        strcpy(p.host, hosts[i][0]);
        struct tn_httpconnect *h = tn_httpconnect_new(&p, NULL, NULL);
        snprintf(want, sizeof want, "OPTIONS * HTTP/1.1\r\nHost: %s\r\nMax-Forwards: 0\r\nConnection: close\r\n"
                 "Proxy-Authorization: Basic YW5uOmI=\r\n\r\n", hosts[i][1]);
        const uint8_t *out = tn_httpconnect_output(h, &n);
        assert_int_equal(n, strlen(want));
        assert_memory_equal(out, want, n);
        tn_httpconnect_free(h);
    }
    memset(p.host, 'x', 253);
    p.host[253] = '\0';
    p.port = 65535;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tn_httpconnect *h = tn_httpconnect_new(&p, NULL, NULL);
        const uint8_t *out = tn_httpconnect_output(h, &n);
        assert_non_null(memmem(out, n, "xx:65535\r\n", 10));
        tn_httpconnect_sent(h, n);
        assert_int_equal(tn_httpconnect_input(h, (const uint8_t *)rows[i].answer, strlen(rows[i].answer), &used), rows[i].r);
        tn_httpconnect_free(h);
    }
    tn_secret_free(p.user);
    tn_secret_free(p.pass);
}

static void test_longest_credentials(void **state)
{
    static char text[1025];
    memset(text, 'x', 1024);
    struct tn_proxy p = make_proxy(text, text);
    struct tn_httpconnect *h = tn_httpconnect_new(&p, &dst6, NULL);
    size_t n;
    tn_httpconnect_output(h, &n);
    assert_true(n > 2700 && n < 3000);
    tn_httpconnect_free(h);
    tn_secret_free(p.user);
    tn_secret_free(p.pass);
}

static struct tn_httpconnect *requested(void)
{
    struct tn_proxy p = make_proxy(NULL, NULL);
    struct tn_httpconnect *h = tn_httpconnect_new(&p, &dst4, NULL);
    size_t n;
    tn_httpconnect_output(h, &n);
    tn_httpconnect_sent(h, n);
    return h;
}

/* In two pieces, each a heap block of its own size. */
static int feed(struct tn_httpconnect *h, const char *bytes, size_t len, size_t cut, size_t *left)
{
    size_t used, at = 0;
    int r = TN_HANDSHAKE_MORE;
    for (size_t part = 0; part < 2 && r == TN_HANDSHAKE_MORE; part++) {
        size_t n = part == 0 ? cut : len - at;
        uint8_t *exact = malloc(n ? n : 1);
        memcpy(exact, bytes + at, n);
        r = tn_httpconnect_input(h, exact, n, &used);
        free(exact);
        if (r == TN_HANDSHAKE_MORE) assert_int_equal(used, n);
        at += used;
    }
    *left = len - at;
    return r;
}

struct answer {
    const char *text;
    int want;
    size_t tunnel; /* bytes at the end that are the tunnel's */
};

static const struct answer answers[] = {
    {"HTTP/1.1 200 Connection established\r\n\r\n", TN_HANDSHAKE_DONE, 0},
    {"HTTP/1.1 200 OK\r\nA: b\r\n\r\nearly", TN_HANDSHAKE_DONE, 5},
    {"HTTP/1.0 200 OK\r\n\r\n\r\n", TN_HANDSHAKE_DONE, 2},
    {"HTTP/1.1 200\r\n\r\n", TN_HANDSHAKE_DONE, 0},
    {"HTTP/1.1 200 \r\n\r\n", TN_HANDSHAKE_DONE, 0},
    {"HTTP/1.1 299 Odd\r\n\r\nx", TN_HANDSHAKE_DONE, 1},
    {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\nHTTP/1.1 407 no\r\n\r\n",
     TN_HANDSHAKE_DONE, 19},
    {"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc", TN_HANDSHAKE_DONE, 3},
    {"HTTP/1.1 200 OK\n\nearly", TN_HANDSHAKE_DONE, 5},
    {"HTTP/1.1 200 OK\nA: b\r\n\n", TN_HANDSHAKE_DONE, 0},
    {"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n", TN_EGRESS_FAIL_PROXY_AUTH, 0},
    {"HTTP/1.1 403 Forbidden\r\n\r\n", TN_EGRESS_FAIL_PROXY_REFUSED, 0},
    {"HTTP/1.1 302 Found\r\nLocation: http://evil/\r\n\r\n", TN_EGRESS_FAIL_PROXY_REFUSED, 0},
    {"HTTP/1.1 500 Unable to connect\r\n\r\n", TN_EGRESS_FAIL_UNREACHABLE, 0},
    {"HTTP/1.1 502 Bad Gateway\r\n\r\n", TN_EGRESS_FAIL_UNREACHABLE, 0},
    {"HTTP/1.1 503 Service Unavailable\r\n\r\n", TN_EGRESS_FAIL_UNREACHABLE, 0},
    {"HTTP/1.1 504 Gateway Timeout\r\n\r\n", TN_EGRESS_FAIL_TIMEOUT, 0},
    {"HTTP/1.1 101 Switching Protocols\r\n\r\n", TN_EGRESS_FAIL_PROXY_PROTOCOL, 0},
    {"HTTP/1.1 999 What\r\n\r\n", TN_EGRESS_FAIL_PROXY_PROTOCOL, 0},
    {"HTTP/1.1 099 What\r\n\r\n", TN_EGRESS_FAIL_PROXY_PROTOCOL, 0},
    {"HTTP/1.1 20 OK\r\n\r\n", TN_EGRESS_FAIL_PROXY_PROTOCOL, 0},
    {"HTTP/1.1 2000 OK\r\n\r\n", TN_EGRESS_FAIL_PROXY_PROTOCOL, 0},
    {"HTTP/2 200 OK\r\n\r\n", TN_EGRESS_FAIL_PROXY_PROTOCOL, 0},
    {"HTTP/1.1  200 OK\r\n\r\n", TN_EGRESS_FAIL_PROXY_PROTOCOL, 0},
    {"garbage with 200 in it\r\n\r\n", TN_EGRESS_FAIL_PROXY_PROTOCOL, 0},
    {"\r\nHTTP/1.1 200 OK\r\n\r\n", TN_EGRESS_FAIL_PROXY_PROTOCOL, 0},
    {"SSH-2.0-OpenSSH\r\n", TN_EGRESS_FAIL_PROXY_PROTOCOL, 0},
    {"\x05\xff", TN_EGRESS_FAIL_PROXY_PROTOCOL, 0},
    {"HTTP/1.1 200 \x1b[31m\r\n\r\n", TN_EGRESS_FAIL_PROXY_PROTOCOL, 0},
    {"HTTP/1.1 200 OK\r\nA b\r\n\r\n", TN_EGRESS_FAIL_PROXY_PROTOCOL, 0},
    {"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n", TN_EGRESS_FAIL_PROXY_PROTOCOL, 0},
};

static void test_answers_at_every_cut(void **state)
{
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        const struct answer *a = &answers[i];
        size_t len = strlen(a->text), left;
        for (size_t cut = 0; cut <= len; cut++) {
            struct tn_httpconnect *h = requested();
            int r = feed(h, a->text, len, cut, &left);
            if (r != a->want || (r == TN_HANDSHAKE_DONE && left != a->tunnel))
                fail_msg("cut %zu of %s: %d, %zu left", cut, a->text, r, left);
            tn_httpconnect_free(h);
        }
        for (size_t n = 0; a->want == TN_HANDSHAKE_DONE && n < len - a->tunnel; n++) {
            struct tn_httpconnect *h = requested();
            assert_int_equal(feed(h, a->text, n, 0, &left), TN_HANDSHAKE_MORE);
            tn_httpconnect_free(h);
        }
    }
}

static void test_nul_in_reason(void **state)
{
    static const char text[] = "HTTP/1.1 200 O\0K\r\n\r\n";
    struct tn_httpconnect *h = requested();
    size_t left;
    assert_int_equal(feed(h, text, sizeof text - 1, 0, &left), TN_EGRESS_FAIL_PROXY_PROTOCOL);
    tn_httpconnect_free(h);
}

/* A 200 head of exactly n bytes. */
static char *head_of(size_t n)
{
    static const char start[] = "HTTP/1.1 200 OK\r\nX: ", end[] = "\r\n\r\n";
    char *head = malloc(n + 1);
    memset(head, 'a', n);
    memcpy(head, start, sizeof start - 1);
    memcpy(head + n - 4, end, 5);
    return head;
}

static int feed_head(struct tn_httpconnect *h, size_t n, size_t step)
{
    char *head = head_of(n);
    int r = TN_HANDSHAKE_MORE;
    for (size_t at = 0, used; at < n && r == TN_HANDSHAKE_MORE; at += used) {
        size_t take = n - at < step ? n - at : step;
        r = tn_httpconnect_input(h, (const uint8_t *)head + at, take, &used);
        if (used == 0) break;
    }
    free(head);
    return r;
}

static void test_head_limit(void **state)
{
    static const size_t steps[] = {8193, 4096, 1000, 1};
    for (size_t i = 0; i < 4; i++) {
        struct tn_httpconnect *h = requested();
        assert_int_equal(feed_head(h, HEAD_MAX, steps[i]), TN_HANDSHAKE_DONE);
        tn_httpconnect_free(h);
        h = requested();
        assert_int_equal(feed_head(h, HEAD_MAX + 1, steps[i]), TN_EGRESS_FAIL_PROXY_PROTOCOL);
        tn_httpconnect_free(h);
    }
}

static void test_interim_shares_the_limit(void **state)
{
    static const char interim[] = "HTTP/1.1 100 \r\n\r\n";
    struct tn_httpconnect *h = requested();
    size_t used;
    assert_int_equal(tn_httpconnect_input(h, (const uint8_t *)interim, sizeof interim - 1, &used), TN_HANDSHAKE_MORE);
    assert_int_equal(feed_head(h, HEAD_MAX - (sizeof interim - 1), 4096), TN_HANDSHAKE_DONE);
    tn_httpconnect_free(h);
    h = requested();
    assert_int_equal(tn_httpconnect_input(h, (const uint8_t *)interim, sizeof interim - 1, &used), TN_HANDSHAKE_MORE);
    assert_int_equal(feed_head(h, HEAD_MAX - (sizeof interim - 1) + 1, 4096), TN_EGRESS_FAIL_PROXY_PROTOCOL);
    tn_httpconnect_free(h);
}

/* Repeats a piece without end; it must be over after at most 8 KiB. */
static void endless(const char *first, const char *piece)
{
    struct tn_httpconnect *h = requested();
    size_t sent = strlen(first), used;
    int r = tn_httpconnect_input(h, (const uint8_t *)first, sent, &used);
    while (r == TN_HANDSHAKE_MORE) {
        assert_true(sent <= HEAD_MAX);
        r = tn_httpconnect_input(h, (const uint8_t *)piece, strlen(piece), &used);
        sent += strlen(piece);
    }
    assert_int_equal(r, TN_EGRESS_FAIL_PROXY_PROTOCOL);
    tn_httpconnect_free(h);
}

static void test_endless(void **state)
{
    endless("HTTP/1.1 200 OK\r\n", "a:b\r\n");
    endless("HTTP/1.1 200 OK\r\n", "a");
    endless("HTTP/1.1 200 ", "a");
    endless("", "HTTP/1.1 100 Continue\r\n\r\n");
    endless("", "HTTP/1.1 199\n\n");
}

static void test_answer_before_request(void **state)
{
    struct tn_proxy p = make_proxy(NULL, NULL);
    struct tn_httpconnect *h = tn_httpconnect_new(&p, &dst4, NULL);
    size_t left;
    assert_int_equal(feed(h, "HTTP/1.1 200 OK\r\n\r\n", 19, 0, &left), TN_EGRESS_FAIL_PROXY_PROTOCOL);
    tn_httpconnect_free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_request),        cmocka_unit_test(test_probe), cmocka_unit_test(test_longest_credentials),
        cmocka_unit_test(test_answers_at_every_cut), cmocka_unit_test(test_nul_in_reason),
        cmocka_unit_test(test_head_limit),     cmocka_unit_test(test_interim_shares_the_limit),
        cmocka_unit_test(test_endless),        cmocka_unit_test(test_answer_before_request),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
