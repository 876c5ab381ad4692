/* Runs src/egress on a real loop and obeys lines on standard input, one answer line each and one line per event. For
 * hostile.py, which plays the proxy.
 *
 *   policy off | host | proxy URL      "policy MODE" or "policy bad: WHY"
 *   spec keep|cut | proxy NAME URL [group=G] [weight=N] [max=N] [names] [bind=WORD] | rule KEY=VALUE.. | ...    as policy, a pool
 *   proxies                            "proxies NAME=STATE/FAIL/FLOWS/OPENED .."
 *   rotate PEER | forget PEER          "rotated" | "forgotten", as when control removes it
 *   has PEER                           "has ipv6=0|1 udp=0|1"
 *   usable                             "usable 0|1"
 *   relay                              "relay N", enum tn_relay
 *   own ADDR...                        "own N"
 *   dial ID ADDR:PORT read|hold [PEER [NAME]] later "ID open", "ID fail NAME"; read: "ID end eof|RESET|.. BYTES HASH" at the end
 *   read ID | write ID N | shut ID | close ID | reset ID     write: "ID wrote N" or "ID broke CODE"
 *   proxyudp 0|1                       "proxyudp"
 *   udp ID ADDR:PORT PEER              "udp ID sent" or "udp ID fail NAME"; later "udp ID got N", "udp ID end NAME"
 *   allowed ADDR:PORT                  "allowed 0|1"
 *   stats                              "stats flows F dials D heap BYTES fds N health NAME NAME=COUNT.."
 *   quit                               frees everything, says "bye", exits (the leak checker speaks then)
 * Arguments: CONNECT_MS HANDSHAKE_MS MAX_FLOWS MAX_DIALS FLOWS_PER_PEER DIALS_PER_PEER. Peer N has tag:tN and the user
 * uN@test. With DRIVE_BREAKER in the environment proxies have breakers and are probed. */
#include "drive_dgram.h"
#include "egress/dgram.h"
#include "egress/egress.h"
#include "util/buf.h"
#include "util/err.h"

#include <assert.h>
#include <dirent.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { IDS = 8192, CHUNK = 65536 };

struct dial {
    struct tn_egress_conn *c;
    int id;
    bool read;
    uint64_t received, hash, to_write, written;
    bool ended;
};

static struct bench {
    uv_loop_t loop;
    uv_poll_t in;
    struct tn_egress *e;
    struct tn_buf lines;
    struct dial dials[IDS];
} b;

static uint8_t chunk[CHUNK];

size_t __sanitizer_get_current_allocated_bytes(void) __attribute__((weak));

