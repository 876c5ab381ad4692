/* The way of a packet through the node.
 *
 *   in:  path (DERP or UDP) -> wg (opens, checks the inner source) -> TSMP answered here -> filter -> stack
 *        stack: own address -> sockets; foreign address -> forwarder
 *        with a TUN: own address -> the kernel, unless the stack has something there (tunmode.h)
 *   out: stack -> filter (remembers UDP flows) -> crypto-key routing -> wg (seals) -> path
 *
 * Packets to our own addresses never leave: they wait in a short list and enter the stack at the end of the turn, because
 * the stack must not be entered from its own output. */
#include "node/node.h"

#include "node/checkup.h"
#include "node/openers.h"
#include "node/ping.h"
#include "node/resolver.h"
#include "node/tunmode.h"
#include "util/cursor.h"
#include "util/err.h"
#include "wire/ip.h"
#include "wire/tcprun.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LOOPBACK_MAX = 1024 }; /* packets to ourselves in one turn; more than a window's worth is a runaway */

/* A packet to ourselves, or a train of them as the stack laid it out. */
struct loopback {
    struct tn_list link;
    struct tn_train t; /* first: in bytes */
    uint8_t bytes[];
};

/* ---- in ---- */

static struct tn_wg_from wg_from(const struct tn_path_source *from)
{
    struct tn_wg_from w = {0};
    if (from->addr.ip.family) {
        w.bytes[0] = from->addr.ip.family;
        memcpy(w.bytes + 1, from->addr.ip.b, 16);
        memcpy(w.bytes + 17, &from->addr.port, 2);
        w.len = 19;
        w.host_len = 17; /* without the port: a flood from many ports is one source */
    } else { /* region and sender key: what a cookie is bound to, and where its reply goes */
        w.bytes[0] = 'D';
        memcpy(w.bytes + 1, &from->derp_region, 4);
        memcpy(w.bytes + 5, from->derp_key.b, 32);
        w.len = 37;
        w.host_len = 37;
    }
    return w;
}

static struct tn_path_source path_source(const struct tn_wg_from *w)
{
    struct tn_path_source s = {0};
    if (w->bytes[0] == 'D') {
        memcpy(&s.derp_region, w->bytes + 1, 4);
        memcpy(s.derp_key.b, w->bytes + 5, 32);
    } else {
        s.addr.ip.family = w->bytes[0];
        memcpy(s.addr.ip.b, w->bytes + 1, 16);
        memcpy(&s.addr.port, w->bytes + 17, 2);
    }
    return s;
}

static void path_receive(void *ctx, struct tn_path_peer *peer, const struct tn_path_source *from, uint8_t *datagram,
                         size_t len, uint64_t now_us)
{
    struct tn_node *n = ctx;
    struct tn_wg_from w = wg_from(from);
    (void)tn_wg_input(n->wg, datagram, len, &w, now_us); /* a bad datagram is counted there */
}

static void path_receive_run(void *ctx, const struct tn_path_source *from, uint8_t *run, size_t len, size_t segment,
                             uint64_t now_us)
{
    struct tn_node *n = ctx;
    struct tn_wg_from w = wg_from(from);
    tn_stack_batch_begin(n->stack); /* of a DERP connection; what comes by UDP is in one already */
    if (from->addr.ip.family && n->openers) tn_openers_input(n, run, len, segment, &w, now_us);
    else tn_wg_input_run(n->wg, run, len, segment, &w, now_us);
    tn_stack_batch_end(n->stack, now_us);
}

static bool is_own(const struct tn_node *n, const struct tn_ip *ip)
{
    for (size_t i = 0; i < n->nown; i++)
        if (tn_ip_eq(&n->own[i], ip)) return true;
    return false;
}

/* WireGuard lets the exit node we use, and subnet routers, send from any address of their prefixes that no other peer
 * holds now. Ours, and those of a peer that is cut off (its key expired), are never among what they may say they are:
 * an answer to ourselves would come back in, and who is let in somewhere is told by the address. */
static bool is_forged(const struct tn_node *n, const struct tn_npeer *peer, const struct tn_ip *src)
{
    if (is_own(n, src)) return true;
    if (peer->id != n->exit_peer && !n->config.accept_routes) return false; /* WireGuard has seen to it */
    const struct tn_npeer *owner = tn_node_peer_by_addr(n, src);
    return owner && owner != peer;
}

static bool peer_has_cap(void *ctx, const char *cap)
{
    const struct tn_netnode *node = ctx;
    return node && tn_netnode_has_cap(node, cap);
}

