/* Super-packets cut and joined: against a naive cutter that works byte by byte, against each other (what is joined
 * and cut again is what came, IPv4 ids apart), in order within each flow; damaged packets are never laundered. */
#include "tun/merge.c"
#include "tun/split.c"
#include "util/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

enum { ROUNDS = 3000, PAYLOAD_MAX = 1200 };

static uint64_t dice_state;
static uint32_t dice(uint32_t n)
{
    dice_state = dice_state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (uint32_t)(dice_state >> 33) % n;
}

/* ---- the naive model: checksums 16 bits at a time, from the RFCs ---- */

static uint16_t naive_sum(const uint8_t *p, size_t len, uint32_t sum)
{
    for (size_t i = 0; i < len; i++) sum += i % 2 ? p[i] : (uint32_t)p[i] << 8;
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

static uint16_t naive_l4(const uint8_t *p, bool v4, size_t l4, size_t len, uint8_t proto)
{
    uint8_t pseudo[40] = {0};
    size_t addrs = v4 ? 8 : 32;
    memcpy(pseudo, p + (v4 ? 12 : 8), addrs);
    pseudo[addrs + 1] = proto;
    tn_put_be16(pseudo + addrs + 2, (uint16_t)(len - l4));
    uint32_t sum = naive_sum(pseudo, addrs + 4, 0);
    return (uint16_t)~naive_sum(p + l4, len - l4, sum);
}

/* ---- packets ---- */

struct flow {
    bool v4, udp, ts;
    uint8_t id;
    uint32_t seq;
    uint16_t ip_id;
};

static size_t put_ip(uint8_t *p, const struct flow *f, size_t l4_len)
{
    struct tn_ip src = f->v4 ? tn_ip4(100, 64, 0, f->id) : (struct tn_ip){6, {0xfd, 0x7a, 0x11, [15] = f->id}};
    struct tn_ip dst = f->v4 ? tn_ip4(100, 64, 0, 200) : (struct tn_ip){6, {0xfd, 0x7a, 0x11, [15] = 200}};
    return tn_ip_header_put(p, &src, &dst, f->udp ? TN_IPPROTO_UDP : TN_IPPROTO_TCP, l4_len, 64, f->ip_id);
}

static void fill(uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len; i++) p[i] = (uint8_t)dice(256);
}

/* A packet of the flow with that much payload, checksums right. flags: TCP's beside ACK. */
static size_t make(uint8_t *p, struct flow *f, size_t payload, uint8_t flags)
{
    size_t l4_hdr = f->udp ? 8 : f->ts ? 32 : 20, ip = put_ip(p, f, l4_hdr + payload), len = ip + l4_hdr + payload;
    uint8_t *l4 = p + ip;
    memset(l4, 0, l4_hdr);
    tn_put_be16(l4, (uint16_t)(1000 + f->id));
    tn_put_be16(l4 + 2, 80);
    fill(l4 + l4_hdr, payload);
    if (f->udp) {
        tn_put_be16(l4 + 4, (uint16_t)(8 + payload));
    } else {
        tn_put_be32(l4 + 4, f->seq);
        tn_put_be32(l4 + 8, 77);
        l4[12] = (uint8_t)(l4_hdr / 4 << 4);
        l4[13] = TN_TCP_ACK | flags;
        tn_put_be16(l4 + 14, 512);
        if (f->ts) memcpy(l4 + 20, "\1\1\10\12abcdefgh", 12);
        f->seq += (uint32_t)payload;
    }
    f->ip_id++;
    uint16_t sum = naive_l4(p, f->v4, ip, len, f->udp ? 17 : 6);
    tn_put_be16(l4 + (f->udp ? 6 : 16), sum || !f->udp ? sum : 0xffff);
    return len;
}

/* ---- cutting ---- */

/* A super-packet as the kernel hands it out: pseudo sum in the checksum field. Returns the bytes of header and
 * packet. */
static size_t make_super(uint8_t *out, struct flow *f, size_t payload, uint16_t gso, uint8_t flags)
{
    uint8_t *p = out + TN_VNET_HDR;
    size_t len = make(p, f, payload, flags), l4 = f->v4 ? 20 : 40, field = l4 + (f->udp ? 6 : 16);
    uint8_t pseudo[40] = {0};
    size_t addrs = f->v4 ? 8 : 32;
    memcpy(pseudo, p + (f->v4 ? 12 : 8), addrs);
    pseudo[addrs + 1] = f->udp ? 17 : 6;
    tn_put_be16(pseudo + addrs + 2, (uint16_t)(len - l4));
    tn_put_be16(p + field, naive_sum(pseudo, addrs + 4, 0));
    struct tn_vnet_hdr h = {.flags = TN_VNET_NEEDS_CSUM,
                            .gso_type = f->udp ? TN_VNET_GSO_UDP : f->v4 ? TN_VNET_GSO_TCP4 : TN_VNET_GSO_TCP6,
                            .hdr_len = 0, /* a hint that may be anything */
                            .gso_size = gso,
                            .csum_start = (uint16_t)l4,
                            .csum_offset = f->udp ? 6 : 16};
    if (gso == 0) h.gso_type = TN_VNET_GSO_NONE;
    memcpy(out, &h, sizeof h);
    return TN_VNET_HDR + len;
}

