/* The SOCKS5 server: what it answers, byte by byte; hostile clients; and that nothing of them stays behind. The node
 * mostly dials itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "box.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/time.h>

enum { OPEN_PORT = 7, CLOSED_PORT = 9, REPLY = 10 };

static struct {
    tailnet *t, *other;
    tailnet_listener *l;
    struct sockaddr_in at;
    uint8_t ip4[4], ip6[16];
} node;

/* A port that was free a moment ago. */
static void pick_address(void)
{
    socklen_t len = sizeof node.at;
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    node.at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(bind(s, (struct sockaddr *)&node.at, sizeof node.at), 0);
    getsockname(s, (struct sockaddr *)&node.at, &len);
    close(s);
}

static int start_node(void **state)
{
    char text[32], ip4[16], ip6[46];
    if (start_box(state) != 0) return -1;
    pick_address();
    snprintf(text, sizeof text, "127.0.0.1:%u", ntohs(node.at.sin_port));
    node.t = make("socks");
    assert_int_equal(tailnet_set(node.t, "socks5_server", text), 0);
    assert_int_equal(tailnet_up(node.t, UP_MS), 0);
    assert_int_equal(tailnet_addresses(node.t, ip4, sizeof ip4, ip6, sizeof ip6), 0);
    inet_pton(AF_INET, ip4, node.ip4);
    inet_pton(AF_INET6, ip6, node.ip6);
    int fd;
    node.other = make_up("other");
    assert_int_equal(dial_soon(node.t, "other:9", &fd), -ECONNREFUSED);
    return tailnet_listen(node.t, "tcp", ":7", &node.l);
}

static int stop_node(void **state)
{
    tailnet_listener_close(node.l);
    tailnet_close(node.t);
    tailnet_close(node.other);
    return stop_box(state);
}

static int client(void)
{
    struct timeval patience = {.tv_sec = 20};
    int on = 1, s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(s, (struct sockaddr *)&node.at, sizeof node.at), 0);
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return s;
}

static void give(int s, const void *bytes, size_t len) { assert_int_equal(send(s, bytes, len, MSG_NOSIGNAL), len); }

static void expect_bytes(int s, const void *bytes, size_t len)
{
    uint8_t got[512];
    assert_int_equal(recv(s, got, len, MSG_WAITALL), len);
    assert_memory_equal(got, bytes, len);
}

/* End of file or a reset: what an abrupt end looks like depends on what was still unread. */
static void expect_end(int s)
{
    char c;
    assert_true(recv(s, &c, 1, 0) <= 0 && errno != EAGAIN);
    close(s);
}

static void greet(int s)
{
    give(s, "\5\1\0", 3);
    expect_bytes(s, "\5\0", 2);
}

/* A CONNECT; name or address of len bytes. */
static size_t request(uint8_t out[262], uint8_t type, const void *host, size_t len, uint16_t port)
{
    size_t n = 0;
    out[n++] = 5;
    out[n++] = 1;
    out[n++] = 0;
    out[n++] = type;
    if (type == 3) out[n++] = (uint8_t)len;
    memcpy(out + n, host, len);
    n += len;
    out[n++] = (uint8_t)(port >> 8);
    out[n++] = (uint8_t)port;
    return n;
}

#define BYTES(s) s, sizeof s - 1

static void greetings(void **state)
{
    static const struct {
        const char *sent;
        size_t len;
        const char *answer;
    } rows[] = {
        {BYTES("\5\2\2\0"), "\5\0"},             /* ours among others */
        {BYTES("\5\0"), "\5\377"},               /* none offered */
        {BYTES("\5\1\2"), "\5\377"},             /* a password only */
        {BYTES("\4\1\0\7\1\2\3\4\0"), NULL},     /* SOCKS4 */
        {BYTES("GET / HTTP/1.1\r\n\r\n"), NULL}, /* a browser that was told the wrong kind */
        {BYTES("\26\3\1\2\0"), NULL},            /* TLS */
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int s = client();
        give(s, rows[i].sent, rows[i].len);
        if (rows[i].answer) expect_bytes(s, rows[i].answer, 2);
        if (rows[i].answer && rows[i].answer[1] == 0) close(s);
        else expect_end(s);
    }
}

static void refusals(void **state)
{
    const struct {
        const char *what;
        uint8_t command, type;
        const void *host;
        size_t len;
        uint16_t port;
        uint8_t code;
    } rows[] = {
        {"BIND", 2, 1, node.ip4, 4, OPEN_PORT, 7},
        {"UDP ASSOCIATE", 3, 1, node.ip4, 4, OPEN_PORT, 7},
        {"no such command", 0xff, 1, node.ip4, 4, OPEN_PORT, 7},
        {"no such address type", 1, 2, node.ip4, 4, OPEN_PORT, 8},
        {"an empty name", 1, 3, "", 0, OPEN_PORT, 8},
        {"a name with NUL", 1, 3, "so\0cks", 6, OPEN_PORT, 8},
        {"a closed port", 1, 1, node.ip4, 4, CLOSED_PORT, 5},
        {"a closed port, IPv6", 1, 4, node.ip6, 16, CLOSED_PORT, 5},
        {"a closed port, by name", 1, 3, "socks", 5, CLOSED_PORT, 5},
        {"a closed port of a peer", 1, 3, "other", 5, CLOSED_PORT, 5},
        {"port 0", 1, 1, node.ip4, 4, 0, 1},
        {"nobody's tailnet address", 1, 1, "\144\143\142\141", 4, OPEN_PORT, 4},
        {"the internet, without an exit node", 1, 1, "\10\10\10\10", 4, OPEN_PORT, 4},
        {"a name of the internet, without an exit node", 1, 3, "example.com", 11, OPEN_PORT, 4},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint8_t bytes[262], reply[REPLY];
        int s = client();
        greet(s);
        size_t len = request(bytes, rows[i].type, rows[i].host, rows[i].len, rows[i].port);
        bytes[1] = rows[i].command;
        give(s, bytes, len);
        assert_int_equal(recv(s, reply, sizeof reply, MSG_WAITALL), sizeof reply);
        if (reply[0] != 5 || reply[1] != rows[i].code) fail_msg("%s: reply %u %u", rows[i].what, reply[0], reply[1]);
        expect_end(s);
    }
    int s = client();
    greet(s);
    give(s, "\4\1\0\1\1\2\3\4\0\7", 10); /* changes its mind about the version */
    expect_end(s);
}

