/* Connections that come: listeners on our own addresses, and SYNs to foreign ones that a forwarder decided to
 * accept. */
#include "stack/internal.h"

#include <stdlib.h>

static struct tn_tcp *half_open(struct tn_stack *st, const struct tn_addrport *local,
                                const struct tn_addrport *remote, const struct tn_tcp_seg *syn, uint64_t now_us)
{
    struct tn_tcp *c = tn_tcp_new(st, local, remote, now_us);
    if (!c) return NULL;
    tn_tcp_options_from_syn(c, syn, now_us);
    c->half_open = true;
    st->nhalf_open++;
    tn_tcp_set_state(c, TN_TCP_SYN_RCVD, now_us);
    return c;
}

void tn_tcp_syn_input(struct tn_stack *st, struct tn_tcp_listener *l, const struct tn_addrport *local,
                      const struct tn_addrport *remote, const struct tn_tcp_seg *seg, uint64_t now_us)
{
    /* Full: silence. The peer sends its SYN again when there may be room. */
    if (l->half_open >= l->backlog || st->nhalf_open >= TN_STACK_HALF_OPEN_MAX) return;
    struct tn_tcp *c = half_open(st, local, remote, seg, now_us);
    if (!c) return;
    c->passive = true;
    c->listener = l;
    l->half_open++;
    tn_tcp_send_syn(c, now_us);
}

int tn_tcp_accept_syn(struct tn_stack *st, const struct tn_syn *syn, const struct tn_tcp_events *ev, void *arg,
                      uint64_t now_us, struct tn_tcp **out)
{
    if (st->nhalf_open >= TN_STACK_HALF_OPEN_MAX || st->ntcp >= TN_STACK_FLOWS_MAX) return TN_E_LIMIT;
    struct tn_flow *old = tn_flow_find(st, &syn->dst, &syn->src);
    if (old && !old->is_time_wait) return TN_E_EXIST;
    if (old) tn_time_wait_free(st, TN_CONTAINER(old, struct tn_time_wait, f));
    struct tn_tcp_seg seg = {
        .seq = syn->seq, .flags = TN_TCP_SYN, .window = syn->window, .mss = syn->mss, .wscale = syn->wscale,
        .has_wscale = syn->has_wscale, .sack_ok = syn->sack_ok, .has_ts = syn->has_ts, .tsval = syn->tsval,
    };
    tn_stack_enter(st);
    struct tn_tcp *c = half_open(st, &syn->dst, &syn->src, &seg, now_us);
    if (c) {
        c->ev = ev;
        c->arg = arg;
        *out = c;
        tn_tcp_send_syn(c, now_us);
    }
    tn_stack_leave(st, false, now_us);
    return c ? 0 : TN_E_NOMEM;
}

/* The handshake of a listener's connection is complete: it gets its owner, or is reset. */
void tn_tcp_accepted(struct tn_tcp *c, uint64_t now_us)
{
    struct tn_tcp_listener *l = c->listener;
    c->passive = false;
    c->listener = NULL;
    if (l && l->on_accept && l->on_accept(l->arg, c, now_us) == 0) return;
    if (c->f.state == TN_TCP_CLOSED) return; /* aborted by the callback itself */
    tn_tcp_abort(c, now_us);
}

int tn_tcp_listen(struct tn_stack *st, const struct tn_addrport *local, unsigned backlog,
                  int (*on_accept)(void *arg, struct tn_tcp *c, uint64_t now_us), void *arg,
                  struct tn_tcp_listener **out)
{
    if (local->port == 0 || (local->ip.family && !tn_stack_is_own(st, &local->ip))) return TN_E_INVAL;
    struct tn_tcp_listener *l = calloc(1, sizeof *l);
    if (!l) return TN_E_NOMEM;
    l->st = st;
    l->local = *local;
    l->backlog = backlog ? backlog : 1;
    l->on_accept = on_accept;
    l->arg = arg;
    int err = tn_listener_insert(st, l);
    if (err) {
        free(l);
        return err;
    }
    tn_list_push_back(&st->all_listeners, &l->all_node);
    *out = l;
    return 0;
}

static void orphan_half_open(struct tn_hnode *node, void *arg)
{
    struct tn_flow *f = TN_CONTAINER(node, struct tn_flow, node);
    struct tn_tcp *c = TN_CONTAINER(f, struct tn_tcp, f);
    if (!f->is_time_wait && c->listener == arg) c->listener = NULL; /* reset when its handshake completes */
}

void tn_tcp_unlisten(struct tn_tcp_listener *l)
{
    if (!l) return;
    struct tn_stack *st = l->st;
    tn_htable_remove(&st->listeners, &l->node);
    tn_list_remove(&l->all_node);
    tn_htable_each(&st->flows, orphan_half_open, l);
    TN_LIST_EACH (n, &st->events) { /* handshakes completed a moment ago may have left the table again */
        struct tn_tcp *c = TN_CONTAINER(n, struct tn_tcp, event_node);
        if (c->listener == l) c->listener = NULL;
    }
    free(l);
}
