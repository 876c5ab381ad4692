/* The engine: its life, the way in, and time. */
#include "wg/wg.h"
#include "util/err.h"
#include "util/secret.h"
#include "wg/internal.h"

#include <stdlib.h>
#include <string.h>

static void set_identity(struct tn_wg *wg, const struct tn_node_private *key)
{
    wg->own.key = *key;
    tn_node_public_of(key, &wg->own.pub);
    tn_wg_checker_init(&wg->checker, &wg->own.pub);
}

struct tn_wg *tn_wg_new(const struct tn_wg_config *config)
{
    struct tn_wg *wg = calloc(1, sizeof *wg);
    if (!wg) return NULL;
    wg->rng = config->rng;
    wg->log = config->log;
    wg->cb = config->cb;
    wg->ctx = config->ctx;
    tn_rng_fill(&wg->rng, &wg->hash, sizeof wg->hash);
    tn_htable_init(&wg->peers);
    tn_htable_init(&wg->indices);
    tn_heap_init(&wg->timers);
    tn_wg_limit_init(&wg->limit, &wg->rng);
    set_identity(wg, &config->key);
    wg->aead = tn_aead_engine_new(TN_AEAD_AUTO);
    wg->routes = tn_route_new();
    if (wg->aead && wg->routes) return wg;
    tn_wg_free(wg);
    return NULL;
}

static void remove_peer(struct tn_hnode *node, void *arg)
{
    tn_wg_peer_remove(arg, TN_CONTAINER(node, struct tn_wg_peer, by_key));
}

void tn_wg_free(struct tn_wg *wg)
{
    if (!wg) return;
    tn_htable_each(&wg->peers, remove_peer, wg);
    tn_timer_stop(&wg->timers, &wg->limit_timer);
    tn_htable_fini(&wg->peers);
    tn_htable_fini(&wg->indices);
    tn_heap_fini(&wg->timers);
    tn_wg_limit_fini(&wg->limit);
    tn_route_free(wg->routes);
    tn_aead_engine_free(wg->aead);
    tn_wipe(wg, sizeof *wg);
    free(wg);
}

static void reset_peer(struct tn_hnode *node, void *arg)
{
    tn_wg_peer_reset(arg, TN_CONTAINER(node, struct tn_wg_peer, by_key));
}

int tn_wg_set_key(struct tn_wg *wg, const struct tn_node_private *key)
{
    struct tn_node_public pub;
    tn_node_public_of(key, &pub);
    if (tn_wg_peer_find(wg, &pub)) return TN_E_EXIST;
    tn_htable_each(&wg->peers, reset_peer, wg);
    set_identity(wg, key);
    return 0;
}

static int count_malformed(struct tn_wg *wg)
{
    wg->counters.malformed++;
    return TN_E_MALFORMED;
}

int tn_wg_input(struct tn_wg *wg, uint8_t *datagram, size_t len, const struct tn_wg_from *from, uint64_t now_us)
{
    wg->now_us = now_us;
    switch (tn_wgmsg_type(datagram, len)) {
    case TN_WGMSG_DATA: return tn_wg_on_data(wg, datagram, len, now_us);
    case TN_WGMSG_INITIATION: return tn_wg_on_initiation(wg, datagram, from, now_us);
    case TN_WGMSG_RESPONSE: return tn_wg_on_response(wg, datagram, from, now_us);
    case TN_WGMSG_COOKIE: return tn_wg_on_cookie(wg, datagram, now_us);
    default: return count_malformed(wg);
    }
}

void tn_wg_timeout(struct tn_wg *wg, uint64_t now_us)
{
    wg->now_us = now_us;
    for (struct tn_timer *t; (t = tn_heap_pop_due(&wg->timers, now_us));) {
        if (t != &wg->limit_timer) {
            tn_wg_timer_due(TN_CONTAINER(t, struct tn_wg_peer, timer), now_us);
            continue;
        }
        uint64_t again_us = tn_wg_limit_forget(&wg->limit, now_us);
        if (again_us != TN_NEVER) (void)tn_timer_arm(&wg->timers, &wg->limit_timer, again_us);
    }
}

uint64_t tn_wg_next_deadline(const struct tn_wg *wg) { return tn_heap_next(&wg->timers); }
const struct tn_wg_counters *tn_wg_counters(const struct tn_wg *wg) { return &wg->counters; }
