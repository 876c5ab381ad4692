/* An HTTP/2 server connection as an engine: plaintext in, plaintext out (nghttp2 with prior knowledge).
 *
 * Requests are handed over whole, with a reply (reply.h) that may be kept: map streams stay open for hours beside
 * ordinary requests. What a reply writes waits in a buffer of its own until flow control lets it go, so that one
 * client that does not read stops nobody else. */
#ifndef TN_DEV_H2_H
#define TN_DEV_H2_H

#include "dev/reply.h"
#include <stdbool.h>
#include <stdint.h>

enum {
    TN_DEV_H2_STREAMS = 64,            /* at once; official clients use a handful */
    TN_DEV_H2_PATH_MAX = 512,
    TN_DEV_H2_BODIES_MAX = 4 << 20,    /* request bodies held per connection */
    TN_DEV_H2_OUT_MAX = 64 << 20,      /* one reply's unsent bytes: a full map of TN_DEV_NODES_MAX nodes fits */
};

struct tn_dev_h2_events {
    /* method, path and body are dead on return. */
    void (*request)(void *arg, const char *method, const char *path, const uint8_t *body, size_t len,
                    struct tn_dev_reply *reply, struct tn_dev_now now);
    void (*wake)(void *arg); /* there is output; may come from within any call */
};

struct tn_dev_h2;

int tn_dev_h2_new(const struct tn_dev_h2_events *events, void *arg, size_t body_max, struct tn_dev_h2 **out);
void tn_dev_h2_free(struct tn_dev_h2 *h, struct tn_dev_now now); /* open replies hear that they are gone */
/* 0, or TN_E_PROTO: close the connection. */
int tn_dev_h2_input(struct tn_dev_h2 *h, const void *bytes, size_t len, struct tn_dev_now now);
/* The next piece to send, valid until the next call: its length, 0 for nothing now, or TN_E_PROTO. */
long tn_dev_h2_output(struct tn_dev_h2 *h, const uint8_t **bytes, struct tn_dev_now now);
/* Neither side has anything more to say. */
bool tn_dev_h2_finished(const struct tn_dev_h2 *h);

#endif
