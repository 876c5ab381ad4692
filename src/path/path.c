/* The room's engine: takes what the owner calls and what arrives, and hands it to the parts.
 *
 *   check.c      when to look at the network; home region       netcheck.c, latency_check.c, home.c
 *   derp_set.c   connections to DERP regions                    derp_client.c, derpmap.c
 *   disco.c      sealing, opening, answering                    pings.c (ours), peers.c
 *   session.c    when paths are looked for                      endpoints.c tells the owner
 *   best.c       which way a datagram takes
 *
 * Callbacks into the owner run inside tn_path_udp_input, tn_path_timeout and the streams' events; from them the
 * owner may send, reply and ping, nothing else. */
#include "path/internal.h"
#include "util/err.h"
#include "util/heap.h"
#include "util/secret.h"
#include "wire/stun.h"

#include <stdlib.h>

enum { GENEVE_DISCO = 0x7a11, GENEVE_WIREGUARD = 0x7a12, GENEVE_HEADER_LEN = 8 };

/* Relayed through a peer (RFC 8926 header): no such path is ever set up by us, so nothing of it is expected. */
static bool looks_like_geneve(const uint8_t *d, size_t len)
{
    if (len < GENEVE_HEADER_LEN || (d[0] & 0xc0) || (d[1] & 0x3f) || d[7]) return false;
    uint16_t protocol = tn_get_be16(d + 2);
    return protocol == GENEVE_DISCO || protocol == GENEVE_WIREGUARD;
}

/* ---- DERP ---- */

static void on_derp_packets(void *ctx, struct tn_derp_route route, const struct tn_node_public *from, uint8_t *run,
                            size_t len, size_t segment, uint64_t now_us)
{
    struct tn_path *p = ctx;
    struct tn_path_source source = {.derp_region = route.region, .derp_key = *from};
    struct tn_path_peer *peer = tn_path_peer_by_key(p, from);
    if (peer) peer->route = route;
    for (size_t at = 0, n; at < len; at += n) {
        bool several;
        n = tn_path_run_part(p, run + at, len - at, segment, &several);
        if (!peer) { /* strangers have no business here: peers are in the netmap, or about to be */
            n = len - at < segment ? len - at : segment;
            tn_early_keep(&p->early, from, route, run + at, n, now_us);
        } else if (tn_disco_looks_like(run + at, n)) {
            tn_path_disco_input(p, &source, run + at, n, now_us);
        } else {
            tn_path_check_active(p, now_us);
            if (several) p->config.cb.receive_run(p->config.ctx, &source, run + at, n, segment, now_us);
            else p->config.cb.receive(p->config.ctx, peer, &source, run + at, n, now_us);
        }
    }
}

/* From the loop, not from tn_path_peer_add: its caller has more to say about the peer first. */
static void deliver_early(struct tn_path *p, uint64_t now_us)
{
    struct tn_early_packet e;
    while (tn_early_take(p->early, &e, now_us)) on_derp_packets(p, e.route, &e.from, e.bytes, e.len, e.len, now_us);
}

static void on_derp_gone(void *ctx, int region, const struct tn_node_public *key)
{
    struct tn_path_peer *peer = tn_path_peer_by_key(ctx, key);
    if (peer && peer->route.region == region) peer->route = (struct tn_derp_route){0};
}

static void on_derp_state(void *ctx, int region, int err, const char *text, uint64_t now_us)
{
    struct tn_path *p = ctx;
    tn_path_check_derp_state(p, region, err, now_us);
    if (p->config.cb.derp_state) p->config.cb.derp_state(p->config.ctx, region, err == 0, text);
}

static void on_derp_health(void *ctx, int region, const char *text)
{
    struct tn_path *p = ctx;
    if (p->config.cb.derp_state) p->config.cb.derp_state(p->config.ctx, region, true, text);
}

static const struct tn_derp_set_callbacks derp_callbacks = {
    .packets = on_derp_packets, .gone = on_derp_gone, .state = on_derp_state, .health = on_derp_health};

/* ---- life ---- */

int tn_path_new(const struct tn_path_config *config, struct tn_path **out)
{
    struct tn_path *p = calloc(1, sizeof *p);
    if (!p) return TN_E_NOMEM;
    p->config = *config;
    tn_list_init(&p->peers);
    tn_list_init(&p->pings);
    tn_list_init(&p->sent);
    tn_list_init(&p->calls);
    tn_list_init(&p->waiters);
    tn_heap_init(&p->beats);
    tn_htable_init(&p->by_txid);
    tn_htable_init(&p->by_key);
    tn_htable_init(&p->by_disco);
    tn_rng_fill(&p->config.rng, &p->hash_key, sizeof p->hash_key);
    tn_node_public_of(&p->config.node_key, &p->node_public);
    tn_disco_public_of(&p->config.disco_key, &p->disco_public);
    struct tn_derp_set_config derp = {.key = &p->config.node_key, .public_key = &p->node_public,
                                      .dialer = p->config.dialer, .rng = &p->config.rng, .log = p->config.log,
                                      .cb = &derp_callbacks, .ctx = p};
    int err = tn_path_check_new(p);
    if (!err) err = tn_derp_set_new(&derp, &p->derp);
    if (err) {
        tn_path_free(p);
        return err;
    }
    *out = p;
    return 0;
}

