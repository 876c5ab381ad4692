/* WireGuard message layouts: whatever has a type is written back as it was read. */
#include "wire/wgmsg.h"

#include <stdlib.h>
#include <string.h>

static void same(const uint8_t *a, const uint8_t *b, size_t len)
{
    if (memcmp(a, b, len) != 0) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t out[TN_WGMSG_INITIATION_LEN];
    struct tn_wgmsg_initiation i;
    struct tn_wgmsg_response r;
    struct tn_wgmsg_cookie c;
    struct tn_wgmsg_data d;
    switch (tn_wgmsg_type(data, size)) {
    case TN_WGMSG_INITIATION:
        tn_wgmsg_get_initiation(data, &i);
        tn_wgmsg_put_initiation(out, &i);
        same(out, data, TN_WGMSG_INITIATION_LEN - 2 * TN_WGMSG_MAC);
        break;
    case TN_WGMSG_RESPONSE:
        tn_wgmsg_get_response(data, &r);
        tn_wgmsg_put_response(out, &r);
        same(out, data, TN_WGMSG_RESPONSE_LEN - 2 * TN_WGMSG_MAC);
        break;
    case TN_WGMSG_COOKIE:
        tn_wgmsg_get_cookie(data, &c);
        tn_wgmsg_put_cookie(out, &c);
        same(out, data, TN_WGMSG_COOKIE_LEN);
        break;
    case TN_WGMSG_DATA:
        tn_wgmsg_get_data(data, &d);
        tn_wgmsg_put_data(out, &d);
        same(out, data, TN_WGMSG_DATA_HEADER);
        break;
    default: break;
    }
    return 0;
}
