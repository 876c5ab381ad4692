#include "wire/http1.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

enum { MAX = 16384 };

/* Parses from an exact heap copy, so that a read past the end is seen. */
static long parse(bool response, const char *text, size_t len, size_t max, struct tn_http1_head *h)
{
    static char *kept; /* views of the last parse stay valid until the next one */
    free(kept);
    kept = malloc(len ? len : 1);
    assert_non_null(kept);
    memcpy(kept, text, len);
    long n = response ? tn_http1_parse_response((uint8_t *)kept, len, max, h)
                      : tn_http1_parse_request((uint8_t *)kept, len, max, h);
    if (n <= 0) {
        free(kept);
        kept = NULL;
    }
    return n;
}
static long request(const char *text, struct tn_http1_head *h) { return parse(false, text, strlen(text), MAX, h); }
static long response(const char *text, struct tn_http1_head *h) { return parse(true, text, strlen(text), MAX, h); }

static void view_is(const char *p, size_t len, const char *want)
{
    assert_int_equal(len, strlen(want));
    assert_memory_equal(p, want, len);
}

static void header_is(const struct tn_http1_head *h, const char *name, const char *want)
{
    size_t len = 0;
    const char *v = tn_http1_find(h, name, &len);
    assert_non_null(v);
    view_is(v, len, want);
}

static void requests_parse(void **state)
{
    (void)state;
    struct tn_http1_head h;
    const char *text = "POST /a?b=c HTTP/1.1\r\nHost: x:80\r\nX-Empty:\r\nA:\t b c \t\r\n\r\nbody";
    assert_int_equal(request(text, &h), strlen(text) - 4);
    assert_false(h.is_response);
    assert_int_equal(h.minor, 1);
    view_is(h.method, h.method_len, "POST");
    view_is(h.target, h.target_len, "/a?b=c");
    assert_int_equal(h.nheaders, 3);
    header_is(&h, "host", "x:80");
    header_is(&h, "X-EMPTY", "");
    header_is(&h, "a", "b c");
    assert_null(tn_http1_find(&h, "hos", NULL));
    assert_true(request("\r\n\nGET / HTTP/1.0\nA: b\n\n", &h) > 0);
    assert_int_equal(h.minor, 0);
    request("", &h);
}

static void responses_parse(void **state)
{
    (void)state;
    struct tn_http1_head h;
    assert_true(response("HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\n\r\n\0\1", &h) > 0);
    assert_true(h.is_response);
    assert_int_equal(h.status, 101);
    view_is(h.reason, h.reason_len, "Switching Protocols");
    assert_true(response("HTTP/1.0 200\r\n\r\n", &h) > 0);
    assert_int_equal(h.status, 200);
    assert_int_equal(h.reason_len, 0);
    assert_true(response("HTTP/1.1 407 \r\n\r\n", &h) > 0);
    assert_int_equal(h.reason_len, 0);
    response("", &h);
}

static void truncated_heads_wait(void **state)
{
    (void)state;
    struct tn_http1_head h;
    const char *req = "\r\nGET /x HTTP/1.1\r\nHost: a\r\nB: c\r\n\r\n", *res = "HTTP/1.1 200 OK\r\nA: b\r\n\r\n";
    for (size_t n = 0; n < strlen(req); n++) assert_int_equal(parse(false, req, n, MAX, &h), 0);
    for (size_t n = 0; n < strlen(res); n++) assert_int_equal(parse(true, res, n, MAX, &h), 0);
}

