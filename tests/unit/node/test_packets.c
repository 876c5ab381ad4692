/* What may come in from a peer, by the sources it claims: a node with a real filter, and scripted rooms around it. */
#include "node/packets.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

/* ---- the rooms around ---- */

static struct fake {
    size_t to_kernel;
    bool names;
    unsigned stack_in, tsmp, refused, wg_sent;
    void (*on_input)(struct tn_node *n);
    struct tn_node *node;
    uint8_t last[64];
} fake;

void tn_stack_input(struct tn_stack *st, uint8_t *packet, size_t len, uint64_t now_us)
{
    fake.stack_in++;
    memcpy(fake.last, packet, len < sizeof fake.last ? len : sizeof fake.last);
    if (fake.on_input) fake.on_input(fake.node);
}
bool tn_resolver_stands_for(const struct tn_node *n, const struct tn_ip *dst) { return fake.names; }
void tn_stack_input_run(struct tn_stack *st, const struct iovec *packets, size_t n, uint64_t now_us)
{
    for (size_t i = 0; i < n; i++) tn_stack_input(st, packets[i].iov_base, packets[i].iov_len, now_us);
}
void tn_stack_expect(struct tn_stack *st, const struct iovec *packets, size_t n) {}
void tn_stack_batch_begin(struct tn_stack *st) {}
void tn_stack_batch_end(struct tn_stack *st, uint64_t now_us) {}
void tn_pings_tsmp(struct tn_node *n, struct tn_npeer *peer, const struct tn_ippkt *k, uint64_t now_us) { fake.tsmp++; }
bool tn_tunmode_deliver(struct tn_node *n, const uint8_t *packet, const struct tn_ippkt *k) { return false; }
bool tn_tunmode_from_service(struct tn_node *n, const uint8_t *packet, size_t len)
{
    fake.to_kernel++;
    return packet[12] == 100 && packet[13] == 100;
}
void tn_tunmode_deliver_rest(struct tn_node *n, const struct iovec *packets, size_t count) {}
void tn_forward_refuse(struct tn_forward *f, const uint8_t *packet, size_t len, uint64_t now_us) { fake.refused++; }
int tn_wg_send(struct tn_wg *wg, struct tn_wg_peer *p, uint8_t const *packet, size_t len, uint64_t now_us)
{
    fake.wg_sent++;
    return 0;
}
struct tn_wg_peer *tn_wg_route(struct tn_wg *wg, const struct tn_ip *dst) { return (struct tn_wg_peer *)&fake; }
struct tn_npeer *tn_node_peer_by_addr(const struct tn_node *n, const struct tn_ip *addr)
{
    return tn_route_find(n->addresses, addr, NULL);
}
const struct tn_netnode *tn_node_netnode(const struct tn_node *n, const struct tn_npeer *p)
{
    static const struct tn_netnode node = {.id = 1};
    return &node;
}
bool tn_netnode_has_cap(const struct tn_netnode *node, const char *cap) { return false; }

/* Not reached from here. */
void tn_checkup_due(struct tn_node *n) {}
int tn_wg_input(struct tn_wg *wg, uint8_t *msg, size_t len, const struct tn_wg_from *from, uint64_t now_us) { return 0; }
void tn_wg_input_run(struct tn_wg *wg, uint8_t *run, size_t len, size_t segment, const struct tn_wg_from *from, uint64_t now_us) {}
int tn_wg_send_train(struct tn_wg *wg, struct tn_wg_peer *p, const struct tn_wg_train *t, uint64_t now_us)
{
    fake.wg_sent += t->count;
    return 0;
}
void tn_path_send_run(struct tn_path *p, struct tn_path_peer *peer, const uint8_t *run, size_t len, size_t segment,
                      uint64_t now_us) {}
