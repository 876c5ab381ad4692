/* The public API against a real tailnet: dev's control, DERP and STUN servers in a thread of this program, several nodes of ours,
 * everything in a network namespace of its own with nothing but loopback. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "dev/dev.h"
#include "tailnet.h"
#include "util/text.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { UP_MS = 60 * 1000, SKIPPED = 77 };

/* ---- the tailnet ---- */

static struct {
    pthread_t thread;
    uv_loop_t loop;
    uv_async_t stop;
    struct tn_dev *dev;
    char dir[32], url[64], key[128], why[256];
    int err;
    pthread_barrier_t ready;
} box;

static void box_stop(uv_async_t *a)
{
    tn_dev_stop(box.dev, NULL, NULL);
    uv_close((uv_handle_t *)a, NULL);
}

static void *box_main(void *arg)
{
    struct tn_dev_options o = {.listen = "127.0.0.1:0", .state_dir = box.dir};
    uv_loop_init(&box.loop);
    uv_async_init(&box.loop, &box.stop, box_stop);
    box.err = tn_dev_start(&box.loop, &o, &box.dev, box.why, sizeof box.why);
    if (!box.err) {
        snprintf(box.url, sizeof box.url, "%s", tn_dev_url(box.dev));
        snprintf(box.key, sizeof box.key, "%s", tn_dev_auth_key(box.dev));
    } else {
        uv_close((uv_handle_t *)&box.stop, NULL);
    }
    pthread_barrier_wait(&box.ready);
    uv_run(&box.loop, UV_RUN_DEFAULT);
    uv_loop_close(&box.loop);
    return NULL;
}

static int start_box(void **state)
{
    strcpy(box.dir, "/tmp/tn-api-XXXXXX");
    if (!mkdtemp(box.dir)) return -1;
    pthread_barrier_init(&box.ready, NULL, 2);
    if (pthread_create(&box.thread, NULL, box_main, NULL) != 0) return -1;
    pthread_barrier_wait(&box.ready);
    if (box.err) fprintf(stderr, "dev: %s\n", box.why);
    return box.err;
}

static void remove_tree(const char *path)
{
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        char sub[600];
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        snprintf(sub, sizeof sub, "%s/%s", path, e->d_name);
        if (unlink(sub) != 0) remove_tree(sub);
    }
    if (d) closedir(d);
    rmdir(path);
}

static int stop_box(void **state)
{
    uv_async_send(&box.stop);
    pthread_join(box.thread, NULL);
    pthread_barrier_destroy(&box.ready);
    remove_tree(box.dir);
    return 0;
}

/* ---- nodes ---- */

static void show_log(void *ctx, int level, const char *module, const char *line)
{
    if (getenv("VERBOSE")) fprintf(stderr, "%s %s: %s\n", (const char *)ctx, module, line);
}

static tailnet *make(const char *hostname)
{
    tailnet *t;
    assert_int_equal(tailnet_new(&t), 0);
    tailnet_set_log(t, show_log, (void *)(uintptr_t)hostname);
    assert_int_equal(tailnet_set(t, "log_level", "debug"), 0);
    assert_int_equal(tailnet_set(t, "hostname", hostname), 0);
    assert_int_equal(tailnet_set(t, "login_server", box.url), 0);
    assert_int_equal(tailnet_set(t, "auth_key", box.key), 0);
    return t;
}

static tailnet *make_up(const char *hostname)
{
    tailnet *t = make(hostname);
    int err = tailnet_up(t, UP_MS);
    if (err) {
        char why[256];
        tailnet_error(t, why, sizeof why);
        fail_msg("%s: %s (%s)", hostname, tailnet_strerror(err), why);
    }
    return t;
}

/* The first dial to a peer that has just joined may come before our netmap knows it. */
static int dial_soon(tailnet *t, const char *address, int *fd)
{
    int err = -ENOENT;
    for (int i = 0; i < 200 && (err == -ENOENT || err == -EHOSTUNREACH); i++) {
        err = tailnet_dial(t, "tcp", address, 20000, fd);
        if (err) usleep(50 * 1000);
    }
    return err;
}

static int count_dir(const char *path)
{
    int n = 0;
    DIR *d = opendir(path);
    while (d && readdir(d)) n++;
    if (d) closedir(d);
    return n;
}

/* ---- transfers ---- */

