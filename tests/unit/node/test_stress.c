/* The public API under strain: many flows with random ends, other threads, signals, resources that run out, starts that fail half-way.
 * Run it under ThreadSanitizer too: meson setup -Db_sanitize=thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "box.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

enum { FLOWS = 200, SECOND_US = 1000 * 1000 };

static const char *error_of(tailnet *t)
{
    static char why[256];
    tailnet_error(t, why, sizeof why);
    return why;
}

static uint32_t dice(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* What is closed goes within a turn or two of the loop, or, at the other end, when the packets have arrived. */
static bool soon_at_most(const char *dir, int most)
{
    for (int i = 0; i < 400 && count_dir(dir) > most; i++) usleep(25 * 1000);
    return count_dir(dir) <= most;
}

/* ---- flows ---- */

struct end {
    int fd;
    uint32_t seed;
};

/* One side of a flow: a few random deeds, then the descriptor is closed in whatever state it is. */
static void *behave(void *arg)
{
    struct end *e = arg;
    char bytes[16384] = {0};
    for (unsigned deeds = dice(&e->seed) % 6; deeds > 0; deeds--) {
        struct pollfd p = {.fd = e->fd, .events = POLLIN};
        switch (dice(&e->seed) % 4) {
        case 0: (void)!send(e->fd, bytes, dice(&e->seed) % sizeof bytes + 1, MSG_NOSIGNAL | MSG_DONTWAIT); break;
        case 1: shutdown(e->fd, SHUT_WR); break;
        case 2: if (poll(&p, 1, 50) > 0) (void)!read(e->fd, bytes, dice(&e->seed) % sizeof bytes + 1); break;
        case 3: usleep(dice(&e->seed) % 2000); break;
        }
    }
    close(e->fd);
    return NULL;
}

static void *accept_and_behave(void *listener)
{
    pthread_t threads[FLOWS];
    struct end ends[FLOWS];
    size_t n = 0;
    while (n < FLOWS && tailnet_accept(listener, 60000, &ends[n].fd, NULL, 0) == 0) {
        ends[n].seed = (uint32_t)(7919 * n + 1);
        if (pthread_create(&threads[n], NULL, behave, &ends[n]) != 0) break;
        n++;
    }
    for (size_t i = 0; i < n; i++) pthread_join(threads[i], NULL);
    return (void *)n;
}

static void flows_with_random_ends(void **state)
{
    tailnet *a = make_up("stress-a"), *b = make_up("stress-b");
    tailnet_listener *l;
    pthread_t acceptor, threads[FLOWS];
    struct end ends[FLOWS];
    void *accepted;
    int x, y;
    assert_int_equal(tailnet_listen(b, "tcp", ":7", &l), 0);
    assert_int_equal(dial_soon(a, "stress-b:7", &x), 0);
    assert_int_equal(tailnet_accept(l, 20000, &y, NULL, 0), 0);
    close(x);
    close(y);
    usleep(SECOND_US / 2);
    int before = count_dir("/proc/self/fd");
    assert_int_equal(pthread_create(&acceptor, NULL, accept_and_behave, l), 0);
    for (size_t i = 0; i < FLOWS; i++) {
        ends[i].seed = (uint32_t)(104729 * i + 3);
        assert_int_equal(tailnet_dial(a, "tcp", "stress-b:7", 60000, &ends[i].fd), 0);
        assert_int_equal(pthread_create(&threads[i], NULL, behave, &ends[i]), 0);
    }
    for (size_t i = 0; i < FLOWS; i++) pthread_join(threads[i], NULL);
    pthread_join(acceptor, &accepted);
    assert_int_equal((size_t)accepted, FLOWS);
    assert_true(soon_at_most("/proc/self/fd", before)); /* no bridge stays behind */
    assert_int_equal(tailnet_dial(a, "tcp", "stress-b:7", 20000, &x), 0);
    assert_int_equal(tailnet_accept(l, 20000, &y, NULL, 0), 0);
    exchange(x, y, 200000);
    close(x);
    close(y);
    tailnet_listener_close(l);
    tailnet_close(a);
    tailnet_close(b);
}

/* What fits while nobody reads at the other end, and surely SOME; how much that was. */
static size_t send_until_full(int fd, uint32_t seed)
{
    enum { SOME = 100 * 1000, FULL_MS = 300, PATIENCE_MS = 20000 };
    uint8_t chunk[1000];
    size_t at = 0;
    for (struct pollfd p = {.fd = fd, .events = POLLOUT}; poll(&p, 1, at > SOME ? FULL_MS : PATIENCE_MS) > 0;) {
        for (size_t i = 0; i < sizeof chunk; i++) chunk[i] = byte_at(seed, at + i);
        ssize_t n = send(fd, chunk, sizeof chunk, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) at += (size_t)n;
    }
    return at;
}