bool tn_udp_seal_run(struct tn_udp *u, const struct tn_addrport *to, const struct tn_aead_run *run, uint64_t now_us) { return false; }
uint8_t *tn_udp_train_buffer(struct tn_udp *u) { return NULL; }
bool tn_path_send_unsealed(struct tn_path *p, struct tn_path_peer *peer, const struct tn_aead_run *run, uint64_t now_us) { return false; }
void tn_openers_input(struct tn_node *n, uint8_t *run, size_t len, size_t segment, const struct tn_wg_from *from, uint64_t now_us) {}
void tn_udp_send_run(struct tn_udp *u, const struct tn_addrport *to, const uint8_t *run, size_t len, size_t segment) {}
void tn_path_send(struct tn_path *p, struct tn_path_peer *peer, const uint8_t *bytes, size_t len, uint64_t now_us) {}
void tn_path_reply(struct tn_path *p, const struct tn_path_source *to, const uint8_t *bytes, size_t len, uint64_t now_us) {}
void *tn_path_peer_arg(const struct tn_path_peer *peer) { return NULL; }
void tn_stack_hasten(struct tn_stack *st, bool (*match)(void *ctx, const struct tn_ip *remote), void *ctx, uint64_t now_us) {}
void tn_udp_send(struct tn_udp *u, const struct tn_addrport *to, const uint8_t *datagram, size_t len) {}
void tn_control_set_netinfo(struct tn_control *c, const struct tn_control_netinfo *ni, uint64_t now_us) {}
void tn_control_set_endpoints(struct tn_control *c, const struct tn_control_endpoint *e, size_t n, uint64_t now_us) {}
void tn_node_check_usable(struct tn_node *n) {}
enum tn_syn_verdict tn_forward_syn(void *f, const struct tn_syn *syn, uint64_t now_us) { return TN_SYN_DROP; }
bool tn_forward_tcp(void *f, const struct tn_addrport *src, const struct tn_addrport *dst, bool rst, uint64_t now_us)
{
    return false;
}
void tn_forward_udp(void *f, const struct tn_addrport *src, const struct tn_addrport *dst, const uint8_t *packet, size_t len,
                    const uint8_t *payload, size_t payload_len, uint64_t now_us) {}
void tn_forward_other(void *f, uint8_t proto, const uint8_t *packet, size_t len, uint64_t now_us) {}

/* ---- the bench ---- */

static const struct tn_ip own = {4, {100, 64, 0, 1}}, exit_ip = {4, {100, 64, 0, 2}}, other_ip = {4, {100, 64, 0, 3}};

static struct bench {
    struct tn_node node;
    struct tn_npeer exit, other;
} b;

static void set_rules(const char *text)
{
    json_t *rules = json_loads(text, 0, NULL);
    assert_non_null(rules);
    assert_int_equal(tn_filter_set_rules(b.node.filter, rules), 0);
    json_decref(rules);
}

static int setup(void **state)
{
    static const struct tn_prefix routes[] = {{.ip = {.family = 4}}};
    fake = (struct fake){.node = &b.node};
    b = (struct bench){.exit = {.id = 2}, .other = {.id = 3}};
    b.node.own[0] = own;
    b.node.nown = 1;
    b.node.config.advertise_exit_node = true;
    tn_list_init(&b.node.loopback);
    b.node.addresses = tn_route_new();
    b.node.filter = tn_filter_new();
    if (tn_filter_set_local(b.node.filter, &own, 1, routes, 1, NULL, 0) != 0) return -1;
    set_rules("[{\"SrcIPs\":[\"*\"],\"DstPorts\":[{\"IP\":\"*\",\"Ports\":{\"First\":0,\"Last\":65535}}]}]");
    struct tn_prefix e = {exit_ip, 32}, o = {other_ip, 32};
    return tn_route_set(b.node.addresses, &e, &b.exit) || tn_route_set(b.node.addresses, &o, &b.other);
}

static int teardown(void **state)
{
    tn_node_drop_loopback(&b.node);
    tn_route_free(b.node.addresses);
    tn_filter_free(b.node.filter);
    return 0;
}

/* A packet with 20 bytes behind the header: of TCP a SYN to port 80. */
static size_t make(uint8_t *p, struct tn_ip src, struct tn_ip dst, uint8_t proto)
{
    size_t h = tn_ip_header_put(p, &src, &dst, proto, 20, 64, 0);
    memset(p + h, 0, 20);
    p[h + 3] = 80;
    p[h + 12] = 0x50;
    p[h + 13] = 2;
    return h + 20;
}

static void from_peer(struct tn_npeer *peer, struct tn_ip src, struct tn_ip dst, uint8_t proto)
{
    uint8_t p[64];
    size_t n = make(p, src, dst, proto);
    wg_deliver(&b.node, NULL, peer, p, n, 1);
}

