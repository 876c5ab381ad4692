/* How fast: TCP streams between two nodes, over the public API.
 *
 *   speed serve --login-server URL --state DIR --hostname NAME [-d]
 *   speed dial  --login-server URL --state DIR --hostname NAME --to IP:PORT [--secs N] [-n STREAMS] [-R | -L | -C] [-d]
 *
 * The server listens on tailnet port 5001; a connection's first byte says what it does with it: S sinks, R sends, E
 * echoes. tests/peers/tsnetpeer has the same habit. The dialer waits for a direct path, then works for N seconds:
 *   (none)  sends in STREAMS streams       -R  receives in them
 *   -L      one byte there and back, again and again; with -n, beside STREAMS that send
 *   -C      connects, exchanges one byte, closes, again and again, 16 at a time
 * and prints a line of figures. Streams are the API's own on the node's thread (tailnet_stream_*), or with -d
 * descriptors and a thread each. The auth key, if one is needed, is in TS_AUTHKEY. */
#include <tailnet.h>

#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 64 * 1024, VIEWS = 32, SAMPLES = 1 << 20, CONNECTING = 16, DIRECT_WAIT_S = 30 };

static struct {
    tailnet *t;
    const char *to;
    double secs;
    int streams;
    bool receive, latency, connect, descriptors;
    atomic_ullong bytes;
    atomic_uint done;
    atomic_bool stop;
    char pattern[BLOCK];
} g = {.secs = 5, .streams = 1};

static double now_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void die(const char *what, int err)
{
    char why[256] = "";
    if (g.t) tailnet_error(g.t, why, sizeof why);
    fprintf(stderr, "speed: %s: %s %s\n", what, tailnet_strerror(err), why);
    exit(1);
}

static void show_log(void *ctx, int level, const char *module, const char *line) { fprintf(stderr, "%s: %s\n", module, line); }

/* ---- streams on the node's thread ---- */

/* What a stream does; 0: its first byte will say. */
struct job {
    char what;
};

static void fill(struct job *j, tailnet_stream *s)
{
    struct iovec v[VIEWS];
    for (;;) {
        int n = tailnet_stream_reserve(s, v, VIEWS, BLOCK);
        size_t total = 0;
        for (int i = 0; i < n; i++) {
            memcpy(v[i].iov_base, g.pattern, v[i].iov_len);
            total += v[i].iov_len;
        }
        tailnet_stream_commit(s, total);
        if (total == 0) return;
        if (j->what == 's') atomic_fetch_add_explicit(&g.bytes, total, memory_order_relaxed);
    }
}

/* One view at a time, so that what does not fit waits in the stream. */
static void echo(tailnet_stream *s)
{
    struct iovec v;
    while (tailnet_stream_peek(s, &v, 1) > 0) {
        long n = tailnet_stream_write(s, v.iov_base, v.iov_len);
        if (n <= 0) return;
        tailnet_stream_consume(s, (size_t)n);
    }
}

static void sink(struct job *j, tailnet_stream *s)
{
    struct iovec v[VIEWS];
    for (int n; (n = tailnet_stream_peek(s, v, VIEWS)) > 0;) {
        size_t total = 0;
        for (int i = 0; i < n; i++) total += v[i].iov_len;
        tailnet_stream_consume(s, total);
        if (j->what == 'r') atomic_fetch_add_explicit(&g.bytes, total, memory_order_relaxed);
    }
}

static void on_writable(void *ctx, tailnet_stream *s)
{
    struct job *j = ctx;
    if (j->what == 'R' || j->what == 's') fill(j, s);
    if (j->what == 'E') echo(s);
}

static void on_readable(void *ctx, tailnet_stream *s)
{
    struct job *j = ctx;
    struct iovec v;
    if (!j->what && tailnet_stream_peek(s, &v, 1) > 0) {
        j->what = *(char *)v.iov_base;
        tailnet_stream_consume(s, 1);
        if (j->what == 'R') fill(j, s);
    }
    if (j->what == 'E') echo(s);
    else sink(j, s);
    if (!tailnet_stream_ended(s)) return;
    tailnet_stream_close(s);
    free(j);
}

