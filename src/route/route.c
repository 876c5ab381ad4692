/* A path-compressed binary trie per family. A node stands for a prefix; its children extend it by at least one
 * bit. A node either has a value or two children (a mere branching point), so n prefixes need fewer than 2n nodes
 * of 48 bytes. Addresses are held as two words with the first bit on top; IPv4 fills the upper half of the first. */
#include "route/route.h"
#include "util/cursor.h"
#include "util/err.h"

#include <stdlib.h>

struct key {
    uint64_t hi, lo;
};

struct node {
    struct node *child[2];
    void *value; /* NULL: a branching point */
    struct key key;
    uint8_t bits;
};

struct tn_route_table {
    struct node *root[2]; /* IPv4, IPv6 */
    size_t count;
};

static struct key key_of(const struct tn_ip *ip)
{
    if (ip->family == 4) return (struct key){(uint64_t)tn_get_be32(ip->b) << 32, 0};
    return (struct key){tn_get_be64(ip->b), tn_get_be64(ip->b + 8)};
}

static struct key key_masked(struct key k, unsigned bits)
{
    if (bits < 64) return (struct key){bits ? k.hi & ~(UINT64_MAX >> bits) : 0, 0};
    return (struct key){k.hi, bits < 128 ? k.lo & ~(UINT64_MAX >> (bits - 64)) : k.lo};
}

static inline unsigned bit_at(struct key k, unsigned i)
{
    return (unsigned)((i < 64 ? k.hi >> (63 - i) : k.lo >> (127 - i)) & 1);
}

/* How many leading bits two keys share. */
static inline unsigned common(struct key a, struct key b)
{
    if (a.hi != b.hi) return (unsigned)__builtin_clzll(a.hi ^ b.hi);
    if (a.lo != b.lo) return 64 + (unsigned)__builtin_clzll(a.lo ^ b.lo);
    return 128;
}

static inline bool covers(const struct node *n, struct key k) { return common(n->key, k) >= n->bits; }

struct tn_route_table *tn_route_new(void) { return calloc(1, sizeof(struct tn_route_table)); }

/* Depth is at most 129, so recursion is safe. */
static void free_below(struct node *n)
{
    if (!n) return;
    free_below(n->child[0]);
    free_below(n->child[1]);
    free(n);
}

void tn_route_free(struct tn_route_table *t)
{
    if (!t) return;
    free_below(t->root[0]);
    free_below(t->root[1]);
    free(t);
}

static bool valid(const struct tn_prefix *p)
{
    return (p->ip.family == 4 || p->ip.family == 6) && p->bits <= tn_ip_bits(&p->ip);
}

static struct node **root_of(struct tn_route_table *t, uint8_t family) { return &t->root[family == 6]; }

static struct node *node_new(struct key k, unsigned bits, void *value)
{
    struct node *n = calloc(1, sizeof *n);
    if (!n) return NULL;
    n->key = key_masked(k, bits);
    n->bits = (uint8_t)bits;
    n->value = value;
    return n;
}

/* Puts leaf in place of old, which shares only the first c bits with it; c may be all of leaf's. */
static int split(struct node **at, struct node *old, struct node *leaf, unsigned c)
{
    if (c == leaf->bits) {
        leaf->child[bit_at(old->key, c)] = old;
        *at = leaf;
        return 0;
    }
    struct node *branch = node_new(old->key, c, NULL);
    if (!branch) return TN_E_NOMEM;
    branch->child[bit_at(old->key, c)] = old;
    branch->child[bit_at(leaf->key, c)] = leaf;
    *at = branch;
    return 0;
}

int tn_route_set(struct tn_route_table *t, const struct tn_prefix *p, void *value)
{
    if (!valid(p) || !value) return TN_E_INVAL;
    struct key k = key_masked(key_of(&p->ip), p->bits);
    struct node **at = root_of(t, p->ip.family);
    while (*at && covers(*at, k) && (*at)->bits < p->bits) at = &(*at)->child[bit_at(k, (*at)->bits)];
    struct node *old = *at;
    if (old && old->bits == p->bits && covers(old, k)) {
        if (!old->value) t->count++;
        old->value = value;
        return 0;
    }
    struct node *leaf = node_new(k, p->bits, value);
    if (!leaf) return TN_E_NOMEM;
    if (!old) {
        *at = leaf;
    } else {
        unsigned c = common(old->key, k);
        if (split(at, old, leaf, c < p->bits ? c : p->bits) != 0) {
            free(leaf);
            return TN_E_NOMEM;
        }
    }
    t->count++;
    return 0;
}

/* A node without a value and without two children is of no use: its only child, if any, takes its place. */
static void tidy(struct node **at)
{
    struct node *n = *at;
    if (n->value || (n->child[0] && n->child[1])) return;
    *at = n->child[0] ? n->child[0] : n->child[1];
    free(n);
}

int tn_route_unset(struct tn_route_table *t, const struct tn_prefix *p)
{
    if (!valid(p)) return TN_E_NOENT;
    struct key k = key_masked(key_of(&p->ip), p->bits);
    struct node **at = root_of(t, p->ip.family), **parent = NULL;
    while (*at && covers(*at, k) && (*at)->bits < p->bits) {
        parent = at;
        at = &(*at)->child[bit_at(k, (*at)->bits)];
    }
    struct node *n = *at;
    if (!n || n->bits != p->bits || !covers(n, k) || !n->value) return TN_E_NOENT;
    n->value = NULL;
    t->count--;
    tidy(at);
    if (parent) tidy(parent);
    return 0;
}

void *tn_route_exact(const struct tn_route_table *t, const struct tn_prefix *p)
{
    if (!valid(p)) return NULL;
    struct key k = key_masked(key_of(&p->ip), p->bits);
    const struct node *n = t->root[p->ip.family == 6];
    while (n && covers(n, k) && n->bits < p->bits) n = n->child[bit_at(k, n->bits)];
    return n && n->bits == p->bits && covers(n, k) ? n->value : NULL;
}

static void prefix_of(const struct node *n, uint8_t family, struct tn_prefix *out)
{
    *out = (struct tn_prefix){.ip.family = family, .bits = n->bits};
    if (family == 4) {
        tn_put_be32(out->ip.b, (uint32_t)(n->key.hi >> 32));
    } else {
        tn_put_be64(out->ip.b, n->key.hi);
        tn_put_be64(out->ip.b + 8, n->key.lo);
    }
}

void *tn_route_find(const struct tn_route_table *t, const struct tn_ip *ip, struct tn_prefix *matched)
{
    if (ip->family != 4 && ip->family != 6) return NULL;
    struct key k = key_of(ip);
    unsigned max = ip->family == 4 ? 32 : 128;
    const struct node *best = NULL, *n = t->root[ip->family == 6];
    while (n && covers(n, k)) {
        if (n->value) best = n;
        if (n->bits == max) break;
        n = n->child[bit_at(k, n->bits)];
    }
    if (!best) return NULL;
    if (matched) prefix_of(best, ip->family, matched);
    return best->value;
}

size_t tn_route_count(const struct tn_route_table *t) { return t->count; }
