/* Bytes in both directions, segment by segment: timestamps, delayed ACKs, windows, SACK from both ends,
 * retransmission. */
#include "script.h"

enum { MSS = 1228 };

/* ---- timestamps ---- */

static void old_timestamps_are_rejected(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    s->tsval = 5000;
    s_in(s, A, 0, 0, 512, 10);
    s_discard(s);
    s->tsval = 999; /* before the SYN */
    s_in(s, A, 10, 0, 512, 10);
    s_expect(s, A, 0, 10, 0);
    assert_int_equal(tn_tcp_readable(s->c), 10);
    s->ts = false; /* the option left out although it was agreed on */
    s_in(s, A, 10, 0, 512, 10);
    s_none(s);
    assert_int_equal(tn_tcp_readable(s->c), 10);
    s->ts = true;
    s->tsval = 999;
    s_in(s, R, 10, 0, 0, 0); /* resets are not subject to it */
    assert_int_equal(s->closed, 1);
    s_free(s);
}

/* The peer sent 0 (lost), 10, 20 (late), 30, and 0 again, which arrives before 20 does. */
static void what_a_retransmission_overtook_is_taken(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    s->tsval = 5001;
    s_in(s, A, 10, 0, 512, 10);
    s->tsval = 5003;
    s_in(s, A, 30, 0, 512, 10);
    s->tsval = 5040;
    s_in(s, A, 0, 0, 512, 10);
    assert_int_equal(tn_tcp_readable(s->c), 20);
    s->tsval = 5002;
    s_in(s, A, 20, 0, 512, 10);
    assert_int_equal(tn_tcp_readable(s->c), 40);
    assert_int_equal(s->c->ts_recent, 5040); /* what is echoed stays the newest */
    s_free(s);
}

/* The floor follows a gigabyte or two behind, so that it is always younger than what has wrapped. */
static void timestamps_protect_against_wrapped_numbers(void **state)
{
    struct script *s = s_new();
    const uint64_t gib = 1 << 30;
    s_connect(s);
    s->c->bytes_received = gib - 5;
    s->tsval = 5000;
    s_in(s, A, 0, 0, 512, 10);
    s->tsval = 4000; /* before that gigabyte was over, and yet not too old */
    s_in(s, A, 10, 0, 512, 10);
    assert_int_equal(tn_tcp_readable(s->c), 20);
    s->c->bytes_received = 2 * gib - 5;
    s->tsval = 6000;
    s_in(s, A, 20, 0, 512, 10);
    s->tsval = 5000;
    s_in(s, A, 30, 0, 512, 10);
    assert_int_equal(tn_tcp_readable(s->c), 40);
    s_discard(s);
    s->tsval = 4999;
    s_in(s, A, 40, 0, 512, 10);
    s_expect(s, A, 0, 40, 0);
    assert_int_equal(tn_tcp_readable(s->c), 40);
    s_free(s);
}

/* A flow that says little for weeks: the clock must not wrap beyond a floor that no gigabyte has moved. */
static void timestamps_of_a_quiet_flow(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    for (int i = 0; i < 10; i++) {
        unsigned days = i % 2 ? 23 : 10;
        s->tsval += days * 24u * 3600 * 1000;
        s->now += days * 24ull * 3600 * 1000000;
        s_in(s, A, 20 * i, 0, 512, 10);
        s->tsval -= 3;
        s_in(s, A, 20 * i + 10, 0, 512, 10);
        s->tsval += 3;
        assert_int_equal(tn_tcp_readable(s->c), 20 * i + 20);
    }
    s_discard(s);
    s->tsval -= 20u * 24 * 3600 * 1000;
    s_in(s, A, 200, 0, 512, 10);
    assert_int_equal(tn_tcp_readable(s->c), 200);
    s_free(s);
}

static void timestamps_after_a_month(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    s->tsval = 1u << 31;
    s_in(s, A, 0, 0, 512, 10);
    s_discard(s);
    s->now += 25ull * 24 * 3600 * 1000000;
    s->tsval = 77; /* the peer's clock has wrapped beyond comparison */
    s_in(s, A, 10, 0, 512, 10);
    assert_int_equal(tn_tcp_readable(s->c), 20);
    s->tsval -= 7u * 24 * 3600 * 1000; /* and from now on it is compared with what was said then */
    s_in(s, A, 20, 0, 512, 10);
    assert_int_equal(tn_tcp_readable(s->c), 20);
    s_free(s);
}

/* ---- acknowledgments ---- */

static void quick_then_delayed_acks(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    int32_t at = 0;
    for (int i = 0; i < TN_TCP_QUICKACKS; i++, at += MSS) {
        s_in(s, A, at, 0, 512, MSS);
        s_expect(s, A, 0, at + MSS, 0);
        s_consume(s, MSS);
    }
    s_discard(s);
    s_in(s, A, at, 0, 512, MSS);
    s_none(s);
    s_in(s, A, at + MSS, 0, 512, MSS);
    s_expect(s, A, 0, at + 2 * MSS, 0); /* every second one */
    at += 2 * MSS;
    s_in(s, A, at, 0, 512, 100);
    s_pass(s, TN_TCP_DELACK_US - 1);
    s_none(s);
    s_pass(s, 1);
    s_expect(s, A, 0, at + 100, 0);
    at += 100;
    s_in(s, A, at, 0, 512, 100);
    s_write(s, 5); /* or with the answer */
    s_expect(s, A, 0, at + 100, 5);
    s_pass(s, 100000);
    s_free(s);
}

