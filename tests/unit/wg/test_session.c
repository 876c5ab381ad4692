/* Sessions between two engines: how they come about, change and end. */
#include "wg/session.c"

#include "pair.h"

static void first_packet_starts_a_session(void **state)
{
    struct net *n = net_new(1);
    struct side *a = &n->side[0], *b = &n->side[1];
    assert_int_equal(tn_wg_next_deadline(a->wg), TN_NEVER);
    assert_int_equal(send_packet(a, 7, 200), 0);
    assert_int_equal(a->sent[1], 1);
    assert_int_equal(a->sent[4], 0);
    assert_false(stats_of(a).session);
    run_for(n, 149 * MS);
    assert_true(stats_of(a).session);
    assert_false(stats_of(b).session); /* not before it has heard the initiator use it */
    assert_int_equal(b->received, 0);
    run_for(n, 1 * MS);
    assert_true(got_packet(b, 0, 7, 200));
    assert_true(stats_of(b).session);
    assert_int_equal(a->sent[4], 1); /* the packet itself confirms: no keepalive beside it */
    assert_int_equal(send_packet(b, 8, TN_WG_MTU), 0);
    run_for(n, 60 * MS);
    assert_true(got_packet(a, 0, 8, TN_WG_MTU));
    assert_int_equal(tn_wg_counters(a->wg)->handshakes, 1);
    assert_int_equal(tn_wg_counters(b->wg)->handshakes, 1);
    struct tn_wg_peer_stats st = stats_of(a);
    assert_int_equal(st.tx_bytes, 148 + 208 + 32);
    assert_int_equal(st.rx_bytes, 92 + 1280 + 32);
    assert_int_equal(stats_of(b).rx_bytes, st.tx_bytes);
    assert_int_equal(stats_of(b).tx_bytes, st.rx_bytes);
    assert_int_equal(st.last_handshake_us, 1000 * S + 100 * MS);
    assert_int_equal(stats_of(b).last_rx_us, 1000 * S + 150 * MS);
    net_free(n);
}

static void padding_and_sizes(void **state)
{
    struct net *n = net_new(2);
    struct side *a = &n->side[0], *b = &n->side[1];
    establish(n);
    for (size_t len = 28; len <= TN_WG_MTU; len += len < 70 ? 1 : 61) {
        b->received = 0;
        assert_int_equal(send_packet(a, (uint32_t)len, len), 0);
        assert_int_equal(a->last_len[4], (len + 15) / 16 * 16 + 32);
        assert_true(a->last_len[4] <= TN_WG_DATAGRAM_MAX);
        run_for(n, 60 * MS);
        assert_true(got_packet(b, 0, (uint32_t)len, len)); /* the padding is gone */
    }
    assert_int_equal(send_packet(a, 1, TN_WG_MTU + 1), TN_E_TOOBIG);
    assert_int_equal(tn_wg_send(a->wg, a->peer, (const uint8_t *)"", 0, n->now_us), TN_E_INVAL);
    net_free(n);
}

static void ipv6_is_trimmed_and_checked(void **state)
{
    struct net *n = net_new(2);
    struct side *a = &n->side[0], *b = &n->side[1];
    struct tn_prefix p[2] = {{.ip = a->ip, .bits = 32}};
    uint8_t packet[61] = {0x60, [5] = 21, [6] = 17};
    assert_int_equal(tn_prefix_parse("fd7a:115c:a1e0::1/128", &p[1]), 0);
    assert_int_equal(tn_wg_peer_set_allowed(b->wg, b->peer, p, 2), 0);
    memcpy(packet + 8, p[1].ip.b, 16);
    assert_int_equal(tn_wg_send(a->wg, a->peer, packet, sizeof packet, n->now_us), 0);
    run_for(n, S);
    assert_int_equal(b->received, 1);
    assert_int_equal(b->inbox[0].len, 61);
    packet[23]++;
    assert_int_equal(tn_wg_send(a->wg, a->peer, packet, sizeof packet, n->now_us), 0);
    run_for(n, S);
    assert_int_equal(b->received, 1);
    assert_int_equal(tn_wg_counters(b->wg)->bad_source, 1);
    net_free(n);
}

