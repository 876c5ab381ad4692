#include "node/resolver.h"

#include "node/peerapi_server.h"
#include "util/err.h"

static const char *const *filtered(void *ctx, size_t *n) { return tn_peerapi_server_filtered(ctx, n); }

/* Where UDP of exit clients is refused HTTP/3 has no way. */
static void reach(void *ctx, uint64_t peer, bool *udp, bool *ipv6)
{
    const struct tn_node *n = ctx;
    *udp = tn_egress_has_udp(n->egress, peer);
    *ipv6 = n->config.exit_dns_aaaa == TN_AAAA_AUTO ? tn_egress_has_ipv6(n->egress, peer) : n->config.exit_dns_aaaa == TN_AAAA_YES;
}

static const char *upstreams(const struct tn_node *n) { return n->config.exit_dns ? n->config.exit_dns : TN_DEFAULT_EXIT_DNS; }

int tn_resolver_new(struct tn_node *n)
{
    if (!n->config.advertise_exit_node || n->dns) return 0;
    struct tn_dns_config dc = {.upstreams = upstreams(n),
                               .egress = n->egress,
                               .tls = n->tls,
                               .log = &n->log,
                               .rng = n->rng,
                               .reach = reach,
                               .ctx = n};
    int err = tn_dns_new(&dc, &n->dns);
    if (err == TN_E_INVAL) tn_node_set_error(n, "exit_dns: expected https://ADDRESS[:port]/path, tcp://ADDRESS[:port] or udp://ADDRESS[:port]");
    return err;
}

int tn_resolver_changed_upstreams(struct tn_node *n) { return n->dns ? tn_dns_set_upstreams(n->dns, upstreams(n)) : 0; }

void tn_resolver_policy_changed(struct tn_node *n)
{
    if (n->dns) tn_dns_reset(n->dns);
}

void tn_resolver_rotated(struct tn_node *n, uint64_t peer)
{
    if (!n->dns) return;
    if (peer) tn_dns_reset_peer(n->dns, peer);
    else tn_dns_reset(n->dns);
}

int tn_resolver_listen(struct tn_node *n)
{
    if (!n->dns || n->port53) return 0;
    struct tn_port53_config pc = {.dns = n->dns, .stack = n->stack, .log = &n->log, .filtered = filtered, .ctx = n};
    return tn_port53_new(&pc, &n->port53);
}

void tn_resolver_free(struct tn_node *n)
{
    tn_port53_free(n->port53);
    tn_dns_free(n->dns);
    n->port53 = NULL;
    n->dns = NULL;
}

void tn_resolver_peer_gone(struct tn_node *n, uint64_t peer, uint64_t now_us)
{
    if (n->port53) tn_port53_peer_gone(n->port53, peer, now_us);
    if (n->dns) tn_dns_peer_gone(n->dns, peer);
}

void tn_resolver_timeout(struct tn_node *n, uint64_t now_us)
{
    if (n->dns && tn_dns_next_deadline(n->dns) <= now_us) tn_dns_timeout(n->dns, now_us);
    if (n->port53 && tn_port53_next_deadline(n->port53) <= now_us) tn_port53_timeout(n->port53, now_us);
}

uint64_t tn_resolver_next_deadline(const struct tn_node *n)
{
    uint64_t dns = n->dns ? tn_dns_next_deadline(n->dns) : TN_NEVER;
    uint64_t port53 = n->port53 ? tn_port53_next_deadline(n->port53) : TN_NEVER;
    return dns < port53 ? dns : port53;
}

/* ---- port 53 ---- */

static bool answers(const struct tn_node *n) { return n->port53 && tn_egress_mode(n->egress) != TN_EGRESS_OFF; }

bool tn_resolver_udp(void *node, uint64_t peer, const struct tn_addrport *src, const struct tn_addrport *dst,
                     const uint8_t *payload, size_t len, uint64_t now_us)
{
    struct tn_node *n = node;
    if (!answers(n)) return false;
    tn_port53_udp(n->port53, peer, src, dst, payload, len, now_us);
    return true;
}

enum tn_syn_verdict tn_resolver_syn(void *node, uint64_t peer, const struct tn_syn *syn, uint64_t now_us)
{
    struct tn_node *n = node;
    return answers(n) ? tn_port53_syn(n->port53, peer, syn, now_us) : TN_SYN_RESET;
}

const char *tn_resolver_name_of(void *node, uint64_t peer, const struct tn_ip *ip, uint64_t now_us)
{
    const struct tn_node *n = node;
    return n->dns ? tn_dns_name_of(n->dns, peer, ip, now_us) : NULL;
}

bool tn_resolver_stands_for(const struct tn_node *n, const struct tn_ip *dst)
{
    if (!answers(n) || tn_ip_is_tailnet(dst)) return false; /* a node of the tailnet is itself or nobody */
    return tn_ip_is_private(dst) || (dst->family == 4 && tn_ip_is_link_local(dst));
}

/* ---- status ---- */

const char *tn_resolver_problem(const struct tn_node *n)
{
    const char *text;
    bool asked = n->dns && tn_egress_mode(n->egress) != TN_EGRESS_OFF;
    return asked && tn_dns_health(n->dns, &text) != 0 ? text : NULL;
}

json_t *tn_resolver_status(const struct tn_node *n)
{
    if (!n->dns) return NULL;
    struct tn_dns_stats s;
    struct tn_port53_stats p = {0};
    tn_dns_stats(n->dns, &s);
    if (n->port53) tn_port53_stats(n->port53, &p);
    const char *problem = tn_resolver_problem(n);
    json_t *o = json_pack("{s:s s:b s:I s:I s:I s:I s:I s:I s:I s:I s:I s:I s:I s:I s:I s:I}",
                          "Upstreams", upstreams(n), "Healthy", !problem,
                          "Queries", (json_int_t)s.queries, "CacheHits", (json_int_t)s.cache_hits, "Joined", (json_int_t)s.joined,
                          "Asked", (json_int_t)s.upstream_queries, "Failed", (json_int_t)s.failed,
                          "TimedOut", (json_int_t)s.timed_out, "OverLimit", (json_int_t)(s.over_limit + p.over_limit),
                          "InFlight", (json_int_t)s.in_flight, "CacheEntries", (json_int_t)s.cache_entries,
                          "CacheBytes", (json_int_t)s.cache_bytes, "Names", (json_int_t)s.names,
                          "UDPQueries", (json_int_t)p.udp_queries, "TCPQueries", (json_int_t)p.tcp_queries,
                          "TCPConnections", (json_int_t)p.conns);
    if (o && problem) json_object_set_new(o, "Problem", json_string(problem));
    return o;
}
