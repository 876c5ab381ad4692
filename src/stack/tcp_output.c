/* Segments out: what may be sent, in which order, and how they are built.
 *
 * Lost segments go first, then new data as far as both windows allow, then an ACK if nothing carried it. A full
 * segment is always cc.mss bytes (SACK blocks ride on pure ACKs and on what has room), so retransmissions are never
 * resized. */
#include "stack/internal.h"

#include <stdlib.h>

enum { CKSUM_AT = 16, SACK_OPT = 4, SACK_BLOCK = 8 };

uint32_t tn_tcp_eff_mss(const struct tn_tcp *c) { return c->snd_mss - (c->has_ts ? (uint32_t)TN_TCP_TS_LEN : 0); }

uint32_t tn_tcp_inflight(const struct tn_tcp *c)
{
    const struct tn_flight *fl = c->flight;
    if (!fl) return 0;
    uint32_t pipe = tn_recs_pipe(&fl->recs, c->snd_nxt - c->snd_una);
    uint32_t gone = c->has_sack ? 0 : fl->dupacks * c->cc.mss;
    return pipe > gone ? pipe - gone : 0;
}

/* ---- building ---- */

/* SACK blocks into at most room bytes of options; true when all that should be said was. */
static bool put_sack(struct tn_tcp *c, struct tn_tcp_seg *seg, size_t room)
{
    bool dsack = c->dsack.start != c->dsack.end;
    if (!c->has_sack || (!dsack && !c->reass)) return true;
    unsigned n = room < SACK_OPT + SACK_BLOCK ? 0 : (unsigned)((room - SACK_OPT) / SACK_BLOCK);
    if (n > TN_TCP_SACK_MAX) n = TN_TCP_SACK_MAX;
    if (n == 0) return false;
    if (dsack) seg->sack[seg->nsack++] = c->dsack;
    seg->nsack = (uint8_t)(seg->nsack + tn_reass_blocks(c->reass, seg->sack + seg->nsack, n - seg->nsack));
    c->dsack = (struct tn_tcp_sack){0};
    return true;
}

/* The segment says all there is to acknowledge: no other ACK is due. */
static void ack_sent(struct tn_tcp *c)
{
    if (c->unacked_bytes && c->f.quickacks) c->f.quickacks--;
    c->acked_nxt = c->rcv_nxt;
    c->unacked_bytes = 0;
    c->ack_now = false;
    c->delack_at = TN_NEVER;
}

/* len bytes of the send queue from sequence number seq. */
static void transmit(struct tn_tcp *c, uint32_t seq, uint32_t len, uint8_t flags, uint64_t now_us)
{
    struct tn_tcp_seg seg = {
        .sport = c->f.local.port, .dport = c->f.remote.port, .seq = seq, .ack = c->rcv_nxt,
        .flags = flags | TN_TCP_ACK, .window = tn_tcp_window_field(c), .has_ts = c->has_ts,
        .tsval = tn_tcp_tsval(c->ts_offset, now_us), .tsecr = c->ts_recent,
    };
    size_t room = TN_TCP_HDR_MAX - TN_TCP_HDR_MIN - (c->has_ts ? (size_t)TN_TCP_TS_LEN : 0);
    if (len && room > tn_tcp_eff_mss(c) - len) room = tn_tcp_eff_mss(c) - len;
    if (put_sack(c, &seg, room)) ack_sent(c);
    if (len && tn_train_add(c, &seg, len)) return;
    struct tn_ip_out o;
    uint8_t *l4 = tn_ip_out_l4(&o);
    size_t hdr = tn_tcp_seg_put(l4, &seg);
    if (len) tn_queue_read(&c->sendq, seq - c->snd_una, l4 + hdr, len);
    tn_ip_send(c->st, &o, &c->f.local.ip, &c->f.remote.ip, TN_IPPROTO_TCP, hdr + len, CKSUM_AT);
}

void tn_tcp_send_ack(struct tn_tcp *c, uint64_t now_us) { transmit(c, c->snd_nxt, 0, 0, now_us); }

