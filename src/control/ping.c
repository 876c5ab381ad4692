/* What the server asks of us in a map response: pings and control-to-node requests (controlclient/direct.go
 * answerPing, feature/c2n).
 *
 *   Types ""            HEAD the URL: it proves that we hear the stream (headscale picks primary routers by it)
 *   "c2n"               run the HTTP request in Payload, POST the raw response to the URL, always over Noise
 *   "disco,TSMP,..."    the owner pings IP; each result is POSTed as a PingResponse
 *
 * Each distinct URL is acted on once: a server repeats requests it got no answer for. */
#include "control/cjson.h"
#include "control/client.h"
#include "control/fetch.h"
#include "util/err.h"
#include "util/text.h"
#include "wire/http1.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    C2N_HEAD_MAX = 16 * 1024,
    C2N_PAYLOAD_MAX = 1 << 20,
    C2N_ANSWER_MAX = 1 << 20, /* servers bound bodies there */
    REPLY_BODY_MAX = 4096,    /* of the server's answer to our answer: ignored */
};
#define FETCH_TIMEOUT_US TN_CLIENT_SECONDS(15)
#define PING_LIFE_US TN_CLIENT_SECONDS(20) /* 10 s for a ping, and time to answer */

static bool seen_before(struct tn_control *c, const char *url)
{
    uint64_t hash = tn_siphash(&c->hash, url, strlen(url));
    for (size_t i = 0; i < TN_CLIENT_URLS; i++)
        if (c->seen_urls[i] == hash) return true;
    c->seen_urls[c->next_url++ % TN_CLIENT_URLS] = hash;
    return false;
}

/* --- answering --- */

static const struct tn_h2_events ignore_events;

static void over_noise(struct tn_control *c, const char *method, const char *url, const char *type, const void *body,
                       size_t len)
{
    struct tn_weburl u;
    struct tn_h2_req *req;
    if (tn_weburl_parse(url, &u) != 0) return;
    struct tn_h2_spec spec = {
        .method = method,
        .path = u.path,
        .authority = u.authority,
        .content_type = type,
        .body = body,
        .body_len = len,
    };
    int err = tn_link_request(c->link, &spec, &ignore_events, c, &req);
    if (err) tn_logf(c->config.log, TN_LOG_DEBUG, "control", "ping not answered: %s", tn_err_text(err));
}

static void fetch_done(void *arg, int err, int status, const uint8_t *body, size_t len, uint64_t now_us)
{
    struct tn_fetch **slot = arg;
    tn_fetch_free(*slot);
    *slot = NULL;
}

static void over_http(struct tn_control *c, const char *method, const char *url, const void *body, size_t len)
{
    struct tn_fetch_spec spec = {
        .dialer = c->config.dialer,
        .method = method,
        .body = body,
        .body_len = len,
        .max_body = REPLY_BODY_MAX,
        .timeout_us = FETCH_TIMEOUT_US,
    };
    if (tn_weburl_parse(url, &spec.url) != 0) return;
    for (size_t i = 0; i < TN_CLIENT_FETCHES; i++) {
        if (c->fetches[i]) continue;
        if (tn_fetch_start(&spec, fetch_done, &c->fetches[i], c->now_us, &c->fetches[i]) != 0) c->fetches[i] = NULL;
        return;
    }
}

/* --- control to node --- */

static int respond(struct tn_buf *out, int status, const char *reason, const void *body, size_t len)
{
    static const char type[] = "text/plain; charset=utf-8";
    int err = tn_buf_printf(out, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n", status, reason,
                            type, len);
    return err ? err : tn_buf_append(out, body, len);
}

static bool path_is(const char *target, const char *path)
{
    size_t len = strcspn(target, "?");
    return len == strlen(path) && memcmp(target, path, len) == 0;
}

static void run_c2n(struct tn_control *c, const char *method, const char *target, const void *body, size_t len,
                    struct tn_buf *out)
{
    static const char unknown[] = "unknown c2n path\n";
    if (path_is(target, "/echo")) {
        respond(out, 200, "OK", body, len);
    } else if (!c->config.cb.c2n || !c->config.cb.c2n(c->config.ctx, method, target, body, len, out)) {
        tn_buf_fini(out);
        respond(out, 400, "Bad Request", unknown, sizeof unknown - 1);
    }
}

/* A copied token or target with a NUL behind it. */
static bool copy_view(char *out, size_t cap, const char *view, size_t len)
{
    if (len >= cap) return false;
    memcpy(out, view, len);
    out[len] = '\0';
    return true;
}

static void c2n(struct tn_control *c, const char *url, const uint8_t *payload, size_t len)
{
    struct tn_http1_head h;
    struct tn_buf out;
    char method[16], target[TN_WEBURL_PATH];
    long head = tn_http1_parse_request(payload, len, C2N_HEAD_MAX, &h);
    if (head <= 0 || !copy_view(method, sizeof method, h.method, h.method_len) ||
        !copy_view(target, sizeof target, h.target, h.target_len)) {
        tn_logf(c->config.log, TN_LOG_DEBUG, "control", "c2n request is not HTTP");
        return;
    }
    int64_t body = tn_http1_content_length(&h);
    size_t have = len - (size_t)head;
    if (body < -1 || tn_http1_is_chunked(&h) || (body > 0 && (uint64_t)body > have)) return;
    tn_buf_init(&out, C2N_ANSWER_MAX);
    run_c2n(c, method, target, payload + head, body > 0 ? (size_t)body : 0, &out);
    over_noise(c, "POST", url, NULL, tn_buf_data(&out), tn_buf_len(&out));
    tn_buf_fini(&out);
}

