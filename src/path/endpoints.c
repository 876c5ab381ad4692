/* What the owner is told for control: our endpoints and NetInfo (magicsock.go determineEndpoints,
 * endpoint_tracker.go, updateNetInfo). Both are reported only when they changed in a way that matters; latency
 * jitter is not such a change. */
#include "path/internal.h"
#include "util/heap.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    TYPE_LOCAL = 1, TYPE_STUN = 2, TYPE_PORTMAPPED = 3, TYPE_STUN4_LOCAL_PORT = 4, /* tailcfg.EndpointType */
    TRACKED_US = 310 * 1000000,  /* a little over the full check interval */
    TRACKED_PER_IP = 6,          /* two earlier sets of what one address can give */
};

struct list {
    struct tn_path_endpoint *eps; /* TN_PATH_ENDPOINTS_MAX */
    size_t n;
};

static bool holds(const struct tn_path_endpoint *eps, size_t n, const struct tn_addrport *addr)
{
    for (size_t i = 0; i < n; i++)
        if (tn_addrport_eq(&eps[i].addr, addr)) return true;
    return false;
}

static void add(struct list *l, const struct tn_addrport *addr, int type)
{
    if (addr->port == 0 || l->n == TN_PATH_ENDPOINTS_MAX || holds(l->eps, l->n, addr)) return;
    l->eps[l->n++] = (struct tn_path_endpoint){*addr, type};
}

/* The first mapped address of each family, and others that more than one server saw. */
static void add_stun(struct tn_path *p, struct list *l, const struct tn_netcheck_report *r)
{
    for (int family = 0; family < 2; family++)
        for (size_t i = 0; i < r->nglobals[family]; i++)
            if (i == 0 || r->globals[family][i].count > 1) add(l, &r->globals[family][i].addr, TYPE_STUN);
    if (r->mapping_varies == 1 && r->nglobals[0]) { /* a hard NAT, maybe with a forwarded port */
        struct tn_addrport guess = {.ip = r->globals[0][0].addr.ip, .port = p->port4};
        add(l, &guess, TYPE_STUN4_LOCAL_PORT);
    }
}

static size_t tracked_of_ip(const struct tn_path *p, const struct tn_ip *ip, size_t *oldest)
{
    size_t n = 0;
    for (size_t i = 0; i < p->ntracked; i++) {
        if (!tn_ip_eq(&p->tracked[i].ep.addr.ip, ip)) continue;
        if (n++ == 0 || p->tracked[i].until_us < p->tracked[*oldest].until_us) *oldest = i;
    }
    return n;
}

static void track(struct tn_path *p, const struct tn_path_endpoint *ep, uint64_t until_us)
{
    size_t oldest = 0;
    for (size_t i = 0; i < p->ntracked; i++) {
        if (!tn_addrport_eq(&p->tracked[i].ep.addr, &ep->addr)) continue;
        p->tracked[i].until_us = until_us;
        return;
    }
    if (tracked_of_ip(p, &ep->addr.ip, &oldest) >= TRACKED_PER_IP) {
        p->tracked[oldest] = (struct tn_path_tracked){*ep, until_us};
    } else if (p->ntracked < TN_PATH_TRACKED_MAX) {
        p->tracked[p->ntracked++] = (struct tn_path_tracked){*ep, until_us};
    }
}

/* Keeps telling addresses of earlier checks for a while: one lost STUN answer must not withdraw a path. */
static void add_tracked(struct tn_path *p, struct list *l, uint64_t now_us)
{
    size_t kept = 0;
    for (size_t i = 0; i < l->n; i++) track(p, &l->eps[i], now_us + TRACKED_US);
    for (size_t i = 0; i < p->ntracked; i++)
        if (p->tracked[i].until_us > now_us) p->tracked[kept++] = p->tracked[i];
    p->ntracked = kept;
    for (size_t i = 0; i < p->ntracked; i++) add(l, &p->tracked[i].ep.addr, p->tracked[i].ep.type);
}

