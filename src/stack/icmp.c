/* ICMP on our own addresses: echo both ways, errors about what we sent, and errors about what others sent. */
#include "stack/internal.h"
#include "util/cursor.h"
#include "wire/icmp.h"
#include "wire/udp.h"

#include <stdlib.h>

enum { CKSUM_AT = 2 };

static uint8_t icmp_proto(uint8_t family) { return family == 4 ? TN_IPPROTO_ICMP : TN_IPPROTO_ICMP6; }

static void put_checksum(uint8_t *l4, size_t len, const struct tn_ip *src, const struct tn_ip *dst)
{
    uint32_t sum = src->family == 4 ? 0 : tn_cksum_pseudo(src, dst, TN_IPPROTO_ICMP6, (uint32_t)len);
    tn_put_be16(l4 + CKSUM_AT, tn_cksum_fold(tn_cksum_add(sum, l4, len)));
}

static int send_echo_reply(struct tn_stack *st, const struct tn_ip *from, const struct tn_ip *to, const struct tn_icmp *m)
{
    size_t len = TN_ICMP_HDR + m->len;
    uint8_t small[TN_STACK_MTU], *l4 = len <= sizeof small ? small : malloc(len);
    if (!l4) return TN_E_NOMEM;
    tn_icmp_put(l4, from->family, TN_ICMP_ECHO_REPLY, m->id, m->seq);
    if (m->len) memcpy(l4 + TN_ICMP_HDR, m->body, m->len);
    put_checksum(l4, len, from, to);
    int err = tn_ip_send_large(st, from, to, icmp_proto(from->family), l4, len);
    if (l4 != small) free(l4);
    return err;
}

int tn_stack_echo_reply_from(struct tn_stack *st, const struct tn_ip *from, const struct tn_ip *to, uint16_t id,
                             uint16_t seq, const void *body, size_t len, uint64_t now_us)
{
    struct tn_icmp m = {.id = id, .seq = seq, .body = body, .len = len};
    if (from->family != to->family) return TN_E_INVAL;
    tn_stack_enter(st);
    int err = send_echo_reply(st, from, to, &m);
    tn_stack_leave(st, false, now_us);
    return err;
}

static int error_code(enum tn_icmp_kind kind)
{
    switch (kind) {
    case TN_ICMP_UNREACH_NET: return TN_E_NETUNREACH;
    case TN_ICMP_UNREACH_HOST: return TN_E_HOSTUNREACH;
    case TN_ICMP_UNREACH_PORT: case TN_ICMP_UNREACH_PROTO: return TN_E_REFUSED;
    case TN_ICMP_UNREACH_ADMIN: return TN_E_ACCES;
    default: return 0;
    }
}

/* Only a connection attempt is ended by an error, and only if the error quotes its SYN (RFC 5927 section 4.1): an
 * established flow has retransmissions to find out by itself. */
static void tcp_error(struct tn_stack *st, const struct tn_addrport *local, const struct tn_addrport *remote,
                      uint32_t seq, int err, uint64_t now_us)
{
    struct tn_flow *f = tn_flow_find(st, local, remote);
    if (!f || f->is_time_wait || f->state != TN_TCP_SYN_SENT) return;
    struct tn_tcp *c = TN_CONTAINER(f, struct tn_tcp, f);
    if (seq == c->iss) tn_tcp_end(c, err, now_us);
}

static void take_error(struct tn_stack *st, const struct tn_ippkt *ip, const struct tn_icmp *m, uint64_t now_us)
{
    struct tn_icmp_quote q;
    int err = error_code(m->kind);
    if (!err || tn_icmp_quote_parse(m->body, m->len, &q) != 0) return;
    if (!tn_ip_eq(&q.src, &ip->dst)) return; /* the packet quoted must have come from where the error goes */
    struct tn_addrport local = {q.src, tn_get_be16(q.l4)}, remote = {q.dst, tn_get_be16(q.l4 + 2)};
    if (q.proto == TN_IPPROTO_TCP) tcp_error(st, &local, &remote, tn_get_be32(q.l4 + 4), err, now_us);
    if (q.proto == TN_IPPROTO_UDP) tn_stack_udp_unreach(st, &local, &remote, err, now_us);
}

