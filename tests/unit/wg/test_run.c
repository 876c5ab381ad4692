/* Packets many at a time: trains out, runs in, and what of them must not get through. */
#include "pair.h"

enum { COUNT = 100, LEN = 1280, LAST = 333 };

/* One run as it left. */
static struct {
    uint8_t bytes[256 * 1400];
    size_t len, segment;
    unsigned runs, delivered_runs;
} wire;

static void on_send_run(void *ctx, struct tn_wg_peer *peer, void *arg, const uint8_t *run, size_t len, size_t segment,
                        uint64_t now_us)
{
    assert_true(wire.len + len <= sizeof wire.bytes);
    assert_true(wire.runs == 0 || wire.segment == segment);
    memcpy(wire.bytes + wire.len, run, len);
    wire.len += len;
    wire.segment = segment;
    wire.runs++;
}

static void on_deliver_run(void *ctx, struct tn_wg_peer *peer, void *arg, const struct iovec *packets, size_t n,
                           uint64_t now_us)
{
    wire.delivered_runs++;
    for (size_t i = 0; i < n; i++) on_deliver(ctx, peer, arg, packets[i].iov_base, packets[i].iov_len, now_us);
}

static void use_runs(struct side *s)
{
    s->wg->cb.send_run = on_send_run;
    s->wg->cb.deliver_run = on_deliver_run;
}

/* Packet i of a train from side s. */
static void packet_at(const struct side *s, uint8_t *p, size_t len, unsigned i)
{
    memset(p, (int)i, len);
    p[0] = 0x45;
    tn_put_be16(p + 2, (uint16_t)len);
    memcpy(p + 12, s->ip.b, 4);
    memcpy(p + 16, s->net->side[!s->id].ip.b, 4);
    tn_put_be16(p + 20, (uint16_t)i);
}

static uint8_t *train_make(const struct side *s, struct tn_wg_train *t, size_t count, size_t len, size_t last)
{
    size_t stride = tn_wg_stride(len);
    uint8_t *buf = malloc(count * stride); /* exact: a write beyond it is seen */
    memset(buf, 0xee, count * stride);
    *t = (struct tn_wg_train){.first = buf + TN_WG_HEADROOM, .count = count, .len = len, .last_len = last};
    for (unsigned i = 0; i < count; i++) packet_at(s, t->first + i * stride, i + 1 < count ? len : last, i);
    return buf;
}

static void meet(struct net *n)
{
    uint8_t p[64];
    packet_at(&n->side[0], p, sizeof p, 0);
    assert_int_equal(tn_wg_send(n->side[0].wg, n->side[0].peer, p, sizeof p, n->now_us), 0);
    run_for(n, 2 * S);
    assert_int_equal(n->side[1].received, 1);
    n->side[1].received = 0;
    use_runs(&n->side[0]);
    use_runs(&n->side[1]);
    memset(&wire, 0, sizeof wire);
}

static void give(struct side *s, size_t len, size_t segment)
{
    static const struct tn_wg_from from = {.bytes = {192, 0, 2, 1, 9, 9}, .len = 6};
    uint8_t *copy = malloc(len);
    memcpy(copy, wire.bytes, len);
    tn_wg_input_run(s->wg, copy, len, segment, &from, s->net->now_us);
    free(copy);
}

static void check_inbox(const struct side *from, const struct side *to, unsigned count, size_t len, size_t last)
{
    assert_int_equal(to->received, count);
    for (unsigned i = 0; i < count; i++) {
        uint8_t want[LEN];
        size_t n = i + 1 < count ? len : last;
        packet_at(from, want, n, i);
        assert_int_equal(to->inbox[i].len, n);
        assert_memory_equal(to->inbox[i].bytes, want, n);
    }
}

