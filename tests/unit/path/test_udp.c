/* The UDP sockets against the kernel, in a network namespace of the test's own that has nothing but loopback. */
#include "../../../src/path/udp.c"
#include "../../../src/path/udp_in.c"
#undef UDP_SEGMENT
#include "../../../src/path/udp_send.c"
#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>
#include "../loopback.h"
#include <fcntl.h>
#include <stdio.h>

enum { DATAGRAM_MAX = 9000 };

struct seen {
    unsigned count, runs;
    size_t last_len, bytes;
    uint8_t last[DATAGRAM_MAX];
    uint8_t numbers[512]; /* first byte of each datagram */
    struct tn_addrport from;
};

static void each(void *ctx, const struct tn_addrport *from, uint8_t *run, size_t len, size_t segment)
{
    struct seen *s = ctx;
    s->runs++;
    s->from = *from;
    s->bytes += len;
    for (size_t at = 0; at < len || (at == 0 && len == 0); at += segment ? segment : 1) {
        s->last_len = len - at < segment ? len - at : segment;
        memcpy(s->last, run + at, s->last_len < DATAGRAM_MAX ? s->last_len : DATAGRAM_MAX);
        if (s->count < sizeof s->numbers && s->last_len) s->numbers[s->count] = run[at];
        s->count++;
    }
    if (len) run[0] ^= 1;
}

static int take(struct tn_udp *u, int fd, int budget, struct seen *s) { return tn_udp_receive(u, fd, budget, each, s, 1); }

static void send_now(struct tn_udp *u, const struct tn_addrport *to, const void *bytes, size_t len)
{
    tn_udp_send(u, to, bytes, len);
    tn_udp_flush(u);
}

static void test_both_families_one_port(void **state)
{
    struct tn_udp *u, *second;
    if (!isolated) skip();
    assert_int_equal(tn_udp_open(0, &u), 0);
    assert_true(tn_udp_port4(u) != 0);
    assert_int_equal(tn_udp_port4(u), tn_udp_port6(u));
    int fds[] = {tn_udp_fd4(u), tn_udp_fd6(u)};
    for (int i = 0; i < 2; i++) {
        assert_true(fds[i] >= 0);
        assert_true(fcntl(fds[i], F_GETFL) & O_NONBLOCK);
        assert_true(fcntl(fds[i], F_GETFD) & FD_CLOEXEC);
    }
    assert_null(u->in); /* nothing received: nothing allocated */
    assert_int_equal(tn_udp_open(tn_udp_port4(u), &second), TN_E_ADDRINUSE);
    tn_udp_close(u);
    assert_int_equal(tn_udp_open(41641, &u), 0);
    assert_int_equal(tn_udp_port4(u), 41641);
    tn_udp_close(u);
    tn_udp_close(NULL);
}

static void send_and_take(struct tn_udp *a, struct tn_udp *b, int family)
{
    struct seen s = {0};
    struct tn_addrport to = {.ip = tn_ip4(127, 0, 0, 1), .port = tn_udp_port4(b)};
    int fd = family == 4 ? tn_udp_fd4(b) : tn_udp_fd6(b);
    if (family == 6) to = (struct tn_addrport){.ip = {.family = 6, .b = {[15] = 1}}, .port = tn_udp_port6(b)};
    tn_udp_send(a, &to, (const uint8_t *)"hello", 5);
    assert_int_equal(take(b, fd, 10, &s), 0); /* it waits for the end of the turn */
    tn_udp_flush(a);
    assert_int_equal(take(b, fd, 10, &s), 1);
    assert_int_equal(s.last_len, 5);
    assert_memory_equal(s.last, "hello", 5);
    assert_int_equal(s.from.ip.family, family);
    assert_int_equal(s.from.port, tn_udp_port4(a));
    assert_int_equal(take(b, fd, 10, &s), 0);
}

static void test_send_and_receive(void **state)
{
    struct tn_udp *a, *b;
    struct seen s = {0};
    uint8_t big[DATAGRAM_MAX] = {7};
    if (!isolated) skip();
    assert_int_equal(tn_udp_open(0, &a), 0);
    assert_int_equal(tn_udp_open(0, &b), 0);
    send_and_take(a, b, 4);
    send_and_take(b, a, 6);
    struct tn_addrport to = {.ip = tn_ip4(127, 0, 0, 1), .port = tn_udp_port4(b)};
    for (int i = 0; i < 50; i++) send_now(a, &to, big, 20);
    assert_int_equal(take(b, tn_udp_fd4(b), 20, &s), 20); /* the budget holds */
    assert_int_equal(take(b, tn_udp_fd4(b), 100, &s), 30);
    assert_int_equal(s.count, 50);
    send_now(a, &to, big, sizeof big);
    tn_udp_send(a, &to, big, 0);
    assert_int_equal(take(b, tn_udp_fd4(b), 10, &s), 1);
    assert_int_equal(s.last_len, sizeof big);
    b->gro = false; /* small slots: what is cut short by ours is dropped, never delivered as something else */
    tn_udp_in_free(b->in);
    b->in = NULL;
    s.count = 0;
    send_now(a, &to, big, SLOT + 1);
    send_now(a, &to, big, SLOT);
    assert_int_equal(take(b, tn_udp_fd4(b), 10, &s), 2);
    assert_int_equal(s.count, 1);
    tn_udp_close(a);
    tn_udp_close(b);
}

