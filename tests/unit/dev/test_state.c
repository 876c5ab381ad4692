/* The state directory and the certificate. */
#include "support.h"
#include "../../../dev/state.c"
#include "crypto/tls.h"

#include <openssl/x509v3.h>
#include <sys/stat.h>

static char dir[64];
static char why[256];
static struct tn_rng rng;
static const int64_t unix_s = 1800000000;
static struct tn_ip loopback;

static int setup(void **state)
{
    rng = tn_rng_system();
    loopback = tn_ip4(127, 0, 0, 1);
    snprintf(dir, sizeof dir, "/tmp/tn-dev-state-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    static const char *const names[] = {"lock", "keys.json", "derp.pem", "auth-key", "nodes.json", "sub/lock"};
    char path[128];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    return rmdir(dir);
}

static int open_it(struct tn_dev_state *s, const char *auth_key)
{
    why[0] = '\0';
    return tn_dev_state_open(s, dir, &loopback, auth_key, unix_s, &rng, why, sizeof why);
}

static void put_file(const char *name, const char *text, size_t len)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(tn_file_replace(path, text, len), 0);
}

static char *get_file(const char *name, size_t *len)
{
    char path[128], *text;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(tn_file_read(path, 1 << 20, &text, len), 0);
    return text;
}

static void made_once(void **state)
{
    struct tn_dev_state a, b;
    assert_int_equal(open_it(&a, NULL), 0);
    assert_int_equal(open_it(&b, NULL), TN_E_BUSY); /* locked, also within one process */
    assert_non_null(strstr(why, "in use"));
    char key[128];
    snprintf(key, sizeof key, "%s", tn_secret_bytes(a.auth_key));
    assert_int_equal(strlen(key), 11 + 2 * AUTH_RANDOM);
    struct tn_machine_private machine = a.machine;
    size_t pem_len = a.pem_len;
    static const char *const names[] = {"keys.json", "derp.pem", "auth-key"};
    for (size_t i = 0; i < 3; i++) {
        char path[128];
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
    }
    tn_dev_state_close(&a);
    assert_int_equal(open_it(&b, NULL), 0);
    assert_memory_equal(&machine, &b.machine, sizeof machine);
    assert_string_equal(tn_secret_bytes(b.auth_key), key);
    assert_int_equal(b.pem_len, pem_len);
    tn_dev_state_close(&b);
    assert_int_equal(open_it(&b, "given"), 0);
    assert_string_equal(tn_secret_bytes(b.auth_key), "given");
    tn_dev_state_close(&b);
    assert_int_equal(open_it(&b, "two words"), TN_E_INVAL);
    assert_int_equal(open_it(&b, ""), TN_E_INVAL);
    assert_null(strstr(why, "two words"));
}

/* Any truncation of a file stops the start and leaves the file alone. */
static void cut_files(void **state)
{
    struct tn_dev_state s;
    size_t len, len_after;
    assert_int_equal(open_it(&s, NULL), 0);
    tn_dev_state_close(&s);
    char *keys = get_file("keys.json", &len);
    for (size_t n = 0; n < len - 2; n++) {
        put_file("keys.json", keys, n);
        assert_int_equal(open_it(&s, NULL), TN_E_STATE);
        assert_non_null(strstr(why, "keys.json"));
        char *after = get_file("keys.json", &len_after);
        assert_int_equal(len_after, n);
        free(after);
    }
    put_file("keys.json", keys, len);
    free(keys);
    put_file("auth-key", "", 0);
    assert_int_equal(open_it(&s, NULL), TN_E_STATE);
    put_file("auth-key", "key-of-mine\n", 12);
    assert_int_equal(open_it(&s, NULL), 0);
    assert_string_equal(tn_secret_bytes(s.auth_key), "key-of-mine");

    struct tn_dev_registry r;
    tn_dev_registry_init(&r, &rng);
    assert_int_equal(tn_dev_state_load_nodes(&s, &r, why, sizeof why), 0); /* no file: an empty tailnet */
    put_file("nodes.json", "", 0);
    assert_int_equal(tn_dev_state_load_nodes(&s, &r, why, sizeof why), TN_E_STATE);
    assert_int_equal(tn_dev_state_save_nodes(&s, &r), 0);
    assert_int_equal(tn_dev_state_load_nodes(&s, &r, why, sizeof why), 0);
    tn_dev_registry_fini(&r);
    tn_dev_state_close(&s);
}

static void certificates(void **state)
{
    char *pem;
    size_t len;
    struct tn_ip other = tn_ip4(192, 0, 2, 1), v6;
    assert_int_equal(tn_ip_parse("fd00::1", &v6), 0);
    assert_int_equal(tn_dev_cert_make(&loopback, unix_s, &pem, &len), 0);
    assert_true(tn_dev_cert_usable(pem, len, &loopback, unix_s));
    assert_false(tn_dev_cert_usable(pem, len, &other, unix_s));
    /* It ends within a month. */
    assert_false(tn_dev_cert_usable(pem, len, &loopback, unix_s + (int64_t)800 * 24 * 3600));
    assert_false(tn_dev_cert_usable(pem, len, &loopback, unix_s - (int64_t)2 * 24 * 3600));
    for (size_t n = 0; n < len - 30; n += 7) assert_false(tn_dev_cert_usable(pem, n, &loopback, unix_s));
    free(pem);
    assert_int_equal(tn_dev_cert_make(&v6, unix_s, &pem, &len), 0);
    assert_true(tn_dev_cert_usable(pem, len, &v6, unix_s));
    free(pem);

    struct tn_dev_state s;
    assert_int_equal(open_it(&s, NULL), 0);
    char name[TN_DEV_CERT_NAME_LEN], again[TN_DEV_CERT_NAME_LEN];
    struct tn_node_public key = nkey(1);
    SSL_CTX *ctx;
    assert_int_equal(tn_dev_tls_new(s.pem, s.pem_len, &key, unix_s, &ctx, name), 0);
    assert_memory_equal(name, "sha256-raw:", 11);
    /* The metacertificate behind the leaf: serial 2, CN with the key. */
    STACK_OF(X509) *chain = NULL;
    SSL_CTX_get0_chain_certs(ctx, &chain);
    if (!chain) SSL_CTX_get_extra_chain_certs(ctx, &chain);
    assert_int_equal(sk_X509_num(chain), 1);
    X509 *meta = sk_X509_value(chain, 0);
    char cn[128] = "";
    X509_NAME_get_text_by_NID(X509_get_subject_name(meta), NID_commonName, cn, sizeof cn);
    assert_memory_equal(cn, "derpkey6e00", 11);
    assert_int_equal(strlen(cn), 7 + 64);
    assert_int_equal(ASN1_INTEGER_get(X509_get0_serialNumber(meta)), 2);
    SSL_CTX_free(ctx);
    assert_int_equal(tn_dev_tls_new(s.pem, s.pem_len, &key, unix_s, &ctx, again), 0);
    assert_string_equal(name, again);
    SSL_CTX_free(ctx);
    tn_dev_state_close(&s);
    loopback = tn_ip4(192, 0, 2, 9); /* advertised elsewhere: a new certificate, the rest stays */
    assert_int_equal(open_it(&s, NULL), 0);
    assert_int_equal(tn_dev_tls_new(s.pem, s.pem_len, &key, unix_s, &ctx, again), 0);
    assert_string_not_equal(name, again);
    SSL_CTX_free(ctx);
    tn_dev_state_close(&s);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {CASE(made_once), CASE(cut_files), CASE(certificates)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
