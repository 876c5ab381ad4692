/* Which of two paths is better: the rule of magicsock's betterAddr. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "../../../src/path/best.c"

static void test_better(void **state)
{
    static const struct {
        const char *a;
        uint32_t a_us;
        const char *b; /* NULL: none so far */
        uint32_t b_us;
        bool better;
    } table[] = {
        {"198.51.100.1:1", 90000, NULL, 0, true},
        {"198.51.100.1:1", 10000, "198.51.100.1:1", 90000, false}, /* the same */
        {"198.51.100.1:1", 10000, "198.51.100.2:1", 20000, true},
        {"198.51.100.1:1", 20000, "198.51.100.2:1", 10000, false},
        {"198.51.100.1:1", 19900, "198.51.100.2:1", 20000, false}, /* one per cent */
        {"198.51.100.1:1", 19500, "198.51.100.2:1", 20000, true},
        {"198.51.100.1:1", 20000, "198.51.100.2:1", 20000, false},
        {"10.0.0.1:1", 11500, "198.51.100.2:1", 10000, true},      /* private and about as fast */
        {"10.0.0.1:1", 13000, "198.51.100.2:1", 10000, false},
        {"198.51.100.2:1", 9000, "10.0.0.1:1", 10000, false},
        {"198.51.100.2:1", 7000, "10.0.0.1:1", 10000, true},
        {"[2001:db8::1]:1", 10500, "198.51.100.2:1", 10000, true}, /* IPv6 */
        {"[2001:db8::1]:1", 12000, "198.51.100.2:1", 10000, false},
        {"[fd00::1]:1", 10000, "10.0.0.1:1", 10000, true},
        {"127.0.0.1:1", 10000, "10.0.0.1:1", 9000, true},          /* loopback before everything */
        {"169.254.1.1:1", 10000, "10.0.0.1:1", 10000, true},       /* the same link */
        {"198.51.100.1:1", 0, "198.51.100.2:1", 0, false},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct tn_path_best a = {.latency_us = table[i].a_us}, b = {.latency_us = table[i].b_us};
        assert_int_equal(tn_addrport_parse(table[i].a, &a.addr), 0);
        if (table[i].b) assert_int_equal(tn_addrport_parse(table[i].b, &b.addr), 0);
        if (better(&a, &b) != table[i].better) fail_msg("row %zu", i);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_better)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
