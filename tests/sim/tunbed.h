/* A private network namespace with TUN devices, and the real-time side of the link emulator: packets that the kernel
 * sends into a TUN device come out of a file descriptor here, and the other way.
 *
 * As root a network namespace is enough; otherwise a user namespace around it. Nothing of the machine's network is
 * seen. */
#ifndef TN_TESTS_TUNBED_H
#define TN_TESTS_TUNBED_H

#include "link.h"
#include <stdbool.h>
#include <stdint.h>

enum { TUNBED_SKIP = 77 }; /* meson's exit code for a test that can't run here */

/* Moves the calling process into a new network namespace (the first time a user namespace too if it must). Before any
 * thread is started. False: not possible here; the reason is printed. */
bool tunbed_enter(void);
/* A TUN device with these addresses (IPv4 /24, IPv6 /64; v6 may be NULL) in the namespace entered last, without
 * offloads. Returns its descriptor (non-blocking), or -1 with the reason printed. */
int tunbed_open(const char *name, int mtu, const char *v4, const char *v6);
/* Writes /proc/sys/net/PATH of the current namespace; false when that is not possible. */
bool tunbed_sysctl(const char *path, const char *value);
uint64_t tunbed_now_us(void);
/* Reads what the kernel has sent and puts it on the link. */
void tunbed_drain(int fd, struct link *l);
/* Waits until a descriptor is readable or the time has come. */
void tunbed_wait(const int *fds, int n, uint64_t until_us);

#endif
