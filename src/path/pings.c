/* Pings of ours and their pongs (magicsock/endpoint.go: startDiscoPingLocked, handlePongConnLocked,
 * discoPingTimeout, discoPing).
 *
 * A pong is matched by its transaction id, wherever it comes from: some NATs answer from another address. What it
 * proves is the place the ping went to, so that is what becomes a path. Whoever forges one would have to know both
 * the id and the disco key. */
#include "path/internal.h"
#include "util/err.h"

#include <stdlib.h>

enum { PING_TIMEOUT_US = 5 * 1000000 };

/* ---- what was sent ---- */

static bool txid_eq(const struct tn_hnode *node, const void *txid)
{
    return memcmp(TN_CONTAINER(node, struct tn_path_sent, node)->txid, txid, TN_DISCO_TXID_LEN) == 0;
}

static uint64_t txid_hash(const struct tn_path *p, const uint8_t *txid)
{
    return tn_siphash(&p->hash_key, txid, TN_DISCO_TXID_LEN);
}

static void drop_sent(struct tn_path *p, struct tn_path_sent *s)
{
    tn_htable_remove(&p->by_txid, &s->node);
    tn_list_remove(&s->all);
    tn_list_remove(&s->of_peer);
    s->peer->nsent--;
    free(s);
}

void tn_path_pings_forget(struct tn_path *p, struct tn_path_peer *peer)
{
    while (!tn_list_empty(&peer->sent)) drop_sent(p, TN_CONTAINER(peer->sent.next, struct tn_path_sent, of_peer));
}

/* Loopback leads to whatever listens on this machine, which no peer may choose, unless we are there ourselves: two
 * nodes on one machine without a network. */
static bool loopback_is_ours(const struct tn_path *p)
{
    bool ours = false;
    for (size_t i = 0; i < p->nendpoints; i++) ours |= tn_ip_is_loopback(&p->endpoints[i].addr.ip);
    return ours;
}

bool tn_path_may_ping(const struct tn_path *p, const struct tn_addrport *to)
{
    if (!p->config.cb.udp_send || (p->local_known && !(to->ip.family == 4 ? p->port4 : p->port6))) return false;
    return !tn_ip_is_loopback(&to->ip) || loopback_is_ours(p);
}

bool tn_path_ping_one(struct tn_path *p, struct tn_path_peer *peer, const struct tn_path_source *to,
                      struct tn_path_ping_op *op, uint64_t now_us)
{
    uint8_t msg[TN_DISCO_PING_LEN];
    if (!peer->disco || peer->nsent == TN_PATH_SENT_PER_PEER || p->by_txid.count == TN_PATH_SENT_MAX) return false;
    struct tn_path_sent *s = malloc(sizeof *s);
    if (!s) return false;
    *s = (struct tn_path_sent){.peer = peer, .op = op, .to = to->addr, .sent_us = now_us};
    tn_rng_fill(&p->config.rng, s->txid, sizeof s->txid);
    if (tn_htable_insert(&p->by_txid, &s->node, txid_hash(p, s->txid)) != 0) {
        free(s);
        return false;
    }
    tn_list_push_back(&p->sent, &s->all);
    tn_list_push_back(&peer->sent, &s->of_peer);
    peer->nsent++;
    struct tn_wr w = tn_wr_init(msg, sizeof msg);
    tn_disco_ping_put(&w, s->txid, p->node_public.b, 0);
    return tn_path_disco_send(p, peer->disco, to, msg, tn_wr_len(&w), now_us);
}

/* ---- what callers wait for ---- */

static void end_op(struct tn_path *p, struct tn_path_ping_op *op, const struct tn_path_ping_result *r)
{
    TN_LIST_EACH(l, &op->peer->sent) { /* later pongs still count for the path */
        struct tn_path_sent *s = TN_CONTAINER(l, struct tn_path_sent, of_peer);
        if (s->op == op) s->op = NULL;
    }
    tn_list_remove(&op->link);
    p->npings--;
    if (r) op->done(op->arg, r);
    free(op);
}

/* A path that is trusted is pinged alone, so that what is told is what data takes. */
static void ping_ways(struct tn_path *p, struct tn_path_peer *peer, struct tn_path_ping_op *op,
                      const struct tn_path_choice *way, uint64_t now_us)
{
    struct tn_path_source to = {.derp_region = way->derp_region, .derp_key = peer->key};
    if (way->derp_region) (void)tn_path_ping_one(p, peer, &to, op, now_us);
    if (tn_path_trusted(peer, now_us)) {
        to = (struct tn_path_source){.addr = peer->best.addr};
        (void)tn_path_ping_one(p, peer, &to, op, now_us);
        return;
    }
    for (size_t i = 0; i < peer->ncandidates; i++) {
        to = (struct tn_path_source){.addr = peer->candidates[i].addr};
        if (tn_path_may_ping(p, &to.addr)) (void)tn_path_ping_one(p, peer, &to, op, now_us);
    }
    tn_path_session_call(p, peer, now_us);
}

