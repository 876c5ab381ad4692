/* PROXY mode: datagrams by the proxy's UDP ASSOCIATE (RFC 1928 section 7), if the owner has switched that on.
 *
 *   control   a connection through the same policy as any flow; it asks for an association, hears where the relay is, and
 *             then has one meaning only: when it ends, and whatever else is said on it, the association is over
 *   relay     a UDP socket that hears the relay only; in front of each datagram stands whom it is for or from
 *
 * A peer has one association (for each set of proxies that the rules give its destinations). A second one (up to PER_PEER) is made when two of its sources talk to the same destination,
 * since a relay's datagrams do not tell for which source they are. When none is left the older source's flow ends.
 *
 * What a proxy may not do by its answers: name a relay elsewhere than where it itself is (it would have us send peers' bytes to
 * third parties, and hear them), or speak for a destination that was not asked.
 *
 * Whether a proxy does this at all is found out when the policy is set, by an association of nobody, and again by use: after
 * a refusal it is not asked for REFUSED_US, after another failure for RETRY_US, and peers who have no other get port unreachable at
 * once. What has its cause in a peer (its limits, its line) is no failure of the proxy's: others' datagrams have their way. */
#include "egress/private.h"
#include "egress/socket.h"
#include "util/err.h"
#include "wire/socks5udp.h"

#include <stdlib.h>

enum {
    PER_PEER = 4,           /* relays run out of ports: a reseller's gateway has a few thousand */
    WAITING_MAX = 32,       /* datagrams that wait for the association: the first flights of a browser's connections */
    WAITING_BYTES = 64 * 1024,
    DRAIN = 256,
};
#define REFUSED_US 60000000ull
#define RETRY_US 1000000ull

struct waiting {
    struct tn_list link;
    struct tn_addrport to;
    size_t len;
    uint8_t bytes[];
};

struct tn_assoc {
    struct tn_chan *chan;
    struct tn_list mine; /* tn_dpeer.assocs */
    struct tn_egress_conn *control;
    struct tn_addrport bound; /* what the proxy said; then the relay */
    uint64_t set;             /* the proxies of its policy that its destinations may go by */
    struct tn_list waiting;
    unsigned nwaiting;
    size_t waiting_bytes;
    bool open, stale, probe; /* stale: of an earlier policy, or ending; for the flows it has */
};

/* ---- the control connection ---- */

void tn_relay_failed(struct tn_upstream *u, enum tn_egress_fail why)
{
    bool refused = why == TN_EGRESS_FAIL_PROXY_REFUSED;
    if (why == TN_EGRESS_FAIL_FDS || why == TN_EGRESS_FAIL_PORTS) return; /* it was not the proxy */
    u->relay = refused ? TN_RELAY_REFUSED : TN_RELAY_FAILS;
    u->relay_retry_us = tn_egress_now() + (refused ? REFUSED_US : RETRY_US);
}

static void on_fail(void *arg, enum tn_egress_fail why)
{
    struct tn_assoc *a = arg;
    a->control = NULL;
    tn_chan_end(a->chan, why);
}

static struct tn_ip unmapped(struct tn_ip ip)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    return ip.family == 6 && memcmp(ip.b, mapped, 12) == 0 ? tn_ip_from_bytes(ip.b + 12, 4) : ip;
}

static bool unspecified(const struct tn_ip *ip)
{
    static const uint8_t zero[16];
    return memcmp(ip->b, zero, sizeof zero) == 0;
}

/* The relay by the proxy's word: at its own address, or at "any", which means there. */
static bool place_relay(const struct tn_addrport *proxy, struct tn_addrport *bound)
{
    struct tn_ip said = unmapped(bound->ip), known = unmapped(proxy->ip);
    bool there = said.family != 0 && (unspecified(&bound->ip) || tn_ip_eq(&said, &known));
    bound->ip = proxy->ip;
    return there && bound->port != 0;
}

