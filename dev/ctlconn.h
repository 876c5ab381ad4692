/* The control port: /key, /ts2021 with Noise and HTTP/2 behind it, login pages, and what a test wants to ask. */
#ifndef TN_DEV_CTLCONN_H
#define TN_DEV_CTLCONN_H

#include "dev/ctl.h"
#include "dev/web.h"

struct tn_dev_ctlport {
    struct tn_dev_ctl *ctl;
    struct tn_dev_registry *registry;
    const struct tn_dev_tailnet *tailnet;
    const struct tn_secret *auth_key;
    const struct tn_machine_private *machine; /* the server's, borrowed */
    struct tn_rng rng;
    const struct tn_log *log;
    struct tn_list dirty; /* connections with output to be moved: tn_dev_ctlport_flush */
};

void tn_dev_ctlport_init(struct tn_dev_ctlport *p);
/* tn_dev_web_server.request, with the port as argument. */
void tn_dev_ctlport_request(void *arg, struct tn_dev_web *w, const struct tn_http1_head *head, struct tn_dev_now now);
/* Before the loop sleeps: output that engines queued while others were being served. */
void tn_dev_ctlport_flush(struct tn_dev_ctlport *p, struct tn_dev_now now);

/* GET /generate_204 of both ports (derpserver/handler.go:ServeNoContent). */
void tn_dev_no_content(struct tn_dev_web *w, const struct tn_http1_head *head);

#endif
