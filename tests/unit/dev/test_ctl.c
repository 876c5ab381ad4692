/* The control engine by requests and replies in memory, on a clock that the test moves. */
#include "support.h"
#include "../../../dev/login.c"
#include "dev/ctl.h"

#include <zstd.h>

#define AUTH "tskey-auth-right"

static struct tn_dev_registry reg;
static struct tn_dev_ctl *c;
static struct tn_secret *auth_key;
static struct tn_dev_now now;
static uint64_t seed;
static int saves, save_result;
static struct memory_reply replies[6]; /* streams and held requests */

static const struct tn_dev_tailnet tailnet = {
    .domain = "tailnet.test",
    .derp = {.host = "127.0.0.1", .derp_port = 8081, .stun_port = 8082, .cert_name = "sha256-raw:00"}};

static int on_save(void *ctx)
{
    saves++;
    return save_result;
}

static int setup(void **state)
{
    seed = 11;
    now = (struct tn_dev_now){.us = 1000 * TN_DEV_SECOND, .unix_s = 1800000000};
    saves = save_result = 0;
    struct tn_rng rng = tn_rng_seeded(&seed);
    tn_dev_registry_init(&reg, &rng);
    auth_key = tn_secret_new(AUTH, strlen(AUTH));
    struct tn_dev_ctl_config cfg = {.registry = &reg,
                                    .tailnet = &tailnet,
                                    .base_url = "http://127.0.0.1:8080",
                                    .auth_key = auth_key,
                                    .ephemeral_s = 30,
                                    .rng = rng,
                                    .save = on_save};
    assert_int_equal(tn_dev_ctl_new(&cfg, now, &c), 0);
    for (size_t i = 0; i < sizeof replies / sizeof *replies; i++) memory_reset(&replies[i]);
    return 0;
}

static int teardown(void **state)
{
    for (size_t i = 0; i < sizeof replies / sizeof *replies; i++) memory_hang_up(&replies[i], now);
    tn_dev_ctl_free(c);
    tn_dev_registry_fini(&reg);
    tn_secret_free(auth_key);
    return 0;
}

/* Moves the clock, stopping at every deadline on the way. */
static void pass(double seconds)
{
    uint64_t end = now.us + (uint64_t)(seconds * 1e6), start = now.us;
    int64_t unix_start = now.unix_s;
    for (int i = 0; i < 10000 && tn_dev_ctl_next_deadline(c) <= end; i++) {
        if (tn_dev_ctl_next_deadline(c) > now.us) now.us = tn_dev_ctl_next_deadline(c);
        now.unix_s = unix_start + (int64_t)((now.us - start) / TN_DEV_SECOND);
        tn_dev_ctl_timeout(c, now);
    }
    now.us = end;
    now.unix_s = unix_start + (int64_t)((end - start) / TN_DEV_SECOND);
}

static void ask(struct memory_reply *m, unsigned machine, const char *method, const char *path, const char *body)
{
    memory_hang_up(m, now);
    memory_reset(m);
    struct tn_dev_request req = {.machine = mkey(machine),
                                 .method = method,
                                 .path = path,
                                 .body = (const uint8_t *)body,
                                 .len = strlen(body)};
    tn_dev_ctl_request(c, &req, &m->reply, now);
}

static struct memory_reply small;

static const char *node_text(unsigned key)
{
    static char bufs[4][TN_KEY_STRLEN];
    static unsigned at;
    struct tn_node_public k = nkey(key);
    return tn_node_public_format(&k, bufs[at++ % 4]);
}

/* A register request with further members (",..." or ""). */
static void reg_to(struct memory_reply *m, unsigned machine, unsigned key, const char *more)
{
    char body[2048];
    snprintf(body, sizeof body,
             "{\"Version\": 119, \"NodeKey\": \"%s\", \"OldNodeKey\": \"nodekey:%064d\", \"Expiry\": "
             "\"0001-01-01T00:00:00Z\", \"Hostinfo\": {\"Hostname\": \"m%u\"}%s}",
             node_text(key), 0, machine, more);
    ask(m, machine, "POST", "/machine/register", body);
}

