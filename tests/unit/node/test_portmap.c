/* When a gateway is asked for a port, and what is told of it. The attempts, the routes and our address are made up here. */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

static char routes[512];
static struct sockaddr_storage local_ss;
static FILE *test_fopen(void) { return fmemopen(routes, strlen(routes), "r"); }
static int test_getsockname(void *out, socklen_t *len)
{
    memcpy(out, &local_ss, *len < sizeof local_ss ? *len : sizeof local_ss);
    return 0;
}

#include <unistd.h>
#define fopen(path, mode) test_fopen()
#define connect(fd, addr, len) 0
#define getsockname(fd, out, len) test_getsockname(out, len)
#include "node/portmap.c"
#undef fopen

#include <setjmp.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <cmocka.h>

/* ---- what is around it ---- */

struct tn_portmap_try {
    int fd;
    bool answered;
    struct tn_portmap_question q;
    struct tn_portmap_answer a;
};
static struct tn_portmap_try attempt;
static unsigned begun, ended, released, told, marked;
static struct tn_path_portmap said;

int tn_portmap_try_start(const struct tn_portmap_question *q, struct tn_portmap_try **out)
{
    attempt = (struct tn_portmap_try){.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), .q = *q};
    *out = &attempt;
    begun++;
    return 0;
}
int tn_portmap_try_fd(const struct tn_portmap_try *t) { return t->fd; }
bool tn_portmap_try_answer(const struct tn_portmap_try *t, struct tn_portmap_answer *out)
{
    *out = t->a;
    return t->answered;
}
void tn_portmap_try_free(struct tn_portmap_try *t)
{
    if (!t) return;
    close(t->fd);
    ended++;
}
void tn_portmap_release(const struct tn_portmap_question *q, const struct tn_portmap_answer *a) { released += a->kind != 0; }
uint16_t tn_udp_port4(const struct tn_udp *u) { return 41641; }
void tn_path_set_portmap(struct tn_path *p, const struct tn_path_portmap *pm, uint64_t now_us)
{
    said = *pm;
    told++;
}
uint32_t tn_tunmode_mark(const struct tn_node *n) { return n->config.tun ? 7 : 0; }
int tn_tunmode_mark_socket(const struct tn_node *n, int fd)
{
    marked += n->config.tun != NULL;
    return 0;
}

/* ---- the bench ---- */

static struct tn_node n;
static uint64_t now_us;
static char tun_name[] = "t0";

static void set_gateway(const char *hex)
{
    snprintf(routes, sizeof routes, "Iface\tDestination\tGateway\n%s%s%s", hex ? "eth0\t00000000\t" : "", hex ? hex : "",
             hex ? "\t0003\t0\t0\t100\t00000000\t0\t0\t0\n" : "eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n");
}

static void set_local(uint8_t a, uint8_t b, uint8_t c, uint8_t d)
{
    struct tn_addrport ap = {tn_ip4(a, b, c, d), 1};
    (void)tn_addrport_to_sockaddr(&ap, &local_ss);
}

static int setup(void **state)
{
    begun = ended = released = told = marked = 0;
    memset(&n, 0, sizeof n);
    n.config.port_mapping = true;
    n.udp = (struct tn_udp *)&n;
    n.rng = tn_rng_system();
    assert_int_equal(uv_loop_init(&n.loop), 0);
    set_gateway("0101A8C0");
    set_local(192, 168, 1, 5);
    assert_int_equal(tn_portmap_new(&n), 0);
    now_us = tn_portmap_next_deadline(&n);
    return 0;
}

static int teardown(void **state)
{
    tn_portmap_free(&n);
    uv_run(&n.loop, UV_RUN_DEFAULT); /* what was closed */
    assert_int_equal(uv_loop_close(&n.loop), 0);
    assert_int_equal(begun, ended);
    return 0;
}

/* How many seconds until it is due again. */
static uint64_t due_s(void) { return (tn_portmap_next_deadline(&n) - tn_node_now() + 500000) / 1000000; }

static void run(void)
{
    now_us = tn_portmap_next_deadline(&n);
    tn_portmap_timeout(&n, now_us);
}

static void answer(enum tn_portmap_kind kind, uint16_t port, uint32_t lifetime_s)
{
    uint64_t one = 1;
    attempt.a = (struct tn_portmap_answer){.kind = kind, .lifetime_s = lifetime_s};
    if (kind) attempt.a.outside = (struct tn_addrport){tn_ip4(203, 0, 113, 7), port};
    attempt.answered = true;
    assert_int_equal(write(attempt.fd, &one, sizeof one), sizeof one);
    uv_run(&n.loop, UV_RUN_NOWAIT);
    assert_null(n.portmap->attempt);
}

