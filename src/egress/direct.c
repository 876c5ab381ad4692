/* HOST mode: the destination itself is dialed, from this host's own addresses. Nothing else in this room does that,
 * and this refuses to unless the policy says HOST at this very moment. */
#include "egress/private.h"
#include "egress/socket.h"
#include "util/err.h"

enum { IPV6_LOOK_US = 1000000 };

enum tn_egress_fail tn_direct_fail_of(int err)
{
    switch (err) {
    case TN_E_REFUSED:
    case TN_E_RESET: return TN_EGRESS_FAIL_REFUSED;
    case TN_E_TIMEDOUT: return TN_EGRESS_FAIL_TIMEOUT;
    case TN_E_MFILE:
    case -ENFILE:
    case TN_E_NOMEM:
    case -ENOBUFS:
    case TN_E_AGAIN: return TN_EGRESS_FAIL_FDS; /* EAGAIN: no port is free, UDP */
    default: return TN_EGRESS_FAIL_UNREACHABLE;
    }
}

bool tn_direct_has_ipv6(struct tn_egress *e)
{
    static const struct tn_addrport somewhere = {.ip = {.family = 6, .b = {0x26, 0x06, 0x47, 0, [15] = 1}}, .port = 53};
    uint64_t now_us = tn_egress_now();
    if (now_us < e->ipv6_until_us) return e->ipv6_route;
    e->ipv6_until_us = now_us + IPV6_LOOK_US;
    e->ipv6_route = tn_socket_has_route(&somewhere, e->mark, NULL);
    return e->ipv6_route;
}

int tn_direct_begin(struct tn_egress_conn *c)
{
    if (c->e->policy->mode != TN_EGRESS_HOST || c->dialing->policy->mode != TN_EGRESS_HOST) return TN_EGRESS_FAIL_OFF;
    int fd = tn_socket_connect(&c->dialing->dst, c->e->mark, NULL);
    if (fd < 0) return fd == -EADDRNOTAVAIL ? TN_EGRESS_FAIL_PORTS : (int)tn_direct_fail_of(fd);
    return tn_dial_attempt(c, fd, c->dialing->deadline_us);
}