static void staged_packets_keep_order_and_bound(void **state)
{
    struct net *n = net_new(3);
    struct side *a = &n->side[0], *b = &n->side[1];
    for (uint32_t i = 0; i < 50; i++) assert_int_equal(send_packet(a, i, 64), 0);
    assert_int_equal(a->sent[1], 1);
    run_for(n, S);
    assert_int_equal(b->received, TN_WG_STAGED_MAX);
    for (uint32_t i = 0; i < TN_WG_STAGED_MAX; i++) assert_true(got_packet(b, i, 50 - TN_WG_STAGED_MAX + i, 64));
    assert_int_equal(tn_wg_counters(a->wg)->staged_dropped, 50 - TN_WG_STAGED_MAX);
    assert_int_equal(a->wg->staged_bytes, 0);
    net_free(n);
}

static void session_callback_goes_first(struct side *s, uint64_t now_us) { (void)send_packet(s, 1000, 40); }

static void priority_packet(void **state)
{
    struct net *n = net_new(3);
    struct side *a = &n->side[0], *b = &n->side[1];
    a->session = b->session = session_callback_goes_first;
    send_packet(a, 1, 64);
    send_packet(a, 2, 64);
    run_for(n, S);
    assert_int_equal(b->received, 3);
    assert_true(got_packet(b, 0, 1000, 40));
    assert_true(got_packet(b, 1, 1, 64));
    assert_int_equal(a->received, 1);
    assert_true(got_packet(a, 0, 1000, 40));
    net_free(n);
}

/* Both begin within a round trip: a session for both without waiting for a retransmission. */
static void simultaneous_initiations(void **state)
{
    static const uint64_t offsets[] = {0, 1, 20 * MS, 49 * MS, 50 * MS, 51 * MS, 99 * MS};
    for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++) {
        struct net *n = net_new(10 + i);
        struct side *a = &n->side[0], *b = &n->side[1];
        assert_int_equal(send_packet(a, 1, 64), 0);
        run_for(n, offsets[i]);
        assert_int_equal(send_packet(b, 2, 64), 0);
        run_for(n, 400 * MS);
        assert_true(got_packet(b, 0, 1, 64));
        assert_true(got_packet(a, 0, 2, 64));
        assert_true(stats_of(a).session && stats_of(b).session);
        for (uint32_t k = 0; k < 40; k++) { /* and it lasts */
            a->received = b->received = 0;
            assert_int_equal(send_packet(a, k, 64), 0);
            assert_int_equal(send_packet(b, k, 64), 0);
            run_for(n, 10 * S);
            assert_true(got_packet(b, 0, k, 64));
            assert_true(got_packet(a, 0, k, 64));
        }
        /* After the first renewal one side answers and the crossing ends: every 120 s one handshake, not two. */
        assert_true(a->sent[1] + b->sent[1] <= 2 + 2 + 3);
        net_free(n);
    }
}

static void lost_messages(void **state)
{
    for (int type = 1; type <= 4; type++) {
        if (type == 3) continue;
        for (int side = 0; side < 2; side++) {
            struct net *n = net_new(20);
            struct side *a = &n->side[0], *b = &n->side[1];
            n->drop_type[side][type] = 1;
            send_packet(a, 1, 64);
            run_for(n, 300 * MS);
            send_packet(b, 2, 64);
            run_for(n, 11 * S);
            if (type != 4) assert_true(b->received == 1 && a->received == 1);
            assert_true(stats_of(a).session && stats_of(b).session);
            net_free(n);
        }
    }
}

/* The responder has data, and the packet that would confirm its session is lost: its data goes out when the 5 s after
 * its response are over, without more data coming along. */
static void lost_confirmation(void **state)
{
    struct net *n = net_new(21);
    struct side *a = &n->side[0], *b = &n->side[1];
    n->drop_type[0][4] = 1;
    send_packet(a, 1, 64);
    run_for(n, 200 * MS);
    send_packet(b, 2, 64);
    assert_int_equal(b->sent[1], 0);
    run_for(n, 4800 * MS);
    assert_int_equal(a->received, 0);
    run_for(n, 300 * MS);
    assert_true(got_packet(a, 0, 2, 64));
    net_free(n);
}

