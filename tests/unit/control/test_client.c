/* The whole control client against a scripted server in memory (fake_server.h). */
#include "fake_server.h"

#include "control/control.h"
#include "util/heap.h"

#define SECOND 1000000ull
#define SELF_KEY "nodekey:1111111111111111111111111111111111111111111111111111111111111111"
#define HEX62 "00000000000000000000000000000000000000000000000000000000000000"
#define NODE(id, name, extra)                                                                                     \
    "{\"ID\":" #id ",\"StableID\":\"n" #id "\",\"Name\":\"" name ".example.\",\"User\":7,"                          \
    "\"Key\":\"nodekey:" #id #id HEX62 "\",\"Addresses\":[\"100.64.0." #id "/32\"],"                                \
    "\"MachineAuthorized\":true" extra "}"
#define FIRST_MAP "{\"Node\":" NODE(1, "me", "") ",\"Domain\":\"example\",\"Peers\":[" NODE(2, "peer", "") "]}"
#define OK_REGISTER "{\"User\":{\"ID\":7},\"MachineAuthorized\":true,\"AuthURL\":\"\"}"

struct env {
    struct fake_net net;
    struct tn_control *c;
    struct tn_control_config config;
    struct tn_secret *auth_key;
    int64_t wall;
    enum tn_control_state state;
    char text[400], url[256];
    unsigned states, urls, saves, netmaps, changes, peers, gone, pings, logouts;
    int logout_err, save_err;
    struct tn_control_identity saved;
    uint64_t ping_token;
    char ping_types[64];
    void (*on_netmap)(struct env *e);
    unsigned turns;
};

static void on_state(void *ctx, enum tn_control_state state, const char *text)
{
    struct env *e = ctx;
    e->state = state;
    e->states++;
    assert_non_null(text);
    snprintf(e->text, sizeof e->text, "%s", text);
}
static void on_url(void *ctx, const char *url)
{
    struct env *e = ctx;
    snprintf(e->url, sizeof e->url, "%s", url);
    e->urls++;
}
static int on_save(void *ctx, const struct tn_control_identity *id)
{
    struct env *e = ctx;
    if (e->save_err) return e->save_err;
    e->saved = *id;
    e->saves++;
    return 0;
}
static void on_peer(void *ctx, const struct tn_netnode *peer, uint64_t now) { ((struct env *)ctx)->peers++; }
static void on_gone(void *ctx, const struct tn_netnode *peer, uint64_t now) { ((struct env *)ctx)->gone++; }
static void on_netmap(void *ctx, const struct tn_netmap *m, unsigned changes, uint64_t now)
{
    struct env *e = ctx;
    e->netmaps++;
    e->changes |= changes;
    if (e->on_netmap) e->on_netmap(e);
}
static void on_ping(void *ctx, const char *types, const struct tn_ip *ip, uint64_t token)
{
    struct env *e = ctx;
    e->pings++;
    e->ping_token = token;
    snprintf(e->ping_types, sizeof e->ping_types, "%s", types);
}
static bool on_c2n(void *ctx, const char *method, const char *path, const void *body, size_t len, struct tn_buf *out)
{
    if (strcmp(path, "/known?x=1") != 0) return false;
    tn_buf_printf(out, "HTTP/1.1 204 No Content\r\n\r\n");
    return true;
}
static int64_t on_clock(void *ctx)
{
    const struct env *e = ctx;
    return e->wall + (int64_t)(e->net.now / SECOND);
}

/* Lets everything happen that happens without time passing. */
static void settle(struct env *e)
{
    for (int i = 0; i < 1000; i++) {
        fake_run(&e->net);
        if (tn_control_next_deadline(e->c) > e->net.now) return;
        e->turns++;
        tn_control_timeout(e->c, e->net.now);
    }
    fail_msg("the client asks for its timeout without end");
}

/* Time passes, deadline by deadline. */
static void pass(struct env *e, uint64_t us)
{
    uint64_t until = e->net.now + us;
    settle(e);
    for (int i = 0; i < 100000; i++) {
        uint64_t at = tn_control_next_deadline(e->c);
        if (at > until) break;
        if (at > e->net.now) e->net.now = at;
        tn_control_timeout(e->c, e->net.now);
        settle(e);
    }
    e->net.now = until;
    settle(e);
}

static void set_host(struct env *e, const char *name)
{
    struct tn_prefix exits[2];
    const char *tags[] = {"tag:exit"};
    struct tn_control_host host = {
        .hostname = name, .os_version = "6.1", .machine = "x86_64", .ipn_version = "1.0", .backend_log_id = "ab12",
        .routable_ips = exits, .nroutable_ips = 2, .request_tags = tags, .nrequest_tags = 1, .peerapi4 = 4242,
        .peerapi_dns_proxy = true, .userspace = true,
    };
    tn_prefix_parse("0.0.0.0/0", &exits[0]);
    tn_prefix_parse("::/0", &exits[1]);
    assert_int_equal(tn_control_set_host(e->c, &host, e->net.now), 0);
}

static void init(struct env *e, const char *auth_key)
{
    memset(e, 0, sizeof *e);
    fake_init(&e->net);
    e->wall = 1800000000;
    if (auth_key) e->auth_key = tn_secret_new(auth_key, strlen(auth_key));
    e->config = (struct tn_control_config){
        .server_url = "http://127.0.0.1:8080",
        .auth_key = e->auth_key,
        .rng = e->net.rng,
        .dialer = &e->net.dialer,
        .cb = {on_state, on_url, on_save, on_peer, on_gone, on_netmap, on_ping, on_c2n, on_clock},
        .ctx = e,
    };
    tn_machine_private_generate(&e->config.identity.machine, &e->net.rng);
    e->config.disco.b[0] = 0xd5;
}

static void make(struct env *e)
{
    assert_int_equal(tn_control_new(&e->config, &e->c), 0);
    set_host(e, "box");
}

static void begin(struct env *e, const char *auth_key)
{
    init(e, auth_key);
    make(e);
    tn_control_start(e->c, e->net.now);
    settle(e);
}

static void finish(struct env *e)
{
    tn_control_free(e->c);
    fake_run(&e->net);
    fake_fini(&e->net);
    tn_secret_free(e->auth_key);
}

static struct fake_req *take(struct env *e, const char *path)
{
    settle(e);
    struct fake_req *r = fake_take(&e->net, path);
    if (!r) fail_msg("no request to %s", path);
    return r;
}
static void none(struct env *e, const char *path)
{
    settle(e);
    if (fake_take(&e->net, path)) fail_msg("an unexpected request to %s", path);
}

/* A map request of one kind; the other kind is left. */
static struct fake_req *take_map(struct env *e, bool stream)
{
    settle(e);
    TN_LIST_EACH(l, &e->net.reqs) {
        struct fake_req *r = TN_CONTAINER(l, struct fake_req, link);
        if (!r->complete || r->taken || strcmp(r->path, "/machine/map") != 0) continue;
        if (json_is_true(json_object_get(r->json, "Stream")) != stream) continue;
        r->taken = true;
        return r;
    }
    return NULL;
}

static void key_text(const struct tn_node_private *k, char text[TN_KEY_STRLEN])
{
    struct tn_node_public pub;
    tn_node_public_of(k, &pub);
    tn_node_public_format(&pub, text);
}

static bool stored(const struct env *e, const char *nodekey_text)
{
    char text[TN_KEY_STRLEN];
    key_text(&e->saved.node, text);
    return strcmp(text, nodekey_text) == 0;
}

/* Joins and gets a first netmap; returns the stream. */
static struct fake_req *join(struct env *e)
{
    fake_answer(take(e, "/machine/register"), 200, OK_REGISTER);
    struct fake_req *stream = take_map(e, true), *lite = take_map(e, false);
    assert_non_null(stream);
    assert_non_null(lite);
    fake_answer(lite, 200, "");
    fake_map(stream, FIRST_MAP);
    settle(e);
    assert_int_equal(e->state, TN_CONTROL_RUNNING);
    assert_true(tn_control_connected(e->c));
    return stream;
}

/* --- joining --- */

