/* Our stack against the Linux kernel: it sits behind a TUN device in a private network namespace, the kernel's
 * sockets are on the other side, and the link emulator is between them in both directions.
 *
 * Each scenario is a process with a namespace of its own. In it one thread runs the stack and its services (struct
 * bed), and the main thread is an ordinary program with blocking sockets. Time limits only end a test that hangs.
 *
 * Exit code 77 where namespaces or TUN devices are not to be had. With a name as argument: only that scenario. */
#include "../sim/tunbed.h"
#include "stack/stack.h"
#include "util/err.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    PORT_ECHO = 7,     /* gives back what it gets; half-closes after the peer has */
    PORT_RESET = 20,   /* resets at the first byte */
    PORT_LAZY = 21,    /* echo that does not read for a second and a half */
    PORT_TALK = 22,    /* sends SPEECH bytes and its FIN at once, then listens to the end */
    PORT_KERNEL = 99,
    SPEECH = 200000,
    HANG_S = 60,
};
#define LAZY_US 1500000

static const char *const own4 = "10.9.0.2", *const foreign4 = "10.9.0.77", *const kernel4 = "10.9.0.1";
static const char *const own6 = "fd09::2", *const foreign6 = "fd09::77", *const kernel6 = "fd09::1";

static void fail(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
static void fail(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    printf("  ");
    vprintf(fmt, ap);
    printf("\n");
    fflush(stdout);
    va_end(ap);
    _exit(1);
}
#define REQUIRE(cond, ...)                                                                                        \
    do {                                                                                                          \
        if (!(cond)) fail(__VA_ARGS__);                                                                           \
    } while (0)

static void skip(void)
{
    fflush(stdout);
    _exit(TUNBED_SKIP);
}

static uint8_t pattern(size_t at) { return (uint8_t)((at * 2654435761u) >> 23 ^ at); }

/* ---- the stack's side ---- */

struct conn {
    struct bed *bed;
    struct tn_tcp *c;
    uint16_t port;
    size_t sent, received, to_send;
    uint64_t wake_us; /* reads nothing before; 0: not lazy */
    bool fin_sent;
    struct conn *next;
};

enum syn_plan { SYN_ACCEPT_LATER, SYN_REFUSE_LATER, SYN_REFUSE_ICMP };

struct bed {
    struct tn_stack *st;
    struct link out, in;
    int tun, wake;
    uint64_t now, rng;
    struct conn *lazy;
    /* a held SYN */
    struct tn_syn syn;
    uint64_t decide_us;
    uint64_t hold_us;
    enum syn_plan plan;
    /* what the main thread asks for and looks at */
    atomic_size_t connect_bytes; /* our own connection: how much to send and to get back */
    atomic_bool connect_now, ping_now, udp_now, v6;
    atomic_int closed, close_err; /* connections ended; how the last one did */
    atomic_int ponged, unreached, syns;
    atomic_size_t heard;          /* by PORT_TALK's connection, after its FIN */
};

static void pump_echo(struct conn *k);

static void finish(struct conn *k)
{
    if (k->fin_sent) return;
    k->fin_sent = true;
    tn_tcp_shutdown(k->c, k->bed->now);
}

static void speak(struct conn *k)
{
    while (k->sent < k->to_send) {
        uint8_t buf[4096];
        size_t n = k->to_send - k->sent < sizeof buf ? k->to_send - k->sent : sizeof buf;
        for (size_t i = 0; i < n; i++) buf[i] = pattern(k->sent + i);
        long took = tn_tcp_write(k->c, buf, n, k->bed->now);
        REQUIRE(took >= 0, "write: %s", tn_err_name((int)took));
        k->sent += (size_t)took;
        if ((size_t)took < n) return;
    }
    finish(k);
}

static void listen_to(struct conn *k)
{
    struct iovec iov[8];
    for (int n; (n = tn_tcp_peek(k->c, iov, 8)) > 0;) {
        size_t total = 0;
        for (int i = 0; i < n; i++)
            for (size_t j = 0; j < iov[i].iov_len; j++, total++)
                REQUIRE(((uint8_t *)iov[i].iov_base)[j] == pattern(k->received + total), "byte %zu changed",
                        k->received + total);
        k->received += total;
        tn_tcp_consume(k->c, total, k->bed->now);
    }
    if (k->port == PORT_TALK) atomic_store(&k->bed->heard, k->received);
}

static void pump_echo(struct conn *k)
{
    if (k->wake_us > k->bed->now) return;
    struct iovec iov;
    while (tn_tcp_peek(k->c, &iov, 1) == 1) {
        long took = tn_tcp_write(k->c, iov.iov_base, iov.iov_len, k->bed->now);
        if (took <= 0) return;
        tn_tcp_consume(k->c, (size_t)took, k->bed->now);
    }
    if (tn_tcp_eof(k->c)) finish(k);
}

static void on_readable(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    struct conn *k = arg;
    if (k->port == PORT_RESET) {
        tn_tcp_abort(c, now_us);
        free(k);
    } else if (k->port == PORT_TALK || k->port == PORT_KERNEL) {
        listen_to(k);
    } else {
        pump_echo(k);
    }
}

static void on_writable(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    struct conn *k = arg;
    if (k->port == PORT_TALK || k->port == PORT_KERNEL) speak(k);
    else pump_echo(k);
}

static void on_close(void *arg, int err, uint64_t now_us)
{
    struct conn *k = arg;
    atomic_store(&k->bed->close_err, err);
    if (err == 0 && k->port == PORT_KERNEL)
        REQUIRE(k->received == k->to_send, "%zu of %zu bytes came back", k->received, k->to_send);
    if (k->bed->lazy == k) k->bed->lazy = NULL;
    atomic_fetch_add(&k->bed->closed, 1);
    free(k);
}

static const struct tn_tcp_events events = {on_writable, on_readable, on_writable, on_close};

static struct conn *new_conn(struct bed *b, uint16_t port)
{
    struct conn *k = calloc(1, sizeof *k);
    k->bed = b;
    k->port = port;
    if (port == PORT_TALK) k->to_send = SPEECH;
    if (port == PORT_LAZY) {
        k->wake_us = b->now + LAZY_US;
        b->lazy = k;
    }
    return k;
}

static int on_accept(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    struct conn *k = new_conn(arg, tn_tcp_local(c).port);
    k->c = c;
    tn_tcp_set_events(c, &events, k);
    on_writable(k, c, now_us);
    return 0;
}

static void on_datagram(void *arg, const struct tn_addrport *local, const struct tn_addrport *from,
                        const uint8_t *bytes, size_t len, uint64_t now_us)
{
    struct bed *b = arg;
    struct tn_udp_sock **sock = (struct tn_udp_sock **)(b + 1);
    tn_udp_sendto(*sock, local, from, bytes, len, now_us);
}

static void on_unreach(void *arg, const struct tn_addrport *to, int err, uint64_t now_us)
{
    atomic_store(&((struct bed *)arg)->unreached, err);
}

static void on_pong(void *arg, const struct tn_ip *from, uint16_t id, uint16_t seq, uint64_t now_us)
{
    if (id == 77 && seq == 3) atomic_fetch_add(&((struct bed *)arg)->ponged, 1);
}

static enum tn_syn_verdict on_foreign_syn(void *ctx, const struct tn_syn *syn, uint64_t now_us)
{
    struct bed *b = ctx;
    atomic_fetch_add(&b->syns, 1);
    if (b->decide_us) return TN_SYN_DROP; /* held already: it was sent again */
    b->syn = *syn;
    b->decide_us = now_us + b->hold_us;
    return TN_SYN_HELD;
}

static bool on_foreign_tcp(void *ctx, const struct tn_addrport *src, const struct tn_addrport *dst, bool rst,
                           uint64_t now_us)
{
    return false;
}

static void on_foreign_udp(void *ctx, const struct tn_addrport *src, const struct tn_addrport *dst,
                           const uint8_t *packet, size_t len, const uint8_t *payload, size_t payload_len,
                           uint64_t now_us)
{
    struct bed *b = ctx;
    tn_stack_unreach(b->st, TN_UNREACH_PORT, packet, len, now_us);
}

static void decide(struct bed *b)
{
    if (!b->decide_us || b->now < b->decide_us) return;
    b->decide_us = 0;
    if (b->plan == SYN_REFUSE_LATER) {
        tn_stack_reset_syn(b->st, &b->syn, b->now);
        return;
    }
    struct conn *k = new_conn(b, PORT_ECHO);
    int err = tn_tcp_accept_syn(b->st, &b->syn, &events, k, b->now, &k->c);
    REQUIRE(err == 0, "accept_syn: %s", tn_err_name(err));
}

static void output(void *ctx, uint8_t *packet, size_t len)
{
    struct bed *b = ctx;
    link_send(&b->out, packet, len, b->now);
}

static struct tn_addrport at(const char *ip, uint16_t port)
{
    struct tn_addrport a = {.port = port};
    REQUIRE(tn_ip_parse(ip, &a.ip) == 0, "address");
    return a;
}

static void obey(struct bed *b)
{
    bool v6 = atomic_load(&b->v6);
    struct tn_addrport kernel = at(v6 ? kernel6 : kernel4, PORT_KERNEL);
    if (atomic_exchange(&b->connect_now, false)) {
        struct conn *k = new_conn(b, PORT_KERNEL);
        k->to_send = atomic_load(&b->connect_bytes);
        int err = tn_tcp_connect(b->st, NULL, &kernel, &events, k, b->now, &k->c);
        REQUIRE(err == 0, "connect: %s", tn_err_name(err));
    }
    if (atomic_exchange(&b->ping_now, false)) tn_stack_ping(b->st, &kernel.ip, 77, 3, b->now);
    if (atomic_exchange(&b->udp_now, false)) {
        struct tn_udp_sock **sock = (struct tn_udp_sock **)(b + 1);
        tn_udp_sendto(*sock, NULL, &kernel, "x", 1, b->now);
    }
}

static void bed_turn(struct bed *b)
{
    uint64_t drained;
    b->now = tunbed_now_us();
    if (read(b->wake, &drained, sizeof drained) == sizeof drained) obey(b);
    tunbed_drain(b->tun, &b->in);
    for (struct link_packet *p; (p = link_take(&b->in, b->now)); free(p))
        tn_stack_input(b->st, p->bytes, p->len, b->now);
    for (struct link_packet *p; (p = link_take(&b->out, b->now)); free(p))
        if (write(b->tun, p->bytes, p->len) < 0) continue; /* what the kernel does not take is lost on the way */
    if (b->lazy && b->lazy->wake_us <= b->now) {
        struct conn *k = b->lazy;
        b->lazy = NULL;
        pump_echo(k);
    }
    decide(b);
    if (tn_stack_next_deadline(b->st) <= b->now) tn_stack_timeout(b->st, b->now);
}

static void *bed_run(void *arg)
{
    struct bed *b = arg;
    for (;;) {
        bed_turn(b);
        uint64_t until = tn_stack_next_deadline(b->st);
        if (link_next(&b->in) < until) until = link_next(&b->in);
        if (link_next(&b->out) < until) until = link_next(&b->out);
        if (b->lazy && b->lazy->wake_us < until) until = b->lazy->wake_us;
        if (b->decide_us && b->decide_us < until) until = b->decide_us;
        int fds[2] = {b->tun, b->wake};
        tunbed_wait(fds, 2, until);
    }
    return NULL;
}

static void ask(struct bed *b, atomic_bool *what)
{
    atomic_store(what, true);
    uint64_t one = 1;
    REQUIRE(write(b->wake, &one, sizeof one) == sizeof one, "eventfd");
}

/* ---- scenarios ---- */

struct scenario {
    const char *name;
    void (*run)(struct bed *b, const struct scenario *s);
    bool v6;
    struct link_config link;
    bool no_sack, no_timestamps, no_scaling;
    int mss;          /* TCP_MAXSEG of the kernel's socket, 0: default */
    size_t bytes;
    size_t buffer_max; /* of our stack */
    enum tn_congestion cc;
    int param;
};

static struct bed *bed_start(const struct scenario *s)
{
    struct bed *b = calloc(1, sizeof *b + sizeof(struct tn_udp_sock *));
    b->rng = 42;
    b->tun = tunbed_open("tn0", 1280, kernel4, kernel6);
    b->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (b->tun < 0 || b->wake < 0) skip();
    if (s->no_sack) REQUIRE(tunbed_sysctl("ipv4/tcp_sack", "0"), "sysctl");
    if (s->no_timestamps) REQUIRE(tunbed_sysctl("ipv4/tcp_timestamps", "0"), "sysctl");
    if (s->no_scaling) REQUIRE(tunbed_sysctl("ipv4/tcp_window_scaling", "0"), "sysctl");
    struct link_config c = s->link;
    c.seed = 1;
    link_init(&b->out, &c);
    c.seed = 2;
    link_init(&b->in, &c);
    b->now = tunbed_now_us();
    struct tn_stack_config config = {
        .tcp_buffer_max = s->buffer_max, .congestion = s->cc, .rng = tn_rng_seeded(&b->rng), .ctx = b,
        .cb = {output, on_foreign_syn, on_foreign_tcp, on_foreign_udp, NULL},
    };
    b->st = tn_stack_new(&config);
    struct tn_ip addrs[2] = {at(own4, 0).ip, at(own6, 0).ip};
    REQUIRE(b->st && tn_stack_set_addrs(b->st, addrs, 2, b->now) == 0, "stack");
    static const uint16_t ports[] = {PORT_ECHO, PORT_RESET, PORT_LAZY, PORT_TALK};
    for (int i = 0; i < 4; i++) {
        struct tn_tcp_listener *l;
        struct tn_addrport any = {.port = ports[i]};
        REQUIRE(tn_tcp_listen(b->st, &any, 64, on_accept, b, &l) == 0, "listen");
    }
    struct tn_udp_events ev = {on_datagram, on_unreach};
    struct tn_addrport udp = {.port = PORT_ECHO};
    REQUIRE(tn_udp_bind(b->st, &udp, &ev, b, (struct tn_udp_sock **)(b + 1)) == 0, "bind");
    tn_stack_on_echo_reply(b->st, on_pong, b);
    return b;
}

static socklen_t sockaddr_of(const char *ip, uint16_t port, struct sockaddr_storage *out)
{
    struct tn_addrport a = at(ip, port);
    return (socklen_t)tn_addrport_to_sockaddr(&a, out);
}

static int kernel_socket(const struct scenario *s, int type)
{
    int fd = socket(s->v6 ? AF_INET6 : AF_INET, type | SOCK_CLOEXEC, 0);
    struct timeval limit = {.tv_sec = HANG_S};
    REQUIRE(fd >= 0, "socket");
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (s->mss && type == SOCK_STREAM) setsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &s->mss, sizeof s->mss);
    return fd;
}

