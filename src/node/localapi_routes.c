/* One table of routes; each says what right it needs. A path that official clients know and this node does not serve is a 404
 * with a line of text, as Go's handler answers an unknown one: adding a route is adding a line to the table.
 * After ipn/localapi/localapi.go at 1.102.5. */
#include "node/localapi_routes.h"

#include "node/localapi_exit.h"
#include "node/ping.h"
#include "node/status.h"
#include "util/err.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX "/localapi/v0/"
#define COMMON_HEADERS "Tailscale-Version: " TN_NODE_IPN_VERSION "\r\nTailscale-Cap: 119\r\n"
static_assert(TN_CAPVER == 119, "the Tailscale-Cap header says it too");

static void respond_json(struct tn_httpd_req *req, int status, json_t *o)
{
    char *text = o ? json_dumps(o, JSON_INDENT(1)) : NULL;
    json_decref(o);
    if (text) tn_httpd_respond(req, status, "application/json", COMMON_HEADERS, text, strlen(text));
    else tn_httpd_error(req, 500, "out of memory");
    free(text);
}

static void get_status(struct tn_node *n, struct tn_httpd_req *req, const struct tn_httpd_request *r)
{
    char peers[8];
    bool all = tn_httpd_query_param(r->query, "peers", peers, sizeof peers) <= 0 || strcmp(peers, "false") != 0;
    respond_json(req, 200, tn_status_object(n, all));
}

/* ipn.Prefs, as far as this node has such preferences. */
static void get_prefs(struct tn_node *n, struct tn_httpd_req *req, const struct tn_httpd_request *r)
{
    const struct tn_npeer *p = n->exit_peer ? tn_node_peer_by_id(n, n->exit_peer) : NULL;
    const struct tn_netnode *exit_node = p ? tn_node_netnode(n, p) : NULL;
    json_t *routes = n->config.advertise_exit_node ? json_pack("[s,s]", "0.0.0.0/0", "::/0")
                     : n->config.nroutes             ? json_array()
                                                     : json_null();
    for (size_t i = 0; i < n->config.nroutes; i++) {
        char text[TN_PREFIX_STRLEN];
        json_array_append_new(routes, json_string(tn_prefix_format(&n->config.routes[i].prefix, text)));
    }
    respond_json(req, 200,
                 json_pack("{s:s s:b s:s s:s s:b s:b s:b s:b s:b s:b s:n s:s s:o s:b s:i s:{s:b s:b} s:{s:b} s:b}", "ControlURL",
                           n->config.login_server ? n->config.login_server : TN_DEFAULT_LOGIN_SERVER, "RouteAll",
                           n->config.accept_routes, "ExitNodeID",
                           exit_node && exit_node->stable_id ? exit_node->stable_id : "", "ExitNodeIP", "",
                           "ExitNodeAllowLANAccess", 0, "CorpDNS", 0, "RunSSH", 0, "WantRunning", 1, "LoggedOut",
                           tn_key_is_zero(n->state.identity.node.b), "ShieldsUp", 0, "AdvertiseTags", "Hostname", n->hostname,
                           "AdvertiseRoutes", routes, "NoSNAT", 0, "NetfilterMode", 0, "AutoUpdate", "Check", 0, "Apply", 0,
                           "AppConnector", "Advertise", 0, "PostureChecking", 0));
}

/* Nothing is served by this node: an empty ipn.ServeConfig, which `tailscale status` asks for. */
static void get_serve_config(struct tn_node *n, struct tn_httpd_req *req, const struct tn_httpd_request *r)
{
    respond_json(req, 200, json_object());
}

static const struct tn_netnode *find_node(struct tn_node *n, const char *addr)
{
    const struct tn_netmap *m = tn_control_netmap(n->control);
    struct tn_addrport ap;
    struct tn_ip ip;
    struct tn_node_public key;
    if (tn_node_public_parse(addr, &key) == 0) {
        for (size_t i = 0; i < tn_netmap_npeers(m); i++)
            if (tn_node_public_eq(&tn_netmap_peer_at(m, i)->key, &key)) return tn_netmap_peer_at(m, i);
        return NULL;
    }
    if (tn_addrport_parse(addr, &ap) == 0) ip = ap.ip;
    else if (tn_ip_parse(addr, &ip) != 0) return NULL;
    for (size_t i = 0; i < n->nown; i++)
        if (tn_ip_eq(&n->own[i], &ip)) return tn_netmap_self(m);
    struct tn_npeer *p = tn_node_peer_by_addr(n, &ip);
    return p ? tn_node_netnode(n, p) : NULL;
}

static void get_whois(struct tn_node *n, struct tn_httpd_req *req, const struct tn_httpd_request *r)
{
    char addr[128];
    if (tn_httpd_query_param(r->query, "addr", addr, sizeof addr) <= 0) {
        tn_httpd_error(req, 400, "missing or invalid 'addr' parameter");
        return;
    }
    const struct tn_netnode *node = find_node(n, addr);
    if (!node) {
        tn_httpd_error(req, 404, "no match for IP:port");
        return;
    }
    const struct tn_user_profile *u = tn_netmap_user(tn_control_netmap(n->control), node->user);
    respond_json(req, 200,
                 json_pack("{s:o s:o s:{}}", "Node", tn_status_tailcfg_node(node), "UserProfile",
                           u ? tn_status_user(u) : json_pack("{s:I s:s s:s}", "ID", (json_int_t)node->user, "LoginName", "",
                                                             "DisplayName", ""),
                           "CapMap"));
}

