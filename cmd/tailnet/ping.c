/* tailnet ping: ask a peer's node, by disco (the path), TSMP (through WireGuard) or ICMP. */
#include "cmd.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

static const char usage[] =
    "usage: tailnet ping [FLAGS] NAME|IP\n"
    "\n"
    "Asks a peer's node and prints the path and the time of each answer. Stops at the first answer over a direct\n"
    "path, or after COUNT tries. The exit status is 0 if any was answered.\n"
    "\n"
    "  --tsmp                   ask through WireGuard, the peer's node answers (default: disco, beside WireGuard)\n"
    "  --icmp                   ask through WireGuard, the peer's IP stack answers\n"
    "  -c, --count N            how many tries, 1 to 1000000 (default 10), one a second\n"
    "  --socket PATH            the node's LocalAPI socket (default: as for tailnet status)\n";

enum { COUNT_DEFAULT = 10, COUNT_MAX = 1000000 };

static bool names(const json_t *node, const char *host)
{
    const char *dns = json_string_value(json_object_get(node, "DNSName"));
    size_t len = strlen(host), full = dns ? strlen(dns) : 0;
    if (!dns) return false;
    if (full && dns[full - 1] == '.') full--;
    return (len == full || len == strcspn(dns, ".")) && !strncasecmp(dns, host, len);
}

/* The peer by name or address: its first address and its name. */
static bool find_peer(const json_t *status, const char *host, char ip[64], char name[128])
{
    const char *key;
    json_t *peer, *addr;
    size_t i;
    json_object_foreach(json_object_get(status, "Peer"), key, peer)
    {
        bool match = names(peer, host);
        json_array_foreach(json_object_get(peer, "TailscaleIPs"), i, addr)
            match |= json_is_string(addr) && !strcmp(json_string_value(addr), host);
        if (!match) continue;
        const char *first = json_string_value(json_array_get(json_object_get(peer, "TailscaleIPs"), 0));
        const char *dns = json_string_value(json_object_get(peer, "DNSName"));
        snprintf(ip, 64, "%s", strchr(host, ':') || !first ? host : first);
        snprintf(name, 128, "%.*s", dns ? (int)strcspn(dns, ".") : 0, dns ? dns : "");
        return true;
    }
    return false;
}

/* 1: answered over a direct path, 0: answered, -1: not answered. */
static int ping_once(const char *socket_path, const char *type, const char *ip, const char *name)
{
    char target[256];
    char *body;
    int status;
    snprintf(target, sizeof target, "/localapi/v0/ping?ip=%s&type=%s", ip, type);
    if (cmd_local_request(socket_path, "POST", target, 10000, &status, &body) != 0) return -1;
    json_t *r = json_loads(body, 0, NULL);
    const char *err = json_string_value(json_object_get(r, "Err"));
    const char *endpoint = json_string_value(json_object_get(r, "Endpoint"));
    const char *region = json_string_value(json_object_get(r, "DERPRegionCode"));
    double ms = json_number_value(json_object_get(r, "LatencySeconds")) * 1000;
    int result = -1;
    if (status != 200 || !r) printf("ping: %.*s\n", (int)strcspn(body, "\n"), body);
    else if (err && *err) printf("ping: %s\n", err);
    else if (endpoint && *endpoint) {
        printf("pong from %s (%s) via %s in %.1f ms\n", name, ip, endpoint, ms);
        result = 1;
    } else {
        printf("pong from %s (%s) via %s in %.1f ms\n", name, ip, region && *region ? region : type, ms);
        result = 0;
    }
    fflush(stdout);
    json_decref(r);
    free(body);
    return result;
}

static int ping_many(const char *socket_path, const char *type, const char *host, long count)
{
    char ip[64], name[128];
    json_t *status = cmd_local_status(socket_path);
    if (!status) return EXIT_FAILED;
    bool found = find_peer(status, host, ip, name);
    json_decref(status);
    if (!found) {
        cmd_complain("%.100s: no such peer", host);
        return EXIT_FAILED;
    }
    int answered = 0;
    for (long i = 0; i < count; i++) {
        if (i > 0) sleep(1);
        int result = ping_once(socket_path, type, ip, name);
        answered += result >= 0;
        if (result == 1) break;
    }
    return answered ? EXIT_OK : EXIT_FAILED;
}

/* 0 when the text is not a count. */
static long parse_count(const char *text)
{
    char *end;
    errno = 0;
    long n = strtol(text, &end, 10);
    return errno || end == text || *end || n < 1 || n > COUNT_MAX ? 0 : n;
}

int cmd_ping(int argc, char **argv)
{
    enum { OPT_TSMP = CMD_LONG, OPT_ICMP, OPT_COUNT, OPT_SOCKET, OPT_HELP };
    static const struct option longs[] = {{"tsmp", no_argument, NULL, OPT_TSMP},
                                          {"icmp", no_argument, NULL, OPT_ICMP},
                                          {"count", required_argument, NULL, OPT_COUNT},
                                          {"socket", required_argument, NULL, OPT_SOCKET},
                                          {"help", no_argument, NULL, OPT_HELP},
                                          {0}};
    const char *type = "disco", *socket_arg = NULL;
    long count = COUNT_DEFAULT;
    for (int c; (c = getopt_long(argc, argv, ":hc:", longs, NULL)) != -1;) {
        if (c == OPT_TSMP) type = "TSMP";
        else if (c == OPT_ICMP) type = "ICMP";
        else if (c == OPT_SOCKET) socket_arg = optarg;
        else if (c == OPT_COUNT || c == 'c') count = parse_count(optarg);
        else if (c != OPT_HELP && c != 'h') return cmd_bad_flag("ping", argv, c);
        else {
            fputs(usage, stdout);
            return EXIT_OK;
        }
    }
    if (count < 1) {
        cmd_complain("--count: expected 1 to %d", COUNT_MAX);
        return EXIT_USAGE;
    }
    if (optind == argc) {
        cmd_complain("whom? a peer's NAME or IP is needed (tailnet ping --help)");
        return EXIT_USAGE;
    }
    if (optind < argc - 1) return cmd_bad_word("ping", argv[optind + 1]);
    char *path = socket_arg ? strdup(socket_arg) : cmd_default_socket();
    int code = path ? ping_many(path, type, argv[optind], count) : EXIT_FAILED;
    free(path);
    return code;
}
