/* What a run becomes: one message with UDP_SEGMENT, neighbours together in one sendmmsg.
 *
 * UDP_SEGMENT can fail at run time (EIO: a device without checksum offload; EINVAL: segments above the path's MTU): then
 * the run is sent datagram by datagram, and after EIO every later one, too.
 *
 * A full socket buffer is the device's back-pressure: a bounded wait for it is cheaper than a burst of losses. */
#include "path/udp_send.h"
#include "path/udp.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

enum { SEGMENT_CONTROL = CMSG_SPACE(sizeof(uint16_t)), FULL_WAITS = 4, FULL_WAIT_MS = 2 };

void tn_udp_sender_init(struct tn_udp_sender *s)
{
    s->fd4 = s->fd6 = -1;
    atomic_init(&s->gso, false);
    atomic_init(&s->failures.any, false);
    pthread_mutex_init(&s->failures.mu, NULL);
    s->failures.n = 0;
}

void tn_udp_sender_fini(struct tn_udp_sender *s) { pthread_mutex_destroy(&s->failures.mu); }

static int fd_for(const struct tn_udp_sender *s, const struct tn_addrport *to)
{
    return to->ip.family == 4 ? s->fd4 : to->ip.family == 6 ? s->fd6 : -1;
}

/* ---- failures ---- */

static void note_failed(struct tn_udp_failures *f, const struct sockaddr_storage *ss, int err)
{
    struct tn_addrport to;
    if (tn_addrport_from_sockaddr((const struct sockaddr *)ss, &to) != 0) return;
    pthread_mutex_lock(&f->mu);
    if (f->n < TN_UDP_FAILURES_MAX) {
        f->list[f->n].to = to;
        f->list[f->n++].err = -err;
    }
    atomic_store(&f->any, true);
    pthread_mutex_unlock(&f->mu);
}

unsigned tn_udp_failures_take(struct tn_udp_failures *f, struct tn_addrport to[TN_UDP_FAILURES_MAX], int err[TN_UDP_FAILURES_MAX])
{
    if (!atomic_load(&f->any)) return 0;
    pthread_mutex_lock(&f->mu);
    unsigned n = f->n;
    for (unsigned i = 0; i < n; i++) {
        to[i] = f->list[i].to;
        err[i] = f->list[i].err;
    }
    f->n = 0;
    atomic_store(&f->any, false);
    pthread_mutex_unlock(&f->mu);
    return n;
}

/* ---- out ---- */

/* Waits a little for room in the socket's buffer. False: it stays full, and what there is is lost. */
static bool wait_room(int fd, int *waits)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    return (*waits)-- > 0 && poll(&p, 1, FULL_WAIT_MS) > 0;
}

static void send_datagrams(struct tn_udp_sender *s, int fd, const struct sockaddr_storage *ss, socklen_t sslen,
                           const uint8_t *run, size_t len, size_t segment, int *waits)
{
    struct mmsghdr msgs[TN_UDP_SEGMENTS_MAX];
    struct iovec iov[TN_UDP_SEGMENTS_MAX];
    for (size_t at = 0; at < len;) {
        unsigned n = 0, done = 0;
        for (; at < len && n < TN_UDP_SEGMENTS_MAX; at += segment, n++) {
            iov[n] = (struct iovec){(void *)(uintptr_t)(run + at), len - at < segment ? len - at : segment};
            msgs[n] = (struct mmsghdr){.msg_hdr = {.msg_name = (void *)(uintptr_t)ss, .msg_namelen = sslen,
                                                   .msg_iov = &iov[n], .msg_iovlen = 1}};
        }
        while (done < n) {
            int sent = sendmmsg(fd, msgs + done, n - done, 0);
            if (sent > 0) done += (unsigned)sent;
            else if (errno == EINTR) continue;
            else if (errno != EAGAIN && errno != ENOBUFS) {
                note_failed(&s->failures, ss, errno);
                return;
            } else if (!wait_room(fd, waits)) return; /* lost */
        }
    }
}

static void put_segment(struct msghdr *m, uint8_t control[SEGMENT_CONTROL], size_t segment)
{
    uint16_t size = (uint16_t)segment;
    m->msg_control = control;
    m->msg_controllen = CMSG_SPACE(sizeof size);
    struct cmsghdr *c = CMSG_FIRSTHDR(m);
    c->cmsg_level = IPPROTO_UDP;
    c->cmsg_type = UDP_SEGMENT;
    c->cmsg_len = CMSG_LEN(sizeof size);
    memcpy(CMSG_DATA(c), &size, sizeof size);
}

/* What is to be done about a message that could not be sent. */
enum failed { AGAIN, SINGLY, LOST, UNREACHABLE };

static enum failed send_failed(struct tn_udp_sender *s, int fd, bool segmented, int err, int *waits)
{
    if (err == EINTR) return AGAIN;
    if (err == EAGAIN || err == ENOBUFS) return wait_room(fd, waits) ? AGAIN : LOST;
    if (!segmented) return UNREACHABLE;
    if (err == EIO) s->gso = false;
    return err == EIO || err == EINVAL || err == EMSGSIZE || err == EOPNOTSUPP ? SINGLY : UNREACHABLE;
}

