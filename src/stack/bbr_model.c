/* BBR's model: the bottleneck's bandwidth (the highest delivery rate of the last two probing cycles), the path's
 * round-trip time (the lowest of ten seconds), and bounds on what should be in flight.
 *
 * Long-term bound: what was in flight when probing for bandwidth met too many losses. Short-term bounds: after a
 * round with congestion, what was delivered in it. Where we leave the draft:
 *
 * It takes every round with a loss at all for a sign of a full queue; then random loss of 1 % takes a third of the
 * rate between two probes. Here a round counts if it has lost more than the 2 % that probing tolerates as well, or
 * if the bottleneck is shared. The 2 % are of a bandwidth-delay product at least (but no more than 16), since a round that something else
 * held back is small, and three lost segments are many of it. And a full queue is a long one: while the round-trip
 * time is the path's, probing tolerates 4 %, and Startup 8, for what these two do to a queue without room costs more
 * than that at once. With 1 % of 780 segments lost at random 2 % were met every tenth probe, and the bound that
 * this left took a sixth of the rate until the next.
 *
 * A round in which the peer's window held us back does not say how fast the path is, and while that window still grows
 * not that the path is no faster.
 *
 * The bottleneck is shared if while cruising, when we make no queue, the lowest round-trip time of a round is an
 * eighth above the path's: then somebody else makes one, and he reduces by any loss. Against one or four CUBIC flows
 * the draft's rules took 1.6 and 2.4 times the fair share (100 Mbit/s, 80 ms, queue of one bandwidth-delay product),
 * since each of its probes costs them a loss, and itself one in fifty segments. So on a shared bottleneck the first loss
 * ends a probe (but the one after a Startup that may have ended too soon) and takes three tenths off the bound, as it does
 * off CUBIC's, and a probe does not raise the bound faster than eight segments a round. */
#include "stack/bbr.h"
#include "stack/pace.h"
#include "stack/seq.h"

double tn_bbr_max_bw(const struct bbr *b) { return b->max_bw[0] > b->max_bw[1] ? b->max_bw[0] : b->max_bw[1]; }

double tn_bbr_bw(const struct bbr *b)
{
    double max = tn_bbr_max_bw(b);
    return b->bw_short > 0 && b->bw_short < max ? b->bw_short : max;
}

static uint32_t to_u32(double x) { return x < 0 ? 0 : x < 4e9 ? (uint32_t)x : (uint32_t)4e9; }

/* ---- how much in flight ---- */

double tn_bbr_bdp(const struct tn_cc *cc, double gain)
{
    const struct bbr *b = bbr_of((struct tn_cc *)cc);
    if (b->min_rtt_us == 0) return (double)cc->mss * TN_CC_IW_SEGS;
    return gain * tn_bbr_bw(b) * b->min_rtt_us / 1e6;
}

static double slept(const struct bbr *b) { return tn_bbr_bw(b) * TN_PACE_AHEAD_US / 1e6; }

/* Three quanta are in the making at either end, as in the draft; and both ends sleep in milliseconds, which on a
 * short path is more than the round trip itself. */
static uint32_t with_granularity(const struct tn_cc *cc, double bytes)
{
    const struct bbr *b = bbr_of((struct tn_cc *)cc);
    bytes += slept(b);
    uint32_t budget = 3 * tn_pace_quantum(cc->pace, cc->mss), least = BBR_MIN_SEGS * cc->mss, cap = to_u32(bytes);
    if (cap < budget) cap = budget;
    if (cap < least) cap = least;
    return b->state == BBR_UP ? cap + 2 * cc->mss : cap;
}

uint32_t tn_bbr_inflight(const struct tn_cc *cc, double gain) { return with_granularity(cc, tn_bbr_bdp(cc, gain)); }

uint32_t tn_bbr_with_headroom(const struct tn_cc *cc)
{
    const struct bbr *b = bbr_of((struct tn_cc *)cc);
    if (b->inflight_long == BBR_INFINITE) return BBR_INFINITE;
    uint32_t room = to_u32(BBR_HEADROOM * b->inflight_long), least = BBR_MIN_SEGS * cc->mss;
    if (room < cc->mss) room = cc->mss;
    return b->inflight_long > room + least ? b->inflight_long - room : least;
}

uint32_t tn_bbr_target(const struct tn_cc *cc)
{
    uint32_t bdp = to_u32(tn_bbr_bdp(cc, 1));
    return bdp < cc->cwnd ? bdp : cc->cwnd;
}