static void out_of_order_is_acknowledged_at_once(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    s->c->f.quickacks = 0;
    s_in(s, A, 100, 0, 512, 100);
    struct tn_tcp_seg a = s_expect(s, A, 0, 0, 0);
    assert_int_equal(a.nsack, 1);
    s_in(s, A, 300, 0, 512, 100);
    a = s_expect(s, A, 0, 0, 0);
    assert_int_equal(a.nsack, 2);
    assert_int_equal(a.sack[0].start, 300); /* the newest first */
    assert_int_equal(a.sack[1].start, 100);
    s_in(s, A, 500, 0, 512, 100);
    s_in(s, A, 700, 0, 512, 100);
    s_discard(s);
    s_in(s, A, 200, 0, 512, 100); /* joins 100-200 and 300-400 */
    a = s_expect(s, A, 0, 0, 0);
    assert_int_equal(a.nsack, 3);
    assert_int_equal(a.sack[0].start, 100);
    assert_int_equal(a.sack[0].end, 400);
    assert_int_equal(a.sack[1].start, 700); /* then what was reported last */
    assert_int_equal(a.sack[2].start, 500);
    s_in(s, A, 0, 0, 512, 100);
    a = s_expect(s, A, 0, 400, 0);
    assert_int_equal(tn_tcp_readable(s->c), 400);
    assert_int_equal(a.nsack, 2);
    s_free(s);
}

static void duplicates_are_reported(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    s_in(s, A, 0, 0, 512, 100);
    s_discard(s);
    s_in(s, A, 0, 0, 512, 100); /* all of it again */
    struct tn_tcp_seg a = s_expect(s, A, 0, 100, 0);
    assert_int_equal(a.nsack, 1);
    assert_int_equal(a.sack[0].start, 0);
    assert_int_equal(a.sack[0].end, 100);
    s_in(s, A, 50, 0, 512, 100); /* half of it again */
    a = s_expect(s, A, 0, 150, 0);
    assert_int_equal(a.nsack, 1);
    assert_int_equal(a.sack[0].start, 50);
    assert_int_equal(a.sack[0].end, 100);
    s_in(s, A, 200, 0, 512, 100);
    s_discard(s);
    s_in(s, A, 250, 0, 512, 20); /* inside what waits */
    a = s_expect(s, A, 0, 150, 0);
    assert_int_equal(a.nsack, 2);
    assert_int_equal(a.sack[0].start, 250);
    assert_int_equal(a.sack[0].end, 270);
    assert_int_equal(a.sack[1].start, 200);
    assert_int_equal(a.sack[1].end, 300);
    s_in(s, A, 150, 0, 512, 0);
    assert_int_equal(tn_tcp_readable(s->c), 150);
    s_free(s);
}

static void no_sack_unless_agreed(void **state)
{
    struct script *s = s_new();
    s->sack = false;
    s_connect(s);
    s_in(s, A, 100, 0, 512, 100);
    assert_int_equal(s_expect(s, A, 0, 0, 0).nsack, 0);
    s_in(s, A, 100, 0, 512, 100);
    assert_int_equal(s_expect(s, A, 0, 0, 0).nsack, 0);
    s_free(s);
}

/* ---- the window we offer ---- */

static uint32_t edge(struct script *s, const struct tn_tcp_seg *a) { return a->ack + ((uint32_t)a->window << WSCALE); }

static void window_closes_and_opens(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    uint32_t highest = 65535;
    int32_t at = 0;
    while (at < 65535) {
        size_t n = 65535 - at < MSS ? (size_t)(65535 - at) : MSS;
        s_in(s, A, at, 0, 512, n);
        at += (int32_t)n;
        while (!s_empty(s)) {
            struct tn_tcp_seg a = s_take(s);
            assert_true(edge(s, &a) + (1u << WSCALE) - 1 >= highest);
            if (edge(s, &a) > highest) highest = edge(s, &a);
        }
    }
    s_pass(s, 50000);
    s_discard(s);
    assert_int_equal(tn_tcp_readable(s->c), 65535);
    uint32_t beyond = s->c->rcv_adv - s->c->rcv_nxt; /* what rounding to the scale has left open */
    assert_true(beyond <= TN_CHUNK);
    for (size_t n; (n = s->c->rcv_adv - s->c->rcv_nxt); at += (int32_t)n) {
        if (n > MSS) n = MSS;
        s_in(s, A, at, 0, 512, n);
        s_discard(s);
    }
    s_in(s, A, at, 0, 512, 300); /* does not fit */
    struct tn_tcp_seg a = s_expect(s, A, 0, at, 0);
    assert_int_equal(tn_tcp_readable(s->c), at);
    assert_int_equal(a.window, 0);
    s_consume(s, 100); /* crumbs don't open it */
    s_none(s);
    s_consume(s, 8000);
    a = s_take(s);
    assert_true(a.window << WSCALE >= 1240 && a.window << WSCALE <= 8192);
    s_consume(s, tn_tcp_readable(s->c));
    a = s_take(s);
    assert_true(a.window << WSCALE >= 60000);
    s_free(s);
}

static void window_follows_the_reader(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    int32_t at = 0;
    uint32_t first = s->c->rcv_buf;
    for (int round = 0; round < 12; round++) { /* 40 segments per 10 ms round trip, read at once */
        uint32_t echo = s->tsecr;
        for (int i = 0; i < 40; i++, at += MSS) {
            s->tsecr = echo; /* they were sent a round trip ago */
            s_in(s, A, at, 0, 512, MSS);
            s_consume(s, MSS);
            s_discard(s);
        }
        s_pass(s, 10000);
    }
    assert_int_equal(first, 65536);
    assert_true(s->c->rcv_buf >= 3 * 40 * MSS && s->c->rcv_buf <= 5 * 40 * MSS);
    s_free(s);
    s = s_new();
    s_connect(s);
    at = 0;
    for (int round = 0; round < 12; round++) { /* the same, hardly read */
        for (int i = 0; i < 4; i++, at += MSS) s_in(s, A, at, 0, 512, MSS);
        s_consume(s, MSS);
        s_discard(s);
        s_pass(s, 10000);
    }
    assert_int_equal(s->c->rcv_buf, 65536);
    s_free(s);
}

