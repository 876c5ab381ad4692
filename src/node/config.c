#include "node/config.h"

#include "dns/dns.h"
#include "tun/tun.h"
#include "util/err.h"
#include "util/file.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SECRET_FILE_MAX = 4096,              /* a key or a URL */
    BUFFER_MIN = 4 * 1024,               /* below a few segments TCP crawls */
    BUFFER_MAX = 64 * 1024 * 1024,       /* window scaling ends at 1 GiB; this is a flow, not a disk */
};

void tn_config_init(struct tn_config *c) { *c = (struct tn_config){.egress_said = -1, .forward_said = -1, .exit_dns_aaaa = true, .log_level = TN_LOG_INFO}; }

void tn_config_fini(struct tn_config *c)
{
    char **strings[] = {&c->state_dir, &c->login_server, &c->hostname, &c->exit_node,
                        &c->exit_dns,  &c->socket,       &c->socks5_server, &c->tun};
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) free(*strings[i]);
    tn_secret_free(c->auth_key);
    tn_proxy_free(c->proxy);
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

/* A secret given in place or as file:PATH; surrounding white space of a file is not part of it. *out NULL for empty. */
static int read_secret(const char *option, const char *value, struct tn_secret **out, char why[200])
{
    *out = NULL;
    if (strncmp(value, "file:", 5) != 0) {
        if (!*value) return 0;
        *out = tn_secret_new(value, strlen(value));
        return *out ? 0 : TN_E_NOMEM;
    }
    char *text;
    size_t len;
    int err = tn_file_read(value + 5, SECRET_FILE_MAX, &text, &len);
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

static int set_auth_key(struct tn_config *c, const char *value, char why[200])
{
    struct tn_secret *key;
    int err = read_secret("auth_key", value, &key, why);
    if (err) return err;
    tn_secret_free(c->auth_key);
    c->auth_key = key;
    return 0;
}

/* Whatever is wrong with the value, the egress is OFF from here on: a proxy was meant, so nothing may go without one. */
static int set_exit_proxy(struct tn_config *c, const char *value, char why[200])
{
    struct tn_secret *url;
    tn_proxy_free(c->proxy);
    c->proxy = NULL;
    c->proxy_said = true;
    snprintf(c->proxy_defect, sizeof c->proxy_defect, "it is empty");
    int err = read_secret("exit_proxy", value, &url, why);
    if (err || !url) {
        if (err) snprintf(c->proxy_defect, sizeof c->proxy_defect, "its file can't be read: %s", tn_err_text(err));
        else snprintf(why, 200, "exit_proxy: it is empty; exit traffic is off");
        return err ? err : TN_E_INVAL;
    }
    err = tn_proxy_parse(tn_secret_bytes(url), tn_secret_len(url), &c->proxy, c->proxy_defect);
    tn_secret_free(url);
    if (err) snprintf(why, 200, "exit_proxy: %s; exit traffic is off", c->proxy_defect);
    else c->proxy_defect[0] = '\0';
    return err;
}

static int set_exit_egress(struct tn_config *c, const char *value, char why[200])
{
    if (!strcmp(value, "off")) c->egress_said = TN_EGRESS_OFF;
    else if (!strcmp(value, "host")) c->egress_said = TN_EGRESS_HOST;
    else if (!strcmp(value, "proxy")) c->egress_said = TN_EGRESS_PROXY;
    else if (!*value) c->egress_said = -1;
    else {
        c->egress_said = TN_EGRESS_OFF;
        return bad(why, "exit_egress", "off, host or proxy");
    }
    return 0;
}

static int set_forward_exit_egress(struct tn_config *c, const char *value, char why[200])
{
    bool on;
    if (parse_bool(value, &on) != 0) {
        c->forward_said = 0;
        return bad(why, "forward_exit_egress", "true or false");
    }
    c->forward_said = *value ? on : -1;
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
        return bad(why, "exit_dns", "https:// or tcp:// URLs with IP addresses as hosts, up to four, separated by commas");
    return set_string(&c->exit_dns, value);
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

int tn_config_set(struct tn_config *c, const char *option, const char *value, char why[200])
{
    why[0] = '\0';
    if (!value) value = "";
    const struct {
        const char *name;
        bool *slot;
        unsigned said;
    } bools[] = {{"ephemeral", &c->ephemeral, 0},
                 {"accept_routes", &c->accept_routes, TN_SAID_ACCEPT_ROUTES},
                 {"advertise_exit_node", &c->advertise_exit_node, 0},
                 {"exit_node_allow_lan_access", &c->exit_node_allow_lan, 0},
                 {"exit_dns_aaaa", &c->exit_dns_aaaa, 0}};
    for (size_t i = 0; i < sizeof bools / sizeof *bools; i++) {
        if (strcmp(option, bools[i].name) != 0) continue;
        if (parse_bool(value, bools[i].slot) != 0) return bad(why, option, "true or false");
        c->said |= bools[i].said;
        return 0;
    }
    const struct {
        const char *name;
        int (*set)(struct tn_config *, const char *, char[200]);
    } others[] = {{"auth_key", set_auth_key},         {"exit_proxy", set_exit_proxy},
                  {"exit_egress", set_exit_egress},   {"forward_exit_egress", set_forward_exit_egress},
                  {"log_level", set_log_level},
                  {"port", set_port},                 {"hostname", set_hostname},
                  {"login_server", set_login_server}, {"exit_dns", set_exit_dns},
                  {"socks5_server", set_socks5_server}, {"exit_node", set_exit_node},
                  {"tun", set_tun}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (!strcmp(option, others[i].name)) return others[i].set(c, value, why);
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

static struct tn_secret *copy_secret(const struct tn_secret *s) { return tn_secret_new(tn_secret_bytes(s), tn_secret_len(s)); }

struct tn_proxy *tn_config_copy_proxy(const struct tn_config *c)
{
    struct tn_proxy *copy = c->proxy ? malloc(sizeof *copy) : NULL;
    if (!copy) return NULL;
    *copy = *c->proxy;
    copy->user = c->proxy->user ? copy_secret(c->proxy->user) : NULL;
    copy->pass = c->proxy->pass ? copy_secret(c->proxy->pass) : NULL;
    if (!copy->user == !c->proxy->user && !copy->pass == !c->proxy->pass) return copy;
    tn_proxy_free(copy);
    return NULL;
}

enum tn_egress_mode tn_config_egress(const struct tn_config *c, const char **missing)
{
    const char *ignored;
    if (!missing) missing = &ignored;
    *missing = NULL;
    if (c->proxy_said && !c->proxy) { /* a proxy was meant: nothing may leave without it, whatever else was said */
        *missing = "a valid exit_proxy";
        return TN_EGRESS_OFF;
    }
    if (c->egress_said == TN_EGRESS_OFF || c->forward_said == 0) { /* one no outweighs every yes */
        *missing = c->egress_said == TN_EGRESS_OFF ? "exit_egress (it is off)" : "forward_exit_egress (it is false)";
        return TN_EGRESS_OFF;
    }
    if (c->egress_said == TN_EGRESS_HOST) {
        if (!c->proxy) return TN_EGRESS_HOST;
        *missing = "one meaning: exit_egress is host but exit_proxy is set too";
        return TN_EGRESS_OFF;
    }
    if (c->proxy) return TN_EGRESS_PROXY;
    *missing = c->egress_said == TN_EGRESS_PROXY ? "exit_proxy" : "exit_proxy, or exit_egress host";
    return TN_EGRESS_OFF;
}
