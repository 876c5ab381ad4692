#include "stack/pace.h"

void tn_pace_wake(struct tn_pace *p, uint64_t now_us)
{
    uint64_t late = now_us > TN_PACE_LATE_US ? now_us - TN_PACE_LATE_US : 0, least = p->waiting ? late : now_us;
    if (p->used_to_us < least) p->used_to_us = least;
    p->waiting = false;
}
