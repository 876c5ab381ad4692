#include "node/state.h"

#include "util/err.h"
#include "util/file.h"
#include "util/text.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STATE_MAX = 256 * 1024, STATE_VERSION = 1 };

#define STATE_FILE "tailnet.state"
#define LOCK_FILE "tailnet.lock"

static int take_string(const json_t *obj, const char *key, char **out)
{
    const json_t *v = json_object_get(obj, key);
    if (!v || json_is_null(v)) return 0;
    if (!json_is_string(v)) return TN_E_STATE;
    *out = strdup(json_string_value(v));
    return *out ? 0 : TN_E_NOMEM;
}

static int take_bool(const json_t *obj, const char *key, bool *out)
{
    const json_t *v = json_object_get(obj, key);
    if (!v || json_is_null(v)) return 0;
    if (!json_is_boolean(v)) return TN_E_STATE;
    *out = json_is_true(v);
    return 0;
}

static int take_node_key(const json_t *obj, const char *key, struct tn_node_private *out)
{
    const json_t *v = json_object_get(obj, key);
    if (!v || json_is_null(v)) return 0;
    return json_is_string(v) && tn_node_private_parse(json_string_value(v), out) == 0 ? 0 : TN_E_STATE;
}

static int note_epoch(struct tn_state *s, uint64_t peer, uint32_t epoch)
{
    if (peer == 0) {
        s->exit_epoch = epoch;
        return 0;
    }
    for (size_t i = 0; i < s->nexit_epochs; i++) {
        if (s->exit_epochs[i].peer != peer) continue;
        s->exit_epochs[i].epoch = epoch;
        return 0;
    }
    if (!s->exit_epochs) s->exit_epochs = malloc(TN_STATE_EPOCHS_MAX * sizeof *s->exit_epochs);
    if (!s->exit_epochs) return TN_E_NOMEM;
    if (s->nexit_epochs == TN_STATE_EPOCHS_MAX)
        memmove(s->exit_epochs, s->exit_epochs + 1, --s->nexit_epochs * sizeof *s->exit_epochs);
    s->exit_epochs[s->nexit_epochs++] = (struct tn_state_epoch){peer, epoch};
    return 0;
}

/* {"all": 2, "5": 1}: by node ID. */
static int take_epochs(struct tn_state *s, const json_t *epochs)
{
    const char *key;
    json_t *v;
    if (!epochs || json_is_null(epochs)) return 0;
    if (!json_is_object(epochs)) return TN_E_STATE;
    json_object_foreach ((json_t *)(uintptr_t)epochs, key, v) {
        char *end;
        json_int_t n = json_is_integer(v) ? json_integer_value(v) : -1;
        bool all = !strcmp(key, "all");
        errno = 0;
        unsigned long long peer = all || key[0] < '1' || key[0] > '9' ? 0 : strtoull(key, &end, 10);
        if (n < 0 || n > UINT32_MAX || (!all && (peer == 0 || *end || errno))) return TN_E_STATE;
        int err = note_epoch(s, peer, (uint32_t)n);
        if (err) return err;
    }
    return 0;
}

static int parse_state(struct tn_state *s, const json_t *root)
{
    if (!json_is_object(root) || json_integer_value(json_object_get(root, "version")) != STATE_VERSION)
        return TN_E_STATE;
    const char *machine = json_string_value(json_object_get(root, "machine_key"));
    const char *log_id = json_string_value(json_object_get(root, "log_id"));
    if (!machine || tn_machine_private_parse(machine, &s->identity.machine) != 0) return TN_E_STATE;
    if (!log_id || strlen(log_id) != 64) return TN_E_STATE;
    memcpy(s->log_id, log_id, 65);
    int err = take_node_key(root, "node_key", &s->identity.node);
    if (!err) err = take_node_key(root, "old_node_key", &s->identity.old_node);
    const json_t *prefs = json_object_get(root, "prefs");
    if (!err) err = take_string(prefs, "login_server", &s->login_server);
    if (!err) err = take_string(prefs, "hostname", &s->hostname);
    if (!err) err = take_string(prefs, "exit_node", &s->exit_node);
    if (!err) err = take_bool(prefs, "accept_routes", &s->accept_routes);
    if (!err) err = take_epochs(s, json_object_get(root, "exit_epochs"));
    return err;
}

/* jansson does not wipe what it frees. */
static void drop_json(json_t *root)
{
    static const char *const secrets[] = {"machine_key", "node_key", "old_node_key"};
    for (size_t i = 0; i < sizeof secrets / sizeof *secrets; i++) {
        json_t *v = json_object_get(root, secrets[i]);
        if (json_is_string(v)) tn_wipe((char *)(uintptr_t)json_string_value(v), json_string_length(v));
    }
    json_decref(root);
}

static int load(struct tn_state *s, char why[200])
{
    char *text;
    size_t len;
    int err = tn_file_read(s->path, STATE_MAX, &text, &len);
    if (err == TN_E_NOENT) return err;
    if (err) {
        snprintf(why, 200, "%.120s: %s", s->path, tn_err_text(err));
        return err == TN_E_TOOBIG ? TN_E_STATE : err;
    }
    json_error_t at;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &at);
    err = root ? parse_state(s, root) : TN_E_STATE;
    drop_json(root);
    tn_wipe(text, len);
    free(text);
    if (err) snprintf(why, 200, "%.120s: damaged; left as it is (move it away to start afresh)", s->path);
    return err;
}

static int make_fresh(struct tn_state *s, const struct tn_rng *rng)
{
    uint8_t id[32];
    tn_machine_private_generate(&s->identity.machine, rng);
    tn_rng_fill(rng, id, sizeof id);
    tn_hex_encode(id, sizeof id, s->log_id);
    return tn_state_save(s);
}

