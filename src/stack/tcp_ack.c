/* The acknowledgment in a segment: window, scoreboard, round-trip time; then the recovery decides what follows from
 * it. */
#include "stack/internal.h"

#include <stdlib.h>

/* The window counts from the ACK it came with. An ACK that moves snd_una therefore always brings its own, also in a
 * retransmission with an old sequence number, where RFC 9293's comparison would keep the old size at a new place. */
static void update_window(struct tn_tcp *c, const struct tn_tcp_seg *seg)
{
    uint32_t window = (uint32_t)seg->window << c->f.snd_wscale;
    if (seq_lt(seg->ack, c->snd_una)) return;
    if (seg->ack == c->snd_una) {
        if (seq_lt(seg->seq, c->snd_wl1)) return;
        /* An edge does not move back: this one is older. Zero is believed all the same, as peers under pressure mean
         * it. */
        if (seg->seq == c->snd_wl1 && window && window <= c->snd_wnd) return;
    }
    c->snd_wnd = window;
    if (c->snd_wnd > c->snd_wnd_max) c->snd_wnd_max = c->snd_wnd;
    c->snd_wl1 = seg->seq;
    if (c->snd_wnd && c->f.rexmit_kind == TN_RX_PERSIST) {
        c->f.backoff = 0;
        tn_tcp_arm(c, TN_RX_NONE, TN_NEVER);
    }
}

struct ack_work {
    const struct tn_tcp_seg *seg;
    struct tn_ack_result r;
    uint32_t fack_before;
    uint64_t newest_us;   /* when the newest segment sent only once and acknowledged now was sent; 0: none */
    uint64_t rexmit_us; /* last transmission of the last segment acknowledged that was sent more than once; 0: none */
};

static void note_delivered(struct tn_tcp *c, struct ack_work *w, const struct tn_rec *rec, uint64_t now_us)
{
    if (rec->xmits == 1 && rec->sent_us >= w->newest_us) w->newest_us = rec->sent_us;
    tn_rate_note(&c->flight->rate, &w->r.rate, rec);
    if (c->has_sack) tn_rack_delivered(c, rec, w->fack_before, w->seg, now_us);
}

/* Takes [snd_una, ack) off the scoreboard. */
static void ack_records(struct tn_tcp *c, struct ack_work *w, uint64_t now_us)
{
    struct tn_recs *t = &c->flight->recs;
    uint32_t sacked_before = t->sacked;
    struct tn_rec rec;
    while (tn_recs_pop(t, w->seg->ack, &rec)) {
        if (rec.xmits > 1) w->rexmit_us = rec.sent_us;
        if (!(rec.flags & TN_REC_SACKED)) note_delivered(c, w, &rec, now_us);
    }
    /* What lay behind a hole has waited for its repair: its time is not a round trip. */
    if (w->rexmit_us) w->newest_us = 0;
    w->r.acked = w->seg->ack - c->snd_una;
    w->r.delivered += w->r.acked - (sacked_before - t->sacked);
}

static void sack_block(struct tn_tcp *c, struct ack_work *w, const struct tn_tcp_sack *b, uint64_t now_us)
{
    struct tn_recs *t = &c->flight->recs;
    uint32_t end = tn_recs_end(t), id = tn_recs_find(t, b->start);
    for (; (id = tn_recs_next_unsacked(t, id)) != end; id++) {
        const struct tn_rec *rec = tn_rec_at(t, id);
        if (seq_gt(tn_rec_end(rec), b->end)) return;
        note_delivered(c, w, rec, now_us);
        tn_recs_mark_sacked(t, id);
        w->r.delivered += rec->len;
    }
}

/* RFC 2883: the first block lies below the cumulative ACK, or inside the second. */
static bool first_is_dsack(const struct tn_tcp_seg *seg)
{
    const struct tn_tcp_sack *b = seg->sack;
    if (seg->nsack == 0 || seq_ge(b[0].start, b[0].end)) return false;
    if (seq_le(b[0].end, seg->ack)) return true;
    return seg->nsack > 1 && seq_ge(b[0].start, b[1].start) && seq_le(b[0].end, b[1].end);
}

static void sack_input(struct tn_tcp *c, struct ack_work *w, uint64_t now_us)
{
    const struct tn_tcp_seg *seg = w->seg;
    unsigned i = 0;
    if (first_is_dsack(seg)) {
        w->r.dsack_bytes = seg->sack[0].end - seg->sack[0].start;
        i = 1;
    }
    for (; i < seg->nsack; i++) {
        const struct tn_tcp_sack *b = &seg->sack[i];
        if (seq_lt(b->start, b->end) && seq_le(b->end, c->snd_nxt) && seq_ge(b->start, c->snd_una))
            sack_block(c, w, b, now_us);
    }
}

/* The round trip of a segment that was sent more than once, 0 if unknown. The echo tells which transmission was
 * answered, but not when the first answer got lost and a duplicate brought the next one: then it is the time of the
 * loss. An echo of an earlier transmission therefore counts only if the ACK can't be the answer to the last one. */
static uint64_t ambiguous_rtt(const struct tn_tcp *c, const struct ack_work *w, uint64_t now_us)
{
    if (!w->rexmit_us || !c->has_ts || !w->seg->tsecr) return 0;
    uint64_t since = now_us - w->rexmit_us;
    if (seq_ge(w->seg->tsecr, tn_tcp_tsval(c->ts_offset, w->rexmit_us))) return since ? since : 1;
    if (since >= c->rtt.min_us) return 0;
    uint32_t ms = tn_tcp_tsval(c->ts_offset, now_us) - w->seg->tsecr;
    return ms <= TN_RTT_SAMPLE_MAX_US / 1000 ? ms * 1000ull + 1 : 0;
}

