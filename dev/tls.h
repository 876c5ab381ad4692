/* The DERP server's certificate and TLS server context (OpenSSL).
 *
 * One self-signed P-256 certificate, kept in a file; clients pin it by its SHA-256 ("sha256-raw:", which official
 * clients accept for an IP as host name too: net/tlsdial SetConfigExpectedCertHash). Behind it in the chain goes a
 * metacertificate made anew at each start: CN "derpkey" and the server's public key in hex, serial number 2, by which
 * clients start without waiting for an HTTP 101 (derpserver.go:initMetacert). TLS 1.3 only: earlier versions would
 * show it to everybody. */
#ifndef TN_DEV_TLS_H
#define TN_DEV_TLS_H

#include "crypto/keys.h"
#include "util/ip.h"
#include <openssl/ssl.h>

enum { TN_DEV_CERT_NAME_LEN = 11 + 64 + 1 }; /* "sha256-raw:", hex, NUL */

/* PEM of key and certificate, malloc'd, for the file. TN_E_TLS when OpenSSL fails. */
int tn_dev_cert_make(const struct tn_ip *ip, int64_t unix_s, char **pem, size_t *len);
/* Is this PEM usable: a key that fits its certificate, for that IP, valid for a month more? */
bool tn_dev_cert_usable(const char *pem, size_t len, const struct tn_ip *ip, int64_t unix_s);
/* cert_name gets "sha256-raw:<hex>". TN_E_TLS. */
int tn_dev_tls_new(const char *pem, size_t len, const struct tn_node_public *derp_key, int64_t unix_s, SSL_CTX **out,
                   char cert_name[TN_DEV_CERT_NAME_LEN]);

#endif
