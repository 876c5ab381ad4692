/* What the files of the control engine share: ctl.c (dispatch, absence), login.c, mapreq.c, asks.c. */
#ifndef TN_DEV_CTL_IMPL_H
#define TN_DEV_CTL_IMPL_H

#include "dev/ctl.h"
#include "util/err.h"

struct tn_dev_ctl {
    struct tn_dev_ctl_config cfg;
    char *base_url;
    struct tn_heap timers;
    struct tn_list streams, pending, asks;
    size_t npending, nasks;
    struct tn_dev_timer flush; /* deltas to all streams, soon after a change */
    struct tn_dev_timer save;  /* what need not be on disk before an answer */
    bool dirty;
};

/* One map stream. */
struct tn_dev_stream {
    struct tn_list link;
    struct tn_dev_ctl *ctl;
    struct tn_dev_node *node;
    struct tn_dev_reply *reply;
    bool zstd, keep_alive;
    uint64_t seen; /* the registry's generation as of the last message */
    struct tn_dev_timer idle;
};

/* JSON members of a request, with Go's rules: absent and null are the zero value, another type is an error. */
struct tn_dev_fields {
    const json_t *obj;
    bool bad;
};
const char *tn_dev_field_text(struct tn_dev_fields *f, const char *name); /* "" when absent */
bool tn_dev_field_bool(struct tn_dev_fields *f, const char *name);
int64_t tn_dev_field_int(struct tn_dev_fields *f, const char *name);
json_t *tn_dev_field_object(struct tn_dev_fields *f, const char *name); /* borrowed; NULL when absent */
json_t *tn_dev_field_array(struct tn_dev_fields *f, const char *name);
int64_t tn_dev_field_time(struct tn_dev_fields *f, const char *name); /* Unix seconds; 0 when absent or zero */

void tn_dev_answer_json(struct tn_dev_reply *reply, json_t *body); /* takes body; NULL gives 500 */
void tn_dev_answer_text(struct tn_dev_reply *reply, int status, const char *text);

/* The registry differs from the file: saved within a second, or at once. */
void tn_dev_dirty(struct tn_dev_ctl *c, struct tn_dev_now now);
int tn_dev_save_now(struct tn_dev_ctl *c);
/* The node has no stream (any more): it goes offline, and away if ephemeral, unless it comes back. */
void tn_dev_absent(struct tn_dev_ctl *c, struct tn_dev_node *n, struct tn_dev_now now);
void tn_dev_node_gone(struct tn_dev_ctl *c, struct tn_dev_node *n, struct tn_dev_now now);
/* Hostinfo and version from a request into the node. */
void tn_dev_take_hostinfo(struct tn_dev_ctl *c, struct tn_dev_node *n, json_t *hostinfo, int version,
                          struct tn_dev_now now);

void tn_dev_register(struct tn_dev_ctl *c, const struct tn_dev_request *req, json_t *body, struct tn_dev_reply *reply,
                     struct tn_dev_now now);
void tn_dev_pending_free_all(struct tn_dev_ctl *c);

void tn_dev_map(struct tn_dev_ctl *c, const struct tn_dev_request *req, json_t *body, struct tn_dev_reply *reply,
                struct tn_dev_now now);
struct tn_dev_stream *tn_dev_stream_of(const struct tn_dev_ctl *c, const struct tn_dev_node *n); /* or NULL */
void tn_dev_streams_end(struct tn_dev_ctl *c, const struct tn_dev_node *n); /* all of the node's */
void tn_dev_stream_send(struct tn_dev_stream *s, const json_t *message, struct tn_dev_now now);
void tn_dev_flush(struct tn_dev_timer *timer, void *engine, struct tn_dev_now now);

/* Answers of nodes to PingRequests; true when the path was one. */
bool tn_dev_ask_answered(struct tn_dev_ctl *c, const struct tn_dev_request *req, struct tn_dev_reply *reply,
                         struct tn_dev_now now);
void tn_dev_asks_drop(struct tn_dev_ctl *c, const struct tn_dev_node *n); /* the node went; NULL: all */

#endif
