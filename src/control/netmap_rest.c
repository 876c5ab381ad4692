/* What a map response brings beside nodes: user profiles, DERP map, packet filters, DNS, domain, health, lock. */
#include "control/netmap_private.h"
#include "control/cjson.h"
#include "util/err.h"
#include "util/list.h"

#include <stdlib.h>
#include <string.h>

void tn_netmap_replace_json(json_t **slot, json_t *value_owned)
{
    json_decref(*slot);
    *slot = value_owned;
}

static bool user_has_id(const struct tn_hnode *h, const void *key)
{
    return TN_CONTAINER(h, struct tn_netmap_user, by_id)->profile.id == *(const int64_t *)key;
}

struct tn_netmap_user *tn_netmap_find_user(const struct tn_netmap *m, int64_t id)
{
    struct tn_hnode *h = tn_htable_find(&m->users, tn_netmap_hash_id(m, id), user_has_id, &id);
    return h ? TN_CONTAINER(h, struct tn_netmap_user, by_id) : NULL;
}

static void user_free(struct tn_hnode *h, void *arg)
{
    struct tn_netmap_user *u = TN_CONTAINER(h, struct tn_netmap_user, by_id);
    free(u->profile.login_name);
    free(u->profile.display_name);
    free(u->profile.profile_pic_url);
    free(u);
}

void tn_netmap_free_users(struct tn_netmap *m)
{
    tn_htable_each(&m->users, user_free, NULL);
    tn_htable_fini(&m->users);
    tn_htable_init(&m->users);
}

static bool same_user(const struct tn_netmap_user *u, const char *login, const char *name, const char *picture)
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
    struct tn_netmap_user *old = tn_netmap_find_user(m, id);
    if (old && same_user(old, login, name, picture)) return 0;
    if (!old && m->users.count >= TN_NETMAP_USERS_MAX) return TN_E_LIMIT;
    struct tn_netmap_user *u = calloc(1, sizeof *u);
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
    int err = tn_htable_insert(&m->users, &u->by_id, tn_netmap_hash_id(m, id));
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
    tn_netmap_replace_json(&m->derp_map, json_incref(map));
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

/* PacketFilter present, also empty, is the filter named "base". Then PacketFilters: "*": null clears all first,
 * another null deletes one, a list sets one. No rules at all block everything inbound. */
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
    tn_netmap_replace_json(&m->rules, rules);
    return 0;
}

static void merge_value(json_t **slot, json_t *value, unsigned bit, unsigned *changes)
{
    if (!value || (*slot && json_equal(*slot, value))) return;
    tn_netmap_replace_json(slot, json_incref(value));
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

/* Servers say trouble in one of two forms; readers see lines either way. Display messages win, as in the Go
 * client. */
static json_t *health_lines(const struct tn_netmap *m)
{
    const char *key;
    json_t *message, *lines;
    if (json_object_size(m->messages) == 0) return m->health ? json_incref(m->health) : NULL;
    lines = json_array();
    json_object_foreach(m->messages, key, message) {
        const char *title = tn_cjson_string(message, "Title"), *text = tn_cjson_string(message, "Text");
        const char *colon = title && text ? ": " : "";
        json_array_append_new(lines, json_sprintf("%s%s%s", title ? title : "", colon, text ? text : ""));
    }
    return lines;
}

static int merge_health(struct tn_netmap *m, const json_t *response, unsigned *changes)
{
    json_t *health = tn_cjson_array(response, "Health"), *patch = tn_cjson_object(response, "DisplayMessages");
    if (!health && !patch) return 0;
    if (health) tn_netmap_replace_json(&m->health, json_incref(health));
    int err = patch ? merge_messages(m, patch) : 0;
    if (err) return err;
    json_t *lines = health_lines(m);
    if (!lines != !m->shown_health || (lines && !json_equal(lines, m->shown_health))) *changes |= TN_NETMAP_HEALTH;
    tn_netmap_replace_json(&m->shown_health, lines);
    return 0;
}

static void merge_tka(struct tn_netmap *m, const json_t *info, unsigned *changes)
{
    if (!info) return;
    bool enabled = !tn_cjson_bool(info, "Disabled");
    if (enabled != m->tka_enabled) *changes |= TN_NETMAP_OTHER;
    m->tka_enabled = enabled;
}

/* What a session's first response leaves out does not exist, rules above all: without any, nothing comes in. */
void tn_netmap_begin_session(struct tn_netmap *m, const json_t *response, unsigned *changes)
{
    m->fresh = false;
    json_object_clear(m->filters);
    if (!tn_cjson_array(response, "PacketFilter") && !tn_cjson_object(response, "PacketFilters")) {
        if (json_array_size(m->rules) > 0) *changes |= TN_NETMAP_FILTER;
        json_array_clear(m->rules);
    }
    if (m->dns_config && !tn_cjson_object(response, "DNSConfig")) {
        tn_netmap_replace_json(&m->dns_config, NULL);
        *changes |= TN_NETMAP_DNS;
    }
    json_object_clear(m->messages);
    tn_netmap_replace_json(&m->health, NULL);
    if (m->shown_health && !tn_cjson_array(response, "Health") && !tn_cjson_object(response, "DisplayMessages")) {
        tn_netmap_replace_json(&m->shown_health, NULL);
        *changes |= TN_NETMAP_HEALTH;
    }
    if (m->tka_enabled && !tn_cjson_object(response, "TKAInfo")) {
        m->tka_enabled = false;
        *changes |= TN_NETMAP_OTHER;
    }
}

int tn_netmap_merge_rest(struct tn_netmap *m, const json_t *response, unsigned *changes)
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
