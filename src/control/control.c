#include "control/client.h"
#include "control/cjson.h"
#include "control/fetch.h"
#include "util/err.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPIRY_LOOK_MAX_US TN_CLIENT_SECONDS(600) /* clocks get set: never trust a far deadline on the wall clock */

static const char *const state_names[] = {"stopped",        "connecting", "needs login",
                                          "needs approval", "running",    "failed"};
_Static_assert(sizeof state_names / sizeof *state_names == TN_CONTROL_FAILED + 1, "a name per state");

/* --- small services for the parts --- */

int64_t tn_client_wallclock(const struct tn_control *c) { return c->config.cb.wallclock(c->config.ctx); }
int64_t tn_client_control_time(const struct tn_control *c) { return tn_client_wallclock(c) + c->clock_delta_s; }

void tn_client_say(struct tn_control *c, const char *fmt, ...)
{
    char text[TN_CLIENT_TEXT];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    for (char *p = text; *p; p++) /* servers' words, cut anywhere: status is JSON */
        if (*p < ' ' || *p > '~') *p = '?';
    if (strcmp(text, c->text) == 0) return;
    memcpy(c->text, text, sizeof text);
    c->tell_state = true;
}

int tn_client_save(struct tn_control *c, const struct tn_node_private *node, const struct tn_node_private *old_node)
{
    struct tn_control_identity now = {.machine = c->config.identity.machine, .node = *node, .old_node = *old_node};
    int err = 0;
    if (memcmp(&now, &c->saved, sizeof now) != 0 && c->config.cb.save) err = c->config.cb.save(c->config.ctx, &now);
    if (!err) c->saved = now;
    tn_wipe(&now, sizeof now);
    return err;
}

void tn_client_set_key(json_t *o, const char *name, const struct tn_node_private *key)
{
    char text[TN_KEY_STRLEN];
    struct tn_node_public public_key = {0};
    if (!tn_key_is_zero(key->b)) tn_node_public_of(key, &public_key);
    json_object_set_new(o, name, json_string(tn_node_public_format(&public_key, text)));
}

static const char *hint(const struct tn_node_private *key, char text[TN_KEY_STRLEN])
{
    struct tn_node_public public_key;
    if (!key || tn_key_is_zero(key->b)) return NULL;
    tn_node_public_of(key, &public_key);
    return tn_node_public_format(&public_key, text);
}

int tn_client_post(struct tn_control *c, const char *path, json_t *body_owned, const struct tn_node_private *lb0,
                   const struct tn_node_private *lb1, const struct tn_h2_events *events, struct tn_h2_req **out)
{
    char text0[TN_KEY_STRLEN], text1[TN_KEY_STRLEN];
    size_t len = 0;
    char *body = tn_cjson_dump(body_owned, &len);
    json_decref(body_owned);
    if (!body) return TN_E_NOMEM;
    struct tn_h2_spec spec = {
        .method = "POST",
        .path = path,
        .content_type = "application/json",
        .lb = {hint(lb0, text0), hint(lb1, text1)},
        .body = body,
        .body_len = len,
    };
    int err = tn_link_request(c->link, &spec, events, c, out);
    tn_wipe(body, len);
    free(body);
    return err;
}

static void sink_peer(void *ctx, const struct tn_netnode *peer)
{
    struct tn_control *c = ctx;
    if (c->config.cb.peer) c->config.cb.peer(c->config.ctx, peer, c->now_us);
}

static void sink_gone(void *ctx, const struct tn_netnode *peer)
{
    struct tn_control *c = ctx;
    if (c->config.cb.peer_gone) c->config.cb.peer_gone(c->config.ctx, peer, c->now_us);
}

struct tn_netmap_sink tn_client_sink(struct tn_control *c)
{
    return (struct tn_netmap_sink){sink_peer, sink_gone, c};
}

/* --- the order of things --- */

static enum tn_control_state state_now(const struct tn_control *c)
{
    const struct tn_netnode *self = tn_netmap_self(c->netmap);
    if (!c->started) return TN_CONTROL_STOPPED;
    if (self && !self->expired && c->logged_in) /* also while a renewal fails: the old key still works */
        return self->machine_authorized ? TN_CONTROL_RUNNING : TN_CONTROL_NEEDS_APPROVAL;
    if (c->login.failed) return TN_CONTROL_FAILED;
    if (c->login.followup) return TN_CONTROL_NEEDS_LOGIN;
    if (!c->logged_in && !c->login.wanted && !c->logout.under_way) return TN_CONTROL_NEEDS_LOGIN;
    return TN_CONTROL_CONNECTING;
}

