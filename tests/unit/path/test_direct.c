/* Direct paths: whole engines behind simulated NATs, on a virtual clock. */
#include "natnet.h"

/* ---- who reaches whom ---- */

static void test_public_hosts(void **state)
{
    struct net *w = net_pair(PUBLIC, PUBLIC);
    uint64_t us = net_until_direct(w, 0, 1, 100 * MS, 5 * SEC);
    assert_true(us <= 300 * MS);
    w->nodes[0].by_udp = w->nodes[0].by_derp = 0;
    net_talk(w, 0, 1, 100 * MS, 10 * SEC);
    assert_int_equal(w->nodes[0].by_derp, 0);
    assert_true(w->nodes[0].by_udp >= 99);
    net_free(w);
}

static void test_two_easy_nats(void **state)
{
    struct net *w = net_pair(EASY, EASY);
    assert_int_equal(w->nodes[0].mapping_varies, 0);
    assert_true(net_until_direct(w, 0, 1, 100 * MS, 5 * SEC) <= 1 * SEC);
    net_free(w);
}

/* Endpoints never get through control: call-me-maybe is enough, and needs no candidate to begin with. */
static void test_without_endpoints_from_control(void **state)
{
    struct net *w = net_new(3);
    w->publish_us = TN_NEVER;
    w->lans[0].nat = w->lans[1].nat = EASY;
    net_add(w, 0, true);
    net_add(w, 1, true);
    net_run(w, 2 * SEC);
    for (int i = 0; i < 2; i++) {
        struct nnode *a = &w->nodes[i], *b = &w->nodes[1 - i];
        assert_int_equal(tn_path_peer_add(a->p, &b->pub, b, &a->peers[1 - i]), 0);
        assert_int_equal(tn_path_peer_update(a->p, a->peers[1 - i], &b->disco_pub, 1, NULL, 0, w->now_us), 0);
    }
    assert_true(net_until_direct(w, 0, 1, 100 * MS, 10 * SEC) <= 6 * SEC);
    net_free(w);
}

static void test_hard_nat_and_public_host(void **state)
{
    struct net *w = net_pair(HARD, PUBLIC);
    assert_int_equal(w->nodes[0].mapping_varies, 1);
    bool guess = false; /* the outside address with our own port */
    for (size_t i = 0; i < w->nodes[0].neps; i++) guess |= w->nodes[0].eps[i].type == 4 && w->nodes[0].eps[i].addr.port == 41641;
    assert_true(guess);
    assert_true(net_until_direct(w, 0, 1, 100 * MS, 5 * SEC) <= 1 * SEC);
    net_free(w);
    w = net_pair(PUBLIC, HARD); /* who speaks first does not matter */
    assert_true(net_until_direct(w, 0, 1, 100 * MS, 5 * SEC) <= 1 * SEC);
    net_free(w);
}

static void test_hard_nats_stay_relayed(void **state)
{
    static const enum nat kinds[][2] = {{HARD, HARD}, {EASY, HARD}};
    for (size_t i = 0; i < 2; i++) {
        struct net *w = net_pair(kinds[i][0], kinds[i][1]);
        unsigned before = w->nodes[0].by_derp;
        assert_true(net_until_direct(w, 0, 1, 200 * MS, 60 * SEC) == TN_NEVER);
        assert_true(w->nodes[0].by_derp >= before + 295); /* and nothing is lost */
        assert_int_equal(w->nodes[0].by_udp, 0);
        /* looking costs little: candidates are a handful, each is asked once in 5 s, or in answer to a call */
        assert_true(w->nodes[0].sent_udp < 60 * 5);
        net_free(w);
    }
}

static void test_one_lan_prefers_its_own_addresses(void **state)
{
    struct net *w = net_new(5);
    struct tn_path_peer_status st;
    w->lans[0].nat = EASY;
    net_add(w, 0, true);
    net_add(w, 0, true);
    net_run(w, 2 * SEC);
    net_join(w);
    assert_true(net_until_direct(w, 0, 1, 100 * MS, 5 * SEC) <= 1 * SEC);
    tn_path_peer_status(w->nodes[0].p, w->nodes[0].peers[1], w->now_us, &st);
    assert_true(tn_addrport_eq(&st.direct, &w->nodes[1].udp));
    net_free(w);
}

