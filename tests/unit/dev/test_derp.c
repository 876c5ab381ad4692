#include "support.h"
#include "../../../dev/derp.c"

/* A client's end of a connection: what it was sent, frame by frame. */
struct peer {
    struct tn_dev_derp_client *c;
    struct tn_node_private private;
    struct tn_node_public key;
    bool woken, expired;
};

static struct tn_dev_derp *d;
static uint64_t seed;
static struct tn_rng rng;
static struct tn_node_private server;
static struct tn_node_public server_public;
static struct tn_dev_now now;
static bool refuse;

static void on_wake(void *conn) { ((struct peer *)conn)->woken = true; }
static void on_expire(void *conn) { ((struct peer *)conn)->expired = true; }
static bool on_admit(void *ctx, const struct tn_node_public *key) { return !refuse; }

static int setup(void **state)
{
    seed = 3;
    rng = tn_rng_seeded(&seed);
    now = (struct tn_dev_now){.us = 5 * TN_DEV_SECOND, .unix_s = 1000};
    refuse = false;
    tn_node_private_generate(&server, &rng);
    tn_node_public_of(&server, &server_public);
    struct tn_dev_derp_config cfg = {
        .key = server, .rng = rng, .admit = on_admit, .wake = on_wake, .expire = on_expire};
    assert_int_equal(tn_dev_derp_new(&cfg, &d), 0);
    return 0;
}

static int teardown(void **state)
{
    tn_dev_derp_free(d);
    return 0;
}

/* The next frame sent to p, which must be of this type; the caller frees it. */
static struct tn_dev_derp_frame *expect_frame(struct peer *p, enum tn_derp_type type, struct tn_derp_frame *f)
{
    struct tn_dev_derp_frame *raw = tn_dev_derp_take(p->c);
    assert_non_null(raw);
    assert_int_equal(tn_derp_frame_split(raw->bytes, raw->len, TN_DERP_FRAME_MAX, f), raw->len);
    assert_int_equal(f->type, type);
    assert_int_equal(tn_derp_frame_parse(f), 0);
    return raw;
}

static void expect_nothing(struct peer *p) { assert_null(tn_dev_derp_take(p->c)); }

static void connect_peer(struct peer *p)
{
    p->woken = p->expired = false;
    assert_int_equal(tn_dev_derp_client_new(d, p, now, &p->c), 0);
    assert_true(p->woken);
}

static size_t client_info(const struct peer *p, const struct tn_node_public *to, const char *text, uint8_t *out,
                          size_t cap)
{
    struct tn_box_shared shared;
    uint8_t box[4096];
    size_t len = strlen(text);
    assert_int_equal(tn_box_shared_init(&shared, p->private.b, to->b), 0);
    tn_box_seal(&shared, &rng, text, len, box);
    struct tn_wr w = tn_wr_init(out, cap);
    tn_derp_client_info_put(&w, p->key.b, box, len + TN_BOX_OVERHEAD);
    assert_true(tn_wr_ok(&w));
    return tn_wr_len(&w);
}

static int greet_with(struct peer *p, const char *text)
{
    uint8_t bytes[8192];
    size_t len = client_info(p, &server_public, text, bytes, sizeof bytes);
    return tn_dev_derp_input(p->c, bytes, len, now);
}

static void new_key(struct peer *p)
{
    tn_node_private_generate(&p->private, &rng);
    tn_node_public_of(&p->private, &p->key);
}

/* Connected, greeted, both greeting frames checked. */
static void join(struct peer *p)
{
    struct tn_derp_frame f;
    connect_peer(p);
    struct tn_dev_derp_frame *raw = expect_frame(p, TN_DERP_SERVER_KEY, &f);
    assert_memory_equal(f.key, server_public.b, 32);
    free(raw);
    assert_int_equal(greet_with(p, TN_DERP_CLIENT_INFO_JSON), 0);
    raw = expect_frame(p, TN_DERP_SERVER_INFO, &f);
    struct tn_box_shared shared;
    uint8_t text[64];
    assert_int_equal(tn_box_shared_init(&shared, p->private.b, server_public.b), 0);
    assert_int_equal(tn_box_open(&shared, f.data, f.data_len, text), 0);
    assert_memory_equal(text, "{\"version\":2}", 13);
    free(raw);
    expect_nothing(p);
}

static int send_to(struct peer *from, const struct tn_node_public *to, const void *packet, size_t len)
{
    static uint8_t bytes[TN_DERP_PACKET_MAX + 4096];
    struct tn_wr w = tn_wr_init(bytes, sizeof bytes);
    tn_derp_packet_put(&w, TN_DERP_SEND_PACKET, to->b, packet, len);
    assert_true(tn_wr_ok(&w));
    return tn_dev_derp_input(from->c, bytes, tn_wr_len(&w), now);
}

