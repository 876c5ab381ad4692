/* Asks an upstream "NNN.example A" and keeps what it says; included by the tests of those that speak DNS themselves. */
#ifndef TESTS_UNIT_DNS_ASKER_H
#define TESTS_UNIT_DNS_ASKER_H

static struct tn_dns_upstream *up;
static uint64_t now_us;

static struct got {
    unsigned calls;
    int err;
    size_t len;
    uint8_t bytes[512];
} got[300];

static void on_got(void *arg, int err, const uint8_t *bytes, size_t len)
{
    struct got *g = arg;
    g->calls++;
    g->err = err;
    g->len = len;
    if (!err) memcpy(g->bytes, bytes, len);
}

static int new_upstream(int (*make)(const struct tn_dns_config *, const struct tn_addrport *, struct tn_dns_upstream **))
{
    static uint64_t seed = 1;
    struct tn_addrport addr = {tn_ip4(9, 9, 9, 9), 53};
    struct tn_dns_config dc = {.rng = tn_rng_seeded(&seed)};
    memset(got, 0, sizeof got);
    now_us = 1000000;
    return make(&dc, &addr, &up);
}

static size_t question(unsigned n, uint8_t *out)
{
    static const uint8_t q[] = "\0\0\1\0\0\1\0\0\0\0\0\0\3nnn\7example\0\0\1\0\1";
    memcpy(out, q, sizeof q - 1);
    for (int i = 2; i >= 0; i--, n /= 10) out[13 + i] = (uint8_t)('0' + n % 10);
    return sizeof q - 1;
}

static int ask(unsigned n, void **handle)
{
    uint8_t q[64];
    void *ignored;
    size_t len = question(n, q);
    return up->ops->ask(up, 1, q, len, now_us, on_got, &got[n], handle ? handle : &ignored);
}

#endif
