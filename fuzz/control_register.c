/* Answers to a register request, one per line: the line's first byte picks status and circumstances, the rest is the
 * body. Whatever comes, only an answer without Error, expiry, signature and URL may count as a login. */
#include "control/login.c"

static int no_dial(void *ctx, const struct tn_dial_spec *spec, const struct tn_stream_events *e, void *arg,
    struct tn_stream **out)
{
    return TN_E_REFUSED;
}
static int64_t clock_of(void *ctx) { return 1800000000; }
static void on_url(void *ctx, const char *url)
{
    if (!*url) __builtin_trap();
}
static void on_state(void *ctx, enum tn_control_state state, const char *text)
{
    if (!text) __builtin_trap();
}

static void answer(struct tn_control *c, const uint8_t *line, size_t len)
{
    static const int statuses[] = {200, 200, 200, 200, 429, 401, 404, 500};
    struct tn_login *l = &c->login;
    tn_client_enter(c, c->now_us + 1000000);
    if (!l->wanted) tn_login_begin(c, line[0] & 0x80);
    if (choose_key(c) == 0) {
        l->status = statuses[line[0] & 7];
        l->sent_auth = l->with_auth;
        if (l->status == 429) l->retry_us = retry_after(c, line[0] & 8 ? (const char *)line + 1 : NULL);
        tn_buf_fini(&l->body);
        tn_buf_append(&l->body, line + 1, len - 1);
        bool before = c->logged_in;
        answered(c, 0);
        if (c->logged_in && !before && l->status != 200) __builtin_trap();
        if (c->logged_in && tn_key_is_zero(c->current.b)) __builtin_trap();
    }
    tn_client_leave(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t seed = 5;
    struct tn_dialer dialer = {no_dial, NULL};
    struct tn_control_config config = {
        .server_url = "http://127.0.0.1:1",
        .rng = tn_rng_seeded(&seed),
        .dialer = &dialer,
        .cb = {.wallclock = clock_of, .auth_url = on_url, .state = on_state},
    };
    struct tn_secret *key = tn_secret_new("tskey", 5);
    struct tn_control *c = NULL;
    char *copy = malloc(size + 1);
    if (!copy || !key) abort();
    memcpy(copy, data, size);
    copy[size] = '\0';
    if (size > 0 && data[0] & 1) config.auth_key = key;
    config.identity.machine.b[0] = 1;
    if (size > 1 && data[1] & 1) config.identity.node.b[0] = 2;
    if (size > 1 && data[1] & 2) config.identity.old_node.b[0] = 3;
    if (tn_control_new(&config, &c) != 0) abort();
    for (char *line = copy, *next; line && *line; line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = '\0';
        if (*line) answer(c, (const uint8_t *)line, strlen(line));
    }
    tn_control_free(c);
    tn_secret_free(key);
    free(copy);
    return 0;
}
