#include "stack/reass.h"
#include "stack/seq.h"
#include "util/err.h"

#include <stdlib.h>
#include <string.h>

enum { CAP_MIN = 8 };

struct tn_reass *tn_reass_new(void) { return calloc(1, sizeof(struct tn_reass)); }

void tn_reass_free(struct tn_reass *r)
{
    if (!r) return;
    free(r->range);
    free(r);
}

/* The first range whose end is at or after seq. */
static unsigned lower(const struct tn_reass *r, uint32_t seq)
{
    unsigned lo = 0, hi = r->count;
    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;
        if (seq_lt(r->range[mid].end, seq)) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

/* Puts this range first in the order of reports; one entry per range. */
static void touch(struct tn_reass *r, const struct tn_tcp_sack *range)
{
    uint32_t kept[TN_REASS_RECENT];
    unsigned n = 0;
    kept[n++] = range->start;
    for (unsigned i = 0; i < r->nrecent && n < TN_REASS_RECENT; i++)
        if (seq_lt(r->recent[i], range->start) || seq_ge(r->recent[i], range->end)) kept[n++] = r->recent[i];
    memcpy(r->recent, kept, n * sizeof kept[0]);
    r->nrecent = (uint8_t)n;
}

static int insert_at(struct tn_reass *r, unsigned i, uint32_t start, uint32_t end)
{
    if (r->count == TN_REASS_MAX) return TN_E_LIMIT;
    if (r->count == r->cap) {
        unsigned cap = r->cap ? r->cap * 2u : CAP_MIN;
        struct tn_tcp_sack *range = realloc(r->range, cap * sizeof *range);
        if (!range) return TN_E_NOMEM;
        r->range = range;
        r->cap = (uint16_t)cap;
    }
    memmove(r->range + i + 1, r->range + i, (r->count - i) * sizeof *r->range);
    r->range[i] = (struct tn_tcp_sack){start, end};
    r->count++;
    return 0;
}

/* The first overlap of [start, end) with what is held, from range i on. */
static struct tn_tcp_sack overlap(const struct tn_reass *r, unsigned i, uint32_t start, uint32_t end)
{
    for (; i < r->count && seq_lt(r->range[i].start, end); i++) {
        uint32_t s = seq_max(start, r->range[i].start), e = seq_min(end, r->range[i].end);
        if (seq_lt(s, e)) return (struct tn_tcp_sack){s, e};
    }
    return (struct tn_tcp_sack){start, start};
}

int tn_reass_add(struct tn_reass *r, uint32_t start, uint32_t end, struct tn_tcp_sack *dup)
{
    unsigned i = lower(r, start);
    *dup = overlap(r, i, start, end);
    if (i == r->count || seq_gt(r->range[i].start, end)) {
        int err = insert_at(r, i, start, end);
        if (!err) touch(r, &r->range[i]);
        return err;
    }
    struct tn_tcp_sack *at = &r->range[i];
    at->start = seq_min(at->start, start);
    at->end = seq_max(at->end, end);
    unsigned last = i;
    while (last + 1 < r->count && seq_le(r->range[last + 1].start, at->end)) {
        last++;
        at->end = seq_max(at->end, r->range[last].end);
    }
    memmove(r->range + i + 1, r->range + last + 1, (r->count - last - 1) * sizeof *r->range);
    r->count = (uint16_t)(r->count - (last - i));
    touch(r, at);
    return 0;
}

uint32_t tn_reass_advance(struct tn_reass *r, uint32_t nxt)
{
    if (!r) return nxt;
    unsigned i = 0;
    for (; i < r->count && seq_le(r->range[i].start, nxt); i++) nxt = seq_max(nxt, r->range[i].end);
    if (i == 0) return nxt;
    memmove(r->range, r->range + i, (r->count - i) * sizeof *r->range);
    r->count = (uint16_t)(r->count - i);
    return nxt;
}

uint32_t tn_reass_end(const struct tn_reass *r, uint32_t nxt)
{
    return r && r->count ? r->range[r->count - 1].end : nxt;
}

static bool listed(const struct tn_tcp_sack *out, unsigned n, const struct tn_tcp_sack *block)
{
    for (unsigned i = 0; i < n; i++)
        if (out[i].start == block->start) return true;
    return false;
}

unsigned tn_reass_blocks(const struct tn_reass *r, struct tn_tcp_sack *out, unsigned n)
{
    unsigned count = 0;
    if (!r || !r->count) return 0;
    for (unsigned i = 0; i < r->nrecent && count < n; i++) {
        unsigned at = lower(r, r->recent[i] + 1);
        if (at == r->count || seq_gt(r->range[at].start, r->recent[i])) continue; /* delivered meanwhile */
        if (!listed(out, count, &r->range[at])) out[count++] = r->range[at];
    }
    for (unsigned i = r->count; i > 0 && count < n; i--)
        if (!listed(out, count, &r->range[i - 1])) out[count++] = r->range[i - 1];
    return count;
}
