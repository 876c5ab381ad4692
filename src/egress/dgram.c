/* Flows of datagrams and the sockets they go by.
 *
 *   source (peer, its address and port)  >  channel: one socket  >  flows: the destinations it may talk to
 *
 * In HOST mode all flows of one source share one socket, so that every destination sees the same port (games and WebRTC
 * count on it), a thousand destinations cost one descriptor, and the source's own port can be kept. The socket is not
 * connected: that a datagram comes from a destination that was asked is looked up for each. An ICMP error about a
 * destination goes to its flow. */
#include "egress/private.h"
#include "egress/socket.h"
#include "egress/subnet.h"
#include "util/err.h"
#include "util/rng.h"

#include <stdlib.h>

enum {
    CHANS_MAX = 16384,  /* sockets; half of what descriptors allow, where that is less */
    PER_PEER_DIV = 2,   /* one peer has half of them at most */
};

/* ---- tables ---- */

static void put_addr(uint8_t out[19], const struct tn_addrport *a)
{
    out[0] = a->ip.family;
    memcpy(out + 1, a->ip.b, 16);
    memcpy(out + 17, &a->port, 2);
}

/* What a HOST channel is found by. */
struct source {
    const struct tn_addrport *src;
    enum tn_dgram_kind kind;
    uint8_t family;
    bool subnet;
};

static uint64_t hash_source(const struct tn_dgrams *g, const struct source *s)
{
    uint8_t bytes[22];
    put_addr(bytes, s->src);
    bytes[19] = (uint8_t)s->kind;
    bytes[20] = s->family;
    bytes[21] = s->subnet;
    return tn_siphash(&g->key, bytes, sizeof bytes);
}

static uint64_t hash_flow(const struct tn_dgrams *g, const struct tn_chan *c, const struct tn_addrport *dst)
{
    uint8_t bytes[19 + sizeof c];
    put_addr(bytes, dst);
    memcpy(bytes + 19, &c, sizeof c);
    return tn_siphash(&g->key, bytes, sizeof bytes);
}

static bool same_source(const struct tn_hnode *node, const void *key)
{
    const struct tn_chan *c = TN_CONTAINER(node, struct tn_chan, by_src);
    const struct source *s = key;
    return c->kind == s->kind && c->family == s->family && c->subnet == s->subnet && tn_addrport_eq(&c->src, s->src);
}

static struct tn_chan *find_source(struct tn_dgrams *g, const struct source *s)
{
    struct tn_hnode *n = tn_htable_find(&g->sources, hash_source(g, s), same_source, s);
    return n ? TN_CONTAINER(n, struct tn_chan, by_src) : NULL;
}

struct way {
    const struct tn_chan *chan;
    const struct tn_addrport *dst;
};

static bool same_way(const struct tn_hnode *node, const void *key)
{
    const struct tn_dgram *d = TN_CONTAINER(node, struct tn_dgram, node);
    const struct way *w = key;
    return d->chan == w->chan && tn_addrport_eq(&d->dst, w->dst);
}

struct tn_dgram *tn_dgram_find(struct tn_egress *e, const struct tn_chan *c, const struct tn_addrport *dst)
{
    struct way w = {c, dst};
    struct tn_hnode *n = tn_htable_find(&e->dgrams.flows, hash_flow(&e->dgrams, c, dst), same_way, &w);
    return n ? TN_CONTAINER(n, struct tn_dgram, node) : NULL;
}

/* ---- peers ---- */

static bool same_peer(const struct tn_hnode *node, const void *key)
{
    return TN_CONTAINER(node, struct tn_dpeer, node)->id == *(const uint64_t *)key;
}

struct tn_dpeer *tn_dpeer_find(struct tn_egress *e, uint64_t id)
{
    struct tn_dgrams *g = &e->dgrams;
    struct tn_hnode *n = tn_htable_find(&g->peers, tn_siphash(&g->key, &id, sizeof id), same_peer, &id);
    return n ? TN_CONTAINER(n, struct tn_dpeer, node) : NULL;
}

static struct tn_dpeer *get_peer(struct tn_egress *e, uint64_t id)
{
    struct tn_dgrams *g = &e->dgrams;
    struct tn_dpeer *p = tn_dpeer_find(e, id);
    if (p || !(p = calloc(1, sizeof *p))) return p;
    p->id = id;
    tn_list_init(&p->assocs);
    if (tn_htable_insert(&g->peers, &p->node, tn_siphash(&g->key, &id, sizeof id)) == 0) return p;
    free(p);
    return NULL;
}

