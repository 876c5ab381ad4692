/* http:// and https:// URLs as the control client meets them: the server's, those of pings, redirects.
 *
 * Strict: no user information, no control characters, port 1..65535; a fragment is dropped. */
#ifndef TN_CONTROL_WEBURL_H
#define TN_CONTROL_WEBURL_H

#include <stdbool.h>
#include <stdint.h>

enum { TN_WEBURL_HOST = 256, TN_WEBURL_PATH = 2048 }; /* DNS names end at 253; longer paths are nobody's */

struct tn_weburl {
    bool tls;
    bool port_given;
    uint16_t port; /* the scheme's default when none is given */
    char host[TN_WEBURL_HOST];           /* lower case; an IPv6 literal without its brackets */
    char authority[TN_WEBURL_HOST + 10]; /* as for a Host header: brackets, and the port only when it was given */
    char path[TN_WEBURL_PATH];           /* path and query, begins with '/' */
};

/* 0, TN_E_INVAL for anything but a well-formed http or https URL, TN_E_TOOBIG. out is written only on success. */
int tn_weburl_parse(const char *text, struct tn_weburl *out);

/* Where a redirect from base leads: an absolute URL or an absolute path. The codes above; a path relative to the
 * document is not followed (TN_E_INVAL), nor is one that leaves TLS (TN_E_POLICY). */
int tn_weburl_redirect(const struct tn_weburl *base, const char *location, struct tn_weburl *out);

/* Is the host a loopback or private address, or "localhost": a place without a public certificate. */
bool tn_weburl_private_host(const struct tn_weburl *u);

#endif
