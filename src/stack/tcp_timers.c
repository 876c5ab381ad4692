/* A flow's timers: one for whatever the sending side waits for, one for pacing, one for the delayed ACK, one for
 * keepalive; in the heap they are one entry. Deadlines mostly move later (each ACK pushes the retransmission
 * away), and then the entry stays where it is: it comes up early, finds nothing due, and is put where it belongs. A flow
 * that comes to rest moves its entry away at once, since looking at it later would find it cold. */
#include "stack/internal.h"

enum { ORPHAN_PERSISTS = 8 /* about a minute at ordinary round trips */ };

void tn_tcp_arm(struct tn_tcp *c, enum tn_tcp_rexmit kind, uint64_t at_us)
{
    c->f.rexmit_kind = (uint8_t)kind;
    c->rexmit_at = at_us;
}

static uint64_t earliest(const struct tn_tcp *c)
{
    uint64_t at = c->rexmit_at < c->delack_at ? c->rexmit_at : c->delack_at;
    if (c->keep_at < at) at = c->keep_at;
    return tn_tcp_pace_at(c) < at ? tn_tcp_pace_at(c) : at;
}

void tn_tcp_timer_update(struct tn_tcp *c)
{
    uint64_t at = earliest(c);
    bool rests = at == TN_NEVER && c->timer.at_us != TN_NEVER;
    if (tn_timer_armed(&c->timer) && (at < c->timer.at_us || rests)) tn_timer_arm(&c->st->timers, &c->timer, at);
}

void tn_tcp_keep_touch(struct tn_tcp *c, uint64_t now_us)
{
    c->keep_at = c->keep_idle_ms && !c->orphan ? now_us + c->keep_idle_ms * 1000ull : TN_NEVER;
    tn_tcp_timer_update(c);
}

static void give_up(struct tn_tcp *c, uint64_t now_us)
{
    tn_tcp_send_rst(c, now_us);
    tn_tcp_end(c, TN_E_TIMEDOUT, now_us);
}

static void syn_due(struct tn_tcp *c, uint64_t now_us)
{
    unsigned max = c->f.state == TN_TCP_SYN_SENT ? TN_TCP_SYN_RETRIES : TN_TCP_SYNACK_RETRIES;
    if (c->f.backoff >= max) {
        give_up(c, now_us);
        return;
    }
    c->f.backoff++;
    c->st->stats.retransmits++;
    tn_tcp_send_syn(c, now_us);
}

static void rto_due(struct tn_tcp *c, uint64_t now_us)
{
    struct tn_flight *fl = c->flight;
    if (!fl || fl->recs.count == 0) return;
    if (!fl->stuck_us) fl->stuck_us = fl->rto_base_us ? fl->rto_base_us : 1;
    uint64_t limit = c->orphan ? TN_TCP_ORPHAN_TIMEOUT_US : TN_TCP_USER_TIMEOUT_US;
    if (now_us - fl->stuck_us >= limit) {
        give_up(c, now_us);
        return;
    }
    if (c->f.backoff < UINT8_MAX) c->f.backoff++;
    c->st->stats.rto_events++;
    fl->rto_base_us = now_us;
    fl->reorder_at_us = 0;
    tn_recovery_on_rto(c, now_us);
    tn_tcp_output(c, now_us);
}

static void probe_due(struct tn_tcp *c, uint64_t now_us)
{
    if (!c->flight) return;
    c->flight->rto_base_us = now_us;
    tn_tcp_send_tail(c, now_us);
    tn_tcp_output(c, now_us);
}

static void reorder_due(struct tn_tcp *c, uint64_t now_us)
{
    if (!c->flight) return;
    tn_recovery_on_timer_loss(c, now_us);
    tn_tcp_output(c, now_us);
}

/* The peer's window is closed, or too small to be worth a segment (RFC 9293 section 3.8.6.1). */
static void persist_due(struct tn_tcp *c, uint64_t now_us)
{
    bool dead = c->f.backoff > 3 && now_us - c->heard_us >= TN_TCP_USER_TIMEOUT_US;
    if (dead || (c->orphan && c->f.backoff >= ORPHAN_PERSISTS)) {
        give_up(c, now_us);
        return;
    }
    if (c->f.backoff < UINT8_MAX) c->f.backoff++;
    if (!tn_tcp_send_small(c, now_us)) tn_tcp_send_probe(c, now_us);
    tn_tcp_output(c, now_us);
}

static void rexmit_due(struct tn_tcp *c, uint64_t now_us)
{
    enum tn_tcp_rexmit kind = c->f.rexmit_kind;
    tn_tcp_arm(c, TN_RX_NONE, TN_NEVER);
    switch (kind) {
    case TN_RX_NONE: break;
    case TN_RX_SYN: syn_due(c, now_us); break;
    case TN_RX_RTO: rto_due(c, now_us); break;
    case TN_RX_PROBE: probe_due(c, now_us); break;
    case TN_RX_REORDER: reorder_due(c, now_us); break;
    case TN_RX_PERSIST: persist_due(c, now_us); break;
    case TN_RX_FIN_WAIT_2: tn_tcp_destroy(c); break;
    }
}

static void keepalive_due(struct tn_tcp *c, uint64_t now_us)
{
    uint64_t idle = c->keep_idle_ms * 1000ull;
    if (!idle || c->orphan || c->f.state < TN_TCP_ESTABLISHED || c->f.state == TN_TCP_DONE) {
        c->keep_at = TN_NEVER;
    } else if (c->keep_sent == 0 && now_us - c->heard_us < idle) {
        c->keep_at = c->heard_us + idle;
    } else if (c->flight) { /* data is under way: its own timeout decides */
        c->keep_at = now_us + idle;
    } else if (c->keep_sent >= c->keep_probes) {
        give_up(c, now_us);
    } else {
        c->keep_sent++;
        c->keep_at = now_us + c->keep_interval_ms * 1000ull;
        tn_tcp_send_probe(c, now_us);
    }
}

static bool is_live(const struct tn_tcp *c) { return tn_timer_armed(&c->timer); }

void tn_tcp_timer_due(struct tn_tcp *c, uint64_t now_us)
{
    if (c->rexmit_at <= now_us) rexmit_due(c, now_us);
    if (is_live(c) && tn_tcp_pace_at(c) <= now_us) tn_tcp_output(c, now_us);
    if (is_live(c) && c->delack_at <= now_us) {
        c->delack_at = TN_NEVER;
        tn_tcp_send_ack(c, now_us);
    }
    if (is_live(c) && c->keep_at <= now_us) keepalive_due(c, now_us);
    if (!is_live(c)) return;
    uint64_t at = earliest(c);
    tn_timer_arm(&c->st->timers, &c->timer, at > now_us ? at : now_us + 1); /* time moves on whatever happens */
}

void tn_tcp_set_keepalive(struct tn_tcp *c, uint64_t idle_us, uint64_t interval_us, int probes, uint64_t now_us)
{
    enum { MAX_MS = 1000 * 1000 * 1000 };
    uint64_t idle = (idle_us + 999) / 1000, interval = (interval_us + 999) / 1000;
    c->keep_idle_ms = (uint32_t)(idle < MAX_MS ? idle : MAX_MS);
    c->keep_interval_ms = (uint32_t)(interval < 1 ? 1 : interval < MAX_MS ? interval : MAX_MS);
    c->keep_probes = (uint8_t)(probes < 1 ? 1 : probes < 100 ? probes : 100);
    c->keep_sent = 0;
    if (c->f.state >= TN_TCP_ESTABLISHED && c->f.state < TN_TCP_DONE) tn_tcp_keep_touch(c, now_us);
}
