/* A peer's stack, the exit node's stack and forwarder, and a real egress in one process, driven by lines as
 * drive_egress is. Packets between the two stacks go through a queue of this program; the clock can be moved
 * forward. For through.py.
 *
 *   policy off | host | proxy URL         enable 0|1        gone (the peer leaves the netmap)
 *   dial ID ADDR:PORT                     "ID open" or "ID refused|RESET|..", "ID end BYTES HASH" at the other side's FIN,
 *                                         "ID closed CODE" when the peer's connection is over
 *   write ID N   shut ID   abort ID       "ID wrote N"
 *   stall ID | go ID                      the peer's application stops or goes on reading
 *   proxyudp 0|1                          UDP by the proxy
 *   udp ADDR:PORT [SIZE [SOCKET]]         from one of four sockets; "udp SOCKET SIZE HASH FROM" for what comes
 *   ping ADDR   raw HEX                   "icmp V TYPE CODE" for every ICMP message that comes back
 *   link 0|1                              0: packets between the stacks vanish
 *   skip SECONDS                          moves the clock, second by second
 *   stats                                 "stats flows F held H upstream U dials D peer P" + counters
 *   quit */
#include "egress/dgram.h"
#include "forward/forward.h"
#include "util/buf.h"
#include "util/err.h"
#include "util/heap.h"
#include "util/list.h"
#include "util/text.h"
#include "wire/ip.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { UDP_SOCKS = 4, UDP_PORT = 5000, IDS = 4096, TO_GATE = 0, TO_PEER = 1 };

struct packet {
    struct tn_list node;
    int to;
    size_t len;
    uint8_t bytes[];
};

struct dial {
    struct tn_tcp *c;
    int id;
    bool stalled, ended, opened, shut;
    uint64_t received, hash, to_write, written;
};

static struct bench {
    uv_loop_t loop;
    uv_poll_t in;
    uv_prepare_t prepare;
    uv_timer_t timer;
    struct tn_egress *e;
    struct tn_forward *f;
    struct tn_stack *peer, *gate;
    struct tn_udp_sock *udp[UDP_SOCKS];
    struct tn_list packets;
    struct tn_buf lines;
    uint64_t skipped_us;
    bool cut;
    struct dial dials[IDS];
} b;

static uint64_t now(void *ctx) { return uv_hrtime() / 1000 + b.skipped_us; }

