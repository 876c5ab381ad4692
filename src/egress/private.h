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
#include "egress/breaker.h"
#include "egress/egress.h"
#include "egress/guard.h"
#include "egress/handshake.h"
#include "egress/policy.h"
#include "util/heap.h"
#include "util/htable.h"
#include "util/list.h"
#include "util/resolve.h"

/* A timer that knows what it is for. */
struct tn_alarm {
    struct tn_timer timer;
    void (*fire)(struct tn_alarm *a);
};

/* The way of a connection. Only tn_conn_set_state moves it. WAITING: in its peer's line (line.c). DRAINING: closed by its owner
 * while ciphertext was still to be sent. */
#define TN_CONN_STATE_MAP(X)                                                                                      \
    X(NEW) X(WAITING) X(RESOLVING) X(CONNECTING) X(HANDSHAKE) X(OPEN) X(FAILED) X(DRAINING) X(CLOSED)
enum tn_conn_state {
#define TN_CONN_STATE_ENUM(name) TN_CONN_##name,
    TN_CONN_STATE_MAP(TN_CONN_STATE_ENUM)
#undef TN_CONN_STATE_ENUM
};

/* Beside enum tn_egress_purpose: our own look whether a proxy is there. */
enum { TN_EGRESS_PROBE = 16 };
/* For the node's own knowledge: no figure of flows and refusals has it, and it is no use of the exit. */
static inline bool tn_purpose_is_own(int purpose) { return purpose == TN_EGRESS_PROBE || purpose == TN_EGRESS_CHECK; }

enum { TN_RACE_MAX = 4 }; /* descriptors that one dial may have at once */

/* An attempt that goes on though another address was begun (race.c). */
struct tn_racer {
    int fd;
    size_t at; /* of addrs */
};

/* What exists only until the connection is open. */
struct tn_dialing {
    struct tn_egress_conn *conn;
    struct tn_policy *policy; /* counted */
    struct tn_addrport dst;
    char *name;                /* of the destination, or NULL */
    uint64_t peer;
    uint64_t candidates, tried; /* proxies of the policy, a bit each */
    unsigned tries, restarts;
    bool no_port;              /* for one of its proxy's addresses */
    bool trial;                /* its proxy's breaker waits for the outcome */
    uint64_t began_us;         /* its line behind it */
    uint64_t end_us;           /* nothing is tried after this */
    struct tn_alarm alarm;     /* the phase's deadline, or that of one of the proxy's addresses */
    uint64_t deadline_us;      /* of the phase */
    bool hurried;              /* that is end_us, and less than its proxy should have */
    struct tn_list waiting;    /* RESOLVING: in tn_upstream.waiting; WAITING: in tn_share.line */
    struct tn_addrport *addrs; /* the proxy's addresses; NULL in HOST mode */
    size_t naddrs, next, at;   /* how many; the next to be tried; that of the descriptor */
    struct tn_racer behind[TN_RACE_MAX - 1];
    unsigned nbehind;
    struct tn_proxy *as;       /* the proxy with this peer's credentials; NULL: as it stands */
    struct tn_addrport *bound; /* not NULL: a UDP association is asked for, and this is where it is */
    bool in_handshake;         /* handshake is initialised */
    struct tn_handshake handshake;
};

/* A peer's share of the limits, and its figures: there from its first dial until it is forgotten. */
struct tn_share {
    struct tn_hnode node;
    uint64_t peer;
    unsigned dials, flows;
    unsigned asking;     /* of the dials, those that are before a proxy */
    struct tn_list line; /* of struct tn_dialing: those that wait for it */
    uint32_t epoch; /* how often its sessions were rotated */
    bool gone;      /* forgotten with its last flow */
    uint64_t opened, refused, bytes_up, bytes_down;
};

struct tn_secure; /* secure.c: TLS between a connection and its socket */

