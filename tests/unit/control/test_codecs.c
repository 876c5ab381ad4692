/* The small codecs: URLs, times, bounded JSON, map frames. */
#include "control/cjson.c"
#include "control/mapframe.c"
#include "control/weburl.c"
#include "control/when.c"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

static void test_urls(void **state)
{
    static const struct { const char *text; bool tls; const char *host; uint16_t port; const char *authority,
        *path; } good[] = {
        {"http://h", false, "h", 80, "h", "/"},
        {"https://H.Example/", true, "h.example", 443, "h.example", "/"},
        {"HTTPS://h:8443/a?b=c#d", true, "h", 8443, "h:8443", "/a?b=c"},
        {"http://h?x", false, "h", 80, "h", "/?x"},
        {"http://h#x", false, "h", 80, "h", "/"},
        {"http://h:/x", false, "h", 80, "h", "/x"},
        {"http://[::1]:80/x", false, "::1", 80, "[::1]:80", "/x"},
        {"https://[2001:DB8::1]", true, "2001:db8::1", 443, "[2001:db8::1]", "/"},
        {"http://1.2.3.4:65535", false, "1.2.3.4", 65535, "1.2.3.4:65535", "/"},
    };
    static const char *const bad[] = {"", "h", "http:/h", "http://", "http:///x", "ftp://h", "http://h:x",
        "http://h:0", "http://h:65536",
        "http://h:000080", "http://a@h", "http://h\r\nX: y", "http://h/\x80", "http://h x", "http://[::1",
            "http://[::1]x", "http://[1.2.3.4]",
        "http://[h]", "http://h%41", "http://a,b", "http://:80"};
    struct tn_weburl u;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(tn_weburl_parse(good[i].text, &u), 0);
        assert_int_equal(u.tls, good[i].tls);
        assert_string_equal(u.host, good[i].host);
        assert_int_equal(u.port, good[i].port);
        assert_string_equal(u.authority, good[i].authority);
        assert_string_equal(u.path, good[i].path);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (tn_weburl_parse(bad[i], &u) != TN_E_INVAL) fail_msg("accepted: %s", bad[i]);
    char longest[4000];
    memset(longest, 'a', sizeof longest);
    memcpy(longest, "http://", 7);
    longest[7 + 255] = '\0';
    assert_int_equal(tn_weburl_parse(longest, &u), 0);
    longest[7 + 255] = 'a';
    longest[7 + 256] = '\0';
    assert_int_equal(tn_weburl_parse(longest, &u), TN_E_TOOBIG);
    memset(longest, 'a', sizeof longest);
    memcpy(longest, "http://h/", 9);
    longest[8 + 2048] = '\0';
    assert_int_equal(tn_weburl_parse(longest, &u), TN_E_TOOBIG);
    longest[8 + 2047] = '\0';
    assert_int_equal(tn_weburl_parse(longest, &u), 0);
}

static void test_redirects(void **state)
{
    struct tn_weburl a, b;
    tn_weburl_parse("https://h:1/x?y", &a);
    assert_int_equal(tn_weburl_redirect(&a, "/z", &b), 0);
    assert_string_equal(b.authority, "h:1");
    assert_string_equal(b.path, "/z");
    assert_int_equal(tn_weburl_redirect(&a, "https://k/q", &b), 0);
    assert_string_equal(b.host, "k");
    assert_int_equal(tn_weburl_redirect(&a, "http://h/x", &b), TN_E_POLICY);
    assert_int_equal(tn_weburl_redirect(&a, "//k/x", &b), TN_E_INVAL);
    assert_int_equal(tn_weburl_redirect(&a, "z", &b), TN_E_INVAL);
    tn_weburl_parse("http://h", &a);
    assert_int_equal(tn_weburl_redirect(&a, "https://h/", &b), 0);
}

