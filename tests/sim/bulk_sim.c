/* What congestion control achieves on a virtual clock: goodput with losses, reordering and changing paths, and what
 * it leaves for others. Deterministic; the bounds leave room for changes of a few per cent, not for a broken rule.
 *
 * bulk_sim [WORD [SEED]]    the cases whose name contains the word; the bounds are for seed 1, the default */
#include "bulk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BBR TN_CONGESTION_BBR
#define CUBIC TN_CONGESTION_CUBIC
#define MBIT(n) ((uint64_t)((n) * 1000000ull))
#define MS(n) ((uint64_t)((n) * 1000))

struct bulk_case {
    const char *name;
    double mbit, rtt_ms, loss, queue; /* queue in bandwidth-delay products */
    double late, early;               /* reordering: so many per cent come up to half a round trip late, or at once */
    double seconds, from_s;
    uint64_t tick_us;
    size_t budget;
    struct bulk_change change;
    struct bulk_sender sender[2];
    double least[2], most[2]; /* Mbit/s of each sender */
    double most_queue_ms;     /* 0: any */
};

static const struct bulk_case cases[] = {
    /* At least what Linux's BBR has: 90, 88, 86 Mbit/s. */
    {"bbr, no loss", 100, 80, 0, 1, .seconds = 20, .sender = {{BBR, 1}}, .least = {90}, .most_queue_ms = 25},
    {"bbr, 0.1 % loss", 100, 80, 0.001, 1, .seconds = 20, .sender = {{BBR, 1}}, .least = {89}},
    {"bbr, 1 % loss", 100, 80, 0.01, 1, .seconds = 20, .sender = {{BBR, 1}}, .least = {87}},
    {"bbr, 1 Gbit/s, 1 % loss", 1000, 80, 0.01, 1,
     .seconds = 5, .from_s = 2.5, .sender = {{BBR, 1}}, .least = {650}},
    {"bbr, 250 Mbit/s, 100 ms", 250, 100, 0, 1, .seconds = 8, .from_s = 3, .sender = {{BBR, 1}}, .least = {200}},
    {"bbr, shallow queue", 100, 40, 0, 0.1, .seconds = 20, .sender = {{BBR, 1}}, .least = {88}},
    {"bbr, deep queue", 20, 40, 0, 20,
     .seconds = 20, .sender = {{BBR, 1}}, .least = {18}, .most_queue_ms = 30},
    {"bbr, 5 % late", 100, 20, 0, 1, .late = 0.05, .seconds = 20, .sender = {{BBR, 1}}, .least = {91}},
    {"bbr, 5 % early", 100, 20, 0, 1, .early = 0.05, .seconds = 20, .sender = {{BBR, 1}}, .least = {91}},
    {"bbr, timers of 4 ms", 100, 20, 0, 1, .tick_us = 4000,
     .seconds = 10, .sender = {{BBR, 1}}, .least = {90}},
    {"bbr, 300 us round trip", 1000, 0.3, 0, 10, .tick_us = 1000,
     .seconds = 2, .sender = {{BBR, 1}}, .least = {800}},
    {"bbr, small budget", 100, 20, 0, 1, .budget = 1 << 20, .seconds = 5, .sender = {{BBR, 1}}, .least = {30}},
    {"bbr, pauses", 100, 40, 0, 1, .seconds = 20,
     .sender = {{BBR, 1, .pause_every_bytes = 2000000, .pause_us = 300000}}, .least = {25}},
    {"bbr, relay to direct", 20, 100, 0, 1, .seconds = 20, .from_s = 10,
     .change = {8, MBIT(100), MS(10)}, .sender = {{BBR, 1}}, .least = {70}},
    {"bbr, direct to relay", 100, 20, 0, 1, .seconds = 30, .from_s = 15,
     .change = {8, MBIT(20), MS(50)}, .sender = {{BBR, 1}}, .least = {17}},
    {"cubic, no loss", 100, 80, 0, 1, .seconds = 20, .sender = {{CUBIC, 1}}, .least = {92}},
    {"cubic, pauses", 100, 40, 0, 1, .seconds = 20,
     .sender = {{CUBIC, 1, .pause_every_bytes = 2000000, .pause_us = 300000}}, .least = {20}},
    /* Half to twice the fair share. */
    {"bbr and cubic, 80 ms", 100, 80, 0, 1, .seconds = 40, .from_s = 10, .sender = {{BBR, 1}, {CUBIC, 1}},
     .least = {24, 24}, .most = {72, 72}},
    {"bbr and cubic, 20 ms", 100, 20, 0, 1, .seconds = 40, .from_s = 10, .sender = {{BBR, 1}, {CUBIC, 1}},
     .least = {24, 24}, .most = {72, 72}},
    {"bbr and 4 cubic, 80 ms", 100, 80, 0, 1, .seconds = 40, .from_s = 10, .sender = {{BBR, 1}, {CUBIC, 4}},
     .least = {9.6, 57}, .most = {38.4, 86}},
    {"bbr and 4 cubic, 20 ms", 100, 20, 0, 1, .seconds = 40, .from_s = 10, .sender = {{BBR, 1}, {CUBIC, 4}},
     .least = {9.6, 57}, .most = {38.4, 86}},
    {"bbr and 4 cubic, deep queue", 100, 20, 0, 2,
     .seconds = 40, .from_s = 10, .sender = {{BBR, 1}, {CUBIC, 4}},
     .least = {9.6, 57}, .most = {38.4, 86}},
    {"bbr and cubic, shallow queue", 100, 20, 0, 0.25,
     .seconds = 40, .from_s = 10, .sender = {{BBR, 1}, {CUBIC, 1}},
     .least = {24, 24}, .most = {72, 72}},
    {"bbr, 20 and 80 ms", 100, 20, 0, 1,
     .seconds = 40, .from_s = 10, .sender = {{BBR, 1}, {BBR, 1, .extra_us = MS(60)}},
     .least = {26, 24}, .most = {72, 70}}, /* by chance 30 to 59 of the first */
    {"bbr, 20 and 80 ms, deep queue", 100, 20, 0, 4,
     .seconds = 40, .from_s = 10, .sender = {{BBR, 1}, {BBR, 1, .extra_us = MS(60)}},
     .least = {24, 32}, .most = {64, 72}},
    {"cubic, 20 and 80 ms", 100, 20, 0, 4,
     .seconds = 40, .from_s = 10, .sender = {{CUBIC, 1}, {CUBIC, 1, .extra_us = MS(60)}},
     .least = {48, 14}, .most = {82, 48}},
    {"bbr and bbr, later", 100, 40, 0, 1,
     .seconds = 40, .from_s = 15, .sender = {{BBR, 1}, {BBR, 1, .start_s = 5}},
     .least = {24, 24}, .most = {72, 72}},
};

