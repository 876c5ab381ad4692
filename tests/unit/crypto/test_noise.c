/* Vectors: RFC 7693 (appendices A and E), RFC 7748 section 5.2 and 6.1, the KDF of WireGuard over HMAC-BLAKE2s. */
#include "crypto/blake2s.c"
#include "crypto/noise.c"

#include "util/rng.h"
#include "util/text.h"
#include <openssl/evp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static void unhex(const char *text, uint8_t *out, size_t len) { assert_int_equal(tn_hex_decode(text, out, len), 0); }

static void assert_hex(const uint8_t *got, size_t len, const char *want)
{
    char text[257];
    assert_true(len <= 128);
    assert_string_equal(tn_hex_encode(got, len, text), want);
}

static void blake2s_abc(void **state)
{
    uint8_t out[32];
    const char *want = "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982";
    tn_blake2s(out, "abc", 3, NULL, 0);
    assert_hex(out, 32, want);
    tn_blake2s(out, "a", 1, "bc", 2);
    assert_hex(out, 32, want);
    tn_blake2s(out, NULL, 0, NULL, 0);
    assert_hex(out, 32, "69217a3079908094e11121d042354a7c1f55b6482ca1a51e1b250dfd1ed0eef9");
}

/* RFC 7693 appendix E: a hash over hashes of every length class and digest size, with and without keys. */
static void selftest_sequence(uint8_t *out, size_t len, uint32_t seed)
{
    uint32_t a = 0xDEAD4BAD * seed, b = 1;
    for (size_t i = 0; i < len; i++) {
        uint32_t t = a + b;
        a = b;
        b = t;
        out[i] = (uint8_t)(t >> 24);
    }
}

static void blake2s_rfc_selftest(void **state)
{
    static const size_t digests[] = {16, 20, 28, 32}, lens[] = {0, 3, 64, 65, 255, 1024};
    struct tn_blake2s all, one;
    uint8_t in[1024], key[32], md[32];
    tn_blake2s_init(&all, 32, NULL, 0);
    for (size_t i = 0; i < 4; i++) {
        for (size_t j = 0; j < 6; j++) {
            selftest_sequence(in, lens[j], (uint32_t)lens[j]);
            tn_blake2s_init(&one, digests[i], NULL, 0);
            tn_blake2s_update(&one, in, lens[j]);
            tn_blake2s_final(&one, md);
            tn_blake2s_update(&all, md, digests[i]);
            selftest_sequence(key, digests[i], (uint32_t)digests[i]);
            tn_blake2s_init(&one, digests[i], key, digests[i]);
            tn_blake2s_update(&one, in, lens[j]);
            tn_blake2s_final(&one, md);
            tn_blake2s_update(&all, md, digests[i]);
        }
    }
    tn_blake2s_final(&all, md);
    assert_hex(md, 32, "6a411f08ce25adcdfb02aba641451cec53c598b24f4fc787fbdc88797f4c1dfe");
}

static void blake2s_against_openssl(void **state)
{
    uint64_t seed = 7;
    struct tn_rng rng = tn_rng_seeded(&seed);
    uint8_t in[300], got[32], want[32];
    tn_rng_fill(&rng, in, sizeof in);
    for (size_t len = 0; len <= sizeof in; len++) {
        unsigned n = 0;
        assert_int_equal(EVP_Digest(in, len, want, &n, EVP_blake2s256(), NULL), 1);
        size_t cut = tn_rng_below(&rng, len + 1);
        tn_blake2s(got, in, cut, in + cut, len - cut);
        assert_memory_equal(got, want, 32);
    }
}

static void mac16(void **state)
{
    /* Independent of the keyed path above: key block by hand, with the parameter word of a 16-byte digest. */
    uint8_t key[32], a[16], b[16];
    struct tn_blake2s s;
    for (unsigned i = 0; i < 32; i++) key[i] = (uint8_t)i;
    tn_blake2s_mac16(a, key, 32, "message", 7);
    tn_blake2s_init(&s, 16, key, 32);
    tn_blake2s_update(&s, "mess", 4);
    tn_blake2s_update(&s, "age", 3);
    tn_blake2s_final(&s, b);
    assert_memory_equal(a, b, 16);
    tn_blake2s_mac16(b, key, 16, "message", 7);
    assert_memory_not_equal(a, b, 16);
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "BLAKE2SMAC", NULL);
    EVP_MAC_CTX *ctx = EVP_MAC_CTX_new(mac);
    size_t size = 16, n = 0;
    OSSL_PARAM params[] = {OSSL_PARAM_construct_size_t("size", &size), OSSL_PARAM_construct_end()};
    assert_int_equal(EVP_MAC_init(ctx, key, 32, params), 1);
    assert_int_equal(EVP_MAC_update(ctx, (const uint8_t *)"message", 7), 1);
    assert_int_equal(EVP_MAC_final(ctx, b, &n, sizeof b), 1);
    assert_memory_equal(a, b, 16);
    EVP_MAC_CTX_free(ctx);
    EVP_MAC_free(mac);
}

static void hmac_against_openssl(void **state)
{
    uint8_t key[100], msg[200], got[32], want[32];
    for (unsigned i = 0; i < sizeof key; i++) key[i] = (uint8_t)(i * 3);
    for (unsigned i = 0; i < sizeof msg; i++) msg[i] = (uint8_t)(i * 5);
    for (size_t k = 1; k <= sizeof key; k += 9) {
        size_t n = 0;
        assert_non_null(EVP_Q_mac(NULL, "HMAC", NULL, "BLAKE2S-256", NULL, key, k, msg, k * 2, want, 32, &n));
        tn_hmac_blake2s(got, key, k, msg, k * 2);
        assert_memory_equal(got, want, 32);
    }
}

