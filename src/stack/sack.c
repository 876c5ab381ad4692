#include "stack/sack.h"
#include "stack/seq.h"

#include <assert.h>
#include <stdlib.h>

enum { CAP_MIN = 16 };

void tn_recs_init(struct tn_recs *t)
{
    *t = (struct tn_recs){.oldest = TN_REC_NONE, .newest = TN_REC_NONE};
}

void tn_recs_fini(struct tn_recs *t, struct tn_pool *p)
{
    tn_pool_uncharge(p, t->cap * sizeof *t->ring);
    free(t->ring);
    tn_recs_init(t);
}

static bool grow(struct tn_recs *t, struct tn_pool *p)
{
    uint32_t cap = t->cap ? t->cap * 2 : CAP_MIN;
    if (cap > TN_RECS_MAX) return false;
    struct tn_rec *ring = malloc(cap * sizeof *ring);
    if (!ring) return false;
    for (uint32_t i = 0; i < t->count; i++) ring[(t->first + i) & (cap - 1)] = *tn_rec_at(t, t->first + i);
    free(t->ring);
    tn_pool_charge(p, (cap - t->cap) * sizeof *ring);
    t->ring = ring;
    t->cap = cap;
    return true;
}

/* ---- the list by time of transmission ---- */

static void link_newest(struct tn_recs *t, uint32_t id)
{
    struct tn_rec *r = tn_rec_at(t, id);
    r->older = t->newest;
    r->newer = TN_REC_NONE;
    if (t->newest != TN_REC_NONE) tn_rec_at(t, t->newest)->newer = id;
    else t->oldest = id;
    t->newest = id;
}

static void unlink_rec(struct tn_recs *t, uint32_t id)
{
    const struct tn_rec *r = tn_rec_at(t, id);
    if (r->older != TN_REC_NONE) tn_rec_at(t, r->older)->newer = r->newer;
    else t->oldest = r->newer;
    if (r->newer != TN_REC_NONE) tn_rec_at(t, r->newer)->older = r->older;
    else t->newest = r->older;
}

static bool is_linked(const struct tn_rec *r)
{
    return !(r->flags & TN_REC_SACKED) && (!(r->flags & TN_REC_LOST) || r->flags & TN_REC_RESENT);
}

/* ---- changes of state ---- */

struct tn_rec *tn_recs_push(struct tn_recs *t, struct tn_pool *p, uint32_t seq, uint32_t len, bool fin,
                            uint64_t now_us)
{
    if (t->count == t->cap && !grow(t, p)) return NULL;
    uint32_t id = tn_recs_end(t);
    if (id == TN_REC_NONE) { /* the one number that is not an id */
        if (t->count) return NULL;
        t->first = id = 0;
    }
    t->count++;
    struct tn_rec *r = tn_rec_at(t, id);
    *r = (struct tn_rec){
        .sent_us = now_us, .seq = seq, .len = (uint16_t)len, .flags = fin ? TN_REC_FIN : 0, .xmits = 1};
    link_newest(t, id);
    return r;
}

void tn_recs_resent(struct tn_recs *t, uint32_t id, uint64_t now_us)
{
    struct tn_rec *r = tn_rec_at(t, id);
    assert(!(r->flags & TN_REC_SACKED));
    if (is_linked(r)) unlink_rec(t, id);
    if (r->flags & TN_REC_LOST && !(r->flags & TN_REC_RESENT)) {
        r->flags |= TN_REC_RESENT;
        t->resent += r->len;
        t->unsent_lost--;
        if (t->lost_hint == id) t->lost_hint = id + 1;
    }
    if (r->xmits < UINT8_MAX) r->xmits++;
    r->sent_us = now_us;
    link_newest(t, id);
}

void tn_recs_mark_lost(struct tn_recs *t, uint32_t id)
{
    struct tn_rec *r = tn_rec_at(t, id);
    if (!is_linked(r)) return;
    unlink_rec(t, id);
    if (r->flags & TN_REC_LOST) {
        r->flags &= (uint8_t)~TN_REC_RESENT;
        t->resent -= r->len;
    } else {
        r->flags |= TN_REC_LOST;
        t->lost += r->len;
    }
    if (t->unsent_lost == 0 || (int32_t)(id - t->lost_hint) < 0) t->lost_hint = id;
    t->unsent_lost++;
}

