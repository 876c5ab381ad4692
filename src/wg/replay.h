/* The replay window of a session (RFC 6479): counters at most TN_WG_WINDOW behind the highest seen are accepted
 * once, older ones never. Zeroed is empty. */
#ifndef TN_WG_REPLAY_H
#define TN_WG_REPLAY_H

#include <stdbool.h>
#include <stdint.h>

enum { TN_WG_WINDOW_WORDS = 128, TN_WG_WINDOW = (TN_WG_WINDOW_WORDS - 1) * 64 /* 8128; one word is being reused */ };

struct tn_wg_replay {
    uint64_t highest;
    uint64_t words[TN_WG_WINDOW_WORDS]; /* a ring: counter c is bit c % 64 of word c / 64 % words */
};

/* Would this counter be accepted? For turning replays away before the cost of opening them. */
static inline bool tn_wg_replay_fresh(const struct tn_wg_replay *r, uint64_t counter)
{
    if (counter > r->highest) return true;
    if (r->highest - counter > TN_WG_WINDOW) return false;
    return !(r->words[counter / 64 % TN_WG_WINDOW_WORDS] >> (counter % 64) & 1);
}

/* Marks the counter of an authentic packet. False: it is a replay or too old. */
static inline bool tn_wg_replay_accept(struct tn_wg_replay *r, uint64_t counter)
{
    if (!tn_wg_replay_fresh(r, counter)) return false;
    if (counter > r->highest) {
        uint64_t from = r->highest / 64, words = counter / 64 - from;
        if (words > TN_WG_WINDOW_WORDS) words = TN_WG_WINDOW_WORDS;
        for (uint64_t i = 1; i <= words; i++) r->words[(from + i) % TN_WG_WINDOW_WORDS] = 0;
        r->highest = counter;
    }
    r->words[counter / 64 % TN_WG_WINDOW_WORDS] |= UINT64_C(1) << (counter % 64);
    return true;
}

#endif