/* One number before what the peer expects: it answers with its ACK and window, whatever these are. */
void tn_tcp_send_probe(struct tn_tcp *c, uint64_t now_us) { transmit(c, c->snd_una - 1, 0, 0, now_us); }

void tn_tcp_send_rst(struct tn_tcp *c, uint64_t now_us)
{
    if (c->f.state <= TN_TCP_SYN_SENT || c->f.state == TN_TCP_DONE) return;
    struct tn_tcp_seg seg = {.seq = c->snd_nxt, .ack = c->rcv_nxt, .flags = TN_TCP_RST | TN_TCP_ACK};
    tn_tcp_reply(c->st, &c->f.local, &c->f.remote, &seg);
}

void tn_tcp_send_syn(struct tn_tcp *c, uint64_t now_us)
{
    bool is_reply = c->f.state == TN_TCP_SYN_RCVD;
    uint32_t window = c->rcv_buf < 65535 ? c->rcv_buf : 65535; /* never scaled in a SYN */
    struct tn_tcp_seg seg = {
        .seq = c->iss, .ack = is_reply ? c->rcv_nxt : 0, .flags = TN_TCP_SYN | (is_reply ? TN_TCP_ACK : 0),
        .window = (uint16_t)window, .mss = (uint16_t)(c->st->mtu - (c->f.local.ip.family == 4 ? 40 : 60)),
        .has_wscale = !is_reply || c->has_wscale, .wscale = c->f.rcv_wscale, .sack_ok = !is_reply || c->has_sack,
        .has_ts = !is_reply || c->has_ts, .tsval = tn_tcp_tsval(c->ts_offset, now_us),
        .tsecr = is_reply ? c->ts_recent : 0,
    };
    c->snd_nxt = c->iss + 1;
    if (is_reply) c->rcv_adv = seq_max(c->rcv_adv, c->rcv_nxt + window);
    if (c->f.backoff == 0) c->sent_us = now_us;
    if (c->f.rexmit_kind != TN_RX_SYN) {
        tn_tcp_arm(c, TN_RX_SYN, now_us + tn_rtt_backoff(&c->rtt, c->f.backoff));
        tn_tcp_timer_update(c);
    }
    tn_tcp_reply(c->st, &c->f.local, &c->f.remote, &seg);
}

/* ---- what may be sent ---- */

static bool is_open(const struct tn_tcp *c) { return c->f.state >= TN_TCP_ESTABLISHED && c->f.state < TN_TCP_DONE; }

static bool make_flight(struct tn_tcp *c, uint64_t now_us)
{
    if (c->flight) return true;
    struct tn_flight *fl = calloc(1, sizeof *fl);
    if (!fl) return false;
    tn_recs_init(&fl->recs);
    fl->fack = fl->recover = fl->dsack_round = fl->round_end = c->snd_una;
    fl->rto_base_us = now_us;
    tn_rate_start(&fl->rate, now_us);
    fl->pace.used_to_us = now_us;
    c->flight = fl;
    c->cc.flight = fl->cc_state;
    c->cc.ops->on_start(&c->cc, c->sent_us ? now_us - c->sent_us : 0, c->rtt.srtt_us, c->rtt.rto_us, now_us);
    return true;
}

static uint32_t window_room(const struct tn_tcp *c)
{
    uint32_t edge = c->snd_una + c->snd_wnd;
    return seq_gt(edge, c->snd_nxt) ? edge - c->snd_nxt : 0;
}

static uint32_t unsent(const struct tn_tcp *c) { return c->fin_sent ? 0 : tn_tcp_queued_end(c) - c->snd_nxt; }
static bool fin_pending(const struct tn_tcp *c) { return c->fin_queued && !c->fin_sent; }

