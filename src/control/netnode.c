#include "control/netnode.h"
#include "control/cjson.h"
#include "control/when.h"
#include "util/err.h"

#include <stdlib.h>
#include <string.h>

#define DERP_MAGIC_PREFIX "127.3.3.40:"

static int copy_text(const json_t *json, const char *key, char **out)
{
    const char *text = tn_cjson_string(json, key);
    if (!text || !*text) return 0;
    *out = strdup(text);
    return *out ? 0 : TN_E_NOMEM;
}

static int64_t time_of(const json_t *json, const char *key)
{
    int64_t at;
    const char *text = tn_cjson_string(json, key);
    return text && tn_when_parse(text, &at) == 0 ? at : 0;
}

static int parse_prefixes(const json_t *array, struct tn_prefix **out, size_t *n)
{
    size_t count = json_array_size(array);
    if (count == 0) return 0;
    struct tn_prefix *list = calloc(count, sizeof *list);
    if (!list) return TN_E_NOMEM;
    for (size_t i = 0; i < count; i++) {
        const char *text = tn_cjson_text(json_array_get(array, i));
        if (text && tn_prefix_parse(text, &list[i]) == 0) continue;
        free(list);
        return TN_E_MALFORMED;
    }
    *out = list;
    *n = count;
    return 0;
}

/* An endpoint we can't use (a zone, a future form) is no reason to lose the peer. */
static int parse_endpoints(const json_t *array, struct tn_addrport **out, size_t *n)
{
    size_t count = json_array_size(array), good = 0;
    struct tn_addrport *list = NULL;
    if (count > 0) {
        list = calloc(count, sizeof *list);
        if (!list) return TN_E_NOMEM;
    }
    for (size_t i = 0; i < count; i++) {
        const char *text = tn_cjson_text(json_array_get(array, i));
        if (text && tn_addrport_parse(text, &list[good]) == 0) good++;
    }
    if (good == 0) {
        free(list);
        list = NULL;
    }
    *out = list;
    *n = good;
    return 0;
}

static int parse_keys(const json_t *json, struct tn_netnode *n)
{
    const char *key = tn_cjson_string(json, "Key"), *disco = tn_cjson_string(json, "DiscoKey");
    if (!key || tn_node_public_parse(key, &n->key) != 0 || tn_key_is_zero(n->key.b)) return TN_E_MALFORMED;
    return disco && *disco ? tn_disco_public_parse(disco, &n->disco) : 0;
}

/* Null AllowedIPs mean the addresses; an unsigned peer never gets more than those. */
static int parse_addresses(const json_t *json, struct tn_netnode *n)
{
    const json_t *addresses = tn_cjson_get(json, "Addresses"), *allowed = tn_cjson_get(json, "AllowedIPs");
    if ((addresses && !json_is_array(addresses)) || (allowed && !json_is_array(allowed))) return TN_E_MALFORMED;
    n->unsigned_peerapi_only = tn_cjson_bool(json, "UnsignedPeerAPIOnly");
    if (!allowed || n->unsigned_peerapi_only) allowed = addresses;
    int err = parse_prefixes(addresses, &n->addresses, &n->naddresses);
    return err ? err : parse_prefixes(allowed, &n->allowed_ips, &n->nallowed_ips);
}

static int bounded_int(const json_t *json, const char *key)
{
    int64_t value = tn_cjson_int(json, key);
    return value < 0 || value > 1 << 30 ? 0 : (int)value;
}

static int parse_home(const json_t *json)
{
    int home = bounded_int(json, "HomeDERP");
    const char *legacy = tn_cjson_string(json, "DERP");
    if (home || !legacy || strncmp(legacy, DERP_MAGIC_PREFIX, strlen(DERP_MAGIC_PREFIX)) != 0) return home;
    char *end;
    long region = strtol(legacy + strlen(DERP_MAGIC_PREFIX), &end, 10);
    return *end == '\0' && region > 0 && region <= 65535 ? (int)region : 0;
}

static void parse_services(const json_t *hostinfo, struct tn_netnode *n)
{
    const json_t *services = tn_cjson_array(hostinfo, "Services");
    size_t i;
    json_t *service;
    json_array_foreach((json_t *)(uintptr_t)services, i, service) {
        const char *proto = tn_cjson_string(service, "Proto");
        int64_t port = tn_cjson_int(service, "Port");
        if (!proto || port <= 0 || port > 65535) continue;
        if (strcmp(proto, "peerapi4") == 0) n->peerapi4 = (uint16_t)port;
        else if (strcmp(proto, "peerapi6") == 0) n->peerapi6 = (uint16_t)port;
        else if (strcmp(proto, "peerapi-dns-proxy") == 0) n->peerapi_dns_proxy = true;
    }
}

static json_t *keep_array(const json_t *json, const char *key)
{
    json_t *value = tn_cjson_array(json, key);
    return json_array_size(value) > 0 ? json_incref(value) : NULL;
}

static json_t *keep_object(const json_t *value)
{
    return json_object_size(value) > 0 ? json_incref((json_t *)(uintptr_t)value) : NULL;
}