static void test_join_with_auth_key(void **state)
{
    struct env e;
    char machine[TN_KEY_STRLEN], theirs[TN_KEY_STRLEN];
    struct tn_machine_public pub;
    begin(&e, "tskey-abc--TLsig-key");
    struct fake_req *r = take(&e, "/machine/register");
    assert_int_equal(e.net.keys, 1);
    assert_int_equal(e.net.last_version, TN_CAPVER);
    tn_machine_public_of(&e.config.identity.machine, &pub);
    tn_machine_public_format(&pub, machine);
    tn_machine_public_format(&e.net.last_client, theirs);
    assert_string_equal(machine, theirs);

    assert_string_equal(r->method, "POST");
    assert_string_equal(r->authority, "127.0.0.1:8080");
    assert_int_equal(json_integer_value(json_object_get(r->json, "Version")), TN_CAPVER);
    assert_string_equal(json_string_value(json_object_get(json_object_get(r->json, "Auth"), "AuthKey")), "tskey-abc");
    assert_true(stored(&e, fake_text(r, "NodeKey"))); /* on disk before the server heard of it */
    assert_string_equal(r->lb[0], fake_text(r, "NodeKey"));
    assert_string_equal(fake_text(r, "Expiry"), "0001-01-01T00:00:00Z");
    assert_string_equal(fake_text(r, "Followup"), "");
    const json_t *hi = json_object_get(r->json, "Hostinfo");
    assert_string_equal(json_string_value(json_object_get(hi, "Hostname")), "box");
    assert_string_equal(json_string_value(json_object_get(hi, "GoArch")), "amd64");
    assert_int_equal(json_array_size(json_object_get(hi, "RoutableIPs")), 2);
    assert_int_equal(json_array_size(json_object_get(hi, "Services")), 2);
    assert_null(json_object_get(r->json, "Ephemeral"));
    fake_answer(r, 200, OK_REGISTER);

    struct fake_req *stream = take_map(&e, true), *lite = take_map(&e, false);
    assert_non_null(stream);
    assert_non_null(lite); /* at once after the login, not after the first map */
    assert_string_equal(fake_text(stream, "Compress"), "zstd");
    assert_true(json_is_true(json_object_get(stream->json, "KeepAlive")));
    assert_null(json_object_get(stream->json, "OmitPeers"));
    assert_true(json_is_true(json_object_get(lite->json, "OmitPeers")));
    assert_true(json_equal(json_object_get(lite->json, "Hostinfo"), json_object_get(stream->json, "Hostinfo")));
    assert_true(strncmp(fake_text(lite, "DiscoKey"), "discokey:d500", 13) == 0);
    assert_int_equal(e.state, TN_CONTROL_CONNECTING);
    fake_answer(lite, 200, "");
    fake_map(stream, FIRST_MAP);
    settle(&e);
    assert_int_equal(e.state, TN_CONTROL_RUNNING);
    assert_int_equal(e.peers, 1);
    assert_int_equal(e.netmaps, 1);
    assert_true((e.changes & (TN_NETMAP_SELF | TN_NETMAP_PEERS | TN_NETMAP_DOMAIN)) ==
                (TN_NETMAP_SELF | TN_NETMAP_PEERS | TN_NETMAP_DOMAIN));
    assert_string_equal(tn_netmap_self(tn_control_netmap(e.c))->name, "me.example.");
    assert_true(e.turns < 20);
    finish(&e);
}

static void test_ephemeral(void **state)
{
    struct env e;
    init(&e, "k");
    e.config.ephemeral = true;
    make(&e);
    tn_control_start(e.c, e.net.now);
    struct fake_req *r = take(&e, "/machine/register");
    assert_true(json_is_true(json_object_get(r->json, "Ephemeral")));
    finish(&e);
}

static void test_byte_by_byte_with_early_payload(void **state)
{
    struct env e;
    for (size_t piece = 1; piece < 64; piece = piece * 2 + 1) {
        init(&e, "k");
        e.net.piece = piece;
        e.net.early = true;
        make(&e);
        tn_control_start(e.c, e.net.now);
        join(&e);
        finish(&e);
    }
}

static void test_restart_sends_no_auth_key(void **state)
{
    struct env e;
    char text[TN_KEY_STRLEN];
    init(&e, "k");
    tn_node_private_generate(&e.config.identity.node, &e.net.rng);
    key_text(&e.config.identity.node, text);
    make(&e);
    tn_control_start(e.c, e.net.now);
    struct fake_req *r = take(&e, "/machine/register");
    assert_null(json_object_get(r->json, "Auth"));
    assert_string_equal(fake_text(r, "NodeKey"), text);
    assert_int_equal(e.saves, 0);
    /* The server demands a login: now the auth key goes out, with the same node key. */
    fake_answer(r, 200, "{\"AuthURL\":\"http://login/a\"}");
    r = take(&e, "/machine/register");
    assert_string_equal(json_string_value(json_object_get(json_object_get(r->json, "Auth"), "AuthKey")), "k");
    assert_string_equal(fake_text(r, "NodeKey"), text);
    assert_int_equal(e.urls, 0);
    fake_answer(r, 200, OK_REGISTER);
    assert_non_null(take_map(&e, true));
    finish(&e);
}

static void test_auth_url_and_followup(void **state)
{
    struct env e;
    char key[128];
    begin(&e, NULL);
    struct fake_req *r = take(&e, "/machine/register");
    snprintf(key, sizeof key, "%s", fake_text(r, "NodeKey"));
    fake_answer(r, 200, "{\"AuthURL\":\"http://login/a\",\"Unknown\":[{}]}");
    r = take(&e, "/machine/register");
    assert_string_equal(fake_text(r, "Followup"), "http://login/a");
    assert_string_equal(fake_text(r, "NodeKey"), key);
    assert_int_equal(e.state, TN_CONTROL_NEEDS_LOGIN);
    assert_string_equal(e.url, "http://login/a");
    assert_string_equal(tn_control_auth_url(e.c), "http://login/a");
    /* A long poll: nothing happens for minutes, and the connection's own PINGs keep it alive. */
    pass(&e, 300 * SECOND);
    none(&e, "/machine/register");
    assert_false(r->reset);
    fake_answer(r, 200, OK_REGISTER);
    fake_map(take_map(&e, true), FIRST_MAP);
    settle(&e);
    assert_int_equal(e.state, TN_CONTROL_RUNNING);
    assert_null(tn_control_auth_url(e.c));
    assert_int_equal(e.urls, 1);
    finish(&e);
}

static void test_followup_that_does_not_wait(void **state)
{
    struct env e;
    begin(&e, NULL);
    fake_answer(take(&e, "/machine/register"), 200, "{\"AuthURL\":\"http://login/a\"}");
    unsigned asked = 0;
    for (int i = 0; i < 50; i++) {
        settle(&e);
        for (struct fake_req *r; (r = fake_take(&e.net, "/machine/register"));) {
            asked++;
            fake_answer(r, 200, "{\"AuthURL\":\"http://login/a\"}");
        }
        pass(&e, SECOND);
    }
    assert_true(asked > 5 && asked < 60); /* backs off, but goes on */
    assert_int_equal(e.urls, 1);
    finish(&e);
}

static void test_followup_gone(void **state)
{
    struct env e;
    begin(&e, NULL);
    fake_answer(take(&e, "/machine/register"), 200, "{\"AuthURL\":\"http://login/a\"}");
    fake_answer(take(&e, "/machine/register"), 410, "gone");
    settle(&e);
    pass(&e, SECOND);
    struct fake_req *r = take(&e, "/machine/register");
    assert_string_equal(fake_text(r, "Followup"), ""); /* afresh, and a new URL */
    fake_answer(r, 200, "{\"AuthURL\":\"http://login/b\"}");
    settle(&e);
    assert_string_equal(e.url, "http://login/b");
    finish(&e);
}

static void test_rate_limit(void **state)
{
    static const struct { const char *header; uint64_t min_s, max_s; } rows[] = {
        {"7", 7, 7}, {"3601", 5, 10}, {"-1", 5, 10}, {"soon", 5, 10}, {NULL, 5, 10},
        {"Fri, 15 Jan 2027 08:00:21 GMT", 19, 21}, /* 1800000021: the wall clock plus 20 */
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct env e;
        begin(&e, "k");
        struct fake_req *r = take(&e, "/machine/register");
        fake_head(r, 429, rows[i].header);
        fake_body(r, "slow down", 9, true);
        settle(&e);
        assert_int_equal(e.state, TN_CONTROL_CONNECTING);
        pass(&e, rows[i].min_s * SECOND - SECOND / 2);
        none(&e, "/machine/register");
        pass(&e, (rows[i].max_s - rows[i].min_s) * SECOND + SECOND);
        take(&e, "/machine/register");
        finish(&e);
    }
}

static void test_error_is_final(void **state)
{
    struct env e;
    begin(&e, "bad");
    fake_answer(take(&e, "/machine/register"), 200, "{\"Error\":\"invalid authkey\"}");
    settle(&e);
    assert_int_equal(e.state, TN_CONTROL_FAILED);
    assert_string_equal(e.text, "invalid authkey");
    pass(&e, 600 * SECOND);
    none(&e, "/machine/register");
    tn_control_login(e.c, e.net.now); /* a person tries again */
    assert_null(json_object_get(take(&e, "/machine/register")->json, "Auth"));
    finish(&e);
}

