#include "node/checkup.h"

#include "node/exitcheck.h"
#include "util/err.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    SOON_MS = 2000, /* changes come in groups: reloads, endpoints of both families */
    AGAIN_MS = 60 * 1000,
    AGAIN_MAX_MS = 3600 * 1000,
};

struct tn_checkup {
    struct tn_node *node;
    uv_timer_t timer;
    json_t *last;
    bool due;    /* nobody has begun to look since the last change */
    bool ours;   /* the check under way */
    unsigned bad; /* results in a row that were not good */
};

/* Neither good nor bad: the status has it, and it is no ill health. */
static bool is_open(const char *verdict) { return strncmp(verdict, "not compared", 12) == 0; }

static bool is_wanted(const struct tn_node *n)
{
    return n->config.advertise_exit_node && !n->config.exit_check_off && tn_egress_mode(n->egress) == TN_EGRESS_PROXY;
}

static void on_timer(uv_timer_t *t);

static void arm(struct tn_checkup *c, uint64_t ms) { uv_timer_start(&c->timer, on_timer, ms, 0); }

static void later(struct tn_checkup *c)
{
    uint64_t ms = AGAIN_MS;
    for (unsigned i = 1; i < c->bad && ms < AGAIN_MAX_MS; i++) ms *= 2;
    arm(c, ms < AGAIN_MAX_MS ? ms : AGAIN_MAX_MS);
}

static void done(void *arg, json_t *result)
{
    struct tn_checkup *c = arg;
    c->ours = false;
    tn_checkup_took(c->node, result);
    json_decref(result);
}

static void on_timer(uv_timer_t *t)
{
    struct tn_checkup *c = t->data;
    struct tn_node *n = c->node;
    if (!is_wanted(n)) return; /* whatever changes that arms it again */
    c->due = !n->usable;
    if (c->due) return;
    int err = tn_exitcheck_start(n, n->config.exit_check, done, c);
    c->ours = err == 0;
    c->due = err != 0; /* an operator's is under way and may have begun before the change, or there is no memory */
    if (err) later(c);
}

/* One line when all is well, and one for each proxy that is not; the second time is no news. */
static void tell(const struct tn_checkup *c, json_t *result)
{
    const json_t *r, *results = json_object_get(result, "Results"), *before = json_object_get(c->last, "Results");
    size_t i, good = 0;
    json_array_foreach(results, i, r)
    {
        const char *verdict = json_string_value(json_object_get(r, "Verdict")), *proxy = json_string_value(json_object_get(r, "Proxy"));
        const char *old = json_string_value(json_object_get(json_array_get(before, i), "Verdict"));
        bool proxied = verdict && !strcmp(verdict, "proxied");
        good += proxied;
        if (proxied || !verdict || (old && !strcmp(old, verdict))) continue;
        tn_logf(&c->node->log, is_open(verdict) ? TN_LOG_INFO : TN_LOG_WARN, "egress", "egress check by %s: %s", proxy && *proxy ? proxy : "this host", verdict);
    }
    bool was = json_is_true(json_object_get(c->last, "OK"));
    if (json_is_true(json_object_get(result, "OK")) && !was)
        tn_logf(&c->node->log, TN_LOG_INFO, "egress", "egress check: %zu of %zu proxies show another address than this host's", good, i);
}

void tn_checkup_took(struct tn_node *n, json_t *result)
{
    struct tn_checkup *c = n->checkup;
    char at[32];
    time_t now = time(NULL);
    struct tm tm;
    if (!c || c->due || !is_wanted(n)) return; /* due: it began before the last change */
    json_t *copy = result ? json_deep_copy(result) : NULL; /* the asker's is another object */
    if (!copy) {
        c->bad++;
        later(c);
        return;
    }
    strftime(at, sizeof at, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    json_object_set_new(copy, "At", json_string(at));
    tell(c, copy);
    json_decref(c->last);
    c->last = copy;
    if (json_is_true(json_object_get(copy, "OK"))) {
        c->bad = 0;
        uv_timer_stop(&c->timer);
    } else {
        c->bad++;
        later(c);
    }
}

void tn_checkup_due(struct tn_node *n)
{
    struct tn_checkup *c = n->checkup;
    if (!c) return;
    if (c->ours) tn_exitcheck_cancel(n); /* of what was */
    c->ours = false;
    c->due = true;
    c->bad = 0;
    json_decref(c->last);
    c->last = NULL;
    uv_timer_stop(&c->timer);
    tn_checkup_up(n);
}

void tn_checkup_up(struct tn_node *n)
{
    struct tn_checkup *c = n->checkup;
    bool armed = c && uv_is_active((uv_handle_t *)&c->timer); /* each word of control's ends here: not put off by it */
    if (c && c->due && !c->ours && !armed && n->usable && is_wanted(n)) arm(c, SOON_MS);
}

void tn_checkup_yield(struct tn_node *n)
{
    struct tn_checkup *c = n->checkup;
    if (!c || (n->exitcheck && !c->ours)) return; /* another operator's: this one is refused */
    if (c->ours) tn_exitcheck_cancel(n);
    if (c->ours || c->due) later(c); /* unless the operator's result comes first */
    c->ours = c->due = false;
}

json_t *tn_checkup_last(const struct tn_node *n) { return n->checkup ? n->checkup->last : NULL; }

void tn_checkup_health(const struct tn_node *n, json_t *lines)
{
    const json_t *r;
    size_t i;
    json_array_foreach(json_object_get(tn_checkup_last(n), "Results"), i, r)
    {
        const char *verdict = json_string_value(json_object_get(r, "Verdict")), *proxy = json_string_value(json_object_get(r, "Proxy"));
        if (!verdict || !proxy || !strcmp(verdict, "proxied") || is_open(verdict)) continue;
        json_array_append_new(lines, json_sprintf("exit node: egress check by %s: %s", proxy, verdict));
    }
}

int tn_checkup_new(struct tn_node *n)
{
    struct tn_checkup *c = calloc(1, sizeof *c);
    if (!c) return TN_E_NOMEM;
    c->node = n;
    c->due = true;
    uv_timer_init(&n->loop, &c->timer);
    c->timer.data = c;
    n->checkup = c;
    return 0;
}

static void closed(uv_handle_t *h) { free(h->data); }

void tn_checkup_free(struct tn_node *n)
{
    struct tn_checkup *c = n->checkup;
    if (!c) return;
    n->checkup = NULL;
    json_decref(c->last);
    uv_close((uv_handle_t *)&c->timer, closed);
}
