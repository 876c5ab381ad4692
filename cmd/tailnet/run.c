/* tailnet run: a node in the foreground until SIGTERM or SIGINT.
 *
 * Secrets: an auth key or a proxy URL on the command line is copied and then overwritten in argv, so that ps does not
 * show it (it was visible for the moment between exec and here: file: and the environment are better); environment
 * values are overwritten as well. The process is not dumpable and leaves no core. */
#include "cmd.h"
#include "tailnet.h"
#include "util/trim.h"

#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static const char usage[] =
    "usage: tailnet run [FLAGS]\n"
    "\n"
    "Joins, stays until SIGTERM or Ctrl-C, logs to stderr. Where a person must log in, the URL to visit is logged.\n"
    "\n"
    "  --state DIR              keys and preferences (default /var/lib/tailnet for root, else\n"
    "                           $XDG_STATE_HOME/tailnet or ~/.local/state/tailnet); also TS_STATE_DIR\n"
    "  --socket PATH            LocalAPI socket for tailnet status and the tailscale CLI (default\n"
    "                           /run/tailnet/tailnet.sock for root, else $XDG_RUNTIME_DIR/tailnet/tailnet.sock, or\n"
    "                           tailnet.sock in the default state directory)\n"
    "  --login-server URL       control server (default https://controlplane.tailscale.com)\n"
    "  --auth-key KEY|file:PATH join without a person; also TS_AUTHKEY. Needed once\n"
    "  --hostname NAME          name in the tailnet (default: this host's); also TS_HOSTNAME\n"
    "  --port N                 UDP port (default: any)\n"
    "  --port-mapping=false     do not ask the NAT's gateway for a port (PCP, NAT-PMP, UPnP); also\n"
    "                           TS_DISABLE_PORTMAPPER=1\n"
    "  --relay-only             no UDP at all: peers are reached through DERP relays only\n"
    "  --ephemeral              be forgotten when gone\n"
    "  --accept-routes          use subnet routes that peers offer\n"
    "\n"
    "exit node:\n"
    "  --advertise-exit-node    offer to carry peers' internet traffic\n"
    "  --exit-proxy URL|file:PATH\n"
    "                           let it leave through this proxy and never otherwise:\n"
    "                           socks5://[user:pass@]host:port, http://... or https://...; several between\n"
    "                           blanks are a pool; also TAILNET_EXIT_PROXY\n"
    "  --exit-names             tell the proxy names instead of addresses, where they are known\n"
    "  --exit-proxy-udp         UDP as well, by the proxy's UDP ASSOCIATE (SOCKS5); without it UDP is refused, so that\n"
    "                           browsers use TCP at once\n"
    "  --exit-egress off|host|proxy\n"
    "                           off is the default; host sends it from this host's own address; --exit-proxy\n"
    "                           means proxy\n"
    "  --exit-dns URL[,URL...]  where names of exit clients are asked, the same way: https://ADDRESS/path or\n"
    "                           tcp://ADDRESS or udp://ADDRESS, the first that works\n"
    "                           (default https://1.1.1.1/dns-query)\n"
    "  --exit-dns-aaaa WHEN     tell exit clients IPv6 addresses: true, false, or auto (where IPv6 has a way; the default)\n"
    "  --exit-breaker=false     ask a proxy that did not answer for every flow anew, instead of leaving it alone for\n"
    "                           some seconds\n"
    "  --exit-check true|false|URL\n"
    "                           with proxies the node asks a page what address the world sees, once it is up and after\n"
    "                           changes, and tells in status and health (default https://1.1.1.1/cdn-cgi/trace)\n"
    "  --exit-withdraw          tell control that this is no exit node while no proxy works\n"
    "\n"
    "subnet router:\n"
    "  --advertise-routes LIST  offer to carry traffic to these prefixes: 192.168.1.0/24,fd00:1::/64 and 4via6\n"
    "                           (fd7a:115c:a1e0:b1a:0:SITE:...). Private addresses are dialed directly and no proxy\n"
    "                           hears of them; public ones are exit traffic, unless marked as in 8.8.8.0/24=direct\n"
    "\n"
    "using the tailnet:\n"
    "  --exit-node NAME|IP|ID   send internet traffic through this peer\n"
    "  --tun NAME               the whole host, through a TUN device of that name; needs root or CAP_NET_ADMIN\n"
    "  --tun-dns                with --tun: the host's names are resolved by the tailnet (/etc/resolv.conf is set, and put\n"
    "                           back at the end, or at the next start)\n"
    "  --exit-node-allow-lan-access\n"
    "                           with --tun: the host's own networks stay reachable beside the exit node\n"
    "  --socks5-server IP:PORT  SOCKS5 into the tailnet\n"
    "  --tcp-buffer-size SIZE   most memory of a TCP flow per direction, such as 256K or 8M (default: automatic)\n"
    "  --tcp-congestion NAME    bbr (default) or cubic: congestion control of TCP\n"
    "  --workers N              threads that encrypt and send beside the main one, and as many that receive and\n"
    "                           decrypt: 0 to 16 (default: as needed, where there are four cores or more)\n"
    "\n"
    "  --config FILE            settings from a file, with pools of proxies and rules (docs/CONFIG.md); other flags win.\n"
    "                           SIGHUP reads it anew, and so does a change of it\n"
    "  --verbose                log more\n"
    "  --help                   print this\n"
    "\n"
    "Login server, host name, --exit-node and --accept-routes are remembered in the state directory. Being an exit\n"
    "node, its egress and the proxy are not: they are said at every start, and what is not said is off.\n";

