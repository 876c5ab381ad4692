/* The node's own connections (control, DERP): struct tn_dialer over libuv TCP, name lookups and src/crypto's TLS.
 *
 * For the node's own traffic only. Forwarded traffic has its sockets from src/egress and nowhere else. */
#ifndef TN_NODE_DIALER_H
#define TN_NODE_DIALER_H

#include "crypto/tls.h"
#include "util/log.h"
#include "util/stream.h"
#include <uv.h>

struct tn_uvdialer;

int tn_uvdialer_new(uv_loop_t *loop, struct tn_tls_ctx *tls, const struct tn_log *log, struct tn_uvdialer **out);
/* SO_MARK of every connection from now on; one that can't be marked fails. 0: none. */
void tn_uvdialer_set_mark(struct tn_uvdialer *d, uint32_t mark);
/* Every stream must have been closed. Closes the dialer's handles; the loop has to run until they are gone, then free. */
void tn_uvdialer_stop(struct tn_uvdialer *d);
void tn_uvdialer_free(struct tn_uvdialer *d);
const struct tn_dialer *tn_uvdialer_dialer(struct tn_uvdialer *d);

#endif
