/* Strangers, forgers and floods. */
#include "wg/shake.c"

#include "pair.h"

/* Captures one datagram of each type for side b, in a world where the state is still such that it would be taken. */
struct captured {
    uint8_t bytes[TN_WG_DATAGRAM_MAX];
    size_t len;
};

static void unchanged(struct side *s, const struct tn_wg_peer *before)
{
    const struct tn_wg_peer *p = s->peer;
    assert_ptr_equal(p->current, before->current);
    assert_ptr_equal(p->next, before->next);
    assert_ptr_equal(p->previous, before->previous);
    assert_memory_equal(p->stamp_received, before->stamp_received, TN_WG_TAI_LEN);
    assert_memory_equal(&p->stats, &before->stats, sizeof p->stats);
    assert_memory_equal(p->deadline_us, before->deadline_us, sizeof p->deadline_us);
}

/* The same by someone who knows our public key and can mend MAC1. The sender's index is left out: the handshake
 * does not cover it, and who can change it could as well keep the message. */
static void harm_and_sign(struct side *s, const struct captured *c)
{
    struct tn_wg_jar jar = {0};
    uint8_t bytes[148];
    for (size_t bit = 8 * 8; bit < (c->len - 32) * 8; bit++) {
        memcpy(bytes, c->bytes, c->len);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        tn_wg_jar_sign(&jar, &s->pub, bytes, c->len, s->net->now_us);
        uint64_t bad_mac = tn_wg_counters(s->wg)->bad_mac;
        assert_int_not_equal(input_to(s, bytes, c->len), 0);
        assert_int_equal(tn_wg_counters(s->wg)->bad_mac, bad_mac);
        s->wg->limit.tokens_us = 1000000;
    }
}

/* Every truncation and every flipped bit of a good message is refused and changes nothing; then the message itself is
 * taken, so what was refused before it was refused for the right reason. */
static void harm(struct side *s, const struct captured *c)
{
    struct tn_wg_peer before = *s->peer;
    uint8_t bytes[TN_WG_DATAGRAM_MAX + 16];
    memset(bytes, 0, sizeof bytes);
    for (size_t len = 0; len < c->len; len++) assert_int_not_equal(input_to(s, c->bytes, len), 0);
    memcpy(bytes, c->bytes, c->len);
    for (size_t extra = 1; extra <= 16; extra++) assert_int_not_equal(input_to(s, bytes, c->len + extra), 0);
    for (size_t bit = 0; bit < c->len * 8; bit++) {
        memcpy(bytes, c->bytes, c->len);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        bool mac2 = bytes[0] <= 2 && bit / 8 >= c->len - 16; /* not looked at without load */
        if (!mac2) assert_int_not_equal(input_to(s, bytes, c->len), 0);
        s->wg->limit.tokens_us = 1000000;
        s->wg->limit.load_until_us = 0;
    }
    unchanged(s, &before);
    if (c->bytes[0] <= 2) harm_and_sign(s, c);
    unchanged(s, &before);
    assert_int_equal(input_to(s, c->bytes, c->len), 0);
}

static struct captured capture(const struct side *from, int type)
{
    struct captured c = {.len = from->last_len[type]};
    memcpy(c.bytes, from->last[type], c.len);
    return c;
}

static void harmed_messages(void **state)
{
    struct net *n = net_new(1);
    struct side *a = &n->side[0], *b = &n->side[1];
    struct captured c;
    n->cut[0] = n->cut[1] = true;
    send_packet(a, 1, 100);
    c = capture(a, 1);
    harm(b, &c); /* an initiation at a responder without any state */
    c = capture(b, 2);
    harm(a, &c); /* a response at a waiting initiator */
    c = capture(a, 4);
    harm(b, &c); /* data at a responder that waits for confirmation */
    assert_true(got_packet(b, 0, 1, 100));
    send_packet(b, 2, 40);
    c = capture(b, 4);
    harm(a, &c); /* data in a session */
    assert_true(got_packet(a, 0, 2, 40));
    n->now_us += 130 * S;
    send_packet(a, 3, 40);
    c = capture(a, 1);
    harm(b, &c); /* an initiation in a session */
    c = capture(b, 2);
    harm(a, &c);
    net_free(n);
}

static void harmed_cookie_reply(void **state)
{
    struct net *n = net_new(2);
    struct side *a = &n->side[0], *b = &n->side[1];
    n->cut[0] = n->cut[1] = true;
    send_packet(a, 1, 100);
    b->wg->limit.load_until_us = n->now_us + S;
    assert_int_equal(input_to(b, a->last[1], 148), TN_E_AGAIN);
    struct captured c = capture(b, 3);
    harm(a, &c);
    assert_true(a->peer->shake->jar.cookie_until_us > n->now_us);
    net_free(n);
}

/* An initiation with valid MAC1 from nobody in particular. */
static void stranger_message(struct net *n, struct side *to, int type, uint8_t *msg, size_t len)
{
    struct tn_wg_jar jar = {0};
    tn_rng_fill(&n->rng, msg, len);
    tn_put_le32(msg, (uint32_t)type);
    tn_wg_jar_sign(&jar, &to->pub, msg, len, n->now_us);
}