void tn_stack_icmp_input(struct tn_stack *st, const struct tn_ippkt *ip, uint64_t now_us)
{
    struct tn_icmp m;
    if (tn_icmp_parse(ip->src.family, ip->l4, ip->l4_len, &m) != 0) {
        st->stats.in_malformed++;
        return;
    }
    if (m.kind == TN_ICMP_ECHO_REQUEST) (void)send_echo_reply(st, &ip->dst, &ip->src, &m);
    else if (m.kind == TN_ICMP_ECHO_REPLY && st->on_echo) st->on_echo(st->echo_arg, &ip->src, m.id, m.seq, now_us);
    else if (tn_icmp_is_error(m.kind)) take_error(st, ip, &m, now_us);
}

/* ---- errors out ---- */

/* RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e): no answer to errors, to groups, to what has no single sender, to
 * later fragments. */
static bool may_answer(const struct tn_ippkt *ip)
{
    static const struct tn_ip broadcast = {4, {255, 255, 255, 255}};
    if (ip->frag_off || tn_ip_is_multicast(&ip->dst) || tn_ip_is_multicast(&ip->src)) return false;
    if (tn_ip_eq(&ip->dst, &broadcast) || tn_ip_eq(&ip->src, &broadcast)) return false;
    if (ip->proto == TN_IPPROTO_TSMP) return false; /* the tailnet's own control messages */
    if (ip->proto != icmp_proto(ip->src.family)) return true;
    struct tn_icmp m;
    return tn_icmp_parse(ip->src.family, ip->l4, ip->l4_len, &m) == 0 && !tn_icmp_is_error(m.kind);
}

static size_t put_error(uint8_t *l4, enum tn_unreach what, const struct tn_ippkt *ip, const uint8_t *packet)
{
    static const enum tn_icmp_kind kinds[] = {
        [TN_UNREACH_HOST] = TN_ICMP_UNREACH_HOST,
        [TN_UNREACH_PORT] = TN_ICMP_UNREACH_PORT,
        [TN_UNREACH_ADMIN] = TN_ICMP_UNREACH_ADMIN,
        [TN_UNREACH_PROTO] = TN_ICMP_UNREACH_PROTO,
    };
    size_t max = ip->src.family == 4 ? TN_ICMP_QUOTE_MAX4 : TN_ICMP_QUOTE_MAX6;
    size_t quote = ip->total_len < max ? ip->total_len : max;
    tn_icmp_put(l4, ip->src.family, kinds[what], 0, 0);
    memcpy(l4 + TN_ICMP_HDR, packet, quote);
    return TN_ICMP_HDR + quote;
}

bool tn_stack_icmp_error(struct tn_stack *st, enum tn_unreach what, const struct tn_ippkt *ip, const uint8_t *packet,
                         uint64_t now_us)
{
    if (!may_answer(ip) || !tn_ratelim_take(&st->unreach_limit, now_us)) return false;
    struct tn_ip_out o;
    size_t len = put_error(tn_ip_out_l4(&o), what, ip, packet);
    tn_ip_send(st, &o, &ip->dst, &ip->src, icmp_proto(ip->src.family), len, CKSUM_AT);
    return true;
}

bool tn_stack_unreach(struct tn_stack *st, enum tn_unreach what, const uint8_t *packet, size_t len, uint64_t now_us)
{
    struct tn_ippkt ip;
    if (tn_ippkt_parse(packet, len, &ip) != 0) return false;
    tn_stack_enter(st);
    bool sent = tn_stack_icmp_error(st, what, &ip, packet, now_us);
    tn_stack_leave(st, false, now_us);
    return sent;
}

/* ---- echo from us ---- */

int tn_stack_ping(struct tn_stack *st, const struct tn_ip *to, uint16_t id, uint16_t seq, uint64_t now_us)
{
    const struct tn_ip *from = tn_stack_addr(st, to->family);
    if (!from) return TN_E_NETUNREACH;
    tn_stack_enter(st);
    struct tn_ip_out o;
    tn_icmp_put(tn_ip_out_l4(&o), to->family, TN_ICMP_ECHO_REQUEST, id, seq);
    tn_ip_send(st, &o, from, to, icmp_proto(to->family), TN_ICMP_HDR, CKSUM_AT);
    tn_stack_leave(st, false, now_us);
    return 0;
}

void tn_stack_on_echo_reply(struct tn_stack *st,
                            void (*fn)(void *arg, const struct tn_ip *from, uint16_t id, uint16_t seq,
                                       uint64_t now_us),
                            void *arg)
{
    st->on_echo = fn;
    st->echo_arg = arg;
}
