#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "../../../src/wire/pcp.c"

static const struct tn_pcp_map asked = {.nonce = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, .lifetime_s = 7200,
                                        .client = {.family = 4, .b = {10, 77, 1, 2}}, .internal_port = 41641,
                                        .external_port = 41641};

/* As RFC 6887 figures 2 and 9 lay it out. */
static void test_request(void **state)
{
    static const uint8_t expected[60] = {
        2, 1, 0, 0, 0, 0, 0x1c, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 77, 1, 2,
        1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 17, 0, 0, 0, 0xa2, 0xa9, 0xa2, 0xa9,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0};
    uint8_t out[TN_PCP_MAP_LEN];
    tn_pcp_map_put(out, &asked);
    assert_memory_equal(out, expected, sizeof expected);
}

static void answer(uint8_t out[60])
{
    tn_pcp_map_put(out, &asked);
    out[1] |= 0x80;
    out[3] = 0;
    out[42] = 0x12;
    out[43] = 0x34;
    memcpy(out + 56, "\xcb\x00\x71\x05", 4);
}

static void test_answers(void **state)
{
    static const struct {
        size_t at;
        uint8_t value;
        int err;
    } table[] = {
        {0, 2, 0},
        {0, 0, TN_E_UNSUPPORTED},  /* NAT-PMP's answer to a version it does not know */
        {0, 3, TN_E_MALFORMED},
        {1, 1, TN_E_MALFORMED},    /* a request */
        {1, 0x82, TN_E_MALFORMED}, /* PEER */
        {3, 1, TN_E_UNSUPPORTED},
        {3, 2, TN_E_REFUSED},      /* NOT_AUTHORIZED */
        {24, 9, TN_E_AGAIN},       /* another nonce */
        {36, 6, TN_E_AGAIN},       /* TCP */
        {41, 0, TN_E_AGAIN},       /* another port */
        {44, 1, TN_E_MALFORMED},   /* an IPv6 address */
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        uint8_t bytes[60];
        struct tn_pcp_map got = {.lifetime_s = 77};
        answer(bytes);
        bytes[table[i].at] = table[i].value;
        int err = tn_pcp_map_parse(bytes, sizeof bytes, &asked, &got);
        if (err != table[i].err) fail_msg("row %zu: %d", i, err);
        if (err) assert_int_equal(got.lifetime_s, 77);
    }
    uint8_t bytes[60];
    struct tn_pcp_map got;
    answer(bytes);
    assert_int_equal(tn_pcp_map_parse(bytes, 60, &asked, &got), 0);
    assert_int_equal(got.external_port, 0x1234);
    assert_int_equal(got.lifetime_s, 7200);
    struct tn_ip expected = tn_ip4(203, 0, 113, 5);
    assert_true(tn_ip_eq(&got.external_ip, &expected));
    for (size_t n = 0; n < 60; n++) {
        uint8_t *cut = test_malloc(n ? n : 1);
        memcpy(cut, bytes, n);
        assert_int_not_equal(tn_pcp_map_parse(cut, n, &asked, &got), 0);
        test_free(cut);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_request), cmocka_unit_test(test_answers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
