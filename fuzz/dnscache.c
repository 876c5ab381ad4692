/* The resolver between clients and an upstream, both played by the input: questions in, answers in, time passes, settings change;
 * and what goes out is looked at. Each operation is a byte and what it takes:
 *
 *   0 PEER LIMIT16 LEN8 bytes    a client asks (bytes: a whole message)
 *   1 WHICH TTL8 RCODE LEN16 bytes   an upstream answers: its question, a record of ours (below), and bytes as records
 *   2 WHICH LEN16 bytes          an upstream says just this
 *   3 WHICH                      an upstream fails
 *   4 TIME16                     so many ten milliseconds pass
 *   5 WHICH                      a client gives up
 *   6 WHAT                       settings: see set
 *
 * Held: each client hears once, within six seconds, a message that can be read to its end, with its ID and its question as it was
 * spelled, no longer than it takes; and an answer given for one peer reaches no other, nor anybody when its time is over. For that,
 * answers have a record of ours: an address with a mark, whom it is for, and when it was given. */
#include "dns/lookup.h"
#include "util/cursor.h"
#include "util/err.h"

#include <stdlib.h>
#include <string.h>

enum { PEERS = 4, ASKS = 512, CLIENTS = 512, BIRTHS = 65536, BODY_MAX = 4096 };
static const uint8_t mark[11] = {0x2a, 0xfe, 0x51, 0xc3, 0x9d, 0x77, 0x0b, 0xe8, 0x64, 0x1f, 0xa9};

struct ask {
    bool live;
    tn_dns_answer_fn *answer;
    void *arg;
    size_t len;
    uint8_t query[512];
};
struct asker {
    bool asked, heard;
    struct tn_dns_query *q;
    uint64_t peer, since_us;
    size_t limit, len;
    uint8_t query[256];
};
static struct {
    struct tn_dns *d;
    uint64_t now_us;
    enum tn_egress_mode mode;
    bool by_peer, no_udp, no_ipv6;
    struct ask asks[ASKS];
    struct asker clients[CLIENTS];
    unsigned nasks, nclients, nbirths;
    struct {
        uint64_t at_us;
        uint32_t ttl_s;
    } births[BIRTHS];
} w;

/* ---- what is around the resolver ---- */

enum tn_egress_mode tn_egress_mode(const struct tn_egress *e) { return w.mode; }
bool tn_egress_by_peer(const struct tn_egress *e) { return w.by_peer; }

static int take_ask(struct tn_dns_upstream *u, uint64_t peer, const uint8_t *query, size_t len, uint64_t now_us,
                    tn_dns_answer_fn *answer, void *arg, void **handle)
{
    if (w.nasks == ASKS || len > sizeof w.asks[0].query) return TN_E_LIMIT;
    struct ask *a = &w.asks[w.nasks++];
    *a = (struct ask){.live = true, .answer = answer, .arg = arg, .len = len};
    memcpy(a->query, query, len);
    *handle = a;
    return 0;
}
static void cancel_ask(struct tn_dns_upstream *u, void *handle)
{
    struct ask *a = handle;
    if (!a->live) abort();
    a->live = false;
}
static void no_timeout(struct tn_dns_upstream *u, uint64_t now_us) {}
static uint64_t no_deadline(const struct tn_dns_upstream *u) { return TN_NEVER; }
static void no_reset(struct tn_dns_upstream *u) {}
static int well(const struct tn_dns_upstream *u, const char **text) { return 0; }
static void free_it(struct tn_dns_upstream *u) { free(u); }
static const struct tn_dns_upstream_ops ops = {take_ask, cancel_ask, no_timeout, no_deadline, no_reset, well, free_it};

int tn_dns_upstream_new(const struct tn_dns_config *config, const char *url, size_t len, struct tn_dns_upstream **out)
{
    *out = calloc(1, sizeof **out);
    if (!*out) return TN_E_NOMEM;
    (*out)->ops = &ops;
    return 0;
}
int tn_dns_check_upstreams(const char *upstreams) { return 0; }
size_t tn_dns_url_next(const char **at)
{
    if (**at == ',') ++*at;
    return strcspn(*at, ",");
}

static uint64_t now(void *ctx) { return w.now_us; }
static void way_of(void *ctx, uint64_t peer, bool *udp, bool *ipv6)
{
    *udp = !w.no_udp;
    *ipv6 = !w.no_ipv6 || peer == 1;
}