/* What the bounds of the model allow in this state. */
uint32_t tn_bbr_cap(const struct tn_cc *cc)
{
    const struct bbr *b = bbr_of((struct tn_cc *)cc);
    uint32_t cap = BBR_INFINITE, least = BBR_MIN_SEGS * cc->mss;
    if (b->state == BBR_CRUISE || b->state == BBR_PROBE_RTT) cap = tn_bbr_with_headroom(cc);
    else if (bbr_is_probing_bw(b)) cap = b->inflight_long;
    if (b->inflight_short < cap) cap = b->inflight_short;
    return cap > least ? cap : least;
}

/* ---- rounds and losses ---- */

void tn_bbr_start_round(struct bbr_flight *f, const struct tn_rate *rate) { f->next_round = rate->delivered; }

void tn_bbr_reset_full_bw(struct bbr *b)
{
    b->full_bw = 0;
    b->full_bw_count = 0;
    b->full_bw_now = false;
}

void tn_bbr_reset_short_term(struct bbr *b)
{
    b->bw_short = 0;
    b->inflight_short = BBR_INFINITE;
}

void tn_bbr_reset_signals(struct bbr_flight *f)
{
    f->loss_in_round = false;
    f->bw_latest = 0;
    f->inflight_latest = 0;
}

/* The round's lowest round-trip time says so, whoever made it. */
static bool has_queue(const struct bbr_now *n) { return n->f->round_rtt_us > tn_bbr_queue_rtt(n->b); }

/* What may be lost of so much: 2 % of it. Of less than a bandwidth-delay product a few random losses are more. */
static double may_be_lost(const struct tn_cc *cc, double of)
{
    enum { SMALLEST = 8 }; /* the part of one that this is for: of less 16 % are too much */
    double bdp = tn_bbr_bdp(cc, 1), least = bdp < of * SMALLEST ? bdp : of * SMALLEST;
    return BBR_LOSS_THRESH * (of > least ? of : least);
}

/* At this moment, and nobody's: losses are not a full queue's. */
static bool has_no_queue(const struct bbr *b, const struct bbr_flight *f)
{
    return f->srtt_us && f->srtt_us <= tn_bbr_queue_rtt(b);
}

double tn_bbr_loss_allowed(const struct tn_cc *cc, uint32_t in_flight)
{
    const struct bbr *b = bbr_of((struct tn_cc *)cc);
    return (has_no_queue(b, cc->flight) ? 2 : 1) * may_be_lost(cc, in_flight);
}

bool tn_bbr_inflight_too_high(const struct tn_cc *cc, uint32_t lost, uint32_t in_flight, bool has_sack)
{
    return lost > tn_bbr_loss_allowed(cc, in_flight) || (lost && !has_sack);
}

static void update_round(struct bbr_now *n)
{
    struct bbr_flight *f = n->f;
    f->round_start = seq_ge(n->a->rs->prior_delivered, f->next_round);
    if (!f->round_start) return;
    tn_bbr_start_round(f, n->a->rate);
    if (n->b->rounds_since_probe < UINT8_MAX) n->b->rounds_since_probe++;
    if (n->b->drain_rounds < UINT8_MAX) n->b->drain_rounds++;
}

static void update_max_bw(struct bbr_now *n)
{
    const struct tn_rate_sample *rs = n->a->rs;
    double bw = (double)rs->bytes_per_s;
    if (rs->app_limited && bw < tn_bbr_max_bw(n->b)) return;
    if (bw > n->b->max_bw[0]) n->b->max_bw[0] = (float)bw;
}

static bool probing(const struct bbr *b)
{
    return b->state == BBR_STARTUP || b->state == BBR_REFILL || b->state == BBR_UP;
}

/* Were the round's losses a full queue's? */
static bool is_congestion(const struct bbr_now *n)
{
    const struct bbr_flight *f = n->f;
    uint32_t lost = n->a->rate->lost - f->round_lost, delivered = n->a->rate->delivered - f->round_delivered;
    if (!f->loss_in_round) return false;
    if (lost > may_be_lost(n->cc, lost + (double)delivered)) return true;
    return n->b->shared && has_queue(n);
}

/* Once a round: lower bounds from what was delivered although segments were lost. What was delivered in a stall is not the
 * path's rate, but may still be all that it holds. */
static void adapt_lower_bounds(struct bbr_now *n)
{
    struct bbr *b = n->b;
    struct bbr_flight *f = n->f;
    if (probing(b) || !is_congestion(n)) return;
    double bw = b->bw_short > 0 ? b->bw_short : tn_bbr_max_bw(b);
    uint32_t inflight = b->inflight_short != BBR_INFINITE ? b->inflight_short : n->cc->cwnd;
    inflight = to_u32(inflight * BBR_BETA);
    if (!f->peer_limited_loss_round) b->bw_short = (float)(f->bw_latest > bw * BBR_BETA ? f->bw_latest : bw * BBR_BETA);
    b->inflight_short = f->inflight_latest > inflight ? f->inflight_latest : inflight;
}

