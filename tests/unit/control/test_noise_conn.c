/* The ts2021 transport: bytes recorded from controlbase of v1.102.5, round trips cut anywhere, and hostile input. */
#include "control/noise_conn.c"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

#include "util/text.h"

/* Recorded from Go: machine key 22.., server key 11.., random bytes counting up from 40, version 119. */
static const char go_init[] =
    "007701006079a631eede1bf9c98f12032cdeadd0e7a079398fc786b88cc846ec89af85a51abfa9c9058b51313d17d6a5ef33"
    "410a0fb6818dba223a8899a1599951c39494228b8b0467df62b5cfff139bc389b3c7916f640b801e3f0daf320e698f55504c"
    "78";
static const char go_resp[] =
    "020030675dd574ed7789310b3d2e7681f3790b466c773b1521fecf36577958371ea52fb04bb326b8488e4f9464029a8bb6a4"
    "5e";
static const char go_client_1[] = "04002363b30bf4f4f9a65d391391ba2def078cb93a354f5bee270ed346828b6b7e92245d14d4";
static const char go_client_2[] = "040016b906e4fa14f978a0499876e3509b0d2a63bfa113e486";
static const char go_server_1[] = "040025f379c8b06743d0825bc3289bd4eee29ad877dc99d8168bb1218871cfa938fbd063e10e5c9d";

static void counting(void *ctx, void *out, size_t len)
{
    uint8_t *next = ctx, *p = out;
    for (size_t i = 0; i < len; i++) p[i] = (*next)++;
}

struct sink {
    uint8_t bytes[64 * 1024];
    size_t len, calls;
    int fail;
};

static int take(void *arg, const uint8_t *bytes, size_t len)
{
    struct sink *s = arg;
    assert_true(len > 0 && len <= TN_NOISE_PLAIN_MAX);
    assert_true(s->len + len <= sizeof s->bytes);
    memcpy(s->bytes + s->len, bytes, len);
    s->len += len;
    s->calls++;
    return s->fail;
}

static size_t unhex(const char *text, uint8_t *out)
{
    size_t len = strlen(text) / 2;
    assert_int_equal(tn_hex_decode(text, out, len), 0);
    return len;
}

struct pair {
    struct tn_machine_private machine, server;
    struct tn_machine_public machine_pub, server_pub;
    uint8_t init[TN_NOISE_INIT_LEN], resp[TN_NOISE_RESP_LEN], seed;
    struct tn_rng rng;
    struct tn_noise_conn *c, *s;
    struct tn_buf out;
};

static void start(struct pair *p)
{
    memset(p, 0, sizeof *p);
    memset(p->server.b, 0x11, 32);
    memset(p->machine.b, 0x22, 32);
    tn_machine_public_of(&p->server, &p->server_pub);
    tn_machine_public_of(&p->machine, &p->machine_pub);
    p->seed = 0x40;
    p->rng = (struct tn_rng){counting, &p->seed};
    tn_buf_init(&p->out, 1 << 20);
    assert_int_equal(tn_noise_conn_initiate(&p->machine, &p->server_pub, 119, &p->rng, p->init, &p->c), 0);
    assert_int_equal(tn_noise_conn_respond(&p->server, &p->rng, p->init, sizeof p->init, p->resp, &p->s), 0);
}

static void open_pair(struct pair *p)
{
    start(p);
    assert_int_equal(tn_noise_conn_input(p->c, p->resp, sizeof p->resp, take, NULL), 0);
    assert_true(tn_noise_conn_established(p->c) && tn_noise_conn_established(p->s));
}

static void stop(struct pair *p)
{
    tn_noise_conn_free(p->c);
    tn_noise_conn_free(p->s);
    tn_buf_fini(&p->out);
}

static void assert_sent(struct pair *p, const char *hex)
{
    uint8_t want[128];
    size_t len = unhex(hex, want);
    assert_int_equal(tn_buf_len(&p->out), len);
    assert_memory_equal(tn_buf_data(&p->out), want, len);
    tn_buf_consume(&p->out, len);
}