static void tell(struct tn_control *c)
{
    enum tn_control_state state = state_now(c);
    if (c->netmap_changes) {
        unsigned changes = c->netmap_changes;
        c->netmap_changes = 0;
        if (c->config.cb.netmap) c->config.cb.netmap(c->config.ctx, c->netmap, changes, c->now_us);
    }
    if (c->login.followup && (!c->login.told_url || strcmp(c->login.told_url, c->login.followup) != 0)) {
        free(c->login.told_url);
        c->login.told_url = strdup(c->login.followup);
        if (c->config.cb.auth_url) c->config.cb.auth_url(c->config.ctx, c->login.followup);
    }
    if (state == c->state && !c->tell_state) return;
    if (state != c->state)
        tn_logf(c->config.log, TN_LOG_INFO, "control", "%s > %s%s%s", state_names[c->state], state_names[state],
                c->text[0] ? ": " : "", c->text);
    c->state = state;
    c->tell_state = false;
    if (c->config.cb.state) c->config.cb.state(c->config.ctx, state, c->text);
}

static bool needs_link(const struct tn_control *c)
{
    if (!c->started) return false;
    if (c->logout.under_way) return !c->logout.answered;
    if (c->login.wanted && c->now_us >= c->login.at_us) return true;
    return c->logged_in && c->now_us >= c->poll.at_us;
}

static void look_at_expiry(struct tn_control *c)
{
    if (c->now_us < c->expiry_us) return;
    int64_t now = tn_client_control_time(c), next = tn_netmap_next_expiry(c->netmap, now);
    uint64_t wait = EXPIRY_LOOK_MAX_US;
    if (next == INT64_MAX) {
        c->expiry_us = TN_NEVER;
        return;
    }
    if ((uint64_t)(next - now) < EXPIRY_LOOK_MAX_US / 1000000) wait = TN_CLIENT_SECONDS(next - now);
    c->expiry_us = c->now_us + (wait ? wait : 1);
}

static void run(struct tn_control *c)
{
    tn_logout_run(c);
    if (needs_link(c) && tn_link_idle(c->link)) tn_link_connect(c->link, c->now_us);
    if (!c->logout.under_way) {
        tn_login_run(c);
        tn_poll_run(c);
        tn_update_run(c);
    }
    look_at_expiry(c);
    tn_link_flush(c->link, c->now_us);
}

void tn_client_enter(struct tn_control *c, uint64_t now_us)
{
    c->depth++;
    if (now_us > c->now_us) c->now_us = now_us;
}

void tn_client_leave(struct tn_control *c)
{
    if (c->depth == 1) {
        run(c);
        tell(c);
        run(c); /* what a callback asked for */
    }
    c->depth--;
}

/* --- the link's events --- */

static void on_link_up(void *ctx, uint64_t now_us)
{
    struct tn_control *c = ctx;
    tn_client_enter(c, now_us);
    tn_logf(c->config.log, TN_LOG_INFO, "control", "connected to %s", c->url.authority);
    c->update.at_us = c->now_us;
    tn_update_want(c); /* a new session knows nothing of us */
    tn_client_leave(c);
}

/* Requests under way have failed before this and wait already; the loops that only waited for the link wait now. */
static void on_link_down(void *ctx, int err, const char *text, uint64_t now_us)
{
    struct tn_control *c = ctx;
    tn_client_enter(c, now_us);
    if (c->reconnecting || err == TN_E_CANCELED) {
        c->reconnecting = false;
        c->login.at_us = c->poll.at_us = c->now_us;
    } else {
        char line[sizeof c->text];
        snprintf(line, sizeof line, "%s: %s; trying again", c->url.authority, text);
        bool repeated = strcmp(line, c->text) == 0; /* by the second while a server is away: once is enough to read */
        tn_logf(c->config.log, repeated ? TN_LOG_DEBUG : TN_LOG_INFO, "control", "disconnected from %s", line);
        tn_client_say(c, "%s", line);
        if (c->login.wanted && c->login.at_us <= c->now_us)
            c->login.at_us = c->now_us + tn_backoff_next(&c->login.backoff, &c->config.rng);
        if (c->logged_in && c->poll.at_us <= c->now_us)
            c->poll.at_us = c->now_us + tn_backoff_next(&c->poll.backoff, &c->config.rng);
    }
    tn_client_leave(c);
}

/* --- life --- */

static int make_parts(struct tn_control *c)
{
    struct tn_link_config link = {
        .url = c->url,
        .version = TN_CAPVER,
        .machine = c->config.identity.machine,
        .rng = c->config.rng,
        .dialer = c->config.dialer,
        .log = c->config.log,
        .up = on_link_up,
        .down = on_link_down,
        .ctx = c,
    };
    int err = tn_link_new(&link, &c->link);
    tn_wipe(&link.machine, sizeof link.machine);
    if (!err) err = tn_selfinfo_init(&c->self);
    c->netmap = tn_netmap_new(&c->hash);
    if (!err && !c->netmap) err = TN_E_NOMEM;
    return err;
}