static void test_relay_only(void **state)
{
    struct net *w = net_new(6);
    net_add(w, 0, false);
    net_add(w, 1, true);
    net_run(w, 2 * SEC);
    net_join(w);
    assert_true(net_until_direct(w, 0, 1, 100 * MS, 20 * SEC) == TN_NEVER);
    assert_true(w->nodes[0].by_derp >= 199);
    assert_int_equal(w->nodes[0].sent_udp + w->nodes[0].by_udp + w->nodes[1].by_udp, 0);
    assert_int_equal(w->nodes[0].neps, 0);
    net_free(w);
}

/* ---- paths that end ---- */

static void test_killed_path_falls_back_and_comes_back(void **state)
{
    for (unsigned phase = 0; phase < 6; phase++) { /* of the heartbeat */
        struct net *w = net_pair(EASY, EASY);
        assert_true(net_until_direct(w, 0, 1, 100 * MS, 5 * SEC) <= 1 * SEC);
        net_talk(w, 0, 1, 100 * MS, 10 * SEC + phase * 500 * MS);
        w->blackhole = true;
        uint64_t silence_us = net_talk(w, 0, 1, 100 * MS, 20 * SEC);
        assert_true(silence_us < 5 * SEC);
        assert_false(net_direct(w, 0, 1));
        assert_true(w->nodes[0].rerouted >= 1 && w->nodes[1].rerouted >= 1); /* both are told, and not ever again */
        assert_true(w->nodes[0].rerouted <= 2 && w->nodes[1].rerouted <= 2);
        assert_true(net_talk(w, 0, 1, 100 * MS, 60 * SEC) < 200 * MS); /* DERP carries it without a gap */
        w->blackhole = false;
        assert_true(net_until_direct(w, 0, 1, 100 * MS, 20 * SEC) <= 7 * SEC);
        assert_true(net_talk(w, 0, 1, 100 * MS, 10 * SEC) < 200 * MS);
        net_free(w);
    }
}

static void test_lost_pongs_change_nothing(void **state)
{
    struct net *w = net_pair(PUBLIC, PUBLIC);
    struct nnode *a = &w->nodes[0];
    assert_true(net_until_direct(w, 0, 1, 100 * MS, 5 * SEC) <= 1 * SEC);
    net_talk(w, 0, 1, 100 * MS, 5 * SEC);
    a->by_derp = w->nodes[1].by_derp = 0;
    w->loss_percent = 10;
    net_talk(w, 0, 1, 100 * MS, 300 * SEC);
    assert_true(net_direct(w, 0, 1));
    assert_true(a->by_derp + w->nodes[1].by_derp < 6000 / 100); /* a lapse of trust now and then, never for long */
    net_free(w);
}

static void test_renumbered_host(void **state)
{
    for (int control = 0; control < 2; control++) {
        struct net *w = net_pair(PUBLIC, EASY);
        struct nnode *a = &w->nodes[0];
        assert_true(net_until_direct(w, 0, 1, 100 * MS, 5 * SEC) <= 1 * SEC);
        net_talk(w, 0, 1, 100 * MS, 5 * SEC);
        if (!control) w->publish_us = TN_NEVER; /* peers learn by call-me-maybe alone */
        a->udp.ip = tn_ip4(198, 51, 100, 200);
        tn_path_set_local(a->p, &a->udp.ip, 1, 41641, 0, w->now_us);
        tn_path_link_changed(a->p, w->now_us);
        assert_false(net_direct(w, 0, 1));
        assert_true(net_talk(w, 0, 1, 100 * MS, 3 * SEC) < 2 * SEC);
        assert_true(net_until_direct(w, 0, 1, 100 * MS, 10 * SEC) <= 5 * SEC);
        struct tn_path_peer_status st;
        net_talk(w, 0, 1, 100 * MS, 5 * SEC);
        tn_path_peer_status(w->nodes[1].p, w->nodes[1].peers[0], w->now_us, &st);
        assert_true(tn_addrport_eq(&st.direct, &a->udp));
        net_free(w);
    }
}

