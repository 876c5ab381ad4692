/* A program that forks while flows are up (to exec something, as libraries' hosts do): the child holds copies of our
 * sockets for a while, and a flow that we close in that time must not be heard of again. On loopback, in a network
 * namespace. */
#include "egress/egress.h"
#include "util/err.h"

#include <linux/sockios.h>
#include <net/if.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

enum { SKIPPED = 77 };

static struct bench {
    uv_loop_t loop;
    struct tn_egress *e;
    struct tn_egress_conn *conn;
    bool opened, gone;
} b;

static void on_open(void *arg, struct tn_egress_conn *c)
{
    b.opened = true;
    tn_egress_want(c, TN_EGRESS_WANT_READ);
}
static void on_fail(void *arg, enum tn_egress_fail why) { fail_msg("dial: %s", tn_egress_fail_text(why)); }
static void on_readable(void *arg, struct tn_egress_conn *c) {}
static const struct tn_egress_events events = {.on_open = on_open, .on_fail = on_fail, .on_readable = on_readable};
static void on_gone(void *arg) { b.gone = true; }

/* The proxy's side, step by step with the loop between: what it reads and says. */
static void proxy_turn(int fd, size_t want, const void *answer, size_t len)
{
    uint8_t in[64];
    size_t have = 0;
    while (have < want) {
        uv_run(&b.loop, UV_RUN_NOWAIT);
        ssize_t n = recv(fd, in, want - have, MSG_DONTWAIT);
        if (n > 0) have += (size_t)n;
        else assert_true(n < 0 && errno == EAGAIN);
    }
    assert_int_equal(send(fd, answer, len, 0), (ssize_t)len);
}

static int listen_somewhere(uint16_t *port)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof sa;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, len), 0);
    assert_int_equal(listen(fd, 4), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
    *port = ntohs(sa.sin_port);
    return fd;
}

static int open_flow(int listener)
{
    struct tn_addrport dst = {tn_ip4(45, 45, 45, 45), 80};
    b.opened = false;
    struct tn_egress_target to = {.dst = dst, .peer = 1};
    assert_int_equal(tn_egress_dial(b.e, &to, &events, NULL, &b.conn), 0);
    int fd = accept(listener, NULL, NULL);
    assert_true(fd >= 0);
    proxy_turn(fd, 3, (uint8_t[]){5, 0}, 2);
    proxy_turn(fd, 10, (uint8_t[]){5, 0, 0, 1, 0, 0, 0, 0, 0, 0}, 10);
    while (!b.opened) uv_run(&b.loop, UV_RUN_ONCE);
    return fd;
}

/* Holds every descriptor of ours until the pipe's other end is closed. */
static pid_t fork_holder(int hold[2])
{
    assert_int_equal(pipe(hold), 0);
    pid_t pid = fork();
    if (pid == 0) {
        char c;
        close(hold[1]);
        while (read(hold[0], &c, 1) > 0) {}
        _exit(0);
    }
    close(hold[0]);
    return pid;
}

static void test_closed_under_a_fork(void **state)
{
    uint16_t port;
    int hold[2], listener = listen_somewhere(&port);
    char url[64], why[128];
    struct tn_proxy *proxy;
    struct tn_egress_config config = {.loop = &b.loop};
    uv_loop_init(&b.loop);
    assert_int_equal(tn_egress_new(&config, &b.e), 0);
    int n = snprintf(url, sizeof url, "socks5://127.0.0.1:%u", port);
    assert_int_equal(tn_proxy_parse(url, (size_t)n, &proxy, why), 0);
    assert_int_equal(tn_egress_set_policy(b.e, TN_EGRESS_PROXY, proxy), 0);
    int fd = open_flow(listener);
    pid_t pid = fork_holder(hold);
    tn_egress_close(b.conn, false);
    assert_int_equal(send(fd, "late", 4, 0), 4); /* an event on the socket that only the child has now */
    for (int left = 1; left > 0; usleep(1000)) assert_int_equal(ioctl(fd, SIOCOUTQ, &left), 0);
    for (int i = 0; i < 10; i++) uv_run(&b.loop, UV_RUN_NOWAIT); /* the connection's memory is not touched: ASan */
    close(fd);
    fd = open_flow(listener); /* and the next flow works */
    tn_egress_close(b.conn, true);
    tn_egress_free(b.e, on_gone, NULL);
    uv_run(&b.loop, UV_RUN_DEFAULT);
    assert_true(b.gone);
    assert_int_equal(uv_loop_close(&b.loop), 0);
    close(hold[1]);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    close(fd);
    close(listener);
}

static int enter_namespace(void)
{
    if (unshare(getuid() == 0 ? CLONE_NEWNET : CLONE_NEWUSER | CLONE_NEWNET) != 0) return -1;
    struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int err = ioctl(s, SIOCSIFFLAGS, &lo);
    close(s);
    return err;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_closed_under_a_fork)};
    if (enter_namespace() != 0) {
        fprintf(stderr, "skipped: no network namespaces here\n");
        return SKIPPED;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