static void put_peer(struct tn_dgrams *g, struct tn_dpeer *p)
{
    if (p->nchans > 0) return;
    tn_htable_remove(&g->peers, &p->node);
    free(p);
}

/* ---- channels ---- */

static unsigned most_chans(void)
{
    unsigned half = tn_socket_room() / 2;
    return half < CHANS_MAX ? half : CHANS_MAX;
}

static int get_buffers(struct tn_dgrams *g)
{
    if (!g->in) g->in = malloc(sizeof *g->in);
    if (!g->out) g->out = malloc(sizeof *g->out);
    if (!g->in || !g->out) return TN_E_NOMEM;
    if (g->nchans == 0) { /* just made */
        g->out->chan = NULL;
        g->out->count = 0;
        g->out->flushing = false;
        g->out->used = 0;
    }
    return 0;
}

static void put_buffers(struct tn_dgrams *g)
{
    if (g->nchans > 0) return;
    free(g->in);
    free(g->out);
    g->in = NULL;
    g->out = NULL;
}

int tn_chan_new(struct tn_egress *e, uint64_t peer, enum tn_dgram_kind kind, struct tn_chan **out)
{
    struct tn_dgrams *g = &e->dgrams;
    unsigned most = most_chans();
    if (g->nchans >= most) return TN_EGRESS_FAIL_LIMIT;
    struct tn_dpeer *p = get_peer(e, peer);
    if (!p) return TN_EGRESS_FAIL_FDS;
    bool full = p->nchans >= most / PER_PEER_DIV;
    struct tn_chan *c = full || get_buffers(g) != 0 ? NULL : calloc(1, sizeof *c);
    if (!c) {
        put_peer(g, p);
        put_buffers(g);
        return full ? TN_EGRESS_FAIL_LIMIT : TN_EGRESS_FAIL_FDS;
    }
    *c = (struct tn_chan){.e = e, .peer = p, .fd = -1, .kind = (uint8_t)kind};
    tn_list_init(&c->flows);
    tn_list_push_back(&g->chans, &c->all);
    p->nchans++;
    g->nchans++;
    *out = c;
    return 0;
}

/* New flows of its source get another one. */
static void hide(struct tn_chan *c)
{
    if (c->assoc) tn_assoc_hide(c->assoc);
    if (!c->listed) return;
    tn_htable_remove(&c->e->dgrams.sources, &c->by_src);
    c->listed = false;
}

void tn_chan_free(struct tn_chan *c)
{
    struct tn_dgrams *g = &c->e->dgrams;
    hide(c);
    if (c->busy) {
        c->dead = true;
        return;
    }
    if (c->assoc) tn_assoc_free(c->assoc);
    c->assoc = NULL;
    if (g->out->chan == c) {
        c->busy++;
        tn_dgrams_flush(c->e); /* it has no flow any more: nobody is told anything */
        c->busy--;
    }
    if (c->fd >= 0) {
        tn_run_unwatch(c->e, c->fd);
        tn_dgramsock_close(c->fd);
        g->stats.sockets--;
    }
    c->fd = -1;
    tn_list_remove(&c->all);
    c->peer->nchans--;
    put_peer(g, c->peer);
    g->nchans--;
    put_buffers(g);
    if (c->e->depth > 0) tn_list_push_back(&g->graveyard, &c->all); /* an event of it may be in the batch under way */
    else free(c);
}

void tn_dgrams_bury(struct tn_egress *e)
{
    for (struct tn_list *n; (n = tn_list_pop_front(&e->dgrams.graveyard));) free(TN_CONTAINER(n, struct tn_chan, all));
}

int tn_chan_take_fd(struct tn_chan *c, int fd)
{
    if (tn_run_watch_dgrams(c->e, fd, c) != 0) {
        tn_dgramsock_close(fd);
        return TN_EGRESS_FAIL_FDS;
    }
    c->fd = fd;
    c->e->dgrams.stats.sockets++;
    return 0;
}

static void forget(struct tn_dgram *d)
{
    struct tn_dgrams *g = &d->chan->e->dgrams;
    tn_htable_remove(&g->flows, &d->node);
    tn_list_remove(&d->link);
    g->stats.flows--;
}

