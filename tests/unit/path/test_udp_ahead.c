/* Reading ahead, between sockets in a network namespace of the test's own. Also run by the thread sanitizer. */
#include "../../../src/path/udp_ahead.c"
#include "util/cursor.h"
#include "util/rng.h"
#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>
#include "../loopback.h"
#include <string.h>

enum { SEGMENT = 1312, PAGE = 4096, LONG = 8 };

/* Datagrams carry their number, counted for each family. work notes in the run's slot what it found there. */
struct bed {
    struct tn_udp *from, *to;
    uint64_t sent[2], got[2]; /* IPv4, IPv6 */
    bool ahead;               /* everything comes by the threads */
    pthread_t loop;
    struct tn_rng rng;
    uint64_t noted[TN_UDP_AHEAD_SLOTS];
    atomic_int wakes, made, unmade, rests, works;
    atomic_int delay_us; /* the most that a piece of work takes */
    atomic_bool held;    /* work waits */
    pthread_mutex_t mu;
    pthread_cond_t woken;
    bool wake;
    int make_fails;
};

static void *make(void *ctx)
{
    struct bed *b = ctx;
    if (b->make_fails-- > 0) return NULL;
    b->made++;
    return b;
}
static void unmake(void *local) { ((struct bed *)local)->unmade++; }
static void rest(void *local) { ((struct bed *)local)->rests++; }

static void work(void *ctx, void *local, unsigned slot, uint8_t *run, size_t len, size_t segment)
{
    struct bed *b = ctx;
    assert_ptr_equal(local, b);
    assert_true(!pthread_equal(pthread_self(), b->loop));
    assert_true(slot < TN_UDP_AHEAD_SLOTS && len >= TN_UDP_AHEAD_LONG);
    int us = atomic_load(&b->delay_us), n = b->works++;
    if (us) usleep((unsigned)(n * 7919 % us)); /* they finish in another order than they began */
    while (atomic_load(&b->held)) usleep(100);
    b->noted[slot] = tn_get_le64(run);
    run[8] = 1; /* the loop sees it */
}

static void wake(void *ctx)
{
    struct bed *b = ctx;
    b->wakes++;
    pthread_mutex_lock(&b->mu);
    b->wake = true;
    pthread_cond_signal(&b->woken);
    pthread_mutex_unlock(&b->mu);
}

static void await_wake(struct bed *b)
{
    pthread_mutex_lock(&b->mu);
    while (!b->wake) pthread_cond_wait(&b->woken, &b->mu);
    b->wake = false;
    pthread_mutex_unlock(&b->mu);
}

static struct tn_udp_ahead_config config_of(struct bed *b, size_t threads)
{
    return (struct tn_udp_ahead_config){
        .threads = threads, .make = make, .unmake = unmake, .rest = rest, .work = work, .wake = wake, .ctx = b};
}

static struct bed *bed_new(uint64_t seed)
{
    struct bed *b = calloc(1, sizeof *b);
    static uint64_t seeds[1];
    seeds[0] = seed;
    b->rng = tn_rng_seeded(seeds);
    b->loop = pthread_self();
    pthread_mutex_init(&b->mu, NULL);
    pthread_cond_init(&b->woken, NULL);
    assert_int_equal(tn_udp_open(0, &b->from), 0);
    assert_int_equal(tn_udp_open(0, &b->to), 0);
    return b;
}

static void bed_free(struct bed *b)
{
    tn_udp_close(b->to);
    tn_udp_close(b->from);
    assert_int_equal(b->made, b->unmade);
    pthread_mutex_destroy(&b->mu);
    pthread_cond_destroy(&b->woken);
    free(b);
}

/* A run of count datagrams, the last shorter, to either address. */
static void send_run(struct bed *b, int six, size_t count)
{
    static uint8_t bytes[50 * SEGMENT];
    struct tn_addrport to = {.ip = tn_ip4(127, 0, 0, 1), .port = tn_udp_port4(b->to)};
    if (six) to = (struct tn_addrport){.ip = {.family = 6, .b = {[15] = 1}}, .port = tn_udp_port6(b->to)};
    for (size_t i = 0; i < count; i++) {
        tn_put_le64(bytes + i * SEGMENT, b->sent[six]++);
        bytes[i * SEGMENT + 8] = 0;
    }
    tn_udp_send_run(b->from, &to, bytes, (count - 1) * SEGMENT + 100, SEGMENT);
}

static void each(void *ctx, const struct tn_addrport *from, uint8_t *run, size_t len, size_t segment)
{
    struct bed *b = ctx;
    int six = from->ip.family == 6, slot = tn_udp_ahead_slot(b->to);
    if (b->ahead) assert_int_equal(slot >= 0, len >= TN_UDP_AHEAD_LONG);
    if (slot >= 0) {
        assert_true(b->noted[slot] == tn_get_le64(run));
        assert_int_equal(run[8], 1);
    }
    for (size_t at = 0; at < len; at += segment) assert_true(tn_get_le64(run + at) == b->got[six]++); /* none lost, none overtakes */
}

static int take(struct bed *b, int fd, int budget) { return tn_udp_receive(b->to, fd, budget, each, b, 1); }

