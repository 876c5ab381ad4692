/* Segments that belong to no flow, and the limit on challenge ACKs. */
#include "stack/internal.h"

enum { CKSUM_AT = 16 };

void tn_tcp_reply(struct tn_stack *st, const struct tn_addrport *local, const struct tn_addrport *remote,
                  const struct tn_tcp_seg *seg)
{
    struct tn_tcp_seg out = *seg;
    out.sport = local->port;
    out.dport = remote->port;
    struct tn_ip_out o;
    size_t len = tn_tcp_seg_put(tn_ip_out_l4(&o), &out);
    tn_ip_send(st, &o, &local->ip, &remote->ip, TN_IPPROTO_TCP, len, CKSUM_AT);
}

/* RFC 9293 section 3.10.7.1: the reset takes its sequence number from the segment's ACK, or acknowledges all of
 * it. */
void tn_tcp_reply_rst(struct tn_stack *st, const struct tn_addrport *local, const struct tn_addrport *remote,
                      const struct tn_tcp_seg *seg)
{
    if (seg->flags & TN_TCP_RST) return;
    struct tn_tcp_seg rst = {.flags = TN_TCP_RST, .seq = seg->ack};
    if (!(seg->flags & TN_TCP_ACK)) {
        rst.flags = TN_TCP_RST | TN_TCP_ACK;
        rst.seq = 0;
        rst.ack = seg->seq + (uint32_t)seg->len + !!(seg->flags & TN_TCP_SYN) + !!(seg->flags & TN_TCP_FIN);
    }
    tn_tcp_reply(st, local, remote, &rst);
}

void tn_stack_reset_syn(struct tn_stack *st, const struct tn_syn *syn, uint64_t now_us)
{
    struct tn_tcp_seg seg = {.seq = syn->seq, .flags = TN_TCP_SYN};
    tn_stack_enter(st);
    tn_tcp_reply_rst(st, &syn->dst, &syn->src, &seg);
    tn_stack_leave(st, false, now_us);
}

/* RFC 5961 section 7: per flow so that two confused ends don't feed each other, and for the stack as a whole. */
bool tn_tcp_may_challenge(struct tn_tcp *c, uint64_t now_us)
{
    uint32_t now_ms = (uint32_t)(now_us / 1000);
    if (c->challenge_ms && now_ms - c->challenge_ms < TN_TCP_OOW_SPACING_US / 1000) return false;
    if (!tn_ratelim_take(&c->st->challenge_limit, now_us)) return false;
    c->challenge_ms = now_ms ? now_ms : 1;
    c->st->stats.challenge_acks++;
    return true;
}