/* The KDF with keys that are not 32 bytes long: the HMAC and the chain of outputs, as wireguard-go's kdf_test has
 * it. */
static void kdf_vectors(void **state)
{
    static const struct {
        const char *key, *input, *t[3];
    } v[] = {
        {"test-key", "test-input",
         {"6f0e5ad38daba1bea8a0d213688736f19763239305e0f58aba697f9ffc41c633",
          "df1194df20802a4fe594cde27e92991c8cae66c366e8106aaa937a55fa371e8a",
          "fac6e2745a325f5dc5d11a5b165aad08b0ada28e7b4e666b7c077934a4d76c24"}},
        {"wireguard", "wireguard",
         {"491d43bbfdaa8750aaf535e334ecbfe5129967cd64635101c566d4caefda96e8",
          "1e71a379baefd8a79aa4662212fcafe19a23e2b609a3db7d6bcba8f560e3d25f",
          "31e1ae48bddfbe5de38f295e5452b1909a1b4e38e183926af3780b0c1e1f0160"}},
        {"", "",
         {"8387b46bf43eccfcf349552a095d8315c4055beb90208fb1be23b894bc2ed5d0",
          "58a0e5f6faefccf4807bff1f05fa8a9217945762040bcec2f4b4a62bdfe0e86e",
          "0ce6ea98ec548f8e281e93e32db65621c45eb18dc6f0a7ad94178610a2f7338e"}},
    };
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        uint8_t ck[32] = {0}, t[3][32];
        /* HMAC pads its key with zeros, so a short key and the same key zero-padded to 32 bytes give the same. */
        memcpy(ck, v[i].key, strlen(v[i].key));
        tn_noise_hkdf(ck, v[i].input, strlen(v[i].input), t[0], t[1], t[2]);
        for (int k = 0; k < 3; k++) assert_hex(t[k], 32, v[i].t[k]);
        tn_noise_hkdf(ck, v[i].input, strlen(v[i].input), ck, t[1], NULL); /* out1 may be ck itself */
        assert_hex(ck, 32, v[i].t[0]);
        assert_hex(t[1], 32, v[i].t[1]);
    }
}

static void x25519_vectors(void **state)
{
    uint8_t k[32], u[32], out[32];
    unhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4", k, 32);
    unhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c", u, 32);
    assert_int_equal(tn_x25519(out, k, u), 0);
    assert_hex(out, 32, "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552");
    uint8_t low[32] = {0};
    assert_int_equal(tn_x25519(out, k, low), TN_E_CRYPTO);
    low[0] = 1;
    assert_int_equal(tn_x25519(out, k, low), TN_E_CRYPTO);
}

static void x25519_agrees(void **state)
{
    uint8_t a[32], b[32], pa[32], pb[32], s1[32], s2[32];
    unhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a", a, 32);
    unhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb", b, 32);
    tn_x25519_base(pa, a);
    tn_x25519_base(pb, b);
    assert_hex(pb, 32, "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"); /* RFC 7748, Bob */
    assert_int_equal(tn_x25519(s1, a, pb), 0);
    assert_int_equal(tn_x25519(s2, b, pa), 0);
    assert_memory_equal(s1, s2, 32);
}

static void symmetric_state(void **state)
{
    struct tn_noise_sym a, b;
    uint8_t ka[32], kb[32], sealed[5 + TN_NOISE_TAG], opened[5];
    tn_noise_init(&a, "Noise_IK_25519_ChaChaPoly_BLAKE2s");
    tn_noise_init(&b, "Noise_IK_25519_ChaChaPoly_BLAKE2s");
    assert_memory_equal(a.h, a.ck, 32);
    tn_noise_mix_hash(&a, "prologue", 8);
    tn_noise_mix_hash(&b, "prologue", 8);
    tn_noise_mix_key(&a, "dh", 2, ka);
    tn_noise_mix_key(&b, "dh", 2, kb);
    assert_memory_equal(ka, kb, 32);
    tn_noise_encrypt(&a, ka, "hello", 5, sealed);
    struct tn_noise_sym before = b;
    for (size_t i = 0; i < sizeof sealed; i++) {
        sealed[i] ^= 1;
        assert_int_equal(tn_noise_decrypt(&b, kb, sealed, sizeof sealed, opened), TN_E_CRYPTO);
        assert_memory_equal(&b, &before, sizeof b); /* a forged message leaves the state as it was */
        sealed[i] ^= 1;
    }
    for (size_t n = 0; n < sizeof sealed; n++)
        assert_int_equal(tn_noise_decrypt(&b, kb, sealed, n, opened),
                         n < TN_NOISE_TAG ? TN_E_MALFORMED : TN_E_CRYPTO);
    assert_int_equal(tn_noise_decrypt(&b, kb, sealed, sizeof sealed, opened), 0);
    assert_memory_equal(opened, "hello", 5);
    assert_memory_equal(&a, &b, sizeof a);
    tn_noise_wipe(&a);
    assert_int_equal(a.h[0] | a.ck[31], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blake2s_abc),        cmocka_unit_test(blake2s_rfc_selftest),
        cmocka_unit_test(blake2s_against_openssl), cmocka_unit_test(mac16),
        cmocka_unit_test(hmac_against_openssl),    cmocka_unit_test(kdf_vectors),
        cmocka_unit_test(x25519_vectors),     cmocka_unit_test(x25519_agrees),
        cmocka_unit_test(symmetric_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
