/* The merge rules of map responses, row by row, with absent, null and empty kept apart. */
#include "control/netmap.c"
#include "control/mapframe.h"
#include "control/when.h"

#include <stdarg.h>
#include <stdio.h>
#include <setjmp.h>
#include <cmocka.h>

#define WALL 1800000000 /* 2027-01-15T08:00:00Z */
#define HEX62 "00000000000000000000000000000000000000000000000000000000000000"
#define NODE(id, extra)                                                                                           \
    "{\"ID\":" #id ",\"StableID\":\"n" #id "\",\"Name\":\"p" #id ".\",\"User\":7,"                                \
    "\"Key\":\"nodekey:" #id #id HEX62 "\",\"Addresses\":[\"100.64.0." #id "/32\"]" extra "}"
#define FIRST "{\"Node\":" NODE(1, "") ",\"Peers\":[" NODE(2, "") "," NODE(3, "") "]}"

static struct tn_netmap *map;
static char told[512]; /* "+2 -3 ": who was told of, in order */
static unsigned bits;

static void note(char sign, const struct tn_netnode *n)
{
    size_t used = strlen(told);
    snprintf(told + used, sizeof told - used, "%c%lld ", sign, (long long)n->id);
}
static void on_peer(void *ctx, const struct tn_netnode *n) { note('+', n); }
static void on_gone(void *ctx, const struct tn_netnode *n) { note('-', n); }
static const struct tn_netmap_sink sink = {on_peer, on_gone, NULL};

static int merge_at(const char *text, int64_t control_now)
{
    struct tn_netmap_message message;
    int err = tn_mapframe_decode((const uint8_t *)text, strlen(text), false, &message);
    told[0] = '\0';
    if (err) return err;
    err = tn_netmap_merge(map, &message, WALL, control_now, &sink, &bits);
    tn_netmap_message_fini(&message); /* nothing of it may be needed later but what the map took a reference of */
    return err;
}
/* A message that was parsed as a whole. Takes json. */
static int merge_tree(json_t *json)
{
    struct tn_netmap_message message = {.rest = json};
    int err = tn_netmap_merge(map, &message, WALL, WALL, &sink, &bits);
    tn_netmap_message_fini(&message);
    return err;
}
static int merge(const char *text) { return merge_at(text, WALL); }
static void ok(const char *text) { assert_int_equal(merge(text), 0); }
static const struct tn_netnode *peer(int64_t id) { return tn_netmap_peer_by_id(map, id); }

static int setup(void **state)
{
    struct tn_hashkey key = {{1, 2}};
    map = tn_netmap_new(&key);
    ok(FIRST);
    assert_string_equal(told, "+2 +3 ");
    assert_int_equal(bits, TN_NETMAP_SELF | TN_NETMAP_PEERS);
    return 0;
}
static int teardown(void **state)
{
    tn_netmap_free(map);
    return 0;
}

static void nothing(const char *text)
{
    ok(text);
    assert_string_equal(told, "");
    assert_int_equal(bits, 0);
}

static void test_absent_null_and_empty_change_nothing(void **state)
{
    static const char *const keys[] = {"Node", "DERPMap", "Peers", "PeersChanged", "PeersRemoved",
        "PeersChangedPatch",
        "PeerSeenChange", "OnlineChange", "DNSConfig", "Domain", "PacketFilter", "PacketFilters", "UserProfiles",
            "Health",
        "DisplayMessages", "SSHPolicy", "TKAInfo", "Debug", "ControlDialPlan", "ClientVersion", "CollectServices"};
    ok("{\"Domain\":\"d\",\"DNSConfig\":{\"Proxied\":true},\"PacketFilter\":[{\"SrcIPs\":[\"*\"]}],"
        "\"Health\":[\"bad\"]}");
    nothing("{}");
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        char text[64];
        snprintf(text, sizeof text, "{\"%s\":null}", keys[i]);
        nothing(text);
    }
    nothing("{\"Peers\":[]}"); /* not "no peers" */
    nothing("{\"PeersChanged\":[],\"PeersRemoved\":[],\"PeersChangedPatch\":[]}");
    nothing("{\"PeerSeenChange\":{},\"OnlineChange\":{},\"UserProfiles\":[],\"DisplayMessages\":{},"
        "\"PacketFilters\":{}}");
    nothing("{\"Domain\":\"\"}");
    assert_int_equal(tn_netmap_npeers(map), 2);
    assert_string_equal(tn_netmap_domain(map), "d");
    assert_non_null(tn_netmap_dns_config(map));
    assert_int_equal(json_array_size(tn_netmap_filter_rules(map)), 1);
}

