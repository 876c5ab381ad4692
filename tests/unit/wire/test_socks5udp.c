#include "wire/socks5udp.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

static int parse(const void *bytes, size_t len, struct tn_socks5udp *out)
{
    uint8_t *exact = malloc(len ? len : 1);
    assert_non_null(exact);
    memcpy(exact, bytes, len);
    int err = tn_socks5udp_parse(exact, len, out);
    if (!err) assert_ptr_equal(out->payload + out->len, exact + len);
    free(exact);
    return err;
}

static void round_trip(void **state)
{
    static const char *const addrs[] = {"45.45.45.45:53", "[2a00:45::45]:443"};
    for (int i = 0; i < 2; i++) {
        struct tn_addrport to;
        struct tn_socks5udp d;
        uint8_t out[TN_SOCKS5UDP_HDR_MAX + 6];
        memset(out, 0xee, sizeof out);
        assert_int_equal(tn_addrport_parse(addrs[i], &to), 0);
        size_t n = tn_socks5udp_put(out, &to);
        assert_int_equal(n, i ? 22 : 10);
        assert_int_equal(out[n], 0xee);
        memcpy(out + n, "hello", 5);
        assert_int_equal(parse(out, n + 5, &d), 0);
        assert_true(tn_addrport_eq(&d.from, &to));
        assert_int_equal(d.len, 5);
        assert_int_equal(parse(out, n, &d), 0);
        assert_int_equal(d.len, 0); /* an empty datagram is one */
        for (size_t cut = 0; cut < n; cut++) assert_int_equal(parse(out, cut, &d), TN_E_MALFORMED);
        out[2] = 1; /* FRAG */
        assert_int_equal(parse(out, n + 5, &d), TN_E_UNSUPPORTED);
        out[2] = 0;
        out[0] = out[1] = 0xff; /* RSV */
        assert_int_equal(parse(out, n + 5, &d), 0);
    }
}

static void names(void **state)
{
    struct tn_socks5udp d;
    uint8_t bytes[4 + 1 + 255 + 2] = {0, 0, 0, 3, 255};
    memset(bytes + 5, 'a', 255);
    assert_int_equal(parse(bytes, sizeof bytes, &d), 0);
    assert_int_equal(d.from.ip.family, 0);
    for (size_t cut = 0; cut < sizeof bytes; cut++) assert_int_equal(parse(bytes, cut, &d), TN_E_MALFORMED);
    static const uint8_t literal[] = {0, 0, 0, 3, 7, '1', '.', '2', '.', '3', '.', '4', 0, 53, 'x'};
    assert_int_equal(parse(literal, sizeof literal, &d), 0);
    struct tn_ip ip = tn_ip4(1, 2, 3, 4);
    assert_true(tn_ip_eq(&d.from.ip, &ip) && d.from.port == 53 && d.len == 1);
    static const uint8_t empty[] = {0, 0, 0, 3, 0, 0, 53}, nul[] = {0, 0, 0, 3, 2, '1', 0, 0, 53};
    assert_int_equal(parse(empty, sizeof empty, &d), TN_E_MALFORMED);
    assert_int_equal(parse(nul, sizeof nul, &d), 0);
    assert_int_equal(d.from.ip.family, 0);
}

static void bad_types(void **state)
{
    struct tn_socks5udp d;
    for (unsigned t = 0; t < 256; t++) {
        uint8_t bytes[300] = {0, 0, 0, (uint8_t)t, 4, 'n', 'a', 'm', 'e', 0, 53};
        int want = t == 1 || t == 3 || t == 4 ? 0 : TN_E_MALFORMED;
        assert_int_equal(parse(bytes, sizeof bytes, &d), want);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(names),
        cmocka_unit_test(bad_types),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
