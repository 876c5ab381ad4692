/* Loss recovery. Three states: OPEN; RECOVERY, in which lost segments are sent again while proportional rate
 * reduction (RFC 9937) brings the window down to ssthresh; LOSS after a retransmission timeout, which starts again
 * from one segment.
 *
 * A reduction that turns out to have been for nothing is taken back: when the ACK of a retransmitted segment echoes a
 * timestamp from before the retransmission (Eifel, RFC 3522), or when every retransmission was reported as a
 * duplicate (D-SACK, RFC 3708). */
#include "stack/internal.h"

#include <assert.h>

enum { DUP_THRESH = 3 };

static void remember_for_undo(struct tn_tcp *c)
{
    struct tn_flight *fl = c->flight;
    fl->prior_cwnd = c->cc.cwnd;
    fl->prior_ssthresh = c->cc.ssthresh;
    fl->undo_bytes = 0;
    fl->can_undo = true;
    fl->rexmitted = false;
}

static void enter_recovery(struct tn_tcp *c, uint32_t inflight, uint64_t now_us)
{
    struct tn_flight *fl = c->flight;
    remember_for_undo(c);
    c->cc.ops->on_loss(&c->cc, now_us);
    fl->ca = TN_CA_RECOVERY;
    fl->recover = c->snd_nxt;
    fl->prr_delivered = fl->prr_out = 0;
    fl->prr_fs = inflight ? inflight : 1;
    c->f.tlp_out = false;
}

static void prr(struct tn_tcp *c, uint32_t delivered, bool safe)
{
    struct tn_flight *fl = c->flight;
    uint32_t pipe = tn_tcp_inflight(c), mss = c->cc.mss, ssthresh = c->cc.ssthresh;
    int64_t count;
    fl->prr_delivered += delivered;
    if (pipe > ssthresh) {
        count = (int64_t)(((uint64_t)fl->prr_delivered * ssthresh + fl->prr_fs - 1) / fl->prr_fs) - fl->prr_out;
    } else {
        int64_t limit = (int64_t)fl->prr_delivered - fl->prr_out;
        if (limit < delivered) limit = delivered;
        if (safe) limit += mss;
        count = ssthresh - pipe < limit ? ssthresh - pipe : limit;
    }
    if (count < 0) count = 0;
    /* The fast retransmit goes out whatever the arithmetic says, so does what NewReno's partial ACK asks for, and an
     * empty network must not stay empty. */
    bool must = !fl->rexmitted || pipe == 0 || (!c->has_sack && fl->recs.unsent_lost);
    if (must && count < mss) count = mss;
    c->cc.cwnd = pipe + (uint32_t)count;
}

static void undo(struct tn_tcp *c, uint64_t now_us)
{
    struct tn_flight *fl = c->flight;
    if (c->cc.cwnd < fl->prior_cwnd) c->cc.cwnd = fl->prior_cwnd;
    c->cc.ssthresh = fl->prior_ssthresh;
    c->cc.ops->on_undo(&c->cc, &fl->rate, now_us);
    tn_recs_unmark_lost(&fl->recs);
    fl->can_undo = false;
    fl->ca = TN_CA_OPEN;
    fl->dupacks = 0;
}

static bool was_mistake(struct tn_tcp *c, const struct tn_ack_result *r)
{
    struct tn_flight *fl = c->flight;
    if (r->dsack_bytes) {
        tn_rack_on_dsack(c);
        fl->undo_bytes = fl->undo_bytes > r->dsack_bytes ? fl->undo_bytes - r->dsack_bytes : 0;
        if (fl->can_undo && fl->rexmitted && fl->undo_bytes == 0 && fl->recs.unsent_lost == 0) return true;
    }
    return fl->can_undo && fl->ca != TN_CA_OPEN && r->spurious;
}

/* NewReno (RFC 6582) for peers without SACK: the third duplicate, and then each partial ACK, says that the first
 * segment is lost. */
static void newreno_detect(struct tn_tcp *c, const struct tn_ack_result *r, uint64_t now_us)
{
    struct tn_flight *fl = c->flight;
    if (fl->recs.count == 0) return;
    const struct tn_rec *head = tn_rec_at(&fl->recs, fl->recs.first);
    bool third = fl->ca == TN_CA_OPEN && fl->dupacks >= DUP_THRESH && seq_ge(c->snd_una, fl->recover);
    bool partial = fl->ca == TN_CA_RECOVERY && r->acked && seq_lt(c->snd_una, fl->recover);
    if ((third || partial) && !(head->flags & TN_REC_LOST)) tn_rack_mark_lost(c, fl->recs.first, now_us);
}