static void test_private_hosts(void **state)
{
    static const struct { const char *url; bool private; } rows[] = {
        {"http://localhost", true}, {"http://127.9.9.9", true}, {"http://10.0.0.1", true}, {"http://192.168.1.1",
            true},
        {"http://172.16.0.1", true}, {"http://172.32.0.1", false}, {"http://[::1]", true}, {"http://[fd00::1]", true},
        {"http://8.8.8.8", false}, {"http://localhost.example", false}, {"http://[2001:db8::1]", false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tn_weburl u;
        assert_int_equal(tn_weburl_parse(rows[i].url, &u), 0);
        assert_int_equal(tn_weburl_private_host(&u), rows[i].private);
    }
}

static void test_times(void **state)
{
    static const struct { const char *text; int64_t at; } good[] = {
        {"1970-01-01T00:00:00Z", 0}, {"2024-02-29T12:34:56Z", 1709210096}, {"2024-02-29T12:34:56.789012345Z",
            1709210096},
        {"2024-02-29T13:34:56+01:00", 1709210096}, {"2024-02-29T04:04:56-08:30", 1709210096},
            {"0001-01-01T00:00:00Z", 0},
        {"1969-12-31T23:59:59Z", -1}, {"9999-12-31T23:59:59Z", 253402300799},
    };
    static const char *const bad[] = {"", "2024", "2024-02-29", "2024-02-29T12:34:56", "2024-02-29 12:34:56Z",
        "2024-13-29T12:34:56Z",
        "2024-02-29T24:34:56Z", "2024-02-29T12:34:56Zx", "2024-02-29T12:34:56.Z", "2024-02-29T12:34:56+1:00",
            "2024-02-29T12:34:56+01:00x",
        "20x4-02-29T12:34:56Z", "-024-02-29T12:34:56Z", "2024-00-29T12:34:56Z", "2024-02-29T12:34:56+24:00"};
    int64_t at;
    char text[TN_WHEN_STRLEN];
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(tn_when_parse(good[i].text, &at), 0);
        assert_int_equal(at, good[i].at);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_int_equal(tn_when_parse(bad[i], &at),
        TN_E_MALFORMED);
    assert_string_equal(tn_when_format(1709210096, text), "2024-02-29T12:34:56Z");
    assert_string_equal(tn_when_format(123, text), "1970-01-01T00:02:03Z");
    assert_string_equal(tn_when_format(0, text), "0001-01-01T00:00:00Z");
    for (int64_t day = 1; day < 40000; day += 13) { /* both directions agree */
        int64_t want = day * 86400 + day % 86400;
        assert_int_equal(tn_when_parse(tn_when_format(want, text), &at), 0);
        assert_int_equal(at, want);
    }
    assert_int_equal(tn_when_parse_http("Sun, 06 Nov 1994 08:49:37 GMT", &at), 0);
    assert_int_equal(at, 784111777);
    static const char *const bad_http[] = {"", "Sun, 06 Nov 1994 08:49:37", "Sun, 06 Xxx 1994 08:49:37 GMT",
        "06 Nov 1994 08:49:37 GMT",
        "Sun, 6 Nov 1994 08:49:37 GMT ", "Sun, 06 Nov 1994 08:49:37 UTC"};
    for (size_t i = 0; i < sizeof bad_http / sizeof *bad_http; i++)
        assert_int_equal(tn_when_parse_http(bad_http[i], &at), TN_E_MALFORMED);
}

static int parse(const char *text, size_t max_cost)
{
    json_t *value = NULL;
    int err = tn_cjson_parse(text, strlen(text), max_cost, &value);
    json_decref(value);
    return err;
}

static void test_json_bounds(void **state)
{
    char deep[3 * TN_CJSON_DEPTH];
    for (unsigned depth = TN_CJSON_DEPTH - 1; depth <= TN_CJSON_DEPTH + 1; depth++) {
        memset(deep, '[', depth);
        memset(deep + depth, ']', depth);
        deep[2 * depth] = '\0';
        assert_int_equal(parse(deep, 1 << 20), depth <= TN_CJSON_DEPTH ? 0 : TN_E_TOOBIG);
    }
    /* Brackets inside strings, also behind escapes, are no nesting. */
    static char quoted[3000];
    strcpy(quoted, "{\"a\":\"\\\"");
    memset(quoted + strlen(quoted), '[', 2000);
    strcat(quoted, "\\\\\"}");
    assert_int_equal(parse(quoted, 1 << 20), 0);
    assert_int_equal(parse("[{},{},{}]", 3 * COST_OBJECT), TN_E_TOOBIG);
    assert_int_equal(parse("[{},{},{}]", 4 * COST_OBJECT), 0);
    assert_int_equal(parse("[\"\",\"\",\"\"]", 3 * COST_STRING), TN_E_TOOBIG);
    assert_int_equal(parse("1 2", 1000), TN_E_MALFORMED);
    assert_int_equal(parse("", 1000), TN_E_MALFORMED);
    assert_int_equal(parse("{\"a\":1", 1000), TN_E_MALFORMED);
    assert_int_equal(parse("]]]]", 1000), TN_E_MALFORMED);
    assert_int_equal(parse("99999999999999999999", 1000), TN_E_MALFORMED);
}

static void test_json_accessors(void **state)
{
    static const char text[] = "{\"n\":null,\"s\":\"x\",\"nul\":\"a\\u0000b\",\"i\":9007199254740993,\"t\":true,"
        "\"f\":false,\"a\":[],\"o\":{}}";
    json_t *j = NULL;
    assert_int_equal(tn_cjson_parse(text, sizeof text - 1, 1 << 16, &j), 0);
    assert_null(tn_cjson_get(j, "n"));
    assert_null(tn_cjson_get(j, "absent"));
    assert_true(tn_cjson_has_null(j, "n") && !tn_cjson_has_null(j, "absent"));
    assert_string_equal(tn_cjson_string(j, "s"), "x");
    assert_null(tn_cjson_string(j, "nul")); /* would be cut silently */
    assert_null(tn_cjson_string(j, "i"));
    assert_int_equal(tn_cjson_int(j, "i"), 9007199254740993);
    assert_int_equal(tn_cjson_int(j, "s"), 0);
    assert_true(tn_cjson_bool(j, "t") && !tn_cjson_bool(j, "f") && !tn_cjson_bool(j, "s"));
    assert_int_equal(tn_cjson_tristate(j, "t"), 1);
    assert_int_equal(tn_cjson_tristate(j, "f"), 0);
    assert_int_equal(tn_cjson_tristate(j, "n"), -1);
    assert_non_null(tn_cjson_array(j, "a"));
    assert_null(tn_cjson_array(j, "o"));
    assert_null(tn_cjson_object(j, "a"));
    assert_null(tn_cjson_string(NULL, "a"));
    size_t len;
    char *dump = tn_cjson_dump(json_object_get(j, "a"), &len);
    assert_string_equal(dump, "[]");
    assert_int_equal(len, 2);
    free(dump);
    json_decref(j);
}

struct heard {
    unsigned count;
    size_t bytes;
    int fail;
};

static int hear(void *arg, const uint8_t *payload, size_t len)
{
    struct heard *h = arg;
    for (size_t i = 0; i < len; i++) assert_int_equal(payload[i], 'a' + (int)len);
    h->count++;
    h->bytes += len;
    return h->fail;
}

static void test_frames_cut_anywhere(void **state)
{
    static const uint8_t stream[] = "\3\0\0\0ddd\0\0\0\0\5\0\0\0fffff";
    for (size_t a = 0; a < sizeof stream; a++)
        for (size_t b = a; b < sizeof stream; b++) {
            struct tn_mapframe f;
            struct heard h = {0};
            tn_mapframe_init(&f);
            assert_int_equal(tn_mapframe_input(&f, stream, a, hear, &h), 0);
            assert_int_equal(tn_mapframe_input(&f, stream + a, b - a, hear, &h), 0);
            assert_int_equal(tn_mapframe_input(&f, stream + b, sizeof stream - 1 - b, hear, &h), 0);
            assert_int_equal(h.count, 3);
            assert_int_equal(h.bytes, 8);
            assert_null(f.buf.mem); /* nothing is held between messages */
            tn_mapframe_fini(&f);
        }
}

static void test_frame_caps(void **state)
{
    struct tn_mapframe f;
    struct heard h = {.fail = -5};
    tn_mapframe_init(&f);
    /* 64 MiB and one */
    assert_int_equal(tn_mapframe_input(&f, (const uint8_t *)"\1\0\0\4", 4, hear, &h), TN_E_TOOBIG);
    tn_mapframe_fini(&f);
    assert_int_equal(tn_mapframe_input(&f, (const uint8_t *)"\0\0\0\4", 4, hear, &h), 0);
    tn_mapframe_fini(&f);
    assert_int_equal(tn_mapframe_input(&f, (const uint8_t *)"\1\0\0\0b\1\0\0\0b", 10, hear, &h), -5);
    assert_int_equal(h.count, 1);
    tn_mapframe_fini(&f);
}

static int decode_compressed(const void *bytes, size_t len, json_t **out)
{
    struct tn_netmap_message m;
    int err = tn_mapframe_decode(bytes, len, true, &m);
    *out = m.rest;
    if (err) assert_null(*out);
    else assert_true(m.peers.n == 0 && m.changed.n == 0);
    return err;
}

static void test_decode(void **state)
{
    static char text[100000];
    static uint8_t z[200000];
    json_t *j;
    int n = snprintf(text, sizeof text, "{\"a\":\"");
    for (; n < 90000; n++) text[n] = (char)('a' + n % 997 * (n % 997) % 23);
    memcpy(text + n, "\"}", 3);
    size_t len = strlen(text), zlen = ZSTD_compress(z, sizeof z, text, len, 3);
    assert_int_equal(decode_compressed(z, zlen, &j), 0);
    assert_int_equal(json_string_length(json_object_get(j, "a")), len - 8);
    json_decref(j);
    for (size_t cut = 0; cut < zlen; cut += cut < 300 ? 1 : 97) assert_true(decode_compressed(z, cut, &j) < 0);
    for (size_t i = 0; i < 18 && i < zlen; i++) { /* a changed byte is an error or other text, never a crash */
        z[i] ^= 0x40;
        if (decode_compressed(z, zlen, &j) == 0) json_decref(j);
        z[i] ^= 0x40;
    }
    /* Two frames are one text. */
    size_t one = ZSTD_compress(z, sizeof z, "{\"a\":", 5, 1), two = ZSTD_compress(z + one, sizeof z - one, "1}", 2,
        1);
    assert_int_equal(decode_compressed(z, one + two, &j), 0);
    assert_int_equal(json_integer_value(json_object_get(j, "a")), 1);
    json_decref(j);
    assert_int_equal(decode_compressed(z, one, &j), TN_E_MALFORMED);
    assert_int_equal(decode_compressed("", 0, &j), TN_E_MALFORMED);
    struct tn_netmap_message m;
    assert_int_equal(tn_mapframe_decode((const uint8_t *)"[7]", 3, false, &m), 0);
    tn_netmap_message_fini(&m);
}

static void test_window_is_bounded(void **state)
{
    /* A frame header that asks for a window of 2 GiB: refused before anything is allocated. */
    static const uint8_t huge[] = {0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x11, 0, 0, '{', '}'};
    json_t *j;
    assert_int_equal(decode_compressed(huge, sizeof huge, &j), TN_E_MALFORMED);
    static const uint8_t fine[] = {0x28, 0xb5, 0x2f, 0xfd, 0x00, 10 << 3, 0x11, 0, 0, '{', '}'};
    assert_int_equal(decode_compressed(fine, sizeof fine, &j), 0); /* the same with 1 MiB: it was the window */
    json_decref(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_urls),
        cmocka_unit_test(test_redirects),
        cmocka_unit_test(test_private_hosts),
        cmocka_unit_test(test_times),
        cmocka_unit_test(test_json_bounds),
        cmocka_unit_test(test_json_accessors),
        cmocka_unit_test(test_frames_cut_anywhere),
        cmocka_unit_test(test_frame_caps),
        cmocka_unit_test(test_decode),
        cmocka_unit_test(test_window_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
