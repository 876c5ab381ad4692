/* The chunk pool and the byte queue, against a plain array. */
#include "stack/pool.c"
#include "stack/queue.c"
#include "stack/cksumcopy.c"

#include "util/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static void pool_budget_and_reserve(void **state)
{
    struct tn_pool p;
    enum { CHUNKS = 64 };
    uint8_t *chunk[CHUNKS];
    tn_pool_init(&p, CHUNKS * TN_CHUNK);
    unsigned n = 0;
    while (n < CHUNKS && (chunk[n] = tn_pool_get(&p, n))) memset(chunk[n++], 1, TN_CHUNK);
    assert_int_equal(n, CHUNKS - CHUNKS / 16); /* the rest is for queues that hold nothing */
    for (; n < CHUNKS; n++) assert_non_null(chunk[n] = tn_pool_get(&p, 0));
    assert_null(tn_pool_get(&p, 0));
    assert_int_equal(p.used, p.budget);
    assert_int_equal(tn_pool_share(&p), TN_CHUNK);
    for (unsigned i = 0; i < CHUNKS; i++)
        for (unsigned k = 0; k < i; k++) assert_true(chunk[i] != chunk[k]);
    for (unsigned i = 0; i < CHUNKS; i++) tn_pool_put(&p, chunk[(i * 37) % CHUNKS]);
    assert_int_equal(p.used, 0);
    tn_pool_trim(&p); /* not yet: they were in use */
    assert_true(p.nslabs > 2 && p.nempty == p.nslabs);
    tn_pool_trim(&p);
    assert_int_equal(p.nslabs, 2); /* the rest went back to the kernel */
    assert_int_equal(tn_pool_share(&p), p.budget / 4);
    tn_pool_fini(&p);
    assert_int_equal(p.nslabs, 0);
}

enum { MODEL = 40000 };

struct model {
    uint8_t bytes[MODEL];
    bool known[MODEL];
    uint32_t len; /* in order */
};

static void check_views(const struct tn_queue *q, const struct model *m)
{
    struct iovec iov[64];
    int n = tn_queue_views(q, 0, q->len, iov, 64);
    uint32_t at = 0;
    for (int i = 0; i < n; at += (uint32_t)iov[i++].iov_len)
        assert_memory_equal(iov[i].iov_base, m->bytes + at, iov[i].iov_len);
    assert_int_equal(at, m->len);
}

static void consume(struct tn_queue *q, struct tn_pool *p, struct model *m, uint32_t n)
{
    tn_queue_consume(q, p, n);
    memmove(m->bytes, m->bytes + n, MODEL - n);
    memmove(m->known, m->known + n, MODEL - n);
    memset(m->known + MODEL - n, 0, n);
    m->len -= n;
}

/* Random writes anywhere in a window, reads, and consumption at the front. */
static void queue_like_an_array(void **state)
{
    uint64_t seed = 7;
    struct tn_rng rng = tn_rng_seeded(&seed);
    static struct model m;
    for (int round = 0; round < 200; round++) {
        struct tn_pool p;
        struct tn_queue q = {0};
        tn_pool_init(&p, 1 << 20);
        memset(&m, 0, sizeof m);
        for (int step = 0; step < 100; step++) {
            uint32_t at = (uint32_t)tn_rng_below(&rng, MODEL / 2),
                     n = (uint32_t)tn_rng_below(&rng, MODEL / 2 - 1) + 1;
            uint8_t bytes[MODEL];
            if (step % 3) n = n % 1300 + 1;
            if (step % 2) at = m.len < MODEL / 2 ? m.len : at;
            tn_rng_fill(&rng, bytes, n);
            assert_int_equal(tn_queue_write(&q, &p, at, bytes, n), 0);
            memcpy(m.bytes + at, bytes, n);
            memset(m.known + at, 1, n);
            while (m.len < MODEL && m.known[m.len]) m.len++;
            q.len = m.len;
            uint32_t from = (uint32_t)tn_rng_below(&rng, m.len + 1),
                     count = (uint32_t)tn_rng_below(&rng, m.len - from + 1);
            tn_queue_read(&q, from, bytes, count);
            uint8_t again[sizeof bytes];
            uint32_t sum = tn_queue_read_sum(&q, from, again, count, 77);
            assert_memory_equal(again, bytes, count);
            assert_int_equal(tn_cksum_fold(sum), tn_cksum_fold(tn_cksum_add(77, bytes, count)));
            assert_memory_equal(bytes, m.bytes + from, count);
            check_views(&q, &m);
            if (step % 5 == 0) consume(&q, &p, &m, (uint32_t)tn_rng_below(&rng, m.len + 1));
            assert_true(p.used >= q.held * TN_CHUNK && p.used <= (q.held * TN_CHUNK) + q.cap * sizeof *q.ring);
        }
        consume(&q, &p, &m, m.len);
        tn_queue_clear(&q, &p);
        assert_int_equal(p.used, 0);
        assert_null(q.ring);
        tn_pool_fini(&p);
    }
}

static void queue_holds_what_has_bytes(void **state)
{
    struct tn_pool p;
    struct tn_queue q = {0};
    tn_pool_init(&p, 1 << 24);
    for (uint32_t at = 0; at < 100; at++)
        assert_int_equal(tn_queue_write(&q, &p, at * 60000, "x", 1), 0); /* far apart */
    assert_int_equal(q.held, 100);
    tn_queue_trim(&q, &p, 60001);
    assert_int_equal(q.held, 2);
    assert_int_equal(tn_queue_write(&q, &p, UINT32_MAX, "x", 1), TN_E_NOMEM);
    assert_int_equal(q.held, 2);
    tn_queue_trim(&q, &p, 0);
    assert_int_equal(p.used, 0);
    assert_int_equal(tn_queue_write(&q, &p, UINT32_MAX, "x", 1), TN_E_NOMEM);
    assert_int_equal(p.used, 0);
    tn_pool_fini(&p);
}

static void queue_reserve(void **state)
{
    struct tn_pool p;
    struct tn_queue q = {0};
    tn_pool_init(&p, 16 * TN_CHUNK + 1000);
    assert_int_equal(tn_queue_reserve(&q, &p, 10000), 10000);
    assert_int_equal(q.held, 3);
    tn_queue_trim(&q, &p, q.len);
    assert_int_equal(p.used, 0);
    assert_int_equal(tn_queue_reserve(&q, &p, 100 * TN_CHUNK), 15 * TN_CHUNK); /* as much as the budget gives */
    q.len = 5000;
    tn_queue_trim(&q, &p, q.len);
    assert_int_equal(q.held, 2);
    tn_queue_clear(&q, &p);
    tn_pool_fini(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pool_budget_and_reserve), cmocka_unit_test(queue_like_an_array),
        cmocka_unit_test(queue_holds_what_has_bytes), cmocka_unit_test(queue_reserve),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