struct flag {
    const char *name, *option;
    bool boolean, secret;
};

static const struct flag flags[] = {
    {"state", "state_dir", false, false},
    {"socket", "socket", false, false},
    {"login-server", "login_server", false, false},
    {"auth-key", "auth_key", false, true},
    {"hostname", "hostname", false, false},
    {"port", "port", false, false},
    {"relay-only", "relay_only", true, false},
    {"port-mapping", "port_mapping", true, false},
    {"ephemeral", "ephemeral", true, false},
    {"accept-routes", "accept_routes", true, false},
    {"advertise-exit-node", "advertise_exit_node", true, false},
    {"advertise-routes", "advertise_routes", false, false},
    {"exit-egress", "exit_egress", false, false},
    {"exit-proxy", "exit_proxy", false, true},
    {"exit-proxy-udp", "exit_proxy_udp", true, false},
    {"exit-dns", "exit_dns", false, false},
    {"exit-dns-aaaa", "exit_dns_aaaa", false, false},
    {"exit-breaker", "exit_breaker", true, false},
    {"exit-names", "exit_names", true, false},
    {"exit-check", "exit_check", false, false},
    {"exit-withdraw", "exit_withdraw", true, false},
    {"config", "config", false, false},
    {"exit-node", "exit_node", false, false},
    {"exit-node-allow-lan-access", "exit_node_allow_lan_access", true, false},
    {"tun", "tun", false, false},
    {"tun-dns", "tun_dns", true, false},
    {"socks5-server", "socks5_server", false, false},
    {"tcp-buffer-size", "tcp_buffer_size", false, false},
    {"tcp-congestion", "tcp_congestion", false, false},
    {"workers", "workers", false, false},
};
enum { NFLAGS = sizeof flags / sizeof *flags, OPT_VERBOSE = CMD_LONG + NFLAGS, OPT_HELP };

static void write_log(void *ctx, int level, const char *module, const char *line)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    fprintf(stderr, "%s %s: %s\n", names[level], module, line);
}

/* Overwrites a string in place, in argv or in the environment block. */
static void blot(char *s)
{
    volatile char *p = s; /* visible to other processes: the compiler must not drop it */
    while (*p) *p++ = 'x';
}

static int set(tailnet *t, const char *shown, const char *option, const char *value)
{
    char why[256];
    if (tailnet_set(t, option, value) == 0) return EXIT_OK;
    tailnet_error(t, why, sizeof why);
    size_t skip = strlen(option);
    bool own = strncmp(why, option, skip) == 0 && why[skip] == ':';
    cmd_complain("%s%s", shown, own ? why + skip : why);
    return EXIT_USAGE;
}

