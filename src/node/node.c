/* The life of a node: start, the loop and its deadlines, stop.
 *
 * The loop has no periodic timer. Before it sleeps (prepare), the earliest deadline of all engines is put into one timer; when
 * that fires, every engine that is due gets its timeout. Engines that changed their deadline inside a callback need to tell
 * nobody.
 *
 * Stop runs on the loop thread in this order: what accepts new work, then flows, then the engines from the top down, while the
 * lower ones still exist; libuv's handles last. The thread ends when no handle is left, so that nothing remains. */
#include "node/node.h"

#include "egress/dgram.h"
#include "node/checkup.h"
#include "node/exit.h"
#include "node/exitcheck.h"
#include "node/exitdns.h"
#include "node/memory.h"
#include "node/netwatch.h"
#include "node/localapi.h"
#include "node/openers.h"
#include "node/magicdns.h"
#include "node/peerapi_server.h"
#include "node/resolver.h"
#include "node/ping.h"
#include "node/portmap.h"
#include "node/socks5d.h"
#include "node/stream.h"
#include "node/tunmode.h"
#include "node/withdraw.h"
#include "node/workers.h"
#include "util/err.h"
#include "util/thread.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

enum {
    THREAD_STACK = 1024 * 1024,      /* TLS handshakes are the deepest users, at some 30 KiB */
    UDP_BATCH = 64,                  /* of them that are answered together: the peer works on while we do the next */
    UDP_BUDGET = 512,                /* datagrams a turn, so that timers and DERP are not starved */
    LOGOUT_MAX_US = 2 * 1000 * 1000, /* an ephemeral node's goodbye */
};

/* ---- calls from other threads ---- */

struct call {
    struct tn_list link;
    void (*fn)(struct tn_node *n, void *arg);
    void *arg;
    int err;
    bool done;
};

void tn_node_set_error(struct tn_node *n, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    pthread_mutex_lock(&n->mu);
    vsnprintf(n->error, sizeof n->error, fmt, args);
    pthread_mutex_unlock(&n->mu);
    va_end(args);
}

int tn_node_call(struct tn_node *n, void (*fn)(struct tn_node *n, void *arg), void *arg)
{
    struct call call = {.fn = fn, .arg = arg};
    pthread_mutex_lock(&n->mu);
    if (!n->running_thread) {
        pthread_mutex_unlock(&n->mu);
        return TN_E_CLOSED;
    }
    tn_list_push_back(&n->calls, &call.link);
    uv_async_send(&n->wake);
    while (!call.done) pthread_cond_wait(&n->cond, &n->mu);
    pthread_mutex_unlock(&n->mu);
    return call.err;
}

/* From here on no call is taken; those that still wait in line are told so. */
static void refuse_calls(struct tn_node *n)
{
    pthread_mutex_lock(&n->mu);
    n->running_thread = false;
    for (struct tn_list *link; (link = tn_list_pop_front(&n->calls));) {
        struct call *call = TN_CONTAINER(link, struct call, link);
        call->err = TN_E_CLOSED;
        call->done = true;
    }
    pthread_cond_broadcast(&n->cond);
    pthread_mutex_unlock(&n->mu);
}

void tn_node_wake(struct tn_node *n)
{
    atomic_fetch_add(&n->wakers, 1);
    if (atomic_load(&n->wakeable)) uv_async_send(&n->wake);
    atomic_fetch_sub(&n->wakers, 1);
}

/* After this nobody touches the async handle. A waker is a few instructions long, or a signal handler above ourselves. */
static void forbid_waking(struct tn_node *n)
{
    atomic_store(&n->wakeable, false);
    while (atomic_load(&n->wakers) > 0) sched_yield();
}

/* ---- what UDP brings ---- */

static void udp_run(void *ctx, const struct tn_addrport *from, uint8_t *run, size_t len, size_t segment)
{
    struct tn_node *n = ctx;
    tn_path_udp_input_run(n->path, from, run, len, segment, n->turn_us);
}

