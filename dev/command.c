/* "tailnet dev" as a foreground program: arguments, signals, what it prints. */
#include "dev/dev.h"
#include "dev/phantom.h"
#include "util/err.h"
#include "util/file.h"
#include "util/secret.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: tailnet dev --state DIR [options]\n"
    "A tailnet in a box: control server, DERP and STUN. Prints its facts, then the line \"ready\".\n"
    "  --listen IP:PORT       control server (default 127.0.0.1:8080; port 0 picks one)\n"
    "  --state DIR            keys, certificate and nodes are kept here\n"
    "  --derp-addr IP:PORT    DERP over TLS (default: the next port)\n"
    "  --stun-addr IP:PORT    STUN over UDP (default: the DERP port's number)\n"
    "  --advertise IP         the address that nodes dial (default: the one listened on)\n"
    "  --auth-key KEY         accept this auth key, or file:PATH (default: one made and kept in DIR/auth-key)\n"
    "  --domain NAME          MagicDNS suffix (default tailnet.test)\n"
    "  --approve-exit-nodes yes|no   put advertised default routes into force (default yes)\n"
    "  --approve-routes yes|no       and other advertised routes (default yes)\n"
    "  --insecure-derp        let clients skip the DERP certificate instead of pinning it\n"
    "  --ephemeral-timeout S  remove ephemeral nodes S seconds after they left (default 30)\n"
    "  --phantoms N           N more nodes that nobody is behind, to see what a large tailnet costs (not saved)\n"
    "  --churn MS             one phantom changes every MS milliseconds: a delta to every node\n"
    "  --verbose              log more\n";

enum { AUTH_KEY_MAX = 512, EPHEMERAL_MAX_S = 7 * 24 * 3600, CHURN_MAX_MS = 24 * 3600 * 1000 };

struct program {
    uv_loop_t loop;
    uv_signal_t term, interrupt;
    struct tn_dev *dev;
};

static void write_log(void *ctx, enum tn_log_level level, const char *module, const char *line)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    fprintf(stderr, "%s: %s: %s\n", names[level], module, line);
}

static void close_signals(struct program *p)
{
    uv_close((uv_handle_t *)&p->term, NULL);
    uv_close((uv_handle_t *)&p->interrupt, NULL);
}

static void on_signal(uv_signal_t *s, int signum)
{
    struct program *p = s->data;
    tn_dev_stop(p->dev, NULL, NULL);
    close_signals(p);
}

static void print_facts(const struct tn_dev *d, const char *state_dir)
{
    printf("login server   %s\n", tn_dev_url(d));
    printf("auth key       %s\n", tn_dev_auth_key(d));
    printf("domain         %s\n", tn_dev_domain(d));
    printf("DERP           region 900 \"dev\", TLS port %u, CertName %s\n", tn_dev_derp_port(d), tn_dev_cert_name(d));
    printf("STUN           UDP port %u\n", tn_dev_stun_port(d));
    printf("state          %s, %zu nodes known\n", state_dir, tn_dev_node_count(d));
    printf("join           tailscale up --login-server=%s --auth-key=KEY\n", tn_dev_url(d));
    printf("ready\n");
    fflush(stdout);
}

