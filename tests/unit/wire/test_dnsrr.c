#include "wire/dnsrr.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

/* A message under construction in the test: bytes by hand. */
static uint8_t msg[4096];
static size_t msg_len;

static void put(const void *bytes, size_t n)
{
    memcpy(msg + msg_len, bytes, n);
    msg_len += n;
}
#define PUT(literal) put(literal, sizeof(literal) - 1)

static void begin(unsigned answers, unsigned authority, unsigned additional)
{
    msg_len = 0;
    PUT("\0\0\x81\x80\0\1");
    uint8_t counts[] = {0, (uint8_t)answers, 0, (uint8_t)authority, 0, (uint8_t)additional};
    put(counts, sizeof counts);
    PUT("\3Www\7example\0\0\1\0\1"); /* at 12; "example" at 16 */
}

static long rewrite(uint8_t *out, size_t cap)
{
    struct tn_dnsmsg m;
    struct tn_dnsput p;
    struct tn_dnsrr rr;
    int more;
    assert_int_equal(tn_dnsmsg_parse(msg, msg_len, &m), 0);
    tn_dnsput_begin(&p, out, cap, m.id, m.flags, &m);
    struct tn_dnsrr_iter it = tn_dnsrr_begin(&m, msg, msg_len);
    while ((more = tn_dnsrr_next(&it, &rr)) == 1)
        if (tn_dnsput_rr(&p, msg, msg_len, &rr) != 0) return TN_E_MALFORMED;
    return more < 0 ? more : tn_dnsput_end(&p);
}

static void names_end(void **state)
{
    static const uint8_t loop[] = "\1a\xc0\0", self[] = "\xc0\0", forward[] = "\1a\xc0\4\1b", good[] = "\1b\0\1a\xc0\0";
    uint8_t out[TN_DNSMSG_NAME_MAX];
    size_t end;
    assert_int_equal(tn_dnsname_expand(loop, 4, 0, out, &end), TN_E_MALFORMED);
    assert_int_equal(tn_dnsname_expand(self, 2, 0, out, &end), TN_E_MALFORMED);
    assert_int_equal(tn_dnsname_expand(forward, 7, 0, out, &end), TN_E_MALFORMED);
    assert_int_equal(tn_dnsname_expand(good, 7, 3, out, &end), 5);
    assert_int_equal(end, 7);
    assert_memory_equal(out, "\1a\1b\0", 5);
    for (size_t n = 0; n < 7; n++) assert_int_equal(tn_dnsname_expand(good, n, 3, out, &end), TN_E_MALFORMED);
    assert_int_equal(tn_dnsname_expand((const uint8_t *)"\x40", 1, 0, out, &end), TN_E_MALFORMED);
    /* 255 bytes are the most, however they are reached. */
    uint8_t big[300] = {0};
    for (int i = 0; i < 4; i++) big[64 * i] = 63;
    big[192] = 61;
    assert_int_equal(tn_dnsname_expand(big, sizeof big, 0, out, &end), 255);
    big[192] = 62;
    assert_int_equal(tn_dnsname_expand(big, sizeof big, 0, out, &end), TN_E_MALFORMED);
}

static void compressed_names_move_along(void **state)
{
    uint8_t out[4096], again[4096];
    begin(3, 1, 1);
    PUT("\xc0\x0c\0\5\0\1\0\0\0\x3c\0\6\3cdn\xc0\x10");             /* CNAME cdn.example, written at 41 */
    PUT("\3cdn\7EXAMPLE\0\0\1\0\1\0\0\0\x3c\0\4\x2d\x2d\x2d\x2d"); /* spelled in full */
    PUT("\xc0\x29\0\x0f\0\1\0\0\0\x3c\0\7\0\5\2mx\xc0\x29");        /* MX 5 mx.cdn.example */
    PUT("\xc0\x10\0\6\0\1\0\0\0\x3c\0\x1d\2ns\xc0\x10\1h\xc0\x10" "\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0\4\0\0\0\5");
    PUT("\0\0\x29\x10\0\0\0\0\0\0\0"); /* OPT */
    long n = rewrite(out, sizeof out);
    assert_true(n > 0 && (size_t)n < msg_len); /* the full spelling is compressed now */
    memcpy(msg, out, (size_t)n);
    msg_len = (size_t)n;
    assert_int_equal(rewrite(again, sizeof again), n); /* nothing more to gain */
    assert_memory_equal(again, out, (size_t)n);
    for (size_t cap = 0; cap < (size_t)n; cap++) { /* no room: told, nothing written beyond */
        uint8_t *small = malloc(cap ? cap : 1);
        assert_non_null(small);
        assert_int_equal(rewrite(small, cap), TN_E_NOSPC);
        free(small);
    }
    for (size_t cut = 29; cut < msg_len; cut++) { /* cut anywhere behind the question: malformed */
        size_t whole = msg_len;
        uint8_t *part = malloc(cut);
        struct tn_dnsmsg m;
        struct tn_dnsrr rr;
        assert_non_null(part);
        memcpy(part, msg, cut);
        assert_int_equal(tn_dnsmsg_parse(part, cut, &m), 0);
        struct tn_dnsrr_iter it = tn_dnsrr_begin(&m, part, cut);
        int more;
        while ((more = tn_dnsrr_next(&it, &rr)) == 1) {}
        assert_int_equal(more, TN_E_MALFORMED);
        free(part);
        msg_len = whole;
    }
}

