#include "link.h"

#include <stdlib.h>
#include <string.h>

/* splitmix64 */
uint64_t link_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ULL;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
    return z ^ z >> 31;
}

void link_init(struct link *l, const struct link_config *c) { *l = (struct link){.c = *c, .rng = c->seed}; }

void link_fini(struct link *l)
{
    for (size_t i = 0; i < l->count; i++) free(l->heap[i]);
    free(l->heap);
    l->heap = NULL;
    l->count = l->cap = 0;
}

static bool before(const struct link_packet *a, const struct link_packet *b)
{
    return a->at_us < b->at_us || (a->at_us == b->at_us && a->order < b->order);
}

static void push(struct link *l, struct link_packet *p)
{
    if (l->count == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 64;
        l->heap = realloc(l->heap, l->cap * sizeof *l->heap);
        if (!l->heap) abort();
    }
    size_t i = l->count++;
    for (; i > 0 && before(p, l->heap[(i - 1) / 2]); i = (i - 1) / 2) l->heap[i] = l->heap[(i - 1) / 2];
    l->heap[i] = p;
}

static struct link_packet *pop(struct link *l)
{
    struct link_packet *top = l->heap[0], *last = l->heap[--l->count];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < l->count; i = child) {
        if (child + 1 < l->count && before(l->heap[child + 1], l->heap[child])) child++;
        if (!before(l->heap[child], last)) break;
        l->heap[i] = l->heap[child];
    }
    l->heap[i] = last;
    return top;
}

/* When the last bit has left the sender, or UINT64_MAX when the queue is full. */
static uint64_t departure(struct link *l, size_t len, uint64_t now_us)
{
    if (!l->c.rate_bps) return now_us;
    uint64_t start = l->free_at_us > now_us ? l->free_at_us : now_us;
    uint64_t waiting = (start - now_us) * l->c.rate_bps / 8000000;
    if (l->c.queue_bytes && waiting + len > l->c.queue_bytes) return UINT64_MAX;
    l->free_at_us = start + len * 8000000ull / l->c.rate_bps;
    return l->free_at_us;
}

static void deliver(struct link *l, const uint8_t *packet, size_t len, uint64_t at_us)
{
    struct link_packet *p = malloc(sizeof *p + len);
    if (!p) abort();
    p->at_us = at_us;
    p->order = l->order++;
    p->len = len;
    memcpy(p->bytes, packet, len);
    if (len && link_chance(&l->rng) < l->c.corrupt) {
        uint64_t bit = link_random(&l->rng) % (len * 8);
        p->bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    push(l, p);
}

void link_send(struct link *l, const uint8_t *packet, size_t len, uint64_t now_us)
{
    l->sent++;
    uint64_t at = departure(l, len, now_us);
    if (at == UINT64_MAX) {
        l->overflowed++;
        return;
    }
    bool dark = now_us >= l->c.dark_from_us && now_us < l->c.dark_to_us;
    if (dark || link_chance(&l->rng) < l->c.loss) {
        l->lost++;
        return;
    }
    if (l->c.early <= 0 || link_chance(&l->rng) >= l->c.early) at += l->c.delay_us;
    if (l->c.reorder_us && link_chance(&l->rng) < l->c.reorder) at += link_random(&l->rng) % l->c.reorder_us;
    deliver(l, packet, len, at);
    if (link_chance(&l->rng) < l->c.duplicate) deliver(l, packet, len, at + link_random(&l->rng) % 5000);
}

uint64_t link_next(const struct link *l) { return l->count ? l->heap[0]->at_us : UINT64_MAX; }

struct link_packet *link_take(struct link *l, uint64_t now_us)
{
    if (!l->count || l->heap[0]->at_us > now_us) return NULL;
    l->delivered++;
    return pop(l);
}
