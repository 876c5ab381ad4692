/* The SOCKS5 engine against every reply there is, cut at every byte. */
#include "egress/socks5.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

static const struct tn_addrport dst4 = {{4, {45, 45, 45, 45}}, 443};
static const struct tn_addrport dst6 = {{6, {0x2a, 0, 0, 0x45, [15] = 1}}, 8080};

static struct tn_proxy make_proxy(const char *user, const char *pass)
{
    struct tn_proxy p = {.scheme = TN_PROXY_SOCKS5, .host = "h", .port = 1, .has_auth = user != NULL};
    if (user) {
        p.user = tn_secret_new(user, strlen(user));
        p.pass = tn_secret_new(pass, strlen(pass));
    }
    return p;
}

static void free_proxy(struct tn_proxy *p)
{
    tn_secret_free(p->user);
    tn_secret_free(p->pass);
}

static void expect_output(struct tn_socks5 *s, const void *bytes, size_t len)
{
    size_t n;
    const uint8_t *out = tn_socks5_output(s, &n);
    assert_int_equal(n, len);
    assert_memory_equal(out, bytes, len);
    tn_socks5_sent(s, n);
    tn_socks5_output(s, &n);
    assert_int_equal(n, 0);
}

/* Feeds bytes in two pieces, the first of `cut`; the result, and how many bytes were left for the tunnel. */
static int feed(struct tn_socks5 *s, const uint8_t *bytes, size_t len, size_t cut, size_t *left)
{
    size_t used, at = 0;
    int r = TN_HANDSHAKE_MORE;
    for (size_t part = 0; part < 2 && r == TN_HANDSHAKE_MORE; part++) {
        size_t n = part == 0 ? cut : len - at;
        uint8_t *exact = calloc(1, n ? n : 1);
        memcpy(exact, bytes + at, n);
        r = tn_socks5_input(s, exact, n, &used);
        free(exact);
        if (r != TN_HANDSHAKE_DONE && r == TN_HANDSHAKE_MORE) assert_int_equal(used, n);
        at += used;
    }
    *left = len - at;
    return r;
}

static void test_no_auth_bytes(void **state)
{
    struct tn_proxy p = make_proxy(NULL, NULL);
    struct tn_socks5 *s = tn_socks5_new(&p, &dst4, NULL);
    size_t left;
    expect_output(s, "\x05\x01\x00", 3);
    assert_int_equal(feed(s, (const uint8_t *)"\x05\x00", 2, 1, &left), TN_HANDSHAKE_MORE);
    expect_output(s, "\x05\x01\x00\x01\x2d\x2d\x2d\x2d\x01\xbb", 10);
    assert_int_equal(feed(s, (const uint8_t *)"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00", 10, 0, &left), TN_HANDSHAKE_DONE);
    assert_int_equal(left, 0);
    tn_socks5_free(s);
}

static void test_auth_bytes(void **state)
{
    struct tn_proxy p = make_proxy("user", "");
    struct tn_socks5 *s = tn_socks5_new(&p, &dst6, NULL);
    size_t left;
    static const uint8_t request[22] = {5, 1, 0, 4, 0x2a, 0, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x1f, 0x90};
    expect_output(s, "\x05\x01\x02", 3);
    assert_int_equal(feed(s, (const uint8_t *)"\x05\x02", 2, 1, &left), TN_HANDSHAKE_MORE);
    expect_output(s, "\x01\x04user\x00", 7);
    for (size_t i = 0; i < sizeof s->out; i++) assert_int_equal(s->out[i], 0); /* wiped once sent */
    assert_int_equal(feed(s, (const uint8_t *)"\x01\x00", 2, 1, &left), TN_HANDSHAKE_MORE);
    expect_output(s, request, sizeof request);
    tn_socks5_free(s);
    free_proxy(&p);
}

static void test_longest_credentials(void **state)
{
    char text[256];
    memset(text, 'x', 255);
    text[255] = '\0';
    struct tn_proxy p = make_proxy(text, text);
    struct tn_socks5 *s = tn_socks5_new(&p, &dst4, NULL);
    size_t left, n;
    tn_socks5_sent(s, 3);
    assert_int_equal(feed(s, (const uint8_t *)"\x05\x02", 2, 0, &left), TN_HANDSHAKE_MORE);
    const uint8_t *out = tn_socks5_output(s, &n);
    assert_int_equal(n, 3 + 255 + 255);
    assert_int_equal(out[1], 255);
    assert_int_equal(out[257], 255);
    tn_socks5_sent(s, 100); /* a short write */
    assert_ptr_equal(tn_socks5_output(s, &n), out + 100);
    assert_int_equal(n, 413);
    tn_socks5_free(s);
    free_proxy(&p);
}

