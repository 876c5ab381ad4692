#include "dns/lookup.h"
#include "util/err.h"

#include <stdlib.h>

enum {
    LOOKUP_US = 5 * 1000000,    /* as long as Go's PeerAPI waits */
    HEDGE_US = 1500000,         /* of silence: then the next upstream is asked too */
    AVOID_US = 30 * 1000000,    /* an upstream that failed is not the first choice for so long */
};
#define PLAIN_US 900000000ull   /* an old server does not become a new one by the minute */

uint64_t tn_dns_lookups_now(const struct tn_dns_lookups *ls)
{
    const struct tn_dns_config *c = &ls->ways.config;
    return c->now ? c->now(c->ctx) : uv_hrtime() / 1000;
}

int tn_dns_lookups_init(struct tn_dns_lookups *ls, const struct tn_dns_config *config)
{
    *ls = (struct tn_dns_lookups){0};
    tn_htable_init(&ls->by_key);
    tn_heap_init(&ls->timers);
    tn_rng_fill(&config->rng, &ls->hash, sizeof ls->hash);
    ls->scratch = malloc(TN_DNS_REPLY_MAX);
    int err = tn_dns_ways_init(&ls->ways, config);
    return err || ls->scratch ? err : TN_E_NOMEM;
}

void tn_dns_lookups_fini(struct tn_dns_lookups *ls)
{
    tn_dns_ways_fini(&ls->ways);
    tn_htable_fini(&ls->by_key);
    tn_heap_fini(&ls->timers);
    free(ls->scratch);
}

void tn_dns_lookup_free(struct tn_dns_lookup *l)
{
    struct tn_dns_lookups *ls = l->of;
    struct tn_dns_way *way = l->way;
    for (unsigned i = 0; i < way->n; i++)
        if (l->attempts[i].pending) way->upstreams[i]->ops->cancel(way->upstreams[i], l->attempts[i].handle);
    tn_dns_way_release(way);
    tn_timer_stop(&ls->timers, &l->timer);
    tn_htable_remove(&ls->by_key, &l->node);
    tn_dns_kept_unref(l->second_best);
    free(l);
}

/* It is over: what it found is the owner's. */
static void finish(struct tn_dns_lookup *l, int err, struct tn_dns_kept *kept)
{
    if (!kept && l->second_best) {
        kept = l->second_best;
        err = 0;
    }
    l->of->over(l->of->owner, l, err, kept);
    tn_dns_lookup_free(l);
}

/* ---- asking upstreams ---- */

static void on_answer(void *arg, int err, const uint8_t *bytes, size_t len);

/* The upstream to ask next: the first untried one that has not failed lately, else the first untried one; -1: none. */
static int choose(const struct tn_dns_lookup *l, uint64_t now_us)
{
    int fallback = -1;
    for (unsigned i = 0; i < l->way->n; i++) {
        if (l->attempts[i].tried) continue;
        if (l->way->avoid_until_us[i] <= now_us) return (int)i;
        if (fallback < 0) fallback = (int)i;
    }
    return fallback;
}

/* Not for what says nothing of the upstream: too many questions of ours. */
static void avoid(struct tn_dns_lookup *l, unsigned i, int err, uint64_t now_us)
{
    if (err != TN_E_CANCELED && err != TN_E_LIMIT) l->way->avoid_until_us[i] = now_us + AVOID_US;
}

/* 0, or the upstream's refusal at once. */
static int ask_one(struct tn_dns_lookup *l, unsigned i, bool edns, uint64_t now_us)
{
    struct tn_dns_attempt *a = &l->attempts[i];
    struct tn_dns_upstream *u = l->way->upstreams[i];
    uint8_t query[TN_DNS_CANONICAL_MAX];
    size_t len = l->len;
    memcpy(query, l->query, len);
    if (!edns) len = tn_dns_canonical_plain(query, len);
    a->edns = edns;
    l->of->asked++;
    int err = u->ops->ask(u, l->peer, query, len, now_us, on_answer, a, &a->handle);
    if (err) avoid(l, i, err, now_us);
    a->pending = !err;
    return err;
}

