#include "node/exit.h"

#include "crypto/blake2s.h"
#include "node/checkup.h"
#include "node/resolver.h"
#include "node/tunmode.h"
#include "node/withdraw.h"
#include "util/err.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- what the egress asks about peers ---- */

static bool is_named(const struct tn_netnode *node, const char *value)
{
    struct tn_ip ip;
    if (node->stable_id && !strcmp(node->stable_id, value)) return true;
    if (tn_ip_parse(value, &ip) == 0) {
        for (size_t i = 0; i < node->naddresses; i++)
            if (tn_ip_eq(&node->addresses[i].ip, &ip)) return true;
        return false;
    }
    size_t len = strlen(value);
    if (len && value[len - 1] == '.') len--;
    if (!node->name || len == 0 || strncasecmp(node->name, value, len) != 0) return false;
    return node->name[len] == '\0' || (node->name[len] == '.' && (node->name[len + 1] == '\0' || !memchr(value, '.', len)));
}

static bool has_tag(const struct tn_netnode *node, const char *tag)
{
    for (size_t i = 0; i < json_array_size(node->tags); i++) {
        const char *t = json_string_value(json_array_get(node->tags, i));
        if (t && !strcmp(t, tag)) return true;
    }
    return false;
}

static bool peer_is(void *ctx, uint64_t peer, enum tn_egress_source kind, const char *value)
{
    struct tn_node *n = ctx;
    struct tn_npeer *p = tn_node_peer_by_id(n, (int64_t)peer);
    const struct tn_netnode *node = p ? tn_node_netnode(n, p) : NULL;
    if (!node) return false;
    if (kind == TN_EGRESS_FROM_PEER) return is_named(node, value);
    if (kind == TN_EGRESS_FROM_TAG) return has_tag(node, value);
    /* A tagged node is nobody's. */
    const struct tn_user_profile *u = json_array_size(node->tags) ? NULL : tn_netmap_user(tn_control_netmap(n->control), node->user);
    return u && u->login_name && !strcasecmp(u->login_name, value);
}

static uint64_t user_of(void *ctx, uint64_t peer)
{
    struct tn_node *n = ctx;
    struct tn_npeer *p = tn_node_peer_by_id(n, (int64_t)peer);
    const struct tn_netnode *node = p ? tn_node_netnode(n, p) : NULL;
    return node ? (uint64_t)node->user : 0;
}

/* Sessions at the proxies are named with a key that lasts as long as the machine's, and tells nothing of it. */
static struct tn_hashkey session_key(const struct tn_node *n)
{
    static const char label[] = "tailnet egress sessions v1";
    struct tn_hashkey key;
    struct tn_blake2s h;
    tn_blake2s_init(&h, sizeof key, n->state.identity.machine.b, sizeof n->state.identity.machine.b);
    tn_blake2s_update(&h, label, sizeof label);
    tn_blake2s_final(&h, (uint8_t *)&key);
    return key;
}

int tn_exit_rotate(struct tn_node *n, uint64_t peer)
{
    int err = tn_egress_rotate(n->egress, peer);
    if (err) return err;
    tn_resolver_rotated(n, peer);
    err = tn_state_set_epoch(&n->state, peer, tn_egress_epoch(n->egress, peer));
    if (err) tn_logf(&n->log, TN_LOG_WARN, "egress", "rotated until the next start; state: %s", tn_state_err_text(err));
    return 0;
}

/* ---- the policy ---- */

/* told: whoever reads the log knows what is wrong with the settings already. */
static int apply(struct tn_node *n, bool cut, bool told)
{
    enum tn_egress_mode mode = tn_config_egress(&n->config, &n->egress_missing);
    bool bad = n->config.exit.defect[0] != '\0';
    int err = tn_egress_set(n->egress, bad ? NULL : tn_exitset_spec(&n->config.exit, mode), cut);
    if (bad) err = 0; /* it is off, which is what it should be */
    if (bad && !told) tn_logf(&n->log, TN_LOG_WARN, "egress", "%s", n->config.exit.defect);
    else if (!bad && mode == TN_EGRESS_OFF && n->egress_missing)
        tn_logf(&n->log, TN_LOG_WARN, "egress", "exit traffic is refused; missing: %s", n->egress_missing);
    return err;
}