static void send_waiting(struct tn_assoc *a)
{
    for (struct tn_list *l; (l = tn_list_pop_front(&a->waiting));) {
        struct waiting *w = TN_CONTAINER(l, struct waiting, link);
        tn_assoc_send(a->chan, &w->to, w->bytes, w->len);
        free(w);
    }
    a->nwaiting = 0;
    a->waiting_bytes = 0;
}

static int open_relay(struct tn_assoc *a)
{
    struct tn_addrport proxy;
    if (tn_socket_peer(a->control->fd, &proxy) != 0) return TN_EGRESS_FAIL_PROXY_CLOSED;
    if (!place_relay(&proxy, &a->bound)) return TN_EGRESS_FAIL_PROXY_PROTOCOL;
    int fd = tn_dgramsock_connected(&a->bound, a->chan->e->mark, &a->control->up->proxy->bind);
    return fd < 0 ? TN_EGRESS_FAIL_FDS : tn_chan_take_fd(a->chan, fd);
}

static void on_open(void *arg, struct tn_egress_conn *control)
{
    struct tn_assoc *a = arg;
    struct tn_egress *e = a->chan->e;
    int why = open_relay(a);
    if (why) {
        tn_egress_count_fail(e, (enum tn_egress_fail)why);
        tn_relay_failed(control->up, (enum tn_egress_fail)why);
        tn_chan_end(a->chan, (enum tn_egress_fail)why);
        return;
    }
    control->up->relay = TN_RELAY_WORKS;
    control->up->relay_retry_us = 0;
    if (a->probe) {
        tn_chan_end(a->chan, TN_EGRESS_OK);
        return;
    }
    a->open = true;
    e->dgrams.stats.associations++;
    tn_egress_want(control, TN_EGRESS_WANT_READ);
    send_waiting(a);
}

/* Bytes, an end or a reset: all the same. */
static void on_readable(void *arg, struct tn_egress_conn *control)
{
    struct tn_assoc *a = arg;
    uint8_t bytes[DRAIN];
    struct iovec iov = {bytes, sizeof bytes};
    long n = tn_egress_readv(control, &iov, 1);
    if (n == TN_E_AGAIN) return;
    tn_chan_end(a->chan, n > 0 ? TN_EGRESS_FAIL_PROXY_PROTOCOL : TN_EGRESS_FAIL_PROXY_CLOSED);
}

static void on_writable(void *arg, struct tn_egress_conn *control) {}
static void on_error(void *arg, struct tn_egress_conn *control, int err)
{
    struct tn_assoc *a = arg;
    tn_chan_end(a->chan, TN_EGRESS_FAIL_PROXY_CLOSED);
}

static const struct tn_egress_events control_events = {.on_open = on_open, .on_fail = on_fail, .on_readable = on_readable,
                                                       .on_writable = on_writable, .on_error = on_error};

/* As tn_egress_dial, but for the proxy alone: there is no destination to guard. */
static int dial_control(struct tn_assoc *a, uint64_t peer, uint64_t candidates)
{
    struct tn_egress_target nowhere = {.dst = {.ip = {.family = 4}}, .peer = peer,
                                       .purpose = peer ? TN_EGRESS_FORWARD : TN_EGRESS_RESOLVER}; /* the probe's is ours */
    struct tn_egress *e = a->chan->e;
    if (tn_limits_full(e, peer, nowhere.purpose)) return TN_EGRESS_FAIL_LIMIT;
    struct tn_egress_conn *c = tn_conn_new(e, &nowhere);
    if (!c) return TN_EGRESS_FAIL_FDS;
    c->ev = &control_events;
    c->arg = a;
    c->dialing->candidates = candidates;
    c->dialing->bound = &a->bound;
    int why = tn_limits_take(e, c, peer) != 0 ? TN_EGRESS_FAIL_FDS : tn_dial_begin(c);
    if (why) {
        tn_conn_bury(c, false);
        return why;
    }
    a->control = c;
    tn_run_schedule(e);
    return 0;
}