static void say(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vprintf(fmt, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
}

/* ---- the link ---- */

static void enqueue(int to, const uint8_t *packet, size_t len)
{
    if (b.cut) return;
    struct packet *p = malloc(sizeof *p + len);
    assert(p);
    p->to = to;
    p->len = len;
    memcpy(p->bytes, packet, len);
    tn_list_push_back(&b.packets, &p->node);
}

static void tell_icmp(const uint8_t *packet, size_t len)
{
    struct tn_ippkt ip;
    if (tn_ippkt_parse(packet, len, &ip) != 0 || ip.l4_len < 8) return;
    bool v4 = ip.proto == TN_IPPROTO_ICMP, v6 = ip.proto == TN_IPPROTO_ICMP6;
    if (v4 || v6) say("icmp %d %u %u", v4 ? 4 : 6, ip.l4[0], ip.l4[1]);
}

static void peer_output(void *ctx, uint8_t *packet, size_t len) { enqueue(TO_GATE, packet, len); }
static void gate_output(void *ctx, uint8_t *packet, size_t len)
{
    tell_icmp(packet, len);
    enqueue(TO_PEER, packet, len);
}

static void arm_timer(void);

static void turn(void)
{
    for (struct tn_list *n; (n = tn_list_pop_front(&b.packets));) {
        struct packet *p = TN_CONTAINER(n, struct packet, node);
        tn_stack_input(p->to == TO_GATE ? b.gate : b.peer, p->bytes, p->len, now(NULL));
        free(p);
    }
    uint64_t t = now(NULL);
    if (tn_stack_next_deadline(b.peer) <= t) tn_stack_timeout(b.peer, t);
    if (tn_stack_next_deadline(b.gate) <= t) tn_stack_timeout(b.gate, t);
    if (tn_forward_next_deadline(b.f) <= t) tn_forward_timeout(b.f, t);
    arm_timer();
}

static void on_timer(uv_timer_t *timer) {}

static void arm_timer(void)
{
    uint64_t at = tn_stack_next_deadline(b.peer), other = tn_stack_next_deadline(b.gate), t = now(NULL);
    if (other < at) at = other;
    other = tn_forward_next_deadline(b.f);
    if (other < at) at = other;
    if (!tn_list_empty(&b.packets)) at = 0;
    if (at == TN_NEVER) uv_timer_stop(&b.timer);
    else uv_timer_start(&b.timer, on_timer, at > t ? (at - t + 999) / 1000 : 0, 0);
}

static void on_prepare(uv_prepare_t *prepare) { turn(); }

/* ---- the peer's applications ---- */

static void write_more(struct dial *d, uint64_t now_us)
{
    static const uint8_t zeros[65536];
    while (d->c && d->opened && d->written < d->to_write) {
        uint64_t left = d->to_write - d->written;
        long n = tn_tcp_write(d->c, zeros, left < sizeof zeros ? (size_t)left : sizeof zeros, now_us);
        if (n <= 0) return;
        d->written += (uint64_t)n;
        if (d->written == d->to_write) say("%d wrote %llu", d->id, (unsigned long long)d->written);
    }
}

static void read_more(struct dial *d, uint64_t now_us)
{
    struct iovec v[8];
    for (int n; !d->stalled && d->c && (n = tn_tcp_peek(d->c, v, 8)) > 0;) {
        size_t total = 0;
        for (int i = 0; i < n; i++) {
            const uint8_t *p = v[i].iov_base;
            for (size_t k = 0; k < v[i].iov_len; k++) d->hash = (d->hash ^ p[k]) * 0x100000001b3u;
            total += v[i].iov_len;
        }
        d->received += total;
        tn_tcp_consume(d->c, total, now_us);
    }
    if (d->ended || !d->c || !tn_tcp_eof(d->c)) return;
    d->ended = true;
    say("%d end %llu %016llx", d->id, (unsigned long long)d->received, (unsigned long long)d->hash);
}

static void on_open(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    struct dial *d = arg;
    d->opened = true;
    say("%d open", d->id);
    write_more(d, now_us);
}

static void on_readable(void *arg, struct tn_tcp *c, uint64_t now_us) { read_more(arg, now_us); }
static void on_writable(void *arg, struct tn_tcp *c, uint64_t now_us) { write_more(arg, now_us); }

static void on_close(void *arg, int err, uint64_t now_us)
{
    struct dial *d = arg;
    d->c = NULL;
    say("%d closed %s", d->id, tn_err_name(err));
}

static const struct tn_tcp_events tcp_events = {on_open, on_readable, on_writable, on_close};

static void on_datagram(void *arg, const struct tn_addrport *local, const struct tn_addrport *from, const uint8_t *bytes,
                        size_t len, uint64_t now_us)
{
    char text[TN_ADDRPORT_STRLEN];
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < len; i++) hash = (hash ^ bytes[i]) * 0x100000001b3u;
    say("udp %d %zu %016llx %s", local->port - UDP_PORT, len, (unsigned long long)hash, tn_addrport_format(from, text));
}
static const struct tn_udp_events udp_events = {.on_datagram = on_datagram};

/* ---- orders ---- */

static void do_policy(const char *mode, const char *url)
{
    static const char *const names[] = {"off", "host", "proxy"};
    struct tn_proxy *p = NULL;
    char why[128];
    if (url && tn_proxy_parse(url, strlen(url), &p, why) != 0) say("policy bad: %s", why);
    int m = 0;
    while (m < 3 && strcmp(mode, names[m]) != 0) m++;
    (void)tn_egress_set_policy(b.e, (enum tn_egress_mode)m, p);
    say("policy %s", names[tn_egress_mode(b.e)]);
}

static void do_dial(struct dial *d, const char *dst)
{
    struct tn_addrport ap;
    int id = d->id;
    *d = (struct dial){.id = id, .hash = 0xcbf29ce484222325u};
    int err = tn_addrport_parse(dst, &ap);
    if (!err) err = tn_tcp_connect(b.peer, NULL, &ap, &tcp_events, d, now(NULL), &d->c);
    if (err) say("%d closed %s", id, tn_err_name(err));
}