static void replayed_datagrams(void **state)
{
    struct net *n = net_new(22);
    struct side *a = &n->side[0], *b = &n->side[1];
    establish(n);
    uint8_t data[TN_WG_DATAGRAM_MAX], initiation[148], response[92];
    memcpy(data, a->last[4], a->last_len[4]);
    memcpy(initiation, a->last[1], 148);
    memcpy(response, b->last[2], 92);
    run_for(n, S);
    assert_int_equal(input_to(b, data, a->last_len[4]), TN_E_EXIST);
    assert_int_equal(input_to(b, initiation, 148), TN_E_EXIST);
    assert_int_equal(tn_wg_counters(b->wg)->replayed, 2);
    assert_int_equal(input_to(a, response, 92), TN_E_NOENT);
    assert_int_equal(tn_wg_counters(a->wg)->bad_index, 1);
    assert_int_equal(b->received, 0);
    assert_int_equal(b->sent[2], 1);
    send_packet(a, 5, 64);
    run_for(n, S);
    assert_true(got_packet(b, 0, 5, 64));
    net_free(n);
}

static void initiations_are_rate_limited_per_peer(void **state)
{
    struct net *n = net_new(23);
    struct side *a = &n->side[0], *b = &n->side[1];
    n->cut[0] = true;
    for (int i = 0; i < 3; i++) {
        a->peer->gate_us = 0;
        (void)tn_wg_shake_start(a->peer, false, n->now_us);
        assert_int_equal(input_to(b, a->last[1], 148), i == 0 ? 0 : TN_E_LIMIT);
    }
    assert_int_equal(tn_wg_counters(b->wg)->rate_limited, 2);
    n->now_us += 20 * MS;
    a->peer->gate_us = 0;
    (void)tn_wg_shake_start(a->peer, false, n->now_us);
    assert_int_equal(input_to(b, a->last[1], 148), 0);
    net_free(n);
}

static void wall_clock_set_back(void **state)
{
    struct net *n = net_new(24);
    struct side *a = &n->side[0], *b = &n->side[1];
    establish(n);
    a->wall_offset_s = -3600;
    for (uint32_t i = 0; i < 5; i++) {
        run_for(n, 200 * S);
        send_packet(a, i, 64);
        run_for(n, S);
        assert_true(got_packet(b, i, i, 64));
    }
    assert_int_equal(tn_wg_counters(b->wg)->replayed, 0);
    net_free(n);
}

static struct tn_wg_peer *resolve_lazily(struct side *s, const struct tn_node_public *key)
{
    if (!tn_node_public_eq(key, &s->net->side[!s->id].pub)) return NULL;
    add_other(s);
    return s->peer;
}

static void peers_made_on_demand(void **state)
{
    struct net *n = net_new(25);
    struct side *a = &n->side[0], *b = &n->side[1];
    tn_wg_peer_remove(b->wg, b->peer);
    send_packet(a, 1, 64);
    run_for(n, 1 * S);
    assert_int_equal(tn_wg_counters(b->wg)->unknown_peer, 1);
    assert_int_equal(b->sent[2], 0);
    b->resolve = resolve_lazily;
    run_for(n, 6 * S);
    assert_true(got_packet(b, 0, 1, 64));
    assert_ptr_equal(tn_wg_peer_find(b->wg, &a->pub), b->peer);
    net_free(n);
}

static void removed_peer_leaves_nothing(void **state)
{
    struct net *n = net_new(26);
    struct side *a = &n->side[0], *b = &n->side[1];
    establish(n);
    send_packet(b, 1, 64);
    tn_wg_peer_remove(b->wg, b->peer);
    assert_int_equal(b->wg->indices.count, 0);
    assert_int_equal(tn_route_count(b->wg->routes), 0);
    assert_int_equal(tn_wg_next_deadline(b->wg), TN_NEVER);
    assert_null(tn_wg_route(b->wg, &a->ip));
    assert_null(tn_wg_peer_find(b->wg, &a->pub));
    send_packet(a, 2, 64);
    run_for(n, S);
    assert_int_equal(tn_wg_counters(b->wg)->bad_index, 1);
    add_other(b);
    send_packet(b, 3, 64);
    run_for(n, S);
    assert_true(got_packet(a, 1, 3, 64));
    net_free(n);
}

