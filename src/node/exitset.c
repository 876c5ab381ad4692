#include "node/exitset.h"

#include "node/conffile.h"
#include "util/err.h"
#include "util/file.h"
#include "util/siphash.h"
#include "util/text.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

void tn_exitset_init(struct tn_exitset *x) { *x = (struct tn_exitset){.egress_said = -1, .forward_said = -1}; }

void tn_exitset_fini(struct tn_exitset *x)
{
    tn_secret_free(x->proxy_raw);
    tn_egress_spec_free(x->pool);
    for (size_t i = 0; i < x->nfiles; i++) free(x->files[i].path);
    tn_exitset_init(x);
}

/* Nobody forges contents against it: who can write there says what they are. */
uint64_t tn_exitset_print(const char *text, size_t len, int err)
{
    static const struct tn_hashkey key = {0};
    return err ? tn_siphash(&key, &err, sizeof err) : tn_siphash(&key, text, len);
}

/* What is no file, a pipe say, can't be read twice, and is not looked at again. */
static bool is_watchable(const char *path)
{
    struct stat st;
    return stat(path, &st) != 0 || S_ISREG(st.st_mode);
}

static void note_file(struct tn_exitset *x, const char *value, uint64_t print)
{
    struct tn_exitfile *f = &x->files[x->nfiles];
    if (strncmp(value, "file:", 5) != 0 || x->nfiles == sizeof x->files / sizeof *x->files || !is_watchable(value + 5)) return;
    *f = (struct tn_exitfile){strdup(value + 5), print};
    if (f->path) x->nfiles++;
}

int tn_secret_read(const char *option, const char *value, struct tn_secret **out, uint64_t *print, char why[200])
{
    *out = NULL;
    if (strncmp(value, "file:", 5) != 0) {
        if (!*value) return 0;
        *out = tn_secret_new(value, strlen(value));
        return *out ? 0 : TN_E_NOMEM;
    }
    char *text;
    size_t len;
    int err = tn_file_read(value + 5, TN_SECRET_FILE_MAX, &text, &len);
    if (print) *print = tn_exitset_print(text, len, err);
    if (err) {
        snprintf(why, 200, "%s: %.100s: %s", option, value + 5, tn_err_text(err));
        return err;
    }
    size_t start = 0, end = len;
    while (end > start && isspace((unsigned char)text[end - 1])) end--;
    while (start < end && isspace((unsigned char)text[start])) start++;
    if (start == end) {
        snprintf(why, 200, "%s: %.100s: the file is empty", option, value + 5);
        err = TN_E_INVAL;
    } else {
        *out = tn_secret_new(text + start, end - start);
        if (!*out) err = TN_E_NOMEM;
    }
    tn_wipe(text, len);
    free(text);
    return err;
}

/* The same, of a file to be watched: one that can't be read too. */
static int read_watched(struct tn_exitset *x, const char *option, const char *value, struct tn_secret **out, char why[200])
{
    uint64_t print;
    int err = tn_secret_read(option, value, out, &print, why);
    note_file(x, value, print);
    return err;
}

/* Whatever is wrong, the egress is OFF from here on: something was meant, so nothing may go without it. */
static int defective(struct tn_exitset *x, int err)
{
    tn_egress_spec_free(x->pool);
    x->pool = NULL;
    x->proxy_said = true;
    return err;
}

static struct tn_egress_spec *pool_of(struct tn_exitset *x)
{
    if (!x->pool) x->pool = tn_egress_spec_new(TN_EGRESS_PROXY);
    return x->pool;
}

static int add_url(struct tn_exitset *x, const char *url, size_t len, size_t number)
{
    struct tn_egress_spec *s = pool_of(x);
    struct tn_egress_proxy *p = s ? tn_egress_spec_proxy(s) : NULL;
    char why[128];
    if (!p) {
        snprintf(x->defect, sizeof x->defect, "exit_proxy: too many proxies");
        return TN_E_LIMIT;
    }
    snprintf(p->name, sizeof p->name, number ? "proxy%zu" : "proxy", number);
    p->names = x->names;
    int err = tn_proxy_parse(url, len, &p->proxy, why);
    if (err) snprintf(x->defect, sizeof x->defect, "exit_proxy: %s", why);
    return err;
}