static void test_matches_go(void **state)
{
    struct pair p;
    struct sink got = {0};
    uint8_t want[128];
    open_pair(&p);
    unhex(go_init, want);
    assert_memory_equal(p.init, want, sizeof p.init);
    unhex(go_resp, want);
    assert_memory_equal(p.resp, want, sizeof p.resp);
    assert_memory_equal(tn_noise_conn_peer(p.s), &p.machine_pub, 32);
    assert_int_equal(tn_noise_conn_version(p.s), 119);

    assert_int_equal(tn_noise_conn_seal(p.c, "hello from the node", 19, &p.out), 0);
    assert_sent(&p, go_client_1);
    assert_int_equal(tn_noise_conn_seal(p.c, "second", 6, &p.out), 0);
    assert_sent(&p, go_client_2);
    assert_int_equal(tn_noise_conn_seal(p.s, "hello from the server", 21, &p.out), 0);
    assert_sent(&p, go_server_1);
    assert_int_equal(tn_noise_conn_input(p.c, want, unhex(go_server_1, want), take, &got), 0);
    assert_int_equal(got.len, 21);
    assert_memory_equal(got.bytes, "hello from the server", 21);
    stop(&p);
}

/* The response and three records (one of them empty) in one stream, cut in two at every byte, then byte by byte. */
static void test_cut_anywhere(void **state)
{
    for (size_t cut = 0;; cut++) {
        struct pair p;
        struct sink got = {0};
        start(&p);
        tn_buf_append(&p.out, p.resp, sizeof p.resp);
        tn_noise_conn_seal(p.s, "one", 3, &p.out);
        seal_record(p.s, NULL, 0, &p.out);
        tn_noise_conn_seal(p.s, "three", 5, &p.out);
        size_t len = tn_buf_len(&p.out);
        const uint8_t *all = tn_buf_data(&p.out);
        bool last = cut > len;
        if (last) {
            for (size_t i = 0; i < len; i++) assert_int_equal(tn_noise_conn_input(p.c, all + i, 1, take, &got), 0);
        } else {
            assert_int_equal(tn_noise_conn_input(p.c, all, cut, take, &got), 0);
            assert_int_equal(tn_noise_conn_input(p.c, all + cut, len - cut, take, &got), 0);
        }
        assert_int_equal(got.len, 8);
        assert_memory_equal(got.bytes, "onethree", 8);
        assert_null(p.c->partial.mem); /* an idle connection holds no buffer */
        stop(&p);
        if (last) break;
    }
}

static void test_long_messages_are_split(void **state)
{
    struct pair p;
    static struct sink got;
    static uint8_t text[3 * TN_NOISE_PLAIN_MAX + 17];
    open_pair(&p);
    got = (struct sink){0};
    for (size_t i = 0; i < sizeof text; i++) text[i] = (uint8_t)(i * 31);
    assert_int_equal(tn_noise_conn_seal(p.c, text, sizeof text, &p.out), 0);
    assert_int_equal(tn_buf_len(&p.out), sizeof text + 4 * (TN_NOISE_HEADER + TN_NOISE_TAG));
    assert_int_equal(tn_get_be16(tn_buf_data(&p.out) + 1), TN_NOISE_FRAME_MAX - TN_NOISE_HEADER);
    assert_int_equal(tn_noise_conn_input(p.s, tn_buf_data(&p.out), tn_buf_len(&p.out), take, &got), 0);
    assert_int_equal(got.calls, 4);
    assert_int_equal(got.len, sizeof text);
    assert_memory_equal(got.bytes, text, sizeof text);
    stop(&p);
}

static void test_nonces_count(void **state)
{
    struct pair p;
    struct sink got = {0};
    open_pair(&p);
    p.c->tx.counter = p.s->rx.counter = 0x0102030405060708; /* a wrong byte order would still agree with itself... */
    uint8_t nonce[TN_AEAD_NONCE], want[TN_AEAD_NONCE] = {0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8};
    nonce_of(p.c->tx.counter, nonce);
    assert_memory_equal(nonce, want, sizeof want); /* ...so the bytes themselves are looked at */
    tn_noise_conn_seal(p.c, "x", 1, &p.out);
    assert_int_equal(tn_noise_conn_input(p.s, tn_buf_data(&p.out), tn_buf_len(&p.out), take, &got), 0);
    p.c->tx.counter = UINT64_MAX;
    assert_int_equal(tn_noise_conn_seal(p.c, "x", 1, &p.out), TN_E_LIMIT);
    assert_int_equal(tn_noise_conn_seal(p.c, "x", 1, &p.out), TN_E_CLOSED);
    stop(&p);
}