/* The NAT forgets everything (it was restarted): nobody is told. */
static void test_nat_restarts(void **state)
{
    struct net *w = net_pair(EASY, EASY);
    assert_true(net_until_direct(w, 0, 1, 100 * MS, 5 * SEC) <= 1 * SEC);
    net_talk(w, 0, 1, 100 * MS, 5 * SEC);
    w->lans[0].nflows = 0;
    w->lans[0].next_port = 30000;
    assert_true(net_talk(w, 0, 1, 100 * MS, 10 * SEC) < 5 * SEC);
    assert_true(net_until_direct(w, 0, 1, 100 * MS, 40 * SEC) <= 35 * SEC);
    net_free(w);
}

static void test_send_errors_end_a_path(void **state)
{
    struct net *w = net_pair(PUBLIC, PUBLIC);
    struct nnode *a = &w->nodes[0];
    assert_true(net_until_direct(w, 0, 1, 100 * MS, 5 * SEC) <= 1 * SEC);
    tn_path_udp_failed(a->p, &w->nodes[1].udp, -EPERM, w->now_us);
    tn_path_udp_failed(a->p, &a->udp, -ENETUNREACH, w->now_us); /* another address */
    assert_true(net_direct(w, 0, 1));
    tn_path_udp_failed(a->p, &w->nodes[1].udp, -EHOSTUNREACH, w->now_us);
    assert_false(net_direct(w, 0, 1));
    assert_true(net_until_direct(w, 0, 1, 100 * MS, 10 * SEC) <= 6 * SEC);
    net_free(w);
}

static void test_peer_restarts(void **state)
{
    struct net *w = net_pair(PUBLIC, PUBLIC);
    struct nnode *a = &w->nodes[0], *b = &w->nodes[1];
    struct tn_disco_private other;
    struct tn_disco_public pub;
    assert_true(net_until_direct(w, 0, 1, 100 * MS, 5 * SEC) <= 1 * SEC);
    tn_disco_private_generate(&other, &w->rng);
    tn_disco_public_of(&other, &pub);
    assert_int_equal(tn_path_peer_update(a->p, a->peers[1], &pub, 1, &b->udp, 1, w->now_us), 0);
    assert_false(net_direct(w, 0, 1)); /* it may be anywhere now */
    assert_int_equal(a->peers[1]->nsent, 1); /* and is looked for at once */
    net_free(w);
}

/* ---- idleness ---- */

static void test_idle_is_silent_and_wakes_at_once(void **state)
{
    static const enum nat kinds[] = {PUBLIC, EASY};
    for (int i = 0; i < 2; i++) {
        struct net *w = net_pair(kinds[i], kinds[i]);
        struct nnode *a = &w->nodes[0];
        assert_true(net_until_direct(w, 0, 1, 100 * MS, 5 * SEC) <= 1 * SEC);
        net_talk(w, 0, 1, 100 * MS, 5 * SEC);
        net_quiet(w, 50);
        unsigned before = a->sent_udp;
        net_quiet(w, 300);
        assert_int_equal(a->sent_udp, before);
        assert_true(tn_path_next_deadline(a->p) > w->now_us + 10 * SEC); /* the DERP connection's watchdog */
        a->last_rx_us = 0;
        assert_true(net_until_direct(w, 0, 1, 100 * MS, 5 * SEC) <= (kinds[i] == PUBLIC ? 200 * MS : 1 * SEC));
        net_free(w);
    }
}

static void test_long_traffic_stays_direct(void **state)
{
    struct net *w = net_pair(EASY, EASY);
    assert_true(net_until_direct(w, 0, 1, 100 * MS, 5 * SEC) <= 1 * SEC);
    net_talk(w, 0, 1, 100 * MS, 2 * SEC);
    w->nodes[0].by_derp = w->nodes[1].by_derp = 0;
    assert_true(net_talk(w, 0, 1, 500 * MS, 600 * SEC) < SEC);
    assert_int_equal(w->nodes[0].by_derp + w->nodes[1].by_derp, 0);
    /* one way: who only receives keeps its side up as long as WireGuard answers at all; the sender must not suffer */
    w->nodes[1].echo = false;
    for (int i = 0; i < 240; i++) {
        net_ask(w, 0, 1);
        net_run(w, 500 * MS);
    }
    assert_true(net_direct(w, 0, 1));
    net_free(w);
}

