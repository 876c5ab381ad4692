/* TCP, ICMP and UDP headers: whatever parses lies inside the input, and what is written from it parses to the
 * same. */
#include "wire/icmp.h"
#include "wire/tcp.h"
#include "wire/udp.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok) abort();
}

static void tcp(const uint8_t *p, size_t len)
{
    struct tn_tcp_seg s, again;
    uint8_t buf[TN_TCP_HDR_MAX];
    if (tn_tcp_seg_parse(p, len, &s) != 0) return;
    check(s.payload >= p && s.payload + s.len == p + len && s.nsack <= TN_TCP_SACK_MAX &&
          s.wscale <= TN_TCP_WSCALE_MAX);
    size_t hdr = tn_tcp_seg_put(buf, &s);
    check(hdr <= sizeof buf && tn_tcp_seg_parse(buf, hdr, &again) == 0);
    check(again.seq == s.seq && again.ack == s.ack && again.flags == s.flags && again.window == s.window);
    check(again.has_ts == s.has_ts && again.tsval == s.tsval && again.mss == s.mss && again.sack_ok == s.sack_ok);
}

static void icmp(uint8_t family, const uint8_t *p, size_t len)
{
    struct tn_icmp m;
    struct tn_icmp_quote q;
    if (tn_icmp_parse(family, p, len, &m) != 0) return;
    check(m.body + m.len == p + len);
    if (tn_icmp_quote_parse(m.body, m.len, &q) == 0) check(q.l4_len >= 8 && q.l4 + q.l4_len == p + len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tn_udp_hdr u;
    if (size == 0) return 0;
    switch (data[0] % 4) {
    case 0: tcp(data + 1, size - 1); break;
    case 1: icmp(4, data + 1, size - 1); break;
    case 2: icmp(6, data + 1, size - 1); break;
    default:
        if (tn_udp_hdr_parse(data + 1, size - 1, &u) == 0) check(u.payload + u.len <= data + size);
    }
    return 0;
}
