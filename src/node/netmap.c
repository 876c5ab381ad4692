/* From the netmap to the engines: who our peers are, what they may send, where their packets go.
 *
 * Deltas arrive per peer (node_peer, node_peer_gone) and touch only that peer; what concerns everybody (addresses, DERP map,
 * filter) is applied once per response in node_netmap. */
#include "node/node.h"

#include "node/magicdns.h"
#include "node/peerapi_server.h"
#include "node/resolver.h"
#include "node/ping.h"
#include "node/tunmode.h"
#include "util/err.h"

#include <ifaddrs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

enum { ALLOWED_MAX = 1024 }; /* prefixes of one peer: a subnet router with more is beyond any real one */

static bool npeer_eq(const struct tn_hnode *node, const void *key)
{
    return TN_CONTAINER(node, struct tn_npeer, by_id)->id == *(const int64_t *)key;
}
static uint64_t id_hash(int64_t id) { return (uint64_t)id * 0x9e3779b97f4a7c15ULL >> 7; } /* the server's IDs, not a peer's choice */

struct tn_npeer *tn_node_peer_by_id(const struct tn_node *n, int64_t id)
{
    struct tn_hnode *h = tn_htable_find(&n->peers, id_hash(id), npeer_eq, &id);
    return h ? TN_CONTAINER(h, struct tn_npeer, by_id) : NULL;
}

struct tn_npeer *tn_node_peer_by_addr(const struct tn_node *n, const struct tn_ip *addr)
{
    return tn_route_find(n->addresses, addr, NULL);
}

uint64_t tn_node_peer_of(void *node, const struct tn_ip *src)
{
    struct tn_npeer *p = tn_node_peer_by_addr(node, src);
    return p ? (uint64_t)p->id : 0;
}

const struct tn_netnode *tn_node_netnode(const struct tn_node *n, const struct tn_npeer *p)
{
    return tn_netmap_peer_by_id(tn_control_netmap(n->control), p->id);
}

/* ---- names ---- */

static bool name_matches(const struct tn_netnode *node, const char *host, size_t len)
{
    if (!node->name) return false;
    size_t full = strlen(node->name);
    if (full > 0 && node->name[full - 1] == '.') full--;
    if (len > 0 && host[len - 1] == '.') len--;
    if (len == full && strncasecmp(node->name, host, len) == 0) return true;
    size_t first = strcspn(node->name, ".");
    return len == first && strncasecmp(node->name, host, len) == 0;
}

static int pick_address(const struct tn_netnode *node, int family, struct tn_ip *out)
{
    for (int pass = 0; pass < 2; pass++) {
        int wanted = family ? family : pass == 0 ? 4 : 6;
        for (size_t i = 0; i < node->naddresses; i++) {
            if (node->addresses[i].ip.family != wanted) continue;
            *out = node->addresses[i].ip;
            return 0;
        }
    }
    return TN_E_NOENT;
}

int tn_node_resolve(const struct tn_node *n, const char *host, int family, struct tn_ip *out)
{
    if (tn_ip_parse(host, out) == 0) return family && out->family != family ? TN_E_NOENT : 0;
    const struct tn_netmap *m = tn_control_netmap(n->control);
    size_t len = strlen(host);
    const struct tn_netnode *self = tn_netmap_self(m);
    if (self && name_matches(self, host, len)) return pick_address(self, family, out);
    for (size_t i = 0; i < tn_netmap_npeers(m); i++) {
        const struct tn_netnode *peer = tn_netmap_peer_at(m, i);
        if (name_matches(peer, host, len)) return pick_address(peer, family, out);
    }
    return TN_E_NOENT;
}

/* ---- one peer ---- */

static bool is_default_route(const struct tn_prefix *p) { return p->bits == 0; }

static bool is_own_address_of(const struct tn_netnode *node, const struct tn_prefix *p)
{
    for (size_t i = 0; i < node->naddresses; i++)
        if (tn_prefix_eq(&node->addresses[i], p)) return true;
    return false;
}

/* What the peer may send as and gets packets for: its addresses; subnet routes if accepted; default routes if it is our exit
 * node. */