/* ---- pings for people ---- */

static void on_pinged(void *arg, const struct tn_path_ping_result *r)
{
    struct nnode *n = arg;
    n->pings++;
    n->ping = *r;
}

static void test_ping_goes_direct(void **state)
{
    struct net *w = net_pair(EASY, EASY);
    struct nnode *a = &w->nodes[0];
    int tries = 0;
    do { /* once a second, as the command does; no data flows */
        assert_int_equal(tn_path_ping(a->p, a->peers[1], on_pinged, a, w->now_us), 0);
        net_run(w, SEC);
        assert_int_equal(a->pings, ++tries);
        assert_int_equal(a->ping.err, 0);
    } while (!a->ping.addr.ip.family && tries < 5);
    assert_true(tries <= 2);
    unsigned before = a->sent_udp;
    assert_int_equal(tn_path_ping(a->p, a->peers[1], on_pinged, a, w->now_us), 0);
    net_run(w, 100 * MS);
    assert_int_equal(a->sent_udp, before + 1); /* the trusted path alone */
    assert_true(tn_addrport_eq(&a->ping.addr, &a->peers[1]->best.addr));
    assert_int_equal(a->ping.latency_us, 20 * MS);
    net_free(w);
}

struct asked {
    unsigned told, ended;
    struct tn_path_report last;
    uint32_t v4_us;
};

static void on_netchecked(void *arg, const struct tn_path_report *r, uint64_t now_us)
{
    struct asked *a = arg;
    if (!r) {
        a->ended++;
        return;
    }
    a->told++;
    a->last = *r;
    if (r->nregions) a->v4_us = r->regions[0].v4_us;
}

static void test_netcheck_is_told(void **state)
{
    struct net *w = net_pair(HARD, PUBLIC);
    struct nnode *a = &w->nodes[0];
    struct asked asked = {0};
    for (int i = 0; i < 16; i++) assert_int_equal(tn_path_netcheck(a->p, on_netchecked, &asked, w->now_us), 0);
    assert_int_equal(tn_path_netcheck(a->p, on_netchecked, &asked, w->now_us), TN_E_LIMIT);
    assert_int_equal(asked.told, 0);
    net_run(w, 4 * SEC);
    assert_int_equal(asked.told, 16);
    assert_true(asked.last.udp && asked.last.ipv4 && !asked.last.ipv6);
    assert_int_equal(asked.last.mapping_varies, 1);
    assert_true(tn_ip_eq(&asked.last.global4.ip, &w->lans[0].outside));
    assert_int_equal(asked.last.home, 1);
    assert_int_equal(asked.v4_us, 20 * MS);
    assert_int_equal(tn_path_netcheck(a->p, on_netchecked, &asked, w->now_us), 0);
    net_free(w);
    assert_int_equal(asked.told, 16);
    assert_int_equal(asked.ended, 1);
    w = net_new(4);
    a = net_add(w, 0, false);
    asked = (struct asked){0};
    net_run(w, 10 * SEC);
    assert_int_equal(tn_path_netcheck(a->p, on_netchecked, &asked, w->now_us), 0);
    net_run(w, 10 * SEC);
    assert_int_equal(asked.told, 1);
    assert_false(asked.last.udp);
    net_free(w);
}

/* ---- hostile peers ---- */

static size_t seal(struct nnode *from, struct nnode *to, const uint8_t *msg, size_t len, uint8_t *out)
{
    struct tn_box_shared k;
    struct tn_wr w = tn_wr_init(out, 4096);
    assert_int_equal(tn_box_shared_init(&k, from->disco.b, to->disco_pub.b), 0);
    tn_disco_header_put(&w, from->disco_pub.b);
    tn_box_seal(&k, &from->w->rng, msg, len, tn_wr_make(&w, len + TN_BOX_OVERHEAD));
    return tn_wr_len(&w);
}

