/* Disco as magicsock does it (v1.102.5 handleDiscoMessage, handlePingLocked): opening, sealing and answering.
 *
 * Only packets whose disco key belongs to a known peer are opened; anything else is dropped without a trace. A
 * ping is answered to the exact place it came from: the UDP source, or through the same DERP region, saying
 * 127.3.3.40:region. A pong is shorter than the ping it answers, so replayed pings from forged sources gain
 * nothing. A call-me-maybe counts only over DERP and only from the node that owns the disco key; its addresses
 * replace those of the one before and are pinged at once.
 *
 * Messages of peer relays (types 4 to 9) are dropped like unknown ones: our capability version promises no relay, and
 * packets in Geneve never get here (path.c). */
#include "path/internal.h"

enum {
    /* Longest message opened: a padded ping of 1500 bytes, or a call-me-maybe of 100 addresses. */
    OPENED_MAX = 2048,
};

static const struct tn_ip derp_magic_ip = {.family = 4, .b = {127, 3, 3, 40}};

static const struct tn_box_shared *shared_key(struct tn_path *p, struct tn_path_disco *d)
{
    if (!d->have_shared) {
        if (tn_box_shared_init(&d->shared, p->config.disco_key.b, d->key.b) != 0) return NULL;
        d->have_shared = true;
    }
    return &d->shared;
}

bool tn_path_disco_usable(struct tn_path *p, struct tn_path_disco *d) { return shared_key(p, d) != NULL; }

bool tn_path_disco_send(struct tn_path *p, struct tn_path_disco *d, const struct tn_path_source *to,
                        const uint8_t *msg, size_t len, uint64_t now_us)
{
    uint8_t packet[TN_DISCO_HEADER_LEN + TN_BOX_OVERHEAD + TN_PATH_DISCO_MAX];
    const struct tn_box_shared *k = shared_key(p, d);
    if (!k || len > TN_PATH_DISCO_MAX) return false;
    struct tn_wr w = tn_wr_init(packet, sizeof packet);
    tn_disco_header_put(&w, p->disco_public.b);
    uint8_t *box = tn_wr_make(&w, len + TN_BOX_OVERHEAD);
    tn_box_seal(k, &p->config.rng, msg, len, box);
    if (to->addr.ip.family) tn_path_send_udp(p, &to->addr, packet, tn_wr_len(&w));
    else tn_derp_set_send(p->derp, to->derp_region, &to->derp_key, packet, tn_wr_len(&w), now_us);
    return true;
}

/* ---- answering ---- */

/* Remembers where a peer pinged from. False when this very ping came from there before: it is not answered twice. */
static bool learn_candidate(struct tn_path *p, struct tn_path_peer *peer, const struct tn_addrport *from,
                            const uint8_t *txid, uint64_t now_us)
{
    size_t learned = tn_path_candidates_expire(peer, now_us);
    struct tn_path_candidate *c = tn_path_candidate_find(peer, from);
    if (!c && learned < TN_PATH_CANDIDATES_LEARNED) c = tn_path_candidate_obtain(peer, from);
    if (!c) return true;
    if (c->sources & TN_CANDIDATE_PING && memcmp(c->last_txid, txid, sizeof c->last_txid) == 0) return false;
    if (learned < TN_PATH_CANDIDATES_LEARNED) c->sources |= TN_CANDIDATE_PING;
    c->pinged_us = now_us;
    memcpy(c->last_txid, txid, sizeof c->last_txid);
    tn_path_session_learned(p, peer, c, now_us);
    return true;
}

static void send_pong(struct tn_path *p, struct tn_path_disco *d, const struct tn_path_source *from,
                      const uint8_t *txid, uint64_t now_us)
{
    uint8_t msg[TN_DISCO_PONG_LEN];
    struct tn_addrport seen = from->addr;
    if (!seen.ip.family) seen = (struct tn_addrport){.ip = derp_magic_ip, .port = (uint16_t)from->derp_region};
    struct tn_wr w = tn_wr_init(msg, sizeof msg);
    tn_disco_pong_put(&w, txid, &seen);
    (void)tn_path_disco_send(p, d, from, msg, tn_wr_len(&w), now_us);
}

static void on_ping(struct tn_path *p, struct tn_path_disco *d, const struct tn_path_source *from,
                    const struct tn_disco_msg *m, uint64_t now_us)
{
    bool fresh = true;
    if (from->addr.ip.family) {
        TN_LIST_EACH(l, &d->peers) {
            struct tn_path_peer *peer = TN_CONTAINER(l, struct tn_path_peer, disco_link);
            fresh &= learn_candidate(p, peer, &from->addr, m->txid, now_us);
        }
    } else if (!tn_path_peer_by_key(p, &from->derp_key)) {
        return; /* a node we don't know, with a known disco key: not ours to answer */
    }
    if (fresh) send_pong(p, d, from, m->txid, now_us);
}

static void on_call_me_maybe(struct tn_path *p, struct tn_path_disco *d, const struct tn_path_source *from,
                             const struct tn_disco_msg *m, uint64_t now_us)
{
    struct tn_path_peer *peer = from->addr.ip.family ? NULL : tn_path_peer_by_key(p, &from->derp_key);
    if (!peer || peer->disco != d) return;
    tn_path_candidates_begin(peer, TN_CANDIDATE_CALL_ME_MAYBE);
    for (size_t i = 0; i < m->nendpoints && i < TN_PATH_CANDIDATES_CALL_ME_MAYBE; i++) {
        struct tn_addrport ap = tn_disco_endpoint(m, i);
        tn_path_candidates_add(peer, &ap, TN_CANDIDATE_CALL_ME_MAYBE);
    }
    tn_path_candidates_end(peer);
    tn_path_session_call_me_maybe(p, peer, now_us);
}

/* ---- receiving ---- */

void tn_path_disco_input(struct tn_path *p, const struct tn_path_source *from, const uint8_t *packet, size_t len,
                         uint64_t now_us)
{
    uint8_t opened[OPENED_MAX];
    struct tn_disco_msg m;
    struct tn_path_disco *d = tn_path_disco_by_key(p, tn_disco_sender(packet));
    if (!d || len < TN_DISCO_HEADER_LEN + TN_BOX_OVERHEAD) return;
    size_t boxed = len - TN_DISCO_HEADER_LEN;
    const struct tn_box_shared *k = shared_key(p, d);
    if (!k || boxed - TN_BOX_OVERHEAD > sizeof opened) return;
    if (tn_box_open(k, packet + TN_DISCO_HEADER_LEN, boxed, opened) != 0) return;
    if (tn_disco_parse(opened, boxed - TN_BOX_OVERHEAD, &m) != 0) return; /* of a newer version, maybe */
    switch (m.type) {
    case TN_DISCO_PING: on_ping(p, d, from, &m, now_us); break;
    case TN_DISCO_PONG: tn_path_pong(p, d, from, &m, now_us); break;
    case TN_DISCO_CALL_ME_MAYBE: on_call_me_maybe(p, d, from, &m, now_us); break;
    default: break;
    }
}
