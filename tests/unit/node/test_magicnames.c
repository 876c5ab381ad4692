/* What MagicDNS answers itself and whom it asks for the rest. */
#include "node/magicnames.c"

#include "control/mapframe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define KEY(d) "nodekey:" d "000000000000000000000000000000000000000000000000000000000000000"
static const char map_text[] =
    "{\"Node\":{\"ID\":1,\"Name\":\"me.tail.test.\",\"Key\":\"" KEY("1") "\",\"Addresses\":[\"100.64.0.1/32\",\"fd7a:115c:a1e0::1/128\"]},"
    "\"Peers\":[{\"ID\":2,\"Name\":\"box.tail.test.\",\"Key\":\"" KEY("2") "\",\"Addresses\":[\"100.64.0.2/32\",\"fd7a:115c:a1e0::2/128\"]},"
    "{\"ID\":3,\"Key\":\"" KEY("3") "\",\"Addresses\":[\"100.64.0.3/32\"]}],"
    "\"DNSConfig\":{\"Proxied\":true,\"Domains\":[\"tail.test\",\"corp.test\",\"evil\\nnameserver 6.6.6.6\"],"
    "\"Routes\":{\"tail.test.\":[],\"corp.test\":[{\"Addr\":\"10.0.0.53\"},{\"Addr\":\"10.0.0.54:5353\"}],"
    "\"deep.corp.test\":[{\"Addr\":\"10.9.9.9\"}],\"doh.test\":[{\"Addr\":\"https://dns.example/\"}]},"
    "\"ExtraRecords\":[{\"Name\":\"extra.other.test\",\"Value\":\"192.0.2.7\"},{\"Name\":\"extra.other.test\",\"Value\":\"2001:db8::7\"}]%s}}";

static struct tn_netmap *map;
static void on_peer(void *ctx, const struct tn_netnode *n) {}
static const struct tn_netmap_sink sink = {on_peer, on_peer, NULL};

static void load(const char *more)
{
    char text[4000];
    struct tn_netmap_message m;
    struct tn_hashkey key = {{1, 2}};
    unsigned changes;
    snprintf(text, sizeof text, map_text, more);
    tn_netmap_free(map);
    map = tn_netmap_new(&key);
    assert_int_equal(tn_mapframe_decode((const uint8_t *)text, strlen(text), false, &m), 0);
    assert_int_equal(tn_netmap_merge(map, &m, 1800000000, 1800000000, &sink, &changes), 0);
    tn_netmap_message_fini(&m);
}

static int setup(void **state)
{
    load("");
    return 0;
}

static int teardown(void **state)
{
    tn_netmap_free(map);
    map = NULL;
    return 0;
}

static size_t query(const char *name, uint16_t type, uint8_t out[300])
{
    static const uint8_t head[12] = {0x12, 0x34, 1, 0, 0, 1};
    memcpy(out, head, sizeof head);
    size_t n = put_wire_name(name, out + 12);
    if (n == 0) out[12] = 0, n = 1;
    tn_put_be16(out + 12 + n, type);
    tn_put_be16(out + 14 + n, 1);
    return 16 + n;
}

static struct tn_magic_verdict v;

static void ask(const char *name, uint16_t type)
{
    uint8_t q[300];
    tn_magicnames_ask(map, q, query(name, type, q), &v);
}

static void assert_answer(const char *name, uint16_t type, unsigned rcode, unsigned records)
{
    struct tn_dnsmsg m;
    ask(name, type);
    if (v.way != TN_MAGIC_ANSWERED) fail_msg("%s: not answered", name);
    assert_int_equal(tn_dnsmsg_parse(v.out, v.len, &m), 0);
    assert_int_equal(m.id, 0x1234);
    assert_true(m.flags & TN_DNSMSG_QR);
    if ((m.flags & 15u) != rcode || m.answers != records) fail_msg("%s: rcode %d, %d records", name, m.flags & 15, m.answers);
    struct tn_dnsrr_iter it = tn_dnsrr_begin(&m, v.out, v.len); /* and well-formed */
    struct tn_dnsrr rr;
    unsigned n = 0;
    while (tn_dnsrr_next(&it, &rr) == 1) n++;
    assert_int_equal(n, records);
}

