/* A path engine under sequences of events: datagrams of peers and strangers, by UDP and DERP, well and badly made, in any
 * order with sends, pings, changes of peers and links, and time. The input is a list of commands of three bytes, some
 * with data behind them. What must hold after each: bounds, and that data only ever goes to an address that answered. */
#include "../src/path/path.c"

#include "util/err.h"
#include "wire/stun.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PEERS = 3, COMMANDS_MAX = 200, PINGS_KEPT = 16 };

struct peer {
    struct tn_node_private key;
    struct tn_node_public pub;
    struct tn_disco_private disco;
    struct tn_disco_public disco_pub;
    struct tn_path_peer *p;
};

struct bench {
    struct tn_path *path;
    struct tn_disco_public ours;
    struct peer peers[PEERS];
    struct tn_rng rng;
    uint64_t seed, now_us;
    struct ping { /* the latest that were sent */
        struct tn_addrport to;
        uint8_t packet[160];
        size_t len;
    } pings[PINGS_KEPT];
    unsigned npings, sent;
};

static int no_dial(void *ctx, const struct tn_dial_spec *spec, const struct tn_stream_events *events, void *arg,
                   struct tn_stream **out)
{
    return TN_E_NETUNREACH;
}

static void on_receive(void *ctx, struct tn_path_peer *peer, const struct tn_path_source *from, uint8_t *datagram,
                       size_t len, uint64_t now_us)
{
    if (len) datagram[0] ^= datagram[len - 1]; /* all of it is ours to write */
}
static void on_receive_run(void *ctx, const struct tn_path_source *from, uint8_t *run, size_t len, size_t segment,
                           uint64_t now_us)
{
    assert(len > segment && segment > 0);
    for (size_t at = 0; at < len; at += segment) assert(run[at] == 4);
}
static void on_netinfo(void *ctx, const struct tn_path_netinfo *ni, uint64_t now_us) {}
static void on_endpoints(void *ctx, const struct tn_path_endpoint *eps, size_t n, uint64_t now_us)
{
    assert(n <= TN_PATH_ENDPOINTS_MAX);
}
static void on_send(void *ctx, const struct tn_addrport *to, const uint8_t *datagram, size_t len)
{
    struct bench *b = ctx;
    struct ping *k = &b->pings[b->npings % PINGS_KEPT];
    b->sent++;
    if (len > sizeof k->packet) return;
    k->to = *to;
    memcpy(k->packet, datagram, k->len = len);
    b->npings++;
}
static void on_pinged(void *arg, const struct tn_path_ping_result *r) {}
static void on_checked(void *arg, const struct tn_path_report *r, uint64_t now_us) {}

static struct tn_addrport address(uint8_t n)
{
    static const struct tn_ip v6 = {.family = 6, .b = {0x20, 1, 0xd, 0xb8}};
    struct tn_addrport a = {.ip = tn_ip4(198, 51, 100, n & 15), .port = (uint16_t)(1 + n / 16)};
    if (n >= 240) a.ip = v6;
    else if (n >= 224) a.ip = tn_ip4(127, 0, 0, 1);
    return a;
}

/* A disco message of a peer to us; the length of the packet. */
static size_t seal(struct bench *b, const struct peer *from, const uint8_t *msg, size_t len, uint8_t out[600])
{
    struct tn_box_shared k;
    struct tn_wr w = tn_wr_init(out, 600);
    if (tn_box_shared_init(&k, from->disco.b, b->ours.b) != 0) return 0;
    tn_disco_header_put(&w, from->disco_pub.b);
    tn_box_seal(&k, &b->rng, msg, len, tn_wr_make(&w, len + TN_BOX_OVERHEAD));
    return tn_wr_len(&w);
}

static void by_udp(struct bench *b, uint8_t from, const uint8_t *bytes, size_t len)
{
    struct tn_addrport a = address(from);
    uint8_t *exact = malloc(len ? len : 1); /* a read past its end shows */
    assert(exact);
    memcpy(exact, bytes, len);
    tn_path_udp_input(b->path, &a, exact, len, b->now_us);
    free(exact);
}

