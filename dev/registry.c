#include "dev/registry.h"
#include "util/err.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    HOST_FIRST = 1,
    HOST_LAST = 65000,  /* of 100.64.0.0/16 */
    HOST_QUAD100 = 0x53, /* fd7a:115c:a1e0::53 is the service address of MagicDNS */
};

static bool key_is(const struct tn_hnode *node, const void *key)
{
    return memcmp(&TN_CONTAINER(node, struct tn_dev_node, by_key)->key, key, sizeof(struct tn_node_public)) == 0;
}

static bool machine_is(const struct tn_hnode *node, const void *key)
{
    return memcmp(&TN_CONTAINER(node, struct tn_dev_node, by_machine)->machine, key,
                  sizeof(struct tn_machine_public)) == 0;
}

static bool name_is(const struct tn_hnode *node, const void *name)
{
    return strcmp(TN_CONTAINER(node, struct tn_dev_node, by_name)->name, name) == 0;
}

static uint64_t name_hash(const struct tn_dev_registry *r, const char *name)
{
    return tn_siphash(&r->hash, name, strlen(name));
}

void tn_dev_registry_init(struct tn_dev_registry *r, const struct tn_rng *rng)
{
    *r = (struct tn_dev_registry){.next_id = 1};
    tn_rng_fill(rng, &r->hash, sizeof r->hash);
    tn_list_init(&r->nodes);
    tn_htable_init(&r->by_key);
    tn_htable_init(&r->by_machine);
    tn_htable_init(&r->by_name);
}

static void node_free(struct tn_dev_node *n)
{
    json_decref(n->hostinfo);
    json_decref(n->endpoints);
    free(n);
}

void tn_dev_registry_fini(struct tn_dev_registry *r)
{
    for (struct tn_list *l; (l = tn_list_pop_front(&r->nodes));) node_free(TN_CONTAINER(l, struct tn_dev_node, link));
    tn_htable_fini(&r->by_key);
    tn_htable_fini(&r->by_machine);
    tn_htable_fini(&r->by_name);
    memset(r->hosts, 0, sizeof r->hosts);
    r->count = 0;
}

struct tn_dev_node *tn_dev_registry_by_key(const struct tn_dev_registry *r, const struct tn_node_public *key)
{
    struct tn_hnode *h = tn_htable_find(&r->by_key, tn_siphash(&r->hash, key->b, 32), key_is, key);
    return h ? TN_CONTAINER(h, struct tn_dev_node, by_key) : NULL;
}

struct tn_dev_node *tn_dev_registry_by_machine(const struct tn_dev_registry *r,
                                               const struct tn_machine_public *machine)
{
    struct tn_hnode *h = tn_htable_find(&r->by_machine, tn_siphash(&r->hash, machine->b, 32), machine_is, machine);
    return h ? TN_CONTAINER(h, struct tn_dev_node, by_machine) : NULL;
}

struct tn_dev_node *tn_dev_registry_by_id(const struct tn_dev_registry *r, int64_t id)
{
    TN_LIST_EACH (l, &r->nodes) {
        struct tn_dev_node *n = TN_CONTAINER(l, struct tn_dev_node, link);
        if (n->id == id) return n;
    }
    return NULL;
}

struct tn_dev_node *tn_dev_registry_by_name(const struct tn_dev_registry *r, const char *name)
{
    struct tn_hnode *h = tn_htable_find(&r->by_name, name_hash(r, name), name_is, name);
    return h ? TN_CONTAINER(h, struct tn_dev_node, by_name) : NULL;
}

void tn_dev_label(const char *hostname, char out[TN_DEV_LABEL_MAX + 1])
{
    size_t len = 0;
    for (const char *p = hostname; *p && *p != '.' && len < TN_DEV_LABEL_MAX; p++) {
        unsigned char c = (unsigned char)*p;
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (plain) out[len++] = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
        else if (len && out[len - 1] != '-') out[len++] = '-';
    }
    while (len && out[len - 1] == '-') len--;
    if (!len) {
        memcpy(out, "node", 4);
        len = 4;
    }
    out[len] = '\0';
}

/* Is name base itself or base and "-<number>"? */
static bool derived_from(const char *name, const char *base)
{
    size_t len = strlen(base);
    if (strncmp(name, base, len) != 0) return false;
    if (!name[len]) return true;
    if (name[len] != '-' || !name[len + 1]) return false;
    return strspn(name + len + 1, "0123456789") == strlen(name + len + 1);
}

static void pick_name(const struct tn_dev_registry *r, const struct tn_dev_node *self, const char *base,
                      char out[TN_DEV_LABEL_MAX + 1])
{
    snprintf(out, TN_DEV_LABEL_MAX + 1, "%s", base);
    /* One more try than there can be other nodes ends the search. */
    for (unsigned i = 1; i <= TN_DEV_NODES_MAX; i++) {
        const struct tn_dev_node *taken = tn_dev_registry_by_name(r, out);
        if (!taken || taken == self) return;
        snprintf(out, TN_DEV_LABEL_MAX + 1, "%.*s-%u", TN_DEV_LABEL_MAX - 6, base, i);
    }
}