static void names_of_nodes(void **state)
{
    assert_answer("box.tail.test", TN_DNSTYPE_A, 0, 1);
    assert_memory_equal(v.out + v.len - 4, ((uint8_t[]){100, 64, 0, 2}), 4);
    assert_answer("BOX.tail.TEST", TN_DNSTYPE_AAAA, 0, 1);
    assert_int_equal(v.out[v.len - 1], 2);
    assert_answer("me.tail.test", TYPE_ANY, 0, 2);
    assert_answer("box.tail.test", 16, 0, 0);
    assert_answer("nobody.tail.test", TN_DNSTYPE_A, TN_DNSMSG_NXDOMAIN, 0);
    assert_answer("sub.box.tail.test", TN_DNSTYPE_A, TN_DNSMSG_NXDOMAIN, 0);
    assert_answer("extra.other.test", TN_DNSTYPE_AAAA, 0, 1);
    ask("xtail.test", TN_DNSTYPE_A); /* a suffix ends at a dot */
    assert_int_equal(v.way, TN_MAGIC_DEFAULT);
}

static void backwards(void **state)
{
    assert_answer("2.0.64.100.in-addr.arpa", TYPE_PTR, 0, 1);
    assert_memory_equal(v.out + v.len - 15, "\3box\4tail\4test", 15);
    assert_answer("2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa", TYPE_PTR, 0, 1);
    assert_answer("9.9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa", TYPE_PTR, TN_DNSMSG_NXDOMAIN, 0);
    assert_answer("9.9.99.100.in-addr.arpa", TYPE_PTR, TN_DNSMSG_NXDOMAIN, 0);
    assert_answer("3.0.64.100.in-addr.arpa", TYPE_PTR, 0, 0); /* has no name */
    ask("1.2.0.192.in-addr.arpa", TYPE_PTR);
    assert_int_equal(v.way, TN_MAGIC_DEFAULT);
    ask("999.0.64.100.in-addr.arpa", TYPE_PTR);
    assert_int_equal(v.way, TN_MAGIC_DEFAULT);
}

static void who_is_asked(void **state)
{
    ask("host.corp.test", TN_DNSTYPE_A);
    assert_int_equal(v.way, TN_MAGIC_SERVERS);
    assert_int_equal(v.nservers, 2);
    assert_int_equal(v.servers[0].port, 53);
    assert_int_equal(v.servers[1].port, 5353);
    ask("host.deep.corp.test", TN_DNSTYPE_A); /* the longest */
    assert_int_equal(v.nservers, 1);
    assert_int_equal(v.servers[0].ip.b[0], 10);
    assert_int_equal(v.servers[0].ip.b[1], 9);
    /* Its servers can't be asked: an error, and nobody else hears of the name. */
    assert_answer("x.doh.test", TN_DNSTYPE_A, TN_DNSMSG_SERVFAIL, 0);
    ask("www.example", TN_DNSTYPE_A);
    assert_int_equal(v.way, TN_MAGIC_DEFAULT);
    load(",\"Resolvers\":[{\"Addr\":\"9.9.9.9\"},{\"Addr\":\"2620:fe::fe\"},{\"Addr\":\"https://x/\"},null,7]");
    ask("www.example", TN_DNSTYPE_A);
    assert_int_equal(v.way, TN_MAGIC_SERVERS);
    assert_int_equal(v.nservers, 2);
    ask("host.corp.test", TN_DNSTYPE_A);
    assert_int_equal(v.servers[0].ip.b[0], 10);
}

static void what_is_no_question(void **state)
{
    uint8_t q[300];
    size_t len = query("box.tail.test", TN_DNSTYPE_A, q);
    for (size_t cut = 0; cut < len; cut++) {
        uint8_t *exact = malloc(cut ? cut : 1);
        memcpy(exact, q, cut);
        tn_magicnames_ask(map, exact, cut, &v);
        assert_int_equal(v.way, TN_MAGIC_NONE);
        free(exact);
    }
    q[2] |= 0x80;
    tn_magicnames_ask(map, q, len, &v);
    assert_int_equal(v.way, TN_MAGIC_NONE); /* an answer */
    q[2] = 5 << 3;
    tn_magicnames_ask(map, q, len, &v);
    assert_true(v.way == TN_MAGIC_ANSWERED && (v.out[3] & 15) == TN_DNSMSG_REFUSED);
    q[2] = 1;
    q[len - 1] = 3; /* CHAOS */
    tn_magicnames_ask(map, q, len, &v);
    assert_true(v.way == TN_MAGIC_ANSWERED && (v.out[3] & 15) == TN_DNSMSG_REFUSED);
}

/* Nothing of the network's becomes a line of the host's file. */
static void search_list(void **state)
{
    char out[64];
    tn_magicnames_search(map, out, sizeof out);
    assert_string_equal(out, "tail.test corp.test");
    tn_magicnames_search(map, out, 15);
    assert_string_equal(out, "tail.test");
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(names_of_nodes), T(backwards), T(who_is_asked), T(what_is_no_question), T(search_list)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
