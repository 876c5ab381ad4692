/* TCP segments into every state: the input is a row of steps of eight bytes, each a segment whose numbers are chosen
 * relative to what the flow expects, a call of the owner, or time. After every step the flow must be consistent, and
 * at the end, when the peer is silent for good, nothing may be left. */
#include "stack/internal.h"
#include "util/cursor.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct box {
    struct tn_stack *st;
    struct tn_tcp *c;
    uint64_t rng, now;
    unsigned out;
    uint32_t peer_seq, last_ack, last_tsval, our_next, rcv_expected;
    uint32_t tsval;
    struct tn_addrport local, remote;
    bool in_call;
};

static void check(bool ok)
{
    if (!ok) abort();
}

static void output(void *ctx, uint8_t *packet, size_t len)
{
    struct box *b = ctx;
    struct tn_ippkt ip;
    struct tn_tcp_seg s;
    check(len <= TN_STACK_MTU && tn_ippkt_parse(packet, len, &ip) == 0 && tn_ippkt_cksum_ok(&ip));
    check(tn_tcp_seg_parse(ip.l4, ip.l4_len, &s) == 0);
    b->our_next = s.seq + (uint32_t)s.len + !!(s.flags & TN_TCP_SYN) + !!(s.flags & TN_TCP_FIN);
    if (s.flags & TN_TCP_ACK) b->rcv_expected = s.ack;
    if (s.has_ts) b->last_tsval = s.tsval;
    b->out++;
}

static void on_event(void *arg, struct tn_tcp *c, uint64_t now_us) { check(((struct box *)arg)->c == c); }
static void on_close(void *arg, int err, uint64_t now_us) { ((struct box *)arg)->c = NULL; }
static const struct tn_tcp_events events = {on_event, on_event, on_event, on_close};

static int on_accept(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    struct box *b = arg;
    if (b->c) return TN_E_BUSY;
    b->c = c;
    tn_tcp_set_events(c, &events, b);
    return 0;
}

static uint32_t near_value(uint32_t base, uint8_t how, uint8_t amount)
{
    switch (how & 7) {
    case 0: case 1: return base;
    case 2: return base + amount;
    case 3: return base - amount;
    case 4: return base + amount * 300u;
    case 5: return base - amount * 300u;
    case 6: return base + 0x40000000u + amount;
    default: return base + 0x80000000u + amount;
    }
}

/* step: kind, flags, how/amount of seq, how/amount of ack, window, length */
static void segment(struct box *b, const uint8_t *p)
{
    static uint8_t bytes[2000];
    struct tn_tcp_seg s = {
        .sport = b->remote.port,
        .dport = b->local.port,
        .flags = p[1],
        .seq = near_value(b->rcv_expected, p[2], p[3]),
        .ack = near_value(b->our_next, p[4], p[5]),
        .window = p[6] & 0x80 ? (uint16_t)(p[6] << 8) : p[6],
        .len = p[7] < 200 ? p[7] : (p[7] - 199u) * 22u,
        .has_ts = !(p[0] & 0x10),
        .tsecr = b->last_tsval,
        .mss = p[0] & 0x20 ? 60 : 1240,
        .sack_ok = true,
        .has_wscale = !(p[0] & 0x40),
        .wscale = p[3] % 16,
    };
    b->tsval += p[0] & 0x80 ? -5u : 1u;
    s.tsval = b->tsval;
    if (!(p[1] & TN_TCP_SYN) && p[2] & 0x40) {
        s.nsack = 2;
        s.sack[0] = (struct tn_tcp_sack){b->our_next - p[5] * 40u, b->our_next - p[5] * 20u};
        s.sack[1] = (struct tn_tcp_sack){b->our_next - p[3] * 40u, b->our_next};
    }
    uint8_t packet[20 + 60 + 2000], *l4 = packet + 20;
    size_t hdr = tn_tcp_seg_put(l4, &s), len = hdr + s.len;
    memcpy(l4 + hdr, bytes, s.len);
    uint32_t sum = tn_cksum_pseudo(&b->remote.ip, &b->local.ip, TN_IPPROTO_TCP, (uint32_t)len);
    tn_put_be16(l4 + 16, tn_cksum_fold(tn_cksum_add(sum, l4, len)));
    tn_ip_header_put(packet, &b->remote.ip, &b->local.ip, TN_IPPROTO_TCP, len, 64, 1);
    tn_stack_input(b->st, packet, 20 + len, b->now);
}

