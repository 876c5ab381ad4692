/* IP around TCP: demultiplexing, echo, errors in and out, datagrams in one piece and in fragments, reassembly under
 * fire. */
#include "script.h"

#include "wire/icmp.h"
#include "wire/udp.h"

struct box {
    struct tn_stack *st;
    uint64_t rng, now;
    struct emitted q[128];
    unsigned head, tail;
    int datagrams, unreach, foreign, others;
    size_t last_len;
    uint8_t last[70000];
    struct tn_addrport from, to;
    int err;
    struct tn_udp_sock *sock;
    bool unbind;
    unsigned pongs;
};

static const struct tn_ip own4 = {4, {100, 64, 0, 1}}, peer4 = {4, {100, 64, 0, 2}}, far4 = {4, {9, 9, 9, 9}};
static const struct tn_ip own6 = {6, {0xfd, 0x7a, [15] = 1}}, peer6 = {6, {0xfd, 0x7a, [15] = 2}};

static void box_output(void *ctx, uint8_t *packet, size_t len)
{
    struct box *b = ctx;
    assert_true(b->head - b->tail < 128 && len <= sizeof b->q[0].bytes);
    struct emitted *e = &b->q[b->head++ % 128];
    memcpy(e->bytes, packet, len);
    e->len = len;
}

static void box_foreign_udp(void *ctx, const struct tn_addrport *src, const struct tn_addrport *dst,
                            const uint8_t *packet, size_t len, const uint8_t *payload, size_t payload_len,
                            uint64_t now_us)
{
    struct box *b = ctx;
    b->foreign++;
    b->from = *src;
    b->to = *dst;
    b->last_len = payload_len;
    memcpy(b->last, payload, payload_len);
    assert_true(payload + payload_len <= packet + len);
}

static void box_foreign_other(void *ctx, uint8_t proto, const uint8_t *packet, size_t len, uint64_t now_us)
{
    ((struct box *)ctx)->others++;
}

static void box_datagram(void *arg, const struct tn_addrport *local, const struct tn_addrport *from,
                         const uint8_t *bytes, size_t len, uint64_t now_us)
{
    struct box *b = arg;
    b->datagrams++;
    b->last_len = len;
    memcpy(b->last, bytes, len);
    b->from = *from;
    b->to = *local;
    if (b->unbind) tn_udp_unbind(b->sock);
}

static void box_unreach(void *arg, const struct tn_addrport *to, int err, uint64_t now_us)
{
    struct box *b = arg;
    b->unreach++;
    b->err = err;
    b->to = *to;
}

static struct box *box_new(void)
{
    struct box *b = calloc(1, sizeof *b);
    assert_non_null(b);
    b->now = 5000000;
    struct tn_stack_config config = {
        .rng = tn_rng_seeded(&b->rng), .ctx = b,
        .cb = {.output = box_output, .foreign_udp = box_foreign_udp, .foreign_other = box_foreign_other},
    };
    b->st = tn_stack_new(&config);
    assert_non_null(b->st);
    struct tn_ip own[2] = {own4, own6};
    assert_int_equal(tn_stack_set_addrs(b->st, own, 2, b->now), 0);
    return b;
}

static void box_free(struct box *b)
{
    tn_stack_free(b->st);
    free(b);
}

static void feed(struct box *b, const uint8_t *packet, size_t len)
{
    uint8_t *exact = malloc(len ? len : 1);
    assert_non_null(exact);
    memcpy(exact, packet, len);
    tn_stack_input(b->st, exact, len, b->now);
    free(exact);
}

static struct emitted *take(struct box *b)
{
    assert_true(b->head != b->tail);
    return &b->q[b->tail++ % 128];
}

