/* Loss detection by time: RACK (RFC 8985). A segment is lost when one that was sent later has arrived and more than a
 * round trip plus a reordering window has passed since it was sent. This finds lost retransmissions as well, which
 * counting (RFC 6675) can't; and with three segments reported beyond a hole and no reordering ever seen the window is
 * zero, which is counting's answer at the same moment. */
#include "stack/internal.h"

enum { REO_MULT_MAX = 16 /* four lowest RTTs */, REO_PERSIST = 16, DUP_THRESH = 3 };

static bool sent_after(uint64_t us1, uint32_t end1, uint64_t us2, uint32_t end2)
{
    return us1 > us2 || (us1 == us2 && seq_gt(end1, end2));
}

void tn_rack_delivered(struct tn_tcp *c, const struct tn_rec *rec, uint32_t fack_before, const struct tn_tcp_seg *seg,
                       uint64_t now_us)
{
    struct tn_flight *fl = c->flight;
    uint32_t end = tn_rec_end(rec);
    if (seq_gt(end, fl->fack)) fl->fack = end;
    else if (rec->xmits == 1 && seq_le(end, fack_before)) c->reordering = true;
    uint64_t rtt = now_us - rec->sent_us;
    if (rec->xmits > 1) { /* which transmission arrived? Not this one if it could not be back yet. */
        if (c->has_ts && seg->tsecr && seq_lt(seg->tsecr, tn_tcp_tsval(c->ts_offset, rec->sent_us))) return;
        if (rtt < c->rtt.min_us) return;
    }
    fl->rack_rtt_us = rtt < UINT32_MAX ? (uint32_t)rtt : UINT32_MAX;
    if (!sent_after(rec->sent_us, end, fl->rack_xmit_us, fl->rack_end)) return;
    fl->rack_xmit_us = rec->sent_us;
    fl->rack_end = end;
}

static uint64_t reorder_window(const struct tn_tcp *c)
{
    const struct tn_flight *fl = c->flight;
    if (!c->reordering && (fl->ca != TN_CA_OPEN || fl->recs.sacked_segs >= DUP_THRESH)) return 0;
    uint64_t us = (uint64_t)c->rtt.min_us * c->reo_mult / 4;
    return us < c->rtt.srtt_us ? us : c->rtt.srtt_us;
}

void tn_rack_mark_lost(struct tn_tcp *c, uint32_t id, uint64_t now_us)
{
    struct tn_flight *fl = c->flight;
    const struct tn_rec *rec = tn_rec_at(&fl->recs, id);
    tn_recs_mark_lost(&fl->recs, id);
    fl->rate.lost += rec->len;
    if (c->cc.ops->on_segment_lost) c->cc.ops->on_segment_lost(&c->cc, rec, &fl->rate, c->has_sack, now_us);
}

uint64_t tn_rack_detect(struct tn_tcp *c, uint64_t now_us)
{
    struct tn_flight *fl = c->flight;
    struct tn_recs *t = &fl->recs;
    if (!c->has_sack || fl->rack_xmit_us == 0) return 0;
    uint64_t allowed = fl->rack_rtt_us + reorder_window(c);
    while (t->oldest != TN_REC_NONE) {
        const struct tn_rec *rec = tn_rec_at(t, t->oldest);
        if (!sent_after(fl->rack_xmit_us, fl->rack_end, rec->sent_us, tn_rec_end(rec))) return 0;
        uint64_t passed = now_us - rec->sent_us;
        if (passed < allowed) return allowed - passed;
        tn_rack_mark_lost(c, t->oldest, now_us);
    }
    return 0;
}

/* A retransmission was for nothing: allow for more reordering, once per round trip, for the next recoveries. */
void tn_rack_on_dsack(struct tn_tcp *c)
{
    struct tn_flight *fl = c->flight;
    if (seq_lt(c->snd_una, fl->dsack_round)) return;
    fl->dsack_round = c->snd_nxt;
    c->reo_persist = REO_PERSIST;
    if (c->reo_mult < REO_MULT_MAX) c->reo_mult++;
}

void tn_rack_on_recovered(struct tn_tcp *c)
{
    if (c->reo_persist && --c->reo_persist == 0) c->reo_mult = 1;
}
