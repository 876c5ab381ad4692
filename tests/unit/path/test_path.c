/* Whole engines on a virtual clock, over an in-memory DERP server and an in-memory UDP network. */
#include "../../../src/path/path.c"
#include "fake.h"
#include "path/latency_check.h"

enum { WIRE_MAX = 128 };

struct world;
struct node {
    struct world *w;
    const char *name;
    struct tn_path *p;
    struct tn_node_private key;
    struct tn_node_public pub;
    struct tn_disco_private disco;
    struct tn_disco_public disco_pub;
    struct tn_addrport udp;      /* our address on the UDP network */
    /* what the owner saw */
    unsigned received, netinfos, endpoint_reports, pings;
    uint8_t datagram[2048];
    size_t datagram_len;
    struct tn_path_source source;
    struct tn_path_peer *from;
    struct tn_path_netinfo ni;
    struct tn_path_endpoint eps[TN_PATH_ENDPOINTS_MAX];
    size_t neps;
    struct tn_path_ping_result ping;
    char ping_code[16];
    bool echo;                   /* answers each datagram inside the callback */
    int last_derp_region;
    bool last_derp_up;
};

struct world {
    uint64_t seed;
    struct fake_net net;         /* of the DERP servers */
    uint64_t now_us;
    struct node nodes[3];
    size_t nnodes;
    struct wire {
        struct tn_addrport from, to;
        uint8_t bytes[2048];
        size_t len;
        uint64_t at_us;
    } wire[WIRE_MAX];
    size_t nwire;
    uint64_t stun_us[10];        /* latency of region n's STUN server, 0: silent */
    unsigned stun_requests;
    bool no_server;              /* DERP connections stay unanswered */
};

static void on_receive(void *ctx, struct tn_path_peer *peer, const struct tn_path_source *from, uint8_t *datagram,
                       size_t len, uint64_t now_us)
{
    struct node *n = ctx;
    n->received++;
    n->from = peer;
    n->source = *from;
    assert_true(len <= sizeof n->datagram);
    memcpy(n->datagram, datagram, len);
    n->datagram_len = len;
    if (len) datagram[0] ^= 0xff;
    if (n->echo && peer) tn_path_send(n->p, peer, (const uint8_t *)"\4echo", 5, now_us);
}
static void on_netinfo(void *ctx, const struct tn_path_netinfo *ni, uint64_t now_us)
{
    struct node *n = ctx;
    n->netinfos++;
    if (ni->preferred_derp && ni->preferred_derp != n->ni.preferred_derp) assert_true(tn_path_home_connected(n->p));
    n->ni = *ni;
}
static void on_endpoints(void *ctx, const struct tn_path_endpoint *eps, size_t count, uint64_t now_us)
{
    struct node *n = ctx;
    n->endpoint_reports++;
    if (count) memcpy(n->eps, eps, count * sizeof *eps);
    n->neps = count;
}
static void on_udp_send(void *ctx, const struct tn_addrport *to, const uint8_t *datagram, size_t len)
{
    struct node *n = ctx;
    struct world *w = n->w;
    uint8_t txid[12];
    assert_true(w->nwire < WIRE_MAX);
    struct wire *x = &w->wire[w->nwire];
    if (to->port == 3478) { /* a STUN server: its answer is on the way */
        int region = to->ip.b[3] % 10;
        assert_int_equal(tn_stun_request_parse(datagram, len, txid), 0);
        w->stun_requests++;
        if (!w->stun_us[region]) return;
        *x = (struct wire){.from = *to, .to = n->udp, .at_us = w->now_us + w->stun_us[region]};
        x->len = tn_stun_response_put(x->bytes, txid, &n->udp);
    } else {
        *x = (struct wire){.from = n->udp, .to = *to, .len = len, .at_us = w->now_us + 5 * MS};
        assert_true(len <= sizeof x->bytes);
        memcpy(x->bytes, datagram, len);
    }
    w->nwire++;
}
static void on_derp_state_cb(void *ctx, int region, bool connected, const char *text)
{
    struct node *n = ctx;
    n->last_derp_region = region;
    n->last_derp_up = connected;
    assert_non_null(text);
}
static void on_ping_done(void *arg, const struct tn_path_ping_result *r)
{
    struct node *n = arg;
    n->pings++;
    n->ping = *r;
    snprintf(n->ping_code, sizeof n->ping_code, "%s", r->derp_code);
}

static struct world *world_new(void)
{
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    w->seed = 11;
    w->now_us = 100 * SEC;
    fake_net_init(&w->net, &w->seed);
    return w;
}

static struct node *node_add(struct world *w, const char *name, bool udp)
{
    struct node *n = &w->nodes[w->nnodes++];
    *n = (struct node){.w = w, .name = name};
    tn_node_private_generate(&n->key, &w->net.rng);
    tn_node_public_of(&n->key, &n->pub);
    tn_disco_private_generate(&n->disco, &w->net.rng);
    tn_disco_public_of(&n->disco, &n->disco_pub);
    n->udp = (struct tn_addrport){.ip = tn_ip4(198, 51, 100, (uint8_t)w->nnodes), .port = 41641};
    struct tn_path_config config = {
        .node_key = n->key, .disco_key = n->disco, .rng = w->net.rng, .dialer = &w->net.dialer,
        .cb = {.receive = on_receive, .netinfo = on_netinfo, .endpoints = on_endpoints, .udp_send = udp ? on_udp_send : NULL,
               .derp_state = on_derp_state_cb},
        .ctx = n};
    assert_int_equal(tn_path_new(&config, &n->p), 0);
    struct tn_ip local = tn_ip4(10, 0, 0, (uint8_t)w->nnodes);
    tn_path_set_local(n->p, &local, 1, 41641, 0, w->now_us);
    return n;
}

static void world_free(struct world *w)
{
    for (size_t i = 0; i < w->nnodes; i++) tn_path_free(w->nodes[i].p);
    for (size_t i = 0; i < w->net.count; i++) assert_true(w->net.streams[i]->gone);
    fake_net_fini(&w->net);
    free(w);
}

