/* POST /machine/register, in the order in which real servers decide:
 *
 *   1. malformed, an old version, no node key, no Hostinfo          HTTP 400
 *   2. the node key belongs to another machine                      Error
 *   3. Expiry in the past                                           logout: the key ends (ephemeral: the node goes)
 *   4. no auth key, node known                                      as it is; NodeKeyExpired if its key has ended
 *   5. Followup                                                     held until the login URL was visited
 *   6. auth key                                                     a node at once, or Error
 *   7. otherwise                                                    AuthURL, to be visited by a person
 *
 * A machine has one node: registering with another node key moves the node to it (rotation), whether or not
 * OldNodeKey says so; an OldNodeKey of somebody else is an error. A node is on disk before its client hears of
 * success. */
#include "dev/ctl_impl.h"
#include "util/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    TOKEN_BYTES = 16,
    LOGIN_LIFE = 15 * 60, /* seconds in which a login URL has to be visited */
    AUTH_KEY_MAX = 512,
};

struct login {
    struct tn_machine_public machine;
    struct tn_node_public key;
    int version;
    bool ephemeral;
    int64_t expiry;
    json_t *hostinfo; /* borrowed from the body, owned inside a pending login */
};

struct waiter {
    struct tn_list link;
    struct pending *pending;
    struct tn_dev_reply *reply;
};

struct pending {
    struct tn_list link;
    struct tn_dev_ctl *ctl;
    char token[2 * TOKEN_BYTES + 1];
    struct login login;
    struct tn_list waiters;
    size_t nwaiters;
    struct tn_dev_timer expire;
};

static void answer_error(struct tn_dev_reply *reply, const char *text)
{
    tn_dev_answer_json(reply, json_pack("{s:s, s:b, s:b, s:s}", "Error", text, "NodeKeyExpired", 0,
                                        "MachineAuthorized", 0, "AuthURL", ""));
}

static void answer_login(struct tn_dev_ctl *c, struct tn_dev_reply *reply, bool expired, const char *auth_url)
{
    json_t *o = json_pack("{s:b, s:b, s:s, s:s}", "NodeKeyExpired", (int)expired, "MachineAuthorized",
                          (int)(!expired && !*auth_url), "AuthURL", auth_url, "Error", "");
    if (o && tn_dev_maps_user(c->cfg.tailnet, o) != 0) {
        json_decref(o);
        o = NULL;
    }
    tn_dev_answer_json(reply, o);
}

