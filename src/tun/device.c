#include "tun/tun.h"

#include "tun/vnet.h"
#include "util/err.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#ifndef TUN_F_USO4 /* headers older than Linux 6.2 */
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

_Static_assert(TN_TUN_NAME_MAX + 1 == IFNAMSIZ, "an interface's name fits");

bool tn_tun_name_ok(const char *name)
{
    size_t len = strlen(name);
    if (len == 0 || len > TN_TUN_NAME_MAX || !strcmp(name, ".") || !strcmp(name, "..")) return false;
    for (; *name; name++) /* as the kernel's dev_valid_name; '%' would make it a pattern */
        if (*name <= ' ' || *name > '~' || *name == '/' || *name == ':' || *name == '%') return false;
    return true;
}

/* What it takes off us: segmentation of TCP, and of UDP where the kernel knows it. */
static int set_offloads(struct tn_tun *t)
{
    unsigned tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    t->uso = ioctl(t->fd, TUNSETOFFLOAD, tcp | TUN_F_USO4 | TUN_F_USO6) == 0;
    if (t->uso || ioctl(t->fd, TUNSETOFFLOAD, tcp) == 0) return 0;
    return -errno;
}

static int set_up(struct tn_tun *t, const char *name)
{
    struct ifreq req = {.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
    int hdr = TN_VNET_HDR;
    memcpy(req.ifr_name, name, strlen(name) + 1);
    if (ioctl(t->fd, TUNSETIFF, &req) != 0) return -errno;
    memcpy(t->name, req.ifr_name, sizeof t->name);
    if (ioctl(t->fd, TUNSETVNETHDRSZ, &hdr) != 0) return -errno;
    t->ifindex = if_nametoindex(t->name);
    return t->ifindex ? set_offloads(t) : -errno;
}

int tn_tun_open(const char *name, struct tn_tun *out)
{
    struct tn_tun t = {.fd = -1};
    if (!tn_tun_name_ok(name)) return TN_E_INVAL;
    t.fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (t.fd < 0) return -errno;
    int err = set_up(&t, name);
    if (err) {
        close(t.fd);
        return err;
    }
    *out = t;
    return 0;
}

void tn_tun_close(struct tn_tun *t)
{
    if (t->fd >= 0) close(t->fd);
    t->fd = -1;
}

long tn_tun_read(const struct tn_tun *t, void *buf, size_t cap)
{
    ssize_t n;
    do n = read(t->fd, buf, cap);
    while (n < 0 && errno == EINTR);
    return n >= 0 ? n : errno == EAGAIN ? TN_E_AGAIN : -errno;
}

int tn_tun_write(const struct tn_tun *t, const struct iovec *iov, int n)
{
    ssize_t r;
    do r = writev(t->fd, iov, n);
    while (r < 0 && errno == EINTR);
    return r >= 0 ? 0 : -errno;
}
