/* The TLS client against OpenSSL's server over memory, with certificates made here. */
#include "crypto/tls.c"
#include "crypto/tls_bio.c"
#include "crypto/tls_roots.c"
#include "crypto/tls_verify.c"

#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

struct identity {
    X509 *cert;
    EVP_PKEY *key;
};

static void extend(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    assert_non_null(e);
    assert_int_equal(X509_add_ext(cert, e, -1), 1);
    X509_EXTENSION_free(e);
}

/* from and to: seconds from now. issuer NULL: self-signed. san NULL: none. */
static struct identity make(const char *cn, const char *san, const struct identity *issuer, long from, long to,
                            long serial)
{
    struct identity id = {X509_new(), EVP_EC_gen("P-256")};
    X509_set_version(id.cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(id.cert), serial);
    X509_gmtime_adj(X509_getm_notBefore(id.cert), from);
    X509_gmtime_adj(X509_getm_notAfter(id.cert), to);
    X509_set_pubkey(id.cert, id.key);
    X509_NAME *name = X509_get_subject_name(id.cert);
    /* By type, since OpenSSL's own table refuses a common name over 64 characters, which a metacertificate has. */
    assert_int_equal(X509_NAME_add_entry_by_NID(name, NID_commonName, V_ASN1_UTF8STRING, (const uint8_t *)cn,
                                                (int)strlen(cn), -1, 0), 1);
    X509 *by = issuer ? issuer->cert : id.cert;
    X509_set_issuer_name(id.cert, X509_get_subject_name(by));
    extend(id.cert, by, NID_basic_constraints, san ? "critical,CA:FALSE" : "critical,CA:TRUE");
    if (san) extend(id.cert, by, NID_subject_alt_name, san);
    assert_true(X509_sign(id.cert, issuer ? issuer->key : id.key, EVP_sha256()) > 0);
    return id;
}

static void drop(struct identity *id)
{
    X509_free(id->cert);
    EVP_PKEY_free(id->key);
}

enum { DAY = 86400 };

struct world {
    struct identity ca, leaf, ip_leaf, expired, lone;
    char roots[64];
};

static void write_pem(const char *path, X509 *cert)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(PEM_write_X509(f, cert), 1);
    fclose(f);
}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    w->ca = make("test root", NULL, NULL, -DAY, DAY, 1);
    w->leaf = make("wrong.example", "DNS:good.example,DNS:*.wild.example", &w->ca, -DAY, DAY, 2);
    w->ip_leaf = make("ip", "IP:192.0.2.7,IP:2001:db8::7", &w->ca, -DAY, DAY, 3);
    w->expired = make("good.example", "DNS:good.example", &w->ca, -3 * DAY, -DAY, 4);
    w->lone = make("lone", "DNS:lone.example,IP:192.0.2.8", NULL, -DAY, DAY, 5);
    strcpy(w->roots, "/tmp/tn-test-tls-XXXXXX");
    int fd = mkstemp(w->roots);
    assert_true(fd >= 0);
    close(fd);
    write_pem(w->roots, w->ca.cert);
    setenv("SSL_CERT_FILE", w->roots, 1);
    setenv("SSL_CERT_DIR", "/nonexistent", 1);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    unlink(w->roots);
    drop(&w->ca);
    drop(&w->leaf);
    drop(&w->ip_leaf);
    drop(&w->expired);
    drop(&w->lone);
    free(w);
    return 0;
}

struct server {
    SSL_CTX *ctx;
    SSL *ssl;
    BIO *in, *out;
    char sni[128];
};

static int choose_h2(SSL *ssl, const uint8_t **out, uint8_t *outlen, const uint8_t *in, unsigned inlen, void *arg)
{
    static const uint8_t h2[] = "\x02h2";
    return SSL_select_next_proto((uint8_t **)out, outlen, h2, 3, in, inlen) == OPENSSL_NPN_NEGOTIATED
               ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
}

static int note_sni(SSL *ssl, int *alert, void *arg)
{
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    snprintf(arg, 128, "%s", name ? name : "");
    return SSL_TLSEXT_ERR_OK;
}