static void test_full_list(void **state)
{
    ok("{\"Peers\":[" NODE(3, "") "," NODE(4, "") "],\"PeersRemoved\":[4],\"PeersChangedPatch\":[{\"NodeID\":3,"
        "\"Cap\":9}],"
       "\"OnlineChange\":{\"3\":true}}");
    assert_string_equal(told, "-2 +4 "); /* 3 is as it was; deltas beside a full list don't count */
    assert_null(peer(2));
    assert_int_equal(peer(3)->cap, 0);
    assert_int_equal(peer(3)->online, -1);
    assert_non_null(peer(4));
    assert_int_equal(bits, TN_NETMAP_PEERS);
}

static void test_twice_in_a_list(void **state)
{
    ok("{\"Peers\":[" NODE(3, "") "," NODE(3, ",\"Cap\":5") "]}");
    assert_string_equal(told, "-2 +3 ");
    assert_int_equal(tn_netmap_npeers(map), 1);
    assert_int_equal(peer(3)->cap, 5);
}

static void test_removed_and_changed(void **state)
{
    ok("{\"PeersRemoved\":[2,99],\"PeersChanged\":[" NODE(3, ",\"HomeDERP\":4") "," NODE(5, "") "]}");
    assert_string_equal(told, "-2 +3 +5 ");
    assert_int_equal(peer(3)->home_derp, 4);
    ok("{\"PeersRemoved\":[5],\"PeersChanged\":[" NODE(5, "") "]}"); /* removed first, then added */
    assert_string_equal(told, "-5 +5 ");
    nothing("{\"PeersChanged\":[" NODE(5, "") "]}");
    assert_int_equal(tn_netmap_npeers(map), 2);
    assert_null(tn_netmap_peer_at(map, 2));
}

static void test_patch(void **state)
{
    ok("{\"PeersChanged\":[" NODE(2, ",\"HomeDERP\":4,\"Cap\":100,\"Endpoints\":[\"192.0.2.1:1\"],"
        "\"CapMap\":{\"a\":null},"
       "\"LastSeen\":\"2024-01-01T00:00:00Z\",\"Online\":false") "]}");
    nothing("{\"PeersChangedPatch\":[{\"NodeID\":2,\"DERPRegion\":0,\"Cap\":0,\"CapMap\":null,\"Endpoints\":null,"
        "\"Key\":null,"
            "\"DiscoKey\":null,\"Online\":null,\"LastSeen\":null,\"KeyExpiry\":null,\"KeySignature\":null}]}");
    assert_int_equal(peer(2)->home_derp, 4);
    assert_int_equal(peer(2)->cap, 100);
    assert_int_equal(peer(2)->nendpoints, 1);
    nothing("{\"PeersChangedPatch\":[{\"NodeID\":77,\"Cap\":1}]}");

    ok("{\"PeersChangedPatch\":[{\"NodeID\":2,\"DERPRegion\":7},{\"NodeID\":2,\"Cap\":101}]}");
    assert_string_equal(told, "+2 "); /* once, after both */
    assert_int_equal(peer(2)->home_derp, 7);
    assert_int_equal(peer(2)->cap, 101);
    ok("{\"PeersChangedPatch\":[{\"NodeID\":2,\"Endpoints\":[\"192.0.2.2:2\",\"[2001:db8::1]:3\",\"bad\","
        "\"[fe80::1%eth0]:4\"]}]}");
    assert_int_equal(peer(2)->nendpoints, 2);
    assert_int_equal(peer(2)->endpoints[1].port, 3);
    ok("{\"PeersChangedPatch\":[{\"NodeID\":2,\"Endpoints\":[]}]}"); /* empty is none */
    assert_int_equal(peer(2)->nendpoints, 0);
    ok("{\"PeersChangedPatch\":[{\"NodeID\":2,\"Key\":\"nodekey:ff" HEX62 "\","
        "\"DiscoKey\":\"discokey:ee" HEX62 "\"}]}");
    assert_int_equal(peer(2)->key.b[0], 0xff);
    assert_int_equal(peer(2)->disco.b[0], 0xee);
    ok("{\"PeersChangedPatch\":[{\"NodeID\":2,\"Online\":true,\"LastSeen\":\"2024-01-02T00:00:00Z\"}]}");
    assert_int_equal(peer(2)->online, 1);
    assert_int_equal(peer(2)->last_seen, 1704153600);
    ok("{\"PeersChangedPatch\":[{\"NodeID\":2,\"CapMap\":{\"b\":[1]}}]}");
    assert_true(tn_netnode_has_cap(peer(2), "b") && !tn_netnode_has_cap(peer(2), "a"));
    ok("{\"PeersChangedPatch\":[{\"NodeID\":2,\"CapMap\":{}}]}");
    assert_false(tn_netnode_has_cap(peer(2), "b"));
}