static void test_http_401_with_auth_key_is_final(void **state)
{
    struct env e;
    begin(&e, "bad");
    fake_answer(take(&e, "/machine/register"), 401, "authkey expired\n");
    settle(&e);
    assert_int_equal(e.state, TN_CONTROL_FAILED);
    assert_string_equal(e.text, "register: HTTP 401: authkey expired");
    finish(&e);
}

static void test_other_failures_back_off(void **state)
{
    static const char *const bodies[] = {"", "null", "[]", "{", "\"x\"", "{\"AuthURL\":", "<html>"};
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        struct env e;
        begin(&e, "k");
        fake_answer(take(&e, "/machine/register"), 200, bodies[i]); /* never a success */
        settle(&e);
        assert_int_equal(e.state, TN_CONTROL_CONNECTING);
        pass(&e, SECOND);
        fake_answer(take(&e, "/machine/register"), 500, "caf\303\251 \377\33[2J");
        settle(&e);
        assert_string_equal(e.text, "register: HTTP 500: caf?? ??[2J"); /* fit for status, which is JSON, and a terminal */
        pass(&e, SECOND);
        fake_answer(take(&e, "/machine/register"), 200, OK_REGISTER);
        assert_non_null(take_map(&e, true));
        finish(&e);
    }
}

static void test_huge_register_answer(void **state)
{
    static char big[(1 << 20) + 100];
    struct env e;
    begin(&e, "k");
    memset(big, ' ', sizeof big - 1);
    struct fake_req *r = take(&e, "/machine/register");
    fake_answer(r, 200, big);
    settle(&e);
    assert_string_equal(e.text, "register: over a size limit");
    assert_int_equal(e.state, TN_CONTROL_CONNECTING);
    finish(&e);
}

static void test_key_expired_rotates_once(void **state)
{
    struct env e;
    char old[TN_KEY_STRLEN];
    init(&e, "k");
    tn_node_private_generate(&e.config.identity.node, &e.net.rng);
    key_text(&e.config.identity.node, old);
    make(&e);
    tn_control_start(e.c, e.net.now);
    fake_answer(take(&e, "/machine/register"), 200, "{\"NodeKeyExpired\":true}");
    struct fake_req *r = take(&e, "/machine/register");
    assert_string_equal(fake_text(r, "OldNodeKey"), old);
    assert_string_not_equal(fake_text(r, "NodeKey"), old);
    assert_non_null(json_object_get(r->json, "Auth"));
    assert_true(stored(&e, fake_text(r, "NodeKey")));
    assert_memory_equal(&e.saved.old_node, &e.config.identity.node, 32); /* amid a rotation */
    fake_answer(r, 200, "{\"NodeKeyExpired\":true}"); /* weird */
    settle(&e);
    none(&e, "/machine/register");
    pass(&e, SECOND);
    struct fake_req *again = take(&e, "/machine/register");
    assert_string_equal(fake_text(again, "NodeKey"), fake_text(r, "NodeKey"));
    fake_answer(again, 200, OK_REGISTER);
    settle(&e);
    assert_true(tn_key_is_zero(e.saved.old_node.b));
    assert_string_equal(fake_text(take_map(&e, true), "NodeKey"), fake_text(again, "NodeKey"));
    finish(&e);
}

static void test_cut_off_rotation_resumes(void **state)
{
    struct env e;
    char old[TN_KEY_STRLEN], new[TN_KEY_STRLEN];
    init(&e, NULL);
    tn_node_private_generate(&e.config.identity.node, &e.net.rng);
    tn_node_private_generate(&e.config.identity.old_node, &e.net.rng);
    key_text(&e.config.identity.node, new);
    key_text(&e.config.identity.old_node, old);
    make(&e);
    tn_control_start(e.c, e.net.now);
    struct fake_req *r = take(&e, "/machine/register");
    assert_string_equal(fake_text(r, "NodeKey"), new);
    assert_string_equal(fake_text(r, "OldNodeKey"), old);
    fake_answer(r, 200, "{\"AuthURL\":\"http://login/a\"}"); /* it was never finished: the old key may still do */
    r = take(&e, "/machine/register");
    assert_string_equal(fake_text(r, "NodeKey"), old);
    assert_int_equal(e.urls, 0);
    fake_answer(r, 200, OK_REGISTER);
    settle(&e);
    assert_true(stored(&e, old));
    assert_true(tn_key_is_zero(e.saved.old_node.b));
    finish(&e);
}

static void test_save_failure_fails_the_login(void **state)
{
    struct env e;
    init(&e, "k");
    e.save_err = TN_E_NOSPC;
    make(&e);
    tn_control_start(e.c, e.net.now);
    settle(&e);
    none(&e, "/machine/register"); /* the key was not used */
    assert_int_equal(e.state, TN_CONTROL_FAILED);
    finish(&e);
}

static void test_approval_pending(void **state)
{
    struct env e;
    begin(&e, "k");
    fake_answer(take(&e, "/machine/register"), 200, "{\"MachineAuthorized\":false}");
    struct fake_req *stream = take_map(&e, true);
    fake_map(stream, "{\"Node\":{\"ID\":1,\"Key\":\"" SELF_KEY "\",\"Addresses\":[\"100.64.0.1/32\"]}}");
    settle(&e);
    assert_int_equal(e.state, TN_CONTROL_NEEDS_APPROVAL);
    fake_map(stream, "{\"Node\":" NODE(1, "me", "") "}");
    settle(&e);
    assert_int_equal(e.state, TN_CONTROL_RUNNING);
    finish(&e);
}

/* --- staying --- */

static void test_renewal_keeps_the_old_key_running(void **state)
{
    struct env e;
    begin(&e, "k");
    struct fake_req *stream = join(&e);
    char old[TN_KEY_STRLEN];
    snprintf(old, sizeof old, "%s", fake_text(stream, "NodeKey"));
    tn_control_login(e.c, e.net.now);
    struct fake_req *r = take(&e, "/machine/register");
    assert_string_equal(fake_text(r, "OldNodeKey"), old);
    assert_null(json_object_get(r->json, "Auth")); /* a person asked */
    fake_answer(r, 200, "{\"AuthURL\":\"http://login/a\"}");
    r = take(&e, "/machine/register");
    assert_int_equal(e.state, TN_CONTROL_RUNNING);
    assert_string_equal(e.url, "http://login/a");
    fake_map(stream, "{\"PeersRemoved\":[2]}"); /* the old stream still counts */
    settle(&e);
    assert_int_equal(e.gone, 1);
    assert_false(stream->reset);
    fake_answer(r, 200, OK_REGISTER);
    settle(&e);
    assert_true(stream->reset);
    struct fake_req *second = take_map(&e, true);
    assert_string_not_equal(fake_text(second, "NodeKey"), old);
    assert_true(stored(&e, fake_text(second, "NodeKey")));
    finish(&e);
}

static void test_failed_renewal_keeps_running(void **state)
{
    struct env e;
    begin(&e, "k");
    struct fake_req *stream = join(&e);
    tn_control_login(e.c, e.net.now);
    fake_answer(take(&e, "/machine/register"), 200, "{\"Error\":\"no\"}");
    settle(&e);
    assert_int_equal(e.state, TN_CONTROL_RUNNING);
    assert_true(stored(&e, fake_text(stream, "NodeKey")));
    assert_true(tn_key_is_zero(e.saved.old_node.b));
    finish(&e);
}

static void test_self_expiry_logs_in_again(void **state)
{
    struct env e;
    begin(&e, "k");
    struct fake_req *stream = join(&e);
    /* In two hours by the server's clock, which is one hour ahead of ours. */
    fake_map(stream, "{\"ControlTime\":\"2027-01-15T09:00:01Z\",\"Node\":" NODE(1, "me",
        ",\"KeyExpiry\":\"2027-01-15T11:00:00Z\"")
                     "}");
    for (int i = 0; i < 119; i++) {
        pass(&e, 60 * SECOND);
        fake_map(stream, "{\"KeepAlive\":true}");
    }
    none(&e, "/machine/register");
    assert_int_equal(e.state, TN_CONTROL_RUNNING);
    pass(&e, 62 * SECOND);
    struct fake_req *r = take(&e, "/machine/register");
    assert_string_equal(fake_text(r, "OldNodeKey"), fake_text(stream, "NodeKey"));
    assert_non_null(json_object_get(r->json, "Auth"));
    assert_int_equal(e.state, TN_CONTROL_CONNECTING);
    finish(&e);
}

