/* Merging map responses (controlclient/map.go updateStateFromResponse and what it calls).
 *
 * Three states of a field matter and are kept apart: absent (or null) means "as before", empty means "none", and a value
 * replaces. Which is which differs by field and is written at each merge function. A merge has three steps: parse all
 * nodes and patches of the message, then change the map, then tell. So a malformed message changes nothing, and whoever
 * is told sees the state after the whole message. */
#include "control/netmap_merge.h"
#include "control/cjson.h"
#include "control/netnode.h"
#include "util/err.h"
#include "util/list.h"

#include <stdlib.h>
#include <string.h>

struct user {
    struct tn_user_profile profile;
    struct tn_hnode by_id;
};

struct tn_netmap {
    struct tn_hashkey hash;
    struct tn_netnode_entry *self;
    struct tn_netnode_entry **peers;
    size_t npeers, cap_peers;
    struct tn_htable peers_by_id, users;
    uint64_t full_lists; /* counts full peer lists, to find those a new one leaves out */
    json_t *derp_map, *filters, *rules, *dns_config, *health, *messages, *shown_health;
    char *domain;
    bool fresh; /* the next response begins a session */
    bool tka_enabled;
};

/* A message's parsed nodes, owned until they are moved into the map. */
struct incoming {
    struct tn_netnode_entry *self;
    struct tn_netnode_entry **nodes;
    size_t nnodes;
    struct tn_netnode_patch *patches;
    size_t npatches;
    bool full; /* nodes are the whole list */
};

/* --- small parts --- */

static uint64_t hash_id(const struct tn_netmap *m, int64_t id) { return tn_siphash(&m->hash, &id, sizeof id); }

static bool peer_has_id(const struct tn_hnode *h, const void *key)
{
    return TN_CONTAINER(h, struct tn_netnode, by_id)->id == *(const int64_t *)key;
}

static bool user_has_id(const struct tn_hnode *h, const void *key)
{
    return TN_CONTAINER(h, struct user, by_id)->profile.id == *(const int64_t *)key;
}

static struct tn_netnode_entry *find_peer(const struct tn_netmap *m, int64_t id)
{
    struct tn_hnode *h = tn_htable_find(&m->peers_by_id, hash_id(m, id), peer_has_id, &id);
    return h ? TN_CONTAINER(TN_CONTAINER(h, struct tn_netnode, by_id), struct tn_netnode_entry, node) : NULL;
}

static struct user *find_user(const struct tn_netmap *m, int64_t id)
{
    struct tn_hnode *h = tn_htable_find(&m->users, hash_id(m, id), user_has_id, &id);
    return h ? TN_CONTAINER(h, struct user, by_id) : NULL;
}

static void replace_json(json_t **slot, json_t *value_owned)
{
    json_decref(*slot);
    *slot = value_owned;
}