static void test_seen_and_online(void **state)
{
    ok("{\"PeerSeenChange\":{\"2\":true,\"99\":true,\"x\":true,\"3\":\"yes\"}}");
    assert_string_equal(told, "+2 ");
    assert_int_equal(peer(2)->last_seen, WALL);
    assert_int_equal(peer(2)->online, -1); /* seen is not online */
    ok("{\"PeerSeenChange\":{\"2\":false}}");
    assert_int_equal(peer(2)->last_seen, 0);
    ok("{\"OnlineChange\":{\"2\":true,\"3\":false}}");
    assert_int_equal(peer(2)->online, 1);
    assert_int_equal(peer(3)->online, 0);
    assert_int_equal(peer(2)->last_seen, 0);
    nothing("{\"OnlineChange\":{\"2\":true}}");
}

static void test_order_of_deltas(void **state)
{
    /* A patch of a peer that the same message adds, and the last word of several on Online. */
    ok("{\"PeersChangedPatch\":[{\"NodeID\":6,\"Online\":true}],\"OnlineChange\":{\"6\":false},"
        "\"PeersChanged\":[" NODE(6, "") "]}");
    assert_int_equal(peer(6)->online, 1);
    assert_string_equal(told, "+6 ");
}

static void test_derp_map(void **state)
{
    ok("{\"DERPMap\":{\"Regions\":{\"1\":{\"RegionID\":1},\"2\":null},\"HomeParams\":{\"RegionScore\":{\"1\":2}},"
       "\"omitDefaultRegions\":true}}");
    assert_int_equal(bits, TN_NETMAP_DERP);
    const json_t *regions = json_object_get(tn_netmap_derp_map(map), "Regions");
    assert_int_equal(json_object_size(regions), 1); /* null regions are dropped */
    ok("{\"DERPMap\":{\"Regions\":null,\"HomeParams\":{\"RegionScore\":{\"1\":9}}}}");
    regions = json_object_get(tn_netmap_derp_map(map), "Regions");
    assert_int_equal(json_object_size(regions), 1); /* kept */
    assert_true(json_is_true(json_object_get(tn_netmap_derp_map(map), "omitDefaultRegions")));
    nothing("{\"DERPMap\":{\"HomeParams\":{}}}"); /* scores are kept too */
    ok("{\"DERPMap\":{\"Regions\":{\"5\":{\"RegionID\":5}}}}");
    const json_t *home = json_object_get(tn_netmap_derp_map(map), "HomeParams");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(home, "RegionScore"), "1")), 9);
    assert_null(json_object_get(json_object_get(tn_netmap_derp_map(map), "Regions"), "1"));
    ok("{\"DERPMap\":{\"Regions\":{}}}");
    assert_int_equal(json_object_size(json_object_get(tn_netmap_derp_map(map), "Regions")), 0);
}

static const char *rules(void)
{
    static char text[256];
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < json_array_size(tn_netmap_filter_rules(map)); i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s ",
                                 json_string_value(json_object_get(json_array_get(tn_netmap_filter_rules(map), i),
                                     "r")));
    return text;
}

