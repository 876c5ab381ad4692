/* The public API (include/tailnet.h) over the node. Checks arguments, crosses threads, keeps the last error's text. */
#include "tailnet.h"

#include "node/dial.h"
#include "node/exit.h"
#include "node/node.h"
#include "node/status.h"
#include "node/wait.h"
#include "util/err.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tailnet {
    struct tn_node node; /* first: stream.c finds it there */
    void (*log)(void *ctx, int level, const char *module, const char *line);
    void *log_ctx;
};

#define SAME(public, own) static_assert((int)(public) == (int)(own), #public)
SAME(TAILNET_ECLOSED, TN_E_CLOSED);
SAME(TAILNET_ENEEDLOGIN, TN_E_NEEDLOGIN);
SAME(TAILNET_EPOLICY, TN_E_POLICY);
SAME(TAILNET_ESTATE, TN_E_STATE);
SAME(TAILNET_EDNS, TN_E_DNS);
SAME(TAILNET_EPROTO, TN_E_PROTO);

const char *tailnet_version(void) { return TAILNET_VERSION; }
const char *tailnet_strerror(int err) { return tn_err_text(err); }

int tailnet_new(tailnet **out)
{
    tailnet *t = calloc(1, sizeof *t);
    if (!t) return TN_E_NOMEM;
    int err = tn_node_init(&t->node);
    if (err) {
        free(t);
        return err;
    }
    *out = t;
    return 0;
}

struct live_call {
    struct tn_setting setting;
    char why[200];
    int err;
};

static void set_live(struct tn_node *n, void *arg)
{
    struct live_call *c = arg;
    c->err = tn_exit_set(n, &c->setting, 1, false, c->why);
}

static void reload_live(struct tn_node *n, void *arg)
{
    struct live_call *c = arg;
    c->err = tn_exit_reload(n, false, c->why);
}

/* TN_E_NOENT without words: not an option that a running node takes. */
static int call_live(tailnet *t, void (*fn)(struct tn_node *n, void *arg), struct live_call *c)
{
    int err = tn_node_call(&t->node, fn, c);
    if (!err) err = c->err;
    if (err && c->why[0]) tn_node_set_error(&t->node, "%s", c->why);
    return err;
}

int tailnet_reload(tailnet *t)
{
    struct live_call c = {0};
    return call_live(t, reload_live, &c);
}

int tailnet_set(tailnet *t, const char *option, const char *value)
{
    char why[200];
    pthread_mutex_lock(&t->node.mu); /* also while it is set: a start that begins meanwhile waits for it */
    bool started = t->node.life != TN_NODE_STOPPED;
    int err = started ? TN_E_BUSY : tn_config_set(&t->node.config, option, value, why);
    pthread_mutex_unlock(&t->node.mu);
    if (started) {
        struct live_call c = {.setting = {option, value ? value : ""}};
        err = call_live(t, set_live, &c);
        if (err != TN_E_NOENT || c.why[0]) return err;
        tn_node_set_error(&t->node, "%.60s: the node is started", option);
        return TN_E_BUSY;
    }
    if (err) tn_node_set_error(&t->node, "%s", why);
    return err;
}

static void write_log(void *ctx, enum tn_log_level level, const char *module, const char *line)
{
    tailnet *t = ctx;
    t->log(t->log_ctx, (int)level, module, line);
}

void tailnet_set_log(tailnet *t, void (*log)(void *ctx, int level, const char *module, const char *line), void *ctx)
{
    t->log = log;
    t->log_ctx = ctx;
    t->node.log.write = log ? write_log : NULL;
    t->node.log.ctx = t;
}

int tailnet_start(tailnet *t) { return tn_node_start(&t->node); }

int tailnet_up(tailnet *t, int timeout_ms)
{
    struct tn_node *n = &t->node;
    struct tn_wait w = tn_wait_begin(n, timeout_ms);
    int err = tailnet_start(t);
    if (err) return err;
    pthread_mutex_lock(&n->mu);
    while (!n->usable && !err) {
        if (n->control_state == TN_CONTROL_FAILED) err = TN_E_PROTO;
        else if (n->auth_url && timeout_ms == 0) err = TN_E_NEEDLOGIN;
        else err = tn_wait_more(n, &w);
    }
    if (n->usable) err = 0;
    pthread_mutex_unlock(&n->mu);
    return err;
}

int tailnet_auth_url(tailnet *t, char **url)
{
    pthread_mutex_lock(&t->node.mu);
    bool pending = t->node.auth_url;
    char *copy = pending ? strdup(t->node.auth_url) : NULL;
    pthread_mutex_unlock(&t->node.mu);
    if (!copy) return pending ? TN_E_NOMEM : TN_E_NOENT;
    *url = copy;
    return 0;
}

