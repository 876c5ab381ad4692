/* Delivery rates, the pacing bucket, and BBR's rules one by one; how they work together is tests/sim/bulk_sim's. */
#include "stack/bbr_model.c"
#include "stack/cc_bbr.c"
#include "stack/pace.c"
#include "stack/rate.c"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

enum { MSS = 1000, RTT = 50000, SEG_US = 100 /* 10 MB/s */, BDP = RTT / SEG_US };

/* ---- rate.c ---- */

static struct tn_rec sent(struct tn_rate *r, uint32_t seq, uint32_t in_flight, uint64_t now)
{
    struct tn_rec rec = {.seq = seq, .len = MSS, .sent_us = now, .xmits = 1};
    tn_rate_sent(r, &rec, in_flight, now);
    return rec;
}

static void rate_of_a_train(void **state)
{
    struct tn_rate r;
    uint64_t t = (1ull << 32) - 7000; /* the low half wraps on the way */
    tn_rate_start(&r, t);
    struct tn_rec a = sent(&r, 0, 0, t), b = sent(&r, MSS, MSS, t);
    assert_true(a.flags & TN_REC_APP_LIMITED); /* after a pause */
    struct tn_rate_sample s = {0};
    tn_rate_note(&r, &s, &a);
    tn_rate_note(&r, &s, &b);
    tn_rate_finish(&r, &s, 2 * MSS, 1000, t + 10000);
    assert_true(s.has_data && s.app_limited && s.delivered == 2 * MSS && s.in_flight == 2 * MSS);
    assert_int_equal(s.bytes_per_s, 200000);
    assert_false(r.app_limited);
    /* One a millisecond from here, each acknowledged after ten: the rate is what they were sent at. */
    struct tn_rec c[60];
    for (int i = 0; i < 60; i++) {
        c[i] = sent(&r, (uint32_t)(2 + i) * MSS, (uint32_t)(i < 10 ? i : 10) * MSS, t + 10000 + (uint64_t)i * 1000);
        if (i < 10) continue;
        s = (struct tn_rate_sample){0};
        tn_rate_note(&r, &s, &c[i - 10]);
        tn_rate_finish(&r, &s, MSS, 1000, t + 10000 + (uint64_t)i * 1000);
    }
    assert_true(s.bytes_per_s > 950000 && s.bytes_per_s < 1150000);
    assert_false(s.app_limited);
}

static void rates_that_say_nothing(void **state)
{
    struct tn_rate r;
    tn_rate_start(&r, 1000);
    struct tn_rec a = sent(&r, 0, 0, 1000);
    struct tn_rate_sample s = {0};
    tn_rate_finish(&r, &s, 0, 100, 2000); /* nothing delivered */
    assert_int_equal(s.bytes_per_s, 0);
    tn_rate_note(&r, &s, &a);
    tn_rate_finish(&r, &s, MSS, 5000, 2000); /* faster than any round trip: it was the answer to something else */
    assert_true(s.has_data);
    assert_int_equal(s.bytes_per_s, 0);
    r.lost += 3 * MSS;
    tn_rate_limited(&r, 5 * MSS);
    a = sent(&r, MSS, MSS, 3000);
    r.lost += MSS;
    s = (struct tn_rate_sample){0};
    tn_rate_note(&r, &s, &a);
    assert_true(s.lost == MSS && s.app_limited);
    tn_rate_finish(&r, &s, 4 * MSS, 100, 4000);
    assert_true(r.app_limited);
    tn_rate_finish(&r, &s, 2 * MSS, 100, 5000);
    assert_false(r.app_limited); /* what was in flight when it ran dry is through */
}

/* ---- pace.h ---- */

static uint32_t burst(struct tn_pace *p, uint64_t rate, uint64_t now)
{
    uint32_t n = 0;
    for (tn_pace_wake(p, now); tn_pace_allows(p, rate, now); n++) tn_pace_sent(p, rate, MSS);
    p->waiting = true;
    return n;
}

