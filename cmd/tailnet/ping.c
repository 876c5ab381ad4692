/* tailnet ping: ask a peer's node, by disco (the path), TSMP (through WireGuard) or ICMP. */
#include "cmd.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

static const char usage[] = "usage: tailnet ping [--tsmp|--icmp] [-c COUNT] [--socket PATH] NAME|IP\n"
                            "\n"
                            "Stops at the first answer over a direct path, or after COUNT (10) tries.\n";

static bool names(const json_t *node, const char *host)
{
    const char *dns = json_string_value(json_object_get(node, "DNSName"));
    size_t len = strlen(host), full = dns ? strlen(dns) : 0;
    if (!dns) return false;
    if (full && dns[full - 1] == '.') full--;
    return (len == full && !strncasecmp(dns, host, len)) || (len == strcspn(dns, ".") && !strncasecmp(dns, host, len));
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
        json_array_foreach(json_object_get(peer, "TailscaleIPs"), i, addr) match |= !strcmp(json_string_value(addr), host);
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

int cmd_ping(int argc, char **argv)
{
    static const struct option longs[] = {{"tsmp", no_argument, NULL, 't'},
                                          {"icmp", no_argument, NULL, 'i'},
                                          {"count", required_argument, NULL, 'c'},
                                          {"socket", required_argument, NULL, 's'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
    const char *type = "disco", *socket_arg = NULL;
    long count = 10;
    for (int c; (c = getopt_long(argc, argv, "hc:", longs, NULL)) != -1;) {
        if (c == 't') type = "TSMP";
        else if (c == 'i') type = "ICMP";
        else if (c == 's') socket_arg = optarg;
        else if (c == 'c') count = strtol(optarg, NULL, 10);
        else {
            fputs(usage, c == 'h' ? stdout : stderr);
            return c == 'h' ? EXIT_OK : EXIT_USAGE;
        }
    }
    if (optind != argc - 1 || count < 1 || count > 1000000) {
        fputs(usage, stderr);
        return EXIT_USAGE;
    }
    char *path = socket_arg ? strdup(socket_arg) : cmd_default_socket();
    int code = path ? ping_many(path, type, argv[optind], count) : EXIT_FAILED;
    free(path);
    return code;
}
