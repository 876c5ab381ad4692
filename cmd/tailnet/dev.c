/* tailnet dev: the tailnet in a box, whose flags and words are its own (dev/). */
#include "cmd.h"
#include "../../dev/dev.h"

int cmd_dev(int argc, char **argv) { return tn_dev_command(argc, argv); }
