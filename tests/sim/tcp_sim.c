/* Two of our stacks on a virtual clock, joined by an emulated link, in random short runs.
 *
 * Each run takes everything from its seed: address family, MTU, buffers, budgets, loss, reordering, duplication,
 * corruption, blackout, options taken out of the SYNs, how owners write, read, close, and how many connections there
 * are. In some runs the server is behind the SYN gate: its address is not its stack's own, and SYNs are held for a
 * while. After every event the invariants of check_stack are tested, and every packet is looked at as it leaves
 * (watch_packet). At the end every byte must have arrived as sent, every connection must have ended in order on both
 * sides, and after TIME_WAIT nothing may be left.
 *
 * In violent runs owners also abort and release connections at any moment; there errors are to be expected, but what
 * arrives must still be a beginning of what was sent, and nothing may be left.
 *
 * The path may change while it is used, as it does between a relay and a direct one: rate, delay and queue are new,
 * and what is under way on a longer path is overtaken.
 *
 * tcp_sim            4,000 runs tcp_sim -n COUNT   that many runs         -s SEED   start (or only, with -n 1)
 * seed -q         short runs: few bytes  -v        say what each run is */
#include "link.h"
#include "stack/internal.h"
#include "util/cursor.h"
#include "wire/tcprun.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { MAX_CONNS = 4, PORT = 80, HOSTS = 2 };
#define LIMIT_US (3600ull * 1000000) /* of virtual time; a run takes seconds to minutes of it */

static uint64_t current_seed;

static void fail(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
static void fail(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "FAILED with seed %llu: ", (unsigned long long)current_seed);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    abort();
}
#define REQUIRE(cond, ...)                                                                                        \
    do {                                                                                                          \
        if (!(cond)) fail(__VA_ARGS__);                                                                           \
    } while (0)

struct world;

/* One end of a connection. */
struct end {
    struct world *w;
    struct host *host;
    struct tn_tcp *c;
    struct end *peer;
    unsigned conn;
    uint32_t to_send, sent, received;
    uint32_t read_max;      /* bytes per look; 0: all at once */
    uint64_t read_every_us; /* 0: as they come */
    uint64_t look_at_us;
    uint64_t violence_us; /* when the owner aborts or releases; UINT64_MAX: never */
    bool fin_after_eof; /* closes its side only after the peer has */
    bool use_reserve, fin_sent, opened, closed, saw_eof;
    int err;
};

struct host {
    struct world *w;
    struct tn_stack *st;
    uint64_t rng;
    struct link *out;
    struct end ends[MAX_CONNS];
    struct tn_tcp_listener *listener;
    struct tn_ip addr;
};

/* What a flow's packets in one direction have promised. */
struct promise {
    uint32_t iss, edge; /* highest right edge announced */
    uint8_t scale;
    bool known, scaled;
};

/* A SYN that the gate holds. */
struct held {
    struct tn_syn syn;
    uint64_t decide_us; /* 0: none */
};

struct world {
    uint64_t now, rng;
    struct held held[MAX_CONNS];
    bool brief, gate, violent, no_timestamps, no_sack, no_scaling;
    bool trains, batches; /* packets leave, and come in, many at a time */
    struct host h[HOSTS];
    struct link link[HOSTS]; /* link[i]: from host i */
    unsigned conns;
    unsigned reopened; /* bits of connections that an old SYN has opened again */
    uint64_t change_us; /* when the path changes; UINT64_MAX: not any more */
    struct promise promises[HOSTS][MAX_CONNS + 1];
    uint64_t packets;
};

static uint64_t pick(struct world *w, uint64_t n) { return link_random(&w->rng) % n; }
static bool chance(struct world *w, double p) { return link_chance(&w->rng) < p; }

static uint8_t pattern(unsigned conn, bool from_client, uint32_t at)
{
    uint32_t x = at * 2654435761u + conn * 97 + from_client * 41;
    return (uint8_t)(x >> 24 ^ x >> 11 ^ at);
}

/* ---- owners ---- */

static void opened(struct end *e)
{
    e->opened = true;
    /* The reset of an owner that left may be lost: only asking tells. */
    if (e->w->violent) tn_tcp_set_keepalive(e->c, 20000000, 5000000, 4, e->w->now);
}