/* Old servers send Capabilities, a list of names; it becomes a map without values. */
static int parse_caps(const json_t *json, struct tn_netnode *n)
{
    const json_t *list = tn_cjson_array(json, "Capabilities");
    n->cap_map = keep_object(tn_cjson_object(json, "CapMap"));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = tn_cjson_text(json_array_get(list, i));
        if (!name || json_object_get(n->cap_map, name)) continue;
        if (!n->cap_map) n->cap_map = json_object();
        if (json_object_set_new(n->cap_map, name, json_null()) != 0) return TN_E_NOMEM;
    }
    return 0;
}

static void parse_flags(const json_t *json, struct tn_netnode_entry *e)
{
    struct tn_netnode *n = &e->node;
    n->user = tn_cjson_int(json, "User");
    n->key_expiry = time_of(json, "KeyExpiry");
    n->last_seen = time_of(json, "LastSeen");
    n->created = time_of(json, "Created");
    n->online = (int8_t)tn_cjson_tristate(json, "Online");
    n->machine_authorized = tn_cjson_bool(json, "MachineAuthorized");
    n->wireguard_only = tn_cjson_bool(json, "IsWireGuardOnly");
    n->jailed = tn_cjson_bool(json, "IsJailed");
    n->cap = bounded_int(json, "Cap");
    e->server_expired = n->expired = tn_cjson_bool(json, "Expired");
    n->home_derp = e->home_derp = parse_home(json);
}

static int parse_strings(const json_t *json, struct tn_netnode *n)
{
    const json_t *hostinfo = tn_cjson_object(json, "Hostinfo");
    int err = copy_text(json, "StableID", &n->stable_id);
    if (!err) err = copy_text(json, "Name", &n->name);
    if (!err) err = copy_text(hostinfo, "Hostname", &n->hostname);
    if (!err) err = copy_text(hostinfo, "OS", &n->os);
    if (!err && !n->stable_id) err = (n->stable_id = strdup("")) ? 0 : TN_E_NOMEM;
    if (!err && !n->name) err = (n->name = strdup("")) ? 0 : TN_E_NOMEM;
    parse_services(hostinfo, n);
    return err;
}

int tn_netnode_parse(const json_t *json, struct tn_netnode_entry **out)
{
    int64_t id = tn_cjson_int(json, "ID");
    if (id == 0) return TN_E_MALFORMED;
    struct tn_netnode_entry *e = calloc(1, sizeof *e);
    if (!e) return TN_E_NOMEM;
    struct tn_netnode *n = &e->node;
    tn_list_init(&e->changed);
    n->id = id;
    parse_flags(json, e);
    int err = parse_keys(json, n);
    if (!err) err = parse_addresses(json, n);
    if (!err) err = parse_strings(json, n);
    if (!err) err = parse_endpoints(tn_cjson_array(json, "Endpoints"), &n->endpoints, &n->nendpoints);
    if (!err) err = parse_caps(json, n);
    if (err) {
        tn_netnode_free(e);
        return err;
    }
    e->nendpoints = n->nendpoints;
    n->tags = keep_array(json, "Tags");
    n->primary_routes = keep_array(json, "PrimaryRoutes");
    *out = e;
    return 0;
}

void tn_netnode_free(struct tn_netnode_entry *e)
{
    if (!e) return;
    struct tn_netnode *n = &e->node;
    tn_list_remove(&e->changed);
    free(n->stable_id);
    free(n->name);
    free(n->hostname);
    free(n->os);
    free(n->addresses);
    free(n->allowed_ips);
    free(n->endpoints);
    json_decref(n->tags);
    json_decref(n->cap_map);
    json_decref(n->primary_routes);
    free(e);
}

static bool same_text(const char *a, const char *b) { return a == b || (a && b && strcmp(a, b) == 0); }

static bool same_json(const json_t *a, const json_t *b)
{
    return a == b || (a && b && json_equal((json_t *)(uintptr_t)a, (json_t *)(uintptr_t)b));
}

static bool same_prefixes(const struct tn_prefix *a, size_t na, const struct tn_prefix *b, size_t nb)
{
    if (na != nb) return false;
    for (size_t i = 0; i < na; i++)
        if (!tn_prefix_eq(&a[i], &b[i])) return false;
    return true;
}

static bool same_endpoints(const struct tn_addrport *a, size_t na, const struct tn_addrport *b, size_t nb)
{
    if (na != nb) return false;
    for (size_t i = 0; i < na; i++)
        if (!tn_addrport_eq(&a[i], &b[i])) return false;
    return true;
}

static bool same_values(const struct tn_netnode *a, const struct tn_netnode *b)
{
    return a->id == b->id && a->user == b->user && tn_node_public_eq(&a->key, &b->key) &&
           tn_disco_public_eq(&a->disco, &b->disco) && a->cap == b->cap && a->key_expiry == b->key_expiry &&
           a->last_seen == b->last_seen && a->created == b->created && a->online == b->online &&
           a->machine_authorized == b->machine_authorized && a->unsigned_peerapi_only == b->unsigned_peerapi_only &&
           a->wireguard_only == b->wireguard_only && a->jailed == b->jailed && a->peerapi4 == b->peerapi4 &&
           a->peerapi6 == b->peerapi6 && a->peerapi_dns_proxy == b->peerapi_dns_proxy;
}

