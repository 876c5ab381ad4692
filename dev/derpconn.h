/* The DERP port: HTTP over TLS with probes, and DERP connections behind it. */
#ifndef TN_DEV_DERPCONN_H
#define TN_DEV_DERPCONN_H

#include "dev/derp.h"
#include "dev/web.h"
#include "util/list.h"
#include "util/log.h"

struct tn_dev_derpport {
    struct tn_dev_derp *derp;
    struct tn_node_public key; /* the server's */
    const struct tn_log *log;
    struct tn_list dirty;
};

void tn_dev_derpport_init(struct tn_dev_derpport *p);
void tn_dev_derpport_request(void *arg, struct tn_dev_web *w, const struct tn_http1_head *head,
                             struct tn_dev_now now);
void tn_dev_derpport_flush(struct tn_dev_derpport *p);
/* tn_dev_derp_config's hooks. */
void tn_dev_derpport_wake(void *conn);
void tn_dev_derpport_expire(void *conn);

#endif