static void add_local(struct tn_path *p, struct list *l)
{
    struct tn_addrport a;
    bool alone = l->n == 0 && p->nlocal == 0;
    for (size_t i = 0; i < p->nlocal; i++) {
        a = (struct tn_addrport){.ip = p->local[i], .port = p->local[i].family == 4 ? p->port4 : p->port6};
        if (!(a.ip.family == 6 && tn_ip_is_link_local(&a.ip))) add(l, &a, TYPE_LOCAL);
    }
    if (!alone) return; /* loopback only when there is nothing else: two nodes on an offline machine */
    a = (struct tn_addrport){.ip = tn_ip4(127, 0, 0, 1), .port = p->port4};
    add(l, &a, TYPE_LOCAL);
    a = (struct tn_addrport){.ip = {.family = 6, .b = {[15] = 1}}, .port = p->port6};
    add(l, &a, TYPE_LOCAL);
}

static bool same_set(const struct tn_path *p, const struct list *l)
{
    if (l->n != p->nendpoints) return false; /* both are free of duplicates */
    for (size_t i = 0; i < l->n; i++) {
        bool found = false;
        for (size_t k = 0; k < p->nendpoints; k++)
            found |= tn_addrport_eq(&p->endpoints[k].addr, &l->eps[i].addr) && p->endpoints[k].type == l->eps[i].type;
        if (!found) return false;
    }
    return true;
}

bool tn_path_endpoints_update(struct tn_path *p, const struct tn_netcheck_report *r, uint64_t now_us)
{
    struct list l = {0};
    if (!p->config.cb.udp_send) return false;
    l.eps = malloc(TN_PATH_ENDPOINTS_MAX * sizeof *l.eps);
    if (!l.eps) return false; /* the next check tells */
    if (p->portmap.outside.ip.family) add(&l, &p->portmap.outside, TYPE_PORTMAPPED);
    if (r) add_stun(p, &l, r);
    add_tracked(p, &l, now_us);
    add_local(p, &l);
    struct tn_path_endpoint *exact = l.n && !same_set(p, &l) ? malloc(l.n * sizeof *exact) : NULL;
    bool changed = exact || (l.n == 0 && p->nendpoints);
    if (changed) {
        if (exact) memcpy(exact, l.eps, l.n * sizeof *exact);
        free(p->endpoints);
        p->endpoints = exact;
        p->nendpoints = l.n;
        p->config.cb.endpoints(p->config.ctx, exact, l.n, now_us);
    }
    free(l.eps);
    return changed;
}

static void add_latency(struct tn_path_netinfo *ni, int region, int family, uint32_t us)
{
    if (us == 0 || ni->nlatency == sizeof ni->latency / sizeof *ni->latency) return;
    snprintf(ni->latency[ni->nlatency].name, sizeof ni->latency->name, "%d-v%d", region, family);
    ni->latency[ni->nlatency++].seconds = us / 1e6;
}

static bool matters(const struct tn_path_netinfo *a, const struct tn_path_netinfo *b)
{
    return a->preferred_derp != b->preferred_derp || a->udp != b->udp || a->ipv6 != b->ipv6 ||
           a->os_has_ipv6 != b->os_has_ipv6 || a->mapping_varies != b->mapping_varies || a->pcp != b->pcp ||
           a->pmp != b->pmp || a->upnp != b->upnp;
}

void tn_path_netinfo_update(struct tn_path *p, uint64_t now_us)
{
    const struct tn_netcheck_report *r = p->report;
    struct tn_path_netinfo *ni = calloc(1, sizeof *ni);
    if (!ni) return;
    ni->preferred_derp = p->advertised;
    ni->udp = r ? r->udp : -1;
    ni->ipv6 = r ? r->ipv6 : -1;
    ni->os_has_ipv6 = p->local_known ? p->port6 != 0 : -1;
    ni->mapping_varies = r ? r->mapping_varies : -1;
    ni->pcp = p->portmap.pcp;
    ni->pmp = p->portmap.pmp;
    ni->upnp = p->portmap.upnp;
    for (size_t i = 0; r && i < r->nregions; i++) {
        add_latency(ni, r->regions[i].region, 4, r->regions[i].v4_us);
        add_latency(ni, r->regions[i].region, 6, r->regions[i].v6_us);
    }
    if (p->netinfo && !matters(p->netinfo, ni)) {
        free(ni);
        return;
    }
    free(p->netinfo);
    p->netinfo = ni;
    p->config.cb.netinfo(p->config.ctx, ni, now_us);
}
