/* Phantoms: nodes of the dev tailnet that nobody is behind, for measuring what a large netmap costs its members.
 *
 * To others they look like nodes: keys, addresses, endpoints, home region, Hostinfo, some of them online. Each churn is
 * one change of one phantom, and so one delta to everybody, in turn of each kind that servers send: online state, endpoints,
 * disco key, version and expiry as patches, a whole changed node, one that goes while another comes. They are not saved. */
#ifndef TN_DEV_PHANTOM_H
#define TN_DEV_PHANTOM_H

#include "dev/ctl.h"

struct tn_dev_phantoms {
    struct tn_dev_registry *registry;
    struct tn_dev_ctl *ctl;
    struct tn_heap *timers;
    struct tn_rng rng;
    struct tn_dev_timer churn;
    uint64_t period_us; /* 0: nothing changes */
    uint64_t next_us;
    uint64_t made;      /* ever; the next one's number */
    uint64_t churned;
    struct tn_dev_node **all;
    size_t count;
};

enum { TN_DEV_PHANTOMS_MAX = 19 * 1000 }; /* the rest of TN_DEV_NODES_MAX is for real nodes */

/* Adds count phantoms. 0, TN_E_INVAL, TN_E_LIMIT, TN_E_NOMEM. */
int tn_dev_phantoms_init(struct tn_dev_phantoms *p, struct tn_dev_registry *r, size_t count, const struct tn_rng *rng,
                         int64_t unix_s);
/* From now on one changes each period_us. */
void tn_dev_phantoms_start(struct tn_dev_phantoms *p, struct tn_dev_ctl *ctl, struct tn_heap *timers, uint64_t period_us,
                           struct tn_dev_now now);
/* One change. */
void tn_dev_phantoms_churn(struct tn_dev_phantoms *p, int64_t unix_s);
void tn_dev_phantoms_fini(struct tn_dev_phantoms *p); /* the nodes are the registry's */

#endif
