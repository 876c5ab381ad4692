/* Linux UDP sockets of a node. Receive buffers exist only after the first datagram and are small enough for an
 * idle node: a batch of 16 datagrams of up to 2 KiB. A longer datagram than that is no WireGuard packet of ours
 * (MTU 1280 to 1420) nor disco, and is dropped. */
#include "path/udp.h"
#include "util/err.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    BATCH = 16,
    DATAGRAM_MAX = 2048,
    SOCKET_BUFFER = 1024 * 1024, /* asked for, capped by net.core.*mem_max; room for a burst while the loop is busy */
};

struct batch {
    struct mmsghdr msgs[BATCH];
    struct iovec iov[BATCH];
    struct sockaddr_storage from[BATCH];
    uint8_t bytes[BATCH][DATAGRAM_MAX];
};

struct tn_udp {
    int fd4, fd6;
    uint16_t port4, port6;
    struct batch *batch;
};

/* Binds one family; the port bound to comes back in *port. Returns the descriptor or a negative code. */
static int open_socket(int family, uint16_t *port)
{
    int one = 1, size = SOCKET_BUFFER;
    struct sockaddr_storage ss;
    struct tn_addrport any = {.ip = {.family = family == AF_INET ? 4 : 6}, .port = *port};
    int fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    socklen_t len = tn_addrport_to_sockaddr(&any, &ss);
    bool ok = family == AF_INET || setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one) == 0;
    ok = ok && bind(fd, (struct sockaddr *)&ss, len) == 0;
    len = sizeof ss;
    ok = ok && getsockname(fd, (struct sockaddr *)&ss, &len) == 0;
    if (!ok) {
        int err = -errno;
        close(fd);
        return err;
    }
    tn_addrport_from_sockaddr((struct sockaddr *)&ss, &any);
    *port = any.port;
    return fd;
}

int tn_udp_open(uint16_t port, struct tn_udp **out)
{
    struct tn_udp *u = calloc(1, sizeof *u);
    if (!u) return TN_E_NOMEM;
    u->port4 = port;
    u->fd4 = open_socket(AF_INET, &u->port4);
    u->port6 = u->fd4 >= 0 ? u->port4 : port;
    u->fd6 = open_socket(AF_INET6, &u->port6);
    if (u->fd6 == TN_E_ADDRINUSE && port == 0) { /* someone has that port on IPv6: another one does as well */
        u->port6 = 0;
        u->fd6 = open_socket(AF_INET6, &u->port6);
    }
    int err = u->fd4 < 0 && u->fd6 < 0 ? u->fd4 : port && u->fd4 == TN_E_ADDRINUSE ? u->fd4 : 0;
    if (err) {
        tn_udp_close(u);
        return err;
    }
    if (u->fd4 < 0) u->port4 = 0;
    if (u->fd6 < 0) u->port6 = 0;
    *out = u;
    return 0;
}

void tn_udp_close(struct tn_udp *u)
{
    if (!u) return;
    if (u->fd4 >= 0) close(u->fd4);
    if (u->fd6 >= 0) close(u->fd6);
    free(u->batch);
    free(u);
}

int tn_udp_fd4(const struct tn_udp *u) { return u->fd4 >= 0 ? u->fd4 : -1; }
int tn_udp_fd6(const struct tn_udp *u) { return u->fd6 >= 0 ? u->fd6 : -1; }
uint16_t tn_udp_port4(const struct tn_udp *u) { return u->port4; }
uint16_t tn_udp_port6(const struct tn_udp *u) { return u->port6; }

static struct batch *batch_of(struct tn_udp *u)
{
    if (u->batch) return u->batch;
    struct batch *b = calloc(1, sizeof *b);
    for (int i = 0; b && i < BATCH; i++) {
        b->iov[i] = (struct iovec){b->bytes[i], DATAGRAM_MAX};
        b->msgs[i].msg_hdr = (struct msghdr){.msg_name = &b->from[i], .msg_iov = &b->iov[i], .msg_iovlen = 1};
    }
    return u->batch = b;
}

int tn_udp_receive(struct tn_udp *u, int fd, int budget,
                   void (*each)(void *ctx, const struct tn_addrport *from, uint8_t *datagram, size_t len), void *ctx)
{
    struct batch *b = batch_of(u);
    int total = 0;
    while (b && total < budget) {
        int want = budget - total < BATCH ? budget - total : BATCH;
        for (int i = 0; i < want; i++) b->msgs[i].msg_hdr.msg_namelen = sizeof b->from[i];
        int n = recvmmsg(fd, b->msgs, (unsigned)want, 0, NULL);
        if (n <= 0) break; /* drained; a pending ICMP error was taken by this call and costs one round */
        for (int i = 0; i < n; i++) {
            struct tn_addrport from;
            if (b->msgs[i].msg_hdr.msg_flags & MSG_TRUNC) continue;
            if (tn_addrport_from_sockaddr((struct sockaddr *)&b->from[i], &from) == 0)
                each(ctx, &from, b->bytes[i], b->msgs[i].msg_len);
        }
        total += n;
        if (n < want) break;
    }
    return total;
}

void tn_udp_send(struct tn_udp *u, const struct tn_addrport *to, const uint8_t *datagram, size_t len)
{
    struct sockaddr_storage ss;
    int fd = to->ip.family == 4 ? u->fd4 : u->fd6;
    if (fd < 0 || to->ip.family == 0) return;
    socklen_t sslen = tn_addrport_to_sockaddr(to, &ss);
    ssize_t n = sendto(fd, datagram, len, 0, (struct sockaddr *)&ss, sslen);
    (void)n; /* a datagram that can't be sent is a lost one */
}
