/* Merging map responses (controlclient/map.go updateStateFromResponse and what it calls).
 *
 * Three states of a field matter and are kept apart: absent (or null) means "as before", empty means "none", and a
 * value replaces. Which is which differs by field and is written at each merge function. A merge has three steps:
 * parse all nodes and patches of the message, then change the map, then tell. So a malformed message changes
 * nothing, and whoever is told sees the state after the whole message. */
#include "control/netmap_private.h"
#include "control/cjson.h"
#include "control/when.h"
#include "util/err.h"
#include "util/list.h"

#include <stdlib.h>
#include <string.h>

/* A message's parsed nodes, owned until they are moved into the map. */
struct incoming {
    struct tn_netnode_entry *self;
    struct tn_netmap_nodes *nodes; /* one of the message's lists */
    struct tn_netnode_patch *patches;
    size_t npatches;
    bool full; /* nodes are the whole list */
};

/* --- small parts --- */

uint64_t tn_netmap_hash_id(const struct tn_netmap *m, int64_t id) { return tn_siphash(&m->hash, &id, sizeof id); }

static bool peer_has_id(const struct tn_hnode *h, const void *key)
{
    return TN_CONTAINER(h, struct tn_netnode, by_id)->id == *(const int64_t *)key;
}

static struct tn_netnode_entry *find_peer(const struct tn_netmap *m, int64_t id)
{
    struct tn_hnode *h = tn_htable_find(&m->peers_by_id, tn_netmap_hash_id(m, id), peer_has_id, &id);
    return h ? TN_CONTAINER(TN_CONTAINER(h, struct tn_netnode, by_id), struct tn_netnode_entry, node) : NULL;
}

/* --- life --- */

struct tn_netmap *tn_netmap_new(const struct tn_hashkey *hash)
{
    struct tn_netmap *m = calloc(1, sizeof *m);
    if (!m) return NULL;
    m->hash = *hash;
    m->fresh = true;
    tn_htable_init(&m->peers_by_id);
    tn_htable_init(&m->users);
    tn_list_init(&m->changed);
    m->filters = json_object();
    m->rules = json_array();
    m->messages = json_object();
    if (m->filters && m->rules && m->messages) return m;
    tn_netmap_free(m);
    return NULL;
}

void tn_netmap_free(struct tn_netmap *m)
{
    if (!m) return;
    for (size_t i = 0; i < m->npeers; i++) tn_netnode_free(m->peers[i]);
    tn_netnode_free(m->self);
    free(m->peers);
    tn_htable_fini(&m->peers_by_id);
    tn_netmap_free_users(m);
    json_t *const parts[] = {m->derp_map, m->filters,  m->rules,       m->dns_config,
                             m->health,   m->messages, m->shown_health};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) json_decref(parts[i]);
    free(m->domain);
    free(m);
}

void tn_netmap_new_session(struct tn_netmap *m) { m->fresh = true; }

/* --- peers --- */

static int make_room(struct tn_netmap *m, size_t more)
{
    if (m->npeers + more > TN_NETMAP_PEERS_MAX) return TN_E_LIMIT;
    if (m->npeers + more <= m->cap_peers) return 0;
    size_t cap = m->cap_peers + m->cap_peers / 2;
    if (cap < m->npeers + more) cap = m->npeers + more;
    void *grown = realloc(m->peers, cap * sizeof *m->peers);
    if (!grown) return TN_E_NOMEM;
    m->peers = grown;
    m->cap_peers = cap;
    return 0;
}

static void note_change(struct tn_netmap *m, struct tn_netnode_entry *e)
{
    if (tn_list_empty(&e->changed)) tn_list_push_back(&m->changed, &e->changed);
}

/* What ends at this time changes: when the next of all ends is to be found anew. */
static void forget_expiry(struct tn_netmap *m, int64_t key_expiry)
{
    if (key_expiry == m->next_expiry) m->judged = false;
}

/* Moves a parsed node into the map. Room for it was made. */
static int put_peer(struct tn_netmap *m, struct tn_netnode_entry *e)
{
    struct tn_netnode_entry *old = find_peer(m, e->node.id);
    e->seen = m->full_lists;
    if (old && tn_netnode_same(old, e)) {
        old->seen = m->full_lists;
        tn_netnode_free(e);
        return 0;
    }
    if (old) {
        e->index = old->index;
        forget_expiry(m, old->node.key_expiry);
        tn_htable_remove(&m->peers_by_id, &old->node.by_id);
        tn_netnode_free(old);
    } else {
        e->index = m->npeers++;
    }
    m->peers[e->index] = e;
    int err = tn_htable_insert(&m->peers_by_id, &e->node.by_id, tn_netmap_hash_id(m, e->node.id));
    if (!err) note_change(m, e);
    if (!err) return 0;
    m->peers[e->index] = m->peers[--m->npeers]; /* without its index entry it is unreachable */
    m->peers[e->index]->index = e->index;
    tn_netnode_free(e);
    return err;
}

