#include "stack/ipreass.h"
#include "util/cursor.h"
#include "util/heap.h"

#include <stdlib.h>

struct piece {
    uint16_t start, end;
};

struct datagram {
    struct tn_list node;
    struct tn_ip src, dst;
    uint32_t id;
    uint8_t proto, ttl, tos;
    uint64_t expires_us;
    struct piece pieces[TN_IPREASS_PIECES]; /* sorted, disjoint */
    unsigned npieces;
    uint32_t total; /* 0: the last fragment has not come */
    uint8_t *mem;   /* the transport packet, cap bytes */
    size_t cap;
};

void tn_ipreass_init(struct tn_ipreass *r)
{
    *r = (struct tn_ipreass){0};
    tn_list_init(&r->entries);
}

static void drop(struct tn_ipreass *r, struct datagram *d)
{
    tn_list_remove(&d->node);
    r->count--;
    r->bytes -= d->cap;
    free(d->mem);
    free(d);
}

void tn_ipreass_fini(struct tn_ipreass *r)
{
    TN_LIST_EACH (n, &r->entries)
        drop(r, TN_CONTAINER(n, struct datagram, node));
}

void tn_ipreass_expire(struct tn_ipreass *r, uint64_t now_us)
{
    TN_LIST_EACH (n, &r->entries) {
        struct datagram *d = TN_CONTAINER(n, struct datagram, node);
        if (d->expires_us > now_us) return;
        drop(r, d);
    }
}

uint64_t tn_ipreass_deadline(const struct tn_ipreass *r)
{
    if (tn_list_empty(&r->entries)) return TN_NEVER;
    return TN_CONTAINER(r->entries.next, struct datagram, node)->expires_us;
}

static bool matches(const struct datagram *d, const struct tn_ippkt *ip)
{
    /* The protocol is part of the key in IPv4 only; in IPv6 a later fragment repeats what the first said. */
    return d->id == ip->frag_id && tn_ip_eq(&d->src, &ip->src) && tn_ip_eq(&d->dst, &ip->dst) &&
           (ip->src.family == 6 || d->proto == ip->proto);
}

static struct datagram *find_or_make(struct tn_ipreass *r, const struct tn_ippkt *ip, uint64_t now_us)
{
    unsigned same_source = 0;
    TN_LIST_EACH (n, &r->entries) {
        struct datagram *d = TN_CONTAINER(n, struct datagram, node);
        if (matches(d, ip)) return d;
        same_source += tn_ip_eq(&d->src, &ip->src);
    }
    if (same_source >= TN_IPREASS_PER_SOURCE || r->count >= TN_IPREASS_DATAGRAMS) return NULL;
    struct datagram *d = calloc(1, sizeof *d);
    if (!d) return NULL;
    d->src = ip->src;
    d->dst = ip->dst;
    d->id = ip->frag_id;
    d->proto = ip->proto;
    d->ttl = ip->ttl;
    d->tos = ip->tos;
    d->expires_us = now_us + TN_IPREASS_TIMEOUT_US;
    tn_list_push_back(&r->entries, &d->node);
    r->count++;
    return d;
}

/* Room for the transport packet's first end bytes. */
static bool reserve(struct tn_ipreass *r, struct datagram *d, size_t end)
{
    if (end <= d->cap) return true;
    size_t cap = d->cap ? d->cap : 2048;
    while (cap < end) cap *= 2;
    if (r->bytes - d->cap + cap > TN_IPREASS_BYTES) return false;
    uint8_t *mem = realloc(d->mem, cap);
    if (!mem) return false;
    r->bytes += cap - d->cap;
    d->mem = mem;
    d->cap = cap;
    return true;
}

enum verdict { PIECE_NEW, PIECE_DUPLICATE, PIECE_BAD };

static enum verdict place_piece(struct datagram *d, uint32_t start, uint32_t end)
{
    unsigned i = 0;
    while (i < d->npieces && d->pieces[i].end <= start) i++;
    if (i < d->npieces && d->pieces[i].start < end)
        return d->pieces[i].start == start && d->pieces[i].end == end ? PIECE_DUPLICATE : PIECE_BAD;
    if (d->npieces == TN_IPREASS_PIECES) return PIECE_BAD;
    memmove(d->pieces + i + 1, d->pieces + i, (d->npieces - i) * sizeof d->pieces[0]);
    d->pieces[i] = (struct piece){(uint16_t)start, (uint16_t)end};
    d->npieces++;
    return PIECE_NEW;
}

static bool complete(const struct datagram *d)
{
    if (!d->total || d->npieces == 0 || d->pieces[0].start != 0) return false;
    for (unsigned i = 1; i < d->npieces; i++)
        if (d->pieces[i].start != d->pieces[i - 1].end) return false;
    return d->pieces[d->npieces - 1].end == d->total;
}

static uint8_t *assemble(const struct datagram *d, size_t *len)
{
    uint8_t *packet = malloc(40 + d->total);
    if (!packet) return NULL;
    size_t hdr = tn_ip_header_put(packet, &d->src, &d->dst, d->proto, d->total, d->ttl, (uint16_t)d->id);
    memcpy(packet + hdr, d->mem, d->total);
    *len = hdr + d->total;
    return packet;
}

static bool acceptable(const struct tn_ippkt *ip, const struct datagram *d, uint32_t end)
{
    size_t max = ip->src.family == 4 ? 65535 - 20 : 65535;
    if (ip->l4_len == 0 || end > max) return false;
    if (ip->more_frags && ip->l4_len % 8 != 0) return false;
    if (d->total && (ip->more_frags ? end > d->total : end != d->total)) return false;
    if (!ip->more_frags && d->npieces && d->pieces[d->npieces - 1].end > end) return false;
    return true;
}

uint8_t *tn_ipreass_add(struct tn_ipreass *r, const struct tn_ippkt *ip, uint64_t now_us, size_t *len)
{
    struct datagram *d = find_or_make(r, ip, now_us);
    if (!d) return NULL;
    uint32_t end = ip->frag_off + (uint32_t)ip->l4_len;
    enum verdict v = PIECE_BAD;
    if (acceptable(ip, d, end) && reserve(r, d, end)) v = place_piece(d, ip->frag_off, end);
    if (v == PIECE_DUPLICATE) return NULL;
    if (v == PIECE_BAD) {
        drop(r, d);
        return NULL;
    }
    memcpy(d->mem + ip->frag_off, ip->l4, ip->l4_len);
    if (ip->frag_off == 0) d->proto = ip->proto;
    if (!ip->more_frags) d->total = end;
    if (!complete(d)) return NULL;
    uint8_t *packet = assemble(d, len);
    drop(r, d);
    return packet;
}