int tn_control_new(const struct tn_control_config *config, struct tn_control **out)
{
    struct tn_weburl url;
    if (!config->dialer || !config->cb.wallclock || tn_key_is_zero(config->identity.machine.b)) return TN_E_INVAL;
    if (tn_weburl_parse(config->server_url, &url) != 0 || strchr(url.path, '?')) return TN_E_INVAL;
    struct tn_control *c = calloc(1, sizeof *c);
    if (!c) return TN_E_NOMEM;
    c->config = *config;
    c->config.server_url = NULL; /* the caller's string: url has what is needed */
    c->url = url;
    c->saved = config->identity;
    c->poll.watchdog_us = c->update.deadline_us = c->expiry_us = TN_NEVER;
    tn_rng_fill(&config->rng, &c->hash, sizeof c->hash);
    tn_mapframe_init(&c->poll.frames);
    tn_buf_init(&c->poll.held, TN_CLIENT_HELD_MAX);
    tn_login_init(c);
    int err = make_parts(c);
    if (err) tn_control_free(c);
    else *out = c;
    return err;
}

void tn_control_free(struct tn_control *c)
{
    if (!c) return;
    assert(c->depth == 0); /* not from a callback */
    tn_link_free(c->link); /* first: with it all requests are gone */
    tn_ping_fini(c);
    tn_login_fini(c);
    tn_mapframe_fini(&c->poll.frames);
    tn_buf_fini(&c->poll.held);
    tn_selfinfo_fini(&c->self);
    tn_netmap_free(c->netmap);
    free(c->popped_url);
    tn_wipe(c, sizeof *c);
    free(c);
}

/* --- the owner's calls --- */

int tn_control_set_host(struct tn_control *c, const struct tn_control_host *host, uint64_t now_us)
{
    tn_client_enter(c, now_us);
    int changed = tn_selfinfo_set_host(&c->self, host);
    if (changed > 0) tn_update_want(c);
    tn_client_leave(c);
    return changed < 0 ? changed : 0;
}

void tn_control_set_netinfo(struct tn_control *c, const struct tn_control_netinfo *ni, uint64_t now_us)
{
    tn_client_enter(c, now_us);
    if (tn_selfinfo_set_netinfo(&c->self, ni) > 0) tn_update_want(c);
    tn_client_leave(c);
}

void tn_control_set_endpoints(struct tn_control *c, const struct tn_control_endpoint *eps, size_t n, uint64_t now_us)
{
    tn_client_enter(c, now_us);
    if (tn_selfinfo_set_endpoints(&c->self, eps, n) > 0) tn_update_want(c);
    tn_client_leave(c);
}

void tn_control_start(struct tn_control *c, uint64_t now_us)
{
    tn_client_enter(c, now_us);
    c->started = true;
    if (!c->logged_in && !c->login.wanted) tn_login_begin(c, false);
    tn_client_leave(c);
}

void tn_control_login(struct tn_control *c, uint64_t now_us)
{
    tn_client_enter(c, now_us);
    c->started = true;
    tn_login_interactive(c);
    tn_client_leave(c);
}

void tn_control_logout(struct tn_control *c, void (*done)(void *ctx, int err), void *ctx, uint64_t now_us)
{
    tn_client_enter(c, now_us);
    c->started = true;
    tn_logout_begin(c, done, ctx);
    tn_client_leave(c);
}

void tn_control_reconnect(struct tn_control *c, uint64_t now_us)
{
    tn_client_enter(c, now_us);
    tn_backoff_reset(&c->login.backoff);
    tn_backoff_reset(&c->poll.backoff);
    tn_backoff_reset(&c->update.backoff);
    c->login.at_us = c->poll.at_us = c->update.at_us = c->now_us;
    if (!tn_link_idle(c->link)) {
        c->reconnecting = true;
        tn_link_close(c->link, TN_E_CANCELED, "reconnecting", c->now_us);
    }
    tn_client_leave(c);
}

const struct tn_netmap *tn_control_netmap(const struct tn_control *c) { return c->netmap; }
enum tn_control_state tn_control_state(const struct tn_control *c) { return c->state; }
const char *tn_control_auth_url(const struct tn_control *c) { return c->login.followup; }
bool tn_control_connected(const struct tn_control *c) { return c->poll.req && c->poll.merged; }

void tn_control_timeout(struct tn_control *c, uint64_t now_us)
{
    tn_client_enter(c, now_us);
    tn_link_timeout(c->link, c->now_us);
    tn_logout_timeout(c);
    tn_login_timeout(c);
    tn_poll_timeout(c);
    tn_update_timeout(c);
    tn_ping_timeout(c);
    tn_client_leave(c);
}

static uint64_t earlier(uint64_t a, uint64_t b) { return a < b ? a : b; }

uint64_t tn_control_next_deadline(const struct tn_control *c)
{
    uint64_t at = earlier(tn_link_next_deadline(c->link), tn_ping_next(c));
    at = earlier(at, c->logout.deadline_us);
    if (!c->started || c->logout.under_way) return at;
    /* While the link comes up, only its own deadlines matter: what waits for it starts when it is up. */
    bool connecting = !tn_link_up(c->link) && !tn_link_idle(c->link);
    if (!connecting || c->login.req) at = earlier(at, tn_login_next(c));
    if (!connecting || c->poll.req) at = earlier(at, tn_poll_next(c));
    return earlier(at, tn_update_next(c));
}