#define REGION(id) "\"" #id "\":{\"RegionCode\":\"r" #id "\",\"Nodes\":[{\"Name\":\"" #id "a\",\"HostName\":\"derp" #id "\"," \
                   "\"IPv4\":\"192.0.2." #id "\",\"IPv6\":\"none\"}]}"
static const char map1[] = "{\"Regions\":{" REGION(1) "}}";
static const char map3[] = "{\"Regions\":{" REGION(1) "," REGION(2) "," REGION(3) "}}";

static int set_map(struct node *n, const char *text)
{
    json_t *json = json_loads(text, 0, NULL);
    assert_non_null(json);
    int err = tn_path_set_derp_map(n->p, json, n->w->now_us);
    json_decref(json);
    return err;
}

static void deliver_wire(struct world *w, size_t i)
{
    struct wire x = w->wire[i];
    w->wire[i] = w->wire[--w->nwire];
    for (size_t k = 0; k < w->nnodes; k++)
        if (tn_addrport_eq(&w->nodes[k].udp, &x.to)) tn_path_udp_input(w->nodes[k].p, &x.from, x.bytes, x.len,
                                                                       w->now_us);
}

/* Runs the world for a time: what is due in order, then the DERP servers. */
static void run(struct world *w, uint64_t span_us)
{
    uint64_t end_us = w->now_us + span_us;
    for (int guard = 0;; guard++) {
        uint64_t at_us = end_us;
        size_t wire = WIRE_MAX;
        assert_true(guard < 200000);
        for (size_t i = 0; i < w->nnodes; i++)
            if (tn_path_next_deadline(w->nodes[i].p) < at_us) at_us = tn_path_next_deadline(w->nodes[i].p);
        for (size_t i = 0; i < w->nwire; i++)
            if (w->wire[i].at_us < at_us || (w->wire[i].at_us == at_us &&
                                             wire == WIRE_MAX)) at_us = w->wire[wire = i].at_us;
        if (at_us > w->now_us) w->now_us = at_us;
        if (wire < WIRE_MAX) deliver_wire(w, wire);
        for (size_t i = 0; i < w->nnodes; i++) tn_path_timeout(w->nodes[i].p, w->now_us);
        if (!w->no_server) fake_serve(&w->net, w->now_us);
        if (w->now_us >= end_us) return;
    }
}

/* The same, with servers that send keepalives. */
static void run_kept_alive(struct world *w, unsigned seconds)
{
    for (unsigned i = 0; i < seconds; i++) {
        run(w, SEC);
        for (size_t k = 0; i % 60 == 0 && k < w->net.count; k++)
            if (w->net.streams[k]->stage == 2) fake_data(w->net.streams[k], "\6\0\0\0\0", 5, w->now_us);
    }
}

static struct tn_path_peer *meet(struct node *a, struct node *b, int home)
{
    struct tn_path_peer *peer;
    assert_int_equal(tn_path_peer_add(a->p, &b->pub, b, &peer), 0);
    assert_int_equal(tn_path_peer_update(a->p, peer, &b->disco_pub, home, NULL, 0, a->w->now_us), 0);
    return peer;
}

/* Two nodes on one region, up. */
static struct world *pair(void)
{
    struct world *w = world_new();
    w->stun_us[1] = 10 * MS;
    for (int i = 0; i < 2; i++) {
        struct node *n = node_add(w, i ? "b" : "a", true);
        assert_int_equal(set_map(n, map1), 0);
        tn_path_start(n->p, w->now_us);
    }
    run(w, SEC);
    return w;
}

/* ---- tests ---- */

static void test_home_comes_up_and_is_told(void **state)
{
    struct world *w = pair();
    struct node *a = &w->nodes[0];
    assert_int_equal(tn_path_home_derp(a->p), 1);
    assert_true(tn_path_home_connected(a->p));
    assert_int_equal(a->ni.preferred_derp, 1);
    assert_int_equal(a->ni.udp, 1);
    assert_int_equal(a->ni.ipv6, 0);
    assert_int_equal(a->ni.os_has_ipv6, 0);
    assert_int_equal(a->ni.nlatency, 1);
    assert_string_equal(a->ni.latency[0].name, "1-v4");
    assert_true(a->ni.latency[0].seconds > 0.0099 && a->ni.latency[0].seconds < 0.0101);
    assert_int_equal(a->neps, 2);
    assert_int_equal(a->eps[0].type, 2); /* STUN first */
    assert_true(tn_addrport_eq(&a->eps[0].addr, &a->udp));
    assert_int_equal(a->eps[1].type, 1);
    assert_int_equal(a->last_derp_region, 1);
    assert_true(a->last_derp_up);
    assert_string_equal(tn_path_region_code(a->p, 1), "r1");
    assert_string_equal(tn_path_region_code(a->p, 2), "");
    world_free(w);
}

static void test_nothing_is_told_before_the_home_is_connected(void **state)
{
    struct world *w = world_new();
    w->stun_us[1] = 10 * MS;
    w->no_server = true;
    struct node *a = node_add(w, "a", true);
    assert_int_equal(set_map(a, map1), 0);
    tn_path_start(a->p, w->now_us);
    run(w, 5 * SEC);
    assert_int_equal(tn_path_home_derp(a->p), 1); /* chosen */
    assert_false(tn_path_home_connected(a->p));
    assert_int_equal(a->ni.preferred_derp, 0);
    run(w, 10 * SEC); /* the connect failed: what is known is told, without a home */
    assert_true(a->netinfos >= 1);
    assert_int_equal(a->ni.preferred_derp, 0);
    w->no_server = false;
    run(w, 20 * SEC);
    assert_int_equal(a->ni.preferred_derp, 1);
    world_free(w);
}

