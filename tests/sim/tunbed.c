#include "tunbed.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/ipv6.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static bool write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return false;
    bool ok = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    close(fd);
    return ok;
}

static bool enter_user_namespace(void)
{
    unsigned uid = getuid(), gid = getgid();
    char map[64];
    if (unshare(CLONE_NEWUSER) != 0) return false;
    write_file("/proc/self/setgroups", "deny");
    snprintf(map, sizeof map, "0 %u 1", uid);
    if (!write_file("/proc/self/uid_map", map)) return false;
    snprintf(map, sizeof map, "0 %u 1", gid);
    return write_file("/proc/self/gid_map", map);
}

static bool loopback_up(void)
{
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq r = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    bool ok = s >= 0 && ioctl(s, SIOCSIFFLAGS, &r) == 0;
    if (s >= 0) close(s);
    return ok;
}

bool tunbed_enter(void)
{
    if (unshare(CLONE_NEWNET) != 0 && (errno != EPERM || !enter_user_namespace() || unshare(CLONE_NEWNET) != 0)) {
        printf("no network namespace: %s\n", strerror(errno));
        return false;
    }
    return loopback_up();
}

static bool set_v4(int s, const char *name, const char *address)
{
    struct ifreq r = {0};
    struct sockaddr_in a = {.sin_family = AF_INET};
    snprintf(r.ifr_name, sizeof r.ifr_name, "%s", name);
    inet_pton(AF_INET, address, &a.sin_addr);
    memcpy(&r.ifr_addr, &a, sizeof a);
    if (ioctl(s, SIOCSIFADDR, &r) != 0) return false;
    inet_pton(AF_INET, "255.255.255.0", &a.sin_addr);
    memcpy(&r.ifr_netmask, &a, sizeof a);
    return ioctl(s, SIOCSIFNETMASK, &r) == 0;
}

static bool set_v6(const char *name, const char *address)
{
    int s = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (s < 0) return false;
    struct ifreq r = {0};
    struct in6_ifreq a = {.ifr6_prefixlen = 64};
    snprintf(r.ifr_name, sizeof r.ifr_name, "%s", name);
    inet_pton(AF_INET6, address, &a.ifr6_addr);
    bool ok = ioctl(s, SIOCGIFINDEX, &r) == 0;
    a.ifr6_ifindex = r.ifr_ifindex;
    ok = ok && ioctl(s, SIOCSIFADDR, &a) == 0;
    /* Until duplicate address detection is through the kernel would pick another source address. */
    struct sockaddr_in6 bound = {.sin6_family = AF_INET6, .sin6_addr = a.ifr6_addr};
    for (int i = 0; ok && bind(s, (struct sockaddr *)&bound, sizeof bound) != 0; i++) {
        usleep(10000);
        ok = i < 500;
    }
    close(s);
    return ok;
}

static bool configure(const char *name, int mtu, const char *v4, const char *v6)
{
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (s < 0) return false;
    struct ifreq r = {0};
    snprintf(r.ifr_name, sizeof r.ifr_name, "%s", name);
    r.ifr_mtu = mtu;
    bool ok = ioctl(s, SIOCSIFMTU, &r) == 0;
    r.ifr_qlen = 10000; /* the emulator drops, not the device */
    ok = ok && ioctl(s, SIOCSIFTXQLEN, &r) == 0;
    ok = ok && set_v4(s, name, v4);
    r.ifr_flags = IFF_UP | IFF_RUNNING;
    ok = ok && ioctl(s, SIOCSIFFLAGS, &r) == 0;
    close(s);
    return ok && (!v6 || set_v6(name, v6));
}

int tunbed_open(const char *name, int mtu, const char *v4, const char *v6)
{
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        printf("no /dev/net/tun: %s\n", strerror(errno));
        return -1;
    }
    struct ifreq r = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    snprintf(r.ifr_name, sizeof r.ifr_name, "%s", name);
    tunbed_sysctl("ipv6/conf/default/accept_dad", "0");
    tunbed_sysctl("ipv6/conf/default/router_solicitations", "0");
    if (ioctl(fd, TUNSETIFF, &r) != 0 || !configure(name, mtu, v4, v6)) {
        printf("no TUN device: %s\n", strerror(errno));
        close(fd);
        return -1;
    }
    return fd;
}

bool tunbed_sysctl(const char *path, const char *value)
{
    char full[200];
    snprintf(full, sizeof full, "/proc/sys/net/%s", path);
    return write_file(full, value);
}

uint64_t tunbed_now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

void tunbed_drain(int fd, struct link *l)
{
    uint8_t packet[65536];
    ssize_t n;
    while ((n = read(fd, packet, sizeof packet)) > 0) link_send(l, packet, (size_t)n, tunbed_now_us());
}

void tunbed_wait(const int *fds, int n, uint64_t until_us)
{
    struct pollfd p[4];
    for (int i = 0; i < n && i < 4; i++) p[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
    uint64_t now = tunbed_now_us(), us = until_us > now ? until_us - now : 0;
    if (us > 100000) us = 100000;
    struct timespec t = {.tv_nsec = (long)us * 1000};
    ppoll(p, (nfds_t)n, &t, NULL);
}