/* A setting from the environment, for what was not said on the command line. */
static int set_from_env(tailnet *t, const char *variable, const char *option, bool secret)
{
    char *value = getenv(variable);
    bool egress = strcmp(option, "exit_proxy") == 0; /* set but empty is a proxy that was meant and is missing: an error */
    if (!value || (!*value && !egress)) return EXIT_OK;
    int code = set(t, variable, option, value);
    if (secret) {
        blot(value);
        unsetenv(variable);
    }
    return code;
}

static int parse(tailnet *t, int argc, char **argv, bool said[NFLAGS])
{
    struct option longs[NFLAGS + 3] = {{0}};
    for (int i = 0; i < NFLAGS; i++)
        longs[i] = (struct option){flags[i].name, flags[i].boolean ? optional_argument : required_argument, NULL,
                                    CMD_LONG + i};
    longs[NFLAGS] = (struct option){"verbose", no_argument, NULL, OPT_VERBOSE};
    longs[NFLAGS + 1] = (struct option){"help", no_argument, NULL, OPT_HELP};
    int code = EXIT_OK;
    for (int c; (c = getopt_long(argc, argv, ":h", longs, NULL)) != -1;) {
        char shown[64];
        if (c == OPT_HELP || c == 'h') {
            fputs(usage, stdout);
            exit(EXIT_OK);
        }
        if (c == ':' || c == '?') return cmd_bad_flag("run", argv, c);
        if (c == OPT_VERBOSE) {
            (void)tailnet_set(t, "log_level", "debug");
            continue;
        }
        const struct flag *f = &flags[c - CMD_LONG];
        said[c - CMD_LONG] = true;
        if (!strcmp(f->name, "config")) continue; /* read already */
        snprintf(shown, sizeof shown, "--%s", f->name);
        int err = 0;
        if (optarg && !*optarg && strcmp(f->option, "state_dir") == 0) { /* as from an unset variable: keys would be lost */
            cmd_complain("--state: it is empty; a directory is needed");
            err = EXIT_USAGE;
        }
        if (!err) err = set(t, shown, f->option, optarg ? optarg : "true");
        if (err && !code) code = err;
        if (f->secret && optarg) blot(optarg);
    }
    return !code && optind < argc ? cmd_bad_word("run", argv[optind]) : code;
}

static int find_flag(const char *option)
{
    for (int i = 0; i < NFLAGS; i++)
        if (!strcmp(flags[i].option, option)) return i;
    return -1;
}

static int fill_in(tailnet *t, const bool said[NFLAGS])
{
    static const struct {
        const char *variable, *option;
        bool secret;
    } env[] = {{"TS_AUTHKEY", "auth_key", true},
               {"TS_STATE_DIR", "state_dir", false},
               {"TS_HOSTNAME", "hostname", false},
               {"TAILNET_EXIT_PROXY", "exit_proxy", true}};
    for (size_t i = 0; i < sizeof env / sizeof *env; i++) {
        if (said[find_flag(env[i].option)]) {
            char *value = getenv(env[i].variable);
            if (value && env[i].secret) blot(value);
            continue;
        }
        int code = set_from_env(t, env[i].variable, env[i].option, env[i].secret);
        if (code) return code;
    }
    return EXIT_OK;
}

/* What the file and the flags may replace. */
static int set_default(tailnet *t, const char *option, char *value)
{
    int code = value ? set(t, option, option, value) : EXIT_FAILED;
    free(value);
    return code;
}

/* The file comes first, wherever its flag stands, so that the other flags win. */
static int read_config(tailnet *t, int argc, char **argv)
{
    static const char name[] = "--config";
    for (int i = 1; i < argc; i++) {
        bool joined = strncmp(argv[i], "--config=", sizeof name) == 0;
        if (!joined && (strcmp(argv[i], name) != 0 || i + 1 == argc)) continue;
        return set(t, name, "config", joined ? argv[i] + sizeof name : argv[i + 1]);
    }
    return EXIT_OK;
}

