/* The frame bytes were written by tailscale.com v1.102.5 derp.WriteFrame with the key 0x40..0x5f. */
#include "../../../src/wire/derp.c"
#include "util/text.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdlib.h>

#define KEY_HEX "404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f"

static uint8_t key[32];

static int setup(void **state)
{
    return tn_hex_decode(KEY_HEX, key, 32);
}

/* An exact heap block, so that the sanitizer sees a read past its end. */
static uint8_t *exact(const char *hex, size_t *len)
{
    *len = strlen(hex) / 2;
    uint8_t *p = malloc(*len ? *len : 1);
    assert_non_null(p);
    assert_int_equal(tn_hex_decode(hex, p, *len), 0);
    return p;
}

static void expect_bytes(const struct tn_wr *w, const char *hex)
{
    char text[1024];
    assert_true(tn_wr_ok(w));
    assert_true(tn_wr_len(w) * 2 < sizeof text);
    assert_string_equal(tn_hex_encode(w->start, tn_wr_len(w), text), hex);
}

static void test_writes_go_bytes(void **state)
{
    uint8_t buf[256];
    struct tn_wr w = tn_wr_init(buf, sizeof buf);
    tn_derp_server_key_put(&w, key);
    expect_bytes(&w, "010000002844455250f09f9491" KEY_HEX);
    w = tn_wr_init(buf, sizeof buf);
    tn_derp_packet_put(&w, TN_DERP_SEND_PACKET, key, (const uint8_t *)"hello", 5);
    expect_bytes(&w, "0400000025" KEY_HEX "68656c6c6f");
    w = tn_wr_init(buf, sizeof buf);
    tn_derp_packet_put(&w, TN_DERP_RECV_PACKET, key, NULL, 5);
    expect_bytes(&w, "0500000025" KEY_HEX);
    w = tn_wr_init(buf, sizeof buf);
    tn_derp_ping_put(&w, TN_DERP_PING, (const uint8_t *)"12345678");
    expect_bytes(&w, "12000000083132333435363738");
    w = tn_wr_init(buf, sizeof buf);
    tn_derp_client_info_put(&w, key, (const uint8_t *)"\1\2", 2);
    tn_derp_server_info_put(&w, (const uint8_t *)"\3", 1);
    tn_derp_keep_alive_put(&w);
    tn_derp_note_preferred_put(&w, true);
    expect_bytes(&w, "0200000022" KEY_HEX "0102" "030000000103" "0600000000" "070000000101");
    w = tn_wr_init(buf, sizeof buf);
    tn_derp_peer_gone_put(&w, key, TN_DERP_GONE_NOT_HERE);
    tn_derp_health_put(&w, "bad");
    tn_derp_restarting_put(&w, 0x01020304, 5);
    expect_bytes(&w, "0800000021" KEY_HEX "01" "1400000003626164" "15000000080102030400000005");
}

static void test_write_overflow_keeps_canary(void **state)
{
    uint8_t buf[41];
    for (size_t cap = 0; cap < 40; cap++) {
        memset(buf, 0xaa, sizeof buf);
        struct tn_wr w = tn_wr_init(buf, cap);
        tn_derp_packet_put(&w, TN_DERP_SEND_PACKET, key, (const uint8_t *)"abc", 3);
        assert_false(tn_wr_ok(&w));
        for (size_t i = cap; i < sizeof buf; i++) assert_int_equal(buf[i], 0xaa);
    }
}

static void parse_all(const char *hex, struct tn_derp_frame *f, uint8_t **mem)
{
    size_t len;
    *mem = exact(hex, &len);
    assert_int_equal(tn_derp_frame_split(*mem, len, TN_DERP_FRAME_MAX, f), len);
    assert_int_equal(tn_derp_frame_parse(f), 0);
}

