/* Which destinations may be asked for at all, in HOST and PROXY mode alike. */
#ifndef TN_EGRESS_GUARD_H
#define TN_EGRESS_GUARD_H

#include "util/ip.h"
#include <stdbool.h>
#include <stddef.h>

/* Neither special-purpose, multicast, unallocated, nor a form that carries an IPv4 address inside an IPv6 one. */
bool tn_guard_is_public(const struct tn_ip *ip);

/* The prefixes attached to this host and its own addresses, read from the kernel. */
struct tn_attached {
    struct tn_prefix *prefixes;
    size_t count;
    uint64_t read_us; /* when; valid only if count was ever read */
    bool readable;
};

enum { TN_ATTACHED_FRESH_US = 1000000 }; /* an address that was just added is refused a second later at most */

void tn_attached_init(struct tn_attached *a);
void tn_attached_fini(struct tn_attached *a);
/* Is the address attached? Reads again when the list is older than TN_ATTACHED_FRESH_US. When the kernel's list
 * can't be read every address counts as attached. */
bool tn_attached_has(struct tn_attached *a, const struct tn_ip *ip, uint64_t now_us);

struct tn_guard {
    struct tn_ip *own; /* the node's tailnet addresses */
    size_t nown;
    struct tn_attached attached;
};

void tn_guard_init(struct tn_guard *g);
void tn_guard_fini(struct tn_guard *g);
/* 0, or TN_E_NOMEM: the old ones stay. */
int tn_guard_set_own(struct tn_guard *g, const struct tn_ip *addrs, size_t n);
bool tn_guard_allows(struct tn_guard *g, const struct tn_addrport *dst, uint64_t now_us);

#endif