static void test_datagrams_both_ways(void **state)
{
    struct world *w = pair();
    struct node *a = &w->nodes[0], *b = &w->nodes[1];
    struct tn_path_peer *ab = meet(a, b, 1), *ba = meet(b, a, 1);
    struct tn_path_peer_status st;
    assert_ptr_equal(tn_path_peer_arg(ab), b);
    b->echo = true;
    tn_path_send(a->p, ab, (const uint8_t *)"\1hello", 6, w->now_us);
    run(w, 0);
    assert_int_equal(b->received, 1);
    assert_ptr_equal(b->from, ba);
    assert_memory_equal(b->datagram, "\1hello", 6);
    assert_int_equal(b->source.derp_region, 1);
    assert_int_equal(b->source.addr.ip.family, 0);
    assert_memory_equal(b->source.derp_key.b, a->pub.b, 32);
    assert_int_equal(a->received, 1);
    assert_memory_equal(a->datagram, "\4echo", 5);
    tn_path_reply(b->p, &b->source, (const uint8_t *)"\3cookie", 7, w->now_us);
    run(w, 0);
    assert_memory_equal(a->datagram, "\3cookie", 7);
    tn_path_peer_status(a->p, ab, w->now_us, &st);
    assert_int_equal(st.derp_region, 1);
    assert_string_equal(st.derp_code, "r1");
    assert_int_equal(st.direct.ip.family, 0);
    world_free(w);
}

static void test_strangers_are_dropped(void **state)
{
    struct world *w = pair();
    struct node *a = &w->nodes[0], *b = &w->nodes[1];
    struct tn_path_peer *ab = meet(a, b, 1); /* b does not know a */
    tn_path_send(a->p, ab, (const uint8_t *)"\1hello", 6, w->now_us);
    assert_int_equal(tn_path_ping(a->p, ab, on_ping_done, a, w->now_us), 0);
    run(w, 6 * SEC);
    assert_int_equal(b->received, 0);
    assert_int_equal(a->pings, 1);
    assert_int_equal(a->ping.err, TN_E_TIMEDOUT);
    world_free(w);
}

static void test_ping_over_derp(void **state)
{
    struct world *w = pair();
    struct node *a = &w->nodes[0], *b = &w->nodes[1];
    struct tn_path_peer *ab = meet(a, b, 1);
    meet(b, a, 1);
    assert_int_equal(tn_path_ping(a->p, ab, on_ping_done, a, w->now_us), 0);
    assert_int_equal(a->pings, 0);
    run(w, 0);
    assert_int_equal(a->pings, 1);
    assert_int_equal(a->ping.err, 0);
    assert_int_equal(a->ping.derp_region, 1);
    assert_string_equal(a->ping_code, "r1");
    assert_int_equal(a->ping.addr.ip.family, 0);
    assert_int_equal(a->received + b->received, 0); /* disco never reaches the owner */
    run(w, 10 * SEC);
    assert_int_equal(a->pings, 1);
    world_free(w);
}

static void test_ping_over_udp(void **state)
{
    struct world *w = pair();
    struct node *a = &w->nodes[0], *b = &w->nodes[1];
    struct tn_path_peer *ab = meet(a, b, 0), *ba = meet(b, a, 0);
    assert_int_equal(tn_path_peer_update(a->p, ab, &b->disco_pub, 0, &b->udp, 1, w->now_us), 0);
    tn_derp_set_home(a->p->derp, 0, w->now_us); /* no relay: only the address is left */
    assert_int_equal(tn_path_ping(a->p, ab, on_ping_done, a, w->now_us), 0);
    run(w, 20 * MS);
    assert_int_equal(a->pings, 1);
    assert_int_equal(a->ping.err, 0);
    assert_true(tn_addrport_eq(&a->ping.addr, &b->udp));
    assert_int_equal(a->ping.latency_us, 10 * MS);
    assert_int_equal(a->ping.derp_region, 0);
    assert_int_equal(ba->ncandidates, 1); /* b learned where a is */
    assert_true(tn_addrport_eq(&ba->candidates[0].addr, &a->udp));
    world_free(w);
}

static void test_ping_failures(void **state)
{
    struct world *w = pair();
    struct node *a = &w->nodes[0], *b = &w->nodes[1];
    struct tn_path_peer *ab = meet(a, b, 1);
    assert_int_equal(tn_path_peer_update(a->p, ab, NULL, 1, NULL, 0, w->now_us), 0);
    assert_int_equal(tn_path_ping(a->p, ab, on_ping_done, a, w->now_us), TN_E_NOENT);
    assert_int_equal(tn_path_peer_update(a->p, ab, &b->disco_pub, 1, NULL, 0, w->now_us), 0);
    for (int i = 0; i < TN_PATH_PINGS_MAX; i++) assert_int_equal(tn_path_ping(a->p, ab, on_ping_done, a, w->now_us),
                                                                 0);
    assert_int_equal(tn_path_ping(a->p, ab, on_ping_done, a, w->now_us), TN_E_LIMIT);
    tn_path_peer_remove(a->p, ab);
    assert_int_equal(a->pings, TN_PATH_PINGS_MAX);
    assert_int_equal(a->ping.err, TN_E_CANCELED);
    ab = meet(a, b, 1);
    assert_int_equal(tn_path_ping(a->p, ab, on_ping_done, a, w->now_us), 0);
    a->pings = 0;
    tn_path_free(a->p); /* no callback */
    assert_int_equal(a->pings, 0);
    a->p = NULL;
    w->nodes[0] = w->nodes[1];
    w->nnodes = 1;
    world_free(w);
}

static struct {
    size_t runs, bytes, segment;
} seen_runs;

static void on_receive_run(void *ctx, const struct tn_path_source *from, uint8_t *run, size_t len, size_t segment,
                           uint64_t now_us)
{
    seen_runs.runs++;
    seen_runs.bytes += len;
    seen_runs.segment = segment;
    memset(run, 0xff, len);
}

