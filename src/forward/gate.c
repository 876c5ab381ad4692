/* The SYN gate: dial first, answer afterwards.
 *
 *   SYN                  known 4-tuple: a retransmission, its copy replaces ours
 *                        else: exit node on, a known peer, egress takes the dial? hold it : RST
 *   egress connected     hand the newest copy to the stack, which answers SYN-ACK
 *   egress failed        RST, whatever the reason: it makes clients try their next address at once. The reason goes to
 *                        the counters.
 *   peer's RST           the dial is canceled
 *   silence              so is it, when retransmissions that should have come did not (below)
 *
 * A held SYN costs this entry and the dial; no stack memory. How many there may be is the egress's limit on dials, per peer
 * and in all; what is over it gets RST.
 *
 * A TCP that still wants the connection retransmits its SYN after 1 s and then at doubling intervals (RFC 6298), Linux since
 * 6.5 a few times each second first. After SILENCE_MIN at least two must have been lost in a row, and later QUIET_GAPS
 * times the last interval has the next one in it twice over: then nobody waits any more. */
#include "egress/subnet.h"
#include "forward/private.h"
#include "util/err.h"

#include <stdlib.h>

#define SILENCE_MIN_US 8000000ull
enum { QUIET_GAPS = 4 };

/* The 4-tuple as hashed and compared: no padding. */
struct tuple {
    struct tn_ip src, dst;
    uint16_t sport, dport;
};
_Static_assert(sizeof(struct tuple) == 2 * sizeof(struct tn_ip) + 4, "no padding");

static struct tuple tuple_of(const struct tn_addrport *src, const struct tn_addrport *dst)
{
    return (struct tuple){.src = src->ip, .dst = dst->ip, .sport = src->port, .dport = dst->port};
}

static bool same_tuple(const struct tn_hnode *node, const void *key)
{
    const struct tn_syn *syn = &TN_CONTAINER(node, struct tn_held, node)->syn;
    struct tuple t = tuple_of(&syn->src, &syn->dst);
    return memcmp(&t, key, sizeof t) == 0;
}

static struct tn_held *find(struct tn_forward *f, const struct tn_addrport *src, const struct tn_addrport *dst)
{
    struct tuple t = tuple_of(src, dst);
    struct tn_hnode *n = tn_htable_find(&f->held, tn_siphash(&f->key, &t, sizeof t), same_tuple, &t);
    return n ? TN_CONTAINER(n, struct tn_held, node) : NULL;
}

void tn_gate_init(struct tn_forward *f, struct tn_rng rng)
{
    tn_htable_init(&f->held);
    tn_heap_init(&f->timers);
    tn_rng_fill(&rng, &f->key, sizeof f->key);
}

void tn_gate_fini(struct tn_forward *f)
{
    tn_htable_fini(&f->held);
    tn_heap_fini(&f->timers);
}

/* Out of the tables; the dial is the caller's to end, if there is one still. */
static void release(struct tn_held *h)
{
    struct tn_forward *f = h->f;
    tn_timer_stop(&f->timers, &h->timer);
    tn_htable_remove(&f->held, &h->node);
    f->stats.held--;
    free(h);
}

static void cancel(struct tn_held *h)
{
    h->f->stats.canceled++;
    tn_egress_close(h->up, false);
    release(h);
}

static void on_open(void *arg, struct tn_egress_conn *up)
{
    struct tn_held *h = arg;
    struct tn_forward *f = h->f;
    struct tn_syn syn = h->syn;
    uint64_t peer = h->peer;
    release(h);
    tn_flow_start(f, &syn, peer, up, tn_forward_now(f));
}

static void on_fail(void *arg, enum tn_egress_fail why)
{
    struct tn_held *h = arg;
    struct tn_forward *f = h->f;
    struct tn_syn syn = h->syn;
    release(h);
    f->stats.refused++;
    tn_stack_reset_syn(f->stack, &syn, tn_forward_now(f));
}

static const struct tn_egress_events dial_events = {.on_open = on_open, .on_fail = on_fail};

static void arm_silence(struct tn_held *h)
{
    uint64_t quiet_us = h->gap_us * QUIET_GAPS;
    if (quiet_us < SILENCE_MIN_US) quiet_us = SILENCE_MIN_US;
    /* Armed at birth, so that this only moves it. */
    (void)tn_timer_arm(&h->f->timers, &h->timer, h->seen_us + quiet_us);
}

