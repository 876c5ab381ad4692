/* The room's front door: configuration, the refusals that need no socket, and the figures. */
#include "egress/private.h"
#include "egress/subnet.h"
#include "util/err.h"

#include <stdlib.h>

#define CONNECT_TIMEOUT_US 10000000ull
#define HANDSHAKE_TIMEOUT_US 20000000ull

const unsigned tn_egress_bucket_ms[TN_EGRESS_BUCKETS - 1] = {5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000};

int tn_egress_new(const struct tn_egress_config *config, struct tn_egress **out)
{
    struct tn_egress *e = calloc(1, sizeof *e);
    if (!e) return TN_E_NOMEM;
    e->loop = config->loop;
    e->log = config->log;
    e->limits = config->limits;
    e->mark = config->mark;
    if (!e->limits.connect_timeout_us) e->limits.connect_timeout_us = CONNECT_TIMEOUT_US;
    if (!e->limits.handshake_timeout_us) e->limits.handshake_timeout_us = HANDSHAKE_TIMEOUT_US;
    e->peers = config->peers;
    e->tls = config->tls;
    e->key = config->key;
    e->no_breaker = config->no_breaker;
    e->safe = (struct tn_policy){.refs = 1, .mode = TN_EGRESS_OFF, .rejected = true};
    e->policy = tn_policy_new(tn_egress_spec_new(TN_EGRESS_OFF));
    if (!e->policy) e->policy = tn_policy_ref(&e->safe);
    tn_guard_init(&e->guard);
    tn_list_init(&e->upstreams);
    tn_heap_init(&e->timers);
    tn_htable_init(&e->shares);
    tn_list_init(&e->conns);
    tn_list_init(&e->run);
    tn_list_init(&e->graveyard);
    tn_dgrams_init(e);
    int err = tn_run_init(e);
    if (err) {
        tn_policy_unref(e, e->policy);
        free(e);
        return err;
    }
    *out = e;
    return 0;
}

void tn_egress_free(struct tn_egress *e, void (*done)(void *arg), void *arg)
{
    e->closing = true;
    e->done = done;
    e->done_arg = arg;
    e->depth++; /* so that nothing is freed under a step that may be on the stack */
    TN_LIST_EACH(n, &e->conns)
        tn_conn_bury(TN_CONTAINER(n, struct tn_egress_conn, all), true);
    tn_dgrams_fini(e);
    e->depth--;
    if (e->depth == 0) tn_dgrams_bury(e);
    if (e->depth == 0)
        for (struct tn_list *n; (n = tn_list_pop_front(&e->graveyard));)
            free(TN_CONTAINER(n, struct tn_egress_conn, all));
    TN_LIST_EACH(l, &e->upstreams) tn_probe_forget(TN_CONTAINER(l, struct tn_upstream, all));
    struct tn_policy *last = e->policy;
    e->policy = &e->safe;
    tn_policy_unref(e, last);
    tn_guard_fini(&e->guard);
    free(e->routes);
    tn_heap_fini(&e->timers);
    tn_shares_free(e);
    tn_run_fini(e);
}

struct tn_policy *tn_policy_ref(struct tn_policy *p)
{
    p->refs++;
    return p;
}

void tn_policy_unref(struct tn_egress *e, struct tn_policy *p)
{
    if (p == &e->safe || --p->refs > 0) return;
    for (size_t i = 0; p->spec && i < p->spec->nproxies; i++) tn_upstream_unref(p->upstreams[i]);
    tn_policy_free(p);
}

/* The snapshot, joined to its proxies; NULL: no memory. */
static struct tn_policy *make_policy(struct tn_egress *e, struct tn_egress_spec *spec)
{
    struct tn_policy *p = tn_policy_new(spec);
    for (size_t i = 0; p && p->mode == TN_EGRESS_PROXY && i < p->spec->nproxies; i++) {
        p->upstreams[i] = tn_upstream_get(e, &p->spec->proxies[i]);
        if (p->upstreams[i]) continue;
        tn_policy_unref(e, p);
        return NULL;
    }
    return p;
}

static bool carries(const struct tn_policy *p, const struct tn_egress_conn *c)
{
    if (p->mode != TN_EGRESS_PROXY) return p->mode == TN_EGRESS_HOST && !c->up;
    for (size_t i = 0; i < p->spec->nproxies; i++)
        if (p->upstreams[i] == c->up) return true;
    return false;
}