static void test_reads_each_type(void **state)
{
    struct tn_derp_frame f;
    uint8_t *mem;
    parse_all("010000002a44455250f09f9491" KEY_HEX "ffff", &f, &mem); /* two future bytes */
    assert_memory_equal(f.key, key, 32);
    free(mem);
    parse_all("0500000025" KEY_HEX "68656c6c6f", &f, &mem);
    assert_memory_equal(f.key, key, 32);
    assert_int_equal(f.data_len, 5);
    assert_memory_equal(f.data, "hello", 5);
    free(mem);
    parse_all("0800000020" KEY_HEX, &f, &mem);
    assert_int_equal(f.reason, TN_DERP_GONE_DISCONNECTED);
    free(mem);
    parse_all("0800000021" KEY_HEX "f0", &f, &mem);
    assert_int_equal(f.reason, 0xf0);
    free(mem);
    parse_all("12000000093132333435363738ff", &f, &mem);
    assert_memory_equal(f.data, "12345678", 8);
    assert_int_equal(f.data_len, 8);
    free(mem);
    parse_all("1400000000", &f, &mem);
    assert_int_equal(f.data_len, 0);
    free(mem);
    parse_all("15000000080000000100000002", &f, &mem);
    assert_int_equal(f.reconnect_in_ms, 1);
    assert_int_equal(f.try_for_ms, 2);
    free(mem);
    parse_all("070000000101", &f, &mem);
    assert_true(f.preferred);
    free(mem);
    parse_all("0a00000041" KEY_HEX KEY_HEX "01", &f, &mem);
    assert_memory_equal(f.key2, key, 32);
    assert_int_equal(f.data_len, 1);
    free(mem);
}

static void test_every_short_body_is_malformed(void **state)
{
    static const struct { uint8_t type; size_t need; } rows[] = {
        {TN_DERP_SERVER_KEY, 40}, {TN_DERP_CLIENT_INFO, 32}, {TN_DERP_SEND_PACKET, 32}, {TN_DERP_RECV_PACKET, 32},
        {TN_DERP_NOTE_PREFERRED, 1}, {TN_DERP_PEER_GONE, 32}, {TN_DERP_PEER_PRESENT, 32},
        {TN_DERP_FORWARD_PACKET, 64},
        {TN_DERP_CLOSE_PEER, 32}, {TN_DERP_PING, 8}, {TN_DERP_PONG, 8}, {TN_DERP_RESTARTING, 8},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (size_t n = 0; n <= rows[i].need; n++) {
            uint8_t *body = calloc(1, n ? n : 1);
            assert_non_null(body);
            if (rows[i].type == TN_DERP_SERVER_KEY) memcpy(body, magic, n < 8 ? n : 8);
            struct tn_derp_frame f = {.type = rows[i].type, .body = body, .len = n};
            assert_int_equal(tn_derp_frame_parse(&f), n < rows[i].need ? TN_E_MALFORMED : 0);
            free(body);
        }
    }
}

static void test_bad_greeting_and_unknown(void **state)
{
    uint8_t body[40] = {0};
    struct tn_derp_frame f = {.type = TN_DERP_SERVER_KEY, .body = body, .len = sizeof body};
    assert_int_equal(tn_derp_frame_parse(&f), TN_E_MALFORMED);
    f = (struct tn_derp_frame){.type = 0x7f, .body = body, .len = 4};
    assert_int_equal(tn_derp_frame_parse(&f), TN_E_UNSUPPORTED);
}

static void test_split(void **state)
{
    static const uint8_t two[] = {0x06, 0, 0, 0, 0, 0x07, 0, 0, 0, 1, 1};
    struct tn_derp_frame f;
    for (size_t n = 0; n < 5; n++) assert_int_equal(tn_derp_frame_split(two, n, 100, &f), 0);
    assert_int_equal(tn_derp_frame_split(two, sizeof two, 100, &f), 5);
    assert_int_equal(tn_derp_frame_split(two + 5, 5, 100, &f), 0);
    assert_int_equal(tn_derp_frame_split(two + 5, 6, 100, &f), 6);
    static const uint8_t huge[] = {0x05, 0xff, 0xff, 0xff, 0xff};
    assert_int_equal(tn_derp_frame_split(huge, 5, TN_DERP_FRAME_MAX, &f), TN_E_TOOBIG);
    static const uint8_t edge[] = {0x05, 0, 0x10, 0, 0}, over[] = {0x05, 0, 0x10, 0, 1};
    assert_int_equal(tn_derp_frame_split(edge, 5, TN_DERP_FRAME_MAX, &f), 0);
    assert_int_equal(tn_derp_frame_split(over, 5, TN_DERP_FRAME_MAX, &f), TN_E_TOOBIG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_writes_go_bytes),
        cmocka_unit_test(test_write_overflow_keeps_canary),
        cmocka_unit_test(test_reads_each_type),
        cmocka_unit_test(test_every_short_body_is_malformed),
        cmocka_unit_test(test_bad_greeting_and_unknown),
        cmocka_unit_test(test_split),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