/* From the socket, or what was read of both by other threads. */
static void take_udp(struct tn_node *n, int fd)
{
    int total = 0;
    for (int got = 1; got > 0 && total < UDP_BUDGET && !n->closing; total += got) {
        n->turn_us = tn_node_now();
        tn_stack_batch_begin(n->stack);
        got = tn_udp_receive(n->udp, fd, UDP_BATCH, udp_run, n, n->turn_us);
        tn_stack_batch_end(n->stack, n->turn_us);
        tn_udp_flush(n->udp);
        if (got < UDP_BATCH) return;
    }
    if (fd < 0) tn_node_wake(n); /* there may be more, of which nobody tells us again */
}

static void run_calls(uv_async_t *a)
{
    struct tn_node *n = a->data;
    if (!n->closing && n->udp && tn_udp_is_ahead(n->udp)) take_udp(n, -1);
    pthread_mutex_lock(&n->mu);
    for (struct tn_list *link; (link = tn_list_pop_front(&n->calls));) {
        struct call *call = TN_CONTAINER(link, struct call, link);
        pthread_mutex_unlock(&n->mu);
        call->fn(n, call->arg);
        pthread_mutex_lock(&n->mu);
        call->done = true;
    }
    pthread_cond_broadcast(&n->cond); /* finished calls; also what tailnet_cancel, which may run in a signal handler, asks for */
    pthread_mutex_unlock(&n->mu);
}

/* ---- deadlines ---- */

static uint64_t earliest(const struct tn_node *n)
{
    uint64_t all[] = {tn_control_next_deadline(n->control), tn_path_next_deadline(n->path),
                      tn_wg_next_deadline(n->wg),           tn_stack_next_deadline(n->stack),
                      tn_forward_next_deadline(n->forward), tn_resolver_next_deadline(n),
                      tn_pings_next_deadline(n),            tn_peerapi_server_next_deadline(n),
                      tn_localapi_next_deadline(n),         tn_exitdns_next_deadline(n),
                      tn_netwatch_next_deadline(n),         tn_portmap_next_deadline(n),
                      tn_magicdns_next_deadline(n),         tn_openers_next_deadline(n),
                      n->udp ? tn_udp_next_deadline(n->udp) : TN_NEVER};
    uint64_t next = TN_NEVER;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i] < next) next = all[i];
    return next;
}

static void run_timeouts(struct tn_node *n)
{
    uint64_t now = tn_node_now();
    if (tn_control_next_deadline(n->control) <= now) tn_control_timeout(n->control, now);
    if (tn_path_next_deadline(n->path) <= now) tn_path_timeout(n->path, now);
    if (tn_wg_next_deadline(n->wg) <= now) tn_wg_timeout(n->wg, now);
    if (tn_stack_next_deadline(n->stack) <= now) tn_stack_timeout(n->stack, now);
    if (tn_forward_next_deadline(n->forward) <= now) tn_forward_timeout(n->forward, now);
    if (tn_resolver_next_deadline(n) <= now) tn_resolver_timeout(n, now);
    if (tn_pings_next_deadline(n) <= now) tn_pings_timeout(n, now);
    if (tn_peerapi_server_next_deadline(n) <= now) tn_peerapi_server_timeout(n, now);
    if (tn_localapi_next_deadline(n) <= now) tn_localapi_timeout(n, now);
    if (tn_exitdns_next_deadline(n) <= now) tn_exitdns_timeout(n, now);
    if (tn_magicdns_next_deadline(n) <= now) tn_magicdns_timeout(n, now);
    tn_netwatch_timeout(n, now);
    tn_portmap_timeout(n, now);
    if (n->udp) tn_udp_timeout(n->udp, now);
}

static void on_tick(uv_timer_t *t)
{
    struct tn_node *n = t->data;
    if (!n->closing) run_timeouts(n);
}

static void on_prepare(uv_prepare_t *p)
{
    struct tn_node *n = p->data;
    if (n->closing) return;
    tn_node_deliver_loopback(n);
    tn_tunmode_turn_ends(n);
    if (n->udp) tn_udp_flush(n->udp);
    tn_workers_watch(n, tn_node_now());
    tn_openers_watch(n, tn_node_now());
    uint64_t next = tn_list_empty(&n->loopback) ? earliest(n) : 0; /* more than a turn's worth: go on in the next */
    if (next == TN_NEVER) {
        uv_timer_stop(&n->tick);
        return;
    }
    uv_update_time(&n->loop);
    uint64_t now = tn_node_now();
    uv_timer_start(&n->tick, on_tick, next > now ? (next - now + 999) / 1000 : 0, 0);
}