void tn_path_free(struct tn_path *p)
{
    if (!p) return;
    tn_path_pings_cancel(p, NULL, 0);
    tn_path_report_free(p);
    tn_derp_set_free(p->derp);
    tn_path_check_free(p);
    tn_path_peers_free(p);
    tn_derp_map_free(p->map);
    tn_early_free(p->early);
    tn_wipe(&p->config.node_key, sizeof p->config.node_key);
    tn_wipe(&p->config.disco_key, sizeof p->config.disco_key);
    free(p);
}

int tn_path_set_node_key(struct tn_path *p, const struct tn_node_private *key, uint64_t now_us)
{
    if (tn_key_is_zero(key->b)) return TN_E_INVAL;
    if (memcmp(key, &p->config.node_key, sizeof *key) == 0) return 0;
    p->config.node_key = *key;
    tn_node_public_of(key, &p->node_public);
    p->advertised = 0;  /* as this key we are connected nowhere yet, and control knows nothing of it */
    tn_derp_set_pin(p->derp, 0);
    free(p->netinfo);
    p->netinfo = NULL;
    tn_derp_set_rekeyed(p->derp, now_us);
    return 0;
}

int tn_path_set_derp_map(struct tn_path *p, const json_t *json, uint64_t now_us)
{
    struct tn_derp_map *map, *old = p->map;
    int err = tn_derp_map_parse(json, p->map, &map);
    if (err || !map) return err;
    if (tn_derp_map_equal(old, map)) { /* servers repeat it: no reason to look at the network again */
        tn_derp_map_free(map);
        return 0;
    }
    tn_netcheck_stop(p->netcheck); /* it borrows the old map */
    p->map = map;
    tn_derp_set_map(p->derp, map, now_us);
    tn_path_check_map_changed(p, now_us);
    tn_derp_map_free(old);
    return 0;
}

void tn_path_set_local(struct tn_path *p, const struct tn_ip *addrs, size_t n, uint16_t port4, uint16_t port6,
                       uint64_t now_us)
{
    p->nlocal = n < TN_PATH_LOCAL_MAX ? n : TN_PATH_LOCAL_MAX;
    if (p->nlocal) memcpy(p->local, addrs, p->nlocal * sizeof *addrs);
    p->local_known = true;
    p->port4 = port4;
    p->port6 = port6;
    if (p->report) (void)tn_path_endpoints_update(p, p->report, now_us);
}

void tn_path_set_portmap(struct tn_path *p, const struct tn_path_portmap *pm, uint64_t now_us)
{
    p->portmap = *pm;
    if (!p->report) return; /* the first check tells it */
    if (tn_path_endpoints_update(p, p->report, now_us)) tn_path_session_moved(p, now_us);
    if (p->netinfo) tn_path_netinfo_update(p, now_us);
}

void tn_path_start(struct tn_path *p, uint64_t now_us)
{
    if (p->started) return;
    p->started = true;
    p->last_active_us = now_us;
    if (p->map) tn_path_check_map_changed(p, now_us);
}

void tn_path_link_changed(struct tn_path *p, uint64_t now_us)
{
    p->ntracked = 0; /* what the old link's NAT called us */
    tn_derp_set_check(p->derp, p->local, p->nlocal, now_us);
    tn_path_session_link_changed(p, now_us);
    tn_path_check_request(p, true, now_us);
}

void tn_path_set_control_up(struct tn_path *p, bool up) { p->control_up = up; }

void tn_path_udp_input(struct tn_path *p, const struct tn_addrport *from, uint8_t *datagram, size_t len,
                       uint64_t now_us)
{
    struct tn_path_source source = {.addr = *from};
    if (tn_stun_looks_like(datagram, len) && datagram[1] == 1) {
        tn_netcheck_input(p->netcheck, datagram, len, now_us);
    } else if (looks_like_geneve(datagram, len)) {
        return;
    } else if (tn_disco_looks_like(datagram, len)) {
        tn_path_disco_input(p, &source, datagram, len, now_us);
    } else {
        tn_path_check_active(p, now_us);
        p->config.cb.receive(p->config.ctx, NULL, &source, datagram, len, now_us);
    }
}

void tn_path_timeout(struct tn_path *p, uint64_t now_us)
{
    tn_derp_set_timeout(p->derp, now_us);
    tn_path_check_timeout(p, now_us);
    tn_path_session_timeout(p, now_us);
    tn_path_pings_timeout(p, now_us);
    deliver_early(p, now_us);
}

uint64_t tn_path_next_deadline(const struct tn_path *p)
{
    if (tn_early_ready(p->early)) return 0;
    uint64_t derp_us = tn_derp_set_next_deadline(p->derp), check_us = tn_path_check_deadline(p);
    uint64_t ping_us = tn_path_pings_deadline(p), beat_us = tn_path_session_deadline(p);
    uint64_t at_us = derp_us < check_us ? derp_us : check_us;
    if (beat_us < at_us) at_us = beat_us;
    return ping_us < at_us ? ping_us : at_us;
}

int tn_path_home_derp(const struct tn_path *p) { return tn_derp_set_home_region(p->derp); }

bool tn_path_home_connected(const struct tn_path *p)
{
    return tn_derp_set_up(p->derp, tn_derp_set_home_region(p->derp));
}

const char *tn_path_region_code(const struct tn_path *p, int region)
{
    const struct tn_derp_region *r = tn_derp_map_find(p->map, region);
    return r ? r->code : "";
}
