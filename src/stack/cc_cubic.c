/* CUBIC (RFC 9438) with HyStart++ (RFC 9406).
 *
 * Congestion avoidance follows W(t) = C (t - K)^3 + W_max in segments and seconds, floored by what Reno would have
 * (section 4.3). Slow start ends early when the round-trip time grows: HyStart++ then goes on at a quarter of the
 * speed for five rounds (conservative slow start) and leaves for good, unless the delay falls back, which means it
 * was noise. Without that, slow start overshoots a bottleneck's queue by a whole window and loses half of it at once.
 *
 * Arithmetic is in floating point: it is a few operations per ACK and free of overflow cases. Window growth below one
 * byte per ACK is carried over in credit. */
#include "stack/cc.h"
#include "stack/seq.h"

#include <stddef.h>

#define CUBIC_C 0.4    /* RFC 9438 section 5 */
#define CUBIC_BETA 0.7 /* section 4.6 */

enum {
    /* RFC 9406 section 4.3 */
    HS_MIN_RTT_THRESH_US = 4000,
    HS_MAX_RTT_THRESH_US = 16000,
    HS_MIN_RTT_DIVISOR = 8,
    HS_SAMPLES = 8,
    HS_CSS_GROWTH_DIVISOR = 4,
    HS_CSS_ROUNDS = 5,
    /* Segments of growth per ACK in slow start, without pacing (L in RFC 9406). */
    HS_LIMIT_SEGS = 8,
};

struct cubic {
    uint64_t epoch_us; /* 0: the next ACK in congestion avoidance starts one */
    float w_max;       /* segments */
    float k;           /* seconds from the epoch's start until W reaches w_max */
    float credit;      /* segments of growth not yet in cwnd */
    float w_est;       /* Reno's window, segments */
    float prior;       /* the window before the last reduction, segments */
    float w_max_undo, prior_undo;
    uint32_t round_end;
    uint32_t last_min_us, cur_min_us, css_base_us; /* lowest RTT of the last and current round; 0: none */
    uint8_t samples, css_rounds;
    bool in_css, round_known;
};
_Static_assert(sizeof(struct cubic) <= TN_CC_STATE, "the state must fit the flow's room for it");

static struct cubic *cubic_of(struct tn_cc *cc) { return (struct cubic *)(void *)cc->state; }

static void cubic_init(struct tn_cc *cc) { *cubic_of(cc) = (struct cubic){0}; }

/* Newton's method from above; x >= 0. */
static double cube_root(double x)
{
    if (x <= 0) return 0;
    double r = x > 1 ? x : 1;
    for (int i = 0; i < 100; i++) {
        double next = (2 * r + x / (r * r)) / 3;
        if (next >= r) break;
        r = next;
    }
    return r;
}

/* ---- HyStart++ ---- */

static void hystart_round(struct tn_cc *cc, struct cubic *q, const struct tn_cc_ack *a)
{
    if (q->round_known && seq_lt(a->una, q->round_end)) return;
    if (q->in_css && ++q->css_rounds >= HS_CSS_ROUNDS) cc->ssthresh = cc->cwnd;
    q->round_end = a->nxt;
    q->round_known = true;
    q->last_min_us = q->cur_min_us;
    q->cur_min_us = 0;
    q->samples = 0;
}

static void hystart_sample(struct cubic *q, uint32_t rtt_us)
{
    if (q->cur_min_us == 0 || rtt_us < q->cur_min_us) q->cur_min_us = rtt_us;
    if (q->samples < UINT8_MAX) q->samples++;
    if (q->samples < HS_SAMPLES || q->last_min_us == 0) return;
    if (q->in_css) {
        if (q->cur_min_us < q->css_base_us) q->in_css = false;
        return;
    }
    uint32_t thresh = q->last_min_us / HS_MIN_RTT_DIVISOR;
    if (thresh < HS_MIN_RTT_THRESH_US) thresh = HS_MIN_RTT_THRESH_US;
    if (thresh > HS_MAX_RTT_THRESH_US) thresh = HS_MAX_RTT_THRESH_US;
    if (q->cur_min_us < q->last_min_us + thresh) return;
    q->css_base_us = q->cur_min_us;
    q->in_css = true;
    q->css_rounds = 0;
}

/* Returns acknowledged bytes left for congestion avoidance. */
static uint32_t slow_start(struct tn_cc *cc, struct cubic *q, const struct tn_cc_ack *a)
{
    hystart_round(cc, q, a);
    if (a->rtt_us) hystart_sample(q, a->rtt_us);
    if (!tn_cc_in_slow_start(cc)) return a->acked;
    uint32_t grow = a->acked, limit = HS_LIMIT_SEGS * cc->mss;
    if (grow > limit) grow = limit;
    if (q->in_css) grow /= HS_CSS_GROWTH_DIVISOR;
    if (grow > cc->ssthresh - cc->cwnd) grow = cc->ssthresh - cc->cwnd;
    cc->cwnd += grow;
    return 0;
}

/* ---- congestion avoidance ---- */

static void start_epoch(struct tn_cc *cc, struct cubic *q, uint64_t now_us)
{
    double cwnd = (double)cc->cwnd / cc->mss;
    q->epoch_us = now_us ? now_us : 1;
    q->w_est = (float)cwnd;
    q->credit = 0;
    if (q->w_max > cwnd) {
        q->k = (float)cube_root((q->w_max - cwnd) / CUBIC_C);
    } else {
        q->w_max = (float)cwnd;
        q->k = 0;
    }
}

