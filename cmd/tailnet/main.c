/* tailnet: one binary for a node, its status, and a tailnet in a box. */
#include "cmd.h"
#include "tailnet.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char usage[] =
    "usage: tailnet COMMAND [FLAGS]\n"
    "\n"
    "  run       be a node of a tailnet, in the foreground\n"
    "  status    show the running node and its peers\n"
    "  set       change a running exit node's egress\n"
    "  egress    see, check, rotate and reload how exit traffic leaves\n"
    "  ping      ask whether, how and how fast a peer answers\n"
    "  netcheck  what the node's network lets through, and how far the relays are\n"
    "  dev       a tailnet in a box for trying out: control server, DERP, STUN\n"
    "  version   print the version\n"
    "  help      print this, or what tailnet COMMAND --help prints\n"
    "\n"
    "tailnet help COMMAND tells a command's flags. Exit status: 0 fine, 1 it failed, 2 the command line is wrong.\n";

struct command {
    const char *name;
    int (*run)(int argc, char **argv);
};

static const struct command commands[] = {
    {"run", cmd_run}, {"status", cmd_status}, {"ping", cmd_ping}, {"dev", cmd_dev},
    {"netcheck", cmd_netcheck}, {"set", cmd_set}, {"egress", cmd_egress}};

void cmd_complain(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fputs("tailnet: ", stderr);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
}

int cmd_bad_flag(const char *command, char *const *argv, int c)
{
    /* Only the flag part of a word is repeated: after a mistyped flag its value may be a secret. A letter is named
     * from optopt, since optind stays before a cluster of letters. */
    char letter[3] = {'-', (char)optopt, '\0'};
    const char *word = c == '?' && optopt > 0 && optopt < CMD_LONG ? letter : argv[optind - 1];
    const char *what = c == ':' ? "needs a value" : optopt >= CMD_LONG ? "takes no value" : "no such flag";
    cmd_complain("%.*s: %s (tailnet %s --help)", (int)strcspn(word, "="), word, what, command);
    return EXIT_USAGE;
}

int cmd_bad_word(const char *command, const char *word)
{
    enum { WHOLE_MAX = 60, HEAD = 3 };
    bool whole = strcmp(command, "run") != 0; /* there it may be an auth key or a password that lost its flag */
    cmd_complain("%.*s%s: not expected (tailnet %s --help)", whole ? WHOLE_MAX : HEAD, word, whole ? "" : "...",
                 command);
    return EXIT_USAGE;
}

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(name, commands[i].name) == 0) return &commands[i];
    return NULL;
}

static int no_such_command(const char *name)
{
    int len = name[0] != '-' ? 60 : name[1] != '-' ? 2 : (int)strcspn(name, "="); /* a flag's value may be a secret */
    cmd_complain("%.*s: no such command (tailnet help lists them)", len, name);
    return EXIT_USAGE;
}

static int help(int argc, char **argv)
{
    char flag[] = "--help";
    if (argc < 2) {
        fputs(usage, stdout);
        return EXIT_OK;
    }
    const struct command *c = find_command(argv[1]);
    return c ? c->run(2, (char *[]){argv[1], flag, NULL}) : no_such_command(argv[1]);
}

int main(int argc, char **argv)
{
    opterr = 0; /* cmd_bad_flag says it, in one form for all */
    if (argc < 2) {
        fputs(usage, stderr);
        return EXIT_USAGE;
    }
    const struct command *c = find_command(argv[1]);
    if (c) return c->run(argc - 1, argv + 1);
    bool asks = !strcmp(argv[1], "help") || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h");
    if (asks) return help(argc - 1, argv + 1);
    if (strcmp(argv[1], "version") && strcmp(argv[1], "--version")) return no_such_command(argv[1]);
    puts(tailnet_version());
    return EXIT_OK;
}