void tn_dgram_end(struct tn_dgram *d, enum tn_egress_fail why)
{
    bool tell = !d->chan->e->closing;
    forget(d);
    if (tell) d->ev->on_end(d->arg, why);
    free(d);
}

void tn_chan_end(struct tn_chan *c, enum tn_egress_fail why)
{
    hide(c);
    c->busy++;
    while (!tn_list_empty(&c->flows)) tn_dgram_end(TN_CONTAINER(c->flows.next, struct tn_dgram, link), why);
    c->busy--;
    tn_chan_free(c);
}

/* ---- HOST mode, and subnets in every mode ---- */

/* The source's channel, made if it has none. Exit traffic is refused unless the policy says HOST at this very moment. */
static int host_chan(struct tn_egress *e, const struct tn_dgram_key *k, bool subnet, struct tn_chan **out)
{
    struct tn_dgrams *g = &e->dgrams;
    struct source s = {&k->src, k->kind, k->dst.ip.family, subnet};
    if (!subnet && e->policy->mode != TN_EGRESS_HOST) return TN_EGRESS_FAIL_OFF;
    if ((*out = find_source(g, &s))) return 0;
    int why = tn_chan_new(e, k->peer, k->kind, out);
    if (why) return why;
    struct tn_chan *c = *out;
    c->family = k->dst.ip.family;
    c->subnet = subnet;
    int fd = k->kind == TN_DGRAM_UDP ? tn_dgramsock_udp(k->dst.ip.family, k->src.port, e->mark)
                                     : tn_dgramsock_echo(k->dst.ip.family, k->src.port, e->mark);
    why = fd < 0 ? (int)tn_direct_fail_of(fd) : tn_chan_take_fd(c, fd);
    if (!why && tn_htable_insert(&g->sources, &c->by_src, hash_source(g, &s)) != 0)
        why = TN_EGRESS_FAIL_FDS;
    if (why) {
        tn_chan_free(c);
        return why;
    }
    c->src = k->src;
    c->listed = true;
    return 0;
}

/* ---- flows ---- */

static bool allowed(struct tn_egress *e, const struct tn_dgram_key *k, bool subnet)
{
    struct tn_addrport dst = k->dst;
    if (k->kind == TN_DGRAM_ECHO) dst.port = 1; /* it has none, and the guards refuse port 0 */
    return subnet ? tn_subnet_allows(e, &dst) : tn_egress_allowed(e, &dst);
}

static int choose_chan(struct tn_egress *e, const struct tn_dgram_key *k, bool subnet, struct tn_chan **out)
{
    if (subnet) return host_chan(e, k, true, out);
    switch (e->policy->mode) {
    case TN_EGRESS_HOST: return host_chan(e, k, false, out);
    case TN_EGRESS_PROXY: return tn_assoc_chan(e, k, out);
    case TN_EGRESS_OFF: break;
    }
    return TN_EGRESS_FAIL_OFF;
}

static int add_flow(struct tn_chan *c, const struct tn_dgram_key *k, struct tn_dgram **out)
{
    struct tn_dgrams *g = &c->e->dgrams;
    struct tn_dgram *d = calloc(1, sizeof *d);
    if (!d) return TN_EGRESS_FAIL_FDS;
    d->chan = c;
    d->dst = k->dst;
    if (tn_htable_insert(&g->flows, &d->node, hash_flow(g, c, &k->dst)) != 0) {
        free(d);
        return TN_EGRESS_FAIL_FDS;
    }
    tn_list_push_back(&c->flows, &d->link);
    g->stats.flows++;
    *out = d;
    return 0;
}

int tn_dgram_open(struct tn_egress *e, const struct tn_dgram_key *key, const struct tn_dgram_events *ev, void *arg,
                  struct tn_dgram **out)
{
    struct tn_chan *c = NULL;
    struct tn_dgram *d = NULL;
    struct tn_dgram_key real = *key;
    bool subnet = tn_egress_is_subnet(e, &key->dst, &real.dst);
    if (e->closing || (!subnet && e->policy->mode == TN_EGRESS_OFF)) return TN_EGRESS_FAIL_OFF;
    int why = allowed(e, &real, subnet) ? choose_chan(e, &real, subnet, &c) : (int)TN_EGRESS_FAIL_GUARD;
    if (!why && tn_dgram_find(e, c, &real.dst)) why = TN_EGRESS_FAIL_LIMIT; /* open already, by this name or another */
    if (!why && (why = add_flow(c, &real, &d)) != 0 && tn_list_empty(&c->flows)) tn_chan_free(c);
    if (why) {
        if (why != TN_EGRESS_FAIL_OFF) tn_egress_count_fail(e, (enum tn_egress_fail)why);
        return why;
    }
    d->via = key->dst.ip.family != real.dst.ip.family;
    d->ev = ev;
    d->arg = arg;
    *out = d;
    return 0;
}

