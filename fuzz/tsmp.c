/* TSMP payloads: what was read and written again reads the same. */
#include "wire/tsmp.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tn_tsmp a, b;
    uint8_t out[TN_TSMP_MAX], again[TN_TSMP_MAX];
    if (tn_tsmp_parse(data, size, &a) != 0) return 0;
    size_t n = tn_tsmp_put(out, &a);
    if (n > TN_TSMP_MAX || tn_tsmp_parse(out, n, &b) != 0 || a.type != b.type) abort();
    if (tn_tsmp_put(again, &b) != n || memcmp(out, again, n) != 0) abort();
    return 0;
}
