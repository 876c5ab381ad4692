/* What owners of flows call. None of these calls back; what they cause is delivered by the next tn_stack_input or
 * tn_stack_timeout (tn_stack_next_deadline says so). */
#include "stack/internal.h"

#include <assert.h>

static bool can_write(const struct tn_tcp *c)
{
    return !c->fin_queued && c->f.state >= TN_TCP_SYN_SENT && c->f.state <= TN_TCP_CLOSE_WAIT;
}

/* ---- opening ---- */

static int choose_local(struct tn_stack *st, const struct tn_addrport *want, const struct tn_addrport *remote,
                        struct tn_addrport *local, uint64_t now_us)
{
    *local = want ? *want : (struct tn_addrport){0};
    if (!local->ip.family) {
        const struct tn_ip *own = tn_stack_addr(st, remote->ip.family);
        if (!own) return TN_E_NETUNREACH;
        local->ip = *own;
    }
    if (local->ip.family != remote->ip.family || !tn_stack_is_own(st, &local->ip)) return TN_E_INVAL;
    if (local->port == 0) return tn_flow_pick_port(st, local, remote, now_us);
    struct tn_flow *old = tn_flow_find(st, local, remote);
    if (old && !old->is_time_wait) return TN_E_ADDRINUSE;
    if (old)
        tn_time_wait_free(st, TN_CONTAINER(old, struct tn_time_wait, f)); /* sequence numbers go on by the clock */
    return 0;
}

int tn_tcp_connect(struct tn_stack *st, const struct tn_addrport *local, const struct tn_addrport *remote,
                   const struct tn_tcp_events *ev, void *arg, uint64_t now_us, struct tn_tcp **out)
{
    if (!remote->ip.family || !remote->port || tn_ip_is_multicast(&remote->ip)) return TN_E_INVAL;
    struct tn_addrport from;
    int err = choose_local(st, local, remote, &from, now_us);
    if (err) return err;
    if (tn_addrport_eq(&from, remote)) return TN_E_INVAL;
    if (st->ntcp >= TN_STACK_FLOWS_MAX) return TN_E_LIMIT;
    tn_stack_enter(st);
    struct tn_tcp *c = tn_tcp_new(st, &from, remote, now_us);
    if (c) {
        c->ev = ev;
        c->arg = arg;
        *out = c;
        tn_tcp_set_state(c, TN_TCP_SYN_SENT, now_us);
        tn_tcp_send_syn(c, now_us);
    }
    tn_stack_leave(st, false, now_us);
    return c ? 0 : TN_E_NOMEM;
}

void tn_tcp_set_events(struct tn_tcp *c, const struct tn_tcp_events *ev, void *arg)
{
    c->ev = ev;
    c->arg = arg;
}

/* ---- reading ---- */

int tn_tcp_peek(struct tn_tcp *c, struct iovec *iov, int n)
{
    return tn_queue_views(&c->recvq, 0, c->recvq.len, iov, n);
}

void tn_tcp_consume(struct tn_tcp *c, size_t len, uint64_t now_us)
{
    if (len == 0 || c->f.state == TN_TCP_CLOSED || (c->f.state == TN_TCP_DONE && c->err))
        return; /* reset meanwhile */
    assert(len <= c->recvq.len);
    struct tn_pool *p = &c->st->pool;
    tn_stack_enter(c->st);
    tn_queue_consume(&c->recvq, p, (uint32_t)len);
    if (c->recvq.len == 0 && !c->reass) tn_queue_trim(&c->recvq, p, 0);
    tn_account_sync(c);
    if (c->f.state == TN_TCP_DONE) {
        if (c->recvq.len == 0) tn_tcp_raise(c, TN_EV_CLOSE);
    } else {
        tn_tcp_window_consumed(c, (uint32_t)len, now_us);
        if (tn_tcp_window_worth_update(c)) tn_tcp_send_ack(c, now_us);
    }
    tn_stack_leave(c->st, false, now_us);
}

size_t tn_tcp_readable(const struct tn_tcp *c) { return c->recvq.len; }
/* Not after an error: what was unread is gone then, and its end must not look orderly. */
bool tn_tcp_eof(const struct tn_tcp *c) { return c->fin_rcvd && c->recvq.len == 0 && !c->err; }

/* ---- writing ---- */

size_t tn_tcp_space(const struct tn_tcp *c)
{
    if (!can_write(c)) return 0;
    uint32_t limit = tn_tcp_send_limit(c), space = limit > c->sendq.len ? limit - c->sendq.len : 0;
    if (tn_pool_allows(&c->st->pool, c->sendq.held)) return space;
    return space < tn_queue_room(&c->sendq) ? space : tn_queue_room(&c->sendq);
}

static void want_space(struct tn_tcp *c)
{
    if (!can_write(c)) return;
    c->want_write = true;
    tn_tcp_wait_memory(c); /* if it is the pool; else ACKs will make room */
}

int tn_tcp_reserve(struct tn_tcp *c, struct iovec *iov, int n, size_t want)
{
    size_t space = tn_tcp_space(c);
    uint32_t take = (uint32_t)(want < space ? want : space);
    if (take) take = tn_queue_reserve(&c->sendq, &c->st->pool, take);
    c->reserved = take;
    if (take == 0 && want) want_space(c);
    return tn_queue_views(&c->sendq, c->sendq.len, take, iov, n);
}

