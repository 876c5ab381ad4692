/* Linux UDP sockets of a node. What they bring: udp_in.c, or udp_ahead.c while threads read them.
 *
 * Sending: small datagrams wait in the outbox for the end of the loop's turn and leave in one sendmmsg; neighbours of
 * equal size for one address become one message with UDP_SEGMENT. Long runs go straight from their owner's buffer.
 * What becomes of them there is in udp_send.c. With workers (udp_post.c) trains are sealed and sent by one of those, and what
 * is for the same address meanwhile goes behind. */
#include "path/udp.h"
#include "path/udp_ahead.h"
#include "path/udp_in.h"
#include "path/udp_post.h"
#include "path/udp_send.h"
#include "util/err.h"
#include "util/heap.h"

#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum {
    OUT_BYTES = 64 * 1024,
    LARGE = 4096, /* what touches more than the first page of a buffer */
    SOCKET_BUFFER = 4 * 1024 * 1024, /* asked for, capped by net.core.*mem_max: room for bursts while the loop works */
};
#define QUIET_US UINT64_C(5000000)

struct outbox {
    struct tn_udp_run run[TN_UDP_RUNS_MAX];
    unsigned nruns;
    uint32_t used;
    uint8_t bytes[OUT_BYTES];
};

struct tn_udp {
    struct tn_udp_sender sender;
    struct tn_udp_post *post; /* NULL: no workers */
    uint16_t port4, port6;
    bool gro;
    void (*failed)(void *ctx, const struct tn_addrport *to, int err);
    void *failed_ctx;
    struct tn_udp_in *in;       /* NULL until something comes */
    struct tn_udp_ahead *ahead; /* NULL until it is wanted */
    size_t longest;             /* run since somebody asked */
    struct outbox *out;
    bool busy;          /* pages were touched since the last look */
    uint64_t look_us;   /* TN_NEVER: nothing to give back */
};

/* ---- life ---- */

/* As much as is allowed: with CAP_NET_ADMIN all of it. */
static void ask_buffer(int fd, int force, int option)
{
    int size = SOCKET_BUFFER;
    if (setsockopt(fd, SOL_SOCKET, force, &size, sizeof size) != 0) setsockopt(fd, SOL_SOCKET, option, &size, sizeof size);
}

/* Binds one family; the port bound to comes back in *port. Returns the descriptor or a negative code. */
static int open_socket(int family, uint16_t *port)
{
    int one = 1;
    struct sockaddr_storage ss;
    struct tn_addrport any = {.ip = {.family = family == AF_INET ? 4 : 6}, .port = *port};
    int fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    ask_buffer(fd, SO_RCVBUFFORCE, SO_RCVBUF);
    ask_buffer(fd, SO_SNDBUFFORCE, SO_SNDBUF);
    socklen_t len = tn_addrport_to_sockaddr(&any, &ss);
    bool ok = family == AF_INET || setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one) == 0;
    ok = ok && bind(fd, (struct sockaddr *)&ss, len) == 0;
    len = sizeof ss;
    ok = ok && getsockname(fd, (struct sockaddr *)&ss, &len) == 0;
    if (!ok) {
        int err = -errno;
        close(fd);
        return err;
    }
    tn_addrport_from_sockaddr((struct sockaddr *)&ss, &any);
    *port = any.port;
    return fd;
}

static bool has_option(int fd, int option, int value)
{
    return fd < 0 || setsockopt(fd, IPPROTO_UDP, option, &value, sizeof value) == 0;
}

