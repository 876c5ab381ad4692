/* OFF, HOST, PROXY: the whole truth table of what egress may do, and the names of what went wrong.
 *
 *   asked   proxies       becomes
 *   OFF     either        OFF
 *   HOST    none          HOST (proxies given with it are not used, and not kept)
 *   PROXY   some          PROXY
 *   PROXY   none          OFF, rejected
 *   other, or a spec that is not valid in any other way: OFF, rejected
 * No line leads from PROXY to HOST without being asked for HOST by name. */
#include "egress/policy.h"
#include "util/err.h"

#include <stdio.h>
#include <stdlib.h>

static uint64_t all_of(const struct tn_egress_spec *s)
{
    return s->nproxies == 64 ? UINT64_MAX : ((uint64_t)1 << s->nproxies) - 1;
}

static uint64_t set_of(const struct tn_egress_spec *s, const char *use)
{
    uint64_t set = 0;
    for (size_t i = 0; i < s->nproxies; i++)
        if (!strcmp(use, s->proxies[i].name) || !strcmp(use, s->proxies[i].group)) set |= (uint64_t)1 << i;
    return set;
}

static struct tn_policy *off(struct tn_policy *p, bool rejected)
{
    tn_egress_spec_free(p->spec);
    p->spec = NULL;
    p->mode = TN_EGRESS_OFF;
    p->rejected = rejected;
    return p;
}

struct tn_policy *tn_policy_new(struct tn_egress_spec *spec)
{
    char why[200];
    struct tn_policy *p = calloc(1, sizeof *p);
    if (!p) {
        tn_egress_spec_free(spec);
        return NULL;
    }
    p->refs = 1;
    p->spec = spec;
    if (!spec || tn_egress_spec_check(spec, why) != 0) return off(p, true);
    if (spec->mode == TN_EGRESS_OFF) return off(p, false);
    p->mode = spec->mode;
    if (spec->nrules == 0) return p;
    p->rule_sets = calloc(spec->nrules, sizeof *p->rule_sets);
    if (!p->rule_sets) {
        tn_policy_free(p);
        return NULL;
    }
    for (size_t i = 0; i < spec->nrules; i++) p->rule_sets[i] = set_of(spec, spec->rules[i].use);
    return p;
}

void tn_policy_free(struct tn_policy *p)
{
    if (!p) return;
    tn_egress_spec_free(p->spec);
    free(p->rule_sets);
    free(p);
}

uint64_t tn_policy_candidates(const struct tn_policy *p, const struct tn_rule_subject *s, enum tn_egress_purpose purpose,
                              const struct tn_egress_peers *peers)
{
    if (p->mode != TN_EGRESS_PROXY) return 0;
    for (size_t i = 0; i < p->spec->nrules; i++)
        if (tn_rule_matches(&p->spec->rules[i], s, peers->is, peers->ctx)) return p->rule_sets[i];
    /* The resolver is our own, and names no peer: rules need not think of it. */
    return p->spec->nrules == 0 || purpose == TN_EGRESS_RESOLVER ? all_of(p->spec) : 0;
}

/* Does it speak of every destination, or every one of the IPv6 internet, whatever the port and the name? */
static bool is_for_all(const struct tn_egress_rule *r, bool ipv6)
{
    static const struct tn_prefix global = {.ip = {.family = 6, .b = {0x20}}, .bits = 3};
    bool all = r->nprefixes == 0;
    for (size_t i = 0; ipv6 && i < r->nprefixes; i++)
        all |= r->prefixes[i].bits <= global.bits && tn_prefix_contains(&r->prefixes[i], &global.ip);
    return all && r->nports == 0 && r->ndomains == 0;
}

static bool is_for_some(const struct tn_egress_rule *r, bool ipv6)
{
    for (size_t i = 0; i < r->nprefixes; i++)
        if (!ipv6 || r->prefixes[i].ip.family == 6) return true;
    return r->nprefixes == 0;
}