static bool any_way(const struct tn_path *p, const struct tn_path_peer *peer, const struct tn_path_choice *way)
{
    bool any = way->derp_region || way->udp.ip.family;
    for (size_t i = 0; i < peer->ncandidates; i++) any |= tn_path_may_ping(p, &peer->candidates[i].addr);
    return any;
}

int tn_path_ping(struct tn_path *p, struct tn_path_peer *peer,
                 void (*done)(void *arg, const struct tn_path_ping_result *r),
                 void *arg, uint64_t now_us)
{
    struct tn_path_choice way = tn_path_choose(p, peer, now_us);
    if (!peer->disco || !tn_path_disco_usable(p, peer->disco)) return TN_E_NOENT;
    if (!any_way(p, peer, &way)) return TN_E_HOSTUNREACH;
    if (p->npings == TN_PATH_PINGS_MAX) return TN_E_LIMIT;
    struct tn_path_ping_op *op = calloc(1, sizeof *op);
    if (!op) return TN_E_NOMEM;
    *op = (struct tn_path_ping_op){.peer = peer, .done = done, .arg = arg, .sent_us = now_us};
    tn_list_push_back(&p->pings, &op->link);
    p->npings++;
    ping_ways(p, peer, op, &way, now_us);
    tn_path_session_data(p, peer, now_us); /* somebody wants this peer: keep the path up as for data */
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
        end_op(p, TN_CONTAINER(ending.next, struct tn_path_ping_op, link), err ? &r : NULL);
}

/* ---- answers ---- */

void tn_path_pong(struct tn_path *p, const struct tn_path_disco *d, const struct tn_path_source *from,
                  const struct tn_disco_msg *m, uint64_t now_us)
{
    struct tn_hnode *node = tn_htable_find(&p->by_txid, txid_hash(p, m->txid), txid_eq, m->txid);
    struct tn_path_sent *s = node ? TN_CONTAINER(node, struct tn_path_sent, node) : NULL;
    bool by_derp = from->addr.ip.family == 0;
    if (!s || s->peer->disco != d || by_derp != (s->to.ip.family == 0)) return;
    struct tn_path_peer *peer = s->peer;
    struct tn_path_ping_op *op = s->op;
    struct tn_path_ping_result r = {.latency_us = now_us - s->sent_us, .addr = s->to,
                                    .derp_region = by_derp ? from->derp_region : 0, .derp_code = ""};
    r.derp_code = tn_path_region_code(p, r.derp_region);
    drop_sent(p, s);
    if (!by_derp && tn_path_candidate_find(peer, &r.addr)) tn_path_best_pong(p, peer, &r.addr, r.latency_us, now_us);
    if (op) end_op(p, op, &r);
}

static void give_up(struct tn_path *p, struct tn_path_sent *s, uint64_t now_us)
{
    struct tn_path_peer *peer = s->peer;
    if (tn_addrport_eq(&s->to, &peer->best.addr) && !tn_path_trusted(peer, now_us)) tn_path_best_forget(peer);
    drop_sent(p, s);
}

static struct tn_path_sent *oldest_sent(const struct tn_path *p)
{
    return tn_list_empty(&p->sent) ? NULL : TN_CONTAINER(p->sent.next, struct tn_path_sent, all);
}

void tn_path_pings_timeout(struct tn_path *p, uint64_t now_us)
{
    struct tn_path_ping_result r = {.err = TN_E_TIMEDOUT, .derp_code = ""};
    for (struct tn_path_sent *s; (s = oldest_sent(p)) && s->sent_us + PING_TIMEOUT_US <= now_us;) {
        if (s->op) end_op(p, s->op, &r);
        give_up(p, s, now_us);
    }
    while (!tn_list_empty(&p->pings)) { /* those of which nothing could be sent */
        struct tn_path_ping_op *op = TN_CONTAINER(p->pings.next, struct tn_path_ping_op, link);
        if (op->sent_us + PING_TIMEOUT_US > now_us) break;
        end_op(p, op, &r);
    }
}

uint64_t tn_path_pings_deadline(const struct tn_path *p)
{
    const struct tn_path_sent *s = oldest_sent(p);
    uint64_t at_us = s ? s->sent_us + PING_TIMEOUT_US : TN_NEVER;
    if (tn_list_empty(&p->pings)) return at_us;
    uint64_t op_us = TN_CONTAINER(p->pings.next, struct tn_path_ping_op, link)->sent_us + PING_TIMEOUT_US;
    return op_us < at_us ? op_us : at_us;
}
