/* What tests and scripts ask the dev server over plain HTTP under /dev/, with "Authorization: Bearer <auth key>":
 *
 *   GET  /dev/nodes                               the nodes as JSON, as their peers see them
 *   POST /dev/ping?node=NAME[&types=T&ip=IP]      the node answers over Noise, or pings ip and tells the result
 *   POST /dev/c2n?node=NAME&path=P[&method=M&body=B]  a control-to-node request; the answer is its raw HTTP response
 *   POST /dev/expire?node=NAME                    its key ends now
 *   POST /dev/remove?node=NAME
 *
 * Values are percent-encoded. */
#ifndef TN_DEV_ADMIN_H
#define TN_DEV_ADMIN_H

#include "dev/ctlconn.h"

void tn_dev_admin(struct tn_dev_ctlport *p, struct tn_dev_web *w, const struct tn_http1_head *head,
                  struct tn_dev_now now);

#endif
