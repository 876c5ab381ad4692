/* How much handshake work strangers may cause (wireguard-go ratelimiter/, device.IsUnderLoad).
 *
 * A handshake message costs up to five X25519 operations, 0.2 ms. TN_WG_LOAD_PER_S of them in a second are taken
 * as they come; beyond that the engine is under load, for at least a second, in which only senders with a valid
 * MAC2 are heard, each at most 20 times a second after a burst of 5. */
#ifndef TN_WG_LIMIT_H
#define TN_WG_LIMIT_H

#include "util/htable.h"
#include "util/list.h"
#include "util/siphash.h"
#include "wg/wg.h"

enum {
    TN_WG_LOAD_PER_S = 500,       /* a tenth of a core; a busy exit node's peers all coming back stay below it */
    TN_WG_SOURCE_PER_S = 20,
    TN_WG_SOURCE_BURST = 5,
    TN_WG_SOURCES_MAX = 4096,     /* sources remembered; the one heard longest ago makes room */
};

struct tn_wg_limit {
    struct tn_hashkey hash;
    struct tn_htable sources;
    struct tn_list recent; /* of struct source, the latest heard first */
    uint64_t tokens_us;    /* handshake budget, in microseconds of TN_WG_LOAD_PER_S */
    uint64_t refilled_us;
    uint64_t load_until_us;
};

void tn_wg_limit_init(struct tn_wg_limit *l, const struct tn_rng *rng);
void tn_wg_limit_fini(struct tn_wg_limit *l);
/* A handshake message with a valid MAC1 arrived: is the engine under load now? */
bool tn_wg_limit_load(struct tn_wg_limit *l, uint64_t now_us);
/* May this source (whose MAC2 was valid) have another message looked at? Without memory: no. */
bool tn_wg_limit_source(struct tn_wg_limit *l, const struct tn_wg_from *from, uint64_t now_us);
/* Forgets sources whose bucket is full again. Returns when to call again, TN_NEVER when none is left. */
uint64_t tn_wg_limit_forget(struct tn_wg_limit *l, uint64_t now_us);

#endif