static int try_connect(const struct scenario *s, const char *ip, uint16_t port, int *fd)
{
    struct sockaddr_storage a;
    socklen_t len = sockaddr_of(ip, port, &a);
    *fd = kernel_socket(s, SOCK_STREAM);
    return connect(*fd, (struct sockaddr *)&a, len) == 0 ? 0 : errno;
}

static int kernel_connect(const struct scenario *s, uint16_t port)
{
    int fd, err = try_connect(s, s->v6 ? own6 : own4, port, &fd);
    REQUIRE(err == 0, "connect: %s", strerror(err));
    return fd;
}

struct writer {
    int fd;
    size_t bytes;
    bool keep_open;
};

static void *write_pattern(void *arg)
{
    struct writer *w = arg;
    for (size_t done = 0; done < w->bytes;) {
        uint8_t buf[10000];
        size_t n = w->bytes - done < sizeof buf ? w->bytes - done : sizeof buf;
        for (size_t i = 0; i < n; i++) buf[i] = pattern(done + i);
        for (size_t sent = 0; sent < n;) {
            ssize_t k = write(w->fd, buf + sent, n - sent);
            REQUIRE(k > 0, "kernel write at %zu: %s", done + sent, strerror(errno));
            sent += (size_t)k;
        }
        done += n;
    }
    if (!w->keep_open) shutdown(w->fd, SHUT_WR);
    return NULL;
}

