/* A TUN device with virtio-net headers: one read or write carries up to 64 KiB (see split.h, merge.h). */
#ifndef TN_TUN_TUN_H
#define TN_TUN_TUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum { TN_TUN_NAME_MAX = 15 }; /* IFNAMSIZ with its NUL */

struct tn_tun {
    int fd; /* non-blocking, close-on-exec */
    unsigned ifindex;
    char name[TN_TUN_NAME_MAX + 1];
    bool uso; /* UDP super-packets are taken and given too (Linux 6.2) */
};

/* Is it a name for an interface? */
bool tn_tun_name_ok(const char *name);
/* Makes the device, or takes one that an administrator has made for us (`ip tuntap add`). TN_E_ACCES or -EPERM without the
 * right to (CAP_NET_ADMIN), TN_E_BUSY when another process holds it, TN_E_NOENT without /dev/net/tun, TN_E_INVAL when
 * the name is that of another kind of interface. */
int tn_tun_open(const char *name, struct tn_tun *out);
void tn_tun_close(struct tn_tun *t);
/* One packet with its header. Length, TN_E_AGAIN, or another negative code. */
long tn_tun_read(const struct tn_tun *t, void *buf, size_t cap);
int tn_tun_write(const struct tn_tun *t, const struct iovec *iov, int n);

#endif
