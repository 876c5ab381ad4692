/* The small parts: message layouts, replay window, timestamps, limits. */
#include "wg/limit.c"
#include "wg/replay.h"
#include "wg/tai.c"
#include "wire/wgmsg.c"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static void message_types(void **state)
{
    static const size_t exact[4] = {0, 148, 92, 64};
    uint8_t bytes[200] = {0};
    for (int type = 0; type < 256; type++) {
        bytes[0] = (uint8_t)type;
        for (size_t len = 0; len <= sizeof bytes; len++) {
            bool fits = (type >= 1 && type <= 3 && len == exact[type]) || (type == 4 && len >= 32);
            assert_int_equal(tn_wgmsg_type(bytes, len), fits ? type : TN_E_MALFORMED);
        }
    }
    bytes[0] = 4;
    for (int i = 1; i < 4; i++) {
        bytes[i] = 1;
        assert_int_equal(tn_wgmsg_type(bytes, 32), TN_E_MALFORMED);
        bytes[i] = 0;
    }
}

static void fill(void *p, size_t n, uint8_t from)
{
    for (size_t i = 0; i < n; i++) ((uint8_t *)p)[i] = (uint8_t)(from + i);
}

static void message_layouts(void **state)
{
    struct tn_wgmsg_initiation i = {.sender = 0x04030201}, i2;
    struct tn_wgmsg_response r = {.sender = 0x04030201, .receiver = 0x08070605}, r2;
    struct tn_wgmsg_cookie c = {.receiver = 0x04030201}, c2;
    struct tn_wgmsg_data d = {.receiver = 0x04030201, .counter = UINT64_C(0x0c0b0a0908070605)}, d2;
    uint8_t out[160], want[160];
    fill(i.ephemeral, 32, 5);
    fill(i.sealed_static, 48, 37);
    fill(i.sealed_timestamp, 28, 85);
    memset(want, 0, sizeof want);
    want[0] = 1;
    fill(want + 4, 112, 1);
    out[148] = 0x77;
    tn_wgmsg_put_initiation(out, &i);
    assert_memory_equal(out, want, 148);
    assert_int_equal(out[148], 0x77);
    tn_wgmsg_get_initiation(out, &i2);
    assert_memory_equal(&i, &i2, sizeof i);
    fill(r.ephemeral, 32, 9);
    fill(r.sealed_nothing, 16, 41);
    memset(want, 0, sizeof want);
    want[0] = 2;
    fill(want + 4, 56, 1);
    tn_wgmsg_put_response(out, &r);
    assert_memory_equal(out, want, 92);
    tn_wgmsg_get_response(out, &r2);
    assert_memory_equal(&r, &r2, sizeof r);
    assert_int_equal(tn_wgmsg_sender(out), 0x04030201);
    fill(c.nonce, 24, 5);
    fill(c.sealed_cookie, 32, 29);
    memset(want, 0, sizeof want);
    want[0] = 3;
    fill(want + 4, 60, 1);
    tn_wgmsg_put_cookie(out, &c);
    assert_memory_equal(out, want, 64);
    tn_wgmsg_get_cookie(out, &c2);
    assert_memory_equal(&c, &c2, sizeof c);
    memset(want, 0, sizeof want);
    want[0] = 4;
    fill(want + 4, 12, 1);
    tn_wgmsg_put_data(out, &d);
    assert_memory_equal(out, want, 16);
    tn_wgmsg_get_data(out, &d2);
    assert_int_equal(d2.receiver, d.receiver);
    assert_true(d2.counter == d.counter);
}

/* Against a list of everything ever accepted. */
static void replay_against_naive(void **state)
{
    enum { STEPS = 60000 };
    static uint64_t seen[STEPS];
    for (uint64_t seed = 1; seed <= 4; seed++) {
        uint64_t s = seed, highest = 0;
        struct tn_rng rng = tn_rng_seeded(&s);
        struct tn_wg_replay window = {0};
        static uint8_t taken[400000];
        memset(taken, 0, sizeof taken);
        size_t nseen = 0;
        for (int i = 0; i < STEPS && highest < sizeof taken - 20000; i++) {
            uint64_t c = highest + tn_rng_below(&rng, 40);
            switch (tn_rng_below(&rng, 8)) {
            case 0: c = highest - tn_rng_below(&rng, highest < 9000 ? highest + 1 : 9000); break;
            case 1: c = nseen ? seen[tn_rng_below(&rng, nseen)] : 0; break;
            case 2: c = highest - (highest > TN_WG_WINDOW ? TN_WG_WINDOW + tn_rng_below(&rng, 2) : 0); break;
            case 3: if (tn_rng_below(&rng, 200) == 0) c = highest + tn_rng_below(&rng, 10000); break;
            default: break;
            }
            bool good = (c > highest || highest - c <= TN_WG_WINDOW) && !taken[c];
            assert_int_equal(tn_wg_replay_fresh(&window, c), good);
            assert_int_equal(tn_wg_replay_accept(&window, c), good);
            assert_false(tn_wg_replay_accept(&window, c));
            if (!good) continue;
            taken[c] = 1;
            seen[nseen++] = c;
            if (c > highest) highest = c;
        }
    }
}