static void test_packet_filters(void **state)
{
    assert_string_equal(rules(), ""); /* none: block */
    ok("{\"PacketFilter\":[{\"r\":\"m\"}]}");
    assert_string_equal(rules(), "m ");
    assert_int_equal(bits, TN_NETMAP_FILTER);
    ok("{\"PacketFilters\":{\"z\":[{\"r\":\"z\"}],\"a\":[{\"r\":\"a1\"},{\"r\":\"a2\"}]}}");
    assert_string_equal(rules(), "a1 a2 m z "); /* by name; PacketFilter's is "base" */
    ok("{\"PacketFilters\":{\"a\":null}}");
    assert_string_equal(rules(), "m z ");
    nothing("{\"PacketFilters\":{\"gone\":null}}");
    ok("{\"PacketFilters\":{\"z\":[]}}");
    assert_string_equal(rules(), "m ");
    /* first one, then the other */
    ok("{\"PacketFilter\":[{\"r\":\"n\"}],\"PacketFilters\":{\"base\":[{\"r\":\"o\"}]}}");
    assert_string_equal(rules(), "o ");
    ok("{\"PacketFilter\":[{\"r\":\"p\"}],\"PacketFilters\":{\"k\":[{\"r\":\"k\"}],\"*\":null}}");
    assert_string_equal(rules(), "k "); /* "*" clears all before, wherever it stands */
    ok("{\"PacketFilters\":{\"*\":[{\"r\":\"star\"}]}}"); /* only a null star means anything */
    assert_string_equal(rules(), "k ");
    ok("{\"PacketFilter\":[]}");
    assert_string_equal(rules(), "k ");
    ok("{\"PacketFilters\":{\"*\":null}}");
    assert_string_equal(rules(), "");
    assert_int_equal(merge("{\"PacketFilters\":{\"a\":\"text\"}}"), TN_E_MALFORMED);
}

static void test_values_that_replace(void **state)
{
    ok("{\"DNSConfig\":{\"Proxied\":true},\"Domain\":\"one\"}");
    assert_int_equal(bits, TN_NETMAP_DNS | TN_NETMAP_DOMAIN);
    nothing("{\"DNSConfig\":{\"Proxied\":true},\"Domain\":\"one\"}");
    ok("{\"DNSConfig\":{}}"); /* a value: nothing of the old one stays */
    assert_int_equal(json_object_size(tn_netmap_dns_config(map)), 0);
    ok("{\"Domain\":\"two\"}");
    assert_string_equal(tn_netmap_domain(map), "two");
}

static void test_user_profiles(void **state)
{
    assert_null(tn_netmap_user(map, 7));
    ok("{\"UserProfiles\":[{\"ID\":7,\"LoginName\":\"a@b\",\"DisplayName\":\"A\",\"ProfilePicURL\":\"u\"},"
        "{\"ID\":0},{}]}");
    assert_int_equal(bits, TN_NETMAP_USERS);
    assert_string_equal(tn_netmap_user(map, 7)->login_name, "a@b");
    nothing("{\"UserProfiles\":[{\"ID\":7,\"LoginName\":\"a@b\",\"DisplayName\":\"A\",\"ProfilePicURL\":\"u\"}]}");
    ok("{\"UserProfiles\":[{\"ID\":8,\"LoginName\":null},{\"ID\":7,\"LoginName\":\"c@d\"}]}");
    assert_string_equal(tn_netmap_user(map, 7)->login_name, "c@d");
    assert_string_equal(tn_netmap_user(map, 8)->login_name, "");
}

static const char *health(size_t i) { return json_string_value(json_array_get(tn_netmap_health(map), i)); }

static void test_health(void **state)
{
    assert_null(tn_netmap_health(map));
    ok("{\"Health\":[\"bad\"]}");
    assert_int_equal(bits, TN_NETMAP_HEALTH);
    assert_string_equal(health(0), "bad");
    nothing("{\"Health\":null}");
    ok("{\"Health\":[]}");
    assert_int_equal(json_array_size(tn_netmap_health(map)), 0);
    ok("{\"DisplayMessages\":{\"a\":{\"Title\":\"T\",\"Text\":\"x\"},\"b\":{\"Title\":\"U\"}}}");
    assert_int_equal(json_array_size(tn_netmap_health(map)), 2);
    assert_string_equal(health(0), "T: x");
    ok("{\"DisplayMessages\":{\"a\":null}}");
    assert_string_equal(health(0), "U");
    ok("{\"DisplayMessages\":{\"c\":{\"Text\":\"only\"},\"*\":null}}");
    assert_int_equal(json_array_size(tn_netmap_health(map)), 1);
    assert_string_equal(health(0), "only");
}

static void test_tailnet_lock(void **state)
{
    ok("{\"TKAInfo\":{\"Head\":\"x\"}}");
    assert_true(tn_netmap_tailnet_lock(map) && bits == TN_NETMAP_OTHER);
    nothing("{\"TKAInfo\":{\"Head\":\"y\"}}");
    ok("{\"TKAInfo\":{\"Disabled\":true}}");
    assert_false(tn_netmap_tailnet_lock(map));
}