static void flood(struct net *n, struct side *to, int count)
{
    uint8_t msg[148];
    for (int i = 0; i < count; i++) {
        stranger_message(n, to, 1, msg, sizeof msg);
        (void)input_to(to, msg, sizeof msg);
    }
}

static void cookies_under_load(void **state)
{
    struct net *n = net_new(3);
    struct side *a = &n->side[0], *b = &n->side[1];
    n->cut[1] = true; /* the flood's cookie replies go nowhere */
    flood(n, b, TN_WG_LOAD_PER_S + 200);
    assert_int_equal(tn_wg_counters(b->wg)->bad_tag, TN_WG_LOAD_PER_S);
    assert_int_equal(tn_wg_counters(b->wg)->cookies_sent, 200);
    assert_int_equal(b->replies, 200);
    assert_int_equal(b->sent[2], 0);
    n->cut[1] = false;
    send_packet(a, 1, 64);
    run_for(n, 200 * MS);
    assert_true(a->peer->shake->jar.cookie_until_us > n->now_us);
    assert_int_equal(b->sent[2], 0);
    assert_int_equal(b->received, 0);
    n->cut[1] = true;
    run_for(n, 4750 * MS); /* just before the retransmission */
    flood(n, b, TN_WG_LOAD_PER_S + 200);
    n->cut[1] = false;
    run_for(n, S);
    assert_int_equal(a->sent[1], 2);
    assert_int_equal(b->sent[2], 1); /* heard in spite of the load, by its MAC2 */
    assert_true(got_packet(b, 0, 1, 64));
    assert_int_equal(b->wg->limit.sources.count, 1);
    run_for(n, 5 * S);
    assert_int_equal(b->wg->limit.sources.count, 0);
    /* After the load a message with a MAC2 of whatever worth is taken. */
    run_for(n, 130 * S);
    send_packet(a, 2, 64);
    run_for(n, S);
    assert_int_equal(tn_wg_counters(b->wg)->handshakes, 2);
    net_free(n);
}

static void sources_with_cookies_are_limited(void **state)
{
    struct net *n = net_new(4);
    struct side *a = &n->side[0], *b = &n->side[1];
    struct tn_wg_jar jar = {0};
    struct tn_wgmsg_cookie m;
    uint8_t msg[148];
    n->cut[0] = n->cut[1] = true;
    b->wg->limit.load_until_us = n->now_us + 100 * S;
    stranger_message(n, b, 1, msg, sizeof msg);
    tn_wg_jar_sign(&jar, &b->pub, msg, sizeof msg, n->now_us);
    assert_int_equal(input_to(b, msg, sizeof msg), TN_E_AGAIN);
    tn_wgmsg_get_cookie(b->last[3], &m);
    assert_int_equal(tn_wg_jar_take(&jar, &b->pub, &m, n->now_us), 0);
    tn_wg_jar_sign(&jar, &b->pub, msg, sizeof msg, n->now_us);
    for (int i = 0; i < 10; i++)
        assert_int_equal(input_to(b, msg, sizeof msg), i < TN_WG_SOURCE_BURST ? TN_E_CRYPTO : TN_E_LIMIT);
    assert_int_equal(tn_wg_counters(b->wg)->rate_limited, 5);
    assert_int_equal(a->received, 0);
    net_free(n);
}

/* Responses with a cookie asked for: the initiator under load answers the response with a cookie reply. */
static void cookie_for_a_response(void **state)
{
    struct net *n = net_new(5);
    struct side *a = &n->side[0], *b = &n->side[1];
    a->wg->limit.load_until_us = n->now_us + 3 * S;
    send_packet(a, 1, 64);
    run_for(n, S);
    assert_int_equal(a->replies, 1);
    assert_int_equal(b->received, 0);
    assert_true(b->peer->shake->jar.cookie_until_us > n->now_us);
    a->wg->limit.load_until_us = n->now_us + 20 * S;
    run_for(n, 6 * S);
    assert_true(got_packet(b, 0, 1, 64));
    net_free(n);
}

static void noise(void **state)
{
    static const size_t lens[] = {148, 92, 64};
    struct net *n = net_new(6);
    struct side *a = &n->side[0], *b = &n->side[1];
    uint8_t bytes[1500];
    establish(n);
    struct tn_wg_peer before = *b->peer;
    n->cut[1] = true;
    for (int i = 0; i < 20000; i++) {
        int type = (int)tn_rng_below(&n->rng, 5);
        size_t len = type >= 1 && type <= 3 ? lens[type - 1] : tn_rng_below(&n->rng, sizeof bytes);
        tn_rng_fill(&n->rng, bytes, sizeof bytes);
        if (len >= 4) tn_put_le32(bytes, (uint32_t)type);
        if (len >= 12 && tn_rng_below(&n->rng, 2)) /* a live index where one belongs */
            tn_put_le32(bytes + (type == 2 ? 8 : 4), b->peer->current->index.index);
        assert_int_not_equal(input_to(b, bytes, len), 0);
    }
    unchanged(b, &before);
    assert_int_equal(b->received, 0);
    assert_int_equal(b->wg->indices.count, 1);
    n->cut[1] = false;
    send_packet(a, 2, 64);
    run_for(n, S);
    assert_true(got_packet(b, 0, 2, 64));
    net_free(n);
}

