/* tailscale.com v1.102.5 wgengine/magicsock/derp.go: derpWriteChanForRegion, setDERPMap, cleanStaleDerp.
 *
 * One difference from Go: a peer's home connection counts only while it is up. A home that is being redialed does not
 * swallow datagrams when the peer was just heard on another connection. */
#include "path/derp_set.h"
#include "util/err.h"
#include "util/heap.h"

#include <stdlib.h>

enum { IDLE_US = 60 * 1000000 }; /* of writes; Go's derpInactiveCleanupTime */

struct slot {
    struct tn_derp_client *client;
    uint64_t last_send_us;
};

struct tn_derp_set {
    struct tn_derp_set_config config;
    const struct tn_derp_map *map;
    struct slot *slots;
    size_t count, cap;
    int home, pinned;
    bool prefer6;
};

static int region_of(const struct tn_derp_client *c) { return tn_derp_client_region(c)->id; }

static void on_packets(void *ctx, struct tn_derp_client *c, const struct tn_node_public *from, uint8_t *run, size_t len,
                       size_t segment, uint64_t now_us)
{
    struct tn_derp_set *s = ctx;
    struct tn_derp_route route = {region_of(c), tn_derp_client_generation(c)};
    s->config.cb->packets(s->config.ctx, route, from, run, len, segment, now_us);
}

static void on_gone(void *ctx, struct tn_derp_client *c, const struct tn_node_public *peer, uint8_t reason)
{
    struct tn_derp_set *s = ctx;
    s->config.cb->gone(s->config.ctx, region_of(c), peer);
}

static void on_state(void *ctx, struct tn_derp_client *c, int err, const char *text, uint64_t now_us)
{
    struct tn_derp_set *s = ctx;
    s->config.cb->state(s->config.ctx, region_of(c), err, text, now_us);
}

static void on_health(void *ctx, struct tn_derp_client *c, const char *text)
{
    struct tn_derp_set *s = ctx;
    s->config.cb->health(s->config.ctx, region_of(c), text);
}

static const struct tn_derp_client_callbacks client_callbacks = {
    .packets = on_packets, .gone = on_gone, .state = on_state, .health = on_health};

int tn_derp_set_new(const struct tn_derp_set_config *config, struct tn_derp_set **out)
{
    struct tn_derp_set *s = calloc(1, sizeof *s);
    if (!s) return TN_E_NOMEM;
    s->config = *config;
    *out = s;
    return 0;
}

static void close_slot(struct tn_derp_set *s, size_t i, const char *why, uint64_t now_us)
{
    struct tn_derp_client *c = s->slots[i].client;
    int region = region_of(c);
    bool was_up = tn_derp_client_up(c);
    s->slots[i] = s->slots[--s->count];
    tn_derp_client_free(c);
    if (was_up) s->config.cb->state(s->config.ctx, region, TN_E_CLOSED, why, now_us);
}

void tn_derp_set_free(struct tn_derp_set *s)
{
    if (!s) return;
    while (s->count) tn_derp_client_free(s->slots[--s->count].client);
    free(s->slots);
    free(s);
}

static struct slot *find(const struct tn_derp_set *s, int region)
{
    for (size_t i = 0; i < s->count; i++)
        if (region_of(s->slots[i].client) == region) return &s->slots[i];
    return NULL;
}

struct tn_derp_client *tn_derp_set_client(const struct tn_derp_set *s, int region)
{
    struct slot *slot = find(s, region);
    return slot ? slot->client : NULL;
}

/* The slot of a region of the map, made if need be; NULL for unknown regions and when memory is short. */
static struct slot *obtain(struct tn_derp_set *s, int region, uint64_t now_us)
{
    struct slot *slot = find(s, region);
    const struct tn_derp_region *r = slot ? NULL : tn_derp_map_find(s->map, region);
    if (slot || !r) return slot;
    if (s->count == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 4;
        struct slot *slots = realloc(s->slots, cap * sizeof *slots);
        if (!slots) return NULL;
        s->slots = slots;
        s->cap = cap;
    }
    struct tn_derp_client_config config = {
        .key = s->config.key, .public_key = s->config.public_key, .dialer = s->config.dialer, .rng = s->config.rng,
        .log = s->config.log, .cb = &client_callbacks, .ctx = s};
    slot = &s->slots[s->count];
    if (tn_derp_client_new(&config, r, &slot->client) != 0) return NULL;
    slot->last_send_us = now_us;
    tn_derp_client_set_home(slot->client, region == s->home);
    tn_derp_client_set_prefer6(slot->client, s->prefer6);
    s->count++;
    return slot;
}