static void serve(struct server *s, const struct identity *id, X509 *extra, int max_version)
{
    *s = (struct server){.ctx = SSL_CTX_new(TLS_server_method()), .in = BIO_new(BIO_s_mem()),
                         .out = BIO_new(BIO_s_mem())};
    SSL_CTX_use_certificate(s->ctx, id->cert);
    SSL_CTX_use_PrivateKey(s->ctx, id->key);
    if (extra) SSL_CTX_add1_chain_cert(s->ctx, extra);
    if (max_version == TLS1_1_VERSION) {
        SSL_CTX_set_min_proto_version(s->ctx, TLS1_VERSION);
        SSL_CTX_set_cipher_list(s->ctx, "ALL:@SECLEVEL=0");
    }
    SSL_CTX_set_max_proto_version(s->ctx, max_version);
    SSL_CTX_set_alpn_select_cb(s->ctx, choose_h2, NULL);
    SSL_CTX_set_tlsext_servername_callback(s->ctx, note_sni);
    SSL_CTX_set_tlsext_servername_arg(s->ctx, s->sni);
    s->ssl = SSL_new(s->ctx);
    SSL_set_bio(s->ssl, s->in, s->out);
    SSL_set_accept_state(s->ssl);
}

static void stop(struct server *s)
{
    SSL_free(s->ssl);
    SSL_CTX_free(s->ctx);
    ERR_clear_error();
}

/* Moves what is pending, at most step bytes at a time. True when something moved. */
static bool carry(struct tn_tls *t, struct server *s, size_t step)
{
    const uint8_t *bytes;
    uint8_t buf[70000];
    bool moved = false;
    size_t n = tn_tls_output(t, &bytes);
    if (n > step) n = step;
    if (n > 0) {
        BIO_write(s->in, bytes, (int)n);
        tn_tls_output_consume(t, n);
        moved = true;
    }
    int got = BIO_read(s->out, buf, (int)(step < sizeof buf ? step : sizeof buf));
    if (got > 0) {
        assert_int_equal(tn_tls_input(t, buf, (size_t)got), 0);
        moved = true;
    }
    return moved;
}

static int shake(struct tn_tls *t, struct server *s, size_t step)
{
    int err = TN_E_AGAIN;
    for (int i = 0; i < 20000; i++) {
        if (err == TN_E_AGAIN) err = tn_tls_handshake(t);
        (void)SSL_do_handshake(s->ssl);
        ERR_clear_error();
        if (!carry(t, s, step) && err != TN_E_AGAIN) return err;
    }
    return err;
}

static int connect_to(struct tn_tls_ctx *ctx, struct server *s, const struct tn_dial_spec *spec, struct tn_tls **out)
{
    assert_int_equal(tn_tls_new(ctx, spec, out), 0);
    return shake(*out, s, 65536);
}

/* One handshake with this identity and spec; returns its result. error gets the reason. */
static int attempt(const struct identity *id, X509 *extra, const struct tn_dial_spec *spec, char error[256])
{
    struct server s;
    struct tn_tls *t;
    struct tn_tls_ctx *ctx = tn_tls_ctx_new();
    serve(&s, id, extra, TLS1_3_VERSION);
    int err = connect_to(ctx, &s, spec, &t);
    snprintf(error, 256, "%s", tn_tls_error(t));
    assert_int_equal(ctx->verifying, 0);
    tn_tls_free(t);
    tn_tls_ctx_free(ctx);
    stop(&s);
    return err;
}