/* Forgets what was known of a record's loss; it is not linked afterwards. */
static void clear_lost(struct tn_recs *t, uint32_t id, struct tn_rec *r)
{
    if (is_linked(r)) unlink_rec(t, id);
    if (!(r->flags & TN_REC_LOST)) return;
    t->lost -= r->len;
    if (r->flags & TN_REC_RESENT) t->resent -= r->len;
    else t->unsent_lost--;
    r->flags &= (uint8_t)~(TN_REC_LOST | TN_REC_RESENT);
}

void tn_recs_unmark_lost(struct tn_recs *t)
{
    for (uint32_t i = 0; i < t->count; i++) {
        struct tn_rec *r = tn_rec_at(t, t->first + i);
        if ((r->flags & (TN_REC_LOST | TN_REC_RESENT)) != TN_REC_LOST) continue;
        clear_lost(t, t->first + i, r);
        link_newest(t, t->first + i); /* late in the list: it is only ever looked at later than it could be */
    }
}

void tn_recs_forget_sacked(struct tn_recs *t)
{
    for (uint32_t i = 0; i < t->count; i++) {
        struct tn_rec *r = tn_rec_at(t, t->first + i);
        if (!(r->flags & TN_REC_SACKED)) continue;
        r->flags &= (uint8_t)~TN_REC_SACKED;
        link_newest(t, t->first + i);
    }
    t->sacked = 0;
    t->sacked_segs = 0;
}

bool tn_recs_mark_sacked(struct tn_recs *t, uint32_t id)
{
    struct tn_rec *r = tn_rec_at(t, id);
    if (r->flags & TN_REC_SACKED) return false;
    clear_lost(t, id, r);
    r->flags |= TN_REC_SACKED;
    r->skip = 0;
    t->sacked += r->len;
    t->sacked_segs++;
    return true;
}

/* ---- search ---- */

uint32_t tn_recs_next_unsacked(struct tn_recs *t, uint32_t id)
{
    uint32_t end = tn_recs_end(t), at = id;
    while (at != end && tn_rec_at(t, at)->flags & TN_REC_SACKED) at += tn_rec_at(t, at)->skip + 1;
    while (id != at) { /* point everything on the way at the end of the run */
        struct tn_rec *r = tn_rec_at(t, id);
        uint32_t next = id + r->skip + 1;
        r->skip = at - id - 1;
        id = next;
    }
    return at;
}

uint32_t tn_recs_find(const struct tn_recs *t, uint32_t seq)
{
    uint32_t lo = 0, hi = t->count;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (seq_lt(tn_rec_at(t, t->first + mid)->seq, seq)) lo = mid + 1;
        else hi = mid;
    }
    return t->first + lo;
}

uint32_t tn_recs_next_lost(struct tn_recs *t)
{
    if (t->unsent_lost == 0) return TN_REC_NONE;
    if ((int32_t)(t->lost_hint - t->first) < 0) t->lost_hint = t->first;
    for (uint32_t end = tn_recs_end(t); t->lost_hint != end;) {
        const struct tn_rec *r = tn_rec_at(t, t->lost_hint);
        if ((r->flags & (TN_REC_LOST | TN_REC_RESENT)) == TN_REC_LOST) return t->lost_hint;
        t->lost_hint = r->flags & TN_REC_SACKED ? tn_recs_next_unsacked(t, t->lost_hint) : t->lost_hint + 1;
    }
    assert(!"unsent_lost counts a record that is not there");
    return TN_REC_NONE;
}

bool tn_recs_pop(struct tn_recs *t, uint32_t ack, struct tn_rec *out)
{
    if (t->count == 0) return false;
    struct tn_rec *r = tn_rec_at(t, t->first);
    if (seq_gt(tn_rec_end(r), ack)) {
        if (seq_lt(r->seq, ack)) {
            uint32_t cut = ack - r->seq;
            if (r->flags & TN_REC_SACKED) t->sacked -= cut;
            if (r->flags & TN_REC_LOST) t->lost -= cut;
            if (r->flags & TN_REC_RESENT) t->resent -= cut;
            r->seq = ack;
            r->len = (uint16_t)(r->len - cut);
        }
        return false;
    }
    *out = *r;
    if (r->flags & TN_REC_SACKED) {
        t->sacked -= r->len;
        t->sacked_segs--;
    } else {
        clear_lost(t, t->first, r);
    }
    t->first++;
    t->count--;
    return true;
}