static void call_me_maybe(struct net *w, const struct tn_addrport *eps, size_t n)
{
    uint8_t msg[2048], packet[4096];
    struct tn_wr wr = tn_wr_init(msg, sizeof msg);
    tn_disco_call_me_maybe_put(&wr, eps, n);
    size_t len = seal(&w->nodes[1], &w->nodes[0], msg, tn_wr_len(&wr), packet);
    tn_derp_set_send(w->nodes[1].p->derp, 1, &w->nodes[0].pub, packet, len, w->now_us);
    fake_serve(&w->derp, w->now_us);
}

static void test_calls_are_bounded(void **state)
{
    struct net *w = net_pair(PUBLIC, PUBLIC);
    struct nnode *a = &w->nodes[0];
    struct tn_addrport eps[32];
    for (int i = 0; i < 2000; i++) { /* ever new addresses, 10 s */
        for (int k = 0; k < 32; k++)
            eps[k] = (struct tn_addrport){.ip = tn_ip4(203, 0, (uint8_t)(i % 200), (uint8_t)k), .port = (uint16_t)(7 + i)};
        call_me_maybe(w, eps, 32);
        net_run(w, 5 * MS);
        w->nwire = 0;
        assert_true(a->peers[1]->nsent <= TN_PATH_SENT_PER_PEER);
    }
    assert_true(a->sent_udp >= 200);
    assert_true(a->sent_udp < 2 * TN_PATH_CANDIDATES_MAX + 10 * 32 + 100);
    net_quiet(w, 6);
    assert_int_equal(a->p->by_txid.count, 0);
    net_free(w);
}

static void test_loopback_is_nobodys_business(void **state)
{
    struct net *w = net_pair(PUBLIC, PUBLIC);
    struct nnode *a = &w->nodes[0];
    struct tn_addrport eps[3] = {{tn_ip4(127, 0, 0, 1), 53}, {{.family = 6, .b = {[15] = 1}}, 53}, {tn_ip4(127, 9, 9, 9), 80}};
    w->nodes[1].news = false;
    assert_int_equal(tn_path_peer_update(a->p, a->peers[1], &w->nodes[1].disco_pub, 1, NULL, 0, w->now_us), 0);
    call_me_maybe(w, eps, 3);
    assert_int_equal(a->sent_udp, 0);
    tn_path_set_local(a->p, NULL, 0, 41641, 0, w->now_us); /* a machine without a network: we are there ourselves */
    a->p->report->nglobals[0] = 0;
    a->p->ntracked = 0;
    (void)tn_path_endpoints_update(a->p, a->p->report, w->now_us);
    call_me_maybe(w, eps, 3);
    assert_int_equal(a->sent_udp, 2);
    net_free(w);
}

/* A pong makes a path only of a place that was pinged, and only for who was asked. */
static void test_forged_pongs(void **state)
{
    struct net *w = net_new(9);
    for (int i = 0; i < 3; i++) net_add(w, i, true);
    net_run(w, 2 * SEC);
    net_join(w);
    struct nnode *a = &w->nodes[0], *b = &w->nodes[1], *c = &w->nodes[2];
    uint8_t msg[64], packet[4096];
    w->blackhole = true;
    net_ask(w, 0, 1);
    assert_int_equal(a->peers[1]->nsent, 1);
    const struct tn_path_sent *s = TN_CONTAINER(a->peers[1]->sent.next, struct tn_path_sent, of_peer);
    struct tn_wr wr = tn_wr_init(msg, sizeof msg);
    tn_disco_pong_put(&wr, s->txid, &a->udp);
    size_t len = seal(c, a, msg, tn_wr_len(&wr), packet); /* another peer that saw the id */
    tn_path_udp_input(a->p, &c->udp, packet, len, w->now_us);
    assert_int_equal(a->peers[1]->nsent, 1);
    len = seal(b, a, msg, tn_wr_len(&wr), packet);
    tn_derp_set_send(b->p->derp, 1, &a->pub, packet, len, w->now_us); /* by DERP: says nothing of the way back */
    net_run(w, 0);
    assert_false(net_direct(w, 0, 1));
    assert_false(net_direct(w, 0, 2));
    tn_path_udp_input(a->p, &c->udp, packet, len, w->now_us); /* some NATs answer from elsewhere */
    assert_true(net_direct(w, 0, 1));
    assert_true(tn_addrport_eq(&a->peers[1]->best.addr, &b->udp)); /* the place that was pinged */
    tn_path_udp_input(a->p, &c->udp, packet, len, w->now_us); /* once only */
    net_free(w);
}

