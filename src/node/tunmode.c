#include "node/tunmode.h"

#include "node/magicdns.h"
#include "tun/host.h"
#include "tun/merge.h"
#include "tun/split.h"
#include "tun/tun.h"
#include "tun/vnet.h"
#include "util/cursor.h"
#include "util/err.h"
#include "wire/icmp.h"

#include <ifaddrs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
    READS = 32,         /* of up to 64 KiB a turn, so that what comes in and the timers are not starved */
    UNREACH_TTL = 64,
    TRAIN = 64,         /* pieces sealed and sent together: a super-packet of 64 KiB has 53 */
    ATTACHED_MAX = 128, /* the host's addresses that accepted subnet routes are compared with */
};

struct tn_tunmode {
    struct tn_tun dev;
    struct tn_tunhost *host;
    struct tn_tun_merge *merge;
    uv_poll_t *poll;
    struct tn_ip attached[ATTACHED_MAX];
    size_t nattached;
    uint64_t reads, sent, delivered, bad, foreign_source, no_route, write_errors;
    uint8_t in[TN_VNET_HDR + TN_TUN_SUPER_MAX];
    uint8_t train[TN_WG_HEADROOM + TRAIN * (TN_TUN_MTU + TN_WG_DATA_OVERHEAD)];
};

bool tn_tunmode_is_device(const struct tn_node *n, const char *ifname)
{
    return n->tun && strcmp(n->tun->dev.name, ifname) == 0;
}

uint32_t tn_tunmode_mark(const struct tn_node *n) { return n->config.tun ? TN_TUN_MARK : 0; }

int tn_tunmode_mark_socket(const struct tn_node *n, int fd)
{
    uint32_t mark = tn_tunmode_mark(n);
    if (!mark || fd < 0) return 0;
    return setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof mark) == 0 ? 0 : -errno;
}

static bool is_own(const struct tn_node *n, const struct tn_ip *ip)
{
    for (size_t i = 0; i < n->nown; i++)
        if (tn_ip_eq(&n->own[i], ip)) return true;
    return false;
}

/* ---- from the host ---- */

static void write_device(void *ctx, const struct iovec *iov, int n)
{
    struct tn_tunmode *t = ctx;
    if (tn_tun_write(&t->dev, iov, n) != 0) t->write_errors++; /* a link that is down, or no memory: a loss */
}

/* No way there: said at once, as a router does, so that programs need not find out by waiting. Quotes what may be quoted. */
static void refuse(struct tn_node *n, const uint8_t *packet, size_t len, const struct tn_ip *src, const struct tn_ip *dst)
{
    uint8_t out[TN_TUN_MTU], proto = src->family == 4 ? TN_IPPROTO_ICMP : TN_IPPROTO_ICMP6;
    size_t most = src->family == 4 ? TN_ICMP_QUOTE_MAX4 : TN_ICMP_QUOTE_MAX6, quote = len < most ? len : most;
    uint8_t inner = packet[src->family == 4 ? 9 : 6];
    if (inner != TN_IPPROTO_TCP && inner != TN_IPPROTO_UDP) return; /* never about an ICMP error, so about no ICMP at all */
    size_t l4_len = TN_ICMP_HDR + quote, ip = tn_ip_header_put(out, dst, src, proto, l4_len, UNREACH_TTL, 0);
    uint8_t *l4 = out + ip;
    tn_icmp_put(l4, src->family, TN_ICMP_UNREACH_ADMIN, 0, 0);
    memcpy(l4 + TN_ICMP_HDR, packet, quote);
    uint32_t sum = src->family == 4 ? 0 : tn_cksum_pseudo(src, dst, proto, (uint32_t)l4_len);
    tn_put_be16(l4 + 2, tn_cksum_fold(tn_cksum_add(sum, l4, l4_len)));
    tn_tun_merge_add(n->tun->merge, out, ip + l4_len);
}

