/* What comes in on a DERP connection (derp_client.c): the answer to the upgrade, then frames.
 *
 * Memory: a frame is buffered up to the largest datagram (64 KiB and a key). Larger ones, which only unknown types
 * can be, are skipped as they stream in; above 1 MiB the connection is dropped, as in Go.
 *
 * Datagrams of one peer that follow each other go on as a run (udp.h), for one pass of the cipher and one lookup: between
 * them lie only frame headers, so each is moved up to the one before. They stay in the input buffer, whose bytes are
 * consumed when the run has gone. */
#include "path/derp_internal.h"
#include "wire/http1.h"

#include <stdio.h>
#include <stdlib.h>

enum { HEAD_MAX = 8 * 1024 /* the 101 has four short headers; a proxy's error page is cut off anyway */ };

/* ---- the send limit ---- */

static double positive(const json_t *obj, const char *name)
{
    const json_t *v = json_object_get(obj, name);
    return json_is_number(v) && json_number_value(v) > 0 ? json_number_value(v) : 0;
}

bool tn_derp_within_rate(struct tn_derp_client *c, size_t len, uint64_t now_us)
{
    if (c->rate == 0) return true;
    c->tokens += (double)(now_us - c->tokens_us) * c->rate / 1e6;
    if (c->tokens > c->burst) c->tokens = c->burst;
    c->tokens_us = now_us;
    if (c->tokens < (double)len) return false;
    c->tokens -= (double)len;
    return true;
}

static int take_server_info(struct tn_derp_client *c, const struct tn_derp_frame *f, uint64_t now_us)
{
    if (f->data_len < TN_BOX_OVERHEAD) return TN_E_MALFORMED;
    size_t len = f->data_len - TN_BOX_OVERHEAD;
    uint8_t *text = malloc(len + 1);
    if (!text) return TN_E_NOMEM;
    int err = tn_box_open(&c->shared, f->data, f->data_len, text);
    json_t *json = err ? NULL : json_loadb((const char *)text, len, 0, NULL);
    free(text);
    if (err) return err;
    if (!json_is_object(json)) {
        json_decref(json);
        return TN_E_MALFORMED;
    }
    c->rate = positive(json, "TokenBucketBytesPerSecond");
    c->burst = positive(json, "TokenBucketBytesBurst");
    if (c->burst == 0) c->burst = c->rate; /* unspecified: a second's worth */
    c->tokens = c->burst;
    c->tokens_us = now_us;
    json_decref(json);
    return 0;
}

/* ---- frames ---- */

static void on_server_info(struct tn_derp_client *c, const struct tn_derp_frame *f, uint64_t now_us)
{
    int err = take_server_info(c, f, now_us);
    if (err) {
        tn_derp_lost(c, err, "ServerInfo", now_us);
        return;
    }
    if (c->state == TN_DERP_UP) return;
    tn_derp_set_state(c, TN_DERP_UP);
    c->up_since_us = now_us;
    c->generation++;
    tn_logf(c->config.log, TN_LOG_INFO, "derp", "derp-%d (%s): connected%s", c->region->id, c->region->code,
            c->fast ? ", fast start" : "");
    c->config.cb->state(c->config.ctx, c, 0, "", now_us);
}

static void on_ping(struct tn_derp_client *c, const uint8_t payload[TN_DERP_PING_LEN])
{
    uint8_t frame[TN_DERP_HEADER_LEN + TN_DERP_PING_LEN];
    struct tn_wr w = tn_wr_init(frame, sizeof frame);
    if (c->backlog) return; /* a server that does not read must not make us pile up pongs */
    tn_derp_ping_put(&w, TN_DERP_PONG, payload);
    tn_derp_write(c, frame, tn_wr_len(&w));
}

static void on_health(struct tn_derp_client *c, const struct tn_derp_frame *f)
{
    char text[256]; /* shown to people; more is noise */
    size_t n = f->data_len < sizeof text - 1 ? f->data_len : sizeof text - 1;
    memcpy(text, f->data, n);
    text[n] = '\0';
    if (n) tn_logf(c->config.log, TN_LOG_WARN, "derp", "derp-%d: %s", c->region->id, text);
    c->config.cb->health(c->config.ctx, c, text);
}

