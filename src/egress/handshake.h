/* The proxy handshakes as engines without sockets, and the one shape both share.
 *
 * new > { output/sent, input } until input says DONE or gives a failure > free. Bytes that input did not take after
 * DONE belong to the tunnel. Nothing of the tunnel is sent before DONE: leftovers of a refused request could be read
 * as a new one (RFC 9931). A handshake is never retried here and credentials are sent at most once. */
#ifndef TN_EGRESS_HANDSHAKE_H
#define TN_EGRESS_HANDSHAKE_H

#include "egress/egress.h"
#include <stddef.h>
#include <stdint.h>

struct tn_socks5;
/* proxy is borrowed until free: its credentials are only copied into the one message that carries them. name (may be
 * NULL) is told to the proxy in place of the address. dst NULL: only greeting and credentials, then DONE. NULL: no
 * memory. */
struct tn_socks5 *tn_socks5_new(const struct tn_proxy *proxy, const struct tn_addrport *dst, const char *name);
void tn_socks5_free(struct tn_socks5 *s);
const uint8_t *tn_socks5_output(const struct tn_socks5 *s, size_t *len);
void tn_socks5_sent(struct tn_socks5 *s, size_t n);
int tn_socks5_input(struct tn_socks5 *s, const uint8_t *bytes, size_t len, size_t *used);
bool tn_socks5_asked(const struct tn_socks5 *s); /* greeting and credentials are behind us */

bool tn_socks5_no_ipv6(const struct tn_socks5 *s);
/* UDP ASSOCIATE instead of CONNECT; after DONE: where the relay is by the proxy's word (family 0: by a name). */
struct tn_socks5 *tn_socks5_new_associate(const struct tn_proxy *proxy);
void tn_socks5_bound(const struct tn_socks5 *s, struct tn_addrport *out);

struct tn_httpconnect;
/* As above; dst NULL: a question that the proxy answers itself, with the credentials. */
struct tn_httpconnect *tn_httpconnect_new(const struct tn_proxy *proxy, const struct tn_addrport *dst, const char *name);
void tn_httpconnect_free(struct tn_httpconnect *h);
const uint8_t *tn_httpconnect_output(const struct tn_httpconnect *h, size_t *len);
void tn_httpconnect_sent(struct tn_httpconnect *h, size_t n);
int tn_httpconnect_input(struct tn_httpconnect *h, const uint8_t *bytes, size_t len, size_t *used);

/* One of the two by the proxy's scheme. */
struct tn_handshake {
    enum tn_proxy_scheme scheme;
    union {
        struct tn_socks5 *socks5;
        struct tn_httpconnect *http;
    } u;
};

/* What input returns: one of these, or a TN_EGRESS_FAIL as a positive number. */
enum { TN_HANDSHAKE_DONE = 0, TN_HANDSHAKE_MORE = -1 };

/* 0 or TN_E_NOMEM. name: at most TN_HANDSHAKE_NAME_MAX bytes, or NULL. dst NULL: only what
 * tells whether the proxy is there and takes the credentials. */
enum { TN_HANDSHAKE_NAME_MAX = 253 };
int tn_handshake_init(struct tn_handshake *h, const struct tn_proxy *proxy, const struct tn_addrport *dst, const char *name);
/* Is it about the destination from here on? What goes wrong then may be of a peer's making. */
bool tn_handshake_asked(const struct tn_handshake *h);
/* After a failure: the proxy said that it does not know IPv6 addresses (SOCKS5's reply 8 to one). */
bool tn_handshake_no_ipv6(const struct tn_handshake *h);
int tn_handshake_init_associate(struct tn_handshake *h, const struct tn_proxy *proxy); /* TN_E_UNSUPPORTED: not SOCKS5 */
void tn_handshake_bound(const struct tn_handshake *h, struct tn_addrport *out);
void tn_handshake_fini(struct tn_handshake *h);
/* What is to be sent now (borrowed; len 0: nothing), and how much of it was. */
const uint8_t *tn_handshake_output(const struct tn_handshake *h, size_t *len);
void tn_handshake_sent(struct tn_handshake *h, size_t n);
/* Takes bytes from the proxy. *used < len only with DONE: the rest came early from the destination. */
int tn_handshake_input(struct tn_handshake *h, const uint8_t *bytes, size_t len, size_t *used);

#endif