static void test_extended_while_renewing(void **state)
{
    struct env e;
    begin(&e, NULL);
    struct fake_req *stream = join(&e);
    fake_map(stream, "{\"Node\":" NODE(1, "me", ",\"KeyExpiry\":\"2025-01-01T00:00:00Z\"") "}");
    fake_answer(take(&e, "/machine/register"), 200, "{\"AuthURL\":\"http://login/a\"}");
    struct fake_req *followup = take(&e, "/machine/register");
    assert_int_equal(e.state, TN_CONTROL_NEEDS_LOGIN);
    assert_false(stored(&e, fake_text(stream, "NodeKey")));
    fake_map(stream, "{\"Node\":" NODE(1, "me", ",\"KeyExpiry\":\"2035-01-01T00:00:00Z\"") "}");
    settle(&e);
    assert_int_equal(e.state, TN_CONTROL_RUNNING);
    assert_null(tn_control_auth_url(e.c));
    assert_true(followup->reset);
    assert_true(stored(&e, fake_text(stream, "NodeKey")));
    finish(&e);
}

static void test_expired_again_and_again(void **state)
{
    struct env e;
    unsigned registers = 0;
    begin(&e, "k");
    fake_answer(take(&e, "/machine/register"), 200, OK_REGISTER);
    for (int i = 0; i < 3600; i += 10) { /* an hour of a server that gives every key out as expired */
        for (int turn = 0; turn < 20; turn++) {
            struct fake_req *r = (settle(&e), fake_take(&e.net, "/machine/"));
            if (!r) break;
            if (strcmp(r->path, "/machine/register") == 0) {
                registers++;
                fake_answer(r, 200, OK_REGISTER);
            } else if (json_is_true(json_object_get(r->json, "Stream"))) {
                fake_map(r, "{\"Node\":" NODE(1, "me", ",\"KeyExpiry\":\"2025-01-01T00:00:00Z\"") "}");
            } else {
                fake_answer(r, 200, "");
            }
        }
        pass(&e, 10 * SECOND);
    }
    assert_true(registers >= 3 && registers < 10);
    finish(&e);
}

static void test_insane_control_time(void **state)
{
    struct env e;
    begin(&e, "k");
    struct fake_req *stream = join(&e);
    fake_map(stream, "{\"ControlTime\":\"2020-08-03T00:00:00Z\",\"Node\":" NODE(1, "me",
        ",\"KeyExpiry\":\"2027-01-15T08:00:10Z\"") "}");
    pass(&e, 5 * SECOND);
    none(&e, "/machine/register");
    pass(&e, 6 * SECOND);
    take(&e, "/machine/register"); /* by our own clock */
    finish(&e);
}

static void test_map_404_logs_in_again(void **state)
{
    struct env e;
    begin(&e, "k");
    fake_answer(take(&e, "/machine/register"), 200, OK_REGISTER);
    unsigned registers = 0, maps = 0;
    for (int i = 0; i < 60; i++) {
        settle(&e);
        for (struct fake_req *r; (r = fake_take(&e.net, "/machine/"));) {
            if (strcmp(r->path, "/machine/map") == 0) {
                if (json_is_true(json_object_get(r->json, "Stream"))) maps++;
                fake_answer(r, 404, "node not found");
            } else {
                registers++;
                assert_null(json_object_get(r->json, "Auth"));
                fake_answer(r, 200, OK_REGISTER);
            }
            settle(&e);
        }
        pass(&e, SECOND);
    }
    assert_true(registers > 5 && maps > 5);
    assert_true(registers < 45 && maps < 45); /* n^2 * 10 ms over a minute: some thirty */
    finish(&e);
}

static void test_stream_loss_backs_off(void **state)
{
    struct env e;
    begin(&e, "k");
    struct fake_req *stream = join(&e);
    unsigned upgrades = e.net.upgrades;
    fake_cut(&e.net, TN_E_RESET);
    settle(&e);
    assert_false(tn_control_connected(e.c));
    assert_int_equal(e.state, TN_CONTROL_RUNNING); /* the netmap still holds */
    assert_int_equal(e.gone, 0);
    pass(&e, SECOND);
    assert_int_equal(e.net.upgrades, upgrades + 1);
    assert_int_equal(e.net.keys, 1); /* the key is known */
    stream = take_map(&e, true);
    struct fake_req *lite = take_map(&e, false);
    assert_non_null(lite); /* a new session is told everything again */
    none(&e, "/machine/register");
    /* It has the same peer: nobody is told. Then one without it. */
    unsigned peers = e.peers;
    fake_map(stream, FIRST_MAP);
    settle(&e);
    assert_int_equal(e.peers, peers);
    assert_true(tn_control_connected(e.c));
    fake_cut(&e.net, 0);
    pass(&e, SECOND);
    fake_map(take_map(&e, true), "{\"Node\":" NODE(1, "me", "") ",\"Peers\":[]}");
    settle(&e);
    assert_int_equal(e.gone, 1); /* in a first response an empty list is the whole truth */
    finish(&e);
}

static void test_backoff_grows_until_a_real_response(void **state)
{
    struct env e;
    begin(&e, "k");
    join(&e);
    unsigned before = e.net.upgrades;
    for (int i = 0; i < 600; i++) { /* accepts the stream, says a keepalive, and hangs up */
        settle(&e);
        struct fake_req *r = take_map(&e, true);
        if (r) {
            fake_map(r, "{\"KeepAlive\":true}");
            settle(&e);
            fake_cut(&e.net, 0);
        }
        pass(&e, SECOND);
    }
    unsigned tries = e.net.upgrades - before;
    assert_true(tries > 20 && tries < 90); /* towards one in 30 s */
    finish(&e);
}

static void test_watchdog_and_keepalives(void **state)
{
    struct env e;
    begin(&e, "k");
    struct fake_req *stream = join(&e);
    for (int i = 0; i < 10; i++) {
        pass(&e, 100 * SECOND);
        fake_map(stream, "{\"KeepAlive\":true}");
    }
    settle(&e);
    assert_false(stream->reset);
    unsigned upgrades = e.net.upgrades, netmaps = e.netmaps;
    pass(&e, 119 * SECOND);
    assert_int_equal(e.net.upgrades, upgrades);
    pass(&e, 3 * SECOND);
    assert_int_equal(e.net.upgrades, upgrades + 1);
    assert_int_equal(e.netmaps, netmaps); /* keepalives are no netmap */
    assert_non_null(take_map(&e, true));
    finish(&e);
}

static void test_silent_connection_dies(void **state)
{
    struct env e;
    begin(&e, NULL);
    fake_answer(take(&e, "/machine/register"), 200, "{\"AuthURL\":\"http://login/a\"}");
    take(&e, "/machine/register");
    struct fake_conn *conn = TN_CONTAINER(e.net.conns.next, struct fake_conn, link);
    conn->black_hole = true; /* a NAT forgot it: nothing goes through any more */
    unsigned upgrades = e.net.upgrades;
    pass(&e, 100 * SECOND);
    assert_int_equal(e.net.upgrades, upgrades);
    pass(&e, 10 * SECOND);
    assert_int_equal(e.net.upgrades, upgrades + 1);
    assert_string_equal(fake_text(take(&e, "/machine/register"), "Followup"), "http://login/a");
    finish(&e);
}

static void test_goaway_reconnects(void **state)
{
    struct env e;
    begin(&e, "k");
    struct fake_req *stream = join(&e);
    unsigned upgrades = e.net.upgrades;
    nghttp2_submit_goaway(stream->conn->h2, 0, stream->stream, NGHTTP2_NO_ERROR, NULL, 0);
    pass(&e, SECOND);
    assert_int_equal(e.net.upgrades, upgrades + 1);
    assert_non_null(take_map(&e, true));
    finish(&e);
}

static void test_reset_stream_polls_again_on_the_same_connection(void **state)
{
    struct env e;
    begin(&e, "k");
    struct fake_req *stream = join(&e);
    unsigned upgrades = e.net.upgrades;
    nghttp2_submit_rst_stream(stream->conn->h2, 0, stream->stream, NGHTTP2_INTERNAL_ERROR);
    pass(&e, SECOND);
    assert_int_equal(e.net.upgrades, upgrades);
    assert_non_null(take_map(&e, true));
    finish(&e);
}

static void test_reconnect_call(void **state)
{
    struct env e;
    begin(&e, "k");
    join(&e);
    unsigned upgrades = e.net.upgrades;
    tn_control_reconnect(e.c, e.net.now);
    settle(&e); /* without any wait */
    assert_int_equal(e.net.upgrades, upgrades + 1);
    assert_non_null(take_map(&e, true));
    finish(&e);
}

static void reconnect_once(struct env *e)
{
    e->on_netmap = NULL;
    tn_control_reconnect(e->c, e->net.now); /* from inside a callback, amid HTTP/2 input */
}