static int set_allowed(struct tn_node *n, struct tn_npeer *p, const struct tn_netnode *node)
{
    size_t most = node->nallowed_ips < ALLOWED_MAX ? node->nallowed_ips : ALLOWED_MAX, count = 0;
    struct tn_prefix *allowed = malloc((most ? most : 1) * sizeof *allowed);
    if (!allowed) return TN_E_NOMEM;
    for (size_t i = 0; i < node->nallowed_ips && count < most; i++) {
        const struct tn_prefix *a = &node->allowed_ips[i];
        bool wanted = is_own_address_of(node, a) ||
                      (is_default_route(a) ? n->exit_peer == node->id : n->config.accept_routes);
        if (wanted) allowed[count++] = *a;
    }
    int err = tn_wg_peer_set_allowed(n->wg, p->wg, allowed, count);
    tn_tunmode_peer_routes(n, p, allowed, err ? 0 : count);
    free(allowed);
    return err;
}

static void forget_addresses(struct tn_node *n, struct tn_npeer *p)
{
    for (size_t i = 0; i < p->naddrs; i++) {
        struct tn_prefix host = {.ip = p->addrs[i], .bits = (uint8_t)tn_ip_bits(&p->addrs[i])};
        if (tn_route_exact(n->addresses, &host) == p) tn_route_unset(n->addresses, &host);
    }
    free(p->addrs);
    p->addrs = NULL;
    p->naddrs = 0;
}

static int learn_addresses(struct tn_node *n, struct tn_npeer *p, const struct tn_netnode *node)
{
    forget_addresses(n, p);
    p->addrs = calloc(node->naddresses ? node->naddresses : 1, sizeof *p->addrs);
    if (!p->addrs) return TN_E_NOMEM;
    for (size_t i = 0; i < node->naddresses; i++) {
        const struct tn_prefix *a = &node->addresses[i];
        if (a->bits != tn_ip_bits(&a->ip) || tn_route_set(n->addresses, a, p) != 0) continue;
        p->addrs[p->naddrs++] = a->ip;
    }
    return 0;
}

/* Ends what goes over the peer's connection and the connection itself. */
static void disconnect_peer(struct tn_node *n, struct tn_npeer *p)
{
    tn_pings_peer_gone(n, p);
    if (p->wg) tn_wg_peer_remove(n->wg, p->wg);
    if (p->path) tn_path_peer_remove(n->path, p->path);
    tn_tunmode_peer_routes(n, p, NULL, 0);
    p->wg = NULL;
    p->path = NULL;
}

/* Nothing comes from the peer or goes to it any more, and what it holds of ours ends now. */
static void shut_out_peer(struct tn_node *n, struct tn_npeer *p, uint64_t now_us)
{
    tn_forward_peer_gone(n->forward, (uint64_t)p->id, now_us);
    tn_resolver_peer_gone(n, (uint64_t)p->id, now_us);
    disconnect_peer(n, p);
}

static void drop_peer(struct tn_node *n, struct tn_npeer *p, uint64_t now_us)
{
    shut_out_peer(n, p, now_us);
    tn_egress_forget_peer(n->egress, (uint64_t)p->id);
    forget_addresses(n, p);
    tn_htable_remove(&n->peers, &p->by_id);
    free(p);
}

static struct tn_npeer *new_peer(struct tn_node *n, const struct tn_netnode *node)
{
    struct tn_npeer *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->id = node->id;
    if (tn_htable_insert(&n->peers, &p->by_id, id_hash(p->id)) != 0) {
        free(p);
        return NULL;
    }
    return p;
}

/* A key that moved to another node (registered anew, and the old record not gone yet) follows the latest word. */
static void take_key(struct tn_node *n, struct tn_npeer *p, const struct tn_node_public *key)
{
    struct tn_wg_peer *wg = tn_wg_peer_find(n->wg, key);
    struct tn_npeer *holder = wg ? tn_wg_peer_arg(wg) : NULL;
    if (holder && holder != p) disconnect_peer(n, holder);
}

static int connect_peer(struct tn_node *n, struct tn_npeer *p, const struct tn_netnode *node, uint64_t now_us)
{
    int err = 0;
    if (p->wg && !tn_node_public_eq(&p->key, &node->key)) disconnect_peer(n, p); /* re-authenticated: a new identity */
    /* Not when it only now has told control its first disco key, or told none: it may have a session already. */
    bool restarted = p->wg && !tn_disco_public_eq(&p->disco, &node->disco) && !tn_key_is_zero(p->disco.b) &&
                     !tn_key_is_zero(node->disco.b);
    if (restarted) tn_wg_peer_reset(n->wg, p->wg); /* its old sessions died with its process */
    p->key = node->key;
    p->disco = node->disco;
    if (!p->wg) take_key(n, p, &node->key);
    if (!p->wg) err = tn_wg_peer_add(n->wg, &node->key, p, &p->wg);
    if (!err && !p->path) err = tn_path_peer_add(n->path, &node->key, p, &p->path);
    if (!err)
        err = tn_path_peer_update(n->path, p->path, &node->disco, node->home_derp, node->endpoints, node->nendpoints, now_us);
    return err ? err : set_allowed(n, p, node);
}

