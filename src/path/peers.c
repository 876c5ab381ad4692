/* The table of peers, by node key and by disco key, and each peer's candidate addresses. */
#include "path/internal.h"
#include "util/err.h"
#include "util/secret.h"

#include <stdlib.h>

enum { LEARNED_EXPIRY_US = 45 * 1000000 };

static bool key_eq(const struct tn_hnode *node, const void *key)
{
    return memcmp(TN_CONTAINER(node, struct tn_path_peer, node)->key.b, key, 32) == 0;
}

static bool disco_eq(const struct tn_hnode *node, const void *key)
{
    return memcmp(TN_CONTAINER(node, struct tn_path_disco, node)->key.b, key, 32) == 0;
}

struct tn_path_peer *tn_path_peer_by_key(struct tn_path *p, const struct tn_node_public *key)
{
    struct tn_hnode *n = tn_htable_find(&p->by_key, tn_siphash(&p->hash_key, key->b, 32), key_eq, key->b);
    return n ? TN_CONTAINER(n, struct tn_path_peer, node) : NULL;
}

struct tn_path_disco *tn_path_disco_by_key(struct tn_path *p, const uint8_t key[32])
{
    struct tn_hnode *n = tn_htable_find(&p->by_disco, tn_siphash(&p->hash_key, key, 32), disco_eq, key);
    return n ? TN_CONTAINER(n, struct tn_path_disco, node) : NULL;
}

static struct tn_path_disco *obtain_disco(struct tn_path *p, const struct tn_disco_public *key)
{
    struct tn_path_disco *d = tn_path_disco_by_key(p, key->b);
    if (d) return d;
    d = calloc(1, sizeof *d);
    if (!d) return NULL;
    d->key = *key;
    tn_list_init(&d->peers);
    if (tn_htable_insert(&p->by_disco, &d->node, tn_siphash(&p->hash_key, key->b, 32)) != 0) {
        free(d);
        return NULL;
    }
    return d;
}

static void leave_disco(struct tn_path *p, struct tn_path_peer *peer)
{
    struct tn_path_disco *d = peer->disco;
    peer->disco = NULL;
    if (!d) return;
    tn_list_remove(&peer->disco_link);
    if (!tn_list_empty(&d->peers)) return;
    tn_htable_remove(&p->by_disco, &d->node);
    tn_wipe(&d->shared, sizeof d->shared);
    free(d);
}

int tn_path_peer_add(struct tn_path *p, const struct tn_node_public *key, void *arg, struct tn_path_peer **out)
{
    if (tn_path_peer_by_key(p, key)) return TN_E_EXIST;
    struct tn_path_peer *peer = calloc(1, sizeof *peer);
    if (!peer) return TN_E_NOMEM;
    peer->key = *key;
    peer->arg = arg;
    tn_list_init(&peer->disco_link);
    tn_list_init(&peer->call_link);
    tn_list_init(&peer->sent);
    int err = tn_htable_insert(&p->by_key, &peer->node, tn_siphash(&p->hash_key, key->b, 32));
    if (err) {
        free(peer);
        return err;
    }
    tn_list_push_back(&p->peers, &peer->link);
    tn_early_known(p->early, key);
    *out = peer;
    return 0;
}

void tn_path_peer_remove(struct tn_path *p, struct tn_path_peer *peer)
{
    tn_path_pings_cancel(p, peer, TN_E_CANCELED);
    tn_path_pings_cancel(p, peer, 0); /* one that was started by the end of another */
    tn_path_session_end(p, peer);
    leave_disco(p, peer);
    tn_htable_remove(&p->by_key, &peer->node);
    tn_list_remove(&peer->link);
    free(peer->candidates);
    free(peer);
}

void tn_path_peers_free(struct tn_path *p)
{
    TN_LIST_EACH(l, &p->peers) {
        struct tn_path_peer *peer = TN_CONTAINER(l, struct tn_path_peer, link);
        tn_path_session_end(p, peer);
        leave_disco(p, peer);
        free(peer->candidates);
        free(peer);
    }
    tn_htable_fini(&p->by_key);
    tn_htable_fini(&p->by_disco);
    tn_htable_fini(&p->by_txid);
    tn_heap_fini(&p->beats);
}

/* Not an address anyone may ask us to send to: no port, nothing a unicast datagram can reach, or of the tailnet
 * itself. */