int tn_exit_new(struct tn_node *n)
{
    n->proxy_tls = tn_proxytls_ops;
    n->proxy_tls.ctx = n->tls;
    struct tn_egress_config ec = {.loop = &n->loop,
                                  .log = &n->log,
                                  .mark = tn_tunmode_mark(n),
                                  .peers = {.is = peer_is, .user = user_of, .ctx = n},
                                  .tls = &n->proxy_tls,
                                  .key = session_key(n),
                                  .no_breaker = !n->config.exit_breaker};
    int err = tn_egress_new(&ec, &n->egress);
    tn_wipe(&ec.key, sizeof ec.key);
    if (!err) err = tn_egress_set_epoch(n->egress, 0, n->state.exit_epoch);
    for (size_t i = 0; !err && i < n->state.nexit_epochs; i++)
        err = tn_egress_set_epoch(n->egress, n->state.exit_epochs[i].peer, n->state.exit_epochs[i].epoch);
    /* Not an exit node: off, as the egress begins, and not a word about settings nobody needs. */
    return err || !n->config.advertise_exit_node ? err : apply(n, false, false);
}

/* A node that just became an exit node has been OFF until here; one that is none any more is OFF from here on. */
static void put_in_force(struct tn_node *n, bool cut, bool told)
{
    if (n->config.advertise_exit_node) (void)apply(n, cut, told); /* what it says is in the mode and the log */
    else (void)tn_egress_set(n->egress, tn_egress_spec_new(TN_EGRESS_OFF), cut);
    tn_resolver_policy_changed(n); /* names are asked for the new way, at once */
    tn_withdraw_update(n);
    tn_checkup_due(n);
}

/* The live settings of fresh, whose routes are still compared with ours when they are in force. */
static void take_live(struct tn_node *n, struct tn_config *fresh, bool cut)
{
    struct tn_exitlive_before before = {NULL, n->config.nroutes};
    struct tn_egress_route *old = before.nroutes ? malloc(before.nroutes * sizeof *old) : NULL;
    if (old) memcpy(old, n->config.routes, before.nroutes * sizeof *old);
    else before.nroutes = 0; /* no memory: what lost its route is kept as long as it is let in */
    before.routes = old;
    unsigned changed = tn_config_take_live(&n->config, fresh);
    if (changed) tn_exitlive_changed(n, changed, &before, cut);
    free(old);
}

int tn_exit_reload(struct tn_node *n, bool cut, char why[200])
{
    struct tn_config fresh;
    bool was = n->config.advertise_exit_node;
    int err = tn_config_reread(&n->config, &fresh, why);
    const char *so = err && strstr(why, "exit traffic is off") ? "" : "; exit traffic is off";
    if (err) tn_logf(&n->log, TN_LOG_ERROR, "egress", "reload: %s%s", why, so);
    else tn_logf(&n->log, TN_LOG_INFO, "egress", "settings were read anew");
    tn_exitset_fini(&n->config.exit);
    n->config.exit = fresh.exit;
    tn_exitset_init(&fresh.exit);
    if (!err) take_live(n, &fresh, cut);
    tn_config_fini(&fresh);
    if (was || n->config.advertise_exit_node) put_in_force(n, cut, err != 0);
    tn_exitwatch_again(n);
    return err;
}

int tn_exit_set(struct tn_node *n, const struct tn_setting *settings, size_t count, bool cut, char why[200])
{
    struct tn_config fresh;
    bool was = n->config.advertise_exit_node, policy;
    if (n->config.config_file) {
        snprintf(why, 200, "%.40s: %.100s says it: change it there", count ? settings[0].option : "", n->config.config_file);
        return TN_E_BUSY;
    }
    int err = tn_config_change(&n->config, settings, count, &fresh, &policy, why);
    if (!err) take_live(n, &fresh, cut);
    tn_config_fini(&fresh);
    bool is = n->config.advertise_exit_node;
    if (policy ? was || is : was != is) put_in_force(n, cut, false);
    if (policy) tn_exitwatch_again(n);
    return err;
}
