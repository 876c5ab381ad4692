/* Two engines on a virtual clock, joined by a link that may lose, delay, repeat and reorder. */
#ifndef TEST_WG_PAIR_H
#define TEST_WG_PAIR_H

#include "util/cursor.h"
#include "util/err.h"
#include "wg/internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define MS UINT64_C(1000)
#define S UINT64_C(1000000)
enum { FLIGHT_MAX = 4096, INBOX_MAX = 4096 };

struct net;

struct side {
    struct net *net;
    int id;
    struct tn_wg *wg;
    struct tn_wg_peer *peer; /* the other side, seen from here */
    struct tn_node_private key;
    struct tn_node_public pub;
    struct tn_ip ip;
    int64_t wall_offset_s;
    struct tn_wg_peer *(*resolve)(struct side *s, const struct tn_node_public *key);
    void (*session)(struct side *s, uint64_t now_us);
    unsigned sent[5];        /* datagrams by type */
    unsigned replies;        /* of them, through the reply callback */
    uint64_t last_sent_us[5];
    uint8_t last[5][TN_WG_DATAGRAM_MAX]; /* the latest datagram sent, by type */
    size_t last_len[5];
    struct {
        uint8_t bytes[TN_WG_MTU];
        size_t len;
    } inbox[INBOX_MAX];
    unsigned received;
};

struct flight {
    uint64_t at_us, seq;
    int to;
    size_t len;
    uint8_t bytes[TN_WG_DATAGRAM_MAX];
};

struct net {
    uint64_t now_us, seq, seed;
    struct tn_rng rng;
    struct side side[2];
    uint64_t delay_us, jitter_us;
    unsigned loss_percent, repeat_percent;
    bool cut[2];              /* nothing from this side gets through */
    unsigned drop_type[2][5]; /* how many of this side's next datagrams of a type to lose */
    struct flight *flights[FLIGHT_MAX];
    unsigned nflights;
    bool (*tamper)(struct net *n, struct flight *f); /* false: lost */
};

static inline void launch(struct net *n, int from, const uint8_t *bytes, size_t len)
{
    struct flight *f = malloc(sizeof *f);
    assert_non_null(f);
    assert_true(n->nflights < FLIGHT_MAX);
    *f = (struct flight){.seq = n->seq++, .to = !from, .len = len};
    f->at_us = n->now_us + n->delay_us + (n->jitter_us ? tn_rng_below(&n->rng, n->jitter_us) : 0);
    memcpy(f->bytes, bytes, len);
    if (n->tamper && !n->tamper(n, f)) free(f);
    else n->flights[n->nflights++] = f;
}

static inline void transmit_from(struct side *s, const uint8_t *datagram, size_t len)
{
    struct net *n = s->net;
    int type = tn_wgmsg_type(datagram, len);
    assert_in_range(type, 1, 4);
    assert_true(len <= TN_WG_DATAGRAM_MAX);
    s->sent[type]++;
    s->last_sent_us[type] = n->now_us;
    memcpy(s->last[type], datagram, len);
    s->last_len[type] = len;
    if (n->cut[s->id]) return;
    if (n->drop_type[s->id][type] > 0) {
        n->drop_type[s->id][type]--;
        return;
    }
    if (tn_rng_below(&n->rng, 100) < n->loss_percent) return;
    launch(n, s->id, datagram, len);
    if (tn_rng_below(&n->rng, 100) < n->repeat_percent) launch(n, s->id, datagram, len);
}

static inline void on_send(void *ctx, struct tn_wg_peer *peer, void *arg, const uint8_t *d, size_t len,
                           uint64_t now_us)
{
    struct side *s = ctx;
    assert_int_equal(now_us, s->net->now_us);
    assert_ptr_equal(arg, s);
    transmit_from(s, d, len);
}

static inline void on_reply(void *ctx, const struct tn_wg_from *from, const uint8_t *d, size_t len, uint64_t now_us)
{
    struct side *s = ctx;
    s->replies++;
    transmit_from(s, d, len);
}

static inline void on_deliver(void *ctx, struct tn_wg_peer *peer, void *arg, uint8_t *packet, size_t len,
                              uint64_t now_us)
{
    struct side *s = ctx;
    assert_true(len <= TN_WG_MTU && s->received < INBOX_MAX);
    assert_ptr_equal(tn_wg_peer_arg(peer), arg);
    memcpy(s->inbox[s->received].bytes, packet, len);
    s->inbox[s->received++].len = len;
}

static inline struct tn_wg_peer *on_resolve(void *ctx, const struct tn_node_public *key, uint64_t now_us)
{
    struct side *s = ctx;
    return s->resolve ? s->resolve(s, key) : NULL;
}

static inline void on_session(void *ctx, struct tn_wg_peer *peer, void *arg, uint64_t now_us)
{
    struct side *s = ctx;
    if (s->session) s->session(s, now_us);
}

static inline void on_wallclock(void *ctx, int64_t *sec, uint32_t *nsec)
{
    struct side *s = ctx;
    *sec = 1700000000 + s->wall_offset_s + (int64_t)(s->net->now_us / S);
    *nsec = (uint32_t)(s->net->now_us % S * 1000);
}

static inline void engine_new(struct side *s)
{
    struct tn_wg_config config = {
        .key = s->key, .rng = s->net->rng, .ctx = s,
        .cb = {on_send, on_reply, on_deliver, on_session, on_resolve, on_wallclock},
    };
    s->wg = tn_wg_new(&config);
    assert_non_null(s->wg);
}

