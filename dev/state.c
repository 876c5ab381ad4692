#include "dev/state.h"
#include "dev/tls.h"
#include "util/err.h"
#include "util/file.h"
#include "util/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    SMALL_MAX = 64 * 1024,
    NODES_MAX = 512 << 20, /* TN_DEV_NODES_MAX nodes with the largest Hostinfo, and room */
    AUTH_RANDOM = 24,
};

static char *path_of(const struct tn_dev_state *s, const char *name)
{
    char *path = NULL;
    return asprintf(&path, "%s/%s", s->dir, name) < 0 ? NULL : path;
}

static int read_file(const struct tn_dev_state *s, const char *name, size_t max, char **out, size_t *len)
{
    char *path = path_of(s, name);
    int err = path ? tn_file_read(path, max, out, len) : TN_E_NOMEM;
    free(path);
    return err;
}

static int write_file(const struct tn_dev_state *s, const char *name, const void *bytes, size_t len)
{
    char *path = path_of(s, name);
    int err = path ? tn_file_replace(path, bytes, len) : TN_E_NOMEM;
    free(path);
    return err;
}

static int parse_keys(struct tn_dev_state *s, const char *text, size_t len)
{
    const char *machine, *derp;
    json_t *o = json_loadb(text, len, 0, NULL);
    int err = TN_E_STATE;
    if (o && json_unpack(o, "{s:s, s:s}", "machine", &machine, "derp", &derp) == 0 &&
        tn_machine_private_parse(machine, &s->machine) == 0 && tn_node_private_parse(derp, &s->derp) == 0 &&
        !tn_key_is_zero(s->machine.b) && !tn_key_is_zero(s->derp.b))
        err = 0;
    json_decref(o);
    return err;
}

static int make_keys(struct tn_dev_state *s, const struct tn_rng *rng)
{
    char machine[TN_KEY_STRLEN], derp[TN_KEY_STRLEN], text[3 * TN_KEY_STRLEN];
    tn_machine_private_generate(&s->machine, rng);
    tn_node_private_generate(&s->derp, rng);
    int len = snprintf(text, sizeof text, "{\"machine\": \"%s\", \"derp\": \"%s\"}\n",
                       tn_machine_private_format(&s->machine, machine), tn_node_private_format(&s->derp, derp));
    int err = write_file(s, "keys.json", text, (size_t)len);
    tn_wipe(machine, sizeof machine);
    tn_wipe(derp, sizeof derp);
    tn_wipe(text, sizeof text);
    return err;
}

static int open_keys(struct tn_dev_state *s, const struct tn_rng *rng)
{
    char *text = NULL;
    size_t len;
    int err = read_file(s, "keys.json", SMALL_MAX, &text, &len);
    if (err == TN_E_NOENT) return make_keys(s, rng);
    if (!err) {
        err = parse_keys(s, text, len);
        tn_wipe(text, len);
        free(text);
    }
    return err;
}

/* An unusable certificate (expired, another address) is replaced: it is the clients' pin that moves, by the map. One
 * that cannot be read at all is not. */
static int open_cert(struct tn_dev_state *s, const struct tn_ip *ip, int64_t unix_s)
{
    int err = read_file(s, "derp.pem", SMALL_MAX, &s->pem, &s->pem_len);
    if (!err && tn_dev_cert_usable(s->pem, s->pem_len, ip, unix_s)) return 0;
    if (err && err != TN_E_NOENT) return err;
    if (s->pem) tn_wipe(s->pem, s->pem_len);
    free(s->pem);
    s->pem = NULL;
    err = tn_dev_cert_make(ip, unix_s, &s->pem, &s->pem_len);
    return err ? err : write_file(s, "derp.pem", s->pem, s->pem_len);
}

static int make_auth_key(struct tn_dev_state *s, const struct tn_rng *rng)
{
    static const char prefix[] = "tskey-auth-";
    uint8_t random[AUTH_RANDOM];
    char text[sizeof prefix + 2 * AUTH_RANDOM];
    tn_rng_fill(rng, random, sizeof random);
    memcpy(text, prefix, sizeof prefix - 1);
    tn_hex_encode(random, sizeof random, text + sizeof prefix - 1);
    int err = write_file(s, "auth-key", text, strlen(text));
    if (!err) {
        s->auth_key = tn_secret_new(text, strlen(text));
        if (!s->auth_key) err = TN_E_NOMEM;
    }
    tn_wipe(random, sizeof random);
    tn_wipe(text, sizeof text);
    return err;
}

