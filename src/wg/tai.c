#include "wg/tai.h"
#include "util/cursor.h"

#include <string.h>

#define TAI_BASE UINT64_C(0x400000000000000a) /* 2^62, and the 10 s between TAI and UTC in 1970 */
enum { WHITEN = (1 << 24) - 1, SECOND_NS = 1000000000, SECOND_US = 1000000 };

void tn_wg_clock_read(struct tn_wg_clock *c, int64_t wall_sec, uint32_t wall_nsec, uint64_t now_us)
{
    uint64_t elapsed_us = now_us > c->at_us ? now_us - c->at_us : 0;
    int64_t sec = c->sec + (int64_t)(elapsed_us / SECOND_US);
    uint64_t nsec = c->nsec + elapsed_us % SECOND_US * 1000;
    if (nsec >= SECOND_NS) {
        sec++;
        nsec -= SECOND_NS;
    }
    if (wall_nsec >= SECOND_NS) wall_nsec = SECOND_NS - 1;
    if (wall_sec > sec || (wall_sec == sec && wall_nsec > nsec)) {
        sec = wall_sec;
        nsec = wall_nsec;
    }
    *c = (struct tn_wg_clock){.sec = sec, .nsec = (uint32_t)nsec, .at_us = now_us};
}

/* One step later than a whitened stamp. */
static void step(uint8_t stamp[TN_WG_TAI_LEN])
{
    uint64_t sec = tn_get_be64(stamp);
    uint32_t nsec = (tn_get_be32(stamp + 8) & ~(uint32_t)WHITEN) + WHITEN + 1;
    if (nsec >= SECOND_NS) {
        nsec = 0;
        sec++;
    }
    tn_put_be64(stamp, sec);
    tn_put_be32(stamp + 8, nsec);
}

void tn_wg_tai_stamp(const struct tn_wg_clock *c, uint8_t last[TN_WG_TAI_LEN])
{
    uint8_t stamp[TN_WG_TAI_LEN];
    tn_put_be64(stamp, TAI_BASE + (uint64_t)c->sec);
    tn_put_be32(stamp + 8, c->nsec & ~(uint32_t)WHITEN);
    if (memcmp(stamp, last, sizeof stamp) > 0) memcpy(last, stamp, sizeof stamp);
    else step(last);
}