/* A UDP packet as one piece. */
static size_t make_udp(uint8_t *out, const struct tn_ip *src, const struct tn_ip *dst, uint16_t port, size_t len)
{
    size_t hdr = src->family == 4 ? 20 : 40;
    uint8_t *l4 = out + hdr;
    tn_udp_hdr_put(l4, 4444, port, len);
    for (size_t i = 0; i < len; i++) l4[8 + i] = (uint8_t)(i * 7 + i / 256);
    uint32_t sum = tn_cksum_pseudo(src, dst, TN_IPPROTO_UDP, (uint32_t)(8 + len));
    tn_put_be16(l4 + 6, tn_cksum_fold(tn_cksum_add(sum, l4, 8 + len)));
    tn_ip_header_put(out, src, dst, TN_IPPROTO_UDP, 8 + len, 64, 1);
    return hdr + 8 + len;
}

static void bind_udp(struct box *b, uint16_t port)
{
    static const struct tn_udp_events ev = {box_datagram, box_unreach};
    struct tn_addrport any = {.port = port};
    assert_int_equal(tn_udp_bind(b->st, &any, &ev, b, &b->sock), 0);
}

/* ---- echo ---- */

static void echo(void **state)
{
    for (int six = 0; six < 2; six++) {
        struct box *b = box_new();
        const struct tn_ip *own = six ? &own6 : &own4, *peer = six ? &peer6 : &peer4;
        uint8_t packet[200], proto = six ? TN_IPPROTO_ICMP6 : TN_IPPROTO_ICMP;
        size_t hdr = six ? 40 : 20, len = 8 + 56;
        uint8_t *l4 = packet + hdr;
        tn_icmp_put(l4, six ? 6 : 4, TN_ICMP_ECHO_REQUEST, 0x1234, 7);
        memset(l4 + 8, 'e', 56);
        uint32_t sum = six ? tn_cksum_pseudo(peer, own, proto, (uint32_t)len) : 0;
        tn_put_be16(l4 + 2, tn_cksum_fold(tn_cksum_add(sum, l4, len)));
        tn_ip_header_put(packet, peer, own, proto, len, 64, 1);
        feed(b, packet, hdr + len);
        struct emitted *e = take(b);
        struct tn_ippkt ip;
        struct tn_icmp m;
        assert_int_equal(tn_ippkt_parse(e->bytes, e->len, &ip), 0);
        assert_true(tn_ippkt_cksum_ok(&ip) && tn_ip_eq(&ip.src, own) && tn_ip_eq(&ip.dst, peer));
        assert_int_equal(tn_icmp_parse(six ? 6 : 4, ip.l4, ip.l4_len, &m), 0);
        assert_true(m.kind == TN_ICMP_ECHO_REPLY && m.id == 0x1234 && m.seq == 7 && m.len == 56);
        l4[9] ^= 1; /* damaged on the way */
        feed(b, packet, hdr + len);
        assert_true(b->head == b->tail);
        struct tn_stack_stats stats;
        tn_stack_stats(b->st, &stats);
        assert_int_equal(stats.in_bad_checksum, 1);
        box_free(b);
    }
}

static void pong(void *arg, const struct tn_ip *from, uint16_t id, uint16_t seq, uint64_t now_us)
{
    struct box *b = arg;
    assert_true(tn_ip_eq(from, &peer4) && id == 5 && seq == 6);
    b->pongs++;
}

static void ping(void **state)
{
    struct box *b = box_new();
    tn_stack_on_echo_reply(b->st, pong, b);
    assert_int_equal(tn_stack_ping(b->st, &peer4, 5, 6, b->now), 0);
    struct emitted *e = take(b);
    uint8_t *l4 = e->bytes + 20;
    assert_int_equal(l4[0], 8);
    l4[0] = 0; /* the answer */
    tn_put_be16(l4 + 2, 0);
    tn_put_be16(l4 + 2, tn_cksum_fold(tn_cksum_add(0, l4, 8)));
    tn_ip_header_put(e->bytes, &peer4, &own4, TN_IPPROTO_ICMP, 8, 64, 1);
    feed(b, e->bytes, e->len);
    assert_int_equal(b->pongs, 1);
    box_free(b);
}

/* ---- UDP ---- */