/* What is under way when a policy comes. Dials belong to the policy in force: they go on where it would send them too,
 * begin anew where not, and end where it has no proxies. Flows stay, or are cut if it has no place for them. */
static void move_over(struct tn_egress *e, const struct tn_policy *old, bool cut)
{
    bool proxied = old->mode == TN_EGRESS_PROXY && e->policy->mode == TN_EGRESS_PROXY;
    TN_LIST_EACH(n, &e->conns) {
        struct tn_egress_conn *c = TN_CONTAINER(n, struct tn_egress_conn, all);
        if (c->purpose == TN_EGRESS_SUBNET) continue; /* none of its business */
        if (c->state < TN_CONN_OPEN && c->purpose != TN_EGRESS_PROBE) {
            int why = proxied ? tn_proxied_restart(c, e->policy) : (int)TN_EGRESS_FAIL_CANCELED;
            if (why) tn_conn_fail(c, (enum tn_egress_fail)why);
        } else if (c->state == TN_CONN_OPEN && cut && !carries(e->policy, c)) {
            tn_conn_cut(c);
        }
    }
}

int tn_egress_set(struct tn_egress *e, struct tn_egress_spec *spec, bool cut)
{
    char line[400];
    if (e->closing) {
        tn_egress_spec_free(spec);
        return TN_E_CLOSED;
    }
    struct tn_policy *old = e->policy, *made = make_policy(e, spec);
    e->policy = made ? made : &e->safe;
    move_over(e, old, cut);
    tn_policy_unref(e, old);
    tn_dgrams_policy_changed(e);
    TN_LIST_EACH(l, &e->upstreams) tn_probe_schedule(TN_CONTAINER(l, struct tn_upstream, all));
    bool bad = e->policy->rejected;
    tn_logf(e->log, bad ? TN_LOG_WARN : TN_LOG_INFO, "egress", "%s", tn_policy_describe(e->policy, line));
    tn_run_schedule(e);
    return bad ? TN_E_POLICY : 0;
}

int tn_egress_set_policy(struct tn_egress *e, enum tn_egress_mode mode, struct tn_proxy *proxy)
{
    struct tn_egress_spec *s = tn_egress_spec_new(mode);
    struct tn_egress_proxy *p = s && proxy && mode == TN_EGRESS_PROXY ? tn_egress_spec_proxy(s) : NULL;
    if (p) {
        strcpy(p->name, "proxy");
        p->proxy = proxy;
    } else {
        tn_proxy_free(proxy);
    }
    return tn_egress_set(e, s, false);
}

int tn_egress_rotate(struct tn_egress *e, uint64_t peer)
{
    struct tn_share *s = peer ? tn_share_get(e, peer) : NULL;
    if (peer && !s) return TN_E_NOMEM;
    if (s) s->epoch++;
    else e->epoch++;
    return 0;
}

uint32_t tn_egress_epoch(struct tn_egress *e, uint64_t peer)
{
    const struct tn_share *s = peer ? tn_share_find(e, peer) : NULL;
    return !peer ? e->epoch : s ? s->epoch : 0;
}

int tn_egress_set_epoch(struct tn_egress *e, uint64_t peer, uint32_t epoch)
{
    struct tn_share *s = peer ? tn_share_get(e, peer) : NULL;
    if (peer && !s) return TN_E_NOMEM;
    if (s) s->epoch = epoch;
    else e->epoch = epoch;
    return 0;
}

static uint64_t that(const struct tn_egress *e, bool (*can)(const struct tn_upstream *u))
{
    uint64_t set = 0;
    for (size_t i = 0; i < e->policy->spec->nproxies; i++)
        if (can(e->policy->upstreams[i])) set |= (uint64_t)1 << i;
    return set;
}

static bool does_ipv6(const struct tn_upstream *u) { return u->no_ipv6_until_us <= tn_egress_now(); }
static bool may_relay(const struct tn_upstream *u)
{
    return u->proxy->scheme == TN_PROXY_SOCKS5 && u->relay != TN_RELAY_REFUSED && u->relay != TN_RELAY_FAILS;
}

bool tn_egress_has_ipv6(struct tn_egress *e, uint64_t peer)
{
    switch (e->policy->mode) {
    case TN_EGRESS_HOST: return tn_direct_has_ipv6(e);
    case TN_EGRESS_PROXY: return tn_policy_lets_out(e->policy, peer, true, that(e, does_ipv6), &e->peers);
    case TN_EGRESS_OFF: break;
    }
    return false;
}

