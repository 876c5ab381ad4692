/* Packets that come before their sender is a peer: kept a while, bounded, never for strangers who stay strangers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "path/early.c"

static struct tn_node_public node(uint8_t n) { return (struct tn_node_public){{n}}; }
static const struct tn_derp_route route = {.region = 3};

static void waits_for_its_sender(void **state)
{
    struct tn_early *e = NULL;
    struct tn_early_packet out;
    struct tn_node_public a = node(1), b = node(2);
    assert_false(tn_early_ready(e));
    assert_false(tn_early_take(e, &out, 0));
    tn_early_known(e, &a);
    tn_early_keep(&e, &a, route, (const uint8_t *)"first", 5, 1000);
    tn_early_keep(&e, &a, route, (const uint8_t *)"second", 6, 1001);
    tn_early_known(e, &b);
    assert_false(tn_early_ready(e));
    tn_early_known(e, &a);
    tn_early_known(e, &a);
    assert_true(tn_early_ready(e));
    assert_true(tn_early_take(e, &out, 2000));
    assert_memory_equal(out.bytes, "first", 5);
    assert_int_equal(out.route.region, 3);
    assert_true(tn_early_take(e, &out, 2000));
    assert_int_equal(out.len, 6);
    assert_false(tn_early_take(e, &out, 2000));
    assert_false(tn_early_ready(e));
    tn_early_free(e);
}

static void stale_and_long_ones_go(void **state)
{
    struct tn_early *e = NULL;
    struct tn_early_packet out;
    struct tn_node_public a = node(1);
    uint8_t big[TN_EARLY_PACKET_MAX + 1] = {0};
    tn_early_keep(&e, &a, route, big, sizeof big, 0);
    assert_null(e);
    tn_early_keep(&e, &a, route, big, TN_EARLY_PACKET_MAX, 0);
    tn_early_known(e, &a);
    assert_false(tn_early_take(e, &out, TN_EARLY_KEEP_US));
    assert_false(tn_early_ready(e));
    tn_early_free(e);
}

/* A flood of strangers costs its places and nothing else; the books stay right when ready ones give way. */
static void a_flood_is_bounded(void **state)
{
    struct tn_early *e = NULL;
    struct tn_early_packet out;
    for (int i = 0; i < 1000; i++) {
        struct tn_node_public n = node((uint8_t)i);
        tn_early_keep(&e, &n, route, (const uint8_t *)&i, sizeof i, (uint64_t)i);
        if (i % 3 == 0) tn_early_known(e, &n);
    }
    int taken = 0;
    while (tn_early_take(e, &out, 1000)) taken++;
    assert_in_range(taken, 2, 3);
    assert_false(tn_early_ready(e));
    assert_int_equal(e->nready, 0);
    tn_early_free(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(waits_for_its_sender),
        cmocka_unit_test(stale_and_long_ones_go),
        cmocka_unit_test(a_flood_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
