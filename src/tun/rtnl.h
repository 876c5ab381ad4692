/* rtnetlink(7), raw: requests are gathered, sent together, and each is answered before tn_rtnl_flush returns. The kernel
 * answers at once, so this may be used on the loop's thread. Private to src/tun. */
#ifndef TN_TUN_RTNL_H
#define TN_TUN_RTNL_H

#include "util/ip.h"
#include <linux/netlink.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TN_RTNL_BATCH = 64,           /* answers that wait in the socket's buffer, which holds some 200 */
    TN_RTNL_REQUEST_MAX = 256,    /* a rule with all its attributes takes 100 */
};

struct tn_rtnl {
    int fd;
    uint32_t seq;        /* of the last request */
    unsigned waiting;    /* requests gathered */
    size_t len;
    struct nlmsghdr *open;       /* the request being written */
    int fine[TN_RTNL_BATCH];     /* the error that is none for that request, such as -EEXIST */
    _Alignas(NLMSG_ALIGNTO) uint8_t bytes[TN_RTNL_BATCH * TN_RTNL_REQUEST_MAX];
};

int tn_rtnl_open(struct tn_rtnl *r);
void tn_rtnl_close(struct tn_rtnl *r);

/* A request: begin with its fixed part, then attributes, then end. fine: an error to take for success; 0: none. */
void tn_rtnl_begin(struct tn_rtnl *r, uint16_t type, uint16_t flags, const void *fixed, size_t len);
void tn_rtnl_put(struct tn_rtnl *r, uint16_t attr, const void *data, size_t len);
void tn_rtnl_put_u32(struct tn_rtnl *r, uint16_t attr, uint32_t v);
void tn_rtnl_put_ip(struct tn_rtnl *r, uint16_t attr, const struct tn_ip *ip);
void *tn_rtnl_nest(struct tn_rtnl *r, uint16_t attr); /* for tn_rtnl_nest_end */
void tn_rtnl_nest_end(struct tn_rtnl *r, void *nest);
int tn_rtnl_end(struct tn_rtnl *r, int fine); /* flushes when the batch is full: the flush's result */
/* Sends what was gathered and takes the answers: 0, or the first error. All requests are tried. */
int tn_rtnl_flush(struct tn_rtnl *r);

/* Asks for all of a kind; each gets a message's fixed part and length. Nothing may be asked from inside. */
int tn_rtnl_dump(struct tn_rtnl *r, uint16_t type, const void *fixed, size_t len,
                 void (*each)(void *ctx, const struct nlmsghdr *msg), void *ctx);
/* The attribute of that type behind the fixed part, or NULL; *len gets its length. */
const void *tn_rtnl_attr(const struct nlmsghdr *msg, size_t fixed, uint16_t type, size_t *len);

#endif