bool tn_dev_registry_host_taken(const struct tn_dev_registry *r, uint16_t host)
{
    return r->hosts[host / 8] >> (host % 8) & 1;
}

static void mark_host(struct tn_dev_registry *r, uint16_t host, bool taken)
{
    uint8_t bit = (uint8_t)(1 << (host % 8));
    if (taken) r->hosts[host / 8] |= bit;
    else r->hosts[host / 8] &= (uint8_t)~bit;
}

void tn_dev_node_set_host(struct tn_dev_registry *r, struct tn_dev_node *n, uint16_t host)
{
    mark_host(r, n->host, false);
    mark_host(r, host, true);
    n->host = host;
}

/* 0: none free, which TN_DEV_NODES_MAX excludes. */
static uint16_t pick_host(const struct tn_dev_registry *r)
{
    uint16_t host = r->last_host;
    for (unsigned i = 0; i <= TN_DEV_NODES_MAX + 1; i++) {
        host = host < HOST_FIRST || host >= HOST_LAST ? HOST_FIRST : (uint16_t)(host + 1);
        if (host != HOST_QUAD100 && !tn_dev_registry_host_taken(r, host)) return host;
    }
    return 0;
}

static int enter(struct tn_dev_registry *r, struct tn_dev_node *n)
{
    int err = tn_htable_insert(&r->by_key, &n->by_key, tn_siphash(&r->hash, n->key.b, 32));
    if (err) return err;
    err = tn_htable_insert(&r->by_machine, &n->by_machine, tn_siphash(&r->hash, n->machine.b, 32));
    if (err) goto no_machine;
    err = tn_htable_insert(&r->by_name, &n->by_name, name_hash(r, n->name));
    if (err) goto no_name;
    mark_host(r, n->host, true);
    tn_list_push_back(&r->nodes, &n->link);
    r->count++;
    n->born = n->whole = n->self = ++r->gen;
    return 0;
no_name:
    tn_htable_remove(&r->by_machine, &n->by_machine);
no_machine:
    tn_htable_remove(&r->by_key, &n->by_key);
    return err;
}

int tn_dev_registry_add(struct tn_dev_registry *r, const struct tn_machine_public *machine,
                        const struct tn_node_public *key, const char *hostname, int64_t unix_s,
                        struct tn_dev_node **out)
{
    if (tn_dev_registry_by_key(r, key) || tn_dev_registry_by_machine(r, machine)) return TN_E_EXIST;
    uint16_t host = r->count < TN_DEV_NODES_MAX ? pick_host(r) : 0;
    if (!host) return TN_E_LIMIT;
    struct tn_dev_node *n = calloc(1, sizeof *n);
    if (!n) return TN_E_NOMEM;
    n->hostinfo = json_object();
    n->endpoints = json_array();
    n->key = *key;
    n->machine = *machine;
    n->created = unix_s;
    n->host = host;
    char label[TN_DEV_LABEL_MAX + 1];
    tn_dev_label(hostname, label);
    pick_name(r, NULL, label, n->name);
    n->id = r->next_id;
    int err = n->hostinfo && n->endpoints ? enter(r, n) : TN_E_NOMEM;
    if (err) {
        node_free(n);
        return err;
    }
    r->next_id++;
    r->last_host = host;
    *out = n;
    return 0;
}

void tn_dev_registry_remove(struct tn_dev_registry *r, struct tn_dev_node *n)
{
    struct tn_dev_removed *slot = &r->removed[r->nremoved % TN_DEV_REMOVED_MAX];
    if (r->nremoved >= TN_DEV_REMOVED_MAX) r->forgotten = slot->gen;
    *slot = (struct tn_dev_removed){.id = n->id, .born = n->born, .gen = ++r->gen};
    r->nremoved++;
    tn_htable_remove(&r->by_key, &n->by_key);
    tn_htable_remove(&r->by_machine, &n->by_machine);
    tn_htable_remove(&r->by_name, &n->by_name);
    mark_host(r, n->host, false);
    tn_list_remove(&n->link);
    r->count--;
    node_free(n);
}

int tn_dev_node_set_key(struct tn_dev_registry *r, struct tn_dev_node *n, const struct tn_node_public *key)
{
    if (tn_node_public_eq(&n->key, key)) return 0;
    if (tn_dev_registry_by_key(r, key)) return TN_E_EXIST;
    tn_htable_remove(&r->by_key, &n->by_key);
    n->key = *key;
    int err = tn_htable_insert(&r->by_key, &n->by_key, tn_siphash(&r->hash, n->key.b, 32));
    n->whole = n->self = ++r->gen;
    return err;
}

