/* What of the kernel's messages counts as a change of the network, and what follows from one. */
#include "node/netwatch.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static struct fake {
    unsigned locals, changes, reconnects, portmaps;
} fake;

void tn_path_set_local(struct tn_path *p, const struct tn_ip *a, size_t n, uint16_t port4, uint16_t port6, uint64_t now_us)
{
    fake.locals++;
    assert_true(n <= ADDRS_MAX);
}
void tn_path_link_changed(struct tn_path *p, uint64_t now_us) { fake.changes++; }
void tn_control_reconnect(struct tn_control *c, uint64_t now_us) { fake.reconnects++; }
void tn_portmap_network_changed(struct tn_node *n, uint64_t now_us) { fake.portmaps++; }
bool tn_tunmode_is_device(const struct tn_node *n, const char *ifname) { return false; }
uint16_t tn_udp_port4(const struct tn_udp *u) { return 0; }
uint16_t tn_udp_port6(const struct tn_udp *u) { return 0; }

struct message {
    struct nlmsghdr h;
    struct rtmsg r;
};

static struct message route(uint16_t type, uint8_t table, uint8_t dst_len, uint8_t family)
{
    return (struct message){.h = {.nlmsg_len = sizeof(struct message), .nlmsg_type = type},
                            .r = {.rtm_family = family, .rtm_dst_len = dst_len, .rtm_table = table}};
}

static void test_what_counts(void **state)
{
    const struct {
        struct message m;
        size_t len;
        bool any, route;
    } table[] = {
        {route(RTM_NEWROUTE, RT_TABLE_MAIN, 0, AF_INET), 0, true, true},
        {route(RTM_DELROUTE, RT_TABLE_MAIN, 0, AF_INET6), 0, true, true},
        {route(RTM_NEWROUTE, RT_TABLE_MAIN, 24, AF_INET), 0, false, false},  /* a network that came */
        {route(RTM_NEWROUTE, 52, 0, AF_INET), 0, false, false},              /* a table of our own */
        {route(RTM_NEWROUTE, RT_TABLE_LOCAL, 0, AF_INET), 0, false, false},
        {route(RTM_NEWROUTE, RT_TABLE_MAIN, 0, AF_MPLS), 0, false, false},
        {route(RTM_NEWADDR, 0, 0, 0), 0, true, false},
        {route(RTM_DELADDR, 0, 0, 0), 0, true, false},
        {route(RTM_NEWLINK, 0, 0, 0), 0, true, false},
        {route(RTM_NEWNEIGH, 0, 0, 0), 0, false, false},
        {route(RTM_NEWADDR, 0, 0, 0), sizeof(struct nlmsghdr) - 1, false, false}, /* cut off */
        {route(RTM_NEWADDR, 0, 0, 0), sizeof(struct message) - 1, false, false},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct tn_netwatch l = {0};
        size_t len = table[i].len ? table[i].len : sizeof table[i].m;
        uint8_t *exact = test_malloc(len);
        memcpy(exact, &table[i].m, len);
        bool any = read_messages(&l, exact, len);
        test_free(exact);
        if (any != table[i].any || l.route_changed != table[i].route) fail_msg("row %zu", i);
    }
    struct message shorter = route(RTM_NEWROUTE, RT_TABLE_MAIN, 0, AF_INET); /* too short for a route */
    struct tn_netwatch l = {0};
    shorter.h.nlmsg_len = sizeof(struct nlmsghdr) + 2;
    assert_false(read_messages(&l, (const uint8_t *)&shorter, sizeof shorter));
    assert_false(l.route_changed);
}

static void test_bursts_are_one_change(void **state)
{
    int fds[2];
    struct tn_netwatch l = {0};
    struct tn_node *n = test_calloc(1, sizeof *n);
    uv_poll_t poll = {.data = n};
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, fds), 0);
    l.fd = fds[0];
    n->netwatch = &l;
    l.count = collect(n, l.addrs);
    struct message m = route(RTM_NEWADDR, 0, 0, 0), r = route(RTM_DELROUTE, RT_TABLE_MAIN, 0, AF_INET);
    assert_true(tn_netwatch_next_deadline(n) == TN_NEVER);
    for (int i = 0; i < 10; i++) assert_int_equal(send(fds[1], &m, sizeof m, 0), sizeof m);
    on_readable(&poll, 0, UV_READABLE);
    uint64_t due_us = tn_netwatch_next_deadline(n), since_us = l.since_us;
    assert_true(due_us == since_us + QUIET_US);
    tn_netwatch_timeout(n, due_us - 1);
    assert_true(tn_netwatch_next_deadline(n) == due_us);
    tn_netwatch_timeout(n, due_us); /* the same addresses as before: nothing has changed */
    assert_true(tn_netwatch_next_deadline(n) == TN_NEVER);
    assert_int_equal(fake.changes + fake.reconnects + fake.portmaps, 0);
    assert_int_equal(send(fds[1], &r, sizeof r, 0), sizeof r);
    on_readable(&poll, 0, UV_READABLE);
    tn_netwatch_timeout(n, tn_netwatch_next_deadline(n)); /* another default route */
    assert_int_equal(fake.changes, 1);
    assert_int_equal(fake.reconnects, 1);
    assert_int_equal(fake.portmaps, 1);
    assert_int_equal(send(fds[1], &m, sizeof m, 0), sizeof m);
    on_readable(&poll, 0, UV_READABLE);
    l.since_us -= NOISE_MAX_US; /* noise without end does not put it off for ever */
    assert_int_equal(send(fds[1], &m, sizeof m, 0), sizeof m);
    on_readable(&poll, 0, UV_READABLE);
    assert_true(l.due_us == l.since_us + NOISE_MAX_US);
    l.addrs[l.count++] = tn_ip4(192, 0, 2, 200); /* an address that is gone now */
    tn_netwatch_timeout(n, l.due_us);
    assert_int_equal(fake.changes, 2);
    assert_int_equal(fake.reconnects, 2);
    assert_int_equal(fake.locals, 2);
    close(fds[0]);
    close(fds[1]);
    test_free(n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_what_counts), cmocka_unit_test(test_bursts_are_one_change)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
