/* Who asks the upstreams, and through whose proxy session.
 *
 * Where all flows leave alike, all peers' questions share one connection per upstream. Where it matters to the proxies which
 * peer a flow is for (tn_egress_by_peer), a peer's questions go the way of its own flows, over connections of their own:
 * answers depend on where they are asked from, and one connection for all would tie sessions together that are meant to be
 * apart. A way that nobody used for a while is given up; there are at most TN_DNS_WAYS_MAX, and who finds all of them in use is
 * refused: another peer's is never borrowed. */
#ifndef TN_DNS_WAYS_H
#define TN_DNS_WAYS_H

#include "dns/upstream.h"
#include "util/htable.h"
#include "util/list.h"
#include "util/siphash.h"

enum { TN_DNS_WAYS_MAX = 128 /* a TLS connection each: some 50 KB */ };

struct tn_dns_way {
    struct tn_hnode node;
    struct tn_list age; /* of ages, used last at the end; or of leaving, or retired */
    uint64_t peer;      /* 0: everybody's */
    uint64_t used_us;
    unsigned lookups;   /* that hold it */
    struct tn_dns_upstream *upstreams[TN_DNS_UPSTREAMS_MAX];
    uint64_t avoid_until_us[TN_DNS_UPSTREAMS_MAX];
    uint64_t plain_until_us[TN_DNS_UPSTREAMS_MAX]; /* this one does not know EDNS: asked without until then */
    unsigned n;
};

struct tn_dns_ways {
    struct tn_dns_config config; /* upstreams: a copy */
    char *urls;
    struct tn_hashkey key;
    struct tn_htable by_peer;
    struct tn_list ages;
    struct tn_list leaving; /* replaced: freed when no lookup holds them any more */
    struct tn_list retired; /* to be freed at the next timeout: one of their upstreams may be calling just now */
};

/* TN_E_INVAL: the upstreams. */
int tn_dns_ways_init(struct tn_dns_ways *w, const struct tn_dns_config *config);
void tn_dns_ways_fini(struct tn_dns_ways *w);
/* Other upstreams from now on; those who hold a way keep it. TN_E_INVAL, TN_E_NOMEM: nothing has changed. */
int tn_dns_ways_replace(struct tn_dns_ways *w, const char *upstreams);
/* The way of this peer's questions now, held until it is released. TN_E_LIMIT, TN_E_NOMEM. */
int tn_dns_way_hold(struct tn_dns_ways *w, uint64_t peer, uint64_t now_us, struct tn_dns_way **out);
void tn_dns_way_release(struct tn_dns_way *way);
/* Not from inside an upstream's callback; answers must not hold a way while it runs. */
void tn_dns_ways_timeout(struct tn_dns_ways *w, uint64_t now_us);
uint64_t tn_dns_ways_next_deadline(const struct tn_dns_ways *w);
/* Gives up kept connections: the peer's, or all (0). Answers must not hold a way while it runs. */
void tn_dns_ways_reset(struct tn_dns_ways *w, uint64_t peer);
/* Of the way that was used last. */
int tn_dns_ways_health(const struct tn_dns_ways *w, const char **text);

#endif
