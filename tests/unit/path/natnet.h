/* A network with NATs in memory, for whole path engines on a virtual clock: nodes, each in a LAN; LANs behind a NAT or
 * with public addresses; STUN servers; a control server that hands endpoints on.
 *
 * The NATs are Linux's conntrack: a flow is a pair of addresses, answers come in only on a flow that went out, and it is
 * forgotten after 30 s. EASY keeps one outside port per inside socket, HARD picks another one for each destination. */
#ifndef TN_TEST_PATH_NATNET_H
#define TN_TEST_PATH_NATNET_H

#include "fake.h"
#include "path/internal.h"
#include "wire/stun.h"

enum { NODES = 4, LANS = 4, FLOWS = 512, WIRES = 1024, STUNS = 3 };
enum nat { PUBLIC, EASY, HARD };

struct lan {
    enum nat nat;
    struct tn_ip outside;
    struct flow {
        struct tn_addrport inside, remote;
        uint16_t port;
        uint64_t seen_us;
    } flows[FLOWS];
    size_t nflows;
    uint16_t next_port;
};

struct nnode {
    struct net *w;
    int index, lan;
    struct tn_path *p;
    struct tn_node_private key;
    struct tn_node_public pub;
    struct tn_disco_private disco;
    struct tn_disco_public disco_pub;
    struct tn_addrport udp;             /* inside */
    struct tn_path_peer *peers[NODES];
    struct tn_path_endpoint eps[TN_PATH_ENDPOINTS_MAX];
    size_t neps;
    bool news;                          /* endpoints changed and were not published */
    bool echo;
    unsigned by_udp, by_derp;           /* datagrams received, copies counted */
    uint64_t last_rx_us;
    unsigned sent_udp;                  /* packets sent but for STUN */
    struct tn_path_ping_result ping;
    unsigned pings, rerouted;
    int mapping_varies;
};

struct net {
    uint64_t seed, now_us;
    struct tn_rng rng;
    struct fake_net derp;
    struct nnode nodes[NODES];
    int nnodes;
    struct lan lans[LANS];
    struct nwire {
        struct tn_addrport from, to;
        int lan; /* where it was sent */
        uint8_t bytes[2048];
        size_t len;
        uint64_t at_us;
    } wire[WIRES];
    size_t nwire;
    uint64_t delay_us;        /* one way between LANs; a tenth of it within one */
    unsigned loss_percent;
    bool blackhole;           /* nothing but STUN crosses between LANs */
    bool lose_next;           /* the next packet between nodes */
    uint64_t publish_us;      /* how long control takes to hand endpoints on; TN_NEVER: it does not */
    uint64_t publish_at_us;
};

static void nn_receive(void *ctx, struct tn_path_peer *peer, const struct tn_path_source *from, uint8_t *datagram,
                       size_t len, uint64_t now_us)
{
    struct nnode *n = ctx;
    if (from->addr.ip.family) n->by_udp++;
    else n->by_derp++;
    n->last_rx_us = now_us;
    assert_int_equal(datagram[0], 4);
    if (n->echo && datagram[1] == 'q') /* datagram[2]: who asks */
        tn_path_send(n->p, n->peers[datagram[2]], (const uint8_t[]){4, 'r', (uint8_t)n->index}, 3, now_us);
}
static void nn_rerouted(void *ctx, struct tn_path_peer *peer, uint64_t now_us)
{
    assert_ptr_equal(((struct nnode *)ctx)->peers[((struct nnode *)tn_path_peer_arg(peer))->index], peer);
    ((struct nnode *)ctx)->rerouted++;
}
static void nn_netinfo(void *ctx, const struct tn_path_netinfo *ni, uint64_t now_us)
{
    ((struct nnode *)ctx)->mapping_varies = ni->mapping_varies;
}
static void nn_endpoints(void *ctx, const struct tn_path_endpoint *eps, size_t count, uint64_t now_us)
{
    struct nnode *n = ctx;
    if (count) memcpy(n->eps, eps, count * sizeof *eps);
    n->neps = count;
    n->news = true;
    if (n->w->publish_us != TN_NEVER) n->w->publish_at_us = now_us + n->w->publish_us;
}

static uint16_t outside_port(struct net *w, struct lan *l, const struct tn_addrport *inside)
{
    if (l->nat == HARD) return (uint16_t)(20000 + tn_rng_below(&w->rng, 40000));
    for (size_t i = 0; i < l->nflows; i++)
        if (tn_addrport_eq(&l->flows[i].inside, inside)) return l->flows[i].port;
    return ++l->next_port;
}