/* True when an upstream took the question; false when none is left. */
static bool ask_next(struct tn_dns_lookup *l, uint64_t now_us)
{
    struct tn_dns_lookups *ls = l->of;
    for (int i; (i = choose(l, now_us)) >= 0;) {
        l->attempts[i].tried = true;
        int err = ask_one(l, (unsigned)i, l->way->plain_until_us[i] <= now_us, now_us);
        if (err) {
            l->err = err;
            continue;
        }
        uint64_t hedge_us = now_us + HEDGE_US;
        bool more = choose(l, now_us) >= 0 && hedge_us < l->deadline_us;
        (void)tn_timer_arm(&ls->timers, &l->timer, more ? hedge_us : l->deadline_us); /* armed at birth: only moves */
        return true;
    }
    return false;
}

static bool anything_pending(const struct tn_dns_lookup *l)
{
    for (unsigned i = 0; i < l->way->n; i++)
        if (l->attempts[i].pending) return true;
    return false;
}

/* An attempt ended without a good answer. */
static void go_on(struct tn_dns_lookup *l, int err, uint64_t now_us)
{
    if (err) l->err = err;
    if (!ask_next(l, now_us) && !anything_pending(l)) finish(l, l->err, NULL);
}

/* Did OPT bring this answer, so that the question is asked again without? */
static bool ask_plain(struct tn_dns_lookup *l, unsigned i, const struct tn_dns_answer *a, uint64_t now_us)
{
    struct tn_dns_attempt *at = &l->attempts[i];
    if (at->retried && !a->no_edns) l->way->plain_until_us[i] = now_us + PLAIN_US;
    if (!a->no_edns || !at->edns) return false;
    at->retried = true;
    return ask_one(l, i, false, now_us) == 0;
}

/* Upstreams have seen to that. But what is kept is put together with other clients' spellings of the name, and must be as long. */
static bool answers(const struct tn_dns_lookup *l, const uint8_t *bytes, size_t len)
{
    struct tn_dnsmsg answer, query;
    return tn_dnsmsg_parse(bytes, len, &answer) == 0 && tn_dnsmsg_parse(l->query, l->len, &query) == 0 &&
           tn_dnsmsg_answers(&answer, &query);
}

static void take_answer(struct tn_dns_lookup *l, unsigned i, const uint8_t *bytes, size_t len, uint64_t now_us)
{
    struct tn_dns_lookups *ls = l->of;
    struct tn_dns_answer a;
    int err = TN_E_MALFORMED;
    if (answers(l, bytes, len)) err = tn_dns_answer_make(bytes, len, &l->adjust, ls->scratch, TN_DNS_REPLY_MAX, &a);
    if (!err && ask_plain(l, i, &a, now_us)) return;
    struct tn_dns_kept *k = err ? NULL : tn_dns_kept_new(&a, now_us);
    if (!k) {
        go_on(l, err ? err : TN_E_NOMEM, now_us);
        return;
    }
    l->way->avoid_until_us[i] = 0;
    bool refused = a.rcode == TN_DNSMSG_SERVFAIL || a.rcode == TN_DNSMSG_REFUSED || a.no_edns;
    if (refused && (choose(l, now_us) >= 0 || anything_pending(l))) {
        tn_dns_kept_unref(l->second_best);
        l->second_best = k;
        go_on(l, 0, now_us);
        return;
    }
    finish(l, 0, k);
    tn_dns_kept_unref(k);
}

static void on_answer(void *arg, int err, const uint8_t *bytes, size_t len)
{
    struct tn_dns_attempt *a = arg;
    struct tn_dns_lookup *l = a->lookup;
    struct tn_dns_lookups *ls = l->of;
    unsigned i = (unsigned)(a - l->attempts);
    uint64_t now_us = tn_dns_lookups_now(ls);
    a->pending = false;
    if (err) {
        avoid(l, i, err, now_us);
        go_on(l, err, now_us);
    } else {
        take_answer(l, i, bytes, len, now_us);
    }
    ls->turn(ls->owner);
}

/* ---- beginning ---- */