/* Visible ASCII, so that it survives a command line. */
static bool plausible(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (text[i] <= ' ' || text[i] > '~') return false;
    return len > 0 && len < 512;
}

static int take_auth_key(struct tn_dev_state *s, const char *text, size_t len)
{
    if (!plausible(text, len)) return TN_E_STATE;
    s->auth_key = tn_secret_new(text, len);
    return s->auth_key ? 0 : TN_E_NOMEM;
}

static int open_auth_key(struct tn_dev_state *s, const char *given, const struct tn_rng *rng)
{
    if (given) return take_auth_key(s, given, strlen(given)) ? TN_E_INVAL : 0;
    char *text = NULL;
    size_t len;
    int err = read_file(s, "auth-key", SMALL_MAX, &text, &len);
    if (err == TN_E_NOENT) return make_auth_key(s, rng);
    if (!err) {
        size_t used = len;
        while (used && (text[used - 1] == '\n' || text[used - 1] == '\r')) used--;
        err = take_auth_key(s, text, used);
        tn_wipe(text, len);
        free(text);
    }
    return err;
}

static int open_parts(struct tn_dev_state *s, const struct tn_ip *ip, const char *auth_key, int64_t unix_s,
                      const struct tn_rng *rng, const char **part)
{
    int err;
    *part = "";
    if ((err = tn_dir_make(s->dir)) != 0) return err;
    *part = "/lock";
    s->lock = tn_dir_lock(s->dir, "lock");
    if (s->lock < 0) return s->lock;
    *part = "/keys.json";
    if ((err = open_keys(s, rng)) != 0) return err;
    *part = "/derp.pem";
    if ((err = open_cert(s, ip, unix_s)) != 0) return err;
    *part = "/auth-key";
    return open_auth_key(s, auth_key, rng);
}

int tn_dev_state_open(struct tn_dev_state *s, const char *dir, const struct tn_ip *ip, const char *auth_key,
                      int64_t unix_s, const struct tn_rng *rng, char *why, size_t whylen)
{
    const char *part = "";
    *s = (struct tn_dev_state){.dir = strdup(dir), .lock = -1};
    int err = s->dir ? open_parts(s, ip, auth_key, unix_s, rng, &part) : TN_E_NOMEM;
    if (!err) return 0;
    if (err == TN_E_BUSY) snprintf(why, whylen, "state directory %s is in use by another process", dir);
    else if (err == TN_E_INVAL) snprintf(why, whylen, "the auth key given is not usable");
    else snprintf(why, whylen, "%s%s: %s", dir, part, tn_err_text(err));
    tn_dev_state_close(s);
    return err;
}

void tn_dev_state_close(struct tn_dev_state *s)
{
    tn_secret_free(s->auth_key);
    if (s->pem) tn_wipe(s->pem, s->pem_len);
    free(s->pem);
    free(s->dir);
    if (s->lock >= 0) close(s->lock);
    tn_wipe(s, sizeof *s);
    s->lock = -1;
}

int tn_dev_state_load_nodes(const struct tn_dev_state *s, struct tn_dev_registry *r, char *why, size_t whylen)
{
    char *text;
    size_t len;
    json_error_t at = {0};
    int err = read_file(s, "nodes.json", NODES_MAX, &text, &len);
    if (err == TN_E_NOENT) return 0;
    if (!err) {
        json_t *o = json_loadb(text, len, 0, &at);
        err = o ? tn_dev_registry_load(r, o) : TN_E_STATE;
        json_decref(o);
        free(text);
    }
    if (err) snprintf(why, whylen, "%s/nodes.json: %s", s->dir, tn_err_text(err));
    return err;
}

int tn_dev_state_save_nodes(const struct tn_dev_state *s, const struct tn_dev_registry *r)
{
    json_t *o = tn_dev_registry_dump(r);
    char *text = o ? json_dumps(o, JSON_INDENT(1)) : NULL;
    int err = text ? write_file(s, "nodes.json", text, strlen(text)) : TN_E_NOMEM;
    free(text);
    json_decref(o);
    return err;
}