struct tn_egress_conn {
    struct tn_egress *e;
    const struct tn_egress_events *ev;
    void *arg;
    struct tn_share *share;    /* NULL: not a peer's, or given back */
    struct tn_upstream *up;    /* counted; NULL: no proxy (yet) */
    struct tn_secure *secure;  /* NULL: plain */
    struct tn_list all, run;   /* run: queued for a step if not empty */
    struct tn_dialing *dialing; /* NULL once open */
    uint8_t *early;            /* came with the proxy's answer; freed when read */
    uint32_t early_off, early_len;
    int fd, err;               /* err: the first failure, repeated ever after */
    uint8_t state, want, ready, why, purpose;
    bool eof, shut, broken; /* their FIN was read; ours was sent; EPOLLERR was seen */
    bool careful;           /* a short read proves nothing any more */
    bool asking;            /* counted in its share's */
    bool cut;               /* ended by a new policy; its owner is still to be told */
};

/* A proxy in use: what is known of it. Policies, dials and flows hold it; a new policy that has the same proxy takes it
 * over. */
struct tn_upstream {
    struct tn_list all; /* in tn_egress.upstreams */
    struct tn_egress *e;
    unsigned refs;
    char name[TN_EGRESS_NAME_MAX];
    uint64_t id; /* a hash of its name and place: what peers stick to */
    struct tn_proxy *proxy;

    /* Its addresses, by literal or by the host's resolver. */
    struct tn_addrport addrs[TN_RESOLVE_MAX];
    size_t count;
    uint64_t fresh_until_us; /* after this a new lookup is begun, and until it ends the old addresses serve */
    uint64_t retry_us;       /* after a failed lookup: not before this */
    bool literal;
    struct tn_resolve *lookup;
    struct tn_list waiting; /* of struct tn_dialing */

    /* Its health. */
    struct tn_breaker breaker;
    enum tn_egress_fail last_fail;
    bool tried;
    uint64_t logged_us, ok_us; /* ok_us: when it last did what it should */
    uint64_t no_port_until_us; /* all local ports are taken for this address of it: not looked at again before then */
    struct tn_addrport no_port_for;
    uint64_t no_ipv6_until_us; /* it said that it does not know IPv6 addresses: believed until then */
    enum tn_relay relay;       /* whether it does datagrams (associate.c) */
    uint64_t relay_retry_us;   /* and before this it is not asked again */
    bool doubted;              /* it was silent for all of a dial: by its own fault, or the destination's. A probe tells */
    struct tn_alarm probe;
    struct tn_egress_conn *probing;
    bool probing_doubted;      /* that is what this probe is about */
    uint64_t probed_us;        /* when the last probe began */

    unsigned flows, dials;
    uint64_t opened, bytes_up, bytes_down, failed[TN_EGRESS_FAIL_COUNT];
    uint64_t latency[TN_EGRESS_BUCKETS], latency_sum_us;
};

struct tn_egress {
    uv_loop_t *loop;
    const struct tn_log *log;
    struct tn_egress_limits limits;
    uint32_t mark;
    struct tn_egress_peers peers;
    const struct tn_egress_tls *tls;
    struct tn_hashkey key;
    bool no_breaker;
    struct tn_policy *policy; /* never NULL */
    struct tn_policy safe;    /* OFF and rejected: for when there is no memory for another */
    struct tn_guard guard;
    struct tn_list upstreams;
    struct tn_heap timers;
    uint64_t timer_at_us; /* what the uv timer is set to */
    struct tn_list conns, run, graveyard;
    struct tn_htable shares;
    uint32_t epoch;   /* rotations of all peers */
    uint64_t used_us; /* the latest dial of somebody: probes rest while nobody wants the exit */
    unsigned depth, ours;
    int epfd, handles;
    uv_poll_t poll;
    uv_timer_t timer;
    uv_idle_t idle;
    bool closing;
    void (*done)(void *arg);
    void *done_arg;
    struct tn_dgrams dgrams;
    void (*on_health)(void *ctx); /* NULL: nobody watches */
    void *health_ctx;
    void (*on_batch)(void *ctx, bool begins);
    void *batch_ctx;
    struct tn_egress_route *routes;
    size_t nroutes;
    bool ipv6_route;         /* the host had one when it was looked up */
    uint64_t ipv6_until_us;  /* and this is believed until then */
    struct tn_egress_stats stats;
};

uint64_t tn_egress_now(void);