/* Cuts straight to where the pieces are sealed: all are of one length but the last. */
static void send_pieces(struct tn_node *n, struct tn_wg_peer *peer, struct tn_tun_split *s, uint64_t now_us)
{
    struct tn_tunmode *t = n->tun;
    struct tn_wg_train train = {.len = s->gso_size ? s->hdr_len + s->gso_size : s->len};
    size_t stride = tn_wg_stride(train.len);
    for (bool first = true;; first = false) {
        uint8_t *room = tn_node_train_buffer(n);
        train.first = (room ? room : t->train) + TN_WG_HEADROOM;
        train.count = 0;
        for (size_t len; train.count < TRAIN && (len = tn_tun_split_next(s, train.first + train.count * stride)) > 0;) {
            train.count++;
            train.last_len = len;
        }
        if (train.count == 0) return;
        if (train.count == 1) train.len = train.last_len;
        if (first) tn_filter_out(n->filter, train.first, train.count == 1 ? train.last_len : train.len);
        (void)tn_wg_send_train(n->wg, peer, &train, now_us); /* a loss, as on any network */
        t->sent += train.count;
    }
}

static void to_service(struct tn_node *n, struct tn_tun_split *s, uint64_t now_us)
{
    uint8_t *packet = n->tun->train + TN_WG_HEADROOM;
    for (size_t len; (len = tn_tun_split_next(s, packet)) > 0;) tn_stack_input(n->stack, packet, len, now_us);
}

bool tn_tunmode_from_service(struct tn_node *n, const uint8_t *packet, size_t len)
{
    if (!n->magicdns || !n->tun || len < 20) return false;
    bool v4 = packet[0] >> 4 == 4;
    struct tn_ip src = tn_ip_from_bytes(packet + (v4 ? 12 : 8), v4 ? 4 : 6);
    if (!tn_magicdns_is_service(n, &src)) return false;
    tn_tun_merge_add(n->tun->merge, packet, len);
    return true;
}

/* A packet of the host's, whole or a super-packet. Its source must be ours: peers would drop anything else, and what the kernel
 * forwards for others has no business here unless it was translated. */
static void from_host(struct tn_node *n, size_t bytes, uint64_t now_us)
{
    struct tn_tunmode *t = n->tun;
    struct tn_tun_split s;
    if (tn_tun_split_begin(&s, t->in, bytes) != 0) {
        t->bad++;
        return;
    }
    uint8_t family = s.v4 ? 4 : 6;
    struct tn_ip src = tn_ip_from_bytes(s.packet + (s.v4 ? 12 : 8), family);
    struct tn_ip dst = tn_ip_from_bytes(s.packet + (s.v4 ? 16 : 24), family);
    bool tsmp = s.packet[s.v4 ? 9 : 6] == TN_IPPROTO_TSMP; /* between nodes alone: no program speaks it for us */
    if (!is_own(n, &src) || is_own(n, &dst) || tn_ip_is_multicast(&dst) || tn_ip_is_link_local(&dst) || tsmp) {
        t->foreign_source++;
        return;
    }
    if (tn_magicdns_is_service(n, &dst)) {
        to_service(n, &s, now_us);
        return;
    }
    struct tn_wg_peer *peer = tn_wg_route(n->wg, &dst);
    if (!peer) {
        t->no_route++;
        refuse(n, s.packet, s.len, &src, &dst);
        return;
    }
    send_pieces(n, peer, &s, now_us);
}

static void readable(uv_poll_t *p, int status, int events)
{
    struct tn_node *n = p->data;
    uint64_t now_us = tn_node_now();
    for (int i = 0; i < READS && !n->closing && n->tun; i++) {
        long len = tn_tun_read(&n->tun->dev, n->tun->in, sizeof n->tun->in);
        if (len <= 0) break;
        n->tun->reads++;
        from_host(n, (size_t)len, now_us);
    }
}

/* ---- to the host ---- */