static void late_timers_lose_nothing(void **state)
{
    const uint64_t rate = 10000000; /* ten segments a millisecond */
    for (unsigned late = 0; late <= TN_PACE_LATE_US; late += 500) {
        struct tn_pace p = {.used_to_us = 1000000};
        uint64_t now = 1000000, n = 0;
        uint32_t most = 0;
        while (now < 2000000) {
            uint32_t k = burst(&p, rate, now);
            n += k;
            if (k > most) most = k;
            assert_true(tn_pace_at(&p) > now);
            now = tn_pace_at(&p) + late;
        }
        assert_true(n >= 9940 && n <= 10080);
        assert_true(most <= 12 + late / 100);
    }
    struct tn_pace p = {.used_to_us = 1000000};
    p.waiting = false; /* nothing to send for a while: no credit from that */
    assert_true(burst(&p, rate, 3000000) <= 11);
    p.waiting = true; /* held up for a second: not all at once */
    assert_true(burst(&p, rate, 4000000) <= 11 + TN_PACE_LATE_US / 100);
    assert_true(tn_pace_allows(&p, 0, 0));
}

/* Segment by segment, by an exact clock: at these rates what a segment takes is no whole number of microseconds. */
static void fractions_add_up(void **state)
{
    static const uint64_t rates[] = {99000000, 124000000, 400000000, 3000000000};
    for (size_t i = 0; i < sizeof rates / sizeof rates[0]; i++) {
        struct tn_pace p = {.used_to_us = 1000000};
        uint64_t bytes = 0;
        for (; p.used_to_us < 2000000; bytes += MSS) tn_pace_sent(&p, rates[i], MSS);
        assert_true(bytes >= rates[i] && bytes <= rates[i] + rates[i] / 500);
    }
}

static void quanta(void **state)
{
    assert_int_equal(tn_pace_quantum(0, MSS), TN_PACE_QUANTUM_MAX);
    assert_int_equal(tn_pace_quantum(1000, MSS), 2 * MSS);
    assert_int_equal(tn_pace_quantum(10000000, MSS), 10000);
    assert_int_equal(tn_pace_quantum(UINT64_MAX, MSS), TN_PACE_QUANTUM_MAX);
}

/* ---- BBR ---- */

/* A path of 10 MB/s and 50 ms with a deep queue; steps of a segment's time. */
struct path {
    struct tn_cc cc;
    uint64_t flight[TN_CC_FLIGHT / 8];
    struct tn_rate rate;
    uint64_t now, free_at;
    struct tn_pace pace;
    struct tn_rec rec[8192];
    uint64_t back_at[8192];
    uint32_t una, nxt; /* segments */
    uint32_t srtt_us;
    uint32_t limit, peer_wnd; /* segments that the peer has room for, 0: any; bytes */
    uint32_t others, late_us; /* segments of other flows in the queue; what each round trip is longer by */
};

static struct path *start(void)
{
    static struct path p;
    memset(&p, 0, sizeof p);
    p.now = p.free_at = p.pace.used_to_us = 10000000;
    p.srtt_us = RTT;
    p.cc = (struct tn_cc){.ops = &tn_cc_bbr, .mss = MSS, .cwnd = 10 * MSS, .ssthresh = TN_SSTHRESH_NONE,
                          .cwnd_max = 1 << 22};
    p.cc.ops->init(&p.cc);
    p.cc.flight = p.flight;
    tn_rate_start(&p.rate, p.now);
    p.cc.ops->on_start(&p.cc, 0, RTT, RTT * 4, p.now);
    return &p;
}

