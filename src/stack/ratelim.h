/* Token bucket for answers that strangers can provoke. */
#ifndef TN_STACK_RATELIM_H
#define TN_STACK_RATELIM_H

#include <stdbool.h>
#include <stdint.h>

struct tn_ratelim {
    uint32_t per_second, burst;
    uint64_t credit_us; /* 1,000,000 per token */
    uint64_t last_us;
};

static inline void tn_ratelim_init(struct tn_ratelim *r, uint32_t per_second, uint32_t burst)
{
    *r = (struct tn_ratelim){.per_second = per_second, .burst = burst, .credit_us = burst * 1000000ull};
}
static inline bool tn_ratelim_take(struct tn_ratelim *r, uint64_t now_us)
{
    uint64_t passed = now_us > r->last_us ? now_us - r->last_us : 0, max = r->burst * 1000000ull;
    r->last_us = now_us;
    r->credit_us = passed > max / r->per_second ? max : r->credit_us + passed * r->per_second;
    if (r->credit_us > max) r->credit_us = max;
    if (r->credit_us < 1000000) return false;
    r->credit_us -= 1000000;
    return true;
}

#endif
