/* Datagrams in runs (udp.h): what UDP_GRO brings is sorted here, and a train of sealed packets is sent, both with one
 * decision for many datagrams. */
#include "path/internal.h"

enum { DATA_MIN = 32 };

/* A WireGuard transport packet: nothing else that comes here begins like this (STUN's first byte is 0 or 1, a Geneve
 * header has the protocol where this has zeros, disco begins with its name). */
static bool is_data(const uint8_t *d, size_t len)
{
    return len >= DATA_MIN && d[0] == 4 && d[1] == 0 && d[2] == 0 && d[3] == 0;
}

size_t tn_path_run_part(const struct tn_path *p, const uint8_t *run, size_t len, size_t segment, bool *several)
{
    size_t end = 0, first = len < segment ? len : segment;
    for (size_t n; p->config.cb.receive_run && end < len; end += n) {
        n = len - end < segment ? len - end : segment;
        if (!is_data(run + end, n)) break;
    }
    *several = end > first;
    return *several ? end : first;
}

void tn_path_udp_input_run(struct tn_path *p, const struct tn_addrport *from, uint8_t *run, size_t len, size_t segment,
                           uint64_t now_us)
{
    struct tn_path_source source = {.addr = *from};
    bool several;
    for (size_t at = 0, n; at < len; at += n) {
        n = tn_path_run_part(p, run + at, len - at, segment, &several);
        if (several) {
            tn_path_check_active(p, now_us);
            p->config.cb.receive_run(p->config.ctx, &source, run + at, n, segment, now_us);
        } else {
            tn_path_udp_input(p, from, run + at, n, now_us);
        }
    }
    if (len == 0) tn_path_udp_input(p, from, run, 0, now_us);
}

bool tn_path_send_unsealed(struct tn_path *p, struct tn_path_peer *peer, const struct tn_aead_run *run, uint64_t now_us)
{
    struct tn_path_choice way = tn_path_choose(p, peer, now_us);
    if (way.derp_region || !way.udp.ip.family || !p->config.cb.udp_seal_run) return false;
    if (!p->config.cb.udp_seal_run(p->config.ctx, &way.udp, run, now_us)) return false;
    tn_path_check_active(p, now_us);
    tn_path_session_data(p, peer, now_us);
    return true;
}

void tn_path_send_run(struct tn_path *p, struct tn_path_peer *peer, const uint8_t *run, size_t len, size_t segment,
                      uint64_t now_us)
{
    struct tn_path_choice way = tn_path_choose(p, peer, now_us);
    if (len <= segment || way.derp_region || !way.udp.ip.family || !p->config.cb.udp_send_run) {
        for (size_t at = 0; at < len; at += segment)
            tn_path_send(p, peer, run + at, len - at < segment ? len - at : segment, now_us);
        return;
    }
    tn_path_check_active(p, now_us);
    tn_path_session_data(p, peer, now_us);
    p->config.cb.udp_send_run(p->config.ctx, &way.udp, run, len, segment);
}
