/* Receiving: one mapping, cut into slots. With UDP_GRO the kernel hands over up to 64 KB of equal datagrams at once, so
 * there are few large slots; without it many small ones. Pages of slots are touched only by traffic that fills them,
 * and dropped when it has been quiet for a while, so an idle node pays for a page or two. */
#include "path/udp_in.h"

#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum {
    GRO_SLOTS = 4,
    GRO_SLOT = 64 * 1024,
    SLOTS = 64,   /* without UDP_GRO */
    SLOT = 2048,  /* a longer datagram is no WireGuard packet of ours nor disco */
    BYTES = GRO_SLOTS * GRO_SLOT,
};
_Static_assert(SLOTS * SLOT <= BYTES && SLOTS >= GRO_SLOTS, "both layouts fit");

struct tn_udp_in {
    struct mmsghdr msgs[SLOTS];
    struct iovec iov[SLOTS];
    struct sockaddr_storage from[SLOTS];
    _Alignas(struct cmsghdr) uint8_t control[SLOTS][TN_UDP_CONTROL];
    uint8_t *bytes;
    bool gro;
};

struct tn_udp_in *tn_udp_in_new(bool gro)
{
    struct tn_udp_in *b = calloc(1, sizeof *b);
    if (!b) return NULL;
    b->bytes = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (b->bytes == MAP_FAILED) {
        free(b);
        return NULL;
    }
    b->gro = gro;
    size_t n = gro ? GRO_SLOTS : SLOTS, size = gro ? GRO_SLOT : SLOT;
    for (size_t i = 0; i < n; i++) {
        b->iov[i] = (struct iovec){b->bytes + i * size, size};
        b->msgs[i].msg_hdr = (struct msghdr){
            .msg_name = &b->from[i], .msg_iov = &b->iov[i], .msg_iovlen = 1, .msg_control = b->control[i]};
    }
    return b;
}

void tn_udp_in_free(struct tn_udp_in *b)
{
    if (!b) return;
    munmap(b->bytes, BYTES);
    free(b);
}

void tn_udp_in_trim(struct tn_udp_in *b) { madvise(b->bytes, BYTES, MADV_DONTNEED); }

/* The size the kernel cut a message by; 0: it is one datagram. */
static size_t gro_segment(struct msghdr *m)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        int segment;
        if (c->cmsg_level != IPPROTO_UDP || c->cmsg_type != UDP_GRO || c->cmsg_len < CMSG_LEN(sizeof segment)) continue;
        memcpy(&segment, CMSG_DATA(c), sizeof segment);
        return segment > 0 ? (size_t)segment : 0;
    }
    return 0;
}

bool tn_udp_in_parse(struct msghdr *m, size_t len, struct tn_addrport *from, size_t *segment)
{
    *segment = gro_segment(m);
    if (*segment == 0 || *segment > len) *segment = len;
    return !(m->msg_flags & MSG_TRUNC) && tn_addrport_from_sockaddr(m->msg_name, from) == 0;
}

static int hand_over(struct tn_udp_in *b, int i, tn_udp_each *each, void *ctx)
{
    struct tn_addrport from;
    size_t len = b->msgs[i].msg_len, segment;
    if (!tn_udp_in_parse(&b->msgs[i].msg_hdr, len, &from, &segment)) return 1;
    each(ctx, &from, b->iov[i].iov_base, len, segment);
    return len ? (int)((len + segment - 1) / segment) : 1;
}

int tn_udp_in_receive(struct tn_udp_in *b, int fd, int budget, tn_udp_each *each, void *ctx, size_t *longest)
{
    int total = 0, slots = b->gro ? GRO_SLOTS : SLOTS;
    while (total < budget) {
        int want = budget - total < slots ? budget - total : slots;
        for (int i = 0; i < want; i++) {
            b->msgs[i].msg_hdr.msg_namelen = sizeof b->from[i];
            b->msgs[i].msg_hdr.msg_controllen = TN_UDP_CONTROL;
        }
        int n = recvmmsg(fd, b->msgs, (unsigned)want, 0, NULL);
        if (n <= 0) break; /* drained; a pending ICMP error was taken by this call and costs one round */
        for (int i = 0; i < n; i++) {
            if (b->msgs[i].msg_len > *longest) *longest = b->msgs[i].msg_len;
            total += hand_over(b, i, each, ctx);
        }
        if (n < want) break;
    }
    return total;
}
