/* The public API against a real tailnet: dev's control, DERP and STUN servers in a thread of this program, several nodes of ours,
 * everything in a network namespace of its own with nothing but loopback. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "box.h"

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

/* ---- streams: the same without descriptors, on the nodes' threads ---- */

enum { STREAM_BYTES = 3 * 1024 * 1024 };

static struct {
    pthread_mutex_t mu;
    pthread_cond_t cond;
    size_t to_send, received;
    int echo_ended, client_closed, client_err, wrong;
    tailnet_stream *client;
} st = {.mu = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};

static char stream_byte(size_t at) { return (char)(at * 31 + at / 4096); }

static void note(int *what, int value)
{
    pthread_mutex_lock(&st.mu);
    *what = value;
    pthread_cond_broadcast(&st.cond);
    pthread_mutex_unlock(&st.mu);
}

static void wait_note(const int *what)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 60;
    pthread_mutex_lock(&st.mu);
    while (!*what && pthread_cond_timedwait(&st.cond, &st.mu, &until) == 0) continue;
    assert_true(*what);
    pthread_mutex_unlock(&st.mu);
}

static void echo_some(void *ctx, tailnet_stream *s)
{
    struct iovec v;
    while (tailnet_stream_peek(s, &v, 1) > 0) {
        long n = tailnet_stream_write(s, v.iov_base, v.iov_len);
        if (n <= 0) return;
        tailnet_stream_consume(s, (size_t)n);
    }
    if (!tailnet_stream_ended(s)) return;
    tailnet_stream_close(s);
    note(&st.echo_ended, 1);
}

static const tailnet_stream_handlers echo_handlers = {.readable = echo_some, .writable = echo_some};

static void echo_accept(void *ctx, tailnet_stream *s)
{
    char remote[56];
    tailnet_stream_remote(s, remote, sizeof remote);
    if (strncmp(remote, "100.", 4) != 0) st.wrong++;
    tailnet_stream_handle(s, &echo_handlers, NULL);
}

static void client_fill(void *ctx, tailnet_stream *s)
{
    struct iovec v[4];
    for (int n; st.to_send < STREAM_BYTES && (n = tailnet_stream_reserve(s, v, 4, 10000)) > 0;) {
        size_t done = 0;
        for (int i = 0; i < n; i++)
            for (size_t k = 0; k < v[i].iov_len && st.to_send < STREAM_BYTES; k++, done++)
                ((char *)v[i].iov_base)[k] = stream_byte(st.to_send++);
        tailnet_stream_commit(s, done);
    }
    if (st.to_send == STREAM_BYTES) tailnet_stream_shutdown(s);
}

static void client_read(void *ctx, tailnet_stream *s)
{
    struct iovec v[3];
    for (int n; (n = tailnet_stream_peek(s, v, 3)) > 0;) {
        size_t total = 0;
        for (int i = 0; i < n; i++) {
            for (size_t k = 0; k < v[i].iov_len; k++)
                if (((char *)v[i].iov_base)[k] != stream_byte(st.received++)) st.wrong++;
            total += v[i].iov_len;
        }
        tailnet_stream_consume(s, total);
    }
}

static void client_gone(void *ctx, int err)
{
    st.client_err = err;
    note(&st.client_closed, 1);
}

static const tailnet_stream_handlers client_handlers = {
    .open = client_fill, .writable = client_fill, .readable = client_read, .closed = client_gone};

static void abort_client(void *ctx) { tailnet_stream_abort(st.client); }

static void streams(void **state)
{
    tailnet *a = make_up("left"), *b = make_up("right");
    tailnet_stream_listener *l, *again;
    int fd;
    assert_int_equal(tailnet_stream_listen(b, ":7070", echo_accept, NULL, &l), 0);
    assert_int_equal(tailnet_stream_listen(b, ":7070", echo_accept, NULL, &again), -EADDRINUSE);
    assert_int_equal(tailnet_stream_listen(b, "nonsense", echo_accept, NULL, &again), -EINVAL);
    assert_int_equal(dial_soon(a, "right:7070", &fd), 0);
    close(fd);
    wait_note(&st.echo_ended);
    st.echo_ended = 0;
    assert_int_equal(tailnet_stream_dial(a, "right:7070", &client_handlers, NULL, &st.client), 0);
    wait_note(&st.client_closed);
    wait_note(&st.echo_ended);
    assert_int_equal(st.client_err, 0);
    assert_int_equal(st.received, STREAM_BYTES);
    assert_int_equal(st.wrong, 0);
    assert_int_equal(tailnet_stream_dial(a, "nobody:1", &client_handlers, NULL, NULL), -ENOENT);
    st.client_closed = 0;
    assert_int_equal(tailnet_stream_dial(a, "right:7071", &client_handlers, NULL, NULL), 0);
    wait_note(&st.client_closed);
    assert_int_equal(st.client_err, -ECONNREFUSED);
    /* aborted: silent here; one that is open when the node stops hears so */
    st.client_closed = 0;
    assert_int_equal(tailnet_stream_dial(a, "right:7070", NULL, NULL, &st.client), 0);
    assert_int_equal(tailnet_run(a, abort_client, NULL), 0);
    st.to_send = STREAM_BYTES;
    assert_int_equal(tailnet_stream_dial(a, "right:7070", &(tailnet_stream_handlers){.closed = client_gone}, NULL, NULL), 0);
    assert_int_equal(st.client_closed, 0);
    tailnet_close(a);
    assert_int_equal(st.client_closed, 1);
    assert_int_equal(st.client_err, TAILNET_ECLOSED);
    tailnet_stream_listener_close(l);
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

int main(void)
{
    if (enter_namespace() != 0) {
        fprintf(stderr, "skipped: no network namespaces here (%s)\n", strerror(errno));
        return SKIPPED;
    }
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dial_listen_accept),
        cmocka_unit_test(streams),
        cmocka_unit_test(closing_ends),
        cmocka_unit_test(timeouts_and_cancel),
        cmocka_unit_test(wrong_key_and_login),
        cmocka_unit_test(state_is_kept_and_locked),
        cmocka_unit_test(status_has_no_secret),
        cmocka_unit_test(nothing_remains),
    };
    return cmocka_run_group_tests(tests, start_box, stop_box);
}
