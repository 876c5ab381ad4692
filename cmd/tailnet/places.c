#include "cmd.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char *joined(const char *dir, const char *rest)
{
    char *path;
    return asprintf(&path, "%s%s", dir, rest) < 0 ? NULL : path;
}

char *cmd_default_state(void)
{
    const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    if (geteuid() == 0) return joined("/var/lib", "/tailnet");
    if (xdg && *xdg) return joined(xdg, "/tailnet");
    return joined(home && *home ? home : ".", "/.local/state/tailnet");
}

char *cmd_default_socket(void)
{
    const char *xdg = getenv("XDG_RUNTIME_DIR");
    if (geteuid() == 0) return joined("/run", "/tailnet/tailnet.sock");
    if (xdg && *xdg) return joined(xdg, "/tailnet/tailnet.sock");
    char *state = cmd_default_state();
    char *path = state ? joined(state, "/tailnet.sock") : NULL;
    free(state);
    return path;
}
