#include "egress/dgramsock.h"
#include "egress/socket.h"
#include "util/err.h"

#include <linux/errqueue.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <netinet/udp.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum {
    PORT_MIN = 1024,     /* what is below belongs to the host's own services, also where we could take it */
    CODE_NET_PROHIBITED = 9, CODE_HOST_PROHIBITED = 10, CODE_PROHIBITED = 13, CODE_FRAG_NEEDED = 4, /* RFC 1812 */
    CODE6_POLICY = 5, CODE6_REJECT = 6, /* RFC 4443 */
};

static void set_option(int fd, int level, int name, int value)
{
    (void)setsockopt(fd, level, name, &value, sizeof value); /* comfort, never a condition */
}

static int make(uint8_t family, int proto, uint32_t mark)
{
    int fd = socket(family == 4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, proto);
    if (fd < 0) return -errno;
    if ((unsigned)fd >= tn_socket_room()) {
        close(fd);
        return TN_E_MFILE;
    }
    int err = tn_socket_mark(fd, mark);
    if (err) {
        close(fd);
        return err;
    }
    if (family == 4) set_option(fd, IPPROTO_IP, IP_RECVERR, 1);
    else set_option(fd, IPPROTO_IPV6, IPV6_RECVERR, 1);
    if (family == 6) set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    if (proto == IPPROTO_UDP) set_option(fd, IPPROTO_UDP, UDP_GRO, 1);
    return fd;
}

static bool try_bind(int fd, uint8_t family, uint16_t port)
{
    struct tn_addrport any = {{.family = family}, port};
    struct sockaddr_storage sa;
    socklen_t len = tn_addrport_to_sockaddr(&any, &sa);
    return bind(fd, (struct sockaddr *)&sa, len) == 0;
}

int tn_dgramsock_udp(uint8_t family, uint16_t port, uint32_t mark)
{
    int fd = make(family, IPPROTO_UDP, mark);
    if (fd >= 0 && port >= PORT_MIN) (void)try_bind(fd, family, port); /* else the first send takes any */
    return fd;
}

int tn_dgramsock_echo(uint8_t family, uint16_t id, uint32_t mark)
{
    int fd = make(family, family == 4 ? (int)IPPROTO_ICMP : (int)IPPROTO_ICMPV6, mark);
    if (fd >= 0) (void)try_bind(fd, family, id);
    return fd;
}

int tn_dgramsock_connected(const struct tn_addrport *to, uint32_t mark, const struct tn_proxy_bind *from)
{
    struct sockaddr_storage sa;
    socklen_t len = tn_addrport_to_sockaddr(to, &sa);
    int fd = make(to->ip.family, IPPROTO_UDP, mark | (from ? from->mark : 0));
    if (fd < 0) return fd;
    int err = tn_socket_bind(fd, to->ip.family, from);
    if (!err && connect(fd, (struct sockaddr *)&sa, len) == 0) return fd;
    if (!err) err = -errno;
    close(fd);
    return err;
}

union control {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int))];
};

/* Of what size the datagrams of a message are. */
static size_t segment_of(struct msghdr *m, size_t len)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        int size;
        if (c->cmsg_level != IPPROTO_UDP || c->cmsg_type != UDP_GRO || c->cmsg_len < CMSG_LEN(sizeof size)) continue;
        memcpy(&size, CMSG_DATA(c), sizeof size);
        if (size > 0) return (size_t)size;
    }
    return len;
}

int tn_dgramsock_read(int fd, struct tn_dgram_in *in)
{
    struct mmsghdr msgs[TN_DGRAM_READS];
    struct iovec iov[TN_DGRAM_READS];
    struct sockaddr_storage from[TN_DGRAM_READS];
    union control control[TN_DGRAM_READS];
    for (int i = 0; i < TN_DGRAM_READS; i++) {
        iov[i] = (struct iovec){in->bytes[i], sizeof in->bytes[i]};
        msgs[i].msg_hdr = (struct msghdr){
            .msg_name = &from[i], .msg_namelen = sizeof from[i], .msg_iov = &iov[i], .msg_iovlen = 1,
            .msg_control = &control[i], .msg_controllen = sizeof control[i]};
    }
    int n;
    do n = recvmmsg(fd, msgs, TN_DGRAM_READS, MSG_DONTWAIT, NULL);
    while (n < 0 && errno == EINTR);
    if (n < 0) return errno == EWOULDBLOCK ? TN_E_AGAIN : -errno;
    for (int i = 0; i < n; i++) {
        in->got[i].len = msgs[i].msg_len;
        in->got[i].segment = segment_of(&msgs[i].msg_hdr, msgs[i].msg_len);
        if (tn_addrport_from_sockaddr((struct sockaddr *)&from[i], &in->got[i].from) != 0)
            in->got[i].from = (struct tn_addrport){0};
    }
    return n;
}

static size_t size_of(const struct tn_dgram_item *item) { return item->head_len + item->len; }

/* How many items at the start make one message: of one size but for the last, for one address. */
static int joined(const struct tn_dgram_item *items, int n)
{
    size_t segment = size_of(items), sum = segment;
    int k = 1;
    while (k < n && segment > 0 && size_of(&items[k - 1]) == segment && size_of(&items[k]) > 0 &&
           size_of(&items[k]) <= segment && sum + size_of(&items[k]) <= TN_DGRAM_MAX &&
           tn_addrport_eq(&items[k].to, &items[0].to))
        sum += size_of(&items[k++]);
    return k;
}