/* Data in a row is one run; what lies between is looked at by itself, and the rest goes on. */
static void test_runs_are_sorted(void **state)
{
    struct world *w = pair();
    struct node *a = &w->nodes[0];
    struct tn_addrport stranger = {.ip = tn_ip4(203, 0, 113, 9), .port = 999};
    uint8_t run[9 * 100 + 40] = {0};
    for (size_t i = 0; i < 10; i++) run[i * 100] = i == 2 || i == 5 ? 1 : 4; /* two handshake messages */
    a->p->config.cb.receive_run = on_receive_run;
    memset(&seen_runs, 0, sizeof seen_runs);
    tn_path_udp_input_run(a->p, &stranger, run, sizeof run, 100, w->now_us);
    assert_int_equal(seen_runs.runs, 3); /* 0 1 | 3 4 | 6 7 8 9 */
    assert_int_equal(seen_runs.bytes, 2 * 100 + 2 * 100 + 3 * 100 + 40);
    assert_int_equal(a->received, 2);
    memset(run, 0, sizeof run);
    for (size_t i = 0; i < 10; i++) run[i * 100] = 4;
    a->p->config.cb.receive_run = NULL;
    tn_path_udp_input_run(a->p, &stranger, run, sizeof run, 100, w->now_us);
    assert_int_equal(a->received, 12);
    tn_path_udp_input_run(a->p, &stranger, run, 31, 31, w->now_us);
    tn_path_udp_input_run(a->p, &stranger, run, 0, 0, w->now_us);
    assert_int_equal(a->received, 14);
    world_free(w);
}

static void test_wireguard_from_any_address(void **state)
{
    struct world *w = pair();
    struct node *a = &w->nodes[0];
    uint8_t wg[148] = {1}, geneve[20] = {0, 0, 0x7a, 0x12}, stun[20] = {1, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42};
    struct tn_addrport stranger = {.ip = tn_ip4(203, 0, 113, 9), .port = 999};
    tn_path_udp_input(a->p, &stranger, wg, sizeof wg, w->now_us);
    assert_int_equal(a->received, 1);
    assert_null(a->from);
    assert_true(tn_addrport_eq(&a->source.addr, &stranger));
    tn_path_udp_input(a->p, &stranger, geneve, sizeof geneve, w->now_us);
    tn_path_udp_input(a->p, &stranger, stun, sizeof stun, w->now_us);
    assert_int_equal(a->received, 1);
    tn_path_reply(a->p, &a->source, (const uint8_t *)"\3cookie", 7, w->now_us);
    assert_int_equal(w->nwire, 1);
    assert_true(tn_addrport_eq(&w->wire[0].to, &stranger));
    w->nwire = 0;
    /* short ones are WG's to refuse */
    for (size_t n = 0; n < 64; n++) tn_path_udp_input(a->p, &stranger, wg, n, w->now_us);
    world_free(w);
}

static size_t seal(struct node *from, const struct tn_disco_public *to, const uint8_t *msg, size_t len, uint8_t *out)
{
    struct tn_box_shared k;
    struct tn_wr w = tn_wr_init(out, 4096);
    assert_int_equal(tn_box_shared_init(&k, from->disco.b, to->b), 0);
    tn_disco_header_put(&w, from->disco_pub.b);
    tn_box_seal(&k, &from->w->net.rng, msg, len, tn_wr_make(&w, len + TN_BOX_OVERHEAD));
    return tn_wr_len(&w);
}

static void test_udp_ping_is_answered_to_its_source(void **state)
{
    struct world *w = pair();
    struct node *a = &w->nodes[0], *b = &w->nodes[1];
    meet(a, b, 1);
    uint8_t msg[64], packet[4096], tx[12] = {5};
    struct tn_addrport from = {.ip = tn_ip4(203, 0, 113, 50), .port = 1234};
    struct tn_wr wr = tn_wr_init(msg, sizeof msg);
    tn_disco_ping_put(&wr, tx, b->pub.b, 0);
    size_t len = seal(b, &a->disco_pub, msg, tn_wr_len(&wr), packet);
    assert_int_equal(len, 124);
    tn_path_udp_input(a->p, &from, packet, len, w->now_us);
    assert_int_equal(w->nwire, 1);
    assert_true(tn_addrport_eq(&w->wire[0].to, &from));
    assert_true(w->wire[0].len < len); /* nothing to amplify with */
    struct tn_box_shared k;
    struct tn_disco_msg m;
    uint8_t opened[256];
    assert_int_equal(tn_box_shared_init(&k, b->disco.b, a->disco_pub.b), 0);
    assert_int_equal(tn_box_open(&k, w->wire[0].bytes + 38, w->wire[0].len - 38, opened), 0);
    assert_int_equal(tn_disco_parse(opened, w->wire[0].len - 38 - TN_BOX_OVERHEAD, &m), 0);
    assert_int_equal(m.type, TN_DISCO_PONG);
    assert_memory_equal(m.txid, tx, 12);
    assert_true(tn_addrport_eq(&m.src, &from));
    tn_path_udp_input(a->p, &from, packet, len, w->now_us); /* the same one again, over a second way */
    assert_int_equal(w->nwire, 1);
    from.port++; /* from elsewhere it tells the peer something new */
    tn_path_udp_input(a->p, &from, packet, len, w->now_us);
    assert_int_equal(w->nwire, 2);
    w->nwire = 0;
    world_free(w);
}

static void test_hostile_disco(void **state)
{
    struct world *w = pair();
    struct node *a = &w->nodes[0], *b = &w->nodes[1], *c = node_add(w, "c", true);
    struct tn_path_peer *ab = meet(a, b, 1);
    uint8_t msg[2048] = {0}, packet[4096], tx[12] = {5};
    struct tn_addrport from = {.ip = tn_ip4(203, 0, 113, 50), .port = 1234};
    struct tn_wr wr = tn_wr_init(msg, sizeof msg);
    tn_disco_ping_put(&wr, tx, c->pub.b, 0);
    size_t len = seal(c, &a->disco_pub, msg, tn_wr_len(&wr), packet);
    tn_path_udp_input(a->p, &from, packet, len, w->now_us); /* unknown key */
    len = seal(b, &c->disco_pub, msg, tn_wr_len(&wr), packet);
    tn_path_udp_input(a->p, &from, packet, len, w->now_us); /* sealed to someone else */
    len = seal(b, &a->disco_pub, msg, tn_wr_len(&wr), packet);
    for (size_t n = 0; n < len; n++) {
        uint8_t *cut = malloc(n ? n : 1);
        memcpy(cut, packet, n);
        tn_path_udp_input(a->p, &from, cut, n, w->now_us);
        free(cut);
    }
    for (size_t i = 38; i < len; i++) {
        packet[i] ^= 1;
        tn_path_udp_input(a->p, &from, packet, len, w->now_us);
        packet[i] ^= 1;
    }
    assert_int_equal(w->nwire, 0);
    for (int type = 0; type < 256; type++) { /* sealed by a peer, but none of our business */
        memset(msg, 0, sizeof msg);
        msg[0] = (uint8_t)type;
        len = seal(b, &a->disco_pub, msg, 2, packet);
        tn_path_udp_input(a->p, &from, packet, len, w->now_us);
    }
    assert_int_equal(w->nwire, 0);
    for (int i = 0; i < 200; i++) { /* a peer that moves all the time gains a bounded number of candidates */
        memset(msg, 0, sizeof msg);
        tx[1] = (uint8_t)i;
        wr = tn_wr_init(msg, sizeof msg);
        tn_disco_ping_put(&wr, tx, b->pub.b, 0);
        from.port = (uint16_t)(2000 + i);
        len = seal(b, &a->disco_pub, msg, tn_wr_len(&wr), packet);
        tn_path_udp_input(a->p, &from, packet, len, w->now_us);
        w->nwire = 0;
    }
    assert_int_equal(ab->ncandidates, 16);
    w->now_us += 46 * SEC;
    from.port = 5;
    tn_path_udp_input(a->p, &from, packet, len, w->now_us); /* the old ones have expired */
    assert_int_equal(ab->ncandidates, 1);
    w->nwire = 0;
    world_free(w);
}

