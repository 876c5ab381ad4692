#include "util/heap.h"
#include "util/err.h"

#include <assert.h>
#include <stdlib.h>

enum { BRANCHES = 4, CAP_MIN = 16 };

void tn_heap_init(struct tn_heap *h) { *h = (struct tn_heap){0}; }

void tn_heap_fini(struct tn_heap *h)
{
    free(h->slot);
    tn_heap_init(h);
}

static void place(struct tn_heap *h, size_t i, struct tn_heap_slot s)
{
    h->slot[i] = s;
    s.timer->index = i + 1;
}

static void sift_up(struct tn_heap *h, size_t i, struct tn_heap_slot s)
{
    while (i > 0 && h->slot[(i - 1) / BRANCHES].at_us > s.at_us) {
        place(h, i, h->slot[(i - 1) / BRANCHES]);
        i = (i - 1) / BRANCHES;
    }
    place(h, i, s);
}

static void sift_down(struct tn_heap *h, size_t i, struct tn_heap_slot s)
{
    for (size_t first; (first = BRANCHES * i + 1) < h->live;) {
        size_t least = first, end = first + BRANCHES < h->live ? first + BRANCHES : h->live;
        for (size_t k = first + 1; k < end; k++)
            if (h->slot[k].at_us < h->slot[least].at_us) least = k;
        if (h->slot[least].at_us >= s.at_us) break;
        place(h, i, h->slot[least]);
        i = least;
    }
    place(h, i, s);
}

static void settle(struct tn_heap *h, size_t i, struct tn_heap_slot s)
{
    if (i > 0 && h->slot[(i - 1) / BRANCHES].at_us > s.at_us) sift_up(h, i, s);
    else sift_down(h, i, s);
}

/* The timer at i becomes the first of those parked. */
static void park(struct tn_heap *h, size_t i)
{
    struct tn_heap_slot s = h->slot[i], last = h->slot[--h->live];
    s.at_us = s.timer->at_us = TN_NEVER;
    place(h, h->live, s);
    if (i < h->live) settle(h, i, last);
}

static void unpark(struct tn_heap *h, struct tn_heap_slot s)
{
    place(h, s.timer->index - 1, h->slot[h->live]);
    sift_up(h, h->live++, s);
}

static int set_cap(struct tn_heap *h, size_t cap)
{
    struct tn_heap_slot *slot = realloc(h->slot, cap * sizeof *slot);
    if (!slot) return TN_E_NOMEM;
    h->slot = slot;
    h->cap = cap;
    return 0;
}

static int add_parked(struct tn_heap *h, struct tn_timer *t)
{
    if (h->count == h->cap && set_cap(h, h->cap ? h->cap * 2 : CAP_MIN) != 0) return TN_E_NOMEM;
    t->at_us = TN_NEVER;
    place(h, h->count++, (struct tn_heap_slot){TN_NEVER, t});
    return 0;
}

int tn_timer_arm(struct tn_heap *h, struct tn_timer *t, uint64_t at_us)
{
    if (!t->index && add_parked(h, t) != 0) return TN_E_NOMEM;
    size_t i = t->index - 1;
    bool was_parked = i >= h->live;
    if (at_us == TN_NEVER) {
        if (!was_parked) park(h, i);
        return 0;
    }
    t->at_us = at_us;
    struct tn_heap_slot s = {at_us, t};
    if (was_parked) unpark(h, s);
    else settle(h, i, s);
    return 0;
}

void tn_timer_stop(struct tn_heap *h, struct tn_timer *t)
{
    if (!t->index) return;
    assert(h->slot[t->index - 1].timer == t);
    uint64_t at_us = t->at_us;
    if (t->index - 1 < h->live) park(h, t->index - 1);
    t->at_us = at_us;
    place(h, t->index - 1, h->slot[--h->count]);
    t->index = 0;
    if (h->cap > CAP_MIN && h->count < h->cap / 4) (void)set_cap(h, h->cap / 2); /* if not, then it stays large */
}

struct tn_timer *tn_heap_pop_due(struct tn_heap *h, uint64_t now_us)
{
    if (tn_heap_next(h) > now_us || h->live == 0) return NULL;
    struct tn_timer *t = h->slot[0].timer;
    tn_timer_stop(h, t);
    return t;
}
