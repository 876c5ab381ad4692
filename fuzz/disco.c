/* Disco: the outer packet and the opened message; endpoints of a call-me-maybe are all read and put again. */
#include "wire/disco.h"
#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_endpoints(const struct tn_disco_msg *m)
{
    for (size_t i = 0; i < m->nendpoints && i < 64; i++) {
        uint8_t out[2 + TN_DISCO_ENDPOINT_LEN];
        struct tn_disco_msg again;
        struct tn_addrport ap = tn_disco_endpoint(m, i), back;
        struct tn_wr w = tn_wr_init(out, sizeof out);
        tn_disco_call_me_maybe_put(&w, &ap, 1);
        assert(tn_wr_ok(&w) && tn_disco_parse(out, sizeof out, &again) == 0 && again.nendpoints == 1);
        back = tn_disco_endpoint(&again, 0);
        assert(tn_addrport_eq(&ap, &back));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tn_disco_msg m;
    if (tn_disco_looks_like(data, size)) assert(tn_disco_sender(data) + 32 <= data + size);
    if (tn_disco_parse(data, size, &m) == 0) {
        uint8_t out[TN_DISCO_PONG_LEN];
        if (m.type == TN_DISCO_PONG) {
            struct tn_wr w = tn_wr_init(out, sizeof out);
            tn_disco_pong_put(&w, m.txid, &m.src);
            assert(tn_wr_ok(&w) && memcmp(out + 2, data + 2, sizeof out - 2) == 0);
        }
        check_endpoints(&m);
    }
    return 0;
}
