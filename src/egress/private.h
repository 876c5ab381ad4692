/* What the units of this room share. Nobody outside src/egress includes it.
 *
 * One epoll set holds every descriptor, edge-triggered, and the loop watches that set through a single uv_poll_t:
 * to want or not to want an event costs no system call, a connection needs no libuv handle of its own, and closing
 * one is immediate. Events only set bits (ready) and queue the connection; run.c then takes queued connections one
 * step each per turn, so that no busy flow starves another. A connection closed inside its own callback lies in the
 * graveyard until the outermost step is over. */
#ifndef TN_EGRESS_PRIVATE_H
#define TN_EGRESS_PRIVATE_H

#include "egress/dgram_private.h"
#include "egress/egress.h"
#include "egress/guard.h"
#include "egress/handshake.h"
#include "egress/policy.h"
#include "util/heap.h"
#include "util/htable.h"
#include "util/list.h"
#include "util/resolve.h"

/* The way of a connection. Only tn_conn_set_state moves it. */
#define TN_CONN_STATE_MAP(X)                                                                                      \
    X(NEW) X(RESOLVING) X(CONNECTING) X(HANDSHAKE) X(OPEN) X(FAILED) X(CLOSED)
enum tn_conn_state {
#define TN_CONN_STATE_ENUM(name) TN_CONN_##name,
    TN_CONN_STATE_MAP(TN_CONN_STATE_ENUM)
#undef TN_CONN_STATE_ENUM
};

/* What exists only until the connection is open. */
struct tn_dialing {
    struct tn_egress_conn *conn;
    struct tn_addrport dst;
    struct tn_timer timer;     /* the phase's deadline, or that of one of the proxy's addresses */
    uint64_t deadline_us;      /* of the phase */
    struct tn_list waiting;    /* RESOLVING: in tn_upstream.waiting */
    struct tn_addrport *addrs; /* the proxy's addresses still to be tried; NULL in HOST mode */
    size_t naddrs, next;
    bool in_handshake;         /* handshake is initialised */
    struct tn_handshake handshake;
};

/* A peer's share of the limits; exists while it has any. */
struct tn_share {
    struct tn_hnode node;
    uint64_t peer;
    unsigned dials, flows;
};

struct tn_egress_conn {
    struct tn_egress *e;
    const struct tn_egress_events *ev;
    void *arg;
    struct tn_share *share;    /* NULL: RESOLVER, or given back */
    struct tn_list all, run;   /* run: queued for a step if not empty */
    struct tn_dialing *dialing; /* NULL once open */
    uint8_t *early;            /* came with the proxy's answer; freed when read */
    uint32_t early_off, early_len;
    int fd, err;               /* err: the first failure, repeated ever after */
    uint8_t state, want, ready, why, purpose;
    bool eof, shut, broken; /* their FIN was read; ours was sent; EPOLLERR was seen */
    bool careful;           /* a short read proves nothing any more */
};

/* The proxy's addresses, by literal or by the host's resolver. */
struct tn_upstream {
    struct tn_addrport addrs[TN_RESOLVE_MAX];
    size_t count;
    uint64_t fresh_until_us; /* after this a new lookup is begun, and until it ends the old addresses serve */
    uint64_t retry_us;       /* after a failed lookup: not before this */
    bool literal;
    struct tn_resolve *lookup;
    struct tn_list waiting; /* of struct tn_dialing */
};

struct tn_egress {
    uv_loop_t *loop;
    const struct tn_log *log;
    struct tn_egress_limits limits;
    uint32_t mark;
    struct tn_policy policy;
    struct tn_guard guard;
    struct tn_upstream upstream;
    struct tn_heap timers;
    uint64_t timer_at_us; /* what the uv timer is set to */
    struct tn_list conns, run, graveyard;
    struct tn_htable shares;
    unsigned depth, resolvers;
    int epfd, handles;
    uv_poll_t poll;
    uv_timer_t timer;
    uv_idle_t idle;
    bool closing;
    void (*done)(void *arg);
    void *done_arg;
    uint64_t health_logged_us;
    struct tn_dgrams dgrams;
    struct tn_egress_stats stats;
};

uint64_t tn_egress_now(void);

/* run.c: events, deadlines and steps. */
int tn_run_init(struct tn_egress *e);
void tn_run_fini(struct tn_egress *e); /* lets go of the loop; done follows */
void tn_run_queue(struct tn_egress_conn *c);
int tn_run_watch(struct tn_egress *e, int fd, void *token); /* token: a connection, or the upstream for its lookup */
int tn_run_watch_dgrams(struct tn_egress *e, int fd, struct tn_chan *c); /* level-triggered, for reading */
/* Before every close: while a forked child still has the descriptor, closing ours would leave it in the set, and
 * its events would name a connection that is gone. */
void tn_run_unwatch(struct tn_egress *e, int fd);
void tn_run_schedule(struct tn_egress *e); /* after anything that queued a step or armed a timer */

/* conn.c: one connection from the cradle to the grave. */
struct tn_egress_conn *tn_conn_new(struct tn_egress *e, const struct tn_addrport *dst);
void tn_conn_set_state(struct tn_egress_conn *c, enum tn_conn_state state);
void tn_conn_opened(struct tn_egress_conn *c);
void tn_conn_close_fd(struct tn_egress_conn *c, bool reset); /* if it has one */
/* Ends a dial: sockets and shares are given back now, on_fail follows from the loop. */
void tn_conn_fail(struct tn_egress_conn *c, enum tn_egress_fail why);
/* Gives everything back; the memory goes at once or, inside a step, at its end. */
void tn_conn_bury(struct tn_egress_conn *c, bool reset);
void tn_conn_step_open(struct tn_egress_conn *c);

/* dial.c: what happens until a connection is open. All return 0 or a TN_EGRESS_FAIL. */
int tn_dial_begin(struct tn_egress_conn *c);
int tn_dial_attempt(struct tn_egress_conn *c, int fd, uint64_t deadline_us); /* fd as from tn_socket_connect */
void tn_dial_step(struct tn_egress_conn *c);
void tn_dial_timeout(struct tn_egress_conn *c);
void tn_dial_dispose(struct tn_egress_conn *c); /* frees c->dialing */

/* direct.c: HOST mode. */
int tn_direct_begin(struct tn_egress_conn *c);
enum tn_egress_fail tn_direct_fail_of(int err);

/* proxied.c: PROXY mode. */
void tn_upstream_init(struct tn_upstream *u);
/* Forgets addresses, drops a lookup (nobody may be waiting), and takes the new proxy's address if it is a literal.
 * NULL: none. */
void tn_upstream_set(struct tn_upstream *u, const struct tn_proxy *proxy);
void tn_upstream_on_lookup(struct tn_egress *e);
bool tn_upstream_is(const struct tn_upstream *u, const struct tn_addrport *dst);
int tn_proxied_begin(struct tn_egress_conn *c);
int tn_proxied_next(struct tn_egress_conn *c); /* the address under way failed: the next one */
void tn_proxied_works(struct tn_egress_conn *c); /* this address answered: first choice from now on */

/* limits.c */
int tn_limits_take(struct tn_egress *e, struct tn_egress_conn *c, uint64_t peer);
void tn_limits_opened(struct tn_egress_conn *c);
void tn_limits_give(struct tn_egress_conn *c);
bool tn_limits_full(struct tn_egress *e, uint64_t peer, enum tn_egress_purpose purpose);

/* egress.c */
void tn_egress_count_fail(struct tn_egress *e, enum tn_egress_fail why);
void tn_egress_healthy(struct tn_egress *e);

#endif