static void fin_goes(struct tn_tcp *c, uint64_t now_us)
{
    c->fin_sent = true;
    if (c->f.state == TN_TCP_ESTABLISHED) tn_tcp_set_state(c, TN_TCP_FIN_WAIT_1, now_us);
    else if (c->f.state == TN_TCP_CLOSE_WAIT) tn_tcp_set_state(c, TN_TCP_LAST_ACK, now_us);
}

/* A new segment of len bytes, with FIN if fin; the caller has checked the windows. */
static bool push_new(struct tn_tcp *c, uint32_t len, bool fin, uint64_t now_us)
{
    if (!make_flight(c, now_us)) return false;
    struct tn_flight *fl = c->flight;
    if (c->snd_una == c->snd_nxt) fl->rto_base_us = now_us;
    uint32_t seq = c->snd_nxt;
    bool last = len == unsent(c);
    uint32_t pipe = tn_tcp_inflight(c);
    struct tn_rec *rec = tn_recs_push(&fl->recs, &c->st->pool, seq, len + fin, fin, now_us);
    if (!rec) return false;
    tn_rate_sent(&fl->rate, rec, pipe, now_us);
    tn_pace_sent(&fl->pace, c->cc.pace, len);
    c->snd_nxt += len + fin;
    c->bytes_sent += len;
    c->sent_us = fl->probe_base_us = now_us;
    tn_recovery_sent(c, len + fin, false, now_us);
    if (fin) fin_goes(c, now_us);
    transmit(c, seq, len, (uint8_t)((fin ? TN_TCP_FIN : 0) | (last && len ? TN_TCP_PSH : 0)), now_us);
    return true;
}

static void resend(struct tn_tcp *c, uint32_t id, uint64_t now_us)
{
    struct tn_flight *fl = c->flight;
    struct tn_rec *rec = tn_rec_at(&fl->recs, id);
    bool fin = rec->flags & TN_REC_FIN;
    uint32_t seq = rec->seq, len = rec->len - fin;
    tn_rate_sent(&fl->rate, rec, tn_tcp_inflight(c), now_us);
    tn_pace_sent(&fl->pace, c->cc.pace, len);
    tn_recs_resent(&fl->recs, id, now_us);
    if (id == fl->recs.first) fl->rto_base_us = now_us;
    c->bytes_resent += len;
    c->st->stats.retransmits++;
    transmit(c, seq, len, fin ? TN_TCP_FIN : 0, now_us);
}

static bool send_lost(struct tn_tcp *c, uint64_t now_us)
{
    struct tn_flight *fl = c->flight;
    uint32_t id = tn_recs_next_lost(&fl->recs), pipe = tn_tcp_inflight(c);
    uint32_t len = tn_rec_at(&fl->recs, id)->len;
    if (pipe && pipe + len > c->cc.cwnd) return false;
    tn_recovery_sent(c, len, true, now_us);
    resend(c, id, now_us);
    return true;
}

/* ---- new data, a run at a time ----
 *
 * One decision covers up to a pacing quantum of consecutive bytes: as far as both windows allow, in full segments but
 * for the last of the queue. */

/* What the congestion window has room for; an empty network takes one segment whatever the window says. */
static uint32_t cwnd_room(const struct tn_tcp *c)
{
    uint32_t pipe = tn_tcp_inflight(c), room = c->cc.cwnd > pipe ? c->cc.cwnd - pipe : 0;
    return pipe == 0 && room < c->cc.mss + 1 ? c->cc.mss + 1 : room;
}

/* Of len bytes the part that should go: all of it if it is the rest of the queue and a segment that is not full need
 * not wait (Nagle), or if it fills what the peer's window has left and that is no silly sliver (RFC 9293 section
 * 3.8.6.2.1); else full segments. */
static uint32_t worth_sending(const struct tn_tcp *c, uint32_t len, uint32_t left, uint32_t window, bool fin)
{
    uint32_t mss = c->cc.mss, full = len - len % mss;
    if (len == full) return len;
    if (len == left) return !c->nodelay && !fin && (full || c->snd_una != c->snd_nxt) ? full : len;
    return len == window && len - full >= c->snd_wnd_max / 2 ? len : full;
}

