/* Packets from peers, and our own, through a filter with fixed rules. Whatever comes, only what the rules name may
 * pass: TCP SYNs to a port that no rule opens must not. */
#include "filter/filter.h"
#include "util/cursor.h"
#include "wire/ip.h"

#include <stdlib.h>

static const char rules[] =
    "[{\"SrcIPs\":[\"100.64.0.0/10\",\"fd7a:115c:a1e0::/48\",\"10.0.0.1-10.0.0.9\"],\"DstPorts\":["
    "{\"IP\":\"100.64.0.1\",\"Ports\":{\"First\":80,\"Last\":90}},"
    "{\"IP\":\"fd7a:115c:a1e0::1\",\"Ports\":{\"First\":80,\"Last\":90}}]},"
    "{\"SrcIPs\":[\"*\"],\"IPProto\":[132,47],\"DstPorts\":[{\"IP\":\"*\",\"Ports\":{\"First\":0,\"Last\":65535}}]},"
    "{\"SrcIPs\":[\"cap:x\"],\"DstPorts\":[{\"IP\":\"100.64.0.1\",\"Ports\":{\"First\":5000,\"Last\":5000}}]}]";

static bool has_cap(void *ctx, const char *cap) { return *(bool *)ctx; }

static struct tn_filter *make(void)
{
    struct tn_filter *f = tn_filter_new();
    json_t *json = json_loads(rules, 0, NULL);
    struct tn_ip own[] = {tn_ip4(100, 64, 0, 1), {6, {0xfd, 0x7a, 0x11, 0x5c, 0xa1, 0xe0, [15] = 1}}};
    struct tn_prefix routes[] = {{{4, {0}}, 0}, {{6, {0}}, 0}}, attached[] = {{{4, {192, 0, 2, 7}}, 24}};
    if (!f || !json || tn_filter_set_rules(f, json) != 0) abort();
    if (tn_filter_set_local(f, own, 2, routes, 2, attached, 1) != 0) abort();
    tn_filter_set_peerapi_ports(f, 50000, 50001);
    json_decref(json);
    return f;
}

/* A SYN that no rule and no bypass lets in. */
static bool closed_port(const struct tn_ippkt *p)
{
    if (p->proto != TN_IPPROTO_TCP || p->frag_off || p->l4_len < 20 || (p->l4[13] & 0x12) != 0x02) return false;
    uint16_t port = tn_get_be16(p->l4 + 2);
    return !(port >= 80 && port <= 90) && port != 5000 && port != 50000 && port != 50001;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tn_filter *f; /* kept: what flows do to each other is part of the test */
    if (!f) f = make();
    if (size == 0) return 0;
    bool cap = data[0] & 1;
    struct tn_filter_peer peer = {.has_cap = has_cap, .ctx = &cap, .jailed = data[0] & 2};
    enum tn_filter_reason why;
    struct tn_ippkt p;
    tn_filter_set_shields(f, data[0] & 4);
    if (data[0] & 8) tn_filter_out(f, data + 1, size - 1);
    enum tn_verdict v = tn_filter_in(f, data + 1, size - 1, &peer, &why);
    if ((v == TN_ACCEPT) != (why == TN_FILTER_OK)) abort();
    if (v != TN_ACCEPT || size == 1) return 0;
    if (tn_ippkt_parse(data + 1, size - 1, &p) != 0 || closed_port(&p)) abort();
    return 0;
}