static void read_pattern(int fd, size_t expected)
{
    uint8_t buf[65536];
    size_t got = 0;
    for (ssize_t n; (n = read(fd, buf, sizeof buf)) != 0; got += (size_t)n) {
        REQUIRE(n > 0, "kernel read at %zu: %s", got, strerror(errno));
        for (ssize_t i = 0; i < n; i++)
            REQUIRE(buf[i] == pattern(got + (size_t)i), "byte %zu changed", got + (size_t)i);
    }
    REQUIRE(got == expected, "%zu of %zu bytes", got, expected);
}

/* Polls for what the other thread will say. */
#define AWAIT(cond)                                                                                               \
    do {                                                                                                          \
        for (int i_ = 0; !(cond); i_++) {                                                                         \
            REQUIRE(i_ < HANG_S * 200, "waited in vain for " #cond);                                              \
            usleep(5000);                                                                                         \
        }                                                                                                         \
    } while (0)

static void echo_over(int fd, const struct scenario *s)
{
    struct writer w = {fd, s->bytes, false};
    pthread_t t;
    REQUIRE(pthread_create(&t, NULL, write_pattern, &w) == 0, "thread");
    read_pattern(fd, s->bytes);
    pthread_join(t, NULL);
    close(fd);
}

/* The kernel connects; the same bytes come back, and both ends close in order. */
static void run_echo(struct bed *b, const struct scenario *s)
{
    echo_over(kernel_connect(s, s->param ? (uint16_t)s->param : PORT_ECHO), s);
    AWAIT(atomic_load(&b->closed) == 1);
    REQUIRE(atomic_load(&b->close_err) == 0, "our end: %s", tn_err_name(atomic_load(&b->close_err)));
}

/* We connect; the kernel gives everything back. param: seconds before it reads. */
static void run_connect(struct bed *b, const struct scenario *s)
{
    struct sockaddr_storage a;
    socklen_t len = sockaddr_of(s->v6 ? kernel6 : kernel4, PORT_KERNEL, &a);
    int l = kernel_socket(s, SOCK_STREAM), small = 4096;
    if (s->param) setsockopt(l, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    REQUIRE(bind(l, (struct sockaddr *)&a, len) == 0 && listen(l, 4) == 0, "kernel listen");
    atomic_store(&b->connect_bytes, s->bytes);
    ask(b, &b->connect_now);
    int fd = accept(l, NULL, NULL);
    REQUIRE(fd >= 0, "accept: %s", strerror(errno));
    sleep((unsigned)s->param);
    uint8_t *all = malloc(s->bytes + 1);
    size_t got = 0;
    for (ssize_t n; (n = read(fd, all + got, s->bytes + 1 - got)) != 0; got += (size_t)n)
        REQUIRE(n > 0, "kernel read: %s", strerror(errno));
    REQUIRE(got == s->bytes, "%zu of %zu bytes arrived", got, s->bytes);
    for (size_t i = 0; i < got; i++) REQUIRE(all[i] == pattern(i), "byte %zu changed", i);
    struct writer w = {fd, s->bytes, false};
    write_pattern(&w);
    AWAIT(atomic_load(&b->closed) == 1);
    REQUIRE(atomic_load(&b->close_err) == 0, "our end: %s", tn_err_name(atomic_load(&b->close_err)));
    close(fd);
    free(all);
}

/* We finish first, the kernel goes on. */
static void run_half_close(struct bed *b, const struct scenario *s)
{
    int fd = kernel_connect(s, PORT_TALK);
    read_pattern(fd, SPEECH);
    struct writer w = {fd, s->bytes, true};
    write_pattern(&w);
    AWAIT(atomic_load(&b->heard) == s->bytes);
    REQUIRE(atomic_load(&b->closed) == 0, "closed although the kernel had not finished");
    close(fd);
    AWAIT(atomic_load(&b->closed) == 1);
    REQUIRE(atomic_load(&b->close_err) == 0, "our end: %s", tn_err_name(atomic_load(&b->close_err)));
}

static void run_reset_by_us(struct bed *b, const struct scenario *s)
{
    char byte = 'x';
    int fd = kernel_connect(s, PORT_RESET);
    REQUIRE(write(fd, &byte, 1) == 1, "write");
    REQUIRE(read(fd, &byte, 1) < 0 && errno == ECONNRESET, "no reset: %s", strerror(errno));
}

static void run_reset_by_kernel(struct bed *b, const struct scenario *s)
{
    int fd = kernel_connect(s, PORT_TALK);
    char some[1000];
    struct linger hard = {.l_onoff = 1};
    REQUIRE(read(fd, some, sizeof some) > 0, "read");
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(fd);
    AWAIT(atomic_load(&b->closed) == 1);
    REQUIRE(atomic_load(&b->close_err) == TN_E_RESET, "our end: %s", tn_err_name(atomic_load(&b->close_err)));
}

static void reset(int fd)
{
    struct linger hard = {.l_onoff = 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(fd);
}

/* Both ends are still there when the reset comes, but one has finished. param: 0 we have (FIN_WAIT_2), 1 the
 * kernel has (CLOSE_WAIT). */
static void run_reset_half_closed(struct bed *b, const struct scenario *s)
{
    int fd = kernel_connect(s, s->param ? PORT_LAZY : PORT_TALK);
    if (s->param) {
        struct writer w = {fd, 5000, false};
        write_pattern(&w);
        int queued = 1;
        for (int i = 0; queued && i < HANG_S * 200; i++, usleep(5000)) ioctl(fd, SIOCOUTQ, &queued); /* FIN and all */
    } else {
        read_pattern(fd, SPEECH);
    }
    REQUIRE(atomic_load(&b->closed) == 0, "closed too early");
    reset(fd);
    AWAIT(atomic_load(&b->closed) == 1);
    REQUIRE(atomic_load(&b->close_err) == TN_E_RESET, "our end: %s", tn_err_name(atomic_load(&b->close_err)));
}

/* The kernel gives up before the handshake is through: our half-open flow must go, and a new one must do. */
static void run_reset_in_handshake(struct bed *b, const struct scenario *s)
{
    struct sockaddr_storage a;
    socklen_t len = sockaddr_of(s->v6 ? own6 : own4, PORT_ECHO, &a);
    for (int i = 0; i < 5; i++) {
        int fd = kernel_socket(s, SOCK_STREAM);
        fcntl(fd, F_SETFL, O_NONBLOCK);
        REQUIRE(connect(fd, (struct sockaddr *)&a, len) != 0 && errno == EINPROGRESS, "connect");
        usleep(1000 * (unsigned)i); /* before the SYN-ACK, about when it comes, and after */
        reset(fd);
    }
    echo_over(kernel_connect(s, PORT_ECHO), s);
}

static void run_refused(struct bed *b, const struct scenario *s)
{
    int fd, err = try_connect(s, s->v6 ? own6 : own4, 12345, &fd);
    REQUIRE(err == ECONNREFUSED, "kernel: %s", strerror(err));
    ask(b, &b->connect_now); /* nobody listens there */
    AWAIT(atomic_load(&b->closed) == 1);
    REQUIRE(atomic_load(&b->close_err) == TN_E_REFUSED, "our end: %s", tn_err_name(atomic_load(&b->close_err)));
}

/* A SYN to an address that is not ours is held, then accepted or refused. param: enum syn_plan. */
static void run_held_syn(struct bed *b, const struct scenario *s)
{
    b->plan = (enum syn_plan)s->param;
    int fd, err = try_connect(s, s->v6 ? foreign6 : foreign4, 443, &fd);
    if (b->plan == SYN_REFUSE_LATER) {
        REQUIRE(err == ECONNREFUSED, "held and refused: %s", strerror(err));
        return;
    }
    REQUIRE(err == 0, "held and accepted: %s", strerror(err));
    REQUIRE(atomic_load(&b->syns) >= 2, "the SYN was not sent again while it was held");
    echo_over(fd, s);
    AWAIT(atomic_load(&b->closed) == 1);
    REQUIRE(atomic_load(&b->close_err) == 0, "our end: %s", tn_err_name(atomic_load(&b->close_err)));
}

static void run_udp(struct bed *b, const struct scenario *s)
{
    struct sockaddr_storage a;
    int fd = kernel_socket(s, SOCK_DGRAM);
    socklen_t len = sockaddr_of(s->v6 ? own6 : own4, PORT_ECHO, &a);
    REQUIRE(connect(fd, (struct sockaddr *)&a, len) == 0, "connect");
    static const size_t sizes[] = {0, 1, 1000, 1232, 1252, 1253, 3000, 9001, 60000};
    static uint8_t out[65536], in[65536];
    for (size_t i = 0; i < sizeof out; i++) out[i] = pattern(i);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        REQUIRE(send(fd, out, sizes[i], 0) == (ssize_t)sizes[i], "send");
        ssize_t n = recv(fd, in, sizeof in, 0);
        REQUIRE(n == (ssize_t)sizes[i] && memcmp(in, out, (size_t)n) == 0, "datagram of %zu: %zd", sizes[i], n);
    }
    for (int foreign = 0; foreign < 2; foreign++) { /* a closed port of ours; a refused foreign address */
        const char *ip = foreign ? (s->v6 ? foreign6 : foreign4) : s->v6 ? own6 : own4;
        int closed = kernel_socket(s, SOCK_DGRAM);
        len = sockaddr_of(ip, 4444, &a);
        REQUIRE(connect(closed, (struct sockaddr *)&a, len) == 0 && send(closed, "x", 1, 0) == 1, "send");
        REQUIRE(recv(closed, in, 1, 0) < 0 && errno == ECONNREFUSED, "no port unreachable: %s", strerror(errno));
        close(closed);
    }
    ask(b, &b->udp_now);
    AWAIT(atomic_load(&b->unreached) == TN_E_REFUSED);
    close(fd);
}

static uint16_t sum16(const uint8_t *p, size_t len)
{
    uint32_t sum = 0;
    for (size_t i = 0; i + 1 < len; i += 2) sum += (uint32_t)(p[i] << 8 | p[i + 1]);
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

/* param: bytes of data, so that fragments are needed beyond 1,200. */
static void run_ping(struct bed *b, const struct scenario *s)
{
    int fd = socket(s->v6 ? AF_INET6 : AF_INET, SOCK_RAW | SOCK_CLOEXEC, s->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
    REQUIRE(fd >= 0, "raw socket: %s", strerror(errno));
    struct timeval limit = {.tv_sec = HANG_S};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    static uint8_t out[8 + 4000], in[65536];
    size_t len = 8 + (size_t)s->param;
    out[0] = s->v6 ? ICMP6_ECHO_REQUEST : ICMP_ECHO;
    out[5] = 9;
    for (size_t i = 8; i < len; i++) out[i] = pattern(i);
    uint16_t sum = sum16(out, len);
    out[2] = (uint8_t)(sum >> 8);
    out[3] = (uint8_t)sum;
    struct sockaddr_storage a;
    socklen_t alen = sockaddr_of(s->v6 ? own6 : own4, 0, &a);
    REQUIRE(sendto(fd, out, len, 0, (struct sockaddr *)&a, alen) == (ssize_t)len, "send: %s", strerror(errno));
    for (;;) {
        ssize_t n = recv(fd, in, sizeof in, 0);
        REQUIRE(n > 0, "no echo: %s", strerror(errno));
        size_t hdr = s->v6 ? 0 : 20;
        if (in[hdr] != (s->v6 ? ICMP6_ECHO_REPLY : ICMP_ECHOREPLY)) continue;
        REQUIRE((size_t)n == hdr + len && memcmp(in + hdr + 8, out + 8, len - 8) == 0, "the echo differs");
        break;
    }
    ask(b, &b->ping_now);
    AWAIT(atomic_load(&b->ponged) == 1);
}

#define CLEAN {.delay_us = 2000}
#define LOSSY {.delay_us = 10000, .rate_bps = 50000000, .queue_bytes = 100000, .loss = 0.02}
#define MESSY                                                                                                        \
    {                                                                                                                \
        .delay_us = 5000, .rate_bps = 50000000, .queue_bytes = 200000, .loss = 0.01, .reorder = 0.05,                \
        .reorder_us = 15000, .duplicate = 0.02, .corrupt = 0.005                                                     \
    }
#define MIB (1024 * 1024)

static const struct scenario scenarios[] = {
    {"echo v4", run_echo, false, CLEAN, .bytes = 4 * MIB},
    {"echo v6", run_echo, true, CLEAN, .bytes = 4 * MIB},
    {"echo v4, loss", run_echo, false, LOSSY, .bytes = MIB},
    {"echo v6, loss", run_echo, true, LOSSY, .bytes = MIB},
    {"echo v4, loss, reordering, duplicates, corruption", run_echo, false, MESSY, .bytes = MIB},
    {"echo v6, loss, reordering, duplicates, corruption", run_echo, true, MESSY, .bytes = MIB},
    {"echo without timestamps", run_echo, false, MESSY, .no_timestamps = true, .bytes = MIB},
    {"echo without SACK", run_echo, false, MESSY, .no_sack = true, .bytes = MIB / 2},
    {"echo without SACK, timestamps, scaling", run_echo, true, LOSSY, .no_sack = true, .no_timestamps = true,
     .no_scaling = true, .bytes = MIB / 2},
    {"echo, segments of 88 bytes", run_echo, false, LOSSY, .mss = 88, .bytes = 200000},
    {"echo, segments of 88 bytes, messy", run_echo, true, MESSY, .mss = 88, .bytes = 50000},
    {"cubic: echo", run_echo, false, CLEAN, .bytes = 4 * MIB, .cc = TN_CONGESTION_CUBIC},
    {"cubic: echo, messy", run_echo, true, MESSY, .bytes = MIB, .cc = TN_CONGESTION_CUBIC},
    {"cubic: echo without timestamps", run_echo, true, MESSY, .no_timestamps = true, .bytes = MIB / 2,
     .cc = TN_CONGESTION_CUBIC},
    {"cubic: echo without SACK", run_echo, false, MESSY, .no_sack = true, .bytes = MIB / 2,
     .cc = TN_CONGESTION_CUBIC},
    {"cubic: echo without SACK, timestamps, scaling", run_echo, false, LOSSY, .no_sack = true, .no_timestamps = true,
     .no_scaling = true, .bytes = MIB / 2, .cc = TN_CONGESTION_CUBIC},
    {"cubic: our reader sleeps, loss", run_echo, false, LOSSY, .bytes = MIB, .param = PORT_LAZY,
     .cc = TN_CONGESTION_CUBIC},
    {"cubic: the kernel's reader sleeps, loss", run_connect, true, LOSSY, .bytes = MIB / 2, .param = 2,
     .cc = TN_CONGESTION_CUBIC},
    {"echo without timestamps, SACK, messy", run_echo, false, MESSY, .no_sack = true, .no_timestamps = true,
     .bytes = MIB / 2},
    {"echo without timestamps, clean", run_echo, true, CLEAN, .no_timestamps = true, .bytes = 2 * MIB},
    {"echo without SACK, clean", run_echo, true, CLEAN, .no_sack = true, .bytes = 2 * MIB},
    {"echo without scaling", run_echo, false, CLEAN, .no_scaling = true, .bytes = 2 * MIB},
    {"our reader sleeps, without SACK and scaling", run_echo, false, LOSSY, .no_sack = true, .no_scaling = true,
     .bytes = MIB / 2, .param = PORT_LAZY},
    {"the kernel's reader sleeps, without timestamps", run_connect, false, LOSSY, .no_timestamps = true,
     .bytes = MIB / 2, .param = 2},
    {"echo, buffers of 4 KiB", run_echo, false, CLEAN, .bytes = 300000, .buffer_max = 4096},
    {"echo of nothing", run_echo, false, CLEAN, .bytes = 0},
    {"our reader sleeps", run_echo, false, CLEAN, .bytes = 2 * MIB, .param = PORT_LAZY},
    {"our reader sleeps, loss", run_echo, true, LOSSY, .bytes = MIB, .param = PORT_LAZY},
    {"we connect, v4", run_connect, false, CLEAN, .bytes = 4 * MIB},
    {"we connect, v6, messy", run_connect, true, MESSY, .bytes = MIB},
    {"the kernel's reader sleeps", run_connect, false, CLEAN, .bytes = MIB, .param = 2},
    {"the kernel's reader sleeps, loss", run_connect, true, LOSSY, .bytes = MIB / 2, .param = 2},
    {"we finish first", run_half_close, false, CLEAN, .bytes = 300000},
    {"we finish first, messy", run_half_close, true, MESSY, .bytes = 300000},
    {"reset by us", run_reset_by_us, false, CLEAN},
    {"reset by the kernel", run_reset_by_kernel, true, CLEAN},
    {"reset by the kernel, we have finished", run_reset_half_closed, false, CLEAN, .param = 0},
    {"reset by the kernel, it has finished", run_reset_half_closed, true, CLEAN, .param = 1},
    {"reset in the handshake", run_reset_in_handshake, false, CLEAN, .bytes = 10000},
    {"refused both ways, v4", run_refused, false, CLEAN},
    {"refused both ways, v6", run_refused, true, CLEAN},
    {"held SYN accepted", run_held_syn, false, CLEAN, .bytes = 100000, .param = SYN_ACCEPT_LATER},
    {"held SYN accepted, v6, messy", run_held_syn, true, MESSY, .bytes = 100000, .param = SYN_ACCEPT_LATER},
    {"held SYN refused", run_held_syn, false, CLEAN, .param = SYN_REFUSE_LATER},
    {"datagrams v4", run_udp, false, CLEAN},
    {"datagrams v6", run_udp, true, CLEAN},
    {"echo requests v4", run_ping, false, CLEAN, .param = 3000},
    {"echo requests v6", run_ping, true, CLEAN, .param = 3000},
};

static int run_scenario(const struct scenario *s)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(2 * HANG_S);
        if (!tunbed_enter()) skip();
        struct bed *b = bed_start(s);
        b->hold_us = s->param == SYN_REFUSE_LATER ? 100000 : 1200000;
        atomic_store(&b->v6, s->v6);
        pthread_t t;
        REQUIRE(pthread_create(&t, NULL, bed_run, b) == 0, "thread");
        s->run(b, s);
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(int argc, char **argv)
{
    unsigned passed = 0, failed = 0;
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
        const struct scenario *s = &scenarios[i];
        if (argc > 1 && strcmp(argv[1], s->name) != 0) continue;
        uint64_t start = tunbed_now_us();
        int status = run_scenario(s);
        if (status == TUNBED_SKIP) return TUNBED_SKIP;
        printf("%s %s (%.1f s)\n", status == 0 ? "ok    " : "FAILED", s->name,
               (double)(tunbed_now_us() - start) / 1e6);
        if (status == 0) passed++;
        else failed++;
    }
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0 || passed == 0;
}