static void datagrams(void **state)
{
    struct box *b = box_new();
    uint8_t packet[1500];
    bind_udp(b, 53);
    feed(b, packet, make_udp(packet, &peer4, &own4, 53, 100));
    assert_int_equal(b->datagrams, 1);
    assert_int_equal(b->last_len, 100);
    assert_true(b->from.port == 4444 && tn_ip_eq(&b->from.ip, &peer4) && tn_ip_eq(&b->to.ip, &own4));
    feed(b, packet, make_udp(packet, &peer6, &own6, 53, 0));
    assert_int_equal(b->datagrams, 2);
    assert_int_equal(b->last_len, 0);
    feed(b, packet, make_udp(packet, &peer4, &far4, 53, 10));
    assert_int_equal(b->foreign, 1);
    assert_true(b->to.port == 53 && tn_ip_eq(&b->to.ip, &far4));
    size_t len = make_udp(packet, &peer4, &own4, 53, 100);
    packet[60] ^= 0x10;
    feed(b, packet, len);
    assert_int_equal(b->datagrams, 2);
    len = make_udp(packet, &peer4, &own4, 53, 10);
    tn_put_be16(packet + 24, 4); /* shorter than its header */
    tn_put_be16(packet + 26, 0);
    feed(b, packet, len);
    assert_int_equal(b->datagrams, 2);
    b->unbind = true;
    feed(b, packet, make_udp(packet, &peer4, &own4, 53, 1));
    assert_int_equal(b->datagrams, 3);
    assert_true(b->head == b->tail);
    feed(b, packet, make_udp(packet, &peer4, &own4, 53, 1)); /* nobody there any more */
    assert_true(b->head != b->tail);
    box_free(b);
}

static void send_and_unreach(void **state)
{
    struct box *b = box_new();
    bind_udp(b, 0);
    struct tn_addrport local = tn_udp_local(b->sock), to = {peer4, 99}, bad = {far4, 1}, to6 = {peer6, 99};
    assert_true(local.port >= 49152);
    assert_int_equal(tn_udp_sendto(b->sock, NULL, &to, "hello", 5, b->now), 0);
    assert_int_equal(tn_udp_sendto(b->sock, &bad, &to, "hello", 5, b->now), TN_E_INVAL);
    assert_int_equal(tn_udp_sendto(b->sock, NULL, &to, b->last, 65508, b->now), TN_E_TOOBIG);
    struct emitted sent = *take(b);
    uint8_t packet[1500], *icmp = packet + 20;
    tn_icmp_put(icmp, 4, TN_ICMP_UNREACH_PORT, 0, 0);
    memcpy(icmp + 8, sent.bytes, 28); /* the header and eight bytes are all that must be quoted */
    tn_put_be16(icmp + 2, tn_cksum_fold(tn_cksum_add(0, icmp, 36)));
    tn_ip_header_put(packet, &peer4, &own4, TN_IPPROTO_ICMP, 36, 64, 1);
    feed(b, packet, 56);
    assert_int_equal(b->unreach, 1);
    assert_int_equal(b->err, TN_E_REFUSED);
    assert_true(tn_addrport_eq(&b->to, &to));
    assert_int_equal(tn_udp_sendto(b->sock, NULL, &to6, "x", 1, b->now), 0);
    struct tn_addrport foreign = {far4, 53};
    assert_int_equal(tn_stack_udp_send_from(b->st, &foreign, &to, "x", 1, b->now), 0);
    assert_int_equal(tn_stack_udp_send_from(b->st, &foreign, &to6, "x", 1, b->now), TN_E_INVAL);
    struct tn_addrport taken = local;
    struct tn_udp_sock *again;
    static const struct tn_udp_events ev = {box_datagram, box_unreach};
    assert_int_equal(tn_udp_bind(b->st, &taken, &ev, b, &again), TN_E_ADDRINUSE);
    taken.ip = far4;
    assert_int_equal(tn_udp_bind(b->st, &taken, &ev, b, &again), TN_E_INVAL);
    box_free(b);
}