static void test_reconnect_inside_a_callback(void **state)
{
    struct env e;
    begin(&e, "k");
    struct fake_req *stream = join(&e);
    unsigned upgrades = e.net.upgrades;
    e.on_netmap = reconnect_once;
    fake_map(stream, "{\"PeersRemoved\":[2]}");
    fake_map(stream, "{\"PeersRemoved\":[2]}");
    settle(&e);
    assert_int_equal(e.net.upgrades, upgrades + 1);
    fake_map(take_map(&e, true), FIRST_MAP);
    settle(&e);
    assert_true(tn_control_connected(e.c));
    finish(&e);
}

/* --- telling --- */

static void netinfo(struct env *e, int derp, double latency)
{
    struct tn_control_netinfo ni = {.preferred_derp = derp, .mapping_varies_by_dest = -1, .working_udp = 1,
        .upnp = -1,
                                    .pmp = -1, .pcp = -1, .nlatency = 1};
    snprintf(ni.latency[0].name, sizeof ni.latency[0].name, "%d-v4", derp);
    ni.latency[0].seconds = latency;
    tn_control_set_netinfo(e->c, &ni, e->net.now);
}

static void test_updates(void **state)
{
    struct env e;
    begin(&e, "k");
    join(&e);
    netinfo(&e, 3, 0.02);
    struct fake_req *r = take_map(&e, false);
    const json_t *hi = json_object_get(r->json, "Hostinfo"), *ni = json_object_get(hi, "NetInfo");
    assert_string_equal(json_string_value(json_object_get(hi, "Hostname")), "box"); /* always all of it */
    assert_int_equal(json_integer_value(json_object_get(ni, "PreferredDERP")), 3);
    assert_true(json_is_true(json_object_get(ni, "WorkingUDP")));
    assert_null(json_object_get(ni, "UPnP"));
    assert_true(json_is_false(json_object_get(ni, "OSHasIPv6")));
    assert_true(json_real_value(json_object_get(json_object_get(ni, "DERPLatency"), "3-v4")) > 0.019);
    /* While it is under way two changes come: one more update, with the last state. */
    struct tn_control_endpoint ep = {.type = 2};
    tn_addrport_parse("192.0.2.1:41641", &ep.addr);
    tn_control_set_endpoints(e.c, &ep, 1, e.net.now);
    netinfo(&e, 4, 0.02);
    assert_null(take_map(&e, false));
    fake_answer(r, 200, "drained");
    r = take_map(&e, false);
    assert_string_equal(json_string_value(json_array_get(json_object_get(r->json, "Endpoints"), 0)),
        "192.0.2.1:41641");
    assert_int_equal(json_integer_value(json_array_get(json_object_get(r->json, "EndpointTypes"), 0)), 2);
    ni = json_object_get(json_object_get(r->json, "Hostinfo"), "NetInfo");
    assert_int_equal(json_integer_value(json_object_get(ni, "PreferredDERP")), 4);
    fake_answer(r, 200, "");
    settle(&e);
    /* Nothing that matters changed. */
    netinfo(&e, 4, 0.5);
    tn_control_set_endpoints(e.c, &ep, 1, e.net.now);
    set_host(&e, "box");
    assert_null(take_map(&e, false));
    set_host(&e, "crate");
    r = take_map(&e, false);
    /* Not taken: again after a wait. */
    fake_answer(r, 500, "");
    settle(&e);
    assert_null(take_map(&e, false));
    pass(&e, SECOND);
    r = take_map(&e, false);
    assert_string_equal(json_string_value(json_object_get(json_object_get(r->json, "Hostinfo"), "Hostname")),
        "crate");
    finish(&e);
}

static void test_nothing_is_told_before_login(void **state)
{
    struct env e;
    begin(&e, NULL);
    netinfo(&e, 3, 0.1);
    assert_null(take_map(&e, false));
    assert_null(take_map(&e, true));
    finish(&e);
}

/* --- pings --- */

static void test_head_pings(void **state)
{
    struct env e;
    begin(&e, "k");
    struct fake_req *stream = join(&e);
    fake_map(stream, "{\"KeepAlive\":true,\"PingRequest\":{\"URL\":\"https://h/machine/ping-response?id=1\","
        "\"URLIsNoise\":true}}");
    struct fake_req *r = take(&e, "/machine/ping-response?id=1");
    assert_string_equal(r->method, "HEAD");
    assert_string_equal(r->authority, "h");
    assert_non_null(r->conn); /* inside Noise */
    fake_map(stream, "{\"KeepAlive\":true,\"PingRequest\":{\"URL\":\"https://h/machine/ping-response?id=1\","
        "\"URLIsNoise\":true}}");
    none(&e, "/machine/ping-response");
    fake_map(stream, "{\"PingRequest\":{\"URL\":\"http://127.0.0.1:8080/out?id=2\"}}");
    r = take(&e, "/out?id=2");
    assert_string_equal(r->method, "HEAD");
    assert_null(r->conn); /* outside */
    fake_map(stream, "{\"PingRequest\":{\"URL\":\"\"}}");
    fake_map(stream, "{\"PingRequest\":{\"URL\":\"gopher://x/\"}}");
    settle(&e);
    assert_true(tn_control_connected(e.c));
    finish(&e);
}

static void c2n(struct env *e, struct fake_req *stream, const char *id, const char *request)
{
    char json[2048], b64[1024];
    tn_base64_encode(TN_BASE64_STD, request, strlen(request), b64);
    snprintf(json, sizeof json, "{\"KeepAlive\":true,\"PingRequest\":{\"URL\":\"https://h/c2n/%s\","
        "\"Types\":\"c2n\",\"Payload\":\"%s\"}}",
             id, b64);
    fake_map(stream, json);
}

static void assert_body(const struct fake_req *r, const char *want)
{
    assert_int_equal(tn_buf_len(&r->body), strlen(want));
    assert_memory_equal(tn_buf_data(&r->body), want, strlen(want));
}

