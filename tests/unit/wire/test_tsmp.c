#include "wire/tsmp.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

static int parse(const void *bytes, size_t len, struct tn_tsmp *m)
{
    uint8_t *exact = malloc(len ? len : 1);
    assert_non_null(exact);
    memcpy(exact, bytes, len);
    int err = tn_tsmp_parse(exact, len, m);
    free(exact);
    return err;
}

/* Layouts from the comments of net/packet/tsmp.go: type, then fields in network order. */
static const uint8_t reject[] = {'!', 6, 'A', 0x30, 0x39, 0x00, 0x50}, broken[] = {'!', 17, 'F', 1, 2, 3, 4, 1},
                     ping[] = {'p', 1, 2, 3, 4, 5, 6, 7, 8}, pong[] = {'o', 1, 2, 3, 4, 5, 6, 7, 8, 0xb2, 0x6e};

static void puts_as(const struct tn_tsmp *m, const uint8_t *want, size_t len)
{
    uint8_t out[TN_TSMP_MAX + 1];
    memset(out, 0xee, sizeof out);
    assert_int_equal(tn_tsmp_put(out, m), len);
    assert_memory_equal(out, want, len);
    assert_int_equal(out[len], 0xee);
}

static void messages(void **state)
{
    (void)state;
    struct tn_tsmp m;
    assert_int_equal(parse(reject, sizeof reject, &m), 0);
    assert_int_equal(m.type, TN_TSMP_REJECT);
    assert_int_equal(m.reject.proto, 6);
    assert_int_equal(m.reject.reason, TN_TSMP_ACL);
    assert_int_equal(m.reject.sport, 12345);
    assert_int_equal(m.reject.dport, 80);
    assert_false(m.reject.maybe_broken);
    puts_as(&m, reject, sizeof reject);
    assert_int_equal(parse(broken, sizeof broken, &m), 0);
    assert_true(m.reject.maybe_broken);
    puts_as(&m, broken, sizeof broken);
    assert_int_equal(parse(ping, sizeof ping, &m), 0);
    assert_int_equal(m.type, TN_TSMP_PING);
    puts_as(&m, ping, sizeof ping);
    assert_int_equal(parse(pong, sizeof pong, &m), 0);
    assert_int_equal(m.ping.peerapi_port, 0xb26e);
    assert_memory_equal(m.ping.data, ping + 1, 8);
    puts_as(&m, pong, sizeof pong);
    assert_int_equal(parse(pong, 10, &m), 0); /* an old peer's pong has no port */
    assert_int_equal(m.ping.peerapi_port, 0);
    uint8_t advert[40] = {'a'};
    for (int i = 1; i < 40; i++) advert[i] = (uint8_t)i;
    assert_int_equal(parse(advert, sizeof advert, &m), 0);
    assert_memory_equal(m.disco_key, advert + 1, 32);
    puts_as(&m, advert, 33);
}

static void short_ones_are_malformed(void **state)
{
    (void)state;
    static const struct { char type; size_t need; } min[] = {{'!', 7}, {'p', 9}, {'o', 9}, {'a', 33}};
    uint8_t bytes[40] = {0};
    struct tn_tsmp m;
    for (size_t i = 0; i < sizeof min / sizeof *min; i++) {
        bytes[0] = (uint8_t)min[i].type;
        for (size_t n = 0; n < min[i].need; n++) assert_int_equal(parse(bytes, n, &m), TN_E_MALFORMED);
        assert_int_equal(parse(bytes, min[i].need, &m), 0);
    }
    bytes[0] = 'x';
    assert_int_equal(parse(bytes, sizeof bytes, &m), TN_E_UNSUPPORTED);
    bytes[0] = 0;
    assert_int_equal(parse(bytes, sizeof bytes, &m), TN_E_UNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(messages), cmocka_unit_test(short_ones_are_malformed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
