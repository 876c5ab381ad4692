/* When paths to a peer are looked for, and how they are kept (magicsock/endpoint.go of v1.102.5: send, heartbeat,
 * sendDiscoPingsLocked, handleCallMeMaybe, noteConnectivityChange; magicsock.go: enqueueCallMeMaybe).
 *
 * A session is active until 45 s after the last datagram to the peer. While it is, every 3 s the path in use is
 * pinged, which keeps it trusted and NAT mappings open, and better ones are looked for: always while none is
 * trusted, each minute while the best is slower than 5 ms. To look is to ping all candidates and to ask the peer, by
 * a call-me-maybe through DERP, to ping ours: both sides' packets open both sides' NATs.
 *
 * Go waits for trust to lapse when a path dies, up to 6.5 s of silence. Here a heartbeat without a pong is repeated
 * after half a second (and two round trips), and after three of them data takes DERP as well, 4.5 s after the path
 * died at the latest. The peer is told then, by two call-me-maybes: one that names no address, on which Go peers drop
 * the path they have at once, and one that names all of ours again. Two lost pongs change nothing.
 *
 * Each ping that a peer can cause is bounded: candidates per source, one ping in 5 s to each, and a bucket for those
 * that a call-me-maybe asks for at once. */
#include "path/internal.h"

enum {
    ACTIVE_US = 45 * 1000000, BEAT_US = 3 * 1000000, ASK_US = 5 * 1000000, UPGRADE_US = 60 * 1000000,
    GOOD_US = 5000,                  /* a path this fast is good enough */
    FRESH_US = 27 * 1000000,         /* under the 30 s after which common NATs forget the mapping STUN has seen */
    RETRY_US = 500 * 1000, TRIES = 3,
    CALL_US = 5 * 1000000,
    TOKENS_MAX = 2 * TN_PATH_CANDIDATES_MAX, TOKENS_PER_S = 32,
};

bool tn_path_session_active(const struct tn_path_peer *peer, uint64_t now_us)
{
    return peer->last_data_us && now_us - peer->last_data_us <= ACTIVE_US;
}

/* ---- asking the peer ---- */

static void send_addresses(struct tn_path *p, struct tn_path_peer *peer, size_t n, uint64_t now_us)
{
    struct tn_addrport mine[TN_PATH_CANDIDATES_CALL_ME_MAYBE]; /* as many as we would take; the farthest come first */
    uint8_t msg[TN_PATH_DISCO_MAX];
    struct tn_path_source to = {.derp_region = tn_derp_set_choose(p->derp, peer->home_derp, peer->route),
                                .derp_key = peer->key};
    if (!to.derp_region || !peer->disco) return;
    for (size_t i = 0; i < n; i++) mine[i] = p->endpoints[i].addr;
    struct tn_wr w = tn_wr_init(msg, sizeof msg);
    tn_disco_call_me_maybe_put(&w, mine, n);
    (void)tn_path_disco_send(p, peer->disco, &to, msg, tn_wr_len(&w), now_us);
}

static void send_call(struct tn_path *p, struct tn_path_peer *peer, uint64_t now_us)
{
    size_t n = p->nendpoints < TN_PATH_CANDIDATES_CALL_ME_MAYBE ? p->nendpoints : TN_PATH_CANDIDATES_CALL_ME_MAYBE;
    peer->last_call_us = now_us;
    if (n) send_addresses(p, peer, n, now_us);
}

void tn_path_session_call(struct tn_path *p, struct tn_path_peer *peer, uint64_t now_us)
{
    if (!p->config.cb.udp_send || !peer->disco || !tn_list_empty(&peer->call_link)) return;
    if (peer->last_call_us && now_us - peer->last_call_us < CALL_US) return;
    if (p->endpoints_us && now_us - p->endpoints_us <= FRESH_US) {
        send_call(p, peer, now_us);
        return;
    }
    tn_list_push_back(&p->calls, &peer->call_link);
    tn_path_check_request(p, false, now_us);
}

/* Who can't be reached directly may reach us at the new ones. */
void tn_path_session_moved(struct tn_path *p, uint64_t now_us)
{
    TN_LIST_EACH(l, &p->peers) {
        struct tn_path_peer *peer = TN_CONTAINER(l, struct tn_path_peer, link);
        bool just = peer->last_call_us == now_us, wants = tn_path_session_active(peer, now_us);
        if (!just && wants && !tn_path_trusted(peer, now_us)) send_call(p, peer, now_us);
    }
}

