/* Latency of DERP regions over HTTPS, for networks that let no UDP through (net/netcheck measureHTTPSLatency). */
#ifndef TN_PATH_LATENCY_CHECK_H
#define TN_PATH_LATENCY_CHECK_H

#include "path/home.h"
#include "util/stream.h"

struct tn_latency_check;

/* Measures every eligible region of map (borrowed) within 5 s. done is called once, from a timeout, with
 * what was learned; the check is to be freed afterwards, which done itself may not do. 0 or TN_E_NOMEM. */
int tn_latency_check_new(const struct tn_derp_map *map, const struct tn_dialer *dialer, bool prefer6,
                         void (*done)(void *ctx, const struct tn_home_latency *l, size_t n, uint64_t now_us),
                         void *ctx,
                         uint64_t now_us, struct tn_latency_check **out);
void tn_latency_check_free(struct tn_latency_check *c); /* without calling done */
void tn_latency_check_timeout(struct tn_latency_check *c, uint64_t now_us);
uint64_t tn_latency_check_next_deadline(const struct tn_latency_check *c);

#endif
