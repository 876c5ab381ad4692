/* UDP: sockets on our own addresses, datagrams from foreign ones for forwarders. Callbacks come while the packet is
 * being taken in; a socket unbound meanwhile is freed when the outermost call leaves. */
#include "stack/internal.h"
#include "util/cursor.h"
#include "wire/udp.h"

#include <stdlib.h>

enum { CKSUM_AT = 6, UDP_MAX = 65507, PORT_FIRST = 49152, PORTS = 65536 - PORT_FIRST };

void tn_stack_udp_input(struct tn_stack *st, const struct tn_ippkt *ip, const uint8_t *packet, uint64_t now_us)
{
    struct tn_udp_hdr u;
    if (tn_udp_hdr_parse(ip->l4, ip->l4_len, &u) != 0) {
        st->stats.in_malformed++;
        return;
    }
    struct tn_addrport local = {ip->dst, u.dport}, remote = {ip->src, u.sport};
    if (!tn_stack_is_own(st, &ip->dst)) {
        if (st->cb.foreign_udp)
            st->cb.foreign_udp(st->ctx, &remote, &local, packet, ip->total_len, u.payload, u.len, now_us);
        return;
    }
    struct tn_udp_sock *sock = tn_udp_sock_find(st, &local);
    if (!sock) tn_stack_icmp_error(st, TN_UNREACH_PORT, ip, packet, now_us);
    else if (sock->ev.on_datagram) sock->ev.on_datagram(sock->arg, &local, &remote, u.payload, u.len, now_us);
}

void tn_stack_udp_unreach(struct tn_stack *st, const struct tn_addrport *local, const struct tn_addrport *to, int err,
                          uint64_t now_us)
{
    struct tn_udp_sock *sock = tn_udp_sock_find(st, local);
    if (sock && sock->ev.on_unreach) sock->ev.on_unreach(sock->arg, to, err, now_us);
}

/* ---- sockets ---- */

static int insert_sock(struct tn_stack *st, struct tn_udp_sock *u)
{
    if (u->local.port) return tn_udp_sock_insert(st, u);
    unsigned start = (unsigned)tn_rng_below(&st->rng, PORTS);
    for (unsigned i = 0; i < PORTS; i++) {
        u->local.port = (uint16_t)(PORT_FIRST + (start + i) % PORTS);
        int err = tn_udp_sock_insert(st, u);
        if (err != TN_E_ADDRINUSE) return err;
    }
    return TN_E_ADDRINUSE;
}

int tn_udp_bind(struct tn_stack *st, const struct tn_addrport *local, const struct tn_udp_events *ev, void *arg,
                struct tn_udp_sock **out)
{
    if (local->ip.family && !tn_stack_is_own(st, &local->ip)) return TN_E_INVAL;
    struct tn_udp_sock *u = calloc(1, sizeof *u);
    if (!u) return TN_E_NOMEM;
    u->st = st;
    u->local = *local;
    u->ev = *ev;
    u->arg = arg;
    int err = insert_sock(st, u);
    if (err) {
        free(u);
        return err;
    }
    tn_list_push_back(&st->all_socks, &u->all_node);
    *out = u;
    return 0;
}

void tn_udp_unbind(struct tn_udp_sock *u)
{
    if (!u) return;
    struct tn_stack *st = u->st;
    tn_stack_enter(st);
    tn_htable_remove(&st->udp_socks, &u->node);
    tn_list_remove(&u->all_node);
    tn_list_push_back(&st->dead_socks, &u->all_node);
    tn_stack_leave(st, false, 0);
}

struct tn_addrport tn_udp_local(const struct tn_udp_sock *u) { return u->local; }

/* ---- sending ---- */

static int send_datagram(struct tn_stack *st, const struct tn_addrport *from, const struct tn_addrport *to,
                         const void *bytes, size_t len)
{
    if (from->ip.family != to->ip.family || !to->ip.family) return TN_E_INVAL;
    if (len > UDP_MAX) return TN_E_TOOBIG;
    if (tn_train_add_udp(st, from, to, bytes, len)) return 0;
    size_t total = TN_UDP_HDR + len;
    uint8_t small[TN_STACK_MTU], *l4 = total <= sizeof small ? small : malloc(total);
    if (!l4) return TN_E_NOMEM;
    tn_udp_hdr_put(l4, from->port, to->port, len);
    if (len) memcpy(l4 + TN_UDP_HDR, bytes, len);
    uint32_t sum = tn_cksum_pseudo(&from->ip, &to->ip, TN_IPPROTO_UDP, (uint32_t)total);
    uint16_t cksum = tn_cksum_fold(tn_cksum_add(sum, l4, total));
    tn_put_be16(l4 + CKSUM_AT, cksum ? cksum : 0xffff);
    tn_stack_enter(st);
    int err = tn_ip_send_large(st, &from->ip, &to->ip, TN_IPPROTO_UDP, l4, total);
    tn_stack_leave(st, false, 0);
    if (l4 != small) free(l4);
    return err;
}

int tn_udp_sendto(struct tn_udp_sock *u, const struct tn_addrport *from, const struct tn_addrport *to,
                  const void *bytes, size_t len, uint64_t now_us)
{
    struct tn_addrport src = {.port = u->local.port};
    if (from && from->ip.family) src.ip = from->ip;
    else if (u->local.ip.family) src.ip = u->local.ip;
    else {
        const struct tn_ip *own = tn_stack_addr(u->st, to->ip.family);
        if (!own) return TN_E_NETUNREACH;
        src.ip = *own;
    }
    if (!tn_stack_is_own(u->st, &src.ip)) return TN_E_INVAL;
    return send_datagram(u->st, &src, to, bytes, len);
}

int tn_stack_udp_send_from(struct tn_stack *st, const struct tn_addrport *from, const struct tn_addrport *to,
                           const void *bytes, size_t len, uint64_t now_us)
{
    return send_datagram(st, from, to, bytes, len);
}
