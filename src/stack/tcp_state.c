/* A flow's birth, its changes of state, the notes to its owner, and its end. */
#include "stack/internal.h"

#include <assert.h>
#include <stdlib.h>

enum { RCV_MSS_START = 88 };
/* With malloc's own word 528, as 512 bytes would be. */
_Static_assert(sizeof(struct tn_tcp) <= 536, "an idle flow is only its control block: keep it small");

const char *tn_tcp_state_name(unsigned state)
{
    static const char *const names[] = {
        [TN_TCP_CLOSED] = "CLOSED", [TN_TCP_SYN_SENT] = "SYN_SENT", [TN_TCP_SYN_RCVD] = "SYN_RCVD",
        [TN_TCP_ESTABLISHED] = "ESTABLISHED", [TN_TCP_CLOSE_WAIT] = "CLOSE_WAIT", [TN_TCP_FIN_WAIT_1] = "FIN_WAIT_1",
        [TN_TCP_FIN_WAIT_2] = "FIN_WAIT_2", [TN_TCP_CLOSING] = "CLOSING", [TN_TCP_LAST_ACK] = "LAST_ACK",
        [TN_TCP_DONE] = "DONE",
    };
    _Static_assert(sizeof names / sizeof names[0] == TN_TCP_STATES, "a name per state");
    return state < TN_TCP_STATES ? names[state] : "?";
}

static uint16_t own_mss(const struct tn_stack *st, uint8_t family)
{
    return (uint16_t)(st->mtu - (family == 4 ? 40 : 60));
}

static int enter_tables(struct tn_tcp *c)
{
    struct tn_stack *st = c->st;
    int err = tn_timer_arm(&st->timers, &c->timer, TN_NEVER);
    if (err) return err;
    err = tn_account_open(c);
    if (!err) err = tn_flow_insert(st, &c->f);
    if (err) {
        tn_account_close(c);
        tn_timer_stop(&st->timers, &c->timer);
        return err;
    }
    c->hashed = true;
    st->ntcp++;
    return 0;
}

static const struct tn_tcp_events no_events;

struct tn_tcp *tn_tcp_new(struct tn_stack *st, const struct tn_addrport *local, const struct tn_addrport *remote,
                          uint64_t now_us)
{
    if (st->ntcp >= TN_STACK_FLOWS_MAX) return NULL;
    struct tn_tcp *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    c->st = st;
    c->ev = &no_events;
    c->f.local = *local;
    c->f.remote = *remote;
    tn_list_init(&c->event_node);
    tn_list_init(&c->wait_node);
    if (enter_tables(c) != 0) {
        free(c);
        return NULL;
    }
    c->own_local = tn_stack_is_own(st, &local->ip);
    c->rexmit_at = c->delack_at = c->keep_at = TN_NEVER;
    c->nodelay = true;
    c->reo_mult = 1;
    c->heard_us = c->meter_us = now_us;
    c->buf_max = (uint32_t)(st->tcp_buffer_max ? st->tcp_buffer_max : TN_TCP_BUFFER_AUTO);
    c->rcv_buf = c->buf_max < TN_TCP_RCVBUF_START ? c->buf_max : TN_TCP_RCVBUF_START;
    if (c->rcv_buf > tn_account_share(c)) c->rcv_buf = (uint32_t)tn_account_share(c);
    while (c->f.rcv_wscale < TN_TCP_WSCALE_MAX && 65535u << c->f.rcv_wscale < c->buf_max) c->f.rcv_wscale++;
    c->iss = tn_flow_isn(st, &c->f, now_us);
    c->snd_una = c->snd_nxt = c->iss;
    c->ts_offset = tn_flow_ts_offset(st, &c->f);
    c->snd_mss = own_mss(st, local->ip.family);
    c->f.quickacks = TN_TCP_QUICKACKS;
    c->rcv_mss = RCV_MSS_START;
    tn_rtt_init(&c->rtt);
    return c;
}

