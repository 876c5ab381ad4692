#include "node/status.h"

#include "node/checkup.h"
#include "node/resolver.h"

#include "egress/dgram.h"
#include "util/err.h"

#include <string.h>
#include <time.h>

#define ZERO_TIME "0001-01-01T00:00:00Z"

static json_t *unix_time(int64_t sec)
{
    char text[32];
    time_t t = (time_t)sec;
    struct tm tm;
    if (sec <= 0 || !gmtime_r(&t, &tm) || !strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm))
        return json_string(ZERO_TIME);
    return json_string(text);
}

/* A monotonic moment as wall-clock time; 0 means never. */
static json_t *moment(uint64_t at_us)
{
    if (at_us == 0) return json_string(ZERO_TIME);
    uint64_t now = tn_node_now();
    return unix_time((int64_t)time(NULL) - (int64_t)((now > at_us ? now - at_us : 0) / 1000000));
}

static json_t *ip_array(const struct tn_prefix *prefixes, size_t n)
{
    json_t *list = json_array();
    char text[TN_IP_STRLEN];
    for (size_t i = 0; i < n; i++) json_array_append_new(list, json_string(tn_ip_format(&prefixes[i].ip, text)));
    return list;
}

static json_t *prefix_array(const struct tn_prefix *prefixes, size_t n)
{
    json_t *list = json_array();
    char text[TN_PREFIX_STRLEN];
    for (size_t i = 0; i < n; i++) json_array_append_new(list, json_string(tn_prefix_format(&prefixes[i], text)));
    return list;
}

static json_t *key_text(const struct tn_node_public *key)
{
    char text[TN_KEY_STRLEN];
    return json_string(tn_node_public_format(key, text));
}

static json_t *text(const char *s) { return json_string(s ? s : ""); }

static json_t *peerapi_urls(const struct tn_netnode *node)
{
    json_t *list = json_array();
    for (size_t i = 0; i < node->naddresses; i++) {
        struct tn_addrport ap = {.ip = node->addresses[i].ip};
        ap.port = ap.ip.family == 4 ? node->peerapi4 : node->peerapi6;
        char addr[TN_ADDRPORT_STRLEN];
        if (ap.port) json_array_append_new(list, json_sprintf("http://%s", tn_addrport_format(&ap, addr)));
    }
    return list;
}

/* What self and peers have in common. */
static json_t *node_object(const struct tn_netnode *node)
{
    json_t *o = json_pack(
        "{s:o s:I s:o s:o s:o s:o s:I s:o s:o s:[] s:s s:s s:s s:i s:i s:o s:s s:o s:o s:b s:b s:b s:o s:i s:s s:b s:b s:b}",
        "ID", text(node->stable_id), "NodeID", (json_int_t)node->id, "PublicKey", key_text(&node->key), "HostName",
        text(node->hostname), "DNSName", text(node->name), "OS", text(node->os), "UserID", (json_int_t)node->user,
        "TailscaleIPs", ip_array(node->addresses, node->naddresses), "AllowedIPs",
        prefix_array(node->allowed_ips, node->nallowed_ips), "Addrs", "CurAddr", "", "Relay", "", "PeerRelay", "",
        "RxBytes", 0, "TxBytes", 0, "Created", unix_time(node->created), "LastWrite", ZERO_TIME, "LastSeen",
        unix_time(node->last_seen), "LastHandshake", json_string(ZERO_TIME), "Online", node->online == 1, "ExitNode", 0,
        "ExitNodeOption", tn_node_offers_exit(node), "PeerAPIURL", peerapi_urls(node), "TaildropTarget", 0, "NoFileSharingReason",
        "", "InNetworkMap", 1, "InMagicSock", 0, "InEngine", 0);
    if (!o) return NULL;
    if (node->tags) json_object_set(o, "Tags", node->tags);
    if (node->primary_routes) json_object_set(o, "PrimaryRoutes", node->primary_routes);
    if (node->cap_map) json_object_set(o, "CapMap", node->cap_map);
    if (node->expired) json_object_set_new(o, "Expired", json_true());
    if (node->key_expiry > 0) json_object_set_new(o, "KeyExpiry", unix_time(node->key_expiry));
    return o;
}

