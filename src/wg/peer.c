/* Peers: the table by key, crypto-key routing, reset. */
#include "util/err.h"
#include "util/secret.h"
#include "wg/internal.h"

#include <stdlib.h>
#include <string.h>

static uint64_t key_hash(const struct tn_wg *wg, const struct tn_node_public *key)
{
    return tn_siphash(&wg->hash, key->b, sizeof key->b);
}

static bool key_eq(const struct tn_hnode *node, const void *key)
{
    return tn_node_public_eq(&TN_CONTAINER(node, struct tn_wg_peer, by_key)->key, key);
}

struct tn_wg_peer *tn_wg_peer_find(struct tn_wg *wg, const struct tn_node_public *key)
{
    struct tn_hnode *node = tn_htable_find(&wg->peers, key_hash(wg, key), key_eq, key);
    return node ? TN_CONTAINER(node, struct tn_wg_peer, by_key) : NULL;
}

int tn_wg_peer_add(struct tn_wg *wg, const struct tn_node_public *key, void *peer_arg, struct tn_wg_peer **out)
{
    if (tn_wg_peer_find(wg, key)) return TN_E_EXIST;
    if (tn_key_is_zero(key->b) || tn_node_public_eq(key, &wg->own.pub)) return TN_E_INVAL;
    struct tn_wg_peer *p = calloc(1, sizeof *p);
    if (!p) return TN_E_NOMEM;
    p->wg = wg;
    p->arg = peer_arg;
    p->key = *key;
    tn_wg_timers_init(p);
    tn_list_init(&p->staged);
    if (tn_htable_insert(&wg->peers, &p->by_key, key_hash(wg, key)) != 0) {
        free(p);
        return TN_E_NOMEM;
    }
    *out = p;
    return 0;
}

/* Takes the peer's prefixes out of the table, but for those that moved to another peer. */
static void unroute(struct tn_wg_peer *p)
{
    for (size_t i = 0; i < p->nallowed; i++)
        if (tn_route_exact(p->wg->routes, &p->allowed[i]) == p) (void)tn_route_unset(p->wg->routes, &p->allowed[i]);
    free(p->allowed);
    p->allowed = NULL;
    p->nallowed = 0;
}

void tn_wg_peer_remove(struct tn_wg *wg, struct tn_wg_peer *p)
{
    unroute(p);
    tn_wg_session_wipe(p);
    tn_wg_drop_staged(p);
    tn_wg_timers_stop(p);
    tn_htable_remove(&wg->peers, &p->by_key);
    tn_wipe(p, sizeof *p);
    free(p);
}

const struct tn_node_public *tn_wg_peer_key(const struct tn_wg_peer *p) { return &p->key; }
void *tn_wg_peer_arg(const struct tn_wg_peer *p) { return p->arg; }

static bool already_routed(const struct tn_wg_peer *p, const struct tn_prefix *prefixes, size_t n)
{
    if (n != p->nallowed) return false;
    for (size_t i = 0; i < n; i++) {
        if (!tn_prefix_eq(&p->allowed[i], &prefixes[i])) return false;
        if (tn_route_exact(p->wg->routes, &prefixes[i]) != p) return false;
    }
    return true;
}

/* When memory runs out, the prefixes not yet set stay away: their packets are dropped, not misrouted. */
int tn_wg_peer_set_allowed(struct tn_wg *wg, struct tn_wg_peer *p, const struct tn_prefix *prefixes, size_t n)
{
    if (already_routed(p, prefixes, n)) return 0; /* most of what a netmap update brings */
    struct tn_prefix *copy = n > 0 ? calloc(n, sizeof *copy) : NULL;
    if (n > 0 && !copy) return TN_E_NOMEM;
    unroute(p);
    p->allowed = copy;
    for (size_t i = 0; i < n; i++) {
        int err = tn_route_set(wg->routes, &prefixes[i], p);
        if (err != 0) return err;
        copy[p->nallowed++] = prefixes[i];
    }
    return 0;
}

struct tn_wg_peer *tn_wg_route(struct tn_wg *wg, const struct tn_ip *dst)
{
    return tn_route_find(wg->routes, dst, NULL);
}

/* What is staged stays and gets a new handshake at the next timeout; the clock is not known here. */
void tn_wg_peer_reset(struct tn_wg *wg, struct tn_wg_peer *p)
{
    (void)wg;
    tn_wg_session_wipe(p);
    tn_wg_timers_stop(p);
    p->gate_us = 0;
    p->retries = 0;
    p->another_keepalive = p->late_rekey_sent = false;
    if (p->nstaged > 0) tn_wg_timer_set(p, TN_WG_T_RETRANSMIT, 0);
}

void tn_wg_peer_stats(const struct tn_wg_peer *p, struct tn_wg_peer_stats *out)
{
    *out = p->stats;
    out->session = tn_wg_may_send(p->current, p->wg->now_us);
}
