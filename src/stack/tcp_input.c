/* TCP segments in: to which flow they belong, and the checks in the order of RFC 9293 section 3.10.7 with the
 * hardening of RFC 5961 (exact reset sequence, challenge ACKs) and RFC 7323 (PAWS).
 *
 * A segment passes four gates: timestamp, sequence, reset/SYN, acknowledgment. What passes is trimmed to the window
 * and taken in; then one call to tn_tcp_output answers everything the segment caused. */
#include "stack/internal.h"

/* A timestamp not refreshed for 24 days says nothing any more: the clock may have wrapped (RFC 7323 section 5.5). */
enum { PAWS_STALE_S = 24 * 24 * 3600, FLOOR_SHIFT = 30 /* bytes, and ticks */ };

enum { PAUSE_US = 1000000 };

/* ---- segments without a flow ---- */

static void own_input(struct tn_stack *st, const struct tn_addrport *local, const struct tn_addrport *remote,
                      const struct tn_tcp_seg *seg, uint64_t now_us)
{
    struct tn_tcp_listener *l = tn_listener_find(st, local);
    bool is_syn = (seg->flags & (TN_TCP_SYN | TN_TCP_ACK | TN_TCP_RST | TN_TCP_FIN)) == TN_TCP_SYN;
    if (l && is_syn) tn_tcp_syn_input(st, l, local, remote, seg, now_us);
    else tn_tcp_reply_rst(st, local, remote, seg);
}

static void foreign_input(struct tn_stack *st, const struct tn_addrport *local, const struct tn_addrport *remote,
                          const struct tn_tcp_seg *seg, uint64_t now_us)
{
    if (!st->cb.foreign_syn) return;
    bool is_syn = (seg->flags & (TN_TCP_SYN | TN_TCP_ACK | TN_TCP_RST | TN_TCP_FIN)) == TN_TCP_SYN;
    if (!is_syn) {
        bool held = st->cb.foreign_tcp && st->cb.foreign_tcp(st->ctx, remote, local, seg->flags & TN_TCP_RST, now_us);
        if (!held) tn_tcp_reply_rst(st, local, remote, seg);
        return;
    }
    struct tn_syn syn = {
        .src = *remote, .dst = *local, .seq = seg->seq, .tsval = seg->tsval, .window = seg->window, .mss = seg->mss,
        .wscale = seg->wscale, .has_wscale = seg->has_wscale, .has_ts = seg->has_ts, .sack_ok = seg->sack_ok,
        .ecn = (seg->flags & (TN_TCP_ECE | TN_TCP_CWR)) == (TN_TCP_ECE | TN_TCP_CWR),
    };
    if (st->cb.foreign_syn(st->ctx, &syn, now_us) == TN_SYN_RESET) tn_tcp_reply_rst(st, local, remote, seg);
}

void tn_stack_tcp_input(struct tn_stack *st, const struct tn_ippkt *ip, uint64_t now_us)
{
    struct tn_tcp_seg seg;
    if (tn_tcp_seg_parse(ip->l4, ip->l4_len, &seg) != 0 || seg.sport == 0 || seg.dport == 0 ||
        tn_ip_is_multicast(&ip->dst)) {
        st->stats.in_malformed++;
        return;
    }
    struct tn_addrport local = {ip->dst, seg.dport}, remote = {ip->src, seg.sport};
    struct tn_flow *f = tn_flow_find(st, &local, &remote);
    if (f && f->is_time_wait) {
        if (!tn_time_wait_input(st, TN_CONTAINER(f, struct tn_time_wait, f), &seg, now_us)) return;
        f = NULL;
    }
    if (f) tn_tcp_flow_input(TN_CONTAINER(f, struct tn_tcp, f), &seg, now_us);
    else if (tn_stack_is_own(st, &ip->dst)) own_input(st, &local, &remote, &seg, now_us);
    else foreign_input(st, &local, &remote, &seg, now_us);
}

bool tn_stack_tcp_input_run(struct tn_stack *st, const struct tn_ippkt *ip, const struct iovec *packets, size_t n,
                            uint64_t now_us)
{
    struct tn_tcp_seg seg;
    if (tn_tcp_seg_parse(ip->l4, ip->l4_len, &seg) != 0) return false;
    struct tn_addrport local = {ip->dst, seg.dport}, remote = {ip->src, seg.sport};
    struct tn_flow *f = tn_flow_find(st, &local, &remote);
    if (!f || f->is_time_wait) return false;
    seg.more = packets + 1;
    seg.nmore = n - 1;
    seg.more_hdr = ip->total_len - seg.len;
    for (size_t i = 1; i < n; i++) seg.len += packets[i].iov_len - seg.more_hdr;
    struct tn_tcp *c = TN_CONTAINER(f, struct tn_tcp, f);
    if (!tn_tcp_takes_run(c, &seg)) return false;
    tn_tcp_flow_input(c, &seg, now_us);
    return true;
}

/* ---- SYN_SENT ---- */

