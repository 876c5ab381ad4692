/* The messages were written by tailscale.com v1.102.5 disco (AppendMarshal) with the transaction id 01..0c and the
 * node key 0x40..0x5f. */
#include "../../../src/wire/disco.c"
#include "util/text.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdlib.h>

#define TX "0102030405060708090a0b0c"
#define KEY "404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f"
#define PONG4 "0200" TX "00000000000000000000ffff7f0303280385"
#define CMM "0300" "00000000000000000000ffffc0000201a2a9" "20010db80000000000000000000000090007"

static const uint8_t tx[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};

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
    assert_string_equal(tn_hex_encode(w->start, tn_wr_len(w), text), hex);
}

static void test_writes_go_bytes(void **state)
{
    uint8_t buf[128], key[32];
    struct tn_addrport ap[2];
    assert_int_equal(tn_hex_decode(KEY, key, 32), 0);
    struct tn_wr w = tn_wr_init(buf, sizeof buf);
    tn_disco_ping_put(&w, tx, key, 0);
    expect_bytes(&w, "0100" TX KEY);
    assert_int_equal(tn_wr_len(&w), TN_DISCO_PING_LEN);
    w = tn_wr_init(buf, sizeof buf);
    tn_disco_ping_put(&w, tx, key, 5);
    expect_bytes(&w, "0100" TX KEY "0000000000");
    assert_int_equal(tn_addrport_parse("127.3.3.40:901", ap), 0);
    w = tn_wr_init(buf, sizeof buf);
    tn_disco_pong_put(&w, tx, ap);
    expect_bytes(&w, PONG4);
    assert_int_equal(tn_addrport_parse("192.0.2.1:41641", ap), 0);
    assert_int_equal(tn_addrport_parse("[2001:db8::9]:7", ap + 1), 0);
    w = tn_wr_init(buf, sizeof buf);
    tn_disco_call_me_maybe_put(&w, ap, 2);
    expect_bytes(&w, CMM);
}

static int parse(const char *hex, size_t cut, struct tn_disco_msg *m, uint8_t **mem)
{
    size_t len;
    *mem = exact(hex, &len);
    return tn_disco_parse(*mem, len - cut, m);
}

static void test_ping(void **state)
{
    struct tn_disco_msg m;
    uint8_t *mem;
    assert_int_equal(parse("0100" TX KEY "0000000000", 0, &m, &mem), 0);
    assert_int_equal(m.type, TN_DISCO_PING);
    assert_memory_equal(m.txid, tx, 12);
    assert_int_equal(m.node_key[0], 0x40);
    assert_int_equal(m.padding, 5);
    free(mem);
    assert_int_equal(parse("0100" TX, 0, &m, &mem), 0);
    assert_null(m.node_key);
    free(mem);
    assert_int_equal(parse("0107" TX KEY, 0, &m, &mem), 0); /* a later version of a ping is still a ping */
    free(mem);
    for (size_t cut = 1; cut <= 14; cut++) {
        assert_int_equal(parse("0100" TX, cut, &m, &mem), TN_E_MALFORMED);
        free(mem);
    }
}

static void test_pong(void **state)
{
    struct tn_disco_msg m;
    uint8_t *mem;
    char text[TN_ADDRPORT_STRLEN];
    assert_int_equal(parse(PONG4 "ff", 0, &m, &mem), 0);
    assert_string_equal(tn_addrport_format(&m.src, text), "127.3.3.40:901");
    free(mem);
    assert_int_equal(parse("0200" TX "20010db80000000000000000000000090005", 0, &m, &mem), 0);
    assert_string_equal(tn_addrport_format(&m.src, text), "[2001:db8::9]:5");
    free(mem);
    for (size_t cut = 1; cut <= 32; cut++) {
        assert_int_equal(parse(PONG4, cut, &m, &mem), TN_E_MALFORMED);
        free(mem);
    }
}

static void test_call_me_maybe(void **state)
{
    struct tn_disco_msg m;
    uint8_t *mem;
    char text[TN_ADDRPORT_STRLEN];
    assert_int_equal(parse(CMM, 0, &m, &mem), 0);
    assert_int_equal(m.nendpoints, 2);
    struct tn_addrport ap = tn_disco_endpoint(&m, 0);
    assert_string_equal(tn_addrport_format(&ap, text), "192.0.2.1:41641");
    ap = tn_disco_endpoint(&m, 1);
    assert_string_equal(tn_addrport_format(&ap, text), "[2001:db8::9]:7");
    free(mem);
    assert_int_equal(parse(CMM, 1, &m, &mem), 0); /* not a multiple of 18 */
    assert_int_equal(m.nendpoints, 0);
    free(mem);
    assert_int_equal(parse("0301" "00000000000000000000ffffc0000201a2a9", 0, &m, &mem), 0);
    assert_int_equal(m.nendpoints, 0);
    free(mem);
}

static void test_outer_and_unknown(void **state)
{
    uint8_t buf[80], key[32] = {9};
    struct tn_wr w = tn_wr_init(buf, sizeof buf);
    tn_disco_header_put(&w, key);
    tn_wr_zero(&w, 24);
    assert_true(tn_disco_looks_like(buf, 62));
    assert_false(tn_disco_looks_like(buf, 61));
    assert_memory_equal(tn_disco_sender(buf), key, 32);
    buf[5] ^= 1;
    assert_false(tn_disco_looks_like(buf, 62));
    struct tn_disco_msg m;
    assert_int_equal(tn_disco_parse((const uint8_t *)"\4\0xxxx", 6, &m), TN_E_UNSUPPORTED);
    assert_int_equal(tn_disco_parse((const uint8_t *)"\1", 1, &m), TN_E_MALFORMED);
    assert_int_equal(tn_disco_parse(buf, 0, &m), TN_E_MALFORMED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_writes_go_bytes),
        cmocka_unit_test(test_ping),
        cmocka_unit_test(test_pong),
        cmocka_unit_test(test_call_me_maybe),
        cmocka_unit_test(test_outer_and_unknown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
