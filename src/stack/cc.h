/* Congestion control as an exchangeable part.
 *
 * Two kinds. One that reacts to loss (CUBIC) owns cwnd outside recovery, and ssthresh; what is sent during recovery
 * is proportional rate reduction's business (recovery.c). One that has a model of the path (BBR) owns cwnd always,
 * and paces. Loss detection (rack.c) and retransmission timeouts are the same for both. All amounts are bytes.
 *
 * State lives in two places and on no heap: TN_CC_STATE bytes in the flow, for what is worth keeping while the
 * flow is idle, and TN_CC_FLIGHT bytes, zero at first, that exist while something is in flight. */
#ifndef TN_STACK_CC_H
#define TN_STACK_CC_H

#include "stack/rate.h"

#include <stdbool.h>
#include <stdint.h>

enum { TN_CC_STATE = 64, TN_CC_FLIGHT = 96 };
enum { TN_CC_IW_SEGS = 10 }; /* RFC 6928 */
#define TN_SSTHRESH_NONE UINT32_MAX

struct tn_cc_ops;

struct tn_cc {
    const struct tn_cc_ops *ops;
    uint32_t cwnd, ssthresh;
    uint32_t mss;
    uint32_t cwnd_max; /* the send buffer's limit: more could not be used, and an idle cwnd must not run away */
    uint64_t pace;     /* bytes per second; 0: not paced */
    void *flight;      /* TN_CC_FLIGHT bytes; NULL while nothing is in flight */
    uint64_t state[TN_CC_STATE / 8];
};

/* What one ACK told. */
struct tn_cc_ack {
    uint64_t now_us;
    uint32_t acked;     /* bytes newly known to have arrived */
    uint32_t rtt_us;    /* of this ACK, 0: none */
    uint32_t srtt_us, min_rtt_us;
    uint32_t una, nxt;  /* after the ACK: sequence numbers, to count rounds by */
    uint32_t inflight;  /* before the ACK */
    uint32_t inflight_now;
    bool cwnd_limited;  /* the window was what held data back; else it must not grow (RFC 7661) */
    uint32_t peer_wnd;  /* the largest window the peer has announced */
    bool peer_limited;  /* before the ACK its window was what held data back */
    bool has_sack, in_recovery;
    struct tn_rate *rate;
    const struct tn_rate_sample *rs;
};

struct tn_cc_ops {
    const char *name;
    bool is_model; /* owns cwnd also in recovery, is asked at every ACK that delivers something */
    void (*init)(struct tn_cc *cc); /* cwnd, mss, ssthresh are set already */
    /* Nothing was in flight for this long (0: never yet), and now something will be. */
    void (*on_start)(struct tn_cc *cc, uint64_t idle_us, uint32_t srtt_us, uint32_t rto_us, uint64_t now_us);
    /* A loss-based one: outside recovery, and only if snd_una moved. */
    void (*on_ack)(struct tn_cc *cc, const struct tn_cc_ack *ack);
    /* Loss was detected: set ssthresh. cwnd is brought down to it by the recovery. */
    void (*on_loss)(struct tn_cc *cc, uint64_t now_us);
    /* For each segment found to be lost, rate->lost counted already; may be NULL. */
    void (*on_segment_lost)(struct tn_cc *cc, const struct tn_rec *rec, const struct tn_rate *rate, bool has_sack,
                            uint64_t now_us);
    /* Retransmission timeout: set ssthresh, forget what no longer holds. The caller sets cwnd to one segment. */
    void (*on_rto)(struct tn_cc *cc, uint64_t now_us);
    /* The last on_loss or on_rto was a mistake; cwnd and ssthresh have been put back. */
    void (*on_undo)(struct tn_cc *cc, const struct tn_rate *rate, uint64_t now_us);
};

extern const struct tn_cc_ops tn_cc_cubic, tn_cc_bbr;

static inline bool tn_cc_in_slow_start(const struct tn_cc *cc) { return cc->cwnd < cc->ssthresh; }

#endif
