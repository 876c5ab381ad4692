/* Trains that workers seal and send, private to udp.c. */
#ifndef TN_PATH_UDP_POST_H
#define TN_PATH_UDP_POST_H

#include "crypto/aead.h"
#include "path/udp_send.h"
#include "util/workpool.h"

struct tn_udp_post;

/* Everything of a post that is NULL is as without workers: never busy, nothing taken. */
int tn_udp_post_new(struct tn_udp_sender *s, struct tn_workpool *pool, void (*wake)(void *ctx), void *ctx, struct tn_udp_post **out);
void tn_udp_post_free(struct tn_udp_post *p); /* after what was posted is sent */
uint8_t *tn_udp_post_buffer(struct tn_udp_post *p);
void tn_udp_post_trim(struct tn_udp_post *p); /* gives back the memory of what is not in use */

/* Is there something for this address that is not sent yet? What is sent now must go behind it. */
bool tn_udp_post_busy(const struct tn_udp_post *p, const struct tn_addrport *to);
/* Is the run long enough for another thread, or must it go to one? */
bool tn_udp_post_worth(struct tn_udp_post *p, const struct tn_addrport *to, const struct tn_aead_run *run);
bool tn_udp_post_seal(struct tn_udp_post *p, const struct tn_addrport *to, const struct tn_aead_run *run);
/* Sealed already; one longer than TN_UDP_TRAIN_BYTES is lost. */
void tn_udp_post_copy(struct tn_udp_post *p, const struct tn_addrport *to, const uint8_t *run, size_t len, size_t segment);
/* Takes those of the runs, all within 64 KiB of bytes, whose address is busy; returns how many are left, at the front. */
unsigned tn_udp_post_runs(struct tn_udp_post *p, const uint8_t *bytes, struct tn_udp_run *runs, unsigned n);

#endif
