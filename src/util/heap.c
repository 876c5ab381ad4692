#include "util/heap.h"
#include "util/err.h"

#include <assert.h>
#include <stdlib.h>

void tn_heap_init(struct tn_heap *h) { *h = (struct tn_heap){0}; }

void tn_heap_fini(struct tn_heap *h)
{
    free(h->slot);
    tn_heap_init(h);
}

static void place(struct tn_heap *h, size_t i, struct tn_timer *t)
{
    h->slot[i] = t;
    t->index = i + 1;
}

static void sift_up(struct tn_heap *h, size_t i, struct tn_timer *t)
{
    while (i > 0 && h->slot[(i - 1) / 2]->at_us > t->at_us) {
        place(h, i, h->slot[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    place(h, i, t);
}

static void sift_down(struct tn_heap *h, size_t i, struct tn_timer *t)
{
    for (size_t child; (child = 2 * i + 1) < h->count; i = child) {
        if (child + 1 < h->count && h->slot[child + 1]->at_us < h->slot[child]->at_us) child++;
        if (h->slot[child]->at_us >= t->at_us) break;
        place(h, i, h->slot[child]);
    }
    place(h, i, t);
}

int tn_timer_arm(struct tn_heap *h, struct tn_timer *t, uint64_t at_us)
{
    if (t->index) {
        uint64_t old_us = t->at_us;
        t->at_us = at_us;
        if (at_us < old_us) sift_up(h, t->index - 1, t);
        else sift_down(h, t->index - 1, t);
        return 0;
    }
    if (h->count == h->cap) {
        size_t cap = h->cap ? h->cap * 2 : 16;
        struct tn_timer **slot = realloc(h->slot, cap * sizeof(*slot));
        if (!slot) return TN_E_NOMEM;
        h->slot = slot;
        h->cap = cap;
    }
    t->at_us = at_us;
    sift_up(h, h->count++, t);
    return 0;
}

void tn_timer_stop(struct tn_heap *h, struct tn_timer *t)
{
    if (!t->index) return;
    size_t i = t->index - 1;
    assert(h->slot[i] == t);
    t->index = 0;
    struct tn_timer *last = h->slot[--h->count];
    if (last == t) return;
    if (last->at_us < t->at_us) sift_up(h, i, last);
    else sift_down(h, i, last);
}

struct tn_timer *tn_heap_pop_due(struct tn_heap *h, uint64_t now_us)
{
    if (h->count == 0 || h->slot[0]->at_us > now_us) return NULL;
    struct tn_timer *t = h->slot[0];
    tn_timer_stop(h, t);
    return t;
}
