/* The handshake's bytes against a transcript of wireguard-go (v0.0.0-20260715223240-2e01ba5b00f0) with known
 * ephemeral keys, the cookie exchange included; then forgeries. */
#include "wg/cookie.c"
#include "wg/handshake.c"

#include "crypto/aead.h"
#include "util/cursor.h"
#include "util/text.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static const char v_static1[] = "0020b186af7c7d829b1889bec7f4d53a331061f6df6c2df2cb08392ef7e4856a";
static const char v_static2[] = "600011660f5cdd62fbf8e99e27d4351a93f0c1d63f4c8dd22be8990e57c4e54a";
static const char v_ephemeral1[] = "c0e071466f3c3d425bd8497e87b495faf3d021b69f2cedb28bc8f9eeb7a4456a";
static const char v_ephemeral2[] = "b8b8a95ee794f5da53b08196ff0c4d92eba859ce1784a54a83a031062ffcfd42";
static const char v_initiation[] =
    "0100000023c0d12680fd42d2e051405fbc5f1f1207fb3ba70cb62446836bee4b387cff2ad4a57f3a853be77fcf7a9d639605963f"
    "6420dc10cda9a5e118bab6b80ca9eff35837fd93f41b28e7ccd5b61ae0320b45f61dc8a6b4179ea82dd69dbb88a6cc1b923f2272"
    "46a506167c3aa2a28c8d234dc2aea4f965cded579661509e8ac8db9c00000000000000000000000000000000";
static const char v_response[] =
    "02000000cf1c9d2223c0d12623ef32eea1fcb8b8771259a04421b779a8b0f5386c3ebe91ec38c79ddd467300f867d50367771afe"
    "85fec17a13e229bc5bf2253d959759292ea3d94a525969f400000000000000000000000000000000";
static const char v_data12[] = "4365d3ad9e5ede844426613b51cc58579fe0e39fdec81345b5021211327ee53142ad5449be55";
static const char v_data21[] = "8d5dbcce7e83d77691b94d9c3eb6624eb45314227046d2b6a66f13624ec1757d756beb01d6a4";
static const char v_cookie[] =
    "0300000023c0d1267b78691ea754b59a13704156bfcc0d52ab68198ed744650a90dc2357ac5633f64dc60eb578ac661a6140b908"
    "ec9829609a2f422117e1412c";
static const char v_secret[] = "1b98093e477455bab390e1765fecad724b88b9ae7764052ae38091e68fdc5de2";
static const char v_mac2[] = "c0bd1d128dc831e208f1af4f241aae38";

static void unhex(const char *text, void *out, size_t len) { assert_int_equal(tn_hex_decode(text, out, len), 0); }

/* A source of randomness that says what it is told, in order. */
struct script {
    const char *hex[4];
    int next;
};
static void scripted(void *ctx, void *out, size_t len)
{
    struct script *s = ctx;
    assert_non_null(s->hex[s->next]);
    unhex(s->hex[s->next++], out, len);
}

static struct tn_wg_identity identity(const char *hex)
{
    struct tn_wg_identity id;
    unhex(hex, id.key.b, 32);
    tn_node_public_of(&id.key, &id.pub);
    return id;
}

struct world {
    struct tn_wg_identity one, two;
    uint8_t shared[32], initiation[148], response[92], cookie[64];
};

static struct world setup(void)
{
    struct world w = {.one = identity(v_static1), .two = identity(v_static2)};
    assert_int_equal(tn_x25519(w.shared, w.one.key.b, w.two.pub.b), 0);
    unhex(v_initiation, w.initiation, 148);
    unhex(v_response, w.response, 92);
    unhex(v_cookie, w.cookie, 64);
    return w;
}

static int read_all(const struct world *w, const uint8_t *bytes, struct tn_wg_reading *r)
{
    struct tn_wgmsg_initiation m;
    if (tn_wgmsg_type(bytes, 148) != TN_WGMSG_INITIATION) return TN_E_MALFORMED;
    tn_wgmsg_get_initiation(bytes, &m);
    int err = tn_wg_read_static(r, &w->two, &m);
    if (err == 0 && !tn_node_public_eq(&r->from, &w->one.pub)) err = TN_E_NOENT;
    return err == 0 ? tn_wg_read_timestamp(r, w->shared, &m) : err;
}

