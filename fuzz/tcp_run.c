/* Packets, each behind two bytes of length, into tn_tcp_run: what it calls a run must be one by the slow way, too. */
#include "util/cursor.h"
#include "wire/ip.h"
#include "wire/tcp.h"
#include "wire/tcprun.h"

#include <stdlib.h>

enum { MAX = 16 };

static void must(bool ok)
{
    if (!ok) abort();
}

static void check_run(const struct iovec *v, size_t n)
{
    struct tn_ippkt first = {0};
    struct tn_tcp_seg s0 = {0};
    uint32_t seq = 0;
    for (size_t i = 0; i < n; i++) {
        struct tn_ippkt ip;
        struct tn_tcp_seg s;
        uint8_t copy[2048]; /* with a good header checksum: a run does not look at it */
        must(v[i].iov_len <= sizeof copy);
        memcpy(copy, v[i].iov_base, v[i].iov_len);
        if (copy[0] == 0x45) {
            tn_put_be16(copy + 10, 0);
            tn_put_be16(copy + 10, tn_cksum_fold(tn_cksum_add(0, copy, 20)));
        }
        must(tn_ippkt_parse(copy, v[i].iov_len, &ip) == 0 && ip.total_len == v[i].iov_len && !ip.has_frag);
        must(ip.proto == TN_IPPROTO_TCP);
        if (tn_tcp_seg_parse(ip.l4, ip.l4_len, &s) != 0) return; /* then the first's options are bad, and all the same */
        must(s.len > 0 && (s.flags == TN_TCP_ACK || (i + 1 == n && s.flags == (TN_TCP_ACK | TN_TCP_PSH))));
        if (i == 0) {
            first = ip;
            s0 = s;
        }
        must(tn_ip_eq(&ip.src, &first.src) && tn_ip_eq(&ip.dst, &first.dst) && ip.ttl == first.ttl && ip.tos == first.tos);
        must(s.sport == s0.sport && s.dport == s0.dport && s.ack == s0.ack && s.window == s0.window);
        must(s.tsval == s0.tsval && s.tsecr == s0.tsecr && s.nsack == s0.nsack && ip.hdr_len == first.hdr_len);
        must(i == 0 || s.seq == seq);
        seq = s.seq + (uint32_t)s.len;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct iovec v[MAX];
    size_t n = 0;
    while (n < MAX && size >= 2) {
        size_t len = tn_get_be16(data) % 1500;
        data += 2;
        size -= 2;
        if (len > size) len = size;
        uint8_t *exact = malloc(len ? len : 1);
        if (len) memcpy(exact, data, len);
        v[n++] = (struct iovec){exact, len};
        data += len;
        size -= len;
    }
    for (size_t at = 0, run; at < n; at += run) {
        run = tn_tcp_run(v + at, n - at);
        must(run >= 1 && run <= n - at);
        if (run > 1) check_run(v + at, run);
    }
    while (n > 0) free(v[--n].iov_base);
    return 0;
}
