/* What is not TCP and not for us: passed on where the egress has a way for it, else refused at once.
 *
 *   UDP                          port unreachable: QUIC falls back to TCP in milliseconds instead of waiting for timers;
 *                                but port 53 goes to whoever answers names (dns_udp)
 *   ICMP and ICMPv6 echo         administratively prohibited (3/13, 1/1): a ping that fails, with the reason
 *   port unreachable from a peer ends the flow it speaks of: the peer's application has closed its socket
 *   other ICMP, fragments        silence: an error is never answered by an error (RFC 1122 section 3.2.2)
 *   other protocols              protocol unreachable: SCTP, GRE, ESP, 6in4, 4in6 leave no other way either
 *   multicast and broadcast      silence
 * The stack limits the rate and knows which packets must not be answered. */
#include "forward/private.h"
#include "util/cursor.h"
#include "wire/icmp.h"
#include "wire/ip.h"

enum { ICMP4_ECHO = 8, ICMP6_ECHO = 128 };
enum { TCP_HEADER = 20, FLAG_SYN = 0x02, FLAG_RST = 0x04, FLAG_ACK = 0x10 };

static bool is_group(const struct tn_ip *ip)
{
    static const struct tn_ip broadcast = {4, {255, 255, 255, 255}};
    return tn_ip_is_multicast(ip) || tn_ip_eq(ip, &broadcast);
}

/* Port 53, taken over by the node? */
static bool is_question(struct tn_forward *f, const struct tn_addrport *src, const struct tn_addrport *dst,
                        const uint8_t *payload, size_t len, uint64_t now_us)
{
    if (!f->enabled || dst->port != TN_FORWARD_DNS_PORT || !f->config.dns_udp || is_group(&dst->ip)) return false;
    if (tn_forward_is_subnet(f, dst)) return false; /* a resolver of the network behind us is asked itself */
    uint64_t peer = f->config.peer_of(f->config.ctx, &src->ip);
    return peer && f->config.dns_udp(f->config.ctx, peer, src, dst, payload, len, now_us);
}

void tn_forward_udp(void *forward, const struct tn_addrport *src, const struct tn_addrport *dst, const uint8_t *packet,
                    size_t len, const uint8_t *payload, size_t payload_len, uint64_t now_us)
{
    struct tn_forward *f = forward;
    if (is_question(f, src, dst, payload, payload_len, now_us)) return;
    if (!is_group(&dst->ip) && tn_dflow_udp(f, src, dst, payload, payload_len, now_us)) return;
    f->stats.udp_refused++;
    if (!is_group(&dst->ip)) (void)tn_stack_unreach(f->stack, TN_UNREACH_PORT, packet, len, now_us);
}

/* The peer may only speak of what we sent it. */
static void take_error(struct tn_forward *f, const struct tn_ippkt *p)
{
    struct tn_icmp m;
    struct tn_icmp_quote q;
    if (tn_icmp_parse(p->src.family, p->l4, p->l4_len, &m) != 0 || m.kind != TN_ICMP_UNREACH_PORT) return;
    if (tn_icmp_quote_parse(m.body, m.len, &q) != 0 || q.proto != TN_IPPROTO_UDP || !tn_ip_eq(&q.dst, &p->src)) return;
    struct tn_addrport src = {q.dst, tn_get_be16(q.l4 + 2)}, dst = {q.src, tn_get_be16(q.l4)};
    tn_dflow_peer_closed(f, &src, &dst);
}

static bool is_echo(const struct tn_ippkt *p)
{
    if (p->l4_len < 8) return false;
    return p->proto == TN_IPPROTO_ICMP ? p->l4[0] == ICMP4_ECHO : p->l4[0] == ICMP6_ECHO;
}

static void refuse_other(struct tn_forward *f, const struct tn_ippkt *p, const uint8_t *packet, size_t len, uint64_t now_us)
{
    switch (p->proto) {
    case TN_IPPROTO_TCP:
    case TN_IPPROTO_UDP: return; /* with a header that the stack could not use */
    case TN_IPPROTO_ICMP:
    case TN_IPPROTO_ICMP6:
        if (!is_echo(p)) return;
        f->stats.icmp_refused++;
        (void)tn_stack_unreach(f->stack, TN_UNREACH_ADMIN, packet, len, now_us);
        return;
    default: (void)tn_stack_unreach(f->stack, TN_UNREACH_PROTO, packet, len, now_us);
    }
}

void tn_forward_other(void *forward, uint8_t ipproto, const uint8_t *packet, size_t len, uint64_t now_us)
{
    struct tn_forward *f = forward;
    struct tn_ippkt p;
    if (tn_ippkt_parse(packet, len, &p) != 0 || p.has_frag || is_group(&p.dst)) return;
    bool icmp = p.proto == (p.src.family == 4 ? TN_IPPROTO_ICMP : TN_IPPROTO_ICMP6);
    if (icmp && is_echo(&p) && tn_dflow_echo(f, &p.src, &p.dst, p.l4, p.l4_len, now_us)) return;
    if (icmp && !is_echo(&p)) take_error(f, &p);
    refuse_other(f, &p, packet, len, now_us);
}

/* What a RST in answer needs to know. */
static bool read_syn(const struct tn_ippkt *p, struct tn_syn *out)
{
    if (p->l4_len < TCP_HEADER || (p->l4[13] & (FLAG_SYN | FLAG_RST | FLAG_ACK)) != FLAG_SYN) return false;
    *out = (struct tn_syn){.src = {.ip = p->src, .port = tn_get_be16(p->l4)},
                           .dst = {.ip = p->dst, .port = tn_get_be16(p->l4 + 2)},
                           .seq = tn_get_be32(p->l4 + 4)};
    return true;
}

void tn_forward_refuse(struct tn_forward *f, const uint8_t *packet, size_t len, uint64_t now_us)
{
    struct tn_ippkt p;
    struct tn_syn syn;
    if (!f->enabled || tn_ippkt_parse(packet, len, &p) != 0 || p.has_frag || is_group(&p.dst)) return;
    if (!tn_ippkt_cksum_ok(&p)) return;
    if (p.proto == TN_IPPROTO_TCP && read_syn(&p, &syn)) {
        f->stats.refused++;
        tn_stack_reset_syn(f->stack, &syn, now_us);
    } else if (p.proto == TN_IPPROTO_UDP) {
        f->stats.udp_refused++;
        (void)tn_stack_unreach(f->stack, TN_UNREACH_PORT, packet, len, now_us);
    } else {
        refuse_other(f, &p, packet, len, now_us);
    }
}