struct transfer {
    int fd;
    size_t len;
    uint32_t seed;
};

static uint8_t byte_at(uint32_t seed, size_t i) { return (uint8_t)((i * 2654435761u + seed) >> 13); }

static void *send_all(void *arg)
{
    struct transfer *t = arg;
    uint8_t chunk[4096];
    for (size_t at = 0; at < t->len;) {
        size_t n = t->len - at < sizeof chunk ? t->len - at : sizeof chunk;
        for (size_t i = 0; i < n; i++) chunk[i] = byte_at(t->seed, at + i);
        ssize_t w = write(t->fd, chunk, n);
        if (w <= 0) return (void *)1;
        at += (size_t)w;
    }
    shutdown(t->fd, SHUT_WR);
    return NULL;
}

/* Reads to the end of file; how many bytes were right before the first wrong one. */
static size_t receive_all(int fd, uint32_t seed)
{
    uint8_t chunk[4096];
    size_t at = 0;
    for (ssize_t n; (n = read(fd, chunk, sizeof chunk)) > 0;)
        for (ssize_t i = 0; i < n; i++, at++)
            if (chunk[i] != byte_at(seed, at)) return at;
    return at;
}

struct reader {
    int fd;
    uint32_t seed;
    size_t got;
};

static void *read_all(void *arg)
{
    struct reader *r = arg;
    r->got = receive_all(r->fd, r->seed);
    return NULL;
}

/* Both ways at once; each side ends its own direction when it is done. */
static void exchange(int a, int b, size_t len)
{
    struct transfer ab = {a, len, 1}, ba = {b, len, 2};
    struct reader at_a = {a, 2, 0}, at_b = {b, 1, 0};
    void *(*const work[])(void *) = {send_all, send_all, read_all, read_all};
    void *const args[] = {&ab, &ba, &at_a, &at_b};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&threads[i], NULL, work[i], args[i]), 0);
    for (int i = 0; i < 4; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    assert_int_equal(at_a.got, len);
    assert_int_equal(at_b.got, len);
}

/* ---- tests ---- */

static void dial_listen_accept(void **state)
{
    tailnet *a = make_up("alpha"), *b = make_up("beta");
    char ip4[16], ip6[46], address[80], remote[64];
    tailnet_listener *l;
    assert_int_equal(tailnet_addresses(b, ip4, sizeof ip4, ip6, sizeof ip6), 0);
    assert_int_equal(tailnet_listen(b, "tcp", ":7777", &l), 0);
    tailnet_listener *again;
    assert_int_equal(tailnet_listen(b, "tcp", ":7777", &again), -EADDRINUSE);
    int x, y;
    assert_int_equal(tailnet_accept(l, 0, &y, NULL, 0), -EAGAIN);
    const char *hosts[] = {ip4, ip6, "beta"};
    for (int i = 0; i < 3; i++) {
        snprintf(address, sizeof address, strchr(hosts[i], ':') ? "[%s]:7777" : "%s:7777", hosts[i]);
        assert_int_equal(dial_soon(a, address, &x), 0);
        struct pollfd p = {.fd = tailnet_listener_fd(l), .events = POLLIN};
        assert_int_equal(poll(&p, 1, 20000), 1);
        assert_int_equal(tailnet_accept(l, 1000, &y, remote, sizeof remote), 0);
        assert_int_equal(strncmp(remote, i == 1 ? "[fd7a:" : "100.", i == 1 ? 6 : 4), 0);
        assert_true(fcntl(x, F_GETFD) & FD_CLOEXEC);
        exchange(x, y, i == 0 ? 3 * 1024 * 1024 : 5000);
        close(x);
        close(y);
    }
    assert_int_equal(tailnet_dial(a, "tcp", "beta:7778", 20000, &x), -ECONNREFUSED);
    assert_int_equal(tailnet_dial(a, "tcp", "nobody:1", 20000, &x), -ENOENT);
    assert_int_equal(tailnet_dial(a, "tcp", "100.99.98.97:1", 20000, &x), -EHOSTUNREACH);
    assert_int_equal(tailnet_dial(a, "tcp", "beta", 20000, &x), -EINVAL);
    assert_int_equal(tailnet_dial(a, "udp", "beta:1", 20000, &x), -EINVAL);
    tailnet_listener_close(l);
    assert_int_equal(tailnet_dial(a, "tcp", "beta:7777", 20000, &x), -ECONNREFUSED);
    /* to ourselves */
    assert_int_equal(tailnet_listen(a, "tcp", ":99", &l), 0);
    assert_int_equal(tailnet_dial(a, "tcp", "alpha:99", 20000, &x), 0);
    assert_int_equal(tailnet_accept(l, 20000, &y, NULL, 0), 0);
    exchange(x, y, 100000);
    close(x);
    close(y);
    tailnet_listener_close(l);
    tailnet_close(a);
    tailnet_close(b);
}

