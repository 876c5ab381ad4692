/* The map poll: one long request whose answer is a stream of map responses (controlclient/direct.go
 * sendMapRequest).
 *
 * Ends of a stream are all alike: wait by the backoff and ask again; only a real response (not a keepalive) resets
 * the backoff, so a server that accepts and then fails is not hammered. A 404 means that the server does not know
 * our key: log in again. Nothing heard for 120 s ends the stream too; servers send keepalives each minute. */
#include "control/cjson.h"
#include "control/client.h"
#include "control/when.h"
#include "util/cursor.h"
#include "util/err.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WATCHDOG_US TN_CLIENT_SECONDS(120)
enum {
    SLEEP_MAX_S = 300,      /* what a server may ask for in Debug.SleepSeconds counts up to here */
    RENEWAL_WAIT_S = 60,    /* times the square of renewals in vain */
    RENEWAL_WAIT_MAX_S = 3600,
    CLOCK_SLACK_S = 60,     /* smaller differences of clocks are ignored (ipnlocal/expiry.go minClockDelta) */
};

static void reset(struct tn_control *c)
{
    struct tn_poll *p = &c->poll;
    p->req = NULL;
    p->merged = false;
    p->sleep_us = 0;
    p->watchdog_us = TN_NEVER;
    tn_mapframe_fini(&p->frames);
    tn_buf_fini(&p->held);
}

void tn_poll_cancel(struct tn_control *c)
{
    if (c->poll.req) tn_link_cancel(c->link, c->poll.req);
    reset(c);
}

static void failed(struct tn_control *c)
{
    c->poll.at_us = c->now_us + tn_backoff_next(&c->poll.backoff, &c->config.rng);
}

/* --- one response --- */

/* A server whose clock is out of its mind (testcontrol says 2020) leaves us with our own. */
static void take_control_time(struct tn_control *c, const json_t *response)
{
    int64_t at;
    const char *text = tn_cjson_string(response, "ControlTime");
    if (!text || tn_when_parse(text, &at) != 0) return;
    int64_t delta = at - tn_client_wallclock(c);
    bool matters = at >= TN_WHEN_SANE && (delta > CLOCK_SLACK_S || delta < -CLOCK_SLACK_S);
    c->clock_delta_s = matters ? delta : 0;
}

/* Once per distinct URL. */
static void take_browser_url(struct tn_control *c, const json_t *response)
{
    const char *url = tn_cjson_string(response, "PopBrowserURL");
    if (!url || !*url || (c->popped_url && strcmp(c->popped_url, url) == 0)) return;
    free(c->popped_url);
    c->popped_url = strdup(url);
    if (c->config.cb.auth_url) c->config.cb.auth_url(c->config.ctx, url);
}

static void take_debug(struct tn_control *c, const json_t *response)
{
    const json_t *debug = tn_cjson_object(response, "Debug");
    double seconds = json_number_value(tn_cjson_get(debug, "SleepSeconds"));
    if (tn_cjson_get(debug, "Exit"))
        tn_logf(c->config.log, TN_LOG_WARN, "control", "the server asked this process to exit: ignored");
    if (!(seconds > 0)) return;
    if (seconds > SLEEP_MAX_S) seconds = SLEEP_MAX_S;
    tn_logf(c->config.log, TN_LOG_INFO, "control", "the server asked for a pause of %.1f s", seconds);
    c->poll.sleep_us = c->now_us + (uint64_t)(seconds * 1e6);
}

/* Our own key ran out: a new one is needed, whatever is under way already. A server that calls the new one expired
 * too gets ever fewer of them. */
static void check_self(struct tn_control *c)
{
    const struct tn_netnode *self = tn_netmap_self(c->netmap);
    struct tn_login *l = &c->login;
    if (self && !self->expired) {
        l->renewals = 0;
        if (!l->wanted || !l->renewing) return;
        tn_login_cancel(c);
        tn_client_say(c, "%s", "");
    }
    if (!self || !self->expired || l->wanted || l->failed || c->logout.under_way) return;
    uint64_t wait_s = RENEWAL_WAIT_S * (uint64_t)l->renewals * l->renewals;
    if (wait_s > RENEWAL_WAIT_MAX_S) wait_s = RENEWAL_WAIT_MAX_S;
    else l->renewals++;
    tn_logf(c->config.log, TN_LOG_WARN, "control", "this node's key has expired");
    tn_client_say(c, "this node's key has expired");
    tn_login_begin(c, true);
    l->renewing = true;
    l->at_us = c->now_us + TN_CLIENT_SECONDS(wait_s);
}

static int merge(struct tn_control *c, struct tn_netmap_message *message)
{
    struct tn_netmap_sink sink = tn_client_sink(c);
    int64_t wall = tn_client_wallclock(c), control = tn_client_control_time(c);
    unsigned changes;
    int err = tn_netmap_merge(c->netmap, message, wall, control, &sink, &changes);
    c->netmap_changes |= changes;
    if (err) return err;
    if ((changes & TN_NETMAP_OTHER) && tn_netmap_tailnet_lock(c->netmap))
        tn_logf(c->config.log, TN_LOG_WARN, "control",
                "tailnet lock is on: signatures of peers' keys are not checked here");
    if (!c->poll.merged) tn_client_say(c, "%s", "");
    c->poll.merged = true;
    c->expiry_us = c->now_us; /* looked at again on the way out */
    tn_backoff_reset(&c->poll.backoff);
    check_self(c);
    return 0;
}

