/* Raw packets into the stack: the input is a row of packets, each after two bytes of length; the first byte of a
 * packet says whether its checksums are put right first, so that the fuzzer gets past them. A listener, a UDP socket
 * and hooks are there. */
#include "stack/stack.h"
#include "util/cursor.h"
#include "util/heap.h"
#include "wire/ip.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct box {
    struct tn_stack *st;
    uint64_t rng, now;
    unsigned out;
};

static void output(void *ctx, uint8_t *packet, size_t len)
{
    struct box *b = ctx;
    struct tn_ippkt ip;
    if (len > TN_STACK_MTU || tn_ippkt_parse(packet, len, &ip) != 0) abort();
    if (!ip.has_frag && !tn_ippkt_cksum_ok(&ip)) abort();
    if (++b->out > 100000) abort(); /* it feeds on itself */
}

static enum tn_syn_verdict on_syn(void *ctx, const struct tn_syn *syn, uint64_t now_us)
{
    struct box *b = ctx;
    static const struct tn_tcp_events none;
    struct tn_tcp *c;
    if (syn->dst.port % 3 == 0) return TN_SYN_RESET;
    if (syn->dst.port % 3 == 1)
        return tn_tcp_accept_syn(b->st, syn, &none, NULL, now_us, &c) == 0 ? TN_SYN_HELD : TN_SYN_DROP;
    return TN_SYN_DROP;
}

static bool on_tcp(void *ctx, const struct tn_addrport *src, const struct tn_addrport *dst, bool rst, uint64_t now_us)
{
    return src->port & 1;
}

static void on_udp(void *ctx, const struct tn_addrport *src, const struct tn_addrport *dst, const uint8_t *packet,
                   size_t len, const uint8_t *payload, size_t payload_len, uint64_t now_us)
{
    struct box *b = ctx;
    if (payload < packet || payload + payload_len > packet + len) abort();
    tn_stack_unreach(b->st, TN_UNREACH_PORT, packet, len, now_us);
}

static void on_other(void *ctx, uint8_t proto, const uint8_t *packet, size_t len, uint64_t now_us)
{
    tn_stack_unreach(((struct box *)ctx)->st, TN_UNREACH_PROTO, packet, len, now_us);
}

static void on_datagram(void *arg, const struct tn_addrport *local, const struct tn_addrport *from,
                        const uint8_t *bytes, size_t len, uint64_t now_us)
{
    struct tn_udp_sock **u = arg;
    tn_udp_sendto(*u, local, from, bytes, len, now_us);
}

static void repair(uint8_t *p, size_t len)
{
    struct tn_ippkt ip;
    if (len >= 20 && p[0] >> 4 == 4 && (size_t)(p[0] & 15) * 4 >= 20 && (size_t)(p[0] & 15) * 4 <= len) {
        tn_put_be16(p + 10, 0);
        tn_put_be16(p + 10, tn_cksum_fold(tn_cksum_add(0, p, (size_t)(p[0] & 15) * 4)));
    }
    if (tn_ippkt_parse(p, len, &ip) != 0 || ip.has_frag) return;
    size_t at = ip.proto == TN_IPPROTO_TCP ? 16 : ip.proto == TN_IPPROTO_UDP ? 6 : 2;
    if (ip.l4_len < at + 2) return;
    uint8_t *l4 = p + ip.hdr_len;
    tn_put_be16(l4 + at, 0);
    uint32_t sum = ip.proto == TN_IPPROTO_ICMP ? 0 : tn_cksum_pseudo(&ip.src, &ip.dst, ip.proto, (uint32_t)ip.l4_len);
    tn_put_be16(l4 + at, tn_cksum_fold(tn_cksum_add(sum, l4, ip.l4_len)));
}

static void feed(struct box *b, const uint8_t *bytes, size_t len)
{
    uint8_t *p = malloc(len ? len : 1);
    if (!p) return;
    memcpy(p, bytes + 1, len);
    if (bytes[0] & 1) repair(p, len);
    b->now += bytes[0] & 2 ? 300000 : 100;
    tn_stack_input(b->st, p, len, b->now);
    free(p);
    if (tn_stack_next_deadline(b->st) <= b->now) tn_stack_timeout(b->st, b->now);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct tn_tcp_events none;
    struct box b = {.now = 1000000};
    struct tn_udp_sock *u = NULL;
    struct tn_stack_config config = {.budget = 1 << 20, .rng = tn_rng_seeded(&b.rng), .ctx = &b,
                                     .cb = {output, on_syn, on_tcp, on_udp, on_other}};
    if (!(b.st = tn_stack_new(&config))) return 0;
    struct tn_ip own[2] = {tn_ip4(100, 64, 0, 1), {6, {0xfd, [15] = 1}}}, peer = tn_ip4(100, 64, 0, 2);
    tn_stack_set_addrs(b.st, own, 2, b.now);
    struct tn_udp_events ev = {.on_datagram = on_datagram};
    tn_udp_bind(b.st, &(struct tn_addrport){.port = 53}, &ev, &u, &u);
    struct tn_tcp *c;
    tn_tcp_connect(b.st, NULL, &(struct tn_addrport){peer, 80}, &none, NULL, b.now, &c);
    struct tn_rd r = tn_rd_init(data, size);
    while (tn_rd_left(&r) > 3) {
        size_t len = tn_rd_be16(&r) % 2000 + 1;
        if (len > tn_rd_left(&r)) len = tn_rd_left(&r);
        const uint8_t *at = tn_rd_take(&r, len);
        feed(&b, at, len - 1);
    }
    struct tn_stack_stats stats;
    tn_stack_stats(b.st, &stats);
    if (stats.chunk_bytes > stats.budget + 4096) abort();
    tn_stack_free(b.st);
    return 0;
}