static void sample_rtt(struct tn_tcp *c, struct ack_work *w, uint64_t now_us)
{
    uint64_t rtt = w->newest_us ? now_us - w->newest_us : ambiguous_rtt(c, w, now_us);
    if (!w->newest_us && !rtt) return;
    tn_rtt_sample(&c->rtt, rtt, now_us);
    w->r.rtt_us = rtt ? (uint32_t)rtt : 1;
    /* Only now: where no acknowledgment tells what it answers and the round trip has become longer than the timeout, a timeout
     * that fell back at each of them would send everything twice for ever (Karn). */
    c->f.backoff = 0;
}

/* Without SACK a duplicate ACK is the only sign that a segment has left the network (RFC 5681 section 2). */
static void count_dupacks(struct tn_tcp *c, struct ack_work *w, bool window_same)
{
    struct tn_flight *fl = c->flight;
    uint32_t mss = c->cc.mss;
    if (w->r.acked) {
        uint32_t counted = fl->dupacks * mss;
        w->r.delivered = w->r.acked > counted ? w->r.acked - counted : 1;
        uint32_t segs = w->r.acked / mss;
        fl->dupacks = fl->dupacks > segs ? fl->dupacks - segs : 0;
    } else if (w->seg->len == 0 && window_same && !(w->seg->flags & TN_TCP_FIN) && fl->recs.count) {
        if (fl->dupacks < fl->recs.count) fl->dupacks++;
        w->r.delivered = mss;
    }
}

static void fin_acked(struct tn_tcp *c, uint64_t now_us)
{
    switch (c->f.state) {
    case TN_TCP_FIN_WAIT_1: tn_tcp_set_state(c, TN_TCP_FIN_WAIT_2, now_us); break;
    case TN_TCP_CLOSING: tn_tcp_enter_time_wait(c, now_us); break;
    case TN_TCP_LAST_ACK: tn_tcp_end(c, 0, now_us); break;
    default: break;
    }
}

/* Moves snd_una; acknowledged bytes leave the send queue. True: our FIN was among it. */
static bool advance_una(struct tn_tcp *c, uint32_t acked)
{
    uint32_t bytes = acked < c->sendq.len ? acked : c->sendq.len;
    tn_queue_consume(&c->sendq, &c->st->pool, bytes);
    if (c->sendq.len == 0 && c->reserved == 0) tn_queue_trim(&c->sendq, &c->st->pool, 0);
    tn_account_sync(c);
    c->snd_una += acked;
    return acked > bytes;
}

static void drop_idle_flight(struct tn_tcp *c)
{
    if (c->snd_una != c->snd_nxt) return;
    tn_recs_fini(&c->flight->recs, &c->st->pool);
    free(c->flight);
    c->flight = NULL;
    c->cc.flight = NULL;
    if (c->f.rexmit_kind != TN_RX_FIN_WAIT_2) tn_tcp_arm(c, TN_RX_NONE, TN_NEVER);
}

static void flight_ack(struct tn_tcp *c, const struct tn_tcp_seg *seg, bool window_same, uint64_t now_us)
{
    struct tn_flight *fl = c->flight;
    struct ack_work w = {.seg = seg, .fack_before = fl->fack};
    w.r.inflight_before = tn_tcp_inflight(c);
    bool fin = false;
    if (seq_gt(seg->ack, c->snd_una)) {
        ack_records(c, &w, now_us);
        fin = advance_una(c, w.r.acked);
        fl->rto_base_us = now_us;
        fl->stuck_us = 0;
        if (seq_lt(fl->fack, c->snd_una)) fl->fack = c->snd_una;
    }
    if (c->has_sack && seg->nsack) sack_input(c, &w, now_us);
    if (!c->has_sack) count_dupacks(c, &w, window_same);
    sample_rtt(c, &w, now_us);
    tn_rate_finish(&fl->rate, &w.r.rate, w.r.delivered, c->rtt.min_us, now_us);
    w.r.spurious = w.rexmit_us && fl->rexmitted && c->has_ts && seg->tsecr && seq_lt(seg->tsecr, fl->undo_tsval);
    tn_recovery_on_ack(c, &w.r, now_us);
    drop_idle_flight(c);
    if (fin) fin_acked(c, now_us);
}

bool tn_tcp_ack_input(struct tn_tcp *c, const struct tn_tcp_seg *seg, uint64_t now_us)
{
    /* RFC 5961 section 5: what acknowledges the future or the distant past is somebody's guess. */
    if (seq_gt(seg->ack, c->snd_nxt) || seq_lt(seg->ack, c->snd_una - c->snd_wnd_max)) {
        if (tn_tcp_may_challenge(c, now_us)) tn_tcp_send_ack(c, now_us);
        return false;
    }
    uint32_t wnd_before = c->snd_wnd;
    update_window(c, seg);
    if (c->flight && seq_ge(seg->ack, c->snd_una)) flight_ack(c, seg, wnd_before == c->snd_wnd, now_us);
    else if (c->f.tlp_out && c->has_sack && first_is_dsack(seg)) c->f.tlp_out = false; /* both copies have arrived */
    return true;
}