/* ---- tests ---- */

static const struct tn_ip web = {4, {45, 45, 45, 45}}, lan = {4, {192, 168, 1, 1}}, linklocal = {4, {169, 254, 1, 1}},
                          group = {4, {224, 0, 0, 1}};

/* The exit node we use may send from the whole internet, as answers come; not as us, and not as another peer. */
static void test_forged_sources(void **state)
{
    b.node.exit_peer = b.exit.id;
    from_peer(&b.exit, web, own, TN_IPPROTO_TCP);
    from_peer(&b.exit, exit_ip, own, TN_IPPROTO_TCP);
    assert_int_equal(fake.stack_in, 2);
    from_peer(&b.exit, own, own, TN_IPPROTO_TCP);
    from_peer(&b.exit, own, web, TN_IPPROTO_TCP);
    from_peer(&b.exit, other_ip, own, TN_IPPROTO_TCP); /* its key expired, say: WireGuard no longer knows the address */
    from_peer(&b.exit, other_ip, web, TN_IPPROTO_TCP);
    assert_int_equal(fake.stack_in, 2);
    from_peer(&b.exit, own, own, TN_IPPROTO_TSMP);
    from_peer(&b.exit, other_ip, own, TN_IPPROTO_TSMP);
    assert_int_equal(fake.tsmp, 0);
    from_peer(&b.exit, exit_ip, own, TN_IPPROTO_TSMP);
    assert_int_equal(fake.tsmp, 1);
}

static void test_forged_by_a_subnet_router(void **state)
{
    b.node.config.accept_routes = true;
    from_peer(&b.exit, lan, own, TN_IPPROTO_TCP);
    assert_int_equal(fake.stack_in, 1);
    from_peer(&b.exit, own, own, TN_IPPROTO_TCP);
    from_peer(&b.exit, other_ip, own, TN_IPPROTO_TCP);
    assert_int_equal(fake.stack_in, 1);
}

/* What no exit reaches: told to those who may use the exit, silence for all others. */
static void test_unreachable_through_the_exit(void **state)
{
    from_peer(&b.other, other_ip, lan, TN_IPPROTO_TCP);
    from_peer(&b.other, other_ip, linklocal, TN_IPPROTO_TCP);
    assert_int_equal(fake.refused, 2);
    from_peer(&b.other, other_ip, group, TN_IPPROTO_UDP);
    assert_int_equal(fake.refused, 2);
    set_rules("[{\"SrcIPs\":[\"*\"],\"DstPorts\":[{\"IP\":\"100.64.0.1\",\"Ports\":{\"First\":0,\"Last\":65535}}]}]");
    from_peer(&b.other, other_ip, lan, TN_IPPROTO_TCP);
    from_peer(&b.other, other_ip, web, TN_IPPROTO_TCP);
    set_rules("[]");
    from_peer(&b.other, other_ip, lan, TN_IPPROTO_TCP);
    set_rules("[{\"SrcIPs\":[\"*\"],\"DstPorts\":[{\"IP\":\"*\",\"Ports\":{\"First\":0,\"Last\":65535}}]}]");
    b.node.config.advertise_exit_node = false;
    from_peer(&b.other, other_ip, lan, TN_IPPROTO_TCP);
    assert_int_equal(fake.refused, 2);
    assert_int_equal(fake.stack_in, 0);
}

/* Resolvers of private networks are stood for, port 53 only, and only for those who may use the exit. */
static void test_names_of_private_networks(void **state)
{
    uint8_t p[64];
    size_t n = make(p, other_ip, lan, TN_IPPROTO_UDP);
    fake.names = true;
    p[n - 20 + 3] = 53;
    wg_deliver(&b.node, NULL, &b.other, p, n, 1);
    assert_int_equal(fake.stack_in, 1);
    from_peer(&b.other, other_ip, lan, TN_IPPROTO_TCP);
    assert_int_equal(fake.refused, 1);
    fake.names = false;
    wg_deliver(&b.node, NULL, &b.other, p, n, 1);
    assert_int_equal(fake.refused, 2);
    fake.names = true;
    b.node.config.advertise_exit_node = false;
    wg_deliver(&b.node, NULL, &b.other, p, n, 1);
    assert_int_equal(fake.refused, 2);
    assert_int_equal(fake.stack_in, 1);
}