static void seen_again(struct tn_held *h, const struct tn_syn *syn, uint64_t now_us)
{
    /* Another sequence number is another attempt on the same ports: the dial serves it as well. */
    h->gap_us = syn->seq == h->syn.seq ? now_us - h->seen_us : 0;
    h->seen_us = now_us;
    h->syn = *syn;
    arm_silence(h);
}

static struct tn_held *hold(struct tn_forward *f, const struct tn_syn *syn, uint64_t peer, uint64_t now_us)
{
    struct tuple t = tuple_of(&syn->src, &syn->dst);
    struct tn_held *h = calloc(1, sizeof *h);
    if (!h) return NULL;
    *h = (struct tn_held){.f = f, .syn = *syn, .peer = peer, .seen_us = now_us};
    if (tn_timer_arm(&f->timers, &h->timer, now_us + SILENCE_MIN_US) != 0) {
        free(h);
        return NULL;
    }
    if (tn_htable_insert(&f->held, &h->node, tn_siphash(&f->key, &t, sizeof t)) != 0) {
        tn_timer_stop(&f->timers, &h->timer);
        free(h);
        return NULL;
    }
    f->stats.held++;
    return h;
}

enum tn_syn_verdict tn_forward_syn(void *forward, const struct tn_syn *syn, uint64_t now_us)
{
    struct tn_forward *f = forward;
    if (tn_ip_is_multicast(&syn->dst.ip)) return TN_SYN_DROP; /* RFC 9293 section 3.9.2.3: never answered */
    struct tn_held *h = find(f, &syn->src, &syn->dst);
    if (h) {
        seen_again(h, syn, now_us);
        return TN_SYN_HELD;
    }
    uint64_t peer = f->enabled ? f->config.peer_of(f->config.ctx, &syn->src.ip) : 0;
    if (peer && syn->dst.port == TN_FORWARD_DNS_PORT && f->config.dns_syn && !tn_forward_is_subnet(f, &syn->dst)) {
        enum tn_syn_verdict verdict = f->config.dns_syn(f->config.ctx, peer, syn, now_us);
        f->stats.refused += verdict == TN_SYN_RESET;
        if (verdict != TN_SYN_DROP) return verdict;
    }
    h = peer ? hold(f, syn, peer, now_us) : NULL;
    struct tn_egress_target to = {.dst = syn->dst, .peer = peer, .purpose = TN_EGRESS_FORWARD};
    if (h && f->config.name_of) to.name = f->config.name_of(f->config.ctx, peer, &syn->dst.ip, now_us);
    if (h && tn_egress_dial(f->config.egress, &to, &dial_events, h, &h->up) == 0)
        return TN_SYN_HELD;
    if (h) release(h);
    f->stats.refused++;
    return TN_SYN_RESET;
}

bool tn_forward_tcp(void *forward, const struct tn_addrport *src, const struct tn_addrport *dst, bool rst, uint64_t now_us)
{
    struct tn_held *h = find(forward, src, dst);
    if (h && rst) cancel(h);
    return h != NULL;
}

void tn_gate_timeout(struct tn_forward *f, uint64_t now_us)
{
    for (struct tn_timer *t; (t = tn_heap_pop_due(&f->timers, now_us));) cancel(TN_CONTAINER(t, struct tn_held, timer));
}

struct drop {
    uint64_t peer, now_us;
    const struct tn_gone *gone;
    bool all;
};

static void drop_one(struct tn_hnode *node, void *arg)
{
    struct tn_held *h = TN_CONTAINER(node, struct tn_held, node);
    const struct drop *d = arg;
    bool mine = d->gone ? d->gone->is(d->gone->ctx, &h->syn.dst.ip, tn_egress_conn_is_subnet(h->up)) : d->all || h->peer == d->peer;
    if (!mine) return;
    if (h->f->stack) tn_stack_reset_syn(h->f->stack, &h->syn, d->now_us);
    cancel(h);
}

void tn_gate_drop_peer(struct tn_forward *f, uint64_t peer, uint64_t now_us)
{
    tn_htable_each(&f->held, drop_one, &(struct drop){.peer = peer, .now_us = now_us});
}

void tn_gate_drop_gone(struct tn_forward *f, const struct tn_gone *gone, uint64_t now_us)
{
    tn_htable_each(&f->held, drop_one, &(struct drop){.gone = gone, .now_us = now_us});
}

void tn_gate_drop_all(struct tn_forward *f, uint64_t now_us)
{
    tn_htable_each(&f->held, drop_one, &(struct drop){.all = true, .now_us = now_us});
}