static void test_c2n(void **state)
{
    struct env e;
    begin(&e, "k");
    struct fake_req *stream = join(&e);
    c2n(&e, stream, "1", "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
    struct fake_req *r = take(&e, "/c2n/1");
    assert_string_equal(r->method, "POST");
    assert_body(r, "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 5\r\n\r\nhello");
    c2n(&e, stream, "2", "GET /known?x=1 HTTP/1.1\r\n\r\n");
    assert_body(take(&e, "/c2n/2"), "HTTP/1.1 204 No Content\r\n\r\n");
    c2n(&e, stream, "3", "GET /debug/prefs HTTP/1.1\r\n\r\n");
    r = take(&e, "/c2n/3");
    assert_true(tn_buf_len(&r->body) > 24 && memcmp(tn_buf_data(&r->body), "HTTP/1.1 400 Bad Request", 24) == 0);
    c2n(&e, stream, "4", "what is this");
    c2n(&e, stream, "5", "POST /echo HTTP/1.1\r\nContent-Length: 50\r\n\r\nshort");
    none(&e, "/c2n/4");
    none(&e, "/c2n/5");
    assert_true(tn_control_connected(e.c));
    finish(&e);
}

static void test_peer_pings(void **state)
{
    struct env e;
    begin(&e, "k");
    struct fake_req *stream = join(&e);
    fake_map(stream, "{\"PingRequest\":{\"URL\":\"https://h/p/1\",\"URLIsNoise\":true,\"Types\":\"disco,TSMP\","
        "\"IP\":\"100.64.0.2\"}}");
    settle(&e);
    assert_int_equal(e.pings, 1);
    assert_string_equal(e.ping_types, "disco,TSMP");
    tn_control_ping_result(e.c, e.ping_token, "disco", 0, 0.25, "192.0.2.9:1", 0);
    struct fake_req *r = take(&e, "/p/1");
    assert_string_equal(fake_text(r, "Type"), "disco");
    assert_string_equal(fake_text(r, "IP"), "100.64.0.2");
    assert_string_equal(fake_text(r, "Endpoint"), "192.0.2.9:1");
    assert_true(json_real_value(json_object_get(r->json, "LatencySeconds")) == 0.25);
    tn_control_ping_result(e.c, e.ping_token, "TSMP", TN_E_TIMEDOUT, 0, NULL, 7);
    r = take(&e, "/p/1");
    assert_string_equal(fake_text(r, "Err"), "timed out");
    assert_int_equal(json_integer_value(json_object_get(r->json, "DERPRegionID")), 7);
    tn_control_ping_result(e.c, e.ping_token + 5, "TSMP", 0, 0, NULL, 7);
    pass(&e, 30 * SECOND);
    tn_control_ping_result(e.c, e.ping_token, "TSMP", 0, 0, NULL, 7); /* too late */
    none(&e, "/p/");
    finish(&e);
}

static void test_ping_flood(void **state)
{
    struct env e;
    begin(&e, "k");
    struct fake_req *stream = join(&e);
    for (int i = 0; i < 500; i++) {
        char json[160];
        snprintf(json, sizeof json, "{\"KeepAlive\":true,\"PingRequest\":{\"URL\":\"https://h/f/%d\","
            "\"URLIsNoise\":true}}", i);
        fake_map(stream, json);
        snprintf(json, sizeof json, "{\"KeepAlive\":true,\"PingRequest\":{\"URL\":\"http://10.0.0.1/f/%d\"}}", i);
        fake_map(stream, json);
    }
    e.net.hole_port = 80; /* the ones outside hang */
    settle(&e);
    unsigned inside = 0;
    for (struct fake_req *r; (r = fake_take(&e.net, "/f/"));) inside++;
    assert_true(inside <= 64);
    assert_true(e.net.dials < 10);
    assert_true(tn_control_connected(e.c));
    finish(&e);
}

/* --- the server's other wishes --- */

static void test_browser_url_once(void **state)
{
    struct env e;
    begin(&e, "k");
    struct fake_req *stream = join(&e);
    fake_map(stream, "{\"KeepAlive\":true,\"PopBrowserURL\":\"http://go/1\"}");
    fake_map(stream, "{\"KeepAlive\":true,\"PopBrowserURL\":\"http://go/1\"}");
    settle(&e);
    assert_int_equal(e.urls, 1);
    assert_string_equal(e.url, "http://go/1");
    fake_map(stream, "{\"PopBrowserURL\":\"http://go/2\"}");
    settle(&e);
    assert_int_equal(e.urls, 2);
    finish(&e);
}

static void test_debug_sleep_and_exit(void **state)
{
    struct env e;
    begin(&e, "k");
    struct fake_req *stream = join(&e);
    fake_map(stream, "{\"Debug\":{\"SleepSeconds\":3600,\"Exit\":3}}"); /* capped at five minutes; exit ignored */
    fake_map(stream, "{\"PeersRemoved\":[2]}");
    fake_map(stream, "{\"Debug\":{\"SleepSeconds\":10}}");
    fake_map(stream, "{\"PeersChanged\":[" NODE(3, "later", "") "]}");
    pass(&e, 299 * SECOND); /* longer than the watchdog, which rests */
    assert_int_equal(e.gone, 0);
    pass(&e, 2 * SECOND);
    assert_int_equal(e.gone, 1);
    assert_null(tn_netmap_peer_by_id(tn_control_netmap(e.c), 3));
    pass(&e, 10 * SECOND);
    assert_non_null(tn_netmap_peer_by_id(tn_control_netmap(e.c), 3));
    assert_true(tn_control_connected(e.c));
    finish(&e);
}

/* --- logout --- */

static void on_logout(void *ctx, int err)
{
    struct env *e = ctx;
    e->logouts++;
    e->logout_err = err;
}

static void test_logout(void **state)
{
    struct env e;
    begin(&e, "k");
    struct fake_req *stream = join(&e);
    tn_control_logout(e.c, on_logout, &e, e.net.now);
    struct fake_req *r = take(&e, "/machine/register");
    assert_string_equal(fake_text(r, "Expiry"), "1970-01-01T00:02:03Z");
    assert_string_equal(fake_text(r, "NodeKey"), fake_text(stream, "NodeKey"));
    assert_non_null(json_object_get(r->json, "Hostinfo"));
    assert_int_equal(e.logouts, 0);
    fake_answer(r, 200, "{\"NodeKeyExpired\":true}");
    settle(&e);
    assert_int_equal(e.logouts, 1);
    assert_int_equal(e.logout_err, 0);
    assert_true(tn_key_is_zero(e.saved.node.b));
    assert_int_equal(e.state, TN_CONTROL_NEEDS_LOGIN);
    assert_int_equal(e.gone, 1);
    assert_null(tn_netmap_self(tn_control_netmap(e.c)));
    pass(&e, 600 * SECOND);
    none(&e, "/machine/");
    tn_control_login(e.c, e.net.now);
    assert_string_not_equal(fake_text(take(&e, "/machine/register"), "NodeKey"), fake_text(r, "NodeKey"));
    finish(&e);
}

static void test_logout_that_wants_the_auth_key(void **state)
{
    struct env e;
    begin(&e, "k");
    join(&e);
    tn_control_logout(e.c, on_logout, &e, e.net.now);
    struct fake_req *r = take(&e, "/machine/register");
    assert_null(json_object_get(r->json, "Auth"));
    fake_answer(r, 200, "{\"Error\":\"invalid authkey\"}");
    r = take(&e, "/machine/register");
    assert_string_equal(json_string_value(json_object_get(json_object_get(r->json, "Auth"), "AuthKey")), "k");
    fake_answer(r, 200, "{\"Error\":\"still not\"}");
    settle(&e);
    assert_int_equal(e.logout_err, TN_E_REFUSED);
    assert_true(tn_key_is_zero(e.saved.node.b)); /* forgotten here whatever the server says */
    none(&e, "/machine/register");
    finish(&e);
}

static void test_logout_without_an_answer(void **state)
{
    struct env e;
    begin(&e, "k");
    join(&e);
    tn_control_logout(e.c, on_logout, &e, e.net.now);
    pass(&e, 5 * SECOND);
    assert_int_equal(e.logouts, 1);
    assert_int_equal(e.logout_err, TN_E_TIMEDOUT);
    assert_true(tn_key_is_zero(e.saved.node.b));
    finish(&e);
}

static void test_logout_before_start(void **state)
{
    struct env e;
    init(&e, NULL);
    make(&e);
    tn_control_logout(e.c, on_logout, &e, e.net.now);
    settle(&e);
    assert_int_equal(e.logouts, 1);
    assert_int_equal(e.logout_err, 0);
    assert_int_equal(e.net.dials, 0);
    finish(&e);
}

/* --- reaching the server --- */

static void start_url(struct env *e, const char *url)
{
    init(e, "k");
    e->config.server_url = url;
    make(e);
}

static struct fake_conn *conn_at(struct env *e, uint16_t port)
{
    TN_LIST_EACH(l, &e->net.conns) {
        struct fake_conn *c = TN_CONTAINER(l, struct fake_conn, link);
        if (c->port == port && !c->client_closed) return c;
    }
    return NULL;
}

static void test_https_races_plain_first(void **state)
{
    struct env e;
    start_url(&e, "https://ctl.example");
    tn_control_start(e.c, e.net.now);
    struct fake_conn *key = conn_at(&e, 443);
    assert_true(key->tls && key->verify == TN_VERIFY_SYSTEM); /* the key's fetch is checked */
    take(&e, "/machine/register");
    struct fake_conn *won = conn_at(&e, 80);
    assert_non_null(won);
    assert_false(won->tls);
    assert_null(conn_at(&e, 443));
    assert_int_equal(e.net.upgrades, 1);
    finish(&e);
}

static void test_port_80_refused(void **state)
{
    struct env e;
    start_url(&e, "https://ctl.example:8443");
    e.net.refuse_port = 80;
    tn_control_start(e.c, e.net.now);
    take(&e, "/machine/register"); /* TLS at once, no time has passed */
    struct fake_conn *won = conn_at(&e, 8443);
    assert_true(won->tls && won->verify == TN_VERIFY_INSECURE);
    finish(&e);
}

static void test_port_80_silent(void **state)
{
    struct env e;
    start_url(&e, "https://ctl.example");
    e.net.hole_port = 80;
    tn_control_start(e.c, e.net.now);
    pass(&e, 499000);
    none(&e, "/machine/");
    assert_null(conn_at(&e, 443));
    pass(&e, 2000);
    take(&e, "/machine/register");
    assert_non_null(conn_at(&e, 443));
    assert_null(conn_at(&e, 80)); /* the loser is closed */
    finish(&e);
}

static void test_port_80_is_something_else(void **state)
{
    struct env e;
    start_url(&e, "https://ctl.example");
    e.net.broken_port = 80;
    tn_control_start(e.c, e.net.now);
    take(&e, "/machine/register");
    assert_non_null(conn_at(&e, 443));
    finish(&e);
}

static void test_private_http_never_tries_tls(void **state)
{
    static const char *const urls[] = {"http://127.0.0.1:8080", "http://10.1.2.3:8080", "http://localhost:8080",
        "http://[::1]:8080"};
    for (size_t i = 0; i < 4; i++) {
        struct env e;
        start_url(&e, urls[i]);
        tn_control_start(e.c, e.net.now);
        fake_run(&e.net);
        e.net.hole_port = 8080;
        fake_cut(&e.net, TN_E_RESET);
        pass(&e, 60 * SECOND);
        assert_null(conn_at(&e, 443));
        finish(&e);
    }
}

static void test_public_http_falls_back_to_tls(void **state)
{
    struct env e;
    start_url(&e, "http://ctl.example:8080");
    tn_control_start(e.c, e.net.now);
    join(&e);
    /* A dial soon after another tries TLS first, and still comes back to the port that works. */
    unsigned dials = e.net.dials;
    e.net.hole_port = 443;
    tn_control_reconnect(e.c, e.net.now);
    settle(&e);
    assert_int_equal(e.net.dials, dials + 1);
    assert_null(take_map(&e, true));
    pass(&e, 4 * SECOND);
    assert_non_null(take_map(&e, true));
    assert_non_null(conn_at(&e, 8080));
    finish(&e);
}

static void test_unreachable_is_retried(void **state)
{
    struct env e;
    start_url(&e, "http://127.0.0.1:8080");
    e.net.refuse_port = 8080;
    tn_control_start(e.c, e.net.now);
    pass(&e, 10 * SECOND);
    assert_int_equal(e.state, TN_CONTROL_CONNECTING);
    assert_non_null(strstr(e.text, "connection refused"));
    assert_true(e.net.dials > 3 && e.net.dials < 25);
    e.net.refuse_port = 0;
    pass(&e, 30 * SECOND);
    take(&e, "/machine/register");
    finish(&e);
}

static void test_silent_server_times_out(void **state)
{
    struct env e;
    start_url(&e, "http://127.0.0.1:8080");
    e.net.hole_port = 8080;
    tn_control_start(e.c, e.net.now);
    pass(&e, 16 * SECOND);
    assert_int_equal(e.net.dials, 2);
    assert_non_null(strstr(e.text, "timed out"));
    finish(&e);
}

static void test_dial_fails_at_once(void **state)
{
    struct env e;
    start_url(&e, "http://127.0.0.1:8080");
    e.net.dial_error = TN_E_MFILE;
    tn_control_start(e.c, e.net.now);
    pass(&e, 10 * SECOND);
    assert_int_equal(e.state, TN_CONTROL_CONNECTING);
    assert_true(e.turns < 100);
    e.net.dial_error = 0;
    pass(&e, 30 * SECOND);
    take(&e, "/machine/register");
    finish(&e);
}

static void test_bad_keys(void **state)
{
    static const char *const answers[] = {
        "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n{\"publicKey\":\"mkey:zz\"}",
        "HTTP/1.1 200 OK\r\n\r\n{\"legacyPublicKey\":\"\"}",
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:8080/key?v=1\r\n\r\n", /* around and around */
        "garbage\r\n\r\n",
        "HTTP/1.1 101 Switching\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    };
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        struct env e;
        init(&e, "k");
        e.net.key_answer = answers[i];
        make(&e);
        tn_control_start(e.c, e.net.now);
        settle(&e);
        assert_int_equal(e.net.upgrades, 0);
        assert_true(strlen(e.text) > 0);
        assert_true(e.net.keys <= 7);
        e.net.key_answer = NULL;
        pass(&e, SECOND);
        take(&e, "/machine/register");
        finish(&e);
    }
}

static void test_wrong_key_is_fetched_again(void **state)
{
    struct env e;
    init(&e, "k");
    e.net.wrong_key = true;
    make(&e);
    tn_control_start(e.c, e.net.now);
    settle(&e);
    none(&e, "/machine/");
    e.net.wrong_key = false;
    pass(&e, SECOND);
    take(&e, "/machine/register");
    assert_true(e.net.keys >= 2);
    finish(&e);
}

static void test_key_outlives_a_server_that_is_away(void **state)
{
    struct env e;
    begin(&e, "k");
    join(&e);
    e.net.refuse_port = 8080;
    fake_cut(&e.net, 0);
    pass(&e, 20 * SECOND);
    assert_int_equal(e.net.keys, 1);
    e.net.refuse_port = 0;
    pass(&e, 30 * SECOND);
    assert_non_null(take_map(&e, true));
    assert_int_equal(e.net.keys, 1);
    finish(&e);
}

static void test_bad_upgrades(void **state)
{
    static const char *const answers[] = {
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 101 X\r\nUpgrade: websocket\r\n\r\n",
            "\x16\x03\x01\x02",
        "HTTP/1.1 101 X\r\nUpgrade: tailscale-control-protocol\r\n\r\n\x04\x10\x00zzzz",
    };
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        struct env e;
        init(&e, "k");
        e.net.upgrade_answer = answers[i];
        make(&e);
        tn_control_start(e.c, e.net.now);
        pass(&e, 12 * SECOND);
        none(&e, "/machine/");
        assert_int_equal(e.state, TN_CONTROL_CONNECTING);
        e.net.upgrade_answer = NULL;
        pass(&e, 12 * SECOND);
        take(&e, "/machine/register");
        finish(&e);
    }
    struct env e;
    init(&e, "k");
    e.net.noise_refusal = "too old";
    make(&e);
    tn_control_start(e.c, e.net.now);
    settle(&e);
    assert_non_null(strstr(e.text, "too old"));
    finish(&e);
}