static void by_derp(struct bench *b, const struct peer *from, const uint8_t *bytes, size_t len)
{
    uint8_t *exact = malloc(len ? len : 1);
    assert(exact);
    memcpy(exact, bytes, len);
    size_t segment = len > 64 && exact[0] == 4 ? 32 : len; /* several datagrams of what is long */
    on_derp_packets(b->path, (struct tn_derp_route){1, 1}, &from->pub, exact, len, segment, b->now_us);
    free(exact);
}

/* Answers one of the latest packets we sent, if it is a ping to that peer or a STUN request. */
static void answer(struct bench *b, const struct peer *from, uint8_t which, uint8_t at)
{
    const struct ping *k = &b->pings[which % PINGS_KEPT];
    uint8_t opened[160], msg[TN_DISCO_PONG_LEN], packet[600], txid[12];
    struct tn_box_shared key;
    struct tn_disco_msg m;
    struct tn_addrport seen = address(at);
    if (tn_stun_request_parse(k->packet, k->len, txid) == 0) {
        by_udp(b, at, packet, tn_stun_response_put(packet, txid, &seen));
        return;
    }
    if (!tn_disco_looks_like(k->packet, k->len) || tn_box_shared_init(&key, from->disco.b, b->ours.b) != 0) return;
    size_t boxed = k->len - TN_DISCO_HEADER_LEN;
    if (tn_box_open(&key, k->packet + TN_DISCO_HEADER_LEN, boxed, opened) != 0) return;
    if (tn_disco_parse(opened, boxed - TN_BOX_OVERHEAD, &m) != 0 || m.type != TN_DISCO_PING) return;
    struct tn_wr w = tn_wr_init(msg, sizeof msg);
    tn_disco_pong_put(&w, m.txid, &seen);
    by_udp(b, at, packet, seal(b, from, msg, tn_wr_len(&w), packet));
}

static void start(struct bench *b)
{
    static const struct tn_dialer dialer = {no_dial, NULL};
    static const char map[] = "{\"Regions\":{\"1\":{\"Nodes\":[{\"Name\":\"a\",\"HostName\":\"d\",\"IPv4\":\"198.51.100.1\"}]}}}";
    struct tn_path_config config = {
        .dialer = &dialer, .ctx = b,
        .cb = {.receive = on_receive, .receive_run = on_receive_run, .netinfo = on_netinfo, .endpoints = on_endpoints,
               .udp_send = on_send}};
    *b = (struct bench){.seed = 1, .now_us = 1000000000};
    b->rng = config.rng = tn_rng_seeded(&b->seed);
    tn_node_private_generate(&config.node_key, &b->rng);
    tn_disco_private_generate(&config.disco_key, &b->rng);
    tn_disco_public_of(&config.disco_key, &b->ours);
    assert(tn_path_new(&config, &b->path) == 0);
    json_t *json = json_loads(map, 0, NULL);
    assert(tn_path_set_derp_map(b->path, json, b->now_us) == 0);
    json_decref(json);
    struct tn_ip local = tn_ip4(198, 51, 100, 9);
    tn_path_set_local(b->path, &local, 1, 41641, 41641, b->now_us);
    tn_path_start(b->path, b->now_us);
    for (int i = 0; i < PEERS; i++) {
        struct peer *p = &b->peers[i];
        tn_node_private_generate(&p->key, &b->rng);
        tn_node_public_of(&p->key, &p->pub);
        if (i < 2) tn_disco_private_generate(&p->disco, &b->rng); /* the third shares the second's: one machine, two nodes */
        else p->disco = b->peers[1].disco;
        tn_disco_public_of(&p->disco, &p->disco_pub);
    }
}

