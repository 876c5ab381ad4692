/* PROXY mode: only the addresses of the policy's proxies are dialed.
 *
 * A dial takes the proxy that route.c chooses. When that can't be had, or fails before it said anything about the
 * destination, another one is tried, TRIES_MAX in all: nothing of the peer's has been sent to anybody by then. Not after a
 * verdict about the destination, which another proxy would only repeat, and not when credentials were refused: those are
 * not shown around.
 *
 * What a proxy is blamed for must not be of a peer's making: a destination that makes a proxy hang up costs that dial, not
 * the proxy (`counts`), and so does a dial that came to it with no time left (`hurried`), be it from its peer's line.
 *
 * A proxy's addresses are tried in the resolver's order, families in turn, the last one that worked first, side by side with a
 * head start (race.c), so that one that leads nowhere costs little, and only once. Where another proxy could be asked, one that
 * does not answer has less time. */
#include "egress/private.h"
#include "egress/socket.h"
#include "egress/template.h"
#include "util/err.h"

#include <stdlib.h>

enum { TRIES_MAX = 3, RESTARTS_MAX = 4 };
#define STAGGER_US 250000ull /* RFC 8305 section 5 */
#define NO_PORT_US 100000ull /* the kernel looks at each of 28,000 before it says so */
#define CONNECT_OTHERS_US 3000000ull /* a proxy that needs longer for a TCP handshake is no use beside one that works */

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

static void attach(struct tn_egress_conn *c, int i)
{
    struct tn_dialing *d = c->dialing;
    uint64_t now_us = tn_egress_now(), limit_us = c->e->limits.connect_timeout_us;
    c->up = d->policy->upstreams[i];
    c->up->refs++;
    c->up->dials++;
    d->tried |= (uint64_t)1 << i;
    d->tries++;
    if (d->candidates & ~d->tried && d->tries < TRIES_MAX) limit_us = least(limit_us, CONNECT_OTHERS_US);
    d->deadline_us = least(now_us + limit_us, d->end_us);
    d->hurried = now_us + limit_us > d->end_us;
}

void tn_proxied_detach(struct tn_egress_conn *c)
{
    struct tn_upstream *u = c->up;
    if (!u) return;
    c->up = NULL;
    if (!c->dialing) {
        u->flows--;
    } else {
        u->dials--;
        if (c->dialing->trial && u->breaker.state == TN_BREAKER_TRIAL) u->breaker.until_us = 0; /* nobody knows: the next one */
    }
    tn_upstream_unref(u);
}

/* What may be asked of its own proxy: the guard once more, now that its addresses are known. */
int tn_proxied_connect(struct tn_egress_conn *c)
{
    struct tn_upstream *u = c->up;
    struct tn_dialing *d = c->dialing;
    if (tn_upstream_is(u, &d->dst)) return TN_EGRESS_FAIL_GUARD;
    d->addrs = malloc(u->count * sizeof *d->addrs);
    if (!d->addrs) return TN_EGRESS_FAIL_FDS;
    memcpy(d->addrs, u->addrs, u->count * sizeof *d->addrs);
    d->naddrs = u->count;
    d->next = d->at = 0;
    d->no_port = false;
    return tn_proxied_next(c);
}

static int begin_on(struct tn_egress_conn *c)
{
    struct tn_upstream *u = c->up;
    int err = tn_upstream_lookup(u);
    if (err) return err == TN_E_DNS ? TN_EGRESS_FAIL_PROXY_NAME : TN_EGRESS_FAIL_FDS;
    if (u->count > 0) return tn_proxied_connect(c);
    if (tn_dial_arm(c, c->dialing->deadline_us) != 0) return TN_EGRESS_FAIL_FDS;
    tn_list_push_back(&u->waiting, &c->dialing->waiting);
    tn_conn_set_state(c, TN_CONN_RESOLVING);
    return 0;
}

static void count_failed(struct tn_egress_conn *c, enum tn_egress_fail why)
{
    if (!tn_purpose_is_own(c->purpose)) c->up->failed[why]++;
}

