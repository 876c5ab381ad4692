/* From the wish to the open connection: two phases with a total deadline each, however the far end spreads its bytes, and one
 * over all, the time in line and other proxies with it: nobody waits longer for a dial than for the two phases.
 *
 *   (wait       its turn in the peer's line, line.c)
 *   connect     name lookup of the proxy and all its addresses together (PROXY), or the destination (HOST)
 *   handshake   TLS with the proxy where it is https, SOCKS5 or HTTP CONNECT
 * What becomes of one that fails is proxied.c's to say; it is never another way than by a proxy of its policy. */
#include "egress/private.h"
#include "egress/socket.h"
#include "egress/template.h"
#include "util/err.h"

#include <stdlib.h>

enum {
    READ_CHUNK = 4096,   /* also what may have come early from the destination at most */
    READS_PER_STEP = 16, /* then others have their turn */
};

#define PROBE_WORDS_US 10000000ull /* what a proxy that is in order says to a probe takes no destination's time */
#define NO_IPV6_US 600000000ull /* a proxy that learns IPv6 is believed to have it after ten minutes, or when it took one */

static void wind(struct tn_egress_conn *c)
{
    struct tn_dialing *d = c->dialing;
    const struct tn_egress_limits *l = &c->e->limits;
    d->began_us = tn_egress_now();
    d->deadline_us = d->began_us + l->connect_timeout_us;
    d->end_us = d->deadline_us + l->handshake_timeout_us;
}

int tn_dial_begin(struct tn_egress_conn *c)
{
    wind(c);
    if (c->purpose == TN_EGRESS_SUBNET) return tn_subnet_begin(c);
    switch (c->e->policy->mode) {
    case TN_EGRESS_HOST: return tn_direct_begin(c);
    case TN_EGRESS_PROXY: return tn_proxied_begin(c);
    case TN_EGRESS_OFF: break;
    }
    return TN_EGRESS_FAIL_OFF;
}

static void late(struct tn_alarm *a) { tn_dial_timeout(TN_CONTAINER(a, struct tn_dialing, alarm)->conn); }

int tn_dial_arm(struct tn_egress_conn *c, uint64_t at_us)
{
    c->dialing->alarm.fire = late;
    return tn_timer_arm(&c->e->timers, &c->dialing->alarm.timer, at_us);
}

int tn_dial_attempt(struct tn_egress_conn *c, int fd, uint64_t deadline_us)
{
    c->fd = fd;
    c->ready = 0;
    c->careful = c->broken = false;
    if (tn_run_watch(c->e, fd, c) != 0 || tn_dial_arm(c, deadline_us) != 0) {
        tn_conn_close_fd(c, false);
        return TN_EGRESS_FAIL_FDS;
    }
    tn_conn_set_state(c, TN_CONN_CONNECTING);
    return 0;
}

void tn_dial_drop_attempt(struct tn_egress_conn *c)
{
    struct tn_dialing *d = c->dialing;
    tn_conn_close_fd(c, false);
    tn_secure_free(c);
    if (!d) return;
    tn_race_end(c);
    tn_timer_stop(&c->e->timers, &d->alarm.timer);
    tn_list_remove(&d->waiting);
    if (d->in_handshake) tn_handshake_fini(&d->handshake);
    d->in_handshake = false;
    tn_proxy_free(d->as);
    d->as = NULL;
    free(d->addrs);
    d->addrs = NULL;
    d->naddrs = d->next = 0;
}

/* The connection stays as it is: what only the dial needed goes. */
void tn_dial_dispose(struct tn_egress_conn *c)
{
    struct tn_dialing *d = c->dialing;
    if (!d) return;
    tn_race_end(c);
    tn_timer_stop(&c->e->timers, &d->alarm.timer);
    tn_list_remove(&d->waiting);
    if (d->in_handshake) tn_handshake_fini(&d->handshake);
    tn_proxy_free(d->as);
    tn_policy_unref(c->e, d->policy);
    free(d->name);
    free(d->addrs);
    free(d);
    c->dialing = NULL;
}

void tn_dial_failed(struct tn_egress_conn *c, enum tn_egress_fail why)
{
    int end = tn_proxied_failed(c, why);
    if (end) tn_conn_fail(c, (enum tn_egress_fail)end);
}

/* The address under way is not to be had. err: negative errno. */
static void attempt_failed(struct tn_egress_conn *c, int err)
{
    tn_conn_close_fd(c, false);
    int why = c->dialing->addrs ? tn_proxied_next(c) : (int)tn_direct_fail_of(err);
    if (why) tn_dial_failed(c, (enum tn_egress_fail)why);
}

