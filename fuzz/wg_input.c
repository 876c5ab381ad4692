/* Messages into WireGuard engines in each of their states. The input is a list of commands of two bytes and, for
 * some, data: what to do next, and with what. Bytes that stand where a MAC1 belongs are mended on request, so that
 * the fuzzer gets past it. */
#include "util/cursor.h"
#include "wg/internal.h"

#include <stdlib.h>
#include <string.h>

enum { COMMANDS_MAX = 64, KEEP = 8 };

struct side {
    struct tn_wg *wg;
    struct tn_wg_peer *peer;
    struct tn_node_private key;
    struct tn_node_public pub;
    uint64_t *now_us;
    uint8_t kept[KEEP][TN_WG_DATAGRAM_MAX]; /* the latest datagrams sent */
    size_t kept_len[KEEP];
    unsigned nkept;
};

static void keep(struct side *s, const uint8_t *d, size_t len)
{
    unsigned at = s->nkept++ % KEEP;
    memcpy(s->kept[at], d, len);
    s->kept_len[at] = len;
}

static void on_send(void *ctx, struct tn_wg_peer *peer, void *arg, const uint8_t *d, size_t len, uint64_t now_us)
{
    keep(ctx, d, len);
}
static void on_reply(void *ctx, const struct tn_wg_from *from, const uint8_t *d, size_t len, uint64_t now_us)
{
    keep(ctx, d, len);
}
static void on_deliver(void *ctx, struct tn_wg_peer *peer, void *arg, uint8_t *packet, size_t len, uint64_t now_us)
{
    if (len < 20 || len > TN_WG_MTU + 128) abort();
    packet[0] ^= packet[len - 1]; /* all of it is ours to write */
}
static struct tn_wg_peer *on_resolve(void *ctx, const struct tn_node_public *key, uint64_t now_us) { return NULL; }
static void on_wallclock(void *ctx, int64_t *sec, uint32_t *nsec)
{
    struct side *s = ctx;
    *sec = (int64_t)(*s->now_us / 1000000);
    *nsec = 0;
}

static void start(struct side *s, uint64_t *now_us, struct tn_rng *rng)
{
    struct tn_wg_config config = {
        .rng = *rng, .ctx = s,
        .cb = {.send = on_send, .reply = on_reply, .deliver = on_deliver, .resolve = on_resolve,
               .wallclock = on_wallclock},
    };
    s->now_us = now_us;
    tn_node_private_generate(&s->key, rng);
    tn_node_public_of(&s->key, &s->pub);
    config.key = s->key;
    s->wg = tn_wg_new(&config);
    if (!s->wg) abort();
}

static void join(struct side *s, const struct side *other)
{
    struct tn_prefix all[2] = {{.ip.family = 4}, {.ip.family = 6}};
    if (tn_wg_peer_add(s->wg, &other->pub, NULL, &s->peer) != 0) abort();
    if (tn_wg_peer_set_allowed(s->wg, s->peer, all, 2) != 0) abort();
}

static void feed(struct side *s, const uint8_t *bytes, size_t len, uint64_t now_us)
{
    static const struct tn_wg_from from = {.bytes = {1}, .len = 1};
    uint8_t *copy = malloc(len ? len : 1);
    if (len > 0) memcpy(copy, bytes, len);
    (void)tn_wg_input(s->wg, copy, len, &from, now_us);
    free(copy);
}

/* A datagram the other side sent, with the next bytes of the input laid over it, MAC1 made good. */
static void feed_altered(struct side *s, const struct side *other, struct tn_rd *in, uint64_t now_us)
{
    uint8_t which = tn_rd_u8(in), at = tn_rd_u8(in), count = tn_rd_u8(in) % 16;
    size_t len = other->kept_len[which % KEEP];
    uint8_t bytes[TN_WG_DATAGRAM_MAX];
    if (len == 0) return;
    memcpy(bytes, other->kept[which % KEEP], len);
    for (uint8_t i = 0; i < count; i++) bytes[(at + i) % len] ^= tn_rd_u8(in);
    int type = tn_wgmsg_type(bytes, len);
    struct tn_wg_jar jar = {0};
    if (type == TN_WGMSG_INITIATION || type == TN_WGMSG_RESPONSE) tn_wg_jar_sign(&jar, &s->pub, bytes, len, now_us);
    feed(s, bytes, len, now_us);
}

static void command(struct side sides[2], struct tn_rd *in, uint64_t *now_us)
{
    uint8_t what = tn_rd_u8(in), size = tn_rd_u8(in);
    struct side *s = &sides[what & 1], *other = &sides[!(what & 1)];
    const uint8_t *bytes;
    switch (what >> 1 & 7) {
    case 0:
        bytes = tn_rd_take(in, size);
        if (bytes) feed(s, bytes, size, *now_us);
        break;
    case 1:
        bytes = tn_rd_take(in, size);
        if (bytes && size > 0) (void)tn_wg_send(s->wg, s->peer, bytes, size, *now_us);
        break;
    case 2: /* what the other side sent arrives */
        if (other->kept_len[size % KEEP]) feed(s, other->kept[size % KEEP], other->kept_len[size % KEEP], *now_us);
        break;
    case 3: feed_altered(s, other, in, *now_us); break;
    case 4: *now_us += (uint64_t)size * 50000; break;
    case 5: *now_us += (uint64_t)size * 5000000; break;
    case 6:
        if (size == 0) tn_wg_peer_reset(s->wg, s->peer);
        else s->wg->limit.load_until_us = *now_us + size * 100000u;
        break;
    default: break;
    }
    for (int i = 0; i < 2; i++) tn_wg_timeout(sides[i].wg, *now_us);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct side sides[2];
    uint64_t seed = 1, now_us = 1000000000;
    struct tn_rng rng = tn_rng_seeded(&seed);
    struct tn_rd in = tn_rd_init(data, size);
    memset(sides, 0, sizeof sides);
    for (int i = 0; i < 2; i++) start(&sides[i], &now_us, &rng);
    for (int i = 0; i < 2; i++) join(&sides[i], &sides[!i]);
    for (int i = 0; i < COMMANDS_MAX && tn_rd_left(&in) > 0; i++) command(sides, &in, &now_us);
    for (int i = 0; i < 2; i++) tn_wg_free(sides[i].wg);
    return 0;
}
