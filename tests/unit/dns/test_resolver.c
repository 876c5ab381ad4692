/* The resolver with upstreams played by the test: who is asked what, in which order, and what each client gets. */
#include "../failalloc.h"

#include "dns/lookup.c"
#include "dns/resolver.c"
#include "dns/ways.c"

#undef malloc
#undef calloc
#undef realloc
#undef strdup
#include "util/cursor.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

/* ---- the world around ---- */

enum { ASKS = 6000, UPSTREAMS = 512 };
struct fake_ask {
    int upstream;
    bool live;
    uint8_t query[512];
    size_t len;
    tn_dns_answer_fn *answer;
    void *arg;
};
static struct world {
    struct tn_dns *d;
    enum tn_egress_mode mode;
    uint64_t now_us;
    bool by_peer;
    bool no_udp, no_ipv6; /* of peers but 9 */
    int refuse[UPSTREAMS]; /* an upstream's refusal at once */
    uint64_t peer[UPSTREAMS]; /* whom it is for */
    struct fake_ask asks[ASKS];
    unsigned nasks, canceled, resets;
    bool fills; /* upstreams have room for so many as real ones have */
    bool reset_fails; /* an upstream's reset ends what it was asked */
    unsigned made, freed;
} w;

enum tn_egress_mode tn_egress_mode(const struct tn_egress *e) { return w.mode; }
bool tn_egress_by_peer(const struct tn_egress *e) { return w.by_peer; }

struct fake_upstream {
    struct tn_dns_upstream u;
    int number;
};

static int fake_ask(struct tn_dns_upstream *u, uint64_t peer, const uint8_t *query, size_t len, uint64_t now_us, tn_dns_answer_fn *answer,
                    void *arg, void **handle)
{
    int number = ((struct fake_upstream *)u)->number;
    if (w.refuse[number]) return w.refuse[number];
    if (w.fills && w.nasks - w.canceled >= TN_DNS_INFLIGHT_MAX) return TN_E_LIMIT;
    assert_true(w.nasks < ASKS && len <= sizeof w.asks[0].query);
    struct fake_ask *a = &w.asks[w.nasks++];
    *a = (struct fake_ask){.upstream = number, .live = true, .len = len, .answer = answer, .arg = arg};
    memcpy(a->query, query, len);
    *handle = a;
    return 0;
}
static void fake_cancel(struct tn_dns_upstream *u, void *handle)
{
    struct fake_ask *a = handle;
    assert_true(a->live);
    a->live = false;
    w.canceled++;
}
static void fake_timeout(struct tn_dns_upstream *u, uint64_t now_us) {}
static uint64_t fake_deadline(const struct tn_dns_upstream *u) { return TN_NEVER; }
static void fake_reset(struct tn_dns_upstream *u)
{
    unsigned n = w.nasks; /* those there are now */
    w.resets++;
    for (unsigned i = 0; w.reset_fails && i < n; i++) {
        struct fake_ask *a = &w.asks[i];
        if (!a->live || a->upstream != ((struct fake_upstream *)u)->number) continue;
        a->live = false;
        a->answer(a->arg, TN_E_RESET, NULL, 0);
    }
}
static int fake_health(const struct tn_dns_upstream *u, const char **text)
{
    if (text) *text = "fake";
    return ((const struct fake_upstream *)u)->number == 0 ? TN_E_REFUSED : 0;
}
static void fake_free(struct tn_dns_upstream *u)
{
    w.freed++;
    (free)(u);
}
static const struct tn_dns_upstream_ops fake_ops = {fake_ask,   fake_cancel, fake_timeout, fake_deadline,
                                                    fake_reset, fake_health, fake_free};

int tn_dns_upstream_new(const struct tn_dns_config *config, const char *url, size_t len, struct tn_dns_upstream **out)
{
    struct fake_upstream *u = failalloc_calloc(1, sizeof *u);
    if (!u) return TN_E_NOMEM;
    u->u.ops = &fake_ops;
    assert_true(w.made < UPSTREAMS);
    w.peer[w.made] = config->peer;
    u->number = (int)w.made++;
    *out = &u->u;
    return 0;
}
int tn_dns_check_upstreams(const char *upstreams) { return 0; }
size_t tn_dns_url_next(const char **at)
{
    if (**at == ',') ++*at;
    return strcspn(*at, ",");
}

/* Names are tested elsewhere; here, whether they are told. */
static struct learned {
    unsigned n;
    uint64_t peer;
    char name[64];
    uint32_t ttl_s;
    struct tn_ip ip;
} learned;
struct tn_dns_names *tn_dns_names_new(const struct tn_rng *rng) { return failalloc_calloc(1, 1); }
void tn_dns_names_free(struct tn_dns_names *n) { (free)(n); }
void tn_dns_names_learn(struct tn_dns_names *n, uint64_t peer, const struct tn_ip *ip, const char *name, uint32_t ttl_s,
                        uint64_t now_us)
{
    learned = (struct learned){.n = learned.n + 1, .peer = peer, .ttl_s = ttl_s, .ip = *ip};
    snprintf(learned.name, sizeof learned.name, "%s", name);
}
const char *tn_dns_names_find(struct tn_dns_names *n, uint64_t peer, const struct tn_ip *ip, uint64_t now_us) { return NULL; }
void tn_dns_names_forget_peer(struct tn_dns_names *n, uint64_t peer) {}
size_t tn_dns_names_count(const struct tn_dns_names *n) { return 0; }

static uint64_t fake_now(void *ctx) { return w.now_us; }
static void fake_reach(void *ctx, uint64_t peer, bool *udp, bool *ipv6)
{
    *udp = !w.no_udp || peer == 9;
    *ipv6 = !w.no_ipv6 || peer == 9;
}