static void test_every_bit_counts(void **state)
{
    for (size_t i = 0; i < TN_NOISE_INIT_LEN * 8; i += 3) {
        struct pair p;
        struct tn_noise_conn *s = NULL;
        uint8_t resp[TN_NOISE_RESP_LEN];
        start(&p);
        p.init[i / 8] ^= (uint8_t)(1 << i % 8);
        int err = tn_noise_conn_respond(&p.server, &p.rng, p.init, sizeof p.init, resp, &s);
        /* The top bit of an X25519 point is ignored by the curve, but not by the hash of the transcript. */
        assert_true(err == TN_E_MALFORMED || err == TN_E_CRYPTO);
        assert_null(s);
        stop(&p);
    }
    for (size_t i = 0; i < TN_NOISE_RESP_LEN * 8; i += 3) {
        struct pair p;
        start(&p);
        p.resp[i / 8] ^= (uint8_t)(1 << i % 8);
        int err = tn_noise_conn_input(p.c, p.resp, sizeof p.resp, take, NULL);
        /* A changed type may make it an error message that is still incomplete: no error yet, but no connection
         * either. */
        assert_true(err == TN_E_CRYPTO || err == TN_E_PROTO || err == TN_E_TOOBIG || err == TN_E_REFUSED ||
                    (err == 0 && i < 24));
        assert_false(tn_noise_conn_established(p.c));
        stop(&p);
    }
}

static void test_bad_tag_ends_it(void **state)
{
    struct pair p;
    struct sink got = {0};
    open_pair(&p);
    tn_noise_conn_seal(p.c, "good", 4, &p.out);
    tn_noise_conn_seal(p.c, "bad", 3, &p.out);
    tn_noise_conn_seal(p.c, "never", 5, &p.out);
    tn_buf_data(&p.out)[(3 + 4 + 16) + 3] ^= 1;
    assert_int_equal(tn_noise_conn_input(p.s, tn_buf_data(&p.out), tn_buf_len(&p.out), take, &got), TN_E_CRYPTO);
    assert_int_equal(got.len, 4);
    assert_int_equal(tn_noise_conn_input(p.s, "\4", 1, take, &got), TN_E_CLOSED);
    assert_null(p.s->rx.key);
    stop(&p);
}

static void test_replayed_record_fails(void **state)
{
    struct pair p;
    struct sink got = {0};
    open_pair(&p);
    tn_noise_conn_seal(p.c, "once", 4, &p.out);
    assert_int_equal(tn_noise_conn_input(p.s, tn_buf_data(&p.out), tn_buf_len(&p.out), take, &got), 0);
    assert_int_equal(tn_noise_conn_input(p.s, tn_buf_data(&p.out), tn_buf_len(&p.out), take, &got), TN_E_CRYPTO);
    stop(&p);
}

static void expect_dead(struct tn_noise_conn *c, const char *header, int err)
{
    assert_int_equal(tn_noise_conn_input(c, header, 3, take, NULL), err);
}

static void test_headers_are_judged_first(void **state)
{
    static const struct { const char *header; int open_err, handshake_err; } rows[] = {
        {"\x04\x10\x00", TN_E_TOOBIG, TN_E_TOOBIG}, /* 4096 of ciphertext: one frame over */
        {"\x04\xff\xff", TN_E_TOOBIG, TN_E_TOOBIG},
        {"\x02\x00\x30", TN_E_PROTO, 0},
        {"\x03\x00\x05", TN_E_PROTO, 0},
        {"\x01\x00\x60", TN_E_PROTO, TN_E_PROTO},
        {"\x04\x00\x20", 0, TN_E_PROTO},
        {"\x02\x00\x31", TN_E_PROTO, TN_E_PROTO},
        {"\x04\x00\x0f", TN_E_PROTO, TN_E_PROTO}, /* shorter than a tag */
        {"\x04\x00\x00", TN_E_PROTO, TN_E_PROTO},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct pair p;
        uint8_t more[16] = {0};
        open_pair(&p);
        int err = tn_noise_conn_input(p.c, rows[i].header, 3, take, NULL);
        if (err == 0 && rows[i].header[2] == 0x0f) err = tn_noise_conn_input(p.c, more, 15, take, NULL);
        assert_int_equal(err, rows[i].open_err);
        stop(&p);
        start(&p);
        expect_dead(p.c, rows[i].header, rows[i].handshake_err);
        stop(&p);
    }
}