static void do_stats(void)
{
    struct tn_forward_stats s;
    struct tn_egress_stats es;
    struct tn_stack_stats ps;
    tn_forward_stats(b.f, &s);
    tn_egress_stats(b.e, &es);
    tn_stack_stats(b.gate, &ps);
    struct tn_dgram_stats ds;
    tn_dgram_stats(b.e, &ds);
    say("stats flows %u held %u upstream %u dials %u tcp %zu opened %llu refused %llu udp_refused %llu icmp_refused %llu "
        "canceled %llu chunks %zu udp_flows %u evicted %llu dgrams %u sockets %u strangers %llu malformed %llu unsent %llu "
        "associations %u relay %d",
        s.flows, s.held, es.flows, es.dials, ps.flows, (unsigned long long)s.opened, (unsigned long long)s.refused,
        (unsigned long long)s.udp_refused, (unsigned long long)s.icmp_refused, (unsigned long long)s.canceled, ps.chunk_bytes,
        s.udp_flows, (unsigned long long)s.udp_evicted, ds.flows, ds.sockets, (unsigned long long)ds.strangers,
        (unsigned long long)ds.malformed, (unsigned long long)ds.unsent, ds.associations, (int)ds.relay);
}

static void do_udp(char *rest)
{
    static uint8_t bytes[65507];
    struct tn_addrport ap;
    const char *addr = strsep(&rest, " "), *size = strsep(&rest, " ");
    size_t len = size ? strtoul(size, NULL, 10) : 1;
    int sock = rest ? atoi(rest) % UDP_SOCKS : 0;
    if (len > sizeof bytes || tn_addrport_parse(addr, &ap) != 0) abort();
    for (size_t i = 0; i < len; i++) bytes[i] = (uint8_t)(i * 7 + len);
    say("sent %d", tn_udp_sendto(b.udp[sock], NULL, &ap, bytes, len, now(NULL)));
}

static void do_raw(const char *hex)
{
    uint8_t bytes[2000];
    size_t len = strlen(hex) / 2;
    assert(len <= sizeof bytes && tn_hex_decode(hex, bytes, len) == 0);
    enqueue(TO_GATE, bytes, len);
    say("raw %zu", len);
}

static void do_skip(unsigned seconds)
{
    while (seconds-- > 0) {
        b.skipped_us += 1000000;
        for (int i = 0; i < 8; i++) turn();
    }
    say("skipped");
}

static void on_gone(void *arg)
{
    say("bye");
    uv_close((uv_handle_t *)&b.in, NULL);
    uv_close((uv_handle_t *)&b.prepare, NULL);
    uv_close((uv_handle_t *)&b.timer, NULL);
}

static void do_quit(void)
{
    uv_poll_stop(&b.in);
    uv_prepare_stop(&b.prepare);
    uv_timer_stop(&b.timer);
    tn_forward_free(b.f);
    tn_stack_free(b.gate);
    tn_stack_free(b.peer);
    for (struct tn_list *n; (n = tn_list_pop_front(&b.packets));) free(TN_CONTAINER(n, struct packet, node));
    tn_egress_free(b.e, on_gone, NULL);
}

static void do_conn(const char *verb, struct dial *d, char *rest)
{
    uint64_t t = now(NULL);
    if (!strcmp(verb, "dial")) {
        do_dial(d, rest);
    } else if (!strcmp(verb, "write")) {
        d->to_write += strtoull(rest, NULL, 10);
        write_more(d, t);
    } else if (!strcmp(verb, "stall") || !strcmp(verb, "go")) {
        d->stalled = verb[0] == 's';
        read_more(d, t);
    } else if (!d->c) {
        say("%d none", d->id);
    } else if (!strcmp(verb, "shut")) {
        tn_tcp_shutdown(d->c, t);
        say("%d shut", d->id);
    } else if (!strcmp(verb, "abort")) {
        tn_tcp_abort(d->c, t);
        d->c = NULL;
        say("%d aborted", d->id);
    }
}

