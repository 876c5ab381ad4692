/* Every time of the protocol, to the microsecond where it has no jitter. */
#include "wg/timers.c"

#include "pair.h"

static void initiation_is_retransmitted_and_given_up(void **state)
{
    struct net *n = net_new(1);
    struct side *a = &n->side[0];
    n->cut[0] = true;
    uint64_t start = n->now_us, last = start;
    send_packet(a, 1, 64);
    for (unsigned i = 2; i <= 20; i++) {
        run_until(n, tn_wg_next_deadline(a->wg));
        assert_int_equal(a->sent[1], i);
        assert_in_range(n->now_us - last, 5 * S, 5 * S + 333 * MS);
        last = n->now_us;
    }
    assert_int_equal(a->peer->nstaged, 1);
    run_until(n, tn_wg_next_deadline(a->wg));
    assert_int_equal(a->sent[1], 20);
    assert_in_range(n->now_us - start, 100 * S, 107 * S);
    assert_int_equal(a->peer->nstaged, 0);
    assert_int_equal(tn_wg_counters(a->wg)->staged_dropped, 1);
    run_for(n, 539 * S);
    assert_non_null(a->peer->shake);
    run_for(n, 2 * S);
    assert_null(a->peer->shake); /* nothing secret is left of the attempt */
    assert_int_equal(a->sent[1], 20);
    assert_int_equal(tn_wg_next_deadline(a->wg), TN_NEVER);
    n->cut[0] = false;
    send_packet(a, 2, 64); /* new data begins again */
    run_for(n, S);
    assert_true(got_packet(&n->side[1], 0, 2, 64));
    net_free(n);
}

static void data_during_the_handshake_waits_for_its_gate(void **state)
{
    struct net *n = net_new(2);
    struct side *a = &n->side[0];
    n->cut[0] = true;
    send_packet(a, 1, 64);
    for (uint32_t i = 0; i < 49; i++) {
        run_for(n, 100 * MS);
        send_packet(a, i, 64);
    }
    assert_int_equal(a->sent[1], 1);
    run_for(n, 500 * MS);
    assert_int_equal(a->sent[1], 2);
    net_free(n);
}

/* The 5 s count from a response as well. */
static void gate_counts_from_responses(void **state)
{
    struct net *n = net_new(3);
    struct side *a = &n->side[0], *b = &n->side[1];
    n->drop_type[0][4] = 100;
    send_packet(a, 1, 64);
    run_for(n, 60 * MS);
    assert_int_equal(b->last_sent_us[2], 1000 * S + 50 * MS);
    send_packet(b, 1, 64);
    run_until(n, 1005 * S + 50 * MS - 1);
    assert_int_equal(b->sent[1], 0);
    run_until(n, 1005 * S + 50 * MS);
    assert_int_equal(b->sent[1], 1);
    net_free(n);
}

static void initiator_renews_after_120_s(void **state)
{
    struct net *n = net_new(4);
    struct side *a = &n->side[0], *b = &n->side[1];
    establish(n);
    uint64_t derived = 1000 * S + 100 * MS;
    run_until(n, derived + 120 * S - 1);
    send_packet(b, 1, 64); /* neither the responder ... */
    send_packet(a, 1, 64); /* ... nor the initiator before its time */
    assert_int_equal(a->sent[1] + b->sent[1], 1);
    n->now_us++;
    send_packet(b, 2, 64);
    assert_int_equal(b->sent[1], 0);
    send_packet(a, 2, 64);
    assert_int_equal(a->sent[1], 2);
    run_for(n, S);
    assert_int_equal(tn_wg_counters(a->wg)->handshakes, 2);
    assert_int_equal(tn_wg_counters(b->wg)->handshakes, 2);
    assert_int_equal(b->received, 2);
    assert_int_equal(a->received, 2);
    net_free(n);
}

static void receiving_initiator_renews_after_165_s(void **state)
{
    struct net *n = net_new(5);
    struct side *a = &n->side[0], *b = &n->side[1];
    establish(n);
    run_until(n, 1000 * S + 100 * MS + 165 * S - 50 * MS); /* arrives exactly at 165 s: not yet */
    send_packet(b, 1, 64);
    run_for(n, 50 * MS);
    assert_int_equal(a->received, 1);
    assert_int_equal(a->sent[1], 1);
    n->cut[0] = true;
    run_for(n, 1);
    send_packet(b, 2, 64);
    run_for(n, 50 * MS);
    assert_int_equal(a->sent[1], 2);
    send_packet(b, 3, 64);
    run_for(n, 4 * S);
    assert_int_equal(a->sent[1], 2); /* once */
    net_free(n);
}