static void peer_event(struct bench *b, struct peer *p, uint8_t arg, const uint8_t *data, size_t len)
{
    struct tn_addrport eps[64];
    size_t n = len < 64 ? len : 64;
    for (size_t i = 0; i < n; i++) eps[i] = address(data[i]);
    if (!p->p) assert(tn_path_peer_add(b->path, &p->pub, p, &p->p) == 0);
    if (arg == 255) {
        tn_path_peer_remove(b->path, p->p);
        p->p = NULL;
        return;
    }
    (void)tn_path_peer_update(b->path, p->p, arg == 254 ? NULL : &p->disco_pub, arg & 1, eps, n, b->now_us);
}

static void link_event(struct bench *b, const uint8_t *data, size_t len)
{
    struct tn_ip ips[16];
    size_t n = len < 16 ? len : 16;
    for (size_t i = 0; i < n; i++) ips[i] = address(data[i]).ip;
    tn_path_set_local(b->path, ips, n, 41641, len & 1 ? 41641 : 0, b->now_us);
    tn_path_link_changed(b->path, b->now_us);
}

static void check_peer(const struct bench *b, const struct tn_path_peer *p)
{
    assert(p->ncandidates <= TN_PATH_CANDIDATES_NETMAP + TN_PATH_CANDIDATES_CALL_ME_MAYBE + TN_PATH_CANDIDATES_LEARNED);
    assert(p->nsent <= TN_PATH_SENT_PER_PEER);
    assert(!p->best.addr.ip.family || tn_path_candidate_find(p, &p->best.addr));
    struct tn_path_choice way = tn_path_choose(b->path, p, b->now_us);
    assert(!way.udp.ip.family || tn_path_candidate_find(p, &way.udp));
}

static void run(struct bench *b, uint8_t op, uint8_t arg, const uint8_t *data, size_t len)
{
    struct peer *p = &b->peers[op / 16 % PEERS];
    struct tn_addrport a = address(arg);
    uint8_t packet[600];
    switch (op % 16) {
    case 0: case 1: b->now_us += (uint64_t)arg * (op % 16 ? 500000 : 20000); break;
    case 2: by_udp(b, arg, data, len); break;
    case 3: case 4: by_udp(b, arg, packet, seal(b, p, data, len, packet)); break;
    case 5: by_derp(b, p, packet, seal(b, p, data, len, packet)); break;
    case 6: by_derp(b, p, data, len); break;
    case 7: case 8:
        if (p->p) tn_path_send(b->path, p->p, (const uint8_t *)"\4data", 5, b->now_us);
        break;
    case 9:
        if (p->p) (void)tn_path_ping(b->path, p->p, on_pinged, NULL, b->now_us);
        break;
    case 10: peer_event(b, p, arg, data, len); break;
    case 11: link_event(b, data, len); break;
    case 12: case 13: answer(b, p, arg, len ? data[0] : arg); break;
    case 14: tn_path_udp_failed(b->path, &a, -EHOSTUNREACH, b->now_us); break;
    default: (void)tn_path_netcheck(b->path, on_checked, NULL, b->now_us); break;
    }
    for (int i = 0; i < 16 && tn_path_next_deadline(b->path) <= b->now_us; i++) tn_path_timeout(b->path, b->now_us);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bench b;
    size_t at = 0;
    start(&b);
    for (int n = 0; n < COMMANDS_MAX && size - at >= 3; n++) {
        size_t len = data[at + 2] < size - at - 3 ? data[at + 2] : size - at - 3;
        unsigned before = b.sent;
        run(&b, data[at], data[at + 1], data + at + 3, len);
        at += 3 + len;
        /* No event makes us send more than all candidates of all peers, thrice, and a look at the network. */
        assert(b.sent - before <= 3 * PEERS * TN_PATH_CANDIDATES_MAX + 64);
        for (int i = 0; i < PEERS; i++)
            if (b.peers[i].p) check_peer(&b, b.peers[i].p);
    }
    tn_path_free(b.path);
    return 0;
}
