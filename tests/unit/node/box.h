/* A tailnet in one process for tests of the public API: control, DERP and STUN in a thread (dev/), and nodes to meet in it. To be
 * included by one file per test program. All of it runs in a network namespace with nothing but loopback. */
#ifndef TN_TEST_NODE_BOX_H
#define TN_TEST_NODE_BOX_H

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
    assert_int_equal(tailnet_set(t, "port_mapping", "false"), 0); /* the machine's gateway is not part of the test */
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

#endif
