/* The one place where the forwarder makes sockets. Who may call in here is a short list, held by tests/unit/rooms:
 * direct.c (HOST mode only) and proxied.c (to the proxy's own address only).
 *
 * Environment variables such as ALL_PROXY and NO_PROXY have no say here or anywhere in this room. */
#include "egress/socket.h"
#include "util/err.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    /* Kept free for the node itself (control, DERP, files): exit clients must not lock it out of its own tailnet. A
     * quarter of a small limit. */
    FDS_KEPT = 64,
    /* A proxy or site that vanished is noticed after 2 minutes of silence. */
    KEEPALIVE_IDLE_S = 60, KEEPALIVE_INTERVAL_S = 15, KEEPALIVE_PROBES = 4,
};

unsigned tn_socket_room(void)
{
    struct rlimit lim;
    if (getrlimit(RLIMIT_NOFILE, &lim) != 0) return 0;
    if (lim.rlim_cur > 1u << 30) return 1u << 30;
    unsigned soft = (unsigned)lim.rlim_cur;
    return soft - (soft / 4 < FDS_KEPT ? soft / 4 : FDS_KEPT);
}

static void set_option(int fd, int level, int name, int value)
{
    (void)setsockopt(fd, level, name, &value, sizeof value); /* comfort, never a condition */
}

/* Not comfort: without its mark the socket would be routed into the tailnet, to ourselves in the end. */
int tn_socket_mark(int fd, uint32_t mark)
{
    return !mark || setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof mark) == 0 ? 0 : -errno;
}

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

/* The port is chosen when it is connected: many flows share an address, and need not share its ports. */
int tn_socket_bind(int fd, uint8_t family, const struct tn_proxy_bind *from)
{
    if (!from) return 0;
    size_t len = strlen(from->device);
    if (len && setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, from->device, (socklen_t)len) != 0) return -errno;
    const struct tn_ip *own = &from->from[family == 6];
    if (!own->family) return from->from[family != 6].family ? -EAFNOSUPPORT : 0;
    struct tn_addrport local = {.ip = *own};
    struct sockaddr_storage sa;
    socklen_t salen = tn_addrport_to_sockaddr(&local, &sa);
    set_option(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
    return bind(fd, (struct sockaddr *)&sa, salen) == 0 ? 0 : -errno;
}

int tn_socket_connect(const struct tn_addrport *to, uint32_t mark, const struct tn_proxy_bind *from)
{
    struct sockaddr_storage sa;
    socklen_t len = tn_addrport_to_sockaddr(to, &sa);
    int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
    if (fd < 0) return -errno;
    /* The kernel hands out the lowest free number: one beyond the room means that all below are taken. */
    if ((unsigned)fd >= tn_socket_room()) {
        close(fd);
        return TN_E_MFILE;
    }
    mark |= from ? from->mark : 0;
    int err = tn_socket_mark(fd, mark);
    if (!err) err = tn_socket_bind(fd, to->ip.family, from);
    if (err) {
        close(fd);
        return TN_E_UNSUPPORTED;
    }
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_option(fd, SOL_SOCKET, SO_OOBINLINE, 1); /* an urgent byte is a byte of the stream */
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S);
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S);
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES);
    if (connect(fd, (struct sockaddr *)&sa, len) != 0 && errno != EINPROGRESS) {
        err = -errno;
        close(fd);
        /* With IPv6 the same says that this host has no address to come from. */
        return err == -EADDRNOTAVAIL && to->ip.family == 6 && !tn_socket_has_route(to, mark, from) ? -ENETUNREACH : err;
    }
    return fd;
}

bool tn_socket_has_route(const struct tn_addrport *to, uint32_t mark, const struct tn_proxy_bind *from)
{
    struct sockaddr_storage sa;
    socklen_t len = tn_addrport_to_sockaddr(to, &sa);
    int fd = socket(sa.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS; /* not known: not denied */
    bool way = tn_socket_mark(fd, mark) == 0 && tn_socket_bind(fd, to->ip.family, from) == 0 &&
               connect(fd, (struct sockaddr *)&sa, len) == 0;
    close(fd);
    return way;
}

int tn_socket_connected(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int err = tn_socket_error(fd);
    return err ? err : poll(&p, 1, 0) > 0 ? 0 : TN_E_AGAIN;
}

int tn_socket_error(int fd)
{
    int err = 0;
    socklen_t len = sizeof err;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) != 0) return -errno;
    return -err;
}

/* An RST that arrives after the other side's FIN shows as EPIPE. We never write after our own FIN (conn.c), so here
 * EPIPE is always an RST. */
static long failed(void)
{
    if (errno == EWOULDBLOCK || errno == EINTR) return TN_E_AGAIN;
    return errno == EPIPE ? TN_E_RESET : -errno;
}

long tn_socket_readv(int fd, const struct iovec *iov, int n)
{
    struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)n};
    ssize_t r;
    do r = recvmsg(fd, &msg, 0);
    while (r < 0 && errno == EINTR);
    return r >= 0 ? r : failed();
}

long tn_socket_writev(int fd, const struct iovec *iov, int n)
{
    struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)n};
    ssize_t r;
    do r = sendmsg(fd, &msg, MSG_NOSIGNAL);
    while (r < 0 && errno == EINTR);
    return r >= 0 ? r : failed();
}

int tn_socket_peer(int fd, struct tn_addrport *out)
{
    struct sockaddr_storage sa;
    socklen_t len = sizeof sa;
    if (getpeername(fd, (struct sockaddr *)&sa, &len) != 0) return -errno;
    return tn_addrport_from_sockaddr((struct sockaddr *)&sa, out);
}

int tn_socket_shutdown(int fd) { return shutdown(fd, SHUT_WR) == 0 ? 0 : -errno; }

void tn_socket_close(int fd, bool reset)
{
    struct linger hard = {.l_onoff = 1, .l_linger = 0};
    if (reset) (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(fd);
}