/* Equal but for NetInfo, whose latencies change all the time and mean nothing to peers? */
static bool same_but_netinfo(const json_t *a, const json_t *b)
{
    json_t *x = json_copy((json_t *)a), *y = json_copy((json_t *)b);
    bool same = false;
    if (x && y) {
        json_object_del(x, "NetInfo");
        json_object_del(y, "NetInfo");
        same = json_equal(x, y);
    }
    json_decref(x);
    json_decref(y);
    return same;
}

bool tn_dev_node_set_hostinfo(struct tn_dev_registry *r, struct tn_dev_node *n, json_t *hostinfo)
{
    if (json_equal(n->hostinfo, hostinfo)) return false;
    bool quiet = same_but_netinfo(n->hostinfo, hostinfo);
    json_incref(hostinfo);
    json_decref(n->hostinfo);
    n->hostinfo = hostinfo;
    if (quiet) return true;
    const char *hostname = json_string_value(json_object_get(hostinfo, "Hostname"));
    char label[TN_DEV_LABEL_MAX + 1], name[TN_DEV_LABEL_MAX + 1];
    tn_dev_label(hostname ? hostname : "", label);
    if (hostname && !derived_from(n->name, label)) {
        pick_name(r, n, label, name);
        tn_htable_remove(&r->by_name, &n->by_name);
        memcpy(n->name, name, sizeof n->name);
        (void)tn_htable_insert(&r->by_name, &n->by_name, name_hash(r, name)); /* the table exists: it can't fail */
    }
    n->whole = n->self = ++r->gen;
    return true;
}

/* Endpoints with a zone fail to parse and fall out here too. */
static bool usable_endpoint(const json_t *v, struct tn_addrport *ap)
{
    const char *text = json_string_value(v);
    if (!text || tn_addrport_parse(text, ap) != 0 || ap->port == 0) return false;
    return !(ap->ip.family == 6 && tn_ip_is_link_local(&ap->ip)) && !tn_ip_is_multicast(&ap->ip);
}

bool tn_dev_node_set_endpoints(struct tn_dev_registry *r, struct tn_dev_node *n, const json_t *endpoints)
{
    json_t *kept = json_array();
    if (!kept) return false;
    size_t i;
    json_t *v;
    json_array_foreach ((json_t *)endpoints, i, v) {
        struct tn_addrport ap;
        char text[TN_ADDRPORT_STRLEN];
        if (json_array_size(kept) == TN_DEV_ENDPOINTS_MAX) break;
        if (usable_endpoint(v, &ap)) json_array_append_new(kept, json_string(tn_addrport_format(&ap, text)));
    }
    if (json_equal(kept, n->endpoints)) {
        json_decref(kept);
        return false;
    }
    json_decref(n->endpoints);
    n->endpoints = kept;
    n->at_endpoints = ++r->gen;
    return true;
}

bool tn_dev_node_set_disco(struct tn_dev_registry *r, struct tn_dev_node *n, const struct tn_disco_public *disco)
{
    if (tn_disco_public_eq(&n->disco, disco)) return false;
    n->disco = *disco;
    n->at_disco = ++r->gen;
    return true;
}

bool tn_dev_node_set_home_derp(struct tn_dev_registry *r, struct tn_dev_node *n, int region)
{
    if (n->home_derp == region) return false;
    n->home_derp = region;
    n->at_derp = ++r->gen;
    return true;
}

bool tn_dev_node_set_cap(struct tn_dev_registry *r, struct tn_dev_node *n, int cap)
{
    if (n->cap == cap) return false;
    n->cap = cap;
    n->at_cap = ++r->gen;
    return true;
}

bool tn_dev_node_set_online(struct tn_dev_registry *r, struct tn_dev_node *n, bool online, int64_t unix_s)
{
    n->last_seen = unix_s;
    if (n->online == online) return false;
    n->online = online;
    n->at_online = ++r->gen;
    return true;
}

bool tn_dev_node_set_expiry(struct tn_dev_registry *r, struct tn_dev_node *n, int64_t expiry)
{
    if (n->expiry == expiry) return false;
    /* A patch cannot say "never expires" (zero means unchanged), hence the whole node when an expiry goes. */
    if (!expiry) n->whole = ++r->gen;
    n->expiry = expiry;
    n->at_expiry = n->self = ++r->gen;
    return true;
}

struct tn_ip tn_dev_node_ip4(const struct tn_dev_node *n)
{
    return tn_ip4(100, 64, (uint8_t)(n->host >> 8), (uint8_t)n->host);
}

struct tn_ip tn_dev_node_ip6(const struct tn_dev_node *n)
{
    uint8_t b[16] = {0xfd, 0x7a, 0x11, 0x5c, 0xa1, 0xe0};
    b[14] = (uint8_t)(n->host >> 8);
    b[15] = (uint8_t)n->host;
    return tn_ip_from_bytes(b, 6);
}