struct out_messages {
    struct mmsghdr msgs[TN_DGRAM_WRITES];
    struct iovec iov[TN_DGRAM_WRITES][2];
    struct sockaddr_storage to[TN_DGRAM_WRITES];
    union control control[TN_DGRAM_WRITES];
    int items[TN_DGRAM_WRITES], count;
};

static void put_segment(struct msghdr *m, union control *control, size_t segment)
{
    uint16_t size = (uint16_t)segment;
    m->msg_control = control;
    m->msg_controllen = CMSG_SPACE(sizeof size);
    memset(control, 0, sizeof *control);
    struct cmsghdr *c = CMSG_FIRSTHDR(m);
    c->cmsg_level = IPPROTO_UDP;
    c->cmsg_type = UDP_SEGMENT;
    c->cmsg_len = CMSG_LEN(sizeof size);
    memcpy(CMSG_DATA(c), &size, sizeof size);
}

static void compose(struct out_messages *o, const struct tn_dgram_item *items, int n, bool join)
{
    o->count = 0;
    for (int at = 0, k; at < n; at += k) {
        int m = o->count++;
        o->items[m] = k = join ? joined(items + at, n - at) : 1;
        for (int i = at; i < at + k; i++) {
            o->iov[i][0] = (struct iovec){(void *)(uintptr_t)items[i].head, items[i].head_len};
            o->iov[i][1] = (struct iovec){(void *)(uintptr_t)items[i].body, items[i].len};
        }
        bool named = items[at].to.ip.family != 0;
        o->msgs[m].msg_hdr = (struct msghdr){.msg_name = named ? &o->to[m] : NULL,
                                             .msg_namelen = named ? tn_addrport_to_sockaddr(&items[at].to, &o->to[m]) : 0,
                                             .msg_iov = o->iov[at],
                                             .msg_iovlen = 2 * (size_t)k};
        if (k > 1) put_segment(&o->msgs[m].msg_hdr, &o->control[m], size_of(&items[at]));
    }
}

static int send_composed(int fd, struct out_messages *o, int *err)
{
    int r, sent = 0;
    do r = sendmmsg(fd, o->msgs, (unsigned)o->count, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (r < 0 && errno == EINTR);
    *err = r < 0 ? -errno : 0;
    for (int i = 0; i < r; i++) sent += o->items[i];
    return sent;
}

/* Joined datagrams are refused where each alone would go: larger than the path's MTU (EINVAL, EMSGSIZE), or a device that
 * can't do checksums (EIO). */
int tn_dgramsock_write(int fd, const struct tn_dgram_item *items, int n, bool udp, int *err)
{
    struct out_messages o;
    compose(&o, items, n, udp);
    int sent = send_composed(fd, &o, err);
    if ((*err != -EINVAL && *err != -EMSGSIZE && *err != -EIO) || o.items[0] == 1) return sent;
    compose(&o, items, n, false);
    return send_composed(fd, &o, err);
}

/* False: none that says the destination is not there (a shorter path MTU, an exceeded hop limit). */
static bool meaning(const struct sock_extended_err *e, enum tn_dgram_error *what)
{
    *what = TN_DGRAM_NO_HOST;
    if (e->ee_origin == SO_EE_ORIGIN_ICMP) {
        if (e->ee_type != ICMP_DEST_UNREACH || e->ee_code == CODE_FRAG_NEEDED) return false;
        if (e->ee_code == ICMP_PORT_UNREACH) *what = TN_DGRAM_NO_PORT;
        if (e->ee_code == CODE_NET_PROHIBITED || e->ee_code == CODE_HOST_PROHIBITED || e->ee_code == CODE_PROHIBITED)
            *what = TN_DGRAM_PROHIBITED;
        return true;
    }
    if (e->ee_origin != SO_EE_ORIGIN_ICMP6 || e->ee_type != ICMP6_DST_UNREACH) return false;
    if (e->ee_code == ICMP6_DST_UNREACH_NOPORT) *what = TN_DGRAM_NO_PORT;
    if (e->ee_code == ICMP6_DST_UNREACH_ADMIN || e->ee_code == CODE6_POLICY || e->ee_code == CODE6_REJECT)
        *what = TN_DGRAM_PROHIBITED;
    return true;
}

bool tn_dgramsock_error(int fd, struct tn_addrport *to, enum tn_dgram_error *what, bool *about)
{
    struct sockaddr_storage sa = {0};
    char control[512];
    struct msghdr msg = {
        .msg_name = &sa, .msg_namelen = sizeof sa, .msg_control = control, .msg_controllen = sizeof control};
    if (recvmsg(fd, &msg, MSG_ERRQUEUE | MSG_DONTWAIT) < 0) return false;
    *about = false;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
        bool v4 = c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR;
        bool v6 = c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_RECVERR;
        if ((!v4 && !v6) || c->cmsg_len < CMSG_LEN(sizeof(struct sock_extended_err))) continue;
        struct sock_extended_err e;
        memcpy(&e, CMSG_DATA(c), sizeof e);
        *about = meaning(&e, what) && tn_addrport_from_sockaddr((struct sockaddr *)&sa, to) == 0;
    }
    return true;
}

void tn_dgramsock_close(int fd) { close(fd); }
