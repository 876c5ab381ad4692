#include "stack/rtt.h"

void tn_rtt_init(struct tn_rtt *r) { *r = (struct tn_rtt){.rto_us = TN_RTO_INITIAL_US}; }

static void note_min(struct tn_rtt *r, uint32_t us, uint64_t now_us)
{
    if (r->min_us && us > r->min_us && (uint32_t)(now_us / 1000000) - r->min_at_s < TN_RTT_MIN_WINDOW_S) return;
    r->min_us = us;
    r->min_at_s = (uint32_t)(now_us / 1000000);
}

void tn_rtt_sample(struct tn_rtt *r, uint64_t rtt_us, uint64_t now_us)
{
    if (rtt_us > TN_RTT_SAMPLE_MAX_US) rtt_us = TN_RTT_SAMPLE_MAX_US;
    uint32_t us = rtt_us ? (uint32_t)rtt_us : 1;
    note_min(r, us, now_us);
    if (r->srtt_us == 0) {
        r->srtt_us = us;
        r->rttvar_us = us / 2;
    } else {
        uint32_t diff = us > r->srtt_us ? us - r->srtt_us : r->srtt_us - us;
        r->rttvar_us = (uint32_t)((3ull * r->rttvar_us + diff) / 4);
        r->srtt_us = (uint32_t)((7ull * r->srtt_us + us) / 8);
        if (r->srtt_us == 0) r->srtt_us = 1;
    }
    uint64_t var = 4ull * r->rttvar_us;
    uint64_t rto = r->srtt_us + (var > TN_RTO_SLACK_US ? var : TN_RTO_SLACK_US);
    r->rto_us = rto < TN_RTO_MAX_US ? (uint32_t)rto : TN_RTO_MAX_US;
}
