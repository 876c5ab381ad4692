/* Goodput of our stack beside Linux's over the link emulator: bulk flows, a queue of one bandwidth-delay product, and
 * random loss or reordering in the direction of the data.
 *
 *   ours > ours     on a virtual clock
 *   ours > linux    through a TUN device, in real time
 *   linux > ours
 *   linux > linux   through two TUN devices in two network namespaces
 *
 *   stack_goodput [options] [WORD...]    the rows whose name contains one of the words; default: all
 *     -t SECONDS per measurement (20)   -r MBIT (100)   -d RTT_MS (80)   -m MTU (1280)   -q QUEUE (1, in products)
 *     -s SEED (1)   -x PER_CENT reordering instead of loss: so many come up to half a round trip late, or early
 *     -f            instead: the share of BBR, ours and Linux's, beside 1 and 4 flows of CUBIC
 *
 * Needs root or user namespaces and /dev/net/tun; without them only the virtual rows are printed. Rows whose
 * algorithm the kernel does not have are left out, and said so. */
#include "../tests/sim/bulk.h"
#include "../tests/sim/tunbed.h"
#include "stack/stack.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PORT = 5001, RIVAL_PORT = 5002, CUBICS = 4 };

struct setup {
    double seconds, mbit, rtt_ms, queue, loss, late, early;
    int mtu;
    uint64_t seed;
    const char *cc;          /* of Linux */
    enum tn_congestion ours; /* of ours */
    int cubics;              /* flows beside ours, for the share */
    const char *rival;       /* Linux's congestion control in the place of ours there, or NULL */
};

static struct link_config link_of(const struct setup *s, bool of_data)
{
    uint64_t rate = (uint64_t)(s->mbit * 1e6);
    struct link_config c = {
        .delay_us = (uint64_t)(s->rtt_ms * 500), .rate_bps = rate, .seed = s->seed,
        .queue_bytes = (uint64_t)(s->queue * (double)rate / 8 * s->rtt_ms / 1000),
    };
    if (!of_data) return c;
    c.loss = s->loss;
    c.reorder = s->late;
    c.reorder_us = c.delay_us;
    c.early = s->early;
    return c;
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

static void start_stack(struct ours *o, const struct setup *s, struct link *out, struct tn_ip addr)
{
    *o = (struct ours){.rng = s->seed + out->c.seed, .now = tunbed_now_us(), .out = out};
    struct tn_stack_config config = {
        .mtu = (uint16_t)s->mtu, .congestion = s->ours, .rng = tn_rng_seeded(&o->rng), .cb.output = output, .ctx = o};
    o->st = tn_stack_new(&config);
    if (!o->st || tn_stack_set_addrs(o->st, &addr, 1, o->now) != 0) abort();
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

/* As a node does: what has arrived together is answered together. */
static void take_batch(struct ours *o, struct link *in)
{
    enum { BATCH = 64 };
    int n;
    do {
        struct link_packet *p;
        tn_stack_batch_begin(o->st);
        for (n = 0; n < BATCH && (p = link_take(in, o->now)); n++, free(p)) tn_stack_input(o->st, p->bytes, p->len, o->now);
        tn_stack_batch_end(o->st, o->now);
    } while (n == BATCH);
}

/* The loop's timer has a resolution of a millisecond in a node; here it is asked for exactly. */
static void timeout_if_due(struct ours *o)
{
    if (tn_stack_next_deadline(o->st) <= o->now) tn_stack_timeout(o->st, o->now);
}

/* ---- virtual time ---- */

static void ours_to_ours(const struct setup *s, double *mbit)
{
    struct bulk_config c = {
        .link = link_of(s, true), .seconds = s->seconds, .from_s = s->cubics ? s->seconds / 6 : 0, .mtu = s->mtu,
        .tick_us = 1000,
        .sender = {{.cc = s->ours, .flows = 1}, {.cc = TN_CONGESTION_CUBIC, .flows = (unsigned)s->cubics}},
    };
    struct bulk_result r = bulk_run(&c);
    mbit[0] = r.mbit[0];
    mbit[1] = r.mbit[1];
}

/* ---- the kernel's side ---- */

static void enlarge_kernel_buffers(void)
{
    tunbed_sysctl("ipv4/tcp_rmem", "4096 131072 67108864");
    tunbed_sysctl("ipv4/tcp_wmem", "4096 131072 67108864");
}

static int kernel_socket(const char *cc)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, cc, (socklen_t)strlen(cc)) != 0) {
        printf("congestion control %s: %s\n", cc, strerror(errno));
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
    int fd = kernel_socket(s->cc);
    struct sockaddr_in a = kernel_addr(ip);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) != 0 || listen(fd, 16) != 0) abort();
    return fd;
}