static void send_some(struct path *p)
{
    tn_pace_wake(&p->pace, p->now);
    while (tn_pace_allows(&p->pace, p->cc.pace, p->now) && (p->nxt - p->una + 1) * MSS <= p->cc.cwnd &&
           (p->limit == 0 || p->nxt - p->una < p->limit)) {
        uint32_t i = p->nxt % 8192;
        p->rec[i] = sent(&p->rate, p->nxt * MSS, (p->nxt - p->una) * MSS, p->now);
        p->nxt++;
        p->free_at = (p->free_at > p->now ? p->free_at : p->now) + SEG_US + SEG_US * p->others / (p->nxt - p->una);
        p->back_at[i] = p->free_at + RTT + p->late_us;
        tn_pace_sent(&p->pace, p->cc.pace, MSS);
    }
    p->pace.waiting = true;
}

/* Segment una comes back, or is found to be lost. */
static void answer(struct path *p, unsigned lost_of_1000)
{
    const struct tn_rec *rec = &p->rec[p->una % 8192];
    uint32_t before = p->nxt - p->una++;
    if (p->una * 7919 % 1000 < lost_of_1000) {
        p->rate.lost += MSS;
        p->cc.ops->on_segment_lost(&p->cc, rec, &p->rate, true, p->now);
        return;
    }
    struct tn_rate_sample s = {0};
    tn_rate_note(&p->rate, &s, rec);
    tn_rate_finish(&p->rate, &s, MSS, RTT, p->now);
    p->srtt_us = (uint32_t)((7 * p->srtt_us + (p->now - rec->sent_us)) / 8);
    struct tn_cc_ack a = {
        .now_us = p->now, .acked = MSS, .rtt_us = (uint32_t)(p->now - rec->sent_us), .srtt_us = p->srtt_us,
        .min_rtt_us = RTT, .una = p->una * MSS, .nxt = p->nxt * MSS, .inflight = before * MSS,
        .inflight_now = (before - 1) * MSS, .cwnd_limited = before * MSS >= p->cc.cwnd - MSS, .has_sack = true,
        .peer_limited = p->limit && before >= p->limit, .peer_wnd = p->peer_wnd, .in_recovery = lost_of_1000 > 0, .rate = &p->rate, .rs = &s,
    };
    p->cc.ops->on_ack(&p->cc, &a);
}

static void round_trip(struct path *p, unsigned lost_of_1000)
{
    for (uint64_t end = p->now + RTT; p->now < end; p->now += SEG_US) {
        while (p->una != p->nxt && p->back_at[p->una % 8192] <= p->now) answer(p, lost_of_1000);
        send_some(p);
    }
}

static unsigned until(struct path *p, unsigned state, unsigned most)
{
    unsigned n = 0;
    for (; bbr_of(&p->cc)->state != state && n < most; n++) round_trip(p, 0);
    assert_int_equal(bbr_of(&p->cc)->state, state);
    return n;
}

static void startup_fills_the_pipe(void **state)
{
    struct path *p = start();
    struct bbr *b = bbr_of(&p->cc);
    assert_true(p->cc.pace > 500000 && p->cc.pace < 600000); /* 2.77 initial windows a round trip */
    unsigned n = 0;
    for (; b->state == BBR_STARTUP && n < 60; n++) round_trip(p, 0);
    assert_true(n >= 5 && n <= 25); /* the queue that it makes counts as well */
    assert_true(b->full_bw_reached);
    assert_true(tn_bbr_max_bw(b) > 9e6 && tn_bbr_max_bw(b) < 10.5e6);
    until(p, BBR_CRUISE, 20);
    assert_true(p->cc.pace > 9e6 && p->cc.pace < 10.4e6);
    assert_int_equal(b->inflight_long, BBR_INFINITE);
    until(p, BBR_UP, 100);
    assert_true(p->cc.pace > 11.5e6);
    uint32_t most = 0; /* it goes down when there is a queue, not when the queue is full */
    for (n = 0; b->state == BBR_UP && n < 20; n++) {
        round_trip(p, 0);
        if (p->nxt - p->una > most) most = p->nxt - p->una;
    }
    assert_int_not_equal(b->state, BBR_UP);
    assert_true(most <= BDP * 3 / 2);
}

