/* What the kernel leaves undone in a super-packet (Linux net/ipv4/tcp_offload.c:tcp_gso_segment, udp_offload.c) is
 * done here, completely and for each piece: IP length, IPv4 id (counted on) and checksum, TCP sequence number, flags and
 * checksum, UDP length and checksum. FIN and PSH belong to the last piece, CWR to the first.
 *
 * The header's own hdr_len is a hint that kernels fill differently; the packet says where its payload begins. */
#include "tun/split.h"

#include "tun/vnet.h"
#include "util/cursor.h"
#include "util/err.h"
#include "wire/ip.h"
#include "wire/tcp.h"
#include "wire/udp.h"

/* One packet: only its checksum may be missing. */
static int begin_single(struct tn_tun_split *s, const struct tn_vnet_hdr *h)
{
    if (s->len > TN_TUN_MTU) return TN_E_TOOBIG;
    s->csum = h->flags & TN_VNET_NEEDS_CSUM;
    if (!s->csum) return 0;
    size_t at = (size_t)h->csum_start + h->csum_offset;
    if (h->csum_start < (s->v4 ? TN_TUN_IP4_HDR : TN_TUN_IP6_HDR) || at + 2 > s->len) return TN_E_MALFORMED;
    s->l4 = h->csum_start;
    s->csum_at = (uint16_t)at;
    s->proto = s->packet[s->v4 ? 9 : 6];
    return 0;
}

static uint32_t pseudo_of(const uint8_t *packet, bool v4, uint8_t proto)
{
    return tn_cksum_add(proto, packet + (v4 ? 12 : 8), v4 ? 8 : 32);
}

static int begin_super(struct tn_tun_split *s, const struct tn_vnet_hdr *h)
{
    uint8_t type = h->gso_type & (uint8_t)~TN_VNET_GSO_ECN;
    bool udp = type == TN_VNET_GSO_UDP;
    if (!udp && type != (s->v4 ? TN_VNET_GSO_TCP4 : TN_VNET_GSO_TCP6)) return TN_E_MALFORMED;
    s->proto = udp ? TN_IPPROTO_UDP : TN_IPPROTO_TCP;
    s->l4 = h->csum_start;
    size_t ip_hdr = s->v4 ? (size_t)(s->packet[0] & 15) * 4 : TN_TUN_IP6_HDR;
    bool placed = s->v4 ? s->l4 == ip_hdr && ip_hdr >= TN_TUN_IP4_HDR : s->l4 >= ip_hdr;
    if (!placed || !(h->flags & TN_VNET_NEEDS_CSUM) || s->l4 + (udp ? TN_UDP_HDR : TN_TCP_HDR_MIN) > s->len) return TN_E_MALFORMED;
    if (s->v4 && s->packet[9] != s->proto) return TN_E_MALFORMED;
    s->hdr_len = s->l4 + (udp ? TN_UDP_HDR : (size_t)(s->packet[s->l4 + 12] >> 4) * 4);
    if (s->hdr_len < s->l4 + (udp ? TN_UDP_HDR : TN_TCP_HDR_MIN) || s->hdr_len > s->len) return TN_E_MALFORMED;
    s->gso_size = h->gso_size;
    if (s->gso_size == 0) return TN_E_MALFORMED;
    size_t most = s->len - s->hdr_len < s->gso_size ? s->len - s->hdr_len : s->gso_size;
    if (s->hdr_len + most > TN_TUN_MTU) return TN_E_TOOBIG;
    s->pseudo = pseudo_of(s->packet, s->v4, s->proto);
    return 0;
}

