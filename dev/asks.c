/* PingRequests to nodes and their answers: c2n, pings, and the HEAD that proves a node alive.
 *
 * Each ask has a token in the URL the node answers at, over its own Noise connection:
 *   HEAD /machine/ping-response?id=TOKEN     the plain ping
 *   POST /machine/ping-response?id=TOKEN     a PingResponse
 *   POST /machine/c2n/TOKEN                  the raw HTTP response
 * Only the node that was asked may answer. */
#include "dev/ctl_impl.h"
#include "util/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKEN_BYTES = 16, ASK_LIFE = 30, ASKS_MAX = 64 };

struct ask {
    struct tn_list link;
    struct tn_dev_ctl *ctl;
    struct tn_dev_node *node;
    struct tn_dev_reply *reply; /* of the one who wants to know */
    char token[2 * TOKEN_BYTES + 1];
    struct tn_dev_timer expire;
};

static struct tn_dev_reply *ask_take(struct ask *a)
{
    struct tn_dev_reply *reply = a->reply;
    reply->gone = NULL;
    tn_timer_stop(&a->ctl->timers, &a->expire.t);
    tn_list_remove(&a->link);
    a->ctl->nasks--;
    free(a);
    return reply;
}

static void ask_gone(void *holder, struct tn_dev_now now) { ask_take(holder); }

static void ask_fire(struct tn_dev_timer *timer, void *engine, struct tn_dev_now now)
{
    tn_dev_answer_text(ask_take(TN_CONTAINER(timer, struct ask, expire)), 504, "the node did not answer");
}

void tn_dev_asks_drop(struct tn_dev_ctl *c, const struct tn_dev_node *n)
{
    TN_LIST_EACH (l, &c->asks) {
        struct ask *a = TN_CONTAINER(l, struct ask, link);
        if (!n || a->node == n) tn_dev_answer_text(ask_take(a), 404, "the node went away");
    }
}

static struct ask *ask_new(struct tn_dev_ctl *c, struct tn_dev_node *n, struct tn_dev_reply *reply,
                           struct tn_dev_now now)
{
    struct ask *a = c->nasks < ASKS_MAX ? calloc(1, sizeof *a) : NULL;
    if (!a) {
        tn_dev_answer_text(reply, 429, "too many questions are open");
        return NULL;
    }
    uint8_t token[TOKEN_BYTES];
    tn_rng_fill(&c->cfg.rng, token, sizeof token);
    *a = (struct ask){.ctl = c, .node = n, .reply = reply, .expire.fire = ask_fire};
    tn_hex_encode(token, sizeof token, a->token);
    tn_list_push_back(&c->asks, &a->link);
    c->nasks++;
    tn_timer_arm(&c->timers, &a->expire.t, now.us + ASK_LIFE * TN_DEV_SECOND);
    reply->holder = a;
    reply->gone = ask_gone;
    reply->drain = NULL;
    return a;
}

/* Sends {"PingRequest": {...}} with the members given (taken). */
static void send_ask(struct tn_dev_stream *s, const struct ask *a, const char *path, json_t *members,
                     struct tn_dev_now now)
{
    char url[400];
    snprintf(url, sizeof url, "%s%s%s", s->ctl->base_url, path, a->token);
    json_t *message = json_pack("{s:o}", "PingRequest", members);
    if (message) {
        json_object_set_new(members, "URL", json_string(url));
        json_object_set_new(members, "URLIsNoise", json_true());
    }
    tn_dev_stream_send(s, message, now);
    json_decref(message);
}

void tn_dev_ctl_c2n(struct tn_dev_ctl *c, struct tn_dev_node *n, const void *raw, size_t len,
                    struct tn_dev_reply *reply, struct tn_dev_now now)
{
    struct tn_dev_stream *s = tn_dev_stream_of(c, n);
    if (!s) {
        tn_dev_answer_text(reply, 404, "the node is not connected");
        return;
    }
    char *payload = malloc(TN_BASE64_LEN(len));
    struct ask *a = payload ? ask_new(c, n, reply, now) : NULL;
    if (!payload) tn_dev_answer_text(reply, 500, "out of memory");
    if (a) {
        tn_base64_encode(TN_BASE64_STD, raw, len, payload);
        send_ask(s, a, "/machine/c2n/", json_pack("{s:s, s:s}", "Types", "c2n", "Payload", payload), now);
    }
    free(payload);
}

void tn_dev_ctl_ping(struct tn_dev_ctl *c, struct tn_dev_node *n, const char *types, const char *ip,
                     struct tn_dev_reply *reply, struct tn_dev_now now)
{
    struct tn_dev_stream *s = tn_dev_stream_of(c, n);
    struct ask *a;
    if (!s) {
        tn_dev_answer_text(reply, 404, "the node is not connected");
        return;
    }
    a = ask_new(c, n, reply, now);
    if (!a) return;
    json_t *members = *types ? json_pack("{s:s, s:s}", "Types", types, "IP", ip) : json_object();
    send_ask(s, a, "/machine/ping-response?id=", members, now);
}

static struct ask *find(struct tn_dev_ctl *c, const struct tn_dev_request *req, const char *token)
{
    TN_LIST_EACH (l, &c->asks) {
        struct ask *a = TN_CONTAINER(l, struct ask, link);
        if (strcmp(a->token, token) == 0 && memcmp(&a->node->machine, &req->machine, sizeof req->machine) == 0)
            return a;
    }
    return NULL;
}

bool tn_dev_ask_answered(struct tn_dev_ctl *c, const struct tn_dev_request *req, struct tn_dev_reply *reply,
                         struct tn_dev_now now)
{
    static const char ping[] = "/machine/ping-response?id=", c2n[] = "/machine/c2n/";
    bool is_c2n = strncmp(req->path, c2n, sizeof c2n - 1) == 0;
    if (!is_c2n && strncmp(req->path, ping, sizeof ping - 1) != 0) return false;
    bool head = strcmp(req->method, "HEAD") == 0;
    if (strcmp(req->method, "POST") != 0 && (is_c2n || !head)) {
        tn_dev_answer_text(reply, 405, "method not allowed");
        return true;
    }
    struct ask *a = find(c, req, req->path + (is_c2n ? sizeof c2n : sizeof ping) - 1);
    if (!a) {
        tn_dev_answer_text(reply, 404, "nothing was asked");
        return true;
    }
    struct tn_dev_reply *to = ask_take(a);
    to->ops->begin(to, 200, is_c2n ? "message/http" : "application/json");
    if (to->ops->write(to, req->body, req->len) == 0) to->ops->end(to);
    else to->ops->abort(to);
    tn_dev_answer_text(reply, 200, "");
    return true;
}