/* ---- what comes out ---- */

static void see_address(void *arg, const uint8_t *addr, int family, uint32_t ttl_s)
{
    const struct asker *c = arg;
    if (family != 6 || memcmp(addr, mark, sizeof mark) != 0) return;
    unsigned birth = tn_get_be16(addr + 12);
    if (addr[11] != c->peer || birth >= w.nbirths) abort(); /* somebody else's */
    uint64_t age_us = w.now_us - w.births[birth].at_us, may_us = w.births[birth].ttl_s * 1000000ull;
    if (age_us > may_us) abort();
    if (ttl_s > w.births[birth].ttl_s) abort();
}

static void hear(void *arg, int err, const uint8_t *bytes, size_t len)
{
    struct asker *c = arg;
    struct tn_dnsmsg m, asked;
    struct tn_dnsrr rr;
    int more;
    if (c->heard || !c->q || w.now_us - c->since_us > 6000000) abort();
    c->heard = true;
    if (tn_dnsmsg_parse(bytes, len, &m) != 0 || tn_dnsmsg_parse(c->query, c->len, &asked) != 0) abort();
    if (m.id != asked.id || !tn_dnsmsg_answers(&m, &asked) || memcmp(m.name, asked.name, asked.name_len) != 0) abort();
    if (len > c->limit && len > m.question_end + 11) abort();
    struct tn_dnsrr_iter it = tn_dnsrr_begin(&m, bytes, len);
    while ((more = tn_dnsrr_next(&it, &rr)) == 1) {}
    if (more < 0) abort();
    struct tn_dns_answer a = {.bytes = bytes, .len = len, .rcode = m.flags & 15};
    if (!(m.flags & TN_DNSMSG_TC)) tn_dns_answer_addresses(&a, see_address, c);
}

static void catch_up(void)
{
    for (int i = 0; i < 1000 && tn_dns_next_deadline(w.d) <= w.now_us; i++) tn_dns_timeout(w.d, w.now_us);
    if (tn_dns_next_deadline(w.d) <= w.now_us) abort(); /* it would never rest */
}

static void pass(uint64_t us)
{
    for (uint64_t end = w.now_us + us; w.now_us < end; catch_up()) {
        uint64_t at = tn_dns_next_deadline(w.d);
        w.now_us = at < end ? at : end;
    }
}

/* ---- what goes in ---- */

static void client_asks(struct tn_rd *r)
{
    uint64_t peer = 1 + tn_rd_u8(r) % PEERS;
    size_t limit = tn_rd_be16(r), len = tn_rd_u8(r);
    const uint8_t *bytes = tn_rd_take(r, len);
    if (!bytes || w.nclients == CLIENTS) return;
    struct asker *c = &w.clients[w.nclients];
    *c = (struct asker){.peer = peer, .since_us = w.now_us, .limit = limit < 512 ? 512 : limit, .len = len};
    memcpy(c->query, bytes, len);
    int err = tn_dns_ask(w.d, peer, c->query, len, c->limit, w.now_us, hear, c, &c->q);
    c->asked = !err;
    w.nclients += !err;
}

static struct ask *ask_at(unsigned which)
{
    struct ask *a = w.nasks ? &w.asks[which % w.nasks] : NULL;
    return a && a->live ? a : NULL;
}

static void say(struct ask *a, const uint8_t *bytes, size_t len)
{
    uint8_t *exact = malloc(len ? len : 1);
    if (!exact) abort();
    memcpy(exact, bytes, len);
    a->live = false;
    a->answer(a->arg, 0, exact, len);
    free(exact);
}