static bool same_machine(const struct tn_machine_public *a, const struct tn_machine_public *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

/* The machine becomes (or stays) a node with this key. NULL and a line in why on refusal. */
static struct tn_dev_node *admit(struct tn_dev_ctl *c, const struct login *l, struct tn_dev_now now, const char **why)
{
    struct tn_dev_registry *r = c->cfg.registry;
    struct tn_dev_node *n = tn_dev_registry_by_machine(r, &l->machine);
    const char *hostname = json_string_value(json_object_get(l->hostinfo, "Hostname"));
    int err = 0;
    if (!n) {
        err = tn_dev_registry_add(r, &l->machine, &l->key, hostname ? hostname : "", now.unix_s, &n);
    } else if (!tn_node_public_eq(&n->key, &l->key)) {
        err = tn_dev_node_set_key(r, n, &l->key);
        if (!err) tn_dev_streams_end(c, n); /* they were opened under the old key */
    }
    if (err) {
        *why = err == TN_E_EXIST ? "the node key belongs to another machine" : tn_err_text(err);
        return NULL;
    }
    n->ephemeral = l->ephemeral;
    tn_dev_node_set_expiry(r, n, l->expiry > now.unix_s ? l->expiry : 0);
    tn_dev_take_hostinfo(c, n, l->hostinfo, l->version, now);
    if (!tn_dev_stream_of(c, n)) tn_dev_absent(c, n, now);
    tn_dev_changed(c, now);
    if (tn_dev_save_now(c) != 0) {
        *why = "the server cannot save its state";
        return NULL;
    }
    char text[TN_IP_STRLEN];
    struct tn_ip ip = tn_dev_node_ip4(n);
    tn_logf(c->cfg.log, TN_LOG_INFO, "dev", "node %s registered, %s", n->name, tn_ip_format(&ip, text));
    return n;
}

static void pending_free(struct pending *p)
{
    tn_timer_stop(&p->ctl->timers, &p->expire.t);
    tn_list_remove(&p->link);
    p->ctl->npending--;
    json_decref(p->login.hostinfo);
    free(p);
}

/* Takes the waiter's reply back: it is answered by the caller. */
static struct tn_dev_reply *waiter_take(struct pending *p, struct waiter *w)
{
    struct tn_dev_reply *reply = w->reply;
    reply->gone = NULL;
    tn_list_remove(&w->link);
    p->nwaiters--;
    free(w);
    return reply;
}

static void pending_refuse(struct pending *p, const char *why)
{
    while (!tn_list_empty(&p->waiters))
        answer_error(waiter_take(p, TN_CONTAINER(p->waiters.next, struct waiter, link)), why);
    pending_free(p);
}

void tn_dev_pending_free_all(struct tn_dev_ctl *c)
{
    while (!tn_list_empty(&c->pending))
        pending_refuse(TN_CONTAINER(c->pending.next, struct pending, link), "the server is stopping");
}

/* Nobody came: followups are told to stop, and their clients log in anew. */
static void pending_fire(struct tn_dev_timer *timer, void *engine, struct tn_dev_now now)
{
    struct pending *p = TN_CONTAINER(timer, struct pending, expire);
    while (!tn_list_empty(&p->waiters))
        tn_dev_answer_text(waiter_take(p, TN_CONTAINER(p->waiters.next, struct waiter, link)), 410,
                           "the login URL has expired");
    pending_free(p);
}

static struct pending *pending_find(struct tn_dev_ctl *c, const char *token)
{
    TN_LIST_EACH (l, &c->pending) {
        struct pending *p = TN_CONTAINER(l, struct pending, link);
        if (strcmp(p->token, token) == 0) return p;
    }
    return NULL;
}

/* A machine has one login under way; the oldest of all gives way when there are too many. */
static void make_room(struct tn_dev_ctl *c, const struct login *l)
{
    TN_LIST_EACH (at, &c->pending) {
        struct pending *p = TN_CONTAINER(at, struct pending, link);
        if (same_machine(&p->login.machine, &l->machine)) pending_refuse(p, "another login was begun");
    }
    if (c->npending >= TN_DEV_PENDING_MAX)
        pending_refuse(TN_CONTAINER(c->pending.next, struct pending, link), "too many logins are waiting");
}

static void begin_interactive(struct tn_dev_ctl *c, const struct login *l, struct tn_dev_reply *reply,
                              struct tn_dev_now now)
{
    make_room(c, l);
    struct pending *p = calloc(1, sizeof *p);
    char *url = NULL;
    if (p && asprintf(&url, "%s/a/", c->base_url) >= 0) {
        uint8_t token[TOKEN_BYTES];
        tn_rng_fill(&c->cfg.rng, token, sizeof token);
        *p = (struct pending){.ctl = c, .login = *l, .expire.fire = pending_fire};
        json_incref(l->hostinfo);
        tn_hex_encode(token, sizeof token, p->token);
        tn_list_init(&p->waiters);
        tn_list_push_back(&c->pending, &p->link);
        c->npending++;
        tn_timer_arm(&c->timers, &p->expire.t, now.us + LOGIN_LIFE * TN_DEV_SECOND);
    }
    char full[300];
    if (!p || !url || snprintf(full, sizeof full, "%s%s", url, p->token) >= (int)sizeof full) {
        tn_dev_answer_text(reply, 500, "out of memory");
        if (!url) free(p);
    } else {
        answer_login(c, reply, false, full);
    }
    free(url);
}

static void waiter_gone(void *holder, struct tn_dev_now now)
{
    struct waiter *w = holder;
    waiter_take(w->pending, w);
}

/* Holds the request until its URL is visited. An unknown or used URL begins a fresh login, since a client that gets
 * an error here asks for the same dead URL for ever. */
static void follow_up(struct tn_dev_ctl *c, const char *url, const struct login *l, struct tn_dev_reply *reply,
                      struct tn_dev_now now)
{
    const char *slash = strrchr(url, '/');
    struct pending *p = pending_find(c, slash ? slash + 1 : url);
    if (p && (!same_machine(&p->login.machine, &l->machine) || !tn_node_public_eq(&p->login.key, &l->key))) {
        answer_error(reply, "the login URL belongs to another node");
        return;
    }
    if (!p) {
        begin_interactive(c, l, reply, now);
        return;
    }
    struct waiter *w = p->nwaiters < TN_DEV_WAITERS_MAX ? calloc(1, sizeof *w) : NULL;
    if (!w) {
        tn_dev_answer_text(reply, 429, "too many requests wait for this login");
        return;
    }
    *w = (struct waiter){.pending = p, .reply = reply};
    tn_list_push_back(&p->waiters, &w->link);
    p->nwaiters++;
    reply->holder = w;
    reply->gone = waiter_gone;
    reply->drain = NULL;
}

int tn_dev_ctl_visit(struct tn_dev_ctl *c, const char *path, char name[TN_DEV_LABEL_MAX + 1], struct tn_dev_now now)
{
    if (strncmp(path, "/a/", 3) != 0) return TN_E_NOENT;
    struct pending *p = pending_find(c, path + 3);
    if (!p) return TN_E_NOENT;
    const char *why = NULL;
    struct tn_dev_node *n = admit(c, &p->login, now, &why);
    if (!n) {
        pending_refuse(p, why);
        return TN_E_STATE;
    }
    memcpy(name, n->name, sizeof n->name);
    while (!tn_list_empty(&p->waiters))
        answer_login(c, waiter_take(p, TN_CONTAINER(p->waiters.next, struct waiter, link)), false, "");
    pending_free(p);
    return 0;
}

/* n is NULL when the key is nobody's: it is as good as logged out. */
static void log_out(struct tn_dev_ctl *c, struct tn_dev_node *n, struct tn_dev_reply *reply, struct tn_dev_now now)
{
    if (!n) {
        answer_login(c, reply, true, "");
        return;
    }
    tn_logf(c->cfg.log, TN_LOG_INFO, "dev", "node %s logged out", n->name);
    if (n->ephemeral) {
        tn_dev_node_gone(c, n, now);
    } else {
        tn_dev_node_set_online(c->cfg.registry, n, false, now.unix_s);
        tn_dev_ctl_expire(c, n, now);
    }
    if (tn_dev_save_now(c) != 0) tn_dev_answer_text(reply, 500, "the server cannot save its state");
    else answer_login(c, reply, true, "");
}

/* No auth key, a key we know. */
static void renew(struct tn_dev_ctl *c, struct tn_dev_node *n, const struct login *l, struct tn_dev_reply *reply,
                  struct tn_dev_now now)
{
    bool expired = tn_dev_node_expired(n, now.unix_s);
    if (!expired && l->expiry) {
        if (n->expiry && l->expiry > n->expiry) {
            tn_dev_answer_text(reply, 400, "extending a key is not allowed");
            return;
        }
        tn_dev_node_set_expiry(c->cfg.registry, n, l->expiry);
        tn_dev_changed(c, now);
        tn_dev_dirty(c, now);
    }
    if (!expired) tn_dev_take_hostinfo(c, n, l->hostinfo, l->version, now);
    answer_login(c, reply, expired, "");
}

static bool auth_key_right(const struct tn_dev_ctl *c, const char *key)
{
    struct tn_secret *given = tn_secret_new(key, strlen(key));
    bool same = given && tn_secret_eq(given, c->cfg.auth_key);
    tn_secret_free(given);
    return same;
}

static void with_auth_key(struct tn_dev_ctl *c, const char *auth_key, const struct login *l,
                          struct tn_dev_reply *reply, struct tn_dev_now now)
{
    const struct tn_dev_node *known = tn_dev_registry_by_key(c->cfg.registry, &l->key);
    const char *why;
    if (strlen(auth_key) > AUTH_KEY_MAX || !auth_key_right(c, auth_key)) answer_error(reply, "invalid auth key");
    else if (known && tn_dev_node_expired(known, now.unix_s)) answer_login(c, reply, true, ""); /* take a new key */
    else if (!admit(c, l, now, &why)) answer_error(reply, why);
    else answer_login(c, reply, false, "");
}

struct parsed {
    struct login login;
    struct tn_node_public old_key;
    const char *auth_key, *followup; /* borrowed; "" when absent */
};

static const char *parse(json_t *body, const struct tn_dev_request *req, struct parsed *out)
{
    struct tn_dev_fields f = {.obj = body};
    *out = (struct parsed){.login.machine = req->machine};
    int64_t version = tn_dev_field_int(&f, "Version");
    const char *key = tn_dev_field_text(&f, "NodeKey"), *old = tn_dev_field_text(&f, "OldNodeKey");
    struct tn_dev_fields auth = {.obj = tn_dev_field_object(&f, "Auth")};
    out->auth_key = tn_dev_field_text(&auth, "AuthKey");
    out->followup = tn_dev_field_text(&f, "Followup");
    out->login.ephemeral = tn_dev_field_bool(&f, "Ephemeral");
    out->login.expiry = tn_dev_field_time(&f, "Expiry");
    out->login.hostinfo = tn_dev_field_object(&f, "Hostinfo");
    if (f.bad || auth.bad) return "a field of the register request has the wrong type";
    if (version < TN_DEV_CAPVER_MIN || version > 65535) return "unsupported client version";
    out->login.version = (int)version;
    if (tn_node_public_parse(key, &out->login.key) != 0 || tn_key_is_zero(out->login.key.b)) return "bad node key";
    if (*old && tn_node_public_parse(old, &out->old_key) != 0) return "bad old node key";
    if (!out->login.hostinfo) return "Hostinfo is missing";
    if (json_dumpb(out->login.hostinfo, NULL, 0, JSON_COMPACT) > TN_DEV_HOSTINFO_MAX) return "Hostinfo is too large";
    return NULL;
}

static bool belongs_to_other(const struct tn_dev_node *n, const struct tn_machine_public *machine)
{
    return n && !same_machine(&n->machine, machine);
}

void tn_dev_register(struct tn_dev_ctl *c, const struct tn_dev_request *req, json_t *body, struct tn_dev_reply *reply,
                     struct tn_dev_now now)
{
    struct parsed p;
    const char *why = parse(body, req, &p);
    if (why) {
        tn_dev_answer_text(reply, 400, why);
        return;
    }
    struct tn_dev_node *n = tn_dev_registry_by_key(c->cfg.registry, &p.login.key);
    struct tn_dev_node *old = tn_dev_registry_by_key(c->cfg.registry, &p.old_key);
    if (belongs_to_other(n, &req->machine) || belongs_to_other(old, &req->machine))
        answer_error(reply, "the node key belongs to another machine");
    else if (p.login.expiry && p.login.expiry < now.unix_s) log_out(c, n, reply, now);
    else if (!*p.auth_key && n) renew(c, n, &p.login, reply, now);
    else if (*p.followup) follow_up(c, p.followup, &p.login, reply, now);
    else if (*p.auth_key) with_auth_key(c, p.auth_key, &p.login, reply, now);
    else begin_interactive(c, &p.login, reply, now);
}