static void start(const char *upstreams)
{
    static uint64_t seed = 3;
    w = (struct world){.mode = TN_EGRESS_PROXY, .now_us = 1000000};
    learned = (struct learned){0};
    struct tn_dns_config dc = {.upstreams = upstreams, .rng = tn_rng_seeded(&seed), .now = fake_now, .reach = fake_reach};
    assert_int_equal(tn_dns_new(&dc, &w.d), 0);
}

static int stop(void **state)
{
    tn_dns_free(w.d);
    w.d = NULL;
    return 0;
}

/* ---- messages ---- */

static size_t question(uint8_t *out, uint16_t id, uint16_t flags, const char *name, uint16_t type, int edns, bool dnssec_ok)
{
    struct tn_wr wr = tn_wr_init(out, 512);
    tn_wr_be16(&wr, id);
    tn_wr_be16(&wr, flags);
    tn_wr_be16(&wr, 1);
    tn_wr_zero(&wr, 4);
    tn_wr_be16(&wr, edns > 0);
    while (*name) {
        size_t n = strcspn(name, ".");
        tn_wr_u8(&wr, (uint8_t)n);
        tn_wr_bytes(&wr, name, n);
        name += n + (name[n] == '.');
    }
    tn_wr_u8(&wr, 0);
    tn_wr_be16(&wr, type);
    tn_wr_be16(&wr, 1);
    if (edns) { /* with a client subnet, which must not go on */
        tn_wr_u8(&wr, 0);
        tn_wr_be16(&wr, 41);
        tn_wr_be16(&wr, (uint16_t)edns);
        tn_wr_be32(&wr, dnssec_ok ? 0x8000 : 0);
        tn_wr_be16(&wr, 11);
        tn_wr_bytes(&wr, "\0\x08\0\7\0\1\x18\0\1\2\3", 11);
    }
    assert_true(tn_wr_ok(&wr));
    return tn_wr_len(&wr);
}

struct record {
    unsigned section;
    uint16_t type;
    uint32_t ttl_s;
    const char *data;
    size_t len;
};

static bool has_opt(const struct fake_ask *a) { return tn_get_be16(a->query + 10) == 1; }

/* The answer to an ask: the same question, these records, OPT behind them where the question had one. */
static size_t answer_to(const struct fake_ask *a, uint16_t flags, const struct record *r, size_t n, uint8_t *out)
{
    struct tn_wr wr = tn_wr_init(out, 8192);
    unsigned counts[3] = {0, 0, has_opt(a)};
    for (size_t i = 0; i < n; i++) counts[r[i].section]++;
    tn_wr_be16(&wr, 0);
    tn_wr_be16(&wr, (uint16_t)(0x8180 | flags));
    tn_wr_be16(&wr, 1);
    for (int i = 0; i < 3; i++) tn_wr_be16(&wr, (uint16_t)counts[i]);
    tn_wr_bytes(&wr, a->query + 12, a->len - 12 - (has_opt(a) ? 11 : 0));
    for (size_t i = 0; i < n; i++) {
        tn_wr_be16(&wr, 0xc00c);
        tn_wr_be16(&wr, r[i].type);
        tn_wr_be16(&wr, 1);
        tn_wr_be32(&wr, r[i].ttl_s);
        tn_wr_be16(&wr, (uint16_t)r[i].len);
        tn_wr_bytes(&wr, r[i].data, r[i].len);
    }
    if (has_opt(a)) tn_wr_bytes(&wr, "\0\0\x29\x04\xd0\0\0\0\0\0\0", 11);
    assert_true(tn_wr_ok(&wr));
    return tn_wr_len(&wr);
}

static void reply(unsigned i, uint16_t flags, const struct record *r, size_t n)
{
    static uint8_t bytes[8192];
    struct fake_ask *a = &w.asks[i];
    assert_true(i < w.nasks && a->live);
    size_t len = answer_to(a, flags, r, n, bytes);
    a->live = false;
    a->answer(a->arg, 0, bytes, len);
}

/* As a server that knows nothing of OPT. */
static void refuse_edns(unsigned i, unsigned rcode)
{
    struct fake_ask plain = w.asks[i];
    uint8_t bytes[512];
    assert_true(i < w.nasks && w.asks[i].live);
    if (has_opt(&plain)) plain.len -= 11;
    plain.query[11] = 0;
    size_t len = answer_to(&plain, (uint16_t)rcode, NULL, 0, bytes);
    w.asks[i].live = false;
    w.asks[i].answer(w.asks[i].arg, 0, bytes, len);
}

static void fail_it(unsigned i, int err)
{
    assert_true(i < w.nasks && w.asks[i].live);
    w.asks[i].live = false;
    w.asks[i].answer(w.asks[i].arg, err, NULL, 0);
}

static const struct record web = {0, 1, 300, "\x2d\x2d\x2d\x2d", 4};

struct got {
    unsigned calls;
    int err;
    size_t len;
    uint8_t bytes[8192];
};

static void on_got(void *arg, int err, const uint8_t *bytes, size_t len)
{
    struct got *g = arg;
    g->calls++;
    g->err = err;
    g->len = len;
    assert_true(len >= 12 && len <= sizeof g->bytes);
    memcpy(g->bytes, bytes, len);
}

static int ask_as(uint64_t peer, const char *name, uint16_t type, int edns, size_t limit, struct got *g, struct tn_dns_query **out)
{
    struct tn_dns_query *ignored;
    uint8_t q[512];
    size_t n = question(q, 0x1234, 0x0100, name, type, edns, false);
    *g = (struct got){0};
    return tn_dns_ask(w.d, peer, q, n, limit, w.now_us, on_got, g, out ? out : &ignored);
}
static int ask_a(const char *name, struct got *g) { return ask_as(1, name, 1, 0, TN_DNS_MAX, g, NULL); }

static void pass(uint64_t us)
{
    w.now_us += us;
    if (tn_dns_next_deadline(w.d) <= w.now_us) tn_dns_timeout(w.d, w.now_us);
}

static unsigned rcode_of(const struct got *g) { return g->bytes[3] & 15; }
static unsigned answers_of(const struct got *g) { return tn_get_be16(g->bytes + 6); }

