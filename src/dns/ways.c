#include "dns/ways.h"
#include "util/err.h"
#include "util/heap.h"

#include <stdlib.h>
#include <string.h>

enum { UNUSED_US = 120 * 1000000 }; /* its connections have closed by then (doh.c, tcp53.c) */

static struct tn_dns_way *way_at(const struct tn_list *l) { return TN_CONTAINER(l, struct tn_dns_way, age); }

static bool way_of_peer(const struct tn_hnode *node, const void *key)
{
    return TN_CONTAINER(node, struct tn_dns_way, node)->peer == *(const uint64_t *)key;
}

static struct tn_dns_way *find(const struct tn_dns_ways *w, uint64_t peer)
{
    struct tn_hnode *node = tn_htable_find(&w->by_peer, tn_siphash(&w->key, &peer, sizeof peer), way_of_peer, &peer);
    return node ? TN_CONTAINER(node, struct tn_dns_way, node) : NULL;
}

static void free_way(struct tn_dns_way *way)
{
    for (unsigned i = 0; i < way->n; i++) way->upstreams[i]->ops->free(way->upstreams[i]);
    tn_list_remove(&way->age);
    free(way);
}

static void retire(struct tn_dns_ways *w, struct tn_dns_way *way)
{
    tn_htable_remove(&w->by_peer, &way->node);
    tn_list_remove(&way->age);
    tn_list_push_back(&w->retired, &way->age);
}

static int fill(struct tn_dns_ways *w, struct tn_dns_way *way)
{
    struct tn_dns_config config = w->config;
    int err = 0;
    config.peer = way->peer;
    for (const char *at = w->urls; !err && *at;) {
        size_t len = tn_dns_url_next(&at);
        err = tn_dns_upstream_new(&config, at, len, &way->upstreams[way->n]);
        if (!err) way->n++;
        at += len;
    }
    return err;
}

static int make(struct tn_dns_ways *w, uint64_t peer, struct tn_dns_way **out)
{
    struct tn_dns_way *way = calloc(1, sizeof *way);
    if (!way) return TN_E_NOMEM;
    way->peer = peer;
    int err = tn_htable_insert(&w->by_peer, &way->node, tn_siphash(&w->key, &peer, sizeof peer));
    if (err) {
        free(way);
        return err;
    }
    tn_list_push_back(&w->ages, &way->age);
    err = fill(w, way);
    if (err) retire(w, way);
    else *out = way;
    return err;
}

int tn_dns_ways_init(struct tn_dns_ways *w, const struct tn_dns_config *config)
{
    struct tn_dns_way *shared;
    *w = (struct tn_dns_ways){.config = *config};
    tn_htable_init(&w->by_peer);
    tn_list_init(&w->ages);
    tn_list_init(&w->leaving);
    tn_list_init(&w->retired);
    tn_rng_fill(&config->rng, &w->key, sizeof w->key);
    int err = tn_dns_check_upstreams(config->upstreams);
    if (err) return err;
    w->urls = strdup(config->upstreams);
    w->config.upstreams = NULL;
    return w->urls ? make(w, 0, &shared) : TN_E_NOMEM;
}

void tn_dns_ways_fini(struct tn_dns_ways *w)
{
    TN_LIST_EACH(l, &w->ages) free_way(way_at(l));
    TN_LIST_EACH(l, &w->leaving) free_way(way_at(l));
    TN_LIST_EACH(l, &w->retired) free_way(way_at(l));
    tn_htable_fini(&w->by_peer);
    free(w->urls);
    w->urls = NULL;
}

static void leave(struct tn_dns_ways *w, struct tn_dns_way *way)
{
    tn_htable_remove(&w->by_peer, &way->node);
    tn_list_remove(&way->age);
    tn_list_push_back(&w->leaving, &way->age);
}

/* The shared way is always there: the new one is made before the old one goes. */
int tn_dns_ways_replace(struct tn_dns_ways *w, const char *upstreams)
{
    struct tn_list old;
    struct tn_dns_way *shared;
    char *before = w->urls, *urls = strdup(upstreams);
    int err = urls ? tn_dns_check_upstreams(upstreams) : TN_E_NOMEM;
    if (err) {
        free(urls);
        return err;
    }
    tn_list_init(&old);
    for (struct tn_list *l; (l = tn_list_pop_front(&w->ages));) tn_list_push_back(&old, l);
    w->urls = urls;
    err = make(w, 0, &shared);
    if (err) {
        for (struct tn_list *l; (l = tn_list_pop_front(&old));) tn_list_push_back(&w->ages, l);
        w->urls = before;
        free(urls);
        return err;
    }
    TN_LIST_EACH(l, &old) leave(w, way_at(l));
    free(before);
    return 0;
}

