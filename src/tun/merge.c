/* The rules are those of the kernel's own GRO, and stricter where that costs nothing: packets are joined only if
 * the super-packet, cut again, gives the very packets that came, IPv4 ids apart. So headers must be equal but for
 * lengths, checksums, id and sequence number, TCP flags must be ACK alone (PSH ends a super-packet), and sizes must be equal
 * but for a shorter last one.
 *
 * A super-packet says "checksum still to be made", which would make a damaged packet a good one: so the checksum of
 * each is verified before it is joined. A packet that was verified and found alone is marked valid; one that was
 * not looked at goes as it came, for the kernel to judge.
 *
 * A flow has at most one slot, and whatever is not joined flushes the flow's slot first: packets of a flow stay in order. */
#include "tun/merge.h"

#include "tun/vnet.h"
#include "util/cursor.h"
#include "wire/ip.h"
#include "wire/tcp.h"
#include "wire/udp.h"

#include <stdlib.h>

enum { SLOTS = 4 }; /* flows collected at once: bulk one way and acknowledgements the other are two */

/* A packet that might be joined. */
struct piece {
    const uint8_t *packet;
    size_t len, l4, hdr_len; /* hdr_len: IP and transport headers */
    uint8_t proto;
    bool v4;
};

struct slot {
    bool open;
    bool v4;
    uint8_t proto;
    size_t len, l4, hdr_len, size; /* of what is collected; size: payload of the first */
    unsigned count;
    uint32_t next_seq;
    uint8_t *bytes; /* virtio-net header, then the super-packet */
};

struct tn_tun_merge {
    struct tn_tun_merge_config config;
    unsigned victim; /* the slot to give up next when all are taken */
    struct slot slots[SLOTS];
    uint8_t bytes[SLOTS][TN_VNET_HDR + TN_TUN_SUPER_MAX];
};

struct tn_tun_merge *tn_tun_merge_new(const struct tn_tun_merge_config *config)
{
    struct tn_tun_merge *m = malloc(sizeof *m); /* pages are touched by use */
    if (!m) return NULL;
    m->config = *config;
    m->victim = 0;
    for (int i = 0; i < SLOTS; i++) m->slots[i] = (struct slot){.bytes = m->bytes[i]};
    return m;
}

void tn_tun_merge_free(struct tn_tun_merge *m) { free(m); }

/* ---- reading a packet ---- */

/* The plain shape: TCP or UDP right behind an IPv4 header without options (and no fragment) or a bare IPv6 header. */
static bool plain_shape(const uint8_t *packet, size_t len, struct piece *p)
{
    *p = (struct piece){.packet = packet, .len = len, .v4 = packet[0] >> 4 == 4};
    p->l4 = p->v4 ? TN_TUN_IP4_HDR : TN_TUN_IP6_HDR;
    if (len < p->l4 + TN_UDP_HDR || (!p->v4 && packet[0] >> 4 != 6)) return false;
    p->proto = packet[p->v4 ? 9 : 6];
    if (p->v4 && (packet[0] != 0x45 || tn_get_be16(packet + 6) & 0x3fff)) return false;
    return p->proto == TN_IPPROTO_TCP || p->proto == TN_IPPROTO_UDP;
}

static bool verified(const struct piece *p)
{
    uint32_t l4_len = (uint32_t)(p->len - p->l4);
    uint32_t sum = tn_cksum_add(p->proto + l4_len, p->packet + (p->v4 ? 12 : 8), p->v4 ? 8 : 32);
    if (p->v4 && tn_cksum_fold(tn_cksum_add(0, p->packet, TN_TUN_IP4_HDR)) != 0) return false;
    return tn_cksum_fold(tn_cksum_add(sum, p->packet + p->l4, l4_len)) == 0;
}

static bool joinable_tcp(struct piece *p)
{
    const uint8_t *tcp = p->packet + p->l4;
    if (p->len < p->l4 + TN_TCP_HDR_MIN) return false;
    p->hdr_len = p->l4 + (size_t)(tcp[12] >> 4) * 4;
    if (p->hdr_len < p->l4 + TN_TCP_HDR_MIN || p->hdr_len >= p->len) return false; /* a bare ACK carries nothing */
    bool bare = (tcp[TN_TUN_TCP_FLAGS] & ~TN_TCP_PSH) == TN_TCP_ACK && !(tcp[12] & 0x0f);
    return bare && tn_get_be16(tcp + 18) == 0; /* no urgent pointer */
}

