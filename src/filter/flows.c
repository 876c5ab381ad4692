#include "filter/flows.h"

#include <assert.h>
#include <stdlib.h>

static_assert(sizeof(struct tn_flow_key) == 40, "hashed and compared as memory");

struct flow {
    struct tn_hnode node;
    struct tn_list link;
    struct tn_flow_key key;
};

void tn_flows_init(struct tn_flows *f, const struct tn_hashkey *key)
{
    tn_htable_init(&f->table);
    tn_list_init(&f->recent);
    f->key = *key;
}

void tn_flows_fini(struct tn_flows *f)
{
    for (struct tn_list *l; (l = tn_list_pop_front(&f->recent));) free(TN_CONTAINER(l, struct flow, link));
    tn_htable_fini(&f->table);
}

static bool same_flow(const struct tn_hnode *node, const void *key)
{
    return memcmp(&TN_CONTAINER(node, struct flow, node)->key, key, sizeof(struct tn_flow_key)) == 0;
}

/* The flow, moved to the front; NULL when it is not there. */
static struct flow *use_flow(struct tn_flows *f, const struct tn_flow_key *key, uint64_t hash)
{
    struct tn_hnode *node = tn_htable_find(&f->table, hash, same_flow, key);
    if (!node) return NULL;
    struct flow *flow = TN_CONTAINER(node, struct flow, node);
    if (f->recent.next != &flow->link) {
        tn_list_remove(&flow->link);
        tn_list_push_front(&f->recent, &flow->link);
    }
    return flow;
}

void tn_flows_note(struct tn_flows *f, const struct tn_flow_key *reply)
{
    uint64_t hash = tn_siphash(&f->key, reply, sizeof *reply);
    struct flow *flow;
    if (use_flow(f, reply, hash)) return;
    if (f->table.count >= TN_FILTER_FLOWS_MAX) {
        flow = TN_CONTAINER(f->recent.prev, struct flow, link);
        tn_list_remove(&flow->link);
        tn_htable_remove(&f->table, &flow->node);
    } else {
        flow = malloc(sizeof *flow);
        if (!flow) return;
    }
    flow->key = *reply;
    if (tn_htable_insert(&f->table, &flow->node, hash) != 0) {
        free(flow);
        return;
    }
    tn_list_push_front(&f->recent, &flow->link);
}

bool tn_flows_seen(struct tn_flows *f, const struct tn_flow_key *reply)
{
    if (f->table.count == 0) return false;
    return use_flow(f, reply, tn_siphash(&f->key, reply, sizeof *reply)) != NULL;
}
