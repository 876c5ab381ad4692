/* Handshakes of a peer: when to begin one, how to answer, what a completed one changes. The cryptography is in
 * handshake.c, load and cookies in limit.c and cookie.c. */
#include "util/err.h"
#include "util/secret.h"
#include "wg/internal.h"

#include <stdlib.h>
#include <string.h>

/* The state for talking to this peer at all; costs one X25519. */
static int shake_ensure(struct tn_wg_peer *p)
{
    if (p->shake) return 0;
    struct tn_wg_shake *s = calloc(1, sizeof *s);
    if (!s) return TN_E_NOMEM;
    int err = tn_x25519(s->shared, p->wg->own.key.b, p->key.b);
    if (err != 0) {
        free(s);
        return err;
    }
    p->shake = s;
    return 0;
}

static void next_stamp(struct tn_wg_peer *p, uint64_t now_us)
{
    struct tn_wg *wg = p->wg;
    int64_t sec = 0;
    uint32_t nsec = 0;
    wg->cb.wallclock(wg->ctx, &sec, &nsec);
    tn_wg_clock_read(&wg->clock, sec, nsec, now_us);
    tn_wg_tai_stamp(&wg->clock, p->stamp_sent);
}

static int initiate(struct tn_wg_peer *p, uint64_t now_us)
{
    struct tn_wg *wg = p->wg;
    uint8_t msg[TN_WGMSG_INITIATION_LEN];
    int err = shake_ensure(p);
    if (err != 0) return err;
    struct tn_wg_shake *s = p->shake;
    tn_wg_index_drop(wg, &s->index);
    if ((err = tn_wg_index_put(p, &s->index, tn_wg_index_draw(wg), NULL)) != 0) return err;
    next_stamp(p, now_us);
    err = tn_wg_initiate(&s->initiation, &wg->own, &p->key, s->shared, p->stamp_sent, s->index.index, &wg->rng, msg);
    if (err != 0) {
        tn_wg_index_drop(wg, &s->index);
        return err;
    }
    tn_wg_jar_sign(&s->jar, &p->key, msg, sizeof msg, now_us);
    p->gate_us = now_us + TN_WG_REKEY_TIMEOUT_US;
    tn_wg_sent_anything(p);
    tn_wg_initiation_sent(p, now_us);
    tn_wg_emit(p, msg, sizeof msg, now_us);
    return 0;
}

/* Begins a handshake, unless a handshake message was sent less than 5 s ago: then it is made up for when that time
 * is over, if by then it still is needed. Without that, data that meets a lost confirmation of the peer's
 * handshake would wait for more data to come along. */
int tn_wg_shake_start(struct tn_wg_peer *p, bool retry, uint64_t now_us)
{
    if (!retry) p->retries = 0;
    if (now_us < p->gate_us) {
        if (p->deadline_us[TN_WG_T_RETRANSMIT] == TN_NEVER) tn_wg_timer_set(p, TN_WG_T_RETRANSMIT, p->gate_us);
        return 0;
    }
    int err = initiate(p, now_us);
    if (err == TN_E_CRYPTO) tn_wg_drop_staged(p); /* no handshake with this key will ever succeed */
    else if (err != 0) tn_wg_initiation_sent(p, now_us); /* memory may be there next time */
    return err;
}

/* The gate of all handshake messages from anywhere: MAC1, and under load a cookie and a rate. 0 or why not. */
static int admit(struct tn_wg *wg, const uint8_t *msg, size_t len, const struct tn_wg_from *from, uint64_t now_us)
{
    if (!tn_wg_check_mac1(&wg->checker, msg, len)) {
        wg->counters.bad_mac++;
        return TN_E_CRYPTO;
    }
    if (!tn_wg_limit_load(&wg->limit, now_us)) return 0;
    if (!tn_wg_check_mac2(&wg->checker, msg, len, from, now_us)) {
        uint8_t reply[TN_WGMSG_COOKIE_LEN];
        tn_wg_cookie_reply(&wg->checker, &wg->rng, msg, len, from, now_us, reply);
        wg->counters.cookies_sent++;
        wg->cb.reply(wg->ctx, from, reply, sizeof reply, now_us);
        return TN_E_AGAIN;
    }
    bool may = tn_wg_limit_source(&wg->limit, from, now_us);
    if (!tn_timer_armed(&wg->limit_timer)) (void)tn_timer_arm(&wg->timers, &wg->limit_timer, now_us + TN_WG_S);
    if (may) return 0;
    wg->counters.rate_limited++;
    return TN_E_LIMIT;
}

/* The peer that claims to have sent this initiation, or NULL with *err. */
static struct tn_wg_peer *claimed_sender(struct tn_wg *wg, struct tn_wg_reading *r,
                                         const struct tn_wgmsg_initiation *m, uint64_t now_us, int *err)
{
    *err = tn_wg_read_static(r, &wg->own, m);
    if (*err != 0) {
        wg->counters.bad_tag++;
        return NULL;
    }
    struct tn_wg_peer *p = tn_wg_peer_find(wg, &r->from);
    if (!p) p = wg->cb.resolve(wg->ctx, &r->from, now_us);
    if (p) return p;
    wg->counters.unknown_peer++;
    *err = TN_E_NOENT;
    return NULL;
}

/* Replays and floods of proven initiations. */
static int accept_stamp(struct tn_wg_peer *p, const uint8_t stamp[TN_WG_TAI_LEN], uint64_t now_us)
{
    if (memcmp(stamp, p->stamp_received, TN_WG_TAI_LEN) <= 0) {
        p->wg->counters.replayed++;
        return TN_E_EXIST;
    }
    if (now_us < p->next_initiation_us) {
        p->wg->counters.rate_limited++;
        return TN_E_LIMIT;
    }
    memcpy(p->stamp_received, stamp, TN_WG_TAI_LEN);
    p->next_initiation_us = now_us + TN_WG_INITIATION_GAP_US;
    return 0;
}