static bool all_came(const struct bed *b) { return b->got[0] == b->sent[0] && b->got[1] == b->sent[1]; }

/* As the loop does it: sleeps when there is nothing, and only then. */
static void take_all(struct bed *b)
{
    while (!all_came(b))
        if (take(b, -1, 64) == 0) await_wake(b);
}

static void test_order(void **state)
{
    if (!isolated) skip();
    for (size_t threads = 1; threads <= 4; threads++) {
        struct bed *b = bed_new(threads);
        struct tn_udp_ahead_config c = config_of(b, threads);
        if (tn_udp_ahead(b->to, &c) == TN_E_UNSUPPORTED) { /* no UDP_GRO */
            bed_free(b);
            skip();
        }
        b->ahead = true;
        b->delay_us = 300;
        for (int round = 0; round < 150; round++) {
            for (int n = 1 + (int)tn_rng_below(&b->rng, 30); n > 0; n--)
                send_run(b, tn_rng_below(&b->rng, 3) == 0, 1 + tn_rng_below(&b->rng, 14));
            if (tn_rng_below(&b->rng, 4)) take_all(b);
            else take(b, -1, 5);
        }
        take_all(b);
        assert_true(b->works > 500);
        assert_true(tn_udp_is_ahead(b->to));
        assert_int_equal(tn_udp_ahead_slot(b->to), -1);
        tn_udp_close(b->to); /* with nothing left; the next test does it in the middle */
        assert_int_equal(b->made, b->unmade);
        if (threads > 1) assert_true(b->made > 1); /* there was more than one could do */
        assert_int_equal(tn_udp_open(0, &b->to), 0);
        bed_free(b);
    }
}

/* They begin and end while datagrams come: who reads next begins where the one before ended. */
static void test_by_turns(void **state)
{
    if (!isolated) skip();
    struct bed *b = bed_new(7);
    struct tn_udp_ahead_config c = config_of(b, 3);
    b->delay_us = 200;
    for (int round = 0; round < 200 && b->from; round++) {
        for (int n = 0; n < 8; n++) send_run(b, n & 1, 1 + tn_rng_below(&b->rng, 12));
        if (tn_udp_ahead(b->to, &c) != 0) break;
        for (int n = 0; n < 8; n++) send_run(b, n & 1, 1 + tn_rng_below(&b->rng, 12));
        if (round % 3) take(b, -1, 1 + (int)tn_rng_below(&b->rng, 40));
        if (round % 2) usleep((unsigned)tn_rng_below(&b->rng, 300));
        tn_udp_ahead_stop(b->to);
        send_run(b, 0, 3); /* is not read while something is left of what they have read */
        while (tn_udp_is_ahead(b->to)) (void)take(b, tn_udp_fd4(b->to), 64);
        int works = b->works;
        for (int i = 0; i < 1000 && !all_came(b); i++) {
            take(b, tn_udp_fd4(b->to), 64);
            take(b, tn_udp_fd6(b->to), 64);
        }
        assert_true(all_came(b));
        assert_int_equal(b->works, works);
    }
    for (int i = 0; i < 2000 && b->rests < b->made; i++) usleep(1000);
    assert_true(b->rests >= b->made);
    bed_free(b);
}

/* What nobody takes fills the ring and no more; the rest waits in the socket, and the leader sleeps until half of it is free. */
static void test_bounded(void **state)
{
    if (!isolated) skip();
    for (size_t threads = 1; threads <= 3; threads += 2) {
        struct bed *b = bed_new(9);
        struct tn_udp_ahead_config c = config_of(b, threads);
        struct tn_udp_ahead *a;
        size_t longest = 0;
        assert_int_equal(tn_udp_ahead_new(&c, tn_udp_fd4(b->to), tn_udp_fd6(b->to), &a), 0);
        assert_true(a->nslots <= TN_UDP_AHEAD_SLOTS);
        a->claimed = a->taken = (unsigned)-5; /* they wrap on the way */
        assert_int_equal(b->made, 0);
        assert_true(tn_udp_ahead_over(a));
        assert_int_equal(tn_udp_ahead_begin(a), 0);
        assert_false(tn_udp_ahead_over(a));
        for (int i = 0; i < 30; i++) send_run(b, 0, LONG);
        for (int i = 0; i < 5000 && !atomic_load(&a->waits_for_room); i++) usleep(1000);
        assert_true(a->waits_for_room);
        assert_int_equal(a->claimed - a->taken, a->nslots);
        int works = b->works;
        usleep(20 * 1000);
        assert_int_equal(b->works, works);
        assert_true(tn_udp_ahead_take(a, 1, each, b, &longest) >= 1); /* one: it sleeps on */
        assert_true(a->waits_for_room && a->taken == (unsigned)-4);
        for (int i = 0; i < 5000 && !all_came(b); i++)
            if (tn_udp_ahead_take(a, 64, each, b, &longest) == 0) await_wake(b);
        assert_true(all_came(b));
        assert_int_equal(longest, (LONG - 1) * SEGMENT + 100);
        tn_udp_ahead_end(a);
        assert_true(tn_udp_ahead_over(a));
        unsigned char resident[8 * SLOT / PAGE];
        tn_udp_ahead_trim(a);
        assert_int_equal(mincore(a->bytes, 8 * SLOT, resident), 0);
        for (size_t i = 0; i < sizeof resident; i++) assert_false(resident[i] & 1);
        tn_udp_ahead_free(a);
        bed_free(b);
    }
    tn_udp_ahead_free(NULL);
    for (size_t n = 1; n <= TN_WORKERS_MAX; n++) assert_true(slots_for(n) >= 2 * n && slots_for(n) <= TN_UDP_AHEAD_SLOTS);
}