/* ---- which association ---- */

/* Of these proxies those that did not fail with it lately. */
static uint64_t rested(const struct tn_egress *e, uint64_t set)
{
    uint64_t now_us = tn_egress_now();
    for (size_t i = 0; i < e->policy->spec->nproxies; i++)
        if (now_us < e->policy->upstreams[i]->relay_retry_us) set &= ~((uint64_t)1 << i);
    return set;
}

static int begin(struct tn_egress *e, uint64_t peer, uint64_t set, struct tn_assoc **out)
{
    uint64_t candidates = rested(e, set);
    if (!candidates) return TN_EGRESS_FAIL_OFF;
    struct tn_chan *c;
    int why = tn_chan_new(e, peer, TN_DGRAM_UDP, &c);
    if (why) return why;
    struct tn_assoc *a = calloc(1, sizeof *a);
    if (!a) {
        tn_chan_free(c);
        return TN_EGRESS_FAIL_FDS;
    }
    a->chan = c;
    a->set = set;
    c->assoc = a;
    tn_list_init(&a->waiting);
    tn_list_push_back(&c->peer->assocs, &a->mine);
    why = dial_control(a, peer, candidates);
    if (why) tn_chan_free(c);
    else *out = a;
    return why;
}

/* Of these proxies those that do datagrams at all. */
static uint64_t able(const struct tn_egress *e, uint64_t set)
{
    const struct tn_policy *p = e->policy;
    for (size_t i = 0; p->mode == TN_EGRESS_PROXY && i < p->spec->nproxies; i++)
        if (p->spec->proxies[i].proxy->scheme != TN_PROXY_SOCKS5) set &= ~((uint64_t)1 << i);
    return p->mode == TN_EGRESS_PROXY && e->dgrams.by_proxy ? set : 0;
}

static uint64_t all_proxies(const struct tn_egress *e)
{
    uint64_t set = 0;
    for (size_t i = 0; e->policy->mode == TN_EGRESS_PROXY && i < e->policy->spec->nproxies; i++) set |= (uint64_t)1 << i;
    return set;
}

enum tn_relay tn_assoc_relay(const struct tn_egress *e)
{
    static const enum tn_relay hope[] = {TN_RELAY_WORKS, TN_RELAY_UNKNOWN, TN_RELAY_FAILS, TN_RELAY_REFUSED};
    uint64_t set = able(e, all_proxies(e));
    for (size_t h = 0; set && h < sizeof hope / sizeof *hope; h++)
        for (size_t i = 0; i < e->policy->spec->nproxies; i++)
            if (set & (uint64_t)1 << i && e->policy->upstreams[i]->relay == hope[h]) return hope[h];
    return TN_RELAY_UNKNOWN;
}

/* By the policy's rules, as for a flow of bytes. */
static uint64_t set_for(const struct tn_egress *e, const struct tn_dgram_key *k)
{
    struct tn_rule_subject s = {.dst = &k->dst, .peer = k->peer};
    return able(e, tn_policy_candidates(e->policy, &s, k->peer ? TN_EGRESS_FORWARD : TN_EGRESS_RESOLVER, &e->peers));
}

/* Ends the flow that stands in the way. Its owner is told, who may end the association too. */
static int take_over(struct tn_assoc *a, const struct tn_dgram_key *k, struct tn_chan **out)
{
    struct tn_chan *c = a->chan;
    /* It takes its place at the end, so that the oldest flow is the one that ends. */
    tn_list_remove(&a->mine);
    tn_list_push_back(&c->peer->assocs, &a->mine);
    c->busy++;
    tn_dgram_end(tn_dgram_find(c->e, c, &k->dst), TN_EGRESS_FAIL_CANCELED);
    c->busy--;
    bool usable = !c->dead && !a->stale;
    if (c->dead && !c->busy) tn_chan_free(c);
    *out = usable ? c : NULL;
    return usable ? 0 : TN_EGRESS_FAIL_CANCELED;
}