static void remove_peer(struct tn_netmap *m, struct tn_netnode_entry *e, const struct tn_netmap_sink *sink)
{
    forget_expiry(m, e->node.key_expiry);
    tn_htable_remove(&m->peers_by_id, &e->node.by_id);
    m->peers[e->index] = m->peers[--m->npeers];
    m->peers[e->index]->index = e->index;
    sink->gone(sink->ctx, &e->node);
    tn_netnode_free(e);
}

static bool remove_unlisted(struct tn_netmap *m, const struct tn_netmap_sink *sink)
{
    size_t before = m->npeers;
    for (size_t i = m->npeers; i-- > 0;)
        if (m->peers[i]->seen != m->full_lists) remove_peer(m, m->peers[i], sink);
    return m->npeers != before;
}

static bool remove_listed(struct tn_netmap *m, const json_t *ids, const struct tn_netmap_sink *sink)
{
    size_t before = m->npeers;
    for (size_t i = 0; i < json_array_size(ids); i++) {
        struct tn_netnode_entry *e = find_peer(m, json_integer_value(json_array_get(ids, i)));
        if (e) remove_peer(m, e, sink);
    }
    return m->npeers != before;
}

/* {"<id>": bool, ...}: fn for each peer that is known. */
static void each_flag(struct tn_netmap *m, const json_t *flags, int64_t wall_now,
                      bool (*fn)(struct tn_netnode *n, bool flag, int64_t wall_now))
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)flags, key, value) {
        char *end;
        long long id = strtoll(key, &end, 10);
        struct tn_netnode_entry *e = *end == '\0' && json_is_boolean(value) ? find_peer(m, id) : NULL;
        if (e && fn(&e->node, json_is_true(value), wall_now)) note_change(m, e);
    }
}

static bool set_seen(struct tn_netnode *n, bool seen, int64_t wall_now)
{
    int64_t at = seen ? wall_now : 0;
    bool changed = n->last_seen != at;
    n->last_seen = at;
    return changed;
}

static bool set_online(struct tn_netnode *n, bool online, int64_t wall_now)
{
    bool changed = n->online != (int8_t)online;
    n->online = (int8_t)online;
    return changed;
}

/* A full list rules out everything else; otherwise all deltas count, in this order. Unknown IDs are ignored. */
static int merge_peers(struct tn_netmap *m, const json_t *response, struct incoming *in, int64_t wall_now,
                       const struct tn_netmap_sink *sink, unsigned *changes)
{
    if (in->full) m->full_lists++;
    else if (remove_listed(m, tn_cjson_array(response, "PeersRemoved"), sink)) *changes |= TN_NETMAP_PEERS;
    int err = make_room(m, in->nodes->n);
    for (size_t i = 0; i < in->nodes->n && !err; i++) {
        err = put_peer(m, in->nodes->list[i]);
        in->nodes->list[i] = NULL;
    }
    if (err) return err;
    if (in->full) {
        if (remove_unlisted(m, sink)) *changes |= TN_NETMAP_PEERS;
        return 0;
    }
    each_flag(m, tn_cjson_object(response, "PeerSeenChange"), wall_now, set_seen);
    each_flag(m, tn_cjson_object(response, "OnlineChange"), wall_now, set_online);
    for (size_t i = 0; i < in->npatches; i++) {
        struct tn_netnode_entry *e = find_peer(m, in->patches[i].id);
        if (!e) continue;
        int64_t expiry = e->node.key_expiry;
        if (tn_netnode_patch_apply(e, &in->patches[i])) note_change(m, e);
        if (expiry != e->node.key_expiry) forget_expiry(m, expiry);
    }
    return 0;
}

static void count_expiry(struct tn_netmap *m, const struct tn_netnode_entry *e, int64_t control_now)
{
    int64_t at = e->node.key_expiry;
    if (!e->node.expired && at > control_now && at < m->next_expiry) m->next_expiry = at;
}

static void judge(struct tn_netmap *m, struct tn_netnode_entry *e, int64_t control_now)
{
    if (tn_netnode_judge_expiry(e, control_now)) note_change(m, e);
    count_expiry(m, e, control_now);
}