static json_t *parsed(const struct memory_reply *m)
{
    assert_int_equal(m->status, 200);
    assert_true(m->ended);
    json_t *o = json_loadb(m->body, m->len, 0, NULL);
    assert_non_null(o);
    return o;
}

static bool member_true(const struct memory_reply *m, const char *name)
{
    json_t *o = parsed(m);
    bool yes = json_is_true(json_object_get(o, name));
    json_decref(o);
    return yes;
}

static const char *member_text(const struct memory_reply *m, const char *name)
{
    static char text[512];
    json_t *o = parsed(m);
    const char *s = json_string_value(json_object_get(o, name));
    snprintf(text, sizeof text, "%s", s ? s : "(none)");
    json_decref(o);
    return text;
}

static struct tn_dev_node *join(unsigned machine, const char *more)
{
    char with_key[512];
    snprintf(with_key, sizeof with_key, ", \"Auth\": {\"AuthKey\": \"" AUTH "\"}%s", more);
    reg_to(&small, machine, machine, with_key);
    assert_true(member_true(&small, "MachineAuthorized"));
    assert_string_equal(member_text(&small, "AuthURL"), "");
    struct tn_node_public k = nkey(machine);
    struct tn_dev_node *n = tn_dev_registry_by_key(&reg, &k);
    assert_non_null(n);
    return n;
}

static void map_to(struct memory_reply *m, unsigned machine, unsigned key, const char *more)
{
    char body[2048];
    snprintf(body, sizeof body, "{\"Version\": 119, \"NodeKey\": \"%s\", \"KeepAlive\": true%s}", node_text(key),
             more);
    ask(m, machine, "POST", "/machine/map", body);
}

static void stream(struct memory_reply *m, unsigned machine) { map_to(m, machine, machine, ", \"Stream\": true"); }

/* Takes the next message of a stream; NULL: none. */
static json_t *message(struct memory_reply *m, bool zstd)
{
    static char plain[256 * 1024];
    if (m->len < 4) return NULL;
    size_t len = (uint8_t)m->body[0] | (uint8_t)m->body[1] << 8 | (uint8_t)m->body[2] << 16, plain_len = len;
    assert_true(4 + len <= m->len);
    if (zstd) plain_len = ZSTD_decompress(plain, sizeof plain, m->body + 4, len);
    else memcpy(plain, m->body + 4, len);
    assert_false(ZSTD_isError(plain_len));
    json_t *o = json_loadb(plain, plain_len, 0, NULL);
    assert_non_null(o);
    memmove(m->body, m->body + 4 + len, m->len - 4 - len);
    m->len -= 4 + len;
    return o;
}

static void expect_none(struct memory_reply *m) { assert_int_equal(m->len, 0); }

static void drop_message(struct memory_reply *m)
{
    json_t *o = message(m, false);
    assert_non_null(o);
    json_decref(o);
}

/* --- register --- */

static void bad_register_requests(void **state)
{
    static const char *const bodies[] = {
        "", "[]", "{", "{}", "null",
        "{\"Version\": 119}",
        "{\"Version\": 119, \"NodeKey\": 5, \"Hostinfo\": {}}",
        "{\"Version\": 119, \"NodeKey\": \"nodekey:12\", \"Hostinfo\": {}}",
        "{\"Version\": \"119\", \"NodeKey\": \"KEY\", \"Hostinfo\": {}}",
        "{\"Version\": 112, \"NodeKey\": \"KEY\", \"Hostinfo\": {}}",
        "{\"Version\": 0, \"NodeKey\": \"KEY\", \"Hostinfo\": {}}",
        "{\"Version\": 119, \"NodeKey\": \"KEY\"}",
        "{\"Version\": 119, \"NodeKey\": \"KEY\", \"Hostinfo\": null}",
        "{\"Version\": 119, \"NodeKey\": \"KEY\", \"Hostinfo\": []}",
        "{\"Version\": 119, \"NodeKey\": \"KEY\", \"Hostinfo\": {}, \"OldNodeKey\": \"x\"}",
        "{\"Version\": 119, \"NodeKey\": \"KEY\", \"Hostinfo\": {}, \"Expiry\": \"tomorrow\"}",
        "{\"Version\": 119, \"NodeKey\": \"KEY\", \"Hostinfo\": {}, \"Auth\": 5}",
        "{\"Version\": 119, \"NodeKey\": \"KEY\", \"Hostinfo\": {}, \"Auth\": {\"AuthKey\": 5}}",
        "{\"Version\": 119, \"NodeKey\": \"KEY\", \"Hostinfo\": {}, \"Ephemeral\": 1}",
        "{\"Version\": 119, \"NodeKey\": \"KEY\", \"Hostinfo\": {}, \"Followup\": {}}",
    };
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        char body[512];
        const char *at = strstr(bodies[i], "KEY");
        if (at) snprintf(body, sizeof body, "%.*s%s%s", (int)(at - bodies[i]), bodies[i], node_text(1), at + 3);
        else snprintf(body, sizeof body, "%s", bodies[i]);
        ask(&small, 1, "POST", "/machine/register", body);
        if (small.status != 400) print_message("%s\n", body);
        assert_int_equal(small.status, 400);
    }
    ask(&small, 1, "GET", "/machine/register", "");
    assert_int_equal(small.status, 405);
    assert_int_equal(reg.count, 0);
}

