/* Everything that may be asked of src/egress, in random order, from outside and out of its own callbacks, while proxies do whatever
 * they like (stress.py). After every step the books must agree with what is there (audit); in the end nothing may be left: no flow,
 * no descriptor, no byte of heap (the sanitizers speak at exit).
 *
 * usage: stress SEED STEPS PROXY_URL... */
#include "egress/dgram.h"
#include "egress/private.h"
#include "egress/subnet.h"
#include "util/err.h"
#include "util/rng.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    CONNS = 900, /* more than one peer's line has before it */
    FLOWS = 48,
    PEERS = 5,
    URLS_MAX = 16,
    TICK_MS = 2,
    DEEP = 3, /* callbacks that act inside callbacks */
    SETTLE_MS = 1500,
};

/* One dial and what came of it. */
struct one {
    struct tn_egress_conn *c; /* NULL: none */
    bool open;
};
struct flow {
    struct tn_dgram *d;
};

static struct bench {
    uv_loop_t loop;
    uv_timer_t tick;
    struct tn_egress *e;
    struct tn_rng rng;
    uint64_t rng_state;
    char **urls;
    int nurls, steps, depth;
    bool dialing; /* no callback may come now */
    struct one conns[CONNS];
    struct flow flows[FLOWS];
    unsigned long opened, failed, datagrams, policies;
} b;

static unsigned below(unsigned n) { return (unsigned)tn_rng_below(&b.rng, n); }

static void must(bool ok, const char *what)
{
    if (ok) return;
    fprintf(stderr, "stress: %s\n", what);
    abort();
}

/* ---- the books ---- */

struct sums {
    unsigned dials, flows, asking, waiting;
};

static void add_share(struct tn_hnode *n, void *arg)
{
    const struct tn_share *s = TN_CONTAINER(n, struct tn_share, node);
    struct sums *sum = arg;
    unsigned line = 0;
    for (const struct tn_list *l = s->line.next; l != &s->line; l = l->next) line++;
    must(s->asking + line <= s->dials, "a peer's dials ask or wait");
    must(line == 0 || s->asking == TN_LINE_ASKING, "nobody waits while there is room");
    sum->dials += s->dials;
    sum->flows += s->flows;
    sum->asking += s->asking;
    sum->waiting += line;
}

static void audit_upstreams(void)
{
    TN_LIST_EACH(l, &b.e->upstreams) {
        const struct tn_upstream *u = TN_CONTAINER(l, struct tn_upstream, all);
        unsigned flows = 0, dials = 0;
        TN_LIST_EACH(n, &b.e->conns) {
            const struct tn_egress_conn *c = TN_CONTAINER(n, struct tn_egress_conn, all);
            if (c->up != u) continue;
            if (c->dialing) dials++;
            else flows++;
        }
        must(u->flows == flows && u->dials == dials, "a proxy's figures");
    }
}

static void audit(void)
{
    struct sums sum = {0};
    unsigned dials = 0, flows = 0, asking = 0, ours = 0, waiting = 0;
    tn_htable_each(&b.e->shares, add_share, &sum);
    TN_LIST_EACH(n, &b.e->conns) {
        const struct tn_egress_conn *c = TN_CONTAINER(n, struct tn_egress_conn, all);
        bool live = c->state < TN_CONN_FAILED;
        if (live && !c->share) ours++;
        else if (live && c->state == TN_CONN_OPEN) flows++;
        else if (live) dials++;
        asking += c->asking;
        waiting += c->state == TN_CONN_WAITING && !c->asking;
        must(live || (!c->share && !c->up), "who is over holds nothing");
        must(c->state != TN_CONN_OPEN || !c->asking, "who is open asks for nothing");
    }
    must(sum.dials == dials && b.e->stats.dials == dials, "dials");
    must(sum.flows == flows && b.e->stats.flows == flows, "flows");
    must(sum.asking == asking, "asking");
    must(sum.waiting == waiting, "waiting");
    must(b.e->ours == ours, "our own");
    audit_upstreams();
}

