/* Keypairs of a peer and how they follow each other (wireguard-go device/noise-protocol.go BeginSymmetricSession).
 *
 * current sends. The initiator may use new keys at once. The responder holds them as next until a packet under
 * them arrives, since the response may be lost; until then it goes on with current. previous still opens what was
 * under way when the keys changed. Of two crossing handshakes each side becomes initiator of one: the responder's
 * keys of the other then are its previous ones and open what the other side sends. */
#include "util/err.h"
#include "util/secret.h"
#include "wg/internal.h"

#include <stdlib.h>
#include <string.h>

static bool index_eq(const struct tn_hnode *node, const void *key)
{
    return TN_CONTAINER(node, struct tn_wg_index, node)->index == *(const uint32_t *)key;
}

/* We draw the indices ourselves, so a stranger can't aim at one slot: no keyed hash needed. */
static uint64_t index_hash(uint32_t index) { return index * UINT64_C(0x9e3779b97f4a7c15) >> 20; }

struct tn_wg_index *tn_wg_index_find(struct tn_wg *wg, uint32_t index)
{
    struct tn_hnode *node = tn_htable_find(&wg->indices, index_hash(index), index_eq, &index);
    return node ? TN_CONTAINER(node, struct tn_wg_index, node) : NULL;
}

uint32_t tn_wg_index_draw(struct tn_wg *wg)
{
    uint32_t index;
    do index = tn_rng_u32(&wg->rng);
    while (tn_wg_index_find(wg, index));
    return index;
}

int tn_wg_index_put(struct tn_wg_peer *peer, struct tn_wg_index *i, uint32_t index, struct tn_wg_keypair *keypair)
{
    i->index = index;
    i->peer = peer;
    i->keypair = keypair;
    i->live = tn_htable_insert(&peer->wg->indices, &i->node, index_hash(index)) == 0;
    return i->live ? 0 : TN_E_NOMEM;
}

void tn_wg_index_drop(struct tn_wg *wg, struct tn_wg_index *i)
{
    if (!i->live) return;
    tn_htable_remove(&wg->indices, &i->node);
    i->live = false;
}

struct tn_wg_keypair *tn_wg_keypair_new(struct tn_wg *wg, const struct tn_wg_keys *keys, uint64_t now_us)
{
    struct tn_wg_keypair *k = calloc(1, sizeof *k);
    if (!k) return NULL;
    k->serial = ++wg->keypairs;
    k->created_us = now_us;
    k->rekey_us = now_us + TN_WG_REKEY_AFTER_US;
    k->send = tn_aead_new_in(wg->aead, keys->send);
    k->recv = tn_aead_new_in(wg->aead, keys->recv);
    if (k->send && k->recv) return k;
    tn_wg_keypair_free(wg, k);
    return NULL;
}

void tn_wg_keypair_free(struct tn_wg *wg, struct tn_wg_keypair *k)
{
    if (!k) return;
    tn_wg_index_drop(wg, &k->index);
    tn_aead_free(k->send);
    tn_aead_free(k->recv);
    free(k);
}

bool tn_wg_may_send(const struct tn_wg_keypair *k, uint64_t now_us)
{
    return k && k->send_counter < TN_WG_REJECT_AFTER_MESSAGES && now_us - k->created_us < TN_WG_REJECT_AFTER_US;
}

/* Our initiation was answered. */
void tn_wg_session_initiated(struct tn_wg_peer *p, struct tn_wg_keypair *k)
{
    struct tn_wg *wg = p->wg;
    k->initiator = true;
    tn_wg_keypair_free(wg, p->previous);
    if (p->next) {
        /* Two handshakes crossed, and both sides are initiators now. If both renewed after the same time they would
         * cross again, for ever, losing what is under way each time: so one of them waits for the other. */
        if (memcmp(&wg->own.pub, &p->key, sizeof p->key) < 0) k->rekey_us += TN_WG_YIELD_US;
        tn_wg_keypair_free(wg, p->current);
        p->previous = p->next;
        p->next = NULL;
    } else {
        p->previous = p->current;
    }
    p->current = k;
}

/* We answered the peer's initiation. */
void tn_wg_session_answered(struct tn_wg_peer *p, struct tn_wg_keypair *k)
{
    tn_wg_keypair_free(p->wg, p->next);
    tn_wg_keypair_free(p->wg, p->previous);
    p->previous = NULL;
    p->next = k;
}

/* An authentic packet came under k. True when that confirms next, which then becomes current. */
bool tn_wg_session_heard(struct tn_wg_peer *p, struct tn_wg_keypair *k)
{
    if (k != p->next) return false;
    tn_wg_keypair_free(p->wg, p->previous);
    p->previous = p->current;
    p->current = k;
    p->next = NULL;
    return true;
}

/* All keys and all handshake state. Staged packets and timers are the caller's. */
void tn_wg_session_wipe(struct tn_wg_peer *p)
{
    tn_wg_keypair_free(p->wg, p->previous);
    tn_wg_keypair_free(p->wg, p->current);
    tn_wg_keypair_free(p->wg, p->next);
    p->previous = p->current = p->next = NULL;
    if (!p->shake) return;
    tn_wg_index_drop(p->wg, &p->shake->index);
    tn_wipe(p->shake, sizeof *p->shake);
    free(p->shake);
    p->shake = NULL;
}