/* ---- ping ---- */

struct ping_call {
    struct tn_httpd_req *req; /* NULL once the client has gone */
    struct tn_ip ip;
    char name[256];
    char type[16];
};

static json_t *ping_json(const struct ping_call *c, const struct tn_ping_answer *a)
{
    char ip[TN_IP_STRLEN];
    tn_ip_format(&c->ip, ip);
    const char *err = a->err == 0 ? "" : a->err == TN_E_TIMEDOUT ? "timeout" : tn_err_text(a->err);
    json_t *o = json_pack("{s:s s:s s:s s:s s:f s:s s:s s:i s:s}", "IP", ip, "NodeIP", ip, "NodeName", c->name, "Err", err,
                          "LatencySeconds", (double)a->latency_us / 1e6, "Endpoint", a->endpoint, "PeerRelay", "",
                          "DERPRegionID", strcmp(c->type, "disco") == 0 ? a->derp_region : 0, "DERPRegionCode",
                          strcmp(c->type, "disco") == 0 ? a->derp_code : "");
    if (o && a->peerapi_port) json_object_set_new(o, "PeerAPIPort", json_integer(a->peerapi_port));
    return o;
}

static void pinged(void *arg, const struct tn_ping_answer *a)
{
    struct ping_call *c = arg;
    if (c->req) respond_json(c->req, 200, ping_json(c, a));
    free(c);
}

static void ping_client_gone(void *arg) { ((struct ping_call *)arg)->req = NULL; }

static int ping_kind(const char *type, enum tn_ping_kind *kind)
{
    static const char *const names[] = {"disco", "TSMP", "ICMP"};
    for (int i = 0; i < 3; i++) {
        if (strcmp(type, names[i]) != 0) continue;
        *kind = (enum tn_ping_kind)i;
        return 0;
    }
    return TN_E_UNSUPPORTED;
}

static void post_ping(struct tn_node *n, struct tn_httpd_req *req, const struct tn_httpd_request *r)
{
    char ip[TN_IP_STRLEN];
    enum tn_ping_kind kind;
    struct ping_call *c = calloc(1, sizeof *c);
    if (!c) {
        tn_httpd_error(req, 500, "out of memory");
        return;
    }
    const char *bad = NULL;
    if (tn_httpd_query_param(r->query, "ip", ip, sizeof ip) <= 0 || tn_ip_parse(ip, &c->ip) != 0) bad = "invalid IP";
    else if (tn_httpd_query_param(r->query, "type", c->type, sizeof c->type) <= 0) bad = "missing 'type' parameter";
    else if (ping_kind(c->type, &kind) != 0) bad = "ping type is not supported: disco, TSMP or ICMP";
    if (bad) {
        tn_httpd_error(req, 400, bad);
        free(c);
        return;
    }
    struct tn_npeer *peer = tn_node_peer_by_addr(n, &c->ip);
    const struct tn_netnode *node = peer ? tn_node_netnode(n, peer) : NULL;
    if (node && node->name) snprintf(c->name, sizeof c->name, "%.*s", (int)strcspn(node->name, "."), node->name);
    c->req = req;
    int err = tn_pings_ask(n, kind, &c->ip, 0, pinged, c);
    if (!err) {
        tn_httpd_on_cancel(req, ping_client_gone, c);
        return;
    }
    json_t *o = ping_json(c, &(struct tn_ping_answer){.err = err});
    if (o && err == TN_E_NOENT) json_object_set_new(o, "Err", json_string("no matching peer"));
    respond_json(req, 200, o);
    free(c);
}

/* ---- netcheck ---- */

static json_t *netcheck_json(const struct tn_path_report *r)
{
    char v4[TN_ADDRPORT_STRLEN] = "", v6[TN_ADDRPORT_STRLEN] = "";
    json_t *all = json_object(), *all4 = json_object(), *all6 = json_object(), *codes = json_object();
    if (r->global4.ip.family) tn_addrport_format(&r->global4, v4);
    if (r->global6.ip.family) tn_addrport_format(&r->global6, v6);
    for (size_t i = 0; r->regions && i < r->nregions; i++) {
        const struct tn_path_region_latency *l = &r->regions[i];
        uint32_t best_us = l->v4_us && (!l->v6_us || l->v4_us < l->v6_us) ? l->v4_us : l->v6_us;
        char id[16];
        snprintf(id, sizeof id, "%d", l->region);
        json_object_set_new(all, id, json_integer((json_int_t)best_us * 1000));
        if (l->v4_us) json_object_set_new(all4, id, json_integer((json_int_t)l->v4_us * 1000));
        if (l->v6_us) json_object_set_new(all6, id, json_integer((json_int_t)l->v6_us * 1000));
        json_object_set_new(codes, id, json_string(l->code));
    }
    char mapped[TN_ADDRPORT_STRLEN] = "";
    if (r->portmap.outside.ip.family) tn_addrport_format(&r->portmap.outside, mapped);
    return json_pack("{s:b s:b s:b s:s s:b s:b s:b s:b s:o s:s s:s s:i s:o s:o s:o s:o}", "UPnP", r->portmap.upnp, "PMP",
                     r->portmap.pmp, "PCP", r->portmap.pcp, "PortMapped", mapped, "UDP", r->udp, "IPv4", r->ipv4, "IPv6", r->ipv6,
                     "OSHasIPv6", r->os_has_ipv6, "MappingVariesByDestIP",
                     r->mapping_varies < 0 ? json_null() : json_boolean(r->mapping_varies), "GlobalV4", v4, "GlobalV6", v6,
                     "PreferredDERP", r->home, "RegionLatency", all, "RegionV4Latency", all4, "RegionV6Latency", all6,
                     "RegionCodes", codes);
}

