/* Every allocation of the engine fails once, in turn: nothing is leaked or broken, and when memory is back the
 * peers talk. */
#include "wg/peer.c"

/* The harness's own allocations do not fail. */
void *__real_malloc(size_t n);
#define malloc __real_malloc
#include "pair.h"
#undef malloc

/* The linker sends the engine's and this file's allocations here (-Wl,--wrap). */
static struct {
    bool counting;
    unsigned long seen, fail_at;
} memory;

void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);

static bool refused(void) { return memory.counting && ++memory.seen == memory.fail_at; }

void *__wrap_malloc(size_t n) { return refused() ? NULL : __real_malloc(n); }
void *__wrap_calloc(size_t n, size_t size) { return refused() ? NULL : __real_calloc(n, size); }
void *__wrap_realloc(void *p, size_t n) { return refused() ? NULL : __real_realloc(p, n); }

static void talk(struct net *n, uint64_t for_us)
{
    for (uint32_t i = 0; i < 3; i++) {
        (void)send_packet(&n->side[0], i, 64);
        (void)send_packet(&n->side[1], i, 64);
        run_for(n, for_us);
    }
}

static void every_allocation_fails_once(void **state)
{
    unsigned long k = 1;
    for (; k < 1000; k++) {
        struct net *n = net_new(k);
        memory.seen = 0;
        memory.fail_at = k;
        memory.counting = true;
        talk(n, 130 * S); /* handshake, renewal, staging */
        memory.counting = false;
        bool done = memory.seen < k;
        talk(n, 20 * S);
        n->side[0].received = n->side[1].received = 0;
        talk(n, S);
        assert_int_equal(n->side[0].received, 3);
        assert_int_equal(n->side[1].received, 3);
        net_free(n);
        if (done) break;
    }
    assert_in_range(k, 20, 999); /* the sweep came to its end, and there was something to sweep */
}

static void setting_up_fails_cleanly(void **state)
{
    unsigned long k = 1;
    for (; k < 100; k++) {
        struct net *n = net_new(k);
        struct side *a = &n->side[0];
        struct tn_node_public pub;
        struct tn_wg_peer *p = NULL;
        struct tn_prefix some[3];
        tn_rng_fill(&n->rng, &pub, sizeof pub);
        assert_int_equal(tn_prefix_parse("10.0.0.0/8", &some[0]), 0);
        assert_int_equal(tn_prefix_parse("10.1.0.0/16", &some[1]), 0);
        assert_int_equal(tn_prefix_parse("192.168.0.0/16", &some[2]), 0);
        memory.seen = 0;
        memory.fail_at = k;
        memory.counting = true;
        int err = tn_wg_peer_add(a->wg, &pub, a, &p);
        if (err == 0) err = tn_wg_peer_set_allowed(a->wg, p, some, 3);
        memory.counting = false;
        assert_true(err == 0 || err == TN_E_NOMEM);
        if (err != 0) {
            if (!p) assert_int_equal(tn_wg_peer_add(a->wg, &pub, a, &p), 0);
            assert_int_equal(tn_wg_peer_set_allowed(a->wg, p, some, 3), 0);
        }
        assert_ptr_equal(tn_wg_route(a->wg, &some[1].ip), p);
        assert_ptr_equal(tn_wg_route(a->wg, &some[2].ip), p);
        net_free(n);
        if (memory.seen < k) break;
    }
    assert_in_range(k, 4, 99);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_allocation_fails_once), cmocka_unit_test(setting_up_fails_cleanly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