/* Startup has filled the pipe also when a whole round of recovery loses too much. */
static void check_startup_loss(struct bbr_now *n)
{
    struct bbr *b = n->b;
    struct bbr_flight *f = n->f;
    uint32_t lost = n->a->rate->lost - f->round_lost, delivered = n->a->rate->delivered - f->round_delivered;
    double most = has_no_queue(b, f) ? BBR_STARTUP_LOSS_THRESH : BBR_LOSS_THRESH;
    bool high = lost > (lost + (double)delivered) * most && f->loss_ranges >= BBR_STARTUP_LOSSES;
    if (b->state == BBR_STARTUP && f->recovery_round && (high || (lost && !n->a->has_sack))) {
        b->full_bw_reached = true;
        f->undo_state = BBR_STARTUP;
        f->can_undo_state = true;
        uint32_t bdp = to_u32(tn_bbr_bdp(n->cc, 1));
        b->inflight_long = bdp > f->inflight_latest ? bdp : f->inflight_latest;
    }
    f->recovery_round = n->a->in_recovery;
}

static void latest_signals(struct bbr_now *n)
{
    const struct tn_rate_sample *rs = n->a->rs;
    struct bbr_flight *f = n->f;
    if (f->bw_latest < rs->bytes_per_s) f->bw_latest = (float)rs->bytes_per_s;
    if (f->inflight_latest < rs->delivered) f->inflight_latest = rs->delivered;
    uint32_t rtt = n->a->rtt_us;
    f->srtt_us = n->a->srtt_us;
    if (rtt && (f->round_rtt_us == 0 || rtt < f->round_rtt_us)) f->round_rtt_us = rtt;
    if (n->a->peer_limited) f->peer_limited_loss_round = f->peer_limited_round = true;
    f->loss_round_start = seq_ge(rs->prior_delivered, f->loss_round);
    if (f->loss_round_start) f->loss_round = n->a->rate->delivered;
}

static void loss_signals(struct bbr_now *n)
{
    struct bbr_flight *f = n->f;
    if (!f->loss_round_start) return;
    bool cruises = n->b->state == BBR_CRUISE;
    if (cruises && f->cruise_round && f->round_rtt_us) n->b->shared = has_queue(n);
    f->cruise_round = cruises;
    adapt_lower_bounds(n);
    check_startup_loss(n);
    f->loss_in_round = f->peer_limited_loss_round = false;
    f->loss_ranges = 0;
    f->round_rtt_us = 0;
    f->round_lost = n->a->rate->lost;
    f->round_delivered = n->a->rate->delivered;
}

/* ---- ACKs that come in lumps ---- */

static void ack_aggregation(struct bbr_now *n)
{
    struct bbr_flight *f = n->f;
    uint32_t now = (uint32_t)n->a->now_us;
    double expected = tn_bbr_bw(n->b) * (now - f->extra_from_us) / 1e6;
    if (f->extra_delivered <= expected) {
        f->extra_delivered = 0;
        f->extra_from_us = now;
        expected = 0;
    }
    f->extra_delivered += n->a->acked;
    uint32_t extra = to_u32(f->extra_delivered - expected);
    if (extra > n->cc->cwnd) extra = n->cc->cwnd;
    uint8_t rounds = n->b->full_bw_reached ? BBR_EXTRA_ACKED_ROUNDS : 1; /* in Startup it is the growth itself */
    if (f->round_start && ++f->extra_rounds >= rounds) {
        f->extra_rounds = 0;
        f->extra[1] = f->extra[0];
        f->extra[0] = 0;
    }
    if (f->extra[0] < extra) f->extra[0] = extra;
}

/* A lump of up to a millisecond is what an end's sleep makes, and tn_bbr_inflight has room for that sleep: for both
 * there was twice as much in flight on a path shorter than it, 5 MB at 14 Gbit/s, which was no faster. What is longer
 * than that, a half more and two round trips comes from a busy end, not from the path: what is allowed for it only
 * waits in the peer's socket, and everything else of that peer behind it (measured on one machine: a byte beside a
 * stream took 17 ms). Without the half two ends that share their cores with compilers made 5 % less. */
uint32_t tn_bbr_extra(const struct tn_cc *cc)
{
    enum { LATE_US = 500 };
    const struct bbr *b = bbr_of((struct tn_cc *)cc);
    const struct bbr_flight *f = cc->flight;
    double lump = f->extra[0] > f->extra[1] ? f->extra[0] : f->extra[1];
    double extra = lump - slept(b), most = tn_bbr_bw(b) * (2.0 * b->min_rtt_us + LATE_US) / 1e6;
    return to_u32(extra < most ? extra : most);
}