static void data_must_be_what_the_type_says(void **state)
{
    uint8_t out[4096];
    begin(1, 0, 0);
    PUT("\xc0\x0c\0\5\0\1\0\0\0\x3c\0\7\3cdn\xc0\x10\0"); /* CNAME with a byte too many */
    assert_int_equal(rewrite(out, sizeof out), TN_E_MALFORMED);
    begin(1, 0, 0);
    PUT("\xc0\x0c\0\5\0\1\0\0\0\x3c\0\4\3cdn"); /* its name goes on behind its data */
    PUT("\0\0\0\0");
    assert_int_equal(rewrite(out, sizeof out), TN_E_MALFORMED);
    begin(1, 0, 0);
    PUT("\xc0\x0c\0\x0f\0\1\0\0\0\x3c\0\1\0"); /* MX of one byte */
    assert_int_equal(rewrite(out, sizeof out), TN_E_MALFORMED);
    begin(1, 0, 0);
    PUT("\xc0\x0c\0\x63\0\1\0\0\0\x3c\0\2\xc0\x10"); /* an unknown type is copied as it is */
    assert_int_equal(rewrite(out, sizeof out), msg_len);
    assert_memory_equal(out, msg, msg_len);
}

static long svcb(const void *data, size_t len, bool no_udp, bool no_ipv6, uint8_t *out)
{
    uint8_t *copy = malloc(len);
    assert_non_null(copy);
    memcpy(copy, data, len);
    long n = tn_dnssvcb_adjust(copy, len, no_udp, no_ipv6, out);
    free(copy);
    return n;
}
#define SVCB(literal, udp, v6) svcb(literal, sizeof(literal) - 1, udp, v6, out)

static void bindings_lose_what_does_not_work(void **state)
{
    uint8_t out[512];
    static const char full[] = "\0\1\0" "\0\1\0\x0c\2h3\5h3-29\2h2" "\0\4\0\4\x2d\x2d\x2d\x2d" "\0\6\0\x10" "0123456789abcdef";
    assert_int_equal(SVCB(full, false, false), sizeof full - 1);
    assert_memory_equal(out, full, sizeof full - 1);
    static const char no_udp[] = "\0\1\0" "\0\1\0\3\2h2" "\0\4\0\4\x2d\x2d\x2d\x2d" "\0\6\0\x10" "0123456789abcdef";
    assert_int_equal(SVCB(full, true, false), sizeof no_udp - 1);
    assert_memory_equal(out, no_udp, sizeof no_udp - 1);
    static const char neither[] = "\0\1\0" "\0\1\0\3\2h2" "\0\4\0\4\x2d\x2d\x2d\x2d";
    assert_int_equal(SVCB(full, true, true), sizeof neither - 1);
    assert_memory_equal(out, neither, sizeof neither - 1);
    /* h3 alone: the default protocol remains, unless it is ruled out. */
    assert_int_equal(SVCB("\0\1\0" "\0\1\0\3\2h3", true, false), 3);
    assert_int_equal(SVCB("\0\1\0" "\0\1\0\3\2h3" "\0\2\0\0", true, false), 0);
    assert_int_equal(SVCB("\0\1\0" "\0\0\0\2\0\1" "\0\1\0\3\2h3", true, false), 0); /* mandatory */
    assert_int_equal(SVCB("\0\1\0" "\0\0\0\2\0\6" "\0\6\0\x10" "0123456789abcdef", false, true), 0);
    assert_int_equal(SVCB("\0\0\1a\0", true, true), 5);                             /* an alias */
    assert_int_equal(SVCB("\0\1\0" "\0\1\0\4\3http", true, false), TN_E_MALFORMED);
    assert_int_equal(SVCB("\0\1\0" "\0\1\0\1\0", true, false), TN_E_MALFORMED);
    assert_int_equal(SVCB("\0\1\xc0\0", true, false), TN_E_MALFORMED);
    for (size_t n = 0; n < sizeof full - 1; n++)
        if (n != 3 && n != 19 && n != 27) assert_int_equal(svcb(full, n ? n : 1, true, true, out), TN_E_MALFORMED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_end), cmocka_unit_test(compressed_names_move_along),
        cmocka_unit_test(data_must_be_what_the_type_says), cmocka_unit_test(bindings_lose_what_does_not_work)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