static void auth_keys(void **state)
{
    reg_to(&small, 1, 1, ", \"Auth\": {\"AuthKey\": \"tskey-auth-wrong\"}");
    assert_string_equal(member_text(&small, "Error"), "invalid auth key");
    assert_false(member_true(&small, "MachineAuthorized"));
    reg_to(&small, 1, 1, ", \"Auth\": {\"AuthKey\": \"" AUTH "x\"}");
    assert_string_equal(member_text(&small, "Error"), "invalid auth key");
    assert_int_equal(reg.count, 0);
    struct tn_dev_node *n = join(1, "");
    assert_string_equal(n->name, "m1");
    assert_int_equal(n->cap, 119);
    assert_int_equal(saves, 1); /* on disk before the answer */
    /* Again with the key alone, as after a restart. */
    reg_to(&small, 1, 1, "");
    assert_true(member_true(&small, "MachineAuthorized"));
    assert_int_equal(reg.count, 1);
}

static void a_server_that_cannot_save_says_no(void **state)
{
    save_result = TN_E_NOSPC;
    reg_to(&small, 1, 1, ", \"Auth\": {\"AuthKey\": \"" AUTH "\"}");
    assert_string_equal(member_text(&small, "Error"), "the server cannot save its state");
    assert_true(tn_dev_ctl_dirty(c));
}

static void foreign_keys(void **state)
{
    join(1, "");
    reg_to(&small, 2, 1, "");
    assert_string_equal(member_text(&small, "Error"), "the node key belongs to another machine");
    reg_to(&small, 2, 1, ", \"Auth\": {\"AuthKey\": \"" AUTH "\"}");
    assert_string_equal(member_text(&small, "Error"), "the node key belongs to another machine");
    reg_to(&small, 2, 1, ", \"Expiry\": \"1970-01-01T00:02:03Z\""); /* log somebody else out */
    assert_string_equal(member_text(&small, "Error"), "the node key belongs to another machine");
    char more[256];
    snprintf(more, sizeof more, ", \"Auth\": {\"AuthKey\": \"" AUTH "\"}, \"OldNodeKey\": \"%s\"", node_text(1));
    reg_to(&small, 2, 2, more);
    assert_string_equal(member_text(&small, "Error"), "the node key belongs to another machine");
    map_to(&small, 2, 1, "");
    assert_int_equal(small.status, 404);
    map_to(&small, 1, 7, "");
    assert_int_equal(small.status, 404);
    assert_int_equal(reg.count, 1);
}

