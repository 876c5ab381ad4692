/* PROXY mode: only the proxy's own addresses are dialed.
 *
 * A proxy given by name is looked up with the host's resolver; that tells the resolver the proxy's name and nothing
 * of what peers do. The answer is kept for LOOKUP_FRESH_US (getaddrinfo does not tell the TTL; gateways that
 * balance by DNS use a minute or more). After that the next dial begins a new lookup and goes on with the old
 * addresses: a resolver that fails does not stop a proxy that works. Dials wait only when there never was an
 * answer.
 *
 * Addresses are tried one after the other in the resolver's order, the last one that worked first; each gets an
 * equal share of what is left of the connect phase. */
#include "egress/private.h"
#include "egress/socket.h"
#include "util/err.h"

#include <stdlib.h>

#define LOOKUP_FRESH_US 60000000ull
#define LOOKUP_RETRY_US 1000000ull /* a dead resolver costs one thread a second, whatever peers ask for */

void tn_upstream_init(struct tn_upstream *u)
{
    *u = (struct tn_upstream){0};
    tn_list_init(&u->waiting);
}

void tn_upstream_set(struct tn_upstream *u, const struct tn_proxy *proxy)
{
    struct tn_ip ip;
    tn_resolve_free(u->lookup); /* its descriptor speaks of the upstream, which stays: no event of it can go astray */
    tn_upstream_init(u);
    if (!proxy || tn_ip_parse(proxy->host, &ip) != 0) return;
    u->addrs[0] = (struct tn_addrport){.ip = ip, .port = proxy->port};
    u->count = 1;
    u->literal = true;
}

static int begin_lookup(struct tn_egress *e)
{
    struct tn_upstream *u = &e->upstream;
    uint64_t now_us = tn_egress_now();
    if (u->lookup) return 0;
    if (now_us < u->retry_us) return TN_E_DNS;
    u->retry_us = now_us + LOOKUP_RETRY_US;
    int err = tn_resolve_start(e->policy.proxy->host, e->policy.proxy->port, &u->lookup);
    if (err) {
        u->lookup = NULL;
        return err;
    }
    err = tn_run_watch(e, tn_resolve_fd(u->lookup), u);
    if (err) {
        tn_resolve_free(u->lookup);
        u->lookup = NULL;
    }
    return err;
}

bool tn_upstream_is(const struct tn_upstream *u, const struct tn_addrport *dst)
{
    for (size_t i = 0; i < u->count; i++)
        if (tn_addrport_eq(&u->addrs[i], dst)) return true;
    return false;
}

/* The addresses are known: the last check by the guard, then the first of them. */
static int begin_connect(struct tn_egress_conn *c)
{
    struct tn_upstream *u = &c->e->upstream;
    struct tn_dialing *d = c->dialing;
    if (tn_upstream_is(u, &d->dst)) return TN_EGRESS_FAIL_GUARD;
    d->addrs = malloc(u->count * sizeof *d->addrs);
    if (!d->addrs) return TN_EGRESS_FAIL_FDS;
    memcpy(d->addrs, u->addrs, u->count * sizeof *d->addrs);
    d->naddrs = u->count;
    return tn_proxied_next(c);
}

int tn_proxied_begin(struct tn_egress_conn *c)
{
    struct tn_egress *e = c->e;
    struct tn_upstream *u = &e->upstream;
    if (e->policy.mode != TN_EGRESS_PROXY) return TN_EGRESS_FAIL_OFF;
    if (!u->literal && (u->count == 0 || tn_egress_now() >= u->fresh_until_us)) {
        int err = begin_lookup(e);
        if (err && u->count == 0) return err == TN_E_DNS ? TN_EGRESS_FAIL_PROXY_NAME : TN_EGRESS_FAIL_FDS;
    }
    if (u->count > 0) return begin_connect(c);
    if (tn_timer_arm(&e->timers, &c->dialing->timer, c->dialing->deadline_us) != 0) return TN_EGRESS_FAIL_FDS;
    tn_list_push_back(&u->waiting, &c->dialing->waiting);
    tn_conn_set_state(c, TN_CONN_RESOLVING);
    return 0;
}

int tn_proxied_next(struct tn_egress_conn *c)
{
    struct tn_dialing *d = c->dialing;
    uint64_t now_us = tn_egress_now();
    while (d->next < d->naddrs && now_us < d->deadline_us) {
        uint64_t share_us = (d->deadline_us - now_us) / (d->naddrs - d->next);
        int fd = tn_socket_connect(&d->addrs[d->next++], c->e->mark);
        if (fd >= 0) return tn_dial_attempt(c, fd, now_us + share_us);
        if (tn_direct_fail_of(fd) == TN_EGRESS_FAIL_FDS) return TN_EGRESS_FAIL_FDS;
    }
    return TN_EGRESS_FAIL_PROXY_CONNECT;
}

void tn_proxied_works(struct tn_egress_conn *c)
{
    struct tn_upstream *u = &c->e->upstream;
    struct tn_addrport good = c->dialing->addrs[c->dialing->next - 1];
    for (size_t i = 1; i < u->count; i++) {
        if (!tn_addrport_eq(&u->addrs[i], &good)) continue;
        memmove(&u->addrs[1], &u->addrs[0], i * sizeof u->addrs[0]);
        u->addrs[0] = good;
        return;
    }
}

static void store_answer(struct tn_egress *e, const struct tn_addrport *addrs, int n)
{
    struct tn_upstream *u = &e->upstream;
    memcpy(u->addrs, addrs, (size_t)n * sizeof *addrs);
    u->count = (size_t)n;
    u->fresh_until_us = tn_egress_now() + LOOKUP_FRESH_US;
}

void tn_upstream_on_lookup(struct tn_egress *e)
{
    struct tn_upstream *u = &e->upstream;
    struct tn_addrport addrs[TN_RESOLVE_MAX];
    if (!u->lookup) return;
    int n = tn_resolve_result(u->lookup, addrs, TN_RESOLVE_MAX);
    if (n == TN_E_AGAIN) return;
    tn_resolve_free(u->lookup);
    u->lookup = NULL;
    if (n > 0) store_answer(e, addrs, n);
    for (struct tn_list *l; (l = tn_list_pop_front(&u->waiting));) {
        struct tn_egress_conn *c = TN_CONTAINER(l, struct tn_dialing, waiting)->conn;
        tn_timer_stop(&e->timers, &c->dialing->timer);
        int why = u->count ? begin_connect(c) : (int)TN_EGRESS_FAIL_PROXY_NAME;
        if (why) tn_conn_fail(c, (enum tn_egress_fail)why);
    }
}
