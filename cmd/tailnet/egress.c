/* tailnet egress: what becomes of exit clients' traffic: status, check, rotate, reload. */
#include "cmd.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: tailnet egress COMMAND [FLAGS]\n"
    "\n"
    "  status                   the policy, and each proxy with its state and figures\n"
    "  check                    what address the world sees, by each proxy; exit status 1 when it is this host's own,\n"
    "                           when traffic leaves directly or not at all\n"
    "  rotate [PEER]            new sessions at the proxies ({peer}, {user}, {epoch}) for this peer, or for all\n"
    "  reload                   read the configuration file and proxy secrets anew (as SIGHUP does)\n"
    "\n"
    "  --json                   status, check: as JSON\n"
    "  --url URL                check: the page that tells a caller's address (default: exit_check's, or\n"
    "                           https://1.1.1.1/cdn-cgi/trace); http:// or https:// and an IP address\n"
    "  --cut                    reload: end flows whose way is gone, instead of keeping them\n"
    "  --socket PATH            the node's LocalAPI socket\n";

struct args {
    const char *socket, *url, *peer;
    bool json, cut;
};

static const char *str(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static long long num(const json_t *o, const char *key) { return (long long)json_integer_value(json_object_get(o, key)); }

/* "/localapi/v0/path?key=value", percent-encoded. */
static char *target(const char *path, const char *key, const char *value)
{
    size_t cap = sizeof "/localapi/v0/" + strlen(path) + strlen(key) + 3 * strlen(value) + 4;
    char *out = malloc(cap);
    if (!out) return NULL;
    size_t n = (size_t)snprintf(out, cap, "/localapi/v0/%s%s%s%s", path, *value ? "?" : "", *value ? key : "", *value ? "=" : "");
    for (const unsigned char *c = (const unsigned char *)value; *c; c++) n += (size_t)snprintf(out + n, cap - n, "%%%02x", *c);
    return out;
}

/* The answer as JSON, or NULL after a complaint. */
static json_t *ask(const struct args *a, const char *method, const char *path, const char *key, const char *value, int timeout_ms)
{
    char *fallback = a->socket ? NULL : cmd_default_socket(), *body = NULL, *where = target(path, key, value);
    int status;
    json_t *o = NULL;
    if (where && cmd_local_request(a->socket ? a->socket : fallback, method, where, timeout_ms, &status, &body) == 0) {
        if (status == 200) o = json_loads(body, 0, NULL);
        if (!o) cmd_complain("%.300s", status == 200 ? "the node's answer is not JSON" : body);
    }
    free(where);
    free(fallback);
    free(body);
    return o;
}

static int print_json(json_t *o, int code)
{
    json_dumpf(o, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(o);
    return code;
}

/* Of the check that the node does by itself, or the last of an operator. */
static void print_last_check(const json_t *check)
{
    const json_t *r;
    size_t i, good = 0;
    if (!check) return;
    json_array_foreach(json_object_get(check, "Results"), i, r) good += !strcmp(str(r, "Verdict"), "proxied");
    printf("last check: %s, %zu of %zu proxies show another address than this host's\n", str(check, "At"), good, i);
    json_array_foreach(json_object_get(check, "Results"), i, r)
        if (strcmp(str(r, "Verdict"), "proxied") != 0) printf("  %s: %s\n", str(r, "Proxy"), str(r, "Verdict"));
}

static int do_status(const struct args *a)
{
    json_t *o = ask(a, "GET", "egress", "", "", 10000);
    if (!o) return EXIT_FAILED;
    if (a->json) return print_json(o, EXIT_OK);
    printf("egress %s\n", str(o, "Description"));
    if (!json_is_true(json_object_get(o, "Advertised"))) puts("this node is no exit node (--advertise-exit-node)");
    if (*str(o, "ConfigFile")) printf("settings: %s\n", str(o, "ConfigFile"));
    if (*str(o, "Defect")) printf("wrong: %s\n", str(o, "Defect"));
    if (*str(o, "Missing")) printf("missing: %s\n", str(o, "Missing"));
    if (json_is_true(json_object_get(o, "Withdrawn"))) puts("withdrawn: not offered as an exit node, as nothing works");
    print_last_check(json_object_get(o, "Check"));
    const json_t *proxies = json_object_get(o, "Proxies"), *p;
    size_t i;
    if (json_array_size(proxies))
        printf("\n%-16s %-8s %-6s %6s %8s %10s %10s %8s  %s\n", "PROXY", "STATE", "WEIGHT", "FLOWS", "OPENED", "UP", "DOWN", "DIAL",
               "WHERE");
    json_array_foreach(proxies, i, p)
    {
        printf("%-16s %-8s %-6lld %6lld %8lld %9.1fM %9.1fM %6.0fms  %s%s%s\n", str(p, "Name"), str(p, "State"), num(p, "Weight"),
               num(p, "Flows"), num(p, "Opened"), (double)num(p, "BytesUp") / 1e6, (double)num(p, "BytesDown") / 1e6,
               json_real_value(json_object_get(p, "MeanDialMilliseconds")), str(p, "URL"), *str(p, "Problem") ? "; " : "",
               str(p, "Problem"));
    }
    const char *reason;
    const json_t *count;
    json_object_foreach(json_object_get(o, "Failed"), reason, count)
        printf("%s%lld %s", i++ == json_array_size(proxies) ? "\nrefused: " : ", ", (long long)json_integer_value(count), reason);
    if (json_object_size(json_object_get(o, "Failed"))) putchar('\n');
    json_decref(o);
    return EXIT_OK;
}

static int do_check(const struct args *a)
{
    json_t *o = ask(a, "POST", "egress-check", "url", a->url ? a->url : "", 60000);
    if (!o) return EXIT_FAILED;
    bool ok = json_is_true(json_object_get(o, "OK"));
    if (a->json) return print_json(o, ok ? EXIT_OK : EXIT_FAILED);
    const json_t *own = json_object_get(o, "Own"), *results = json_object_get(o, "Results"), *r;
    size_t i;
    json_array_foreach(own, i, r) printf("%s%s", i ? ", " : "this host: ", json_string_value(r));
    if (json_array_size(own)) putchar('\n');
    else puts("this host: its own addresses are not known");
    json_array_foreach(results, i, r)
        printf("%-16s %-39s %6lld ms  %s\n", *str(r, "Proxy") ? str(r, "Proxy") : "(host)", str(r, "Address"), num(r, "Milliseconds"),
               str(r, "Verdict"));
    if (!strcmp(str(o, "Mode"), "off")) puts("egress is off: nothing leaves");
    puts(ok ? "ok: exit traffic leaves by proxies only" : "NOT ok");
    json_decref(o);
    return ok ? EXIT_OK : EXIT_FAILED;
}

static int do_post(const struct args *a, const char *path, const char *key, const char *value)
{
    json_t *o = ask(a, "POST", path, key, value, 10000);
    json_decref(o);
    return o ? EXIT_OK : EXIT_FAILED;
}

static int parse(int argc, char **argv, struct args *a)
{
    enum { SOCKET = CMD_LONG, URL, JSON, CUT, HELP };
    static const struct option longs[] = {{"socket", required_argument, NULL, SOCKET}, {"url", required_argument, NULL, URL},
                                          {"json", no_argument, NULL, JSON},           {"cut", no_argument, NULL, CUT},
                                          {"help", no_argument, NULL, HELP},           {0}};
    for (int c; (c = getopt_long(argc, argv, ":h", longs, NULL)) != -1;) {
        switch (c) {
        case SOCKET: a->socket = optarg; break;
        case URL: a->url = optarg; break;
        case JSON: a->json = true; break;
        case CUT: a->cut = true; break;
        case 'h':
        case HELP: fputs(usage, stdout); exit(EXIT_OK);
        default: return cmd_bad_flag("egress", argv, c);
        }
    }
    return EXIT_OK;
}

int cmd_egress(int argc, char **argv)
{
    struct args a = {0};
    int code = parse(argc, argv, &a);
    if (code) return code;
    const char *verb = optind < argc ? argv[optind++] : "";
    bool rotate = !strcmp(verb, "rotate");
    if (rotate && optind < argc) a.peer = argv[optind++];
    if (optind < argc) return cmd_bad_word("egress", argv[optind]);
    if (!strcmp(verb, "status")) return do_status(&a);
    if (!strcmp(verb, "check")) return do_check(&a);
    if (rotate) return do_post(&a, "egress-rotate", "peer", a.peer ? a.peer : "");
    if (!strcmp(verb, "reload")) return do_post(&a, "egress-reload", "cut", a.cut ? "true" : "");
    if (*verb) return cmd_bad_word("egress", verb);
    fputs(usage, stderr);
    return EXIT_USAGE;
}
