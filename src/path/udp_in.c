/* Receiving: one mapping, cut into slots. With UDP_GRO the kernel hands over up to 64 KB of equal datagrams at once, so
 * there are few large slots; without it many small ones. Pages of slots are touched only by traffic that fills them,
 * and dropped when it has been quiet for a while, so an idle node pays for a page or two.
 *
 * Who gets a run may keep its large slot for a while: a free one takes its place. */
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
    CONTROL = CMSG_SPACE(sizeof(int)),
    LARGE = 4096, /* what touches more than the first page of a slot */
};
_Static_assert(SLOTS * SLOT <= GRO_SLOTS * GRO_SLOT && SLOTS >= GRO_SLOTS, "both layouts fit");

struct tn_udp_in {
    struct mmsghdr msgs[SLOTS];
    struct iovec iov[SLOTS];
    struct sockaddr_storage from[SLOTS];
    _Alignas(struct cmsghdr) uint8_t control[SLOTS][CONTROL];
    uint8_t *bytes;
    size_t mapped;
    bool gro;
    int at;                 /* the slot whose run is being handed over; -1: none, or it was kept already */
    size_t keep, nfree;     /* buffers that may be away; those that are here and in no slot */
    uint8_t *free[];
};

struct tn_udp_in *tn_udp_in_new(bool gro, size_t keep)
{
    if (!gro) keep = 0;
    struct tn_udp_in *b = calloc(1, sizeof *b + keep * sizeof *b->free);
    if (!b) return NULL;
    b->mapped = (GRO_SLOTS + keep) * GRO_SLOT;
    b->bytes = mmap(NULL, b->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (b->bytes == MAP_FAILED) {
        free(b);
        return NULL;
    }
    b->gro = gro;
    b->at = -1;
    b->keep = b->nfree = keep;
    for (size_t i = 0; i < keep; i++) b->free[i] = b->bytes + (GRO_SLOTS + i) * GRO_SLOT;
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
    munmap(b->bytes, b->mapped);
    free(b);
}

uint8_t *tn_udp_in_keep(struct tn_udp_in *b)
{
    if (b->at < 0 || b->nfree == 0) return NULL;
    uint8_t *kept = b->iov[b->at].iov_base;
    b->iov[b->at].iov_base = b->free[--b->nfree];
    b->at = -1;
    return kept;
}

void tn_udp_in_give_back(struct tn_udp_in *b, uint8_t *buffer) { b->free[b->nfree++] = buffer; }

bool tn_udp_in_trim(struct tn_udp_in *b)
{
    if (b->nfree < b->keep) return false;
    madvise(b->bytes, b->mapped, MADV_DONTNEED);
    return true;
}

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

static int hand_over(struct tn_udp_in *b, int i, tn_udp_each *each, void *ctx)
{
    struct tn_addrport from;
    struct msghdr *m = &b->msgs[i].msg_hdr;
    size_t len = b->msgs[i].msg_len, segment = gro_segment(m);
    if (segment == 0 || segment > len) segment = len;
    if (m->msg_flags & MSG_TRUNC || tn_addrport_from_sockaddr((struct sockaddr *)&b->from[i], &from) != 0) return 1;
    b->at = i;
    each(ctx, &from, b->iov[i].iov_base, len, segment);
    b->at = -1;
    return len ? (int)((len + segment - 1) / segment) : 1;
}

int tn_udp_in_receive(struct tn_udp_in *b, int fd, int budget, tn_udp_each *each, void *ctx, bool *large)
{
    int total = 0, slots = b->gro ? GRO_SLOTS : SLOTS;
    while (total < budget) {
        int want = budget - total < slots ? budget - total : slots;
        for (int i = 0; i < want; i++) {
            b->msgs[i].msg_hdr.msg_namelen = sizeof b->from[i];
            b->msgs[i].msg_hdr.msg_controllen = CONTROL;
        }
        int n = recvmmsg(fd, b->msgs, (unsigned)want, 0, NULL);
        if (n <= 0) break; /* drained; a pending ICMP error was taken by this call and costs one round */
        for (int i = 0; i < n; i++) {
            *large |= b->msgs[i].msg_len > LARGE;
            total += hand_over(b, i, each, ctx);
        }
        if (n < want) break;
    }
    return total;
}
