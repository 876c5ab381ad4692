#include "dns/names.h"
#include "util/htable.h"
#include "util/list.h"
#include "util/siphash.h"

#include <stdlib.h>

enum {
    NAMES_MAX = 8192,      /* about 1.5 MiB with long names */
    NAMES_PER_PEER = 2048, /* a browser session's worth; beyond it a peer displaces its own */
    NAME_LEN_MAX = 253,    /* as text; also what SOCKS5's length byte can say */
    LABEL_MAX = 63,
    TTL_MIN_S = 60,        /* browsers keep addresses at least so long, whatever the TTL says */
    TTL_MAX_S = 3600,
};

struct key { /* no padding: hashed as memory */
    uint64_t peer;
    uint8_t family, b[16], zero[7];
};
_Static_assert(sizeof(struct key) == 32, "no padding");

struct share { /* what one peer has */
    struct tn_hnode node;
    uint64_t peer;
    struct tn_list list; /* oldest first */
    size_t count;
};

struct entry {
    struct tn_hnode node;
    struct tn_list all, own; /* oldest first, over all peers and within the share */
    struct share *share;
    struct key key;
    uint64_t expires_us;
    bool ambiguous;
    char name[];
};

struct tn_dns_names {
    struct tn_htable entries, shares;
    struct tn_list all;
    struct tn_hashkey key;
};

struct tn_dns_names *tn_dns_names_new(const struct tn_rng *rng)
{
    struct tn_dns_names *n = calloc(1, sizeof *n);
    if (!n) return NULL;
    tn_htable_init(&n->entries);
    tn_htable_init(&n->shares);
    tn_list_init(&n->all);
    tn_rng_fill(rng, &n->key, sizeof n->key);
    return n;
}

static void drop(struct tn_dns_names *n, struct entry *e)
{
    struct share *s = e->share;
    tn_htable_remove(&n->entries, &e->node);
    tn_list_remove(&e->all);
    tn_list_remove(&e->own);
    free(e);
    if (--s->count > 0) return;
    tn_htable_remove(&n->shares, &s->node);
    free(s);
}

static struct entry *oldest(const struct tn_dns_names *n) { return TN_CONTAINER(n->all.next, struct entry, all); }

void tn_dns_names_free(struct tn_dns_names *n)
{
    if (!n) return;
    while (!tn_list_empty(&n->all)) drop(n, oldest(n));
    tn_htable_fini(&n->entries);
    tn_htable_fini(&n->shares);
    free(n);
}

size_t tn_dns_names_count(const struct tn_dns_names *n) { return n->entries.count; }

static struct key key_of(uint64_t peer, const struct tn_ip *ip)
{
    struct key k = {.peer = peer, .family = ip->family};
    memcpy(k.b, ip->b, sizeof k.b);
    return k;
}

static bool same_key(const struct tn_hnode *node, const void *key)
{
    return memcmp(&TN_CONTAINER(node, struct entry, node)->key, key, sizeof(struct key)) == 0;
}

static struct entry *find(struct tn_dns_names *n, const struct key *k)
{
    struct tn_hnode *node = tn_htable_find(&n->entries, tn_siphash(&n->key, k, sizeof *k), same_key, k);
    return node ? TN_CONTAINER(node, struct entry, node) : NULL;
}

static bool same_peer(const struct tn_hnode *node, const void *key)
{
    return TN_CONTAINER(node, struct share, node)->peer == *(const uint64_t *)key;
}

static struct share *share_of(struct tn_dns_names *n, uint64_t peer, bool make)
{
    uint64_t hash = tn_siphash(&n->key, &peer, sizeof peer);
    struct tn_hnode *node = tn_htable_find(&n->shares, hash, same_peer, &peer);
    if (node) return TN_CONTAINER(node, struct share, node);
    struct share *s = make ? calloc(1, sizeof *s) : NULL;
    if (!s) return NULL;
    s->peer = peer;
    tn_list_init(&s->list);
    if (tn_htable_insert(&n->shares, &s->node, hash) == 0) return s;
    free(s);
    return NULL;
}

static bool is_hostname(const char *name)
{
    size_t total = strlen(name);
    if (total == 0 || total > NAME_LEN_MAX || !strchr(name, '.')) return false;
    while (*name) {
        size_t label = strcspn(name, ".");
        if (label == 0 || label > LABEL_MAX) return false;
        for (size_t i = 0; i < label; i++) {
            char c = name[i];
            if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_')) return false;
        }
        name += label;
        if (*name == '.' && *++name == '\0') return false;
    }
    return true;
}

static void touch(struct tn_dns_names *n, struct entry *e, uint64_t expires_us)
{
    if (expires_us > e->expires_us) e->expires_us = expires_us;
    tn_list_remove(&e->all);
    tn_list_push_back(&n->all, &e->all);
    tn_list_remove(&e->own);
    tn_list_push_back(&e->share->list, &e->own);
}

static struct entry *add(struct tn_dns_names *n, const struct key *k, const char *name)
{
    size_t len = strlen(name) + 1;
    struct share *s = share_of(n, k->peer, true);
    struct entry *e = s ? calloc(1, sizeof *e + len) : NULL;
    if (e) {
        e->key = *k;
        e->share = s;
        memcpy(e->name, name, len);
        tn_list_init(&e->all);
        tn_list_init(&e->own);
        if (tn_htable_insert(&n->entries, &e->node, tn_siphash(&n->key, k, sizeof *k)) == 0) {
            s->count++;
            return e;
        }
        free(e);
    }
    if (s && s->count == 0) {
        tn_htable_remove(&n->shares, &s->node);
        free(s);
    }
    return NULL;
}

void tn_dns_names_learn(struct tn_dns_names *n, uint64_t peer, const struct tn_ip *ip, const char *name, uint32_t ttl_s,
                        uint64_t now_us)
{
    if (!is_hostname(name)) return;
    struct key k = key_of(peer, ip);
    struct entry *e = find(n, &k);
    uint32_t ttl = ttl_s < TTL_MIN_S ? TTL_MIN_S : ttl_s > TTL_MAX_S ? TTL_MAX_S : ttl_s;
    if (e && e->expires_us <= now_us) {
        drop(n, e);
        e = NULL;
    }
    if (e && strcmp(e->name, name) != 0) e->ambiguous = true; /* until both have expired */
    struct share *s = e ? NULL : share_of(n, peer, false);
    if (s && s->count >= NAMES_PER_PEER) drop(n, TN_CONTAINER(s->list.next, struct entry, own));
    if (!e && n->entries.count >= NAMES_MAX) drop(n, oldest(n));
    if (!e) e = add(n, &k, name);
    if (e) touch(n, e, now_us + ttl * 1000000ull);
}

const char *tn_dns_names_find(struct tn_dns_names *n, uint64_t peer, const struct tn_ip *ip, uint64_t now_us)
{
    struct key k = key_of(peer, ip);
    struct entry *e = find(n, &k);
    if (!e) return NULL;
    if (e->expires_us > now_us) return e->ambiguous ? NULL : e->name;
    drop(n, e);
    return NULL;
}

void tn_dns_names_forget_peer(struct tn_dns_names *n, uint64_t peer)
{
    struct share *s = share_of(n, peer, false);
    for (size_t left = s ? s->count : 0; left > 0; left--) drop(n, TN_CONTAINER(s->list.next, struct entry, own));
}