/* Datagrams that wait to be handed on together, side by side in the input buffer. */
struct run {
    struct tn_node_public from;
    uint8_t *first;
    size_t len, segment; /* len 0: none; segment: of each but the last, which may be shorter */
};

static void let_go(struct tn_derp_client *c, struct run *r, uint64_t now_us)
{
    size_t len = r->len;
    r->len = 0;
    if (len) c->config.cb->packets(c->config.ctx, c, &r->from, r->first, len, r->segment, now_us);
}

/* The frame lies in our own input buffer, hence writable. */
static void on_packet(struct tn_derp_client *c, struct run *r, const struct tn_derp_frame *f, uint64_t now_us)
{
    bool last_is_short = r->len && r->len % r->segment;
    if (f->data_len == 0) return;
    if (r->len && (last_is_short || f->data_len > r->segment || memcmp(r->from.b, f->key, sizeof r->from.b) != 0))
        let_go(c, r, now_us);
    if (r->len == 0) {
        memcpy(r->from.b, f->key, sizeof r->from.b);
        r->first = (uint8_t *)f->data;
        r->segment = f->data_len;
    } else {
        memmove(r->first + r->len, f->data, f->data_len);
    }
    r->len += f->data_len;
}

static void on_gone(struct tn_derp_client *c, const struct tn_derp_frame *f)
{
    struct tn_node_public peer;
    memcpy(peer.b, f->key, sizeof peer.b);
    c->config.cb->gone(c->config.ctx, c, &peer, f->reason);
}

/* Frames that count before the connection is up: the greeting and ServerInfo. True when it was one. */
static bool on_handshake_frame(struct tn_derp_client *c, struct tn_derp_frame *f, int err, uint64_t now_us)
{
    if (c->state == TN_DERP_GREETING) {
        if (err || f->type != TN_DERP_SERVER_KEY || f->len > TN_DERP_SERVER_KEY_MAX) {
            tn_derp_lost(c, err ? err : TN_E_PROTO, "no DERP greeting", now_us);
            return true;
        }
        memcpy(c->server.b, f->key, sizeof c->server.b);
        c->greeted = true;
        tn_derp_on_server_key(c, now_us);
        return true;
    }
    if (f->type == TN_DERP_SERVER_KEY) {
        c->greeted = true; /* after fast start */
        return true;
    }
    if (f->type == TN_DERP_SERVER_INFO) {
        on_server_info(c, f, now_us);
        return true;
    }
    return false;
}

static void on_frame(struct tn_derp_client *c, struct run *r, struct tn_derp_frame *f, uint64_t now_us)
{
    int err = tn_derp_frame_parse(f);
    uint64_t mine = c->epoch;
    c->heard_us = now_us;
    if (!err && f->type == TN_DERP_RECV_PACKET && c->state == TN_DERP_UP) {
        on_packet(c, r, f, now_us);
        return;
    }
    let_go(c, r, now_us);
    if (c->epoch != mine) return;
    /* Short and unknown ones are skipped. */
    if (on_handshake_frame(c, f, err, now_us) || err || c->state != TN_DERP_UP) return;
    switch (f->type) {
    case TN_DERP_PEER_GONE: on_gone(c, f); break;
    case TN_DERP_PING: on_ping(c, f->data); break;
    case TN_DERP_PONG:
        if (memcmp(f->data, c->ping, sizeof c->ping) == 0) c->ping_deadline_us = TN_NEVER;
        break;
    case TN_DERP_HEALTH: on_health(c, f); break;
    case TN_DERP_RESTARTING:
        c->restart_delay_us = (uint64_t)f->reconnect_in_ms * 1000 + 1;
        if (c->restart_delay_us > TN_DERP_BACKOFF_MAX_US) c->restart_delay_us = TN_DERP_BACKOFF_MAX_US;
        break;
    default: break;
    }
}