int tn_udp_open(uint16_t port, struct tn_udp **out)
{
    struct tn_udp *u = calloc(1, sizeof *u);
    if (!u) return TN_E_NOMEM;
    tn_udp_sender_init(&u->sender);
    u->look_us = TN_NEVER;
    u->port4 = port;
    u->sender.fd4 = open_socket(AF_INET, &u->port4);
    u->port6 = u->sender.fd4 >= 0 ? u->port4 : port;
    u->sender.fd6 = open_socket(AF_INET6, &u->port6);
    if (u->sender.fd6 == TN_E_ADDRINUSE && port == 0) { /* someone has that port on IPv6: another one does as well */
        u->port6 = 0;
        u->sender.fd6 = open_socket(AF_INET6, &u->port6);
    }
    int err = u->sender.fd4 < 0 && u->sender.fd6 < 0 ? u->sender.fd4 : port && u->sender.fd4 == TN_E_ADDRINUSE ? u->sender.fd4 : 0;
    if (err) {
        tn_udp_close(u);
        return err;
    }
    if (u->sender.fd4 < 0) u->port4 = 0;
    if (u->sender.fd6 < 0) u->port6 = 0;
    u->sender.gso = has_option(u->sender.fd4, UDP_SEGMENT, 0) && has_option(u->sender.fd6, UDP_SEGMENT, 0);
    u->gro = has_option(u->sender.fd4, UDP_GRO, 1) && has_option(u->sender.fd6, UDP_GRO, 1);
    *out = u;
    return 0;
}

void tn_udp_close(struct tn_udp *u)
{
    if (!u) return;
    tn_udp_flush(u); /* a goodbye */
    tn_udp_ahead_free(u->ahead);
    tn_udp_post_free(u->post);
    if (u->sender.fd4 >= 0) close(u->sender.fd4);
    if (u->sender.fd6 >= 0) close(u->sender.fd6);
    tn_udp_in_free(u->in);
    free(u->out);
    tn_udp_sender_fini(&u->sender);
    free(u);
}

void tn_udp_on_failed(struct tn_udp *u, void (*failed)(void *ctx, const struct tn_addrport *to, int err), void *ctx)
{
    u->failed = failed;
    u->failed_ctx = ctx;
}

int tn_udp_set_workers(struct tn_udp *u, struct tn_workpool *pool, void (*wake)(void *ctx), void *ctx)
{
    return tn_udp_post_new(&u->sender, pool, wake, ctx, &u->post);
}

uint8_t *tn_udp_train_buffer(struct tn_udp *u) { return u->post ? tn_udp_post_buffer(u->post) : NULL; }

int tn_udp_fd4(const struct tn_udp *u) { return u->sender.fd4; }
int tn_udp_fd6(const struct tn_udp *u) { return u->sender.fd6; }
uint16_t tn_udp_port4(const struct tn_udp *u) { return u->port4; }
uint16_t tn_udp_port6(const struct tn_udp *u) { return u->port6; }

/* ---- in ---- */

static void touched(struct tn_udp *u, uint64_t now_us)
{
    u->busy = true;
    if (u->look_us == TN_NEVER) u->look_us = now_us + QUIET_US;
}

/* There is no memory to read them into: they are lost, or the socket would stay readable and the loop would not sleep. */
static void discard(int fd, int budget)
{
    char byte;
    while (budget-- > 0 && recv(fd, &byte, 1, 0) >= 0) {}
}

int tn_udp_receive(struct tn_udp *u, int fd, int budget, tn_udp_each *each, void *ctx, uint64_t now_us)
{
    int total = 0;
    size_t longest = 0;
    if (u->ahead && !tn_udp_ahead_over(u->ahead)) {
        total = tn_udp_ahead_take(u->ahead, budget, each, ctx, &longest);
    } else {
        if (!u->in) u->in = tn_udp_in_new(u->gro);
        if (u->in) total = tn_udp_in_receive(u->in, fd, budget, each, ctx, &longest);
        else discard(fd, budget);
    }
    if (longest > LARGE) touched(u, now_us);
    if (longest > u->longest) u->longest = longest;
    return total;
}

size_t tn_udp_longest(struct tn_udp *u)
{
    size_t longest = u->longest;
    u->longest = 0;
    return longest;
}

int tn_udp_ahead(struct tn_udp *u, const struct tn_udp_ahead_config *config)
{
    int err = u->gro ? 0 : TN_E_UNSUPPORTED;
    if (!err && !u->ahead) err = tn_udp_ahead_new(config, u->sender.fd4, u->sender.fd6, &u->ahead);
    return err ? err : tn_udp_ahead_begin(u->ahead);
}

void tn_udp_ahead_stop(struct tn_udp *u)
{
    if (u->ahead) tn_udp_ahead_end(u->ahead);
}

bool tn_udp_is_ahead(const struct tn_udp *u) { return u->ahead && !tn_udp_ahead_over(u->ahead); }
int tn_udp_ahead_slot(const struct tn_udp *u) { return u->ahead ? tn_udp_ahead_at(u->ahead) : -1; }