static void tiny_segments_cannot_push_the_window(void **state)
{
    struct script *s = s_new_with((struct tn_stack_config){.tcp_buffer_max = 8 * 1024 * 1024});
    s_connect(s);
    for (int32_t at = 0; at < 200000 && seq_lt(s->c->rcv_nxt, s->c->rcv_adv); at++) { /* never read */
        s_in(s, A, at, 0, 512, 1);
        s_discard(s);
    }
    assert_true(tn_tcp_readable(s->c) <= 65536 + TN_CHUNK);
    s_free(s);
}

/* ---- the window we are offered ---- */

static void respects_the_window(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    s_in(s, A, 0, 0, 16, 0); /* 2,048 bytes */
    s_write(s, 5000);
    s_expect(s, A, 0, 0, MSS);
    s_none(s); /* 820 more would fit, which is silly */
    s_in(s, A, 0, MSS, 16, 0);
    s_expect(s, A, MSS, 0, MSS);
    s_in(s, A, 0, 2 * MSS, 0, 0);
    s_none(s);
    s_free(s);
}

static void zero_window_is_probed(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    s_in(s, A, 0, 0, 0, 0);
    s_write(s, 3000);
    s_none(s);
    uint64_t gap = 0;
    for (int i = 0; i < 6; i++) {
        uint64_t at = tn_stack_next_deadline(s->st);
        assert_true(at - s->now >= 2 * gap);
        gap = at - s->now;
        s_pass(s, gap);
        s_expect(s, A, -1, 0, 0);
        s_in(s, A, 0, 0, 0, 0);
        s_none(s);
    }
    assert_int_equal(s->closed, 0);
    s_in(s, A, 0, 0, 512, 0);
    s_expect(s, A, 0, 0, MSS);
    s_expect(s, A, MSS, 0, MSS);
    s_expect(s, A, 2 * MSS, 0, 3000 - 2 * MSS);
    s_free(s);
}

static void silly_window_is_used_in_the_end(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    s_in(s, A, 0, 0, 1, 0); /* 128 bytes */
    s_write(s, 3000);
    s_none(s);
    s_pass(s, 400000);
    s_expect(s, A, 0, 0, 128);
    s_free(s);
}

static void zero_window_without_answers_ends(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    s_in(s, A, 0, 0, 0, 0);
    s_write(s, 10);
    for (int i = 0; i < 900 && !s->closed; i++) {
        s_pass(s, 1000000);
        s_discard(s);
    }
    assert_int_equal(s->close_err, TN_E_TIMEDOUT);
    s_free(s);
}

static void nagle(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    tn_tcp_set_nodelay(s->c, false);
    s_write(s, 10);
    s_expect(s, A, 0, 0, 10);
    s_write(s, 10);
    s_none(s);
    s_write(s, MSS);
    s_expect(s, A, 10, 0, MSS);
    s_in(s, A, 0, 10 + MSS, 512, 0);
    s_expect(s, A, 10 + MSS, 0, 10);
    s_free(s);
}

static void a_batch_ends_with_what_is_not_full(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    tn_stack_batch_begin(s->st);
    s_write(s, MSS + 10);
    s_expect(s, A, 0, 0, MSS);
    s_none(s); /* ten bytes wait for what may come */
    s_write(s, MSS - 10);
    s_expect(s, A, MSS, 0, MSS);
    s_write(s, 7);
    s_none(s);
    tn_stack_batch_end(s->st, s->now);
    s_expect(s, A, 2 * MSS, 0, 7);
    s_none(s);
    s_write(s, 9); /* and outside of one nothing waits */
    s_expect(s, A, 2 * MSS + 7, 0, 9);
    s_free(s);
}

/* A question in a batch and its answer are one segment each, also at the start, when each segment is acknowledged at once. */
static void in_a_batch_an_answer_takes_the_ack_along(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    tn_stack_batch_begin(s->st);
    s_in(s, A, 0, 0, 512, 10);
    s_consume(s, 10);
    s_write(s, 20);
    s_none(s);
    tn_stack_batch_end(s->st, s->now);
    s_expect(s, A, 0, 10, 20);
    s_none(s);
    s_free(s);
}

/* As outside of a batch: what was written before goes before. */
static void a_reset_in_a_batch_comes_behind_the_bytes(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    tn_stack_batch_begin(s->st);
    s_write(s, 10);
    s_none(s);
    tn_tcp_abort(s->c, s->now);
    s_expect(s, A, 0, 0, 10);
    s_expect(s, R | A, 10, 0, 0);
    tn_stack_batch_end(s->st, s->now);
    s_none(s);
    s_free(s);
}

/* Waiting for the batch's end is no answer: without SACK each duplicate is acknowledged on its own, and the end of the
 * stream waits for nothing. */
static void in_a_batch_acks_and_fin_do_not_wait(void **state)
{
    struct script *s = s_new();
    s->sack = false;
    s_connect(s);
    tn_stack_batch_begin(s->st);
    s_write(s, 10);
    s_none(s);
    s_in(s, A, 1000, 0, 512, 10); /* behind a hole */
    s_expect(s, A, 0, 0, 0);
    s_in(s, A, 1010, 0, 512, 10);
    s_expect(s, A, 0, 0, 0);
    tn_tcp_shutdown(s->c, s->now);
    s_expect(s, F | A, 0, 0, 10);
    tn_stack_batch_end(s->st, s->now);
    s_none(s);
    s_free(s);
}

/* ---- retransmission ---- */

/* The handshake with so many SYNs lost; the last one is answered after 30 ms. */
static void connect_losing(struct script *s, int lost)
{
    assert_int_equal(tn_tcp_connect(s->st, &s->local, &s->remote, &s_events, s, s->now, &s->c), 0);
    s_expect(s, S, -1, 0, 0);
    for (int i = 0; i < lost; i++) {
        s_until_sent(s);
        s_expect(s, S, -1, 0, 0);
    }
    s_pass(s, 30000);
    s_in(s, S | A, -1, 0, 65535, 0);
    s_expect(s, A, 0, 0, 0);
}