/* Others have filled the pipe and a queue: more in flight is a larger part of what there is, and no reason to go on. */
static void startup_ends_where_others_fill_the_pipe(void **state)
{
    struct path *p = start();
    struct bbr *b = bbr_of(&p->cc);
    p->others = BDP;
    p->late_us = RTT / 4;
    for (unsigned n = 0; b->state == BBR_STARTUP && n < 60; n++) round_trip(p, 0);
    assert_true(b->full_bw_reached && tn_bbr_max_bw(b) < 3e6 && p->nxt - p->una < BDP / 2);
    until(p, BBR_UP, 20);
}

/* The handshake came back sooner than anything since, but the pipe is empty: Startup may think that others fill it, but
 * then the probe that comes soon goes on where it stopped, also when a few segments in a thousand are lost at random. */
static void a_longer_round_trip_alone_costs_a_second(void **state)
{
    for (unsigned lost = 0; lost <= 5; lost += 5) {
        struct path *p = start();
        struct bbr *b = bbr_of(&p->cc);
        round_trip(p, lost);
        p->late_us = RTT / 2;
        unsigned n = 0;
        for (; tn_bbr_max_bw(b) < 9e6 && n < 60; n++) round_trip(p, lost);
        assert_true(n < 20 + 1000000 / RTT);
    }
}

/* Rounds in which the peer's window or the application held back tell nothing of a queue. */
static void only_full_rounds_tell_of_others(void **state)
{
    struct path *p = start();
    struct bbr *b = bbr_of(&p->cc);
    p->others = BDP;
    p->late_us = RTT / 4;
    p->limit = 8;
    p->peer_wnd = 8 * MSS;
    round_trip(p, 0);
    for (unsigned n = 0; n < 6 && b->state == BBR_STARTUP; n++) {
        round_trip(p, 0);
        assert_int_equal(((struct bbr_flight *)p->cc.flight)->queue_rounds, 0);
    }
}

/* 3 %, of a whole bandwidth-delay product and of a sixteenth of one. */
static void losses_count_where_there_is_a_queue(void **state)
{
    struct path *p = start();
    struct bbr *b = bbr_of(&p->cc);
    until(p, BBR_CRUISE, 40);
    struct bbr_flight *f = p->cc.flight;
    uint32_t bdp = (uint32_t)tn_bbr_bdp(&p->cc, 1);
    f->srtt_us = b->min_rtt_us;
    assert_false(tn_bbr_inflight_too_high(&p->cc, bdp * 3 / 100, bdp, true));
    assert_true(tn_bbr_inflight_too_high(&p->cc, bdp * 5 / 100, bdp, true));
    assert_true(tn_bbr_inflight_too_high(&p->cc, MSS, bdp, false)); /* without SACK one tells as much as any number */
    f->srtt_us = b->min_rtt_us * 2;
    assert_true(tn_bbr_inflight_too_high(&p->cc, bdp * 3 / 100, bdp, true));
    assert_false(tn_bbr_inflight_too_high(&p->cc, bdp / 16 * 3 / 100, bdp / 16, true));
    assert_true(tn_bbr_inflight_too_high(&p->cc, bdp / 16 / 5, bdp / 16, true)); /* a fifth is too much of anything */
}

static void a_few_losses_do_not_end_startup(void **state)
{
    struct path *p = start();
    struct bbr *b = bbr_of(&p->cc);
    for (int n = 0; b->state == BBR_STARTUP && n < 60; n++) round_trip(p, 30);
    assert_true(b->full_bw_reached);
    assert_true(tn_bbr_max_bw(b) > 9e6);
}

static void a_peer_that_opens_slowly_is_not_the_path(void **state)
{
    struct path *p = start();
    struct bbr *b = bbr_of(&p->cc);
    p->limit = 30;
    for (int n = 0; n < 12; n++) {
        p->peer_wnd += MSS;
        round_trip(p, 0);
    }
    assert_int_equal(b->state, BBR_STARTUP);
    for (int n = 0; b->state == BBR_STARTUP && n < 12; n++) round_trip(p, 0); /* it stays as it is: that is all there is */
    assert_true(b->full_bw_reached);
}