/* Both sides have sent their FIN long before the application reads: not a byte is missing then. And an application that shut its end
 * for writing and then went away leaves nothing behind, though its peer says nothing. */
static void slow_readers_and_silent_leavers(void **state)
{
    tailnet *a = make_up("slow-a"), *b = make_up("slow-b");
    tailnet_listener *l;
    int x, y;
    char c;
    assert_int_equal(tailnet_listen(b, "tcp", ":7", &l), 0);
    assert_int_equal(dial_soon(a, "slow-b:7", &x), 0);
    assert_int_equal(tailnet_accept(l, 20000, &y, NULL, 0), 0);
    size_t sent = send_until_full(x, 5);
    assert_true(sent > 100 * 1000);
    shutdown(y, SHUT_WR);
    assert_int_equal(read(x, &c, 1), 0);
    shutdown(x, SHUT_WR);
    usleep(SECOND_US);
    assert_int_equal(receive_all(y, 5), sent);
    close(x);
    close(y);
    usleep(SECOND_US / 2);
    int before = count_dir("/proc/self/fd");
    assert_int_equal(tailnet_dial(a, "tcp", "slow-b:7", 20000, &x), 0);
    assert_int_equal(tailnet_accept(l, 20000, &y, NULL, 0), 0);
    shutdown(x, SHUT_WR);
    assert_int_equal(read(y, &c, 1), 0);
    close(x);
    assert_true(soon_at_most("/proc/self/fd", before + 2)); /* y and its bridge: the other bridge is gone */
    close(y);
    tailnet_listener_close(l);
    tailnet_close(a);
    tailnet_close(b);
}

/* ---- starts and ends ---- */

static void start_stop_loops(void **state)
{
    uint32_t seed = 11;
    int threads = 0, fds = 0;
    for (int i = 0; i < 40; i++) {
        tailnet *t = make("looper");
        assert_int_equal(tailnet_start(t), 0);
        assert_int_equal(tailnet_start(t), 0);
        if (i % 4) usleep(dice(&seed) % (SECOND_US / 10)); /* in the midst of joining */
        if (i % 10 == 9) assert_int_equal(tailnet_up(t, UP_MS), 0);
        tailnet_close(t);
        if (i == 19) threads = count_dir("/proc/self/task"), fds = count_dir("/proc/self/fd");
    }
    assert_true(soon_at_most("/proc/self/task", threads));
    assert_true(soon_at_most("/proc/self/fd", fds));
}

static int busy_port(int type, char text[32])
{
    struct sockaddr_in sa = {.sin_family = AF_INET};
    socklen_t len = sizeof sa;
    int s = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(s, (struct sockaddr *)&sa, sizeof sa), 0);
    if (type == SOCK_STREAM) assert_int_equal(listen(s, 1), 0);
    getsockname(s, (struct sockaddr *)&sa, &len);
    snprintf(text, 32, type == SOCK_STREAM ? "127.0.0.1:%u" : "%u", ntohs(sa.sin_port));
    return s;
}

/* Each start fails at another place; nothing is left; and with the cause removed the same handle starts as if it had been the first
 * time, its proxy included. */
static void failed_starts(void **state)
{
    char udp[32], tcp[32], *json;
    int s1 = busy_port(SOCK_DGRAM, udp), s2 = busy_port(SOCK_STREAM, tcp);
    const struct {
        const char *option, *value, *said;
    } rows[] = {{"port", udp, "UDP port"},
                {"socket", "/proc/none/sock", "socket"},
                {"socks5_server", tcp, "socks5_server"},
                {"state_dir", "/proc/none", "/proc/none"},
                {"login_server", "http://host:99999/", "login_server"}};
    tailnet *t = make("failer");
    assert_int_equal(tailnet_set(t, "exit_proxy", "socks5://u:p@192.0.2.1:1080"), 0);
    assert_int_equal(tailnet_set(t, "advertise_exit_node", "true"), 0);
    assert_int_not_equal(tailnet_set(t, "port", "stale"), 0); /* a detail that must not be taken for a later failure's */
    int threads = count_dir("/proc/self/task"), fds = count_dir("/proc/self/fd");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(tailnet_set(t, rows[i].option, rows[i].value), 0);
        if (tailnet_start(t) == 0 || !strstr(error_of(t), rows[i].said)) fail_msg("%s: %s", rows[i].option, error_of(t));
        const char *good = strcmp(rows[i].option, "login_server") ? NULL : box.url;
        assert_int_equal(tailnet_set(t, rows[i].option, good), 0);
        assert_int_equal(count_dir("/proc/self/task"), threads);
        int now = count_dir("/proc/self/fd"); /* the box may still be closing its ends of earlier tests' connections */
        assert_true(now <= fds);
        fds = now;
        tailnet_cancel(t);
    }
    assert_int_equal(tailnet_up(t, UP_MS), 0);
    assert_int_equal(tailnet_status(t, &json), 0);
    assert_non_null(strstr(json, "\"Mode\": \"proxy\""));
    tailnet_free(json);
    tailnet_close(t);
    close(s1);
    close(s2);
}