void tn_tcp_commit(struct tn_tcp *c, size_t len, uint64_t now_us)
{
    assert(len <= c->reserved || c->f.state == TN_TCP_CLOSED || c->f.state == TN_TCP_DONE);
    if (c->f.state == TN_TCP_CLOSED || c->f.state == TN_TCP_DONE) return; /* reset meanwhile: the bytes are gone */
    tn_stack_enter(c->st);
    c->reserved = 0;
    tn_tcp_note_limited(c, now_us);
    c->sendq.len += (uint32_t)len;
    tn_queue_trim(&c->sendq, &c->st->pool, c->sendq.len);
    tn_account_sync(c);
    if (len) tn_tcp_output(c, now_us);
    tn_stack_leave(c->st, false, now_us);
}

long tn_tcp_write(struct tn_tcp *c, const void *bytes, size_t len, uint64_t now_us)
{
    enum { VIEWS = 16 };
    if (c->fin_queued) return TN_E_PIPE;
    if (!can_write(c)) return c->f.state == TN_TCP_CLOSED || c->f.state == TN_TCP_DONE ? TN_E_NOTCONN : TN_E_PIPE;
    size_t done = 0;
    tn_stack_enter(c->st);
    while (done < len) {
        struct iovec iov[VIEWS];
        int n = tn_tcp_reserve(c, iov, VIEWS, len - done);
        size_t piece = 0;
        for (int i = 0; i < n; i++) {
            memcpy(iov[i].iov_base, (const uint8_t *)bytes + done + piece, iov[i].iov_len);
            piece += iov[i].iov_len;
        }
        tn_tcp_commit(c, piece, now_us);
        if (piece == 0) break;
        done += piece;
    }
    if (done < len) want_space(c);
    tn_stack_leave(c->st, false, now_us);
    return (long)done;
}

/* ---- closing ---- */

void tn_tcp_shutdown(struct tn_tcp *c, uint64_t now_us)
{
    if (c->fin_queued || c->f.state == TN_TCP_CLOSED || c->f.state == TN_TCP_DONE) return;
    tn_stack_enter(c->st);
    c->fin_queued = true;
    c->want_write = false;
    tn_tcp_output(c, now_us);
    tn_stack_leave(c->st, false, now_us);
}

void tn_tcp_abort(struct tn_tcp *c, uint64_t now_us)
{
    if (c->f.state == TN_TCP_CLOSED) return;
    tn_stack_enter(c->st);
    tn_stack_output_now(c, now_us); /* what was written goes first, as it would outside of a batch */
    if (c->f.state != TN_TCP_CLOSED) tn_tcp_send_rst(c, now_us);
    if (c->f.state != TN_TCP_CLOSED) tn_tcp_destroy(c);
    tn_stack_leave(c->st, false, now_us);
}

static const struct tn_tcp_events no_events;

void tn_tcp_release(struct tn_tcp *c, uint64_t now_us)
{
    struct tn_stack *st = c->st;
    if (c->f.state == TN_TCP_CLOSED) return;
    /* Unread bytes are lost, and the peer must learn it (RFC 1122 section 4.2.2.13). */
    if (c->f.state == TN_TCP_DONE || c->f.state == TN_TCP_SYN_SENT || c->recvq.len ||
        st->norphans >= TN_STACK_ORPHANS_MAX) {
        tn_tcp_abort(c, now_us);
        return;
    }
    tn_stack_enter(st);
    c->orphan = true;
    st->norphans++;
    c->f.events = 0;
    tn_list_remove(&c->event_node);
    c->ev = &no_events;
    c->keep_at = TN_NEVER;
    if (c->f.state == TN_TCP_FIN_WAIT_2) tn_tcp_set_state(c, TN_TCP_FIN_WAIT_2, now_us); /* now with its time limit */
    tn_tcp_shutdown(c, now_us);
    tn_tcp_timer_update(c);
    tn_stack_leave(st, false, now_us);
}

/* ---- properties ---- */

void tn_tcp_set_nodelay(struct tn_tcp *c, bool on) { c->nodelay = on; }
struct tn_addrport tn_tcp_local(const struct tn_tcp *c) { return c->f.local; }
struct tn_addrport tn_tcp_remote(const struct tn_tcp *c) { return c->f.remote; }
void *tn_tcp_arg(const struct tn_tcp *c) { return c->arg; }

void tn_tcp_info(const struct tn_tcp *c, struct tn_tcp_info *out)
{
    *out = (struct tn_tcp_info){
        .srtt_us = c->rtt.srtt_us, .rto_us = tn_rtt_backoff(&c->rtt, c->f.backoff), .bytes_sent = c->bytes_sent,
        .bytes_received = c->bytes_received, .bytes_retransmitted = c->bytes_resent, .pacing = c->cc.pace,
        .cwnd = c->cc.cwnd, .ssthresh = c->cc.ssthresh, .mss = c->cc.mss, .snd_wnd = c->snd_wnd,
        .rcv_wnd = c->rcv_adv - c->rcv_nxt,
        .state = tn_tcp_state_name(c->f.state), .cc = c->cc.ops ? c->cc.ops->name : "",
    };
}