static void what_a_full_peer_held_back_is_not_the_paths_rate(void **state)
{
    struct path *p = start();
    until(p, BBR_CRUISE, 40);
    struct bbr *b = bbr_of(&p->cc);
    p->limit = BDP / 2;
    for (int i = 0; i < 3; i++) round_trip(p, 60);
    assert_true(b->bw_short <= 0);
    assert_true(b->inflight_short != BBR_INFINITE); /* but no more in flight than that */
}

static void the_lowest_round_trip_is_looked_for(void **state)
{
    struct path *p = start();
    until(p, BBR_PROBE_RTT, 400);
    assert_true(p->now - 10000000 > 8000000 && p->now - 10000000 < 11000000);
    round_trip(p, 0);
    assert_true(p->cc.cwnd <= (BDP / 2 + BDP / 20) * MSS);
    uint32_t low = p->cc.cwnd;
    uint64_t from = p->now;
    for (int i = 0; bbr_of(&p->cc)->state == BBR_PROBE_RTT && i < 40; i++) round_trip(p, 0);
    assert_true(p->now - from >= 150000 && p->now - from < 600000);
    assert_true(p->cc.cwnd > low);
}

static void few_losses_are_the_paths(void **state)
{
    struct path *p = start();
    until(p, BBR_CRUISE, 40);
    struct bbr *b = bbr_of(&p->cc);
    for (int i = 0; i < 5; i++) round_trip(p, 10);
    assert_int_equal(b->inflight_short, BBR_INFINITE);
    assert_true(b->bw_short <= 0);
    for (int i = 0; i < 3; i++) round_trip(p, 60); /* too many */
    assert_true(b->inflight_short != BBR_INFINITE && b->bw_short > 0);
    assert_true(tn_bbr_bw(b) >= 0.3 * 10e6); /* 0.7 a round at most */
    until(p, BBR_REFILL, 100);
    assert_int_equal(b->inflight_short, BBR_INFINITE); /* until the next probe */
}

static void losses_end_a_probe(void **state)
{
    struct path *p = start();
    until(p, BBR_UP, 140);
    struct bbr *b = bbr_of(&p->cc);
    round_trip(p, 50);
    assert_int_equal(b->state, BBR_DOWN);
    assert_true(b->probed_too_high);
    assert_true(b->inflight_long != BBR_INFINITE && b->inflight_long >= BDP * MSS * 7 / 10);
    until(p, BBR_CRUISE, 30);
    assert_true(p->cc.cwnd <= b->inflight_long);
    assert_true(tn_bbr_with_headroom(&p->cc) < b->inflight_long);
    uint32_t bound = b->inflight_long;
    /* It was a mistake: the bound goes, and probing is taken up again. */
    p->cc.ops->on_undo(&p->cc, &p->rate, p->now);
    assert_true(b->inflight_long >= bound);
}

static void a_shared_bottleneck(void **state)
{
    struct path *p = start();
    until(p, BBR_UP, 140);
    struct bbr *b = bbr_of(&p->cc);
    b->shared = true;
    struct bbr_flight *f = p->cc.flight;
    for (int i = 0; i < 20; i++) {
        struct bbr_now n = {&p->cc, b, f, NULL, 0};
        raise_slope(&n);
    }
    assert_true(f->up_acked_per_inc >= p->cc.cwnd / 8);
    b->probe_sample = true;
    struct tn_rec rec = {.seq = 1, .len = MSS, .mark = {.in_flight = 600 * MSS, .lost = p->rate.lost}};
    p->rate.lost += MSS;
    p->cc.ops->on_segment_lost(&p->cc, &rec, &p->rate, true, p->now); /* one is enough */
    assert_int_equal(b->state, BBR_DOWN);
    assert_true(b->inflight_long <= 430 * MSS);
}

