/* Proxies in use: their addresses and their health.
 *
 * A proxy given by name is looked up with the host's resolver; that tells the resolver the proxy's name and nothing
 * of what peers do. The answer is kept for LOOKUP_FRESH_US (getaddrinfo does not tell the TTL; gateways that
 * balance by DNS use a minute or more). After that the next dial begins a new lookup and goes on with the old
 * addresses: a resolver that fails does not stop a proxy that works. Dials wait only when there never was an
 * answer. */
#include "egress/private.h"
#include "egress/socket.h"
#include "util/err.h"

#include <stdlib.h>

#define LOOKUP_FRESH_US 60000000ull
#define LOOKUP_RETRY_US 1000000ull /* a dead resolver costs one thread a second, whatever peers ask for */
#define HEALTH_LOG_US 10000000ull  /* a proxy that flaps writes a line per 10 s at most */

static uint64_t hash_text(uint64_t h, const char *s)
{
    while (*s) h = (h ^ (uint8_t)*s++) * 0x100000001b3u; /* FNV-1a: settings, chosen by nobody hostile */
    return h;
}

struct tn_upstream *tn_upstream_get(struct tn_egress *e, const struct tn_egress_proxy *conf)
{
    struct tn_ip ip;
    TN_LIST_EACH(l, &e->upstreams) {
        struct tn_upstream *u = TN_CONTAINER(l, struct tn_upstream, all);
        if (strcmp(u->name, conf->name) != 0 || !tn_proxy_eq(u->proxy, conf->proxy)) continue;
        u->refs++;
        return u;
    }
    struct tn_upstream *u = calloc(1, sizeof *u);
    if (u && !(u->proxy = tn_proxy_copy(conf->proxy))) {
        free(u);
        u = NULL;
    }
    if (!u) return NULL;
    u->e = e;
    u->refs = 1;
    memcpy(u->name, conf->name, sizeof u->name);
    u->id = hash_text(hash_text(0xcbf29ce484222325u, u->name) * 31, u->proxy->host) * 31 + u->proxy->port;
    tn_list_init(&u->waiting);
    tn_list_push_back(&e->upstreams, &u->all);
    if (tn_ip_parse(u->proxy->host, &ip) != 0) return u;
    u->addrs[0] = (struct tn_addrport){.ip = ip, .port = u->proxy->port};
    u->count = 1;
    u->literal = true;
    return u;
}

static void end_lookup(struct tn_upstream *u)
{
    if (!u->lookup) return;
    tn_run_unwatch(u->e, tn_resolve_fd(u->lookup));
    tn_resolve_free(u->lookup);
    u->lookup = NULL;
}

void tn_upstream_unref(struct tn_upstream *u)
{
    if (!u || --u->refs > 0) return;
    tn_probe_stop(u);
    end_lookup(u);
    tn_list_remove(&u->all);
    tn_proxy_free(u->proxy);
    free(u);
}

static int begin_lookup(struct tn_upstream *u)
{
    uint64_t now_us = tn_egress_now();
    if (u->lookup) return 0;
    if (now_us < u->retry_us) return TN_E_DNS;
    u->retry_us = now_us + LOOKUP_RETRY_US;
    int err = tn_resolve_start(u->proxy->host, u->proxy->port, &u->lookup);
    if (err) {
        u->lookup = NULL;
        return err;
    }
    err = tn_run_watch_lookup(u->e, tn_resolve_fd(u->lookup), u);
    if (err) {
        tn_resolve_free(u->lookup);
        u->lookup = NULL;
    }
    return err;
}

int tn_upstream_lookup(struct tn_upstream *u)
{
    if (u->literal || (u->count > 0 && tn_egress_now() < u->fresh_until_us)) return 0;
    int err = begin_lookup(u);
    return u->count > 0 ? 0 : err;
}

