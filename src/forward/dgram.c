/* Flows of datagrams: a peer's UDP source and one destination, or its pings of one.
 *
 *   up     the peer's datagram finds its flow, or opens one at the egress, and goes there
 *   down   what the egress brings goes to the peer from the destination's address, in fragments where it is large
 *   ICMP   an error about a datagram of ours is told to the peer, as if the network had told it
 *
 * A flow ends when nothing has come either way for IDLE_US (DNS_IDLE_US for port 53), and also when the peer itself has
 * said nothing for SILENT_US: a server that pushes for ever does not keep it. A peer with too many flows loses its
 * own least recently used one, never somebody else's; when all flows are in use, the least recently used of all goes. A
 * refused datagram is answered port unreachable: QUIC then falls back to TCP in a round trip. */
#include "egress/subnet.h"
#include "forward/private.h"
#include "util/cursor.h"
#include "util/err.h"
#include "wire/icmp.h"
#include "wire/ip.h"
#include "wire/udp.h"

#include <stdlib.h>

enum {
    FLOWS_MAX = 65536,         /* some 200 bytes each: 13 MB */
    FLOWS_PER_PEER = 16384,    /* a quarter: what a busy torrent client has, and four peers like it fit */
    EVICT_TRIES = 8,           /* how many of its old flows a peer gives up for a new one that finds no socket */
    ECHO_PER_PEER = 32,        /* pings at a time: Go's exit node has 20 in all */
    ECHO_REQUEST4 = 8, ECHO_REPLY4 = 0, ECHO_REQUEST6 = 128, ECHO_REPLY6 = 129,
};
#define IDLE_US 120000000ull    /* RFC 4787's least, and Go's */
#define DNS_IDLE_US 30000000ull /* a question and its answer */
#define ECHO_IDLE_US 10000000ull
#define SILENT_US 1800000000ull

struct tn_dpeer_flows {
    struct tn_hnode node;
    uint64_t id;
    struct tn_list flows; /* least recently used first */
    unsigned count, echoes;
};

struct tn_dflow {
    struct tn_hnode node;
    struct tn_list age;  /* tn_forward.ages: least recently used first */
    struct tn_list mine; /* tn_dpeer_flows.flows */
    struct tn_forward *f;
    struct tn_dpeer_flows *peer;
    struct tn_dgram *up;
    struct tn_addrport src, dst;
    uint64_t last_us, said_us; /* when anything came; when the peer's last came */
    uint16_t seq;              /* ECHO: of the last request */
    uint8_t kind, age_class;
};

static const uint64_t idle_limits_us[TN_DFLOW_AGES] = {IDLE_US, DNS_IDLE_US, ECHO_IDLE_US};

/* ---- tables ---- */

static uint64_t hash_flow(const struct tn_forward *f, enum tn_dgram_kind kind, const struct tn_addrport *src,
                          const struct tn_addrport *dst)
{
    uint8_t bytes[39] = {src->ip.family == 4 ? 4 : 6, (uint8_t)kind};
    memcpy(bytes + 2, src->ip.b, 16);
    memcpy(bytes + 18, dst->ip.b, 16);
    memcpy(bytes + 34, &src->port, 2);
    memcpy(bytes + 36, &dst->port, 2);
    return tn_siphash(&f->key, bytes, sizeof bytes);
}

struct way {
    enum tn_dgram_kind kind;
    const struct tn_addrport *src, *dst;
};

static bool same_flow(const struct tn_hnode *node, const void *key)
{
    const struct tn_dflow *w = TN_CONTAINER(node, struct tn_dflow, node);
    const struct way *k = key;
    return w->kind == k->kind && tn_addrport_eq(&w->src, k->src) && tn_addrport_eq(&w->dst, k->dst);
}

static struct tn_dflow *find_dflow(struct tn_forward *f, enum tn_dgram_kind kind, const struct tn_addrport *src,
                                   const struct tn_addrport *dst)
{
    struct way k = {kind, src, dst};
    struct tn_hnode *n = tn_htable_find(&f->dflows, hash_flow(f, kind, src, dst), same_flow, &k);
    return n ? TN_CONTAINER(n, struct tn_dflow, node) : NULL;
}

