/* Congestion control as an exchangeable part.
 *
 * The algorithm owns cwnd outside loss recovery, and ssthresh. Loss detection (rack.c), what is sent during recovery
 * (recovery.c: proportional rate reduction) and retransmission timeouts are the same for all of them. All amounts are
 * bytes. State lives in the flow: an algorithm has TN_CC_STATE bytes, and no heap. */
#ifndef TN_STACK_CC_H
#define TN_STACK_CC_H

#include <stdbool.h>
#include <stdint.h>

enum { TN_CC_STATE = 48 };
#define TN_SSTHRESH_NONE UINT32_MAX

struct tn_cc_ops;

struct tn_cc {
    const struct tn_cc_ops *ops;
    uint32_t cwnd, ssthresh;
    uint32_t mss;
    uint32_t cwnd_max; /* the send buffer's limit: more could not be used, and an idle cwnd must not run away */
    uint64_t state[TN_CC_STATE / 8];
};

/* What one ACK told. */
struct tn_cc_ack {
    uint64_t now_us;
    uint32_t acked;     /* bytes newly known to have arrived; there is such an ACK only if snd_una moved */
    uint32_t rtt_us;    /* of this ACK, 0: none */
    uint32_t srtt_us, min_rtt_us;
    uint32_t una, nxt;  /* after the ACK: sequence numbers, to count rounds by */
    uint32_t inflight;  /* before the ACK */
    bool cwnd_limited;  /* the window was what held data back; else it must not grow (RFC 7661) */
};

struct tn_cc_ops {
    const char *name;
    void (*init)(struct tn_cc *cc); /* cwnd, mss, ssthresh are set already */
    /* Outside recovery. */
    void (*on_ack)(struct tn_cc *cc, const struct tn_cc_ack *ack);
    /* Loss was detected: set ssthresh. cwnd is brought down to it by the recovery. */
    void (*on_loss)(struct tn_cc *cc, uint64_t now_us);
    /* Retransmission timeout: set ssthresh, forget what no longer holds. The caller sets cwnd to one segment. */
    void (*on_rto)(struct tn_cc *cc, uint64_t now_us);
    /* The last on_loss or on_rto was a mistake; cwnd and ssthresh have been put back. */
    void (*on_undo)(struct tn_cc *cc);
    /* Nothing was in flight for this long; the next data starts a new epoch. */
    void (*on_idle)(struct tn_cc *cc, uint64_t idle_us, uint64_t now_us);
};

extern const struct tn_cc_ops tn_cc_cubic;

static inline bool tn_cc_in_slow_start(const struct tn_cc *cc) { return cc->cwnd < cc->ssthresh; }

#endif