int tn_tun_split_begin(struct tn_tun_split *s, const uint8_t *bytes, size_t len)
{
    struct tn_vnet_hdr h;
    *s = (struct tn_tun_split){.done = true};
    if (len < TN_VNET_HDR + TN_TUN_IP4_HDR || len > TN_VNET_HDR + TN_TUN_SUPER_MAX) return TN_E_MALFORMED;
    memcpy(&h, bytes, sizeof h);
    s->packet = bytes + TN_VNET_HDR;
    s->len = len - TN_VNET_HDR;
    s->v4 = s->packet[0] >> 4 == 4;
    if (!s->v4 && (s->packet[0] >> 4 != 6 || s->len < TN_TUN_IP6_HDR)) return TN_E_MALFORMED;
    int err = h.gso_type == TN_VNET_GSO_NONE ? begin_single(s, &h) : begin_super(s, &h);
    s->done = err != 0;
    return err;
}

/* The field holds the pseudo header's sum, which counts like any other word. */
static size_t whole(struct tn_tun_split *s, uint8_t *out)
{
    s->done = true;
    memcpy(out, s->packet, s->len);
    if (!s->csum) return s->len;
    uint16_t sum = tn_cksum_fold(tn_cksum_add(0, out + s->l4, s->len - s->l4));
    if (sum == 0 && s->proto == TN_IPPROTO_UDP) sum = 0xffff; /* zero would mean: none */
    tn_put_be16(out + s->csum_at, sum);
    return s->len;
}

static void fix_ip(const struct tn_tun_split *s, uint8_t *out, size_t total)
{
    if (!s->v4) {
        tn_put_be16(out + 4, (uint16_t)(total - TN_TUN_IP6_HDR));
        return;
    }
    tn_put_be16(out + 2, (uint16_t)total);
    tn_put_be16(out + 4, (uint16_t)(tn_get_be16(out + 4) + s->index));
    tn_put_be16(out + 10, 0);
    tn_put_be16(out + 10, tn_cksum_fold(tn_cksum_add(0, out, s->l4)));
}

static void fix_tcp(const struct tn_tun_split *s, uint8_t *l4, size_t l4_len, bool last)
{
    tn_put_be32(l4 + 4, tn_get_be32(l4 + 4) + (uint32_t)s->at);
    if (!last) l4[TN_TUN_TCP_FLAGS] &= (uint8_t)~(TN_TCP_FIN | TN_TCP_PSH);
    if (s->index > 0) l4[TN_TUN_TCP_FLAGS] &= (uint8_t)~TN_TCP_CWR;
    tn_put_be16(l4 + TN_TUN_TCP_CSUM, 0);
    tn_put_be16(l4 + TN_TUN_TCP_CSUM, tn_cksum_fold(tn_cksum_add(s->pseudo + (uint32_t)l4_len, l4, l4_len)));
}

static void fix_udp(const struct tn_tun_split *s, uint8_t *l4, size_t l4_len)
{
    tn_put_be16(l4 + 4, (uint16_t)l4_len);
    tn_put_be16(l4 + TN_TUN_UDP_CSUM, 0);
    uint16_t sum = tn_cksum_fold(tn_cksum_add(s->pseudo + (uint32_t)l4_len, l4, l4_len));
    tn_put_be16(l4 + TN_TUN_UDP_CSUM, sum ? sum : 0xffff);
}

size_t tn_tun_split_next(struct tn_tun_split *s, uint8_t *out)
{
    if (s->done) return 0;
    if (s->gso_size == 0) return whole(s, out);
    size_t left = s->len - s->hdr_len - s->at, piece = left < s->gso_size ? left : s->gso_size;
    bool last = piece == left;
    memcpy(out, s->packet, s->hdr_len);
    memcpy(out + s->hdr_len, s->packet + s->hdr_len + s->at, piece);
    fix_ip(s, out, s->hdr_len + piece);
    if (s->proto == TN_IPPROTO_TCP) fix_tcp(s, out + s->l4, s->hdr_len + piece - s->l4, last);
    else fix_udp(s, out + s->l4, s->hdr_len + piece - s->l4);
    s->at += piece;
    s->index++;
    s->done = last;
    return s->hdr_len + piece;
}
