/* Which way a datagram takes to a peer (magicsock/endpoint.go of v1.102.5: addrForSendLocked, betterAddr, the end of
 * handlePongConnLocked). Everything that sends to a peer asks tn_path_choose.
 *
 *   a direct path that answered within the last 6.5 s:  UDP
 *   one that answered before:                           UDP and DERP, until it answers or is given up
 *   none:                                               DERP
 *
 * WireGuard drops the copies. A path is only ever what a pong came back from, so nobody can make us send data to an
 * address that a peer has not answered from. */
#include "path/internal.h"
#include "util/err.h"

#include <errno.h>

enum { TRUST_US = 6500 * 1000 };

void tn_path_best_forget(struct tn_path_peer *peer)
{
    peer->best = (struct tn_path_best){0};
    peer->unanswered = 0;
}

/* Nearer networks first while latencies are about equal: they are cheaper and have fewer boxes in between. */
static unsigned kind_points(const struct tn_ip *ip)
{
    unsigned points = ip->family == 6 ? 10 : 0;
    if (tn_ip_is_loopback(ip)) return points + 50;
    if (tn_ip_is_link_local(ip)) return points + 30;
    return tn_ip_is_private(ip) ? points + 20 : points;
}

/* Per cent by which a is faster than b. */
static unsigned speed_points(uint32_t a_us, uint32_t b_us)
{
    return a_us < b_us ? 100 - (unsigned)((uint64_t)a_us * 100 / b_us) : 0;
}

static bool better(const struct tn_path_best *a, const struct tn_path_best *b)
{
    if (!b->addr.ip.family) return true;
    if (tn_addrport_eq(&a->addr, &b->addr)) return false;
    unsigned ap = speed_points(a->latency_us, b->latency_us) + kind_points(&a->addr.ip);
    unsigned bp = speed_points(b->latency_us, a->latency_us) + kind_points(&b->addr.ip);
    return ap > bp && !(ap <= 1 && bp == 0); /* one per cent is no reason to move */
}

void tn_path_best_pong(struct tn_path *p, struct tn_path_peer *peer, const struct tn_addrport *addr,
                       uint64_t latency_us, uint64_t now_us)
{
    struct tn_path_best pong = {*addr, latency_us < UINT32_MAX ? (uint32_t)latency_us : UINT32_MAX, 0};
    if (!tn_path_trusted(peer, now_us) || better(&pong, &peer->best)) {
        if (!tn_addrport_eq(addr, &peer->best.addr)) {
            char text[TN_ADDRPORT_STRLEN];
            tn_logf(p->config.log, TN_LOG_DEBUG, "path", "a peer is now reached at %s",
                    tn_addrport_format(addr, text));
            peer->unanswered = 0;
        }
        peer->best = pong;
    }
    if (!tn_addrport_eq(addr, &peer->best.addr)) return;
    peer->best.latency_us = pong.latency_us;
    peer->best.trust_until_us = now_us + TRUST_US;
    tn_path_session_beat_answered(p, peer);
}

struct tn_path_choice tn_path_choose(const struct tn_path *p, const struct tn_path_peer *peer, uint64_t now_us)
{
    struct tn_path_choice way = {.udp = peer->best.addr};
    if (!tn_path_trusted(peer, now_us))
        way.derp_region = tn_derp_set_choose(p->derp, peer->home_derp, peer->route);
    return way;
}

void tn_path_send_udp(struct tn_path *p, const struct tn_addrport *to, const uint8_t *datagram, size_t len)
{
    if (p->config.cb.udp_send) p->config.cb.udp_send(p->config.ctx, to, datagram, len);
}

void tn_path_send(struct tn_path *p, struct tn_path_peer *peer, const uint8_t *datagram, size_t len, uint64_t now_us)
{
    struct tn_path_choice way = tn_path_choose(p, peer, now_us);
    tn_path_check_active(p, now_us);
    tn_path_session_data(p, peer, now_us);
    if (way.udp.ip.family) tn_path_send_udp(p, &way.udp, datagram, len);
    if (way.derp_region) tn_derp_set_send(p->derp, way.derp_region, &peer->key, datagram, len, now_us);
}

void tn_path_udp_failed(struct tn_path *p, const struct tn_addrport *to, int err, uint64_t now_us)
{
    bool gone = err == -EHOSTUNREACH || err == -ENETUNREACH || err == -ENETDOWN || err == -EADDRNOTAVAIL;
    if (!gone) return; /* EPERM of a firewall, ENOBUFS: a loss */
    TN_LIST_EACH(l, &p->peers) {
        struct tn_path_peer *peer = TN_CONTAINER(l, struct tn_path_peer, link);
        if (tn_addrport_eq(&peer->best.addr, to)) tn_path_best_forget(peer);
    }
}

void tn_path_reply(struct tn_path *p, const struct tn_path_source *to, const uint8_t *datagram, size_t len,
                   uint64_t now_us)
{
    if (to->addr.ip.family) tn_path_send_udp(p, &to->addr, datagram, len);
    else if (tn_derp_set_up(p->derp, to->derp_region))
        tn_derp_set_send(p->derp, to->derp_region, &to->derp_key, datagram, len, now_us);
}

void tn_path_peer_status(const struct tn_path *p, const struct tn_path_peer *peer, uint64_t now_us,
                         struct tn_path_peer_status *out)
{
    int region = tn_derp_set_choose(p->derp, peer->home_derp, peer->route);
    *out = (struct tn_path_peer_status){.active = tn_path_session_active(peer, now_us), .derp_region = region,
                                        .derp_code = tn_path_region_code(p, region)};
    if (tn_path_trusted(peer, now_us)) out->direct = peer->best.addr;
}
