/* tailnet: one binary for a node, its status, and a tailnet in a box. */
#include "cmd.h"
#include "tailnet.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char usage[] =
    "usage: tailnet COMMAND [FLAGS]\n"
    "\n"
    "  run       be a node of a tailnet, in the foreground\n"
    "  status    show the running node and its peers\n"
    "  ping      ask whether, how and how fast a peer answers\n"
    "  dev       a tailnet in a box for trying out: control server, DERP, STUN\n"
    "  version   print the version\n"
    "\n"
    "tailnet COMMAND --help tells a command's flags.\n";

void cmd_complain(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fputs("tailnet: ", stderr);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv);
    } commands[] = {{"run", cmd_run}, {"status", cmd_status}, {"ping", cmd_ping}, {"dev", cmd_dev}};
    if (argc < 2) {
        fputs(usage, stderr);
        return EXIT_USAGE;
    }
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(argv[1], commands[i].name) == 0) return commands[i].run(argc - 1, argv + 1);
    if (!strcmp(argv[1], "version") || !strcmp(argv[1], "--version")) {
        puts(tailnet_version());
        return EXIT_OK;
    }
    if (!strcmp(argv[1], "help") || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
        fputs(usage, stdout);
        return EXIT_OK;
    }
    cmd_complain("%.60s: no such command (tailnet help lists them)", argv[1]);
    return EXIT_USAGE;
}
