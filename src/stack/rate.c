#include "stack/rate.h"
#include "stack/sack.h"
#include "stack/seq.h"

/* A new flight begins after a pause, so its first round trip is limited by the application. */
void tn_rate_start(struct tn_rate *r, uint64_t now_us)
{
    *r = (struct tn_rate){.app_limited = true};
    r->delivered_us = r->first_sent_us = (uint32_t)now_us;
}

void tn_rate_sent(struct tn_rate *r, struct tn_rec *rec, uint32_t in_flight, uint64_t now_us)
{
    if (in_flight == 0) r->first_sent_us = r->delivered_us = (uint32_t)now_us;
    rec->mark = (struct tn_rate_mark){
        .delivered = r->delivered, .delivered_us = r->delivered_us, .first_sent_us = r->first_sent_us,
        .lost = r->lost, .in_flight = in_flight + rec->len,
    };
    if (r->app_limited) rec->flags |= TN_REC_APP_LIMITED;
    else rec->flags &= (uint8_t)~TN_REC_APP_LIMITED;
}

void tn_rate_note(struct tn_rate *r, struct tn_rate_sample *s, const struct tn_rec *rec)
{
    uint32_t end = rec->seq + rec->len;
    if (s->has_data && (rec->sent_us < s->sent_us || (rec->sent_us == s->sent_us && seq_le(end, s->end)))) return;
    s->has_data = true;
    s->sent_us = rec->sent_us;
    s->end = end;
    s->prior_delivered = rec->mark.delivered;
    s->prior_us = rec->mark.delivered_us;
    s->send_elapsed_us = (uint32_t)rec->sent_us - rec->mark.first_sent_us;
    s->app_limited = rec->flags & TN_REC_APP_LIMITED;
    s->in_flight = rec->mark.in_flight;
    s->lost = r->lost - rec->mark.lost;
    r->first_sent_us = (uint32_t)rec->sent_us;
}

void tn_rate_finish(struct tn_rate *r, struct tn_rate_sample *s, uint32_t bytes, uint32_t min_rtt_us,
                    uint64_t now_us)
{
    if (bytes == 0) return;
    r->delivered += bytes;
    r->delivered_us = (uint32_t)now_us;
    if (r->app_limited && seq_gt(r->delivered, r->app_limited_to)) r->app_limited = false;
    if (!s->has_data) return;
    uint32_t ack_elapsed = (uint32_t)now_us - s->prior_us;
    uint32_t interval = s->send_elapsed_us > ack_elapsed ? s->send_elapsed_us : ack_elapsed;
    s->delivered = r->delivered - s->prior_delivered;
    /* Shorter than a round trip can't be: an acknowledgment of an earlier transmission. */
    if (interval == 0 || interval < min_rtt_us) return;
    s->bytes_per_s = (uint64_t)s->delivered * 1000000 / interval;
}

void tn_rate_limited(struct tn_rate *r, uint32_t in_flight)
{
    r->app_limited = true;
    r->app_limited_to = r->delivered + in_flight;
}