/* From a port of its own, or any if that is 0. */
static int kernel_connect(const char *cc, const char *ip, uint16_t from)
{
    int fd = kernel_socket(cc);
    struct sockaddr_in a = kernel_addr(ip), local = {.sin_family = AF_INET, .sin_port = htons(from)};
    if (from && bind(fd, (struct sockaddr *)&local, sizeof local) != 0) abort();
    if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0 && errno != EINPROGRESS) abort();
    return fd;
}

/* What arrives is read by a thread of its own: the kernel hands over 30 MB at once when a hole closes, and copying that
 * kept the emulator, and our stack with it, from its work for 10 ms of every 100. */
struct kernel_sink {
    int listener, fd[CUBICS + 1];
    bool is_one[CUBICS + 1]; /* ours, by address, or the rival in its place, by port */
    int n;
    _Atomic uint64_t received[2]; /* from the others, from that one */
};

static void sink_read(struct kernel_sink *k)
{
    static char buf[1 << 18];
    struct sockaddr_in from;
    socklen_t len = sizeof from;
    int fd = k->n <= CUBICS ? accept4(k->listener, (struct sockaddr *)&from, &len, SOCK_NONBLOCK | SOCK_CLOEXEC) : -1;
    if (fd >= 0) {
        k->is_one[k->n] = (ntohl(from.sin_addr.s_addr) & 255) == 2 || ntohs(from.sin_port) == RIVAL_PORT;
        k->fd[k->n++] = fd;
    }
    for (int i = 0; i < k->n; i++)
        for (ssize_t n; (n = read(k->fd[i], buf, sizeof buf)) > 0;) k->received[k->is_one[i]] += (uint64_t)n;
}

/* Ends with the process. */
static void *sink_run(void *arg)
{
    for (;; usleep(1000)) sink_read(arg);
    return NULL;
}

static void sink_start(struct kernel_sink *k)
{
    pthread_t t;
    if (pthread_create(&t, NULL, sink_run, k) != 0) abort();
}

static void kernel_write(int fd)
{
    static const char buf[1 << 16];
    while (write(fd, buf, sizeof buf) > 0) continue;
}

static void to_kernel(int tun, const struct link_packet *p)
{
    if (write(tun, p->bytes, p->len) < 0 && errno != EAGAIN && errno != EINVAL) abort();
}

/* ---- real time ---- */

static uint64_t min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }

static bool ours_with_kernel(const struct setup *s, bool we_send, double *mbit)
{
    int tun = tunbed_open("tn0", s->mtu, "10.9.0.1", NULL);
    if (tun < 0) return false;
    enlarge_kernel_buffers();
    struct link out, in;
    struct link_config c = link_of(s, we_send), back = link_of(s, !we_send);
    link_init(&out, &c);
    link_init(&in, &back);
    struct ours o;
    static struct kernel_sink sink;
    start_stack(&o, s, &out, tn_ip4(10, 9, 0, 2));
    int fd = -1;
    if (we_send) {
        sink.listener = kernel_listen(s, "10.9.0.1");
        sink_start(&sink);
        start_sender(&o, tn_ip4(10, 9, 0, 1));
    } else {
        start_receiver(&o, tn_ip4(10, 9, 0, 2));
        fd = kernel_connect(s->cc, "10.9.0.2", 0);
    }
    uint64_t end = tunbed_now_us() + (uint64_t)(s->seconds * 1e6);
    while ((o.now = tunbed_now_us()) < end) {
        tunbed_drain(tun, &in);
        for (struct link_packet *p; (p = link_take(&out, o.now)); free(p)) to_kernel(tun, p);
        take_batch(&o, &in);
        timeout_if_due(&o);
        if (!we_send) kernel_write(fd);
        uint64_t at = min_u64(tn_stack_next_deadline(o.st), min_u64(link_next(&in), link_next(&out)));
        if (at > o.now + 1000) at = o.now + 1000; /* the kernel's socket is looked at by time */
        tunbed_wait(&tun, 1, at);
    }
    mbit[0] = (double)(we_send ? sink.received[1] : o.received) * 8 / s->seconds / 1e6;
    return true;
}

