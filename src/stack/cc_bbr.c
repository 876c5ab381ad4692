/* BBR, version 3: what is done about the model (bbr.h, bbr_model.c).
 *
 * Startup doubles the rate every round until it no longer brings more bandwidth, or others' queue says that the pipe is
 * full; Drain lets go the queue that this made. Then it cycles: DOWN leaves room for others, CRUISE holds the rate for
 * two or three seconds (less on short paths, where Reno would probe sooner too), REFILL fills the pipe for a round, UP
 * asks for more until bandwidth stops growing, losses say stop, or a queue of its own says that the pipe is full.
 * PROBE_RTT drains for 200 ms every eight seconds, every five where others make a queue, unless the flow pauses by
 * itself. */
#include "stack/bbr.h"
#include "stack/sack.h"
#include "stack/seq.h"

#include <stddef.h>

/* Section 5.6 of the draft, table of gains. */
static const struct {
    float pacing, cwnd;
} gains[] = {
    [BBR_STARTUP] = {2.77f, 2}, [BBR_DRAIN] = {0.5f, 2}, [BBR_DOWN] = {0.9f, 2}, [BBR_CRUISE] = {1, 2},
    [BBR_REFILL] = {1, 2}, [BBR_UP] = {1.25f, 2.25f}, [BBR_PROBE_RTT] = {1, 0.5f},
};

static void bbr_init(struct tn_cc *cc)
{
    struct bbr *b = bbr_of(cc);
    *b = (struct bbr){.state = BBR_STARTUP, .inflight_long = BBR_INFINITE, .inflight_short = BBR_INFINITE};
    cc->pace = 0;
}

static uint64_t at_least_one(double rate) { return rate < 1 ? 1 : (uint64_t)rate; }

/* Never less than two segments a round trip, whatever was measured in a blackout: the timeout must stay the
 * slowest. */
static void set_pace(struct tn_cc *cc, double gain, uint32_t srtt_us)
{
    const struct bbr *b = bbr_of(cc);
    double bw = tn_bbr_bw(b), least = srtt_us ? 2e6 * cc->mss / srtt_us : 0;
    if (bw <= 0) return;
    double wanted = gain * bw * BBR_MARGIN;
    uint64_t rate = at_least_one(wanted > least ? wanted : least);
    if (b->full_bw_reached || rate > cc->pace) cc->pace = rate;
}

/* ---- transitions ---- */

/* Rounds after which Reno would have asked for as much more as a probe does. */
static uint32_t reno_rounds(const struct tn_cc *cc)
{
    uint32_t rounds = tn_bbr_target(cc) / cc->mss;
    return rounds < BBR_RENO_ROUNDS ? rounds : BBR_RENO_ROUNDS;
}

static void start_down(struct bbr_now *n)
{
    struct bbr *b = n->b;
    tn_bbr_reset_signals(n->f);
    n->f->up_acked_per_inc = 0;
    /* A little luck, so that flows that share a bottleneck don't probe in step. */
    uint64_t luck = (n->a->now_us ^ (uint64_t)n->a->una << 17) * 0x9e3779b97f4a7c15ull;
    b->rounds_since_probe = (uint8_t)(luck >> 63);
    uint32_t reno = reno_rounds(n->cc);
    if (b->state == BBR_UP) b->probe_soon = false;
    if (b->probe_soon && reno > BBR_SOON_ROUNDS) b->rounds_since_probe = (uint8_t)(reno - BBR_SOON_ROUNDS - b->rounds_since_probe);
    b->wait = (uint8_t)(luck >> 40);
    b->cycle_at = n->ms;
    b->drain_rounds = 0;
    b->acks = BBR_ACKS_PROBE_STOPPING;
    tn_bbr_start_round(n->f, n->a->rate);
    b->state = BBR_DOWN;
}

static void start_refill(struct bbr_now *n)
{
    struct bbr *b = n->b;
    tn_bbr_reset_short_term(b);
    n->f->up_rounds = 0;
    n->f->up_acked = 0;
    b->probed_cautiously = false;
    b->acks = BBR_ACKS_REFILLING;
    tn_bbr_start_round(n->f, n->a->rate);
    b->state = BBR_REFILL;
}

