/* tailnet dev: the tailnet in a box, whose flags and words are its own (dev/). */
#include "cmd.h"
#include "../../dev/dev.h"

#include <getopt.h>

int cmd_dev(int argc, char **argv)
{
    char name[] = "tailnet dev";
    argv[0] = name; /* how getopt begins its complaints, which this command leaves to it */
    opterr = 1;
    return tn_dev_command(argc, argv);
}