static void after_a_lost_syn(void **state)
{
    struct script *s = s_new();
    connect_losing(s, 1);
    assert_int_equal(s->c->rtt.srtt_us, 30000); /* by the timestamp */
    assert_int_equal(s->c->cc.cwnd, TN_CC_IW_SEGS * MSS);
    s_free(s);
    s = s_new();
    s->ts = false;
    connect_losing(s, 1);
    assert_int_equal(s->c->rtt.srtt_us, 0);
    assert_int_equal(s->c->rtt.rto_us, 3000000);
    assert_int_equal(s->c->cc.cwnd, TN_CC_IW_SEGS * s->c->cc.mss);
    s_free(s);
    s = s_new();
    connect_losing(s, 2);
    assert_int_equal(s->c->cc.cwnd, MSS);
    s_free(s);
}

/* Without timestamps the ACK of what was sent twice says nothing about the round trip, and the timeout stays as long. */
static void timeout_stays_until_a_round_trip_is_known(void **state)
{
    struct script *s = s_new();
    s->ts = s->sack = false;
    s_connect(s); /* 10 ms: a timeout of 210 */
    for (int i = 0, wait_us = 210000; i < 3; i++, wait_us *= 2) {
        uint64_t start = s->now;
        s_write(s, 10);
        s_expect(s, A, 10 * i, 0, 10);
        s_until_sent(s);
        s_expect(s, A, 10 * i, 0, 10);
        assert_in_range(s->now - start, wait_us - 10000, wait_us + 10000);
        s_pass(s, 1000);
        s_in(s, A, 0, 10 * i + 10, 512, 0);
    }
    s_write(s, 10);
    s_discard(s);
    s_pass(s, 10000);
    s_in(s, A, 0, 40, 512, 0); /* sent once */
    uint64_t start = s->now;
    s_write(s, 10);
    s_discard(s);
    s_until_sent(s);
    assert_true(s->now - start < 230000);
    s_free(s);
}

static void timeout_backs_off(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    s_write(s, 100);
    s_expect(s, A, 0, 0, 100);
    uint64_t sent = s->now, gap = 0;
    for (int i = 0; i < 5; i++) { /* a probe for a single segment would come later than the timeout */
        sent = s->now;
        s_until_sent(s);
        s_expect(s, A, 0, 0, 100);
        if (gap) assert_true(s->now - sent >= 2 * gap - 1000 && s->now - sent <= 2 * gap + 1000);
        gap = s->now - sent;
        if (i == 0) assert_true(gap >= 200000 && gap <= 300000);
    }
    s_in(s, A, 0, 100, 512, 0);
    assert_true(tn_stack_next_deadline(s->st) >= s->now + 1000000);
    s_pass(s, 10 * 1000000);
    s_none(s);
    s_free(s);
}

static void user_timeout(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    s_write(s, 100);
    uint64_t start = s->now;
    for (int i = 0; i < 500 && !s->closed; i++) {
        s_pass(s, 1000000);
        s_discard(s);
    }
    assert_int_equal(s->close_err, TN_E_TIMEDOUT);
    assert_true(s->now - start >= TN_TCP_USER_TIMEOUT_US &&
                s->now - start < TN_TCP_USER_TIMEOUT_US + 65 * 1000000ull);
    s_free(s);
}

/* Ten full segments are in flight. */
static void ten_in_flight(struct script *s)
{
    s_connect(s);
    s_write(s, 20 * MSS);
    for (int32_t i = 0; i < 10; i++) s_expect(s, A, i * MSS, 0, MSS);
    s_none(s);
    s_pass(s, 10000);
}

static void fast_retransmit_by_sack(void **state)
{
    struct script *s = s_new();
    ten_in_flight(s);
    s_sack(s, 0, 512, 1, MSS, 2 * MSS);
    s_expect(s, A, 10 * MSS, 0, MSS); /* limited transmit: one has left the network */
    s_sack(s, 0, 512, 1, MSS, 3 * MSS);
    s_expect(s, A, 11 * MSS, 0, MSS);
    s_sack(s, 0, 512, 1, MSS, 4 * MSS);
    s_expect(s, A, 0, 0, MSS);
    assert_int_equal(s->c->flight->ca, TN_CA_RECOVERY);
    assert_true(s->c->cc.ssthresh == (uint32_t)(10 * MSS * 0.7));
    s_sack(s, 0, 512, 1, MSS, 5 * MSS);
    s_discard(s);
    s_in(s, A, 0, 10 * MSS, 512, 0); /* repaired */
    s_discard(s);
    s_in(s, A, 0, 12 * MSS, 512, 0);
    assert_int_equal(s->c->flight ? s->c->flight->ca : TN_CA_OPEN, TN_CA_OPEN);
    assert_int_equal(s->c->bytes_resent, MSS);
    s_free(s);
}

static void reordering_window_waits(void **state)
{
    struct script *s = s_new();
    ten_in_flight(s);
    s_sack(s, 0, 512, 1, MSS, 2 * MSS);
    s_discard(s);
    s_pass(s, 1000);
    s_none(s);
    s_pass(s, 3000); /* a quarter of the lowest round trip later it counts as lost */
    s_expect(s, A, 0, 0, MSS);
    s_free(s);
}