/* Flows of Linux, and beside them if there are cubics one of ours or of a rival, to Linux over one link. */
static bool to_linux(const struct setup *s, double *mbit)
{
    int tun[2], flows = s->cubics ? s->cubics : 1, from[CUBICS + 1];
    struct link l[2];
    struct link_config c = link_of(s, true), back = link_of(s, false);
    static struct kernel_sink sink;
    if ((tun[1] = tunbed_open("tn1", s->mtu, "10.9.0.9", NULL)) < 0) return false;
    enlarge_kernel_buffers();
    sink.listener = kernel_listen(s, "10.9.0.9");
    if (!tunbed_enter() || (tun[0] = tunbed_open("tn0", s->mtu, "10.9.0.1", NULL)) < 0) return false;
    enlarge_kernel_buffers();
    link_init(&l[0], &c);
    link_init(&l[1], &back);
    for (int i = 0; i < flows; i++) from[i] = kernel_connect(s->cc, "10.9.0.9", 0);
    if (s->rival) from[flows++] = kernel_connect(s->rival, "10.9.0.9", RIVAL_PORT);
    struct ours o = {0};
    start_stack(&o, s, &l[0], tn_ip4(10, 9, 0, 2));
    if (s->cubics && !s->rival) start_sender(&o, tn_ip4(10, 9, 0, 9));
    sink_start(&sink);
    uint64_t start = tunbed_now_us(), end = start + (uint64_t)(s->seconds * 1e6), counted[2] = {0}, from_us = start;
    if (s->cubics) from_us += (end - start) / 6;
    bool counting = false;
    while ((o.now = tunbed_now_us()) < end) {
        for (int i = 0; i < 2; i++) tunbed_drain(tun[i], &l[i]);
        for (struct link_packet *p; (p = link_take(&l[0], o.now)); free(p)) to_kernel(tun[1], p);
        tn_stack_batch_begin(o.st);
        for (struct link_packet *p; (p = link_take(&l[1], o.now)); free(p)) {
            if (p->len > 20 && p->bytes[19] == 2) tn_stack_input(o.st, p->bytes, p->len, o.now);
            else to_kernel(tun[0], p);
        }
        tn_stack_batch_end(o.st, o.now);
        timeout_if_due(&o);
        for (int i = 0; i < flows; i++) kernel_write(from[i]);
        if (!counting && o.now >= from_us) {
            counting = true;
            for (int i = 0; i < 2; i++) counted[i] = sink.received[i];
        }
        uint64_t at = min_u64(tn_stack_next_deadline(o.st), min_u64(link_next(&l[0]), link_next(&l[1])));
        if (at > o.now + 1000) at = o.now + 1000;
        tunbed_wait(tun, 2, at);
    }
    double seconds = (double)(end - from_us) / 1e6;
    for (int i = 0; i < 2; i++)
        mbit[s->cubics ? !i : i] = (double)(sink.received[i] - counted[i]) * 8 / seconds / 1e6;
    return true;
}

/* ---- the table ---- */

enum kind { OURS_TO_OURS, OURS_TO_LINUX, LINUX_TO_OURS, TO_LINUX };

static bool run(const struct setup *s, enum kind kind, double *mbit)
{
    if (kind == OURS_TO_OURS) {
        ours_to_ours(s, mbit);
        return true;
    }
    if (!tunbed_enter()) return false;
    return kind == TO_LINUX ? to_linux(s, mbit) : ours_with_kernel(s, kind == OURS_TO_LINUX, mbit);
}

/* Each measurement in a process and a namespace of its own. */
static bool measure(const struct setup *s, enum kind kind)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        double mbit[2] = {0};
        bool ok = run(s, kind, mbit);
        if (ok && s->cubics) printf("%11.1f %6.1f", mbit[0], mbit[1]);
        else if (ok) printf("%9.1f", mbit[0]);
        fflush(stdout);
        _exit(!ok);
    }
    int status;
    waitpid(pid, &status, 0);
    return status == 0;
}