static void node_peer(void *ctx, const struct tn_netnode *node, uint64_t now_us)
{
    struct tn_node *n = ctx;
    struct tn_npeer *p = tn_node_peer_by_id(n, node->id);
    if (!p) p = new_peer(n, node);
    int err = p ? learn_addresses(n, p, node) : TN_E_NOMEM;
    bool shut_out = node->expired || tn_key_is_zero(node->key.b);
    if (p && shut_out) shut_out_peer(n, p, now_us);
    else if (!err) err = connect_peer(n, p, node, now_us);
    if (err && p) disconnect_peer(n, p); /* not half of it */
    if (err) tn_logf(&n->log, TN_LOG_WARN, "node", "peer %lld: %s", (long long)node->id, tn_err_text(err));
}

static void node_peer_gone(void *ctx, const struct tn_netnode *node, uint64_t now_us)
{
    struct tn_node *n = ctx;
    struct tn_npeer *p = tn_node_peer_by_id(n, node->id);
    if (p) drop_peer(n, p, now_us);
}

static void free_one(struct tn_hnode *h, void *arg)
{
    struct tn_npeer *p = TN_CONTAINER(h, struct tn_npeer, by_id);
    free(p->addrs);
    free(p->routed);
    free(p);
}

void tn_node_peers_free(struct tn_node *n)
{
    tn_htable_each(&n->peers, free_one, NULL);
    tn_htable_fini(&n->peers);
}

/* ---- the exit node we use ---- */

static const struct tn_netnode *find_exit(const struct tn_node *n, const char *wanted)
{
    const struct tn_netmap *m = tn_control_netmap(n->control);
    struct tn_ip ip;
    bool by_ip = tn_ip_parse(wanted, &ip) == 0;
    for (size_t i = 0; i < tn_netmap_npeers(m); i++) {
        const struct tn_netnode *node = tn_netmap_peer_at(m, i);
        bool match = node->stable_id && strcmp(node->stable_id, wanted) == 0;
        for (size_t a = 0; by_ip && a < node->naddresses; a++) match |= tn_ip_eq(&node->addresses[a].ip, &ip);
        if (!match && !by_ip) match = name_matches(node, wanted, strlen(wanted));
        if (match) return node;
    }
    return NULL;
}

bool tn_node_offers_exit(const struct tn_netnode *node)
{
    for (size_t i = 0; i < node->nallowed_ips; i++)
        if (is_default_route(&node->allowed_ips[i])) return true;
    return false;
}

static void refresh_allowed(struct tn_node *n, int64_t id)
{
    struct tn_npeer *p = id ? tn_node_peer_by_id(n, id) : NULL;
    const struct tn_netnode *node = p ? tn_node_netnode(n, p) : NULL;
    if (node && p->wg) (void)set_allowed(n, p, node);
}

void tn_node_choose_exit(struct tn_node *n, uint64_t now_us)
{
    const char *wanted = n->config.exit_node;
    const struct tn_netnode *node = wanted ? find_exit(n, wanted) : NULL;
    int64_t id = node && tn_node_offers_exit(node) ? node->id : 0;
    n->exit_missing = wanted && !id;
    tn_tunmode_update(n);
    if (id == n->exit_peer) return;
    int64_t old = n->exit_peer;
    n->exit_peer = id;
    refresh_allowed(n, old);
    refresh_allowed(n, id);
    if (wanted)
        tn_logf(&n->log, TN_LOG_INFO, "node", "exit node %s: %s", wanted, id ? "in use" : "not available");
    (void)tn_node_push_host(n);
}

/* ---- what concerns everybody ---- */

/* Prefixes of the host's interfaces, which a default route we advertise does not include; host bits are kept, since the host's
 * own public addresses are part of it again. A negative code when they can't be told, or are too many. */
static int attached_prefixes(const struct tn_node *n, struct tn_prefix *out, int cap)
{
    struct ifaddrs *list;
    int count = 0;
    if (getifaddrs(&list) != 0) return -errno;
    for (struct ifaddrs *i = list; i; i = i->ifa_next) {
        struct tn_addrport addr, mask;
        if (tn_tunmode_is_device(n, i->ifa_name)) continue;
        if (!i->ifa_addr || !i->ifa_netmask || tn_addrport_from_sockaddr(i->ifa_addr, &addr) != 0) continue;
        i->ifa_netmask->sa_family = i->ifa_addr->sa_family;
        if (tn_addrport_from_sockaddr(i->ifa_netmask, &mask) != 0) continue;
        uint8_t bits = 0;
        for (int b = 0; b < tn_ip_bits(&addr.ip) && mask.ip.b[b / 8] >> (7 - b % 8) & 1; b++) bits++;
        if (count == cap) {
            count = TN_E_LIMIT;
            break;
        }
        out[count++] = (struct tn_prefix){.ip = addr.ip, .bits = bits};
    }
    freeifaddrs(list);
    return count;
}