void say(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vprintf(fmt, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
}

static void wants(struct dial *d)
{
    if (!d->c) return;
    tn_egress_want(d->c, (d->read && !d->ended ? TN_EGRESS_WANT_READ : 0) |
                             (d->written < d->to_write ? TN_EGRESS_WANT_WRITE : 0));
}

static void end(struct dial *d, const char *how)
{
    d->ended = true;
    say("%d end %s %llu %016llx", d->id, how, (unsigned long long)d->received, (unsigned long long)d->hash);
}

static void on_open(void *arg, struct tn_egress_conn *c)
{
    struct dial *d = arg;
    say("%d open", d->id);
    wants(d);
}

static void on_fail(void *arg, enum tn_egress_fail why)
{
    struct dial *d = arg;
    d->c = NULL;
    say("%d fail %s", d->id, tn_egress_fail_name(why));
}

static void on_readable(void *arg, struct tn_egress_conn *c)
{
    struct dial *d = arg;
    struct iovec iov[2] = {{chunk, 1000}, {chunk + 1000, CHUNK - 1000}};
    long n = tn_egress_readv(c, iov, 2);
    if (n == TN_E_AGAIN) return;
    if (n > 0) {
        for (long i = 0; i < n; i++) d->hash = (d->hash ^ chunk[i]) * 0x100000001b3u; /* FNV-1a */
        d->received += (uint64_t)n;
        return;
    }
    end(d, n == 0 ? "eof" : tn_err_name((int)n));
    wants(d);
}

static void on_writable(void *arg, struct tn_egress_conn *c)
{
    struct dial *d = arg;
    uint64_t left = d->to_write - d->written;
    struct iovec iov = {chunk, left < CHUNK ? (size_t)left : CHUNK};
    memset(chunk, 'w', CHUNK);
    long n = tn_egress_writev(c, &iov, 1);
    if (n == TN_E_AGAIN) return;
    if (n < 0) {
        say("%d broke %s", d->id, tn_err_name((int)n));
        d->to_write = d->written;
    } else {
        d->written += (uint64_t)n;
        if (d->written == d->to_write) say("%d wrote %llu", d->id, (unsigned long long)d->written);
    }
    wants(d);
}

static void on_error(void *arg, struct tn_egress_conn *c, int err)
{
    struct dial *d = arg;
    say("%d error %s", d->id, tn_err_name(err));
}

static const struct tn_egress_events events = {on_open, on_fail, on_readable, on_writable, on_error};

static void do_policy(const char *mode, const char *url)
{
    static const char *const names[] = {"off", "host", "proxy"};
    struct tn_proxy *p = NULL;
    char why[128];
    if (url && tn_proxy_parse(url, strlen(url), &p, why) != 0) {
        say("policy bad: %s", why);
        tn_egress_set_policy(b.e, TN_EGRESS_PROXY, NULL);
        return;
    }
    int m = 0;
    while (m < 3 && strcmp(mode, names[m]) != 0) m++;
    (void)tn_egress_set_policy(b.e, (enum tn_egress_mode)m, p);
    say("policy %s", names[tn_egress_mode(b.e)]);
}

static const char *put_option(struct tn_egress_proxy *p, const char *word)
{
    if (!strncmp(word, "group=", 6)) snprintf(p->group, sizeof p->group, "%s", word + 6);
    else if (!strncmp(word, "weight=", 7)) p->weight = (unsigned)atoi(word + 7);
    else if (!strncmp(word, "max=", 4)) p->max_flows = (unsigned)atoi(word + 4);
    else if (!strcmp(word, "names")) p->names = true;
    else if (!strncmp(word, "bind=", 5)) return tn_proxy_bind_parse(word + 5, &p->proxy->bind) ? NULL : word;
    else return word;
    return NULL;
}

/* One part between bars. false: what is wrong was said. */
static bool put_part(struct tn_egress_spec *s, char *part)
{
    char why[128] = "odd";
    char *kind = strsep(&part, " "), *word = NULL;
    if (!strcmp(kind, "proxy")) {
        struct tn_egress_proxy *p = tn_egress_spec_proxy(s);
        snprintf(p->name, sizeof p->name, "%s", strsep(&part, " "));
        word = strsep(&part, " ");
        if (tn_proxy_parse(word, strlen(word), &p->proxy, why) != 0) goto bad;
        while ((word = strsep(&part, " ")))
            if (*word && put_option(p, word)) goto bad;
        return true;
    }
    struct tn_egress_rule *r = tn_egress_spec_rule(s);
    while ((word = strsep(&part, " "))) {
        if (!*word) continue;
        char *key = strsep(&word, "=");
        if (!word || tn_egress_rule_set(r, key, word, why) != 0) goto bad;
    }
    return true;
bad:
    say("policy bad: %s", why);
    return false;
}

static void do_spec(char *text)
{
    static const char *const names[] = {"off", "host", "proxy"};
    struct tn_egress_spec *s = tn_egress_spec_new(TN_EGRESS_PROXY);
    char *part = strsep(&text, "|");
    bool cut = strstr(part, "cut") != NULL;
    while ((part = strsep(&text, "|"))) {
        while (*part == ' ') part++;
        for (size_t n = strlen(part); n && part[n - 1] == ' '; part[--n] = '\0') {}
        if (put_part(s, part)) continue;
        tn_egress_spec_free(s);
        tn_egress_set(b.e, NULL, cut);
        return;
    }
    (void)tn_egress_set(b.e, s, cut);
    say("policy %s", names[tn_egress_mode(b.e)]);
}

static void do_proxies(void)
{
    static const char *const states[] = {"up", "down", "trying", "untried"};
    struct tn_egress_proxy_stats s;
    printf("proxies");
    for (size_t i = 0; tn_egress_proxy_at(b.e, i, &s); i++)
        printf(" %s=%s/%s/%u/%llu", s.name, states[s.state], tn_egress_fail_name(s.last_fail), s.flows,
               (unsigned long long)s.opened);
    say("");
}

static void do_dial(int id, const char *dst, const char *how, uint64_t peer, const char *name)
{
    struct tn_addrport ap;
    struct dial *d = &b.dials[id];
    *d = (struct dial){.id = id, .read = strcmp(how, "read") == 0, .hash = 0xcbf29ce484222325u};
    if (tn_addrport_parse(dst, &ap) != 0) {
        say("%d bad address", id);
        return;
    }
    struct tn_egress_target to = {.dst = ap, .peer = peer, .name = name};
    int why = tn_egress_dial(b.e, &to, &events, d, &d->c);
    if (why) say("%d fail %s", id, tn_egress_fail_name((enum tn_egress_fail)why));
}

static unsigned count_fds(void)
{
    unsigned n = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (dir && readdir(dir)) n++;
    if (dir) closedir(dir);
    return n - 3; /* ".", ".." and the directory itself */
}

static void do_stats(void)
{
    struct tn_egress_stats s;
    tn_egress_stats(b.e, &s);
    size_t heap = __sanitizer_get_current_allocated_bytes ? __sanitizer_get_current_allocated_bytes() : mallinfo2().uordblks;
    printf("stats flows %u dials %u heap %zu fds %u health %s", s.flows, s.dials, heap, count_fds(),
           tn_egress_fail_name(s.last_proxy_fail));
    for (int i = 1; i < TN_EGRESS_FAIL_COUNT; i++)
        if (s.failed[i]) printf(" %s=%llu", tn_egress_fail_name((enum tn_egress_fail)i), (unsigned long long)s.failed[i]);
    say("");
}

static void do_allowed(const char *dst)
{
    struct tn_addrport ap;
    say("allowed %d", tn_addrport_parse(dst, &ap) == 0 ? tn_egress_allowed(b.e, &ap) : -1);
}

static void do_own(char *list)
{
    struct tn_ip own[8];
    size_t n = 0;
    for (char *word; n < 8 && (word = strsep(&list, " "));)
        if (tn_ip_parse(word, &own[n]) == 0) n++;
    tn_egress_set_own(b.e, own, n);
    say("own %zu", n);
}

static void on_gone(void *arg)
{
    say("bye");
    uv_close((uv_handle_t *)&b.in, NULL);
}

static void do_conn(const char *verb, struct dial *d, uint64_t n)
{
    if (!d->c) {
        say("%d none", d->id);
    } else if (!strcmp(verb, "read")) {
        d->read = true;
        wants(d);
    } else if (!strcmp(verb, "write")) {
        d->to_write += n;
        wants(d);
    } else if (!strcmp(verb, "shut")) {
        say("%d shut %s", d->id, tn_err_name(tn_egress_shutdown(d->c)));
    } else {
        tn_egress_close(d->c, verb[0] == 'r');
        d->c = NULL;
        say("%d closed", d->id);
    }
}

static void obey(char *line)
{
    char *rest = line, *verb = strsep(&rest, " "), *first = rest;
    if (!strcmp(verb, "policy")) {
        char *mode = strsep(&rest, " ");
        do_policy(mode, rest);
    } else if (!strcmp(verb, "own")) {
        do_own(first);
    } else if (!strcmp(verb, "dial")) {
        int id = atoi(strsep(&rest, " "));
        char *dst = strsep(&rest, " "), *how = strsep(&rest, " ");
        assert(id >= 0 && id < IDS && dst && how);
        const char *peer = strsep(&rest, " ");
        do_dial(id, dst, how, peer ? strtoull(peer, NULL, 10) : 1, rest);
    } else if (!strcmp(verb, "spec")) {
        do_spec(rest);
    } else if (!strcmp(verb, "proxies")) {
        do_proxies();
    } else if (!strcmp(verb, "rotate")) {
        say("rotated %d", tn_egress_rotate(b.e, strtoull(first, NULL, 10)));
    } else if (!strcmp(verb, "forget")) {
        tn_egress_forget_peer(b.e, strtoull(first, NULL, 10));
        say("forgotten");
    } else if (!strcmp(verb, "has")) {
        uint64_t peer = strtoull(first, NULL, 10);
        say("has ipv6=%d udp=%d", tn_egress_has_ipv6(b.e, peer), tn_egress_has_udp(b.e, peer));
    } else if (!strcmp(verb, "usable")) {
        say("usable %d", tn_egress_usable(b.e));
    } else if (!strcmp(verb, "relay")) {
        struct tn_dgram_stats ds;
        tn_dgram_stats(b.e, &ds);
        say("relay %d", (int)ds.relay);
    } else if (!strcmp(verb, "allowed")) {
        do_allowed(first);
    } else if (!strcmp(verb, "stats")) {
        do_stats();
    } else if (drive_dgram(b.e, verb, first)) {
        return;
    } else if (!strcmp(verb, "quit")) {
        uv_poll_stop(&b.in);
        tn_egress_free(b.e, on_gone, NULL);
    } else {
        int id = atoi(strsep(&rest, " "));
        do_conn(verb, &b.dials[id], rest ? strtoull(rest, NULL, 10) : 0);
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

static void log_line(void *ctx, enum tn_log_level level, const char *module, const char *line)
{
    fprintf(stderr, "%d %s: %s\n", (int)level, module, line);
}

static bool peer_is(void *ctx, uint64_t peer, enum tn_egress_source kind, const char *value)
{
    static const char *const before[] = {"p", "u", "tag:t"}, *const after[] = {"", "@test", ""};
    char text[48];
    snprintf(text, sizeof text, "%s%llu%s", before[kind], (unsigned long long)peer, after[kind]);
    return strcmp(text, value) == 0;
}

static uint64_t peer_user(void *ctx, uint64_t peer) { return peer % 10; }

int main(int argc, char **argv)
{
    static const struct tn_log log = {.write = log_line, .max = TN_LOG_DEBUG};
    unsigned arg[6] = {0};
    for (int i = 0; i < 6 && i + 1 < argc; i++) arg[i] = (unsigned)atoi(argv[i + 1]);
    uv_loop_init(&b.loop);
    tn_buf_init(&b.lines, 1 << 20);
    struct tn_egress_config config = {
        .loop = &b.loop,
        .log = &log,
        .peers = {.is = peer_is, .user = peer_user},
        .key = {{1, 2}},
        .no_breaker = !getenv("DRIVE_BREAKER"),
        .limits = {.connect_timeout_us = arg[0] * 1000ull, .handshake_timeout_us = arg[1] * 1000ull, .max_flows = arg[2],
                   .max_dials = arg[3], .max_flows_per_peer = arg[4], .max_dials_per_peer = arg[5]}};
    if (tn_egress_new(&config, &b.e) != 0) return 2;
    uv_poll_init(&b.loop, &b.in, 0);
    uv_poll_start(&b.in, UV_READABLE, on_input);
    uv_run(&b.loop, UV_RUN_DEFAULT);
    tn_buf_fini(&b.lines);
    return uv_loop_close(&b.loop) == 0 ? 0 : 5; /* busy: a handle was left behind */
}