static struct tn_filter_peer filter_peer(const struct tn_netnode *node)
{
    return (struct tn_filter_peer){
        .has_cap = peer_has_cap, .ctx = (void *)(uintptr_t)node, .jailed = node && node->jailed};
}

bool tn_node_may_use_exit(const struct tn_node *n, const struct tn_ip *src)
{
    const struct tn_npeer *peer = tn_node_peer_by_addr(n, src);
    const struct tn_netnode *node = peer ? tn_node_netnode(n, peer) : NULL;
    if (!node || !n->config.advertise_exit_node) return false;
    struct tn_filter_peer who = filter_peer(node);
    struct tn_ip internet = {.family = src->family};
    if (src->family == 6) internet.b[0] = 0x20; /* 2000:: */
    return tn_filter_would_accept(n->filter, src, &internet, 53, TN_IPPROTO_TCP, &who);
}

static bool is_for_port_53(const struct tn_ippkt *k)
{
    bool ports = (k->proto == TN_IPPROTO_TCP || k->proto == TN_IPPROTO_UDP) && !k->has_frag && k->l4_len >= 4;
    return ports && tn_get_be16(k->l4 + 2) == 53;
}

/* Dropped by the filter. An exit client that asks for what no exit reaches (private, attached, link-local addresses)
 * is told so at once, but names are answered there too; everybody else gets silence, as from Go's filter. */
static void dropped(struct tn_node *n, const struct tn_ippkt *k, uint8_t *packet, enum tn_filter_reason why, uint64_t now_us)
{
    if (why != TN_FILTER_NOT_OURS && why != TN_FILTER_LINK_LOCAL) return;
    if (!tn_node_may_use_exit(n, &k->src)) return;
    if (is_for_port_53(k) && tn_resolver_stands_for(n, &k->dst)) tn_stack_input(n->stack, packet, k->total_len, now_us);
    else tn_forward_refuse(n->forward, packet, k->total_len, now_us);
}

static void dropped_run(struct tn_node *n, const struct iovec *packets, size_t count, enum tn_filter_reason why,
                        uint64_t now_us)
{
    struct tn_ippkt k;
    for (size_t i = 0; i < count; i++)
        if (tn_ippkt_parse(packets[i].iov_base, packets[i].iov_len, &k) == 0) dropped(n, &k, packets[i].iov_base, why, now_us);
}

/* A run of packets (wire/tcprun.h), or one: what the first may, all may. */
static void deliver_run(struct tn_node *n, struct tn_npeer *peer, const struct iovec *packets, size_t count, uint64_t now_us)
{
    uint8_t *packet = packets[0].iov_base;
    struct tn_ippkt k;
    if (tn_ippkt_parse(packet, packets[0].iov_len, &k) != 0 || is_forged(n, peer, &k.src)) return;
    if (k.proto == TN_IPPROTO_TSMP) {
        if (!k.has_frag && is_own(n, &k.dst)) tn_pings_tsmp(n, peer, &k, now_us);
        return;
    }
    const struct tn_netnode *node = tn_node_netnode(n, peer);
    struct tn_filter_peer who = filter_peer(node);
    enum tn_filter_reason why;
    if (tn_filter_in(n->filter, packet, k.total_len, &who, &why) != TN_ACCEPT) dropped_run(n, packets, count, why, now_us);
    else if (tn_tunmode_deliver(n, packet, &k)) tn_tunmode_deliver_rest(n, packets + 1, count - 1);
    else tn_stack_input_run(n->stack, packets, count, now_us);
}

static void wg_deliver_run(void *ctx, struct tn_wg_peer *wg_peer, void *peer_arg, const struct iovec *packets, size_t count,
                           uint64_t now_us)
{
    struct tn_node *n = ctx;
    for (size_t at = 0, run; at < count; at += run) {
        run = tn_tcp_run(packets + at, count - at);
        if (at == 0 && run < count) tn_stack_expect(n->stack, packets, count);
        deliver_run(n, peer_arg, packets + at, run, now_us);
    }
}

static void wg_deliver(void *ctx, struct tn_wg_peer *wg_peer, void *peer_arg, uint8_t *packet, size_t len, uint64_t now_us)
{
    struct iovec one = {packet, len};
    deliver_run(ctx, peer_arg, &one, 1, now_us);
}

/* ---- out ---- */

