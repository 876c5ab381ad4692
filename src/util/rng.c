#include "util/rng.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

static void system_fill(void *ctx, void *out, size_t len)
{
    for (char *p = out; len > 0;) {
        ssize_t n = getrandom(p, len, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) abort(); /* no randomness: no keys, no nonces, nothing safe to go on with */
        p += n;
        len -= (size_t)n;
    }
}

struct tn_rng tn_rng_system(void) { return (struct tn_rng){.fill = system_fill}; }

static void seeded_fill(void *ctx, void *out, size_t len)
{
    uint64_t *state = ctx;
    for (unsigned char *p = out; len > 0;) {
        uint64_t z = *state += 0x9e3779b97f4a7c15ULL;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
        z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
        z ^= z >> 31;
        for (int i = 0; i < 8 && len > 0; i++, len--) *p++ = (unsigned char)(z >> (8 * i));
    }
}

struct tn_rng tn_rng_seeded(uint64_t *state) { return (struct tn_rng){.fill = seeded_fill, .ctx = state}; }