/* run.c: events, deadlines and steps. */
int tn_run_init(struct tn_egress *e);
void tn_run_fini(struct tn_egress *e); /* lets go of the loop; done follows */
void tn_run_queue(struct tn_egress_conn *c);
int tn_run_watch(struct tn_egress *e, int fd, struct tn_egress_conn *c);
int tn_run_watch_lookup(struct tn_egress *e, int fd, struct tn_upstream *u);
int tn_run_watch_dgrams(struct tn_egress *e, int fd, struct tn_chan *c); /* level-triggered, for reading */
/* Before every close: while a forked child still has the descriptor, closing ours would leave it in the set, and
 * its events would name a connection that is gone. */
void tn_run_unwatch(struct tn_egress *e, int fd);
void tn_run_schedule(struct tn_egress *e); /* after anything that queued a step or armed a timer */

/* conn.c: one connection from the cradle to the grave. */
struct tn_egress_conn *tn_conn_new(struct tn_egress *e, const struct tn_egress_target *to);
void tn_conn_set_state(struct tn_egress_conn *c, enum tn_conn_state state);
void tn_conn_opened(struct tn_egress_conn *c);
void tn_conn_close_fd(struct tn_egress_conn *c, bool reset); /* if it has one */
/* Ends a dial: sockets and shares are given back now, on_fail follows from the loop. */
void tn_conn_fail(struct tn_egress_conn *c, enum tn_egress_fail why);
/* Gives everything back; the memory goes at once or, inside a step, at its end. */
void tn_conn_bury(struct tn_egress_conn *c, bool reset);
void tn_conn_step_open(struct tn_egress_conn *c);
void tn_conn_cut(struct tn_egress_conn *c);

/* dial.c: what happens until a connection is open. All return 0 or a TN_EGRESS_FAIL. */
int tn_dial_begin(struct tn_egress_conn *c);
int tn_dial_arm(struct tn_egress_conn *c, uint64_t at_us); /* 0 or TN_E_NOMEM */
int tn_dial_attempt(struct tn_egress_conn *c, int fd, uint64_t deadline_us); /* fd as from tn_socket_connect */
void tn_dial_step(struct tn_egress_conn *c);
void tn_dial_timeout(struct tn_egress_conn *c);
void tn_dial_dispose(struct tn_egress_conn *c); /* frees c->dialing */

/* A dial through a proxy went wrong: another proxy, or the end. */
void tn_dial_failed(struct tn_egress_conn *c, enum tn_egress_fail why);
/* Drops the attempt under way, not the dial: socket, TLS, handshake, place in the queue. */
void tn_dial_drop_attempt(struct tn_egress_conn *c);

/* race.c */
void tn_race_leave(struct tn_egress_conn *c);     /* the attempt under way goes on behind the next one */
bool tn_race_take_back(struct tn_egress_conn *c); /* no attempt of its own: one from behind. False: there is none */
/* 0: c->fd stands, and has no rival any more; TN_E_AGAIN: all that are left are under way; else the newest failed. */
int tn_race_look(struct tn_egress_conn *c);
void tn_race_end(struct tn_egress_conn *c);       /* closes those behind */

/* direct.c: HOST mode. */
int tn_direct_begin(struct tn_egress_conn *c);
enum tn_egress_fail tn_direct_fail_of(int err);
bool tn_direct_has_ipv6(struct tn_egress *e);

/* subnet.c: what this node routes. */
struct tn_egress_target tn_subnet_resolve(const struct tn_egress *e, const struct tn_egress_target *to);
bool tn_egress_is_proxy(const struct tn_egress *e, const struct tn_addrport *dst); /* egress.c */
bool tn_subnet_allows(struct tn_egress *e, const struct tn_addrport *real);
int tn_subnet_begin(struct tn_egress_conn *c);

/* upstream.c: proxies in use. */
/* One that is there already, or a new one, counted once more; NULL: no memory. */
struct tn_upstream *tn_upstream_get(struct tn_egress *e, const struct tn_egress_proxy *conf);
void tn_upstream_unref(struct tn_upstream *u);
int tn_upstream_lookup(struct tn_upstream *u); /* 0: addresses, or a lookup under way */
/* u: by an event; one that is gone since the event was fetched is not looked at. */
void tn_upstream_on_lookup(struct tn_egress *e, struct tn_upstream *u);
bool tn_upstream_is(const struct tn_upstream *u, const struct tn_addrport *dst);
void tn_upstream_prefer(struct tn_upstream *u, const struct tn_addrport *good); /* first choice from now on */
void tn_upstream_worked(struct tn_upstream *u);
/* counts: the breaker's business too. */
void tn_upstream_failed(struct tn_upstream *u, enum tn_egress_fail why, bool counts);

