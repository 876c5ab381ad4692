#include "control/link.h"
#include "control/cjson.h"
#include "control/early.h"
#include "control/fetch.h"
#include "control/upgrade.h"
#include "util/err.h"
#include "util/heap.h"
#include "util/secret.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    KEY_BODY_MAX = 64 * 1024, /* as controlclient bounds it */
    TEXT_MAX = 320,
};
#define SECONDS(n) ((uint64_t)(n) * 1000 * 1000)
#define KEY_TIMEOUT_US SECONDS(15)
#define RACE_TIMEOUT_US SECONDS(10)      /* ts2021/client.go: 5 s to dial, 5 to shake hands */
#define FALLBACK_DELAY_US (500 * 1000)
#define FALLBACK_TO_PLAIN_US SECONDS(3)
#define RECENT_US SECONDS(120)           /* health.LastNoiseDialWasRecent */
#define QUIET_PING_US SECONDS(75)        /* a little over a server's keepalive interval */
#define QUIET_DEAD_US SECONDS(105)

enum link_state { LINK_DOWN, LINK_KEY, LINK_RACING, LINK_UP, LINK_ENDING };
enum lane { LANE_PLAIN, LANE_TLS, LANES };
enum lane_state { LANE_OFF, LANE_WAITING, LANE_RUNNING, LANE_FAILED };

struct tn_link {
    struct tn_link_config config;
    enum link_state state;
    bool have_key;
    struct tn_machine_public server;
    struct tn_fetch *fetch;
    struct {
        enum lane_state state;
        struct tn_upgrade *upgrade;
        int err;
        char text[TEXT_MAX / 3];
    } lanes[LANES];
    uint64_t fallback_us, race_deadline_us;
    uint64_t dialed_us;  /* the last race's start, 0: none yet */
    struct tn_upgrade *transport; /* the winner */
    struct tn_early early;
    struct tn_h2 *h2;
    uint64_t heard_us;
    bool pinged;
    uint64_t now_us;
    unsigned inside; /* depth of engine calls on the stack: no teardown beneath them */
    bool closing;
    int close_err;
    char close_text[TEXT_MAX];
};

/* --- going down --- */

static void drop_lanes(struct tn_link *l)
{
    for (int i = 0; i < LANES; i++) {
        tn_upgrade_free(l->lanes[i].upgrade);
        l->lanes[i].upgrade = NULL;
        l->lanes[i].state = LANE_OFF;
    }
    l->fallback_us = l->race_deadline_us = TN_NEVER;
}

static void drop_all(struct tn_link *l)
{
    tn_fetch_free(l->fetch);
    l->fetch = NULL;
    drop_lanes(l);
    tn_h2_free(l->h2);
    l->h2 = NULL;
    tn_upgrade_free(l->transport);
    l->transport = NULL;
    l->state = LINK_DOWN;
}

static void teardown(struct tn_link *l, uint64_t now_us)
{
    char text[TEXT_MAX];
    int err = l->close_err;
    memcpy(text, l->close_text, sizeof text);
    l->now_us = now_us;
    l->closing = false;
    l->state = LINK_ENDING; /* those whose requests fail may ask for more: refused until down was told */
    if (l->h2) tn_h2_fail(l->h2, err);
    drop_all(l);
    l->config.down(l->config.ctx, err, text, now_us);
}

void tn_link_close(struct tn_link *l, int err, const char *text, uint64_t now_us)
{
    if (l->state == LINK_DOWN || l->state == LINK_ENDING || l->closing) return;
    l->closing = true;
    l->close_err = err;
    snprintf(l->close_text, sizeof l->close_text, "%s", text);
    if (l->inside == 0) teardown(l, now_us);
}

static void leave(struct tn_link *l, uint64_t now_us)
{
    if (l->inside == 1 && !l->closing) tn_link_flush(l, now_us);
    if (--l->inside == 0 && l->closing) teardown(l, now_us);
}

/* --- up: HTTP/2 over the winner --- */

static int h2_output(void *arg, const uint8_t *bytes, size_t len)
{
    struct tn_link *l = arg;
    return tn_upgrade_send(l->transport, bytes, len);
}

static int to_h2(void *arg, const uint8_t *bytes, size_t len)
{
    struct tn_link *l = arg;
    return tn_h2_input(l->h2, bytes, len);
}