/* One URL or several, between white space. */
static int add_urls(struct tn_exitset *x, const struct tn_secret *urls)
{
    static const char blank[] = " \t\r\n";
    const char *at = tn_secret_bytes(urls) + strspn(tn_secret_bytes(urls), blank);
    bool several = false;
    int err = 0;
    for (size_t number = 0; *at && !err; number++) {
        size_t len = strcspn(at, blank);
        const char *next = at + len + strspn(at + len, blank);
        several |= *next != '\0';
        err = add_url(x, at, len, several ? number + 1 : 0);
        at = next;
    }
    return err;
}

int tn_exitset_again(struct tn_exitset *x, char why[200])
{
    struct tn_secret *urls;
    tn_egress_spec_free(x->pool);
    x->pool = NULL;
    while (x->nfiles) free(x->files[--x->nfiles].path);
    if (!x->proxy_raw) return 0;
    x->proxy_said = true;
    snprintf(x->defect, sizeof x->defect, "exit_proxy: it is empty");
    int err = read_watched(x, "exit_proxy", tn_secret_bytes(x->proxy_raw), &urls, why);
    if (err || !urls) {
        if (err) snprintf(x->defect, sizeof x->defect, "exit_proxy: its file can't be read: %s", tn_err_text(err));
        else snprintf(why, 200, "%.120s; exit traffic is off", x->defect);
        return err ? err : TN_E_INVAL;
    }
    err = add_urls(x, urls);
    tn_secret_free(urls);
    if (!err) {
        x->defect[0] = '\0';
        return 0;
    }
    snprintf(why, 200, "%.130s; exit traffic is off", x->defect);
    return defective(x, err);
}

static int set_exit_proxy(struct tn_exitset *x, const char *value, char why[200])
{
    struct tn_secret *raw = tn_secret_new(value, strlen(value));
    tn_secret_free(x->proxy_raw);
    x->proxy_raw = raw;
    if (!raw) {
        snprintf(why, 200, "exit_proxy: out of memory");
        return defective(x, TN_E_NOMEM);
    }
    return tn_exitset_again(x, why);
}

static int set_exit_egress(struct tn_exitset *x, const char *value, char why[200])
{
    if (!strcmp(value, "off")) x->egress_said = TN_EGRESS_OFF;
    else if (!strcmp(value, "host")) x->egress_said = TN_EGRESS_HOST;
    else if (!strcmp(value, "proxy")) x->egress_said = TN_EGRESS_PROXY;
    else if (!*value) x->egress_said = -1;
    else {
        x->egress_said = TN_EGRESS_OFF;
        snprintf(why, 200, "exit_egress: expected off, host or proxy");
        return TN_E_INVAL;
    }
    return 0;
}

static int parse_bool(const char *text, bool *out)
{
    *out = !strcmp(text, "true") || !strcmp(text, "1") || !strcmp(text, "on");
    return *out || !strcmp(text, "false") || !strcmp(text, "0") || !strcmp(text, "off") || !*text ? 0 : TN_E_INVAL;
}

static int set_forward_exit_egress(struct tn_exitset *x, const char *value, char why[200])
{
    bool on;
    if (parse_bool(value, &on) != 0) {
        x->forward_said = 0;
        snprintf(why, 200, "forward_exit_egress: expected true or false");
        return TN_E_INVAL;
    }
    x->forward_said = *value ? on : -1;
    return 0;
}

static int set_exit_names(struct tn_exitset *x, const char *value, char why[200])
{
    bool names;
    if (parse_bool(value, &names) != 0) {
        snprintf(why, 200, "exit_names: expected true or false");
        return TN_E_INVAL;
    }
    x->names = names;
    for (size_t i = 0; x->proxy_raw && x->pool && i < x->pool->nproxies; i++) x->pool->proxies[i].names = x->names;
    return 0;
}

