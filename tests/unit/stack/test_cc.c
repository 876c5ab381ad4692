/* Round-trip estimation, rate limits, and CUBIC with HyStart++ by its equations. */
#include "stack/cc_cubic.c"
#include "stack/rtt.c"
#include "stack/ratelim.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

enum { MSS = 1000 };

static void timeout_estimate(void **state)
{
    struct tn_rtt r;
    tn_rtt_init(&r);
    assert_int_equal(r.rto_us, 1000000);
    tn_rtt_sample(&r, 100000, 1000000);
    assert_int_equal(r.srtt_us, 100000);
    assert_int_equal(r.rttvar_us, 50000);
    assert_int_equal(r.rto_us, 300000); /* srtt + max(0.2 s, 4 var) */
    tn_rtt_sample(&r, 500000, 1100000);
    assert_int_equal(r.srtt_us, 150000);
    assert_int_equal(r.rttvar_us, 137500);
    assert_int_equal(r.rto_us, 700000);
    assert_int_equal(tn_rtt_backoff(&r, 1), 1400000);
    assert_int_equal(tn_rtt_backoff(&r, 200), TN_RTO_MAX_US);
    for (int i = 0; i < 200; i++) tn_rtt_sample(&r, 20000, 1200000);
    assert_true(r.srtt_us < 21000 && r.rto_us < 222000 && r.rto_us >= 220000);
    tn_rtt_sample(&r, 0, 1200000);
    assert_int_equal(r.min_us, 1);
    tn_rtt_sample(&r, UINT64_MAX, 1200000);
    assert_true(r.rto_us <= TN_RTO_MAX_US);
    tn_rtt_sample(&r, 50000, 1200000 + 301 * 1000000ull); /* the old minimum no longer holds */
    assert_int_equal(r.min_us, 50000);
}

static void tokens(void **state)
{
    struct tn_ratelim r;
    tn_ratelim_init(&r, 10, 5);
    int n = 0;
    while (n < 100 && tn_ratelim_take(&r, 1000)) n++;
    assert_int_equal(n, 5);
    assert_false(tn_ratelim_take(&r, 1000 + 99999));
    assert_true(tn_ratelim_take(&r, 1000 + 100000));
    assert_false(tn_ratelim_take(&r, 500)); /* a clock that goes back gives nothing */
    for (n = 0; n < 100 && tn_ratelim_take(&r, UINT64_MAX); n++) continue;
    assert_int_equal(n, 5);
}

static struct tn_cc fresh(uint32_t segs)
{
    struct tn_cc cc = {
        .ops = &tn_cc_cubic, .mss = MSS, .cwnd = segs * MSS, .ssthresh = TN_SSTHRESH_NONE, .cwnd_max = 1 << 30};
    cc.ops->init(&cc);
    return cc;
}

struct path {
    uint64_t now;
    uint32_t una, rtt_us;
    double w; /* bytes acknowledged per round */
};

/* One round trip: the whole window is acknowledged segment by segment. */
static void round_trip(struct tn_cc *cc, struct path *p)
{
    uint32_t segs = cc->cwnd / MSS, end = p->una + segs * MSS;
    for (uint32_t i = 0; i < segs; i++) {
        p->now += p->rtt_us / segs;
        p->una += MSS;
        struct tn_cc_ack a = {.now_us = p->now,
                              .acked = MSS,
                              .rtt_us = p->rtt_us,
                              .srtt_us = p->rtt_us,
                              .min_rtt_us = p->rtt_us,
                              .una = p->una,
                              .nxt = end + (i + 1) * MSS,
                              .inflight = cc->cwnd,
                              .cwnd_limited = true};
        cc->ops->on_ack(cc, &a);
    }
}

static void slow_start_doubles(void **state)
{
    struct tn_cc cc = fresh(10);
    struct path p = {.now = 1000000, .rtt_us = 80000};
    round_trip(&cc, &p);
    assert_int_equal(cc.cwnd, 20 * MSS);
    round_trip(&cc, &p);
    assert_int_equal(cc.cwnd, 40 * MSS);
    struct tn_cc_ack idle = {.now_us = p.now, .acked = MSS, .srtt_us = 80000, .una = p.una + MSS, .nxt = p.una + MSS};
    cc.ops->on_ack(&cc, &idle); /* the window was not used */
    assert_int_equal(cc.cwnd, 40 * MSS);
}

static void delay_ends_slow_start(void **state)
{
    struct tn_cc cc = fresh(10);
    struct path p = {.now = 1000000, .rtt_us = 80000};
    for (int i = 0; i < 4; i++) round_trip(&cc, &p);
    uint32_t before = cc.cwnd;
    p.rtt_us = 95000; /* an eighth of 80 ms is 10 */
    round_trip(&cc, &p);
    assert_true(cubic_of(&cc)->in_css);
    uint32_t at_css = cc.cwnd;
    assert_true(at_css < 2 * before);
    round_trip(&cc, &p);
    assert_true(cc.cwnd <= at_css + at_css / 4 + MSS); /* a quarter of the speed */
    for (int i = 0; i < 6; i++) round_trip(&cc, &p);
    assert_false(tn_cc_in_slow_start(&cc));
}

static void noise_does_not_end_slow_start(void **state)
{
    struct tn_cc cc = fresh(10);
    struct path p = {.now = 1000000, .rtt_us = 80000};
    for (int i = 0; i < 3; i++) round_trip(&cc, &p);
    p.rtt_us = 95000;
    round_trip(&cc, &p);
    p.rtt_us = 80000; /* it falls back */
    round_trip(&cc, &p);
    assert_true(tn_cc_in_slow_start(&cc));
    assert_false(cubic_of(&cc)->in_css);
    uint32_t before = cc.cwnd;
    round_trip(&cc, &p);
    assert_true(cc.cwnd > before + before / 2);
}

