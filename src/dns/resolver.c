/* The resolver: what clients ask (queries). What is asked for them upstream is a lookup (lookup.h).
 *
 * A query is answered from the cache, joins a lookup of the same peer's for the same thing, or starts one. Each of a lookup's
 * queries gets its answer in its own form.
 *
 * Callbacks run only at the end of an event or timeout, never inside ask or cancel: answered queries wait in `ready`,
 * which makes the deadline "now". */
#include "dns/lookup.h"
#include "dns/names.h"
#include "dns/queries.h"
#include "util/err.h"

#include <stdlib.h>
#include <string.h>

enum {
    QUERIES_MAX = TN_DNS_INFLIGHT_MAX, /* in all; each is some 400 bytes */
    QUERIES_PER_PEER = 682, /* most of a second's worth of a busy peer when the upstream is a second away */
};

struct client {
    struct tn_hnode node;
    uint64_t peer;
    unsigned queries;
};

struct tn_dns_query {
    struct tn_list link; /* in its lookup's waiters, or in ready */
    struct tn_dns *d;
    struct tn_dns_lookup *lookup;
    struct client *client;
    struct tn_dns_kept *kept; /* the answer, when it has one */
    int err;
    int rcode; /* of an answer that was not looked up; -1 */
    size_t limit;
    void (*answer)(void *arg, int err, const uint8_t *answer, size_t len);
    void *arg;
    struct tn_dns_question q; /* its name: below */
    uint8_t name[];
};

struct tn_dns {
    struct tn_dns_config config;
    struct tn_dns_lookups lookups;
    struct tn_dns_cache *cache;
    struct tn_dns_names *names;
    enum tn_egress_mode mode; /* what was learned was learned under it */
    struct tn_htable clients;
    struct tn_hashkey key;
    struct tn_list ready;
    bool busy;
    struct tn_dns_stats stats;
    uint8_t *scratch; /* TN_DNS_REPLY_MAX bytes; pages that no answer needed are never touched */
};

static void on_lookup_over(void *owner, struct tn_dns_lookup *l, int err, struct tn_dns_kept *kept);
static void turn(void *owner);

/* ---- life ---- */

int tn_dns_new(const struct tn_dns_config *config, struct tn_dns **out)
{
    struct tn_dns *d = calloc(1, sizeof *d);
    if (!d) return TN_E_NOMEM;
    d->config = *config;
    tn_htable_init(&d->clients);
    tn_list_init(&d->ready);
    tn_rng_fill(&config->rng, &d->key, sizeof d->key);
    d->mode = tn_egress_mode(config->egress);
    d->cache = tn_dns_cache_new(&config->rng, TN_DNS_CACHE_BYTES);
    d->names = tn_dns_names_new(&config->rng);
    d->scratch = malloc(TN_DNS_REPLY_MAX);
    int err = tn_dns_lookups_init(&d->lookups, config);
    d->lookups.over = on_lookup_over;
    d->lookups.turn = turn;
    d->lookups.owner = d;
    if (!err && (!d->cache || !d->names || !d->scratch)) err = TN_E_NOMEM;
    d->config.upstreams = NULL; /* not ours */
    if (err) tn_dns_free(d);
    else *out = d;
    return err;
}

static void free_query(struct tn_dns_query *q)
{
    struct tn_dns *d = q->d;
    struct client *c = q->client;
    tn_list_remove(&q->link);
    d->stats.in_flight--;
    if (--c->queries == 0) {
        tn_htable_remove(&d->clients, &c->node);
        free(c);
    }
    tn_dns_kept_unref(q->kept);
    free(q);
}

static struct tn_dns_query *query_at(struct tn_list *l) { return TN_CONTAINER(l, struct tn_dns_query, link); }

static void free_lookup_node(struct tn_hnode *node, void *arg)
{
    struct tn_dns_lookup *l = TN_CONTAINER(node, struct tn_dns_lookup, node);
    while (!tn_list_empty(&l->waiters)) free_query(query_at(l->waiters.next));
    tn_dns_lookup_free(l);
}