static void test_refusal(void **state)
{
    struct pair p;
    char longest[5000];
    start(&p);
    assert_int_equal(tn_noise_refuse("go away", &p.out), 0);
    for (size_t i = 0; i + 1 < tn_buf_len(&p.out); i++)
        assert_int_equal(tn_noise_conn_input(p.c, tn_buf_data(&p.out) + i, 1, take, NULL), 0);
    assert_int_equal(tn_noise_conn_input(p.c, "y", 1, take, NULL), TN_E_REFUSED);
    assert_string_equal(tn_noise_conn_refusal(p.c), "go away");
    stop(&p);
    start(&p);
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    assert_int_equal(tn_noise_refuse(longest, &p.out), 0);
    assert_int_equal(tn_buf_len(&p.out), TN_NOISE_FRAME_MAX);
    assert_int_equal(tn_noise_conn_input(p.c, tn_buf_data(&p.out), tn_buf_len(&p.out), take, NULL), TN_E_REFUSED);
    assert_int_equal(strlen(tn_noise_conn_refusal(p.c)), REFUSAL_MAX - 1);
    stop(&p);
}

static void test_responder_rejects(void **state)
{
    struct pair p;
    struct tn_noise_conn *s = NULL;
    uint8_t resp[TN_NOISE_RESP_LEN], low[TN_NOISE_INIT_LEN];
    start(&p);
    for (size_t len = 0; len < sizeof p.init; len++)
        assert_int_equal(tn_noise_conn_respond(&p.server, &p.rng, p.init, len, resp, &s), TN_E_MALFORMED);
    memcpy(low, p.init, sizeof low);
    memset(low + 5, 0, 32); /* a low-order ephemeral */
    assert_int_equal(tn_noise_conn_respond(&p.server, &p.rng, low, sizeof low, resp, &s), TN_E_CRYPTO);
    assert_int_equal(tn_noise_conn_respond(&p.machine, &p.rng, p.init, sizeof p.init, resp, &s), TN_E_CRYPTO);
    assert_null(s);
    stop(&p);
}

static void test_version_is_bound(void **state)
{
    struct pair p;
    struct tn_noise_conn *s = NULL;
    uint8_t resp[TN_NOISE_RESP_LEN];
    start(&p);
    p.init[1] = 118;
    assert_int_equal(tn_noise_conn_respond(&p.server, &p.rng, p.init, sizeof p.init, resp, &s), TN_E_CRYPTO);
    stop(&p);
}

static void test_callers_stop(void **state)
{
    struct pair p;
    struct sink got = {.fail = TN_E_CANCELED};
    open_pair(&p);
    assert_int_equal(tn_noise_conn_seal(p.c, "", 0, &p.out), 0);
    assert_int_equal(tn_buf_len(&p.out), 0);
    tn_noise_conn_seal(p.c, "a", 1, &p.out);
    tn_noise_conn_seal(p.c, "b", 1, &p.out);
    assert_int_equal(tn_noise_conn_input(p.s, tn_buf_data(&p.out), tn_buf_len(&p.out), take, &got), TN_E_CANCELED);
    assert_int_equal(got.calls, 1);
    stop(&p);
    start(&p);
    assert_int_equal(tn_noise_conn_seal(p.c, "early", 5, &p.out), TN_E_NOTCONN);
    stop(&p);
}

static void test_full_output(void **state)
{
    struct pair p;
    struct tn_buf small;
    open_pair(&p);
    tn_buf_init(&small, 30);
    assert_int_equal(tn_noise_conn_seal(p.c, "0123456789abcdef", 16, &small), TN_E_TOOBIG);
    assert_int_equal(tn_noise_conn_seal(p.c, "x", 1, &small), TN_E_CLOSED);
    tn_buf_fini(&small);
    stop(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matches_go),
        cmocka_unit_test(test_cut_anywhere),
        cmocka_unit_test(test_long_messages_are_split),
        cmocka_unit_test(test_nonces_count),
        cmocka_unit_test(test_every_bit_counts),
        cmocka_unit_test(test_bad_tag_ends_it),
        cmocka_unit_test(test_replayed_record_fails),
        cmocka_unit_test(test_headers_are_judged_first),
        cmocka_unit_test(test_refusal),
        cmocka_unit_test(test_responder_rejects),
        cmocka_unit_test(test_version_is_bound),
        cmocka_unit_test(test_callers_stop),
        cmocka_unit_test(test_full_output),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