static void rotation(void **state)
{
    struct tn_dev_node *n = join(1, "");
    struct tn_ip before = tn_dev_node_ip4(n);
    int64_t id = n->id;
    stream(&replies[0], 1);
    char more[256];
    snprintf(more, sizeof more, ", \"Auth\": {\"AuthKey\": \"" AUTH "\"}, \"OldNodeKey\": \"%s\"", node_text(1));
    reg_to(&small, 1, 101, more);
    assert_true(member_true(&small, "MachineAuthorized"));
    assert_int_equal(reg.count, 1);
    struct tn_node_public k = nkey(101);
    n = tn_dev_registry_by_key(&reg, &k);
    assert_int_equal(n->id, id);
    struct tn_ip after = tn_dev_node_ip4(n);
    assert_true(tn_ip_eq(&before, &after));
    assert_true(replies[0].ended); /* the stream of the old key */
    map_to(&small, 1, 1, "");
    assert_int_equal(small.status, 404);
}

static void logout(void **state)
{
    struct tn_dev_node *n = join(1, "");
    join(2, "");
    stream(&replies[0], 2);
    drop_message(&replies[0]);
    pass(1); /* what the joining changed */
    while (replies[0].len) drop_message(&replies[0]);
    reg_to(&small, 1, 1, ", \"Expiry\": \"1970-01-01T00:02:03Z\"");
    assert_true(member_true(&small, "NodeKeyExpired"));
    assert_true(tn_dev_node_expired(n, now.unix_s));
    struct tn_node_public k = nkey(1);
    assert_false(tn_dev_ctl_admits(c, &k, now));
    pass(1);
    json_t *d = message(&replies[0], false);
    json_t *p = json_array_get(json_object_get(d, "PeersChangedPatch"), 0);
    assert_non_null(json_object_get(p, "KeyExpiry"));
    json_decref(d);
    reg_to(&small, 1, 1, ""); /* the key has ended, with or without an auth key */
    assert_true(member_true(&small, "NodeKeyExpired"));
    reg_to(&small, 1, 1, ", \"Auth\": {\"AuthKey\": \"" AUTH "\"}");
    assert_true(member_true(&small, "NodeKeyExpired"));
    reg_to(&small, 1, 11, ", \"Auth\": {\"AuthKey\": \"" AUTH "\"}");
    assert_true(member_true(&small, "MachineAuthorized"));
    assert_int_equal(n->expiry, 0);
    reg_to(&small, 3, 3, ", \"Expiry\": \"1970-01-01T00:02:03Z\""); /* nobody */
    assert_true(member_true(&small, "NodeKeyExpired"));
    assert_int_equal(reg.count, 2);
}

static void shorter_expiry(void **state)
{
    struct tn_dev_node *n = join(1, "");
    reg_to(&small, 1, 1, ", \"Expiry\": \"2030-01-01T00:00:00Z\"");
    assert_true(member_true(&small, "MachineAuthorized"));
    int64_t set = n->expiry;
    assert_true(set > now.unix_s);
    reg_to(&small, 1, 1, ", \"Expiry\": \"2031-01-01T00:00:00Z\"");
    assert_int_equal(small.status, 400);
    assert_int_equal(n->expiry, set);
}

/* --- interactive login --- */

static void interactive(void **state)
{
    char url[300], more[400], name[TN_DEV_LABEL_MAX + 1];
    reg_to(&small, 1, 1, "");
    assert_false(member_true(&small, "MachineAuthorized"));
    snprintf(url, sizeof url, "%s", member_text(&small, "AuthURL"));
    assert_memory_equal(url, "http://127.0.0.1:8080/a/", 24);
    assert_int_equal(reg.count, 0);
    map_to(&small, 1, 1, "");
    assert_int_equal(small.status, 404);

    snprintf(more, sizeof more, ", \"Followup\": \"%s\"", url);
    reg_to(&replies[0], 1, 1, more);
    reg_to(&replies[1], 1, 1, more);
    assert_int_equal(replies[0].status, 0); /* held */
    reg_to(&replies[2], 2, 1, more); /* another machine may not wait at it */
    assert_string_equal(member_text(&replies[2], "Error"), "the login URL belongs to another node");
    reg_to(&replies[2], 1, 2, more); /* nor another key */
    assert_string_equal(member_text(&replies[2], "Error"), "the login URL belongs to another node");

    assert_int_equal(tn_dev_ctl_visit(c, "/a/0123456789abcdef0123456789abcdef", name, now), TN_E_NOENT);
    assert_int_equal(tn_dev_ctl_visit(c, "/a/", name, now), TN_E_NOENT);
    assert_int_equal(tn_dev_ctl_visit(c, "/b", name, now), TN_E_NOENT);
    assert_int_equal(tn_dev_ctl_visit(c, url + 21, name, now), 0);
    assert_string_equal(name, "m1");
    assert_true(member_true(&replies[0], "MachineAuthorized"));
    assert_true(member_true(&replies[1], "MachineAuthorized"));
    assert_int_equal(tn_dev_ctl_visit(c, url + 21, name, now), TN_E_NOENT); /* once */
    reg_to(&replies[0], 1, 1, more); /* a followup that comes late finds the node */
    assert_true(member_true(&replies[0], "MachineAuthorized"));
}

