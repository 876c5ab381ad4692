/* Events, deadlines and steps: the only part of this room that talks to libuv. */
#include "egress/private.h"
#include "egress/socket.h"
#include "util/err.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { BATCH = 128 }; /* events per epoll_wait; more stay for the next turn of the loop */
enum { DGRAM_TOKEN = 1, LOOKUP_TOKEN = 2, TOKENS = 3 };

uint64_t tn_egress_now(void) { return uv_hrtime() / 1000; }

int tn_run_watch(struct tn_egress *e, int fd, struct tn_egress_conn *c)
{
    struct epoll_event ev = {.events = EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    return epoll_ctl(e->epfd, EPOLL_CTL_ADD, fd, &ev) == 0 ? 0 : -errno;
}

int tn_run_watch_lookup(struct tn_egress *e, int fd, struct tn_upstream *u)
{
    struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.u64 = (uintptr_t)u | LOOKUP_TOKEN};
    return epoll_ctl(e->epfd, EPOLL_CTL_ADD, fd, &ev) == 0 ? 0 : -errno;
}

/* Told apart from the others by the lowest bits, which no object's address has. */
int tn_run_watch_dgrams(struct tn_egress *e, int fd, struct tn_chan *c)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = (uintptr_t)c | DGRAM_TOKEN};
    return epoll_ctl(e->epfd, EPOLL_CTL_ADD, fd, &ev) == 0 ? 0 : -errno;
}

void tn_run_unwatch(struct tn_egress *e, int fd) { (void)epoll_ctl(e->epfd, EPOLL_CTL_DEL, fd, NULL); }

void tn_run_queue(struct tn_egress_conn *c)
{
    if (tn_list_empty(&c->run)) tn_list_push_back(&c->e->run, &c->run);
}

static void on_timer(uv_timer_t *timer);
static void on_idle(uv_idle_t *idle);

static void arm_timer(struct tn_egress *e)
{
    uint64_t at_us = tn_heap_next(&e->timers);
    if (at_us >= e->timer_at_us) return; /* what is set fires early enough, and sets itself anew */
    uint64_t now_us = tn_egress_now();
    e->timer_at_us = at_us;
    /* uv counts from its cached time, which may lie a little behind: firing early only means setting it once more. */
    uv_timer_start(&e->timer, on_timer, at_us > now_us ? (at_us - now_us + 999) / 1000 : 0, 0);
}

void tn_run_schedule(struct tn_egress *e)
{
    if (e->closing || e->depth > 0) return; /* the end of the outermost step does it */
    if (tn_list_empty(&e->run) && !tn_dgrams_pending(e)) uv_idle_stop(&e->idle);
    else uv_idle_start(&e->idle, on_idle);
    arm_timer(e);
}

static void step(struct tn_egress_conn *c)
{
    switch ((enum tn_conn_state)c->state) {
    case TN_CONN_WAITING:
    case TN_CONN_CONNECTING:
    case TN_CONN_HANDSHAKE: tn_dial_step(c); return;
    case TN_CONN_OPEN: tn_conn_step_open(c); return;
    case TN_CONN_DRAINING:
        if (tn_secure_flush(c) != TN_E_AGAIN) tn_conn_bury(c, false);
        return;
    case TN_CONN_FAILED: {
        const struct tn_egress_events *ev = c->ev;
        void *arg = c->arg;
        enum tn_egress_fail why = (enum tn_egress_fail)c->why;
        tn_conn_bury(c, false);
        ev->on_fail(arg, why);
        return;
    }
    case TN_CONN_NEW:
    case TN_CONN_RESOLVING:
    case TN_CONN_CLOSED: return;
    }
}

static void leave(struct tn_egress *e)
{
    if (e->depth == 1) tn_dgrams_flush(e);
    if (--e->depth > 0) return;
    for (struct tn_list *n; (n = tn_list_pop_front(&e->graveyard));)
        free(TN_CONTAINER(n, struct tn_egress_conn, all));
    tn_dgrams_bury(e);
    tn_run_schedule(e);
}