static bool is_ports_proto(const struct tn_ippkt *k) { return k->proto == TN_IPPROTO_TCP || k->proto == TN_IPPROTO_UDP; }

/* Has the in-process stack something there? Fragments are the kernel's: our own TCP makes and gets none. */
static bool in_process(const struct tn_node *n, const struct tn_ippkt *k)
{
    if (k->has_frag || !is_ports_proto(k) || k->l4_len < 4) return false;
    struct tn_addrport local = {k->dst, tn_get_be16(k->l4 + 2)}, remote = {k->src, tn_get_be16(k->l4)};
    return k->proto == TN_IPPROTO_TCP ? tn_stack_has_tcp(n->stack, &local, &remote) : tn_stack_has_udp(n->stack, &local);
}

/* Echo replies and errors. */
static bool is_icmp_answer(const struct tn_ippkt *k)
{
    struct tn_icmp m;
    bool icmp = k->proto == (k->dst.family == 4 ? TN_IPPROTO_ICMP : TN_IPPROTO_ICMP6);
    if (!icmp || k->has_frag || tn_icmp_parse(k->dst.family, k->l4, k->l4_len, &m) != 0) return false;
    return m.kind == TN_ICMP_ECHO_REPLY || tn_icmp_is_error(m.kind);
}

bool tn_tunmode_deliver(struct tn_node *n, const uint8_t *packet, const struct tn_ippkt *k)
{
    if (!n->tun || !is_own(n, &k->dst) || in_process(n, k)) return false;
    n->tun->delivered++;
    tn_tun_merge_add(n->tun->merge, packet, k->total_len);
    return !is_icmp_answer(k);
}

void tn_tunmode_deliver_rest(struct tn_node *n, const struct iovec *packets, size_t count)
{
    n->tun->delivered += count;
    for (size_t i = 0; i < count; i++) tn_tun_merge_add(n->tun->merge, packets[i].iov_base, packets[i].iov_len);
}

void tn_tunmode_turn_ends(struct tn_node *n)
{
    if (!n->tun) return;
    tn_tun_merge_flush(n->tun->merge);
    tn_tunhost_flush(n->tun->host);
}

/* ---- addresses and routes ---- */

static void learn_attached(struct tn_node *n)
{
    struct tn_tunmode *t = n->tun;
    struct ifaddrs *list;
    t->nattached = 0;
    if (getifaddrs(&list) != 0) return;
    for (struct ifaddrs *i = list; i && t->nattached < ATTACHED_MAX; i = i->ifa_next) {
        struct tn_addrport a;
        if (!i->ifa_addr || tn_addrport_from_sockaddr(i->ifa_addr, &a) != 0 || tn_tunmode_is_device(n, i->ifa_name)) continue;
        t->attached[t->nattached++] = a.ip;
    }
    freeifaddrs(list);
}

/* A subnet that the host itself is in: taking the peer's word for it would cut the host off from its own neighbours. */
static bool is_attached(const struct tn_node *n, const struct tn_prefix *p)
{
    for (size_t i = 0; i < n->tun->nattached; i++)
        if (tn_prefix_contains(p, &n->tun->attached[i])) return true;
    return false;
}

static bool wants_route(const struct tn_node *n, const struct tn_prefix *p)
{
    return p->bits > 0 && !(p->bits < tn_ip_bits(&p->ip) && is_attached(n, p));
}

void tn_tunmode_peer_routes(struct tn_node *n, struct tn_npeer *p, const struct tn_prefix *prefixes, size_t count)
{
    if (!n->tun) return;
    struct tn_prefix *routed = count ? malloc(count * sizeof *routed) : NULL;
    size_t nrouted = 0;
    for (size_t i = 0; routed && i < count; i++) { /* first the new: what stays is not taken away in between */
        if (!wants_route(n, &prefixes[i])) continue;
        tn_tunhost_want(n->tun->host, &prefixes[i]);
        routed[nrouted++] = prefixes[i];
    }
    for (size_t i = 0; i < p->nrouted; i++) tn_tunhost_unwant(n->tun->host, &p->routed[i]);
    free(p->routed);
    p->routed = routed;
    p->nrouted = nrouted;
}

