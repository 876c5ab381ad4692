/* The LocalAPI's routes. */
#ifndef TN_NODE_LOCALAPI_ROUTES_H
#define TN_NODE_LOCALAPI_ROUTES_H

#include "node/httpd.h"
#include "node/node.h"

struct tn_localapi_caller {
    struct tn_node *node;
    struct tn_localapi *localapi;
    bool may_read, may_write;
};

/* tn_httpd's handle callback; ctx is a connection of localapi.c. */
void tn_localapi_handle(void *conn, struct tn_httpd_req *req, const struct tn_httpd_request *r, uint64_t now_us);
const struct tn_localapi_caller *tn_localapi_caller_of(void *conn);

#endif
