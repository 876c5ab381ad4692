/* POST /machine/map: streams, lite updates, one-shot maps.
 *
 *   Stream                        read-only (capability version 68): the first message is full, deltas follow
 *   not Stream, OmitPeers         lite update: what the node says of itself is stored; empty 200
 *   not Stream, peers wanted      stored as well, then one full message; ends other streams of the node
 *
 * A stream's message is a length (u32 little-endian) and JSON, zstd-compressed as a frame of its own when asked for.
 * Changes are gathered for FLUSH_DELAY before they go out, and wait while a client does not read. */
#include "dev/ctl_impl.h"
#include "util/cursor.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

enum {
    KEEP_ALIVE = 50,          /* seconds; clients give up after 120 */
    FLUSH_DELAY_US = 20000,   /* gathers the changes of one event, such as a node's lite update after its login */
    ZSTD_LEVEL = 1,
};

struct map_request {
    int version;
    struct tn_node_public key;
    struct tn_disco_public disco;
    bool stream, omit_peers, read_only, keep_alive, zstd, has_disco;
    json_t *hostinfo, *endpoints; /* borrowed from the body; NULL when absent */
};

/* 0, or TN_E_MALFORMED with one line for the client. */
static int parse(json_t *body, struct map_request *m, const char **why)
{
    struct tn_dev_fields f = {.obj = body};
    *m = (struct map_request){0};
    int64_t version = tn_dev_field_int(&f, "Version");
    const char *key = tn_dev_field_text(&f, "NodeKey"), *disco = tn_dev_field_text(&f, "DiscoKey");
    const char *compress = tn_dev_field_text(&f, "Compress");
    m->stream = tn_dev_field_bool(&f, "Stream");
    m->omit_peers = tn_dev_field_bool(&f, "OmitPeers");
    m->read_only = tn_dev_field_bool(&f, "ReadOnly");
    m->keep_alive = tn_dev_field_bool(&f, "KeepAlive");
    m->hostinfo = tn_dev_field_object(&f, "Hostinfo");
    m->endpoints = tn_dev_field_array(&f, "Endpoints");
    tn_dev_field_array(&f, "EndpointTypes");
    *why = "a field of the map request has the wrong type";
    if (f.bad) return TN_E_MALFORMED;
    *why = "Hostinfo is too large";
    if (m->hostinfo && json_dumpb(m->hostinfo, NULL, 0, JSON_COMPACT) > TN_DEV_HOSTINFO_MAX) return TN_E_MALFORMED;
    *why = "unsupported client version";
    if (version < TN_DEV_CAPVER_MIN || version > 65535) return TN_E_MALFORMED;
    m->version = (int)version;
    *why = "bad node key";
    if (tn_node_public_parse(key, &m->key) != 0 || tn_key_is_zero(m->key.b)) return TN_E_MALFORMED;
    *why = "bad disco key";
    if (*disco && tn_disco_public_parse(disco, &m->disco) != 0) return TN_E_MALFORMED;
    m->has_disco = !tn_key_is_zero(m->disco.b);
    *why = "unknown compression";
    if (*compress && strcmp(compress, "zstd") != 0) return TN_E_MALFORMED;
    m->zstd = *compress != '\0';
    return 0;
}

static void store(struct tn_dev_ctl *c, struct tn_dev_node *n, const struct map_request *m, struct tn_dev_now now)
{
    struct tn_dev_registry *r = c->cfg.registry;
    uint64_t before = r->gen;
    tn_dev_node_set_endpoints(r, n, m->endpoints);
    if (m->has_disco && tn_dev_node_set_disco(r, n, &m->disco)) tn_dev_dirty(c, now);
    tn_dev_take_hostinfo(c, n, m->hostinfo, m->version, now);
    if (r->gen != before) tn_dev_changed(c, now);
}