static void answer_once(struct tn_node *n)
{
    uint8_t p[64];
    size_t len = make(p, own, own, TN_IPPROTO_TCP);
    (void)tn_node_send_ip(n, p, len, 1);
}

/* Packets to ourselves that beget packets to ourselves do not keep the loop; what is left goes on in the next turn. */
static void test_loopback_is_bounded(void **state)
{
    fake.on_input = answer_once;
    answer_once(&b.node);
    tn_node_deliver_loopback(&b.node);
    assert_int_equal(fake.stack_in, LOOPBACK_MAX);
    assert_int_equal(b.node.loopback_count, 1);
    assert_false(tn_list_empty(&b.node.loopback));
    fake.on_input = NULL;
    tn_node_deliver_loopback(&b.node);
    assert_true(tn_list_empty(&b.node.loopback));
    assert_int_equal(b.node.loopback_count, 0);
    for (int i = 0; i < LOOPBACK_MAX + 10; i++) answer_once(&b.node);
    assert_int_equal(b.node.loopback_count, LOOPBACK_MAX);
    assert_int_equal(fake.wg_sent, 0);
}

/* A train to ourselves comes back packet by packet; one to a peer goes there whole. */
static void test_trains(void **state)
{
    enum { COUNT = 3, STRIDE = 96 };
    uint8_t buf[COUNT * STRIDE] = {0};
    struct tn_train t = {.first = buf + TN_TRAIN_HEAD, .count = COUNT, .stride = STRIDE};
    for (size_t i = 0; i < COUNT; i++) t.len = make(t.first + i * STRIDE, own, own, TN_IPPROTO_TCP);
    t.last_len = t.len;
    stack_output_train(&b.node, &t);
    assert_int_equal(b.node.loopback_count, COUNT);
    memset(buf, 0xff, sizeof buf); /* it was borrowed */
    tn_node_deliver_loopback(&b.node);
    assert_int_equal(fake.stack_in, COUNT);
    assert_int_equal(b.node.loopback_count, 0);
    uint8_t want[64];
    assert_memory_equal(fake.last, want, make(want, own, own, TN_IPPROTO_TCP));
    for (size_t i = 0; i < COUNT; i++) (void)make(t.first + i * STRIDE, own, other_ip, TN_IPPROTO_TCP);
    stack_output_train(&b.node, &t);
    assert_int_equal(fake.wg_sent, COUNT);
    assert_int_equal(b.node.loopback_count, 0);
}

/* What the resolver for this host says goes to the kernel, though it is to an address of our own; nothing else is looked at
 * for it, and nothing while it does not serve. */
static void test_the_service_speaks_to_the_kernel(void **state)
{
    uint8_t p[40] = {0x45, 0, 0, 40, [12] = 100, 100, 100, 100, 100, 64, 0, 1}, mine[80];
    (void)tn_node_send_ip(&b.node, p, sizeof p, 1);
    assert_true(fake.to_kernel == 0 && b.node.loopback_count == 1);
    b.node.magicdns = (struct tn_magicdns *)&fake;
    (void)tn_node_send_ip(&b.node, p, sizeof p, 1);
    assert_true(fake.to_kernel == 1 && b.node.loopback_count == 1);
    memcpy(mine, p, 40);
    memcpy(mine + 40, p, 40);
    struct tn_train t = {.first = mine, .count = 2, .len = 40, .last_len = 40, .stride = 40};
    stack_output_train(&b.node, &t);
    assert_true(fake.to_kernel == 3 && b.node.loopback_count == 1);
    p[13] = mine[13] = mine[53] = 64;
    (void)tn_node_send_ip(&b.node, p, sizeof p, 1);
    stack_output_train(&b.node, &t);
    assert_int_equal(b.node.loopback_count, 4);
    tn_node_drop_loopback(&b.node);
    b.node.magicdns = NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_forged_sources, setup, teardown),
        cmocka_unit_test_setup_teardown(test_forged_by_a_subnet_router, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unreachable_through_the_exit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_names_of_private_networks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_loopback_is_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_service_speaks_to_the_kernel, setup, teardown),
        cmocka_unit_test_setup_teardown(test_trains, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