static int on_plain(void *arg, const uint8_t *bytes, size_t len, uint64_t now_us)
{
    struct tn_link *l = arg;
    if (l->closing) return TN_E_CANCELED;
    l->inside++;
    l->heard_us = l->now_us = now_us;
    l->pinged = false;
    int err = tn_early_input(&l->early, bytes, len, to_h2, l);
    if (err) tn_link_close(l, err, "HTTP/2 inside the control connection failed", now_us);
    else if (tn_h2_goaway(l->h2)) tn_link_close(l, TN_E_CLOSED, "the server asked us to reconnect", now_us);
    /* The Noise engine is still below us on the stack: only flush here, the teardown waits for the stream's event. */
    if (!l->closing) tn_link_flush(l, now_us);
    l->inside--;
    return l->closing ? TN_E_CANCELED : 0;
}

static void go_up(struct tn_link *l, struct tn_upgrade *winner, uint64_t now_us)
{
    for (int i = 0; i < LANES; i++)
        if (l->lanes[i].upgrade == winner) l->lanes[i].upgrade = NULL;
    drop_lanes(l);
    l->transport = winner;
    l->early = (struct tn_early){0};
    l->heard_us = now_us;
    l->pinged = false;
    l->state = LINK_UP;
    int err = tn_h2_new(h2_output, l, &l->h2);
    if (err) tn_link_close(l, err, tn_err_text(err), now_us);
    else l->config.up(l->config.ctx, now_us);
}

/* --- racing --- */

static void start_lane(struct tn_link *l, enum lane lane, uint64_t now_us);

/* Somebody answered, but not as the holder of this key would. */
static bool answered_wrongly(int err)
{
    return err == TN_E_CRYPTO || err == TN_E_PROTO || err == TN_E_HTTP || err == TN_E_MALFORMED || err == TN_E_EOF ||
           err == TN_E_RESET;
}

static void race_lost(struct tn_link *l, int err, const char *why, uint64_t now_us)
{
    char text[TEXT_MAX];
    const char *plain = l->lanes[LANE_PLAIN].text, *tls = l->lanes[LANE_TLS].text;
    snprintf(text, sizeof text, "%s%s%s%s%s%s", why, plain[0] ? " plain: " : "", plain, plain[0] && tls[0] ? ";" : "",
             tls[0] ? " TLS: " : "", tls);
    for (int i = 0; i < LANES; i++) /* a server with a new key looks like this too */
        if (l->lanes[i].state == LANE_FAILED && answered_wrongly(l->lanes[i].err)) l->have_key = false;
    tn_link_close(l, err, text, now_us);
}

static void lane_failed(struct tn_link *l, enum lane lane, int err, const char *text, uint64_t now_us)
{
    enum lane other = lane == LANE_PLAIN ? LANE_TLS : LANE_PLAIN;
    l->lanes[lane].state = LANE_FAILED;
    l->lanes[lane].err = err;
    snprintf(l->lanes[lane].text, sizeof l->lanes[lane].text, "%s", text);
    if (l->lanes[other].state == LANE_WAITING) start_lane(l, other, now_us);
    else if (l->lanes[other].state != LANE_RUNNING) race_lost(l, err, "control server not reached:", now_us);
}

static void on_established(void *arg, struct tn_upgrade *u, uint64_t now_us)
{
    struct tn_link *l = arg;
    l->inside++; /* the Noise engine is below us on the stack */
    go_up(l, u, now_us);
    if (!l->closing) tn_link_flush(l, now_us);
    l->inside--;
}

static void on_closed(void *arg, struct tn_upgrade *u, int err, const char *text, uint64_t now_us)
{
    struct tn_link *l = arg;
    l->inside++;
    if (u == l->transport) {
        if (!l->closing) tn_link_close(l, err, text, now_us);
    } else {
        for (int i = 0; i < LANES; i++)
            if (l->lanes[i].upgrade == u) {
                l->lanes[i].upgrade = NULL;
                tn_upgrade_free(u);
                lane_failed(l, (enum lane)i, err, text, now_us);
                break;
            }
    }
    leave(l, now_us);
}

static const struct tn_upgrade_events upgrade_events = {on_established, on_plain, on_closed};