static void test_normalisation(void **state)
{
    ok("{\"PeersChanged\":[" NODE(4, ",\"AllowedIPs\":null,\"DERP\":\"127.3.3.40:12\",\"Capabilities\":[\"x\","
        "\"y\"],\"CapMap\":{\"y\":[1]}")
       "," NODE(5, ",\"AllowedIPs\":[],\"HomeDERP\":3,\"DERP\":\"127.3.3.40:12\"")
       "," NODE(6, ",\"AllowedIPs\":[\"0.0.0.0/0\",\"10.1.2.3/8\"],\"DERP\":\"10.0.0.1:12\"")
       "," NODE(8, ",\"AllowedIPs\":[\"0.0.0.0/0\"],\"UnsignedPeerAPIOnly\":true") "]}");
    assert_int_equal(peer(4)->nallowed_ips, 1); /* null: the addresses */
    assert_true(tn_prefix_eq(&peer(4)->allowed_ips[0], &peer(4)->addresses[0]));
    assert_int_equal(peer(4)->home_derp, 12);
    assert_true(tn_netnode_has_cap(peer(4), "x") && tn_netnode_has_cap(peer(4), "y"));
    assert_int_equal(json_array_size(json_object_get(peer(4)->cap_map, "y")), 1);
    assert_int_equal(peer(5)->nallowed_ips, 0); /* empty: none */
    assert_int_equal(peer(5)->home_derp, 3);
    assert_int_equal(peer(6)->nallowed_ips, 2);
    assert_int_equal(peer(6)->allowed_ips[1].ip.b[1], 0); /* masked */
    assert_int_equal(peer(6)->home_derp, 0);
    assert_int_equal(peer(8)->nallowed_ips, 1); /* never more than its own */
    assert_int_equal(peer(8)->allowed_ips[0].bits, 32);
}

static void test_all_fields(void **state)
{
    ok("{\"PeersChanged\":[{\"ID\":9007199254740993,\"StableID\":\"s\",\"Name\":\"n.x.\",\"User\":-5,"
        "\"Key\":\"nodekey:AA" HEX62 "\","
       "\"DiscoKey\":\"discokey:bb" HEX62 "\",\"KeyExpiry\":\"2030-01-01T00:00:00+01:00\","
           "\"Created\":\"2020-01-01T00:00:00.5Z\","
       "\"LastSeen\":\"0001-01-01T00:00:00Z\",\"Online\":true,\"Addresses\":[\"100.64.0.9/32\","
           "\"fd7a:115c:a1e0::9/128\"],"
       "\"Endpoints\":[\"192.0.2.1:41641\"],\"HomeDERP\":2,\"Cap\":119,\"MachineAuthorized\":true,"
           "\"IsWireGuardOnly\":true,"
       "\"IsJailed\":true,\"Tags\":[\"tag:a\"],\"PrimaryRoutes\":[\"10.0.0.0/8\"],\"Future\":{\"x\":[1]},"
       "\"Hostinfo\":{\"Hostname\":\"h\",\"OS\":\"linux\",\"Services\":[{\"Proto\":\"peerapi4\",\"Port\":1234},"
       "{\"Proto\":\"peerapi6\",\"Port\":1235},{\"Proto\":\"peerapi-dns-proxy\",\"Port\":1},{\"Proto\":\"tcp\","
           "\"Port\":80},"
       "{\"Proto\":\"peerapi4\",\"Port\":70000},null]}}]}");
    const struct tn_netnode *n = peer(9007199254740993); /* beyond what a double can tell apart */
    assert_non_null(n);
    assert_null(peer(9007199254740992));
    assert_string_equal(n->stable_id, "s");
    assert_string_equal(n->name, "n.x.");
    assert_int_equal(n->user, -5);
    assert_int_equal(n->key.b[0], 0xaa);
    assert_int_equal(n->disco.b[0], 0xbb);
    assert_int_equal(n->key_expiry, 1893456000 - 3600);
    assert_int_equal(n->created, 1577836800);
    assert_int_equal(n->last_seen, 0);
    assert_int_equal(n->online, 1);
    assert_int_equal(n->naddresses, 2);
    assert_int_equal(n->nendpoints, 1);
    assert_true(n->machine_authorized && n->wireguard_only && n->jailed && !n->expired && n->peerapi_dns_proxy);
    assert_int_equal(n->peerapi4, 1234);
    assert_int_equal(n->peerapi6, 1235);
    assert_string_equal(n->hostname, "h");
    assert_string_equal(n->os, "linux");
    assert_int_equal(json_array_size(n->tags), 1);
    assert_int_equal(json_array_size(n->primary_routes), 1);
}