static void describe(struct world *w);

static void write_some(struct end *e)
{
    struct world *w = e->w;
    while (e->sent < e->to_send) {
        uint8_t buf[3000];
        uint32_t n = 1 + (uint32_t)pick(w, sizeof buf);
        if (n > e->to_send - e->sent) n = e->to_send - e->sent;
        uint32_t done = 0;
        bool client = e->host == &w->h[0];
        if (e->use_reserve) {
            struct iovec iov[4];
            int views = tn_tcp_reserve(e->c, iov, 4, n);
            for (int i = 0; i < views; i++)
                for (size_t k = 0; k < iov[i].iov_len; k++)
                    ((uint8_t *)iov[i].iov_base)[k] = pattern(e->conn, client, e->sent + done++);
            if (chance(w, 0.1)) done = done / 2;
            tn_tcp_commit(e->c, done, w->now);
            e->sent += done;
            if (views == 0) return;
        } else {
            for (uint32_t k = 0; k < n; k++) buf[k] = pattern(e->conn, client, e->sent + k);
            long took = tn_tcp_write(e->c, buf, n, w->now);
            REQUIRE(took >= 0, "write failed: %ld", took);
            e->sent += (uint32_t)took;
            if ((uint32_t)took < n) return;
        }
    }
    if (!e->fin_sent && (!e->fin_after_eof || e->saw_eof)) {
        e->fin_sent = true;
        tn_tcp_shutdown(e->c, w->now);
    }
}

static void read_some(struct end *e)
{
    struct world *w = e->w;
    bool from_client = e->host != &w->h[0];
    uint32_t left = e->read_max ? e->read_max : UINT32_MAX;
    struct iovec iov[3];
    int n;
    while (left && (n = tn_tcp_peek(e->c, iov, 3)) > 0) {
        size_t total = 0;
        for (int i = 0; i < n && left; i++) {
            const uint8_t *p = iov[i].iov_base;
            for (size_t k = 0; k < iov[i].iov_len && left; k++, total++, left--)
                REQUIRE(p[k] == pattern(e->conn, from_client, e->received + (uint32_t)total),
                        "byte %u of conn %u changed", e->received + (uint32_t)total, e->conn);
        }
        e->received += (uint32_t)total;
        tn_tcp_consume(e->c, total, w->now);
    }
    REQUIRE(e->received <= e->peer->sent, "more bytes than were sent");
    if (tn_tcp_eof(e->c) && !e->saw_eof) {
        uint32_t all = w->violent ? e->peer->sent : e->peer->to_send;
        REQUIRE(e->received == all, "end of stream after %u of %u bytes", e->received, all);
        e->saw_eof = true;
        write_some(e);
    }
}

static void on_open(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    struct end *e = arg;
    REQUIRE(!e->opened, "opened twice");
    opened(e);
    write_some(e);
}

static void on_readable(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    struct end *e = arg;
    if (!e->read_every_us) read_some(e);
    else if (e->look_at_us == UINT64_MAX) e->look_at_us = now_us + e->read_every_us;
}

static void on_writable(void *arg, struct tn_tcp *c, uint64_t now_us) { write_some(arg); }

static void on_close(void *arg, int err, uint64_t now_us)
{
    struct end *e = arg;
    REQUIRE(!e->closed, "closed twice");
    e->closed = true;
    e->err = err;
    e->c = NULL;
    e->look_at_us = UINT64_MAX;
    if (err == 0)
        REQUIRE(e->received == e->peer->sent && e->fin_sent, "closed in order before both ends had finished");
    /* Our last ACK may get lost so often that the peer's TIME_WAIT is over before; then a reset answers. */
    /* Once in a hundred thousand runs every SYN or every answer to it is lost: the rest of such a run is judged
     * like a violent one. */
    if ((err == TN_E_TIMEDOUT && !e->opened) || (err == TN_E_RESET && !e->peer->opened)) e->w->violent = true;
    bool all_there = e->saw_eof && e->peer->closed && e->peer->err == 0 && e->peer->received == e->to_send;
    if (e->w->violent || all_there || err == 0) return;
    describe(e->w);
    fail("at %.3f s host %d conn %u ended with %s", (double)now_us / 1e6, (int)(e->host - e->w->h), e->conn,
         tn_err_name(err));
}

