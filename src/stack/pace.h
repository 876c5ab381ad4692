/* Pacing: when the next bytes may go, at the rate the congestion control asks for.
 *
 * A flow owns a point in time up to which its rate is used up; each sent byte moves it on. Sending is allowed
 * while it lies no more than TN_PACE_AHEAD_US in the future. That is a token bucket one tick of the event loop
 * deep: a timer that comes a millisecond late has lost nothing, and on a path shorter than a tick ACKs, not
 * timers, set the pace. A loop that was held up for longer catches up TN_PACE_LATE_US more, as far as the window
 * lets it. */
#ifndef TN_STACK_PACE_H
#define TN_STACK_PACE_H

#include <stdbool.h>
#include <stdint.h>

enum {
    TN_PACE_AHEAD_US = 1000,
    TN_PACE_LATE_US = 4000,
    TN_PACE_QUANTUM_MAX = 64 * 1024, /* what a super-segment can be */
};

struct tn_pace {
    uint64_t used_to_us;
    uint16_t rest_ns; /* used beyond that; without it a segment of 9.9 us takes 9, a tenth too fast at 1 Gbit/s */
    bool waiting;     /* there is something to send, and only time is missing */
};

/* What is decided on at once: a millisecond's worth, two segments to 64 KB. rate 0: not paced. */
static inline uint32_t tn_pace_quantum(uint64_t rate, uint32_t mss)
{
    uint64_t bytes = rate ? rate / 1000 : TN_PACE_QUANTUM_MAX;
    if (bytes > TN_PACE_QUANTUM_MAX) bytes = TN_PACE_QUANTUM_MAX;
    return bytes > 2 * mss ? (uint32_t)bytes : 2 * mss;
}

static inline bool tn_pace_allows(const struct tn_pace *p, uint64_t rate, uint64_t now_us)
{
    return rate == 0 || p->used_to_us <= now_us + TN_PACE_AHEAD_US;
}
/* Before sending is tried: time in which nothing waited for it is not saved up. */
void tn_pace_wake(struct tn_pace *p, uint64_t now_us);
static inline void tn_pace_sent(struct tn_pace *p, uint64_t rate, uint32_t bytes)
{
    if (rate == 0) return;
    uint64_t ns = (uint64_t)bytes * 1000000000 / rate + p->rest_ns;
    p->used_to_us += ns / 1000;
    p->rest_ns = (uint16_t)(ns % 1000);
}
/* When it will be allowed again. */
static inline uint64_t tn_pace_at(const struct tn_pace *p) { return p->used_to_us - TN_PACE_AHEAD_US; }

#endif