/* An application that closes its end: the other side reads the end of file; one that dies mid-write gets an error there. */
static void closing_ends(void **state)
{
    tailnet *a = make_up("gamma"), *b = make_up("delta");
    tailnet_listener *l;
    int x, y;
    char c;
    assert_int_equal(tailnet_listen(b, "tcp", ":7", &l), 0);
    assert_int_equal(dial_soon(a, "delta:7", &x), 0);
    assert_int_equal(tailnet_accept(l, 20000, &y, NULL, 0), 0);
    assert_int_equal(write(x, "hi", 2), 2);
    close(x);
    char hi[3] = {0};
    assert_int_equal(recv(y, hi, 2, MSG_WAITALL), 2);
    assert_string_equal(hi, "hi");
    assert_int_equal(read(y, &c, 1), 0);
    int err = 0;
    for (int i = 0; i < 200 && !err; i++) { /* what is written to a closed peer ends in an error, not in silence */
        if (send(y, "x", 1, MSG_NOSIGNAL) < 0) err = errno;
        usleep(50 * 1000);
    }
    assert_true(err == EPIPE || err == ECONNRESET);
    close(y);
    tailnet_listener_close(l);
    tailnet_close(a);
    tailnet_close(b);
}

static void *cancel_soon(void *t)
{
    usleep(300 * 1000);
    tailnet_cancel(t);
    return NULL;
}

static void timeouts_and_cancel(void **state)
{
    tailnet *t = make("gamma");
    pthread_t thread;
    assert_int_equal(tailnet_set(t, "login_server", "http://127.0.0.1:1"), 0); /* nobody there */
    assert_int_equal(tailnet_up(t, 0), -ETIMEDOUT);
    assert_int_equal(tailnet_up(t, 200), -ETIMEDOUT);
    assert_int_equal(pthread_create(&thread, NULL, cancel_soon, t), 0);
    assert_int_equal(tailnet_up(t, -1), -ECANCELED);
    pthread_join(thread, NULL);
    assert_int_equal(tailnet_up(t, 100), -ETIMEDOUT); /* a cancel ends what waits, not what comes */
    int fd;
    assert_int_equal(tailnet_dial(t, "tcp", "1.2.3.4:5", 100, &fd), -ENOTCONN);
    assert_int_equal(tailnet_addresses(t, NULL, 0, NULL, 0), -ENOTCONN);
    assert_int_equal(tailnet_set(t, "hostname", "x"), -EBUSY);
    tailnet_close(t);

    t = make_up("gamma");
    tailnet_listener *l;
    assert_int_equal(tailnet_listen(t, "tcp", ":1", &l), 0);
    assert_int_equal(tailnet_accept(l, 100, &fd, NULL, 0), -ETIMEDOUT);
    assert_int_equal(pthread_create(&thread, NULL, cancel_soon, t), 0);
    assert_int_equal(tailnet_accept(l, -1, &fd, NULL, 0), -ECANCELED);
    pthread_join(thread, NULL);
    tailnet_listener_close(l);
    tailnet_close(t);
}

static void wrong_key_and_login(void **state)
{
    tailnet *t = make("delta");
    char why[256], *url;
    assert_int_equal(tailnet_set(t, "auth_key", "tskey-wrong"), 0);
    assert_int_equal(tailnet_up(t, UP_MS), TAILNET_EPROTO);
    tailnet_error(t, why, sizeof why);
    assert_int_not_equal(why[0], 0);
    assert_null(strstr(why, "tskey-wrong"));
    tailnet_close(t);

    t = make("delta");
    assert_int_equal(tailnet_set(t, "auth_key", NULL), 0);
    assert_int_equal(tailnet_up(t, 15000), -ETIMEDOUT); /* waits for a person */
    assert_int_equal(tailnet_auth_url(t, &url), 0);
    assert_int_equal(strncmp(url, "http://", 7), 0);
    assert_int_equal(tailnet_up(t, 0), TAILNET_ENEEDLOGIN);
    tailnet_free(url);
    tailnet_close(t);
}