static void reset_begins_anew(void **state)
{
    struct net *n = net_new(27);
    struct side *a = &n->side[0], *b = &n->side[1];
    establish(n);
    tn_wg_peer_reset(a->wg, a->peer);
    assert_false(stats_of(a).session);
    assert_int_equal(tn_wg_next_deadline(a->wg), TN_NEVER);
    send_packet(a, 1, 64); /* at once, although the last handshake was a second ago */
    assert_int_equal(a->sent[1], 2);
    run_for(n, S);
    assert_true(got_packet(b, 0, 1, 64));
    n->cut[0] = true;
    tn_wg_peer_reset(a->wg, a->peer);
    send_packet(a, 2, 64);
    n->cut[0] = false;
    tn_wg_peer_reset(a->wg, a->peer); /* in the middle of a handshake: what waits gets a new one */
    assert_int_equal(tn_wg_next_deadline(a->wg), 0);
    run_for(n, S);
    assert_true(got_packet(b, 1, 2, 64));
    net_free(n);
}

static void new_key_for_the_engine(void **state)
{
    struct net *n = net_new(28);
    struct side *a = &n->side[0], *b = &n->side[1];
    establish(n);
    assert_int_equal(tn_wg_set_key(a->wg, &b->key), TN_E_EXIST);
    tn_node_private_generate(&a->key, &n->rng);
    tn_node_public_of(&a->key, &a->pub);
    assert_int_equal(tn_wg_set_key(a->wg, &a->key), 0);
    send_packet(a, 1, 64);
    run_for(n, S);
    assert_int_equal(tn_wg_counters(b->wg)->unknown_peer, 1);
    tn_wg_peer_remove(b->wg, b->peer);
    add_other(b);
    run_for(n, 6 * S);
    assert_true(got_packet(b, 0, 1, 64));
    net_free(n);
}

static void restarted_peer(void **state)
{
    struct net *n = net_new(29);
    struct side *a = &n->side[0], *b = &n->side[1];
    establish(n);
    tn_wg_free(b->wg);
    engine_new(b);
    add_other(b);
    send_packet(b, 1, 64); /* it does not know the old session and begins one */
    run_for(n, S);
    assert_true(got_packet(a, 0, 1, 64));
    send_packet(a, 2, 64);
    run_for(n, S);
    assert_true(got_packet(b, 0, 2, 64));
    net_free(n);
}

static void source_check_and_moving_prefixes(void **state)
{
    struct net *n = net_new(30);
    struct side *a = &n->side[0], *b = &n->side[1];
    struct tn_node_private k;
    struct tn_node_public pub;
    struct tn_wg_peer *third;
    struct tn_prefix all = {.ip.family = 4}, own = {.ip = a->ip, .bits = 32}, lan;
    struct tn_ip far = tn_ip4(8, 8, 8, 8);
    assert_int_equal(tn_prefix_parse("10.0.0.0/8", &lan), 0);
    establish(n);
    uint8_t packet[64];
    make_packet(packet, sizeof packet, &far, &b->ip, 1);
    tn_wg_send(a->wg, a->peer, packet, sizeof packet, n->now_us);
    run_for(n, S);
    assert_int_equal(tn_wg_counters(b->wg)->bad_source, 1);
    struct tn_prefix both[] = {own, all};
    assert_int_equal(tn_wg_peer_set_allowed(b->wg, b->peer, both, 2), 0);
    tn_wg_send(a->wg, a->peer, packet, sizeof packet, n->now_us);
    run_for(n, S);
    assert_int_equal(b->received, 1);
    assert_ptr_equal(tn_wg_route(b->wg, &far), b->peer);

    tn_node_private_generate(&k, &n->rng);
    tn_node_public_of(&k, &pub);
    assert_int_equal(tn_wg_peer_add(b->wg, &pub, b, &third), 0);
    assert_int_equal(tn_wg_peer_add(b->wg, &pub, b, &third), TN_E_EXIST);
    assert_int_equal(tn_wg_peer_add(b->wg, &b->pub, b, &third), TN_E_INVAL);
    assert_int_equal(tn_wg_peer_set_allowed(b->wg, third, &all, 1), 0); /* it moves */
    assert_ptr_equal(tn_wg_route(b->wg, &far), third);
    tn_wg_send(a->wg, a->peer, packet, sizeof packet, n->now_us);
    run_for(n, S);
    assert_int_equal(b->received, 1);
    assert_int_equal(tn_wg_counters(b->wg)->bad_source, 2);
    /* A list that once had the prefix does not take it away from its new owner. */
    assert_int_equal(tn_wg_peer_set_allowed(b->wg, b->peer, &own, 1), 0);
    assert_ptr_equal(tn_wg_route(b->wg, &far), third);
    /* But a list that has it again takes it back, also when it looks unchanged. */
    assert_int_equal(tn_wg_peer_set_allowed(b->wg, b->peer, both, 2), 0);
    assert_ptr_equal(tn_wg_route(b->wg, &far), b->peer);
    assert_int_equal(tn_wg_peer_set_allowed(b->wg, third, &all, 1), 0);
    assert_ptr_equal(tn_wg_route(b->wg, &far), third);
    tn_wg_peer_remove(b->wg, third);
    assert_null(tn_wg_route(b->wg, &far));
    assert_int_equal(tn_wg_peer_set_allowed(b->wg, b->peer, &lan, 1), 0);
    assert_null(tn_wg_route(b->wg, &a->ip));
    assert_int_equal(tn_wg_peer_set_allowed(b->wg, b->peer, NULL, 0), 0);
    assert_int_equal(tn_route_count(b->wg->routes), 0);
    net_free(n);
}

