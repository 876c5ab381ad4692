/* PCP answers: whatever is taken for one matches what was asked. The first 14 bytes are the nonce and port asked with. */
#include "util/cursor.h"
#include "util/err.h"
#include "wire/pcp.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tn_pcp_map asked = {.lifetime_s = 7200, .client = {.family = 4, .b = {10, 0, 0, 2}}}, got = asked;
    if (size < 14) return 0;
    memcpy(asked.nonce, data, sizeof asked.nonce);
    asked.internal_port = tn_get_be16(data + 12);
    data += 14;
    size -= 14;
    int err = tn_pcp_map_parse(data, size, &asked, &got);
    if (err) {
        assert(got.external_port == 0);
        return 0;
    }
    assert(size >= TN_PCP_MAP_LEN && data[0] == 2 && data[1] == 0x81 && data[3] == 0);
    assert(memcmp(data + 24, asked.nonce, sizeof asked.nonce) == 0 && got.internal_port == asked.internal_port);
    assert(got.external_ip.family == 4);
    return 0;
}