static inline void add_other(struct side *s)
{
    struct side *other = &s->net->side[!s->id];
    struct tn_prefix p = {.ip = other->ip, .bits = 32};
    assert_int_equal(tn_wg_peer_add(s->wg, &other->pub, s, &s->peer), 0);
    assert_int_equal(tn_wg_peer_set_allowed(s->wg, s->peer, &p, 1), 0);
}

/* 50 ms each way, started at 1000 s so that "0" and "never" can't be confused. */
static inline struct net *net_new(uint64_t seed)
{
    struct net *n = calloc(1, sizeof *n);
    assert_non_null(n);
    n->seed = seed;
    n->rng = tn_rng_seeded(&n->seed);
    n->now_us = 1000 * S;
    n->delay_us = 50 * MS;
    for (int i = 0; i < 2; i++) {
        struct side *s = &n->side[i];
        s->net = n;
        s->id = i;
        s->ip = tn_ip4(100, 64, 0, (uint8_t)(i + 1));
        tn_node_private_generate(&s->key, &n->rng);
        tn_node_public_of(&s->key, &s->pub);
        engine_new(s);
    }
    for (int i = 0; i < 2; i++) add_other(&n->side[i]);
    return n;
}

static inline void net_free(struct net *n)
{
    for (unsigned i = 0; i < n->nflights; i++) free(n->flights[i]);
    for (int i = 0; i < 2; i++) tn_wg_free(n->side[i].wg);
    free(n);
}

static inline int input_to(struct side *s, const uint8_t *bytes, size_t len)
{
    static const struct tn_wg_from from = {.bytes = {192, 0, 2, 1, 9, 9}, .len = 6};
    uint8_t *copy = malloc(len ? len : 1); /* exact, so that reading past its end is seen */
    memcpy(copy, bytes, len);
    int err = tn_wg_input(s->wg, copy, len, &from, s->net->now_us);
    free(copy);
    return err;
}

static inline unsigned earliest(const struct net *n)
{
    unsigned best = 0;
    for (unsigned i = 1; i < n->nflights; i++)
        if (n->flights[i]->at_us < n->flights[best]->at_us ||
            (n->flights[i]->at_us == n->flights[best]->at_us && n->flights[i]->seq < n->flights[best]->seq))
            best = i;
    return best;
}

/* Runs everything that happens up to and including until_us. */
static inline void run_until(struct net *n, uint64_t until_us)
{
    for (int guard = 0; guard < 2000000; guard++) {
        uint64_t next = n->nflights ? n->flights[earliest(n)]->at_us : TN_NEVER;
        int who = -1;
        for (int i = 0; i < 2; i++) {
            uint64_t d = tn_wg_next_deadline(n->side[i].wg);
            if (d < next) {
                next = d;
                who = i;
            }
        }
        if (next > until_us) {
            n->now_us = until_us;
            return;
        }
        if (next > n->now_us) n->now_us = next;
        if (who >= 0) {
            tn_wg_timeout(n->side[who].wg, n->now_us);
            assert_true(tn_wg_next_deadline(n->side[who].wg) > n->now_us); /* time moves on */
            continue;
        }
        unsigned at = earliest(n);
        struct flight *f = n->flights[at];
        n->flights[at] = n->flights[--n->nflights];
        (void)input_to(&n->side[f->to], f->bytes, f->len);
        free(f);
    }
    fail_msg("no end of events");
}
static inline void run_for(struct net *n, uint64_t us) { run_until(n, n->now_us + us); }

/* An IPv4 packet of len bytes (>= 28) from a to b with a number in it. */
static inline void make_packet(uint8_t *out, size_t len, const struct tn_ip *src, const struct tn_ip *dst,
                               uint32_t number)
{
    memset(out, 0, len);
    out[0] = 0x45;
    tn_put_be16(out + 2, (uint16_t)len);
    out[8] = 64;
    out[9] = 17;
    memcpy(out + 12, src->b, 4);
    memcpy(out + 16, dst->b, 4);
    tn_put_be32(out + 20, number);
    for (size_t i = 24; i < len; i++) out[i] = (uint8_t)(number + i);
}

static inline int send_packet(struct side *s, uint32_t number, size_t len)
{
    uint8_t packet[TN_WG_MTU + 100];
    make_packet(packet, len, &s->ip, &s->net->side[!s->id].ip, number);
    return tn_wg_send(s->wg, s->peer, packet, len, s->net->now_us);
}

static inline bool got_packet(const struct side *s, unsigned i, uint32_t number, size_t len)
{
    uint8_t want[TN_WG_MTU];
    make_packet(want, len, &s->net->side[!s->id].ip, &s->ip, number);
    return i < s->received && s->inbox[i].len == len && memcmp(s->inbox[i].bytes, want, len) == 0;
}

/* A session begun by side 0, confirmed. */
static inline void establish(struct net *n)
{
    assert_int_equal(send_packet(&n->side[0], 1, 100), 0);
    run_for(n, S);
    assert_true(got_packet(&n->side[1], 0, 1, 100));
    n->side[1].received = 0;
}

static inline struct tn_wg_peer_stats stats_of(const struct side *s)
{
    struct tn_wg_peer_stats st;
    tn_wg_peer_stats(s->peer, &st);
    return st;
}

#endif
