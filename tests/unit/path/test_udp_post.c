/* Sealing and sending on workers, between sockets in a network namespace of the test's own. Also run by the thread sanitizer. */
#include "../../../src/path/udp_post.c"
#include "path/udp.h"
#include "util/cursor.h"
#include "util/rng.h"
#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>
#include "../loopback.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HEADER = 16, PEERS = 5, SEGMENT = 1312 };

static atomic_int wakes, rests, engines;

static void *make(void *ctx)
{
    engines++;
    return tn_aead_engine_new(TN_AEAD_AUTO);
}
static void rest(void *e)
{
    rests++;
    tn_aead_engine_forget(e);
}
static void unmake(void *e) { tn_aead_engine_free(e); }
static void wake(void *ctx) { wakes++; }

/* A sender with workers, and peers that each have a socket and a key. */
struct bed {
    struct tn_workpool *pool;
    struct tn_udp *from, *to[PEERS];
    struct tn_addrport addr[PEERS];
    uint8_t key[PEERS][32];
    uint64_t sent[PEERS], got[PEERS];
    struct tn_aead *open[PEERS];
};

static void set_up(struct bed *b, size_t workers)
{
    struct tn_workpool_config c = {.workers = workers, .make = make, .rest = rest, .unmake = unmake};
    *b = (struct bed){0};
    wakes = rests = engines = 0;
    assert_int_equal(tn_workpool_new(&c, &b->pool), 0);
    assert_int_equal(tn_udp_open(0, &b->from), 0);
    assert_int_equal(tn_udp_set_workers(b->from, b->pool, wake, b), 0);
    for (int i = 0; i < PEERS; i++) {
        assert_int_equal(tn_udp_open(0, &b->to[i]), 0);
        b->addr[i] = (struct tn_addrport){.ip = tn_ip4(127, 0, 0, 1), .port = tn_udp_port4(b->to[i])};
        if (i % 2) b->addr[i] = (struct tn_addrport){.ip = {.family = 6, .b = {[15] = 1}}, .port = tn_udp_port6(b->to[i])};
        memset(b->key[i], i + 1, 32);
        assert_non_null(b->open[i] = tn_aead_new(TN_AEAD_OPENSSL, b->key[i]));
    }
}

static void tear_down(struct bed *b)
{
    tn_udp_close(b->from);
    tn_workpool_free(b->pool);
    for (int i = 0; i < PEERS; i++) {
        tn_udp_close(b->to[i]);
        tn_aead_free(b->open[i]);
    }
}

/* Datagrams carry their number in the header, which is the counter they are sealed with, and in the text. */
struct reader {
    struct bed *b;
    int i;
};

static void each(void *ctx, const struct tn_addrport *from, uint8_t *run, size_t len, size_t segment)
{
    struct reader *r = ctx;
    struct bed *b = r->b;
    for (size_t at = 0, n; at < len; at += n) {
        n = len - at < segment ? len - at : segment;
        uint64_t counter = tn_get_le64(run + at + 8);
        struct tn_aead_job job = {.counter = counter, .in = run + at + HEADER, .out = run + at + HEADER, .len = n - HEADER};
        tn_aead_open_batch(b->open[r->i], &job, 1);
        assert_int_equal(job.result, 0);
        assert_true(tn_get_le64(run + at + HEADER) == counter);
        assert_true(counter >= b->got[r->i]); /* a full socket buffer may lose some, nothing overtakes */
        b->got[r->i] = counter + 1;
    }
}

static void read_all(struct bed *b)
{
    for (int i = 0; i < PEERS; i++) {
        struct reader r = {b, i};
        tn_udp_receive(b->to[i], tn_udp_fd4(b->to[i]), 4000, each, &r, 1);
        tn_udp_receive(b->to[i], tn_udp_fd6(b->to[i]), 4000, each, &r, 1);
    }
}