/* What the peer's SYN said; afterwards the flow knows which options it uses. */
void tn_tcp_options_from_syn(struct tn_tcp *c, const struct tn_tcp_seg *seg, uint64_t now_us)
{
    uint16_t peer = seg->mss ? seg->mss : c->f.local.ip.family == 4 ? 536 : 1220; /* RFC 9293 section 3.7.1 */
    uint16_t own = own_mss(c->st, c->f.local.ip.family);
    c->snd_mss = peer < own ? peer : own;
    if (c->snd_mss < TN_TCP_MSS_MIN) c->snd_mss = TN_TCP_MSS_MIN;
    c->has_ts = seg->has_ts;
    c->has_sack = seg->sack_ok;
    c->has_wscale = seg->has_wscale;
    c->f.snd_wscale = seg->has_wscale ? seg->wscale : 0;
    if (!seg->has_wscale) c->f.rcv_wscale = 0;
    if (seg->has_ts) {
        c->ts_recent = c->ts_floor = c->ts_floor_next = seg->tsval;
        c->ts_recent_s = (uint32_t)(now_us / 1000000);
    }
    c->rcv_nxt = c->acked_nxt = seg->seq + 1;
    c->rcv_adv = c->rcv_nxt;
    if (c->rcv_buf > 65535u << c->f.rcv_wscale) c->rcv_buf = 65535u << c->f.rcv_wscale;
    c->snd_wnd = c->snd_wnd_max = seg->window; /* the window of a SYN is never scaled */
    c->snd_wl1 = seg->seq;
    uint32_t mss = tn_tcp_eff_mss(c);
    c->cc = (struct tn_cc){.ops = c->st->cc_ops, .mss = mss, .cwnd = TN_CC_IW_SEGS * mss,
                           .ssthresh = TN_SSTHRESH_NONE, .cwnd_max = c->buf_max};
    if (c->cc.cwnd_max < 2 * mss) c->cc.cwnd_max = 2 * mss;
    c->cc.ops->init(&c->cc);
}

static void leave_half_open(struct tn_tcp *c)
{
    if (!c->half_open) return;
    c->half_open = false;
    c->st->nhalf_open--;
    if (c->listener) c->listener->half_open--;
}

void tn_tcp_set_state(struct tn_tcp *c, enum tn_tcp_state state, uint64_t now_us)
{
    tn_logf(c->st->log, TN_LOG_DEBUG, "stack", "tcp %u: %s > %s", c->f.local.port, tn_tcp_state_name(c->f.state),
            tn_tcp_state_name(state));
    c->f.state = (uint8_t)state;
    if (state != TN_TCP_SYN_RCVD) leave_half_open(c);
    if (state == TN_TCP_FIN_WAIT_2 && c->orphan) tn_tcp_arm(c, TN_RX_FIN_WAIT_2, now_us + TN_TCP_ORPHAN_TIMEOUT_US);
}

/* The handshake is complete. */
void tn_tcp_opened(struct tn_tcp *c, uint64_t now_us)
{
    tn_tcp_set_state(c, TN_TCP_ESTABLISHED, now_us);
    if (c->f.backoff && !c->rtt.srtt_us) c->rtt.rto_us = TN_RTO_AFTER_SYN_US;
    if (c->f.backoff > 1) c->cc.cwnd = c->cc.mss; /* one SYN may be lost by chance (RFC 6928 section 2) */
    c->f.backoff = 0;
    tn_tcp_arm(c, TN_RX_NONE, TN_NEVER);
    c->meter_us = now_us;
    tn_tcp_keep_touch(c, now_us);
    tn_tcp_raise(c, c->passive ? TN_EV_ACCEPT : TN_EV_OPEN);
}

/* ---- notes to the owner ---- */

void tn_tcp_raise(struct tn_tcp *c, unsigned events)
{
    if (c->orphan || c->f.state == TN_TCP_CLOSED) return;
    c->f.events |= (uint8_t)events;
    if (tn_list_empty(&c->event_node)) tn_list_push_back(&c->st->events, &c->event_node);
}

static bool alive(const struct tn_tcp *c) { return c->f.state != TN_TCP_CLOSED && !c->orphan; }