static void test_call_me_maybe(void **state)
{
    struct world *w = pair();
    struct node *a = &w->nodes[0], *b = &w->nodes[1];
    struct tn_path_peer *ab = meet(a, b, 1);
    uint8_t msg[2048], packet[4096];
    struct tn_addrport eps[100];
    for (int i = 0; i < 100; i++) eps[i] = (struct tn_addrport){.ip = tn_ip4(203, 0, 113, (uint8_t)i), .port = 7};
    eps[1].ip = tn_ip4(224, 0, 0, 1);
    eps[2].ip = tn_ip4(100, 100, 1, 1);
    eps[3].port = 0;
    struct tn_wr wr = tn_wr_init(msg, sizeof msg);
    tn_disco_call_me_maybe_put(&wr, eps, 100);
    size_t len = seal(b, &a->disco_pub, msg, tn_wr_len(&wr), packet);
    tn_path_udp_input(a->p, &b->udp, packet, len, w->now_us); /* not over DERP: ignored */
    assert_int_equal(ab->ncandidates, 0);
    meet(b, a, 1);
    tn_derp_set_send(b->p->derp, 1, &a->pub, packet, len, w->now_us);
    run(w, 0);
    /* a bounded number, and nothing that is no unicast address of the internet */
    assert_int_equal(ab->ncandidates, 32 - 3);
    wr = tn_wr_init(msg, sizeof msg);
    tn_disco_call_me_maybe_put(&wr, eps, 1);
    len = seal(b, &a->disco_pub, msg, tn_wr_len(&wr), packet);
    tn_derp_set_send(b->p->derp, 1, &a->pub, packet, len, w->now_us);
    run(w, 0);
    assert_int_equal(ab->ncandidates, 1); /* the newest replaces the set */
    world_free(w);
}

/* A node that is not the key's owner can't speak for it, even when it is a known peer. */
static void test_call_me_maybe_from_another_node(void **state)
{
    struct world *w = pair();
    struct node *a = &w->nodes[0], *b = &w->nodes[1], *c = node_add(w, "c", true);
    assert_int_equal(set_map(c, map1), 0);
    tn_path_start(c->p, w->now_us);
    run(w, SEC);
    struct tn_path_peer *ab = meet(a, b, 1), *ac = meet(a, c, 1);
    uint8_t msg[64], packet[4096];
    struct tn_addrport ep = {.ip = tn_ip4(203, 0, 113, 1), .port = 7};
    struct tn_wr wr = tn_wr_init(msg, sizeof msg);
    tn_disco_call_me_maybe_put(&wr, &ep, 1);
    size_t len = seal(b, &a->disco_pub, msg, tn_wr_len(&wr), packet);
    tn_derp_set_send(c->p->derp, 1, &a->pub, packet, len, w->now_us);
    run(w, 0);
    assert_int_equal(ab->ncandidates + ac->ncandidates, 0);
    world_free(w);
}

static void test_other_regions_on_demand(void **state)
{
    struct world *w = world_new();
    w->stun_us[1] = 10 * MS;
    w->stun_us[2] = 100 * MS;
    w->stun_us[3] = 200 * MS;
    struct node *a = node_add(w, "a", true), *b = node_add(w, "b", true);
    assert_int_equal(set_map(a, map3), 0);
    assert_int_equal(set_map(b, map3), 0);
    tn_path_start(a->p, w->now_us);
    run(w, SEC);
    w->stun_us[1] = 0; /* b lives elsewhere */
    tn_path_start(b->p, w->now_us);
    run(w, 5 * SEC);
    assert_int_equal(tn_path_home_derp(a->p), 1);
    assert_int_equal(tn_path_home_derp(b->p), 2);
    struct tn_path_peer *ab = meet(a, b, 2), *ba = meet(b, a, 0);
    size_t before = w->net.count;
    tn_path_send(a->p, ab, (const uint8_t *)"\1hello", 6, w->now_us);
    run(w, 0);
    assert_int_equal(w->net.count, before + 1);
    assert_string_equal(fake_last(&w->net)->host, "derp2");
    assert_int_equal(b->received, 1);
    tn_path_send(b->p, ba, (const uint8_t *)"\2hi", 3, w->now_us); /* home unknown: where it was heard */
    run(w, 0);
    assert_int_equal(a->received, 1);
    assert_int_equal(a->source.derp_region, 2);
    assert_int_equal(w->net.count, before + 1);
    run(w, 59 * SEC);
    assert_true(tn_derp_set_up(a->p->derp, 2));
    run(w, 2 * SEC);
    assert_false(tn_derp_set_up(a->p->derp, 2)); /* 60 s without sending */
    assert_true(tn_derp_set_up(a->p->derp, 1));
    world_free(w);
}