int tn_exitset_set(struct tn_exitset *x, const char *option, const char *value, char why[200])
{
    if (!strcmp(option, "exit_proxy")) return set_exit_proxy(x, value, why);
    if (!strcmp(option, "exit_egress")) return set_exit_egress(x, value, why);
    if (!strcmp(option, "forward_exit_egress")) return set_forward_exit_egress(x, value, why);
    if (!strcmp(option, "exit_names")) return set_exit_names(x, value, why);
    return TN_E_NOENT;
}

/* ---- sections of a configuration file ---- */

static int parse_number(const char *text, unsigned max, unsigned *out)
{
    unsigned long v = 0;
    if (!*text) return TN_E_INVAL;
    for (; *text; text++) {
        if (!isdigit((unsigned char)*text) || (v = v * 10 + (unsigned long)(*text - '0')) > max) return TN_E_INVAL;
    }
    *out = (unsigned)v;
    return v ? 0 : TN_E_INVAL;
}

static int set_url(struct tn_exitset *x, struct tn_egress_proxy *p, const char *value, char why[200])
{
    struct tn_secret *url;
    char defect[128];
    if (p->proxy) {
        snprintf(why, 200, "url: said twice");
        return TN_E_INVAL;
    }
    int err = read_watched(x, "url", value, &url, why);
    if (err) return err;
    err = tn_proxy_parse(url ? tn_secret_bytes(url) : "", tn_secret_len(url), &p->proxy, defect);
    tn_secret_free(url);
    if (err) snprintf(why, 200, "url: %s", defect);
    return err;
}

/* sha256:HEX of the proxy's certificate. */
static int set_pin(struct tn_egress_proxy *p, const char *value, char why[200])
{
    if (!p->proxy || !p->proxy->tls) snprintf(why, 200, "pin: it follows an https:// url");
    else if (strncmp(value, "sha256:", 7) != 0 || tn_hex_decode(value + 7, p->proxy->pin, 32) != 0)
        snprintf(why, 200, "pin: expected sha256: and the 64 hex digits of the certificate's SHA-256");
    else p->proxy->pinned = true;
    return p->proxy && p->proxy->pinned ? 0 : TN_E_INVAL;
}

static int set_bind(struct tn_egress_proxy *p, const char *value, char why[200])
{
    if (p->proxy && tn_proxy_bind_parse(value, &p->proxy->bind)) return 0;
    if (!p->proxy) snprintf(why, 200, "bind: it follows an url");
    else snprintf(why, 200, "bind: expected an address of this host, one of each family, or the name of an interface");
    return TN_E_INVAL;
}

static int set_mark(struct tn_egress_proxy *p, const char *value, char why[200])
{
    if (p->proxy && tn_proxy_mark_parse(value, &p->proxy->bind.mark)) return 0;
    snprintf(why, 200, p->proxy ? "mark: expected 1 to 0xffffffff" : "mark: it follows an url");
    return TN_E_INVAL;
}

static int proxy_line(struct tn_exitset *x, struct tn_egress_proxy *p, const struct tn_confline *l, char why[200])
{
    if (!strcmp(l->key, "url")) return set_url(x, p, l->value, why);
    if (!strcmp(l->key, "pin")) return set_pin(p, l->value, why);
    if (!strcmp(l->key, "bind")) return set_bind(p, l->value, why);
    if (!strcmp(l->key, "mark")) return set_mark(p, l->value, why);
    if (!strcmp(l->key, "group")) {
        if (*l->value && strlen(l->value) < sizeof p->group) {
            strcpy(p->group, l->value);
            return 0;
        }
        snprintf(why, 200, "group: expected a name");
    } else if (!strcmp(l->key, "weight")) {
        if (parse_number(l->value, TN_EGRESS_WEIGHT_MAX, &p->weight) == 0) return 0;
        snprintf(why, 200, "weight: expected 1 to %d", TN_EGRESS_WEIGHT_MAX);
    } else if (!strcmp(l->key, "max_flows")) {
        if (parse_number(l->value, 1u << 20, &p->max_flows) == 0) return 0;
        snprintf(why, 200, "max_flows: expected 1 to 1048576");
    } else if (!strcmp(l->key, "names")) {
        if (parse_bool(l->value, &p->names) == 0) return 0;
        snprintf(why, 200, "names: expected true or false");
    } else {
        snprintf(why, 200, "%.40s: no such key in a [proxy]", l->key);
        return TN_E_NOENT;
    }
    return TN_E_INVAL;
}

