/* The room's front door: configuration, the refusals that need no socket, and the figures. */
#include "egress/private.h"
#include "util/err.h"

#include <stdlib.h>

#define CONNECT_TIMEOUT_US 10000000ull
#define HANDSHAKE_TIMEOUT_US 20000000ull
#define HEALTH_LOG_US 10000000ull /* a proxy that flaps writes a line per 10 s at most */

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
    tn_policy_init(&e->policy);
    tn_guard_init(&e->guard);
    tn_upstream_init(&e->upstream);
    tn_heap_init(&e->timers);
    tn_htable_init(&e->shares);
    tn_list_init(&e->conns);
    tn_list_init(&e->run);
    tn_list_init(&e->graveyard);
    tn_dgrams_init(e);
    int err = tn_run_init(e);
    if (err) {
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
    tn_upstream_set(&e->upstream, NULL);
    tn_policy_fini(&e->policy);
    tn_guard_fini(&e->guard);
    tn_heap_fini(&e->timers);
    tn_htable_fini(&e->shares);
    tn_run_fini(e);
}

/* Dials belong to the policy under which they began: none may go on under another. */
static void cancel_dials(struct tn_egress *e)
{
    TN_LIST_EACH(n, &e->conns) {
        struct tn_egress_conn *c = TN_CONTAINER(n, struct tn_egress_conn, all);
        if (c->state < TN_CONN_OPEN) tn_conn_fail(c, TN_EGRESS_FAIL_CANCELED);
    }
}

int tn_egress_set_policy(struct tn_egress *e, enum tn_egress_mode mode, struct tn_proxy *proxy)
{
    char line[400];
    if (e->closing) {
        tn_proxy_free(proxy);
        return TN_E_CLOSED;
    }
    cancel_dials(e);
    e->stats.last_proxy_fail = TN_EGRESS_OK;
    int err = tn_policy_set(&e->policy, mode, proxy);
    tn_upstream_set(&e->upstream, e->policy.proxy);
    tn_dgrams_policy_changed(e);
    tn_logf(e->log, err ? TN_LOG_WARN : TN_LOG_INFO, "egress", "%s", tn_policy_describe(&e->policy, line));
    tn_run_schedule(e);
    return err;
}

enum tn_egress_mode tn_egress_mode(const struct tn_egress *e) { return e->policy.mode; }
const char *tn_egress_describe(const struct tn_egress *e, char buf[400])
{
    return tn_policy_describe(&e->policy, buf);
}
int tn_egress_set_own(struct tn_egress *e, const struct tn_ip *addrs, size_t n)
{
    return tn_guard_set_own(&e->guard, addrs, n);
}

static bool allowed(struct tn_egress *e, const struct tn_addrport *dst)
{
    return tn_guard_allows(&e->guard, dst, tn_egress_now()) && !tn_upstream_is(&e->upstream, dst);
}

bool tn_egress_allowed(struct tn_egress *e, const struct tn_addrport *dst) { return allowed(e, dst); }

/* What can be said without a socket: 0 or the refusal. */
static int refuse_early(struct tn_egress *e, const struct tn_egress_target *to)
{
    if (e->closing || e->policy.mode == TN_EGRESS_OFF || to->purpose == TN_EGRESS_SUBNET) return TN_EGRESS_FAIL_OFF;
    if (!allowed(e, &to->dst)) return TN_EGRESS_FAIL_GUARD;
    return tn_limits_full(e, to->peer, to->purpose) ? TN_EGRESS_FAIL_LIMIT : 0;
}

int tn_egress_dial(struct tn_egress *e, const struct tn_egress_target *to, const struct tn_egress_events *ev, void *arg,
                   struct tn_egress_conn **out)
{
    int why = refuse_early(e, to);
    struct tn_egress_conn *c = why ? NULL : tn_conn_new(e, &to->dst);
    if (!c) {
        if (!why) why = TN_EGRESS_FAIL_FDS;
        tn_egress_count_fail(e, (enum tn_egress_fail)why);
        return why;
    }
    c->ev = ev;
    c->arg = arg;
    c->purpose = (uint8_t)to->purpose;
    if (tn_limits_take(e, c, to->peer) != 0) {
        c->purpose = TN_EGRESS_FORWARD; /* nothing was taken, nothing is to be given back */
        why = TN_EGRESS_FAIL_FDS;
    } else {
        why = tn_dial_begin(c);
    }
    if (why) {
        tn_egress_count_fail(e, (enum tn_egress_fail)why);
        tn_conn_bury(c, false);
        return why;
    }
    *out = c;
    tn_run_schedule(e);
    return 0;
}

/* Failures that speak about the proxy, not about one destination. */
static bool is_about_proxy(enum tn_egress_fail why)
{
    switch (why) {
    case TN_EGRESS_FAIL_PROXY_CONNECT:
    case TN_EGRESS_FAIL_PROXY_TIMEOUT:
    case TN_EGRESS_FAIL_PROXY_AUTH:
    case TN_EGRESS_FAIL_PROXY_PROTOCOL:
    case TN_EGRESS_FAIL_PROXY_CLOSED:
    case TN_EGRESS_FAIL_PROXY_NAME: return true;
    default: return false;
    }
}

static void set_health(struct tn_egress *e, enum tn_egress_fail why)
{
    enum tn_egress_fail before = e->stats.last_proxy_fail;
    e->stats.last_proxy_fail = why;
    uint64_t now_us = tn_egress_now();
    if (why == before || (e->health_logged_us && now_us - e->health_logged_us < HEALTH_LOG_US)) return;
    e->health_logged_us = now_us;
    if (why) tn_logf(e->log, TN_LOG_WARN, "egress", "exit proxy: %s", tn_egress_fail_text(why));
    else tn_logf(e->log, TN_LOG_INFO, "egress", "exit proxy works again");
}

void tn_egress_healthy(struct tn_egress *e) { set_health(e, TN_EGRESS_OK); }

void tn_egress_count_fail(struct tn_egress *e, enum tn_egress_fail why)
{
    e->stats.failed[why]++;
    if (e->policy.mode != TN_EGRESS_PROXY) return;
    if (is_about_proxy(why)) set_health(e, why);
    /* A verdict about the destination comes from a proxy that works. */
    else if (why == TN_EGRESS_FAIL_REFUSED || why == TN_EGRESS_FAIL_UNREACHABLE || why == TN_EGRESS_FAIL_TIMEOUT)
        set_health(e, TN_EGRESS_OK);
}

void tn_egress_stats(const struct tn_egress *e, struct tn_egress_stats *out) { *out = e->stats; }
