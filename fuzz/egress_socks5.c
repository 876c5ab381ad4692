/* SOCKS5 replies: the first byte chooses credentials, the command and how the rest is cut into pieces; our own messages are
 * "sent" as they come. A proxy's bytes may end the dial, finish it or leave it waiting; nothing of the tunnel may
 * be taken. */
#include "egress/handshake.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void drain(struct tn_socks5 *s)
{
    size_t n;
    tn_socks5_output(s, &n);
    if (n) tn_socks5_sent(s, n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    struct tn_proxy p = {.scheme = TN_PROXY_SOCKS5, .has_auth = data[0] & 1};
    struct tn_addrport dst = {data[0] & 2 ? (struct tn_ip){6, {0x20}} : tn_ip4(1, 1, 1, 1), 443};
    size_t step = (size_t)(data[0] >> 2) + 1, at = 1, taken = 0;
    if (p.has_auth) p.user = tn_secret_new("user", 4);
    bool associate = data[0] & 0x80;
    struct tn_socks5 *s = associate ? tn_socks5_new_associate(&p) : tn_socks5_new(&p, &dst, NULL);
    struct tn_addrport bound;
    int r = TN_HANDSHAKE_MORE;
    while (s && r == TN_HANDSHAKE_MORE && at < size) {
        size_t n = size - at < step ? size - at : step, used;
        drain(s);
        r = tn_socks5_input(s, data + at, n, &used);
        if (used > n || (r == TN_HANDSHAKE_MORE && used != n)) abort();
        if (r >= TN_EGRESS_FAIL_COUNT || r < TN_HANDSHAKE_MORE) abort();
        at += used;
        taken += used;
    }
    if (taken > 2 + 2 + 4 + 1 + 255 + 2) abort(); /* the longest conversation there is */
    if (s) tn_socks5_bound(s, &bound);
    if (s && r != TN_HANDSHAKE_DONE && bound.ip.family != 0) abort();
    tn_socks5_free(s);
    tn_secret_free(p.user);
    return 0;
}
