/* What TUN mode sets on the host: the link, addresses, routes and policy rules of one TUN device, in the caller's network
 * namespace. Nothing else is touched, all of it goes at the end, and what a crash left is removed at the next start. */
#ifndef TN_TUN_HOST_H
#define TN_TUN_HOST_H

#include "tun/tun.h"
#include "util/ip.h"
#include "util/log.h"

struct tn_tunhost;

/* The mark of the node's own sockets (SO_MARK): they see the host's routing as if the node were not there. */
enum { TN_TUN_MARK = 0x02000000 };

struct tn_tunhost_config {
    const struct tn_tun *tun; /* borrowed */
    const struct tn_log *log;
    bool exit_node; /* we carry others' traffic: nothing that comes out of the TUN may be forwarded by the kernel */
    bool allow_lan; /* with a default route: the host's own more specific routes come first */
};

/* Removes what a crash left, sets the link up and the rules. TN_E_BUSY: another node of this network namespace is in TUN
 * mode. */
int tn_tunhost_new(const struct tn_tunhost_config *config, struct tn_tunhost **out);
void tn_tunhost_free(struct tn_tunhost *h); /* removes everything; before the device is closed */

/* From now on we carry others' traffic (exit_node above). 0, or the rule can't be set. */
int tn_tunhost_seal(struct tn_tunhost *h);

/* Failures are logged; what could not be set is missing, and the rest works. */
void tn_tunhost_set_addrs(struct tn_tunhost *h, const struct tn_ip *addrs, size_t n);
/* Prefixes are counted: each wanted is to be unwanted once. Default routes are not for here. */
void tn_tunhost_want(struct tn_tunhost *h, const struct tn_prefix *p);
void tn_tunhost_unwant(struct tn_tunhost *h, const struct tn_prefix *p);
/* All other traffic of the host into the TUN, or not. Traffic that can't go there goes nowhere. */
void tn_tunhost_set_default(struct tn_tunhost *h, bool on);
/* Requests are gathered: call this at the end of a turn. */
void tn_tunhost_flush(struct tn_tunhost *h);

#endif