static bool same_peer(const struct tn_hnode *node, const void *key)
{
    return TN_CONTAINER(node, struct tn_dpeer_flows, node)->id == *(const uint64_t *)key;
}

static struct tn_dpeer_flows *find_peer(const struct tn_forward *f, uint64_t id)
{
    struct tn_hnode *n = tn_htable_find(&f->dpeers, tn_siphash(&f->key, &id, sizeof id), same_peer, &id);
    return n ? TN_CONTAINER(n, struct tn_dpeer_flows, node) : NULL;
}

static struct tn_dpeer_flows *get_peer(struct tn_forward *f, uint64_t id)
{
    struct tn_dpeer_flows *p = find_peer(f, id);
    if (p || !(p = calloc(1, sizeof *p))) return p;
    p->id = id;
    tn_list_init(&p->flows);
    if (tn_htable_insert(&f->dpeers, &p->node, tn_siphash(&f->key, &id, sizeof id)) == 0) return p;
    free(p);
    return NULL;
}

static void put_peer(struct tn_forward *f, struct tn_dpeer_flows *p)
{
    if (p->count > 0) return;
    tn_htable_remove(&f->dpeers, &p->node);
    free(p);
}

/* ---- flows ---- */

/* up is gone, or the caller's to close. */
static void forget_dflow(struct tn_dflow *w)
{
    struct tn_forward *f = w->f;
    tn_htable_remove(&f->dflows, &w->node);
    tn_list_remove(&w->age);
    tn_list_remove(&w->mine);
    w->peer->count--;
    w->peer->echoes -= w->kind == TN_DGRAM_ECHO;
    put_peer(f, w->peer);
    f->stats.udp_flows--;
    free(w);
}

static void end(struct tn_dflow *w)
{
    tn_dgram_close(w->up);
    forget_dflow(w);
}

static struct tn_dflow *oldest_of(struct tn_dpeer_flows *p) { return TN_CONTAINER(p->flows.next, struct tn_dflow, mine); }

/* The least recently used of all; the classes have ages of their own. */
static struct tn_dflow *oldest(struct tn_forward *f)
{
    struct tn_dflow *found = NULL;
    for (int i = 0; i < TN_DFLOW_AGES; i++) {
        if (tn_list_empty(&f->ages[i])) continue;
        struct tn_dflow *w = TN_CONTAINER(f->ages[i].next, struct tn_dflow, age);
        if (!found || w->last_us < found->last_us) found = w;
    }
    return found;
}

static void evict(struct tn_dflow *w)
{
    w->f->stats.udp_evicted++;
    end(w);
}

static void touch(struct tn_dflow *w, uint64_t now_us)
{
    w->last_us = now_us;
    tn_list_remove(&w->age);
    tn_list_push_back(&w->f->ages[w->age_class], &w->age);
    tn_list_remove(&w->mine);
    tn_list_push_back(&w->peer->flows, &w->mine);
}

/* ---- down ---- */

static void on_datagram(void *arg, const uint8_t *bytes, size_t len)
{
    struct tn_dflow *w = arg;
    uint64_t now_us = tn_forward_now(w->f);
    if (now_us - w->said_us >= SILENT_US) {
        end(w);
        return;
    }
    touch(w, now_us);
    if (w->kind == TN_DGRAM_UDP) (void)tn_stack_udp_send_from(w->f->stack, &w->dst, &w->src, bytes, len, now_us);
    else if (len >= TN_ICMP_HDR && bytes[0] == (w->dst.ip.family == 4 ? ECHO_REPLY4 : ECHO_REPLY6))
        (void)tn_stack_echo_reply_from(w->f->stack, &w->dst.ip, &w->src.ip, w->src.port, tn_get_be16(bytes + 6),
                                       bytes + TN_ICMP_HDR, len - TN_ICMP_HDR, now_us);
}