static int configure(tailnet *t, int argc, char **argv)
{
    bool said[NFLAGS] = {false};
    int code = set_default(t, "state_dir", cmd_default_state());
    if (!code) code = set_default(t, "socket", cmd_default_socket());
    if (!code) code = read_config(t, argc, argv);
    int parsed = parse(t, argc, argv, said);
    int from_env = fill_in(t, said); /* both also after an error: secrets are to be overwritten */
    const char *unmapped = getenv("TS_DISABLE_PORTMAPPER");
    if (unmapped && *unmapped && strcmp(unmapped, "0") && strcmp(unmapped, "false") && !said[find_flag("port_mapping")])
        (void)tailnet_set(t, "port_mapping", "false");
    return code ? code : parsed ? parsed : from_env;
}

static void harden(void)
{
    struct rlimit none = {0};
    setrlimit(RLIMIT_CORE, &none);
#ifndef __SANITIZE_ADDRESS__ /* LeakSanitizer looks at us through ptrace, which this forbids */
    prctl(PR_SET_DUMPABLE, 0);
#endif
    struct rlimit fds;
    if (getrlimit(RLIMIT_NOFILE, &fds) == 0 && fds.rlim_cur < fds.rlim_max) { /* a flow is a descriptor */
        fds.rlim_cur = fds.rlim_max;
        setrlimit(RLIMIT_NOFILE, &fds);
    }
}

static int64_t cpu_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Until SIGTERM or SIGINT, or until the server refuses a node that has not joined yet: nothing would change that but
 * another key. SIGHUP, a lost terminal too, has it read its settings anew. When the node has gone quiet after work (joining is work
 * too), memory that only the work needed is given back. */
static int wait_for_end(tailnet *t, const sigset_t *ends)
{
    enum { QUIET_MS = 20, WORKED_MS = 20, BUSY_STEP_S = 2, QUIET_STEP_S = 30 };
    int64_t trimmed_at = -WORKED_MS, last = 0; /* CPU time */
    for (bool joined = false, trimmed = false;;) {
        struct timespec step = {.tv_sec = trimmed ? QUIET_STEP_S : BUSY_STEP_S};
        int sig = sigtimedwait(ends, NULL, &step);
        if (sig == SIGTERM || sig == SIGINT) return EXIT_OK;
        if (sig == SIGHUP) (void)tailnet_reload(t); /* what is wrong is in the log, and exit traffic off */
        int64_t now = cpu_ms();
        int up = joined ? 0 : tailnet_up(t, 0);
        if (up == TAILNET_EPROTO) return EXIT_FAILED;
        joined = up == 0;
        if (joined && now - last < QUIET_MS && now - trimmed_at >= WORKED_MS) {
            tn_trim_memory();
            trimmed = true;
            trimmed_at = cpu_ms();
        }
        last = now;
    }
}

/* What the library says of an option, in the words of the command line, with what to do. */
static void complain_of_failure(tailnet *t, int err)
{
    char why[256];
    tailnet_error(t, why, sizeof why);
    bool place = err == -EACCES || err == -EROFS || err == -ENOTDIR || err == -EBUSY;
    const char *hint = place ? " (--state DIR and --socket PATH name other places)" : "";
    for (int i = 0; i < NFLAGS; i++) {
        size_t len = strlen(flags[i].option);
        if (strncmp(why, flags[i].option, len) != 0 || (why[len] != ':' && why[len] != ' ')) continue;
        cmd_complain("--%s%s%s", flags[i].name, why + len, strcmp(flags[i].option, "socket") == 0 ? hint : "");
        return;
    }
    cmd_complain("%s%s", why, strncmp(why, "UDP port", 8) == 0 ? " (--port N names another)" : hint);
}

int cmd_run(int argc, char **argv)
{
    tailnet *t;
    sigset_t ends;
    harden();
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    sigaddset(&ends, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &ends, NULL); /* taken by sigwait below, whenever they come */
    int err = tailnet_new(&t);
    if (err) {
        cmd_complain("%s", tailnet_strerror(err));
        return EXIT_FAILED;
    }
    tailnet_set_log(t, write_log, NULL);
    int code = configure(t, argc, argv);
    if (!code) {
        err = tailnet_start(t);
        code = err ? EXIT_FAILED : wait_for_end(t, &ends);
        if (code) complain_of_failure(t, err);
    }
    tailnet_close(t);
    return code;
}