static void state_is_kept_and_locked(void **state)
{
    char dir[] = "/tmp/tn-api-state-XXXXXX", ip[16], again[16], why[256];
    assert_non_null(mkdtemp(dir));
    tailnet *t = make("epsilon"), *other;
    assert_int_equal(tailnet_set(t, "state_dir", dir), 0);
    assert_int_equal(tailnet_up(t, UP_MS), 0);
    assert_int_equal(tailnet_addresses(t, ip, sizeof ip, NULL, 0), 0);
    other = make("epsilon");
    assert_int_equal(tailnet_set(other, "state_dir", dir), 0);
    assert_int_equal(tailnet_start(other), -EBUSY);
    tailnet_error(other, why, sizeof why);
    assert_non_null(strstr(why, "another node"));
    tailnet_close(other);
    tailnet_close(t);
    t = make("epsilon");
    assert_int_equal(tailnet_set(t, "state_dir", dir), 0);
    assert_int_equal(tailnet_set(t, "auth_key", ""), 0); /* not needed any more */
    assert_int_equal(tailnet_up(t, UP_MS), 0);
    assert_int_equal(tailnet_addresses(t, again, sizeof again, NULL, 0), 0);
    assert_string_equal(ip, again);
    assert_int_equal(tailnet_logout(t, 10000), 0);
    tailnet_close(t);
    remove_tree(dir);
}

static void status_has_no_secret(void **state)
{
    tailnet *t = make("zeta");
    char *json;
    assert_int_equal(tailnet_set(t, "exit_proxy", "socks5://pr0xyuser:pr0xypass@192.0.2.1:1080"), 0);
    assert_int_equal(tailnet_set(t, "advertise_exit_node", "true"), 0);
    assert_int_equal(tailnet_up(t, UP_MS), 0);
    assert_int_equal(tailnet_status(t, &json), 0);
    assert_non_null(strstr(json, "\"Running\""));
    assert_non_null(strstr(json, "192.0.2.1:1080"));
    assert_null(strstr(json, "pr0xy"));
    assert_null(strstr(json, box.key));
    tailnet_free(json);
    tailnet_close(t);
}

/* After close: no thread, no descriptor (memory is LeakSanitizer's). Twice, since the first use of a library may keep things. */
static void nothing_remains(void **state)
{
    int threads = 0, fds = 0;
    for (int round = 0; round < 3; round++) {
        tailnet *nodes[3];
        for (int i = 0; i < 3; i++) {
            char name[16];
            snprintf(name, sizeof name, "eta%d", i);
            nodes[i] = make(name);
            assert_int_equal(tailnet_start(nodes[i]), 0);
        }
        for (int i = 0; i < 3; i++) assert_int_equal(tailnet_up(nodes[i], UP_MS), 0);
        for (int i = 0; i < 3; i++) tailnet_close(nodes[i]);
        usleep(300 * 1000); /* the box notices the ends of its connections */
        int now_threads = count_dir("/proc/self/task"), now_fds = count_dir("/proc/self/fd");
        if (round > 0) {
            assert_int_equal(now_threads, threads);
            assert_true(now_fds <= fds);
        }
        threads = now_threads;
        fds = now_fds;
    }
    tailnet *t;
    assert_int_equal(tailnet_new(&t), 0); /* never started */
    tailnet_close(t);
    tailnet_close(NULL);
}

/* A namespace with loopback alone: nothing here can reach a real network. */
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
    if (enter_namespace() != 0) {
        fprintf(stderr, "skipped: no network namespaces here (%s)\n", strerror(errno));
        return SKIPPED;
    }
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dial_listen_accept),
        cmocka_unit_test(closing_ends),
        cmocka_unit_test(timeouts_and_cancel),
        cmocka_unit_test(wrong_key_and_login),
        cmocka_unit_test(state_is_kept_and_locked),
        cmocka_unit_test(status_has_no_secret),
        cmocka_unit_test(nothing_remains),
    };
    return cmocka_run_group_tests(tests, start_box, stop_box);
}