static void data_both_ways(int version, size_t step, const struct world *w)
{
    enum { LEN = 100000 };
    static uint8_t sent[LEN], got[LEN];
    struct tn_dial_spec spec = {.host = "good.example", .alpn = "h2"};
    struct server s;
    struct tn_tls *t;
    struct tn_tls_ctx *ctx = tn_tls_ctx_new();
    serve(&s, &w->leaf, NULL, version);
    assert_int_equal(tn_tls_new(ctx, &spec, &t), 0);
    assert_int_equal(tn_tls_write(t, "x", 1), TN_E_NOTCONN);
    assert_int_equal(tn_tls_read(t, got, 1), TN_E_AGAIN);
    assert_int_equal(shake(t, &s, step), 0);
    assert_string_equal(tn_tls_alpn(t), "h2");
    assert_string_equal(s.sni, "good.example");
    for (size_t i = 0; i < LEN; i++) sent[i] = (uint8_t)(i * 7 >> 3);
    assert_int_equal(tn_tls_write(t, sent, LEN), 0);
    size_t have = 0;
    while (have < LEN) {
        carry(t, &s, step);
        int n = SSL_read(s.ssl, got + have, (int)(LEN - have));
        if (n > 0) have += (size_t)n;
    }
    assert_memory_equal(got, sent, LEN);
    for (size_t at = 0; at < LEN; at += 10000) assert_int_equal(SSL_write(s.ssl, sent + at, 10000), 10000);
    memset(got, 0, LEN);
    for (have = 0; have < LEN;) {
        carry(t, &s, step);
        long n = tn_tls_read(t, got + have, LEN - have);
        assert_true(n > 0 || n == TN_E_AGAIN);
        if (n > 0) have += (size_t)n;
    }
    assert_memory_equal(got, sent, LEN);
    assert_int_equal(tn_tls_read(t, got, LEN), TN_E_AGAIN);
    SSL_shutdown(s.ssl);
    while (carry(t, &s, step)) continue;
    assert_int_equal(tn_tls_read(t, got, LEN), TN_E_EOF);
    assert_int_equal(tn_tls_read(t, got, LEN), TN_E_EOF);
    tn_tls_shutdown(t);
    while (carry(t, &s, step)) continue;
    assert_int_equal(SSL_read(s.ssl, got, 1), 0);
    assert_int_equal(SSL_get_shutdown(s.ssl) & SSL_RECEIVED_SHUTDOWN, SSL_RECEIVED_SHUTDOWN);
    tn_tls_free(t);
    tn_tls_ctx_free(ctx);
    stop(&s);
}
static void tls13(void **state) { data_both_ways(TLS1_3_VERSION, 65536, *state); }
static void tls12(void **state) { data_both_ways(TLS1_2_VERSION, 65536, *state); }
static void tls13_in_pieces(void **state) { data_both_ways(TLS1_3_VERSION, 97, *state); }
static void tls12_in_pieces(void **state) { data_both_ways(TLS1_2_VERSION, 13, *state); }

static void tls11_is_refused(void **state)
{
    struct world *w = *state;
    struct tn_dial_spec spec = {.host = "good.example"};
    struct server s;
    struct tn_tls *t;
    struct tn_tls_ctx *ctx = tn_tls_ctx_new();
    serve(&s, &w->leaf, NULL, TLS1_1_VERSION);
    assert_int_equal(connect_to(ctx, &s, &spec, &t), TN_E_TLS);
    tn_tls_free(t);
    tn_tls_ctx_free(ctx);
    stop(&s);
}

