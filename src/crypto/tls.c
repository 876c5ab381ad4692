#include "crypto/tls.h"
#include "crypto/tls_internal.h"
#include "util/err.h"
#include "util/ip.h"

#include <limits.h>
#include <malloc.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tn_tls_ctx *tn_tls_ctx_new(void) { return calloc(1, sizeof(struct tn_tls_ctx)); }

void tn_tls_ctx_free(struct tn_tls_ctx *ctx)
{
    if (!ctx) return;
    X509_STORE_free(ctx->roots);
    SSL_CTX_free(ctx->ssl);
    BIO_meth_free(ctx->bio);
    free(ctx);
}

void tn_tls_ctx_trim(struct tn_tls_ctx *ctx)
{
    if (!ctx->roots || ctx->verifying > 0) return;
    X509_STORE_free(ctx->roots);
    ctx->roots = NULL;
#ifdef __GLIBC__
    malloc_trim(0); /* thousands of small blocks between others: without this the pages stay ours */
#endif
}

/* The OpenSSL context is made for the first connection, so that a node that needs no TLS pays nothing. */
static int prepare(struct tn_tls_ctx *ctx)
{
    if (ctx->ssl) return 0;
    if (!ctx->bio) ctx->bio = tn_tls_bio_method_new();
    SSL_CTX *ssl = SSL_CTX_new(TLS_client_method());
    if (!ctx->bio || !ssl || SSL_CTX_set_min_proto_version(ssl, TLS1_2_VERSION) != 1) {
        SSL_CTX_free(ssl);
        return TN_E_NOMEM;
    }
    SSL_CTX_set_options(ssl, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_mode(ssl, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_verify(ssl, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_cert_verify_callback(ssl, tn_tls_verify_chain, NULL);
    ctx->ssl = ssl;
    return 0;
}

static int set_alpn(struct tn_tls *t, const char *alpn)
{
    uint8_t wire[sizeof t->alpn];
    size_t n = alpn ? strlen(alpn) : 0;
    if (!alpn) return 0;
    if (n == 0 || n >= sizeof wire) return TN_E_INVAL;
    wire[0] = (uint8_t)n;
    memcpy(wire + 1, alpn, n);
    return SSL_set_alpn_protos(t->ssl, wire, (unsigned)n + 1) == 0 ? 0 : TN_E_NOMEM;
}

/* Copies a host name without the dot of a rooted name, which neither certificates nor SNI have. False: too long. */
static bool copy_name(char out[TN_TLS_NAME_MAX], const char *name)
{
    size_t n = strlen(name);
    if (n > 1 && name[n - 1] == '.') n--;
    if (n >= TN_TLS_NAME_MAX) return false;
    memcpy(out, name, n);
    out[n] = '\0';
    return true;
}

static int set_names(struct tn_tls *t, const struct tn_dial_spec *spec)
{
    const char *name = spec->verify_name ? spec->verify_name : spec->host;
    const char *server = spec->sni ? spec->sni : spec->host;
    char sni[TN_TLS_NAME_MAX];
    struct tn_ip ip;
    if (name && !copy_name(t->name, name)) return TN_E_INVAL;
    if (t->verify == TN_VERIFY_SYSTEM && !t->name[0]) return TN_E_INVAL;
    if (!server || !*server || tn_ip_parse(server, &ip) == 0) return 0;
    if (!copy_name(sni, server)) return TN_E_INVAL;
    return SSL_set_tlsext_host_name(t->ssl, sni) == 1 ? 0 : TN_E_NOMEM;
}

static int set_roots(struct tn_tls *t)
{
    struct tn_tls_ctx *ctx = t->ctx;
    if (t->verify != TN_VERIFY_SYSTEM) return 0;
    if (!ctx->roots) ctx->roots = tn_tls_roots_load(t->error, sizeof t->error);
    if (!ctx->roots) {
        t->failed = TN_E_CERT; /* reported by the handshake, where there is a place for the reason */
        return 0;
    }
    int err = tn_tls_verify_prepare(t, ctx->roots);
    if (err != 0) return err;
    t->uses_roots = true;
    ctx->verifying++;
    return 0;
}

int tn_tls_new(struct tn_tls_ctx *ctx, const struct tn_dial_spec *spec, struct tn_tls **out)
{
    int err = prepare(ctx);
    if (err != 0) return err;
    struct tn_tls *t = calloc(1, sizeof *t);
    if (!t) return TN_E_NOMEM;
    t->ctx = ctx;
    t->verify = spec->verify;
    memcpy(t->sha256, spec->sha256, sizeof t->sha256);
    tn_buf_init(&t->in, TN_TLS_IN_MAX);
    tn_buf_init(&t->out, TN_TLS_OUT_MAX);
    t->ssl = SSL_new(ctx->ssl);
    BIO *bio = t->ssl ? tn_tls_bio_new(ctx->bio, t) : NULL;
    err = TN_E_NOMEM;
    if (!bio) goto fail;
    SSL_set_bio(t->ssl, bio, bio);
    SSL_set_app_data(t->ssl, t);
    SSL_set_connect_state(t->ssl);
    if ((err = set_names(t, spec)) != 0 || (err = set_alpn(t, spec->alpn)) != 0 || (err = set_roots(t)) != 0)
        goto fail;
    *out = t;
    return 0;
fail:
    ERR_clear_error();
    tn_tls_free(t);
    return err;
}

static void release_roots(struct tn_tls *t)
{
    if (!t->uses_roots) return;
    t->uses_roots = false;
    t->ctx->verifying--;
    (void)SSL_set1_verify_cert_store(t->ssl, NULL);
}

void tn_tls_free(struct tn_tls *t)
{
    if (!t) return;
    release_roots(t);
    SSL_free(t->ssl);
    tn_buf_fini(&t->in);
    tn_buf_fini(&t->out);
    free(t);
}

int tn_tls_input(struct tn_tls *t, const void *bytes, size_t len)
{
    return tn_buf_append(&t->in, bytes, len) == 0 ? 0 : TN_E_NOMEM;
}

/* Ends the connection for good; the first reason stays. */
static int fail(struct tn_tls *t, int err, const char *what)
{
    unsigned long code = ERR_peek_last_error();
    if (!t->failed) {
        t->failed = err;
        if (!t->error[0] && code) {
            const char *reason = ERR_reason_error_string(code);
            snprintf(t->error, sizeof t->error, "%s: %s", what, reason ? reason : "unknown TLS error");
        } else if (!t->error[0]) {
            snprintf(t->error, sizeof t->error, "%s: %s", what, tn_err_text(err));
        }
    }
    ERR_clear_error();
    release_roots(t);
    return t->failed;
}

/* What a call of OpenSSL that did not succeed means. */
static int judge(struct tn_tls *t, int result, const char *what)
{
    switch (SSL_get_error(t->ssl, result)) {
    case SSL_ERROR_WANT_READ: ERR_clear_error(); return TN_E_AGAIN;
    case SSL_ERROR_ZERO_RETURN: ERR_clear_error(); return TN_E_EOF;
    default: return fail(t, SSL_get_verify_result(t->ssl) == X509_V_OK ? TN_E_TLS : TN_E_CERT, what);
    }
}

static void remember_alpn(struct tn_tls *t)
{
    const unsigned char *name;
    unsigned n;
    SSL_get0_alpn_selected(t->ssl, &name, &n);
    if (n == 0 || n >= sizeof t->alpn) return;
    memcpy(t->alpn, name, n);
    t->alpn[n] = '\0';
}

int tn_tls_handshake(struct tn_tls *t)
{
    if (t->failed) return t->failed;
    if (t->established) return 0;
    ERR_clear_error();
    int result = SSL_do_handshake(t->ssl);
    if (result != 1) {
        int err = judge(t, result, "handshake");
        return err == TN_E_EOF ? fail(t, TN_E_TLS, "handshake: closed by the server") : err;
    }
    t->established = true;
    remember_alpn(t);
    release_roots(t);
    return 0;
}

long tn_tls_read(struct tn_tls *t, void *buf, size_t cap)
{
    if (t->failed) return t->failed;
    if (!t->established) return TN_E_AGAIN;
    ERR_clear_error();
    int result = SSL_read(t->ssl, buf, cap > INT_MAX ? INT_MAX : (int)cap);
    return result > 0 ? result : judge(t, result, "read");
}

int tn_tls_write(struct tn_tls *t, const void *bytes, size_t len)
{
    const uint8_t *p = bytes;
    if (t->failed) return t->failed;
    if (!t->established) return TN_E_NOTCONN;
    while (len > 0) {
        ERR_clear_error();
        int result = SSL_write(t->ssl, p, len > INT_MAX ? INT_MAX : (int)len);
        if (result <= 0) {
            int err = judge(t, result, "write");
            return err == TN_E_AGAIN || err == TN_E_EOF ? fail(t, TN_E_TLS, "write") : err;
        }
        p += result;
        len -= (size_t)result;
    }
    return 0;
}

void tn_tls_shutdown(struct tn_tls *t)
{
    if (t->failed || !t->established) return;
    ERR_clear_error();
    (void)SSL_shutdown(t->ssl);
    ERR_clear_error();
}

size_t tn_tls_output(struct tn_tls *t, const uint8_t **bytes)
{
    *bytes = tn_buf_data(&t->out);
    return tn_buf_len(&t->out);
}

void tn_tls_output_consume(struct tn_tls *t, size_t len) { tn_buf_consume(&t->out, len); }

const char *tn_tls_error(const struct tn_tls *t) { return t->error[0] ? t->error : "no error"; }
const char *tn_tls_alpn(const struct tn_tls *t) { return t->alpn[0] ? t->alpn : NULL; }
