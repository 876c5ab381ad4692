/* A circuit breaker per proxy: when a proxy does not answer, dials stop waiting for it, and one at a time finds out
 * whether it is back.
 *
 *   CLOSED  dials go. TN_BREAKER_FAILS failures in a row open it; refused credentials open it at once, because sending
 *           them again with every flow gets an account locked
 *   OPEN    no dials until until_us; results of dials that began before do not lengthen that
 *   TRIAL   the time has passed: one dial or probe may try. Its success closes, its failure opens for twice as long
 *
 * No clock, no I/O. What counts as a failure is the caller's business: only what no peer can cause by its choice of a
 * destination, or one peer could take a proxy from all others. */
#ifndef TN_EGRESS_BREAKER_H
#define TN_EGRESS_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

enum { TN_BREAKER_FAILS = 3 };
#define TN_BREAKER_FIRST_US 1000000ull
#define TN_BREAKER_MAX_US 15000000ull /* a proxy that is back is used again within this, and a probe */
#define TN_BREAKER_AUTH_FIRST_US 5000000ull
#define TN_BREAKER_AUTH_MAX_US 60000000ull
#define TN_BREAKER_TRIAL_US 30000000ull /* a trial that nobody reports on is over after this */

enum tn_breaker_state { TN_BREAKER_CLOSED, TN_BREAKER_OPEN, TN_BREAKER_TRIAL };

struct tn_breaker { /* all zero: closed */
    uint8_t state, fails;
    uint8_t opens; /* in a row, without a success between */
    bool auth;     /* opened by refused credentials */
    uint64_t until_us;
};

/* CLOSED: go. OPEN: don't. TRIAL: one may; whoever does says tn_breaker_try first. */
enum tn_breaker_state tn_breaker_says(const struct tn_breaker *b, uint64_t now_us);
void tn_breaker_try(struct tn_breaker *b, uint64_t now_us);
/* True when the breaker changed by it. */
bool tn_breaker_success(struct tn_breaker *b);
bool tn_breaker_failure(struct tn_breaker *b, bool auth, uint64_t now_us);

#endif
