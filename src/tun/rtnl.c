#include "tun/rtnl.h"

#include "util/err.h"

#include <assert.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum {
    ANSWER_MAX = 32 * 1024, /* what the kernel fills at most when it dumps to us */
    ANSWER_SECONDS = 5,     /* the kernel answers within the send; if not, better an error than a loop that hangs */
};

int tn_rtnl_open(struct tn_rtnl *r)
{
    struct sockaddr_nl self = {.nl_family = AF_NETLINK};
    struct timeval patience = {.tv_sec = ANSWER_SECONDS};
    int one = 1;
    r->waiting = 0;
    r->len = 0;
    r->seq = 0;
    r->open = NULL;
    r->fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (r->fd < 0) return -errno;
    (void)setsockopt(r->fd, SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof one); /* answers without our own words */
    (void)setsockopt(r->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (bind(r->fd, (struct sockaddr *)&self, sizeof self) == 0) return 0;
    int err = -errno;
    tn_rtnl_close(r);
    return err;
}

void tn_rtnl_close(struct tn_rtnl *r)
{
    if (r->fd >= 0) close(r->fd);
    r->fd = -1;
}

/* ---- writing ---- */

static void *append(struct tn_rtnl *r, size_t len)
{
    size_t space = NLMSG_ALIGN(len);
    assert(r->len + space <= sizeof r->bytes);
    uint8_t *at = r->bytes + r->len;
    memset(at, 0, space);
    r->len += space;
    return at;
}

void tn_rtnl_begin(struct tn_rtnl *r, uint16_t type, uint16_t flags, const void *fixed, size_t len)
{
    r->open = append(r, NLMSG_HDRLEN);
    *r->open = (struct nlmsghdr){.nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | flags, .nlmsg_seq = ++r->seq};
    memcpy(append(r, len), fixed, len);
}

void tn_rtnl_put(struct tn_rtnl *r, uint16_t attr, const void *data, size_t len)
{
    struct rtattr *a = append(r, RTA_LENGTH(len));
    a->rta_type = attr;
    a->rta_len = (unsigned short)RTA_LENGTH(len);
    if (len) memcpy(RTA_DATA(a), data, len);
}

void tn_rtnl_put_u32(struct tn_rtnl *r, uint16_t attr, uint32_t v) { tn_rtnl_put(r, attr, &v, sizeof v); }

void tn_rtnl_put_ip(struct tn_rtnl *r, uint16_t attr, const struct tn_ip *ip)
{
    tn_rtnl_put(r, attr, ip->b, tn_ip_len(ip));
}

void *tn_rtnl_nest(struct tn_rtnl *r, uint16_t attr)
{
    struct rtattr *a = append(r, RTA_LENGTH(0));
    a->rta_type = attr;
    return a;
}

void tn_rtnl_nest_end(struct tn_rtnl *r, void *nest)
{
    struct rtattr *a = nest;
    a->rta_len = (unsigned short)(r->bytes + r->len - (uint8_t *)nest);
}

int tn_rtnl_end(struct tn_rtnl *r, int fine)
{
    r->open->nlmsg_len = (uint32_t)(r->bytes + r->len - (uint8_t *)r->open);
    r->open->nlmsg_flags |= NLM_F_ACK;
    r->open = NULL;
    r->fine[r->waiting++] = fine;
    return r->waiting == TN_RTNL_BATCH ? tn_rtnl_flush(r) : 0;
}

/* ---- sending and answers ---- */

static int send_all(struct tn_rtnl *r)
{
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    ssize_t n;
    do n = sendto(r->fd, r->bytes, r->len, 0, (struct sockaddr *)&kernel, sizeof kernel);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

/* Some answers; from the kernel alone (port 0), whoever else may send to our port. */
static long receive(struct tn_rtnl *r, void *buf)
{
    struct sockaddr_nl from;
    for (;;) {
        socklen_t len = sizeof from;
        ssize_t n = recvfrom(r->fd, buf, ANSWER_MAX, 0, (struct sockaddr *)&from, &len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno == EAGAIN ? TN_E_TIMEDOUT : -errno;
        if (from.nl_pid == 0) return n;
    }
}

static int error_of(const struct nlmsghdr *h)
{
    struct nlmsgerr e;
    if (h->nlmsg_len < NLMSG_LENGTH(sizeof e.error)) return TN_E_PROTO;
    memcpy(&e.error, NLMSG_DATA(h), sizeof e.error);
    return e.error;
}

int tn_rtnl_flush(struct tn_rtnl *r)
{
    _Alignas(NLMSG_ALIGNTO) uint8_t buf[ANSWER_MAX];
    uint32_t first = r->seq - r->waiting + 1;
    unsigned count = r->waiting, answered = 0;
    if (count == 0) return 0;
    int err = send_all(r), worst = err;
    r->len = 0;
    r->waiting = 0;
    while (!err && answered < count) {
        long n = receive(r, buf);
        if (n < 0) return (int)n;
        unsigned left = (unsigned)n;
        for (struct nlmsghdr *h = (struct nlmsghdr *)buf; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
            uint32_t index = h->nlmsg_seq - first;
            if (h->nlmsg_type != NLMSG_ERROR || index >= count) continue; /* of an earlier, broken off exchange */
            int e = error_of(h);
            answered++;
            if (e && e != r->fine[index] && !worst) worst = e;
        }
    }
    return worst;
}

int tn_rtnl_dump(struct tn_rtnl *r, uint16_t type, const void *fixed, size_t len,
                 void (*each)(void *ctx, const struct nlmsghdr *msg), void *ctx)
{
    _Alignas(NLMSG_ALIGNTO) uint8_t buf[ANSWER_MAX];
    assert(r->waiting == 0);
    tn_rtnl_begin(r, type, NLM_F_DUMP, fixed, len);
    r->open->nlmsg_len = (uint32_t)r->len;
    int err = send_all(r);
    r->len = 0;
    while (!err) {
        long n = receive(r, buf);
        if (n < 0) return (int)n;
        unsigned left = (unsigned)n;
        for (struct nlmsghdr *h = (struct nlmsghdr *)buf; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
            if (h->nlmsg_seq != r->seq) continue;
            if (h->nlmsg_type == NLMSG_DONE) return 0;
            if (h->nlmsg_type == NLMSG_ERROR) return error_of(h);
            each(ctx, h);
        }
    }
    return err;
}

const void *tn_rtnl_attr(const struct nlmsghdr *msg, size_t fixed, uint16_t type, size_t *len)
{
    if (msg->nlmsg_len < NLMSG_SPACE(fixed)) return NULL;
    unsigned left = msg->nlmsg_len - (unsigned)NLMSG_SPACE(fixed);
    const struct rtattr *a = (const struct rtattr *)((const uint8_t *)msg + NLMSG_SPACE(fixed));
    for (; RTA_OK(a, left); a = RTA_NEXT(a, left)) {
        if ((a->rta_type & NLA_TYPE_MASK) != type) continue;
        *len = RTA_PAYLOAD(a);
        return RTA_DATA(a);
    }
    return NULL;
}
