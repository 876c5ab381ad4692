#include "crypto/box.c"
#include "crypto/keys.c"

#include <ctype.h>
#include <stdio.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static const char alice[] = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a";
static const char hex64[] = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f";

static void text_forms(void **state)
{
    char buf[TN_KEY_STRLEN], text[128];
    struct tn_node_public n;
    struct tn_machine_public m;
    struct tn_disco_public d;
    snprintf(text, sizeof text, "nodekey:%s", hex64);
    assert_int_equal(tn_node_public_parse(text, &n), 0);
    assert_string_equal(tn_node_public_format(&n, buf), text);
    assert_string_equal(tn_node_public_short(&n, text), "[3p7bf]");
    snprintf(text, sizeof text, "mkey:%s", hex64);
    assert_int_equal(tn_machine_public_parse(text, &m), 0);
    assert_string_equal(tn_machine_public_format(&m, buf), text);
    snprintf(text, sizeof text, "discokey:%s", hex64);
    assert_int_equal(tn_disco_public_parse(text, &d), 0);
    assert_string_equal(tn_disco_public_format(&d, buf), text);
    assert_int_equal(tn_node_public_parse(text, &n), TN_E_MALFORMED);
    struct tn_node_private np;
    struct tn_machine_private mp;
    snprintf(text, sizeof text, "privkey:%s", alice);
    assert_int_equal(tn_node_private_parse(text, &np), 0);
    assert_int_equal(tn_machine_private_parse(text, &mp), 0);
    assert_string_equal(tn_node_private_format(&np, buf), text);
    assert_string_equal(tn_machine_private_format(&mp, buf), text);
}

static void text_is_strict(void **state)
{
    struct tn_node_public n, zero = {0};
    char text[128], buf[TN_KEY_STRLEN];
    snprintf(text, sizeof text, "nodekey:%s", hex64);
    for (size_t len = strlen(text); len-- > 0;) {
        char cut[128];
        snprintf(cut, sizeof cut, "%.*s", (int)len, text);
        assert_int_equal(tn_node_public_parse(cut, &n), TN_E_MALFORMED);
    }
    strcat(text, "0");
    assert_int_equal(tn_node_public_parse(text, &n), TN_E_MALFORMED);
    snprintf(text, sizeof text, "nodekey:%s", hex64);
    text[20] = 'g';
    assert_int_equal(tn_node_public_parse(text, &n), TN_E_MALFORMED);
    for (char *c = text + 8; *c; c++) *c = (char)toupper((unsigned char)*c);
    text[20] = 'A';
    assert_int_equal(tn_node_public_parse(text, &n), 0);
    tn_node_public_format(&zero, buf);
    assert_int_equal(tn_node_public_parse(buf, &n), 0);
    assert_true(tn_key_is_zero(n.b));
    n.b[31] = 1;
    assert_false(tn_key_is_zero(n.b));
    assert_false(tn_node_public_eq(&n, &zero));
}

static void generated_are_clamped(void **state)
{
    uint64_t seed = 1;
    struct tn_rng rng = tn_rng_seeded(&seed);
    struct tn_node_private k, last = {0};
    struct tn_machine_private mk;
    struct tn_disco_private dk;
    struct tn_node_public n;
    struct tn_machine_public m;
    struct tn_disco_public d;
    for (int i = 0; i < 100; i++) {
        tn_node_private_generate(&k, &rng);
        assert_int_equal(k.b[0] & 7, 0);
        assert_int_equal(k.b[31] & 0xc0, 0x40);
        assert_memory_not_equal(&k, &last, sizeof k);
        last = k;
    }
    tn_machine_private_generate(&mk, &rng);
    tn_disco_private_generate(&dk, &rng);
    assert_int_equal(mk.b[0] & 7, 0);
    assert_int_equal(dk.b[31] & 0xc0, 0x40);
    assert_int_equal(tn_hex_decode(alice, k.b, 32), 0);
    memcpy(mk.b, k.b, 32);
    memcpy(dk.b, k.b, 32);
    tn_node_public_of(&k, &n);
    tn_machine_public_of(&mk, &m);
    tn_disco_public_of(&dk, &d);
    char hex[65];
    assert_string_equal(tn_hex_encode(n.b, 32, hex),
                        "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
    assert_memory_equal(n.b, m.b, 32);
    assert_memory_equal(n.b, d.b, 32);
}

/* The vector of NaCl's own test (tests/box.c): its nonce is handed out by the random source. */
static void nacl_nonce(void *ctx, void *out, size_t len)
{
    assert_int_equal(len, 24);
    memcpy(out, ctx, 24);
}

static void box_vector(void **state)
{
    uint8_t a[32], pa[32], b[32], pb[32], nonce[24], msg[131], want[16 + 131], out[131 + TN_BOX_OVERHEAD], back[131];
    assert_int_equal(tn_hex_decode(alice, a, 32), 0);
    assert_int_equal(tn_hex_decode("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb", b, 32), 0);
    tn_x25519_base(pa, a);
    tn_x25519_base(pb, b);
    assert_int_equal(tn_hex_decode("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37", nonce, 24), 0);
    assert_int_equal(tn_hex_decode("be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffc"
                                   "e5ecbaaf33bd751a1ac728d45e6c61296cdc3c01233561f41db66cce314adb31"
                                   "0e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde"
                                   "048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f93776384864"
                                   "5e0705", msg, 131), 0);
    assert_int_equal(tn_hex_decode("f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce"
                                   "48332ea7164d96a4476fb8c531a1186ac0dfc17c98dce87b4da7f011ec48c972"
                                   "71d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae"
                                   "90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b3"
                                   "7973f622a43d14a6599b1f654cb45a74e355a5", want, 147), 0);
    struct tn_box_shared ab, ba;
    assert_int_equal(tn_box_shared_init(&ab, a, pb), 0);
    assert_int_equal(tn_box_shared_init(&ba, b, pa), 0);
    assert_memory_equal(&ab, &ba, sizeof ab);
    struct tn_rng rng = {nacl_nonce, nonce};
    tn_box_seal(&ab, &rng, msg, 131, out);
    assert_memory_equal(out, nonce, 24);
    assert_memory_equal(out + 24, want, 147);
    assert_int_equal(tn_box_open(&ba, out, sizeof out, back), 0);
    assert_memory_equal(back, msg, 131);
    for (size_t i = 0; i < sizeof out; i++) {
        out[i] ^= 0x10;
        assert_int_equal(tn_box_open(&ba, out, sizeof out, back), TN_E_CRYPTO);
        out[i] ^= 0x10;
    }
    for (size_t n = 0; n < sizeof out; n++)
        assert_int_equal(tn_box_open(&ba, out, n, back), n < TN_BOX_OVERHEAD ? TN_E_MALFORMED : TN_E_CRYPTO);
}

static void box_empty_and_low_order(void **state)
{
    uint64_t seed = 2;
    struct tn_rng rng = tn_rng_seeded(&seed);
    uint8_t a[32] = {8}, pa[32], out[TN_BOX_OVERHEAD], none[1], low[32] = {0};
    struct tn_box_shared k;
    tn_x25519_base(pa, a);
    assert_int_equal(tn_box_shared_init(&k, a, pa), 0);
    tn_box_seal(&k, &rng, "", 0, out);
    assert_int_equal(tn_box_open(&k, out, sizeof out, none), 0);
    assert_int_equal(tn_box_shared_init(&k, a, low), TN_E_CRYPTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_forms), cmocka_unit_test(text_is_strict), cmocka_unit_test(generated_are_clamped),
        cmocka_unit_test(box_vector), cmocka_unit_test(box_empty_and_low_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