static void owner(struct box *b, const uint8_t *p)
{
    static const uint8_t bytes[70000];
    size_t amount = p[3] * 257u;
    struct iovec iov[4];
    if (!b->c) {
        if (p[2] % 2) tn_tcp_connect(b->st, &b->local, &b->remote, &events, b, b->now, &b->c);
        return;
    }
    switch (p[2] % 8) {
    case 0: tn_tcp_write(b->c, bytes, amount, b->now); break;
    case 1: tn_tcp_consume(b->c, amount < tn_tcp_readable(b->c) ? amount : tn_tcp_readable(b->c), b->now); break;
    case 2: tn_tcp_shutdown(b->c, b->now); break;
    case 3:
        if (p[3] > 200) tn_tcp_abort(b->c, b->now), b->c = NULL;
        break;
    case 4:
        if (p[3] > 200) tn_tcp_release(b->c, b->now), b->c = NULL;
        break;
    case 5: tn_tcp_set_keepalive(b->c, p[3] * 100000u, 50000, 3, b->now); break;
    case 6: {
        int n = tn_tcp_reserve(b->c, iov, 4, amount);
        size_t total = 0;
        for (int i = 0; i < n; i++) {
            memset(iov[i].iov_base, 1, iov[i].iov_len);
            total += iov[i].iov_len;
        }
        tn_tcp_commit(b->c, p[4] & 1 ? total : total / 2, b->now);
        break;
    }
    default: tn_tcp_set_nodelay(b->c, p[3] & 1);
    }
}

static void pass(struct box *b, uint64_t us)
{
    uint64_t until = b->now + us;
    unsigned turns = 0;
    for (uint64_t at; (at = tn_stack_next_deadline(b->st)) <= until; check(++turns < 100000)) {
        if (at > b->now) b->now = at;
        tn_stack_timeout(b->st, b->now);
    }
    b->now = until;
}

static void check_flow(const struct tn_tcp *c)
{
    check(seq_le(c->snd_una, c->snd_nxt) && seq_le(c->rcv_nxt, c->rcv_adv));
    check(c->recvq.len <= c->buf_max + 2 * TN_CHUNK && c->sendq.len <= c->buf_max + TN_CHUNK);
    check(c->timer.at_us <= c->rexmit_at && c->timer.at_us <= c->delack_at && c->timer.at_us <= tn_tcp_pace_at(c));
    check(!c->flight || (c->cc.cwnd && (c->cc.pace || !c->cc.ops->is_model)));
    bool open = c->f.state >= TN_TCP_ESTABLISHED && c->f.state < TN_TCP_DONE;
    if (open && c->snd_una != c->snd_nxt) check(c->flight && c->rexmit_at != TN_NEVER);
    if (c->flight) check(tn_recs_pipe(&c->flight->recs, c->snd_nxt - c->snd_una) <= c->snd_nxt - c->snd_una);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct box b = {.now = 1000000, .rcv_expected = 5000, .tsval = 100000};
    struct tn_tcp_listener *l;
    b.local = (struct tn_addrport){tn_ip4(100, 64, 0, 1), 80};
    b.remote = (struct tn_addrport){tn_ip4(100, 64, 0, 2), 1000};
    struct tn_stack_config config = {
        .congestion = size && data[size - 1] & 1 ? TN_CONGESTION_CUBIC : TN_CONGESTION_BBR, .budget = 256 * 1024,
        .rng = tn_rng_seeded(&b.rng), .ctx = &b, .cb.output = output, .tcp_buffer_max = 65536};
    if (!(b.st = tn_stack_new(&config))) return 0;
    tn_stack_set_addrs(b.st, &b.local.ip, 1, b.now);
    check(tn_tcp_listen(b.st, &b.local, 4, on_accept, &b, &l) == 0);
    for (size_t at = 0; at + 8 <= size && at < 8 * 500; at += 8) {
        const uint8_t *p = data + at;
        unsigned kind = p[0] & 15;
        if (kind < 10) segment(&b, p);
        else if (kind < 14) owner(&b, p);
        else pass(&b, kind == 14 ? p[3] * 1000u : p[3] * 300000ull);
        for (size_t i = 0; i < b.st->timers.count; i++)
            check_flow(TN_CONTAINER(b.st->timers.slot[i].timer, struct tn_tcp, timer));
        check(b.st->depth == 0 && b.st->pool.used <= b.st->pool.budget + 64 * 1024);
    }
    if (b.c) tn_tcp_release(b.c, b.now);
    pass(&b, 1000 * 1000000ull);
    struct tn_stack_stats stats;
    tn_stack_stats(b.st, &stats);
    check(stats.flows == 0 && stats.half_open == 0 && stats.time_wait == 0 && stats.chunk_bytes == 0);
    tn_stack_free(b.st);
    return 0;
}
