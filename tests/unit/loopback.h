/* A network namespace of the test's own that has nothing but loopback. */
#ifndef TN_TEST_LOOPBACK_H
#define TN_TEST_LOOPBACK_H

#include <net/if.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static bool isolated; /* false: not allowed here, and whatever sends is to be skipped */

/* A group's setup. */
static int isolate(void **state)
{
    struct ifreq ifr = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    if (unshare(CLONE_NEWNET) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) return 0;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    isolated = fd >= 0 && ioctl(fd, SIOCSIFFLAGS, &ifr) == 0;
    close(fd);
    return 0;
}

#endif
