/* The assembled node: every engine, the loop that drives them, and what the node room's files share.
 *
 * One thread owns everything but the few fields under `mu`. Other threads enter by tn_node_call (runs a function on the
 * loop and waits for it) and wait for events on `cond`. No other file-scope state exists: nodes are independent. */
#ifndef TN_NODE_NODE_H
#define TN_NODE_NODE_H

#include "control/control.h"
#include "crypto/tls.h"
#include "dns/port53.h"
#include "egress/egress.h"
#include "filter/filter.h"
#include "forward/forward.h"
#include "node/config.h"
#include "node/dialer.h"
#include "node/state.h"
#include "path/path.h"
#include "path/udp.h"
#include "route/route.h"
#include "stack/stack.h"
#include "util/heap.h"
#include "util/list.h"
#include "wg/wg.h"

#include <pthread.h>
#include <stdatomic.h>
#include <uv.h>

/* What we call ourselves to control and to the stock CLI: the release whose behaviour this node was checked against. */
#define TN_NODE_IPN_VERSION "1.102.5-libtailnet"

struct tn_localapi;
struct tn_socks5d;
struct tn_peerapi_server;
struct tn_pings;
struct tn_exitdns;
struct tn_exitwatch;
struct tn_exitcheck;
struct tn_tunmode;
struct tn_netwatch;
struct tn_portmap;
struct tn_magicdns;

/* STARTING: another thread is at it; the node's fields are its own until it is done. */
enum tn_node_life { TN_NODE_STOPPED, TN_NODE_STARTING, TN_NODE_STARTED };

/* A tailnet peer as the node sees it: the joint of netmap, WireGuard and path. */
struct tn_npeer {
    struct tn_hnode by_id;
    int64_t id;
    struct tn_node_public key;
    struct tn_disco_public disco;
    struct tn_wg_peer *wg; /* NULL while the peer may not be talked to (expired) */
    struct tn_path_peer *path;
    struct tn_ip *addrs; /* as entered in the address table */
    size_t naddrs;
    struct tn_prefix *routed; /* in TUN mode: what the host routes to it */
    size_t nrouted;
};

struct tn_node {
    struct tn_config config;
    struct tn_log log;
    struct tn_rng rng;
    struct tn_state state;

    uv_loop_t loop;
    uv_async_t wake;
    uv_prepare_t prepare;
    uv_timer_t tick;
    uv_poll_t *udp4, *udp6;

    struct tn_tls_ctx *tls;
    struct tn_uvdialer *dialer;
    struct tn_udp *udp;
    struct tn_workpool *workers; /* NULL: the loop does it all */
    struct tn_openers *openers;  /* NULL: as workers */
    bool hand_over;              /* long runs go to the workers now */
    struct tn_workers_watch {
        uint64_t since_us, idle_us; /* the last look, and how long the loop had slept until then */
    } workers_watch;
    struct tn_disco_private disco_key;
    struct tn_control *control;
    struct tn_path *path;
    struct tn_wg *wg;
    struct tn_filter *filter;
    struct tn_stack *stack;
    struct tn_egress *egress;
    struct tn_forward *forward;
    struct tn_dns *dns;       /* NULL: no exit node */
    struct tn_port53 *port53;
    struct tn_peerapi_server *peerapi;
    struct tn_localapi *localapi;
    struct tn_socks5d *socks5d;
    struct tn_pings *pings;
    struct tn_exitdns *exitdns;
    struct tn_exitwatch *exitwatch;
    struct tn_exitcheck *exitcheck; /* under way; NULL: none */
    struct tn_checkup *checkup;
    struct tn_withdraw *withdraw;
    bool exit_withdrawn; /* control is told that we are no exit node, for want of a proxy that works */
    struct tn_egress_tls proxy_tls;
    struct tn_ip mapped[8]; /* our own public addresses, as STUN servers and the host know them */
    size_t nmapped;
    struct tn_tunmode *tun; /* NULL: all in-process */
    struct tn_magicdns *magicdns; /* NULL: not the host's resolver */
    struct tn_netwatch *netwatch;
    struct tn_portmap *portmap;

    struct tn_htable peers;           /* struct tn_npeer by node ID */
    struct tn_route_table *addresses; /* peers' own addresses to struct tn_npeer */
    struct tn_ip own[4];
    size_t nown;
    int64_t exit_peer; /* node ID of the exit node in use; 0: none (not found, or not asked for) */
    bool path_started, exit_missing;
    char control_text[200];     /* what the control client said last while not running; "" otherwise */
    const char *egress_missing; /* the setting that is lacking while exit egress is off; NULL otherwise */
    char *hostname;
    char version_os[64], machine[32];