static struct flow *nat_out(struct net *w, struct lan *l, const struct tn_addrport *inside, const struct tn_addrport *to)
{
    size_t kept = 0;
    for (size_t i = 0; i < l->nflows; i++)
        if (w->now_us - l->flows[i].seen_us <= 30 * SEC) l->flows[kept++] = l->flows[i];
    l->nflows = kept;
    for (size_t i = 0; i < kept; i++) {
        struct flow *f = &l->flows[i];
        if (!tn_addrport_eq(&f->inside, inside) || !tn_addrport_eq(&f->remote, to)) continue;
        f->seen_us = w->now_us;
        return f;
    }
    assert_true(l->nflows < FLOWS);
    struct flow f = {*inside, *to, outside_port(w, l, inside), w->now_us};
    l->flows[l->nflows] = f;
    return &l->flows[l->nflows++];
}

static bool same_lan(const struct net *w, int lan, const struct tn_ip *ip)
{
    for (int i = 0; i < w->nnodes; i++)
        if (w->nodes[i].lan == lan && tn_ip_eq(&w->nodes[i].udp.ip, ip)) return true;
    return false;
}

static void nn_udp_send(void *ctx, const struct tn_addrport *to, const uint8_t *datagram, size_t len)
{
    struct nnode *n = ctx;
    struct net *w = n->w;
    struct lan *l = &w->lans[n->lan];
    uint8_t txid[12];
    bool local = same_lan(w, n->lan, &to->ip);
    struct tn_addrport from = n->udp;
    assert_true(w->nwire < WIRES && len <= sizeof w->wire->bytes);
    if (!local && l->nat != PUBLIC) from = (struct tn_addrport){l->outside, nat_out(w, l, &n->udp, to)->port};
    struct nwire *x = &w->wire[w->nwire];
    if (to->port == TN_STUN_PORT) {
        if (tn_stun_request_parse(datagram, len, txid) != 0) return;
        *x = (struct nwire){.from = *to, .to = from, .lan = -1, .at_us = w->now_us + 2 * w->delay_us};
        x->len = tn_stun_response_put(x->bytes, txid, &from);
        w->nwire++;
        return;
    }
    n->sent_udp++;
    bool lost = !local && (w->blackhole || tn_rng_below(&w->rng, 100) < w->loss_percent);
    if (lost || w->lose_next) {
        w->lose_next = false;
        return;
    }
    *x = (struct nwire){.from = from, .to = *to, .lan = n->lan, .len = len,
                        .at_us = w->now_us + (local ? w->delay_us / 10 : w->delay_us)};
    memcpy(x->bytes, datagram, len);
    w->nwire++;
}

static void to_node(struct net *w, struct nnode *n, const struct nwire *x)
{
    uint8_t *exact = malloc(x->len ? x->len : 1);
    assert_non_null(exact);
    memcpy(exact, x->bytes, x->len);
    tn_path_udp_input(n->p, &x->from, exact, x->len, w->now_us);
    free(exact);
}

static void deliver(struct net *w, struct nwire x)
{
    for (int i = 0; i < w->nnodes; i++) { /* on a LAN, or a public host */
        struct nnode *n = &w->nodes[i];
        bool reaches = w->lans[n->lan].nat == PUBLIC || n->lan == x.lan;
        if (reaches && tn_addrport_eq(&n->udp, &x.to)) {
            to_node(w, n, &x);
            return;
        }
    }
    for (int k = 0; k < LANS; k++) { /* a NAT */
        struct lan *l = &w->lans[k];
        if (l->nat == PUBLIC || !tn_ip_eq(&l->outside, &x.to.ip)) continue;
        for (size_t i = 0; i < l->nflows; i++) {
            struct flow *f = &l->flows[i];
            if (f->port != x.to.port || !tn_addrport_eq(&f->remote, &x.from) || w->now_us - f->seen_us > 30 * SEC)
                continue;
            f->seen_us = w->now_us;
            for (int j = 0; j < w->nnodes; j++)
                if (w->nodes[j].lan == k && tn_addrport_eq(&w->nodes[j].udp, &f->inside)) to_node(w, &w->nodes[j], &x);
            return;
        }
    }
}