static void malformed_heads_are_errors(void **state)
{
    (void)state;
    static const char *const req[] = {
        "GET / HTTP/2.0\r\n\r\n",
        "GET / HTTP/1.10\r\n\r\n",
        "GET / HTTP/1.\r\n\r\n",
        "GET /\r\n\r\n",
        "GET\r\n\r\n",
        "GET  / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1 \r\n\r\n",
        "GET /a b HTTP/1.1\r\n\r\n",
        " GET / HTTP/1.1\r\n\r\n",
        "G(T / HTTP/1.1\r\n\r\n",
        "GET /\tx HTTP/1.1\r\n\r\n",
        "GET / http/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nA b\r\n\r\n",
        "GET / HTTP/1.1\r\n: b\r\n\r\n",
        "GET / HTTP/1.1\r\nA : b\r\n\r\n",
        "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
        "GET / HTTP/1.1\r\nA: b\rc\r\n\r\n",
        "GET / HTTP/1.1\r\nA: \1\r\n\r\n",
        "GET / HTTP/1.1\r\nA: \x7f\r\n\r\n",
        "GET / HTTP/1.1\r\n A: b\r\n\r\n",
        "\n\n\n\n\nGET / HTTP/1.1\r\n\r\n",
        "\x05\x01",
        "\x16\x03\x01",
        "GET / HTTP/1.1\r\nA\x80: b\r\n\r\n",
    };
    static const char *const res[] = {
        "HTTP/1.1 20 OK\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1 099 OK\r\n\r\n", "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.1 2x0 OK\r\n\r\n", "HTTP/2 200\r\n", "\r\nHTTP/1.1 200 OK\r\n\r\n", "SSH-", "\x05\xff", "X",
        "HTTP/1.x 200 OK\r\n\r\n", "HTTP/1.1\t200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\n\tfold: b\r\n\r\n",
    };
    struct tn_http1_head h;
    for (size_t i = 0; i < sizeof req / sizeof *req; i++)
        if (request(req[i], &h) != TN_E_MALFORMED) fail_msg("request %zu: %s", i, req[i]);
    for (size_t i = 0; i < sizeof res / sizeof *res; i++)
        if (response(res[i], &h) != TN_E_MALFORMED) fail_msg("response %zu: %s", i, res[i]);
    assert_int_equal(parse(false, "GET / HTTP/1.1\r\nA: \0\r\n\r\n", 25, MAX, &h), TN_E_MALFORMED);
}

static void limits_hold(void **state)
{
    (void)state;
    struct tn_http1_head h;
    const char *text = "GET / HTTP/1.1\r\nA: b\r\n\r\n";
    size_t len = strlen(text);
    assert_int_equal(parse(false, text, len, len, &h), len);
    assert_int_equal(parse(false, text, len, len - 1, &h), TN_E_TOOBIG);
    assert_int_equal(parse(false, text, len - 1, len, &h), 0);
    assert_int_equal(parse(false, text, len - 1, len - 1, &h), TN_E_TOOBIG);
    char many[4096] = "GET / HTTP/1.1\r\n";
    for (int i = 0; i < TN_HTTP1_HEADERS_MAX; i++) strcat(many, "A: b\r\n");
    strcat(many, "\r\n");
    assert_int_equal(request(many, &h), strlen(many));
    assert_int_equal(h.nheaders, TN_HTTP1_HEADERS_MAX);
    strcpy(many + strlen(many) - 2, "A: b\r\n\r\n");
    assert_int_equal(request(many, &h), TN_E_TOOBIG);
}

static int64_t length_of(const char *headers)
{
    char text[512];
    struct tn_http1_head h;
    snprintf(text, sizeof text, "GET / HTTP/1.1\r\n%s\r\n", headers);
    assert_true(request(text, &h) > 0);
    int64_t n = tn_http1_content_length(&h);
    request("", &h);
    return n;
}

static void content_lengths(void **state)
{
    (void)state;
    assert_int_equal(length_of(""), -1);
    assert_int_equal(length_of("Content-Length: 0\r\n"), 0);
    assert_int_equal(length_of("content-length: 0012\r\n"), 12);
    assert_int_equal(length_of("Content-Length: 5, 5\r\nContent-Length: 5\r\n"), 5);
    assert_true(length_of("Content-Length: 9223372036854775807\r\n") == INT64_MAX);
    static const char *const bad[] = {"9223372036854775808", "-1", "+1", "", "1 2", "0x10", "5,6", "5,",
                                      "99999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char line[128];
        snprintf(line, sizeof line, "Content-Length: %s\r\n", bad[i]);
        if (length_of(line) != TN_E_MALFORMED) fail_msg("%s", bad[i]);
    }
    assert_int_equal(length_of("Content-Length: 5\r\nContent-Length: 6\r\n"), TN_E_MALFORMED);
}

