/* The connection to the control server: key fetch, the race of ports, early payload, HTTP/2.
 *
 * Made once per client and connected again and again; retries and their pace belong to its users (the login, map and
 * update loops). Ports, delays and fallbacks: ts2021/client.go NewClient and controlhttp/client.go dialHostOpt.
 *
 *   DOWN -> KEY    GET /key over verified TLS (or plain http), once per process and again after a failed handshake
 *        -> RACING port 80 in the clear, 500 ms later (or when that fails) TLS on 443; the first whole handshake wins
 *        -> UP     requests flow until either side closes
 */
#ifndef TN_CONTROL_LINK_H
#define TN_CONTROL_LINK_H

#include "control/h2.h"
#include "control/weburl.h"
#include "crypto/keys.h"
#include "util/log.h"
#include "util/rng.h"
#include "util/stream.h"
#include <stdbool.h>
#include <stdint.h>

struct tn_link;

struct tn_link_config {
    struct tn_weburl url;
    uint16_t version;
    struct tn_machine_private machine;
    struct tn_rng rng;
    const struct tn_dialer *dialer;
    const struct tn_log *log;
    /* Both never inside a call of the user's but tn_link_timeout, tn_link_close and tn_link_flush. */
    void (*up)(void *ctx, uint64_t now_us);
    void (*down)(void *ctx, int err, const char *text, uint64_t now_us); /* could not come up, or lost */
    void *ctx;
};

int tn_link_new(const struct tn_link_config *config, struct tn_link **out);
void tn_link_free(struct tn_link *l); /* no callbacks */
/* Starts to connect unless it is connected or connecting. Failures come through down, from tn_link_timeout at the
 * latest. */
void tn_link_connect(struct tn_link *l, uint64_t now_us);
bool tn_link_up(const struct tn_link *l);
bool tn_link_idle(const struct tn_link *l); /* neither up nor connecting */
/* Ends the connection or the attempt with this reason: down comes (later, when called from inside a request's
 * callback). */
void tn_link_close(struct tn_link *l, int err, const char *text, uint64_t now_us);
/* As tn_h2_request, with our authority; TN_E_NOTCONN while not up. Sent with the next tn_link_flush. */
int tn_link_request(struct tn_link *l, struct tn_h2_spec *spec, const struct tn_h2_events *events, void *arg,
                    struct tn_h2_req **out);
void tn_link_cancel(struct tn_link *l, struct tn_h2_req *req);
/* Sends what was queued; harmless from inside callbacks, where it happens anyway on the way out. */
void tn_link_flush(struct tn_link *l, uint64_t now_us);
/* The time of the call under way, for request callbacks, which have none. */
uint64_t tn_link_now(const struct tn_link *l);
void tn_link_timeout(struct tn_link *l, uint64_t now_us);
uint64_t tn_link_next_deadline(const struct tn_link *l);

#endif