/* Whatever is wrong, nothing of the message counts. */
static void test_malformed_changes_nothing(void **state)
{
    static const char *const bad[] = {
        "[]", "null", "7", "\"x\"",
        "{\"PeersRemoved\":[2],\"PeersChanged\":[{}]}",
        "{\"PeersRemoved\":[2],\"PeersChanged\":[null]}",
        "{\"PeersRemoved\":[2],\"PeersChanged\":[{\"ID\":4}]}",
        "{\"PeersRemoved\":[2],\"PeersChanged\":[{\"ID\":4.0,\"Key\":\"nodekey:aa" HEX62 "\"}]}",
        "{\"PeersRemoved\":[2],\"PeersChanged\":[{\"ID\":4,\"Key\":\"nodekey:aa\"}]}",
        "{\"PeersRemoved\":[2],\"PeersChanged\":[{\"ID\":4,\"Key\":\"nodekey:00" HEX62 "\"}]}",
        "{\"PeersRemoved\":[2],\"PeersChanged\":[{\"ID\":4,\"Key\":\"mkey:aa" HEX62 "\"}]}",
        "{\"PeersRemoved\":[2],\"PeersChanged\":[" NODE(4, ",\"DiscoKey\":\"discokey:1\"") "]}",
        "{\"PeersRemoved\":[2],\"PeersChanged\":[" NODE(4, ",\"AllowedIPs\":[\"nonsense\"]") "]}",
        "{\"PeersRemoved\":[2],\"PeersChanged\":[" NODE(4, ",\"AllowedIPs\":[null]") "]}",
        "{\"PeersRemoved\":[2],\"PeersChanged\":[" NODE(4, ",\"AllowedIPs\":\"0.0.0.0/0\"") "]}",
        "{\"PeersRemoved\":[2],\"PeersChanged\":[" NODE(4, ",\"AllowedIPs\":[\"0.0.0.0/33\"]") "]}",
        "{\"PeersRemoved\":[2],\"PeersChangedPatch\":[{\"NodeID\":3,\"Key\":\"x\"}]}",
        "{\"PeersRemoved\":[2],\"PeersChangedPatch\":[{\"Cap\":3}]}",
        "{\"PeersRemoved\":[2],\"Node\":{\"ID\":1}}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(merge(bad[i]), TN_E_MALFORMED);
        assert_string_equal(told, "");
        assert_int_equal(tn_netmap_npeers(map), 2);
    }
}

static void test_expiry(void **state)
{
    ok("{\"PeersChanged\":[" NODE(4, ",\"KeyExpiry\":\"2027-01-15T09:00:00Z\",\"HomeDERP\":3,"
        "\"Endpoints\":[\"192.0.2.1:1\"]") ","
       NODE(5, ",\"Expired\":true,\"HomeDERP\":3,\"Endpoints\":[\"192.0.2.1:1\"]") "]}");
    assert_false(peer(4)->expired);
    assert_int_equal(peer(4)->home_derp, 3);
    assert_true(peer(5)->expired);
    assert_int_equal(peer(5)->home_derp, 0);
    assert_int_equal(peer(5)->nendpoints, 0);
    assert_int_equal(tn_netmap_next_expiry(map, WALL), WALL + 3600);
    assert_int_equal(tn_netmap_expire(map, WALL + 3599, &sink), 0);
    told[0] = '\0';
    assert_int_equal(tn_netmap_expire(map, WALL + 3600, &sink), TN_NETMAP_PEERS);
    assert_string_equal(told, "+4 ");
    assert_true(peer(4)->expired && peer(4)->home_derp == 0 && peer(4)->nendpoints == 0);
    assert_int_equal(tn_netmap_next_expiry(map, WALL + 3600), INT64_MAX);
    /* Patches of an expired peer are remembered, and an extended key brings all of it back. */
    merge_at("{\"PeersChangedPatch\":[{\"NodeID\":4,\"DERPRegion\":8}]}", WALL + 3601);
    assert_int_equal(peer(4)->home_derp, 0);
    merge_at("{\"PeersChangedPatch\":[{\"NodeID\":4,\"KeyExpiry\":\"2028-01-01T00:00:00Z\"}]}", WALL + 3601);
    assert_false(peer(4)->expired);
    assert_int_equal(peer(4)->home_derp, 8);
    assert_int_equal(peer(4)->nendpoints, 1);
    /* A clock before 2023 judges nobody. */
    merge_at("{\"PeersChanged\":[" NODE(6, ",\"KeyExpiry\":\"1999-01-01T00:00:00Z\"") "]}", 1000000000);
    assert_false(peer(6)->expired);
    /* Ourselves. */
    ok("{\"Node\":" NODE(1, ",\"KeyExpiry\":\"2027-01-15T08:00:01Z\"") "}");
    assert_false(tn_netmap_self(map)->expired);
    assert_true(tn_netmap_expire(map, WALL + 1, &sink) & TN_NETMAP_SELF);
    assert_true(tn_netmap_self(map)->expired);
}

