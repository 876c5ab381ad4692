#include "dev/ctl_impl.h"

#include <stdlib.h>
#include <string.h>

enum {
    OFFLINE_GRACE = 10, /* seconds without a stream before peers hear of it, as headscale: a reconnect is no event */
    SAVE_DELAY = 1,     /* seconds */
};

static json_t *field(struct tn_dev_fields *f, const char *name)
{
    json_t *v = json_object_get(f->obj, name);
    return json_is_null(v) ? NULL : v;
}

const char *tn_dev_field_text(struct tn_dev_fields *f, const char *name)
{
    json_t *v = field(f, name);
    if (!v) return "";
    const char *s = json_string_value(v);
    if (!s) f->bad = true;
    return s ? s : "";
}

bool tn_dev_field_bool(struct tn_dev_fields *f, const char *name)
{
    json_t *v = field(f, name);
    if (v && !json_is_boolean(v)) f->bad = true;
    return json_is_true(v);
}

int64_t tn_dev_field_int(struct tn_dev_fields *f, const char *name)
{
    json_t *v = field(f, name);
    if (v && !json_is_integer(v)) f->bad = true;
    return json_integer_value(v);
}

json_t *tn_dev_field_object(struct tn_dev_fields *f, const char *name)
{
    json_t *v = field(f, name);
    if (v && !json_is_object(v)) f->bad = true;
    return json_is_object(v) ? v : NULL;
}

json_t *tn_dev_field_array(struct tn_dev_fields *f, const char *name)
{
    json_t *v = field(f, name);
    if (v && !json_is_array(v)) f->bad = true;
    return json_is_array(v) ? v : NULL;
}

int64_t tn_dev_field_time(struct tn_dev_fields *f, const char *name)
{
    const char *s = tn_dev_field_text(f, name);
    int64_t t = 0;
    if (*s && tn_dev_rfc3339_parse(s, &t) != 0) f->bad = true;
    return t;
}

void tn_dev_answer_json(struct tn_dev_reply *reply, json_t *body)
{
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    if (text) tn_dev_reply_all(reply, 200, "application/json", text);
    else tn_dev_answer_text(reply, 500, "out of memory");
    free(text);
}

void tn_dev_answer_text(struct tn_dev_reply *reply, int status, const char *text)
{
    tn_dev_reply_all(reply, status, "text/plain; charset=utf-8", text);
}

static void save_fire(struct tn_dev_timer *timer, void *engine, struct tn_dev_now now)
{
    struct tn_dev_ctl *c = engine;
    if (tn_dev_save_now(c) != 0) tn_dev_dirty(c, now);
}

int tn_dev_save_now(struct tn_dev_ctl *c)
{
    int err = c->cfg.save(c->cfg.ctx);
    if (err) {
        tn_logf(c->cfg.log, TN_LOG_ERROR, "dev", "the node registry was not saved: %s", tn_err_text(err));
        c->dirty = true;
        return err;
    }
    tn_timer_stop(&c->timers, &c->save.t);
    c->dirty = false;
    return 0;
}

void tn_dev_dirty(struct tn_dev_ctl *c, struct tn_dev_now now)
{
    c->dirty = true;
    if (!tn_timer_armed(&c->save.t)) tn_timer_arm(&c->timers, &c->save.t, now.us + SAVE_DELAY * TN_DEV_SECOND);
}

bool tn_dev_ctl_dirty(const struct tn_dev_ctl *c) { return c->dirty; }

static void absence_fire(struct tn_dev_timer *timer, void *engine, struct tn_dev_now now)
{
    struct tn_dev_ctl *c = engine;
    struct tn_dev_node *n = TN_CONTAINER(timer, struct tn_dev_node, absence);
    uint64_t limit_us = n->absent_us + c->cfg.ephemeral_s * TN_DEV_SECOND;
    if (n->ephemeral && now.us >= limit_us) {
        tn_logf(c->cfg.log, TN_LOG_INFO, "dev", "ephemeral node %s removed", n->name);
        tn_dev_node_gone(c, n, now);
        return;
    }
    if (n->online) {
        tn_logf(c->cfg.log, TN_LOG_INFO, "dev", "node %s is offline", n->name);
        tn_dev_node_set_online(c->cfg.registry, n, false, now.unix_s);
        tn_dev_changed(c, now);
        tn_dev_dirty(c, now);
    }
    if (n->ephemeral) tn_timer_arm(&c->timers, &n->absence.t, limit_us);
}

void tn_dev_absent(struct tn_dev_ctl *c, struct tn_dev_node *n, struct tn_dev_now now)
{
    n->absent_us = now.us;
    n->absence.fire = absence_fire;
    uint64_t wait_s = n->ephemeral && c->cfg.ephemeral_s < OFFLINE_GRACE ? c->cfg.ephemeral_s : OFFLINE_GRACE;
    tn_timer_arm(&c->timers, &n->absence.t, now.us + wait_s * TN_DEV_SECOND);
}

void tn_dev_node_gone(struct tn_dev_ctl *c, struct tn_dev_node *n, struct tn_dev_now now)
{
    tn_dev_streams_end(c, n);
    tn_dev_asks_drop(c, n);
    tn_timer_stop(&c->timers, &n->absence.t);
    tn_dev_registry_remove(c->cfg.registry, n);
    tn_dev_changed(c, now);
    tn_dev_dirty(c, now);
}