static void keep_loopback(struct tn_node *n, const struct tn_train *t)
{
    size_t bytes = (t->count - 1) * t->stride + t->last_len;
    if (n->loopback_count >= LOOPBACK_MAX) return;
    struct loopback *p = malloc(sizeof *p + bytes);
    if (!p) return;
    p->t = *t;
    p->t.first = p->bytes;
    memcpy(p->bytes, t->first, bytes);
    tn_list_push_back(&n->loopback, &p->link);
    n->loopback_count += t->count;
}

static void deliver_train(struct tn_node *n, const struct tn_train *t, uint64_t now_us)
{
    struct iovec packets[TN_TRAIN_BYTES / (TN_TRAIN_HEAD + TN_TRAIN_TAIL + 16)]; /* no packet pads to less */
    size_t count = 0, most = sizeof packets / sizeof *packets;
    for (; count < t->count && count < most; count++)
        packets[count] = (struct iovec){t->first + count * t->stride, count + 1 < t->count ? t->len : t->last_len};
    for (size_t at = 0, run; at < count; at += run) {
        run = tn_tcp_run(packets + at, count - at);
        tn_stack_input_run(n->stack, packets + at, run, now_us);
    }
}

void tn_node_deliver_loopback(struct tn_node *n)
{
    if (tn_list_empty(&n->loopback)) return;
    uint64_t now_us = tn_node_now();
    tn_stack_batch_begin(n->stack);
    for (size_t done = 0; done < LOOPBACK_MAX;) {
        struct tn_list *link = tn_list_pop_front(&n->loopback);
        if (!link) break;
        struct loopback *p = TN_CONTAINER(link, struct loopback, link);
        n->loopback_count -= p->t.count;
        done += p->t.count;
        deliver_train(n, &p->t, now_us);
        free(p);
    }
    tn_stack_batch_end(n->stack, now_us);
}

void tn_node_drop_loopback(struct tn_node *n)
{
    for (struct tn_list *link; (link = tn_list_pop_front(&n->loopback));)
        free(TN_CONTAINER(link, struct loopback, link));
    n->loopback_count = 0;
}

int tn_node_send_ip(struct tn_node *n, const uint8_t *packet, size_t len, uint64_t now_us)
{
    if (len < 20) return TN_E_INVAL;
    bool v4 = packet[0] >> 4 == 4;
    struct tn_ip dst = tn_ip_from_bytes(packet + (v4 ? 16 : 24), v4 ? 4 : 6);
    if (n->magicdns && tn_tunmode_from_service(n, packet, len)) return 0;
    if (is_own(n, &dst)) {
        struct tn_train one = {.first = (uint8_t *)(uintptr_t)packet, .count = 1, .len = len, .last_len = len, .stride = len};
        keep_loopback(n, &one);
        return 0;
    }
    struct tn_wg_peer *peer = tn_wg_route(n->wg, &dst);
    if (!peer) return TN_E_HOSTUNREACH;
    tn_filter_out(n->filter, packet, len);
    return tn_wg_send(n->wg, peer, packet, len, now_us);
}

static void stack_output(void *ctx, uint8_t *packet, size_t len)
{
    struct tn_node *n = ctx;
    (void)tn_node_send_ip(n, packet, len, tn_node_now()); /* no route: a loss, as on any network */
}

uint8_t *tn_node_train_buffer(struct tn_node *n) { return n->hand_over && n->udp ? tn_udp_train_buffer(n->udp) : NULL; }

static uint8_t *stack_train_buffer(void *ctx) { return tn_node_train_buffer(ctx); }

static bool from_service(struct tn_node *n, const struct tn_train *t)
{
    size_t taken = 0;
    while (taken < t->count) {
        size_t len = taken + 1 < t->count ? t->len : t->last_len;
        if (!tn_tunmode_from_service(n, t->first + taken * t->stride, len)) break;
        taken++;
    }
    return taken > 0;
}

/* Packets of one flow: one destination, one peer. */
static void stack_output_train(void *ctx, struct tn_train *t)
{
    struct tn_node *n = ctx;
    bool v4 = t->first[0] >> 4 == 4;
    struct tn_ip dst = tn_ip_from_bytes(t->first + (v4 ? 16 : 24), v4 ? 4 : 6);
    if (n->magicdns && from_service(n, t)) return;
    if (is_own(n, &dst)) {
        keep_loopback(n, t);
        return;
    }
    struct tn_wg_peer *peer = tn_wg_route(n->wg, &dst);
    struct tn_wg_train sealed = {.first = t->first, .count = t->count, .len = t->len, .last_len = t->last_len};
    if (!peer) return;
    if (t->first[v4 ? 9 : 6] == TN_IPPROTO_UDP) tn_filter_out(n->filter, t->first, t->len); /* of TCP it notes nothing */
    (void)tn_wg_send_train(n->wg, peer, &sealed, tn_node_now());
}