int tn_assoc_chan(struct tn_egress *e, const struct tn_dgram_key *k, struct tn_chan **out)
{
    uint64_t set = k->kind == TN_DGRAM_UDP ? set_for(e, k) : 0;
    if (!set) return TN_EGRESS_FAIL_OFF;
    struct tn_dpeer *p = tn_dpeer_find(e, k->peer);
    struct tn_assoc *a = NULL, *first = NULL;
    unsigned count = 0;
    if (p)
        TN_LIST_EACH(l, &p->assocs) {
            a = TN_CONTAINER(l, struct tn_assoc, mine);
            if (a->stale || a->set != set) continue;
            if (!tn_dgram_find(e, a->chan, &k->dst)) {
                *out = a->chan;
                return 0;
            }
            if (!first) first = a;
            count++;
        }
    if (count >= PER_PEER) return take_over(first, k, out);
    int why = begin(e, k->peer, set, &a);
    if (!why) *out = a->chan;
    return why;
}

void tn_assoc_probe(struct tn_egress *e)
{
    struct tn_assoc *a;
    TN_LIST_EACH(l, &e->upstreams) {
        struct tn_upstream *u = TN_CONTAINER(l, struct tn_upstream, all);
        u->relay = TN_RELAY_UNKNOWN;
        u->relay_retry_us = 0;
    }
    uint64_t set = able(e, all_proxies(e));
    if (set && begin(e, 0, set, &a) == 0) a->probe = true;
}

void tn_assoc_hide(struct tn_assoc *a) { a->stale = true; }

bool tn_assoc_outlives(struct tn_assoc *a)
{
    a->stale = true;
    return a->open && a->chan->e->policy->mode == TN_EGRESS_PROXY;
}

void tn_assoc_free(struct tn_assoc *a)
{
    for (struct tn_list *l; (l = tn_list_pop_front(&a->waiting));) free(TN_CONTAINER(l, struct waiting, link));
    if (a->open) a->chan->e->dgrams.stats.associations--;
    if (a->control) tn_egress_close(a->control, false);
    tn_list_remove(&a->mine);
    free(a);
}

/* ---- datagrams ---- */

static bool wait_for_open(struct tn_assoc *a, const struct tn_addrport *to, const void *bytes, size_t len)
{
    if (a->nwaiting >= WAITING_MAX || a->waiting_bytes + len > WAITING_BYTES) return false;
    struct waiting *w = malloc(sizeof *w + len);
    if (!w) return false;
    *w = (struct waiting){.to = *to, .len = len};
    if (len) memcpy(w->bytes, bytes, len);
    tn_list_push_back(&a->waiting, &w->link);
    a->nwaiting++;
    a->waiting_bytes += len;
    return true;
}

void tn_assoc_send(struct tn_chan *c, const struct tn_addrport *to, const void *bytes, size_t len)
{
    static const struct tn_addrport connected = {0};
    struct tn_assoc *a = c->assoc;
    uint8_t head[TN_SOCKS5UDP_HDR_MAX];
    if (c->fd >= 0) tn_chan_send(c, &connected, head, tn_socks5udp_put(head, to), bytes, len);
    else if (!wait_for_open(a, to, bytes, len)) c->e->dgrams.stats.unsent++;
}

bool tn_assoc_unwrap(const struct tn_chan *c, struct tn_addrport *from, const uint8_t **bytes, size_t *len)
{
    struct tn_dgram_stats *s = &c->e->dgrams.stats;
    struct tn_socks5udp d;
    if (!tn_addrport_eq(from, &c->assoc->bound)) { /* the kernel has seen to it, but for what came before the connect */
        s->strangers++;
        return false;
    }
    if (tn_socks5udp_parse(*bytes, *len, &d) != 0) {
        s->malformed++;
        return false;
    }
    *from = d.from;
    from->ip = unmapped(from->ip);
    *bytes = d.payload;
    *len = d.len;
    return true;
}