static void there_and_once(void **state)
{
    static const struct { size_t count, len, last; } shapes[] = {
        {COUNT, LEN, LAST}, {1, LEN, LEN}, {2, 1271, 1}, {64, LEN, LEN}, {65, 57, 49}, {3, 64, 64}};
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        struct net *n = net_new(k + 1);
        struct tn_wg_train t;
        meet(n);
        if (shapes[k].last < 20) { /* no IP packet: it goes, and the other side drops it */
            uint8_t *buf = train_make(&n->side[0], &t, shapes[k].count, shapes[k].len, 22);
            t.last_len = shapes[k].last;
            assert_int_equal(tn_wg_send_train(n->side[0].wg, n->side[0].peer, &t, n->now_us), 0);
            free(buf);
            give(&n->side[1], wire.len, wire.segment);
            assert_int_equal(n->side[1].received, shapes[k].count - 1);
            assert_int_equal(tn_wg_counters(n->side[1].wg)->malformed, 1);
            net_free(n);
            continue;
        }
        uint8_t *buf = train_make(&n->side[0], &t, shapes[k].count, shapes[k].len, shapes[k].last);
        struct tn_wg_peer_stats before, after;
        tn_wg_peer_stats(n->side[0].peer, &before);
        assert_int_equal(tn_wg_send_train(n->side[0].wg, n->side[0].peer, &t, n->now_us), 0);
        tn_wg_peer_stats(n->side[0].peer, &after);
        free(buf);
        assert_int_equal(wire.segment, tn_wg_stride(shapes[k].len));
        assert_int_equal(after.tx_bytes - before.tx_bytes, wire.len);
        give(&n->side[1], wire.len, wire.segment);
        check_inbox(&n->side[0], &n->side[1], (unsigned)shapes[k].count, shapes[k].len, shapes[k].last);
        give(&n->side[1], wire.len, wire.segment); /* again: all replays */
        assert_int_equal(n->side[1].received, shapes[k].count);
        assert_int_equal(tn_wg_counters(n->side[1].wg)->replayed, shapes[k].count);
        net_free(n);
    }
}

/* A counter twice within one run is taken once; a changed byte costs its packet alone; a keepalive and strange types are
 * no packets. */
static void bad_ones_within(void **state)
{
    struct net *n = net_new(7);
    struct tn_wg_train t;
    meet(n);
    uint8_t *buf = train_make(&n->side[0], &t, 6, LEN, LEN);
    assert_int_equal(tn_wg_send_train(n->side[0].wg, n->side[0].peer, &t, n->now_us), 0);
    free(buf);
    size_t seg = wire.segment;
    memcpy(wire.bytes + 3 * seg, wire.bytes + 2 * seg, seg); /* 0 1 2 2 4 5 */
    wire.bytes[4 * seg + 500] ^= 1;
    wire.bytes[5 * seg] = 9;
    give(&n->side[1], wire.len, seg);
    check_inbox(&n->side[0], &n->side[1], 3, LEN, LEN);
    const struct tn_wg_counters *c = tn_wg_counters(n->side[1].wg);
    assert_true(c->replayed == 1 && c->bad_tag == 1 && c->malformed == 1);
    wire.bytes[5 * seg] = 4;
    tn_put_le32(wire.bytes + 5 * seg + 4, 12345);
    give(&n->side[1], wire.len, seg);
    assert_int_equal(c->bad_index, 1);
    assert_int_equal(n->side[1].received, 3);
    net_free(n);
}

/* The inner source is looked at packet by packet, whatever the one before was. */
static void forged_sources(void **state)
{
    struct net *n = net_new(8);
    struct tn_wg_train t;
    meet(n);
    uint8_t *buf = train_make(&n->side[0], &t, 9, 200, 200);
    for (unsigned i = 0; i < 9; i += 2) t.first[i * tn_wg_stride(200) + 15] ^= (uint8_t)(1 + i);
    assert_int_equal(tn_wg_send_train(n->side[0].wg, n->side[0].peer, &t, n->now_us), 0);
    free(buf);
    give(&n->side[1], wire.len, wire.segment);
    assert_int_equal(n->side[1].received, 4);
    assert_int_equal(tn_wg_counters(n->side[1].wg)->bad_source, 5);
    for (unsigned i = 0; i < 4; i++) assert_int_equal(tn_get_be16(n->side[1].inbox[i].bytes + 20), 2 * i + 1);
    net_free(n);
}