static double curve(const struct cubic *q, double s)
{
    double t = s - q->k;
    return CUBIC_C * t * t * t + q->w_max;
}

static void avoid(struct tn_cc *cc, struct cubic *q, const struct tn_cc_ack *a, uint32_t acked)
{
    if (q->epoch_us == 0) start_epoch(cc, q, a->now_us);
    double cwnd = (double)cc->cwnd / cc->mss, segs = (double)acked / cc->mss;
    /* Reno's growth at beta 0.7: 3(1-b)/(1+b) segments a round trip until it has caught up, then one (section
     * 4.3). */
    double alpha = q->w_est >= q->prior ? 1 : 3 * (1 - CUBIC_BETA) / (1 + CUBIC_BETA);
    q->w_est += (float)(alpha * segs / cwnd);
    double t = (double)(a->now_us - q->epoch_us) / 1e6;
    if (curve(q, t) < q->w_est) {
        uint32_t reno = (uint32_t)(q->w_est * (float)cc->mss);
        if (reno > cc->cwnd) cc->cwnd = reno;
        return;
    }
    double target = curve(q, t + (double)a->srtt_us / 1e6);
    if (target > 1.5 * cwnd) target = 1.5 * cwnd;
    if (target <= cwnd) return;
    q->credit += (float)((target - cwnd) / cwnd * segs);
    uint32_t grow = (uint32_t)(q->credit * cc->mss);
    q->credit -= (float)grow / (float)cc->mss;
    cc->cwnd += grow;
}

static void cubic_ack(struct tn_cc *cc, const struct tn_cc_ack *a)
{
    struct cubic *q = cubic_of(cc);
    if (!a->cwnd_limited) {
        /* The curve's time must not run while the application is what limits: it would jump afterwards. */
        q->epoch_us = 0;
        if (tn_cc_in_slow_start(cc)) hystart_round(cc, q, a);
        return;
    }
    uint32_t acked = a->acked;
    if (tn_cc_in_slow_start(cc)) acked = slow_start(cc, q, a);
    if (acked && !tn_cc_in_slow_start(cc)) avoid(cc, q, a, acked);
    if (cc->cwnd > cc->cwnd_max) cc->cwnd = cc->cwnd_max;
}

static void reduce(struct tn_cc *cc)
{
    struct cubic *q = cubic_of(cc);
    double cwnd = (double)cc->cwnd / cc->mss;
    q->w_max_undo = q->w_max;
    q->prior_undo = q->prior;
    q->prior = (float)cwnd;
    /* Fast convergence (section 4.7): who loses before regaining the old maximum leaves room for newcomers. */
    q->w_max = (float)(cwnd < q->w_max ? cwnd * (1 + CUBIC_BETA) / 2 : cwnd);
    q->epoch_us = 0;
    /* cwnd only grows while it is used, so it stands for the flight size of section 4.6. */
    uint32_t reduced = (uint32_t)(cc->cwnd * CUBIC_BETA), floor = 2 * cc->mss;
    cc->ssthresh = reduced > floor ? reduced : floor;
}

static void cubic_loss(struct tn_cc *cc, uint64_t now_us) { reduce(cc); }

static void cubic_rto(struct tn_cc *cc, uint64_t now_us)
{
    struct cubic *q = cubic_of(cc);
    reduce(cc);
    q->w_max = 0; /* what comes after slow start begins its own curve there (section 4.8) */
    q->in_css = q->round_known = false;
    q->last_min_us = q->cur_min_us = 0;
}

static void cubic_undo(struct tn_cc *cc, const struct tn_rate *rate, uint64_t now_us)
{
    struct cubic *q = cubic_of(cc);
    q->w_max = q->w_max_undo;
    q->prior = q->prior_undo;
    q->epoch_us = 0;
}

/* After a pause the old window says little about the network (RFC 5681 section 4.1, RFC 7661): halve it per timeout
 * passed. */
static void cubic_start(struct tn_cc *cc, uint64_t idle_us, uint32_t srtt_us, uint32_t rto_us, uint64_t now_us)
{
    if (idle_us <= rto_us) return;
    uint32_t least = TN_CC_IW_SEGS * cc->mss, before = cc->cwnd;
    for (uint64_t left = idle_us; left > rto_us && cc->cwnd > least; left -= rto_us) cc->cwnd /= 2;
    if (cc->cwnd < least && before > least) cc->cwnd = least;
    if (cc->ssthresh != TN_SSTHRESH_NONE && cc->ssthresh < before / 4 * 3) cc->ssthresh = before / 4 * 3;
    struct cubic *q = cubic_of(cc);
    q->epoch_us = 0;
    q->round_known = q->in_css = false;
    q->last_min_us = q->cur_min_us = 0;
}

const struct tn_cc_ops tn_cc_cubic = {
    .name = "cubic",
    .init = cubic_init,
    .on_start = cubic_start,
    .on_ack = cubic_ack,
    .on_loss = cubic_loss,
    .on_rto = cubic_rto,
    .on_undo = cubic_undo,
};
