#include "wire/tcprun.h"
#include "util/cursor.h"
#include "wire/ip.h"
#include "wire/tcp.h"

/* Offsets of what must be equal; the rest of the headers is looked at one by one. */
enum { DATA_OFFSET = 12, FLAGS = 13, WINDOW = 14, OPTIONS = 20 };

struct head {
    const uint8_t *ip, *tcp;
    size_t tcp_len, payload;
};

/* An unfragmented TCP packet without anything unusual between the headers. */
static bool plain(const struct iovec *v, struct head *h)
{
    const uint8_t *p = v->iov_base;
    size_t hdr, len = v->iov_len;
    if (len < 20 + TN_TCP_HDR_MIN) return false;
    if (p[0] == 0x45) {
        hdr = 20;
        if (p[9] != TN_IPPROTO_TCP || tn_get_be16(p + 2) != len || (tn_get_be16(p + 6) & 0x3fff)) return false;
    } else if (p[0] >> 4 == 6) {
        hdr = 40;
        if (len < hdr + TN_TCP_HDR_MIN || p[6] != TN_IPPROTO_TCP || tn_get_be16(p + 4) + hdr != len) return false;
    } else {
        return false;
    }
    *h = (struct head){.ip = p, .tcp = p + hdr, .tcp_len = (size_t)(p[hdr + DATA_OFFSET] >> 4) * 4};
    if (h->tcp_len < TN_TCP_HDR_MIN || hdr + h->tcp_len >= len) return false;
    h->payload = len - hdr - h->tcp_len;
    return (h->tcp[FLAGS] & ~TN_TCP_PSH) == TN_TCP_ACK;
}

static bool same_ip(const uint8_t *a, const uint8_t *b)
{
    if (a[0] >> 4 == 4) return memcmp(a, b, 2) == 0 && a[8] == b[8] && memcmp(a + 12, b + 12, 8) == 0;
    return memcmp(a, b, 4) == 0 && a[7] == b[7] && memcmp(a + 8, b + 8, 32) == 0;
}

static bool same_flow(const struct head *a, const struct head *b)
{
    return a->ip[0] == b->ip[0] && a->tcp_len == b->tcp_len && same_ip(a->ip, b->ip) &&
           memcmp(a->tcp, b->tcp, 4) == 0 && memcmp(a->tcp + 8, b->tcp + 8, 4) == 0 &&
           memcmp(a->tcp + WINDOW, b->tcp + WINDOW, 2) == 0 &&
           memcmp(a->tcp + OPTIONS, b->tcp + OPTIONS, a->tcp_len - OPTIONS) == 0;
}

size_t tn_tcp_run(const struct iovec *packets, size_t n)
{
    struct head first, next;
    if (n < 2 || !plain(&packets[0], &first) || first.tcp[FLAGS] & TN_TCP_PSH) return 1;
    uint32_t seq = tn_get_be32(first.tcp + 4) + (uint32_t)first.payload;
    size_t i = 1;
    while (i < n && plain(&packets[i], &next) && same_flow(&first, &next) && tn_get_be32(next.tcp + 4) == seq) {
        seq += (uint32_t)next.payload;
        i++;
        if (next.tcp[FLAGS] & TN_TCP_PSH) break;
    }
    return i;
}