/* Brings a fresh engine to the state where the request was sent. */
static struct tn_socks5 *requested(struct tn_proxy *p)
{
    struct tn_socks5 *s = tn_socks5_new(p, &dst4, NULL);
    size_t used, n;
    tn_socks5_sent(s, 3);
    assert_int_equal(tn_socks5_input(s, (const uint8_t *)"\x05\x00", 2, &used), TN_HANDSHAKE_MORE);
    tn_socks5_output(s, &n);
    tn_socks5_sent(s, n);
    return s;
}

static size_t make_reply(uint8_t *out, uint8_t atyp, size_t name_len, const char *early)
{
    struct tn_wr w = tn_wr_init(out, 600);
    tn_wr_u8(&w, 5);
    tn_wr_u8(&w, 0);
    tn_wr_u8(&w, 0x77); /* RSV: ignored */
    tn_wr_u8(&w, atyp);
    if (atyp == 3) tn_wr_u8(&w, (uint8_t)name_len);
    tn_wr_zero(&w, atyp == 1 ? 4 : atyp == 4 ? 16 : name_len);
    tn_wr_be16(&w, 1080);
    tn_wr_bytes(&w, early, strlen(early));
    return tn_wr_len(&w);
}

static void test_bound_addresses_at_every_cut(void **state)
{
    static const struct {
        uint8_t atyp;
        size_t name_len;
    } kinds[] = {{1, 0}, {4, 0}, {3, 0}, {3, 1}, {3, 255}};
    struct tn_proxy p = make_proxy(NULL, NULL);
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        uint8_t reply[600];
        size_t len = make_reply(reply, kinds[k].atyp, kinds[k].name_len, "early"), left;
        for (size_t cut = 0; cut <= len; cut++) {
            struct tn_socks5 *s = requested(&p);
            assert_int_equal(feed(s, reply, len, cut, &left), TN_HANDSHAKE_DONE);
            /* Early bytes of the piece that completed the reply are left; those never handed in are, of course,
             * too. */
            assert_int_equal(left, 5);
            tn_socks5_free(s);
        }
        for (size_t n = 0; n < len - 5; n++) { /* every truncated prefix waits for more */
            struct tn_socks5 *s = requested(&p);
            assert_int_equal(feed(s, reply, n, 0, &left), TN_HANDSHAKE_MORE);
            tn_socks5_free(s);
        }
    }
}

static void test_reply_codes(void **state)
{
    static const int want[] = {
        [1] = TN_EGRESS_FAIL_PROXY_REFUSED, [2] = TN_EGRESS_FAIL_PROXY_REFUSED, [3] = TN_EGRESS_FAIL_UNREACHABLE,
        [4] = TN_EGRESS_FAIL_UNREACHABLE,   [5] = TN_EGRESS_FAIL_REFUSED,       [6] = TN_EGRESS_FAIL_TIMEOUT,
        [7] = TN_EGRESS_FAIL_PROXY_REFUSED, [8] = TN_EGRESS_FAIL_PROXY_REFUSED, [9] = TN_EGRESS_FAIL_PROXY_REFUSED,
        [255] = TN_EGRESS_FAIL_PROXY_REFUSED,
    };
    struct tn_proxy p = make_proxy(NULL, NULL);
    for (int rep = 1; rep < 256; rep++) {
        uint8_t reply[2] = {5, (uint8_t)rep}; /* the verdict falls without the rest */
        size_t left;
        struct tn_socks5 *s = requested(&p);
        assert_int_equal(feed(s, reply, 2, 1, &left), want[rep] ? want[rep] : TN_EGRESS_FAIL_PROXY_REFUSED);
        tn_socks5_free(s);
    }
}

static void test_bad_replies(void **state)
{
    struct tn_proxy p = make_proxy(NULL, NULL);
    for (int v = 0; v < 256; v++) {
        uint8_t version[2] = {(uint8_t)v, 0}, atyp[5] = {5, 0, 0, (uint8_t)v, 0};
        size_t left;
        struct tn_socks5 *s = requested(&p);
        if (v != 5) assert_int_equal(feed(s, version, 2, 1, &left), TN_EGRESS_FAIL_PROXY_PROTOCOL);
        tn_socks5_free(s);
        s = requested(&p);
        if (v != 1 && v != 3 && v != 4) assert_int_equal(feed(s, atyp, 5, 1, &left), TN_EGRESS_FAIL_PROXY_PROTOCOL);
        tn_socks5_free(s);
    }
}

static int greet(struct tn_proxy *p, uint8_t version, uint8_t method)
{
    struct tn_socks5 *s = tn_socks5_new(p, &dst4, NULL);
    uint8_t bytes[2] = {version, method};
    size_t left;
    tn_socks5_sent(s, 3);
    int r = feed(s, bytes, 2, 1, &left);
    tn_socks5_free(s);
    return r;
}