static void expect_packet(struct peer *p, const struct tn_node_public *from, const char *text)
{
    struct tn_derp_frame f;
    struct tn_dev_derp_frame *raw = expect_frame(p, TN_DERP_RECV_PACKET, &f);
    assert_memory_equal(f.key, from->b, 32);
    assert_int_equal(f.data_len, strlen(text));
    assert_memory_equal(f.data, text, f.data_len);
    free(raw);
}

static void expect_gone(struct peer *p, const struct tn_node_public *who, int reason)
{
    struct tn_derp_frame f;
    struct tn_dev_derp_frame *raw = expect_frame(p, TN_DERP_PEER_GONE, &f);
    assert_memory_equal(f.key, who->b, 32);
    assert_int_equal(f.reason, reason);
    free(raw);
}

static void relays(void **state)
{
    struct peer a, b;
    new_key(&a);
    new_key(&b);
    join(&a);
    join(&b);
    assert_int_equal(tn_dev_derp_clients(d), 2);
    assert_int_equal(send_to(&a, &b.key, "hello", 5), 0);
    expect_packet(&b, &a.key, "hello");
    expect_nothing(&a);
    tn_dev_derp_client_free(a.c);
    expect_gone(&b, &a.key, TN_DERP_GONE_DISCONNECTED); /* it had packets from a */
    tn_dev_derp_client_free(b.c);
}

static void any_cut(void **state)
{
    struct peer a, b;
    new_key(&a);
    new_key(&b);
    join(&b);
    connect_peer(&a);
    uint8_t bytes[1024];
    size_t len = client_info(&a, &server_public, "{}", bytes, sizeof bytes);
    struct tn_wr w = tn_wr_init(bytes + len, sizeof bytes - len);
    tn_derp_note_preferred_put(&w, true);
    tn_derp_packet_put(&w, TN_DERP_SEND_PACKET, b.key.b, (const uint8_t *)"one", 3);
    tn_derp_header_put(&w, 0x77, 3); /* a type of the future is skipped */
    tn_wr_bytes(&w, "xyz", 3);
    tn_derp_packet_put(&w, TN_DERP_SEND_PACKET, b.key.b, (const uint8_t *)"two", 3);
    assert_true(tn_wr_ok(&w));
    len += tn_wr_len(&w);
    for (size_t cut = 1; cut <= 80; cut++) {
        for (size_t at = 0; at < len; at += cut) {
            size_t n = len - at < cut ? len - at : cut;
            uint8_t *exact = malloc(n);
            memcpy(exact, bytes + at, n);
            assert_int_equal(tn_dev_derp_input(a.c, exact, n, now), 0);
            free(exact);
        }
        expect_packet(&b, &a.key, "one");
        expect_packet(&b, &a.key, "two");
        tn_dev_derp_client_free(a.c);
        expect_gone(&b, &a.key, TN_DERP_GONE_DISCONNECTED);
        connect_peer(&a);
    }
    tn_dev_derp_client_free(a.c);
    tn_dev_derp_client_free(b.c);
}

static void bad_greetings(void **state)
{
    struct peer a, other;
    uint8_t bytes[1024];
    size_t len;
    new_key(&a);
    new_key(&other);
    static const struct {
        const char *text;
        int err;
    } infos[] = {{"", TN_E_PROTO}, {"[]", TN_E_PROTO}, {"{", TN_E_PROTO}, {"{}x", TN_E_PROTO}};
    for (size_t i = 0; i < sizeof infos / sizeof *infos; i++) {
        connect_peer(&a);
        assert_int_equal(greet_with(&a, infos[i].text), infos[i].err);
        tn_dev_derp_client_free(a.c);
    }
    connect_peer(&a); /* sealed for another server */
    len = client_info(&a, &other.key, "{}", bytes, sizeof bytes);
    assert_int_equal(tn_dev_derp_input(a.c, bytes, len, now), TN_E_CRYPTO);
    tn_dev_derp_client_free(a.c);

    connect_peer(&a); /* another's key over our box */
    len = client_info(&a, &server_public, "{}", bytes, sizeof bytes);
    memcpy(bytes + TN_DERP_HEADER_LEN, other.key.b, 32);
    assert_int_equal(tn_dev_derp_input(a.c, bytes, len, now), TN_E_CRYPTO);
    tn_dev_derp_client_free(a.c);

    connect_peer(&a); /* a low-order key */
    memset(bytes + TN_DERP_HEADER_LEN, 0, 32);
    assert_int_equal(tn_dev_derp_input(a.c, bytes, len, now), TN_E_CRYPTO);
    tn_dev_derp_client_free(a.c);

    connect_peer(&a); /* too short for a key */
    struct tn_wr w = tn_wr_init(bytes, sizeof bytes);
    tn_derp_header_put(&w, TN_DERP_CLIENT_INFO, 31);
    assert_int_equal(tn_dev_derp_input(a.c, bytes, TN_DERP_HEADER_LEN + 31, now), TN_E_PROTO);
    tn_dev_derp_client_free(a.c);

    connect_peer(&a); /* anything else first */
    w = tn_wr_init(bytes, sizeof bytes);
    tn_derp_keep_alive_put(&w);
    assert_int_equal(tn_dev_derp_input(a.c, bytes, tn_wr_len(&w), now), TN_E_PROTO);
    tn_dev_derp_client_free(a.c);

    connect_peer(&a); /* larger than Go reads */
    w = tn_wr_init(bytes, sizeof bytes);
    tn_derp_header_put(&w, TN_DERP_CLIENT_INFO, TN_DERP_CLIENT_INFO_MAX + 1);
    assert_int_equal(tn_dev_derp_input(a.c, bytes, tn_wr_len(&w), now), TN_E_TOOBIG);
    tn_dev_derp_client_free(a.c);

    refuse = true;
    connect_peer(&a);
    assert_int_equal(greet_with(&a, "{}"), TN_E_POLICY);
    tn_dev_derp_client_free(a.c);
    assert_int_equal(tn_dev_derp_clients(d), 0);
}