/* How much new data may go now, quantum at most; 0 with *fin false: nothing. */
static uint32_t plan_run(struct tn_tcp *c, uint32_t quantum, bool *fin)
{
    uint32_t left = unsent(c), window = window_room(c), room = cwnd_room(c), len = left < window ? left : window;
    bool by_cwnd = false;
    *fin = fin_pending(c) && len == left && window > len;
    if (len > quantum) {
        len = quantum;
        *fin = false;
    }
    if (len + *fin > room) {
        if (len > room) len = room;
        by_cwnd = true;
        *fin = false;
    }
    len = worth_sending(c, len, left, window, *fin);
    /* Within a batch more may be written: what is no full segment would end the train, and be a message of its own. */
    if (len == left && !*fin && len % c->cc.mss && tn_stack_output_later(c)) len -= len % c->cc.mss;
    if (by_cwnd && len < c->cc.mss && c->flight) c->flight->cwnd_limited_now = true;
    if (!by_cwnd && window < left && len < c->cc.mss && c->flight) c->flight->peer_limited_now = true;
    if (len < left) *fin = false;
    return len;
}

/* len consecutive new bytes, and FIN if fin. Returns false when nothing more can go. */
static bool send_run(struct tn_tcp *c, uint32_t len, bool fin, uint64_t now_us)
{
    do {
        uint32_t left = unsent(c), piece = len < c->cc.mss ? len : c->cc.mss;
        if (piece > left || !push_new(c, piece, fin && piece == len, now_us)) return false;
        len -= piece;
        if (!is_open(c)) return false;
    } while (len);
    return true;
}

/* The next run: what is lost first, segment by segment. False: nothing may go, or not yet. */
static bool send_some(struct tn_tcp *c, uint64_t now_us)
{
    struct tn_flight *fl = c->flight;
    if (fl && !tn_pace_allows(&fl->pace, c->cc.pace, now_us)) {
        fl->pace.waiting = fl->recs.unsent_lost || unsent(c) || fin_pending(c);
        return false;
    }
    if (fl && fl->recs.unsent_lost) return send_lost(c, now_us);
    bool fin;
    uint32_t len = plan_run(c, tn_pace_quantum(c->cc.pace, c->cc.mss), &fin);
    return (len || fin) && send_run(c, len, fin, now_us);
}

bool tn_tcp_send_small(struct tn_tcp *c, uint64_t now_us)
{
    uint32_t room = window_room(c), left = unsent(c), len = left < c->cc.mss ? left : c->cc.mss;
    if (len > room) len = room;
    bool fin = fin_pending(c) && len == left && room > len;
    return (len || fin) && push_new(c, len, fin, now_us);
}

bool tn_tcp_send_tail(struct tn_tcp *c, uint64_t now_us)
{
    struct tn_flight *fl = c->flight;
    if (!fl || fl->recs.count == 0) return false;
    c->f.tlp_out = true;
    c->f.tlp_is_rexmit = false;
    if (unsent(c) && window_room(c) && tn_tcp_send_small(c, now_us)) {
        c->tlp_end = c->snd_nxt;
        return true;
    }
    uint32_t id = tn_recs_end(&fl->recs) - 1;
    c->tlp_end = c->snd_nxt;
    c->f.tlp_is_rexmit = true;
    resend(c, id, now_us);
    return true;
}

/* The owner brings new bytes: had it let the network run dry? */
void tn_tcp_note_limited(struct tn_tcp *c, uint64_t now_us)
{
    struct tn_flight *fl = c->flight;
    if (!fl || unsent(c) || fl->recs.unsent_lost || !tn_pace_allows(&fl->pace, c->cc.pace, now_us)) return;
    uint32_t pipe = tn_tcp_inflight(c);
    if (pipe < c->cc.cwnd) tn_rate_limited(&fl->rate, pipe);
}

/* ---- the whole ---- */

