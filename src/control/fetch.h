/* One HTTP/1.1 request over a fresh connection, with a small response: GET /key and HTTP pings outside of Noise. */
#ifndef TN_CONTROL_FETCH_H
#define TN_CONTROL_FETCH_H

#include "control/weburl.h"
#include "util/stream.h"
#include <stddef.h>
#include <stdint.h>

struct tn_fetch;

struct tn_fetch_spec {
    const struct tn_dialer *dialer; /* outlives the fetch */
    struct tn_weburl url;
    const char *method;      /* "GET", "HEAD", "POST"; a GET follows up to five redirects */
    const void *body;        /* copied */
    size_t body_len;
    size_t max_body;         /* of the response; more fails with TN_E_TOOBIG */
    uint64_t timeout_us;     /* for all of it */
};

/* Exactly once, last, unless freed before: err 0 and the final response, or why there is none. The fetch is dead
 * but still to be freed by its owner, inside the callback or later. */
typedef void tn_fetch_done(void *arg, int err, int status, const uint8_t *body, size_t len, uint64_t now_us);

int tn_fetch_start(const struct tn_fetch_spec *spec, tn_fetch_done *done, void *arg, uint64_t now_us,
                   struct tn_fetch **out);
void tn_fetch_free(struct tn_fetch *f); /* NULL is fine */
void tn_fetch_timeout(struct tn_fetch *f, uint64_t now_us);
uint64_t tn_fetch_next_deadline(const struct tn_fetch *f);

#endif