/* ---- cancel ---- */

static tailnet *canceled_node;

static void cancel_in_signal(int sig) { tailnet_cancel(canceled_node); }

/* A signal every 200 us, whichever thread it hits, from before the first start to just before the end. */
static void cancel_from_signals(void **state)
{
    struct sigaction sa = {.sa_handler = cancel_in_signal, .sa_flags = SA_RESTART}, old;
    struct itimerval often = {{0, 200}, {0, 200}}, never = {{0, 0}, {0, 0}};
    for (int i = 0; i < 20; i++) {
        canceled_node = make("signalled");
        sigaction(SIGALRM, &sa, &old);
        setitimer(ITIMER_REAL, &often, NULL);
        assert_int_equal(tailnet_start(canceled_node), 0);
        for (int k = 0; k < 20; k++) {
            int err = tailnet_up(canceled_node, 500);
            assert_true(err == -ECANCELED || err == 0 || err == -ETIMEDOUT);
        }
        tailnet *t = canceled_node;
        setitimer(ITIMER_REAL, &never, NULL);
        sigaction(SIGALRM, &old, NULL);
        tailnet_close(t);
    }
}

static void *cancel_often(void *arg)
{
    tailnet *t = arg;
    for (int i = 0; i < 20000; i++) tailnet_cancel(t);
    return NULL;
}

static void *start_it(void *t) { return (void *)(intptr_t)tailnet_start(t); }

/* From other threads while starts fail and succeed; two starters get the same answer as one. */
static void starts_and_cancels_together(void **state)
{
    for (int i = 0; i < 10; i++) {
        tailnet *t = make("together");
        pthread_t canceler, starters[3];
        if (i % 2) assert_int_equal(tailnet_set(t, "socket", "/proc/none/sock"), 0);
        assert_int_equal(pthread_create(&canceler, NULL, cancel_often, t), 0);
        for (int k = 0; k < 3; k++) assert_int_equal(pthread_create(&starters[k], NULL, start_it, t), 0);
        for (int k = 0; k < 3; k++) {
            void *result;
            pthread_join(starters[k], &result);
            assert_int_equal((intptr_t)result < 0, i % 2);
        }
        pthread_join(canceler, NULL);
        tailnet_close(t);
    }
}

/* ---- calls from many threads ---- */

struct caller {
    tailnet *t;
    const char *peer;
    uint32_t seed;
};

static void *call_around(void *arg)
{
    struct caller *c = arg;
    char ip4[16], ip6[46], why[256], *text, address[32];
    tailnet_listener *l;
    int fd;
    for (int i = 0; i < 40; i++) {
        switch (dice(&c->seed) % 7) {
        case 0: if (tailnet_status(c->t, &text) == 0) tailnet_free(text); break;
        case 1: tailnet_addresses(c->t, ip4, sizeof ip4, ip6, sizeof ip6); break;
        case 2: if (tailnet_dial(c->t, "tcp", c->peer, (int)(dice(&c->seed) % 200), &fd) == 0) close(fd); break;
        case 3:
            snprintf(address, sizeof address, ":%u", 1000 + dice(&c->seed) % 4);
            if (tailnet_listen(c->t, "tcp", address, &l) != 0) break;
            if (tailnet_accept(l, (int)(dice(&c->seed) % 20), &fd, NULL, 0) == 0) close(fd);
            tailnet_listener_close(l);
            break;
        case 4: tailnet_error(c->t, why, sizeof why); break;
        case 5: if (tailnet_auth_url(c->t, &text) == 0) tailnet_free(text); break;
        case 6: (void)tailnet_set(c->t, "hostname", "late"); tailnet_up(c->t, 0); break;
        }
    }
    return NULL;
}