bool tn_netnode_same(const struct tn_netnode_entry *ea, const struct tn_netnode_entry *eb)
{
    const struct tn_netnode *a = &ea->node, *b = &eb->node;
    return same_values(a, b) && ea->server_expired == eb->server_expired && ea->home_derp == eb->home_derp &&
           same_endpoints(a->endpoints, ea->nendpoints, b->endpoints, eb->nendpoints) &&
           same_prefixes(a->addresses, a->naddresses, b->addresses, b->naddresses) &&
           same_prefixes(a->allowed_ips, a->nallowed_ips, b->allowed_ips, b->nallowed_ips) &&
           same_text(a->stable_id, b->stable_id) && same_text(a->name, b->name) &&
           same_text(a->hostname, b->hostname) && same_text(a->os, b->os) &&
           same_json(a->tags, b->tags) && same_json(a->cap_map, b->cap_map) &&
           same_json(a->primary_routes, b->primary_routes);
}

int tn_netnode_patch_parse(const json_t *json, struct tn_netnode_patch *out)
{
    struct tn_netnode_patch p = {.id = tn_cjson_int(json, "NodeID"), .online = tn_cjson_tristate(json, "Online")};
    const char *key = tn_cjson_string(json, "Key"), *disco = tn_cjson_string(json, "DiscoKey");
    if (p.id == 0) return TN_E_MALFORMED;
    p.home_derp = bounded_int(json, "DERPRegion");
    p.cap = bounded_int(json, "Cap");
    p.cap_map = tn_cjson_object(json, "CapMap");
    p.endpoints = tn_cjson_array(json, "Endpoints");
    p.has_key = key != NULL;
    if (key && (tn_node_public_parse(key, &p.key) != 0 || tn_key_is_zero(p.key.b))) return TN_E_MALFORMED;
    p.has_disco = disco != NULL;
    if (disco && tn_disco_public_parse(disco, &p.disco) != 0) return TN_E_MALFORMED;
    p.has_last_seen = tn_cjson_string(json, "LastSeen") != NULL;
    p.last_seen = time_of(json, "LastSeen");
    p.has_key_expiry = tn_cjson_string(json, "KeyExpiry") != NULL;
    p.key_expiry = time_of(json, "KeyExpiry");
    *out = p;
    return 0;
}

static bool patch_endpoints(struct tn_netnode_entry *e, const json_t *array)
{
    struct tn_addrport *list;
    size_t n;
    if (parse_endpoints(array, &list, &n) != 0) return false;
    if (same_endpoints(list, n, e->node.endpoints, e->nendpoints)) {
        free(list);
        return false;
    }
    free(e->node.endpoints);
    e->node.endpoints = list;
    e->nendpoints = n;
    e->node.nendpoints = e->node.expired ? 0 : n;
    return true;
}

static bool patch_caps(struct tn_netnode *n, const json_t *cap_map)
{
    json_t *now = keep_object(cap_map);
    bool changed = !same_json(n->cap_map, now);
    json_decref(n->cap_map);
    n->cap_map = now;
    return changed;
}

#define PATCH(condition, field, value)                                                                            \
    if ((condition) && (field) != (value)) {                                                                      \
        (field) = (value);                                                                                        \
        changed = true;                                                                                           \
    }

bool tn_netnode_patch_apply(struct tn_netnode_entry *e, const struct tn_netnode_patch *p)
{
    struct tn_netnode *n = &e->node;
    bool changed = false;
    PATCH(p->home_derp, e->home_derp, p->home_derp)
    n->home_derp = n->expired ? 0 : e->home_derp;
    PATCH(p->cap, n->cap, p->cap)
    PATCH(p->online >= 0, n->online, (int8_t)p->online)
    PATCH(p->has_last_seen, n->last_seen, p->last_seen)
    PATCH(p->has_key_expiry, n->key_expiry, p->key_expiry)
    if (p->has_key && !tn_node_public_eq(&n->key, &p->key)) {
        n->key = p->key;
        changed = true;
    }
    if (p->has_disco && !tn_disco_public_eq(&n->disco, &p->disco)) {
        n->disco = p->disco;
        changed = true;
    }
    if (p->endpoints && patch_endpoints(e, p->endpoints)) changed = true;
    if (p->cap_map && patch_caps(n, p->cap_map)) changed = true;
    return changed;
}

bool tn_netnode_judge_expiry(struct tn_netnode_entry *e, int64_t control_now)
{
    struct tn_netnode *n = &e->node;
    bool by_clock = n->key_expiry != 0 && control_now >= TN_WHEN_SANE && n->key_expiry <= control_now;
    bool expired = e->server_expired || by_clock, was = n->expired;
    n->expired = expired;
    n->home_derp = expired ? 0 : e->home_derp;
    n->nendpoints = expired ? 0 : e->nendpoints;
    return expired != was;
}
