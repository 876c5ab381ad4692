/* Is the peer who it should be? One callback for the three ways of enum tn_verify; it runs inside the handshake,
 * so that a refusal reaches the server as an alert and nothing of ours is sent under its keys.
 *
 * TN_VERIFY_SHA256 follows net/tlsdial SetConfigExpectedCertHash (tailscale v1.102.5): certificates whose common
 * name starts with "derpkey" are passed over, exactly one other must be there, its DER must have the hash, it must
 * be valid now, and it must name the host unless that is an IP literal (Go sends no server name then and checks
 * none). Unlike there the first certificate is never passed over: its key signs the handshake, and the
 * pinned one, which anybody can show, proves nothing behind another. */
#include "crypto/tls_internal.h"
#include "util/err.h"
#include "util/ip.h"
#include "util/text.h"

#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>

static bool is_ip_literal(const char *name)
{
    struct tn_ip ip;
    return tn_ip_parse(name, &ip) == 0;
}

/* Names in the subject alternative names only, as Go; no "f*.example.com". */
enum { HOST_FLAGS = X509_CHECK_FLAG_NEVER_CHECK_SUBJECT | X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS };

int tn_tls_verify_prepare(struct tn_tls *t, X509_STORE *roots)
{
    X509_VERIFY_PARAM *param = SSL_get0_param(t->ssl);
    X509_VERIFY_PARAM_set_hostflags(param, HOST_FLAGS);
    /* A certificate in the store is trusted whether or not it is self-signed, as in Go. */
    X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_PARTIAL_CHAIN);
    int ok = is_ip_literal(t->name) ? X509_VERIFY_PARAM_set1_ip_asc(param, t->name)
                                    : X509_VERIFY_PARAM_set1_host(param, t->name, 0);
    if (ok != 1) return TN_E_INVAL;
    return SSL_set1_verify_cert_store(t->ssl, roots) == 1 ? 0 : TN_E_NOMEM;
}

static int refuse(struct tn_tls *t, X509_STORE_CTX *chain, int x509_error, const char *text)
{
    snprintf(t->error, sizeof t->error, "certificate: %s", text);
    X509_STORE_CTX_set_error(chain, x509_error);
    return 0;
}

static int verify_system(struct tn_tls *t, X509_STORE_CTX *chain)
{
    if (X509_verify_cert(chain) == 1) return 1;
    int code = X509_STORE_CTX_get_error(chain);
    if (code == X509_V_OK) code = X509_V_ERR_UNSPECIFIED;
    const char *text = X509_verify_cert_error_string(code);
    X509 *at = X509_STORE_CTX_get_current_cert(chain);
    char subject[96] = "?", line[200];
    if (at) X509_NAME_oneline(X509_get_subject_name(at), subject, sizeof subject);
    if (code == X509_V_ERR_HOSTNAME_MISMATCH || code == X509_V_ERR_IP_ADDRESS_MISMATCH)
        snprintf(line, sizeof line, "is for %s, not for %.90s", subject, t->name);
    else if (code == X509_V_ERR_CERT_NOT_YET_VALID)
        snprintf(line, sizeof line, "%s (%s): is the clock right?", text, subject);
    else
        snprintf(line, sizeof line, "%s (%s)", text, subject);
    return refuse(t, chain, code, line);
}

static bool is_derp_meta(X509 *cert)
{
    static const char prefix[] = "derpkey";
    char cn[sizeof prefix + 64];
    int n = X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, cn, sizeof cn);
    return n >= (int)strlen(prefix) && memcmp(cn, prefix, strlen(prefix)) == 0;
}

static bool hash_matches(const struct tn_tls *t, X509 *cert)
{
    uint8_t digest[32];
    unsigned len = 0;
    return X509_digest(cert, EVP_sha256(), digest, &len) == 1 && len == 32 && memcmp(digest, t->sha256, 32) == 0;
}

static int verify_pinned(struct tn_tls *t, X509_STORE_CTX *chain)
{
    STACK_OF(X509) *certs = X509_STORE_CTX_get0_untrusted(chain);
    bool seen = false;
    for (int i = 0; i < sk_X509_num(certs); i++) {
        X509 *cert = sk_X509_value(certs, i);
        if (i > 0 && is_derp_meta(cert)) continue;
        if (seen) return refuse(t, chain, X509_V_ERR_CERT_REJECTED, "more than one was presented beside the pinned");
        seen = true;
        if (!hash_matches(t, cert))
            return refuse(t, chain, X509_V_ERR_CERT_REJECTED, "its SHA-256 is not the pinned one");
        if (t->name[0] && !is_ip_literal(t->name) && X509_check_host(cert, t->name, 0, HOST_FLAGS, NULL) != 1)
            return refuse(t, chain, X509_V_ERR_HOSTNAME_MISMATCH, "pinned, but for another host name");
        if (X509_cmp_current_time(X509_get0_notAfter(cert)) <= 0)
            return refuse(t, chain, X509_V_ERR_CERT_HAS_EXPIRED, "pinned, but expired");
        if (X509_cmp_current_time(X509_get0_notBefore(cert)) >= 0)
            return refuse(t, chain, X509_V_ERR_CERT_NOT_YET_VALID, "pinned, but not valid yet: is the clock right?");
    }
    return seen ? 1 : refuse(t, chain, X509_V_ERR_CERT_REJECTED, "the pinned one was not presented");
}

int tn_tls_verify_chain(X509_STORE_CTX *chain, void *arg)
{
    (void)arg;
    SSL *ssl = X509_STORE_CTX_get_ex_data(chain, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct tn_tls *t = ssl ? SSL_get_app_data(ssl) : NULL;
    if (!t) return 0;
    switch (t->verify) {
    case TN_VERIFY_SYSTEM: return verify_system(t, chain);
    case TN_VERIFY_SHA256: return verify_pinned(t, chain);
    case TN_VERIFY_INSECURE: X509_STORE_CTX_set_error(chain, X509_V_OK); return 1;
    }
    return 0;
}

bool tn_tls_derp_meta(const struct tn_tls *t, uint8_t key[32])
{
    /* Before TLS 1.3 certificates travel in the clear and could be added by someone on the way. */
    if (!t->established || SSL_version(t->ssl) < TLS1_3_VERSION) return false;
    STACK_OF(X509) *certs = SSL_get_peer_cert_chain(t->ssl);
    for (int i = 0; i < sk_X509_num(certs); i++) {
        X509 *cert = sk_X509_value(certs, i);
        char cn[80];
        int n = X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, cn, sizeof cn);
        if (n != 7 + 64 || memcmp(cn, "derpkey", 7) != 0) continue;
        BIGNUM *serial = ASN1_INTEGER_to_BN(X509_get0_serialNumber(cert), NULL);
        bool small = serial && BN_num_bits(serial) <= 8; /* the serial is the protocol version, up to 255 */
        BN_free(serial);
        if (small && tn_hex_decode(cn + 7, key, 32) == 0) return true;
    }
    return false;
}