static const struct row {
    const char *name;
    enum kind kind;
    enum tn_congestion ours;
    const char *linux_cc;
} rows[] = {
    {"ours bbr > ours", OURS_TO_OURS, TN_CONGESTION_BBR, NULL},
    {"ours cubic > ours", OURS_TO_OURS, TN_CONGESTION_CUBIC, NULL},
    {"ours bbr > linux", OURS_TO_LINUX, TN_CONGESTION_BBR, "cubic"},
    {"ours cubic > linux", OURS_TO_LINUX, TN_CONGESTION_CUBIC, "cubic"},
    {"linux bbr > ours", LINUX_TO_OURS, TN_CONGESTION_BBR, "bbr"},
    {"linux cubic > ours", LINUX_TO_OURS, TN_CONGESTION_BBR, "cubic"},
    {"linux bbr > linux", TO_LINUX, TN_CONGESTION_BBR, "bbr"},
    {"linux cubic > linux", TO_LINUX, TN_CONGESTION_BBR, "cubic"},
};

static bool kernel_has(const char *cc)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool has = fd >= 0 && setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, cc, (socklen_t)strlen(cc)) == 0;
    if (fd >= 0) close(fd);
    return has;
}

static bool is_wanted(const struct row *r, char **words, int n)
{
    bool wanted = n == 0;
    for (int i = 0; i < n; i++) wanted |= strstr(r->name, words[i]) != NULL;
    if (wanted && r->linux_cc && !kernel_has(r->linux_cc)) {
        printf("%-22sthis kernel has no %s\n", r->name, r->linux_cc);
        return false;
    }
    return wanted;
}

static void table(struct setup s, double reorder, char **words, int n)
{
    static const double losses[] = {0, 0.001, 0.01};
    printf("goodput in Mbit/s of %.0f, %.0f ms, queue %.1f, %.0f s\n%-22s", s.mbit, s.rtt_ms, s.queue, s.seconds,
           reorder > 0 ? "reordered" : "random loss");
    if (reorder > 0) printf("%8.1f%%late %7.1f%%early\n", reorder, reorder);
    else printf("%9s%9s%9s\n", "0", "0.1 %", "1 %");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (!is_wanted(&rows[i], words, n)) continue;
        printf("%-22s", rows[i].name);
        for (int k = 0; k < (reorder > 0 ? 2 : 3); k++) {
            struct setup one = s;
            one.ours = rows[i].ours;
            one.cc = rows[i].linux_cc;
            if (reorder <= 0) one.loss = losses[k];
            else if (k == 0) one.late = reorder / 100;
            else one.early = reorder / 100;
            if (!measure(&one, rows[i].kind)) break;
        }
        printf("\n");
    }
}

static void shares(struct setup s)
{
    static const struct {
        const char *name, *rival;
        enum kind kind;
    } beside[] = {
        {"ours, our cubic", NULL, OURS_TO_OURS},
        {"ours, linux cubic", NULL, TO_LINUX},
        {"linux bbr, linux cubic", "bbr", TO_LINUX},
    };
    printf("shares in Mbit/s of %.0f, %.0f ms, queue %.1f, %.0f s: one flow of BBR and all CUBIC flows together\n", s.mbit,
           s.rtt_ms, s.queue, s.seconds);
    printf("%-22s%18s%18s\n", "beside", "1 flow", "4 flows");
    for (size_t i = 0; i < sizeof beside / sizeof beside[0]; i++) {
        if (beside[i].rival && !kernel_has(beside[i].rival)) {
            printf("%-22sthis kernel has no %s\n", beside[i].name, beside[i].rival);
            continue;
        }
        printf("%-22s", beside[i].name);
        s.rival = beside[i].rival;
        for (s.cubics = 1; s.cubics <= CUBICS; s.cubics += 3)
            if (!measure(&s, beside[i].kind)) break;
        printf("\n");
    }
}

int main(int argc, char **argv)
{
    struct setup s = {.seconds = 20, .mbit = 100, .rtt_ms = 80, .queue = 1, .mtu = 1280, .seed = 1, .cc = "cubic"};
    double reorder = 0;
    bool fair = false;
    for (int opt; (opt = getopt(argc, argv, "t:r:d:m:s:q:x:f")) != -1;) {
        if (opt == 't') s.seconds = atof(optarg);
        else if (opt == 'r') s.mbit = atof(optarg);
        else if (opt == 'd') s.rtt_ms = atof(optarg);
        else if (opt == 'm') s.mtu = atoi(optarg);
        else if (opt == 's') s.seed = strtoull(optarg, NULL, 0);
        else if (opt == 'q') s.queue = atof(optarg);
        else if (opt == 'x') reorder = atof(optarg);
        else if (opt == 'f') fair = true;
        else return 2;
    }
    if (fair) shares(s);
    else table(s, reorder, argv + optind, argc - optind);
    return 0;
}