static json_t *self_object(struct tn_node *n, const struct tn_netnode *self)
{
    json_t *o = self ? node_object(self) : NULL;
    if (!o) {
        struct tn_node_public key = {{0}};
        const struct tn_node_private *used = tn_control_identity_key(&n->state.identity);
        if (!tn_key_is_zero(used->b)) tn_node_public_of(used, &key);
        o = json_pack("{s:s s:o s:s s:s s:s s:b}", "ID", "", "PublicKey", key_text(&key), "HostName", n->hostname, "DNSName",
                      "", "OS", "linux", "Online", 0);
        return o;
    }
    json_object_set_new(o, "HostName", json_string(n->hostname));
    json_object_set_new(o, "OS", json_string("linux"));
    json_object_set_new(o, "Relay", json_string(tn_path_region_code(n->path, tn_path_home_derp(n->path))));
    json_object_set_new(o, "Online", json_boolean(tn_control_connected(n->control)));
    json_object_set_new(o, "InMagicSock", json_true());
    return o;
}

static json_t *peer_object(struct tn_node *n, const struct tn_netnode *node, uint64_t now_us)
{
    enum { ACTIVE_US = 120 * 1000 * 1000 };
    json_t *o = node_object(node);
    struct tn_npeer *p = tn_node_peer_by_id(n, node->id);
    if (!o || !p || !p->wg || !p->path) return o;
    struct tn_wg_peer_stats ws;
    struct tn_path_peer_status ps;
    tn_wg_peer_stats(p->wg, &ws);
    tn_path_peer_status(n->path, p->path, now_us, &ps);
    uint64_t last = ws.last_rx_us > ws.last_tx_us ? ws.last_rx_us : ws.last_tx_us;
    char addr[TN_ADDRPORT_STRLEN];
    json_object_set_new(o, "CurAddr", text(ps.direct.ip.family ? tn_addrport_format(&ps.direct, addr) : ""));
    json_object_set_new(o, "Relay", text(*ps.derp_code ? ps.derp_code : tn_path_region_code(n->path, node->home_derp)));
    json_object_set_new(o, "RxBytes", json_integer((json_int_t)ws.rx_bytes));
    json_object_set_new(o, "TxBytes", json_integer((json_int_t)ws.tx_bytes));
    json_object_set_new(o, "LastWrite", moment(ws.last_tx_us));
    json_object_set_new(o, "LastHandshake", moment(ws.last_handshake_us));
    json_object_set_new(o, "Active", json_boolean(ps.active || (last && now_us - last < ACTIVE_US)));
    json_object_set_new(o, "ExitNode", json_boolean(n->exit_peer == node->id));
    json_object_set_new(o, "InMagicSock", json_true());
    json_object_set_new(o, "InEngine", json_boolean(ws.last_handshake_us != 0));
    return o;
}

json_t *tn_status_user(const struct tn_user_profile *u)
{
    return json_pack("{s:I s:o s:o s:o}", "ID", (json_int_t)u->id, "LoginName", text(u->login_name), "DisplayName",
                     text(u->display_name), "ProfilePicURL", text(u->profile_pic_url));
}

static void add_user(json_t *users, const struct tn_netmap *m, int64_t id)
{
    char key[24];
    snprintf(key, sizeof key, "%lld", (long long)id);
    const struct tn_user_profile *u = tn_netmap_user(m, id);
    if (u && !json_object_get(users, key)) json_object_set_new(users, key, tn_status_user(u));
}

const char *tn_status_backend_state(const struct tn_node *n)
{
    switch (tn_control_state(n->control)) {
    case TN_CONTROL_NEEDS_LOGIN: return "NeedsLogin";
    case TN_CONTROL_NEEDS_APPROVAL: return "NeedsMachineAuth";
    case TN_CONTROL_RUNNING: return "Running";
    case TN_CONTROL_FAILED:
    case TN_CONTROL_STOPPED: return "Stopped";
    case TN_CONTROL_CONNECTING: break;
    }
    return "Starting";
}

/* How UDP leaves, and how much of it. flows: pings too. */
static void add_datagrams(const struct tn_node *n, json_t *o, unsigned flows)
{
    static const char *const relay[] = {"proxy: not known yet", "proxy", "off: the proxy refuses it", "off: the proxy fails"};
    struct tn_dgram_stats ds;
    tn_dgram_stats(n->egress, &ds);
    enum tn_egress_mode mode = tn_egress_mode(n->egress);
    const char *how = mode == TN_EGRESS_HOST ? "host" : mode == TN_EGRESS_PROXY && n->config.exit_proxy_udp ? relay[ds.relay] : "off";
    json_object_set_new(o, "UDP", json_string(how));
    json_object_set_new(o, "UDPFlows", json_integer((json_int_t)flows));
    json_object_set_new(o, "UDPSockets", json_integer((json_int_t)ds.sockets));
    json_object_set_new(o, "UDPAssociations", json_integer((json_int_t)ds.associations));
    json_object_set_new(o, "UDPDropped", json_integer((json_int_t)(ds.strangers + ds.malformed + ds.unsent)));
}