static int open_dir(struct tn_state *s, const char *dir, char why[200])
{
    int err = tn_dir_make(dir);
    if (err) {
        snprintf(why, 200, "%.120s: %s", dir, tn_err_text(err));
        return err;
    }
    s->lock_fd = tn_dir_lock(dir, LOCK_FILE);
    if (s->lock_fd < 0) {
        err = s->lock_fd;
        s->lock_fd = -1;
        snprintf(why, 200, "%.120s: %s", dir,
                 err == TN_E_BUSY ? "another node is using this state directory" : tn_err_text(err));
        return err;
    }
    if (asprintf(&s->path, "%s/" STATE_FILE, dir) < 0) {
        s->path = NULL;
        return TN_E_NOMEM;
    }
    return 0;
}

int tn_state_open(struct tn_state *s, const char *dir, const struct tn_rng *rng, char why[200])
{
    *s = (struct tn_state){.lock_fd = -1};
    why[0] = '\0';
    int err = dir ? open_dir(s, dir, why) : 0;
    if (!err) {
        err = s->path ? load(s, why) : TN_E_NOENT;
        if (err == TN_E_NOENT) err = make_fresh(s, rng);
    }
    if (err && !why[0]) snprintf(why, 200, "%.120s: %s", dir ? dir : "state", tn_state_err_text(err));
    if (err) tn_state_close(s);
    return err;
}

void tn_state_close(struct tn_state *s)
{
    free(s->path);
    free(s->login_server);
    free(s->hostname);
    free(s->exit_node);
    free(s->exit_epochs);
    if (s->lock_fd >= 0) close(s->lock_fd);
    tn_wipe(s, sizeof *s);
    s->lock_fd = -1;
}

static json_t *node_key_json(const struct tn_node_private *key)
{
    char text[TN_KEY_STRLEN];
    if (tn_key_is_zero(key->b)) return json_null();
    json_t *v = json_string(tn_node_private_format(key, text));
    tn_wipe(text, sizeof text);
    return v;
}

static json_t *string_or_null(const char *s) { return s ? json_string(s) : json_null(); }

const char *tn_state_err_text(int err) { return err == TN_E_NOSPC ? "no space left on the disk" : tn_err_text(err); }

static json_t *epochs_json(const struct tn_state *s)
{
    char key[24];
    json_t *o = s->exit_epoch ? json_pack("{s:I}", "all", (json_int_t)s->exit_epoch) : json_object();
    for (size_t i = 0; o && i < s->nexit_epochs; i++) {
        snprintf(key, sizeof key, "%llu", (unsigned long long)s->exit_epochs[i].peer);
        if (json_object_set_new(o, key, json_integer(s->exit_epochs[i].epoch)) == 0) continue;
        json_decref(o);
        o = NULL;
    }
    return o;
}

int tn_state_set_epoch(struct tn_state *s, uint64_t peer, uint32_t epoch)
{
    int err = note_epoch(s, peer, epoch);
    return err ? err : tn_state_save(s);
}

int tn_state_save(const struct tn_state *s)
{
    char machine[TN_KEY_STRLEN];
    if (!s->path) return 0;
    json_t *root = json_pack("{s:i s:s s:s s:o s:o s:{s:o s:o s:o s:b} s:o}", "version", STATE_VERSION, "machine_key",
                             tn_machine_private_format(&s->identity.machine, machine), "log_id", s->log_id, "node_key",
                             node_key_json(&s->identity.node), "old_node_key", node_key_json(&s->identity.old_node),
                             "prefs", "login_server", string_or_null(s->login_server), "hostname",
                             string_or_null(s->hostname), "exit_node", string_or_null(s->exit_node), "accept_routes",
                             s->accept_routes, "exit_epochs", epochs_json(s));
    tn_wipe(machine, sizeof machine);
    if (!root) return TN_E_NOMEM;
    size_t len = json_dumpb(root, NULL, 0, JSON_INDENT(1)); /* json_dumps would leave copies behind while it grows */
    char *text = malloc(len + 1);
    int err = text && json_dumpb(root, text, len, JSON_INDENT(1)) == len ? 0 : TN_E_NOMEM;
    drop_json(root);
    if (!err) err = tn_file_replace(s->path, text, len);
    if (text) tn_wipe(text, len);
    free(text);
    return err;
}

/* kept: what the state has; given: the configuration's. The explicit one wins and becomes the kept one. */
static int merge_string(char **kept, char **given, bool said, bool *changed)
{
    char **from = said ? given : kept, **to = said ? kept : given;
    bool same = *from && *to ? strcmp(*from, *to) == 0 : *from == *to;
    if (same) return 0;
    char *copy = *from ? strdup(*from) : NULL;
    if (*from && !copy) return TN_E_NOMEM;
    *changed |= said;
    free(*to);
    *to = copy;
    return 0;
}

static void merge_bool(bool *kept, bool *given, bool said, bool *changed)
{
    *changed |= said && *kept != *given;
    if (said) *kept = *given;
    else *given = *kept;
}

int tn_state_merge_prefs(struct tn_state *s, struct tn_config *c)
{
    bool changed = false;
    int err = merge_string(&s->login_server, &c->login_server, c->said & TN_SAID_LOGIN_SERVER, &changed);
    if (!err) err = merge_string(&s->hostname, &c->hostname, c->said & TN_SAID_HOSTNAME, &changed);
    if (!err) err = merge_string(&s->exit_node, &c->exit_node, c->said & TN_SAID_EXIT_NODE, &changed);
    merge_bool(&s->accept_routes, &c->accept_routes, c->said & TN_SAID_ACCEPT_ROUTES, &changed);
    return err || !changed ? err : tn_state_save(s); /* a full disk does not keep a node from starting as before */
}
