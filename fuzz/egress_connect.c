/* Answers to CONNECT in pieces (the first byte says how long, and with its top bit that a probe asked): never more than the head limit is taken, and what
 * follows a 2xx head is left to the tunnel. Cut in two other ways, the verdict must be the same. */
#include "egress/handshake.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int run(bool probe, const uint8_t *data, size_t size, size_t step, size_t *taken)
{
    struct tn_proxy p = {.scheme = TN_PROXY_HTTP};
    struct tn_addrport dst = {tn_ip4(1, 1, 1, 1), 443};
    struct tn_httpconnect *h = tn_httpconnect_new(&p, probe ? NULL : &dst, NULL);
    int r = TN_HANDSHAKE_MORE;
    size_t n, used;
    *taken = 0;
    if (!h) return r;
    tn_httpconnect_output(h, &n);
    tn_httpconnect_sent(h, n);
    while (r == TN_HANDSHAKE_MORE && *taken < size) {
        n = size - *taken < step ? size - *taken : step;
        r = tn_httpconnect_input(h, data + *taken, n, &used);
        if (used > n || (r == TN_HANDSHAKE_MORE && used != n)) abort();
        *taken += used;
    }
    if (r == TN_HANDSHAKE_MORE && *taken >= 8192) abort();
    tn_httpconnect_free(h);
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t a, b, c;
    if (size == 0) return 0;
    bool probe = data[0] & 128;
    int whole = run(probe, data + 1, size - 1, size, &a), pieces = run(probe, data + 1, size - 1, (size_t)data[0] + 1, &b);
    int bytes = size < 2048 ? run(probe, data + 1, size - 1, 1, &c) : pieces;
    if (whole != pieces || whole != bytes) abort();
    if (whole == TN_HANDSHAKE_DONE && (a != b || (size < 2048 && a != c))) abort();
    return 0;
}