static void grow(struct tn_tcp *c, const struct tn_ack_result *r, uint64_t now_us)
{
    struct tn_flight *fl = c->flight;
    bool limited = fl->cwnd_limited || fl->ca == TN_CA_LOSS;
    if (tn_cc_in_slow_start(&c->cc) && c->cc.cwnd < 2 * fl->max_inflight) limited = true;
    /* What was only reported selectively counts for a window by loss when the hole below it has closed: until then it
     * may be the sign of loss. */
    if (c->cc.ops->is_model ? !r->delivered : !r->acked) return;
    struct tn_cc_ack ack = {
        .now_us = now_us, .acked = r->delivered, .rtt_us = r->rtt_us, .srtt_us = c->rtt.srtt_us,
        .min_rtt_us = c->rtt.min_us, .una = c->snd_una, .nxt = c->snd_nxt, .inflight = r->inflight_before,
        .inflight_now = tn_tcp_inflight(c), .cwnd_limited = limited, .has_sack = c->has_sack,
        .peer_limited = fl->peer_limited_now, .peer_wnd = c->snd_wnd_max,
        .in_recovery = fl->ca == TN_CA_RECOVERY, .rate = &fl->rate, .rs = &r->rate,
    };
    c->cc.ops->on_ack(&c->cc, &ack);
}

static void leave(struct tn_tcp *c)
{
    struct tn_flight *fl = c->flight;
    if (fl->ca == TN_CA_RECOVERY && !c->cc.ops->is_model) c->cc.cwnd = c->cc.ssthresh;
    fl->ca = TN_CA_OPEN;
    fl->dupacks = 0;
    tn_rack_on_recovered(c);
}

/* A tail loss probe was answered: did it repair a loss that nobody else noticed? The acknowledgment of the segment that was
 * sent again does not tell: it may be late, and that of the copy yet to come, as a D-SACK. Only when something newer is
 * acknowledged without one it was a loss (RFC 8985 section 7.4.2). */
static void tlp_ack(struct tn_tcp *c, const struct tn_ack_result *r, uint64_t now_us)
{
    if (!c->f.tlp_out) return;
    if (c->f.tlp_is_rexmit ? r->dsack_bytes == 0 && seq_le(c->snd_una, c->tlp_end) : seq_lt(c->snd_una, c->tlp_end)) return;
    c->f.tlp_out = false;
    if (!c->f.tlp_is_rexmit || r->dsack_bytes || c->flight->ca != TN_CA_OPEN) return;
    c->cc.ops->on_loss(&c->cc, now_us);
    if (c->cc.cwnd > c->cc.ssthresh) c->cc.cwnd = c->cc.ssthresh;
}

void tn_recovery_on_ack(struct tn_tcp *c, const struct tn_ack_result *r, uint64_t now_us)
{
    struct tn_flight *fl = c->flight;
    tlp_ack(c, r, now_us);
    if (was_mistake(c, r)) undo(c, now_us);
    uint32_t lost_before = fl->recs.lost;
    uint64_t wait = tn_rack_detect(c, now_us);
    fl->reorder_at_us = wait ? now_us + wait : 0;
    if (!c->has_sack) newreno_detect(c, r, now_us);
    if (fl->ca != TN_CA_OPEN && seq_ge(c->snd_una, fl->recover)) leave(c);
    if (fl->ca == TN_CA_OPEN && fl->recs.unsent_lost) enter_recovery(c, r->inflight_before, now_us);
    if (fl->ca != TN_CA_RECOVERY || c->cc.ops->is_model) grow(c, r, now_us);
    else if (r->delivered || fl->recs.lost > lost_before)
        prr(c, r->delivered, r->acked && fl->recs.lost <= lost_before);
}

void tn_recovery_on_timer_loss(struct tn_tcp *c, uint64_t now_us)
{
    struct tn_flight *fl = c->flight;
    uint64_t wait = tn_rack_detect(c, now_us);
    fl->reorder_at_us = wait ? now_us + wait : 0;
    if (!fl->recs.unsent_lost) return;
    if (fl->ca == TN_CA_OPEN) enter_recovery(c, tn_tcp_inflight(c) + fl->recs.lost, now_us);
    if (fl->ca == TN_CA_RECOVERY && !c->cc.ops->is_model) prr(c, 0, false);
}

void tn_recovery_on_rto(struct tn_tcp *c, uint64_t now_us)
{
    struct tn_flight *fl = c->flight;
    struct tn_recs *t = &fl->recs;
    assert(t->count);
    if (fl->ca == TN_CA_OPEN) { /* else the window has been reduced for this loss already (RFC 5681 section 3.1) */
        remember_for_undo(c);
        c->cc.ops->on_rto(&c->cc, now_us);
    }
    if (tn_rec_at(t, t->first)->flags & TN_REC_SACKED) tn_recs_forget_sacked(t);
    for (uint32_t i = 0; i < t->count; i++) tn_recs_mark_lost(t, t->first + i);
    c->cc.cwnd = c->cc.mss;
    fl->pace.used_to_us = now_us; /* the timeout has waited long enough */
    fl->ca = TN_CA_LOSS;
    fl->recover = c->snd_nxt;
    fl->dupacks = 0;
    c->f.tlp_out = false;
}

void tn_recovery_sent(struct tn_tcp *c, uint32_t len, bool is_rexmit, uint64_t now_us)
{
    struct tn_flight *fl = c->flight;
    if (fl->ca == TN_CA_RECOVERY) fl->prr_out += len;
    if (!is_rexmit) return;
    if (!fl->rexmitted) fl->undo_tsval = tn_tcp_tsval(c->ts_offset, now_us);
    fl->rexmitted = true;
    fl->undo_bytes += len;
}
