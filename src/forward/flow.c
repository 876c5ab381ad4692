/* A flow: bytes between a peer's TCP in our stack and the egress connection, both ways, without a buffer in between.
 *
 *   down   egress readable > the kernel copies straight into chunks of the stack > commit. No chunk to be had: reading
 *          stops until the stack says writable.
 *   up     stack readable > the kernel copies out of the stack's chunks > consume, which opens the peer's window. The
 *          socket is full: we wait until it is writable.
 * Nothing is read that can't be put down at once, so a stalled end holds what its own buffers hold and no more.
 *
 *   peer's FIN, all its bytes passed on      shutdown of the upstream
 *   upstream's FIN                           FIN to the peer behind what is queued
 *   both                                     the flow ends; the stack and the kernel finish alone
 *   RST or another break of either           RST to the other, at once
 *
 * Per turn one direction moves PUMP_MAX at most; a flow with more to do is called again by whoever called it. */
#include "egress/subnet.h"
#include "forward/private.h"
#include "util/err.h"

#include <stdlib.h>

enum {
    VIEWS = 64,              /* iovecs per system call: PUMP_MAX of chunks */
    READ_WANT = 64 * 1024,   /* per read: a few super-segments. A flow that filled one reads PUMP_MAX at a time, as every read has
                              * the kernel tell the sender of the new room: a tenth of a download's time */
    PUMP_MAX = 256 * 1024,   /* per callback: about 0.1 ms of copying */
    KEEPALIVE_PROBES = 4,
    /* Flows of one peer that wait for its last word of the handshake: a quarter of what the stack has room for, so that
     * a peer that never says it does not shut out the others. In honest hands they wait for one round trip. */
    OPENING_PER_PEER = 1024,
};
/* A peer that vanished is noticed after two minutes; radios sleep through shorter intervals for nothing. */
#define KEEPALIVE_IDLE_US 60000000ull
#define KEEPALIVE_INTERVAL_US 15000000ull

struct tn_flow {
    struct tn_list all;
    struct tn_forward *f;
    struct tn_tcp *tcp;         /* NULL: gone */
    struct tn_egress_conn *up;
    uint64_t peer;
    bool open;                  /* the peer's handshake is complete */
    bool up_eof, down_eof;      /* FIN passed on: peer to upstream, upstream to peer */
    bool up_blocked;            /* the upstream's socket is full */
    bool down_blocked;          /* the stack has no room */
    bool bulk;                  /* the last read brought READ_WANT and more */
    bool pumping, dead;         /* dead: ended while pumping; freed by the pump */
};

static void dispose(struct tn_flow *w)
{
    if (w->pumping) {
        w->dead = true;
        return;
    }
    free(w);
}

/* Out of the books. Called once; the memory may live until a pump on the stack has returned. */
static void forget(struct tn_flow *w)
{
    tn_list_remove(&w->all);
    w->f->stats.flows--;
    w->tcp = NULL;
    w->up = NULL;
    dispose(w);
}

/* Both ends are told at once. */
static void reset(struct tn_flow *w, uint64_t now_us)
{
    struct tn_tcp *tcp = w->tcp;
    tn_egress_close(w->up, true);
    forget(w);
    if (tcp) tn_tcp_abort(tcp, now_us);
}

/* Both FINs were passed on: what is still queued either way finishes without us. */
static bool finish_if_done(struct tn_flow *w, uint64_t now_us)
{
    if (!w->up_eof || !w->down_eof) return false;
    struct tn_tcp *tcp = w->tcp;
    tn_egress_close(w->up, false);
    forget(w);
    tn_tcp_release(tcp, now_us);
    return true;
}

static void update_wants(struct tn_flow *w)
{
    int want = 0;
    if (w->open && !w->down_eof && !w->down_blocked) want |= TN_EGRESS_WANT_READ;
    if (w->up_blocked) want |= TN_EGRESS_WANT_WRITE;
    tn_egress_want(w->up, want);
}

/* Upstream to peer. False when the flow is gone. */
static bool pump_down(struct tn_flow *w, uint64_t now_us)
{
    struct iovec views[VIEWS];
    for (size_t moved = 0; w->open && !w->down_eof && moved < PUMP_MAX;) {
        int n = tn_tcp_reserve(w->tcp, views, VIEWS, w->bulk ? PUMP_MAX - moved : READ_WANT);
        w->down_blocked = n == 0;
        if (n == 0) return true;
        long got = tn_egress_readv(w->up, views, n);
        tn_tcp_commit(w->tcp, got > 0 ? (size_t)got : 0, now_us);
        if (w->dead) return false;
        if (got == TN_E_AGAIN) return true;
        if (got < 0) {
            reset(w, now_us);
            return false;
        }
        if (got == 0) {
            w->down_eof = true;
            if (finish_if_done(w, now_us)) return false;
            tn_tcp_shutdown(w->tcp, now_us);
            return !w->dead;
        }
        moved += (size_t)got;
        w->bulk = got >= READ_WANT || moved >= PUMP_MAX;
    }
    return true;
}

/* The peer has sent FIN and all before it was passed on. False when the flow is gone. */
static bool pass_fin_up(struct tn_flow *w, uint64_t now_us)
{
    w->up_eof = true;
    if (tn_egress_shutdown(w->up) != 0) {
        reset(w, now_us);
        return false;
    }
    return !finish_if_done(w, now_us);
}

