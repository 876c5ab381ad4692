/* One look at the network: STUN probes to the regions of the DERP map, and what their answers say (net/netcheck). */
#ifndef TN_PATH_NETCHECK_H
#define TN_PATH_NETCHECK_H

#include "path/home.h"
#include "util/rng.h"

enum { TN_NETCHECK_GLOBALS_MAX = 8 }; /* distinct mapped addresses remembered in a check, per family */

struct tn_netcheck_region {
    int region;
    uint32_t v4_us, v6_us; /* 0: no answer */
};

struct tn_netcheck_report {
    uint64_t start_us;
    bool full;
    bool udp, ipv4, ipv6;
    int8_t mapping_varies;             /* by destination, on IPv4: 1, 0, or -1 unknown (fewer than two answers) */
    struct tn_netcheck_region *regions; /* those that answered, by ascending id */
    size_t nregions;
    struct tn_netcheck_global {
        struct tn_addrport addr;
        unsigned count;
    } globals[2][TN_NETCHECK_GLOBALS_MAX]; /* [0] IPv4, [1] IPv6; the first seen first */
    size_t nglobals[2];
};

struct tn_netcheck;
struct tn_netcheck_callbacks {
    void (*send)(void *ctx, const struct tn_addrport *to, const uint8_t *bytes, size_t len);
    /* The check is over; the report is borrowed. May start the next one. */
    void (*done)(void *ctx, const struct tn_netcheck_report *r, uint64_t now_us);
};

struct tn_netcheck_options {
    bool have4, have6; /* whether this machine has addresses of the family; test nodes are probed regardless */
    int home;          /* the present home region, 0: none */
    bool full;         /* all regions, also when an earlier report would allow fewer probes */
};

int tn_netcheck_new(const struct tn_rng *rng, const struct tn_netcheck_callbacks *cb, void *ctx,
                    struct tn_netcheck **out);
void tn_netcheck_free(struct tn_netcheck *n);
/* Begins a check; one under way is dropped without a report. The map is borrowed until the check ends or is
 * stopped. A check without anything to probe ends at the next timeout. 0 or TN_E_NOMEM. */
int tn_netcheck_start(struct tn_netcheck *n, const struct tn_derp_map *map, const struct tn_netcheck_options *o,
                      uint64_t now_us);
void tn_netcheck_stop(struct tn_netcheck *n);
bool tn_netcheck_running(const struct tn_netcheck *n);
/* A STUN response from the network; unknown transactions are dropped. */
void tn_netcheck_input(struct tn_netcheck *n, const uint8_t *bytes, size_t len, uint64_t now_us);
void tn_netcheck_timeout(struct tn_netcheck *n, uint64_t now_us);
uint64_t tn_netcheck_next_deadline(const struct tn_netcheck *n);

#endif
