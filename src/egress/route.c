/* Which of the proxies that a flow may use it takes.
 *
 * Rendezvous hashing (Thaler, Ravishankar 1998): each proxy has a score for each peer, the highest wins. So a peer keeps its
 * proxy; when that fails its peers spread over the others and nobody else moves; and they return when it works again. A
 * proxy of weight w draws w scores and has the best of them: exactly its share. */
#include "egress/private.h"

static uint64_t mix(uint64_t x) /* splitmix64's last step */
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint64_t score(uint64_t peer, const struct tn_upstream *u, unsigned weight)
{
    uint64_t best = 0;
    for (unsigned i = 0; i < (weight ? weight : 1); i++) {
        uint64_t s = mix(mix(u->id + i * 0x9e3779b97f4a7c15u) ^ mix(peer));
        if (s > best) best = s;
    }
    return best;
}

static bool is_full(const struct tn_upstream *u, const struct tn_egress_proxy *conf)
{
    return conf->max_flows && u->flows + u->dials >= conf->max_flows;
}

int tn_route_choose(struct tn_egress *e, struct tn_dialing *d, enum tn_egress_fail *why)
{
    const struct tn_policy *p = d->policy;
    uint64_t now_us = tn_egress_now(), best = 0;
    int chosen = -1;
    bool blind = e->no_breaker || d->conn->purpose == TN_EGRESS_CHECK; /* the operator wants to see it fail */
    bool trial = false, down = false, auth = false, full = false;
    for (size_t i = 0; i < p->spec->nproxies; i++) {
        const struct tn_upstream *u = p->upstreams[i];
        if (!(d->candidates & ~d->tried & (uint64_t)1 << i)) continue;
        enum tn_breaker_state says = blind ? TN_BREAKER_CLOSED : tn_breaker_says(&u->breaker, now_us);
        if (says == TN_BREAKER_OPEN) {
            down = true;
            auth |= u->breaker.auth;
            continue;
        }
        if (d->conn->purpose != TN_EGRESS_CHECK && is_full(u, &p->spec->proxies[i])) {
            full = true;
            continue;
        }
        /* Whoever is not known to work is tried by a dial only when there is nobody else. */
        uint64_t s = score(d->peer, u, p->spec->proxies[i].weight);
        bool on_trial = says == TN_BREAKER_TRIAL, better = chosen < 0 || (trial && !on_trial) || (trial == on_trial && s > best);
        if (!better) continue;
        chosen = (int)i;
        best = s;
        trial = on_trial;
    }
    d->trial = trial;
    if (chosen >= 0 && trial) tn_breaker_try(&p->upstreams[chosen]->breaker, now_us);
    *why = full ? TN_EGRESS_FAIL_LIMIT : auth ? TN_EGRESS_FAIL_PROXY_AUTH : down ? TN_EGRESS_FAIL_PROXY_DOWN : TN_EGRESS_OK;
    return chosen;
}
