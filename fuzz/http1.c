/* HTTP/1 heads and chunked bodies. The first byte chooses what to read and how the input is cut; whatever the cut,
 * the outcome must be the same. */
#include "util/err.h"
#include "wire/http1.h"

#include <stdlib.h>
#include <string.h>

enum { HEAD_MAX = 4096, BODY_MAX = 1 << 16 };

static void inside(const char *p, size_t len, const uint8_t *bytes, long n)
{
    if (p < (const char *)bytes || p + len > (const char *)bytes + n) abort();
}

static void heads(const uint8_t *bytes, size_t len, bool response)
{
    struct tn_http1_head h, again;
    long n = response ? tn_http1_parse_response(bytes, len, HEAD_MAX, &h)
                      : tn_http1_parse_request(bytes, len, HEAD_MAX, &h);
    if (n > (long)len || n > HEAD_MAX) abort();
    if (n <= 0) return;
    if (h.nheaders > TN_HTTP1_HEADERS_MAX || h.is_response != response) abort();
    for (size_t i = 0; i < h.nheaders; i++) {
        inside(h.headers[i].name, h.headers[i].name_len, bytes, n);
        inside(h.headers[i].value, h.headers[i].value_len, bytes, n);
    }
    if (tn_http1_content_length(&h) < -1 && tn_http1_content_length(&h) != TN_E_MALFORMED) abort();
    (void)tn_http1_is_chunked(&h);
    (void)tn_http1_has_token(&h, "Connection", "close");
    /* One byte less is unfinished, and nothing else. */
    long less = response ? tn_http1_parse_response(bytes, (size_t)n - 1, HEAD_MAX, &again)
                         : tn_http1_parse_request(bytes, (size_t)n - 1, HEAD_MAX, &again);
    if (less != 0) abort();
}

/* All payload of a body fed in pieces. Returns the bytes used, or the error. */
static long chunks(const uint8_t *bytes, size_t len, size_t step, uint8_t *out, size_t *out_len)
{
    struct tn_http1_chunked c = {0};
    size_t at = 0;
    *out_len = 0;
    while (at < len && !c.done) {
        const uint8_t *data;
        size_t n = len - at < step ? len - at : step, data_len;
        long used = tn_http1_dechunk(&c, bytes + at, n, &data, &data_len);
        if (used < 0) return used;
        if (used == 0 || (size_t)used > n || data < bytes || data + data_len > bytes + len) abort();
        memcpy(out + *out_len, data, data_len);
        *out_len += data_len;
        at += (size_t)used;
    }
    return c.done ? (long)at : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t whole[BODY_MAX], cut[BODY_MAX];
    size_t whole_len, cut_len;
    if (size == 0 || size > BODY_MAX) return 0;
    uint8_t how = data[0];
    data++;
    size--;
    if (how % 3 < 2) {
        heads(data, size, how % 3 == 1);
        return 0;
    }
    long a = chunks(data, size, size ? size : 1, whole, &whole_len);
    long b = chunks(data, size, 1 + how / 3 % 8, cut, &cut_len);
    if (a != b || whole_len != cut_len || memcmp(whole, cut, cut_len) != 0) abort();
    return 0;
}
