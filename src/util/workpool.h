/* A few threads that take work off a loop.
 *
 * Each worker has a queue of its own and does what is posted to it in order, so what must keep an order goes to one worker. The
 * pool belongs to one thread, its owner, who alone calls what is below; the work runs on the workers and must not call it.
 * A worker's thread starts with its first work; where none can be had, the owner does that worker's work itself, at once.
 *
 * Whatever the owner wrote before tn_workpool_post is seen by the work; whatever the work wrote is seen by the owner once
 * tn_workpool_idle, tn_workpool_drain or tn_workpool_free says that it is done. */
#ifndef TN_UTIL_WORKPOOL_H
#define TN_UTIL_WORKPOOL_H

#include <stdbool.h>
#include <stddef.h>

struct tn_workpool;

enum {
    TN_WORKERS_MAX = 16,
    TN_WORKER_QUEUE = 4, /* pieces of work that wait or run per worker: a few, as each may be some 100 us long, and what waits
                            here is not seen by congestion control */
};

/* local is what the worker's make returned. */
typedef void tn_work(void *arg, void *local);

struct tn_workpool_config {
    size_t workers; /* 1 to TN_WORKERS_MAX */
    /* State of one worker, such as a cipher's: made by the owner before the worker's first work, unmade by it after the last.
     * NULL from make: no memory. rest is called on the worker before it sleeps. make NULL: there is no such state. */
    void *(*make)(void *ctx);
    void (*rest)(void *local);
    void (*unmake)(void *local);
    void *ctx;
};

/* 0, TN_E_INVAL or TN_E_NOMEM. */
int tn_workpool_new(const struct tn_workpool_config *config, struct tn_workpool **out);
void tn_workpool_free(struct tn_workpool *p); /* after all that was posted is done; NULL is fine */
size_t tn_workpool_workers(const struct tn_workpool *p);

/* Can work be posted to it? False: no memory for its state, this time. */
bool tn_workpool_ready(struct tn_workpool *p, size_t worker);
/* Only to who is ready. Waits while TN_WORKER_QUEUE pieces of that worker's are not done. */
void tn_workpool_post(struct tn_workpool *p, size_t worker, tn_work *work, void *arg);
bool tn_workpool_idle(const struct tn_workpool *p, size_t worker); /* all that was posted to it is done */
void tn_workpool_drain(struct tn_workpool *p);                    /* waits until all of them are */

#endif