static void send_one(struct tn_udp_sender *s, int fd, const struct sockaddr_storage *ss, socklen_t sslen, const uint8_t *run,
                      size_t len, size_t segment, int *waits)
{
    size_t most = TN_UDP_RUN_MAX / segment;
    most = (most < TN_UDP_SEGMENTS_MAX ? most : TN_UDP_SEGMENTS_MAX) * segment;
    for (size_t at = 0, n; at < len; at += n) {
        n = len - at < most ? len - at : most;
        bool segmented = s->gso && n > segment;
        if (!segmented) {
            send_datagrams(s, fd, ss, sslen, run + at, len - at, segment, waits);
            return;
        }
        _Alignas(struct cmsghdr) uint8_t control[SEGMENT_CONTROL];
        struct iovec iov = {(void *)(uintptr_t)(run + at), n};
        struct msghdr m = {.msg_name = (void *)(uintptr_t)ss, .msg_namelen = sslen, .msg_iov = &iov, .msg_iovlen = 1};
        put_segment(&m, control, segment);
        enum failed what = AGAIN;
        while (what == AGAIN && sendmsg(fd, &m, 0) < 0)
            if ((what = send_failed(s, fd, true, errno, waits)) == UNREACHABLE) note_failed(&s->failures, ss, errno);
        if (what == SINGLY) send_datagrams(s, fd, ss, sslen, run + at, n, segment, waits);
        if (what == LOST || what == UNREACHABLE) return;
    }
}

/* What one sendmmsg takes: neighbours in the outbox that leave by the same socket. */
struct out_batch {
    struct mmsghdr msgs[TN_UDP_RUNS_MAX];
    struct iovec iov[TN_UDP_RUNS_MAX];
    struct sockaddr_storage to[TN_UDP_RUNS_MAX];
    _Alignas(struct cmsghdr) uint8_t control[TN_UDP_RUNS_MAX][SEGMENT_CONTROL];
};

static void prepare(const uint8_t *bytes, const struct tn_udp_run *r, struct out_batch *b, unsigned i)
{
    b->iov[i] = (struct iovec){(void *)(uintptr_t)(bytes + r->at), r->len};
    b->msgs[i] = (struct mmsghdr){.msg_hdr = {.msg_name = &b->to[i], .msg_namelen = tn_addrport_to_sockaddr(&r->to, &b->to[i]),
                                              .msg_iov = &b->iov[i], .msg_iovlen = 1}};
    if (r->count > 1) put_segment(&b->msgs[i].msg_hdr, b->control[i], r->segment);
}

static void send_batch(struct tn_udp_sender *s, int fd, const uint8_t *bytes, const struct tn_udp_run *runs, unsigned n, int *waits)
{
    struct out_batch b;
    for (unsigned i = 0; i < n; i++) prepare(bytes, &runs[i], &b, i);
    for (unsigned done = 0; done < n;) {
        const struct tn_udp_run *r = &runs[done];
        if (r->count > 1 && !s->gso) { /* it went while we were at it */
            send_datagrams(s, fd, &b.to[done], b.msgs[done].msg_hdr.msg_namelen, bytes + r->at, r->len, r->segment, waits);
            done++;
            continue;
        }
        int sent = sendmmsg(fd, b.msgs + done, n - done, 0);
        if (sent > 0) {
            done += (unsigned)sent;
            continue;
        }
        int err = errno;
        enum failed what = send_failed(s, fd, r->count > 1, err, waits);
        if (what == UNREACHABLE) note_failed(&s->failures, &b.to[done], err);
        if (what == SINGLY)
            send_datagrams(s, fd, &b.to[done], b.msgs[done].msg_hdr.msg_namelen, bytes + r->at, r->len, r->segment, waits);
        if (what != AGAIN) done++;
    }
}

void tn_udp_send_long(struct tn_udp_sender *s, const struct tn_addrport *to, const uint8_t *run, size_t len, size_t segment)
{
    struct sockaddr_storage ss;
    int fd = fd_for(s, to), waits = FULL_WAITS;
    if (fd < 0 || len == 0) return;
    socklen_t sslen = tn_addrport_to_sockaddr(to, &ss);
    send_one(s, fd, &ss, sslen, run, len, segment, &waits);
}

void tn_udp_send_runs(struct tn_udp_sender *s, const uint8_t *bytes, const struct tn_udp_run *runs, unsigned n)
{
    int waits = FULL_WAITS;
    for (unsigned i = 0, k; i < n; i += k) {
        uint8_t family = runs[i].to.ip.family;
        for (k = 1; i + k < n && runs[i + k].to.ip.family == family;) k++;
        send_batch(s, fd_for(s, &runs[i].to), bytes, &runs[i], k, &waits);
    }
}
