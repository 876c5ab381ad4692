/* Intrusive chained hash table: the caller embeds struct tn_hnode, computes the hash (tn_siphash where a peer
 * chooses keys) and compares keys. At most half of its slots are taken: another node on the way to the wanted one is
 * a cache miss. Grows by doubling and shrinks again, so an emptied table returns its memory. */
#ifndef TN_UTIL_HTABLE_H
#define TN_UTIL_HTABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tn_hnode {
    struct tn_hnode *next;
    uint64_t hash;
};

struct tn_htable {
    struct tn_hnode **slots; /* NULL while nothing was ever inserted */
    size_t mask, count;
    bool walking; /* no resize while tn_htable_each runs */
};

typedef bool tn_hnode_eq(const struct tn_hnode *node, const void *key);

void tn_htable_init(struct tn_htable *t);
void tn_htable_fini(struct tn_htable *t); /* frees the slots; nodes belong to the caller */
/* The first node that may be the wanted one, NULL: none. For those who prefetch: first the slot, then the node. */
static inline void tn_htable_prefetch(const struct tn_htable *t, uint64_t hash)
{
    if (t->slots) __builtin_prefetch(&t->slots[hash & t->mask]);
}
static inline struct tn_hnode *tn_htable_first(const struct tn_htable *t, uint64_t hash)
{
    return t->slots ? t->slots[hash & t->mask] : NULL;
}
struct tn_hnode *tn_htable_find(const struct tn_htable *t, uint64_t hash, tn_hnode_eq *eq, const void *key);
/* The key must not be present. 0 or TN_E_NOMEM (only when no slot array exists yet). */
int tn_htable_insert(struct tn_htable *t, struct tn_hnode *node, uint64_t hash);
void tn_htable_remove(struct tn_htable *t, struct tn_hnode *node); /* must be present */
/* Visits every node; fn may remove the node it is given and no other. */
void tn_htable_each(struct tn_htable *t, void (*fn)(struct tn_hnode *node, void *arg), void *arg);

#endif