/* ---- tests ---- */

static void asked_in_one_form(void **state)
{
    struct got g;
    start("a");
    assert_int_equal(ask_as(1, "WwW.Example", 1, 4096, TN_DNS_MAX, &g, NULL), 0);
    assert_int_equal(w.nasks, 1);
    uint8_t q[512];
    size_t n = question(q, 0, 0x0120, "www.example", 1, 0, false);
    q[11] = 1;
    assert_int_equal(w.asks[0].len, n + 11);          /* nothing of the client's EDNS */
    assert_memory_equal(w.asks[0].query, q, n);
    assert_int_equal(g.calls, 0);
    reply(0, 0, &web, 1);
    assert_int_equal(g.calls, 1);
    assert_int_equal(g.err, 0);
    assert_memory_equal(g.bytes, "\x12\x34\x81\x80\0\1\0\1\0\0\0\1\3WwW\7Example\0\0\1\0\1", 29);
    assert_memory_equal(g.bytes + 29, "\xc0\x0c\0\1\0\1\0\0\1\x2c\0\4\x2d\x2d\x2d\x2d", 16);
    assert_int_equal(g.len, 29 + 16 + 11);            /* an OPT of ours, since the client sent one */
    assert_int_equal(learned.n, 1);
    assert_string_equal(learned.name, "www.example");
    assert_int_equal(learned.ip.b[3], 45);
    assert_int_equal(learned.peer, 1);
    assert_int_equal(ask_a("www.EXAMPLE", &g), 0);    /* from the cache, with a spelling and without OPT of its own */
    assert_int_equal(w.nasks, 1);
    assert_int_equal(g.calls, 0);                     /* never before ask has returned */
    assert_int_equal(tn_dns_next_deadline(w.d), 0);
    pass(100 * 1000000ull);
    assert_int_equal(g.calls, 1);
    assert_int_equal(g.len, 29 + 16);
    assert_memory_equal(g.bytes + 12, "\3www\7EXAMPLE", 12);
    assert_int_equal(tn_get_be32(g.bytes + 29 + 6), 200); /* the time that is left */
    stop(NULL);
}

static void the_cache_is_the_peers_own_and_ends(void **state)
{
    struct got g;
    start("a");
    assert_int_equal(ask_a("www.example", &g), 0);
    reply(0, 0, &web, 1);
    assert_int_equal(ask_as(2, "www.example", 1, 0, TN_DNS_MAX, &g, NULL), 0);
    assert_int_equal(w.nasks, 2);
    reply(1, 0, &web, 1);
    assert_int_equal(ask_as(1, "www.example", 28, 0, TN_DNS_MAX, &g, NULL), 0);
    assert_int_equal(w.nasks, 3);
    struct record zero = web;
    zero.ttl_s = 0;
    zero.type = 28;
    reply(2, 0, &zero, 1);
    assert_int_equal(ask_as(1, "www.example", 28, 0, TN_DNS_MAX, &g, NULL), 0);
    assert_int_equal(w.nasks, 4);                     /* a TTL of 0 is kept by nobody */
    reply(3, 0, NULL, 0);
    pass(300 * 1000000ull);
    assert_int_equal(ask_a("www.example", &g), 0);
    assert_int_equal(w.nasks, 5);
    reply(4, 0, &web, 1);
    tn_dns_peer_gone(w.d, 1);
    assert_int_equal(ask_a("www.example", &g), 0);
    assert_int_equal(w.nasks, 6);
    stop(NULL);
}

static void negative_answers(void **state)
{
    static const char soa[] = "\2ns\xc0\x0c\1h\xc0\x0c" "\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0\4\0\0\0\x1e"; /* minimum 30 s */
    const struct record no = {1, 6, 600, soa, sizeof soa - 1};
    struct got g;
    start("a");
    assert_int_equal(ask_a("no.example", &g), 0);
    reply(0, 3, &no, 1);
    assert_int_equal(rcode_of(&g), 3);
    pass(29 * 1000000ull);
    assert_int_equal(ask_a("no.example", &g), 0);
    pass(0);
    assert_int_equal(g.calls, 1);
    assert_int_equal(w.nasks, 1);
    pass(1 * 1000000ull);
    assert_int_equal(ask_a("no.example", &g), 0);
    assert_int_equal(w.nasks, 2);
    reply(1, 0, NULL, 0);                             /* nothing, and no SOA: not kept (RFC 2308 section 5) */
    assert_int_equal(ask_a("no.example", &g), 0);
    assert_int_equal(w.nasks, 3);
    reply(2, 2, NULL, 0);                             /* SERVFAIL is, for a moment */
    assert_int_equal(rcode_of(&g), 2);
    assert_int_equal(ask_a("no.example", &g), 0);
    assert_int_equal(w.nasks, 3);
    pass(3 * 1000000ull);
    assert_int_equal(ask_a("no.example", &g), 0);
    assert_int_equal(w.nasks, 4);
    stop(NULL);
}

static void the_same_is_asked_once(void **state)
{
    struct got g[3];
    struct tn_dns_query *q[3];
    start("a");
    for (int i = 0; i < 3; i++) assert_int_equal(ask_as(1, i ? "www.example" : "WWW.example", 1, 0, TN_DNS_MAX, &g[i], &q[i]), 0);
    assert_int_equal(w.nasks, 1);
    tn_dns_cancel(q[1]);
    reply(0, 0, &web, 1);
    assert_int_equal(g[0].calls, 1);
    assert_int_equal(g[1].calls, 0);
    assert_int_equal(g[2].calls, 1);
    assert_memory_equal(g[0].bytes + 13, "WWW", 3);
    assert_memory_equal(g[2].bytes + 13, "www", 3);
    assert_int_equal(ask_as(1, "other.example", 1, 0, TN_DNS_MAX, &g[0], &q[0]), 0);
    tn_dns_cancel(q[0]); /* nobody waits any more */
    assert_int_equal(w.canceled, 1);
    struct tn_dns_stats s;
    tn_dns_stats(w.d, &s);
    assert_int_equal(s.in_flight, 0);
    assert_int_equal(s.joined, 2);
    stop(NULL);
}