static const struct tn_tcp_events events = {on_open, on_readable, on_writable, on_close};

static int on_accept(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    struct host *h = arg;
    struct end *e = &h->ends[tn_tcp_remote(c).port - 1000];
    if (h->w->violent && (e->c || e->closed)) return TN_E_EXIST; /* an old SYN that came late */
    /* So here; and what was sent in between happens to be as much as the clock of sequence numbers moved on, so that the
     * other end's last ACK acknowledges the answer to it too: once in some hundred thousand runs. */
    if (e->closed || (e->c && e->c->f.state == TN_TCP_DONE)) return TN_E_EXIST;
    REQUIRE(!e->c, "accepted twice");
    e->c = c;
    tn_tcp_set_events(c, &events, e);
    opened(e);
    write_some(e);
    return 0;
}

/* ---- the SYN gate ---- */

static enum tn_syn_verdict on_foreign_syn(void *ctx, const struct tn_syn *syn, uint64_t now_us)
{
    struct host *h = ctx;
    struct world *w = h->w;
    unsigned conn = syn->src.port - 1000u;
    REQUIRE(conn < MAX_CONNS, "a SYN nobody sent");
    if (w->held[conn].decide_us) return TN_SYN_DROP;
    if (h->ends[conn].closed || h->ends[conn].c) return TN_SYN_RESET; /* an old SYN that came late */
    w->held[conn] = (struct held){*syn, now_us + 1 + pick(w, 3000000)};
    return TN_SYN_HELD;
}

static bool on_foreign_tcp(void *ctx, const struct tn_addrport *src, const struct tn_addrport *dst, bool rst,
                           uint64_t now_us)
{
    struct held *held = &((struct host *)ctx)->w->held[(src->port - 1000u) % MAX_CONNS];
    if (rst) held->decide_us = 0;
    return held->decide_us != 0;
}

static void decide_held(struct world *w)
{
    for (unsigned i = 0; i < MAX_CONNS; i++) {
        struct end *e = &w->h[1].ends[i];
        if (!w->held[i].decide_us || w->held[i].decide_us > w->now) continue;
        w->held[i].decide_us = 0;
        if (e->closed || (w->violent && chance(w, 0.3))) {
            tn_stack_reset_syn(w->h[1].st, &w->held[i].syn, w->now);
            continue;
        }
        int err = tn_tcp_accept_syn(w->h[1].st, &w->held[i].syn, &events, e, w->now, &e->c);
        REQUIRE(err == 0, "accept_syn: %s", tn_err_name(err));
    }
}

/* ---- what goes over the wire ---- */

static void watch_packet(struct world *w, unsigned host, const uint8_t *packet, size_t len)
{
    struct tn_ippkt ip;
    struct tn_tcp_seg s;
    REQUIRE(tn_ippkt_parse(packet, len, &ip) == 0 && ip.total_len == len, "malformed packet sent");
    REQUIRE(len <= w->h[host].st->mtu, "packet over the MTU");
    REQUIRE(tn_ippkt_cksum_ok(&ip), "wrong checksum sent");
    if (ip.proto != TN_IPPROTO_TCP) return;
    REQUIRE(tn_tcp_seg_parse(ip.l4, ip.l4_len, &s) == 0, "malformed segment sent");
    if (s.flags & TN_TCP_RST) return;
    unsigned conn = (host == 0 ? s.sport : s.dport) - 1000u;
    struct promise *own = &w->promises[host][conn], *peer = &w->promises[!host][conn];
    if (w->reopened & 1u << conn) return;
    if (s.flags & TN_TCP_SYN) {
        /* An old SYN that comes again after its connection is over opens one that will be reset; what the old end
         * answers says nothing of the new windows. */
        if (own->known && own->iss != s.seq) {
            w->reopened |= 1u << conn;
            return;
        }
        own->iss = s.seq;
        own->scaled = s.has_wscale;
        own->scale = s.has_wscale ? s.wscale : 0;
    } else if (peer->known) {
        REQUIRE(seq_le(s.seq + (uint32_t)s.len, peer->edge), "%zu bytes beyond the peer's window",
                (size_t)(s.seq + (uint32_t)s.len - peer->edge));
    }
    if (!(s.flags & TN_TCP_ACK)) return;
    unsigned scale = s.flags & TN_TCP_SYN ? 0 : own->scaled && peer->scaled ? own->scale : 0;
    uint32_t edge = s.ack + ((uint32_t)s.window << scale);
    if (own->known) /* rounding to the scale aside (RFC 7323 section 2.4), also in a SYN sent again */
        REQUIRE(seq_gt(edge + (1u << own->scale), own->edge) || seq_ge(edge, own->edge), "window shrank by %u",
                own->edge - edge);
    if (!own->known || seq_gt(edge, own->edge)) own->edge = edge;
    own->known = true;
}

