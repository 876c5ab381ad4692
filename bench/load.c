/* Both ends of a load, for benchmarks: a server that echoes or sends, and clients that count.
 *
 *   load serve ECHO_PORT BLOB_PORT        echo; and to every connection that says a number of bytes in one line, that many
 *   load get IP PORT BYTES                one download; prints MB/s
 *   load connects IP PORT COUNT PARALLEL  connect, one byte there and back, close; prints rate, p50, p99, failures
 *   load idle IP PORT COUNT               opens so many, one byte each; prints how many stand; closes them when stdin ends
 *   load stall IP PORT BYTES COUNT        asks for so many downloads and reads none; as idle
 *
 * One thread and epoll, so that it costs little beside what it measures. Every wait is bounded. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 256, BLOCK = 1 << 18, GIVE_UP_MS = 60000, GROWTH = 200 };

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void die(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void most_descriptors(void)
{
    struct rlimit l;
    getrlimit(RLIMIT_NOFILE, &l);
    l.rlim_cur = l.rlim_max;
    setrlimit(RLIMIT_NOFILE, &l);
}

static socklen_t address(const char *ip, const char *port, struct sockaddr_storage *out)
{
    memset(out, 0, sizeof *out);
    struct sockaddr_in *v4 = (struct sockaddr_in *)out;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
    if (inet_pton(AF_INET, ip, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)atoi(port));
        return sizeof *v4;
    }
    if (inet_pton(AF_INET6, ip, &v6->sin6_addr) != 1) {
        fprintf(stderr, "load: not an address: %s\n", ip);
        exit(2);
    }
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons((uint16_t)atoi(port));
    return sizeof *v6;
}

static void watch(int ep, int op, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event e = {.events = events, .data = {.u64 = data}};
    if (epoll_ctl(ep, op, fd, &e) != 0) die("epoll_ctl");
}

/* ---- server ---- */

struct served {
    int64_t left; /* of a blob; -1: an echo; -2: a blob whose size was not said yet */
};

static int listener(const char *port)
{
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)atoi(port))};
    int one = 1, off = 0, fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (fd < 0 || bind(fd, (struct sockaddr *)&any, sizeof any) != 0 || listen(fd, 4096) != 0) die("listen");
    return fd;
}

static char block[BLOCK];

static void accept_all(int ep, int fd, int64_t kind, struct served *table, int cap)
{
    int one = 1;
    for (int c; (c = accept4(fd, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        if (c >= cap) {
            close(c);
            continue;
        }
        table[c].left = kind;
        setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        watch(ep, EPOLL_CTL_ADD, c, EPOLLIN, (uint64_t)c);
    }
}

/* Returns false when the connection is over. */
static int serve_one(int ep, int fd, struct served *s)
{
    if (s->left > 0) {
        ssize_t n = send(fd, block, s->left < BLOCK ? (size_t)s->left : BLOCK, MSG_NOSIGNAL);
        if (n > 0) s->left -= n;
        return s->left > 0 ? n > 0 || errno == EAGAIN : 0;
    }
    ssize_t n = recv(fd, block, s->left == -1 ? 4096 : 32, 0);
    if (n < 0) return errno == EAGAIN;
    if (n == 0) return 0;
    if (s->left == -1) return send(fd, block, (size_t)n, MSG_NOSIGNAL) == n;
    block[n] = '\0';
    s->left = strtoll(block, NULL, 10);
    watch(ep, EPOLL_CTL_MOD, fd, EPOLLOUT, (uint64_t)fd);
    return s->left > 0;
}

static _Noreturn void serve(const char *echo_port, const char *blob_port)
{
    enum { CAP = 1 << 17 };
    struct served *table = calloc(CAP, sizeof *table);
    int ep = epoll_create1(0), echo = listener(echo_port), blob = listener(blob_port);
    if (!table) die("memory");
    watch(ep, EPOLL_CTL_ADD, echo, EPOLLIN, (uint64_t)echo);
    watch(ep, EPOLL_CTL_ADD, blob, EPOLLIN, (uint64_t)blob);
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct epoll_event ev[EVENTS];
        int n = epoll_wait(ep, ev, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            int fd = (int)ev[i].data.u64;
            if (fd == echo) accept_all(ep, fd, -1, table, CAP);
            else if (fd == blob) accept_all(ep, fd, -2, table, CAP);
            else if (!serve_one(ep, fd, &table[fd])) close(fd);
        }
    }
}

/* ---- clients ---- */

static int dial(const struct sockaddr_storage *to, socklen_t len)
{
    int one = 1, fd = socket(to->ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (const struct sockaddr *)to, len) == 0 || errno == EINPROGRESS) return fd;
    close(fd);
    return -1;
}

static int get(const char *ip, const char *port, const char *bytes)
{
    struct sockaddr_storage to;
    socklen_t len = address(ip, port, &to);
    double start = now_ms();
    int fd = dial(&to, len);
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    if (fd < 0 || poll(&p, 1, GIVE_UP_MS) != 1 || send(fd, bytes, strlen(bytes), MSG_NOSIGNAL) < 0) die("connect");
    int64_t left = strtoll(bytes, NULL, 10), all = left;
    p.events = POLLIN;
    while (left > 0) {
        ssize_t n = recv(fd, block, BLOCK, 0);
        if (n < 0 && errno == EAGAIN && poll(&p, 1, GIVE_UP_MS) == 1) continue;
        if (n <= 0) die("download");
        left -= n;
    }
    printf("%.1f MB/s\n", (double)all / 1e3 / (now_ms() - start));
    return 0;
}

