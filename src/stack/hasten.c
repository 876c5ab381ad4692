/* The way to some hosts has changed: what was lost on the old one is sent again now, not when the backed-off
 * retransmission timer says so. With a round trip of 100 ms that timer waits for 4.8 s when a path has been dead for
 * 4.5 s, and all of it would be silence.
 *
 * Only flows that have timed out already are touched: who still gets answers needs no help. The congestion window is
 * what the timeout made of it. */
#include "stack/internal.h"

struct hasten {
    bool (*match)(void *ctx, const struct tn_ip *remote);
    void *ctx;
    uint64_t now_us;
};

static void one(struct tn_hnode *node, void *arg)
{
    const struct hasten *h = arg;
    struct tn_flow *f = TN_CONTAINER(node, struct tn_flow, node);
    if (f->is_time_wait || !h->match(h->ctx, &f->remote.ip)) return;
    struct tn_tcp *c = TN_CONTAINER(f, struct tn_tcp, f);
    enum tn_tcp_rexmit kind = c->f.rexmit_kind;
    if (c->f.backoff == 0 || (kind != TN_RX_RTO && kind != TN_RX_SYN && kind != TN_RX_PERSIST)) return;
    if (kind != TN_RX_SYN) c->f.backoff = 0; /* SYNs are counted by it */
    tn_tcp_arm(c, kind, h->now_us);
    tn_tcp_timer_update(c);
}

void tn_stack_hasten(struct tn_stack *st, bool (*match)(void *ctx, const struct tn_ip *remote), void *ctx, uint64_t now_us)
{
    struct hasten h = {match, ctx, now_us};
    tn_htable_each(&st->flows, one, &h);
}