static int append_message(struct tn_dev_reply *reply, const json_t *message, bool zstd)
{
    char *text = json_dumps(message, JSON_COMPACT);
    if (!text) return TN_E_NOMEM;
    size_t len = strlen(text), cap = zstd ? ZSTD_compressBound(len) : len;
    uint8_t *frame = malloc(4 + cap);
    int err = frame ? 0 : TN_E_NOMEM;
    if (!err && zstd) len = ZSTD_compress(frame + 4, cap, text, len, ZSTD_LEVEL);
    else if (!err) memcpy(frame + 4, text, len);
    if (!err && ZSTD_isError(len)) err = TN_E_NOMEM;
    if (!err) {
        tn_put_le32(frame, (uint32_t)len);
        err = reply->ops->write(reply, frame, 4 + len);
    }
    free(frame);
    free(text);
    return err;
}

static void stream_free(struct tn_dev_stream *s)
{
    tn_timer_stop(&s->ctl->timers, &s->idle.t);
    tn_list_remove(&s->link);
    free(s);
}

/* No more messages: orderly, or as a failure. */
static void stream_finish(struct tn_dev_stream *s, bool orderly)
{
    struct tn_dev_reply *reply = s->reply;
    stream_free(s);
    if (orderly) reply->ops->end(reply);
    else reply->ops->abort(reply);
}

struct tn_dev_stream *tn_dev_stream_of(const struct tn_dev_ctl *c, const struct tn_dev_node *n)
{
    TN_LIST_EACH (l, &c->streams) {
        struct tn_dev_stream *s = TN_CONTAINER(l, struct tn_dev_stream, link);
        if (s->node == n) return s;
    }
    return NULL;
}

void tn_dev_streams_end(struct tn_dev_ctl *c, const struct tn_dev_node *n)
{
    TN_LIST_EACH (l, &c->streams) {
        struct tn_dev_stream *s = TN_CONTAINER(l, struct tn_dev_stream, link);
        if (!n || s->node == n) stream_finish(s, true);
    }
}

void tn_dev_stream_send(struct tn_dev_stream *s, const json_t *message, struct tn_dev_now now)
{
    struct tn_dev_ctl *c = s->ctl;
    struct tn_dev_node *n = s->node;
    int err = message ? append_message(s->reply, message, s->zstd) : TN_E_NOMEM;
    if (err) {
        stream_finish(s, false);
        tn_dev_absent(c, n, now);
        return;
    }
    if (s->keep_alive) tn_timer_arm(&c->timers, &s->idle.t, now.us + KEEP_ALIVE * TN_DEV_SECOND);
}

static void idle_fire(struct tn_dev_timer *timer, void *engine, struct tn_dev_now now)
{
    struct tn_dev_stream *s = TN_CONTAINER(timer, struct tn_dev_stream, idle);
    json_t *message = json_pack("{s:b}", "KeepAlive", 1);
    tn_dev_stream_send(s, message, now);
    json_decref(message);
}

static void stream_gone(void *holder, struct tn_dev_now now)
{
    struct tn_dev_stream *s = holder;
    struct tn_dev_ctl *c = s->ctl;
    struct tn_dev_node *n = s->node;
    stream_free(s);
    if (!tn_dev_stream_of(c, n)) tn_dev_absent(c, n, now);
}

static void stream_drain(void *holder, struct tn_dev_now now)
{
    struct tn_dev_stream *s = holder;
    if (s->seen < s->ctl->cfg.registry->gen) tn_dev_changed(s->ctl, now);
}

void tn_dev_changed(struct tn_dev_ctl *c, struct tn_dev_now now)
{
    if (!tn_timer_armed(&c->flush.t)) tn_timer_arm(&c->timers, &c->flush.t, now.us + FLUSH_DELAY_US);
}

