/* Lite updates: a MapRequest that only tells (Stream false, OmitPeers true); the answer's body is drained.
 *
 * From capability version 68 on servers take Hostinfo and endpoints from here and not from the stream, so one
 * follows each login, each new connection and each change. Changes only count a generation up; one request is
 * under way at a time and says everything, so an older state can't arrive after a newer one. */
#include "control/client.h"
#include "util/err.h"

#define REQUEST_TIMEOUT_US TN_CLIENT_SECONDS(60)

json_t *tn_update_request(struct tn_control *c, bool stream)
{
    char disco[TN_KEY_STRLEN];
    json_t *o = json_object();
    json_object_set_new(o, "Version", json_integer(TN_CAPVER));
    if (stream) json_object_set_new(o, "Compress", json_string("zstd"));
    json_object_set_new(o, "KeepAlive", json_true());
    tn_client_set_key(o, "NodeKey", &c->current);
    json_object_set_new(o, "DiscoKey", json_string(tn_disco_public_format(&c->config.disco, disco)));
    if (stream) json_object_set_new(o, "Stream", json_true());
    json_object_set_new(o, "Hostinfo", tn_selfinfo_hostinfo(&c->self));
    if (json_array_size(c->self.endpoints) > 0) {
        json_object_set(o, "Endpoints", c->self.endpoints);
        json_object_set(o, "EndpointTypes", c->self.endpoint_types);
    }
    if (!stream) json_object_set_new(o, "OmitPeers", json_true());
    return o;
}

void tn_update_want(struct tn_control *c) { c->update.wanted++; }

static void drop_request(struct tn_control *c)
{
    if (c->update.req) tn_link_cancel(c->link, c->update.req);
    c->update.req = NULL;
    c->update.deadline_us = TN_NEVER;
}

void tn_update_cancel(struct tn_control *c) { drop_request(c); }

static void failed(struct tn_control *c)
{
    c->update.at_us = c->now_us + tn_backoff_next(&c->update.backoff, &c->config.rng);
}

static void on_head(void *arg, int status, const char *retry)
{
    struct tn_control *c = arg;
    c->update.status = status;
}

static void on_done(void *arg, int err)
{
    struct tn_control *c = arg;
    struct tn_update *u = &c->update;
    tn_client_enter(c, tn_link_now(c->link));
    u->req = NULL;
    u->deadline_us = TN_NEVER;
    if (!err && u->status == 200) {
        u->acked = u->sent;
        tn_backoff_reset(&u->backoff);
    } else {
        tn_logf(c->config.log, TN_LOG_DEBUG, "control", "update not taken: %s, HTTP %d", tn_err_text(err), u->status);
        failed(c);
    }
    tn_client_leave(c);
}

static const struct tn_h2_events events = {on_head, NULL, on_done};

static bool due(const struct tn_control *c)
{
    return c->logged_in && !c->update.req && c->update.acked != c->update.wanted;
}

void tn_update_run(struct tn_control *c)
{
    struct tn_update *u = &c->update;
    if (!due(c) || c->now_us < u->at_us || !tn_link_up(c->link)) return;
    u->sent = u->wanted;
    u->status = 0;
    u->deadline_us = c->now_us + REQUEST_TIMEOUT_US;
    int err = tn_client_post(c, "/machine/map", tn_update_request(c, false), &c->current, NULL, &events, &u->req);
    if (!err) return;
    drop_request(c);
    failed(c);
}

void tn_update_timeout(struct tn_control *c)
{
    if (!c->update.req || c->now_us < c->update.deadline_us) return;
    drop_request(c);
    failed(c);
}

uint64_t tn_update_next(const struct tn_control *c)
{
    if (c->update.req) return c->update.deadline_us;
    return due(c) && tn_link_up(c->link) ? c->update.at_us : TN_NEVER;
}
