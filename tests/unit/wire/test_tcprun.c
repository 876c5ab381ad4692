/* Which packets make a run: each field that must be equal, each that must not, and the ends. */
#include "wire/ip.c"
#include "wire/tcp.c"
#include "wire/tcprun.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

enum { N = 6, LEN = 100 };

struct bed {
    uint8_t *bytes[N]; /* of exact size */
    struct iovec v[N];
    size_t hdr;
};

static void make(struct bed *b, int family)
{
    struct tn_ip src = family == 4 ? tn_ip4(100, 64, 0, 1) : (struct tn_ip){6, {0xfd, 1}}, dst = src;
    dst.b[3] ^= 7;
    b->hdr = family == 4 ? 20 : 40;
    for (uint32_t i = 0; i < N; i++) {
        struct tn_tcp_seg s = {.sport = 80, .dport = 5001, .seq = 0xffffff00u + i * LEN, .ack = 77, .flags = TN_TCP_ACK,
                               .window = 500, .has_ts = true, .tsval = 9, .tsecr = 8};
        uint8_t tcp[TN_TCP_HDR_MAX];
        size_t n = tn_tcp_seg_put(tcp, &s), len = b->hdr + n + LEN;
        b->bytes[i] = calloc(1, len);
        tn_ip_header_put(b->bytes[i], &src, &dst, TN_IPPROTO_TCP, n + LEN, 64, (uint16_t)i);
        memcpy(b->bytes[i] + b->hdr, tcp, n);
        b->v[i] = (struct iovec){b->bytes[i], len};
    }
}

static void drop(struct bed *b)
{
    for (int i = 0; i < N; i++) free(b->bytes[i]);
}

static void whole(void **state)
{
    for (int family = 4; family <= 6; family += 2) {
        struct bed b;
        make(&b, family);
        for (size_t n = 1; n <= N; n++) assert_int_equal(tn_tcp_run(b.v, n), n);
        b.bytes[3][b.hdr + FLAGS] |= TN_TCP_PSH; /* closes the run */
        assert_int_equal(tn_tcp_run(b.v, N), 4);
        assert_int_equal(tn_tcp_run(b.v + 3, N - 3), 1);
        drop(&b);
    }
}

static void differences_end_it(void **state)
{
    static const struct { int family; size_t at; } ip[] = {{4, 1}, {4, 8}, {4, 13}, {4, 17}, {6, 1}, {6, 3}, {6, 7}, {6, 9}, {6, 39}};
    static const size_t tcp[] = {1, 3, 5, 9, 15, 24, 28}; /* ports, sequence, acknowledgment, window, timestamps */
    struct bed b;
    for (size_t i = 0; i < sizeof ip / sizeof *ip; i++) {
        make(&b, ip[i].family);
        b.bytes[2][ip[i].at] ^= 4;
        assert_int_equal(tn_tcp_run(b.v, N), 2);
        drop(&b);
    }
    for (size_t i = 0; i < sizeof tcp / sizeof *tcp; i++) {
        make(&b, i % 2 ? 4 : 6);
        b.bytes[2][b.hdr + tcp[i]] ^= 1;
        assert_int_equal(tn_tcp_run(b.v, N), 2);
        drop(&b);
    }
    static const uint8_t flags[] = {TN_TCP_FIN, TN_TCP_SYN, TN_TCP_RST, TN_TCP_URG, TN_TCP_ECE, TN_TCP_CWR, TN_TCP_ACK};
    for (size_t i = 0; i < sizeof flags; i++)
        for (size_t at = 0; at < 2; at++) {
            make(&b, 4);
            b.bytes[at][b.hdr + FLAGS] ^= flags[i];
            assert_int_equal(tn_tcp_run(b.v, N), 1);
            drop(&b);
        }
}

/* Fragments, options, other protocols, lengths that lie, no payload, both families mixed. */
static void odd_ones(void **state)
{
    struct bed b, six;
    static const struct { size_t at; uint8_t value; } odd[] = {{0, 0x46}, {6, 0x20}, {6, 0x60}, {7, 1}, {9, 17}, {3, 99}, {0, 0x65}};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++)
        for (size_t at = 0; at < 2; at++) {
            make(&b, 4);
            b.bytes[at][odd[i].at] = odd[i].value;
            assert_int_equal(tn_tcp_run(b.v, N), 1);
            drop(&b);
        }
    make(&b, 4);
    make(&six, 6);
    struct iovec mixed[] = {b.v[0], six.v[1], b.v[1]};
    assert_int_equal(tn_tcp_run(mixed, 3), 1);
    b.bytes[1][b.hdr + DATA_OFFSET] = 0xf0;
    assert_int_equal(tn_tcp_run(b.v, N), 1);
    b.bytes[0][b.hdr + DATA_OFFSET] = 0x40;
    assert_int_equal(tn_tcp_run(b.v, N), 1);
    for (size_t len = 1; len < six.v[1].iov_len; len++) { /* the length must be the packet's */
        uint8_t *exact = malloc(len);
        memcpy(exact, six.bytes[1], len);
        struct iovec v[] = {six.v[0], {exact, len}};
        assert_int_equal(tn_tcp_run(v, 2), 1);
        free(exact);
    }
    drop(&b);
    drop(&six);
    make(&b, 4);
    b.v[1].iov_len = 52;
    tn_put_be16(b.bytes[1] + 2, 52);
    assert_int_equal(tn_tcp_run(b.v, N), 1); /* a pure ACK */
    drop(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole),
        cmocka_unit_test(differences_end_it),
        cmocka_unit_test(odd_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
