/* TAI64N timestamps for initiations, from a clock that never goes backwards while the node lives.
 *
 * A peer takes an initiation only with a later timestamp than any it has seen from our static key, so one that is not
 * later costs us the peer until the wall clock catches up. Two guards: the clock itself continues with monotonic time
 * when the wall clock is set back, and a peer's stamp is always later than the last one sent to it. Stamps are cut to
 * 2^24 ns, as WireGuard does, so that they don't tell the clock's fine grain. */
#ifndef TN_WG_TAI_H
#define TN_WG_TAI_H

#include <stdint.h>

enum { TN_WG_TAI_LEN = 12 };

struct tn_wg_clock {
    int64_t sec;   /* the latest time known ... */
    uint32_t nsec;
    uint64_t at_us; /* ... and the monotonic time it was known at */
};

/* Takes a wall-clock reading into account and gives the time now, never earlier than one given before. */
void tn_wg_clock_read(struct tn_wg_clock *c, int64_t wall_sec, uint32_t wall_nsec, uint64_t now_us);
/* The stamp for the clock's time, or the next step after last (updated) when that would not be later. */
void tn_wg_tai_stamp(const struct tn_wg_clock *c, uint8_t last[TN_WG_TAI_LEN]);

#endif
