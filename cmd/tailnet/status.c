/* tailnet status: the node and its peers, for people; --json for programs. */
#include "cmd.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: tailnet status [FLAGS]\n"
    "\n"
    "Shows the running node, its peers, its exit traffic and what is unwell: of each node its address, name, owner,\n"
    "system and path (\"relay\" is a DERP region).\n"
    "\n"
    "  --json                   the whole status as JSON, with the names that tailscale status --json has\n"
    "  --socket PATH            the node's LocalAPI socket (default /run/tailnet/tailnet.sock for root, else\n"
    "                           $XDG_RUNTIME_DIR/tailnet/tailnet.sock, or tailnet.sock in the state directory)\n";

static const char *str(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static void print_node(const json_t *node, const json_t *users, bool self)
{
    char user_id[32], name[128];
    const char *ip = json_string_value(json_array_get(json_object_get(node, "TailscaleIPs"), 0));
    const char *dns = str(node, "DNSName");
    snprintf(user_id, sizeof user_id, "%lld", (long long)json_integer_value(json_object_get(node, "UserID")));
    snprintf(name, sizeof name, "%.*s", (int)strcspn(dns, "."), dns);
    const char *login = str(json_object_get(users, user_id), "LoginName");
    const char *state = "-";
    char path[160];
    if (!self && !json_is_true(json_object_get(node, "Online"))) state = "offline";
    else if (!self && json_is_true(json_object_get(node, "Active"))) {
        if (*str(node, "CurAddr")) snprintf(path, sizeof path, "active; direct %s", str(node, "CurAddr"));
        else snprintf(path, sizeof path, "active; relay \"%s\"", str(node, "Relay"));
        state = path;
    }
    const char *exit_note = json_is_true(json_object_get(node, "ExitNode"))         ? "; exit node in use"
                            : json_is_true(json_object_get(node, "ExitNodeOption")) ? "; offers exit node"
                                                                                    : "";
    printf("%-15s  %-20s %-16s %-8s %s%s\n", ip ? ip : "-", *name ? name : str(node, "HostName"),
           *login ? login : "-", str(node, "OS"), state, exit_note);
}

static void print_egress(const json_t *e)
{
    if (!json_is_true(json_object_get(e, "Advertised"))) return;
    printf("\nexit node: advertised; egress %s\n", str(e, "Description"));
    if (*str(e, "Missing")) printf("exit node: refuses all traffic; missing: %s\n", str(e, "Missing"));
    if (*str(e, "ProxyProblem")) printf("exit node: unhealthy: %s\n", str(e, "ProxyProblem"));
    printf("exit node: %lld flows, %lld dialing, %lld refused\n",
           (long long)json_integer_value(json_object_get(e, "Flows")),
           (long long)json_integer_value(json_object_get(e, "Dialing")),
           (long long)json_integer_value(json_object_get(e, "Refused")));
}

static void print_status(const json_t *root)
{
    const char *state = str(root, "BackendState"), *key;
    json_t *peer;
    size_t i;
    if (strcmp(state, "Running") != 0) {
        printf("state: %s\n", state);
        if (*str(root, "AuthURL")) printf("to log in, visit: %s\n", str(root, "AuthURL"));
    }
    const json_t *users = json_object_get(root, "User");
    if (json_array_size(json_object_get(json_object_get(root, "Self"), "TailscaleIPs")) > 0)
        print_node(json_object_get(root, "Self"), users, true);
    json_object_foreach(json_object_get(root, "Peer"), key, peer) print_node(peer, users, false);
    print_egress(json_object_get(root, "Egress"));
    json_array_foreach(json_object_get(root, "Health"), i, peer) printf("%shealth: %s\n", i == 0 ? "\n" : "",
                                                                         json_string_value(peer));
}

int cmd_status(int argc, char **argv)
{
    enum { OPT_JSON = CMD_LONG, OPT_SOCKET, OPT_HELP };
    static const struct option longs[] = {
        {"json", no_argument, NULL, OPT_JSON},
        {"socket", required_argument, NULL, OPT_SOCKET},
        {"help", no_argument, NULL, OPT_HELP},
        {0}};
    bool json = false;
    const char *socket_arg = NULL;
    for (int c; (c = getopt_long(argc, argv, ":h", longs, NULL)) != -1;) {
        if (c == OPT_JSON) {
            json = true;
        } else if (c == OPT_SOCKET) {
            socket_arg = optarg;
        } else if (c == OPT_HELP || c == 'h') {
            fputs(usage, stdout);
            return EXIT_OK;
        } else {
            return cmd_bad_flag("status", argv, c);
        }
    }
    if (optind < argc) return cmd_bad_word("status", argv[optind]);
    char *socket_path = socket_arg ? strdup(socket_arg) : cmd_default_socket();
    json_t *root = socket_path ? cmd_local_status(socket_path) : NULL;
    free(socket_path);
    if (!root) return EXIT_FAILED;
    if (json) {
        json_dumpf(root, stdout, JSON_INDENT(2));
        putchar('\n');
    } else {
        print_status(root);
    }
    json_decref(root);
    return EXIT_OK;
}