/* The SYN was answered. Which of several, only its timestamp tells (Karn). */
static void handshake_rtt(struct tn_tcp *c, const struct tn_tcp_seg *seg, uint64_t now_us)
{
    if (c->f.backoff == 0) {
        if (now_us > c->sent_us) tn_rtt_sample(&c->rtt, now_us - c->sent_us, now_us);
        return;
    }
    uint32_t ms = tn_tcp_tsval(c->ts_offset, now_us) - seg->tsecr;
    if (c->has_ts && seg->has_ts && seg->tsecr && ms <= TN_RTT_SAMPLE_MAX_US / 1000)
        tn_rtt_sample(&c->rtt, ms * 1000ull, now_us);
}

static void syn_sent_input(struct tn_tcp *c, const struct tn_tcp_seg *seg, uint64_t now_us)
{
    bool has_ack = seg->flags & TN_TCP_ACK;
    if (has_ack && seg->ack != c->snd_nxt) {
        tn_tcp_reply_rst(c->st, &c->f.local, &c->f.remote, seg);
        return;
    }
    if (seg->flags & TN_TCP_RST) {
        if (has_ack) tn_tcp_end(c, TN_E_REFUSED, now_us);
        return;
    }
    if (!(seg->flags & TN_TCP_SYN)) return;
    tn_tcp_options_from_syn(c, seg, now_us);
    c->heard_us = now_us;
    if (!has_ack) { /* simultaneous open */
        c->f.backoff = 0;
        tn_tcp_set_state(c, TN_TCP_SYN_RCVD, now_us);
        tn_tcp_send_syn(c, now_us);
        return;
    }
    c->snd_una = seg->ack;
    c->rcv_adv = c->rcv_nxt + (c->rcv_buf < 65535 ? c->rcv_buf : 65535); /* what our SYN announced */
    handshake_rtt(c, seg, now_us);
    tn_tcp_opened(c, now_us);
    c->ack_now = true;
    tn_tcp_output(c, now_us);
}

/* ---- synchronized states ---- */

static void challenge(struct tn_tcp *c, uint64_t now_us)
{
    if (tn_tcp_may_challenge(c, now_us)) tn_tcp_send_ack(c, now_us);
}

/* Protection against wrapped sequence numbers. RFC 7323 compares with ts_recent, and so drops what was only overtaken by a
 * retransmission: that has filled a hole, and its timestamp became ts_recent. Where packets overtake each other by half a
 * round trip, one retransmission for nothing then made losses which made the next. But what could be taken for something
 * else was sent four gigabytes earlier, so we compare with a timestamp that is one to two gigabytes old (at first: the
 * SYN's): nothing of the window can be older, which is far smaller, and nothing that has wrapped can be younger. */
void tn_tcp_paws_floor(struct tn_tcp *c, uint32_t bytes)
{
    if (!((c->bytes_received ^ (c->bytes_received + bytes)) >> FLOOR_SHIFT)) return;
    c->ts_floor = c->ts_floor_next;
    c->ts_floor_next = c->ts_recent;
}

/* The floor of a flow that says little must not get so old that the clock wraps beyond it. */
static void follow_clock(struct tn_tcp *c)
{
    if (c->ts_recent - c->ts_floor > 1u << FLOOR_SHIFT) c->ts_floor = c->ts_recent - (1u << FLOOR_SHIFT) / 2;
}

static bool is_ts_stale(const struct tn_tcp *c, uint64_t now_us)
{
    return (uint32_t)(now_us / 1000000) - c->ts_recent_s > PAWS_STALE_S;
}

/* False: an old duplicate, to be dropped. */
static bool paws_ok(struct tn_tcp *c, const struct tn_tcp_seg *seg, uint64_t now_us)
{
    if (!c->has_ts || seg->flags & TN_TCP_RST) return true;
    if (!seg->has_ts) return false; /* RFC 7323 section 3.2 */
    bool is_old = seq_lt(seg->tsval, c->ts_recent) && seq_lt(seg->tsval, c->ts_floor);
    if (!is_old || is_ts_stale(c, now_us)) return true;
    if (seg->len || seg->flags & TN_TCP_FIN) tn_tcp_send_ack(c, now_us);
    else challenge(c, now_us);
    return false;
}

/* The segment touches the window: its end is not older than our last ACK, its start not beyond the announced edge. */
static bool in_window(const struct tn_tcp *c, const struct tn_tcp_seg *seg)
{
    uint32_t end = seg->seq + (uint32_t)seg->len + !!(seg->flags & TN_TCP_FIN) + !!(seg->flags & TN_TCP_SYN);
    return seq_ge(end, c->acked_nxt) && seq_le(seg->seq, c->rcv_adv);
}

