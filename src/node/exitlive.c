/* Settings of the exit and of subnets that change while the node runs: advertise_exit_node, advertise_routes, exit_proxy_udp,
 * exit_dns, exit_check, exit_withdraw. What the policy says is exit.c's.
 *
 * A flow stays on the way it began as long as its destination is one that we still carry; what the filter no longer lets in is
 * reset, so that both ends know. With cut, so are flows of subnets whose route was withdrawn though the exit would take them. */
#include "node/exit.h"

#include "egress/dgram.h"
#include "filter/filter.h"
#include "forward/forward.h"
#include "node/checkup.h"
#include "node/resolver.h"
#include "node/tunmode.h"
#include "node/withdraw.h"
#include "util/err.h"

struct judging {
    const struct tn_node *n;
    const struct tn_exitlive_before *before;
    bool cut;
};

static bool covered(const struct tn_egress_route *routes, size_t n, const struct tn_ip *ip)
{
    for (size_t i = 0; i < n; i++)
        if (tn_prefix_contains(&routes[i].prefix, ip)) return true;
    return false;
}

static bool is_gone(void *ctx, const struct tn_ip *dst, bool subnet)
{
    const struct judging *j = ctx;
    const struct tn_config *c = &j->n->config;
    if (!tn_filter_takes(j->n->filter, dst)) return true;
    return subnet && j->cut && covered(j->before->routes, j->before->nroutes, dst) && !covered(c->routes, c->nroutes, dst);
}

/* What it takes to be an exit node, where it was none at the start. */
static int become_exit(struct tn_node *n)
{
    int err = tn_tunmode_seal(n);
    if (!err) err = tn_resolver_new(n);
    return err ? err : tn_resolver_listen(n);
}

static void offer(struct tn_node *n, const struct tn_exitlive_before *before, bool cut)
{
    struct judging j = {n, before, cut};
    uint64_t now_us = tn_node_now();
    int err = n->config.advertise_exit_node ? become_exit(n) : 0;
    if (err) {
        tn_logf(&n->log, TN_LOG_ERROR, "egress", "advertise_exit_node: %s", tn_err_text(err));
        n->config.advertise_exit_node = false;
    }
    err = tn_egress_set_routes(n->egress, n->config.routes, n->config.nroutes);
    if (!err) err = tn_node_take_offered(n);
    if (err) tn_logf(&n->log, TN_LOG_ERROR, "egress", "advertise_routes: %s", tn_err_text(err));
    tn_forward_set_enabled(n->forward, n->config.advertise_exit_node || n->config.nroutes > 0, now_us);
    tn_forward_drop_gone(n->forward, is_gone, &j, now_us);
    err = tn_node_push_host(n);
    if (err) tn_logf(&n->log, TN_LOG_ERROR, "control", "what is offered: %s", tn_err_text(err));
}

void tn_exitlive_changed(struct tn_node *n, unsigned changed, const struct tn_exitlive_before *before, bool cut)
{
    if (changed & TN_LIVE_PROXY_UDP) tn_egress_set_proxy_udp(n->egress, n->config.exit_proxy_udp, cut);
    if (changed & (TN_LIVE_EXIT_NODE | TN_LIVE_ROUTES)) offer(n, before, cut);
    if (changed & TN_LIVE_WITHDRAW) tn_withdraw_update(n);
    if (changed & TN_LIVE_CHECK) tn_checkup_due(n);
    int err = changed & TN_LIVE_DNS ? tn_resolver_changed_upstreams(n) : 0;
    if (err) tn_logf(&n->log, TN_LOG_ERROR, "dns", "exit_dns: %s", tn_err_text(err));
}
