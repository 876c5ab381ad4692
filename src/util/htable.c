#include "util/htable.h"
#include "util/err.h"

#include <assert.h>
#include <stdlib.h>

enum { MIN_SLOTS = 16 };

void tn_htable_init(struct tn_htable *t) { *t = (struct tn_htable){0}; }

void tn_htable_fini(struct tn_htable *t)
{
    free(t->slots);
    tn_htable_init(t);
}

struct tn_hnode *tn_htable_find(const struct tn_htable *t, uint64_t hash, tn_hnode_eq *eq, const void *key)
{
    if (!t->slots) return NULL;
    for (struct tn_hnode *n = t->slots[hash & t->mask]; n; n = n->next)
        if (n->hash == hash && eq(n, key)) return n;
    return NULL;
}

/* Rehashes into n slots. When memory is short the table stays as it is: slower, still right. */
static void resize(struct tn_htable *t, size_t n)
{
    struct tn_hnode **slots = calloc(n, sizeof *slots);
    if (!slots) return;
    for (size_t i = 0; i <= t->mask; i++) {
        for (struct tn_hnode *node = t->slots[i], *next; node; node = next) {
            next = node->next;
            node->next = slots[node->hash & (n - 1)];
            slots[node->hash & (n - 1)] = node;
        }
    }
    free(t->slots);
    t->slots = slots;
    t->mask = n - 1;
}

int tn_htable_insert(struct tn_htable *t, struct tn_hnode *node, uint64_t hash)
{
    if (!t->slots) {
        t->slots = calloc(MIN_SLOTS, sizeof *t->slots);
        if (!t->slots) return TN_E_NOMEM;
        t->mask = MIN_SLOTS - 1;
    } else if (t->count > t->mask / 2 && !t->walking) {
        resize(t, (t->mask + 1) * 2);
    }
    node->hash = hash;
    node->next = t->slots[hash & t->mask];
    t->slots[hash & t->mask] = node;
    t->count++;
    return 0;
}

void tn_htable_remove(struct tn_htable *t, struct tn_hnode *node)
{
    struct tn_hnode **at = &t->slots[node->hash & t->mask];
    while (*at != node) {
        assert(*at);
        at = &(*at)->next;
    }
    *at = node->next;
    node->next = NULL;
    t->count--;
    if (!t->walking && t->mask >= MIN_SLOTS && t->count < (t->mask + 1) / 8) resize(t, (t->mask + 1) / 2);
}

void tn_htable_each(struct tn_htable *t, void (*fn)(struct tn_hnode *node, void *arg), void *arg)
{
    if (!t->slots) return;
    t->walking = true;
    for (size_t i = 0; i <= t->mask; i++) {
        for (struct tn_hnode *n = t->slots[i], *next; n; n = next) {
            next = n->next;
            fn(n, arg);
        }
    }
    t->walking = false;
}
