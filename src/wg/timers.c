/* The timers of a peer (whitepaper section 6; wireguard-go device/timers.go).
 *
 * Traffic moves deadlines with every packet, so a peer has one timer in the heap and an array of deadlines:
 * putting one off or dropping it touches no heap. The heap timer may fire for a deadline that is no more; it then
 * only looks up the next. */
#include "wg/internal.h"

void tn_wg_timers_init(struct tn_wg_peer *p)
{
    for (int t = 0; t < TN_WG_TIMERS; t++) p->deadline_us[t] = TN_NEVER;
}

/* Failing to arm for lack of memory leaves the deadline in place: the next set or due call tries again. */
void tn_wg_timer_set(struct tn_wg_peer *p, enum tn_wg_timer t, uint64_t at_us)
{
    p->deadline_us[t] = at_us;
    if (at_us != TN_NEVER && (!tn_timer_armed(&p->timer) || at_us < p->timer.at_us))
        (void)tn_timer_arm(&p->wg->timers, &p->timer, at_us);
}

static void stop(struct tn_wg_peer *p, enum tn_wg_timer t) { p->deadline_us[t] = TN_NEVER; }
static bool is_set(const struct tn_wg_peer *p, enum tn_wg_timer t) { return p->deadline_us[t] != TN_NEVER; }

void tn_wg_timers_stop(struct tn_wg_peer *p)
{
    for (int t = 0; t < TN_WG_TIMERS; t++) stop(p, t);
    tn_timer_stop(&p->wg->timers, &p->timer);
}

static uint64_t jitter(struct tn_wg_peer *p) { return tn_rng_below(&p->wg->rng, TN_WG_JITTER_US + 1); }

void tn_wg_sent_anything(struct tn_wg_peer *p) { stop(p, TN_WG_T_KEEPALIVE); }

void tn_wg_sent_data(struct tn_wg_peer *p, uint64_t now_us)
{
    p->stats.last_tx_us = now_us;
    if (!is_set(p, TN_WG_T_DEAD_PEER))
        tn_wg_timer_set(p, TN_WG_T_DEAD_PEER, now_us + TN_WG_KEEPALIVE_US + TN_WG_REKEY_TIMEOUT_US + jitter(p));
}

void tn_wg_received_anything(struct tn_wg_peer *p) { stop(p, TN_WG_T_DEAD_PEER); }

void tn_wg_received_data(struct tn_wg_peer *p, uint64_t now_us)
{
    p->stats.last_rx_us = now_us;
    if (is_set(p, TN_WG_T_KEEPALIVE)) p->another_keepalive = true;
    else tn_wg_timer_set(p, TN_WG_T_KEEPALIVE, now_us + TN_WG_KEEPALIVE_US);
}

void tn_wg_initiation_sent(struct tn_wg_peer *p, uint64_t now_us)
{
    tn_wg_timer_set(p, TN_WG_T_RETRANSMIT, now_us + TN_WG_REKEY_TIMEOUT_US + jitter(p));
}

void tn_wg_keys_derived(struct tn_wg_peer *p, uint64_t now_us)
{
    tn_wg_timer_set(p, TN_WG_T_WIPE, now_us + TN_WG_WIPE_AFTER_US);
}

void tn_wg_handshake_complete(struct tn_wg_peer *p, uint64_t now_us)
{
    struct tn_wg *wg = p->wg;
    char name[8];
    stop(p, TN_WG_T_RETRANSMIT);
    p->retries = 0;
    p->late_rekey_sent = false;
    p->stats.last_handshake_us = now_us;
    wg->counters.handshakes++;
    tn_logf(wg->log, TN_LOG_DEBUG, "wg", "session with %s", tn_node_public_short(&p->key, name));
    if (!wg->cb.session) return;
    p->in_session_callback = true;
    wg->cb.session(wg->ctx, p, p->arg, now_us);
    p->in_session_callback = false;
}

static void on_retransmit(struct tn_wg_peer *p, uint64_t now_us)
{
    if (p->retries <= TN_WG_MAX_RETRIES) {
        p->retries++;
        (void)tn_wg_shake_start(p, true, now_us);
        return;
    }
    stop(p, TN_WG_T_KEEPALIVE);
    tn_wg_drop_staged(p);
    if (!is_set(p, TN_WG_T_WIPE)) tn_wg_keys_derived(p, now_us); /* what the attempt left behind goes, too */
}

static void on_keepalive(struct tn_wg_peer *p, uint64_t now_us)
{
    (void)tn_wg_keepalive(p, now_us);
    if (!p->another_keepalive) return;
    p->another_keepalive = false;
    tn_wg_timer_set(p, TN_WG_T_KEEPALIVE, now_us + TN_WG_KEEPALIVE_US);
}

static void on_wipe(struct tn_wg_peer *p)
{
    tn_wg_session_wipe(p);
    tn_wg_drop_staged(p);
    stop(p, TN_WG_T_RETRANSMIT);
}

static void fire(struct tn_wg_peer *p, enum tn_wg_timer t, uint64_t now_us)
{
    switch (t) {
    case TN_WG_T_RETRANSMIT: on_retransmit(p, now_us); break;
    case TN_WG_T_KEEPALIVE: on_keepalive(p, now_us); break;
    case TN_WG_T_DEAD_PEER: (void)tn_wg_shake_start(p, false, now_us); break;
    case TN_WG_T_WIPE: on_wipe(p); break;
    case TN_WG_TIMERS: break;
    }
}

void tn_wg_timer_due(struct tn_wg_peer *p, uint64_t now_us)
{
    uint64_t next_us = TN_NEVER;
    for (int t = 0; t < TN_WG_TIMERS; t++) {
        if (p->deadline_us[t] > now_us) continue;
        stop(p, (enum tn_wg_timer)t);
        fire(p, (enum tn_wg_timer)t, now_us);
    }
    for (int t = 0; t < TN_WG_TIMERS; t++)
        if (p->deadline_us[t] < next_us) next_us = p->deadline_us[t];
    if (next_us != TN_NEVER) (void)tn_timer_arm(&p->wg->timers, &p->timer, next_us);
}