/* What we cut, we can put together; in any order. */
static void fragments_there_and_back(void **state)
{
    static const size_t sizes[] = {1252, 1253, 2000, 5000, 40000, 65507};
    for (int six = 0; six < 2; six++)
        for (unsigned i = 0; i < 6; i++)
            for (int backwards = 0; backwards < 2; backwards++) {
                struct box *b = box_new();
                bind_udp(b, 53);
                static uint8_t bytes[65507];
                for (size_t k = 0; k < sizeof bytes; k++) bytes[k] = (uint8_t)(k * 31 + k / 500);
                struct tn_addrport from = {six ? peer6 : peer4, 1}, to = {six ? own6 : own4, 53};
                assert_int_equal(tn_stack_udp_send_from(b->st, &from, &to, bytes, sizes[i], b->now), 0);
                unsigned n = b->head;
                assert_true(n > 1 || sizes[i] <= 1252);
                for (unsigned k = 0; k < n; k++) {
                    struct emitted *e = &b->q[backwards ? n - 1 - k : k];
                    assert_true(e->len <= 1280);
                    assert_int_equal(b->datagrams, 0);
                    feed(b, e->bytes, e->len);
                    if (k + 1 < n) feed(b, e->bytes, e->len); /* twice is no harm */
                }
                assert_int_equal(b->datagrams, 1);
                assert_int_equal(b->last_len, sizes[i]);
                assert_memory_equal(b->last, bytes, sizes[i]);
                assert_true(tn_stack_next_deadline(b->st) == TN_NEVER);
                box_free(b);
            }
}

/* One IPv4 fragment of a datagram of zeros. */
static void feed_fragment(struct box *b, const struct tn_ip *src, uint16_t id, size_t off, size_t len, bool more)
{
    uint8_t packet[1500] = {0};
    tn_ip_header_put(packet, src, &own4, TN_IPPROTO_UDP, len, 64, id);
    tn_put_be16(packet + 6, (uint16_t)((more ? 0x2000 : 0) | off / 8));
    tn_put_be16(packet + 10, 0);
    tn_put_be16(packet + 10, tn_cksum_fold(tn_cksum_add(0, packet, 20)));
    feed(b, packet, 20 + len);
}

static void hostile_fragments(void **state)
{
    struct box *b = box_new();
    bind_udp(b, 53);
    feed_fragment(b, &peer4, 1, 0, 800, true);
    feed_fragment(b, &peer4, 1, 792, 800, false); /* overlap: all of it is dropped */
    assert_int_equal(b->st->reass.count, 0);
    feed_fragment(b, &peer4, 2, 65528, 800, false); /* beyond the largest packet */
    feed_fragment(b, &peer4, 3, 8, 7, true);        /* not a multiple of eight */
    feed_fragment(b, &peer4, 4, 800, 80, false);
    feed_fragment(b, &peer4, 4, 1600, 80, true); /* beyond its end */
    feed_fragment(b, &peer4, 5, 800, 80, false);
    feed_fragment(b, &peer4, 5, 880, 80, false); /* two ends */
    assert_int_equal(b->st->reass.count, 0);
    for (uint16_t i = 0; i < 100; i++) feed_fragment(b, &peer4, (uint16_t)(100 + i), 0, 8, true);
    assert_int_equal(b->st->reass.count, TN_IPREASS_PER_SOURCE);
    struct tn_ip other = peer4;
    for (uint16_t i = 0; i < 200; i++) {
        other.b[2] = (uint8_t)(i + 1);
        feed_fragment(b, &other, i, 60000, 8, true); /* each wants the largest buffer */
    }
    assert_true(b->st->reass.count <= TN_IPREASS_DATAGRAMS && b->st->reass.bytes <= TN_IPREASS_BYTES);
    for (size_t off = 0; off < 65000; off += 16) feed_fragment(b, &peer4, 100, 8 + off, 8, true); /* crumbs */
    assert_true(b->st->reass.count < TN_IPREASS_DATAGRAMS);
    b->now += TN_IPREASS_TIMEOUT_US;
    assert_true(tn_stack_next_deadline(b->st) <= b->now);
    tn_stack_timeout(b->st, b->now);
    assert_int_equal(b->st->reass.count, 0);
    assert_int_equal(b->st->reass.bytes, 0);
    assert_int_equal(b->datagrams, 0);
    box_free(b);
}

/* ---- errors out ---- */