/* ---- polling UDP ---- */

static void udp_readable(uv_poll_t *p, int status, int events)
{
    struct tn_node *n = p->data;
    if (!n->closing) take_udp(n, p == n->udp4 ? tn_udp_fd4(n->udp) : tn_udp_fd6(n->udp));
}

void tn_node_poll_udp(struct tn_node *n, bool on)
{
    uv_poll_t *polls[] = {n->udp4, n->udp6};
    for (int i = 0; i < 2; i++) {
        if (polls[i] && on) uv_poll_start(polls[i], UV_READABLE, udp_readable);
        if (polls[i] && !on) uv_poll_stop(polls[i]);
    }
}

static int poll_udp(struct tn_node *n, uv_poll_t **slot, int fd)
{
    if (fd < 0) return 0;
    *slot = calloc(1, sizeof **slot);
    if (!*slot) return TN_E_NOMEM;
    int err = uv_poll_init(&n->loop, *slot, fd);
    if (err) {
        free(*slot);
        *slot = NULL;
        return err;
    }
    (*slot)->data = n;
    return uv_poll_start(*slot, UV_READABLE, udp_readable);
}

static void udp_failed(void *ctx, const struct tn_addrport *to, int err)
{
    struct tn_node *n = ctx;
    if (n->path) tn_path_udp_failed(n->path, to, err, tn_node_now());
}

static int open_udp(struct tn_node *n)
{
    int err = tn_udp_open(n->config.port, &n->udp);
    if (err) {
        tn_node_set_error(n, "UDP port %u: %s", n->config.port, tn_err_text(err));
        return err;
    }
    tn_udp_on_failed(n->udp, udp_failed, n);
    err = tn_tunmode_mark_socket(n, tn_udp_fd4(n->udp));
    if (!err) err = tn_tunmode_mark_socket(n, tn_udp_fd6(n->udp));
    if (!err) err = poll_udp(n, &n->udp4, tn_udp_fd4(n->udp));
    return err ? err : poll_udp(n, &n->udp6, tn_udp_fd6(n->udp));
}

/* ---- making the engines ---- */

static int make_egress(struct tn_node *n)
{
    int err = tn_exit_new(n);
    if (err) return err;
    tn_egress_set_proxy_udp(n->egress, n->config.exit_proxy_udp, false);
    err = tn_egress_set_routes(n->egress, n->config.routes, n->config.nroutes);
    if (err) return err;
    struct tn_forward_config fc = {.egress = n->egress, .log = &n->log, .peer_of = tn_node_peer_of,
                                   .dns_udp = tn_resolver_udp, .dns_syn = tn_resolver_syn,
                                   .name_of = tn_resolver_name_of, .ctx = n};
    n->forward = tn_forward_new(&fc);
    if (!n->forward) return TN_E_NOMEM;
    return tn_resolver_new(n);
}

static int make_datapath(struct tn_node *n)
{
    struct tn_stack_config sc = {.port_first = n->config.tun ? TN_TUNMODE_PORT_FIRST : 0,
                                 .budget = tn_memory_tcp_budget(tn_memory_limit("")),
                                 .tcp_buffer_max = n->config.tcp_buffer_size,
                                 .congestion = n->config.tcp_congestion,
                                 .rng = n->rng,
                                 .log = &n->log,
                                 .cb = tn_node_stack_callbacks(),
                                 .ctx = n};
    n->stack = tn_stack_new(&sc);
    n->filter = tn_filter_new();
    n->addresses = tn_route_new();
    if (!n->stack || !n->filter || !n->addresses) return TN_E_NOMEM;
    tn_forward_set_stack(n->forward, n->stack);
    tn_forward_set_enabled(n->forward, n->config.advertise_exit_node || n->config.nroutes > 0, tn_node_now());
    int err = tn_resolver_listen(n);
    if (err) return err;

    struct tn_wg_config wc = {
        .key = *tn_control_identity_key(&n->state.identity), .rng = n->rng, .log = &n->log, .cb = tn_node_wg_callbacks(), .ctx = n};
    struct tn_path_config pc = {.node_key = wc.key,
                                .disco_key = n->disco_key,
                                .rng = n->rng,
                                .log = &n->log,
                                .dialer = tn_uvdialer_dialer(n->dialer),
                                .cb = tn_node_path_callbacks(),
                                .ctx = n};
    if (tn_key_is_zero(wc.key.b)) { /* not registered yet: a throw-away key until control gives us one */
        tn_node_private_generate(&wc.key, &n->rng);
        pc.node_key = wc.key;
    }
    if (n->config.relay_only) pc.cb.udp_send = NULL;
    n->wg = tn_wg_new(&wc);
    err = n->wg ? tn_path_new(&pc, &n->path) : TN_E_NOMEM;
    tn_wipe(&wc.key, sizeof wc.key);
    tn_wipe(&pc.node_key, sizeof pc.node_key);
    tn_wipe(&pc.disco_key, sizeof pc.disco_key);
    return err;
}