static void test_methods(void **state)
{
    struct tn_proxy open = make_proxy(NULL, NULL), auth = make_proxy("u", "p");
    for (int m = 0; m < 256; m++) {
        int other = m == 255 ? TN_EGRESS_FAIL_PROXY_AUTH : TN_EGRESS_FAIL_PROXY_PROTOCOL;
        assert_int_equal(greet(&open, 5, (uint8_t)m), m == 0 ? TN_HANDSHAKE_MORE : other);
        /* With credentials a proxy may not talk us down to none. */
        assert_int_equal(greet(&auth, 5, (uint8_t)m), m == 2 ? TN_HANDSHAKE_MORE : other);
        if (m != 5) assert_int_equal(greet(&open, (uint8_t)m, 0), TN_EGRESS_FAIL_PROXY_PROTOCOL);
    }
    free_proxy(&auth);
}

static void test_auth_answers(void **state)
{
    struct tn_proxy p = make_proxy("u", "p");
    for (int v = 0; v < 256; v++) {
        for (int status = 0; status < 256; status++) {
            struct tn_socks5 *s = tn_socks5_new(&p, &dst4, NULL);
            uint8_t bytes[2] = {(uint8_t)v, (uint8_t)status};
            size_t left;
            tn_socks5_sent(s, 3);
            feed(s, (const uint8_t *)"\x05\x02", 2, 1, &left);
            tn_socks5_sent(s, 5);
            int want = v != 1 ? TN_EGRESS_FAIL_PROXY_PROTOCOL : status ? TN_EGRESS_FAIL_PROXY_AUTH : TN_HANDSHAKE_MORE;
            assert_int_equal(feed(s, bytes, 2, 1, &left), want);
            tn_socks5_free(s);
        }
    }
    free_proxy(&p);
}

/* A whole conversation recited in advance is not an answer to anything. */
static void test_recited(void **state)
{
    struct tn_proxy p = make_proxy(NULL, NULL);
    struct tn_socks5 *s = tn_socks5_new(&p, &dst4, NULL);
    static const uint8_t all[] = {5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0};
    size_t left;
    tn_socks5_sent(s, 3);
    assert_int_equal(feed(s, all, sizeof all, 0, &left), TN_EGRESS_FAIL_PROXY_PROTOCOL);
    tn_socks5_free(s);
    s = tn_socks5_new(&p, &dst4, NULL); /* nor before the greeting went out */
    assert_int_equal(feed(s, all, 2, 0, &left), TN_EGRESS_FAIL_PROXY_PROTOCOL);
    tn_socks5_free(s);
}

/* The same conversation with another command, and where the relay is. */
static void test_associate(void **state)
{
    static const struct {
        uint8_t reply[32];
        size_t len;
        uint8_t family;
        uint16_t port;
    } replies[] = {
        {{5, 0, 0, 1, 46, 1, 1, 1, 0x13, 0x88}, 10, 4, 5000},
        {{5, 0, 0, 4, 0x2a, 0, [18] = 1, [20] = 0x13, 0x88}, 22, 6, 5000},
        {{5, 0, 0, 3, 5, 'p', 'r', 'o', 'x', 'y', 0x13, 0x88}, 12, 0, 0}, /* by a name: nowhere */
        {{5, 0, 0, 1, 0, 0, 0, 0, 0, 0}, 10, 4, 0},
    };
    for (size_t i = 0; i < sizeof replies / sizeof *replies; i++) {
        for (size_t cut = 0; cut <= replies[i].len; cut++) {
            struct tn_proxy p = make_proxy(NULL, NULL);
            struct tn_socks5 *s = tn_socks5_new_associate(&p);
            struct tn_addrport bound = dst4;
            size_t left;
            expect_output(s, "\5\1\0", 3);
            assert_int_equal(feed(s, (const uint8_t *)"\5\0", 2, 1, &left), TN_HANDSHAKE_MORE);
            expect_output(s, "\5\3\0\1\0\0\0\0\0\0", 10);
            tn_socks5_bound(s, &bound);
            assert_int_equal(bound.ip.family, 0); /* not yet */
            assert_int_equal(feed(s, replies[i].reply, replies[i].len, cut, &left), TN_HANDSHAKE_DONE);
            tn_socks5_bound(s, &bound);
            assert_int_equal(bound.ip.family, replies[i].family);
            assert_int_equal(bound.port, replies[i].port);
            tn_socks5_free(s);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_associate),
        cmocka_unit_test(test_no_auth_bytes),  cmocka_unit_test(test_auth_bytes),
        cmocka_unit_test(test_longest_credentials), cmocka_unit_test(test_bound_addresses_at_every_cut),
        cmocka_unit_test(test_reply_codes),    cmocka_unit_test(test_bad_replies),
        cmocka_unit_test(test_methods),        cmocka_unit_test(test_auth_answers),
        cmocka_unit_test(test_recited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
