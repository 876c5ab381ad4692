/* Reassembly of IP fragments (RFC 791, 8200), bounded on every side.
 *
 * TCP never needs it (its segments fit the MTU), so what is here serves UDP and echo. Overlapping fragments drop the
 * whole datagram in both families (RFC 5722): nothing honest sends them. Exact duplicates are ignored. */
#ifndef TN_STACK_IPREASS_H
#define TN_STACK_IPREASS_H

#include "util/list.h"
#include "wire/ip.h"

enum {
    TN_IPREASS_DATAGRAMS = 64,          /* in progress at a time */
    TN_IPREASS_PER_SOURCE = 16,         /* of them from one address: nobody crowds out the others */
    TN_IPREASS_BYTES = 1024 * 1024,     /* held for all of them */
    TN_IPREASS_PIECES = 64,             /* per datagram: 65,535 bytes in pieces of 1,024 */
    TN_IPREASS_TIMEOUT_US = 15 * 1000000, /* RFC 791's lower bound: a tunnel has no minute-long reordering */
};

struct tn_ipreass {
    struct tn_list entries; /* oldest first */
    unsigned count;
    size_t bytes;
};

void tn_ipreass_init(struct tn_ipreass *r);
void tn_ipreass_fini(struct tn_ipreass *r);
/* Takes a fragment. When it completes its datagram: returns the whole as one packet without fragment header and with
 * correct lengths and header checksum, malloc'd, the caller's to free, its length in *len. NULL: not complete, or
 * dropped. */
uint8_t *tn_ipreass_add(struct tn_ipreass *r, const struct tn_ippkt *ip, uint64_t now_us, size_t *len);
void tn_ipreass_expire(struct tn_ipreass *r, uint64_t now_us);
uint64_t tn_ipreass_deadline(const struct tn_ipreass *r); /* TN_NEVER */

#endif