static void test_new_session(void **state)
{
    ok("{\"Domain\":\"d\",\"DNSConfig\":{\"Proxied\":true},\"PacketFilter\":[{\"r\":\"m\"}],\"Health\":[\"bad\"],"
       "\"DERPMap\":{\"Regions\":{\"1\":{}}},\"UserProfiles\":[{\"ID\":7,\"LoginName\":\"a\"}],"
           "\"TKAInfo\":{\"Head\":\"x\"}}");
    tn_netmap_new_session(map);
    assert_int_equal(merge("{\"Peers\":[" NODE(2, "") "]}"), TN_E_PROTO);
    assert_string_equal(rules(), "m "); /* the old state until there is a new one */
    ok("{\"Node\":" NODE(1, "") ",\"PeersChanged\":[" NODE(3, "") "]}");
    assert_string_equal(told, "-2 ");
    assert_string_equal(rules(), "");
    assert_null(tn_netmap_dns_config(map));
    assert_null(tn_netmap_health(map));
    assert_false(tn_netmap_tailnet_lock(map));
    assert_non_null(tn_netmap_derp_map(map));
    assert_non_null(tn_netmap_user(map, 7));
    assert_int_equal(bits, TN_NETMAP_PEERS | TN_NETMAP_FILTER | TN_NETMAP_DNS | TN_NETMAP_HEALTH | TN_NETMAP_OTHER);
    tn_netmap_new_session(map);
    nothing("{\"Node\":" NODE(1, "") ",\"Peers\":[" NODE(3, "") "]}"); /* all the same: nobody is told anything */
}

static void test_limits(void **state)
{
    json_t *filters = json_object(), *rule = json_array(), *message = json_object(), *messages = json_object();
    char key[16];
    for (int i = 0; i < TN_NETMAP_FILTERS_MAX + 1; i++) {
        snprintf(key, sizeof key, "k%d", i);
        json_object_set(filters, key, rule);
        if (i <= TN_NETMAP_MESSAGES_MAX) json_object_set(messages, key, message);
    }
    json_t *response = json_pack("{s:o}", "PacketFilters", filters);
    assert_int_equal(merge_tree(response), TN_E_LIMIT);
    response = json_pack("{s:o}", "DisplayMessages", messages);
    assert_int_equal(merge_tree(response), TN_E_LIMIT);
    for (int i = 0; i < TN_NETMAP_RULES_MAX + 1; i++) json_array_append(rule, message);
    response = json_pack("{s:O}", "PacketFilter", rule);
    ok("{\"PacketFilters\":{\"*\":null}}");
    assert_int_equal(merge_tree(response), TN_E_LIMIT);
    json_decref(rule);
    json_decref(message);
}

static void test_clear(void **state)
{
    ok("{\"Domain\":\"d\",\"PacketFilter\":[{\"r\":\"m\"}],\"UserProfiles\":[{\"ID\":7}],"
        "\"DERPMap\":{\"Regions\":{}}}");
    told[0] = '\0';
    tn_netmap_clear(map, &sink);
    assert_int_equal(strlen(told), 6);
    assert_null(tn_netmap_self(map));
    assert_null(tn_netmap_derp_map(map));
    assert_null(tn_netmap_user(map, 7));
    assert_string_equal(tn_netmap_domain(map), "");
    assert_string_equal(rules(), "");
    ok(FIRST);
    assert_string_equal(told, "+2 +3 ");
}

