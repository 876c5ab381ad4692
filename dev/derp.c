#include "dev/derp.h"
#include "crypto/box.h"
#include "util/buf.h"
#include "util/err.h"
#include "util/htable.h"
#include "util/list.h"
#include "util/secret.h"
#include "util/siphash.h"
#include "wire/derp.h"
#include "wire/disco.h"

#include <assert.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum {
    PING_BODY_MAX = 1000, /* Go's: room for extensions, not for abuse */
    GONE_BURST = 3,
    GONE_EVERY = 1, /* seconds per "not here" after the burst */
    INFO_MAX = TN_DERP_CLIENT_INFO_MAX,
};

struct queue {
    struct tn_dev_derp_frame *first, **last;
    size_t count, max;
};

/* A key whose packets a client has been sent. */
struct source {
    struct tn_hnode by_key;
    struct tn_node_public key;
};

struct tn_dev_derp_client {
    struct tn_dev_derp *derp;
    void *conn;
    bool greeted;
    struct tn_node_public key;
    struct tn_hnode by_key;  /* in the server's table while it is the active one of its key */
    struct tn_list all;
    struct tn_buf in;        /* a frame that is not complete */
    struct queue control, disco, packets;
    struct tn_htable sources;
    unsigned gone_tokens;
    uint64_t gone_filled_us;
    struct tn_dev_timer timer; /* greeting time, then keepalive */
};

struct tn_dev_derp {
    struct tn_dev_derp_config cfg;
    struct tn_node_public key;
    struct tn_hashkey hash;
    struct tn_htable active; /* key to the connection that gets its traffic */
    struct tn_list clients;  /* all connections, the newest first */
    size_t greeted;
    struct tn_heap timers;
};

static void queue_init(struct queue *q, size_t max) { *q = (struct queue){.last = &q->first, .max = max}; }

static struct tn_dev_derp_frame *queue_take(struct queue *q)
{
    struct tn_dev_derp_frame *f = q->first;
    if (!f) return NULL;
    q->first = f->next;
    if (!q->first) q->last = &q->first;
    q->count--;
    return f;
}

static void queue_put(struct queue *q, struct tn_dev_derp_frame *f)
{
    if (q->count == q->max) free(queue_take(q));
    f->next = NULL;
    *q->last = f;
    q->last = &f->next;
    q->count++;
}

static struct tn_dev_derp_frame *frame_new(size_t len)
{
    struct tn_dev_derp_frame *f = malloc(sizeof *f + len);
    if (f) f->len = len;
    return f;
}

static void enqueue(struct tn_dev_derp_client *c, struct queue *q, struct tn_dev_derp_frame *f)
{
    if (!f) return; /* memory is short: a loss, as on any network */
    queue_put(q, f);
    c->derp->cfg.wake(c->conn);
}

struct tn_dev_derp_frame *tn_dev_derp_take(struct tn_dev_derp_client *c)
{
    struct tn_dev_derp_frame *f = queue_take(&c->control);
    if (!f) f = queue_take(&c->disco);
    return f ? f : queue_take(&c->packets);
}

static uint64_t hash_of(const struct tn_dev_derp *d, const struct tn_node_public *key)
{
    return tn_siphash(&d->hash, key->b, sizeof key->b);
}

static bool client_is(const struct tn_hnode *h, const void *key)
{
    return tn_node_public_eq(&TN_CONTAINER(h, struct tn_dev_derp_client, by_key)->key, key);
}

static bool source_is(const struct tn_hnode *h, const void *key)
{
    return tn_node_public_eq(&TN_CONTAINER(h, struct source, by_key)->key, key);
}

static struct tn_dev_derp_client *active_of(struct tn_dev_derp *d, const struct tn_node_public *key)
{
    struct tn_hnode *h = tn_htable_find(&d->active, hash_of(d, key), client_is, key);
    return h ? TN_CONTAINER(h, struct tn_dev_derp_client, by_key) : NULL;
}

static int make_active(struct tn_dev_derp_client *c)
{
    struct tn_dev_derp *d = c->derp;
    struct tn_dev_derp_client *was = active_of(d, &c->key);
    if (was == c) return 0;
    if (was) tn_htable_remove(&d->active, &was->by_key);
    return tn_htable_insert(&d->active, &c->by_key, hash_of(d, &c->key));
}

static void send_gone(struct tn_dev_derp_client *to, const struct tn_node_public *key, enum tn_derp_gone reason)
{
    struct tn_dev_derp_frame *f = frame_new(TN_DERP_PACKET_HEADER_LEN + 1);
    if (!f) return;
    struct tn_wr w = tn_wr_init(f->bytes, f->len);
    tn_derp_peer_gone_put(&w, key->b, reason);
    enqueue(to, &to->control, f);
}