static void calls_from_many_threads(void **state)
{
    tailnet *a = make_up("many-a"), *b = make_up("many-b");
    struct caller callers[8];
    pthread_t threads[8];
    for (int i = 0; i < 8; i++) {
        callers[i] = (struct caller){.t = i % 2 ? a : b, .peer = i % 2 ? "many-b:1001" : "many-a:1002", .seed = (uint32_t)i};
        assert_int_equal(pthread_create(&threads[i], NULL, call_around, &callers[i]), 0);
    }
    for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
    tailnet_close(a);
    tailnet_close(b);
}

static void *accept_for_ever(void *l)
{
    int fd;
    return (void *)(intptr_t)tailnet_accept(l, -1, &fd, NULL, 0);
}

static void *log_out(void *t) { return (void *)(intptr_t)tailnet_logout(t, -1); }

/* Closing a listener ends those who wait at it; of two that log out at once both get the answer. */
static void waits_end(void **state)
{
    tailnet *t = make_up("waiter");
    tailnet_listener *l;
    pthread_t threads[3];
    void *result;
    assert_int_equal(tailnet_listen(t, "tcp", ":5", &l), 0);
    for (int i = 0; i < 3; i++) assert_int_equal(pthread_create(&threads[i], NULL, accept_for_ever, l), 0);
    usleep(SECOND_US / 10);
    tailnet_listener_close(l);
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], &result);
        assert_int_equal((intptr_t)result, TAILNET_ECLOSED);
    }
    for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&threads[i], NULL, log_out, t), 0);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], &result);
    tailnet_close(t);
    t = make_up("waiter");
    assert_int_equal(tailnet_logout(t, 0), -ETIMEDOUT); /* nobody waits for the answer */
    tailnet_close(t);
}

/* ---- what runs out ---- */

static int64_t cpu_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (int64_t)ts.tv_sec * SECOND_US + ts.tv_nsec / 1000;
}

static int connected(const char *address)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    sa.sin_port = htons((uint16_t)atoi(strchr(address, ':') + 1));
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return connect(s, (struct sockaddr *)&sa, sizeof sa) == 0 ? s : -1;
}

/* Descriptors until there are no more; returns their number. */
static int take_the_rest(int spare[1024], int n)
{
    while (n < 1024 && (spare[n] = dup(0)) >= 0) n++;
    return n;
}

/* No descriptor is left: dials and accepts fail with a reason, the SOCKS server does not spin, and all goes on afterwards. */
static void descriptors_run_out(void **state)
{
    char socks[32];
    int probe = busy_port(SOCK_STREAM, socks), spare[1024], n = 0, x, y;
    close(probe);
    tailnet *a = make("scarce-a"), *b = make_up("scarce-b");
    tailnet_listener *l;
    assert_int_equal(tailnet_set(a, "socks5_server", socks), 0);
    assert_int_equal(tailnet_up(a, UP_MS), 0);
    assert_int_equal(tailnet_listen(b, "tcp", ":7", &l), 0);
    assert_int_equal(dial_soon(a, "scarce-b:7", &x), 0);
    assert_int_equal(tailnet_accept(l, 20000, &y, NULL, 0), 0);
    struct rlimit old, low;
    getrlimit(RLIMIT_NOFILE, &old);
    low = (struct rlimit){.rlim_cur = 300, .rlim_max = old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    int last = connected(socks), greet = -1;
    n = take_the_rest(spare, n);
    while (greet < 0 && n > 0) { /* a node that looks at the network takes one for a moment, too */
        close(spare[--n]);
        greet = connected(socks); /* takes the last descriptor: nothing is left to accept it with */
    }
    n = take_the_rest(spare, n);
    int64_t began = cpu_us();
    usleep(SECOND_US);
    assert_true(cpu_us() - began < SECOND_US / 2);
    n = take_the_rest(spare, n);
    assert_int_equal(tailnet_dial(a, "tcp", "scarce-b:7", 20000, &x), -EMFILE);
    while (n > 0) close(spare[--n]);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    char reply[2];
    assert_int_equal(send(greet, "\5\1\0", 3, MSG_NOSIGNAL), 3);
    assert_int_equal(recv(greet, reply, 2, MSG_WAITALL), 2);
    assert_memory_equal(reply, "\5\0", 2);
    close(greet);
    close(last);
    assert_int_equal(tailnet_dial(a, "tcp", "scarce-b:7", 20000, &x), 0);
    tailnet_listener_close(l);
    tailnet_close(a);
    tailnet_close(b);
}

/* ---- the LocalAPI's callers ---- */

static int local_connect(const char *path)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    strcpy(sa.sun_path, path);
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return connect(s, (struct sockaddr *)&sa, sizeof sa) == 0 ? s : -1;
}