/* A round in which the peer's window was full, and has grown by an eighth since, says nothing about the path: with losses
 * from the start Linux widens its window late enough for three of them. From 64 KB to 1 GB that is 83 rounds at most. */
static bool is_held_by_peer(struct bbr_now *n)
{
    struct bbr *b = n->b;
    bool held = n->f->peer_limited_round && n->a->peer_wnd > b->peer_wnd * BBR_PEER_GROWTH;
    n->f->peer_limited_round = false;
    if (held) b->peer_wnd = n->a->peer_wnd;
    return held;
}

/* Startup, where there is room, doubles the rate each round and finds no queue. Two rounds with one in which the rate grew
 * less: the pipe was full, and what still grows is taken from others. The draft goes on until a fourth of growth is
 * missing; of four flows of CUBIC it took three fair shares so, and kept them for half a minute. A path whose round trips
 * are longer than the first one looks the same: so if the rate still grew the next probe is soon, and goes on as long as it
 * does, whatever queue there seems to be. */
static bool shares_full_queue(struct bbr_now *n)
{
    struct bbr_flight *f = n->f;
    bool full = f->span_rtt_us > tn_bbr_queue_rtt(n->b) && (double)n->a->rs->bytes_per_s < n->b->full_bw * BBR_QUEUE_GROWTH;
    f->queue_rounds = full ? f->queue_rounds + 1 : 0;
    return f->queue_rounds >= BBR_QUEUE_ROUNDS;
}

static void lowest_in_startup(struct bbr_now *n)
{
    struct bbr_flight *f = n->f;
    uint32_t rtt = n->a->rtt_us;
    if (f->round_start) f->span_rtt_us = 0;
    if (rtt && (f->span_rtt_us == 0 || rtt < f->span_rtt_us)) f->span_rtt_us = rtt;
}

static void check_full_bw(struct bbr_now *n)
{
    struct bbr *b = n->b;
    const struct tn_rate_sample *rs = n->a->rs;
    if (!n->f->round_start) return;
    bool told = !n->f->peer_limited_round && !rs->app_limited;
    if (!told) n->f->queue_rounds = 0;
    if (is_held_by_peer(n) || b->full_bw_now || rs->app_limited) return;
    if (b->state == BBR_STARTUP && told && shares_full_queue(n)) {
        b->full_bw_now = b->full_bw_reached = true;
        b->probe_soon = (double)rs->bytes_per_s >= b->full_bw * BBR_FULL_BW_GROWTH;
        return;
    }
    if ((double)rs->bytes_per_s >= b->full_bw * BBR_FULL_BW_GROWTH) {
        tn_bbr_reset_full_bw(b);
        b->full_bw = (float)rs->bytes_per_s;
        return;
    }
    if (++b->full_bw_count < BBR_FULL_BW_ROUNDS) return;
    b->full_bw_now = b->full_bw_reached = true;
}

void tn_bbr_measure(struct bbr_now *n)
{
    n->f->round_start = n->f->loss_round_start = false;
    if (n->a->rs->has_data) {
        latest_signals(n);
        update_round(n);
        update_max_bw(n);
        loss_signals(n);
    }
    ack_aggregation(n);
    if (n->a->rs->has_data) check_full_bw(n);
    if (n->b->state == BBR_STARTUP) lowest_in_startup(n);
}

void tn_bbr_measured(struct bbr_now *n)
{
    if (!n->f->loss_round_start) return;
    n->f->bw_latest = (float)n->a->rs->bytes_per_s;
    n->f->inflight_latest = n->a->rs->delivered;
}

/* ---- the round-trip time ---- */

bool tn_bbr_min_rtt(struct bbr_now *n)
{
    struct bbr *b = n->b;
    uint32_t rtt = n->a->rtt_us;
    bool expired = n->ms - b->probe_rtt_at > (b->shared ? BBR_PROBE_RTT_SHARED_MS : BBR_PROBE_RTT_ALONE_MS);
    if (rtt && (b->probe_rtt_us == 0 || rtt < b->probe_rtt_us || expired)) {
        b->probe_rtt_us = rtt;
        b->probe_rtt_at = n->ms;
    }
    bool old = n->ms - b->min_rtt_at > BBR_MIN_RTT_LEN_MS;
    if (b->probe_rtt_us && (b->min_rtt_us == 0 || b->probe_rtt_us < b->min_rtt_us || old)) {
        b->min_rtt_us = b->probe_rtt_us;
        b->min_rtt_at = b->probe_rtt_at;
    }
    return expired;
}
