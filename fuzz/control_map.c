/* Map responses: lines of JSON merged one after the other into a netmap that begins with two peers. A line that
 * begins with '!' starts a new session first, one with '?' lets an hour pass. */
#include "control/cjson.h"
#include "control/netmap_merge.h"

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

static void read_all(const struct tn_netmap *m)
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
    if (sum == (size_t)-1) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char first[] = "{\"Node\":{\"ID\":1,\"Key\":\"" KEY("1") "\"},\"Peers\":[{\"ID\":2,"
        "\"Key\":\"" KEY("2")
                                "\"},{\"ID\":3,\"Key\":\"" KEY("3") "\",\"Endpoints\":[\"1.2.3.4:5\"],"
                                    "\"HomeDERP\":4}]}";
    struct tn_hashkey hash = {{1, 2}};
    struct tn_netmap *m = tn_netmap_new(&hash);
    struct tn_netmap_sink sink = {on_peer, on_gone, m};
    int64_t now = 1800000000;
    unsigned changes;
    json_t *response;
    if (!m || tn_cjson_parse(first, sizeof first - 1, 1 << 20, &response) != 0) return 0;
    if (tn_netmap_merge(m, response, now, now, &sink, &changes) != 0) __builtin_trap();
    json_decref(response);
    while (size > 0) {
        const uint8_t *end = memchr(data, '\n', size);
        size_t len = end ? (size_t)(end - data) : size, used = end ? len + 1 : len, skip = 0;
        if (len > 0 && data[0] == '!') tn_netmap_new_session(m);
        if (len > 0 && data[0] == '?') {
            now += 3600;
            tn_netmap_expire(m, now, &sink);
        }
        if (len > 0 && (data[0] == '!' || data[0] == '?')) skip = 1;
        if (tn_cjson_parse(data + skip, len - skip, 1 << 22, &response) == 0) {
            if (tn_netmap_merge(m, response, now, now, &sink, &changes) != 0) tn_netmap_new_session(m);
            json_decref(response);
            read_all(m);
        }
        data += used;
        size -= used;
    }
    tn_netmap_next_expiry(m, now);
    tn_netmap_clear(m, &sink);
    tn_netmap_free(m);
    return 0;
}