void tn_udp_timeout(struct tn_udp *u, uint64_t now_us)
{
    if (now_us < u->look_us) return;
    u->busy |= tn_udp_is_ahead(u);
    u->look_us = u->busy ? now_us + QUIET_US : TN_NEVER;
    if (!u->busy) {
        if (u->in) tn_udp_in_trim(u->in);
        tn_udp_ahead_trim(u->ahead);
        free(u->out);
        u->out = NULL;
        tn_udp_post_trim(u->post);
    }
    u->busy = false;
}

uint64_t tn_udp_next_deadline(const struct tn_udp *u) { return u->look_us; }

/* ---- out ---- */

/* What goes to an address that a worker still sends to follows there; the rest leaves at once. */
static void send_outbox(struct tn_udp *u)
{
    struct outbox *o = u->out;
    unsigned n = o ? tn_udp_post_runs(u->post, o->bytes, o->run, o->nruns) : 0;
    if (n) tn_udp_send_runs(&u->sender, o->bytes, o->run, n);
    if (o) o->nruns = o->used = 0;
}

/* Last in a call: who is told may send. */
static void tell_failures(struct tn_udp *u)
{
    struct tn_addrport to[TN_UDP_FAILURES_MAX];
    int err[TN_UDP_FAILURES_MAX];
    unsigned n = tn_udp_failures_take(&u->sender.failures, to, err);
    for (unsigned i = 0; i < n && u->failed; i++) u->failed(u->failed_ctx, &to[i], err[i]);
}

void tn_udp_send_run(struct tn_udp *u, const struct tn_addrport *to, const uint8_t *run, size_t len, size_t segment)
{
    send_outbox(u);
    if (tn_udp_post_busy(u->post, to)) tn_udp_post_copy(u->post, to, run, len, segment);
    else tn_udp_send_long(&u->sender, to, run, len, segment);
    tell_failures(u);
}

bool tn_udp_seal_run(struct tn_udp *u, const struct tn_addrport *to, const struct tn_aead_run *run, uint64_t now_us)
{
    if (!u->post || !tn_udp_post_worth(u->post, to, run)) return false;
    send_outbox(u);
    touched(u, now_us);
    return tn_udp_post_seal(u->post, to, run);
}

/* The last run of the outbox if this datagram continues it. */
static struct tn_udp_run *continued(const struct tn_udp *u, struct outbox *o, const struct tn_addrport *to, size_t len)
{
    struct tn_udp_run *r = o->nruns ? &o->run[o->nruns - 1] : NULL;
    bool ok = r && u->sender.gso && !r->closed && r->count < TN_UDP_SEGMENTS_MAX && len <= r->segment &&
              r->len + len <= TN_UDP_RUN_MAX && tn_addrport_eq(&r->to, to);
    return ok ? r : NULL;
}

static struct outbox *outbox_of(struct tn_udp *u)
{
    if (!u->out && (u->out = malloc(sizeof *u->out))) u->out->nruns = u->out->used = 0;
    return u->out;
}

void tn_udp_send(struct tn_udp *u, const struct tn_addrport *to, const uint8_t *datagram, size_t len)
{
    int fd = to->ip.family == 4 ? u->sender.fd4 : u->sender.fd6;
    struct outbox *o = fd < 0 || to->ip.family == 0 || len == 0 || len > TN_UDP_RUN_MAX ? NULL : outbox_of(u);
    if (!o) return;
    if (o->used + len > OUT_BYTES) send_outbox(u);
    struct tn_udp_run *r = continued(u, o, to, len);
    if (!r) {
        if (o->nruns == TN_UDP_RUNS_MAX) send_outbox(u);
        r = &o->run[o->nruns++];
        *r = (struct tn_udp_run){.to = *to, .at = o->used, .segment = (uint16_t)len};
    }
    memcpy(o->bytes + o->used, datagram, len);
    o->used += (uint32_t)len;
    r->len += (uint32_t)len;
    r->count++;
    r->closed = len < r->segment;
}

void tn_udp_flush(struct tn_udp *u)
{
    send_outbox(u);
    tell_failures(u);
}