static void session_is_rejected_after_180_s(void **state)
{
    struct net *n = net_new(6);
    struct side *a = &n->side[0], *b = &n->side[1];
    establish(n);
    uint64_t derived = 1000 * S + 100 * MS;
    run_until(n, derived + 180 * S - 1);
    b->peer->current->created_us = a->peer->current->created_us;
    send_packet(b, 1, 64); /* the responder may still send; it arrives too late */
    assert_int_equal(b->sent[4], 2);
    run_for(n, 1);
    send_packet(b, 2, 64);
    assert_int_equal(b->sent[1], 1); /* now it needs a handshake */
    assert_false(stats_of(b).session);
    run_for(n, 52 * MS);
    assert_int_equal(tn_wg_counters(a->wg)->bad_index, 1);
    assert_int_equal(a->received, 0);
    run_for(n, S);
    assert_true(got_packet(a, 0, 2, 64));
    net_free(n);
}

static void keepalive_answers_silence(void **state)
{
    struct net *n = net_new(7);
    struct side *a = &n->side[0], *b = &n->side[1];
    establish(n); /* b got data at 1000.150 and has nothing to say */
    unsigned before = b->sent[4];
    run_until(n, 1010 * S + 150 * MS - 1);
    assert_int_equal(b->sent[4], before);
    run_until(n, 1010 * S + 150 * MS);
    assert_int_equal(b->sent[4], before + 1);
    assert_int_equal(b->last_len[4], 32);
    unsigned sent = a->sent[4] + b->sent[4];
    run_for(n, 100 * S); /* a keepalive is not answered by a keepalive */
    assert_int_equal(a->sent[4] + b->sent[4], sent);
    assert_int_equal(a->received + b->received, 0);
    net_free(n);
}

static void keepalive_again_when_more_came(void **state)
{
    struct net *n = net_new(8);
    struct side *a = &n->side[0], *b = &n->side[1];
    establish(n);
    run_for(n, 3 * S);
    send_packet(a, 2, 64);
    run_until(n, 1010 * S + 150 * MS);
    unsigned sent = b->sent[4];
    run_until(n, 1020 * S + 150 * MS);
    assert_int_equal(b->sent[4], sent + 1);
    run_for(n, 50 * S);
    assert_int_equal(b->sent[4], sent + 1);
    net_free(n);
}

static void answering_data_needs_no_keepalive(void **state)
{
    struct net *n = net_new(9);
    struct side *a = &n->side[0], *b = &n->side[1];
    establish(n);
    for (int i = 0; i < 10; i++) {
        send_packet(a, 1, 64);
        run_for(n, 100 * MS);
        send_packet(b, 1, 64);
        run_for(n, 5 * S);
        assert_int_equal(b->last_len[4], 96);
        assert_int_equal(a->last_len[4], 96);
    }
    net_free(n);
}

static void dead_peer_gets_a_handshake_after_15_s(void **state)
{
    struct net *n = net_new(10);
    struct side *a = &n->side[0];
    establish(n);
    run_for(n, 20 * S);
    n->cut[1] = true;
    uint64_t sent_at = n->now_us;
    send_packet(a, 2, 64);
    run_for(n, 5 * S);
    send_packet(a, 3, 64); /* does not put it off */
    run_until(n, sent_at + 15 * S - 1);
    assert_int_equal(a->sent[1], 1);
    run_until(n, sent_at + 15 * S + 333 * MS);
    assert_int_equal(a->sent[1], 2);
    run_for(n, 10 * S);
    assert_true(a->sent[1] >= 3);
    n->cut[1] = false;
    run_for(n, 6 * S);
    assert_int_equal(tn_wg_counters(a->wg)->handshakes, 2);
    net_free(n);
}

static void a_live_peer_gets_none(void **state)
{
    struct net *n = net_new(11);
    struct side *a = &n->side[0], *b = &n->side[1];
    establish(n);
    for (int i = 0; i < 5; i++) { /* only a sends; b's keepalives show that it lives */
        send_packet(a, 1, 64);
        run_for(n, 16 * S);
    }
    assert_int_equal(a->sent[1] + b->sent[1], 1);
    net_free(n);
}

