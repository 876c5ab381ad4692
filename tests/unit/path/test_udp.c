/* The UDP sockets against the kernel, in a network namespace of the test's own that has nothing but loopback. */
#include "../../../src/path/udp.c"
#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>

static bool isolated;

static int isolate(void **state)
{
    struct ifreq ifr = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    if (unshare(CLONE_NEWNET) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) return 0;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    isolated = fd >= 0 && ioctl(fd, SIOCSIFFLAGS, &ifr) == 0;
    close(fd);
    return 0;
}

struct seen {
    unsigned count;
    size_t last_len;
    uint8_t last[DATAGRAM_MAX];
    struct tn_addrport from;
};

static void each(void *ctx, const struct tn_addrport *from, uint8_t *datagram, size_t len)
{
    struct seen *s = ctx;
    s->count++;
    s->last_len = len;
    s->from = *from;
    memcpy(s->last, datagram, len);
    if (len) datagram[0] ^= 1;
}

static void test_both_families_one_port(void **state)
{
    struct tn_udp *u, *second;
    if (!isolated) skip();
    assert_int_equal(tn_udp_open(0, &u), 0);
    assert_true(tn_udp_port4(u) != 0);
    assert_int_equal(tn_udp_port4(u), tn_udp_port6(u));
    int fds[] = {tn_udp_fd4(u), tn_udp_fd6(u)};
    for (int i = 0; i < 2; i++) {
        assert_true(fds[i] >= 0);
        assert_true(fcntl(fds[i], F_GETFL) & O_NONBLOCK);
        assert_true(fcntl(fds[i], F_GETFD) & FD_CLOEXEC);
    }
    assert_null(u->batch); /* nothing received: nothing allocated */
    assert_int_equal(tn_udp_open(tn_udp_port4(u), &second), TN_E_ADDRINUSE);
    tn_udp_close(u);
    assert_int_equal(tn_udp_open(41641, &u), 0);
    assert_int_equal(tn_udp_port4(u), 41641);
    tn_udp_close(u);
    tn_udp_close(NULL);
}

static void send_and_take(struct tn_udp *a, struct tn_udp *b, int family)
{
    struct seen s = {0};
    struct tn_addrport to = {.ip = tn_ip4(127, 0, 0, 1), .port = tn_udp_port4(b)};
    int fd = family == 4 ? tn_udp_fd4(b) : tn_udp_fd6(b);
    if (family == 6) to = (struct tn_addrport){.ip = {.family = 6, .b = {[15] = 1}}, .port = tn_udp_port6(b)};
    tn_udp_send(a, &to, (const uint8_t *)"hello", 5);
    assert_int_equal(tn_udp_receive(b, fd, 10, each, &s), 1);
    assert_int_equal(s.last_len, 5);
    assert_memory_equal(s.last, "hello", 5);
    assert_int_equal(s.from.ip.family, family);
    assert_int_equal(s.from.port, tn_udp_port4(a));
    assert_int_equal(tn_udp_receive(b, fd, 10, each, &s), 0);
}

static void test_send_and_receive(void **state)
{
    struct tn_udp *a, *b;
    struct seen s = {0};
    uint8_t big[DATAGRAM_MAX + 1] = {7};
    if (!isolated) skip();
    assert_int_equal(tn_udp_open(0, &a), 0);
    assert_int_equal(tn_udp_open(0, &b), 0);
    send_and_take(a, b, 4);
    send_and_take(b, a, 6);
    struct tn_addrport to = {.ip = tn_ip4(127, 0, 0, 1), .port = tn_udp_port4(b)};
    for (int i = 0; i < 50; i++) tn_udp_send(a, &to, big, 20);
    assert_int_equal(tn_udp_receive(b, tn_udp_fd4(b), 20, each, &s), 20); /* the budget holds */
    assert_int_equal(tn_udp_receive(b, tn_udp_fd4(b), 100, each, &s), 30);
    assert_int_equal(s.count, 50);
    tn_udp_send(a, &to, big, sizeof big); /* cut short by our buffer: dropped, never delivered as something else */
    tn_udp_send(a, &to, big, DATAGRAM_MAX);
    tn_udp_send(a, &to, big, 0);
    s.count = 0;
    assert_int_equal(tn_udp_receive(b, tn_udp_fd4(b), 10, each, &s), 3);
    assert_int_equal(s.count, 2);
    tn_udp_close(a);
    tn_udp_close(b);
}

static void test_errors_are_losses(void **state)
{
    struct tn_udp *a;
    struct seen s = {0};
    if (!isolated) skip();
    assert_int_equal(tn_udp_open(0, &a), 0);
    struct tn_addrport nobody = {.ip = tn_ip4(127, 0, 0, 1), .port = 9}, none = {.port = 9};
    struct tn_addrport unreachable = {.ip = tn_ip4(192, 0, 2, 1), .port = 9};
    for (int i = 0; i < 3; i++) tn_udp_send(a, &nobody, (const uint8_t *)"x", 1); /* refused by ICMP */
    tn_udp_send(a, &unreachable, (const uint8_t *)"x", 1);
    tn_udp_send(a, &none, (const uint8_t *)"x", 1);
    assert_int_equal(tn_udp_receive(a, tn_udp_fd4(a), 10, each, &s), 0);
    struct tn_addrport self = {.ip = tn_ip4(127, 0, 0, 1), .port = tn_udp_port4(a)};
    tn_udp_send(a, &self, (const uint8_t *)"y", 1);
    for (int i = 0; i < 5 && s.count == 0; i++) tn_udp_receive(a, tn_udp_fd4(a), 10, each, &s);
    assert_int_equal(s.count, 1); /* the socket works on */
    tn_udp_close(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_families_one_port),
        cmocka_unit_test(test_send_and_receive),
        cmocka_unit_test(test_errors_are_losses),
    };
    return cmocka_run_group_tests(tests, isolate, NULL);
}
