#include "dns/cache.h"
#include "util/cursor.h"
#include "util/siphash.h"

#include <stdlib.h>

enum { SHARE_PARTS = 2 }; /* a peer that has more than half of all bytes gives way to others first */

struct share {
    struct tn_hnode node;
    uint64_t peer;
    struct tn_list list; /* least recently asked first */
    size_t bytes;
};

struct entry {
    struct tn_hnode node;
    struct tn_list all, own;
    struct share *share;
    struct tn_dns_kept *what;
    size_t bytes, key_len;
    uint8_t key[];
};

struct tn_dns_cache {
    struct tn_htable entries, shares;
    struct tn_list all;
    struct tn_hashkey key;
    size_t bytes, bytes_max;
};

struct tn_dns_kept *tn_dns_kept_new(const struct tn_dns_answer *a, uint64_t now_us)
{
    struct tn_dns_kept *k = malloc(sizeof *k + a->len);
    if (!k) return NULL;
    *k = (struct tn_dns_kept){.refs = 1, .since_us = now_us, .answer = *a};
    memcpy(k->bytes, a->bytes, a->len);
    k->answer.bytes = k->bytes;
    return k;
}

struct tn_dns_kept *tn_dns_kept_ref(struct tn_dns_kept *k)
{
    k->refs++;
    return k;
}

void tn_dns_kept_unref(struct tn_dns_kept *k)
{
    if (k && --k->refs == 0) free(k);
}

void tn_dns_key_make(struct tn_dns_key *k, uint64_t peer, const struct tn_dns_question *q, const struct tn_dns_adjust *adjust)
{
    struct tn_wr w = tn_wr_init(k->bytes, sizeof k->bytes);
    tn_wr_be64(&w, peer);
    tn_wr_be16(&w, q->m.type);
    tn_wr_be16(&w, q->m.class);
    tn_wr_u8(&w, (uint8_t)(tn_dns_question_flags(q) | (adjust->no_udp ? 0x40u : 0) | (adjust->no_ipv6 ? 0x80u : 0)));
    for (size_t i = 0; i < q->m.name_len; i++) {
        uint8_t c = q->m.name[i];
        tn_wr_u8(&w, c >= 'A' && c <= 'Z' ? (uint8_t)(c + 32) : c);
    }
    k->len = tn_wr_len(&w);
}

struct tn_dns_cache *tn_dns_cache_new(const struct tn_rng *rng, size_t bytes_max)
{
    struct tn_dns_cache *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    c->bytes_max = bytes_max;
    tn_htable_init(&c->entries);
    tn_htable_init(&c->shares);
    tn_list_init(&c->all);
    tn_rng_fill(rng, &c->key, sizeof c->key);
    return c;
}

static void drop(struct tn_dns_cache *c, struct entry *e)
{
    struct share *s = e->share;
    tn_htable_remove(&c->entries, &e->node);
    tn_list_remove(&e->all);
    tn_list_remove(&e->own);
    c->bytes -= e->bytes;
    s->bytes -= e->bytes;
    tn_dns_kept_unref(e->what);
    free(e);
    if (s->bytes > 0) return;
    tn_htable_remove(&c->shares, &s->node);
    free(s);
}

void tn_dns_cache_clear(struct tn_dns_cache *c)
{
    while (!tn_list_empty(&c->all)) drop(c, TN_CONTAINER(c->all.next, struct entry, all));
}

void tn_dns_cache_free(struct tn_dns_cache *c)
{
    if (!c) return;
    tn_dns_cache_clear(c);
    tn_htable_fini(&c->entries);
    tn_htable_fini(&c->shares);
    free(c);
}

void tn_dns_cache_size(const struct tn_dns_cache *c, size_t *entries, size_t *bytes)
{
    *entries = c->entries.count;
    *bytes = c->bytes;
}

