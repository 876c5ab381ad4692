#include "node/config.h"

#include "dns/dns.h"
#include "node/checkpage.h"
#include "node/conffile.h"
#include "node/workers.h"
#include "tun/tun.h"
#include "util/err.h"
#include "util/file.h"
#include "util/workpool.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    BUFFER_MIN = 4 * 1024,               /* below a few segments TCP crawls */
    BUFFER_MAX = 64 * 1024 * 1024,       /* window scaling ends at 1 GiB; this is a flow, not a disk */
};

void tn_config_init(struct tn_config *c)
{
    *c = (struct tn_config){.exit_breaker = true, .log_level = TN_LOG_INFO, .workers = TN_WORKERS_AUTO};
    c->port_mapping = true;
    tn_exitset_init(&c->exit);
}

void tn_config_fini(struct tn_config *c)
{
    char **strings[] = {&c->state_dir, &c->login_server, &c->hostname, &c->exit_node,
                        &c->exit_dns,  &c->socket,       &c->socks5_server, &c->tun,
                        &c->config_file, &c->exit_check};
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) free(*strings[i]);
    tn_secret_free(c->auth_key);
    tn_exitset_fini(&c->exit);
    free(c->routes);
    for (size_t i = 0; i < sizeof c->beside / sizeof *c->beside; i++) free(c->beside[i].value);
    tn_config_init(c);
}

static int bad(char why[200], const char *option, const char *expected)
{
    snprintf(why, 200, "%s: expected %s", option, expected);
    return TN_E_INVAL;
}

static int parse_bool(const char *text, bool *out)
{
    if (!strcmp(text, "true") || !strcmp(text, "1") || !strcmp(text, "on")) *out = true;
    else if (!strcmp(text, "false") || !strcmp(text, "0") || !strcmp(text, "off") || !*text) *out = false;
    else return TN_E_INVAL;
    return 0;
}

/* "4096", "256K", "8M"; 0 or "auto": automatic. */
static int parse_size(const char *text, size_t *out)
{
    if (!*text || !strcmp(text, "auto")) {
        *out = 0;
        return 0;
    }
    if (*text < '0' || *text > '9') return TN_E_INVAL;
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    unsigned long long unit = *end == 'K' || *end == 'k' ? 1024 : *end == 'M' || *end == 'm' ? 1024 * 1024 : 1;
    if (unit != 1) end++;
    if (*end || errno || n > BUFFER_MAX / unit) return TN_E_INVAL;
    n *= unit;
    if (n != 0 && n < BUFFER_MIN) return TN_E_INVAL;
    *out = (size_t)n;
    return 0;
}

static int set_string(char **slot, const char *value)
{
    char *copy = *value ? strdup(value) : NULL;
    if (*value && !copy) return TN_E_NOMEM;
    free(*slot);
    *slot = copy;
    return 0;
}

static int set_auth_key(struct tn_config *c, const char *value, char why[200])
{
    struct tn_secret *key;
    int err = tn_secret_read("auth_key", value, &key, NULL, why);
    if (err) return err;
    tn_secret_free(c->auth_key);
    c->auth_key = key;
    return 0;
}

static int set_log_level(struct tn_config *c, const char *value, char why[200])
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(value, names[i]) != 0) continue;
        c->log_level = (enum tn_log_level)i;
        return 0;
    }
    if (!*value) c->log_level = TN_LOG_INFO;
    return *value ? bad(why, "log_level", "error, warn, info or debug") : 0;
}

static int set_port(struct tn_config *c, const char *value, char why[200])
{
    char *end;
    errno = 0;
    unsigned long n = *value ? strtoul(value, &end, 10) : 0;
    if (*value && (*value < '0' || *value > '9' || *end || errno || n > 65535)) return bad(why, "port", "0 to 65535");
    c->port = (uint16_t)n;
    return 0;
}

static int set_workers(struct tn_config *c, const char *value, char why[200])
{
    char *end;
    bool automatic = !*value || !strcmp(value, "auto");
    unsigned long n = automatic ? 0 : strtoul(value, &end, 10);
    if (!automatic && (*value < '0' || *value > '9' || *end || n > TN_WORKERS_MAX)) return bad(why, "workers", "auto, or 0 to 16");
    c->workers = automatic ? TN_WORKERS_AUTO : (int)n;
    return 0;
}
_Static_assert(TN_WORKERS_MAX == 16, "as the message says");

