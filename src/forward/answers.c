/* What is not TCP and not for us: refused at once, never passed on, in every mode alike.
 *
 *   UDP                          port unreachable: QUIC falls back to TCP in milliseconds instead of waiting for timers
 *   ICMP and ICMPv6 echo         administratively prohibited (3/13, 1/1): a ping that fails, with the reason
 *   other ICMP, fragments        silence: an error is never answered by an error (RFC 1122 section 3.2.2)
 *   other protocols              protocol unreachable: SCTP, GRE, ESP, 6in4, 4in6 leave no other way either
 *   multicast and broadcast      silence
 * The stack limits the rate and knows which packets must not be answered. */
#include "forward/private.h"
#include "util/cursor.h"
#include "wire/ip.h"

enum { ICMP4_ECHO = 8, ICMP6_ECHO = 128 };
enum { TCP_HEADER = 20, FLAG_SYN = 0x02, FLAG_RST = 0x04, FLAG_ACK = 0x10 };

static bool is_group(const struct tn_ip *ip)
{
    static const struct tn_ip broadcast = {4, {255, 255, 255, 255}};
    return tn_ip_is_multicast(ip) || tn_ip_eq(ip, &broadcast);
}

void tn_forward_udp(void *forward, const struct tn_addrport *src, const struct tn_addrport *dst, const uint8_t *packet,
                    size_t len, const uint8_t *payload, size_t payload_len, uint64_t now_us)
{
    struct tn_forward *f = forward;
    f->stats.udp_refused++;
    if (!is_group(&dst->ip)) (void)tn_stack_unreach(f->stack, TN_UNREACH_PORT, packet, len, now_us);
}

static bool is_echo(const struct tn_ippkt *p)
{
    if (p->l4_len < 8) return false;
    return p->proto == TN_IPPROTO_ICMP ? p->l4[0] == ICMP4_ECHO : p->l4[0] == ICMP6_ECHO;
}

void tn_forward_other(void *forward, uint8_t ipproto, const uint8_t *packet, size_t len, uint64_t now_us)
{
    struct tn_forward *f = forward;
    struct tn_ippkt p;
    if (tn_ippkt_parse(packet, len, &p) != 0 || p.has_frag || is_group(&p.dst)) return;
    switch (p.proto) {
    case TN_IPPROTO_TCP:
    case TN_IPPROTO_UDP: return; /* with a header that the stack could not use */
    case TN_IPPROTO_ICMP:
    case TN_IPPROTO_ICMP6:
        if (!is_echo(&p)) return;
        f->stats.icmp_refused++;
        (void)tn_stack_unreach(f->stack, TN_UNREACH_ADMIN, packet, len, now_us);
        return;
    default: (void)tn_stack_unreach(f->stack, TN_UNREACH_PROTO, packet, len, now_us);
    }
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
        tn_forward_other(f, p.proto, packet, len, now_us);
    }
}