/* count packets of SEGMENT bytes, the last shorter, for peer i. */
static struct tn_aead_run train(struct bed *b, int i, uint8_t *bytes, size_t count)
{
    struct tn_aead_run run = {.bytes = bytes, .segment = SEGMENT, .header = HEADER, .counter = b->sent[i], .key = b->key[i]};
    for (size_t k = 0; k < count; k++) {
        uint8_t *p = bytes + k * SEGMENT;
        memset(p, 4, HEADER);
        tn_put_le64(p + 8, b->sent[i]);
        tn_put_le64(p + HEADER, b->sent[i]++);
    }
    run.len = (count - 1) * SEGMENT + 200;
    return run;
}

static void send_sealed(struct bed *b, int i, uint8_t *bytes, size_t count)
{
    static struct tn_aead_engine *own;
    if (!own) own = tn_aead_engine_new(TN_AEAD_OPENSSL);
    struct tn_aead_run run = train(b, i, bytes, count);
    tn_aead_seal_run(own, &run);
    if (count == 1) tn_udp_send(b->from, &b->addr[i], run.bytes, run.len);
    else tn_udp_send_run(b->from, &b->addr[i], run.bytes, run.len, run.segment);
}

/* Every way to send, in a random order, to several peers by several workers: what arrives at one is in order. */
static void test_order(void **state)
{
    static uint8_t elsewhere[TN_UDP_TRAIN_BYTES];
    uint64_t seed = 4;
    struct tn_rng rng = tn_rng_seeded(&seed);
    if (!isolated) skip();
    for (size_t workers = 1; workers <= 3; workers++) {
        struct bed b;
        size_t taken = 0, declined = 0;
        set_up(&b, workers);
        for (int round = 0; round < 1500; round++) {
            int i = (int)tn_rng_below(&rng, PEERS), what = (int)tn_rng_below(&rng, 8);
            size_t count = what < 4 ? 1 + tn_rng_below(&rng, 40) : what < 6 ? 1 : 2 + tn_rng_below(&rng, 30);
            uint8_t *bytes = what == 0 ? elsewhere : tn_udp_train_buffer(b.from);
            assert_non_null(bytes);
            if (what < 4) {
                struct tn_aead_run run = train(&b, i, bytes, count);
                bool took = tn_udp_seal_run(b.from, &b.addr[i], &run, 1);
                if (took) taken++;
                else declined++, b.sent[i] -= count, send_sealed(&b, i, bytes, count);
            } else {
                send_sealed(&b, i, elsewhere, count);
            }
            if (tn_rng_below(&rng, 4) == 0) tn_udp_flush(b.from);
            if (tn_rng_below(&rng, 8) == 0) read_all(&b);
        }
        tn_udp_flush(b.from);
        tn_workpool_drain(b.pool);
        read_all(&b);
        assert_true(taken > 300 && declined > 0);
        for (int i = 0; i < PEERS; i++) assert_true(b.got[i] == b.sent[i]);
        assert_true((size_t)engines <= workers && rests > 0);
        tear_down(&b);
    }
}

/* Only what is worth it, unless something is still on its way there. */
static void test_worth(void **state)
{
    struct bed b;
    if (!isolated) skip();
    set_up(&b, 1);
    struct tn_aead_run small = train(&b, 0, tn_udp_train_buffer(b.from), 3), none = small;
    assert_false(tn_udp_seal_run(b.from, &b.addr[0], &small, 1));
    assert_int_equal(engines, 0);
    none.len = TN_UDP_TRAIN_BYTES + 1; /* not to be had */
    assert_false(tn_udp_seal_run(b.from, &b.addr[0], &none, 1));
    tear_down(&b);
}

static void failed(void *ctx, const struct tn_addrport *to, int err)
{
    assert_int_equal(err, -ENETUNREACH);
    assert_int_equal(to->port, 9);
    ++*(int *)ctx;
}