bool tn_policy_lets_out(const struct tn_policy *p, uint64_t peer, bool ipv6, uint64_t able, const struct tn_egress_peers *peers)
{
    for (size_t i = 0; i < p->spec->nrules; i++) {
        const struct tn_egress_rule *r = &p->spec->rules[i];
        if (!is_for_some(r, ipv6) || !tn_rule_is_for(r, peer, peers->is, peers->ctx)) continue;
        if (p->rule_sets[i] & able) return true;
        if (is_for_all(r, ipv6)) return false;
    }
    return p->spec->nrules == 0 && all_of(p->spec) & able;
}

const char *tn_policy_describe(const struct tn_policy *p, char buf[400])
{
    char proxy[300];
    switch (p->mode) {
    case TN_EGRESS_HOST: snprintf(buf, 400, "host: directly from this host's addresses"); return buf;
    case TN_EGRESS_PROXY:
        tn_proxy_describe(p->spec->proxies[0].proxy, proxy);
        if (p->spec->nproxies == 1 && p->spec->nrules == 0) snprintf(buf, 400, "proxy: %s", proxy);
        else snprintf(buf, 400, "proxy: %zu proxies, %zu rules", p->spec->nproxies, p->spec->nrules);
        return buf;
    case TN_EGRESS_OFF: break;
    }
    snprintf(buf, 400, "%s", p->rejected ? "off: the exit proxy setting is missing or not valid"
                                         : "off: set exit-proxy (or exit-egress to host) to let exit traffic out");
    return buf;
}

const char *tn_egress_fail_text(enum tn_egress_fail f)
{
    switch (f) {
    case TN_EGRESS_OK: return "ok";
#define FAIL_TEXT(name, text)                                                                                     \
    case TN_EGRESS_FAIL_##name: return text;
        TN_EGRESS_FAIL_MAP(FAIL_TEXT)
#undef FAIL_TEXT
    case TN_EGRESS_FAIL_COUNT: break;
    }
    return "unknown";
}

/* The enum's own name in lower case, without making one up at run time. */
const char *tn_egress_fail_name(enum tn_egress_fail f)
{
    static const char *const names[] = {
        [TN_EGRESS_OK] = "ok",
        [TN_EGRESS_FAIL_OFF] = "off",
        [TN_EGRESS_FAIL_GUARD] = "guard",
        [TN_EGRESS_FAIL_LIMIT] = "limit",
        [TN_EGRESS_FAIL_FDS] = "fds",
        [TN_EGRESS_FAIL_PORTS] = "ports",
        [TN_EGRESS_FAIL_REFUSED] = "refused",
        [TN_EGRESS_FAIL_UNREACHABLE] = "unreachable",
        [TN_EGRESS_FAIL_TIMEOUT] = "timeout",
        [TN_EGRESS_FAIL_PROXY_CONNECT] = "proxy_connect",
        [TN_EGRESS_FAIL_PROXY_BIND] = "proxy_bind",
        [TN_EGRESS_FAIL_PROXY_TIMEOUT] = "proxy_timeout",
        [TN_EGRESS_FAIL_PROXY_AUTH] = "proxy_auth",
        [TN_EGRESS_FAIL_PROXY_PROTOCOL] = "proxy_protocol",
        [TN_EGRESS_FAIL_PROXY_REFUSED] = "proxy_refused",
        [TN_EGRESS_FAIL_PROXY_CLOSED] = "proxy_closed",
        [TN_EGRESS_FAIL_PROXY_NAME] = "proxy_name",
        [TN_EGRESS_FAIL_PROXY_TLS] = "proxy_tls",
        [TN_EGRESS_FAIL_PROXY_DOWN] = "proxy_down",
        [TN_EGRESS_FAIL_RULE] = "rule",
        [TN_EGRESS_FAIL_CANCELED] = "canceled",
    };
    _Static_assert(sizeof names / sizeof names[0] == TN_EGRESS_FAIL_COUNT, "a name for each");
    return f >= 0 && f < TN_EGRESS_FAIL_COUNT ? names[f] : "unknown";
}
