/* Is a proxy there? Asked by ourselves, so that no peer's dial has to find out.
 *
 *   a proxy that failed                when its breaker lets a trial through
 *   a proxy beside others, or watched  when it was not used for PROBE_US
 *   a proxy that took a request and was silent until the dial's end, and did nothing else since
 *                                      at once, and again until its breaker opens: it may have been the destination
 * Only while somebody uses the exit (a dial within IN_USE_US) or watches the proxies (tn_egress_watch): otherwise there is no
 * timer, and the next dial is the probe.
 * A probe connects, does TLS and shows its credentials; it names no destination. An HTTP proxy is asked for itself (connect.c). */
#include "egress/private.h"
#include "util/err.h"

#define PROBE_US 30000000ull
#define IN_USE_US 120000000ull
#define APART_US 1000000ull /* a probe may end as it begins, or say nothing: no descriptor is free, max_flows are open */

static void fire(struct tn_alarm *a);

static bool in_policy(const struct tn_upstream *u)
{
    const struct tn_policy *p = u->e->policy;
    for (size_t i = 0; p->mode == TN_EGRESS_PROXY && i < p->spec->nproxies; i++)
        if (p->upstreams[i] == u) return true;
    return false;
}

static bool is_of_use(const struct tn_egress *e, uint64_t now_us)
{
    return e->on_health || (e->used_us && now_us - e->used_us < IN_USE_US);
}

void tn_probe_schedule(struct tn_upstream *u)
{
    struct tn_egress *e = u->e;
    uint64_t now_us = tn_egress_now(), at_us = TN_NEVER;
    if (e->no_breaker || e->closing || u->probing) return;
    if (is_of_use(e, now_us) && in_policy(u)) {
        if (u->breaker.state != TN_BREAKER_CLOSED) at_us = u->breaker.until_us;
        else if (u->doubted) at_us = now_us;
        else if (e->policy->spec->nproxies > 1 || e->on_health) at_us = (u->ok_us ? u->ok_us : now_us) + PROBE_US;
    }
    if (u->probed_us && at_us < u->probed_us + APART_US) at_us = u->probed_us + APART_US;
    u->probe.fire = fire;
    if (at_us == TN_NEVER) tn_timer_stop(&e->timers, &u->probe.timer);
    else (void)tn_timer_arm(&e->timers, &u->probe.timer, at_us); /* without memory for it: a dial finds out */
}

/* A probe holds its proxy: a policy that comes meanwhile may be the last to let go of it. */
static void done(struct tn_upstream *u)
{
    u->probing = NULL;
    if (!tn_timer_armed(&u->probe.timer)) tn_probe_schedule(u);
    tn_upstream_unref(u);
}

static void on_open(void *arg, struct tn_egress_conn *c)
{
    tn_egress_close(c, false);
    done(arg);
}

static void on_fail(void *arg, enum tn_egress_fail why)
{
    struct tn_upstream *u = arg;
    bool by_it = why == TN_EGRESS_FAIL_PROXY_TIMEOUT || why == TN_EGRESS_FAIL_PROXY_CONNECT || why == TN_EGRESS_FAIL_PROXY_BIND ||
                 why == TN_EGRESS_FAIL_PROXY_TLS;
    u->doubted |= by_it && u->probing_doubted; /* once more, until the breaker has seen enough */
    done(u);
}

static const struct tn_egress_events events = {.on_open = on_open, .on_fail = on_fail};

static void fire(struct tn_alarm *a)
{
    struct tn_upstream *u = TN_CONTAINER(a, struct tn_upstream, probe);
    struct tn_egress *e = u->e;
    uint64_t now_us = tn_egress_now();
    bool due = u->breaker.state != TN_BREAKER_CLOSED ? tn_breaker_says(&u->breaker, now_us) == TN_BREAKER_TRIAL
                                                     : u->doubted || now_us - u->ok_us >= PROBE_US;
    if (u->probing || !in_policy(u)) return;
    if (!due || !is_of_use(e, now_us)) {
        tn_probe_schedule(u);
        return;
    }
    struct tn_egress_target to = {.purpose = (enum tn_egress_purpose)TN_EGRESS_PROBE, .via = u->name};
    u->refs++;
    u->probing_doubted = u->doubted;
    u->doubted = false; /* whatever comes of it, not twice for one reason */
    u->probed_us = now_us;
    /* on_fail never comes before this returns; a refusal at once is told by the return. */
    if (tn_egress_dial(e, &to, &events, u, &u->probing) != 0) {
        u->ok_us = u->breaker.state == TN_BREAKER_CLOSED ? now_us : u->ok_us; /* our own want: not again at once */
        done(u);
    }
}

void tn_probe_stop(struct tn_upstream *u) { tn_timer_stop(&u->e->timers, &u->probe.timer); }

void tn_probe_forget(struct tn_upstream *u)
{
    tn_probe_stop(u);
    if (!u->probing) return;
    u->probing = NULL;
    tn_upstream_unref(u);
}

void tn_probe_used(struct tn_egress *e)
{
    uint64_t now_us = tn_egress_now();
    bool woke = !e->used_us || now_us - e->used_us >= IN_USE_US;
    e->used_us = now_us;
    if (!woke) return;
    TN_LIST_EACH(l, &e->upstreams) tn_probe_schedule(TN_CONTAINER(l, struct tn_upstream, all));
}

bool tn_egress_usable(const struct tn_egress *e)
{
    const struct tn_policy *p = e->policy;
    for (size_t i = 0; p->mode == TN_EGRESS_PROXY && i < p->spec->nproxies; i++) /* without breakers nobody looks whether one is back */
        if (e->no_breaker || p->upstreams[i]->breaker.state == TN_BREAKER_CLOSED) return true;
    return false;
}

void tn_egress_watch(struct tn_egress *e, void (*on_health)(void *ctx), void *ctx)
{
    bool changed = !on_health != !e->on_health;
    e->on_health = on_health;
    e->health_ctx = ctx;
    if (!changed || e->closing) return;
    TN_LIST_EACH(l, &e->upstreams) tn_probe_schedule(TN_CONTAINER(l, struct tn_upstream, all));
    tn_run_schedule(e);
}