static void on_closed(void *ctx, int err) { free(ctx); }

static void on_open(void *ctx, tailnet_stream *s)
{
    struct job *j = ctx;
    (void)tailnet_stream_write(s, j->what == 'r' ? "R" : "S", 1);
    if (j->what == 's') fill(j, s);
}

static const tailnet_stream_handlers handlers = {
    .open = on_open, .readable = on_readable, .writable = on_writable, .closed = on_closed};

static void on_accept(void *ctx, tailnet_stream *s)
{
    struct job *j = calloc(1, sizeof *j);
    if (j) tailnet_stream_handle(s, &handlers, j);
    else tailnet_stream_abort(s);
}

static void dial_streams(int n, char what)
{
    for (int i = 0; i < n; i++) {
        struct job *j = calloc(1, sizeof *j);
        j->what = what;
        int err = tailnet_stream_dial(g.t, g.to, &handlers, j, NULL);
        if (err) die("dial", err);
    }
}

/* ---- the same with descriptors ---- */

static void write_all(int fd)
{
    for (ssize_t n; !atomic_load(&g.stop) && (n = write(fd, g.pattern, BLOCK)) > 0;)
        atomic_fetch_add_explicit(&g.bytes, (unsigned long long)n, memory_order_relaxed);
}

static void read_all(int fd)
{
    static _Thread_local char buf[BLOCK];
    for (ssize_t n; !atomic_load(&g.stop) && (n = read(fd, buf, sizeof buf)) > 0;)
        atomic_fetch_add_explicit(&g.bytes, (unsigned long long)n, memory_order_relaxed);
}

static void *serve_fd(void *arg)
{
    static _Thread_local char buf[BLOCK];
    int fd = (int)(intptr_t)arg;
    char what = 0;
    if (read(fd, &what, 1) == 1) {
        if (what == 'R') write_all(fd);
        else if (what == 'S') read_all(fd);
        else
            for (ssize_t n; (n = read(fd, buf, sizeof buf)) > 0;)
                if (write(fd, buf, (size_t)n) != n) break;
    }
    close(fd);
    return NULL;
}

static void *dial_fd(void *arg)
{
    int fd, err = tailnet_dial(g.t, "tcp", g.to, 20000, &fd);
    if (err) die("dial", err);
    if (write(fd, g.receive ? "R" : "S", 1) != 1) die("write", -errno);
    if (g.receive) read_all(fd);
    else write_all(fd);
    close(fd);
    return NULL;
}

static void detach(void *(*fn)(void *arg), void *arg)
{
    pthread_t id;
    if (pthread_create(&id, NULL, fn, arg) == 0) pthread_detach(id);
}

/* ---- one byte there and back ---- */

struct pinger {
    double sent_at, *samples;
    size_t n;
};

static void ping(struct pinger *p, tailnet_stream *s)
{
    p->sent_at = now_s();
    (void)tailnet_stream_write(s, "x", 1);
}

static void ping_open(void *ctx, tailnet_stream *s)
{
    (void)tailnet_stream_write(s, "E", 1);
    ping(ctx, s);
}

static void ping_readable(void *ctx, tailnet_stream *s)
{
    struct pinger *p = ctx;
    struct iovec v;
    if (tailnet_stream_peek(s, &v, 1) <= 0) return;
    tailnet_stream_consume(s, v.iov_len);
    if (p->n < SAMPLES) p->samples[p->n++] = now_s() - p->sent_at;
    if (!atomic_load(&g.stop)) ping(p, s);
}

static const tailnet_stream_handlers ping_handlers = {.open = ping_open, .readable = ping_readable};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void report_latency(struct pinger *p)
{
    if (p->n == 0) {
        printf("no answer\n");
        return;
    }
    qsort(p->samples, p->n, sizeof *p->samples, by_value);
    printf("%zu round trips p50 %.0f us p99 %.0f us\n", p->n, p->samples[p->n / 2] * 1e6, p->samples[p->n * 99 / 100] * 1e6);
}