/* Whether the congestion window was used is judged per round trip (RFC 7661 section 4.3). */
static void validate_window(struct tn_tcp *c, bool limited)
{
    struct tn_flight *fl = c->flight;
    uint32_t pipe = tn_tcp_inflight(c);
    if (seq_ge(c->snd_una, fl->round_end) || pipe > fl->max_inflight || limited) {
        fl->max_inflight = pipe;
        fl->round_end = c->snd_nxt;
        fl->cwnd_limited = limited;
    }
}

static bool may_probe_tail(const struct tn_tcp *c)
{
    const struct tn_flight *fl = c->flight;
    return c->has_sack && fl->ca == TN_CA_OPEN && !fl->recs.sacked && !fl->recs.lost && !c->f.tlp_out && !c->f.backoff;
}

/* RFC 8985 section 7.2 */
static uint64_t probe_timeout(const struct tn_tcp *c)
{
    enum { PEER_DELACK_US = 200000, UNKNOWN_US = 1000000 };
    if (!c->rtt.srtt_us) return UNKNOWN_US;
    return 2ull * c->rtt.srtt_us + (c->flight->recs.count == 1 ? PEER_DELACK_US : 2000);
}

/* What has gone out, or was acknowledged, has made room for more. */
static void wake_writer(struct tn_tcp *c)
{
    if (!c->want_write) return;
    uint32_t limit = tn_tcp_send_limit(c), ahead = tn_tcp_send_ahead(c), space = (uint32_t)tn_tcp_space(c);
    if (space == 0 || (space < limit / 4 && space < ahead / 2)) return;
    c->want_write = false;
    tn_tcp_raise(c, TN_EV_WRITABLE);
}

static void schedule(struct tn_tcp *c, uint64_t now_us)
{
    struct tn_flight *fl = c->flight;
    if (!fl || c->snd_una == c->snd_nxt) {
        bool stuck = unsent(c) || fin_pending(c); /* by the peer's window, or by memory */
        if (stuck && c->f.rexmit_kind != TN_RX_PERSIST)
            tn_tcp_arm(c, TN_RX_PERSIST, now_us + tn_rtt_backoff(&c->rtt, c->f.backoff));
        return;
    }
    uint64_t rto = fl->rto_base_us + tn_rtt_backoff(&c->rtt, c->f.backoff);
    if (rto <= now_us) rto = now_us + 1;
    uint64_t probe = may_probe_tail(c) ? fl->probe_base_us + probe_timeout(c) : TN_NEVER;
    if (probe <= now_us) probe = now_us + 1;
    if (fl->reorder_at_us && fl->reorder_at_us < rto) tn_tcp_arm(c, TN_RX_REORDER, fl->reorder_at_us);
    else if (probe < rto) tn_tcp_arm(c, TN_RX_PROBE, probe);
    else tn_tcp_arm(c, TN_RX_RTO, rto);
}

static void acknowledge(struct tn_tcp *c, uint64_t now_us)
{
    if (c->f.unanswered && c->has_sack) return; /* at the end of the batch, with what the owner has written by then */
    bool due = c->unacked_bytes && (c->f.quickacks || c->unacked_bytes >= 2u * c->rcv_mss);
    if (c->ack_now || due) tn_tcp_send_ack(c, now_us);
    else if (c->unacked_bytes && c->delack_at == TN_NEVER) c->delack_at = now_us + TN_TCP_DELACK_US;
}

void tn_tcp_output(struct tn_tcp *c, uint64_t now_us)
{
    if (!is_open(c)) return;
    if (c->flight) c->flight->cwnd_limited_now = c->flight->peer_limited_now = false;
    if (c->flight) tn_pace_wake(&c->flight->pace, now_us);
    while (send_some(c, now_us)) continue;
    if (!is_open(c)) return;
    if (c->flight) validate_window(c, c->flight->cwnd_limited_now);
    wake_writer(c);
    acknowledge(c, now_us);
    if (!is_open(c)) return;
    schedule(c, now_us);
    tn_tcp_timer_update(c);
}