static uint16_t lane_port(const struct tn_link *l, enum lane lane)
{
    const struct tn_weburl *url = &l->config.url;
    bool ours = lane == LANE_TLS ? url->tls : !url->tls;
    if (url->port_given && ours) return url->port;
    return lane == LANE_TLS ? 443 : 80;
}

/* http:// to a private host never tries TLS: no certificate is issued for such a name. */
static bool tls_lane_exists(const struct tn_link *l)
{
    return l->config.url.tls || !tn_weburl_private_host(&l->config.url);
}

static void start_lane(struct tn_link *l, enum lane lane, uint64_t now_us)
{
    char authority[TN_WEBURL_HOST + 10];
    const char *host = l->config.url.host;
    uint16_t port = lane_port(l, lane);
    snprintf(authority, sizeof authority, strchr(host, ':') ? "[%s]:%u" : "%s:%u", host, port);
    if (port == (lane == LANE_TLS ? 443 : 80)) *strrchr(authority, ':') = '\0';
    struct tn_upgrade_spec spec = {
        .dialer = l->config.dialer,
        .host = host,
        .authority = authority,
        .port = port,
        .tls = lane == LANE_TLS,
        .machine = &l->config.machine,
        .server = &l->server,
        .version = l->config.version,
        .rng = &l->config.rng,
        .timeout_us = l->race_deadline_us > now_us ? l->race_deadline_us - now_us : 1,
    };
    l->lanes[lane].state = LANE_RUNNING;
    int err = tn_upgrade_start(&spec, &upgrade_events, l, &l->lanes[lane].upgrade);
    if (err) lane_failed(l, lane, err, tn_err_text(err), now_us);
}

/* After a recent dial the plain port waits behind TLS: some networks break port 80 only after the upgrade
 * (#13597). Unlike in the Go client it still gets its turn, since a server may have no TLS at all. */
static void start_race(struct tn_link *l, uint64_t now_us)
{
    bool recent = l->dialed_us != 0 && now_us - l->dialed_us < RECENT_US, tls = tls_lane_exists(l);
    l->dialed_us = now_us ? now_us : 1;
    l->state = LINK_RACING;
    l->race_deadline_us = now_us + RACE_TIMEOUT_US;
    for (int i = 0; i < LANES; i++) {
        l->lanes[i].state = LANE_WAITING;
        l->lanes[i].text[0] = '\0';
    }
    if (!tls) l->lanes[LANE_TLS].state = LANE_OFF;
    l->fallback_us = !tls ? TN_NEVER : now_us + (recent ? FALLBACK_TO_PLAIN_US : FALLBACK_DELAY_US);
    start_lane(l, tls && recent ? LANE_TLS : LANE_PLAIN, now_us);
}

/* --- the server's key --- */

static int parse_key(const uint8_t *body, size_t len, struct tn_machine_public *out)
{
    json_t *answer;
    int err = tn_cjson_parse(body, len, KEY_BODY_MAX * 4, &answer);
    if (err) return err;
    const char *text = tn_cjson_string(answer, "publicKey");
    err = text ? tn_machine_public_parse(text, out) : TN_E_UNSUPPORTED;
    json_decref(answer);
    if (!err && tn_key_is_zero(out->b)) err = TN_E_UNSUPPORTED;
    return err;
}

static void key_done(void *arg, int err, int status, const uint8_t *body, size_t len, uint64_t now_us)
{
    struct tn_link *l = arg;
    char text[TEXT_MAX];
    l->inside++;
    if (err) snprintf(text, sizeof text, "control server's key: %s", tn_err_text(err));
    else if (status != 200) {
        err = TN_E_HTTP;
        snprintf(text, sizeof text, "control server's key: HTTP status %d", status);
    } else {
        err = parse_key(body, len, &l->server);
        snprintf(text, sizeof text, "control server's key: %s",
                 err == TN_E_UNSUPPORTED ? "the server has none for ts2021" : "the answer is not what was expected");
    }
    tn_fetch_free(l->fetch);
    l->fetch = NULL;
    if (err) tn_link_close(l, err, text, now_us);
    else {
        l->have_key = true;
        start_race(l, now_us);
    }
    leave(l, now_us);
}