static void bad_frames(void **state)
{
    static const struct {
        uint8_t type;
        uint32_t len;
        int err;
    } cases[] = {
        {TN_DERP_SEND_PACKET, 31, TN_E_PROTO},  {TN_DERP_SEND_PACKET, 32 + TN_DERP_PACKET_MAX + 1, TN_E_TOOBIG},
        {TN_DERP_PING, 7, TN_E_PROTO},          {TN_DERP_PING, 1001, TN_E_PROTO},
        {TN_DERP_NOTE_PREFERRED, 0, TN_E_PROTO}, {TN_DERP_NOTE_PREFERRED, 2, TN_E_PROTO},
        {TN_DERP_WATCH_CONNS, 0, TN_E_POLICY},  {TN_DERP_CLOSE_PEER, 32, TN_E_POLICY},
        {TN_DERP_FORWARD_PACKET, 70, TN_E_POLICY}, {0x77, 1 << 20, TN_E_TOOBIG},
    };
    static uint8_t bytes[128 * 1024];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct peer a;
        new_key(&a);
        join(&a);
        struct tn_wr w = tn_wr_init(bytes, sizeof bytes);
        tn_derp_header_put(&w, cases[i].type, cases[i].len);
        size_t len = TN_DERP_HEADER_LEN + cases[i].len;
        if (len > sizeof bytes) len = sizeof bytes;
        assert_int_equal(tn_dev_derp_input(a.c, bytes, len, now), cases[i].err);
        tn_dev_derp_client_free(a.c);
    }
}

static void pings(void **state)
{
    struct peer a;
    struct tn_derp_frame f;
    uint8_t bytes[64];
    new_key(&a);
    join(&a);
    struct tn_wr w = tn_wr_init(bytes, sizeof bytes);
    tn_derp_ping_put(&w, TN_DERP_PING, (const uint8_t *)"12345678");
    assert_int_equal(tn_dev_derp_input(a.c, bytes, tn_wr_len(&w), now), 0);
    struct tn_dev_derp_frame *raw = expect_frame(&a, TN_DERP_PONG, &f);
    assert_memory_equal(f.data, "12345678", 8);
    free(raw);
    /* However many come unread, the answers are bounded. */
    for (int i = 0; i < 1000; i++) tn_dev_derp_input(a.c, bytes, tn_wr_len(&w), now);
    int n = 0;
    while ((raw = tn_dev_derp_take(a.c))) {
        free(raw);
        n++;
    }
    assert_int_equal(n, TN_DEV_DERP_CONTROL_MAX);
    tn_dev_derp_client_free(a.c);
}

