/* Round-trip time and retransmission timeout (RFC 6298), in microseconds. */
#ifndef TN_STACK_RTT_H
#define TN_STACK_RTT_H

#include <stdint.h>

enum {
    TN_RTO_INITIAL_US = 1000000,  /* RFC 6298 section 2 */
    /* The variance term's floor, as Linux has it, instead of a floor of one second on the whole: a tail loss costs
     * the round trip and a fifth of a second. Covers the peers' delayed ACKs. */
    TN_RTO_SLACK_US = 200000,
    TN_RTO_MAX_US = 60000000,
    TN_RTO_AFTER_SYN_US = 3000000, /* for data when the SYN had to be sent again and no round trip is known (section 5.7) */
    TN_RTT_MIN_WINDOW_S = 300, /* a minimum older than this is replaced: routes change (relay to direct) */
    TN_RTT_SAMPLE_MAX_US = 120 * 1000000,
};

struct tn_rtt {
    uint32_t srtt_us, rttvar_us; /* 0: no sample yet */
    uint32_t rto_us;             /* without backoff */
    uint32_t min_us;             /* lowest of the window; 0: none */
    uint32_t min_at_s;           /* when it was seen, seconds */
};

void tn_rtt_init(struct tn_rtt *r);
/* Never from a segment that was sent more than once, unless timestamps tell which one was answered (Karn). */
void tn_rtt_sample(struct tn_rtt *r, uint64_t rtt_us, uint64_t now_us);
/* The timeout after this many expirations in a row. */
static inline uint64_t tn_rtt_backoff(const struct tn_rtt *r, unsigned shift)
{
    uint64_t us = (uint64_t)r->rto_us << (shift < 16 ? shift : 16);
    return us < TN_RTO_MAX_US ? us : TN_RTO_MAX_US;
}

#endif