static void test_peer_gone_forgets_the_route(void **state)
{
    struct world *w = pair();
    struct node *a = &w->nodes[0], *b = &w->nodes[1];
    struct tn_path_peer *ab = meet(a, b, 1), *ba = meet(b, a, 1);
    tn_path_send(b->p, ba, (const uint8_t *)"\1x", 2, w->now_us);
    run(w, 0);
    assert_int_equal(ab->route.region, 1);
    uint8_t out[64];
    struct tn_wr wr = tn_wr_init(out, sizeof out);
    tn_derp_peer_gone_put(&wr, b->pub.b, TN_DERP_GONE_DISCONNECTED);
    fake_data(w->net.streams[0], out, tn_wr_len(&wr), w->now_us);
    assert_int_equal(ab->route.region, 0);
    world_free(w);
}

static void test_route_dies_with_its_connection(void **state)
{
    struct world *w = pair();
    struct node *a = &w->nodes[0], *b = &w->nodes[1];
    struct tn_path_peer *ab = meet(a, b, 0), *ba = meet(b, a, 1);
    struct tn_path_peer_status st;
    tn_path_send(b->p, ba, (const uint8_t *)"\1x", 2, w->now_us);
    run(w, 0);
    tn_derp_set_home(a->p->derp, 0, w->now_us);
    tn_path_peer_status(a->p, ab, w->now_us, &st);
    assert_int_equal(st.derp_region, 1);
    struct tn_derp_client *c = tn_derp_set_client(a->p->derp, 1);
    tn_derp_client_reconnect(c, w->now_us);
    run(w, 0);
    assert_true(tn_derp_set_up(a->p->derp, 1)); /* up again, but it is another connection */
    tn_path_peer_status(a->p, ab, w->now_us, &st);
    assert_int_equal(st.derp_region, 0);
    world_free(w);
}

static void test_home_moves_with_the_latencies(void **state)
{
    struct world *w = world_new();
    for (int i = 1; i <= 3; i++) w->stun_us[i] = (uint64_t)i * 40 * MS;
    struct node *a = node_add(w, "a", true), *b = node_add(w, "b", true);
    tn_path_start(a->p, w->now_us);
    assert_int_equal(set_map(a, map3), 0);
    meet(a, b, 0);
    run(w, 2 * SEC);
    assert_int_equal(a->ni.preferred_derp, 1);
    w->stun_us[1] = 500 * MS;
    w->stun_us[3] = 5 * MS;
    tn_path_set_control_up(a->p, false);
    tn_path_link_changed(a->p, w->now_us);
    run(w, 5 * SEC);
    assert_int_equal(tn_path_home_derp(a->p), 1); /* control is away: nobody would learn of a move */
    tn_path_set_control_up(a->p, true);
    tn_path_link_changed(a->p, w->now_us);
    w->no_server = true;
    run(w, 3 * SEC);
    assert_int_equal(tn_path_home_derp(a->p), 3);
    assert_int_equal(a->ni.preferred_derp, 1); /* not yet connected there: peers still find us at 1 */
    w->no_server = false;
    run(w, 2 * SEC);
    assert_int_equal(a->ni.preferred_derp, 3);
    assert_true(tn_derp_set_up(a->p->derp, 1)); /* kept while peers learn */
    world_free(w);
}

/* STUN answers at region 1, but its DERP server can't be reached: another region becomes the home. */
static void test_unreachable_home_is_left(void **state)
{
    struct world *w = world_new();
    for (int i = 1; i <= 3; i++) w->stun_us[i] = (uint64_t)i * 40 * MS;
    struct node *a = node_add(w, "a", true);
    assert_int_equal(set_map(a, map3), 0);
    tn_path_start(a->p, w->now_us);
    w->no_server = true;
    for (int i = 0; i < 60 && a->ni.preferred_derp == 0; i++) {
        run(w, SEC);
        for (size_t k = 0; k < w->net.count; k++) {
            struct fake_stream *f = w->net.streams[k];
            if (f->gone) continue;
            if (strcmp(f->host, "derp1") == 0) {
                fake_lose(f, TN_E_REFUSED, w->now_us);
                continue;
            }
            if (!f->open) fake_open(f, w->now_us);
            while (fake_serve_stream(&w->net, f, w->now_us)) {}
        }
    }
    assert_int_equal(a->ni.preferred_derp, 2);
    world_free(w);
}

static void test_udp_blocked_measures_over_https(void **state)
{
    struct world *w = world_new();
    struct node *a = node_add(w, "a", true);
    assert_int_equal(set_map(a, map3), 0);
    tn_path_start(a->p, w->now_us);
    w->no_server = true;
    run(w, 3100 * MS); /* no STUN answer */
    assert_non_null(a->p->latency_check);
    assert_int_equal(w->net.count, 3);
    for (size_t i = 0; i < 3; i++) fake_open(w->net.streams[i], w->now_us);
    static const struct { size_t stream; uint64_t at_ms; const char *answer; } answers[] = {
        {0, 10, "HTTP/1.1 404 Not Found\r\n\r\n"}, {2, 20, "HTTP/1.1 204 No Content\r\n\r\n"},
            {1, 90, "HTTP/1.1 200 OK\r\n\r\n"}};
    uint64_t start_us = w->now_us;
    for (size_t i = 0; i < 3; i++) {
        struct fake_stream *f = w->net.streams[answers[i].stream];
        assert_non_null(memmem(tn_buf_data(&f->sent), tn_buf_len(&f->sent), "GET /derp/latency-check HTTP/1.1\r\n",
                               34));
        w->now_us = start_us + answers[i].at_ms * MS;
        fake_data(f, answers[i].answer, strlen(answers[i].answer), w->now_us);
        assert_true(f->gone);
    }
    w->no_server = false;
    run(w, 100 * MS);
    assert_null(a->p->latency_check);
    assert_int_equal(a->ni.preferred_derp, 3);
    assert_int_equal(a->ni.udp, 0);
    world_free(w);
}

