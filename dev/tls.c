#include "dev/tls.h"
#include "util/err.h"
#include "util/secret.h"
#include "util/text.h"
#include "wire/derp.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DAY = 24 * 3600, CERT_DAYS = 825, META_DAYS = 30, RENEW_DAYS = 30 };

static bool set_validity(X509 *x, int64_t from, int64_t to)
{
    return ASN1_TIME_set(X509_getm_notBefore(x), (time_t)from) && ASN1_TIME_set(X509_getm_notAfter(x), (time_t)to);
}

/* As a ready UTF8String: OpenSSL would hold the text forms to X.520's 64 characters, and a metacertificate has 71. */
static bool set_name(X509 *x, const char *cn)
{
    X509_NAME *name = X509_get_subject_name(x);
    const unsigned char *text = (const unsigned char *)cn;
    return X509_NAME_add_entry_by_NID(name, NID_commonName, V_ASN1_UTF8STRING, text, -1, -1, 0) &&
           X509_set_issuer_name(x, name);
}

static bool add_extension(X509 *x, int nid, const char *value)
{
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, NULL, nid, value);
    bool ok = e && X509_add_ext(x, e, -1);
    X509_EXTENSION_free(e);
    return ok;
}

static bool random_serial(X509 *x)
{
    BIGNUM *n = BN_new();
    bool ok = n && BN_rand(n, 126, BN_RAND_TOP_ANY, BN_RAND_BOTTOM_ANY) &&
              BN_to_ASN1_INTEGER(n, X509_get_serialNumber(x));
    BN_free(n);
    return ok;
}

static X509 *make_leaf(EVP_PKEY *key, const struct tn_ip *ip, int64_t unix_s)
{
    char text[TN_IP_STRLEN], san[TN_IP_STRLEN + 4];
    snprintf(san, sizeof san, "IP:%s", tn_ip_format(ip, text));
    X509 *x = X509_new();
    bool ok = x && X509_set_version(x, X509_VERSION_3) && random_serial(x) && set_name(x, text) &&
              set_validity(x, unix_s - DAY, unix_s + (int64_t)CERT_DAYS * DAY) && X509_set_pubkey(x, key) &&
              add_extension(x, NID_subject_alt_name, san) &&
              add_extension(x, NID_basic_constraints, "critical,CA:FALSE") &&
              add_extension(x, NID_key_usage, "critical,digitalSignature") &&
              add_extension(x, NID_ext_key_usage, "serverAuth") && X509_sign(x, key, EVP_sha256()) > 0;
    if (ok) return x;
    X509_free(x);
    return NULL;
}

static X509 *make_meta(const struct tn_node_public *derp_key, int64_t unix_s)
{
    char cn[7 + 64 + 1] = "derpkey";
    tn_hex_encode(derp_key->b, sizeof derp_key->b, cn + 7);
    EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    X509 *x = X509_new();
    bool ok = key && x && X509_set_version(x, X509_VERSION_3) &&
              ASN1_INTEGER_set(X509_get_serialNumber(x), TN_DERP_VERSION) && set_name(x, cn) &&
              set_validity(x, unix_s - (int64_t)META_DAYS * DAY, unix_s + (int64_t)META_DAYS * DAY) &&
              X509_set_pubkey(x, key) && add_extension(x, NID_basic_constraints, "critical,CA:FALSE") &&
              X509_sign(x, key, NULL) > 0;
    EVP_PKEY_free(key);
    if (ok) return x;
    X509_free(x);
    return NULL;
}

int tn_dev_cert_make(const struct tn_ip *ip, int64_t unix_s, char **pem, size_t *len)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *leaf = key ? make_leaf(key, ip, unix_s) : NULL;
    BIO *bio = BIO_new(BIO_s_mem());
    char *view = NULL;
    int err = TN_E_TLS;
    if (leaf && bio && PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) &&
        PEM_write_bio_X509(bio, leaf)) {
        *len = (size_t)BIO_get_mem_data(bio, &view);
        *pem = malloc(*len);
        err = *pem ? 0 : TN_E_NOMEM;
        if (!err) memcpy(*pem, view, *len);
    }
    BIO_free(bio);
    X509_free(leaf);
    EVP_PKEY_free(key);
    return err;
}

static bool read_pem(const char *pem, size_t len, EVP_PKEY **key, X509 **leaf)
{
    BIO *bio = BIO_new_mem_buf(pem, (int)len);
    *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, NULL, (void *)"") : NULL;
    *leaf = *key ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
    BIO_free(bio);
    if (*leaf && X509_check_private_key(*leaf, *key)) return true;
    X509_free(*leaf);
    EVP_PKEY_free(*key);
    return false;
}

bool tn_dev_cert_usable(const char *pem, size_t len, const struct tn_ip *ip, int64_t unix_s)
{
    EVP_PKEY *key;
    X509 *leaf;
    if (!read_pem(pem, len, &key, &leaf)) return false;
    time_t now = (time_t)unix_s, later = (time_t)(unix_s + RENEW_DAYS * DAY);
    bool ok = X509_cmp_time(X509_get0_notBefore(leaf), &now) < 0 &&
              X509_cmp_time(X509_get0_notAfter(leaf), &later) > 0 &&
              X509_check_ip(leaf, ip->b, tn_ip_len(ip), 0) == 1;
    X509_free(leaf);
    EVP_PKEY_free(key);
    return ok;
}

static bool pin(X509 *leaf, char cert_name[TN_DEV_CERT_NAME_LEN])
{
    unsigned char digest[32];
    unsigned n = sizeof digest;
    if (!X509_digest(leaf, EVP_sha256(), digest, &n)) return false;
    memcpy(cert_name, "sha256-raw:", 11);
    tn_hex_encode(digest, sizeof digest, cert_name + 11);
    return true;
}

int tn_dev_tls_new(const char *pem, size_t len, const struct tn_node_public *derp_key, int64_t unix_s, SSL_CTX **out,
                   char cert_name[TN_DEV_CERT_NAME_LEN])
{
    EVP_PKEY *key;
    X509 *leaf;
    if (!read_pem(pem, len, &key, &leaf)) return TN_E_TLS;
    X509 *meta = make_meta(derp_key, unix_s);
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    bool ok = meta && ctx && SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) &&
              SSL_CTX_use_certificate(ctx, leaf) == 1 && SSL_CTX_use_PrivateKey(ctx, key) == 1 &&
              pin(leaf, cert_name);
    if (ok) {
        /* Sessions would be resumed without the certificates, which is to say without the metacertificate. */
        SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_num_tickets(ctx, 0);
        SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
        ok = SSL_CTX_add_extra_chain_cert(ctx, meta) == 1;
        if (ok) meta = NULL; /* the context's now */
    }
    X509_free(meta);
    X509_free(leaf);
    EVP_PKEY_free(key);
    if (ok) {
        *out = ctx;
        return 0;
    }
    SSL_CTX_free(ctx);
    return TN_E_TLS;
}