static void unreachable_is_sent_and_limited(void **state)
{
    struct box *b = box_new();
    uint8_t packet[1500];
    size_t len = make_udp(packet, &peer4, &far4, 443, 1000);
    unsigned sent = 0;
    for (int i = 0; i < 500; i++) {
        sent += tn_stack_unreach(b->st, TN_UNREACH_PORT, packet, len, b->now);
        b->tail = b->head > 1 ? b->head - 1 : b->tail;
    }
    assert_int_equal(sent, 200);
    struct emitted *e = take(b);
    struct tn_ippkt ip;
    assert_int_equal(tn_ippkt_parse(e->bytes, e->len, &ip), 0);
    assert_true(tn_ippkt_cksum_ok(&ip) && tn_ip_eq(&ip.src, &far4) && tn_ip_eq(&ip.dst, &peer4));
    assert_true(ip.l4[0] == 3 && ip.l4[1] == 3 && e->len == 576);
    assert_memory_equal(ip.l4 + 8, packet, 548);
    b->now += 1000000;
    sent = 0;
    for (int i = 0; i < 500; i++) {
        sent += tn_stack_unreach(b->st, TN_UNREACH_ADMIN, packet, len, b->now);
        b->tail = b->head;
    }
    assert_int_equal(sent, 100);
    b->now += 1000000;
    len = make_udp(packet, &peer6, &own6, 443, 1200);
    assert_true(tn_stack_unreach(b->st, TN_UNREACH_ADMIN, packet, len, b->now));
    e = take(b);
    assert_int_equal(tn_ippkt_parse(e->bytes, e->len, &ip), 0);
    assert_true(tn_ippkt_cksum_ok(&ip) && ip.l4[0] == 1 && ip.l4[1] == 1 && e->len == 1280);
    feed(b, e->bytes, e->len); /* to ourselves it is not answered */
    assert_false(tn_stack_unreach(b->st, TN_UNREACH_HOST, e->bytes, e->len, b->now));
    struct tn_ip group = tn_ip4(224, 0, 0, 1);
    len = make_udp(packet, &peer4, &group, 443, 10);
    assert_false(tn_stack_unreach(b->st, TN_UNREACH_HOST, packet, len, b->now));
    assert_false(tn_stack_unreach(b->st, TN_UNREACH_HOST, packet, 10, b->now));
    assert_true(b->head == b->tail);
    box_free(b);
}

static void what_is_not_ours(void **state)
{
    struct box *b = box_new();
    uint8_t packet[1500];
    memset(packet, 0, sizeof packet);
    tn_ip_header_put(packet, &peer4, &own4, TN_IPPROTO_SCTP, 20, 64, 1);
    feed(b, packet, 40);
    assert_int_equal(take(b)->bytes[21], 2); /* protocol unreachable */
    tn_ip_header_put(packet, &peer4, &far4, TN_IPPROTO_SCTP, 20, 64, 1);
    feed(b, packet, 40);
    assert_int_equal(b->others, 1);
    struct tn_ip martians[] = {{4, {0}}, {4, {127, 0, 0, 1}}, {4, {224, 1, 1, 1}}, {4, {255, 255, 255, 255}}};
    for (int i = 0; i < 4; i++) feed(b, packet, make_udp(packet, &martians[i], &own4, 53, 5));
    feed(b, packet, 0);
    feed(b, packet, 19);
    struct tn_stack_stats stats;
    tn_stack_stats(b->st, &stats);
    assert_int_equal(stats.in_malformed, 6);
    assert_true(b->head == b->tail);
    box_free(b);
}

/* ---- trains of datagrams ---- */

static struct {
    unsigned trains;
    size_t counts[8];
} seen;

static void box_train(void *ctx, struct tn_train *t)
{
    assert_true(seen.trains < 8 && t->count > 0 && t->last_len > 0 && t->last_len <= t->len);
    seen.counts[seen.trains++] = t->count;
    for (size_t i = 0; i < t->count; i++) box_output(ctx, t->first + i * t->stride, i + 1 < t->count ? t->len : t->last_len);
}