/* The start of the peer's packet as an ICMP error quotes it. Its length and payload we have not kept. */
static size_t quote(const struct tn_dflow *w, uint8_t out[40 + 8])
{
    bool v4 = w->src.ip.family == 4;
    uint8_t *l4 = out + (v4 ? 20 : 40);
    uint8_t proto = w->kind == TN_DGRAM_UDP ? TN_IPPROTO_UDP : v4 ? TN_IPPROTO_ICMP : TN_IPPROTO_ICMP6;
    size_t hdr = tn_ip_header_put(out, &w->src.ip, &w->dst.ip, proto, 8, 64, 0);
    if (w->kind == TN_DGRAM_UDP) tn_udp_hdr_put(l4, w->src.port, w->dst.port, 0);
    else (void)tn_icmp_put(l4, w->src.ip.family, TN_ICMP_ECHO_REQUEST, w->src.port, w->seq);
    return hdr + 8;
}

static void on_error(void *arg, enum tn_dgram_error what)
{
    static const enum tn_unreach codes[] = {[TN_DGRAM_NO_PORT] = TN_UNREACH_PORT, [TN_DGRAM_NO_HOST] = TN_UNREACH_HOST,
                                            [TN_DGRAM_PROHIBITED] = TN_UNREACH_ADMIN};
    struct tn_dflow *w = arg;
    uint8_t packet[40 + 8];
    size_t len = quote(w, packet);
    (void)tn_stack_unreach(w->f->stack, codes[what], packet, len, tn_forward_now(w->f));
}

/* The upstream ended, or never came about. What the peer sends next opens another, if that is allowed. */
static void on_end(void *arg, enum tn_egress_fail why)
{
    struct tn_dflow *w = arg;
    if (why != TN_EGRESS_FAIL_CANCELED) on_error(w, TN_DGRAM_NO_PORT);
    forget_dflow(w);
}

static const struct tn_dgram_events dgram_events = {.on_datagram = on_datagram, .on_error = on_error, .on_end = on_end};

/* ---- up ---- */

static uint8_t age_class(enum tn_dgram_kind kind, const struct tn_addrport *dst)
{
    return kind == TN_DGRAM_ECHO ? TN_DFLOW_ECHO : dst->port == 53 ? TN_DFLOW_DNS : TN_DFLOW_UDP;
}

static struct tn_dflow *make(struct tn_forward *f, struct tn_dpeer_flows *p, const struct tn_dgram_key *k)
{
    struct tn_dflow *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    *w = (struct tn_dflow){.f = f, .peer = p, .src = k->src, .dst = k->dst, .kind = (uint8_t)k->kind,
                           .age_class = age_class(k->kind, &k->dst)};
    tn_list_init(&w->age);
    tn_list_init(&w->mine);
    if (tn_htable_insert(&f->dflows, &w->node, hash_flow(f, k->kind, &k->src, &k->dst)) != 0) {
        free(w);
        return NULL;
    }
    p->count++;
    p->echoes += k->kind == TN_DGRAM_ECHO;
    f->stats.udp_flows++;
    return w;
}

/* Room for one more flow of this peer, at its own cost first. Its count has the new one in it. */
static bool make_room(struct tn_forward *f, struct tn_dpeer_flows *p, enum tn_dgram_kind kind)
{
    if (kind == TN_DGRAM_ECHO && p->echoes >= ECHO_PER_PEER) return false;
    if (p->count > FLOWS_PER_PEER) evict(oldest_of(p));
    else if (f->stats.udp_flows >= FLOWS_MAX) evict(oldest(f));
    return true;
}

static int open_upstream(struct tn_dflow *w, const struct tn_dgram_key *k)
{
    for (int i = 0;; i++) {
        int why = tn_dgram_open(w->f->config.egress, k, &dgram_events, w, &w->up);
        bool room_helps = why == TN_EGRESS_FAIL_LIMIT || why == TN_EGRESS_FAIL_FDS;
        if (!room_helps || i == EVICT_TRIES || tn_list_empty(&w->peer->flows)) return why;
        evict(oldest_of(w->peer));
    }
}

static struct tn_dflow *open_flow(struct tn_forward *f, const struct tn_dgram_key *k)
{
    struct tn_dpeer_flows *p = get_peer(f, k->peer);
    if (!p) return NULL;
    p->count++; /* the new one's place; it also keeps the peer while its flows are evicted */
    struct tn_dflow *w = make_room(f, p, k->kind) ? make(f, p, k) : NULL;
    if (w && open_upstream(w, k) != 0) {
        forget_dflow(w);
        w = NULL;
    }
    p->count--;
    put_peer(f, p);
    return w;
}

