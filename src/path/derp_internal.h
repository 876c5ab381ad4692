/* What the two files of a DERP connection share: derp_client.c, its life; derp_frames.c, what comes in. */
#ifndef TN_PATH_DERP_INTERNAL_H
#define TN_PATH_DERP_INTERNAL_H

#include "crypto/box.h"
#include "path/derp_client.h"
#include "util/buf.h"
#include "util/err.h"
#include "util/heap.h"
#include "util/list.h"
#include "wire/derp.h"

enum tn_derp_state {
    TN_DERP_WAIT, TN_DERP_DIAL, TN_DERP_HTTP, TN_DERP_GREETING, TN_DERP_INFO, TN_DERP_UP,
    TN_DERP_STATES,
};

enum {
    TN_DERP_BACKOFF_MAX_US = 5 * 1000000,
    TN_DERP_BUFFERED_MAX = TN_DERP_KEY_LEN + TN_DERP_PACKET_MAX,
    TN_DERP_SLICE_MAX = 16 * 1024, /* input is taken in such pieces, so that the buffer's cap is firm */
};

struct tn_derp_client {
    struct tn_derp_client_config config;
    const struct tn_derp_region *region;
    enum tn_derp_state state;
    struct tn_stream *stream;
    size_t node;                   /* index of the node dialed */
    uint64_t deadline_us;          /* WAIT: retry; DIAL..INFO: of this node */
    uint64_t connect_deadline_us;  /* of all nodes together */
    uint64_t epoch;                /* counts streams: tells a connection from its successor inside callbacks */
    uint64_t up_since_us, heard_us, generation, ping_deadline_us, restart_delay_us;
    unsigned failures, slow_attempts; /* slow_attempts: how many more attempts do without fast start */
    bool home, prefer6, fast, backlog, greeted;
    struct tn_node_public server;
    struct tn_box_shared shared;
    struct tn_buf in;
    size_t skip;                   /* bytes of an oversized frame still to come */
    struct tn_list queue;
    unsigned queued;
    double rate, burst, tokens;    /* bytes; rate 0: unlimited */
    uint64_t tokens_us;
    uint8_t ping[TN_DERP_PING_LEN];
};

/* derp_client.c */
void tn_derp_set_state(struct tn_derp_client *c, enum tn_derp_state next);
/* The connection is over: the region's next node, or later again. */
void tn_derp_lost(struct tn_derp_client *c, int err, const char *text, uint64_t now_us);
void tn_derp_write(struct tn_derp_client *c, const void *bytes, size_t len);
/* The server's key is known: says who we are. */
void tn_derp_on_server_key(struct tn_derp_client *c, uint64_t now_us);

/* derp_frames.c */
/* The stream's on_data. */
void tn_derp_on_data(void *arg, struct tn_stream *s, const uint8_t *bytes, size_t len, uint64_t now_us);
/* Does the server's send limit allow so many bytes now? They count as sent then. */
bool tn_derp_within_rate(struct tn_derp_client *c, size_t len, uint64_t now_us);

#endif
