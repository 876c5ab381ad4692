/* Host names to addresses without blocking the loop: getaddrinfo(3) on a short-lived thread per lookup.
 *
 * Not libuv's pool, because its threads outlive the node that started them and a library must leave nothing behind.
 * Lookups are rare (control server, DERP, a proxy by name) and cached by their callers. */
#ifndef TN_UTIL_RESOLVE_H
#define TN_UTIL_RESOLVE_H

#include "util/ip.h"
#include <stddef.h>

struct tn_resolve;

enum { TN_RESOLVE_MAX = 16 }; /* addresses kept per name; more never help a dial */

/* Starts a lookup. 0 and *out, or TN_E_NOMEM, TN_E_MFILE, TN_E_AGAIN (no thread to be had), TN_E_INVAL. */
int tn_resolve_start(const char *host, uint16_t port, struct tn_resolve **out);
/* Becomes readable when the answer is there. Owned by the lookup. */
int tn_resolve_fd(const struct tn_resolve *r);
/* The answer: count of addresses (> 0), TN_E_AGAIN while it is not there, TN_E_DNS when there is none. */
int tn_resolve_result(struct tn_resolve *r, struct tn_addrport *addrs, size_t cap);
/* Ends the lookup. Never blocks: a thread still inside getaddrinfo frees the rest when it returns. */
void tn_resolve_free(struct tn_resolve *r);

#endif