struct netcheck_call {
    struct tn_httpd_req *req; /* NULL once the client has gone */
};

static void netchecked(void *arg, const struct tn_path_report *r, uint64_t now_us)
{
    struct netcheck_call *c = arg;
    if (c->req && r) respond_json(c->req, 200, netcheck_json(r));
    free(c);
}

static void netcheck_client_gone(void *arg) { ((struct netcheck_call *)arg)->req = NULL; }

/* net/netcheck.Report of a fresh look from the node's own sockets, and the regions' codes. */
static void get_netcheck(struct tn_node *n, struct tn_httpd_req *req, const struct tn_httpd_request *r)
{
    struct netcheck_call *c = calloc(1, sizeof *c);
    if (!c) {
        tn_httpd_error(req, 500, "out of memory");
        return;
    }
    c->req = req;
    tn_httpd_on_cancel(req, netcheck_client_gone, c); /* first: without UDP the answer may come before the call returns */
    int err = tn_path_netcheck(n->path, netchecked, c, tn_node_now());
    if (!err) return;
    tn_httpd_on_cancel(req, NULL, NULL);
    free(c);
    tn_httpd_error(req, 503, err == TN_E_NOTCONN ? "no DERP map yet: the control server has not answered" : tn_err_text(err));
}

/* For `tailscale netcheck`, which looks itself. */
static void get_derpmap(struct tn_node *n, struct tn_httpd_req *req, const struct tn_httpd_request *r)
{
    const struct tn_netmap *m = tn_control_netmap(n->control);
    const json_t *map = m ? tn_netmap_derp_map(m) : NULL;
    respond_json(req, 200, map ? json_deep_copy(map) : json_null());
}

/* ---- the table ---- */

enum right { READ, WRITE };

static const struct route {
    const char *method, *path;
    enum right right;
    void (*handle)(struct tn_node *n, struct tn_httpd_req *req, const struct tn_httpd_request *r);
} routes[] = {
    {"GET", "status", READ, get_status},
    {"GET", "prefs", READ, get_prefs},
    {"GET", "whois", READ, get_whois},
    {"POST", "ping", READ, post_ping},
    {"GET", "netcheck", READ, get_netcheck},
    {"GET", "derpmap", READ, get_derpmap},
    {"GET", "serve-config", READ, get_serve_config},
    {"GET", "egress", READ, tn_localapi_get_egress},
    {"PATCH", "egress", WRITE, tn_localapi_patch_egress},
    {"POST", "egress-reload", WRITE, tn_localapi_egress_reload},
    {"POST", "egress-rotate", WRITE, tn_localapi_egress_rotate},
    {"POST", "egress-check", WRITE, tn_localapi_egress_check},
    {"GET", "usermetrics", READ, tn_localapi_metrics},
};

/* A browser page must not reach the socket through some forwarder: it always sends one of these. */
static bool from_browser(const struct tn_http1_head *head)
{
    size_t len;
    return tn_http1_find(head, "Origin", &len) || tn_http1_find(head, "Referer", &len);
}

void tn_localapi_handle(void *conn, struct tn_httpd_req *req, const struct tn_httpd_request *r, uint64_t now_us)
{
    const struct tn_localapi_caller *caller = tn_localapi_caller_of(conn);
    bool known = false;
    if (from_browser(r->head) || (*r->host && strcmp(r->host, "local-tailscaled.sock") != 0)) {
        tn_httpd_error(req, 403, "invalid localapi request");
        return;
    }
    const char *path = strncmp(r->path, PREFIX, sizeof PREFIX - 1) == 0 ? r->path + sizeof PREFIX - 1 : "";
    if (!strcmp(r->path, "/metrics")) path = "usermetrics"; /* where scrapers look */
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        if (strcmp(path, routes[i].path) != 0) continue;
        known = true;
        if (strcmp(r->method, routes[i].method) != 0) continue;
        if (routes[i].right == WRITE ? caller->may_write : caller->may_read) routes[i].handle(caller->node, req, r);
        else tn_httpd_error(req, 403, "access denied");
        return;
    }
    tn_httpd_error(req, known ? 405 : 404, known ? "method not allowed" : "404 not found");
}