static void logins_end(void **state)
{
    char more[400], first[300];
    reg_to(&small, 1, 1, "");
    snprintf(first, sizeof first, "%s", member_text(&small, "AuthURL"));
    snprintf(more, sizeof more, ", \"Followup\": \"%s\"", first);
    reg_to(&replies[0], 1, 1, more);
    memory_hang_up(&replies[0], now); /* who waited went away */
    reg_to(&replies[1], 1, 1, more);
    pass(LOGIN_LIFE + 1);
    assert_int_equal(replies[1].status, 410);
    assert_int_equal(c->npending, 0);
    reg_to(&replies[2], 1, 1, more); /* a dead URL gives a new one */
    assert_string_not_equal(member_text(&replies[2], "AuthURL"), first);
    assert_int_equal(c->npending, 1);
}

static void logins_are_bounded(void **state)
{
    for (unsigned i = 1; i <= 2 * TN_DEV_PENDING_MAX; i++) {
        reg_to(&small, i, i, "");
        reg_to(&small, i, i, ""); /* a new URL replaces the machine's old one */
        assert_true(strlen(member_text(&small, "AuthURL")) > 20);
    }
    assert_int_equal(c->npending, TN_DEV_PENDING_MAX);
    char more[400];
    snprintf(more, sizeof more, ", \"Followup\": \"%s\"", member_text(&small, "AuthURL"));
    static struct memory_reply held[TN_DEV_WAITERS_MAX + 1];
    for (size_t i = 0; i < TN_DEV_WAITERS_MAX + 1; i++)
        reg_to(&held[i], 2 * TN_DEV_PENDING_MAX, 2 * TN_DEV_PENDING_MAX, more);
    assert_int_equal(held[TN_DEV_WAITERS_MAX].status, 429);
    for (size_t i = 0; i < TN_DEV_WAITERS_MAX; i++) {
        assert_int_equal(held[i].status, 0);
        memory_hang_up(&held[i], now);
    }
}

/* --- map --- */

static void bad_map_requests(void **state)
{
    join(1, "");
    static const char *const more[] = {", \"Version\": 1", ", \"Version\": 112", ", \"Compress\": \"gzip\"",
                                       ", \"Hostinfo\": 5", ", \"Endpoints\": {}", ", \"DiscoKey\": \"discokey:1\"",
                                       ", \"Stream\": \"yes\"", ", \"EndpointTypes\": 3"};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        map_to(&small, 1, 1, more[i]);
        assert_int_equal(small.status, 400);
    }
    ask(&small, 1, "POST", "/machine/map", "{\"Version\": 119}");
    assert_int_equal(small.status, 400);
    ask(&small, 1, "POST", "/machine/map", "{\"Version\": 119, \"NodeKey\": \"nodekey:0000000000000000000000000000"
                                           "000000000000000000000000000000000000\"}");
    assert_int_equal(small.status, 400);
}