/* The one that was not used for longest and is not needed now makes room. */
static bool make_room(struct tn_dns_ways *w)
{
    if (w->by_peer.count < TN_DNS_WAYS_MAX) return true;
    TN_LIST_EACH(l, &w->ages) {
        struct tn_dns_way *way = way_at(l);
        if (way->lookups || way->peer == 0) continue;
        retire(w, way);
        return true;
    }
    return false;
}

int tn_dns_way_hold(struct tn_dns_ways *w, uint64_t peer, uint64_t now_us, struct tn_dns_way **out)
{
    if (!tn_egress_by_peer(w->config.egress)) peer = 0;
    struct tn_dns_way *way = find(w, peer);
    int err = way ? 0 : make_room(w) ? make(w, peer, &way) : TN_E_LIMIT;
    if (err) return err;
    way->lookups++;
    way->used_us = now_us;
    tn_list_remove(&way->age);
    tn_list_push_back(&w->ages, &way->age);
    *out = way;
    return 0;
}

void tn_dns_way_release(struct tn_dns_way *way) { way->lookups--; }

static uint64_t unused_at(const struct tn_dns_way *way)
{
    return way->peer && !way->lookups ? way->used_us + UNUSED_US : TN_NEVER;
}

static void drive(struct tn_list *ways, uint64_t now_us)
{
    TN_LIST_EACH(l, ways) {
        struct tn_dns_way *way = way_at(l);
        for (unsigned i = 0; i < way->n; i++) {
            struct tn_dns_upstream *u = way->upstreams[i];
            if (u->ops->next_deadline(u) <= now_us) u->ops->timeout(u, now_us);
        }
    }
}

void tn_dns_ways_timeout(struct tn_dns_ways *w, uint64_t now_us)
{
    drive(&w->ages, now_us);
    drive(&w->leaving, now_us);
    TN_LIST_EACH(l, &w->ages)
        if (unused_at(way_at(l)) <= now_us) retire(w, way_at(l));
    TN_LIST_EACH(l, &w->leaving)
        if (way_at(l)->lookups == 0) free_way(way_at(l));
    TN_LIST_EACH(l, &w->retired) free_way(way_at(l));
}

static uint64_t next_of(const struct tn_dns_way *way)
{
    uint64_t at = TN_NEVER;
    for (unsigned i = 0; i < way->n; i++) {
        uint64_t due = way->upstreams[i]->ops->next_deadline(way->upstreams[i]);
        if (due < at) at = due;
    }
    return at;
}

uint64_t tn_dns_ways_next_deadline(const struct tn_dns_ways *w)
{
    uint64_t next = tn_list_empty(&w->retired) ? TN_NEVER : 0;
    for (const struct tn_list *l = w->ages.next; l != &w->ages; l = l->next) {
        uint64_t unused = unused_at(way_at(l)), at = next_of(way_at(l));
        if (unused < at) at = unused;
        if (at < next) next = at;
    }
    for (const struct tn_list *l = w->leaving.next; l != &w->leaving; l = l->next) {
        uint64_t at = way_at(l)->lookups ? next_of(way_at(l)) : 0;
        if (at < next) next = at;
    }
    return next;
}

static void reset_all(struct tn_list *ways, uint64_t peer)
{
    TN_LIST_EACH(l, ways) {
        struct tn_dns_way *way = way_at(l);
        if (peer && way->peer != peer) continue;
        memset(way->avoid_until_us, 0, sizeof way->avoid_until_us);
        memset(way->plain_until_us, 0, sizeof way->plain_until_us);
        for (unsigned i = 0; i < way->n; i++) way->upstreams[i]->ops->reset(way->upstreams[i]);
    }
}

/* Those that were replaced too: what is under way on them is asked anew, and nothing goes on by a connection of before. */
void tn_dns_ways_reset(struct tn_dns_ways *w, uint64_t peer)
{
    reset_all(&w->ages, peer);
    reset_all(&w->leaving, peer);
}

int tn_dns_ways_health(const struct tn_dns_ways *w, const char **text)
{
    const struct tn_dns_way *way = way_at(w->ages.prev);
    int first = way->upstreams[0]->ops->health(way->upstreams[0], text);
    for (unsigned i = 1; first && i < way->n; i++)
        if (way->upstreams[i]->ops->health(way->upstreams[i], NULL) == 0) return 0;
    return first;
}