static bool unusable(const struct tn_addrport *a)
{
    static const struct tn_ip any4 = {.family = 4}, any6 = {.family = 6};
    return a->port == 0 || a->ip.family == 0 || tn_ip_is_multicast(&a->ip) || tn_ip_is_tailnet(&a->ip) ||
           tn_ip_eq(&a->ip, &any4) || tn_ip_eq(&a->ip, &any6) || (a->ip.family == 4 && a->ip.b[0] >= 240) ||
           (a->ip.family == 6 && tn_ip_is_link_local(&a->ip)); /* without a zone it leads nowhere */
}

struct tn_path_candidate *tn_path_candidate_find(const struct tn_path_peer *peer, const struct tn_addrport *addr)
{
    for (size_t i = 0; i < peer->ncandidates; i++)
        if (tn_addrport_eq(&peer->candidates[i].addr, addr)) return &peer->candidates[i];
    return NULL;
}

struct tn_path_candidate *tn_path_candidate_obtain(struct tn_path_peer *peer, const struct tn_addrport *addr)
{
    struct tn_path_candidate *c = tn_path_candidate_find(peer, addr);
    if (c || unusable(addr) || peer->ncandidates == TN_PATH_CANDIDATES_MAX) return c;
    struct tn_path_candidate *list = realloc(peer->candidates, (peer->ncandidates + 1) * sizeof *list);
    if (!list) return NULL;
    peer->candidates = list;
    peer->ask_after_us = 0; /* this one may be asked at once */
    list[peer->ncandidates] = (struct tn_path_candidate){.addr = *addr};
    return &list[peer->ncandidates++];
}

void tn_path_candidates_begin(struct tn_path_peer *peer, uint8_t source)
{
    for (size_t i = 0; i < peer->ncandidates; i++) peer->candidates[i].sources &= (uint8_t)~source;
}

void tn_path_candidates_add(struct tn_path_peer *peer, const struct tn_addrport *addr, uint8_t source)
{
    struct tn_path_candidate *c = tn_path_candidate_obtain(peer, addr);
    if (c) c->sources |= source;
}

void tn_path_candidates_end(struct tn_path_peer *peer)
{
    size_t kept = 0;
    for (size_t i = 0; i < peer->ncandidates; i++) {
        struct tn_path_candidate *c = &peer->candidates[i];
        if (c->sources) peer->candidates[kept++] = *c;
        else if (tn_addrport_eq(&c->addr, &peer->best.addr)) tn_path_best_forget(peer);
    }
    peer->ncandidates = kept;
}

size_t tn_path_candidates_expire(struct tn_path_peer *peer, uint64_t now_us)
{
    size_t n = 0, gone = 0;
    for (size_t i = 0; i < peer->ncandidates; i++) {
        struct tn_path_candidate *c = &peer->candidates[i];
        if (!(c->sources & TN_CANDIDATE_PING)) continue;
        bool used = tn_path_trusted(peer, now_us) && tn_addrport_eq(&c->addr, &peer->best.addr);
        if (now_us - c->pinged_us <= LEARNED_EXPIRY_US || used) { /* a peer with nothing to send need not ping */
            n++;
            continue;
        }
        c->sources &= (uint8_t)~TN_CANDIDATE_PING;
        gone += c->sources == 0;
    }
    if (gone) tn_path_candidates_end(peer);
    return n;
}

int tn_path_peer_update(struct tn_path *p, struct tn_path_peer *peer, const struct tn_disco_public *disco,
                        int home_derp, const struct tn_addrport *endpoints, size_t n, uint64_t now_us)
{
    bool have = disco && !tn_key_is_zero(disco->b);
    if (!have || !peer->disco || !tn_disco_public_eq(&peer->disco->key, disco)) {
        struct tn_path_disco *d = have ? obtain_disco(p, disco) : NULL;
        if (have && !d) return TN_E_NOMEM;
        if (peer->disco) tn_path_pings_cancel(p, peer, TN_E_CANCELED); /* their answers would come from another key */
        tn_path_session_end(p, peer); /* another process, on another port */
        leave_disco(p, peer);
        peer->disco = d;
        if (d) tn_list_push_back(&d->peers, &peer->disco_link);
    }
    peer->home_derp = home_derp >= 0 && home_derp <= TN_DERP_REGION_ID_MAX ? home_derp : 0;
    if (n > TN_PATH_CANDIDATES_NETMAP) n = TN_PATH_CANDIDATES_NETMAP;
    tn_path_candidates_begin(peer, TN_CANDIDATE_NETMAP);
    for (size_t i = 0; i < n; i++) tn_path_candidates_add(peer, &endpoints[i], TN_CANDIDATE_NETMAP);
    tn_path_candidates_end(peer);
    tn_path_session_peer_changed(p, peer, now_us);
    return 0;
}

void *tn_path_peer_arg(const struct tn_path_peer *peer) { return peer->arg; }
