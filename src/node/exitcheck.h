/* What address the world sees: a page that echoes the caller's address is fetched through the policy, by each proxy. */
#ifndef TN_NODE_EXITCHECK_H
#define TN_NODE_EXITCHECK_H

#include "node/node.h"

#include <jansson.h>

#define TN_EXITCHECK_URL "https://1.1.1.1/cdn-cgi/trace"

/* url: http:// or https:// with an IP address as host (a name would have to be resolved by somebody). Calls done once, later,
 * with the result (a new reference, NULL: no memory):
 *   {"Mode", "Own": [addresses], "Results": [{"Proxy", "Address", "Milliseconds", "Verdict"}], "OK": bool}
 * Verdicts: "proxied", "own address", "direct", "no answer: WHY", "not compared: own address not known" (relay_only, or UDP blocked).
 * OK: there are results, and all are "proxied".
 * TN_E_INVAL: the URL; TN_E_BUSY: one is under way; TN_E_NOMEM. */
int tn_exitcheck_start(struct tn_node *n, const char *url, void (*done)(void *arg, json_t *result), void *arg);
/* Ends the check under way, if there is one: done is not called any more. Not from inside the egress. */
void tn_exitcheck_cancel(struct tn_node *n);

#endif
