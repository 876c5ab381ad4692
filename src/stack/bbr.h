/* BBR's state and its model of the path; shared by bbr_model.c (what is measured and which bounds follow) and
 * cc_bbr.c (what is done about it). After draft-ietf-ccwg-bbr of August 2026, whose names are used; where we differ
 * it is said.
 *
 * struct bbr is kept while the flow is idle; struct bbr_flight is forgotten with the last byte in flight, and
 * starts with zeros. Times are the low 32 bits of milliseconds, or microseconds where named so. */
#ifndef TN_STACK_BBR_H
#define TN_STACK_BBR_H

#include "stack/cc.h"
#include "stack/pace.h"

#define BBR_INFINITE UINT32_MAX

enum bbr_state { BBR_STARTUP, BBR_DRAIN, BBR_DOWN, BBR_CRUISE, BBR_REFILL, BBR_UP, BBR_PROBE_RTT };
enum bbr_acks { BBR_ACKS_INIT, BBR_ACKS_REFILLING, BBR_ACKS_PROBE_STARTING, BBR_ACKS_PROBE_FEEDBACK,
                BBR_ACKS_PROBE_STOPPING };

enum {
    BBR_MIN_SEGS = 4,
    BBR_SPAN_SEGS = 16, /* fewer are late by chance */
    BBR_MIN_RTT_LEN_MS = 10000,
    /* The draft's, where others make a queue: two looks in what a lowest round trip is good for, or a flow takes their
     * queue for the path. By ourselves one look is enough. */
    BBR_PROBE_RTT_SHARED_MS = 5000,
    BBR_PROBE_RTT_ALONE_MS = 8000,
    BBR_PROBE_RTT_MS = 200,
    BBR_EXTRA_ACKED_ROUNDS = 5, /* of each half of the filter */
    BBR_STARTUP_LOSSES = 6,
    BBR_FULL_BW_ROUNDS = 3,
    BBR_QUEUE_ROUNDS = 2,
    BBR_SOON_ROUNDS = 4,
    BBR_DRAIN_ROUNDS = 3,
    BBR_DOWN_ROUNDS = 10, /* a tenth less in each: a whole bandwidth-delay product */
    BBR_RENO_ROUNDS = 63,
    BBR_SHARED_SLOPE = 3,
};
#define BBR_LOSS_THRESH 0.02
#define BBR_STARTUP_LOSS_THRESH 0.08
#define BBR_BETA 0.7
#define BBR_QUEUE_RTT 1.125
#define BBR_SHARED_BETA 0.7
#define BBR_HEADROOM 0.15
#define BBR_FULL_BW_GROWTH 1.25
#define BBR_QUEUE_GROWTH 1.7
#define BBR_PEER_GROWTH 1.125
#define BBR_MARGIN 0.99 /* the pacing margin: a queue that stands would never drain */

struct bbr {
    float max_bw[2]; /* bytes per second, of the current probing cycle and the one before */
    float bw_short, full_bw; /* bw_short 0: none */
    uint32_t inflight_long, inflight_short;
    uint32_t min_rtt_us, probe_rtt_us; /* 0: none yet */
    uint32_t min_rtt_at, probe_rtt_at, probe_rtt_done_at, cycle_at;
    uint32_t prior_cwnd;
    uint32_t peer_wnd; /* when it last held back a round that did not count for a full pipe */
    uint8_t state, acks;
    uint8_t full_bw_count, rounds_since_probe;
    uint8_t wait;         /* until the next probe: 2 s and as many 256ths of one */
    uint8_t drain_rounds;
    bool started : 1, full_bw_reached : 1, full_bw_now : 1, probe_sample : 1, probed_too_high : 1,
         probed_cautiously : 1, probe_rtt_timed : 1, probe_rtt_round_done : 1;
    bool idle_restart : 1, shared : 1, probe_soon : 1;
};

struct bbr_flight {
    float bw_latest, undo_bw_short;
    uint32_t inflight_latest;
    uint32_t next_round, loss_round;        /* of delivered */
    uint32_t round_rtt_us, srtt_us;         /* lowest of the loss round, and smoothed; 0: none */
    uint32_t round_lost, round_delivered;   /* rate->lost and ->delivered at the loss round's start */
    uint32_t lost_end;                      /* to tell ranges of lost segments */
    uint32_t extra_from_us, extra_delivered, extra[2];
    uint32_t up_acked, up_acked_per_inc;
    uint32_t span_from, span_rtt_us;        /* of UP: delivered at the start of an eighth of a round, and its lowest round
                                             * trip; of Startup: the lowest of a round */
    uint32_t undo_inflight_short, undo_inflight_long;
    uint8_t undo_state, up_rounds, extra_rounds, loss_ranges, queue_rounds;
    bool round_start, loss_round_start, loss_in_round, recovery_round, can_undo_state, undo_soon;
    bool peer_limited_loss_round, peer_limited_round, cruise_round;
};
_Static_assert(sizeof(struct bbr) <= TN_CC_STATE, "the state must fit the flow's room for it");
_Static_assert(sizeof(struct bbr_flight) <= TN_CC_FLIGHT, "and the flight's");

/* All that one ACK's processing needs. */
struct bbr_now {
    struct tn_cc *cc;
    struct bbr *b;
    struct bbr_flight *f;
    const struct tn_cc_ack *a;
    uint32_t ms;
};

static inline struct bbr *bbr_of(struct tn_cc *cc) { return (struct bbr *)(void *)cc->state; }
/* A round trip longer than that has waited in a queue, and not only for the ends, which sleep. */
static inline double tn_bbr_queue_rtt(const struct bbr *b) { return b->min_rtt_us * BBR_QUEUE_RTT + TN_PACE_AHEAD_US; }
static inline bool bbr_is_probing_bw(const struct bbr *b) { return b->state >= BBR_DOWN && b->state <= BBR_UP; }

/* bbr_model.c */
double tn_bbr_max_bw(const struct bbr *b);
double tn_bbr_bw(const struct bbr *b);
/* Bytes that gain bandwidth-delay products are, and what the sender's own granularity needs on top. */
double tn_bbr_bdp(const struct tn_cc *cc, double gain);
uint32_t tn_bbr_inflight(const struct tn_cc *cc, double gain);
/* Bytes on top of that for ACKs that come in lumps; while something is in flight. */
uint32_t tn_bbr_extra(const struct tn_cc *cc);
uint32_t tn_bbr_with_headroom(const struct tn_cc *cc);
uint32_t tn_bbr_target(const struct tn_cc *cc);
uint32_t tn_bbr_cap(const struct tn_cc *cc);
void tn_bbr_start_round(struct bbr_flight *f, const struct tn_rate *rate);
void tn_bbr_reset_full_bw(struct bbr *b);
void tn_bbr_reset_short_term(struct bbr *b);
void tn_bbr_reset_signals(struct bbr_flight *f);
/* The first half of an ACK: rounds, bandwidth, losses of the round, ACK aggregation, full pipe. */
void tn_bbr_measure(struct bbr_now *n);
/* The end of it. */
void tn_bbr_measured(struct bbr_now *n);
/* True: the time has come to look for the lowest round-trip time again. */
bool tn_bbr_min_rtt(struct bbr_now *n);
/* Bytes that may be lost of in_flight before that is too much. */
double tn_bbr_loss_allowed(const struct tn_cc *cc, uint32_t in_flight);
bool tn_bbr_inflight_too_high(const struct tn_cc *cc, uint32_t lost, uint32_t in_flight, bool has_sack);

#endif