static void upstreams_in_order(void **state)
{
    struct got g;
    start("a,b,c");
    assert_int_equal(ask_a("1.example", &g), 0);
    assert_int_equal(w.asks[0].upstream, 0);
    fail_it(0, TN_E_CLOSED);
    assert_int_equal(w.asks[1].upstream, 1);
    fail_it(1, TN_E_CLOSED);
    assert_int_equal(w.asks[2].upstream, 2);
    assert_int_equal(g.calls, 0);
    fail_it(2, TN_E_RESET);
    assert_int_equal(g.calls, 1);
    assert_int_equal(g.err, TN_E_RESET);
    assert_int_equal(rcode_of(&g), 2);
    /* All failed lately: the order is as it was. A silent one is not waited for alone. */
    assert_int_equal(ask_a("2.example", &g), 0);
    assert_int_equal(w.asks[3].upstream, 0);
    pass(1500000);
    assert_int_equal(w.asks[4].upstream, 1);
    reply(4, 0, &web, 1);
    assert_int_equal(g.calls, 1);
    assert_int_equal(w.canceled, 1);
    /* The one that works is asked first now, until the other has had its time. */
    assert_int_equal(ask_a("3.example", &g), 0);
    assert_int_equal(w.asks[5].upstream, 1);
    reply(5, 0, &web, 1);
    pass(30 * 1000000ull);
    w.refuse[0] = TN_E_POLICY;
    assert_int_equal(ask_a("4.example", &g), 0);
    assert_int_equal(w.asks[6].upstream, 1); /* refused at once: passed over */
    reply(6, 0, &web, 1);
    /* SERVFAIL and REFUSED are no last words, if another knows better. */
    assert_int_equal(ask_a("5.example", &g), 0);
    reply(7, 5, NULL, 0);
    assert_int_equal(w.asks[8].upstream, 2);
    reply(8, 0, &web, 1);
    assert_int_equal(rcode_of(&g), 0);
    assert_int_equal(ask_a("6.example", &g), 0);
    reply(9, 5, NULL, 0);
    fail_it(10, TN_E_CLOSED);
    assert_int_equal(g.err, 0);
    assert_int_equal(rcode_of(&g), 5);
    /* Nobody takes it: said at once. */
    for (int i = 0; i < 3; i++) w.refuse[i] = TN_E_LIMIT;
    assert_int_equal(ask_a("7.example", &g), TN_E_LIMIT);
    stop(NULL);
}

static void servers_that_do_not_know_edns(void **state)
{
    struct got g;
    start("a,b");
    for (unsigned i = 0; i < 2; i++) { /* FORMERR, or NOTIMP */
        tn_dns_reset(w.d);
        w.nasks = 0;
        assert_int_equal(ask_a("1.example", &g), 0);
        refuse_edns(0, i ? 4 : 1);
        assert_int_equal(g.calls, 0);
        assert_int_equal(w.nasks, 2); /* asked again, by the same, in the same words */
        assert_int_equal(w.asks[1].upstream, 0);
        assert_false(has_opt(&w.asks[1]));
        assert_int_equal(w.asks[1].len, w.asks[0].len - 11);
        reply(1, 0, &web, 1);
        assert_int_equal(g.calls, 1);
        assert_int_equal(answers_of(&g), 1);
        assert_int_equal(ask_a("2.example", &g), 0); /* remembered */
        assert_false(has_opt(&w.asks[2]));
        reply(2, 0, &web, 1);
        assert_int_equal(answers_of(&g), 1);
    }
    w.nasks = 0;
    pass(PLAIN_US);
    assert_int_equal(ask_a("3.example", &g), 0); /* but not for ever */
    assert_true(has_opt(&w.asks[0]));
    reply(0, 1, NULL, 0); /* FORMERR of one that knows OPT is about something else */
    assert_int_equal(w.nasks, 1);
    assert_int_equal(rcode_of(&g), 1);
    assert_int_equal(ask_a("4.example", &g), 0);
    refuse_edns(1, 1);
    refuse_edns(2, 1); /* it was not OPT: nothing is remembered, and the next one is asked */
    assert_int_equal(w.nasks, 4);
    assert_int_equal(w.asks[3].upstream, 1);
    assert_true(has_opt(&w.asks[3]));
    fail_it(3, TN_E_CLOSED);
    assert_int_equal(g.err, 0);
    assert_int_equal(rcode_of(&g), 1);
    assert_int_equal(ask_a("5.example", &g), 0);
    assert_int_equal(w.asks[4].upstream, 0);
    assert_true(has_opt(&w.asks[4]));
    w.refuse[0] = TN_E_LIMIT; /* no second try there: the next one, as after any failure */
    refuse_edns(4, 1);
    assert_int_equal(w.asks[5].upstream, 1);
    reply(5, 0, &web, 1);
    assert_int_equal(answers_of(&g), 1);
    stop(NULL);
}

static void five_seconds(void **state)
{
    struct got g;
    start("a,b");
    assert_int_equal(ask_a("1.example", &g), 0);
    pass(1500000);
    assert_int_equal(w.nasks, 2);
    pass(3499999);
    assert_int_equal(g.calls, 0);
    pass(1);
    assert_int_equal(g.calls, 1);
    assert_int_equal(g.err, TN_E_TIMEDOUT);
    assert_int_equal(rcode_of(&g), 2);
    assert_int_equal(w.canceled, 2);
    assert_int_equal(tn_dns_next_deadline(w.d), TN_NEVER);
    stop(NULL);
}

