/* Datagrams many per message, against the kernel, in a network namespace of the test's own that has nothing but loopback. */
#include "../../../src/egress/dgramsock.c"
#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>
#include "../loopback.h"
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* With an MTU that datagrams of the tests exceed. */
static int isolate_small(void **state)
{
    struct ifreq ifr = {.ifr_name = "lo", .ifr_mtu = 1500};
    isolate(state);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (isolated) assert_int_equal(ioctl(fd, SIOCSIFMTU, &ifr), 0);
    close(fd);
    return 0;
}

/* A plain socket as the other side: it sees datagrams one by one. */
static int other_side(uint8_t family, struct tn_addrport *at)
{
    struct tn_addrport any = {{.family = family}, 0};
    struct sockaddr_storage sa;
    int fd = socket(family == 4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (family == 4) any.ip = tn_ip4(127, 0, 0, 1);
    else any.ip.b[15] = 1;
    socklen_t len = tn_addrport_to_sockaddr(&any, &sa);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, len), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
    assert_int_equal(tn_addrport_from_sockaddr((struct sockaddr *)&sa, at), 0);
    return fd;
}

static uint8_t bytes[TN_DGRAM_WRITES][4096];

static struct tn_dgram_item item(const struct tn_addrport *to, int number, size_t head_len, size_t len)
{
    memset(bytes[number], 'a' + number, sizeof bytes[number]);
    return (struct tn_dgram_item){.to = *to, .head = (const uint8_t *)"0123456789", .head_len = head_len,
                                  .body = bytes[number], .len = len};
}

static void expect(int fd, int number, size_t head_len, size_t len)
{
    uint8_t got[8192];
    struct pollfd p = {fd, POLLIN, 0};
    assert_int_equal(poll(&p, 1, 2000), 1);
    assert_int_equal(recv(fd, got, sizeof got, 0), head_len + len);
    assert_memory_equal(got, "0123456789", head_len);
    for (size_t i = 0; i < len; i++) assert_int_equal(got[head_len + i], 'a' + number);
}

static void expect_none(int fd)
{
    struct pollfd p = {fd, POLLIN, 0};
    assert_int_equal(poll(&p, 1, 0), 0);
}

static void what_is_joined(void **state)
{
    struct tn_addrport a = {tn_ip4(192, 0, 2, 1), 1}, b = {tn_ip4(192, 0, 2, 1), 2};
    struct tn_dgram_item items[] = {item(&a, 0, 0, 100), item(&a, 1, 4, 96), item(&a, 2, 0, 50), item(&a, 3, 0, 50),
                                    item(&b, 4, 0, 50), item(&b, 5, 0, 51), item(&b, 6, 0, 0), item(&b, 7, 0, 0)};
    int want[] = {3, 2, 2, 1, 1, 1, 1, 1}; /* a shorter one is the last; longer ones, empty ones and others' do not join */
    for (int i = 0; i < 8; i++) assert_int_equal(joined(items + i, 8 - i), want[i]);
    struct tn_dgram_item large[TN_DGRAM_WRITES];
    for (int i = 0; i < TN_DGRAM_WRITES; i++) large[i] = item(&a, i, 0, 4000);
    assert_int_equal(joined(large, TN_DGRAM_WRITES), TN_DGRAM_MAX / 4000);
}

static void sent_together_they_arrive_apart(void **state)
{
    if (!isolated) skip();
    for (uint8_t family = 4; family <= 6; family += 2) {
        struct tn_addrport at, elsewhere;
        int there = other_side(family, &at), beside = other_side(family, &elsewhere), err;
        int fd = tn_dgramsock_udp(family, 0, 0);
        assert_true(fd >= 0);
        struct tn_dgram_item items[] = {item(&at, 0, 10, 90), item(&at, 1, 10, 90), item(&at, 2, 10, 20),
                                        item(&elsewhere, 3, 0, 100), item(&at, 4, 0, 0), item(&at, 5, 0, 1)};
        assert_int_equal(tn_dgramsock_write(fd, items, 6, true, &err), 6);
        assert_int_equal(err, 0);
        expect(there, 0, 10, 90);
        expect(there, 1, 10, 90);
        expect(there, 2, 10, 20);
        expect(there, 4, 0, 0);
        expect(there, 5, 0, 1);
        expect(beside, 3, 0, 100);
        expect_none(there);
        close(there);
        close(beside);
        tn_dgramsock_close(fd);
    }
}

/* Each larger than the link's MTU: together the kernel refuses them, alone it sends them in fragments. */
static void too_large_to_be_joined(void **state)
{
    if (!isolated) skip();
    struct tn_addrport at;
    int there = other_side(4, &at), fd = tn_dgramsock_udp(4, 0, 0), err;
    struct tn_dgram_item items[] = {item(&at, 0, 0, 3000), item(&at, 1, 0, 3000), item(&at, 2, 0, 3000)};
    assert_int_equal(tn_dgramsock_write(fd, items, 3, true, &err), 3);
    assert_int_equal(err, 0);
    for (int i = 0; i < 3; i++) expect(there, i, 0, 3000);
    close(there);
    tn_dgramsock_close(fd);
}