/* --- hostile map streams --- */

static void test_garbage_inside_noise(void **state)
{
    static const uint8_t early_huge[] = {0xff, 0xff, 0xff, 'T', 'S', 0x7f, 0, 0, 0};
    static const uint8_t bad_frame[64] = {0, 0xff, 0xff, 0x99, 1, 2, 3, 4, 5, 6};
    const struct { const void *bytes; size_t len; } rows[] = {
        {early_huge, sizeof early_huge}, {bad_frame, sizeof bad_frame}, {"HTTP/1.1 400 Bad Request\r\n\r\n", 28}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct env e;
        init(&e, "k");
        e.net.raw_after_handshake = rows[i].bytes;
        e.net.raw_len = rows[i].len;
        make(&e);
        tn_control_start(e.c, e.net.now);
        pass(&e, SECOND);
        assert_true(e.net.upgrades >= 2); /* dropped and tried again */
        assert_int_equal(e.state, TN_CONTROL_CONNECTING);
        finish(&e);
    }
}

static void raw_map(struct fake_req *r, uint32_t size, const void *bytes, size_t len)
{
    uint8_t head[4] = {(uint8_t)size, (uint8_t)(size >> 8), (uint8_t)(size >> 16), (uint8_t)(size >> 24)};
    if (!r->answered) fake_head(r, 200, NULL);
    fake_body(r, head, sizeof head, false);
    fake_body(r, bytes, len, false);
}

/* Breaks a running stream in one way: it must be reset and polled again. */
static void expect_dropped(void (*attack)(struct fake_req *stream))
{
    struct env e;
    begin(&e, "k");
    struct fake_req *stream = join(&e);
    attack(stream);
    settle(&e);
    assert_true(stream->reset);
    assert_false(tn_control_connected(e.c));
    assert_int_equal(e.state, TN_CONTROL_RUNNING);
    assert_int_equal(tn_netmap_npeers(tn_control_netmap(e.c)), 1); /* unharmed */
    pass(&e, 40 * SECOND);
    fake_map(take_map(&e, true), FIRST_MAP);
    settle(&e);
    assert_true(tn_control_connected(e.c));
    finish(&e);
}

static void attack_size(struct fake_req *r) { raw_map(r, 0xffffffff, "", 0); }
static void attack_empty(struct fake_req *r) { raw_map(r, 0, "", 0); }
static void attack_not_zstd(struct fake_req *r) { raw_map(r, 20, "{\"KeepAlive\":true}   ", 20); }
static void attack_array(struct fake_req *r) { fake_map(r, "[]"); }
static void attack_null(struct fake_req *r) { fake_map(r, "null"); }
static void attack_trailing(struct fake_req *r) { fake_map(r, "{} {}"); }
static void attack_node(struct fake_req *r) { fake_map(r, "{\"PeersChanged\":[" NODE(3, "x", "") ",{\"ID\":4}]}"); }
static void attack_end(struct fake_req *r) { fake_body(r, "\1", 1, true); }
static void attack_truncated(struct fake_req *r)
{
    uint8_t z[200];
    size_t n = ZSTD_compress(z, sizeof z, "{\"KeepAlive\":true,\"Domain\":\"something\"}", 39, 1);
    raw_map(r, (uint32_t)n - 4, z, n - 4);
}
static void attack_depth(struct fake_req *r)
{
    static char deep[200000];
    memset(deep, '[', sizeof deep - 1);
    fake_map(r, deep);
}
static void bomb(struct fake_req *r, const char *unit, size_t total)
{
    size_t len = strlen(unit), cap = 8 << 20;
    uint8_t *z = malloc(cap);
    ZSTD_CStream *s = ZSTD_createCStream();
    ZSTD_initCStream(s, 1);
    ZSTD_outBuffer out = {z, cap, 0};
    char *block = malloc(len * 10000);
    for (size_t i = 0; i < 10000; i++) memcpy(block + i * len, unit, len);
    ZSTD_inBuffer open = {"[", 1, 0};
    ZSTD_compressStream(s, &out, &open);
    for (size_t done = 0; done < total; done += len * 10000) {
        ZSTD_inBuffer in = {block, len * 10000, 0};
        while (in.pos < in.size) assert_false(ZSTD_isError(ZSTD_compressStream(s, &out, &in)));
    }
    ZSTD_endStream(s, &out);
    ZSTD_freeCStream(s);
    raw_map(r, (uint32_t)out.pos, z, out.pos);
    free(block);
    free(z);
}
static void attack_space_bomb(struct fake_req *r) { bomb(r, "          ", 300u << 20); }
static void attack_value_bomb(struct fake_req *r) { bomb(r, "{},", 20 << 20); }