static int make_control(struct tn_node *n)
{
    struct tn_control_config cc = {.server_url = n->config.login_server ? n->config.login_server : TN_DEFAULT_LOGIN_SERVER,
                                   .identity = n->state.identity,
                                   .auth_key = n->config.auth_key,
                                   .ephemeral = n->config.ephemeral || !n->config.state_dir, /* nothing kept: never back */
                                   .rng = n->rng,
                                   .log = &n->log,
                                   .dialer = tn_uvdialer_dialer(n->dialer),
                                   .cb = tn_node_control_callbacks(),
                                   .ctx = n};
    tn_disco_public_of(&n->disco_key, &cc.disco);
    int err = tn_control_new(&cc, &n->control);
    tn_wipe(&cc.identity, sizeof cc.identity);
    if (err == TN_E_INVAL) tn_node_set_error(n, "login_server: not a usable URL");
    return err ? err : tn_node_push_host(n);
}

static void describe_host(struct tn_node *n)
{
    struct utsname u;
    char name[256] = "tailnet";
    if (uname(&u) == 0) {
        snprintf(n->version_os, sizeof n->version_os, "%.60s", u.release);
        snprintf(n->machine, sizeof n->machine, "%.30s", u.machine);
        snprintf(name, sizeof name, "%s", u.nodename);
    }
    if (n->config.hostname) snprintf(name, sizeof name, "%s", n->config.hostname);
    n->hostname = strdup(name);
}

static int make_all(struct tn_node *n)
{
    describe_host(n);
    if (!n->hostname) return TN_E_NOMEM;
    tn_disco_private_generate(&n->disco_key, &n->rng);
    n->tls = tn_tls_ctx_new();
    if (!n->tls) return TN_E_NOMEM;
    int err = tn_uvdialer_new(&n->loop, n->tls, &n->log, &n->dialer);
    if (!err) tn_uvdialer_set_mark(n->dialer, tn_tunmode_mark(n));
    if (!err) err = tn_tunmode_new(n);
    if (!err) err = make_egress(n);
    if (!err) err = make_datapath(n);
    if (!err) err = tn_pings_new(n);
    if (!err) err = tn_peerapi_server_new(n);
    if (!err) err = tn_exitdns_new(n);
    if (!err) err = tn_magicdns_new(n);
    if (!err) err = make_control(n);
    if (!err) err = tn_checkup_new(n);
    if (!err) err = tn_withdraw_new(n);
    if (!err) err = tn_exitwatch_new(n);
    if (!err && !n->config.relay_only) err = open_udp(n);
    if (!err) err = tn_workers_new(n);
    if (!err) err = tn_openers_new(n);
    if (!err) err = tn_netwatch_new(n);
    if (!err) err = tn_portmap_new(n);
    if (!err && n->config.socket) err = tn_localapi_new(n);
    if (!err && n->config.socks5_server) err = tn_socks5d_new(n);
    return err;
}

/* ---- the end ---- */

static void free_poll(uv_handle_t *h) { free(h); }

static void close_polls(struct tn_node *n)
{
    uv_poll_t **polls[] = {&n->udp4, &n->udp6};
    for (int i = 0; i < 2; i++) {
        if (!*polls[i]) continue;
        uv_poll_stop(*polls[i]);
        uv_close((uv_handle_t *)*polls[i], free_poll);
        *polls[i] = NULL;
    }
    if (n->udp) tn_udp_on_failed(n->udp, NULL, NULL); /* the path is gone by now */
    if (n->udp) tn_udp_close(n->udp);
    n->udp = NULL;
}