static void lost_retransmission_is_found(void **state)
{
    struct script *s = s_new();
    ten_in_flight(s);
    s_sack(s, 0, 512, 1, MSS, 4 * MSS);
    s_expect(s, A, 0, 0, MSS);
    s_discard(s);
    s_pass(s, 10000);
    s_sack(s, 0, 512, 1, MSS, 10 * MSS); /* only what was sent before */
    unsigned again = 0, sent_new = 0;
    while (!s_empty(s)) {
        struct tn_tcp_seg seg = s_take(s);
        again += seg.seq == 0;
        sent_new += seg.seq >= 10 * MSS;
    }
    assert_int_equal(again, 0);
    assert_true(sent_new > 0);
    s_pass(s, 12000);
    s_sack(s, 0, 512, 1, MSS, 11 * MSS); /* sent after the retransmission, and here */
    while (!s_empty(s)) again += s_take(s).seq == 0;
    assert_int_equal(again, 1);
    assert_int_equal(s_stats(s).rto_events, 0);
    s_free(s);
}

static void holes_are_filled_in_order(void **state)
{
    struct script *s = s_new();
    ten_in_flight(s);
    s_sack(s, 0, 512, 3, 5 * MSS, 10 * MSS, 3 * MSS, 4 * MSS, MSS, 2 * MSS);
    int32_t expected[] = {0, 2 * MSS, 4 * MSS};
    unsigned i = 0;
    for (int n = 0; n < 50 && i < 3; n++) {
        while (!s_empty(s)) {
            struct tn_tcp_seg seg = s_take(s);
            if ((int32_t)seg.seq < 10 * MSS) assert_int_equal((int32_t)seg.seq, expected[i++]);
        }
        s_pass(s, 500);
        s_sack(s, 0, 512, 3, 5 * MSS, 10 * MSS, 3 * MSS, 4 * MSS, MSS, 2 * MSS);
        if (n == 3) s_in(s, A, 0, 2 * MSS, 512, 0);
    }
    assert_int_equal(i, 3);
    s_free(s);
}

static void tail_loss_probe(void **state)
{
    struct script *s = s_new();
    ten_in_flight(s);
    s_in(s, A, 0, 8 * MSS, 512, 0); /* the last two are lost; more is sent, all of it lost */
    s_discard(s);
    uint64_t start = s->now;
    s_until_sent(s);
    struct tn_tcp_seg probe = s_take(s);
    assert_true(s->now - start < 100000); /* long before the timeout */
    assert_int_equal(probe.seq, 19 * MSS); /* everything is out, so the last segment again */
    s_pass(s, 10000);
    s_sack(s, 8 * MSS, 512, 1, 19 * MSS, 20 * MSS);
    s_discard(s);
    s_pass(s, 20000);
    assert_int_equal(s->c->flight->ca, TN_CA_RECOVERY);
    assert_int_equal(s_stats(s).rto_events, 0);
    s_free(s);
}

/* Four segments, the last one probed for after all were sent; acked of them are acknowledged before. */
static uint32_t probe_the_fourth(struct script *s, int acked)
{
    s_connect(s);
    s_write(s, 4 * MSS);
    s_discard(s);
    s_pass(s, 10000);
    if (acked) s_in(s, A, 0, acked * MSS, 512, 0);
    uint32_t cwnd = s->c->cc.cwnd;
    s_until_sent(s);
    s_expect(s, A, 3 * MSS, 0, MSS);
    assert_int_equal(s_stats(s).rto_events, 0);
    s_pass(s, 10000);
    return cwnd;
}

static void probe_that_repaired_a_loss_reduces(void **state)
{
    struct script *s = s_new();
    uint32_t cwnd = probe_the_fourth(s, 0);
    s_in(s, A, 0, 4 * MSS, 512, 0); /* of the copy, or of the late segment: it does not say */
    assert_true(s->c->cc.cwnd >= cwnd && s->c->cc.ssthresh == TN_SSTHRESH_NONE);
    s_write(s, MSS);
    s_discard(s);
    s_in(s, A, 0, 5 * MSS, 512, 0); /* no second copy was reported */
    assert_true(s->c->cc.cwnd < cwnd && s->c->cc.ssthresh < cwnd);
    s_free(s);
}

static void probe_for_what_was_late_reduces_nothing(void **state)
{
    for (int idle = 0; idle < 2; idle++) { /* with new data under way when the copy is reported, and without */
        struct script *s = s_new();
        uint32_t cwnd = probe_the_fourth(s, 0);
        s_in(s, A, 0, 4 * MSS, 512, 0);
        if (!idle) s_write(s, MSS);
        s_sack(s, 4 * MSS, 512, 1, 3 * MSS, 4 * MSS);
        if (idle) s_write(s, MSS);
        s_discard(s);
        s_in(s, A, 0, 5 * MSS, 512, 0);
        assert_true(s->c->cc.cwnd >= cwnd && s->c->cc.ssthresh == TN_SSTHRESH_NONE);
        s_free(s);
    }
}

static void dupacks_without_sack(void **state)
{
    struct script *s = s_new();
    s->sack = false;
    ten_in_flight(s);
    s_in(s, A, 0, 0, 512, 0); /* changes the window: not a duplicate */
    s_none(s);
    s_in(s, A, 0, 0, 512, 0);
    s_expect(s, A, 10 * MSS, 0, MSS);
    s_in(s, A, 0, 0, 512, 0);
    s_expect(s, A, 11 * MSS, 0, MSS);
    s_in(s, A, 0, 0, 512, 0);
    s_expect(s, A, 0, 0, MSS);
    assert_int_equal(s->c->flight->ca, TN_CA_RECOVERY);
    s_discard(s);
    s_in(s, A, 0, 3 * MSS, 512, 0); /* partial: the next hole is there */
    bool found = false;
    while (!s_empty(s)) found |= s_take(s).seq == 3 * MSS;
    assert_true(found);
    s_in(s, A, 0, 12 * MSS, 512, 0);
    assert_true(!s->c->flight || s->c->flight->ca == TN_CA_OPEN);
    s_free(s);
}