/* Time has passed and nobody's key ran out: what changed is all there is to judge. A large netmap is not walked for each of
 * its deltas. */
static bool judged_still(const struct tn_netmap *m, int64_t control_now)
{
    bool sane = m->judged_at >= TN_WHEN_SANE || control_now < TN_WHEN_SANE;
    return m->judged && sane && control_now >= m->judged_at && control_now < m->next_expiry;
}

static void judge_peers(struct tn_netmap *m, int64_t control_now)
{
    if (judged_still(m, control_now)) {
        TN_LIST_EACH(l, &m->changed) judge(m, TN_CONTAINER(l, struct tn_netnode_entry, changed), control_now);
    } else {
        m->next_expiry = INT64_MAX;
        for (size_t i = 0; i < m->npeers; i++) judge(m, m->peers[i], control_now);
        m->judged = true;
    }
    m->judged_at = control_now;
}

static bool judge_and_tell(struct tn_netmap *m, int64_t control_now, const struct tn_netmap_sink *sink)
{
    judge_peers(m, control_now);
    bool any = !tn_list_empty(&m->changed);
    for (struct tn_list *l; (l = tn_list_pop_front(&m->changed));)
        sink->peer(sink->ctx, &TN_CONTAINER(l, struct tn_netnode_entry, changed)->node);
    return any;
}

static void merge_self(struct tn_netmap *m, struct incoming *in, int64_t control_now, unsigned *changes)
{
    if (in->self) {
        tn_netnode_judge_expiry(in->self, control_now);
        bool same = m->self && tn_netnode_same(m->self, in->self) && m->self->node.expired == in->self->node.expired;
        tn_netnode_free(m->self);
        m->self = in->self;
        in->self = NULL;
        if (!same) *changes |= TN_NETMAP_SELF;
    } else if (m->self && tn_netnode_judge_expiry(m->self, control_now)) {
        *changes |= TN_NETMAP_SELF;
    }
}

/* --- the message --- */

static void incoming_fini(struct incoming *in)
{
    tn_netnode_free(in->self);
    free(in->patches);
}

int tn_netmap_nodes_add(struct tn_netmap_nodes *nodes, struct tn_netnode_entry *e)
{
    int err = nodes->n >= TN_NETMAP_PEERS_MAX ? TN_E_LIMIT : 0;
    if (!err && nodes->n == nodes->cap) {
        size_t cap = nodes->cap ? 2 * nodes->cap : 8;
        void *grown = realloc(nodes->list, cap * sizeof *nodes->list);
        if (grown) {
            nodes->list = grown;
            nodes->cap = cap;
        } else {
            err = TN_E_NOMEM;
        }
    }
    if (err) tn_netnode_free(e);
    else nodes->list[nodes->n++] = e;
    return err;
}

static void nodes_fini(struct tn_netmap_nodes *nodes)
{
    for (size_t i = 0; i < nodes->n; i++) tn_netnode_free(nodes->list[i]);
    free(nodes->list);
    *nodes = (struct tn_netmap_nodes){0};
}

void tn_netmap_message_fini(struct tn_netmap_message *message)
{
    nodes_fini(&message->peers);
    nodes_fini(&message->changed);
    json_decref(message->rest);
    message->rest = NULL;
}

/* Those that were left in the tree. */
static int parse_nodes(const json_t *list, struct tn_netmap_nodes *nodes)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        struct tn_netnode_entry *e;
        int err = tn_netnode_parse(json_array_get(list, i), &e);
        if (!err) err = tn_netmap_nodes_add(nodes, e);
        if (err) return err;
    }
    return 0;
}

static int parse_patches(const json_t *list, struct incoming *in)
{
    size_t n = json_array_size(list);
    if (n == 0) return 0;
    in->patches = calloc(n, sizeof *in->patches);
    if (!in->patches) return TN_E_NOMEM;
    for (; in->npatches < n; in->npatches++) {
        int err = tn_netnode_patch_parse(json_array_get(list, in->npatches), &in->patches[in->npatches]);
        if (err) return err;
    }
    return 0;
}

