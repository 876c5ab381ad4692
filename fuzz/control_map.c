/* Map responses: lines of JSON merged one after the other into a netmap that begins with two peers. A line that
 * begins with '!' starts a new session first, one with '?' lets an hour pass.
 *
 * Each is merged into two netmaps: parsed as a whole, and with the peers cut out and parsed alone. What the second takes
 * the first takes, and then they agree. */
#include "control/cjson.h"
#include "control/mapframe.h"

#include <stdlib.h>
#include <string.h>

#define KEY(digit) "nodekey:" digit "000000000000000000000000000000000000000000000000000000000000000"

static size_t peers;

static void on_peer(void *ctx, const struct tn_netnode *n)
{
    if (tn_netmap_peer_by_id(ctx, n->id) != n) __builtin_trap();
}
static void on_gone(void *ctx, const struct tn_netnode *n)
{
    if (tn_netmap_peer_by_id(ctx, n->id) != NULL) __builtin_trap();
    peers += strlen(n->name);
}

static size_t read_all(const struct tn_netmap *m)
{
    size_t sum = json_array_size(tn_netmap_filter_rules(m)) + strlen(tn_netmap_domain(m));
    for (size_t i = 0; i < tn_netmap_npeers(m); i++) {
        const struct tn_netnode *n = tn_netmap_peer_at(m, i);
        if (tn_netmap_peer_by_id(m, n->id) != n) __builtin_trap();
        if (n->expired && (n->nendpoints || n->home_derp)) __builtin_trap();
        for (size_t j = 0; j < n->nallowed_ips; j++) sum += n->allowed_ips[j].bits;
        for (size_t j = 0; j < n->nendpoints; j++) sum += n->endpoints[j].port;
        sum += strlen(n->stable_id) + (n->hostname ? strlen(n->hostname) : 0);
    }
    return sum;
}

static void compare(const struct tn_netmap *a, const struct tn_netmap *b)
{
    if (tn_netmap_npeers(a) != tn_netmap_npeers(b) || read_all(a) != read_all(b)) __builtin_trap();
    for (size_t i = 0; i < tn_netmap_npeers(a); i++) {
        const struct tn_netnode *x = tn_netmap_peer_at(a, i), *y = tn_netmap_peer_by_id(b, x->id);
        if (!y || !tn_node_public_eq(&x->key, &y->key) || x->online != y->online || x->cap != y->cap) __builtin_trap();
    }
}

static int merge_whole(struct tn_netmap *m, const uint8_t *text, size_t len, int64_t now)
{
    struct tn_netmap_sink sink = {on_peer, on_gone, m};
    struct tn_netmap_message message = {0};
    unsigned changes;
    int err = tn_cjson_parse(text, len, 1 << 26, &message.rest);
    if (!err) err = tn_netmap_merge(m, &message, now, now, &sink, &changes);
    tn_netmap_message_fini(&message);
    return err;
}

static int merge_split(struct tn_netmap *m, const uint8_t *text, size_t len, int64_t now)
{
    struct tn_netmap_sink sink = {on_peer, on_gone, m};
    struct tn_netmap_message message;
    unsigned changes;
    int err = tn_mapframe_decode(text, len, false, &message);
    if (err) return err;
    err = tn_netmap_merge(m, &message, now, now, &sink, &changes);
    tn_netmap_message_fini(&message);
    return err;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char first[] = "{\"Node\":{\"ID\":1,\"Key\":\"" KEY("1") "\"},\"Peers\":[{\"ID\":2,"
        "\"Key\":\"" KEY("2")
                                "\"},{\"ID\":3,\"Key\":\"" KEY("3") "\",\"Endpoints\":[\"1.2.3.4:5\"],"
                                    "\"HomeDERP\":4}]}";
    struct tn_hashkey hash = {{1, 2}};
    struct tn_netmap *m = tn_netmap_new(&hash), *split = tn_netmap_new(&hash);
    struct tn_netmap_sink sink = {on_peer, on_gone, m}, split_sink = {on_peer, on_gone, split};
    int64_t now = 1800000000;
    if (!m || !split) return 0;
    if (merge_whole(m, (const uint8_t *)first, sizeof first - 1, now) != 0) __builtin_trap();
    if (merge_split(split, (const uint8_t *)first, sizeof first - 1, now) != 0) __builtin_trap();
    while (size > 0) {
        const uint8_t *end = memchr(data, '\n', size);
        size_t len = end ? (size_t)(end - data) : size, used = end ? len + 1 : len, skip = 0;
        if (len > 0 && data[0] == '!') {
            tn_netmap_new_session(m);
            tn_netmap_new_session(split);
        }
        if (len > 0 && data[0] == '?') {
            now += 3600;
            tn_netmap_expire(m, now, &sink);
            tn_netmap_expire(split, now, &split_sink);
        }
        if (len > 0 && (data[0] == '!' || data[0] == '?')) skip = 1;
        int err = merge_split(split, data + skip, len - skip, now), whole_err = merge_whole(m, data + skip, len - skip, now);
        if (!err && whole_err) __builtin_trap();
        if (err && !whole_err) break; /* a list that comes twice */
        if (err) {
            tn_netmap_new_session(m);
            tn_netmap_new_session(split);
        }
        read_all(m);
        if (!err) compare(m, split);
        data += used;
        size -= used;
    }
    tn_netmap_next_expiry(m, now);
    tn_netmap_clear(m, &sink);
    tn_netmap_free(m);
    tn_netmap_free(split);
    return 0;
}