/* A host name as DNS has it; control servers clean up the rest. */
static int set_hostname(struct tn_config *c, const char *value, char why[200])
{
    size_t len = strlen(value);
    if (len > 253) return bad(why, "hostname", "at most 253 characters");
    for (size_t i = 0, label = 0; i < len; i++) {
        if (!isalnum((unsigned char)value[i]) && value[i] != '-' && value[i] != '.' && value[i] != '_')
            return bad(why, "hostname", "letters, digits, '-', '.' and '_'");
        label = value[i] == '.' ? 0 : label + 1;
        if (label > 63) return bad(why, "hostname", "labels of at most 63 characters"); /* RFC 1035 section 2.3.4 */
    }
    c->said |= TN_SAID_HOSTNAME;
    return set_string(&c->hostname, value);
}

/* A word that ends up in logs, status and the state file: printable ASCII without blanks. */
static bool is_word(const char *value)
{
    for (; *value; value++)
        if (*value <= ' ' || *value > '~') return false;
    return true;
}

static int set_login_server(struct tn_config *c, const char *value, char why[200])
{
    bool scheme = strncmp(value, "http://", 7) == 0 || strncmp(value, "https://", 8) == 0;
    if (*value && (!scheme || !is_word(value)))
        return bad(why, "login_server", "a URL that starts with https:// or http://");
    c->said |= TN_SAID_LOGIN_SERVER;
    return set_string(&c->login_server, value);
}

static int set_exit_node(struct tn_config *c, const char *value, char why[200])
{
    if (!is_word(value)) return bad(why, "exit_node", "a name, an IP address or a stable ID");
    c->said |= TN_SAID_EXIT_NODE;
    return set_string(&c->exit_node, value);
}

static int set_exit_dns(struct tn_config *c, const char *value, char why[200])
{
    if (*value && tn_dns_check_upstreams(value) != 0)
        return bad(why, "exit_dns", "https://, tcp:// or udp:// URLs with IP addresses as hosts, up to four, separated by commas");
    return set_string(&c->exit_dns, value);
}

static int set_exit_check(struct tn_config *c, const char *value, char why[200])
{
    struct tn_checkpage page;
    bool on = true, said = parse_bool(*value ? value : "true", &on) == 0;
    if (!said && tn_checkpage_parse(value, &page) != 0)
        return bad(why, "exit_check", "true, false, or an http:// or https:// URL with an IP address as host");
    c->exit_check_off = !on;
    return set_string(&c->exit_check, said ? "" : value);
}

static int set_exit_dns_aaaa(struct tn_config *c, const char *value, char why[200])
{
    bool on;
    if (!*value || !strcmp(value, "auto")) c->exit_dns_aaaa = TN_AAAA_AUTO;
    else if (parse_bool(value, &on) == 0) c->exit_dns_aaaa = on ? TN_AAAA_YES : TN_AAAA_NO;
    else return bad(why, "exit_dns_aaaa", "auto, true or false");
    return 0;
}

static int set_socks5_server(struct tn_config *c, const char *value, char why[200])
{
    struct tn_addrport ap;
    if (*value && tn_addrport_parse(value, &ap) != 0) return bad(why, "socks5_server", "IP:PORT, such as 127.0.0.1:1055");
    return set_string(&c->socks5_server, value);
}

static int set_tun(struct tn_config *c, const char *value, char why[200])
{
    if (*value && !tn_tun_name_ok(value)) return bad(why, "tun", "a name for an interface, such as tailnet0");
    return set_string(&c->tun, value);
}