static void garbage_is_a_failure(void **state)
{
    struct got g;
    start("a");
    assert_int_equal(ask_a("1.example", &g), 0);
    const struct record bad = {0, 5, 60, "\x3f" "abc", 4};
    reply(0, 0, &bad, 1);
    assert_int_equal(g.err, TN_E_MALFORMED);
    assert_int_equal(ask_a("1.example", &g), 0);
    uint8_t cut[] = "\0\0\x81\x80\0\1\0\1\0\0\0\0\1" "1\7example\0\0\1\0\1\xc0";
    w.asks[1].live = false;
    w.asks[1].answer(w.asks[1].arg, 0, cut, sizeof cut - 1);
    assert_int_equal(g.err, TN_E_MALFORMED);
    uint8_t other[] = "\0\0\x81\x80\0\1\0\0\0\0\0\0\1" "1\0\0\1\0\1"; /* of a shorter name, which no upstream lets pass */
    assert_int_equal(ask_a("1.example", &g), 0);
    w.asks[2].live = false;
    w.asks[2].answer(w.asks[2].arg, 0, other, sizeof other - 1);
    assert_int_equal(g.err, TN_E_MALFORMED);
    stop(NULL);
}

static void too_long_for_the_client(void **state)
{
    struct got g;
    struct record many[100];
    start("a");
    for (int i = 0; i < 100; i++) many[i] = web;
    assert_int_equal(ask_as(1, "big.example", 1, 0, 512, &g, NULL), 0);
    reply(0, 0, many, 100);
    assert_int_equal(g.len, 29);
    assert_true(g.bytes[2] & 2);
    assert_int_equal(answers_of(&g), 0);
    assert_int_equal(ask_as(1, "big.example", 1, 0, TN_DNS_MAX, &g, NULL), 0);
    pass(0);
    assert_false(g.bytes[2] & 2);
    assert_int_equal(answers_of(&g), 100);
    uint8_t q[512];
    assert_int_equal(tn_dns_udp_limit(q, question(q, 1, 0, "a", 1, 0, false)), 512);
    assert_int_equal(tn_dns_udp_limit(q, question(q, 1, 0, "a", 1, 900, false)), 900);
    assert_int_equal(tn_dns_udp_limit(q, question(q, 1, 0, "a", 1, 4096, false)), 1232);
    assert_int_equal(tn_dns_udp_limit(q, question(q, 1, 0, "a", 1, 100, false)), 512);
    assert_int_equal(tn_dns_udp_limit(q, 11), 512);
    stop(NULL);
}

static void questions_for_nobody(void **state)
{
    struct got g;
    struct tn_dns_query *out;
    uint8_t q[512];
    start("a");
    static const struct { uint16_t flags, type; unsigned rcode; } t[] = {
        {0x2900, 1, 4}, {0x0100, 252, 5}, {0x0100, 251, 5}, {0x0100, 41, 1}};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        size_t n = question(q, 7, t[i].flags, "a.example", t[i].type, 0, false);
        g = (struct got){0};
        assert_int_equal(tn_dns_ask(w.d, 1, q, n, TN_DNS_MAX, w.now_us, on_got, &g, &out), 0);
        pass(0);
        assert_int_equal(g.calls, 1);
        assert_int_equal(rcode_of(&g), t[i].rcode);
    }
    size_t n = question(q, 7, 0x0100, "a.example", 1, 1232, false);
    q[n - 11 - 2 - 3] = 1; /* EDNS version 1 */
    g = (struct got){0};
    assert_int_equal(tn_dns_ask(w.d, 1, q, n, TN_DNS_MAX, w.now_us, on_got, &g, &out), 0);
    pass(0);
    assert_int_equal(rcode_of(&g) | g.bytes[g.len - 11 + 5] << 4, 16);
    for (size_t cut = 0; cut < n; cut++) {
        int err = tn_dns_ask(w.d, 1, q, cut, TN_DNS_MAX, w.now_us, on_got, &g, &out);
        assert_int_equal(err, TN_E_MALFORMED); /* the OPT that was announced is not there */
    }
    w.mode = TN_EGRESS_OFF;
    assert_int_equal(ask_a("a.example", &g), TN_E_POLICY);
    assert_int_equal(w.nasks, 0);
    stop(NULL);
}

static void what_was_learned_elsewhere_is_forgotten(void **state)
{
    struct got g;
    start("a");
    assert_int_equal(ask_a("a.example", &g), 0);
    reply(0, 0, &web, 1);
    w.mode = TN_EGRESS_HOST;
    assert_int_equal(ask_a("a.example", &g), 0);
    assert_int_equal(w.nasks, 2);
    reply(1, 0, &web, 1);
    tn_dns_reset(w.d);
    assert_int_equal(w.resets, 1);
    assert_int_equal(ask_a("a.example", &g), 0);
    assert_int_equal(w.nasks, 3);
    /* What was under way is told, and forgotten as well. */
    unsigned learned_before = learned.n;
    tn_dns_reset(w.d);
    reply(2, 0, &web, 1);
    assert_int_equal(answers_of(&g), 1);
    assert_int_equal(learned.n, learned_before);
    assert_int_equal(ask_a("a.example", &g), 0);
    assert_int_equal(w.nasks, 4);
    tn_dns_reset_peer(w.d, 2);
    reply(3, 0, &web, 1);
    assert_int_equal(ask_a("a.example", &g), 0); /* another peer's session: none of its business */
    assert_int_equal(w.nasks, 4);
    assert_int_equal(ask_a("b.example", &g), 0);
    tn_dns_reset_peer(w.d, 1);
    reply(4, 0, &web, 1);
    assert_int_equal(ask_a("b.example", &g), 0);
    assert_int_equal(w.nasks, 6);
    stop(NULL);
}

