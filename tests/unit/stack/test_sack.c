/* The sender's scoreboard against a naive one: an array of segments with flags, counts by addition. */
#include "stack/sack.c"
#include "stack/pool.c"

#include "util/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

enum { SEGS = 3000 };

struct naive {
    uint32_t seq, len;
    uint64_t stamp; /* order of transmission */
    bool sacked, lost, resent;
};

struct model {
    struct naive s[SEGS];
    unsigned first, end;
    uint64_t clock;
    uint32_t una, nxt;
};

static void check(const struct tn_recs *t, const struct model *m)
{
    uint32_t sacked = 0, lost = 0, resent = 0, segs = 0;
    assert_int_equal(t->count, m->end - m->first);
    for (unsigned i = m->first; i < m->end; i++) {
        const struct naive *n = &m->s[i];
        const struct tn_rec *r = tn_rec_at(t, t->first + (i - m->first));
        assert_true(r->seq == n->seq && r->len == n->len && r->sent_us == n->stamp);
        assert_int_equal(r->flags & 7, n->sacked * TN_REC_SACKED + n->lost * TN_REC_LOST + n->resent * TN_REC_RESENT);
        sacked += n->sacked ? n->len : 0;
        segs += n->sacked;
        lost += n->lost ? n->len : 0;
        resent += n->resent ? n->len : 0;
    }
    assert_true(t->sacked == sacked && t->lost == lost && t->resent == resent && t->sacked_segs == segs);
    uint64_t before = 0;
    for (uint32_t id = t->oldest; id != TN_REC_NONE; id = tn_rec_at(t, id)->newer) {
        assert_true(tn_rec_at(t, id)->sent_us > before);
        before = tn_rec_at(t, id)->sent_us;
    }
}

static unsigned next_unsacked(const struct model *m, unsigned i)
{
    while (i < m->end && m->s[i].sacked) i++;
    return i;
}

static void act(struct tn_recs *t, struct tn_pool *p, struct model *m, struct tn_rng *rng)
{
    unsigned span = m->end - m->first, i = m->first + (span ? (unsigned)tn_rng_below(rng, span) : 0);
    uint32_t id = t->first + (i - m->first);
    struct naive *n = &m->s[i];
    struct tn_rec out;
    switch (tn_rng_below(rng, 8)) {
    case 0: case 1: case 2:
        if (m->end == SEGS) return;
        n = &m->s[m->end++];
        *n = (struct naive){.seq = m->nxt, .len = 1 + (uint32_t)tn_rng_below(rng, 1228), .stamp = ++m->clock};
        m->nxt += n->len;
        assert_non_null(tn_recs_push(t, p, n->seq, n->len, false, n->stamp));
        return;
    case 3: /* a run is reported */
        for (unsigned k = 0; k < 20 && i + k < m->end; k++) {
            assert_int_equal(tn_recs_mark_sacked(t, id + k), !m->s[i + k].sacked);
            m->s[i + k].sacked = true;
            m->s[i + k].lost = m->s[i + k].resent = false;
        }
        return;
    case 4:
        if (!span || n->sacked) return;
        if (n->lost && !n->resent) return;
        tn_recs_mark_lost(t, id);
        n->lost = true;
        n->resent = false;
        return;
    case 5: {
        uint32_t lost = tn_recs_next_lost(t);
        unsigned k = m->first;
        while (k < m->end && !(m->s[k].lost && !m->s[k].resent)) k++;
        if (k == m->end) {
            assert_int_equal(lost, TN_REC_NONE);
            return;
        }
        assert_int_equal(lost, t->first + (k - m->first));
        m->s[k].resent = true;
        m->s[k].stamp = ++m->clock;
        tn_recs_resent(t, lost, m->clock);
        return;
    }
    case 6:
        if (!span) return;
        assert_int_equal(tn_recs_next_unsacked(t, id) - t->first, next_unsacked(m, i) - m->first);
        assert_int_equal(tn_recs_find(t, n->seq), id);
        assert_int_equal(tn_recs_find(t, n->seq + 1), id + 1);
        return;
    default: { /* acknowledged up to somewhere in the first segments */
        if (!span) return;
        uint32_t ack = m->una + (uint32_t)tn_rng_below(rng, m->s[m->first].len * 3);
        if (seq_gt(ack, m->nxt)) ack = m->nxt;
        while (m->first < m->end && seq_le(m->s[m->first].seq + m->s[m->first].len, ack)) {
            assert_true(tn_recs_pop(t, ack, &out));
            assert_int_equal(out.seq, m->s[m->first].seq);
            m->first++;
        }
        assert_false(tn_recs_pop(t, ack, &out));
        m->una = ack;
        if (m->first < m->end && seq_lt(m->s[m->first].seq, ack)) {
            m->s[m->first].len -= ack - m->s[m->first].seq;
            m->s[m->first].seq = ack;
        }
    }
    }
}

