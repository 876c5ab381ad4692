/* Resets between our stack and the Linux kernel, in each state of either end.
 *
 * A case brings a connection into the state, by holding back what goes one way (struct gate), and then one end resets it.
 * Either the other end must learn it at once, or, in TIME_WAIT, each must do what it stands for: ours ignores resets (RFC
 * 1337), Linux believes them. Afterwards nothing may be left on our side.
 *
 * Each case is a process with a network namespace and a TUN device of its own, and one thread, which runs the stack whenever
 * it waits for something. All is done four times: both families, with and without timestamps and SACK.
 *
 * Exit code 77 where namespaces or TUN devices are not to be had. With a name as argument: only that case. */
#include "../sim/tunbed.h"
#include "stack/stack.h"
#include "util/err.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PORT = 7, PORT_KERNEL = 99, PORT_CLOSED = 98, HANG_S = 20 };

static const char *const own[2] = {"10.9.0.2", "fd09::2"}, *const kernels[2] = {"10.9.0.1", "fd09::1"};

/* One direction. What comes to a shut gate waits before it. */
struct gate {
    struct link l;
    bool shut;
};

static struct bed {
    struct tn_stack *st;
    struct gate in, out; /* as our stack sees it */
    int tun;
    uint64_t now, rng;
    bool v6;
    struct tn_tcp *c; /* the connection; NULL before it and when it has ended */
    int ended;        /* connections that did, and how the last one did */
    int err;
} b;

#define REQUIRE(cond, ...)                                                                                        \
    do {                                                                                                          \
        if (cond) break;                                                                                          \
        printf("  line %d: ", __LINE__);                                                                          \
        printf(__VA_ARGS__);                                                                                      \
        printf("\n");                                                                                             \
        fflush(stdout);                                                                                           \
        _exit(1);                                                                                                 \
    } while (0)

/* ---- our side ---- */

static void on_open(void *arg, struct tn_tcp *c, uint64_t now_us) {}

static void on_close(void *arg, int err, uint64_t now_us)
{
    b.c = NULL;
    b.ended++;
    b.err = err;
}

static const struct tn_tcp_events events = {.on_open = on_open, .on_close = on_close};

static int on_accept(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    b.c = c;
    tn_tcp_set_events(c, &events, NULL);
    return 0;
}

static void output(void *ctx, uint8_t *packet, size_t len) { link_send(&b.out.l, packet, len, b.now); }

static void turn(void)
{
    b.now = tunbed_now_us();
    tunbed_drain(b.tun, &b.in.l);
    b.now = tunbed_now_us();
    for (struct link_packet *p; !b.in.shut && (p = link_take(&b.in.l, b.now)); free(p))
        tn_stack_input(b.st, p->bytes, p->len, b.now);
    for (struct link_packet *p; !b.out.shut && (p = link_take(&b.out.l, b.now)); free(p))
        REQUIRE(write(b.tun, p->bytes, p->len) == (ssize_t)p->len, "the kernel does not take a packet");
    if (tn_stack_next_deadline(b.st) <= b.now) tn_stack_timeout(b.st, b.now);
}

static void pause_ms(unsigned ms)
{
    for (uint64_t until = tunbed_now_us() + ms * 1000ull; b.now < until; turn()) tunbed_wait(&b.tun, 1, b.now + 1000);
}