/* A peer that has fewer options: they are taken out of its SYNs. */
static size_t strip(struct world *w, uint8_t *packet, size_t len)
{
    struct tn_ippkt ip;
    struct tn_tcp_seg s;
    REQUIRE(tn_ippkt_parse(packet, len, &ip) == 0, "malformed packet sent");
    if (ip.proto != TN_IPPROTO_TCP || tn_tcp_seg_parse(ip.l4, ip.l4_len, &s) != 0 || !(s.flags & TN_TCP_SYN))
        return len;
    if (w->no_timestamps) s.has_ts = false;
    if (w->no_sack) s.sack_ok = false;
    if (w->no_scaling) s.has_wscale = false;
    uint8_t *l4 = packet + ip.hdr_len;
    size_t n = tn_tcp_seg_put(l4, &s);
    uint32_t sum = tn_cksum_pseudo(&ip.src, &ip.dst, TN_IPPROTO_TCP, (uint32_t)n);
    tn_put_be16(l4 + 16, tn_cksum_fold(tn_cksum_add(sum, l4, n)));
    return tn_ip_header_put(packet, &ip.src, &ip.dst, TN_IPPROTO_TCP, n, 64, 1) + n;
}

static void output(void *ctx, uint8_t *packet, size_t len)
{
    struct host *h = ctx;
    struct world *w = h->w;
    len = strip(w, packet, len);
    watch_packet(w, (unsigned)(h - w->h), packet, len);
    link_send(h->out, packet, len, w->now);
    w->packets++;
}

/* The layer below may get consecutive packets as one: they must be what would have come one by one. */
static void output_train(void *ctx, struct tn_train *t)
{
    REQUIRE(t->count && t->last_len && t->last_len <= t->len && t->stride >= t->len + TN_TRAIN_HEAD + TN_TRAIN_TAIL &&
            t->count * t->stride <= TN_TRAIN_BYTES, "a train out of its rails");
    for (size_t i = 0; i < t->count; i++) {
        size_t len = i + 1 < t->count ? t->len : t->last_len;
        struct tn_ippkt ip;
        uint8_t *packet = malloc(len);
        memcpy(packet, t->first + i * t->stride, len);
        REQUIRE(tn_ippkt_parse(packet, len, &ip) == 0 && ip.total_len == len && tn_ippkt_cksum_ok(&ip),
                "a bad packet in a train");
        memset(t->first + i * t->stride - TN_TRAIN_HEAD, 0xdb, t->stride); /* it is the receiver's */
        output(ctx, packet, len);
        free(packet);
    }
}

/* ---- invariants ---- */

static void check_records(const struct tn_tcp *c)
{
    const struct tn_recs *t = &c->flight->recs;
    uint32_t at = c->snd_una, sacked = 0, lost = 0, resent = 0, unsent_lost = 0, linked = 0;
    for (uint32_t i = 0; i < t->count; i++) {
        const struct tn_rec *r = tn_rec_at(t, t->first + i);
        REQUIRE(r->seq == at && r->len, "a gap in the scoreboard");
        at += r->len;
        if (r->flags & TN_REC_SACKED) sacked += r->len;
        if (r->flags & TN_REC_LOST) lost += r->len;
        if (r->flags & TN_REC_RESENT) resent += r->len;
        unsent_lost += (r->flags & (TN_REC_LOST | TN_REC_RESENT)) == TN_REC_LOST;
        linked += !(r->flags & TN_REC_SACKED) && (!(r->flags & TN_REC_LOST) || r->flags & TN_REC_RESENT);
    }
    REQUIRE(at == c->snd_nxt, "the scoreboard does not reach snd_nxt");
    REQUIRE(sacked == t->sacked && lost == t->lost && resent == t->resent && unsent_lost == t->unsent_lost,
            "the scoreboard's counts are wrong");
    uint64_t before = 0;
    for (uint32_t id = t->oldest; id != TN_REC_NONE; id = tn_rec_at(t, id)->newer, linked--)
        before = tn_rec_at(t, id)->sent_us;
    (void)before;
    REQUIRE(linked == 0, "the list by time is wrong");
}

