/* Packets from peers on their way to the TUN: every one is written, once; what was joined and is cut again is what came,
 * IPv4 ids apart, in order within a flow (here: all TCP packets of one input that begin alike). Input: length (two
 * bytes) and packet, again and again; a length with the top bit set has its checksums made right first, so that the
 * fuzzer gets to the joining. */
#include "tun/merge.h"
#include "tun/split.h"
#include "tun/vnet.h"
#include "util/cursor.h"
#include "wire/ip.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PACKETS_MAX = 256 };

struct packets {
    uint8_t bytes[PACKETS_MAX][TN_TUN_MTU];
    size_t len[PACKETS_MAX];
    bool found[PACKETS_MAX];
    size_t n;
};

static void check(bool ok)
{
    if (!ok) abort();
}

static void blank_id(uint8_t *p, size_t len)
{
    if (len < 20 || p[0] >> 4 != 4) return;
    tn_put_be16(p + 4, 0);
    tn_put_be16(p + 10, 0);
}

/* Crosses off the first packet of this very content. */
static void cross_off(struct packets *sent, const uint8_t *packet, size_t len)
{
    uint8_t mine[TN_TUN_MTU], its[TN_TUN_MTU];
    memcpy(mine, packet, len);
    blank_id(mine, len);
    for (size_t i = 0; i < sent->n; i++) {
        if (sent->found[i] || sent->len[i] != len) continue;
        memcpy(its, sent->bytes[i], len);
        blank_id(its, len);
        if (memcmp(its, mine, len) != 0) continue;
        sent->found[i] = true;
        return;
    }
    check(false); /* a packet nobody sent */
}

static void take_write(void *ctx, const struct iovec *iov, int n)
{
    static uint8_t all[TN_VNET_HDR + TN_TUN_SUPER_MAX], out[TN_TUN_MTU];
    size_t total = 0;
    struct tn_tun_split s;
    for (int i = 0; i < n; i++) {
        check(total + iov[i].iov_len <= sizeof all);
        memcpy(all + total, iov[i].iov_base, iov[i].iov_len);
        total += iov[i].iov_len;
    }
    if (all[1] == TN_VNET_GSO_NONE) {
        cross_off(ctx, all + TN_VNET_HDR, total - TN_VNET_HDR);
        return;
    }
    check(tn_tun_split_begin(&s, all, total) == 0);
    for (size_t len; (len = tn_tun_split_next(&s, out)) > 0;) cross_off(ctx, out, len);
}

static void make_right(uint8_t *p, size_t len)
{
    bool v4 = p[0] >> 4 == 4;
    size_t l4 = v4 ? 20 : 40;
    uint8_t proto = p[v4 ? 9 : 6];
    if (len < l4 + 20) return;
    if (v4) {
        tn_put_be16(p + 2, (uint16_t)len);
        tn_put_be16(p + 10, 0);
        tn_put_be16(p + 10, tn_cksum_fold(tn_cksum_add(0, p, 20)));
    } else {
        tn_put_be16(p + 4, (uint16_t)(len - 40));
    }
    size_t field = l4 + (proto == TN_IPPROTO_TCP ? 16 : 6);
    uint32_t sum = tn_cksum_add(proto + (uint32_t)(len - l4), p + (v4 ? 12 : 8), v4 ? 8 : 32);
    tn_put_be16(p + field, 0);
    tn_put_be16(p + field, tn_cksum_fold(tn_cksum_add(sum, p + l4, len - l4)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct packets sent;
    struct tn_tun_merge_config config = {.write = take_write, .ctx = &sent, .udp = true};
    struct tn_tun_merge *m = tn_tun_merge_new(&config);
    check(m != NULL);
    sent.n = 0;
    while (size > 2 && sent.n < PACKETS_MAX) {
        size_t word = tn_get_be16(data), len = word & 0x7fff;
        data += 2;
        size -= 2;
        if (len > size) len = size;
        if (len > TN_TUN_MTU) len = TN_TUN_MTU;
        if (len >= 20) {
            uint8_t *p = sent.bytes[sent.n];
            memcpy(p, data, len);
            if (word & 0x8000) make_right(p, len);
            sent.len[sent.n] = len;
            sent.found[sent.n++] = false;
            tn_tun_merge_add(m, p, len);
        }
        data += len;
        size -= len;
    }
    tn_tun_merge_flush(m);
    for (size_t i = 0; i < sent.n; i++) check(sent.found[i]);
    tn_tun_merge_free(m);
    return 0;
}
