/* LocalAPI routes of the exit's egress; beside those of Go's, under names that it does not use.
 *
 *   GET   egress                        policy, proxies, what is wrong
 *   PATCH egress                        {"ExitProxy": "..", "ExitEgress": "..", "ExitNames": bool, "Cut": bool}: in force at once
 *   POST  egress-reload?cut=true        reads settings and secrets anew
 *   POST  egress-rotate?peer=NAME       new sessions at the proxies; without a peer, for all
 *   POST  egress-check?url=URL          what address the world sees (exitcheck.h)
 *   GET   usermetrics, and /metrics     Prometheus */
#ifndef TN_NODE_LOCALAPI_EXIT_H
#define TN_NODE_LOCALAPI_EXIT_H

#include "node/httpd.h"
#include "node/node.h"

#include <jansson.h>

json_t *tn_localapi_egress_object(struct tn_node *n);
void tn_localapi_get_egress(struct tn_node *n, struct tn_httpd_req *req, const struct tn_httpd_request *r);
void tn_localapi_patch_egress(struct tn_node *n, struct tn_httpd_req *req, const struct tn_httpd_request *r);
void tn_localapi_egress_reload(struct tn_node *n, struct tn_httpd_req *req, const struct tn_httpd_request *r);
void tn_localapi_egress_rotate(struct tn_node *n, struct tn_httpd_req *req, const struct tn_httpd_request *r);
void tn_localapi_egress_check(struct tn_node *n, struct tn_httpd_req *req, const struct tn_httpd_request *r);
void tn_localapi_metrics(struct tn_node *n, struct tn_httpd_req *req, const struct tn_httpd_request *r);

#endif