static void streams_and_deltas(void **state)
{
    join(1, "");
    stream(&replies[0], 1);
    assert_int_equal(replies[0].status, 200);
    json_t *full = message(&replies[0], false);
    assert_non_null(json_object_get(full, "Node"));
    assert_non_null(json_object_get(full, "DERPMap"));
    assert_null(json_object_get(full, "Peers"));
    json_decref(full);
    pass(1);
    expect_none(&replies[0]);

    join(2, "");
    pass(1);
    json_t *d = message(&replies[0], false);
    assert_int_equal(json_array_size(json_object_get(d, "PeersChanged")), 1);
    json_decref(d);
    expect_none(&replies[0]);

    map_to(&replies[1], 2, 2, ", \"Stream\": true, \"Compress\": \"zstd\"");
    full = message(&replies[1], true);
    assert_int_equal(json_array_size(json_object_get(full, "Peers")), 1);
    json_decref(full);
    pass(1);
    d = message(&replies[0], false);
    json_t *p = json_array_get(json_object_get(d, "PeersChangedPatch"), 0);
    assert_true(json_is_true(json_object_get(p, "Online")));
    json_decref(d);

    /* A lite update: an empty 200, and the peers hear of it as patches. */
    char lite[400], disco[TN_KEY_STRLEN];
    struct tn_disco_public dk = dkey(9);
    snprintf(lite, sizeof lite,
             ", \"OmitPeers\": true, \"DiscoKey\": \"%s\", \"Endpoints\": [\"192.0.2.1:5\", \"[fe80::1]:5\"], "
             "\"EndpointTypes\": [1, 1], \"Hostinfo\": {\"Hostname\": \"m2\", \"NetInfo\": {\"PreferredDERP\": 900}}",
             tn_disco_public_format(&dk, disco));
    map_to(&small, 2, 2, lite);
    assert_int_equal(small.status, 200);
    assert_int_equal(small.len, 0);
    pass(1);
    d = message(&replies[0], false);
    p = json_array_get(json_object_get(d, "PeersChangedPatch"), 0);
    assert_int_equal(json_integer_value(json_object_get(p, "DERPRegion")), 900);
    assert_int_equal(json_array_size(json_object_get(p, "Endpoints")), 1);
    assert_string_equal(json_string_value(json_object_get(p, "DiscoKey")), disco);
    assert_int_equal(json_object_size(d), 1);
    json_decref(d);

    /* NetInfo omitted: the home region stays. */
    map_to(&small, 2, 2,
           ", \"OmitPeers\": true, \"Endpoints\": [\"192.0.2.1:5\"], \"Hostinfo\": {\"Hostname\": \"m2\"}");
    pass(1);
    expect_none(&replies[0]);
    struct tn_node_public k = nkey(2);
    assert_int_equal(tn_dev_registry_by_key(&reg, &k)->home_derp, 900);
}

static void streams_do_not_store(void **state)
{
    struct tn_dev_node *n = join(1, "");
    map_to(&replies[0], 1, 1,
           ", \"Stream\": true, \"Endpoints\": [\"192.0.2.1:5\"], \"Hostinfo\": {\"Hostname\": \"zz\"}");
    assert_string_equal(n->name, "m1");
    assert_int_equal(json_array_size(n->endpoints), 0);
    map_to(&small, 1, 1, ", \"ReadOnly\": true, \"Endpoints\": [\"192.0.2.1:5\"]");
    assert_int_equal(json_array_size(n->endpoints), 0);
    assert_false(replies[0].ended);
}

static void newer_requests_end_older_streams(void **state)
{
    struct tn_dev_node *n = join(1, "");
    stream(&replies[0], 1);
    stream(&replies[1], 1);
    assert_true(replies[0].ended);
    assert_false(replies[1].ended);
    map_to(&small, 1, 1, ", \"OmitPeers\": true"); /* a lite update ends nothing */
    assert_false(replies[1].ended);
    map_to(&small, 1, 1, "");
    assert_true(replies[1].ended);
    drop_message(&small);
    assert_true(small.ended);
    assert_true(n->online);
    pass(11);
    assert_false(n->online);
}

static void keep_alives(void **state)
{
    join(1, "");
    stream(&replies[0], 1);
    drop_message(&replies[0]);
    for (int i = 0; i < 3; i++) {
        pass(49);
        expect_none(&replies[0]);
        pass(1.5);
        json_t *m = message(&replies[0], false);
        assert_true(json_is_true(json_object_get(m, "KeepAlive")));
        assert_int_equal(json_object_size(m), 1);
        json_decref(m);
        now.us -= TN_DEV_SECOND / 2;
    }
}