static void mistaken_timeout_is_undone(void **state)
{
    struct script *s = s_new();
    ten_in_flight(s);
    uint32_t cwnd = s->c->cc.cwnd, old_echo = s->tsecr;
    while (s_stats(s).rto_events == 0) s_pass(s, tn_stack_next_deadline(s->st) - s->now);
    assert_true(s->c->cc.cwnd < cwnd);
    s_discard(s);
    s->tsecr = old_echo; /* the first transmissions arrive after all */
    s_in(s, A, 0, 2 * MSS, 512, 0);
    assert_true(s->c->cc.cwnd >= cwnd);
    assert_int_equal(s->c->flight->ca, TN_CA_OPEN);
    while (!s_empty(s)) assert_true(s_take(s).seq >= 10 * MSS); /* nothing is sent twice any more */
    s_free(s);
}

static bool is_host(void *ctx, const struct tn_ip *remote) { return tn_ip_eq(remote, ctx); }

/* The path was dead for some seconds and there is another one: what was lost goes there now. */
static void hastened_after_timeouts(void **state)
{
    struct script *s = s_new();
    ten_in_flight(s);
    struct tn_ip host = s->c->f.remote.ip, other = tn_ip4(192, 0, 2, 99);
    tn_stack_hasten(s->st, is_host, &host, s->now);
    assert_true(tn_stack_next_deadline(s->st) > s->now); /* nothing was late: nothing is hastened */
    while (s_stats(s).rto_events < 4) s_pass(s, tn_stack_next_deadline(s->st) - s->now);
    s_discard(s);
    uint64_t wait_us = tn_stack_next_deadline(s->st) - s->now;
    assert_true(wait_us > 1000000);
    tn_stack_hasten(s->st, is_host, &other, s->now);
    assert_true(tn_stack_next_deadline(s->st) - s->now == wait_us);
    tn_stack_hasten(s->st, is_host, &host, s->now);
    s_pass(s, 1);
    assert_int_equal(s_take(s).seq, 0);
    assert_true(tn_stack_next_deadline(s->st) - s->now < wait_us); /* and the timer starts small again */
    s_free(s);
}

static void mistaken_retransmission_is_undone_by_dsack(void **state)
{
    struct script *s = s_new();
    s->ts = false;
    s_connect(s);
    s_write(s, 20 * 1240);
    s_discard(s);
    s_pass(s, 10000);
    uint32_t cwnd = s->c->cc.cwnd;
    s_sack(s, 0, 512, 1, 1240, 4 * 1240);
    assert_true(s->c->cc.ssthresh < cwnd);
    s_discard(s);
    s_sack(s, 4 * 1240, 512, 0); /* it was only late */
    s_discard(s);
    s_sack(s, 4 * 1240, 512, 1, 0, 1240); /* and the retransmission came too */
    assert_true(s->c->cc.cwnd >= cwnd);
    assert_true(s->c->cc.ssthresh == TN_SSTHRESH_NONE);
    assert_true(s->c->reo_mult > 1);
    s_free(s);
}

static void reneging_receiver(void **state)
{
    struct script *s = s_new();
    ten_in_flight(s);
    s_sack(s, 0, 512, 1, MSS, 10 * MSS);
    s_discard(s);
    s_in(s, A, 0, MSS, 512, 0); /* the hole is filled, and what was reported is gone */
    s_discard(s);
    for (int i = 0; i < 20 && s_stats(s).rto_events == 0; i++) s_pass(s, tn_stack_next_deadline(s->st) - s->now);
    bool found = false;
    while (!s_empty(s)) found |= s_take(s).seq == MSS;
    assert_true(found);
    assert_int_equal(s->c->flight->recs.sacked, 0);
    s_in(s, A, 0, 10 * MSS, 512, 0);
    assert_int_equal(s->c->snd_una - s->iss - 1, 10 * MSS);
    s_free(s);
}

static void sack_nonsense_is_ignored(void **state)
{
    struct script *s = s_new();
    ten_in_flight(s);
    s_sack(s, 0, 512, 3, 50 * MSS, 60 * MSS, 3 * MSS, 2 * MSS, -500 * MSS, -400 * MSS);
    s_sack(s, 0, 512, 1, 5 * MSS, 500 * MSS);
    s_sack(s, 0, 512, 1, 1, MSS); /* not a whole segment */
    assert_int_equal(s->c->flight->recs.sacked, 0);
    assert_int_equal(s->c->flight->recs.lost, 0);
    s_free(s);
}

/* ---- memory ---- */

static void idle_flows_hold_nothing(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    s_write(s, 5000);
    s_in(s, A, 0, 0, 512, 100);
    assert_true(s_stats(s).chunk_bytes > 0);
    s_consume(s, 100);
    s_in(s, A, 100, 5000, 512, 0);
    assert_int_equal(s_stats(s).chunk_bytes, 0);
    assert_null(s->c->flight);
    assert_true(sizeof(struct tn_tcp) <= 536);
    s_free(s);
}

static void reserve_and_commit(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    struct iovec v[4];
    int n = tn_tcp_reserve(s->c, v, 4, 9000);
    assert_true(n >= 2);
    memset(v[0].iov_base, 7, v[0].iov_len);
    tn_tcp_commit(s->c, 100, s->now);
    s_expect(s, A, 0, 0, 100);
    n = tn_tcp_reserve(s->c, v, 4, 9000);
    assert_true(n >= 2);
    s_in(s, A, 0, 100, 512, 0); /* everything before is acknowledged meanwhile */
    memset(v[0].iov_base, 8, v[0].iov_len);
    tn_tcp_commit(s->c, 0, s->now); /* nothing came of it */
    assert_int_equal(s_stats(s).chunk_bytes, 0);
    assert_int_equal(tn_tcp_reserve(s->c, v, 4, 0), 0);
    tn_tcp_commit(s->c, 0, s->now);
    s_in(s, R, 0, 0, 0, 0);
    s_free(s);
}