bool tn_egress_has_udp(struct tn_egress *e, uint64_t peer)
{
    const struct tn_dgrams *g = &e->dgrams;
    if (e->policy->mode != TN_EGRESS_PROXY) return e->policy->mode == TN_EGRESS_HOST;
    if (!g->by_proxy) return false;
    return tn_policy_lets_out(e->policy, peer, false, that(e, may_relay), &e->peers);
}

bool tn_egress_by_peer(const struct tn_egress *e)
{
    const struct tn_egress_spec *s = e->policy->mode == TN_EGRESS_PROXY ? e->policy->spec : NULL;
    bool yes = s && s->nproxies > 1;
    for (size_t i = 0; s && i < s->nproxies; i++) yes |= s->proxies[i].proxy->templated;
    for (size_t i = 0; s && i < s->nrules; i++) yes |= s->rules[i].nfrom > 0;
    return yes;
}

enum tn_egress_mode tn_egress_mode(const struct tn_egress *e) { return e->policy->mode; }
const char *tn_egress_describe(const struct tn_egress *e, char buf[400])
{
    return tn_policy_describe(e->policy, buf);
}
int tn_egress_set_own(struct tn_egress *e, const struct tn_ip *addrs, size_t n)
{
    return tn_guard_set_own(&e->guard, addrs, n);
}

/* No destination: the endpoint of a proxy, of any policy that still has flows. */
bool tn_egress_is_proxy(const struct tn_egress *e, const struct tn_addrport *dst)
{
    TN_LIST_EACH(l, &e->upstreams)
        if (tn_upstream_is(TN_CONTAINER(l, struct tn_upstream, all), dst)) return true;
    return false;
}

static bool allowed(struct tn_egress *e, const struct tn_addrport *dst)
{
    return tn_guard_allows(&e->guard, dst, tn_egress_now()) && !tn_egress_is_proxy(e, dst);
}

bool tn_egress_allowed(struct tn_egress *e, const struct tn_addrport *dst) { return allowed(e, dst); }

/* What can be said without a socket: 0 or the refusal. */
static int refuse_early(struct tn_egress *e, const struct tn_egress_target *to)
{
    bool subnet = to->purpose == TN_EGRESS_SUBNET;
    if (e->closing || (!subnet && e->policy->mode == TN_EGRESS_OFF)) return TN_EGRESS_FAIL_OFF;
    if ((int)to->purpose == TN_EGRESS_PROBE) return 0;
    if (subnet ? !tn_subnet_allows(e, &to->dst) : !allowed(e, &to->dst)) return TN_EGRESS_FAIL_GUARD;
    return tn_limits_full(e, to->peer, to->purpose) ? TN_EGRESS_FAIL_LIMIT : 0;
}