static void tokens(void **state)
{
    (void)state;
    struct tn_http1_head h;
    assert_true(request("GET / HTTP/1.1\r\nConnection: keep-alive , Upgrade\r\nConnection:x\r\n"
                        "Transfer-Encoding: gzip\r\ntransfer-encoding: Chunked\r\n\r\n", &h) > 0);
    assert_true(tn_http1_has_token(&h, "connection", "upgrade"));
    assert_true(tn_http1_has_token(&h, "connection", "X"));
    assert_false(tn_http1_has_token(&h, "connection", "up"));
    assert_false(tn_http1_has_token(&h, "upgrade", "upgrade"));
    assert_true(tn_http1_is_chunked(&h));
    assert_true(request("GET / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", &h) > 0);
    assert_false(tn_http1_is_chunked(&h));
    request("", &h);
}

/* Feeds in pieces of step bytes; payload to out. The bytes used up to done, or a negative code, or 0 when
 * unfinished. */
static long dechunk_all(const char *text, size_t len, size_t step, char *out, size_t *out_len)
{
    struct tn_http1_chunked c = {0};
    size_t at = 0;
    *out_len = 0;
    while (at < len && !c.done) {
        size_t n = len - at < step ? len - at : step, used = 0;
        uint8_t *exact = malloc(n);
        assert_non_null(exact);
        memcpy(exact, text + at, n);
        while (used < n && !c.done) {
            const uint8_t *data;
            size_t data_len;
            long got = tn_http1_dechunk(&c, exact + used, n - used, &data, &data_len);
            if (got < 0) {
                assert_int_equal(tn_http1_dechunk(&c, (const uint8_t *)"0", 1, &data, &data_len), got);
                free(exact);
                return got;
            }
            assert_true(got > 0);
            if (data_len) memcpy(out + *out_len, data, data_len);
            *out_len += data_len;
            used += (size_t)got;
        }
        free(exact);
        at += used;
    }
    return c.done ? (long)at : 0;
}

static void chunked_bodies(void **state)
{
    (void)state;
    const char *text = "5\r\nhello\r\n06;ext=\"a b\"\r\n world\r\n0\r\nTrailer: x\r\nY: z\r\n\r\nrest";
    size_t len = strlen(text), n;
    char out[64];
    for (size_t step = 1; step <= len; step++) {
        assert_int_equal(dechunk_all(text, len, step, out, &n), len - 4);
        view_is(out, n, "hello world");
    }
    for (size_t cut = 0; cut < len - 4; cut++) assert_int_equal(dechunk_all(text, cut, 7, out, &n), 0);
    assert_int_equal(dechunk_all("0\r\n\r\n", 5, 5, out, &n), 5);
    assert_int_equal(dechunk_all("A \r\n0123456789\r\n0\r\n\r\n", 21, 3, out, &n), 21);
}

static void malformed_chunks(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "\r\n", "g\r\n", ";x\r\n", "-1\r\n", " 5\r\n", "5\n", "5x\r\n", "1\r\nab", "1\r\na\nx", "1\r\na\r0", "5\rx",
        "1000000000000000\r\n", "0\r\n\n", "0\r\n\rx", "0\r\nA: b\n", "0\r\n\1", "5;\1\r\n", "+5\r\n", "0x5\r\n",
    };
    char out[64];
    size_t n;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        for (size_t step = 1; step < 4; step++)
            if (dechunk_all(bad[i], strlen(bad[i]), step, out, &n) != TN_E_MALFORMED) fail_msg("%zu: %s", i, bad[i]);
    static char big[CHUNK_TRAILERS_MAX + 100] = "0\r\n";
    memset(big + 3, 'a', sizeof big - 3);
    assert_int_equal(dechunk_all(big, sizeof big, sizeof big, out, &n), TN_E_MALFORMED);
    big[1] = ';';
    assert_int_equal(dechunk_all(big, 2 + 3, 1, out, &n), TN_E_MALFORMED);
    memset(big, 'a', sizeof big);
    memcpy(big, "1;", 2);
    assert_int_equal(dechunk_all(big, sizeof big, sizeof big, out, &n), TN_E_MALFORMED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_parse),       cmocka_unit_test(responses_parse),
        cmocka_unit_test(truncated_heads_wait), cmocka_unit_test(malformed_heads_are_errors),
        cmocka_unit_test(limits_hold),          cmocka_unit_test(content_lengths),
        cmocka_unit_test(tokens),               cmocka_unit_test(chunked_bodies),
        cmocka_unit_test(malformed_chunks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
