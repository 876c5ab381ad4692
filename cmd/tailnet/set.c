/* tailnet set: changes of a running exit node or subnet router, in force at once.
 *
 * The proxy URL is blotted out of argv, and goes over the LocalAPI's Unix socket only. */
#include "cmd.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: tailnet set FLAGS\n"
    "\n"
    "Changes what a running node carries and how an exit node lets traffic out; flows under way stay as long as their\n"
    "destination is carried. Until the next start, where the flags of tailnet run say it again. A node with a\n"
    "configuration file is changed there (tailnet egress reload).\n"
    "\n"
    "  --exit-proxy URL|file:PATH  through this proxy, or pool of proxies between blanks, and never otherwise\n"
    "  --exit-egress off|host|proxy\n"
    "  --exit-names[=false]     tell the proxy names instead of addresses, where they are known\n"
    "  --exit-proxy-udp[=false] carry UDP by SOCKS5 UDP ASSOCIATE\n"
    "  --exit-dns URL[,URL]     whom names of exit clients are asked of\n"
    "  --exit-dns-aaaa auto|true|false\n"
    "  --advertise-routes LIST  subnets to carry, instead of those of before (\"\": none)\n"
    "  --advertise-exit-node[=false]\n"
    "  --exit-check true|false|URL  the check of what the world sees, which the node does by itself\n"
    "  --exit-withdraw[=false]  tell control that this is no exit node while no proxy works\n"
    "  --cut                    end flows whose way is gone, instead of keeping them\n"
    "  --socket PATH            the node's LocalAPI socket\n"
    "\n"
    "All of it is done, or nothing. A proxy or an egress that is not valid turns exit traffic off, and is told.\n";

static void blot(char *s)
{
    volatile char *p = s; /* visible to other processes: the compiler must not drop it */
    while (*p) *p++ = 'x';
}

static int send_patch(const char *socket, json_t *patch)
{
    char *text = json_dumps(patch, JSON_COMPACT), *body = NULL;
    int status = 0, err = text ? cmd_local_send(socket, "PATCH", "/localapi/v0/egress", text, 10000, &status, &body) : -1;
    if (!err && status != 200) cmd_complain("%.*s", (int)strcspn(body, "\n"), body);
    free(text);
    free(body);
    return !err && status == 200 ? EXIT_OK : EXIT_FAILED;
}

enum { CUT = CMD_LONG, SOCKET, HELP, FIRST };
static const struct option longs[] = {{"cut", no_argument, NULL, CUT},
                                      {"socket", required_argument, NULL, SOCKET},
                                      {"help", no_argument, NULL, HELP},
                                      {"exit-proxy", required_argument, NULL, FIRST},
                                      {"exit-egress", required_argument, NULL, FIRST + 1},
                                      {"exit-names", optional_argument, NULL, FIRST + 2},
                                      {"exit-proxy-udp", optional_argument, NULL, FIRST + 3},
                                      {"exit-dns", required_argument, NULL, FIRST + 4},
                                      {"exit-dns-aaaa", required_argument, NULL, FIRST + 5},
                                      {"advertise-routes", required_argument, NULL, FIRST + 6},
                                      {"advertise-exit-node", optional_argument, NULL, FIRST + 7},
                                      {"exit-check", required_argument, NULL, FIRST + 8},
                                      {"exit-withdraw", optional_argument, NULL, FIRST + 9},
                                      {0}};
static const char *const keys[] = {"ExitProxy",   "ExitEgress",      "ExitNames",         "ExitProxyUDP", "ExitDNS",
                                   "ExitDNSAAAA", "AdvertiseRoutes", "AdvertiseExitNode", "ExitCheck",    "ExitWithdraw"}; /* from FIRST */

/* One change into the patch; NULL, or what is wrong with it. */
static const char *take(json_t *patch, int c, char *value)
{
    const struct option *flag = &longs[c - FIRST + 3];
    json_t *v = json_string(value ? value : "");
    if (flag->has_arg == optional_argument) {
        bool on = !value || !strcmp(value, "true");
        json_decref(v);
        if (!on && strcmp(value, "false") != 0) return "expected true or false";
        v = json_boolean(on);
    } else if (c == FIRST) {
        blot(value);
    }
    return json_object_set_new(patch, keys[c - FIRST], v) == 0 ? NULL : "not UTF-8";
}

int cmd_set(int argc, char **argv)
{
    const char *socket = NULL, *wrong = NULL; /* wrong: nothing is sent, for half of it may mean something else */
    const char *flag = "";
    json_t *patch = json_object();
    size_t changes = 0;
    for (int c, i = 0; (c = getopt_long(argc, argv, ":h", longs, &i)) != -1;) {
        if (c >= FIRST) {
            const char *why = take(patch, c, optarg);
            if (why) flag = longs[i].name;
            if (why) wrong = why;
            changes++;
            continue;
        }
        switch (c) {
        case CUT: json_object_set_new(patch, "Cut", json_true()); break;
        case SOCKET: socket = optarg; break;
        case 'h':
        case HELP: json_decref(patch); fputs(usage, stdout); return EXIT_OK;
        default: json_decref(patch); return cmd_bad_flag("set", argv, c);
        }
    }
    int code = optind < argc ? cmd_bad_word("run", argv[optind]) : changes && !wrong ? EXIT_OK : EXIT_USAGE;
    if (wrong) cmd_complain("--%s: %s", flag, wrong);
    else if (code == EXIT_USAGE && optind == argc) fputs(usage, stderr);
    if (code == EXIT_OK) {
        char *fallback = socket ? NULL : cmd_default_socket();
        code = send_patch(socket ? socket : fallback, patch);
        free(fallback);
    }
    json_decref(patch);
    return code;
}