static void short_writes_and_wakeups(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    static const uint8_t bytes[100000];
    long took = tn_tcp_write(s->c, bytes, sizeof bytes, s->now);
    assert_int_equal(took, 10 * MSS + TN_TCP_SNDBUF_START); /* in flight, and behind it */
    assert_int_equal(tn_tcp_space(s->c), 0);
    struct iovec v;
    assert_int_equal(tn_tcp_reserve(s->c, &v, 1, 100), 0);
    s_discard(s);
    s_in(s, A, 0, MSS, 512, 0);
    assert_int_equal(s->writable, 0); /* not for crumbs */
    s_in(s, A, 0, 10 * MSS, 512, 0);
    assert_int_equal(s->writable, 1);
    assert_true(tn_tcp_space(s->c) >= 8 * MSS);
    s_free(s);
}

/* A peak's memory goes back within half a second, and then nobody looks again. */
static void a_peak_goes_back_soon(void **state)
{
    enum { CHUNKS = 1000 };
    struct script *s = s_new();
    s_connect(s);
    struct tn_pool *p = &s->st->pool;
    static uint8_t *chunk[CHUNKS];
    for (int i = 0; i < CHUNKS; i++) assert_non_null(chunk[i] = tn_pool_get(p, 0));
    for (int i = 0; i < CHUNKS; i++) tn_pool_put(p, chunk[i]);
    unsigned peak = p->nslabs;
    tn_stack_timeout(s->st, s->now); /* the call in which it was noticed */
    assert_int_equal(p->nslabs, peak);
    for (int i = 0; i < 5; i++) s_pass(s, 100000);
    assert_int_equal(p->nslabs, TN_POOL_SPARE_SLABS);
    assert_true(tn_stack_next_deadline(s->st) > s->now + 1000000);
    s_free(s);
}

static void what_may_wait_unsent(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    struct tn_cc *cc = &s->c->cc;
    static const struct {
        uint32_t cwnd;
        uint64_t pace, ahead;
    } cases[] = {
        {10000, 0, TN_TCP_SNDBUF_START},
        {1000000, 0, 500000},                      /* not paced */
        {1000000, 12500000, 500000},               /* 80 ms */
        {1000000, 700000000, 700000},              /* a turn's bytes are more than half */
        {1000000, 2000000000, 1000000},            /* and no more than a window */
        {20000000, 125000000, TN_TCP_AHEAD_MAX},
        {3000000, 1ull << 50, TN_TCP_AHEAD_MAX},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cc->cwnd = cases[i].cwnd;
        cc->pace = cases[i].pace;
        assert_int_equal(tn_tcp_send_ahead(s->c), cases[i].ahead);
    }
    s_free(s);
}

/* A stalled crowd holds what it may; a newcomer still gets through (dynamic thresholds, pool.h). */
static void stalled_flows_leave_room(void **state)
{
    enum { BUDGET = 1024 * 1024, CROWD = 40 };
    struct script *s = s_new_with((struct tn_stack_config){.budget = BUDGET});
    s_listen(s);
    for (int i = 0; i <= CROWD; i++) {
        s->remote.port = (uint16_t)(THEIRS + i);
        s_in(s, S, -1, 0, 65535, 0);
        s_take(s);
        s_in(s, A, 0, 0, 512, 0);
        bool last = i == CROWD;
        for (int32_t at = 0; at < (last ? 2 * MSS : 60000); at += MSS) s_in(s, A, at, 0, 512, MSS);
        s_discard(s);
        assert_true(s_stats(s).chunk_bytes <= BUDGET);
        assert_true(tn_tcp_readable(s->c) >= MSS);
        if (i == 0) assert_true(tn_tcp_readable(s->c) > 50000);
        if (last) {
            s_consume(s, tn_tcp_readable(s->c));
            s_in(s, A, 2 * MSS, 0, 512, MSS);
            assert_true(tn_tcp_readable(s->c) >= MSS);
        }
    }
    s_free(s);
}

/* Who finds the pool empty is told when there is memory again. */
static void waits_for_memory(void **state)
{
    enum { BUDGET = 1024 * 1024 };
    struct script *s = s_new_with((struct tn_stack_config){.budget = BUDGET});
    s_connect(s);
    tn_pool_charge(&s->st->pool, BUDGET);
    assert_int_equal(tn_tcp_write(s->c, "x", 1, s->now), 0);
    s_in(s, A, 0, 0, 512, MSS); /* nowhere to put it */
    struct tn_tcp_seg a = s_expect(s, A, 0, 0, 0);
    assert_int_equal(tn_tcp_readable(s->c), 0);
    assert_int_equal(s->writable, 0);
    assert_true(a.window << WSCALE >= 60000); /* announced before: it does not shrink */
    assert_true(tn_stack_next_deadline(s->st) > s->now);
    tn_pool_uncharge(&s->st->pool, BUDGET);
    assert_true(tn_stack_next_deadline(s->st) <= s->now);
    s_pass(s, 0);
    assert_int_equal(s->writable, 1);
    assert_int_equal(tn_tcp_write(s->c, "x", 1, s->now), 1);
    s_expect(s, A, 0, 0, 1);
    s_in(s, A, 0, 1, 512, MSS);
    assert_int_equal(tn_tcp_readable(s->c), MSS);
    s_free(s);
}

static void bytes_in_order_beat_bytes_out_of_order(void **state)
{
    struct script *s = s_new_with((struct tn_stack_config){.budget = 1024 * 1024});
    s_connect(s);
    for (int32_t at = 20 * MSS; at < 50 * MSS; at += MSS) s_in(s, A, at, 0, 512, MSS);
    size_t held = s_stats(s).chunk_bytes, others = 1024 * 1024 - 65536 - held;
    assert_true(held > 30 * MSS);
    tn_pool_charge(&s->st->pool, others); /* not a chunk more for this flow */
    for (int32_t at = 0; at < 20 * MSS; at += MSS) s_in(s, A, at, 0, 512, MSS);
    assert_int_equal(tn_tcp_readable(s->c), 20 * MSS);
    assert_null(s->c->reass);
    tn_pool_uncharge(&s->st->pool, others);
    s_free(s);
}