static void note_source(struct tn_dev_derp_client *c, const struct tn_node_public *key)
{
    uint64_t hash = hash_of(c->derp, key);
    if (tn_htable_find(&c->sources, hash, source_is, key) || c->sources.count >= TN_DEV_DERP_SOURCES_MAX) return;
    struct source *s = malloc(sizeof *s);
    if (!s) return;
    s->key = *key;
    if (tn_htable_insert(&c->sources, &s->by_key, hash) != 0) free(s);
}

static void free_source(struct tn_hnode *node, void *arg)
{
    struct tn_dev_derp_client *c = arg;
    tn_htable_remove(&c->sources, node);
    free(TN_CONTAINER(node, struct source, by_key));
}

/* The last connection of key has gone: tell whoever had packets from it. */
static void announce_gone(struct tn_dev_derp *d, const struct tn_node_public *key)
{
    uint64_t hash = hash_of(d, key);
    TN_LIST_EACH (l, &d->clients) {
        struct tn_dev_derp_client *c = TN_CONTAINER(l, struct tn_dev_derp_client, all);
        struct tn_hnode *h = tn_htable_find(&c->sources, hash, source_is, key);
        if (!h) continue;
        free_source(h, c);
        send_gone(c, key, TN_DERP_GONE_DISCONNECTED);
    }
}

static void leave(struct tn_dev_derp_client *c)
{
    struct tn_dev_derp *d = c->derp;
    d->greeted--;
    if (active_of(d, &c->key) != c) return;
    tn_htable_remove(&d->active, &c->by_key);
    TN_LIST_EACH (l, &d->clients) { /* the newest that is left takes over */
        struct tn_dev_derp_client *other = TN_CONTAINER(l, struct tn_dev_derp_client, all);
        if (!other->greeted || !tn_node_public_eq(&other->key, &c->key)) continue;
        if (make_active(other) == 0) return;
    }
    announce_gone(d, &c->key);
}

static void send_server_key(struct tn_dev_derp_client *c)
{
    uint8_t bytes[TN_DERP_HEADER_LEN + 8 + TN_DERP_KEY_LEN];
    struct tn_wr w = tn_wr_init(bytes, sizeof bytes);
    tn_derp_server_key_put(&w, c->derp->key.b);
    struct tn_dev_derp_frame *f = frame_new(tn_wr_len(&w));
    if (f) memcpy(f->bytes, bytes, f->len);
    enqueue(c, &c->control, f);
}

static void timer_fire(struct tn_dev_timer *timer, void *engine, struct tn_dev_now now)
{
    struct tn_dev_derp *d = engine;
    struct tn_dev_derp_client *c = TN_CONTAINER(timer, struct tn_dev_derp_client, timer);
    if (!c->greeted) {
        d->cfg.expire(c->conn);
        return;
    }
    struct tn_dev_derp_frame *f = frame_new(TN_DERP_HEADER_LEN);
    if (f) {
        struct tn_wr w = tn_wr_init(f->bytes, f->len);
        tn_derp_keep_alive_put(&w);
    }
    enqueue(c, &c->control, f);
    tn_timer_arm(&d->timers, &c->timer.t, now.us + TN_DEV_DERP_KEEP_ALIVE * TN_DEV_SECOND);
}

int tn_dev_derp_client_new(struct tn_dev_derp *d, void *conn, struct tn_dev_now now, struct tn_dev_derp_client **out)
{
    struct tn_dev_derp_client *c = calloc(1, sizeof *c);
    if (!c) return TN_E_NOMEM;
    c->derp = d;
    c->conn = conn;
    c->gone_tokens = GONE_BURST;
    c->gone_filled_us = now.us;
    c->timer.fire = timer_fire;
    tn_buf_init(&c->in, TN_DERP_HEADER_LEN + TN_DERP_KEY_LEN + INFO_MAX);
    queue_init(&c->control, TN_DEV_DERP_CONTROL_MAX);
    queue_init(&c->disco, TN_DEV_DERP_QUEUE);
    queue_init(&c->packets, TN_DEV_DERP_QUEUE);
    tn_htable_init(&c->sources);
    if (tn_timer_arm(&d->timers, &c->timer.t, now.us + TN_DEV_DERP_GREET_TIME * TN_DEV_SECOND) != 0) {
        free(c);
        return TN_E_NOMEM;
    }
    tn_list_push_front(&d->clients, &c->all);
    *out = c;
    send_server_key(c);
    return 0;
}