static void asked_told_and_renewed(void **state)
{
    run();
    assert_int_equal(begun, 1);
    assert_int_equal(attempt.q.port, 41641);
    assert_int_equal(attempt.q.gateway.b[3], 1);
    assert_int_equal(attempt.q.local.b[3], 5);
    assert_int_equal(attempt.q.first, TN_PORTMAP_NONE);
    assert_true(tn_portmap_next_deadline(&n) == TN_NEVER); /* one at a time */
    tn_portmap_timeout(&n, now_us + 1);
    assert_int_equal(begun, 1);
    answer(TN_PORTMAP_PMP, 4242, 7200);
    assert_int_equal(told, 1);
    assert_true(said.pmp && !said.pcp && !said.upnp && said.outside.port == 4242);
    assert_string_equal(tn_portmap_kind_name(&n), "NAT-PMP");
    assert_int_equal(due_s(), 3600); /* half of its time */
    run();
    assert_int_equal(attempt.q.first, TN_PORTMAP_PMP);
    assert_int_equal(attempt.q.wanted, 4242);
    answer(TN_PORTMAP_PMP, 4242, 30);
    assert_int_equal(told, 1); /* nothing new */
    assert_int_equal(due_s(), RENEW_MIN_S);
    run();
    answer(TN_PORTMAP_NONE, 0, 0);
    assert_int_equal(told, 2);
    assert_int_equal(said.outside.ip.family, 0);
    assert_int_equal(due_s(), 600);
}

static void not_asked_in_vain(void **state)
{
    set_gateway(NULL);
    run();
    assert_int_equal(begun, 0);
    set_gateway("0101A8C0");
    set_local(203, 0, 113, 9); /* public: nothing to map */
    run();
    assert_int_equal(begun, 0);
    set_local(10, 0, 0, 9);
    run();
    assert_int_equal(begun, 1);
    answer(TN_PORTMAP_NONE, 0, 0);
    assert_int_equal(told, 0);
}

static void another_network(void **state)
{
    run();
    answer(TN_PORTMAP_PCP, 4242, 7200);
    set_gateway("FE01A8C0");
    tn_portmap_network_changed(&n, tn_node_now());
    assert_int_equal(due_s(), 1);
    run();
    assert_int_equal(told, 2); /* gone, before anybody is asked */
    assert_int_equal(said.outside.ip.family, 0);
    assert_int_equal(attempt.q.first, TN_PORTMAP_NONE);
    assert_int_equal(attempt.q.gateway.b[3], 254);
    tn_portmap_network_changed(&n, tn_node_now()); /* and once more, while that one is asked */
    answer(TN_PORTMAP_UPNP, 4243, 7200);
    assert_true(said.upnp);
    assert_int_equal(due_s(), 0);
}

static void let_go_at_the_end(void **state)
{
    run();
    answer(TN_PORTMAP_PCP, 4242, 7200);
    run(); /* one under way is ended too */
    tn_portmap_free(&n);
    assert_int_equal(released, 1);
}

static void marked_in_tun_mode(void **state)
{
    run();
    assert_true(attempt.q.mark == 0 && marked == 0);
    tn_portmap_free(&n);
    n.config.tun = tun_name;
    assert_int_equal(tn_portmap_new(&n), 0);
    run();
    assert_true(attempt.q.mark == 7 && marked == 1 && !attempt.q.tunneled);
    tn_portmap_free(&n);
    n.config.exit_node = tun_name;
    assert_int_equal(tn_portmap_new(&n), 0);
    run();
    assert_true(attempt.q.tunneled);
    tn_portmap_free(&n);
    n.config.exit_node_allow_lan = true;
    assert_int_equal(tn_portmap_new(&n), 0);
    run();
    assert_false(attempt.q.tunneled);
}

static void off(void **state)
{
    tn_portmap_free(&n);
    n.config.port_mapping = false;
    assert_int_equal(tn_portmap_new(&n), 0);
    assert_null(n.portmap);
    assert_true(tn_portmap_next_deadline(&n) == TN_NEVER);
    tn_portmap_timeout(&n, now_us);
    tn_portmap_network_changed(&n, now_us);
    assert_string_equal(tn_portmap_kind_name(&n), "");
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(asked_told_and_renewed), T(not_asked_in_vain), T(another_network), T(let_go_at_the_end),
                                       T(marked_in_tun_mode),     T(off)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
