/* The trie against a naive list, with prefixes drawn so that they nest and collide. */
#include "route/route.c"

#include "util/rng.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

enum { NAIVE_MAX = 2000 };

struct naive {
    struct tn_prefix p[NAIVE_MAX];
    void *value[NAIVE_MAX];
    size_t n;
};

static size_t naive_at(const struct naive *l, const struct tn_prefix *p)
{
    size_t i = 0;
    while (i < l->n && !tn_prefix_eq(&l->p[i], p)) i++;
    return i;
}

static void *naive_find(const struct naive *l, const struct tn_ip *ip, struct tn_prefix *matched)
{
    int best = -1;
    for (size_t i = 0; i < l->n; i++)
        if (tn_prefix_contains(&l->p[i], ip) && (best < 0 || l->p[i].bits > l->p[best].bits)) best = (int)i;
    if (best < 0) return NULL;
    *matched = l->p[best];
    return l->value[best];
}

/* Few distinct bytes, so that prefixes and addresses often share long beginnings. */
static struct tn_ip random_ip(struct tn_rng *rng)
{
    static const uint8_t bytes[] = {0, 1, 2, 128, 129, 255, 64, 100};
    struct tn_ip ip = {.family = tn_rng_below(rng, 2) ? 4 : 6};
    for (size_t i = 0; i < tn_ip_len(&ip); i++) ip.b[i] = bytes[tn_rng_below(rng, i < 3 ? 3 : sizeof bytes)];
    return ip;
}

static struct tn_prefix random_prefix(struct tn_rng *rng)
{
    struct tn_prefix p = {.ip = random_ip(rng)};
    p.bits = (uint8_t)tn_rng_below(rng, (uint64_t)tn_ip_bits(&p.ip) + 1);
    tn_prefix_mask(&p);
    return p;
}

static size_t check_shape(const struct node *n, unsigned min_bits)
{
    if (!n) return 0;
    assert_true(n->bits >= min_bits);
    assert_true(n->value || (n->child[0] && n->child[1]));
    for (unsigned side = 0; side < 2; side++) {
        if (!n->child[side]) continue;
        assert_true(covers(n, n->child[side]->key));
        assert_int_equal(bit_at(n->child[side]->key, n->bits), side);
    }
    return 1 + check_shape(n->child[0], n->bits + 1u) + check_shape(n->child[1], n->bits + 1u);
}

static void check(const struct tn_route_table *t, const struct naive *l, struct tn_rng *rng, int lookups)
{
    assert_int_equal(tn_route_count(t), l->n);
    for (int i = 0; i < lookups; i++) {
        struct tn_prefix m1 = {0}, m2 = {0};
        struct tn_ip ip = random_ip(rng);
        assert_ptr_equal(tn_route_find(t, &ip, &m1), naive_find(l, &ip, &m2));
        assert_memory_equal(&m1, &m2, sizeof m1);
    }
}

static void against_naive(void **state)
{
    static struct naive l;
    static int values[50];
    for (uint64_t seed = 1; seed <= 8; seed++) {
        uint64_t s = seed;
        struct tn_rng rng = tn_rng_seeded(&s);
        struct tn_route_table *t = tn_route_new();
        l.n = 0;
        for (int step = 0; step < 3000; step++) {
            struct tn_prefix p = random_prefix(&rng);
            if (l.n && tn_rng_below(&rng, 3) == 0) p = l.p[tn_rng_below(&rng, l.n)];
            size_t at = naive_at(&l, &p);
            bool remove = l.n >= NAIVE_MAX || tn_rng_below(&rng, step < 2000 ? 3 : 8) > 1;
            if (remove) {
                assert_int_equal(tn_route_unset(t, &p), at < l.n ? 0 : TN_E_NOENT);
                if (at < l.n) {
                    l.p[at] = l.p[--l.n];
                    l.value[at] = l.value[l.n];
                }
            } else {
                void *v = &values[tn_rng_below(&rng, 50)];
                assert_int_equal(tn_route_set(t, &p, v), 0);
                l.p[at] = p;
                l.value[at] = v;
                if (at == l.n) l.n++;
            }
            at = naive_at(&l, &p);
            assert_ptr_equal(tn_route_exact(t, &p), at < l.n ? l.value[at] : NULL);
            check(t, &l, &rng, 3);
        }
        size_t nodes = check_shape(t->root[0], 0) + check_shape(t->root[1], 0);
        assert_true(nodes <= 2 * l.n);
        check(t, &l, &rng, 2000);
        while (l.n) assert_int_equal(tn_route_unset(t, &l.p[--l.n]), 0);
        assert_null(t->root[0]);
        assert_null(t->root[1]);
        tn_route_free(t);
    }
}