/* Without a session the packets wait for one like any others, in order, the oldest given up. */
static void staged_first(void **state)
{
    struct net *n = net_new(9);
    struct tn_wg_train t;
    uint8_t *buf = train_make(&n->side[0], &t, TN_WG_STAGED_MAX, 100, 100);
    assert_int_equal(tn_wg_send_train(n->side[0].wg, n->side[0].peer, &t, n->now_us), 0);
    free(buf);
    run_for(n, 2 * S);
    check_inbox(&n->side[0], &n->side[1], TN_WG_STAGED_MAX, 100, 100);
    struct tn_wg_train bad = t;
    bad.last_len = 101;
    assert_int_equal(tn_wg_send_train(n->side[0].wg, n->side[0].peer, &bad, n->now_us), TN_E_INVAL);
    bad.len = bad.last_len = TN_WG_MTU + 1;
    assert_int_equal(tn_wg_send_train(n->side[0].wg, n->side[0].peer, &bad, n->now_us), TN_E_TOOBIG);
    net_free(n);
}

/* Owners without the calls for many get the same packets one by one. */
static void one_by_one(void **state)
{
    struct net *n = net_new(10);
    struct tn_wg_train t;
    meet(n);
    n->side[0].wg->cb.send_run = NULL;
    n->side[1].wg->cb.deliver_run = NULL;
    uint8_t *buf = train_make(&n->side[0], &t, 20, LEN, LAST);
    assert_int_equal(tn_wg_send_train(n->side[0].wg, n->side[0].peer, &t, n->now_us), 0);
    free(buf);
    run_for(n, S);
    check_inbox(&n->side[0], &n->side[1], 20, LEN, LAST);
    net_free(n);
}

/* Who takes trains unsealed gets them numbered, padded, and under the session's key; what it declines is sealed here, under the
 * same counters. */
static struct {
    bool take;
    struct tn_aead_engine *engine;
    unsigned asked;
    uint64_t counter;
} sealer;

static bool take_unsealed(void *ctx, struct tn_wg_peer *peer, void *arg, const struct tn_aead_run *run, uint64_t now_us)
{
    sealer.asked++;
    sealer.counter = run->counter;
    if (!sealer.take) return false;
    tn_aead_seal_run(sealer.engine, run);
    memcpy(wire.bytes, run->bytes, run->len);
    wire.len = run->len;
    wire.segment = run->segment;
    return true;
}

static void sealed_elsewhere(void **state)
{
    struct net *n = net_new(11);
    sealer.engine = tn_aead_engine_new(TN_AEAD_OPENSSL);
    meet(n);
    n->side[0].wg->cb.send_unsealed = take_unsealed;
    uint64_t counter = n->side[0].peer->current->send_counter;
    for (unsigned k = 0; k < 4; k++) {
        struct tn_wg_train t;
        struct tn_wg_peer_stats before, after;
        sealer.take = k % 2 == 0;
        n->side[1].received = 0;
        memset(&wire, 0, sizeof wire);
        uint8_t *buf = train_make(&n->side[0], &t, COUNT, LEN, LAST);
        tn_wg_peer_stats(n->side[0].peer, &before);
        assert_int_equal(tn_wg_send_train(n->side[0].wg, n->side[0].peer, &t, n->now_us), 0);
        tn_wg_peer_stats(n->side[0].peer, &after);
        free(buf);
        assert_int_equal(sealer.asked, k + 1);
        assert_true(sealer.counter == counter + k * COUNT);
        assert_int_equal(after.tx_bytes - before.tx_bytes, wire.len);
        assert_true(after.last_tx_us == n->now_us);
        give(&n->side[1], wire.len, wire.segment);
        check_inbox(&n->side[0], &n->side[1], COUNT, LEN, LAST);
    }
    tn_aead_engine_free(sealer.engine);
    net_free(n);
}

/* A run opened by another engine, as a worker does it, is taken in as if it had been opened here; what has changed in between
 * decides. */
