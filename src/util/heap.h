/* Timers: an intrusive min-heap of deadlines in microseconds on the caller's clock.
 *
 * The heap stores pointers to embedded struct tn_timer, and their deadlines beside them: with 100,000 timers all over the
 * memory, to compare must not mean to look there. For the same reason it has four branches, and a timer armed at TN_NEVER
 * is not among them but parked behind: slot[live] to slot[count - 1], in no order. Equal deadlines fire in no particular
 * order. Arming an armed timer moves it. The array shrinks again. Nothing here reads a clock. */
#ifndef TN_UTIL_HEAP_H
#define TN_UTIL_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TN_NEVER UINT64_MAX /* "no deadline" everywhere in the project */

struct tn_timer {
    uint64_t at_us;
    size_t index; /* place in the heap plus one; 0 = not armed */
};

struct tn_heap_slot {
    uint64_t at_us; /* as the timer's */
    struct tn_timer *timer;
};

struct tn_heap {
    struct tn_heap_slot *slot;
    size_t live, count, cap; /* count: with those parked */
};

void tn_heap_init(struct tn_heap *h);
void tn_heap_fini(struct tn_heap *h);
/* 0 or TN_E_NOMEM; moving an armed timer can't fail. */
int tn_timer_arm(struct tn_heap *h, struct tn_timer *t, uint64_t at_us);
void tn_timer_stop(struct tn_heap *h, struct tn_timer *t); /* harmless when not armed */
static inline bool tn_timer_armed(const struct tn_timer *t) { return t->index != 0; }
static inline uint64_t tn_heap_next(const struct tn_heap *h) { return h->live ? h->slot[0].at_us : TN_NEVER; }
/* The earliest timer if it is due at now_us, disarmed; else NULL. */
struct tn_timer *tn_heap_pop_due(struct tn_heap *h, uint64_t now_us);

#endif