/* Random deltas against a model that knows only which peers exist and whether they are online. */
static void test_against_a_model(void **state)
{
    enum { IDS = 40 };
    int model[IDS + 1] = {0}; /* 0 absent, else 1 + online + 1 */
    uint64_t seed = 7;
    model[2] = model[3] = 1;
    for (int round = 0; round < 2000; round++) {
        char text[20000], *at = text;
        uint64_t r = seed = seed * 6364136223846793005u + 1442695040888963407u;
        int kind = (int)(r >> 33) % 4, count = 1 + (int)(r >> 40) % 5;
        static const char *const heads[] = {"{\"Peers\":[", "{\"PeersChanged\":[", "{\"PeersRemoved\":[",
            "{\"OnlineChange\":{"};
        static const char *const tails[] = {"]}", "]}", "]}", "}}"};
        at += sprintf(at, "%s", heads[kind]);
        if (kind == 0) memset(model, 0, sizeof model);
        for (int i = 0; i < count; i++) {
            int id = 2 + (int)((r >> (i * 5)) % (IDS - 1)), on = (int)(r >> i) & 1;
            const char *comma = i ? "," : "";
            if (kind <= 1) {
                at += sprintf(at, "%s{\"ID\":%d,\"Key\":\"nodekey:%02x" HEX62 "\",\"Addresses\":[]}", comma, id, id);
                model[id] = 1;
            } else if (kind == 2) {
                at += sprintf(at, "%s%d", comma, id);
                model[id] = 0;
            } else {
                at += sprintf(at, "%s\"%d\":%s", comma, id, on ? "true" : "false");
                if (model[id]) model[id] = 2 + on;
            }
        }
        sprintf(at, "%s", tails[kind]);
        ok(text);
        size_t n = 0;
        for (int id = 2; id <= IDS; id++) {
            const struct tn_netnode *p = peer(id);
            assert_true((p != NULL) == (model[id] != 0));
            if (!p) continue;
            n++;
            assert_int_equal(p->online, model[id] - 2);
        }
        assert_int_equal(tn_netmap_npeers(map), n);
        for (size_t i = 0; i < n; i++) assert_ptr_equal(peer(tn_netmap_peer_at(map, i)->id), tn_netmap_peer_at(map,
            i));
    }
}

/* Random keys' ends, deltas and jumps of the clock: who is expired, and when the next one will be, as if all were looked at
 * each time. */
static void test_expiry_against_all(void **state)
{
    enum { IDS = 30 };
    uint64_t seed = 11;
    int64_t now = WALL;
    for (int round = 0; round < 4000; round++) {
        char text[400], when[TN_WHEN_STRLEN];
        uint64_t r = seed = seed * 6364136223846793005u + 1442695040888963407u;
        int id = 4 + (int)(r >> 40) % IDS, kind = (int)(r >> 33) % 8;
        int64_t at = r >> 60 ? now - 20 + (int64_t)(r >> 20) % 400 : WALL + 5000; /* some have the same */
        now += r >> 57 == 0 ? -300 : (int64_t)(r >> 10) % 5;
        tn_when_format(at, when);
        if (kind == 0) snprintf(text, sizeof text, "{\"PeersRemoved\":[%d]}", id);
        else if (kind <= 3)
            snprintf(text, sizeof text, "{\"PeersChangedPatch\":[{\"NodeID\":%d,\"KeyExpiry\":\"%s\"}]}", id, when);
        else if (kind <= 5)
            snprintf(text, sizeof text, "{\"PeersChanged\":[{\"ID\":%d,\"Key\":\"nodekey:%02x" HEX62 "\",\"KeyExpiry\":\"%s\"}]}",
                     id, id, when);
        else snprintf(text, sizeof text, "{}");
        if (kind == 7) tn_netmap_expire(map, now, &sink);
        else assert_int_equal(merge_at(text, now), 0);
        int64_t next = INT64_MAX;
        for (size_t i = 0; i < tn_netmap_npeers(map); i++) {
            const struct tn_netnode *p = tn_netmap_peer_at(map, i);
            assert_int_equal(p->expired, p->key_expiry != 0 && p->key_expiry <= now);
            if (p->key_expiry > now && p->key_expiry < next) next = p->key_expiry;
        }
        /* What ended it may have gone: then it is looked at soon, and known. */
        if (tn_netmap_next_expiry(map, now) == now) tn_netmap_expire(map, now, &sink);
        assert_int_equal(tn_netmap_next_expiry(map, now), next);
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_absent_null_and_empty_change_nothing),
        T(test_full_list),
        T(test_twice_in_a_list),
        T(test_removed_and_changed),
        T(test_patch),
        T(test_seen_and_online),
        T(test_order_of_deltas),
        T(test_derp_map),
        T(test_packet_filters),
        T(test_values_that_replace),
        T(test_user_profiles),
        T(test_health),
        T(test_tailnet_lock),
        T(test_normalisation),
        T(test_all_fields),
        T(test_malformed_changes_nothing),
        T(test_expiry),
        T(test_expiry_against_all),
        T(test_new_session),
        T(test_limits),
        T(test_clear),
        T(test_against_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