static void offline_after_a_grace(void **state)
{
    struct tn_dev_node *n = join(1, "");
    join(2, "");
    stream(&replies[0], 1);
    stream(&replies[1], 2);
    pass(1);
    while (replies[1].len) drop_message(&replies[1]);
    memory_hang_up(&replies[0], now);
    pass(9);
    assert_true(n->online);
    stream(&replies[0], 1); /* it was only a reconnect */
    pass(20);
    assert_true(n->online);
    expect_none(&replies[1]);
    memory_hang_up(&replies[0], now);
    pass(11);
    assert_false(n->online);
    json_t *d = message(&replies[1], false), *p = json_array_get(json_object_get(d, "PeersChangedPatch"), 0);
    assert_true(json_is_false(json_object_get(p, "Online")));
    assert_non_null(json_object_get(p, "LastSeen"));
    json_decref(d);
    assert_int_equal(reg.count, 2);
}

static void ephemeral_nodes_leave(void **state)
{
    join(1, ", \"Ephemeral\": true");
    join(2, "");
    stream(&replies[0], 1);
    stream(&replies[1], 2);
    pass(300);
    assert_int_equal(reg.count, 2);
    memory_hang_up(&replies[0], now);
    pass(29);
    assert_int_equal(reg.count, 2);
    while (replies[1].len) drop_message(&replies[1]);
    pass(2);
    assert_int_equal(reg.count, 1);
    json_t *d = message(&replies[1], false);
    assert_int_equal(json_array_size(json_object_get(d, "PeersRemoved")), 1);
    json_decref(d);

    join(3, ", \"Ephemeral\": true"); /* logging out is faster */
    stream(&replies[0], 3);
    reg_to(&small, 3, 3, ", \"Expiry\": \"1970-01-01T00:02:03Z\"");
    assert_int_equal(reg.count, 1);
    assert_true(replies[0].ended);
    join(4, ", \"Ephemeral\": true"); /* one that registers and never polls */
    pass(31);
    assert_int_equal(reg.count, 1);
}

static void slow_readers_wait_alone(void **state)
{
    join(1, "");
    join(2, "");
    stream(&replies[0], 1);
    stream(&replies[1], 2);
    pass(1);
    for (int i = 0; i < 2; i++)
        while (replies[i].len) drop_message(&replies[i]);
    replies[0].backlog = TN_DEV_STREAM_BACKLOG;
    for (unsigned i = 3; i < 8; i++) {
        join(i, "");
        pass(1);
    }
    expect_none(&replies[0]);
    assert_true(replies[1].len > 0);
    replies[0].backlog = 0; /* it reads again: one message catches up */
    replies[0].reply.drain(replies[0].reply.holder, now);
    pass(1);
    json_t *d = message(&replies[0], false);
    assert_int_equal(json_array_size(json_object_get(d, "PeersChanged")), 5);
    json_decref(d);
    expect_none(&replies[0]);

    replies[1].full = true; /* and one that takes nothing more is cut off */
    join(8, "");
    pass(1);
    assert_true(replies[1].aborted);
    assert_false(replies[0].aborted);
}

static void too_far_behind(void **state)
{
    join(1, "");
    stream(&replies[0], 1);
    replies[0].backlog = TN_DEV_STREAM_BACKLOG;
    for (unsigned i = 0; i <= TN_DEV_REMOVED_MAX; i++) tn_dev_ctl_remove(c, join(2, ""), now);
    replies[0].backlog = 0;
    replies[0].reply.drain(replies[0].reply.holder, now);
    pass(1);
    assert_true(replies[0].ended); /* orderly: its client asks for a full map */
}

static void saved_soon(void **state)
{
    join(1, "");
    int before = saves;
    map_to(&small, 1, 1, ", \"OmitPeers\": true, \"Hostinfo\": {\"Hostname\": \"other\"}");
    map_to(&small, 1, 1, ", \"OmitPeers\": true, \"Hostinfo\": {\"Hostname\": \"third\"}");
    assert_int_equal(saves, before);
    assert_true(tn_dev_ctl_dirty(c));
    pass(2);
    assert_int_equal(saves, before + 1);
    assert_false(tn_dev_ctl_dirty(c));
}

/* --- the rest --- */

