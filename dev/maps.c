#include "dev/maps.h"
#include "util/err.h"

#include <stdio.h>
#include <string.h>

/* Sets a new reference under key. When value or memory is missing, the object is dropped and stays NULL, so that one
 * check at the end decides. */
static void put(json_t **obj, const char *key, json_t *value)
{
    if (!*obj) {
        json_decref(value);
    } else if (json_object_set_new(*obj, key, value) != 0) {
        json_decref(*obj);
        *obj = NULL;
    }
}

static json_t *prefix_text(const struct tn_ip *ip)
{
    char text[TN_PREFIX_STRLEN];
    struct tn_prefix p = {.ip = *ip, .bits = (uint8_t)tn_ip_bits(ip)};
    return json_string(tn_prefix_format(&p, text));
}

static json_t *addresses(const struct tn_dev_node *n)
{
    struct tn_ip v4 = tn_dev_node_ip4(n), v6 = tn_dev_node_ip6(n);
    return json_pack("[o, o]", prefix_text(&v4), prefix_text(&v6));
}

/* Appends the advertised routes that are approved: default routes and others are two decisions. */
static void append_routes(const struct tn_dev_tailnet *t, const struct tn_dev_node *n, bool want_default,
                          bool want_other, json_t *out)
{
    size_t i;
    json_t *v;
    json_array_foreach (json_object_get(n->hostinfo, "RoutableIPs"), i, v) {
        struct tn_prefix p;
        char text[TN_PREFIX_STRLEN];
        const char *s = json_string_value(v);
        if (i == TN_DEV_ROUTES_MAX) break;
        if (!s || tn_prefix_parse(s, &p) != 0) continue;
        bool is_default = p.bits == 0;
        if (is_default ? !want_default || t->refuse_exit_nodes : !want_other || t->refuse_routes) continue;
        json_array_append_new(out, json_string(tn_prefix_format(&p, text)));
    }
}

static json_t *allowed_ips(const struct tn_dev_tailnet *t, const struct tn_dev_node *n)
{
    json_t *a = addresses(n);
    if (a) append_routes(t, n, true, true, a);
    return a;
}

/* Peers have no use for another's latencies and log id. */
static json_t *public_hostinfo(const struct tn_dev_node *n, bool self)
{
    json_t *h = json_copy(n->hostinfo);
    if (h && !self) {
        json_object_del(h, "NetInfo");
        json_object_del(h, "BackendLogID");
    }
    return h;
}

static json_t *valid_tags(const struct tn_dev_node *n)
{
    json_t *tags = json_array(), *v;
    size_t i;
    json_array_foreach (json_object_get(n->hostinfo, "RequestTags"), i, v) {
        const char *s = json_string_value(v);
        if (tags && i < TN_DEV_ENDPOINTS_MAX && s && strncmp(s, "tag:", 4) == 0 && s[4]) json_array_append(tags, v);
    }
    return tags;
}

static json_t *time_text(int64_t unix_s)
{
    char buf[32];
    return json_string(tn_dev_rfc3339(unix_s, buf));
}

static void put_identity(json_t **o, const struct tn_dev_tailnet *t, const struct tn_dev_node *n)
{
    char key[TN_KEY_STRLEN], text[TN_DEV_LABEL_MAX + 300];
    snprintf(text, sizeof text, "n%lldDEV", (long long)n->id);
    put(o, "ID", json_integer(n->id));
    put(o, "StableID", json_string(text));
    snprintf(text, sizeof text, "%s.%s.", n->name, t->domain);
    put(o, "Name", json_string(text));
    put(o, "User", json_integer(TN_DEV_USER));
    put(o, "Key", json_string(tn_node_public_format(&n->key, key)));
    put(o, "Machine", json_string(tn_machine_public_format(&n->machine, key)));
    if (!tn_key_is_zero(n->disco.b)) put(o, "DiscoKey", json_string(tn_disco_public_format(&n->disco, key)));
    put(o, "MachineAuthorized", json_true());
    put(o, "Created", time_text(n->created));
}

static void put_self_caps(json_t **o)
{
    put(o, "CapMap",
        json_pack("{s:[], s:[]}", "https://tailscale.com/cap/is-admin", "https://tailscale.com/cap/file-sharing"));
}