static void user_free(struct tn_hnode *h, void *arg)
{
    struct user *u = TN_CONTAINER(h, struct user, by_id);
    free(u->profile.login_name);
    free(u->profile.display_name);
    free(u->profile.profile_pic_url);
    free(u);
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
    tn_htable_each(&m->users, user_free, NULL);
    tn_htable_fini(&m->users);
    json_t *const parts[] = {m->derp_map, m->filters, m->rules, m->dns_config, m->health, m->messages, m->shown_health};
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

/* Moves a parsed node into the map. Room for it was made. */
static int put_peer(struct tn_netmap *m, struct tn_netnode_entry *e)
{
    struct tn_netnode_entry *old = find_peer(m, e->node.id);
    e->seen = m->full_lists;
    e->changed = true;
    if (old && tn_netnode_same(old, e)) {
        old->seen = m->full_lists;
        tn_netnode_free(e);
        return 0;
    }
    if (old) {
        e->index = old->index;
        tn_htable_remove(&m->peers_by_id, &old->node.by_id);
        tn_netnode_free(old);
    } else {
        e->index = m->npeers++;
    }
    m->peers[e->index] = e;
    int err = tn_htable_insert(&m->peers_by_id, &e->node.by_id, hash_id(m, e->node.id));
    if (!err) return 0;
    m->peers[e->index] = m->peers[--m->npeers]; /* without its index entry it is unreachable */
    m->peers[e->index]->index = e->index;
    tn_netnode_free(e);
    return err;
}

static void remove_peer(struct tn_netmap *m, struct tn_netnode_entry *e, const struct tn_netmap_sink *sink)
{
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
        if (e && fn(&e->node, json_is_true(value), wall_now)) e->changed = true;
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
    int err = make_room(m, in->nnodes);
    for (size_t i = 0; i < in->nnodes && !err; i++) {
        err = put_peer(m, in->nodes[i]);
        in->nodes[i] = NULL;
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
        if (e && tn_netnode_patch_apply(e, &in->patches[i])) e->changed = true;
    }
    return 0;
}

static bool judge_and_tell(struct tn_netmap *m, int64_t control_now, const struct tn_netmap_sink *sink)
{
    bool any = false;
    for (size_t i = 0; i < m->npeers; i++) {
        struct tn_netnode_entry *e = m->peers[i];
        bool turned = tn_netnode_judge_expiry(e, control_now);
        if (!e->changed && !turned) continue;
        e->changed = false;
        any = true;
        sink->peer(sink->ctx, &e->node);
    }
    return any;
}

/* --- everything else --- */

static bool same_user(const struct user *u, const char *login, const char *name, const char *picture)
{
    return strcmp(u->profile.login_name, login) == 0 && strcmp(u->profile.display_name, name) == 0 &&
           strcmp(u->profile.profile_pic_url, picture) == 0;
}

static const char *text_or_empty(const json_t *json, const char *key)
{
    const char *text = tn_cjson_string(json, key);
    return text ? text : "";
}

static int merge_user(struct tn_netmap *m, int64_t id, const json_t *item, unsigned *changes)
{
    const char *login = text_or_empty(item, "LoginName"), *name = text_or_empty(item, "DisplayName");
    const char *picture = text_or_empty(item, "ProfilePicURL");
    struct user *old = find_user(m, id);
    if (old && same_user(old, login, name, picture)) return 0;
    if (!old && m->users.count >= TN_NETMAP_USERS_MAX) return TN_E_LIMIT;
    struct user *u = calloc(1, sizeof *u);
    if (!u) return TN_E_NOMEM;
    u->profile = (struct tn_user_profile){id, strdup(login), strdup(name), strdup(picture)};
    if (!u->profile.login_name || !u->profile.display_name || !u->profile.profile_pic_url) {
        user_free(&u->by_id, NULL);
        return TN_E_NOMEM;
    }
    if (old) {
        tn_htable_remove(&m->users, &old->by_id);
        user_free(&old->by_id, NULL);
    }
    *changes |= TN_NETMAP_USERS;
    int err = tn_htable_insert(&m->users, &u->by_id, hash_id(m, id));
    if (err) user_free(&u->by_id, NULL);
    return err;
}

static int merge_users(struct tn_netmap *m, const json_t *list, unsigned *changes)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        int64_t id = tn_cjson_int(item, "ID");
        int err = id ? merge_user(m, id, item, changes) : 0;
        if (err) return err;
    }
    return 0;
}

/* Headscale was seen to send null regions. */
static void drop_null_regions(json_t *regions)
{
    void *next;
    const char *key;
    json_t *region;
    json_object_foreach_safe(regions, next, key, region) {
        if (!json_is_object(region)) json_object_del(regions, key);
    }
}

static void inherit(json_t *now, const json_t *before, const char *key)
{
    json_t *old = json_object_get(before, key);
    if (old && !tn_cjson_get(now, key)) json_object_set(now, key, old);
}

