/* Registering a node key (controlclient/direct.go doLogin and TryLogout, auto.go authRoutine).
 *
 * An attempt sends one register request with the trial key. Its answer is judged in this order: HTTP 429 (wait as
 * told), other statuses, Error (the server said no), NodeKeySignature, NodeKeyExpired (make a new key, once),
 * AuthURL (show it, then ask again with Followup, same key; the server answers when the person is done), and what
 * is left is success.
 *
 * The auth key is only sent when the server demands a login: with a first key at once, with a saved key after the
 * server answered with a URL, an expired key or an error. A key is on disk before it is sent, because the request
 * may consume a single-use auth key. During a rotation (a new key while another is in use) the map poll goes on
 * with the old one. */
#include "control/cjson.h"
#include "control/client.h"
#include "control/when.h"
#include "util/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    RETRY_AFTER_MAX_S = 3600, /* beyond an hour the header is taken for a mistake, as the Go client does */
    COST_MAX = 16 << 20,
    LOGOUT_EXPIRY = 123,      /* Unix time; any past time means logout, this is the one everybody sends */
};
#define REQUEST_TIMEOUT_US TN_CLIENT_SECONDS(60)
#define LOGOUT_TIMEOUT_US TN_CLIENT_SECONDS(5)

static bool is_zero(const struct tn_node_private *k) { return tn_key_is_zero(k->b); }
static bool same_key(const struct tn_node_private *a, const struct tn_node_private *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

static void set_string(char **slot, const char *text)
{
    char *copy = text ? strdup(text) : NULL;
    free(*slot);
    *slot = copy;
}

static bool have_auth_key(const struct tn_control *c) { return tn_secret_len(c->config.auth_key) > 0; }

void tn_login_init(struct tn_control *c)
{
    struct tn_login *l = &c->login;
    tn_buf_init(&l->body, TN_CLIENT_BODY_MAX);
    tn_buf_init(&c->logout.body, TN_CLIENT_BODY_MAX);
    l->deadline_us = c->logout.deadline_us = TN_NEVER;
    c->current = c->saved.node;
    if (is_zero(&c->saved.old_node) || is_zero(&c->saved.node)) return;
    l->trial = c->saved.node; /* a rotation was cut off: finish it, or fall back */
    c->current = c->saved.old_node;
    l->try_old = true;
}

void tn_login_fini(struct tn_control *c)
{
    struct tn_login *l = &c->login;
    free(l->followup);
    free(l->told_url);
    tn_buf_fini(&l->body);
    tn_buf_fini(&c->logout.body);
    tn_wipe(&l->trial, sizeof l->trial);
}

static void drop_request(struct tn_control *c)
{
    if (c->login.req) tn_link_cancel(c->link, c->login.req);
    c->login.req = NULL;
    c->login.deadline_us = TN_NEVER;
    tn_buf_fini(&c->login.body);
}

static void want(struct tn_control *c)
{
    struct tn_login *l = &c->login;
    drop_request(c);
    set_string(&l->followup, NULL);
    l->wanted = true;
    l->failed = l->renewing = false;
    l->regens = 0;
    l->at_us = c->now_us;
}

void tn_login_begin(struct tn_control *c, bool regen)
{
    want(c);
    c->login.interactive = false;
    c->login.regen = regen;
    /* Without any key, and for one that is known to have expired, the demand for a login is certain. */
    c->login.with_auth = have_auth_key(c) && (regen || (is_zero(&c->current) && is_zero(&c->login.trial)));
}

void tn_login_interactive(struct tn_control *c)
{
    want(c);
    c->login.interactive = true;
    c->login.with_auth = false;
    c->login.regen = !is_zero(&c->current);
    c->login.try_old = false;
    set_string(&c->login.told_url, NULL);
}

/* --- ends of an attempt --- */

static void retry_later(struct tn_control *c, uint64_t wait_us) { c->login.at_us = c->now_us + wait_us; }

static void back_off(struct tn_control *c) { retry_later(c, tn_backoff_next(&c->login.backoff, &c->config.rng)); }

/* Gives the trial key of a rotation up; a first key is kept for the next try. */
static void drop_trial(struct tn_control *c)
{
    if (is_zero(&c->current)) return;
    tn_wipe(&c->login.trial, sizeof c->login.trial);
    tn_client_save(c, &c->current, &(struct tn_node_private){0});
}

void tn_login_cancel(struct tn_control *c)
{
    drop_request(c);
    set_string(&c->login.followup, NULL);
    c->login.wanted = c->login.regen = c->login.renewing = false;
    drop_trial(c);
}

static void fail_for_good(struct tn_control *c, const char *text)
{
    struct tn_login *l = &c->login;
    tn_logf(c->config.log, TN_LOG_WARN, "control", "login failed: %s", text);
    l->wanted = false;
    l->failed = true;
    set_string(&l->followup, NULL);
    drop_trial(c);
    tn_client_say(c, "%s", text);
}

static void succeed(struct tn_control *c)
{
    struct tn_login *l = &c->login;
    bool new_key = !same_key(&c->current, &l->trial);
    int err = tn_client_save(c, &l->trial, &(struct tn_node_private){0});
    if (err) {
        fail_for_good(c, "the node's keys could not be saved");
        return;
    }
    c->current = l->trial;
    tn_wipe(&l->trial, sizeof l->trial);
    l->wanted = l->interactive = l->with_auth = l->try_old = false;
    l->regens = 0;
    set_string(&l->followup, NULL);
    set_string(&l->told_url, NULL);
    tn_backoff_reset(&l->backoff);
    tn_logf(c->config.log, TN_LOG_INFO, "control", "registered%s", new_key ? " with a new node key" : "");
    if (new_key) tn_poll_cancel(c);
    c->logged_in = true;
    if (!c->poll.req) c->poll.at_us = c->poll.at_us > c->now_us && !new_key ? c->poll.at_us : c->now_us;
    tn_client_say(c, "%s", "");
    tn_update_want(c);
}

/* The server won't have this key as it is. True when another way was found that needs no person. */
static bool another_way(struct tn_control *c)
{
    struct tn_login *l = &c->login;
    if (l->interactive) return false;
    if (l->try_old) {
        l->try_old = false;
        l->trial = (struct tn_node_private){0};
        return true;
    }
    if (l->sent_auth || !have_auth_key(c)) return false;
    l->with_auth = true;
    return true;
}

static void on_expired(struct tn_control *c)
{
    struct tn_login *l = &c->login;
    if (l->try_old && another_way(c)) return;
    if (l->regens > 0) {
        tn_client_say(c, "the server calls a new node key expired");
        back_off(c);
        return;
    }
    l->regens++;
    l->regen = true;
    l->with_auth = have_auth_key(c) && !l->interactive;
}

static void on_auth_url(struct tn_control *c, const char *url)
{
    struct tn_login *l = &c->login;
    bool again = l->followup && strcmp(l->followup, url) == 0;
    if (!l->followup && another_way(c)) return;
    set_string(&l->followup, url);
    if (again) back_off(c); /* a server that does not wait: no busy loop */
    else tn_backoff_reset(&l->backoff);
    tn_client_say(c, "waiting for a login at the URL shown");
}

/* --- the answer --- */

static uint64_t retry_after(struct tn_control *c, const char *value)
{
    int64_t seconds = 0, at;
    char *end = NULL;
    long number = value ? strtol(value, &end, 10) : 0;
    if (value && *value && *end == '\0') seconds = number;
    else if (value && tn_when_parse_http(value, &at) == 0) seconds = at - tn_client_wallclock(c);
    if (seconds > 0 && seconds <= RETRY_AFTER_MAX_S) return TN_CLIENT_SECONDS(seconds);
    return TN_CLIENT_SECONDS(5) + tn_rng_below(&c->config.rng, TN_CLIENT_SECONDS(5));
}

static void judge_status(struct tn_control *c, const char *words)
{
    struct tn_login *l = &c->login;
    if (l->status == 429) {
        tn_client_say(c, "the server limits the rate of registrations; next try in %llu s",
                      (unsigned long long)(l->retry_us / 1000000));
        retry_later(c, l->retry_us);
        return;
    }
    tn_client_say(c, "register: HTTP %d: %s", l->status, words);
    if (l->followup) { /* consumed or forgotten there: ask afresh */
        set_string(&l->followup, NULL);
        back_off(c);
    } else if ((l->status == 401 || l->status == 403) && (l->sent_auth || !another_way(c))) {
        fail_for_good(c, c->text);
    } else {
        back_off(c);
    }
}

static void judge_answer(struct tn_control *c, const json_t *answer)
{
    const char *error = tn_cjson_string(answer, "Error"), *url = tn_cjson_string(answer, "AuthURL");
    const char *signature = tn_cjson_string(answer, "NodeKeySignature");
    if (error && *error) {
        if (!another_way(c)) fail_for_good(c, error);
    } else if (signature && *signature) {
        fail_for_good(c, "tailnet lock: a new node key would have to be signed, which this node can't do");
    } else if (tn_cjson_bool(answer, "NodeKeyExpired")) {
        on_expired(c);
    } else if (url && *url) {
        on_auth_url(c, url);
    } else {
        succeed(c);
    }
}

/* The beginning of an error body, for a log line. */
static void words_of(const struct tn_buf *body, char out[160])
{
    size_t len = tn_buf_len(body) < 159 ? tn_buf_len(body) : 159;
    if (len) memcpy(out, tn_buf_data(body), len);
    while (len > 0 && (unsigned char)out[len - 1] <= ' ') len--;
    out[len] = '\0';
}

static void answered(struct tn_control *c, int err)
{
    struct tn_login *l = &c->login;
    json_t *answer = NULL;
    if (!err && l->status != 200) {
        char words[160];
        words_of(&l->body, words);
        judge_status(c, words);
        return;
    }
    if (!err) err = tn_cjson_parse(tn_buf_data(&l->body), tn_buf_len(&l->body), COST_MAX, &answer);
    if (!err && !json_is_object(answer)) err = TN_E_MALFORMED;
    if (err) {
        tn_client_say(c, "register: %s", tn_err_text(err));
        back_off(c);
    } else {
        judge_answer(c, answer);
    }
    json_decref(answer);
}

static void on_head(void *arg, int status, const char *retry)
{
    struct tn_control *c = arg;
    tn_client_enter(c, tn_link_now(c->link));
    c->login.status = status;
    if (status == 429) c->login.retry_us = retry_after(c, retry);
    tn_client_leave(c);
}

static int on_data(void *arg, const uint8_t *bytes, size_t len)
{
    struct tn_control *c = arg;
    return tn_buf_append(&c->login.body, bytes, len);
}

static void on_done(void *arg, int err)
{
    struct tn_control *c = arg;
    tn_client_enter(c, tn_link_now(c->link));
    c->login.req = NULL;
    c->login.deadline_us = TN_NEVER;
    answered(c, err);
    tn_buf_fini(&c->login.body);
    tn_client_leave(c);
}

static const struct tn_h2_events events = {on_head, on_data, on_done};

/* --- the request --- */

/* A lock-wrapped auth key is "<key>--TL<signature>-<key>": only its first part is the server's. */
static size_t auth_key_len(const char *key)
{
    const char *wrapped = strstr(key, "--TL");
    return wrapped ? (size_t)(wrapped - key) : strlen(key);
}

static json_t *make_request(struct tn_control *c, const struct tn_node_private *key, int64_t expiry)
{
    char when[TN_WHEN_STRLEN];
    json_t *o = json_object();
    const struct tn_node_private none = {0};
    bool rotation = !is_zero(&c->current) && !same_key(&c->current, key);
    json_object_set_new(o, "Version", json_integer(TN_CAPVER));
    tn_client_set_key(o, "NodeKey", key);
    tn_client_set_key(o, "OldNodeKey", rotation ? &c->current : &none);
    json_object_set_new(o, "Expiry", json_string(tn_when_format(expiry, when)));
    json_object_set_new(o, "Followup", json_string(c->login.followup ? c->login.followup : ""));
    json_object_set_new(o, "Hostinfo", tn_selfinfo_hostinfo(&c->self));
    if (c->config.ephemeral) json_object_set_new(o, "Ephemeral", json_true());
    return o;
}

/* Adds the auth key, posts, and wipes the JSON copy of it. Takes the request's reference. */
static int post(struct tn_control *c, json_t *request, bool with_auth, const struct tn_node_private *lb0,
                const struct tn_node_private *lb1, const struct tn_h2_events *on, struct tn_h2_req **out)
{
    json_t *secret = NULL;
    if (with_auth) {
        const char *key = tn_secret_bytes(c->config.auth_key);
        secret = json_stringn(key, auth_key_len(key));
        json_object_set_new(request, "Auth", json_pack("{s:O}", "AuthKey", secret));
    }
    int err = tn_client_post(c, "/machine/register", request, lb0, lb1, on, out);
    if (secret) tn_wipe((char *)(uintptr_t)json_string_value(secret), json_string_length(secret));
    json_decref(secret);
    return err;
}

/* Which key to try, saved before it is used. */
static int choose_key(struct tn_control *c)
{
    struct tn_login *l = &c->login;
    const struct tn_node_private none = {0};
    if (!l->followup && (l->regen || (is_zero(&l->trial) && is_zero(&c->current)))) {
        tn_node_private_generate(&l->trial, &c->config.rng);
        l->regen = false;
    } else if (is_zero(&l->trial)) {
        l->trial = c->current;
    }
    bool rotation = !is_zero(&c->current) && !same_key(&c->current, &l->trial);
    return tn_client_save(c, &l->trial, rotation ? &c->current : &none);
}

static void send_request(struct tn_control *c)
{
    struct tn_login *l = &c->login;
    int err = choose_key(c);
    if (err) {
        fail_for_good(c, "the node's keys could not be saved");
        return;
    }
    json_t *request = make_request(c, &l->trial, 0);
    bool rotation = !is_zero(&c->current) && !same_key(&c->current, &l->trial);
    l->sent_auth = l->with_auth;
    l->status = 0;
    tn_logf(c->config.log, TN_LOG_INFO, "control", "registering%s%s", rotation ? " a new node key" : "",
            l->followup ? ", waiting for the person" : "");
    err = post(c, request, l->with_auth, rotation ? &c->current : &l->trial, rotation ? &l->trial : NULL, &events,
               &l->req);
    l->deadline_us = err || l->followup ? TN_NEVER : c->now_us + REQUEST_TIMEOUT_US;
    if (err) {
        l->req = NULL;
        back_off(c);
    }
}

void tn_login_run(struct tn_control *c)
{
    struct tn_login *l = &c->login;
    if (l->wanted && !l->req && c->now_us >= l->at_us && tn_link_up(c->link)) send_request(c);
}

void tn_login_timeout(struct tn_control *c)
{
    if (c->now_us < c->login.deadline_us) return;
    drop_request(c);
    tn_client_say(c, "register: no answer");
    back_off(c);
}

uint64_t tn_login_next(const struct tn_control *c)
{
    const struct tn_login *l = &c->login;
    if (l->req) return l->deadline_us;
    return l->wanted ? l->at_us : TN_NEVER;
}

/* --- logout --- */

static void logout_on_head(void *arg, int status, const char *retry)
{
    struct tn_control *c = arg;
    c->logout.status = status;
}

static int logout_on_data(void *arg, const uint8_t *bytes, size_t len)
{
    struct tn_control *c = arg;
    return tn_buf_append(&c->logout.body, bytes, len);
}

static int logout_result(struct tn_control *c)
{
    json_t *answer;
    int err = c->logout.status == 200 ? 0 : TN_E_HTTP;
    if (!err) err = tn_cjson_parse(tn_buf_data(&c->logout.body), tn_buf_len(&c->logout.body), COST_MAX, &answer);
    if (err) return err;
    const char *error = tn_cjson_string(answer, "Error");
    if (error && *error) err = TN_E_REFUSED;
    json_decref(answer);
    return err;
}

static void logout_on_done(void *arg, int err)
{
    struct tn_control *c = arg;
    tn_client_enter(c, tn_link_now(c->link));
    c->logout.req = NULL;
    c->logout.err = err ? err : logout_result(c);
    bool again = c->logout.err == TN_E_REFUSED && have_auth_key(c) && !c->logout.with_auth;
    if (again) c->logout.with_auth = true;
    else c->logout.answered = true;
    tn_client_leave(c);
}

static const struct tn_h2_events logout_events = {logout_on_head, logout_on_data, logout_on_done};

void tn_logout_begin(struct tn_control *c, void (*done)(void *ctx, int err), void *ctx)
{
    tn_login_cancel(c);
    tn_poll_cancel(c);
    tn_update_cancel(c);
    c->logged_in = false;
    c->logout.under_way = true;
    c->logout.answered = is_zero(&c->current); /* nothing the server would know */
    c->logout.with_auth = false;
    c->logout.err = 0;
    c->logout.done = done;
    c->logout.ctx = ctx;
    c->logout.deadline_us = c->now_us + LOGOUT_TIMEOUT_US;
}

static void logout_finish(struct tn_control *c)
{
    struct tn_logout *o = &c->logout;
    const struct tn_node_private none = {0};
    struct tn_netmap_sink sink = tn_client_sink(c);
    if (o->req) tn_link_cancel(c->link, o->req);
    o->req = NULL;
    o->under_way = false;
    o->deadline_us = TN_NEVER;
    tn_buf_fini(&o->body);
    tn_wipe(&c->current, sizeof c->current);
    tn_wipe(&c->login.trial, sizeof c->login.trial);
    c->login.try_old = false;
    tn_client_save(c, &none, &none);
    tn_netmap_clear(c->netmap, &sink);
    c->netmap_changes |= TN_NETMAP_SELF | TN_NETMAP_PEERS | TN_NETMAP_DERP | TN_NETMAP_FILTER | TN_NETMAP_DNS;
    tn_link_close(c->link, TN_E_CANCELED, "logged out", c->now_us);
    tn_logf(c->config.log, TN_LOG_INFO, "control", "logged out%s%s", o->err ? ": " : "",
            o->err ? tn_err_text(o->err) : "");
    tn_client_say(c, "logged out");
    if (o->done) o->done(o->ctx, o->err);
}

void tn_logout_run(struct tn_control *c)
{
    struct tn_logout *o = &c->logout;
    if (!o->under_way) return;
    if (o->answered) {
        logout_finish(c);
        return;
    }
    if (o->req || !tn_link_up(c->link)) return;
    tn_buf_fini(&o->body);
    o->status = 0;
    json_t *request = make_request(c, &c->current, LOGOUT_EXPIRY);
    if (post(c, request, o->with_auth, &c->current, NULL, &logout_events, &o->req) != 0) o->req = NULL;
}

void tn_logout_timeout(struct tn_control *c)
{
    if (!c->logout.under_way || c->now_us < c->logout.deadline_us) return;
    c->logout.err = TN_E_TIMEDOUT;
    logout_finish(c);
}