json_t *tn_dev_maps_node(const struct tn_dev_tailnet *t, const struct tn_dev_node *n, bool self, int64_t unix_s)
{
    json_t *o = json_object(), *routes = json_array(), *tags = valid_tags(n);
    put_identity(&o, t, n);
    put(&o, "Addresses", addresses(n));
    put(&o, "AllowedIPs", allowed_ips(t, n));
    put(&o, "Hostinfo", public_hostinfo(n, self));
    if (json_array_size(n->endpoints)) put(&o, "Endpoints", json_incref(n->endpoints));
    if (n->home_derp) put(&o, "HomeDERP", json_integer(n->home_derp));
    if (n->cap) put(&o, "Cap", json_integer(n->cap));
    if (n->expiry) put(&o, "KeyExpiry", time_text(n->expiry));
    if (tn_dev_node_expired(n, unix_s)) put(&o, "Expired", json_true());
    if (routes) append_routes(t, n, false, true, routes);
    if (json_array_size(routes)) put(&o, "PrimaryRoutes", json_incref(routes));
    if (json_array_size(tags)) put(&o, "Tags", json_incref(tags));
    put(&o, "Online", json_boolean(self || n->online));
    if (!self && !n->online && n->last_seen) put(&o, "LastSeen", time_text(n->last_seen));
    if (self) put_self_caps(&o);
    json_decref(routes);
    json_decref(tags);
    return o;
}

static json_t *derp_map(const struct tn_dev_derp_facts *f)
{
    char region[8], node[8];
    snprintf(region, sizeof region, "%d", TN_DEV_REGION);
    snprintf(node, sizeof node, "%da", TN_DEV_REGION);
    bool v6 = strchr(f->host, ':') != NULL;
    json_t *n = json_pack("{s:s, s:i, s:s, s:s, s:s, s:i, s:i}", "Name", node, "RegionID", TN_DEV_REGION, "HostName",
                          f->host, "IPv4", v6 ? "none" : f->host, "IPv6", v6 ? f->host : "none", "DERPPort",
                          (int)f->derp_port, "STUNPort", (int)f->stun_port);
    if (f->insecure) put(&n, "InsecureForTests", json_true());
    else put(&n, "CertName", json_string(f->cert_name));
    return json_pack("{s:{s:{s:i, s:s, s:s, s:[o]}}, s:b}", "Regions", region, "RegionID", TN_DEV_REGION,
                     "RegionCode", "dev", "RegionName", "tailnet dev", "Nodes", n, "omitDefaultRegions", 1);
}

/* MagicDNS answers the tailnet's zone and the reverse zones of its addresses; the rest is the host's affair. */
static json_t *dns_config(const struct tn_dev_tailnet *t)
{
    return json_pack("{s:b, s:[s], s:{s:[], s:[], s:[]}}", "Proxied", 1, "Domains", t->domain, "Routes", t->domain,
                     "64.100.in-addr.arpa", "0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa");
}

static json_t *allow_all(void)
{
    return json_pack("[{s:[s], s:[{s:s, s:{s:i, s:i}}]}]", "SrcIPs", "*", "DstPorts", "IP", "*", "Ports", "First", 0,
                     "Last", 65535);
}

static void user_names(const struct tn_dev_tailnet *t, char login[300])
{
    snprintf(login, 300, "dev@%s", t->domain);
}

int tn_dev_maps_user(const struct tn_dev_tailnet *t, json_t *obj)
{
    char login[300];
    user_names(t, login);
    json_t *user = json_pack("{s:i, s:s}", "ID", TN_DEV_USER, "DisplayName", "tailnet dev");
    json_t *l = json_pack("{s:i, s:s, s:s, s:s}", "ID", TN_DEV_USER, "Provider", "dev", "LoginName", login,
                          "DisplayName", "tailnet dev");
    int bad = json_object_set_new(obj, "User", user);
    bad |= json_object_set_new(obj, "Login", l);
    return bad ? TN_E_NOMEM : 0;
}

static json_t *user_profiles(const struct tn_dev_tailnet *t)
{
    char login[300];
    user_names(t, login);
    return json_pack("[{s:i, s:s, s:s}]", "ID", TN_DEV_USER, "LoginName", login, "DisplayName", "tailnet dev");
}

json_t *tn_dev_maps_full(const struct tn_dev_registry *r, const struct tn_dev_tailnet *t,
                         const struct tn_dev_node *viewer, int64_t unix_s)
{
    json_t *o = json_object(), *peers = json_array();
    bool expired = tn_dev_node_expired(viewer, unix_s);
    TN_LIST_EACH (l, &r->nodes) {
        const struct tn_dev_node *n = TN_CONTAINER(l, struct tn_dev_node, link);
        if (n == viewer || expired) continue;
        if (json_array_append_new(peers, tn_dev_maps_node(t, n, false, unix_s)) != 0) {
            json_decref(o);
            o = NULL;
            break;
        }
    }
    put(&o, "Node", tn_dev_maps_node(t, viewer, true, unix_s));
    if (json_array_size(peers)) put(&o, "Peers", json_incref(peers));
    put(&o, "DERPMap", derp_map(&t->derp));
    put(&o, "DNSConfig", dns_config(t));
    put(&o, "Domain", json_string(t->domain));
    put(&o, "CollectServices", json_true());
    put(&o, "PacketFilter", allow_all());
    put(&o, "UserProfiles", user_profiles(t));
    put(&o, "Health", json_array());
    put(&o, "ControlTime", time_text(unix_s));
    put(&o, "Debug", json_pack("{s:b}", "DisableLogTail", 1)); /* logs of a test tailnet belong to nobody else */
    json_decref(peers);
    return o;
}

