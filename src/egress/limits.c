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
    RESOLVERS_MAX = 32,    /* one kept connection per upstream is the rule; the operator's checks are among them */
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

static struct tn_share *find_share(struct tn_egress *e, uint64_t peer)
{
    struct tn_hnode *n = tn_htable_find(&e->shares, hash_peer(peer), same_peer, &peer);
    return n ? TN_CONTAINER(n, struct tn_share, node) : NULL;
}

/* Not a peer's flow. */
static bool is_ours(int purpose) { return purpose == TN_EGRESS_RESOLVER || purpose == TN_EGRESS_CHECK; }
static unsigned or_default(unsigned configured, unsigned fallback) { return configured ? configured : fallback; }
static unsigned two_thirds(unsigned n) { return n - n / 3; }

bool tn_limits_full(struct tn_egress *e, uint64_t peer, enum tn_egress_purpose purpose)
{
    const struct tn_egress_limits *l = &e->limits;
    if (is_ours(purpose)) return e->resolvers >= RESOLVERS_MAX;
    unsigned room = tn_socket_room(), flows = or_default(l->max_flows, FLOWS_DEFAULT);
    if (flows > room) flows = room;
    unsigned dials = or_default(l->max_dials, DIALS_DEFAULT);
    if (e->stats.flows + e->stats.dials >= flows || e->stats.dials >= dials) return true;
    const struct tn_share *s = find_share(e, peer);
    if (!s) return false;
    return s->flows + s->dials >= or_default(l->max_flows_per_peer, two_thirds(flows)) ||
           s->dials >= or_default(l->max_dials_per_peer, two_thirds(dials));
}

int tn_limits_take(struct tn_egress *e, struct tn_egress_conn *c, uint64_t peer)
{
    if (is_ours(c->purpose)) {
        e->resolvers++;
        return 0;
    }
    struct tn_share *s = find_share(e, peer);
    if (!s) {
        s = calloc(1, sizeof *s);
        if (!s) return TN_E_NOMEM;
        s->peer = peer;
        if (tn_htable_insert(&e->shares, &s->node, hash_peer(peer)) != 0) {
            free(s);
            return TN_E_NOMEM;
        }
    }
    s->dials++;
    e->stats.dials++;
    c->share = s;
    return 0;
}

void tn_limits_opened(struct tn_egress_conn *c)
{
    if (!c->share) return;
    c->share->dials--;
    c->share->flows++;
    c->e->stats.dials--;
    c->e->stats.flows++;
}

void tn_limits_give(struct tn_egress_conn *c)
{
    struct tn_egress *e = c->e;
    struct tn_share *s = c->share;
    if (is_ours(c->purpose) && c->state != TN_CONN_FAILED && c->state != TN_CONN_CLOSED) e->resolvers--;
    if (!s) return;
    c->share = NULL;
    if (c->state == TN_CONN_OPEN) {
        s->flows--;
        e->stats.flows--;
    } else {
        s->dials--;
        e->stats.dials--;
    }
    if (s->flows + s->dials > 0) return;
    tn_htable_remove(&e->shares, &s->node);
    free(s);
}
