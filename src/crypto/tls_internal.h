/* What the files of the TLS client share. Private to this room. */
#ifndef TN_CRYPTO_TLS_INTERNAL_H
#define TN_CRYPTO_TLS_INTERNAL_H

#include "crypto/tls.h"
#include "util/buf.h"

#include <openssl/ssl.h>

enum {
    TN_TLS_NAME_MAX = 256,      /* a DNS name has at most 253 characters */
    TN_TLS_IN_MAX = 4 << 20,    /* ciphertext not yet read: a caller that feeds more without reading is broken */
    TN_TLS_OUT_MAX = 64 << 20,  /* ciphertext not yet sent: likewise; the stream above bounds its backlog far lower */
    TN_TLS_ERROR_MAX = 256,
};

struct tn_tls_ctx {
    SSL_CTX *ssl;
    BIO_METHOD *bio;
    X509_STORE *roots;  /* NULL: not loaded */
    unsigned verifying; /* handshakes under way that use roots */
};

struct tn_tls {
    struct tn_tls_ctx *ctx;
    SSL *ssl;
    struct tn_buf in, out;
    enum tn_verify verify;
    uint8_t sha256[32];
    char name[TN_TLS_NAME_MAX]; /* to be matched by the certificate; never empty for TN_VERIFY_SYSTEM */
    bool uses_roots;            /* counted in ctx->verifying */
    bool established;
    int failed;                 /* the error that ended it, or 0 */
    char error[TN_TLS_ERROR_MAX];
    char alpn[32];
};

/* tls_bio.c: a BIO over t->in and t->out. */
BIO_METHOD *tn_tls_bio_method_new(void);
BIO *tn_tls_bio_new(BIO_METHOD *method, struct tn_tls *t);

/* tls_roots.c: the trusted roots. NULL with the reason in error. */
X509_STORE *tn_tls_roots_load(char *error, size_t cap);

/* tls_verify.c: the callback that decides about the peer's chain (SSL_CTX_set_cert_verify_callback). */
int tn_tls_verify_chain(X509_STORE_CTX *chain, void *arg);
/* Sets up what the chain check of TN_VERIFY_SYSTEM needs on t->ssl. 0 or a negative code. */
int tn_tls_verify_prepare(struct tn_tls *t, X509_STORE *roots);

#endif
