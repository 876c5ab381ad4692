#include "node/withdraw.h"

#include "util/err.h"

#include <stdlib.h>

enum {
    DOWN_MS = 10 * 1000, /* that long none must have worked: a proxy that restarts is no reason */
    HOLD_MS = 30 * 1000, /* after a change, that long until the next withdrawal: control and peers hear of each */
};

struct tn_withdraw {
    struct tn_node *node;
    uv_timer_t timer;
    uint64_t changed_us;
};

static bool watches(const struct tn_node *n) { return n->config.exit_withdraw && n->config.advertise_exit_node; }

/* Off refuses everything too: proxies without a usable setting, which a reload may bring. */
static bool should(const struct tn_node *n)
{
    enum tn_egress_mode mode = tn_egress_mode(n->egress);
    return watches(n) && (mode == TN_EGRESS_OFF || (mode == TN_EGRESS_PROXY && !tn_egress_usable(n->egress)));
}

static void on_timer(uv_timer_t *t)
{
    struct tn_withdraw *w = t->data;
    struct tn_node *n = w->node;
    if (should(n) == n->exit_withdrawn) return;
    n->exit_withdrawn = !n->exit_withdrawn;
    w->changed_us = tn_node_now();
    tn_logf(&n->log, n->exit_withdrawn ? TN_LOG_WARN : TN_LOG_INFO, "egress", "%s",
            n->exit_withdrawn ? "nothing works: no longer offered as an exit node" : "offered as an exit node again");
    int err = tn_node_push_host(n);
    if (err) tn_logf(&n->log, TN_LOG_ERROR, "control", "what is offered: %s", tn_err_text(err));
}

/* From the timer at the earliest: the egress calls from inside of a dial. */
static void look(struct tn_withdraw *w)
{
    uint64_t ms = 0, held_ms = (tn_node_now() - w->changed_us) / 1000;
    bool want = should(w->node);
    if (want == w->node->exit_withdrawn) {
        uv_timer_stop(&w->timer);
        return;
    }
    if (want) ms = DOWN_MS;
    if (want && w->changed_us && held_ms < HOLD_MS && HOLD_MS - held_ms > ms) ms = HOLD_MS - held_ms;
    if (!want || !uv_is_active((uv_handle_t *)&w->timer)) uv_timer_start(&w->timer, on_timer, ms, 0);
}

static void on_health(void *ctx) { look(ctx); }

void tn_withdraw_update(struct tn_node *n)
{
    struct tn_withdraw *w = n->withdraw;
    if (!w) return;
    tn_egress_watch(n->egress, watches(n) ? on_health : NULL, w);
    look(w);
}

int tn_withdraw_new(struct tn_node *n)
{
    struct tn_withdraw *w = calloc(1, sizeof *w);
    if (!w) return TN_E_NOMEM;
    w->node = n;
    uv_timer_init(&n->loop, &w->timer);
    w->timer.data = w;
    n->withdraw = w;
    tn_withdraw_update(n);
    return 0;
}

static void closed(uv_handle_t *h) { free(h->data); }

void tn_withdraw_free(struct tn_node *n)
{
    struct tn_withdraw *w = n->withdraw;
    if (!w) return;
    n->withdraw = NULL;
    tn_egress_watch(n->egress, NULL, NULL);
    uv_close((uv_handle_t *)&w->timer, closed);
}