static void out_of_window(struct tn_tcp *c, const struct tn_tcp_seg *seg, uint64_t now_us)
{
    if (seg->flags & TN_TCP_RST) return;
    if (seg->flags & TN_TCP_SYN) {
        if (c->f.state == TN_TCP_SYN_RCVD && seg->seq + 1 == c->rcv_nxt)
            tn_tcp_send_syn(c, now_us); /* our SYN-ACK got lost */
        else challenge(c, now_us);
        return;
    }
    if (seg->len == 0 && !(seg->flags & TN_TCP_FIN)) {
        challenge(c, now_us);
        return;
    }
    /* Data we have: our ACK got lost. Say so at once, and which bytes came twice (RFC 2883). */
    uint32_t end = seg->seq + (uint32_t)seg->len;
    if (c->has_sack && seg->len && seq_le(end, c->rcv_nxt)) c->dsack = (struct tn_tcp_sack){seg->seq, end};
    tn_tcp_send_ack(c, now_us);
}

/* RFC 5961 section 3: only the exact sequence number resets. */
static void rst_input(struct tn_tcp *c, const struct tn_tcp_seg *seg, uint64_t now_us)
{
    if (seg->seq != c->rcv_nxt) {
        challenge(c, now_us);
        return;
    }
    bool opening = c->f.state == TN_TCP_SYN_RCVD && c->own_local && !c->passive;
    tn_tcp_end(c, opening ? TN_E_REFUSED : TN_E_RESET, now_us);
}

static void note_timestamp(struct tn_tcp *c, const struct tn_tcp_seg *seg, uint64_t now_us)
{
    if (!seg->has_ts || !c->has_ts || seq_gt(seg->seq, c->acked_nxt)) return;
    if (seq_lt(seg->tsval, c->ts_recent) && !is_ts_stale(c, now_us)) return;
    c->ts_recent = seg->tsval;
    c->ts_recent_s = (uint32_t)(now_us / 1000000);
    follow_clock(c);
}

/* SYN_RCVD becomes ESTABLISHED by the ACK of our SYN. False: dropped. */
static bool syn_rcvd_ack(struct tn_tcp *c, const struct tn_tcp_seg *seg, uint64_t now_us)
{
    if (seg->ack != c->iss + 1) {
        tn_tcp_reply_rst(c->st, &c->f.local, &c->f.remote, seg);
        return false;
    }
    handshake_rtt(c, seg, now_us);
    c->snd_una = seg->ack;
    c->snd_wnd = (uint32_t)seg->window << c->f.snd_wscale;
    c->snd_wl1 = seg->seq;
    tn_tcp_opened(c, now_us);
    return true;
}

/* Bytes for a flow whose owner is gone, or beyond what its owner will read: RFC 1122 section 4.2.2.13. */
static bool nobody_reads(const struct tn_tcp *c, const struct tn_tcp_seg *seg)
{
    return c->orphan && seg->len && seq_gt(seg->seq + (uint32_t)seg->len, c->rcv_nxt);
}

static void synchronized_input(struct tn_tcp *c, const struct tn_tcp_seg *seg, uint64_t now_us)
{
    if (!in_window(c, seg)) {
        out_of_window(c, seg, now_us);
        return;
    }
    if (seg->flags & TN_TCP_RST) {
        rst_input(c, seg, now_us);
        return;
    }
    if (seg->flags & TN_TCP_SYN) {
        if (c->f.state == TN_TCP_SYN_RCVD && seg->flags & TN_TCP_ACK && seg->seq + 1 == c->rcv_nxt &&
            seg->ack == c->iss + 1) {
            syn_rcvd_ack(c, seg, now_us); /* simultaneous open: their SYN-ACK */
            c->ack_now = true;
            tn_tcp_output(c, now_us);
        } else if (c->f.state == TN_TCP_SYN_RCVD && seg->seq + 1 == c->rcv_nxt) {
            tn_tcp_send_syn(c, now_us);
        } else {
            challenge(c, now_us);
        }
        return;
    }
    if (!(seg->flags & TN_TCP_ACK)) return;
    if (c->f.state == TN_TCP_SYN_RCVD && !syn_rcvd_ack(c, seg, now_us)) return;
    if (now_us - c->heard_us > PAUSE_US) c->f.quickacks = TN_TCP_QUICKACKS; /* the sender starts slowly again */
    c->heard_us = now_us;
    c->keep_sent = 0;
    note_timestamp(c, seg, now_us);
    if (!tn_tcp_ack_input(c, seg, now_us) || c->f.state == TN_TCP_CLOSED || c->f.state == TN_TCP_DONE) return;
    if (nobody_reads(c, seg)) {
        tn_tcp_send_rst(c, now_us);
        tn_tcp_end(c, TN_E_RESET, now_us);
        return;
    }
    tn_tcp_window_sample(c, seg, now_us);
    if (seg->nmore) tn_tcp_receive_run(c, seg, now_us);
    else tn_tcp_receive(c, seg->seq, seg->payload, (uint32_t)seg->len, seg->flags & TN_TCP_FIN, now_us);
    tn_stack_answer_later(c, now_us);
}

void tn_tcp_flow_input(struct tn_tcp *c, const struct tn_tcp_seg *seg, uint64_t now_us)
{
    if (c->f.state == TN_TCP_SYN_SENT) {
        syn_sent_input(c, seg, now_us);
        return;
    }
    if (paws_ok(c, seg, now_us)) synchronized_input(c, seg, now_us);
}
