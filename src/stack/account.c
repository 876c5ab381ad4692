/* How much of the pool the flows with one remote address hold together, and may hold.
 *
 * pool.h makes every queue's allowance fall with what is free; that is fair among queues, and so unfair among peers: one with
 * a thousand stalled flows would leave a chunk each to everybody else's. So above that stands the same rule once more (dynamic
 * thresholds, Choudhury and Hahne, 1998): the flows of one remote address may hold together as much as is still free. One
 * greedy peer ends at half of the budget, two at a third each, and what is free then is as much as the greediest holds.
 *
 * A flow tells its account what it holds after it took or gave back (tn_account_sync). */
#include "stack/internal.h"

#include <stdlib.h>

struct tn_account {
    struct tn_hnode node;
    struct tn_ip remote;
    size_t chunks;
    unsigned flows;
};

static bool same_remote(const struct tn_hnode *node, const void *key)
{
    return tn_ip_eq(&TN_CONTAINER(node, struct tn_account, node)->remote, key);
}

int tn_account_open(struct tn_tcp *c)
{
    struct tn_stack *st = c->st;
    const struct tn_ip *remote = &c->f.remote.ip;
    uint64_t hash = tn_siphash(&st->key, remote, sizeof *remote);
    struct tn_hnode *n = tn_htable_find(&st->accounts, hash, same_remote, remote);
    struct tn_account *a = n ? TN_CONTAINER(n, struct tn_account, node) : calloc(1, sizeof *a);
    if (!a) return TN_E_NOMEM;
    if (!n) {
        a->remote = *remote;
        if (tn_htable_insert(&st->accounts, &a->node, hash) != 0) {
            free(a);
            return TN_E_NOMEM;
        }
    }
    a->flows++;
    c->account = a;
    return 0;
}

void tn_account_sync(struct tn_tcp *c)
{
    uint32_t held = c->sendq.held + c->recvq.held;
    if (!c->account) return;
    c->account->chunks += held;
    c->account->chunks -= c->accounted;
    c->accounted = held;
}

void tn_account_close(struct tn_tcp *c)
{
    struct tn_account *a = c->account;
    if (!a) return;
    tn_account_sync(c);
    a->chunks -= c->accounted;
    c->accounted = 0;
    c->account = NULL;
    if (--a->flows > 0) return;
    tn_htable_remove(&c->st->accounts, &a->node);
    free(a);
}

/* The most that one queue of this flow may hold, as things are; a chunk in any case. */
size_t tn_account_share(const struct tn_tcp *c)
{
    size_t share = tn_pool_share(&c->st->pool), free_bytes = tn_pool_free(&c->st->pool);
    size_t held = c->account ? c->account->chunks * (size_t)TN_CHUNK : 0;
    size_t left = held < free_bytes ? free_bytes - held : 0;
    if (left >= share) return share;
    return left > TN_CHUNK ? left : TN_CHUNK;
}

/* Windows that were announced when memory was plenty may add up to more than there is: a peer beyond its share is not
 * believed in them. Each flow keeps its first chunk, so that none of them is stopped for good. */
bool tn_account_over(struct tn_tcp *c)
{
    enum { KEPT = 1 };
    if (!c->account || c->recvq.held < KEPT) return false;
    tn_account_sync(c);
    return c->account->chunks * (size_t)TN_CHUNK > tn_pool_free(&c->st->pool);
}
