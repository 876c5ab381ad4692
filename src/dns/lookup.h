/* What is asked upstream for clients' questions (resolver.c), and of whom.
 *
 * A lookup asks the first upstream that worked lately on the peer's way (ways.h); the next one when that fails, says that it
 * failed (SERVFAIL, REFUSED), or has said nothing for a while. The first good answer ends it. One that does not know EDNS is
 * asked once more without, and where that was it, without from the first for a while (RFC 6891 section 6.2.2). */
#ifndef TN_DNS_LOOKUP_H
#define TN_DNS_LOOKUP_H

#include "dns/cache.h"
#include "dns/ways.h"
#include "util/heap.h"

enum { TN_DNS_REPLY_MAX = TN_DNSMSG_MAX + 64 };

struct tn_dns_attempt {
    struct tn_dns_lookup *lookup;
    void *handle;
    bool tried, pending;
    bool edns, retried; /* the question had OPT; it is the second one, without */
};

struct tn_dns_lookup {
    struct tn_hnode node;
    struct tn_dns_lookups *of;
    struct tn_timer timer;
    struct tn_dns_key key;
    uint64_t peer, deadline_us;
    struct tn_list waiters; /* the owner's */
    bool outdated;          /* what it finds is of a way that was given up: told, and not kept */
    struct tn_dns_way *way; /* held */
    struct tn_dns_attempt attempts[TN_DNS_UPSTREAMS_MAX];
    struct tn_dns_kept *second_best; /* an upstream's word that it failed, should nobody know better */
    int err;
    struct tn_dns_adjust adjust;
    size_t len;
    uint8_t query[TN_DNS_CANONICAL_MAX];
};

struct tn_dns_lookups {
    struct tn_dns_ways ways;
    struct tn_htable by_key;
    struct tn_hashkey hash;
    struct tn_heap timers;
    uint64_t asked;              /* questions to upstreams */
    uint8_t *scratch;            /* TN_DNS_REPLY_MAX bytes; pages that no answer needed are never touched */
    /* The owner's. over: the lookup has its answer, or (NULL) its error, and is freed behind it. turn: the end of an event,
     * where callbacks may run that ask again. Neither is called from within start. */
    void (*over)(void *owner, struct tn_dns_lookup *l, int err, struct tn_dns_kept *kept);
    void (*turn)(void *owner);
    void *owner;
};

int tn_dns_lookups_init(struct tn_dns_lookups *ls, const struct tn_dns_config *config); /* fini in any case */
void tn_dns_lookups_fini(struct tn_dns_lookups *ls); /* all have been freed */
uint64_t tn_dns_lookups_now(const struct tn_dns_lookups *ls);
/* The one under way for this key; NULL: none. */
struct tn_dns_lookup *tn_dns_lookup_find(struct tn_dns_lookups *ls, const struct tn_dns_key *key);
/* A new one, by its key. A negative return is a refusal at once, as of tn_dns_ask. */
int tn_dns_lookup_start(struct tn_dns_lookups *ls, uint64_t peer, const struct tn_dns_question *q,
                        const struct tn_dns_adjust *adjust, const struct tn_dns_key *key, uint64_t now_us,
                        struct tn_dns_lookup **out);
void tn_dns_lookup_free(struct tn_dns_lookup *l); /* nobody waits */
/* Those under way, of this peer or of all (0), are outdated. */
void tn_dns_lookups_outdate(struct tn_dns_lookups *ls, uint64_t peer);
/* over and turn may be called from within; whoever asks as an answer to that must wait until it has returned. */
void tn_dns_lookups_timeout(struct tn_dns_lookups *ls, uint64_t now_us);
uint64_t tn_dns_lookups_next_deadline(const struct tn_dns_lookups *ls);

#endif
