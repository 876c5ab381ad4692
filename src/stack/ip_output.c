/* Packets out: IP header in front, checksum filled, fragments where a datagram is larger than the MTU. */
#include "stack/internal.h"
#include "util/cursor.h"

#include <stdlib.h>

enum { FRAG_HDR6 = 8, IPPROTO_FRAGMENT = 44, IP4_MF = 0x2000 };

static void emit(struct tn_stack *st, uint8_t *packet, size_t len)
{
    tn_train_flush(st);
    st->stats.out_packets++;
    st->cb.output(st->ctx, packet, len);
}

void tn_ip_send(struct tn_stack *st, struct tn_ip_out *o, const struct tn_ip *src, const struct tn_ip *dst,
                uint8_t proto, size_t l4_len, int cksum_at)
{
    uint8_t *l4 = tn_ip_out_l4(o);
    if (cksum_at >= 0) {
        uint32_t sum = proto == TN_IPPROTO_ICMP ? 0 : tn_cksum_pseudo(src, dst, proto, (uint32_t)l4_len);
        uint16_t cksum = tn_cksum_fold(tn_cksum_add(sum, l4, l4_len));
        if (cksum == 0 && proto == TN_IPPROTO_UDP) cksum = 0xffff; /* zero means "none" */
        tn_put_be16(l4 + cksum_at, cksum);
    }
    size_t hdr = src->family == 4 ? 20 : 40;
    tn_ip_header_put(l4 - hdr, src, dst, proto, l4_len, TN_STACK_TTL, st->ip_id++);
    emit(st, l4 - hdr, hdr + l4_len);
}

static void fragment4(struct tn_stack *st, struct tn_ip_out *o, const struct tn_ip *src, const struct tn_ip *dst,
                      uint8_t proto, const uint8_t *l4, size_t l4_len)
{
    uint16_t id = st->ip_id++;
    size_t room = (st->mtu - 20u) / 8 * 8;
    for (size_t at = 0, n; at < l4_len; at += n) {
        n = l4_len - at < room ? l4_len - at : room;
        uint8_t *hdr = tn_ip_out_l4(o) - 20;
        tn_ip_header_put(hdr, src, dst, proto, n, TN_STACK_TTL, id);
        tn_put_be16(hdr + 6, (uint16_t)((at + n < l4_len ? IP4_MF : 0) | at / 8));
        tn_put_be16(hdr + 10, 0);
        tn_put_be16(hdr + 10, tn_cksum_fold(tn_cksum_add(0, hdr, 20)));
        memcpy(hdr + 20, l4 + at, n);
        emit(st, hdr, 20 + n);
    }
}

static void fragment6(struct tn_stack *st, struct tn_ip_out *o, const struct tn_ip *src, const struct tn_ip *dst,
                      uint8_t proto, const uint8_t *l4, size_t l4_len)
{
    uint32_t id = st->frag_id++;
    size_t room = (st->mtu - 40u - FRAG_HDR6) / 8 * 8;
    for (size_t at = 0, n; at < l4_len; at += n) {
        n = l4_len - at < room ? l4_len - at : room;
        uint8_t *hdr = tn_ip_out_l4(o) - 40, *frag = hdr + 40;
        tn_ip_header_put(hdr, src, dst, IPPROTO_FRAGMENT, FRAG_HDR6 + n, TN_STACK_TTL, 0);
        frag[0] = proto;
        frag[1] = 0;
        tn_put_be16(frag + 2, (uint16_t)(at | (at + n < l4_len ? 1 : 0)));
        tn_put_be32(frag + 4, id);
        memcpy(frag + FRAG_HDR6, l4 + at, n);
        emit(st, hdr, 40 + FRAG_HDR6 + n);
    }
}

int tn_ip_send_large(struct tn_stack *st, const struct tn_ip *src, const struct tn_ip *dst, uint8_t proto,
                     const uint8_t *l4, size_t l4_len)
{
    struct tn_ip_out o;
    size_t hdr = src->family == 4 ? 20 : 40;
    if (l4_len > 65535 - (src->family == 4 ? 20u : 0u)) return TN_E_TOOBIG;
    if (hdr + l4_len <= st->mtu) {
        memcpy(tn_ip_out_l4(&o), l4, l4_len);
        tn_ip_send(st, &o, src, dst, proto, l4_len, -1);
    } else if (src->family == 4) {
        fragment4(st, &o, src, dst, proto, l4, l4_len);
    } else {
        fragment6(st, &o, src, dst, proto, l4, l4_len);
    }
    return 0;
}