static void deliver_close(struct tn_tcp *c, uint64_t now_us)
{
    void (*on_close)(void *, int, uint64_t) = c->ev->on_close;
    void *arg = c->arg;
    int err = c->err;
    tn_tcp_destroy(c);
    if (on_close) on_close(arg, err, now_us);
}

void tn_tcp_deliver(struct tn_tcp *c, uint64_t now_us)
{
    unsigned events = c->f.events;
    c->f.events = 0;
    tn_list_remove(&c->event_node);
    if (events & TN_EV_ACCEPT) tn_tcp_accepted(c, now_us);
    if (events & TN_EV_OPEN && alive(c) && c->ev->on_open) c->ev->on_open(c->arg, c, now_us);
    /* A reset takes what was not read with it; only an orderly end lets it be read first. */
    bool failed = events & TN_EV_CLOSE && c->err;
    if (events & TN_EV_READABLE && !failed && alive(c) && c->ev->on_readable) c->ev->on_readable(c->arg, c, now_us);
    if (events & TN_EV_WRITABLE && !failed && alive(c) && c->ev->on_writable) c->ev->on_writable(c->arg, c, now_us);
    if (events & TN_EV_CLOSE && alive(c)) deliver_close(c, now_us);
}

/* ---- the end ---- */

static void free_buffers(struct tn_tcp *c)
{
    struct tn_pool *p = &c->st->pool;
    tn_queue_clear(&c->sendq, p);
    tn_queue_clear(&c->recvq, p);
    tn_account_sync(c);
    c->reserved = 0;
    tn_reass_free(c->reass);
    c->reass = NULL;
    if (!c->flight) return;
    tn_recs_fini(&c->flight->recs, p);
    free(c->flight);
    c->flight = NULL;
    c->cc.flight = NULL;
}

static void leave_table(struct tn_tcp *c)
{
    leave_half_open(c);
    if (!c->hashed) return;
    c->hashed = false;
    tn_flow_remove(c->st, &c->f);
}

void tn_tcp_destroy(struct tn_tcp *c)
{
    struct tn_stack *st = c->st;
    if (c->f.state == TN_TCP_CLOSED && !tn_timer_armed(&c->timer)) return; /* already on its way out */
    leave_table(c);
    free_buffers(c);
    tn_account_close(c);
    tn_timer_stop(&st->timers, &c->timer);
    st->ntcp--;
    if (c->orphan) st->norphans--;
    tn_list_remove(&c->wait_node);
    tn_list_remove(&c->event_node);
    c->f.state = TN_TCP_CLOSED;
    c->f.events = 0;
    c->listener = NULL;
    tn_list_push_back(&st->dead, &c->event_node);
}

/* Silent and ownerless: a half-open connection of a listener, or one that was released. */
static bool has_owner(const struct tn_tcp *c) { return !c->orphan && !c->passive; }

void tn_tcp_end(struct tn_tcp *c, int err, uint64_t now_us)
{
    if (c->f.state == TN_TCP_CLOSED || c->f.state == TN_TCP_DONE) return;
    bool unaccepted = c->passive && c->f.events & TN_EV_ACCEPT && err == 0;
    if (!has_owner(c) && !unaccepted) {
        tn_tcp_destroy(c);
        return;
    }
    c->err = (int16_t)err;
    leave_table(c);
    c->f.state = TN_TCP_DONE;
    c->rexmit_at = c->delack_at = c->keep_at = TN_NEVER;
    tn_queue_clear(&c->sendq, &c->st->pool);
    tn_account_sync(c);
    if (err) free_buffers(c);
    /* With err 0 the owner first reads what is there; tn_tcp_consume raises the close then. */
    if (err || c->recvq.len == 0) tn_tcp_raise(c, TN_EV_CLOSE);
}

void tn_tcp_enter_time_wait(struct tn_tcp *c, uint64_t now_us)
{
    leave_table(c);
    tn_time_wait_add(c->st, c, now_us);
    tn_tcp_end(c, 0, now_us);
}