static void names(void **state)
{
    struct world *w = *state;
    char error[256];
    static const struct {
        const char *host;
        bool good;
    } cases[] = {
        {"good.example", true}, {"good.example.", true}, {"GOOD.example", true}, {"a.wild.example", true},
        {"a.b.wild.example", false}, {"wild.example", false}, {"bad.example", false},
        {"wrong.example", false}, /* only the common name says so */
        {"192.0.2.7", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tn_dial_spec spec = {.host = cases[i].host};
        int err = attempt(&w->leaf, NULL, &spec, error);
        assert_int_equal(err, cases[i].good ? 0 : TN_E_CERT);
        if (!cases[i].good) assert_non_null(strstr(error, cases[i].host));
    }
    struct tn_dial_spec v4 = {.host = "192.0.2.7"}, v6 = {.host = "2001:db8::7"}, other = {.host = "192.0.2.9"};
    assert_int_equal(attempt(&w->ip_leaf, NULL, &v4, error), 0);
    assert_int_equal(attempt(&w->ip_leaf, NULL, &v6, error), 0);
    assert_int_equal(attempt(&w->ip_leaf, NULL, &other, error), TN_E_CERT);
    struct tn_dial_spec fronted = {.host = "192.0.2.1", .sni = "front.example", .verify_name = "good.example"};
    assert_int_equal(attempt(&w->leaf, NULL, &fronted, error), 0);
    struct tn_dial_spec none = {.host = ""};
    struct tn_tls_ctx *ctx = tn_tls_ctx_new();
    struct tn_tls *t;
    assert_int_equal(tn_tls_new(ctx, &none, &t), TN_E_INVAL);
    char longname[400];
    memset(longname, 'a', sizeof longname);
    longname[sizeof longname - 1] = '\0';
    none.host = longname;
    assert_int_equal(tn_tls_new(ctx, &none, &t), TN_E_INVAL);
    tn_tls_ctx_free(ctx);
}

static void sni_has_no_final_dot(void **state)
{
    struct world *w = *state;
    struct server s;
    struct tn_tls *t;
    struct tn_tls_ctx *ctx = tn_tls_ctx_new();
    struct tn_dial_spec spec = {.host = "good.example."};
    serve(&s, &w->leaf, NULL, TLS1_3_VERSION);
    assert_int_equal(connect_to(ctx, &s, &spec, &t), 0);
    assert_string_equal(s.sni, "good.example");
    tn_tls_free(t);
    tn_tls_ctx_free(ctx);
    stop(&s);
}

static void sni_is_no_address(void **state)
{
    struct world *w = *state;
    struct server s;
    struct tn_tls *t;
    struct tn_tls_ctx *ctx = tn_tls_ctx_new();
    struct tn_dial_spec spec = {.host = "192.0.2.7"};
    strcpy(s.sni, "unset");
    serve(&s, &w->ip_leaf, NULL, TLS1_3_VERSION);
    assert_int_equal(connect_to(ctx, &s, &spec, &t), 0);
    assert_string_equal(s.sni, "");
    assert_null(tn_tls_alpn(t));
    tn_tls_free(t);
    tn_tls_ctx_free(ctx);
    stop(&s);
}

static void chain_errors(void **state)
{
    struct world *w = *state;
    char error[256];
    struct tn_dial_spec good = {.host = "good.example"}, lone = {.host = "lone.example"};
    assert_int_equal(attempt(&w->expired, NULL, &good, error), TN_E_CERT);
    assert_non_null(strstr(error, "expired"));
    assert_int_equal(attempt(&w->lone, NULL, &lone, error), TN_E_CERT);
    assert_non_null(strstr(error, "self"));
    lone.verify = TN_VERIFY_INSECURE;
    assert_int_equal(attempt(&w->lone, NULL, &lone, error), 0);
    good.verify = TN_VERIFY_INSECURE;
    assert_int_equal(attempt(&w->expired, NULL, &good, error), 0);
}

static void environment(void **state)
{
    struct world *w = *state;
    char error[256], path[80];
    struct tn_dial_spec lone = {.host = "lone.example"}, good = {.host = "good.example"};
    setenv("SSL_CERT_FILE", "/nonexistent/roots.pem", 1);
    assert_int_equal(attempt(&w->leaf, NULL, &good, error), TN_E_CERT);
    assert_non_null(strstr(error, "SSL_CERT_FILE (/nonexistent/roots.pem)"));
    snprintf(path, sizeof path, "%s.lone", w->roots);
    write_pem(path, w->lone.cert);
    setenv("SSL_CERT_FILE", path, 1);
    assert_int_equal(attempt(&w->lone, NULL, &lone, error), 0); /* a certificate may be its own root */
    assert_int_equal(attempt(&w->leaf, NULL, &good, error), TN_E_CERT);
    unlink(path);
    char dir[80], link[128];
    snprintf(dir, sizeof dir, "%s.d", w->roots);
    snprintf(link, sizeof link, "%s/%08lx.0", dir,
             X509_NAME_hash_ex(X509_get_subject_name(w->ca.cert), NULL, NULL, NULL));
    assert_int_equal(mkdir(dir, 0700), 0);
    write_pem(link, w->ca.cert);
    unsetenv("SSL_CERT_FILE");
    setenv("SSL_CERT_DIR", dir, 1);
    assert_int_equal(attempt(&w->leaf, NULL, &good, error), 0);
    assert_int_equal(attempt(&w->lone, NULL, &lone, error), TN_E_CERT);
    unlink(link);
    rmdir(dir);
    setenv("SSL_CERT_FILE", w->roots, 1);
    setenv("SSL_CERT_DIR", "/nonexistent", 1);
}

static void pinned(void **state)
{
    struct world *w = *state;
    char error[256];
    unsigned n;
    struct identity meta = make("derpkey00", "DNS:derp", NULL, -DAY, DAY, 2);
    struct tn_dial_spec spec = {.host = "lone.example", .verify = TN_VERIFY_SHA256};
    X509_digest(w->lone.cert, EVP_sha256(), spec.sha256, &n);
    assert_int_equal(attempt(&w->lone, NULL, &spec, error), 0);
    assert_int_equal(attempt(&w->lone, meta.cert, &spec, error), 0);
    assert_int_equal(attempt(&w->lone, w->ca.cert, &spec, error), TN_E_CERT);
    assert_non_null(strstr(error, "more than one"));
    assert_int_equal(attempt(&meta, NULL, &spec, error), TN_E_CERT);
    assert_non_null(strstr(error, "SHA-256"));
    /* Somebody on the way who has no key for it, behind a leaf of his own: the pinned one is no secret. */
    assert_int_equal(attempt(&meta, w->lone.cert, &spec, error), TN_E_CERT);
    assert_non_null(strstr(error, "SHA-256"));
    assert_int_equal(attempt(&w->leaf, NULL, &spec, error), TN_E_CERT);
    assert_non_null(strstr(error, "SHA-256"));
    spec.host = "other.example";
    assert_int_equal(attempt(&w->lone, NULL, &spec, error), TN_E_CERT);
    assert_non_null(strstr(error, "another host"));
    spec.host = "192.0.2.99"; /* an address is not compared: Go has no server name then */
    assert_int_equal(attempt(&w->lone, NULL, &spec, error), 0);
    spec.host = "good.example";
    X509_digest(w->expired.cert, EVP_sha256(), spec.sha256, &n);
    assert_int_equal(attempt(&w->expired, NULL, &spec, error), TN_E_CERT);
    assert_non_null(strstr(error, "expired"));
    struct identity early = make("e", "DNS:good.example", NULL, DAY, 2 * DAY, 9);
    X509_digest(early.cert, EVP_sha256(), spec.sha256, &n);
    assert_int_equal(attempt(&early, NULL, &spec, error), TN_E_CERT);
    assert_non_null(strstr(error, "clock"));
    drop(&early);
    drop(&meta);
}

static void metacert(void **state)
{
    struct world *w = *state;
    static const char hex[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    char cn[80];
    uint8_t key[32], want[32];
    tn_hex_decode(hex, want, 32);
    snprintf(cn, sizeof cn, "derpkey%s", hex);
    static const struct {
        size_t cut;
        long serial;
        int version;
        bool good;
    } cases[] = {
        {0, 2, TLS1_3_VERSION, true}, {0, 255, TLS1_3_VERSION, true}, {0, 256, TLS1_3_VERSION, false},
        {1, 2, TLS1_3_VERSION, false}, {0, 2, TLS1_2_VERSION, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char name[80];
        snprintf(name, sizeof name, "%.*s", (int)(strlen(cn) - cases[i].cut), cn);
        struct identity meta = make(name, "DNS:derp", NULL, -DAY, DAY, cases[i].serial);
        struct tn_dial_spec spec = {.host = "good.example"};
        struct tn_tls_ctx *ctx = tn_tls_ctx_new();
        struct server s;
        struct tn_tls *t;
        serve(&s, &w->leaf, meta.cert, cases[i].version);
        assert_int_equal(tn_tls_new(ctx, &spec, &t), 0);
        assert_false(tn_tls_derp_meta(t, key));
        assert_int_equal(shake(t, &s, 65536), 0);
        assert_int_equal(tn_tls_derp_meta(t, key), cases[i].good);
        if (cases[i].good) assert_memory_equal(key, want, 32);
        tn_tls_free(t);
        tn_tls_ctx_free(ctx);
        stop(&s);
        drop(&meta);
    }
}

/* Something else than TLS, cut-off TLS, and flipped bits end with an error, not with data. */
static void hostile_bytes(void **state)
{
    struct world *w = *state;
    struct tn_dial_spec spec = {.host = "good.example"};
    struct tn_tls_ctx *ctx = tn_tls_ctx_new();
    struct tn_tls *t;
    uint8_t buf[64];
    assert_int_equal(tn_tls_new(ctx, &spec, &t), 0);
    assert_int_equal(tn_tls_handshake(t), TN_E_AGAIN);
    assert_int_equal(tn_tls_input(t, "HTTP/1.1 400 Bad Request\r\n\r\n", 28), 0);
    assert_int_equal(tn_tls_handshake(t), TN_E_TLS);
    assert_int_equal(tn_tls_handshake(t), TN_E_TLS);
    assert_string_not_equal(tn_tls_error(t), "no error");
    tn_tls_free(t);
    for (int bit = 0; bit < 64; bit++) {
        struct server s;
        const uint8_t *bytes;
        uint8_t flight[8192];
        serve(&s, &w->leaf, NULL, TLS1_3_VERSION);
        assert_int_equal(tn_tls_new(ctx, &spec, &t), 0);
        assert_int_equal(tn_tls_handshake(t), TN_E_AGAIN);
        size_t n = tn_tls_output(t, &bytes);
        BIO_write(s.in, bytes, (int)n);
        (void)SSL_do_handshake(s.ssl);
        int got = BIO_read(s.out, flight, sizeof flight);
        assert_true(got > 64);
        flight[got / 64 * bit] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(tn_tls_input(t, flight, (size_t)got), 0);
        assert_int_not_equal(tn_tls_handshake(t), 0);
        assert_int_not_equal(tn_tls_read(t, buf, sizeof buf), 1);
        tn_tls_free(t);
        stop(&s);
    }
    assert_int_equal(ctx->verifying, 0);
    tn_tls_ctx_free(ctx);
}

static void roots_come_and_go(void **state)
{
    struct world *w = *state;
    struct tn_dial_spec spec = {.host = "good.example"};
    struct tn_tls_ctx *ctx = tn_tls_ctx_new();
    struct server s;
    struct tn_tls *t, *open;
    serve(&s, &w->leaf, NULL, TLS1_3_VERSION);
    assert_null(ctx->roots);
    assert_int_equal(tn_tls_new(ctx, &spec, &t), 0);
    assert_non_null(ctx->roots);
    tn_tls_ctx_trim(ctx);
    assert_non_null(ctx->roots); /* a handshake needs them */
    assert_int_equal(tn_tls_new(ctx, &spec, &open), 0);
    assert_int_equal(shake(t, &s, 65536), 0);
    tn_tls_ctx_trim(ctx);
    assert_non_null(ctx->roots);
    tn_tls_free(open);
    tn_tls_ctx_trim(ctx);
    assert_null(ctx->roots);
    assert_int_equal(SSL_write(s.ssl, "still here", 10), 10);
    char buf[16];
    while (carry(t, &s, 65536)) continue;
    assert_int_equal(tn_tls_read(t, buf, sizeof buf), 10);
    tn_tls_free(t);
    tn_tls_ctx_free(ctx);
    stop(&s);
}

static void input_is_bounded(void **state)
{
    struct tn_dial_spec spec = {.host = "good.example", .verify = TN_VERIFY_INSECURE};
    struct tn_tls_ctx *ctx = tn_tls_ctx_new();
    struct tn_tls *t;
    static uint8_t chunk[1 << 20];
    int err = 0;
    assert_int_equal(tn_tls_new(ctx, &spec, &t), 0);
    for (int i = 0; i < 64 && err == 0; i++) err = tn_tls_input(t, chunk, sizeof chunk);
    assert_int_equal(err, TN_E_NOMEM);
    tn_tls_free(t);
    tn_tls_ctx_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tls13),          cmocka_unit_test(tls12),         cmocka_unit_test(tls13_in_pieces),
        cmocka_unit_test(tls12_in_pieces), cmocka_unit_test(tls11_is_refused), cmocka_unit_test(names),
        cmocka_unit_test(sni_is_no_address), cmocka_unit_test(sni_has_no_final_dot),
        cmocka_unit_test(chain_errors), cmocka_unit_test(environment),
        cmocka_unit_test(pinned),         cmocka_unit_test(metacert),      cmocka_unit_test(hostile_bytes),
        cmocka_unit_test(roots_come_and_go), cmocka_unit_test(input_is_bounded),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