void tn_dev_ctl_remove(struct tn_dev_ctl *c, struct tn_dev_node *n, struct tn_dev_now now)
{
    tn_dev_node_gone(c, n, now);
}

void tn_dev_ctl_expire(struct tn_dev_ctl *c, struct tn_dev_node *n, struct tn_dev_now now)
{
    if (tn_dev_node_expired(n, now.unix_s)) return;
    tn_dev_node_set_expiry(c->cfg.registry, n, now.unix_s);
    tn_dev_changed(c, now);
    tn_dev_dirty(c, now);
}

void tn_dev_take_hostinfo(struct tn_dev_ctl *c, struct tn_dev_node *n, json_t *hostinfo, int version,
                          struct tn_dev_now now)
{
    bool changed = tn_dev_node_set_cap(c->cfg.registry, n, version);
    if (hostinfo) {
        json_t *ni = json_object_get(hostinfo, "NetInfo");
        json_int_t home = json_integer_value(json_object_get(ni, "PreferredDERP"));
        /* headscale and the real server keep the last NetInfo when one update omits it. */
        if (!json_is_object(ni)) {
            json_t *old = json_object_get(n->hostinfo, "NetInfo");
            if (old) json_object_set(hostinfo, "NetInfo", old);
        }
        if (home > 0 && home < 65536) changed |= tn_dev_node_set_home_derp(c->cfg.registry, n, (int)home);
        changed |= tn_dev_node_set_hostinfo(c->cfg.registry, n, hostinfo);
    }
    if (!changed) return;
    tn_dev_changed(c, now);
    tn_dev_dirty(c, now);
}

int tn_dev_ctl_new(const struct tn_dev_ctl_config *config, struct tn_dev_now now, struct tn_dev_ctl **out)
{
    struct tn_dev_ctl *c = calloc(1, sizeof *c);
    if (!c) return TN_E_NOMEM;
    c->cfg = *config;
    c->base_url = strdup(config->base_url);
    if (!c->base_url) {
        free(c);
        return TN_E_NOMEM;
    }
    tn_heap_init(&c->timers);
    tn_list_init(&c->streams);
    tn_list_init(&c->pending);
    tn_list_init(&c->asks);
    c->flush.fire = tn_dev_flush;
    c->save.fire = save_fire;
    TN_LIST_EACH (l, &c->cfg.registry->nodes) {
        struct tn_dev_node *n = TN_CONTAINER(l, struct tn_dev_node, link);
        if (n->ephemeral) tn_dev_absent(c, n, now);
    }
    *out = c;
    return 0;
}

void tn_dev_ctl_free(struct tn_dev_ctl *c)
{
    if (!c) return;
    tn_dev_pending_free_all(c);
    tn_dev_asks_drop(c, NULL);
    tn_dev_streams_end(c, NULL);
    TN_LIST_EACH (l, &c->cfg.registry->nodes)
        tn_timer_stop(&c->timers, &TN_CONTAINER(l, struct tn_dev_node, link)->absence.t);
    tn_heap_fini(&c->timers);
    free(c->base_url);
    free(c);
}

bool tn_dev_ctl_admits(const struct tn_dev_ctl *c, const struct tn_node_public *key, struct tn_dev_now now)
{
    const struct tn_dev_node *n = tn_dev_registry_by_key(c->cfg.registry, key);
    return n && !tn_dev_node_expired(n, now.unix_s);
}

void tn_dev_ctl_timeout(struct tn_dev_ctl *c, struct tn_dev_now now) { tn_dev_timers_run(&c->timers, c, now); }

uint64_t tn_dev_ctl_next_deadline(const struct tn_dev_ctl *c) { return tn_heap_next(&c->timers); }

/* What headscale answers 501 to: known to clients, not offered by this server. */
static bool is_unoffered(const char *path)
{
    static const char *const known[] = {"/machine/set-dns",         "/machine/id-token",  "/machine/feature/query",
                                        "/machine/set-device-attr", "/machine/audit-log", "/machine/update-health"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(path, known[i]) == 0) return true;
    return false;
}

static void post(struct tn_dev_ctl *c, const struct tn_dev_request *req, struct tn_dev_reply *reply,
                 struct tn_dev_now now,
                 void (*handle)(struct tn_dev_ctl *, const struct tn_dev_request *, json_t *, struct tn_dev_reply *,
                                struct tn_dev_now))
{
    if (strcmp(req->method, "POST") != 0) {
        tn_dev_answer_text(reply, 405, "POST required");
        return;
    }
    json_t *body = json_loadb((const char *)req->body, req->len, 0, NULL);
    if (json_is_object(body)) handle(c, req, body, reply, now);
    else tn_dev_answer_text(reply, 400, "the body is not a JSON object");
    json_decref(body);
}

void tn_dev_ctl_request(struct tn_dev_ctl *c, const struct tn_dev_request *req, struct tn_dev_reply *reply,
                        struct tn_dev_now now)
{
    if (strcmp(req->path, "/machine/register") == 0) post(c, req, reply, now, tn_dev_register);
    else if (strcmp(req->path, "/machine/map") == 0) post(c, req, reply, now, tn_dev_map);
    else if (is_unoffered(req->path)) tn_dev_answer_text(reply, 501, "not offered by tailnet dev");
    else if (!tn_dev_ask_answered(c, req, reply, now)) tn_dev_answer_text(reply, 404, "not found");
}