static void pauses_keep_the_rate(void **state)
{
    struct path *p = start();
    until(p, BBR_CRUISE, 40);
    struct bbr *b = bbr_of(&p->cc);
    uint64_t pace = p->cc.pace;
    uint32_t cwnd = p->cc.cwnd;
    p->una = p->nxt;
    memset(p->flight, 0, sizeof p->flight); /* everything was acknowledged, and for seven seconds there was nothing */
    p->now += 7000000;
    tn_rate_start(&p->rate, p->now);
    p->cc.ops->on_start(&p->cc, 7000000, RTT, RTT * 4, p->now);
    assert_true(p->cc.pace > pace / 2 && p->cc.pace < pace * 2);
    assert_true(p->cc.cwnd >= cwnd / 2);
    round_trip(p, 0);
    assert_int_not_equal(b->state, BBR_PROBE_RTT); /* the pause was the drain */
}

/* A gigabyte a second over 100 us: what the ends sleep, a megabyte, is in flight once and not twice. */
static void lumps_and_sleep_are_the_same(void **state)
{
    enum { BW = 1000000000, RTT_US = 100, PRODUCT = BW / 1000000 * RTT_US, SLEEP = BW / 1000000 * TN_PACE_AHEAD_US };
    struct path *p = start();
    struct bbr *b = bbr_of(&p->cc);
    struct bbr_flight *f = p->cc.flight;
    b->max_bw[0] = BW;
    b->min_rtt_us = RTT_US;
    assert_true(tn_bbr_inflight(&p->cc, 2) >= 2 * PRODUCT + SLEEP - MSS && tn_bbr_inflight(&p->cc, 2) <= 2 * PRODUCT + SLEEP + MSS);
    f->extra[0] = SLEEP / 2;
    assert_int_equal(tn_bbr_extra(&p->cc), 0);
    f->extra[1] = SLEEP + PRODUCT;
    assert_true(tn_bbr_extra(&p->cc) >= PRODUCT - MSS && tn_bbr_extra(&p->cc) <= PRODUCT + MSS);
    f->extra[0] = 100 * SLEEP; /* a busy end's */
    assert_true(tn_bbr_extra(&p->cc) >= 2 * PRODUCT + SLEEP / 2 - MSS && tn_bbr_extra(&p->cc) <= 2 * PRODUCT + SLEEP / 2 + MSS);
    b->min_rtt_us = 50 * TN_PACE_AHEAD_US; /* on a long path they are the path's */
    assert_true(tn_bbr_extra(&p->cc) >= 99 * SLEEP - MSS && tn_bbr_extra(&p->cc) <= 99 * SLEEP + MSS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rate_of_a_train), cmocka_unit_test(rates_that_say_nothing),
        cmocka_unit_test(late_timers_lose_nothing), cmocka_unit_test(fractions_add_up), cmocka_unit_test(quanta),
        cmocka_unit_test(startup_fills_the_pipe), cmocka_unit_test(startup_ends_where_others_fill_the_pipe),
        cmocka_unit_test(a_longer_round_trip_alone_costs_a_second), cmocka_unit_test(only_full_rounds_tell_of_others),
        cmocka_unit_test(the_lowest_round_trip_is_looked_for), cmocka_unit_test(few_losses_are_the_paths),
        cmocka_unit_test(losses_count_where_there_is_a_queue), cmocka_unit_test(a_few_losses_do_not_end_startup), cmocka_unit_test(a_peer_that_opens_slowly_is_not_the_path),
        cmocka_unit_test(what_a_full_peer_held_back_is_not_the_paths_rate), cmocka_unit_test(losses_end_a_probe), cmocka_unit_test(a_shared_bottleneck),
        cmocka_unit_test(pauses_keep_the_rate), cmocka_unit_test(lumps_and_sleep_are_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