/* ---- connections ---- */

static void connect_next(void);

static void connect_open(void *ctx, tailnet_stream *s) { (void)tailnet_stream_write(s, "Ex", 2); }

static void connect_readable(void *ctx, tailnet_stream *s)
{
    struct iovec v;
    if (tailnet_stream_peek(s, &v, 1) <= 0) return;
    tailnet_stream_consume(s, v.iov_len);
    tailnet_stream_close(s);
    atomic_fetch_add(&g.done, 1);
    connect_next();
}

static void connect_closed(void *ctx, int err) { connect_next(); }

static const tailnet_stream_handlers connect_handlers = {
    .open = connect_open, .readable = connect_readable, .closed = connect_closed};

static void connect_next(void)
{
    static int waiting; /* dials that failed, for want of a port, say: made up for later */
    for (int n = waiting + 1; n > 0 && !atomic_load(&g.stop); n--) {
        int err = tailnet_stream_dial(g.t, g.to, &connect_handlers, NULL, NULL);
        waiting = err ? n : 0;
        if (err) return;
    }
}

static void connect_begin(void *ctx)
{
    for (int i = 0; i < CONNECTING; i++) connect_next();
}

/* ---- programs ---- */

static double cpu_s(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static long rss_kb(void)
{
    char line[200];
    long kb = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmRSS: %ld", &kb) == 1) break;
    if (f) fclose(f);
    return kb;
}

/* Is the peer with the address of g.to reached directly? */
static bool is_direct(void)
{
    char *text, ip[64];
    bool direct = false;
    json_t *peer, *addr;
    const char *key;
    size_t i;
    snprintf(ip, sizeof ip, "%.*s", (int)(strrchr(g.to, ':') - g.to), g.to);
    if (tailnet_status(g.t, &text) != 0) return false;
    json_t *status = json_loads(text, 0, NULL);
    json_object_foreach(json_object_get(status, "Peer"), key, peer)
        json_array_foreach(json_object_get(peer, "TailscaleIPs"), i, addr)
            if (strcmp(json_string_value(addr), ip) == 0)
                direct |= json_string_length(json_object_get(peer, "CurAddr")) > 0;
    json_decref(status);
    tailnet_free(text);
    return direct;
}

static void wait_direct(void)
{
    double until = now_s() + DIRECT_WAIT_S;
    char byte;
    int fd = -1, err;
    do {
        err = tailnet_dial(g.t, "tcp", g.to, 20000, &fd);
        if (err) usleep(50 * 1000);
    } while (err && now_s() < until);
    if (err) die("dial", err);
    (void)!write(fd, "E", 1);
    while (!is_direct() && now_s() < until) {
        if (write(fd, "x", 1) != 1 || read(fd, &byte, 1) != 1) break;
        usleep(20 * 1000);
    }
    close(fd);
    if (!is_direct()) fprintf(stderr, "speed: no direct path\n");
}

static void dial(void)
{
    static struct pinger pinger;
    wait_direct();
    char what = g.receive ? 'r' : 's';
    int n = g.streams;
    if (g.latency) {
        pinger.samples = malloc(SAMPLES * sizeof *pinger.samples);
        int err = tailnet_stream_dial(g.t, g.to, &ping_handlers, &pinger, NULL);
        if (err) die("dial", err);
        n = g.streams - 1;
    }
    if (g.connect) (void)tailnet_run(g.t, connect_begin, NULL);
    else if (!g.descriptors) dial_streams(n, what);
    else
        for (int i = 0; i < n; i++) detach(dial_fd, NULL);
    usleep(200 * 1000); /* the handshake and the first windows are not what is measured */
    double start = now_s(), cpu = cpu_s();
    unsigned long long before = atomic_load(&g.bytes), done = atomic_load(&g.done);
    pinger.n = 0;
    while (now_s() - start < g.secs) usleep(10 * 1000);
    double took = now_s() - start, used = cpu_s() - cpu;
    double gbit = (double)(atomic_load(&g.bytes) - before) * 8 / took / 1e9;
    long kb = rss_kb();
    atomic_store(&g.stop, true);
    if (g.latency) {
        usleep(100 * 1000);
        report_latency(&pinger);
    } else if (g.connect) {
        printf("%.0f connections/s\n", (double)(atomic_load(&g.done) - done) / took);
    }
    if (!g.connect && n > 0) printf("%d streams %.2f Gbit/s\n", n, gbit);
    printf("rss %.1f MB cpu %.2f s in %.2f s\n", (double)kb / 1024, used, took);
}

static void serve(void)
{
    tailnet_stream_listener *sl;
    tailnet_listener *l;
    char ip4[16];
    int err = g.descriptors ? tailnet_listen(g.t, "tcp", ":5001", &l)
                            : tailnet_stream_listen(g.t, ":5001", on_accept, NULL, &sl);
    if (err) die("listen", err);
    if (tailnet_addresses(g.t, ip4, sizeof ip4, NULL, 0) == 0) printf("%s:5001\n", ip4);
    fflush(stdout);
    for (int fd; g.descriptors;)
        if (tailnet_accept(l, -1, &fd, NULL, 0) == 0) detach(serve_fd, (void *)(intptr_t)fd);
    pause();
}

static bool take_option(int *i, int argc, char **argv, const char *name, const char **value)
{
    if (strcmp(argv[*i], name) != 0 || *i + 1 >= argc) return false;
    *value = argv[++*i];
    return true;
}

int main(int argc, char **argv)
{
    const char *server = NULL, *state = NULL, *hostname = "speed", *secs = NULL, *streams = NULL, *workers = NULL;
    bool is_serve = argc > 1 && strcmp(argv[1], "serve") == 0, ok = is_serve || (argc > 1 && strcmp(argv[1], "dial") == 0);
    for (int i = 2; i < argc && ok; i++) {
        if (strcmp(argv[i], "-R") == 0) g.receive = true;
        else if (strcmp(argv[i], "-L") == 0) g.latency = true;
        else if (strcmp(argv[i], "-C") == 0) g.connect = true;
        else if (strcmp(argv[i], "-d") == 0) g.descriptors = true;
        else
            ok = take_option(&i, argc, argv, "--login-server", &server) || take_option(&i, argc, argv, "--state", &state) ||
                 take_option(&i, argc, argv, "--hostname", &hostname) || take_option(&i, argc, argv, "--to", &g.to) ||
                 take_option(&i, argc, argv, "--secs", &secs) || take_option(&i, argc, argv, "-n", &streams) ||
                 take_option(&i, argc, argv, "--workers", &workers);
    }
    if (!ok || (!is_serve && (!g.to || !strrchr(g.to, ':')))) {
        fprintf(stderr, "usage: speed serve|dial --login-server URL --state DIR --hostname NAME [--to IP:PORT] [--secs N] "
                        "[-n STREAMS] [-R] [-L] [-C] [-d] [--workers N]\n");
        return 2;
    }
    if (secs) g.secs = atof(secs);
    if (streams) g.streams = atoi(streams);
    for (size_t i = 0; i < sizeof g.pattern; i++) g.pattern[i] = (char)(i * 7);
    signal(SIGPIPE, SIG_IGN);
    int err = tailnet_new(&g.t);
    if (err) die("new", err);
    if (getenv("VERBOSE")) tailnet_set_log(g.t, show_log, NULL);
    if (server) err = tailnet_set(g.t, "login_server", server);
    if (!err && state) err = tailnet_set(g.t, "state_dir", state);
    if (!err) err = tailnet_set(g.t, "hostname", hostname);
    if (!err && workers) err = tailnet_set(g.t, "workers", workers);
    if (!err) err = tailnet_set(g.t, "auth_key", getenv("TS_AUTHKEY"));
    if (!err) err = tailnet_up(g.t, 30000);
    if (err) die("up", err);
    if (is_serve) serve();
    else dial();
    fflush(stdout);
    tailnet_close(g.t); /* resets what is open, so that the server does not wait for us */
    _exit(0);
}
