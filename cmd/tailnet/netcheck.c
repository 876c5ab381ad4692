/* tailnet netcheck: what the running node's sockets see of the network. */
#include "cmd.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: tailnet netcheck [FLAGS]\n"
    "\n"
    "Looks at the network from the node's own sockets and prints what it lets through: UDP, IPv6, the addresses\n"
    "that others see, whether the NAT is a hard one (another port for each destination), and the DERP relays by time.\n"
    "\n"
    "  --json                   as JSON, with the names that tailscale netcheck --format=json has\n"
    "  --socket PATH            the node's LocalAPI socket (default: as for tailnet status)\n";

enum { WAIT_MS = 20000 }; /* a look takes 3 s, over HTTPS 5 s more, and may stand in line behind another */

static const char *yes(const json_t *r, const char *key) { return json_is_true(json_object_get(r, key)) ? "yes" : "no"; }

static void print_family(const json_t *r, const char *name, const char *global)
{
    const char *addr = json_string_value(json_object_get(r, global));
    printf("%s: %s%s%s\n", name, yes(r, name), addr && *addr ? ", " : "", addr ? addr : "");
}

static void print_latencies(const json_t *r)
{
    const char *id, *next = NULL;
    json_t *all = json_object_get(r, "RegionLatency"), *codes = json_object_get(r, "RegionCodes"), *ns;
    json_int_t done = -1;
    for (size_t n = json_object_size(all); n > 0; n--) { /* by time; a handful of regions, so the simple way */
        next = NULL;
        json_object_foreach(all, id, ns)
        {
            json_int_t t = json_integer_value(ns) * 1024 + atoi(id) % 1024; /* equal times are told apart */
            if (t > done && (!next || t < json_integer_value(json_object_get(all, next)) * 1024 + atoi(next) % 1024)) next = id;
        }
        if (!next) return;
        json_int_t took = json_integer_value(json_object_get(all, next));
        done = took * 1024 + atoi(next) % 1024;
        const char *code = json_string_value(json_object_get(codes, next));
        printf("  region %s%s%s: %.1f ms%s\n", next, code && *code ? " " : "", code ? code : "", (double)took / 1e6,
               atoi(next) == (int)json_integer_value(json_object_get(r, "PreferredDERP")) ? " (home)" : "");
    }
}

static void print_report(const json_t *r)
{
    const json_t *varies = json_object_get(r, "MappingVariesByDestIP");
    printf("UDP: %s\n", yes(r, "UDP"));
    print_family(r, "IPv4", "GlobalV4");
    print_family(r, "IPv6", "GlobalV6");
    printf("hard NAT: %s\n", json_is_boolean(varies) ? yes(r, "MappingVariesByDestIP") : "unknown");
    const char *mapped = json_string_value(json_object_get(r, "PortMapped"));
    const char *by = json_is_true(json_object_get(r, "PCP"))   ? " by PCP"
                     : json_is_true(json_object_get(r, "PMP")) ? " by NAT-PMP"
                                                               : " by UPnP";
    printf("port mapping: %s%s\n", mapped && *mapped ? mapped : "none", mapped && *mapped ? by : "");
    printf("DERP relays:%s\n", json_object_size(json_object_get(r, "RegionLatency")) ? "" : " none answered");
    print_latencies(r);
}

static int check(const char *socket_path, bool json)
{
    int status;
    char *body;
    if (cmd_local_request(socket_path, "GET", "/localapi/v0/netcheck", WAIT_MS, &status, &body) != 0) return EXIT_FAILED;
    json_t *r = status == 200 ? json_loads(body, 0, NULL) : NULL;
    if (!r) cmd_complain("%.*s", (int)strcspn(body, "\n"), body);
    else if (json) puts(body);
    else print_report(r);
    int code = r ? EXIT_OK : EXIT_FAILED;
    json_decref(r);
    free(body);
    return code;
}

int cmd_netcheck(int argc, char **argv)
{
    enum { OPT_JSON = CMD_LONG, OPT_SOCKET, OPT_HELP };
    static const struct option longs[] = {{"json", no_argument, NULL, OPT_JSON},
                                          {"socket", required_argument, NULL, OPT_SOCKET},
                                          {"help", no_argument, NULL, OPT_HELP},
                                          {0}};
    bool json = false;
    const char *socket_arg = NULL;
    for (int c; (c = getopt_long(argc, argv, ":h", longs, NULL)) != -1;) {
        if (c == OPT_JSON) json = true;
        else if (c == OPT_SOCKET) socket_arg = optarg;
        else if (c != OPT_HELP && c != 'h') return cmd_bad_flag("netcheck", argv, c);
        else {
            fputs(usage, stdout);
            return EXIT_OK;
        }
    }
    if (optind < argc) return cmd_bad_word("netcheck", argv[optind]);
    char *path = socket_arg ? strdup(socket_arg) : cmd_default_socket();
    int code = path ? check(path, json) : EXIT_FAILED;
    free(path);
    return code;
}