static bool joinable_udp(struct piece *p)
{
    const uint8_t *udp = p->packet + p->l4;
    p->hdr_len = p->l4 + TN_UDP_HDR;
    return p->hdr_len < p->len && tn_get_be16(udp + 4) == p->len - p->l4 && tn_get_be16(udp + TN_TUN_UDP_CSUM) != 0;
}

static bool pushes(const struct piece *p)
{
    return p->proto == TN_IPPROTO_TCP && p->packet[p->l4 + TN_TUN_TCP_FLAGS] & TN_TCP_PSH;
}

/* ---- slots ---- */

static bool same_flow(const struct slot *s, const struct piece *p)
{
    const uint8_t *have = s->bytes + TN_VNET_HDR;
    if (!s->open || s->v4 != p->v4 || s->proto != p->proto) return false;
    size_t addrs = p->v4 ? 12 : 8;
    return memcmp(have + addrs, p->packet + addrs, p->l4 + 4 - addrs) == 0; /* addresses, and ports behind them */
}

/* Version, traffic class and flow label, TTL; IPv4's DF. */
static bool same_ip(const uint8_t *a, const uint8_t *b, bool v4)
{
    if (v4) return a[1] == b[1] && a[6] == b[6] && a[7] == b[7] && a[8] == b[8];
    return memcmp(a, b, 4) == 0 && a[7] == b[7];
}

/* Acknowledgement number, header length, window, options. */
static bool same_tcp(const uint8_t *a, const uint8_t *b, size_t hdr)
{
    bool fixed = memcmp(a + 8, b + 8, 5) == 0 && memcmp(a + 14, b + 14, 2) == 0;
    return fixed && memcmp(a + TN_TCP_HDR_MIN, b + TN_TCP_HDR_MIN, hdr - TN_TCP_HDR_MIN) == 0;
}

static bool fits(const struct slot *s, const struct piece *p)
{
    const uint8_t *have = s->bytes + TN_VNET_HDR;
    size_t payload = p->len - p->hdr_len;
    if (s->hdr_len != p->hdr_len || payload > s->size || s->len + payload > TN_TUN_SUPER_MAX) return false;
    if (!same_ip(have, p->packet, p->v4)) return false;
    if (p->proto == TN_IPPROTO_UDP) return true;
    const uint8_t *tcp = p->packet + p->l4;
    return tn_get_be32(tcp + 4) == s->next_seq && same_tcp(have + s->l4, tcp, p->hdr_len - p->l4);
}

static void open_slot(struct slot *s, const struct piece *p)
{
    size_t payload = p->len - p->hdr_len;
    *s = (struct slot){.open = true,
                       .v4 = p->v4,
                       .proto = p->proto,
                       .len = p->len,
                       .l4 = p->l4,
                       .hdr_len = p->hdr_len,
                       .size = payload,
                       .count = 1,
                       .bytes = s->bytes};
    if (p->proto == TN_IPPROTO_TCP) s->next_seq = tn_get_be32(p->packet + p->l4 + 4) + (uint32_t)payload;
    memcpy(s->bytes + TN_VNET_HDR, p->packet, p->len);
}

static void join(struct slot *s, const struct piece *p)
{
    size_t payload = p->len - p->hdr_len;
    memcpy(s->bytes + TN_VNET_HDR + s->len, p->packet + p->hdr_len, payload);
    s->len += payload;
    s->next_seq += (uint32_t)payload;
    s->count++;
    if (pushes(p)) s->bytes[TN_VNET_HDR + s->l4 + TN_TUN_TCP_FLAGS] |= TN_TCP_PSH;
}