static void other_paths(void **state)
{
    static const struct {
        const char *method, *path;
        int status;
    } cases[] = {{"POST", "/machine/set-dns", 501},     {"POST", "/machine/id-token", 501},
                 {"PATCH", "/machine/set-device-attr", 501}, {"POST", "/machine/audit-log", 501},
                 {"GET", "/machine/tka/bootstrap", 404}, {"POST", "/machine/nonsense", 404},
                 {"GET", "/", 404},                      {"POST", "", 404},
                 {"POST", "/machine/c2n/unknown", 404},  {"HEAD", "/machine/ping-response?id=x", 404},
                 {"GET", "/machine/c2n/unknown", 405}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ask(&small, 1, cases[i].method, cases[i].path, "");
        assert_int_equal(small.status, cases[i].status);
    }
}

static const char *asked_url(struct memory_reply *m, const char *type)
{
    static char url[300];
    json_t *o = message(m, false), *p = json_object_get(o, "PingRequest");
    assert_true(json_is_true(json_object_get(p, "URLIsNoise")));
    const char *t = json_string_value(json_object_get(p, "Types"));
    assert_string_equal(t ? t : "", type);
    snprintf(url, sizeof url, "%s", json_string_value(json_object_get(p, "URL")));
    json_decref(o);
    return url + strlen("http://127.0.0.1:8080");
}

static void questions(void **state)
{
    struct tn_dev_node *n = join(1, "");
    memory_reset(&replies[1]);
    tn_dev_ctl_ping(c, n, "", "", &replies[1].reply, now);
    assert_int_equal(replies[1].status, 404); /* no stream to ask through */
    stream(&replies[0], 1);
    drop_message(&replies[0]);

    memory_reset(&replies[1]);
    tn_dev_ctl_ping(c, n, "", "", &replies[1].reply, now);
    const char *path = asked_url(&replies[0], "");
    ask(&small, 2, "HEAD", path, ""); /* only who was asked may answer */
    assert_int_equal(small.status, 404);
    assert_int_equal(replies[1].status, 0);
    ask(&small, 1, "HEAD", path, "");
    assert_int_equal(small.status, 200);
    assert_int_equal(replies[1].status, 200);
    ask(&small, 1, "HEAD", path, "");
    assert_int_equal(small.status, 404); /* once */

    memory_reset(&replies[1]);
    tn_dev_ctl_c2n(c, n, "GET /echo HTTP/1.1\r\n\r\n", 22, &replies[1].reply, now);
    ask(&small, 1, "POST", asked_url(&replies[0], "c2n"), "HTTP/1.1 200 OK\r\n\r\n");
    assert_string_equal(replies[1].body, "HTTP/1.1 200 OK\r\n\r\n");

    memory_reset(&replies[1]); /* nobody answers */
    tn_dev_ctl_ping(c, n, "disco", "100.64.0.9", &replies[1].reply, now);
    drop_message(&replies[0]);
    pass(31);
    assert_int_equal(replies[1].status, 504);
    memory_reset(&replies[1]); /* who asked goes away */
    tn_dev_ctl_ping(c, n, "disco", "100.64.0.9", &replies[1].reply, now);
    memory_hang_up(&replies[1], now);
    memory_reset(&replies[1]); /* who was asked goes away */
    tn_dev_ctl_ping(c, n, "", "", &replies[1].reply, now);
    tn_dev_ctl_remove(c, n, now);
    assert_int_equal(replies[1].status, 404);
    assert_int_equal(c->nasks, 0);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(bad_register_requests), CASE(auth_keys), CASE(a_server_that_cannot_save_says_no), CASE(foreign_keys),
        CASE(rotation), CASE(logout), CASE(shorter_expiry), CASE(interactive), CASE(logins_end),
        CASE(logins_are_bounded), CASE(bad_map_requests), CASE(streams_and_deltas), CASE(streams_do_not_store),
        CASE(newer_requests_end_older_streams), CASE(keep_alives), CASE(offline_after_a_grace),
        CASE(ephemeral_nodes_leave), CASE(slow_readers_wait_alone), CASE(too_far_behind), CASE(saved_soon),
        CASE(other_paths), CASE(questions)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