/* One step for every connection that was queued when the turn began. Those that queue again wait for the next turn.
 * */
static void run(struct tn_egress *e)
{
    struct tn_list batch;
    tn_list_init(&batch);
    for (struct tn_list *n; (n = tn_list_pop_front(&e->run));) tn_list_push_back(&batch, n);
    for (struct tn_list *n; (n = tn_list_pop_front(&batch));) step(TN_CONTAINER(n, struct tn_egress_conn, run));
}

static void note(struct tn_egress_conn *c, uint32_t events)
{
    enum { BOTH = TN_EGRESS_WANT_READ | TN_EGRESS_WANT_WRITE };
    if (events & EPOLLIN) c->ready |= TN_EGRESS_WANT_READ;
    if (events & EPOLLOUT) c->ready |= TN_EGRESS_WANT_WRITE;
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLPRI)) {
        c->careful = true;
        c->ready |= TN_EGRESS_WANT_READ;
    }
    if (events & (EPOLLHUP | EPOLLERR)) c->ready |= BOTH;
    if (events & EPOLLERR) c->broken = true;
    if (c->state == TN_CONN_CONNECTING || c->state == TN_CONN_HANDSHAKE || c->state == TN_CONN_OPEN ||
        c->state == TN_CONN_DRAINING)
        tn_run_queue(c);
}

static void on_poll(uv_poll_t *poll, int status, int uv_events)
{
    struct tn_egress *e = poll->data;
    struct epoll_event events[BATCH];
    int n = epoll_wait(e->epfd, events, BATCH, 0);
    e->depth++;
    for (int i = 0; i < n; i++) {
        void *what = (void *)(uintptr_t)(events[i].data.u64 & ~(uint64_t)TOKENS);
        if (events[i].data.u64 & DGRAM_TOKEN) tn_chan_ready(what);
        else if (events[i].data.u64 & LOOKUP_TOKEN) tn_upstream_on_lookup(e, what);
        else note(events[i].data.ptr, events[i].events);
    }
    run(e);
    leave(e);
}

static void on_idle(uv_idle_t *idle)
{
    struct tn_egress *e = idle->data;
    e->depth++;
    run(e);
    leave(e);
}

static void on_timer(uv_timer_t *timer)
{
    struct tn_egress *e = timer->data;
    uint64_t now_us = tn_egress_now();
    e->timer_at_us = TN_NEVER;
    e->depth++;
    for (struct tn_timer *t; (t = tn_heap_pop_due(&e->timers, now_us));)
        TN_CONTAINER(t, struct tn_alarm, timer)->fire(TN_CONTAINER(t, struct tn_alarm, timer));
    run(e);
    leave(e);
}

int tn_run_init(struct tn_egress *e)
{
    e->epfd = epoll_create1(EPOLL_CLOEXEC);
    if (e->epfd < 0) return -errno;
    int err = uv_poll_init(e->loop, &e->poll, e->epfd);
    if (err) {
        close(e->epfd);
        return err;
    }
    uv_timer_init(e->loop, &e->timer);
    uv_idle_init(e->loop, &e->idle);
    e->poll.data = e->timer.data = e->idle.data = e;
    e->handles = 3;
    e->timer_at_us = TN_NEVER;
    err = uv_poll_start(&e->poll, UV_READABLE, on_poll);
    assert(err == 0); /* with a fresh descriptor and valid events it has no way to fail */
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    struct tn_egress *e = handle->data;
    if (--e->handles > 0) return;
    void (*done)(void *) = e->done;
    void *arg = e->done_arg;
    free(e);
    if (done) done(arg);
}

void tn_run_fini(struct tn_egress *e)
{
    uv_close((uv_handle_t *)&e->poll, on_closed);
    uv_close((uv_handle_t *)&e->timer, on_closed);
    uv_close((uv_handle_t *)&e->idle, on_closed);
    close(e->epfd);
    e->epfd = -1;
}