/* The peer's flow to this destination, opened if there is none. NULL: refused. */
static struct tn_dflow *flow_for(struct tn_forward *f, const struct tn_dgram_key *k)
{
    struct tn_dflow *w = find_dflow(f, k->kind, &k->src, &k->dst);
    if (w) return w;
    if (!f->enabled) return NULL;
    struct tn_dgram_key whole = *k;
    whole.peer = f->config.peer_of(f->config.ctx, &k->src.ip);
    return whole.peer ? open_flow(f, &whole) : NULL;
}

bool tn_dflow_udp(struct tn_forward *f, const struct tn_addrport *src, const struct tn_addrport *dst, const uint8_t *payload,
                  size_t len, uint64_t now_us)
{
    struct tn_dgram_key k = {.kind = TN_DGRAM_UDP, .src = *src, .dst = *dst};
    struct tn_dflow *w = flow_for(f, &k);
    if (!w) return false;
    w->said_us = now_us;
    touch(w, now_us);
    tn_dgram_send(w->up, payload, len);
    return true;
}

bool tn_dflow_echo(struct tn_forward *f, const struct tn_ip *src, const struct tn_ip *dst, const uint8_t *message,
                   size_t len, uint64_t now_us)
{
    if (len < TN_ICMP_HDR) return false;
    struct tn_dgram_key k = {.kind = TN_DGRAM_ECHO, .src = {*src, tn_get_be16(message + 4)}, .dst = {.ip = *dst}};
    struct tn_dflow *w = flow_for(f, &k);
    if (!w) return false;
    w->seq = tn_get_be16(message + 6);
    w->said_us = now_us;
    touch(w, now_us);
    tn_dgram_send(w->up, message, len);
    return true;
}

void tn_dflow_peer_closed(struct tn_forward *f, const struct tn_addrport *src, const struct tn_addrport *dst)
{
    struct tn_dflow *w = find_dflow(f, TN_DGRAM_UDP, src, dst);
    if (w) end(w);
}

/* ---- life ---- */

void tn_dflows_init(struct tn_forward *f)
{
    tn_htable_init(&f->dflows);
    tn_htable_init(&f->dpeers);
    for (int i = 0; i < TN_DFLOW_AGES; i++) tn_list_init(&f->ages[i]);
}

void tn_dflows_fini(struct tn_forward *f)
{
    tn_htable_fini(&f->dflows);
    tn_htable_fini(&f->dpeers);
}

void tn_dflows_drop_peer(struct tn_forward *f, uint64_t peer)
{
    struct tn_dpeer_flows *p = find_peer(f, peer);
    for (unsigned n = p ? p->count : 0; n > 0; n--) end(oldest_of(p));
}

void tn_dflows_drop_gone(struct tn_forward *f, const struct tn_gone *gone)
{
    for (int i = 0; i < TN_DFLOW_AGES; i++)
        TN_LIST_EACH(n, &f->ages[i]) {
            struct tn_dflow *w = TN_CONTAINER(n, struct tn_dflow, age);
            if (gone->is(gone->ctx, &w->dst.ip, tn_dgram_is_subnet(w->up))) end(w);
        }
}

void tn_dflows_drop_all(struct tn_forward *f)
{
    for (int i = 0; i < TN_DFLOW_AGES; i++)
        while (!tn_list_empty(&f->ages[i])) end(TN_CONTAINER(f->ages[i].next, struct tn_dflow, age));
}

static uint64_t expiry(const struct tn_forward *f, int age)
{
    if (tn_list_empty(&f->ages[age])) return TN_NEVER;
    return TN_CONTAINER(f->ages[age].next, struct tn_dflow, age)->last_us + idle_limits_us[age];
}

void tn_dflows_timeout(struct tn_forward *f, uint64_t now_us)
{
    for (int i = 0; i < TN_DFLOW_AGES; i++)
        while (expiry(f, i) <= now_us) end(TN_CONTAINER(f->ages[i].next, struct tn_dflow, age));
}

uint64_t tn_dflows_next_deadline(const struct tn_forward *f)
{
    uint64_t next = TN_NEVER;
    for (int i = 0; i < TN_DFLOW_AGES; i++)
        if (expiry(f, i) < next) next = expiry(f, i);
    return next;
}