enum { N = 150, SIZE = 1312, TAIL = 700 };

/* A long run, small datagrams before and after it: all of it comes, in order. */
static void through(struct tn_udp *a, struct tn_udp *b, int family)
{
    static uint8_t run[N * SIZE];
    struct seen s = {0};
    struct tn_addrport to = {.ip = tn_ip4(127, 0, 0, 1), .port = tn_udp_port4(b)};
    int fd = family == 4 ? tn_udp_fd4(b) : tn_udp_fd6(b);
    if (family == 6) to = (struct tn_addrport){.ip = {.family = 6, .b = {[15] = 1}}, .port = tn_udp_port6(b)};
    for (int i = 0; i < N; i++) run[i * SIZE] = (uint8_t)(i + 3);
    uint8_t first[96] = {1}, second[96] = {2}, last[40] = {N + 3};
    tn_udp_send(a, &to, first, sizeof first);
    tn_udp_send(a, &to, second, sizeof second);
    tn_udp_send_run(a, &to, run, (N - 1) * SIZE + TAIL, SIZE);
    send_now(a, &to, last, sizeof last);
    for (int i = 0; i < 100 && s.count < N + 3; i++) take(b, fd, 64, &s);
    assert_int_equal(s.count, N + 3);
    assert_int_equal(s.bytes, (N - 1) * SIZE + TAIL + 96 * 2 + 40);
    for (int i = 0; i < N + 3; i++) assert_int_equal(s.numbers[i], (uint8_t)(i + 1));
}

/* Kernels and devices without either offload get the same datagrams. */
static void test_runs(void **state)
{
    if (!isolated) skip();
    for (int offloads = 0; offloads < 4; offloads++) {
        struct tn_udp *a, *b;
        assert_int_equal(tn_udp_open(0, &a), 0);
        assert_int_equal(tn_udp_open(0, &b), 0);
        if (!(offloads & 1)) a->sender.gso = false;
        if (!(offloads & 2)) {
            b->gro = false;
            assert_true(has_option(b->sender.fd4, UDP_GRO, 0) && has_option(b->sender.fd6, UDP_GRO, 0));
        }
        through(a, b, 4);
        through(a, b, 6);
        tn_udp_close(a);
        tn_udp_close(b);
    }
}

/* What neighbours in the outbox become. */
static void test_outbox(void **state)
{
    struct tn_udp *a, *b;
    struct seen s = {0};
    uint8_t bytes[100] = {9};
    if (!isolated) skip();
    assert_int_equal(tn_udp_open(0, &a), 0);
    assert_int_equal(tn_udp_open(0, &b), 0);
    struct tn_addrport to = {.ip = tn_ip4(127, 0, 0, 1), .port = tn_udp_port4(b)};
    struct tn_addrport to6 = {.ip = {.family = 6, .b = {[15] = 1}}, .port = tn_udp_port6(b)};
    size_t sizes[] = {96, 96, 96, 60, 96, 100, 100};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) tn_udp_send(a, &to, bytes, sizes[i]);
    if (a->sender.gso) {
        assert_int_equal(a->out->nruns, 3); /* 96 96 96 60 | 96 | 100 100 */
        assert_int_equal(a->out->run[0].count, 4);
        assert_true(a->out->run[0].closed);
    }
    tn_udp_send(a, &to6, bytes, 7);
    tn_udp_send(a, &to, bytes, 8);
    tn_udp_flush(a);
    assert_int_equal(a->out->nruns, 0);
    take(b, tn_udp_fd4(b), 100, &s);
    assert_int_equal(s.count, 8);
    assert_int_equal(s.bytes, 96 * 4 + 60 + 200 + 8);
    assert_int_equal(take(b, tn_udp_fd6(b), 100, &s), 1);
    s = (struct seen){0};
    for (int i = 0; i < 3000; i++) { /* more than it holds: it leaves early */
        tn_udp_send(a, i % 2 ? &to : &to6, bytes, 30);
        if (i % 20 == 0) take(b, tn_udp_fd4(b), 1000, &s), take(b, tn_udp_fd6(b), 1000, &s);
    }
    tn_udp_flush(a);
    take(b, tn_udp_fd4(b), 4000, &s);
    take(b, tn_udp_fd6(b), 4000, &s);
    assert_int_equal(s.count, 3000);
    tn_udp_close(a);
    tn_udp_close(b);
}