static void egress_gone(void *arg)
{
    struct tn_node *n = arg;
    n->egress_freed = true;
}

/* On the loop thread: everything but libuv's handles goes now. */
static void tear_down(struct tn_node *n)
{
    n->closing = true;
    refuse_calls(n);
    forbid_waking(n);
    tn_node_logouts_end(n, TN_E_CLOSED);
    tn_socks5d_free(n);
    tn_localapi_free(n);
    tn_magicdns_free(n);
    tn_exitdns_free(n);
    tn_withdraw_free(n);
    tn_checkup_free(n);
    tn_exitcheck_cancel(n);
    tn_exitwatch_free(n);
    if (n->stack) tn_bridges_end(n);
    if (n->stack) tn_streams_end(n);
    tn_tunmode_free(n);
    tn_peerapi_server_free(n);
    tn_pings_free(n);
    if (n->forward) tn_forward_free(n->forward);
    tn_resolver_free(n);
    tn_node_drop_loopback(n);
    if (n->control) tn_control_free(n->control);
    if (n->stack) tn_stack_free(n->stack);
    if (n->wg) tn_wg_free(n->wg);
    if (n->path) tn_path_free(n->path);
    if (n->filter) tn_filter_free(n->filter);
    if (n->addresses) tn_route_free(n->addresses);
    tn_node_peers_free(n);
    tn_portmap_free(n);
    tn_netwatch_free(n);
    close_polls(n);
    tn_openers_free(n);
    tn_workers_free(n);
    if (n->egress) tn_egress_free(n->egress, egress_gone, n);
    n->forward = NULL;
    n->control = NULL;
    n->stack = NULL;
    n->wg = NULL;
    n->path = NULL;
    n->filter = NULL;
    n->addresses = NULL;
    n->egress = NULL;
    if (n->dialer) tn_uvdialer_stop(n->dialer);
    uv_close((uv_handle_t *)&n->prepare, NULL);
    uv_close((uv_handle_t *)&n->tick, NULL);
    uv_close((uv_handle_t *)&n->wake, NULL);
}

static void end_now(uv_timer_t *t)
{
    struct tn_node *n = t->data;
    if (!n->closing) tear_down(n);
}

/* Still inside the control client: it is freed from the loop. */
static void logged_out(void *ctx, int err)
{
    struct tn_node *n = ctx;
    if (!n->closing) uv_timer_start(&n->tick, end_now, 0, 0);
}

/* An ephemeral node says goodbye, so that the server need not wait for it to be missed. */
static void begin_stop(struct tn_node *n, void *arg)
{
    bool goodbye = n->control && (n->config.ephemeral || !n->config.state_dir) && tn_control_connected(n->control);
    if (!goodbye) {
        tear_down(n);
        return;
    }
    uv_prepare_stop(&n->prepare);
    uv_timer_start(&n->tick, end_now, LOGOUT_MAX_US / 1000, 0);
    tn_control_logout(n->control, logged_out, n, tn_node_now());
}

static void free_engine_shells(struct tn_node *n)
{
    tn_uvdialer_free(n->dialer);
    n->dialer = NULL;
    if (n->tls) tn_tls_ctx_free(n->tls);
    n->tls = NULL;
    free(n->hostname);
    n->hostname = NULL;
    tn_wipe(&n->disco_key, sizeof n->disco_key);
}

static void *loop_main(void *arg)
{
    struct tn_node *n = arg;
    uv_run(&n->loop, UV_RUN_DEFAULT);
    return NULL;
}

static int open_loop(struct tn_node *n)
{
    int err = uv_loop_init(&n->loop);
    if (err) return err;
    uv_loop_configure(&n->loop, UV_METRICS_IDLE_TIME);
    uv_async_init(&n->loop, &n->wake, run_calls);
    uv_prepare_init(&n->loop, &n->prepare);
    uv_timer_init(&n->loop, &n->tick);
    n->wake.data = n->prepare.data = n->tick.data = n;
    uv_prepare_start(&n->prepare, on_prepare);
    atomic_store(&n->wakeable, true);
    return 0;
}

