/* Answers kept for their time, per peer: what one peer asked tells nothing to another (not even by how fast an answer
 * comes), and where each peer has a proxy session of its own, answers differ.
 *
 * Bounded in bytes over all peers; the one asked for longest ago goes first, that of a peer that has more than its share
 * before others'. Time is an argument. */
#ifndef TN_DNS_CACHE_H
#define TN_DNS_CACHE_H

#include "dns/answer.h"
#include "util/htable.h"
#include "util/list.h"
#include "util/rng.h"

enum { TN_DNS_CACHE_BYTES = 4 << 20, TN_DNS_CACHE_ENTRY_MAX = 8192 /* longer answers are rare and not kept */ };

/* An answer that several questions share. */
struct tn_dns_kept {
    unsigned refs;
    uint64_t since_us; /* when it came */
    struct tn_dns_answer answer; /* bytes: below */
    uint8_t bytes[];
};
struct tn_dns_kept *tn_dns_kept_new(const struct tn_dns_answer *a, uint64_t now_us); /* one reference; NULL: no memory */
struct tn_dns_kept *tn_dns_kept_ref(struct tn_dns_kept *k);
void tn_dns_kept_unref(struct tn_dns_kept *k);

/* What is asked: name in lower case, type, class, the flags that make answers differ and what is made of them, as bytes. */
enum { TN_DNS_KEY_MAX = 8 + 5 + TN_DNSMSG_NAME_MAX };
struct tn_dns_key {
    size_t len;
    uint8_t bytes[TN_DNS_KEY_MAX];
};
void tn_dns_key_make(struct tn_dns_key *k, uint64_t peer, const struct tn_dns_question *q, const struct tn_dns_adjust *adjust);

struct tn_dns_cache;
struct tn_dns_cache *tn_dns_cache_new(const struct tn_rng *rng, size_t bytes_max);
void tn_dns_cache_free(struct tn_dns_cache *c);
/* A reference to what is kept and still valid, or NULL. */
struct tn_dns_kept *tn_dns_cache_find(struct tn_dns_cache *c, const struct tn_dns_key *k, uint64_t now_us);
/* Keeps it (a reference of its own) if its ttl_s is not 0 and it is small enough. */
void tn_dns_cache_put(struct tn_dns_cache *c, const struct tn_dns_key *k, uint64_t peer, struct tn_dns_kept *what);
void tn_dns_cache_forget_peer(struct tn_dns_cache *c, uint64_t peer);
void tn_dns_cache_clear(struct tn_dns_cache *c);
void tn_dns_cache_size(const struct tn_dns_cache *c, size_t *entries, size_t *bytes);

#endif
