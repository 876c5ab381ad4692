/* Proxy URLs: whatever is taken can be sent and shown, and what is refused leaves a reason without any of it. */
#include "egress/egress.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tn_proxy *p = NULL, *again = NULL;
    char why[128], shown[300];
    if (tn_proxy_parse((const char *)data, size, &p, why) != 0) {
        if (p || !why[0] || strlen(why) >= sizeof why) abort();
        return 0;
    }
    size_t max = p->scheme == TN_PROXY_SOCKS5 ? 255 : 1024;
    if (p->port == 0 || !p->host[0] || strlen(p->host) > 253) abort();
    if (tn_secret_len(p->user) > max || tn_secret_len(p->pass) > max) abort();
    if (p->has_auth && p->scheme == TN_PROXY_SOCKS5 && tn_secret_len(p->user) == 0) abort();
    /* What is shown is a proxy URL itself, of the same proxy. */
    tn_proxy_describe(p, shown);
    if (tn_proxy_parse(shown, strlen(shown), &again, why) != 0) abort();
    if (again->port != p->port || again->scheme != p->scheme || strcmp(again->host, p->host) != 0 || again->has_auth) abort();
    tn_proxy_free(again);
    tn_proxy_free(p);
    return 0;
}