void tn_dev_derp_client_free(struct tn_dev_derp_client *c)
{
    if (!c) return;
    tn_list_remove(&c->all);
    if (c->greeted) leave(c);
    tn_timer_stop(&c->derp->timers, &c->timer.t);
    for (struct tn_dev_derp_frame *f; (f = tn_dev_derp_take(c));) free(f);
    tn_htable_each(&c->sources, free_source, c);
    tn_htable_fini(&c->sources);
    tn_buf_fini(&c->in);
    free(c);
}

static void send_server_info(struct tn_dev_derp_client *c, const struct tn_box_shared *shared)
{
    static const char info[] = "{\"version\":2}";
    uint8_t box[sizeof info - 1 + TN_BOX_OVERHEAD];
    tn_box_seal(shared, &c->derp->cfg.rng, info, sizeof info - 1, box);
    struct tn_dev_derp_frame *f = frame_new(TN_DERP_HEADER_LEN + sizeof box);
    if (f) {
        struct tn_wr w = tn_wr_init(f->bytes, f->len);
        tn_derp_server_info_put(&w, box, sizeof box);
    }
    enqueue(c, &c->control, f);
}

/* The box must open to a JSON object; nothing in it changes what this server does. */
static int open_info(const struct tn_box_shared *shared, const struct tn_derp_frame *f)
{
    if (f->data_len < TN_BOX_OVERHEAD) return TN_E_PROTO;
    size_t len = f->data_len - TN_BOX_OVERHEAD;
    uint8_t *text = malloc(len + 1);
    if (!text) return TN_E_NOMEM;
    int err = tn_box_open(shared, f->data, f->data_len, text);
    json_t *info = err ? NULL : json_loadb((char *)text, len, 0, NULL);
    if (!err && !json_is_object(info)) err = TN_E_PROTO;
    json_decref(info);
    free(text);
    return err;
}

static int greet(struct tn_dev_derp_client *c, struct tn_derp_frame *f, struct tn_dev_now now)
{
    struct tn_dev_derp *d = c->derp;
    if (f->type != TN_DERP_CLIENT_INFO || tn_derp_frame_parse(f) != 0) return TN_E_PROTO;
    memcpy(c->key.b, f->key, sizeof c->key.b);
    struct tn_box_shared shared;
    int err = tn_box_shared_init(&shared, d->cfg.key.b, c->key.b);
    if (!err) err = open_info(&shared, f);
    if (!err && d->cfg.admit && !d->cfg.admit(d->cfg.ctx, &c->key)) err = TN_E_POLICY;
    if (!err) err = make_active(c);
    if (!err) {
        c->greeted = true;
        d->greeted++;
        send_server_info(c, &shared);
        tn_timer_arm(&d->timers, &c->timer.t, now.us + TN_DEV_DERP_KEEP_ALIVE * TN_DEV_SECOND);
    }
    tn_wipe(&shared, sizeof shared);
    return err;
}

static bool may_say_not_here(struct tn_dev_derp_client *c, struct tn_dev_now now)
{
    uint64_t every = GONE_EVERY * TN_DEV_SECOND, earned = (now.us - c->gone_filled_us) / every;
    if (earned) {
        c->gone_tokens = earned >= GONE_BURST - c->gone_tokens ? GONE_BURST : c->gone_tokens + (unsigned)earned;
        c->gone_filled_us += earned * every;
    }
    if (!c->gone_tokens) return false;
    c->gone_tokens--;
    return true;
}

static int relay(struct tn_dev_derp_client *c, const struct tn_derp_frame *f, struct tn_dev_now now)
{
    struct tn_node_public to;
    if (f->data_len > TN_DERP_PACKET_MAX) return TN_E_TOOBIG;
    memcpy(to.b, f->key, sizeof to.b);
    bool disco = tn_disco_looks_like(f->data, f->data_len);
    struct tn_dev_derp_client *dst = active_of(c->derp, &to);
    if (!dst) {
        if (disco && may_say_not_here(c, now)) send_gone(c, &to, TN_DERP_GONE_NOT_HERE);
        return 0;
    }
    struct tn_dev_derp_frame *out = frame_new(TN_DERP_PACKET_HEADER_LEN + f->data_len);
    if (!out) return 0;
    struct tn_wr w = tn_wr_init(out->bytes, out->len);
    tn_derp_packet_put(&w, TN_DERP_RECV_PACKET, c->key.b, f->data, f->data_len);
    note_source(dst, &c->key);
    enqueue(dst, disco ? &dst->disco : &dst->packets, out);
    return 0;
}