int tailnet_addresses(tailnet *t, char *ip4, size_t len4, char *ip6, size_t len6)
{
    struct tn_node *n = &t->node;
    if (ip4 && len4) *ip4 = '\0';
    if (ip6 && len6) *ip6 = '\0';
    pthread_mutex_lock(&n->mu);
    size_t count = n->nshared_own;
    int err = count ? 0 : TN_E_NOTCONN;
    for (size_t i = 0; i < count; i++) {
        char text[TN_IP_STRLEN];
        char *out = n->shared_own[i].family == 4 ? ip4 : ip6;
        size_t room = n->shared_own[i].family == 4 ? len4 : len6;
        tn_ip_format(&n->shared_own[i], text);
        if (!out) continue;
        if (strlen(text) >= room) err = TN_E_NOSPC;
        else strcpy(out, text);
    }
    pthread_mutex_unlock(&n->mu);
    return err;
}

static bool is_tcp(tailnet *t, const char *network)
{
    if (network && strcmp(network, "tcp") == 0) return true;
    tn_node_set_error(&t->node, "network: only \"tcp\" is supported");
    return false;
}

int tailnet_dial(tailnet *t, const char *network, const char *address, int timeout_ms, int *fd)
{
    if (!is_tcp(t, network)) return TN_E_INVAL;
    int err = tn_node_dial_wait(&t->node, address, timeout_ms, fd);
    if (err)
        tn_node_set_error(&t->node, "dial %.120s: %s", address, err == TN_E_INVAL ? "expected host:port" : tn_err_text(err));
    return err;
}

int tailnet_listen(tailnet *t, const char *network, const char *address, tailnet_listener **out)
{
    if (!is_tcp(t, network)) return TN_E_INVAL;
    int err = tn_listener_new(&t->node, address, out);
    if (err) tn_node_set_error(&t->node, "listen %.120s: %s", address, tn_err_text(err));
    return err;
}

struct status_call {
    char *json;
    int err;
};

static void take_status(struct tn_node *n, void *arg)
{
    struct status_call *c = arg;
    c->json = tn_status_json(n, true);
    c->err = c->json ? 0 : TN_E_NOMEM;
}

int tailnet_status(tailnet *t, char **json)
{
    struct status_call c = {0};
    int err = tn_node_call(&t->node, take_status, &c);
    if (!err) err = c.err;
    if (!err) *json = c.json;
    return err;
}

/* A caller of tailnet_logout; on the heap, since the answer may come after its thread stopped waiting. */
struct logout_call {
    struct tn_list link; /* in the node's logouts; the loop's */
    bool done;           /* under mu, as all below */
    int err, refs;
};

static void logout_drop(struct logout_call *c)
{
    if (--c->refs == 0) free(c);
}

void tn_node_logouts_end(struct tn_node *n, int err)
{
    pthread_mutex_lock(&n->mu);
    for (struct tn_list *link; (link = tn_list_pop_front(&n->logouts));) {
        struct logout_call *c = TN_CONTAINER(link, struct logout_call, link);
        c->done = true;
        c->err = err;
        logout_drop(c);
    }
    pthread_cond_broadcast(&n->cond);
    pthread_mutex_unlock(&n->mu);
}

static void logout_done(void *ctx, int err) { tn_node_logouts_end(ctx, err); }

/* The control client knows one logout at a time: a second caller waits for the first one's answer. */
static void begin_logout(struct tn_node *n, void *arg)
{
    bool first = tn_list_empty(&n->logouts);
    tn_list_push_back(&n->logouts, &((struct logout_call *)arg)->link);
    if (first) tn_control_logout(n->control, logout_done, n, tn_node_now());
}

int tailnet_logout(tailnet *t, int timeout_ms)
{
    struct tn_node *n = &t->node;
    struct logout_call *c = calloc(1, sizeof *c);
    if (!c) return TN_E_NOMEM;
    c->refs = 2;
    struct tn_wait w = tn_wait_begin(n, timeout_ms);
    int err = tn_node_call(n, begin_logout, c);
    if (err) {
        free(c);
        return err;
    }
    pthread_mutex_lock(&n->mu);
    while (!c->done && !err) err = tn_wait_more(n, &w);
    if (c->done) err = c->err;
    logout_drop(c);
    pthread_mutex_unlock(&n->mu);
    return err;
}

void tailnet_cancel(tailnet *t)
{
    atomic_fetch_add(&t->node.cancels, 1);
    tn_node_wake(&t->node);
}

void tailnet_error(tailnet *t, char *buf, size_t len)
{
    if (len == 0) return;
    pthread_mutex_lock(&t->node.mu);
    snprintf(buf, len, "%s", t->node.error);
    pthread_mutex_unlock(&t->node.mu);
}

void tailnet_free(void *string) { free(string); }

void tailnet_close(tailnet *t)
{
    if (!t) return;
    tn_node_stop(&t->node);
    tn_node_fini(&t->node);
    free(t);
}
