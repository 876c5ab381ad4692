/* STUN both ways: what parses as a response, put again, parses to the same address. */
#include "wire/stun.h"
#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t txid[TN_STUN_TXID_LEN], again_id[TN_STUN_TXID_LEN], out[TN_STUN_RESPONSE_MAX], request[TN_STUN_REQUEST_LEN];
    struct tn_addrport addr, again;
    if (tn_stun_request_parse(data, size, txid) == 0) {
        tn_stun_request_put(request, txid);
        assert(tn_stun_request_parse(request, sizeof request, again_id) == 0);
        assert(memcmp(txid, again_id, sizeof txid) == 0);
    }
    if (tn_stun_response_parse(data, size, txid, &addr) == 0) {
        size_t len = tn_stun_response_put(out, txid, &addr);
        assert(len > 0 && tn_stun_response_parse(out, len, again_id, &again) == 0);
        assert(tn_addrport_eq(&addr, &again) && memcmp(txid, again_id, sizeof txid) == 0);
    }
    return 0;
}