/* ICMPv6 echo by ICMP: the rest of the message is the same, but for the checksum, which the kernel makes. */
static void send_via(struct tn_dgram *d, const uint8_t *bytes, size_t len)
{
    enum { SMALL = 2048, ECHO_REQUEST4 = 8 };
    uint8_t message[SMALL];
    if (len == 0 || len > sizeof message) {
        d->chan->e->dgrams.stats.unsent++;
        return;
    }
    memcpy(message, bytes, len);
    message[0] = ECHO_REQUEST4;
    tn_chan_send(d->chan, &d->dst, NULL, 0, message, len);
}

void tn_dgram_send(struct tn_dgram *d, const void *bytes, size_t len)
{
    if (d->via && d->chan->kind == TN_DGRAM_ECHO) send_via(d, bytes, len);
    else if (d->chan->assoc) tn_assoc_send(d->chan, &d->dst, bytes, len);
    else tn_chan_send(d->chan, &d->dst, NULL, 0, bytes, len);
    tn_run_schedule(d->chan->e);
}

void tn_dgram_close(struct tn_dgram *d)
{
    struct tn_chan *c = d->chan;
    struct tn_egress *e = c->e;
    forget(d);
    free(d);
    if (tn_list_empty(&c->flows)) tn_chan_free(c);
    tn_run_schedule(e);
}

/* ---- life ---- */

void tn_dgrams_init(struct tn_egress *e)
{
    struct tn_dgrams *g = &e->dgrams;
    struct tn_rng rng = tn_rng_system();
    tn_rng_fill(&rng, &g->key, sizeof g->key);
    tn_htable_init(&g->flows);
    tn_htable_init(&g->sources);
    tn_htable_init(&g->peers);
    tn_list_init(&g->chans);
    tn_list_init(&g->graveyard);
}

/* What a policy leaves: its associations too, unless they are to be cut. */
enum leave { LEAVE_NOTHING, LEAVE_SUBNETS, LEAVE_WORKING };
static void end_chans(struct tn_egress *e, enum leave leave)
{
    /* Those that are being read from right now stay in the list until that is over: each is taken once. */
    struct tn_list todo;
    tn_list_init(&todo);
    for (struct tn_list *n; (n = tn_list_pop_front(&e->dgrams.chans));) tn_list_push_back(&todo, n);
    for (struct tn_list *n; (n = tn_list_pop_front(&todo));) {
        struct tn_chan *c = TN_CONTAINER(n, struct tn_chan, all);
        tn_list_push_back(&e->dgrams.chans, n);
        bool works = c->assoc && tn_assoc_outlives(c->assoc);
        bool stays = (leave >= LEAVE_SUBNETS && c->subnet) || (leave == LEAVE_WORKING && works);
        if (!stays) tn_chan_end(c, TN_EGRESS_FAIL_CANCELED);
    }
}

void tn_dgrams_policy_changed(struct tn_egress *e)
{
    end_chans(e, LEAVE_WORKING);
    tn_assoc_probe(e);
}

void tn_egress_set_proxy_udp(struct tn_egress *e, bool on, bool cut)
{
    if (e->dgrams.by_proxy == on) return;
    e->dgrams.by_proxy = on;
    if (!on) end_chans(e, cut ? LEAVE_SUBNETS : LEAVE_WORKING);
    tn_assoc_probe(e);
}

void tn_dgrams_fini(struct tn_egress *e)
{
    end_chans(e, LEAVE_NOTHING);
    tn_htable_fini(&e->dgrams.flows);
    tn_htable_fini(&e->dgrams.sources);
    tn_htable_fini(&e->dgrams.peers);
}

void tn_dgram_stats(const struct tn_egress *e, struct tn_dgram_stats *out)
{
    *out = e->dgrams.stats;
    out->relay = tn_assoc_relay(e);
}

void tn_egress_set_batch(struct tn_egress *e, void (*on_batch)(void *ctx, bool begins), void *ctx)
{
    e->on_batch = on_batch;
    e->batch_ctx = ctx;
}
