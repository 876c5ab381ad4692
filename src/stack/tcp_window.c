/* The receive window and the send buffer: how large they may be.
 *
 * rcv_buf is what the window is sized for. It starts small and follows what the owner reads per round trip times four
 * (twice for the sender's next doubling, twice for a hole that is being repaired), so a slow reader keeps a small
 * window. Bytes that wait behind a hole are no backlog of the reader, and make it grow as well. Below that comes the
 * pool: what a queue may hold depends on what is still free (pool.h), and on what its peer holds already (account.c).
 *
 * The right edge that was announced never moves back. With window scaling an edge between two multiples can't be
 * expressed once rcv_nxt has moved: it is rounded up, until tiny segments have pushed it a chunk beyond its place;
 * then down (RFC 7323 section 2.4), but what lies within the announced edge is accepted all the same. */
#include "stack/internal.h"

static uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }

static uint32_t own_mss(const struct tn_tcp *c) { return c->st->mtu - (c->f.local.ip.family == 4 ? 40u : 60u); }

static uint32_t receive_limit(struct tn_tcp *c)
{
    size_t share = tn_account_share(c);
    if (share >= c->rcv_buf) return c->rcv_buf;
    tn_tcp_wait_memory(c);
    return (uint32_t)share;
}

/* Where the edge should be, never behind what was announced, and not moved by crumbs (RFC 9293 section 3.8.6.2.2). */
static uint32_t wanted_edge(struct tn_tcp *c)
{
    uint32_t limit = receive_limit(c), used = c->recvq.len;
    uint32_t edge = limit > used ? c->rcv_nxt + (limit - used) : c->rcv_nxt;
    uint32_t step = min_u32(own_mss(c), limit / 2);
    return seq_ge(edge, c->rcv_adv + step) ? edge : c->rcv_adv;
}

uint16_t tn_tcp_window_field(struct tn_tcp *c)
{
    unsigned scale = c->f.rcv_wscale;
    tn_account_sync(c);
    uint32_t window = wanted_edge(c) - c->rcv_nxt, field = window >> scale;
    if (field > 65535) field = 65535;
    uint32_t farthest = c->rcv_nxt - c->recvq.len + c->rcv_buf + TN_CHUNK;
    bool retracts = seq_lt(c->rcv_nxt + (field << scale), c->rcv_adv);
    if (retracts && field < 65535 && seq_le(c->rcv_nxt + ((field + 1) << scale), farthest)) field++;
    c->rcv_adv = seq_max(c->rcv_adv, c->rcv_nxt + (field << scale));
    return (uint16_t)field;
}

bool tn_tcp_window_worth_update(struct tn_tcp *c)
{
    if (c->fin_rcvd || c->f.state < TN_TCP_ESTABLISHED || c->f.state == TN_TCP_DONE) return false;
    uint32_t open = c->rcv_adv - c->rcv_nxt, next = wanted_edge(c) - c->rcv_nxt;
    return next > open && next >= 2 * open;
}

/* ---- growth ---- */

static void grow(struct tn_tcp *c, uint64_t want)
{
    uint64_t max = c->buf_max, scaled = 65535ull << c->f.rcv_wscale;
    if (max > scaled) max = scaled;
    if (want > max) want = max;
    if (want > tn_account_share(c)) return; /* under pressure nothing grows */
    if (want > c->rcv_buf) c->rcv_buf = (uint32_t)want;
}

/* The owner has read len bytes. */
void tn_tcp_window_consumed(struct tn_tcp *c, uint32_t len, uint64_t now_us)
{
    enum { UNKNOWN_RTT_US = 100000 };
    uint64_t rtt = c->rcv_rtt_us ? c->rcv_rtt_us : c->rtt.srtt_us ? c->rtt.srtt_us : UNKNOWN_RTT_US;
    uint64_t passed = now_us - c->meter_us;
    c->meter_bytes += len;
    if (passed < rtt) return;
    grow(c, 4 * (passed < 2 * rtt ? c->meter_bytes : (uint64_t)c->meter_bytes * rtt / passed));
    c->meter_bytes = 0;
    c->meter_us = now_us;
}