/* Its kind: about the proxy, and whether somebody else may be asked. */
static void judge(enum tn_egress_fail why, bool asked, bool *counts, bool *about_proxy, bool *elsewhere)
{
    *counts = *about_proxy = *elsewhere = false;
    switch (why) {
    case TN_EGRESS_FAIL_PORTS: *elsewhere = true; return; /* each address has ports of its own */
    case TN_EGRESS_FAIL_PROXY_CONNECT:
    case TN_EGRESS_FAIL_PROXY_BIND:
    case TN_EGRESS_FAIL_PROXY_NAME:
    case TN_EGRESS_FAIL_PROXY_TLS: *counts = *about_proxy = *elsewhere = true; return;
    case TN_EGRESS_FAIL_PROXY_AUTH: *counts = *about_proxy = true; return;
    case TN_EGRESS_FAIL_PROXY_PROTOCOL:
    case TN_EGRESS_FAIL_PROXY_CLOSED:
        *about_proxy = *elsewhere = true;
        *counts = !asked;
        return;
    case TN_EGRESS_FAIL_PROXY_TIMEOUT:
        *about_proxy = true;
        *counts = *elsewhere = !asked;
        return;
    default: return;
    }
}

/* The next proxy, and the next, until one is being asked. first: what to say when there is none (OK: what route.c says). */
static int begin_any(struct tn_egress_conn *c, enum tn_egress_fail first)
{
    struct tn_dialing *d = c->dialing;
    while (d->tries < TRIES_MAX && tn_egress_now() < d->end_us) {
        enum tn_egress_fail none;
        int i = tn_route_choose(c->e, d, &none);
        if (i < 0) return first ? first : none ? none : TN_EGRESS_FAIL_PROXY_DOWN;
        attach(c, i);
        int why = begin_on(c);
        if (why == 0) return 0;
        bool counts, about_proxy, elsewhere;
        judge((enum tn_egress_fail)why, false, &counts, &about_proxy, &elsewhere);
        if (!elsewhere) return why;
        count_failed(c, (enum tn_egress_fail)why);
        if (about_proxy) tn_upstream_failed(c->up, (enum tn_egress_fail)why, counts);
        if (counts) d->trial = false;
        if (why == TN_EGRESS_FAIL_PORTS) d->tries--; /* it was not asked */
        tn_dial_drop_attempt(c);
        tn_proxied_detach(c);
        first = (enum tn_egress_fail)why;
    }
    return first ? first : TN_EGRESS_FAIL_PROXY_TIMEOUT;
}

int tn_proxied_begin(struct tn_egress_conn *c)
{
    if (c->dialing->policy->mode != TN_EGRESS_PROXY || c->e->policy->mode != TN_EGRESS_PROXY) return TN_EGRESS_FAIL_OFF;
    return tn_line_may_ask(c) ? begin_any(c, TN_EGRESS_OK) : tn_line_wait(c);
}

int tn_proxied_turn(struct tn_egress_conn *c)
{
    c->dialing->began_us = tn_egress_now(); /* the line is no proxy's latency */
    if (c->dialing->began_us >= c->dialing->end_us) return TN_EGRESS_FAIL_LIMIT;
    return begin_any(c, TN_EGRESS_OK);
}

static int connect_to(struct tn_egress_conn *c, const struct tn_addrport *to, uint64_t now_us)
{
    struct tn_upstream *u = c->up;
    if (now_us < u->no_port_until_us && tn_addrport_eq(to, &u->no_port_for)) return -EADDRNOTAVAIL;
    int fd = tn_socket_connect(to, c->e->mark, &u->proxy->bind);
    if (fd != -EADDRNOTAVAIL) return fd;
    u->no_port_until_us = now_us + NO_PORT_US;
    u->no_port_for = *to;
    return fd;
}

