/* The page that tells its caller's address: where it is, and what it says.
 *
 * http:// or https:// and an IP address, since a name would have to be resolved by somebody. */
#ifndef TN_NODE_CHECKPAGE_H
#define TN_NODE_CHECKPAGE_H

#include "util/ip.h"
#include <stdbool.h>
#include <stddef.h>

enum { TN_CHECKPAGE_URL_MAX = 512 };

struct tn_checkpage {
    struct tn_addrport addr;
    bool tls;
    char host[TN_ADDRPORT_STRLEN];   /* as it was written, with the port if that was said: for the Host header */
    char path[TN_CHECKPAGE_URL_MAX]; /* without a fragment */
};
int tn_checkpage_parse(const char *url, struct tn_checkpage *out); /* 0 or TN_E_INVAL */

/* The address in its body: behind "ip=" or "\"ip\"", else the first that there is. */
bool tn_checkpage_find(const char *page, size_t len, struct tn_ip *out);

#endif