/* Regions and HomeParams (and in it RegionScore) are kept each when absent or null. */
static void merge_derp(struct tn_netmap *m, json_t *map, unsigned *changes)
{
    if (!map) return;
    json_t *regions = tn_cjson_object(map, "Regions");
    if (regions) drop_null_regions(regions);
    else if (m->derp_map) {
        inherit(map, m->derp_map, "Regions");
        inherit(map, m->derp_map, "omitDefaultRegions");
    } else json_object_set_new(map, "Regions", json_object());
    json_t *home = tn_cjson_object(map, "HomeParams");
    if (home) inherit(home, tn_cjson_object(m->derp_map, "HomeParams"), "RegionScore");
    else inherit(map, m->derp_map, "HomeParams");
    if (m->derp_map && json_equal(m->derp_map, map)) return;
    replace_json(&m->derp_map, json_incref(map));
    *changes |= TN_NETMAP_DERP;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* All named filters' rules, in the order of their names. */
static int concatenate(const json_t *filters, json_t **out)
{
    const char *names[TN_NETMAP_FILTERS_MAX], *key;
    json_t *value, *all = json_array();
    size_t n = 0;
    if (!all) return TN_E_NOMEM;
    json_object_foreach((json_t *)(uintptr_t)filters, key, value) {
        if (n < TN_NETMAP_FILTERS_MAX) names[n++] = key;
    }
    qsort(names, n, sizeof *names, compare_names);
    int err = 0;
    for (size_t i = 0; i < n && !err; i++) {
        value = json_object_get(filters, names[i]);
        if (json_array_size(all) + json_array_size(value) > TN_NETMAP_RULES_MAX) err = TN_E_LIMIT;
        else if (json_array_extend(all, value) != 0) err = TN_E_NOMEM;
    }
    if (err) json_decref(all);
    else *out = all;
    return err;
}

/* PacketFilter present, also empty, is the filter named "base". Then PacketFilters: "*": null clears all first, another
 * null deletes one, a list sets one. No rules at all block everything inbound. */
static int merge_filters(struct tn_netmap *m, const json_t *response, unsigned *changes)
{
    json_t *base = tn_cjson_array(response, "PacketFilter"), *named = tn_cjson_object(response, "PacketFilters");
    if (!base && !named) return 0;
    if (base && json_object_set(m->filters, "base", base) != 0) return TN_E_NOMEM;
    if (named && tn_cjson_has_null(named, "*")) json_object_clear(m->filters);
    const char *key;
    json_t *value, *rules;
    json_object_foreach(named, key, value) {
        if (strcmp(key, "*") == 0) continue;
        if (json_is_null(value)) json_object_del(m->filters, key);
        else if (!json_is_array(value)) return TN_E_MALFORMED;
        else if (json_object_set(m->filters, key, value) != 0) return TN_E_NOMEM;
        if (json_object_size(m->filters) > TN_NETMAP_FILTERS_MAX) return TN_E_LIMIT;
    }
    int err = concatenate(m->filters, &rules);
    if (err) return err;
    if (!json_equal(rules, m->rules)) *changes |= TN_NETMAP_FILTER;
    replace_json(&m->rules, rules);
    return 0;
}

static void merge_value(json_t **slot, json_t *value, unsigned bit, unsigned *changes)
{
    if (!value || (*slot && json_equal(*slot, value))) return;
    replace_json(slot, json_incref(value));
    *changes |= bit;
}

static int merge_domain(struct tn_netmap *m, const char *domain, unsigned *changes)
{
    if (!domain || !*domain || (m->domain && strcmp(m->domain, domain) == 0)) return 0;
    char *copy = strdup(domain);
    if (!copy) return TN_E_NOMEM;
    free(m->domain);
    m->domain = copy;
    *changes |= TN_NETMAP_DOMAIN;
    return 0;
}

/* A patch map: "*": null clears first, another null deletes, a value sets. */
static int merge_messages(struct tn_netmap *m, json_t *patch)
{
    const char *key;
    json_t *value;
    if (tn_cjson_has_null(patch, "*")) json_object_clear(m->messages);
    json_object_foreach(patch, key, value) {
        if (strcmp(key, "*") == 0) continue;
        if (json_is_null(value)) json_object_del(m->messages, key);
        else if (json_object_set(m->messages, key, value) != 0) return TN_E_NOMEM;
        if (json_object_size(m->messages) > TN_NETMAP_MESSAGES_MAX) return TN_E_LIMIT;
    }
    return 0;
}

/* Servers say trouble in one of two forms; readers see lines either way. Display messages win, as in the Go client. */
static json_t *health_lines(const struct tn_netmap *m)
{
    const char *key;
    json_t *message, *lines;
    if (json_object_size(m->messages) == 0) return m->health ? json_incref(m->health) : NULL;
    lines = json_array();
    json_object_foreach(m->messages, key, message) {
        const char *title = tn_cjson_string(message, "Title"), *text = tn_cjson_string(message, "Text");
        json_array_append_new(lines, json_sprintf("%s%s%s", title ? title : "", title && text ? ": " : "", text ? text : ""));
    }
    return lines;
}

static int merge_health(struct tn_netmap *m, const json_t *response, unsigned *changes)
{
    json_t *health = tn_cjson_array(response, "Health"), *patch = tn_cjson_object(response, "DisplayMessages");
    if (!health && !patch) return 0;
    if (health) replace_json(&m->health, json_incref(health));
    int err = patch ? merge_messages(m, patch) : 0;
    if (err) return err;
    json_t *lines = health_lines(m);
    if (!lines != !m->shown_health || (lines && !json_equal(lines, m->shown_health))) *changes |= TN_NETMAP_HEALTH;
    replace_json(&m->shown_health, lines);
    return 0;
}

static void merge_tka(struct tn_netmap *m, const json_t *info, unsigned *changes)
{
    if (!info) return;
    bool enabled = !tn_cjson_bool(info, "Disabled");
    if (enabled != m->tka_enabled) *changes |= TN_NETMAP_OTHER;
    m->tka_enabled = enabled;
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

/* What a session's first response leaves out does not exist, rules above all: without any, nothing comes in. */
static void begin_session(struct tn_netmap *m, const json_t *response, unsigned *changes)
{
    m->fresh = false;
    json_object_clear(m->filters);
    if (!tn_cjson_array(response, "PacketFilter") && !tn_cjson_object(response, "PacketFilters")) {
        if (json_array_size(m->rules) > 0) *changes |= TN_NETMAP_FILTER;
        json_array_clear(m->rules);
    }
    if (m->dns_config && !tn_cjson_object(response, "DNSConfig")) {
        replace_json(&m->dns_config, NULL);
        *changes |= TN_NETMAP_DNS;
    }
    json_object_clear(m->messages);
    replace_json(&m->health, NULL);
    if (m->shown_health && !tn_cjson_array(response, "Health") && !tn_cjson_object(response, "DisplayMessages")) {
        replace_json(&m->shown_health, NULL);
        *changes |= TN_NETMAP_HEALTH;
    }
    if (m->tka_enabled && !tn_cjson_object(response, "TKAInfo")) {
        m->tka_enabled = false;
        *changes |= TN_NETMAP_OTHER;
    }
}

static int merge_rest(struct tn_netmap *m, const json_t *response, unsigned *changes)
{
    int err = merge_users(m, tn_cjson_array(response, "UserProfiles"), changes);
    if (err) return err;
    merge_derp(m, tn_cjson_object(response, "DERPMap"), changes);
    err = merge_filters(m, response, changes);
    if (err) return err;
    merge_value(&m->dns_config, tn_cjson_object(response, "DNSConfig"), TN_NETMAP_DNS, changes);
    err = merge_domain(m, tn_cjson_string(response, "Domain"), changes);
    if (err) return err;
    merge_tka(m, tn_cjson_object(response, "TKAInfo"), changes);
    return merge_health(m, response, changes);
}

/* --- the message --- */

static void incoming_fini(struct incoming *in)
{
    tn_netnode_free(in->self);
    for (size_t i = 0; i < in->nnodes; i++) tn_netnode_free(in->nodes[i]);
    free(in->nodes);
    free(in->patches);
}

static int parse_nodes(const json_t *list, struct incoming *in)
{
    size_t n = json_array_size(list);
    if (n > TN_NETMAP_PEERS_MAX) return TN_E_LIMIT;
    if (n == 0) return 0;
    in->nodes = calloc(n, sizeof *in->nodes);
    if (!in->nodes) return TN_E_NOMEM;
    for (; in->nnodes < n; in->nnodes++) {
        int err = tn_netnode_parse(json_array_get(list, in->nnodes), &in->nodes[in->nnodes]);
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

static int parse_incoming(const struct tn_netmap *m, const json_t *response, struct incoming *in)
{
    const json_t *node = tn_cjson_get(response, "Node"), *peers = tn_cjson_array(response, "Peers");
    if (!json_is_object(response)) return TN_E_MALFORMED;
    if (m->fresh && !node) return TN_E_PROTO;
    in->full = m->fresh || json_array_size(peers) > 0; /* later on an empty list means "no change" */
    int err = node ? tn_netnode_parse(node, &in->self) : 0;
    if (!err) err = parse_nodes(json_array_size(peers) > 0 ? peers : tn_cjson_array(response, "PeersChanged"), in);
    if (!err && !in->full) err = parse_patches(tn_cjson_array(response, "PeersChangedPatch"), in);
    return err;
}

int tn_netmap_merge(struct tn_netmap *m, const json_t *response, int64_t wall_now, int64_t control_now,
                    const struct tn_netmap_sink *sink, unsigned *changes)
{
    struct incoming in = {0};
    *changes = 0;
    int err = parse_incoming(m, response, &in);
    if (!err) {
        if (m->fresh) begin_session(m, response, changes);
        err = merge_peers(m, response, &in, wall_now, sink, changes);
        if (!err) err = merge_rest(m, response, changes);
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

static int64_t next_of(const struct tn_netnode_entry *e, int64_t control_now, int64_t best)
{
    int64_t at = e->node.key_expiry;
    return !e->node.expired && at > control_now && at < best ? at : best;
}

int64_t tn_netmap_next_expiry(const struct tn_netmap *m, int64_t control_now)
{
    int64_t best = m->self ? next_of(m->self, control_now, INT64_MAX) : INT64_MAX;
    for (size_t i = 0; i < m->npeers; i++) best = next_of(m->peers[i], control_now, best);
    return best;
}

void tn_netmap_clear(struct tn_netmap *m, const struct tn_netmap_sink *sink)
{
    while (m->npeers > 0) remove_peer(m, m->peers[m->npeers - 1], sink);
    tn_netnode_free(m->self);
    m->self = NULL;
    tn_htable_each(&m->users, user_free, NULL);
    tn_htable_fini(&m->users);
    tn_htable_init(&m->users);
    json_object_clear(m->filters);
    json_array_clear(m->rules);
    json_object_clear(m->messages);
    json_t **const parts[] = {&m->derp_map, &m->dns_config, &m->health, &m->shown_health};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) replace_json(parts[i], NULL);
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
    const struct user *u = find_user(m, id);
    return u ? &u->profile : NULL;
}
const json_t *tn_netmap_health(const struct tn_netmap *m) { return m->shown_health; }
bool tn_netmap_tailnet_lock(const struct tn_netmap *m) { return m->tka_enabled; }
bool tn_netnode_has_cap(const struct tn_netnode *n, const char *cap) { return json_object_get(n->cap_map, cap) != NULL; }