void tn_derp_set_map(struct tn_derp_set *s, const struct tn_derp_map *map, uint64_t now_us)
{
    s->map = map;
    for (size_t i = s->count; i-- > 0;) {
        const struct tn_derp_region *old = tn_derp_client_region(s->slots[i].client);
        const struct tn_derp_region *now = tn_derp_map_find(map, old->id);
        if (tn_derp_region_equal(old, now)) tn_derp_client_set_region(s->slots[i].client, now);
        else close_slot(s, i, "region redefined", now_us);
    }
    if (!tn_derp_map_find(map, s->home)) s->home = 0;
    if (s->home) obtain(s, s->home, now_us);
}

void tn_derp_set_rekeyed(struct tn_derp_set *s, uint64_t now_us)
{
    for (size_t i = s->count; i-- > 0;)
        if (region_of(s->slots[i].client) == s->home) tn_derp_client_reconnect(s->slots[i].client, now_us);
        else close_slot(s, i, "new node key", now_us);
}

void tn_derp_set_home(struct tn_derp_set *s, int region, uint64_t now_us)
{
    if (s->home == region) return;
    struct slot *old = find(s, s->home);
    if (old) {
        tn_derp_client_set_home(old->client, false);
        /* Peers take a moment to learn of the move: the old home stays open for a while. */
        old->last_send_us = now_us;
    }
    s->home = region;
    struct slot *slot = region ? obtain(s, region, now_us) : NULL;
    if (slot) tn_derp_client_set_home(slot->client, true);
}

void tn_derp_set_pin(struct tn_derp_set *s, int region) { s->pinned = region; }
int tn_derp_set_home_region(const struct tn_derp_set *s) { return s->home; }

void tn_derp_set_prefer6(struct tn_derp_set *s, bool prefer6)
{
    s->prefer6 = prefer6;
    for (size_t i = 0; i < s->count; i++) tn_derp_client_set_prefer6(s->slots[i].client, prefer6);
}

void tn_derp_set_check(struct tn_derp_set *s, const struct tn_ip *addrs, size_t naddrs, uint64_t now_us)
{
    for (size_t i = 0; i < s->count; i++) tn_derp_client_check(s->slots[i].client, addrs, naddrs, now_us);
}

static bool route_alive(const struct tn_derp_set *s, struct tn_derp_route route)
{
    const struct tn_derp_client *c = route.region ? tn_derp_set_client(s, route.region) : NULL;
    return c && tn_derp_client_up(c) && tn_derp_client_generation(c) == route.generation;
}

int tn_derp_set_choose(const struct tn_derp_set *s, int peer_home, struct tn_derp_route route)
{
    if (peer_home && tn_derp_set_up(s, peer_home)) return peer_home;
    if (route_alive(s, route)) return route.region;
    if (peer_home && tn_derp_map_find(s->map, peer_home)) return peer_home;
    return s->home;
}

void tn_derp_set_send(struct tn_derp_set *s, int region, const struct tn_node_public *to, const uint8_t *packet,
                      size_t len, uint64_t now_us)
{
    struct slot *slot = region ? obtain(s, region, now_us) : NULL;
    if (!slot) return;
    slot->last_send_us = now_us;
    tn_derp_client_send(slot->client, to, packet, len, now_us);
}

bool tn_derp_set_up(const struct tn_derp_set *s, int region)
{
    const struct tn_derp_client *c = tn_derp_set_client(s, region);
    return c && tn_derp_client_up(c);
}

uint64_t tn_derp_set_heard_us(const struct tn_derp_set *s, int region)
{
    const struct tn_derp_client *c = tn_derp_set_client(s, region);
    return c ? tn_derp_client_heard_us(c) : 0;
}

unsigned tn_derp_set_failures(const struct tn_derp_set *s, int region)
{
    const struct tn_derp_client *c = tn_derp_set_client(s, region);
    return c ? tn_derp_client_failures(c) : 0;
}

static uint64_t idle_deadline(const struct tn_derp_set *s, const struct slot *slot)
{
    int region = region_of(slot->client);
    return region == s->home || region == s->pinned ? TN_NEVER : slot->last_send_us + IDLE_US;
}

void tn_derp_set_timeout(struct tn_derp_set *s, uint64_t now_us)
{
    for (size_t i = s->count; i-- > 0;) {
        if (now_us >= idle_deadline(s, &s->slots[i])) close_slot(s, i, "idle", now_us);
        else tn_derp_client_timeout(s->slots[i].client, now_us);
    }
}

uint64_t tn_derp_set_next_deadline(const struct tn_derp_set *s)
{
    uint64_t at_us = TN_NEVER;
    for (size_t i = 0; i < s->count; i++) {
        uint64_t client_us = tn_derp_client_next_deadline(s->slots[i].client);
        uint64_t idle_us = idle_deadline(s, &s->slots[i]);
        if (client_us < at_us) at_us = client_us;
        if (idle_us < at_us) at_us = idle_us;
    }
    return at_us;
}
