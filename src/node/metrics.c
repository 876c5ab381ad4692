#include "node/metrics.h"

#include "node/checkup.h"

#include "egress/dgram.h"
#include "util/err.h"

#include <stdio.h>
#include <string.h>

struct writer {
    struct tn_node *node;
    struct tn_buf *out;
    int err;
};

#define PUT(w, ...) ((w)->err = (w)->err ? (w)->err : tn_buf_printf((w)->out, __VA_ARGS__))

static void head(struct writer *w, const char *name, const char *type, const char *help)
{
    PUT(w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* A label's value: what would end it or the line is replaced; the rest of it is a host name or a word of the settings. */
static const char *label(const char *text, char out[256])
{
    size_t n = 0;
    for (; text && *text && n < 255; text++) out[n++] = *text == '"' || *text == '\\' || (unsigned char)*text < ' ' ? '_' : *text;
    out[n] = '\0';
    return out;
}

static void totals(struct writer *w)
{
    static const char *const modes[] = {"off", "host", "proxy"};
    struct tn_egress_stats es;
    struct tn_forward_stats fs;
    tn_egress_stats(w->node->egress, &es);
    tn_forward_stats(w->node->forward, &fs);
    head(w, "tailnet_exit_mode", "gauge", "1 for the way in which exit traffic leaves");
    for (int i = 0; i < 3; i++)
        PUT(w, "tailnet_exit_mode{mode=\"%s\"} %d\n", modes[i], tn_egress_mode(w->node->egress) == (enum tn_egress_mode)i);
    head(w, "tailnet_exit_flows", "gauge", "TCP flows of exit clients that are open");
    PUT(w, "tailnet_exit_flows %u\n", fs.flows);
    head(w, "tailnet_exit_dials", "gauge", "Dials under way");
    PUT(w, "tailnet_exit_dials %u\n", es.dials);
    head(w, "tailnet_exit_opened_total", "counter", "Flows that were opened");
    PUT(w, "tailnet_exit_opened_total %llu\n", (unsigned long long)fs.opened);
    head(w, "tailnet_exit_bytes_total", "counter", "Bytes of flows, DNS included");
    PUT(w, "tailnet_exit_bytes_total{direction=\"up\"} %llu\n", (unsigned long long)es.bytes_up);
    PUT(w, "tailnet_exit_bytes_total{direction=\"down\"} %llu\n", (unsigned long long)es.bytes_down);
    head(w, "tailnet_exit_refused_total", "counter", "Dials that failed or were refused");
    for (int i = 1; i < TN_EGRESS_FAIL_COUNT; i++)
        PUT(w, "tailnet_exit_refused_total{reason=\"%s\"} %llu\n", tn_egress_fail_name((enum tn_egress_fail)i),
            (unsigned long long)es.failed[i]);
    head(w, "tailnet_exit_udp_refused_total", "counter", "UDP packets answered with port unreachable");
    PUT(w, "tailnet_exit_udp_refused_total %llu\n", (unsigned long long)fs.udp_refused);
    head(w, "tailnet_exit_icmp_refused_total", "counter", "Pings that were refused");
    PUT(w, "tailnet_exit_icmp_refused_total %llu\n", (unsigned long long)fs.icmp_refused);
}

/* Names of exit clients. */
static void names(struct writer *w)
{
    struct tn_dns_stats s = {0};
    struct tn_port53_stats p = {0};
    if (!w->node->dns) return;
    tn_dns_stats(w->node->dns, &s);
    if (w->node->port53) tn_port53_stats(w->node->port53, &p);
    const struct {
        const char *name, *type, *help;
        uint64_t value;
    } t[] = {{"tailnet_dns_queries_total", "counter", "Questions of exit clients", s.queries},
             {"tailnet_dns_cache_hits_total", "counter", "Questions answered from the cache", s.cache_hits},
             {"tailnet_dns_upstream_queries_total", "counter", "Questions asked upstream", s.upstream_queries},
             {"tailnet_dns_failed_total", "counter", "Questions that nobody answered (SERVFAIL)", s.failed},
             {"tailnet_dns_timeouts_total", "counter", "Those of them that took too long", s.timed_out},
             {"tailnet_dns_over_limit_total", "counter", "Questions beyond what a peer may have under way",
              s.over_limit + p.over_limit},
             {"tailnet_dns_nxdomain_total", "counter", "Answers that there is no such name", s.nxdomain},
             {"tailnet_dns_refused_total", "counter", "Answers REFUSED", s.refused + p.filtered},
             {"tailnet_dns_port53_udp_total", "counter", "Questions to port 53 by UDP", p.udp_queries},
             {"tailnet_dns_port53_tcp_total", "counter", "Questions to port 53 by TCP", p.tcp_queries},
             {"tailnet_dns_in_flight", "gauge", "Questions that wait for an answer", s.in_flight},
             {"tailnet_dns_cache_entries", "gauge", "Answers in the cache", s.cache_entries},
             {"tailnet_dns_cache_bytes", "gauge", "Bytes of them", s.cache_bytes},
             {"tailnet_dns_up", "gauge", "0 while no upstream answers", tn_dns_health(w->node->dns, NULL) == 0}};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        head(w, t[i].name, t[i].type, t[i].help);
        PUT(w, "%s %llu\n", t[i].name, (unsigned long long)t[i].value);
    }
}

/* What the last egress check said, if there was one. */
static void check(struct writer *w)
{
    const json_t *last = tn_checkup_last(w->node);
    head(w, "tailnet_exit_withdrawn", "gauge", "1 while the exit is not offered, as no proxy works or egress is off");
    PUT(w, "tailnet_exit_withdrawn %d\n", w->node->exit_withdrawn);
    if (!last) return;
    head(w, "tailnet_exit_check_ok", "gauge", "1 if the last egress check saw another address than this host's by every proxy");
    PUT(w, "tailnet_exit_check_ok %d\n", json_is_true(json_object_get(last, "OK")));
}

/* One metric of every proxy. */
static void each_proxy(struct writer *w, const char *name, const char *type, const char *help,
                       void (*put)(struct writer *w, const char *name, const char *proxy, const struct tn_egress_proxy_stats *s))
{
    struct tn_egress_proxy_stats s;
    char text[256];
    head(w, name, type, help);
    for (size_t i = 0; tn_egress_proxy_at(w->node->egress, i, &s); i++) put(w, name, label(s.name, text), &s);
}

static void put_up(struct writer *w, const char *name, const char *proxy, const struct tn_egress_proxy_stats *s)
{
    bool up = s->state != TN_EGRESS_PROXY_DOWN && s->last_fail == TN_EGRESS_OK;
    PUT(w, "%s{proxy=\"%s\"} %d\n", name, proxy, up);
}
static void put_flows(struct writer *w, const char *name, const char *proxy, const struct tn_egress_proxy_stats *s)
{
    PUT(w, "%s{proxy=\"%s\"} %u\n", name, proxy, s->flows);
}
static void put_opened(struct writer *w, const char *name, const char *proxy, const struct tn_egress_proxy_stats *s)
{
    PUT(w, "%s{proxy=\"%s\"} %llu\n", name, proxy, (unsigned long long)s->opened);
}
static void put_bytes(struct writer *w, const char *name, const char *proxy, const struct tn_egress_proxy_stats *s)
{
    PUT(w, "%s{proxy=\"%s\",direction=\"up\"} %llu\n", name, proxy, (unsigned long long)s->bytes_up);
    PUT(w, "%s{proxy=\"%s\",direction=\"down\"} %llu\n", name, proxy, (unsigned long long)s->bytes_down);
}
static void put_failed(struct writer *w, const char *name, const char *proxy, const struct tn_egress_proxy_stats *s)
{
    for (int i = 1; i < TN_EGRESS_FAIL_COUNT; i++)
        if (s->failed[i])
            PUT(w, "%s{proxy=\"%s\",reason=\"%s\"} %llu\n", name, proxy, tn_egress_fail_name((enum tn_egress_fail)i),
                (unsigned long long)s->failed[i]);
}
static void put_latency(struct writer *w, const char *name, const char *proxy, const struct tn_egress_proxy_stats *s)
{
    uint64_t sum = 0;
    for (int i = 0; i < TN_EGRESS_BUCKETS - 1; i++) {
        sum += s->latency[i];
        PUT(w, "%s_bucket{proxy=\"%s\",le=\"%g\"} %llu\n", name, proxy, tn_egress_bucket_ms[i] / 1000.0, (unsigned long long)sum);
    }
    sum += s->latency[TN_EGRESS_BUCKETS - 1];
    PUT(w, "%s_bucket{proxy=\"%s\",le=\"+Inf\"} %llu\n", name, proxy, (unsigned long long)sum);
    PUT(w, "%s_sum{proxy=\"%s\"} %.6f\n%s_count{proxy=\"%s\"} %llu\n", name, proxy, (double)s->latency_sum_us / 1e6, name, proxy,
        (unsigned long long)sum);
}

/* Peers in as many walks as there are metrics: the format wants a metric's lines together. */
enum column { FLOWS, OPENED, REFUSED, BYTES, COLUMNS };
struct peers {
    struct writer *w;
    const char *name;
    enum column column;
};

static void put_peer(void *arg, const struct tn_egress_peer_stats *s)
{
    struct peers *p = arg;
    struct tn_npeer *peer = tn_node_peer_by_id(p->w->node, (int64_t)s->peer);
    const struct tn_netnode *node = peer ? tn_node_netnode(p->w->node, peer) : NULL;
    char text[256], id[64];
    if (!node) return;
    label(node->name, text);
    text[strcspn(text, ".")] = '\0';
    snprintf(id, sizeof id, "%.60s", node->stable_id ? node->stable_id : "");
    if (p->column == BYTES) {
        PUT(p->w, "%s{peer=\"%s\",id=\"%s\",direction=\"up\"} %llu\n", p->name, text, id, (unsigned long long)s->bytes_up);
        PUT(p->w, "%s{peer=\"%s\",id=\"%s\",direction=\"down\"} %llu\n", p->name, text, id, (unsigned long long)s->bytes_down);
        return;
    }
    uint64_t value = p->column == FLOWS ? s->flows : p->column == OPENED ? s->opened : s->refused;
    PUT(p->w, "%s{peer=\"%s\",id=\"%s\"} %llu\n", p->name, text, id, (unsigned long long)value);
}

static void each_peer(struct writer *w)
{
    static const struct {
        const char *name, *type, *help;
    } metrics[COLUMNS] = {{"tailnet_exit_peer_flows", "gauge", "Flows of a peer that are open"},
                          {"tailnet_exit_peer_opened_total", "counter", "Flows of a peer that were opened"},
                          {"tailnet_exit_peer_refused_total", "counter", "Dials of a peer that failed or were refused"},
                          {"tailnet_exit_peer_bytes_total", "counter", "Bytes of a peer's flows"}};
    for (int i = 0; i < COLUMNS; i++) {
        head(w, metrics[i].name, metrics[i].type, metrics[i].help);
        tn_egress_each_peer(w->node->egress, put_peer, &(struct peers){w, metrics[i].name, (enum column)i});
    }
}

static void datagrams(struct writer *w)
{
    struct tn_dgram_stats ds;
    tn_dgram_stats(w->node->egress, &ds);
    head(w, "tailnet_exit_udp_flows", "gauge", "Flows of datagrams: UDP by source and destination, and pings");
    PUT(w, "tailnet_exit_udp_flows %u\n", ds.flows);
    head(w, "tailnet_exit_udp_sockets", "gauge", "Sockets that carry them");
    PUT(w, "tailnet_exit_udp_sockets %u\n", ds.sockets);
    head(w, "tailnet_exit_udp_associations", "gauge", "UDP associations with proxies");
    PUT(w, "tailnet_exit_udp_associations %u\n", ds.associations);
    head(w, "tailnet_exit_udp_datagrams_total", "counter", "Datagrams passed on");
    PUT(w, "tailnet_exit_udp_datagrams_total{direction=\"up\"} %llu\n", (unsigned long long)ds.sent);
    PUT(w, "tailnet_exit_udp_datagrams_total{direction=\"down\"} %llu\n", (unsigned long long)ds.received);
    head(w, "tailnet_exit_udp_bytes_total", "counter", "Their bytes");
    PUT(w, "tailnet_exit_udp_bytes_total{direction=\"up\"} %llu\n", (unsigned long long)ds.bytes_up);
    PUT(w, "tailnet_exit_udp_bytes_total{direction=\"down\"} %llu\n", (unsigned long long)ds.bytes_down);
    head(w, "tailnet_exit_udp_dropped_total", "counter", "Datagrams dropped: not sent, from strangers, or malformed");
    PUT(w, "tailnet_exit_udp_dropped_total{reason=\"unsent\"} %llu\n", (unsigned long long)ds.unsent);
    PUT(w, "tailnet_exit_udp_dropped_total{reason=\"stranger\"} %llu\n", (unsigned long long)ds.strangers);
    PUT(w, "tailnet_exit_udp_dropped_total{reason=\"malformed\"} %llu\n", (unsigned long long)ds.malformed);
}

int tn_metrics_write(struct tn_node *n, struct tn_buf *out)
{
    struct writer w = {.node = n, .out = out};
    totals(&w);
    names(&w);
    check(&w);
    each_proxy(&w, "tailnet_exit_proxy_up", "gauge", "0 while the proxy does not do what it should", put_up);
    each_proxy(&w, "tailnet_exit_proxy_flows", "gauge", "Flows through the proxy that are open", put_flows);
    each_proxy(&w, "tailnet_exit_proxy_opened_total", "counter", "Flows through the proxy that were opened", put_opened);
    each_proxy(&w, "tailnet_exit_proxy_bytes_total", "counter", "Bytes through the proxy", put_bytes);
    each_proxy(&w, "tailnet_exit_proxy_failed_total", "counter", "Dials through the proxy that failed", put_failed);
    each_proxy(&w, "tailnet_exit_proxy_dial_seconds", "histogram", "Time to an open connection through the proxy", put_latency);
    each_peer(&w);
    datagrams(&w);
    return w.err;
}
