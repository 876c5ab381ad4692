/* How many workers there are, and when the loop hands over. */

#include <sched.h>
#include <uv.h>
static uint64_t slept_ns;
static int ncores = 8;
static uint64_t idle_time(uv_loop_t *loop) { return slept_ns; }
static int affinity(pid_t pid, size_t size, cpu_set_t *set)
{
    CPU_ZERO(set);
    for (int i = 0; i < ncores; i++) CPU_SET(i, set);
    return ncores ? 0 : -1;
}
#define uv_metrics_idle_time idle_time
#define sched_getaffinity affinity
#include "../../../src/node/workers.c"
#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>

static void test_how_many(void **state)
{
    static const struct { int cores, configured; size_t want; } rows[] = {
        {1, TN_WORKERS_AUTO, 0}, {2, TN_WORKERS_AUTO, 0}, {3, TN_WORKERS_AUTO, 0}, {4, TN_WORKERS_AUTO, 2}, {6, TN_WORKERS_AUTO, 3},
        {64, TN_WORKERS_AUTO, 4}, {0, TN_WORKERS_AUTO, 0}, {1, 3, 3}, {64, 0, 0}, {2, 16, 16},
    };
    static struct tn_node n;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        ncores = rows[i].cores;
        n.config.workers = rows[i].configured;
        assert_int_equal(wanted(&n), rows[i].want);
    }
    assert_int_equal(tn_workers_new(&n), 0); /* without sockets there is nothing to do for them */
    assert_null(n.workers);
}

/* The window ends after so many ms, of which the loop slept so many. */
static void window(struct tn_node *n, uint64_t *now_us, uint64_t ms, uint64_t slept_ms)
{
    *now_us += ms * 1000;
    slept_ns += slept_ms * 1000000;
    tn_workers_watch(n, *now_us);
}

static void test_when(void **state)
{
    static struct tn_node n;
    uint64_t now_us = 1000000;
    n.config.workers = TN_WORKERS_AUTO;
    window(&n, &now_us, 20, 0);
    assert_false(n.hand_over); /* there are none */
    assert_int_equal(tn_workpool_new(&(struct tn_workpool_config){.workers = 1}, &n.workers), 0);
    window(&n, &now_us, 1000, 1000);
    assert_false(n.hand_over);
    window(&n, &now_us, 5, 0); /* too short to tell */
    assert_false(n.hand_over);
    window(&n, &now_us, 15, 7); /* 35 % asleep of 20 ms */
    assert_false(n.hand_over);
    window(&n, &now_us, 20, 6);
    assert_true(n.hand_over);
    window(&n, &now_us, 20, 16); /* calmer, since others do the work */
    assert_true(n.hand_over);
    window(&n, &now_us, 20, 18);
    assert_false(n.hand_over);
    window(&n, &now_us, 20, 25); /* clocks differ a little */
    assert_false(n.hand_over);
    n.config.workers = 1; /* asked for: always */
    n.hand_over = true;
    window(&n, &now_us, 1000, 1000);
    assert_true(n.hand_over);
    tn_workpool_free(n.workers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_how_many), cmocka_unit_test(test_when)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