static int begin_section(struct tn_exitset *x, const struct tn_confline *l, char why[200])
{
    struct tn_egress_spec *s = pool_of(x);
    if (s && !strcmp(l->kind, "rule")) {
        if (tn_egress_spec_rule(s)) return 0;
    } else if (s && *l->name) {
        struct tn_egress_proxy *p = tn_egress_spec_proxy(s);
        x->proxy_said = true;
        if (p) snprintf(p->name, sizeof p->name, "%s", l->name);
        if (p) return 0;
    } else if (s) {
        snprintf(why, 200, "a proxy needs a name: [proxy NAME]");
        return TN_E_INVAL;
    }
    snprintf(why, 200, "too many of them, or out of memory");
    return TN_E_LIMIT;
}

int tn_exitset_line(struct tn_exitset *x, const struct tn_confline *l, char why[200])
{
    char text[128];
    if (x->proxy_raw) {
        snprintf(why, 200, "exit_proxy and sections exclude each other");
        return TN_E_INVAL;
    }
    if (!l->key) return begin_section(x, l, why);
    if (!strcmp(l->kind, "proxy")) return proxy_line(x, &x->pool->proxies[x->pool->nproxies - 1], l, why);
    struct tn_egress_rule *r = &x->pool->rules[x->pool->nrules - 1];
    if (!strcmp(l->key, "use") && *r->use) {
        snprintf(why, 200, "use: said twice");
        return TN_E_INVAL;
    }
    int err = tn_egress_rule_set(r, l->key, l->value, text);
    if (err) snprintf(why, 200, "%.40s: %s", l->key, text);
    return err;
}

/* ---- what it amounts to ---- */

enum tn_egress_mode tn_exitset_mode(const struct tn_exitset *x, const char **missing)
{
    const char *ignored;
    if (!missing) missing = &ignored;
    *missing = NULL;
    if (x->defect[0] || (x->proxy_said && !x->pool)) { /* something was meant: nothing may leave without it, whatever else was said */
        *missing = "a valid exit_proxy";
        return TN_EGRESS_OFF;
    }
    if (x->egress_said == TN_EGRESS_OFF || x->forward_said == 0) { /* one no outweighs every yes */
        *missing = x->egress_said == TN_EGRESS_OFF ? "exit_egress (it is off)" : "forward_exit_egress (it is false)";
        return TN_EGRESS_OFF;
    }
    if (x->egress_said == TN_EGRESS_HOST) {
        if (!x->pool) return TN_EGRESS_HOST;
        *missing = "one meaning: exit_egress is host but there are proxies or rules too";
        return TN_EGRESS_OFF;
    }
    if (x->pool && x->pool->nproxies) return TN_EGRESS_PROXY;
    *missing = x->egress_said == TN_EGRESS_PROXY ? "exit_proxy" : "exit_proxy, or exit_egress host";
    return TN_EGRESS_OFF;
}

struct tn_egress_spec *tn_exitset_spec(const struct tn_exitset *x, enum tn_egress_mode mode)
{
    struct tn_egress_spec *s = mode == TN_EGRESS_PROXY ? tn_egress_spec_copy(x->pool) : tn_egress_spec_new(mode);
    if (s) s->mode = mode;
    return s;
}
