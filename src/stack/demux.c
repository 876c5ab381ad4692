/* Which flow, listener or socket a packet belongs to. Keys are hashed with a per-stack secret, so a peer can't choose
 * ports that fall into one chain; initial sequence numbers and timestamp offsets come from a second one (RFC 6528,
 * 7323). */
#include "stack/internal.h"

enum { PORT_LAST = 65535 };

struct tuple {
    struct tn_addrport local, remote;
};

static uint64_t hash_tuple(const struct tn_hashkey *key, const struct tn_addrport *local,
                           const struct tn_addrport *remote)
{
    uint8_t bytes[36];
    size_t len = local->ip.family == 4 ? 4 : 16; /* the length tells the families apart */
    memcpy(bytes, local->ip.b, len);
    memcpy(bytes + len, remote->ip.b, len);
    memcpy(bytes + 2 * len, &local->port, 2);
    memcpy(bytes + 2 * len + 2, &remote->port, 2);
    return tn_siphash(key, bytes, 2 * len + 4);
}

uint64_t tn_flow_hash(const struct tn_stack *st, const struct tn_addrport *local, const struct tn_addrport *remote)
{
    return hash_tuple(&st->key, local, remote);
}

static bool flow_eq(const struct tn_hnode *node, const void *key)
{
    const struct tn_flow *f = TN_CONTAINER(node, struct tn_flow, node);
    const struct tuple *t = key;
    return tn_addrport_eq(&f->remote, &t->remote) && tn_addrport_eq(&f->local, &t->local);
}

struct tn_flow *tn_flow_find(const struct tn_stack *st, const struct tn_addrport *local,
                             const struct tn_addrport *remote)
{
    struct tuple t = {*local, *remote};
    struct tn_hnode *n = tn_htable_find(&st->flows, hash_tuple(&st->key, local, remote), flow_eq, &t);
    return n ? TN_CONTAINER(n, struct tn_flow, node) : NULL;
}

int tn_flow_insert(struct tn_stack *st, struct tn_flow *f)
{
    return tn_htable_insert(&st->flows, &f->node, hash_tuple(&st->key, &f->local, &f->remote));
}

void tn_flow_remove(struct tn_stack *st, struct tn_flow *f) { tn_htable_remove(&st->flows, &f->node); }

/* RFC 6528: a clock of 4 us ticks plus a secret of the tuple. */
uint32_t tn_flow_isn(const struct tn_stack *st, const struct tn_flow *f, uint64_t now_us)
{
    return (uint32_t)(now_us / 4) + (uint32_t)hash_tuple(&st->isn_key, &f->local, &f->remote);
}

/* Per tuple, so that timestamps of one tuple keep growing from connection to connection (reuse of TIME_WAIT, PAWS),
 * and don't tell how long we have been up. */
uint32_t tn_flow_ts_offset(const struct tn_stack *st, const struct tn_flow *f)
{
    return (uint32_t)(hash_tuple(&st->isn_key, &f->local, &f->remote) >> 32);
}

/* Free, or in a TIME_WAIT that a new connection may follow: timestamps keep the old one's segments out (RFC 6191). */
static bool port_usable(struct tn_stack *st, const struct tn_addrport *local, const struct tn_addrport *remote,
                        uint64_t now_us)
{
    enum { REST_US = 1000000 };
    struct tn_flow *f = tn_flow_find(st, local, remote);
    if (tn_listener_find(st, local) || (f && !f->is_time_wait)) return false;
    if (!f) return true;
    struct tn_time_wait *tw = TN_CONTAINER(f, struct tn_time_wait, f);
    if (!tw->has_ts || now_us + TN_TCP_TIME_WAIT_US < tw->expires_us + REST_US) return false;
    tn_time_wait_free(st, tw);
    return true;
}

int tn_flow_pick_port(struct tn_stack *st, struct tn_addrport *local, const struct tn_addrport *remote,
                      uint64_t now_us)
{
    unsigned range = PORT_LAST - st->port_first + 1u, start = (unsigned)tn_rng_below(&st->rng, range);
    for (unsigned i = 0; i < range; i++) {
        local->port = (uint16_t)(st->port_first + (start + i) % range);
        if (port_usable(st, local, remote, now_us)) return 0;
    }
    return TN_E_ADDRINUSE;
}

/* ---- listeners and UDP sockets: an exact address first, then any ---- */

static uint64_t hash_local(const struct tn_stack *st, const struct tn_addrport *local)
{
    uint8_t bytes[19] = {local->ip.family};
    memcpy(bytes + 1, local->ip.b, 16);
    memcpy(bytes + 17, &local->port, 2);
    return tn_siphash(&st->key, bytes, sizeof bytes);
}

static bool listener_eq(const struct tn_hnode *node, const void *key)
{
    return tn_addrport_eq(&TN_CONTAINER(node, struct tn_tcp_listener, node)->local, key);
}

static bool sock_eq(const struct tn_hnode *node, const void *key)
{
    return tn_addrport_eq(&TN_CONTAINER(node, struct tn_udp_sock, node)->local, key);
}

static struct tn_hnode *find_local(const struct tn_stack *st, const struct tn_htable *t, tn_hnode_eq *eq,
                                   const struct tn_addrport *local)
{
    if (t->count == 0) return NULL;
    struct tn_hnode *n = tn_htable_find(t, hash_local(st, local), eq, local);
    if (n) return n;
    struct tn_addrport any = {.port = local->port};
    return tn_htable_find(t, hash_local(st, &any), eq, &any);
}

struct tn_tcp_listener *tn_listener_find(const struct tn_stack *st, const struct tn_addrport *local)
{
    struct tn_hnode *n = find_local(st, &st->listeners, listener_eq, local);
    return n ? TN_CONTAINER(n, struct tn_tcp_listener, node) : NULL;
}

struct tn_udp_sock *tn_udp_sock_find(const struct tn_stack *st, const struct tn_addrport *local)
{
    struct tn_hnode *n = find_local(st, &st->udp_socks, sock_eq, local);
    return n ? TN_CONTAINER(n, struct tn_udp_sock, node) : NULL;
}

int tn_listener_insert(struct tn_stack *st, struct tn_tcp_listener *l)
{
    uint64_t h = hash_local(st, &l->local);
    if (tn_htable_find(&st->listeners, h, listener_eq, &l->local)) return TN_E_ADDRINUSE;
    return tn_htable_insert(&st->listeners, &l->node, h);
}

int tn_udp_sock_insert(struct tn_stack *st, struct tn_udp_sock *u)
{
    uint64_t h = hash_local(st, &u->local);
    if (tn_htable_find(&st->udp_socks, h, sock_eq, &u->local)) return TN_E_ADDRINUSE;
    return tn_htable_insert(&st->udp_socks, &u->node, h);
}

bool tn_stack_has_tcp(const struct tn_stack *st, const struct tn_addrport *local, const struct tn_addrport *remote)
{
    return tn_listener_find(st, local) || tn_flow_find(st, local, remote);
}

bool tn_stack_has_udp(const struct tn_stack *st, const struct tn_addrport *local) { return tn_udp_sock_find(st, local); }
