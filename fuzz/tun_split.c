/* One read of a TUN device: whatever is taken apart gives packets within the MTU, with right checksums, whose payloads
 * together are the super-packet's. */
#include "tun/split.h"
#include "tun/vnet.h"
#include "util/cursor.h"
#include "wire/ip.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tn_tun_split s;
    if (tn_tun_split_begin(&s, data, size) != 0) return 0;
    bool super = s.gso_size > 0, plain = s.v4 ? s.l4 == 20 : s.l4 == 40 && data[TN_VNET_HDR + 6] == s.proto;
    size_t payload = 0, pieces = 0;
    uint8_t *out = malloc(TN_TUN_MTU); /* of its own, so that a write past it is seen */
    check(out != NULL);
    for (size_t len; (len = tn_tun_split_next(&s, out)) > 0; pieces++) {
        struct tn_ippkt k;
        check(len <= TN_TUN_MTU && pieces <= TN_TUN_SUPER_MAX);
        if (!super) continue; /* one packet goes as it came, whatever it is */
        payload += len - s.hdr_len;
        if (plain && tn_ippkt_parse(out, len, &k) == 0 && !k.has_frag) check(k.total_len == len && tn_ippkt_cksum_ok(&k));
    }
    if (super) check(payload == size - TN_VNET_HDR - s.hdr_len);
    else check(pieces == 1);
    free(out);
    return 0;
}