static int parse_incoming(const struct tn_netmap *m, struct tn_netmap_message *message, struct incoming *in)
{
    const json_t *response = message->rest, *node = tn_cjson_get(response, "Node");
    if (!json_is_object(response)) return TN_E_MALFORMED;
    if (m->fresh && !node) return TN_E_PROTO;
    int err = node ? tn_netnode_parse(node, &in->self) : 0;
    if (!err) err = parse_nodes(tn_cjson_array(response, "Peers"), &message->peers);
    if (!err) err = parse_nodes(tn_cjson_array(response, "PeersChanged"), &message->changed);
    in->full = m->fresh || message->peers.n > 0; /* later on an empty list means "no change" */
    in->nodes = message->peers.n > 0 ? &message->peers : &message->changed;
    if (!err && !in->full) err = parse_patches(tn_cjson_array(response, "PeersChangedPatch"), in);
    return err;
}

int tn_netmap_merge(struct tn_netmap *m, struct tn_netmap_message *message, int64_t wall_now, int64_t control_now,
                    const struct tn_netmap_sink *sink, unsigned *changes)
{
    struct incoming in = {0};
    const json_t *response = message->rest;
    *changes = 0;
    int err = parse_incoming(m, message, &in);
    if (!err) {
        if (m->fresh) tn_netmap_begin_session(m, response, changes);
        err = merge_peers(m, response, &in, wall_now, sink, changes);
        if (!err) err = tn_netmap_merge_rest(m, response, changes);
        merge_self(m, &in, control_now, changes);
        if (judge_and_tell(m, control_now, sink)) *changes |= TN_NETMAP_PEERS;
    }
    incoming_fini(&in);
    return err;
}

unsigned tn_netmap_expire(struct tn_netmap *m, int64_t control_now, const struct tn_netmap_sink *sink)
{
    unsigned changes = 0;
    if (m->self && tn_netnode_judge_expiry(m->self, control_now)) changes |= TN_NETMAP_SELF;
    if (judge_and_tell(m, control_now, sink)) changes |= TN_NETMAP_PEERS;
    return changes;
}

int64_t tn_netmap_next_expiry(const struct tn_netmap *m, int64_t control_now)
{
    const struct tn_netnode *self = tn_netmap_self(m);
    int64_t next = m->npeers > 0 ? m->next_expiry : INT64_MAX;
    if (m->npeers > 0 && !judged_still(m, control_now)) next = control_now;
    if (self && !self->expired && self->key_expiry > control_now && self->key_expiry < next) next = self->key_expiry;
    return next;
}

void tn_netmap_clear(struct tn_netmap *m, const struct tn_netmap_sink *sink)
{
    while (m->npeers > 0) remove_peer(m, m->peers[m->npeers - 1], sink);
    tn_netnode_free(m->self);
    m->self = NULL;
    tn_netmap_free_users(m);
    json_object_clear(m->filters);
    json_array_clear(m->rules);
    json_object_clear(m->messages);
    json_t **const parts[] = {&m->derp_map, &m->dns_config, &m->health, &m->shown_health};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) tn_netmap_replace_json(parts[i], NULL);
    free(m->domain);
    m->domain = NULL;
    m->tka_enabled = false;
    m->fresh = true;
}

/* --- reading --- */

const struct tn_netnode *tn_netmap_self(const struct tn_netmap *m) { return m->self ? &m->self->node : NULL; }
size_t tn_netmap_npeers(const struct tn_netmap *m) { return m->npeers; }
const struct tn_netnode *tn_netmap_peer_at(const struct tn_netmap *m, size_t i)
{
    return i < m->npeers ? &m->peers[i]->node : NULL;
}
const struct tn_netnode *tn_netmap_peer_by_id(const struct tn_netmap *m, int64_t id)
{
    const struct tn_netnode_entry *e = find_peer(m, id);
    return e ? &e->node : NULL;
}
const json_t *tn_netmap_derp_map(const struct tn_netmap *m) { return m->derp_map; }
const json_t *tn_netmap_filter_rules(const struct tn_netmap *m) { return m->rules; }
const json_t *tn_netmap_dns_config(const struct tn_netmap *m) { return m->dns_config; }
const char *tn_netmap_domain(const struct tn_netmap *m) { return m->domain ? m->domain : ""; }
const struct tn_user_profile *tn_netmap_user(const struct tn_netmap *m, int64_t id)
{
    const struct tn_netmap_user *u = tn_netmap_find_user(m, id);
    return u ? &u->profile : NULL;
}
const json_t *tn_netmap_health(const struct tn_netmap *m) { return m->shown_health; }
bool tn_netmap_tailnet_lock(const struct tn_netmap *m) { return m->tka_enabled; }
bool tn_netnode_has_cap(const struct tn_netnode *n, const char *cap)
{
    return json_object_get(n->cap_map, cap) != NULL;
}