int tn_proxied_next(struct tn_egress_conn *c)
{
    struct tn_dialing *d = c->dialing;
    uint64_t now_us = tn_egress_now();
    /* No address of it can be asked from where it is to be asked. */
    bool unbound = d->next == 0 && now_us < d->deadline_us;
    int why = 0;
    while (d->next < d->naddrs && now_us < d->deadline_us) {
        bool last = d->next + 1 == d->naddrs;
        d->at = d->next++;
        int fd = connect_to(c, &d->addrs[d->at], now_us);
        if (fd >= 0) return tn_dial_attempt(c, fd, last ? d->deadline_us : least(now_us + STAGGER_US, d->deadline_us));
        d->no_port |= fd == -EADDRNOTAVAIL;
        unbound &= fd == TN_E_UNSUPPORTED;
        if (tn_direct_fail_of(fd) != TN_EGRESS_FAIL_FDS) continue;
        why = TN_EGRESS_FAIL_FDS;
        break;
    }
    if (!why) why = d->no_port ? TN_EGRESS_FAIL_PORTS : unbound ? TN_EGRESS_FAIL_PROXY_BIND : TN_EGRESS_FAIL_PROXY_CONNECT;
    /* Those that are under way may still do. */
    if (now_us >= d->deadline_us || !tn_race_take_back(c)) return why;
    return tn_dial_arm(c, d->deadline_us) == 0 ? 0 : TN_EGRESS_FAIL_FDS;
}

static bool is_verdict(enum tn_egress_fail why)
{
    return why == TN_EGRESS_FAIL_REFUSED || why == TN_EGRESS_FAIL_UNREACHABLE || why == TN_EGRESS_FAIL_TIMEOUT ||
           why == TN_EGRESS_FAIL_PROXY_REFUSED;
}

int tn_proxied_failed(struct tn_egress_conn *c, enum tn_egress_fail why)
{
    struct tn_dialing *d = c->dialing;
    bool asked = d->in_handshake && tn_handshake_asked(&d->handshake) && c->purpose != TN_EGRESS_PROBE;
    bool counts, about_proxy, elsewhere;
    tn_dial_drop_attempt(c);
    if (!c->up) return why;
    judge(why, asked, &counts, &about_proxy, &elsewhere);
    if (d->hurried && tn_egress_now() >= d->deadline_us) counts = about_proxy = false;
    if (d->bound) tn_relay_failed(c->up, why);
    count_failed(c, why);
    if (c->purpose == TN_EGRESS_CHECK) about_proxy = counts; /* its page is one destination among many */
    if (about_proxy && !counts && why == TN_EGRESS_FAIL_PROXY_TIMEOUT && c->up->ok_us < d->began_us) c->up->doubted = true;
    if (about_proxy) tn_upstream_failed(c->up, why, counts);
    else if (is_verdict(why)) tn_upstream_worked(c->up); /* a verdict about the destination comes from a proxy that works */
    if (counts || is_verdict(why)) d->trial = false;
    tn_proxied_detach(c);
    if (why == TN_EGRESS_FAIL_PORTS) d->tries--;
    return elsewhere ? begin_any(c, why) : (int)why;
}

int tn_proxied_restart(struct tn_egress_conn *c, struct tn_policy *policy)
{
    struct tn_dialing *d = c->dialing;
    struct tn_rule_subject s = {.dst = &d->dst, .name = d->name, .peer = d->peer};
    bool fixed = c->purpose == TN_EGRESS_CHECK; /* by this proxy, whatever the rules say, or not at all */
    uint64_t candidates = fixed ? UINT64_MAX : tn_policy_candidates(policy, &s, c->purpose, &c->e->peers), same = 0;
    for (size_t i = 0; c->up && i < policy->spec->nproxies; i++)
        if (policy->upstreams[i] == c->up) same |= candidates & (uint64_t)1 << i;
    if (fixed) candidates = same;
    struct tn_policy *old = d->policy;
    d->policy = tn_policy_ref(policy);
    tn_policy_unref(c->e, old);
    d->candidates = candidates;
    d->tried = same;
    if (same) return 0; /* it is where it would go anyway */
    if (c->state == TN_CONN_WAITING) return candidates ? 0 : TN_EGRESS_FAIL_RULE;
    tn_dial_drop_attempt(c);
    tn_proxied_detach(c);
    d->tries = 0;
    if (fixed) return TN_EGRESS_FAIL_CANCELED;
    if (candidates == 0) return TN_EGRESS_FAIL_RULE;
    if (++d->restarts > RESTARTS_MAX) return TN_EGRESS_FAIL_CANCELED;
    return begin_any(c, TN_EGRESS_OK);
}
