/* Datagrams from a SOCKS5 relay: what parses lies inside the datagram, and what we would send parses to itself. */
#include "util/err.h"
#include "wire/socks5udp.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tn_socks5udp d, again;
    uint8_t head[TN_SOCKS5UDP_HDR_MAX];
    int err = tn_socks5udp_parse(data, size, &d);
    if (err != 0 && err != TN_E_MALFORMED && err != TN_E_UNSUPPORTED) abort();
    if (err) return 0;
    if (d.payload < data || d.payload + d.len != data + size) abort();
    if (data[2] != 0) abort();
    if (d.from.ip.family == 0) return 0;
    size_t n = tn_socks5udp_put(head, &d.from);
    if (n > sizeof head || tn_socks5udp_parse(head, n, &again) != 0) abort();
    if (!tn_addrport_eq(&again.from, &d.from) || again.len != 0) abort();
    return 0;
}