static void next_datagram(struct box *b, const struct tn_addrport *from, const struct tn_addrport *to, size_t len, uint8_t value)
{
    struct emitted *e = take(b);
    struct tn_ippkt k;
    assert_int_equal(tn_ippkt_parse(e->bytes, e->len, &k), 0);
    assert_true(tn_ippkt_cksum_ok(&k));
    assert_true(tn_ip_eq(&k.src, &from->ip) && tn_ip_eq(&k.dst, &to->ip));
    assert_int_equal(tn_get_be16(k.l4), from->port);
    assert_int_equal(tn_get_be16(k.l4 + 2), to->port);
    assert_int_equal(k.l4_len, 8 + len);
    for (size_t i = 0; i < len; i++) assert_int_equal(k.l4[8 + i], value);
}

static void send_value(struct box *b, const struct tn_addrport *from, const struct tn_addrport *to, size_t len, uint8_t value)
{
    uint8_t bytes[2000];
    memset(bytes, value, sizeof bytes);
    assert_int_equal(tn_stack_udp_send_from(b->st, from, to, bytes, len, b->now), 0);
}

static void datagrams_of_a_batch_leave_in_trains(void **state)
{
    struct box *b = box_new();
    struct tn_addrport from[2] = {{far4, 443}, {{6, {0x20, 1, [15] = 9}}, 443}}, to[2] = {{peer4, 5000}, {peer6, 5000}};
    b->st->cb.output_train = box_train;
    for (int v6 = 0; v6 < 2; v6++) {
        struct tn_addrport *f = &from[v6], *t = &to[v6], other = {t->ip, 5001};
        memset(&seen, 0, sizeof seen);
        tn_stack_batch_begin(b->st);
        for (uint8_t i = 0; i < 3; i++) send_value(b, f, t, 101, i);
        send_value(b, f, t, 40, 3);      /* shorter: the last of its train */
        send_value(b, f, t, 101, 4);
        send_value(b, f, &other, 101, 5); /* another flow's */
        send_value(b, f, &other, 102, 6); /* longer */
        send_value(b, f, &other, 0, 7);   /* none at all: on its own */
        send_value(b, f, &other, 1800, 8); /* in fragments */
        tn_stack_batch_end(b->st, b->now);
        size_t want[] = {4, 1, 1, 1};
        assert_int_equal(seen.trains, 4);
        for (int i = 0; i < 4; i++) assert_int_equal(seen.counts[i], want[i]);
        for (uint8_t i = 0; i < 3; i++) next_datagram(b, f, t, 101, i);
        next_datagram(b, f, t, 40, 3);
        next_datagram(b, f, t, 101, 4);
        next_datagram(b, f, &other, 101, 5);
        next_datagram(b, f, &other, 102, 6);
        next_datagram(b, f, &other, 0, 7);
        b->tail = b->head;
        send_value(b, f, t, 101, 9); /* outside of a batch nothing waits */
        next_datagram(b, f, t, 101, 9);
        assert_int_equal(seen.trains, 4);
    }
    box_free(b);
}

static void a_train_of_datagrams_has_an_end(void **state)
{
    struct box *b = box_new();
    struct tn_addrport from = {far4, 443}, to = {peer4, 5000};
    b->st->cb.output_train = box_train;
    memset(&seen, 0, sizeof seen);
    tn_stack_batch_begin(b->st);
    for (uint8_t i = 0; i < 100; i++) send_value(b, &from, &to, 1252, i);
    tn_stack_batch_end(b->st, b->now);
    assert_int_equal(seen.trains, 3);
    assert_int_equal(seen.counts[0] + seen.counts[1] + seen.counts[2], 100);
    for (uint8_t i = 0; i < 100; i++) next_datagram(b, &from, &to, 1252, i);
    box_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(echo), TEST(ping), TEST(datagrams), TEST(send_and_unreach), TEST(fragments_there_and_back),
        TEST(hostile_fragments), TEST(unreachable_is_sent_and_limited), TEST(what_is_not_ours),
        TEST(datagrams_of_a_batch_leave_in_trains), TEST(a_train_of_datagrams_has_an_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
