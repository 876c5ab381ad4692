/* One direction of a link: delay, rate with a drop-tail queue, loss, reordering, duplication, corruption, blackout.
 *
 * Seeded and without a clock of its own: the same packets at the same times come out the same. Shared by the
 * simulator (virtual time), the tests against the kernel and the benchmark (real time). */
#ifndef TN_TESTS_LINK_H
#define TN_TESTS_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct link_config {
    uint64_t delay_us;
    uint64_t rate_bps;    /* bits per second; 0: no limit */
    uint64_t queue_bytes; /* waiting for the rate; 0: no limit */
    double loss, reorder, duplicate, corrupt; /* probabilities per packet */
    double early; /* probability of overtaking all that is under way: no delay at all, netem's way of reordering */
    uint64_t reorder_us;  /* how much later a reordered packet comes, at most */
    uint64_t dark_from_us, dark_to_us; /* everything sent then is lost */
    uint64_t seed;
};

struct link_packet {
    uint64_t at_us, order;
    size_t len;
    uint8_t bytes[];
};

struct link {
    struct link_config c;
    uint64_t rng, free_at_us, order;
    struct link_packet **heap;
    size_t count, cap;
    uint64_t sent, lost, overflowed, delivered;
};

void link_init(struct link *l, const struct link_config *c);
void link_fini(struct link *l);
void link_send(struct link *l, const uint8_t *packet, size_t len, uint64_t now_us);
uint64_t link_next(const struct link *l); /* UINT64_MAX: nothing under way */
/* The next packet that has arrived by now_us, to be freed by the caller; NULL: none. */
struct link_packet *link_take(struct link *l, uint64_t now_us);

uint64_t link_random(uint64_t *state);
static inline double link_chance(uint64_t *state) { return (double)(link_random(state) >> 11) / 9007199254740992.0; }

#endif