/* Must n go out whole to somebody who last heard of it at since? */
static bool owes_whole(const struct tn_dev_node *n, uint64_t since)
{
    if (n->born > since || n->whole > since) return true;
    if (n->at_endpoints > since && json_array_size(n->endpoints) == 0) return true;
    if (n->at_derp > since && n->home_derp == 0) return true;
    if (n->at_cap > since && n->cap == 0) return true;
    return n->at_disco > since && tn_key_is_zero(n->disco.b);
}

static bool owes_patch(const struct tn_dev_node *n, uint64_t since)
{
    return n->at_endpoints > since || n->at_derp > since || n->at_online > since || n->at_disco > since ||
           n->at_cap > since || n->at_expiry > since;
}

static json_t *patch(const struct tn_dev_node *n, uint64_t since)
{
    char key[TN_KEY_STRLEN];
    json_t *o = json_object();
    put(&o, "NodeID", json_integer(n->id));
    if (n->at_endpoints > since) put(&o, "Endpoints", json_incref(n->endpoints));
    if (n->at_derp > since) put(&o, "DERPRegion", json_integer(n->home_derp));
    if (n->at_disco > since) put(&o, "DiscoKey", json_string(tn_disco_public_format(&n->disco, key)));
    if (n->at_cap > since) put(&o, "Cap", json_integer(n->cap));
    if (n->at_expiry > since) put(&o, "KeyExpiry", time_text(n->expiry));
    if (n->at_online > since) {
        put(&o, "Online", json_boolean(n->online));
        if (!n->online) put(&o, "LastSeen", time_text(n->last_seen));
    }
    return o;
}

struct owed {
    json_t *changed, *patches, *removed;
};

static bool collect_nodes(const struct tn_dev_registry *r, const struct tn_dev_tailnet *t,
                          const struct tn_dev_node *viewer, uint64_t since, int64_t unix_s, struct owed *owed)
{
    TN_LIST_EACH (l, &r->nodes) {
        const struct tn_dev_node *n = TN_CONTAINER(l, struct tn_dev_node, link);
        int bad = 0;
        if (n == viewer) continue;
        if (owes_whole(n, since)) bad = json_array_append_new(owed->changed, tn_dev_maps_node(t, n, false, unix_s));
        else if (owes_patch(n, since)) bad = json_array_append_new(owed->patches, patch(n, since));
        if (bad) return false;
    }
    return true;
}

static bool collect_removed(const struct tn_dev_registry *r, uint64_t since, struct owed *owed)
{
    size_t kept = r->nremoved < TN_DEV_REMOVED_MAX ? r->nremoved : TN_DEV_REMOVED_MAX;
    for (size_t i = r->nremoved - kept; i < r->nremoved; i++) {
        const struct tn_dev_removed *x = &r->removed[i % TN_DEV_REMOVED_MAX];
        if (x->gen <= since || x->born > since) continue;
        if (json_array_append_new(owed->removed, json_integer(x->id)) != 0) return false;
    }
    return true;
}

static void put_if_any(json_t **o, const char *key, json_t *array)
{
    if (json_array_size(array)) put(o, key, json_incref(array));
}

int tn_dev_maps_delta(const struct tn_dev_registry *r, const struct tn_dev_tailnet *t,
                      const struct tn_dev_node *viewer, uint64_t since, int64_t unix_s, json_t **out)
{
    *out = NULL;
    if (since < r->forgotten) return TN_E_LIMIT;
    if (since >= r->gen) return 0;
    struct owed owed = {json_array(), json_array(), json_array()};
    json_t *o = json_object();
    bool ok = o && owed.changed && owed.patches && owed.removed;
    if (ok && !tn_dev_node_expired(viewer, unix_s))
        ok = collect_nodes(r, t, viewer, since, unix_s, &owed) && collect_removed(r, since, &owed);
    if (viewer->self > since) put(&o, "Node", tn_dev_maps_node(t, viewer, true, unix_s));
    put_if_any(&o, "PeersRemoved", owed.removed);
    put_if_any(&o, "PeersChanged", owed.changed);
    put_if_any(&o, "PeersChangedPatch", owed.patches);
    json_decref(owed.changed);
    json_decref(owed.patches);
    json_decref(owed.removed);
    if (!ok || !o) {
        json_decref(o);
        return TN_E_NOMEM;
    }
    if (json_object_size(o)) *out = o;
    else json_decref(o);
    return 0;
}