static void test_no_answer_at_all_picks_a_stable_region(void **state)
{
    int picks[2];
    for (int i = 0; i < 2; i++) {
        struct world *w = world_new();
        struct node *a = node_add(w, "a", false); /* relay only */
        assert_int_equal(set_map(a, map3), 0);
        tn_path_start(a->p, w->now_us);
        w->no_server = true;
        run(w, 6 * SEC);
        picks[i] = tn_path_home_derp(a->p);
        assert_true(picks[i] >= 1 && picks[i] <= 3);
        assert_int_equal(w->stun_requests, 0);
        w->no_server = false;
        run(w, 30 * SEC);
        assert_int_equal(a->ni.preferred_derp, picks[i]);
        assert_int_equal(a->endpoint_reports, 0);
        world_free(w);
    }
    assert_int_equal(picks[0], picks[1]);
}

static void test_checks_stop_when_idle(void **state)
{
    struct world *w = pair();
    struct node *a = &w->nodes[0], *b = &w->nodes[1];
    struct tn_path_peer *ab = meet(a, b, 1);
    unsigned before = w->stun_requests;
    run_kept_alive(w, 300);
    assert_int_equal(w->stun_requests, before); /* no data: no probes */
    for (int i = 0; i < 60; i++) {
        tn_path_send(a->p, ab, (const uint8_t *)"\1x", 2, w->now_us);
        run(w, SEC);
    }
    unsigned active = w->stun_requests - before;
    assert_true(active >= 3 && active <= 6); /* a full one at once, then every 20 to 26 s */
    run_kept_alive(w, 100);
    before = w->stun_requests;
    run_kept_alive(w, 300);
    assert_int_equal(w->stun_requests, before); /* 45 s more, then silence */
    world_free(w);
}

static void test_reports_only_changes(void **state)
{
    struct world *w = pair();
    struct node *a = &w->nodes[0], *b = &w->nodes[1];
    struct tn_path_peer *ab = meet(a, b, 1);
    unsigned netinfos = a->netinfos, endpoints = a->endpoint_reports;
    for (int i = 0; i < 60; i++) {
        w->stun_us[1] = (uint64_t)(10 + i) * MS; /* jitter */
        tn_path_send(a->p, ab, (const uint8_t *)"\1x", 2, w->now_us);
        run(w, SEC);
    }
    assert_int_equal(a->netinfos, netinfos);
    assert_int_equal(a->endpoint_reports, endpoints);
    struct tn_ip local[2] = {tn_ip4(10, 0, 0, 1), tn_ip4(10, 9, 9, 9)};
    tn_path_set_local(a->p, local, 2, 41641, 0, w->now_us);
    assert_int_equal(a->endpoint_reports, endpoints + 1);
    assert_int_equal(a->neps, 3);
    a->udp.port = 5555; /* the NAT gives another mapping; the old one stays known for five minutes */
    tn_path_set_local(a->p, local, 1, 41641, 0, w->now_us);
    for (int i = 0; i < 60; i++) {
        tn_path_send(a->p, ab, (const uint8_t *)"\1x", 2, w->now_us);
        run(w, SEC);
    }
    assert_int_equal(a->neps, 3);
    assert_int_equal(a->eps[0].addr.port, 5555);
    for (int i = 0; i < 330; i++) {
        tn_path_send(a->p, ab, (const uint8_t *)"\1x", 2, w->now_us);
        run(w, SEC);
    }
    assert_int_equal(a->neps, 2);
    world_free(w);
}

static void test_lost_home_is_reconnected(void **state)
{
    struct world *w = pair();
    struct node *a = &w->nodes[0];
    unsigned netinfos = a->netinfos;
    size_t before = w->net.count;
    fake_lose(w->net.streams[0], TN_E_RESET, w->now_us);
    assert_false(tn_path_home_connected(a->p));
    assert_false(a->last_derp_up);
    run(w, SEC);
    assert_true(tn_path_home_connected(a->p));
    assert_int_equal(w->net.count, before + 1);
    assert_true(fake_last(&w->net)->preferred);
    assert_int_equal(a->netinfos, netinfos); /* a short loss is no news for control */
    world_free(w);
}

static void test_new_node_key(void **state)
{
    struct world *w = pair();
    struct node *a = &w->nodes[0];
    struct tn_node_private key, zero = {0};
    struct tn_node_public pub;
    unsigned netinfos = a->netinfos;
    tn_node_private_generate(&key, &w->net.rng);
    tn_node_public_of(&key, &pub);
    assert_int_equal(tn_path_set_node_key(a->p, &zero, w->now_us), TN_E_INVAL);
    assert_int_equal(tn_path_set_node_key(a->p, &a->key, w->now_us), 0); /* the same: nothing happens */
    assert_true(tn_path_home_connected(a->p));
    assert_int_equal(tn_path_set_node_key(a->p, &key, w->now_us), 0);
    assert_false(tn_path_home_connected(a->p));
    run(w, SEC);
    assert_true(tn_path_home_connected(a->p));
    assert_memory_equal(fake_last(&w->net)->client.b, pub.b, 32);
    assert_int_equal(a->netinfos, netinfos + 1); /* told again for the new identity */
    assert_int_equal(a->ni.preferred_derp, 1);
    world_free(w);
}

static void test_map_changes(void **state)
{
    struct world *w = pair();
    struct node *a = &w->nodes[0];
    size_t before = w->net.count;
    assert_int_equal(set_map(a, "{\"Regions\":{\"x\":{}}}"), TN_E_MALFORMED); /* the old map stays */
    assert_true(tn_path_home_connected(a->p));
    unsigned probes = w->stun_requests;
    assert_int_equal(set_map(a, map1), 0); /* the same again */
    run(w, SEC);
    assert_int_equal(w->stun_requests, probes);
    assert_int_equal(w->net.count, before);
    assert_int_equal(set_map(a, map3), 0); /* region 1 is as it was */
    run(w, SEC);
    assert_int_equal(w->net.count, before);
    assert_int_equal(set_map(a, "{\"Regions\":{\"1\":{\"Nodes\":[{\"Name\":\"z\",\"HostName\":\"other\"}]}}}"), 0);
    run(w, SEC);
    assert_int_equal(w->net.count, before + 1);
    assert_string_equal(fake_last(&w->net)->host, "other");
    assert_true(tn_path_home_connected(a->p));
    w->stun_us[2] = 10 * MS;
    assert_int_equal(set_map(a, "{\"Regions\":{" REGION(2) "}}"), 0); /* the home is gone */
    run(w, SEC);
    assert_int_equal(tn_path_home_derp(a->p), 2);
    assert_int_equal(a->ni.preferred_derp, 2);
    assert_int_equal(set_map(a, "{\"Regions\":{}}"), 0); /* no DERP at all */
    run(w, SEC);
    assert_int_equal(tn_path_home_derp(a->p), 0);
    assert_int_equal(a->ni.preferred_derp, 0);
    world_free(w);
}

