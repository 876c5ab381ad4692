/* The filter with each of its allocations failing in turn: never a crash, never more allowed than with memory. */
#include "../failalloc.h"

#include "filter/filter.c"
#include "filter/flows.c"
#include "filter/ipset.c"
#include "filter/rules.c"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static const char rules[] =
    "[{\"SrcIPs\":[\"100.64.0.2\",\"10.0.0.0/8\",\"1.1.1.1-1.1.1.9\",\"::1\",\"2.2.2.2\",\"3.3.3.3\",\"cap:a\","
    "\"cap:b\"],\"DstPorts\":["
    "{\"IP\":\"100.64.0.1\",\"Ports\":{\"First\":80,\"Last\":80}},"
    "{\"IP\":\"*\",\"Ports\":{\"First\":81,\"Last\":81}},"
    "{\"IP\":\"100.64.0.1\",\"Ports\":{\"First\":82,\"Last\":82}}]},{\"SrcIPs\":[\"*\"]}]";

static void use_filter(void *arg)
{
    json_t *json = arg;
    struct tn_filter *f = tn_filter_new();
    if (!f) return;
    struct tn_ip own = tn_ip4(100, 64, 0, 1), peer = tn_ip4(100, 64, 0, 2), other = tn_ip4(100, 64, 0, 3);
    struct tn_prefix routes[] = {{{4, {0}}, 0}, {{6, {0}}, 0}}, attached[] = {{{4, {192, 0, 2, 7}}, 24}};
    int local = tn_filter_set_local(f, &own, 1, routes, 2, attached, 1), set = tn_filter_set_rules(f, json);
    assert_true((local == 0 || local == TN_E_NOMEM) && (set == 0 || set == TN_E_NOMEM));
    assert_int_equal(tn_filter_would_accept(f, &peer, &own, 80, 6, NULL), local == 0 && set == 0);
    assert_false(tn_filter_would_accept(f, &other, &own, 80, 6, NULL));
    assert_false(tn_filter_would_accept(f, &peer, &attached[0].ip, 80, 6, NULL));
    uint8_t packet[28] = {0}, l4[8] = {0, 53, 0, 99};
    memcpy(packet + tn_ip_header_put(packet, &own, &peer, 17, sizeof l4, 64, 1), l4, sizeof l4);
    for (int i = 0; i < 2; i++) tn_filter_out(f, packet, sizeof packet);
    tn_filter_free(f);
}

static void every_allocation_fails_once(void **state)
{
    json_t *json = json_loads(rules, 0, NULL);
    long n = 0;
    assert_non_null(json);
    while (failalloc_run(n, use_filter, json)) n++;
    assert_true(n > 20);
    json_decref(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_allocation_fails_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