static void check_flow(const struct tn_tcp *c, bool deep)
{
    REQUIRE(seq_le(c->snd_una, c->snd_nxt) && seq_le(c->rcv_nxt, c->rcv_adv), "sequence numbers out of order");
    REQUIRE(c->timer.at_us <= c->rexmit_at && c->timer.at_us <= c->delack_at && c->timer.at_us <= c->keep_at &&
                c->timer.at_us <= tn_tcp_pace_at(c),
            "the timer is later than a deadline");
    bool open = c->f.state >= TN_TCP_ESTABLISHED && c->f.state < TN_TCP_DONE;
    if (open && c->snd_una != c->snd_nxt) {
        REQUIRE(c->flight, "data in flight without a record");
        REQUIRE(c->f.rexmit_kind != TN_RX_NONE && c->rexmit_at != TN_NEVER, "data in flight without a timer");
        if (deep) check_records(c);
    } else if (open) {
        REQUIRE(!c->flight, "records without data in flight");
        bool waits = c->sendq.len || (c->fin_queued && !c->fin_sent);
        if (waits) REQUIRE(c->rexmit_at != TN_NEVER, "unsent data without a timer");
    }
    if (c->sendq.len == 0 && !c->reserved) REQUIRE(c->sendq.held == 0, "an empty send queue holds memory");
    if (c->recvq.len == 0 && !c->reass) REQUIRE(c->recvq.held == 0, "an empty receive queue holds memory");
    if (open && c->unacked_bytes) REQUIRE(c->delack_at != TN_NEVER, "received bytes would stay unacknowledged");
}

static void check_stack(const struct tn_stack *st, bool deep)
{
    for (size_t i = 0; i < st->timers.count; i++)
        check_flow(TN_CONTAINER(st->timers.slot[i].timer, struct tn_tcp, timer), deep);
    REQUIRE(st->ntcp == st->timers.count, "flow count");
    REQUIRE(st->depth == 0, "depth");
}

/* ---- a run ---- */

static size_t random_buffer(struct world *w)
{
    switch (pick(w, 5)) {
    case 0: return 4096;
    case 1: return 4096 + pick(w, 30000);
    case 2: return 65536;
    default: return 0;
    }
}

static void make_hosts(struct world *w)
{
    bool v6 = chance(w, 0.4);
    uint64_t how = current_seed;
    w->trains = link_random(&how) & 1;
    w->batches = link_random(&how) & 1;
    static const uint16_t mtus[] = {1280, 1280, 1280, 1500, 576, 9000};
    for (unsigned i = 0; i < HOSTS; i++) {
        struct host *h = &w->h[i];
        h->w = w;
        h->rng = link_random(&w->rng);
        h->addr = v6 ? (struct tn_ip){6, {0xfd, 1, [15] = (uint8_t)(i + 1)}} : tn_ip4(100, 64, 0, (uint8_t)(i + 1));
        struct tn_stack_config config = {
            .mtu = v6 ? 1280 : mtus[pick(w, 6)], .budget = chance(w, 0.2) ? 64 * 1024 + pick(w, 256 * 1024) : 0,
            .tcp_buffer_max = random_buffer(w),
            .congestion = chance(w, 0.7) ? TN_CONGESTION_BBR : TN_CONGESTION_CUBIC,
            .rng = tn_rng_seeded(&h->rng), .ctx = h,
            .cb = {.output = output, .output_train = output_train, .foreign_syn = on_foreign_syn,
                   .foreign_tcp = on_foreign_tcp},
        };
        h->st = tn_stack_new(&config);
        if (!w->trains) h->st->cb.output_train = NULL;
        h->out = &w->link[i];
        struct tn_ip own = h->addr;
        if (w->gate && i == 1) own.b[1] ^= 0x55;
        REQUIRE(h->st && tn_stack_set_addrs(h->st, &own, 1, w->now) == 0, "no stack");
    }
}

