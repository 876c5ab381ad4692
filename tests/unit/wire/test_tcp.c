/* TCP segments, ICMP messages and UDP headers: vectors, round trips, options that lie, truncated prefixes. */
#include "wire/icmp.c"
#include "wire/tcp.c"
#include "wire/udp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

/* Parses a heap copy of exact size, so that a read past the end is seen. */
static int parse(const uint8_t *bytes, size_t len, struct tn_tcp_seg *out)
{
    uint8_t *exact = malloc(len ? len : 1);
    assert_non_null(exact);
    memcpy(exact, bytes, len);
    int err = tn_tcp_seg_parse(exact, len, out);
    free(exact);
    return err;
}

/* A SYN as Linux sends it: MSS 1460, SACK permitted, timestamps, NOP, window scale 7. */
static const uint8_t linux_syn[] = {
    0xc3, 0x50, 0x01, 0xbb, 0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0, 0xa0, 0x02, 0xfa, 0xf0, 0, 0, 0, 0,
    0x02, 0x04, 0x05, 0xb4, 0x04, 0x02, 0x08, 0x0a, 0, 0, 0x10, 0x01, 0, 0, 0, 0, 0x01, 0x03, 0x03, 0x07,
};

static void syn(void **state)
{
    struct tn_tcp_seg s;
    assert_int_equal(parse(linux_syn, sizeof linux_syn, &s), 0);
    assert_true(s.sport == 50000 && s.dport == 443 && s.seq == 0x12345678 && s.flags == TN_TCP_SYN &&
                s.window == 64240);
    assert_true(s.mss == 1460 && s.sack_ok && s.has_wscale && s.wscale == 7 && s.has_ts && s.tsval == 0x1001);
    assert_int_equal(s.len, 0);
    for (size_t n = 0; n < sizeof linux_syn; n++) assert_int_equal(parse(linux_syn, n, &s), TN_E_MALFORMED);
}

static void options_of_a_syn_count_there_alone(void **state)
{
    uint8_t b[sizeof linux_syn];
    memcpy(b, linux_syn, sizeof b);
    b[13] = TN_TCP_ACK;
    struct tn_tcp_seg s;
    assert_int_equal(parse(b, sizeof b, &s), 0);
    assert_true(s.mss == 0 && !s.sack_ok && !s.has_wscale && s.has_ts);
}

static void round_trip(void **state)
{
    struct tn_tcp_seg in = {
        .sport = 1,
        .dport = 65535,
        .seq = 0xfffffff0,
        .ack = 7,
        .flags = TN_TCP_ACK | TN_TCP_PSH,
        .window = 9,
        .has_ts = true,
        .tsval = 11,
        .tsecr = 12,
        .nsack = 4,
        .sack = {{1, 2}, {3, 4}, {5, 6}, {7, 8}},
    };
    uint8_t b[TN_TCP_HDR_MAX + 5] = {0};
    size_t len = tn_tcp_seg_put(b, &in);
    assert_int_equal(len, 60); /* three blocks fit beside timestamps */
    struct tn_tcp_seg out;
    assert_int_equal(parse(b, len + 5, &out), 0);
    assert_true(out.seq == in.seq && out.ack == 7 && out.flags == in.flags && out.window == 9 && out.len == 5);
    assert_true(out.tsval == 11 && out.tsecr == 12 && out.nsack == 3 && out.sack[2].start == 5 &&
                out.sack[2].end == 6);
    in.has_ts = false;
    len = tn_tcp_seg_put(b, &in);
    assert_int_equal(parse(b, len, &out), 0);
    assert_int_equal(out.nsack, 4);
    struct tn_tcp_seg s = {
        .flags = TN_TCP_SYN, .mss = 1240, .sack_ok = true, .has_wscale = true, .wscale = 8, .has_ts = true};
    len = tn_tcp_seg_put(b, &s);
    assert_int_equal(parse(b, len, &out), 0);
    assert_true(out.mss == 1240 && out.sack_ok && out.wscale == 8 && out.has_ts);
}