static void start_key(struct tn_link *l, uint64_t now_us)
{
    struct tn_fetch_spec spec = {
        .dialer = l->config.dialer,
        .url = l->config.url,
        .method = "GET",
        .max_body = KEY_BODY_MAX,
        .timeout_us = KEY_TIMEOUT_US,
    };
    size_t base = strlen(spec.url.path);
    while (base > 0 && spec.url.path[base - 1] == '/') base--;
    l->state = LINK_KEY;
    int n = snprintf(spec.url.path + base, sizeof spec.url.path - base, "/key?v=%u", l->config.version);
    int err = (size_t)n < sizeof spec.url.path - base ? 0 : TN_E_TOOBIG;
    if (!err) err = tn_fetch_start(&spec, key_done, l, now_us, &l->fetch);
    if (err) tn_link_close(l, err, tn_err_text(err), now_us);
}

/* --- the user's calls --- */

int tn_link_new(const struct tn_link_config *config, struct tn_link **out)
{
    struct tn_link *l = calloc(1, sizeof *l);
    if (!l) return TN_E_NOMEM;
    l->config = *config;
    l->fallback_us = l->race_deadline_us = TN_NEVER;
    *out = l;
    return 0;
}

void tn_link_free(struct tn_link *l)
{
    if (!l) return;
    drop_all(l);
    tn_wipe(&l->config.machine, sizeof l->config.machine);
    free(l);
}

void tn_link_connect(struct tn_link *l, uint64_t now_us)
{
    if (l->state != LINK_DOWN) return;
    l->inside++;
    if (l->have_key) start_race(l, now_us);
    else start_key(l, now_us);
    /* A failure at once is told from tn_link_timeout, never from inside the caller's call. */
    l->inside--;
}

bool tn_link_up(const struct tn_link *l) { return l->state == LINK_UP && !l->closing; }
bool tn_link_idle(const struct tn_link *l) { return l->state == LINK_DOWN; }

int tn_link_request(struct tn_link *l, struct tn_h2_spec *spec, const struct tn_h2_events *events, void *arg,
                    struct tn_h2_req **out)
{
    if (!tn_link_up(l)) return TN_E_NOTCONN;
    if (!spec->authority) spec->authority = l->config.url.authority;
    return tn_h2_request(l->h2, spec, events, arg, out);
}

void tn_link_cancel(struct tn_link *l, struct tn_h2_req *req)
{
    if (l->h2) tn_h2_cancel(l->h2, req);
}

void tn_link_flush(struct tn_link *l, uint64_t now_us)
{
    if (!tn_link_up(l)) return;
    l->now_us = now_us;
    int err = tn_h2_flush(l->h2);
    if (!err) err = tn_upgrade_flush(l->transport);
    if (err) tn_link_close(l, err, tn_err_text(err), now_us);
}

static void quiet(struct tn_link *l, uint64_t now_us)
{
    if (now_us - l->heard_us >= QUIET_DEAD_US) {
        tn_link_close(l, TN_E_TIMEDOUT, "nothing heard from the control server", now_us);
    } else if (!l->pinged && now_us - l->heard_us >= QUIET_PING_US) {
        l->pinged = true;
        tn_h2_ping(l->h2);
    }
}

uint64_t tn_link_now(const struct tn_link *l) { return l->now_us; }

void tn_link_timeout(struct tn_link *l, uint64_t now_us)
{
    l->inside++;
    l->now_us = now_us;
    if (l->fetch) tn_fetch_timeout(l->fetch, now_us);
    if (now_us >= l->race_deadline_us) race_lost(l, TN_E_TIMEDOUT, "control server not reached in time:", now_us);
    else if (now_us >= l->fallback_us) {
        l->fallback_us = TN_NEVER;
        for (int i = 0; i < LANES; i++)
            if (l->lanes[i].state == LANE_WAITING) start_lane(l, (enum lane)i, now_us);
    }
    if (tn_link_up(l)) quiet(l, now_us);
    leave(l, now_us);
}

uint64_t tn_link_next_deadline(const struct tn_link *l)
{
    if (l->closing) return 0;
    uint64_t at = l->race_deadline_us < l->fallback_us ? l->race_deadline_us : l->fallback_us;
    if (l->fetch) {
        uint64_t fetch = tn_fetch_next_deadline(l->fetch);
        if (fetch < at) at = fetch;
    }
    if (l->state == LINK_UP) {
        uint64_t quiet_at = l->heard_us + (l->pinged ? QUIET_DEAD_US : QUIET_PING_US);
        if (quiet_at < at) at = quiet_at;
    }
    return at;
}