struct path {
    uint64_t delay_us, rate_bps, queue_bytes;
};

static struct path random_path(struct world *w)
{
    static const uint64_t rates[] = {0, 0, 1000000, 10000000, 100000000};
    uint64_t rate = rates[pick(w, 5)];
    return (struct path){pick(w, 4) == 0 ? pick(w, 1000) : pick(w, 100000), rate,
                         rate ? 20000 + pick(w, 200000) : 0};
}

static void change_path(struct world *w)
{
    if (w->now < w->change_us) return;
    struct path p = random_path(w);
    for (unsigned i = 0; i < HOSTS; i++) {
        w->link[i].c.delay_us = p.delay_us;
        w->link[i].c.rate_bps = p.rate_bps;
        w->link[i].c.queue_bytes = p.queue_bytes;
    }
    w->change_us = chance(w, 0.6) ? w->now + pick(w, 5000000) : UINT64_MAX;
}

static void make_links(struct world *w)
{
    static const double rarely[] = {0, 0, 0.001, 0.01, 0.05, 0.2};
    /* At a fifth lost in each direction one handshake in a thousand fails for good: only where errors are
     * expected. */
    const double worst = w->violent ? 1 : 0.5;
    struct path p = random_path(w);
    w->change_us = chance(w, 0.25) ? w->now + pick(w, 2000000) : UINT64_MAX;
    for (unsigned i = 0; i < HOSTS; i++) {
        struct link_config c = {
            .delay_us = p.delay_us, .rate_bps = p.rate_bps, .queue_bytes = p.queue_bytes,
            .loss = rarely[pick(w, 6)] * worst, .reorder = rarely[pick(w, 6)], .duplicate = rarely[pick(w, 6)],
            .corrupt = rarely[pick(w, 5)] * !w->batches /* a tunnel drops those */,
            .reorder_us = 1 + pick(w, 50000), .seed = link_random(&w->rng),
        };
        if (chance(w, 0.15)) {
            c.dark_from_us = w->now + pick(w, 3000000);
            c.dark_to_us = c.dark_from_us + pick(w, 8000000);
        }
        link_init(&w->link[i], &c);
    }
}

static uint32_t random_amount(struct world *w)
{
    switch (pick(w, w->brief ? 3 : 5)) {
    case 0: return 0;
    case 1: return (uint32_t)pick(w, 100);
    case 2: return (uint32_t)pick(w, 5000);
    case 3: return (uint32_t)pick(w, 50000);
    default: return (uint32_t)pick(w, 300000);
    }
}

static void make_connections(struct world *w)
{
    struct tn_addrport server = {w->h[1].addr, PORT};
    struct tn_addrport any = {.port = PORT};
    REQUIRE(tn_tcp_listen(w->h[1].st, &any, MAX_CONNS, on_accept, &w->h[1], &w->h[1].listener) == 0, "listen");
    w->conns = 1 + (unsigned)pick(w, MAX_CONNS);
    for (unsigned i = 0; i < w->conns; i++) {
        for (unsigned side = 0; side < HOSTS; side++) {
            struct end *e = &w->h[side].ends[i];
            *e = (struct end){.w = w, .host = &w->h[side], .peer = &w->h[!side].ends[i], .conn = i};
            e->to_send = random_amount(w);
            e->look_at_us = UINT64_MAX;
            e->violence_us = w->violent && chance(w, 0.5) ? w->now + pick(w, 2000000) : UINT64_MAX;
            e->use_reserve = chance(w, 0.5);
            if (chance(w, 0.3)) {
                e->read_every_us = 1 + pick(w, 20000);
                e->read_max = 1 + (uint32_t)pick(w, 20000);
            }
        }
        if (chance(w, 0.4)) w->h[pick(w, HOSTS)].ends[i].fin_after_eof = true;
        struct tn_addrport from = {w->h[0].addr, (uint16_t)(1000 + i)};
        struct end *e = &w->h[0].ends[i];
        REQUIRE(tn_tcp_connect(w->h[0].st, &from, &server, &events, e, w->now, &e->c) == 0, "connect");
    }
}

