/* The guard on any 4 or 16 bytes: IPv6 outside of 2000::/3 is refused, and so is every form in which somebody could
 * find an IPv4 address: mapped, compatible, NAT64, 6to4, Teredo, 4via6. */
#include "egress/guard.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check6(const uint8_t b[16])
{
    if ((b[0] & 0xe0) != 0x20) abort();
    if (b[0] == 0x20 && b[1] == 0x02) abort();                           /* 6to4 */
    if (b[0] == 0x20 && b[1] == 0x01 && b[2] == 0 && b[3] == 0) abort(); /* Teredo */
    if (b[0] == 0x20 && b[1] == 0x01 && b[2] == 0x0d && b[3] == 0xb8) abort();
    if (b[0] == 0x3f && b[1] == 0xff && b[2] < 0x10) abort();
}

static void check4(const uint8_t b[4])
{
    if (b[0] == 0 || b[0] == 10 || b[0] == 127 || b[0] >= 224) abort();
    if (b[0] == 100 && b[1] >= 64 && b[1] < 128) abort();
    if ((b[0] == 169 && b[1] == 254) || (b[0] == 192 && b[1] == 168)) abort();
    if (b[0] == 172 && b[1] >= 16 && b[1] < 32) abort();
    if (b[0] == 198 && (b[1] == 18 || b[1] == 19)) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tn_ip ip;
    if (size >= 4) {
        ip = tn_ip_from_bytes(data, 4);
        if (tn_guard_is_public(&ip)) check4(ip.b);
    }
    if (size >= 16) {
        ip = tn_ip_from_bytes(data, 6);
        if (tn_guard_is_public(&ip)) check6(ip.b);
    }
    return 0;
}
