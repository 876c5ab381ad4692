/* How much of the host one peer, and all of them together, may hold.
 *
 * A peer may hold two thirds of the whole (as Go's forwarder gives it of its attempts): a lone peer is not starved,
 * and the second one always finds room. The whole is bounded by the process's descriptors, less those kept for the
 * node. Name lookups for peers (RESOLVER) are counted apart, so that full tables do not stop DNS. */
#include "egress/private.h"
#include "egress/socket.h"
#include "util/err.h"

#include <stdlib.h>

enum {
    FLOWS_DEFAULT = 32768, /* half the ports of one source address towards one proxy */
    DIALS_DEFAULT = 8192,  /* as Go's forwarder on Linux */
    RESOLVERS_MAX = 160,   /* a kept connection per upstream and way (dns/ways.h); the operator's checks are among them */
};

static bool same_peer(const struct tn_hnode *node, const void *key)
{
    return TN_CONTAINER(node, struct tn_share, node)->peer == *(const uint64_t *)key;
}

/* Peers are numbered by the control server, not by themselves: no key is needed, only spread (splitmix64's last
 * step). */
static uint64_t hash_peer(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

struct tn_share *tn_share_find(struct tn_egress *e, uint64_t peer)
{
    struct tn_hnode *n = tn_htable_find(&e->shares, hash_peer(peer), same_peer, &peer);
    return n ? TN_CONTAINER(n, struct tn_share, node) : NULL;
}

/* Not a peer's flow. */
static bool is_ours(int purpose)
{
    return purpose == TN_EGRESS_RESOLVER || purpose == TN_EGRESS_CHECK || purpose == TN_EGRESS_PROBE;
}

static unsigned or_default(unsigned configured, unsigned fallback) { return configured ? configured : fallback; }
static unsigned two_thirds(unsigned n) { return n - n / 3; }

bool tn_limits_full(struct tn_egress *e, uint64_t peer, enum tn_egress_purpose purpose)
{
    const struct tn_egress_limits *l = &e->limits;
    if (is_ours(purpose)) return e->ours >= RESOLVERS_MAX;
    unsigned room = tn_socket_room(), flows = or_default(l->max_flows, FLOWS_DEFAULT);
    if (flows > room) flows = room;
    unsigned dials = or_default(l->max_dials, DIALS_DEFAULT);
    if (e->stats.flows + e->stats.dials >= flows || e->stats.dials >= dials) return true;
    const struct tn_share *s = tn_share_find(e, peer);
    if (!s) return false;
    return s->flows + s->dials >= or_default(l->max_flows_per_peer, two_thirds(flows)) ||
           s->dials >= or_default(l->max_dials_per_peer, two_thirds(dials));
}

struct tn_share *tn_share_get(struct tn_egress *e, uint64_t peer)
{
    struct tn_share *s = tn_share_find(e, peer);
    if (s) return s;
    s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->peer = peer;
    tn_list_init(&s->line);
    if (tn_htable_insert(&e->shares, &s->node, hash_peer(peer)) == 0) return s;
    free(s);
    return NULL;
}

int tn_limits_take(struct tn_egress *e, struct tn_egress_conn *c, uint64_t peer)
{
    if (is_ours(c->purpose)) {
        e->ours++;
        return 0;
    }
    struct tn_share *s = tn_share_get(e, peer);
    if (!s) return TN_E_NOMEM;
    s->dials++;
    e->stats.dials++;
    c->share = s;
    return 0;
}

static void drop_share(struct tn_egress *e, struct tn_share *s)
{
    tn_htable_remove(&e->shares, &s->node);
    free(s);
}

/* Nothing is under way for it. */
static void forget(struct tn_egress *e, struct tn_share *s)
{
    if (!s->epoch) {
        drop_share(e, s);
        return;
    }
    s->opened = s->refused = s->bytes_up = s->bytes_down = 0;
    s->gone = false;
}

void tn_egress_forget_peer(struct tn_egress *e, uint64_t peer)
{
    struct tn_share *s = tn_share_find(e, peer);
    if (s && s->flows + s->dials == 0) forget(e, s);
    else if (s) s->gone = true;
}

static void free_share(struct tn_hnode *n, void *arg) { drop_share(arg, TN_CONTAINER(n, struct tn_share, node)); }
void tn_shares_free(struct tn_egress *e)
{
    tn_htable_each(&e->shares, free_share, e);
    tn_htable_fini(&e->shares);
}

void tn_limits_opened(struct tn_egress_conn *c)
{
    if (!c->share) return;
    tn_line_asked(c);
    c->share->dials--;
    c->share->flows++;
    c->e->stats.dials--;
    c->e->stats.flows++;
}

void tn_limits_give(struct tn_egress_conn *c)
{
    struct tn_egress *e = c->e;
    struct tn_share *s = c->share;
    if (is_ours(c->purpose) && c->state != TN_CONN_FAILED && c->state != TN_CONN_CLOSED &&
        c->state != TN_CONN_DRAINING)
        e->ours--;
    if (!s) return;
    tn_line_asked(c);
    c->share = NULL;
    if (c->state == TN_CONN_OPEN) {
        s->flows--;
        e->stats.flows--;
    } else {
        s->dials--;
        e->stats.dials--;
    }
    if (s->gone && s->flows + s->dials == 0) forget(e, s);
}

struct each {
    void (*fn)(void *arg, const struct tn_egress_peer_stats *s);
    void *arg;
};

static void tell(struct tn_hnode *n, void *arg)
{
    const struct tn_share *s = TN_CONTAINER(n, struct tn_share, node);
    const struct each *each = arg;
    if (s->flows + s->dials == 0 && s->opened + s->refused == 0) return; /* there for its epoch alone */
    each->fn(each->arg, &(struct tn_egress_peer_stats){.peer = s->peer, .opened = s->opened, .refused = s->refused,
                                                       .bytes_up = s->bytes_up, .bytes_down = s->bytes_down,
                                                       .flows = s->flows, .dials = s->dials});
}

void tn_egress_each_peer(struct tn_egress *e, void (*fn)(void *arg, const struct tn_egress_peer_stats *s), void *arg)
{
    tn_htable_each(&e->shares, tell, &(struct each){fn, arg});
}