static int pong(struct tn_dev_derp_client *c, const struct tn_derp_frame *f)
{
    if (f->len > PING_BODY_MAX) return TN_E_PROTO;
    struct tn_dev_derp_frame *out = frame_new(TN_DERP_HEADER_LEN + TN_DERP_PING_LEN);
    if (!out) return 0;
    struct tn_wr w = tn_wr_init(out->bytes, out->len);
    tn_derp_ping_put(&w, TN_DERP_PONG, f->data);
    enqueue(c, &c->control, out);
    return 0;
}

static int handle(struct tn_dev_derp_client *c, struct tn_derp_frame *f, struct tn_dev_now now)
{
    if (!c->greeted) return greet(c, f, now);
    int err = tn_derp_frame_parse(f);
    if (err == TN_E_UNSUPPORTED) return 0; /* newer clients may say more */
    if (err) return TN_E_PROTO;
    err = make_active(c);
    if (err) return err;
    switch (f->type) {
    case TN_DERP_SEND_PACKET: return relay(c, f, now);
    case TN_DERP_PING: return pong(c, f);
    case TN_DERP_NOTE_PREFERRED: return f->len == 1 ? 0 : TN_E_PROTO;
    case TN_DERP_WATCH_CONNS:
    case TN_DERP_CLOSE_PEER:
    case TN_DERP_FORWARD_PACKET: return TN_E_POLICY;
    default: return 0;
    }
}

/* Adds to the frame begun in c->in what it still lacks, first of its header, then of its body, and handles it when it
 * is whole. */
static int continue_frame(struct tn_dev_derp_client *c, struct tn_rd *r, size_t max, struct tn_dev_now now)
{
    size_t have = tn_buf_len(&c->in), want = TN_DERP_HEADER_LEN;
    if (have >= TN_DERP_HEADER_LEN) want += tn_get_be32(tn_buf_data(&c->in) + 1);
    size_t n = want - have < tn_rd_left(r) ? want - have : tn_rd_left(r);
    int err = tn_buf_append(&c->in, tn_rd_take(r, n), n);
    if (err) return err;
    struct tn_derp_frame f;
    long used = tn_derp_frame_split(tn_buf_data(&c->in), tn_buf_len(&c->in), max, &f);
    if (used <= 0) return (int)used;
    err = handle(c, &f, now);
    if (!err) tn_buf_consume(&c->in, (size_t)used);
    return err;
}

/* Whole frames are read in place; only what is cut at the end is kept. */
int tn_dev_derp_input(struct tn_dev_derp_client *c, const void *bytes, size_t len, struct tn_dev_now now)
{
    struct tn_rd r = tn_rd_init(bytes, len);
    while (tn_rd_left(&r)) {
        struct tn_derp_frame f;
        size_t max = c->greeted ? TN_DERP_KEY_LEN + TN_DERP_PACKET_MAX : INFO_MAX;
        int err;
        if (tn_buf_len(&c->in)) {
            err = continue_frame(c, &r, max, now);
        } else {
            long used = tn_derp_frame_split(r.p, tn_rd_left(&r), max, &f);
            if (used < 0) return (int)used;
            if (used == 0) return tn_buf_append(&c->in, r.p, tn_rd_left(&r));
            tn_rd_take(&r, (size_t)used);
            err = handle(c, &f, now);
        }
        if (err) return err;
    }
    return 0;
}

int tn_dev_derp_new(const struct tn_dev_derp_config *config, struct tn_dev_derp **out)
{
    struct tn_dev_derp *d = calloc(1, sizeof *d);
    if (!d) return TN_E_NOMEM;
    d->cfg = *config;
    tn_node_public_of(&d->cfg.key, &d->key);
    tn_rng_fill(&d->cfg.rng, &d->hash, sizeof d->hash);
    tn_htable_init(&d->active);
    tn_list_init(&d->clients);
    tn_heap_init(&d->timers);
    *out = d;
    return 0;
}

void tn_dev_derp_free(struct tn_dev_derp *d)
{
    if (!d) return;
    assert(tn_list_empty(&d->clients));
    tn_htable_fini(&d->active);
    tn_heap_fini(&d->timers);
    tn_wipe(&d->cfg.key, sizeof d->cfg.key);
    free(d);
}

size_t tn_dev_derp_clients(const struct tn_dev_derp *d) { return d->greeted; }

void tn_dev_derp_timeout(struct tn_dev_derp *d, struct tn_dev_now now) { tn_dev_timers_run(&d->timers, d, now); }

uint64_t tn_dev_derp_next_deadline(const struct tn_dev_derp *d) { return tn_heap_next(&d->timers); }