/* Someone who knows our public key claims to be our peers: no memory may stay behind for any of them. */
static void forged_claims_cost_no_memory(void **state)
{
    struct net *n = net_new(7);
    struct side *a = &n->side[0], *b = &n->side[1];
    struct tn_wg_identity forger = {.pub = a->pub};
    struct tn_wg_initiation st;
    struct tn_wg_jar jar = {0};
    uint8_t shared[32], stamp[12] = {0xff}, msg[148];
    tn_node_private_generate(&forger.key, &n->rng);
    assert_int_equal(tn_x25519(shared, forger.key.b, b->pub.b), 0); /* not the shared key of a and b */
    assert_int_equal(tn_wg_initiate(&st, &forger, &b->pub, shared, stamp, 7, &n->rng, msg), 0);
    tn_wg_jar_sign(&jar, &b->pub, msg, sizeof msg, n->now_us);
    assert_int_equal(input_to(b, msg, sizeof msg), TN_E_CRYPTO);
    assert_null(b->peer->shake);
    assert_int_equal(tn_wg_next_deadline(b->wg), TN_NEVER);
    send_packet(a, 1, 64);
    run_for(n, S);
    assert_int_equal(b->received, 1);
    /* With a session there, the claim harms nothing. */
    struct tn_wg_peer before = *b->peer;
    assert_int_equal(input_to(b, msg, sizeof msg), TN_E_CRYPTO);
    unchanged(b, &before);
    assert_ptr_equal(before.shake, b->peer->shake);
    net_free(n);
}

/* A peer that holds the keys sends what it should not. */
static void malicious_insider(void **state)
{
    static const uint8_t bad[][4] = {{0x00}, {0x45, 0, 0, 19}, {0x45, 0, 0xff, 0xff}, {0x60, 0, 0, 0}, {0xf0}};
    struct net *n = net_new(8);
    struct side *a = &n->side[0], *b = &n->side[1];
    uint8_t packet[64];
    establish(n);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        for (size_t len = 1; len <= sizeof packet; len++) {
            memset(packet, 0, sizeof packet);
            memcpy(packet, bad[i], 4);
            packet[4] = 0xff;
            assert_int_equal(tn_wg_send(a->wg, a->peer, packet, len, n->now_us), 0);
            run_for(n, 60 * MS);
        }
    }
    assert_int_equal(b->received, 0);
    assert_int_equal(tn_wg_counters(b->wg)->malformed, 5 * 64);
    /* An index of another peer's session: the cipher refuses. */
    assert_int_equal(tn_wg_counters(b->wg)->bad_tag, 0);
    net_free(n);
}

static void many_peers(void **state)
{
    enum { PEERS = 10000 };
    struct net *n = net_new(9);
    struct side *b = &n->side[1];
    static struct tn_wg_peer *peers[PEERS];
    for (int i = 0; i < PEERS; i++) {
        struct tn_node_public pub;
        struct tn_prefix p = {.ip = tn_ip4(100, 100, (uint8_t)(i >> 8), (uint8_t)i), .bits = 32};
        tn_rng_fill(&n->rng, &pub, sizeof pub);
        assert_int_equal(tn_wg_peer_add(b->wg, &pub, b, &peers[i]), 0);
        assert_int_equal(tn_wg_peer_set_allowed(b->wg, peers[i], &p, 1), 0);
    }
    assert_true(sizeof *peers[0] <= 600); /* 10,000 idle peers in a few megabytes */
    for (int i = 0; i < PEERS; i++) {
        struct tn_ip ip = tn_ip4(100, 100, (uint8_t)(i >> 8), (uint8_t)i);
        assert_ptr_equal(tn_wg_route(b->wg, &ip), peers[i]);
        assert_ptr_equal(tn_wg_peer_find(b->wg, tn_wg_peer_key(peers[i])), peers[i]);
    }
    establish(n);
    for (int i = 0; i < PEERS; i += 2) tn_wg_peer_remove(b->wg, peers[i]);
    assert_int_equal(tn_route_count(b->wg->routes), PEERS / 2 + 1);
    net_free(n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(harmed_messages), cmocka_unit_test(harmed_cookie_reply),
        cmocka_unit_test(cookies_under_load),
        cmocka_unit_test(sources_with_cookies_are_limited), cmocka_unit_test(cookie_for_a_response),
        cmocka_unit_test(noise), cmocka_unit_test(forged_claims_cost_no_memory), cmocka_unit_test(malicious_insider),
        cmocka_unit_test(many_peers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
