/* Accepting when there is no descriptor or no memory: it rests, and goes on when there is one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

static int counted_accept4(int fd, struct sockaddr *sa, socklen_t *len, int flags);
#define accept4 counted_accept4
#include "node/acceptor.c"
#undef accept4

static int accept4_real(int fd) { return accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC); }

static struct {
    uv_loop_t loop;
    struct tn_acceptor a;
    struct sockaddr_un at;
    unsigned tries, taken, closed;
    int error; /* what accepting says instead */
    bool refuse;
    int fds[256];
} w;

static int counted_accept4(int fd, struct sockaddr *sa, socklen_t *len, int flags)
{
    w.tries++;
    if (!w.error) return accept4_real(fd);
    errno = w.error;
    return -1;
}

static bool take(void *arg, int fd)
{
    assert_ptr_equal(arg, &w);
    if (w.refuse) return false;
    w.fds[w.taken++] = fd;
    return true;
}

static void closed(void *arg) { w.closed++; }

static int setup(void **state)
{
    memset(&w, 0, sizeof w);
    w.at = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(w.at.sun_path + 1, sizeof w.at.sun_path - 1, "tn-acceptor-%d", getpid()); /* abstract: leaves nothing behind */
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&w.at, sizeof w.at), 0);
    assert_int_equal(listen(fd, 64), 0);
    assert_int_equal(uv_loop_init(&w.loop), 0);
    return tn_acceptor_start(&w.a, &w.loop, fd, take, closed, &w);
}

static int teardown(void **state)
{
    tn_acceptor_stop(&w.a);
    uv_run(&w.loop, UV_RUN_DEFAULT);
    assert_int_equal(w.closed, 1);
    assert_int_equal(uv_loop_close(&w.loop), 0);
    for (unsigned i = 0; i < w.taken; i++) close(w.fds[i]);
    return 0;
}

static void connect_it(int fd) { assert_int_equal(connect(fd, (struct sockaddr *)&w.at, sizeof w.at), 0); }

static int client(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    connect_it(fd);
    return fd;
}

static void turns(unsigned n)
{
    while (n--) uv_run(&w.loop, UV_RUN_NOWAIT);
}

static void until_taken(unsigned n)
{
    for (int i = 0; i < 100 && w.taken < n; i++) uv_run(&w.loop, UV_RUN_ONCE); /* each is an event, or the pause's end */
    assert_int_equal(w.taken, n);
}

static void a_low_limit(void **state)
{
    struct rlimit old, low;
    int spare[256], n = 0, late = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    low = (struct rlimit){.rlim_cur = 200, .rlim_max = old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    while (n < 256 && (spare[n] = fcntl(late, F_DUPFD_CLOEXEC, 0)) >= 0) n++;
    connect_it(late);
    turns(1000);
    unsigned tries = w.tries;
    int taken = (int)w.taken;
    close(spare[--n]); /* one more is free */
    until_taken(1);
    while (n > 0) close(spare[--n]);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_int_equal(taken, 0);
    assert_in_range(tries, 1, 100); /* a thousand turns went by: it rested */
    close(late);
}

static void errors_of_all_kinds(void **state)
{
    static const int errors[] = {EMFILE, ENFILE, ENOBUFS, ENOMEM, EPERM};
    int fds[5];
    for (unsigned i = 0; i < 5; i++) {
        w.error = errors[i];
        w.tries = 0;
        fds[i] = client();
        for (int k = 0; k < 10 && w.tries == 0; k++) uv_run(&w.loop, UV_RUN_ONCE);
        assert_int_equal(w.tries, 1);
        turns(100);
        assert_in_range(w.tries, 1, 10);
        w.error = 0;
        until_taken(i + 1);
    }
    for (unsigned i = 0; i < 5; i++) close(fds[i]);
}

static void not_taken_now(void **state)
{
    char byte;
    int one = client();
    w.refuse = true;
    for (int k = 0; k < 10 && w.tries == 0; k++) uv_run(&w.loop, UV_RUN_ONCE);
    assert_int_equal(recv(one, &byte, 1, 0), 0); /* closed */
    w.refuse = false;
    int two = client();
    until_taken(1);
    close(one);
    close(two);
}

static void many_at_once(void **state)
{
    int fds[60];
    for (int i = 0; i < 60; i++) fds[i] = client();
    until_taken(60);
    for (int i = 0; i < 60; i++) close(fds[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(a_low_limit, setup, teardown),
                                       cmocka_unit_test_setup_teardown(errors_of_all_kinds, setup, teardown),
                                       cmocka_unit_test_setup_teardown(not_taken_now, setup, teardown),
                                       cmocka_unit_test_setup_teardown(many_at_once, setup, teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
