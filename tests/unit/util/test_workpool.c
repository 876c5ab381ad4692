/* Worker threads: order, limits, an end in the middle of it, and no threads to be had. Also run by the thread sanitizer. */
#include <pthread.h>
#include <stdbool.h>
static bool no_threads;
static int create(pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *), void *arg)
{
    return no_threads ? 11 /* EAGAIN */ : pthread_create(t, a, fn, arg);
}
#define pthread_create create
#include "../../../src/util/thread.c"
#include "../../../src/util/workpool.c"
#undef pthread_create
#include <stdarg.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <unistd.h>

enum { WORKERS = 3, PIECES = 5000 };

struct local {
    pthread_t self;
    int rests, seen[PIECES], n;
};

static struct local locals[WORKERS];
static size_t made, unmade;
static bool no_memory;

static void *make(void *ctx)
{
    assert_ptr_equal(ctx, locals);
    if (no_memory) return NULL;
    locals[made] = (struct local){0};
    return &locals[made++];
}
static void rest(void *l) { ((struct local *)l)->rests++; }
static void unmake(void *l) { unmade += l != NULL; }

static struct tn_workpool *pool(size_t workers)
{
    struct tn_workpool_config c = {.workers = workers, .make = make, .rest = rest, .unmake = unmake, .ctx = locals};
    struct tn_workpool *p;
    made = unmade = 0;
    assert_int_equal(tn_workpool_new(&c, &p), 0);
    assert_int_equal(tn_workpool_workers(p), workers);
    return p;
}

static int numbers[PIECES]; /* [i] = i, changed by its work */

static void note(void *arg, void *local)
{
    struct local *l = local;
    int *number = arg;
    l->self = pthread_self();
    l->seen[l->n++] = *number;
    *number = -*number;
}

static void slow(void *arg, void *local)
{
    usleep(2000);
    note(arg, local);
}

static void number_them(void)
{
    for (int i = 0; i < PIECES; i++) numbers[i] = i + 1;
}

static void test_order(void **state)
{
    struct tn_workpool *p = pool(WORKERS);
    number_them();
    for (int i = 0; i < PIECES; i++) {
        assert_true(tn_workpool_ready(p, (size_t)i % WORKERS));
        tn_workpool_post(p, (size_t)i % WORKERS, note, &numbers[i]);
    }
    tn_workpool_drain(p);
    for (size_t w = 0; w < WORKERS; w++) assert_true(tn_workpool_idle(p, w));
    for (int i = 0; i < PIECES; i++) assert_int_equal(numbers[i], -(i + 1)); /* all that the work wrote is seen */
    tn_workpool_free(p);
    assert_int_equal(unmade, WORKERS);
    for (int w = 0; w < WORKERS; w++) {
        for (int i = 0; i < locals[w].n; i++) assert_int_equal(locals[w].seen[i], i * WORKERS + w + 1);
        assert_true(locals[w].rests > 0);
        assert_false(pthread_equal(locals[w].self, pthread_self()));
    }
}

/* The owner is held up by one that has too much to do, and only by that one. */
static void test_limit(void **state)
{
    struct tn_workpool *p = pool(2);
    number_them();
    assert_true(tn_workpool_ready(p, 0) && tn_workpool_ready(p, 1));
    for (int i = 0; i < 20; i++) {
        tn_workpool_post(p, 0, slow, &numbers[i]);
        assert_false(undone(&p->worker[0]) > TN_WORKER_QUEUE);
        assert_true(tn_workpool_idle(p, 1));
    }
    tn_workpool_free(p); /* what was posted is done all the same */
    for (int i = 0; i < 20; i++) assert_int_equal(numbers[i], -(i + 1));
}

/* A worker's thread starts with its first work. */
static void test_lazy(void **state)
{
    struct tn_workpool *p = pool(WORKERS);
    tn_workpool_drain(p);
    assert_true(tn_workpool_idle(p, 1));
    assert_int_equal(made, 0);
    assert_true(tn_workpool_ready(p, 1) && tn_workpool_ready(p, 1));
    assert_int_equal(made, 1);
    tn_workpool_free(p);
    assert_int_equal(unmade, 1);
    tn_workpool_free(NULL);
}

static void test_no_threads(void **state)
{
    no_threads = true;
    struct tn_workpool *p = pool(1);
    number_them();
    assert_true(tn_workpool_ready(p, 0));
    for (int i = 0; i < 10; i++) {
        tn_workpool_post(p, 0, note, &numbers[i]);
        assert_int_equal(numbers[i], -(i + 1));
        assert_true(tn_workpool_idle(p, 0));
    }
    tn_workpool_free(p);
    no_threads = false;
    assert_true(pthread_equal(locals[0].self, pthread_self()));
    assert_int_equal(locals[0].rests, 10);
    assert_int_equal(unmade, 1);
}

static void test_no_memory(void **state)
{
    struct tn_workpool *p = pool(1);
    no_memory = true;
    assert_false(tn_workpool_ready(p, 0));
    no_memory = false;
    assert_true(tn_workpool_ready(p, 0)); /* later there is some */
    tn_workpool_post(p, 0, note, &(int){1});
    tn_workpool_free(p);
}

static void test_numbers(void **state)
{
    struct tn_workpool *p;
    assert_int_equal(tn_workpool_new(&(struct tn_workpool_config){.workers = 0}, &p), TN_E_INVAL);
    assert_int_equal(tn_workpool_new(&(struct tn_workpool_config){.workers = TN_WORKERS_MAX + 1}, &p), TN_E_INVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),      cmocka_unit_test(test_limit),     cmocka_unit_test(test_lazy),
        cmocka_unit_test(test_no_threads), cmocka_unit_test(test_no_memory), cmocka_unit_test(test_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
