/* RFC 8439 section 2.8.2, draft-irtf-cfrg-xchacha-03 appendix A.3.1, and every implementation against every other. */
#include "crypto/aead.c"
#include "crypto/aead_imb.c"

#include "util/rng.h"
#include "util/text.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

enum { MAX = 1500 };

static void unhex(const char *text, uint8_t *out, size_t len) { assert_int_equal(tn_hex_decode(text, out, len), 0); }

static const char sunscreen[] = "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the "
                                "future, sunscreen would be it.";
static const char key_hex[] = "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f";
static const char ad_hex[] = "50515253c0c1c2c3c4c5c6c7";

static struct tn_aead *make(enum tn_aead_impl impl, const uint8_t key[32])
{
    struct tn_aead *a = tn_aead_new(impl, key);
    if (!a && impl == TN_AEAD_IPSECMB) skip();
    assert_non_null(a);
    return a;
}

static void rfc8439(enum tn_aead_impl impl)
{
    uint8_t key[32], nonce[12], ad[12], want[114 + 16], got[114 + 16], back[114];
    unhex(key_hex, key, 32);
    unhex("070000004041424344454647", nonce, 12);
    unhex(ad_hex, ad, 12);
    unhex("d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b"
          "1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
          "3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691", want, sizeof want);
    struct tn_aead *a = make(impl, key);
    tn_aead_seal(a, nonce, ad, sizeof ad, sunscreen, 114, got);
    assert_memory_equal(got, want, sizeof want);
    assert_int_equal(tn_aead_open(a, nonce, ad, sizeof ad, got, sizeof got, back), 0);
    assert_memory_equal(back, sunscreen, 114);
    ad[0] ^= 1;
    assert_int_equal(tn_aead_open(a, nonce, ad, sizeof ad, got, sizeof got, back), TN_E_CRYPTO);
    tn_aead_free(a);
}
static void rfc8439_openssl(void **state) { rfc8439(TN_AEAD_OPENSSL); }
static void rfc8439_ipsecmb(void **state) { rfc8439(TN_AEAD_IPSECMB); }
static void rfc8439_auto(void **state) { rfc8439(TN_AEAD_AUTO); }

/* Against libsodium, in place and not, for every length; the byte after the output stays as it was. */
static void all_lengths(enum tn_aead_impl impl)
{
    uint64_t seed = 11;
    struct tn_rng rng = tn_rng_seeded(&seed);
    uint8_t key[32], nonce[12] = {0}, msg[MAX], want[MAX + 16], got[MAX + 17];
    tn_rng_fill(&rng, key, sizeof key);
    tn_rng_fill(&rng, msg, sizeof msg);
    struct tn_aead *a = make(impl, key);
    for (size_t len = 0; len <= MAX; len++) {
        unsigned long long n;
        size_t adlen = len % 40;
        tn_put_le64(nonce + 4, tn_rng_u64(&rng));
        crypto_aead_chacha20poly1305_ietf_encrypt(want, &n, msg, len, msg, adlen, NULL, nonce, key);
        got[len + 16] = 0x5a;
        tn_aead_seal(a, nonce, msg, adlen, msg, len, got);
        assert_memory_equal(got, want, len + 16);
        assert_int_equal(got[len + 16], 0x5a);
        memcpy(got, msg, len);
        tn_aead_seal(a, nonce, msg, adlen, got, len, got);
        assert_memory_equal(got, want, len + 16);
        assert_int_equal(tn_aead_open(a, nonce, msg, adlen, got, len + 16, got), 0);
        assert_memory_equal(got, msg, len);
        want[tn_rng_below(&rng, len + 16)] ^= (uint8_t)(1 << tn_rng_below(&rng, 8));
        assert_int_equal(tn_aead_open(a, nonce, msg, adlen, want, len + 16, got), TN_E_CRYPTO);
    }
    tn_aead_free(a);
}
static void all_lengths_openssl(void **state) { all_lengths(TN_AEAD_OPENSSL); }
static void all_lengths_ipsecmb(void **state) { all_lengths(TN_AEAD_IPSECMB); }
/* 2.2 MB in all: on a CPU with AVX-512 the implementation changes under way. */
static void all_lengths_auto(void **state) { all_lengths(TN_AEAD_AUTO); }

static void changes_over_when_warm(void **state)
{
    static uint8_t msg[1280], out[1296];
    uint8_t key[32] = {3}, nonce[12] = {0};
    struct tn_aead_engine *e = tn_aead_engine_new(TN_AEAD_AUTO);
    struct tn_aead *a = tn_aead_new_in(e, key);
    size_t sent = 0;
    for (; sent + sizeof msg < TN_AEAD_WARM_BYTES; sent += sizeof msg) {
        assert_int_equal(tn_aead_engine_impl(e), TN_AEAD_OPENSSL);
        tn_aead_seal(a, nonce, NULL, 0, msg, sizeof msg, out);
    }
    assert_int_equal(tn_aead_engine_impl(e), TN_AEAD_OPENSSL);
    tn_aead_seal(a, nonce, NULL, 0, msg, sizeof msg, out);
    assert_int_equal(tn_aead_engine_impl(e), tn_imb_worthwhile() ? TN_AEAD_IPSECMB : TN_AEAD_OPENSSL);
    tn_aead_free(a);
    tn_aead_engine_free(e);
}