static int with_options(const uint8_t *options, size_t len, uint8_t flags, struct tn_tcp_seg *out)
{
    uint8_t b[60] = {0, 1, 0, 2};
    b[12] = (uint8_t)((20 + len) / 4 << 4);
    b[13] = flags;
    memcpy(b + 20, options, len);
    return parse(b, 20 + len, out);
}

static void options_that_lie(void **state)
{
    static const uint8_t bad[][8] = {
        {2, 3, 0, 0}, {2, 5, 0, 0, 0}, {2, 4, 1}, {3, 2, 1, 1}, {3, 4, 1, 1}, {4, 3, 1, 1}, {8, 8}, {5, 2, 1, 1},
        {5, 9, 0, 0}, {99, 1, 1, 1}, {99, 0, 1, 1}, {99, 9, 1, 1}, {1, 1, 1, 2}, {1, 1, 1, 99},
    };
    struct tn_tcp_seg s;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        size_t len = i < 8 && i != 1 ? 4 : 8;
        if (bad[i][0] == 1) len = 4;
        if (i == 2) { /* runs over the header */
            uint8_t b[4] = {1, 1, 2, 4};
            assert_int_equal(with_options(b, 4, TN_TCP_SYN, &s), TN_E_MALFORMED);
            continue;
        }
        assert_int_equal(with_options(bad[i], len, TN_TCP_SYN, &s), TN_E_MALFORMED);
    }
    static const uint8_t fine[][8] = {
        {99, 4, 1, 1}, {0, 99, 0, 0}, {1, 1, 1, 1}, {3, 3, 77, 0}, {253, 8, 1, 2, 3, 4, 5, 6}};
    for (size_t i = 0; i < sizeof fine / sizeof fine[0]; i++)
        assert_int_equal(with_options(fine[i], i == 4 ? 8 : 4, TN_TCP_SYN, &s), 0);
    assert_int_equal(with_options(fine[3], 4, TN_TCP_SYN, &s), 0);
    assert_int_equal(s.wscale, 14); /* the largest there is */
    static const uint8_t empty_block[12] = {1, 1, 5, 10, 0, 0, 0, 9, 0, 0, 0, 9};
    assert_int_equal(with_options(empty_block, 12, TN_TCP_ACK, &s), 0);
    assert_int_equal(s.nsack, 0);
}

static void offsets_that_lie(void **state)
{
    uint8_t b[24] = {0};
    struct tn_tcp_seg s;
    for (unsigned words = 0; words < 16; words++) {
        b[12] = (uint8_t)(words << 4);
        assert_int_equal(parse(b, sizeof b, &s), words == 5 || words == 6 ? 0 : TN_E_MALFORMED);
    }
}

static void icmp_kinds(void **state)
{
    struct tn_icmp m;
    for (unsigned family = 4; family <= 6; family += 2)
        for (int k = TN_ICMP_ECHO_REQUEST; k <= TN_ICMP_UNREACH_ADMIN; k++) {
            uint8_t b[8];
            assert_true(tn_icmp_put(b, (uint8_t)family, (enum tn_icmp_kind)k, 3, 4));
            assert_int_equal(tn_icmp_parse((uint8_t)family, b, 8, &m), 0);
            if (family == 4 || k != TN_ICMP_UNREACH_NET) assert_int_equal(m.kind, k);
            assert_int_equal(tn_icmp_parse((uint8_t)family, b, 7, &m), TN_E_MALFORMED);
        }
    uint8_t b[8] = {0};
    assert_false(tn_icmp_put(b, 4, TN_ICMP_OTHER, 0, 0));
    assert_false(tn_icmp_put(b, 4, TN_ICMP_TOO_BIG, 0, 0));
    static const struct {
        uint8_t family, type, code;
        enum tn_icmp_kind kind;
    } known[] = {
        {4, 3, 4, TN_ICMP_TOO_BIG},       {4, 3, 13, TN_ICMP_UNREACH_ADMIN}, {4, 3, 200, TN_ICMP_ERROR_OTHER},
        {4, 11, 0, TN_ICMP_ERROR_OTHER},  {4, 5, 0, TN_ICMP_ERROR_OTHER},    {4, 13, 0, TN_ICMP_OTHER},
        {6, 2, 0, TN_ICMP_TOO_BIG},       {6, 1, 5, TN_ICMP_UNREACH_ADMIN},  {6, 3, 0, TN_ICMP_ERROR_OTHER},
        {6, 100, 0, TN_ICMP_ERROR_OTHER}, {6, 133, 0, TN_ICMP_OTHER},        {6, 8, 0, TN_ICMP_ERROR_OTHER},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        b[0] = known[i].type;
        b[1] = known[i].code;
        assert_int_equal(tn_icmp_parse(known[i].family, b, 8, &m), 0);
        assert_int_equal(m.kind, known[i].kind);
    }
}