static void answers_lead_where_there_is_a_way(void **state)
{
    static const char binding[] = "\0\1\0" "\0\1\0\6\2h3\2h2" "\0\6\0\x10" "0123456789abcdef";
    const struct record https = {0, 65, 300, binding, sizeof binding - 1};
    const struct record six = {0, 28, 300, "0123456789abcdef", 16};
    struct got g;
    start("a");
    w.no_udp = w.no_ipv6 = true;
    assert_int_equal(ask_as(1, "a.example", 65, 0, TN_DNS_MAX, &g, NULL), 0);
    reply(0, 0x20, &https, 1);
    assert_int_equal(answers_of(&g), 1);
    assert_int_equal(g.len, 27 + 12 + 3 + 7);
    assert_int_equal(ask_as(1, "a.example", 28, 0, TN_DNS_MAX, &g, NULL), 0);
    reply(1, 0, &six, 1);
    assert_int_equal(answers_of(&g), 0);
    assert_int_equal(rcode_of(&g), 0);
    assert_int_equal(ask_as(1, "a.example", 28, 0, TN_DNS_MAX, &g, NULL), 0);
    assert_int_equal(w.nasks, 2); /* as long as the real answer would be */
    pass(0);
    /* Who verifies signatures gets what was signed. */
    uint8_t q[512];
    struct tn_dns_query *out;
    size_t n = question(q, 7, 0x0100, "a.example", 28, 1232, true);
    g = (struct got){0};
    assert_int_equal(tn_dns_ask(w.d, 1, q, n, TN_DNS_MAX, w.now_us, on_got, &g, &out), 0);
    assert_int_equal(w.nasks, 3);
    reply(2, 0x20, &six, 1);
    assert_int_equal(answers_of(&g), 1);
    assert_int_equal(g.bytes[3] & 0x20, 0x20);
    assert_int_equal(ask_as(9, "a.example", 28, 0, TN_DNS_MAX, &g, NULL), 0); /* a peer that has a way */
    reply(3, 0x20, &six, 1);
    assert_int_equal(answers_of(&g), 1);
    assert_int_equal(g.bytes[3] & 0x20, 0); /* not asked for */
    /* Other settings: at once, also for what was asked before and is answered after. */
    assert_int_equal(ask_as(1, "b.example", 28, 0, TN_DNS_MAX, &g, NULL), 0);
    w.no_udp = w.no_ipv6 = false;
    reply(4, 0, &six, 1);
    assert_int_equal(answers_of(&g), 0);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(ask_as(1, i ? "b.example" : "a.example", 28, 0, TN_DNS_MAX, &g, NULL), 0);
        reply(5 + i, 0, &six, 1);
        assert_int_equal(answers_of(&g), 1);
    }
    w.no_ipv6 = true;
    assert_int_equal(ask_as(1, "a.example", 28, 0, TN_DNS_MAX, &g, NULL), 0);
    assert_int_equal(w.nasks, 8);
    stop(NULL);
}

static void expect_asked(unsigned i, int upstream, uint64_t peer)
{
    assert_int_equal(w.nasks, i + 1);
    assert_int_equal(w.asks[i].upstream, upstream);
    assert_int_equal(w.peer[upstream], peer);
}

static void each_peer_goes_its_own_way(void **state)
{
    struct got g[8];
    start("a,b");
    assert_int_equal(w.made, 2);
    assert_int_equal(ask_as(7, "shared.example", 1, 0, TN_DNS_MAX, &g[0], NULL), 0);
    expect_asked(0, 0, 0);
    w.by_peer = true;
    assert_int_equal(ask_as(7, "one.example", 1, 0, TN_DNS_MAX, &g[1], NULL), 0);
    expect_asked(1, 2, 7);
    assert_int_equal(ask_as(8, "one.example", 1, 0, TN_DNS_MAX, &g[2], NULL), 0);
    expect_asked(2, 4, 8);
    fail_it(1, TN_E_REFUSED); /* for one of them */
    expect_asked(3, 3, 7);
    assert_int_equal(ask_as(8, "two.example", 1, 0, TN_DNS_MAX, &g[3], NULL), 0);
    expect_asked(4, 4, 8);
    assert_int_equal(ask_as(7, "two.example", 1, 0, TN_DNS_MAX, &g[4], NULL), 0);
    expect_asked(5, 3, 7);
    for (unsigned i = 0; i < 6; i++)
        if (i != 1) reply(i, 0x8180, &web, 1);
    pass(1);
    for (int i = 0; i < 5; i++) assert_int_equal(g[i].calls, 1);

    tn_dns_reset_peer(w.d, 7); /* its session is another one now, and 8's is not */
    assert_int_equal(w.resets, 2);
    assert_int_equal(ask_as(8, "one.example", 1, 0, TN_DNS_MAX, &g[5], NULL), 0);
    assert_int_equal(w.nasks, 6); /* out of the cache */
    assert_int_equal(ask_as(7, "one.example", 1, 0, TN_DNS_MAX, &g[6], NULL), 0);
    expect_asked(6, 2, 7);
    reply(6, 0x8180, &web, 1);
    pass(119 * 1000000);
    assert_int_equal(w.freed, 0);
    pass(2 * 1000000);
    assert_int_equal(w.freed, 4); /* and everybody's stays */
    assert_int_equal(ask_as(7, "three.example", 1, 0, TN_DNS_MAX, &g[7], NULL), 0);
    expect_asked(7, 6, 7);
    stop(NULL);
}

static void ways_are_limited_and_never_lent(void **state)
{
    static struct got g[TN_DNS_WAYS_MAX + 2];
    start("a");
    w.by_peer = true;
    for (unsigned i = 1; i < TN_DNS_WAYS_MAX; i++)
        assert_int_equal(ask_as(i, "busy.example", 1, 0, TN_DNS_MAX, &g[i], NULL), 0);
    assert_int_equal(ask_as(1000, "late.example", 1, 0, TN_DNS_MAX, &g[0], NULL), TN_E_LIMIT);
    assert_int_equal(w.nasks, TN_DNS_WAYS_MAX - 1);
    reply(4, 0x8180, &web, 1); /* peer 5 is done */
    assert_int_equal(ask_as(1000, "late.example", 1, 0, TN_DNS_MAX, &g[0], NULL), 0);
    expect_asked(TN_DNS_WAYS_MAX - 1, TN_DNS_WAYS_MAX, 1000);
    assert_int_equal(w.freed, 0); /* its upstream may be the one that is calling */
    pass(1);
    assert_int_equal(w.freed, 1);
    assert_int_equal(ask_as(5, "again.example", 1, 0, TN_DNS_MAX, &g[5], NULL), TN_E_LIMIT);
    stop(NULL);
    assert_int_equal(w.freed, w.made);
}

