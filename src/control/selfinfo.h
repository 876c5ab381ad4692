/* What we tell the server of ourselves: Hostinfo with its NetInfo, and endpoints (tailcfg.Hostinfo, NetInfo).
 *
 * Kept as the JSON that is sent, in full every time: a side request with a thinner Hostinfo would replace the real
 * one. */
#ifndef TN_CONTROL_SELFINFO_H
#define TN_CONTROL_SELFINFO_H

#include "control/control.h"
#include <jansson.h>

struct tn_selfinfo {
    json_t *hostinfo;  /* without NetInfo; never NULL after init */
    json_t *netinfo;   /* NULL until known */
    json_t *endpoints, *endpoint_types;
};

int tn_selfinfo_init(struct tn_selfinfo *s);
void tn_selfinfo_fini(struct tn_selfinfo *s);
/* Each: 1 when something worth telling changed, 0 when not, TN_E_NOMEM. Latencies alone are not worth it. */
int tn_selfinfo_set_host(struct tn_selfinfo *s, const struct tn_control_host *host);
int tn_selfinfo_set_netinfo(struct tn_selfinfo *s, const struct tn_control_netinfo *ni);
int tn_selfinfo_set_endpoints(struct tn_selfinfo *s, const struct tn_control_endpoint *eps, size_t n);
/* The whole Hostinfo; the caller's reference. */
json_t *tn_selfinfo_hostinfo(const struct tn_selfinfo *s);

#endif
