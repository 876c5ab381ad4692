/* What a flow costs: memory while it is idle, and the time of a packet when there are 100, 10,000 or 100,000 of
 * them (or as many as the arguments say).
 *
 * One stack, and peers that are no more than their sequence numbers. Each flow is opened, asks and is answered
 * once, so that it has the memory of a flow that has been used. Then flows at random ask: 100 bytes, which the owner
 * answers with 100 bytes, and a round trip of 20 ms later comes the acknowledgment of that. Packets come in batches
 * of 64, as from UDP_GRO, half of them questions. Measured is what the stack does with a batch, with its output (a
 * packet is parsed again by the peer), not the making of its packets. Built on the room's own headers, since it
 * writes segments by hand. */
#include "stack/internal.h"
#include "util/cursor.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { PORT = 80, BYTES = 100, BATCHES = 30000, BATCH = 64, PACKET = 200, PER_ADDR = 50000, LAG_MAX = 1024,
       RTT_US = 20000 };

struct peer {
    uint32_t seq, ack;
    uint32_t batch; /* in which it asked last */
};

struct bench {
    struct tn_stack *st;
    struct peer *peers;
    uint64_t now, rng, out;
    uint32_t batch;
    struct tn_ip own;
};

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ULL;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
    return z ^ z >> 31;
}

static struct tn_addrport addr_of(size_t i)
{
    return (struct tn_addrport){tn_ip4(10, 0, (uint8_t)(i / PER_ADDR), 1), (uint16_t)(1000 + i % PER_ADDR)};
}

static size_t index_of(const struct tn_ip *ip, uint16_t port) { return ip->b[2] * (size_t)PER_ADDR + port - 1000u; }

static void output(void *ctx, uint8_t *packet, size_t len)
{
    struct bench *b = ctx;
    struct tn_ippkt ip;
    struct tn_tcp_seg s;
    if (tn_ippkt_parse(packet, len, &ip) != 0 || tn_tcp_seg_parse(ip.l4, ip.l4_len, &s) != 0) abort();
    b->peers[index_of(&ip.dst, s.dport)].ack = s.seq + (uint32_t)s.len + !!(s.flags & TN_TCP_SYN);
    b->out++;
}

/* A segment of this flow; returns its length. */
static size_t write_segment(struct bench *b, size_t i, uint8_t flags, size_t len, uint8_t packet[PACKET])
{
    static const uint8_t bytes[BYTES];
    struct tn_addrport from = addr_of(i);
    struct peer *p = &b->peers[i];
    struct tn_tcp_seg s = {
        .sport = from.port, .dport = PORT, .flags = flags, .seq = p->seq, .ack = p->ack, .window = 60000, .mss = 1240,
        .has_wscale = true, .wscale = 7, .sack_ok = true, .has_ts = true, .tsval = (uint32_t)(b->now / 1000)};
    uint8_t *l4 = packet + 20;
    size_t hdr = tn_tcp_seg_put(l4, &s), l4_len = hdr + len;
    memcpy(l4 + hdr, bytes, len);
    uint32_t sum = tn_cksum_pseudo(&from.ip, &b->own, TN_IPPROTO_TCP, (uint32_t)l4_len);
    tn_put_be16(l4 + 16, tn_cksum_fold(tn_cksum_add(sum, l4, l4_len)));
    tn_ip_header_put(packet, &from.ip, &b->own, TN_IPPROTO_TCP, l4_len, 64, 1);
    p->seq += (uint32_t)len + !!(flags & TN_TCP_SYN);
    return 20 + l4_len;
}

static void send_to(struct bench *b, size_t i, uint8_t flags, size_t len)
{
    uint8_t packet[PACKET];
    tn_stack_input(b->st, packet, write_segment(b, i, flags, len, packet), b->now);
    if (tn_stack_next_deadline(b->st) <= b->now) tn_stack_timeout(b->st, b->now);
}

static void on_readable(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    static const uint8_t bytes[BYTES];
    size_t n = tn_tcp_readable(c);
    tn_tcp_consume(c, n, now_us);
    if (n) tn_tcp_write(c, bytes, BYTES, now_us);
}

static const struct tn_tcp_events events = {.on_readable = on_readable};