/* ---- everything at random ---- */

/* Whatever happens to UDP, a datagram gets through within 7 s while DERP works; and once the network has been sound for
 * a while, the path is direct. */
static void chaos(uint64_t seed)
{
    struct net *w = net_new(seed);
    static const enum nat sound[][2] = {{PUBLIC, PUBLIC}, {EASY, EASY}, {EASY, PUBLIC}, {PUBLIC, HARD}, {HARD, PUBLIC}};
    size_t kind = tn_rng_below(&w->rng, 5);
    w->lans[0].nat = sound[kind][0];
    w->lans[1].nat = sound[kind][1];
    net_add(w, 0, true);
    net_add(w, 1, true);
    net_run(w, 2 * SEC);
    net_join(w);
    for (int i = 0; i < 12; i++) {
        struct nnode *n = &w->nodes[tn_rng_below(&w->rng, 2)];
        switch (tn_rng_below(&w->rng, 6)) {
        case 0: w->blackhole = !w->blackhole; break;
        case 1: w->loss_percent = (unsigned)tn_rng_below(&w->rng, 60); break;
        case 2: w->lans[n->lan].nflows = 0; break;
        case 3: w->delay_us = MS + tn_rng_below(&w->rng, 300) * MS; break;
        case 4:
            n->udp.ip.b[3] ^= 0x80;
            tn_path_set_local(n->p, &n->udp.ip, 1, 41641, 0, w->now_us);
            tn_path_link_changed(n->p, w->now_us);
            break;
        default: net_quiet(w, (unsigned)tn_rng_below(&w->rng, 70)); break;
        }
        for (int k = 0; k < 2; k++) w->nodes[k].last_rx_us = w->now_us;
        uint64_t silence_us = net_talk(w, 0, 1, 250 * MS, (1 + tn_rng_below(&w->rng, 15)) * SEC);
        if (silence_us >= 7 * SEC + 2 * w->delay_us) {
            print_error("seed %llu: %llu us of silence\n", (unsigned long long)seed, (unsigned long long)silence_us);
            fail();
        }
    }
    w->blackhole = false;
    w->loss_percent = 0;
    w->delay_us = 10 * MS;
    if (net_until_direct(w, 0, 1, 250 * MS, 60 * SEC) == TN_NEVER) {
        print_error("seed %llu: not direct again\n", (unsigned long long)seed);
        fail();
    }
    net_free(w);
}

static void test_chaos(void **state)
{
    for (uint64_t seed = 1; seed <= 60; seed++) chaos(seed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_public_hosts),
        cmocka_unit_test(test_two_easy_nats),
        cmocka_unit_test(test_without_endpoints_from_control),
        cmocka_unit_test(test_hard_nat_and_public_host),
        cmocka_unit_test(test_hard_nats_stay_relayed),
        cmocka_unit_test(test_one_lan_prefers_its_own_addresses),
        cmocka_unit_test(test_relay_only),
        cmocka_unit_test(test_killed_path_falls_back_and_comes_back),
        cmocka_unit_test(test_lost_pongs_change_nothing),
        cmocka_unit_test(test_renumbered_host),
        cmocka_unit_test(test_nat_restarts),
        cmocka_unit_test(test_send_errors_end_a_path),
        cmocka_unit_test(test_peer_restarts),
        cmocka_unit_test(test_idle_is_silent_and_wakes_at_once),
        cmocka_unit_test(test_long_traffic_stays_direct),
        cmocka_unit_test(test_ping_goes_direct),
        cmocka_unit_test(test_netcheck_is_told),
        cmocka_unit_test(test_calls_are_bounded),
        cmocka_unit_test(test_loopback_is_nobodys_business),
        cmocka_unit_test(test_forged_pongs),
        cmocka_unit_test(test_chaos),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