static void publish(struct net *w)
{
    for (int i = 0; i < w->nnodes; i++) {
        struct nnode *n = &w->nodes[i];
        struct tn_addrport eps[TN_PATH_ENDPOINTS_MAX];
        if (!n->news) continue;
        n->news = false;
        for (size_t k = 0; k < n->neps; k++) eps[k] = n->eps[k].addr;
        for (int j = 0; j < w->nnodes; j++)
            if (j != i && w->nodes[j].peers[i])
                assert_int_equal(tn_path_peer_update(w->nodes[j].p, w->nodes[j].peers[i], &n->disco_pub, 1, eps, n->neps,
                                                     w->now_us), 0);
    }
}

/* Runs the world for a time. */
static void net_run(struct net *w, uint64_t span_us)
{
    uint64_t end_us = w->now_us + span_us;
    for (int guard = 0;; guard++) {
        uint64_t at_us = end_us;
        size_t next = WIRES;
        assert_true(guard < 1000000);
        for (int i = 0; i < w->nnodes; i++)
            if (tn_path_next_deadline(w->nodes[i].p) < at_us) at_us = tn_path_next_deadline(w->nodes[i].p);
        if (w->publish_at_us < at_us) at_us = w->publish_at_us;
        for (size_t i = 0; i < w->nwire; i++)
            if (w->wire[i].at_us < at_us || (next == WIRES && w->wire[i].at_us == at_us)) at_us = w->wire[next = i].at_us;
        if (at_us > w->now_us) w->now_us = at_us;
        if (next < WIRES) {
            struct nwire x = w->wire[next];
            w->wire[next] = w->wire[--w->nwire];
            deliver(w, x);
        }
        if (w->publish_at_us <= w->now_us) {
            w->publish_at_us = TN_NEVER;
            publish(w);
        }
        for (int i = 0; i < w->nnodes; i++) tn_path_timeout(w->nodes[i].p, w->now_us);
        fake_serve(&w->derp, w->now_us);
        if (w->now_us >= end_us) return;
    }
}

static struct net *net_new(uint64_t seed)
{
    struct net *w = calloc(1, sizeof *w);
    assert_non_null(w);
    w->seed = seed;
    w->now_us = 1000 * SEC;
    w->delay_us = 10 * MS;
    w->publish_us = 50 * MS;
    w->publish_at_us = TN_NEVER;
    fake_net_init(&w->derp, &w->seed);
    w->rng = w->derp.rng;
    for (int i = 0; i < LANS; i++)
        w->lans[i] = (struct lan){.nat = PUBLIC, .outside = tn_ip4(203, 0, 113, (uint8_t)(1 + i)), .next_port = 10000};
    return w;
}

static const char net_map[] =
    "{\"Regions\":{\"1\":{\"RegionCode\":\"r1\",\"Nodes\":[{\"Name\":\"1a\",\"HostName\":\"derp1\",\"IPv4\":\"192.0.2.1\","
    "\"IPv6\":\"none\"}]},\"2\":{\"RegionCode\":\"r2\",\"Avoid\":true,\"Nodes\":[{\"Name\":\"2a\",\"HostName\":\"derp2\","
    "\"IPv4\":\"192.0.2.2\",\"IPv6\":\"none\",\"STUNOnly\":true}]}}}";

static struct nnode *net_add(struct net *w, int lan, bool udp)
{
    struct nnode *n = &w->nodes[w->nnodes];
    *n = (struct nnode){.w = w, .index = w->nnodes++, .lan = lan, .echo = true};
    tn_node_private_generate(&n->key, &w->rng);
    tn_node_public_of(&n->key, &n->pub);
    tn_disco_private_generate(&n->disco, &w->rng);
    tn_disco_public_of(&n->disco, &n->disco_pub);
    struct tn_ip inside = tn_ip4(10, (uint8_t)lan, 0, (uint8_t)(10 + n->index));
    if (w->lans[lan].nat == PUBLIC) inside = tn_ip4(198, 51, 100, (uint8_t)(10 + n->index));
    n->udp = (struct tn_addrport){inside, 41641};
    struct tn_path_config config = {
        .node_key = n->key, .disco_key = n->disco, .rng = w->rng, .dialer = &w->derp.dialer,
        .cb = {.receive = nn_receive, .netinfo = nn_netinfo, .endpoints = nn_endpoints,
               .udp_send = udp ? nn_udp_send : NULL, .rerouted = nn_rerouted}, .ctx = n};
    assert_int_equal(tn_path_new(&config, &n->p), 0);
    tn_path_set_local(n->p, &inside, 1, udp ? 41641 : 0, 0, w->now_us);
    json_t *map = json_loads(net_map, 0, NULL);
    assert_int_equal(tn_path_set_derp_map(n->p, map, w->now_us), 0);
    json_decref(map);
    tn_path_start(n->p, w->now_us);
    return n;
}