static void replay_edges(void **state)
{
    struct tn_wg_replay w = {0};
    assert_true(tn_wg_replay_accept(&w, 0));
    assert_false(tn_wg_replay_accept(&w, 0));
    assert_true(tn_wg_replay_accept(&w, TN_WG_WINDOW));
    assert_false(tn_wg_replay_accept(&w, 0));
    assert_true(tn_wg_replay_accept(&w, 1));
    assert_true(tn_wg_replay_accept(&w, UINT64_MAX - 9000));
    assert_false(tn_wg_replay_accept(&w, TN_WG_WINDOW));
    assert_true(tn_wg_replay_accept(&w, UINT64_MAX - 9000 - TN_WG_WINDOW));
    assert_false(tn_wg_replay_accept(&w, UINT64_MAX - 9001 - TN_WG_WINDOW));
}

static void stamps_go_forward(void **state)
{
    struct tn_wg_clock c = {0};
    uint8_t last[12] = {0}, before[12], want[12] = {0x40, 0, 0, 0, 0x65, 0x53, 0xf1, 0x0a, 0x1d, 0, 0, 0};
    tn_wg_clock_read(&c, 1700000000, 500000000, 1000);
    tn_wg_tai_stamp(&c, last);
    assert_memory_equal(last, want, 12); /* 2^62 + 10 + 1700000000, 0x1dcd6500 cut to 2^24 */
    uint64_t now_us = 1000;
    for (int i = 0; i < 300; i++) { /* at once, with the wall clock set back by an hour, and with nonsense */
        memcpy(before, last, 12);
        tn_wg_clock_read(&c, i < 100 ? 1700000000 : i < 200 ? 1699996400 : -5, i < 200 ? 0 : UINT32_MAX, now_us);
        tn_wg_tai_stamp(&c, last);
        assert_true(memcmp(last, before, 12) > 0);
        assert_int_equal(last[9] | last[10] | last[11], 0);
        assert_true(tn_get_be32(last + 8) < 1000000000);
        if (i >= 100) now_us += 5000000;
    }
    /* The clock went on with monotonic time: 1700000000.5 s and 1,000 s. */
    assert_int_equal(c.sec, 1700000000 + 200 * 5 - 5);
    /* Another peer's first stamp comes from the clock, too, not from before it was set back. */
    uint8_t fresh[12] = {0};
    tn_wg_tai_stamp(&c, fresh);
    assert_true(tn_get_be64(fresh) >= UINT64_C(0x400000000000000a) + 1700000900);
}

static void load_is_noticed_and_ends(void **state)
{
    uint64_t seed = 1, now = 5000000;
    struct tn_rng rng = tn_rng_seeded(&seed);
    struct tn_wg_limit l;
    tn_wg_limit_init(&l, &rng);
    for (int i = 0; i < TN_WG_LOAD_PER_S; i++) assert_false(tn_wg_limit_load(&l, now));
    assert_true(tn_wg_limit_load(&l, now));
    assert_true(tn_wg_limit_load(&l, now + 999999));
    assert_false(tn_wg_limit_load(&l, now + 1000000));
    now += 10000000;
    for (int i = 0; i < 20000; i++) assert_false(tn_wg_limit_load(&l, now += 2000)); /* 500 a second for 40 s */
    bool loaded = false;
    for (int i = 0; i < 2000 && !loaded; i++) loaded = tn_wg_limit_load(&l, now += 1000);
    assert_true(loaded);
    tn_wg_limit_fini(&l);
}

static void sources_are_limited(void **state)
{
    uint64_t seed = 1, now = 5000000;
    struct tn_rng rng = tn_rng_seeded(&seed);
    struct tn_wg_limit l;
    struct tn_wg_from a = {.bytes = {1, 2, 3, 4, 0, 1}, .len = 6, .host_len = 4}, b = a, other = a;
    b.bytes[5] = 9; /* another port of the same host */
    other.bytes[0] = 9;
    tn_wg_limit_init(&l, &rng);
    for (int i = 0; i < TN_WG_SOURCE_BURST; i++) assert_true(tn_wg_limit_source(&l, i % 2 ? &a : &b, now));
    assert_false(tn_wg_limit_source(&l, &a, now));
    assert_false(tn_wg_limit_source(&l, &b, now));
    assert_true(tn_wg_limit_source(&l, &other, now));
    assert_false(tn_wg_limit_source(&l, &a, now + 49999));
    assert_true(tn_wg_limit_source(&l, &a, now + 50000));
    int passed = 0;
    for (int i = 0; i < 1000; i++) passed += tn_wg_limit_source(&l, &a, now += 10000); /* 10 s */
    assert_in_range(passed, 199, 206);
    a.host_len = 0;
    assert_true(tn_wg_limit_source(&l, &a, now)); /* all bytes count: another name */
    assert_int_equal(l.sources.count, 3);
    assert_true(tn_wg_limit_forget(&l, now) <= now + 250000);
    assert_true(tn_wg_limit_forget(&l, now + 250000) == TN_NEVER);
    assert_int_equal(l.sources.count, 0);
    for (uint32_t i = 0; i < TN_WG_SOURCES_MAX + 500; i++) {
        memcpy(a.bytes, &i, 4);
        assert_true(tn_wg_limit_source(&l, &a, now));
    }
    assert_int_equal(l.sources.count, TN_WG_SOURCES_MAX);
    tn_wg_limit_fini(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(message_types),    cmocka_unit_test(message_layouts),
        cmocka_unit_test(replay_against_naive), cmocka_unit_test(replay_edges),
        cmocka_unit_test(stamps_go_forward), cmocka_unit_test(load_is_noticed_and_ends),
        cmocka_unit_test(sources_are_limited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