static uint64_t next_event(struct world *w)
{
    uint64_t at = UINT64_MAX;
    for (unsigned i = 0; i < HOSTS; i++) {
        uint64_t t = tn_stack_next_deadline(w->h[i].st);
        if (t < at) at = t;
        t = link_next(&w->link[i]);
        if (t < at) at = t;
        for (unsigned k = 0; k < w->conns; k++) {
            const struct end *e = &w->h[i].ends[k];
            if (e->look_at_us < at) at = e->look_at_us;
            if (e->violence_us < at) at = e->violence_us;
        }
    }
    if (w->change_us < at && at != UINT64_MAX) at = w->change_us; /* by itself it is no reason to go on */
    for (unsigned k = 0; k < MAX_CONNS; k++)
        if (w->held[k].decide_us && w->held[k].decide_us < at) at = w->held[k].decide_us;
    return at;
}

static void look(struct end *e)
{
    if (e->look_at_us > e->w->now || !e->c) return;
    e->look_at_us = e->w->now + e->read_every_us;
    read_some(e);
    if (e->c && (e->saw_eof || tn_tcp_readable(e->c) == 0)) e->look_at_us = UINT64_MAX;
}

/* The owner has had enough. */
static void lash_out(struct end *e)
{
    if (e->violence_us > e->w->now) return;
    e->violence_us = UINT64_MAX;
    if (!e->closed && e->c) {
        if (chance(e->w, 0.5)) tn_tcp_abort(e->c, e->w->now);
        else tn_tcp_release(e->c, e->w->now);
    }
    e->c = NULL;
    e->closed = true;
    e->look_at_us = UINT64_MAX;
}

/* All that has arrived by now, in runs where that can be. */
static void take_batch(struct world *w, struct link *link, struct tn_stack *st)
{
    enum { BATCH = 40 };
    struct link_packet *p[BATCH];
    struct iovec v[BATCH];
    size_t n = 0;
    while (n < BATCH && (p[n] = link_take(link, w->now))) {
        v[n] = (struct iovec){p[n]->bytes, p[n]->len};
        n++;
    }
    tn_stack_batch_begin(st);
    for (size_t at = 0, run; at < n; at += run) {
        run = tn_tcp_run(v + at, n - at);
        tn_stack_input_run(st, v + at, run, w->now);
    }
    tn_stack_batch_end(st, w->now);
    while (n > 0) free(p[--n]);
}

static void take_one(struct world *w, struct link *link, struct tn_stack *st)
{
    struct link_packet *p = link_take(link, w->now);
    if (p) tn_stack_input(st, p->bytes, p->len, w->now);
    free(p);
}

static void step(struct world *w)
{
    decide_held(w);
    change_path(w);
    for (unsigned i = 0; i < HOSTS; i++) {
        if (w->batches) take_batch(w, &w->link[i], w->h[!i].st);
        else take_one(w, &w->link[i], w->h[!i].st);
        for (unsigned k = 0; k < w->conns; k++) {
            look(&w->h[i].ends[k]);
            lash_out(&w->h[i].ends[k]);
        }
        if (tn_stack_next_deadline(w->h[i].st) <= w->now) tn_stack_timeout(w->h[i].st, w->now);
        check_stack(w->h[i].st, w->packets % 16 == 0);
    }
}

/* In a violent run a server's end may never come to be. */
static bool all_closed(const struct world *w)
{
    for (unsigned i = 0; i < HOSTS; i++)
        for (unsigned k = 0; k < w->conns; k++) {
            const struct end *e = &w->h[i].ends[k];
            if (!e->closed && (!w->violent || i == 0 || e->c)) return false;
        }
    return true;
}