static void obey(char *line)
{
    char *rest = line, *verb = strsep(&rest, " ");
    struct tn_ip ip;
    if (!strcmp(verb, "policy")) {
        char *mode = strsep(&rest, " ");
        do_policy(mode, rest);
    } else if (!strcmp(verb, "enable")) {
        tn_forward_set_enabled(b.f, rest[0] == '1', now(NULL));
        say("enabled %s", rest);
    } else if (!strcmp(verb, "gone")) {
        tn_forward_peer_gone(b.f, 7, now(NULL));
        say("gone");
    } else if (!strcmp(verb, "proxyudp")) {
        tn_egress_set_proxy_udp(b.e, rest[0] == '1', false);
        say("proxyudp %s", rest);
    } else if (!strcmp(verb, "udp")) {
        do_udp(rest);
    } else if (!strcmp(verb, "ping") && tn_ip_parse(rest, &ip) == 0) {
        say("sent %d", tn_stack_ping(b.peer, &ip, 1, 1, now(NULL)));
    } else if (!strcmp(verb, "raw")) {
        do_raw(rest);
    } else if (!strcmp(verb, "link")) {
        b.cut = rest[0] == '0';
        say("link %s", rest);
    } else if (!strcmp(verb, "skip")) {
        do_skip((unsigned)atoi(rest));
    } else if (!strcmp(verb, "stats")) {
        do_stats();
    } else if (!strcmp(verb, "quit")) {
        do_quit();
    } else {
        struct dial *d = &b.dials[atoi(strsep(&rest, " ")) % IDS];
        d->id = (int)(d - b.dials);
        do_conn(verb, d, rest);
    }
}

static void on_input(uv_poll_t *poll, int status, int uv_events)
{
    char bytes[4096];
    ssize_t n = read(0, bytes, sizeof bytes);
    if (n <= 0) exit(3); /* the test went away */
    if (tn_buf_append(&b.lines, bytes, (size_t)n) != 0) exit(4);
    for (;;) {
        uint8_t *start = tn_buf_data(&b.lines), *nl = start ? memchr(start, '\n', tn_buf_len(&b.lines)) : NULL;
        char line[4096];
        if (!nl || (size_t)(nl - start) >= sizeof line) return;
        memcpy(line, start, (size_t)(nl - start));
        line[nl - start] = '\0';
        tn_buf_consume(&b.lines, (size_t)(nl - start) + 1);
        obey(line);
    }
}

/* ---- assembly ---- */

static uint64_t peer_of(void *ctx, const struct tn_ip *src)
{
    return tn_ip_is_tailnet(src) ? 7 : 0;
}

static void log_line(void *ctx, enum tn_log_level level, const char *module, const char *line)
{
    fprintf(stderr, "%d %s: %s\n", (int)level, module, line);
}

static const struct tn_log log_all = {.write = log_line, .max = TN_LOG_DEBUG};

static struct tn_stack *make_stack(bool is_gate, uint8_t last)
{
    struct tn_stack_config c = {.rng = tn_rng_system(), .log = is_gate ? &log_all : NULL,
                                .cb.output = is_gate ? gate_output : peer_output, .ctx = b.f};
    struct tn_ip own[2] = {tn_ip4(100, 64, 0, last), {6, {0xfd, 0x7a, 0x11, 0x5c, 0xa1, 0xe0, [15] = last}}};
    if (is_gate) {
        c.cb.foreign_syn = tn_forward_syn;
        c.cb.foreign_tcp = tn_forward_tcp;
        c.cb.foreign_udp = tn_forward_udp;
        c.cb.foreign_other = tn_forward_other;
    }
    struct tn_stack *st = tn_stack_new(&c);
    assert(st && tn_stack_set_addrs(st, own, 2, now(NULL)) == 0);
    return st;
}

int main(int argc, char **argv)
{
    uv_loop_init(&b.loop);
    tn_list_init(&b.packets);
    tn_buf_init(&b.lines, 1 << 20);
    struct tn_egress_config ec = {.loop = &b.loop, .log = &log_all};
    if (tn_egress_new(&ec, &b.e) != 0) return 2;
    struct tn_forward_config fc = {.egress = b.e, .log = &log_all, .peer_of = peer_of, .now = now};
    b.f = tn_forward_new(&fc);
    b.gate = make_stack(true, 1);
    b.peer = make_stack(false, 7);
    tn_forward_set_stack(b.f, b.gate);
    for (int i = 0; i < UDP_SOCKS; i++) {
        struct tn_addrport any = {.port = (uint16_t)(UDP_PORT + i)};
        if (tn_udp_bind(b.peer, &any, &udp_events, NULL, &b.udp[i]) != 0) return 2;
    }
    uv_timer_init(&b.loop, &b.timer);
    uv_prepare_init(&b.loop, &b.prepare);
    uv_prepare_start(&b.prepare, on_prepare);
    uv_poll_init(&b.loop, &b.in, 0);
    uv_poll_start(&b.in, UV_READABLE, on_input);
    uv_run(&b.loop, UV_RUN_DEFAULT);
    tn_buf_fini(&b.lines);
    return uv_loop_close(&b.loop) == 0 ? 0 : 5; /* busy: a handle was left behind */
}