static void handle_c2n(struct tn_control *c, const char *url, const json_t *request)
{
    const char *text = tn_cjson_string(request, "Payload");
    size_t len = text ? strlen(text) : 0, cap = len / 4 * 3;
    if (!text || cap == 0 || cap > C2N_PAYLOAD_MAX) return;
    uint8_t *payload = malloc(cap);
    if (!payload) return;
    long n = tn_base64_decode(TN_BASE64_STD, text, len, payload, cap);
    if (n > 0) c2n(c, url, payload, (size_t)n);
    free(payload);
}

/* --- pings the owner does --- */

static struct tn_ping_slot *free_slot(struct tn_control *c)
{
    for (size_t i = 0; i < TN_CLIENT_PINGS; i++)
        if (c->pings[i].token == 0) return &c->pings[i];
    return NULL;
}

static void release(struct tn_ping_slot *slot)
{
    free(slot->url);
    *slot = (struct tn_ping_slot){0};
}

static void handle_peer_ping(struct tn_control *c, const char *url, const char *types, bool noise,
                             const json_t *request)
{
    struct tn_ip ip;
    const char *text = tn_cjson_string(request, "IP");
    struct tn_ping_slot *slot = free_slot(c);
    if (!c->config.cb.ping || !slot || !text || tn_ip_parse(text, &ip) != 0) return;
    char *copy = strdup(url);
    if (!copy) return;
    *slot = (struct tn_ping_slot){++c->next_token, copy, noise, ip, c->now_us + PING_LIFE_US};
    c->config.cb.ping(c->config.ctx, types, &ip, slot->token);
}

void tn_ping_handle(struct tn_control *c, const json_t *request)
{
    const char *url = tn_cjson_string(request, "URL"), *types = tn_cjson_string(request, "Types");
    bool noise = tn_cjson_bool(request, "URLIsNoise");
    if (!url || !*url || seen_before(c, url)) return;
    if (!types || !*types) {
        if (noise) over_noise(c, "HEAD", url, NULL, NULL, 0);
        else over_http(c, "HEAD", url, NULL, 0);
    } else if (strcmp(types, "c2n") == 0) {
        handle_c2n(c, url, request);
    } else {
        handle_peer_ping(c, url, types, noise, request);
    }
}

static json_t *make_answer(const struct tn_ping_slot *slot, const char *type, int err, double latency_s,
                           const char *endpoint, int derp_region)
{
    char ip[TN_IP_STRLEN];
    json_t *o = json_object();
    tn_ip_format(&slot->ip, ip);
    json_object_set_new(o, "Type", json_string(type));
    json_object_set_new(o, "IP", json_string(ip));
    json_object_set_new(o, "NodeIP", json_string(ip));
    if (err) json_object_set_new(o, "Err", json_string(tn_err_text(err)));
    else json_object_set_new(o, "LatencySeconds", json_real(latency_s));
    if (endpoint && *endpoint) json_object_set_new(o, "Endpoint", json_string(endpoint));
    if (derp_region) json_object_set_new(o, "DERPRegionID", json_integer(derp_region));
    return o;
}

/* A request may name several types: the slot lives on until its time is over. */
void tn_control_ping_result(struct tn_control *c, uint64_t token, const char *type, int err_or_0, double latency_s,
                            const char *endpoint, int derp_region)
{
    size_t len;
    for (size_t i = 0; i < TN_CLIENT_PINGS; i++) {
        struct tn_ping_slot *slot = &c->pings[i];
        if (token == 0 || slot->token != token) continue;
        json_t *answer = make_answer(slot, type, err_or_0, latency_s, endpoint, derp_region);
        char *text = tn_cjson_dump(answer, &len);
        json_decref(answer);
        if (text && slot->noise) over_noise(c, "POST", slot->url, "application/json", text, len);
        else if (text) over_http(c, "POST", slot->url, text, len);
        free(text);
        tn_link_flush(c->link, c->now_us);
        return;
    }
}

void tn_ping_fini(struct tn_control *c)
{
    for (size_t i = 0; i < TN_CLIENT_PINGS; i++) release(&c->pings[i]);
    for (size_t i = 0; i < TN_CLIENT_FETCHES; i++) {
        tn_fetch_free(c->fetches[i]);
        c->fetches[i] = NULL;
    }
}

void tn_ping_timeout(struct tn_control *c)
{
    for (size_t i = 0; i < TN_CLIENT_PINGS; i++)
        if (c->pings[i].token && c->now_us >= c->pings[i].expires_us) release(&c->pings[i]);
    for (size_t i = 0; i < TN_CLIENT_FETCHES; i++)
        if (c->fetches[i]) tn_fetch_timeout(c->fetches[i], c->now_us);
}

uint64_t tn_ping_next(const struct tn_control *c)
{
    uint64_t at = TN_NEVER;
    for (size_t i = 0; i < TN_CLIENT_PINGS; i++)
        if (c->pings[i].token && c->pings[i].expires_us < at) at = c->pings[i].expires_us;
    for (size_t i = 0; i < TN_CLIENT_FETCHES; i++)
        if (c->fetches[i] && tn_fetch_next_deadline(c->fetches[i]) < at) at = tn_fetch_next_deadline(c->fetches[i]);
    return at;
}