/* A keypair under this index, or NULL for lack of memory. Wipes the keys. */
static struct tn_wg_keypair *keypair_at(struct tn_wg_peer *p, uint32_t index, uint32_t remote_index,
                                        struct tn_wg_keys *keys, uint64_t now_us)
{
    struct tn_wg_keypair *k = tn_wg_keypair_new(p->wg, keys, now_us);
    tn_wipe(keys, sizeof *keys);
    if (!k) return NULL;
    k->remote_index = remote_index;
    if (tn_wg_index_put(p, &k->index, index, k) == 0) return k;
    tn_wg_keypair_free(p->wg, k);
    return NULL;
}

static int respond(struct tn_wg_peer *p, struct tn_wg_reading *r, uint32_t remote_index, uint64_t now_us)
{
    struct tn_wg_keys keys;
    uint8_t msg[TN_WGMSG_RESPONSE_LEN];
    uint32_t index = tn_wg_index_draw(p->wg);
    int err = tn_wg_respond(r, index, remote_index, &p->wg->rng, msg, &keys);
    if (err != 0) return err;
    struct tn_wg_keypair *k = keypair_at(p, index, remote_index, &keys, now_us);
    if (!k) return TN_E_NOMEM;
    tn_wg_session_answered(p, k);
    p->gate_us = now_us + TN_WG_REKEY_TIMEOUT_US;
    tn_wg_jar_sign(&p->shake->jar, &p->key, msg, sizeof msg, now_us);
    tn_wg_keys_derived(p, now_us);
    tn_wg_sent_anything(p);
    tn_wg_emit(p, msg, sizeof msg, now_us);
    return 0;
}

/* Proves the claim and answers. */
static int answer(struct tn_wg_peer *p, struct tn_wg_reading *r, const struct tn_wgmsg_initiation *m, uint64_t now_us)
{
    int err = shake_ensure(p);
    if (err != 0) return err;
    err = tn_wg_read_timestamp(r, p->shake->shared, m);
    if (err != 0) {
        p->wg->counters.bad_tag++;
        return err;
    }
    err = accept_stamp(p, r->timestamp, now_us);
    if (err != 0) return err;
    p->stats.rx_bytes += TN_WGMSG_INITIATION_LEN;
    tn_wg_received_anything(p);
    return respond(p, r, m->sender, now_us);
}

int tn_wg_on_initiation(struct tn_wg *wg, const uint8_t *msg, const struct tn_wg_from *from, uint64_t now_us)
{
    struct tn_wgmsg_initiation m;
    struct tn_wg_reading r;
    int err = admit(wg, msg, TN_WGMSG_INITIATION_LEN, from, now_us);
    if (err != 0) return err;
    tn_wgmsg_get_initiation(msg, &m);
    struct tn_wg_peer *p = claimed_sender(wg, &r, &m, now_us, &err);
    if (p) {
        bool knew = p->shake != NULL;
        err = answer(p, &r, &m, now_us);
        if (err != 0 && !knew) tn_wg_session_wipe(p); /* forgeries and replays may not cost memory for every peer */
    }
    tn_wipe(&r, sizeof r);
    return err;
}

int tn_wg_on_response(struct tn_wg *wg, const uint8_t *msg, const struct tn_wg_from *from, uint64_t now_us)
{
    struct tn_wgmsg_response m;
    struct tn_wg_keys keys;
    int err = admit(wg, msg, TN_WGMSG_RESPONSE_LEN, from, now_us);
    if (err != 0) return err;
    tn_wgmsg_get_response(msg, &m);
    struct tn_wg_index *i = tn_wg_index_find(wg, m.receiver);
    if (!i || i->keypair) {
        wg->counters.bad_index++;
        return TN_E_NOENT;
    }
    struct tn_wg_peer *p = i->peer;
    err = tn_wg_finish(&p->shake->initiation, &wg->own, &m, &keys);
    if (err != 0) {
        wg->counters.bad_tag++;
        return err;
    }
    tn_wg_index_drop(wg, i); /* the keypair goes on under the same number */
    struct tn_wg_keypair *k = keypair_at(p, m.receiver, m.sender, &keys, now_us);
    if (!k) return TN_E_NOMEM;
    tn_wipe(&p->shake->initiation, sizeof p->shake->initiation);
    tn_wg_session_initiated(p, k);
    p->stats.rx_bytes += TN_WGMSG_RESPONSE_LEN;
    tn_wg_received_anything(p);
    tn_wg_keys_derived(p, now_us);
    tn_wg_handshake_complete(p, now_us);
    /* The responder may not send before it hears us: say something even when there is nothing to say. */
    (void)tn_wg_keepalive(p, now_us);
    return 0;
}

int tn_wg_on_cookie(struct tn_wg *wg, const uint8_t *msg, uint64_t now_us)
{
    struct tn_wgmsg_cookie m;
    tn_wgmsg_get_cookie(msg, &m);
    struct tn_wg_index *i = tn_wg_index_find(wg, m.receiver);
    if (!i || !i->peer->shake) {
        wg->counters.bad_index++;
        return TN_E_NOENT;
    }
    int err = tn_wg_jar_take(&i->peer->shake->jar, &i->peer->key, &m, now_us);
    if (err != 0) wg->counters.bad_tag++;
    return err;
}