/* What the piece with this offset must be, made from scratch. */
static size_t naive_piece(uint8_t *out, const uint8_t *super, const struct flow *f, size_t hdr, size_t payload,
                          size_t at, size_t gso, unsigned index)
{
    size_t piece = payload - at < gso ? payload - at : gso, len = hdr + piece, l4 = f->v4 ? 20 : 40;
    memcpy(out, super, hdr);
    memcpy(out + hdr, super + hdr + at, piece);
    if (f->v4) {
        tn_put_be16(out + 2, (uint16_t)len);
        tn_put_be16(out + 4, (uint16_t)(tn_get_be16(super + 4) + index));
        tn_put_be16(out + 10, 0);
        tn_put_be16(out + 10, (uint16_t)~naive_sum(out, 20, 0));
    } else {
        tn_put_be16(out + 4, (uint16_t)(len - 40));
    }
    if (f->udp) {
        tn_put_be16(out + l4 + 4, (uint16_t)(8 + piece));
    } else {
        tn_put_be32(out + l4 + 4, tn_get_be32(super + l4 + 4) + (uint32_t)at);
        if (at + piece < payload) out[l4 + 13] &= (uint8_t)~0x09;
        if (index > 0) out[l4 + 13] &= 0x7f;
    }
    size_t field = l4 + (f->udp ? 6 : 16);
    tn_put_be16(out + field, 0);
    uint16_t sum = naive_l4(out, f->v4, l4, len, f->udp ? 17 : 6);
    tn_put_be16(out + field, sum || !f->udp ? sum : 0xffff);
    return len;
}

static void cut_as_the_model(void **state)
{
    static uint8_t super[TN_VNET_HDR + TN_TUN_SUPER_MAX], got[TN_TUN_MTU], want[TN_TUN_MTU];
    dice_state = 1;
    for (int round = 0; round < ROUNDS; round++) {
        struct flow f = {.v4 = dice(2), .udp = dice(2), .ts = dice(2), .id = 1};
        f.seq = 0xffff0000u + dice(0xffff);
        f.ip_id = 0xfff0;
        size_t hdr = (f.v4 ? 20 : 40) + (f.udp ? 8 : f.ts ? 32 : 20);
        uint16_t gso = (uint16_t)(1 + dice((uint32_t)(TN_TUN_MTU - hdr)));
        size_t payload = dice(20) ? 1 + dice(gso * 50u < 64000 ? gso * 50u : 64000) : 0;
        struct tn_tun_split s;
        size_t bytes = make_super(super, &f, payload, gso, (uint8_t)(dice(2) ? 0x89 : dice(2) ? TN_TCP_PSH : 0));
        assert_int_equal(tn_tun_split_begin(&s, super, bytes), 0);
        unsigned index = 0;
        size_t at = 0;
        for (size_t n; (n = tn_tun_split_next(&s, got)) > 0; index++, at += gso) {
            size_t len = naive_piece(want, super + TN_VNET_HDR, &f, hdr, payload, at, gso, index);
            assert_int_equal(n, len);
            assert_memory_equal(got, want, len);
        }
        assert_int_equal(index, payload ? (payload + gso - 1) / gso : 1);
        assert_int_equal(tn_tun_split_next(&s, got), 0);
    }
}

static void single_gets_its_checksum(void **state)
{
    uint8_t super[TN_VNET_HDR + TN_TUN_MTU], got[TN_TUN_MTU];
    for (int i = 0; i < 4; i++) {
        struct flow f = {.v4 = i & 1, .udp = i & 2, .id = 1};
        struct tn_tun_split s;
        size_t bytes = make_super(super, &f, 333, 0, 0);
        assert_int_equal(tn_tun_split_begin(&s, super, bytes), 0);
        size_t len = tn_tun_split_next(&s, got);
        assert_int_equal(len, bytes - TN_VNET_HDR);
        struct tn_ippkt k;
        assert_int_equal(tn_ippkt_parse(got, len, &k), 0);
        assert_true(tn_ippkt_cksum_ok(&k));
        assert_int_equal(tn_tun_split_next(&s, got), 0);
    }
}

