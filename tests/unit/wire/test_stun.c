/* The packets were written by tailscale.com v1.102.5 net/stun (Request, Response) with the transaction id 01..0c. */
#include "../../../src/wire/stun.c"
#include "util/text.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdlib.h>

#define REQUEST "000100142112a4420102030405060708090a0b0c802200087461696c6e6f646580280004b32c370f"
#define RESPONSE4 "0101000c2112a4420102030405060708090a0b0c00200008000183bbea12d545"
#define RESPONSE6 "010100182112a4420102030405060708090a0b0c00200014000283bb0113a9fa0102030405060708090a0b0b"
#define HEAD(len) "0101" len "2112a4420102030405060708090a0b0c"

static const uint8_t tx[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};

static uint8_t *exact(const char *hex, size_t *len)
{
    *len = strlen(hex) / 2;
    uint8_t *p = malloc(*len ? *len : 1);
    assert_non_null(p);
    assert_int_equal(tn_hex_decode(hex, p, *len), 0);
    return p;
}

static int parse_request(const uint8_t *p, size_t len)
{
    uint8_t id[12];
    uint8_t *copy = malloc(len ? len : 1);
    assert_non_null(copy);
    memcpy(copy, p, len);
    int err = tn_stun_request_parse(copy, len, id);
    if (err == 0) assert_memory_equal(id, tx, 12);
    free(copy);
    return err;
}

/* Formats the address of a response given in hex, or the error's name. */
static const char *parse_response(const char *hex, char text[TN_ADDRPORT_STRLEN])
{
    size_t len;
    uint8_t id[12], *p = exact(hex, &len);
    struct tn_addrport ap;
    int err = tn_stun_response_parse(p, len, id, &ap);
    free(p);
    if (err) return tn_err_name(err);
    assert_memory_equal(id, tx, 12);
    return tn_addrport_format(&ap, text);
}

static void test_request(void **state)
{
    uint8_t out[TN_STUN_REQUEST_LEN];
    char text[2 * sizeof out + 1];
    tn_stun_request_put(out, tx);
    assert_string_equal(tn_hex_encode(out, sizeof out, text), REQUEST);
    assert_true(tn_stun_looks_like(out, sizeof out));
    assert_int_equal(parse_request(out, sizeof out), 0);
    for (size_t n = 0; n < sizeof out; n++) assert_int_not_equal(parse_request(out, n), 0);
    for (size_t i = 0; i < sizeof out * 8; i++) {
        out[i / 8] ^= (uint8_t)(1 << i % 8);
        assert_int_not_equal(parse_request(out, sizeof out), 0);
        out[i / 8] ^= (uint8_t)(1 << i % 8);
    }
}

static void test_foreign_requests(void **state)
{
    size_t len;
    uint8_t *p = exact("000100002112a4420102030405060708090a0b0c", &len); /* no attributes */
    assert_int_equal(parse_request(p, len), TN_E_UNSUPPORTED);
    free(p);
    p = exact("0001000c2112a4420102030405060708090a0b0c802200087461696c6e6f6465", &len); /* no fingerprint */
    assert_int_equal(parse_request(p, len), TN_E_UNSUPPORTED);
    free(p);
}

static void test_response(void **state)
{
    uint8_t out[TN_STUN_RESPONSE_MAX];
    char text[2 * sizeof out + 1];
    struct tn_addrport ap;
    assert_int_equal(tn_addrport_parse("203.0.113.7:41641", &ap), 0);
    assert_int_equal(tn_stun_response_put(out, tx, &ap), 32);
    assert_string_equal(tn_hex_encode(out, 32, text), RESPONSE4);
    assert_int_equal(tn_addrport_parse("[2001:db8::7]:41641", &ap), 0);
    assert_int_equal(tn_stun_response_put(out, tx, &ap), 44);
    assert_string_equal(tn_hex_encode(out, 44, text), RESPONSE6);
    ap.ip.family = 0;
    assert_int_equal(tn_stun_response_put(out, tx, &ap), 0);
}

static void test_response_parse(void **state)
{
    char text[TN_ADDRPORT_STRLEN];
    assert_string_equal(parse_response(RESPONSE4, text), "203.0.113.7:41641");
    assert_string_equal(parse_response(RESPONSE6, text), "[2001:db8::7]:41641");
    /* the draft's attribute number; plain MAPPED-ADDRESS; both, where the XOR form wins; trailing bytes */
    assert_string_equal(parse_response(HEAD("000c") "80200008000183bbea12d545", text), "203.0.113.7:41641");
    assert_string_equal(parse_response(HEAD("000c") "000100080001a2a9cb007107", text), "203.0.113.7:41641");
    assert_string_equal(parse_response(HEAD("0018") "00200008000183bbea12d545" "0001000800010001c0000201", text),
                        "203.0.113.7:41641");
    assert_string_equal(parse_response(RESPONSE4 "ffffff", text), "203.0.113.7:41641");
    /* no address at all; unknown family; an error response; an attribute beyond the end */
    assert_string_equal(parse_response(HEAD("0000"), text), "MALFORMED");
    assert_string_equal(parse_response(HEAD("000c") "00200008000383bbea12d545", text), "MALFORMED");
    assert_string_equal(parse_response("0111" "000c2112a4420102030405060708090a0b0c00200008000183bbea12d545", text),
                        "MALFORMED");
    assert_string_equal(parse_response(HEAD("000c") "00200009000183bbea12d545", text), "MALFORMED");
}

static void test_mapped_address_is_unmapped(void **state)
{
    uint8_t out[TN_STUN_RESPONSE_MAX], id[12];
    struct tn_addrport ap, got;
    assert_int_equal(tn_addrport_parse("[::ffff:192.0.2.1]:9", &ap), 0);
    assert_int_equal(tn_stun_response_put(out, tx, &ap), 44);
    assert_int_equal(tn_stun_response_parse(out, 44, id, &got), 0);
    assert_int_equal(got.ip.family, 4);
    assert_int_equal(got.ip.b[0], 192);
}

static void test_truncated_responses(void **state)
{
    size_t len;
    uint8_t *p = exact(RESPONSE6, &len);
    for (size_t n = 0; n < len; n++) {
        uint8_t id[12] = {0}, *cut = malloc(n ? n : 1);
        assert_non_null(cut);
        memcpy(cut, p, n);
        struct tn_addrport ap = {.port = 77};
        assert_int_equal(tn_stun_response_parse(cut, n, id, &ap), TN_E_MALFORMED);
        assert_int_equal(ap.port, 77);
        free(cut);
    }
    free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_request),
        cmocka_unit_test(test_foreign_requests),
        cmocka_unit_test(test_response),
        cmocka_unit_test(test_response_parse),
        cmocka_unit_test(test_mapped_address_is_unmapped),
        cmocka_unit_test(test_truncated_responses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