struct flow {
    double start;
    int fd, asked;
};

/* The state of a run of many flows. */
struct run {
    struct sockaddr_storage to;
    socklen_t len;
    int ep, count, parallel, begun, under_way, ended, failed;
    struct flow *flows; /* by number */
    double *took;
    int keep;
    const char *ask; /* what is sent; NULL: one byte, and one is waited for */
};

static void begin(struct run *r)
{
    while (r->begun < r->count && r->under_way < r->parallel) {
        int i = r->begun++;
        r->flows[i] = (struct flow){.start = now_ms(), .fd = dial(&r->to, r->len)};
        if (r->flows[i].fd < 0) {
            r->failed++;
            continue;
        }
        r->under_way++;
        watch(r->ep, EPOLL_CTL_ADD, r->flows[i].fd, EPOLLOUT, (uint64_t)i);
    }
}

static void finish(struct run *r, int i, int good)
{
    struct flow *f = &r->flows[i];
    r->under_way--;
    if (good) r->took[r->ended++] = now_ms() - f->start;
    else r->failed++;
    if (good && r->keep) {
        epoll_ctl(r->ep, EPOLL_CTL_DEL, f->fd, NULL);
        return;
    }
    close(f->fd);
    f->fd = -1;
}

static void step(struct run *r, int i)
{
    struct flow *f = &r->flows[i];
    char c = 'x';
    if (r->ask) {
        finish(r, i, send(f->fd, r->ask, strlen(r->ask), MSG_NOSIGNAL) > 0);
        return;
    }
    if (!f->asked) {
        int err = 0;
        socklen_t len = sizeof err;
        getsockopt(f->fd, SOL_SOCKET, SO_ERROR, &err, &len);
        if (err || send(f->fd, &c, 1, MSG_NOSIGNAL) != 1) {
            finish(r, i, 0);
            return;
        }
        f->asked = 1;
        watch(r->ep, EPOLL_CTL_MOD, f->fd, EPOLLIN, (uint64_t)i);
        return;
    }
    ssize_t n = recv(f->fd, &c, 1, 0);
    if (n < 0 && errno == EAGAIN) return;
    finish(r, i, n == 1);
}

static int order(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void work(struct run *r, const char *ip, const char *port)
{
    r->len = address(ip, port, &r->to);
    r->ep = epoll_create1(0);
    r->flows = calloc((size_t)r->count, sizeof *r->flows);
    r->took = calloc((size_t)r->count, sizeof *r->took);
    if (!r->flows || !r->took) die("memory");
    double last = now_ms();
    for (begin(r); r->under_way > 0; begin(r)) {
        struct epoll_event ev[EVENTS];
        int n = epoll_wait(r->ep, ev, EVENTS, 1000);
        if (n > 0) last = now_ms();
        if (now_ms() - last > GIVE_UP_MS) break;
        for (int i = 0; i < n; i++) step(r, (int)ev[i].data.u64);
    }
    r->failed += r->under_way;
}

static int connects(const char *ip, const char *port, const char *count, const char *parallel)
{
    struct run r = {.count = atoi(count), .parallel = atoi(parallel)};
    double start = now_ms();
    work(&r, ip, port);
    double seconds = (now_ms() - start) / 1e3;
    qsort(r.took, (size_t)r.ended, sizeof *r.took, order);
    double p50 = r.ended ? r.took[r.ended / 2] : 0, p99 = r.ended ? r.took[(int)(r.ended * 0.99)] : 0;
    printf("%.0f /s p50 %.1f ms p99 %.1f ms failed %d\n", r.ended / seconds, p50, p99, r.failed);
    return 0;
}

static int idle(const char *ip, const char *port, const char *count, const char *ask)
{
    struct run r = {.count = atoi(count), .parallel = GROWTH, .keep = 1, .ask = ask};
    work(&r, ip, port);
    printf("%d stand, %d failed\n", r.ended, r.failed);
    fflush(stdout);
    while (read(0, block, sizeof block) > 0) {}
    return 0;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    most_descriptors();
    if (argc == 4 && strcmp(argv[1], "serve") == 0) serve(argv[2], argv[3]);
    if (argc == 5 && strcmp(argv[1], "get") == 0) return get(argv[2], argv[3], argv[4]);
    if (argc == 6 && strcmp(argv[1], "connects") == 0) return connects(argv[2], argv[3], argv[4], argv[5]);
    if (argc == 5 && strcmp(argv[1], "idle") == 0) return idle(argv[2], argv[3], argv[4], NULL);
    if (argc == 6 && strcmp(argv[1], "stall") == 0) return idle(argv[2], argv[3], argv[5], argv[4]);
    fputs("usage: load serve ECHO_PORT BLOB_PORT | get IP PORT BYTES | connects IP PORT COUNT PARALLEL | idle IP PORT COUNT | "
          "stall IP PORT BYTES COUNT\n", stderr);
    return 2;
}