static void contradictions(void **state)
{
    static uint8_t b[TN_VNET_HDR + 4000];
    struct flow f = {.v4 = true, .id = 1};
    struct tn_tun_split s;
    size_t len = make_super(b, &f, 3000, 1000, 0);
    struct tn_vnet_hdr good, h;
    memcpy(&good, b, sizeof good);
    const struct {
        struct tn_vnet_hdr h;
        int err;
    } bad[] = {
        {{1, TN_VNET_GSO_TCP6, 40, 1000, 20, 16}, TN_E_MALFORMED}, /* family */
        {{0, TN_VNET_GSO_TCP4, 40, 1000, 20, 16}, TN_E_MALFORMED}, /* a super-packet without a checksum to make */
        {{1, TN_VNET_GSO_TCP4, 40, 0, 20, 16}, TN_E_MALFORMED},
        {{1, TN_VNET_GSO_TCP4, 40, 1000, 24, 16}, TN_E_MALFORMED}, /* not where TCP begins */
        {{1, TN_VNET_GSO_TCP4, 40, 1000, 65535, 16}, TN_E_MALFORMED},
        {{1, TN_VNET_GSO_UDP, 40, 1000, 20, 6}, TN_E_MALFORMED}, /* the packet is TCP */
        {{1, 3, 40, 1000, 20, 16}, TN_E_MALFORMED}, /* UFO, which was not offered */
        {{1, TN_VNET_GSO_TCP4, 40, 1241, 20, 16}, TN_E_TOOBIG},
        {{1, TN_VNET_GSO_NONE, 0, 0, 20, 16}, TN_E_TOOBIG},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        memcpy(b, &bad[i].h, sizeof h);
        assert_int_equal(tn_tun_split_begin(&s, b, len), bad[i].err);
        assert_int_equal(tn_tun_split_next(&s, b), 0);
    }
    memcpy(b, &good, sizeof good);
    for (size_t n = 0; n < TN_VNET_HDR + 40; n++) assert_int_equal(tn_tun_split_begin(&s, b, n), TN_E_MALFORMED);
    b[TN_VNET_HDR + 20 + 12] = 0x40; /* a data offset below the fixed header */
    assert_int_equal(tn_tun_split_begin(&s, b, len), TN_E_MALFORMED);
    h = (struct tn_vnet_hdr){.flags = 1, .csum_start = 20, .csum_offset = 2000};
    memcpy(b, &h, sizeof h);
    assert_int_equal(tn_tun_split_begin(&s, b, TN_VNET_HDR + 200), TN_E_MALFORMED);
}

/* ---- joining ---- */

enum { FLOWS = 6, KEPT_MAX = 4000 };

struct kept {
    uint8_t bytes[TN_TUN_MTU];
    size_t len;
};

/* What was written, cut again; and how much of it was joined. */
struct sink {
    struct kept packets[KEPT_MAX];
    size_t n, writes, supers;
    bool valid[KEPT_MAX]; /* claimed to be good: by DATA_VALID, or by a checksum made anew */
};

static void take_write(void *ctx, const struct iovec *iov, int n)
{
    static uint8_t all[TN_VNET_HDR + TN_TUN_SUPER_MAX];
    struct sink *k = ctx;
    size_t len = 0;
    for (int i = 0; i < n; i++) {
        memcpy(all + len, iov[i].iov_base, iov[i].iov_len);
        len += iov[i].iov_len;
    }
    struct tn_vnet_hdr h;
    struct tn_tun_split s;
    memcpy(&h, all, sizeof h);
    assert_int_equal(tn_tun_split_begin(&s, all, len), 0);
    k->writes++;
    k->supers += h.gso_type != TN_VNET_GSO_NONE;
    for (size_t got; (got = tn_tun_split_next(&s, k->packets[k->n].bytes)) > 0; k->n++) {
        assert_true(k->n + 1 < KEPT_MAX);
        k->packets[k->n].len = got;
        k->valid[k->n] = h.flags != 0;
    }
}

static struct tn_tun_merge *merger(struct sink *k, bool udp)
{
    struct tn_tun_merge_config config = {.write = take_write, .ctx = k, .udp = udp};
    struct tn_tun_merge *m = tn_tun_merge_new(&config);
    assert_non_null(m);
    return m;
}

/* Source address, ports and protocol: which flow. */
static int flow_of(const uint8_t *p)
{
    bool v4 = p[0] >> 4 == 4;
    return p[v4 ? 15 : 23];
}

static void blank_id(uint8_t *p)
{
    if (p[0] >> 4 != 4) return;
    tn_put_be16(p + 4, 0);
    tn_put_be16(p + 10, 0);
}