/* Several keys in one engine, used in turn, and one dying while the engine still holds it. */
static void keys_share_an_engine(void **state)
{
    uint8_t nonce[12] = {0}, out[4][20], again[20], back[4];
    struct tn_aead_engine *e = tn_aead_engine_new(TN_AEAD_OPENSSL);
    struct tn_aead *k[4];
    for (uint8_t i = 0; i < 4; i++) {
        uint8_t key[32] = {i};
        k[i] = tn_aead_new_in(e, key);
        assert_non_null(k[i]);
        tn_aead_seal(k[i], nonce, NULL, 0, "text", 4, out[i]);
    }
    for (int i = 3; i >= 0; i--) {
        for (int j = 0; j < 4; j++)
            assert_int_equal(tn_aead_open(k[i], nonce, NULL, 0, out[j], 20, back), i == j ? 0 : TN_E_CRYPTO);
        tn_aead_seal(k[i], nonce, NULL, 0, "text", 4, again);
        assert_memory_equal(again, out[i], 20);
    }
    tn_aead_free(k[0]);
    uint8_t key[32] = {9};
    struct tn_aead *fresh = tn_aead_new_in(e, key); /* perhaps at the dead key's address */
    tn_aead_seal(fresh, nonce, NULL, 0, "text", 4, again);
    assert_memory_not_equal(again, out[0], 20);
    tn_aead_free(fresh);
    for (int i = 1; i < 4; i++) tn_aead_free(k[i]);
    tn_aead_engine_free(e);
}

static void truncated(void **state)
{
    uint8_t key[32] = {1}, nonce[12] = {0}, sealed[40 + 16], back[40];
    struct tn_aead *a = make(TN_AEAD_OPENSSL, key);
    memset(back, 0, sizeof back);
    tn_aead_seal(a, nonce, NULL, 0, back, 40, sealed);
    for (size_t n = 0; n < sizeof sealed; n++)
        assert_int_equal(tn_aead_open(a, nonce, NULL, 0, sealed, n, back), n < 16 ? TN_E_MALFORMED : TN_E_CRYPTO);
    tn_aead_free(a);
}

static void batches(enum tn_aead_impl impl)
{
    enum { N = 40 };
    static uint8_t plain[N][MAX], sealed[N][MAX + 16], back[N][MAX];
    uint64_t seed = 5;
    struct tn_rng rng = tn_rng_seeded(&seed);
    uint8_t key[32] = {8}, nonce[12] = {0}, want[MAX + 16];
    struct tn_aead_job jobs[N];
    tn_rng_fill(&rng, plain, sizeof plain);
    struct tn_aead *a = make(impl, key);
    for (size_t i = 0; i < N; i++)
        jobs[i] = (struct tn_aead_job){
            .counter = tn_rng_u64(&rng), .in = plain[i], .out = sealed[i], .len = tn_rng_below(&rng, MAX + 1)};
    tn_aead_seal_batch(a, jobs, N);
    for (size_t i = 0; i < N; i++) {
        tn_put_le64(nonce + 4, jobs[i].counter);
        tn_aead_seal(a, nonce, NULL, 0, plain[i], jobs[i].len, want);
        assert_memory_equal(sealed[i], want, jobs[i].len + 16);
        jobs[i].len += 16;
        jobs[i].in = sealed[i];
        jobs[i].out = back[i];
        jobs[i].result = 1;
    }
    sealed[7][3] ^= 4;
    jobs[9].len = 15;
    tn_aead_open_batch(a, jobs, N);
    for (size_t i = 0; i < N; i++) {
        assert_int_equal(jobs[i].result, i == 7 ? TN_E_CRYPTO : i == 9 ? TN_E_MALFORMED : 0);
        if (jobs[i].result == 0) assert_memory_equal(back[i], plain[i], jobs[i].len - 16);
    }
    tn_aead_seal_batch(a, NULL, 0);
    tn_aead_free(a);
}
static void batches_openssl(void **state) { batches(TN_AEAD_OPENSSL); }
/* Its self-tests run through 3 MB of code. */
static void little_of_ipsecmb_stays_resident(void **state)
{
#ifdef TN_HAVE_IPSECMB
    static const uint8_t key[32];
    struct tn_aead *a = make(TN_AEAD_IPSECMB, key);
    assert_true(tn_trim_code((const void *)(uintptr_t)init_mb_mgr_auto) < 1024 * 1024);
    tn_aead_free(a);
#else
    skip();
#endif
}

static void batches_ipsecmb(void **state) { batches(TN_AEAD_IPSECMB); }

