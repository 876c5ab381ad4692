/* What TCP itself costs: both ends in one process, without cipher, sockets or link. One stream, 1 MB in flight at most, the
 * sender's packets handed to the receiver where they lie, its ACKs handed back a step of the virtual clock later.
 *
 * stack_alone [trains|packets]
 *
 *   trains     as the node has it: trains of up to 49 packets, taken in as runs, their checksums vouched for
 *   packets    each for itself, each checksum computed and verified
 *
 * Printed are Gbit/s of goodput that one core would do for both ends, and the time of a packet by stage: the application's copy
 * into the stack, the sender's stack (checksum and copy into the packets, and the ACKs), the receiver's (with its copy into the
 * queue), and reading, where bytes are not looked at. The sum is CPU time; how it divides is taken from the wall clock. */
#include "stack/stack.h"
#include "util/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PORT = 80, STEP_US = 50, ACKS = 4096, ACK_LEN = 128, WINDOW = 1 << 20, WARM_STEPS = 2000, STEPS = 40000 };
enum stage { WRITE, SEND, RECEIVE, READ, STAGES };

static struct bench {
    struct tn_stack *from, *to;
    struct tn_tcp *c;
    uint64_t now, rng, received, packets;
    uint64_t spent[STAGES], since;
    enum stage stage;
    struct {
        size_t len;
        uint8_t bytes[ACK_LEN];
    } ack[ACKS];
    size_t acks;
} b;

static uint64_t ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Returns the stage that was. */
static enum stage enter(enum stage next)
{
    enum stage before = b.stage;
    uint64_t now = ns(CLOCK_MONOTONIC);
    b.spent[before] += now - b.since;
    b.since = now;
    b.stage = next;
    return before;
}

static void hand_over(const struct iovec *packets, size_t n)
{
    enum stage before = enter(RECEIVE);
    b.packets += n;
    tn_stack_batch_begin(b.to);
    if (n > 1) tn_stack_input_run(b.to, packets, n, b.now);
    else tn_stack_input(b.to, packets[0].iov_base, packets[0].iov_len, b.now);
    tn_stack_batch_end(b.to, b.now);
    enter(before);
}

static void out_packet(void *ctx, uint8_t *packet, size_t len)
{
    struct iovec one = {packet, len};
    hand_over(&one, 1);
}

static void out_train(void *ctx, struct tn_train *t)
{
    struct iovec packets[64];
    size_t n = 0;
    for (; n < t->count && n < 64; n++)
        packets[n] = (struct iovec){t->first + n * t->stride, n + 1 < t->count ? t->len : t->last_len};
    hand_over(packets, n);
}

static void out_ack(void *ctx, uint8_t *packet, size_t len)
{
    if (len > ACK_LEN || b.acks == ACKS) abort();
    memcpy(b.ack[b.acks].bytes, packet, len);
    b.ack[b.acks++].len = len;
}

static void keep_writing(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    static const uint8_t source[65536];
    struct iovec iov[32];
    for (int n; enter(WRITE), (n = tn_tcp_reserve(c, iov, 32, sizeof source)) > 0;) {
        size_t len = 0;
        for (int i = 0; i < n; len += iov[i++].iov_len) memcpy(iov[i].iov_base, source + len, iov[i].iov_len);
        enter(SEND);
        tn_tcp_commit(c, len, now_us);
    }
    enter(SEND);
}

static void keep_reading(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    enum stage before = enter(READ);
    size_t n = tn_tcp_readable(c);
    b.received += n;
    if (n) tn_tcp_consume(c, n, now_us);
    enter(before);
}

static const struct tn_tcp_events writer = {.on_open = keep_writing, .on_writable = keep_writing};
static const struct tn_tcp_events reader = {.on_readable = keep_reading};

static int on_accept(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    tn_tcp_set_events(c, &reader, NULL);
    return 0;
}

static struct tn_stack *make(uint8_t host, struct tn_stack_callbacks cb)
{
    struct tn_stack_config config = {.rng = tn_rng_seeded(&b.rng), .cb = cb, .tcp_buffer_max = WINDOW};
    struct tn_ip ip = tn_ip4(10, 9, 0, host);
    struct tn_stack *st = tn_stack_new(&config);
    if (!st || tn_stack_set_addrs(st, &ip, 1, b.now) != 0) abort();
    return st;
}

static void step(void)
{
    static uint8_t bytes[ACKS][ACK_LEN];
    static size_t len[ACKS];
    size_t n = b.acks;
    for (size_t i = 0; i < n; i++) memcpy(bytes[i], b.ack[i].bytes, len[i] = b.ack[i].len);
    b.acks = 0;
    b.now += STEP_US;
    enter(SEND);
    tn_stack_batch_begin(b.from);
    for (size_t i = 0; i < n; i++) tn_stack_input(b.from, bytes[i], len[i], b.now);
    tn_stack_batch_end(b.from, b.now);
    if (tn_stack_next_deadline(b.from) <= b.now) tn_stack_timeout(b.from, b.now);
    enter(RECEIVE);
    if (tn_stack_next_deadline(b.to) <= b.now) tn_stack_timeout(b.to, b.now);
}

static void run(const char *name, bool trains)
{
    b = (struct bench){.now = 1000000, .rng = 1, .since = ns(CLOCK_MONOTONIC)};
    b.from = make(1, (struct tn_stack_callbacks){.output = out_packet, .output_train = trains ? out_train : NULL});
    b.to = make(2, (struct tn_stack_callbacks){.output = out_ack});
    struct tn_tcp_listener *l;
    struct tn_addrport at = {tn_ip4(10, 9, 0, 2), PORT};
    if (tn_tcp_listen(b.to, &at, 4, on_accept, NULL, &l) != 0 ||
        tn_tcp_connect(b.from, NULL, &at, &writer, NULL, b.now, &b.c) != 0)
        abort();
    for (int i = 0; i < WARM_STEPS; i++) step();
    enter(SEND);
    memset(b.spent, 0, sizeof b.spent);
    b.received = b.packets = 0;
    uint64_t start = ns(CLOCK_PROCESS_CPUTIME_ID);
    for (int i = 0; i < STEPS && b.packets < 4000000; i++) step();
    enter(SEND);
    double cpu = (double)(ns(CLOCK_PROCESS_CPUTIME_ID) - start), all = 0, per[STAGES];
    for (int i = 0; i < STAGES; i++) all += (double)b.spent[i];
    for (int i = 0; i < STAGES; i++) per[i] = cpu / (double)b.packets * (double)b.spent[i] / all;
    printf("%-8s %6.1f Gbit/s; a packet %4.0f ns: write %3.0f, send %3.0f, receive %3.0f, read %3.0f\n", name,
           (double)b.received * 8 / cpu, cpu / (double)b.packets, per[WRITE], per[SEND], per[RECEIVE], per[READ]);
    tn_stack_free(b.from);
    tn_stack_free(b.to);
}

int main(int argc, char **argv)
{
    for (int trains = 1; trains >= 0; trains--) {
        const char *name = trains ? "trains" : "packets";
        if (argc < 2 || strcmp(argv[1], name) == 0) run(name, trains);
    }
    return 0;
}