/* Families in turn, each in the resolver's order: one that leads nowhere is not all that is tried (RFC 8305 section 4). */
static void take_turns(struct tn_addrport *out, const struct tn_addrport *in, size_t n)
{
    size_t next[2] = {0, 0}, count = 0; /* of the first's family; of the other */
    while (count < n) {
        int want = (int)(count % 2);
        for (int k = 0; k < 2; k++, want = !want) {
            size_t *i = &next[want];
            while (*i < n && (in[*i].ip.family == in[0].ip.family) == (want == 1)) ++*i;
            if (*i == n) continue;
            out[count++] = in[(*i)++];
            break;
        }
    }
}

static bool is_there(struct tn_egress *e, const struct tn_upstream *u)
{
    TN_LIST_EACH(l, &e->upstreams)
        if (TN_CONTAINER(l, struct tn_upstream, all) == u) return true;
    return false;
}

void tn_upstream_on_lookup(struct tn_egress *e, struct tn_upstream *u)
{
    struct tn_addrport addrs[TN_RESOLVE_MAX];
    if (!is_there(e, u) || !u->lookup) return;
    int n = tn_resolve_result(u->lookup, addrs, TN_RESOLVE_MAX);
    if (n == TN_E_AGAIN) return;
    end_lookup(u);
    if (n > 0) {
        struct tn_addrport first = u->addrs[0];
        bool worked = u->count > 0 && u->ok_us;
        u->count = (size_t)n;
        take_turns(u->addrs, addrs, u->count);
        if (worked) tn_upstream_prefer(u, &first);
        u->fresh_until_us = tn_egress_now() + LOOKUP_FRESH_US;
    }
    u->refs++; /* the last of those who wait may let go of it */
    for (struct tn_list *l; (l = tn_list_pop_front(&u->waiting));) {
        struct tn_egress_conn *c = TN_CONTAINER(l, struct tn_dialing, waiting)->conn;
        int why = u->count ? tn_proxied_connect(c) : (int)TN_EGRESS_FAIL_PROXY_NAME;
        if (why) tn_dial_failed(c, (enum tn_egress_fail)why);
    }
    tn_upstream_unref(u);
}

bool tn_upstream_is(const struct tn_upstream *u, const struct tn_addrport *dst)
{
    for (size_t i = 0; i < u->count; i++)
        if (tn_addrport_eq(&u->addrs[i], dst)) return true;
    return false;
}

void tn_upstream_prefer(struct tn_upstream *u, const struct tn_addrport *good)
{
    struct tn_addrport first = *good; /* may lie in the list */
    for (size_t i = 1; i < u->count; i++) {
        if (!tn_addrport_eq(&u->addrs[i], &first)) continue;
        memmove(&u->addrs[1], &u->addrs[0], i * sizeof u->addrs[0]);
        u->addrs[0] = first;
        return;
    }
}

/* changed: its breaker opened or closed by it. */
static void set_health(struct tn_upstream *u, enum tn_egress_fail why, bool changed)
{
    if (changed && u->e->on_health) u->e->on_health(u->e->health_ctx);
    enum tn_egress_fail before = u->last_fail;
    uint64_t now_us = tn_egress_now();
    u->last_fail = why;
    u->tried = true;
    if ((why == before && !changed) || (u->logged_us && now_us - u->logged_us < HEALTH_LOG_US)) return;
    u->logged_us = now_us;
    if (why) tn_logf(u->e->log, TN_LOG_WARN, "egress", "exit proxy %s: %s", u->name, tn_egress_fail_text(why));
    else tn_logf(u->e->log, TN_LOG_INFO, "egress", "exit proxy %s works again", u->name);
}

void tn_upstream_worked(struct tn_upstream *u)
{
    u->ok_us = tn_egress_now();
    u->doubted = false;
    set_health(u, TN_EGRESS_OK, tn_breaker_success(&u->breaker));
    tn_probe_schedule(u);
}

void tn_upstream_failed(struct tn_upstream *u, enum tn_egress_fail why, bool counts)
{
    bool opened = counts && tn_breaker_failure(&u->breaker, why == TN_EGRESS_FAIL_PROXY_AUTH, tn_egress_now());
    set_health(u, why, opened);
    tn_probe_schedule(u);
}