/* The one under way had its time alone, or all of the dial's. */
static void next_address(struct tn_egress_conn *c)
{
    if (c->dialing->addrs) tn_race_leave(c);
    attempt_failed(c, TN_E_TIMEDOUT);
}

static void handshake_step(struct tn_egress_conn *c);

/* Whose credentials: the proxy's as set, or this peer's own. */
static const struct tn_proxy *credentials(struct tn_egress_conn *c)
{
    struct tn_egress *e = c->e;
    struct tn_dialing *d = c->dialing;
    if (!c->up->proxy->templated) return c->up->proxy;
    const struct tn_share *s = tn_share_find(e, d->peer);
    uint64_t user = e->peers.user && d->peer ? e->peers.user(e->peers.ctx, d->peer) : 0;
    struct tn_template_who who = {.peer = d->peer, .user = user, .peer_epoch = s ? s->epoch : 0, .epoch = e->epoch};
    return d->as = tn_template_fill(c->up->proxy, &e->key, &who);
}

static bool is_told_names(const struct tn_egress_conn *c)
{
    const struct tn_policy *p = c->dialing->policy;
    for (size_t i = 0; i < p->spec->nproxies; i++)
        if (p->upstreams[i] == c->up) return p->spec->proxies[i].names;
    return false;
}

/* The way to the proxy stands: the words that go over it. False when the dial failed. */
static bool begin_words(struct tn_egress_conn *c)
{
    struct tn_dialing *d = c->dialing;
    const struct tn_addrport *dst = c->purpose == TN_EGRESS_PROBE ? NULL : &d->dst;
    const struct tn_proxy *as = credentials(c);
    const char *name = is_told_names(c) ? d->name : NULL;
    int err = !as ? TN_E_NOMEM : d->bound ? tn_handshake_init_associate(&d->handshake, as)
                                          : tn_handshake_init(&d->handshake, as, dst, name);
    if (err) {
        tn_dial_failed(c, TN_EGRESS_FAIL_FDS);
        return false;
    }
    return d->in_handshake = true;
}

static void connected(struct tn_egress_conn *c)
{
    struct tn_dialing *d = c->dialing;
    if (!d->addrs) {
        tn_conn_opened(c);
        return;
    }
    tn_upstream_prefer(c->up, &d->addrs[d->at]);
    uint64_t limit_us = c->e->limits.handshake_timeout_us;
    if (c->purpose == TN_EGRESS_PROBE && limit_us > PROBE_WORDS_US) limit_us = PROBE_WORDS_US;
    d->deadline_us = tn_egress_now() + limit_us;
    if (d->deadline_us > d->end_us) {
        d->deadline_us = d->end_us;
        d->hurried = true;
    }
    (void)tn_dial_arm(c, d->deadline_us); /* armed already: moving it can't fail */
    tn_conn_set_state(c, TN_CONN_HANDSHAKE);
    int why = c->up->proxy->tls ? tn_secure_begin(c) : 0;
    if (why) tn_dial_failed(c, (enum tn_egress_fail)why);
    else handshake_step(c);
}

/* False when the connection failed. */
static bool send_output(struct tn_egress_conn *c)
{
    size_t len;
    const uint8_t *bytes = tn_handshake_output(&c->dialing->handshake, &len);
    if (len == 0) return true;
    struct iovec iov = {(void *)bytes, len};
    long n = c->secure ? tn_secure_writev(c, &iov, 1) : tn_socket_writev(c->fd, &iov, 1);
    if (n == TN_E_AGAIN) return true;
    if (n < 0) {
        tn_dial_failed(c, TN_EGRESS_FAIL_PROXY_CLOSED);
        return false;
    }
    tn_handshake_sent(&c->dialing->handshake, (size_t)n);
    return true;
}

static int keep_early(struct tn_egress_conn *c, const uint8_t *bytes, size_t len)
{
    if (len == 0) return 0;
    c->early = malloc(len);
    if (!c->early) return TN_E_NOMEM;
    memcpy(c->early, bytes, len);
    c->early_len = (uint32_t)len;
    return 0;
}

/* What this outcome says of the proxy and IPv6. A verdict that a destination can't cause. */
static void note_ipv6(struct tn_egress_conn *c, bool worked)
{
    const struct tn_dialing *d = c->dialing;
    if (worked && d->dst.ip.family == 6 && !d->bound && c->purpose != TN_EGRESS_PROBE) c->up->no_ipv6_until_us = 0;
    else if (!worked && tn_handshake_no_ipv6(&d->handshake)) c->up->no_ipv6_until_us = tn_egress_now() + NO_IPV6_US;
}