static bool same_key(const struct tn_hnode *node, const void *key)
{
    const struct entry *e = TN_CONTAINER(node, struct entry, node);
    const struct tn_dns_key *k = key;
    return e->key_len == k->len && memcmp(e->key, k->bytes, k->len) == 0;
}

static struct entry *find(struct tn_dns_cache *c, const struct tn_dns_key *k)
{
    struct tn_hnode *node = tn_htable_find(&c->entries, tn_siphash(&c->key, k->bytes, k->len), same_key, k);
    return node ? TN_CONTAINER(node, struct entry, node) : NULL;
}

struct tn_dns_kept *tn_dns_cache_find(struct tn_dns_cache *c, const struct tn_dns_key *k, uint64_t now_us)
{
    struct entry *e = find(c, k);
    if (!e) return NULL;
    if (now_us >= e->what->since_us + e->what->answer.ttl_s * 1000000ull) {
        drop(c, e);
        return NULL;
    }
    tn_list_remove(&e->all);
    tn_list_push_back(&c->all, &e->all);
    tn_list_remove(&e->own);
    tn_list_push_back(&e->share->list, &e->own);
    return tn_dns_kept_ref(e->what);
}

static bool same_peer(const struct tn_hnode *node, const void *key)
{
    return TN_CONTAINER(node, struct share, node)->peer == *(const uint64_t *)key;
}

static struct share *share_of(struct tn_dns_cache *c, uint64_t peer, bool make)
{
    uint64_t hash = tn_siphash(&c->key, &peer, sizeof peer);
    struct tn_hnode *node = tn_htable_find(&c->shares, hash, same_peer, &peer);
    if (node) return TN_CONTAINER(node, struct share, node);
    struct share *s = make ? calloc(1, sizeof *s) : NULL;
    if (!s) return NULL;
    s->peer = peer;
    tn_list_init(&s->list);
    if (tn_htable_insert(&c->shares, &s->node, hash) == 0) return s;
    free(s);
    return NULL;
}

static void make_room(struct tn_dns_cache *c, uint64_t peer, size_t bytes)
{
    while (c->bytes + bytes > c->bytes_max && !tn_list_empty(&c->all)) {
        struct share *s = share_of(c, peer, false);
        bool own = s && s->bytes + bytes > c->bytes_max / SHARE_PARTS;
        drop(c, own ? TN_CONTAINER(s->list.next, struct entry, own) : TN_CONTAINER(c->all.next, struct entry, all));
    }
}

void tn_dns_cache_put(struct tn_dns_cache *c, const struct tn_dns_key *k, uint64_t peer, struct tn_dns_kept *what)
{
    struct entry *old = find(c, k);
    if (old) drop(c, old);
    size_t bytes = sizeof *old + sizeof *what + what->answer.len + k->len;
    if (what->answer.ttl_s == 0 || what->answer.len > TN_DNS_CACHE_ENTRY_MAX || bytes > c->bytes_max / 4) return;
    make_room(c, peer, bytes);
    struct share *s = share_of(c, peer, true);
    struct entry *e = s ? malloc(sizeof *e + k->len) : NULL;
    if (!e) goto no_memory;
    *e = (struct entry){.share = s, .what = what, .bytes = bytes, .key_len = k->len};
    memcpy(e->key, k->bytes, k->len);
    if (tn_htable_insert(&c->entries, &e->node, tn_siphash(&c->key, k->bytes, k->len)) != 0) goto no_memory;
    tn_list_push_back(&c->all, &e->all);
    tn_list_push_back(&s->list, &e->own);
    s->bytes += bytes;
    c->bytes += bytes;
    tn_dns_kept_ref(what);
    return;
no_memory:
    free(e);
    if (!s || s->bytes > 0) return;
    tn_htable_remove(&c->shares, &s->node);
    free(s);
}

void tn_dns_cache_forget_peer(struct tn_dns_cache *c, uint64_t peer)
{
    struct share *s;
    while ((s = share_of(c, peer, false))) drop(c, TN_CONTAINER(s->list.next, struct entry, own));
}
