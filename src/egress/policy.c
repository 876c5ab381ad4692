/* OFF, HOST, PROXY: the whole truth table of what egress may do, and the names of what went wrong.
 *
 *   asked   proxy given   becomes
 *   OFF     either        OFF
 *   HOST    either        HOST (a proxy given with it is not used, and not kept)
 *   PROXY   yes           PROXY
 *   PROXY   no            OFF, rejected
 *   other   either        OFF, rejected
 * No line leads from PROXY to HOST without being asked for HOST by name. */
#include "egress/policy.h"
#include "util/err.h"

#include <stdio.h>

void tn_policy_init(struct tn_policy *p) { *p = (struct tn_policy){.mode = TN_EGRESS_OFF}; }

void tn_policy_fini(struct tn_policy *p)
{
    tn_proxy_free(p->proxy);
    tn_policy_init(p);
}

int tn_policy_set(struct tn_policy *p, enum tn_egress_mode mode, struct tn_proxy *proxy)
{
    bool keep = mode == TN_EGRESS_PROXY && proxy;
    tn_policy_fini(p);
    if (!keep) tn_proxy_free(proxy);
    switch (mode) {
    case TN_EGRESS_OFF: return 0;
    case TN_EGRESS_HOST: p->mode = TN_EGRESS_HOST; return 0;
    case TN_EGRESS_PROXY:
        if (!keep) break;
        p->proxy = proxy;
        p->mode = TN_EGRESS_PROXY;
        return 0;
    }
    p->rejected = true;
    return TN_E_POLICY;
}

const char *tn_policy_describe(const struct tn_policy *p, char buf[400])
{
    char proxy[300];
    switch (p->mode) {
    case TN_EGRESS_HOST: snprintf(buf, 400, "host: directly from this host's addresses"); return buf;
    case TN_EGRESS_PROXY: snprintf(buf, 400, "proxy: %s", tn_proxy_describe(p->proxy, proxy)); return buf;
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
        [TN_EGRESS_FAIL_REFUSED] = "refused",
        [TN_EGRESS_FAIL_UNREACHABLE] = "unreachable",
        [TN_EGRESS_FAIL_TIMEOUT] = "timeout",
        [TN_EGRESS_FAIL_PROXY_CONNECT] = "proxy_connect",
        [TN_EGRESS_FAIL_PROXY_TIMEOUT] = "proxy_timeout",
        [TN_EGRESS_FAIL_PROXY_AUTH] = "proxy_auth",
        [TN_EGRESS_FAIL_PROXY_PROTOCOL] = "proxy_protocol",
        [TN_EGRESS_FAIL_PROXY_REFUSED] = "proxy_refused",
        [TN_EGRESS_FAIL_PROXY_CLOSED] = "proxy_closed",
        [TN_EGRESS_FAIL_PROXY_NAME] = "proxy_name",
        [TN_EGRESS_FAIL_CANCELED] = "canceled",
    };
    _Static_assert(sizeof names / sizeof names[0] == TN_EGRESS_FAIL_COUNT, "a name for each");
    return f >= 0 && f < TN_EGRESS_FAIL_COUNT ? names[f] : "unknown";
}