static struct got asked_again;

/* A client that asks anew, for another peer, as soon as it hears that it failed. */
static void ask_again(void *arg, int err, const uint8_t *bytes, size_t len)
{
    const uint64_t *peer = arg;
    assert_int_equal(err, TN_E_RESET);
    (void)ask_as(*peer, "again.example", 1, 0, TN_DNS_MAX, &asked_again, NULL);
}

static void a_reset_that_fails_questions_and_makes_new_ones(void **state)
{
    static struct got g[TN_DNS_WAYS_MAX];
    static uint64_t peer = 1000;
    struct tn_dns_query *out;
    uint8_t q[512];
    start("a");
    w.by_peer = true;
    size_t n = question(q, 7, 0x0100, "mine.example", 1, 0, false);
    assert_int_equal(tn_dns_ask(w.d, 1, q, n, TN_DNS_MAX, w.now_us, ask_again, &peer, &out), 0);
    for (unsigned i = 1; i < TN_DNS_WAYS_MAX; i++)
        assert_int_equal(ask_as(i, "busy.example", 1, 0, TN_DNS_MAX, &g[i], NULL), 0);
    for (unsigned i = 2; i < TN_DNS_WAYS_MAX; i++) reply(i, 0x8180, &web, 1); /* all but peer 1's ways are idle */
    w.reset_fails = true;
    tn_dns_reset(w.d); /* the new peer's way takes the place of peer 2's, which is the next to be reset */
    assert_int_equal(w.resets, TN_DNS_WAYS_MAX);
    assert_int_equal(w.nasks, TN_DNS_WAYS_MAX);
    assert_int_equal(tn_dns_next_deadline(w.d), 0);
    pass(0); /* now they hear of it */
    assert_int_equal(g[1].calls, 1);
    assert_int_equal(g[1].err, TN_E_RESET);
    expect_asked(TN_DNS_WAYS_MAX, TN_DNS_WAYS_MAX, 1000);
    assert_int_equal(w.freed, 0);
    pass(1);
    assert_int_equal(w.freed, 1);
    stop(NULL);
    assert_int_equal(w.freed, w.made);
}

static void other_upstreams(void **state)
{
    struct got g[4];
    start("a");
    assert_int_equal(ask_as(1, "kept.example", 1, 0, TN_DNS_MAX, &g[0], NULL), 0);
    reply(0, 0, &web, 1);
    assert_int_equal(ask_as(1, "under.way", 1, 0, TN_DNS_MAX, &g[0], NULL), 0);
    w.by_peer = true;
    assert_int_equal(ask_as(7, "under.way", 1, 0, TN_DNS_MAX, &g[1], NULL), 0);
    assert_int_equal(tn_dns_set_upstreams(w.d, "b,c"), 0);
    expect_asked(2, 1, 7);
    assert_int_equal(w.made, 4);
    assert_int_equal(ask_as(7, "kept.example", 1, 0, TN_DNS_MAX, &g[2], NULL), 0);
    expect_asked(3, 4, 7);
    w.by_peer = false;
    assert_int_equal(ask_as(1, "kept.example", 1, 0, TN_DNS_MAX, &g[3], NULL), 0); /* what was learned is forgotten */
    expect_asked(4, 2, 0);
    pass(1);
    assert_int_equal(w.freed, 0); /* two wait for their answers still */
    reply(1, 0, &web, 1);
    pass(1);
    assert_int_equal(w.freed, 1);
    pass(5 * 1000000);
    assert_int_equal(g[0].calls, 1);
    assert_int_equal(g[1].err, TN_E_TIMEDOUT);
    pass(1);
    assert_int_equal(w.freed, 2);
    stop(NULL);
    assert_int_equal(w.freed, w.made);
}

static void one_peer_does_not_take_it_all(void **state)
{
    static struct got g;
    start("a");
    for (unsigned i = 0; i < QUERIES_PER_PEER; i++) assert_int_equal(ask_a("same.example", &g), 0);
    assert_int_equal(ask_a("same.example", &g), TN_E_LIMIT);
    assert_int_equal(ask_as(2, "same.example", 1, 0, TN_DNS_MAX, &g, NULL), 0);
    stop(NULL);
}

static void names_that_never_answer(void **state)
{
    static struct got g;
    char name[32];
    unsigned taken = 0;
    start("a");
    w.fills = true;
    for (unsigned i = 0; i < TN_DNS_INFLIGHT_MAX; i++) {
        snprintf(name, sizeof name, "n%u.example", i);
        taken += ask_a(name, &g) == 0;
    }
    assert_int_equal(taken, QUERIES_PER_PEER);
    assert_int_equal(ask_as(2, "other.example", 1, 0, TN_DNS_MAX, &g, NULL), 0); /* another peer's */
    /* Many such peers: each gets less than the one before it, and the next one's question is taken. */
    for (unsigned p = 3, before = taken; p < 13; p++) {
        unsigned mine = 0;
        for (unsigned i = 0; i < QUERIES_PER_PEER; i++) {
            snprintf(name, sizeof name, "n%u.example", i);
            mine += ask_as(p, name, 1, 0, TN_DNS_MAX, &g, NULL) == 0;
        }
        assert_true(mine > 0 && mine <= before);
        before = mine;
    }
    stop(NULL);
}