/* ---- what is done ---- */

static void act(void);

/* Out of a callback: whoever called must not look at anything of ours any more. */
static void act_within(void)
{
    must(!b.dialing, "no callback inside tn_egress_dial");
    if (b.depth >= DEEP || b.steps <= 0 || below(3)) return;
    b.depth++;
    act();
    b.depth--;
}

static void on_open(void *arg, struct tn_egress_conn *c)
{
    struct one *o = arg;
    must(o->c == c && !o->open, "opened once");
    o->open = true;
    b.opened++;
    tn_egress_want(c, (int)below(4));
    act_within();
}

static void on_fail(void *arg, enum tn_egress_fail why)
{
    struct one *o = arg;
    must(o->c && !o->open, "failed once, and not after it was open");
    *o = (struct one){0};
    b.failed++;
    act_within();
}

static void over(struct one *o)
{
    tn_egress_close(o->c, below(2));
    *o = (struct one){0};
}

static void on_readable(void *arg, struct tn_egress_conn *c)
{
    struct one *o = arg;
    uint8_t bytes[512];
    struct iovec iov = {bytes, 1 + below(sizeof bytes)};
    must(o->c == c && o->open, "readable while open");
    long n = tn_egress_readv(c, &iov, 1);
    if (n == 0 || (n < 0 && n != TN_E_AGAIN)) over(o);
    act_within();
}

static void on_writable(void *arg, struct tn_egress_conn *c)
{
    static const uint8_t bytes[4096];
    struct one *o = arg;
    struct iovec iov = {(void *)(uintptr_t)bytes, 1 + below(sizeof bytes)};
    must(o->c == c && o->open, "writable while open");
    long n = tn_egress_writev(c, &iov, 1);
    if (n < 0 && n != TN_E_AGAIN) over(o);
    else if (below(3) == 0) tn_egress_want(c, TN_EGRESS_WANT_READ);
    act_within();
}

static void on_error(void *arg, struct tn_egress_conn *c, int err)
{
    struct one *o = arg;
    must(o->c == c && err < 0, "an error of an open one");
    over(o);
    act_within();
}

static const struct tn_egress_events events = {on_open, on_fail, on_readable, on_writable, on_error};

static void dial(struct one *o, uint64_t peer)
{
    static const char *const names[] = {NULL, "www.example.com", "a..b"};
    struct tn_egress_target to = {.dst = {{4, {45, 45, 45, 45}}, (uint16_t)(80 + below(4))}, .peer = peer, .name = names[below(3)]};
    if (below(16) == 0) to.purpose = below(2) ? TN_EGRESS_RESOLVER : TN_EGRESS_CHECK;
    if (to.purpose == TN_EGRESS_CHECK && below(2)) to.via = "p1";
    if (below(8) == 0) to.dst.ip = (struct tn_ip){6, {0x2a, 0, 0, 0x45, [15] = 0x45}};
    if (below(64) == 0) to.dst.ip = (struct tn_ip){4, {10, 9, 9, 9}};
    b.dialing = true;
    if (tn_egress_dial(b.e, &to, &events, o, &o->c) != 0) o->c = NULL;
    b.dialing = false;
}

static struct one *any(bool used)
{
    for (unsigned i = below(CONNS), n = 0; n < CONNS; n++, i = (i + 1) % CONNS)
        if ((b.conns[i].c != NULL) == used) return &b.conns[i];
    return NULL;
}

static void burst(void)
{
    for (int i = 0; i < 600; i++) {
        struct one *o = any(false);
        if (o) dial(o, 1);
    }
}

static void fiddle(struct one *o)
{
    if (!o->open || below(3) == 0) over(o);
    else if (below(4) == 0) (void)tn_egress_shutdown(o->c);
    else tn_egress_want(o->c, (int)below(4));
}

