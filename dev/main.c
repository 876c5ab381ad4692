/* "tailnet dev" alone, for tests of this room. */
#include "dev/dev.h"

int main(int argc, char **argv) { return tn_dev_command(argc, argv); }