static void like_a_list(void **state)
{
    uint64_t seed = 11;
    struct tn_rng rng = tn_rng_seeded(&seed);
    struct tn_pool p;
    tn_pool_init(&p, 1 << 20);
    for (int round = 0; round < 30; round++) {
        static struct model m;
        struct tn_recs t;
        memset(&m, 0, sizeof m);
        m.una = m.nxt = round % 2 ? 0xfffff000u : 1;
        tn_recs_init(&t);
        for (int step = 0; step < 4000; step++) {
            act(&t, &p, &m, &rng);
            if (step % 40 == 0) check(&t, &m);
        }
        check(&t, &m);
        tn_recs_unmark_lost(&t);
        for (unsigned i = m.first; i < m.end; i++)
            if (m.s[i].lost && !m.s[i].resent) m.s[i].lost = false;
        tn_recs_forget_sacked(&t);
        assert_int_equal(t.sacked, 0);
        uint32_t linked = 0;
        for (uint32_t id = t.oldest; id != TN_REC_NONE; id = tn_rec_at(&t, id)->newer) linked++;
        assert_int_equal(linked, t.count);
        tn_recs_fini(&t, &p);
        assert_int_equal(p.used, 0);
    }
    tn_pool_fini(&p);
}

static void limit(void **state)
{
    struct tn_pool p;
    struct tn_recs t;
    tn_pool_init(&p, 1 << 20);
    tn_recs_init(&t);
    for (uint32_t i = 0; i < TN_RECS_MAX; i++) assert_non_null(tn_recs_push(&t, &p, i, 1, false, 1));
    assert_null(tn_recs_push(&t, &p, TN_RECS_MAX, 1, false, 1));
    struct tn_rec out;
    while (tn_recs_pop(&t, TN_RECS_MAX, &out)) continue;
    assert_int_equal(t.count, 0);
    tn_recs_fini(&t, &p);
    assert_int_equal(p.used, 0);
    tn_pool_fini(&p);
}

/* The id that is not one: a flow that has sent four billion segments goes on after its records have drained. */
static void ids_wrap(void **state)
{
    struct tn_pool p;
    struct tn_recs t;
    struct tn_rec out;
    tn_pool_init(&p, 1 << 20);
    tn_recs_init(&t);
    t.first = UINT32_MAX - 2;
    for (uint32_t i = 0; i < 2; i++) assert_non_null(tn_recs_push(&t, &p, i, 1, false, 1));
    assert_null(tn_recs_push(&t, &p, 2, 1, false, 1));
    while (tn_recs_pop(&t, 2, &out)) continue;
    assert_non_null(tn_recs_push(&t, &p, 2, 1, false, 1));
    assert_int_equal(t.first, 0);
    tn_recs_fini(&t, &p);
    tn_pool_fini(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(like_a_list), cmocka_unit_test(limit),
                                       cmocka_unit_test(ids_wrap)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