static void put_proxy(struct tn_egress_spec *s, const char *url, int number)
{
    char why[128];
    struct tn_egress_proxy *p = tn_egress_spec_proxy(s);
    snprintf(p->name, sizeof p->name, "p%d", number);
    if (below(2)) strcpy(p->group, "g");
    p->weight = below(4);
    p->max_flows = below(6) ? 0 : 20;
    p->names = below(2);
    must(tn_proxy_parse(url, strlen(url), &p->proxy, why) == 0, why);
}

static void set_policy(void)
{
    char why[128];
    unsigned what = below(16);
    b.policies++;
    if (what == 0) {
        (void)tn_egress_set(b.e, NULL, below(2));
        return;
    }
    struct tn_egress_spec *s = tn_egress_spec_new(what == 1 ? TN_EGRESS_OFF : TN_EGRESS_PROXY);
    for (int i = 0, n = (int)(what == 1 ? 0 : 1 + below(4)); i < n; i++) put_proxy(s, b.urls[below((unsigned)b.nurls)], i);
    if (what > 12) {
        struct tn_egress_rule *r = tn_egress_spec_rule(s);
        must(tn_egress_rule_set(r, "from", "tag:t1", why) == 0 && tn_egress_rule_set(r, "use", below(4) ? "p0" : "block", why) == 0, why);
        if (below(2)) must(tn_egress_rule_set(tn_egress_spec_rule(s), "use", "p0", why) == 0, why);
    }
    (void)tn_egress_set(b.e, s, below(4) == 0);
}

/* ---- datagrams ---- */

static void on_datagram(void *arg, const uint8_t *bytes, size_t len)
{
    struct flow *f = arg;
    must(f->d != NULL, "a datagram of a flow");
    b.datagrams++;
    if (below(8) == 0) {
        tn_dgram_close(f->d);
        f->d = NULL;
    }
    act_within();
}

static void on_dgram_error(void *arg, enum tn_dgram_error what) { act_within(); }

static void on_end(void *arg, enum tn_egress_fail why)
{
    struct flow *f = arg;
    f->d = NULL;
    act_within();
}

static const struct tn_dgram_events dgram_events = {on_datagram, on_dgram_error, on_end};

static void do_flow(void)
{
    struct flow *f = &b.flows[below(FLOWS)];
    unsigned peer = 1 + below(PEERS);
    if (!f->d) {
        struct tn_dgram_key k = {.src = {{4, {100, 64, 0, (uint8_t)peer}}, (uint16_t)(4000 + below(3))},
                                 .dst = {{4, {45, 45, 45, 45}}, (uint16_t)(443 + below(3))}, .peer = peer};
        struct tn_dgram *d;
        if (tn_dgram_open(b.e, &k, &dgram_events, f, &d) == 0) {
            if (f->d) tn_dgram_close(f->d); /* a callback inside that call was there first */
            f->d = d;
        }
    } else if (below(3) == 0) {
        tn_dgram_close(f->d);
        f->d = NULL;
    } else {
        tn_dgram_send(f->d, "hello", 5);
    }
}

/* ---- one step ---- */

static void act(void)
{
    static const struct tn_ip own = {4, {100, 64, 0, 9}};
    uint64_t peer = 1 + below(PEERS);
    struct one *o;
    b.steps--;
    switch (below(40)) {
    case 0:
        if (below(3) == 0) set_policy();
        break;
    case 1: (void)tn_egress_rotate(b.e, below(4) ? peer : 0); break;
    case 2: tn_egress_forget_peer(b.e, peer); break;
    case 3: tn_egress_set_proxy_udp(b.e, below(4), below(2)); break;
    case 4: (void)tn_egress_set_own(b.e, &own, below(2)); break;
    case 5: (void)(tn_egress_has_udp(b.e, peer) || tn_egress_has_ipv6(b.e, peer)); break;
    case 6:
        if (below(12) == 0) burst();
        break;
    default:
        if (below(3) == 0) do_flow();
        else if ((o = any(below(2)))) {
            if (o->c) fiddle(o);
            else dial(o, peer);
        }
    }
}

