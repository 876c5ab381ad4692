/* tailnet status: the node and its peers, for people; --json for programs. */
#include "cmd.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] = "usage: tailnet status [--json] [--socket PATH]\n";

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
    printf("%-15s  %-20s %-16s %-8s %s%s\n", ip ? ip : "-", *name ? name : str(node, "HostName"), *login ? login : "-",
           str(node, "OS"), state, exit_note);
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
    static const struct option longs[] = {
        {"json", no_argument, NULL, 'j'}, {"socket", required_argument, NULL, 's'}, {"help", no_argument, NULL, 'h'}, {0}};
    bool json = false;
    char *socket_path = cmd_default_socket();
    for (int c; (c = getopt_long(argc, argv, "h", longs, NULL)) != -1;) {
        if (c == 'j') {
            json = true;
        } else if (c == 's') {
            free(socket_path);
            socket_path = strdup(optarg);
        } else {
            fputs(usage, c == 'h' ? stdout : stderr);
            free(socket_path);
            return c == 'h' ? EXIT_OK : EXIT_USAGE;
        }
    }
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
