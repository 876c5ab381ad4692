/* Disco as magicsock does it (v1.102.5 handleDiscoMessage, handlePingLocked, handlePongConnLocked, discoPing).
 *
 * Only packets whose disco key belongs to a known peer are opened; anything else is dropped without a trace. A
 * ping is answered to the exact place it came from: the UDP source, or through the same DERP region, saying
 * 127.3.3.40:region. A pong is shorter than the ping it answers, so replayed pings from forged sources gain
 * nothing. A call-me-maybe counts only over DERP and only from the node that owns the disco key; its addresses
 * become candidates. */
#include "path/internal.h"
#include "util/err.h"
#include "util/heap.h"

#include <stdlib.h>

enum {
    PING_TIMEOUT_US = 5 * 1000000,
    /* Longest message opened: a padded ping of 1500 bytes, or a call-me-maybe of 100 addresses. */
    OPENED_MAX = 2048,
    CALL_ME_MAYBE_MAX = 32,     /* addresses taken from one call-me-maybe: each makes us send a packet there */
    LEARNED_MAX = 16,           /* candidates a peer may gain by pinging from ever new addresses */
    LEARNED_EXPIRY_US = 45 * 1000000,
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

/* Seals a message to a disco key and sends it to a place; to_derp (with a region) or udp. */
static void send_message(struct tn_path *p, struct tn_path_disco *d, const struct tn_path_source *to,
                         const uint8_t *msg, size_t len, uint64_t now_us)
{
    uint8_t packet[TN_DISCO_HEADER_LEN + TN_BOX_OVERHEAD + TN_DISCO_PING_LEN];
    const struct tn_box_shared *k = shared_key(p, d);
    if (!k || len > TN_DISCO_PING_LEN) return;
    struct tn_wr w = tn_wr_init(packet, sizeof packet);
    tn_disco_header_put(&w, p->disco_public.b);
    uint8_t *box = tn_wr_make(&w, len + TN_BOX_OVERHEAD);
    tn_box_seal(k, &p->config.rng, msg, len, box);
    if (to->addr.ip.family) tn_path_send_udp(p, &to->addr, packet, tn_wr_len(&w));
    else tn_derp_set_send(p->derp, to->derp_region, &to->derp_key, packet, tn_wr_len(&w), now_us);
}

/* ---- answering ---- */

static size_t learned_count(struct tn_path_peer *peer, uint64_t now_us)
{
    size_t n = 0;
    for (size_t i = 0; i < peer->ncandidates; i++) {
        struct tn_path_candidate *c = &peer->candidates[i];
        if (!(c->sources & TN_CANDIDATE_PING)) continue;
        if (now_us - c->pinged_us > LEARNED_EXPIRY_US) c->sources &= (uint8_t)~TN_CANDIDATE_PING;
        else n++;
    }
    tn_path_candidates_drop(peer, 0); /* removes those without any source left */
    return n;
}

/* Remembers where a peer pinged from. True when this very ping came from there before. */
static bool learn_candidate(struct tn_path_peer *peer, const struct tn_addrport *from, const uint8_t *txid,
                            uint64_t now_us)
{
    size_t learned = learned_count(peer, now_us);
    size_t before = peer->ncandidates;
    if (learned >= LEARNED_MAX) {
        bool known = false;
        for (size_t i = 0; i < before; i++) known |= tn_addrport_eq(&peer->candidates[i].addr, from);
        if (!known) return false;
    }
    struct tn_path_candidate *c = tn_path_candidate_obtain(peer, from);
    if (!c) return false;
    if (c->sources & TN_CANDIDATE_PING && memcmp(c->last_txid, txid, sizeof c->last_txid) == 0) return true;
    c->sources |= TN_CANDIDATE_PING;
    c->pinged_us = now_us;
    memcpy(c->last_txid, txid, sizeof c->last_txid);
    return false;
}

static void send_pong(struct tn_path *p, struct tn_path_disco *d, const struct tn_path_source *from,
                      const uint8_t *txid, uint64_t now_us)
{
    uint8_t msg[TN_DISCO_PONG_LEN];
    struct tn_addrport seen = from->addr;
    if (!seen.ip.family) seen = (struct tn_addrport){.ip = derp_magic_ip, .port = (uint16_t)from->derp_region};
    struct tn_wr w = tn_wr_init(msg, sizeof msg);
    tn_disco_pong_put(&w, txid, &seen);
    send_message(p, d, from, msg, tn_wr_len(&w), now_us);
}

static void on_ping(struct tn_path *p, struct tn_path_disco *d, const struct tn_path_source *from,
                    const struct tn_disco_msg *m, uint64_t now_us)
{
    bool duplicate = false;
    if (from->addr.ip.family) {
        TN_LIST_EACH(l, &d->peers) {
            struct tn_path_peer *peer = TN_CONTAINER(l, struct tn_path_peer, disco_link);
            duplicate |= learn_candidate(peer, &from->addr, m->txid, now_us);
        }
    } else if (!tn_path_peer_by_key(p, &from->derp_key)) {
        return; /* a node we don't know, with a known disco key: not ours to answer */
    }
    if (!duplicate) send_pong(p, d, from, m->txid, now_us);
}

static void on_call_me_maybe(struct tn_path *p, struct tn_path_disco *d, const struct tn_path_source *from,
                             const struct tn_disco_msg *m)
{
    struct tn_path_peer *peer = from->addr.ip.family ? NULL : tn_path_peer_by_key(p, &from->derp_key);
    if (!peer || peer->disco != d) return;
    tn_path_candidates_drop(peer, TN_CANDIDATE_CALL_ME_MAYBE);
    for (size_t i = 0; i < m->nendpoints && i < CALL_ME_MAYBE_MAX; i++) {
        struct tn_addrport ap = tn_disco_endpoint(m, i);
        struct tn_path_candidate *c = tn_path_candidate_obtain(peer, &ap);
        if (c) c->sources |= TN_CANDIDATE_CALL_ME_MAYBE;
    }
}

/* ---- our own pings ---- */

static void end_ping(struct tn_path *p, struct tn_path_ping_op *op, const struct tn_path_ping_result *r)
{
    tn_list_remove(&op->link);
    p->npings--;
    if (r) op->done(op->arg, r);
    free(op);
}

static void on_pong(struct tn_path *p, struct tn_path_disco *d, const struct tn_path_source *from,
                    const struct tn_disco_msg *m, uint64_t now_us)
{
    TN_LIST_EACH(l, &p->pings) {
        struct tn_path_ping_op *op = TN_CONTAINER(l, struct tn_path_ping_op, link);
        if (op->peer->disco != d) continue;
        for (size_t i = 0; i < op->nsent; i++) {
            if (memcmp(op->sent[i].txid, m->txid, TN_DISCO_TXID_LEN) != 0) continue;
            bool by_derp = op->sent[i].to.ip.family == 0;
            struct tn_path_ping_result r = {.latency_us = now_us - op->sent_us, .addr = op->sent[i].to,
                                            .derp_region = by_derp ? from->derp_region : 0, .derp_code = ""};
            r.derp_code = tn_path_region_code(p, r.derp_region);
            end_ping(p, op, &r);
            return;
        }
    }
}

static void send_ping(struct tn_path *p, struct tn_path_ping_op *op, const struct tn_path_source *to, uint64_t now_us)
{
    uint8_t msg[TN_DISCO_PING_LEN];
    struct tn_path_ping_sent *sent = &op->sent[op->nsent++];
    tn_rng_fill(&p->config.rng, sent->txid, sizeof sent->txid);
    sent->to = to->addr;
    struct tn_wr w = tn_wr_init(msg, sizeof msg);
    tn_disco_ping_put(&w, sent->txid, p->node_public.b, 0);
    send_message(p, op->peer->disco, to, msg, tn_wr_len(&w), now_us);
}

int tn_path_ping(struct tn_path *p, struct tn_path_peer *peer,
                 void (*done)(void *arg, const struct tn_path_ping_result *r),
                 void *arg, uint64_t now_us)
{
    struct tn_path_choice way = tn_path_choose(p, peer, now_us);
    size_t ncandidates = p->config.cb.udp_send ? peer->ncandidates : 0;
    if (!peer->disco || !shared_key(p, peer->disco)) return TN_E_NOENT;
    if (!way.derp_region && ncandidates == 0) return TN_E_HOSTUNREACH;
    if (p->npings == TN_PATH_PINGS_MAX) return TN_E_LIMIT;
    struct tn_path_ping_op *op = calloc(1, sizeof *op);
    if (!op) return TN_E_NOMEM;
    *op = (struct tn_path_ping_op){.peer = peer, .done = done, .arg = arg, .sent_us = now_us};
    tn_list_push_back(&p->pings, &op->link);
    p->npings++;
    struct tn_path_source to = {.derp_region = way.derp_region, .derp_key = peer->key};
    if (way.derp_region) send_ping(p, op, &to, now_us);
    for (size_t i = 0; i < ncandidates; i++) {
        to = (struct tn_path_source){.addr = peer->candidates[i].addr};
        send_ping(p, op, &to, now_us);
    }
    return 0;
}

void tn_path_pings_cancel(struct tn_path *p, const struct tn_path_peer *peer, int err)
{
    struct tn_path_ping_result r = {.err = err, .derp_code = ""};
    struct tn_list ending; /* apart from the others, since done may start new ones */
    tn_list_init(&ending);
    TN_LIST_EACH(l, &p->pings) {
        if (peer && TN_CONTAINER(l, struct tn_path_ping_op, link)->peer != peer) continue;
        tn_list_remove(l);
        tn_list_push_back(&ending, l);
    }
    while (!tn_list_empty(&ending))
        end_ping(p, TN_CONTAINER(ending.next, struct tn_path_ping_op, link), err ? &r : NULL);
}

void tn_path_pings_timeout(struct tn_path *p, uint64_t now_us)
{
    struct tn_path_ping_result r = {.err = TN_E_TIMEDOUT, .derp_code = ""};
    while (tn_path_pings_deadline(p) <= now_us)
        end_ping(p, TN_CONTAINER(p->pings.next, struct tn_path_ping_op, link), &r);
}

uint64_t tn_path_pings_deadline(const struct tn_path *p)
{
    if (tn_list_empty(&p->pings)) return TN_NEVER; /* in the order they were sent */
    return TN_CONTAINER(p->pings.next, struct tn_path_ping_op, link)->sent_us + PING_TIMEOUT_US;
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
    case TN_DISCO_PONG: on_pong(p, d, from, &m, now_us); break;
    case TN_DISCO_CALL_ME_MAYBE: on_call_me_maybe(p, d, from, &m); break;
    default: break;
    }
}