void tn_dns_free(struct tn_dns *d)
{
    if (!d) return;
    tn_htable_each(&d->lookups.by_key, free_lookup_node, NULL);
    while (!tn_list_empty(&d->ready)) free_query(query_at(d->ready.next));
    tn_dns_lookups_fini(&d->lookups);
    tn_dns_cache_free(d->cache);
    tn_dns_names_free(d->names);
    tn_htable_fini(&d->clients);
    free(d->scratch);
    free(d);
}

/* ---- answering ---- */

static void deliver(struct tn_dns_query *q)
{
    struct tn_dns *d = q->d;
    size_t n;
    if (q->kept) {
        uint64_t now_us = tn_dns_lookups_now(&d->lookups);
        uint32_t age_s = now_us > q->kept->since_us ? (uint32_t)((now_us - q->kept->since_us) / 1000000) : 0;
        n = tn_dns_reply(&q->kept->answer, &q->q, age_s, q->limit, d->scratch);
        d->stats.nxdomain += q->kept->answer.rcode == TN_DNSMSG_NXDOMAIN;
        d->stats.refused += q->kept->answer.rcode == TN_DNSMSG_REFUSED;
    } else {
        n = tn_dns_reply_empty(&q->q, q->rcode < 0 ? TN_DNSMSG_SERVFAIL : (unsigned)q->rcode, d->scratch);
        d->stats.refused += q->rcode == TN_DNSMSG_REFUSED;
    }
    d->stats.failed += q->err != 0;
    d->stats.timed_out += q->err == TN_E_TIMEDOUT;
    q->answer(q->arg, q->err, d->scratch, n);
    free_query(q);
}

/* What callbacks add waits for the next turn: no endless loop of answers and new questions. */
static void turn(void *owner)
{
    struct tn_dns *d = owner;
    struct tn_list batch;
    if (d->busy) return;
    d->busy = true;
    tn_list_init(&batch);
    for (struct tn_list *l; (l = tn_list_pop_front(&d->ready));) tn_list_push_back(&batch, l);
    while (!tn_list_empty(&batch)) {
        struct tn_dns_query *q = query_at(batch.next);
        tn_list_remove(&q->link);
        deliver(q);
    }
    d->busy = false;
}

struct learning {
    struct tn_dns *d;
    uint64_t peer, now_us;
    const char *name;
};

static void learn_address(void *arg, const uint8_t *addr, int family, uint32_t ttl_s)
{
    const struct learning *l = arg;
    struct tn_ip ip = tn_ip_from_bytes(addr, (uint8_t)family);
    tn_dns_names_learn(l->d->names, l->peer, &ip, l->name, ttl_s, l->now_us);
}

static void learn_names(struct tn_dns *d, uint64_t peer, const struct tn_dns_kept *k, uint64_t now_us)
{
    char text[TN_DNSMSG_TEXT_MAX];
    struct tn_dnsmsg m;
    struct learning l = {.d = d, .peer = peer, .now_us = now_us, .name = text};
    if (!d->names || tn_dnsmsg_parse(k->bytes, k->answer.len, &m) != 0) return;
    tn_dnsmsg_name_text(&m, text);
    tn_dns_answer_addresses(&k->answer, learn_address, &l);
}

/* Its queries are answered in this turn. */
static void on_lookup_over(void *owner, struct tn_dns_lookup *l, int err, struct tn_dns_kept *kept)
{
    struct tn_dns *d = owner;
    for (struct tn_list *w; (w = tn_list_pop_front(&l->waiters));) {
        struct tn_dns_query *q = query_at(w);
        q->lookup = NULL;
        q->err = err;
        q->kept = kept ? tn_dns_kept_ref(kept) : NULL;
        tn_list_push_back(&d->ready, &q->link);
    }
    if (!kept || l->outdated) return;
    tn_dns_cache_put(d->cache, &l->key, l->peer, kept);
    learn_names(d, l->peer, kept, kept->since_us);
}

/* ---- asking ---- */