/* What the kernel hands over as one message is told apart again. */
static void read_in_runs(void **state)
{
    if (!isolated) skip();
    struct tn_dgram_in *in = malloc(sizeof *in);
    struct tn_addrport at = {tn_ip4(127, 0, 0, 1), 0};
    struct sockaddr_storage sa;
    socklen_t len = sizeof sa;
    int to = tn_dgramsock_udp(4, 20000, 0), from = tn_dgramsock_udp(4, 0, 0), err, datagrams = 0;
    assert_non_null(in);
    assert_int_equal(getsockname(to, (struct sockaddr *)&sa, &len), 0);
    at.port = ntohs(((struct sockaddr_in *)&sa)->sin_port);
    struct tn_dgram_item items[] = {item(&at, 0, 0, 700), item(&at, 1, 0, 700), item(&at, 2, 0, 300), item(&at, 3, 0, 0)};
    assert_int_equal(tn_dgramsock_write(from, items, 4, true, &err), 4);
    int n = tn_dgramsock_read(to, in);
    assert_in_range(n, 2, 4); /* 2 where the kernel has UDP_GRO */
    for (int i = 0; i < n; i++) {
        size_t offset = 0;
        do {
            size_t part = in->got[i].len - offset < in->got[i].segment ? in->got[i].len - offset : in->got[i].segment;
            assert_int_equal(part, items[datagrams].len);
            if (part) assert_int_equal(in->bytes[i][offset], 'a' + datagrams);
            datagrams++;
            offset += part;
        } while (offset < in->got[i].len);
    }
    assert_int_equal(datagrams, 4);
    assert_int_equal(tn_dgramsock_read(to, in), TN_E_AGAIN);
    tn_dgramsock_close(to);
    tn_dgramsock_close(from);
    free(in);
}

static uint32_t mark_of(int fd)
{
    uint32_t mark = 0;
    socklen_t len = sizeof mark;
    assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_MARK, &mark, &len), 0);
    return mark;
}

/* From where it was said, or not at all. The TCP socket binds by the same function. */
static void from_where(void **state)
{
    struct tn_addrport to, own;
    struct sockaddr_storage sa;
    struct tn_proxy_bind from = {.from = {tn_ip4(127, 0, 0, 9)}}, lo = {.device = "lo"}, gone = {.device = "nosuch0"};
    if (!isolated) skip();
    int peer = other_side(4, &to), peer6;
    for (int tcp = 0; tcp < 2; tcp++) {
        socklen_t len = sizeof sa;
        int fd = tcp ? tn_socket_connect(&to, 0, &from) : tn_dgramsock_connected(&to, 0, &from);
        assert_true(fd >= 0);
        assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
        assert_int_equal(tn_addrport_from_sockaddr((struct sockaddr *)&sa, &own), 0);
        assert_true(tn_ip_eq(&own.ip, &from.from[0]));
        close(fd);
        fd = tcp ? tn_socket_connect(&to, 0, &lo) : tn_dgramsock_connected(&to, 0, &lo);
        assert_true(fd >= 0);
        close(fd);
        assert_int_equal(tcp ? tn_socket_connect(&to, 0, &gone) : tn_dgramsock_connected(&to, 0, &gone),
                         tcp ? TN_E_UNSUPPORTED : -ENODEV);
        from.mark = 0x700;
        fd = tcp ? tn_socket_connect(&to, 1, &from) : tn_dgramsock_connected(&to, 1, &from);
        assert_int_equal(mark_of(fd), 0x701); /* the node's own beside it */
        close(fd);
        from.mark = 0;
        from.from[0] = tn_ip4(10, 9, 8, 7);
        assert_int_equal(tcp ? tn_socket_connect(&to, 0, &from) : tn_dgramsock_connected(&to, 0, &from),
                         tcp ? TN_E_UNSUPPORTED : -EADDRNOTAVAIL);
        from.from[0] = tn_ip4(127, 0, 0, 9);
    }
    close(peer);
    peer6 = other_side(6, &to); /* only an IPv4 address was said */
    assert_int_equal(tn_dgramsock_connected(&to, 0, &from), -EAFNOSUPPORT);
    assert_int_equal(tn_socket_connect(&to, 0, &from), TN_E_UNSUPPORTED);
    close(peer6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_joined),
        cmocka_unit_test(sent_together_they_arrive_apart),
        cmocka_unit_test(too_large_to_be_joined),
        cmocka_unit_test(read_in_runs),
        cmocka_unit_test(from_where),
    };
    return cmocka_run_group_tests(tests, isolate_small, NULL);
}