static unsigned count_fds(void)
{
    unsigned n = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (dir && readdir(dir)) n++;
    if (dir) closedir(dir);
    return n;
}

static void on_gone(void *arg) { uv_close((uv_handle_t *)&b.tick, NULL); }

static void settled(uv_timer_t *t)
{
    struct tn_egress_stats s;
    struct tn_dgram_stats d;
    audit();
    tn_egress_stats(b.e, &s);
    tn_dgram_stats(b.e, &d);
    must(!s.flows && !s.dials && !b.e->ours, "everything came to its end");
    must(!d.flows && !d.sockets && !d.associations, "and every datagram's way");
    must(tn_list_empty(&b.e->upstreams), "proxies nobody has are forgotten");
    for (uint64_t peer = 1; peer <= PEERS; peer++) tn_egress_forget_peer(b.e, peer);
    tn_egress_free(b.e, on_gone, NULL);
}

/* Half of the runs let everything end, the others pull it down as it stands. */
static void wind_up(uv_timer_t *t)
{
    if (b.rng_state & 1) {
        tn_egress_free(b.e, on_gone, NULL);
        return;
    }
    tn_egress_set_proxy_udp(b.e, false, true);
    (void)tn_egress_set(b.e, tn_egress_spec_new(TN_EGRESS_OFF), true);
    for (int i = 0; i < CONNS; i++)
        if (b.conns[i].c && below(2)) over(&b.conns[i]);
    for (int i = 0; i < FLOWS; i++)
        if (b.flows[i].d) tn_dgram_close(b.flows[i].d);
    for (int i = 0; i < CONNS; i++)
        if (b.conns[i].c && b.conns[i].open) over(&b.conns[i]);
    uv_timer_start(&b.tick, settled, SETTLE_MS, 0);
}

static void on_tick(uv_timer_t *t)
{
    for (unsigned n = 1 + below(24); n > 0 && b.steps > 0; n--) act();
    audit();
    if (b.steps <= 0) uv_timer_start(&b.tick, wind_up, TICK_MS, 0);
}

static bool peer_is(void *ctx, uint64_t peer, enum tn_egress_source kind, const char *value)
{
    return kind == TN_EGRESS_FROM_TAG && !strcmp(value, "tag:t1") && peer == 1;
}

int main(int argc, char **argv)
{
    if (argc < 4) return 64;
    b.rng_state = strtoull(argv[1], NULL, 10);
    b.steps = atoi(argv[2]);
    b.urls = argv + 3;
    b.nurls = argc - 3;
    b.rng = tn_rng_seeded(&b.rng_state);
    uv_loop_init(&b.loop); /* what libuv keeps for the process is there from here on */
    uv_loop_close(&b.loop);
    unsigned before = count_fds();
    static const struct tn_log quiet = {0};
    struct tn_egress_config config = {.loop = &b.loop, .log = &quiet, .peers = {.is = peer_is}, .key = {{1, 2}},
                                      .limits = {.connect_timeout_us = 150000, .handshake_timeout_us = 300000}};
    uv_loop_init(&b.loop);
    must(tn_egress_new(&config, &b.e) == 0, "new");
    tn_egress_set_proxy_udp(b.e, true, false);
    uv_timer_init(&b.loop, &b.tick);
    uv_timer_start(&b.tick, on_tick, 0, TICK_MS);
    uv_run(&b.loop, UV_RUN_DEFAULT);
    must(uv_loop_close(&b.loop) == 0, "no handle is left");
    for (int i = 0; i < 500 && count_fds() != before; i++) usleep(20000); /* a lookup that nobody waits for has a thread still */
    must(count_fds() == before, "no descriptor is left");
    printf("%lu opened, %lu failed, %lu datagrams, %lu policies\n", b.opened, b.failed, b.datagrams, b.policies);
    return 0;
}