static const struct tn_prefix default_routes[2] = {{.ip = {.family = 4}}, {.ip = {.family = 6}}};

enum { OFFERED_MAX = 2 + TN_EGRESS_ROUTES_MAX };

/* What we offer to carry: the default routes of an exit node, subnets. */
static size_t offered_routes(const struct tn_node *n, bool exit_too, struct tn_prefix out[OFFERED_MAX])
{
    size_t count = 0;
    for (int i = 0; exit_too && i < 2; i++) out[count++] = default_routes[i];
    for (size_t i = 0; i < n->config.nroutes; i++) out[count++] = n->config.routes[i].prefix;
    return count;
}

/* Our own come first: the stack speaks as them. */
static int set_stack_addresses(struct tn_node *n, uint64_t now_us)
{
    struct tn_ip addrs[sizeof n->own / sizeof *n->own + TN_MAGICDNS_ADDRS];
    memcpy(addrs, n->own, n->nown * sizeof *addrs);
    return tn_stack_set_addrs(n->stack, addrs, n->nown + tn_magicdns_addrs(n, addrs + n->nown), now_us);
}

int tn_node_take_offered(struct tn_node *n)
{
    enum { MAX_ATTACHED = 512 }; /* a host with more addresses does not learn from us what is local: no default route then */
    struct tn_prefix attached[MAX_ATTACHED], offered[OFFERED_MAX];
    int nattached = attached_prefixes(n, attached, MAX_ATTACHED);
    if (nattached < 0) tn_logf(&n->log, TN_LOG_ERROR, "node", "own interfaces: %s; no exit traffic", tn_err_text(nattached));
    bool offer = n->config.advertise_exit_node && nattached >= 0;
    return tn_filter_set_local(n->filter, n->own, n->nown, offered, offered_routes(n, offer, offered), attached,
                               nattached > 0 ? (size_t)nattached : 0);
}

static void apply_addresses(struct tn_node *n, const struct tn_netnode *self, uint64_t now_us)
{
    n->nown = 0;
    for (size_t i = 0; i < self->naddresses && n->nown < sizeof n->own / sizeof *n->own; i++)
        n->own[n->nown++] = self->addresses[i].ip;
    int err = set_stack_addresses(n, now_us);
    if (!err) err = tn_node_take_offered(n);
    if (!err) err = tn_egress_set_own(n->egress, n->own, n->nown);
    if (!err) err = tn_peerapi_server_update(n, now_us);
    if (err) tn_logf(&n->log, TN_LOG_ERROR, "node", "own addresses: %s", tn_err_text(err));
    pthread_mutex_lock(&n->mu);
    n->nshared_own = 0;
    for (size_t i = 0; i < n->nown && n->nshared_own < 2; i++) n->shared_own[n->nshared_own++] = n->own[i];
    pthread_mutex_unlock(&n->mu);
}

static void node_netmap(void *ctx, const struct tn_netmap *m, unsigned changes, uint64_t now_us)
{
    struct tn_node *n = ctx;
    const struct tn_netnode *self = tn_netmap_self(m);
    if ((changes & TN_NETMAP_SELF) && self) apply_addresses(n, self, now_us);
    if (changes & TN_NETMAP_FILTER) {
        int err = tn_filter_set_rules(n->filter, tn_netmap_filter_rules(m));
        if (err) tn_logf(&n->log, TN_LOG_ERROR, "filter", "rules not understood, everything is blocked: %s", tn_err_text(err));
    }
    if ((changes & TN_NETMAP_DERP) && tn_netmap_derp_map(m)) {
        int err = tn_path_set_derp_map(n->path, tn_netmap_derp_map(m), now_us);
        if (err) tn_logf(&n->log, TN_LOG_ERROR, "derp", "map not understood: %s", tn_err_text(err));
        else if (!n->path_started) tn_path_start(n->path, now_us);
        n->path_started |= !err;
    }
    if (changes & (TN_NETMAP_PEERS | TN_NETMAP_SELF)) tn_node_choose_exit(n, now_us);
    if (changes & (TN_NETMAP_DNS | TN_NETMAP_SELF)) tn_magicdns_update(n);
    if (changes & TN_NETMAP_DNS) tn_peerapi_server_set_dns(n, tn_netmap_dns_config(m));
    tn_node_check_usable(n);
}