static void wg_send(void *ctx, struct tn_wg_peer *wg_peer, void *peer_arg, const uint8_t *datagram, size_t len,
                    uint64_t now_us)
{
    struct tn_node *n = ctx;
    struct tn_npeer *peer = peer_arg;
    if (peer->path) tn_path_send(n->path, peer->path, datagram, len, now_us);
}

static void wg_send_run(void *ctx, struct tn_wg_peer *wg_peer, void *peer_arg, const uint8_t *run, size_t len,
                        size_t segment, uint64_t now_us)
{
    struct tn_node *n = ctx;
    struct tn_npeer *peer = peer_arg;
    if (peer->path) tn_path_send_run(n->path, peer->path, run, len, segment, now_us);
}

static bool wg_send_unsealed(void *ctx, struct tn_wg_peer *wg_peer, void *peer_arg, const struct tn_aead_run *run, uint64_t now_us)
{
    struct tn_node *n = ctx;
    struct tn_npeer *peer = peer_arg;
    return n->hand_over && peer->path && tn_path_send_unsealed(n->path, peer->path, run, now_us);
}

static void wg_reply(void *ctx, const struct tn_wg_from *from, const uint8_t *datagram, size_t len, uint64_t now_us)
{
    struct tn_node *n = ctx;
    struct tn_path_source to = path_source(from);
    tn_path_reply(n->path, &to, datagram, len, now_us);
}

static struct tn_wg_peer *wg_resolve(void *ctx, const struct tn_node_public *key, uint64_t now_us)
{
    return NULL; /* every peer of the netmap is known to wg already: a key it does not know is a stranger's */
}

static void wg_wallclock(void *ctx, int64_t *sec, uint32_t *nsec)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    *sec = ts.tv_sec;
    *nsec = (uint32_t)ts.tv_nsec;
}

/* ---- path's other callbacks ---- */

static void path_netinfo(void *ctx, const struct tn_path_netinfo *ni, uint64_t now_us)
{
    struct tn_node *n = ctx;
    struct tn_control_netinfo out = {.preferred_derp = ni->preferred_derp,
                                     .mapping_varies_by_dest = ni->mapping_varies,
                                     .working_ipv6 = ni->ipv6,
                                     .os_has_ipv6 = ni->os_has_ipv6,
                                     .working_udp = ni->udp,
                                     .upnp = ni->upnp,
                                     .pmp = ni->pmp,
                                     .pcp = ni->pcp};
    for (size_t i = 0; i < ni->nlatency && i < sizeof out.latency / sizeof *out.latency; i++) {
        memcpy(out.latency[i].name, ni->latency[i].name, sizeof out.latency[i].name);
        out.latency[i].seconds = ni->latency[i].seconds;
        out.nlatency++;
    }
    tn_control_set_netinfo(n->control, &out, now_us);
    tn_node_check_usable(n);
}

/* Several endpoints may have one address. */
static bool has_ip(const struct tn_ip *ips, size_t n, const struct tn_ip *ip)
{
    for (size_t i = 0; i < n; i++)
        if (tn_ip_eq(&ips[i], ip)) return true;
    return false;
}

static void take_mapped(struct tn_node *n, const struct tn_path_endpoint *eps, size_t count)
{
    enum { MAX = sizeof n->mapped / sizeof *n->mapped };
    struct tn_ip old[MAX];
    size_t nold = n->nmapped;
    bool changed = false;
    memcpy(old, n->mapped, sizeof old);
    n->nmapped = 0;
    for (size_t i = 0; i < count && n->nmapped < MAX; i++) {
        const struct tn_ip *ip = &eps[i].addr.ip;
        if (tn_ip_is_private(ip) || has_ip(n->mapped, n->nmapped, ip)) continue;
        changed |= !has_ip(old, nold, ip);
        n->mapped[n->nmapped++] = *ip;
    }
    if (changed || n->nmapped != nold) tn_checkup_due(n);
}

static void path_endpoints(void *ctx, const struct tn_path_endpoint *eps, size_t count, uint64_t now_us)
{
    struct tn_node *n = ctx;
    enum { MAX = 32 };
    struct tn_control_endpoint out[MAX] = {0};
    if (count > MAX) count = MAX;
    for (size_t i = 0; i < count; i++) out[i] = (struct tn_control_endpoint){.addr = eps[i].addr, .type = eps[i].type};
    tn_control_set_endpoints(n->control, out, count, now_us);
    take_mapped(n, eps, count);
}