static void keys_are_wiped_after_540_s(void **state)
{
    struct net *n = net_new(12);
    struct side *a = &n->side[0], *b = &n->side[1];
    establish(n);
    run_until(n, 1000 * S + 100 * MS + 540 * S - 1);
    assert_non_null(a->peer->current);
    assert_non_null(a->peer->shake);
    run_for(n, 1);
    assert_null(a->peer->current);
    assert_null(a->peer->shake);
    assert_int_equal(a->wg->indices.count, 0);
    assert_null(b->peer->current); /* derived 50 ms earlier */
    assert_int_equal(tn_wg_next_deadline(a->wg), TN_NEVER);
    assert_int_equal(tn_wg_next_deadline(b->wg), TN_NEVER);
    send_packet(b, 5, 64);
    run_for(n, S);
    assert_true(got_packet(a, 0, 5, 64));
    net_free(n);
}

static void counters_run_out(void **state)
{
    struct net *n = net_new(13);
    struct side *a = &n->side[0], *b = &n->side[1];
    establish(n);
    run_for(n, 10 * S);
    a->peer->current->send_counter = TN_WG_REKEY_AFTER_MESSAGES;
    send_packet(a, 1, 64);
    assert_int_equal(a->sent[1], 2);
    run_for(n, S);
    assert_int_equal(b->received, 1);
    run_for(n, 10 * S);
    a->peer->current->send_counter = TN_WG_REJECT_AFTER_MESSAGES;
    unsigned data = a->sent[4];
    send_packet(a, 2, 64);
    assert_int_equal(a->sent[4], data); /* not under these keys */
    assert_int_equal(a->sent[1], 3);
    run_for(n, S);
    assert_true(got_packet(b, 1, 2, 64));
    run_for(n, 10 * S);
    b->peer->current->send_counter = TN_WG_REJECT_AFTER_MESSAGES - 1;
    b->peer->current->initiator = false;
    send_packet(b, 3, 64); /* the last one; and the responder begins a handshake too when messages run out */
    assert_int_equal(b->sent[1], 1);
    run_for(n, S);
    assert_true(got_packet(a, 0, 3, 64));
    net_free(n);
}

/* Traffic at random over a bad link for an hour: what arrives is what was sent, at most once, and most of it does. */
static void an_hour_over_a_bad_link(void **state)
{
    enum { LIMIT = 3000 };
    for (uint64_t seed = 1; seed <= 4; seed++) {
        static uint8_t seen[2][LIMIT];
        uint32_t sent[2] = {0};
        struct net *n = net_new(seed);
        memset(seen, 0, sizeof seen);
        n->loss_percent = 10 * (unsigned)seed;
        n->repeat_percent = 20;
        n->jitter_us = 300 * MS;
        for (int i = 0; i < LIMIT; i++) {
            unsigned who = (unsigned)tn_rng_below(&n->rng, 2);
            (void)send_packet(&n->side[who], sent[who]++, 28 + tn_rng_below(&n->rng, TN_WG_MTU - 28));
            run_for(n, tn_rng_below(&n->rng, tn_rng_below(&n->rng, 50) ? S : 60 * S));
        }
        run_for(n, 10 * S);
        for (int i = 0; i < 2; i++) {
            struct side *s = &n->side[i];
            for (unsigned k = 0; k < s->received; k++) {
                uint32_t number = tn_get_be32(s->inbox[k].bytes + 20);
                assert_true(number < sent[!i]);
                assert_true(got_packet(s, k, number, s->inbox[k].len));
                assert_int_equal(seen[i][number]++, 0);
            }
            assert_true(s->received * 100 > sent[!i] * (80 - n->loss_percent));
        }
        net_free(n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(initiation_is_retransmitted_and_given_up),
        cmocka_unit_test(data_during_the_handshake_waits_for_its_gate),
        cmocka_unit_test(gate_counts_from_responses),
        cmocka_unit_test(initiator_renews_after_120_s),
        cmocka_unit_test(receiving_initiator_renews_after_165_s),
        cmocka_unit_test(session_is_rejected_after_180_s),
        cmocka_unit_test(keepalive_answers_silence),
        cmocka_unit_test(keepalive_again_when_more_came),
        cmocka_unit_test(answering_data_needs_no_keepalive),
        cmocka_unit_test(dead_peer_gets_a_handshake_after_15_s),
        cmocka_unit_test(a_live_peer_gets_none),
        cmocka_unit_test(keys_are_wiped_after_540_s),
        cmocka_unit_test(counters_run_out),
        cmocka_unit_test(an_hour_over_a_bad_link),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