/* ---- the rest of control ---- */

int tn_node_push_host(struct tn_node *n)
{
    const struct tn_npeer *exit_peer = n->exit_peer ? tn_node_peer_by_id(n, n->exit_peer) : NULL;
    const struct tn_netnode *exit_node = exit_peer ? tn_node_netnode(n, exit_peer) : NULL;
    struct tn_prefix offered[OFFERED_MAX];
    bool offers_exit = n->config.advertise_exit_node && !n->exit_withdrawn;
    struct tn_control_host host = {.hostname = n->hostname,
                                   .os_version = n->version_os,
                                   .machine = n->machine,
                                   .ipn_version = TN_NODE_IPN_VERSION,
                                   .backend_log_id = n->state.log_id,
                                   .routable_ips = offered,
                                   .nroutable_ips = offered_routes(n, offers_exit, offered),
                                   .userspace = !n->config.tun,
                                   .exit_node_id = exit_node ? exit_node->stable_id : NULL};
    tn_peerapi_server_ports(n, &host.peerapi4, &host.peerapi6);
    host.peerapi_dns_proxy = offers_exit && (host.peerapi4 || host.peerapi6);
    return tn_control_set_host(n->control, &host, tn_node_now());
}

static void node_state(void *ctx, enum tn_control_state state, const char *text)
{
    static const char *const names[] = {"stopped", "connecting", "needs login", "needs approval", "running", "failed"};
    struct tn_node *n = ctx;
    tn_logf(&n->log, TN_LOG_INFO, "control", "%s%s%s", names[state], *text ? ": " : "", text);
    if (*text && state != TN_CONTROL_RUNNING) tn_node_set_error(n, "%s", text);
    if (n->path) tn_path_set_control_up(n->path, state == TN_CONTROL_RUNNING);
    snprintf(n->control_text, sizeof n->control_text, "%s", state == TN_CONTROL_RUNNING ? "" : text);
    pthread_mutex_lock(&n->mu);
    n->control_state = state;
    if (state == TN_CONTROL_RUNNING) {
        free(n->auth_url);
        n->auth_url = NULL;
    }
    pthread_cond_broadcast(&n->cond);
    pthread_mutex_unlock(&n->mu);
    tn_node_check_usable(n);
}

static void node_auth_url(void *ctx, const char *url)
{
    struct tn_node *n = ctx;
    tn_logf(&n->log, TN_LOG_INFO, "control", "to log in, visit: %s", url);
    pthread_mutex_lock(&n->mu);
    free(n->auth_url);
    n->auth_url = strdup(url);
    pthread_cond_broadcast(&n->cond);
    pthread_mutex_unlock(&n->mu);
}

static int node_save(void *ctx, const struct tn_control_identity *id)
{
    struct tn_node *n = ctx;
    struct tn_control_identity before = n->state.identity;
    const struct tn_node_private *key = tn_control_identity_key(id); /* the old one until the server has taken the new */
    bool rekeyed = memcmp(key->b, tn_control_identity_key(&before)->b, sizeof key->b) != 0;
    n->state.identity = *id;
    int err = tn_state_save(&n->state);
    if (err) { /* what is not on disk was not taken: the next attempt is judged against what is */
        n->state.identity = before;
        tn_node_set_error(n, "%.120s: %s", n->config.state_dir, tn_state_err_text(err));
    }
    tn_wipe(&before, sizeof before);
    if (err || !rekeyed || tn_key_is_zero(key->b)) return err;
    err = tn_wg_set_key(n->wg, key);
    return err ? err : tn_path_set_node_key(n->path, key, tn_node_now());
}

static void node_ping(void *ctx, const char *types, const struct tn_ip *ip, uint64_t token)
{
    tn_pings_for_control(ctx, types, ip, token);
}

static int64_t node_wallclock(void *ctx) { return (int64_t)time(NULL); }

struct tn_control_callbacks tn_node_control_callbacks(void)
{
    return (struct tn_control_callbacks){.state = node_state,
                                         .auth_url = node_auth_url,
                                         .save = node_save,
                                         .peer = node_peer,
                                         .peer_gone = node_peer_gone,
                                         .netmap = node_netmap,
                                         .ping = node_ping,
                                         .wallclock = node_wallclock};
}