/* Peer to upstream. False when the flow is gone. */
static bool pump_up(struct tn_flow *w, uint64_t now_us)
{
    struct iovec views[VIEWS];
    while (!w->up_eof) {
        int n = tn_tcp_peek(w->tcp, views, VIEWS);
        if (n == 0) {
            w->up_blocked = false;
            return tn_tcp_eof(w->tcp) ? pass_fin_up(w, now_us) : true;
        }
        long put = tn_egress_writev(w->up, views, n);
        w->up_blocked = put == TN_E_AGAIN;
        if (w->up_blocked) return true;
        if (put < 0) {
            reset(w, now_us);
            return false;
        }
        tn_tcp_consume(w->tcp, (size_t)put, now_us);
        if (w->dead) return false;
    }
    return true;
}

/* Runs one direction. The stack may emit, and so call back into this flow, while it runs: the flow stays until the
 * end. */
static void pump(struct tn_flow *w, bool (*direction)(struct tn_flow *w, uint64_t now_us), uint64_t now_us)
{
    bool outer = !w->pumping;
    w->pumping = true;
    bool alive = direction(w, now_us) && !w->dead;
    if (alive) update_wants(w);
    if (!outer) return;
    w->pumping = false;
    if (w->dead) free(w);
}

static void on_tcp_open(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    struct tn_flow *w = arg;
    w->open = true;
    tn_list_remove(&w->all);
    tn_list_push_back(&w->f->flows, &w->all);
    tn_tcp_set_keepalive(c, KEEPALIVE_IDLE_US, KEEPALIVE_INTERVAL_US, KEEPALIVE_PROBES, now_us);
    update_wants(w);
}

static void on_tcp_readable(void *arg, struct tn_tcp *c, uint64_t now_us) { pump(arg, pump_up, now_us); }
static void on_tcp_writable(void *arg, struct tn_tcp *c, uint64_t now_us) { pump(arg, pump_down, now_us); }

/* err 0 never comes alone: both FINs passed through us, and then we had released it. */
static void on_tcp_close(void *arg, int err, uint64_t now_us)
{
    struct tn_flow *w = arg;
    tn_egress_close(w->up, true);
    forget(w);
}

static const struct tn_tcp_events tcp_events = {
    .on_open = on_tcp_open, .on_readable = on_tcp_readable, .on_writable = on_tcp_writable, .on_close = on_tcp_close};

/* From outside the stack: what several reads bring leaves together. */
static void pump_batch(struct tn_flow *w, bool (*direction)(struct tn_flow *w, uint64_t now_us))
{
    struct tn_stack *st = w->f->stack;
    uint64_t now_us = tn_forward_now(w->f);
    tn_stack_batch_begin(st);
    pump(w, direction, now_us);
    tn_stack_batch_end(st, now_us);
}

static void on_up_readable(void *arg, struct tn_egress_conn *up) { pump_batch(arg, pump_down); }
static void on_up_writable(void *arg, struct tn_egress_conn *up) { pump_batch(arg, pump_up); }

static void on_up_error(void *arg, struct tn_egress_conn *up, int err)
{
    struct tn_flow *w = arg;
    reset(w, tn_forward_now(w->f));
}

static void on_up_fail(void *arg, enum tn_egress_fail why) { (void)arg; } /* only before it was opened, when it is the gate's */

static const struct tn_egress_events up_events = {
    .on_fail = on_up_fail, .on_readable = on_up_readable, .on_writable = on_up_writable, .on_error = on_up_error};

static bool too_many_opening(const struct tn_forward *f, uint64_t peer)
{
    unsigned n = 0;
    TN_LIST_EACH(l, &f->opening) n += TN_CONTAINER(l, struct tn_flow, all)->peer == peer;
    return n >= OPENING_PER_PEER;
}

void tn_flow_start(struct tn_forward *f, const struct tn_syn *syn, uint64_t peer, struct tn_egress_conn *up, uint64_t now_us)
{
    struct tn_flow *w = too_many_opening(f, peer) ? NULL : calloc(1, sizeof *w);
    if (w) {
        *w = (struct tn_flow){.f = f, .up = up, .peer = peer};
        tn_list_push_back(&f->opening, &w->all);
        f->stats.flows++;
        tn_egress_set_events(up, &up_events, w);
        if (tn_tcp_accept_syn(f->stack, syn, &tcp_events, w, now_us, &w->tcp) == 0) {
            f->stats.opened++;
            return;
        }
        forget(w);
    }
    tn_egress_close(up, true);
    f->stats.refused++;
    tn_stack_reset_syn(f->stack, syn, now_us);
}

/* peer 0: all. */
static void drop(struct tn_list *flows, uint64_t peer, uint64_t now_us)
{
    TN_LIST_EACH(n, flows) {
        struct tn_flow *w = TN_CONTAINER(n, struct tn_flow, all);
        if (peer == 0 || w->peer == peer) reset(w, now_us);
    }
}

void tn_flow_drop_peer(struct tn_forward *f, uint64_t peer, uint64_t now_us)
{
    drop(&f->flows, peer, now_us);
    drop(&f->opening, peer, now_us);
}

void tn_flow_drop_all(struct tn_forward *f, uint64_t now_us) { tn_flow_drop_peer(f, 0, now_us); }

static void drop_gone(struct tn_list *flows, const struct tn_gone *gone, uint64_t now_us)
{
    TN_LIST_EACH(n, flows) {
        struct tn_flow *w = TN_CONTAINER(n, struct tn_flow, all);
        struct tn_addrport dst = tn_tcp_local(w->tcp);
        if (gone->is(gone->ctx, &dst.ip, tn_egress_conn_is_subnet(w->up))) reset(w, now_us);
    }
}

void tn_flow_drop_gone(struct tn_forward *f, const struct tn_gone *gone, uint64_t now_us)
{
    drop_gone(&f->flows, gone, now_us);
    drop_gone(&f->opening, gone, now_us);
}