static bool same_peer(const struct tn_hnode *node, const void *key)
{
    return TN_CONTAINER(node, struct client, node)->peer == *(const uint64_t *)key;
}

static struct client *client_of(struct tn_dns *d, uint64_t peer)
{
    uint64_t hash = tn_siphash(&d->key, &peer, sizeof peer);
    struct tn_hnode *node = tn_htable_find(&d->clients, hash, same_peer, &peer);
    if (node) return TN_CONTAINER(node, struct client, node);
    struct client *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    c->peer = peer;
    if (tn_htable_insert(&d->clients, &c->node, hash) == 0) return c;
    free(c);
    return NULL;
}

static struct tn_dns_query *make_query(struct tn_dns *d, uint64_t peer, const struct tn_dns_question *question)
{
    struct client *c = client_of(d, peer);
    struct tn_dns_query *q = c ? calloc(1, sizeof *q + question->m.name_len) : NULL;
    if (!q) {
        if (c && c->queries == 0) {
            tn_htable_remove(&d->clients, &c->node);
            free(c);
        }
        return NULL;
    }
    q->d = d;
    q->client = c;
    q->q = *question;
    q->q.m.name = q->name;
    memcpy(q->name, question->m.name, question->m.name_len);
    tn_list_init(&q->link);
    c->queries++;
    d->stats.in_flight++;
    return q;
}

/* Other settings make other answers, and those of before are not found: nothing need be forgotten when they change. */
static struct tn_dns_adjust adjust_of(const struct tn_dns *d, uint64_t peer, const struct tn_dns_question *q)
{
    bool udp = true, ipv6 = true;
    if (d->config.reach && !q->dnssec_ok) d->config.reach(d->config.ctx, peer, &udp, &ipv6);
    return (struct tn_dns_adjust){.no_udp = !udp, .no_ipv6 = !ipv6};
}

/* From the cache, together with another query, or upstream. */
static int look_up(struct tn_dns *d, struct tn_dns_query *q, uint64_t peer, uint64_t now_us)
{
    struct tn_dns_key key;
    struct tn_dns_adjust adjust = adjust_of(d, peer, &q->q);
    tn_dns_key_make(&key, peer, &q->q, &adjust);
    q->kept = tn_dns_cache_find(d->cache, &key, now_us);
    if (q->kept) {
        d->stats.cache_hits++;
        tn_list_push_back(&d->ready, &q->link);
        return 0;
    }
    struct tn_dns_lookup *l = tn_dns_lookup_find(&d->lookups, &key);
    if (l) {
        d->stats.joined++;
    } else {
        int err = tn_dns_lookup_start(&d->lookups, peer, &q->q, &adjust, &key, now_us, &l);
        if (err) return err;
    }
    q->lookup = l;
    tn_list_push_back(&l->waiters, &q->link);
    return 0;
}

static void forget_learned(struct tn_dns *d)
{
    tn_dns_lookups_outdate(&d->lookups, 0);
    tn_dns_cache_clear(d->cache);
    tn_dns_names_free(d->names);
    d->names = tn_dns_names_new(&d->config.rng);
}

static int admit(struct tn_dns *d, uint64_t peer)
{
    enum tn_egress_mode mode = tn_egress_mode(d->config.egress);
    if (mode != d->mode) forget_learned(d);
    d->mode = mode;
    if (!d->names) d->names = tn_dns_names_new(&d->config.rng);
    if (!d->names) return TN_E_NOMEM;
    if (mode == TN_EGRESS_OFF) return TN_E_POLICY;
    struct tn_hnode *node = tn_htable_find(&d->clients, tn_siphash(&d->key, &peer, sizeof peer), same_peer, &peer);
    unsigned mine = node ? TN_CONTAINER(node, struct client, node)->queries : 0;
    unsigned vacant = QUERIES_MAX - d->stats.in_flight;
    if (mine < QUERIES_PER_PEER && mine < 2 * vacant) return 0; /* whoever comes next finds room, however many ask much */
    d->stats.over_limit++;
    return TN_E_LIMIT;
}