/* True when there is more to do right now. */
static bool take_input(struct tn_egress_conn *c, const uint8_t *bytes, size_t len)
{
    size_t used;
    int r = tn_handshake_input(&c->dialing->handshake, bytes, len, &used);
    if (r == TN_HANDSHAKE_MORE) return true;
    note_ipv6(c, r == TN_HANDSHAKE_DONE);
    if (r == TN_HANDSHAKE_DONE && c->dialing->bound) tn_handshake_bound(&c->dialing->handshake, c->dialing->bound);
    if (r == TN_HANDSHAKE_DONE && keep_early(c, bytes + used, len - used) == 0) {
        tn_upstream_worked(c->up);
        tn_conn_opened(c);
    } else {
        tn_dial_failed(c, r == TN_HANDSHAKE_DONE ? TN_EGRESS_FAIL_FDS : (enum tn_egress_fail)r);
    }
    return false;
}

/* An HTTP proxy that does not know a probe's question, and hangs up on it: it is there. */
static bool is_mute_answer(const struct tn_egress_conn *c)
{
    return c->purpose == TN_EGRESS_PROBE && c->up->proxy->scheme == TN_PROXY_HTTP;
}

static void probe_answered(struct tn_egress_conn *c)
{
    tn_upstream_worked(c->up);
    tn_conn_opened(c);
}

static void handshake_step(struct tn_egress_conn *c)
{
    uint8_t chunk[READ_CHUNK];
    struct iovec iov = {chunk, sizeof chunk};
    if (c->secure) {
        int r = tn_secure_handshake(c);
        if (r == TN_E_AGAIN) return;
        if (r) {
            tn_dial_failed(c, r == TN_E_RESET ? TN_EGRESS_FAIL_PROXY_CLOSED : TN_EGRESS_FAIL_PROXY_TLS);
            return;
        }
    }
    if (!c->dialing->in_handshake && !begin_words(c)) return;
    for (int i = 0; i < READS_PER_STEP; i++) {
        if (!send_output(c)) return;
        long n = c->secure ? tn_secure_readv(c, &iov, 1) : tn_socket_readv(c->fd, &iov, 1);
        if (n == TN_E_AGAIN) {
            c->ready &= ~TN_EGRESS_WANT_READ;
            return;
        }
        if (n <= 0) {
            if (is_mute_answer(c)) probe_answered(c);
            else tn_dial_failed(c, TN_EGRESS_FAIL_PROXY_CLOSED);
            return;
        }
        /* What is left in the socket makes no new edge: the connection opens as readable and finds out. */
        c->ready |= TN_EGRESS_WANT_READ;
        if (!take_input(c, chunk, (size_t)n)) return;
    }
    tn_run_queue(c);
}

void tn_dial_step(struct tn_egress_conn *c)
{
    if (c->state == TN_CONN_WAITING) {
        int why = tn_proxied_turn(c);
        if (why) tn_conn_fail(c, (enum tn_egress_fail)why);
        return;
    }
    if (c->state == TN_CONN_HANDSHAKE) {
        handshake_step(c);
        return;
    }
    if (c->dialing->addrs) { /* whatever was noted may be of an earlier look */
        int lost = tn_race_look(c);
        if (lost == 0) connected(c);
        else if (lost != TN_E_AGAIN) attempt_failed(c, lost);
        return;
    }
    if (!c->ready) return;
    int err = tn_socket_error(c->fd);
    if (err) attempt_failed(c, err);
    else if (c->ready & TN_EGRESS_WANT_WRITE) connected(c);
}

void tn_dial_timeout(struct tn_egress_conn *c)
{
    switch ((enum tn_conn_state)c->state) {
    case TN_CONN_WAITING: tn_conn_fail(c, TN_EGRESS_FAIL_LIMIT); return;
    case TN_CONN_RESOLVING: tn_dial_failed(c, TN_EGRESS_FAIL_PROXY_NAME); return;
    case TN_CONN_CONNECTING: next_address(c); return;
    case TN_CONN_HANDSHAKE: tn_dial_failed(c, TN_EGRESS_FAIL_PROXY_TIMEOUT); return;
    case TN_CONN_NEW:
    case TN_CONN_OPEN:
    case TN_CONN_FAILED:
    case TN_CONN_DRAINING:
    case TN_CONN_CLOSED: return;
    }
}