/* Egress, for people who operate an exit node: what is on, what is missing, what fails. */
static json_t *egress_object(struct tn_node *n)
{
    static const char *const modes[] = {"off", "host", "proxy"};
    struct tn_egress_stats es;
    struct tn_forward_stats fs;
    char line[400];
    tn_egress_stats(n->egress, &es);
    tn_forward_stats(n->forward, &fs);
    json_t *failed = json_object();
    for (int i = 1; i < TN_EGRESS_FAIL_COUNT; i++)
        if (es.failed[i])
            json_object_set_new(failed, tn_egress_fail_name((enum tn_egress_fail)i), json_integer((json_int_t)es.failed[i]));
    bool healthy = es.last_proxy_fail == TN_EGRESS_OK;
    json_t *o = json_pack("{s:b s:s s:s s:b s:i s:i s:I s:I s:I s:I s:I s:o}", "Advertised", n->config.advertise_exit_node,
                          "Mode", modes[tn_egress_mode(n->egress)], "Description", tn_egress_describe(n->egress, line),
                          "ProxyHealthy", healthy, "Flows", (int)fs.flows, "Dialing", (int)fs.held, "Opened",
                          (json_int_t)fs.opened, "Refused", (json_int_t)fs.refused, "UDPRefused",
                          (json_int_t)fs.udp_refused, "BytesUp", (json_int_t)es.bytes_up, "BytesDown",
                          (json_int_t)es.bytes_down, "Failed", failed);
    if (o && n->exit_withdrawn) json_object_set_new(o, "Withdrawn", json_true());
    if (o && tn_checkup_last(n)) json_object_set(o, "Check", tn_checkup_last(n));
    if (o) add_datagrams(n, o, fs.udp_flows);
    if (o && !healthy) json_object_set_new(o, "ProxyProblem", json_string(tn_egress_fail_text(es.last_proxy_fail)));
    if (o && tn_resolver_problem(n)) json_object_set_new(o, "DNSProblem", json_string(tn_resolver_problem(n)));
    json_t *dns = tn_resolver_status(n);
    if (o && dns) json_object_set_new(o, "DNS", dns);
    if (o && n->config.advertise_exit_node && n->egress_missing)
        json_object_set_new(o, "Missing", json_string(n->egress_missing));
    return o;
}

static json_t *health_array(struct tn_node *n, const struct tn_netmap *m)
{
    json_t *list = m && tn_netmap_health(m) ? json_copy((json_t *)(uintptr_t)tn_netmap_health(m)) : json_array();
    struct tn_egress_stats es;
    tn_egress_stats(n->egress, &es);
    if (n->config.advertise_exit_node && tn_egress_mode(n->egress) == TN_EGRESS_OFF)
        json_array_append_new(list, json_sprintf("exit node: advertised, but egress is off: missing %s",
                                                 n->egress_missing ? n->egress_missing : "a valid policy"));
    else if (n->config.advertise_exit_node && es.last_proxy_fail != TN_EGRESS_OK)
        json_array_append_new(list, json_sprintf("exit node: %s", tn_egress_fail_text(es.last_proxy_fail)));
    if (n->exit_withdrawn) json_array_append_new(list, json_string("exit node: withdrawn, as nothing works"));
    tn_checkup_health(n, list);
    if (tn_resolver_problem(n)) json_array_append_new(list, json_sprintf("exit node: DNS upstream: %s", tn_resolver_problem(n)));
    if (n->config.exit.defect[0]) json_array_append_new(list, json_string(n->config.exit.defect));
    if (n->exit_missing)
        json_array_append_new(list, json_sprintf("exit node %s is not available; internet traffic is blocked",
                                                 n->config.exit_node));
    if (!tn_path_home_connected(n->path)) json_array_append_new(list, json_string("not connected to a home DERP region"));
    if (n->control_text[0]) json_array_append_new(list, json_sprintf("control: %s", n->control_text));
    if (!tn_control_connected(n->control)) json_array_append_new(list, json_string("not connected to the control server"));
    return list;
}

static json_t *exit_status(struct tn_node *n)
{
    struct tn_npeer *p = n->exit_peer ? tn_node_peer_by_id(n, n->exit_peer) : NULL;
    const struct tn_netnode *node = p ? tn_node_netnode(n, p) : NULL;
    if (!node) return NULL;
    return json_pack("{s:o s:b s:o}", "ID", text(node->stable_id), "Online", node->online == 1, "TailscaleIPs",
                     prefix_array(node->addresses, node->naddresses));
}