static void queues_drop_the_oldest(void **state)
{
    struct peer a, b;
    char text[128];
    static const char disco_magic[] = "TS\xf0\x9f\x92\xac";
    new_key(&a);
    new_key(&b);
    join(&a);
    join(&b);
    memset(text, 'd', sizeof text);
    memcpy(text, disco_magic, 6);
    text[sizeof text - 1] = '\0';
    assert_int_equal(send_to(&a, &b.key, text, sizeof text - 1), 0);
    for (int i = 0; i < 100; i++) {
        char packet[8];
        snprintf(packet, sizeof packet, "%d", i);
        assert_int_equal(send_to(&a, &b.key, packet, strlen(packet)), 0);
    }
    expect_packet(&b, &a.key, text); /* packets don't push disco out */
    for (int i = 100 - TN_DEV_DERP_QUEUE; i < 100; i++) {
        char packet[8];
        snprintf(packet, sizeof packet, "%d", i);
        expect_packet(&b, &a.key, packet);
    }
    expect_nothing(&b);
    static char largest[TN_DERP_PACKET_MAX];
    assert_int_equal(send_to(&a, &b.key, largest, sizeof largest), 0);
    struct tn_dev_derp_frame *raw = tn_dev_derp_take(b.c);
    assert_int_equal(raw->len, TN_DERP_PACKET_HEADER_LEN + TN_DERP_PACKET_MAX);
    free(raw);
    tn_dev_derp_client_free(a.c);
    tn_dev_derp_client_free(b.c);
}

static void not_here(void **state)
{
    struct peer a;
    char disco[100] = "TS\xf0\x9f\x92\xac";
    struct tn_node_public nobody = nkey(1);
    new_key(&a);
    join(&a);
    assert_int_equal(send_to(&a, &nobody, "data", 4), 0); /* only disco is answered */
    expect_nothing(&a);
    for (int i = 0; i < 10; i++) send_to(&a, &nobody, disco, sizeof disco);
    for (int i = 0; i < GONE_BURST; i++) expect_gone(&a, &nobody, TN_DERP_GONE_NOT_HERE);
    expect_nothing(&a);
    now.us += TN_DEV_SECOND;
    for (int i = 0; i < 10; i++) send_to(&a, &nobody, disco, sizeof disco);
    expect_gone(&a, &nobody, TN_DERP_GONE_NOT_HERE);
    expect_nothing(&a);
    tn_dev_derp_client_free(a.c);
}

static void several_connections_of_one_key(void **state)
{
    struct peer a, b1, b2;
    new_key(&a);
    new_key(&b1);
    b2 = b1;
    join(&a);
    join(&b1);
    join(&b2);
    send_to(&a, &b1.key, "x", 1);
    expect_nothing(&b1);
    expect_packet(&b2, &a.key, "x"); /* the newest */
    send_to(&b1, &a.key, "y", 1);
    expect_packet(&a, &b1.key, "y");
    send_to(&a, &b1.key, "z", 1);
    expect_packet(&b1, &a.key, "z"); /* the one heard last */
    tn_dev_derp_client_free(b1.c);
    expect_nothing(&a); /* the key is still here */
    send_to(&a, &b2.key, "w", 1);
    expect_packet(&b2, &a.key, "w");
    tn_dev_derp_client_free(b2.c);
    expect_gone(&a, &b2.key, TN_DERP_GONE_DISCONNECTED);
    tn_dev_derp_client_free(a.c);
}

static void timers(void **state)
{
    struct peer a, silent;
    struct tn_derp_frame f;
    new_key(&a);
    join(&a);
    connect_peer(&silent);
    uint64_t start = now.us;
    assert_int_equal(tn_dev_derp_next_deadline(d), start + TN_DEV_DERP_GREET_TIME * TN_DEV_SECOND);
    now.us = start + TN_DEV_DERP_GREET_TIME * TN_DEV_SECOND;
    tn_dev_derp_timeout(d, now);
    assert_true(silent.expired && !a.expired);
    tn_dev_derp_client_free(silent.c);
    for (int i = 1; i <= 3; i++) {
        assert_int_equal(tn_dev_derp_next_deadline(d), start + (uint64_t)i * TN_DEV_DERP_KEEP_ALIVE * TN_DEV_SECOND);
        now.us = tn_dev_derp_next_deadline(d);
        tn_dev_derp_timeout(d, now);
        free(expect_frame(&a, TN_DERP_KEEP_ALIVE, &f));
    }
    tn_dev_derp_client_free(a.c);
    assert_true(tn_dev_derp_next_deadline(d) == TN_NEVER);
}

static void sources_are_bounded(void **state)
{
    struct peer b;
    new_key(&b);
    join(&b);
    for (unsigned i = 0; i < 2 * TN_DEV_DERP_SOURCES_MAX; i++) {
        struct tn_node_public k = nkey(i);
        note_source(b.c, &k);
        note_source(b.c, &k);
    }
    assert_int_equal(b.c->sources.count, TN_DEV_DERP_SOURCES_MAX);
    tn_dev_derp_client_free(b.c);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {CASE(relays),       CASE(any_cut),
                                       CASE(bad_greetings), CASE(bad_frames),
                                       CASE(pings),        CASE(queues_drop_the_oldest),
                                       CASE(not_here),     CASE(several_connections_of_one_key),
                                       CASE(timers),       CASE(sources_are_bounded)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
