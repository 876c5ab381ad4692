/* Which way a datagram takes to a peer. Everything that sends to a peer asks tn_path_choose; measuring direct
 * paths and trusting one (magicsock/endpoint.go: addrForSendLocked, betterAddr) belongs here and changes nothing
 * elsewhere. While no UDP path is trusted, datagrams go through DERP. */
#include "path/internal.h"

struct tn_path_choice tn_path_choose(const struct tn_path *p, const struct tn_path_peer *peer, uint64_t now_us)
{
    return (struct tn_path_choice){.derp_region = tn_derp_set_choose(p->derp, peer->home_derp, peer->route)};
}

void tn_path_send_udp(struct tn_path *p, const struct tn_addrport *to, const uint8_t *datagram, size_t len)
{
    if (p->config.cb.udp_send) p->config.cb.udp_send(p->config.ctx, to, datagram, len);
}

void tn_path_send(struct tn_path *p, struct tn_path_peer *peer, const uint8_t *datagram, size_t len, uint64_t now_us)
{
    struct tn_path_choice way = tn_path_choose(p, peer, now_us);
    tn_path_check_active(p, now_us);
    if (way.udp.ip.family) tn_path_send_udp(p, &way.udp, datagram, len);
    if (way.derp_region) tn_derp_set_send(p->derp, way.derp_region, &peer->key, datagram, len, now_us);
}

void tn_path_reply(struct tn_path *p, const struct tn_path_source *to, const uint8_t *datagram, size_t len,
                   uint64_t now_us)
{
    if (to->addr.ip.family) tn_path_send_udp(p, &to->addr, datagram, len);
    else if (tn_derp_set_up(p->derp, to->derp_region))
        tn_derp_set_send(p->derp, to->derp_region, &to->derp_key, datagram, len, now_us);
}

void tn_path_peer_status(const struct tn_path *p, const struct tn_path_peer *peer, struct tn_path_peer_status *out)
{
    int region = tn_derp_set_choose(p->derp, peer->home_derp, peer->route);
    *out = (struct tn_path_peer_status){.derp_region = region, .derp_code = tn_path_region_code(p, region)};
}