/* Sent in two pieces cut at every byte, the first of them alone in its segment; what comes behind the request is the
 * connection's. */
static void cut_anywhere(void **state)
{
    const struct {
        uint8_t type;
        const void *host;
        size_t len;
    } rows[] = {{1, node.ip4, 4}, {4, node.ip6, 16}, {3, "socks", 5}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint8_t bytes[300] = "\5\1\0", open[REPLY] = {5, 0, 0, 1};
        size_t len = 3 + request(bytes + 3, rows[i].type, rows[i].host, rows[i].len, OPEN_PORT);
        memcpy(bytes + len, "early", 5);
        len += 5;
        for (size_t cut = 1; cut < len; cut++) {
            int s = client(), y;
            char got[8] = "";
            give(s, bytes, cut);
            usleep(1000);
            give(s, bytes + cut, len - cut);
            shutdown(s, SHUT_WR);
            expect_bytes(s, "\5\0", 2);
            expect_bytes(s, open, sizeof open);
            assert_int_equal(tailnet_accept(node.l, 20000, &y, NULL, 0), 0);
            assert_int_equal(recv(y, got, sizeof got, MSG_WAITALL), 5);
            assert_string_equal(got, "early");
            give(y, "late", 4); /* the client's direction has ended, ours has not */
            expect_bytes(s, "late", 4);
            close(y);
            expect_end(s);
        }
    }
}

static uint32_t dice(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* Noise, most of it behind a good start; clients that leave at any time. Afterwards no descriptor is left, and a good
 * client is served. */
static void noise(void **state)
{
    uint32_t seed = 3;
    int before = count_dir("/proc/self/fd"), left = 0;
    for (int i = 0; i < 1000; i++) {
        uint8_t bytes[300] = "\5\1\0";
        size_t len = dice(&seed) % 3 ? 3 : 0, end = len + dice(&seed) % (sizeof bytes - len);
        uint8_t type = 1 + (uint8_t)(dice(&seed) % 4);
        if (len && dice(&seed) % 2) len += request(bytes + len, type, node.ip4, 4, OPEN_PORT) - dice(&seed) % 6;
        for (; len < end; len++) bytes[len] = (uint8_t)dice(&seed);
        int s = client();
        give(s, bytes, len);
        if (dice(&seed) % 2) shutdown(s, SHUT_WR);
        if (dice(&seed) % 4 == 0) {
            struct linger now = {.l_onoff = 1};
            setsockopt(s, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        }
        close(s);
        for (int y; tailnet_accept(node.l, 0, &y, NULL, 0) == 0;) close(y);
    }
    for (int i = 0; i < 800 && (left = count_dir("/proc/self/fd")) > before; i++) {
        for (int y; tailnet_accept(node.l, 0, &y, NULL, 0) == 0;) close(y);
        usleep(25 * 1000);
    }
    assert_true(left <= before);
    uint8_t bytes[262], open[REPLY] = {5, 0, 0, 1};
    tailnet_listener *l; /* of its own: a late one of the noise may still come to the other */
    int s = client(), y;
    assert_int_equal(tailnet_listen(node.t, "tcp", ":8", &l), 0);
    greet(s);
    give(s, bytes, request(bytes, 3, "socks", 5, 8));
    expect_bytes(s, open, sizeof open);
    assert_int_equal(tailnet_accept(l, 20000, &y, NULL, 0), 0);
    exchange(s, y, 300000);
    close(s);
    close(y);
    tailnet_listener_close(l);
}

/* A client that says nothing is let go; in the meantime a thousand of them may wait, and one more is turned away. */
static void silent_clients(void **state)
{
    enum { MOST = 1024 };
    static int s[MOST];
    char c;
    for (int i = 0; i < MOST; i++) s[i] = client();
    greet(s[MOST - 1]); /* all were taken: they are taken in order */
    int more = client();
    assert_int_equal(recv(more, &c, 1, 0), 0);
    close(more);
    for (int i = 0; i < MOST; i++) assert_true(recv(s[i], &c, 1, 0) <= 0 && errno != EAGAIN);
    for (int i = 0; i < MOST; i++) close(s[i]);
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
        cmocka_unit_test(greetings), cmocka_unit_test(refusals),       cmocka_unit_test(cut_anywhere),
        cmocka_unit_test(noise),     cmocka_unit_test(silent_clients),
    };
    return cmocka_run_group_tests(tests, start_node, stop_node);
}