static void describe(struct world *w)
{
    for (unsigned i = 0; i < HOSTS; i++)
        for (unsigned k = 0; k < w->conns; k++) {
            struct end *e = &w->h[i].ends[k];
            struct tn_tcp_info info = {.state = "-"};
            if (e->c) tn_tcp_info(e->c, &info);
            fprintf(stderr,
                    "  host %u conn %u: sent %u/%u received %u eof %d closed %d err %d state %s cwnd %u rto %llu wnd "
                    "%u/%u\n",
                    i, k, e->sent, e->to_send, e->received, e->saw_eof, e->closed, e->err, info.state, info.cwnd,
                    (unsigned long long)info.rto_us, info.snd_wnd, info.rcv_wnd);
        }
}

/* A client whose every ACK of the handshake was lost, and that has nothing to send: its server gave up, and nothing will ever
 * tell it (RFC 9293 section 3.8.4 leaves it to keepalives). Its owner gives up too: once in some hundred million runs. */
static bool give_up_unheard(struct world *w)
{
    bool any = false;
    for (unsigned k = 0; k < w->conns; k++) {
        struct end *e = &w->h[0].ends[k];
        if (!e->c || !e->opened || e->peer->opened || e->peer->c || e->c->snd_una != e->c->snd_nxt) continue;
        w->violent = any = true;
        e->violence_us = w->now;
    }
    return any;
}

static void run_until_closed(struct world *w)
{
    uint64_t start = w->now, steps = 0;
    while (!all_closed(w)) {
        uint64_t at = next_event(w);
        if (at == UINT64_MAX && give_up_unheard(w)) at = next_event(w);
        if (at == UINT64_MAX || w->now - start > LIMIT_US || ++steps > 3000000) {
            describe(w);
            fail("stuck at %llu us (%llu steps)", (unsigned long long)(w->now - start), (unsigned long long)steps);
        }
        if (at > w->now) w->now = at;
        step(w);
    }
}

static void check_nothing_left(struct world *w)
{
    for (;;) {
        uint64_t at = next_event(w);
        if (at == UINT64_MAX) break;
        if (at > w->now) w->now = at;
        step(w);
    }
    for (unsigned i = 0; i < HOSTS; i++) {
        struct tn_stack_stats s;
        tn_stack_stats(w->h[i].st, &s);
        REQUIRE(s.flows == 0 && s.half_open == 0 && s.time_wait == 0, "flows left: %zu, half-open %zu, TIME_WAIT %zu",
                s.flows, s.half_open, s.time_wait);
        REQUIRE(s.chunk_bytes == 0, "%zu bytes of chunks left", s.chunk_bytes);
    }
}

static uint64_t run(uint64_t seed, bool brief, bool verbose)
{
    struct world w = {.now = 1000000, .rng = seed, .brief = brief};
    current_seed = seed;
    w.gate = chance(&w, 0.3);
    w.violent = chance(&w, 0.3);
    w.no_timestamps = chance(&w, 0.15);
    w.no_sack = chance(&w, 0.15);
    w.no_scaling = chance(&w, 0.15);
    make_hosts(&w);
    make_links(&w);
    make_connections(&w);
    run_until_closed(&w);
    if (verbose) {
        printf("seed %llu: %u connections, %llu packets, %.3f s\n", (unsigned long long)seed, w.conns,
               (unsigned long long)w.packets, (double)(w.now - 1000000) / 1e6);
        describe(&w);
    }
    check_nothing_left(&w);
    for (unsigned i = 0; i < HOSTS; i++) {
        tn_stack_free(w.h[i].st);
        link_fini(&w.link[i]);
    }
    return w.packets;
}

int main(int argc, char **argv)
{
    uint64_t count = 4000, seed = 1, packets = 0;
    bool verbose = false, brief = false;
    for (int opt; (opt = getopt(argc, argv, "n:s:qv")) != -1;) {
        if (opt == 'n') count = strtoull(optarg, NULL, 0);
        else if (opt == 's') seed = strtoull(optarg, NULL, 0);
        else if (opt == 'q') brief = true;
        else if (opt == 'v') verbose = true;
        else return 2;
    }
    for (uint64_t i = 0; i < count; i++) packets += run(seed + i, brief, verbose);
    printf("%llu runs, %llu packets\n", (unsigned long long)count, (unsigned long long)packets);
    return 0;
}