/* associate.c: an association was refused or could not be had, and it was the proxy. */
void tn_relay_failed(struct tn_upstream *u, enum tn_egress_fail why);

/* route.c: which of its candidates a dial takes next. -1: none; *why then says what is wrong with them. */
int tn_route_choose(struct tn_egress *e, struct tn_dialing *d, enum tn_egress_fail *why);

/* probe.c */
void tn_probe_schedule(struct tn_upstream *u); /* after anything that changed its health, or woke the exit */
void tn_probe_stop(struct tn_upstream *u);   /* no more of them; one under way ends by itself */
void tn_probe_forget(struct tn_upstream *u); /* its connection was ended without a word to it */
void tn_probe_used(struct tn_egress *e); /* somebody dials */

/* proxied.c: PROXY mode. */
int tn_proxied_begin(struct tn_egress_conn *c);
int tn_proxied_turn(struct tn_egress_conn *c); /* it waited in line and need not any more */
int tn_proxied_next(struct tn_egress_conn *c); /* the address under way failed: the next one */
int tn_proxied_connect(struct tn_egress_conn *c); /* the addresses are known */
/* Judges the proxy by how it failed. 0: another one is being tried; else why the dial is over. */
int tn_proxied_failed(struct tn_egress_conn *c, enum tn_egress_fail why);
void tn_proxied_detach(struct tn_egress_conn *c); /* its proxy no longer carries it */
int tn_proxied_restart(struct tn_egress_conn *c, struct tn_policy *policy); /* under a new policy */

/* secure.c: as tn_socket_readv and its like, for a connection with TLS. */
int tn_secure_begin(struct tn_egress_conn *c); /* 0 or a TN_EGRESS_FAIL */
int tn_secure_handshake(struct tn_egress_conn *c); /* 0: done; TN_E_AGAIN; else failed */
long tn_secure_readv(struct tn_egress_conn *c, const struct iovec *iov, int n);
long tn_secure_writev(struct tn_egress_conn *c, const struct iovec *iov, int n);
int tn_secure_shutdown(struct tn_egress_conn *c);
int tn_secure_flush(struct tn_egress_conn *c); /* 0; TN_E_AGAIN: ciphertext remains; else broken */
bool tn_secure_linger(struct tn_egress_conn *c); /* true: something is left to be sent; ends itself */
void tn_secure_free(struct tn_egress_conn *c);

/* line.c */
/* Before the proxies at once, of one peer: more than any browser or crawler keeps open towards servers that answer, and a fraction
 * of what a small proxy has. Without, beside 4,000 dials to nowhere another client's p99 was 80 times its usual. */
enum { TN_LINE_ASKING = 512 };
bool tn_line_may_ask(struct tn_egress_conn *c); /* true: counted until tn_line_asked */
int tn_line_wait(struct tn_egress_conn *c);     /* 0 or a TN_EGRESS_FAIL */
void tn_line_asked(struct tn_egress_conn *c);   /* it is before no proxy any more: the next one's turn */

/* limits.c */
int tn_limits_take(struct tn_egress *e, struct tn_egress_conn *c, uint64_t peer);
void tn_limits_opened(struct tn_egress_conn *c);
void tn_limits_give(struct tn_egress_conn *c);
bool tn_limits_full(struct tn_egress *e, uint64_t peer, enum tn_egress_purpose purpose);
struct tn_share *tn_share_get(struct tn_egress *e, uint64_t peer); /* made if need be; NULL: no memory */
struct tn_share *tn_share_find(struct tn_egress *e, uint64_t peer);
void tn_shares_free(struct tn_egress *e);

/* egress.c */
void tn_egress_count_fail(struct tn_egress *e, enum tn_egress_fail why);
struct tn_policy *tn_policy_ref(struct tn_policy *p);
void tn_policy_unref(struct tn_egress *e, struct tn_policy *p);

#endif