/* What a start that failed may have left. */
static void forget_last_run(struct tn_node *n)
{
    n->path_started = n->exit_missing = n->closing = n->egress_freed = false;
    n->exit_peer = 0;
    n->nown = 0;
    pthread_mutex_lock(&n->mu);
    n->error[0] = '\0';
    n->control_state = TN_CONTROL_STOPPED;
    pthread_mutex_unlock(&n->mu);
}

static int start_locked_out(struct tn_node *n)
{
    char why[200];
    forget_last_run(n);
    int err = tn_state_open(&n->state, n->config.state_dir, &n->rng, why);
    if (err) {
        tn_node_set_error(n, "%s", why);
        return err;
    }
    err = tn_state_merge_prefs(&n->state, &n->config);
    if (err) tn_node_set_error(n, "%.120s: %s", n->config.state_dir, tn_state_err_text(err));
    if (!err) err = open_loop(n);
    if (err) {
        tn_state_close(&n->state);
        return err;
    }
    err = make_all(n);
    if (!err) {
        n->log.max = n->config.log_level;
        tn_control_start(n->control, tn_node_now());
        pthread_mutex_lock(&n->mu);
        n->running_thread = true;
        pthread_mutex_unlock(&n->mu);
        err = tn_thread_start(&n->thread, loop_main, n, THREAD_STACK);
    }
    if (!err) return 0;
    tear_down(n);
    uv_run(&n->loop, UV_RUN_DEFAULT);
    free_engine_shells(n);
    uv_loop_close(&n->loop);
    tn_state_close(&n->state);
    return err;
}

int tn_node_start(struct tn_node *n)
{
    pthread_mutex_lock(&n->mu);
    while (n->life == TN_NODE_STARTING) pthread_cond_wait(&n->cond, &n->mu);
    bool already = n->life == TN_NODE_STARTED;
    if (!already) n->life = TN_NODE_STARTING;
    pthread_mutex_unlock(&n->mu);
    if (already) return 0;
    int err = start_locked_out(n);
    pthread_mutex_lock(&n->mu);
    if (err && !n->error[0]) snprintf(n->error, sizeof n->error, "%s", tn_err_text(err));
    n->life = err ? TN_NODE_STOPPED : TN_NODE_STARTED;
    pthread_cond_broadcast(&n->cond);
    pthread_mutex_unlock(&n->mu);
    return err;
}

void tn_node_stop(struct tn_node *n)
{
    if (n->life != TN_NODE_STARTED) return;
    (void)tn_node_call(n, begin_stop, NULL);
    pthread_join(n->thread, NULL);
    free_engine_shells(n);
    uv_loop_close(&n->loop);
    tn_state_close(&n->state);
    n->life = TN_NODE_STOPPED;
}

void tn_node_check_usable(struct tn_node *n)
{
    if (n->closing || !n->control || !n->path) return;
    bool usable = tn_control_state(n->control) == TN_CONTROL_RUNNING && n->nown > 0 && tn_path_home_connected(n->path);
    pthread_mutex_lock(&n->mu);
    bool first = usable && !n->ever_usable;
    n->ever_usable |= usable;
    n->usable = usable;
    pthread_cond_broadcast(&n->cond);
    pthread_mutex_unlock(&n->mu);
    if (first) tn_logf(&n->log, TN_LOG_INFO, "node", "up");
    if (usable) tn_checkup_up(n);
}

int tn_node_init(struct tn_node *n)
{
    *n = (struct tn_node){0};
    tn_config_init(&n->config);
    n->rng = tn_rng_system();
    n->log.max = TN_LOG_INFO;
    n->state.lock_fd = -1;
    tn_htable_init(&n->peers);
    tn_list_init(&n->bridges);
    tn_list_init(&n->streams);
    tn_list_init(&n->loopback);
    tn_list_init(&n->calls);
    tn_list_init(&n->logouts);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&n->mu, NULL);
    pthread_cond_init(&n->cond, &attr);
    pthread_condattr_destroy(&attr);
    return 0;
}

void tn_node_fini(struct tn_node *n)
{
    tn_config_fini(&n->config);
    free(n->auth_url);
    pthread_mutex_destroy(&n->mu);
    pthread_cond_destroy(&n->cond);
}