static void raise_slope(struct bbr_now *n)
{
    struct bbr_flight *f = n->f;
    uint32_t inc = n->cc->cwnd >> f->up_rounds;
    if (f->up_rounds < (n->b->shared ? BBR_SHARED_SLOPE : 30)) f->up_rounds++;
    f->up_acked_per_inc = inc > n->cc->mss ? inc : n->cc->mss;
}

static void start_up(struct bbr_now *n)
{
    struct bbr *b = n->b;
    b->acks = BBR_ACKS_PROBE_STARTING;
    tn_bbr_start_round(n->f, n->a->rate);
    tn_bbr_reset_full_bw(b);
    b->full_bw = (float)n->a->rs->bytes_per_s;
    n->f->span_from = n->a->rate->delivered;
    n->f->span_rtt_us = 0;
    b->state = BBR_UP;
    raise_slope(n);
}

static void check_startup_and_drain(struct bbr_now *n)
{
    struct bbr *b = n->b;
    if (b->state == BBR_STARTUP && b->full_bw_reached) {
        b->state = BBR_DRAIN;
        b->drain_rounds = 0;
    }
    if (b->state == BBR_DRAIN &&
        (n->a->inflight_now <= tn_bbr_inflight(n->cc, 1) || b->drain_rounds > BBR_DRAIN_ROUNDS))
        start_down(n);
}

/* ---- the cycle ---- */

static bool is_time_to_probe(struct bbr_now *n)
{
    struct bbr *b = n->b;
    uint32_t wait_ms = 2000 + b->wait * 1000u / 256;
    if (n->ms - b->cycle_at <= wait_ms && b->rounds_since_probe < reno_rounds(n->cc)) return false;
    start_refill(n);
    return true;
}

/* Also when there is no draining it: where packets overtake each other the lowest round-trip time is not the
 * path's. */
static bool is_time_to_cruise(struct bbr_now *n)
{
    uint32_t inflight = n->a->inflight_now;
    if (n->b->drain_rounds > BBR_DOWN_ROUNDS) return true;
    return inflight <= tn_bbr_with_headroom(n->cc) && inflight <= tn_bbr_inflight(n->cc, 1);
}

/* The pipe is full, and a quarter more, and not one packet of the last eighth of a round trip was in time: with more
 * bandwidth than we know what was sent on top would have arrived. The draft goes on for three rounds without growth,
 * which with a queue of one bandwidth-delay product ended in its overflow, and each time in a stall at peers whose
 * window has no room for two round trips of a full queue. On a shared bottleneck the queue is not ours. */
static bool has_own_queue(struct bbr_now *n)
{
    struct bbr_flight *f = n->f;
    uint32_t rtt = n->a->rtt_us, span = n->a->inflight_now / 8, least = BBR_SPAN_SEGS * n->cc->mss;
    if (rtt && (f->span_rtt_us == 0 || rtt < f->span_rtt_us)) f->span_rtt_us = rtt;
    if (n->a->rate->delivered - f->span_from < (span > least ? span : least)) return false;
    bool late = f->span_rtt_us > tn_bbr_queue_rtt(n->b);
    f->span_from = n->a->rate->delivered;
    f->span_rtt_us = 0;
    return late && !n->b->shared && !n->b->probe_soon && n->b->acks == BBR_ACKS_PROBE_FEEDBACK &&
           n->a->inflight_now >= tn_bbr_inflight(n->cc, gains[BBR_UP].pacing) + tn_bbr_extra(n->cc);
}

static bool is_time_to_go_down(struct bbr_now *n)
{
    struct bbr *b = n->b;
    if (b->probed_too_high && n->a->inflight_now >= b->inflight_long) {
        b->probed_cautiously = true;
        return true;
    }
    if (has_own_queue(n)) return true;
    if (n->a->cwnd_limited && n->cc->cwnd >= b->inflight_long) {
        tn_bbr_reset_full_bw(b); /* it is the bound that limits, not the path */
        b->full_bw = (float)n->a->rs->bytes_per_s;
        return false;
    }
    return b->full_bw_now;
}

