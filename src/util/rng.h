/* Randomness is an argument: engines get a struct tn_rng, tests a seeded one. */
#ifndef TN_UTIL_RNG_H
#define TN_UTIL_RNG_H

#include <stddef.h>
#include <stdint.h>

struct tn_rng {
    void (*fill)(void *ctx, void *out, size_t len); /* never fails: the kernel's generator aborts the process if absent */
    void *ctx;
};

struct tn_rng tn_rng_system(void); /* getrandom(2) */
/* splitmix64 from a seed, for tests and simulations only; state is the caller's. */
struct tn_rng tn_rng_seeded(uint64_t *state);

static inline void tn_rng_fill(const struct tn_rng *r, void *out, size_t len) { r->fill(r->ctx, out, len); }
static inline uint32_t tn_rng_u32(const struct tn_rng *r)
{
    uint32_t v;
    r->fill(r->ctx, &v, sizeof v);
    return v;
}
static inline uint64_t tn_rng_u64(const struct tn_rng *r)
{
    uint64_t v;
    r->fill(r->ctx, &v, sizeof v);
    return v;
}
/* 0 .. n-1, n > 0; the bias of the modulo (under 2^-32 for small n) does not matter for jitter. */
static inline uint64_t tn_rng_below(const struct tn_rng *r, uint64_t n) { return tn_rng_u64(r) % n; }

#endif