/* With an exit node that was asked for but is not there, the traffic goes into the TUN all the same, and is refused. */
void tn_tunmode_update(struct tn_node *n)
{
    if (!n->tun) return;
    learn_attached(n);
    tn_tunhost_set_addrs(n->tun->host, n->own, n->nown);
    tn_tunhost_set_default(n->tun->host, n->nown > 0 && n->config.exit_node);
    tn_tunhost_flush(n->tun->host);
}

int tn_tunmode_seal(struct tn_node *n) { return n->tun ? tn_tunhost_seal(n->tun->host) : 0; }

/* ---- birth and end ---- */

static int poll_device(struct tn_node *n)
{
    struct tn_tunmode *t = n->tun;
    t->poll = calloc(1, sizeof *t->poll);
    if (!t->poll) return TN_E_NOMEM;
    int err = uv_poll_init(&n->loop, t->poll, t->dev.fd);
    if (err) {
        free(t->poll);
        t->poll = NULL;
        return err;
    }
    t->poll->data = n;
    return uv_poll_start(t->poll, UV_READABLE, readable);
}

static void explain(struct tn_node *n, const char *what, int err)
{
    const char *hint = err == -EPERM || err == TN_E_ACCES ? " (TUN mode needs root, or CAP_NET_ADMIN)"
                       : err == TN_E_BUSY                 ? " (another node of this host is in TUN mode, or has the device)"
                       : err == TN_E_NOENT                ? " (is there a /dev/net/tun?)"
                                                          : "";
    tn_node_set_error(n, "tun: %s: %s: %s%s", n->config.tun, what, tn_err_text(err), hint);
}

int tn_tunmode_new(struct tn_node *n)
{
    if (!n->config.tun) return 0;
    struct tn_tunmode *t = calloc(1, sizeof *t);
    if (!t) return TN_E_NOMEM;
    int err = tn_tun_open(n->config.tun, &t->dev);
    if (err) {
        explain(n, "opening the device", err);
        free(t);
        return err;
    }
    n->tun = t;
    struct tn_tun_merge_config mc = {.write = write_device, .ctx = t, .udp = t->dev.uso};
    struct tn_tunhost_config hc = {.tun = &t->dev,
                                   .log = &n->log,
                                   .exit_node = n->config.advertise_exit_node,
                                   .allow_lan = n->config.exit_node_allow_lan};
    t->merge = tn_tun_merge_new(&mc);
    err = t->merge ? tn_tunhost_new(&hc, &t->host) : TN_E_NOMEM;
    if (!err) err = poll_device(n);
    if (err) explain(n, "setting it up", err);
    return err;
}

static void free_poll(uv_handle_t *h) { free(h); }

void tn_tunmode_free(struct tn_node *n)
{
    struct tn_tunmode *t = n->tun;
    if (!t) return;
    n->tun = NULL;
    if (t->poll) {
        uv_poll_stop(t->poll);
        uv_close((uv_handle_t *)t->poll, free_poll);
    }
    tn_logf(&n->log, TN_LOG_DEBUG, "tun",
            "%llu reads, %llu packets sent, %llu delivered; dropped: %llu malformed, %llu not from us, %llu without a way, %llu writes",
            (unsigned long long)t->reads, (unsigned long long)t->sent, (unsigned long long)t->delivered,
            (unsigned long long)t->bad, (unsigned long long)t->foreign_source, (unsigned long long)t->no_route,
            (unsigned long long)t->write_errors);
    tn_tunhost_free(t->host);
    tn_tun_merge_free(t->merge);
    tn_tun_close(&t->dev);
    free(t);
}