static void stream_delta(struct tn_dev_ctl *c, struct tn_dev_stream *s, struct tn_dev_now now)
{
    json_t *delta;
    int err = tn_dev_maps_delta(c->cfg.registry, c->cfg.tailnet, s->node, s->seen, now.unix_s, &delta);
    if (err) { /* too far behind: the client starts over with a full map */
        struct tn_dev_node *n = s->node;
        stream_finish(s, true);
        tn_dev_absent(c, n, now);
        return;
    }
    s->seen = c->cfg.registry->gen;
    if (!delta) return;
    tn_dev_stream_send(s, delta, now);
    json_decref(delta);
}

void tn_dev_flush(struct tn_dev_timer *timer, void *engine, struct tn_dev_now now)
{
    struct tn_dev_ctl *c = engine;
    TN_LIST_EACH (l, &c->streams) {
        struct tn_dev_stream *s = TN_CONTAINER(l, struct tn_dev_stream, link);
        if (s->reply->ops->backlog(s->reply) < TN_DEV_STREAM_BACKLOG) stream_delta(c, s, now);
    }
}

static void serve_stream(struct tn_dev_ctl *c, struct tn_dev_node *n, const struct map_request *m,
                         struct tn_dev_reply *reply, struct tn_dev_now now)
{
    struct tn_dev_stream *s = calloc(1, sizeof *s);
    if (!s) {
        tn_dev_answer_text(reply, 500, "out of memory");
        return;
    }
    *s = (struct tn_dev_stream){
        .ctl = c, .node = n, .reply = reply, .zstd = m->zstd, .keep_alive = m->keep_alive, .idle.fire = idle_fire};
    tn_list_push_back(&c->streams, &s->link);
    reply->holder = s;
    reply->gone = stream_gone;
    reply->drain = stream_drain;
    tn_timer_stop(&c->timers, &n->absence.t);
    if (tn_dev_node_set_online(c->cfg.registry, n, true, now.unix_s)) {
        tn_logf(c->cfg.log, TN_LOG_INFO, "dev", "node %s is online", n->name);
        tn_dev_changed(c, now);
    }
    reply->ops->begin(reply, 200, "application/json");
    json_t *full = tn_dev_maps_full(c->cfg.registry, c->cfg.tailnet, n, now.unix_s);
    s->seen = c->cfg.registry->gen;
    tn_dev_stream_send(s, full, now);
    json_decref(full);
}

static void serve_once(struct tn_dev_ctl *c, struct tn_dev_node *n, const struct map_request *m,
                       struct tn_dev_reply *reply, struct tn_dev_now now)
{
    json_t *full = tn_dev_maps_full(c->cfg.registry, c->cfg.tailnet, n, now.unix_s);
    reply->ops->begin(reply, 200, "application/json");
    if (full && append_message(reply, full, m->zstd) == 0) reply->ops->end(reply);
    else reply->ops->abort(reply);
    json_decref(full);
}

void tn_dev_map(struct tn_dev_ctl *c, const struct tn_dev_request *req, json_t *body, struct tn_dev_reply *reply,
                struct tn_dev_now now)
{
    struct map_request m;
    const char *why;
    if (parse(body, &m, &why) != 0) {
        tn_dev_answer_text(reply, 400, why);
        return;
    }
    struct tn_dev_node *n = tn_dev_registry_by_key(c->cfg.registry, &m.key);
    if (!n || memcmp(&n->machine, &req->machine, sizeof n->machine) != 0) {
        tn_dev_answer_text(reply, 404, "node not found");
        return;
    }
    if (!m.stream && !m.read_only) store(c, n, &m, now);
    if (!m.read_only && (m.stream || !m.omit_peers)) tn_dev_streams_end(c, n);
    if (m.stream && !m.read_only) serve_stream(c, n, &m, reply, now);
    else if (m.omit_peers) tn_dev_reply_all(reply, 200, "application/json", "");
    else serve_once(c, n, &m, reply, now);
    if (!m.stream && !m.omit_peers && !m.read_only) tn_dev_absent(c, n, now);
}