/* Sealed by wireguard-go with the transport keys, counter 7. */
static void check_transport(const uint8_t key[32], const char *hex, const char *text)
{
    uint8_t sealed[64], plain[64], nonce[12] = {[4] = 7};
    size_t n = strlen(hex) / 2;
    unhex(hex, sealed, n);
    struct tn_aead *a = tn_aead_new(TN_AEAD_OPENSSL, key);
    assert_int_equal(tn_aead_open(a, nonce, NULL, 0, sealed, n, plain), 0);
    assert_int_equal(n - 16, strlen(text));
    assert_memory_equal(plain, text, n - 16);
    tn_aead_free(a);
}

static void responder_reads_go_and_answers_alike(void **state)
{
    struct world w = setup();
    struct tn_wg_reading r;
    struct tn_wg_keys keys;
    struct tn_wg_jar jar = {0};
    uint8_t out[92];
    struct script s = {.hex = {v_ephemeral2}};
    struct tn_rng rng = {scripted, &s};
    assert_int_equal(read_all(&w, w.initiation, &r), 0);
    assert_int_equal(tn_wg_respond(&r, tn_get_le32(w.response + 4), tn_get_le32(w.initiation + 4), &rng, out,
                                   &keys), 0);
    tn_wg_jar_sign(&jar, &w.one.pub, out, sizeof out, 0);
    assert_memory_equal(out, w.response, sizeof out);
    check_transport(keys.recv, v_data12, "initiator to responder");
    check_transport(keys.send, v_data21, "responder to initiator");
    assert_true(tn_key_is_zero(r.sym.ck));
}

static void initiator_writes_alike_and_reads_go(void **state)
{
    struct world w = setup();
    struct tn_wg_reading r;
    struct tn_wg_initiation st, before;
    struct tn_wg_keys keys;
    struct tn_wgmsg_response m;
    struct tn_wg_jar jar = {0};
    uint8_t out[148];
    struct script s = {.hex = {v_ephemeral1}};
    struct tn_rng rng = {scripted, &s};
    assert_int_equal(read_all(&w, w.initiation, &r), 0); /* for the timestamp in the transcript */
    assert_int_equal(tn_wg_initiate(&st, &w.one, &w.two.pub, w.shared, r.timestamp, tn_get_le32(w.initiation + 4),
                                    &rng, out), 0);
    tn_wg_jar_sign(&jar, &w.two.pub, out, sizeof out, 0);
    assert_memory_equal(out, w.initiation, sizeof out);
    before = st;
    assert_int_equal(tn_wgmsg_type(w.response, 92), TN_WGMSG_RESPONSE);
    tn_wgmsg_get_response(w.response, &m);
    assert_int_equal(m.receiver, tn_wgmsg_sender(out));
    for (size_t bit = 0; bit < 48 * 8; bit++) { /* ephemeral and tag */
        struct tn_wgmsg_response bad;
        uint8_t bytes[92];
        memcpy(bytes, w.response, 92);
        bytes[12 + bit / 8] ^= (uint8_t)(1 << bit % 8);
        tn_wgmsg_get_response(bytes, &bad);
        /* The top bit of an X25519 key is ignored by the curve, but not by the transcript. */
        assert_int_equal(tn_wg_finish(&st, &w.one, &bad, &keys), TN_E_CRYPTO);
        assert_memory_equal(&st, &before, sizeof st);
    }
    assert_int_equal(tn_wg_finish(&st, &w.one, &m, &keys), 0);
    check_transport(keys.send, v_data12, "initiator to responder");
    check_transport(keys.recv, v_data21, "responder to initiator");
}

