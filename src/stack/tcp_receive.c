/* Bytes and FIN of acceptable segments: into the receive queue at their place, ranges and D-SACK noted, delivery in
 * order. */
#include "stack/internal.h"

#include <assert.h>

/* The peer's FIN has its turn. */
static void take_fin(struct tn_tcp *c, uint64_t now_us)
{
    c->fin_rcvd = true;
    c->ack_now = true;
    tn_tcp_raise(c, TN_EV_READABLE);
    switch (c->f.state) {
    case TN_TCP_ESTABLISHED: tn_tcp_set_state(c, TN_TCP_CLOSE_WAIT, now_us); break;
    case TN_TCP_FIN_WAIT_1: tn_tcp_set_state(c, TN_TCP_CLOSING, now_us); break;
    case TN_TCP_FIN_WAIT_2:
        tn_tcp_send_ack(c, now_us);
        if (c->f.state == TN_TCP_FIN_WAIT_2) tn_tcp_enter_time_wait(c, now_us);
        break;
    default: break;
    }
}

/* rcv_nxt moves to nxt: bytes become readable, and maybe the FIN is reached. */
static void advance(struct tn_tcp *c, uint32_t nxt, uint64_t now_us)
{
    bool fin = c->fin_seen && nxt == c->fin_seq + 1;
    uint32_t bytes = nxt - c->rcv_nxt - fin;
    tn_tcp_paws_floor(c, bytes);
    c->rcv_nxt = nxt;
    c->recvq.len += bytes;
    c->unacked_bytes += bytes;
    c->bytes_received += bytes;
    if (seq_gt(c->rcv_nxt, c->rcv_adv)) c->rcv_adv = c->rcv_nxt; /* a FIN at the edge */
    if (bytes) tn_tcp_raise(c, TN_EV_READABLE);
    if (fin) take_fin(c, now_us);
}

/* Memory is short: bytes that can be delivered are worth more than bytes that wait for them (the peer keeps what it
 * was told by SACK until it is acknowledged, RFC 2018 section 8). */
static void renege(struct tn_tcp *c)
{
    tn_reass_free(c->reass);
    c->reass = NULL;
    if (c->fin_seen && !c->fin_rcvd) c->fin_seen = false;
    tn_queue_trim(&c->recvq, &c->st->pool, c->recvq.len);
}

bool tn_tcp_takes_run(const struct tn_tcp *c, const struct tn_tcp_seg *seg)
{
    bool receives = c->f.state == TN_TCP_ESTABLISHED || c->f.state == TN_TCP_FIN_WAIT_1 ||
                    c->f.state == TN_TCP_FIN_WAIT_2;
    return receives && !c->orphan && !c->fin_seen && !c->reass && seg->seq == c->rcv_nxt &&
           seq_le(seg->seq + (uint32_t)seg->len, c->rcv_adv);
}

static bool store(struct tn_tcp *c, uint32_t seq, const uint8_t *bytes, uint32_t len)
{
    uint32_t at = c->recvq.len + (seq - c->rcv_nxt);
    struct tn_pool *p = &c->st->pool;
    bool fits = at + len <= c->recvq.len + tn_queue_room(&c->recvq); /* in what the queue has */
    if ((fits || !tn_account_over(c)) && tn_queue_write(&c->recvq, p, at, bytes, len) == 0) return true;
    if (seq == c->rcv_nxt && c->reass && c->reass->count) {
        renege(c);
        if (tn_queue_write(&c->recvq, p, at, bytes, len) == 0) return true;
    }
    tn_queue_trim(&c->recvq, p, c->recvq.len + (tn_reass_end(c->reass, c->rcv_nxt) - c->rcv_nxt));
    c->ack_now = true;
    return false;
}

static void take_in_order(struct tn_tcp *c, uint32_t end, uint64_t now_us)
{
    bool filled = c->reass && c->reass->count;
    uint32_t nxt = tn_reass_advance(c->reass, end);
    if (filled) {
        c->ack_now = true; /* a hole closed: the sender in recovery waits for this */
        if (c->reass->count == 0) {
            tn_reass_free(c->reass);
            c->reass = NULL;
        }
    }
    advance(c, nxt, now_us);
}

static void take_out_of_order(struct tn_tcp *c, uint32_t seq, uint32_t end)
{
    c->ack_now = true;
    if (!c->reass) c->reass = tn_reass_new();
    struct tn_tcp_sack dup;
    /* Without a record of it the bytes are as good as not there; they are overwritten when they come again. */
    if (!c->reass || tn_reass_add(c->reass, seq, end, &dup) != 0) return;
    if (c->has_sack && dup.start != dup.end) c->dsack = dup;
    tn_tcp_window_behind_hole(c);
}

/* [seq, end) after the window's left and right edges have been cut off it; bytes: at seq. */
static void take(struct tn_tcp *c, uint32_t seq, uint32_t end, const uint8_t *bytes, bool fin, uint64_t now_us)
{
    uint32_t len = end - seq - fin;
    if (fin) {
        c->fin_seen = true;
        c->fin_seq = end - 1;
    }
    if (len && !store(c, seq, bytes, len)) {
        if (fin) c->fin_seen = false;
        return;
    }
    if (seq == c->rcv_nxt) take_in_order(c, end, now_us);
    else take_out_of_order(c, seq, end);
}

void tn_tcp_receive(struct tn_tcp *c, uint32_t seq, const uint8_t *bytes, uint32_t len, bool fin, uint64_t now_us)
{
    uint32_t end = seq + len + fin;
    if (end == seq) return;
    if (c->fin_rcvd || c->f.state == TN_TCP_SYN_RCVD) { /* nothing can follow a FIN; it came again */
        c->ack_now = true;
        return;
    }
    if (seq_lt(seq, c->rcv_nxt)) {
        uint32_t cut = c->rcv_nxt - seq, have = cut < len ? cut : len;
        if (c->has_sack && have) c->dsack = (struct tn_tcp_sack){seq, seq + have};
        c->ack_now = true;
        if (seq_le(end, c->rcv_nxt)) return;
        bytes += have;
        seq = c->rcv_nxt;
    }
    /* A FIN in the middle of what is known already is a contradiction: the first word stands. */
    if (fin && (c->fin_seen ? end - 1 != c->fin_seq : seq_gt(tn_reass_end(c->reass, c->rcv_nxt), end))) {
        fin = false;
        end--;
    }
    uint32_t limit = c->fin_seen ? c->fin_seq : c->rcv_adv; /* a FIN may lie on the edge, bytes may not */
    if (seq_gt(end - fin, limit)) {
        end = limit;
        fin = false;
        c->ack_now = true;
    }
    if (seq_ge(seq, end)) return;
    take(c, seq, end, bytes, fin, now_us);
    assert(seq_le(c->rcv_nxt, c->rcv_adv));
}

void tn_tcp_receive_run(struct tn_tcp *c, const struct tn_tcp_seg *seg, uint64_t now_us)
{
    const uint8_t *bytes = seg->payload;
    uint32_t len = (uint32_t)seg->first_len;
    for (size_t i = 0; store(c, c->rcv_nxt, bytes, len); i++) {
        advance(c, c->rcv_nxt + len, now_us);
        if (i == seg->nmore) return;
        bytes = (const uint8_t *)seg->more[i].iov_base + seg->more_hdr;
        len = (uint32_t)(seg->more[i].iov_len - seg->more_hdr);
    }
}