/* A segment came beyond a hole. What waits behind it is not read, so the meter says little; if that and not a slow
 * reader takes up the window, then the next hole would stop the sender. */
void tn_tcp_window_behind_hole(struct tn_tcp *c)
{
    if (c->recvq.len > c->rcv_buf / 8 || tn_reass_end(c->reass, c->rcv_nxt) - c->rcv_nxt < c->rcv_buf / 2) return;
    grow(c, 2ull * c->rcv_buf);
}

/* Round-trip time as a receiver sees it: from our timestamp in the peer's echo. Pauses of the peer make it too long,
 * so lower samples count at once and higher ones slowly. */
void tn_tcp_window_sample(struct tn_tcp *c, const struct tn_tcp_seg *seg, uint64_t now_us)
{
    if (seg->first_len > c->rcv_mss) c->rcv_mss = (uint16_t)seg->first_len;
    if (!c->has_ts || !seg->tsecr || seg->first_len < c->rcv_mss) return;
    uint32_t ms = tn_tcp_tsval(c->ts_offset, now_us) - seg->tsecr;
    if (ms > TN_RTT_SAMPLE_MAX_US / 1000) return;
    uint32_t us = ms ? ms * 1000 : 1000;
    if (c->rcv_rtt_us == 0 || us < c->rcv_rtt_us) c->rcv_rtt_us = us;
    else c->rcv_rtt_us += (us - c->rcv_rtt_us) / 8;
}

/* What may wait unsent behind what is in flight: half a window, enough for its next growth. On a path shorter than a turn of the
 * loop up to a whole one, since ACKs of what was sent in a turn may come together, and what has to be written first then goes
 * out in shorter trains. */
uint32_t tn_tcp_send_ahead(const struct tn_tcp *c)
{
    uint64_t turn = c->cc.pace * TN_PACE_AHEAD_US / 1000000;
    uint32_t ahead = c->cc.cwnd / 2;
    if (turn > ahead) ahead = turn < c->cc.cwnd ? (uint32_t)turn : c->cc.cwnd;
    return ahead < TN_TCP_SNDBUF_START ? TN_TCP_SNDBUF_START : ahead < TN_TCP_AHEAD_MAX ? ahead : TN_TCP_AHEAD_MAX;
}

uint32_t tn_tcp_send_limit(const struct tn_tcp *c)
{
    uint64_t limit = (uint64_t)(c->snd_nxt - c->snd_una) + tn_tcp_send_ahead(c);
    if (limit > c->buf_max) limit = c->buf_max;
    size_t share = tn_account_share(c);
    return (uint32_t)(limit < share ? limit : share);
}

/* ---- waiting for memory ---- */

/* Who is held back while the pool is nearly full queues up; who is held back by its own backlog does not, since that
 * moves with its reader and its ACKs. Waiting begins at seven eighths and ends at three quarters, so nobody goes
 * round in circles. */
void tn_tcp_wait_memory(struct tn_tcp *c)
{
    struct tn_stack *st = c->st;
    if (tn_pool_free(&st->pool) >= st->pool.budget / 8) return;
    if (tn_list_empty(&c->wait_node)) tn_list_push_back(&st->waiting, &c->wait_node);
}

bool tn_stack_memory_eased(const struct tn_stack *st)
{
    return !tn_list_empty(&st->waiting) && tn_pool_free(&st->pool) > st->pool.budget / 4;
}

/* Each waiting flow gets one look, in order; who still has too little queues up again. */
void tn_stack_wake_waiting(struct tn_stack *st, uint64_t now_us)
{
    enum { PER_CALL = 64 };
    for (int i = 0; i < PER_CALL && tn_stack_memory_eased(st); i++) {
        struct tn_tcp *c = TN_CONTAINER(tn_list_pop_front(&st->waiting), struct tn_tcp, wait_node);
        if (c->want_write && tn_tcp_space(c) > 0) {
            c->want_write = false;
            tn_tcp_raise(c, TN_EV_WRITABLE);
        }
        if (tn_tcp_window_worth_update(c)) tn_tcp_send_ack(c, now_us);
    }
}
