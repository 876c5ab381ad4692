/* Goodput of our stack beside Linux: one bulk flow over the link emulator, 100 Mbit/s, 80 ms round trip, a queue of
 * one bandwidth-delay product, random loss 0, 0.1 and 1 % in the direction of the data.
 *
 *   ours > ours     on a virtual clock
 *   ours > linux    through a TUN device, in real time
 *   linux > ours
 *   linux > linux   through two TUN devices in two network namespaces, cubic (and bbr with -b)
 *
 * Options: -t SECONDS per measurement (default 20), -r MBIT, -d RTT_MS, -m MTU (default 1280), -b. Needs root or user
 * namespaces and /dev/net/tun; without them only the virtual line is printed. */
#include "../tests/sim/tunbed.h"
#include "stack/stack.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PORT = 5001 };

struct setup {
    double seconds, mbit, rtt_ms, loss;
    int mtu;
    uint64_t seed;
    const char *cc; /* of Linux */
};

static struct link_config link_of(const struct setup *s, bool lossy)
{
    uint64_t rate = (uint64_t)(s->mbit * 1e6);
    return (struct link_config){
        .delay_us = (uint64_t)(s->rtt_ms * 500), .rate_bps = rate,
        .queue_bytes = (uint64_t)((double)rate / 8 * s->rtt_ms / 1000), .loss = lossy ? s->loss : 0, .seed = s->seed,
    };
}

/* ---- our side ---- */

struct ours {
    struct tn_stack *st;
    uint64_t rng, now, received;
    struct link *out;
};

static void output(void *ctx, uint8_t *packet, size_t len)
{
    struct ours *o = ctx;
    link_send(o->out, packet, len, o->now);
}

static void keep_writing(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    struct iovec iov[16];
    for (int n; (n = tn_tcp_reserve(c, iov, 16, 65536)) > 0;) {
        size_t len = 0;
        for (int i = 0; i < n; len += iov[i++].iov_len) memset(iov[i].iov_base, 'x', iov[i].iov_len);
        tn_tcp_commit(c, len, now_us);
    }
}

static void keep_reading(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    struct ours *o = arg;
    size_t n = tn_tcp_readable(c);
    o->received += n;
    if (n) tn_tcp_consume(c, n, now_us);
}

static const struct tn_tcp_events sender = {.on_open = keep_writing, .on_writable = keep_writing};
static const struct tn_tcp_events receiver = {.on_readable = keep_reading};

static int accept_receiver(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    tn_tcp_set_events(c, &receiver, arg);
    return 0;
}

static void start_stack(struct ours *o, const struct setup *s, struct link *out, struct tn_ip addr, uint64_t now)
{
    *o = (struct ours){.rng = s->seed + out->c.seed, .now = now, .out = out};
    struct tn_stack_config config = {
        .mtu = (uint16_t)s->mtu, .rng = tn_rng_seeded(&o->rng), .cb.output = output, .ctx = o};
    o->st = tn_stack_new(&config);
    if (!o->st || tn_stack_set_addrs(o->st, &addr, 1, now) != 0) abort();
}

static void start_receiver(struct ours *o, struct tn_ip addr)
{
    struct tn_addrport at = {addr, PORT};
    struct tn_tcp_listener *l;
    if (tn_tcp_listen(o->st, &at, 16, accept_receiver, o, &l) != 0) abort();
}

static void start_sender(struct ours *o, struct tn_ip to)
{
    struct tn_addrport remote = {to, PORT};
    struct tn_tcp *c;
    if (tn_tcp_connect(o->st, NULL, &remote, &sender, o, o->now, &c) != 0) abort();
}

/* ---- virtual time ---- */