#define AWAIT(cond)                                                                                               \
    do {                                                                                                          \
        uint64_t until_ = tunbed_now_us() + HANG_S * 1000000ull;                                                  \
        for (turn(); !(cond); pause_ms(1)) REQUIRE(b.now < until_, "waited in vain for " #cond ", ours is %s", state()); \
    } while (0)

static const char *state(void)
{
    struct tn_tcp_info i = {.state = "none"};
    if (b.c) tn_tcp_info(b.c, &i);
    return i.state;
}

static bool is(const char *name) { return strcmp(state(), name) == 0; }

static struct tn_stack_stats stats(void)
{
    struct tn_stack_stats s;
    tn_stack_stats(b.st, &s);
    return s;
}

/* ---- the kernel's side ---- */

static struct tn_addrport at(const char *const ip[2], uint16_t port)
{
    struct tn_addrport a = {.port = port};
    REQUIRE(tn_ip_parse(ip[b.v6], &a.ip) == 0, "address");
    return a;
}

static int kernel_socket(void)
{
    int fd = socket(b.v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    REQUIRE(fd >= 0, "socket: %s", strerror(errno));
    return fd;
}

static int kernel_connect(void)
{
    struct sockaddr_storage s;
    struct tn_addrport a = at(own, PORT);
    socklen_t len = (socklen_t)tn_addrport_to_sockaddr(&a, &s);
    int fd = kernel_socket();
    REQUIRE(connect(fd, (struct sockaddr *)&s, len) != 0 && errno == EINPROGRESS, "connect: %s", strerror(errno));
    return fd;
}

static int kernel_listen(void)
{
    struct sockaddr_storage s;
    struct tn_addrport a = at(kernels, PORT_KERNEL);
    socklen_t len = (socklen_t)tn_addrport_to_sockaddr(&a, &s);
    int fd = kernel_socket();
    REQUIRE(bind(fd, (struct sockaddr *)&s, len) == 0 && listen(fd, 4) == 0, "listen: %s", strerror(errno));
    return fd;
}

static void our_connect(uint16_t port)
{
    struct tn_addrport a = at(kernels, port);
    REQUIRE(tn_tcp_connect(b.st, NULL, &a, &events, NULL, b.now, &b.c) == 0, "connect");
}

static void kernel_reset(int fd)
{
    struct linger hard = {.l_onoff = 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(fd);
}

static unsigned kernel_state(int fd)
{
    struct tcp_info i = {0};
    socklen_t len = sizeof i;
    REQUIRE(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &i, &len) == 0, "TCP_INFO");
    return i.tcpi_state;
}

static int kernel_error(int fd)
{
    int err = 0;
    socklen_t len = sizeof err;
    REQUIRE(getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) == 0, "SO_ERROR");
    return err;
}

/* How many sockets in this state the kernel has, half-open ones and TIME_WAIT included, which have no descriptor. */
static unsigned kernel_has(unsigned wanted)
{
    FILE *f = fopen(b.v6 ? "/proc/self/net/tcp6" : "/proc/self/net/tcp", "re");
    char line[400];
    unsigned n = 0;
    REQUIRE(f, "/proc/self/net");
    while (fgets(line, sizeof line, f)) {
        char local[80], remote[80];
        unsigned st;
        if (sscanf(line, " %*[^ ] %79s %79s %x", local, remote, &st) == 3 && st == wanted) n++;
    }
    fclose(f);
    return n;
}

/* ---- the states ---- */

static void finish_ours(void) { tn_tcp_shutdown(b.c, b.now); }
static void finish_kernels(int fd) { REQUIRE(shutdown(fd, SHUT_WR) == 0, "shutdown: %s", strerror(errno)); }

static int established(void)
{
    int fd = kernel_connect();
    AWAIT(is("ESTABLISHED") && kernel_state(fd) == TCP_ESTABLISHED);
    return fd;
}

/* The kernel resets, our end in this state; afterwards we must know it. */
static void ours_learns(int fd, const char *in)
{
    AWAIT(is(in));
    kernel_reset(fd);
    AWAIT(b.ended == 1);
    REQUIRE(b.err == TN_E_RESET, "ours ended with %s", tn_err_name(b.err));
}

static void ours_syn_sent(void)
{
    our_connect(PORT_CLOSED);
    AWAIT(b.ended == 1);
    REQUIRE(b.err == TN_E_REFUSED, "ours ended with %s", tn_err_name(b.err));
}

static void ours_syn_rcvd(void)
{
    b.out.shut = true; /* our SYN-ACK finds nobody */
    int fd = kernel_connect();
    AWAIT(stats().half_open == 1);
    close(fd);
    b.out.shut = false;
    AWAIT(stats().half_open == 0);
    REQUIRE(b.ended == 0 && !b.c, "a half-open connection came to its owner");
}

static void ours_established(void) { ours_learns(established(), "ESTABLISHED"); }

static void ours_fin_wait_1(void)
{
    int fd = established();
    b.out.shut = true;
    finish_ours();
    ours_learns(fd, "FIN_WAIT_1");
}

static void ours_fin_wait_2(void)
{
    int fd = established();
    finish_ours();
    ours_learns(fd, "FIN_WAIT_2");
}

static void ours_closing(void)
{
    int fd = established();
    b.out.shut = true;
    finish_ours();
    finish_kernels(fd);
    ours_learns(fd, "CLOSING");
}

static void ours_close_wait(void)
{
    int fd = established();
    finish_kernels(fd);
    ours_learns(fd, "CLOSE_WAIT");
}

static void ours_last_ack(void)
{
    int fd = established();
    finish_kernels(fd);
    AWAIT(is("CLOSE_WAIT") && kernel_state(fd) == TCP_FIN_WAIT2);
    b.out.shut = true;
    finish_ours();
    ours_learns(fd, "LAST_ACK");
}

/* Our last ACK comes when the kernel's socket is gone, and is answered by a reset that fits exactly. */
static void ours_time_wait(void)
{
    int fd = established();
    finish_ours();
    AWAIT(kernel_state(fd) == TCP_CLOSE_WAIT && is("FIN_WAIT_2"));
    b.out.shut = true;
    finish_kernels(fd);
    AWAIT(b.ended == 1 && stats().time_wait == 1);
    kernel_reset(fd);
    REQUIRE(kernel_has(TCP_LAST_ACK) == 0, "the kernel's socket is still there");
    uint64_t before = stats().in_packets;
    b.out.shut = false;
    AWAIT(stats().in_packets > before);
    REQUIRE(b.err == 0 && stats().time_wait == 1, "a reset ended TIME_WAIT");
}

/* We reset, the kernel's end in this state. */
static void kernel_learns(int fd, unsigned in, int err)
{
    AWAIT(kernel_state(fd) == in);
    tn_tcp_abort(b.c, b.now);
    b.c = NULL;
    AWAIT(kernel_state(fd) == TCP_CLOSE);
    int got = kernel_error(fd);
    REQUIRE(got == err, "the kernel's ended with: %s", strerror(got));
}

static void kernel_syn_sent(void)
{
    struct tn_addrport a = at(own, PORT_CLOSED);
    struct sockaddr_storage s;
    socklen_t len = (socklen_t)tn_addrport_to_sockaddr(&a, &s);
    int fd = kernel_socket();
    REQUIRE(connect(fd, (struct sockaddr *)&s, len) != 0 && errno == EINPROGRESS, "connect: %s", strerror(errno));
    AWAIT(kernel_state(fd) == TCP_CLOSE);
    REQUIRE(kernel_error(fd) == ECONNREFUSED, "not refused");
}

static void kernel_syn_rcvd(void)
{
    int l = kernel_listen();
    b.in.shut = true; /* its SYN-ACK finds nobody */
    our_connect(PORT_KERNEL);
    AWAIT(kernel_has(TCP_SYN_RECV) == 1);
    tn_tcp_abort(b.c, b.now);
    b.c = NULL;
    b.in.shut = false;
    AWAIT(kernel_has(TCP_SYN_RECV) == 0);
    REQUIRE(accept(l, NULL, NULL) < 0 && errno == EAGAIN, "accepted");
}

static void kernel_established(void) { kernel_learns(established(), TCP_ESTABLISHED, ECONNRESET); }

static void kernel_fin_wait_1(void)
{
    int fd = established();
    b.in.shut = true;
    finish_kernels(fd);
    kernel_learns(fd, TCP_FIN_WAIT1, ECONNRESET);
}

static void kernel_fin_wait_2(void)
{
    int fd = established();
    finish_kernels(fd);
    kernel_learns(fd, TCP_FIN_WAIT2, ECONNRESET);
}

static void kernel_closing(void)
{
    int fd = established();
    b.in.shut = true;
    finish_kernels(fd);
    finish_ours();
    kernel_learns(fd, TCP_CLOSING, ECONNRESET);
}

static void kernel_close_wait(void)
{
    int fd = established();
    finish_ours();
    kernel_learns(fd, TCP_CLOSE_WAIT, EPIPE);
}

static void kernel_last_ack(void)
{
    int fd = established();
    finish_ours();
    AWAIT(kernel_state(fd) == TCP_CLOSE_WAIT && is("FIN_WAIT_2"));
    b.in.shut = true;
    finish_kernels(fd);
    kernel_learns(fd, TCP_LAST_ACK, ECONNRESET);
}

static void kernel_time_wait(void)
{
    int fd = established();
    finish_kernels(fd);
    AWAIT(is("CLOSE_WAIT") && kernel_state(fd) == TCP_FIN_WAIT2);
    b.in.shut = true; /* the ACK of our FIN */
    finish_ours();
    AWAIT(kernel_has(TCP_TIME_WAIT) == 1);
    REQUIRE(is("LAST_ACK"), "ours is %s", state());
    tn_tcp_abort(b.c, b.now);
    b.c = NULL;
    AWAIT(kernel_has(TCP_TIME_WAIT) == 0);
}

static const struct scenario {
    const char *name;
    void (*run)(void);
} scenarios[] = {
    {"the kernel resets, ours in SYN_SENT", ours_syn_sent},
    {"the kernel resets, ours in SYN_RCVD", ours_syn_rcvd},
    {"the kernel resets, ours in ESTABLISHED", ours_established},
    {"the kernel resets, ours in FIN_WAIT_1", ours_fin_wait_1},
    {"the kernel resets, ours in FIN_WAIT_2", ours_fin_wait_2},
    {"the kernel resets, ours in CLOSING", ours_closing},
    {"the kernel resets, ours in CLOSE_WAIT", ours_close_wait},
    {"the kernel resets, ours in LAST_ACK", ours_last_ack},
    {"the kernel resets, ours in TIME_WAIT", ours_time_wait},
    {"we reset, the kernel's in SYN_SENT", kernel_syn_sent},
    {"we reset, the kernel's in SYN_RCVD", kernel_syn_rcvd},
    {"we reset, the kernel's in ESTABLISHED", kernel_established},
    {"we reset, the kernel's in FIN_WAIT_1", kernel_fin_wait_1},
    {"we reset, the kernel's in FIN_WAIT_2", kernel_fin_wait_2},
    {"we reset, the kernel's in CLOSING", kernel_closing},
    {"we reset, the kernel's in CLOSE_WAIT", kernel_close_wait},
    {"we reset, the kernel's in LAST_ACK", kernel_last_ack},
    {"we reset, the kernel's in TIME_WAIT", kernel_time_wait},
};

static void start(bool v6, bool plain)
{
    struct link_config direct = {0};
    b.v6 = v6;
    b.rng = 42;
    b.tun = tunbed_open("tn0", 1280, kernels[0], kernels[1]);
    if (b.tun < 0) _exit(TUNBED_SKIP);
    if (plain)
        REQUIRE(tunbed_sysctl("ipv4/tcp_sack", "0") && tunbed_sysctl("ipv4/tcp_timestamps", "0"), "sysctl");
    link_init(&b.in.l, &direct);
    link_init(&b.out.l, &direct);
    b.now = tunbed_now_us();
    struct tn_stack_config config = {.rng = tn_rng_seeded(&b.rng), .cb.output = output};
    struct tn_ip addrs[2];
    struct tn_tcp_listener *l;
    struct tn_addrport any = {.port = PORT};
    for (int i = 0; i < 2; i++) REQUIRE(tn_ip_parse(own[i], &addrs[i]) == 0, "address");
    b.st = tn_stack_new(&config);
    REQUIRE(b.st && tn_stack_set_addrs(b.st, addrs, 2, b.now) == 0, "stack");
    REQUIRE(tn_tcp_listen(b.st, &any, 4, on_accept, NULL, &l) == 0, "listen");
}

static int run_scenario(const struct scenario *s, bool v6, bool plain)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(3 * HANG_S);
        if (!tunbed_enter()) _exit(TUNBED_SKIP);
        start(v6, plain);
        s->run();
        b.in.shut = b.out.shut = false; /* what was held back is answered, and changes nothing */
        pause_ms(20);
        REQUIRE(!b.c && b.ended <= 1 && stats().flows == 0 && stats().half_open == 0, "%zu flows are left", stats().flows);
        tn_stack_free(b.st);
        fflush(stdout);
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(int argc, char **argv)
{
    unsigned passed = 0, failed = 0;
    for (size_t i = 0; i < 4 * sizeof scenarios / sizeof scenarios[0]; i++) {
        const struct scenario *s = &scenarios[i / 4];
        bool v6 = i & 1, plain = i & 2;
        if (argc > 1 && strcmp(argv[1], s->name) != 0) continue;
        int status = run_scenario(s, v6, plain);
        if (status == TUNBED_SKIP) return TUNBED_SKIP;
        printf("%s %s, %s%s\n", status == 0 ? "ok    " : "FAILED", s->name, v6 ? "v6" : "v4",
               plain ? ", without timestamps and SACK" : "");
        if (status == 0) passed++;
        else failed++;
    }
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0 || passed == 0;
}