static void raise_long_term(struct bbr_now *n)
{
    struct bbr *b = n->b;
    struct bbr_flight *f = n->f;
    if (!n->a->cwnd_limited || n->cc->cwnd < b->inflight_long || !f->up_acked_per_inc) return;
    f->up_acked += n->a->acked;
    uint32_t steps = f->up_acked / f->up_acked_per_inc;
    f->up_acked -= steps * f->up_acked_per_inc;
    b->inflight_long += steps * n->cc->mss;
    if (f->round_start) raise_slope(n);
}

/* What probing has found out, as its ACKs come in. True: that decided the next state. */
static bool adapt_long_term(struct bbr_now *n)
{
    struct bbr *b = n->b;
    const struct tn_rate_sample *rs = n->a->rs;
    bool round = n->f->round_start;
    if (b->acks == BBR_ACKS_PROBE_STARTING && round) b->acks = BBR_ACKS_PROBE_FEEDBACK;
    if (b->acks == BBR_ACKS_PROBE_STOPPING && round) {
        b->probe_sample = false;
        b->acks = BBR_ACKS_INIT;
        /* A cycle is over: the estimate from before it may go, if there is a new one. */
        if (bbr_is_probing_bw(b) && !rs->app_limited && b->max_bw[0] > 0) {
            b->max_bw[1] = b->max_bw[0];
            b->max_bw[0] = 0;
        }
        if (bbr_is_probing_bw(b) && b->probed_cautiously && !b->probed_too_high) {
            start_refill(n);
            return true;
        }
    }
    if (!rs->has_data || tn_bbr_inflight_too_high(n->cc, rs->lost, rs->in_flight, n->a->has_sack)) return false;
    if (b->inflight_long == BBR_INFINITE) return false;
    if (rs->in_flight > b->inflight_long && (!b->shared || b->state == BBR_UP)) b->inflight_long = rs->in_flight;
    if (b->state == BBR_UP) raise_long_term(n);
    return false;
}

static void update_cycle(struct bbr_now *n)
{
    struct bbr *b = n->b;
    if (!b->full_bw_reached || adapt_long_term(n)) return;
    switch (b->state) {
    case BBR_DOWN:
        if (!is_time_to_probe(n) && is_time_to_cruise(n)) b->state = BBR_CRUISE;
        break;
    case BBR_CRUISE: is_time_to_probe(n); break;
    case BBR_REFILL:
        if (!n->f->round_start) break;
        b->probe_sample = true;
        start_up(n);
        break;
    case BBR_UP:
        if (!is_time_to_go_down(n)) break;
        b->probed_too_high = false;
        start_down(n);
        break;
    default: break;
    }
}

/* ---- PROBE_RTT ---- */

static uint32_t probe_rtt_cwnd(const struct tn_cc *cc)
{
    double cwnd = tn_bbr_bdp(cc, gains[BBR_PROBE_RTT].cwnd), least = (double)BBR_MIN_SEGS * cc->mss;
    return cwnd > least ? (uint32_t)cwnd : (uint32_t)least;
}

static void save_cwnd(struct tn_cc *cc, bool in_recovery)
{
    struct bbr *b = bbr_of(cc);
    if ((!in_recovery && b->state != BBR_PROBE_RTT) || cc->cwnd > b->prior_cwnd) b->prior_cwnd = cc->cwnd;
}

static void exit_probe_rtt(struct bbr_now *n)
{
    struct bbr *b = n->b;
    b->probe_rtt_at = n->ms;
    if (n->cc->cwnd < b->prior_cwnd) n->cc->cwnd = b->prior_cwnd;
    tn_bbr_reset_short_term(b);
    if (b->full_bw_reached) {
        start_down(n);
        b->state = BBR_CRUISE;
    } else {
        b->state = BBR_STARTUP;
    }
}

static void handle_probe_rtt(struct bbr_now *n)
{
    struct bbr *b = n->b;
    tn_rate_limited(n->a->rate, n->a->inflight_now); /* low rates say nothing now */
    if (!b->probe_rtt_timed) {
        if (n->a->inflight_now > probe_rtt_cwnd(n->cc)) return;
        b->probe_rtt_timed = true;
        b->probe_rtt_done_at = n->ms + BBR_PROBE_RTT_MS;
        b->probe_rtt_round_done = false;
        tn_bbr_start_round(n->f, n->a->rate);
        return;
    }
    if (n->f->round_start) b->probe_rtt_round_done = true;
    if (b->probe_rtt_round_done && seq_gt(n->ms, b->probe_rtt_done_at)) exit_probe_rtt(n);
}