static const char *magic_suffix(const struct tn_netnode *self)
{
    const char *dot = self && self->name ? strchr(self->name, '.') : NULL;
    return dot ? dot + 1 : "";
}

static json_t *tailnet_object(const struct tn_netmap *m, const char *suffix)
{
    const json_t *dns = m ? tn_netmap_dns_config(m) : NULL;
    return json_pack("{s:s s:s s:b}", "Name", m ? tn_netmap_domain(m) : "", "MagicDNSSuffix", suffix, "MagicDNSEnabled",
                     json_is_true(json_object_get(dns, "Proxied")));
}

json_t *tn_status_object(struct tn_node *n, bool peers)
{
    const struct tn_netmap *m = tn_control_netmap(n->control);
    const struct tn_netnode *self = m ? tn_netmap_self(m) : NULL;
    char suffix[256];
    snprintf(suffix, sizeof suffix, "%s", magic_suffix(self));
    size_t slen = strlen(suffix);
    if (slen && suffix[slen - 1] == '.') suffix[slen - 1] = '\0';
    const char *url = tn_control_auth_url(n->control);
    json_t *o = json_pack("{s:s s:b s:s s:b s:s s:o s:o s:o s:s s:o? s:n s:n s:o}", "Version", TN_NODE_IPN_VERSION, "TUN", n->tun != NULL,
                          "BackendState", tn_status_backend_state(n), "HaveNodeKey",
                          !tn_key_is_zero(n->state.identity.node.b), "AuthURL", url ? url : "", "TailscaleIPs",
                          self ? ip_array(self->addresses, self->naddresses) : json_null(), "Self", self_object(n, self),
                          "Health", health_array(n, m), "MagicDNSSuffix", suffix, "CurrentTailnet",
                          self ? tailnet_object(m, suffix) : NULL, "CertDomains", "ClientVersion", "Egress",
                          egress_object(n));
    if (!o) return NULL;
    json_t *exit_node = exit_status(n);
    if (exit_node) json_object_set_new(o, "ExitNodeStatus", exit_node);
    json_t *users = json_object();
    if (self) add_user(users, m, self->user);
    json_t *list = json_object();
    for (size_t i = 0; peers && m && i < tn_netmap_npeers(m); i++) {
        const struct tn_netnode *node = tn_netmap_peer_at(m, i);
        char key[TN_KEY_STRLEN];
        json_object_set_new(list, tn_node_public_format(&node->key, key), peer_object(n, node, tn_node_now()));
        add_user(users, m, node->user);
    }
    json_object_set_new(o, "Peer", list);
    json_object_set_new(o, "User", users);
    return o;
}

char *tn_status_json(struct tn_node *n, bool peers)
{
    json_t *o = tn_status_object(n, peers);
    char *out = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
    json_decref(o);
    return out;
}

json_t *tn_status_tailcfg_node(const struct tn_netnode *node)
{
    json_t *o = json_pack("{s:I s:o s:o s:I s:o s:o s:o s:i s:i s:b s:o s:{s:o s:o}}", "ID", (json_int_t)node->id, "StableID",
                          text(node->stable_id), "Name", text(node->name), "User", (json_int_t)node->user, "Key",
                          key_text(&node->key), "Addresses", prefix_array(node->addresses, node->naddresses), "AllowedIPs",
                          prefix_array(node->allowed_ips, node->nallowed_ips), "HomeDERP", node->home_derp, "Cap", node->cap,
                          "MachineAuthorized", node->machine_authorized, "Created", unix_time(node->created), "Hostinfo",
                          "OS", text(node->os), "Hostname", text(node->hostname));
    if (!o) return NULL;
    char name[256];
    snprintf(name, sizeof name, "%s", node->name ? node->name : "");
    char *dot = strchr(name, '.');
    if (dot) *dot = '\0';
    json_object_set_new(o, "ComputedName", json_string(name));
    json_object_set_new(o, "ComputedNameWithHost", json_string(name));
    if (node->tags) json_object_set(o, "Tags", node->tags);
    if (node->cap_map) json_object_set(o, "CapMap", node->cap_map);
    if (node->key_expiry > 0) json_object_set_new(o, "KeyExpiry", unix_time(node->key_expiry));
    if (node->online >= 0) json_object_set_new(o, "Online", json_boolean(node->online));
    return o;
}
