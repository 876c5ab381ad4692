#include "stack/pool.h"

#include <assert.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define POISON(at, n) __asan_poison_memory_region(at, n)
#define UNPOISON(at, n) __asan_unpoison_memory_region(at, n)
#else
#define POISON(at, n) ((void)(at))
#define UNPOISON(at, n) ((void)(at))
#endif

/* A slab is aligned to its size, so a chunk finds its slab by masking. Its first page is the header; free chunks are
 * bits, so that pages never handed out are never touched and cost nothing. */
enum { SLAB = 64 * 1024, SLAB_CHUNKS = SLAB / TN_CHUNK - 1 };
#define ALL_FREE ((uint16_t)((1u << SLAB_CHUNKS) - 1))

struct slab {
    struct tn_list node;
    uint16_t free; /* bit i: chunk i+1 of the slab is free */
};

void tn_pool_init(struct tn_pool *p, size_t budget)
{
    *p = (struct tn_pool){.budget = budget};
    tn_list_init(&p->partial);
    tn_list_init(&p->full);
    tn_list_init(&p->empty);
}

static void unmap_slab(struct tn_pool *p, struct slab *s)
{
    tn_list_remove(&s->node);
    UNPOISON(s, SLAB);
    munmap(s, SLAB);
    p->nslabs--;
}

static void unmap_all(struct tn_pool *p, struct tn_list *list)
{
    TN_LIST_EACH (n, list)
        unmap_slab(p, TN_CONTAINER(n, struct slab, node));
}

void tn_pool_fini(struct tn_pool *p)
{
    unmap_all(p, &p->partial);
    unmap_all(p, &p->full);
    unmap_all(p, &p->empty);
    p->used = 0;
    p->nempty = p->idle = 0;
}

static struct slab *map_slab(struct tn_pool *p)
{
    uint8_t *at = mmap(NULL, 2 * SLAB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return NULL;
    size_t skip = (SLAB - ((uintptr_t)at & (SLAB - 1))) & (SLAB - 1);
    if (skip) munmap(at, skip);
    if (skip < SLAB) munmap(at + skip + SLAB, SLAB - skip);
    struct slab *s = (struct slab *)(void *)(at + skip);
    s->free = ALL_FREE;
    tn_list_push_front(&p->partial, &s->node);
    p->nslabs++;
    POISON((uint8_t *)s + TN_CHUNK, SLAB - TN_CHUNK);
    return s;
}

static struct slab *slab_with_room(struct tn_pool *p)
{
    if (!tn_list_empty(&p->partial)) return TN_CONTAINER(p->partial.next, struct slab, node);
    struct tn_list *n = tn_list_pop_front(&p->empty);
    if (!n) return map_slab(p);
    p->nempty--;
    if (p->nempty < p->idle) p->idle = p->nempty;
    tn_list_push_front(&p->partial, n);
    return TN_CONTAINER(n, struct slab, node);
}

uint8_t *tn_pool_get(struct tn_pool *p, size_t held)
{
    if (!tn_pool_allows(p, held)) return NULL;
    struct slab *s = slab_with_room(p);
    if (!s) return NULL;
    int i = __builtin_ctz(s->free);
    s->free &= (uint16_t)(s->free - 1);
    if (!s->free) {
        tn_list_remove(&s->node);
        tn_list_push_front(&p->full, &s->node);
    }
    p->used += TN_CHUNK;
    uint8_t *chunk = (uint8_t *)s + (size_t)(i + 1) * TN_CHUNK;
    UNPOISON(chunk, TN_CHUNK);
    return chunk;
}

void tn_pool_put(struct tn_pool *p, uint8_t *chunk)
{
    struct slab *s = (struct slab *)((uintptr_t)chunk & ~(uintptr_t)(SLAB - 1));
    uint16_t bit = (uint16_t)(1u << (((uintptr_t)chunk & (SLAB - 1)) / TN_CHUNK - 1));
    assert(!(s->free & bit) && p->used >= TN_CHUNK);
    POISON(chunk, TN_CHUNK);
    s->free |= bit;
    p->used -= TN_CHUNK;
    tn_list_remove(&s->node);
    if (s->free != ALL_FREE) {
        tn_list_push_front(&p->partial, &s->node);
        return;
    }
    tn_list_push_front(&p->empty, &s->node);
    p->nempty++;
}

/* Two slabs stay always, which is what a reader's reservation takes. */
void tn_pool_trim(struct tn_pool *p)
{
    for (; p->idle > TN_POOL_SPARE_SLABS; p->idle--) {
        unmap_slab(p, TN_CONTAINER(p->empty.prev, struct slab, node));
        p->nempty--;
    }
    p->idle = p->nempty;
}
