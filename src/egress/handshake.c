/* Picks the proxy protocol by the scheme. */
#include "egress/handshake.h"
#include "util/err.h"

int tn_handshake_init(struct tn_handshake *h, const struct tn_proxy *proxy, const struct tn_addrport *dst, const char *name)
{
    h->scheme = proxy->scheme;
    if (h->scheme == TN_PROXY_SOCKS5) return (h->u.socks5 = tn_socks5_new(proxy, dst, name)) ? 0 : TN_E_NOMEM;
    return (h->u.http = tn_httpconnect_new(proxy, dst, name)) ? 0 : TN_E_NOMEM;
}

bool tn_handshake_asked(const struct tn_handshake *h)
{
    return h->scheme != TN_PROXY_SOCKS5 || tn_socks5_asked(h->u.socks5); /* CONNECT is the first word */
}

bool tn_handshake_no_ipv6(const struct tn_handshake *h)
{
    return h->scheme == TN_PROXY_SOCKS5 && tn_socks5_no_ipv6(h->u.socks5);
}

int tn_handshake_init_associate(struct tn_handshake *h, const struct tn_proxy *proxy)
{
    if (proxy->scheme != TN_PROXY_SOCKS5) return TN_E_UNSUPPORTED;
    h->scheme = TN_PROXY_SOCKS5;
    return (h->u.socks5 = tn_socks5_new_associate(proxy)) ? 0 : TN_E_NOMEM;
}

void tn_handshake_bound(const struct tn_handshake *h, struct tn_addrport *out) { tn_socks5_bound(h->u.socks5, out); }

void tn_handshake_fini(struct tn_handshake *h)
{
    if (h->scheme == TN_PROXY_SOCKS5) tn_socks5_free(h->u.socks5);
    else tn_httpconnect_free(h->u.http);
    h->u.socks5 = NULL;
}

const uint8_t *tn_handshake_output(const struct tn_handshake *h, size_t *len)
{
    return h->scheme == TN_PROXY_SOCKS5 ? tn_socks5_output(h->u.socks5, len) : tn_httpconnect_output(h->u.http, len);
}

void tn_handshake_sent(struct tn_handshake *h, size_t n)
{
    if (h->scheme == TN_PROXY_SOCKS5) tn_socks5_sent(h->u.socks5, n);
    else tn_httpconnect_sent(h->u.http, n);
}

int tn_handshake_input(struct tn_handshake *h, const uint8_t *bytes, size_t len, size_t *used)
{
    return h->scheme == TN_PROXY_SOCKS5 ? tn_socks5_input(h->u.socks5, bytes, len, used)
                                        : tn_httpconnect_input(h->u.http, bytes, len, used);
}
