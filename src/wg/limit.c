#include "wg/limit.h"
#include "util/heap.h"

#include <stdlib.h>
#include <string.h>

#define LOAD_FULL_US UINT64_C(1000000) /* a second's worth of messages at once */
#define LOAD_HOLD_US UINT64_C(1000000)
enum {
    LOAD_COST_US = 1000000 / TN_WG_LOAD_PER_S,
    SOURCE_COST_US = 1000000 / TN_WG_SOURCE_PER_S,
    SOURCE_FULL_US = SOURCE_COST_US * TN_WG_SOURCE_BURST,
};

struct source {
    struct tn_hnode node;
    struct tn_list recent;
    uint64_t tokens_us, heard_us;
    uint8_t len, bytes[sizeof((struct tn_wg_from *)0)->bytes];
};

void tn_wg_limit_init(struct tn_wg_limit *l, const struct tn_rng *rng)
{
    memset(l, 0, sizeof *l);
    tn_rng_fill(rng, &l->hash, sizeof l->hash);
    tn_htable_init(&l->sources);
    tn_list_init(&l->recent);
    l->tokens_us = LOAD_FULL_US;
}

static void forget(struct tn_wg_limit *l, struct source *s)
{
    tn_htable_remove(&l->sources, &s->node);
    tn_list_remove(&s->recent);
    free(s);
}

void tn_wg_limit_fini(struct tn_wg_limit *l)
{
    while (!tn_list_empty(&l->recent)) forget(l, TN_CONTAINER(l->recent.next, struct source, recent));
    tn_htable_fini(&l->sources);
}

bool tn_wg_limit_load(struct tn_wg_limit *l, uint64_t now_us)
{
    uint64_t since_us = now_us > l->refilled_us ? now_us - l->refilled_us : 0;
    l->tokens_us = since_us >= LOAD_FULL_US - l->tokens_us ? LOAD_FULL_US : l->tokens_us + since_us;
    l->refilled_us = now_us;
    if (l->tokens_us < LOAD_COST_US) l->load_until_us = now_us + LOAD_HOLD_US;
    else l->tokens_us -= LOAD_COST_US;
    return now_us < l->load_until_us;
}

static size_t name_len(const struct tn_wg_from *from)
{
    return from->host_len > 0 && from->host_len < from->len ? from->host_len : from->len;
}

static bool same_source(const struct tn_hnode *node, const void *key)
{
    const struct source *s = TN_CONTAINER(node, struct source, node);
    const struct tn_wg_from *from = key;
    return s->len == name_len(from) && memcmp(s->bytes, from->bytes, s->len) == 0;
}

static bool remember(struct tn_wg_limit *l, const struct tn_wg_from *from, uint64_t hash, uint64_t now_us)
{
    if (l->sources.count >= TN_WG_SOURCES_MAX) forget(l, TN_CONTAINER(l->recent.prev, struct source, recent));
    struct source *s = calloc(1, sizeof *s);
    if (!s) return false;
    s->tokens_us = SOURCE_FULL_US - SOURCE_COST_US;
    s->heard_us = now_us;
    s->len = (uint8_t)name_len(from);
    memcpy(s->bytes, from->bytes, s->len);
    if (tn_htable_insert(&l->sources, &s->node, hash) != 0) {
        free(s);
        return false;
    }
    tn_list_push_front(&l->recent, &s->recent);
    return true;
}

bool tn_wg_limit_source(struct tn_wg_limit *l, const struct tn_wg_from *from, uint64_t now_us)
{
    uint64_t hash = tn_siphash(&l->hash, from->bytes, name_len(from));
    struct tn_hnode *node = tn_htable_find(&l->sources, hash, same_source, from);
    if (!node) return remember(l, from, hash, now_us);
    struct source *s = TN_CONTAINER(node, struct source, node);
    s->tokens_us += now_us - s->heard_us;
    if (s->tokens_us > SOURCE_FULL_US) s->tokens_us = SOURCE_FULL_US;
    s->heard_us = now_us;
    tn_list_remove(&s->recent);
    tn_list_push_front(&l->recent, &s->recent);
    if (s->tokens_us < SOURCE_COST_US) return false;
    s->tokens_us -= SOURCE_COST_US;
    return true;
}

uint64_t tn_wg_limit_forget(struct tn_wg_limit *l, uint64_t now_us)
{
    while (!tn_list_empty(&l->recent)) {
        struct source *s = TN_CONTAINER(l->recent.prev, struct source, recent);
        if (now_us < s->heard_us + SOURCE_FULL_US) return s->heard_us + SOURCE_FULL_US;
        forget(l, s);
    }
    return TN_NEVER;
}