/* A refusal at run time: the same bytes singly, and EIO is remembered. */
static void test_refusals(void **state)
{
    struct tn_udp_sender u = {.gso = true};
    int waits = 0;
    assert_int_equal(send_failed(&u, -1, true, EINVAL, &waits), SINGLY);
    assert_true(u.gso);
    assert_int_equal(send_failed(&u, -1, false, EIO, &waits), UNREACHABLE);
    assert_true(u.gso);
    assert_int_equal(send_failed(&u, -1, true, EIO, &waits), SINGLY);
    assert_false(u.gso);
    assert_int_equal(send_failed(&u, -1, true, ENETUNREACH, &waits), UNREACHABLE);
    assert_int_equal(send_failed(&u, -1, true, EAGAIN, &waits), LOST);
    assert_int_equal(send_failed(&u, -1, true, EINTR, &waits), AGAIN);
}

/* Pages that traffic filled go back when it is quiet, and what comes later finds them again. */
static void test_memory_returns(void **state)
{
    struct tn_udp *a, *b;
    if (!isolated) skip();
    assert_int_equal(tn_udp_open(0, &a), 0);
    assert_int_equal(tn_udp_open(0, &b), 0);
    assert_true(tn_udp_next_deadline(b) == TN_NEVER);
    through(a, b, 4);
    assert_true(tn_udp_next_deadline(b) == 1 + QUIET_US);
    tn_udp_timeout(b, 2);
    assert_true(tn_udp_next_deadline(b) == 1 + QUIET_US);
    tn_udp_timeout(b, 1 + QUIET_US); /* it was busy */
    assert_true(tn_udp_next_deadline(b) == 1 + 2 * QUIET_US);
    tn_udp_timeout(b, 1 + 2 * QUIET_US);
    assert_true(tn_udp_next_deadline(b) == TN_NEVER);
    unsigned char resident[GRO_SLOTS * GRO_SLOT / 4096];
    assert_int_equal(mincore(b->in->bytes, BYTES, resident), 0);
    for (size_t i = 0; i < sizeof resident; i++) assert_false(resident[i] & 1);
    through(a, b, 4);
    tn_udp_close(a);
    tn_udp_close(b);
}

static void on_failed(void *ctx, const struct tn_addrport *to, int err)
{
    int *count = ctx;
    assert_int_equal(to->ip.b[0], 192);
    assert_int_equal(err, -ENETUNREACH);
    (*count)++;
}

static void test_errors_are_losses(void **state)
{
    struct tn_udp *a;
    int failed = 0;
    uint8_t run[300] = {0};
    struct seen s = {0};
    if (!isolated) skip();
    assert_int_equal(tn_udp_open(0, &a), 0);
    struct tn_addrport nobody = {.ip = tn_ip4(127, 0, 0, 1), .port = 9}, none = {.port = 9};
    struct tn_addrport unreachable = {.ip = tn_ip4(192, 0, 2, 1), .port = 9};
    for (int i = 0; i < 3; i++) send_now(a, &nobody, (const uint8_t *)"x", 1); /* refused by ICMP */
    tn_udp_on_failed(a, on_failed, &failed);
    send_now(a, &unreachable, (const uint8_t *)"x", 1);
    assert_int_equal(failed, 1);
    tn_udp_send_run(a, &unreachable, run, sizeof run, 100);
    assert_int_equal(failed, 2);
    send_now(a, &none, (const uint8_t *)"x", 1);
    assert_int_equal(take(a, tn_udp_fd4(a), 10, &s), 0);
    struct tn_addrport self = {.ip = tn_ip4(127, 0, 0, 1), .port = tn_udp_port4(a)};
    send_now(a, &self, (const uint8_t *)"y", 1);
    for (int i = 0; i < 5 && s.count == 0; i++) take(a, tn_udp_fd4(a), 10, &s);
    assert_int_equal(s.count, 1); /* the socket works on */
    tn_udp_close(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_families_one_port),
        cmocka_unit_test(test_send_and_receive),
        cmocka_unit_test(test_runs),
        cmocka_unit_test(test_outbox),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_memory_returns),
        cmocka_unit_test(test_errors_are_losses),
    };
    return cmocka_run_group_tests(tests, isolate, NULL);
}