/* PingRequest, PopBrowserURL and ControlTime count in keepalives too. */
static int take_response(struct tn_control *c, struct tn_netmap_message *message)
{
    const json_t *response = message->rest;
    if (!json_is_object(response)) return TN_E_MALFORMED;
    take_control_time(c, response);
    take_browser_url(c, response);
    const json_t *ping = tn_cjson_object(response, "PingRequest");
    if (ping) tn_ping_handle(c, ping);
    if (tn_cjson_bool(response, "KeepAlive")) return 0;
    int err = merge(c, message);
    if (!err) take_debug(c, response);
    return err;
}

static int hold(struct tn_poll *p, const uint8_t *payload, size_t len)
{
    uint8_t size[4];
    tn_put_le32(size, (uint32_t)len);
    int err = tn_buf_append(&p->held, size, sizeof size);
    return err ? err : tn_buf_append(&p->held, payload, len);
}

static int on_message(void *arg, const uint8_t *payload, size_t len)
{
    struct tn_control *c = arg;
    struct tn_poll *p = &c->poll;
    struct tn_netmap_message message;
    if (!p->req) return TN_E_CANCELED; /* a callback of an earlier message ended the poll */
    p->watchdog_us = c->now_us + WATCHDOG_US;
    if (p->sleep_us) return hold(p, payload, len);
    int err = tn_mapframe_decode(payload, len, true, &message);
    if (err) return err;
    err = take_response(c, &message);
    tn_netmap_message_fini(&message);
    return err;
}

/* --- the request --- */

static void on_head(void *arg, int status, const char *retry)
{
    struct tn_control *c = arg;
    tn_client_enter(c, tn_link_now(c->link));
    c->poll.status = status;
    c->poll.watchdog_us = c->now_us + WATCHDOG_US;
    tn_client_leave(c);
}

static int on_data(void *arg, const uint8_t *bytes, size_t len)
{
    struct tn_control *c = arg;
    int err = 0;
    tn_client_enter(c, tn_link_now(c->link));
    if (c->poll.status == 200) err = tn_mapframe_input(&c->poll.frames, bytes, len, on_message, c);
    if (err) tn_logf(c->config.log, TN_LOG_WARN, "control", "map response not usable: %s", tn_err_text(err));
    tn_client_leave(c);
    return err;
}

/* The server forgot us. The register request that follows finds out what it wants; it waits as long as the poll
 * would. */
static void unknown_key(struct tn_control *c)
{
    tn_logf(c->config.log, TN_LOG_WARN, "control", "the server does not know this node's key: logging in again");
    c->logged_in = false;
    if (c->login.wanted || c->login.failed) return;
    tn_login_begin(c, false);
    c->login.at_us = c->poll.at_us;
}

static void report_end(struct tn_control *c, int err, int status)
{
    if (err || status == 200) tn_client_say(c, "map poll ended: %s", err ? tn_err_text(err) : "by the server");
    else tn_client_say(c, "map poll: HTTP %d", status);
    tn_logf(c->config.log, TN_LOG_INFO, "control", "%s", c->text);
}

static void on_done(void *arg, int err)
{
    struct tn_control *c = arg;
    int status = c->poll.status;
    tn_client_enter(c, tn_link_now(c->link));
    reset(c);
    failed(c);
    if (err != TN_E_CANCELED) report_end(c, err, status);
    if (!err && status == 404) unknown_key(c);
    tn_client_leave(c);
}

static const struct tn_h2_events events = {on_head, on_data, on_done};

void tn_poll_run(struct tn_control *c)
{
    struct tn_poll *p = &c->poll;
    if (!c->logged_in || p->req || c->now_us < p->at_us || !tn_link_up(c->link)) return;
    p->status = 0;
    p->merged = false;
    tn_netmap_new_session(c->netmap);
    p->watchdog_us = c->now_us + WATCHDOG_US;
    int err = tn_client_post(c, "/machine/map", tn_update_request(c, true), &c->current, NULL, &events, &p->req);
    if (!err) return;
    reset(c);
    failed(c);
}

/* The pause is over: what came meanwhile, in order. */
static void wake(struct tn_control *c)
{
    struct tn_poll *p = &c->poll;
    struct tn_buf held = p->held;
    struct tn_mapframe frames;
    tn_buf_init(&p->held, TN_CLIENT_HELD_MAX);
    tn_mapframe_init(&frames);
    p->sleep_us = 0;
    p->watchdog_us = c->now_us + WATCHDOG_US;
    int err = tn_mapframe_input(&frames, tn_buf_data(&held), tn_buf_len(&held), on_message, c);
    tn_mapframe_fini(&frames);
    tn_buf_fini(&held);
    if (!err) return;
    tn_poll_cancel(c);
    failed(c);
}

void tn_poll_timeout(struct tn_control *c)
{
    struct tn_poll *p = &c->poll;
    if (p->sleep_us && c->now_us >= p->sleep_us) wake(c);
    if (c->now_us >= c->expiry_us) {
        struct tn_netmap_sink sink = tn_client_sink(c);
        c->netmap_changes |= tn_netmap_expire(c->netmap, tn_client_control_time(c), &sink);
        check_self(c);
    }
    if (!p->req || p->sleep_us || c->now_us < p->watchdog_us) return;
    tn_poll_cancel(c);
    failed(c);
    tn_client_say(c, "nothing heard from the control server for two minutes");
    tn_link_close(c->link, TN_E_TIMEDOUT, c->text, c->now_us); /* the connection is as dead as the stream */
}

uint64_t tn_poll_next(const struct tn_control *c)
{
    const struct tn_poll *p = &c->poll;
    uint64_t at = c->expiry_us;
    if (p->req && p->sleep_us && p->sleep_us < at) at = p->sleep_us;
    if (p->req && !p->sleep_us && p->watchdog_us < at) at = p->watchdog_us;
    if (!p->req && c->logged_in && p->at_us < at) at = p->at_us;
    return at;
}