static double ours_to_ours(const struct setup *s)
{
    struct link l[2];
    struct ours o[2];
    struct tn_ip addr[2] = {tn_ip4(10, 9, 0, 1), tn_ip4(10, 9, 0, 2)};
    uint64_t now = 1000000, end = now + (uint64_t)(s->seconds * 1e6);
    for (int i = 0; i < 2; i++) {
        struct link_config c = link_of(s, i == 0);
        c.seed += (uint64_t)i;
        link_init(&l[i], &c);
        start_stack(&o[i], s, &l[i], addr[i], now);
    }
    start_receiver(&o[1], addr[1]);
    start_sender(&o[0], addr[1]);
    while (now < end) {
        uint64_t at = UINT64_MAX;
        for (int i = 0; i < 2; i++) {
            if (tn_stack_next_deadline(o[i].st) < at) at = tn_stack_next_deadline(o[i].st);
            if (link_next(&l[i]) < at) at = link_next(&l[i]);
        }
        if (at > now) now = at;
        o[0].now = o[1].now = now;
        for (int i = 0; i < 2; i++) {
            struct link_packet *p = link_take(&l[i], now);
            if (p) tn_stack_input(o[!i].st, p->bytes, p->len, now);
            free(p);
            if (tn_stack_next_deadline(o[i].st) <= now) tn_stack_timeout(o[i].st, now);
        }
    }
    for (int i = 0; i < 2; i++) {
        tn_stack_free(o[i].st);
        link_fini(&l[i]);
    }
    return (double)o[1].received * 8 / s->seconds / 1e6;
}

/* ---- the kernel's side ---- */

static int kernel_socket(const struct setup *s)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, s->cc, (socklen_t)strlen(s->cc)) != 0) {
        printf("congestion control %s: %s\n", s->cc, strerror(errno));
        exit(1);
    }
    return fd;
}

static struct sockaddr_in kernel_addr(const char *ip)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    inet_pton(AF_INET, ip, &a.sin_addr);
    return a;
}

static int kernel_listen(const struct setup *s, const char *ip)
{
    int fd = kernel_socket(s);
    struct sockaddr_in a = kernel_addr(ip);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) != 0 || listen(fd, 4) != 0) abort();
    return fd;
}

static int kernel_connect(const struct setup *s, const char *ip)
{
    int fd = kernel_socket(s);
    struct sockaddr_in a = kernel_addr(ip);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0 && errno != EINPROGRESS) abort();
    return fd;
}