static void forged_initiations(void **state)
{
    struct world w = setup();
    struct tn_wg_checker checker;
    tn_wg_checker_init(&checker, &w.two.pub);
    assert_true(tn_wg_check_mac1(&checker, w.initiation, 148));
    for (size_t bit = 0; bit < 132 * 8; bit++) {
        struct tn_wg_reading r;
        uint8_t bytes[148];
        memcpy(bytes, w.initiation, 148);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_false(tn_wg_check_mac1(&checker, bytes, 148));
        if (bit / 8 >= 8 && bit / 8 < 116) assert_int_not_equal(read_all(&w, bytes, &r), 0);
    }
    struct tn_wgmsg_initiation m;
    struct tn_wg_reading r;
    tn_wgmsg_get_initiation(w.initiation, &m);
    memset(m.ephemeral, 0, 32); /* low order */
    assert_int_equal(tn_wg_read_static(&r, &w.two, &m), TN_E_CRYPTO);
}

static void low_order_peer(void **state)
{
    struct world w = setup();
    uint64_t seed = 1;
    struct tn_rng rng = tn_rng_seeded(&seed);
    struct tn_node_public low = {{1}};
    struct tn_wg_initiation st;
    uint8_t stamp[12] = {0}, out[148];
    assert_int_equal(tn_wg_initiate(&st, &w.one, &low, w.shared, stamp, 1, &rng, out), TN_E_CRYPTO);
}

static void cookies_as_in_go(void **state)
{
    struct world w = setup();
    struct tn_wg_from from = {.bytes = {192, 0, 2, 1, 0x12, 0x34}, .len = 6};
    struct tn_wgmsg_cookie m;
    uint8_t msg[148], want_mac2[16], reply[64];
    struct tn_wg_jar jar = {0};
    unhex(v_mac2, want_mac2, 16);
    memcpy(msg, w.initiation, 148);
    assert_int_equal(tn_wgmsg_type(w.cookie, 64), TN_WGMSG_COOKIE);
    tn_wgmsg_get_cookie(w.cookie, &m);
    assert_int_equal(m.receiver, tn_wgmsg_sender(msg));
    assert_int_equal(tn_wg_jar_take(&jar, &w.two.pub, &m, 5), TN_E_CRYPTO); /* nothing was sent yet */
    tn_wg_jar_sign(&jar, &w.two.pub, msg, 148, 5);
    assert_memory_equal(msg, w.initiation, 148);
    m.sealed_cookie[3] ^= 1;
    assert_int_equal(tn_wg_jar_take(&jar, &w.two.pub, &m, 5), TN_E_CRYPTO);
    m.sealed_cookie[3] ^= 1;
    assert_int_equal(tn_wg_jar_take(&jar, &w.two.pub, &m, 5), 0);
    tn_wg_jar_sign(&jar, &w.two.pub, msg, 148, 5 + TN_WG_COOKIE_LIFE_US - 1);
    assert_memory_equal(msg + 132, want_mac2, 16);

    /* The other side: the same secret takes this MAC2 and makes the same reply. */
    struct tn_wg_checker c;
    struct script s = {.hex = {v_secret, "7b78691ea754b59a13704156bfcc0d52ab68198ed744650a"}};
    struct tn_rng rng = {scripted, &s};
    tn_wg_checker_init(&c, &w.two.pub);
    assert_false(tn_wg_check_mac2(&c, msg, 148, &from, 5)); /* no secret yet */
    tn_wg_cookie_reply(&c, &rng, w.initiation, 148, &from, 5, reply);
    assert_memory_equal(reply, w.cookie, 64);
    assert_true(tn_wg_check_mac2(&c, msg, 148, &from, 5));
    from.bytes[0]++;
    assert_false(tn_wg_check_mac2(&c, msg, 148, &from, 5));
    from.bytes[0]--;
    assert_true(tn_wg_check_mac2(&c, msg, 148, &from, 4 + TN_WG_COOKIE_LIFE_US));
    assert_false(tn_wg_check_mac2(&c, msg, 148, &from, 5 + TN_WG_COOKIE_LIFE_US));
    tn_wg_jar_sign(&jar, &w.two.pub, msg, 148, 5 + TN_WG_COOKIE_LIFE_US);
    assert_memory_equal(msg, w.initiation, 148); /* the cookie is too old to be used */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(responder_reads_go_and_answers_alike), cmocka_unit_test(initiator_writes_alike_and_reads_go),
        cmocka_unit_test(forged_initiations), cmocka_unit_test(low_order_peer), cmocka_unit_test(cookies_as_in_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
