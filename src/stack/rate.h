/* How fast the network delivers (draft-ietf-ccwg-bbr section 4.1, formerly draft-cheng-iccrg-delivery-rate-
 * estimation).
 *
 * Each transmission is marked with how much had been delivered by then and when. When its ACK comes, what was
 * delivered in between divided by the longer of the time it took to send and the time it took to be acknowledged
 * is a lower bound of the bottleneck's rate. Samples taken while the application had nothing to send say less and
 * are marked so. Byte counts and times (microseconds) run modulo 2^32: only differences within one flight matter. */
#ifndef TN_STACK_RATE_H
#define TN_STACK_RATE_H

#include <stdbool.h>
#include <stdint.h>

struct tn_rec;

/* In each record of the scoreboard: the state when it was sent last. */
struct tn_rate_mark {
    uint32_t delivered, delivered_us, first_sent_us;
    uint32_t lost;      /* counted lost by then */
    uint32_t in_flight; /* with this segment */
};

struct tn_rate {
    uint32_t delivered, delivered_us; /* bytes so far; when the last of them was reported */
    uint32_t first_sent_us;           /* when the newest delivered segment was sent: start of the sending interval */
    uint32_t lost;                    /* bytes marked lost so far */
    uint32_t app_limited_to;          /* samples count as limited until delivered is beyond this, if app_limited */
    bool app_limited;
};

struct tn_rate_sample {
    bool has_data, app_limited;
    uint32_t delivered;       /* since the newest delivered segment was sent */
    uint32_t prior_delivered; /* by when it was sent */
    uint32_t in_flight, lost; /* when it was sent; lost since then */
    uint64_t bytes_per_s;     /* 0: no sample */
    /* the newest so far, while the ACK is processed */
    uint64_t sent_us;
    uint32_t end, prior_us, send_elapsed_us;
};

void tn_rate_start(struct tn_rate *r, uint64_t now_us);
/* A segment goes out (again); in_flight: bytes before it. Marks the record. */
void tn_rate_sent(struct tn_rate *r, struct tn_rec *rec, uint32_t in_flight, uint64_t now_us);
/* For each record that an ACK reports as arrived. */
void tn_rate_note(struct tn_rate *r, struct tn_rate_sample *s, const struct tn_rec *rec);
/* After the last of them: bytes is all that the ACK delivered. */
void tn_rate_finish(struct tn_rate *r, struct tn_rate_sample *s, uint32_t bytes, uint32_t min_rtt_us,
                    uint64_t now_us);
/* The sender ran dry with this much in flight. */
void tn_rate_limited(struct tn_rate *r, uint32_t in_flight);

#endif