static int on_accept(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    tn_tcp_set_events(c, &events, arg);
    return 0;
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void open_flow(struct bench *b, size_t i)
{
    b->now += 10;
    b->peers[i].seq = (uint32_t)next_random(&b->rng);
    send_to(b, i, TN_TCP_SYN, 0);
    send_to(b, i, TN_TCP_ACK, 0);
    send_to(b, i, TN_TCP_ACK | TN_TCP_PSH, BYTES);
    send_to(b, i, TN_TCP_ACK, 0);
}

static size_t heap_bytes(void)
{
    struct mallinfo2 m = mallinfo2();
    return m.uordblks + m.hblkhd;
}

/* Who has asked and has not acknowledged the answer yet. */
struct asked {
    size_t flow[LAG_MAX];
    size_t lag, at;
};

static void make_batch(struct bench *b, struct asked *a, size_t flows, struct iovec *packets, uint8_t bytes[BATCH][PACKET])
{
    for (size_t i = 0; i < BATCH; i += 2) {
        size_t *slot = &a->flow[a->at++ % a->lag], answered = *slot;
        do *slot = next_random(&b->rng) % flows;
        while (b->peers[*slot].batch == b->batch);
        b->peers[*slot].batch = b->batch;
        packets[i] = (struct iovec){bytes[i], write_segment(b, answered, TN_TCP_ACK, 0, bytes[i])};
        packets[i + 1] = (struct iovec){bytes[i + 1], write_segment(b, *slot, TN_TCP_ACK | TN_TCP_PSH, BYTES, bytes[i + 1])};
    }
}

static void take_batch(struct bench *b, const struct iovec *packets)
{
    tn_stack_batch_begin(b->st);
    if (!getenv("NOEXP")) tn_stack_expect(b->st, packets, BATCH);
    for (size_t i = 0; i < BATCH; i++) tn_stack_input_run(b->st, packets + i, 1, b->now);
    tn_stack_batch_end(b->st, b->now);
    if (tn_stack_next_deadline(b->st) <= b->now) tn_stack_timeout(b->st, b->now);
}

/* Returns the nanoseconds per packet. */
static double measure(struct bench *b, size_t flows, int batches)
{
    static uint8_t bytes[BATCH][PACKET];
    struct iovec packets[BATCH];
    struct asked a = {.lag = flows / 2 < LAG_MAX ? flows / 2 : LAG_MAX};
    double spent = 0;
    for (size_t i = 0; i < a.lag; i++) a.flow[i] = i;
    for (int i = 0; i < batches; i++) {
        b->now += (uint64_t)RTT_US * (BATCH / 2) / a.lag;
        b->batch++;
        make_batch(b, &a, flows, packets, bytes);
        double start = seconds();
        take_batch(b, packets);
        spent += seconds() - start;
    }
    return spent * 1e9 / ((double)batches * BATCH);
}

static void run(size_t flows)
{
    struct bench b = {.now = 1000000, .rng = 1, .own = tn_ip4(10, 9, 0, 1)};
    b.peers = calloc(flows, sizeof *b.peers);
    struct tn_stack_config config = {.rng = tn_rng_seeded(&b.rng), .cb.output = output, .ctx = &b};
    struct tn_addrport any = {.port = PORT};
    struct tn_tcp_listener *l;
    if (!b.peers || !(b.st = tn_stack_new(&config)) || tn_stack_set_addrs(b.st, &b.own, 1, b.now) != 0 ||
        tn_tcp_listen(b.st, &any, 100, on_accept, &b, &l) != 0)
        abort();
    size_t before = heap_bytes();
    for (size_t i = 0; i < flows; i++) open_flow(&b, i);
    double bytes = (double)(heap_bytes() - before) / (double)flows;
    struct tn_stack_stats stats;
    tn_stack_stats(b.st, &stats);
    measure(&b, flows, BATCHES / 10); /* warm */
    uint64_t out = b.out;
    double ns = measure(&b, flows, BATCHES);
    printf("%8zu flows: %5.0f bytes each when idle (chunks held: %zu); %5.0f ns for a packet in and %.2f out, %.2f "
           "million a second\n",
           stats.flows, bytes, stats.chunk_bytes, ns, (double)(b.out - out) / ((double)BATCHES * BATCH), 1e3 / ns);
    tn_stack_free(b.st);
    free(b.peers);
}

int main(int argc, char **argv)
{
    static const size_t sizes[] = {100, 10000, 100000};
    for (int i = 1; i < argc; i++) run(strtoull(argv[i], NULL, 0));
    for (size_t i = 0; argc < 2 && i < sizeof sizes / sizeof sizes[0]; i++) run(sizes[i]);
    return 0;
}
