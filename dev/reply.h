/* One answer to one request, whatever carries it: HTTP/2 in the server, memory in the tests.
 *
 * begin once, write any number of times, then end; or abort at any time. After end or abort, and after gone was
 * called, the reply is not to be touched. Who keeps it beyond the call that handed it over sets holder and gone (the
 * client went away: nothing can be sent any more), and drain if it wants to hear that everything queued has left. */
#ifndef TN_DEV_REPLY_H
#define TN_DEV_REPLY_H

#include "dev/timer.h"
#include <stddef.h>
#include <string.h>

struct tn_dev_reply;

struct tn_dev_reply_ops {
    void (*begin)(struct tn_dev_reply *r, int status, const char *content_type);
    int (*write)(struct tn_dev_reply *r, const void *bytes, size_t len); /* 0 or a code: abort then */
    void (*end)(struct tn_dev_reply *r);
    void (*abort)(struct tn_dev_reply *r);
    size_t (*backlog)(const struct tn_dev_reply *r);
};

struct tn_dev_reply {
    const struct tn_dev_reply_ops *ops;
    void *holder;
    void (*gone)(void *holder, struct tn_dev_now now);
    void (*drain)(void *holder, struct tn_dev_now now);
};

/* A whole small answer. */
static inline void tn_dev_reply_all(struct tn_dev_reply *r, int status, const char *content_type, const char *text)
{
    r->ops->begin(r, status, content_type);
    if (r->ops->write(r, text, strlen(text)) == 0) r->ops->end(r);
    else r->ops->abort(r);
}

#endif