/* ---- calls from callbacks ---- */

static void reading_after_abort(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    struct script *s = arg;
    s->readable++;
    tn_tcp_abort(c, now_us);
    tn_tcp_abort(c, now_us); /* harmless until the call returns */
    assert_int_equal(tn_tcp_readable(c), 0);
    assert_int_equal(tn_tcp_space(c), 0);
    assert_true(tn_tcp_write(c, "x", 1, now_us) < 0);
    tn_tcp_shutdown(c, now_us);
    tn_tcp_release(c, now_us);
}

static void freed_in_its_own_callback(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    static const struct tn_tcp_events ev = {.on_readable = reading_after_abort};
    tn_tcp_set_events(s->c, &ev, s);
    s_in(s, A, 0, 0, 512, 10);
    assert_int_equal(s->readable, 1);
    assert_int_equal(s_stats(s).flows, 0);
    s_free(s);
}

struct loop {
    struct tn_stack *st;
    uint64_t rng, received;
    unsigned depth, deepest;
};

static void loop_output(void *ctx, uint8_t *packet, size_t len)
{
    struct loop *l = ctx;
    if (++l->depth > l->deepest) l->deepest = l->depth;
    uint8_t copy[1500];
    memcpy(copy, packet, len);
    if (l->depth < 200) tn_stack_input(l->st, copy, len, 1000000); /* at once, inside the call that sends */
    l->depth--;
}

static void loop_read(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    struct loop *l = arg;
    l->received += tn_tcp_readable(c);
    tn_tcp_consume(c, tn_tcp_readable(c), now_us);
    if (tn_tcp_eof(c)) tn_tcp_shutdown(c, now_us);
}

static void loop_write(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    static const uint8_t bytes[20000];
    tn_tcp_write(c, bytes, sizeof bytes, now_us);
    tn_tcp_shutdown(c, now_us);
}

static int loop_accept(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    static const struct tn_tcp_events ev = {.on_readable = loop_read};
    tn_tcp_set_events(c, &ev, arg);
    return 0;
}

static void packets_that_come_back_at_once(void **state)
{
    struct loop l = {.rng = 5};
    struct tn_stack_config config = {.rng = tn_rng_seeded(&l.rng), .cb.output = loop_output, .ctx = &l};
    l.st = tn_stack_new(&config);
    struct tn_ip own = tn_ip4(100, 64, 0, 1);
    struct tn_addrport at = {own, 80};
    struct tn_tcp_listener *listener;
    struct tn_tcp *c;
    static const struct tn_tcp_events ev = {.on_open = loop_write, .on_readable = loop_read};
    assert_int_equal(tn_stack_set_addrs(l.st, &own, 1, 0), 0);
    assert_int_equal(tn_tcp_listen(l.st, &at, 5, loop_accept, &l, &listener), 0);
    assert_int_equal(tn_tcp_connect(l.st, NULL, &at, &ev, &l, 1000000, &c), 0);
    uint64_t now = 1000000;
    for (int i = 0; i < 10000 && tn_stack_next_deadline(l.st) != TN_NEVER; i++) {
        if (tn_stack_next_deadline(l.st) > now) now = tn_stack_next_deadline(l.st);
        tn_stack_timeout(l.st, now);
    }
    assert_int_equal(l.received, 20000);
    struct tn_stack_stats stats;
    tn_stack_stats(l.st, &stats);
    assert_int_equal(stats.flows, 0);
    assert_int_equal(stats.chunk_bytes, 0);
    assert_true(l.deepest < 100);
    tn_stack_free(l.st);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(old_timestamps_are_rejected),
        TEST(what_a_retransmission_overtook_is_taken),
        TEST(timestamps_protect_against_wrapped_numbers),
        TEST(timestamps_of_a_quiet_flow),
        TEST(timestamps_after_a_month),
        TEST(quick_then_delayed_acks),
        TEST(out_of_order_is_acknowledged_at_once),
        TEST(duplicates_are_reported),
        TEST(no_sack_unless_agreed),
        TEST(window_closes_and_opens),
        TEST(window_follows_the_reader),
        TEST(tiny_segments_cannot_push_the_window),
        TEST(respects_the_window),
        TEST(zero_window_is_probed),
        TEST(silly_window_is_used_in_the_end),
        TEST(zero_window_without_answers_ends),
        TEST(nagle),
        TEST(a_batch_ends_with_what_is_not_full),
        TEST(in_a_batch_an_answer_takes_the_ack_along),
        TEST(in_a_batch_acks_and_fin_do_not_wait),
        TEST(a_reset_in_a_batch_comes_behind_the_bytes),
        TEST(after_a_lost_syn),
        TEST(timeout_stays_until_a_round_trip_is_known),
        TEST(timeout_backs_off),
        TEST(user_timeout),
        TEST(fast_retransmit_by_sack),
        TEST(reordering_window_waits),
        TEST(lost_retransmission_is_found),
        TEST(holes_are_filled_in_order),
        TEST(tail_loss_probe),
        TEST(probe_that_repaired_a_loss_reduces),
        TEST(probe_for_what_was_late_reduces_nothing),
        TEST(dupacks_without_sack),
        TEST(mistaken_timeout_is_undone),
        TEST(hastened_after_timeouts),
        TEST(mistaken_retransmission_is_undone_by_dsack),
        TEST(reneging_receiver),
        TEST(sack_nonsense_is_ignored),
        TEST(idle_flows_hold_nothing),
        TEST(reserve_and_commit),
        TEST(short_writes_and_wakeups),
        TEST(a_peak_goes_back_soon),
        TEST(what_may_wait_unsent),
        TEST(stalled_flows_leave_room),
        TEST(waits_for_memory),
        TEST(bytes_in_order_beat_bytes_out_of_order),
        TEST(freed_in_its_own_callback),
        TEST(packets_that_come_back_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