/* Headers for the whole, and the pseudo header's sum where the checksum is to be. */
static void finish_super(struct slot *s, struct tn_vnet_hdr *h)
{
    uint8_t *packet = s->bytes + TN_VNET_HDR, *l4 = packet + s->l4;
    size_t l4_len = s->len - s->l4;
    bool tcp = s->proto == TN_IPPROTO_TCP;
    if (s->v4) {
        tn_put_be16(packet + 2, (uint16_t)s->len);
        tn_put_be16(packet + 10, 0);
        tn_put_be16(packet + 10, tn_cksum_fold(tn_cksum_add(0, packet, TN_TUN_IP4_HDR)));
    } else {
        tn_put_be16(packet + 4, (uint16_t)(s->len - TN_TUN_IP6_HDR));
    }
    if (!tcp) tn_put_be16(l4 + 4, (uint16_t)l4_len);
    uint32_t sum = tn_cksum_add(s->proto + (uint32_t)l4_len, packet + (s->v4 ? 12 : 8), s->v4 ? 8 : 32);
    tn_put_be16(l4 + (tcp ? TN_TUN_TCP_CSUM : TN_TUN_UDP_CSUM), (uint16_t)~tn_cksum_fold(sum));
    *h = (struct tn_vnet_hdr){.flags = TN_VNET_NEEDS_CSUM,
                              .gso_type = !tcp ? TN_VNET_GSO_UDP : s->v4 ? TN_VNET_GSO_TCP4 : TN_VNET_GSO_TCP6,
                              .hdr_len = (uint16_t)s->hdr_len,
                              .gso_size = (uint16_t)s->size,
                              .csum_start = (uint16_t)s->l4,
                              .csum_offset = tcp ? TN_TUN_TCP_CSUM : TN_TUN_UDP_CSUM};
}

static void flush_slot(struct tn_tun_merge *m, struct slot *s)
{
    struct tn_vnet_hdr h = {.flags = TN_VNET_DATA_VALID};
    if (s->count > 1) finish_super(s, &h);
    memcpy(s->bytes, &h, sizeof h);
    s->open = false;
    struct iovec iov = {s->bytes, TN_VNET_HDR + s->len};
    m->config.write(m->config.ctx, &iov, 1);
}

static void write_alone(struct tn_tun_merge *m, const uint8_t *packet, size_t len, bool valid)
{
    struct tn_vnet_hdr h = {.flags = valid ? TN_VNET_DATA_VALID : 0};
    struct iovec iov[2] = {{&h, sizeof h}, {(uint8_t *)(uintptr_t)packet, len}};
    m->config.write(m->config.ctx, iov, 2);
}

static struct slot *find_slot(struct tn_tun_merge *m, const struct piece *p)
{
    for (int i = 0; i < SLOTS; i++)
        if (same_flow(&m->slots[i], p)) return &m->slots[i];
    return NULL;
}

static struct slot *free_slot(struct tn_tun_merge *m)
{
    for (int i = 0; i < SLOTS; i++)
        if (!m->slots[i].open) return &m->slots[i];
    struct slot *s = &m->slots[m->victim++ % SLOTS];
    flush_slot(m, s);
    return s;
}

void tn_tun_merge_add(struct tn_tun_merge *m, const uint8_t *packet, size_t len)
{
    struct piece p;
    if (len < TN_TUN_IP4_HDR || len > TN_TUN_SUPER_MAX) return;
    if (!plain_shape(packet, len, &p)) {
        tn_tun_merge_flush(m); /* a fragment or a message about a flow (ICMP) does not overtake it */
        write_alone(m, packet, len, false);
        return;
    }
    struct slot *s = find_slot(m, &p);
    bool joinable = p.proto == TN_IPPROTO_TCP ? joinable_tcp(&p) : m->config.udp && joinable_udp(&p);
    bool valid = joinable && verified(&p);
    if (s && valid && fits(s, &p)) {
        join(s, &p);
        if (p.len - p.hdr_len < s->size || pushes(&p)) flush_slot(m, s);
        return;
    }
    if (s) flush_slot(m, s);
    if (!valid || pushes(&p)) write_alone(m, packet, len, valid);
    else open_slot(s ? s : free_slot(m), &p);
}

void tn_tun_merge_flush(struct tn_tun_merge *m)
{
    for (int i = 0; i < SLOTS; i++)
        if (m->slots[i].open) flush_slot(m, &m->slots[i]);
}

bool tn_tun_merge_pending(const struct tn_tun_merge *m)
{
    for (int i = 0; i < SLOTS; i++)
        if (m->slots[i].open) return true;
    return false;
}