/* Non-blocking; reads or writes as much as goes. */
static void kernel_read(int *listener, int *fd, uint64_t *received)
{
    static char buf[1 << 18];
    if (*fd < 0) *fd = accept4(*listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (*fd < 0) return;
    for (ssize_t n; (n = read(*fd, buf, sizeof buf)) > 0;) *received += (uint64_t)n;
}

static void kernel_write(int fd)
{
    static const char buf[1 << 16];
    while (write(fd, buf, sizeof buf) > 0) continue;
}

static void to_kernel(int tun, struct link *l, uint64_t now)
{
    for (struct link_packet *p; (p = link_take(l, now)); free(p))
        if (write(tun, p->bytes, p->len) < 0 && errno != EAGAIN && errno != EINVAL) abort();
}

/* ---- real time ---- */

static double ours_with_kernel(const struct setup *s, bool we_send)
{
    int tun = tunbed_open("tn0", s->mtu, "10.9.0.1", NULL);
    if (tun < 0) return -1;
    struct link out, in;
    struct link_config c = link_of(s, we_send), back = link_of(s, !we_send);
    link_init(&out, &c);
    link_init(&in, &back);
    struct ours o;
    uint64_t received = 0;
    start_stack(&o, s, &out, tn_ip4(10, 9, 0, 2), tunbed_now_us());
    int listener = -1, fd = -1;
    if (we_send) {
        listener = kernel_listen(s, "10.9.0.1");
        start_sender(&o, tn_ip4(10, 9, 0, 1));
    } else {
        start_receiver(&o, tn_ip4(10, 9, 0, 2));
        fd = kernel_connect(s, "10.9.0.2");
    }
    uint64_t end = tunbed_now_us() + (uint64_t)(s->seconds * 1e6);
    while ((o.now = tunbed_now_us()) < end) {
        tunbed_drain(tun, &in);
        to_kernel(tun, &out, o.now);
        for (struct link_packet *p; (p = link_take(&in, o.now)); free(p))
            tn_stack_input(o.st, p->bytes, p->len, o.now);
        if (tn_stack_next_deadline(o.st) <= o.now) tn_stack_timeout(o.st, o.now);
        if (we_send) kernel_read(&listener, &fd, &received);
        else kernel_write(fd);
        uint64_t at = tn_stack_next_deadline(o.st);
        if (link_next(&in) < at) at = link_next(&in);
        if (link_next(&out) < at) at = link_next(&out);
        if (at > o.now + 1000) at = o.now + 1000; /* the kernel's socket is looked at by time */
        tunbed_wait(&tun, 1, at);
    }
    return (double)(we_send ? received : o.received) * 8 / s->seconds / 1e6;
}

static double linux_to_linux(const struct setup *s)
{
    int tun[2], listener, fd = -1;
    struct link l[2];
    struct link_config c = link_of(s, true), back = link_of(s, false);
    if ((tun[1] = tunbed_open("tn1", s->mtu, "10.9.0.2", NULL)) < 0) return -1;
    listener = kernel_listen(s, "10.9.0.2");
    if (!tunbed_enter() || (tun[0] = tunbed_open("tn0", s->mtu, "10.9.0.1", NULL)) < 0) return -1;
    int from = kernel_connect(s, "10.9.0.2");
    link_init(&l[0], &c);
    link_init(&l[1], &back);
    uint64_t received = 0, now, end = tunbed_now_us() + (uint64_t)(s->seconds * 1e6);
    while ((now = tunbed_now_us()) < end) {
        for (int i = 0; i < 2; i++) {
            tunbed_drain(tun[i], &l[i]);
            to_kernel(tun[!i], &l[i], now);
        }
        kernel_write(from);
        kernel_read(&listener, &fd, &received);
        uint64_t at = link_next(&l[0]) < link_next(&l[1]) ? link_next(&l[0]) : link_next(&l[1]);
        if (at > now + 1000) at = now + 1000;
        tunbed_wait(tun, 2, at);
    }
    return (double)received * 8 / s->seconds / 1e6;
}

/* Each measurement in a process and a namespace of its own. */
static void measure(const char *name, const struct setup *s, int kind)
{
    static const double losses[] = {0, 0.001, 0.01};
    printf("%-22s", name);
    for (int i = 0; i < 3; i++) {
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            struct setup one = *s;
            one.loss = losses[i];
            double mbit = -1;
            if (kind == 0) mbit = ours_to_ours(&one);
            else if (tunbed_enter()) mbit = kind == 3 ? linux_to_linux(&one) : ours_with_kernel(&one, kind == 1);
            if (mbit >= 0) printf("%9.1f", mbit);
            fflush(stdout);
            _exit(mbit < 0);
        }
        int status;
        waitpid(pid, &status, 0);
        if (status != 0) break;
    }
    printf("\n");
}

int main(int argc, char **argv)
{
    struct setup s = {.seconds = 20, .mbit = 100, .rtt_ms = 80, .mtu = 1280, .seed = 1, .cc = "cubic"};
    bool bbr = false;
    for (int opt; (opt = getopt(argc, argv, "t:r:d:m:s:b")) != -1;) {
        if (opt == 't') s.seconds = atof(optarg);
        else if (opt == 'r') s.mbit = atof(optarg);
        else if (opt == 'd') s.rtt_ms = atof(optarg);
        else if (opt == 'm') s.mtu = atoi(optarg);
        else if (opt == 's') s.seed = strtoull(optarg, NULL, 0);
        else if (opt == 'b') bbr = true;
        else return 2;
    }
    printf("goodput in Mbit/s of %.0f, %.0f ms, %.0f s\n%-22s%9s%9s%9s\n", s.mbit, s.rtt_ms, s.seconds, "random loss",
           "0", "0.1 %", "1 %");
    measure("ours > ours", &s, 0);
    measure("ours > linux", &s, 1);
    measure("linux cubic > ours", &s, 2);
    measure("linux cubic > linux", &s, 3);
    s.cc = "bbr";
    if (bbr) measure("linux bbr > linux", &s, 3);
    return 0;
}