    struct tn_list bridges; /* application and SOCKS flows, for the end of the node */
    struct tn_list streams; /* flows the application works on directly (stream.c) */
    struct tn_list loopback; /* packets to ourselves, delivered at the end of the turn */
    struct tn_list logouts;  /* callers of tailnet_logout, answered together (api.c) */
    size_t loopback_count;
    bool closing, egress_freed;
    uint64_t turn_us; /* when the batch of datagrams at hand was read */

    /* Shared with other threads, under mu. */
    pthread_t thread;
    pthread_mutex_t mu;
    pthread_cond_t cond; /* state changes and finished calls; CLOCK_MONOTONIC */
    struct tn_list calls;
    enum tn_node_life life;
    bool running_thread; /* calls are taken */
    enum tn_control_state control_state;
    bool usable;       /* running, addressed, home DERP up */
    bool ever_usable;
    char error[256];   /* detail of the last failure */
    char *auth_url;
    struct tn_ip shared_own[2];
    size_t nshared_own;
    atomic_uint cancels; /* bumped by tailnet_cancel; a wait ends when it differs from what it began with */
    atomic_bool wakeable; /* the loop's async handle may be used */
    atomic_int wakers;    /* threads that are using it outside of mu */
};

static inline uint64_t tn_node_now(void) { return uv_hrtime() / 1000; }

/* node.c */
int tn_node_init(struct tn_node *n);
void tn_node_fini(struct tn_node *n);
int tn_node_start(struct tn_node *n);
void tn_node_stop(struct tn_node *n);
void tn_node_set_error(struct tn_node *n, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Runs fn(node, arg) on the loop thread and waits for it. TN_E_CLOSED when the node is not running. */
int tn_node_call(struct tn_node *n, void (*fn)(struct tn_node *n, void *arg), void *arg);
/* Makes the loop look around, if there is one. Async-signal-safe. */
void tn_node_wake(struct tn_node *n);
/* Does the loop look whether its UDP sockets have something? At first it does. */
void tn_node_poll_udp(struct tn_node *n, bool on);
void tn_node_check_usable(struct tn_node *n);
/* api.c: ends the waiting of all callers of tailnet_logout. On the loop thread. */
void tn_node_logouts_end(struct tn_node *n, int err);

/* netmap.c: the control client's callbacks */
struct tn_control_callbacks tn_node_control_callbacks(void);
struct tn_npeer *tn_node_peer_by_addr(const struct tn_node *n, const struct tn_ip *addr);
struct tn_npeer *tn_node_peer_by_id(const struct tn_node *n, int64_t id);
const struct tn_netnode *tn_node_netnode(const struct tn_node *n, const struct tn_npeer *p);
/* A peer (or ourselves) by host name, full name or address text; out gets its address of the wanted family (0: IPv4 first). */
int tn_node_resolve(const struct tn_node *n, const char *host, int family, struct tn_ip *out);
int tn_node_take_offered(struct tn_node *n); /* tells the filter what we carry now */
bool tn_node_offers_exit(const struct tn_netnode *node); /* control routes a default route to it */
void tn_node_choose_exit(struct tn_node *n, uint64_t now_us);
int tn_node_push_host(struct tn_node *n);
void tn_node_peers_free(struct tn_node *n);
uint64_t tn_node_peer_of(void *node, const struct tn_ip *src);

/* packets.c: the way of a packet */
/* Are we an exit node that this peer's address may use? As Go asks for PeerAPI's DNS: may it reach port 53 of the internet? */
bool tn_node_may_use_exit(const struct tn_node *n, const struct tn_ip *src);
struct tn_wg_callbacks tn_node_wg_callbacks(void);
struct tn_path_callbacks tn_node_path_callbacks(void);
struct tn_stack_callbacks tn_node_stack_callbacks(void);
void tn_node_deliver_loopback(struct tn_node *n);
void tn_node_drop_loopback(struct tn_node *n);
/* An IP packet of ours to a tailnet address. TN_E_HOSTUNREACH without a route. */
/* Where a train is best made (udp.h); NULL: anywhere. */
uint8_t *tn_node_train_buffer(struct tn_node *n);
int tn_node_send_ip(struct tn_node *n, const uint8_t *packet, size_t len, uint64_t now_us);

/* bridge.c: bytes between a TCP flow of the stack and a descriptor */
struct tn_bridge;
/* Takes fd (non-blocking). The flow's events become the bridge's. is_tcp: a real TCP socket, which can carry a reset. */
int tn_bridge_new(struct tn_node *n, struct tn_tcp *tcp, int fd, bool is_tcp);
void tn_bridges_end(struct tn_node *n);

#endif