static void test_hostile_streams(void **state)
{
    expect_dropped(attack_size);
    expect_dropped(attack_empty);
    expect_dropped(attack_not_zstd);
    expect_dropped(attack_array);
    expect_dropped(attack_null);
    expect_dropped(attack_trailing);
    expect_dropped(attack_node);
    expect_dropped(attack_truncated);
    expect_dropped(attack_depth);
    expect_dropped(attack_value_bomb);
    expect_dropped(attack_space_bomb);
}

static void test_stream_ends(void **state)
{
    struct env e;
    begin(&e, "k");
    struct fake_req *stream = join(&e);
    attack_end(stream); /* a clean end amid a frame */
    pass(&e, SECOND);
    assert_non_null(take_map(&e, true));
    finish(&e);
}

static void test_first_response_must_have_node(void **state)
{
    struct env e;
    begin(&e, "k");
    fake_answer(take(&e, "/machine/register"), 200, OK_REGISTER);
    struct fake_req *stream = take_map(&e, true);
    fake_map(stream, "{\"KeepAlive\":true}");
    settle(&e);
    assert_false(stream->reset);
    fake_map(stream, "{\"Peers\":[" NODE(2, "peer", "") "]}");
    settle(&e);
    assert_true(stream->reset);
    assert_int_equal(e.state, TN_CONTROL_CONNECTING);
    finish(&e);
}

/* A netmap larger than every window, in small pieces, while updates go on. */
static void test_large_netmap(void **state)
{
    struct env e;
    begin(&e, "k");
    fake_answer(take(&e, "/machine/register"), 200, OK_REGISTER);
    struct fake_req *stream = take_map(&e, true);
    json_t *map = json_loads("{\"Node\":" NODE(1, "me", "") ",\"Peers\":[]}", 0, NULL);
    for (int i = 2; i < 12000; i++) {
        char key[TN_KEY_STRLEN], noise[800];
        uint64_t a = (uint64_t)i * 0x9e3779b97f4a7c15;
        snprintf(key, sizeof key, "nodekey:%016llx%016llx%016llx%016llx", (unsigned long long)a, 1ull, 2ull, 3ull);
        for (size_t j = 0; j < sizeof noise - 1; j++) {
            a = a * 6364136223846793005ull + 1;
            noise[j] = (char)('a' + (a >> 59) % 26);
        }
        noise[sizeof noise - 1] = '\0';
        json_array_append_new(json_object_get(map, "Peers"),
                              json_pack("{s:i,s:s,s:s,s:[s]}", "ID", i, "Name", noise, "Key", key, "Addresses",
                                  "100.64.0.2/32"));
    }
    char *text = json_dumps(map, JSON_COMPACT);
    assert_true(strlen(text) > 9 << 20);
    fake_map(stream, text);
    free(text);
    json_decref(map);
    e.net.piece = 50000;
    settle(&e);
    assert_int_equal(tn_netmap_npeers(tn_control_netmap(e.c)), 11998);
    assert_int_equal(e.state, TN_CONTROL_RUNNING);
    finish(&e);
}

static void test_free_at_any_time(void **state)
{
    for (unsigned steps = 0; steps < 40; steps++) {
        struct env e;
        init(&e, "k");
        e.net.piece = 40;
        make(&e);
        tn_control_start(e.c, e.net.now);
        for (unsigned i = 0; i < steps; i++) { /* one delivery at a time */
            TN_LIST_EACH(l, &e.net.conns) {
                struct fake_conn *c = TN_CONTAINER(l, struct fake_conn, link);
                if (!c->client_closed) client_turn(c);
                if (!c->client_closed) srv_turn(c);
            }
            if (tn_control_next_deadline(e.c) <= e.net.now) tn_control_timeout(e.c, e.net.now);
        }
        finish(&e);
    }
}

static void test_new_rejects(void **state)
{
    static const char *const urls[] = {"", "ctl.example", "ftp://x", "http://", "http://a:0", "http://a:99999",
        "http://u@a",
                                       "http://a b", "http://[::1", "https://a/?x=1", "http://a\n"};
    struct env e;
    init(&e, NULL);
    for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
        e.config.server_url = urls[i];
        assert_int_equal(tn_control_new(&e.config, &e.c), TN_E_INVAL);
    }
    e.config.server_url = "http://ok/";
    memset(&e.config.identity.machine, 0, 32);
    assert_int_equal(tn_control_new(&e.config, &e.c), TN_E_INVAL);
    fake_fini(&e.net);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_join_with_auth_key),
        cmocka_unit_test(test_ephemeral),
        cmocka_unit_test(test_byte_by_byte_with_early_payload),
        cmocka_unit_test(test_restart_sends_no_auth_key),
        cmocka_unit_test(test_auth_url_and_followup),
        cmocka_unit_test(test_followup_that_does_not_wait),
        cmocka_unit_test(test_followup_gone),
        cmocka_unit_test(test_rate_limit),
        cmocka_unit_test(test_error_is_final),
        cmocka_unit_test(test_http_401_with_auth_key_is_final),
        cmocka_unit_test(test_other_failures_back_off),
        cmocka_unit_test(test_huge_register_answer),
        cmocka_unit_test(test_key_expired_rotates_once),
        cmocka_unit_test(test_cut_off_rotation_resumes),
        cmocka_unit_test(test_save_failure_fails_the_login),
        cmocka_unit_test(test_approval_pending),
        cmocka_unit_test(test_renewal_keeps_the_old_key_running),
        cmocka_unit_test(test_failed_renewal_keeps_running),
        cmocka_unit_test(test_self_expiry_logs_in_again),
        cmocka_unit_test(test_extended_while_renewing),
        cmocka_unit_test(test_expired_again_and_again),
        cmocka_unit_test(test_insane_control_time),
        cmocka_unit_test(test_map_404_logs_in_again),
        cmocka_unit_test(test_stream_loss_backs_off),
        cmocka_unit_test(test_backoff_grows_until_a_real_response),
        cmocka_unit_test(test_watchdog_and_keepalives),
        cmocka_unit_test(test_silent_connection_dies),
        cmocka_unit_test(test_goaway_reconnects),
        cmocka_unit_test(test_reset_stream_polls_again_on_the_same_connection),
        cmocka_unit_test(test_reconnect_call),
        cmocka_unit_test(test_reconnect_inside_a_callback),
        cmocka_unit_test(test_updates),
        cmocka_unit_test(test_nothing_is_told_before_login),
        cmocka_unit_test(test_head_pings),
        cmocka_unit_test(test_c2n),
        cmocka_unit_test(test_peer_pings),
        cmocka_unit_test(test_ping_flood),
        cmocka_unit_test(test_browser_url_once),
        cmocka_unit_test(test_debug_sleep_and_exit),
        cmocka_unit_test(test_logout),
        cmocka_unit_test(test_logout_that_wants_the_auth_key),
        cmocka_unit_test(test_logout_without_an_answer),
        cmocka_unit_test(test_logout_before_start),
        cmocka_unit_test(test_https_races_plain_first),
        cmocka_unit_test(test_port_80_refused),
        cmocka_unit_test(test_port_80_silent),
        cmocka_unit_test(test_port_80_is_something_else),
        cmocka_unit_test(test_private_http_never_tries_tls),
        cmocka_unit_test(test_public_http_falls_back_to_tls),
        cmocka_unit_test(test_unreachable_is_retried),
        cmocka_unit_test(test_silent_server_times_out),
        cmocka_unit_test(test_dial_fails_at_once),
        cmocka_unit_test(test_bad_keys),
        cmocka_unit_test(test_wrong_key_is_fetched_again),
        cmocka_unit_test(test_key_outlives_a_server_that_is_away),
        cmocka_unit_test(test_bad_upgrades),
        cmocka_unit_test(test_garbage_inside_noise),
        cmocka_unit_test(test_hostile_streams),
        cmocka_unit_test(test_stream_ends),
        cmocka_unit_test(test_first_response_must_have_node),
        cmocka_unit_test(test_large_netmap),
        cmocka_unit_test(test_free_at_any_time),
        cmocka_unit_test(test_new_rejects),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