/* What a worker could not send is told on the loop, which is woken for it. */
static void test_failure_is_told(void **state)
{
    struct bed b;
    int count = 0;
    if (!isolated) skip();
    set_up(&b, 1);
    tn_udp_on_failed(b.from, failed, &count);
    struct tn_addrport nowhere = {.ip = tn_ip4(192, 0, 2, 1), .port = 9};
    struct tn_aead_run run = train(&b, 0, tn_udp_train_buffer(b.from), 20);
    assert_true(tn_udp_seal_run(b.from, &nowhere, &run, 1));
    tn_workpool_drain(b.pool);
    assert_int_equal(count, 0);
    assert_int_equal(wakes, 1);
    tn_udp_flush(b.from);
    assert_int_equal(count, 1);
    tn_udp_flush(b.from);
    assert_int_equal(count, 1);
    tear_down(&b);
}

/* When it has been quiet the buffers go, and come back. A close in the middle sends what was posted. */
static void test_memory_and_end(void **state)
{
    struct bed b;
    if (!isolated) skip();
    set_up(&b, 2);
    for (int round = 0; round < 2; round++) {
        for (int k = 0; k < 6; k++) {
            struct tn_aead_run run = train(&b, k % 2, tn_udp_train_buffer(b.from), 30);
            assert_true(tn_udp_seal_run(b.from, &b.addr[k % 2], &run, 1));
        }
        uint64_t due = tn_udp_next_deadline(b.from);
        assert_true(due < UINT64_MAX);
        if (round == 1) break;
        tn_workpool_drain(b.pool);
        tn_udp_timeout(b.from, due);
        tn_udp_timeout(b.from, tn_udp_next_deadline(b.from));
        assert_true(tn_udp_next_deadline(b.from) == UINT64_MAX);
    }
    tn_udp_close(b.from);
    read_all(&b);
    for (int i = 0; i < 2; i++) assert_true(b.got[i] == b.sent[i]);
    b.from = NULL;
    tear_down(&b);
}

/* The letters are wiped of their keys, and hold nothing after a trim. */
static void test_letters(void **state)
{
    struct tn_udp_sender s;
    struct tn_udp_post *p;
    struct tn_workpool *pool;
    struct tn_workpool_config c = {.workers = 1, .make = make, .rest = rest, .unmake = unmake};
    uint8_t key[32], zero[32] = {0};
    if (!isolated) skip();
    memset(key, 7, sizeof key);
    tn_udp_sender_init(&s);
    assert_int_equal(tn_workpool_new(&c, &pool), 0);
    assert_int_equal(tn_udp_post_new(&s, pool, wake, NULL, &p), 0);
    assert_false(tn_udp_post_busy(NULL, &(struct tn_addrport){.port = 1}));
    for (int i = 0; i < 40; i++) {
        uint8_t *bytes = tn_udp_post_buffer(p);
        struct tn_aead_run run = {.bytes = bytes, .len = 20 * SEGMENT, .segment = SEGMENT, .header = HEADER, .key = key};
        memset(bytes, 0, run.len);
        struct tn_addrport to = {.ip = tn_ip4(127, 0, 0, 1), .port = (uint16_t)(i + 1)};
        assert_true(tn_udp_post_worth(p, &to, &run));
        assert_ptr_equal(p->spare->bytes, bytes);
        assert_true(tn_udp_post_seal(p, &to, &run));
        assert_null(p->spare); /* it went as it was, without a copy */
    }
    tn_workpool_drain(pool);
    for (size_t i = 0; i < p->nletters; i++) assert_memory_equal(p->letter[i].key, zero, 32);
    tn_udp_post_trim(p);
    for (size_t i = 0; i < p->nletters; i++) assert_null(p->letter[i].bytes);
    tn_udp_post_free(p);
    tn_workpool_free(pool);
    tn_udp_sender_fini(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),          cmocka_unit_test(test_worth),   cmocka_unit_test(test_failure_is_told),
        cmocka_unit_test(test_memory_and_end), cmocka_unit_test(test_letters),
    };
    return cmocka_run_group_tests(tests, isolate, NULL);
}