int tn_dns_ask(struct tn_dns *d, uint64_t peer, const uint8_t *query, size_t len, size_t limit, uint64_t now_us,
               void (*answer)(void *arg, int err, const uint8_t *answer, size_t len), void *arg, struct tn_dns_query **out)
{
    struct tn_dns_question question;
    int err = tn_dns_question_parse(query, len, &question);
    if (err) return err;
    d->stats.queries++;
    err = admit(d, peer);
    struct tn_dns_query *q = err ? NULL : make_query(d, peer, &question);
    if (!q) {
        d->stats.failed++;
        return err ? err : TN_E_NOMEM;
    }
    q->limit = limit;
    q->answer = answer;
    q->arg = arg;
    q->rcode = tn_dns_question_refusal(&question);
    if (q->rcode >= 0) tn_list_push_back(&d->ready, &q->link);
    else err = look_up(d, q, peer, now_us);
    if (err) {
        d->stats.failed++;
        free_query(q);
        return err;
    }
    *out = q;
    return 0;
}

void tn_dns_cancel(struct tn_dns_query *q)
{
    struct tn_dns_lookup *l = q->lookup;
    free_query(q);
    if (l && tn_list_empty(&l->waiters)) tn_dns_lookup_free(l);
}

size_t tn_dns_udp_limit(const uint8_t *query, size_t len)
{
    struct tn_dns_question q;
    if (tn_dns_question_parse(query, len, &q) != 0) return TN_DNS_UDP_MIN;
    return q.udp_size < TN_DNS_UDP_MAX ? q.udp_size : TN_DNS_UDP_MAX;
}

/* ---- time ---- */

void tn_dns_timeout(struct tn_dns *d, uint64_t now_us)
{
    d->busy = true; /* answers wait until all had their turn */
    tn_dns_lookups_timeout(&d->lookups, now_us);
    d->busy = false;
    turn(d);
}

uint64_t tn_dns_next_deadline(const struct tn_dns *d)
{
    return tn_list_empty(&d->ready) ? tn_dns_lookups_next_deadline(&d->lookups) : 0;
}

/* ---- settings and figures ---- */

/* Questions that end by it are answered at the next timeout: an answer that asks again would move the ways that are walked. */
static void reset_ways(struct tn_dns *d, uint64_t peer)
{
    bool was_busy = d->busy;
    d->busy = true;
    tn_dns_ways_reset(&d->lookups.ways, peer);
    d->busy = was_busy;
}

int tn_dns_set_upstreams(struct tn_dns *d, const char *upstreams)
{
    int err = tn_dns_ways_replace(&d->lookups.ways, upstreams);
    if (!err) forget_learned(d);
    return err;
}

void tn_dns_reset(struct tn_dns *d)
{
    forget_learned(d);
    reset_ways(d, 0);
}

void tn_dns_reset_peer(struct tn_dns *d, uint64_t peer)
{
    tn_dns_peer_gone(d, peer);
    reset_ways(d, peer);
}

void tn_dns_peer_gone(struct tn_dns *d, uint64_t peer)
{
    tn_dns_lookups_outdate(&d->lookups, peer);
    tn_dns_cache_forget_peer(d->cache, peer);
    if (d->names) tn_dns_names_forget_peer(d->names, peer);
}

const char *tn_dns_name_of(struct tn_dns *d, uint64_t peer, const struct tn_ip *ip, uint64_t now_us)
{
    return d->names ? tn_dns_names_find(d->names, peer, ip, now_us) : NULL;
}

int tn_dns_health(const struct tn_dns *d, const char **text)
{
    return tn_dns_ways_health(&d->lookups.ways, text);
}

void tn_dns_stats(const struct tn_dns *d, struct tn_dns_stats *out)
{
    *out = d->stats;
    out->upstream_queries = d->lookups.asked;
    tn_dns_cache_size(d->cache, &out->cache_entries, &out->cache_bytes);
    out->names = d->names ? tn_dns_names_count(d->names) : 0;
}