/* A frame that is too large to be a datagram: its header is taken, its body will be skipped. */
static void skip_frame(struct tn_derp_client *c, uint64_t now_us)
{
    const uint8_t *header = tn_buf_data(&c->in);
    size_t len = tn_get_be32(header + 1);
    bool needed = header[0] == TN_DERP_SERVER_INFO || c->state == TN_DERP_GREETING;
    if (len > TN_DERP_FRAME_MAX || needed) {
        tn_derp_lost(c, TN_E_TOOBIG, "frame over the limit", now_us);
        return;
    }
    c->skip = len;
    tn_buf_consume(&c->in, TN_DERP_HEADER_LEN);
}

/* The whole frames at the start of the buffer. Returns what tn_derp_frame_split said of what is behind them: 0, more
 * bytes are needed, or negative. */
static long take_whole(struct tn_derp_client *c, uint64_t now_us)
{
    uint64_t mine = c->epoch;
    struct run r = {.len = 0};
    size_t at = 0;
    long used = 0;
    while (c->epoch == mine) {
        struct tn_derp_frame f;
        used = tn_derp_frame_split(tn_buf_data(&c->in) + at, tn_buf_len(&c->in) - at, TN_DERP_BUFFERED_MAX, &f);
        if (used <= 0) break;
        on_frame(c, &r, &f, now_us);
        at += (size_t)used;
    }
    if (c->epoch == mine) let_go(c, &r, now_us);
    if (c->epoch == mine) tn_buf_consume(&c->in, at);
    return used;
}

/* Works off the buffer while this connection lives. */
static void take_frames(struct tn_derp_client *c, uint64_t now_us)
{
    uint64_t mine = c->epoch;
    while (c->epoch == mine && tn_buf_len(&c->in)) {
        if (c->skip) {
            size_t n = c->skip < tn_buf_len(&c->in) ? c->skip : tn_buf_len(&c->in);
            tn_buf_consume(&c->in, n);
            c->skip -= n;
        } else if (take_whole(c, now_us) >= 0) {
            return;
        } else if (c->epoch == mine) {
            skip_frame(c, now_us);
        }
    }
}

/* The answer to the upgrade. False: more bytes are needed, or the connection is gone. */
static bool take_head(struct tn_derp_client *c, uint64_t now_us)
{
    struct tn_http1_head *head = malloc(sizeof *head); /* 64 headers: too much for a stack that others share */
    if (!head) {
        tn_derp_lost(c, TN_E_NOMEM, "", now_us);
        return false;
    }
    long used = tn_http1_parse_response(tn_buf_data(&c->in), tn_buf_len(&c->in), HEAD_MAX, head);
    int status = used > 0 ? head->status : 0;
    free(head);
    if (used == 0) return false;
    if (status != 101) {
        char text[40] = "answer to the upgrade";
        if (used > 0) snprintf(text, sizeof text, "TN_DERP_HTTP status %d", status);
        tn_derp_lost(c, used < 0 ? (int)used : TN_E_HTTP, text, now_us);
        return false;
    }
    tn_buf_consume(&c->in, (size_t)used);
    if (c->state == TN_DERP_HTTP) tn_derp_set_state(c, TN_DERP_GREETING);
    else c->greeted = true;
    return true;
}

/* After fast start an TN_DERP_HTTP answer may come all the same: 'H' starts no frame a server greets with. */
static bool answers_http(const struct tn_derp_client *c)
{
    return c->state == TN_DERP_HTTP ||
           (c->state == TN_DERP_INFO && c->fast && !c->greeted && tn_buf_len(&c->in) && tn_buf_data(&c->in)[0] == 'H');
}

void tn_derp_on_data(void *arg, struct tn_stream *s, const uint8_t *bytes, size_t len, uint64_t now_us)
{
    struct tn_derp_client *c = arg;
    uint64_t mine = c->epoch;
    while (len && c->epoch == mine) {
        size_t n = len < TN_DERP_SLICE_MAX ? len : TN_DERP_SLICE_MAX;
        int err = tn_buf_append(&c->in, bytes, n);
        if (err) {
            tn_derp_lost(c, err, "input buffer", now_us);
            return;
        }
        bytes += n;
        len -= n;
        if (answers_http(c) && !take_head(c, now_us)) continue;
        take_frames(c, now_us);
    }
}
