/* Credentials that differ per peer: {peer}, {user} and {epoch} in a proxy's user or password. */
#ifndef TN_EGRESS_TEMPLATE_H
#define TN_EGRESS_TEMPLATE_H

#include "egress/egress.h"

/* How a placeholder stands in the decoded secret: control characters, which no credential may contain otherwise. */
enum { TN_TEMPLATE_PEER = 1, TN_TEMPLATE_USER = 2, TN_TEMPLATE_EPOCH = 3 };
enum { TN_TEMPLATE_TOKEN = 10, TN_TEMPLATE_EPOCH_MAX = 10 }; /* bytes that they become: exactly, and at most */

/* The placeholder that text (len bytes, from its brace) begins with, and its length in *used; 0: none. */
int tn_template_match(const char *text, size_t len, size_t *used);

struct tn_template_who {
    uint64_t peer, user;
    uint32_t peer_epoch, epoch; /* of this peer, and of all together */
};
/* A copy with the placeholders filled in; NULL: no memory. */
struct tn_proxy *tn_template_fill(const struct tn_proxy *p, const struct tn_hashkey *key, const struct tn_template_who *who);

#endif