static bool same_key(const struct tn_hnode *node, const void *key)
{
    const struct tn_dns_key *a = &TN_CONTAINER(node, struct tn_dns_lookup, node)->key, *b = key;
    return a->len == b->len && memcmp(a->bytes, b->bytes, a->len) == 0;
}

static uint64_t hash_of(const struct tn_dns_lookups *ls, const struct tn_dns_key *key)
{
    return tn_siphash(&ls->hash, key->bytes, key->len);
}

struct tn_dns_lookup *tn_dns_lookup_find(struct tn_dns_lookups *ls, const struct tn_dns_key *key)
{
    struct tn_hnode *node = tn_htable_find(&ls->by_key, hash_of(ls, key), same_key, key);
    return node ? TN_CONTAINER(node, struct tn_dns_lookup, node) : NULL;
}

static int new_lookup(struct tn_dns_lookups *ls, uint64_t peer, const struct tn_dns_question *q, const struct tn_dns_key *key,
                      uint64_t now_us, struct tn_dns_lookup **out)
{
    struct tn_dns_lookup *l = calloc(1, sizeof *l);
    if (!l) return TN_E_NOMEM;
    int err = tn_dns_way_hold(&ls->ways, peer, now_us, &l->way);
    if (err) {
        free(l);
        return err;
    }
    l->of = ls;
    *out = l;
    l->peer = peer;
    l->key = *key;
    l->deadline_us = now_us + LOOKUP_US;
    l->err = TN_E_REFUSED;
    l->len = tn_dns_canonical(q, l->query);
    tn_list_init(&l->waiters);
    for (unsigned i = 0; i < TN_DNS_UPSTREAMS_MAX; i++) l->attempts[i].lookup = l;
    if (tn_timer_arm(&ls->timers, &l->timer, l->deadline_us) == 0) {
        if (tn_htable_insert(&ls->by_key, &l->node, hash_of(ls, key)) == 0) return 0;
        tn_timer_stop(&ls->timers, &l->timer);
    }
    tn_dns_way_release(l->way);
    free(l);
    return TN_E_NOMEM;
}

int tn_dns_lookup_start(struct tn_dns_lookups *ls, uint64_t peer, const struct tn_dns_question *q,
                        const struct tn_dns_adjust *adjust, const struct tn_dns_key *key, uint64_t now_us,
                        struct tn_dns_lookup **out)
{
    int err = new_lookup(ls, peer, q, key, now_us, out);
    if (err) return err;
    (*out)->adjust = *adjust;
    if (ask_next(*out, now_us)) return 0;
    err = (*out)->err;
    tn_dns_lookup_free(*out);
    return err;
}

static void outdate(struct tn_hnode *node, void *peer)
{
    struct tn_dns_lookup *l = TN_CONTAINER(node, struct tn_dns_lookup, node);
    uint64_t whose = *(uint64_t *)peer;
    l->outdated |= whose == 0 || whose == l->peer;
}

void tn_dns_lookups_outdate(struct tn_dns_lookups *ls, uint64_t peer) { tn_htable_each(&ls->by_key, outdate, &peer); }

/* ---- time ---- */

void tn_dns_lookups_timeout(struct tn_dns_lookups *ls, uint64_t now_us)
{
    tn_dns_ways_timeout(&ls->ways, now_us);
    for (struct tn_timer *t; (t = tn_heap_pop_due(&ls->timers, now_us));) {
        struct tn_dns_lookup *l = TN_CONTAINER(t, struct tn_dns_lookup, timer);
        if (l->deadline_us > now_us && ask_next(l, now_us)) continue;
        if (l->deadline_us <= now_us) finish(l, TN_E_TIMEDOUT, NULL);
        else if (!anything_pending(l)) finish(l, l->err, NULL);
        else if (tn_timer_arm(&ls->timers, &l->timer, l->deadline_us) != 0) finish(l, TN_E_NOMEM, NULL);
    }
}

uint64_t tn_dns_lookups_next_deadline(const struct tn_dns_lookups *ls)
{
    uint64_t lookups = tn_heap_next(&ls->timers), ways = tn_dns_ways_next_deadline(&ls->ways);
    return lookups < ways ? lookups : ways;
}
