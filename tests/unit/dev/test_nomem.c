/* Every allocation of the control engine and the DERP server fails once, in turn, JSON's included: nothing is leaked,
 * no reply is used after its end or forgotten, and when memory is back the next node joins. */
#include "support.h"
#include "crypto/box.h"
#include "dev/ctl.h"
#include "dev/derp.h"
#include "wire/derp.h"

#include <stdio.h>
#include <stdlib.h>

static struct {
    bool counting;
    unsigned long seen, fail_at;
} memory;

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
char *__real_strdup(const char *s);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
char *__wrap_strdup(const char *s);

static bool refused(void) { return memory.counting && ++memory.seen == memory.fail_at; }

void *__wrap_malloc(size_t n) { return refused() ? NULL : __real_malloc(n); }
void *__wrap_calloc(size_t n, size_t size) { return refused() ? NULL : __real_calloc(n, size); }
void *__wrap_realloc(void *p, size_t n) { return refused() ? NULL : __real_realloc(p, n); }
char *__wrap_strdup(const char *s) { return refused() ? NULL : __real_strdup(s); }

enum { REPLIES = 12, SWEEP_MAX = 20000 };

static struct memory_reply replies[REPLIES];
static struct tn_dev_registry reg;
static struct tn_dev_ctl *c;
static struct tn_dev_now now;

static const struct tn_dev_tailnet tailnet = {.domain = "tailnet.test",
                                              .derp = {.host = "127.0.0.1", .cert_name = "sha256-raw:00"}};

static int on_save(void *ctx)
{
    json_t *dump = tn_dev_registry_dump(ctx);
    json_decref(dump);
    return dump ? 0 : TN_E_NOMEM;
}

static void ask(size_t slot, unsigned machine, const char *path, unsigned key, const char *more)
{
    struct memory_reply *m = &replies[slot];
    struct tn_node_public k = nkey(key);
    char text[TN_KEY_STRLEN], body[1024];
    memory_hang_up(m, now);
    memory_reset(m);
    int len = snprintf(body, sizeof body, "{\"Version\": 119, \"NodeKey\": \"%s\", \"KeepAlive\": true%s}",
                       tn_node_public_format(&k, text), more);
    struct tn_dev_request req = {
        .machine = mkey(machine), .method = "POST", .path = path, .body = (uint8_t *)body, .len = (size_t)len};
    tn_dev_ctl_request(c, &req, &m->reply, now);
}

static void pass(unsigned seconds)
{
    for (unsigned i = 0; i < seconds; i++) {
        now.us += TN_DEV_SECOND;
        now.unix_s++;
        tn_dev_ctl_timeout(c, now);
    }
}

#define HOST ", \"Hostinfo\": {\"Hostname\": \"h\", \"RoutableIPs\": [\"0.0.0.0/0\"], \"RequestTags\": [\"tag:a\"]}"
#define KEY ", \"Auth\": {\"AuthKey\": \"k\"}"

static void scenario(void)
{
    char name[TN_DEV_LABEL_MAX + 1], *url;
    ask(0, 1, "/machine/register", 1, HOST KEY);
    ask(1, 2, "/machine/register", 2, HOST KEY ", \"Ephemeral\": true");
    ask(2, 1, "/machine/map", 1, ", \"Stream\": true, \"Compress\": \"zstd\"");
    ask(3, 2, "/machine/map", 2, ", \"Stream\": true");
    pass(1);
    ask(4, 2, "/machine/map", 2, HOST ", \"OmitPeers\": true, \"Endpoints\": [\"192.0.2.1:1\", \"192.0.2.1:2\"]");
    ask(5, 3, "/machine/register", 3, HOST);
    url = strstr(replies[5].body, "/a/");
    if (url && strlen(url) > 35) {
        url[35] = '\0';
        char more[200];
        snprintf(more, sizeof more, HOST ", \"Followup\": \"http://x%s\"", url);
        ask(6, 3, "/machine/register", 3, more);
        (void)tn_dev_ctl_visit(c, url, name, now);
    }
    pass(1);
    struct tn_node_public k = nkey(1);
    struct tn_dev_node *n = tn_dev_registry_by_key(&reg, &k);
    if (n) {
        memory_reset(&replies[7]);
        tn_dev_ctl_c2n(c, n, "GET / HTTP/1.1\r\n\r\n", 18, &replies[7].reply, now);
        memory_reset(&replies[8]);
        tn_dev_ctl_ping(c, n, "disco", "100.64.0.1", &replies[8].reply, now);
    }
    ask(9, 1, "/machine/register", 11, HOST KEY); /* rotation */
    memory_hang_up(&replies[3], now);
    pass(61);
    ask(10, 1, "/machine/register", 11, HOST ", \"Expiry\": \"1970-01-01T00:02:03Z\"");
    pass(1);
}

/* What is not a stream and not held has an answer. */
static void all_answered(void)
{
    for (size_t i = 0; i < REPLIES; i++) {
        struct memory_reply *m = &replies[i];
        assert_true(m->reply.ops == NULL || m->ended || m->aborted || m->reply.gone || m->status == 0 || i == 3);
        if (m->status) assert_true(m->ended || m->aborted || m->reply.gone || i == 3);
    }
}