static void path_udp_send(void *ctx, const struct tn_addrport *to, const uint8_t *datagram, size_t len)
{
    struct tn_node *n = ctx;
    if (n->udp) tn_udp_send(n->udp, to, datagram, len);
}

static void path_udp_send_run(void *ctx, const struct tn_addrport *to, const uint8_t *run, size_t len, size_t segment)
{
    struct tn_node *n = ctx;
    if (n->udp) tn_udp_send_run(n->udp, to, run, len, segment);
}

static bool path_udp_seal_run(void *ctx, const struct tn_addrport *to, const struct tn_aead_run *run, uint64_t now_us)
{
    struct tn_node *n = ctx;
    return n->udp && tn_udp_seal_run(n->udp, to, run, now_us);
}

static void path_derp_state(void *ctx, int region, bool connected, const char *text)
{
    struct tn_node *n = ctx;
    tn_logf(&n->log, TN_LOG_INFO, "derp", "region %d %s%s%s", region, connected ? "connected" : "down",
            text && *text ? ": " : "", text ? text : "");
    tn_node_check_usable(n);
}

struct rerouted {
    struct tn_node *node;
    const struct tn_wg_peer *peer;
};

static bool goes_by(void *ctx, const struct tn_ip *remote)
{
    const struct rerouted *r = ctx;
    return tn_wg_route(r->node->wg, remote) == r->peer;
}

static void path_rerouted(void *ctx, struct tn_path_peer *peer, uint64_t now_us)
{
    struct tn_node *n = ctx;
    const struct tn_npeer *np = tn_path_peer_arg(peer);
    if (np->wg) tn_stack_hasten(n->stack, goes_by, &(struct rerouted){n, np->wg}, now_us);
}

struct tn_wg_callbacks tn_node_wg_callbacks(void)
{
    return (struct tn_wg_callbacks){.send = wg_send,
                                    .reply = wg_reply,
                                    .deliver = wg_deliver,
                                    .resolve = wg_resolve,
                                    .wallclock = wg_wallclock,
                                    .send_run = wg_send_run,
                                    .send_unsealed = wg_send_unsealed,
                                    .deliver_run = wg_deliver_run};
}

struct tn_path_callbacks tn_node_path_callbacks(void)
{
    return (struct tn_path_callbacks){.receive = path_receive,
                                      .netinfo = path_netinfo,
                                      .endpoints = path_endpoints,
                                      .udp_send = path_udp_send,
                                      .rerouted = path_rerouted,
                                      .derp_state = path_derp_state,
                                      .receive_run = path_receive_run,
                                      .udp_send_run = path_udp_send_run,
                                      .udp_seal_run = path_udp_seal_run};
}

/* ---- the forwarder's hooks, which know the forwarder and not the node ---- */

static enum tn_syn_verdict foreign_syn(void *ctx, const struct tn_syn *syn, uint64_t now_us)
{
    return tn_forward_syn(((struct tn_node *)ctx)->forward, syn, now_us);
}
static bool foreign_tcp(void *ctx, const struct tn_addrport *src, const struct tn_addrport *dst, bool rst, uint64_t now_us)
{
    return tn_forward_tcp(((struct tn_node *)ctx)->forward, src, dst, rst, now_us);
}
static void foreign_udp(void *ctx, const struct tn_addrport *src, const struct tn_addrport *dst, const uint8_t *packet,
                        size_t len, const uint8_t *payload, size_t payload_len, uint64_t now_us)
{
    tn_forward_udp(((struct tn_node *)ctx)->forward, src, dst, packet, len, payload, payload_len, now_us);
}
static void foreign_other(void *ctx, uint8_t ipproto, const uint8_t *packet, size_t len, uint64_t now_us)
{
    tn_forward_other(((struct tn_node *)ctx)->forward, ipproto, packet, len, now_us);
}

struct tn_stack_callbacks tn_node_stack_callbacks(void)
{
    return (struct tn_stack_callbacks){.output = stack_output,
                                       .foreign_syn = foreign_syn,
                                       .foreign_tcp = foreign_tcp,
                                       .foreign_udp = foreign_udp,
                                       .foreign_other = foreign_other,
                                       .output_train = stack_output_train,
                                       .train_buffer = stack_train_buffer};
}