static void check_probe_rtt(struct bbr_now *n, bool expired)
{
    struct bbr *b = n->b;
    if (b->state != BBR_PROBE_RTT && expired && !b->idle_restart) {
        save_cwnd(n->cc, n->a->in_recovery);
        b->state = BBR_PROBE_RTT;
        b->probe_rtt_timed = false;
        b->acks = BBR_ACKS_PROBE_STOPPING;
        tn_bbr_start_round(n->f, n->a->rate);
    }
    if (b->state == BBR_PROBE_RTT) handle_probe_rtt(n);
    b->idle_restart = false;
}

/* ---- control ---- */

static void set_cwnd(struct bbr_now *n)
{
    struct tn_cc *cc = n->cc;
    const struct bbr *b = n->b;
    uint64_t max = (uint64_t)tn_bbr_inflight(cc, gains[b->state].cwnd) + tn_bbr_extra(cc), cwnd = cc->cwnd;
    if (b->full_bw_reached) cwnd = cwnd + n->a->acked < max ? cwnd + n->a->acked : max;
    else if (cwnd < max || n->a->rate->delivered < cc->mss * TN_CC_IW_SEGS) cwnd += n->a->acked;
    uint32_t cap = tn_bbr_cap(cc), least = BBR_MIN_SEGS * cc->mss;
    if (cwnd < least) cwnd = least;
    if (b->state == BBR_PROBE_RTT && cwnd > probe_rtt_cwnd(cc)) cwnd = probe_rtt_cwnd(cc);
    if (cwnd > cap) cwnd = cap;
    if (cwnd > cc->cwnd_max) cwnd = cc->cwnd_max;
    cc->cwnd = (uint32_t)cwnd;
}

static void bbr_ack(struct tn_cc *cc, const struct tn_cc_ack *a)
{
    struct bbr_now n = {cc, bbr_of(cc), cc->flight, a, (uint32_t)(a->now_us / 1000)};
    tn_bbr_measure(&n);
    check_startup_and_drain(&n);
    update_cycle(&n);
    check_probe_rtt(&n, tn_bbr_min_rtt(&n));
    tn_bbr_measured(&n);
    set_pace(cc, gains[n.b->state].pacing, a->srtt_us);
    set_cwnd(&n);
}

/* ---- starts and losses ---- */

static void bbr_start(struct tn_cc *cc, uint64_t idle_us, uint32_t srtt_us, uint32_t rto_us, uint64_t now_us)
{
    struct bbr *b = bbr_of(cc);
    struct bbr_flight *f = cc->flight;
    uint32_t ms = (uint32_t)(now_us / 1000);
    f->extra_from_us = (uint32_t)now_us;
    if (!b->started) {
        b->started = true;
        b->min_rtt_us = b->probe_rtt_us = srtt_us;
        b->min_rtt_at = b->probe_rtt_at = b->cycle_at = ms;
        cc->pace = at_least_one(gains[BBR_STARTUP].pacing * cc->cwnd * 1e6 / (srtt_us ? srtt_us : 1000));
        return;
    }
    b->idle_restart = true;
    if (bbr_is_probing_bw(b)) {
        set_pace(cc, 1, srtt_us);
    } else if (b->state == BBR_PROBE_RTT && b->probe_rtt_timed && seq_gt(ms, b->probe_rtt_done_at)) {
        b->probe_rtt_at = ms; /* the pause was the drain */
        if (cc->cwnd < b->prior_cwnd) cc->cwnd = b->prior_cwnd;
        tn_bbr_reset_short_term(b);
        b->state = b->full_bw_reached ? BBR_CRUISE : BBR_STARTUP;
        b->cycle_at = ms;
    }
}

static void save_for_undo(struct tn_cc *cc)
{
    const struct bbr *b = bbr_of(cc);
    struct bbr_flight *f = cc->flight;
    f->can_undo_state = false;
    f->undo_soon = b->probe_soon;
    f->undo_bw_short = b->bw_short;
    f->undo_inflight_short = b->inflight_short;
    f->undo_inflight_long = b->inflight_long;
}

static void bbr_loss(struct tn_cc *cc, uint64_t now_us) { save_cwnd(cc, false); }