static struct tn_prefix prefix(const char *text)
{
    struct tn_prefix p;
    assert_int_equal(tn_prefix_parse(text, &p), 0);
    return p;
}

static void *find(const struct tn_route_table *t, const char *text)
{
    struct tn_ip ip;
    assert_int_equal(tn_ip_parse(text, &ip), 0);
    return tn_route_find(t, &ip, NULL);
}

static void exit_node_and_subnets(void **state)
{
    int exit, lan, host;
    struct tn_route_table *t = tn_route_new();
    struct tn_prefix all = prefix("0.0.0.0/0"), all6 = prefix("::/0"), net = prefix("10.0.0.0/8"),
                     one = prefix("10.1.2.3/32"), six = prefix("fd7a:115c:a1e0::1/128");
    assert_null(find(t, "8.8.8.8"));
    assert_int_equal(tn_route_set(t, &all, &exit), 0);
    assert_int_equal(tn_route_set(t, &all6, &exit), 0);
    assert_int_equal(tn_route_set(t, &net, &lan), 0);
    assert_int_equal(tn_route_set(t, &one, &host), 0);
    assert_int_equal(tn_route_set(t, &six, &host), 0);
    assert_ptr_equal(find(t, "8.8.8.8"), &exit);
    assert_ptr_equal(find(t, "10.1.2.4"), &lan);
    assert_ptr_equal(find(t, "10.1.2.3"), &host);
    assert_ptr_equal(find(t, "fd7a:115c:a1e0::1"), &host);
    assert_ptr_equal(find(t, "fd7a:115c:a1e0::2"), &exit);
    assert_ptr_equal(find(t, "::ffff:10.1.2.3"), &exit); /* mapped is IPv6 */
    assert_int_equal(tn_route_count(t), 5);
    tn_route_free(t);
}

static void bad_arguments(void **state)
{
    int v;
    struct tn_route_table *t = tn_route_new();
    struct tn_prefix none = {0}, wide = {.ip.family = 4, .bits = 33}, dirty = {.ip = tn_ip4(10, 1, 2, 3), .bits = 8};
    struct tn_ip nowhere = {0};
    assert_int_equal(tn_route_set(t, &none, &v), TN_E_INVAL);
    assert_int_equal(tn_route_set(t, &wide, &v), TN_E_INVAL);
    assert_int_equal(tn_route_set(t, &dirty, NULL), TN_E_INVAL);
    assert_int_equal(tn_route_unset(t, &wide), TN_E_NOENT);
    assert_null(tn_route_exact(t, &wide));
    assert_null(tn_route_find(t, &nowhere, NULL));
    assert_int_equal(tn_route_set(t, &dirty, &v), 0);
    assert_ptr_equal(find(t, "10.9.9.9"), &v);
    struct tn_prefix clean = prefix("10.0.0.0/8");
    assert_ptr_equal(tn_route_exact(t, &clean), &v);
    tn_route_free(t);
    tn_route_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(against_naive), cmocka_unit_test(exit_node_and_subnets), cmocka_unit_test(bad_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