static struct bulk_result run(const struct bulk_case *k, uint64_t seed)
{
    struct bulk_config c = {
        .link = {.delay_us = MS(k->rtt_ms / 2), .rate_bps = MBIT(k->mbit), .loss = k->loss, .reorder = k->late,
                 .reorder_us = MS(k->rtt_ms / 2), .early = k->early, .seed = seed,
                 .queue_bytes = (uint64_t)(k->queue * k->mbit * 1e6 / 8 * k->rtt_ms / 1e3)},
        .change = k->change, .seconds = k->seconds, .from_s = k->from_s, .mtu = 1280, .budget = k->budget,
        .tick_us = k->tick_us ? k->tick_us : 1000,
    };
    for (int i = 0; i < 2; i++) c.sender[i] = k->sender[i];
    return bulk_run(&c);
}

static bool is_good(const struct bulk_case *k, const struct bulk_result *r)
{
    for (int i = 0; i < 2; i++) {
        if (r->mbit[i] < k->least[i]) return false;
        if (k->most[i] > 0 && r->mbit[i] > k->most[i]) return false;
    }
    if (k->budget && r->memory[0] > k->budget + k->budget / 8) return false;
    return k->most_queue_ms <= 0 || r->queue_ms <= k->most_queue_ms;
}

int main(int argc, char **argv)
{
    unsigned passed = 0, failed = 0;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct bulk_case *k = &cases[i];
        if (argc > 1 && !strstr(k->name, argv[1])) continue;
        struct bulk_result r = run(k, seed);
        bool good = is_good(k, &r);
        printf("%s %-30s", good ? "ok    " : "FAILED", k->name);
        for (int s = 0; s < 2 && k->sender[s].flows; s++)
            printf(" %6.1f Mbit/s, %.2f %% again, %4.1f MB;", r.mbit[s],
                   100.0 * (double)r.resent[s] / (double)r.sent[s],
                   (double)r.memory[s] / 1e6);
        printf(" queue %.1f ms\n", r.queue_ms);
        fflush(stdout);
        if (good) passed++;
        else failed++;
    }
    printf("[  PASSED  ] %u test(s).\n", passed);
    if (failed) printf("[  FAILED  ] %u test(s).\n", failed);
    return failed || !passed;
}
