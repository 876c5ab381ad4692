#include "filter/ipset.h"
#include "util/cursor.h"
#include "util/err.h"

#include <assert.h>
#include <stdlib.h>

tn_u128 tn_ip_number(const struct tn_ip *ip)
{
    if (ip->family == 4) return tn_get_be32(ip->b);
    return (tn_u128)tn_get_be64(ip->b) << 64 | tn_get_be64(ip->b + 8);
}

struct tn_span tn_prefix_span(const struct tn_prefix *p)
{
    unsigned host = (unsigned)tn_ip_bits(&p->ip) - p->bits;
    tn_u128 ones = host == 128 ? ~(tn_u128)0 : ((tn_u128)1 << host) - 1;
    tn_u128 lo = tn_ip_number(&p->ip) & ~ones;
    return (struct tn_span){lo, lo | ones};
}

static struct tn_spans *family_of(struct tn_ipset *s, uint8_t family) { return family == 4 ? &s->v4 : &s->v6; }

void tn_ipset_fini(struct tn_ipset *s)
{
    free(s->v4.at);
    free(s->v6.at);
    *s = (struct tn_ipset){0};
}

static int push(struct tn_spans *l, struct tn_span span)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 4;
        struct tn_span *at = realloc(l->at, cap * sizeof *at);
        if (!at) return TN_E_NOMEM;
        l->at = at;
        l->cap = cap;
    }
    l->at[l->n++] = span;
    return 0;
}

int tn_ipset_add(struct tn_ipset *s, uint8_t family, struct tn_span span)
{
    struct tn_spans *l = family_of(s, family);
    l->sorted = false;
    return push(l, span);
}

int tn_ipset_add_prefix(struct tn_ipset *s, const struct tn_prefix *p)
{
    return tn_ipset_add(s, p->ip.family, tn_prefix_span(p));
}

static int by_lo(const void *a, const void *b)
{
    const struct tn_span *x = a, *y = b;
    return x->lo < y->lo ? -1 : x->lo > y->lo;
}

/* Sorts and joins what overlaps or touches. */
static void sort_spans(struct tn_spans *l)
{
    if (l->sorted || l->n == 0) {
        l->sorted = true;
        return;
    }
    qsort(l->at, l->n, sizeof *l->at, by_lo);
    size_t last = 0;
    for (size_t i = 1; i < l->n; i++) {
        struct tn_span *top = &l->at[last];
        bool joins = l->at[i].lo <= top->hi || l->at[i].lo - top->hi == 1;
        if (!joins) l->at[++last] = l->at[i];
        else if (l->at[i].hi > top->hi) top->hi = l->at[i].hi;
    }
    l->n = last + 1;
    l->sorted = true;
}

void tn_ipset_finish(struct tn_ipset *s)
{
    sort_spans(&s->v4);
    sort_spans(&s->v6);
}

int tn_ipset_remove_prefix(struct tn_ipset *s, const struct tn_prefix *p)
{
    struct tn_spans *l = family_of(s, p->ip.family), rest = {.sorted = true};
    struct tn_span cut = tn_prefix_span(p);
    int err = 0;
    sort_spans(l);
    for (size_t i = 0; i < l->n && !err; i++) {
        struct tn_span have = l->at[i];
        if (have.hi < cut.lo || have.lo > cut.hi) {
            err = push(&rest, have);
            continue;
        }
        if (have.lo < cut.lo) err = push(&rest, (struct tn_span){have.lo, cut.lo - 1});
        if (!err && have.hi > cut.hi) err = push(&rest, (struct tn_span){cut.hi + 1, have.hi});
    }
    if (err) {
        free(rest.at);
        return err;
    }
    free(l->at);
    *l = rest;
    return 0;
}

bool tn_ipset_has(const struct tn_ipset *s, const struct tn_ip *ip)
{
    const struct tn_spans *l = ip->family == 4 ? &s->v4 : &s->v6;
    assert(l->sorted || l->n == 0);
    if (ip->family == 0) return false;
    tn_u128 number = tn_ip_number(ip);
    size_t lo = 0, hi = l->n;
    while (lo < hi) { /* the first span that ends at or behind number */
        size_t mid = lo + (hi - lo) / 2;
        if (l->at[mid].hi < number) lo = mid + 1;
        else hi = mid;
    }
    return lo < l->n && l->at[lo].lo <= number;
}