/* After a loss at W the window is 0.7 W, and W again after K = cbrt(0.3 W / 0.4) seconds, flat around there. */
static void cubic_curve(void **state)
{
    struct tn_cc cc = fresh(1000);
    struct path p = {.now = 1000000, .rtt_us = 100000};
    cc.ops->on_loss(&cc, p.now);
    assert_int_equal(cc.ssthresh, 700 * MSS);
    cc.cwnd = cc.ssthresh;
    uint64_t start = p.now;
    double k = cube_root(0.3 * 1000 / 0.4);
    assert_true(k > 9.08 && k < 9.09);
    while (p.now < start + (uint64_t)(k * 0.5 * 1e6)) round_trip(&cc, &p);
    /* at half of K: W - 0.4 (K/2)^3 = 1000 - 37.5 */
    assert_true(cc.cwnd > 950 * MSS && cc.cwnd < 975 * MSS);
    while (p.now < start + (uint64_t)(k * 1e6)) round_trip(&cc, &p);
    assert_true(cc.cwnd > 985 * MSS && cc.cwnd < 1015 * MSS);
    while (p.now < start + (uint64_t)((k + 5) * 1e6)) round_trip(&cc, &p);
    assert_true(cc.cwnd > 1030 * MSS && cc.cwnd < 1120 * MSS); /* probing: 0.4 * 5^3 = 50 beyond */
}

/* On a short path CUBIC is never slower than Reno would be: about half a segment per round trip at first. */
static void reno_region(void **state)
{
    struct tn_cc cc = fresh(20);
    struct path p = {.now = 1000000, .rtt_us = 5000};
    cc.ops->on_loss(&cc, p.now);
    cc.cwnd = cc.ssthresh;
    for (int i = 0; i < 20; i++) round_trip(&cc, &p);
    /* 14 + 0.53 a round until the old 20 is reached, one a round from there */
    assert_true(cc.cwnd >= 26 * MSS && cc.cwnd <= 30 * MSS);
}

/* Who made room by fast convergence grows like Reno at one a round only from the window it really had. */
static void reno_region_after_fast_convergence(void **state)
{
    struct tn_cc cc = fresh(40);
    struct path p = {.now = 1000000, .rtt_us = 2000};
    cc.ops->on_loss(&cc, p.now);
    cc.cwnd = 20 * MSS;
    cc.ops->on_loss(&cc, p.now); /* w_max 17, from 20 */
    cc.cwnd = cc.ssthresh;
    for (int i = 0; i < 8; i++) round_trip(&cc, &p);
    assert_true(cc.cwnd >= 17.5 * MSS && cc.cwnd <= 18.3 * MSS); /* 14 + 8 * 0.53, not faster from 17 on */
    for (int i = 0; i < 8; i++) round_trip(&cc, &p);
    assert_true(cc.cwnd >= 22.5 * MSS);
}

/* Reno's window is taken, not approached. */
static void reno_window_at_once(void **state)
{
    struct tn_cc cc = fresh(20);
    struct path p = {.now = 1000000, .rtt_us = 5000};
    cc.ops->on_loss(&cc, p.now);
    cc.cwnd = cc.ssthresh;
    for (int i = 0; i < 8; i++) round_trip(&cc, &p);
    assert_true(cc.cwnd + 1 >= (uint32_t)(cubic_of(&cc)->w_est * MSS));
}

/* After a timeout the curve begins flat where slow start ends, and does not hurry back to the old maximum. */
static void timeout_starts_a_new_curve(void **state)
{
    struct tn_cc cc = fresh(1000);
    struct path p = {.now = 1000000, .rtt_us = 100000};
    cc.ops->on_rto(&cc, p.now);
    cc.cwnd = cc.ssthresh;
    for (int i = 0; i < 30; i++) round_trip(&cc, &p); /* 3 s: 700 + 0.4 * 3^3 */
    assert_true(cc.cwnd > 705 * MSS && cc.cwnd < 720 * MSS);
}

static void losses_and_undo(void **state)
{
    struct tn_cc cc = fresh(100);
    cc.ops->on_loss(&cc, 1);
    assert_true(cubic_of(&cc)->w_max == 100);
    cc.cwnd = 80 * MSS;
    cc.ops->on_loss(&cc, 2); /* before the old maximum was reached again: make room */
    assert_true(cubic_of(&cc)->w_max > 67.9 && cubic_of(&cc)->w_max < 68.1);
    cc.ops->on_undo(&cc, NULL, 3);
    assert_true(cubic_of(&cc)->w_max == 100);
    cc.cwnd = MSS;
    cc.ops->on_rto(&cc, 3);
    assert_int_equal(cc.ssthresh, 2 * MSS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timeout_estimate), cmocka_unit_test(tokens), cmocka_unit_test(slow_start_doubles),
        cmocka_unit_test(delay_ends_slow_start), cmocka_unit_test(noise_does_not_end_slow_start),
        cmocka_unit_test(cubic_curve), cmocka_unit_test(reno_region), cmocka_unit_test(losses_and_undo),
        cmocka_unit_test(reno_region_after_fast_convergence), cmocka_unit_test(reno_window_at_once),
        cmocka_unit_test(timeout_starts_a_new_curve),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