/* Letters, digits, '-', '_' and dots between them: what a proxy may be told. */
static bool is_name(const char *name)
{
    size_t len = name ? strlen(name) : 0;
    if (len == 0 || len > TN_HANDSHAKE_NAME_MAX) return false;
    for (size_t i = 0; i < len; i++) {
        char c = name[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
        if (!letter && (c != '.' || i == 0 || name[i - 1] == '.')) return false;
    }
    return true;
}

static uint64_t candidates(const struct tn_egress *e, const struct tn_egress_target *to)
{
    struct tn_rule_subject s = {.dst = &to->dst, .name = to->name, .peer = to->peer};
    for (size_t i = 0; to->via && i < e->policy->spec->nproxies; i++)
        if (!strcmp(e->policy->spec->proxies[i].name, to->via)) return (uint64_t)1 << i;
    return to->via ? 0 : tn_policy_candidates(e->policy, &s, to->purpose, &e->peers);
}

static struct tn_egress_conn *make_conn(struct tn_egress *e, const struct tn_egress_target *asked, int *why)
{
    struct tn_egress_target to = *asked;
    uint64_t set = 0;
    if (!is_name(to.name)) to.name = NULL;
    bool by_proxy = e->policy->mode == TN_EGRESS_PROXY && to.purpose != TN_EGRESS_SUBNET;
    if (by_proxy && !(set = candidates(e, &to))) {
        *why = TN_EGRESS_FAIL_RULE;
        return NULL;
    }
    struct tn_egress_conn *c = tn_conn_new(e, &to);
    if (c) c->dialing->candidates = set;
    else *why = TN_EGRESS_FAIL_FDS;
    return c;
}

static void count_refused(struct tn_egress *e, const struct tn_egress_target *to, enum tn_egress_fail why)
{
    struct tn_share *s = to->peer ? tn_share_find(e, to->peer) : NULL;
    if (s) s->refused++;
    if (!tn_purpose_is_own(to->purpose)) tn_egress_count_fail(e, why);
}

int tn_egress_dial(struct tn_egress *e, const struct tn_egress_target *to, const struct tn_egress_events *ev, void *arg,
                   struct tn_egress_conn **out)
{
    struct tn_egress_target real = tn_subnet_resolve(e, to);
    to = &real;
    int why = refuse_early(e, to);
    struct tn_egress_conn *c = why ? NULL : make_conn(e, to, &why);
    if (!c) {
        count_refused(e, to, (enum tn_egress_fail)why);
        return why;
    }
    c->ev = ev;
    c->arg = arg;
    if (tn_limits_take(e, c, to->peer) != 0) {
        c->purpose = TN_EGRESS_FORWARD; /* nothing was taken, nothing is to be given back */
        why = TN_EGRESS_FAIL_FDS;
    } else {
        if (!tn_purpose_is_own(to->purpose)) tn_probe_used(e);
        why = tn_dial_begin(c);
    }
    if (why) {
        tn_conn_bury(c, false);
        count_refused(e, to, (enum tn_egress_fail)why);
        tn_run_schedule(e);
        return why;
    }
    *out = c;
    tn_run_schedule(e);
    return 0;
}

void tn_egress_count_fail(struct tn_egress *e, enum tn_egress_fail why) { e->stats.failed[why]++; }

/* Is every flow that a rule lets out served by somebody? Without rules all proxies are one group. */
static enum tn_egress_fail health_of(const struct tn_policy *p, uint64_t set)
{
    enum tn_egress_fail worst = TN_EGRESS_OK;
    for (size_t i = 0; i < p->spec->nproxies; i++) {
        if (!(set & (uint64_t)1 << i)) continue;
        if (p->upstreams[i]->last_fail == TN_EGRESS_OK) return TN_EGRESS_OK;
        worst = p->upstreams[i]->last_fail;
    }
    return worst;
}

void tn_egress_stats(const struct tn_egress *e, struct tn_egress_stats *out)
{
    const struct tn_policy *p = e->policy;
    *out = e->stats;
    out->last_proxy_fail = TN_EGRESS_OK;
    if (p->mode != TN_EGRESS_PROXY) return;
    if (p->spec->nrules == 0) out->last_proxy_fail = health_of(p, UINT64_MAX);
    for (size_t i = 0; i < p->spec->nrules && !out->last_proxy_fail; i++) out->last_proxy_fail = health_of(p, p->rule_sets[i]);
}

static enum tn_egress_proxy_state state_of(const struct tn_upstream *u)
{
    switch (tn_breaker_says(&u->breaker, tn_egress_now())) {
    case TN_BREAKER_OPEN: return TN_EGRESS_PROXY_DOWN;
    case TN_BREAKER_TRIAL: return TN_EGRESS_PROXY_TRYING;
    case TN_BREAKER_CLOSED: break;
    }
    return u->tried ? TN_EGRESS_PROXY_UP : TN_EGRESS_PROXY_UNTRIED;
}

bool tn_egress_proxy_at(const struct tn_egress *e, size_t i, struct tn_egress_proxy_stats *out)
{
    const struct tn_policy *p = e->policy;
    if (p->mode != TN_EGRESS_PROXY || i >= p->spec->nproxies) return false;
    const struct tn_upstream *u = p->upstreams[i];
    const struct tn_egress_proxy *conf = &p->spec->proxies[i];
    *out = (struct tn_egress_proxy_stats){.name = conf->name, .group = conf->group, .proxy = u->proxy, .state = state_of(u),
                                          .weight = conf->weight ? conf->weight : 1, .flows = u->flows, .dials = u->dials,
                                          .last_fail = u->last_fail, .opened = u->opened, .bytes_up = u->bytes_up,
                                          .bytes_down = u->bytes_down, .latency_sum_us = u->latency_sum_us};
    memcpy(out->failed, u->failed, sizeof out->failed);
    memcpy(out->latency, u->latency, sizeof out->latency);
    return true;
}