/* The status of the answer; 0 when the connection was dropped without one. */
static int local_ask(const char *path, const char *request)
{
    char answer[4096] = "";
    size_t have = 0;
    int status = 0, s = local_connect(path);
    if (s < 0) return 0;
    (void)!send(s, request, strlen(request), MSG_NOSIGNAL);
    for (ssize_t n; have < sizeof answer - 1 && (n = read(s, answer + have, sizeof answer - 1 - have)) > 0;) have += (size_t)n;
    close(s);
    return sscanf(answer, "HTTP/1.1 %d", &status) == 1 ? status : 0;
}

#define GET(target, more) "GET " target " HTTP/1.1\r\nHost: local-tailscaled.sock\r\nConnection: close\r\n" more "\r\n"

/* In a child of another uid: it may ask, and a hundred idle connections of it leave room for the owner. Exit status 0 when so. */
static pid_t other_user(const char *path, int ready)
{
    pid_t child = fork();
    if (child) return child;
    if (setuid(65534) != 0) _exit(9);
    if (local_ask(path, GET("/localapi/v0/status", "")) != 200) _exit(1);
    for (int i = 0; i < 100; i++) (void)local_connect(path);
    char c = 1;
    if (write(ready, &c, 1) != 1) _exit(2);
    pause();
    _exit(0);
}

static void localapi_callers(void **state)
{
    char dir[] = "/tmp/tn-local-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    chmod(dir, 0755);
    snprintf(path, sizeof path, "%s/sock", dir);
    tailnet *t = make("local");
    assert_int_equal(tailnet_set(t, "socket", path), 0);
    assert_int_equal(tailnet_up(t, UP_MS), 0);
    static const struct {
        const char *request;
        int status;
    } rows[] = {
        {GET("/localapi/v0/status", ""), 200},
        {GET("/localapi/v0/status?peers=false", ""), 200},
        {GET("/localapi/v0/prefs", ""), 200},
        {GET("/localapi/v0/whois?addr=100.127.255.254", ""), 404},
        {GET("/localapi/v0/whois", ""), 400},
        {GET("/localapi/v0/nothing", ""), 404},
        {GET("/", ""), 404},
        {GET("/localapi/v0/ping", ""), 405},
        {GET("/localapi/v0/status", "Origin: http://evil.example\r\n"), 403},
        {GET("/localapi/v0/status", "Referer: http://evil.example/\r\n"), 403},
        {"GET /localapi/v0/status HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", 403},
        {"GET /localapi/v0/status HTTP/1.1\r\nConnection: close\r\n\r\n", 400},
        {"POST /localapi/v0/ping?ip=x&type=disco HTTP/1.1\r\nHost: local-tailscaled.sock\r\nConnection: close\r\n"
         "Content-Length: 0\r\n\r\n", 400},
        {"garbage\r\n\r\n", 400},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (local_ask(path, rows[i].request) != rows[i].status)
            fail_msg("%.60s: %d", rows[i].request, local_ask(path, rows[i].request));
    char *huge = malloc(100001);
    memset(huge, 'a', 100000);
    memcpy(huge, "GET /", 5);
    huge[100000] = '\0';
    assert_in_range(local_ask(path, huge), 400, 499);
    free(huge);
    int ready[2], status;
    char c;
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    pid_t child = geteuid() == 0 ? other_user(path, ready[1]) : -1;
    close(ready[1]);
    if (child > 0 && read(ready[0], &c, 1) == 1) {
        for (int i = 0; i < 10; i++) assert_int_equal(local_ask(path, GET("/localapi/v0/status", "")), 200);
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
    } else if (child > 0) {
        waitpid(child, &status, 0);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 9) fail_msg("the other user's process: %#x", status);
    }
    close(ready[0]);
    tailnet_close(t);
    assert_int_equal(access(path, F_OK), -1);
    remove_tree(dir);
}

int main(int argc, char **argv)
{
    if (enter_namespace() != 0) {
        fprintf(stderr, "skipped: no network namespaces here (%s)\n", strerror(errno));
        return SKIPPED;
    }
    signal(SIGPIPE, SIG_IGN);
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flows_with_random_ends),
        cmocka_unit_test(slow_readers_and_silent_leavers),
        cmocka_unit_test(start_stop_loops),
        cmocka_unit_test(failed_starts),
        cmocka_unit_test(cancel_from_signals),
        cmocka_unit_test(starts_and_cancels_together),
        cmocka_unit_test(calls_from_many_threads),
        cmocka_unit_test(waits_end),
        cmocka_unit_test(descriptors_run_out),
        cmocka_unit_test(localapi_callers),
    };
    return cmocka_run_group_tests(tests, start_box, stop_box);
}