static void peer_with_an_impossible_key(void **state)
{
    struct net *n = net_new(31);
    struct side *a = &n->side[0];
    struct tn_node_public low = {{1}}, zero = {{0}};
    struct tn_wg_peer *p;
    uint8_t packet[64];
    assert_int_equal(tn_wg_peer_add(a->wg, &zero, a, &p), TN_E_INVAL);
    assert_int_equal(tn_wg_peer_add(a->wg, &low, a, &p), 0);
    make_packet(packet, sizeof packet, &a->ip, &a->ip, 1);
    assert_int_equal(tn_wg_send(a->wg, p, packet, sizeof packet, n->now_us), TN_E_CRYPTO);
    assert_int_equal(a->wg->staged_bytes, 0);
    assert_int_equal(tn_wg_next_deadline(a->wg), TN_NEVER);
    net_free(n);
}

static void staged_bytes_of_all_peers_are_bounded(void **state)
{
    enum { PEERS = 300 };
    struct net *n = net_new(32);
    struct side *a = &n->side[0];
    uint8_t packet[TN_WG_MTU];
    int last = 0;
    n->cut[0] = true;
    make_packet(packet, sizeof packet, &a->ip, &a->ip, 1);
    for (int i = 0; i < PEERS; i++) {
        struct tn_node_public pub;
        struct tn_wg_peer *p;
        tn_rng_fill(&n->rng, &pub, sizeof pub);
        assert_int_equal(tn_wg_peer_add(a->wg, &pub, a, &p), 0);
        for (int k = 0; k < TN_WG_STAGED_MAX + 5; k++) last = tn_wg_send(a->wg, p, packet, sizeof packet, n->now_us);
    }
    assert_int_equal(last, TN_E_NOMEM);
    assert_true(a->wg->staged_bytes <= TN_WG_STAGED_BYTES_MAX);
    run_for(n, 200 * S); /* every handshake is given up */
    assert_int_equal(a->wg->staged_bytes, 0);
    net_free(n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_packet_starts_a_session), cmocka_unit_test(padding_and_sizes),
        cmocka_unit_test(ipv6_is_trimmed_and_checked), cmocka_unit_test(staged_packets_keep_order_and_bound),
        cmocka_unit_test(priority_packet), cmocka_unit_test(simultaneous_initiations),
        cmocka_unit_test(lost_messages), cmocka_unit_test(lost_confirmation),
        cmocka_unit_test(replayed_datagrams), cmocka_unit_test(initiations_are_rate_limited_per_peer),
        cmocka_unit_test(wall_clock_set_back), cmocka_unit_test(peers_made_on_demand),
        cmocka_unit_test(removed_peer_leaves_nothing), cmocka_unit_test(reset_begins_anew),
        cmocka_unit_test(new_key_for_the_engine), cmocka_unit_test(restarted_peer),
        cmocka_unit_test(source_check_and_moving_prefixes), cmocka_unit_test(peer_with_an_impossible_key),
        cmocka_unit_test(staged_bytes_of_all_peers_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