/* What an upstream did not ask for want of room tells nothing of it. */
static void no_room_is_no_failure(void **state)
{
    static struct got g;
    start("a,b");
    w.refuse[0] = TN_E_LIMIT;
    assert_int_equal(ask_a("one.example", &g), 0);
    w.refuse[0] = 0;
    assert_int_equal(ask_a("two.example", &g), 0);
    assert_int_equal(w.asks[0].upstream, 1);
    assert_int_equal(w.asks[1].upstream, 0);
    w.refuse[0] = TN_E_REFUSED;
    assert_int_equal(ask_a("three.example", &g), 0);
    w.refuse[0] = 0;
    assert_int_equal(ask_a("four.example", &g), 0);
    assert_int_equal(w.asks[2].upstream, 1);
    assert_int_equal(w.asks[3].upstream, 1);
    stop(NULL);
}

/* A change of the policy after one of the upstreams: questions under way leave the connections of before. */
static void a_reset_reaches_those_who_leave(void **state)
{
    static struct got g;
    start("a");
    assert_int_equal(ask_a("under.way", &g), 0);
    assert_int_equal(tn_dns_set_upstreams(w.d, "b"), 0);
    tn_dns_reset(w.d);
    assert_int_equal(w.resets, 2);
    stop(NULL);
}

static void the_cache_is_bounded(void **state)
{
    static uint64_t seed = 5;
    struct tn_rng rng = tn_rng_seeded(&seed);
    struct tn_dns_cache *c = tn_dns_cache_new(&rng, 20000);
    uint8_t q[512], body[2000] = {0};
    struct tn_dns_question parsed;
    struct tn_dns_key quiet, busy, big;
    struct tn_dns_adjust plain = {0};
    struct tn_dns_answer a = {.bytes = body, .len = 100, .ttl_s = 60};
    size_t entries, bytes;
    assert_int_equal(tn_dns_question_parse(q, question(q, 1, 0, "quiet.example", 1, 0, false), &parsed), 0);
    tn_dns_key_make(&quiet, 2, &parsed, &plain);
    struct tn_dns_kept *k = tn_dns_kept_new(&a, 0);
    tn_dns_cache_put(c, &quiet, 2, k);
    for (int i = 0; i < 1000; i++) {
        char name[32];
        snprintf(name, sizeof name, "n%d.example", i);
        assert_int_equal(tn_dns_question_parse(q, question(q, 1, 0, name, 1, 0, false), &parsed), 0);
        tn_dns_key_make(&busy, 1, &parsed, &plain);
        tn_dns_cache_put(c, &busy, 1, k);
        tn_dns_cache_size(c, &entries, &bytes);
        assert_true(bytes <= 20000);
    }
    assert_true(entries > 50);
    struct tn_dns_kept *still = tn_dns_cache_find(c, &quiet, 0); /* one that asks all the time displaces its own */
    assert_non_null(still);
    tn_dns_kept_unref(still);
    a.len = TN_DNS_CACHE_ENTRY_MAX + 1;
    uint8_t *large = calloc(1, a.len);
    a.bytes = large;
    struct tn_dns_kept *l = tn_dns_kept_new(&a, 0);
    assert_int_equal(tn_dns_question_parse(q, question(q, 1, 0, "big.example", 1, 0, false), &parsed), 0);
    tn_dns_key_make(&big, 1, &parsed, &plain);
    tn_dns_cache_put(c, &big, 1, l);
    assert_null(tn_dns_cache_find(c, &big, 0));
    tn_dns_kept_unref(l);
    tn_dns_kept_unref(k);
    free(large);
    tn_dns_cache_forget_peer(c, 1);
    tn_dns_cache_size(c, &entries, &bytes);
    assert_int_equal(entries, 1);
    tn_dns_cache_free(c);
}

static void whole_life(void *arg)
{
    static struct got g, h;
    static uint64_t seed = 9;
    w = (struct world){.mode = TN_EGRESS_PROXY, .now_us = 1000000};
    struct tn_dns_config dc = {.upstreams = "a,b", .rng = tn_rng_seeded(&seed), .now = fake_now};
    if (tn_dns_new(&dc, &w.d) != 0) return;
    bool one = ask_a("a.example", &g) == 0, two = ask_a("A.example", &h) == 0;
    for (unsigned i = 0; i < w.nasks; i++)
        if (w.asks[i].live) reply(i, 0, &web, 1);
    pass(5000000);
    assert_int_equal(g.calls, one);
    assert_int_equal(h.calls, two);
    (void)tn_dns_set_upstreams(w.d, "c");
    if (ask_a("a.example", &g) == 0 && w.nasks && w.asks[w.nasks - 1].live) fail_it(w.nasks - 1, TN_E_CLOSED);
    tn_dns_free(w.d);
}

static void out_of_memory(void **state)
{
    for (long n = 0; failalloc_run(n, whole_life, NULL); n++) {}
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(asked_in_one_form),
        cmocka_unit_test(the_cache_is_the_peers_own_and_ends),
        cmocka_unit_test(negative_answers),
        cmocka_unit_test(the_same_is_asked_once),
        cmocka_unit_test(upstreams_in_order),
        cmocka_unit_test(servers_that_do_not_know_edns),
        cmocka_unit_test(five_seconds),
        cmocka_unit_test(garbage_is_a_failure),
        cmocka_unit_test(too_long_for_the_client),
        cmocka_unit_test(questions_for_nobody),
        cmocka_unit_test(what_was_learned_elsewhere_is_forgotten),
        cmocka_unit_test(answers_lead_where_there_is_a_way),
        cmocka_unit_test(each_peer_goes_its_own_way),
        cmocka_unit_test(ways_are_limited_and_never_lent),
        cmocka_unit_test(a_reset_that_fails_questions_and_makes_new_ones),
        cmocka_unit_test(other_upstreams),
        cmocka_unit_test(one_peer_does_not_take_it_all),
        cmocka_unit_test(names_that_never_answer), cmocka_unit_test(no_room_is_no_failure),
        cmocka_unit_test(a_reset_reaches_those_who_leave),
        cmocka_unit_test(the_cache_is_bounded),
        cmocka_unit_test(out_of_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