/* The loop is told when it can take something, not of each: the first of several is worked on while the others are done. */
static void test_told(void **state)
{
    if (!isolated) skip();
    struct bed *b = bed_new(11);
    struct tn_udp_ahead_config c = config_of(b, 1);
    if (tn_udp_ahead(b->to, &c) != 0) {
        bed_free(b);
        skip();
    }
    b->ahead = true;
    send_run(b, 0, 1); /* a single one is told of as soon as there is nothing more to read */
    take_all(b);
    assert_true(b->wakes >= 1);
    atomic_store(&b->held, true);
    int wakes = b->wakes, works = b->works;
    for (int i = 0; i < 4; i++) send_run(b, 0, LONG);
    for (int i = 0; i < 5000 && b->works == works; i++) usleep(1000);
    usleep(5000);
    assert_int_equal(b->wakes, wakes); /* it is under way */
    assert_int_equal(take(b, -1, 64), 0);
    atomic_store(&b->held, false);
    take_all(b);
    assert_true(b->wakes > wakes);
    bed_free(b); /* and nobody was asked for a second thread */
}

/* Short ones share slots, up to a number and an amount of bytes; the loop may take them in several turns. */
static void test_short(void **state)
{
    if (!isolated) skip();
    static const struct {
        int runs;
        size_t count, slots;
    } rows[] = {{40, 1, 2}, {3 * MESSAGES, 1, 3}, {25, 6, 3}}; /* the last: 10 runs make more than 64 KiB */
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct bed *b = bed_new(23);
        struct tn_udp_ahead_config c = config_of(b, 1);
        struct tn_udp_ahead *a;
        size_t longest = 0;
        assert_int_equal(tn_udp_ahead_new(&c, tn_udp_fd4(b->to), tn_udp_fd6(b->to), &a), 0);
        for (int k = 0; k < rows[i].runs; k++) send_run(b, k & 1, rows[i].count);
        assert_int_equal(tn_udp_ahead_begin(a), 0);
        for (int k = 0; k < 5000 && atomic_load(&a->claimed) < rows[i].slots; k++) usleep(1000);
        assert_int_equal(a->claimed, rows[i].slots);
        int turns = 0;
        for (; !all_came(b) && turns < 1000; turns++)
            if (tn_udp_ahead_take(a, 5, each, b, &longest) == 0) await_wake(b);
        assert_true(all_came(b));
        assert_true(turns >= rows[i].runs * (int)rows[i].count / 11);
        assert_int_equal(b->works, 0);
        tn_udp_ahead_free(a);
        bed_free(b);
    }
}

/* Closing while they read, work and wait for room. */
static void test_close(void **state)
{
    if (!isolated) skip();
    for (int round = 0; round < 60; round++) {
        struct bed *b = bed_new(13);
        struct tn_udp_ahead_config c = config_of(b, 1 + (size_t)round % 3);
        b->delay_us = round % 2 ? 500 : 0;
        if (tn_udp_ahead(b->to, &c) != 0) round = 60;
        for (int n = 0; n < round; n++) send_run(b, n & 1, 1 + (size_t)n % LONG);
        if (round % 4 == 1) take(b, -1, 3);
        if (round % 4 == 2) tn_udp_ahead_stop(b->to);
        bed_free(b);
    }
}

/* Without memory for a thread's state, the loop reads on; it may ask again. */
static void test_no_memory(void **state)
{
    if (!isolated) skip();
    struct bed *b = bed_new(17);
    struct tn_udp_ahead_config c = config_of(b, 2);
    b->make_fails = 1;
    int err = tn_udp_ahead(b->to, &c);
    if (err != TN_E_UNSUPPORTED) {
        assert_int_equal(err, TN_E_NOMEM);
        assert_false(tn_udp_is_ahead(b->to));
        send_run(b, 0, 3);
        for (int i = 0; i < 1000 && !all_came(b); i++) take(b, tn_udp_fd4(b->to), 64);
        assert_true(all_came(b));
        assert_int_equal(tn_udp_longest(b->to) > 0, 1);
        assert_int_equal(tn_udp_longest(b->to), 0);
        assert_int_equal(tn_udp_ahead(b->to, &c), 0);
        b->ahead = true;
        send_run(b, 0, 3);
        take_all(b);
    }
    bed_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),  cmocka_unit_test(test_by_turns), cmocka_unit_test(test_bounded),
        cmocka_unit_test(test_told),   cmocka_unit_test(test_close),    cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_short),
    };
    return cmocka_run_group_tests(tests, isolate, NULL);
}