void tn_path_session_endpoints(struct tn_path *p, bool changed, uint64_t now_us)
{
    p->endpoints_us = now_us;
    for (struct tn_list *l; (l = tn_list_pop_front(&p->calls));)
        send_call(p, TN_CONTAINER(l, struct tn_path_peer, call_link), now_us);
    if (changed) tn_path_session_moved(p, now_us);
}

/* ---- pinging ---- */

static bool ask(struct tn_path *p, struct tn_path_peer *peer, struct tn_path_candidate *c, uint64_t now_us)
{
    struct tn_path_source to = {.addr = c->addr};
    c->asked_us = now_us;
    c->asked_again = false;
    return tn_path_ping_one(p, peer, &to, NULL, now_us);
}

static void ask_all(struct tn_path *p, struct tn_path_peer *peer, uint64_t now_us)
{
    (void)tn_path_candidates_expire(peer, now_us);
    peer->last_full_us = now_us;
    peer->ask_after_us = now_us + ASK_US;
    for (size_t i = 0; i < peer->ncandidates; i++) {
        struct tn_path_candidate *c = &peer->candidates[i];
        uint64_t next_us = c->asked_us + ASK_US;
        if (!tn_path_may_ping(p, &c->addr)) continue;
        if (!c->asked_us || next_us <= now_us) (void)ask(p, peer, c, now_us);
        else if (next_us < peer->ask_after_us) peer->ask_after_us = next_us;
    }
}

void tn_path_session_look(struct tn_path *p, struct tn_path_peer *peer, bool call, uint64_t now_us)
{
    if (!p->config.cb.udp_send || !peer->disco) return;
    if (now_us >= peer->ask_after_us) ask_all(p, peer, now_us);
    if (call) tn_path_session_call(p, peer, now_us);
}

static void distrust(struct tn_path *p, struct tn_path_peer *peer, uint64_t now_us)
{
    bool was = tn_path_trusted(peer, now_us);
    peer->best.trust_until_us = 0;
    if (was && p->config.cb.rerouted) p->config.cb.rerouted(p->config.ctx, peer, now_us);
}

/* As many candidates as the bucket has tokens for are pinged at once, the others in 5 s if they are needed. A path
 * that the peer does not name may be one it had before it moved: it has to prove itself again. */
void tn_path_session_call_me_maybe(struct tn_path *p, struct tn_path_peer *peer, uint64_t now_us)
{
    uint64_t gained = peer->ask_tokens_us ? (now_us - peer->ask_tokens_us) * TOKENS_PER_S / 1000000 : TOKENS_MAX;
    if (gained) peer->ask_tokens_us = now_us;
    peer->ask_tokens = gained + peer->ask_tokens < TOKENS_MAX ? peer->ask_tokens + (unsigned)gained : TOKENS_MAX;
    for (size_t i = 0; i < peer->ncandidates; i++) {
        struct tn_path_candidate *c = &peer->candidates[i];
        if (peer->ask_tokens) {
            peer->ask_tokens--;
            c->asked_us = 0;
        } else if (!c->asked_us) {
            c->asked_us = now_us;
        }
    }
    struct tn_path_candidate *best = tn_path_candidate_find(peer, &peer->best.addr);
    if (best && !(best->sources & TN_CANDIDATE_CALL_ME_MAYBE)) distrust(p, peer, now_us);
    peer->ask_after_us = 0;
    tn_path_session_look(p, peer, false, now_us);
}

/* Its ping says that its NAT lets us in now, while ours of a moment ago may have come too early. Once only: two peers
 * that answer pings with pings would never end. */
void tn_path_session_learned(struct tn_path *p, struct tn_path_peer *peer, struct tn_path_candidate *c,
                             uint64_t now_us)
{
    if (!tn_path_session_active(peer, now_us) || tn_path_trusted(peer, now_us)) return;
    if (!tn_path_may_ping(p, &c->addr)) return;
    bool again = c->asked_us && now_us - c->asked_us < ASK_US;
    if (again && c->asked_again) return;
    uint64_t asked_us = again ? c->asked_us : now_us;
    (void)ask(p, peer, c, now_us);
    c->asked_us = asked_us;
    c->asked_again = again;
}

/* ---- heartbeats ---- */

