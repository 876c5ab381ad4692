/* tailnet set: changes of a running node's exit egress, in force at once.
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
    "Changes how a running exit node lets traffic out; flows under way stay. Until the next start, where the flags of\n"
    "tailnet run say it again. A node with a configuration file is changed there (tailnet egress reload).\n"
    "\n"
    "  --exit-proxy URL|file:PATH  through this proxy, or pool of proxies between blanks, and never otherwise\n"
    "  --exit-egress off|host|proxy\n"
    "  --exit-names[=false]     tell the proxy names instead of addresses, where they are known\n"
    "  --cut                    end flows whose way is gone, instead of keeping them\n"
    "  --socket PATH            the node's LocalAPI socket\n"
    "\n"
    "What is not valid turns exit traffic off, and is told.\n";

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

int cmd_set(int argc, char **argv)
{
    enum { PROXY = CMD_LONG, EGRESS, NAMES, CUT, SOCKET, HELP };
    static const struct option longs[] = {{"exit-proxy", required_argument, NULL, PROXY},
                                          {"exit-egress", required_argument, NULL, EGRESS},
                                          {"exit-names", optional_argument, NULL, NAMES},
                                          {"cut", no_argument, NULL, CUT},
                                          {"socket", required_argument, NULL, SOCKET},
                                          {"help", no_argument, NULL, HELP},
                                          {0}};
    const char *socket = NULL, *wrong = NULL; /* wrong: nothing is sent, for half of it may mean something else */
    json_t *patch = json_object();
    size_t changes = 0;
    for (int c; (c = getopt_long(argc, argv, ":h", longs, NULL)) != -1;) {
        switch (c) {
        case PROXY:
            if (json_object_set_new(patch, "ExitProxy", json_string(optarg)) != 0) wrong = "--exit-proxy: not UTF-8";
            blot(optarg);
            changes++;
            break;
        case EGRESS:
            if (json_object_set_new(patch, "ExitEgress", json_string(optarg)) != 0) wrong = "--exit-egress: not UTF-8";
            changes++;
            break;
        case NAMES:
            if (optarg && strcmp(optarg, "true") != 0 && strcmp(optarg, "false") != 0)
                wrong = "--exit-names: expected true or false";
            changes += json_object_set_new(patch, "ExitNames", json_boolean(!optarg || !strcmp(optarg, "true"))) == 0;
            break;
        case CUT: json_object_set_new(patch, "Cut", json_true()); break;
        case SOCKET: socket = optarg; break;
        case 'h':
        case HELP: fputs(usage, stdout); return EXIT_OK;
        default: json_decref(patch); return cmd_bad_flag("set", argv, c);
        }
    }
    int code = optind < argc ? cmd_bad_word("run", argv[optind]) : changes && !wrong ? EXIT_OK : EXIT_USAGE;
    if (wrong) cmd_complain("%s", wrong);
    else if (code == EXIT_USAGE && optind == argc) fputs(usage, stderr);
    if (code == EXIT_OK) {
        char *fallback = socket ? NULL : cmd_default_socket();
        code = send_patch(socket ? socket : fallback, patch);
        free(fallback);
    }
    json_decref(patch);
    return code;
}