int tn_dev_main(const struct tn_dev_options *options)
{
    struct program p = {0};
    struct tn_log log = {.write = write_log, .max = TN_LOG_INFO};
    struct tn_dev_options o = *options;
    char why[512];
    if (!o.log) o.log = &log;
    if (uv_loop_init(&p.loop) != 0) {
        fprintf(stderr, "tailnet dev: no event loop\n");
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    int err = tn_dev_start(&p.loop, &o, &p.dev, why, sizeof why);
    if (err) {
        fprintf(stderr, "tailnet dev: %s\n", why);
    } else {
        uv_signal_init(&p.loop, &p.term);
        uv_signal_init(&p.loop, &p.interrupt);
        p.term.data = p.interrupt.data = &p;
        uv_signal_start(&p.term, on_signal, SIGTERM);
        uv_signal_start(&p.interrupt, on_signal, SIGINT);
        print_facts(p.dev, o.state_dir);
    }
    uv_run(&p.loop, UV_RUN_DEFAULT);
    uv_loop_close(&p.loop);
    return err ? 1 : 0;
}

enum option_id {
    OPT_LISTEN = 1, OPT_STATE, OPT_DERP, OPT_STUN, OPT_ADVERTISE, OPT_AUTH_KEY, OPT_DOMAIN, OPT_EXIT, OPT_ROUTES,
    OPT_INSECURE, OPT_EPHEMERAL, OPT_PHANTOMS, OPT_CHURN, OPT_VERBOSE, OPT_HELP,
};

static const struct option long_options[] = {
    {"listen", required_argument, NULL, OPT_LISTEN},
    {"state", required_argument, NULL, OPT_STATE},
    {"derp-addr", required_argument, NULL, OPT_DERP},
    {"stun-addr", required_argument, NULL, OPT_STUN},
    {"advertise", required_argument, NULL, OPT_ADVERTISE},
    {"auth-key", required_argument, NULL, OPT_AUTH_KEY},
    {"domain", required_argument, NULL, OPT_DOMAIN},
    {"approve-exit-nodes", required_argument, NULL, OPT_EXIT},
    {"approve-routes", required_argument, NULL, OPT_ROUTES},
    {"insecure-derp", no_argument, NULL, OPT_INSECURE},
    {"ephemeral-timeout", required_argument, NULL, OPT_EPHEMERAL},
    {"phantoms", required_argument, NULL, OPT_PHANTOMS},
    {"churn", required_argument, NULL, OPT_CHURN},
    {"verbose", no_argument, NULL, OPT_VERBOSE},
    {"help", no_argument, NULL, OPT_HELP},
    {0},
};

static bool parse_refusal(const char *text, bool *refuse)
{
    *refuse = strcmp(text, "no") == 0;
    return *refuse || strcmp(text, "yes") == 0;
}

static bool parse_number(const char *text, unsigned max, unsigned *out)
{
    char *end;
    errno = 0;
    unsigned long v = strtoul(text, &end, 10);
    if (errno || end == text || *end || *text == '-' || v < 1 || v > max) return false;
    *out = (unsigned)v;
    return true;
}

/* The key goes from the argument, which others see in the list of processes, or from its file into out. */
static bool take_auth_key(char *arg, char out[AUTH_KEY_MAX])
{
    if (strncmp(arg, "file:", 5) != 0) {
        bool fits = strlen(arg) < AUTH_KEY_MAX;
        if (fits) strcpy(out, arg);
        tn_wipe(arg, strlen(arg));
        return fits;
    }
    char *text;
    size_t len;
    if (tn_file_read(arg + 5, AUTH_KEY_MAX - 1, &text, &len) != 0) return false;
    memcpy(out, text, len);
    out[len] = '\0';
    out[strcspn(out, "\r\n")] = '\0';
    tn_wipe(text, len);
    free(text);
    return true;
}

/* 0 to go on, 1 for a mistake, 2 after the help. */
static int parse_arguments(int argc, char **argv, struct tn_dev_options *o, char auth_key[AUTH_KEY_MAX],
                           struct tn_log *log)
{
    int id;
    optind = 0; /* glibc: start over */
    while ((id = getopt_long(argc, argv, "h", long_options, NULL)) != -1) {
        bool ok = true;
        switch (id) {
        case OPT_LISTEN: o->listen = optarg; break;
        case OPT_STATE: o->state_dir = optarg; break;
        case OPT_DERP: o->derp_listen = optarg; break;
        case OPT_STUN: o->stun_listen = optarg; break;
        case OPT_ADVERTISE: o->advertise = optarg; break;
        case OPT_AUTH_KEY:
            ok = take_auth_key(optarg, auth_key);
            o->auth_key = auth_key;
            break;
        case OPT_DOMAIN: o->domain = optarg; break;
        case OPT_EXIT: ok = parse_refusal(optarg, &o->refuse_exit_nodes); break;
        case OPT_ROUTES: ok = parse_refusal(optarg, &o->refuse_routes); break;
        case OPT_INSECURE: o->insecure_derp = true; break;
        case OPT_EPHEMERAL: ok = parse_number(optarg, EPHEMERAL_MAX_S, &o->ephemeral_s); break;
        case OPT_PHANTOMS: ok = parse_number(optarg, TN_DEV_PHANTOMS_MAX, &o->phantoms); break;
        case OPT_CHURN: ok = parse_number(optarg, CHURN_MAX_MS, &o->churn_ms); break;
        case OPT_VERBOSE: log->max = TN_LOG_DEBUG; break;
        case OPT_HELP:
        case 'h': fputs(usage, stdout); return 2;
        default: return 1; /* getopt has said why */
        }
        if (!ok) {
            fprintf(stderr, "tailnet dev: '%s' is not a value for this option\n", optarg);
            return 1;
        }
    }
    if (optind < argc) fprintf(stderr, "tailnet dev: unexpected argument '%s'\n", argv[optind]);
    else if (!o->state_dir) fprintf(stderr, "tailnet dev: --state DIR is required\n");
    return optind < argc || !o->state_dir;
}

int tn_dev_command(int argc, char **argv)
{
    struct tn_log log = {.write = write_log, .max = TN_LOG_INFO};
    struct tn_dev_options o = {.log = &log};
    char auth_key[AUTH_KEY_MAX];
    int rc = parse_arguments(argc, argv, &o, auth_key, &log);
    rc = rc == 0 ? tn_dev_main(&o) : rc == 2 ? 0 : 2;
    tn_wipe(auth_key, sizeof auth_key);
    return rc;
}