static void icmp_quotes(void **state)
{
    uint8_t b[100] = {0x45, 0, 0, 60};
    struct tn_icmp_quote q;
    b[9] = 17;
    memcpy(b + 12, "\x01\x02\x03\x04\x05\x06\x07\x08", 8);
    assert_int_equal(tn_icmp_quote_parse(b, 28, &q), 0);
    assert_true(q.proto == 17 && q.src.b[0] == 1 && q.dst.b[3] == 8 && q.l4 == b + 20 && q.l4_len == 8);
    for (size_t n = 0; n < 28; n++) assert_int_equal(tn_icmp_quote_parse(b, n, &q), TN_E_MALFORMED);
    b[0] = 0x4f; /* 60 bytes of header */
    assert_int_equal(tn_icmp_quote_parse(b, 67, &q), TN_E_MALFORMED);
    assert_int_equal(tn_icmp_quote_parse(b, 68, &q), 0);
    b[0] = 0x44;
    assert_int_equal(tn_icmp_quote_parse(b, 100, &q), TN_E_MALFORMED);
    b[0] = 0x45;
    b[7] = 1; /* a later fragment */
    assert_int_equal(tn_icmp_quote_parse(b, 100, &q), TN_E_MALFORMED);
    memset(b, 0, sizeof b);
    b[0] = 0x60;
    b[6] = 6;
    assert_int_equal(tn_icmp_quote_parse(b, 48, &q), 0);
    assert_true(q.proto == 6 && q.l4 == b + 40);
    for (size_t n = 0; n < 48; n++) assert_int_equal(tn_icmp_quote_parse(b, n, &q), TN_E_MALFORMED);
    b[6] = 44;
    b[40] = 17;
    assert_int_equal(tn_icmp_quote_parse(b, 55, &q), TN_E_MALFORMED);
    assert_int_equal(tn_icmp_quote_parse(b, 56, &q), 0);
    assert_true(q.proto == 17 && q.l4 == b + 48);
    b[43] = 8;
    assert_int_equal(tn_icmp_quote_parse(b, 56, &q), TN_E_MALFORMED);
}

static void udp(void **state)
{
    uint8_t b[12] = {0};
    struct tn_udp_hdr u;
    tn_udp_hdr_put(b, 5, 6, 3);
    assert_int_equal(tn_udp_hdr_parse(b, 12, &u), 0);
    assert_true(u.sport == 5 && u.dport == 6 && u.len == 3 && u.payload == b + 8);
    for (size_t n = 0; n < 11; n++) assert_int_equal(tn_udp_hdr_parse(b, n, &u), TN_E_MALFORMED);
    b[5] = 7;
    assert_int_equal(tn_udp_hdr_parse(b, 12, &u), TN_E_MALFORMED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(syn), cmocka_unit_test(options_of_a_syn_count_there_alone), cmocka_unit_test(round_trip),
        cmocka_unit_test(options_that_lie), cmocka_unit_test(offsets_that_lie), cmocka_unit_test(icmp_kinds),
        cmocka_unit_test(icmp_quotes), cmocka_unit_test(udp),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