static void test_node_known_by_name_learns_its_stun_server(void **state)
{
    struct world *w = world_new();
    struct node *a = node_add(w, "a", true);
    w->stun_us[0] = 10 * MS; /* 192.0.2.80: what the stream says it is connected to */
    assert_int_equal(set_map(a, "{\"Regions\":{\"1\":{\"Nodes\":[{\"Name\":\"1a\",\"HostName\":\"derp1\"}]}}}"), 0);
    tn_path_start(a->p, w->now_us);
    run(w, SEC);
    assert_int_equal(a->ni.preferred_derp, 1);
    assert_int_equal(a->ni.udp, 1);
    assert_true(w->stun_requests >= 1);
    unsigned probes = w->stun_requests;
    assert_int_equal(set_map(a, "{\"Regions\":{\"1\":{\"Nodes\":[{\"Name\":\"1a\",\"HostName\":\"derp1\"}]}," REGION(2) "}}"), 0);
    run(w, SEC); /* the region is the same: what was learned stays */
    assert_true(w->stun_requests > probes);
    assert_int_equal(a->ni.udp, 1);
    world_free(w);
}

/* STUN answers everywhere, but the two best regions never answer on TCP: the third becomes the home. */
static void test_several_unreachable_homes(void **state)
{
    struct world *w = world_new();
    for (int i = 1; i <= 3; i++) w->stun_us[i] = (uint64_t)i * 40 * MS;
    struct node *a = node_add(w, "a", true);
    assert_int_equal(set_map(a, map3), 0);
    tn_path_start(a->p, w->now_us);
    w->no_server = true;
    for (int i = 0; i < 120 && a->ni.preferred_derp == 0; i++) {
        run(w, SEC);
        for (size_t k = 0; k < w->net.count; k++) {
            struct fake_stream *f = w->net.streams[k];
            if (f->gone || strcmp(f->host, "derp3") != 0) continue; /* the others never answer */
            if (!f->open) fake_open(f, w->now_us);
            while (fake_serve_stream(&w->net, f, w->now_us)) {}
        }
    }
    assert_int_equal(a->ni.preferred_derp, 3);
    world_free(w);
}

static void test_peers_table(void **state)
{
    struct world *w = pair();
    struct node *a = &w->nodes[0], *b = &w->nodes[1];
    struct tn_path_peer *peer, *second;
    struct tn_node_public other = {{1}};
    peer = meet(a, b, 1);
    assert_int_equal(tn_path_peer_add(a->p, &b->pub, NULL, &second), TN_E_EXIST);
    assert_int_equal(tn_path_peer_add(a->p, &other, NULL, &second), 0);
    /* one machine, two nodes */
    assert_int_equal(tn_path_peer_update(a->p, second, &b->disco_pub, 1, NULL, 0, w->now_us), 0);
    assert_ptr_equal(peer->disco, second->disco);
    tn_path_peer_remove(a->p, peer);
    assert_non_null(tn_path_disco_by_key(a->p, b->disco_pub.b));
    tn_path_peer_remove(a->p, second);
    assert_null(tn_path_disco_by_key(a->p, b->disco_pub.b));
    struct tn_addrport eps[200];
    for (int i = 0; i < 200; i++) eps[i] = (struct tn_addrport){.ip = tn_ip4(203, 0, 113, (uint8_t)i), .port = 7};
    peer = meet(a, b, 70000);
    assert_int_equal(peer->home_derp, 0);
    assert_int_equal(tn_path_peer_update(a->p, peer, &b->disco_pub, 1, eps, 200, w->now_us), 0);
    assert_int_equal(peer->ncandidates, TN_PATH_CANDIDATES_NETMAP);
    assert_int_equal(tn_path_peer_update(a->p, peer, &b->disco_pub, 1, eps, 1, w->now_us), 0);
    assert_int_equal(peer->ncandidates, 1);
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_home_comes_up_and_is_told),
        cmocka_unit_test(test_nothing_is_told_before_the_home_is_connected),
        cmocka_unit_test(test_datagrams_both_ways),
        cmocka_unit_test(test_strangers_are_dropped),
        cmocka_unit_test(test_ping_over_derp),
        cmocka_unit_test(test_ping_over_udp),
        cmocka_unit_test(test_ping_failures),
        cmocka_unit_test(test_wireguard_from_any_address),
        cmocka_unit_test(test_runs_are_sorted),
        cmocka_unit_test(test_udp_ping_is_answered_to_its_source),
        cmocka_unit_test(test_hostile_disco),
        cmocka_unit_test(test_call_me_maybe),
        cmocka_unit_test(test_call_me_maybe_from_another_node),
        cmocka_unit_test(test_other_regions_on_demand),
        cmocka_unit_test(test_peer_gone_forgets_the_route),
        cmocka_unit_test(test_route_dies_with_its_connection),
        cmocka_unit_test(test_home_moves_with_the_latencies),
        cmocka_unit_test(test_unreachable_home_is_left),
        cmocka_unit_test(test_udp_blocked_measures_over_https),
        cmocka_unit_test(test_no_answer_at_all_picks_a_stable_region),
        cmocka_unit_test(test_checks_stop_when_idle),
        cmocka_unit_test(test_reports_only_changes),
        cmocka_unit_test(test_lost_home_is_reconnected),
        cmocka_unit_test(test_new_node_key),
        cmocka_unit_test(test_map_changes),
        cmocka_unit_test(test_node_known_by_name_learns_its_stun_server),
        cmocka_unit_test(test_several_unreachable_homes),
        cmocka_unit_test(test_peers_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