/* A run is as many datagrams sealed one by one: headers as they are, the last one short, a key by the call. */
static void runs(enum tn_aead_impl impl)
{
    enum { N = 9, HEADER = 16, SEGMENT = 200, LAST = 96 };
    static uint8_t bytes[(N - 1) * SEGMENT + LAST], text[N][SEGMENT], sealed[N][SEGMENT];
    uint64_t seed = 6;
    struct tn_rng rng = tn_rng_seeded(&seed);
    uint8_t key[2][32] = {{1}, {2}}, zero[32] = {0};
    struct tn_aead_engine *e = tn_aead_engine_new(impl);
    if (!e) skip();
    for (int k = 0; k < 4; k++) { /* two keys in turn */
        struct tn_aead *a = make(TN_AEAD_OPENSSL, key[k % 2]);
        assert_memory_equal(tn_aead_key(a), key[k % 2], 32);
        tn_rng_fill(&rng, bytes, sizeof bytes);
        for (size_t i = 0; i < N; i++) memcpy(text[i], bytes + i * SEGMENT, i + 1 < N ? SEGMENT : LAST);
        struct tn_aead_run run = {.bytes = bytes, .len = sizeof bytes, .segment = SEGMENT, .header = HEADER,
                                  .counter = UINT64_MAX - 4, .key = key[k % 2]};
        tn_aead_seal_run(e, &run);
        struct tn_aead_job jobs[N];
        for (size_t i = 0; i < N; i++)
            jobs[i] = (struct tn_aead_job){.counter = run.counter + i, .in = text[i] + HEADER, .out = sealed[i],
                                           .len = (i + 1 < N ? SEGMENT : LAST) - HEADER - TN_AEAD_TAG};
        tn_aead_seal_batch(a, jobs, N);
        for (size_t i = 0; i < N; i++) {
            assert_memory_equal(bytes + i * SEGMENT, text[i], HEADER);
            assert_memory_equal(bytes + i * SEGMENT + HEADER, sealed[i], jobs[i].len + TN_AEAD_TAG);
            jobs[i].in = jobs[i].out = sealed[i];
            jobs[i].len += TN_AEAD_TAG;
        }
        sealed[3][0] ^= 1;
        tn_aead_open_batch_in(e, key[k % 2], jobs, N);
        for (size_t i = 0; i < N; i++) {
            assert_int_equal(jobs[i].result, i == 3 ? TN_E_CRYPTO : 0);
            if (i != 3) assert_memory_equal(sealed[i], text[i] + HEADER, jobs[i].len - TN_AEAD_TAG);
        }
        if (impl == TN_AEAD_OPENSSL) assert_memory_equal(e->loaded[SEAL], key[k % 2], 32);
        tn_aead_engine_forget(e);
        assert_memory_equal(e->loaded[SEAL], zero, 32);
        assert_memory_equal(e->loaded[OPEN], zero, 32);
        tn_aead_free(a);
    }
    tn_aead_engine_free(e);
}
static void runs_openssl(void **state) { runs(TN_AEAD_OPENSSL); }
static void runs_ipsecmb(void **state) { runs(TN_AEAD_IPSECMB); }

static void xchacha(void **state)
{
    uint8_t key[32], nonce[24], ad[12], want[114 + 16], got[114 + 16], back[114];
    unhex(key_hex, key, 32);
    unhex("404142434445464748494a4b4c4d4e4f5051525354555657", nonce, 24);
    unhex(ad_hex, ad, 12);
    unhex("bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f4eda7e39"
          "ae64c6708c54c216cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"
          "21f9664c97637da9768812f615c68b13b52ec0875924c1c7987947deafd8780acf49", want, sizeof want);
    tn_xaead_seal(key, nonce, ad, sizeof ad, sunscreen, 114, got);
    assert_memory_equal(got, want, sizeof want);
    assert_int_equal(tn_xaead_open(key, nonce, ad, sizeof ad, got, sizeof got, back), 0);
    assert_memory_equal(back, sunscreen, 114);
    got[50] ^= 1;
    assert_int_equal(tn_xaead_open(key, nonce, ad, sizeof ad, got, sizeof got, back), TN_E_CRYPTO);
    assert_int_equal(tn_xaead_open(key, nonce, ad, sizeof ad, got, 15, back), TN_E_MALFORMED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rfc8439_openssl),        cmocka_unit_test(rfc8439_ipsecmb),
        cmocka_unit_test(rfc8439_auto),           cmocka_unit_test(all_lengths_openssl),
        cmocka_unit_test(all_lengths_ipsecmb),    cmocka_unit_test(all_lengths_auto),
        cmocka_unit_test(runs_openssl),           cmocka_unit_test(runs_ipsecmb),
        cmocka_unit_test(changes_over_when_warm), cmocka_unit_test(keys_share_an_engine),
        cmocka_unit_test(truncated),              cmocka_unit_test(batches_openssl),
        cmocka_unit_test(batches_ipsecmb), cmocka_unit_test(little_of_ipsecmb_stays_resident),
        cmocka_unit_test(xchacha),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
