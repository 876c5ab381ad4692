/* TIME_WAIT: what must be remembered of a connection that is over, in a fifth of its memory. The peer's FIN may come
 * again and is acknowledged; a new SYN of the same 4-tuple is let through when it can't be an old duplicate (RFC
 * 6191, RFC 1122 section 4.2.2.13); resets are ignored (RFC 1337). */
#include "stack/internal.h"

#include <stdlib.h>

void tn_time_wait_free(struct tn_stack *st, struct tn_time_wait *tw)
{
    tn_flow_remove(st, &tw->f);
    tn_list_remove(&tw->node);
    st->ntime_wait--;
    free(tw);
}

static void restart(struct tn_stack *st, struct tn_time_wait *tw, uint64_t now_us)
{
    tw->expires_us = now_us + TN_TCP_TIME_WAIT_US;
    tn_list_remove(&tw->node);
    tn_list_push_back(&st->time_waits, &tw->node);
}

/* The flow itself has left the table. Without memory there is just no TIME_WAIT: late segments then get a reset. */
void tn_time_wait_add(struct tn_stack *st, const struct tn_tcp *c, uint64_t now_us)
{
    if (st->ntime_wait >= TN_STACK_TIME_WAIT_MAX)
        tn_time_wait_free(st, TN_CONTAINER(st->time_waits.next, struct tn_time_wait, node));
    struct tn_time_wait *tw = calloc(1, sizeof *tw);
    if (!tw) return;
    tw->f = (struct tn_flow){.local = c->f.local, .remote = c->f.remote, .is_time_wait = true};
    if (tn_flow_insert(st, &tw->f) != 0) {
        free(tw);
        return;
    }
    tn_list_init(&tw->node);
    tw->snd_nxt = c->snd_nxt;
    tw->rcv_nxt = c->rcv_nxt;
    tw->window = (c->rcv_adv - c->rcv_nxt) >> c->f.rcv_wscale;
    tw->has_ts = c->has_ts;
    tw->ts_recent = c->ts_recent;
    tw->ts_offset = c->ts_offset;
    st->ntime_wait++;
    restart(st, tw, now_us);
}

void tn_time_wait_expire(struct tn_stack *st, uint64_t now_us)
{
    TN_LIST_EACH (n, &st->time_waits) {
        struct tn_time_wait *tw = TN_CONTAINER(n, struct tn_time_wait, node);
        if (tw->expires_us > now_us) return;
        tn_time_wait_free(st, tw);
    }
}

static void answer(struct tn_stack *st, struct tn_time_wait *tw, uint64_t now_us)
{
    struct tn_tcp_seg ack = {
        .seq = tw->snd_nxt, .ack = tw->rcv_nxt, .flags = TN_TCP_ACK,
        .window = (uint16_t)(tw->window < 65535 ? tw->window : 65535), .has_ts = tw->has_ts,
        .tsval = tn_tcp_tsval(tw->ts_offset, now_us), .tsecr = tw->ts_recent,
    };
    tw->answered_us = now_us;
    tn_tcp_reply(st, &tw->f.local, &tw->f.remote, &ack);
}

static bool is_newer(const struct tn_time_wait *tw, const struct tn_tcp_seg *seg)
{
    if (tw->has_ts && seg->has_ts && seq_gt(seg->tsval, tw->ts_recent)) return true;
    return seq_gt(seg->seq, tw->rcv_nxt);
}

bool tn_time_wait_input(struct tn_stack *st, struct tn_time_wait *tw, const struct tn_tcp_seg *seg, uint64_t now_us)
{
    if (seg->flags & TN_TCP_RST) return false;
    if ((seg->flags & (TN_TCP_SYN | TN_TCP_ACK)) == TN_TCP_SYN && is_newer(tw, seg)) {
        tn_time_wait_free(st, tw);
        return true;
    }
    if (seg->flags & TN_TCP_FIN) {
        restart(st, tw, now_us);
        answer(st, tw, now_us);
    } else if ((seg->len || seg->flags & TN_TCP_SYN || seg->seq != tw->rcv_nxt) &&
               now_us - tw->answered_us >= TN_TCP_OOW_SPACING_US) {
        answer(st, tw, now_us);
    }
    return false;
}