static void control(void **state)
{
    unsigned long k = 1;
    for (; k < SWEEP_MAX; k++) {
        uint64_t seed = 1;
        struct tn_secret *auth_key = tn_secret_new("k", 1);
        struct tn_rng rng = tn_rng_seeded(&seed);
        now = (struct tn_dev_now){.us = 1000 * TN_DEV_SECOND, .unix_s = 1800000000};
        tn_dev_registry_init(&reg, &rng);
        struct tn_dev_ctl_config cfg = {.registry = &reg, .tailnet = &tailnet, .base_url = "http://x",
                                        .auth_key = auth_key, .ephemeral_s = 30, .rng = rng, .save = on_save,
                                        .ctx = &reg};
        for (size_t i = 0; i < REPLIES; i++) memory_reset(&replies[i]);
        memory.seen = 0;
        memory.fail_at = k;
        memory.counting = true;
        int err = tn_dev_ctl_new(&cfg, now, &c);
        if (!err) scenario();
        memory.counting = false;
        bool done = memory.seen < k;
        if (err) {
            assert_int_equal(err, TN_E_NOMEM);
        } else {
            all_answered();
            pass(40);
            ask(0, 50, "/machine/register", 50, HOST KEY);
            assert_non_null(strstr(replies[0].body, "\"MachineAuthorized\":true"));
            ask(1, 50, "/machine/map", 50, ", \"Stream\": true");
            assert_true(replies[1].status == 200 && replies[1].len > 100);
            for (size_t i = 0; i < REPLIES; i++) memory_hang_up(&replies[i], now);
            tn_dev_ctl_free(c);
        }
        tn_dev_registry_fini(&reg);
        tn_secret_free(auth_key);
        if (done) break;
    }
    assert_in_range(k, 500, SWEEP_MAX - 1);
}

/* --- DERP --- */

static void on_wake(void *conn) {}
static void on_expire(void *conn) {}

struct end {
    struct tn_dev_derp_client *c;
    struct tn_node_private private;
    struct tn_node_public key;
};

static int greet(struct tn_dev_derp *d, struct end *e, const struct tn_node_public *server, const struct tn_rng *rng)
{
    struct tn_box_shared shared;
    uint8_t box[2 + TN_BOX_OVERHEAD], bytes[256];
    int err = tn_dev_derp_client_new(d, e, now, &e->c);
    if (err) return err;
    assert_int_equal(tn_box_shared_init(&shared, e->private.b, server->b), 0);
    tn_box_seal(&shared, rng, "{}", 2, box);
    struct tn_wr w = tn_wr_init(bytes, sizeof bytes);
    tn_derp_client_info_put(&w, e->key.b, box, sizeof box);
    for (size_t i = 0; i < tn_wr_len(&w) && !err; i++) err = tn_dev_derp_input(e->c, bytes + i, 1, now);
    if (err) {
        tn_dev_derp_client_free(e->c);
        e->c = NULL;
    }
    return err;
}

static int talk(struct end *a, struct end *b)
{
    uint8_t bytes[256];
    int got = 0;
    struct tn_wr w = tn_wr_init(bytes, sizeof bytes);
    tn_derp_packet_put(&w, TN_DERP_SEND_PACKET, b->key.b, (const uint8_t *)"hello", 5);
    (void)tn_dev_derp_input(a->c, bytes, tn_wr_len(&w), now);
    for (struct tn_dev_derp_frame *f; (f = tn_dev_derp_take(b->c));) {
        got += f->bytes[0] == TN_DERP_RECV_PACKET;
        free(f);
    }
    return got;
}

static void derp(void **state)
{
    unsigned long k = 1;
    for (; k < SWEEP_MAX; k++) {
        uint64_t seed = 5;
        struct tn_rng rng = tn_rng_seeded(&seed);
        struct tn_dev_derp_config cfg = {.rng = rng, .wake = on_wake, .expire = on_expire};
        struct tn_node_public server;
        struct end a = {0}, b = {0};
        struct tn_dev_derp *d = NULL;
        tn_node_private_generate(&cfg.key, &rng);
        tn_node_public_of(&cfg.key, &server);
        tn_node_private_generate(&a.private, &rng);
        tn_node_public_of(&a.private, &a.key);
        tn_node_private_generate(&b.private, &rng);
        tn_node_public_of(&b.private, &b.key);
        memory.seen = 0;
        memory.fail_at = k;
        memory.counting = true;
        int err = tn_dev_derp_new(&cfg, &d);
        if (!err) (void)greet(d, &a, &server, &rng);
        if (!err) (void)greet(d, &b, &server, &rng);
        if (!err && a.c && b.c) talk(&a, &b);
        memory.counting = false;
        if (!err) {
            if (!a.c) assert_int_equal(greet(d, &a, &server, &rng), 0);
            if (!b.c) assert_int_equal(greet(d, &b, &server, &rng), 0);
            assert_int_equal(talk(&a, &b), 1);
            assert_int_equal(talk(&b, &a), 1);
            tn_dev_derp_client_free(a.c);
            tn_dev_derp_client_free(b.c);
        }
        tn_dev_derp_free(d);
        if (memory.seen < k) break;
    }
    assert_in_range(k, 8, SWEEP_MAX - 1);
}

int main(void)
{
    json_set_alloc_funcs(__wrap_malloc, free);
    const struct CMUnitTest tests[] = {cmocka_unit_test(control), cmocka_unit_test(derp)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