static void opened_elsewhere(void **state)
{
    struct tn_aead_engine *engine = tn_aead_engine_new(TN_AEAD_OPENSSL);
    for (int what = 0; what < 5; what++) {
        struct net *n = net_new(12 + (uint64_t)what);
        struct side *s = &n->side[1];
        const struct tn_wg_counters *c;
        struct tn_wg_train t;
        struct tn_wg_plan plan;
        bool good[TN_WG_PLAN_MAX];
        meet(n);
        c = tn_wg_counters(s->wg);
        uint8_t *buf = train_make(&n->side[0], &t, 40, LEN, LAST);
        assert_int_equal(tn_wg_send_train(n->side[0].wg, n->side[0].peer, &t, n->now_us), 0);
        free(buf);
        size_t len = wire.len, seg = wire.segment;
        uint8_t *run = malloc(len);
        memcpy(run, wire.bytes, len);
        assert_int_equal(tn_wg_session_part(run, len, seg), len);
        assert_true(tn_wg_plan_open(s->wg, run, len, seg, &plan, n->now_us));
        assert_true(plan.serial != 0);
        assert_int_equal(tn_wg_session_of(run), tn_get_le32(run + 4));
        if (what == 1) run[3 * seg + 50] ^= 1;
        if (what == 2) give(s, 2 * seg, seg); /* two of them have come by another way meanwhile */
        tn_wg_open_planned(engine, &plan, run, len, seg, good);
        if (what == 3) tn_wg_peer_reset(s->wg, s->peer);
        if (what == 4) plan.serial++; /* the index is another keypair's now */
        tn_wg_input_opened(s->wg, &plan, run, len, seg, good, n->now_us);
        if (what == 0 || what == 2) check_inbox(&n->side[0], s, 40, LEN, LAST);
        if (what == 1) assert_true(s->received == 39 && c->bad_tag == 1);
        if (what == 2) assert_int_equal(c->replayed, 2);
        if (what >= 3) assert_true(s->received == 0 && c->bad_index == 40);
        free(run);
        net_free(n);
    }
    tn_aead_engine_free(engine);
}

/* What makes a part of a run: one session's data, or one datagram that is none. */
static void parts(void **state)
{
    struct net *n = net_new(20);
    struct tn_wg_train t;
    struct tn_wg_plan plan;
    meet(n);
    uint8_t *buf = train_make(&n->side[0], &t, 10, 64, 50);
    assert_int_equal(tn_wg_send_train(n->side[0].wg, n->side[0].peer, &t, n->now_us), 0);
    free(buf);
    size_t seg = wire.segment, len = wire.len;
    wire.bytes[4 * seg] = 9;                        /* strange */
    tn_put_le32(wire.bytes + 7 * seg + 4, 12345);   /* another session's, of which there is none */
    assert_int_equal(tn_wg_session_part(wire.bytes, len, seg), 4 * seg);
    assert_int_equal(tn_wg_session_part(wire.bytes + 4 * seg, len - 4 * seg, seg), seg);
    assert_int_equal(tn_wg_session_part(wire.bytes + 5 * seg, len - 5 * seg, seg), 2 * seg);
    assert_int_equal(tn_wg_session_part(wire.bytes + 7 * seg, len - 7 * seg, seg), seg);
    assert_int_equal(tn_wg_session_part(wire.bytes + 8 * seg, len - 8 * seg, seg), len - 8 * seg);
    assert_int_equal(tn_wg_session_part(wire.bytes, 5, seg), 5); /* too short for anything */
    struct tn_wg *wg = n->side[1].wg;
    assert_true(tn_wg_plan_open(wg, wire.bytes, 4 * seg, seg, &plan, n->now_us));
    assert_false(tn_wg_plan_open(wg, wire.bytes, 5 * seg, seg, &plan, n->now_us));
    assert_false(tn_wg_plan_open(wg, wire.bytes + 4 * seg, seg, seg, &plan, n->now_us));
    assert_false(tn_wg_plan_open(wg, wire.bytes + 7 * seg, seg, seg, &plan, n->now_us));
    assert_false(tn_wg_plan_open(wg, wire.bytes, 0, seg, &plan, n->now_us));
    assert_false(tn_wg_plan_open(wg, wire.bytes, 4 * seg, seg, &plan, n->now_us + 200 * S)); /* too old to receive */
    net_free(n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(there_and_once), cmocka_unit_test(bad_ones_within), cmocka_unit_test(forged_sources),
        cmocka_unit_test(staged_first), cmocka_unit_test(one_by_one), cmocka_unit_test(sealed_elsewhere),
        cmocka_unit_test(opened_elsewhere), cmocka_unit_test(parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
