/* The node's status as the LocalAPI's JSON document (ipn/ipnstate/ipnstate.go:Status), with an Egress object of our own. */
#ifndef TN_NODE_STATUS_H
#define TN_NODE_STATUS_H

#include "node/node.h"
#include <jansson.h>

/* malloc'd text, or NULL when memory is short. On the loop. */
char *tn_status_json(struct tn_node *n, bool peers);
json_t *tn_status_object(struct tn_node *n, bool peers);
/* tailcfg.Node as whois shows it. */
json_t *tn_status_tailcfg_node(const struct tn_netnode *node);
json_t *tn_status_user(const struct tn_user_profile *u);
const char *tn_status_backend_state(const struct tn_node *n); /* "Running", "NeedsLogin", ... */

#endif