static bool wants_full(const struct tn_path_peer *peer, uint64_t now_us)
{
    if (!peer->last_full_us || !tn_path_trusted(peer, now_us)) return true;
    return peer->best.latency_us > GOOD_US && now_us - peer->last_full_us >= UPGRADE_US;
}

static uint64_t retry_us(const struct tn_path_peer *peer)
{
    uint64_t us = RETRY_US + 2 * (uint64_t)peer->best.latency_us;
    return us < BEAT_US ? us : BEAT_US;
}

/* The path does not answer. What the peer hears of us, it hears by DERP now, and so it shall answer there too. */
static void lapse(struct tn_path *p, struct tn_path_peer *peer, uint64_t now_us)
{
    send_addresses(p, peer, 0, now_us);
    peer->last_call_us = 0;
    distrust(p, peer, now_us);
}

static void beat(struct tn_path *p, struct tn_path_peer *peer, uint64_t now_us)
{
    uint64_t next_us = BEAT_US;
    if (!tn_path_session_active(peer, now_us)) {
        peer->unanswered = 0;
        return;
    }
    if (peer->unanswered == 0) peer->beat_us = now_us;
    if (peer->best.addr.ip.family) {
        struct tn_path_source to = {.addr = peer->best.addr};
        if (peer->unanswered >= TRIES && tn_path_trusted(peer, now_us)) lapse(p, peer, now_us);
        (void)tn_path_ping_one(p, peer, &to, NULL, now_us);
        if (peer->unanswered < TRIES) next_us = retry_us(peer);
        peer->unanswered++;
    }
    if (wants_full(peer, now_us)) tn_path_session_look(p, peer, true, now_us);
    (void)tn_timer_arm(&p->beats, &peer->beat, now_us + next_us); /* no memory: the next datagram tries again */
}

void tn_path_session_beat_answered(struct tn_path *p, struct tn_path_peer *peer)
{
    if (peer->unanswered && tn_timer_armed(&peer->beat))
        (void)tn_timer_arm(&p->beats, &peer->beat, peer->beat_us + BEAT_US);
    peer->unanswered = 0;
}

void tn_path_session_data(struct tn_path *p, struct tn_path_peer *peer, uint64_t now_us)
{
    peer->last_data_us = now_us;
    if (!p->config.cb.udp_send) return;
    if (!tn_timer_armed(&peer->beat)) (void)tn_timer_arm(&p->beats, &peer->beat, now_us + BEAT_US);
    if (!tn_path_trusted(peer, now_us)) tn_path_session_look(p, peer, true, now_us);
}

void tn_path_session_peer_changed(struct tn_path *p, struct tn_path_peer *peer, uint64_t now_us)
{
    bool wants = tn_path_session_active(peer, now_us) && !tn_path_trusted(peer, now_us);
    if (wants) tn_path_session_look(p, peer, true, now_us);
}

/* ---- what ends it all ---- */

static void start_over(struct tn_path_peer *peer)
{
    tn_path_best_forget(peer);
    for (size_t i = 0; i < peer->ncandidates; i++) peer->candidates[i].asked_us = 0;
    peer->ask_after_us = peer->last_call_us = 0;
}

void tn_path_session_link_changed(struct tn_path *p, uint64_t now_us)
{
    p->endpoints_us = 0;
    TN_LIST_EACH(l, &p->peers) {
        struct tn_path_peer *peer = TN_CONTAINER(l, struct tn_path_peer, link);
        start_over(peer);
        if (!tn_path_session_active(peer, now_us)) continue;
        tn_path_session_look(p, peer, true, now_us);
        if (p->config.cb.rerouted) p->config.cb.rerouted(p->config.ctx, peer, now_us);
    }
}

void tn_path_session_end(struct tn_path *p, struct tn_path_peer *peer)
{
    start_over(peer);
    tn_path_pings_forget(p, peer);
    tn_list_remove(&peer->call_link);
    tn_timer_stop(&p->beats, &peer->beat);
}

void tn_path_session_timeout(struct tn_path *p, uint64_t now_us)
{
    for (struct tn_timer *t; (t = tn_heap_pop_due(&p->beats, now_us));)
        beat(p, TN_CONTAINER(t, struct tn_path_peer, beat), now_us);
}

uint64_t tn_path_session_deadline(const struct tn_path *p) { return tn_heap_next(&p->beats); }