/* The model stays: a timeout says that ACKs ceased, not how fast the path is. */
static void bbr_rto(struct tn_cc *cc, uint64_t now_us)
{
    save_cwnd(cc, false);
    save_for_undo(cc);
}

/* At what amount in flight did the losses become too many? Between what was there before this segment and with it. */
static uint32_t inflight_at_loss(const struct tn_cc *cc, const struct tn_rec *rec, uint32_t lost)
{
    double in_flight = (double)rec->mark.in_flight - rec->len, before = (double)lost - rec->len;
    double more = tn_bbr_loss_allowed(cc, rec->mark.in_flight) - before;
    if (more > rec->len) more = rec->len;
    double at = in_flight + (more > 0 ? more : 0);
    return at > 0 ? (uint32_t)at : 0;
}

static void bbr_segment_lost(struct tn_cc *cc, const struct tn_rec *rec, const struct tn_rate *rate, bool has_sack,
                             uint64_t now_us)
{
    struct bbr *b = bbr_of(cc);
    struct bbr_flight *f = cc->flight;
    if (!f->loss_in_round) {
        f->loss_round = rate->delivered;
        save_for_undo(cc);
    }
    f->loss_in_round = true;
    if (rec->seq != f->lost_end && f->loss_ranges < UINT8_MAX) f->loss_ranges++;
    f->lost_end = rec->seq + rec->len;
    uint32_t lost = rate->lost - rec->mark.lost;
    bool shared = b->shared && !b->probe_soon;
    if (!b->probe_sample || (!shared && !tn_bbr_inflight_too_high(cc, lost, rec->mark.in_flight, has_sack))) return;
    b->probed_too_high = true;
    b->probe_sample = false; /* one reaction per probe */
    if (!(rec->flags & TN_REC_APP_LIMITED)) {
        uint32_t at = b->shared ? (uint32_t)(rec->mark.in_flight * BBR_SHARED_BETA) : inflight_at_loss(cc, rec, lost);
        uint32_t least = (uint32_t)(tn_bbr_target(cc) * BBR_BETA);
        b->inflight_long = at > least ? at : least;
    }
    if (b->state != BBR_UP) return;
    f->undo_state = BBR_UP;
    f->can_undo_state = true;
    const struct tn_cc_ack a = {.now_us = now_us, .una = rec->seq, .rate = (struct tn_rate *)rate};
    struct bbr_now n = {cc, b, f, &a, (uint32_t)(now_us / 1000)};
    start_down(&n);
}

static void bbr_undo(struct tn_cc *cc, const struct tn_rate *rate, uint64_t now_us)
{
    struct bbr *b = bbr_of(cc);
    struct bbr_flight *f = cc->flight;
    if (cc->cwnd < b->prior_cwnd) cc->cwnd = b->prior_cwnd;
    f->loss_in_round = false;
    tn_bbr_reset_full_bw(b);
    if (b->bw_short > 0 && (f->undo_bw_short <= 0 || f->undo_bw_short > b->bw_short)) b->bw_short = f->undo_bw_short;
    if (b->inflight_short < f->undo_inflight_short) b->inflight_short = f->undo_inflight_short;
    if (b->inflight_long < f->undo_inflight_long) b->inflight_long = f->undo_inflight_long;
    if (!f->can_undo_state) return;
    f->can_undo_state = false;
    const struct tn_cc_ack a = {.now_us = now_us, .rate = (struct tn_rate *)rate};
    struct bbr_now n = {cc, b, f, &a, (uint32_t)(now_us / 1000)};
    if (b->state == BBR_PROBE_RTT) return;
    if (f->undo_state == BBR_STARTUP && b->state != BBR_STARTUP) {
        b->full_bw_reached = false;
        b->state = BBR_STARTUP;
    } else if (f->undo_state == BBR_UP && b->state != BBR_UP) {
        b->probe_soon = f->undo_soon;
        start_refill(&n);
    }
}

const struct tn_cc_ops tn_cc_bbr = {
    .name = "bbr",
    .is_model = true,
    .init = bbr_init,
    .on_start = bbr_start,
    .on_ack = bbr_ack,
    .on_loss = bbr_loss,
    .on_segment_lost = bbr_segment_lost,
    .on_rto = bbr_rto,
    .on_undo = bbr_undo,
};
