/* Filter rules from the control server: JSON of any shape, then questions to whatever became of it. */
#include "filter/filter.h"

#include <stdlib.h>

enum { INPUT_MAX = 1 << 16 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *json = size <= INPUT_MAX ? json_loadb((const char *)data, size, JSON_DECODE_ANY, NULL) : NULL;
    if (!json) return 0;
    struct tn_filter *f = tn_filter_new();
    struct tn_ip own[] = {tn_ip4(100, 64, 0, 1), {6, {0xfd, 0x7a, 0x11, 0x5c, 0xa1, 0xe0, [15] = 1}}};
    if (!f || tn_filter_set_local(f, own, 2, NULL, 0, NULL, 0) != 0) abort();
    int err = tn_filter_set_rules(f, json);
    static const uint8_t protos[] = {1, 6, 17, 58, 132, 47};
    for (size_t i = 0; i < sizeof protos * 2; i++) {
        const struct tn_ip *ip = &own[i & 1];
        bool ok = tn_filter_would_accept(f, ip, ip, 80, protos[i / 2], NULL);
        if (ok && err) abort(); /* refused rules are no rules */
        if (ok && tn_filter_rule_count(f) == 0) abort();
        if (tn_filter_would_accept(f, ip, &own[~i & 1], 80, protos[i / 2], NULL)) abort();
    }
    tn_filter_free(f);
    json_decref(json);
    return 0;
}