/* Everybody knows everybody; endpoints come as control publishes them. */
static void net_join(struct net *w)
{
    for (int i = 0; i < w->nnodes; i++) {
        for (int j = 0; j < w->nnodes; j++) {
            struct nnode *a = &w->nodes[i], *b = &w->nodes[j];
            if (i == j || a->peers[j]) continue;
            assert_int_equal(tn_path_peer_add(a->p, &b->pub, b, &a->peers[j]), 0);
            assert_int_equal(tn_path_peer_update(a->p, a->peers[j], &b->disco_pub, 1, NULL, 0, w->now_us), 0);
        }
        w->nodes[i].news = true;
    }
    net_run(w, SEC);
    publish(w);
}

static void net_free(struct net *w)
{
    for (int i = 0; i < w->nnodes; i++) tn_path_free(w->nodes[i].p);
    fake_net_fini(&w->derp);
    free(w);
}

static void net_ask(struct net *w, int from, int to)
{
    uint8_t q[] = {4, 'q', (uint8_t)from};
    tn_path_send(w->nodes[from].p, w->nodes[from].peers[to], q, sizeof q, w->now_us);
}

static bool net_direct(struct net *w, int from, int to)
{
    struct tn_path_peer_status st;
    tn_path_peer_status(w->nodes[from].p, w->nodes[from].peers[to], w->now_us, &st);
    return st.direct.ip.family != 0;
}

/* a asks b each step until both have a direct path: the time that took, TN_NEVER when limit passed without. */
static uint64_t net_until_direct(struct net *w, int a, int b, uint64_t step_us, uint64_t limit_us)
{
    uint64_t start_us = w->now_us;
    for (unsigned i = 0; w->now_us - start_us <= limit_us; i++) {
        if (net_direct(w, a, b) && net_direct(w, b, a)) return w->now_us - start_us;
        net_ask(w, a, b);
        net_run(w, step_us);
        if (i % 30 == 0) /* DERP servers say that they live */
            for (size_t k = 0; k < w->derp.count; k++)
                if (w->derp.streams[k]->stage == 2) fake_data(w->derp.streams[k], "\6\0\0\0\0", 5, w->now_us);
    }
    return TN_NEVER;
}

/* The same for a fixed time; the longest silence a heard. */
static uint64_t net_talk(struct net *w, int a, int b, uint64_t step_us, uint64_t span_us)
{
    uint64_t start_us = w->now_us, worst_us = 0, last_us = w->nodes[a].last_rx_us ? w->nodes[a].last_rx_us : w->now_us;
    for (unsigned i = 0; w->now_us - start_us < span_us; i++) {
        net_ask(w, a, b);
        net_run(w, step_us);
        if (w->nodes[a].last_rx_us > last_us) last_us = w->nodes[a].last_rx_us;
        if (w->now_us - last_us > worst_us) worst_us = w->now_us - last_us;
        if (i % 30 == 0)
            for (size_t k = 0; k < w->derp.count; k++)
                if (w->derp.streams[k]->stage == 2) fake_data(w->derp.streams[k], "\6\0\0\0\0", 5, w->now_us);
    }
    return worst_us;
}

static void net_quiet(struct net *w, unsigned seconds)
{
    for (unsigned i = 0; i < seconds; i++) {
        net_run(w, SEC);
        for (size_t k = 0; i % 30 == 0 && k < w->derp.count; k++)
            if (w->derp.streams[k]->stage == 2) fake_data(w->derp.streams[k], "\6\0\0\0\0", 5, w->now_us);
    }
}

static struct net *net_pair(enum nat a, enum nat b)
{
    struct net *w = net_new(7);
    w->lans[0].nat = a;
    w->lans[1].nat = b;
    net_add(w, 0, true);
    net_add(w, 1, true);
    net_run(w, 2 * SEC);
    net_join(w);
    return w;
}

#endif