/* What was written of a flow is what was sent, in its order. */
static void compare_flow(struct kept *sent, size_t nsent, struct sink *k, int flow)
{
    for (size_t a = 0, b = 0;; a++, b++) {
        while (a < nsent && flow_of(sent[a].bytes) != flow) a++;
        while (b < k->n && flow_of(k->packets[b].bytes) != flow) b++;
        assert_true((a == nsent) == (b == k->n));
        if (a == nsent) return;
        blank_id(sent[a].bytes);
        blank_id(k->packets[b].bytes);
        assert_int_equal(sent[a].len, k->packets[b].len);
        assert_memory_equal(sent[a].bytes, k->packets[b].bytes, sent[a].len);
    }
}

/* Random packets of several flows, now and then odd ones, in random bursts. */
static void join_and_cut(void **state)
{
    static struct kept sent[KEPT_MAX];
    struct sink *k = calloc(1, sizeof *k);
    assert_non_null(k);
    dice_state = 7;
    for (int round = 0; round < 60; round++) {
        struct flow flows[FLOWS];
        struct tn_tun_merge *m = merger(k, round % 2);
        size_t nsent = 0;
        k->n = k->writes = k->supers = 0;
        for (int i = 0; i < FLOWS; i++) {
            flows[i] = (struct flow){.v4 = dice(2), .udp = dice(3) == 0, .ts = dice(2), .id = (uint8_t)(i + 1)};
            flows[i].seq = dice(~0u);
        }
        while (nsent < KEPT_MAX - 100) {
            struct flow *f = &flows[dice(FLOWS)];
            size_t size = 1 + dice(PAYLOAD_MAX);
            for (uint32_t burst = 1 + dice(90); burst > 0 && nsent < KEPT_MAX - 100; burst--) {
                struct kept *s = &sent[nsent++];
                size_t payload = dice(40) ? size : dice(PAYLOAD_MAX);
                s->len = make(s->bytes, f, payload, (uint8_t)(dice(30) ? 0 : 1 << dice(8)));
                if (dice(50) == 0) s->bytes[dice(2) ? 1 : f->v4 ? 8 : 7] ^= 1; /* TOS, TTL; IPv4's sum is wrong then */
                if (dice(60) == 0) f->seq += dice(5); /* a hole */
                tn_tun_merge_add(m, s->bytes, s->len);
            }
            if (dice(4) == 0) tn_tun_merge_flush(m);
        }
        tn_tun_merge_flush(m);
        assert_false(tn_tun_merge_pending(m));
        assert_int_equal(k->n, nsent);
        assert_true(k->writes < nsent && k->supers > 0);
        for (int flow = 1; flow <= FLOWS; flow++) compare_flow(sent, nsent, k, flow);
        tn_tun_merge_free(m);
    }
    free(k);
}

/* A packet whose checksum is wrong stays wrong, and is not called valid. */
static void damage_is_not_laundered(void **state)
{
    struct sink *k = calloc(1, sizeof *k);
    assert_non_null(k);
    for (int kind = 0; kind < 4; kind++) {
        struct flow f = {.v4 = kind & 1, .udp = kind & 2, .id = 1};
        struct tn_tun_merge *m = merger(k, true);
        uint8_t p[3][TN_TUN_MTU];
        size_t len[3];
        k->n = 0;
        for (int i = 0; i < 3; i++) len[i] = make(p[i], &f, 500, 0);
        p[1][len[1] - 7] ^= 0x10;
        for (int i = 0; i < 3; i++) tn_tun_merge_add(m, p[i], len[i]);
        tn_tun_merge_flush(m);
        assert_int_equal(k->n, 3);
        assert_true(k->valid[0] && !k->valid[1] && k->valid[2]);
        assert_memory_equal(k->packets[1].bytes, p[1], len[1]);
        tn_tun_merge_free(m);
    }
    free(k);
}

static void full_super_packet(void **state)
{
    struct sink *k = calloc(1, sizeof *k);
    assert_non_null(k);
    struct flow f = {.v4 = true, .ts = true, .id = 1};
    struct tn_tun_merge *m = merger(k, true);
    uint8_t p[TN_TUN_MTU];
    for (int i = 0; i < 120; i++) {
        size_t len = make(p, &f, 1228, i == 119 ? TN_TCP_PSH : 0);
        tn_tun_merge_add(m, p, len);
    }
    assert_false(tn_tun_merge_pending(m)); /* PSH closes */
    assert_true(k->n == 120 && k->writes == 3 && k->supers == 3); /* 53, 53, 14 */
    tn_tun_merge_add(m, p, 0);
    tn_tun_merge_add(m, p, 19);
    tn_tun_merge_flush(m);
    assert_int_equal(k->writes, 3);
    tn_tun_merge_free(m);
    free(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cut_as_the_model),     cmocka_unit_test(single_gets_its_checksum),
        cmocka_unit_test(contradictions),       cmocka_unit_test(join_and_cut),
        cmocka_unit_test(damage_is_not_laundered), cmocka_unit_test(full_super_packet),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