/* "192.168.1.0/24,fd00:1::/64": all or none. */
static int set_advertise_routes(struct tn_config *c, const char *value, char why[200])
{
    struct tn_egress_route *routes = *value ? calloc(TN_EGRESS_ROUTES_MAX, sizeof *routes) : NULL;
    size_t n = 0;
    char defect[128] = "", *text = *value ? strdup(value) : NULL, *rest = text;
    int err = *value && (!routes || !text) ? TN_E_NOMEM : 0;
    for (const char *word; !err && (word = strsep(&rest, ","));) {
        if (n == TN_EGRESS_ROUTES_MAX) {
            err = TN_E_INVAL;
            snprintf(defect, sizeof defect, "more than %d routes", TN_EGRESS_ROUTES_MAX);
        } else {
            err = tn_egress_route_parse(word, &routes[n], defect);
            n += err == 0;
        }
    }
    free(text);
    if (err) {
        snprintf(why, 200, "advertise_routes: %s", *defect ? defect : tn_err_text(err));
        free(routes);
        return err;
    }
    free(c->routes);
    c->routes = routes;
    c->nroutes = n;
    return 0;
}

/* wherever it was said */
static int set_option(struct tn_config *c, const char *option, const char *value, char why[200])
{
    why[0] = '\0';
    if (!value) value = "";
    const struct {
        const char *name;
        bool *slot;
        unsigned said;
    } bools[] = {{"ephemeral", &c->ephemeral, 0},
                 {"relay_only", &c->relay_only, 0},
                 {"port_mapping", &c->port_mapping, 0},
                 {"tun_dns", &c->tun_dns, 0},
                 {"accept_routes", &c->accept_routes, TN_SAID_ACCEPT_ROUTES},
                 {"advertise_exit_node", &c->advertise_exit_node, 0},
                 {"exit_node_allow_lan_access", &c->exit_node_allow_lan, 0},
                 {"exit_breaker", &c->exit_breaker, 0},
                 {"exit_withdraw", &c->exit_withdraw, 0},
                 {"exit_proxy_udp", &c->exit_proxy_udp, 0}};
    for (size_t i = 0; i < sizeof bools / sizeof *bools; i++) {
        if (strcmp(option, bools[i].name) != 0) continue;
        if (parse_bool(value, bools[i].slot) != 0) return bad(why, option, "true or false");
        c->said |= bools[i].said;
        return 0;
    }
    const struct {
        const char *name;
        int (*set)(struct tn_config *, const char *, char[200]);
    } others[] = {{"auth_key", set_auth_key},         {"log_level", set_log_level},
                  {"advertise_routes", set_advertise_routes},
                  {"port", set_port},                 {"hostname", set_hostname},
                  {"workers", set_workers},
                  {"login_server", set_login_server}, {"exit_dns", set_exit_dns},
                  {"exit_dns_aaaa", set_exit_dns_aaaa}, {"exit_check", set_exit_check},
                  {"socks5_server", set_socks5_server}, {"exit_node", set_exit_node},
                  {"tun", set_tun}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (!strcmp(option, others[i].name)) return others[i].set(c, value, why);
    int err = tn_exitset_set(&c->exit, option, value, why);
    if (err != TN_E_NOENT || why[0]) return err;
    if (!strcmp(option, "config")) return *value ? tn_config_read_file(c, value, why) : set_string(&c->config_file, value);
    if (!strcmp(option, "state_dir")) return set_string(&c->state_dir, value);
    if (!strcmp(option, "socket")) return set_string(&c->socket, value);
    if (!strcmp(option, "tcp_buffer_size"))
        return parse_size(value, &c->tcp_buffer_size) == 0
                   ? 0
                   : bad(why, option, "auto, or 4K to 64M in bytes or with K or M");
    if (!strcmp(option, "tcp_congestion")) {
        bool cubic = !strcmp(value, "cubic");
        if (!cubic && strcmp(value, "bbr") != 0) return bad(why, option, "bbr or cubic");
        c->tcp_congestion = cubic ? TN_CONGESTION_CUBIC : TN_CONGESTION_BBR;
        return 0;
    }
    snprintf(why, 200, "%.60s: no such option", option);
    return TN_E_NOENT;
}

/* ---- settings that change while the node runs ---- */

static const char *const live[] = {"advertise_exit_node", "advertise_routes", "exit_proxy_udp", "exit_dns", "exit_dns_aaaa",
                                   "exit_check", "exit_withdraw"};
_Static_assert(sizeof live / sizeof *live == sizeof((struct tn_config *)0)->beside / sizeof(struct tn_config_said_beside),
               "one for each");

enum { CHANGES_MAX = 16 }; /* more than there are */

static int live_index(const char *option)
{
    for (size_t i = 0; i < sizeof live / sizeof *live; i++)
        if (!strcmp(option, live[i])) return (int)i;
    return -1;
}

/* value is the config's from here on. */
static void note_beside(struct tn_config *c, int i, char *value)
{
    free(c->beside[i].value);
    c->beside[i].value = value;
    c->beside[i].behind_file = c->config_file != NULL;
}

int tn_config_set(struct tn_config *c, const char *option, const char *value, char why[200])
{
    int i = live_index(option), err = set_option(c, option, value, why);
    if (err || i < 0) return err;
    char *copy = strdup(value ? value : "");
    if (copy) note_beside(c, i, copy);
    return copy ? 0 : TN_E_NOMEM;
}

static int set_beside(const struct tn_config *c, bool behind_file, struct tn_config *fresh, char why[200])
{
    int err = 0;
    for (size_t i = 0; i < sizeof live / sizeof *live && !err; i++)
        if (c->beside[i].value && c->beside[i].behind_file == behind_file)
            err = set_option(fresh, live[i], c->beside[i].value, why);
    return err;
}

int tn_config_change(struct tn_config *c, const struct tn_setting *settings, size_t n, struct tn_config *fresh, bool *policy,
                     char why[200])
{
    struct tn_setting said[CHANGES_MAX]; /* of the policy */
    char *values[sizeof live / sizeof *live] = {NULL};
    size_t nsaid = 0;
    *policy = false;
    why[0] = '\0';
    tn_config_init(fresh);
    int err = n > CHANGES_MAX ? TN_E_LIMIT : set_beside(c, false, fresh, why);
    if (!err) err = set_beside(c, true, fresh, why);
    for (size_t k = 0; k < n && !err; k++) {
        int i = live_index(settings[k].option);
        if (i < 0) said[nsaid++] = settings[k];
        else err = set_option(fresh, settings[k].option, settings[k].value, why);
        if (i < 0 || err) continue;
        free(values[i]);
        values[i] = strdup(settings[k].value);
        if (!values[i]) err = TN_E_NOMEM;
    }
    if (!err && nsaid) {
        err = tn_exitset_change(&c->exit, said, nsaid, why);
        *policy = err != TN_E_NOENT || why[0];
    }
    for (size_t i = 0; i < sizeof live / sizeof *live; i++) {
        if (!err && values[i]) note_beside(c, (int)i, values[i]);
        else free(values[i]);
    }
    return err;
}

static bool same_routes(const struct tn_config *a, const struct tn_config *b)
{
    if (a->nroutes != b->nroutes) return false;
    for (size_t i = 0; i < a->nroutes; i++) {
        const struct tn_egress_route *x = &a->routes[i], *y = &b->routes[i];
        if (x->direct != y->direct || x->prefix.bits != y->prefix.bits || !tn_ip_eq(&x->prefix.ip, &y->prefix.ip)) return false;
    }
    return true;
}

static bool same_text(const char *a, const char *b) { return a && b ? !strcmp(a, b) : a == b; }

unsigned tn_config_take_live(struct tn_config *c, struct tn_config *fresh)
{
    unsigned changed = (c->advertise_exit_node != fresh->advertise_exit_node ? TN_LIVE_EXIT_NODE : 0) |
                       (same_routes(c, fresh) ? 0 : TN_LIVE_ROUTES) |
                       (c->exit_proxy_udp != fresh->exit_proxy_udp ? TN_LIVE_PROXY_UDP : 0) |
                       (same_text(c->exit_dns, fresh->exit_dns) ? 0 : TN_LIVE_DNS) |
                       (c->exit_dns_aaaa != fresh->exit_dns_aaaa ? TN_LIVE_DNS_AAAA : 0) |
                       (c->exit_check_off == fresh->exit_check_off && same_text(c->exit_check, fresh->exit_check) ? 0 : TN_LIVE_CHECK) |
                       (c->exit_withdraw != fresh->exit_withdraw ? TN_LIVE_WITHDRAW : 0);
    free(c->routes);
    free(c->exit_check);
    free(c->exit_dns);
    c->advertise_exit_node = fresh->advertise_exit_node;
    c->exit_proxy_udp = fresh->exit_proxy_udp;
    c->exit_dns_aaaa = fresh->exit_dns_aaaa;
    c->routes = fresh->routes;
    c->nroutes = fresh->nroutes;
    c->exit_dns = fresh->exit_dns;
    c->exit_check = fresh->exit_check;
    c->exit_check_off = fresh->exit_check_off;
    c->exit_withdraw = fresh->exit_withdraw;
    fresh->exit_check = NULL;
    fresh->routes = NULL;
    fresh->nroutes = 0;
    fresh->exit_dns = NULL;
    return changed;
}

/* ---- the configuration file ---- */

struct reading {
    struct tn_config *c;
    char keys[64][24]; /* settings seen, to tell one that is said twice */
    size_t nkeys;
    char why[200];
};

static int seen_before(struct reading *r, const char *key)
{
    for (size_t i = 0; i < r->nkeys; i++)
        if (!strcmp(r->keys[i], key)) return 1;
    if (r->nkeys < sizeof r->keys / sizeof *r->keys) snprintf(r->keys[r->nkeys++], sizeof r->keys[0], "%s", key);
    return 0;
}

static int take_line(void *ctx, const struct tn_confline *l)
{
    struct reading *r = ctx;
    if (!strcmp(l->kind, "proxy") || !strcmp(l->kind, "rule")) return tn_exitset_line(&r->c->exit, l, r->why);
    if (*l->kind) {
        snprintf(r->why, sizeof r->why, "[%.40s]: no such section", l->kind);
        return TN_E_NOENT;
    }
    if (!strcmp(l->key, "config") || seen_before(r, l->key)) {
        snprintf(r->why, sizeof r->why, "%.40s: %s", l->key, strcmp(l->key, "config") ? "said twice" : "not in a file");
        return TN_E_INVAL;
    }
    return set_option(r->c, l->key, l->value, r->why);
}

static int read_lines(struct reading *r, const char *path, unsigned *line)
{
    char *text;
    size_t len;
    *line = 0;
    int err = tn_file_read(path, TN_CONFFILE_MAX, &text, &len);
    r->c->exit.config_print = tn_exitset_print(text, len, err);
    if (err) {
        snprintf(r->why, sizeof r->why, "%s", tn_err_text(err));
        return err;
    }
    char why[128];
    err = tn_conffile_parse(text, len, take_line, r, line, why);
    if (err && !r->why[0]) snprintf(r->why, sizeof r->why, "%s", why[0] ? why : tn_err_text(err));
    tn_wipe(text, len);
    free(text);
    if (err || !r->c->exit.pool || r->c->exit.proxy_raw) return err;
    err = tn_egress_spec_check(r->c->exit.pool, r->why);
    *line = 0;
    return err;
}

int tn_config_read_file(struct tn_config *c, const char *path, char why[200])
{
    struct reading r = {.c = c};
    unsigned line;
    int err = read_lines(&r, path, &line);
    if (!err) return set_string(&c->config_file, path);
    if (line) snprintf(why, 200, "%.80s:%u: %.100s", path, line, r.why);
    else snprintf(why, 200, "%.80s: %.110s", path, r.why);
    snprintf(c->exit.defect, sizeof c->exit.defect, "%.199s", why);
    return err;
}

int tn_config_reread(const struct tn_config *c, struct tn_config *fresh, char why[200])
{
    tn_config_init(fresh);
    why[0] = '\0';
    int err = set_beside(c, false, fresh, why);
    if (!err && c->config_file) {
        err = tn_config_read_file(fresh, c->config_file, why);
        if (!err) err = set_beside(c, true, fresh, why);
    } else if (!err) {
        fresh->exit.egress_said = c->exit.egress_said;
        fresh->exit.forward_said = c->exit.forward_said;
        fresh->exit.names = c->exit.names;
        fresh->exit.proxy_said = c->exit.proxy_said;
        if (c->exit.proxy_raw) err = tn_exitset_set(&fresh->exit, "exit_proxy", tn_secret_bytes(c->exit.proxy_raw), why);
    }
    if (err && !fresh->exit.defect[0]) snprintf(fresh->exit.defect, sizeof fresh->exit.defect, "%.199s", why);
    return err;
}

enum tn_egress_mode tn_config_egress(const struct tn_config *c, const char **missing) { return tn_exitset_mode(&c->exit, missing); }