/* With counts that fit; what is in bytes may be no records at all. */
static void upstream_answers(struct tn_rd *r)
{
    struct ask *a = ask_at(tn_rd_u8(r));
    uint32_t ttl_s = tn_rd_u8(r);
    unsigned rcode = tn_rd_u8(r) & 15, more = rcode ? 0 : tn_rd_u8(r) % 4;
    size_t len = tn_rd_be16(r);
    const uint8_t *bytes = tn_rd_take(r, len);
    struct tn_dnsmsg q;
    if (!a || !bytes || len > BODY_MAX || w.nbirths == BIRTHS || tn_dnsmsg_parse(a->query, a->len, &q) != 0) return;
    uint8_t out[BODY_MAX + 1024];
    struct tn_wr wr = tn_wr_init(out, sizeof out);
    tn_wr_be16(&wr, q.id);
    tn_wr_be16(&wr, (uint16_t)(0x8180 | rcode));
    tn_wr_be16(&wr, 1);
    tn_wr_be16(&wr, (uint16_t)(1 + more));
    tn_wr_be16(&wr, 0);
    tn_wr_be16(&wr, 0);
    tn_wr_bytes(&wr, q.name, q.name_len);
    tn_wr_be16(&wr, q.type);
    tn_wr_be16(&wr, q.class);
    tn_wr_be16(&wr, 0xc00c);
    tn_wr_be16(&wr, TN_DNSTYPE_AAAA);
    tn_wr_be16(&wr, TN_DNSCLASS_IN);
    tn_wr_be32(&wr, ttl_s);
    tn_wr_be16(&wr, 16);
    tn_wr_bytes(&wr, mark, sizeof mark);
    tn_wr_u8(&wr, (uint8_t)((struct tn_dns_attempt *)a->arg)->lookup->peer);
    tn_wr_be16(&wr, (uint16_t)w.nbirths);
    tn_wr_be16(&wr, 0);
    w.births[w.nbirths].at_us = w.now_us;
    w.births[w.nbirths++].ttl_s = ttl_s;
    tn_wr_bytes(&wr, bytes, len);
    if (!tn_wr_ok(&wr)) abort();
    say(a, out, tn_wr_len(&wr));
}

static void set(uint8_t what)
{
    switch (what % 9) {
    case 0: tn_dns_reset(w.d); return;
    case 1: tn_dns_reset_peer(w.d, 1 + what / 9 % PEERS); return;
    case 2: tn_dns_peer_gone(w.d, 1 + what / 9 % PEERS); return;
    case 3: w.by_peer = !w.by_peer; return;
    case 4: w.no_udp = !w.no_udp; return;
    case 5: w.no_ipv6 = !w.no_ipv6; return;
    case 6: w.mode = (enum tn_egress_mode)(what / 9 % 3); return;
    default: (void)tn_dns_set_upstreams(w.d, what % 2 ? "a" : "a,b"); return;
    }
}

static void operate(struct tn_rd *r)
{
    struct ask *a;
    switch (tn_rd_u8(r) % 7) {
    case 0: client_asks(r); return;
    case 1: upstream_answers(r); return;
    case 2: {
        a = ask_at(tn_rd_u8(r));
        size_t len = tn_rd_be16(r);
        const uint8_t *bytes = tn_rd_take(r, len);
        if (a && bytes) say(a, bytes, len);
        return;
    }
    case 3:
        a = ask_at(tn_rd_u8(r));
        if (a) a->live = false;
        if (a) a->answer(a->arg, TN_E_RESET, NULL, 0);
        return;
    case 4: pass(tn_rd_be16(r) * 10000ull); return;
    case 5: {
        struct asker *c = w.nclients ? &w.clients[tn_rd_u8(r) % w.nclients] : NULL;
        if (!c || c->heard) return;
        c->heard = true;
        tn_dns_cancel(c->q);
        return;
    }
    default: set(tn_rd_u8(r)); return;
    }
}

static void check_cache(void)
{
    struct tn_dns_stats s;
    tn_dns_stats(w.d, &s);
    if (s.cache_bytes > TN_DNS_CACHE_BYTES || (s.cache_entries == 0) != (s.cache_bytes == 0)) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t seed = 1;
    if (size > 1 << 16 || size == 0 || memmem(data, size, mark, 4)) return 0; /* it could say what only we say */
    memset(&w, 0, offsetof(__typeof__(w), asks));
    w.nasks = w.nclients = w.nbirths = 0;
    w.mode = TN_EGRESS_PROXY;
    w.now_us = 1000000;
    struct tn_dns_config dc = {.upstreams = "a,b", .rng = tn_rng_seeded(&seed), .now = now, .reach = way_of};
    if (tn_dns_new(&dc, &w.d) != 0) abort();
    struct tn_rd r = tn_rd_init(data, size);
    while (tn_rd_left(&r) > 0 && tn_rd_ok(&r)) {
        operate(&r);
        catch_up();
        check_cache();
    }
    pass(6000000);
    for (unsigned i = 0; i < w.nclients; i++)
        if (!w.clients[i].heard) abort();
    tn_dns_free(w.d);
    return 0;
}
